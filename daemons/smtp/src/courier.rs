//! Takes messages to other servers: connects, lets the [client's session](crate::client) decide what to say, and moves octets.
//!
//! ```text
//!   Couriers::connect --- MX, addresses, TCP, greeting, EHLO, STARTTLS ---> Connection::send, send, send ... quit
//!          |                                  ^                                  |
//!          |                                  +--- the next server, for whom ----+
//!          |                                       this one has no room now      |
//!          +--> a fate for all that waits for this destination                   +--> a fate for each recipient
//! ```

use crate::{
    address::{Domain, Host},
    answer::{self, Answer, Listener, Malformed},
    client::{Awaited, Client, Extension, Hello, Loss, Peer, Step, Tls, Transaction},
    command::mask,
    envelope::{Account, Body, Charset, Envelope, Fate, Status},
    mx::{self, Because, Families, Own, Resolver, Server},
};
pub use crate::{
    client::Login,
    mx::{Destination, Route},
};
use memchr::memmem;
use prometheus_client::metrics::counter::Counter;
use ring::rand::{SecureRandom, SystemRandom};
use rustix::net::{RecvFlags, recv};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use serde::{Deserialize, Serialize};
use shared::{
    login::nonce,
    message::{CHUNK_OCTETS, Shown, Stuffing, read},
    metrics::Metrics,
    tls,
    transcript::{Conversation, Kind, Transcript, Transport},
    wire::{Limits, LineEnd, Role, Wire, WireError},
};
use socket2::SockRef;
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    fs::File,
    io, iter,
    mem::replace,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

/// How long we listen for last words when the server does not take ours any more: it may have said why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How many octets may wait in the kernel that were not sent yet (`TCP_NOTSENT_LOWAT`). What it has taken counts as sent: with the 4 MiB that it
/// takes otherwise, a slow server would have to read those before its ten minutes for the answer to the dot are over, and its
/// progress would be seen once in a while.
const UNSENT_OCTETS_MAX: u32 = 16 << 10;
/// What waits encrypted is seen to go when all of it has gone, so it must not be much: a record (RFC 8446 §5.1). The 64 KiB that rustls holds
/// otherwise would take a modem longer than the three minutes that we wait for it.
const RECORD_OCTETS: usize = 16 << 10;
/// How long a connection is used again. It may lead to a backup, because the best server was busy once; and where mail never stops, it would for
/// ever. A new one asks the best server first, as RFC 5321 §5.1 has it for each message.
const CONNECTION_TIME: Duration = Duration::from_mins(5);
/// To how many servers a message is offered in one try: to all eight addresses of the best one, and to two more. Each may take half an
/// hour before it says no, and meanwhile nothing else goes this way; so it has a bound, which the RFC does not give.
const OFFERS_MAX: usize = 10;

/// How we send.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What we call ourselves in EHLO.
    pub hello: String,
    /// The name servers to ask, `127.77.1.2:8053`; without any, those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Domains whose mail goes to a fixed host, without a look at MX records.
    pub routes: HashMap<Domain, Neighbour>,
    /// Where [`Destination::SmartHost`] is.
    pub smart_host: Option<Neighbour>,
    /// What verifies certificates; needed for [`Security::Verified`].
    pub trust: Option<Arc<ClientConfig>>,
    /// The port of other servers: 25.
    pub port: u16,
    /// Our end of connections, where it matters; the lab tells its hosts apart by it.
    pub from: Option<IpAddr>,
    /// Names under which mail comes back to us: MX records with them, and all that are worse, are not followed.
    pub our_names: Vec<Domain>,
    /// Whether to use IPv6.
    pub ipv6: bool,
    /// How long to wait for a connection.
    pub connect_timeout: Duration,
    /// How long to wait for what a server says.
    pub timeouts: Timeouts,
}

/// A host that mail goes to without a look at MX records.
#[derive(Clone, Debug)]
pub struct Neighbour {
    /// Where it is.
    pub route: Route,
    /// How private it must be.
    pub security: Security,
    /// What comes first.
    pub begin: Begin,
    /// Who we are there.
    pub login: Option<Login>,
}

impl From<Route> for Neighbour {
    fn from(route: Route) -> Self {
        Self { route, security: Security::Opportunistic, begin: Begin::InClear, login: None }
    }
}

/// How private a connection must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Security {
    /// RFC 7435: encrypted where that is offered, and in clear where it is not, or fails.
    Opportunistic,
    /// Encrypted, whoever the other end is: nobody can read along.
    Required,
    /// Encrypted, and the other end has a certificate for the name that we know it by: nobody can put himself in its place.
    Verified,
}

/// What comes first on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// The greeting; TLS begins with STARTTLS (RFC 3207).
    InClear,
    /// TLS (RFC 8314 §3.3).
    WithTls,
}

/// How long to wait for what a server says; RFC 5321 §4.5.3.2 has the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub struct Timeouts {
    pub greeting: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    pub data_initiation: Duration,
    pub data_block: Duration,
    pub data_termination: Duration,
    /// Of EHLO, RSET, STARTTLS, AUTH, for which the RFC has no figure.
    pub other: Duration,
    /// Of QUIT: the work is done.
    pub quit: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            greeting: Duration::from_mins(5),
            mail: Duration::from_mins(5),
            rcpt: Duration::from_mins(5),
            data_initiation: Duration::from_mins(2),
            data_block: Duration::from_mins(3),
            data_termination: Duration::from_mins(10),
            other: Duration::from_mins(5),
            quit: Duration::from_secs(5),
        }
    }
}

/// A message for some of its recipients, all at one destination.
#[derive(Clone, Debug)]
pub struct Job {
    /// The queue id.
    pub id: String,
    /// The connection that brought it.
    pub cause: Option<u64>,
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// For whom: indexes into the envelope's recipients.
    pub recipients: Vec<usize>,
    /// A file with the message in it: RFC 5322 text with CR LF line ends, not dot-stuffed.
    pub message: Arc<File>,
    /// Where in the file it begins.
    pub start: u64,
    /// How long it is.
    pub octets: u64,
}

