//! What a server answers (RFC 5321 §4.2): one line or several, a code for programs, words for people.
//!
//! ```text
//!   250-mail.hamburger.edu Hello crepes.fr      a hyphen: there is more
//!   250-SIZE 10485760
//!   250 DSN                                     a blank: the last line
//!   550 5.1.1 no such user                      a status (RFC 3463) may begin the text (RFC 2034)
//! ```
//!
//! "An SMTP client MUST determine its actions only by the reply code, not by the text" (§4.2). The exception is EHLO, whose lines are for
//! programs.

use crate::envelope::Status;
use shared::{transcript::readable, wire::Line};
use std::{borrow::Cow, fmt};

/// RFC 5321 §4.5.3.1.5: 512 octets with the CR LF. Servers with long explanations do not keep to it, and mail would suffer if we did.
pub const LINE_OCTETS_MAX: usize = 2048;
/// How many lines a reply may have. The RFC has no figure; the longest EHLO known has twenty.
const LINES_MAX: usize = 100;
/// How much of what a server says is repeated.
const SAID_MAX: usize = 1000;

/// RFC 5321 §4.2.1: what the first digit says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// 2yz: done.
    Done,
    /// 3yz: go on.
    GoOn,
    /// 4yz: not now.
    NotNow,
    /// 5yz: never.
    Never,
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    class: Class,
    code: u16,
    /// The texts of its lines, without code; readable, for they end up in logs and reports.
    lines: Vec<String>,
}

/// Why this is no reply. There is no way to get in step again with who says such things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It does not begin with three digits, of which the first is 2 to 5.
    #[error("it said something that is no reply of SMTP")]
    NoCode,
    /// RFC 5321 §4.2.1: "the reply code on each of the lines MUST be the same".
    #[error("it changed its mind within a reply: two codes in one")]
    TwoCodes,
    /// A line was too long.
    #[error("it said a line of more than {LINE_OCTETS_MAX} octets")]
    LineTooLong,
    /// RFC 5321 §2.3.8: lines end with CR LF.
    #[error("it said a line that ends with LF alone")]
    BareLf,
    /// The lines do not end.
    #[error("it said a reply of more than {LINES_MAX} lines")]
    TooManyLines,
}

impl Answer {
    /// The code: 200 to 599.
    pub fn code(&self) -> u16 {
        self.code
    }

    /// What the first digit says.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The texts of its lines; at least one, which may be empty.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }

    /// RFC 2034 §4: the status that begins the text. One whose class contradicts the code is none. Servers are believed without having
    /// announced ENHANCEDSTATUSCODES, for some say these before they are asked for EHLO.
    pub fn stated(&self) -> Option<Status> {
        let status = parse_status(self.lines.first()?)?;
        (u16::from(status.0) == self.code / 100).then_some(status)
    }

    /// The status; without one, what the code alone tells: `4.0.0`.
    pub fn status(&self) -> Status {
        // The code has three digits, so the first is below ten.
        self.stated().unwrap_or(Status((self.code / 100) as u8, 0, 0))
    }
}

impl fmt::Display for Answer {
    /// Code first, lines joined by a blank; the status is told once. Of a long one the beginning.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.code.to_string();
        let status = self.stated().map(|status| status.to_string());
        for (number, line) in self.lines.iter().enumerate() {
            let repeated = status.as_deref().filter(|_| number > 0).and_then(|status| line.strip_prefix(status));
            let line = repeated.unwrap_or(line).trim();
            if !line.is_empty() {
                text.push(' ');
                text.push_str(line);
            }
        }
        f.write_str(&in_short(&text))
    }
}

/// Words that end up in log, queue and report, once for each recipient: of many the beginning.
pub(crate) fn in_short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{} [..]", &text[..end]).into(),
        None => text.into(),
    }
}

/// RFC 2034 §4, RFC 3463 §2: `5.1.1` before a blank or the end; subject and detail have up to three digits.
fn parse_status(text: &str) -> Option<Status> {
    let word = text.split(' ').next()?;
    let mut numbers = word.split('.').map(|digits| {
        let right = (1..=3).contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_digit());
        right.then(|| digits.parse::<u16>().ok()).flatten()
    });
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let class = u8::try_from(class).ok().filter(|class| matches!(class, 2 | 4 | 5))?;
    numbers.next().is_none().then_some(Status(class, subject, detail))
}

