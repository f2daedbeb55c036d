//! What is not there, told from what was proved about other names (RFC 8198).
//!
//! ```text
//!   C: beta.fr. A?       S: no such name:  alpha.fr NSEC delta.fr, and for the wildcard  fr NSEC alpha.fr
//!   C: charlie.fr. A?    it lies in the same gap: nobody is asked
//!   C: alpha.fr. MX?     the gap's own name has A and no MX: nobody is asked
//! ```
//!
//! So who asks for random names makes no work for others. A gap is kept only when it has been validated and its zone's SOA with it, which
//! a client needs to keep the answer; and what is proved about a name is for [`validate`] to say, from the same records
//! that the zone's own server would have sent.
//!
//! NSEC3 hides names, and its gaps are between hashes; else it is the same. What opts out proves nothing. Data made of wildcards (§5.3)
//! is not deduced: it is kept under the names that it was asked for.

use super::{
    Checking, Resolver,
    cache::{Denial, Set},
    validate::{self, Claim, Gap, Gaps, HashedGap, HashedGaps, Proved, Work},
};
use crate::{
    denial::{Hash, Nsec3Hash},
    name::{Name, NameRef, Suffixes},
    rdata::Type,
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering as Memory},
    },
};

/// Octets that are spent on gaps: about ten thousand of them.
const GAPS_OCTETS_MAX: usize = 8 << 20;
/// Rounds of SHA-1 that one look may take to find the gaps; the validator takes as many. RFC 9276 §3.1 wants one for each name, and a name
/// seldom has more than four labels below its zone. Whoever needs more must be asked.
const HASHES_MAX: usize = 32;
/// What a gap takes besides its records: its place in the tree, and its owner there.
const GAP_OCTETS: usize = 192;

/// The gaps that are known, by zone.
#[derive(Debug, Default)]
pub struct Denials {
    zones: Mutex<Zones>,
    /// Whether there ever was one: without, nobody need look.
    has_any: AtomicBool,
}

#[derive(Debug, Default)]
struct Zones {
    /// By name in lower case.
    gaps: HashMap<Box<[u8]>, Chain>,
    octets: usize,
}

/// The gaps of a zone. It has one chain of them: when it changes, the one that was told last counts.
#[derive(Debug)]
enum Chain {
    Nsec(BTreeMap<InOrder, KnownGap>),
    Nsec3(Nsec3Hash, BTreeMap<Hash, KnownGap>),
}

/// A gap, by where it begins.
#[derive(Debug)]
struct KnownGap {
    /// NSEC or NSEC3.
    set: Arc<Set>,
    soa: Arc<Set>,
    until: u64,
}

/// A name in its zone's order (RFC 4034 §6.1).
#[derive(Clone, Debug, PartialEq, Eq)]
struct InOrder(Name);

impl Ord for InOrder {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.borrow().canonical_cmp(other.0.borrow())
    }
}

impl PartialOrd for InOrder {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The name.
    Name,
    /// Data of the type.
    Type,
}

/// That something is not there, with its proof.
#[derive(Clone, Debug)]
pub struct Deduced {
    /// What.
    pub absent: Absent,
    /// The SOA and the NSEC or NSEC3 sets that the zone's server would have sent.
    pub denial: Denial,
    /// Seconds that it is good for.
    pub ttl: u32,
}

impl Resolver {
    /// Whether what was proved about other names says that `name` is not there, or has no data of a type. Who sets CD proves for himself.
    pub(super) fn deduce(&self, name: NameRef<'_>, rtype: Type, checking: Checking, now: u64) -> Option<Deduced> {
        let denials = self.denials.as_ref().filter(|_| checking == Checking::On)?;
        let deduced = denials.look(name, rtype, now)?;
        // The operator may trust another zone about the name, or none (RFC 7646).
        let zone = deduced.denial.soa.as_ref()?.owner.borrow();
        let counts = self.anchors.zone_of(name, Some(zone)).is_ok_and(|vouches| vouches == zone);
        counts.then(|| self.counters.deduced.inc())?;
        Some(deduced)
    }
}

impl KnownGap {
    fn octets(&self) -> usize {
        GAP_OCTETS + self.set.octets() + self.soa.octets()
    }

    fn in_clear(&self) -> Option<Gap<'_>> {
        Gap::parse(self.set.owner.borrow(), self.set.rdata().next()?)
    }

    fn hashed(&self) -> Option<HashedGap<'_>> {
        HashedGap::parse(&self.set, self.soa.owner.borrow(), self.set.rdata().next()?)
    }
}

/// Adds a gap, unless it is there already: one gap may prove two things.
fn add<'g>(used: &mut Vec<&'g KnownGap>, gap: &'g KnownGap) {
    if !used.iter().any(|known| Arc::ptr_eq(&known.set, &gap.set)) {
        used.push(gap);
    }
}

