//! Ranges (RFC 9110 §14): a part of a file instead of the whole.
//!
//! ```text
//! C: Range: bytes=250-300                   51 octets, both ends included
//! S: HTTP/1.1 206 Partial Content
//! S: Content-Range: bytes 250-300/2652
//! ```
//!
//! A range set is read against the length of the file. Several parts go out as one `multipart/byteranges` body (§14.6),
//! whose length is known before its first octet is sent. What cannot be read is ignored and the whole is sent, because
//! `Range` is a wish and not a command; what lies behind the end is 416.
use std::ops;

use http::HeaderMap;
use http::HeaderValue;
use http::header::RANGE;
use memchr::memchr;

/// RFC 9110 §14.2 lets a server ignore "many small ranges", and CVE-2011-3192 (one request that asked Apache for 1,300
/// overlapping ranges) shows why it must. Readers of large documents ask for a dozen at once.
const RANGES_MAX: usize = 32;

/// What a `Range` field asks for, read against a length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// Answer 200 with everything.
    Whole(Because),
    /// Answer 206. At least one part, none empty, none overlapping another, in the order asked.
    Parts(Vec<Part>),
    /// Answer 416 with [`unsatisfied_content_range`].
    Unsatisfiable,
}

/// Why the whole is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    /// There is no `Range`.
    NotAsked,
    /// RFC 9110 §14.2: "A server ... MAY ignore or reject a Range header field that contains an invalid ranges-specifier".
    /// `bytes=250-30` is one (§14.1.1: "an int-range is invalid if the last-pos value is present and less than first-pos").
    Malformed,
    /// §14.2: "An origin server MUST ignore a Range header field that contains a range unit it does not understand."
    OtherUnit,
    /// More than [`RANGES_MAX`] ranges.
    TooMany,
    /// `Content-Range` cannot say that nothing of nothing is sent.
    Empty,
}

impl Because {
    /// For the log.
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Self::NotAsked => "no Range was asked",
            Self::Malformed => "the Range is not one (RFC 9110 §14.1.1)",
            Self::OtherUnit => "the Range is not in bytes (RFC 9110 §14.1)",
            Self::TooMany => "the Range has more parts than this server sends (RFC 9110 §14.2)",
            Self::Empty => "a part of an empty file is the file",
        }
    }
}

/// Octets `first` to `last` of a file, both included, as in `Content-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    first: u64,
    last: u64,
}

impl Part {
    pub(crate) fn octets(self) -> u64 {
        self.last - self.first + 1
    }

    /// Offsets into the file.
    pub(crate) fn range(self) -> ops::Range<u64> {
        self.first..self.last + 1
    }

    /// RFC 9110 §14.4: `bytes first-last/complete-length`.
    pub(crate) fn content_range(self, length: u64) -> HeaderValue {
        let Self { first, last } = self;
        HeaderValue::try_from(format!("bytes {first}-{last}/{length}"))
            .expect("digits and punctuation are visible ASCII")
    }

    /// Whether one octet stream can hold both without a gap.
    fn touches(self, other: Self) -> bool {
        self.first <= other.last.saturating_add(1) && other.first <= self.last.saturating_add(1)
    }
}

/// RFC 9110 §14.4: the `Content-Range` of a 416, which tells the length so that the client can ask again.
pub(crate) fn unsatisfied_content_range(length: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{length}")).expect("digits and punctuation are visible ASCII")
}

impl Ranges {
    /// Reads the `Range` field of a request for something of this length in octets.
    pub(crate) fn of(fields: &HeaderMap, length: u64) -> Self {
        let mut lines = fields.get_all(RANGE).iter();
        match (lines.next(), lines.next()) {
            (None, _) => Self::Whole(Because::NotAsked),
            (Some(line), None) => Self::parse(line.as_bytes(), length),
            // RFC 9110 §5.3: Range is no list field, so two lines of it have no meaning.
            (Some(_), Some(_)) => Self::Whole(Because::Malformed),
        }
    }

