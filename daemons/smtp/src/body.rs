//! A message on its way in: from octets on the wire to the octets that are kept. Pure, and in pieces of any size.
//!
//! ```text
//!   on the wire                         kept
//!   Subject: dots\r\n                   Subject: dots\r\n
//!   \r\n                                \r\n
//!   ..hidden\r\n                        .hidden\r\n         RFC 5321 §4.5.2: a dot at the start of a line was doubled
//!   .\r\n                               the end, after CR LF and nowhere else
//! ```
//!
//! A CR or an LF that stands alone is no line end here, and a message that has one is refused: there are servers that take one for
//! a line end, and a message in which `LF . CR LF` ends nothing for us and everything for them would be two for them, the second
//! one in our name ("SMTP smuggling"). A message that is flawed is read to its end all the same, so that the conversation stays
//! in step, and nothing of it is kept.

use crate::reply::Reply;
use bytes::{Buf, BytesMut};
use memchr::{memchr, memchr2};

/// What a message may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Octets in all.
    pub octets_max: u64,
    /// Octets of a line with its CR LF. RFC 5321 §4.5.3.1.6 has 1000.
    pub line_octets_max: usize,
    /// `Received:` fields. RFC 5321 §6.3: "a large rejection threshold, normally at least 100".
    pub hops_max: usize,
    /// What becomes of a CR or LF that stands alone.
    pub stray: Stray,
}

/// What becomes of a CR or LF that stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stray {
    /// The message is refused.
    Refused,
    /// It becomes a CR LF. It never ends the message.
    Mended,
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Flaw {
    TooLarge(u64),
    BareCr,
    BareLf,
    Nul,
    LongLine(usize),
    LongHeader(usize),
    Loop(usize),
}

impl From<Flaw> for Reply {
    fn from(flaw: Flaw) -> Self {
        match flaw {
            Flaw::TooLarge(most) => Reply::too_large(most),
            Flaw::BareCr => Reply::bare_cr(),
            Flaw::BareLf => Reply::bare_lf(),
            Flaw::Nul => Reply::nul(),
            Flaw::LongLine(most) => Reply::text_line_too_long(most),
            Flaw::LongHeader(most) => Reply::header_too_long(most),
            Flaw::Loop(hops) => Reply::loop_detected(hops),
        }
    }
}

/// Where the message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// DATA: at a line with a dot.
    Dot,
    /// BDAT: where the octets of this chunk do.
    Chunk(u64),
}

/// Whether there is more to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All input that can be judged was taken.
    More,
    /// The message, or its chunk, has ended. What follows in the input is a command.
    End,
}

/// What goes into a header of a user's that lacks it (RFC 6409 §8.2, §8.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `Date: ...`
    pub date: String,
    /// `Message-ID: ...`
    pub message_id: String,
}

/// A message that is coming in.
#[derive(Debug)]
pub struct Incoming {
    bounds: Bounds,
    framing: Framing,
    part: Part,
    /// Octets kept.
    octets: u64,
    /// Octets of the line so far, as it comes. It begins and ends at CR LF.
    line_octets: usize,
    /// Octets of the line so far, as it is kept. It is another one where strays are mended.
    kept_line_octets: usize,
    hops: usize,
    missing: Option<Missing>,
    ascii: bool,
    flaw: Option<Flaw>,
    /// What came in a chunk and cannot be judged without the next one: at most a header's line.
    held: BytesMut,
}

/// Where we are in the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Body,
}

/// Octets of a header. It is looked at as a whole, in memory, for what a stranger tells in our name
/// ([`authenticity`](crate::authenticity)), so none may be longer than what is held of a message. Hardly one has more than 50,000.
pub(crate) const HEADER_OCTETS_MAX: usize = 512 << 10;
/// A header's line that goes on for longer is judged by its beginning; it is too long in any case.
const HEADER_LINE_OCTETS_MAX: usize = 1000;

impl Incoming {
    /// A message that comes with DATA. What a user's header is `missing` is put in at its end.
    pub fn text(bounds: Bounds, missing: Option<Missing>) -> Self {
        Self {
            bounds,
            framing: Framing::Dot,
            part: Part::Header,
            octets: 0,
            line_octets: 0,
            kept_line_octets: 0,
            hops: 0,
            missing,
            ascii: true,
            flaw: None,
            held: BytesMut::new(),
        }
    }

