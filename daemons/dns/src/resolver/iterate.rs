//! The way down the tree: RFC 1034 §5.3.3, with its four steps.
//!
//! ```text
//!   1. Is it in the cache, or our own?         --> done
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
    Checking, Fallback, Resolver,
    cache::{Content, Denial, Found, Marks, Security, Set},
    deduce::{Absent, Deduced},
    judge::{BOGUS_MAX, Doubt},
    local::Local,
    own::{self, Standpoint},
    scrub::{self, Answer, Asked, End, Referral, Said, Way},
    upstream::{Question, Recursion, Trouble},
    validate::{Bogus, Known, Work},
};
use crate::{
    authority::{Place, Zones},
    name::{Name, NameRef, Suffixes},
    rdata::Type,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// Questions to other servers for one question of a client. A name with a long way and bad servers needs about thirty.
const QUESTIONS_MAX: u32 = 64;
/// Questions for DS and DNSKEY for one question of a client: two for each zone on the way, one for each label between them.
const KEY_QUESTIONS_MAX: u32 = 64;
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
/// Times that a server which says nothing is asked in the course of it, with more patience each time: datagrams get lost.
const ROUNDS_MAX: u32 = 6;
/// How long the servers of one zone are waited for together.
const WAIT_MAX: Duration = Duration::from_secs(6);
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
    TooMuchWork(Limit),
    /// Aliases that lead to a name that they come from (RFC 1034 §3.6.2: "CNAME loops [should be] signalled as an error").
    #[error("the aliases lead in a circle: {0} leads back to itself")]
    Circle(Name),
    /// The answer is not what its zone has signed.
    #[error("{name} {rtype}: {}{bogus}", if zone == name { String::new() } else { format!("{zone}: ") })]
    Bogus {
        /// What was asked for.
        name: Name,
        /// See there.
        rtype: Type,
        /// Whose data or keys are wrong.
        zone: Name,
        /// What is wrong.
        bogus: Bogus,
    },
    /// It took too long.
    #[error("it takes too long")]
    TooLong,
}

/// What a question has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Limit {
    /// [`QUESTIONS_MAX`].
    #[error("too many questions to other servers")]
    Questions,
    /// [`KEY_QUESTIONS_MAX`].
    #[error("too many questions about keys")]
    KeyQuestions,
    /// [`SERVER_NAMES_MAX`].
    #[error("too many servers whose addresses must be looked for")]
    ServerNames,
    /// [`ALIASES_MAX`].
    #[error("the aliases do not end")]
    Aliases,
    /// [`CUTS_MAX`].
    #[error("the referrals do not end")]
    Cuts,
    /// [`super::ASKED_AT_ONCE_MAX`]: not of this question's, but of all.
    #[error("too many questions at a time")]
    AtOnce,
}

impl Limit {
    /// All.
    pub const ALL: [Limit; 6] =
        [Limit::Questions, Limit::KeyQuestions, Limit::ServerNames, Limit::Aliases, Limit::Cuts, Limit::AtOnce];

    /// For the counters.
    pub fn label(self) -> &'static str {
        match self {
            Limit::Questions => "questions",
            Limit::KeyQuestions => "key questions",
            Limit::ServerNames => "server names",
            Limit::Aliases => "aliases",
            Limit::Cuts => "cuts",
            Limit::AtOnce => "at once",
        }
    }
}

impl Failure {
    /// The extended error for the client (RFC 8914 §4).
    pub fn code(&self) -> u16 {
        match self {
            // "No Reachable Authority".
            Failure::NoAnswer { .. } | Failure::NoAddress(_) | Failure::TooLong => 22,
            // "Other": there is no code for these.
            Failure::TooMuchWork(_) | Failure::Circle(_) => 0,
            Failure::Bogus { bogus, .. } => bogus.ede().0,
        }
    }
}

/// What is done for one question of a client.
#[derive(Clone, Debug)]
pub struct Task {
    /// The client's conversation, which the events name as their cause.
    pub cause: u64,
    /// Whether what is found is validated.
    pub(super) checking: Checking,
    /// The zones of ours that the client sees.
    own: Arc<Zones>,
    questions: Arc<AtomicU32>,
    key_questions: Arc<AtomicU32>,
    questions_max: (u32, Limit),
    server_names: Arc<AtomicU32>,
    pub(super) work: Arc<Mutex<Work>>,
    /// Names of servers that are being looked for: a name that waits for itself would wait for ever.
    looking_for: Vec<Name>,
}

