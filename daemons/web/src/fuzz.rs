//! What must hold for any octets whatever. The fuzz targets call these; they are no interface.

use std::fmt::Debug;

use http::Version;

use crate::chunked::{BadChunk, Body, ChunkReader};
use crate::head::{Framing, HeadReader, Limits, Progress};

/// Small enough that short inputs reach every one of them.
const LIMITS: Limits = Limits { target_octets: 64, head_octets: 512, fields: 8 };

/// A head that was found whole and good, for comparison with other parsers.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted<'a> {
    /// The octets of the head; the body begins behind them.
    pub octets: usize,
    /// The method.
    pub method: &'a [u8],
    /// The request target as it was written.
    pub target: &'a [u8],
    /// The minor version: 0 or 1.
    pub minor: u8,
}

/// Reads a request head at once, octet by octet, and in pieces of many sizes: always the same verdict, and what it
/// calls complete lies within its limits.
pub fn head(data: &[u8]) -> Option<Accepted<'_>> {
    let whole = HeadReader::new().read(data, &LIMITS);
    for pieces in [octet_by_octet(data), many_sizes(data)] {
        let mut reader = HeadReader::new();
        let mut verdicts = pieces.iter().map(|&end| reader.read(&data[..end], &LIMITS));
        let verdict = verdicts.find(|progress| *progress != Progress::Incomplete).unwrap_or(Progress::Incomplete);
        assert_eq!(verdict, whole, "cut at {pieces:?}");
    }
    match &whole {
        Progress::Incomplete => assert!(data.len() < LIMITS.head_octets, "reads on beyond its limit"),
        Progress::Refused(refused) => {
            let status = refused.refusal.status();
            assert!(status.is_client_error() || status.is_server_error(), "{status} is no refusal");
            assert_printable(&refused.refusal.explain(), &refused.refusal);
        }
        Progress::Complete { octets, framing, version, method, target, .. } => {
            assert!(*octets <= LIMITS.head_octets, "the head is longer than its limit");
            assert!(data[..*octets].ends_with(b"\n"), "a head ends with a line end");
            assert!(!method.is_empty() && method.end < target.start && target.end < *octets, "{whole:?}");
            assert!((1..=LIMITS.target_octets).contains(&target.len()), "{whole:?}");
            if let Framing::Length(length) = framing {
                assert!(i64::try_from(*length).is_ok(), "{whole:?}");
            }
            assert!(http::Uri::try_from(&data[target.clone()]).is_ok(), "hyper could not take this target: {whole:?}");
            return Some(Accepted {
                octets: *octets,
                method: &data[method.clone()],
                target: &data[target.clone()],
                minor: u8::from(*version == Version::HTTP_11),
            });
        }
    }
    None
}

/// Follows a chunked body at once, octet by octet, and in pieces of many sizes: always the same end or the same mistake.
pub fn chunked(data: &[u8]) {
    let whole = follow(data, &[data.len()]);
    if let Err(bad) = &whole {
        assert_printable(&bad.explain(), bad);
    }
    for pieces in [octet_by_octet(data), many_sizes(data)] {
        assert_eq!(follow(data, &pieces), whole, "cut at {pieces:?}");
    }
}

/// Where a body has ended, if it has, and how much content it had.
fn follow(data: &[u8], ends: &[usize]) -> Result<(Option<usize>, u64), BadChunk> {
    let mut reader = ChunkReader::new();
    let mut start = 0;
    for &end in ends {
        let advance = reader.advance(&data[start..end])?;
        assert!(reader.content_octets() <= end as u64, "more content than octets");
        match advance.body {
            Body::Ends => return Ok((Some(start + advance.octets), reader.content_octets())),
            Body::GoesOn => assert_eq!(advance.octets, end - start, "stops although the body goes on"),
        }
        start = end;
    }
    Ok((None, reader.content_octets()))
}

/// The ends of the pieces, the last one at the end of the data.
fn octet_by_octet(data: &[u8]) -> Vec<usize> {
    (1..=data.len()).collect()
}

/// Pieces of 1 to 32 octets, whose sizes the data themselves choose, so that a finding can be repeated.
fn many_sizes(data: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut end = 0;
    while let Some(octet) = data.get(end) {
        end = (end + 1 + usize::from(octet % 32)).min(data.len());
        ends.push(end);
    }
    ends
}

/// A sentence goes to terminals and into logs, where the octets of a stranger must not move the cursor.
fn assert_printable(sentence: &str, reason: &impl Debug) {
    assert!(!sentence.is_empty() && sentence.len() <= 1024, "{reason:?}: {sentence}");
    assert!(!sentence.contains(char::is_control), "{reason:?}: {sentence:?}");
}