    /// A message that comes with BDAT; each chunk begins with [`Incoming::chunk`].
    pub fn chunks(bounds: Bounds, missing: Option<Missing>) -> Self {
        Self { framing: Framing::Chunk(0), ..Self::text(bounds, missing) }
    }

    /// A chunk of so many octets begins.
    pub fn chunk(&mut self, octets: u64) {
        self.framing = Framing::Chunk(octets);
    }

    /// Whether all of it was ASCII.
    pub fn is_ascii(&self) -> bool {
        self.ascii
    }

    /// Whether all of its header is kept.
    pub fn is_past_header(&self) -> bool {
        self.part == Part::Body
    }

    /// Octets kept.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Why it is refused, if it is. Known at its end.
    pub fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    /// Takes what belongs to the message off the front of `input`, and adds what is kept to `kept`.
    pub fn take(&mut self, input: &mut BytesMut, kept: &mut Vec<u8>) -> Progress {
        match self.framing {
            Framing::Dot => self.take_lines(input, kept),
            Framing::Chunk(left) => {
                let now = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let mut chunk = std::mem::take(&mut self.held);
                chunk.unsplit(input.split_to(now));
                self.take_lines(&mut chunk, kept);
                // A CR at the end, or a header's line without one, is judged with what follows.
                self.held = chunk;
                let left = left - now as u64;
                self.framing = Framing::Chunk(left);
                if left == 0 { Progress::End } else { Progress::More }
            }
        }
    }

    fn take_lines(&mut self, input: &mut BytesMut, kept: &mut Vec<u8>) -> Progress {
        let mut at = 0;
        let progress = loop {
            let rest = &input[at..];
            let Some(&first) = rest.first() else { break Progress::More };
            let line = match memchr(b'\n', rest) {
                Some(lf) => &rest[..=lf],
                // The LF may be the next octet to come.
                None => rest.strip_suffix(b"\r").unwrap_or(rest),
            };
            let whole = line.ends_with(b"\n");
            // A header is judged by whole lines, and what begins with a dot by what follows it.
            let is_header = self.part == Part::Header && self.kept_line_octets == 0;
            let may_be_dot = self.framing == Framing::Dot && self.line_octets == 0 && first == b'.';
            let waits = !whole
                && (is_header && rest.len() < HEADER_LINE_OCTETS_MAX || may_be_dot && rest.len() < b".\r\n".len());
            if waits || line.is_empty() {
                break Progress::More;
            }
            at += line.len();
            let text = if self.framing == Framing::Dot && self.line_octets == 0 && first == b'.' {
                if line == b".\r\n" {
                    break Progress::End;
                }
                &line[1..]
            } else {
                line
            };
            if self.flaw.is_none() {
                self.keep(text, kept);
            }
            // Only CR LF begins a line. A stray that was mended begins one in what is kept, not in what comes.
            self.line_octets = if line.ends_with(b"\r\n") { 0 } else { self.line_octets + text.len().max(1) };
        };
        input.advance(at);
        progress
    }

    /// Keeps a line, or a piece of a long one: `text` has an LF at most at its end.
    fn keep(&mut self, mut text: &[u8], kept: &mut Vec<u8>) {
        loop {
            let inner = text.strip_suffix(b"\r\n").unwrap_or(text);
            let Some(stray) = memchr2(b'\r', b'\n', inner) else { return self.keep_line(text, kept) };
            if self.bounds.stray == Stray::Refused {
                self.flaw = Some(if memchr(b'\r', inner).is_some() { Flaw::BareCr } else { Flaw::BareLf });
                return;
            }
            self.keep_line(&[&text[..stray], b"\r\n"].concat(), kept);
            text = &text[stray + 1..];
            if text.is_empty() || self.flaw.is_some() {
                return;
            }
        }
    }

