//! The chain of trust: from a key that the operator trusts down to the zone of an answer (RFC 4035 §5, RFC 4033 §3.1).
//!
//! ```text
//!   .           trusted by the operator      DNSKEY?                the keys of the root
//!   fr          DS? to the root's servers    signed: DNSKEY?        the keys of fr
//!   crepes.fr   DS? to the servers of fr     proved not to be       crepes.fr is not signed, nor is all below
//! ```
//!
//! Where zones begin is not known beforehand, and who answers in an attacker's place would say it wrong. So every name on the way is
//! asked for DS: the zone above answers with signed records, or proves that there are none, and whether a zone begins there.
//!
//! [`Chain`] is pure: it says what it needs, and somebody else fetches it.

use super::{
    cache::{Denial, Set},
    validate::{self, Bogus, Cut, Insecurity, Keys, Signed, Trusted, Work},
};
use crate::{
    name::{Name, NameRef, Suffixes},
    rdata::Type,
    sign,
    zonefile::{self, ZoneFileError},
};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

/// The keys of the root zone, as of 2026 (<https://data.iana.org/root-anchors/root-anchors.xml>): key tags 20326 and 38696.
const IANA: &str = "\
. IN DS 20326 8 2 e06d44b80b8f1d39a95c0b0d7c65d08458e880409bbc683457104237c7f8ec8d
. IN DS 38696 8 2 683d2d0acb8c9b712a1948b27f741219298d0a450d612c483af444a4c0fb2b16
";
/// Seconds that it is remembered that a zone is bogus. RFC 9520 §3.2 wants no more than five minutes: it may be mended any time.
const BOGUS_SECS: u32 = 30;
/// Octets that are spent on what is known about zones: a few thousand of them, whose keys are seldom more than 1 kB.
const LINKS_OCTETS_MAX: usize = 4 << 20;
/// What an entry takes besides its name and its keys.
const LINK_OCTETS: usize = 128;

/// Why a file is no file of trust anchors.
#[derive(Debug, thiserror::Error)]
pub enum AnchorError {
    /// A line is wrong.
    #[error(transparent)]
    Line(ZoneFileError),
    /// A record that is neither DS nor DNSKEY.
    #[error("{}: {owner} has a {rtype} record; trust anchors are DS or DNSKEY records", path.display())]
    NotAnAnchor {
        /// Which file.
        path: PathBuf,
        /// Whose record.
        owner: Name,
        /// Which type.
        rtype: Type,
    },
    /// All records of a name have algorithms that we do not know: everything below would silently be insecure.
    #[error("{}: no record of {owner} can be used: {because}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// Whose records.
        owner: Name,
        /// Why.
        because: Insecurity,
    },
    /// There is nothing in it.
    #[error("{}: no DS or DNSKEY record is in it", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
}

/// What the operator trusts, and what not. By default nothing is trusted, and so nothing is validated.
#[derive(Clone, Debug, Default)]
pub struct Anchors {
    /// Each with the data of its DS records.
    trusted: Vec<(Name, Vec<Box<[u8]>>)>,
    negative: Vec<Name>,
}

/// What is said about a name and all below it.
enum Anchor<'a> {
    Trusted(NameRef<'a>, &'a [Box<[u8]>]),
    Negative,
    None,
}

impl Anchors {
    /// The keys of the Internet's root.
    pub fn iana() -> Self {
        Self::read(Path::new("IANA"), IANA.as_bytes()).expect("a test reads them")
    }

