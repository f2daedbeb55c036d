//! A zone that is being changed.
//!
//! Zones never change ([`crate::zone`]). A draft lies over one: names that are touched are copied out and changed
//! there, all others are looked up below. At the end the draft makes a new zone, and says how the two differ, in the
//! form that journals ([`crate::journal`]) and incremental transfers (RFC 1995 §4) share:
//!
//! ```text
//!   deleted:  SOA 2026010101, and what went        added:  SOA 2026010102, and what came
//! ```

use crate::{
    name::{Name, NameRef},
    rdata::{Class, Type},
    record::{Record, Soa},
    sign::canonical,
    zone::{AddError, Builder, Node, Place, RrSet, Zone},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// All records of one name.
pub type Sets = BTreeMap<Type, Set>;

/// All records of one name and type. It is never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Seconds that it may be cached.
    pub ttl: u32,
    /// The data of each record.
    pub records: Vec<Vec<u8>>,
}

impl Set {
    /// Where a record with this data is (RFC 2136 §1.1.1: names in it are compared as names).
    pub fn position(&self, rtype: Type, rdata: &[u8]) -> Option<usize> {
        let wanted = canonical(rtype, rdata);
        self.records.iter().position(|known| canonical(rtype, known) == wanted)
    }
}

/// How one version of a zone differs from the one before. Either side has its SOA record first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The serial before.
    pub from: u32,
    /// The serial after.
    pub to: u32,
    /// What went.
    pub deleted: Vec<Record>,
    /// What came.
    pub added: Vec<Record>,
}

impl Difference {
    /// From records as a journal or a transfer has them; `None` unless each side begins with its SOA record and has no
    /// other.
    pub fn new(deleted: Vec<Record>, added: Vec<Record>) -> Option<Self> {
        let serial = |records: &[Record]| {
            let (soa, rest) = records.split_first()?;
            let soa = Some(soa).filter(|soa| soa.rtype == Type::SOA)?;
            if rest.iter().any(|record| record.rtype == Type::SOA) {
                return None;
            }
            Some(Soa::parse(&soa.rdata)?.serial)
        };
        Some(Self { from: serial(&deleted)?, to: serial(&added)?, deleted, added })
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.deleted.len() + self.added.len()
    }

    /// Never: there are two SOA records.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Differences, each of which begins where the one before ends, as one; `None` if there are none.
    pub fn merged(differences: Vec<Difference>) -> Option<Difference> {
        let (first, last) = (differences.first()?, differences.last()?);
        let (from, to) = (first.from, last.to);
        // These stay whatever comes between: serials may go round and come back, and each side begins with its SOA.
        let (mut deleted, mut added) = (vec![first.deleted.first()?.clone()], vec![last.added.first()?.clone()]);
        // One pass with one map: what is compared again with each difference takes seconds when there are thousands, and
        // meanwhile the zone's updates wait.
        let mut fates = Fates::default();
        for difference in differences {
            for record in difference.deleted.into_iter().skip(1) {
                fates.of(&record, || Some(record.clone())).after = None;
            }
            for record in difference.added.into_iter().skip(1) {
                let fate = fates.of(&record, || None);
                fate.after = Some(record);
            }
        }
        // What came and went was never there; what went and came back never went.
        for Fate { before, after } in fates.all.into_iter().filter(|fate| fate.before != fate.after) {
            deleted.extend(before);
            added.extend(after);
        }
        Some(Difference { from, to, deleted, added })
    }
}

/// What becomes of one record over several differences.
struct Fate {
    before: Option<Record>,
    after: Option<Record>,
}

/// The records that differences touch, in the order in which they do.
#[derive(Default)]
struct Fates {
    all: Vec<Fate>,
    /// By owner, type, TTL and data: with another TTL it is another record.
    known: HashMap<(Name, Type, u32, Vec<u8>), usize>,
}

