//! What a signed zone of ours answers is found right by the validator, and nothing that was changed on the way is.
//!
//! The answers come from the server as a client gets them, are read back as a resolver reads them, and are then validated: with the
//! keys of the zone, or with the chain of trust to it.

use super::*;
use crate::{
    Rewrite,
    authority::{Identity, Rotation, Zones},
    cookie::Cookies,
    message,
    rate::Rates,
    rdata::Class,
    record::{Message, Record},
    resolver::{
        deduce::{Absent, Denials},
        scrub::{self, Asked, End, Said, Way},
        trust::{Anchors, Chain, Links, Need, State, ToldDs},
    },
    respond::{Asker, Carrier, Policy, Response, World, respond},
    sign::{self, Signer},
    zone::Zone,
    zonefile,
};
use proptest::prelude::*;
use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _, net::Ipv4Addr, path::Path, time::Duration};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// In November 2026, when the signatures of `tests/zones` are good.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

fn world(zones: Vec<Zone>) -> World {
    World {
        everybody: Arc::new(Zones::new(zones.into_iter().map(Arc::new).collect())),
        views: vec![],
        resolver: None,
        identity: Arc::new(Identity::new("", "")),
        policy: Arc::new(Policy {
            cookies: Cookies::new([7; 16]),
            rates: Rates::new(0, 0, SystemTime::UNIX_EPOCH),
            idle_timeout: Duration::from_secs(10),
        }),
        udp_octets_max: 1232,
    }
}

fn zone_of(origin: &str, text: &str) -> Zone {
    zonefile::read(name(origin).borrow(), Path::new("test"), text.as_bytes(), None, Rewrite::None).unwrap().zone
}

/// One of those in `tests/zones`.
fn shipped(origin: &str) -> Zone {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/zones/{origin}.zone"));
    zonefile::load(name(origin).borrow(), &file, Rewrite::None).unwrap().zone
}

