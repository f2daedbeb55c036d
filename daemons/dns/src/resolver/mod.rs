//! The local name server: it knows only where the root is, and goes down the tree for its clients (RFC 1034 §5.3.3).
//!
//! ```text
//!   C: gaia.cs.umass.edu. A? rd     a client asks us                          1
//!     C: gaia.cs.umass.edu. A?      we ask a root server                      2
//!     S: ask the servers of edu     a referral                                3
//!     C: gaia.cs.umass.edu. A?      we ask a server of edu                    4
//!     S: ask ns.umass.edu           a referral                                5
//!     C: gaia.cs.umass.edu. A?      we ask the server of umass.edu            6
//!     S: 128.119.245.12             the answer                                7
//!   S: 128.119.245.12               the client has it, and so has our cache   8
//! ```
//!
//! 1. [`cache`]: what others have told us.
//! 2. [`iterate`]: **the way down**, with the four steps of the RFC; [`prime`]: where it begins.
//! 3. [`scrub`]: what of an answer is believed; `keep.rs`: what of that is kept.
//! 4. [`servers`]: whom to ask first.
//! 5. [`upstream`]: how to ask so that nobody can answer in another's place.
//! 6. [`local`]: names that nobody is asked about; [`own`]: zones that this very server has; [`views`]: which some see and others not.
//! 7. [`deduce`]: what is not there, told from what was proved about other names.
//! 8. [`validate`]: whether data is what its zone has signed, and [`mod@trust`]: whose keys those are. Both are pure; `judge.rs` fetches
//!    what they need, and remembers what they find.

pub mod cache;
pub mod deduce;
pub mod iterate;
mod judge;
mod keep;
pub mod local;
pub mod own;
pub mod prime;
pub mod scrub;
pub mod servers;
pub mod trust;
pub mod upstream;
pub mod validate;
pub mod views;

use crate::{
    authority::Zones,
    config::Config,
    cookie::OwnCookies,
    message::{Query, Rcode, Section, Writer},
    name::Name,
    rdata::{Class, Type},
    record::Record,
    zone::RrSet,
    zonefile,
};
use cache::{Cache, Origin, Security, Set};
use deduce::Denials;
use iterate::{Cached, Dated, Failure, Freshness, Limit, Looked, Reply, SaidBy, Task};
use judge::Fetching;
use local::Locals;
use own::Standpoint;
use prime::Prime;
use prometheus_client::metrics::counter::Counter;
use servers::Servers;
use shared::{Shared, admin::CacheQuestion, daemon::StartError, units::Network};
use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{sync::OnceCell, time::timeout};
use tokio_util::task::TaskTracker;
use trust::{Anchors, Links};
use upstream::{Recursion, Upstream, Weakness};
use validate::Known;

/// The addresses of the root servers a to m, as of 2026 (<https://www.internic.net/domain/named.root>): IPv4 first, which every host has.
const ROOT: [&str; 26] = [
    "198.41.0.4",
    "170.247.170.2",
    "192.33.4.12",
    "199.7.91.13",
    "192.203.230.10",
    "192.5.5.241",
    "192.112.36.4",
    "198.97.190.53",
    "192.36.148.17",
    "192.58.128.30",
    "193.0.14.129",
    "199.7.83.42",
    "202.12.27.33",
    "2001:503:ba3e::2:30",
    "2801:1b8:10::b",
    "2001:500:2::c",
    "2001:500:2d::d",
    "2001:500:a8::e",
    "2001:500:2f::f",
    "2001:500:12::d0d",
    "2001:500:1::53",
    "2001:7fe::53",
    "2001:503:c27::2:30",
    "2001:7fd::1",
    "2001:500:9f::42",
    "2001:dc3::35",
];

/// How long a client waits for a fresh answer before it gets a stale one, if there is one (RFC 8767 §5).
const STALE_AFTER: Duration = Duration::from_millis(1800);
/// How long a client waits at all. Its own patience is about five seconds for each try.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a failure is remembered (RFC 9520 §3.2: at least one second, at most five minutes).
const FAILURE_SECS: u64 = 5;
/// Failures that are remembered.
const FAILURES_MAX: usize = 10_000;
/// Questions that are being answered at the same time. Each takes a few kilobytes.
pub const ASKED_AT_ONCE_MAX: usize = 10_000;
/// RFC 8914 §4.4.
const STALE_ANSWER: u16 = 3;
/// RFC 8914 §4.5.
const FORGED_ANSWER: u16 = 4;
/// RFC 8914 §4.16.
const BLOCKED: u16 = 15;
/// RFC 8914 §4.14.
const CACHED_ERROR: u16 = 13;
/// RFC 8914 §4.19.
const PROHIBITED: u16 = 18;

