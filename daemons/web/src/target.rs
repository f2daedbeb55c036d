//! What a request target asks for: octets of a path, whether a directory is meant, and the query.
//!
//! ```text
//! /some%20dir/./a/../page.html?x=1      as it stands in the request line
//!  some dir/page.html                   what is looked up, below the document root
//! ```
//!
//! The path is decoded exactly once and normalised before anything is looked up, and the result is a path that cannot
//! leave the root by its wording: it has no empty, `.` or `..` segment, no NUL, and no slash that was not a slash in the
//! request. Symbolic links are the file system's matter and are judged where files are opened.
use std::borrow::Cow;

use http::StatusCode;
use memchr::memchr;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What is asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target<'a> {
    /// Segments joined by single slashes; neither begins nor ends with one; empty for the root.
    pub path: Cow<'a, [u8]>,
    pub directory: Directory,
    /// What follows the first `?`, as it was sent.
    pub query: Option<&'a str>,
}

/// Whether the path ended with a slash (or with a dot segment, which means the same, RFC 3986 §5.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directory {
    Asked,
    NotAsked,
}

impl<'a> Target<'a> {
    /// Reads the path and query of a target that the head reader has let through.
    pub(crate) fn parse(path_and_query: &'a str) -> Result<Self, TargetFault> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        // RFC 9112 §3.2.1: an absolute URI without a path (`http://host?query`) means the root.
        let path = path.strip_prefix('/').unwrap_or(path).as_bytes();
        if needs_no_work(path) {
            let (path, directory) = match path.strip_suffix(b"/") {
                Some(path) => (path, Directory::Asked),
                None if path.is_empty() => (path, Directory::Asked),
                None => (path, Directory::NotAsked),
            };
            return Ok(Self { path: Cow::Borrowed(path), directory, query });
        }
        let (path, directory) = normalise(path)?;
        Ok(Self { path: Cow::Owned(path), directory, query })
    }

    /// Where this target stands when the slash at its end is not forgotten: the `Location` of a 301. Relative links in the
    /// page of a directory work only below such a URI.
    ///
    /// It begins with exactly one slash followed by a name, and a backslash, which browsers take for a slash, is encoded;
    /// so `//evil.example` cannot be made to redirect there.
    pub(crate) fn redirect_location(&self, directory: Directory) -> String {
        let mut location = String::with_capacity(self.path.len() + 16);
        location.push('/');
        location.extend(encode_path(&self.path));
        if directory == Directory::Asked && !self.path.is_empty() {
            location.push('/');
        }
        if let Some(query) = self.query {
            location.push('?');
            location.push_str(query);
        }
        location
    }
}

/// Writes the octets of a path so that they mean themselves wherever a URI may stand; slashes stay slashes.
pub(crate) fn encode_path(path: &[u8]) -> percent_encoding::PercentEncode<'_> {
    // RFC 3986 §2.3: unreserved. Others would be legal in places, but encoded they are safe in all of them: `a:b` is not
    // taken for a scheme, and `&` needs no thought in HTML.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
    percent_encode(path, ENCODED)
}

/// The common case: nothing encoded, and no segment that must go. Nothing is allocated then.
fn needs_no_work(path: &[u8]) -> bool {
    if memchr(b'%', path).is_some() {
        return false;
    }
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.is_empty() || path.split(|&octet| octet == b'/').all(|segment| !matches!(segment, b"" | b"." | b".."))
}

