//! A message as it goes over the wire: every line ends with CR LF, a dot at the start of one is doubled, a dot alone ends it.
//!
//! ```text
//!   file octets --> Cut (TOP: so many lines) --> shared::message::Stuffing --> wire octets
//! ```
//!
//! Pure, and in pieces of any size.

use crate::session::{Extent, Header};

/// How much of a message is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    place: Wanted,
    line_is_empty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    Header { then_lines: u64 },
    Lines(u64),
}

impl Cut {
    /// At the first octet.
    pub fn new(extent: Extent) -> Self {
        let place = match extent {
            Extent::Whole => Wanted::All,
            Extent::Top(lines) => Wanted::Header { then_lines: lines },
        };
        Self { place, line_is_empty: true }
    }

    /// How many of these octets are wanted. With fewer than there are, nothing more is.
    pub fn take(&mut self, octets: &[u8]) -> usize {
        if self.place == Wanted::All {
            return octets.len();
        }
        let mut from = 0;
        loop {
            if self.place == Wanted::Lines(0) {
                return from;
            }
            let Some(lf) = memchr::memchr(b'\n', &octets[from..]) else {
                self.line_is_empty &= octets[from..].iter().all(|octet| *octet == b'\r');
                return octets.len();
            };
            let empty = self.line_is_empty && octets[from..from + lf].iter().all(|octet| *octet == b'\r');
            self.place = match self.place {
                Wanted::Header { then_lines } if empty => Wanted::Lines(then_lines),
                Wanted::Lines(lines) => Wanted::Lines(lines - 1),
                other => other,
            };
            self.line_is_empty = true;
            from += lf + 1;
        }
    }
}

/// What octets the header at the start of a message has, as far as `octets` go. Octets that are no UTF-8 at all are as they have
/// always been, and nobody's business.
pub fn header(octets: &[u8]) -> Header {
    let mut cut = Cut::new(Extent::Top(0));
    let header = &octets[..cut.take(octets)];
    if header.is_ascii() {
        return Header::Plain;
    }
    match str::from_utf8(header) {
        Ok(_) => Header::Utf8,
        // Only cut off within a character.
        Err(error) if error.error_len().is_none() => Header::Utf8,
        Err(_) => Header::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use shared::message::Stuffing;

    fn sent(text: &[u8], extent: Extent, size: usize) -> Vec<u8> {
        let (mut cut, mut stuffing, mut out) = (Cut::new(extent), Stuffing::default(), BytesMut::new());
        for chunk in text.chunks(size) {
            let wanted = cut.take(chunk);
            stuffing.push(&chunk[..wanted], &mut out);
            if wanted < chunk.len() {
                break;
            }
        }
        stuffing.finish(&mut out);
        out.to_vec()
    }

    fn same_in_every_chunk_size(text: &[u8], extent: Extent, want: &[u8]) {
        for size in 1..=text.len().max(1) {
            let sent = sent(text, extent, size);
            assert_eq!(sent, want, "{:?} in chunks of {size}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn top_has_the_header_the_empty_line_and_so_many_lines() {
        let text = b"A: 1\r\nB: 2\r\n\r\n.1\r\n2\r\n\r\n4";
        for (lines, want) in [
            (0, &b"A: 1\r\nB: 2\r\n\r\n.\r\n"[..]),
            (1, b"A: 1\r\nB: 2\r\n\r\n..1\r\n.\r\n"),
            (3, b"A: 1\r\nB: 2\r\n\r\n..1\r\n2\r\n\r\n.\r\n"),
            (4, b"A: 1\r\nB: 2\r\n\r\n..1\r\n2\r\n\r\n4\r\n.\r\n"),
            (u64::MAX, b"A: 1\r\nB: 2\r\n\r\n..1\r\n2\r\n\r\n4\r\n.\r\n"),
        ] {
            same_in_every_chunk_size(text, Extent::Top(lines), want);
            let bare: Vec<u8> = text.iter().copied().filter(|octet| *octet != b'\r').collect();
            same_in_every_chunk_size(&bare, Extent::Top(lines), want);
        }
        same_in_every_chunk_size(b"A: 1\n", Extent::Top(0), b"A: 1\r\n.\r\n");
        same_in_every_chunk_size(b"\nbody\n", Extent::Top(0), b"\r\n.\r\n");
    }

    #[test]
    fn only_utf8_beyond_ascii_in_the_header_needs_utf8() {
        for (text, want) in [
            (&b"Subject: x\r\n\r\n\xc3\xa5"[..], Header::Plain),
            (b"Subject: \xc3\xa5\r\n\r\nx", Header::Utf8),
            (b"Subject: \xc3", Header::Utf8),
            (b"Subject: \xe5\r\n\r\nx", Header::Plain),
            (b"", Header::Plain),
        ] {
            assert_eq!(header(text), want, "{text:?}");
        }
    }
}
