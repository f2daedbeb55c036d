//! What the origin server answers: from a request head to a response, with the reason.
//!
//! ```text
//!   host -> site -> small file in memory? ------------------------------------> 200
//!                |
//!                +-> target -> redirect? 301 -> denied? 403 -> password? 401
//!                      -> open beneath the root -> 404, 403, 500
//!                      -> directory: slash missing? 301; index file: denied? 403 -> password? 401; listing
//!                      -> file: preconditions 304, 412 -> range 206, 416 -> 200
//! ```
//!
//! Framing, limits and connections are not here: see [`crate::gate`] and [`crate::connection`].

use crate::{
    Config, Protect, Redirect,
    body::{Body, Piece, Transfer},
    conditional::{Precondition, Preconditions, RangeApplies},
    config,
    files::{self, Entity, Memory, Missing, OpenFile, Opened, Remembered, Small},
    form,
    gate::Link,
    listing::{self, Sort},
    media::{Charset, MediaTypes},
    page::{self, Explanation, Form, reason_phrase},
    range::{self, Boundary, Multipart, Ranges},
    refusal::Refusal,
    shortcut,
    target::{Directory, Target, encode_path},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{
        ACCEPT_RANGES, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HOST,
        LAST_MODIFIED, LOCATION, RANGE, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
    },
    request::Parts,
    uri::Scheme,
};
use shared::{
    accounts::{Accounts, Verdict},
    daemon::StartError,
};
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// What may be done to everything here; for `Allow`, and in the page that explains it.
const METHODS: &str = "GET, HEAD, OPTIONS";
/// The same where a form is shown.
const METHODS_OF_A_FORM: &str = "GET, HEAD, OPTIONS, POST";

/// An answer, and why it is that one.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: Response<Body>,
    pub(crate) after: After,
    /// For whoever watches; empty where the status says it all.
    pub(crate) because: Cow<'static, str>,
    /// Who was let in by password.
    pub(crate) user: Option<String>,
}

/// What becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It may serve further requests, if its client and its count allow.
    Stay,
    /// The octets that follow cannot be trusted to be a request.
    Close,
}

impl Reply {
    fn new(status: StatusCode, body: Body) -> Self {
        let mut response = Response::new(body);
        *response.status_mut() = status;
        // One allocation that holds all fields of the largest answer.
        response.headers_mut().reserve(12);
        Self { response, after: After::Stay, because: Cow::Borrowed(""), user: None }
    }

    fn because(mut self, reason: impl Into<Cow<'static, str>>) -> Self {
        self.because = reason.into();
        self
    }

    fn with(mut self, name: http::HeaderName, value: HeaderValue) -> Self {
        self.response.headers_mut().insert(name, value);
        self
    }

    /// A page that explains.
    pub(crate) fn page(head: &Parts, explanation: &Explanation<'_>) -> Self {
        let form = Form::wanted(&head.headers);
        let text = page::render(form, explanation);
        let length = HeaderValue::from(text.len());
        let body = if head.method == Method::HEAD { Body::Empty } else { Body::Whole(text.into()) };
        Self::new(explanation.status, body)
            .with(CONTENT_TYPE, form.content_type())
            .with(CONTENT_LENGTH, length)
            .with(VARY, HeaderValue::from_static("Accept"))
            .because(explanation.reason.clone().into_owned())
    }

    /// A request that broke a rule of the protocol. Nothing after it can be trusted.
    pub(crate) fn refused(head: &Parts, refusal: &Refusal) -> Self {
        let explanation = Explanation {
            status: refusal.status(),
            title: Cow::Borrowed(reason_phrase(refusal.status())),
            asked: None,
            looked_up: None,
            reason: refusal.explain(),
            rule: Some(refusal.rule().into()),
            try_next: None,
        };
        Self { after: After::Close, ..Self::page(head, &explanation) }
    }
}

/// All sites of this server, as the configuration has them until the next reload.
#[derive(Debug)]
pub(crate) struct Sites {
    sites: Vec<Site>,
    by_name: HashMap<Box<[u8]>, usize>,
}

/// One virtual host.
#[derive(Debug)]
struct Site {
    name: String,
    root: PathBuf,
    index: Vec<String>,
    listing: bool,
    types: MediaTypes,
    redirects: Vec<Redirect>,
    denied: Vec<String>,
    protected: Vec<Protect>,
    echoes: Vec<String>,
    answers: Vec<config::Answer>,
    memory: Memory,
    small_file_max: u64,
}