/// A name in lower case, a type, and whether the answer is validated.
type Key = (Vec<u8>, Type, Checking);
/// What all who ask the same at the same time wait for.
type Answering = Arc<OnceCell<Result<Reply, Failure>>>;

/// Whether answers are validated (RFC 4035 §3.2.2: the bit CD).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checking {
    /// They are, if there is a trust anchor.
    On,
    /// The client does it itself, and wants to see what is bogus too.
    Off,
}

/// Who is asked when none of those answers who do the asking for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fallback {
    /// Nobody.
    None,
    /// The root, and down from there.
    Root,
}

/// A local name server.
#[derive(Debug)]
pub struct Resolver {
    cache: Cache,
    servers: Servers,
    upstream: Arc<Upstream>,
    hints: Vec<SocketAddr>,
    /// Whether the hints are asked for the root's servers.
    primes: bool,
    forward: Vec<SocketAddr>,
    fallback: Fallback,
    locals: Locals,
    allow: Vec<Network>,
    port: u16,
    minimises: bool,
    /// RD in questions to those who are on the way down.
    recursion: Recursion,
    speaks_ipv6: bool,
    started: Instant,
    anchors: Anchors,
    links: Mutex<Links>,
    /// `None` deduces nothing.
    denials: Option<Denials>,
    known: Arc<Known>,
    fetching: Mutex<HashMap<(Vec<u8>, Type), Fetching>>,
    answering: Mutex<HashMap<Key, Answering>>,
    failures: Mutex<HashMap<Key, (u64, Failure)>>,
    tasks: TaskTracker,
    counters: Counters,
}

#[derive(Clone, Debug)]
struct Counters {
    hits: Counter,
    misses: Counter,
    joined: Counter,
    stale: Counter,
    failures: Counter,
    refused: Counter,
    prefetched: Counter,
    /// Answers that were made of what was proved about other names.
    deduced: Counter,
    secure: Counter,
    insecure: Counter,
    bogus: Counter,
    too_much_work: Counter,
    /// Records of others that are not about the zone whose server gave them.
    foreign: Counter,
    /// Answers that are none: lame servers, errors, nonsense.
    useless: Counter,
    /// By limit.
    limits: [Counter; Limit::ALL.len()],
    too_long: Counter,
    circles: Counter,
}

/// What a client's question comes to at once.
#[derive(Debug)]
pub enum Now {
    /// The cache knows.
    Reply(Reply),
    /// This client is not served here.
    Refused,
    /// The client wants to know what we know already, and that is nothing (RD is clear).
    NothingKnown,
    /// Others must be asked.
    Later(Cached),
}

