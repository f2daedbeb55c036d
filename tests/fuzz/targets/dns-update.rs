//! Any octets as an update of a zone (RFC 2136): it is refused and nothing has changed, or the zone is one that could have been
//! written, its serial has grown, and the difference leads from the old zone to the new one, which is what journals and
//! secondaries live on.
#![no_main]

#[path = "../example.rs"]
mod example;

use std::sync::Arc;

use dns::draft::{Difference, Draft, is_same};
use dns::rdata::Type;
use dns::record::{Message, Record, is_newer};
use dns::transfer::{self, Copied, Incoming, Messages, Transfer};
use dns::update;
use dns::zone::{RrSet, Zone};
use example::{ZONE, soa};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(message) = Message::parse(data) else { return };
    let Ok(zone) = update::zone(&message) else { return };
    if zone.borrow() != ZONE.name() {
        return;
    }
    let mut draft = Draft::new(Arc::clone(&ZONE));
    let difference = match update::perform(&mut draft, &message) {
        Err(refusal) => {
            assert_ne!(refusal.rcode.0, 0, "a refusal is no success");
            assert!(!refusal.because.is_empty() && !refusal.because.contains(char::is_control), "{refusal:?}");
            assert!(!draft.has_changed(), "{refusal:?}, and yet the zone is another");
            return;
        }
        Ok(None) => {
            assert!(!draft.has_changed(), "a change that nobody is told");
            return;
        }
        Ok(Some(difference)) => difference,
    };
    assert!(!difference.is_empty() && is_newer(difference.to, difference.from), "{difference:?}");
    let zone = Arc::new(draft.finish().expect("an update of 64 KiB makes no zone too large"));
    assert_stands(&zone);
    for have in [None, Some(&soa(&ZONE))] {
        let copy = copied(&zone, difference.clone(), have);
        assert!(is_same(&zone, &copy), "{difference:?} leads elsewhere");
    }
});

/// Sends what leads from the old zone to the new one, over the wire as a secondary gets it.
fn copied(new: &Arc<Zone>, difference: Difference, have: Option<&Record>) -> Arc<Zone> {
    let transfer = match have {
        None => Transfer::Whole(Arc::clone(new)),
        Some(_) => transfer::choose(new, &[Arc::new(difference)], ZONE.serial()),
    };
    let origin = new.name().to_name();
    let asked = Message::parse(&transfer::question(1, &origin, have)).expect("we ask in well-formed messages");
    let question = asked.question().expect("it has a question");
    let mut incoming = Incoming::new(1, &origin, have);
    for message in Messages::new(&transfer, asked.header, question, None, 0) {
        let message = message.expect("what came in a message fits into one");
        match incoming.take(&message).expect("we believe ourselves") {
            None => {}
            Some(Copied::Current) => panic!("there is something newer"),
            Some(Copied::Whole(zone)) => return Arc::new(*zone),
            Some(Copied::Differences(differences)) => {
                let mut draft = Draft::new(Arc::clone(&ZONE));
                for difference in &differences {
                    assert_eq!(draft.apply(difference), [], "the difference fits the zone that it is from");
                }
                return Arc::new(draft.finish().expect("it is as large as the other"));
            }
        }
    }
    panic!("a transfer that does not end");
}

/// What no update may take from a zone (RFC 2136 §3.4.2), and what RFC 2181 §10.1 says of aliases.
fn assert_stands(zone: &Zone) {
    let records = |rtype| zone.apex().set(rtype).map_or(0, RrSet::len);
    assert_eq!(records(Type::SOA), 1, "a zone has one SOA");
    assert!(records(Type::NS) > 0, "a zone has a name server");
    for node in zone.nodes() {
        if let Some(alias) = node.set(Type::CNAME) {
            assert_eq!(alias.len(), 1, "{}: one alias", node.name());
            let beside = node.sets().filter(|set| ![Type::CNAME, Type::RRSIG, Type::NSEC].contains(&set.rtype));
            assert_eq!(beside.count(), 0, "{}: an alias has nothing beside it", node.name());
        }
        assert!(node.is_apex() || node.set(Type::SOA).is_none(), "{}: a SOA below the apex", node.name());
    }
}
