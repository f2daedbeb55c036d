//! Sockets, and the one accept loop of the suite.
//!
//! A socket is either our own or was handed over by systemd (`LISTEN_FDS`); the daemons cannot tell the difference. A
//! port that cannot be had is an error that names the cure: who holds it, or which privilege is missing.

use crate::metrics::Metrics;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SocketFlags, acceptfrom_with},
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::{
    collections::HashMap,
    fs,
    future::Future,
    io::{self, ErrorKind, Write},
    net::{
        IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream,
        UdpSocket as StdUdpSocket,
    },
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::TcpStream,
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How many connections the kernel may queue for us before it drops new ones. Linux cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// How many octets a connection may hold in the kernel that were not sent yet (`TCP_NOTSENT_LOWAT`). Without it the kernel
/// takes up to 4 MiB for every client that asks for a long file, which gains nothing: what waits there is no longer in
/// the processor's cache when its turn comes.
pub const UNSENT_OCTETS_MAX: u32 = 128 << 10;
/// The same for conversations. The kernel says that there is room again when half of it has gone. Of 128 KiB that takes a slow reader
/// eight seconds, in which nobody can see that he reads.
const UNSENT_OCTETS_MAX_OF_TALK: u32 = 16 << 10;
/// How long to wait after `accept` failed for want of descriptors or memory: long enough not to spin, short enough
/// that nobody notices when a descriptor becomes free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that cannot be had, and the cure.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there already.
    #[error("{protocol} port {} on {} is held by {holder}: stop that program, or choose another port with `listen`",
        address.port(), address.ip())]
    InUse {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// What was asked for.
        address: SocketAddr,
        /// Program and pid, as far as it can be seen.
        holder: String,
    },
    /// Ports below 1024 need a privilege.
    #[error("{protocol} port {} on {} needs a privilege: start by systemd (which hands the socket over), give \
        the program the capability (setcap cap_net_bind_service=+ep), or choose a port above 1023", address.port(), address.ip())]
    Privileged {
        /// `TCP` or `UDP`.
        protocol: &'static str,
        /// What was asked for.
        address: SocketAddr,
    },
    /// The address is not one of this machine's.
    #[error("{address} is not an address of this machine: see `ip address`, or listen on 0.0.0.0 or [::]")]
    NotOurs {
        /// What was asked for.
        address: SocketAddr,
    },
    /// Anything else that the kernel says.
    #[error("cannot listen on {address}: {source}")]
    Other {
        /// What was asked for.
        address: SocketAddr,
        /// The kernel's word.
        source: io::Error,
    },
}

/// Where daemons get their sockets from.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    handed_over: Arc<Mutex<HandedOver>>,
}

#[derive(Debug, Default)]
struct HandedOver {
    tcp: Vec<StdTcpListener>,
    udp: Vec<StdUdpSocket>,
}

impl Sockets {
    /// Takes the sockets that systemd hands over (`sd_listen_fds(3)`), if any.
    pub fn from_environment() -> Self {
        let mut fds = listenfd::ListenFd::from_env();
        let mut handed_over = HandedOver::default();
        for index in 0..fds.len() {
            // Each `take` checks the socket's type and leaves the descriptor alone when it is another.
            if let Ok(Some(tcp)) = fds.take_tcp_listener(index) {
                handed_over.tcp.push(tcp);
            } else if let Ok(Some(udp)) = fds.take_udp_socket(index) {
                handed_over.udp.push(udp);
            }
        }
        Self { handed_over: Arc::new(Mutex::new(handed_over)) }
    }

