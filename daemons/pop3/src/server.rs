//! The sockets, and what all sessions share.

use crate::{
    config::Config,
    session::{Channel, Offer, Plaintext, Stls},
    visit,
};
use prometheus_client::metrics::counter::Counter;
use shared::{
    Shared,
    daemon::{Endpoint, StartError},
    listener::{Door, Limits},
    login::Logins,
    tls,
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::{Instant, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// What all sessions share.
pub(crate) struct Office {
    pub(crate) config: Config,
    pub(crate) offer: Arc<Offer>,
    pub(crate) logins: Logins,
    pub(crate) acceptor: Option<TlsAcceptor>,
    pub(crate) counters: Counters,
    host: Arc<str>,
    /// When each account logged in last. Only those who know their password get in here, so the accounts bound it.
    last_logins: Mutex<HashMap<String, Instant>>,
}

/// What is counted.
pub(crate) struct Counters {
    pub(crate) sent: Counter,
    pub(crate) removed: Counter,
}

impl Office {
    /// RFC 1939 §7: a timestamp that is different each time, in the form of a message id.
    pub(crate) fn stamp(&self, connection: u64) -> Option<Arc<str>> {
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let pid = std::process::id();
        self.config.apop.then(|| format!("<{pid}.{connection}.{micros}@{}>", self.host).into())
    }

    /// Whether the account may log in again; if so, its time begins anew.
    pub(crate) fn is_late_enough(&self, account: &str, now: Instant) -> bool {
        let delay = self.offer.login_delay;
        if delay.is_zero() {
            return true;
        }
        let mut last = self.last_logins.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get(account).is_some_and(|last| now < *last + delay) {
            return false;
        }
        last.insert(account.to_owned(), now);
        true
    }
}

/// A bound server.
pub struct Server {
    office: Arc<Office>,
    door: Door,
    listeners: Vec<(Channel, TcpListener)>,
    endpoints: Vec<Endpoint>,
    transcript: Transcript,
}

impl Server {
    /// Takes the sockets, and makes the directory of the mailboxes if it is not there.
    ///
    /// # Errors
    /// An address cannot be had, a certificate is missing or wrong, or the mailboxes cannot be reached.
    pub fn bind(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let unfit = |key: &str, problem: String| StartError::Unfit { key: key.to_owned(), problem };
        // ALPN's registered name for POP3; a client that offers none is served too.
        let tls = tls::server_config(&shared.tls, &[b"pop3"]).map_err(|error| unfit("tls", error.to_string()))?;
        if !config.listen_tls.is_empty() && tls.is_none() {
            let problem = "POP3 over TLS needs a certificate: set tls.certificate and tls.key to PEM files".to_owned();
            return Err(unfit("pop3.listen_tls", problem));
        }
        std::fs::create_dir_all(&config.mailboxes).map_err(|error| {
            let place = config.mailboxes.display();
            let problem = format!("{place}: {error}; name a directory that the daemon's user can write to");
            unfit("pop3.mailboxes", problem)
        })?;
        let (mut listeners, mut endpoints) = (vec![], vec![]);
        let clear = config.listen.iter().map(|address| (Channel::Clear, "pop3", *address));
        let encrypted = config.listen_tls.iter().map(|address| (Channel::Encrypted, "pop3s", *address));
        for (channel, protocol, address) in clear.chain(encrypted) {
            for listener in shared.sockets.tcp(address, NonZeroUsize::MIN)? {
                endpoints.push(Endpoint { protocol, address: listener.local_addr()? });
                listeners.push((channel, listener));
            }
        }
        let limits = Limits {
            connections: config.connections,
            per_peer: config.connections_per_peer,
            refusal: b"-ERR [SYS/TEMP] too many connections from your address\r\n",
        };
        let offer = Offer {
            plaintext: if config.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls },
            stls: if tls.is_some() { Stls::Offered } else { Stls::No },
            login_delay: config.login_delay.0,
        };
        let counters = Counters {
            sent: shared.metrics.counter("messages_sent", "Messages sent by RETR and TOP"),
            removed: shared.metrics.counter("messages_removed", "Messages removed at QUIT"),
        };
        let office = Office {
            offer: Arc::new(offer),
            logins: Logins::new(shared),
            acceptor: tls.map(TlsAcceptor::from),
            counters,
            host: Arc::clone(&shared.host),
            last_logins: Mutex::default(),
            config,
        };
        let door = Door::new(limits, &shared.metrics);
        Ok(Self { office: Arc::new(office), door, listeners, endpoints, transcript: shared.transcript.clone() })
    }

    /// Where it serves, `pop3` and `pop3s`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// Serves until `shutdown`, then lets sessions say goodbye for the grace time.
    ///
    /// # Errors
    /// A socket cannot be used. What goes wrong with a client ends that client's session and nothing else.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { office, door, listeners, transcript, .. } = self;
        let grace = office.config.grace.0;
        let stop = shutdown.clone();
        let serve = move |channel, stream, peer| {
            serve_connection(Arc::clone(&office), stream, peer, channel, transcript.clone(), stop.clone())
        };
        door.serve(listeners, &shutdown, grace, serve).await;
        Ok(())
    }

    /// Serves one client over any stream, for tests.
    pub async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: S,
        channel: Channel,
        talk: Conversation,
        shutdown: CancellationToken,
    ) {
        visit::serve(Arc::clone(&self.office), stream, channel, talk, &shutdown).await;
    }
}

async fn serve_connection(
    office: Arc<Office>,
    stream: TcpStream,
    peer: SocketAddr,
    channel: Channel,
    transcript: Transcript,
    shutdown: CancellationToken,
) {
    let local = stream.local_addr().unwrap_or(peer);
    let (Channel::Encrypted, Some(acceptor)) = (channel, office.acceptor.clone()) else {
        let talk = transcript.conversation(Transport::Tcp, local, peer);
        return visit::serve(office, stream, Channel::Clear, talk, &shutdown).await;
    };
    let talk = transcript.conversation(Transport::Tls, local, peer);
    // Boxed, so that those who need no TLS do not carry its size.
    let encrypted = Box::pin(async move {
        if let Some(stream) = tls::accept(&acceptor, stream, talk.id()).await {
            visit::serve(office, stream, channel, talk, &shutdown).await;
        }
    });
    encrypted.await;
}