    /// RFC 9110 §14.1.1: `ranges-specifier = range-unit "=" range-set`, `range-set = 1#range-spec`.
    fn parse(value: &[u8], length: u64) -> Self {
        let Some(equals) = memchr(b'=', value) else { return Self::Whole(Because::Malformed) };
        // §14.1: names of range units are case-insensitive.
        if !value[..equals].eq_ignore_ascii_case(b"bytes") {
            return Self::Whole(Because::OtherUnit);
        }
        let mut count = 0;
        let mut parts: Vec<Part> = Vec::new();
        for spec in value[equals + 1..].split(|&octet| octet == b',').map(<[u8]>::trim_ascii) {
            // §5.6.1.2: empty elements of a list are ignored, but there must be a reasonable number of them.
            count += 1;
            if count > RANGES_MAX {
                return Self::Whole(Because::TooMany);
            }
            if spec.is_empty() {
                continue;
            }
            match read_spec(spec, length) {
                None => return Self::Whole(Because::Malformed),
                Some(Spec::Satisfiable(part)) => add(&mut parts, part),
                Some(Spec::Unsatisfiable) => {}
                Some(Spec::Empty) => return Self::Whole(Because::Empty),
            }
        }
        if !parts.is_empty() {
            return Self::Parts(parts);
        }
        // §14.1.1 wants at least one element; `bytes=` and `bytes=,` are no range set.
        let nothing_asked = value[equals + 1..].iter().all(|octet| matches!(octet, b',' | b' ' | b'\t'));
        if nothing_asked { Self::Whole(Because::Malformed) } else { Self::Unsatisfiable }
    }
}

/// One range, read against a length.
enum Spec {
    Satisfiable(Part),
    /// §14.1.2: it begins behind the end, or asks for the last zero octets.
    Unsatisfiable,
    /// The last octets of nothing: satisfiable by §14.1.2, and yet there is no part.
    Empty,
}

/// RFC 9110 §14.1.2: `first-pos "-" [ last-pos ]` or `"-" suffix-length`; `None` if it is neither.
fn read_spec(spec: &[u8], length: u64) -> Option<Spec> {
    let dash = memchr(b'-', spec)?;
    let (first, last) = (&spec[..dash], &spec[dash + 1..]);
    if first.is_empty() {
        return Some(match (number(last)?, length) {
            (0, _) => Spec::Unsatisfiable,
            (_, 0) => Spec::Empty,
            // "If the selected representation is shorter than the specified suffix-length, the entire representation is used."
            (suffix, _) => Spec::Satisfiable(Part { first: length.saturating_sub(suffix), last: length - 1 }),
        });
    }
    let first = number(first)?;
    let last = if last.is_empty() { u64::MAX } else { number(last)? };
    if last < first {
        return None;
    }
    // "If the last-pos value is absent, or if the value is greater than or equal to the current length ..., the byte range
    // is interpreted as the remainder of the representation".
    Some(if first < length {
        Spec::Satisfiable(Part { first, last: last.min(length - 1) })
    } else {
        Spec::Unsatisfiable
    })
}

/// `1*DIGIT`; a number beyond 64 bits is behind the end of every file, whatever it is.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |sum: u64, digit: &u8| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'));
    Some(digits.iter().fold(0, add))
}

/// RFC 9110 §15.3.7.2: "a server that generates a multipart response ... MAY coalesce" ranges that overlap or touch. We
/// always do, at the place of the first: so nobody is sent more than the whole file, however often they ask.
fn add(parts: &mut Vec<Part>, mut part: Part) {
    let mut place = parts.len();
    // A part that has grown may touch another, so look again until none does; there are at most RANGES_MAX.
    while let Some(index) = parts.iter().position(|other| other.touches(part)) {
        let other = parts.remove(index);
        part = Part { first: part.first.min(other.first), last: part.last.max(other.last) };
        place = place.min(index);
    }
    parts.insert(place, part);
}

/// The frame around several parts (RFC 9110 §14.6, RFC 2046 §5.1): a head before each, and an end.
#[derive(Debug)]
pub(crate) struct Multipart {
    boundary: Boundary,
    heads: Vec<Vec<u8>>,
    content_length: u64,
}