/// What the server answers to a client that sets DO, over TCP.
fn ask(world: &World, about: &Name, rtype: Type) -> Message {
    let mut query = vec![0xab, 0xcd, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    query.extend(about.borrow().as_wire());
    query.extend(rtype.0.to_be_bytes());
    query.extend([0, 1, 0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0]);
    let mut buffer = vec![0; 65535];
    let asker = Asker { address: Ipv4Addr::LOCALHOST.into(), carrier: Carrier::Tcp, now: SystemTime::UNIX_EPOCH };
    match respond(world, &message::receive(&query), asker, &mut Rotation::default(), &mut buffer) {
        Response::Send { octets, .. } => Message::parse(&buffer[..octets]).unwrap(),
        _ => panic!("{about} {rtype}: no answer"),
    }
}

fn read(message: &Message, zone: &Name, about: &Name, rtype: Type) -> Said {
    scrub::read(message, Asked { zone: zone.borrow(), name: about.borrow(), rtype, way: Way::Down })
}

/// The keys of a zone, which we trust as they are.
fn keys_of(world: &World, zone: &Name) -> Keys {
    let Said::Answer(scrub::Answer { end: End::Data(dnskeys), .. }) =
        read(&ask(world, zone, Type::DNSKEY), zone, zone, Type::DNSKEY)
    else {
        panic!("{zone} has no keys")
    };
    let ds: Vec<Vec<u8>> = dnskeys.rdata().map(|dnskey| sign::ds(zone.borrow(), dnskey)).collect();
    match keys(zone.borrow(), &dnskeys, &ds, now(), &mut Work::default()) {
        Ok(Trusted::Keys(keys)) => keys,
        other => panic!("{zone}: {other:?}"),
    }
}

/// Validates all that was said, as a resolver must before it sets AD.
fn judge(said: &Said, rtype: Type, keys: &Keys) -> Result<Proved, Bogus> {
    let mut work = Work::default();
    let mut worst = Proved::Secure;
    let mut take = |proved: Proved| {
        if proved != Proved::Secure {
            worst = proved;
        }
    };
    let data = |it: &Set, work: &mut Work| match set(it, keys, now(), work)?.wildcard {
        None => Ok(Proved::Secure),
        Some(encloser) => {
            let proofs = Denial { soa: None, proofs: it.proofs.clone() };
            let claim = Claim::Expanded(encloser);
            denial(&proofs, it.owner.borrow(), claim, keys, now(), work).map(|denied| denied.proved)
        }
    };
    match said {
        Said::Answer(answer) => {
            for alias in answer.aliases.iter().filter(|alias| !alias.is_made) {
                take(data(alias, &mut work)?);
            }
            let (denied, claim) = match &answer.end {
                End::Leads => return Ok(worst),
                End::Data(set) if set.is_made => return Ok(worst),
                End::Data(set) => {
                    take(data(set, &mut work)?);
                    return Ok(worst);
                }
                End::NoData(denied) => (denied, Claim::NoData(rtype)),
                End::NoName(denied) => (denied, Claim::NoName),
            };
            take(denial(denied, answer.name.borrow(), claim, keys, now(), &mut work)?.proved);
        }
        Said::Referral(referral) => {
            let below = referral.servers.owner.borrow();
            if let Some(ds) = referral.about_keys.iter().find(|set| set.rtype == Type::DS) {
                take(data(ds, &mut work)?);
            } else {
                let proofs = Denial { soa: None, proofs: referral.about_keys.clone() };
                match cut(&proofs, below, keys, now(), &mut work)?.0 {
                    Cut::Unsigned => {}
                    Cut::OptOut => take(Proved::OptOut),
                    other => panic!("{below}: {other:?}"),
                }
            }
        }
        Said::Useless(because) => panic!("{because}"),
    }
    Ok(worst)
}

/// All sets in what was said.
fn sets_of(said: &mut Said) -> Vec<&mut Set> {
    let sets: Vec<&mut Arc<Set>> = match said {
        Said::Answer(answer) => {
            let end = match &mut answer.end {
                End::Data(set) => vec![set],
                End::NoData(denial) | End::NoName(denial) => {
                    let Denial { soa, proofs } = Arc::make_mut(denial);
                    soa.iter_mut().chain(proofs).collect()
                }
                End::Leads => vec![],
            };
            // RFC 6672 §5.3.1: the CNAME that is made of a DNAME is not signed.
            answer.aliases.iter_mut().chain(end).filter(|set| !set.is_made).collect()
        }
        Said::Referral(referral) => referral.about_keys.iter_mut().collect(),
        Said::Useless(_) => vec![],
    };
    sets.into_iter().map(Arc::make_mut).collect()
}

#[test]
fn a_signature_that_was_right_is_known_and_no_other_is() {
    let (world, origin) = (world(vec![shipped("nsec.test")]), name("nsec.test"));
    let keys = keys_of(&world, &origin);
    let known = Arc::new(Known::default());
    let about = name("www.nsec.test");
    let Said::Answer(scrub::Answer { end: End::Data(data), .. }) =
        read(&ask(&world, &about, Type::A), &origin, &about, Type::A)
    else {
        panic!("no data")
    };
    let judge = |it: &Set, now| set(it, &keys, now, &mut Work::of(Arc::clone(&known)));
    let count = || known.generations.lock().unwrap()[0].len();
    for _ in 0..2 {
        assert!(judge(&data, now()).is_ok());
        assert_eq!(count(), 1);
    }
    // The same signature, and other data; other data's signature; and its time is over whether it is known or not.
    let mut other = Set::clone(&data);
    other.signatures[0][40] ^= 1;
    assert_eq!(judge(&other, now()), Err(Bogus::WrongSignature));
    let moved = Set::clone(&data).at(name("ns.nsec.test").borrow());
    assert_eq!(judge(&moved, now()), Err(Bogus::WrongSignature));
    assert_eq!(judge(&data, now() + Duration::from_secs(1 << 30)), Err(Bogus::Expired));
    assert_eq!(count(), 1);
    for number in 0..3 * KNOWN_MAX {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        known.add(digest);
    }
    let all = known.generations.lock().unwrap();
    assert!(all.iter().map(HashSet::len).sum::<usize>() <= 2 * KNOWN_MAX);
}

/// Proofs, wherever they stand: those of a denial, and those that go with what a wildcard made.
fn proofs_of(said: &mut Said) -> Vec<&mut Vec<Arc<Set>>> {
    match said {
        Said::Answer(answer) => {
            let (data, denied) = match &mut answer.end {
                End::Data(set) => (Some(set), None),
                End::NoData(denial) | End::NoName(denial) => (None, Some(&mut Arc::make_mut(denial).proofs)),
                End::Leads => (None, None),
            };
            let made = answer.aliases.iter_mut().chain(data).map(|set| &mut Arc::make_mut(set).proofs);
            denied.into_iter().chain(made).filter(|proofs| !proofs.is_empty()).collect()
        }
        Said::Referral(referral) => vec![&mut referral.about_keys],
        Said::Useless(_) => vec![],
    }
}

/// Changes bits of a signature, wherever the set stands.
fn with_flipped(said: &Said, set: usize, octet: usize, bits: u8) -> Said {
    let mut said = said.clone();
    sets_of(&mut said)[set].signatures[0][octet] ^= bits;
    if let [denied, made @ ..] = &mut proofs_of(&mut said)[..] {
        for proofs in made {
            proofs.clone_from(denied);
        }
    }
    said
}

/// Takes one of the proofs out; `None` if there is none with this number.
fn without_proof(said: &Said, number: usize) -> Option<Said> {
    let mut said = said.clone();
    let owner = proofs_of(&mut said).first()?.get(number)?.owner.clone();
    for proofs in proofs_of(&mut said) {
        proofs.retain(|proof| proof.owner != owner);
    }
    Some(said)
}

const TYPES: [Type; 9] =
    [Type::A, Type::TXT, Type::MX, Type::CNAME, Type::NS, Type::DS, Type::SOA, Type::DNAME, Type::AAAA];

/// The names of a zone, and names above, beside and below them.
fn names_around(zone: &Zone) -> Vec<Name> {
    let mut names: Vec<Name> = vec![];
    // RFC 5155 §7.2.8: the owners of NSEC3 are no names of the zone.
    for node in zone.in_order().filter(|node| node.set(Type::NSEC3).is_none()) {
        names.push(node.name().to_name());
        for label in [&b"\x010"[..], b"\x01*", b"\x03zzz", b"\x01a\x01b"] {
            names.push(Name::join(label, node.name()).unwrap());
        }
    }
    names
}

#[test]
fn every_answer_of_the_signed_zones_is_right_and_none_without_its_proofs() {
    for (origin, want_opt_out) in [("nsec.test", false), ("hashed.test", false), ("optout.test", true)] {
        let zone = shipped(origin);
        let names = names_around(&zone);
        let (world, origin) = (world(vec![zone]), name(origin));
        let keys = keys_of(&world, &origin);
        let (mut proofs, mut opted_out) = (0, 0);
        for (about, rtype) in names.iter().flat_map(|about| TYPES.map(|rtype| (about, rtype))) {
            let message = ask(&world, about, rtype);
            let said = read(&message, &origin, about, rtype);
            // RFC 4035 §3.1.4.1: of its own DS, a zone knows nothing.
            if rtype == Type::DS && *about == origin {
                assert_eq!(judge(&said, rtype, &keys), Err(Bogus::Contradicted));
                continue;
            }
            let proved = judge(&said, rtype, &keys);
            let proved = proved.unwrap_or_else(|bogus| panic!("{about} {rtype}: {bogus}: {said:?}"));
            opted_out += u32::from(proved == Proved::OptOut);
            let mut number = 0;
            while let Some(less) = without_proof(&said, number) {
                let judged = judge(&less, rtype, &keys);
                assert_ne!(judged, Ok(Proved::Secure), "{about} {rtype} without {number}: {said:?}");
                (number, proofs) = (number + 1, proofs + 1);
            }
        }
        assert!(proofs > 500, "{proofs} proofs");
        assert_eq!(opted_out > 0, want_opt_out, "{origin}");
    }
}

#[test]
fn every_octet_of_a_signature_counts() {
    for origin in ["nsec.test", "hashed.test"] {
        let (world, origin) = (world(vec![shipped(origin)]), name(origin));
        let keys = keys_of(&world, &origin);
        let questions =
            [("www", Type::A), ("zzz", Type::A), ("any.wild", Type::MX), ("any.wild", Type::A), ("sub", Type::DS)];
        for (label, rtype) in questions {
            let about = name(&format!("{label}.{origin}"));
            let said = read(&ask(&world, &about, rtype), &origin, &about, rtype);
            assert_eq!(judge(&said, rtype, &keys), Ok(Proved::Secure), "{about}");
            let octets: Vec<usize> = sets_of(&mut said.clone()).iter().map(|set| set.signatures[0].len()).collect();
            for (set, octets) in octets.into_iter().enumerate() {
                for octet in 0..octets {
                    let changed = with_flipped(&said, set, octet, 1);
                    assert!(judge(&changed, rtype, &keys).is_err(), "{about}: octet {octet} of set {set}");
                }
            }
        }
    }
}

/// A zone, by name and kind: addresses, text, alias, delegation, DNAME.
fn text_of(kinds: &BTreeMap<String, usize>) -> String {
    let mut text = "$TTL 1h\n@ SOA ns host 7 1h 15m 1w 5m\n@ NS ns\nns A 192.0.2.1\n".to_owned();
    for (owner, kind) in kinds {
        // RFC 4592 §4.2 and §4.4: what a wildcard delegates or renames is undefined.
        let kind = if owner.starts_with('*') { kind % 3 } else { *kind };
        let data = ["A 192.0.2.7", "TXT \"x\"", "CNAME a", "NS ns", "DNAME b"][kind];
        writeln!(text, "{owner} {data}").unwrap();
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_zone_of_any_shape_proves_what_it_says(
        // Names of few labels, so that they meet each other.
        kinds in proptest::collection::btree_map("([abc*]\\.){0,2}[abc]|\\*", 0..5_usize, 0..8),
        questions in proptest::collection::vec(("([abcd*]\\.){0,3}[abcd]|\\*", 0..TYPES.len()), 20),
        (set, octet, bit) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..7_usize),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let origin = name("example");
        let signer = Signer::open(origin.borrow(), dir.path(), dir.path()).unwrap();
        let text = text_of(&kinds);
        let content = zonefile::read(origin.borrow(), Path::new("test"), text.as_bytes(), None, Rewrite::None);
        // An alias has nothing beside it.
        prop_assume!(content.is_ok());
        let world = world(vec![signer.sign(&content.unwrap().zone, None, now(), 8).unwrap()]);
        let keys = keys_of(&world, &origin);
        for (label, rtype) in questions {
            let (about, rtype) = (name(&format!("{label}.example")), TYPES[rtype]);
            let message = ask(&world, &about, rtype);
            let said = read(&message, &origin, &about, rtype);
            // An alias that leads below a cut comes with a referral, and denies nothing.
            let refers = message.authority.iter().any(|record| record.rtype == Type::NS);
            if refers && !message.answers.is_empty() {
                continue;
            }
            let judged = judge(&said, rtype, &keys);
            prop_assert_eq!(judged, Ok(Proved::Secure), "{} {} in {}: {:?}", about, rtype, text, said);
            let mut number = 0;
            while let Some(less) = without_proof(&said, number) {
                prop_assert_ne!(judge(&less, rtype, &keys), Ok(Proved::Secure), "{} {} in {}", about, rtype, text);
                number += 1;
            }
            let mut copy = said.clone();
            let sets = sets_of(&mut copy);
            if sets.is_empty() {
                continue;
            }
            let set = set.index(sets.len());
            let octet = octet.index(sets[set].signatures[0].len());
            // The bit that tells upper from lower case counts for nothing in the signer's name.
            let changed = with_flipped(&said, set, octet, [1, 2, 4, 8, 16, 64, 128][bit]);
            prop_assert_ne!(judge(&changed, rtype, &keys), Ok(Proved::Secure), "{} {} octet {}", about, rtype, octet);
        }
    }
}

/// What a denial says is not there, if it is an answer without aliases.
fn denied(said: &Said) -> Option<(Absent, &Denial)> {
    let Said::Answer(answer) = said else { return None };
    match &answer.end {
        End::NoName(denial) if answer.aliases.is_empty() => Some((Absent::Name, denial)),
        End::NoData(denial) if answer.aliases.is_empty() => Some((Absent::Type, denial)),
        _ => None,
    }
}

/// The records of a denial, in any order.
fn records_of(denial: &Denial) -> Vec<Set> {
    let mut sets: Vec<Set> = denial.soa.iter().chain(&denial.proofs).map(|set| Set::clone(set)).collect();
    sets.sort_by(|one, other| one.owner.borrow().canonical_cmp(other.owner.borrow()).then(one.rtype.cmp(&other.rtype)));
    sets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// RFC 8198: whatever is deduced from the answers to some questions is what the server would say to another one, record for record.
    #[test]
    fn what_is_deduced_is_what_the_server_says(
        kinds in proptest::collection::btree_map("([abc*]\\.){0,2}[abc]|\\*", 0..5_usize, 0..8),
        questions in proptest::collection::vec(("([abcd*]\\.){0,3}[abcd]|\\*", 0..TYPES.len()), 60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let origin = name("example");
        let signer = Signer::open(origin.borrow(), dir.path(), dir.path()).unwrap();
        let text = text_of(&kinds);
        let content = zonefile::read(origin.borrow(), Path::new("test"), text.as_bytes(), None, Rewrite::None);
        prop_assume!(content.is_ok());
        let world = world(vec![signer.sign(&content.unwrap().zone, None, now(), 8).unwrap()]);
        let keys = keys_of(&world, &origin);
        let questions = questions.into_iter().map(|(label, rtype)| (name(&format!("{label}.example")), TYPES[rtype]));
        deduces_what_is_said(&world, &origin, &keys, questions.collect(), &text);
    }
}

/// Asks the server; what it denies is kept, and what can be deduced of that must be what it says, record for record. Returns how often
/// something was deduced.
fn deduces_what_is_said(world: &World, origin: &Name, keys: &Keys, questions: Vec<(Name, Type)>, text: &str) -> usize {
    let (known, mut count) = (Denials::default(), 0);
    for (about, rtype) in questions {
        let said = read(&ask(world, &about, rtype), origin, &about, rtype);
        if let Some(deduced) = known.look(about.borrow(), rtype, 1) {
            let Some((absent, denial)) = denied(&said) else {
                panic!("{about} {rtype} in {text}: {:?} instead of {said:?}", deduced.absent)
            };
            assert_eq!((deduced.absent, deduced.ttl), (absent, 300), "{about} {rtype} in {text}");
            assert_eq!(records_of(&deduced.denial), records_of(denial), "{about} {rtype} in {text}");
            count += 1;
        } else if let Some((_, denial)) = denied(&said)
            && judge(&said, rtype, keys) == Ok(Proved::Secure)
        {
            known.keep(origin.borrow(), denial, 1);
            assert!(known.look(about.borrow(), rtype, 1).is_some(), "{about} {rtype} in {text}");
        }
    }
    count
}

#[test]
fn what_is_deduced_of_the_shipped_zones_is_what_their_server_says() {
    for (origin, want) in [("nsec.test", 300..), ("hashed.test", 300..), ("optout.test", 50..)] {
        let zone = shipped(origin);
        let names = names_around(&zone);
        let mut questions: Vec<(Name, Type)> =
            names.iter().flat_map(|about| TYPES.map(|rtype| (about.clone(), rtype))).collect();
        // In an order that has nothing to do with the zone's.
        questions
            .sort_by_cached_key(|(about, rtype)| crate::name::hash(about.borrow()).wrapping_mul(u32::from(rtype.0)));
        let (world, name) = (world(vec![zone]), name(origin));
        let keys = keys_of(&world, &name);
        let count = deduces_what_is_said(&world, &name, &keys, questions, origin);
        assert!(want.contains(&count), "{origin}: {count}");
    }
}

/// A denial of the shipped zone, and who is denied.
fn a_denial() -> (Name, Name, Denial) {
    let (world, origin) = (world(vec![shipped("nsec.test")]), name("nsec.test"));
    let about = name("b.nsec.test");
    let said = read(&ask(&world, &about, Type::A), &origin, &about, Type::A);
    let denial = denied(&said).unwrap().1.clone();
    (origin, about, denial)
}

#[test]
fn what_is_deduced_has_an_end_and_can_be_forgotten() {
    let (origin, about, denial) = a_denial();
    let known = Denials::default();
    let ttl = |now| known.look(about.borrow(), Type::A, now).map(|deduced| deduced.ttl);
    assert_eq!(ttl(1), None);
    known.keep(origin.borrow(), &denial, 1);
    assert_eq!((ttl(1), ttl(300), ttl(301)), (Some(300), Some(1), None));
    // A DS is for the zone above to deny.
    assert!(known.look(origin.borrow(), Type::TXT, 1).is_some());
    assert!(known.look(origin.borrow(), Type::DS, 1).is_none());
    for (purged, is_forgotten) in
        [("test", true), ("nsec.test", true), ("b.nsec.test", true), ("other.test", false), (".", true)]
    {
        known.keep(origin.borrow(), &denial, 1);
        known.purge(name(purged).borrow());
        assert_eq!(ttl(1).is_none(), is_forgotten, "{purged}");
    }
    // Without the zone's own SOA it is no answer for anybody (RFC 2308 §5); and what another zone says counts for nothing.
    known.purge(NameRef::ROOT);
    known.keep(origin.borrow(), &Denial { soa: None, ..denial.clone() }, 1);
    known.keep(name("test").borrow(), &denial, 1);
    assert_eq!((ttl(1), known.octets()), (None, 0));
}

/// A gap says that the names which lay in it are there no more; or what they denied would hide it.
#[test]
fn a_new_gap_takes_the_place_of_what_lay_in_it() {
    let (origin, about, denial) = a_denial();
    let known = Denials::default();
    // Between away.nsec.test, where the gap begins, and the name.
    let old = Set::clone(&denial.proofs[0]).at(name("azure.nsec.test").borrow());
    known.keep(origin.borrow(), &denial, 400);
    let octets = known.octets();
    known.purge(NameRef::ROOT);
    known.keep(origin.borrow(), &Denial { proofs: vec![Arc::new(old)], ..denial.clone() }, 1);
    known.keep(origin.borrow(), &denial, 400);
    assert!(known.look(about.borrow(), Type::A, 400).is_some());
    assert_eq!(known.octets(), octets);
}

#[test]
fn gaps_without_end_take_bounded_memory() {
    let (origin, about, denial) = a_denial();
    let known = Denials::default();
    let mut most = 0;
    for number in 0..40_000 {
        let (owner, next) = (name(&format!("x{number}.nsec.test")), name(&format!("0.x{number}.nsec.test")));
        let (rtype, class, rdata) = (Type::NSEC, Class::IN, next.borrow().as_wire().to_vec());
        let mut gap = Set::of(&[&Record { owner, rtype, class, ttl: 300, rdata }]).unwrap();
        gap.signatures.clone_from(&denial.proofs[0].signatures);
        known.keep(origin.borrow(), &Denial { proofs: vec![Arc::new(gap)], ..denial.clone() }, 1);
        if number % 100 == 0 {
            most = most.max(known.octets());
        }
    }
    assert!((6 << 20..=8 << 20).contains(&most), "{most}");
    known.keep(origin.borrow(), &denial, 1);
    assert!(known.look(about.borrow(), Type::A, 1).is_some());
}

/// A tree of zones: what is signed has its DS in its parent, if that is signed too.
struct Tree {
    world: World,
    anchors: Anchors,
}

const HEAD: &str = "$TTL 1h\n@ SOA ns.nic.fr. host 7 1h 15m 1w 5m\n@ NS ns.nic.fr.\n";

fn example() -> Tree {
    let signed = [
        (".", "fr NS ns.nic.fr.\nns.nic.fr. A 192.0.2.1\n"),
        (
            "fr",
            "nic NS ns.nic\ncrepes NS ns.nic\nplain NS ns.nic\nns.nic A 192.0.2.1\n\
             alias CNAME www.crepes\naway DNAME crepes\n",
        ),
        // Below two empty non-terminals.
        ("crepes.fr", "www A 192.0.2.2\na.b.c NS ns.nic.fr.\n"),
        ("a.b.c.crepes.fr", "www A 192.0.2.3\n"),
        // Its parent is not signed, and has no DS.
        ("island.plain.fr", "www A 192.0.2.4\n"),
    ];
    let unsigned = [("nic.fr", "ns A 192.0.2.1\n"), ("plain.fr", "island NS ns.nic.fr.\n")];
    let dir = tempfile::tempdir().unwrap();
    let (keys, ds) = (dir.path().join("keys"), dir.path().join("ds"));
    let signers = signed.map(|(zone, _)| Signer::open(name(zone).borrow(), &keys, &ds).unwrap());
    let content = |(zone, text): (&str, &str)| zone_of(zone, &format!("{HEAD}{text}"));
    let zones = signed.into_iter().zip(&signers);
    let zones = zones.map(|(zone, signer)| signer.sign(&content(zone), None, now(), 8).unwrap());
    let zones = zones.chain(unsigned.into_iter().map(content)).collect();
    let anchor = std::fs::read(ds.join("root.ds")).unwrap();
    Tree { world: world(zones), anchors: Anchors::read(Path::new("root.ds"), &anchor).unwrap() }
}

impl Tree {
    /// Goes a chain to its end, with what was asked for on the way. `change` may change what is answered.
    fn follow(&self, target: &str, links: &RefCell<Links>, change: impl Fn(&mut Message)) -> (Vec<String>, State) {
        let mut chain = Chain::new(name(target).borrow(), &self.anchors);
        let (mut asked, mut work) = (vec![], Work::default());
        loop {
            let (zone, rtype) = match chain.next(|name| links.borrow().get(name, 0)) {
                Need::Ds(zone) => (zone, Type::DS),
                Need::Dnskey(zone) => (zone, Type::DNSKEY),
                Need::Done(state) => return (asked, state),
            };
            asked.push(format!("{zone} {rtype}"));
            assert!(asked.len() < 30, "{asked:?}");
            let mut message = ask(&self.world, &zone, rtype);
            change(&mut message);
            let Said::Answer(answer) = read(&message, &Name::root(), &zone, rtype) else { panic!("{message:?}") };
            let learnt = match (answer.end, answer.aliases.first()) {
                (End::Data(set), None) if rtype == Type::DNSKEY => chain.got_dnskey(Some(&set), now(), &mut work),
                (_, _) if rtype == Type::DNSKEY => chain.got_dnskey(None, now(), &mut work),
                (_, Some(alias)) => chain.got_ds(&ToldDs::Alias(Arc::clone(alias)), now(), &mut work),
                (End::Data(set), _) => chain.got_ds(&ToldDs::Set(set), now(), &mut work),
                (End::NoData(denial) | End::NoName(denial), _) => {
                    chain.got_ds(&ToldDs::Nothing(denial), now(), &mut work)
                }
                (End::Leads, None) => panic!("{message:?}"),
            };
            if let Some(learnt) = learnt {
                links.borrow_mut().put(learnt, 0);
            }
        }
    }
}

fn told(state: &State) -> String {
    match state {
        State::Secure(keys) => format!("secure: {}", keys.zone()),
        State::Insecure(because) => format!("insecure: {because}"),
        State::Bogus(bogus) => format!("bogus: {bogus}"),
    }
}

#[test]
fn a_chain_asks_for_what_it_needs_and_no_more() {
    let (tree, links) = (example(), RefCell::default());
    for (target, want_asked, want) in [
        (
            "crepes.fr",
            &[". DNSKEY", "fr. DS", "fr. DNSKEY", "crepes.fr. DS", "crepes.fr. DNSKEY"][..],
            "secure: crepes.fr.",
        ),
        // What was learnt is not asked for again.
        (
            "a.b.c.crepes.fr",
            &["c.crepes.fr. DS", "b.c.crepes.fr. DS", "a.b.c.crepes.fr. DS", "a.b.c.crepes.fr. DNSKEY"],
            "secure: a.b.c.crepes.fr.",
        ),
        ("b.c.crepes.fr", &[], "secure: crepes.fr."),
        ("plain.fr", &["plain.fr. DS"], "insecure: its parent has proved that it is not signed"),
        ("island.plain.fr", &[], "insecure: its parent has proved that it is not signed"),
        // No zone begins at a name that does not exist, at an alias, at or below what a DNAME stands for.
        ("deep.nothing.fr", &["nothing.fr. DS"], "secure: fr."),
        ("alias.fr", &["alias.fr. DS"], "secure: fr."),
        ("x.y.away.fr", &["away.fr. DS", "y.away.fr. DS"], "secure: fr."),
        (".", &[], "secure: ."),
    ] {
        let (asked, state) = tree.follow(target, &links, |_| {});
        assert_eq!(told(&state), want, "{target}");
        assert_eq!(asked, want_asked, "{target}");
    }
    assert_eq!(links.borrow_mut().purge(name("crepes.fr").borrow()), 4);
    let (asked, _) = tree.follow("crepes.fr", &links, |_| {});
    assert_eq!(asked, ["crepes.fr. DS", "crepes.fr. DNSKEY"]);
}

#[test]
fn who_lies_on_the_way_makes_a_zone_bogus_and_never_insecure() {
    type Lie = fn(&mut Message);

    fn is_about(message: &Message, zone: &str, rtype: Type) -> bool {
        message.question().is_some_and(|(owner, asked, _)| *owner == name(zone) && *asked == rtype)
    }
    let lies: [(Lie, &str); 5] = [
        (
            |message| {
                message.answers.retain(|record| record.rtype != Type::RRSIG);
                message.authority.retain(|record| record.rtype != Type::RRSIG);
            },
            "bogus: the zone is signed, and this is not",
        ),
        (
            |message| message.answers.retain(|record| record.rtype != Type::DS),
            "bogus: nothing proves that it is not there",
        ),
        // The zone above with other keys.
        (
            |message| {
                if is_about(message, "crepes.fr", Type::DS) {
                    *message = ask(&example().world, &name("crepes.fr"), Type::DS);
                }
            },
            "bogus: the zone has no key for the signature",
        ),
        (
            |message| {
                let ours = |record: &&mut Record| record.owner == name("crepes.fr") && record.rtype == Type::DNSKEY;
                message.answers.iter_mut().filter(ours).for_each(|record| record.rdata[20] ^= 1);
            },
            "bogus: no key of the zone is the one that its parent has",
        ),
        (
            |message| {
                if is_about(message, "crepes.fr", Type::DNSKEY) {
                    message.answers.clear();
                }
            },
            "bogus: no key of the zone is the one that its parent has",
        ),
    ];
    for (lie, want) in lies {
        let (links, tree) = (RefCell::default(), example());
        let (_, state) = tree.follow("crepes.fr", &links, lie);
        assert_eq!(told(&state), want);
        // That is remembered, for a while.
        let (asked, state) = tree.follow("crepes.fr", &links, |_| {});
        assert_eq!((told(&state).as_str(), asked.len()), (want, 0));
    }
}

#[test]
fn who_says_that_a_zone_is_cut_where_it_is_not_must_prove_it() {
    let (asked, state) = example().follow("www.crepes.fr", &RefCell::default(), |message| {
        if message.question().is_some_and(|(owner, ..)| *owner == name("www.crepes.fr")) {
            message.authority.retain(|record| record.rtype != Type::NSEC);
        }
    });
    assert_eq!(asked.last().unwrap(), "www.crepes.fr. DS");
    assert_eq!(told(&state), "bogus: nothing proves that it is not there");
}

#[test]
fn what_the_operator_trusts_counts_from_there_down() {
    let mut tree = example();
    let root = tree.anchors.clone();
    let dnskey = ask(&tree.world, &name("island.plain.fr"), Type::DNSKEY);
    let links = RefCell::default();
    let mut state = |anchors: Anchors, target: &str| {
        tree.anchors = anchors;
        told(&tree.follow(target, &links, |_| {}).1)
    };
    assert_eq!(state(Anchors::default(), "crepes.fr"), "insecure: there is no trust anchor for it");
    let negative = root.with_negative([name("crepes.fr")]);
    assert_eq!(state(negative.clone(), "a.b.c.crepes.fr"), "insecure: there is a negative trust anchor for it");
    assert_eq!(state(negative, "fr"), "secure: fr.");
    // RFC 4033 §3.1: an island of security, by its key instead of its digest.
    let dnskey: &Record = dnskey.answers.iter().find(|record| record.rtype == Type::DNSKEY).unwrap();
    let island = Anchors::read(Path::new("island"), dnskey.to_string().as_bytes()).unwrap();
    assert_eq!(state(island.clone(), "island.plain.fr"), "secure: island.plain.fr.");
    assert_eq!(state(island, "crepes.fr"), "insecure: there is no trust anchor for it");
}