/// Puts replies together, line by line.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// The reply that is not yet whole.
    begun: Option<Answer>,
}

impl Listener {
    /// Takes the next line; gives the reply that it ends.
    ///
    /// # Errors
    /// See [`Malformed`]; nothing that follows can be trusted.
    pub fn hear(&mut self, line: &Line) -> Result<Option<Answer>, Malformed> {
        let line = match line {
            Line::Text(line) => line,
            Line::TooLong => return Err(Malformed::LineTooLong),
            Line::BareLf(_) => return Err(Malformed::BareLf),
        };
        let (class, code, rest) = split_code(line).ok_or(Malformed::NoCode)?;
        // RFC 5321 §4.2: "any text, including no text at all (although senders SHOULD NOT send bare codes), MUST be acceptable".
        let (more, text) = match rest {
            [] => (false, rest),
            [b' ', text @ ..] => (false, text),
            [b'-', text @ ..] => (true, text),
            _ => return Err(Malformed::NoCode),
        };
        let mut answer = match self.begun.take() {
            Some(begun) if begun.code != code => return Err(Malformed::TwoCodes),
            Some(begun) if begun.lines.len() >= LINES_MAX => return Err(Malformed::TooManyLines),
            Some(begun) => begun,
            None => Answer { class, code, lines: vec![] },
        };
        answer.lines.push(readable(text));
        if more {
            self.begun = Some(answer);
            return Ok(None);
        }
        Ok(Some(answer))
    }
}