impl Task {
    /// A new question of a client.
    pub fn new(cause: u64, standpoint: Standpoint<'_>, known: &Arc<Known>) -> Self {
        Self {
            cause,
            checking: standpoint.checking,
            own: Arc::clone(standpoint.own),
            questions: Arc::default(),
            key_questions: Arc::default(),
            questions_max: (QUESTIONS_MAX, Limit::Questions),
            server_names: Arc::default(),
            work: Arc::new(Mutex::new(Work::of(Arc::clone(known)))),
            looking_for: vec![],
        }
    }

    fn standpoint(&self) -> Standpoint<'_> {
        Standpoint { checking: self.checking, own: &self.own }
    }

    fn spend(what: &AtomicU32, (most, limit): (u32, Limit)) -> Result<(), Failure> {
        if what.fetch_add(1, Ordering::Relaxed) < most { Ok(()) } else { Err(Failure::TooMuchWork(limit)) }
    }

    /// Questions asked so far.
    pub fn questions(&self) -> u32 {
        self.questions.load(Ordering::Relaxed)
    }

    /// Its part that fetches keys. They are validated by the chain that they make.
    pub(super) fn about_keys(&self) -> Self {
        let questions = Arc::clone(&self.key_questions);
        let questions_max = (KEY_QUESTIONS_MAX, Limit::KeyQuestions);
        Self { questions, questions_max, checking: Checking::Off, ..self.clone() }
    }

    /// Its part that looks for a server. Whatever address is found, what that server says is validated.
    fn for_server(&self, name: &Name) -> Result<Self, Failure> {
        Self::spend(&self.server_names, (SERVER_NAMES_MAX, Limit::ServerNames))?;
        let mut looking_for = self.looking_for.clone();
        looking_for.push(name.clone());
        Ok(Self { looking_for, checking: Checking::Off, ..self.clone() })
    }
}

/// A set and the seconds that it is still good for.
pub type Dated = (Arc<Set>, u32);

/// What a client gets.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Aliases in order, and the records at their end.
    pub answers: Vec<Dated>,
    /// That there is nothing, and for how long.
    pub denial: Option<(Arc<Denial>, u32)>,
    /// Whether the name does not exist.
    pub no_such_name: bool,
    /// Whether all of it has been validated.
    pub security: Security,
    /// Whether some of it is past its time (RFC 8767).
    pub is_stale: bool,
    /// Whether some of it will be past its time soon, and should be fetched anew.
    pub is_ending: bool,
    /// Who says so.
    pub said_by: SaidBy,
}

/// Whose word an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaidBy {
    /// Those who own the names.
    Owners,
    /// Some of it is this server's own ([`local`](super::local)).
    Us,
}

impl Default for Reply {
    /// Nothing, which is beyond doubt.
    fn default() -> Self {
        let (answers, denial, security) = (vec![], None, Security::Secure);
        Self {
            answers,
            denial,
            no_such_name: false,
            security,
            is_stale: false,
            is_ending: false,
            said_by: SaidBy::Owners,
        }
    }
}

impl Reply {
    /// These aliases, and what is known of where they lead.
    fn and(mut self, end: Self) -> Self {
        self.answers.extend(end.answers);
        let said_by = if self.said_by == SaidBy::Us { SaidBy::Us } else { end.said_by };
        Self { answers: self.answers, security: self.security.and(end.security), said_by, ..end }
    }

    /// Whether the aliases so far may lead to a name.
    fn may_lead_to(&self, name: NameRef<'_>) -> Result<(), Failure> {
        let aliases = || self.answers.iter().filter(|(set, _)| set.rtype == Type::CNAME);
        if aliases().any(|(set, _)| set.owner.borrow() == name) {
            return Err(Failure::Circle(name.to_name()));
        }
        if aliases().count() > ALIASES_MAX { Err(Failure::TooMuchWork(Limit::Aliases)) } else { Ok(()) }
    }
}

/// What the cache knows.
#[derive(Clone, Debug)]
pub struct Looked {
    /// All that it does: aliases in order, and what is at their end.
    pub reply: Reply,
    /// The name that others, or zones of ours, must be asked about; `None` if the reply is whole.
    pub open: Option<Name>,
}

