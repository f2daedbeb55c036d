//! What a server that owns names answers: RFC 1034 §4.3.2, step by step.
//!
//! Pure: zones and a query in, an [`Answer`] out, with its [`Reason`]. It borrows from the zones and copies nothing.

use crate::{
    denial::{self, Claim},
    message::{Fit, Query, Rcode, Section, Writer},
    name::{Name, NameRef, Suffixes},
    rdata::{self, Class, Type},
    zone::{Node, RrSet, Zone},
};
use std::{fmt, sync::Arc};

/// How many aliases of ours are followed for one question. Resolvers follow about as many; a loop ends earlier.
const ALIASES_MAX: usize = 16;
/// How many names get their addresses into the additional section: twice the root's thirteen.
const TARGETS_MAX: usize = 26;

/// All zones that a server serves.
#[derive(Clone, Debug, Default)]
pub struct Zones {
    all: Vec<Arc<Zone>>,
    /// Hash of a zone's name and its index, sorted.
    by_hash: Vec<(u32, usize)>,
    labels_max: usize,
    /// Zones that are ours and of which there is nothing to serve.
    absent: Vec<Name>,
}

/// The name is in a zone of ours of which there is nothing to serve: a copy that never came, or has expired.
struct Absent;

impl Zones {
    /// Of two zones of the same name the first is served.
    pub fn new(zones: Vec<Arc<Zone>>) -> Self {
        let mut by_hash: Vec<_> =
            zones.iter().enumerate().map(|(index, zone)| (crate::name::hash(zone.name()), index)).collect();
        by_hash.sort_unstable();
        let labels_max = zones.iter().map(|zone| zone.name().label_count()).max().unwrap_or(0);
        Self { all: zones, by_hash, labels_max, absent: vec![] }
    }

    /// The same, and zones that are ours and cannot be served now: questions about names in them fail (RFC 1035 §4.1.1, RCODE 2),
    /// which sends the client to another server.
    #[must_use]
    pub fn with_absent(self, absent: Vec<Name>) -> Self {
        Self { absent, ..self }
    }

    /// The zones.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Zone>> {
        self.all.iter()
    }

    /// Where a name stands for who asks for a type of it.
    pub fn place(&self, name: NameRef<'_>, qtype: Type) -> Place {
        if self.all.is_empty() && self.absent.is_empty() {
            return Place::Elsewhere;
        }
        let suffixes = Suffixes::of(name);
        match self.zone_of(&suffixes, qtype) {
            None => Place::Elsewhere,
            Some(Err(Absent)) => Place::Here,
            Some(Ok(zone)) if qtype == Type::DS && zone.name() == name && !name.is_root() => Place::Elsewhere,
            Some(Ok(zone)) => match walk(zone, &suffixes, qtype) {
                Walk::Cut(cut) => Place::Below(cut.name().label_count()),
                Walk::Exact(_) | Walk::Dname(_) | Walk::Missing { .. } => Place::Here,
            },
        }
    }

    /// Step 2: the zone that is the nearest ancestor of the name. RFC 4035 §3.1.4.1: DS stands above the cut, so the parent is asked,
    /// if it is ours too.
    fn zone_of(&self, name: &Suffixes<'_>, qtype: Type) -> Option<Result<&Zone, Absent>> {
        let parent_of_cut = || self.nearest(name, name.count().checked_sub(1)?);
        let zone = if qtype == Type::DS { parent_of_cut() } else { None };
        zone.or_else(|| self.nearest(name, name.count()))
    }

    /// The zone whose name is the longest end of `name` with at most `labels` labels.
    fn nearest(&self, name: &Suffixes<'_>, labels: usize) -> Option<Result<&Zone, Absent>> {
        let mut nearest = None;
        for (suffix, hash) in name.from_root().take(self.labels_max.min(labels) + 1) {
            let from = self.by_hash.partition_point(|(other, _)| *other < hash);
            let same_hash = self.by_hash[from..].iter().take_while(|(other, _)| *other == hash);
            let found = same_hash.map(|(_, index)| &self.all[*index]).find(|zone| zone.name() == suffix);
            nearest = found.or(nearest);
        }
        if !self.absent.is_empty() {
            let known = nearest.map_or(0, |zone| zone.name().label_count());
            let is_nearer = |absent: &Name| {
                let own = absent.borrow().label_count();
                (known..=labels).contains(&own) && name.suffix(labels).is_within(absent.borrow())
            };
            if self.absent.iter().any(is_nearer) {
                return Some(Err(Absent));
            }
        }
        nearest.map(|zone| Ok(zone.as_ref()))
    }
}