impl Resolver {
    /// A resolver, if the configuration wants one.
    ///
    /// # Errors
    /// The hints cannot be read.
    pub fn open(config: &Config, shared: &Shared) -> Result<Option<Arc<Self>>, StartError> {
        if !config.recurse {
            return Ok(None);
        }
        let hints = match &config.hints {
            None => ROOT.map(|text| text.parse::<IpAddr>().expect("these are addresses")).to_vec(),
            Some(file) => read_hints(config, file)
                .map_err(|problem| StartError::Unfit { key: "dns.hints".to_owned(), problem })?,
        };
        let locals = Locals::read(&config.local)
            .map_err(|problem| StartError::Unfit { key: "dns.local".to_owned(), problem })?;
        let anchors =
            trust(config).map_err(|(key, problem)| StartError::Unfit { key: format!("dns.{key}"), problem })?;
        let port = config.peer_port;
        let hints = hints.into_iter().filter(|ip| ip.is_ipv4() || config.query_ipv6);
        let hints = hints.map(|ip| SocketAddr::new(ip, port)).collect();
        let judged =
            |what: &'static str| shared.metrics.labelled("validation", "Answers validated", &[("result", what)]);
        let limited = |limit: &'static str| {
            shared.metrics.labelled("recursion_limits", "Questions that made too much work", &[("limit", limit)])
        };
        let counted =
            |what: &'static str| shared.metrics.labelled("recursion", "Questions of clients", &[("result", what)]);
        Ok(Some(Arc::new(Self {
            cache: Cache::new(config.cache.octets()).stale_for(config.serve_stale.0.as_secs()),
            servers: Servers::default(),
            upstream: Arc::new(Upstream::new(
                config.query_from,
                Weakness::of(config),
                own_cookies(config)?,
                shared.transcript.clone(),
                &shared.metrics,
            )),
            hints: prime::shuffled(hints, random_turn()?),
            primes: match config.prime {
                Prime::Internet => config.hints.is_none(),
                Prime::Always => true,
                Prime::Never => false,
            },
            forward: config.forward.clone(),
            fallback: if config.forward_only { Fallback::None } else { Fallback::Root },
            locals,
            allow: config.allow.clone(),
            port,
            minimises: config.minimise_names,
            recursion: if config.ask_recursively { Recursion::Desired } else { Recursion::NotDesired },
            speaks_ipv6: config.query_ipv6,
            started: Instant::now(),
            anchors,
            links: Mutex::default(),
            denials: config.deduce_denials.then(Denials::default),
            known: Arc::default(),
            fetching: Mutex::default(),
            answering: Mutex::default(),
            failures: Mutex::default(),
            tasks: TaskTracker::new(),
            counters: Counters {
                hits: counted("hit"),
                misses: counted("miss"),
                joined: counted("joined"),
                stale: counted("stale"),
                failures: counted("failure"),
                refused: counted("refused"),
                prefetched: counted("prefetched"),
                deduced: shared.metrics.counter(
                    "recursion_deduced",
                    "Answers that something is not there, from what was proved about other names (RFC 8198)",
                ),
                secure: judged("secure"),
                insecure: judged("insecure"),
                bogus: judged("bogus"),
                too_much_work: judged("too much work"),
                foreign: shared.metrics.counter("upstream_foreign_records", "Records out of the server's bailiwick"),
                useless: shared.metrics.counter("upstream_useless", "Answers of lame servers, errors, and nonsense"),
                limits: Limit::ALL.map(|limit| limited(limit.label())),
                too_long: limited("time"),
                circles: limited("circle"),
            },
        })))
    }

    /// Another one of the same kind, which knows nothing yet: for a view (split DNS), whose clients find what is nothing to others.
    #[must_use]
    pub fn apart(&self) -> Self {
        Self {
            cache: self.cache.empty(),
            servers: Servers::default(),
            upstream: Arc::clone(&self.upstream),
            hints: self.hints.clone(),
            primes: self.primes,
            forward: self.forward.clone(),
            fallback: self.fallback,
            locals: self.locals.clone(),
            allow: self.allow.clone(),
            port: self.port,
            minimises: self.minimises,
            recursion: self.recursion,
            speaks_ipv6: self.speaks_ipv6,
            started: self.started,
            anchors: self.anchors.clone(),
            links: Mutex::default(),
            denials: self.denials.as_ref().map(|_| Denials::default()),
            known: Arc::default(),
            fetching: Mutex::default(),
            answering: Mutex::default(),
            failures: Mutex::default(),
            tasks: TaskTracker::new(),
            counters: self.counters.clone(),
        }
    }

    /// Seconds since the start; the first one is 1.
    fn now(&self) -> u64 {
        self.started.elapsed().as_secs() + 1
    }

    /// All that is cached, for people: one line for each record, with the seconds that it is still good for, how far it is believed, and
    /// who said it.
    pub fn list(&self) -> Vec<String> {
        let mut lines = vec![];
        for cache::Listed { name, rtype, found, stale_secs } in self.cache.list(self.now()) {
            let cache::Found { content, ttl, origin: Origin { credibility, security, from }, .. } = found;
            let stale = if ttl == 0 { format!("{stale_secs} s past its time, ") } else { String::new() };
            let told = format!("; {stale}{credibility}, from {from}, {security}");
            match content {
                cache::Content::Set(set) => lines.extend(set.rdata().map(|rdata| {
                    let (owner, rdata) = (set.owner.clone(), rdata.to_vec());
                    format!("{} {told}", Record { owner, rtype: set.rtype, class: Class::IN, ttl, rdata })
                })),
                cache::Content::NoData(_) => {
                    let rtype = rtype.map(|rtype| rtype.to_string()).unwrap_or_default();
                    lines.push(format!("{name} {ttl} IN {rtype} - {told}: there is none"));
                }
                cache::Content::NoName(_) => lines.push(format!("{name} {ttl} IN - {told}: there is no such name")),
            }
        }
        lines
    }

    /// Answers a question about the cache, in lines.
    pub fn about(&self, question: &CacheQuestion) -> Vec<String> {
        match question {
            CacheQuestion::List => self.list(),
            CacheQuestion::Purge(name) => match name.parse::<Name>() {
                Ok(name) => vec![format!("{} entries forgotten", self.purge(&name))],
                Err(error) => vec![format!("`{name}`: {error}")],
            },
        }
    }

    /// Forgets a name and all below it; returns how many entries that were.
    pub fn purge(&self, name: &Name) -> usize {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).purge(name.borrow());
        if let Some(denials) = &self.denials {
            denials.purge(name.borrow());
        }
        self.cache.purge(name.borrow())
    }

    /// Whether others are asked for a client at this address.
    pub fn serves(&self, client: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(client))
    }

    /// Who says what our own zones say.
    fn own_address(&self) -> SocketAddr {
        SocketAddr::new(self.upstream.source, 0)
    }

    /// What can be said at once to a client at this address.
    pub fn at_once(self: &Arc<Self>, query: &Query<'_>, client: IpAddr, own: &Arc<Zones>) -> Now {
        if !self.serves(client) {
            self.counters.refused.inc();
            return Now::Refused;
        }
        let standpoint = Standpoint { checking: checking_of(query), own };
        let wants_more = query.header.recursion_desired();
        match self.look(query.name, query.qtype, Freshness::Good, standpoint, self.now()) {
            Ok(Looked { reply, open: None }) => {
                self.counters.hits.inc();
                if reply.is_ending && wants_more {
                    self.prefetch(&query.name.to_name(), query.qtype, own);
                }
                Now::Reply(reply)
            }
            Ok(Looked { reply, .. }) if wants_more => {
                Now::Later(if reply.answers.is_empty() { Cached::No } else { Cached::Perhaps })
            }
            // Failures, such as a circle of aliases, are counted, remembered and told by `find`.
            Err(_) if wants_more => Now::Later(Cached::Perhaps),
            Ok(_) | Err(_) => Now::NothingKnown,
        }
    }

    /// Fetches anew what will be past its time soon, so that nobody has to wait for it.
    fn prefetch(self: &Arc<Self>, name: &Name, rtype: Type, own: &Arc<Zones>) {
        let (resolver, name, key) = (Arc::clone(self), name.clone(), self.key(name, rtype, Checking::On));
        // It is work as any other: once at a time, and not again at once where it has failed (RFC 9520 §3.1), however often clients hit
        // what is ending.
        if self.known_failure(&key).is_some() {
            return;
        }
        {
            let mut answering = self.lock_answering();
            if answering.contains_key(&key) || answering.len() >= ASKED_AT_ONCE_MAX {
                return;
            }
            answering.insert(key.clone(), Answering::default());
        }
        self.counters.prefetched.inc();
        let task = Task::new(0, Standpoint { checking: Checking::On, own }, &resolver.known);
        self.tasks.spawn(async move {
            // What is still good would be found in the cache: the way down is gone without a look at it.
            let refreshed = timeout(ANSWER_WITHIN, resolver.refresh(&name, rtype, &task)).await;
            if let Err(failure) = refreshed.unwrap_or(Err(Failure::TooLong)) {
                resolver.remember_failure(&key, &failure);
            }
            resolver.lock_answering().remove(&key);
        });
    }

    /// Finds out what a client wants to know.
    ///
    /// # Errors
    /// Nobody tells, and nothing stale will do.
    pub async fn find(
        self: &Arc<Self>,
        name: &Name,
        rtype: Type,
        standpoint: Standpoint<'_>,
        cached: Cached,
        cause: u64,
    ) -> Result<Reply, (u16, String)> {
        self.counters.misses.inc();
        let key = self.key(name, rtype, standpoint.checking);
        // RFC 8767 §5: what is past its time, when nobody tells or it takes too long.
        let stale = || {
            let look = self.look(name.borrow(), rtype, Freshness::StaleToo, standpoint, self.now()).ok()?;
            let reply = look.open.is_none().then_some(look.reply)?;
            self.counters.stale.inc();
            Some(reply)
        };
        if let Some(failure) = self.known_failure(&key) {
            // While it is known that nobody tells, that is told at once. What is bogus is not covered up by it.
            if !matches!(failure, Failure::Bogus { .. })
                && let Some(reply) = stale()
            {
                return Ok(reply);
            }
            self.counters.failures.inc();
            // What is wrong with a zone's data is the better word, however long it has been known.
            let code = if let Failure::Bogus { .. } = failure { failure.code() } else { CACHED_ERROR };
            return Err((code, failure.to_string()));
        }
        // Whoever asks what is being asked already waits with the others.
        let cell = {
            let mut answering = self.lock_answering();
            match answering.get(&key) {
                Some(cell) => {
                    self.counters.joined.inc();
                    Arc::clone(cell)
                }
                None if answering.len() >= ASKED_AT_ONCE_MAX => {
                    let failure = Failure::TooMuchWork(Limit::AtOnce);
                    self.count_failure(&failure);
                    return Err((failure.code(), failure.to_string()));
                }
                None => {
                    let cell = Answering::default();
                    answering.insert(key.clone(), Arc::clone(&cell));
                    cell
                }
            }
        };
        let mut work = {
            let (resolver, name) = (Arc::clone(self), name.clone());
            let task = Task::new(cause, standpoint, &self.known);
            // Boxed where it is made: what waits for it would carry its size three times.
            let work = Box::pin(async move {
                let outcome = timeout(ANSWER_WITHIN, resolver.resolve(&name, rtype, &task, cached)).await;
                let outcome = outcome.unwrap_or(Err(Failure::TooLong));
                if let Err(failure) = &outcome {
                    resolver.count_failure(failure);
                    resolver.remember_failure(&key, failure);
                }
                resolver.lock_answering().remove(&key);
                outcome
            });
            Box::pin(async move { cell.get_or_init(|| work).await.clone() })
        };
        let outcome = match timeout(STALE_AFTER, &mut work).await {
            Ok(outcome) => outcome,
            Err(_) => match stale() {
                Some(reply) => {
                    // The client has something. The work goes on, for those who ask next.
                    self.tasks.spawn(work);
                    return Ok(reply);
                }
                None => work.await,
            },
        };
        let failure = match outcome {
            Ok(reply) => return Ok(reply),
            Err(failure) => failure,
        };
        // What is bogus is no outage: somebody lies, or the zone wants to be mended.
        let is_outage = !matches!(failure, Failure::Bogus { .. });
        is_outage.then(stale).flatten().ok_or_else(|| {
            self.counters.failures.inc();
            (failure.code(), failure.to_string())
        })
    }

    fn lock_fetching(&self) -> std::sync::MutexGuard<'_, HashMap<(Vec<u8>, Type), Fetching>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, name: &Name, rtype: Type, checking: Checking) -> Key {
        let checking = if self.anchors.is_empty() { Checking::Off } else { checking };
        (name.borrow().as_wire().to_ascii_lowercase(), rtype, checking)
    }

    fn lock_answering(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Answering>> {
        self.answering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_failure(&self, failure: &Failure) {
        match failure {
            Failure::TooMuchWork(limit) => {
                for (counter, _) in self.counters.limits.iter().zip(Limit::ALL).filter(|(_, known)| known == limit) {
                    counter.inc();
                }
            }
            Failure::TooLong => drop(self.counters.too_long.inc()),
            Failure::Circle(_) => drop(self.counters.circles.inc()),
            Failure::NoAnswer { .. } | Failure::NoAddress(_) | Failure::Bogus { .. } => {}
        }
    }

    fn known_failure(&self, key: &Key) -> Option<Failure> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(key).filter(|(until, _)| *until > self.now()).map(|(_, failure)| failure.clone())
    }

    fn remember_failure(&self, key: &Key, failure: &Failure) {
        let now = self.now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= FAILURES_MAX {
            failures.retain(|_, (until, _)| *until > now);
        }
        if failures.len() < FAILURES_MAX {
            failures.insert(key.clone(), (now + FAILURE_SECS, failure.clone()));
        }
    }
}

