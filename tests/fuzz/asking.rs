//! A name server without sockets, for the targets that ask one: what it is made of, and how an answer is read.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dns::authority::{Identity, Rotation, Zones};
use dns::cookie::Cookies;
use dns::message::{Rcode, Received};
use dns::rate::Rates;
use dns::respond::{Asker, Carrier, Policy, Response, World, respond};
use dns::zone::Zone;

/// The largest datagram that is sent.
pub(crate) const UDP_OCTETS_MAX: u16 = 1232;

/// A server without a limit of its rate, so that nothing is dropped for that.
pub(crate) fn world(zones: Vec<Arc<Zone>>) -> World {
    let policy = Policy {
        cookies: Cookies::new([7; 16]),
        rates: Rates::new(0, 0, SystemTime::UNIX_EPOCH),
        idle_timeout: Duration::from_secs(10),
    };
    World {
        policy: Arc::new(policy),
        resolver: None,
        everybody: Arc::new(Zones::new(zones)),
        views: vec![],
        identity: Arc::new(Identity::new("tomte", "ns.example")),
        udp_octets_max: UDP_OCTETS_MAX,
    }
}

/// The answer, if there is one. Every run begins anew and at the same moment, so that a finding can be repeated.
pub(crate) fn ask(world: &World, received: &Received<'_>, carrier: Carrier) -> Option<(Vec<u8>, Rcode)> {
    let asker = Asker { address: IpAddr::V4(Ipv4Addr::LOCALHOST), carrier, now: SystemTime::UNIX_EPOCH };
    let mut buffer = vec![0; usize::from(u16::MAX)];
    match respond(world, received, asker, &mut Rotation::default(), &mut buffer) {
        Response::Send { octets, rcode, .. } => {
            buffer.truncate(octets);
            Some((buffer, rcode))
        }
        Response::Silence(_) | Response::Errand | Response::Recurse(_) => None,
    }
}

/// Reads a message from end to end by the rules of RFC 1035 §4; returns how many OPT records are in it.
pub(crate) fn walk(message: &[u8]) -> usize {
    let u16_at = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let mut at = 12;
    for _ in 0..u16_at(4) {
        at = end_of_name(message, at) + 4;
    }
    let (before_additional, mut opt) = (u16_at(6) + u16_at(8), 0);
    for number in 0..before_additional + u16_at(10) {
        let end = end_of_name(message, at);
        if u16_at(end) == 41 {
            assert!(number >= before_additional && end == at + 1, "OPT is the root's, in the additional section");
            opt += 1;
        }
        at = end + 10 + u16_at(end + 8);
    }
    assert_eq!(at, message.len(), "the message ends with its last record");
    opt
}

/// Where a name ends in the message; its pointers lead back to where names stand, and it is no longer than a name may be.
fn end_of_name(message: &[u8], mut at: usize) -> usize {
    let (mut end, mut octets, mut before) = (None, 0, at);
    loop {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            end = end.or(Some(at + 2));
            at = (length & 0x3f) << 8 | usize::from(message[at + 1]);
            assert!((12..before).contains(&at), "a pointer leads back, and not into the header");
            before = at;
            continue;
        }
        assert!(length < 64, "a label of {length} octets");
        octets += 1 + length;
        assert!(octets <= 255, "a name of {octets} octets");
        at += 1 + length;
        if length == 0 {
            return end.unwrap_or(at);
        }
    }
}

/// Lines go to terminals and into logs, where the octets of a stranger must not move the cursor.
pub(crate) fn assert_printable(line: &str) {
    assert!(!line.is_empty() && line.len() <= 4096, "{} octets: {line}", line.len());
    assert!(!line.contains(char::is_control), "{line:?}");
}