    /// Reads DS and DNSKEY records, as they stand in a master file. A TTL may be given, and means nothing.
    ///
    /// # Errors
    /// The file is not one of trust anchors.
    pub fn read(file: &Path, text: &[u8]) -> Result<Self, AnchorError> {
        let mut trusted: Vec<(Name, Vec<Box<[u8]>>)> = vec![];
        let path = || file.to_owned();
        // Tools that write anchors leave the TTL out.
        let text = [b"$TTL 0\n", text].concat();
        let records = zonefile::records(file, &text)
            .map_err(|error| ZoneFileError { line: error.line.saturating_sub(1), ..error });
        for record in records.map_err(AnchorError::Line)? {
            let ds = match record.rtype {
                Type::DS => record.rdata,
                Type::DNSKEY => sign::ds(record.owner.borrow(), &record.rdata),
                rtype => return Err(AnchorError::NotAnAnchor { path: path(), owner: record.owner, rtype }),
            };
            match trusted.iter_mut().find(|(name, _)| *name == record.owner) {
                Some((_, all)) => all.push(ds.into()),
                None => trusted.push((record.owner, vec![ds.into()])),
            }
        }
        for (owner, all) in &trusted {
            if let Err(because) = validate::usable(all) {
                return Err(AnchorError::Unusable { path: path(), owner: owner.clone(), because });
            }
        }
        if trusted.is_empty() {
            Err(AnchorError::Empty { path: path() })
        } else {
            Ok(Self { trusted, negative: vec![] })
        }
    }

    /// The same, without trust in `names` and all below them (RFC 7646).
    #[must_use]
    pub fn with_negative(mut self, names: impl IntoIterator<Item = Name>) -> Self {
        self.negative.extend(names);
        self
    }

    /// Whether nothing is trusted: then nothing needs to be asked.
    pub fn is_empty(&self) -> bool {
        self.trusted.is_empty()
    }

    /// The zone whose keys must vouch for data about `about`: the one that its signature names, if that lies between it and the trust
    /// anchor; else the one that `about` is found to be in.
    ///
    /// # Errors
    /// The data need not be signed.
    pub fn zone_of<'n>(&self, about: NameRef<'n>, signer: Option<NameRef<'n>>) -> Result<NameRef<'n>, Insecurity> {
        match self.nearest(about) {
            Anchor::Negative => Err(Insecurity::NegativeAnchor),
            Anchor::None => Err(Insecurity::NoAnchor),
            Anchor::Trusted(anchor, _) => {
                Ok(signer.filter(|signer| about.is_within(*signer) && signer.is_within(anchor)).unwrap_or(about))
            }
        }
    }

    /// What counts for a name: the nearest that is said. At the same name, distrust is nearer.
    fn nearest(&self, name: NameRef<'_>) -> Anchor<'_> {
        let labels = |above: &&Name| above.borrow().label_count();
        let negative = self.negative.iter().filter(|above| name.is_within(above.borrow())).max_by_key(labels);
        let trusted = self.trusted.iter().filter(|(above, _)| name.is_within(above.borrow()));
        match (trusted.max_by_key(|(above, _)| labels(&above)), negative) {
            (Some((above, _)), Some(negative)) if labels(&negative) >= labels(&above) => Anchor::Negative,
            (Some((above, ds)), _) => Anchor::Trusted(above.borrow(), ds),
            (None, Some(_)) => Anchor::Negative,
            (None, None) => Anchor::None,
        }
    }
}

/// What a zone is.
#[derive(Clone, Debug)]
pub enum State {
    /// Signed, with these keys. If they are of a zone above the one that was asked for, no zone begins there.
    Secure(Arc<Keys>),
    /// Not signed, or not so that we could tell.
    Insecure(Insecurity),
    /// Signed, and not by whom its parent says.
    Bogus(Bogus),
}

/// What is known about a name on the way.
#[derive(Clone, Debug)]
pub enum Link {
    /// A zone begins there, or all below is alike.
    Zone(State),
    /// No zone begins there.
    NoCut,
}

/// What a chain must know next.
#[derive(Clone, Debug)]
pub enum Need {
    /// The DS records of this name, from the zone above it: [`Chain::got_ds`].
    Ds(Name),
    /// The DNSKEY records of this zone: [`Chain::got_dnskey`].
    Dnskey(Name),
    /// Nothing.
    Done(State),
}

/// What was answered to a question for DS.
#[derive(Clone, Debug)]
pub enum ToldDs {
    /// The records.
    Set(Arc<Set>),
    /// That there are none, whether the name exists or not; or the proofs that came with a referral.
    Nothing(Arc<Denial>),
    /// The name is an alias: its CNAME, or a DNAME above it.
    Alias(Arc<Set>),
}

/// What has been learnt, for [`Links`].
#[derive(Clone, Debug)]
pub struct Learnt {
    /// About which name.
    pub name: Name,
    /// What.
    pub link: Link,
    /// Seconds that it may be kept.
    pub ttl: u32,
}

/// The way from a trust anchor to a zone.
#[derive(Clone, Debug)]
pub struct Chain {
    target: Name,
    at: At,
}

/// How far we are.
#[derive(Clone, Debug)]
enum At {
    /// The keys of the zone with so many of the target's labels are asked for; it has these DS records.
    Entering { labels: usize, ds: Vec<Box<[u8]>>, ttl: u32 },
    /// In a zone with these keys, which reaches down to the name with so many labels at least.
    Within { labels: usize, keys: Arc<Keys> },
    /// At the end.
    Done(State),
}

impl Chain {
    /// A chain to the zone `target`: the one whose server has given an answer, or that a signature names.
    pub fn new(target: NameRef<'_>, anchors: &Anchors) -> Self {
        let at = match anchors.nearest(target) {
            Anchor::Trusted(zone, ds) => At::Entering { labels: zone.label_count(), ds: ds.to_vec(), ttl: u32::MAX },
            Anchor::Negative => At::Done(State::Insecure(Insecurity::NegativeAnchor)),
            Anchor::None => At::Done(State::Insecure(Insecurity::NoAnchor)),
        };
        Self { target: target.to_name(), at }
    }

