//! The strict look at a request head, before hyper sees it.
//!
//! A request head is a request line, field lines and an empty line (RFC 9112 §2.1):
//!
//! ```text
//! GET /somedir/page.html?x=1 HTTP/1.1      request line: method SP target SP version    §3
//! Host: www.someschool.edu                 field line:   name ":" value                 §5
//! Content-Length: 5                        framing:      where the body ends            §6
//!                                          empty line:   the head is over
//! ```
//!
//! hyper reads heads as well, but it forgives what RFC 9112 does not want forgiven: it takes a missing or a double
//! `Host`, lets `Transfer-Encoding` win over `Content-Length`, and answers a mistake with a bare `400`. Two parsers
//! that read one head differently are what request smuggling is made of, and a bare `400` teaches nobody. So each head
//! passes here first: what this module calls [`Progress::Complete`] hyper accepts and reads the same way (a test holds
//! us to it), and what it refuses comes with the rule that was broken and a sentence that says what to write instead.
//!
//! Lines are judged as they become complete, so that nonsense typed into telnet is answered at its first line end. The
//! verdict depends on the octets alone, never on how the network cut them into pieces.
use std::net::Ipv6Addr;
use std::ops::Range;

use http::Version;
use memchr::memchr;
use shared::tls;

use crate::refusal::{HostFault, Refusal};

/// How much of a head we are willing to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Octets of the request target (RFC 9112 §3 recommends at least 8000 for the request line). hyper's own limit is
    /// 65,534; a larger figure has no effect.
    pub target_octets: usize,
    /// Octets of the whole head, from its first octet (empty lines before it included) to the end of its empty line.
    pub head_octets: usize,
    /// Number of field lines. hyper's own limit is 100 unless it is told this same figure.
    pub fields: usize,
}

/// hyper refuses a longer target with a bare 414; ours says why.
const TARGET_OCTETS_MAX: usize = 65_534;

/// Reads one request head that arrives in pieces.
///
/// It remembers how far it has looked, so that a head which comes one octet at a time costs no more than one that comes
/// at once. Make a new one for each request.
#[derive(Debug)]
pub(crate) struct HeadReader {
    /// Everything before this offset is known to hold no further line end.
    looked: usize,
    /// Where the line that is not yet complete begins.
    line_start: usize,
    /// The request line, once it has been seen.
    request: Option<RequestLine>,
    /// Whether an answer may have a body; known as soon as the request line has three parts.
    answer: Answer,
    fields: usize,
    hosts: usize,
    length: Option<u64>,
    coding: Option<Chunked>,
    noted: Fields,
}

/// Where the body of a request ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// §6.3 rule 7: no framing field, so no body.
    None,
    /// §6.3 rule 6: this many octets.
    Length(u64),
    /// §6.3 rule 4: where the chunked coding says ([`crate::chunked`]).
    Chunked,
}

/// What is known of the head so far.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// All lines so far are good, and the empty line has not come.
    Incomplete,
    /// The head is whole and good. Ranges are offsets into the buffer.
    Complete {
        /// Length of the head, its empty line included: the body begins at this offset.
        octets: usize,
        framing: Framing,
        version: Version,
        method: Range<usize>,
        target: Range<usize>,
        fields: Fields,
    },
    /// The head is not one we may act on. Answer, then close: the next octets cannot be trusted to be a request.
    Refused(Refused),
}

/// What the field lines say, as far as the [shortcut](crate::shortcut) must know. Values stand without the white space around
/// them; of a field that comes twice the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    pub host: Range<usize>,
    pub referer: Option<Range<usize>>,
    pub user_agent: Option<Range<usize>>,
    pub wish: Wish,
}

/// What a request wants besides the thing itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Wish {
    /// No field says anything about it.
    #[default]
    Nothing,
    /// `Connection: keep-alive`
    Stay,
    /// `Connection: close`
    Close,
    /// A field that changes what is answered, or how: a condition, a range, an expectation, an upgrade, other options of the
    /// connection.
    More,
}

/// A refusal, and how to answer it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub refusal: Refusal,
    pub answer: Answer,
}

/// RFC 9110 §9.3.2: the answer to a HEAD has no body, also when it is a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    WithBody,
    HeadOnly,
}

/// The token's value says nothing more: `chunked` is the only transfer coding we take.
#[derive(Debug, Clone, Copy)]
struct Chunked;

#[derive(Clone, Debug)]
struct RequestLine {
    method: Range<usize>,
    target: Range<usize>,
    version: Version,
}

impl HeadReader {
    pub(crate) fn new() -> Self {
        Self {
            looked: 0,
            line_start: 0,
            request: None,
            answer: Answer::WithBody,
            fields: 0,
            hosts: 0,
            length: None,
            coding: None,
            noted: Fields::default(),
        }
    }

    /// Looks at what has arrived. `buffer` begins at the head's first octet each time and only ever grows.
    pub(crate) fn read(&mut self, buffer: &[u8], limits: &Limits) -> Progress {
        match self.look(buffer, limits) {
            Ok(Some(complete)) => complete,
            Ok(None) => Progress::Incomplete,
            Err(refusal) => Progress::Refused(Refused { refusal, answer: self.answer }),
        }
    }

