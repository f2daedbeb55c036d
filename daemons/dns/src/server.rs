//! The sockets: datagrams and connections in, answers out.

use crate::{
    authority::Rotation,
    config::Config,
    connection, datagrams,
    message::{Rcode, Received},
    registry::{self, Registry},
    resolver::{Resolver, iterate::Cached, views::Resolvers},
    respond::{self, Asker, Carrier, Policy, Response, World},
};
use prometheus_client::metrics::counter::Counter;
use shared::{
    Shared,
    daemon::{Endpoint, StartError, Workers},
    listener::{BindError, Door, Limits},
    tls,
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpStream, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A bound name server.
pub struct Server {
    serving: Arc<Serving>,
    door: Door,
    workers: Vec<Sockets>,
    endpoints: Vec<Endpoint>,
    grace: Duration,
    placement: Workers,
}

/// Lets a running server take a new configuration.
#[derive(Clone)]
pub struct Reloader {
    registry: Arc<Registry>,
    tls: Arc<tls::Renewed>,
}

impl Reloader {
    /// Reads all zones anew, and takes keys, views, lists and the certificate anew. Addresses, limits and times stay as they were at the
    /// start. No query is lost: whoever is being answered is answered from the old zones.
    ///
    /// # Errors
    /// The certificate is wrong, then everything stays; the rest of the configuration is, then everything but the certificate stays; or a
    /// zone is, then its old data stays, if it was served before, and the others are taken.
    pub fn reload(&self, config: &Config, shared: &Shared) -> Result<(), StartError> {
        self.tls.renew(shared)?;
        self.registry.reload(config).map(drop)
    }

    /// Reads all zones anew, with the configuration as it was. What is doubtful in them is told, as a serial that has not grown.
    ///
    /// # Errors
    /// A zone is wrong: its old data stays, if it was served before, and the others are taken.
    pub fn reload_zones(&self) -> Result<Vec<String>, StartError> {
        self.registry.zones_reload()
    }
}

/// With IANA's ALPN name for RFC 7858.
const TLS: tls::Service = tls::Service { name: "DNS over TLS", alpn: &[b"dot"], key: "dns.listen_tls" };

/// One worker's sockets.
#[derive(Debug, Default)]
struct Sockets {
    udp: Vec<UdpSocket>,
    /// With TLS or without.
    tcp: Vec<(Carrier, TcpListener)>,
}

/// What all workers share.
pub(crate) struct Serving {
    pub(crate) registry: Arc<Registry>,
    pub(crate) idle_timeout: Duration,
    pub(crate) send_timeout: Duration,
    pub(crate) transcript: Transcript,
    pub(crate) counters: Counters,
    tls: Arc<tls::Renewed>,
    /// Which address of a set the next connection begins with: most of them ask one question.
    turns: AtomicU16,
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Counters {
    udp: Counter,
    tcp: Counter,
    tls: Counter,
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
            tls: queries("tls"),
            silent: shared.metrics.counter("unanswered", "Messages that get no answer"),
            truncated: shared.metrics.counter("truncated", "Answers with TC"),
            by_rcode: Rcode::ALL.map(answers),
        }
    }

    pub(crate) fn count(&self, carrier: Carrier, response: Response, answer: &[u8]) {
        match carrier {
            Carrier::Udp => self.udp.inc(),
            Carrier::Tcp => self.tcp.inc(),
            Carrier::Tls => self.tls.inc(),
        };
        match response {
            Response::Errand | Response::Recurse(_) => {}
            Response::Silence(_) => {
                self.silent.inc();
            }
            Response::Send { rcode, .. } => self.answered(rcode, answer),
        }
    }

    fn answered(&self, rcode: Rcode, answer: &[u8]) {
        if let Some(index) = Rcode::ALL.iter().position(|known| *known == rcode) {
            self.by_rcode[index].inc();
        }
        if answer.get(2).is_some_and(|flags| flags & 0x02 != 0) {
            self.truncated.inc();
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
    /// What would keep it from starting, but for sockets: all zones are read.
    pub fn check(config: &Config, shared: &Shared) -> Vec<StartError> {
        let results = [
            config.refuse_unsafe(),
            TLS.acceptor(shared, &config.listen_tls).map(drop),
            Policy::new(config).map(drop),
            Resolver::open(config, shared).map(drop),
            StartError::all(registry::check(config)),
        ];
        results.into_iter().filter_map(Result::err).flat_map(StartError::each).collect()
    }

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
                worker.tcp.push((Carrier::Tcp, tcp));
            }
        }
        let tls = tls::Renewed::new(TLS, shared, &config.listen_tls)?;
        for wanted in &config.listen_tls {
            let listeners = shared.sockets.tcp(*wanted, count)?;
            endpoints.push(Endpoint { protocol: "tls", address: listeners[0].local_addr()? });
            for (worker, listener) in workers.iter_mut().zip(listeners) {
                worker.tcp.push((Carrier::Tls, listener));
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
            tls,
            turns: AtomicU16::new(0),
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

    /// A handle for new configurations and zones.
    pub fn reloader(&self) -> Reloader {
        let Serving { registry, tls, .. } = &*self.serving;
        Reloader { registry: Arc::clone(registry), tls: Arc::clone(tls) }
    }

    /// The local name servers in it, if it asks on for its clients.
    pub fn resolvers(&self) -> Option<Arc<Resolvers>> {
        self.serving.registry.resolvers.clone()
    }

    /// Serves until `shutdown`, then lets connections finish for the grace time.
    ///
    /// # Errors
    /// A worker thread or its runtime cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let resolvers = self.resolvers();
        let Self { serving, door, workers, grace, placement, .. } = self;
        let work = |sockets| {
            let worker =
                Worker { serving: Arc::clone(&serving), door: door.clone(), shutdown: shutdown.clone(), grace };
            worker.run(sockets)
        };
        let tasks = TaskTracker::new();
        let (registry, stop) = (Arc::clone(&serving.registry), shutdown.clone());
        tasks.spawn(registry.clone().keep_signed(stop.clone()));
        if let Some(resolvers) = resolvers {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(resolvers.keep_primed()).await });
        }
        tasks.spawn(registry.run(stop));
        let served = placement.run("dns", workers.into_iter().map(work).collect()).await;
        // A worker that failed takes the rest with it.
        shutdown.cancel();
        tasks.close();
        tasks.wait().await;
        Ok(served?)
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
            socket.set_nonblocking(true)?;
            let socket = Arc::new(socket);
            let (serving, shutdown, errands) = (Arc::clone(&serving), shutdown.clone(), tasks.clone());
            tasks.spawn(async move {
                let served = shutdown.run_until_cancelled(datagrams::serve(&serving, socket, &errands)).await;
                if let Some(Err(error)) = served {
                    tracing::error!(%error, "cannot serve over UDP");
                }
            });
        }
        for (carrier, listener) in sockets.tcp {
            let (serving, shutdown, door) = (Arc::clone(&serving), shutdown.clone(), door.clone());
            tasks.spawn(async move {
                let serve_one = |stream: TcpStream, peer| {
                    let (serving, shutdown) = (Arc::clone(&serving), shutdown.clone());
                    async move {
                        let local = stream.local_addr().unwrap_or(peer);
                        let transport = if carrier == Carrier::Tls { Transport::Tls } else { Transport::Tcp };
                        let talk = Arc::new(serving.transcript.conversation(transport, local, peer));
                        talk.opened();
                        if let Err(error) = serving.connection(stream, peer, carrier, &talk, &shutdown).await {
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

impl Serving {
    async fn connection(
        self: &Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        carrier: Carrier,
        talk: &Arc<Conversation>,
        shutdown: &CancellationToken,
    ) -> io::Result<()> {
        match self.tls.acceptor() {
            Some(acceptor) if carrier == Carrier::Tls => {
                let accepted = acceptor.accept(stream, self.idle_timeout, talk.id()).await;
                let stream = accepted.inspect_err(|failed| talk.note(&failed.to_string())).map_err(io::Error::other)?;
                connection::serve(self, stream, peer, carrier, talk, shutdown).await
            }
            _ => connection::serve(self, stream, peer, carrier, talk, shutdown).await,
        }
    }
}

impl Serving {
    /// Answers what others must be asked for, and tells those who watch.
    pub(crate) async fn recurse(
        &self,
        world: &World,
        message: &[u8],
        asker: Asker,
        cached: Cached,
        talk: &Conversation,
    ) -> Option<Vec<u8>> {
        let turn = usize::from(self.turns.fetch_add(1, Ordering::Relaxed));
        let (answer, rcode, because) = respond::recurse(world, message, asker, cached, talk.id(), turn).await?;
        self.counters.answered(rcode, &answer);
        if talk.is_heard() {
            talk.note(&because.to_string());
            talk.server(respond::answer_told(&answer, rcode).as_bytes(), answer.len());
        }
        Some(answer)
    }
}

/// The zones as they are now, and what one thread remembers from one answer to the next.
pub(crate) struct View {
    changes: watch::Receiver<Arc<World>>,
    world: Arc<World>,
    rotation: Rotation,
}

impl View {
    pub(crate) fn of(serving: &Serving) -> Self {
        let mut changes = serving.registry.world();
        let world = Arc::clone(&changes.borrow_and_update());
        let rotation = Rotation::beginning_with(serving.turns.fetch_add(1, Ordering::Relaxed));
        Self { changes, world, rotation }
    }

    /// Takes new zones, if there are any: one atomic load, if not.
    pub(crate) fn refresh(&mut self) {
        if self.changes.has_changed().unwrap_or(false) {
            self.world = Arc::clone(&self.changes.borrow_and_update());
        }
    }

    /// The largest datagram that is sent.
    pub(crate) fn udp_octets_max(&self) -> usize {
        usize::from(self.world.udp_octets_max)
    }

    /// The zones as they are now.
    pub(crate) fn world(&self) -> Arc<World> {
        Arc::clone(&self.world)
    }

    pub(crate) fn respond(&mut self, received: &Received<'_>, asker: Asker, buffer: &mut [u8]) -> Response {
        respond::respond(&self.world, received, asker, &mut self.rotation, buffer)
    }
}

/// Question, answer and reason, for whoever watches.
pub(crate) fn tell(talk: &Conversation, received: &Received<'_>, octets_in: usize, response: Response, answer: &[u8]) {
    talk.client(respond::question_line(received).as_bytes(), octets_in);
    match response {
        Response::Errand | Response::Recurse(_) => {}
        Response::Silence(because) => talk.note(&format!("no answer: {because}")),
        Response::Send { octets, rcode, because } => {
            talk.note(&because.to_string());
            talk.server(respond::answer_told(&answer[..octets], rcode).as_bytes(), octets);
        }
    }
}