    /// What is needed next. `known` says what is known already about a name; the chain begins at the lowest zone of these.
    pub fn next(&mut self, known: impl Fn(NameRef<'_>) -> Option<Link>) -> Need {
        let target = Suffixes::of(self.target.borrow());
        let begin = match &self.at {
            At::Entering { labels, .. } => *labels,
            At::Within { labels, .. } => *labels + 1,
            At::Done(state) => return Need::Done(state.clone()),
        };
        let zone = |labels: usize| match known(target.suffix(labels)) {
            Some(Link::Zone(state)) => Some((labels, state)),
            _ => None,
        };
        match (begin..=target.count()).rev().find_map(zone) {
            Some((labels, State::Secure(keys))) => self.at = At::Within { labels, keys },
            Some((_, state)) => self.at = At::Done(state),
            None => {}
        }
        match &mut self.at {
            At::Entering { labels, .. } => Need::Dnskey(target.suffix(*labels).to_name()),
            At::Within { labels, keys } => {
                while *labels < target.count() {
                    if known(target.suffix(*labels + 1)).is_none() {
                        return Need::Ds(target.suffix(*labels + 1).to_name());
                    }
                    *labels += 1;
                }
                let state = State::Secure(Arc::clone(keys));
                self.at = At::Done(state.clone());
                Need::Done(state)
            }
            At::Done(state) => Need::Done(state.clone()),
        }
    }

    /// Takes the answer to [`Need::Ds`]; without that need it is ignored. Returns what others may want to know too.
    pub fn got_ds(&mut self, told: &ToldDs, now: SystemTime, work: &mut Work) -> Option<Learnt> {
        let At::Within { labels, keys } = &self.at else { return None };
        let (labels, keys) = (*labels + 1, Arc::clone(keys));
        let suffixes = Suffixes::of(self.target.borrow());
        if labels > suffixes.count() {
            return None;
        }
        let name = suffixes.suffix(labels).to_name();
        let learnt = |link, ttl| Some(Learnt { name: name.clone(), link, ttl });
        let step = match told {
            ToldDs::Set(set) => delegation(name.borrow(), set, &keys, now, work),
            ToldDs::Nothing(denial) => no_delegation(name.borrow(), denial, &keys, now, work),
            ToldDs::Alias(set) => alias(name.borrow(), set, &keys, now, work),
        };
        match step {
            Ok(Step::Enter { ds, ttl }) => {
                self.at = At::Entering { labels, ds, ttl };
                None
            }
            Ok(Step::On { ttl }) => {
                self.at = At::Within { labels, keys };
                learnt(Link::NoCut, ttl)
            }
            Ok(Step::Nothing) => {
                self.at = At::Done(State::Secure(keys));
                None
            }
            Ok(Step::Insecure { because, ttl }) => {
                self.at = At::Done(State::Insecure(because));
                learnt(Link::Zone(State::Insecure(because)), ttl)
            }
            Err(bogus) => {
                self.at = At::Done(State::Bogus(bogus));
                learnt(Link::Zone(State::Bogus(bogus)), BOGUS_SECS)
            }
        }
    }

    /// Takes the answer to [`Need::Dnskey`], which may be that there are none; without that need it is ignored. Returns what others may
    /// want to know too.
    pub fn got_dnskey(&mut self, dnskeys: Option<&Set>, now: SystemTime, work: &mut Work) -> Option<Learnt> {
        let At::Entering { labels, ds, ttl: ds_ttl } = &self.at else { return None };
        let (labels, ds_ttl) = (*labels, *ds_ttl);
        let name = Suffixes::of(self.target.borrow()).suffix(labels).to_name();
        let (state, ttl) = match dnskeys.map(|set| validate::keys(name.borrow(), set, ds, now, work)) {
            Some(Ok(Trusted::Keys(keys))) => {
                // Whoever takes the DS away wants the keys to be forgotten in the DS's time.
                let ttl = keys.ttl().min(ds_ttl);
                (State::Secure(Arc::new(keys)), ttl)
            }
            Some(Ok(Trusted::Insecure(because))) => (State::Insecure(because), ds_ttl.min(BOGUS_SECS)),
            Some(Err(bogus)) => (State::Bogus(bogus), BOGUS_SECS),
            None => (State::Bogus(Bogus::NoTrustedKey), BOGUS_SECS),
        };
        self.at = match &state {
            State::Secure(keys) => At::Within { labels, keys: Arc::clone(keys) },
            state => At::Done(state.clone()),
        };
        Some(Learnt { name, link: Link::Zone(state), ttl })
    }
}

/// What the answer to a question for DS comes to.
enum Step {
    /// A signed zone begins.
    Enter { ds: Vec<Box<[u8]>>, ttl: u32 },
    /// No zone begins; one label further.
    On { ttl: u32 },
    /// No zone begins, neither here nor below.
    Nothing,
    /// What is below is not signed.
    Insecure { because: Insecurity, ttl: u32 },
}

fn delegation(name: NameRef<'_>, set: &Set, keys: &Keys, now: SystemTime, work: &mut Work) -> Result<Step, Bogus> {
    if set.rtype != Type::DS || set.owner.borrow() != name {
        return Err(Bogus::Malformed);
    }
    let Signed { wildcard, ttl } = validate::set(set, keys, now, work)?;
    // RFC 4592 §4.2 and §4.6: wildcards neither delegate nor vouch for keys.
    if wildcard.is_some() {
        return Err(Bogus::Malformed);
    }
    let ds: Vec<Box<[u8]>> = set.rdata().map(Box::from).collect();
    match validate::usable(&ds) {
        Ok(_) => Ok(Step::Enter { ds, ttl }),
        // RFC 4035 §5.2: what we cannot check need not be asked for.
        Err(because) => Ok(Step::Insecure { because, ttl }),
    }
}

fn no_delegation(
    name: NameRef<'_>,
    denial: &Denial,
    keys: &Keys,
    now: SystemTime,
    work: &mut Work,
) -> Result<Step, Bogus> {
    let (cut, ttl) = validate::cut(denial, name, keys, now, work)?;
    Ok(match cut {
        Cut::Unsigned => Step::Insecure { because: Insecurity::Unsigned, ttl },
        Cut::OptOut => Step::Insecure { because: Insecurity::OptedOut, ttl },
        Cut::TooManyIterations => Step::Insecure { because: Insecurity::TooManyIterations, ttl },
        Cut::None => Step::On { ttl },
        Cut::NoName => Step::Nothing,
    })
}

/// An alias is no cut. If a wildcard stands for the alias, that it does is not proved here: whoever shows the wildcard of the zone above
/// in place of a DS gains nothing, for the keys of that zone are not those of what is below.
fn alias(name: NameRef<'_>, set: &Set, keys: &Keys, now: SystemTime, work: &mut Work) -> Result<Step, Bogus> {
    let owner = set.owner.borrow();
    let is_on_the_way = match set.rtype {
        Type::CNAME => owner == name,
        Type::DNAME => owner != name && name.is_within(owner),
        _ => false,
    };
    if !is_on_the_way {
        return Err(Bogus::Malformed);
    }
    let Signed { wildcard, ttl } = validate::set(set, keys, now, work)?;
    // RFC 6672 §2.3: nothing is below a DNAME; nor is there below a name that only a wildcard stands for.
    Ok(if wildcard.is_some() || set.rtype == Type::DNAME { Step::Nothing } else { Step::On { ttl } })
}

/// What is known about zones and names on the way to them. It has a bound in octets: who asks for many names pushes out what was learnt
/// about names without a cut before what was learnt about zones.
#[derive(Debug, Default)]
pub struct Links {
    known: HashMap<Box<[u8]>, Known>,
    octets: usize,
}

#[derive(Debug)]
struct Known {
    link: Link,
    until: u64,
    octets: usize,
}

impl Links {
    /// What is known about a name. Time is in seconds since any fixed moment.
    pub fn get(&self, name: NameRef<'_>, now: u64) -> Option<Link> {
        let known = self.known.get(&name.as_wire().to_ascii_lowercase()[..])?;
        (known.until > now).then(|| known.link.clone())
    }