/// Whoever takes messages to other servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Couriers(Arc<Office>);

#[derive(Debug)]
struct Office {
    settings: Settings,
    transcript: Transcript,
    resolver: Resolver,
    random: SystemRandom,
    tls: TlsConfig,
    counters: Counters,
    own: OnceLock<Own>,
}

#[derive(Debug)]
struct Counters {
    connections: Counter,
    relayed: Counter,
    deferred: Counter,
    failed: Counter,
}

/// A connection, in clear or not.
type Stream = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A server that is about to be tried.
#[derive(Debug)]
struct Target {
    server: Server,
    port: u16,
    /// Its address, if that was given.
    address: Option<IpAddr>,
    security: Security,
    begin: Begin,
    login: Option<Login>,
}

impl Target {
    /// One that the DNS names.
    fn exchanger(server: Server, port: u16) -> Self {
        Self { server, port, address: None, security: Security::Opportunistic, begin: Begin::InClear, login: None }
    }

    /// One that the configuration names.
    fn neighbour(neighbour: &Neighbour, because: Because, usual_port: u16) -> Self {
        let Neighbour { route: Route { host, port }, security, begin, login } = neighbour.clone();
        let address = match &host {
            Host::Domain(_) => None,
            Host::Literal(address) => Some(*address),
        };
        let server = Server { host: host.to_string(), because };
        Self { server, port: port.unwrap_or(usual_port), address, security, begin, login }
    }
}

/// The way to a destination: all its servers, each of which is asked once for a message.
#[derive(Debug)]
struct Itinerary {
    to: Destination,
    /// Who has not been asked, best first.
    ahead: VecDeque<Stop>,
    /// Who is being talked with.
    here: Option<Stop>,
    /// Who was asked in vain.
    behind: Vec<Stop>,
}

/// A server, or, once they are known, one of its addresses.
#[derive(Clone, Debug)]
struct Stop {
    target: Arc<Target>,
    address: Option<IpAddr>,
}

impl Itinerary {
    fn new(to: &Destination, targets: Vec<Target>) -> Self {
        let stop = |target: Target| Stop { address: target.address, target: Arc::new(target) };
        Self { to: to.clone(), ahead: targets.into_iter().map(stop).collect(), here: None, behind: vec![] }
    }

    /// For another message: what those who were asked in vain said of the one before is no answer to this one.
    fn begin_again(&mut self) {
        for stop in self.behind.drain(..).rev() {
            self.ahead.push_front(stop);
        }
    }

    /// We talk with this one now.
    fn arrive(&mut self, stop: Stop) {
        self.behind.extend(self.here.replace(stop));
    }
}

/// Why a connection is not open.
enum NotOpen {
    /// This is what it means.
    Fate(Fate),
    /// TLS was offered and failed.
    NoTls(Fate),
}

impl NotOpen {
    fn fate(self) -> Fate {
        match self {
            NotOpen::Fate(fate) | NotOpen::NoTls(fate) => fate,
        }
    }
}

impl Couriers {
    /// With these settings.
    ///
    /// # Errors
    /// `/etc/resolv.conf` is asked for and cannot be read.
    pub fn new(settings: Settings, transcript: Transcript, metrics: &Metrics) -> io::Result<Self> {
        let resolver = Resolver::new(&settings.resolvers, settings.from, transcript.clone())?;
        let recipients = |fate| metrics.labelled("recipients_sent", "Recipients at other servers", &[("fate", fate)]);
        let counters = Counters {
            connections: metrics.counter("connections_out", "Connections to other servers"),
            relayed: recipients("relayed"),
            deferred: recipients("deferred"),
            failed: recipients("failed"),
        };
        let (random, tls) = (SystemRandom::new(), TlsConfig(without_verification()?));
        let own = OnceLock::new();
        Ok(Self(Arc::new(Office { settings, transcript, resolver, random, tls, counters, own })))
    }

    /// From now on no mail is taken to these sockets, which are ours: it would go round until its trace is too long (RFC 5321 §6.3).
    pub fn avoid(&self, own: Own) {
        // Sockets stay what they are as long as we run; so who says it twice says the same.
        let _ = self.0.own.set(own);
    }

    /// Where mail for a host of others goes: its own route, else the smart host, else where the DNS says.
    pub fn destination(&self, host: &Host) -> Destination {
        let Settings { routes, smart_host, .. } = &self.0.settings;
        match host {
            Host::Domain(domain) if smart_host.is_none() || routes.contains_key(domain) => {
                Destination::Domain(domain.clone())
            }
            Host::Literal(address) if smart_host.is_none() => Destination::Literal(*address),
            Host::Domain(_) | Host::Literal(_) => Destination::SmartHost,
        }
    }

    /// Opens a connection on which messages can be sent. Tries every server and every address, best first, before it gives up.
    ///
    /// # Errors
    /// [`Fate::Deferred`] or [`Fate::Failed`] for all that waits for this destination.
    pub async fn connect(&self, to: &Destination, cause: Option<u64>) -> Result<Connection, Fate> {
        let mut way = Itinerary::new(to, self.0.targets(to, cause).await?);
        let mut failures = vec![];
        match self.0.next(&mut way, cause, &mut failures).await {
            Some(talk) => Ok(Connection { couriers: self.clone(), way, talk, opened: Instant::now(), carried: 0 }),
            None => Err(together(failures)),
        }
    }
}

/// The fate that several failures make: as long as one of them may pass, there is hope.
fn together(mut failures: Vec<Fate>) -> Fate {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    let text = failures.iter().map(|fate| fate.account().to_string()).collect::<Vec<_>>().join("; ");
    let hope = failures.iter().find(|fate| matches!(fate, Fate::Deferred(_)));
    let status = hope.or(failures.first()).map_or(Status(4, 4, 1), |fate| fate.account().status);
    let told = Account { status, remote: None, reply: None, text };
    if hope.is_some() || failures.is_empty() { Fate::Deferred(told) } else { Fate::Failed(told) }
}