    fn look(&mut self, buffer: &[u8], limits: &Limits) -> Result<Option<Progress>, Refusal> {
        // Only what fits the limit is ever looked at, or the verdict would depend on how much arrived together.
        let window = &buffer[..buffer.len().min(limits.head_octets)];
        if self.request.is_none() && window.len() > 1 && tls::begins(window) {
            // It may have no line end for a long time.
            return Err(Refusal::Tls);
        }
        // RFC 9112 §2.2: lines end at CRLF, and "a recipient MAY recognize a single LF as a line terminator". We do: `nc`
        // sends bare LF, and hyper reads it the same way, so that nobody can be smuggled past anybody.
        while let Some(offset) = window.get(self.looked..).and_then(|rest| memchr(b'\n', rest)) {
            let end = self.looked + offset;
            let start = self.line_start;
            let line = &window[start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.looked = end + 1;
            self.line_start = end + 1;
            match (&self.request, line) {
                // RFC 9112 §2.2: "SHOULD ignore at least one empty line (CRLF) received prior to the request-line".
                (None, []) => {}
                (None, line) => self.request = Some(self.request_line(line, start, limits)?),
                (Some(request), []) => return self.finish(request, end + 1).map(Some),
                (Some(request), line) => {
                    let version = request.version;
                    self.field_line(line, start, version, limits)?;
                }
            }
        }
        self.looked = self.looked.max(window.len());
        if self.request.is_none() {
            // The line may never end: judge the length of the target before its end is seen.
            let line = window.get(self.line_start..).unwrap_or_default();
            self.check_target_length(line.strip_suffix(b"\r").unwrap_or(line), limits)?;
        }
        if buffer.len() >= limits.head_octets {
            // RFC 6585 §5.
            return Err(Refusal::HeadTooLarge { limit: limits.head_octets });
        }
        Ok(None)
    }

    /// RFC 9112 §3: `request-line = method SP request-target SP HTTP-version`.
    fn request_line(&mut self, line: &[u8], start: usize, limits: &Limits) -> Result<RequestLine, Refusal> {
        self.check_target_length(line, limits)?;
        let Some((method, target, version)) = three_parts(line) else { return Err(not_three_parts(line)) };
        if method == b"HEAD" {
            self.answer = Answer::HeadOnly;
        }
        let version = match version {
            b"HTTP/1.1" => Version::HTTP_11,
            b"HTTP/1.0" => Version::HTTP_10,
            _ => return Err(bad_version(line, version)),
        };
        if !method.iter().all(|&octet| is(octet, TOKEN)) {
            return Err(bare_cr_or(line, || Refusal::MethodNotToken { method: method.into() }));
        }
        if !target.iter().all(|&octet| is(octet, TARGET)) {
            return Err(bare_cr_or(line, || bad_target(target)));
        }
        check_target_form(method, target)?;
        let method = start..start + method.len();
        let target = method.end + 1..method.end + 1 + target.len();
        Ok(RequestLine { method, target, version })
    }

    /// RFC 9112 §3: "A server that receives a request-target longer than any URI it wishes to parse MUST respond with a
    /// 414". The line may be incomplete.
    fn check_target_length(&mut self, line: &[u8], limits: &Limits) -> Result<(), Refusal> {
        let limit = limits.target_octets.min(TARGET_OCTETS_MAX);
        if line.len() <= limit {
            return Ok(());
        }
        let target = split_at_space(line).map_or(&line[..0], |(_, rest)| rest);
        if memchr(b' ', target).unwrap_or(target.len()) <= limit {
            return Ok(());
        }
        if line.starts_with(b"HEAD ") {
            self.answer = Answer::HeadOnly;
        }
        Err(Refusal::TargetTooLong { limit })
    }

    /// RFC 9112 §5: `field-line = field-name ":" OWS field-value OWS`.
    fn field_line(&mut self, line: &[u8], start: usize, version: Version, limits: &Limits) -> Result<(), Refusal> {
        let name_octets = line.iter().position(|&octet| !is(octet, TOKEN)).unwrap_or(line.len());
        let (name, rest) = line.split_at(name_octets);
        let value = match rest {
            [b':', value @ ..] if !name.is_empty() => value,
            _ => return Err(self.bad_field_name(line, name_octets)),
        };
        if has_control(value) {
            return Err(bad_field_value(name, value));
        }
        self.fields += 1;
        if self.fields > limits.fields {
            return Err(Refusal::TooManyFields { limit: limits.fields });
        }
        // The length of a name tells most of the names that must be understood from each other and from all others.
        let named = |word: &[u8]| name.eq_ignore_ascii_case(word);
        let value_start = start + name_octets + 1;
        match name.len() {
            4 if named(b"Host") => {
                self.noted.host = trimmed(value, value_start);
                self.host(trim(value))?;
            }
            14 if named(b"Content-Length") => self.content_length(trim(value))?,
            17 if named(b"Transfer-Encoding") => self.transfer_encoding(trim(value), version)?,
            7 if named(b"Referer") => {
                self.noted.referer.get_or_insert_with(|| trimmed(value, value_start));
            }
            10 if named(b"User-Agent") => {
                self.noted.user_agent.get_or_insert_with(|| trimmed(value, value_start));
            }
            10 if named(b"Connection") => {
                self.noted.wish = match self.noted.wish {
                    Wish::Nothing if trim(value).eq_ignore_ascii_case(b"keep-alive") => Wish::Stay,
                    Wish::Nothing if trim(value).eq_ignore_ascii_case(b"close") => Wish::Close,
                    _ => Wish::More,
                };
            }
            5 if named(b"Range") => self.noted.wish = Wish::More,
            6 if named(b"Expect") => self.noted.wish = Wish::More,
            7 if named(b"Upgrade") => self.noted.wish = Wish::More,
            // RFC 9110 §13.1: all conditions begin so.
            _ if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"If-")) => self.noted.wish = Wish::More,
            _ => {}
        }
        Ok(())
    }

    /// RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code to any HTTP/1.1 request message that
    /// lacks a Host header field and to any request message that contains more than one Host header field line or a
    /// Host header field with an invalid field value."
    fn host(&mut self, value: &[u8]) -> Result<(), Refusal> {
        self.hosts += 1;
        if self.hosts > 1 {
            return Err(Refusal::HostTwice);
        }
        check_authority(value, Port::Optional).map_err(|fault| Refusal::HostInvalid { value: value.into(), fault })
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Refusal> {
        if self.coding.is_some() {
            return Err(Refusal::LengthAndCoding);
        }
        // RFC 9112 §6.3 rule 5 lets a recipient merge equal repeats (`5, 5`) or refuse them. We refuse: a sender that
        // says the length twice has had a second hand in its head.
        if self.length.is_some() {
            return Err(Refusal::LengthTwice);
        }
        // RFC 9110 §8.6: `Content-Length = 1*DIGIT`. Rust's parser would take a plus sign.
        if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err(Refusal::LengthNotDigits { value: value.into() });
        }
        let length = value.iter().try_fold(0_u64, |length, digit| {
            length.checked_mul(10)?.checked_add(u64::from(digit - b'0')).filter(|&length| length <= LENGTH_MAX)
        });
        self.length = Some(length.ok_or_else(|| Refusal::LengthTooLarge { value: value.into() })?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8], version: Version) -> Result<(), Refusal> {
        if self.coding.is_some() {
            return Err(Refusal::CodingTwice);
        }
        // RFC 9112 §6.1: a server that gets one in HTTP/1.0 "MUST treat the message as if the framing is faulty".
        if version == Version::HTTP_10 {
            return Err(Refusal::CodingInHttp10);
        }
        // RFC 9112 §7: coding names are case-insensitive.
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Refusal::CodingNotChunked { value: value.into() });
        }
        if self.length.is_some() {
            return Err(Refusal::LengthAndCoding);
        }
        self.coding = Some(Chunked);
        Ok(())
    }

    /// The empty line has come.
    fn finish(&self, request: &RequestLine, octets: usize) -> Result<Progress, Refusal> {
        if self.hosts == 0 && request.version == Version::HTTP_11 {
            return Err(Refusal::HostMissing);
        }
        let framing = match (self.coding, self.length) {
            (Some(Chunked), _) => Framing::Chunked,
            (None, Some(length)) => Framing::Length(length),
            (None, None) => Framing::None,
        };
        let RequestLine { method, target, version } = request.clone();
        Ok(Progress::Complete { octets, framing, version, method, target, fields: self.noted.clone() })
    }

    /// The octet after the (perhaps empty) token at the line's beginning is no colon, or the token is empty.
    #[cold]
    fn bad_field_name(&self, line: &[u8], name_octets: usize) -> Refusal {
        let (name, rest) = line.split_at(name_octets);
        match rest.first() {
            // RFC 9112 §5.2: "MUST either reject the message by sending a 400 ... or replace" the fold. Before the first
            // field there is nothing to fold (§2.2).
            Some(b' ' | b'\t') if name.is_empty() && self.fields == 0 => Refusal::SpaceBeforeFirstField,
            Some(b' ' | b'\t') if name.is_empty() => Refusal::FoldedField,
            Some(b':') => Refusal::FieldNameEmpty,
            Some(b' ' | b'\t') if trim(rest).first() == Some(&b':') => Refusal::SpaceBeforeColon { name: name.into() },
            _ if !line.contains(&b':') => bare_cr_or(line, || Refusal::FieldWithoutColon { line: line.into() }),
            Some(&octet) => bare_cr_or(line, || Refusal::FieldNameNotToken { line: line.into(), octet }),
            None => Refusal::FieldWithoutColon { line: line.into() },
        }
    }
}

