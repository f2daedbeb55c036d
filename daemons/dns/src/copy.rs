//! The copy of somebody else's zone, on disk: a restart serves at once, and does not forget when the copy expires.
//!
//! The file is a master file with one record on each line, SOA first. When it was last changed is when a primary last
//! said that this is the newest version.

use crate::{
    durable,
    name::Name,
    rdata::{Class, Type},
    record::{Record, Soa},
    zone::{Builder, Place, Zone},
    zonefile,
};
use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

/// Writes the copy.
///
/// # Errors
/// The system refused; the old copy is as it was.
pub(crate) fn store(path: &Path, zone: &Zone) -> io::Result<()> {
    let mut text = format!("; A copy of {}, made by tomte-dns: changes here are lost.\n", zone.name());
    let soa = zone.soa().map(|(ttl, rdata)| (zone.name(), Type::SOA, ttl, rdata));
    let all = zone.nodes().flat_map(|node| {
        node.sets().flat_map(move |set| {
            set.records().map(move |rdata| (node.name(), set.rtype, node.ttl_of(set, rdata), rdata))
        })
    });
    for (owner, rtype, ttl, rdata) in soa.into_iter().chain(all.filter(|(_, rtype, ..)| *rtype != Type::SOA)) {
        let record = Record { owner: owner.to_name(), rtype, class: Class::IN, ttl, rdata: rdata.to_vec() };
        writeln!(text, "{record}").expect("writing into a String does not fail");
    }
    durable::replace(path, text.as_bytes(), durable::Readers::All)
}

/// Remembers that a primary has said that the copy is the newest.
///
/// # Errors
/// The system refused.
pub(crate) fn checked(path: &Path, now: SystemTime) -> io::Result<()> {
    File::options().write(true).open(path)?.set_modified(now)
}

/// Reads the copy, and when it was last checked. One that is not there, or is not whole, is no copy: it will come
/// again.
pub(crate) fn load(path: &Path, name: &Name) -> Option<(Arc<Zone>, Soa, SystemTime)> {
    let text = fs::read(path).ok()?;
    let checked = fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    let zone = match zonefile::records(path, &text) {
        Ok(records) => {
            let mut builder = Builder::new(name.borrow());
            for Record { owner, rtype, ttl, rdata, .. } in &records {
                builder.add(owner.borrow(), *rtype, *ttl, rdata, Place::default()).ok()?;
            }
            // What is doubtful about the zone is its owner's to know.
            builder.finish().0
        }
        Err(error) => {
            tracing::warn!(%error, "the copy cannot be read; it will be made anew");
            return None;
        }
    };
    let soa = Soa::parse(zone.soa()?.1)?;
    Some((Arc::new(zone), soa, checked))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        transfer::{Copied, Incoming},
        zonefile::Rewrite,
    };
    use std::time::Duration;

    #[test]
    fn a_copy_comes_back_with_the_time_when_it_was_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("-/crepes.fr.copy");
        let origin: Name = "crepes.fr".parse().unwrap();
        assert!(load(&path, &origin).is_none());
        // A zone that nobody would write, but a primary may send: its server has no address.
        let mut builder = Builder::new(origin.borrow());
        let text =
            "crepes.fr. 5 SOA ns.crepes.fr. h. 12 1 2 3 4\ncrepes.fr. 5 NS ns.crepes.fr.\na.crepes.fr. 5 TXT \"x\"\n";
        for record in zonefile::records(Path::new("test"), text.as_bytes()).unwrap() {
            builder.add(record.owner.borrow(), record.rtype, record.ttl, &record.rdata, Place::default()).unwrap();
        }
        let zone = builder.finish().0;
        assert!(zonefile::read(origin.borrow(), Path::new("test"), text.as_bytes(), None, Rewrite::None).is_err());
        store(&path, &zone).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        checked(&path, then).unwrap();
        let (copy, soa, at) = load(&path, &origin).unwrap();
        assert_eq!((copy.len(), copy.serial(), soa.expire, at), (3, 12, 3, then));
        fs::write(&path, "crepes.fr. 5 SOA ns.crepes.fr. h. 12 1 2\n").unwrap();
        assert!(load(&path, &origin).is_none());
    }

    /// RFC 2181 §8. A copy that cannot be read is no copy: after a restart the zone would not be served until its primary
    /// answers.
    #[test]
    fn a_ttl_with_its_highest_bit_set_is_0_in_the_copy_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("-/crepes.fr.copy");
        let origin: Name = "crepes.fr".parse().unwrap();
        let mut message = vec![0, 7, 0x84, 0, 0, 0, 0, 3, 0, 0, 0, 0];
        let soa = zonefile::records(Path::new("test"), b"crepes.fr. 5 SOA ns.crepes.fr. h. 12 1 2 3 4\n").unwrap();
        let address = zonefile::records(Path::new("test"), b"ns.crepes.fr. 5 A 10.77.1.53\n").unwrap();
        for (record, ttl) in [(&soa[0], u32::MAX), (&address[0], 0x8000_0000), (&soa[0], u32::MAX)] {
            message.extend(record.owner.borrow().as_wire());
            message.extend([record.rtype.0.to_be_bytes(), [0, 1]].concat());
            message.extend(ttl.to_be_bytes());
            message.extend((record.rdata.len() as u16).to_be_bytes());
            message.extend(&record.rdata);
        }
        let copied = Incoming::new(7, &origin, None).take(&message).unwrap();
        let Some(Copied::Whole(zone)) = copied else { panic!("{copied:?}") };
        store(&path, &zone).unwrap();
        let (copy, ..) = load(&path, &origin).unwrap();
        let ttls: Vec<u32> = copy.nodes().flat_map(|node| node.sets().map(|set| set.ttl)).collect();
        assert_eq!((copy.len(), ttls), (2, vec![0, 0]));
    }
}