impl Office {
    /// The servers that take mail for this destination, best first.
    async fn targets(&self, to: &Destination, cause: Option<u64>) -> Result<Vec<Target>, Fate> {
        let Settings { port, routes, smart_host, our_names, .. } = &self.settings;
        let literal;
        let route = match to {
            Destination::Literal(address) => {
                literal = Route { host: Host::Literal(*address), port: None }.into();
                Some(&literal)
            }
            Destination::SmartHost => {
                let text = "mail is to go to the smart host, and the configuration names none".to_owned();
                let missing = Account { status: Status(4, 3, 5), remote: None, reply: None, text };
                Some(smart_host.as_ref().ok_or(Fate::Deferred(missing))?)
            }
            Destination::Domain(domain) => routes.get(domain),
        };
        if let Some(route) = route {
            let because = if matches!(to, Destination::Literal(_)) { Because::Literal } else { Because::Route };
            return Ok(vec![Target::neighbour(route, because, *port)]);
        }
        let Destination::Domain(domain) = to else { return Ok(vec![]) };
        let found = self.resolver.exchangers(domain, cause).await;
        let servers = mx::exchangers(domain, found, our_names, || self.random())?;
        Ok(servers.into_iter().map(|server| Target::exchanger(server, *port)).collect())
    }

    /// Opens a connection to the next server on the way that lets us in. RFC 5321 §5.1: "the SMTP client MUST be able to try (and retry) each
    /// of the relevant addresses in this list in order, until a delivery attempt succeeds."
    async fn next(&self, way: &mut Itinerary, cause: Option<u64>, failures: &mut Vec<Fate>) -> Option<Talk<Stream>> {
        while let Some(stop) = way.ahead.pop_front() {
            let Some(address) = stop.address else {
                self.look_up(way, stop, cause, failures).await;
                continue;
            };
            if self.is_own(&stop.target, address) {
                failures.push(mx::ourselves(&stop.target.server, &way.to));
                continue;
            }
            let failure = match self.open(&stop.target, address, cause).await {
                Ok(talk) => {
                    way.arrive(stop);
                    return Some(talk);
                }
                Err(fate) => fate,
            };
            failures.push(failure);
            way.behind.push(stop);
        }
        None
    }

    /// Looks up the addresses of a server that is next, and of those that are as good. RFC 5321 §5.1: we "MUST then inspect the list for any
    /// of the names or addresses by which" we are known; where one is ours, "all records at that preference level and higher-numbered ones
    /// MUST be discarded". Names were looked for in the records; addresses cost a question each, so those of worse servers wait until
    /// they are needed.
    async fn look_up(&self, way: &mut Itinerary, first: Stop, cause: Option<u64>, failures: &mut Vec<Fate>) {
        let because = first.target.server.because;
        let mut level = vec![first];
        while let Some(equal) =
            way.ahead.pop_front_if(|stop| stop.address.is_none() && stop.target.server.because == because)
        {
            level.push(equal);
        }
        let (mut found, mut lost, mut unknown) = (vec![], vec![], vec![]);
        for (stop, answer) in self.ask_for(level, cause).await {
            match answer {
                Ok(addresses) => {
                    found.extend(addresses.into_iter().map(|address| Stop { address: Some(address), ..stop.clone() }));
                }
                Err(fate) => {
                    lost.push(stop);
                    unknown.push(fate);
                }
            }
        }
        let own = |stop: &Stop| stop.address.is_some_and(|address| self.is_own(&stop.target, address));
        if because != Because::Route
            && let Some(own) = found.iter().find(|stop| own(stop))
        {
            way.ahead.clear();
            if way.here.is_none() && way.behind.is_empty() {
                failures.push(mx::ourselves(&own.target.server, &way.to));
            }
            return;
        }
        failures.extend(unknown);
        way.behind.extend(lost);
        found.into_iter().rev().for_each(|stop| way.ahead.push_front(stop));
    }

    /// Asks for the addresses of several servers at the same time.
    async fn ask_for(&self, stops: Vec<Stop>, cause: Option<u64>) -> Vec<(Stop, Result<Vec<IpAddr>, Fate>)> {
        let mut questions = JoinSet::new();
        for (number, stop) in stops.into_iter().enumerate() {
            let (resolver, families) = (self.resolver.clone(), self.families());
            questions.spawn(async move {
                let answer = resolver.addresses(&stop.target.server, families, cause).await;
                (number, stop, answer)
            });
        }
        let mut answers = questions.join_all().await;
        answers.sort_unstable_by_key(|(number, ..)| *number);
        answers.into_iter().map(|(_, stop, answer)| (stop, answer)).collect()
    }

    fn is_own(&self, target: &Target, address: IpAddr) -> bool {
        self.own.get().is_some_and(|own| own.has(SocketAddr::new(address, target.port), mx::is_here))
    }

    fn random(&self) -> u64 {
        let mut octets = [0; 8];
        // Without randomness the load is not spread, and that is all.
        let _ = self.random.fill(&mut octets);
        u64::from_ne_bytes(octets)
    }

    fn families(&self) -> Families {
        match (self.settings.from, self.settings.ipv6) {
            (Some(IpAddr::V6(_)), _) => Families::V6,
            (Some(IpAddr::V4(_)), _) | (None, false) => Families::V4,
            (None, true) => Families::Both,
        }
    }

    /// Opens a connection to this address and says hello.
    async fn open(&self, target: &Target, address: IpAddr, cause: Option<u64>) -> Result<Talk<Stream>, Fate> {
        let tls = match (target.begin, target.security) {
            (Begin::WithTls, _) => Tls::Begun,
            (Begin::InClear, Security::Opportunistic) => Tls::IfOffered,
            (Begin::InClear, Security::Required | Security::Verified) => Tls::Required,
        };
        match self.introduce(target, address, tls, cause).await {
            // RFC 7435: where encryption fails, opportunistic security still communicates. The handshake has spoilt the connection, so
            // this takes a new one.
            Err(NotOpen::NoTls(_)) if tls == Tls::IfOffered => {
                self.introduce(target, address, Tls::Never, cause).await.map_err(NotOpen::fate)
            }
            talk => talk.map_err(NotOpen::fate),
        }
    }

