//! Looking into a running daemon: a small HTTP service on a Unix socket, and on TCP addresses if asked for.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200 when every daemon of this process serves, 503 while one starts or stops |
//! | `/metrics` | counters, as Prometheus reads them |
//! | `/status` | JSON: daemons, hosts, addresses, since when |
//! | `/events` | server-sent events: the transcript, what is remembered and then live; `?daemon=web&host=www.someschool.edu&connection=7` narrows it |
//! | `/events?past` | only what is remembered; it ends there |
//! | `/cache` | what caches hold, one line for each entry; `?host=resolver.crepes.fr` only one |
//! | `POST /cache/NAME` | makes caches forget NAME and all below it; `.` is everything |
//! | `/queue` | what waits to be delivered; `/queue/show/ID` one message of it |
//! | `POST /queue/ACTION/ID` | `flush`, `hold`, `release` or `delete` a message; `all` for every one |
//! | `POST /host/stop/NAME` | switches a host of the lab off; `start` on again; JSON: how it fared |
//! | `POST /reload` | tells daemons to read their files anew, `?daemon=dns&host=ns.crepes.fr` only some, `?daemon=accounts` the accounts; JSON: how each fared |
//!
//! GET only shows. Transcripts hold what users say, so the socket is readable by its owner and group only, and
//! no TCP address is open by default. Over TCP nothing can be changed: any page in a browser could send a POST there.