impl Fates {
    /// The fate of a record. What is heard of it first tells whether it was there before.
    fn of(&mut self, record: &Record, was_there: impl FnOnce() -> Option<Record>) -> &mut Fate {
        let Record { owner, rtype, ttl, rdata, .. } = record;
        let key = (owner.clone(), *rtype, *ttl, canonical(*rtype, rdata).into_owned());
        let index = *self.known.entry(key).or_insert_with(|| {
            self.all.push(Fate { before: was_there(), after: None });
            self.all.len() - 1
        });
        &mut self.all[index]
    }
}

/// A record of a difference that does not fit the zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It is to go and is not there.
    #[error("`{0}` should go, and is not there")]
    Missing(Record),
    /// It is to come and is there.
    #[error("`{0}` should come, and is there")]
    Present(Record),
    /// It belongs to another zone.
    #[error("`{0}` is not in the zone")]
    OutOfZone(Record),
}

/// A zone that is being changed.
#[derive(Debug)]
pub struct Draft {
    base: Arc<Zone>,
    /// All that is at the names that were touched; empty where nothing is left.
    changed: HashMap<Name, Sets>,
    /// What was there when the difference began that is being made.
    before: HashMap<Name, Sets>,
}

fn sets_of(node: Node<'_>) -> Sets {
    let set = |set: RrSet<'_>| (set.rtype, Set { ttl: set.ttl, records: set.records().map(<[u8]>::to_vec).collect() });
    node.sets().map(set).collect()
}

impl Draft {
    /// Nothing is changed yet.
    pub fn new(base: Arc<Zone>) -> Self {
        Self { base, changed: HashMap::new(), before: HashMap::new() }
    }