/// What is not there, by what can be proved.
fn absent(rtype: Type, mut is_proved: impl FnMut(Claim) -> bool) -> Option<Absent> {
    let claims = [(Claim::NoName, Absent::Name), (Claim::NoData(rtype), Absent::Type)];
    claims.into_iter().find(|(claim, _)| is_proved(*claim)).map(|(_, absent)| absent)
}

impl Chain {
    /// What the zone has proved about a name, and the gaps that it takes: those of the name, and of the wildcard which could stand for it.
    fn prove(&self, zone: NameRef<'_>, name: &Suffixes<'_>, rtype: Type) -> Option<(Absent, Vec<&KnownGap>)> {
        let whole = name.suffix(name.count());
        let wildcard = |encloser: usize| name.suffix(encloser).wildcard().ok();
        match self {
            // RFC 8198 §5.1.
            Chain::Nsec(gaps) => {
                let before = |name: Name| gaps.range(..=InOrder(name)).next_back().map(|(_, gap)| gap);
                let first = before(whole.to_name())?;
                let (mut used, mut proofs) = (vec![first], Gaps { zone, gaps: vec![first.in_clear()?] });
                if let Ok(encloser) = proofs.encloser(whole) {
                    let second = before(wildcard(encloser)?)?;
                    add(&mut used, second);
                    proofs.gaps.push(second.in_clear()?);
                }
                let absent = absent(rtype, |claim| proofs.prove(whole, claim).is_ok())?;
                Some((absent, used))
            }
            // RFC 8198 §5.2: the closest encloser has a hash of its own, and what is next below it lies in a gap.
            Chain::Nsec3(hash, gaps) => {
                let (top, count) = (zone.label_count(), name.count());
                if (count - top + 2) * (usize::from(hash.iterations) + 1) > HASHES_MAX {
                    return None;
                }
                // The last gap goes on before the first hash.
                let before =
                    |hash: Hash| gaps.range(..=hash).next_back().or_else(|| gaps.last_key_value()).map(|(_, gap)| gap);
                let (mut used, mut below) = (vec![], None);
                for labels in (top..=count).rev() {
                    let hashed = hash.hash(name.suffix(labels));
                    let Some(gap) = gaps.get(&hashed) else {
                        below = Some(hashed);
                        continue;
                    };
                    used.push(gap);
                    if let Some(below) = below {
                        add(&mut used, before(below)?);
                        add(&mut used, before(hash.hash(wildcard(labels)?.borrow()))?);
                    }
                    break;
                }
                let all = used.iter().filter_map(|gap| gap.hashed()).collect();
                let (proofs, mut work) = (HashedGaps { zone, hash: hash.clone(), gaps: all }, Work::default());
                let is_proved = |claim| proofs.prove(whole, claim, &mut work) == Ok(Proved::Secure);
                let absent = absent(rtype, is_proved)?;
                Some((absent, used))
            }
        }
    }

    /// One without gaps, that this one fits into. `None` if it cannot be read.
    fn for_gap(gap: &KnownGap) -> Option<Self> {
        match gap.set.rtype {
            Type::NSEC => gap.in_clear().map(|_| Chain::Nsec(BTreeMap::new())),
            _ => gap.hashed().map(|it| Chain::Nsec3(it.how(), BTreeMap::new())),
        }
    }

    /// Whether the gaps of both are of one chain.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Chain::Nsec(_), Chain::Nsec(_)) => true,
            (Chain::Nsec3(how, _), Chain::Nsec3(other, _)) => how == other,
            _ => false,
        }
    }

    /// Puts a gap that fits into its place. Returns how many octets it has pushed out.
    fn put(&mut self, gap: KnownGap) -> Option<usize> {
        match self {
            Chain::Nsec(gaps) => {
                let Gap { owner, next, .. } = gap.in_clear()?;
                let (from, to) = (InOrder(owner.to_name()), InOrder(next.to_name()));
                Some(replace(gaps, from, &to, gap))
            }
            Chain::Nsec3(_, gaps) => {
                let HashedGap { hash, next, .. } = gap.hashed()?;
                Some(replace(gaps, hash, &next, gap))
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&KnownGap) -> bool) {
        match self {
            Chain::Nsec(gaps) => gaps.retain(|_, gap| keep(gap)),
            Chain::Nsec3(_, gaps) => gaps.retain(|_, gap| keep(gap)),
        }
    }

    fn octets(&self) -> usize {
        match self {
            Chain::Nsec(gaps) => gaps.values().map(KnownGap::octets).sum(),
            Chain::Nsec3(_, gaps) => gaps.values().map(KnownGap::octets).sum(),
        }
    }
}

