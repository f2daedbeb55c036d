//! Any octets as an update of a zone (RFC 2136): it is refused and nothing has changed, or the zone is one that could have been
//! written, its serial has grown, and the difference leads from the old zone to the new one, which is what journals and
//! secondaries live on.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use dns::Rewrite;
use dns::draft::{Draft, is_same};
use dns::name::Name;
use dns::rdata::Type;
use dns::record::{Message, is_newer};
use dns::update;
use dns::zone::Zone;
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
    let zone = draft.finish().expect("an update of 64 KiB makes no zone too large");
    assert_stands(&zone);

    let mut again = Draft::new(Arc::clone(&ZONE));
    assert_eq!(again.apply(&difference), [], "the difference fits the zone that it is from");
    let again = again.finish().expect("it is as large as the other");
    assert!(is_same(&zone, &again), "{difference:?} leads elsewhere");
});

static ZONE: LazyLock<Arc<Zone>> = LazyLock::new(|| {
    let text = include_str!("../../../daemons/dns/tests/zones/example.zone");
    let name: Name = "example".parse().expect("a name");
    let loaded = dns::zonefile::read(name.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None);
    Arc::new(loaded.expect("the zone files of the tree are right").zone)
});

/// What no update may take from a zone (RFC 2136 §3.4.2), and what RFC 2181 §10.1 says of aliases.
fn assert_stands(zone: &Zone) {
    let records = |rtype| zone.apex().set(rtype).map_or(0, |set| set.len());
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
