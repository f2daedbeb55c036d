//! Any octets as a message to the name server, over UDP, TCP and TLS: it answers in a well-formed message about the same
//! question and within the size that the client takes, or is silent.
#![no_main]

#[path = "../asking.rs"]
mod asking;

use std::path::Path;
use std::sync::{Arc, LazyLock};

use asking::{UDP_OCTETS_MAX, ask, assert_printable, walk, world};
use dns::Rewrite;
use dns::message::{self, Received};
use dns::name::Name;
use dns::respond::{Carrier, World, answer_told, question_line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let received = message::receive(data);
    assert_printable(&question_line(&received));
    let udp = answer(data, &received, Carrier::Udp);
    let tcp = answer(data, &received, Carrier::Tcp);
    let tls = answer(data, &received, Carrier::Tls);
    let (Some(udp), Some(tcp), Some(tls)) = (&udp, &tcp, &tls) else {
        assert!(udp.is_none() && tcp.is_none() && tls.is_none(), "an answer over one transport only");
        return;
    };
    assert_eq!(tcp[..10], tls[..10], "over TLS it is longer at most: padding");
    // What is whole over UDP is the same over TCP; only what saves a question may be missing.
    if !truncated(udp) {
        assert_eq!(udp[2..10], tcp[2..10], "flags, RCODE and the counts of question, answer and authority");
    }
});

/// A root, whose zone is cut everywhere; a zone with everything that there is; and signed ones, with each kind of denial.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let zones = [
        (".", include_str!("../../../config/zones/root.zone")),
        ("example", include_str!("../../../daemons/dns/tests/zones/example.zone")),
        ("nsec.test", include_str!("../../../daemons/dns/tests/zones/nsec.test.zone")),
        ("hashed.test", include_str!("../../../daemons/dns/tests/zones/hashed.test.zone")),
        ("optout.test", include_str!("../../../daemons/dns/tests/zones/optout.test.zone")),
    ];
    let zones = zones.map(|(name, text)| {
        let name: Name = name.parse().expect("a name");
        let zone = dns::zonefile::read(name.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None);
        Arc::new(zone.expect("the zone files of the tree are right").zone)
    });
    world(zones.into())
});

fn answer(data: &[u8], received: &Received<'_>, carrier: Carrier) -> Option<Vec<u8>> {
    let (buffer, rcode) = ask(&WORLD, received, carrier)?;
    assert_printable(&answer_told(&buffer, rcode));

    assert_eq!(buffer[..2], data[..2], "the id is the client's");
    assert_eq!(buffer[2] & 0xf9, 0x80 | data[2] & 0x79, "QR is set, opcode and RD are the client's");
    assert_eq!(buffer[3] & 0xe0, 0, "RA, Z and AD are not ours to set");
    assert_eq!(u16::from(buffer[3] & 0xf), rcode.0 & 0xf);
    let opt = walk(&buffer);
    match received {
        Received::Query(query) => {
            let question = 12..12 + query.name.as_wire().len() + 4;
            assert_eq!(buffer[4..6], [0, 1]);
            assert_eq!(buffer[question.clone()], data[question], "the question is repeated");
            assert_eq!(opt, usize::from(query.edns.is_some()), "RFC 6891 §7: OPT for OPT");
            let octets_max = match (carrier, query.edns) {
                (Carrier::Tcp | Carrier::Tls, _) => u16::MAX,
                (Carrier::Udp, None) => 512,
                (Carrier::Udp, Some(edns)) => edns.udp_octets.clamp(512, UDP_OCTETS_MAX),
            };
            assert!(buffer.len() <= usize::from(octets_max), "{} octets", buffer.len());
        }
        Received::Malformed(malformed) => {
            let only_a_cookie = || {
                assert!(malformed.question.is_none() && data[4..12] == [0, 0, 0, 0, 0, 0, 0, 1], "RFC 7873 §5.4");
                malformed.edns.is_some_and(|edns| edns.options().any(|(code, _)| code == dns::cookie::OPTION))
            };
            assert!((1..=16).contains(&rcode.0) || rcode.0 == 0 && only_a_cookie(), "{rcode}");
            assert_eq!(buffer[6..10], [0; 4], "no answer to what could not be read");
            assert!(buffer.len() <= 512, "{} octets", buffer.len());
        }
        Received::Silence(_) | Received::Errand(_) => unreachable!("they are not answered here"),
    }
    assert!(carrier == Carrier::Udp || !truncated(&buffer), "no zone here has more than 65,535 octets to say");
    Some(buffer)
}

fn truncated(answer: &[u8]) -> bool {
    answer[2] & 0x02 != 0
}
