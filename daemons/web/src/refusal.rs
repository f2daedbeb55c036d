//! Why a request is refused, and what its sender could do about it.
//!
//! [`crate::head`] finds most of the reasons, [`crate::gate`] and [`crate::connection`] those that only a connection can
//! see. Each knows its status, the rule that was broken, and a sentence that says what to write instead.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;

use crate::chunked::BadChunk;

/// Why a request is refused. Each is a rule of the RFC that was broken, or a limit of ours that was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    // --- Lines, RFC 9112 §2.2 ---
    BareCr,
    // --- Request line, RFC 9112 §3 ---
    NotARequestLine {
        line: Box<[u8]>,
    },
    NoVersion {
        line: Box<[u8]>,
    },
    Spaces {
        line: Box<[u8]>,
    },
    VersionMalformed {
        version: Box<[u8]>,
    },
    VersionUnsupported {
        major: u8,
        minor: u8,
    },
    Http2Preface,
    Tls,
    MethodNotToken {
        method: Box<[u8]>,
    },
    TargetTooLong {
        limit: usize,
    },
    TargetOctet {
        octet: u8,
        at: usize,
    },
    TargetFragment,
    TargetWithoutSlash {
        target: Box<[u8]>,
    },
    SchemeNotHttp {
        target: Box<[u8]>,
    },
    AsteriskWithoutOptions {
        method: Box<[u8]>,
    },
    ConnectTarget {
        fault: HostFault,
    },
    TargetHostInvalid {
        value: Box<[u8]>,
        fault: HostFault,
    },
    // --- Field lines, RFC 9112 §5 ---
    FieldWithoutColon {
        line: Box<[u8]>,
    },
    SpaceBeforeColon {
        name: Box<[u8]>,
    },
    FieldNameEmpty,
    FieldNameNotToken {
        line: Box<[u8]>,
        octet: u8,
    },
    SpaceBeforeFirstField,
    FoldedField,
    FieldValueOctet {
        name: Box<[u8]>,
        octet: u8,
    },
    TooManyFields {
        limit: usize,
    },
    HeadTooLarge {
        limit: usize,
    },
    // --- Host, RFC 9112 §3.2 ---
    HostMissing,
    HostTwice,
    HostInvalid {
        value: Box<[u8]>,
        fault: HostFault,
    },
    // --- Framing, RFC 9112 §6 ---
    LengthAndCoding,
    LengthTwice,
    LengthNotDigits {
        value: Box<[u8]>,
    },
    LengthTooLarge {
        value: Box<[u8]>,
    },
    CodingInHttp10,
    CodingTwice,
    CodingNotChunked {
        value: Box<[u8]>,
    },
    // --- What only the connection sees ---
    /// The head did not become complete in time.
    HeadTimeout {
        after: Duration,
    },
    /// The client has finished sending, and the head had no end. RFC 9112 §8.
    HeadCutOff,
    /// Nothing more came of the body. RFC 9110 §15.5.9.
    BodyTimeout {
        after: Duration,
    },
    /// The client has finished sending before the body was whole. RFC 9112 §8.
    BodyCutOff,
    /// The chunked body broke off its grammar. RFC 9112 §7.1.
    BadChunk(BadChunk),
    /// `Expect` asks for something else than `100-continue`. RFC 9110 §10.1.1.
    UnknownExpectation {
        expectation: Box<[u8]>,
    },
    /// The body is longer than we take.
    BodyTooLarge {
        limit: u64,
    },
}

/// What is wrong with a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostFault {
    /// RFC 9110 §4.2.1: "A recipient that processes such a URI reference MUST reject it as invalid."
    Empty,
    /// RFC 9110 §4.2.4: `user:password@` is there to mislead people.
    Userinfo,
    /// A list where one name belongs.
    Comma,
    /// A path, query or fragment where the authority alone belongs.
    Path,
    Space,
    /// Not a number from 0 to 65535, or missing where it must stand.
    Port,
    /// Not an IPv6 address between brackets.
    Ipv6,
    /// Some other octet that no host name holds.
    Octet(u8),
}

