//! What the server answers, without a socket: bytes in, a verdict out.
//!
//! The driver in `lib.rs` moves the bytes. Because this half has neither socket nor clock, the tests can ask it anything.

use shared::wire::Line;
use std::fmt;

/// What we may answer. A reply is a value until the last moment; only `Display` knows its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The word has this many octets.
    Length(usize),
    /// The word is longer than we count.
    TooLong,
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Length(octets) => write!(f, "{octets}"),
            // No number: a client that reads numbers must notice.
            Reply::TooLong => f.write_str("too long"),
        }
    }
}

/// Answers one line: the whole protocol.
///
/// A *word* is everything before the line end: `CAT` has length 3, and so has `A B`. An empty line is the empty word,
/// and its length is 0. Length counts octets, not characters: the wire carries octets, and which characters they are
/// depends on an encoding that nobody has announced. `håll` is 5 in UTF-8 and 4 in Latin-1, and octets that are no
/// UTF-8 at all have a length too. (The textbook's program in C counts the same way: `strlen`.)
pub fn on_line(line: &Line) -> Reply {
    match line {
        Line::Text(word) => Reply::Length(word.len()),
        // There is none where LF ends a line too.
        Line::BareLf(piece) => Reply::Length(piece.trim_ascii_end().len()),
        Line::TooLong => Reply::TooLong,
    }
}

/// What to do with a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send this back.
    Answer(Vec<u8>),
    /// Say nothing.
    Ignore(Because),
}

/// Why a datagram gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// It seems to come from a server.
    FromAServer,
    /// The answer would be longer than the question.
    AnswerIsLonger,
}

/// The port of a sender that asks as clients do is above these (RFC 6335 §6: system ports).
const SYSTEM_PORT_MAX: u16 = 1023;

/// Answers one datagram: one datagram is one word and gets one answer, which ends as the question did.
///
/// TCP has shaken hands before the first word, so its peer is who it claims to be. A datagram's sender can be forged, and
/// what we answer then hits a third party. So think of the abuser first:
///
/// - *Amplification*: an attacker sends little in the victim's name, and the server sends much. Our answer is never longer
///   than the question. That is why the empty word, whose answer would be one octet, gets none here.
/// - *Loops*: our answer is itself a word. If somebody forged a question from another wordlength server (or from `echo`,
///   port 7), the two would tell each other lengths for ever. So we do not answer servers: neither our own port number
///   nor system ports. Clients have others.
pub fn on_datagram(datagram: &[u8], sender_port: u16, own_port: u16, word_octets_max: usize) -> Verdict {
    if sender_port <= SYSTEM_PORT_MAX || sender_port == own_port {
        return Verdict::Ignore(Because::FromAServer);
    }
    // The datagram's own end is end enough; a line end is what `nc -u` adds.
    let end = [&b"\r\n"[..], b"\n", b""].into_iter().find(|end| datagram.ends_with(end)).unwrap_or_default();
    let word = &datagram[..datagram.len() - end.len()];
    let reply = if word.len() > word_octets_max { Reply::TooLong } else { Reply::Length(word.len()) };
    let answer = [reply.to_string().as_bytes(), end].concat();
    if answer.len() > datagram.len() {
        return Verdict::Ignore(Because::AnswerIsLonger);
    }
    Verdict::Answer(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: u16 = 40_000;
    const OWN: u16 = 7777;

    fn answer(datagram: &[u8]) -> Verdict {
        on_datagram(datagram, CLIENT, OWN, 16)
    }

    #[test]
    fn a_datagram_is_a_word_and_its_answer_ends_as_it_did() {
        let table: [(&[u8], &[u8]); 9] = [
            (b"CAT", b"3"),
            (b"CAT\n", b"3\n"),
            (b"CAT\r\n", b"3\r\n"),
            (b"A B", b"3"),
            (b"a\nb\n", b"3\n"),
            (b"x\r", b"2"),
            (b"\xff\0\x1b", b"3"),
            (b"0123456789abcdef", b"16"),
            (b"0123456789abcdefg\n", b"too long\n"),
        ];
        for (question, want) in table {
            assert_eq!(answer(question), Verdict::Answer(want.to_vec()), "{question:?}");
        }
    }

    #[test]
    fn no_answer_is_longer_than_its_question() {
        for octets in 0..300 {
            for end in [&b""[..], b"\n", b"\r\n"] {
                for word_octets_max in [0, 1, 5, 200] {
                    let question = [&vec![b'x'; octets][..], end].concat();
                    if let Verdict::Answer(answer) = on_datagram(&question, CLIENT, OWN, word_octets_max) {
                        assert!(answer.len() <= question.len(), "{octets} octets got {answer:?}");
                    }
                }
            }
        }
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert_eq!(answer(empty), Verdict::Ignore(Because::AnswerIsLonger), "{empty:?}");
        }
    }

    #[test]
    fn servers_get_no_answer_so_that_two_of_them_cannot_be_set_on_each_other() {
        for (port, want) in [(7, None), (53, None), (1023, None), (OWN, None), (1024, Some(b"3")), (65535, Some(b"3"))]
        {
            let want = want.map_or(Verdict::Ignore(Because::FromAServer), |text| Verdict::Answer(text.to_vec()));
            assert_eq!(on_datagram(b"CAT", port, OWN, 16), want, "from port {port}");
        }
    }
}
