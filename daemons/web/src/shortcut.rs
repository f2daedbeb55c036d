//! The short way for the commonest request: a plain fetch of a small file that is in memory.
//!
//! The long way makes a map of the request's fields, decides, makes a map of the answer's fields, and writes it. For most
//! requests that ends in the same octets as the time before, so they are kept ready ([`Small::head`]):
//!
//! ```text
//!   socket -> gate -> HeadReader -> plain fetch? -> in memory? -> head that is ready, Date, file -> socket
//!                                        | no           | no
//!                                        +--------------+-------> hyper, until the connection rests
//! ```
//!
//! A head is judged by the same [`HeadReader`] on both ways, the file is found by the same function, log and counters are the
//! same, and a test holds the octets of the two ways against each other. What asks for more than the file
//! ([`Wish::More`]), has a body, comes in pieces, or has something behind it goes the long way; so does every request on a
//! connection that somebody watches, because what is told of each step is told there.

use crate::{
    files::Small,
    head::{Fields, Framing, HeadReader, Limits, Progress, Wish},
    origin::After,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version};
use std::{
    io::Write as _,
    ops::Range,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A plain fetch: a whole head and nothing else.
#[derive(Debug)]
pub(crate) struct Fetch<'a> {
    head: &'a [u8],
    pub(crate) method: Method,
    target: Range<usize>,
    fields: Fields,
}

/// The methods that fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Head,
}

impl<'a> Fetch<'a> {
    /// Reads `octets`, which begin where a request begins. `None` when they are anything else than one plain fetch.
    pub(crate) fn read(octets: &'a [u8], limits: &Limits) -> Option<Self> {
        let Progress::Complete {
            octets: head_octets,
            framing: Framing::None,
            version: Version::HTTP_11,
            method,
            target,
            fields,
        } = HeadReader::new().read(octets, limits)
        else {
            return None;
        };
        let method = match &octets[method] {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            _ => return None,
        };
        // An absolute target brings its own host; that is the long way's to weigh.
        let plain = fields.wish != Wish::More && octets[target.start] == b'/' && head_octets == octets.len();
        plain.then_some(Self { head: octets, method, target, fields })
    }

    /// Path and query as they were sent.
    pub(crate) fn target(&self) -> &'a [u8] {
        &self.head[self.target.clone()]
    }

    /// What stands before the query.
    pub(crate) fn path(&self) -> &'a [u8] {
        let target = self.target();
        &target[..memchr::memchr(b'?', target).unwrap_or(target.len())]
    }

    /// The value of the `Host` field.
    pub(crate) fn host(&self) -> &'a [u8] {
        &self.head[self.fields.host.clone()]
    }

    pub(crate) fn referer(&self) -> Option<&'a [u8]> {
        self.fields.referer.clone().map(|range| &self.head[range])
    }

    pub(crate) fn user_agent(&self) -> Option<&'a [u8]> {
        self.fields.user_agent.clone().map(|range| &self.head[range])
    }

    /// What the client wants to become of the connection.
    pub(crate) fn after(&self) -> After {
        if self.fields.wish == Wish::Close { After::Close } else { After::Stay }
    }
}

/// An answer on its way out.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The head; a short body as well.
    front: Vec<u8>,
    /// A longer body.
    rest: Bytes,
    pub(crate) head_octets: usize,
    sent: usize,
    pub(crate) after: After,
}

/// A head and a body that are shorter than this together are sent from one buffer: copying them costs less than a
/// system call with two.
pub(crate) const JOINED_OCTETS_MAX: usize = 4096;

impl Answer {
    /// The file's fields, then those of the connection, then `date`, in the order in which the long way writes them.
    pub(crate) fn new(small: &Small, method: Method, connection_fields: &[u8], date: &[u8], after: After) -> Self {
        let parts = [&small.head, connection_fields, date, b"\r\n"];
        let head_octets = parts.iter().map(|part| part.len()).sum::<usize>();
        let (joined, rest) = match method {
            // RFC 9110 §9.3.2: as GET, but no content.
            Method::Head => (&b""[..], Bytes::new()),
            Method::Get if head_octets + small.octets.len() <= JOINED_OCTETS_MAX => (&small.octets[..], Bytes::new()),
            Method::Get => (&b""[..], small.octets.clone()),
        };
        let mut front = Vec::with_capacity(head_octets + joined.len());
        for part in parts {
            front.extend_from_slice(part);
        }
        front.extend_from_slice(joined);
        Self { head_octets, ..Self::of(front, rest, after) }
    }

