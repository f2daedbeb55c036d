//! The smallest daemon, and how to write one here.
//!
//! A client sends a word, the server answers its length: the demonstration that courses on sockets begin with. TCP and
//! UDP do the same, so that their difference can be seen and nothing else.
//!
//! ```text
#![doc = include_str!("../tests/transcripts/cat.txt")]
//! ```
//!
//! # How to write a daemon here
//!
//! Copy this crate. A daemon has these parts, and each answers one question:
//!
//! 1. [`Config`]: *what can be set?* One struct for the daemon's table in `tomte.toml`; the comment on a field is its manual.
//! 2. [`session`]: *what does the server say?* Pure: no socket, no file, no clock, no `async`. Here it is one function; where
//!    there are more commands, they stand in `command.rs`, the answers in `reply.rs`, and the session is a state machine.
//! 3. [`Server::bind`]: *may we?* Everything that can fail before the first client comes fails here, with an error that names
//!    the cure. Only then is systemd told that we are ready, and tests learn the port. [`Server::check`] finds the same but for the
//!    sockets, and all of it at once; [`shared::check`] helps to look.
//! 4. [`Server::run`]: *do it, until told to stop.* One task for each client.
//! 5. `main.rs`: a dozen lines, the same everywhere; flags, log, signals and exit codes are in [`shared::daemon`].
//! 6. `tests/transcripts/*.txt`: *is it true?* Whole conversations, played against the pure session, over a stream and
//!    over TCP.
//!
//! What you must not do yourself: accept connections ([`Door`] takes the permit first and counts), read lines from a socket
//! ([`Wire`] bounds them and shows them in the transcript), spawn with `tokio::spawn` (a stop could not wait for it).
//!
//! Then ask of each thing that grows or waits: what is its bound? Here: a word has [`Config::word_octets_max`], a silent
//! client [`Config::idle_timeout`], the crowd [`Config::connections`], one client's share [`Config::connections_per_peer`], and
//! a stop [`Config::grace`].

pub mod session;

use serde::{Deserialize, Serialize};
use session::Verdict;
use shared::{
    Shared,
    daemon::{Endpoint, StartError},
    listener::{self, Door},
    transcript::{Conversation, Transcript, Transport},
    units::{Size, Span},
    wire::{Limits, LineEnd, Role, Wire, nothing_is_secret},
};
use std::{
    io,
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    num::NonZeroUsize,
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The `[wordlength]` table. Each key has a default that works; an unknown key is an error, because it is a typing mistake.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to serve on, each over TCP and over UDP. On a machine with several addresses name each of them: over UDP
    /// an answer from `[::]` may leave by another address than the one that was asked, and the client will not know it.
    pub listen: Vec<SocketAddr>,
    /// The longest word; a longer one is answered `too long`.
    pub word_octets_max: Size,
    /// How long a client may take for the next word.
    pub idle_timeout: Span,
    /// How long a client may refuse to take our answers.
    pub send_timeout: Span,
    /// How long sessions may finish after the order to stop.
    pub grace: Span,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one address (one /64 for IPv6).
    pub connections_per_peer: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 7777).into()],
            word_octets_max: Size(1000),
            // Long enough to think of a word.
            idle_timeout: Span::secs(300),
            send_timeout: Span::secs(30),
            grace: Span::secs(5),
            connections: 1000,
            connections_per_peer: 100,
        }
    }
}

impl Config {
    /// How we read and write. People type to us, so a bare LF ends a line too: that is what `nc` sends.
    pub fn limits(&self) -> Limits {
        Limits {
            line_end: LineEnd::CrLfOrLf,
            line_octets_max: self.word_octets_max.octets().saturating_add(b"\r\n".len()),
            idle: self.idle_timeout.0,
            write: self.send_timeout.0,
        }
    }
}

/// A server that has its sockets and serves nobody yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    tcp: Vec<TcpListener>,
    udp: Vec<UdpSocket>,
    door: Door,
    transcript: Transcript,
}

impl Server {
    /// What would keep it from starting, but for sockets: here nothing can, for each value is right by its type.
    pub fn check(_: &Config, _: &Shared) -> Vec<StartError> {
        vec![]
    }

    /// Takes the sockets. The first of the two steps of every daemon.
    ///
    /// # Errors
    /// An address cannot be had; the error names the cure.
    pub fn bind(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let (mut tcp, mut udp) = (vec![], vec![]);
        for address in config.listen.iter().copied() {
            // One socket is enough: a single worker accepts far faster than anybody types.
            tcp.extend(shared.sockets.tcp(address, NonZeroUsize::MIN)?);
            udp.push(shared.sockets.udp(address)?);
        }
        let door = Door::new(
            listener::Limits {
                connections: config.connections,
                per_peer: config.connections_per_peer,
                refusal: b"too many connections\r\n",
            },
            &shared.metrics,
        );
        Ok(Self { config, tcp, udp, door, transcript: shared.transcript.clone() })
    }

