//! Everything that is said on the wire, seen in one place.
//!
//! ```text
//!   Wire, datagrams, HTTP heads
//!        | Conversation::client / server / note
//!        v
//!      Hub --- nobody listens: one atomic load, nothing else
//!        |
//!        +--> rings       the last events of each daemon on each host, for whoever looks later
//!        +--> broadcast   `/events`, `tomte events`
//!        +--> tracing     target `wire`
//!        +--> directory   one file a connection, in the format that our tests replay
//! ```
//!
//! The notation is the one of the RFCs: `C:` is said by the client, `S:` by the server, whichever of the two we are;
//! `@` is an event that is not speech (the connection opens or closes), `#` is a remark of ours.

use crate::tls;
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    fmt::{self, Write as _},
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    time::SystemTime,
};
use tokio::sync::broadcast;

/// The `[transcript]` table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How many of its last events each daemon keeps in memory for whoever connects later, and at most 1 MiB of them; 0
    /// keeps none, so that a busy server pays nothing. The lab sets 1000.
    pub ring: usize,
    /// A directory that gets one file for each connection, in the format that the tests replay.
    pub dir: Option<PathBuf>,
    /// Show passwords as they were sent. For lessons only.
    pub reveal_secrets: bool,
}

/// What an [`Event`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The connection exists.
    Open,
    /// The client said this.
    Client,
    /// The server said this.
    Server,
    /// A remark of the daemon: why it did what it did.
    Note,
    /// The connection is gone.
    Close,
}

impl Kind {
    /// The mark before the line in a transcript.
    pub fn mark(self) -> &'static str {
        match self {
            Kind::Client => "C:",
            Kind::Server => "S:",
            Kind::Note => "#",
            Kind::Open | Kind::Close => "@",
        }
    }
}

/// What carries the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A TCP connection.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// Single datagrams.
    Udp,
}

/// One thing that happened on the wire.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub micros: u64,
    /// The daemon that saw it: `web`, `smtp` ...
    pub daemon: Cow<'static, str>,
    /// The lab host (or machine) it runs on.
    pub host: Arc<str>,
    /// The connection's number, unique in this process; each log line carries the same.
    pub connection: u64,
    /// The connection for whose sake this one exists: the mail that came in and is now relayed, the query that asks on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<u64>,
    /// Whether it began here: a delivery, a question to another server.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub outgoing: bool,
    /// TCP, TLS or UDP.
    pub transport: Transport,
    /// Our end.
    pub local: SocketAddr,
    /// Their end.
    pub remote: SocketAddr,
    /// Who speaks, or what happened.
    pub kind: Kind,
    /// One readable line, without line end; control octets and octets that are not UTF-8 are written as `\x..` (see [`readable`]).
    pub line: String,
    /// The lines below it, for messages that have more than one (the fields of an HTTP head).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<String>,
    /// The octets on the wire that this line stands for, with those below it.
    pub octets: u64,
    /// The octets of body that follow, where it is the head of an HTTP message; absent where nobody knows before they come (chunked).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<u64>,
}

impl Event {
    /// What it takes in memory, its place in a ring included.
    fn memory_octets(&self) -> usize {
        let more: usize = self.more.iter().map(|line| size_of::<String>() + line.capacity()).sum();
        size_of::<(u64, Arc<Self>, Self)>() + self.line.capacity() + more
    }
}

impl fmt::Display for Event {
    /// `C: GET / HTTP/1.1`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.mark(), self.line)?;
        self.more.iter().try_for_each(|line| write!(f, "\n{} {line}", self.kind.mark()))
    }
}

/// Where all events of this process meet. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hub(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many sinks want events. Zero is the state of a busy server that nobody watches.
    listeners: AtomicUsize,
    connections: AtomicU64,
    reveal_secrets: bool,
    ring_max: usize,
    past: Mutex<Past>,
    live: broadcast::Sender<Arc<Event>>,
    files: Option<SyncSender<Arc<Event>>>,
}

/// What is remembered. Each daemon on each host has a ring of its own, so that a flood of questions to a name server does not push out
/// the one mail that somebody wants to see.
#[derive(Debug, Default)]
struct Past {
    /// How many events there were: the order of what is in different rings.
    events: u64,
    rings: Vec<Ring>,
}