    /// Judges and keeps a line without strays, or a piece of a long one.
    fn keep_line(&mut self, text: &[u8], kept: &mut Vec<u8>) {
        if self.kept_line_octets == 0 && self.part == Part::Header {
            self.header_line(text, kept);
        }
        self.ascii &= text.is_ascii();
        if memchr(0, text).is_some() {
            self.flaw = Some(Flaw::Nul);
        } else if self.kept_line_octets + text.len() > self.bounds.line_octets_max {
            self.flaw = Some(Flaw::LongLine(self.bounds.line_octets_max));
        } else {
            kept.extend_from_slice(text);
            self.octets += text.len() as u64;
            self.kept_line_octets = if text.ends_with(b"\r\n") { 0 } else { self.kept_line_octets + text.len() };
        }
        if self.octets > self.bounds.octets_max {
            self.flaw = Some(Flaw::TooLarge(self.bounds.octets_max));
        }
        if self.part == Part::Header && self.octets > HEADER_OCTETS_MAX as u64 {
            self.flaw = Some(Flaw::LongHeader(HEADER_OCTETS_MAX));
        }
        if self.hops > self.bounds.hops_max {
            self.flaw = Some(Flaw::Loop(self.hops));
        }
    }

    /// What a line of the header is; what must stand before it is kept.
    fn header_line(&mut self, line: &[u8], kept: &mut Vec<u8>) {
        let field = field_name(line);
        let is = |name: &str| field.is_some_and(|field| field.eq_ignore_ascii_case(name.as_bytes()));
        // RFC 5322 §2.2.3: a blank in front goes on with the field before it. In the first line there is none of this message, and ours
        // above it (RFC 5321 §4.4) must not take it.
        let folded = self.octets > 0 && (line.starts_with(b" ") || line.starts_with(b"\t"));
        let before = kept.len();
        if line == b"\r\n" {
            self.end_header(kept);
        } else if is("Received") {
            self.hops += 1;
        } else if field.is_some() || folded {
            if let Some(missing) = &mut self.missing {
                if is("Date") {
                    missing.date.clear();
                } else if is("Message-ID") {
                    missing.message_id.clear();
                }
            }
        } else {
            // People type a text without a header. What stands above it here is one, so an empty line must part them
            // (RFC 5322 §2.1), or the text would be taken for a broken header.
            self.end_header(kept);
            kept.extend_from_slice(b"\r\n");
        }
        self.octets += (kept.len() - before) as u64;
    }