use crate::{
    metrics::Registers,
    transcript::{Event, Heard, Hub},
};
use http_body_util::{BodyExt, Full, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The `[admin]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The Unix socket. Without this key: `admin.sock` in systemd's runtime directory, or none.
    pub socket: Option<PathBuf>,
    /// TCP addresses as well, for Prometheus or a console on another host. Who can connect can read every transcript.
    pub listen: Vec<SocketAddr>,
}

/// More than people and monitors need; a flood of connections stops here.
const CONNECTIONS_MAX: usize = 64;
/// A head that has not come by then will not come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A comment line this often, so that a listener whose peer has died finds out, and proxies do not hang up.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(15);

/// One daemon of this process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `web`, `smtp` ...
    pub daemon: String,
    /// The lab host or machine.
    pub host: String,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// Whether it serves already.
    pub state: State,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub since: u64,
}

/// Where a daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its sockets are not bound yet.
    Starting,
    /// It serves.
    Serving,
    /// It says goodbye.
    Stopping,
    /// Its host was switched off.
    Stopped,
}

/// What is done to a host of the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Off: its daemons say goodbye.
    Stop,
    /// On again, with what its disk has kept.
    Start,
}

impl Switch {
    /// `/host/stop/www.someschool.edu` and its like.
    fn parse(path: &str) -> Option<(Self, &str)> {
        let (action, host) = path.strip_prefix("/host/")?.split_once('/')?;
        match action {
            "stop" => Some((Self::Stop, host)),
            "start" => Some((Self::Start, host)),
            _ => None,
        }
    }
}

/// How a host fared that was switched on or off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Switched {
    /// The host.
    pub host: String,
    /// Why it was not.
    pub problem: Option<String>,
}

/// How a daemon fared that was told to read its files anew.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reloaded {
    /// `web`, `dns` ...
    pub daemon: String,
    /// The lab host or machine.
    pub host: String,
    /// What was wrong, and stays as it was for that.
    pub problem: Option<String>,
    /// What was taken, and is doubtful.
    pub doubts: Vec<String>,
}

/// What a daemon says about its cache or its queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// `dns`, `web` ...
    pub daemon: String,
    /// The lab host or machine.
    pub host: String,
    /// One line for each entry, or what was done.
    pub lines: Vec<String>,
}

/// What is asked of a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheQuestion {
    /// What it holds.
    List,
    /// To forget this name, and all below it.
    Purge(String),
}

/// How a daemon answers about its queue, of an action and perhaps the message that it is about; an error is what would be right.
type QueueAnswer = Arc<dyn Fn(&str, Option<&str>) -> Result<Vec<String>, String> + Send + Sync>;

/// How a daemon answers about its cache: lines.
type CacheAnswer = Arc<dyn Fn(&CacheQuestion) -> Vec<String> + Send + Sync>;

/// What a daemon does to read its files anew; what is doubtful in them, or an error that is what was wrong.
type Reload = Arc<dyn Fn() -> Result<Vec<String>, String> + Send + Sync>;

/// How hosts are switched on and off; an error is what would be right.
type OnSwitch = Arc<dyn Fn(Switch, &str) -> Result<(), String> + Send + Sync>;

/// All daemons of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Directory {
    entries: Arc<Mutex<Vec<Entry>>>,
    reloads: Arc<Mutex<Vec<(String, String, Reload)>>>,
    caches: Arc<Mutex<Vec<(String, String, CacheAnswer)>>>,
    queues: Arc<Mutex<Vec<(String, String, QueueAnswer)>>>,
    switch: Arc<Mutex<Option<OnSwitch>>>,
}

impl Directory {
    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a daemon does when it is told to read its files anew; it returns what is doubtful in them. It may block.
    pub fn on_reload(
        &self,
        daemon: &str,
        host: &str,
        reload: impl Fn() -> Result<Vec<String>, String> + Send + Sync + 'static,
    ) {
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.push((daemon.to_owned(), host.to_owned(), Arc::new(reload)));
    }

    /// How hosts are switched on and off. It may block.
    pub fn on_switch(&self, switch: impl Fn(Switch, &str) -> Result<(), String> + Send + Sync + 'static) {
        *self.switch.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(switch));
    }

    /// Switches a host on or off. Blocks.
    fn switch(&self, action: Switch, host: &str) -> Switched {
        let switch = self.switch.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let result = switch.map_or_else(
            || Err("this is a service of its own, and no lab: systemctl stop and start do that".to_owned()),
            |switch| switch(action, host),
        );
        Switched { host: host.to_owned(), problem: result.err() }
    }

    /// The host was switched off: nothing of it is asked any more, and what it held is let go.
    pub fn stopped(&self, host: &str) {
        self.reloads.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, of, _)| of != host);
        self.caches.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, of, _)| of != host);
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).retain(|(_, of, _)| of != host);
        let addresses = self.list().into_iter().filter(|entry| entry.host == host);
        addresses.for_each(|entry| self.set(&entry.daemon, host, State::Stopped, entry.addresses));
    }

    /// How a daemon answers about its cache.
    pub fn on_cache(
        &self,
        daemon: &str,
        host: &str,
        answer: impl Fn(&CacheQuestion) -> Vec<String> + Send + Sync + 'static,
    ) {
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.push((daemon.to_owned(), host.to_owned(), Arc::new(answer)));
    }

    /// How a daemon answers about its queue. It may block.
    pub fn on_queue(
        &self,
        daemon: &str,
        host: &str,
        answer: impl Fn(&str, Option<&str>) -> Result<Vec<String>, String> + Send + Sync + 'static,
    ) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.push((daemon.to_owned(), host.to_owned(), Arc::new(answer)));
    }

    /// Asks the queues that pass the filter. Blocks.
    fn queued(&self, filter: &Filter, action: &str, argument: Option<&str>) -> Result<Vec<Answered>, String> {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = queues.into_iter().filter(|(daemon, host, _)| filter.wants_daemon(daemon, host));
        wanted.map(|(daemon, host, answer)| Ok(Answered { daemon, host, lines: answer(action, argument)? })).collect()
    }

    /// Asks the caches that pass the filter.
    fn cached(&self, filter: &Filter, question: &CacheQuestion) -> Vec<Answered> {
        let caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = caches.into_iter().filter(|(daemon, host, _)| filter.wants_daemon(daemon, host));
        wanted.map(|(daemon, host, answer)| Answered { daemon, host, lines: answer(question) }).collect()
    }

    /// Tells those that pass the filter to read their files anew, one after the other.
    fn reload(&self, filter: &Filter) -> Vec<Reloaded> {
        // A copy, so that nobody waits for the lock as long as files are read.
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let wanted = reloads.into_iter().filter(|(daemon, host, _)| filter.wants_daemon(daemon, host));
        let tell = |(daemon, host, reload): (_, _, Reload)| {
            let (problem, doubts) = reload().map_or_else(|problem| (Some(problem), vec![]), |doubts| (None, doubts));
            Reloaded { daemon, host, problem, doubts }
        };
        wanted.map(tell).collect()
    }

    /// A copy of all entries.
    pub fn list(&self) -> Vec<Entry> {
        self.entries().clone()
    }

    /// Enters a daemon, or changes its entry.
    pub fn set(&self, daemon: &str, host: &str, state: State, addresses: Vec<String>) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let entry = Entry { daemon: daemon.to_owned(), host: host.to_owned(), addresses, state, since };
        let mut entries = self.entries();
        match entries.iter_mut().find(|e| e.daemon == daemon && e.host == host) {
            Some(known) => *known = entry,
            None => entries.push(entry),
        }
    }

    /// All daemons are told to stop.
    pub fn stopping(&self) {
        let mut entries = self.entries();
        let running = entries.iter_mut().filter(|entry| entry.state != State::Stopped);
        running.for_each(|entry| entry.state = State::Stopping);
    }

    fn health(&self) -> (StatusCode, String) {
        // Who was switched off is meant to be.
        match self.entries().iter().find(|entry| !matches!(entry.state, State::Serving | State::Stopped)) {
            None => (StatusCode::OK, "ok\n".to_owned()),
            Some(entry) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("{} on {} is {:?}\n", entry.daemon, entry.host, entry.state))
            }
        }
    }
}

/// Which way a request came, and so what it may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entrance {
    Unix,
    Tcp,
}

/// What the pages show.
#[derive(Clone)]
pub struct View {
    /// The transcripts.
    pub hub: Hub,
    /// The counters.
    pub registers: Registers,
    /// The daemons.
    pub directory: Directory,
}

/// The bound service.
pub struct Admin {
    unix: Option<UnixListener>,
    tcp: Vec<TcpListener>,
}

impl Admin {
    /// Binds what `config` names. A socket file that nobody answers on is a leftover and is replaced.
    ///
    /// # Errors
    /// With the path or address in the message.
    pub async fn bind(config: &Config) -> io::Result<Self> {
        let name =
            |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("admin {what}: {error}"));
        let unix = match &config.socket {
            Some(path) => Some(bind_unix(path).map_err(name(format!("socket {}", path.display())))?),
            None => None,
        };
        let mut tcp = vec![];
        for address in &config.listen {
            tcp.push(TcpListener::bind(address).await.map_err(name(format!("address {address}")))?);
        }
        Ok(Self { unix, tcp })
    }

    /// Serves until `shutdown`.
    pub async fn run(self, view: View, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        for listener in self.tcp {
            let (view, permits, connections) = (view.clone(), Arc::clone(&permits), tasks.clone());
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
                while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                    match listener.accept().await {
                        Ok((stream, _)) => connections.spawn(serve(stream, Entrance::Tcp, view.clone(), permit)),
                        Err(_) => return,
                    };
                }
            }));
        }
        if let Some(listener) = self.unix {
            let (view, permits, connections) = (view.clone(), Arc::clone(&permits), tasks.clone());
            tasks.spawn(shutdown.clone().run_until_cancelled_owned(async move {
                while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
                    match listener.accept().await {
                        Ok((stream, _)) => connections.spawn(serve(stream, Entrance::Unix, view.clone(), permit)),
                        Err(_) => return,
                    };
                }
            }));
        }
        // Listeners of /events would keep us for ever: the process ends, and with it their connections.
        shutdown.cancelled().await;
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    // Only a dead socket is removed; a living one means that another process runs here.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another process answers there already; stop it first",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    entrance: Entrance,
    view: View,
    _permit: tokio::sync::OwnedSemaphorePermit,
) {
    let service = service_fn(|request| {
        let view = view.clone();
        async move { Ok::<_, Infallible>(answer(&request, entrance, view).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "admin connection");
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn answer(request: &Request<Incoming>, entrance: Entrance, view: View) -> Response<Body> {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    let query = request.uri().query().unwrap_or_default();
    let filter = || Filter::from_query(query);
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/cache") => {
            page(StatusCode::OK, JSON, json(&view.directory.cached(&filter(), &CacheQuestion::List)))
        }
        (&Method::POST, path) if entrance == Entrance::Unix && path.starts_with("/cache/") => {
            let name = path.strip_prefix("/cache/").unwrap_or_default().to_owned();
            page(StatusCode::OK, JSON, json(&view.directory.cached(&filter(), &CacheQuestion::Purge(name))))
        }
        (&Method::GET | &Method::HEAD, path) if path == "/queue" || path.starts_with("/queue/show/") => {
            let id = path.strip_prefix("/queue/show/").map(str::to_owned);
            queue(view, filter(), if id.is_some() { "show" } else { "list" }.to_owned(), id).await
        }
        (&Method::POST, path) if entrance == Entrance::Unix && path.starts_with("/queue/") => {
            let words = path.trim_start_matches("/queue/");
            let (action, id) =
                words.split_once('/').map_or((words, None), |(action, id)| (action, Some(id.to_owned())));
            queue(view, filter(), action.to_owned(), id).await
        }
        (&Method::POST, path)
            if entrance == Entrance::Unix
                && let Some((action, host)) = Switch::parse(path) =>
        {
            let host = host.to_owned();
            match tokio::task::spawn_blocking(move || view.directory.switch(action, &host)).await {
                Ok(switched) => page(StatusCode::OK, JSON, json(&switched)),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        (&Method::POST, "/reload") if entrance == Entrance::Unix => {
            let filter = filter();
            match tokio::task::spawn_blocking(move || view.directory.reload(&filter)).await {
                Ok(reloaded) => page(StatusCode::OK, JSON, json(&reloaded)),
                Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
        (_, "/reload") => {
            let words = "only POST, and only over the Unix socket: `tomte zone reload` does that\n";
            page(StatusCode::METHOD_NOT_ALLOWED, TEXT, words.to_owned())
        }
        (&Method::GET | &Method::HEAD, "/healthz") => {
            let (status, text) = view.directory.health();
            page(status, TEXT, text)
        }
        (&Method::GET | &Method::HEAD, "/metrics") => {
            page(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", view.registers.text())
        }
        (&Method::GET | &Method::HEAD, "/status") => page(StatusCode::OK, JSON, json(&view.directory.list())),
        (&Method::GET | &Method::HEAD, "/events") => {
            let is_past = |key: &str| key == "past" || key == "past=";
            let until = if query.split('&').any(is_past) { Until::Past } else { Until::Gone };
            events(view.hub, filter(), until)
        }
        (&Method::GET | &Method::HEAD, _) => {
            page(StatusCode::NOT_FOUND, TEXT, "try /healthz, /metrics, /status or /events\n".to_owned())
        }
        _ => page(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET: this page shows and changes nothing\n".to_owned()),
    }
}

async fn queue(view: View, filter: Filter, action: String, id: Option<String>) -> Response<Body> {
    let answer = move || view.directory.queued(&filter, &action, id.as_deref());
    match tokio::task::spawn_blocking(answer).await {
        Ok(Ok(answered)) => page(StatusCode::OK, "application/json", json(&answered)),
        Ok(Err(problem)) => page(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", format!("{problem}\n")),
        Err(died) => page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", format!("{died}\n")),
    }
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("plain strings and numbers") + "\n"
}

fn page(status: StatusCode, media_type: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Which events a listener wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only this daemon's.
    pub daemon: Option<String>,
    /// Only of this host.
    pub host: Option<String>,
    /// Only of this connection.
    pub connection: Option<u64>,
}

impl Filter {
    fn from_query(query: &str) -> Self {
        let mut filter = Self::default();
        for (key, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            match key {
                "daemon" => filter.daemon = Some(value.to_owned()),
                "host" => filter.host = Some(value.to_owned()),
                "connection" => filter.connection = value.parse().ok(),
                _ => {}
            }
        }
        filter
    }

    /// The query of `/events` that asks for this.
    pub fn to_query(&self) -> String {
        let connection = self.connection.map(|c| c.to_string());
        let pairs =
            [("daemon", self.daemon.as_ref()), ("host", self.host.as_ref()), ("connection", connection.as_ref())];
        let pairs = pairs.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", value?)));
        pairs.collect::<Vec<_>>().join("&")
    }

    fn wants(&self, event: &Event) -> bool {
        self.wants_daemon(&event.daemon, &event.host) && self.connection.is_none_or(|c| c == event.connection)
    }

    /// Whether this daemon of this host may have something that passes.
    pub fn wants_daemon(&self, daemon: &str, host: &str) -> bool {
        self.daemon.as_ref().is_none_or(|wanted| wanted == daemon)
            && self.host.as_ref().is_none_or(|wanted| wanted == host)
    }
}

/// When a stream of events ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// What is remembered has been told.
    Past,
    /// The listener has gone.
    Gone,
}

/// The transcript as server-sent events (WHATWG HTML §9.2): `data:` and one JSON object.
///
/// Where what is remembered ends and what is new begins there is an event of the type `live`, whose data is how many there were. With
/// `past` the answer ends behind it. An `EventSource` would then ask again, and hear the same once more, as it does of every stream that
/// ends: it is to be closed at that event.
fn events(hub: Hub, filter: Filter, until: Until) -> Response<Body> {
    // A few frames: TCP holds the rest back, and the hub tells a slow listener what it missed.
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(16);
    #[expect(clippy::disallowed_methods, reason = "ends with its connection; nothing is lost when the process stops")]
    tokio::spawn(async move {
        let mut subscription = hub.subscribe();
        let data =
            |event: &Event| format!("data: {}\n\n", serde_json::to_string(event).expect("plain strings and numbers"));
        let mut past = subscription.take_past();
        past.retain(|event| filter.wants(event));
        let live = format!("event: live\ndata: {}\n\n", past.len());
        for text in past.iter().map(|event| data(event)).chain([live]) {
            if sender.send_data(text.into()).await.is_err() {
                return;
            }
        }
        drop(past);
        if until == Until::Past {
            return;
        }
        loop {
            let text = match tokio::time::timeout(KEEP_ALIVE_EVERY, subscription.next()).await {
                Ok(Some(Heard::Event(event))) if filter.wants(&event) => data(&event),
                Ok(Some(Heard::Event(_))) => continue,
                Ok(Some(Heard::Missed(count))) => format!("event: missed\ndata: {count}\n\n"),
                Ok(None) => return,
                Err(_) => ": still here\n\n".to_owned(),
            };
            if sender.send_data(text.into()).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(body.boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::{self, Transport};
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

    fn view() -> View {
        let config = transcript::Config { ring: 10, ..transcript::Config::default() };
        View { hub: Hub::new(&config).unwrap(), registers: Registers::default(), directory: Directory::default() }
    }

    async fn get(socket: &Path, path: &str) -> BufReader<tokio::net::UnixStream> {
        let mut stream = tokio::net::UnixStream::connect(socket).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        BufReader::new(stream)
    }

    async fn post(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
        stream.write_all(format!("POST {path} HTTP/1.0\r\n\r\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn the_pages_answer_over_the_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/admin.sock");
        let config = Config { socket: Some(socket.clone()), listen: vec![] };
        // A leftover of a killed process does not stand in the way.
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let (view, shutdown) = (view(), CancellationToken::new());
        let admin = Admin::bind(&config).await.unwrap();
        let running = TaskTracker::new().spawn(admin.run(view.clone(), shutdown.clone()));
        assert!(Admin::bind(&config).await.is_err(), "a living process is left alone");

        view.directory.set("web", "www", State::Starting, vec![]);
        view.registers.of("web", "www").counter("requests", "help").inc();
        for (path, wants) in [
            ("/healthz", &["503", "web on www is Starting"][..]),
            ("/metrics", &["200 OK", "tomte_web_requests_total{host=\"www\"} 1"]),
            ("/status", &["200 OK", "\"daemon\": \"web\""]),
            ("/nothing", &["404", "try /healthz"]),
        ] {
            let mut text = String::new();
            get(&socket, path).await.read_to_string(&mut text).await.unwrap();
            for want in wants {
                assert!(text.contains(want), "{path}: {text}");
            }
        }
        view.directory.set("web", "www", State::Serving, vec![]);
        let mut text = String::new();
        get(&socket, "/healthz").await.read_to_string(&mut text).await.unwrap();
        assert!(text.contains("200 OK"), "{text}");
        shutdown.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn events_stream_what_passes_the_filter() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("admin.sock");
        let (view, shutdown) = (view(), CancellationToken::new());
        let admin = Admin::bind(&Config { socket: Some(socket.clone()), listen: vec![] }).await.unwrap();
        TaskTracker::new().spawn(admin.run(view.clone(), shutdown.clone()));
        let talk = |daemon| {
            let here = ([127, 0, 0, 1], 1).into();
            view.hub.transcript(daemon, "h").conversation(Transport::Tcp, here, here)
        };
        talk("pop3").client(b"not wanted", 12);
        talk("web").client(b"GET / HTTP/1.0", 16);
        let mut lines = get(&socket, "/events?daemon=web").await.lines();
        let mut next = async || loop {
            let line = lines.next_line().await.unwrap().expect("the stream stays open");
            if let Some(json) = line.strip_prefix("data: {") {
                return serde_json::from_str::<Event>(&format!("{{{json}")).unwrap().to_string();
            } else if line.starts_with("event: ") {
                return format!("{line}, {}", lines.next_line().await.unwrap().unwrap());
            }
        };
        assert_eq!(next().await, "C: GET / HTTP/1.0");
        assert_eq!(next().await, "event: live, data: 1");
        talk("web").server(b"HTTP/1.0 200 OK", 17);
        assert_eq!(next().await, "S: HTTP/1.0 200 OK");

        // Whoever wants only the past hears where it ends.
        for (path, events, end) in [
            ("/events?past&daemon=web", 2, "\n\nevent: live\ndata: 2\n\n"),
            ("/events?connection=99&past", 0, "\r\n\r\nevent: live\ndata: 0\n\n"),
        ] {
            let mut text = String::new();
            get(&socket, path).await.read_to_string(&mut text).await.unwrap();
            assert!(text.matches("data: {").count() == events && text.ends_with(end), "{text}");
        }
        shutdown.cancel();
    }

    #[tokio::test]
    async fn reload_reaches_those_that_are_meant_and_only_over_the_unix_socket() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { socket: Some(dir.path().join("admin.sock")), listen: vec![([127, 0, 0, 1], 0).into()] };
        let (view, shutdown) = (view(), CancellationToken::new());
        let (told, hears) = std::sync::mpsc::channel();
        for (daemon, host) in [("dns", "ns.crepes.fr"), ("dns", "ns.nic.fr"), ("web", "www")] {
            let told = told.clone();
            view.directory.on_reload(daemon, host, move || {
                told.send(host).unwrap();
                if host == "ns.nic.fr" {
                    Err("fr.zone:3: not so".to_owned())
                } else {
                    Ok(vec!["the serial".to_owned()])
                }
            });
        }
        let admin = Admin::bind(&config).await.unwrap();
        let tcp = admin.tcp[0].local_addr().unwrap();
        TaskTracker::new().spawn(admin.run(view, shutdown.clone()));

        let unix = async || tokio::net::UnixStream::connect(dir.path().join("admin.sock")).await.unwrap();
        let text = post(unix().await, "/reload?daemon=dns").await;
        let (_, body) = text.split_once("\r\n\r\n").unwrap();
        let of = |host: &str, problem: Option<&str>| Reloaded {
            daemon: "dns".to_owned(),
            host: host.to_owned(),
            problem: problem.map(str::to_owned),
            doubts: if problem.is_none() { vec!["the serial".to_owned()] } else { vec![] },
        };
        let reloaded: Vec<Reloaded> = serde_json::from_str(body).unwrap();
        assert_eq!(reloaded, [of("ns.crepes.fr", None), of("ns.nic.fr", Some("fr.zone:3: not so"))]);
        assert!(post(unix().await, "/reload?daemon=dns&host=nobody").await.ends_with("\r\n\r\n[]\n"));
        assert_eq!(hears.try_iter().collect::<Vec<_>>(), ["ns.crepes.fr", "ns.nic.fr"]);

        assert!(post(tokio::net::TcpStream::connect(tcp).await.unwrap(), "/reload").await.contains("405"));
        assert!(post(unix().await, "/status").await.contains("405"));
        assert_eq!(hears.try_iter().count(), 0);
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_host_is_switched_by_who_knows_how_and_then_asked_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { socket: Some(dir.path().join("admin.sock")), listen: vec![([127, 0, 0, 1], 0).into()] };
        let (view, shutdown) = (view(), CancellationToken::new());
        let admin = Admin::bind(&config).await.unwrap();
        let tcp = admin.tcp[0].local_addr().unwrap();
        TaskTracker::new().spawn(admin.run(view.clone(), shutdown.clone()));
        let unix = async |path: &str| {
            post(tokio::net::UnixStream::connect(dir.path().join("admin.sock")).await.unwrap(), path).await
        };
        assert!(unix("/host/stop/a.edu").await.contains("systemctl stop"));
        let directory = view.directory.clone();
        view.directory.on_switch(move |action, host| match action {
            Switch::Stop => {
                directory.stopped(host);
                Ok(())
            }
            Switch::Start => Err(format!("{host} is on")),
        });
        for host in ["a.edu", "b.edu"] {
            view.directory.set("dns", host, State::Serving, vec!["udp 127.0.0.1:53".to_owned()]);
            view.directory.on_reload("dns", host, || Ok(vec![]));
            view.directory.on_queue("dns", host, |_, _| Ok(vec![]));
            view.directory.on_cache("dns", host, |_| vec![]);
        }
        assert!(unix("/host/stop/a.edu").await.contains("\"problem\": null"));
        assert!(unix("/host/start/a.edu").await.contains("a.edu is on"));
        assert!(post(tokio::net::TcpStream::connect(tcp).await.unwrap(), "/host/stop/b.edu").await.contains("405"));
        for path in ["/reload", "/queue/flush"] {
            let text = unix(path).await;
            assert!(text.contains("b.edu") && !text.contains("a.edu"), "{text}");
        }
        let states: Vec<State> = view.directory.list().into_iter().map(|entry| entry.state).collect();
        assert_eq!(states, [State::Stopped, State::Serving]);
        assert_eq!(view.directory.health().0, StatusCode::OK);
        shutdown.cancel();
    }

    #[test]
    fn a_filter_survives_its_query() {
        let filter =
            Filter { daemon: Some("web".into()), host: Some("www.someschool.edu".into()), connection: Some(7) };
        assert_eq!(Filter::from_query(&filter.to_query()), filter);
        assert_eq!(Filter::from_query(""), Filter::default());
    }
}
