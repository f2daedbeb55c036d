//! The `[web]` table.

use serde::{Deserialize, Serialize};
use shared::units::{Size, Span};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

/// The `[web]` table: each key with its default and its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses for http.
    pub listen: Vec<SocketAddr>,
    /// Addresses for https; they need a certificate in `[tls]`.
    pub listen_tls: Vec<SocketAddr>,
    /// Worker threads, each with its own socket and runtime; 0 means one for each core.
    pub workers: usize,

    /// The directory that is served to requests for hosts that no `[[web.site]]` names.
    pub docroot: PathBuf,
    /// Names that are tried, in this order, where a directory is asked for.
    pub index: Vec<String>,
    /// Show a directory that has no index file as a list of its entries.
    pub listing: bool,
    /// Media types by the end of the path, over the built-in table: `{ ".index" = "text/html" }`.
    pub types: BTreeMap<String, String>,
    /// The charset that text files are said to be in; empty says nothing.
    pub charset: String,
    /// Paths that lead elsewhere.
    pub redirect: Vec<Redirect>,
    /// Paths that exist and are shown to nobody (403). One that ends with `/` means everything below it.
    pub deny: Vec<String>,
    /// Paths that ask for user and password (401).
    pub protect: Vec<Protect>,
    /// Paths that show what a form has sent there, in the URL (GET) or in the body (POST). For lessons.
    pub echo: Vec<String>,
    /// Paths that answer with a status from 400 to 599, whatever is asked there: `[{ path = "/coffee", status = 418, reason = "I am a
    /// teapot." }]`. For lessons.
    pub answer: Vec<Answer>,
    /// Further sites by the name in the `Host` field.
    pub site: Vec<Site>,

    /// How long a connection may stay unused between requests.
    pub keep_alive_timeout: Span,
    /// How many requests one connection may make.
    pub keep_alive_max: u64,
    /// How long a request head may take, from its first octet (on a new connection: from the start) to its empty line.
    /// Long enough to type one by hand.
    pub head_timeout: Span,
    /// How long a request body may pause.
    pub body_timeout: Span,
    /// How long a client may refuse to take anything of what we send.
    pub send_timeout: Span,
    /// How long sessions may finish after the order to stop.
    pub grace: Span,

    /// The longest request target; more is 414.
    pub target_octets_max: Size,
    /// The largest request head; more is 431.
    pub head_octets_max: Size,
    /// The most fields in a request head; more is 431.
    pub fields_max: usize,
    /// The longest request body that is read before the answer; more is 413.
    pub body_octets_max: Size,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one address (one /64 for IPv6).
    pub connections_per_peer: usize,

    /// Files up to this size are kept in memory.
    pub small_file_max: Size,
    /// How much memory they may take, for each site in each worker.
    pub small_files: Size,

    /// The access log: a file, `-` for standard output, or `none`.
    pub access_log: String,
    /// Its form.
    pub access_log_format: LogFormat,
}

/// A virtual host. What it leaves out it takes from `[web]`, but for the lists, which are its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Site {
    /// The name in the `Host` field.
    pub name: String,
    /// Other names for the same.
    pub aliases: Vec<String>,
    /// The directory that is served; without it, a directory of the site's name inside `[web]`'s docroot.
    pub docroot: Option<PathBuf>,
    /// See `[web]`.
    pub index: Option<Vec<String>>,
    /// See `[web]`.
    pub listing: Option<bool>,
    /// See `[web]`.
    pub types: BTreeMap<String, String>,
    /// See `[web]`.
    pub charset: Option<String>,
    /// See `[web]`.
    pub redirect: Vec<Redirect>,
    /// See `[web]`.
    pub deny: Vec<String>,
    /// See `[web]`.
    pub protect: Vec<Protect>,
    /// See `[web]`.
    pub echo: Vec<String>,
    /// See `[web]`.
    pub answer: Vec<Answer>,
}