/// What a client wants (RFC 4035 §3.2.2).
pub fn checking_of(query: &Query<'_>) -> Checking {
    if query.header.checking_disabled() { Checking::Off } else { Checking::On }
}

/// A number that nobody else chooses.
fn random_turn() -> Result<usize, StartError> {
    let mut octets = [0; 2];
    rustix::rand::getrandom(&mut octets, rustix::rand::GetRandomFlags::empty()).map_err(std::io::Error::from)?;
    Ok(u16::from_be_bytes(octets).into())
}

/// What makes the cookies that other servers are shown, if the configuration wants it. Whose answers are to be easy to forge shows none.
fn own_cookies(config: &Config) -> Result<Option<OwnCookies>, StartError> {
    if !config.query_cookies || config.sequential_ids {
        return Ok(None);
    }
    let mut secret = [0; 16];
    rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(std::io::Error::from)?;
    Ok(Some(OwnCookies::new(secret)))
}

/// Whom the configuration trusts; or which key of it is wrong, and how.
fn trust(config: &Config) -> Result<Anchors, (&'static str, String)> {
    let anchors = match &config.trust_anchors {
        Some(file) => {
            let unfit = |problem: String| ("trust_anchors", problem);
            let text =
                std::fs::read(file).map_err(|error| unfit(format!("cannot read {}: {error}", file.display())))?;
            Anchors::read(file, &text).map_err(|error| unfit(error.to_string()))?
        }
        // Another root than the Internet's has other keys; and whoever else is asked may know another root.
        None if config.hints.is_none() && config.forward.is_empty() => Anchors::iana(),
        None => Anchors::default(),
    };
    let mut negative = vec![];
    for text in &config.negative_trust_anchors {
        negative.push(
            text.parse().map_err(|error| ("negative_trust_anchors", format!("`{text}` is no domain name: {error}")))?,
        );
    }
    Ok(anchors.with_negative(negative))
}