/// Lengths of files and offsets are signed 64-bit numbers in every system we know; a longer body than that is a mistake
/// or an attack on somebody's integer arithmetic (RFC 9110 §8.6: "MUST anticipate potentially large decimal numerals").
const LENGTH_MAX: u64 = i64::MAX as u64;

/// Splits at exactly two spaces.
fn three_parts(line: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (method, rest) = split_at_space(line)?;
    let (target, version) = split_at_space(rest)?;
    let good = !method.is_empty() && !target.is_empty() && memchr(b' ', version).is_none();
    good.then_some((method, target, version))
}

fn split_at_space(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    memchr(b' ', octets).map(|at| (&octets[..at], &octets[at + 1..]))
}

/// RFC 9112 §3.2: which form of target goes with which method.
fn check_target_form(method: &[u8], target: &[u8]) -> Result<(), Refusal> {
    match (method, target) {
        // §3.2.3: authority-form, `host:port`, is for CONNECT, and CONNECT has no other.
        (b"CONNECT", _) => check_authority(target, Port::Required).map_err(|fault| Refusal::ConnectTarget { fault }),
        // §3.2.1: origin-form, and §3.2.4: asterisk-form.
        (_, [b'/', ..]) | (b"OPTIONS", b"*") => Ok(()),
        (_, b"*") => Err(Refusal::AsteriskWithoutOptions { method: method.into() }),
        // §3.2.2: absolute-form; "a server MUST accept the absolute-form in requests".
        _ => match absolute_authority(target) {
            Some(authority) => check_authority(authority, Port::Optional)
                .map_err(|fault| Refusal::TargetHostInvalid { value: authority.into(), fault }),
            None if memchr::memmem::find(target, b"://").is_some() => {
                Err(Refusal::SchemeNotHttp { target: target.into() })
            }
            None => Err(Refusal::TargetWithoutSlash { target: target.into() }),
        },
    }
}