#[derive(Debug)]
struct Ring {
    daemon: &'static str,
    host: Arc<str>,
    /// The memory of its events.
    octets: usize,
    events: VecDeque<(u64, Arc<Event>)>,
}

/// How much memory the events of one ring may take: a thousand lines need a third of it, and a thousand long messages do not get more. The
/// lab has twenty rings, so its past never takes more than 20 MiB.
const RING_OCTETS_MAX: usize = 1 << 20;

impl Past {
    /// Where this daemon's ring is. There are as many as the configuration has daemons: a host that comes back finds its own.
    fn ring(&mut self, daemon: &'static str, host: &Arc<str>) -> usize {
        let known = self.rings.iter().position(|ring| ring.daemon == daemon && ring.host == *host);
        known.unwrap_or_else(|| {
            self.rings.push(Ring { daemon, host: Arc::clone(host), octets: 0, events: VecDeque::new() });
            self.rings.len() - 1
        })
    }

    fn push(&mut self, ring: usize, event: &Arc<Event>, events_max: usize) {
        self.events += 1;
        let ring = &mut self.rings[ring];
        ring.octets += event.memory_octets();
        ring.events.push_back((self.events, Arc::clone(event)));
        while ring.events.len() > events_max || (ring.octets > RING_OCTETS_MAX && ring.events.len() > 1) {
            let Some((_, oldest)) = ring.events.pop_front() else { break };
            ring.octets -= oldest.memory_octets();
        }
    }

    fn all(&self) -> Vec<(u64, Arc<Event>)> {
        self.rings.iter().flat_map(|ring| ring.events.iter().cloned()).collect()
    }
}

/// A live listener may fall this many events behind before it loses the oldest and is told how many.
const LIVE_BACKLOG: usize = 4096;
/// The file sink may fall this many events behind; then events are dropped and counted, never waited for: a slow disk
/// must not slow the daemon.
const FILES_BACKLOG: usize = 4096;

impl Hub {
    /// A hub with the sinks that `config` asks for.
    ///
    /// # Errors
    /// The transcript directory cannot be made.
    pub fn new(config: &Config) -> io::Result<Self> {
        let files = config.dir.clone().map(spawn_file_sink).transpose()?;
        let traced = tracing::enabled!(target: "wire", tracing::Level::DEBUG);
        let sinks = usize::from(config.ring > 0) + usize::from(files.is_some()) + usize::from(traced);
        Ok(Self(Arc::new(Inner {
            listeners: AtomicUsize::new(sinks),
            connections: AtomicU64::new(0),
            reveal_secrets: config.reveal_secrets,
            ring_max: config.ring,
            past: Mutex::default(),
            live: broadcast::Sender::new(LIVE_BACKLOG),
            files,
        })))
    }

    /// A hub that keeps nothing until somebody subscribes.
    pub fn quiet() -> Self {
        Self::new(&Config::default()).expect("the default configuration has no directory that could fail")
    }

    /// The part of the hub that one daemon on one host speaks through.
    pub fn transcript(&self, daemon: &'static str, host: &str) -> Transcript {
        let host = host.into();
        let ring = self.past().ring(daemon, &host);
        Transcript { hub: self.clone(), daemon, host, ring }
    }

    /// The events of all rings, oldest first, and from now on every new one.
    pub fn subscribe(&self) -> Subscription {
        // The order matters: first be counted, then look, so that no event falls between rings and live stream.
        self.0.listeners.fetch_add(1, Ordering::AcqRel);
        let (mut past, live) = {
            let past = self.past();
            (past.all(), self.0.live.subscribe())
        };
        past.sort_unstable_by_key(|(number, _)| *number);
        Subscription { past: past.into_iter().map(|(_, event)| event).collect(), live, hub: self.clone() }
    }

    fn past(&self) -> std::sync::MutexGuard<'_, Past> {
        // A panic while the rings were locked leaves them whole: push and pop do not panic half-way.
        self.0.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_heard(&self) -> bool {
        self.0.listeners.load(Ordering::Relaxed) > 0
    }