    /// Remembers what was learnt.
    pub fn put(&mut self, learnt: Learnt, now: u64) {
        let Learnt { name, link, ttl } = learnt;
        let keys = if let Link::Zone(State::Secure(keys)) = &link { keys.octets() } else { 0 };
        let octets = LINK_OCTETS + name.borrow().as_wire().len() + keys;
        self.make_room(octets, now);
        let known = Known { link, until: now + u64::from(ttl), octets };
        self.octets += octets;
        if let Some(before) = self.known.insert(name.borrow().as_wire().to_ascii_lowercase().into(), known) {
            self.octets -= before.octets;
        }
    }

    /// Forgets `name` and all below it; returns how many that were.
    pub fn purge(&mut self, name: NameRef<'_>) -> usize {
        let before = self.known.len();
        self.keep(|wire, _| NameRef::parse(wire).is_ok_and(|known| !known.is_within(name)));
        before - self.known.len()
    }

    /// Octets in use.
    pub fn octets(&self) -> usize {
        self.octets
    }

    fn make_room(&mut self, octets: usize, now: u64) {
        let has_room = |links: &Self| links.octets + octets <= LINKS_OCTETS_MAX;
        if has_room(self) {
            return;
        }
        self.keep(|_, known| known.until > now);
        // A quarter is left free, so that the next of a flood of names does not make all this work again.
        let is_roomy = |links: &Self| links.octets + octets <= LINKS_OCTETS_MAX / 4 * 3;
        if !is_roomy(self) {
            self.keep(|_, known| matches!(known.link, Link::Zone(_)));
        }
        if !is_roomy(self) {
            self.keep(|_, _| false);
        }
    }