/// Where a name stands, seen from the zones that a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In none of them.
    Elsewhere,
    /// In one of them, and it is that one's to say what is there.
    Here,
    /// Below a cut in one of them, which has so many labels: it has been given away.
    Below(usize),
}

/// Who we say that we are, to questions in class CH. Empty says nothing.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `version.bind` and `version.server`, as one framed character-string.
    version: Vec<u8>,
    /// `hostname.bind` and `id.server` (RFC 4892).
    host: Vec<u8>,
}

impl Identity {
    /// Keeps both texts ready for the wire; more than 255 octets are cut off.
    pub fn new(version: &str, host: &str) -> Self {
        let framed = |text: &str| {
            let text = &text.as_bytes()[..text.len().min(255)];
            let string = [&[text.len() as u8], text].concat();
            if text.is_empty() { vec![] } else { [&(string.len() as u16).to_be_bytes()[..], &string].concat() }
        };
        Self { version: framed(version), host: framed(host) }
    }

    /// The host's name, without its lengths.
    pub fn host(&self) -> &[u8] {
        self.host.get(3..).unwrap_or_default()
    }
}

/// Whether we own the name asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// AA is set.
    Ours,
    /// Somebody else knows.
    NotOurs,
}

/// Why the answer is what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The name has data of this type.
    Data,
    /// A wildcard stands for the name (RFC 4592).
    Wildcard,
    /// The name exists, and has no data of this type.
    NoData,
    /// DS is asked for at the top of a zone of ours: the zone above has it, or has none, and that one is not ours (RFC 4035 §3.1.4.1).
    ParentKnows,
    /// The name exists only because there are names below it (RFC 4592 §2.2.2).
    EmptyNonTerminal,
    /// The name does not exist.
    NoSuchName,
    /// The name belongs to a zone that we have given away.
    Referral,
    /// The name is in none of our zones.
    NotOurZone,
    /// The zone is ours, and there is nothing of it to serve.
    NoCopy,
    /// An alias leads out of our zones.
    AliasLeadsOut,
    /// Aliases lead back to themselves, or there are too many of them.
    AliasLoop,
    /// A DNAME makes a name that is too long.
    NameTooLong,
    /// ANY gets one set (RFC 8482).
    OneOfAll,
    /// Zone transfers are not for everybody.
    NoTransfer,
    /// A type that only a whole message can have, or a class in which we have nothing.
    NotServed,
    /// A question about this server itself (RFC 4892).
    Identity,
}

impl Reason {
    /// Whether others know more, so that a server that asks others for its clients asks them (RFC 1034 §4.3.2 steps 3b and 4).
    pub fn leads_on(self) -> bool {
        matches!(self, Reason::Referral | Reason::AliasLeadsOut | Reason::ParentKnows)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Data => "the zone has it",
            Reason::Wildcard => "a wildcard stands for the name",
            Reason::NoData => "the name exists, without data of this type",
            Reason::ParentKnows => "DS is for the zone above to say, which is not ours",
            Reason::EmptyNonTerminal => "the name exists only because of names below it",
            Reason::NoSuchName => "the name does not exist",
            Reason::Referral => "the name belongs to a zone that is given away; ask its servers",
            Reason::NotOurZone => "the name is in none of our zones",
            Reason::NoCopy => "the zone is a copy that has not come yet, or has expired",
            Reason::AliasLeadsOut => "the alias leads out of our zones",
            Reason::AliasLoop => "the aliases lead in a circle, or are too many",
            Reason::NameTooLong => "the DNAME makes a name of more than 255 octets",
            Reason::OneOfAll => "ANY gets one of the sets",
            Reason::NoTransfer => "zone transfers are not for everybody",
            Reason::NotServed => "nothing of this type or class is served",
            Reason::Identity => "that is about this server",
        })
    }
}

