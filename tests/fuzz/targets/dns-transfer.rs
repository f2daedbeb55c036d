//! Any octets as what a primary sends over TCP when a copy of its zone is wanted: they are refused, or there is a zone with the
//! name that was asked for, or differences that begin at the version we have and hang together.
#![no_main]

#[path = "../example.rs"]
mod example;

use std::sync::Arc;

use dns::draft::Draft;
use dns::rdata::Type;
use dns::record::{Record, is_newer};
use dns::transfer::{Copied, Incoming};
use dns::zone::RrSet;
use example::{ZONE, soa};
use libfuzzer_sys::fuzz_target;

/// The id of the question, which the answers must have; a fuzzer would not guess it.
const ID: u16 = 0x746f;

fuzz_target!(|data: &[u8]| {
    let have = soa(&ZONE);
    follow(data, None);
    follow(data, Some(&have));
});

fn follow(mut data: &[u8], have: Option<&Record>) {
    let origin = ZONE.name().to_name();
    let mut incoming = Incoming::new(ID, &origin, have);
    // RFC 1035 §4.2.2: two octets of length before each message.
    while let Some((length, rest)) = data.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (message, behind) = rest.split_at(length);
        data = behind;
        match incoming.take(message) {
            Ok(None) => {}
            Ok(Some(copied)) => return check(copied, have),
            Err(error) => {
                let told = error.to_string();
                assert!(!told.is_empty() && !told.contains(char::is_control), "{told:?}");
                return;
            }
        }
    }
}

fn check(copied: Copied, have: Option<&Record>) {
    match copied {
        Copied::Current => assert!(have.is_some(), "whoever has nothing has not the newest"),
        Copied::Whole(zone) => {
            assert_eq!(zone.name(), ZONE.name());
            assert_eq!(zone.apex().set(Type::SOA).map(RrSet::len), Some(1), "a zone has one SOA");
            assert!(zone.nodes().all(|node| node.name().is_within(ZONE.name())), "a name of another zone");
        }
        Copied::Differences(differences) => {
            let mut draft = Draft::new(Arc::clone(&ZONE));
            let mut serial = ZONE.serial();
            for difference in &differences {
                assert_eq!(difference.from, serial, "{differences:?}");
                serial = difference.to;
                // What does not fit is told, and whoever has asked asks for the whole zone.
                draft.apply(difference);
            }
            assert!(!differences.is_empty() && is_newer(serial, ZONE.serial()), "{differences:?}");
            if let Ok(zone) = draft.finish() {
                assert_eq!(zone.name(), ZONE.name());
            }
        }
    }
}