/// RFC 5321 §4.2: `Reply-code = %x32-35 %x30-35 %x30-39`. The second digit is not held to its range: nobody looks at it.
fn split_code(line: &[u8]) -> Option<(Class, u16, &[u8])> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let class = match digits[0] {
        b'2' => Class::Done,
        b'3' => Class::GoOn,
        b'4' => Class::NotNow,
        b'5' => Class::Never,
        _ => return None,
    };
    let code = digits.iter().all(u8::is_ascii_digit);
    code.then(|| (class, digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0')), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use proptest::prelude::*;
    use shared::wire::{Crlf, LineEnd};

    /// All replies in `octets`, which come in chunks of `size`.
    fn hear(octets: &[u8], size: usize) -> Result<Vec<Answer>, Malformed> {
        let (mut crlf, mut buffer) = (Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX), BytesMut::new());
        let (mut listener, mut answers) = (Listener::default(), vec![]);
        for chunk in octets.chunks(size) {
            buffer.extend_from_slice(chunk);
            while let Some(line) = crlf.next_line(&mut buffer) {
                answers.extend(listener.hear(&line)?);
            }
        }
        Ok(answers)
    }

    fn in_every_chunk_size(text: &str) -> Result<Vec<Answer>, Malformed> {
        let octets = text.as_bytes();
        let whole = hear(octets, octets.len().max(1));
        for size in 1..octets.len() {
            assert_eq!(hear(octets, size), whole, "{text:?} in chunks of {size}");
        }
        whole
    }

    #[test]
    fn good_replies_are_read_in_every_chunk_size() {
        for (text, code, class, written, status) in [
            ("220 hamburger.edu\r\n", 220, Class::Done, "220 hamburger.edu", Status(2, 0, 0)),
            ("250\r\n", 250, Class::Done, "250", Status(2, 0, 0)),
            ("250 \r\n", 250, Class::Done, "250", Status(2, 0, 0)),
            ("354 go\r\n", 354, Class::GoOn, "354 go", Status(3, 0, 0)),
            ("250-a\r\n250-b\r\n250 c\r\n", 250, Class::Done, "250 a b c", Status(2, 0, 0)),
            ("250-a\r\n250\r\n", 250, Class::Done, "250 a", Status(2, 0, 0)),
            ("550 5.1.1 no bob\r\n", 550, Class::Never, "550 5.1.1 no bob", Status(5, 1, 1)),
            ("550-5.1.1 no bob\r\n550 5.1.1 here\r\n", 550, Class::Never, "550 5.1.1 no bob here", Status(5, 1, 1)),
            ("450 4.7.103 wait\r\n", 450, Class::NotNow, "450 4.7.103 wait", Status(4, 7, 103)),
            // RFC 2034 §4: a status that contradicts the code, and what only looks like one.
            ("550 4.1.1 no\r\n", 550, Class::Never, "550 4.1.1 no", Status(5, 0, 0)),
            ("550 5.1 no\r\n", 550, Class::Never, "550 5.1 no", Status(5, 0, 0)),
            ("550 5.1.1.1 no\r\n", 550, Class::Never, "550 5.1.1.1 no", Status(5, 0, 0)),
            ("550 5.1.1234 no\r\n", 550, Class::Never, "550 5.1.1234 no", Status(5, 0, 0)),
            ("550 5.+1.1 no\r\n", 550, Class::Never, "550 5.+1.1 no", Status(5, 0, 0)),
            // What is not printable cannot paint on a terminal; UTF-8 stays (RFC 6531 §3.4).
            ("250 a\x1b[31m\tå\r\n", 250, Class::Done, "250 a\\x1b[31m\\tå", Status(2, 0, 0)),
        ] {
            let answers = in_every_chunk_size(text).unwrap();
            let [answer] = &answers[..] else { panic!("{answers:?}") };
            assert_eq!((answer.code(), answer.class(), answer.status()), (code, class, status), "{text:?}");
            assert_eq!(answer.to_string(), written);
        }
    }

    /// It goes into log, queue and report, once for each recipient.
    #[test]
    fn of_a_long_reply_the_beginning_is_repeated() {
        let text = format!("550-5.7.1 {}\r\n", "å".repeat(500)).repeat(99) + "550 5.7.1 end\r\n";
        let answers = hear(text.as_bytes(), 4096).unwrap();
        let written = answers[0].to_string();
        assert_eq!(written.chars().count(), SAID_MAX + " [..]".len());
        assert!(written.starts_with("550 5.7.1 åå") && written.ends_with("å [..]"), "{written}");
    }

    #[test]
    fn replies_to_pipelined_commands_are_told_apart() {
        let answers = in_every_chunk_size("250 ok\r\n250-2.1.5 a\r\n250 2.1.5 b\r\n354 go\r\n").unwrap();
        assert_eq!(answers.iter().map(Answer::code).collect::<Vec<_>>(), [250, 250, 354]);
    }

    #[test]
    fn what_is_no_reply_is_a_verdict() {
        let long = format!("250 {}\r\n", "x".repeat(LINE_OCTETS_MAX));
        let endless = "250-x\r\n".repeat(LINES_MAX + 1);
        for (text, verdict) in [
            ("\r\n", Malformed::NoCode),
            ("hello\r\n", Malformed::NoCode),
            ("25\r\n", Malformed::NoCode),
            ("2500 x\r\n", Malformed::NoCode),
            ("25x ok\r\n", Malformed::NoCode),
            ("150 x\r\n", Malformed::NoCode),
            ("650 x\r\n", Malformed::NoCode),
            ("250\tx\r\n", Malformed::NoCode),
            ("HTTP/1.1 400 Bad Request\r\n", Malformed::NoCode),
            ("250-a\r\n251 b\r\n", Malformed::TwoCodes),
            ("250-a\r\nb\r\n", Malformed::NoCode),
            (&long, Malformed::LineTooLong),
            ("250 a\n", Malformed::BareLf),
            ("250 a\nb\r\n", Malformed::BareLf),
        ] {
            assert_eq!(in_every_chunk_size(text), Err(verdict), "{text:?}");
        }
        assert_eq!(hear(endless.as_bytes(), 1000), Err(Malformed::TooManyLines));
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..200), size in 1..50_usize) {
            let _ = hear(&octets, size);
        }

        #[test]
        fn no_line_makes_it_panic(text in "[2-5][0-9]{2}[ -].{0,40}") {
            if let Ok(answers) = hear(format!("{text}\r\n").as_bytes(), 7) {
                for answer in answers {
                    let _ = (answer.to_string(), answer.status());
                }
            }
        }
    }
}