    /// `count` listening sockets for `address`, one for each worker; the kernel spreads connections over them.
    ///
    /// # Errors
    /// The address cannot be had; see [`BindError`].
    pub fn tcp(&self, address: SocketAddr, count: NonZeroUsize) -> Result<Vec<StdTcpListener>, BindError> {
        let wrap = |error| explain(error, "TCP", address);
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let position = handed_over.tcp.iter().position(|s| s.local_addr().is_ok_and(|a| same(a, address)));
        if let Some(index) = position {
            let first = handed_over.tcp.swap_remove(index);
            first.set_nonblocking(true).map_err(wrap)?;
            // One socket is all that systemd gives; the workers share its queue.
            let others = (1..count.get()).map(|_| first.try_clone()).collect::<Result<Vec<_>, _>>().map_err(wrap)?;
            return Ok(std::iter::once(first).chain(others).collect());
        }
        let bind = |address, sharing| bind_tcp(address, sharing).map_err(wrap);
        if count.get() == 1 {
            return Ok(vec![listen(bind(address, Sharing::No)?).map_err(wrap)?]);
        }
        // SO_REUSEPORT would let a second daemon of the same user share the port in silence. So the port is first
        // taken alone, which fails if anybody is there, and only then shared among our own workers.
        let probe = bind(address, Sharing::No)?;
        let address = probe.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
        drop(probe);
        (0..count.get()).map(|_| listen(bind(address, Sharing::AmongWorkers)?).map_err(wrap)).collect()
    }

    /// A UDP socket for `address`.
    ///
    /// # Errors
    /// The address cannot be had; see [`BindError`].
    pub fn udp(&self, address: SocketAddr) -> Result<StdUdpSocket, BindError> {
        let socket = match self.udp_handed_over(address) {
            Some(socket) => socket,
            None => bind_udp(address, Sharing::No).map_err(|error| explain(error, "UDP", address))?.into(),
        };
        socket.set_nonblocking(true).map_err(|error| explain(error, "UDP", address))?;
        Ok(socket)
    }

    /// `count` UDP sockets for `address`, one for each worker; the kernel spreads the clients over them, each client always to
    /// the same one.
    ///
    /// # Errors
    /// The address cannot be had; see [`BindError`].
    pub fn udp_shared(&self, address: SocketAddr, count: NonZeroUsize) -> Result<Vec<StdUdpSocket>, BindError> {
        let wrap = |error| explain(error, "UDP", address);
        if let Some(first) = self.udp_handed_over(address) {
            first.set_nonblocking(true).map_err(wrap)?;
            // As with TCP: one socket is all that systemd gives.
            let others = (1..count.get()).map(|_| first.try_clone()).collect::<Result<Vec<_>, _>>().map_err(wrap)?;
            return Ok(std::iter::once(first).chain(others).collect());
        }
        if count.get() == 1 {
            return Ok(vec![self.udp(address)?]);
        }
        // As with TCP: alone first, so that nobody else's port is shared in silence.
        let probe = bind_udp(address, Sharing::No).map_err(wrap)?;
        let address = probe.local_addr().ok().and_then(|a| a.as_socket()).unwrap_or(address);
        drop(probe);
        let bind_one = |_| {
            let socket: StdUdpSocket = bind_udp(address, Sharing::AmongWorkers).map_err(wrap)?.into();
            socket.set_nonblocking(true).map_err(wrap)?;
            Ok(socket)
        };
        (0..count.get()).map(bind_one).collect()
    }

    fn udp_handed_over(&self, address: SocketAddr) -> Option<StdUdpSocket> {
        let mut handed_over = self.handed_over.lock().unwrap_or_else(PoisonError::into_inner);
        let position = handed_over.udp.iter().position(|s| s.local_addr().is_ok_and(|a| same(a, address)))?;
        Some(handed_over.udp.swap_remove(position))
    }
}

/// systemd's `ListenStream=80` is `[::]:80`, which is what `0.0.0.0:80` in the configuration means as well.
fn same(handed_over: SocketAddr, wanted: SocketAddr) -> bool {
    let both_any = handed_over.ip().is_unspecified() && wanted.ip().is_unspecified();
    handed_over.port() == wanted.port() && (handed_over.ip() == wanted.ip() || both_any)
}

/// Whether several sockets may have the port.
#[derive(Clone, Copy, PartialEq)]
enum Sharing {
    No,
    AmongWorkers,
}