    fn keep(&mut self, keep: impl Fn(&[u8], &Known) -> bool) {
        self.known.retain(|wire, known| keep(wire, known));
        self.octets = self.known.values().map(|known| known.octets).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn the_keys_of_the_root_can_be_read() {
        let anchors = Anchors::iana();
        assert!(anchors.negative.is_empty() && !anchors.is_empty());
        let [(root, ds)] = &anchors.trusted[..] else { panic!("{anchors:?}") };
        assert!(root.borrow().is_root());
        assert_eq!(ds.iter().map(|ds| u16::from_be_bytes([ds[0], ds[1]])).collect::<Vec<_>>(), [20326, 38696]);
    }

    #[test]
    fn files_of_anchors_are_read_or_refused() {
        let read = |text: &str| Anchors::read(Path::new("anchors"), text.as_bytes()).map_err(|error| error.to_string());
        let ds = "example. IN DS 1 13 2 00";
        for text in [ds, "example. 3600 IN DS 1 13 2 00\n", "; root\n. DNSKEY 257 3 13 AAAA", "@ IN DS 1 8 1 00\n"] {
            assert!(read(text).is_ok(), "{text}");
        }
        for (text, want) in [
            ("", "anchors: no DS or DNSKEY record is in it"),
            ("; nothing\n", "anchors: no DS or DNSKEY record is in it"),
            ("example. A 192.0.2.1", "anchors: example. has a A record; trust anchors are DS or DNSKEY records"),
            ("example. DS 1 5 2 00", "anchors: no record of example. can be used: its keys have unknown algorithms"),
            (
                "example. DS 1 13 9 00",
                "anchors: no record of example. can be used: its parent has unknown digests of its keys",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), want, "{text}");
        }
        let error = read(&format!("{ds}\nexample. DS one 13 2 00\n")).unwrap_err();
        assert!(error.starts_with("anchors:2: "), "{error}");
    }