    /// Where we serve, over `tcp` and `udp`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        let tcp = self.tcp_addrs().into_iter().map(|address| Endpoint { protocol: "tcp", address });
        let udp = self.udp_addrs().into_iter().map(|address| Endpoint { protocol: "udp", address });
        tcp.chain(udp).collect()
    }

    /// Where we serve over TCP. With port 0 in the configuration this tells the port.
    pub fn tcp_addrs(&self) -> Vec<SocketAddr> {
        self.tcp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Where we serve over UDP.
    pub fn udp_addrs(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until `shutdown`, then lets open sessions finish. The second step.
    ///
    /// # Errors
    /// A socket cannot be used. What goes wrong with a client ends that client's session and nothing else.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { config, tcp, udp, door, transcript } = self;
        let grace = config.grace.0;
        let limits = config.limits();
        let word_octets_max = config.word_octets_max.octets();
        let sockets = TaskTracker::new();
        for listener in tcp {
            let (door, transcript, shutdown) = (door.clone(), transcript.clone(), shutdown.clone());
            sockets.spawn(async move {
                let serve = |stream: tokio::net::TcpStream, peer| {
                    let (transcript, shutdown) = (transcript.clone(), shutdown.clone());
                    async move {
                        let local = stream.local_addr().unwrap_or(peer);
                        let talk = transcript.conversation(Transport::Tcp, local, peer);
                        serve_stream(stream, limits, talk, shutdown).await;
                    }
                };
                if let Err(error) = door.accept(listener, &shutdown, serve).await {
                    tracing::error!(%error, "cannot serve over TCP");
                }
            });
        }
        for socket in udp {
            let (transcript, shutdown) = (transcript.clone(), shutdown.clone());
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            sockets.spawn(async move {
                let serve = serve_datagrams(&socket, word_octets_max, &transcript);
                if let Some(Err(error)) = shutdown.run_until_cancelled(serve).await {
                    tracing::error!(%error, "cannot serve over UDP");
                }
            });
        }
        sockets.close();
        sockets.wait().await;
        door.close(grace).await;
        Ok(())
    }
}

/// One client: a line in, a line out, until it leaves, falls silent, or we must stop. Public, so that the tests can play
/// over any stream.
pub async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    limits: Limits,
    talk: Conversation,
    shutdown: CancellationToken,
) {
    let connection = talk.id();
    let mut wire = Wire::new(stream, Role::Server, limits, nothing_is_secret, talk);
    // A stop is noticed between two words, never within one. This protocol has no goodbye; we just close.
    while let Some(line) = shutdown.run_until_cancelled(wire.line()).await {
        match line {
            Ok(line) => wire.say(session::on_line(&line).to_string()),
            Err(reason) => {
                tracing::debug!(connection, %reason, last = wire.last_lines(), "session ends");
                break;
            }
        }
    }
    // The client may be gone, which is how sessions end: there is nobody left to tell.
    let _ = wire.close().await;
}

/// After an error of the socket: long enough not to spin, short enough not to be noticed.
const UDP_PAUSE: Duration = Duration::from_millis(100);

/// All clients: UDP has no connections, so one task answers whoever asks. Compare with [`serve_stream`]: no state, no end,
/// and no way to know whether the answer arrived.
async fn serve_datagrams(
    socket: &tokio::net::UdpSocket,
    word_octets_max: usize,
    transcript: &Transcript,
) -> io::Result<()> {
    let local = socket.local_addr()?;
    // What does not fit is cut off. With the line end and one octet more than the longest word, what was cut is still seen
    // to be too long.
    let mut datagram = vec![0; word_octets_max.saturating_add(3).min(usize::from(u16::MAX))];
    loop {
        let (octets, peer) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "cannot receive");
                tokio::time::sleep(UDP_PAUSE).await;
                continue;
            }
        };
        let question = &datagram[..octets];
        let talk = transcript.conversation(Transport::Udp, local, peer);
        talk.client(question.trim_ascii_end(), octets);
        match session::on_datagram(question, peer.port(), local.port(), word_octets_max) {
            Verdict::Answer(answer) => match socket.send_to(&answer, peer).await {
                Ok(sent) => talk.server(answer.trim_ascii_end(), sent),
                Err(error) => tracing::debug!(%peer, %error, "cannot send"),
            },
            Verdict::Ignore(because) => talk.note(&format!("no answer: {because:?}")),
        }
    }
}