    fn emit(&self, ring: usize, event: Event) {
        tracing::debug!(target: "wire", daemon = &*event.daemon, host = &*event.host, connection = event.connection,
            remote = %event.remote, "{event}");
        let event = Arc::new(event);
        if let Some(files) = &self.0.files
            && let Err(TrySendError::Full(event)) = files.try_send(Arc::clone(&event))
        {
            tracing::warn!(connection = event.connection, "transcript file sink is behind: a line was dropped");
        }
        // Rings and live stream change under one lock, so that a new subscriber sees each event exactly once.
        let mut past = self.past();
        if self.0.ring_max > 0 {
            past.push(ring, &event, self.0.ring_max);
        }
        // No receiver is no error: the ring or a file may be the only listener.
        let _ = self.0.live.send(event);
    }
}

/// A stream of events: what the rings still had, then what comes.
#[derive(Debug)]
pub struct Subscription {
    past: VecDeque<Arc<Event>>,
    live: broadcast::Receiver<Arc<Event>>,
    hub: Hub,
}

/// What [`Subscription::next`] yields.
#[derive(Debug)]
pub enum Heard {
    /// The next event.
    Event(Arc<Event>),
    /// The listener was too slow and this many events are lost to it.
    Missed(u64),
}

impl Subscription {
    /// What the rings still had, oldest first; [`Subscription::next`] then begins with what is new.
    pub fn take_past(&mut self) -> VecDeque<Arc<Event>> {
        std::mem::take(&mut self.past)
    }

    /// The next event; `None` when the hub is gone.
    pub async fn next(&mut self) -> Option<Heard> {
        if let Some(event) = self.past.pop_front() {
            return Some(Heard::Event(event));
        }
        match self.live.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(Heard::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.0.listeners.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One daemon's way into the hub. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Transcript {
    hub: Hub,
    daemon: &'static str,
    host: Arc<str>,
    ring: usize,
}

impl Transcript {
    /// Gives the connection its number. Nothing is reported yet: see [`Conversation::opened`].
    pub fn conversation(&self, transport: Transport, local: SocketAddr, remote: SocketAddr) -> Conversation {
        let id = self.hub.0.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // A socket for both families shows 192.0.2.1 as ::ffff:192.0.2.1. The other end, the DNS and `Received:` know it by its own address.
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (local, remote) = (canonical(local), canonical(remote));
        Conversation { transcript: self.clone(), id, cause: None, outgoing: false, transport, local, remote }
    }

    /// The hub that this transcript speaks into.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Whether somebody wants to see the lines; the only cost when nobody does.
    pub fn is_heard(&self) -> bool {
        self.hub.is_heard()
    }
}

/// The two ends of one connection, and what is said between them.
#[derive(Clone, Debug)]
pub struct Conversation {
    transcript: Transcript,
    id: u64,
    cause: Option<u64>,
    outgoing: bool,
    transport: Transport,
    local: SocketAddr,
    remote: SocketAddr,
}

impl Conversation {
    /// The connection's number in this process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Their end.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Our end.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Says for whose sake this connection exists.
    #[must_use]
    pub fn because_of(mut self, cause: u64) -> Self {
        self.cause = Some(cause);
        self
    }

    /// It begins here, not there.
    #[must_use]
    pub fn outgoing(mut self) -> Self {
        self.outgoing = true;
        self
    }

    /// From here on the connection is encrypted.
    pub fn now_encrypted(&mut self) {
        self.transport = Transport::Tls;
        self.note("TLS from here on");
    }

    /// Whether somebody wants to see the lines. Ask before building a costly one.
    pub fn is_heard(&self) -> bool {
        self.transcript.is_heard()
    }

    /// Whether passwords are to be shown as they were sent.
    pub fn reveals_secrets(&self) -> bool {
        self.transcript.hub.0.reveal_secrets
    }

    /// The connection exists.
    pub fn opened(&self) {
        if self.is_heard() {
            self.report(Kind::Open, "open".to_owned(), vec![], 0, None);
        }
    }

    /// The connection is gone.
    pub fn closed(&self) {
        if self.is_heard() {
            self.report(Kind::Close, "close".to_owned(), vec![], 0, None);
        }
    }

    /// The client said `line` (without its line end), which took `octets` on the wire.
    pub fn client(&self, line: &[u8], octets: usize) {
        if self.is_heard() {
            self.report(Kind::Client, readable(line), vec![], octets, None);
            if line.len() > 1 && tls::begins(line) {
                self.note(
                    "this is how TLS begins: the client means another port, or should say in clear that it wants TLS",
                );
            }
        }
    }

    /// The server said `line` (without its line end), which took `octets` on the wire.
    pub fn server(&self, line: &[u8], octets: usize) {
        if self.is_heard() {
            self.report(Kind::Server, readable(line), vec![], octets, None);
        }
    }

    /// A message of several lines: the first tells it, the others are its detail.
    pub fn message(&self, speaker: Kind, line: String, more: Vec<String>, octets: usize) {
        if self.is_heard() {
            self.report(speaker, line, more, octets, None);
        }
    }

    /// The head of a message, which took `octets`, and the octets of body that follow it, if that is known.
    pub fn head(&self, speaker: Kind, line: String, fields: Vec<String>, octets: usize, body: Option<u64>) {
        if self.is_heard() {
            self.report(speaker, line, fields, octets, body);
        }
    }

    /// A remark: why the daemon did what it did.
    pub fn note(&self, text: &str) {
        if self.is_heard() {
            self.report(Kind::Note, text.to_owned(), vec![], 0, None);
        }
    }

    fn report(&self, kind: Kind, line: String, more: Vec<String>, octets: usize, body: Option<u64>) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let event = Event {
            micros: since_epoch.as_micros() as u64,
            daemon: Cow::Borrowed(self.transcript.daemon),
            host: Arc::clone(&self.transcript.host),
            connection: self.id,
            cause: self.cause,
            outgoing: self.outgoing,
            transport: self.transport,
            local: self.local,
            remote: self.remote,
            kind,
            line,
            more,
            octets: octets as u64,
            body,
        };
        self.transcript.hub.emit(self.transcript.ring, event);
    }
}

/// Wire octets as one line of text: what is not printable is written `\x1b`, octet by octet, and `\t`, `\r`, `\n` by the names that
/// everybody knows. So a hostile peer cannot paint on the terminal of whoever watches.
pub fn readable(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    let escape = |text: &mut String, octets: &[u8]| {
        for octet in octets {
            write!(text, "\\x{octet:02x}").expect("writing into a String does not fail");
        }
    };
    for chunk in octets.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                _ if character.is_control() => escape(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes()),
                _ => text.push(character),
            }
        }
        escape(&mut text, chunk.invalid());
    }
    text
}

