//! One line for each answer: who asked what, when, and what came of it.
//!
//! ```text
//! 127.77.9.1 - - [30/Oct/2007:17:00:02 +0000] "GET /index.html HTTP/1.1" 200 2652 "-" "Mozilla/5.0"
//! {"time":"2007-10-30T17:00:02Z","remote":"127.77.9.1","method":"GET","target":"/index.html", ...}
//! ```
//!
//! The first is Apache's "combined" format, which every log analyser reads; the second holds more, and is for programs.
//! What a peer sent is escaped, so that no line can be forged and no terminal be commanded by reading the log.
use std::io::Write as _;
use std::net::IpAddr;
use std::time::SystemTime;

use http::Version;

use crate::date::{Civil, unix_seconds};

/// What there is to say about one request and its answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub remote: IpAddr,
    /// Who logged in, if anybody did.
    pub user: Option<&'a str>,
    /// When the answer began.
    pub time: SystemTime,
    pub method: &'a [u8],
    /// As it was sent; empty where a line that was refused had but one word.
    pub target: &'a [u8],
    /// `HTTP/1.1`; empty where a line that was refused had none.
    pub version: &'a [u8],
    pub status: u16,
    /// Octets of the answer's head.
    pub head_octets: u64,
    /// Octets of the body that were sent.
    pub octets: u64,
    pub referer: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub host: Option<&'a [u8]>,
    /// From the whole head to the end of the answer, in microseconds.
    pub micros: u64,
    pub connection: u64,
}

/// As the log and the transcript write it.
pub(crate) fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The last second as text, because writing it anew for each line would cost more than the rest of the line.
#[derive(Debug)]
pub(crate) struct Clock {
    second: i64,
    combined: Vec<u8>,
    rfc3339: Vec<u8>,
}

impl Clock {
    pub(crate) fn new() -> Self {
        let mut clock = Self { second: 0, combined: Vec::new(), rfc3339: Vec::new() };
        clock.write();
        clock
    }

    fn set(&mut self, time: SystemTime) {
        let second = unix_seconds(time);
        if second != self.second {
            self.second = second;
            self.write();
        }
    }

    fn write(&mut self) {
        const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        let Civil { year, month, day, hour, minute, second } = Civil::from_unix_seconds(self.second);
        let name = MONTHS.get(usize::from(month) - 1).unwrap_or(&"???");
        self.combined.clear();
        self.rfc3339.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(self.combined, "{day:02}/{name}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000");
        let _ = write!(self.rfc3339, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z");
    }
}

/// Appends a line in Apache's format `%h - %u %t "%r" %>s %b "%{Referer}i" "%{User-Agent}i"`.
pub(crate) fn combined(line: &mut Vec<u8>, clock: &mut Clock, entry: &Entry) {
    clock.set(entry.time);
    push_address(line, entry.remote);
    line.extend_from_slice(b" - ");
    match entry.user {
        // The name stands without quotation marks, so its spaces would shift the columns after it.
        Some(user) if !user.is_empty() => push_escaped(line, user.as_bytes(), Style::Bare),
        _ => line.push(b'-'),
    }
    line.extend_from_slice(b" [");
    line.extend_from_slice(&clock.combined);
    line.extend_from_slice(b"] \"");
    push_escaped(line, entry.method, Style::Quoted);
    for part in [entry.target, entry.version] {
        if !part.is_empty() {
            line.push(b' ');
            push_escaped(line, part, Style::Quoted);
        }
    }
    line.extend_from_slice(b"\" ");
    push_number(line, u64::from(entry.status));
    line.push(b' ');
    // Apache's %b: a dash when there was no body.
    if entry.octets == 0 {
        line.push(b'-');
    } else {
        push_number(line, entry.octets);
    }
    for field in [entry.referer, entry.user_agent] {
        line.extend_from_slice(b" \"");
        push_escaped(line, field.unwrap_or(b"-"), Style::Quoted);
        line.push(b'"');
    }
    line.push(b'\n');
}

/// Appends a line that is one JSON object. Octets that are not ASCII stand as `\u00XX`, one for each, so that nothing is
/// lost whatever their encoding was.
pub(crate) fn json(line: &mut Vec<u8>, clock: &mut Clock, entry: &Entry) {
    clock.set(entry.time);
    line.extend_from_slice(b"{\"time\":\"");
    line.extend_from_slice(&clock.rfc3339);
    line.extend_from_slice(b"\",\"remote\":\"");
    push_address(line, entry.remote);
    line.push(b'"');
    let texts = [
        (&b",\"user\":\""[..], entry.user.map(str::as_bytes)),
        (b",\"method\":\"", Some(entry.method)),
        (b",\"target\":\"", Some(entry.target)),
        (b",\"version\":\"", Some(entry.version)),
        (b",\"host\":\"", entry.host),
        (b",\"referer\":\"", entry.referer),
        (b",\"user_agent\":\"", entry.user_agent),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            line.extend_from_slice(key);
            push_escaped(line, text, Style::Json);
            line.push(b'"');
        }
    }
    let numbers = [
        (&b",\"status\":"[..], u64::from(entry.status)),
        (b",\"head_octets\":", entry.head_octets),
        (b",\"octets\":", entry.octets),
        (b",\"micros\":", entry.micros),
        (b",\"connection\":", entry.connection),
    ];
    for (key, number) in numbers {
        line.extend_from_slice(key);
        push_number(line, number);
    }
    line.extend_from_slice(b"}\n");
}