/// A path that leads elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// The path. If it ends with `/`, all below it is meant too and what follows is added to `to`.
    pub from: String,
    /// Where to: a URL or an absolute path.
    pub to: String,
    /// 301 (moved for good), 302, 303, 307 or 308.
    pub status: RedirectStatus,
}

/// The status codes that send a client elsewhere (RFC 9110 §15.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub enum RedirectStatus {
    /// 301
    #[default]
    MovedPermanently,
    /// 302
    Found,
    /// 303
    SeeOther,
    /// 307
    TemporaryRedirect,
    /// 308
    PermanentRedirect,
}

impl TryFrom<u16> for RedirectStatus {
    type Error = String;
    fn try_from(code: u16) -> Result<Self, String> {
        match code {
            301 => Ok(Self::MovedPermanently),
            302 => Ok(Self::Found),
            303 => Ok(Self::SeeOther),
            307 => Ok(Self::TemporaryRedirect),
            308 => Ok(Self::PermanentRedirect),
            other => Err(format!("{other} is no redirect; use 301, 302, 303, 307 or 308")),
        }
    }
}

impl From<RedirectStatus> for u16 {
    fn from(status: RedirectStatus) -> u16 {
        match status {
            RedirectStatus::MovedPermanently => 301,
            RedirectStatus::Found => 302,
            RedirectStatus::SeeOther => 303,
            RedirectStatus::TemporaryRedirect => 307,
            RedirectStatus::PermanentRedirect => 308,
        }
    }
}

/// A path that asks for user and password by the Basic scheme (RFC 7617): base64, readable by everybody on the way
/// unless the connection is encrypted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Protect {
    /// The path. If it ends with `/`, everything below it is meant.
    pub path: String,
    /// What the browser says the password is for.
    pub realm: String,
    /// Who may in; empty means every account.
    pub users: Vec<String>,
}

/// A path that answers with this and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The path. If it ends with `/`, everything below it is meant.
    pub path: String,
    /// The status code.
    pub status: ErrorStatus,
    /// A sentence for the page: why.
    #[serde(default)]
    pub reason: String,
}

/// The status codes of answers that say no (RFC 9110 §15.5, §15.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct ErrorStatus(u16);

impl TryFrom<u16> for ErrorStatus {
    type Error = String;
    fn try_from(code: u16) -> Result<Self, String> {
        match code {
            400..=599 => Ok(Self(code)),
            other => Err(format!("{other} is no status of an error; use one from 400 to 599")),
        }
    }
}

impl From<ErrorStatus> for u16 {
    fn from(ErrorStatus(code): ErrorStatus) -> u16 {
        code
    }
}

/// Forms of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Apache's combined format, which every log tool reads.
    Combined,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(std::net::Ipv6Addr::UNSPECIFIED, 80).into()],
            listen_tls: vec![],
            workers: 0,
            docroot: "/var/lib/tomte/web".into(),
            index: vec!["index.html".to_owned()],
            listing: true,
            types: BTreeMap::new(),
            charset: "utf-8".to_owned(),
            redirect: vec![],
            deny: vec![],
            protect: vec![],
            echo: vec![],
            answer: vec![],
            site: vec![],
            keep_alive_timeout: Span::secs(5),
            keep_alive_max: 100,
            head_timeout: Span::secs(60),
            body_timeout: Span::secs(30),
            send_timeout: Span::secs(30),
            grace: Span::secs(10),
            target_octets_max: Size::kib(8),
            head_octets_max: Size::kib(16),
            fields_max: 100,
            body_octets_max: Size::mib(1),
            connections: 10_000,
            connections_per_peer: 1_000,
            small_file_max: Size::kib(64),
            small_files: Size::mib(16),
            access_log: "-".to_owned(),
            access_log_format: LogFormat::Combined,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_says_yes_cannot_be_told_to_be_answered() {
        assert_eq!(ErrorStatus::try_from(418).map(u16::from), Ok(418));
        for code in [0, 200, 304, 399, 600] {
            assert!(ErrorStatus::try_from(code).unwrap_err().contains("from 400 to 599"), "{code}");
        }
    }
}
