//! Finds where a chunked body ends (RFC 9112 §7.1), strictly and without copying.
//!
//! ```text
//! 5;name=value CRLF      chunk-size in hexadecimal, perhaps chunk extensions (§7.1.1)
//! hello CRLF             that many octets, and a line end
//! 0 CRLF                 the last chunk
//! Name: value CRLF       trailer fields (§7.1.2), usually none
//! CRLF                   the end
//! ```
//!
//! hyper decodes the body; this follows it a step ahead, so that the connection knows where the next request head
//! begins and the two agree about it. All lines end at CR LF here: the licence of RFC 9112 §2.2 to take a bare LF is for
//! heads, and taking it in chunks has been used to smuggle requests through extensions.
use std::borrow::Cow;

/// RFC 9112 §7.1.1: "A server ought to limit the total length of chunk extensions received". Nobody has a use for them.
const EXTENSION_OCTETS_MAX: u32 = 256;

/// Trailer fields are for checksums and the like; this is the usual limit of a whole head.
const TRAILER_OCTETS_MAX: u32 = 8 * 1024;

/// Sixteen hexadecimal digits are 64 bits. More, even leading zeros, overflow somebody's integer.
const SIZE_DIGITS_MAX: u8 = 16;

/// Follows one chunked body that arrives in pieces. Make a new one for each body.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    state: State,
    /// Octets of content so far, without sizes, extensions and trailers.
    content_octets: u64,
    /// Octets of extensions in this chunk.
    extension_octets: u32,
    trailer_octets: u32,
    /// The beginning of the name of the trailer field that is being read.
    name: [u8; NAME_OCTETS],
    name_octets: usize,
}

/// How far one call of [`ChunkReader::advance`] got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Advance {
    /// How many of the octets given belong to the body: all of them, unless it ends before.
    pub octets: usize,
    pub body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    GoesOn,
    Ends,
}

/// Each state is named by what comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        digits: u8,
        size: u64,
    },
    // chunk-ext = *( BWS ";" BWS chunk-ext-name [ BWS "=" BWS chunk-ext-val ] )
    /// After white space that must be followed by a semicolon.
    Semicolon {
        size: u64,
    },
    /// The first octet of a name, or white space before it.
    ExtensionNameStart {
        size: u64,
    },
    ExtensionName {
        size: u64,
    },
    /// After white space behind a name.
    EqualsOrSemicolon {
        size: u64,
    },
    /// The first octet of a value, or white space before it.
    ExtensionValueStart {
        size: u64,
    },
    ExtensionToken {
        size: u64,
    },
    ExtensionQuoted {
        size: u64,
    },
    ExtensionQuotedPair {
        size: u64,
    },
    ExtensionQuotedEnd {
        size: u64,
    },
    SizeLf {
        size: u64,
    },
    Data {
        remaining: u64,
    },
    DataCr,
    DataLf,
    // trailer-section = *( field-line CRLF )
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
    Done,
}