    async fn introduce(
        &self,
        target: &Target,
        address: IpAddr,
        tls: Tls,
        cause: Option<u64>,
    ) -> Result<Talk<Stream>, NotOpen> {
        let Settings { hello, timeouts, .. } = &self.settings;
        let (peer, stream, mut conversation) = self.reach(target, address, cause).await.map_err(NotOpen::Fate)?;
        let login = target.login.clone();
        let hello = Hello { name: hello.clone(), tls, nonce: login.as_ref().and_then(|_| nonce()), login };
        let stream = match target.begin {
            Begin::InClear => Either::Left(stream),
            Begin::WithTls => {
                let encrypted = self.handshake(target, &peer, stream, &conversation).await?;
                conversation.now_encrypted();
                Either::Right(encrypted)
            }
        };
        let (mut talk, step) = Talk::new(stream, hello, peer, *timeouts, conversation);
        let mut step = talk.run(step).await;
        if step == Step::StartTls {
            talk = self.encrypt(target, talk).await?;
            let next = talk.client.encrypted();
            step = talk.run(next).await;
        }
        match step {
            Step::Unready(fate) => {
                talk.quit().await;
                Err(NotOpen::Fate(fate))
            }
            _ => Ok(talk),
        }
    }

    /// Opens a TCP connection.
    async fn reach(
        &self,
        target: &Target,
        address: IpAddr,
        cause: Option<u64>,
    ) -> Result<(Peer, TcpStream, Conversation), Fate> {
        let remote = SocketAddr::new(address, target.port);
        let name = target.server.host.clone();
        // An address in brackets, as in mail addresses; before it the name, if it came from one.
        let label = match target.address {
            Some(address) => format!("[{address}]:{}", target.port),
            None => format!("{name} [{address}]:{}", target.port),
        };
        let from = self.settings.from.filter(|from| from.is_ipv4() == address.is_ipv4());
        let unspecified = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let ours = SocketAddr::new(from.unwrap_or(unspecified), 0);
        let connecting = async {
            let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if from.is_some() {
                socket.bind(ours)?;
            }
            let stream = socket.connect(remote).await?;
            // What we say leaves in one piece anyway, and the server should have it at once.
            stream.set_nodelay(true)?;
            // Without it mail is sent, too.
            let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_OCTETS_MAX);
            Ok::<_, io::Error>((stream.local_addr()?, stream))
        };
        let conversation = |local| {
            let talk = self.transcript.conversation(Transport::Tcp, local, remote);
            cause.into_iter().fold(talk, Conversation::because_of)
        };
        let patience = self.settings.connect_timeout;
        let why = match timeout(patience, connecting).await {
            Ok(Ok((local, stream))) => {
                self.counters.connections.inc();
                return Ok((Peer { name, label }, stream, conversation(local)));
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                "connection refused, for nobody listens at that port".to_owned()
            }
            Ok(Err(error)) => in_words(&error),
            Err(_) => format!(
                "no connection within {} s, so it is off, or something on the way drops what we send",
                patience.as_secs_f32()
            ),
        };
        let text = format!("{label} does not answer: {why}");
        conversation(ours).note(&text);
        Err(Fate::Deferred(Account { status: Status(4, 4, 1), remote: Some(name), reply: None, text }))
    }

    /// RFC 3207 §4.
    async fn encrypt(&self, target: &Target, talk: Talk<Stream>) -> Result<Talk<Stream>, NotOpen> {
        let Talk { wire, client, timeouts, .. } = talk;
        let conversation = wire.conversation().clone();
        let failed = |why: &dyn fmt::Display| no_tls(client.peer(), &conversation, Status(4, 7, 0), why);
        // What the server said in clear behind its 220 is dropped there: somebody else may have put it in.
        let unwired = wire.into_stream_for_tls().await.map_err(|error| failed(&error))?;
        let Either::Left(stream) = unwired.stream else { return Err(failed(&"it has begun already")) };
        let stream = self.handshake(target, client.peer(), stream, &conversation).await?;
        let wire = unwired.rest.over(Either::Right(stream));
        Ok(Talk { wire, client, listener: Listener::default(), timeouts, answers: 0 })
    }

    async fn handshake(
        &self,
        target: &Target,
        peer: &Peer,
        stream: TcpStream,
        conversation: &Conversation,
    ) -> Result<Box<TlsStream<TcpStream>>, NotOpen> {
        let failed = |status, why: &dyn fmt::Display| no_tls(peer, conversation, status, why);
        let config = match (target.security, &self.settings.trust) {
            (Security::Opportunistic | Security::Required, _) => &self.tls.0,
            (Security::Verified, Some(trust)) => trust,
            (Security::Verified, None) => return Err(failed(Status(4, 7, 5), &"nobody is trusted here")),
        };
        // RFC 8314 §3.4, RFC 6125: the name that the configuration knows the server by, not one that the DNS made of it.
        let name = peer.name.trim_matches(['[', ']']).trim_start_matches("IPv6:").to_owned();
        let name = ServerName::try_from(name).map_err(|error| failed(Status(4, 7, 0), &error))?;
        let connecting = begin_tls(Arc::clone(config), name, stream);
        match timeout(self.settings.timeouts.other, connecting).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => match flaw(&error) {
                Some(flaw) => Err(failed(Status(4, 7, 5), &flaw)),
                None => Err(failed(Status(4, 7, 0), &error)),
            },
            Err(_) => Err(failed(Status(4, 7, 0), &"no handshake in time")),
        }
    }
}