impl Sites {
    /// Checks the configuration against the disk.
    ///
    /// # Errors
    /// A document root is not there, or a value cannot be what it says: all that is wrong.
    pub(crate) fn new(config: &Config) -> Result<Self, StartError> {
        let default = config::Site {
            docroot: Some(config.docroot.clone()),
            types: config.types.clone(),
            redirect: config.redirect.clone(),
            deny: config.deny.clone(),
            protect: config.protect.clone(),
            echo: config.echo.clone(),
            answer: config.answer.clone(),
            ..config::Site::default()
        };
        let mut all = Self { sites: vec![], by_name: HashMap::new() };
        let mut problems = vec![];
        for (index, site) in std::iter::once(&default).chain(&config.site).enumerate() {
            // The default site has no name of its own; a request for the empty name does not pass the gate.
            let table = if index == 0 { "web".to_owned() } else { format!("web.site[{}]", index - 1) };
            for name in std::iter::once(&site.name).chain(&site.aliases) {
                if index > 0 && name.is_empty() {
                    let problem = "a site needs a name, the one in the `Host` field, and so does each alias of it";
                    problems.push(StartError::unfit(format!("{table}.name"), problem));
                } else if all.by_name.insert(name.to_ascii_lowercase().into_bytes().into(), index).is_some() {
                    let problem = format!("two sites have the name `{name}`; take it out of one of them");
                    problems.push(StartError::unfit(format!("{table}.name"), problem));
                }
            }
            match Site::new(config, site, &table) {
                Ok(site) => all.sites.push(site),
                Err(wrong) => problems.extend(wrong),
            }
        }
        StartError::all(problems).map(|()| all)
    }

    /// RFC 9110 §7.2 and RFC 9112 §3.2.2: the target's host, if it has one, wins over the field. A host that nobody
    /// knows gets the default site, as the course's telnet sessions expect.
    fn find(&self, head: &Parts) -> &Site {
        match head.uri.host() {
            Some(host) => self.named(host.as_bytes()),
            None => self.named(without_port(head.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default())),
        }
    }

    /// Whether the body of this request is shown to its sender, and so is wanted.
    pub(crate) fn wants_body(&self, head: &Parts) -> bool {
        head.method == Method::POST && self.find(head).shows_forms(head)
    }

    /// The small file that a request for `path` at `host`, which may have a port, leads to, if it is in memory.
    pub(crate) fn recall(&self, host: &[u8], path: &str) -> Option<Arc<Small>> {
        self.named(without_port(host)).recall(path)
    }

    fn named(&self, host: &[u8]) -> &Site {
        // The dot that a full name may end with.
        let host = host.strip_suffix(b".").unwrap_or(host);
        let known = self.by_name.get(host).or_else(|| {
            host.iter().any(u8::is_ascii_uppercase).then(|| self.by_name.get(&*host.to_ascii_lowercase()))?
        });
        &self.sites[known.copied().unwrap_or(0)]
    }
}

/// The host in the value of a `Host` field.
fn without_port(field: &[u8]) -> &[u8] {
    match field.iter().rposition(|octet| *octet == b':') {
        // Not the colons inside an IPv6 literal.
        Some(colon) if !field[colon..].contains(&b']') => &field[..colon],
        _ => field,
    }
}

impl Site {
    /// `table` is where the configuration has it.
    fn new(config: &Config, site: &config::Site, table: &str) -> Result<Self, Vec<StartError>> {
        let mut problems = vec![];
        let mut wrong = |key: &str, problem: String| {
            let of = if site.name.is_empty() { String::new() } else { format!("site `{}`: ", site.name) };
            problems.push(StartError::unfit(format!("{table}.{key}"), of + &problem));
        };
        let root = site.docroot.clone().unwrap_or_else(|| config.docroot.join(&site.name));
        if let Err(problem) = std::fs::read_dir(&root) {
            let cure = "create the directory (mkdir -p), let the server read it, or name another";
            wrong("docroot", format!("`{}`: {problem}; {cure}", root.display()));
        }
        let charset = site.charset.as_ref().unwrap_or(&config.charset);
        let charset = if charset.is_empty() { Charset::Unsaid } else { Charset::Named(charset.clone()) };
        let types = site.types.iter().map(|(suffix, media_type)| (suffix.as_str(), media_type.as_str()));
        let types = MediaTypes::new(types, charset).inspect_err(|problem| wrong("types", problem.to_string()));
        let denied = site.deny.iter().map(|path| ("deny", path));
        let redirected = site.redirect.iter().map(|redirect| ("redirect", &redirect.from));
        let protected = site.protect.iter().map(|protect| ("protect", &protect.path));
        let shown = site.echo.iter().map(|path| ("echo", path));
        let answered = site.answer.iter().map(|answer| ("answer", &answer.path));
        let paths = denied.chain(redirected).chain(protected).chain(shown).chain(answered);
        for (key, path) in paths.filter(|(_, path)| !path.starts_with('/')) {
            wrong(key, format!("the path `{path}` must begin with a slash: `/{path}`"));
        }
        for redirect in &site.redirect {
            let Redirect { from, to, .. } = redirect;
            if HeaderValue::try_from(to).is_err() || to.is_empty() {
                wrong("redirect", format!("`{to}` is no place to send anybody; write a path, or a URL"));
            } else if from.ends_with('/') && !to.ends_with('/') && !to.contains('?') {
                // `http://here.example` and what follows could make `http://here.example.evil.example`.
                let problem = "so that must end with a slash";
                wrong("redirect", format!("what follows `{from}` is added to `{to}`, {problem}: `{to}/`"));
            }
        }
        let types = match types {
            Ok(types) if problems.is_empty() => types,
            _ => return Err(problems),
        };
        Ok(Self {
            name: if site.name.is_empty() { "the default site".to_owned() } else { site.name.clone() },
            root,
            index: site.index.clone().unwrap_or_else(|| config.index.clone()),
            listing: site.listing.unwrap_or(config.listing),
            types,
            redirects: site.redirect.clone(),
            denied: site.deny.clone(),
            protected: site.protect.clone(),
            echoes: site.echo.clone(),
            answers: site.answer.clone(),
            memory: Memory::new(config.small_files.octets()),
            small_file_max: config.small_file_max.0,
        })
    }
}

