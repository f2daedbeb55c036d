//! "Your copy of the zone is old" (RFC 1996).
//!
//! ```text
//!   C: NOTIFY crepes.fr. SOA, serial 12        from the primary, whenever the zone has changed
//!   S: NOERROR                                 from the secondary, which then asks for the SOA itself: the word of a stranger
//!                                              costs a question, nothing more
//! ```

use crate::{
    message::{Header, Opcode, Rcode},
    name::Name,
    rdata::{self, Class, Type},
    record::{Message, Record, Soa, is_newer},
    zone::Zone,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// How long an answer is waited for, time after time (§3.6 suggests a minute and five times; in a lab nobody waits for
/// a minute). The last one is the end: the secondary looks by itself when REFRESH has gone by.
pub const PATIENCE: [Duration; 5] = [
    Duration::from_secs(3),
    Duration::from_secs(6),
    Duration::from_secs(12),
    Duration::from_secs(24),
    Duration::from_secs(48),
];

/// The message.
pub fn message(id: u16, zone: &Zone) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // §3.7: AA; the new SOA may stand in the answer section, as a hint.
    let soa = zone.soa();
    message.extend([Opcode::NOTIFY.0 << 3 | 0x04, 0, 0, 1, 0, u8::from(soa.is_some()), 0, 0, 0, 0]);
    let owner = zone.name().as_wire();
    message.extend(owner);
    message.extend(Type::SOA.0.to_be_bytes());
    message.extend(Class::IN.0.to_be_bytes());
    if let Some((ttl, rdata)) = soa {
        // A pointer to the name in the question.
        message.extend([0xc0, 12]);
        message.extend(Type::SOA.0.to_be_bytes());
        message.extend(Class::IN.0.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((rdata.len() as u16).to_be_bytes());
        message.extend(rdata);
    }
    message
}

/// What to do about a NOTIFY that came from somebody who may send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Ask the primary.
    Look,
    /// What it tells of is what we have (§3.7).
    Known,
    /// It is none.
    Malformed(&'static str),
}

/// Judges a NOTIFY about a zone of which we have the version `have`.
pub fn judge(message: &Message, have: Option<u32>) -> Heard {
    let Some((zone, qtype, class)) = message.question() else {
        return Heard::Malformed("NOTIFY is about exactly one zone");
    };
    if (*qtype, *class) != (Type::SOA, Class::IN) {
        return Heard::Malformed("NOTIFY is about SOA, and about nothing else (§3.3)");
    }
    let hint = message.answers.iter().find(|record: &&Record| record.rtype == Type::SOA && record.owner == *zone);
    let hint = hint.and_then(|record| Soa::parse(&record.rdata)).map(|soa| soa.serial);
    match (hint, have) {
        (Some(hint), Some(have)) if !is_newer(hint, have) => Heard::Known,
        _ => Heard::Look,
    }
}

/// Whether an answer ends the matter: whoever does not know NOTIFY need not be asked again (§3.8 and §3.12).
pub fn is_answer(id: u16, octets: &[u8]) -> Option<Rcode> {
    let header = Header::parse(octets)?;
    (header.id == id && header.is_response() && header.opcode() == Opcode::NOTIFY).then(|| header.rcode())
}

/// Who is to be notified of a zone's changes because its NS records name them: the servers with the addresses that
/// `addresses_of` knows, but not the primary that SOA names (§2.1).
pub fn servers(zone: &Zone, addresses_of: impl Fn(&Name) -> Vec<IpAddr>, port: u16) -> Vec<SocketAddr> {
    let primary = zone.soa().and_then(|(_, rdata)| crate::name::NameRef::parse(rdata).ok());
    let mut servers = vec![];
    for rdata in zone.apex().set(Type::NS).into_iter().flat_map(crate::zone::RrSet::records) {
        let Some(name) = rdata::target(Type::NS, rdata).filter(|name| Some(*name) != primary) else { continue };
        for address in addresses_of(&name.to_name()) {
            let server = SocketAddr::new(address, port);
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
    }
    servers
}

/// The addresses of a name in a zone.
pub fn addresses(zone: &Zone, name: &Name) -> Vec<IpAddr> {
    let Some(node) = zone.node(name.borrow()) else { return vec![] };
    let of = |rtype| node.set(rtype).into_iter().flat_map(crate::zone::RrSet::records);
    let v4 = of(Type::A).filter_map(|rdata| Some(Ipv4Addr::from(<[u8; 4]>::try_from(rdata).ok()?).into()));
    let v6 = of(Type::AAAA).filter_map(|rdata| Some(Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?).into()));
    v4.chain(v6).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zonefile::{self, Rewrite};
    use std::path::Path;

    fn zone() -> Zone {
        let text = "$TTL 300
@   SOA ns1 hostmaster 12 1h 15m 1w 5m
    NS  NS1
    NS  ns2
    NS  ns.elsewhere.net.
    NS  ns3
ns1 A   10.77.1.1
ns2 A   10.77.1.2
ns2 AAAA 2001:db8::2
ns3 A   10.77.1.2
";
        let origin: Name = "crepes.fr".parse().unwrap();
        zonefile::read(origin.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None).unwrap().zone
    }

    #[test]
    fn those_are_notified_whom_the_zone_names_but_not_the_primary() {
        let zone = zone();
        let found = servers(&zone, |name| addresses(&zone, name), 53);
        let want: Vec<SocketAddr> = ["10.77.1.2:53", "[2001:db8::2]:53"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(found, want, "each address once, and who has no address that we know cannot be told");
    }

    #[test]
    fn a_notify_is_looked_after_unless_it_tells_of_what_we_have() {
        let octets = message(7, &zone());
        let parsed = Message::parse(&octets).unwrap();
        assert_eq!((parsed.header.opcode(), parsed.answers.len()), (Opcode::NOTIFY, 1));
        for (have, want) in
            [(None, Heard::Look), (Some(11), Heard::Look), (Some(12), Heard::Known), (Some(13), Heard::Known)]
        {
            assert_eq!(judge(&parsed, have), want, "{have:?}");
        }
        let bare = Message { answers: vec![], ..parsed.clone() };
        assert_eq!(judge(&bare, Some(12)), Heard::Look);
        for questions in [vec![], [parsed.questions.clone(), parsed.questions.clone()].concat()] {
            assert!(matches!(judge(&Message { questions, ..parsed.clone() }, None), Heard::Malformed(_)));
        }
        let (name, ..) = parsed.question().unwrap().clone();
        for (qtype, class) in [(Type::A, Class::IN), (Type::SOA, Class::CH)] {
            let other = Message { questions: vec![(name.clone(), qtype, class)], ..parsed.clone() };
            assert!(matches!(judge(&other, None), Heard::Malformed(_)), "{qtype} {class}");
        }
    }

    #[test]
    fn only_an_answer_to_this_notify_ends_it() {
        let mut answer = message(7, &zone());
        assert_eq!(is_answer(7, &answer), None, "a question");
        answer[2] |= 0x80;
        assert_eq!(is_answer(7, &answer), Some(Rcode::NOERROR));
        answer[3] |= 4;
        assert_eq!(is_answer(7, &answer), Some(Rcode::NOTIMP));
        assert_eq!(is_answer(8, &answer), None, "another id");
        answer[2] &= 0x87;
        assert_eq!(is_answer(7, &answer), None, "another opcode");
        assert_eq!(is_answer(7, &answer[..11]), None, "cut off");
    }
}