/// A name in an answer: in a zone or a query, or made from a DNAME.
#[derive(Clone, Debug)]
pub enum Owner<'a> {
    /// It stands somewhere.
    Standing(NameRef<'a>),
    /// It was made.
    Made(Name),
}

impl Owner<'_> {
    /// The name.
    pub fn name(&self) -> NameRef<'_> {
        match self {
            Owner::Standing(name) => *name,
            Owner::Made(name) => name.borrow(),
        }
    }
}

/// A set of records in an answer.
#[derive(Clone, Debug)]
pub enum Entry<'a> {
    /// One that a zone has; the owner is another name where a wildcard stands for it.
    Set {
        /// Whose records they are.
        owner: Owner<'a>,
        /// The records.
        set: RrSet<'a>,
        /// The RRSIG records of the name, if the client wants them; those that cover the set go with it.
        signatures: Option<RrSet<'a>>,
    },
    /// The CNAME that stands for a DNAME (RFC 6672 §3.1).
    Synthesized {
        /// The name asked for.
        owner: Owner<'a>,
        /// Where it leads.
        target: Name,
        /// The DNAME's own TTL.
        ttl: u32,
    },
}

impl Entry<'_> {
    /// Whether both are the records of one type at one name.
    fn is_same_set(&self, other: &Self) -> bool {
        match (self, other) {
            (Entry::Set { owner, set, .. }, Entry::Set { owner: other, set: others, .. }) => {
                set.rtype == others.rtype && owner.name() == other.name()
            }
            _ => false,
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// How it went.
    pub rcode: Rcode,
    /// Whether it is ours to say.
    pub authority: Authority,
    /// Why.
    pub reason: Reason,
    /// The answer section.
    pub answers: Vec<Entry<'a>>,
    /// The authority section: SOA of a negative answer, NS of a referral.
    pub authorities: Vec<Entry<'a>>,
    /// Addresses without which a referral is useless: they must fit (RFC 9471 §3.1).
    pub glue: Vec<Entry<'a>>,
    /// Addresses that save a question: they may be left out.
    pub additional: Vec<Entry<'a>>,
    /// The class of all of it.
    pub class: Class,
    /// Whether signatures and proofs go with it.
    proofs: Proofs,
    /// The name in the zone that decided: the wildcard, the cut, the zone's own for what is not there. What differs only below it
    /// is the same answer to whoever counts answers.
    pub about: Option<NameRef<'a>>,
}

/// Whether the client wants DNSSEC records (RFC 3225: the bit DO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proofs {
    Wanted,
    Unwanted,
}

impl<'a> Answer<'a> {
    fn new(rcode: Rcode, reason: Reason) -> Self {
        Self {
            rcode,
            authority: Authority::NotOurs,
            reason,
            answers: vec![],
            authorities: vec![],
            glue: vec![],
            additional: vec![],
            class: Class::IN,
            proofs: Proofs::Unwanted,
            about: None,
        }
    }

