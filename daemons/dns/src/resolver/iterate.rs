//! The way down the tree: RFC 1034 §5.3.3, with its four steps.
//!
//! ```text
//!   1. Is it in the cache?                     --> done
//!   2. Which servers are nearest to the name?      the deepest zone above it whose NS are known; else the hints
//!   3. Ask them, the fastest first
//!   4. a. an answer, or that there is none     --> keep it, done
//!      b. a referral                           --> keep it, on with 2
//!      c. an alias                             --> keep it, on with 1 and the alias's target
//!      d. nonsense, or nothing                 --> the next server, on with 3
//! ```
//!
//! Whoever asks can make us work (RFC 1034: "bound the amount of work"), and whoever answers can make us work for somebody else
//! ("NXNS attack": a referral to a hundred servers whose addresses must all be looked for). So each question of a client has a budget
//! that all that is done for it draws on.

use super::{
    Resolver,
    cache::{Content, Credibility, Denial, Set},
    scrub::{self, Answer, Asked, End, Referral, Said},
    upstream::{Question, Recursion},
};
use crate::{
    name::{Name, NameRef, Suffixes},
    rdata::Type,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

/// Questions to other servers for one question of a client. A name with a long way and bad servers needs about thirty.
const QUESTIONS_MAX: u32 = 64;
/// Names of servers whose addresses are looked for, for one question of a client (CVE-2020-8616).
const SERVER_NAMES_MAX: u32 = 10;
/// Such a look in the course of such a look, and so on.
const DEPTH_MAX: usize = 4;
/// Aliases that are followed; as many as an authority of ours follows.
const ALIASES_MAX: usize = 16;
/// Zones on the way down; a name has at most 127 labels, and nobody has so many cuts.
const CUTS_MAX: usize = 32;
/// Servers that are asked one question before it is given up; each may be a dead one.
const TRIES_MAX: usize = 8;
/// Labels that are shown one by one (RFC 9156 §2.3: `MAX_MINIMISE_COUNT`).
const MINIMISED_MAX: usize = 10;

/// Why a question could not be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// None of a zone's servers gave a useful answer.
    #[error("no server of {zone} gives a useful answer ({last})")]
    NoAnswer {
        /// The zone.
        zone: Name,
        /// What the last one did.
        last: String,
    },
    /// No address of a zone's servers is known or can be found.
    #[error("no address of a server of {0} can be found")]
    NoAddress(Name),
    /// The question makes too much work.
    #[error("the question makes too much work: {0}")]
    TooMuchWork(&'static str),
    /// It took too long.
    #[error("it takes too long")]
    TooLong,
}

impl Failure {
    /// The extended error for the client (RFC 8914 §4).
    pub fn code(&self) -> u16 {
        match self {
            // "No Reachable Authority".
            Failure::NoAnswer { .. } | Failure::NoAddress(_) | Failure::TooLong => 22,
            // "Other".
            Failure::TooMuchWork(_) => 0,
        }
    }
}

/// What is done for one question of a client.
#[derive(Clone, Debug)]
pub struct Task {
    /// The client's conversation, which the events name as their cause.
    pub cause: u64,
    questions: Arc<AtomicU32>,
    server_names: Arc<AtomicU32>,
    /// Names of servers that are being looked for: a name that waits for itself would wait for ever.
    looking_for: Vec<Name>,
}

impl Task {
    /// A new question of a client.
    pub fn new(cause: u64) -> Self {
        Self { cause, questions: Arc::default(), server_names: Arc::default(), looking_for: vec![] }
    }

    fn spend(what: &AtomicU32, most: u32, because: &'static str) -> Result<(), Failure> {
        if what.fetch_add(1, Ordering::Relaxed) < most { Ok(()) } else { Err(Failure::TooMuchWork(because)) }
    }

    /// Questions asked so far.
    pub fn questions(&self) -> u32 {
        self.questions.load(Ordering::Relaxed)
    }

    fn for_server(&self, name: &Name) -> Result<Self, Failure> {
        Self::spend(&self.server_names, SERVER_NAMES_MAX, "too many servers whose addresses must be looked for")?;
        let mut looking_for = self.looking_for.clone();
        looking_for.push(name.clone());
        Ok(Self { looking_for, ..self.clone() })
    }
}

/// A set and the seconds that it is still good for.
pub type Dated = (Arc<Set>, u32);

/// What a client gets.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Aliases in order, and the records at their end.
    pub answers: Vec<Dated>,
    /// That there is nothing, and for how long.
    pub denial: Option<(Arc<Denial>, u32)>,
    /// Whether the name does not exist.
    pub no_such_name: bool,
    /// Proofs for what a wildcard made.
    pub proofs: Vec<Arc<Set>>,
    /// Whether some of it is past its time (RFC 8767).
    pub is_stale: bool,
    /// Whether some of it will be past its time soon, and should be fetched anew.
    pub is_ending: bool,
}