/// The root servers' addresses in a hints file.
fn read_hints(config: &Config, file: &std::path::Path) -> Result<Vec<IpAddr>, String> {
    let text = std::fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let records = zonefile::records(file, &text).map_err(|error| error.to_string())?;
    let servers: Vec<&[u8]> = records
        .iter()
        .filter(|record| record.rtype == Type::NS && record.owner.borrow().is_root())
        .map(|record| &record.rdata[..])
        .collect();
    let is_server = |owner: &Name| servers.iter().any(|wire| owner.borrow().as_wire().eq_ignore_ascii_case(wire));
    let mut addresses: Vec<IpAddr> = vec![];
    for record in records.iter().filter(|record| is_server(&record.owner)) {
        let address = match record.rtype {
            Type::A => record.rdata.first_chunk::<4>().map(|octets| config.rewrite.address(*octets).into()),
            Type::AAAA => record.rdata.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
            _ => None,
        };
        addresses.extend(address.filter(|address| !addresses.contains(address)));
    }
    if addresses.is_empty() {
        return Err(format!("{}: no NS record of the root whose server has an address there", file.display()));
    }
    Ok(addresses)
}

/// Writes what was found. `turn` says which address of a set comes first.
pub fn write(reply: &Reply, query: &Query<'_>, writer: &mut Writer<'_>, turn: usize) {
    let wants_signatures = query.edns.is_some_and(|edns| edns.dnssec_ok);
    writer.recursion_available();
    writer.rcode(if reply.no_such_name { Rcode::NXDOMAIN } else { Rcode::NOERROR });
    if reply.is_stale {
        writer.explain(STALE_ANSWER, "");
    } else if reply.said_by == SaidBy::Us {
        let code = if reply.no_such_name { BLOCKED } else { FORGED_ANSWER };
        writer.explain(code, "this server has its own answer");
    }
    match reply.security {
        // RFC 6840 §5.7 and §5.8: for those who can understand it. What is past its time was right once.
        Security::Secure if (wants_signatures || query.header.authentic_data()) && !reply.is_stale => {
            writer.authentic();
        }
        Security::Insecure(because) => {
            if let Some((code, text)) = because.ede() {
                writer.explain(code, text);
            }
        }
        Security::Secure | Security::Unchecked => {}
    }
    let mut put = |section, set: &Set, ttl| {
        let signatures: Vec<u8> = set
            .signatures
            .iter()
            .flat_map(|signature| [&(signature.len() as u16).to_be_bytes()[..], signature].concat())
            .collect();
        let signed = wants_signatures
            .then(|| (RrSet::of_framed(Type::RRSIG, ttl, set.signatures.len() as u16, &signatures), set.rtype));
        let first = if matches!(set.rtype, Type::A | Type::AAAA) { turn } else { 0 };
        writer.set(section, set.owner.borrow(), Class::IN, set.with_ttl(ttl), first, signed)
    };
    let denial = reply.denial.iter().flat_map(|(denial, ttl)| {
        let proofs = denial.proofs.iter().filter(|_| wants_signatures);
        denial.soa.iter().chain(proofs).map(|set| (Section::Authority, &**set, *ttl))
    });
    // RFC 2181 §5: a set is there once, however often the aliases lead through it. Only a DNAME's can do so twice.
    let is_again = |(place, (set, _)): &(usize, &Dated)| {
        set.rtype == Type::DNAME && reply.answers[..*place].iter().any(|(known, _)| known.is_same_set(set))
    };
    let answers = reply.answers.iter().enumerate().filter(|answer| !is_again(answer));
    let answers = answers.map(|(_, (set, ttl))| (Section::Answer, &**set, *ttl));
    // RFC 4035 §3.1.3.3: with what a wildcard made goes the proof that nothing is nearer. It may be part of the denial, or of another
    // such proof.
    let mut proofs: Vec<(Section, &Set, u32)> = vec![];
    let denied = reply.denial.iter().flat_map(|(denial, _)| &denial.proofs);
    for (set, ttl) in reply.answers.iter().filter(|_| wants_signatures) {
        for proof in &set.proofs {
            let mut known = denied.clone().map(|known| &**known).chain(proofs.iter().map(|(_, known, _)| *known));
            if !known.any(|known| known.is_same_set(proof)) {
                proofs.push((Section::Authority, proof, *ttl));
            }
        }
    }
    for (section, set, ttl) in answers.chain(denial).chain(proofs) {
        if put(section, set, ttl) == crate::message::Fit::NoRoom {
            writer.truncate();
            return;
        }
    }
}