/// Decodes each segment, then removes dot segments as RFC 3986 §5.2.4 does.
///
/// Decoding comes first because `%2e` is a dot (§6.2.2.2: encoded unreserved characters are the characters themselves).
fn normalise(path: &[u8]) -> Result<(Vec<u8>, Directory), TargetFault> {
    let mut decoded = Vec::with_capacity(path.len());
    // Where each segment that is kept begins in `decoded`, its slash included.
    let mut starts = Vec::new();
    let mut directory = Directory::Asked;
    for segment in path.split(|&octet| octet == b'/') {
        let start = decoded.len();
        if start > 0 {
            decoded.push(b'/');
        }
        let name = decoded.len();
        decode_segment(segment, &mut decoded)?;
        directory = Directory::Asked;
        match &decoded[name..] {
            // Deviates: RFC 3986 keeps empty segments apart; for a file system `a//b` is `a/b`.
            b"" | b"." => decoded.truncate(start),
            b".." => {
                // Deviates: RFC 3986 lets `/../a` mean `/a`. Nobody asks for that by accident, so it is refused aloud.
                decoded.truncate(starts.pop().ok_or(TargetFault::AboveRoot)?);
            }
            _ => {
                starts.push(start);
                directory = Directory::NotAsked;
            }
        }
    }
    Ok((decoded, directory))
}

/// RFC 3986 §2.1: `pct-encoded = "%" HEXDIG HEXDIG`.
fn decode_segment(mut segment: &[u8], decoded: &mut Vec<u8>) -> Result<(), TargetFault> {
    while let Some(at) = memchr(b'%', segment) {
        decoded.extend_from_slice(&segment[..at]);
        let digit = |index: usize| segment.get(index).and_then(|&octet| char::from(octet).to_digit(16));
        let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2)) else { return Err(TargetFault::Percent) };
        match (high << 4 | low) as u8 {
            0 => return Err(TargetFault::Nul),
            b'/' => return Err(TargetFault::EncodedSlash),
            octet => decoded.push(octet),
        }
        segment = &segment[at + 3..];
    }
    decoded.extend_from_slice(segment);
    Ok(())
}

/// Why a target names nothing that could be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetFault {
    /// A `%` without two hexadecimal digits behind it.
    Percent,
    /// `%00`: file names end there, and checks made before the end would have looked at another name.
    Nul,
    /// `%2F`: a slash that does not separate.
    EncodedSlash,
    /// More `..` than there are segments before.
    AboveRoot,
}