    #[test]
    fn the_nearest_anchor_counts_and_distrust_before_trust() {
        let read = |text: &str| Anchors::read(Path::new("anchors"), text.as_bytes()).unwrap();
        let anchors = read("fr. DS 1 13 2 00\nb.a.fr. DS 2 13 2 00\nedu. DS 3 13 2 00");
        let anchors = anchors.with_negative([name("a.fr"), name("edu")]);
        for (about, want) in [
            (".", "none"),
            ("com", "none"),
            ("fr", "fr."),
            ("x.fr", "fr."),
            ("A.fr", "negative"),
            ("c.a.fr", "negative"),
            ("c.b.a.fr", "b.a.fr."),
            ("aa.fr", "fr."),
            ("umass.edu", "negative"),
        ] {
            let told = match anchors.nearest(name(about).borrow()) {
                Anchor::Trusted(zone, _) => zone.to_string(),
                Anchor::Negative => "negative".to_owned(),
                Anchor::None => "none".to_owned(),
            };
            assert_eq!(told, want, "{about}");
        }
    }

    #[test]
    fn what_is_known_has_an_end_and_a_bound() {
        let mut links = Links::default();
        let insecure = || Link::Zone(State::Insecure(Insecurity::Unsigned));
        links.put(Learnt { name: name("Example"), link: insecure(), ttl: 10 }, 5);
        assert!(matches!(links.get(name("eXample").borrow(), 14), Some(Link::Zone(_))));
        assert!(links.get(name("example").borrow(), 15).is_none());
        links.put(Learnt { name: name("example"), link: insecure(), ttl: 1_000_000 }, 5);
        assert_eq!(links.octets(), LINK_OCTETS + 9);
        for number in 0..100_000 {
            let name = name(&format!("x{number}.example"));
            links.put(Learnt { name, link: Link::NoCut, ttl: 3600 }, 5);
            assert!(links.octets() <= LINKS_OCTETS_MAX);
        }
        assert!(links.get(name("x99999.example").borrow(), 6).is_some());
        assert!(links.get(name("example").borrow(), 6).is_some(), "a flood of names has pushed out a zone");
        for number in 0..100_000 {
            links.put(Learnt { name: name(&format!("z{number}")), link: insecure(), ttl: 3600 }, 5);
            assert!(links.octets() <= LINKS_OCTETS_MAX);
        }
        links.purge(NameRef::ROOT);
        assert_eq!(links.octets(), 0);
    }

    #[test]
    fn answers_that_nobody_needs_are_ignored() {
        let mut work = Work::default();
        let mut chain = Chain::new(name("example").borrow(), &Anchors::iana());
        let nothing = ToldDs::Nothing(Arc::default());
        assert!(chain.got_ds(&nothing, SystemTime::UNIX_EPOCH, &mut work).is_none());
        assert!(matches!(chain.next(|_| None), Need::Dnskey(zone) if zone.borrow().is_root()));
        assert!(chain.got_dnskey(None, SystemTime::UNIX_EPOCH, &mut work).is_some());
        assert!(chain.got_dnskey(None, SystemTime::UNIX_EPOCH, &mut work).is_none());
        assert!(matches!(chain.next(|_| None), Need::Done(State::Bogus(Bogus::NoTrustedKey))));
    }
}