impl ChunkReader {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Size { digits: 0, size: 0 },
            content_octets: 0,
            extension_octets: 0,
            trailer_octets: 0,
            name: [0; NAME_OCTETS],
            name_octets: 0,
        }
    }

    /// Goes through the next octets of the connection. After an error or the end, further calls are of no use.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<Advance, BadChunk> {
        let mut octets = 0;
        while let Some(&octet) = bytes.get(octets) {
            match self.state {
                State::Done => break,
                State::Data { remaining } => {
                    let here = remaining.min((bytes.len() - octets) as u64);
                    self.content_octets += here;
                    octets += here as usize;
                    self.state =
                        if here == remaining { State::DataCr } else { State::Data { remaining: remaining - here } };
                }
                state => {
                    self.state = self.step(state, octet)?;
                    octets += 1;
                }
            }
        }
        let body = if self.state == State::Done { Body::Ends } else { Body::GoesOn };
        Ok(Advance { octets, body })
    }

    /// Octets of content seen so far, which tests count as well.
    #[cfg(any(test, feature = "fuzz"))]
    pub(crate) fn content_octets(&self) -> u64 {
        self.content_octets
    }

    fn step(&mut self, state: State, octet: u8) -> Result<State, BadChunk> {
        Ok(match (state, octet) {
            // chunk-size = 1*HEXDIG
            (State::Size { digits: SIZE_DIGITS_MAX, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                return Err(BadChunk::SizeTooLong);
            }
            (State::Size { digits, size }, b'0'..=b'9') => size_and(digits, size, octet - b'0'),
            (State::Size { digits, size }, b'a'..=b'f') => size_and(digits, size, octet - b'a' + 10),
            (State::Size { digits, size }, b'A'..=b'F') => size_and(digits, size, octet - b'A' + 10),
            (State::Size { digits: 1.., size }, b'\r') => State::SizeLf { size },
            (State::Size { digits: 1.., size }, b';' | b' ' | b'\t') => {
                self.extension_octets = 0;
                self.extension(State::Semicolon { size }, octet)?
            }
            (State::Size { .. }, _) => return Err(BadChunk::SizeOctet { octet }),

            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => {
                // The sum is what `content_octets` will be; a sum beyond 64 bits would wrap, so it is refused here.
                self.content_octets.checked_add(size).ok_or(BadChunk::SizeTooLong)?;
                State::Data { remaining: size }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataCr, _) => return Err(BadChunk::DataEnd { octet }),
            (State::DataLf, b'\n') => State::Size { digits: 0, size: 0 },

            (State::TrailerStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::Done,
            (State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLf, _) => {
                self.trailer(state, octet)?
            }
            (State::SizeLf { .. } | State::DataLf | State::EndLf, _) => return Err(BadChunk::LineEnd { octet }),

            (
                State::Semicolon { .. }
                | State::ExtensionNameStart { .. }
                | State::ExtensionName { .. }
                | State::EqualsOrSemicolon { .. }
                | State::ExtensionValueStart { .. }
                | State::ExtensionToken { .. }
                | State::ExtensionQuoted { .. }
                | State::ExtensionQuotedPair { .. }
                | State::ExtensionQuotedEnd { .. },
                _,
            ) => self.extension(state, octet)?,
            // `advance` deals with these two.
            (State::Data { .. } | State::Done, _) => state,
        })
    }

    /// RFC 9112 §7.1.1. "A recipient MUST ignore unrecognized chunk extensions", but not ones that are none: what is
    /// skipped without looking can hide a line end that another program sees.
    fn extension(&mut self, state: State, octet: u8) -> Result<State, BadChunk> {
        if octet != b'\r' {
            self.extension_octets += 1;
            if self.extension_octets > EXTENSION_OCTETS_MAX {
                return Err(BadChunk::ExtensionsTooLong);
            }
        }
        Ok(match (state, octet) {
            (State::Semicolon { size }, b' ' | b'\t') => State::Semicolon { size },
            (State::ExtensionNameStart { size }, b' ' | b'\t') => State::ExtensionNameStart { size },
            (State::ExtensionNameStart { size } | State::ExtensionName { size }, octet) if is_token(octet) => {
                State::ExtensionName { size }
            }
            (State::ExtensionName { size } | State::EqualsOrSemicolon { size }, b' ' | b'\t') => {
                State::EqualsOrSemicolon { size }
            }
            (State::ExtensionName { size } | State::EqualsOrSemicolon { size }, b'=') => {
                State::ExtensionValueStart { size }
            }

            (State::ExtensionValueStart { size }, b' ' | b'\t') => State::ExtensionValueStart { size },
            (State::ExtensionValueStart { size }, b'"') => State::ExtensionQuoted { size },
            (State::ExtensionValueStart { size } | State::ExtensionToken { size }, octet) if is_token(octet) => {
                State::ExtensionToken { size }
            }
            // RFC 9110 §5.6.4: quoted-string.
            (State::ExtensionQuoted { size }, b'"') => State::ExtensionQuotedEnd { size },
            (State::ExtensionQuoted { size }, b'\\') => State::ExtensionQuotedPair { size },
            (State::ExtensionQuoted { size } | State::ExtensionQuotedPair { size }, octet) if is_text(octet) => {
                State::ExtensionQuoted { size }
            }
            (State::ExtensionToken { size } | State::ExtensionQuotedEnd { size }, b' ' | b'\t') => {
                State::Semicolon { size }
            }

            // A name may stand without a value, so another extension or the line end can follow either.
            (
                State::Semicolon { size }
                | State::ExtensionName { size }
                | State::EqualsOrSemicolon { size }
                | State::ExtensionToken { size }
                | State::ExtensionQuotedEnd { size },
                b';',
            ) => State::ExtensionNameStart { size },
            (
                State::ExtensionName { size } | State::ExtensionToken { size } | State::ExtensionQuotedEnd { size },
                b'\r',
            ) => State::SizeLf { size },
            _ => return Err(BadChunk::ExtensionOctet { octet }),
        })
    }

    /// RFC 9112 §7.1.2: trailer fields have the grammar of header fields.
    fn trailer(&mut self, state: State, octet: u8) -> Result<State, BadChunk> {
        self.trailer_octets += 1;
        if self.trailer_octets > TRAILER_OCTETS_MAX {
            return Err(BadChunk::TrailerTooLarge);
        }
        Ok(match (state, octet) {
            (State::TrailerStart, octet) if is_token(octet) => {
                self.name_octets = 0;
                self.remember(octet);
                State::TrailerName
            }
            (State::TrailerName, octet) if is_token(octet) => {
                self.remember(octet);
                State::TrailerName
            }
            (State::TrailerName, b':') => {
                // RFC 9110 §6.5.1: "A sender MUST NOT generate a trailer field" that is needed for framing or routing.
                if let Some(name) = self.forbidden_name() {
                    return Err(BadChunk::TrailerForbidden { name });
                }
                State::TrailerValue
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerValue, octet) if is_text(octet) => State::TrailerValue,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::TrailerLf, _) => return Err(BadChunk::LineEnd { octet }),
            _ => return Err(BadChunk::TrailerOctet { octet }),
        })
    }

    fn remember(&mut self, octet: u8) {
        if let Some(place) = self.name.get_mut(self.name_octets) {
            *place = octet;
        }
        self.name_octets += 1;
    }

    fn forbidden_name(&self) -> Option<&'static str> {
        // A name that did not fit is longer than all of them.
        let name = self.name.get(..self.name_octets)?;
        FORBIDDEN_TRAILERS.into_iter().find(|forbidden| name.eq_ignore_ascii_case(forbidden.as_bytes()))
    }
}

