//! Any octets as the answer of another server: nothing out of its bailiwick is ever cached, and no entry outlives its TTL but as
//! stale. The first octet says whose server was asked, and for what type; the rest is the message.
#![no_main]

use dns::message;
use dns::name::{Name, NameRef};
use dns::rdata::Type;
use dns::record::{Message, gist};
use dns::resolver::cache::{
    Cache, Content, Credibility, Marks, NEGATIVE_TTL_MAX_SECS, STALE_SECS, Security, TTL_MAX_SECS,
};
use dns::resolver::scrub::{self, Asked, End, Said, Way};
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_000_000;
const ZONES: [&str; 4] = [".", "fr", "crepes.fr", "www.crepes.fr"];
const TYPES: [Type; 8] = [Type::A, Type::CNAME, Type::DNAME, Type::NS, Type::DS, Type::DNSKEY, Type::NSEC, Type::TXT];

fuzz_target!(|data: &[u8]| {
    let Some((choice, octets)) = data.split_first() else { return };
    let zone: Name = ZONES[usize::from(choice & 3)].parse().expect("a name");
    let rtype = TYPES[usize::from(choice >> 2 & 7)];
    let way = if choice & 0x20 == 0 { Way::Down } else { Way::Forwarded };
    let Ok(message) = Message::parse(octets) else { return };
    let _ = gist(&message);
    // We ask a server about its own zone only.
    let name = message.question().map(|(name, ..)| name.clone());
    let name = name.filter(|name| name.borrow().is_within(zone.borrow())).unwrap_or_else(|| zone.clone());
    let asked = Asked { zone: zone.borrow(), name: name.borrow(), rtype, way };

    let cache = Cache::new(64 << 20);
    let from = ([127, 0, 0, 1], 53).into();
    match scrub::read(&message, asked) {
        Said::Useless(because) => assert!(!because.is_empty()),
        Said::Referral(referral) => {
            let below = referral.servers.owner.borrow();
            assert!(way == Way::Down && below != zone.borrow() && below.is_within(zone.borrow()), "it leads down");
            assert!(name.borrow().is_within(below), "and to the name");
            cache.keep_referral(&referral, from, NOW);
            for listed in cache.list(NOW) {
                let is_answer = listed.found.origin.credibility.may_answer();
                assert!(!is_answer || listed.rtype == Some(Type::DS), "a referral is no answer");
            }
        }
        Said::Answer(answer) => {
            assert!(way == Way::Forwarded || answer.is_authoritative == message.header.is_authoritative());
            cache.keep_answer(&answer, rtype, &Marks::UNCHECKED, from, NOW);
            let is_end = !matches!(answer.end, End::Leads);
            assert!(!is_end || answer.name.borrow().is_within(zone.borrow()), "what is elsewhere is not known here");
        }
    }
    // The largest message has less than 64 KiB, and so many entries at most have room.
    let is_ours = |owner: NameRef<'_>| owner.is_within(zone.borrow());
    for listed in cache.list(NOW) {
        assert!(is_ours(listed.name.borrow()), "{} is not about {zone}", listed.name);
        let found = &listed.found;
        assert_eq!(found.origin.security, Security::Unchecked);
        let rtype = match &found.content {
            Content::Set(set) => {
                assert!(found.ttl <= TTL_MAX_SECS && set.owner == listed.name && !set.is_made);
                assert!(set.proofs.iter().all(|proof| is_ours(proof.owner.borrow())));
                set.rtype
            }
            Content::NoData(denial) | Content::NoName(denial) => {
                let sets = denial.soa.iter().chain(&denial.proofs);
                assert!(sets.clone().all(|set| is_ours(set.owner.borrow())));
                assert!(found.ttl <= NEGATIVE_TTL_MAX_SECS || found.origin.credibility == Credibility::Referral);
                let is_above = |soa: NameRef<'_>| listed.name.borrow().is_within(soa);
                assert!(denial.soa.as_ref().is_none_or(|soa| is_above(soa.owner.borrow())));
                listed.rtype.unwrap_or(Type(0))
            }
        };
        let end = NOW + u64::from(found.ttl);
        let at = |now| cache.get(listed.name.borrow(), rtype, now);
        assert!(at(end - 1).is_some_and(|found| !found.is_stale && found.ttl == 1));
        assert!(at(end).is_some_and(|found| found.is_stale && found.ttl == 0));
        assert!(at(end + STALE_SECS).is_none());
    }
    let _ = message::receive(octets);
});