impl TargetFault {
    #[expect(clippy::unused_self, reason = "the same shape as the other refusals have")]
    pub(crate) fn status(self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }

    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Percent => "RFC 3986 §2.1",
            Self::EncodedSlash => "RFC 3986 §2.2",
            Self::AboveRoot => "RFC 3986 §5.2.4",
            Self::Nul => "RFC 3986 §7.3",
        }
    }

    /// What was wrong and what to write instead, in sentences.
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Self::Percent => {
                "A % in the path begins an encoded octet and is followed by two hexadecimal digits (%20 is a space). A % \
                 that means itself is written %25."
            }
            Self::Nul => "The path holds %00. No file name has a NUL octet in it.",
            Self::EncodedSlash => {
                "The path holds %2F, a slash that is not meant to separate directories. No file name has a slash in it; \
                 write / if you meant to separate."
            }
            Self::AboveRoot => "The path climbs with .. above the root, where there is nothing to serve.",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> (String, Directory, Option<&str>) {
        let target = Target::parse(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}"));
        (target.path.escape_ascii().to_string(), target.directory, target.query)
    }

    #[test]
    fn targets_name_a_path_below_the_root() {
        use Directory::{Asked, NotAsked};
        for (text, path, directory, query) in [
            ("/", "", Asked, None),
            ("", "", Asked, None),
            ("?q", "", Asked, Some("q")),
            ("/?", "", Asked, Some("")),
            ("/a", "a", NotAsked, None),
            ("/a/", "a", Asked, None),
            ("/a/b.html?c=/../%00?#", "a/b.html", NotAsked, Some("c=/../%00?#")),
            ("//a", "a", NotAsked, None),
            ("/a//b///", "a/b", Asked, None),
            ("//", "", Asked, None),
            ("/a/./b", "a/b", NotAsked, None),
            ("/a/.", "a", Asked, None),
            ("/a/b/..", "a", Asked, None),
            ("/a/..", "", Asked, None),
            ("/a/../b", "b", NotAsked, None),
            ("/a/b/../../c/d", "c/d", NotAsked, None),
            ("/%61%2e%2E/%7Eross", "a../~ross", NotAsked, None),
            ("/a/%2e%2e/b", "b", NotAsked, None),
            ("/a/%2e", "a", Asked, None),
            ("/some%20dir/%C3%A4%ff", "some dir/\\xc3\\xa4\\xff", NotAsked, None),
            // Decoded once, and only once.
            ("/%252e%252e/%252F", "%2e%2e/%2F", NotAsked, None),
            // A backslash is an octet like any other.
            ("/..\\a/b\\..", "..\\\\a/b\\\\..", NotAsked, None),
            ("/.../..a/a..", ".../..a/a..", NotAsked, None),
            ("/~carey/+", "~carey/+", NotAsked, None),
        ] {
            assert_eq!(parse(text), (path.to_owned(), directory, query), "{text}");
        }
    }

    #[test]
    fn targets_that_name_nothing_are_refused() {
        for (text, expected) in [
            ("/..", TargetFault::AboveRoot),
            ("/../etc/passwd", TargetFault::AboveRoot),
            ("/a/../../b", TargetFault::AboveRoot),
            ("/%2e%2e/a", TargetFault::AboveRoot),
            ("/.%2e/a", TargetFault::AboveRoot),
            ("/./../a", TargetFault::AboveRoot),
            ("//../a", TargetFault::AboveRoot),
            ("/a%00.html", TargetFault::Nul),
            ("/a%2Fb", TargetFault::EncodedSlash),
            ("/..%2f..%2fetc", TargetFault::EncodedSlash),
            ("/%", TargetFault::Percent),
            ("/%4", TargetFault::Percent),
            ("/%zz", TargetFault::Percent),
            ("/%+1", TargetFault::Percent),
            ("/%u0041", TargetFault::Percent),
            ("/a%/b", TargetFault::Percent),
        ] {
            assert_eq!(Target::parse(text), Err(expected), "{text}");
            assert_eq!(expected.status(), 400);
        }
    }

    #[test]
    fn the_common_case_allocates_nothing() {
        for text in ["/", "/a", "/a/b.html", "/a/?b=%20"] {
            assert!(matches!(Target::parse(text), Ok(Target { path: Cow::Borrowed(_), .. })), "{text}");
        }
    }

    #[test]
    fn a_redirect_keeps_the_query_and_never_leaves_the_host() {
        let location = |text: &str| Target::parse(text).unwrap().redirect_location(Directory::Asked);
        for (text, expected) in [
            ("/dir", "/dir/"),
            ("/dir?a=b&c=%20", "/dir/?a=b&c=%20"),
            ("//evil.example/dir", "/evil.example/dir/"),
            ("/\\evil.example", "/%5Cevil.example/"),
            ("/%0d%0aSet-Cookie:a", "/%0D%0ASet-Cookie%3Aa/"),
            ("/%C3%A4 b", "/%C3%A4%20b/"),
            ("/", "/"),
        ] {
            assert_eq!(location(text), expected, "{text}");
        }
        assert_eq!(Target::parse("/a/?q").unwrap().redirect_location(Directory::NotAsked), "/a?q");
    }

    proptest! {
        #[test]
        fn what_comes_out_stays_below_the_root(text in "/([a./]|%2e|%2F|%5c|%41|%00|\\?){0,12}") {
            if let Ok(target) = Target::parse(&text) {
                let segments: Vec<_> = target.path.split(|&octet| octet == b'/').collect();
                prop_assert!(
                    target.path.is_empty() || segments.iter().all(|segment| !matches!(*segment, b"" | b"." | b".."))
                );
                // What we redirect to means the same as what was asked.
                let location = target.redirect_location(target.directory);
                prop_assert!(location.starts_with('/') && !location.starts_with("//"));
                prop_assert_eq!(Target::parse(&location), Ok(target));
            }
        }

        #[test]
        fn noise_never_panics(text in "\\PC{0,40}") {
            let _ = Target::parse(&text);
        }
    }
}