    /// A set of a node, with its signatures if they are wanted.
    fn entry(&self, owner: Owner<'a>, node: Node<'a>, set: RrSet<'a>) -> Entry<'a> {
        let signatures = if self.proofs == Proofs::Wanted { node.set(Type::RRSIG) } else { None };
        Entry::Set { owner, set, signatures }
    }

    /// Proves a claim about `name`, if the client wants to see it.
    fn prove(&mut self, zone: &'a Zone, name: NameRef<'_>, claim: Claim<'a>) {
        if self.proofs == Proofs::Unwanted {
            return;
        }
        for node in denial::proof(zone, name, claim) {
            let set = node.set(Type::NSEC).or_else(|| node.set(Type::NSEC3));
            let entry = set.map(|set| self.entry(Owner::Standing(node.name()), node, set));
            let is_new = |entry: &Entry<'_>| !self.authorities.iter().any(|known| known.is_same_set(entry));
            if let Some(entry) = entry.filter(is_new) {
                self.authorities.push(entry);
            }
        }
    }

    /// A negative answer of `zone` (RFC 2308 §2 and §3: with its SOA, so that it can be cached).
    fn negative(mut self, zone: &'a Zone, rcode: Rcode, reason: Reason) -> Self {
        (self.rcode, self.reason) = (rcode, reason);
        self.about = Some(zone.name());
        if let Some(set) = zone.negative_soa() {
            self.authorities.push(self.entry(Owner::Standing(zone.name()), zone.apex(), set));
        }
        self
    }

    fn because(mut self, reason: Reason) -> Self {
        self.reason = reason;
        self
    }
}

/// Answers a query: RFC 1034 §4.3.2, with what RFC 2308, 4592, 6604, 6672, 8482 and, for DNSSEC,
/// RFC 4035 §3.1 made of it.
pub fn answer<'a>(zones: &'a Zones, query: &Query<'a>, identity: &'a Identity) -> Answer<'a> {
    match (query.class, query.qtype) {
        (Class::CH, _) => return about_us(query, identity),
        (Class::IN, Type::AXFR | Type::IXFR) => return Answer::new(Rcode::REFUSED, Reason::NoTransfer),
        (Class::IN, Type::ANY) => {}
        (Class::IN, qtype) if qtype.is_meta() => return Answer::new(Rcode::NOTIMP, Reason::NotServed),
        (Class::IN, _) => {}
        _ => return Answer::new(Rcode::REFUSED, Reason::NotServed),
    }
    // Step 1, whether recursion is available and wanted, is `respond.rs`'s to say: it turns to the resolver where we end here.
    let mut answer = Answer::new(Rcode::NOERROR, Reason::Data);
    if query.edns.is_some_and(|edns| edns.dnssec_ok) {
        answer.proofs = Proofs::Wanted;
    }
    let mut sname = Owner::Standing(query.name);
    for _ in 0..ALIASES_MAX {
        let link = match one_name(zones, query.qtype, &sname, answer) {
            Link::Last(answer) => return answer,
            Link::Alias(answer, target) => (answer, target),
        };
        (answer, sname) = link;
        // A name that we have been at already: the circle is closed.
        let is_owner = |entry: &Entry<'_>| match entry {
            Entry::Set { owner, set, .. } => set.rtype == Type::CNAME && owner.name() == sname.name(),
            Entry::Synthesized { owner, .. } => owner.name() == sname.name(),
        };
        if answer.answers.iter().any(is_owner) {
            break;
        }
    }
    answer.because(Reason::AliasLoop)
}

/// What steps 2 and 3 lead to.
enum Link<'a> {
    /// The end.
    Last(Answer<'a>),
    /// Go back to step 1 with another name.
    Alias(Answer<'a>, Owner<'a>),
}