impl Refusal {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::TargetTooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::VersionUnsupported { .. } | Self::Http2Preface => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooManyFields { .. } | Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::HeadTimeout { .. } | Self::BodyTimeout { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnknownExpectation { .. } => StatusCode::EXPECTATION_FAILED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The section that was not obeyed, to be read in the other window.
    pub(crate) fn rule(&self) -> &'static str {
        match self {
            Self::BareCr | Self::SpaceBeforeFirstField => "RFC 9112 §2.2",
            Self::NotARequestLine { .. }
            | Self::NoVersion { .. }
            | Self::Spaces { .. }
            | Self::TargetTooLong { .. } => "RFC 9112 §3",
            Self::VersionMalformed { .. } => "RFC 9112 §2.3",
            Self::VersionUnsupported { .. } => "RFC 9110 §2.5",
            Self::Http2Preface => "RFC 9113 §3.4",
            Self::Tls => "RFC 9110 §4.2.1",
            Self::MethodNotToken { .. } => "RFC 9112 §3.1",
            Self::TargetOctet { .. } => "RFC 3986 §2",
            Self::TargetFragment => "RFC 9110 §7.1",
            Self::TargetWithoutSlash { .. } => "RFC 9112 §3.2.1",
            Self::SchemeNotHttp { .. } | Self::TargetHostInvalid { .. } => "RFC 9112 §3.2.2",
            Self::ConnectTarget { .. } => "RFC 9112 §3.2.3",
            Self::AsteriskWithoutOptions { .. } => "RFC 9112 §3.2.4",
            Self::FieldWithoutColon { .. } => "RFC 9112 §5",
            Self::SpaceBeforeColon { .. } | Self::FieldNameEmpty | Self::FieldNameNotToken { .. } => "RFC 9112 §5.1",
            Self::FoldedField => "RFC 9112 §5.2",
            Self::FieldValueOctet { .. } => "RFC 9110 §5.5",
            Self::TooManyFields { .. } | Self::HeadTooLarge { .. } => "RFC 6585 §5",
            Self::HostMissing | Self::HostTwice | Self::HostInvalid { .. } => "RFC 9112 §3.2",
            Self::LengthTwice | Self::LengthNotDigits { .. } | Self::LengthTooLarge { .. } => "RFC 9112 §6.3",
            Self::LengthAndCoding | Self::CodingInHttp10 | Self::CodingTwice | Self::CodingNotChunked { .. } => {
                "RFC 9112 §6.1"
            }
            Self::HeadTimeout { .. } | Self::BodyTimeout { .. } => "RFC 9110 §15.5.9",
            Self::HeadCutOff | Self::BodyCutOff => "RFC 9112 §8",
            Self::BadChunk(_) => "RFC 9112 §7.1",
            Self::BodyTooLarge { .. } => "RFC 9110 §15.5.14",
            Self::UnknownExpectation { .. } => "RFC 9110 §10.1.1",
        }
    }