/// Whether data past its time will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Only what is good.
    Good,
    /// If there is nothing else.
    StaleToo,
}

/// RFC 8767 §4: the TTL of what is past its time.
const STALE_TTL: u32 = 30;

/// The zone whose servers are asked next.
#[derive(Clone, Debug)]
struct Cut {
    zone: Name,
    servers: Vec<Name>,
    addresses: Vec<SocketAddr>,
}

impl Resolver {
    /// Step 1: what the cache knows, along its aliases. `None` if it does not know the end.
    pub fn look(&self, name: NameRef<'_>, rtype: Type, freshness: Freshness, now: u64) -> Option<Reply> {
        let mut reply = Reply::default();
        let mut name = name.to_name();
        for _ in 0..=ALIASES_MAX {
            let good = |rtype| {
                let found = self.cache.get(name.borrow(), rtype, now)?;
                let is_fit = found.credibility.may_answer() && (!found.is_stale || freshness == Freshness::StaleToo);
                is_fit.then_some(found)
            };
            let mut found = good(rtype);
            if found.is_none() && rtype != Type::CNAME {
                found = good(Type::CNAME).filter(|found| matches!(found.content, Content::Set(_)));
            }
            // RFC 8020: nothing exists below a name that does not.
            let found = found.or_else(|| {
                let suffixes = Suffixes::of(name.borrow());
                let known = |labels| self.cache.get_no_name(suffixes.suffix(labels), now);
                let found = (1..=suffixes.count()).rev().find_map(known);
                found.filter(|found| !found.is_stale || freshness == Freshness::StaleToo)
            })?;
            let ttl = if found.is_stale { STALE_TTL } else { found.ttl };
            reply.is_stale |= found.is_stale;
            reply.is_ending |= found.is_ending;
            match found.content {
                Content::Set(set) if set.rtype == rtype => {
                    reply.answers.push((set, ttl));
                    return Some(reply);
                }
                Content::Set(alias) => {
                    let target =
                        alias.rdata().next().and_then(|rdata| NameRef::parse(rdata).ok()).map(NameRef::to_name);
                    reply.answers.push((alias, ttl));
                    name = target?;
                }
                Content::NoData(denial) => {
                    reply.denial = Some((denial, ttl));
                    return Some(reply);
                }
                Content::NoName(denial) => {
                    (reply.denial, reply.no_such_name) = (Some((denial, ttl)), true);
                    return Some(reply);
                }
            }
        }
        None
    }

    /// Asks anew for what the cache has.
    pub(super) async fn refresh(&self, name: &Name, rtype: Type, task: &Task) -> Result<(), Failure> {
        self.ask_the_tree(name, rtype, task).await.map(drop)
    }

    /// Finds what a client asks for, in the cache or by asking.
    ///
    /// # Errors
    /// Nobody can or will tell, or the work is too much.
    pub(super) async fn resolve(&self, name: &Name, rtype: Type, task: &Task) -> Result<Reply, Failure> {
        let (mut reply, mut sname) = (Reply::default(), name.clone());
        for _ in 0..=ALIASES_MAX {
            // Step 1.
            if let Some(known) = self.look(sname.borrow(), rtype, Freshness::Good, self.now()) {
                reply.answers.extend(known.answers);
                return Ok(Reply { answers: reply.answers, ..known });
            }
            // Steps 2 to 4.
            let answer = self.ask_the_tree(&sname, rtype, task).await?;
            reply.answers.extend(answer.aliases.iter().map(|set| (Arc::clone(set), set.ttl)));
            reply.proofs.extend(answer.proofs);
            match answer.end {
                End::Data(set) => {
                    reply.answers.push((Arc::clone(&set), set.ttl));
                    return Ok(reply);
                }
                End::NoData(denial) => {
                    reply.denial = Some((Arc::clone(&denial), denial.ttl()));
                    return Ok(reply);
                }
                End::NoName(denial) => {
                    (reply.denial, reply.no_such_name) = (Some((Arc::clone(&denial), denial.ttl())), true);
                    return Ok(reply);
                }
                // Step 4c.
                End::Leads => sname = answer.name,
            }
        }
        Err(Failure::TooMuchWork("the aliases do not end"))
    }