/// Steps 2 to 6 for one name.
fn one_name<'a>(zones: &'a Zones, qtype: Type, sname: &Owner<'a>, mut answer: Answer<'a>) -> Link<'a> {
    let is_first = answer.answers.is_empty();
    // The suffixes borrow the name, which may have been made; what the answer keeps is the name itself.
    let made = sname.clone();
    let suffixes = Suffixes::of(made.name());
    let Some(zone) = zones.zone_of(&suffixes, qtype) else {
        // Step 4, the cache, is the resolver's.
        answer.reason = if is_first { Reason::NotOurZone } else { Reason::AliasLeadsOut };
        if is_first {
            answer.rcode = Rcode::REFUSED;
        }
        return Link::Last(answer);
    };
    let Ok(zone) = zone else {
        (answer.rcode, answer.reason) = (Rcode::SERVFAIL, Reason::NoCopy);
        return Link::Last(answer);
    };
    // Step 3: down from the zone's name, label by label.
    let (node, stands) = match walk(zone, &suffixes, qtype) {
        // 3b: out of the authoritative data. AA is about the name asked for first (RFC 1035 §4.1.1), so only a referral
        // for that name clears it.
        Walk::Cut(cut) => return Link::Last(referral(zone, cut, answer)),
        Walk::Dname(node) => {
            answer.authority = Authority::Ours;
            return dname(node, qtype, sname, answer);
        }
        // 3a: the whole name is there.
        Walk::Exact(node) => (node, Reason::Data),
        // 3c: a label is not there; perhaps `*` is, at the closest encloser and nowhere else (RFC 4592 §3.3.1).
        Walk::Missing { encloser } => {
            let Some(wildcard) = encloser.wildcard() else {
                answer.authority = Authority::Ours;
                // RFC 6604 §3: the RCODE is about the end of the chain.
                let mut answer = answer.negative(zone, Rcode::NXDOMAIN, Reason::NoSuchName);
                answer.prove(zone, made.name(), Claim::NoName { encloser });
                return Link::Last(answer);
            };
            answer.about = Some(wildcard.name());
            (wildcard, Reason::Wildcard)
        }
    };
    answer.authority = Authority::Ours;
    let owner = sname.clone();
    // 3a: an alias is followed, unless it was asked for.
    if qtype != Type::CNAME
        && qtype != Type::ANY
        && let Some(set) = node.set(Type::CNAME)
        && let Some(target) = set.records().next().and_then(|rdata| NameRef::parse(rdata).ok())
        && node.set(qtype).is_none()
    {
        answer.answers.push(answer.entry(owner, node, set));
        if stands == Reason::Wildcard {
            answer.prove(zone, made.name(), Claim::Expanded { wildcard: node });
        }
        return Link::Alias(answer, Owner::Standing(target));
    }
    let (set, reason) = match qtype {
        // RFC 8482 §4.1: one of the sets is an answer, and the client cannot make us send them all to somebody else.
        Type::ANY => (node.sets().next(), Reason::OneOfAll),
        _ => (node.set(qtype), stands),
    };
    let Some(set) = set else {
        let is_top = node.name() == zone.name() && !zone.name().is_root();
        let why = if qtype == Type::DS && is_top {
            Reason::ParentKnows
        } else if node.is_empty_non_terminal() {
            Reason::EmptyNonTerminal
        } else {
            Reason::NoData
        };
        let mut answer = answer.negative(zone, Rcode::NOERROR, why);
        let claim = if stands == Reason::Wildcard {
            Claim::NoDataAtWildcard { wildcard: node }
        } else {
            Claim::NoData { node }
        };
        answer.prove(zone, made.name(), claim);
        return Link::Last(answer);
    };
    answer.answers.push(answer.entry(owner, node, set));
    if stands == Reason::Wildcard {
        answer.prove(zone, made.name(), Claim::Expanded { wildcard: node });
    }
    // Step 6: addresses that the client would ask for next.
    for (node, set) in addresses(zone, set) {
        let entry = answer.entry(Owner::Standing(node.name()), node, set);
        // Two MX may lead to the same host; its addresses are told once.
        if !answer.additional.iter().any(|known| known.is_same_set(&entry)) {
            answer.additional.push(entry);
        }
    }
    Link::Last(answer.because(reason))
}

