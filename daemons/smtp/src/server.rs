//! The sockets, and what all sessions share.

use crate::{
    authenticity::{Authenticator, Signer},
    config::Config,
    greylist::Greylist,
    local::Mailboxes,
    queue::{Counters as QueueCounters, Limits as QueueLimits, Parts, Queue},
    route::MayRelay,
    session::{Channel, Curiosity, Plaintext, Purpose, StartTls, Terms},
    spool::Spool,
    visit,
};
use shared::{
    Shared,
    daemon::{Endpoint, StartError},
    listener::{Door, Limits},
    login::Logins,
    tls,
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
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
    pub(crate) terms: Arc<Terms>,
    pub(crate) queue: Queue,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) logins: Logins,
    pub(crate) acceptor: Option<TlsAcceptor>,
    pub(crate) authenticator: Option<Authenticator>,
    pub(crate) signers: Vec<Signer>,
    greylist: Mutex<Greylist>,
}

impl Office {
    /// What a client's address entitles it to.
    pub(crate) fn may_relay(&self, peer: IpAddr) -> MayRelay {
        if self.config.allow.iter().any(|network| network.contains(peer)) { MayRelay::Yes } else { MayRelay::No }
    }

    pub(crate) fn greylist(&self) -> MutexGuard<'_, Greylist> {
        self.greylist.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bound server.
pub struct Server {
    office: Arc<Office>,
    door: Door,
    listeners: Vec<((Channel, Purpose), TcpListener)>,
    endpoints: Vec<Endpoint>,
    transcript: Transcript,
}

impl Server {
    /// Takes the sockets and the queue, and reads what waits in it.
    ///
    /// # Errors
    /// An address cannot be had, a certificate is missing or wrong, the queue or the mailboxes cannot be reached.
    pub fn bind(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let unfit = |key: &str, problem: String| StartError::Unfit { key: key.to_owned(), problem };
        // There is no registered ALPN name for SMTP; a client that offers none is served.
        let tls = tls::server_config(&shared.tls, &[]).map_err(|error| unfit("tls", error.to_string()))?;
        if !config.listen_tls.is_empty() && tls.is_none() {
            let problem = "SMTP over TLS needs a certificate: set tls.certificate and tls.key to PEM files".to_owned();
            return Err(unfit("smtp.listen_tls", problem));
        }
        std::fs::create_dir_all(&config.mailboxes).map_err(|error| {
            let place = config.mailboxes.display();
            unfit("smtp.mailboxes", format!("{place}: {error}; name a directory that the daemon's user can write to"))
        })?;
        let (mut listeners, mut endpoints) = (vec![], vec![]);
        let each = |addresses: &[SocketAddr], kind: (Channel, Purpose, &'static str)| {
            addresses.iter().map(|address| (kind, *address)).collect::<Vec<_>>()
        };
        let relay = each(&config.listen, (Channel::Clear, Purpose::Relay, "smtp"));
        let submission = each(&config.listen_submission, (Channel::Clear, Purpose::Submission, "submission"));
        let encrypted = each(&config.listen_tls, (Channel::Encrypted, Purpose::Submission, "submissions"));
        for ((channel, purpose, protocol), address) in relay.into_iter().chain(submission).chain(encrypted) {
            for listener in shared.sockets.tcp(address, NonZeroUsize::MIN)? {
                endpoints.push(Endpoint { protocol, address: listener.local_addr()? });
                listeners.push(((channel, purpose), listener));
            }
        }
        let addresses = endpoints.iter().map(|endpoint| endpoint.address.ip()).filter(|ip| !ip.is_unspecified());
        let house = config.house(shared, addresses.collect())?;
        let couriers = config.couriers(shared, &house)?;
        let (authenticator, signers) = (config.authenticator(shared, &house)?, config.signers()?);
        let (spool, waiting) = Spool::open(&config.spool).map_err(|error| unfit("smtp.spool", error.to_string()))?;
        let quota = (config.quota.0 > 0).then_some(config.quota.0);
        let mailboxes = Arc::new(Mailboxes::new(&config.mailboxes, &house.name, quota));
        let terms = Arc::new(Terms {
            house,
            message_octets_max: config.message_max.0,
            recipients_max: config.recipients,
            starttls: if tls.is_some() { StartTls::Offered } else { StartTls::No },
            plaintext: if config.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls },
            curiosity: if config.verify { Curiosity::Answered } else { Curiosity::Declined },
        });
        let parts = Parts {
            spool: Arc::new(spool),
            mailboxes: Arc::clone(&mailboxes),
            terms: Arc::clone(&terms),
            couriers,
            schedule: config.schedule(),
            smart_host: !config.smart_host.is_empty(),
            limits: QueueLimits {
                couriers: config.deliveries,
                couriers_per_destination: config.deliveries_per_destination,
                reuse: config.reuse.0,
                messages: config.queue,
            },
            counters: QueueCounters::new(&shared.metrics),
        };
        let limits = Limits {
            connections: config.connections,
            per_peer: config.connections_per_peer,
            refusal: b"421 4.7.0 too many connections from your address\r\n",
        };
        let office = Office {
            terms,
            queue: Queue::new(parts, waiting),
            mailboxes,
            logins: Logins::new(shared),
            acceptor: tls.map(TlsAcceptor::from),
            authenticator,
            signers,
            greylist: Mutex::new(Greylist::new(config.greylist.0)),
            config,
        };
        let door = Door::new(limits, &shared.metrics);
        Ok(Self { office: Arc::new(office), door, listeners, endpoints, transcript: shared.transcript.clone() })
    }

