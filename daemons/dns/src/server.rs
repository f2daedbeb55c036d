//! The sockets: datagrams and connections in, answers out.

use crate::{
    authority::Rotation,
    config::Config,
    message::{self, Rcode, Received},
    registry::{Registry, Reloader},
    respond::{self, Asker, Carrier, Response, World},
};
use prometheus_client::metrics::counter::Counter;
use shared::{
    Shared,
    daemon::{Endpoint, StartError, Workers},
    listener::{BindError, Door, Limits},
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The largest message that can come over TCP, whose length has two octets.
const TCP_OCTETS_MAX: usize = u16::MAX as usize;
/// A query is small; what does not fit here is cut off and then malformed.
const UDP_QUERY_OCTETS_MAX: usize = 4096;
/// Answers to pipelined queries are sent together up to this size.
const BATCH_OCTETS: usize = 16 * 1024;
/// After an error of the socket: long enough not to spin, short enough not to be noticed.
const UDP_PAUSE: Duration = Duration::from_millis(100);

/// A bound name server.
pub struct Server {
    serving: Arc<Serving>,
    door: Door,
    workers: Vec<Sockets>,
    endpoints: Vec<Endpoint>,
    grace: Duration,
    placement: Workers,
}

/// One worker's sockets.
#[derive(Debug, Default)]
struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// What all workers share.
#[derive(Debug)]
struct Serving {
    registry: Arc<Registry>,
    idle_timeout: Duration,
    send_timeout: Duration,
    transcript: Transcript,
    counters: Counters,
}

/// What is counted.
#[derive(Debug)]
struct Counters {
    udp: Counter,
    tcp: Counter,
    silent: Counter,
    truncated: Counter,
    by_rcode: [Counter; Rcode::ALL.len()],
}

impl Counters {
    fn new(shared: &Shared) -> Self {
        let queries = |over| shared.metrics.labelled("queries", "Messages received", &[("transport", over)]);
        let answers =
            |rcode: Rcode| shared.metrics.labelled("responses", "Answers by RCODE", &[("rcode", &rcode.to_string())]);
        Self {
            udp: queries("udp"),
            tcp: queries("tcp"),
            silent: shared.metrics.counter("unanswered", "Messages that get no answer"),
            truncated: shared.metrics.counter("truncated", "Answers with TC"),
            by_rcode: Rcode::ALL.map(answers),
        }
    }

    fn count(&self, carrier: Carrier, response: Response, answer: &[u8]) {
        match carrier {
            Carrier::Udp => self.udp.inc(),
            Carrier::Tcp => self.tcp.inc(),
        };
        match response {
            Response::Errand => {}
            Response::Silence(_) => {
                self.silent.inc();
            }
            Response::Send { rcode, .. } => {
                if let Some(index) = Rcode::ALL.iter().position(|known| *known == rcode) {
                    self.by_rcode[index].inc();
                }
                if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
                    self.truncated.inc();
                }
            }
        }
    }
}

/// With port 0, how often another port is tried when the one that the kernel chose for UDP is taken over TCP.
const PORT_TRIES: usize = 32;

/// Sockets for UDP and TCP at the same port: a client that was told TC asks again there.
fn both(
    shared: &Shared,
    wanted: SocketAddr,
    count: NonZeroUsize,
) -> Result<(Vec<UdpSocket>, Vec<TcpListener>), StartError> {
    let mut tries = 1;
    loop {
        let udp = shared.sockets.udp_shared(wanted, count)?;
        match shared.sockets.tcp(udp[0].local_addr()?, count) {
            Err(BindError::InUse { .. }) if wanted.port() == 0 && tries < PORT_TRIES => tries += 1,
            tcp => return Ok((udp, tcp?)),
        }
    }
}

