//! The sockets, and what all sessions share.

use crate::{
    authenticity::{Authenticator, Signer},
    command::mask,
    config::{Config, unfit},
    greylist::Greylist,
    local::Mailboxes,
    mx::Own,
    queue::{Counters as QueueCounters, Limits as QueueLimits, Queue, Rules, Story},
    route::MayRelay,
    session::{Channel, Curiosity, Plaintext, Purpose, StartTls, Terms},
    spool::Spool,
    visit,
};
use shared::{
    Shared, check,
    current::Current,
    daemon::{Endpoint, StartError},
    listener::{Door, Limits},
    login::Logins,
    tls,
    transcript::{Conversation, Transcript, Transport},
    wire::{Role, Wire, begin_tls},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

/// There is no registered ALPN name for SMTP.
const TLS: tls::Service = tls::Service { name: "SMTP over TLS", alpn: &[], key: "smtp.listen_tls" };

/// What all sessions share. A new configuration makes a new one; sessions keep the one that they began with.
pub(crate) struct Office {
    pub(crate) config: Config,
    pub(crate) terms: Arc<Terms>,
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) acceptor: Option<tls::Acceptor>,
    pub(crate) authenticator: Option<Authenticator>,
    pub(crate) signers: Vec<Signer>,
    pub(crate) lasting: Arc<Lasting>,
}

/// What outlives a configuration.
pub(crate) struct Lasting {
    pub(crate) queue: Queue,
    pub(crate) logins: Logins,
    greylist: Mutex<Greylist>,
    /// Where we listen: couriers do not go there.
    own: Own,
}

impl Office {
    /// What a client's address entitles it to.
    pub(crate) fn may_relay(&self, peer: IpAddr) -> MayRelay {
        if self.config.allow.iter().any(|network| network.contains(peer)) { MayRelay::Yes } else { MayRelay::No }
    }
}

impl Lasting {
    pub(crate) fn greylist(&self) -> MutexGuard<'_, Greylist> {
        self.greylist.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a configuration makes of itself before it counts: if one part of it is wrong, nothing is taken.
struct Made {
    config: Config,
    rules: Rules,
    acceptor: Option<tls::Acceptor>,
    authenticator: Option<Authenticator>,
    signers: Vec<Signer>,
}

impl Made {
    fn new(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let acceptor = TLS.acceptor(shared, &config.listen_tls)?;
        std::fs::create_dir_all(&config.mailboxes).map_err(|error| {
            unfit("mailboxes", format!("`{}`: {error}; {}", config.mailboxes.display(), check::WRITABLE))
        })?;
        let house = config.house(shared)?;
        let (authenticator, signers) = (config.authenticator(shared, &house)?, config.signers()?);
        let quota = (config.quota.0 > 0).then_some(config.quota.0);
        let rules = Rules {
            mailboxes: Arc::new(Mailboxes::new(&config.mailboxes, &house.name, quota)),
            couriers: config.couriers(shared, &house)?,
            terms: Arc::new(Terms {
                house,
                message_octets_max: config.message_max.0,
                recipients_max: config.recipients,
                starttls: if acceptor.is_some() { StartTls::Offered } else { StartTls::No },
                plaintext: if config.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls },
                curiosity: if config.verify { Curiosity::Answered } else { Curiosity::Declined },
            }),
            schedule: config.schedule(),
            limits: QueueLimits {
                couriers: config.deliveries,
                couriers_per_destination: config.deliveries_per_destination,
                reuse: config.reuse.0,
                messages: config.queue,
            },
        };
        Ok(Self { config, rules, acceptor, authenticator, signers })
    }

    fn open(self, lasting: Arc<Lasting>) -> Office {
        let Self { config, rules, acceptor, authenticator, signers } = self;
        let Rules { terms, mailboxes, .. } = rules;
        Office { config, terms, mailboxes, acceptor, authenticator, signers, lasting }
    }
}

/// Lets a running server take a new configuration.
#[derive(Clone)]
pub struct Reloader(Weak<Current<Office>>);