/// Writes that nobody can tell, and why (RFC 8914).
pub fn write_failure(rcode: Rcode, code: u16, text: &str, writer: &mut Writer<'_>) {
    writer.recursion_available();
    writer.rcode(rcode);
    writer.explain(code, text);
}

/// Writes that the client is not served.
pub fn write_refusal(writer: &mut Writer<'_>) {
    writer.rcode(Rcode::REFUSED);
    writer.explain(PROHIBITED, "recursion is for the networks in `dns.allow`");
}

#[cfg(test)]
mod tests {
    use super::*;
    use cache::Credibility;

    fn resolver(change: impl FnOnce(&mut Config)) -> Arc<Resolver> {
        // Nobody is there.
        let forward = vec![SocketAddr::from(([127, 0, 0, 1], 1))];
        let mut config = Config { recurse: true, forward, ..Config::default() };
        change(&mut config);
        Resolver::open(&config, &Shared::for_tests("dns")).unwrap().unwrap()
    }

    /// RFC 8767 §5: nobody tells, and what was good an instant ago will do; with a TTL of 30 s, and not as authentic.
    #[tokio::test]
    async fn what_is_past_its_time_will_do_when_nobody_answers() {
        let resolver = resolver(|_| {});
        let name: Name = "www.example".parse().unwrap();
        let owner = name.clone();
        let record = Record { owner, rtype: Type::A, class: Class::IN, ttl: 1, rdata: vec![192, 0, 2, 1] };
        let set = Arc::new(Set::of(&[&record]).unwrap());
        let from = SocketAddr::from(([127, 0, 0, 1], 53));
        let origin = Origin { credibility: Credibility::Answer, security: Security::Secure, from };
        // The clock begins with 1.
        resolver.cache.put_set(set, origin, 0);
        let nobodys = Standpoint { checking: Checking::On, own: &Arc::default() };
        let listed = resolver.list();
        assert!(listed[0].starts_with("www.example. 0 IN A 192.0.2.1 ; "), "{listed:?}");
        assert!(listed[0].contains(" s past its time, answer of the authority"), "{listed:?}");
        let reply = resolver.find(&name, Type::A, nobodys, Cached::Perhaps, 0).await.unwrap();
        assert!(reply.is_stale && reply.answers[0].1 == 30, "{reply:?}");
        let other: Name = "other.example".parse().unwrap();
        assert_eq!(resolver.find(&other, Type::A, nobodys, Cached::Perhaps, 0).await.unwrap_err().0, 22);
    }