impl Server {
    /// Reads the zones and binds all addresses.
    ///
    /// # Errors
    /// A zone is wrong, or an address cannot be had.
    pub fn bind(config: &Config, shared: &Shared) -> Result<Self, StartError> {
        let registry = Registry::open(config, shared)?;
        let count = shared.workers.count(config.workers);
        let mut workers: Vec<Sockets> = (0..count.get()).map(|_| Sockets::default()).collect();
        let mut endpoints = vec![];
        for wanted in &config.listen {
            let (udp, tcp) = both(shared, *wanted, count)?;
            endpoints.push(Endpoint { protocol: "udp", address: udp[0].local_addr()? });
            endpoints.push(Endpoint { protocol: "tcp", address: tcp[0].local_addr()? });
            for (worker, (udp, tcp)) in workers.iter_mut().zip(udp.into_iter().zip(tcp)) {
                worker.udp.push(udp);
                worker.tcp.push(tcp);
            }
        }
        // DNS has no words for a connection that is one too many.
        let limits = Limits { connections: config.connections, per_peer: config.connections_per_peer, refusal: b"" };
        let serving = Serving {
            registry,
            idle_timeout: config.idle_timeout.0,
            send_timeout: config.send_timeout.0,
            transcript: shared.transcript.clone(),
            counters: Counters::new(shared),
        };
        Ok(Self {
            serving: Arc::new(serving),
            door: Door::new(limits, &shared.metrics),
            workers,
            endpoints,
            grace: config.grace.0,
            placement: shared.workers,
        })
    }

    /// Where it serves over `udp` and `tcp`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// A handle for new zones.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.serving.registry))
    }

    /// Serves until `shutdown`, then lets connections finish for the grace time.
    ///
    /// # Errors
    /// A worker thread or its runtime cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { serving, door, workers, grace, placement, .. } = self;
        let work = |sockets| {
            let worker =
                Worker { serving: Arc::clone(&serving), door: door.clone(), shutdown: shutdown.clone(), grace };
            worker.run(sockets)
        };
        Ok(placement.run("dns", workers.into_iter().map(work).collect()).await?)
    }
}

/// A thread's share of the work.
struct Worker {
    serving: Arc<Serving>,
    door: Door,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Worker {
    async fn run(self, sockets: Sockets) -> io::Result<()> {
        let Self { serving, door, shutdown, grace } = self;
        let tasks = TaskTracker::new();
        for socket in sockets.udp {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            let local = socket.local_addr()?;
            let (serving, shutdown) = (Arc::clone(&serving), shutdown.clone());
            tasks.spawn(async move { shutdown.run_until_cancelled(datagrams(&serving, &socket, local)).await });
        }
        for listener in sockets.tcp {
            let (serving, shutdown, door) = (Arc::clone(&serving), shutdown.clone(), door.clone());
            tasks.spawn(async move {
                let serve_one = |stream: TcpStream, peer| {
                    let (serving, shutdown) = (Arc::clone(&serving), shutdown.clone());
                    async move {
                        let local = stream.local_addr().unwrap_or(peer);
                        let talk = serving.transcript.conversation(Transport::Tcp, local, peer);
                        talk.opened();
                        if let Err(error) = connection(&serving, stream, peer.ip(), &talk, &shutdown).await {
                            tracing::debug!(connection = talk.id(), %error, "connection ends");
                        }
                        talk.closed();
                    }
                };
                if let Err(error) = door.accept(listener, &shutdown, serve_one).await {
                    tracing::error!(%error, "cannot serve over TCP");
                }
            });
        }
        tasks.close();
        tasks.wait().await;
        door.close(grace).await;
        Ok(())
    }
}

/// The zones as they are now; one atomic load, unless they have changed.
struct View {
    changes: watch::Receiver<Arc<World>>,
    world: Arc<World>,
    rotation: Rotation,
}

impl View {
    fn of(serving: &Serving) -> Self {
        let mut changes = serving.registry.world();
        let world = Arc::clone(&changes.borrow_and_update());
        Self { changes, world, rotation: Rotation::default() }
    }

