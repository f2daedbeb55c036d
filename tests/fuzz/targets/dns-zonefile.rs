//! Any text as a zone file: it makes a zone that answers for every name in it, or it is refused with a place and a reason
//! that can be shown. How long that may take is libFuzzer's to judge (`-timeout` in `run`).
#![no_main]

#[path = "../asking.rs"]
mod asking;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use asking::{UDP_OCTETS_MAX, ask, assert_printable, walk, world};
use dns::Rewrite;
use dns::draft::is_same;
use dns::message::{self, Rcode};
use dns::name::{Name, NameRef};
use dns::rdata::{Class, Type};
use dns::record::Record;
use dns::respond::{Carrier, World};
use dns::zone::Zone;
use dns::zonefile::{self, ZoneFileError};
use libfuzzer_sys::fuzz_target;

/// How many names of a zone are asked for: any text can be a zone, but it shall be tried often.
const NAMES_MAX: usize = 32;

const FILE: &str = "fuzz.zone";

fuzz_target!(|data: &[u8]| {
    let origin: Name = "example".parse().expect("a name");
    // Without a directory nothing is included.
    let loaded = match zonefile::read(origin.borrow(), Path::new(FILE), data, None, Rewrite::None) {
        Ok(loaded) => loaded,
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            for error in &errors {
                assert_tells(error, data);
            }
            return;
        }
    };
    for warning in &loaded.warnings {
        assert_tells(warning, data);
    }
    let zone = Arc::new(loaded.zone);
    assert_comes_back(&zone);
    let names: Vec<Name> = zone.in_order().take(NAMES_MAX).map(|node| node.name().to_name()).collect();
    assert!(!zone.is_empty() && names.first() == Some(&origin), "the first in canonical order is the apex");
    let world = world(vec![zone]);
    let soa = answer(&world, origin.borrow(), Type::SOA);
    assert_eq!(soa, Rcode::NOERROR, "a zone that is served knows its SOA");
    for name in &names {
        for qtype in [Type::ANY, Type::A] {
            let rcode = answer(&world, name.borrow(), qtype);
            // A DNAME may make a name that is too long, and an alias may lead to a name that is not there; but none of these
            // is the server's fault.
            assert!(rcode != Rcode::SERVFAIL && rcode != Rcode::REFUSED, "{name} {qtype}: {rcode}");
        }
    }
});

/// Asks over both transports and reads the answers from end to end.
fn answer(world: &World, name: NameRef<'_>, qtype: Type) -> Rcode {
    let [high, low] = qtype.0.to_be_bytes();
    let plain = [&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.as_wire(), &[high, low, 0, 1]].concat();
    // The same with EDNS and DO: whether it is signed or not.
    let mut secure = [&plain[..], &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]].concat();
    secure[11] = 1;
    let over = |query: &[u8], carrier| {
        let told = ask(world, &message::receive(query), carrier);
        let (answer, rcode) = told.unwrap_or_else(|| panic!("no answer about {name} {qtype}"));
        walk(&answer);
        (answer.len(), rcode)
    };
    assert!(over(&plain, Carrier::Udp).0 <= 512, "longer than what is taken without EDNS");
    assert!(over(&secure, Carrier::Udp).0 <= usize::from(UDP_OCTETS_MAX), "longer than our largest datagram");
    let (_, rcode) = over(&plain, Carrier::Tcp);
    assert_eq!(over(&secure, Carrier::Tcp).1, rcode, "{name} {qtype}: signatures change no RCODE");
    rcode
}

/// What is written as a master file is read as the same zone: journals and copies are kept like this.
fn assert_comes_back(zone: &Zone) {
    let mut text = String::new();
    for node in zone.nodes() {
        for set in node.sets() {
            for rdata in set.records() {
                let owner = node.name().to_name();
                let (rtype, class, ttl, rdata) = (set.rtype, Class::IN, set.ttl, rdata.to_vec());
                writeln!(text, "{}", Record { owner, rtype, class, ttl, rdata }).expect("a String takes everything");
            }
        }
    }
    match zonefile::read(zone.name(), Path::new(FILE), text.as_bytes(), None, Rewrite::None) {
        Ok(again) => assert!(is_same(zone, &again.zone), "it reads differently:\n{text}"),
        Err(errors) => panic!("{}\n{text}", errors[0]),
    }
}

/// `FILE:LINE: problem` on one line, with a line that is in the text.
fn assert_tells(error: &ZoneFileError, data: &[u8]) {
    let lines = data.split(|octet| *octet == b'\n').count();
    assert!(error.line as usize <= lines, "line {} of {lines}", error.line);
    let told = error.to_string();
    assert!(told.starts_with(FILE), "{told}");
    assert_printable(&told);
}