/// The authority of `http://authority/path` or `https://authority?query`.
fn absolute_authority(target: &[u8]) -> Option<&[u8]> {
    let after = |scheme: &[u8]| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    };
    let rest = after(b"http://").or_else(|| after(b"https://"))?;
    let end = rest.iter().position(|octet| matches!(octet, b'/' | b'?')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Whether an authority must name a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Port {
    Optional,
    Required,
}

/// RFC 9112 §3.2: `Host = uri-host [ ":" port ]`, where RFC 3986 §3.2.2 says what a host is.
///
/// Deviates: a comma and percent-encoding are legal in RFC 3986's registered names. No DNS name has either, hyper's URI
/// type refuses the latter, and two spellings of one host are what virtual-host confusion is made of.
fn check_authority(authority: &[u8], port: Port) -> Result<(), HostFault> {
    let host_octets = match authority {
        [b'[', rest @ ..] => {
            let end = memchr(b']', rest).ok_or(HostFault::Ipv6)?;
            let address = std::str::from_utf8(&rest[..end]).map_err(|_| HostFault::Ipv6)?;
            // Deviates: `IPvFuture` literals (RFC 3986 §3.2.2) are refused; there has never been one.
            address.parse::<Ipv6Addr>().map_err(|_| HostFault::Ipv6)?;
            end + 2
        }
        name => name.iter().position(|&octet| !is(octet, HOST)).unwrap_or(name.len()),
    };
    let (host, rest) = authority.split_at(host_octets);
    match rest {
        [b':', ..] if memchr(b'@', rest).is_some() => Err(HostFault::Userinfo),
        _ if host.is_empty() && matches!(rest, [] | [b':', ..]) => Err(HostFault::Empty),
        [] if port == Port::Required => Err(HostFault::Port),
        [] => Ok(()),
        [b':', digits @ ..] => check_port(digits, port),
        [b'@', ..] => Err(HostFault::Userinfo),
        [b',', ..] => Err(HostFault::Comma),
        [b'/' | b'?' | b'#', ..] => Err(HostFault::Path),
        [b' ' | b'\t', ..] => Err(HostFault::Space),
        [octet, ..] => Err(HostFault::Octet(*octet)),
    }
}

/// RFC 3986 §3.2.3: `port = *DIGIT`, so `example.org:` is legal and means the default port.
fn check_port(digits: &[u8], port: Port) -> Result<(), HostFault> {
    match digits.iter().find(|octet| !octet.is_ascii_digit()) {
        Some(b'/' | b'?' | b'#') => return Err(HostFault::Path),
        Some(b',') => return Err(HostFault::Comma),
        Some(b' ' | b'\t') => return Err(HostFault::Space),
        Some(_) => return Err(HostFault::Port),
        None if digits.is_empty() && port == Port::Optional => return Ok(()),
        None => {}
    }
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u16>().ok());
    number.map(|_| ()).ok_or(HostFault::Port)
}

/// RFC 9110 §5.5: NUL, CR and LF are dangerous in a value and other controls are no part of the grammar; HTAB is white
/// space, and octets from 0x80 on (obs-text) are opaque. There is no early exit, so that the loop vectorises.
fn has_control(value: &[u8]) -> bool {
    let found = |octet: u8| u8::from((octet < b' ' && octet != b'\t') || octet == 0x7F);
    value.iter().fold(0, |sum, &octet| sum | found(octet)) != 0
}

/// Takes optional white space (RFC 9110 §5.6.3: spaces and tabs) off both ends.
fn trim(value: &[u8]) -> &[u8] {
    &value[trimmed(value, 0)]
}

/// Where the trimmed value lies when the value begins at `start`.
fn trimmed(value: &[u8], start: usize) -> Range<usize> {
    let is_space = |octet: &&u8| matches!(octet, b' ' | b'\t');
    let before = value.iter().take_while(is_space).count();
    let after = value[before..].iter().rev().take_while(is_space).count();
    start + before..start + value.len() - after
}

#[cold]
fn not_three_parts(line: &[u8]) -> Refusal {
    bare_cr_or(line, || match split_at_space(line) {
        // What HTTP/0.9 wrote: `GET /path`.
        Some((method, target)) if memchr(b' ', target).is_none() && !method.is_empty() && !target.is_empty() => {
            // Two words of something else, such as `HELO crepes.fr`, do not become a request by adding a version.
            if target.starts_with(b"/") || target.starts_with(b"http://") {
                Refusal::NoVersion { line: line.into() }
            } else {
                Refusal::NotARequestLine { line: line.into() }
            }
        }
        Some(_) => Refusal::Spaces { line: line.into() },
        None => Refusal::NotARequestLine { line: line.into() },
    })
}

#[cold]
fn bad_version(line: &[u8], version: &[u8]) -> Refusal {
    if line == b"PRI * HTTP/2.0" {
        return Refusal::Http2Preface;
    }
    match version {
        // RFC 9112 §2.3: `HTTP-version = HTTP-name "/" DIGIT "." DIGIT`, and the name is case-sensitive.
        // Deviates: RFC 9110 §2.5 wants HTTP/1.2 and later processed as HTTP/1.1. hyper's parser knows only 1.0 and 1.1,
        // and rewriting the head of a version that does not exist is not worth its own path, so they get 505 as well.
        [b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] => {
            Refusal::VersionUnsupported { major: major - b'0', minor: minor - b'0' }
        }
        _ => bare_cr_or(line, || Refusal::VersionMalformed { version: version.into() }),
    }
}

#[cold]
fn bad_target(target: &[u8]) -> Refusal {
    match target.iter().position(|&octet| !is(octet, TARGET)) {
        Some(at) if target[at] != b'#' => Refusal::TargetOctet { octet: target[at], at },
        _ => Refusal::TargetFragment,
    }
}

#[cold]
fn bad_field_value(name: &[u8], value: &[u8]) -> Refusal {
    let control = value.iter().copied().find(|&octet| octet != b'\t' && octet.is_ascii_control());
    match control {
        Some(octet) if octet != b'\r' => Refusal::FieldValueOctet { name: name.into(), octet },
        _ => Refusal::BareCr,
    }
}

/// RFC 9112 §2.2: a CR that is not followed by LF makes the line invalid, whatever else is wrong with it.
fn bare_cr_or(line: &[u8], otherwise: impl FnOnce() -> Refusal) -> Refusal {
    if line.contains(&b'\r') { Refusal::BareCr } else { otherwise() }
}

/// RFC 9110 §5.6.2: `tchar`.
const TOKEN: u8 = 1;
/// What may stand in a target: visible ASCII without the octets that RFC 3986 §2 gives no place in any URI and that every
/// implementation refuses. Deviates: `{ } | \ ^ [ ]` are let through, because browsers send them as they are.
const TARGET: u8 = 2;
/// RFC 3986 §3.2.2: `reg-name` without percent-encoding and comma (see [`check_authority`]).
const HOST: u8 = 4;

static CLASSES: [u8; 256] = classes();