fn bind_tcp(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // A restart must not wait until the old connections' TIME_WAIT is over.
    socket.set_reuse_address(true)?;
    if sharing == Sharing::AmongWorkers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` serves IPv4 clients too, whatever net.ipv6.bindv6only says.
        socket.set_only_v6(false)?;
    }
    // Accepted connections inherit it. We write whole replies; Nagle's wait would only delay their last segment.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_OCTETS_MAX)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn listen(socket: Socket) -> io::Result<StdTcpListener> {
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn bind_udp(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if sharing == Sharing::AmongWorkers {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn explain(error: io::Error, protocol: &'static str, address: SocketAddr) -> BindError {
    match error.kind() {
        ErrorKind::AddrInUse => BindError::InUse { protocol, address, holder: holder(protocol, address) },
        ErrorKind::PermissionDenied => BindError::Privileged { protocol, address },
        ErrorKind::AddrNotAvailable => BindError::NotOurs { address },
        _ => BindError::Other { address, source: error },
    }
}

/// Who holds the port: `nginx (pid 812)`. The kernel lists sockets by inode in /proc/net, and each process's open
/// inodes under /proc/PID/fd; other users' processes can be seen by root only.
fn holder(protocol: &str, address: SocketAddr) -> String {
    let tables = match protocol {
        "TCP" => ["/proc/net/tcp", "/proc/net/tcp6"],
        _ => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let mut inodes = vec![];
    for table in tables {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            // sl local_address rem_address st ... uid timeout inode; state 0A is LISTEN, 07 is an unconnected UDP socket.
            let fields: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, _, "0A" | "07", ..] = fields[..]
                && in_the_way(local, address)
                && let Some(inode) = fields.get(9)
            {
                inodes.push(format!("socket:[{inode}]"));
            }
        }
    }
    let unknown = || "another program (see `ss -lntup` as root)".to_owned();
    let Ok(processes) = fs::read_dir("/proc") else { return unknown() };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let Ok(fds) = fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |link: std::path::PathBuf| link.to_str().is_some_and(|link| inodes.iter().any(|i| i == link));
        if fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok()).any(holds) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return format!("{} (pid {pid})", command.trim());
        }
    }
    unknown()
}

/// Whether a socket at `local` (`0100007F:1F90`, as /proc/net prints it) keeps `wanted` from being bound: the same port at
/// the same address, or at all of them. Another address of this machine may well have the port too.
fn in_the_way(local: &str, wanted: SocketAddr) -> bool {
    let Some((ip, port)) = local.split_once(':') else { return false };
    // Each group of eight digits is one 32-bit word of the address, printed as the number that it is on this machine.
    let word = |octets: &[u8]| format!("{:08X}", u32::from_ne_bytes([octets[0], octets[1], octets[2], octets[3]]));
    let words = |octets: &[u8]| octets.chunks_exact(4).map(word).collect::<String>();
    let same = match wanted.ip().to_canonical() {
        // An IPv6 socket may hold an IPv4 address: ::ffff:a.b.c.d.
        IpAddr::V4(v4) => ip == words(&v4.octets()) || ip == words(&v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => ip == words(&v6.octets()),
    };
    let any = wanted.ip().is_unspecified() || ip.bytes().all(|digit| digit == b'0');
    port == format!("{:04X}", wanted.port()) && (same || any)
}

/// What the door lets in.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time, over all listeners of the daemon.
    pub connections: usize,
    /// Connections at the same time from one address (one /64 for IPv6).
    pub per_peer: usize,
    /// What a peer with too many connections is told before we hang up, in its protocol's words.
    pub refusal: &'static [u8],
}

/// The entrance of one daemon: all its listeners and workers share its limits and its counters. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Door {
    limits: Limits,
    permits: Arc<Semaphore>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    sessions: TaskTracker,
    accepted: Counter,
    refused: Counter,
    open: Gauge,
}

impl Door {
    /// A door with its counters in `metrics`.
    pub fn new(limits: Limits, metrics: &Metrics) -> Self {
        Self {
            limits,
            permits: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            peers: Arc::default(),
            sessions: TaskTracker::new(),
            accepted: metrics.counter("connections_accepted", "Connections accepted"),
            refused: metrics.counter("connections_refused", "Connections refused because their peer had too many"),
            open: metrics.gauge("connections_open", "Connections open now"),
        }
    }

    /// Accepts until `shutdown` and runs `serve_one` for each connection as a task of its own: a panic there ends that
    /// one session. Returns when the listener is closed; [`Door::close`] waits for the sessions.
    pub async fn accept<S, F>(
        &self,
        listener: StdTcpListener,
        shutdown: &CancellationToken,
        serve_one: S,
    ) -> io::Result<()>
    where
        S: Fn(TcpStream, SocketAddr) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        #[expect(
            deprecated,
            reason = "the successor is an unsafe function, for types whose descriptor may change; a listener's does not"
        )]
        let listener = AsyncFd::with_interest(listener, Interest::READABLE)?;
        shutdown.run_until_cancelled(self.accept_for_ever(&listener, serve_one)).await;
        Ok(())
    }

    async fn accept_for_ever<S, F>(&self, listener: &AsyncFd<StdTcpListener>, serve_one: S)
    where
        S: Fn(TcpStream, SocketAddr) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            // First somebody must be there: a listener to which nobody comes would hold a place that the others need.
            let mut somebody = match listener.readable().await {
                Ok(somebody) => somebody,
                Err(error) => {
                    tracing::error!(%error, "cannot listen; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Then the permit, before we accept: when we are full, the kernel's backlog queues the next client.
            let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else { return };
            // Then without waiting: where workers share a socket, another may have been faster. As long as clients queue, the readiness stays
            // known, and this loop asks the kernel no more than accept_one does.
            let Ok(accepted) = somebody.try_io(|listener| accept_one(listener.get_ref())) else { continue };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(admission) = self.admit(peer.ip()) else {
                        self.refused.inc();
                        // One attempt, no waiting: the socket's buffer is empty, so a short line fits.
                        let _ = (&stream).write(self.limits.refusal);
                        tracing::debug!(%peer, "refused: too many connections from this address");
                        continue;
                    };
                    let stream = match TcpStream::from_std(stream) {
                        Ok(stream) => stream,
                        Err(error) => {
                            tracing::error!(%peer, %error, "cannot watch a connection");
                            continue;
                        }
                    };
                    // Boxed, because an `async` block keeps what it awaits twice: once as captured, once as awaited.
                    let session = Box::pin(serve_one(stream, peer));
                    self.sessions.spawn(async move {
                        let _held_until_the_session_ends = (permit, admission);
                        session.await;
                    });
                }
                // The client left before we got to it.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // Out of descriptors or memory: no reason to die. Sessions that end give them back.
                Err(error) => {
                    tracing::error!(%error, "cannot accept; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Counts a connection of `peer`, unless it has too many.
    fn admit(&self, peer: IpAddr) -> Option<Admission> {
        let peer = site(peer);
        {
            let mut peers = self.peers();
            let open = peers.entry(peer).or_insert(0);
            if *open >= self.limits.per_peer {
                return None;
            }
            *open += 1;
        }
        self.accepted.inc();
        self.open.inc();
        Some(Admission { door: self.clone(), peer })
    }

    fn peers(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, usize>> {
        // Counting up and down does not panic half-way.
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts conversations at each of these listeners until `shutdown`, then gives open sessions `grace` to finish. `serve_one` gets what
    /// is known of the listener, too.
    pub async fn serve<K, S, F>(
        &self,
        listeners: Vec<(K, StdTcpListener)>,
        shutdown: &CancellationToken,
        grace: Duration,
        serve_one: S,
    ) where
        K: Copy + Send + Sync + 'static,
        S: Fn(K, TcpStream, SocketAddr) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let sockets = TaskTracker::new();
        for (kind, listener) in listeners {
            // Accepted connections inherit it. Without it they work, too.
            let _ = SockRef::from(&listener).set_tcp_notsent_lowat(UNSENT_OCTETS_MAX_OF_TALK);
            let (door, shutdown, serve_one) = (self.clone(), shutdown.clone(), serve_one.clone());
            sockets.spawn(async move {
                let serve_one = |stream, peer| serve_one(kind, stream, peer);
                if let Err(error) = door.accept(listener, &shutdown, serve_one).await {
                    tracing::error!(%error, "cannot serve");
                }
            });
        }
        sockets.close();
        sockets.wait().await;
        self.close(grace).await;
    }

    /// Gives open sessions `grace` to finish; they know of the shutdown by their own token.
    pub async fn close(&self, grace: Duration) {
        self.sessions.close();
        if tokio::time::timeout(grace, self.sessions.wait()).await.is_err() {
            tracing::warn!(sessions = self.sessions.len(), "grace time is over; sessions are cut off");
        }
    }

    /// The tracker, for work that a stop waits for and that is no connection of its own.
    pub fn tasks(&self) -> &TaskTracker {
        &self.sessions
    }
}

/// The next connection in the kernel's queue.
///
/// Before accept(2) looks into its queue it makes a socket and a file, for nothing when nobody waits there. A loop that asks until
/// nobody is left asks in vain after nearly each connection, and poll(2) answers that for a fraction of the price.
fn accept_one(listener: &StdTcpListener) -> io::Result<(StdTcpStream, SocketAddr)> {
    let mut queue = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut queue, Some(&Timespec::default()))? == 0 {
        return Err(ErrorKind::WouldBlock.into());
    }
    let (stream, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    // The kernel forgets the address of who has hung up already.
    let peer = peer.ok_or(ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), peer.try_into()?))
}

/// A place at the table, given back when the session ends, also by panic.
#[derive(Debug)]
struct Admission {
    door: Door,
    peer: IpAddr,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.door.open.dec();
        let mut peers = self.door.peers();
        if let Some(open) = peers.get_mut(&self.peer) {
            *open -= 1;
            // An entry lives only while it counts something, so the table is no larger than the number of connections.
            if *open == 0 {
                peers.remove(&self.peer);
            }
        }
    }
}

/// One customer of an IPv6 network has a whole /64 to choose addresses from; it counts as one peer.
pub fn site(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registers;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const ONE: NonZeroUsize = NonZeroUsize::MIN;

    fn door(connections: usize, per_peer: usize) -> Door {
        let limits = Limits { connections, per_peer, refusal: b"421 too many\r\n" };
        Door::new(limits, &Registers::default().of("test", "host"))
    }

    fn any_port() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    #[tokio::test]
    async fn a_stop_lets_sessions_say_goodbye() {
        let (door, shutdown) = (door(4, 4), CancellationToken::new());
        let listener = Sockets::default().tcp(any_port(), ONE).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let (at_door, stop) = (door.clone(), shutdown.clone());
        let (started, mut session_started) = tokio::sync::mpsc::channel(1);
        let accepting = TaskTracker::new().spawn(async move {
            at_door
                .accept(listener, &stop, |mut stream, _| {
                    let (stop, started) = (stop.clone(), started.clone());
                    async move {
                        started.send(()).await.unwrap();
                        stop.cancelled().await;
                        stream.write_all(b"421 bye\r\n").await.unwrap();
                    }
                })
                .await
        });
        let mut client = TcpStream::connect(address).await.unwrap();
        session_started.recv().await.unwrap();
        shutdown.cancel();
        accepting.await.unwrap().unwrap();
        door.close(Duration::from_secs(5)).await;
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "421 bye\r\n");
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn a_peer_with_too_many_connections_is_told_so_and_gets_its_place_back() {
        let (door, shutdown) = (door(10, 1), CancellationToken::new());
        let listener = Sockets::default().tcp(any_port(), ONE).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let (at_door, stop) = (door.clone(), shutdown.clone());
        TaskTracker::new().spawn(async move {
            at_door
                .accept(listener, &stop, |mut stream, _| async move {
                    // A panic must give the place back too.
                    let octet = stream.read_u8().await.unwrap();
                    assert_eq!(octet, b'x', "the client asked for a panic");
                })
                .await
        });
        for _ in 0..3 {
            let mut first = TcpStream::connect(address).await.unwrap();
            let mut heard = String::new();
            TcpStream::connect(address).await.unwrap().read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "421 too many\r\n");
            first.write_all(b"!").await.unwrap();
            assert_eq!(first.read(&mut [0; 1]).await.unwrap_or(0), 0, "the session is over");
            while !door.peers().is_empty() {
                tokio::task::yield_now().await;
            }
        }
        shutdown.cancel();
    }

    #[tokio::test]
    async fn a_listener_to_which_nobody_comes_takes_no_place_from_the_others() {
        let (door, shutdown) = (door(1, 10), CancellationToken::new());
        let listeners = [1, 2, 3].map(|name| (name, Sockets::default().tcp(any_port(), ONE).unwrap().remove(0)));
        let addresses = listeners.each_ref().map(|(name, listener)| (*name, listener.local_addr().unwrap()));
        let (at_door, stop) = (door.clone(), shutdown.clone());
        let serving = TaskTracker::new().spawn(async move {
            let serve_one = |name, mut stream: TcpStream, _| async move {
                stream.write_u8(name).await.unwrap();
                let _until_the_client_leaves = stream.read_u8().await;
            };
            at_door.serve(listeners.into(), &stop, Duration::from_secs(5), serve_one).await;
        });
        for (name, address) in addresses.into_iter().chain(addresses).rev() {
            let mut client = TcpStream::connect(address).await.unwrap();
            let heard = tokio::time::timeout(Duration::from_secs(10), client.read_u8()).await;
            assert_eq!(heard.expect("somebody accepts").unwrap(), name);
        }
        // The one place is taken: who comes then waits in the kernel, wherever it comes to, until it is free.
        let mut first = TcpStream::connect(addresses[0].1).await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), 1);
        let mut second = TcpStream::connect(addresses[1].1).await.unwrap();
        assert_eq!(second.try_read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(first);
        assert_eq!(second.read_u8().await.unwrap(), 2);
        drop(second);
        shutdown.cancel();
        serving.await.unwrap();
    }

    #[test]
    fn a_port_in_use_names_its_holder_even_where_workers_share_ports() {
        let two = NonZeroUsize::new(2).unwrap();
        let held = Sockets::default().tcp(any_port(), two).unwrap();
        assert_eq!(held.len(), 2);
        let address = held[0].local_addr().unwrap();
        for count in [ONE, two] {
            let message = Sockets::default().tcp(address, count).unwrap_err().to_string();
            let me = format!("(pid {})", std::process::id());
            assert!(message.contains(&me) && message.contains("choose another port"), "{message}");
        }
        let message = Sockets::default().udp(([192, 0, 2, 1], 9).into()).unwrap_err().to_string();
        assert!(message.contains("not an address of this machine"), "{message}");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn only_who_is_in_the_way_is_blamed_for_a_port_in_use() {
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        let loopback6 = "00000000000000000000000001000000:1F90";
        for (local, wanted, expected) in [
            ("0100007F:1F90", "127.0.0.1:8080", true),
            ("0100007F:1F91", "127.0.0.1:8080", false),
            ("0203007F:1F90", "127.0.0.1:8080", false),
            ("0100007F:1F90", "0.0.0.0:8080", true),
            ("00000000:1F90", "127.0.0.1:8080", true),
            ("00000000000000000000000000000000:1F90", "127.0.0.1:8080", true),
            (mapped, "127.0.0.1:8080", true),
            (loopback6, "[::1]:8080", true),
            (loopback6, "127.0.0.1:8080", false),
            ("local_address", "127.0.0.1:8080", false),
        ] {
            assert_eq!(in_the_way(local, wanted.parse().unwrap()), expected, "{local} {wanted}");
        }
    }

    #[test]
    fn an_ipv6_site_counts_as_one_peer() {
        let peer = |text: &str| site(text.parse().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:10.0.0.1"), peer("10.0.0.1"));
    }
}