/// The answer that the configuration has for a path.
fn as_told(head: &Parts, path: &str, rule: &config::Answer) -> Reply {
    let status = StatusCode::from_u16(rule.status.into()).unwrap_or(StatusCode::BAD_REQUEST);
    let reason = if rule.reason.is_empty() { "The server's configuration says so." } else { &rule.reason };
    let explanation = Explanation {
        status,
        title: reason_phrase(status).into(),
        asked: Some(path.into()),
        looked_up: None,
        reason: reason.into(),
        rule: Some(rule_of(status).into()),
        try_next: None,
    };
    Reply::page(head, &explanation)
}

/// Where a status that we give only when we are told to is defined.
fn rule_of(status: StatusCode) -> &'static str {
    match status.as_u16() {
        418 => "RFC 2324 §2.3.2 (of the first of April), reserved by RFC 9110 §15.5.19",
        428 => "RFC 6585 §3",
        429 => "RFC 6585 §4",
        431 => "RFC 6585 §5",
        451 => "RFC 7725 §3",
        511 => "RFC 6585 §6",
        500.. => "RFC 9110 §15.6",
        _ => "RFC 9110 §15.5",
    }
}

/// What a form has sent. Nobody else should see it, so no cache keeps it.
fn echoed(head: &Parts, sent: &form::Sent<'_>) -> Reply {
    let page = Form::wanted(&head.headers);
    let text = sent.render(page);
    let length = HeaderValue::from(text.len());
    let body = if head.method == Method::HEAD { Body::Empty } else { Body::Whole(text.into()) };
    Reply::new(StatusCode::OK, body)
        .with(CONTENT_TYPE, page.content_type())
        .with(CONTENT_LENGTH, length)
        .with(CACHE_CONTROL, HeaderValue::from_static("no-store"))
        .with(VARY, HeaderValue::from_static("Accept"))
        .because("here is what the form has sent")
}

/// The path as rules and pages have it: decoded, with its first slash, and the last if it was asked with one.
fn shown(target: &Target<'_>) -> String {
    let last = if target.directory == Directory::Asked && !target.path.is_empty() { "/" } else { "" };
    format!("/{}{last}", String::from_utf8_lossy(&target.path))
}

/// The index file that was opened in place of the directory that was asked for, as rules have it.
fn index_of(target: &Target<'_>, opened: &[u8]) -> Option<String> {
    (opened != &*target.path).then(|| format!("/{}", String::from_utf8_lossy(opened)))
}

/// Whether `rule` means `path`: itself, or everything below when it ends with a slash.
fn covers(rule: &str, path: &str) -> bool {
    rule == path || (rule.ends_with('/') && path.starts_with(rule))
}

/// What an answer needs besides the request.
pub(crate) struct Surroundings<'a> {
    pub(crate) sites: &'a Sites,
    pub(crate) accounts: &'a Accounts,
    pub(crate) peer: IpAddr,
    pub(crate) transfer: Transfer,
    pub(crate) link: &'a Arc<Link>,
}

/// Answers a request whose framing is in order. `body` is what [`Sites::wants_body`] asked for.
pub(crate) async fn answer(head: &Parts, body: &[u8], around: &Surroundings<'_>) -> Reply {
    // Only where nothing is encrypted can files go out by sendfile.
    if head.uri.scheme() == Some(&Scheme::HTTPS) && around.transfer == Transfer::SendFile {
        return misdirected(head);
    }
    let site = around.sites.find(head);
    match head.method {
        Method::GET | Method::HEAD => {}
        Method::POST if site.shows_forms(head) => return site.answer(head, body, around).await,
        Method::OPTIONS => {
            let methods = if site.shows_forms(head) { METHODS_OF_A_FORM } else { METHODS };
            // RFC 9110 §9.3.7: what may be done; Content-Length 0 because there is no body.
            return Reply::new(StatusCode::OK, Body::Empty)
                .with(ALLOW, HeaderValue::from_static(methods))
                .with(CONTENT_LENGTH, HeaderValue::from(0));
        }
        _ => return wrong_method(head, if site.shows_forms(head) { METHODS_OF_A_FORM } else { METHODS }),
    }
    match site.recall(head.uri.path()) {
        Some(small) => site.small(head, around, &small),
        None => site.answer(head, body, around).await,
    }
}

