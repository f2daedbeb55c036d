//! A web server that shows its working: HTTP/1.0 and HTTP/1.1, static files, virtual hosts.
//!
//! The web was made for documents that refer to each other. A client opens a TCP connection, asks for one of them by its
//! name, and gets it; the server remembers nothing of it (RFC 9110 §3.3). All of it is text that can be typed by hand:
//!
//! ```text
//! $ telnet 127.77.3.80 8080
//! C: GET /somedir/page.html HTTP/1.1
//! C: Host: www.someschool.edu
//! C:
//! S: HTTP/1.1 200 OK
//! S: Content-Type: text/html; charset=utf-8
//! S: Content-Length: 745
//! S: Last-Modified: Tue, 30 Oct 2007 17:00:02 GMT
//! S: Etag: "143b6b1d6f2c8400-2e9"
//! S:
//! S: <!DOCTYPE html> ...
//! ```
//!
//! # Who does what
//!
//! ```text
//!   socket -> gate -> hyper -> connection -> origin -> files
//!              |                               |
//!              head, chunked: is it HTTP?      target, conditional, range, media: which octets?
//!                                              page, listing: words for people
//! ```
//!
//! hyper turns octets into requests and responses into octets. What it would let pass and RFC 9112 would not, the gate
//! stops before; what is sent, and why, is decided by pure functions that name their reason.
//!
//! # Reading order
//!
//! [`head`] and [`chunked`] (what a request looks like), [`refusal`] (what is said when it does not), [`gate`] (how none passes that does not), [`connection`] (what
//! every answer has in common), [`origin`] (which answer), [`shortcut`] (the commonest answer, faster), then what it is made of: [`target`], [`files`],
//! [`conditional`], [`range`], [`body`], [`media`], [`listing`], [`form`], [`page`]; last [`accesslog`] and [`log`].
//!
//! # RFCs
//!
//! 9110 (semantics), 9112 (HTTP/1.1), 1945 (HTTP/1.0), 3986 (URI), 7617 (Basic), 6585 (429, 431). The rows of RFCS.md
//! lead from each requirement to its code and its test.

mod config;

mod chunked;
mod head;
mod refusal;

mod gate;

mod connection;
mod shortcut;

mod origin;

mod body;
mod conditional;
mod files;
mod form;
mod listing;
mod media;
mod page;
mod range;
mod target;

mod accesslog;
mod date;
mod log;

#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;

pub use config::{Answer, Config, ErrorStatus, LogFormat, Protect, Redirect, RedirectStatus, Site};