/// Fields that say where a message ends, whom it is for, or what happens to the connection: too late in a trailer, and
/// a program that merged them into the head would read another message than we did.
const FORBIDDEN_TRAILERS: [&str; 9] = [
    "Transfer-Encoding",
    "Content-Length",
    "Host",
    "Connection",
    "Keep-Alive",
    "TE",
    "Trailer",
    "Upgrade",
    "Authorization",
];

/// Length of the longest of [`FORBIDDEN_TRAILERS`].
const NAME_OCTETS: usize = "Transfer-Encoding".len();

fn size_and(digits: u8, size: u64, digit: u8) -> State {
    State::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
}

/// RFC 9110 §5.6.2: `tchar`.
fn is_token(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&octet)
}

/// What a field value and, but for `"` and `\`, a quoted string hold: HTAB, SP, VCHAR and obs-text.
fn is_text(octet: u8) -> bool {
    octet == b'\t' || !octet.is_ascii_control()
}

/// Why a chunked body cannot be followed any further. Close the connection: where the next request begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadChunk {
    /// Not a hexadecimal digit where a size is expected.
    SizeOctet {
        octet: u8,
    },
    /// More than sixteen digits, or more content than 64 bits can count.
    SizeTooLong,
    /// An extension that is not `;name` or `;name=value`.
    ExtensionOctet {
        octet: u8,
    },
    ExtensionsTooLong,
    /// No CR after the octets that the size announced.
    DataEnd {
        octet: u8,
    },
    /// No LF after a CR.
    LineEnd {
        octet: u8,
    },
    /// A trailer line that is not a field.
    TrailerOctet {
        octet: u8,
    },
    TrailerForbidden {
        name: &'static str,
    },
    TrailerTooLarge,
}

