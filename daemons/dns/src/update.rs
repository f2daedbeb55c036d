//! Changes that a client asks for (RFC 2136).
//!
//! The four sections of a message have other names here, and other jobs:
//!
//! ```text
//!   zone            crepes.fr. SOA                         which zone
//!   prerequisites   www.crepes.fr. must not exist          what must be true, or nothing happens
//!   updates         add www.crepes.fr. 3600 A 10.77.1.80   what to do, in this order
//!   additional      TSIG                                   who asks
//! ```
//!
//! Either all of it happens or nothing. What happens is done to a [`Draft`]; the [`Difference`] that comes out of it is
//! what is written into the journal.

use crate::{
    draft::{Difference, Draft, Set},
    message::Rcode,
    name::Name,
    rdata::{self, Class, Type},
    record::{Message, Record, Soa, is_newer},
};
use std::fmt;

/// Why nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the client is told.
    pub rcode: Rcode,
    /// Why, for whoever watches.
    pub because: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.because)
    }
}

fn refuse<T>(rcode: Rcode, because: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { rcode, because: because.into() })
}

/// The zone that a message is about (§3.1).
///
/// # Errors
/// FORMERR: there is not exactly one, or its type is another than SOA.
pub fn zone(message: &Message) -> Result<&Name, Refusal> {
    match &message.questions[..] {
        // §3.1.2: a class that we do not serve has no zone of ours.
        [(_, Type::SOA, class)] if *class != Class::IN => {
            refuse(Rcode::NOTAUTH, "the zone is of a class that is not served")
        }
        [(zone, Type::SOA, _)] => Ok(zone),
        _ => refuse(Rcode::FORMERR, "the zone section must name one zone, with the type SOA"),
    }
}

/// Does what a message says, and tells what has changed: `None` if nothing did.
///
/// # Errors
/// Nothing was changed.
pub fn perform(draft: &mut Draft, message: &Message) -> Result<Option<Difference>, Refusal> {
    check_prerequisites(draft, &message.answers)?;
    let changes = prescan(draft, &message.authority)?;
    let serial = serial(draft);
    for change in changes {
        change.perform(draft);
    }
    if !draft.has_changed() {
        return Ok(None);
    }
    // §3.6: whoever changed something changed the serial too, or we do: once for the whole message.
    if self::serial(draft) == serial {
        bump_serial(draft);
    }
    Ok(draft.difference())
}

/// The serial of the zone as it is now.
fn serial(draft: &Draft) -> u32 {
    draft.soa().and_then(|(_, rdata)| Soa::parse(&rdata)).map_or(0, |soa| soa.serial)
}

/// RFC 1982 §3.1: the next one; after the largest comes 0.
fn bump_serial(draft: &mut Draft) {
    let next = serial(draft).wrapping_add(1);
    let origin = draft.origin().to_name();
    if let Some(set) = draft.edit(&origin).get_mut(&Type::SOA) {
        set.records.iter_mut().for_each(|rdata| *rdata = Soa::with_serial(rdata, next));
    }
}