    /// The zone's name.
    pub fn origin(&self) -> NameRef<'_> {
        self.base.name()
    }

    /// All records of a name.
    pub fn sets(&self, name: &Name) -> Sets {
        let stored = || self.base.node(name.borrow()).map(sets_of).unwrap_or_default();
        self.changed.get(name).cloned().unwrap_or_else(stored)
    }

    /// All records of a name and type.
    pub fn set(&self, name: &Name, rtype: Type) -> Option<Set> {
        self.sets(name).remove(&rtype)
    }

    /// The SOA record: its TTL and its data.
    pub fn soa(&self) -> Option<(u32, Vec<u8>)> {
        let set = self.set(&self.origin().to_name(), Type::SOA)?;
        Some((set.ttl, set.records.into_iter().next()?))
    }

    /// The records of a name, to be changed.
    pub fn edit(&mut self, name: &Name) -> &mut Sets {
        if !self.before.contains_key(name) {
            self.before.insert(name.clone(), self.sets(name));
        }
        if !self.changed.contains_key(name) {
            self.changed.insert(name.clone(), self.sets(name));
        }
        self.changed.entry(name.clone()).or_default()
    }

    /// Whether something has changed since the last difference ended.
    pub fn has_changed(&self) -> bool {
        self.before.iter().any(|(name, before)| self.changed.get(name) != Some(before))
    }

    /// Ends the difference that is being made: what changed since the last one ended, names and types in order.
    ///
    /// `None` when nothing did.
    pub fn difference(&mut self) -> Option<Difference> {
        let origin = self.origin().to_name();
        let mut touched: Vec<(Name, Sets)> = self.before.drain().collect();
        touched.sort_by(|(one, _), (other, _)| one.borrow().canonical_cmp(other.borrow()));
        let (mut deleted, mut added) = (vec![], vec![]);
        for (name, before) in touched {
            let after = self.changed.get(&name).cloned().unwrap_or_default();
            let records = |from: &Sets, other: &Sets| -> Vec<Record> {
                let of_set = |(rtype, set): (&Type, &Set)| -> Vec<Record> {
                    // A set has one TTL: with another one, all its records are others.
                    let same = other.get(rtype).filter(|same| same.ttl == set.ttl);
                    let is_new = |rdata: &&Vec<u8>| same.is_none_or(|same| !same.records.contains(rdata));
                    let record = |rdata: &Vec<u8>| Record {
                        owner: name.clone(),
                        rtype: *rtype,
                        class: Class::IN,
                        ttl: set.ttl,
                        rdata: rdata.clone(),
                    };
                    set.records.iter().filter(is_new).map(record).collect()
                };
                from.iter().flat_map(of_set).collect()
            };
            deleted.extend(records(&before, &after));
            added.extend(records(&after, &before));
        }
        // RFC 1995 §4: each side begins with its SOA record.
        for side in [&mut deleted, &mut added] {
            side.sort_by_key(|record| record.rtype != Type::SOA || record.owner != origin);
        }
        Difference::new(deleted, added)
    }

    /// Takes back what was changed since the last difference ended.
    pub fn roll_back(&mut self) {
        self.changed.extend(self.before.drain());
    }

    /// Changes what a difference says. What does not fit is left out and told.
    pub fn apply(&mut self, difference: &Difference) -> Vec<Misfit> {
        let mut misfits = vec![];
        for record in &difference.deleted {
            let Record { owner, rtype, rdata, .. } = record;
            let sets = self.edit(owner);
            let found = sets.get_mut(rtype).and_then(|set| set.position(*rtype, rdata).map(|index| (set, index)));
            let Some((set, index)) = found else {
                misfits.push(Misfit::Missing(record.clone()));
                continue;
            };
            set.records.remove(index);
            if set.records.is_empty() {
                sets.remove(rtype);
            }
        }
        for record in &difference.added {
            let Record { owner, rtype, ttl, rdata, .. } = record;
            if !owner.borrow().is_within(self.origin()) {
                misfits.push(Misfit::OutOfZone(record.clone()));
                continue;
            }
            let set = self.edit(owner).entry(*rtype).or_default();
            if set.position(*rtype, rdata).is_some() {
                misfits.push(Misfit::Present(record.clone()));
                continue;
            }
            set.ttl = *ttl;
            set.records.push(rdata.clone());
        }
        self.before.clear();
        misfits
    }

    /// The changed zone. A name with no data and nothing below it is gone; those between a new name and the apex exist
    /// (RFC 4592 §2.2.2).
    ///
    /// What [`Builder::finish`] finds doubtful is not looked at: RFC 2136 lets an update take the address away from a
    /// server.
    ///
    /// # Errors
    /// The zone is too large.
    pub fn finish(self) -> Result<Zone, AddError> {
        let Self { base, changed, .. } = self;
        let mut builder = Builder::new(base.name());
        let touched: HashSet<u32> =
            changed.keys().filter_map(|name| base.node(name.borrow())).map(Node::index).collect();
        let place = Place::default();
        for node in base.nodes().filter(|node| !touched.contains(&node.index())) {
            for set in node.sets() {
                for rdata in set.records() {
                    builder.add(node.name(), set.rtype, set.ttl, rdata, place)?;
                }
            }
        }
        for (name, sets) in &changed {
            for (rtype, set) in sets {
                for rdata in &set.records {
                    builder.add(name.borrow(), *rtype, set.ttl, rdata, place)?;
                }
            }
        }
        Ok(builder.finish().0)
    }
}

/// How two versions of a zone differ. `None` when they have the same serial.
pub fn between(old: &Zone, new: &Zone) -> Option<Difference> {
    Difference::new(missing(old, new), missing(new, old))
}

/// Whether two zones have the same records.
pub fn is_same(one: &Zone, other: &Zone) -> bool {
    one.len() == other.len() && missing(one, other).is_empty() && missing(other, one).is_empty()
}