/// Begins TLS as the client.
async fn begin_tls<S: AsyncRead + AsyncWrite + Unpin>(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: S,
) -> io::Result<TlsStream<S>> {
    let mut stream = TlsConnector::from(config).connect(name, stream).await?;
    stream.get_mut().1.set_buffer_limit(Some(RECORD_OCTETS));
    Ok(stream)
}

/// TLS cannot be had.
fn no_tls(peer: &Peer, conversation: &Conversation, status: Status, why: &dyn fmt::Display) -> NotOpen {
    let text = format!("{} offers TLS, which fails: {why}", peer.label);
    conversation.note(&text);
    NotOpen::NoTls(Fate::Deferred(Account { status, remote: Some(peer.name.clone()), reply: None, text }))
}

/// What is wrong with the server's certificate, if it is that.
fn flaw(error: &io::Error) -> Option<String> {
    let rustls::Error::InvalidCertificate(flaw) = error.get_ref()?.downcast_ref()? else { return None };
    Some(match flaw {
        // A signature is bad, too, where somebody of the same name has another key: each lab has an authority of its own.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "nobody whom we trust has signed its certificate".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate is out of date".to_owned()
        }
        other => format!("its certificate is not good: {other}"),
    })
}

/// What the system says, without its numbers.
fn in_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut characters = text.chars();
    // It begins a sentence there and stands within one here.
    characters.next().map_or_else(String::new, |first| first.to_lowercase().chain(characters).collect())
}

/// A connection on which messages can be sent. It leads to the best server of its destination that takes them now.
#[derive(Debug)]
pub struct Connection {
    couriers: Couriers,
    way: Itinerary,
    talk: Talk<Stream>,
    opened: Instant,
    /// How many messages it has carried.
    carried: u32,
}

impl Connection {
    /// Sends a message. The fates are those of the job's recipients, in their order.
    pub async fn send(&mut self, job: &Job) -> Vec<Fate> {
        let fates = self.offer(job).await;
        let Counters { relayed, deferred, failed, .. } = &self.couriers.0.counters;
        for fate in &fates {
            match fate {
                Fate::Relayed { .. } | Fate::Expanded(_) | Fate::Delivered(_) => relayed.inc(),
                Fate::Deferred(_) => deferred.inc(),
                Fate::Failed(_) => failed.inc(),
            };
        }
        fates
    }

    /// Offers a message to the server that the connection leads to, and to the others of the destination, as long as recipients are left.
    async fn offer(&mut self, job: &Job) -> Vec<Fate> {
        if self.carried > 0 {
            self.way.begin_again();
        }
        let mut fates = self.carry(job).await;
        // A server may close a connection that has been idle, just when we use it again. That says nothing about the message: it goes over
        // a new connection. More than one answer means that the server has looked at it.
        if self.carried > 1 && !self.talk.client.is_ready() && self.talk.answers <= 1 {
            match self.couriers.connect(&self.way.to, job.cause).await {
                Ok(connection) => {
                    *self = connection;
                    fates = self.carry(job).await;
                }
                Err(fate) => return vec![fate; job.recipients.len()],
            }
        }
        let mut left = self.talk.client.elsewhere().to_vec();
        for _ in 1..OFFERS_MAX {
            if left.is_empty() || self.way.ahead.is_empty() {
                break;
            }
            left = self.offer_to_next(job, left, &mut fates).await;
        }
        fates
    }

    /// Offers a message to the next server for those who are left, by position. Tells who is left then.
    async fn offer_to_next(&mut self, job: &Job, left: Vec<usize>, fates: &mut [Fate]) -> Vec<usize> {
        let (id, count, remote) = (&job.id, left.len(), self.remote());
        let farewell = format!("message {id} is offered to the next server, for {count} of its recipients");
        self.talk.wire.conversation().note(&farewell);
        tracing::info!(%id, remote, recipients = count, why = %fates[left[0]].account(), "the next server is asked");
        let (mut failures, mut answers) = (vec![], vec![]);
        if let Some(talk) = self.couriers.0.next(&mut self.way, job.cause, &mut failures).await {
            // Only now, for a server that has no room for this message may have some for the next one.
            let old = replace(&mut self.talk, talk);
            self.carried = 0;
            let recipients = left.iter().map(|position| job.recipients[*position]).collect();
            let rest = Job { recipients, ..job.clone() };
            // A goodbye has time; the message need not wait for it.
            ((), answers) = tokio::join!(old.quit(), self.carry(&rest));
        }
        let elsewhere = if answers.is_empty() { &[] } else { self.talk.client.elsewhere() };
        let elsewhere = elsewhere.iter().map(|number| left[*number]).collect();
        let mut answers = answers.into_iter();
        for position in left {
            let before = &mut fates[position];
            *before = match answers.next() {
                // RFC 5321 §4.2.1: a server's own 5yz is final. What we only conclude from its offer may be otherwise at the others.
                Some(
                    fate @ (Fate::Relayed { .. } | Fate::Delivered(_) | Fate::Failed(Account { reply: Some(_), .. })),
                ) => fate,
                fate => together(iter::once(before.clone()).chain(failures.iter().cloned()).chain(fate).collect()),
            };
        }
        elsewhere
    }

    async fn carry(&mut self, job: &Job) -> Vec<Fate> {
        self.carried += 1;
        let conversation = self.talk.wire.conversation();
        if conversation.is_heard() {
            // One connection carries messages that came over several, and reports about them.
            let from = job.cause.map_or_else(String::new, |cause| format!(", because of connection {cause}"));
            conversation.note(&format!("message {}{from}", job.id));
        }
        self.talk.transact(job).await
    }