/// §3.2: whether all that must be true is true.
fn check_prerequisites(draft: &Draft, prerequisites: &[Record]) -> Result<(), Refusal> {
    // §3.2.3: the records of a set that must be exactly so come one by one; they are compared when all are there.
    let mut wanted: Vec<(&Name, Type, Set)> = vec![];
    for Record { owner, rtype, class, ttl, rdata } in prerequisites {
        // §3.2.5, line by line.
        if *ttl != 0 {
            return refuse(Rcode::FORMERR, format!("the prerequisite for {owner} has a TTL"));
        }
        check_zone(draft, owner)?;
        let is_for_name = *rtype == Type::ANY;
        if rtype.is_meta() && !is_for_name {
            return refuse(Rcode::FORMERR, format!("a prerequisite about {rtype}, which no zone has"));
        }
        match *class {
            Class::ANY | Class::NONE if !rdata.is_empty() => {
                return refuse(
                    Rcode::FORMERR,
                    format!("the prerequisite for {owner} has data where it must have none"),
                );
            }
            // §2.4.4: the name is in use.
            Class::ANY if is_for_name => {
                if draft.sets(owner).is_empty() {
                    return refuse(Rcode::NXDOMAIN, format!("{owner} should be in use, and is not"));
                }
            }
            // §2.4.1: the set exists, whatever is in it.
            Class::ANY => {
                if draft.set(owner, *rtype).is_none() {
                    return refuse(Rcode::NXRRSET, format!("{owner} should have {rtype}, and has none"));
                }
            }
            // §2.4.5: the name is not in use.
            Class::NONE if is_for_name => {
                if !draft.sets(owner).is_empty() {
                    return refuse(Rcode::YXDOMAIN, format!("{owner} should not be in use, and is"));
                }
            }
            // §2.4.3: the set does not exist.
            Class::NONE => {
                if draft.set(owner, *rtype).is_some() {
                    return refuse(Rcode::YXRRSET, format!("{owner} should have no {rtype}, and has some"));
                }
            }
            // §2.4.2: the set exists and is exactly this one.
            Class::IN if !is_for_name && rdata::is_well_formed(*rtype, rdata) => {
                let known = wanted.iter().position(|(name, known, _)| *name == owner && known == rtype);
                let set = match known {
                    Some(known) => &mut wanted[known].2,
                    None => &mut wanted.push_mut((owner, *rtype, Set::default())).2,
                };
                if set.position(*rtype, rdata).is_none() {
                    set.records.push(rdata.clone());
                }
            }
            Class::IN => return refuse(Rcode::FORMERR, format!("the prerequisite for {owner} {rtype} is malformed")),
            class => return refuse(Rcode::FORMERR, format!("a prerequisite of class {class}")),
        }
    }
    for (owner, rtype, wanted) in wanted {
        // §3.2.3: the TTLs are not compared.
        let found = draft.set(owner, rtype).unwrap_or_default();
        let is_same = found.records.len() == wanted.records.len()
            && wanted.records.iter().all(|rdata| found.position(rtype, rdata).is_some());
        if !is_same {
            return refuse(Rcode::NXRRSET, format!("{owner} should have other {rtype} records than it has"));
        }
    }
    Ok(())
}

fn check_zone(draft: &Draft, name: &Name) -> Result<(), Refusal> {
    if name.borrow().is_within(draft.origin()) {
        Ok(())
    } else {
        refuse(Rcode::NOTZONE, format!("{name} is not in the zone {}", draft.origin()))
    }
}

/// One change (§2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change<'m> {
    /// §2.5.1.
    Add(&'m Record),
    /// §2.5.2.
    DeleteSet(&'m Name, Type),
    /// §2.5.3.
    DeleteName(&'m Name),
    /// §2.5.4.
    Delete(&'m Record),
}

/// §3.4.1: all updates are looked at before the first one is done, so that none is done if one is malformed.
fn prescan<'m>(draft: &Draft, updates: &'m [Record]) -> Result<Vec<Change<'m>>, Refusal> {
    let change = |record: &'m Record| {
        let Record { owner, rtype, class, ttl, rdata } = record;
        check_zone(draft, owner)?;
        let formerr = |because: &str| refuse(Rcode::FORMERR, format!("the update of {owner} {rtype} {because}"));
        let is_bare = *ttl == 0 && rdata.is_empty();
        match *class {
            Class::IN | Class::NONE if rtype.is_meta() => formerr("is about a type that no zone has"),
            Class::IN | Class::NONE if !rdata::is_well_formed(*rtype, rdata) => formerr("has malformed data"),
            Class::IN => Ok(Change::Add(record)),
            Class::NONE if *ttl != 0 => formerr("deletes, and has a TTL"),
            Class::NONE => Ok(Change::Delete(record)),
            Class::ANY if !is_bare => formerr("deletes all there is, and has a TTL or data"),
            Class::ANY if *rtype == Type::ANY => Ok(Change::DeleteName(owner)),
            Class::ANY if rtype.is_meta() => formerr("is about a type that no zone has"),
            Class::ANY => Ok(Change::DeleteSet(owner, *rtype)),
            class => formerr(&format!("is of class {class}")),
        }
    };
    updates.iter().map(change).collect()
}

/// What DNSSEC says about an alias may stand beside it (RFC 4034 §3 and §4, and KEY of RFC 2181 §10.1).
fn may_stand_beside_cname(rtype: Type) -> bool {
    [Type::CNAME, Type::RRSIG, Type::NSEC, Type(25)].contains(&rtype)
}