impl BadChunk {
    /// What was wrong and what belongs there, in sentences.
    pub(crate) fn explain(&self) -> Cow<'static, str> {
        match self {
            Self::SizeOctet { octet } => format!(
                "A chunk begins with its size in hexadecimal digits and CR LF; the octet 0x{octet:02X} stands there."
            )
            .into(),
            Self::SizeTooLong => {
                "A chunk's size has at most sixteen hexadecimal digits (64 bits). Larger ones wrap around \
                in some programs, and then body is taken for request: request smuggling."
                    .into()
            }
            Self::ExtensionOctet { octet } => format!(
                "What follows a chunk's size is neither CR LF nor an extension (;name or ;name=value): the octet \
                 0x{octet:02X} cannot stand there. Extensions that programs read differently have been used to smuggle \
                 requests."
            )
            .into(),
            Self::ExtensionsTooLong => {
                format!("The extensions of a chunk are longer than {EXTENSION_OCTETS_MAX} octets.").into()
            }
            Self::DataEnd { octet } => {
                format!("A chunk is longer than its size says: the octet 0x{octet:02X} stands where its CR LF belongs.")
                    .into()
            }
            Self::LineEnd { octet } => {
                format!("A CR in the chunked body is followed by the octet 0x{octet:02X}, not by LF.").into()
            }
            Self::TrailerOctet { octet } => format!(
                "After the last chunk come fields (Name: value) or an empty line; the octet 0x{octet:02X} cannot stand \
                 there."
            )
            .into(),
            Self::TrailerForbidden { name } => format!(
                "{name} cannot come after the body: a program that believed it there would read another message than \
                 one that did not (request smuggling)."
            )
            .into(),
            Self::TrailerTooLarge => {
                format!("The fields after the last chunk are longer than {TRAILER_OCTETS_MAX} octets.").into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Follows the body in pieces of this many octets: its length, or `None` if it goes on.
    fn follow(bytes: &[u8], piece_octets: usize) -> Result<Option<usize>, BadChunk> {
        let mut reader = ChunkReader::new();
        let mut sum = 0;
        for piece in bytes.chunks(piece_octets) {
            let advance = reader.advance(piece)?;
            sum += advance.octets;
            match advance.body {
                Body::Ends => return Ok(Some(sum)),
                Body::GoesOn => assert_eq!(advance.octets, piece.len()),
            }
        }
        Ok(None)
    }

    /// The same answer for every size of piece.
    fn end(bytes: &[u8]) -> Result<Option<usize>, BadChunk> {
        let whole = follow(bytes, bytes.len().max(1));
        for piece_octets in 1..bytes.len() {
            assert_eq!(follow(bytes, piece_octets), whole, "{} by {piece_octets}", bytes.escape_ascii());
        }
        whole
    }

    #[test]
    fn good_bodies_end_where_they_end() {
        for body in [
            "0\r\n\r\n",
            "0000000000000000\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "a\r\n0123456789\r\nA\r\n0\r\n\r\n\r\n012\r\n0\r\n\r\n",
            "1;a\r\nx\r\n0\r\n\r\n",
            "1;a=b;c=\"d\\\"\";e\r\nx\r\n0;f\r\n\r\n",
            "1 ; a = b\t;\tc=\"\u{e4};\" ;d ;e\r\nx\r\n0\r\n\r\n",
            "0\r\nChecksum: 1234\r\nempty:\r\nX:\u{e4}\t\r\n\r\n",
            "0\r\nTransfer-Encodings: a\r\nHos: b\r\n\r\n",
        ] {
            let next = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(end(next.as_bytes()), Ok(Some(body.len())), "{body:?}");
            assert_eq!(end(&body.as_bytes()[..body.len() - 1]), Ok(None), "{body:?}");
        }
    }

    #[test]
    fn bad_bodies_are_refused_at_the_octet_that_is_wrong() {
        use BadChunk as B;
        for (body, expected) in [
            ("\r\n", B::SizeOctet { octet: b'\r' }),
            (";a\r\n", B::SizeOctet { octet: b';' }),
            (" 5\r\n", B::SizeOctet { octet: b' ' }),
            ("-5\r\n", B::SizeOctet { octet: b'-' }),
            ("+5\r\n", B::SizeOctet { octet: b'+' }),
            ("0x5\r\n", B::SizeOctet { octet: b'x' }),
            ("5\nhello", B::SizeOctet { octet: b'\n' }),
            ("5g\r\n", B::SizeOctet { octet: b'g' }),
            ("10000000000000000\r\n", B::SizeTooLong),
            ("00000000000000005\r\n", B::SizeTooLong),
            ("1\r\nx\r\nffffffffffffffff\r\n", B::SizeTooLong),
            ("5\rhello", B::LineEnd { octet: b'h' }),
            ("5 \r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5 5\r\nhello", B::ExtensionOctet { octet: b'5' }),
            ("5;\r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5;\nhello", B::ExtensionOctet { octet: b'\n' }),
            ("5;a\nhello", B::ExtensionOctet { octet: b'\n' }),
            ("5;a=b\nhello", B::ExtensionOctet { octet: b'\n' }),
            ("5;a=\r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5;=b\r\nhello", B::ExtensionOctet { octet: b'=' }),
            ("5;a \r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5;a b\r\nhello", B::ExtensionOctet { octet: b'b' }),
            ("5;a=b c\r\nhello", B::ExtensionOctet { octet: b'c' }),
            ("5;a=\"b\r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5;a=\"b\nhello", B::ExtensionOctet { octet: b'\n' }),
            ("5;a=\"b\"c\r\nhello", B::ExtensionOctet { octet: b'c' }),
            ("5;a=\"b\\\r\nhello", B::ExtensionOctet { octet: b'\r' }),
            ("5;a\0\r\nhello", B::ExtensionOctet { octet: 0 }),
            ("5\r\nhello!\r\n", B::DataEnd { octet: b'!' }),
            ("5\r\nhello\n0\r\n", B::DataEnd { octet: b'\n' }),
            ("5\r\nhell\r\n0", B::DataEnd { octet: b'\n' }),
            ("5\r\nhello\r0", B::LineEnd { octet: b'0' }),
            ("0\r\n\n", B::TrailerOctet { octet: b'\n' }),
            ("0\r\n\rx", B::LineEnd { octet: b'x' }),
            ("0\r\nGET / HTTP/1.1\r\n", B::TrailerOctet { octet: b' ' }),
            ("0\r\n: a\r\n", B::TrailerOctet { octet: b':' }),
            ("0\r\na\r\n", B::TrailerOctet { octet: b'\r' }),
            ("0\r\na : b\r\n", B::TrailerOctet { octet: b' ' }),
            ("0\r\na: b\n\r\n", B::TrailerOctet { octet: b'\n' }),
            ("0\r\na: b\0\r\n", B::TrailerOctet { octet: 0 }),
            ("0\r\na: b\r\n folded\r\n", B::TrailerOctet { octet: b' ' }),
            ("0\r\na: b\rc", B::LineEnd { octet: b'c' }),
            ("0\r\na: b\r\nHOST: c", B::TrailerForbidden { name: "Host" }),
            ("0\r\ncontent-length: 5", B::TrailerForbidden { name: "Content-Length" }),
            ("0\r\nTransfer-Encoding: chunked", B::TrailerForbidden { name: "Transfer-Encoding" }),
        ] {
            assert_eq!(end(body.as_bytes()), Err(expected), "{body:?}");
            assert!(expected.explain().ends_with(['.', ')']), "{expected:?}");
        }
        assert_eq!(end(b"1\r\nx\r\nfffffffffffffffe\r\nx"), Ok(None));
    }

    #[test]
    fn extensions_and_trailers_are_limited_to_the_octet() {
        // The semicolon counts.
        let extension = |octets: usize| format!("0;{}\r\n\r\n", "a".repeat(octets - 1));
        assert_eq!(end(extension(256).as_bytes()), Ok(Some(261)));
        assert_eq!(end(extension(257).as_bytes()), Err(BadChunk::ExtensionsTooLong));
        // The limit is for each chunk.
        let twice = format!("1;{0}\r\nx\r\n0;{0}\r\n\r\n", "a".repeat(255));
        assert_eq!(end(twice.as_bytes()), Ok(Some(twice.len())));

        let trailer = |octets: usize| format!("0\r\na:{}\r\n\r\n", "b".repeat(octets - 4));
        let follow_trailer = |octets| follow(trailer(octets).as_bytes(), 1000);
        assert_eq!(follow_trailer(8192), Ok(Some(8192 + 5)));
        assert_eq!(follow_trailer(8193), Err(BadChunk::TrailerTooLarge));
    }

    proptest! {
        #[test]
        fn every_chunked_body_is_followed_to_its_end(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
            after in prop::collection::vec(any::<u8>(), 0..10),
            piece_octets in 1_usize..50,
        ) {
            let mut body = Vec::new();
            for chunk in &chunks {
                body.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                body.extend_from_slice(chunk);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let octets = body.len();
            body.extend_from_slice(&after);
            prop_assert_eq!(follow(&body, piece_octets), Ok(Some(octets)));

            let mut reader = ChunkReader::new();
            prop_assert!(reader.advance(&body).is_ok());
            prop_assert_eq!(reader.content_octets(), chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>());
        }

        #[test]
        fn noise_never_panics_and_is_the_same_in_every_cut(body in "[0-9a-f;=\" \r\n:A-C]{0,30}") {
            let _ = end(body.as_bytes());
        }
    }
}