    /// Whether another message can be sent: the session is ready, and the server has not hung up or said something on its own (a
    /// goodbye, most likely) since the last one.
    pub fn is_usable(&self) -> bool {
        let tcp = match self.talk.wire.stream() {
            Either::Left(stream) => stream,
            Either::Right(stream) => stream.get_ref().0,
        };
        let quiet = recv(tcp, &mut [0; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT).is_err();
        self.talk.client.is_ready() && self.talk.wire.buffered_input() == 0 && quiet
    }

    /// Itself, for another message, if it can carry one and is not yet old.
    pub async fn keep(self, now: Instant) -> Option<Self> {
        if !self.is_usable() {
            return None;
        }
        if now.duration_since(self.opened) < CONNECTION_TIME {
            return Some(self);
        }
        self.quit().await;
        None
    }

    /// Says goodbye.
    pub async fn quit(self) {
        self.talk.quit().await;
    }

    /// Who the other end is: `mail.hamburger.edu [127.77.2.25]:8025`.
    pub fn remote(&self) -> &str {
        &self.talk.client.peer().label
    }
}

// --- One conversation -----------------------------------------------------------------------------------------------

/// A session and the wire it speaks over.
#[derive(Debug)]
struct Talk<S> {
    wire: Wire<S>,
    client: Client,
    listener: Listener,
    timeouts: Timeouts,
    /// How many replies were heard since the last transaction began.
    answers: u32,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl From<NoAnswer> for Loss {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::Malformed(malformed) => Loss::Malformed(malformed),
            NoAnswer::Wire(WireError::Closed) => Loss::HungUp,
            NoAnswer::Wire(WireError::TimedOut) => Loss::Silent,
            NoAnswer::Wire(WireError::Stuck) => Loss::Deaf,
            NoAnswer::Wire(WireError::Io(error)) => match error.kind() {
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                    Loss::HungUp
                }
                _ => Loss::Broken(in_words(&error)),
            },
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    fn new(stream: S, hello: Hello, peer: Peer, timeouts: Timeouts, conversation: Conversation) -> (Self, Step) {
        let (client, step) = Client::new(Arc::new(hello), peer);
        let limits = Limits {
            line_end: LineEnd::CrLf,
            line_octets_max: answer::LINE_OCTETS_MAX,
            idle: timeouts.greeting,
            write: timeouts.data_block,
        };
        let wire = Wire::new(stream, Role::Client, limits, mask, conversation);
        (Self { wire, client, listener: Listener::default(), timeouts, answers: 0 }, step)
    }

    /// Says and hears until the session wants something else.
    async fn run(&mut self, mut step: Step) -> Step {
        loop {
            step = match step {
                Step::Say(lines, awaited) => {
                    for line in &lines {
                        self.wire.say(line);
                    }
                    self.hear(awaited).await
                }
                Step::SaySecret(line, awaited) => {
                    self.wire.next_line_is_secret();
                    self.wire.say(line);
                    self.hear(awaited).await
                }
                Step::Hear(awaited) => self.hear(awaited).await,
                other => return other,
            };
        }
    }

    async fn hear(&mut self, awaited: Awaited) -> Step {
        let patience = match awaited {
            Awaited::Greeting => self.timeouts.greeting,
            Awaited::Mail => self.timeouts.mail,
            Awaited::Rcpt => self.timeouts.rcpt,
            Awaited::DataInitiation => self.timeouts.data_initiation,
            Awaited::DataTermination => self.timeouts.data_termination,
            Awaited::Quit => self.timeouts.quit,
            Awaited::Other => self.timeouts.other,
        };
        match self.answer(patience).await {
            Ok(answer) => self.client.on_answer(&answer),
            Err(NoAnswer::Wire(error @ (WireError::Io(_) | WireError::Stuck))) => self.last_words(error).await,
            Err(error) => self.client.lost(&error.into()),
        }
    }

    /// The next reply, however many lines it has, within `patience`.
    async fn answer(&mut self, patience: Duration) -> Result<Answer, NoAnswer> {
        self.wire.set_idle(patience);
        let Self { wire, listener, .. } = self;
        let whole = async {
            loop {
                if let Some(answer) = listener.hear(&wire.line().await?)? {
                    return Ok(answer);
                }
            }
        };
        // Lines that drip do not extend the time.
        let answer = timeout(patience, whole).await.unwrap_or(Err(NoAnswer::Wire(WireError::TimedOut)))?;
        self.answers += 1;
        Ok(answer)
    }

    /// What we say is not taken any more. A server that hangs up may have said why, and that may wait unread.
    async fn last_words(&mut self, error: WireError) -> Step {
        match self.answer(LAST_WORDS).await {
            Ok(answer) => {
                let step = self.client.on_answer(&answer);
                // If these words do not end the session, the connection does.
                if matches!(step, Step::Finished(_) | Step::Unready(_)) && !self.client.is_ready() {
                    return step;
                }
                self.client.lost(&NoAnswer::Wire(error).into())
            }
            Err(_) => self.client.lost(&NoAnswer::Wire(error).into()),
        }
    }

    async fn transact(&mut self, job: &Job) -> Vec<Fate> {
        self.answers = 0;
        let transaction = self.transaction(job).await;
        let mut step = self.client.begin(transaction);
        loop {
            step = match self.run(step).await {
                Step::SendMessage => self.send_message(job).await,
                Step::Finished(fates) => return fates,
                Step::Unready(fate) => return vec![fate; job.recipients.len()],
                // Within a transaction there is nothing else; if there were, it would not be what we are here for.
                _ => self.client.lost(&Loss::HungUp),
            };
        }
    }

    /// What is to be sent. What the envelope says of its octets is a promise, not a fact: where the server cannot have all that was
    /// promised, we look whether it is needed.
    async fn transaction(&self, job: &Job) -> Transaction {
        let Job { envelope, recipients, octets, .. } = job;
        let (mut body, mut charset) = (envelope.body, envelope.charset);
        let offer = self.client.offer();
        let in_doubt = body == Body::EightBitMime && !offer.has(Extension::EightBitMime)
            || charset == Charset::Utf8 && !offer.has(Extension::SmtpUtf8);
        if in_doubt && let Ok(seen) = look_through(job).await {
            if seen.body == Ascii::Only {
                body = Body::SevenBit;
            }
            // RFC 6531 §3.4, §3.5: what needs SMTPUTF8 is the addresses and the header.
            if seen.header == Ascii::Only {
                charset = Charset::Ascii;
            }
        }
        let (envelope, recipients) = (Arc::clone(envelope), recipients.clone());
        Transaction { envelope, recipients, octets: *octets, body, charset }
    }