    /// However often clients hit what is ending: it is fetched once at a time, not while too much is being asked, and not where it has just
    /// failed (RFC 9520 §3.1).
    #[tokio::test]
    async fn what_is_ending_is_fetched_within_the_bounds_of_other_work() {
        let resolver = resolver(|_| {});
        let nobodys = Arc::default();
        let prefetch = |name: &str| {
            resolver.prefetch(&name.parse().unwrap(), Type::A, &nobodys);
            resolver.counters.prefetched.get()
        };
        assert_eq!([prefetch("www.example"), prefetch("www.example"), prefetch("other.example")], [1, 1, 2]);
        let key = |name: &str| resolver.key(&name.parse().unwrap(), Type::A, Checking::On);
        resolver.remember_failure(&key("failed.example"), &Failure::TooLong);
        assert_eq!(prefetch("failed.example"), 2);
        let others = (0..ASKED_AT_ONCE_MAX).map(|n| (key(&format!("n{n}.example")), Answering::default()));
        resolver.lock_answering().extend(others);
        assert_eq!(prefetch("new.example"), 2);
    }

    #[tokio::test]
    async fn what_is_past_its_time_is_not_told_where_the_operator_wants_no_such_thing() {
        let resolver = resolver(|config| config.serve_stale = shared::units::Span::secs(0));
        let name: Name = "www.example".parse().unwrap();
        let record =
            Record { owner: name.clone(), rtype: Type::A, class: Class::IN, ttl: 1, rdata: vec![192, 0, 2, 1] };
        let from = SocketAddr::from(([127, 0, 0, 1], 53));
        let origin = Origin { credibility: Credibility::Answer, security: Security::Secure, from };
        resolver.cache.put_set(Arc::new(Set::of(&[&record]).unwrap()), origin, 0);
        let nobodys = Standpoint { checking: Checking::On, own: &Arc::default() };
        let failure = resolver.find(&name, Type::A, nobodys, Cached::Perhaps, 0).await.unwrap_err();
        assert_eq!((failure.0, resolver.list()), (22, vec![]));
    }