    /// Where it serves, `smtp`, `submission` and `submissions`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// The queue, for those who look into it.
    pub fn queue(&self) -> Queue {
        self.office.queue.clone()
    }

    /// Serves until `shutdown`, then lets sessions and deliveries finish for the grace time. What is not delivered by then waits on
    /// disk for the next start.
    ///
    /// # Errors
    /// A socket cannot be used. What goes wrong with a client ends that client's session and nothing else.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { office, door, listeners, transcript, .. } = self;
        let grace = office.config.grace.0;
        let (queue, stop) = (office.queue.clone(), shutdown.clone());
        let serve = move |kind, stream, peer| {
            serve_connection(Arc::clone(&office), stream, peer, kind, transcript.clone(), stop.clone())
        };
        let delivering = timeout_after(shutdown.clone(), grace, queue.run(shutdown.clone()));
        tokio::join!(delivering, door.serve(listeners, &shutdown, grace, serve));
        Ok(())
    }

    /// Serves one client over any stream, for tests.
    pub async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &self,
        stream: S,
        kind: (Channel, Purpose),
        talk: Conversation,
        shutdown: CancellationToken,
    ) {
        visit::serve(Arc::clone(&self.office), stream, kind, talk, &shutdown).await;
    }
}

/// Waits for `work`, but not longer than `grace` after `shutdown`.
async fn timeout_after(shutdown: CancellationToken, grace: Duration, work: impl Future<Output = ()>) {
    let end = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = work => {}
        () = end => {}
    }
}

async fn serve_connection(
    office: Arc<Office>,
    stream: TcpStream,
    peer: SocketAddr,
    (channel, purpose): (Channel, Purpose),
    transcript: Transcript,
    shutdown: CancellationToken,
) {
    let local = stream.local_addr().unwrap_or(peer);
    let (Channel::Encrypted, Some(acceptor)) = (channel, office.acceptor.clone()) else {
        let talk = transcript.conversation(Transport::Tcp, local, peer);
        return visit::serve(office, stream, (Channel::Clear, purpose), talk, &shutdown).await;
    };
    let talk = transcript.conversation(Transport::Tls, local, peer);
    // Boxed, so that those who need no TLS do not carry its size.
    let encrypted = Box::pin(async move {
        if let Some(stream) = tls::accept(&acceptor, stream, talk.id()).await {
            visit::serve(office, stream, (channel, purpose), talk, &shutdown).await;
        }
    });
    encrypted.await;
}