fn push_address(line: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (index, octet) in v4.octets().into_iter().enumerate() {
                if index > 0 {
                    line.push(b'.');
                }
                push_number(line, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => {
            // Writing to a Vec cannot fail.
            let _ = write!(line, "{v6}");
        }
    }
}

/// Decimal digits; `write!` costs several times as much, and a line has up to eight numbers.
fn push_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [b'0'; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[start..]);
}

/// Where a text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Between quotation marks, as Apache escapes: `\"`, `\\`, `\xhh`.
    Quoted,
    /// Without quotation marks: a space is escaped as well.
    Bare,
    /// In a JSON string.
    Json,
}

/// Copies runs of harmless octets and escapes what is between them.
fn push_escaped(line: &mut Vec<u8>, mut text: &[u8], style: Style) {
    while let Some(at) = text.iter().position(|&octet| needs_escape(octet, style)) {
        line.extend_from_slice(&text[..at]);
        push_escape(line, text[at], style);
        text = &text[at + 1..];
    }
    line.extend_from_slice(text);
}

fn needs_escape(octet: u8, style: Style) -> bool {
    !(b' '..=b'~').contains(&octet) || matches!(octet, b'"' | b'\\') || (octet == b' ' && style == Style::Bare)
}

#[cold]
fn push_escape(line: &mut Vec<u8>, octet: u8, style: Style) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    if matches!(octet, b'"' | b'\\') {
        line.extend_from_slice(&[b'\\', octet]);
    } else {
        line.extend_from_slice(if style == Style::Json { b"\\u00" } else { b"\\x" });
        line.extend_from_slice(&[DIGITS[usize::from(octet >> 4)], DIGITS[usize::from(octet & 15)]]);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            remote: IpAddr::from([127, 77, 9, 1]),
            user: None,
            time: UNIX_EPOCH + Duration::from_secs(1_193_763_602),
            method: b"GET",
            target: b"/index.html?a=b",
            version: b"HTTP/1.1",
            status: 200,
            head_octets: 312,
            octets: 2652,
            referer: None,
            user_agent: Some(b"Mozilla/5.0 (X11)"),
            host: Some(b"www.someschool.edu"),
            micros: 42,
            connection: 7,
        }
    }

    fn written(write: fn(&mut Vec<u8>, &mut Clock, &Entry), entry: &Entry) -> String {
        let mut line = Vec::new();
        write(&mut line, &mut Clock::new(), entry);
        String::from_utf8(line).expect("a log line is ASCII")
    }

    #[test]
    fn combined_is_what_apache_writes() {
        assert_eq!(
            written(combined, &entry()),
            "127.77.9.1 - - [30/Oct/2007:17:00:02 +0000] \"GET /index.html?a=b HTTP/1.1\" 200 2652 \"-\" \"Mozilla/5.0 (X11)\"\n"
        );
        let entry = Entry {
            remote: "2001:db8::1".parse().unwrap(),
            user: Some("alice b"),
            status: 304,
            octets: 0,
            referer: Some(b"http://a/"),
            user_agent: None,
            ..entry()
        };
        assert_eq!(
            written(combined, &entry),
            "2001:db8::1 - alice\\x20b [30/Oct/2007:17:00:02 +0000] \"GET /index.html?a=b HTTP/1.1\" 304 - \"http://a/\" \"-\"\n"
        );
    }

    #[test]
    fn json_holds_everything_there_is() {
        let line = written(json, &Entry { user: Some("alice"), referer: Some(b"http://a/"), ..entry() });
        assert!(line.ends_with("}\n"));
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&line).unwrap(),
            serde_json::json!({
                "time": "2007-10-30T17:00:02Z", "remote": "127.77.9.1", "user": "alice", "method": "GET",
                "target": "/index.html?a=b", "version": "HTTP/1.1", "host": "www.someschool.edu",
                "referer": "http://a/", "user_agent": "Mozilla/5.0 (X11)", "status": 200, "head_octets": 312, "octets": 2652,
                "micros": 42, "connection": 7
            })
        );
        let line = written(json, &entry());
        assert!(!line.contains("user\"") && !line.contains("referer"), "{line}");
    }

    #[test]
    fn a_line_cannot_be_forged() {
        let entry = Entry { user_agent: Some(b"a\" 200\r\n127.0.0.1 \x1b[2J\\\xff\t"), ..entry() };
        assert!(written(combined, &entry).ends_with(" \"a\\\" 200\\x0d\\x0a127.0.0.1 \\x1b[2J\\\\\\xff\\x09\"\n"));
        let line = written(json, &entry);
        assert!(line.contains(r#""a\" 200\u000d\u000a127.0.0.1 \u001b[2J\\\u00ff\u0009""#), "{line}");
    }

    #[test]
    fn the_clock_follows_the_entries() {
        let mut clock = Clock::new();
        for (seconds, expected) in [
            (0, "[01/Jan/1970:00:00:00 +0000]"),
            (1_193_763_602, "[30/Oct/2007:17:00:02 +0000]"),
            (1_193_763_602, "[30/Oct/2007:17:00:02 +0000]"),
            (1_193_763_603, "[30/Oct/2007:17:00:03 +0000]"),
            (951_782_399, "[28/Feb/2000:23:59:59 +0000]"),
        ] {
            let mut line = Vec::new();
            combined(&mut line, &mut clock, &Entry { time: UNIX_EPOCH + Duration::from_secs(seconds), ..entry() });
            assert!(String::from_utf8_lossy(&line).contains(expected), "{expected}");
        }
    }

    #[test]
    fn numbers_are_written_whole() {
        for number in [0, 9, 10, 99, 100, u64::MAX] {
            let mut line = Vec::new();
            push_number(&mut line, number);
            assert_eq!(String::from_utf8(line).unwrap(), number.to_string());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_sent_stays_in_its_place(agent in prop::collection::vec(any::<u8>(), 0..30)) {
            let entry = Entry { user_agent: Some(&agent), ..entry() };
            let line = written(combined, &entry);
            prop_assert_eq!(line.matches('\n').count(), 1);
            // Quotation marks that are not escaped: two for each of the three texts.
            let unescaped = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            prop_assert_eq!(unescaped, 6);

            let parsed: serde_json::Value = serde_json::from_str(&written(json, &entry)).unwrap();
            let characters: Vec<u32> = parsed["user_agent"].as_str().unwrap().chars().map(u32::from).collect();
            prop_assert_eq!(characters, agent.iter().map(|&octet| u32::from(octet)).collect::<Vec<_>>());
        }
    }
}