/// Whether data past its time will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Only what is good.
    Good,
    /// If there is nothing else.
    StaleToo,
}

/// Whether the cache may have the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It must be asked.
    Perhaps,
    /// It has just been asked.
    No,
}

/// Whether something in the cache has been judged that nobody had looked at before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Something,
    Nothing,
}

/// RFC 8767 §4: the TTL of what is past its time.
const STALE_TTL: u32 = 30;

/// The zone whose servers are asked next.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    pub(super) zone: Name,
    servers: Vec<Name>,
    /// Those of the servers' addresses that are known.
    pub(super) addresses: Vec<SocketAddr>,
    way: Way,
}

impl Resolver {
    /// Step 1: what the cache knows, along its aliases.
    ///
    /// # Errors
    /// The aliases lead in a circle, or are too many.
    pub fn look(
        &self,
        name: NameRef<'_>,
        rtype: Type,
        freshness: Freshness,
        standpoint: Standpoint<'_>,
        now: u64,
    ) -> Result<Looked, Failure> {
        let Standpoint { checking, own } = standpoint;
        let mut reply = Reply::default();
        let whole = |reply| Ok(Looked { reply, open: None });
        let open = |reply, name: NameRef<'_>| Ok(Looked { reply, open: Some(name.to_name()) });
        let mut target: Option<Name> = None;
        loop {
            let name = target.as_ref().map_or(name, Name::borrow);
            reply.may_lead_to(name)?;
            let place = own.place(name, rtype);
            if place == Place::Here {
                return open(reply, name);
            }
            let is_fit = |found: &Found| {
                (!found.is_stale || freshness == Freshness::StaleToo) && self.believes(found.origin.security, checking)
            };
            if let Some(local) = self.locals.look(name, rtype) {
                (reply.said_by, reply.security) = (SaidBy::Us, Security::Unchecked);
                match local {
                    Local::NoData => return whole(reply),
                    Local::NoName => return whole(Reply { no_such_name: true, ..reply }),
                    Local::Set(set) => {
                        let (ttl, is_end) = (set.ttl, set.rtype == rtype);
                        let leads_to = set.target().filter(|_| !is_end).map(NameRef::to_name);
                        reply.answers.push((set, ttl));
                        if leads_to.is_none() {
                            return whole(reply);
                        }
                        target = leads_to;
                        continue;
                    }
                }
            }
            let Some((_, found)) = self.look_once(name, rtype, place, now, is_fit) else {
                // What is proved about names above a cut of ours says nothing about names below it.
                let deduced = if place == Place::Elsewhere { self.deduce(name, rtype, checking, now) } else { None };
                let Some(Deduced { absent, denial, ttl }) = deduced else { return open(reply, name) };
                let no_such_name = absent == Absent::Name;
                return whole(Reply { denial: Some((Arc::new(denial), ttl)), no_such_name, ..reply });
            };
            let ttl = if found.is_stale { STALE_TTL } else { found.ttl };
            let is_whole = match found.content {
                Content::Set(set) if set.rtype == rtype => {
                    reply.answers.push((set, ttl));
                    true
                }
                Content::Set(alias) => {
                    let made = Set::made_of(&alias, name).map(Arc::new);
                    let cname = made.as_ref().unwrap_or(&alias);
                    let Some(leads_to) = cname.target().map(NameRef::to_name).filter(|_| cname.rtype == Type::CNAME)
                    else {
                        return open(reply, name);
                    };
                    reply.answers.extend([Some(alias), made].into_iter().flatten().map(|set| (set, ttl)));
                    target = Some(leads_to);
                    rtype == Type::CNAME
                }
                Content::NoData(denial) => {
                    reply.denial = Some((denial, ttl));
                    true
                }
                Content::NoName(denial) => {
                    (reply.denial, reply.no_such_name) = (Some((denial, ttl)), true);
                    true
                }
            };
            reply.is_stale |= found.is_stale;
            reply.is_ending |= found.is_ending;
            reply.security = reply.security.and(found.origin.security);
            if is_whole {
                return whole(reply);
            }
        }
    }