/// A request in clear at the https port: where it should have gone. The connection ends, for a client that goes on like this tells
/// its secrets to everybody on the way.
pub(crate) fn misplaced(head: &Parts, local: SocketAddr) -> Reply {
    let field = head.headers.get(HOST).and_then(|field| field.to_str().ok());
    let host = head.uri.authority().map(http::uri::Authority::as_str).or(field).filter(|host| !host.is_empty());
    let url = match (host, local.port()) {
        (None, _) => format!("https://{local}"),
        (Some(host), 443) => format!("https://{host}"),
        // Whoever types a request by hand leaves the port out.
        (Some(host), port) if without_port(host.as_bytes()).len() == host.len() => format!("https://{host}:{port}"),
        (Some(host), _) => format!("https://{host}"),
    };
    let explanation = Explanation {
        status: StatusCode::BAD_REQUEST,
        title: reason_phrase(StatusCode::BAD_REQUEST).into(),
        asked: Some(head.uri.path().into()),
        looked_up: None,
        reason: "This is plain HTTP, and the port is for https: TLS first, and HTTP inside of it.".into(),
        rule: Some("RFC 9110 §4.2.2".into()),
        try_next: Some(format!("{url}{}", head.uri.path_and_query().map_or("/", |target| target.as_str())).into()),
    };
    Reply { after: After::Close, ..Reply::page(head, &explanation) }
}

/// RFC 9110 §7.4: "a request for an "https" resource MUST be rejected unless it has been received over a connection that
/// has been secured".
fn misdirected(head: &Parts) -> Reply {
    let explanation = Explanation {
        status: StatusCode::MISDIRECTED_REQUEST,
        title: "Misdirected Request".into(),
        asked: Some(head.uri.to_string().into()),
        looked_up: None,
        reason: "The target is an https URI, and this connection is not encrypted.".into(),
        rule: Some("RFC 9110 §7.4".into()),
        try_next: Some("connect to the https port".into()),
    };
    Reply::page(head, &explanation)
}

/// RFC 9110 §15.6.2: 501 for a method that nobody here knows; §15.5.6: 405 for one that is known and not allowed.
fn wrong_method(head: &Parts, methods: &'static str) -> Reply {
    let known = [Method::POST, Method::PUT, Method::DELETE, Method::TRACE, Method::PATCH, Method::CONNECT];
    let (status, reason, rule) = if known.contains(&head.method) {
        let reason = format!("{} is a method of HTTP, but not one that this server does.", head.method);
        (StatusCode::METHOD_NOT_ALLOWED, reason, "RFC 9110 §15.5.6")
    } else {
        let reason =
            format!("{} is not a method that this server knows; methods are written in capitals.", head.method);
        (StatusCode::NOT_IMPLEMENTED, reason, "RFC 9110 §15.6.2")
    };
    let explanation = Explanation {
        status,
        title: reason_phrase(status).into(),
        asked: Some(head.uri.to_string().into()),
        looked_up: None,
        reason: reason.into(),
        rule: Some(rule.into()),
        try_next: Some(format!("one of {methods}").into()),
    };
    Reply::page(head, &explanation).with(ALLOW, HeaderValue::from_static(methods))
}

impl Site {
    /// The small file that `path` leads to, if it is in memory and still what lies on the disk.
    fn recall(&self, path: &str) -> Option<Arc<Small>> {
        match self.memory.recall(path.as_bytes()) {
            Remembered::Fresh(small) => Some(small),
            Remembered::Stale(small) => {
                // The usual end of a second: the file is looked at and is the same. All else takes the long way.
                let same = |open: &OpenFile| open.stamp == small.entity.stamp && small.entity.is_settled();
                // Another index file may have come that is a link to the same file, and what is public under one name
                // need not be so under another.
                let is_public = |opened: &[u8]| {
                    let opened = format!("/{}", String::from_utf8_lossy(opened));
                    !self.is_denied(&opened) && self.protection(&opened).is_none()
                };
                if let Ok((Opened::File(open), opened)) = self.locate(path)
                    && same(&open)
                    && is_public(&opened)
                {
                    self.memory.confirm(&small);
                    return Some(small);
                }
                self.memory.forget(path.as_bytes());
                None
            }
            Remembered::Unknown => None,
        }
    }

    /// Opens what a plain path leads to, an index file included.
    fn locate(&self, path: &str) -> Result<(Opened, Vec<u8>), Missing> {
        let target = Target::parse(path).map_err(|_| Missing::NotFound)?;
        self.open(&target)
    }