    /// RFC 5321 §4.5.2: line by line, dots doubled.
    async fn send_message(&mut self, job: &Job) -> Step {
        let mut shown = Shown::new(self.wire.conversation(), Kind::Client);
        let (mut stuffing, mut chunk) = (Stuffing::default(), vec![]);
        let (mut at, end) = (job.start, job.start + job.octets);
        while at < end {
            chunk = match read(&job.message, chunk, at, end).await {
                Ok(chunk) if !chunk.is_empty() => chunk,
                // What cannot be finished must not look finished: no dot.
                Ok(_) => return self.client.lost(&Loss::Unreadable("it is shorter than it was".to_owned())),
                Err(error) => return self.client.lost(&Loss::Unreadable(in_words(&error))),
            };
            at += chunk.len() as u64;
            let out = self.wire.output_mut();
            let from = out.len();
            stuffing.push(&chunk, out);
            shown.push(&out[from..]);
            if self.wire.buffered_output() >= CHUNK_OCTETS
                && let Err(error) = self.wire.flush().await
            {
                return self.last_words(error).await;
            }
        }
        let out = self.wire.output_mut();
        let from = out.len();
        stuffing.finish(out);
        shown.push(&out[from..]);
        if let Err(error) = self.wire.flush().await {
            return self.last_words(error).await;
        }
        shown.tell(self.wire.conversation());
        self.client.message_sent()
    }

    /// RFC 5321 §4.1.1.10: "MUST NOT intentionally close the transmission channel until it sends a QUIT command, and it SHOULD wait until it receives
    /// the reply".
    async fn quit(mut self) {
        let step = self.client.quit();
        if let Step::Say(..) = step {
            self.run(step).await;
            // Whatever came of it, it was the end.
            let _ = self.wire.close().await;
        }
    }
}

// --- What octets a message has ----------------------------------------------------------------------------------------

/// Whether octets are all ASCII.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ascii {
    Only,
    Not,
}

/// What a look at a message has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    header: Ascii,
    /// Of all of it, the header included.
    body: Ascii,
}

/// Reads the message until it is clear what octets it has.
async fn look_through(job: &Job) -> io::Result<Seen> {
    let mut seen = Seen { header: Ascii::Only, body: Ascii::Only };
    let (mut at, end) = (job.start, job.start + job.octets);
    let (mut chunk, mut last, mut in_header) = (vec![], [0; 3], true);
    while at < end && (in_header || seen.body == Ascii::Only) {
        chunk = read(&job.message, chunk, at, end).await?;
        if chunk.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        at += chunk.len() as u64;
        if in_header {
            // The empty line may lie across two chunks.
            let across = [&last[..], &chunk[..chunk.len().min(3)]].concat();
            let header = match memmem::find(&across, b"\r\n\r\n") {
                Some(_) => &chunk[..0],
                None => &chunk[..memmem::find(&chunk, b"\r\n\r\n").unwrap_or(chunk.len())],
            };
            in_header = header.len() == chunk.len();
            if !header.is_ascii() {
                seen.header = Ascii::Not;
            }
            if let Some(tail) = chunk.last_chunk() {
                last = *tail;
            }
        }
        if !chunk.is_ascii() {
            seen.body = Ascii::Not;
        }
    }
    Ok(seen)
}

// --- TLS with whoever it is --------------------------------------------------------------------------------------------

/// The configuration of rustls, which says nothing of itself.
struct TlsConfig(Arc<ClientConfig>);

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConfig")
    }
}

