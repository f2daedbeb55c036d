//! What is not there, told from what was proved about other names (RFC 8198).
//!
//! ```text
//!   C: beta.fr. A?       S: no such name:  alpha.fr NSEC delta.fr, and for the wildcard  fr NSEC alpha.fr
//!   C: charlie.fr. A?    it lies in the same gap: nobody is asked
//!   C: alpha.fr. MX?     the gap's own name has A and no MX: nobody is asked
//! ```
//!
//! So who asks for random names makes no work for others. A gap is kept only when it has been validated and its zone's SOA with it, which
//! a client needs to keep the answer; and what is proved about a name is for [`validate`](super::validate) to say, from the same records
//! that the zone's own server would have sent.
//!
//! NSEC only. RFC 8198 §5.2 permits NSEC3 too, but there each question would cost hashes, also those that the gaps do not answer; and most large
//! zones that have it opt out, which proves nothing. Nor is data made of wildcards (§5.3): it is kept under the names that it was asked for.

use super::{
    Checking, Resolver,
    cache::{Denial, Set},
    validate::{self, Claim, Gap, Gaps},
};
use crate::{
    name::{Name, NameRef, Suffixes},
    rdata::Type,
};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering as Memory},
    },
};

/// Octets that are spent on gaps: about ten thousand of them.
const GAPS_OCTETS_MAX: usize = 8 << 20;
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
    gaps: HashMap<Box<[u8]>, BTreeMap<InOrder, KnownGap>>,
    octets: usize,
}

#[derive(Clone, Debug)]
struct KnownGap {
    nsec: Arc<Set>,
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
    /// The SOA and the NSEC sets that the zone's server would have sent.
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
        GAP_OCTETS + self.nsec.octets() + self.soa.octets()
    }

    fn read(&self) -> Option<Gap<'_>> {
        self.nsec.rdata().next().and_then(|rdata| Gap::parse(self.nsec.owner.borrow(), rdata))
    }
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
        let is_gap = |set: &&Arc<Set>| set.rtype == Type::NSEC && validate::is_signed_by(set, zone);
        for nsec in denial.proofs.iter().filter(is_gap) {
            let gap = KnownGap { nsec: Arc::clone(nsec), soa: Arc::clone(soa), until };
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
        let (zone, gaps) = (0..=deepest).rev().find_map(|labels| {
            let zone = suffixes.suffix(labels);
            zones.gaps.get(&wire[wire.len() - zone.as_wire().len()..]).map(|gaps| (zone, gaps))
        })?;
        let before = |name: NameRef<'_>| {
            let (_, gap) = gaps.range(..=InOrder(name.to_name())).next_back()?;
            (gap.until > now).then_some(gap)
        };
        // RFC 8198 §5.1: the gap of the name, and that of the wildcard which could stand for it.
        let first = before(name)?;
        let mut used = vec![first];
        if let Ok(encloser) = (Gaps { zone, gaps: vec![first.read()?] }).encloser(name) {
            let second = before(suffixes.suffix(encloser).wildcard().ok()?.borrow())?;
            if !Arc::ptr_eq(&first.nsec, &second.nsec) {
                used.push(second);
            }
        }
        let gaps = Gaps { zone, gaps: used.iter().filter_map(|gap| gap.read()).collect() };
        let absent = if gaps.prove(name, Claim::NoName).is_ok() {
            Absent::Name
        } else {
            gaps.prove(name, Claim::NoData(rtype)).ok()?;
            Absent::Type
        };
        let until = used.iter().map(|gap| gap.until).min()?;
        let denial = Denial {
            soa: Some(Arc::clone(&first.soa)),
            proofs: used.iter().map(|gap| Arc::clone(&gap.nsec)).collect(),
        };
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
        let octets = gap.octets();
        if self.octets + octets > GAPS_OCTETS_MAX {
            self.retain(|_, gap| gap.until > now);
            // A quarter is left free, so that the next one does not make all this work again. Some zones make a gap for each question
            // (RFC 4470), which is of no use to others; what is forgotten is learnt again.
            if self.octets + octets > GAPS_OCTETS_MAX / 4 * 3 {
                self.retain(|_, _| false);
            }
        }
        let gaps = self.gaps.entry(zone.as_wire().to_ascii_lowercase().into()).or_default();
        self.octets += octets;
        if let Some(old) = gaps.insert(InOrder(gap.nsec.owner.clone()), gap) {
            self.octets -= old.octets();
        }
    }

    fn retain(&mut self, keep: impl Fn(NameRef<'_>, &KnownGap) -> bool) {
        self.gaps.retain(|zone, gaps| {
            let zone = NameRef::parse(zone);
            gaps.retain(|_, gap| zone.is_ok_and(|zone| keep(zone, gap)));
            !gaps.is_empty()
        });
        self.octets = self.gaps.values().flat_map(BTreeMap::values).map(KnownGap::octets).sum();
    }
}