    pub(crate) fn of(front: Vec<u8>, rest: Bytes, after: After) -> Self {
        Self { head_octets: front.len(), front, rest, sent: 0, after }
    }

    /// What is not sent yet.
    pub(crate) fn unsent(&self) -> [&[u8]; 2] {
        let front = self.sent.min(self.front.len());
        [&self.front[front..], &self.rest[self.sent - front..]]
    }

    /// `octets` more were sent.
    pub(crate) fn advance(&mut self, octets: usize) {
        self.sent += octets;
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.sent == self.front.len() + self.rest.len()
    }
}

/// Field lines as hyper writes them.
pub(crate) fn render(fields: &HeaderMap, head: &mut Vec<u8>) {
    for (name, value) in fields {
        head.extend_from_slice(title_case(name.as_str()).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
}

/// `content-type` as hyper writes it on the wire: `Content-Type`.
pub(crate) fn title_case(name: &str) -> String {
    let mut upper = true;
    let case = |letter: char| {
        let letter = if upper { letter.to_ascii_uppercase() } else { letter };
        upper = letter == '-';
        letter
    };
    name.chars().map(case).collect()
}

/// The `Date` field of the present second: to write it anew for each answer would cost more than the rest of the answer.
#[derive(Debug)]
pub(crate) struct DateLine {
    second: u64,
    value: HeaderValue,
    line: Vec<u8>,
}

impl DateLine {
    pub(crate) fn new() -> Self {
        let mut date = Self { second: 0, value: HeaderValue::from_static(""), line: vec![] };
        date.write();
        date
    }

    /// RFC 9110 §6.6.1: when the message was made.
    pub(crate) fn at(&mut self, now: SystemTime) -> &[u8] {
        self.turn(now);
        &self.line
    }

    /// The same without the field's name.
    pub(crate) fn value(&mut self, now: SystemTime) -> HeaderValue {
        self.turn(now);
        self.value.clone()
    }

    fn turn(&mut self, now: SystemTime) {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if second != self.second {
            self.second = second;
            self.write();
        }
    }

    fn write(&mut self) {
        self.line.clear();
        let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(self.second));
        // Writing to a Vec cannot fail.
        let _ = write!(self.line, "Date: {date}\r\n");
        self.value = HeaderValue::try_from(date.to_string()).expect("letters, digits and blanks");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { target_octets: 100, head_octets: 1000, fields: 10 };

    #[test]
    fn a_plain_fetch_is_one_whole_head_that_asks_for_nothing_more() {
        let read = |head: &str| Fetch::read(head.as_bytes(), &LIMITS).map(|fetch| (fetch.method, fetch.after()));
        for (head, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Some((Method::Get, After::Stay))),
            ("\r\nHEAD /a?b HTTP/1.1\nHost: a\nConnection: close\n\n", Some((Method::Head, After::Close))),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", Some((Method::Get, After::Stay))),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r", None),
            ("GET / HTTP/1.1\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\nG", None),
            ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", None),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", None),
            ("GET / HTTP/1.1\r\nHost: a\r\nRange: bytes=0-\r\n\r\n", None),
        ] {
            assert_eq!(read(head), expected, "{head:?}");
        }
    }

    #[test]
    fn a_fetch_tells_what_was_asked() {
        let head = b"GET /a?b?c HTTP/1.1\r\nUser-Agent: x y\r\nHost: h:1\r\n\r\n";
        let fetch = Fetch::read(head, &LIMITS).expect("it is plain");
        assert_eq!((fetch.target(), fetch.path(), fetch.host()), (&b"/a?b?c"[..], &b"/a"[..], &b"h:1"[..]));
        assert_eq!((fetch.user_agent(), fetch.referer()), (Some(&b"x y"[..]), None));
    }

    #[test]
    fn the_date_is_that_of_the_answer() {
        let mut line = DateLine::new();
        for (second, expected) in [
            (1_193_763_602, "Date: Tue, 30 Oct 2007 17:00:02 GMT\r\n"),
            (1_193_763_603, "Date: Tue, 30 Oct 2007 17:00:03 GMT\r\n"),
            (0, "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
        ] {
            assert_eq!(line.at(UNIX_EPOCH + Duration::from_millis(second * 1000 + 999)), expected.as_bytes());
        }
    }
}