    /// What the cache knows about one name, and under which: what is asked for, an alias, or that the name does not exist.
    fn look_once<'n>(
        &self,
        name: NameRef<'n>,
        rtype: Type,
        place: Place,
        now: u64,
        is_fit: impl Fn(&Found) -> bool,
    ) -> Option<(NameRef<'n>, Found)> {
        let good = |name, rtype| {
            let found = self.cache.get(name, rtype, now)?;
            (found.origin.credibility.may_answer() && is_fit(&found)).then_some((name, found))
        };
        let is_set = |(_, found): &(NameRef<'_>, Found)| matches!(found.content, Content::Set(_));
        if let Some(found) = good(name, rtype) {
            return Some(found);
        }
        if rtype != Type::CNAME
            && let Some(found) = good(name, Type::CNAME).filter(is_set)
        {
            return Some(found);
        }
        let suffixes = Suffixes::of(name);
        // What others know of the zones above a cut of ours hides nothing below it.
        let top = if let Place::Below(labels) = place { labels } else { 0 };
        (top + 1..=suffixes.count()).rev().find_map(|labels| {
            let above = suffixes.suffix(labels);
            // RFC 8020: nothing exists below a name that does not. RFC 6672 §3.4: nor below a DNAME, but what it makes.
            let nothing = self.cache.get_no_name(above, now).filter(&is_fit).map(|found| (above, found));
            nothing.or_else(|| {
                let is_above = labels < suffixes.count() && self.cache.has_dname();
                is_above.then(|| good(above, Type::DNAME).filter(is_set)).flatten()
            })
        })
    }

    /// Asks anew for what the cache has.
    pub(super) async fn refresh(&self, name: &Name, rtype: Type, task: &Task) -> Result<(), Failure> {
        self.ask_the_tree(name, rtype, task).await.map(drop)
    }

    /// Finds what a client asks for, in the cache or by asking.
    ///
    /// # Errors
    /// Nobody can or will tell, or the work is too much.
    pub(super) async fn resolve(
        &self,
        name: &Name,
        rtype: Type,
        task: &Task,
        mut cached: Cached,
    ) -> Result<Reply, Failure> {
        let (mut reply, mut sname) = (Reply::default(), name.clone());
        loop {
            reply.may_lead_to(sname.borrow())?;
            let Looked { reply: known, open } = self.known(&sname, rtype, cached, task).await?;
            reply = reply.and(known);
            match open {
                None => return Ok(reply),
                Some(open) if open != sname => {
                    (sname, cached) = (open, Cached::No);
                    continue;
                }
                Some(_) => cached = Cached::Perhaps,
            }
            let (answer, security) = match own::answer(&task.own, sname.borrow(), rtype)? {
                // Nobody has validated what we say ourselves.
                Some(answer) => (answer, Security::Unchecked),
                // Steps 2 to 4.
                None => self.ask_the_tree(&sname, rtype, task).await?,
            };
            reply.security = reply.security.and(security);
            let mut leads_here = None;
            for alias in &answer.aliases {
                reply.answers.push((Arc::clone(alias), alias.ttl));
                let is_ours = |target: &NameRef<'_>| {
                    self.locals.look(*target, rtype).is_some() || task.own.place(*target, rtype) != Place::Elsewhere
                };
                if let Some(target) = alias.target().filter(|_| alias.rtype == Type::CNAME).filter(is_ours) {
                    leads_here = Some(target.to_name());
                    break;
                }
            }
            if let Some(target) = leads_here {
                sname = target;
                continue;
            }
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
    }

    /// Step 1, and before it: what the cache has of a name, judged if that must be.
    async fn known(&self, name: &Name, rtype: Type, mut cached: Cached, task: &Task) -> Result<Looked, Failure> {
        if task.checking == Checking::On
            && !self.anchors.is_empty()
            && Box::pin(self.judge_what_is_kept(name, rtype, task)).await? == Judged::Something
        {
            // What could not be told before its judgement can be now.
            cached = Cached::Perhaps;
        }
        match cached {
            Cached::Perhaps => self.look(name.borrow(), rtype, Freshness::Good, task.standpoint(), self.now()),
            Cached::No => Ok(Looked { reply: Reply::default(), open: Some(name.clone()) }),
        }
    }

    /// Judges what the cache has of a name that nobody has looked at yet: it came on the way to something else, or for a client that
    /// wanted it unchecked. What is bogus is forgotten.
    async fn judge_what_is_kept(&self, name: &Name, rtype: Type, task: &Task) -> Result<Judged, Failure> {
        let is_fit = |found: &Found| !found.is_stale;
        let place = task.own.place(name.borrow(), rtype);
        let Some((owner, found)) = self.look_once(name.borrow(), rtype, place, self.now(), is_fit) else {
            return Ok(Judged::Nothing);
        };
        if self.believes(found.origin.security, task.checking) {
            return Ok(Judged::Nothing);
        }
        let (end, kept_type) = match &found.content {
            Content::Set(set) => (End::Data(Arc::clone(set)), set.rtype),
            Content::NoData(denial) => (End::NoData(Arc::clone(denial)), rtype),
            Content::NoName(denial) => (End::NoName(Arc::clone(denial)), rtype),
        };
        let mut answer = Answer::of(owner.to_name(), end);
        match self.judge(&mut answer, rtype, task).await {
            Ok(marks) => {
                let ttl = match &answer.end {
                    End::Data(set) => set.ttl,
                    End::NoData(denial) | End::NoName(denial) => denial.ttl(),
                    End::Leads => 0,
                };
                self.cache.judged(owner, kept_type, &found.content, marks.end, ttl, self.now());
            }
            Err(Doubt::Bogus(..)) => self.cache.forget(owner, kept_type, &found.content),
            Err(Doubt::Failed(failure)) => return Err(failure),
        }
        Ok(Judged::Something)
    }

    /// Steps 2 to 4b, and that what was found is what its zone has signed. It is kept if that is so.
    async fn ask_the_tree(&self, name: &Name, rtype: Type, task: &Task) -> Result<(Answer, Security), Failure> {
        let (mut liars, mut doubt): (Vec<SocketAddr>, Option<Failure>) = (vec![], None);
        loop {
            let (mut answer, server) = match (self.ask_on(name, rtype, task, &liars).await, doubt.take()) {
                (Ok(found), _) => found,
                // Nobody else is there to be asked: what the others have said says more.
                (Err(Failure::NoAnswer { .. } | Failure::NoAddress(_)), Some(doubt)) => return Err(doubt),
                (Err(failure), _) => return Err(failure),
            };
            match self.judge(&mut answer, rtype, task).await {
                Ok(marks) => {
                    self.cache.keep_answer(&answer, rtype, &marks, server, self.now());
                    return Ok((answer, marks.of_all()));
                }
                Err(Doubt::Failed(failure)) => return Err(failure),
                Err(Doubt::Bogus(zone, bogus)) => {
                    let failure = Failure::Bogus { name: name.clone(), rtype, zone, bogus };
                    if liars.len() == BOGUS_MAX || bogus == Bogus::TooMuchWork {
                        return Err(failure);
                    }
                    liars.push(server);
                    doubt = Some(failure);
                }
            }
        }
    }

    /// Steps 2 to 4b, by ourselves or by those who do it for us. Nobody has looked at the signatures of what is returned.
    pub(super) async fn ask_on(
        &self,
        name: &Name,
        rtype: Type,
        task: &Task,
        avoid: &[SocketAddr],
    ) -> Result<(Answer, SocketAddr), Failure> {
        // DS and DNSKEY of zones of ours are wanted too, where those below them are validated.
        if let Some(answer) = own::answer(&task.own, name.borrow(), rtype)? {
            return Ok((answer, self.own_address()));
        }
        // Whom we have given a name to knows more of it than those who ask for us.
        let given = own::referral(&task.own, name.borrow(), rtype).map(|referral| self.cut_of(&referral));
        if self.forward.is_empty() || given.is_some() {
            return self.go_down(name, rtype, task, avoid, given.unwrap_or_else(|| self.root())).await;
        }
        let (servers, addresses) = (vec![], self.forward.clone());
        let mut cut = Cut { zone: Name::root(), servers, addresses, way: Way::Forwarded };
        // They get the whole name: it is not they who go down the tree.
        match self.ask_the_zone(&mut cut, name.borrow(), rtype, task, avoid).await {
            Ok((Said::Answer(answer), server)) => Ok((answer, server)),
            Ok(_) => Err(Failure::NoAnswer { zone: cut.zone, last: "it refers to others".to_owned() }),
            Err(Failure::NoAnswer { .. }) if self.fallback == Fallback::Root => {
                self.go_down(name, rtype, task, avoid, self.root()).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Steps 2 to 4b: down from the nearest zone that is known; from `top`, if none is known below it.
    async fn go_down(
        &self,
        name: &Name,
        rtype: Type,
        task: &Task,
        avoid: &[SocketAddr],
        top: Cut,
    ) -> Result<(Answer, SocketAddr), Failure> {
        let suffixes = Suffixes::of(name.borrow());
        // RFC 4035 §3.1.4.1: DS is the parent's.
        let deepest = if rtype == Type::DS { suffixes.count().saturating_sub(1) } else { suffixes.count() };
        let top_labels = top.zone.borrow().label_count();
        let mut cut = self.nearest_cut(name, deepest, &top);
        let mut shown = cut.zone.borrow().label_count() + 1;
        let mut is_remembered = true;
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
            let (said, server) = match self.ask_the_zone(&mut cut, asked_name, asked_type, task, avoid).await {
                // The zone above tells its servers' addresses anew, or other servers. Each such step leads up, and after the first
                // referral there is none, so this ends. Whoever is avoided has an address.
                Err(Failure::NoAddress(zone))
                    if is_remembered && avoid.is_empty() && zone.borrow().label_count() > top_labels =>
                {
                    cut = self.nearest_cut(name, zone.borrow().label_count() - 1, &top);
                    shown = cut.zone.borrow().label_count() + 1;
                    continue;
                }
                said => said?,
            };
            match said {
                Said::Referral(referral) => {
                    self.cache.keep_referral(&referral, server, self.now());
                    cut = self.cut_of(&referral);
                    // `scrub` lets only referrals through that lead down, so this ends.
                    (shown, is_remembered) = (cut.zone.borrow().label_count() + 1, false);
                }
                Said::Answer(answer) => match answer.end {
                    _ if is_whole => return Ok((answer, server)),
                    // RFC 8020: what is below it does not exist either.
                    End::NoName(_) if answer.aliases.is_empty() => return Ok((answer, server)),
                    _ => {
                        self.cache.keep_answer(&answer, asked_type, &Marks::UNCHECKED, server, self.now());
                        shown += 1;
                    }
                },
                Said::Useless(because) => {
                    return Err(Failure::NoAnswer { zone: cut.zone, last: because.to_owned() });
                }
            }
        }
        Err(Failure::TooMuchWork(Limit::Cuts))
    }

    /// The root, whose servers the hints know.
    pub(super) fn root(&self) -> Cut {
        Cut { zone: Name::root(), servers: vec![], addresses: self.hints.clone(), way: Way::Down }
    }

    fn cut_of(&self, referral: &Referral) -> Cut {
        let servers: Vec<Name> = scrub::servers(&referral.servers).map(NameRef::to_name).collect();
        let glue = referral.glue.iter().flat_map(|set| addresses_of(set, self.port));
        let addresses = glue.chain(self.known_addresses(&servers)).collect();
        Cut { zone: referral.servers.owner.clone(), servers, addresses, way: Way::Down }
    }

    /// Step 2: the zone with the most labels, but no more than `deepest`, above the name and below `top` whose servers are known; else `top`.
    ///
    /// Addresses often end before the NS set that needs them. Servers below their own cut are found by glue only, so without an
    /// address of any of them the cut is no use: the zone above has the glue.
    pub(super) fn nearest_cut(&self, name: &Name, deepest: usize, top: &Cut) -> Cut {
        let (suffixes, now) = (Suffixes::of(name.borrow()), self.now());
        // Of the root the cache may know more than the hints; of a cut of ours nobody knows more than we do.
        let highest = if top.zone.borrow().is_root() { 0 } else { top.zone.borrow().label_count() + 1 };
        for labels in (highest..=deepest).rev() {
            let zone = suffixes.suffix(labels);
            let Some(found) = self.cache.get(zone, Type::NS, now).filter(|found| !found.is_stale) else { continue };
            let Content::Set(set) = found.content else { continue };
            let servers: Vec<Name> = scrub::servers(&set).map(NameRef::to_name).collect();
            let addresses: Vec<SocketAddr> = self.known_addresses(&servers).collect();
            if !addresses.is_empty() || servers.iter().any(|server| !server.borrow().is_within(zone)) {
                return Cut { zone: zone.to_name(), servers, addresses, way: Way::Down };
            }
        }
        top.clone()
    }

    /// Step 3, and 4d.
    async fn ask_the_zone(
        &self,
        cut: &mut Cut,
        name: NameRef<'_>,
        rtype: Type,
        task: &Task,
        avoid: &[SocketAddr],
    ) -> Result<(Said, SocketAddr), Failure> {
        let recursion = match cut.way {
            Way::Down => self.recursion,
            Way::Forwarded if self.anchors.is_empty() => Recursion::Desired,
            Way::Forwarded => Recursion::DesiredUnchecked,
        };
        let question = Question { name, rtype, recursion, cause: task.cause };
        let mut untried: Vec<Name> = cut.servers.clone();
        let mut tried: Vec<SocketAddr> = avoid.to_vec();
        let (mut last, mut silent) = (None, vec![]);
        let (mut waits, mut waited): (Vec<(SocketAddr, Duration)>, Duration) = (vec![], Duration::ZERO);
        let (mut asked_so_far, mut rounds) = (0, 1);
        while asked_so_far < TRIES_MAX {
            let order = self.servers.in_order(&cut.zone, &cut.addresses, self.now());
            let Some(server) = order.iter().find(|address| !tried.contains(address)).copied() else {
                // No address is left: look for one of a server that has none yet.
                if Box::pin(self.more_addresses(cut, &mut untried, task)).await? {
                    continue;
                }
                if !silent.is_empty() && rounds < ROUNDS_MAX {
                    rounds += 1;
                    tried.retain(|server| !silent.contains(server));
                    silent.clear();
                    continue;
                }
                break;
            };
            let known = waits.iter().find(|(known, _)| *known == server).map(|(_, wait)| *wait * 2);
            let wait = known.unwrap_or_else(|| self.servers.patience(server));
            if waited + wait > WAIT_MAX {
                break;
            }
            waits.retain(|(known, _)| *known != server);
            waits.push((server, wait));
            tried.push(server);
            asked_so_far += 1;
            Task::spend(&task.questions, task.questions_max)?;
            let began = Instant::now();
            match self.upstream.ask(&self.servers, server, question, wait).await {
                Err(trouble) => {
                    self.servers.failed(server, self.now());
                    match &trouble {
                        Trouble::Timeout(wait) => {
                            silent.push(server);
                            waited += *wait;
                        }
                        // Nothing was sent: a host without IPv6 has tried nothing yet. Each address comes once, so this ends.
                        trouble if trouble.is_unreachable() => {
                            task.questions.fetch_sub(1, Ordering::Relaxed);
                            asked_so_far -= 1;
                        }
                        _ => {}
                    }
                    last = Some(trouble.to_string());
                }
                Ok(message) => {
                    self.servers.answered(server, began.elapsed());
                    let asked = Asked { zone: cut.zone.borrow(), name, rtype, way: cut.way };
                    self.counters.foreign.inc_by(scrub::foreign(&message, asked));
                    match scrub::read(&message, asked) {
                        Said::Useless(because) => {
                            self.counters.useless.inc();
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
    async fn more_addresses(&self, cut: &mut Cut, untried: &mut Vec<Name>, task: &Task) -> Result<bool, Failure> {
        while let Some(server) = untried.pop() {
            // A server below its own zone's cut can be found by glue only; and whoever is being looked for is not found by
            // looking for him.
            let is_circle = server.borrow().is_within(cut.zone.borrow()) || task.looking_for.contains(&server);
            if is_circle
                || task.looking_for.len() >= DEPTH_MAX
                || self.known_addresses(std::slice::from_ref(&server)).next().is_some()
            {
                continue;
            }
            let task = task.for_server(&server)?;
            for rtype in [Type::A, Type::AAAA] {
                if rtype == Type::AAAA && !self.speaks_ipv6 {
                    continue;
                }
                let Ok(reply) = self.resolve(&server, rtype, &task, Cached::Perhaps).await else { continue };
                let before = cut.addresses.len();
                cut.addresses.extend(reply.answers.iter().flat_map(|(set, _)| addresses_of(set, self.port)));
                if cut.addresses.len() > before {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn known_addresses(&self, servers: &[Name]) -> impl Iterator<Item = SocketAddr> {
        let (types, now) = (if self.speaks_ipv6 { &[Type::A, Type::AAAA][..] } else { &[Type::A][..] }, self.now());
        let of = move |server: &Name, rtype: Type| match self.cache.get(server.borrow(), rtype, now)? {
            Found { content: Content::Set(set), is_stale: false, .. } => Some(addresses_of(&set, self.port)),
            _ => None,
        };
        servers.iter().flat_map(move |server| types.iter().filter_map(move |rtype| of(server, *rtype))).flatten()
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