    /// RFC 1034 §5.3.3 step 2: the NS set of `example` is good for longer than the addresses of its servers.
    #[test]
    fn a_cut_whose_servers_cannot_be_found_is_passed_over() {
        let resolver = resolver(|config| config.forward = vec![]);
        let origin = Origin {
            credibility: Credibility::Answer,
            security: Security::Unchecked,
            from: SocketAddr::from(([127, 0, 0, 1], 53)),
        };
        let put = |owner: &str, rtype, rdata: &[u8]| {
            let (owner, rdata) = (owner.parse().unwrap(), rdata.to_vec());
            let record = Record { owner, rtype, class: Class::IN, ttl: 60, rdata };
            resolver.cache.put_set(Arc::new(Set::of(&[&record]).unwrap()), origin, resolver.now());
        };
        let name: Name = "www.sub.example".parse().unwrap();
        let nearest = || resolver.nearest_cut(&name, 3, &resolver.root()).zone.to_string();
        put("example", Type::NS, b"\x02ns\x04test\0");
        put("sub.example", Type::NS, b"\x02ns\x03sub\x07example\0");
        assert_eq!(nearest(), "example.", "a server elsewhere can be looked for");
        put("ns.sub.example", Type::A, &[192, 0, 2, 1]);
        assert_eq!(nearest(), "sub.example.");
        assert_eq!(resolver.nearest_cut(&name, 0, &resolver.root()).addresses, resolver.hints);
    }

    #[test]
    fn the_root_of_the_internet_is_known_with_its_keys() {
        let resolver = resolver(|config| (config.forward, config.query_ipv6) = (vec![], false));
        assert_eq!(resolver.hints.len(), 13);
        assert!(!resolver.anchors.is_empty());
        // Who asks others, or another root, has other keys.
        assert!(self::resolver(|_| {}).anchors.is_empty());
        let problem = trust(&Config { negative_trust_anchors: vec!["a..b".to_owned()], ..Config::default() });
        assert!(problem.unwrap_err().1.starts_with("`a..b` is no domain name"));
    }
}