/// How many transcript files are kept open at once; a connection beyond that has its file reopened for each line.
const FILES_OPEN_MAX: usize = 64;

/// Starts the thread that writes one file for each connection.
fn spawn_file_sink(dir: PathBuf) -> io::Result<SyncSender<Arc<Event>>> {
    std::fs::create_dir_all(&dir)?;
    let (sender, receiver) = sync_channel::<Arc<Event>>(FILES_BACKLOG);
    // A plain thread: it ends when the hub and with it the sender is gone.
    std::thread::Builder::new().name("transcript".to_owned()).spawn(move || {
        let mut open = HashMap::new();
        for event in receiver {
            let path = dir.join(format!("{}-{}-{:06}.txt", event.daemon, event.host, event.connection));
            let mut write = || -> io::Result<()> {
                if !open.contains_key(&event.connection) {
                    if open.len() >= FILES_OPEN_MAX {
                        open.clear();
                    }
                    let file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
                    open.insert(event.connection, file);
                }
                let Some(mut file) = open.get(&event.connection) else { return Ok(()) };
                match event.kind {
                    Kind::Open => writeln!(file, "# {} {} {}", event.daemon, event.host, event.remote),
                    _ => writeln!(file, "{event}"),
                }
            };
            if let Err(error) = write() {
                tracing::warn!(path = %path.display(), %error, "cannot write transcript");
            }
            if event.kind == Kind::Close {
                open.remove(&event.connection);
            }
        }
    })?;
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[tokio::test]
    async fn a_late_listener_gets_the_ring_and_then_what_follows() {
        let hub = Hub::new(&Config { ring: 2, ..Config::default() }).unwrap();
        let talk = hub.transcript("pop3", "mail").conversation(Transport::Tcp, address(110), address(4000));
        for line in ["one", "two", "three"] {
            talk.client(line.as_bytes(), line.len() + 2);
        }
        let mut listener = hub.subscribe();
        talk.server(b"+OK", 5);
        let mut heard = vec![];
        for _ in 0..3 {
            match listener.next().await {
                Some(Heard::Event(event)) => heard.push(event.to_string()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, ["C: two", "C: three", "S: +OK"]);
    }

    /// The lines of the past.
    fn past(hub: &Hub) -> Vec<String> {
        hub.subscribe().take_past().iter().map(|event| event.line.clone()).collect()
    }

    #[test]
    fn a_flood_at_one_daemon_pushes_out_its_own_past_and_nobody_elses() {
        let hub = Hub::new(&Config { ring: 3, ..Config::default() }).unwrap();
        let talk = |daemon, host| hub.transcript(daemon, host).conversation(Transport::Udp, address(53), address(4000));
        talk("smtp", "mail").client(b"the one mail", 14);
        talk("dns", "mail").client(b"another daemon of the host", 28);
        for number in 0..10 {
            talk("dns", "resolver").client(format!("{number}").as_bytes(), 1);
            if number == 8 {
                talk("dns", "root").client(b"the same daemon elsewhere", 27);
            }
        }
        let all = ["the one mail", "another daemon of the host", "7", "8", "the same daemon elsewhere", "9"];
        assert_eq!(past(&hub), all);
    }

    #[test]
    fn a_ring_has_its_bound_in_octets_too() {
        let hub = Hub::new(&Config { ring: 1000, ..Config::default() }).unwrap();
        let talk = hub.transcript("web", "www").conversation(Transport::Tcp, address(80), address(4000));
        let head = |line: &str, octets| {
            talk.message(Kind::Client, line.to_owned(), vec!["x".repeat(octets / 2); 2], octets);
            hub.past().rings[0].octets
        };
        for number in 0..100 {
            let octets = head(&number.to_string(), 30_000);
            assert!(octets <= RING_OCTETS_MAX, "{octets}");
        }
        assert_eq!(past(&hub), (66..100).map(|number| number.to_string()).collect::<Vec<_>>());
        // What is too large by itself is still the last thing that was said.
        head("huge", 2 * RING_OCTETS_MAX);
        assert_eq!(past(&hub), ["huge"]);
        assert!(head("small", 2) < 1000);
        assert_eq!(past(&hub), ["small"]);
    }

    #[test]
    fn with_nobody_listening_nothing_is_kept() {
        let hub = Hub::quiet();
        let transcript = hub.transcript("web", "www");
        assert!(!transcript.is_heard());
        let listener = hub.subscribe();
        assert!(transcript.is_heard());
        drop(listener);
        assert!(!transcript.is_heard());
    }

    #[test]
    fn hostile_octets_become_visible_text() {
        assert_eq!(readable(b"a\x1b[2Jb\xff\r\0"), r"a\x1b[2Jb\xff\r\x00");
        // What begins an escape sequence in one octet of ISO 8859-1 has two in UTF-8.
        assert_eq!(readable("h\u{e5}ll\t\n\u{9b}".as_bytes()), r"håll\t\n\xc2\x9b");
    }

    #[test]
    fn a_file_per_connection_holds_its_lines_in_replay_format() {
        let dir = tempfile::tempdir().unwrap();
        let hub = Hub::new(&Config { dir: Some(dir.path().into()), ..Config::default() }).unwrap();
        let talk = hub.transcript("pop3", "mail").conversation(Transport::Tcp, address(110), address(4000));
        talk.opened();
        talk.server(b"+OK ready", 11);
        talk.client(b"QUIT", 6);
        talk.closed();
        let path = dir.path().join("pop3-mail-000001.txt");
        let want = "# pop3 mail 127.0.0.1:4000\nS: +OK ready\nC: QUIT\n@ close\n";
        // The sink is a thread of its own: wait for the file to be whole, yielding meanwhile.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_to_string(&path).unwrap_or_default() != want {
            assert!(std::time::Instant::now() < deadline, "{:?}", std::fs::read_to_string(&path));
            std::thread::yield_now();
        }
    }
}
