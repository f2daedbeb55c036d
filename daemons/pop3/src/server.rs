//! The sockets, and what all sessions share.

use crate::{
    command::mask,
    config::Config,
    session::{Channel, Offer, Plaintext, Stls},
    visit,
};
use prometheus_client::metrics::counter::Counter;
use shared::{
    Shared, check,
    current::Current,
    daemon::{Endpoint, StartError},
    listener::{Door, Limits},
    login::Logins,
    lookout::{Glance, Lookouts},
    tls,
    transcript::{Conversation, Transcript, Transport},
    wire::{Role, Wire, begin_tls},
};
use std::{
    collections::HashMap,
    net::{SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Instant, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const TLS: tls::Service = tls::Service { name: "POP3 over TLS", alpn: &[b"pop3"], key: "pop3.listen_tls" };

/// What all sessions share. A new configuration makes a new one; sessions keep the one that they began with.
pub(crate) struct Office {
    pub(crate) config: Config,
    pub(crate) offer: Arc<Offer>,
    pub(crate) acceptor: Option<tls::Acceptor>,
    host: Arc<str>,
    pub(crate) lasting: Arc<Lasting>,
}

/// What outlives a configuration.
pub(crate) struct Lasting {
    pub(crate) logins: Logins,
    pub(crate) counters: Counters,
    pub(crate) lookouts: Lookouts,
    /// When each account logged in last. Only those who know their password get in here, so the accounts bound it.
    last_logins: Mutex<HashMap<String, Instant>>,
}

/// What is counted.
pub(crate) struct Counters {
    pub(crate) sent: Counter,
    pub(crate) removed: Counter,
}

impl Office {
    /// What a configuration makes; if one part of it is wrong, nothing is taken.
    fn open(config: Config, shared: &Shared, lasting: Arc<Lasting>) -> Result<Self, StartError> {
        let acceptor = TLS.acceptor(shared, &config.listen_tls)?;
        std::fs::create_dir_all(&config.mailboxes).map_err(|error| {
            let place = config.mailboxes.display();
            StartError::unfit("pop3.mailboxes", format!("`{place}`: {error}; {}", check::WRITABLE))
        })?;
        let offer = Arc::new(Offer {
            plaintext: if config.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls },
            stls: if acceptor.is_some() { Stls::Offered } else { Stls::No },
            login_delay: config.login_delay.0,
        });
        Ok(Self { config, offer, acceptor, host: Arc::clone(&shared.host), lasting })
    }

    /// RFC 1939 §7: a timestamp that is different each time, in the form of a message id.
    pub(crate) fn stamp(&self, connection: u64) -> Option<Arc<str>> {
        let micros = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
        let pid = std::process::id();
        self.config.apop.then(|| format!("<{pid}.{connection}.{micros}@{}>", self.host).into())
    }

    /// Whether the account may log in again.
    pub(crate) fn is_late_enough(&self, account: &str, now: Instant) -> bool {
        let delay = self.offer.login_delay;
        delay.is_zero() || self.last_logins().get(account).is_none_or(|last| now >= *last + delay)
    }

    /// The account has logged in; its time begins anew. Who found the maildrop in use has not, and may come back when it is free.
    pub(crate) fn has_logged_in(&self, account: &str, now: Instant) {
        if !self.offer.login_delay.is_zero() {
            self.last_logins().insert(account.to_owned(), now);
        }
    }

    fn last_logins(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.lasting.last_logins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a running server take a new configuration.
#[derive(Clone)]
pub struct Reloader(Weak<Current<Office>>);

impl Reloader {
    /// New sessions go by this configuration. Addresses and their limits, and the grace time, stay as they were at the start; the log says
    /// so, if they should have changed.
    ///
    /// # Errors
    /// A value does not fit, or a file is wrong; then nothing has changed.
    pub fn reload(&self, mut config: Config, shared: &Shared) -> Result<(), StartError> {
        let Some(current) = self.0.upgrade() else { return Ok(()) };
        let old = current.get();
        let kept = config.keep_bound(&old.config);
        current.set(Office::open(config, shared, Arc::clone(&old.lasting))?);
        if !kept.is_empty() {
            tracing::warn!(keys = kept.join(", "), "changed, but taken only by a restart");
        }
        Ok(())
    }
}

/// A bound server.
pub struct Server {
    office: Arc<Current<Office>>,
    door: Door,
    listeners: Vec<(Channel, TcpListener)>,
    endpoints: Vec<Endpoint>,
    transcript: Transcript,
}

impl Server {
    /// What would keep it from starting, but for sockets.
    pub fn check(config: &Config, shared: &Shared) -> Vec<StartError> {
        let mailboxes =
            check::directory(&config.mailboxes).map_err(|problem| StartError::unfit("pop3.mailboxes", problem));
        [TLS.acceptor(shared, &config.listen_tls).map(drop), mailboxes].into_iter().filter_map(Result::err).collect()
    }

    /// Takes the sockets, and makes the directory of the mailboxes if it is not there.
    ///
    /// # Errors
    /// An address cannot be had, a certificate is missing or wrong, or the mailboxes cannot be reached.
    pub fn bind(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let counters = Counters {
            sent: shared.metrics.counter("messages_sent", "Messages sent by RETR and TOP"),
            removed: shared.metrics.counter("messages_removed", "Messages removed at QUIT"),
        };
        let lasting =
            Lasting { logins: Logins::new(shared), counters, lookouts: Lookouts::new(), last_logins: Mutex::default() };
        let office = Office::open(config, shared, Arc::new(lasting))?;
        let config = &office.config;
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
        let (door, transcript) = (Door::new(limits, &shared.metrics), shared.transcript.clone());
        Ok(Self { office: Arc::new(Current::new(office)), door, listeners, endpoints, transcript })
    }

    /// A handle that works as long as the server runs.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::downgrade(&self.office))
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
        let grace = office.get().config.grace.0;
        let stop = shutdown.clone();
        let serve = move |channel, stream, peer| {
            serve_connection(office.get(), stream, peer, channel, transcript.clone(), stop.clone())
        };
        door.serve(listeners, &shutdown, grace, serve).await;
        Ok(())
    }

    /// Serves one client over any stream, for tests.
    pub async fn serve_stream<S: AsyncRead + AsyncWrite + Glance + Unpin + Send>(
        &self,
        stream: S,
        channel: Channel,
        talk: Conversation,
        shutdown: CancellationToken,
    ) {
        let office = self.office.get();
        let wire = Wire::new(stream, Role::Server, office.config.limits(), mask, talk);
        visit::serve(office, wire, channel, &shutdown).await;
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
        let wire = Wire::new(stream, Role::Server, office.config.limits(), mask, talk);
        return visit::serve(office, wire, Channel::Clear, &shutdown).await;
    };
    let talk = transcript.conversation(Transport::Tls, local, peer);
    // Boxed, so that those who need no TLS do not carry its size.
    let encrypted = Box::pin(async move {
        match begin_tls(stream, &acceptor, &talk).await {
            Ok(encrypted) => {
                let wire = encrypted.wire(office.config.limits(), mask, talk);
                visit::serve(office, wire, channel, &shutdown).await;
            }
            Err(failed) => failed.tell(&talk),
        }
    });
    encrypted.await;
}