    fn respond(&mut self, received: &Received<'_>, asker: Asker, buffer: &mut [u8]) -> Response {
        if self.changes.has_changed().unwrap_or(false) {
            self.world = Arc::clone(&self.changes.borrow_and_update());
        }
        respond::respond(&self.world, received, asker, &mut self.rotation, buffer)
    }
}

/// Everybody who asks by datagrams.
async fn datagrams(serving: &Serving, socket: &tokio::net::UdpSocket, local: SocketAddr) {
    let mut view = View::of(serving);
    let (mut query, mut answer) = (vec![0; UDP_QUERY_OCTETS_MAX], vec![0; TCP_OCTETS_MAX]);
    loop {
        let (octets, peer) = match socket.recv_from(&mut query).await {
            Ok(received) => received,
            Err(error) => {
                // ICMP's "port unreachable" for an answer of ours comes here; it is nobody's fault.
                tracing::debug!(%error, "cannot receive");
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    tokio::time::sleep(UDP_PAUSE).await;
                }
                continue;
            }
        };
        let received = message::receive(&query[..octets]);
        let response = view.respond(&received, Asker { address: peer.ip(), carrier: Carrier::Udp }, &mut answer);
        serving.counters.count(Carrier::Udp, response, &answer);
        if serving.transcript.is_heard() {
            let talk = serving.transcript.conversation(Transport::Udp, local, peer);
            tell(&talk, &received, octets, response, &answer);
        }
        if let Response::Send { octets, .. } = response
            && let Err(error) = socket.send_to(&answer[..octets], peer).await
        {
            tracing::debug!(%peer, %error, "cannot send");
        }
    }
}

/// One client over TCP (RFC 7766): each message with its length before it, many of them one after the other.
async fn connection(
    serving: &Serving,
    mut stream: TcpStream,
    client: IpAddr,
    talk: &Conversation,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut reading = BufReader::new(reading);
    let mut view = View::of(serving);
    let (mut query, mut answer, mut batch) = (vec![], vec![0; TCP_OCTETS_MAX], vec![]);
    loop {
        // A stop is noticed between two queries. DNS has no goodbye; a client asks again elsewhere.
        let next = timeout(serving.idle_timeout, read_message(&mut reading, &mut query));
        match shutdown.run_until_cancelled(next).await {
            None | Some(Ok(Ok(Next::End))) => return Ok(()),
            Some(Ok(Ok(Next::Message))) => {}
            Some(Ok(Err(error))) => return Err(error),
            Some(Err(_)) => {
                talk.note("idle for too long");
                return Ok(());
            }
        }
        let received = message::receive(&query);
        let response = view.respond(&received, Asker { address: client, carrier: Carrier::Tcp }, &mut answer);
        serving.counters.count(Carrier::Tcp, response, &answer);
        if talk.is_heard() {
            tell(talk, &received, query.len(), response, &answer);
        }
        if let Response::Send { octets, .. } = response {
            // RFC 7766 §8: length and message in one write, so that they are one segment.
            batch.extend_from_slice(&(octets as u16).to_be_bytes());
            batch.extend_from_slice(&answer[..octets]);
        }
        // RFC 7766 §6.2.1.1: queries may be pipelined; those that are here already are answered together.
        if !has_message(reading.buffer()) || batch.len() >= BATCH_OCTETS {
            timeout(serving.send_timeout, writing.write_all(&batch)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            batch.clear();
        }
    }
}

/// What came over a connection.
enum Next {
    Message,
    End,
}

/// Whether a whole message is in the buffer: only then may the answers before it wait for its own.
fn has_message(buffer: &[u8]) -> bool {
    buffer
        .split_first_chunk::<2>()
        .is_some_and(|(length, message)| message.len() >= usize::from(u16::from_be_bytes(*length)))
}

async fn read_message(reading: &mut (impl AsyncReadExt + Unpin), query: &mut Vec<u8>) -> io::Result<Next> {
    let mut length = [0; 2];
    match reading.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::End),
        other => other?,
    };
    query.resize(usize::from(u16::from_be_bytes(length)), 0);
    reading.read_exact(query).await?;
    Ok(Next::Message)
}

/// Question, answer and reason, for whoever watches.
fn tell(talk: &Conversation, received: &Received<'_>, octets_in: usize, response: Response, answer: &[u8]) {
    talk.client(respond::question_line(received).as_bytes(), octets_in);
    match response {
        Response::Errand => {}
        Response::Silence(because) => talk.note(&format!("no answer: {because}")),
        Response::Send { octets, rcode, because } => {
            talk.note(&because.to_string());
            talk.server(respond::answer_line(&answer[..octets], rcode).as_bytes(), octets);
        }
    }
}