    /// What was wrong and what to write instead, in sentences.
    pub(crate) fn explain(&self) -> Cow<'static, str> {
        match self {
            Self::BareCr => "A carriage return stands alone. Lines end with CR LF (or LF alone), and CR has no other use: \
                programs that disagree about it can be played off against each other."
                .into(),
            Self::NotARequestLine { line } => format!(
                "{} is not a request line. It has three parts with one space between them: method, target, version. \
                 For example: GET /index.html HTTP/1.0, and then an empty line.",
                shown(line)
            )
            .into(),
            Self::NoVersion { line } => format!(
                "{} does not say which HTTP it speaks. Only HTTP/0.9 (1991) left the version out. Write {} HTTP/1.0 and \
                 then an empty line.",
                shown(line),
                shown_bare(line)
            )
            .into(),
            Self::Spaces { line } => format!(
                "{} does not consist of three parts with exactly one space between them: method, target, version. \
                 A space inside the target is written %20.",
                shown(line)
            )
            .into(),
            Self::VersionMalformed { version } => format!(
                "{} is not a version. It is written in capitals, with one digit on each side of the point: HTTP/1.0 or \
                 HTTP/1.1.",
                shown(version)
            )
            .into(),
            Self::VersionUnsupported { major, minor } => {
                format!("HTTP/{major}.{minor} is not spoken here. HTTP/1.0 and HTTP/1.1 are.").into()
            }
            Self::Http2Preface => "This is how an HTTP/2 connection begins. HTTP/2 is not spoken here; HTTP/1.0 and \
                HTTP/1.1 are (curl: --http1.1)."
                .into(),
            Self::Tls => "This is how TLS begins, and the port is for plain HTTP: write http:// instead of https://, or use the \
                https port."
                .into(),
            Self::MethodNotToken { method } => format!(
                "{} is not a method. A method is a token: letters, digits and !#$%&'*+-.^_`|~ only. For example: GET.",
                shown(method)
            )
            .into(),
            Self::TargetTooLong { limit } => {
                format!("The request target is longer than the {limit} octets that this server reads.").into()
            }
            Self::TargetOctet { octet, at } => format!(
                "The target holds the octet 0x{octet:02X} at position {at}, which may not stand in a URI. Write it \
                 %{octet:02X}."
            )
            .into(),
            Self::TargetFragment => "The target holds a #. What follows it (the fragment) is for the browser and is not \
                sent. A # that belongs to a name is written %23."
                .into(),
            Self::TargetWithoutSlash { target } => format!(
                "The target {} is neither a path, which begins with a slash (/index.html), nor a whole URI \
                 (http://host/path).",
                shown(target)
            )
            .into(),
            Self::SchemeNotHttp { target } => {
                format!("The target {} is a URI of a scheme other than http and https.", shown(target)).into()
            }
            Self::AsteriskWithoutOptions { method } => format!(
                "The target * means the server as a whole and goes with OPTIONS alone, not with {}. For the first page \
                 write /.",
                shown_bare(method)
            )
            .into(),
            Self::ConnectTarget { fault } => {
                format!("The target of CONNECT is host:port, for example www.someschool.edu:443. {}", fault.explain())
                    .into()
            }
            Self::TargetHostInvalid { value, fault } => {
                format!("The target names the host {}. {}", shown(value), fault.explain()).into()
            }
            Self::FieldWithoutColon { line } => format!(
                "{} is not a header field: there is no colon after its name. For example: Connection: close.",
                shown(line)
            )
            .into(),
            Self::SpaceBeforeColon { name } => format!(
                "There is white space between the field name {} and its colon. Programs disagree about whom such a field \
                 belongs to, which has been used to smuggle requests, so the colon follows at once.",
                shown_bare(name)
            )
            .into(),
            Self::FieldNameEmpty => "A header field begins with its colon; the name before it is missing.".into(),
            Self::FieldNameNotToken { line, octet } => format!(
                "The field name in {} holds the octet 0x{octet:02X}. A name is a token: letters, digits and \
                 !#$%&'*+-.^_`|~ only.",
                shown(line)
            )
            .into(),
            Self::SpaceBeforeFirstField => "The line after the request line begins with white space. Programs disagree \
                about what it then belongs to, which has been used to smuggle requests."
                .into(),
            Self::FoldedField => "A header line begins with white space. That once continued the line above (line \
                folding); since 2014 it is not allowed, because programs disagreed about it. Write the field on one line."
                .into(),
            Self::FieldValueOctet { name, octet } => format!(
                "The value of the field {} holds the control octet 0x{octet:02X}, which may not stand there.",
                shown_bare(name)
            )
            .into(),
            Self::TooManyFields { limit } => {
                format!("The request has more than the {limit} header fields that this server reads.").into()
            }
            Self::HeadTooLarge { limit } => {
                format!("The request line and header fields together are longer than the {limit} octets that this server \
                         reads.")
                    .into()
            }
            Self::HostMissing => "An HTTP/1.1 request says which host it wants, because many share one address. Add a \
                line, for example: Host: www.someschool.edu (or say HTTP/1.0, which did not require it)."
                .into(),
            Self::HostTwice => "There are two Host fields. If this server believed one and a cache before it the other, \
                a stranger's page could be stored under your name."
                .into(),
            Self::HostInvalid { value, fault } => format!("The Host field says {}. {}", shown(value), fault.explain()).into(),
            Self::LengthAndCoding => "Content-Length and Transfer-Encoding both say where the body ends. If two servers on \
                the way believe different ones, the end of one request becomes the beginning of another: request \
                smuggling. Send one of the two."
                .into(),
            Self::LengthTwice => "Content-Length is there twice. If two servers on the way believe different ones, the end \
                of one request becomes the beginning of another: request smuggling. Send it once."
                .into(),
            Self::LengthNotDigits { value } => format!(
                "The Content-Length {} is not one decimal number. Programs read such values differently, and whoever \
                 gets the length wrong takes body for request: request smuggling. Write digits only, once.",
                shown(value)
            )
            .into(),
            Self::LengthTooLarge { value } => format!(
                "The Content-Length {} does not fit a 64-bit integer. Where it wraps around to a small number, body is \
                 taken for request: request smuggling.",
                shown(value)
            )
            .into(),
            Self::CodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding, so an HTTP/1.0 program on the way would not see \
                where this body ends, and its rest could be taken for another request: request smuggling. Say HTTP/1.1, \
                or send Content-Length."
                .into(),
            Self::CodingTwice => "Transfer-Encoding is there twice. If two servers on the way believe different ones, the \
                end of one request becomes the beginning of another: request smuggling. Send it once."
                .into(),
            Self::CodingNotChunked { value } => format!(
                "The Transfer-Encoding {} is not exactly \"chunked\". For a coding that is merely unknown 501 would do, \
                 but only the last coding \"chunked\" says where a body ends; without knowing that, what follows could be \
                 taken for another request (request smuggling), so the request is bad and the connection is closed.",
                shown(value)
            )
            .into(),
            Self::HeadTimeout { after } => format!(
                "The request was not complete after {} seconds. A head ends with an empty line: press Return twice.",
                after.as_secs()
            )
            .into(),
            Self::HeadCutOff => "The sending side was closed before the request was complete. A head ends with an empty \
                line: press Return twice."
                .into(),
            Self::BodyTimeout { after } => {
                format!("No more of the request's body came for {} seconds.", after.as_secs()).into()
            }
            Self::BodyCutOff => "The sending side was closed before the body was as long as the head had announced."
                .into(),
            Self::BadChunk(bad) => bad.explain(),
            Self::UnknownExpectation { expectation } => format!(
                "The request expects {} of the server. The only expectation that HTTP knows is 100-continue.",
                shown(expectation)
            )
            .into(),
            Self::BodyTooLarge { limit } => {
                format!("The body is longer than the {limit} octets that this server takes.").into()
            }
        }
    }
}