/// A line that does not occur in the parts, because nobody who wrote them knew it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Boundary(u128);

impl Boundary {
    /// `secret` must be random, or whoever may write a file could write a false part into it.
    pub(crate) fn new(secret: u128) -> Self {
        Self(secret)
    }
}

impl Multipart {
    /// Frames these parts of something with this media type and length.
    pub(crate) fn new(parts: &[Part], length: u64, content_type: &HeaderValue, boundary: Boundary) -> Self {
        let heads: Vec<_> = parts
            .iter()
            .enumerate()
            .map(|(index, part)| {
                // RFC 2046 §5.1.1: the line end before a delimiter belongs to the delimiter; before the first there is none.
                let mut head = if index == 0 { Vec::new() } else { b"\r\n".to_vec() };
                head.extend_from_slice(format!("--{:032x}\r\nContent-Type: ", boundary.0).as_bytes());
                head.extend_from_slice(content_type.as_bytes());
                head.extend_from_slice(b"\r\nContent-Range: ");
                head.extend_from_slice(part.content_range(length).as_bytes());
                head.extend_from_slice(b"\r\n\r\n");
                head
            })
            .collect();
        let framed: u64 = heads.iter().zip(parts).map(|(head, part)| head.len() as u64 + part.octets()).sum();
        let mut multipart = Self { boundary, heads, content_length: framed };
        multipart.content_length += multipart.end().len() as u64;
        multipart
    }