/// The records of one zone that another one has not, SOA first.
fn missing(from: &Zone, other: &Zone) -> Vec<Record> {
    let mut records = vec![];
    // Names mostly stand in the same order in both, so the next one is looked at first.
    let (mut next, count) = (0, other.nodes().len() as u32);
    for node in from.nodes() {
        let guess = (next < count).then(|| other.node_at(next)).filter(|guess| guess.name() == node.name());
        let other = guess.or_else(|| other.node(node.name()));
        next = other.map_or(next, |found| found.index() + 1);
        for set in node.sets() {
            // Signatures have the TTLs of what they sign, so those of their set say nothing.
            let has_ttl = |same: &RrSet<'_>| same.ttl == set.ttl || set.rtype == Type::RRSIG;
            let same = other.and_then(|other| other.set(set.rtype)).filter(has_ttl);
            // Nearly all sets of a large zone are as they were.
            if same.is_some_and(|same| same.records().eq(set.records())) {
                continue;
            }
            let known: Option<HashSet<_>> =
                same.map(|same| same.records().map(|rdata| canonical(set.rtype, rdata)).collect());
            let is_new =
                |rdata: &&[u8]| known.as_ref().is_none_or(|known| !known.contains(&canonical(set.rtype, rdata)));
            records.extend(set.records().filter(is_new).map(|rdata| Record {
                owner: node.name().to_name(),
                rtype: set.rtype,
                class: Class::IN,
                ttl: node.ttl_of(set, rdata),
                rdata: rdata.to_vec(),
            }));
        }
    }
    records.sort_by_key(|record| record.rtype != Type::SOA);
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zonefile::{self, Rewrite};
    use proptest::prelude::*;
    use std::path::Path;

    const ZONE: &str = "$TTL 300
@     SOA ns hostmaster 10 1h 15m 1w 5m
      NS  ns
ns    A   10.77.1.53
a.b.c A   10.77.1.9
";

    fn zone(text: &str) -> Arc<Zone> {
        let name: Name = "crepes.fr".parse().unwrap();
        Arc::new(zonefile::read(name.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None).unwrap().zone)
    }

    fn lines(zone: &Zone) -> Vec<String> {
        let record = |node: Node<'_>| {
            let lines = node.sets().flat_map(move |set| {
                set.records().map(move |rdata| {
                    let (owner, rdata) = (node.name().to_name(), rdata.to_vec());
                    Record { owner, rtype: set.rtype, class: Class::IN, ttl: set.ttl, rdata }.to_string()
                })
            });
            lines.collect::<Vec<_>>()
        };
        let mut lines: Vec<String> = zone.nodes().flat_map(record).collect();
        lines.sort();
        lines
    }

    /// Sets one address of one of a few names, or takes it away, and counts the serial up.
    fn change(draft: &mut Draft, name: u8, address: u8, ttl: u32) -> Option<Difference> {
        let owner = Name::from_text(&[b'a' + name], Some(draft.origin())).unwrap();
        let sets = draft.edit(&owner);
        let set = sets.entry(Type::A).or_default();
        let rdata = vec![10, 0, 0, address];
        set.ttl = ttl;
        match set.position(Type::A, &rdata) {
            Some(known) => drop(set.records.remove(known)),
            None => set.records.push(rdata),
        }
        if set.records.is_empty() {
            sets.remove(&Type::A);
        }
        let origin = draft.origin().to_name();
        let (_, soa) = draft.soa().unwrap();
        let next = Soa::parse(&soa).unwrap().serial + 1;
        draft.edit(&origin).get_mut(&Type::SOA).unwrap().records = vec![Soa::with_serial(&soa, next)];
        draft.difference()
    }

    /// What `merged` says of two, without a map that lasts: the definition, and too slow for thousands.
    fn followed_by(one: Difference, next: Difference) -> Difference {
        let key = |record: &Record| {
            (record.owner.clone(), record.rtype, record.ttl, canonical(record.rtype, &record.rdata).into_owned())
        };
        let indices = |records: &[Record]| -> HashMap<_, usize> {
            records.iter().enumerate().map(|(index, record)| (key(record), index)).collect()
        };
        // What the first one added and the second one deletes was never there; what it deleted and comes back never
        // went.
        let (came, went) = (indices(&one.added), indices(&one.deleted));
        let cancelled = |records: &[Record], known: &HashMap<_, usize>| -> HashSet<usize> {
            records.iter().filter_map(|record| known.get(&key(record)).copied()).collect()
        };
        let (gone_again, back_again) = (cancelled(&next.deleted, &came), cancelled(&next.added, &went));
        let keep = |records: Vec<Record>, without: &HashSet<usize>| -> Vec<Record> {
            let kept = records.into_iter().enumerate().filter(|(index, _)| !without.contains(index));
            kept.map(|(_, record)| record).collect()
        };
        let new = |records: Vec<Record>, known: &HashMap<_, usize>| {
            records.into_iter().filter(|record| !known.contains_key(&key(record))).collect::<Vec<_>>()
        };
        let mut deleted = keep(one.deleted, &back_again);
        deleted.extend(new(next.deleted, &came));
        // The new SOA stands first.
        let mut added = new(next.added, &went);
        added.extend(keep(one.added, &gone_again));
        Difference { from: one.from, to: next.to, deleted, added }
    }

    /// SOA first, and the others in an order of their own.
    fn sorted(difference: &Difference) -> [Vec<String>; 2] {
        [&difference.deleted, &difference.added].map(|side| {
            let mut lines: Vec<String> = side.iter().map(ToString::to_string).collect();
            lines[1..].sort();
            lines
        })
    }

    proptest! {
        #[test]
        fn differences_lead_from_the_old_zone_to_the_new_one(
            changes in proptest::collection::vec((0..3_u8, 0..3_u8, 1..3_u32), 1..20),
        ) {
            let old = zone(ZONE);
            let mut draft = Draft::new(Arc::clone(&old));
            let differences: Vec<_> = changes.iter().filter_map(|(n, a, t)| change(&mut draft, *n, *a, *t)).collect();
            prop_assert_eq!(differences.len(), changes.len());
            let new = draft.finish().unwrap();
            prop_assert_eq!(new.serial() as usize, 10 + changes.len());

            // One after the other.
            let mut again = Draft::new(Arc::clone(&old));
            for difference in &differences {
                prop_assert_eq!(again.apply(difference), vec![]);
            }
            prop_assert_eq!(lines(&again.finish().unwrap()), lines(&new));

            // As one, and found out from the zones.
            let merged = Difference::merged(differences.clone()).unwrap();
            let by_definition = differences.into_iter().reduce(followed_by).unwrap();
            prop_assert_eq!(sorted(&merged), sorted(&by_definition));
            prop_assert_eq!((merged.from, merged.to), (by_definition.from, by_definition.to));
            prop_assert_eq!((merged.deleted[0].rtype, merged.added[0].rtype), (Type::SOA, Type::SOA));
            for difference in [merged, between(&old, &new).unwrap()] {
                prop_assert_eq!((difference.from, difference.to), (10, new.serial()));
                let mut again = Draft::new(Arc::clone(&old));
                prop_assert_eq!(again.apply(&difference), vec![]);
                prop_assert_eq!(lines(&again.finish().unwrap()), lines(&new));
            }
        }
    }

    #[test]
    fn differences_that_lead_back_to_the_same_serial_still_begin_with_soa() {
        let records = |text: &str| zonefile::records(Path::new("test"), text.as_bytes()).unwrap();
        let soa = |serial: u32| records(&format!("crepes.fr. 300 SOA ns.crepes.fr. h. {serial} 1 1 1 1"));
        let steps = [10, 0x7000_0000, 0xe000_0000, 10];
        let differences = steps.windows(2).map(|step| Difference::new(soa(step[0]), soa(step[1])).unwrap());
        let merged = Difference::merged(differences.collect()).unwrap();
        assert_eq!(Difference::new(merged.deleted.clone(), merged.added.clone()), Some(merged));
    }

    #[test]
    fn a_name_in_data_that_is_written_another_way_is_so_after_merging() {
        let records = |text: &str| zonefile::records(Path::new("test"), text.as_bytes()).unwrap();
        let side = |serial: u32, target: &str| {
            let soa = format!("crepes.fr. 300 SOA ns.crepes.fr. h. {serial} 1 1 1 1\n");
            records(&(soa + &format!("www.crepes.fr. 60 CNAME {target}\n")))
        };
        let step = |from, old: &str, new: &str| Difference::new(side(from, old), side(from + 1, new)).unwrap();
        let merged = Difference::merged(vec![step(10, "A.", "a."), step(11, "a.", "B."), step(12, "B.", "b.")]);
        assert_eq!(merged, Difference::new(side(10, "A."), side(13, "b.")));
        let merged = Difference::merged(vec![step(10, "A.b.", "a.b."), step(11, "a.b.", "a.B.")]);
        assert_eq!(merged, Difference::new(side(10, "A.b."), side(12, "a.B.")));
    }

    #[test]
    fn names_come_and_go_with_their_data() {
        let mut draft = Draft::new(zone(ZONE));
        let name = |text: &str| text.parse::<Name>().unwrap();
        draft.edit(&name("a.b.c.crepes.fr")).clear();
        let set = Set { ttl: 1, records: vec![vec![10, 0, 0, 1]] };
        draft.edit(&name("x.y.crepes.fr")).insert(Type::A, set);
        let new = draft.finish().unwrap();
        for (text, sets) in [
            ("crepes.fr", Some(2)),
            ("ns.crepes.fr", Some(1)),
            ("a.b.c.crepes.fr", None),
            ("b.c.crepes.fr", None),
            ("c.crepes.fr", None),
            ("x.y.crepes.fr", Some(1)),
            ("y.crepes.fr", Some(0)),
        ] {
            assert_eq!(new.node(name(text).borrow()).map(|node| node.sets().count()), sets, "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_told() {
        let record = |text: &str| zonefile::records(Path::new("test"), text.as_bytes()).unwrap().remove(0);
        let soa = |serial: u32| {
            record(&format!("crepes.fr. 300 SOA ns.crepes.fr. hostmaster.crepes.fr. {serial} 3600 900 604800 300"))
        };
        let (gone, known, other) =
            (record("no.crepes.fr. 1 A 10.0.0.1"), record("ns.crepes.fr. 1 A 10.77.1.53"), record("edu. 1 A 10.0.0.1"));
        let difference = Difference::new(
            vec![soa(10), gone.clone()],
            vec![soa(11), known.clone(), other.clone(), record("new.crepes.fr. 1 A 10.0.0.1")],
        );
        let mut draft = Draft::new(zone(ZONE));
        let misfits = draft.apply(&difference.unwrap());
        assert_eq!(misfits, [Misfit::Missing(gone), Misfit::Present(known), Misfit::OutOfZone(other)]);
        let new = draft.finish().unwrap();
        assert_eq!(new.serial(), 11);
        assert!(new.node("new.crepes.fr".parse::<Name>().unwrap().borrow()).is_some());
    }

    #[test]
    fn a_signature_has_the_ttl_of_what_it_signs() {
        let signature =
            |rtype: &str| format!("ns RRSIG {rtype} 13 3 60 20260131120000 20260101120000 1 crepes.fr. AQID\n");
        let text = ZONE.replace("ns    A", "ns 60 A") + "ns TXT \"x\"\n" + &signature("A") + &signature("TXT");
        let difference = between(&zone(&ZONE.replace(" 10 ", " 9 ")), &zone(&text)).unwrap();
        let ttls: Vec<_> = difference.added.iter().filter(|it| it.rtype == Type::RRSIG).map(|it| it.ttl).collect();
        assert_eq!(ttls, [60, 300]);
    }

    #[test]
    fn what_is_rolled_back_was_never_there() {
        let mut draft = Draft::new(zone(ZONE));
        change(&mut draft, 0, 1, 1).unwrap();
        let owner = "b.crepes.fr".parse().unwrap();
        draft.edit(&owner).insert(Type::A, Set { ttl: 1, records: vec![vec![1, 2, 3, 4]] });
        assert!(draft.has_changed());
        draft.roll_back();
        assert!(!draft.has_changed());
        let text = lines(&draft.finish().unwrap());
        assert!(text.contains(&"a.crepes.fr. 1 IN A 10.0.0.1".to_owned()));
        assert!(!text.iter().any(|line| line.starts_with("b.")), "{text:?}");
    }
}