    /// Steps 2 to 4b: down from the nearest zone that is known.
    async fn ask_the_tree(&self, name: &Name, rtype: Type, task: &Task) -> Result<Answer, Failure> {
        let suffixes = Suffixes::of(name.borrow());
        let mut cut = self.nearest_cut(name, rtype);
        let mut shown = cut.zone.borrow().label_count() + 1;
        for _ in 0..CUTS_MAX + MINIMISED_MAX {
            // RFC 9156 §2: no server learns more of the name than it needs. It is shown one label more than its zone has.
            let labels =
                if self.minimises && shown <= MINIMISED_MAX { shown.min(suffixes.count()) } else { suffixes.count() };
            let is_whole = labels == suffixes.count();
            let (asked_name, asked_type) = (suffixes.suffix(labels), if is_whole { rtype } else { Type::A });
            // What is known to exist need not be asked about.
            if !is_whole && self.cache.get(asked_name, asked_type, self.now()).is_some_and(|found| !found.is_stale) {
                shown += 1;
                continue;
            }
            let (said, server) = self.ask_the_zone(&cut, asked_name, asked_type, task).await?;
            match said {
                Said::Referral(referral) => {
                    self.keep_referral(&referral, server);
                    let names = referral.servers.rdata().filter_map(|rdata| NameRef::parse(rdata).ok());
                    let addresses = referral.glue.iter().flat_map(|set| addresses_of(set, self.port)).collect();
                    let zone = referral.servers.owner.clone();
                    // `scrub` lets only referrals through that lead down, so this ends.
                    shown = zone.borrow().label_count() + 1;
                    cut = Cut { zone, servers: names.map(NameRef::to_name).collect(), addresses };
                }
                Said::Answer(answer) => {
                    self.keep_answer(&answer, asked_type, server);
                    match answer.end {
                        _ if is_whole => return Ok(answer),
                        // RFC 8020: what is below it does not exist either.
                        End::NoName(denial) if answer.aliases.is_empty() => {
                            return Ok(Answer { name: name.clone(), end: End::NoName(denial), ..answer });
                        }
                        _ => shown += 1,
                    }
                }
                Said::Useless(because) => {
                    return Err(Failure::NoAnswer { zone: cut.zone, last: because.to_owned() });
                }
            }
        }
        Err(Failure::TooMuchWork("the referrals do not end"))
    }

    /// Step 2: the deepest zone above the name whose servers are known; the hints know the root's.
    fn nearest_cut(&self, name: &Name, rtype: Type) -> Cut {
        if !self.forward.is_empty() {
            return Cut { zone: Name::root(), servers: vec![], addresses: self.forward.clone() };
        }
        let (suffixes, now) = (Suffixes::of(name.borrow()), self.now());
        // RFC 4035 §3.1.4.1: DS is the parent's.
        let deepest = if rtype == Type::DS { suffixes.count().saturating_sub(1) } else { suffixes.count() };
        for labels in (0..=deepest).rev() {
            let zone = suffixes.suffix(labels);
            if let Some(found) = self.cache.get(zone, Type::NS, now).filter(|found| !found.is_stale)
                && let Content::Set(set) = found.content
            {
                let servers = set.rdata().filter_map(|rdata| NameRef::parse(rdata).ok()).map(NameRef::to_name);
                return Cut { zone: zone.to_name(), servers: servers.collect(), addresses: vec![] };
            }
        }
        Cut { zone: Name::root(), servers: vec![], addresses: self.hints.clone() }
    }