impl Reloader {
    /// New sessions, and new tries to deliver, go by this configuration. Addresses and their limits, the directory of the queue and the
    /// grace time stay as they were at the start; the log says so, if they should have changed.
    ///
    /// # Errors
    /// A value does not fit, or a file is wrong; then nothing has changed.
    pub fn reload(&self, mut config: Config, shared: &Shared) -> Result<(), StartError> {
        let Some(current) = self.0.upgrade() else { return Ok(()) };
        let old = current.get();
        let kept = config.keep_bound(&old.config);
        let made = Made::new(config, shared)?;
        made.rules.couriers.avoid(old.lasting.own.clone());
        old.lasting.queue.set_rules(made.rules.clone());
        old.lasting.greylist().set_wait(made.config.greylist.0);
        current.set(made.open(Arc::clone(&old.lasting)));
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
    listeners: Vec<((Channel, Purpose), TcpListener)>,
    endpoints: Vec<Endpoint>,
    transcript: Transcript,
}

impl Server {
    /// What would keep it from starting, but for sockets, and for another process that has the queue.
    pub fn check(config: &Config, shared: &Shared) -> Vec<StartError> {
        let writable = |key, path: &Path| check::directory(path).map_err(|problem| unfit(key, problem));
        let mut results = vec![
            TLS.acceptor(shared, &config.listen_tls).map(drop),
            writable("mailboxes", &config.mailboxes),
            writable("spool", &config.spool),
            config.signers().map(drop),
        ];
        match config.house(shared) {
            Ok(house) => results
                .extend([config.authenticator(shared, &house).map(drop), config.couriers(shared, &house).map(drop)]),
            Err(error) => results.extend([Err(error), config.relays().map(drop)]),
        }
        results.into_iter().filter_map(Result::err).flat_map(StartError::each).collect()
    }

    /// Takes the sockets and the queue, and reads what waits in it.
    ///
    /// # Errors
    /// An address cannot be had, a certificate is missing or wrong, the queue or the mailboxes cannot be reached.
    pub fn bind(config: Config, shared: &Shared) -> Result<Self, StartError> {
        let made = Made::new(config, shared)?;
        let config = &made.config;
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
        let limits = Limits {
            connections: config.connections,
            per_peer: config.connections_per_peer,
            refusal: b"421 4.7.0 too many connections from your address\r\n",
        };
        let own = Own::new(endpoints.iter().map(|endpoint| endpoint.address).collect());
        made.rules.couriers.avoid(own.clone());
        let waiting = Spool::open(&config.spool).map_err(|error| unfit("spool", error))?;
        let at = endpoints.first().map_or((Ipv4Addr::UNSPECIFIED, 0).into(), |endpoint| endpoint.address);
        let story = Story::new(shared.transcript.clone(), at);
        let lasting = Arc::new(Lasting {
            queue: Queue::new(waiting, made.rules.clone(), QueueCounters::new(&shared.metrics), story),
            logins: Logins::new(shared),
            greylist: Mutex::new(Greylist::new(config.greylist.0)),
            own,
        });
        let office = Arc::new(Current::new(made.open(lasting)));
        let door = Door::new(limits, &shared.metrics);
        Ok(Self { office, door, listeners, endpoints, transcript: shared.transcript.clone() })
    }

    /// A handle that works as long as the server runs.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::downgrade(&self.office))
    }

    /// Where it serves, `smtp`, `submission` and `submissions`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// The queue, for those who look into it.
    pub fn queue(&self) -> Queue {
        self.office.get().lasting.queue.clone()
    }

    /// Serves until `shutdown`, then lets sessions and deliveries finish for the grace time. What is not delivered by then waits on
    /// disk for the next start.
    ///
    /// # Errors
    /// A socket cannot be used. What goes wrong with a client ends that client's session and nothing else.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { office, door, listeners, transcript, .. } = self;
        let (grace, queue) = (office.get().config.grace.0, office.get().lasting.queue.clone());
        let stop = shutdown.clone();
        let serve = move |kind, stream, peer| {
            serve_connection(office.get(), stream, peer, kind, transcript.clone(), stop.clone())
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
        let office = self.office.get();
        let wire = Wire::new(stream, Role::Server, office.config.limits(), mask, talk);
        visit::serve(office, wire, kind, &shutdown).await;
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
        let wire = Wire::new(stream, Role::Server, office.config.limits(), mask, talk);
        return visit::serve(office, wire, (Channel::Clear, purpose), &shutdown).await;
    };
    let talk = transcript.conversation(Transport::Tls, local, peer);
    // Boxed, so that those who need no TLS do not carry its size.
    let encrypted = Box::pin(async move {
        match begin_tls(stream, &acceptor, &talk).await {
            Ok(encrypted) => {
                let wire = encrypted.wire(office.config.limits(), mask, talk);
                visit::serve(office, wire, (channel, purpose), &shutdown).await;
            }
            Err(failed) => failed.tell(&talk),
        }
    });
    encrypted.await;
}