    fn open(&self, target: &Target<'_>) -> Result<(Opened, Vec<u8>), Missing> {
        let opened = files::open(&self.root, &target.path)?;
        if matches!(opened, Opened::Directory(_)) && target.directory == Directory::Asked {
            for index in &self.index {
                let mut path = target.path.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(index.as_bytes());
                match files::open(&self.root, &path) {
                    Ok(file @ Opened::File(_)) => return Ok((file, path)),
                    Ok(Opened::Directory(_)) | Err(Missing::NotFound) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Ok((opened, target.path.to_vec()))
    }

    /// Whether the request is for a path that shows what forms send.
    fn shows_forms(&self, head: &Parts) -> bool {
        self.echoes.iter().any(|rule| covers(rule, head.uri.path()))
    }

    /// The long way, for everything that is not a small file in memory.
    async fn answer(&self, head: &Parts, body: &[u8], around: &Surroundings<'_>) -> Reply {
        let path_and_query = head.uri.path_and_query().map_or("/", |both| both.as_str());
        let target = match Target::parse(path_and_query) {
            Ok(target) => target,
            Err(fault) => {
                let explanation = Explanation {
                    status: fault.status(),
                    title: "Bad Request".into(),
                    asked: Some(path_and_query.into()),
                    looked_up: None,
                    reason: fault.explain().into(),
                    rule: Some(fault.rule().into()),
                    try_next: None,
                };
                return Reply::page(head, &explanation);
            }
        };
        let shown = shown(&target);
        if let Some(redirect) = self.redirects.iter().find(|rule| covers(&rule.from, &shown)) {
            let rest = shown.strip_prefix(&redirect.from).unwrap_or_default();
            let mut location = format!("{}{}", redirect.to, encode_path(rest.as_bytes()));
            if let Some(query) = target.query.filter(|_| !redirect.to.contains('?')) {
                location.extend(["?", query]);
            }
            return redirected(head, redirect.status, location);
        }
        let mut user = match self.admit(head, around, &shown).await {
            Ok(user) => user,
            Err(reply) => return *reply,
        };
        if let Some(rule) = self.answers.iter().find(|rule| covers(&rule.path, &shown)) {
            return as_told(head, &shown, rule);
        }
        if self.shows_forms(head) {
            let body = (head.method == Method::POST).then_some(body);
            let sent = form::Sent { path: &shown, query: target.query, body, fields: &head.headers };
            return echoed(head, &sent);
        }
        let opened = self.open(&target);
        // A rule about an index file holds for whoever asks for its directory too.
        if let Some(index) = opened.as_ref().ok().and_then(|(_, path)| index_of(&target, path)) {
            match self.admit(head, around, &index).await {
                Ok(same) => user = user.or(same),
                Err(reply) => return *reply,
            }
        }
        let mut reply = match opened {
            // No index file inside: the path itself, without its slash.
            Ok((Opened::File(_), path)) if target.directory == Directory::Asked && path == *target.path => {
                let reason = "The path ends with a slash, as if it were a directory, and it is a file.";
                self.problem(head, &shown, StatusCode::NOT_FOUND, reason, "RFC 9110 §15.5.5")
            }
            Ok((Opened::File(open), path)) => {
                let small = open.stamp.octets <= self.small_file_max && user.is_none();
                let entity = Entity::new(open.stamp, self.types.of(&path), SystemTime::now());
                if small { self.remember(head, around, open, entity) } else { self.file(head, around, open, &entity) }
            }
            Ok((Opened::Directory(_), _)) if target.directory == Directory::NotAsked => {
                // Links in the page are relative to the directory; without the slash they would lead beside it.
                redirected(head, config::RedirectStatus::MovedPermanently, target.redirect_location(Directory::Asked))
            }
            Ok((Opened::Directory(directory), _)) if self.listing => match files::list(&directory) {
                Ok(mut entries) => list(head, &target, &mut entries),
                Err(error) => self.missing(head, around, &shown, &target.path, &Missing::Other(error)),
            },
            Ok((Opened::Directory(_), _)) => {
                let reason = format!(
                    "This is a directory without an index file ({}), and listings are switched off.",
                    self.index.join(", ")
                );
                self.problem(head, &shown, StatusCode::FORBIDDEN, &reason, "RFC 9110 §15.5.4")
            }
            Err(missing) => self.missing(head, around, &shown, &target.path, &missing),
        };
        reply.user = user;
        reply
    }

    /// Holds a path against the rules: who may see it, if it is somebody with a password.
    async fn admit(&self, head: &Parts, around: &Surroundings<'_>, path: &str) -> Result<Option<String>, Box<Reply>> {
        if self.is_denied(path) {
            tracing::info!(peer = %around.peer, site = self.name, %path, "denied by configuration");
            let reason = "The page exists, but nobody has permission to see it: the server's configuration denies it.";
            return Err(Box::new(self.problem(head, path, StatusCode::FORBIDDEN, reason, "RFC 9110 §15.5.4")));
        }
        match self.protection(path) {
            // Boxed: each connection has room for this future, and few ever need it.
            Some(rule) => Box::pin(self.let_in(head, around, rule)).await.map(Some),
            None => Ok(None),
        }
    }

    fn is_denied(&self, path: &str) -> bool {
        self.denied.iter().any(|rule| covers(rule, path))
    }

    fn protection(&self, path: &str) -> Option<&Protect> {
        self.protected.iter().find(|rule| covers(&rule.path, path))
    }

    /// Reads a small file into memory and answers from there.
    fn remember(&self, head: &Parts, around: &Surroundings<'_>, mut open: OpenFile, entity: Entity) -> Reply {
        let usual = describe(Reply::new(StatusCode::OK, Body::Empty), &entity).response;
        let mut rendered = b"HTTP/1.1 200 OK\r\n".to_vec();
        shortcut::render(usual.headers(), &mut rendered);
        match self.memory.keep(head.uri.path().as_bytes(), &mut open.file, entity, rendered.into()) {
            Ok(small) => self.small(head, around, &small),
            Err(error) => self.missing(head, around, head.uri.path(), b"", &Missing::Other(error)),
        }
    }

    /// A small file from memory: the hot path.
    fn small(&self, head: &Parts, around: &Surroundings<'_>, small: &Arc<Small>) -> Reply {
        if is_conditional(&head.headers) {
            return self.represent(head, around, &small.entity, &Source::Memory(&small.octets));
        }
        let body = if head.method == Method::HEAD { Body::Empty } else { Body::Whole(small.octets.clone()) };
        describe(Reply::new(StatusCode::OK, body), &small.entity)
    }

    fn file(&self, head: &Parts, around: &Surroundings<'_>, open: OpenFile, entity: &Entity) -> Reply {
        self.represent(head, around, entity, &Source::Disk(Arc::new(open.file)))
    }

    /// Preconditions, then ranges, then all of it (RFC 9110 §13.2.2 and §14.2).
    fn represent(&self, head: &Parts, around: &Surroundings<'_>, entity: &Entity, source: &Source<'_>) -> Reply {
        let preconditions = Preconditions::parse(&head.headers);
        match preconditions.evaluate(&head.method, Some(&entity.validators)) {
            Precondition::Proceed => {}
            Precondition::NotModified(because) => {
                // RFC 9110 §15.4.5: the fields that a cache needs to refresh what it has, and no body.
                return Reply::new(StatusCode::NOT_MODIFIED, Body::Empty)
                    .with(ETAG, entity.validators.etag.header_value().clone())
                    .with(LAST_MODIFIED, entity.last_modified.clone())
                    .because(because.explain());
            }
            Precondition::Failed(because) => {
                let shown = head.uri.path();
                let reason = format!("The request had a condition that is not met: {}.", because.explain());
                return self.problem(head, shown, StatusCode::PRECONDITION_FAILED, &reason, "RFC 9110 §15.5.13");
            }
        }
        let (ranges, because) = match preconditions.range_applies(&head.method, &entity.validators) {
            RangeApplies::Yes => match Ranges::of(&head.headers, entity.stamp.octets) {
                Ranges::Whole(because) => (None, because.explain()),
                Ranges::Parts(parts) => (Some(parts), ""),
                Ranges::Unsatisfiable => {
                    let length = entity.stamp.octets;
                    let reason = format!("The range asked for begins behind the end: there are {length} octets.");
                    let status = StatusCode::RANGE_NOT_SATISFIABLE;
                    return self
                        .problem(head, head.uri.path(), status, &reason, "RFC 9110 §15.5.17")
                        .with(CONTENT_RANGE, range::unsatisfied_content_range(length));
                }
            },
            RangeApplies::No(because) => (None, because.explain()),
        };
        let asked_for_range = head.headers.contains_key(RANGE);
        match ranges {
            None => {
                let length = entity.stamp.octets;
                let body = source.body(head, around, vec![PartOf::Entity(0, length)]);
                let reply = describe(Reply::new(StatusCode::OK, body), entity);
                if asked_for_range { reply.because(because) } else { reply }
            }
            Some(parts) => partial(head, around, entity, source, &parts),
        }
    }

    /// A page about something that went wrong at a path.
    fn problem(&self, head: &Parts, asked: &str, status: StatusCode, reason: &str, rule: &'static str) -> Reply {
        let explanation = Explanation {
            status,
            title: reason_phrase(status).into(),
            asked: Some(asked.into()),
            looked_up: Some(
                format!("{} below the document root of {}", asked.trim_start_matches('/'), self.name).into(),
            ),
            reason: reason.into(),
            rule: Some(rule.into()),
            try_next: try_next(status).map(Into::into),
        };
        Reply::page(head, &explanation)
    }

    fn missing(&self, head: &Parts, around: &Surroundings<'_>, asked: &str, path: &[u8], missing: &Missing) -> Reply {
        let (status, rule) = match missing {
            Missing::NotFound | Missing::ThroughFile | Missing::NameTooLong => {
                (StatusCode::NOT_FOUND, "RFC 9110 §15.5.5")
            }
            Missing::Forbidden | Missing::Escapes | Missing::Circle | Missing::NotRegular => {
                (StatusCode::FORBIDDEN, "RFC 9110 §15.5.4")
            }
            Missing::TooManyOpen => (StatusCode::SERVICE_UNAVAILABLE, "RFC 9110 §15.6.4"),
            Missing::Root(_) | Missing::Other(_) => (StatusCode::INTERNAL_SERVER_ERROR, "RFC 9110 §15.6.1"),
        };
        let looked_up = files::shown(&self.root, path);
        // Ours to mend: tell the admin everything, the client that it is our fault.
        let reason = if status.is_server_error() {
            tracing::error!(path = looked_up, error = %missing, "cannot serve");
            "The server has a problem with this file; its log says which.".to_owned()
        } else {
            if status == StatusCode::FORBIDDEN {
                tracing::warn!(peer = %around.peer, path = looked_up, reason = %missing, "refused");
            }
            let text = missing.to_string();
            let mut letters = text.chars();
            letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
        };
        self.problem(head, asked, status, &reason, rule)
    }

    /// RFC 7617: who comes with the right password may pass; everybody else gets a challenge.
    async fn let_in(&self, head: &Parts, around: &Surroundings<'_>, rule: &Protect) -> Result<String, Box<Reply>> {
        let credentials = head.headers.get(AUTHORIZATION).and_then(|value| basic(value.as_bytes()));
        let reason = match credentials {
            None if head.headers.contains_key(AUTHORIZATION) => {
                "The credentials are not of the Basic scheme: base64 of user:password."
            }
            None => "This page asks for a user and a password.",
            Some((user, secret)) => match around.accounts.verify(&user, &secret, around.peer, Instant::now()).await {
                Verdict::Welcome if rule.users.is_empty() || rule.users.contains(&user) => return Ok(user),
                Verdict::Welcome => {
                    let reason = format!("{user} is known here, but this page is for others.");
                    let reply = self.problem(head, &rule.path, StatusCode::FORBIDDEN, &reason, "RFC 9110 §15.5.4");
                    return Err(Box::new(reply));
                }
                Verdict::Denied { because, pause } => {
                    tracing::info!(peer = %around.peer, user, ?because, "login failed");
                    // Who guesses waits for the answer.
                    tokio::time::sleep(pause).await;
                    "User or password is wrong."
                }
                Verdict::TooSoon { wait } => return Err(Box::new(self.too_soon(head, &rule.path, wait))),
                Verdict::CannotTell => {
                    let (status, reason) =
                        (StatusCode::SERVICE_UNAVAILABLE, "The password cannot be checked at the moment.");
                    return Err(Box::new(self.problem(head, &rule.path, status, reason, "RFC 9110 §15.6.4")));
                }
            },
        };
        // RFC 7617 §2.1: charset tells the client to send UTF-8. A quote in the realm would end it early.
        let challenge = format!("Basic realm=\"{}\", charset=\"UTF-8\"", rule.realm.replace(['"', '\\'], "'"));
        let challenge = HeaderValue::try_from(challenge).unwrap_or(HeaderValue::from_static("Basic realm=\"tomte\""));
        let page = self.problem(head, &rule.path, StatusCode::UNAUTHORIZED, reason, "RFC 9110 §15.5.2");
        Err(Box::new(page.with(WWW_AUTHENTICATE, challenge)))
    }

    fn too_soon(&self, head: &Parts, path: &str, wait: Duration) -> Reply {
        let seconds = wait.as_secs() + 1;
        let reason = format!("Wrong passwords came from your address; the next try may be in {seconds} seconds.");
        self.problem(head, path, StatusCode::TOO_MANY_REQUESTS, &reason, "RFC 6585 §4")
            .with(RETRY_AFTER, HeaderValue::from(seconds))
    }
}

/// `Basic` SP base64(user ":" password), RFC 7617 §2.
fn basic(field: &[u8]) -> Option<(String, Vec<u8>)> {
    let space = field.iter().position(|octet| *octet == b' ')?;
    let (scheme, token) = (&field[..space], field[space..].trim_ascii());
    if !scheme.eq_ignore_ascii_case(b"Basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(token).ok()?;
    let colon = decoded.iter().position(|octet| *octet == b':')?;
    Some((String::from_utf8(decoded[..colon].to_vec()).ok()?, decoded[colon + 1..].to_vec()))
}

fn try_next(status: StatusCode) -> Option<&'static str> {
    match status {
        StatusCode::NOT_FOUND => Some("check the spelling (capital and small letters differ), or begin at /"),
        StatusCode::UNAUTHORIZED => Some("send `Authorization: Basic` and the base64 of user:password"),
        StatusCode::PRECONDITION_FAILED => Some("fetch the present version first"),
        StatusCode::RANGE_NOT_SATISFIABLE => Some("ask for a range that begins before the end"),
        _ => None,
    }
}

/// Whether any field makes more of the request than a plain fetch. One pass over the names is cheaper than six lookups.
fn is_conditional(fields: &HeaderMap) -> bool {
    fields.keys().any(|name| name.as_str().starts_with("if-") || *name == RANGE)
}

/// The fields that describe a file.
fn describe(mut reply: Reply, entity: &Entity) -> Reply {
    let fields = reply.response.headers_mut();
    fields.insert(CONTENT_TYPE, entity.content_type.clone());
    fields.insert(CONTENT_LENGTH, entity.content_length.clone());
    fields.insert(LAST_MODIFIED, entity.last_modified.clone());
    fields.insert(ETAG, entity.validators.etag.header_value().clone());
    fields.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    reply
}

/// 206: one part as itself, several as multipart/byteranges (RFC 9110 §15.3.7).
fn partial(
    head: &Parts,
    around: &Surroundings<'_>,
    entity: &Entity,
    source: &Source<'_>,
    parts: &[range::Part],
) -> Reply {
    let length = entity.stamp.octets;
    if let [part] = parts {
        let body = source.body(head, around, vec![PartOf::Entity(part.range().start, part.octets())]);
        return describe(Reply::new(StatusCode::PARTIAL_CONTENT, body), entity)
            .with(CONTENT_LENGTH, HeaderValue::from(part.octets()))
            .with(CONTENT_RANGE, part.content_range(length));
    }
    // The boundary only has to be one that nobody could have foreseen when the file was written.
    let half = || u128::from(RandomState::new().hash_one(entity.stamp.octets));
    let multipart = Multipart::new(parts, length, &entity.content_type, Boundary::new(half() << 64 | half()));
    let mut pieces = vec![];
    for (part_head, part) in multipart.heads().iter().zip(parts) {
        pieces.push(PartOf::Text(part_head.clone().into()));
        pieces.push(PartOf::Entity(part.range().start, part.octets()));
    }
    pieces.push(PartOf::Text(multipart.end().into()));
    describe(Reply::new(StatusCode::PARTIAL_CONTENT, source.body(head, around, pieces)), entity)
        .with(CONTENT_LENGTH, HeaderValue::from(multipart.content_length()))
        .with(CONTENT_TYPE, multipart.content_type())
}

/// Where the octets of an entity come from.
enum Source<'a> {
    Memory(&'a Bytes),
    Disk(Arc<std::fs::File>),
}

/// What a body is made of, in order.
enum PartOf {
    Text(Bytes),
    /// Offset and octets.
    Entity(u64, u64),
}

impl Source<'_> {
    fn body(&self, head: &Parts, around: &Surroundings<'_>, parts: Vec<PartOf>) -> Body {
        if head.method == Method::HEAD {
            return Body::Empty;
        }
        match self {
            Source::Memory(octets) => {
                let cut = |offset: u64, length: u64| octets.slice(offset as usize..(offset + length) as usize);
                if let [PartOf::Entity(offset, length)] = parts[..] {
                    return Body::Whole(cut(offset, length));
                }
                // Several parts of a small file: one piece of memory is simplest.
                let joined = parts.iter().fold(Vec::new(), |mut joined, part| {
                    match part {
                        PartOf::Text(text) => joined.extend_from_slice(text),
                        PartOf::Entity(offset, length) => joined.extend_from_slice(&cut(*offset, *length)),
                    }
                    joined
                });
                Body::Whole(joined.into())
            }
            Source::Disk(file) => {
                let pieces: VecDeque<Piece> = parts
                    .into_iter()
                    .map(|part| match part {
                        PartOf::Text(text) => Piece::Text(text),
                        PartOf::Entity(offset, octets) => Piece::File { offset, octets },
                    })
                    .collect();
                Body::pieces(Arc::clone(file), around.transfer, Arc::clone(around.link), pieces)
            }
        }
    }
}

fn redirected(head: &Parts, status: config::RedirectStatus, location: String) -> Reply {
    let status = StatusCode::from_u16(status.into()).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let explanation = Explanation {
        status,
        title: reason_phrase(status).into(),
        asked: Some(head.uri.path().into()),
        looked_up: None,
        reason: format!("It is at {location}").into(),
        rule: Some("RFC 9110 §15.4".into()),
        try_next: Some("follow the Location field; browsers do it by themselves (curl: -L)".into()),
    };
    let page = Reply::page(head, &explanation);
    // What is not ASCII was percent-encoded, and the configuration's part was checked at the start.
    match HeaderValue::try_from(location) {
        Ok(location) => page.with(LOCATION, location),
        Err(_) => page,
    }
}

fn list(head: &Parts, target: &Target<'_>, entries: &mut [listing::Entry]) -> Reply {
    let sort = Sort::from_query(target.query);
    let (content_type, text) = match Form::wanted(&head.headers) {
        form @ Form::Json => (form.content_type(), listing::json(&target.path, entries, sort)),
        // Without an Accept field a list of links is still what one comes for.
        Form::Html | Form::Text => (Form::Html.content_type(), listing::html(&target.path, entries, sort)),
    };
    let length = HeaderValue::from(text.len());
    let body = if head.method == Method::HEAD { Body::Empty } else { Body::Whole(text.into()) };
    Reply::new(StatusCode::OK, body)
        .with(CONTENT_TYPE, content_type)
        .with(CONTENT_LENGTH, length)
        .with(VARY, HeaderValue::from_static("Accept"))
        .because("the directory has no index file: here is what is in it")
}