/// Where the walk down a zone ends.
enum Walk<'z> {
    Exact(Node<'z>),
    Cut(Node<'z>),
    Dname(Node<'z>),
    Missing { encloser: Node<'z> },
}

fn walk<'z>(zone: &'z Zone, name: &Suffixes<'_>, qtype: Type) -> Walk<'z> {
    let mut node = zone.apex();
    let apex_labels = node.name().label_count();
    for (suffix, hash) in name.from_root().skip(apex_labels + 1) {
        // What lies below a cut or a DNAME is not ours to say, even where it stands in the zone (RFC 1034 §4.2.1,
        // RFC 6672 §2.4).
        if node.is_cut() {
            return Walk::Cut(node);
        }
        if node.has_dname() {
            return Walk::Dname(node);
        }
        match zone.node_hashed(suffix, hash) {
            // RFC 5155 §7.2.8: a name that is there for the chain of hashes only does not exist. It is no closest encloser either,
            // or the wildcard above it would not stand for what is asked for below it.
            Some(child) if child.is_hash_only() && !zone.chain().is_above_others(child) => {
                return Walk::Missing { encloser: node };
            }
            Some(child) => node = child,
            None => return Walk::Missing { encloser: node },
        }
    }
    // RFC 4035 §3.1.4.1: DS at a cut is the parent's own.
    if node.is_cut() && qtype != Type::DS {
        return Walk::Cut(node);
    }
    Walk::Exact(node)
}

/// Step 3b: who knows more, and where they are.
fn referral<'a>(zone: &'a Zone, cut: Node<'a>, mut answer: Answer<'a>) -> Answer<'a> {
    answer.reason = Reason::Referral;
    let Some(set) = cut.set(Type::NS) else { return answer };
    answer.about = Some(cut.name());
    answer.authorities.push(answer.entry(Owner::Standing(cut.name()), cut, set));
    // RFC 4035 §3.1.4: what is below is signed with a key that DS names, or proved to be unsigned.
    match cut.set(Type::DS) {
        Some(ds) if answer.proofs == Proofs::Wanted => {
            answer.authorities.push(answer.entry(Owner::Standing(cut.name()), cut, ds));
        }
        Some(_) => {}
        None => answer.prove(zone, cut.name(), Claim::NoDs { cut }),
    }
    for (node, set) in addresses(zone, set) {
        let (target, entry) = (node.name(), answer.entry(Owner::Standing(node.name()), node, set));
        // RFC 9471 §2: a server below the cut cannot be found without its glue; one beside it can.
        if target.is_within(cut.name()) { answer.glue.push(entry) } else { answer.additional.push(entry) }
    }
    answer
}

/// RFC 6672 §3.2 step 3c: the DNAME itself, and a CNAME for resolvers that do not know DNAME.
fn dname<'a>(node: Node<'a>, qtype: Type, sname: &Owner<'a>, mut answer: Answer<'a>) -> Link<'a> {
    // For the rate: below it all names are one kind of question, as below a wildcard.
    answer.about = Some(node.name());
    let set = node.set(Type::DNAME);
    let target = set.and_then(|set| set.records().next()).and_then(|rdata| NameRef::parse(rdata).ok());
    let Some((set, target)) = set.zip(target) else { return Link::Last(answer) };
    let entry = answer.entry(Owner::Standing(node.name()), node, set);
    // RFC 2181 §5: a set is there once, however often the way leads through it; what it makes is another alias each time.
    if !answer.answers.iter().any(|known| known.is_same_set(&entry)) {
        answer.answers.push(entry);
    }
    let made = sname.clone();
    let wire = made.name().as_wire();
    let before = &wire[..wire.len() - node.name().as_wire().len()];
    let Ok(target) = Name::join(before, target) else {
        answer.rcode = Rcode::YXDOMAIN;
        return Link::Last(answer.because(Reason::NameTooLong));
    };
    answer.answers.push(Entry::Synthesized { owner: sname.clone(), target: target.clone(), ttl: set.ttl });
    if qtype == Type::CNAME || qtype == Type::ANY {
        return Link::Last(answer.because(Reason::Data));
    }
    Link::Alias(answer, Owner::Made(target))
}

/// The addresses that the zone has for where a set leads. Only its own data: what lies elsewhere would not be believed.
fn addresses<'a>(zone: &'a Zone, set: RrSet<'a>) -> impl Iterator<Item = (Node<'a>, RrSet<'a>)> {
    let rtype = set.rtype;
    let targets = set.records().take(TARGETS_MAX).filter_map(move |rdata| rdata::target(rtype, rdata));
    targets
        .filter(|target| target.is_within(zone.name()))
        .filter_map(|target| zone.node(target))
        .flat_map(|node| [node.set(Type::A), node.set(Type::AAAA)].into_iter().flatten().map(move |set| (node, set)))
}

/// Class CH: `version.bind`, `version.server`, `hostname.bind`, `id.server` (RFC 4892).
fn about_us<'a>(query: &Query<'a>, identity: &'a Identity) -> Answer<'a> {
    let is = |wire: &'static [u8]| query.name.as_wire().eq_ignore_ascii_case(wire);
    let text = if is(b"\x07version\x04bind\0") || is(b"\x07version\x06server\0") {
        &identity.version
    } else if is(b"\x08hostname\x04bind\0") || is(b"\x02id\x06server\0") {
        &identity.host
    } else {
        return Answer { class: Class::CH, ..Answer::new(Rcode::REFUSED, Reason::NotServed) };
    };
    let mut answer = Answer { class: Class::CH, ..Answer::new(Rcode::REFUSED, Reason::Identity) };
    if !text.is_empty() && (query.qtype == Type::TXT || query.qtype == Type::ANY) {
        (answer.rcode, answer.authority) = (Rcode::NOERROR, Authority::Ours);
        let set = RrSet::single(Type::TXT, 0, text);
        answer.answers.push(Entry::Set { owner: Owner::Standing(query.name), set, signatures: None });
    }
    answer
}