    /// The `Content-Type` of the response.
    pub(crate) fn content_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!("multipart/byteranges; boundary={:032x}", self.boundary.0))
            .expect("hexadecimal digits are visible ASCII")
    }

    /// The `Content-Length` of the response.
    pub(crate) fn content_length(&self) -> u64 {
        self.content_length
    }

    /// What goes before each part, in order.
    pub(crate) fn heads(&self) -> &[Vec<u8>] {
        &self.heads
    }

    /// What goes behind the last part.
    pub(crate) fn end(&self) -> Vec<u8> {
        format!("\r\n--{:032x}--\r\n", self.boundary.0).into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(value: &str, length: u64) -> Ranges {
        Ranges::of(&HeaderMap::from_iter([(RANGE, HeaderValue::from_str(value).unwrap())]), length)
    }

    fn parts(parts: &[(u64, u64)]) -> Ranges {
        Ranges::Parts(parts.iter().map(|&(first, last)| Part { first, last }).collect())
    }

    #[test]
    fn ranges_are_read_against_the_length() {
        for (value, expected) in [
            ("bytes=250-300", parts(&[(250, 300)])),
            ("BYTES=0-0", parts(&[(0, 0)])),
            ("bytes=2651-", parts(&[(2651, 2651)])),
            ("bytes=0-", parts(&[(0, 2651)])),
            ("bytes=0-99999", parts(&[(0, 2651)])),
            ("bytes=0-99999999999999999999999", parts(&[(0, 2651)])),
            ("bytes=-1", parts(&[(2651, 2651)])),
            ("bytes=-9999", parts(&[(0, 2651)])),
            ("bytes=-99999999999999999999999", parts(&[(0, 2651)])),
            ("bytes=0-9,20-29", parts(&[(0, 9), (20, 29)])),
            ("bytes= 20-29 ,\t0-9,,", parts(&[(20, 29), (0, 9)])),
            ("bytes=0-9,5000-", parts(&[(0, 9)])),
            // Overlapping and touching ones are sent once.
            ("bytes=0-9,5-19", parts(&[(0, 19)])),
            ("bytes=0-9,10-19", parts(&[(0, 19)])),
            ("bytes=0-9,20-29,5-24", parts(&[(0, 29)])),
            ("bytes=40-49,0-9,20-29,8-21", parts(&[(40, 49), (0, 29)])),
            ("bytes=0-,0-,0-,-1", parts(&[(0, 2651)])),
        ] {
            assert_eq!(ranges(value, 2652), expected, "{value}");
        }
        assert_eq!(ranges("bytes=18446744073709551614-,0-0", u64::MAX), parts(&[(u64::MAX - 1, u64::MAX - 1), (0, 0)]));
    }

    #[test]
    fn what_is_no_range_is_ignored() {
        for value in [
            "bytes=250-30",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=0x1-2",
            "bytes=1 - 2",
            "bytes=--1",
            "bytes=0-9,x",
            "bytes=0-9,9-8",
            "250-300",
        ] {
            assert_eq!(ranges(value, 2652), Ranges::Whole(Because::Malformed), "{value}");
        }
        for value in ["lines=0-9", "bytes =0-9", "=0-9"] {
            assert_eq!(ranges(value, 2652), Ranges::Whole(Because::OtherUnit), "{value}");
        }
        assert_eq!(Ranges::of(&HeaderMap::new(), 2652), Ranges::Whole(Because::NotAsked));
        let mut twice = HeaderMap::new();
        twice.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        twice.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        assert_eq!(Ranges::of(&twice, 2652), Ranges::Whole(Because::Malformed));
    }

    #[test]
    fn what_lies_behind_the_end_is_unsatisfiable() {
        for value in ["bytes=2652-", "bytes=2652-2653", "bytes=-0", "bytes=9999999999999999999999-", "bytes=5000-,-0"] {
            assert_eq!(ranges(value, 2652), Ranges::Unsatisfiable, "{value}");
        }
        assert_eq!(unsatisfied_content_range(2652), "bytes */2652");
        assert_eq!(ranges("bytes=0-", 0), Ranges::Unsatisfiable);
        assert_eq!(ranges("bytes=-5", 0), Ranges::Whole(Because::Empty));
    }

    #[test]
    fn too_many_ranges_are_ignored() {
        let many = |count: u64| {
            let specs: Vec<_> = (0..count).map(|index| format!("{}-{}", index * 2, index * 2)).collect();
            format!("bytes={}", specs.join(","))
        };
        assert!(matches!(ranges(&many(32), 2652), Ranges::Parts(parts) if parts.len() == 32));
        assert_eq!(ranges(&many(33), 2652), Ranges::Whole(Because::TooMany));
        assert_eq!(ranges(&format!("bytes=0-1{}", ",".repeat(40)), 2652), Ranges::Whole(Because::TooMany));
    }

    #[test]
    fn several_parts_are_framed_and_counted() {
        let whole = b"0123456789abcdefghij";
        let Ranges::Parts(parts) = ranges("bytes=0-2,-4", 20) else { panic!("two parts") };
        let multipart = Multipart::new(&parts, 20, &HeaderValue::from_static("text/plain"), Boundary::new(0xB0B));
        let mut body = Vec::new();
        for (head, part) in multipart.heads().iter().zip(&parts) {
            body.extend_from_slice(head);
            body.extend_from_slice(&whole[part.range().start as usize..part.range().end as usize]);
        }
        body.extend_from_slice(&multipart.end());
        let expected = "--00000000000000000000000000000b0b\r\n\
            Content-Type: text/plain\r\n\
            Content-Range: bytes 0-2/20\r\n\
            \r\n\
            012\r\n\
            --00000000000000000000000000000b0b\r\n\
            Content-Type: text/plain\r\n\
            Content-Range: bytes 16-19/20\r\n\
            \r\n\
            ghij\r\n\
            --00000000000000000000000000000b0b--\r\n";
        assert_eq!(body.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
        assert_eq!(multipart.content_length(), expected.len() as u64);
        assert_eq!(multipart.content_type(), "multipart/byteranges; boundary=00000000000000000000000000000b0b");
    }

    proptest! {
        #[test]
        fn parts_are_inside_and_apart(value in "bytes=[0-9,-]{0,30}", length in 0_u64..300) {
            if let Ranges::Parts(parts) = ranges(&value, length) {
                prop_assert!(!parts.is_empty());
                prop_assert!(parts.iter().map(|part| part.octets()).sum::<u64>() <= length);
                for (index, part) in parts.iter().enumerate() {
                    prop_assert!(part.first <= part.last && part.last < length);
                    prop_assert!(parts[..index].iter().all(|other| !other.touches(*part)));
                }
            }
        }
    }
}