/// Puts a gap in the place of one that begins where it does, and of all that begin in it: these names are there no more, and what they
/// have denied would hide it. Returns the octets of all these.
fn replace<K: Ord + Clone>(gaps: &mut BTreeMap<K, KnownGap>, from: K, to: &K, gap: KnownGap) -> usize {
    let places = |range| gaps.range(range).map(|(place, _)| K::clone(place)).collect::<Vec<K>>();
    // The last gap goes on before the first name.
    let inside = if from < *to {
        places((Bound::Excluded(&from), Bound::Excluded(to)))
    } else {
        [places((Bound::Excluded(&from), Bound::Unbounded)), places((Bound::Unbounded, Bound::Excluded(to)))].concat()
    };
    let mut octets: usize = inside.iter().filter_map(|place| gaps.remove(place)).map(|old| old.octets()).sum();
    octets += gaps.insert(from, gap).map_or(0, |old| old.octets());
    octets
}

impl Denials {
    fn lock(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the gaps of a denial that has been found secure with the keys of `zone`.
    pub fn keep(&self, zone: NameRef<'_>, denial: &Denial, now: u64) {
        // RFC 8198 §5.4, RFC 9077: no longer than the zone's negative answers, nor than the records and their signatures, which the
        // denial's own TTL has been cut down to.
        let until = now + u64::from(denial.ttl());
        let Some(soa) = denial.soa.as_ref().filter(|soa| soa.owner.borrow() == zone && until > now) else { return };
        let is_gap =
            |set: &&Arc<Set>| matches!(set.rtype, Type::NSEC | Type::NSEC3) && validate::is_signed_by(set, zone);
        for set in denial.proofs.iter().filter(is_gap) {
            let gap = KnownGap { set: Arc::clone(set), soa: Arc::clone(soa), until };
            self.lock().put(zone, gap, now);
            self.has_any.store(true, Memory::Relaxed);
        }
    }

    /// Whether what is known proves that `name` is not there, or has no data of a type.
    pub fn look(&self, name: NameRef<'_>, rtype: Type, now: u64) -> Option<Deduced> {
        if !self.has_any.load(Memory::Relaxed) {
            return None;
        }
        let (suffixes, wire) = (Suffixes::of(name), name.as_wire().to_ascii_lowercase());
        // RFC 4035 §3.1.4.1: DS is for the zone above to deny.
        let deepest = if rtype == Type::DS { suffixes.count().checked_sub(1)? } else { suffixes.count() };
        let zones = self.lock();
        let (zone, chain) = (0..=deepest).rev().find_map(|labels| {
            let zone = suffixes.suffix(labels);
            zones.gaps.get(&wire[wire.len() - zone.as_wire().len()..]).map(|chain| (zone, chain))
        })?;
        let (absent, used) = chain.prove(zone, &suffixes, rtype)?;
        let until = used.iter().map(|gap| gap.until).min().filter(|until| *until > now)?;
        let soa = used.first().map(|gap| Arc::clone(&gap.soa));
        let denial = Denial { soa, proofs: used.iter().map(|gap| Arc::clone(&gap.set)).collect() };
        Some(Deduced { absent, denial, ttl: (until - now) as u32 })
    }

    /// Forgets what is known about zones that have to do with `name`: above it, so that it is not denied, and below.
    pub fn purge(&self, name: NameRef<'_>) {
        let is_other = |zone: NameRef<'_>| !name.is_within(zone) && !zone.is_within(name);
        self.lock().retain(|zone, _| is_other(zone));
    }

    /// Octets in use.
    pub fn octets(&self) -> usize {
        self.lock().octets
    }
}

impl Zones {
    fn put(&mut self, zone: NameRef<'_>, gap: KnownGap, now: u64) {
        let Some(empty) = Chain::for_gap(&gap) else { return };
        let octets = gap.octets();
        if self.octets + octets > GAPS_OCTETS_MAX {
            self.retain(|_, gap| gap.until > now);
            // A quarter is left free, so that the next one does not make all this work again. Some zones make a gap for each question
            // (RFC 4470), which is of no use to others; what is forgotten is learnt again.
            if self.octets + octets > GAPS_OCTETS_MAX / 4 * 3 {
                self.retain(|_, _| false);
            }
        }
        let chain = self.gaps.entry(zone.as_wire().to_ascii_lowercase().into()).or_insert(Chain::Nsec(BTreeMap::new()));
        if !chain.is_like(&empty) {
            self.octets -= chain.octets();
            *chain = empty;
        }
        if let Some(old) = chain.put(gap) {
            self.octets = self.octets + octets - old;
        }
    }

    fn retain(&mut self, keep: impl Fn(NameRef<'_>, &KnownGap) -> bool) {
        self.octets = 0;
        self.gaps.retain(|zone, chain| {
            let zone = NameRef::parse(zone);
            chain.retain(|gap| zone.is_ok_and(|zone| keep(zone, gap)));
            let octets = chain.octets();
            self.octets += octets;
            octets > 0
        });
    }
}