    /// Step 3, and 4d.
    async fn ask_the_zone(
        &self,
        cut: &Cut,
        name: NameRef<'_>,
        rtype: Type,
        task: &Task,
    ) -> Result<(Said, SocketAddr), Failure> {
        let recursion = if self.forward.is_empty() { Recursion::NotDesired } else { Recursion::Desired };
        let question = Question { name, rtype, recursion, cause: task.cause };
        let asked = Asked { zone: cut.zone.borrow(), name, rtype };
        let mut untried: Vec<Name> = cut.servers.clone();
        let mut addresses = cut.addresses.clone();
        for server in &cut.servers {
            addresses.extend(self.known_addresses(server));
        }
        let mut tried: Vec<SocketAddr> = vec![];
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let order = self.servers.in_order(&cut.zone, &addresses, self.now());
            let Some(server) = order.iter().find(|address| !tried.contains(address)).copied() else {
                // No address is left: look for one of a server that has none yet.
                if self.more_addresses(cut, &mut untried, &mut addresses, task).await? {
                    continue;
                }
                // Datagrams get lost: whoever said nothing is asked a second time.
                if last.is_some() && tried.len() == order.len() && order.len() < TRIES_MAX / 2 {
                    tried.clear();
                    continue;
                }
                break;
            };
            tried.push(server);
            Task::spend(&task.questions, QUESTIONS_MAX, "too many questions to other servers")?;
            let began = Instant::now();
            match self.upstream.ask(server, question, self.servers.patience(server)).await {
                Err(trouble) => {
                    self.servers.failed(server, self.now());
                    last = Some(trouble.to_string());
                }
                Ok(message) => {
                    self.servers.answered(server, began.elapsed());
                    match scrub::read(&message, asked) {
                        Said::Useless(because) => {
                            self.servers.is_lame(server, &cut.zone, self.now());
                            last = Some(because.to_owned());
                        }
                        said => return Ok((said, server)),
                    }
                }
            }
        }
        match last {
            Some(last) => Err(Failure::NoAnswer { zone: cut.zone.clone(), last }),
            None => Err(Failure::NoAddress(cut.zone.clone())),
        }
    }

    /// Looks for the address of one server that has none yet. Returns whether there is something new to try.
    async fn more_addresses(
        &self,
        cut: &Cut,
        untried: &mut Vec<Name>,
        addresses: &mut Vec<SocketAddr>,
        task: &Task,
    ) -> Result<bool, Failure> {
        while let Some(server) = untried.pop() {
            // A server below its own zone's cut can be found by glue only; and whoever is being looked for is not found by
            // looking for him.
            let is_circle = server.borrow().is_within(cut.zone.borrow()) || task.looking_for.contains(&server);
            if is_circle || task.looking_for.len() >= DEPTH_MAX || !self.known_addresses(&server).is_empty() {
                continue;
            }
            let task = task.for_server(&server)?;
            for rtype in [Type::A, Type::AAAA] {
                if rtype == Type::AAAA && !self.speaks_ipv6 {
                    continue;
                }
                let Ok(reply) = Box::pin(self.resolve(&server, rtype, &task)).await else { continue };
                let before = addresses.len();
                addresses.extend(reply.answers.iter().flat_map(|(set, _)| addresses_of(set, self.port)));
                if addresses.len() > before {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn known_addresses(&self, server: &Name) -> Vec<SocketAddr> {
        let types = if self.speaks_ipv6 { &[Type::A, Type::AAAA][..] } else { &[Type::A][..] };
        let known = types.iter().filter_map(|rtype| self.cache.get(server.borrow(), *rtype, self.now()));
        let sets = known.filter(|found| !found.is_stale).filter_map(|found| match found.content {
            Content::Set(set) => Some(set),
            _ => None,
        });
        sets.flat_map(|set| addresses_of(&set, self.port)).collect()
    }

    fn keep_referral(&self, referral: &Referral, from: SocketAddr) {
        let now = self.now();
        self.cache.put_set(Arc::clone(&referral.servers), Credibility::Referral, from, now);
        for set in &referral.glue {
            self.cache.put_set(Arc::clone(set), Credibility::Additional, from, now);
        }
        // RFC 4035 §3.1.4.1: the parent is the authority for DS.
        for set in referral.about_keys.iter().filter(|set| set.rtype == Type::DS) {
            self.cache.put_set(Arc::clone(set), Credibility::Answer, from, now);
        }
    }

    fn keep_answer(&self, answer: &Answer, rtype: Type, from: SocketAddr) {
        let now = self.now();
        let credibility = if answer.is_authoritative { Credibility::Answer } else { Credibility::Hearsay };
        for set in &answer.aliases {
            self.cache.put_set(Arc::clone(set), credibility, from, now);
        }
        let name = answer.name.borrow();
        match &answer.end {
            End::Data(set) => self.cache.put_set(Arc::clone(set), credibility, from, now),
            End::NoData(denial) => self.cache.put_no_data(name, rtype, Arc::clone(denial), from, now),
            End::NoName(denial) => self.cache.put_no_name(name, Arc::clone(denial), from, now),
            End::Leads => {}
        }
    }
}

/// The addresses of a set of A or AAAA records.
fn addresses_of(set: &Set, port: u16) -> Vec<SocketAddr> {
    let ip = |rdata: &[u8]| match (set.rtype, rdata.len()) {
        (Type::A, 4) => rdata.first_chunk::<4>().map(|octets| IpAddr::from(Ipv4Addr::from(*octets))),
        (Type::AAAA, 16) => rdata.first_chunk::<16>().map(|octets| IpAddr::from(Ipv6Addr::from(*octets))),
        _ => None,
    };
    set.rdata().filter_map(ip).map(|ip| SocketAddr::new(ip, port)).collect()
}