fn is(octet: u8, class: u8) -> bool {
    CLASSES[octet as usize] & class != 0
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut octet = 0_u8;
    while octet < 0x80 {
        let alphanumeric = octet.is_ascii_alphanumeric();
        if alphanumeric
            || matches!(
                octet,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            )
        {
            table[octet as usize] |= TOKEN;
        }
        if octet.is_ascii_graphic() && !matches!(octet, b'"' | b'#' | b'<' | b'>' | b'`') {
            table[octet as usize] |= TARGET;
        }
        if alphanumeric
            || matches!(
                octet,
                b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'='
            )
        {
            table[octet as usize] |= HOST;
        }
        octet += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chunked::BadChunk;
    use std::time::Duration;

    const LIMITS: Limits = Limits { target_octets: 100, head_octets: 1000, fields: 10 };

    /// The verdict, the same in every cut: whole, octet by octet, and in two parts at each place.
    fn verdict(head: &[u8]) -> Progress {
        let whole = HeadReader::new().read(head, &LIMITS);
        assert_eq!(whole, read_up_to(head, 1..=head.len()), "octet by octet: {}", head.escape_ascii());
        for cut in 0..head.len() {
            assert_eq!(whole, read_up_to(head, [cut, head.len()]), "cut at {cut}: {}", head.escape_ascii());
        }
        whole
    }

    /// Shows the reader the buffer at each of these lengths, until it has made up its mind.
    fn read_up_to(head: &[u8], lengths: impl IntoIterator<Item = usize>) -> Progress {
        let mut reader = HeadReader::new();
        for length in lengths {
            match reader.read(&head[..length], &LIMITS) {
                Progress::Incomplete => {}
                decided => return decided,
            }
        }
        Progress::Incomplete
    }

    fn refusal(head: &[u8]) -> Refusal {
        match verdict(head) {
            Progress::Refused(refused) => refused.refusal,
            other => panic!("{}: {other:?}", head.escape_ascii()),
        }
    }

    fn framing(head: &[u8]) -> Framing {
        match verdict(head) {
            Progress::Complete { octets, framing, .. } => {
                assert_eq!(octets, head.len());
                framing
            }
            other => panic!("{}: {other:?}", head.escape_ascii()),
        }
    }

    /// A request with these field lines, which must be good.
    fn with(fields: &str) -> Vec<u8> {
        format!("POST /form HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
    }

    fn with_host(value: &str) -> Vec<u8> {
        format!("GET / HTTP/1.1\r\nHost:{value}\r\n\r\n").into_bytes()
    }

    #[test]
    fn good_heads_are_complete() {
        for head in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.0\n\n",
            "\r\n\n\r\nGET / HTTP/1.0\r\n\r\n",
            "GET /a?b=c&d=/?e HTTP/1.1\r\nHost: a\n\r\n",
            "GET /{a}|b\\c^[d]%zz HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET http://www.someschool.edu:8080/a HTTP/1.1\r\nhOsT: other\r\n\r\n",
            "GET HTTPS://[::1]?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "BREW /pot HTTP/1.1\r\nHost: a\r\nAccept-Additions:\r\n\r\n",
            // CLAIMS: no blank after the colon, and a value that is not ASCII.
            "GET /somedir/page.html HTTP/1.1\r\nHost: a\r\nAccept-language:fr\r\nX: \u{e5}\t\u{e4}\r\n\r\n",
        ] {
            assert_eq!(framing(head.as_bytes()), Framing::None, "{head}");
        }
    }

    #[test]
    fn what_is_cheap_to_know_is_told() {
        let head = b"\r\nHEAD /x HTTP/1.0\r\nContent-Length: 0\r\n\r\nbody";
        assert_eq!(
            verdict(head),
            Progress::Complete {
                octets: head.len() - 4,
                framing: Framing::Length(0),
                version: Version::HTTP_10,
                method: 2..6,
                target: 7..9,
                fields: Fields::default(),
            }
        );
    }

    #[test]
    fn fields_are_noted_where_they_stand() {
        let head = b"GET / HTTP/1.1\r\nhost: \ta \r\nUser-Agent:x\nREFERER:\t \r\nUser-agent: y\r\n\r\n";
        let Progress::Complete { fields, .. } = verdict(head) else { panic!("the head is whole and good") };
        let at = |range: Option<Range<usize>>| range.map(|range| head[range].escape_ascii().to_string());
        assert_eq!(at(Some(fields.host)).as_deref(), Some("a"));
        assert_eq!(at(fields.user_agent).as_deref(), Some("x"));
        assert_eq!(at(fields.referer).as_deref(), Some(""));
    }

    #[test]
    fn what_is_more_than_a_plain_fetch_is_seen() {
        let wish = |fields: &str| match verdict(&with(fields)) {
            Progress::Complete { fields, .. } => fields.wish,
            other => panic!("{fields}: {other:?}"),
        };
        for (fields, expected) in [
            ("", Wish::Nothing),
            ("Accept: */*\r\nI: f\r\nKeep-Alive: 5\r\nRanges: a\r\n", Wish::Nothing),
            ("connection:Close \r\n", Wish::Close),
            ("Connection: keep-alive\r\n", Wish::Stay),
            ("Connection: keep-alive, TE\r\n", Wish::More),
            ("Connection:\r\n", Wish::More),
            ("Connection: close\r\nConnection: close\r\n", Wish::More),
            ("Range: bytes=0-1\r\nConnection: close\r\n", Wish::More),
            ("Connection: close\r\nrange:\r\n", Wish::More),
            ("if-none-match: *\r\n", Wish::More),
            ("IF-RANGE: x\r\n", Wish::More),
            ("If-Modified-Since: x\r\n", Wish::More),
            ("If-Unmodified-Since: x\r\n", Wish::More),
            ("If-Match: x\r\n", Wish::More),
            ("Expect: x\r\n", Wish::More),
            ("Upgrade: h2c\r\n", Wish::More),
        ] {
            assert_eq!(wish(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_head_without_its_empty_line_is_incomplete() {
        for head in ["", "\r", "\r\n", "GET", "GET / HTTP/1.1", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\nHost: a\n\r"] {
            assert_eq!(verdict(head.as_bytes()), Progress::Incomplete, "{head:?}");
        }
    }

    #[test]
    fn request_lines_are_refused_at_their_line_end() {
        use Refusal as R;
        let line = |line: &str| line.as_bytes().into();
        for (text, expected) in [
            ("hello", R::NotARequestLine { line: line("hello") }),
            ("GET HTTP/1.1", R::NotARequestLine { line: line("GET HTTP/1.1") }),
            ("GET /path", R::NoVersion { line: line("GET /path") }),
            ("GET  / HTTP/1.1", R::Spaces { line: line("GET  / HTTP/1.1") }),
            ("GET / HTTP/1.1 ", R::Spaces { line: line("GET / HTTP/1.1 ") }),
            (" GET / HTTP/1.1", R::Spaces { line: line(" GET / HTTP/1.1") }),
            ("GET /a b HTTP/1.1", R::Spaces { line: line("GET /a b HTTP/1.1") }),
            ("GET ", R::Spaces { line: line("GET ") }),
            ("GET\t/\tHTTP/1.1", R::NotARequestLine { line: line("GET\t/\tHTTP/1.1") }),
            ("G(T / HTTP/1.1", R::MethodNotToken { method: line("G(T") }),
            ("GE\rT / HTTP/1.1", R::BareCr),
            ("GET /\r HTTP/1.1", R::BareCr),
            ("GET / HTTP/1.1\r", R::BareCr),
            ("GET / http/1.1", R::VersionMalformed { version: line("http/1.1") }),
            ("GET / HTTP/1", R::VersionMalformed { version: line("HTTP/1") }),
            ("GET / HTTP/1.10", R::VersionMalformed { version: line("HTTP/1.10") }),
            ("GET / HTTP/0.9", R::VersionUnsupported { major: 0, minor: 9 }),
            ("GET / HTTP/1.2", R::VersionUnsupported { major: 1, minor: 2 }),
            ("GET / HTTP/2.0", R::VersionUnsupported { major: 2, minor: 0 }),
            ("GET / HTTP/3.0", R::VersionUnsupported { major: 3, minor: 0 }),
            ("GET / HTTP/9.9", R::VersionUnsupported { major: 9, minor: 9 }),
            ("PRI * HTTP/2.0", R::Http2Preface),
            ("GET /\u{e4} HTTP/1.1", R::TargetOctet { octet: 0xC3, at: 1 }),
            ("GET /a\0 HTTP/1.1", R::TargetOctet { octet: 0, at: 2 }),
            ("GET /\x7f HTTP/1.1", R::TargetOctet { octet: 0x7F, at: 1 }),
            ("GET /<b> HTTP/1.1", R::TargetOctet { octet: b'<', at: 1 }),
            ("GET /a#b HTTP/1.1", R::TargetFragment),
            ("GET index.html HTTP/1.1", R::TargetWithoutSlash { target: line("index.html") }),
            ("GET www.a.b:80 HTTP/1.1", R::TargetWithoutSlash { target: line("www.a.b:80") }),
            ("GET ftp://a/b HTTP/1.1", R::SchemeNotHttp { target: line("ftp://a/b") }),
            ("GET * HTTP/1.1", R::AsteriskWithoutOptions { method: line("GET") }),
            ("CONNECT / HTTP/1.1", R::ConnectTarget { fault: HostFault::Path }),
            ("CONNECT * HTTP/1.1", R::ConnectTarget { fault: HostFault::Port }),
            ("CONNECT a.b HTTP/1.1", R::ConnectTarget { fault: HostFault::Port }),
            ("CONNECT a.b: HTTP/1.1", R::ConnectTarget { fault: HostFault::Port }),
            ("GET http:///a HTTP/1.1", R::TargetHostInvalid { value: line(""), fault: HostFault::Empty }),
            ("GET http://u@a/ HTTP/1.1", R::TargetHostInvalid { value: line("u@a"), fault: HostFault::Userinfo }),
            ("GET http://a:x/ HTTP/1.1", R::TargetHostInvalid { value: line("a:x"), fault: HostFault::Port }),
            ("GET http://%61/ HTTP/1.1", R::TargetHostInvalid { value: line("%61"), fault: HostFault::Octet(b'%') }),
        ] {
            assert_eq!(refusal(format!("{text}\r\n").as_bytes()), expected, "{text:?}");
            if !text.ends_with('\r') {
                assert_eq!(refusal(format!("{text}\n").as_bytes()), expected, "{text:?} with a bare LF");
            }
        }
    }

    #[test]
    fn field_lines_are_refused_at_their_line_end() {
        use Refusal as R;
        let octets = |octets: &str| octets.as_bytes().into();
        for (text, expected) in [
            ("Connection close", R::FieldWithoutColon { line: octets("Connection close") }),
            ("Connection", R::FieldWithoutColon { line: octets("Connection") }),
            ("Name : x", R::SpaceBeforeColon { name: octets("Name") }),
            ("Name\t: x", R::SpaceBeforeColon { name: octets("Name") }),
            (": x", R::FieldNameEmpty),
            ("Na(me: x", R::FieldNameNotToken { line: octets("Na(me: x"), octet: b'(' }),
            ("Na me: x", R::FieldNameNotToken { line: octets("Na me: x"), octet: b' ' }),
            ("N\u{e4}me: x", R::FieldNameNotToken { line: octets("N\u{e4}me: x"), octet: 0xC3 }),
            (" folded", R::FoldedField),
            ("\tfolded: x", R::FoldedField),
            ("Name: a\0b", R::FieldValueOctet { name: octets("Name"), octet: 0 }),
            ("Name: a\x7f", R::FieldValueOctet { name: octets("Name"), octet: 0x7F }),
            ("Name: a\x1b[2J", R::FieldValueOctet { name: octets("Name"), octet: 0x1B }),
            ("Name: a\rb", R::BareCr),
            ("Name: a\r", R::BareCr),
            ("Na\rme: a", R::BareCr),
            ("\r", R::BareCr),
            ("Host: b", R::HostTwice),
            ("host: a", R::HostTwice),
        ] {
            assert_eq!(refusal(format!("GET / HTTP/1.1\r\nHost: a\r\n{text}\r\n").as_bytes()), expected, "{text:?}");
        }
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n Host: a\r\n"), R::SpaceBeforeFirstField);
    }

    #[test]
    fn http_1_1_needs_a_host_and_http_1_0_does_not() {
        assert_eq!(refusal(b"GET / HTTP/1.1\r\n\r\n"), Refusal::HostMissing);
        assert_eq!(refusal(b"GET http://a/ HTTP/1.1\r\n\r\n"), Refusal::HostMissing);
        assert_eq!(refusal(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n"), Refusal::HostTwice);
        assert_eq!(framing(b"GET / HTTP/1.0\r\n\r\n"), Framing::None);
    }

    #[test]
    fn hosts_are_a_name_and_perhaps_a_port() {
        for host in
            ["a", " www.someschool.edu\t", "a:80", "a:", "127.77.3.80:8080", "[::1]", "[2001:db8::1]:8080", "a_b~c"]
        {
            assert_eq!(framing(&with_host(host)), Framing::None, "{host}");
        }
        for (host, expected) in [
            ("", HostFault::Empty),
            ("  ", HostFault::Empty),
            (":80", HostFault::Empty),
            ("u@a", HostFault::Userinfo),
            ("u:p@a", HostFault::Userinfo),
            ("a,b", HostFault::Comma),
            ("a:80,b", HostFault::Comma),
            ("a/b", HostFault::Path),
            ("a:80/b", HostFault::Path),
            ("a?b", HostFault::Path),
            ("a#b", HostFault::Path),
            ("http://a", HostFault::Path),
            ("a b", HostFault::Space),
            ("a\tb", HostFault::Space),
            ("a:8x", HostFault::Port),
            ("a:65536", HostFault::Port),
            ("a:99999999999999999999", HostFault::Port),
            ("a:-1", HostFault::Port),
            ("a:b:c", HostFault::Port),
            ("::1", HostFault::Empty),
            ("[::1", HostFault::Ipv6),
            ("[]", HostFault::Ipv6),
            ("[1.2.3.4]", HostFault::Ipv6),
            ("[fe80::1%eth0]", HostFault::Ipv6),
            ("[v1.x]", HostFault::Ipv6),
            ("[::1]x", HostFault::Octet(b'x')),
            ("a%41", HostFault::Octet(b'%')),
            ("\u{e4}", HostFault::Octet(0xC3)),
            ("a\\b", HostFault::Octet(b'\\')),
        ] {
            match refusal(&with_host(host)) {
                Refusal::HostInvalid { fault, .. } => {
                    assert_eq!(fault, expected, "{host}");
                }
                other => panic!("{host}: {other:?}"),
            }
        }
    }

    #[test]
    fn framing_is_read_from_one_field_only() {
        use Refusal as R;
        let octets = |octets: &str| octets.as_bytes().into();
        for (fields, expected) in [
            ("", Framing::None),
            ("Content-Length: 0\r\n", Framing::Length(0)),
            ("content-length:0000000000000000000000042 \r\n", Framing::Length(42)),
            ("Content-Length: 9223372036854775807\r\n", Framing::Length(LENGTH_MAX)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("TRANSFER-ENCODING:\tChunked\t\r\n", Framing::Chunked),
        ] {
            assert_eq!(framing(&with(fields)), expected, "{fields:?}");
        }
        for (fields, expected) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", R::LengthAndCoding),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", R::LengthAndCoding),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", R::LengthTwice),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", R::LengthTwice),
            ("Content-Length: 5, 5\r\n", R::LengthNotDigits { value: octets("5, 5") }),
            ("Content-Length:\r\n", R::LengthNotDigits { value: octets("") }),
            ("Content-Length: +5\r\n", R::LengthNotDigits { value: octets("+5") }),
            ("Content-Length: -5\r\n", R::LengthNotDigits { value: octets("-5") }),
            ("Content-Length: 0x5\r\n", R::LengthNotDigits { value: octets("0x5") }),
            ("Content-Length: 5 5\r\n", R::LengthNotDigits { value: octets("5 5") }),
            ("Content-Length: 9223372036854775808\r\n", R::LengthTooLarge { value: octets("9223372036854775808") }),
            ("Content-Length: 18446744073709551621\r\n", R::LengthTooLarge { value: octets("18446744073709551621") }),
            ("Transfer-Encoding: gzip\r\n", R::CodingNotChunked { value: octets("gzip") }),
            ("Transfer-Encoding: gzip, chunked\r\n", R::CodingNotChunked { value: octets("gzip, chunked") }),
            ("Transfer-Encoding: chunked, chunked\r\n", R::CodingNotChunked { value: octets("chunked, chunked") }),
            ("Transfer-Encoding: chunked;a=b\r\n", R::CodingNotChunked { value: octets("chunked;a=b") }),
            ("Transfer-Encoding: xchunked\r\n", R::CodingNotChunked { value: octets("xchunked") }),
            ("Transfer-Encoding:\r\n", R::CodingNotChunked { value: octets("") }),
            ("Transfer-Encoding: identity\r\n", R::CodingNotChunked { value: octets("identity") }),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", R::CodingTwice),
        ] {
            assert_eq!(refusal(&with(fields)), expected, "{fields:?}");
        }
        assert_eq!(refusal(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Refusal::CodingInHttp10);
    }

    #[test]
    fn limits_are_kept_to_the_octet() {
        let get = |octets: usize| format!("GET /{} HTTP/1.0\r\n\r\n", "a".repeat(octets - 1)).into_bytes();
        assert_eq!(framing(&get(100)), Framing::None);
        assert_eq!(refusal(&get(101)), Refusal::TargetTooLong { limit: 100 });
        // Also before the line ends, and whatever else is wrong with it.
        assert_eq!(refusal(&[b"? /".as_slice(), &[b'a'; 100]].concat()), Refusal::TargetTooLong { limit: 100 });

        let fields = |count: usize| format!("GET / HTTP/1.0\r\n{}\r\n", "a:\r\n".repeat(count)).into_bytes();
        assert_eq!(framing(&fields(10)), Framing::None);
        assert_eq!(refusal(&fields(11)), Refusal::TooManyFields { limit: 10 });

        let head = |octets: usize| {
            let start = "GET / HTTP/1.0\r\na:";
            format!("{start}{}\r\n\r\n", "b".repeat(octets - start.len() - 4)).into_bytes()
        };
        assert_eq!(framing(&head(1000)), Framing::None);
        assert_eq!(refusal(&head(1001)), Refusal::HeadTooLarge { limit: 1000 });
        assert_eq!(refusal("\r\n".repeat(500).as_bytes()), Refusal::HeadTooLarge { limit: 1000 });
        assert_eq!(refusal(&[b'a'; 1000]), Refusal::HeadTooLarge { limit: 1000 });
    }

    #[test]
    fn the_answer_to_head_has_no_body() {
        let answer = |head: &[u8]| match verdict(head) {
            Progress::Refused(refused) => refused.answer,
            other => panic!("{other:?}"),
        };
        assert_eq!(answer(b"HEAD / HTTP/1.1\r\n\r\n"), Answer::HeadOnly);
        assert_eq!(answer(b"HEAD /#a HTTP/1.1\r\n"), Answer::HeadOnly);
        assert_eq!(answer(&[b"HEAD /".as_slice(), &[b'a'; 100]].concat()), Answer::HeadOnly);
        // Not yet a request with a method.
        assert_eq!(answer(b"HEAD /\r\n"), Answer::WithBody);
        assert_eq!(answer(b"GET / HTTP/1.1\r\n\r\n"), Answer::WithBody);
    }

    #[test]
    fn every_refusal_has_a_client_or_version_status_and_says_something() {
        let statuses = [
            (Refusal::TargetTooLong { limit: 1 }, 414),
            (Refusal::Http2Preface, 505),
            (Refusal::VersionUnsupported { major: 3, minor: 0 }, 505),
            (Refusal::HeadTooLarge { limit: 1 }, 431),
            (Refusal::TooManyFields { limit: 1 }, 431),
            (Refusal::HeadTimeout { after: Duration::from_secs(10) }, 408),
            (Refusal::BodyTooLarge { limit: 1 }, 413),
            (Refusal::BadChunk(BadChunk::SizeTooLong), 400),
            (Refusal::HostMissing, 400),
        ];
        for (refusal, status) in statuses {
            assert_eq!(refusal.status().as_u16(), status, "{refusal:?}");
            assert!(refusal.rule().starts_with("RFC "), "{refusal:?}");
            assert!(refusal.explain().ends_with(['.', ')']), "{}", refusal.explain());
        }
    }

    #[test]
    fn what_the_peer_sent_is_shown_harmless_and_short() {
        let text = refusal(&[b"\x1b[2J".as_slice(), &[b'a'; 200], b"\n"].concat()).explain().into_owned();
        assert!(text.starts_with(r#""\x1b[2Jaaa"#), "{text}");
        assert!(text.contains(&format!("{}...", "a".repeat(56))) && !text.contains(&"a".repeat(57)), "{text}");
    }

    /// Lines that are nearly right are likelier to find a hole than noise is.
    fn nearly_a_head() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just("GET / HTTP/1.1".to_owned()),
            Just("HEAD http://a.b:80/c?d HTTP/1.1".to_owned()),
            Just("OPTIONS * HTTP/1.0".to_owned()),
            Just("CONNECT a:1 HTTP/1.1".to_owned()),
            "[A-Za-z]{1,5} /[ -~]{0,10} HTTP/1\\.[01]",
            "[A-Z]{1,4} https?://[ -~]{0,10}/[!-~]{0,5} HTTP/1\\.[01]",
            Just(String::new()),
        ];
        let field = prop_oneof![
            4 => Just("Host: a".to_owned()),
            1 => "Host: [!-~]{0,10}",
            1 => "Content-Length: [0-9]{0,21}",
            1 => Just("Transfer-Encoding: chunked".to_owned()),
            4 => "[A-Za-z-]{1,5}:[ -~\\t]{0,10}",
            1 => "[!-~]{1,5}:[ -~\\t]{0,10}",
            1 => "[\\x00-\\xff]{0,5}",
        ];
        let end = prop_oneof![40 => Just("\r\n"), 20 => Just("\n"), 1 => Just("\r\r\n")];
        (line, end.clone(), prop::collection::vec((field, end.clone()), 0..5), end).prop_map(
            |(line, first, fields, last)| {
                let mut head = format!("{line}{first}");
                for (field, end) in fields {
                    head.push_str(&field);
                    head.push_str(end);
                }
                head.push_str(last);
                head.into_bytes()
            },
        )
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_verdict(head in nearly_a_head()) {
            verdict(&head);
        }

        #[test]
        fn noise_never_panics(head in prop::collection::vec(any::<u8>(), 0..200)) {
            verdict(&head);
        }

        #[test]
        fn what_is_complete_hyper_reads_the_same_way(head in nearly_a_head()) {
            let Progress::Complete { octets, method, target, version, .. } = HeadReader::new().read(&head, &LIMITS) else {
                return Ok(());
            };
            let mut fields = [httparse::EMPTY_HEADER; LIMITS.fields];
            let mut request = httparse::Request::new(&mut fields);
            prop_assert_eq!(request.parse(&head), Ok(httparse::Status::Complete(octets)));
            prop_assert_eq!(request.method.map(str::as_bytes), Some(&head[method]));
            prop_assert_eq!(request.path.map(str::as_bytes), Some(&head[target.clone()]));
            prop_assert_eq!(request.version, Some(u8::from(version == Version::HTTP_11)));
            prop_assert!(http::Uri::try_from(&head[target]).is_ok());
        }
    }
}