impl Change<'_> {
    /// §3.4.2. What may not be done is left out without a word, as §3.4.2.7 has it.
    fn perform(self, draft: &mut Draft) {
        let origin = draft.origin().to_name();
        match self {
            Change::Add(Record { owner, rtype, ttl, rdata, .. }) => {
                let sets = draft.sets(owner);
                // §3.4.2.2: an alias has no other data, and other data get no alias.
                let conflict = match *rtype {
                    Type::CNAME => sets.keys().any(|known| !may_stand_beside_cname(*known)),
                    other => sets.contains_key(&Type::CNAME) && !may_stand_beside_cname(other),
                };
                if conflict {
                    return;
                }
                // RFC 6672 §5.2: no second DNAME at a name, and nothing new below one.
                let above = std::iter::successors(owner.borrow().parent(), |name| name.parent());
                let below_dname = above
                    .take_while(|name| name.is_within(origin.borrow()))
                    .any(|name| draft.set(&name.to_name(), Type::DNAME).is_some());
                if below_dname {
                    return;
                }
                if *rtype == Type::SOA {
                    // §3.4.2.2: SOA replaces SOA, at the apex, with a newer serial.
                    let old = sets.get(&Type::SOA).and_then(|set| Soa::parse(set.records.first()?));
                    let (Some(old), Some(new)) = (old, Soa::parse(rdata)) else { return };
                    if !is_newer(new.serial, old.serial) {
                        return;
                    }
                }
                let set = draft.edit(owner).entry(*rtype).or_default();
                match set.position(*rtype, rdata) {
                    // One that is there is replaced, so that its TTL changes, and the case of the names in it.
                    Some(known) => set.records[known].clone_from(rdata),
                    // §3.4.2.2: of these there is one.
                    None if [Type::CNAME, Type::SOA].contains(rtype) => set.records = vec![rdata.clone()],
                    None if *rtype == Type::DNAME && !set.records.is_empty() => return,
                    None => set.records.push(rdata.clone()),
                }
                // RFC 2181 §5.2: the TTLs of a set are one; the newest word counts.
                set.ttl = *ttl;
            }
            // §3.4.2.3: a zone keeps its SOA and NS.
            Change::DeleteName(owner) => {
                let is_apex = *owner == origin;
                draft.edit(owner).retain(|rtype, _| is_apex && [Type::SOA, Type::NS].contains(rtype));
            }
            Change::DeleteSet(owner, rtype) => {
                if *owner != origin || ![Type::SOA, Type::NS].contains(&rtype) {
                    draft.edit(owner).remove(&rtype);
                }
            }
            // §3.4.2.4.
            Change::Delete(Record { owner, rtype, rdata, .. }) => {
                if *rtype == Type::SOA {
                    return;
                }
                let is_apex = *owner == origin;
                let sets = draft.edit(owner);
                let Some(set) = sets.get_mut(rtype) else { return };
                // The last NS of the zone stays.
                if is_apex && *rtype == Type::NS && set.records.len() == 1 {
                    return;
                }
                if let Some(known) = set.position(*rtype, rdata) {
                    set.records.remove(known);
                }
                if set.records.is_empty() {
                    sets.remove(rtype);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zonefile::{self, Rewrite};
    use std::{path::Path, sync::Arc};

    const ZONE: &str = "$TTL 300
@      SOA   ns hostmaster 10 1h 15m 1w 5m
       NS    ns
ns     A     10.77.1.53
www    A     10.77.1.80
www    A     10.77.1.81
alias  CNAME www
mail   MX    10 www
moved  DNAME example.net.
a.b.c  A     10.77.1.9
";

    fn draft() -> Draft {
        let name: Name = "crepes.fr".parse().unwrap();
        let loaded = zonefile::read(name.borrow(), Path::new("zone"), ZONE.as_bytes(), None, Rewrite::None).unwrap();
        Draft::new(Arc::new(loaded.zone))
    }

    /// `class ttl owner type data`; without data it is empty.
    fn record(line: &str) -> Record {
        let words: Vec<&str> = line.splitn(5, ' ').collect();
        let class = match words[0] {
            "IN" => Class::IN,
            "ANY" => Class::ANY,
            "NONE" => Class::NONE,
            "CH" => Class::CH,
            other => panic!("{other}"),
        };
        let owner: Name = if words[2] == "@" { "crepes.fr" } else { words[2] }.parse().unwrap();
        let rtype = match words[3] {
            "ANY" => Type::ANY,
            "AXFR" => Type::AXFR,
            known => known.parse().unwrap(),
        };
        let rdata = words.get(4).map_or_else(Vec::new, |data| {
            let text = format!("x. 0 IN {} {data}", words[3]);
            zonefile::records(Path::new("test"), text.as_bytes()).unwrap().remove(0).rdata
        });
        Record { owner, rtype, class, ttl: words[1].parse().unwrap(), rdata }
    }

    fn message(prerequisites: &[&str], updates: &[&str]) -> Message {
        let header = crate::message::Header::parse(&[0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
        Message {
            header,
            questions: vec![("crepes.fr".parse().unwrap(), Type::SOA, Class::IN)],
            answers: prerequisites.iter().map(|line| record(line)).collect(),
            authority: updates.iter().map(|line| record(line)).collect(),
            additional: vec![],
            tsig_at: None,
        }
    }

    #[test]
    fn prerequisites_hold_or_have_their_rcode() {
        for (prerequisites, want) in [
            // §2.4.1
            (&["ANY 0 www.crepes.fr A"][..], Rcode::NOERROR),
            (&["ANY 0 WWW.crepes.fr A"], Rcode::NOERROR),
            (&["ANY 0 www.crepes.fr AAAA"], Rcode::NXRRSET),
            (&["ANY 0 nobody.crepes.fr A"], Rcode::NXRRSET),
            // §2.4.2, whatever the order and the TTLs.
            (&["IN 0 www.crepes.fr A 10.77.1.81", "IN 0 www.crepes.fr A 10.77.1.80"], Rcode::NOERROR),
            (&["IN 0 mail.crepes.fr MX 10 WWW.Crepes.fr."], Rcode::NOERROR),
            (&["IN 0 www.crepes.fr A 10.77.1.80"], Rcode::NXRRSET),
            (
                &[
                    "IN 0 www.crepes.fr A 10.77.1.80",
                    "IN 0 www.crepes.fr A 10.77.1.81",
                    "IN 0 www.crepes.fr A 10.77.1.82",
                ],
                Rcode::NXRRSET,
            ),
            (&["IN 0 nobody.crepes.fr A 10.77.1.80"], Rcode::NXRRSET),
            // §2.4.3
            (&["NONE 0 www.crepes.fr AAAA"], Rcode::NOERROR),
            (&["NONE 0 www.crepes.fr A"], Rcode::YXRRSET),
            // §2.4.4: an empty non-terminal is not in use.
            (&["ANY 0 www.crepes.fr ANY"], Rcode::NOERROR),
            (&["ANY 0 nobody.crepes.fr ANY"], Rcode::NXDOMAIN),
            (&["ANY 0 b.c.crepes.fr ANY"], Rcode::NXDOMAIN),
            // §2.4.5
            (&["NONE 0 nobody.crepes.fr ANY"], Rcode::NOERROR),
            (&["NONE 0 b.c.crepes.fr ANY"], Rcode::NOERROR),
            (&["NONE 0 www.crepes.fr ANY"], Rcode::YXDOMAIN),
            // §3.2.5: malformed, or of another zone.
            (&["ANY 1 www.crepes.fr A"], Rcode::FORMERR),
            (&["ANY 0 www.crepes.fr A 10.77.1.80"], Rcode::FORMERR),
            (&["NONE 0 www.crepes.fr A 10.77.1.80"], Rcode::FORMERR),
            (&["IN 0 www.crepes.fr A"], Rcode::FORMERR),
            (&["IN 0 www.crepes.fr ANY"], Rcode::FORMERR),
            (&["CH 0 www.crepes.fr A"], Rcode::FORMERR),
            (&["ANY 0 www.crepes.fr AXFR"], Rcode::FORMERR),
            (&["ANY 0 www.hamburger.edu A"], Rcode::NOTZONE),
            // The first that does not hold is told.
            (&["ANY 0 nobody.crepes.fr A", "ANY 0 www.hamburger.edu A"], Rcode::NXRRSET),
        ] {
            let mut draft = draft();
            let result = perform(&mut draft, &message(prerequisites, &["IN 60 new.crepes.fr A 10.77.1.1"]));
            let got = result.as_ref().map_or_else(|refusal| refusal.rcode, |_| Rcode::NOERROR);
            assert_eq!(got, want, "{prerequisites:?}: {result:?}");
            assert_eq!(draft.set(&"new.crepes.fr".parse().unwrap(), Type::A).is_some(), want == Rcode::NOERROR);
        }
    }

    #[test]
    fn changes_are_made_as_the_rfc_says() {
        for (updates, want) in [
            // §2.5.1
            (&["IN 60 new.crepes.fr A 10.77.1.1"][..], &["+ new.crepes.fr. 60 IN A 10.77.1.1"][..]),
            (&["IN 300 www.crepes.fr A 10.77.1.80"], &[]),
            // A set has one TTL.
            (
                &["IN 60 www.crepes.fr A 10.77.1.80"],
                &[
                    "- www.crepes.fr. 300 IN A 10.77.1.80",
                    "- www.crepes.fr. 300 IN A 10.77.1.81",
                    "+ www.crepes.fr. 60 IN A 10.77.1.80",
                    "+ www.crepes.fr. 60 IN A 10.77.1.81",
                ],
            ),
            // §3.4.2.2: alias and other data exclude each other.
            (&["IN 60 www.crepes.fr CNAME ns.crepes.fr."], &[]),
            (&["IN 60 alias.crepes.fr A 10.77.1.1"], &[]),
            (
                &["IN 60 alias.crepes.fr CNAME ns.crepes.fr."],
                &["- alias.crepes.fr. 300 IN CNAME www.crepes.fr.", "+ alias.crepes.fr. 60 IN CNAME ns.crepes.fr."],
            ),
            // In this order it can be done: the updates are done one after the other.
            (
                &["ANY 0 alias.crepes.fr CNAME", "IN 60 alias.crepes.fr A 10.77.1.1"],
                &["- alias.crepes.fr. 300 IN CNAME www.crepes.fr.", "+ alias.crepes.fr. 60 IN A 10.77.1.1"],
            ),
            // RFC 6672 §5.2.
            (&["IN 60 x.moved.crepes.fr A 10.77.1.1"], &[]),
            (&["IN 60 moved.crepes.fr DNAME example.org."], &[]),
            // §2.5.2
            (
                &["ANY 0 www.crepes.fr A"],
                &["- www.crepes.fr. 300 IN A 10.77.1.80", "- www.crepes.fr. 300 IN A 10.77.1.81"],
            ),
            (&["ANY 0 www.crepes.fr MX"], &[]),
            (&["ANY 0 nobody.crepes.fr MX"], &[]),
            (&["ANY 0 @ SOA", "ANY 0 @ NS"], &[]),
            // §2.5.3; at the apex SOA and NS stay.
            (&["ANY 0 mail.crepes.fr ANY"], &["- mail.crepes.fr. 300 IN MX 10 www.crepes.fr."]),
            (&["IN 60 @ MX 5 www.crepes.fr.", "ANY 0 @ ANY"], &[]),
            // §2.5.4
            (&["NONE 0 www.crepes.fr A 10.77.1.80"], &["- www.crepes.fr. 300 IN A 10.77.1.80"]),
            (&["NONE 0 mail.crepes.fr MX 10 WWW.crepes.fr."], &["- mail.crepes.fr. 300 IN MX 10 www.crepes.fr."]),
            (&["NONE 0 www.crepes.fr A 10.77.1.82"], &[]),
            // The last NS stays, and so does SOA.
            (&["NONE 0 @ NS ns.crepes.fr."], &[]),
            (&["NONE 0 @ SOA ns.crepes.fr. hostmaster.crepes.fr. 10 3600 900 604800 300"], &[]),
            (
                &["IN 300 @ NS other.crepes.fr.", "NONE 0 @ NS ns.crepes.fr."],
                &["- crepes.fr. 300 IN NS ns.crepes.fr.", "+ crepes.fr. 300 IN NS other.crepes.fr."],
            ),
            // What comes and goes in one message has never been.
            (&["IN 60 new.crepes.fr A 10.77.1.1", "ANY 0 new.crepes.fr ANY"], &[]),
            // §3.4.2.2: SOA stands at the apex, and takes a newer serial only.
            (&["IN 300 www.crepes.fr SOA a. b. 20 1 1 1 1"], &[]),
            (&["IN 300 @ SOA a. b. 10 1 1 1 1"], &[]),
            (&["IN 300 @ SOA a. b. 9 1 1 1 1"], &[]),
            (&["IN 300 @ SOA a. b. 2147483658 1 1 1 1"], &[]),
        ] {
            let difference = perform(&mut draft(), &message(&[], updates)).unwrap();
            let got: Vec<String> = difference
                .iter()
                .flat_map(|difference| {
                    assert_eq!((difference.from, difference.to), (10, 11), "the serial is changed once");
                    assert_eq!((difference.deleted[0].rtype, difference.added[0].rtype), (Type::SOA, Type::SOA));
                    let deleted = difference.deleted[1..].iter().map(|record| format!("- {record}"));
                    deleted.chain(difference.added[1..].iter().map(|record| format!("+ {record}")))
                })
                .collect();
            assert_eq!(got, want, "{updates:?}");
        }
    }

    #[test]
    fn whoever_sets_a_newer_serial_has_it() {
        let difference =
            perform(&mut draft(), &message(&[], &["IN 300 @ SOA ns.crepes.fr. b. 20 1 1 1 1"])).unwrap().unwrap();
        assert_eq!((difference.from, difference.to, difference.len()), (10, 20, 2));
    }

    #[test]
    fn after_the_largest_serial_comes_0() {
        let mut draft = draft();
        // Half the way round at a time.
        for serial in [2_000_000_000_u32, 4_000_000_000, u32::MAX] {
            let soa = format!("IN 300 @ SOA ns.crepes.fr. b. {serial} 1 1 1 1");
            assert_eq!(perform(&mut draft, &message(&[], &[&soa])).unwrap().unwrap().to, serial);
        }
        let difference = perform(&mut draft, &message(&[], &["IN 60 x.crepes.fr A 10.77.1.1"])).unwrap().unwrap();
        assert_eq!((difference.from, difference.to), (u32::MAX, 0));
    }

    #[test]
    fn nothing_is_done_when_one_of_the_changes_is_malformed() {
        for (update, want) in [
            ("IN 60 www.hamburger.edu A 10.77.1.1", Rcode::NOTZONE),
            ("IN 60 x.crepes.fr ANY", Rcode::FORMERR),
            ("IN 60 x.crepes.fr A", Rcode::FORMERR),
            ("ANY 1 x.crepes.fr A", Rcode::FORMERR),
            ("ANY 0 x.crepes.fr A 10.77.1.1", Rcode::FORMERR),
            ("ANY 0 x.crepes.fr AXFR", Rcode::FORMERR),
            ("NONE 1 x.crepes.fr A 10.77.1.1", Rcode::FORMERR),
            ("NONE 0 x.crepes.fr ANY", Rcode::FORMERR),
            ("CH 60 x.crepes.fr A 10.77.1.1", Rcode::FORMERR),
        ] {
            let mut draft = draft();
            let refusal = perform(&mut draft, &message(&[], &["ANY 0 www.crepes.fr ANY", update])).unwrap_err();
            assert_eq!(refusal.rcode, want, "{update}: {refusal}");
            assert!(!draft.has_changed(), "{update}");
        }
    }

    #[test]
    fn the_zone_section_names_one_zone() {
        let with = |questions: &[(&str, Type, Class)]| {
            let questions =
                questions.iter().map(|(name, rtype, class)| (name.parse().unwrap(), *rtype, *class)).collect();
            let message = Message { questions, ..message(&[], &[]) };
            zone(&message).cloned().map_err(|refusal| refusal.rcode)
        };
        let soa = ("crepes.fr", Type::SOA, Class::IN);
        assert_eq!(with(&[soa]), Ok("crepes.fr".parse().unwrap()));
        assert_eq!(with(&[]), Err(Rcode::FORMERR));
        assert_eq!(with(&[soa, soa]), Err(Rcode::FORMERR));
        assert_eq!(with(&[("crepes.fr", Type::A, Class::IN)]), Err(Rcode::FORMERR));
        assert_eq!(with(&[("crepes.fr", Type::SOA, Class::CH)]), Err(Rcode::NOTAUTH));
    }
}