/// RFC 7435: mail servers have certificates of their own making, and whoever could stand between us and the DNS could name another server
/// anyway. Refusing them would mean sending in clear, where everybody can read; so any certificate will do. It keeps out who listens, not who
/// intervenes.
fn without_verification() -> io::Result<Arc<ClientConfig>> {
    let provider = tls::provider();
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Takes any certificate, and still wants to see that the server has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Notify, Recipient, Ret};
    use shared::{metrics::Registers, tls::LabCa, transcript::Hub};
    use std::io::Write;
    use tokio::{
        io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, copy, duplex, split},
        net::TcpListener,
        time::sleep,
    };
    use tokio_rustls::TlsAcceptor;

    fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Talk<S>, Step) {
        let address = ([127, 0, 0, 1], 25).into();
        let conversation = Hub::quiet().transcript("smtp", "crepes.fr").conversation(Transport::Tcp, address, address);
        let hello = Hello { name: "crepes.fr".to_owned(), tls: Tls::IfOffered, login: None, nonce: None };
        let peer = Peer { name: "hamburger.edu".to_owned(), label: "hamburger.edu [127.0.0.1]:25".to_owned() };
        Talk::new(stream, hello, peer, Timeouts::default(), conversation)
    }

    fn job(content: &[u8]) -> Job {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        let to = "bob@hamburger.edu".parse().unwrap();
        let recipients = vec![Recipient { to, notify: Notify::Unsaid, orcpt: None }];
        let (body, charset, ret) = (Body::SevenBit, Charset::Ascii, Ret::Unsaid);
        let from = "<alice@crepes.fr>".parse().unwrap();
        let envelope = Arc::new(Envelope { from, body, charset, ret, envid: None, recipients });
        let (message, octets) = (Arc::new(file), content.len() as u64);
        Job { id: "Q1".to_owned(), cause: None, envelope, recipients: vec![0], message, start: 0, octets }
    }

    /// RFC 5321 §4.5.3.2: how long a server that falls silent after these replies is waited for, and what is told of it.
    async fn patience(replies: &str) -> (u64, String) {
        let (near, mut far) = duplex(1 << 16);
        far.write_all(replies.replace('|', "\r\n").as_bytes()).await.unwrap();
        let (mut talk, step) = talk(near);
        let began = Instant::now();
        let fate = match talk.run(step).await {
            Step::Ready => talk.transact(&job(b"hello\r\n")).await.remove(0),
            Step::Unready(fate) => fate,
            step => panic!("{step:?}"),
        };
        assert!(matches!(fate, Fate::Deferred(_)) && !talk.client.is_ready(), "{fate:?}");
        (began.elapsed().as_secs() / 60, fate.account().text.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn each_wait_has_the_limit_that_the_rfc_gives_it() {
        let ready = "220 b|250 b|";
        for (replies, minutes, when) in [
            ("", 5, ", and has not greeted"),
            ("220 b|", 5, " when we had said our name"),
            (ready, 5, " when we had said MAIL"),
            (&format!("{ready}250 ok|"), 5, " when we had said RCPT"),
            (&format!("{ready}250 ok|250 ok|"), 2, " when we had said DATA"),
            (
                &format!("{ready}250 ok|250 ok|354 go|"),
                10,
                " when it had the whole message and had not answered; if it has taken it over, it may arrive twice",
            ),
        ] {
            let text = format!("hamburger.edu [127.0.0.1]:25 was silent for too long{when}");
            assert_eq!(patience(replies).await, (minutes, text), "{replies}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lines_that_drip_do_not_extend_the_time_of_a_reply() {
        let (near, mut far) = duplex(1 << 16);
        let (mut talk, step) = talk(near);
        let drip = async {
            loop {
                far.write_all(b"220-patience\r\n").await.unwrap();
                sleep(Duration::from_mins(1)).await;
            }
        };
        let began = Instant::now();
        let step = tokio::select! {
            step = talk.run(step) => step,
            () = drip => unreachable!("it does not end"),
        };
        assert!(matches!(step, Step::Unready(Fate::Deferred(_))), "{step:?}");
        assert_eq!(began.elapsed(), Duration::from_mins(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_read_the_message_is_left_after_three_minutes() {
        // So much fits on the way, and no more.
        let (near, far) = duplex(1024);
        let (mut talk, step) = talk(near);
        let (hearing, mut mouth) = split(far);
        mouth.write_all(b"220 b\r\n250-b\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n").await.unwrap();
        assert_eq!(talk.run(step).await, Step::Ready);
        let began = Instant::now();
        let fates = talk.transact(&job(&b"hello\r\n".repeat(100_000))).await;
        drop(hearing);
        assert_eq!(began.elapsed(), Duration::from_mins(3) + LAST_WORDS);
        assert_eq!(
            fates[0].account().text,
            "hamburger.edu [127.0.0.1]:25 does not read what we say in the middle of the message"
        );
    }

    /// Carries what we say at 1200 bit/s, and what the server says at once.
    async fn modem(near: DuplexStream, far: DuplexStream) {
        let ((mut near, mut ear), (mut far, mut mouth)) = (split(near), split(far));
        let up = async {
            let mut second = [0; 120];
            while let Ok(octets @ 1..) = near.read(&mut second).await {
                mouth.write_all(&second[..octets]).await.unwrap();
                sleep(Duration::from_secs(1)).await;
            }
            mouth.shutdown().await.unwrap();
        };
        let _ = tokio::join!(up, copy(&mut far, &mut ear));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_reads_slowly_and_steadily_gets_it_all_over_tls_too() {
        let folder = tempfile::tempdir().unwrap();
        let config = LabCa::open_or_create(folder.path()).unwrap().certificate_for(&["b".to_owned()]).unwrap();
        let acceptor = TlsAcceptor::from(tls::server_config(&config, &[]).unwrap().unwrap());
        let ((near, near_modem), (far_modem, far)) = (duplex(1024), duplex(1024));
        let serve = async {
            let mut peer = BufStream::new(acceptor.accept(far).await.unwrap());
            let mut octets = 0;
            for (reply, until) in [
                ("220 b", "EHLO"),
                ("250 b", "MAIL"),
                ("250 ok", "RCPT"),
                ("250 ok", "DATA"),
                ("354 go", ".\r\n"),
                ("250 ok", ""),
            ] {
                peer.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
                peer.flush().await.unwrap();
                let mut line = String::new();
                while !until.is_empty() && !line.starts_with(until) {
                    line.clear();
                    match peer.read_line(&mut line).await {
                        Ok(read @ 1..) => octets += read,
                        _ => return octets,
                    }
                }
            }
            octets
        };
        let send = async {
            let config = without_verification().unwrap();
            let stream = begin_tls(config, "b".try_into().unwrap(), near).await.unwrap();
            let (mut talk, step) = talk(stream);
            assert_eq!(talk.run(step).await, Step::Ready);
            talk.transact(&job(&b"hello\r\n".repeat(20_000))).await
        };
        let (fates, octets, ()) = tokio::join!(send, serve, modem(near_modem, far_modem));
        assert!(matches!(fates[..], [Fate::Relayed { .. }]), "{fates:?}");
        assert!(octets > 140_000, "{octets}");
    }

    #[tokio::test]
    async fn little_that_a_server_has_not_taken_waits_in_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let neighbour = Route { host: Host::Literal(address.ip()), port: Some(address.port()) }.into();
        let target = Target::neighbour(&neighbour, Because::Route, 25);
        let (_, stream, _) = couriers().0.reach(&target, address.ip(), None).await.unwrap();
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT_OCTETS_MAX);
    }

    fn couriers() -> Couriers {
        let settings = Settings {
            hello: "crepes.fr".to_owned(),
            resolvers: vec![([127, 0, 0, 1], 9).into()],
            routes: HashMap::new(),
            smart_host: None,
            trust: None,
            port: 25,
            from: None,
            our_names: vec![],
            ipv6: false,
            connect_timeout: Duration::from_secs(10),
            timeouts: Timeouts::default(),
        };
        let metrics = Registers::default().of("smtp", "crepes.fr");
        Couriers::new(settings, Hub::quiet().transcript("smtp", "crepes.fr"), &metrics).unwrap()
    }
}