impl HostFault {
    fn explain(self) -> Cow<'static, str> {
        match self {
            Self::Empty => "A host's name may not be empty.".into(),
            Self::Userinfo => {
                "A name and password before an @ do not belong there; they are used to mislead people.".into()
            }
            Self::Comma => "It holds a comma, as if there were two hosts; one host belongs there.".into(),
            Self::Path => "A host alone belongs there, without a path.".into(),
            Self::Space => "A host's name has no white space.".into(),
            Self::Port => "The port after the colon is a number from 0 to 65535.".into(),
            Self::Ipv6 => "What stands between [ and ] is not an IPv6 address.".into(),
            Self::Octet(octet) => format!("The octet 0x{octet:02X} cannot stand in a host's name.").into(),
        }
    }
}

/// What a peer sent, in quotation marks, made harmless and short enough for one line of an answer or a log.
fn shown(octets: &[u8]) -> String {
    format!("\"{}\"", shown_bare(octets))
}

/// As [`shown`], without quotation marks.
fn shown_bare(octets: &[u8]) -> String {
    const OCTETS_MAX: usize = 60;
    let (start, dots) = if octets.len() > OCTETS_MAX { (&octets[..OCTETS_MAX], "...") } else { (octets, "") };
    format!("{}{dots}", start.escape_ascii())
}
