//! Any octets as a message on its way in, whole and in pieces of any size: the same is kept, the message ends at the same place, and that is
//! CR LF . CR LF alone; nothing that is kept has a CR or an LF that stands alone, or more octets than there may be.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use smtp::body::{Bounds, Flaw, Incoming, Progress, Stray};

const OCTETS_MAX: u64 = 2000;

/// What came of a message.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Where it ended, if it did.
    end: Option<usize>,
    flaw: Option<Flaw>,
    kept: Vec<u8>,
}

/// Reads a message from pieces of so many octets.
fn take(wire: &[u8], piece: usize, stray: Stray) -> Taken {
    let bounds = Bounds { octets_max: OCTETS_MAX, line_octets_max: 100, hops_max: 3, stray };
    let mut incoming = Incoming::text(bounds, None);
    let (mut input, mut kept) = (BytesMut::new(), vec![]);
    let mut came = 0;
    for octets in wire.chunks(piece) {
        input.extend_from_slice(octets);
        came += octets.len();
        if incoming.take(&mut input, &mut kept) == Progress::End {
            incoming.finish(&mut kept);
            assert!(incoming.flaw().is_some() || incoming.octets() == kept.len() as u64);
            return Taken { end: Some(came - input.len()), flaw: incoming.flaw(), kept };
        }
        assert!(input.len() <= 1000, "{} octets are held back", input.len());
    }
    Taken { end: None, flaw: None, kept: vec![] }
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, wire)) = data.split_first() else { return };
    let stray = if choice & 1 == 0 { Stray::Refused } else { Stray::Mended };
    let whole = take(wire, wire.len().max(1), stray);
    let pieces = take(wire, usize::from(choice >> 1) + 1, stray);
    assert_eq!(whole.end, pieces.end, "pieces end it elsewhere");
    assert_eq!(whole.flaw.is_some(), pieces.flaw.is_some(), "{whole:?} {pieces:?}");

    // Where a reader that knows nothing but RFC 5321 §4.1.1.4 finds the end.
    let first = wire.starts_with(b".\r\n").then_some(3);
    let end = first.or_else(|| wire.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5));
    assert_eq!(whole.end, end);
    if whole.flaw.is_some() || whole.end.is_none() {
        return;
    }
    assert_eq!(whole.kept, pieces.kept);
    let kept = &whole.kept;
    assert!(kept.len() as u64 <= OCTETS_MAX && !kept.contains(&0), "{} octets", kept.len());
    for (at, octet) in kept.iter().enumerate() {
        match octet {
            b'\r' => assert_eq!(kept.get(at + 1), Some(&b'\n'), "a CR alone at {at}"),
            b'\n' => assert!(at > 0 && kept[at - 1] == b'\r', "an LF alone at {at}"),
            _ => {}
        }
    }
});