/// Which record of a set of addresses comes first: each in turn, so that clients, who take the first, spread over all (RFC 1794).
///
/// There are counters for names and types apart: a client that asks for A and AAAA in turn would otherwise see every second
/// address only.
#[derive(Clone, Debug)]
pub struct Rotation([u16; 256]);

impl Default for Rotation {
    fn default() -> Self {
        Self([0; 256])
    }
}

impl Rotation {
    /// Every name begins with the record of this number.
    pub fn beginning_with(turn: u16) -> Self {
        Self([turn; 256])
    }

    /// The turn of this name and type; the next call has the next turn.
    pub fn turn(&mut self, name: NameRef<'_>, qtype: Type) -> usize {
        let slot =
            crate::name::hash(name).wrapping_add(u32::from(qtype.0).wrapping_mul(0x9e37)) as usize % self.0.len();
        let turn = self.0[slot];
        self.0[slot] = turn.wrapping_add(1);
        usize::from(turn)
    }
}

impl Answer<'_> {
    /// What answers have in common that are one and the same to whoever counts them: the name in the zone that decided, or
    /// the name asked for, and how it went.
    pub fn kind(&self, query: &Query<'_>) -> u64 {
        let name = match (self.rcode, self.about) {
            (_, Some(about)) => crate::name::hash(about),
            (Rcode::NOERROR, None) => crate::name::hash(query.name),
            // Errors are the same, whatever was asked for.
            _ => 0,
        };
        let qtype = if self.answers.is_empty() { Type(0) } else { query.qtype };
        u64::from(name) << 32 | u64::from(qtype.0) << 16 | u64::from(self.rcode.0)
    }

    /// Whether there is a set whose order means something to its readers.
    pub fn has_choice(&self) -> bool {
        let is_choice = |entry: &Entry<'_>| match entry {
            Entry::Set { set, .. } => matches!(set.rtype, Type::A | Type::AAAA) && set.len() > 1,
            Entry::Synthesized { .. } => false,
        };
        self.answers.iter().any(is_choice)
    }

    /// Writes all sections; what does not fit ends the message with TC, and nothing comes behind it (RFC 2181 §9). `turn` is
    /// which record of a set of addresses comes first.
    pub fn write(&self, writer: &mut Writer<'_>, turn: usize) {
        writer.rcode(self.rcode);
        if self.authority == Authority::Ours {
            writer.authoritative();
        }
        let needed = [
            (Section::Answer, &self.answers),
            (Section::Authority, &self.authorities),
            (Section::Additional, &self.glue),
        ];
        for (section, entries) in needed {
            for entry in entries {
                if self.write_entry(writer, section, entry, turn) == Fit::NoRoom {
                    writer.truncate();
                    return;
                }
            }
        }
        for entry in &self.additional {
            // RFC 2181 §9: what only saves a question is left out in silence.
            if self.write_entry(writer, Section::Additional, entry, turn) == Fit::NoRoom {
                return;
            }
        }
    }

    fn write_entry(&self, writer: &mut Writer<'_>, section: Section, entry: &Entry<'_>, turn: usize) -> Fit {
        match entry {
            Entry::Set { owner, set, signatures } => {
                let first = if matches!(set.rtype, Type::A | Type::AAAA) { turn } else { 0 };
                let signed = signatures.map(|signatures| (signatures, set.rtype));
                writer.set(section, owner.name(), self.class, *set, first, signed)
            }
            Entry::Synthesized { owner, target, ttl } => {
                let wire = target.borrow().as_wire();
                let framed = [&(wire.len() as u16).to_be_bytes()[..], wire].concat();
                writer.set(section, owner.name(), self.class, RrSet::single(Type::CNAME, *ttl, &framed), 0, None)
            }
        }
    }
}