    fn end_header(&mut self, kept: &mut Vec<u8>) {
        self.part = Part::Body;
        if let Some(Missing { date, message_id }) = self.missing.take() {
            for field in [date, message_id].iter().filter(|field| !field.is_empty()) {
                kept.extend_from_slice(field.as_bytes());
                kept.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The message is at its end: what is still to be kept.
    pub fn finish(&mut self, kept: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        if self.flaw.is_none() && !held.is_empty() {
            // RFC 3030 §4.2: the last line may have no end. What is kept has one, for it may have to go on by DATA.
            self.keep(&held, kept);
        }
        if self.flaw.is_some() {
            return;
        }
        let before = kept.len();
        if self.kept_line_octets > 0 {
            kept.extend_from_slice(b"\r\n");
        }
        if self.part == Part::Header {
            // A header and no body, or nothing at all.
            self.end_header(kept);
        }
        self.octets += (kept.len() - before) as u64;
    }
}

/// The name of the field that a header's line begins. RFC 5322 §2.2: printable octets, then a colon. §4.5 lets blanks stand before it.
pub(crate) fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr(b':', line)?].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds { octets_max: 10_000, line_octets_max: 1000, hops_max: 3, stray: Stray::Refused };

    /// What is kept of `wire`, which comes in pieces of `size`; and what is left.
    fn take(bounds: Bounds, wire: &[u8], size: usize) -> (Progress, Option<Flaw>, String, String) {
        let (mut incoming, mut input, mut kept) = (Incoming::text(bounds, None), BytesMut::new(), vec![]);
        let mut pieces = wire.chunks(size);
        loop {
            let Some(piece) = pieces.next() else {
                return (Progress::More, incoming.flaw(), text(&kept), text(&input));
            };
            input.extend_from_slice(piece);
            if incoming.take(&mut input, &mut kept) == Progress::End {
                incoming.finish(&mut kept);
                pieces.for_each(|piece| input.extend_from_slice(piece));
                assert!(incoming.flaw().is_some() || incoming.octets() == kept.len() as u64);
                return (Progress::End, incoming.flaw(), text(&kept), text(&input));
            }
        }
    }

    fn text(octets: &[u8]) -> String {
        String::from_utf8_lossy(octets).into_owned()
    }

    #[test]
    fn messages_are_kept_as_they_mean_in_pieces_of_any_size() {
        for (wire, kept) in [
            ("S: x\r\n\r\nhello\r\n.\r\nQUIT\r\n", "S: x\r\n\r\nhello\r\n"),
            ("S: x\r\n\r\n..\r\n...a\r\n.b\r\n.\r\nQUIT\r\n", "S: x\r\n\r\n.\r\n..a\r\nb\r\n"),
            (".\r\nQUIT\r\n", ""),
            ("S: x\r\n.\r\nQUIT\r\n", "S: x\r\n"),
            // No header: an empty line parts it from what is put above.
            (
                "Do you like ketchup?\r\nHow about pickles?\r\n.\r\nQUIT\r\n",
                "\r\nDo you like ketchup?\r\nHow about pickles?\r\n",
            ),
            ("..\r\n.\r\nQUIT\r\n", "\r\n.\r\n"),
            ("S: x\r\n folded\r\nno field\r\n.\r\nQUIT\r\n", "S: x\r\n folded\r\n\r\nno field\r\n"),
            // Nor is a text that begins with a blank a header: there is no field that it could go on.
            ("   Dear Bob,\r\nS: x\r\n.\r\nQUIT\r\n", "\r\n   Dear Bob,\r\nS: x\r\n"),
            ("\tX\r\n.\r\nQUIT\r\n", "\r\n\tX\r\n"),
            ("\r\n\r\n.\r\nQUIT\r\n", "\r\n\r\n"),
            ("S: x\r\n\r\na.\r\n.\r\nQUIT\r\n", "S: x\r\n\r\na.\r\n"),
        ] {
            for size in 1..=wire.len() {
                let expected = (Progress::End, None, kept.to_owned(), "QUIT\r\n".to_owned());
                assert_eq!(take(BOUNDS, wire.as_bytes(), size), expected, "{wire:?} by {size}");
            }
        }
    }

    #[test]
    fn only_cr_lf_dot_cr_lf_ends_a_message_and_strays_refuse_it() {
        for (wire, flaw) in [
            ("a: b\r\n\r\nx\n.\nMAIL\r\n.\r\n", Flaw::BareLf),
            ("a: b\r\n\r\nx\n.\r\nMAIL\r\n.\r\n", Flaw::BareLf),
            ("a: b\r\n\r\nx\r\n.\nMAIL\r\n.\r\n", Flaw::BareLf),
            ("a: b\r\n\r\nx\r.\r\nMAIL\r\n.\r\n", Flaw::BareCr),
            ("a: b\r\n\r\nx\r\n.\rMAIL\r\n.\r\n", Flaw::BareCr),
            ("a: b\r\n\r\nx\r\r\n.\r\n", Flaw::BareCr),
            ("a: b\r\n\r\nx\0y\r\n.\r\n", Flaw::Nul),
            ("\n.\r\n\r\n.\r\n", Flaw::BareLf),
        ] {
            for size in 1..=wire.len() {
                let (progress, found, _, left) = take(BOUNDS, wire.as_bytes(), size);
                assert_eq!((progress, found, &*left), (Progress::End, Some(flaw), ""), "{wire:?} by {size}");
            }
        }
    }

    #[test]
    fn strays_that_are_mended_end_nothing() {
        let bounds = Bounds { stray: Stray::Mended, ..BOUNDS };
        let wire = b"a: b\r\n\r\nx\n.\ny\r.\r\nz\r\n.\r\n";
        for size in 1..=wire.len() {
            let expected = "a: b\r\n\r\nx\r\n.\r\ny\r\n.\r\nz\r\n".to_owned();
            assert_eq!(take(bounds, wire, size), (Progress::End, None, expected, String::new()), "by {size}");
        }
    }

    /// What a program sends that ends its lines with LF, and only says the dot as it should.
    #[test]
    fn a_message_whose_lines_were_mended_has_a_header_and_lines_as_any_other() {
        let missing = Missing { date: "Date: now".to_owned(), message_id: "Message-ID: <1@a>".to_owned() };
        let bounds = Bounds { stray: Stray::Mended, ..BOUNDS };
        let long = "a line\n".repeat(300);
        let looping = format!("A: b\n{}\n\r\n.\r\n", "Received: x\n".repeat(4));
        for (wire, expected) in [
            ("S: x\nDate : y\r\n\nt\r\n.\r\n", "S: x\r\nDate : y\r\nMessage-ID: <1@a>\r\n\r\nt\r\n"),
            ("S: x\rDate: y\r\r.\n\r\n.\r\n", "S: x\r\nDate: y\r\nMessage-ID: <1@a>\r\n\r\n.\r\n\r\n"),
            (
                &format!("S: x\n\n{long}\r\n.\r\n"),
                &format!("S: x\r\nDate: now\r\nMessage-ID: <1@a>\r\n\r\n{long}\r\n").replace("line\n", "line\r\n"),
            ),
        ] {
            for size in 1..=wire.len().min(99) {
                let (mut incoming, mut input, mut kept) =
                    (Incoming::text(bounds, Some(missing.clone())), BytesMut::new(), vec![]);
                for piece in wire.as_bytes().chunks(size) {
                    input.extend_from_slice(piece);
                    if incoming.take(&mut input, &mut kept) == Progress::End {
                        break;
                    }
                }
                incoming.finish(&mut kept);
                assert_eq!((incoming.flaw(), text(&kept)), (None, expected.to_owned()), "{wire:?} by {size}");
                assert_eq!(incoming.octets(), kept.len() as u64);
            }
        }
        assert_eq!(take(bounds, looping.as_bytes(), 7).1, Some(Flaw::Loop(4)));
        let too_long = format!("S: x\n\n{}\n\r\n.\r\n", "x".repeat(999));
        assert_eq!(take(bounds, too_long.as_bytes(), 7).1, Some(Flaw::LongLine(1000)));
    }

    #[test]
    fn what_is_too_much_is_read_to_its_end_and_not_kept() {
        let long = format!("a: b\r\n\r\n{}\r\n.\r\n", "x".repeat(5000));
        let fits = format!("a: b\r\n\r\n{}\r\n.\r\n", "x".repeat(998));
        let large = format!("a: b\r\n\r\n{}.\r\n", "x\r\n".repeat(5000));
        let looping = format!("{}\r\n.\r\n", "Received: x\r\nreceived \t: y\r\n".repeat(2));
        let roomy = Bounds { octets_max: 4 << 20, ..BOUNDS };
        let headed = |octets: usize| format!("{}\r\n{}.\r\n", "X: abcdef\r\n".repeat(octets / 11), "x\r\n".repeat(9));
        for size in [1, 7, 999, 1000, 1001, 4096] {
            assert_eq!(take(roomy, headed(HEADER_OCTETS_MAX).as_bytes(), size).1, None);
            let flaw = Some(Flaw::LongHeader(HEADER_OCTETS_MAX));
            assert_eq!(take(roomy, headed(HEADER_OCTETS_MAX + 11).as_bytes(), size).1, flaw);
            assert_eq!(take(BOUNDS, long.as_bytes(), size).1, Some(Flaw::LongLine(1000)));
            assert_eq!(take(BOUNDS, fits.as_bytes(), size).1, None);
            assert_eq!(take(BOUNDS, large.as_bytes(), size).1, Some(Flaw::TooLarge(10_000)));
            assert_eq!(take(BOUNDS, looping.as_bytes(), size).1, Some(Flaw::Loop(4)));
        }
    }

    #[test]
    fn what_a_users_header_lacks_is_put_in() {
        let missing = Missing { date: "Date: now".to_owned(), message_id: "Message-ID: <1@a>".to_owned() };
        for (wire, expected) in [
            ("S: x\r\n\r\nt\r\n.\r\n", "S: x\r\nDate: now\r\nMessage-ID: <1@a>\r\n\r\nt\r\n"),
            ("date: then\r\n\r\nt\r\n.\r\n", "date: then\r\nMessage-ID: <1@a>\r\n\r\nt\r\n"),
            // RFC 5322 §4.5: blanks before the colon.
            ("Date : then\r\nMessage-ID\t:<2@b>\r\n\r\n.\r\n", "Date : then\r\nMessage-ID\t:<2@b>\r\n\r\n"),
            ("S: x\r\n.\r\n", "S: x\r\nDate: now\r\nMessage-ID: <1@a>\r\n"),
            ("text\r\n.\r\n", "Date: now\r\nMessage-ID: <1@a>\r\n\r\ntext\r\n"),
            (" text\r\n.\r\n", "Date: now\r\nMessage-ID: <1@a>\r\n\r\n text\r\n"),
        ] {
            let (mut incoming, mut kept) = (Incoming::text(BOUNDS, Some(missing.clone())), vec![]);
            assert_eq!(incoming.take(&mut BytesMut::from(wire), &mut kept), Progress::End);
            incoming.finish(&mut kept);
            assert_eq!(text(&kept), expected);
        }
    }

    /// What is kept of a message that comes in chunks of `size`, in pieces of `piece`.
    fn chunked(message: &[u8], size: usize, piece: usize) -> (Option<Flaw>, Vec<u8>) {
        let (mut incoming, mut input, mut kept) = (Incoming::chunks(BOUNDS, None), BytesMut::new(), vec![]);
        for chunk in message.chunks(size) {
            incoming.chunk(chunk.len() as u64);
            let mut pieces = chunk.chunks(piece);
            loop {
                input.extend_from_slice(pieces.next().unwrap_or_default());
                if incoming.take(&mut input, &mut kept) == Progress::End {
                    break;
                }
            }
            assert_eq!(pieces.next(), None, "a chunk ends where it ends");
        }
        assert!(input.is_empty());
        incoming.finish(&mut kept);
        (incoming.flaw(), kept)
    }

    #[test]
    fn chunks_of_any_size_make_the_same_message() {
        let message = b"S: x\r\nT: y\r\n\r\n.\r\n..a\r\n\r\nend without a line end";
        let expected = [&message[..], b"\r\n"].concat();
        for size in 1..=message.len() {
            for piece in [1, 2, 3, 64] {
                assert_eq!(chunked(message, size, piece), (None, expected.clone()), "chunks of {size} by {piece}");
            }
        }
        for size in 1..=8 {
            assert_eq!(chunked(b" text\r\nx", size, 2), (None, b"\r\n text\r\nx\r\n".to_vec()), "chunks of {size}");
        }
        assert_eq!(chunked(b"S: x\r\n\r\na\nb\r\n", 3, 2).0, Some(Flaw::BareLf));
        assert_eq!(chunked(b"S: x\r\n\r\na\r", 3, 2).0, Some(Flaw::BareCr));
    }

    proptest! {
        #[test]
        fn a_message_comes_out_as_it_went_in(lines in prop::collection::vec("[.a-c]{0,4}", 0..12), size in 1_usize..40) {
            let message = lines.iter().fold(String::new(), |all, line| all + line + "\r\n");
            let header = "a: b\r\n\r\n";
            let stuffed = lines.iter().fold(String::new(), |all, line| {
                all + if line.starts_with('.') { "." } else { "" } + line + "\r\n"
            });
            let (progress, flaw, kept, left) = take(BOUNDS, format!("{header}{stuffed}.\r\nNOOP").as_bytes(), size);
            prop_assert_eq!((progress, flaw, &*left), (Progress::End, None, "NOOP"));
            prop_assert_eq!(kept, format!("{header}{message}"));
        }

        #[test]
        fn what_is_mended_is_the_same_in_pieces_of_any_size(wire in prop::collection::vec(prop::sample::select(&b"a.: \r\r\n\n\n"[..]), 0..40), size in 1_usize..9) {
            let bounds = Bounds { stray: Stray::Mended, ..BOUNDS };
            let wire = [&wire[..], b"\r\n.\r\n"].concat();
            let kept = take(bounds, &wire, wire.len());
            prop_assert_eq!(&take(bounds, &wire, size), &kept);
            prop_assert!(!kept.2.replace("\r\n", "").contains(['\r', '\n']));
        }

        #[test]
        fn no_octets_make_it_panic_or_keep_a_stray(wire in prop::collection::vec(prop::sample::select(&b"a.:\r\n\0 \xc3"[..]), 0..60), size in 1_usize..9) {
            let (progress, flaw, kept, _) = take(BOUNDS, &wire, size);
            if flaw.is_none() && progress == Progress::End {
                prop_assert!(!kept.replace("\r\n", "").contains(['\r', '\n']));
            }
        }
    }
}
