//! One connection: the gate, hyper, and what every answer has in common.

use crate::{
    Scheme,
    accesslog::{self, Entry},
    body::{Body, Transfer},
    config::Config,
    form,
    gate::{FirstOctets, Gate, Link, Stream, Waits},
    head::Limits,
    log::{Log, Ticket},
    origin::{self, After, Reply, Sites, Surroundings},
    page,
    refusal::Refusal,
    shortcut::{self, DateLine, Fetch, title_case},
};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, REFERER, SERVER, USER_AGENT},
    request::Parts,
};
use hyper::{body::Incoming, ext::ReasonPhrase, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use prometheus_client::metrics::counter::Counter;
use shared::{
    Shared,
    counted::Counted,
    tls,
    transcript::{Conversation, Kind, Transport, readable},
};
use std::{
    borrow::Cow,
    convert::Infallible,
    future::poll_fn,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{io::AsyncWrite, net::TcpStream};
use tokio_util::sync::CancellationToken;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What all connections of one worker share.
#[derive(Debug)]
pub(crate) struct Serving {
    shared: Shared,
    /// Replaced as a whole at a reload; a request that has begun keeps the sites that it began with.
    sites: RwLock<Arc<Sites>>,
    log: Option<Arc<Log>>,
    limits: Limits,
    waits: Waits,
    keep_alive_max: u64,
    keep_alive: HeaderValue,
    /// What [`Serving::common_fields`] gives for each [`Word`], as it is sent.
    common: [Box<[u8]>; 3],
    date: Mutex<DateLine>,
    body_octets_max: u64,
    http: http1::Builder,
    counters: Counters,
}

#[derive(Debug)]
struct Counters {
    /// By the first digit of the status, from 2xx.
    responses: [Counter; 4],
    octets_sent: Counter,
    handshakes_failed: Counter,
}

impl Serving {
    pub(crate) fn new(config: &Config, sites: Sites, log: Option<Arc<Log>>, shared: &Shared) -> Self {
        let mut http = http1::Builder::new();
        // A client may finish sending (nc -N) and still read.
        http.half_close(true).title_case_headers(true).max_headers(config.fields_max);
        let class = |class| shared.metrics.labelled("responses", "Responses by status class", &[("class", class)]);
        let mut serving = Self {
            sites: RwLock::new(Arc::new(sites)),
            log,
            limits: Limits {
                target_octets: config.target_octets_max.octets(),
                head_octets: config.head_octets_max.octets(),
                fields: config.fields_max,
            },
            waits: Waits {
                idle: config.keep_alive_timeout.0,
                head: config.head_timeout.0,
                body: config.body_timeout.0,
                send: config.send_timeout.0,
            },
            keep_alive_max: config.keep_alive_max.max(1),
            keep_alive: keep_alive(config.keep_alive_timeout.0, config.keep_alive_max.max(1)),
            common: Default::default(),
            date: Mutex::new(DateLine::new()),
            body_octets_max: config.body_octets_max.0,
            http,
            counters: Counters {
                responses: [class("2xx"), class("3xx"), class("4xx"), class("5xx")],
                octets_sent: shared.metrics.counter("octets_sent", "Octets sent, heads included"),
                handshakes_failed: shared.metrics.counter("tls_handshakes_failed", "TLS handshakes that failed"),
            },
            shared: shared.clone(),
        };
        serving.common = [Word::Close, Word::KeepAlive, Word::Nothing].map(|word| {
            let (mut fields, mut rendered) = (HeaderMap::new(), vec![]);
            serving.common_fields(word, &mut fields);
            shortcut::render(&fields, &mut rendered);
            rendered.into()
        });
        serving
    }

    /// The fields that all answers have in common, but for `Date`, which is written last of all.
    fn common_fields(&self, word: Word, fields: &mut HeaderMap) {
        fields.insert(SERVER, HeaderValue::from_static("tomte"));
        match word {
            Word::Close => {
                fields.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Word::KeepAlive => {
                fields.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
                fields.insert(KEEP_ALIVE, self.keep_alive.clone());
            }
            Word::Nothing => {}
        }
    }

    /// New sites from here on, and a new log file (logrotate has moved the old one).
    pub(crate) fn reload(&self, sites: Sites) {
        *self.sites.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(sites);
        if let Some(log) = &self.log {
            log.reopen();
        }
    }

    fn date(&self) -> MutexGuard<'_, DateLine> {
        self.date.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sites(&self) -> Arc<Sites> {
        Arc::clone(&self.sites.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves a connection until it ends; at `shutdown` it ends after the request in hand.
    pub(crate) async fn connection(
        &self,
        tcp: TcpStream,
        listener: SocketAddr,
        peer: SocketAddr,
        tls: Option<&tls::Acceptor>,
        shutdown: CancellationToken,
    ) {
        // A dual-stack socket shows IPv4 peers as ::ffff:a.b.c.d; people know them as a.b.c.d.
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let peer = canonical(peer);
        // The listener's address is ours too, unless it stands for all of the machine's.
        let local = if listener.ip().is_unspecified() { tcp.local_addr().unwrap_or(listener) } else { listener };
        let local = canonical(local);
        let conversation = self.shared.transcript.conversation(Transport::Tcp, local, peer);
        conversation.opened();
        match tls {
            None => self.speak_http(Stream::Plain(tcp), &conversation, Scheme::Http, shutdown).await,
            // Boxed: connections in the clear need not have room for a handshake.
            Some(acceptor) => Box::pin(self.speak_https(tcp, conversation.clone(), acceptor, shutdown)).await,
        }
        conversation.closed();
    }

    async fn speak_https(
        &self,
        tcp: TcpStream,
        mut conversation: Conversation,
        acceptor: &tls::Acceptor,
        shutdown: CancellationToken,
    ) {
        let handshake = async {
            // Whoever has forgotten the s in https is told so, in clear: it could not read anything else.
            let mut first = [0];
            let wait = tokio::time::timeout(self.waits.head, tcp.peek(&mut first)).await;
            if matches!(wait, Ok(Ok(1))) && !tls::begins(&first) {
                return Ok(Stream::Plain(tcp));
            }
            let encrypted = acceptor.accept(Counted::new(tcp), self.waits.head, conversation.id()).await;
            encrypted.map(|stream| Stream::Tls(Box::new(stream)))
        };
        match shutdown.run_until_cancelled(handshake).await {
            Some(Ok(stream)) => {
                if let Stream::Tls(_) = stream {
                    conversation.now_encrypted();
                } else {
                    self.counters.handshakes_failed.inc();
                }
                self.speak_http(stream, &conversation, Scheme::Https, shutdown).await;
            }
            Some(Err(failed)) => {
                self.counters.handshakes_failed.inc();
                conversation.note(&failed.to_string());
            }
            None => {}
        }
    }

    async fn speak_http(
        &self,
        stream: Stream,
        conversation: &Conversation,
        scheme: Scheme,
        shutdown: CancellationToken,
    ) {
        let transfer = match stream {
            Stream::Plain(_) => Transfer::SendFile,
            Stream::Tls(_) => Transfer::Read,
        };
        let link = Arc::new(Link::default());
        let mut gate = Gate::new(stream, Arc::clone(&link), conversation.clone(), self.limits, self.waits);
        let answered = AtomicU64::new(0);
        let tally = Default::default();
        let exchange = Exchange {
            tally,
            serving: self,
            conversation,
            link: &link,
            scheme,
            transfer,
            shutdown: &shutdown,
            answered,
        };
        loop {
            // hyper's buffers are for connections that have something to say.
            let shortcut = |fetch: &Fetch<'_>| exchange.fetch(fetch);
            match shutdown.run_until_cancelled(poll_fn(|cx| gate.poll_first_octets(cx, shortcut))).await {
                Some(FirstOctets::Came) => {}
                Some(FirstOctets::Answered(after)) => {
                    if poll_fn(|cx| gate.poll_sent(cx)).await.is_err() {
                        break;
                    }
                    if after == After::Stay {
                        continue;
                    }
                    // As hyper does after its last answer.
                    let _ = poll_fn(|cx| pin!(&mut gate).poll_shutdown(cx)).await;
                    break;
                }
                Some(FirstOctets::Rest) => {
                    exchange.settle_tally();
                    continue;
                }
                Some(FirstOctets::NeverCame) | None => break,
            }
            let service = service_fn(|request| exchange.answer(request));
            // Boxed, so that who waits at the gate has no room for it.
            let mut http = Box::pin(self.http.serve_connection(TokioIo::new(&mut gate), service));
            let result = tokio::select! {
                biased;
                result = http.as_mut() => result,
                () = shutdown.cancelled() => {
                    http.as_mut().graceful_shutdown();
                    http.await
                }
            };
            if let Err(error) = result {
                // The client has gone, or did not take or send anything in time: nobody is left to be told.
                tracing::debug!(connection = conversation.id(), %error, "connection ended");
            }
            exchange.settle_tally();
            if !gate.take_parked() {
                break;
            }
        }
        exchange.settle_tally();
        self.counters.octets_sent.inc_by(link.sent());
    }
}

/// What an answer says about its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It ends here.
    Close,
    /// It stays, and this is how long and for how many requests.
    KeepAlive,
    /// HTTP/1.1 stays open without a word.
    Nothing,
}

/// The requests of one connection, one after the other.
struct Exchange<'a> {
    /// Responses by class that are not in the counters yet, which all workers share.
    tally: [AtomicU64; 4],
    serving: &'a Serving,
    conversation: &'a Conversation,
    link: &'a Arc<Link>,
    /// What belongs to this port.
    scheme: Scheme,
    transfer: Transfer,
    shutdown: &'a CancellationToken,
    answered: AtomicU64,
}

/// How often a busy connection adds its responses to the counters. One that rests or ends does it at once.
const TALLY_EVERY: u64 = 256;

impl Exchange<'_> {
    /// Whether the client speaks in clear where TLS comes first.
    fn is_misplaced(&self) -> bool {
        self.scheme == Scheme::Https && self.transfer == Transfer::SendFile
    }

    fn settle_tally(&self) {
        for (counter, tally) in self.serving.counters.responses.iter().zip(&self.tally) {
            let count = tally.swap(0, Ordering::Relaxed);
            if count > 0 {
                counter.inc_by(count);
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let number = self.answered.fetch_add(1, Ordering::Relaxed);
        let began = self.serving.log.as_ref().map(|_| Instant::now());
        let (mut head, body) = request.into_parts();
        let reply = match self.link.refusal(number) {
            Some(refused) => {
                // What hyper has parsed is only a stand-in: what is logged is what was really sent.
                head.headers = HeaderMap::new();
                head.extensions.insert(AsSent(refused.line));
                Reply::refused(&head, &refused.refusal)
            }
            None => match self.take_body(&head, body).await {
                Ok(_) if self.is_misplaced() => origin::misplaced(&head, self.conversation.local()),
                Ok(body) => {
                    let around = Surroundings {
                        sites: &self.serving.sites(),
                        accounts: &self.serving.shared.accounts,
                        peer: self.conversation.remote().ip(),
                        transfer: self.transfer,
                        link: self.link,
                    };
                    origin::answer(&head, &body, &around).await
                }
                Err(reply) => *reply,
            },
        };
        Ok(self.finish(&head, reply, number, began))
    }

    /// Reads the request's body, so that the next request can be found behind it. Few have a use for what it says: those that show forms
    /// get its beginning.
    async fn take_body(&self, head: &Parts, mut body: Incoming) -> Result<Vec<u8>, Box<Reply>> {
        use http_body::Body as _;
        let refused = |refusal: Refusal| Box::new(Reply::refused(head, &refusal));
        if let Some(expectation) = head.headers.get(EXPECT)
            && !expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
        {
            return Err(refused(Refusal::UnknownExpectation { expectation: expectation.as_bytes().into() }));
        }
        if body.is_end_stream() {
            return Ok(vec![]);
        }
        let limit = self.serving.body_octets_max;
        if body.size_hint().lower() > limit {
            return Err(refused(Refusal::BodyTooLarge { limit }));
        }
        let (mut taken, mut kept) = (0, vec![]);
        let kept_max = if self.serving.sites().wants_body(head) { form::OCTETS_MAX } else { 0 };
        loop {
            // Asking for the first frame makes hyper send the `100 Continue` that the client may be waiting for.
            match poll_fn(|cx| pin!(&mut body).poll_frame(cx)).await {
                None => return Ok(kept),
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
                    taken += data.len() as u64;
                    kept.extend_from_slice(&data[..data.len().min(kept_max - kept.len())]);
                    if taken > limit {
                        return Err(refused(Refusal::BodyTooLarge { limit }));
                    }
                }
                Some(Err(error)) => {
                    let fault = self.link.body_fault().unwrap_or_else(|| {
                        if is_timeout(&error) {
                            Refusal::BodyTimeout { after: self.serving.waits.body }
                        } else {
                            Refusal::BodyCutOff
                        }
                    });
                    return Err(refused(fault));
                }
            }
        }
    }

    /// What the `number`th answer says about the connection, if `after` is what it and the client want.
    fn word(&self, after: After, number: u64, version: Version) -> Word {
        let last = number + 1 >= self.serving.keep_alive_max;
        if after == After::Close || last || self.shutdown.is_cancelled() {
            Word::Close
        } else if number == 0 || version == Version::HTTP_10 {
            // What this connection may be used for (RFC 2068 §19.7.1), told once. A client of HTTP/1.1 does not need it,
            // one of HTTP/1.0 needs to hear with each answer that the connection stays.
            Word::KeepAlive
        } else {
            Word::Nothing
        }
    }

    fn count(&self, status: StatusCode, number: u64) {
        let class = usize::from(status.as_u16() / 100).clamp(2, 5) - 2;
        self.tally[class].fetch_add(1, Ordering::Relaxed);
        if number % TALLY_EVERY == TALLY_EVERY - 1 {
            self.settle_tally();
        }
    }

    /// The answer to a plain fetch, if what it fetches is in memory. See [`shortcut`].
    fn fetch(&self, fetch: &Fetch<'_>) -> Option<shortcut::Answer> {
        if self.is_misplaced() {
            return None;
        }
        let began = self.serving.log.as_ref().map(|_| Instant::now());
        let path = std::str::from_utf8(fetch.path()).ok()?;
        // Where nothing follows hyper writes the length last, so that is left to it.
        let small = self.serving.sites().recall(fetch.host(), path).filter(|small| !small.octets.is_empty())?;
        let number = self.answered.fetch_add(1, Ordering::Relaxed);
        let word = self.word(fetch.after(), number, Version::HTTP_11);
        let after = if word == Word::Close { After::Close } else { After::Stay };
        let common = &self.serving.common[word as usize];
        let now = SystemTime::now();
        let answer = {
            let mut date = self.serving.date();
            shortcut::Answer::new(&small, fetch.method, common, date.at(now), after)
        };
        self.count(StatusCode::OK, number);
        if let (Some(log), Some(began)) = (&self.serving.log, began) {
            let (method, octets) = match fetch.method {
                shortcut::Method::Get => (&b"GET"[..], small.octets.len() as u64),
                shortcut::Method::Head => (&b"HEAD"[..], 0),
            };
            log.write(&Entry {
                remote: self.conversation.remote().ip(),
                user: None,
                time: now,
                method,
                target: fetch.target(),
                version: b"HTTP/1.1",
                status: StatusCode::OK.as_u16(),
                head_octets: answer.head_octets as u64,
                octets,
                referer: fetch.referer(),
                user_agent: fetch.user_agent(),
                host: Some(fetch.host()),
                micros: began.elapsed().as_micros() as u64,
                connection: self.conversation.id(),
            });
        }
        Some(answer)
    }

    /// What all answers have in common: who we are, what becomes of the connection, log, counters, transcript.
    fn finish(&self, head: &Parts, reply: Reply, number: u64, began: Option<Instant>) -> Response<Body> {
        let Reply { mut response, after, because, user } = reply;
        let after = if wants_to_stay(head) { after } else { After::Close };
        self.serving.common_fields(self.word(after, number, head.version), response.headers_mut());
        // hyper would add it on the way out, where nobody sees it.
        response.headers_mut().insert(DATE, self.serving.date().value(SystemTime::now()));
        if response.status() == StatusCode::PAYLOAD_TOO_LARGE {
            response.extensions_mut().insert(ReasonPhrase::from_static(page::CONTENT_TOO_LARGE.as_bytes()));
        }
        self.count(response.status(), number);
        if let (Some(log), Some(began)) = (&self.serving.log, began) {
            self.log(log, head, &mut response, user, began);
        }
        if self.conversation.is_heard() {
            if !because.is_empty() {
                self.conversation.note(&because);
            }
            report(self.conversation, head, &response);
        }
        response
    }

    fn log(&self, log: &Arc<Log>, head: &Parts, response: &mut Response<Body>, user: Option<String>, began: Instant) {
        let field = |name| head.headers.get(name).map(HeaderValue::as_bytes);
        let remote = self.conversation.remote().ip();
        let status = response.status();
        let head_octets = head_octets(response) as u64;
        let RequestLine { method, target, version } = RequestLine::of(head);
        if let Body::Pieces(_) = response.body() {
            let owned = |name| field(name).map(<[u8]>::to_vec);
            let ticket = Ticket {
                log: Arc::clone(log),
                began,
                remote,
                user,
                method: method.to_vec(),
                target: target.into_owned(),
                version: head.version,
                status,
                head_octets,
                referer: owned(REFERER),
                user_agent: owned(USER_AGENT),
                host: owned(HOST),
                connection: self.conversation.id(),
            };
            response.body_mut().log_when_sent(ticket);
            return;
        }
        log.write(&Entry {
            remote,
            user: user.as_deref(),
            time: SystemTime::now(),
            method,
            target: &target,
            version,
            status: status.as_u16(),
            head_octets,
            octets: response.body().octets(),
            referer: field(REFERER),
            user_agent: field(USER_AGENT),
            host: field(HOST),
            micros: began.elapsed().as_micros() as u64,
            connection: self.conversation.id(),
        });
    }
}

/// The request line of a refused request, kept with the head that stands in for it.
#[derive(Clone, Debug)]
struct AsSent(Box<[u8]>);

/// A request line as the log writes it: the three parts as they were sent, as far as they can be told apart.
struct RequestLine<'a> {
    method: &'a [u8],
    target: Cow<'a, [u8]>,
    version: &'a [u8],
}

impl<'a> RequestLine<'a> {
    fn of(head: &'a Parts) -> Self {
        if let Some(AsSent(line)) = head.extensions.get() {
            let space = |octet: &u8| *octet == b' ';
            let cut =
                |line: &'a [u8], at: Option<usize>| at.map_or((line, &b""[..]), |at| (&line[..at], &line[at + 1..]));
            let (method, rest) = cut(line, line.iter().position(space));
            let (target, version) = cut(rest, rest.iter().rposition(space));
            return Self { method, target: Cow::Borrowed(target), version };
        }
        let target = match (head.uri.authority(), head.uri.path_and_query()) {
            (None, Some(origin_form)) => Cow::Borrowed(origin_form.as_str().as_bytes()),
            _ => Cow::Owned(head.uri.to_string().into_bytes()),
        };
        Self { method: head.method.as_str().as_bytes(), target, version: accesslog::version(head.version).as_bytes() }
    }
}

/// hyper wraps what the gate said.
fn is_timeout(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

/// RFC 9112 §9.3: HTTP/1.1 stays unless it says `close`, HTTP/1.0 goes unless it says `keep-alive`, and `close` counts first.
fn wants_to_stay(head: &Parts) -> bool {
    let says = |word: &str| {
        head.headers.get_all(CONNECTION).iter().any(|line| {
            line.as_bytes()
                .split(|octet| *octet == b',')
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    match head.version {
        Version::HTTP_10 => says("keep-alive") && !says("close"),
        _ => !says("close"),
    }
}

/// `timeout=5, max=100`
fn keep_alive(timeout: Duration, max: u64) -> HeaderValue {
    HeaderValue::try_from(format!("timeout={}, max={max}", timeout.as_secs())).expect("digits and plain words")
}

/// Shows a response head in the transcript.
fn report(conversation: &Conversation, head: &Parts, response: &Response<Body>) {
    let status = response.status();
    let line = format!("{} {} {}", accesslog::version(head.version), status.as_u16(), page::reason_phrase(status));
    // hyper writes the length of nothing last.
    let is_last =
        |name: &HeaderName| *name == CONTENT_LENGTH && head.method != Method::HEAD && response.body().octets() == 0;
    let (last, fields): (Vec<_>, Vec<_>) = response.headers().iter().partition(|(name, _)| is_last(name));
    let fields = fields.into_iter().chain(last);
    let fields = fields.map(|(name, value)| format!("{}: {}", title_case(name.as_str()), readable(value.as_bytes())));
    conversation.head(Kind::Server, line, fields.collect(), head_octets(response), Some(response.body().octets()));
}

/// What the head of a response takes on the wire. All its fields are there: hyper adds none.
fn head_octets(response: &Response<Body>) -> usize {
    let line = "HTTP/1.1 200 ".len() + page::reason_phrase(response.status()).len() + "\r\n".len();
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    line + response.headers().iter().map(field).sum::<usize>() + "\r\n".len()
}