use connection::Serving;
use log::Log;
use origin::Sites;
use shared::{
    Shared,
    daemon::{Endpoint, StartError, Workers},
    listener::{Door, Limits},
    tls,
};
use std::{
    net::TcpListener,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Told to a client with too many connections, before anything was read from it.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain\r\nContent-Length: 44\r\n\r\nYour address has too many connections open.\n";

/// A bound web server.
pub struct Server {
    door: Door,
    tls: Arc<tls::Renewed>,
    /// Each worker has its own sites and sockets. What is touched with every request is nobody else's: two cores that
    /// count the references to one page spend more time on that than on the page.
    workers: Vec<(Arc<Serving>, Vec<Listener>)>,
    endpoints: Vec<Endpoint>,
    grace: Duration,
    placement: Workers,
}

#[derive(Debug)]
struct Listener {
    socket: TcpListener,
    scheme: Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scheme {
    Http,
    Https,
}

/// Lets a running server take a new configuration.
#[derive(Clone)]
pub struct Reloader {
    workers: Vec<Weak<Serving>>,
    tls: Arc<tls::Renewed>,
}

impl Reloader {
    /// Takes sites, redirects, protections, media types and the certificate anew, and opens the log file anew. Addresses,
    /// limits and times stay as they were at the start.
    ///
    /// # Errors
    /// A document root is not there, or the certificate is wrong; then nothing has changed.
    pub fn reload(&self, config: &Config, shared: &Shared) -> Result<(), StartError> {
        let sites = self.workers.iter().map(|_| Sites::new(config)).collect::<Result<Vec<_>, _>>()?;
        self.tls.renew(shared)?;
        for (serving, sites) in self.workers.iter().zip(sites) {
            if let Some(serving) = serving.upgrade() {
                serving.reload(sites);
            }
        }
        Ok(())
    }
}

const TLS: tls::Service = tls::Service { name: "https", alpn: &[b"http/1.1"], key: "web.listen_tls" };

impl Server {
    /// What would keep it from starting, but for sockets.
    pub fn check(config: &Config, shared: &Shared) -> Vec<StartError> {
        let addresses = has_address(config);
        let results = [
            TLS.acceptor(shared, &config.listen_tls).map(drop),
            addresses,
            Log::check(config),
            Sites::new(config).map(drop),
        ];
        results.into_iter().filter_map(Result::err).flat_map(StartError::each).collect()
    }

    /// Binds all addresses.
    ///
    /// # Errors
    /// An address cannot be had, a document root is not there, https is wanted without a certificate.
    pub fn bind(config: &Config, shared: &Shared) -> Result<Self, StartError> {
        let tls = tls::Renewed::new(TLS, shared, &config.listen_tls)?;
        has_address(config)?;
        let count = shared.workers.count(config.workers);
        let mut sockets_of: Vec<Vec<Listener>> = (0..count.get()).map(|_| vec![]).collect();
        let mut endpoints = vec![];
        for (scheme, protocol, wanted) in
            [(Scheme::Http, "http", &config.listen), (Scheme::Https, "https", &config.listen_tls)]
        {
            for address in wanted {
                let sockets = shared.sockets.tcp(*address, count)?;
                endpoints.push(Endpoint { protocol, address: sockets[0].local_addr()? });
                for (worker, socket) in sockets_of.iter_mut().zip(sockets) {
                    worker.push(Listener { socket, scheme });
                }
            }
        }
        let limits =
            Limits { connections: config.connections, per_peer: config.connections_per_peer, refusal: REFUSAL };
        let log = Log::open(config)?.map(Arc::new);
        let mut workers = vec![];
        for sockets in sockets_of {
            let serving = Serving::new(config, Sites::new(config)?, log.clone(), shared);
            workers.push((Arc::new(serving), sockets));
        }
        Ok(Self {
            door: Door::new(limits, &shared.metrics),
            tls,
            workers,
            endpoints,
            grace: config.grace.0,
            placement: shared.workers,
        })
    }

    /// Where it serves `http` and `https`.
    pub fn local_addrs(&self) -> Vec<Endpoint> {
        self.endpoints.clone()
    }

    /// A handle that works as long as the server runs.
    pub fn reloader(&self) -> Reloader {
        Reloader {
            workers: self.workers.iter().map(|(serving, _)| Arc::downgrade(serving)).collect(),
            tls: Arc::clone(&self.tls),
        }
    }

    /// Serves until `shutdown`, then lets sessions finish for the grace time.
    ///
    /// # Errors
    /// A worker thread or its runtime cannot be started.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StartError> {
        let Self { door, tls, workers, grace, placement, .. } = self;
        let work = |(serving, listeners)| Worker {
            listeners,
            serving,
            door: door.clone(),
            tls: Arc::clone(&tls),
            // Its own token: every connection looks at it again and again.
            shutdown: shutdown.child_token(),
            grace,
        };
        Ok(placement.run("web", workers.into_iter().map(|worker| work(worker).run()).collect()).await?)
    }
}

fn has_address(config: &Config) -> Result<(), StartError> {
    if config.listen.is_empty() && config.listen_tls.is_empty() {
        return Err(StartError::unfit("web.listen", "no address at all; write for example [\"[::]:80\"]"));
    }
    Ok(())
}

/// A thread's share of the work: a socket of its own for each address.
struct Worker {
    listeners: Vec<Listener>,
    serving: Arc<Serving>,
    door: Door,
    tls: Arc<tls::Renewed>,
    shutdown: CancellationToken,
    grace: Duration,
}

impl Worker {
    async fn run(self) -> std::io::Result<()> {
        let accepting = tokio_util::task::TaskTracker::new();
        let mut tasks = vec![];
        for Listener { socket, scheme } in self.listeners {
            let (serving, door, shutdown) = (Arc::clone(&self.serving), self.door.clone(), self.shutdown.clone());
            let tls = Some(Arc::clone(&self.tls)).filter(|_| scheme == Scheme::Https);
            let address = socket.local_addr()?;
            tasks.push(accepting.spawn(async move {
                let serve_one = |stream, peer| {
                    let (serving, shutdown) = (Arc::clone(&serving), shutdown.clone());
                    let acceptor = tls.as_ref().and_then(|tls| tls.acceptor());
                    async move { serving.connection(stream, address, peer, acceptor.as_deref(), shutdown).await }
                };
                door.accept(socket, &shutdown, serve_one).await
            }));
        }
        for task in tasks {
            task.await.map_err(std::io::Error::other)??;
        }
        self.door.close(self.grace).await;
        Ok(())
    }
}
