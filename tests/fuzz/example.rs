//! A zone in which there is some of everything, for the targets that change and copy one.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use dns::Rewrite;
use dns::name::Name;
use dns::rdata::{Class, Type};
use dns::record::Record;
use dns::zone::Zone;

pub(crate) static ZONE: LazyLock<Arc<Zone>> = LazyLock::new(|| {
    let text = include_str!("../../daemons/dns/tests/zones/example.zone");
    let name: Name = "example".parse().expect("a name");
    let loaded = dns::zonefile::read(name.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None);
    Arc::new(loaded.expect("the zone files of the tree are right").zone)
});

/// The SOA record: which version it is.
pub(crate) fn soa(zone: &Zone) -> Record {
    let (ttl, rdata) = zone.soa().expect("a zone has a SOA");
    Record { owner: zone.name().to_name(), rtype: Type::SOA, class: Class::IN, ttl, rdata: rdata.to_vec() }
}
