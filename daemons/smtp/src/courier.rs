//! Takes messages to other servers: connects, lets the [client's session](crate::client) decide what to say, and moves octets.

pub use crate::mx::{Destination, Route};
use crate::{
    address::Domain,
    envelope::{Account, Envelope, Fate, Status},
};
use shared::{metrics::Metrics, transcript::Transcript};
use std::{
    collections::HashMap,
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// How we send.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What we call ourselves in EHLO.
    pub hello: String,
    /// The name servers to ask, `127.77.1.2:8053`; without any, those of `/etc/resolv.conf`.
    pub resolvers: Vec<SocketAddr>,
    /// Domains whose mail goes to a fixed host, without a look at MX records.
    pub routes: HashMap<Domain, Route>,
    /// Where [`Destination::SmartHost`] is.
    pub smart_host: Option<Route>,
    /// Who we are there; said over TLS only.
    pub smart_host_login: Option<Login>,
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

/// Who we are to a smart host.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub secret: String,
}

impl std::fmt::Debug for Login {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.user)
    }
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
}

impl Couriers {
    /// With these settings.
    ///
    /// # Errors
    /// `/etc/resolv.conf` is asked for and cannot be read.
    pub fn new(settings: Settings, transcript: Transcript, _metrics: &Metrics) -> io::Result<Self> {
        Ok(Self(Arc::new(Office { settings, transcript })))
    }

    /// Opens a connection on which messages can be sent. Tries every server and every address, best first, before it gives up.
    ///
    /// # Errors
    /// [`Fate::Deferred`] or [`Fate::Failed`] for all that waits for this destination.
    #[expect(clippy::unused_async, reason = "soon")]
    pub async fn connect(&self, to: &Destination, _cause: Option<u64>) -> Result<Connection, Fate> {
        let _ = (&self.0.settings, &self.0.transcript);
        let text = format!("mail to {to} cannot be sent yet");
        Err(Fate::Deferred(Account { status: Status(4, 4, 1), remote: None, reply: None, text }))
    }
}

/// A connection on which messages can be sent.
#[derive(Debug)]
pub struct Connection {
    remote: String,
}

impl Connection {
    /// Sends a message. The fates are those of the job's recipients, in their order.
    #[expect(clippy::unused_async, reason = "soon")]
    pub async fn send(&mut self, job: &Job) -> Vec<Fate> {
        let account = Account { status: Status(4, 4, 1), remote: None, reply: None, text: self.remote.clone() };
        job.recipients.iter().map(|_| Fate::Deferred(account.clone())).collect()
    }

    /// Whether another message can be sent.
    pub fn is_usable(&self) -> bool {
        !self.remote.is_empty()
    }

    /// Says goodbye.
    #[expect(clippy::unused_async, reason = "soon")]
    pub async fn quit(self) {}

    /// Who the other end is: `mail.hamburger.edu [127.77.2.25]:8025`.
    pub fn remote(&self) -> &str {
        &self.remote
    }
}
