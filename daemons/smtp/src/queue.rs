//! The queue at work: which message goes where next, and what follows from what came of it.
//!
//! ```text
//!   accepted --> lines, one for each destination --> couriers, a few for each line --> fates
//!                  ^                                                                   |
//!                  +-- the time of the next try has come <-- deferred: noted <---------+
//!                                                             failed: reported <-------+
//!                                                          delivered: removed <--------+
//! ```
//!
//! A courier keeps its connection while its line has messages, and a little longer: five messages for one site are one connection
//! with five transactions (RFC 5321 §4.5.4.1). When a site does not answer, all that waits for it is deferred at once.

use crate::{
    address::{Mailbox, ReversePath},
    answer::in_short,
    courier::{Connection, Couriers, Destination, Job},
    crash,
    envelope::{Account, Body, Envelope, Fate, OriginalRecipient, Recipient, Reports, Status},
    local::{Mailboxes, Sent},
    quota::Room,
    report::{Action, Addressee, Built, Entry as ReportEntry, ORIGINAL_OCTETS_MAX, Report},
    route::{POSTMASTER, Target},
    schedule::{self, Schedule, Warn, Warned},
    session::{Terms, Trouble},
    spool::{Id, Progress, Spool, State, Stored, unix},
};
use memchr::memmem;
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use shared::{
    current::Current,
    maildir::{Attempt, Placed},
    metrics::Metrics,
    transcript::{Conversation, Transcript, Transport},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fs::File,
    io,
    net::SocketAddr,
    ops::RangeInclusive,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Notify as Bell,
    task::spawn_blocking,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Messages that wait for each courier of a line before another one is sent out: fewer go faster over one connection.
const BACKLOG: usize = 10;
/// Mailboxes that are written to at the same time. Each write waits for the disk, which serves many as fast as one.
const LOCAL_COURIERS: usize = 16;

/// What can be set.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections to others at the same time.
    pub(crate) couriers: usize,
    /// Of these, to one destination.
    pub(crate) couriers_per_destination: usize,
    /// How long a connection waits for another message.
    pub(crate) reuse: Duration,
    /// Messages that may wait.
    pub(crate) messages: usize,
}

/// How a message goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Way {
    Local,
    Remote(Destination),
}

/// What waits for one destination.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<(Id, Vec<usize>)>,
    couriers: usize,
    /// Couriers that have a connection and nothing to do.
    idle: usize,
    bell: Arc<Bell>,
}

/// A message that waits.
#[derive(Debug)]
struct Message {
    stored: Stored,
    state: State,
    /// The connection that brought it; a report has that of the message that it is about. There is none after a restart.
    cause: Option<Conversation>,
    /// Recipients that are in a line or on their way.
    under_way: BTreeSet<usize>,
    /// Whether an earlier process may have delivered it.
    attempt: Attempt,
    /// Whoever writes its state down does so in turn.
    pen: Arc<Mutex<()>>,
}

#[derive(Debug, Default)]
struct Book {
    messages: BTreeMap<Id, Message>,
    lines: HashMap<Way, Line>,
    /// When which message is looked at next, in seconds since 1970. Entries that are out of date do no harm.
    agenda: BTreeSet<(u64, Id)>,
    couriers: usize,
}

impl Book {
    /// The lines of other sites in which messages wait.
    fn waiting(&self) -> impl Iterator<Item = (&Way, &Line)> {
        self.lines.iter().filter(|(way, line)| **way != Way::Local && !line.waiting.is_empty())
    }

    /// One of them that has no courier, because all are out.
    fn starving(&self) -> Option<&Way> {
        self.waiting().find(|(_, line)| line.couriers == 0).map(|(way, _)| way)
    }
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) delivered: Counter,
    relayed: Counter,
    deferred: Counter,
    failed: Counter,
    reports: Counter,
    waiting: Gauge,
}

impl Counters {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let fate = |fate| metrics.labelled("recipients", "Recipients by what came of a try", &[("fate", fate)]);
        Self {
            accepted: metrics.counter("messages_accepted", "Messages that were answered 250"),
            delivered: fate("delivered"),
            relayed: fate("relayed"),
            deferred: fate("deferred"),
            failed: fate("failed"),
            reports: metrics.counter("reports", "Reports to senders"),
            waiting: metrics.gauge("queue_messages", "Messages that wait in the queue"),
        }
    }
}

impl Counters {
    fn waiting(&self, book: &Book) {
        self.waiting.set(i64::try_from(book.messages.len()).unwrap_or(i64::MAX));
    }
}

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spool: Arc<Spool>,
    story: Story,
    rules: Current<Rules>,
    counters: Counters,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    bell: Bell,
    /// Rung when a message is gone.
    gone: Bell,
    book: Mutex<Book>,
}

/// Where it is told what becomes of messages: on the connection that brought them, and where nobody knows it any more, on one that is none.
#[derive(Debug)]
pub(crate) struct Story {
    transcript: Transcript,
    at: SocketAddr,
    own: OnceLock<Conversation>,
}

impl Story {
    /// Of the server that takes mail at this address.
    pub(crate) fn new(transcript: Transcript, at: SocketAddr) -> Self {
        Self { transcript, at, own: OnceLock::new() }
    }

    fn tell(&self, cause: Option<&Conversation>, text: impl FnOnce() -> String) {
        if self.transcript.is_heard() {
            let own = || self.own.get_or_init(|| self.transcript.conversation(Transport::Tcp, self.at, self.at));
            cause.unwrap_or_else(own).note(&text());
        }
    }
}

/// What the configuration says of mail that waits. A try that has begun ends by the rules that it began with.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) mailboxes: Arc<Mailboxes>,
    pub(crate) terms: Arc<Terms>,
    pub(crate) couriers: Couriers,
    pub(crate) schedule: Schedule,
    pub(crate) limits: Limits,
}

impl Queue {
    /// A queue with what waited on disk.
    pub(crate) fn new(
        (spool, waiting): (Spool, Vec<(Stored, State)>),
        rules: Rules,
        counters: Counters,
        story: Story,
    ) -> Self {
        let queue = Self(Arc::new(Inner {
            spool: Arc::new(spool),
            story,
            rules: Current::new(rules),
            counters,
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            bell: Bell::new(),
            gone: Bell::new(),
            book: Mutex::default(),
        }));
        for (stored, state) in waiting {
            queue.enter(stored, state, None, Attempt::Again);
        }
        queue
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.0.counters
    }

    pub(crate) fn spool(&self) -> &Arc<Spool> {
        &self.0.spool
    }

    /// Returns when nothing waits.
    pub async fn empty(&self) {
        loop {
            let gone = self.0.gone.notified();
            if self.book().messages.is_empty() {
                return;
            }
            gone.await;
        }
    }

    fn rules(&self) -> Arc<Rules> {
        self.0.rules.get()
    }

    /// From now on these count.
    pub(crate) fn set_rules(&self, rules: Rules) {
        self.0.rules.set(rules);
    }

    /// Whether another message may come in.
    pub(crate) fn is_full(&self) -> bool {
        self.book().messages.len() >= self.rules().limits.messages
    }

    /// Takes over a message that is safe on disk.
    pub(crate) fn add(&self, stored: Stored, cause: Option<Conversation>) {
        let state = State::new(stored.envelope.recipients.len(), stored.id.arrived());
        let id = stored.id;
        self.enter(stored, state, cause, Attempt::First);
        self.line_up(id, SystemTime::now());
    }

    /// The same for a message to lists whose sender wants to hear of success: that they were expanded is known now, and the report is safe
    /// before anybody is told that the message is. Blocks.
    pub(crate) fn add_expanded(&self, stored: Stored, lists: Vec<Recipient>, cause: &Conversation) -> io::Result<()> {
        let account = ours(Status(2, 0, 0), "it goes on to each of them");
        let piece = |recipient| News { recipient, action: Action::Expanded, account: account.clone() };
        let news: Vec<News> = (0..lists.len()).map(piece).collect();
        let envelope = Envelope { recipients: lists, ..Envelope::clone(&stored.envelope) };
        let about = Stored { envelope: Arc::new(envelope), ..stored.clone() };
        match self.report(&about, &news.iter().collect::<Vec<_>>(), SystemTime::now(), Some(cause)) {
            Ok(report) => {
                self.add(stored, Some(cause.clone()));
                if let Some(report) = report {
                    self.add(report, Some(cause.clone()));
                }
                Ok(())
            }
            Err(error) => {
                // Its client hears that it is not, and comes again.
                self.0.spool.remove(stored.id)?;
                Err(error)
            }
        }
    }

    fn enter(&self, stored: Stored, state: State, cause: Option<Conversation>, attempt: Attempt) {
        let (id, pen) = (stored.id, Arc::default());
        let message = Message { stored, state, cause, under_way: BTreeSet::new(), attempt, pen };
        let mut book = self.book();
        book.agenda.extend(message.due().map(|due| (due, id)));
        book.messages.insert(id, message);
        self.0.counters.waiting(&book);
        drop(book);
        self.0.bell.notify_one();
    }

    /// Looks at what is due until `shutdown`, then lets those who are at work finish.
    pub(crate) async fn run(&self, shutdown: CancellationToken) {
        loop {
            let now = SystemTime::now();
            let (due, next) = {
                let waiting = self.waiting(now);
                let mut book = self.book();
                let mut later = book.agenda.split_off(&(*waiting.start(), Id::default()));
                let never = later.split_off(&(*waiting.end() + 1, Id::default()));
                let mut due = std::mem::replace(&mut book.agenda, later);
                due.extend(never);
                (due, book.agenda.first().map(|(at, _)| *at))
            };
            for (_, id) in due {
                self.line_up(id, now);
            }
            let wait = next.map_or(Duration::from_hours(1), |at| {
                (SystemTime::UNIX_EPOCH + Duration::from_secs(at)).duration_since(now).unwrap_or_default()
            });
            let woken = timeout(wait, self.0.bell.notified());
            if shutdown.run_until_cancelled(woken).await.is_none() {
                break;
            }
        }
        // Couriers that wait for work wait no longer.
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The times at which somebody is to be tried who has to wait now. A later one is as good as past: it was set by a clock that has been set
    /// back since, or by a configuration with longer delays.
    fn waiting(&self, now: SystemTime) -> RangeInclusive<u64> {
        let longest = self.rules().schedule.longest().max(self.report_again());
        // A second more, for they are rounded up.
        unix(now) + 1..=unix(now + longest) + 1
    }

    /// Puts the recipients of a message that are due into the lines of their destinations.
    fn line_up(&self, id: Id, now: SystemTime) {
        if self.0.shutdown.is_cancelled() {
            return;
        }
        let waiting = self.waiting(now);
        let mut book = self.book();
        let Some(message) = book.messages.get_mut(&id) else { return };
        if message.state.held {
            return;
        }
        let mut ways: Vec<(Way, Vec<usize>)> = vec![];
        for (index, progress) in message.state.recipients.iter().enumerate() {
            let due = !progress.done && !waiting.contains(&progress.next_try) && !message.under_way.contains(&index);
            let Some(recipient) = message.stored.envelope.recipients.get(index).filter(|_| due) else { continue };
            let way = self.way(&recipient.to);
            match ways.iter_mut().find(|(known, _)| *known == way) {
                Some((_, recipients)) => recipients.push(index),
                None => ways.push((way, vec![index])),
            }
        }
        message.under_way.extend(ways.iter().flat_map(|(_, recipients)| recipients));
        for (way, recipients) in ways {
            book.lines.entry(way.clone()).or_default().waiting.push_back((id, recipients));
            self.send_out(&mut book, &way);
        }
    }

    fn way(&self, to: &Mailbox) -> Way {
        let rules = self.rules();
        if rules.terms.house.is_ours(to.host()) {
            Way::Local
        } else {
            Way::Remote(rules.couriers.destination(to.host()))
        }
    }

    /// Sends out another courier for a line, if it needs one and may have one.
    fn send_out(&self, book: &mut Book, way: &Way) {
        let Limits { couriers, couriers_per_destination, .. } = self.rules().limits;
        let all = book.couriers;
        if self.0.shutdown.is_cancelled() {
            return;
        }
        let Some(line) = book.lines.get_mut(way) else { return };
        if line.idle > 0 {
            line.bell.notify_one();
            return;
        }
        let (most, backlog) = match way {
            Way::Local => (LOCAL_COURIERS, 1),
            Way::Remote(_) => (couriers_per_destination, BACKLOG),
        };
        let wanted = line.couriers == 0 || line.waiting.len() > backlog * line.couriers;
        if line.waiting.is_empty() || !wanted || line.couriers >= most {
            return;
        }
        if *way != Way::Local && all >= couriers {
            // Whoever has nothing to do may leave, and make room for this one.
            if let Some(line) = book.lines.values().find(|line| line.idle > 0) {
                line.bell.notify_one();
            }
            return;
        }
        line.couriers += 1;
        book.couriers += usize::from(*way != Way::Local);
        let queue = self.clone();
        match way.clone() {
            Way::Local => self.0.tasks.spawn(queue.deliver_all()),
            Way::Remote(destination) => self.0.tasks.spawn(queue.carry_all(destination)),
        };
    }

    /// The next message of a line. Without any the courier is struck off, unless it may wait for one.
    async fn next(&self, way: &Way, reuse: Option<Duration>) -> Option<(Id, Vec<usize>)> {
        let mut waits = reuse;
        loop {
            let bell = {
                let mut book = self.book();
                let stopping = self.0.shutdown.is_cancelled();
                // Where all are out, who has nothing to do makes room for one to another site, and so does who has a colleague.
                let is_needed =
                    *way != Way::Local && book.couriers >= self.rules().limits.couriers && book.starving().is_some();
                let line = book.lines.get_mut(way)?;
                let leaves = stopping || is_needed && line.couriers > 1;
                if !leaves && let Some(job) = line.waiting.pop_front() {
                    return Some(job);
                }
                if waits.is_none() || leaves || is_needed {
                    self.strike_off(&mut book, way);
                    return None;
                }
                line.idle += 1;
                Arc::clone(&line.bell)
            };
            let ringing = timeout(waits.take().unwrap_or_default(), bell.notified());
            let rung = matches!(self.0.shutdown.run_until_cancelled(ringing).await, Some(Ok(())));
            if let Some(line) = self.book().lines.get_mut(way) {
                line.idle -= 1;
            }
            if rung {
                // Somebody else may have been faster; then the time begins anew.
                waits = reuse;
            }
        }
    }

    /// A courier leaves; those who waited for its place may go.
    fn strike_off(&self, book: &mut Book, way: &Way) {
        if let Some(line) = book.lines.get_mut(way) {
            line.couriers -= 1;
            if line.couriers == 0 && line.waiting.is_empty() {
                book.lines.remove(way);
            }
        }
        if *way != Way::Local {
            book.couriers -= 1;
            // Sites without any first, then those with much mail.
            while let Some(way) = book.starving().cloned() {
                let before = book.couriers;
                self.send_out(book, &way);
                if book.couriers == before {
                    return;
                }
            }
            let busy = book.waiting().filter(|(_, line)| line.waiting.len() > BACKLOG * line.couriers);
            let busy: Vec<Way> = busy.map(|(way, _)| way.clone()).collect();
            for way in busy {
                self.send_out(book, &way);
            }
        }
    }

    // --- To others ---------------------------------------------------------------------------------------------------

    /// A courier's life.
    async fn carry_all(self, destination: Destination) {
        let way = Way::Remote(destination.clone());
        let mut connection: Option<Connection> = None;
        loop {
            let reuse = connection.as_ref().map(|_| self.rules().limits.reuse);
            let Some((id, recipients)) = self.next(&way, reuse).await else { break };
            let (job, size) = match self.job(id, recipients.clone()).await {
                Ok(job) => job,
                Err(error) => {
                    tracing::error!(%id, %error, "cannot read a message of the queue");
                    let fate =
                        Fate::Deferred(ours(Status(4, 3, 0), "the message cannot be read here; our log says why"));
                    self.settle(id, recipients, |_| fate.clone()).await;
                    continue;
                }
            };
            let mut open = match connection.take() {
                Some(open) => open,
                None => match self.rules().couriers.connect(&destination, job.cause).await {
                    Ok(open) => {
                        tracing::debug!(%id, destination = %destination, remote = open.remote(), "connected");
                        open
                    }
                    Err(fate) => {
                        self.settle(id, recipients, |_| fate.clone()).await;
                        // It would be the same for all that wait.
                        let others = {
                            let mut book = self.book();
                            book.lines.get_mut(&way).map(|line| std::mem::take(&mut line.waiting)).unwrap_or_default()
                        };
                        for (id, recipients) in others {
                            self.settle(id, recipients, |_| fate.clone()).await;
                        }
                        continue;
                    }
                },
            };
            let fates = open.send(&job).await;
            tracing::debug!(%id, destination = %destination, octets = size, "tried");
            let mut fates = recipients.iter().copied().zip(fates).collect::<HashMap<usize, Fate>>();
            let silent =
                || Fate::Deferred(ours(Status(4, 3, 0), "the courier came back without a word; our log says why"));
            self.settle(id, recipients, |recipient| fates.remove(&recipient).unwrap_or_else(silent)).await;
            connection = open.keep(Instant::now()).await;
        }
        if let Some(connection) = connection {
            connection.quit().await;
        }
    }

    async fn job(&self, id: Id, recipients: Vec<usize>) -> io::Result<(Job, u64)> {
        let (stored, cause) = {
            let book = self.book();
            let message = book.messages.get(&id).ok_or(io::ErrorKind::NotFound)?;
            (message.stored.clone(), message.cause.as_ref().map(Conversation::id))
        };
        let spool = Arc::clone(&self.0.spool);
        let message = spawn_blocking(move || spool.message(id)).await??;
        let Stored { envelope, start, octets, .. } = stored;
        let job = Job { id: id.to_string(), cause, envelope, recipients, message: Arc::new(message), start, octets };
        Ok((job, octets))
    }

    // --- To mailboxes of this server ---------------------------------------------------------------------------------

    /// The life of a courier within the house.
    async fn deliver_all(self) {
        while let Some((id, recipients)) = self.next(&Way::Local, None).await {
            let queue = self.clone();
            let all = recipients.clone();
            let delivered = spawn_blocking(move || queue.deliver(id, &all)).await;
            let mut fates = match delivered {
                Ok(Some(fates)) => fates,
                // Removed meanwhile.
                Ok(None) => continue,
                // It panicked, which the log tells.
                Err(_) => HashMap::new(),
            };
            let failed =
                || Fate::Deferred(ours(Status(4, 3, 0), "the delivery failed within this server; our log says why"));
            self.settle(id, recipients, |recipient| fates.remove(&recipient).unwrap_or_else(failed)).await;
        }
    }

    /// Delivers a message to recipients that are here. Blocks.
    fn deliver(&self, id: Id, recipients: &[usize]) -> Option<HashMap<usize, Fate>> {
        let (stored, state, attempt) = {
            let book = self.book();
            let message = book.messages.get(&id)?;
            (message.stored.clone(), message.state.clone(), message.attempt)
        };
        let file = match self.0.spool.message(id) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%id, %error, "cannot read a message of the queue");
                return Some(HashMap::new());
            }
        };
        let fate = |index: &usize| {
            let Progress { forwarded, tries, .. } = state.recipients.get(*index)?;
            let copy = if *forwarded { Copy::Sent } else { Copy::Due };
            // A try that failed may have left the message there, where it could not be taken back.
            let attempt = if *tries > 0 { Attempt::Again } else { attempt };
            let letter = Letter { stored: &stored, file: &file, index: *index, attempt };
            Some((*index, self.deliver_one(&letter, stored.envelope.recipients.get(*index)?, copy)))
        };
        Some(recipients.iter().filter_map(fate).collect())
    }

    fn deliver_one(&self, letter: &Letter<'_>, recipient: &Recipient, copy: Copy) -> Fate {
        let Rules { mailboxes, terms, .. } = &*self.rules();
        let Letter { stored: Stored { id, envelope, start, octets }, file, index, attempt } = letter;
        let Some(account) = terms.house.account(recipient.to.local()) else {
            return Fate::Failed(ours(Status(5, 1, 1), "there is no such mailbox here"));
        };
        match mailboxes.forward(&account) {
            Ok(None) => {}
            Ok(Some(targets)) => {
                let (others, keeps) = self.forwarding(recipient, &account, &targets);
                let several = others.len() > 1;
                // It is sent on once, however often its mailbox has to be tried.
                if copy == Copy::Due
                    && !others.is_empty()
                    && let Err(fate) = self.send_on(letter, recipient, others)
                {
                    return fate;
                }
                if keeps == Keeps::Nothing {
                    let account = ours(Status(2, 0, 0), "forwarded");
                    if several {
                        return Fate::Expanded(account);
                    }
                    // RFC 3461 §5.2.7.2: the copy goes on with what its sender wants to hear, and is what will be reported.
                    return Fate::Relayed { account, reports: Reports::Itself };
                }
            }
            Err(error) => tracing::warn!(%id, account, %error, "cannot read .forward; the mailbox gets the message"),
        }
        // Before it is copied in vain.
        match mailboxes.room(&account, *octets) {
            Ok(Room::Enough) => {}
            Ok(room) => return no_room(room),
            Err(error) => tracing::warn!(%id, account, %error, "cannot tell how full a mailbox is"),
        }
        let name = mailboxes.name(*id, *index);
        let placed =
            name.and_then(|name| mailboxes.deliver(&account, name, *attempt, &envelope.from, (file, *start, *octets)));
        match placed {
            Ok(Sent::NoRoom(room)) => no_room(room),
            Ok(Sent::Placed(Placed::Now)) => {
                Fate::Delivered(ours(Status(2, 0, 0), format!("in the mailbox of {account}")))
            }
            Ok(Sent::Placed(Placed::Before)) => {
                Fate::Delivered(ours(Status(2, 0, 0), format!("in the mailbox of {account} since an earlier try")))
            }
            Err(error) => {
                tracing::error!(%id, account, %error, "cannot deliver");
                Fate::Deferred(trouble(&error))
            }
        }
    }

    /// Who gets a copy of what comes for an account, and what the account's mailbox keeps. If nobody could get one, it keeps the message:
    /// better there than nowhere.
    fn forwarding(&self, recipient: &Recipient, account: &str, targets: &[Target]) -> (Vec<Recipient>, Keeps) {
        let house = &self.rules().terms.house;
        let (mut others, mut keeps) = (vec![], Keeps::Nothing);
        // RFC 3461 §5.2.7: whoever is told of the copy must recognise the address that he wrote to.
        let orcpt = recipient.orcpt.clone().or_else(|| OriginalRecipient::of(&recipient.to));
        for target in targets {
            if house.account_of(target).as_deref() == Some(account) {
                keeps = Keeps::Message;
                continue;
            }
            let mailboxes = house.reach(target).unwrap_or_default();
            if mailboxes.is_empty() {
                tracing::warn!(account, %target, "a .forward names somebody who is not here");
            }
            let notify = recipient.notify;
            others.extend(mailboxes.into_iter().map(|to| Recipient { to, notify, orcpt: orcpt.clone() }));
        }
        if others.is_empty() {
            keeps = Keeps::Message;
        }
        // §5.2.7.3: of success is told once, where the message stays, or that it went to several.
        if others.len() > 1 || keeps == Keeps::Message {
            for other in &mut others {
                other.notify = other.notify.without_success();
            }
        }
        (others, keeps)
    }

    /// Sends a copy to whom its recipient forwards (RFC 5321 §3.9.1: the reverse-path stays), and notes that.
    fn send_on(&self, letter: &Letter<'_>, recipient: &Recipient, others: Vec<Recipient>) -> Result<(), Fate> {
        let Letter { stored, file, index, .. } = letter;
        match self.copy(stored, file, recipient, others) {
            Ok(Some(copy)) => {
                tracing::info!(id = %stored.id, to = %recipient.to, copy = %copy.id, "forwarded");
                crash::here("copied");
                let cause = {
                    let mut book = self.book();
                    let message = book.messages.get_mut(&stored.id);
                    message.and_then(|message| {
                        message.state.recipients[*index].forwarded = true;
                        message.cause.clone()
                    })
                };
                self.note_or_tell(stored.id);
                self.add(copy, cause);
                Ok(())
            }
            Ok(None) => Err(Fate::Failed(ours(
                Status(5, 4, 6),
                "it has been forwarded here before: it runs in a circle of `.forward` files",
            ))),
            Err(error) => {
                tracing::error!(id = %stored.id, %error, "cannot forward");
                Err(Fate::Deferred(trouble(&error)))
            }
        }
    }

    /// A copy for others, safe on disk; none, if it has been forwarded for this recipient before.
    fn copy(
        &self,
        stored: &Stored,
        file: &File,
        recipient: &Recipient,
        others: Vec<Recipient>,
    ) -> io::Result<Option<Stored>> {
        let mark = format!("Delivered-To: {}\r\n", recipient.to);
        let mut original = vec![0; stored.octets.min(ORIGINAL_OCTETS_MAX as u64) as usize];
        file.read_exact_at(&mut original, stored.start)?;
        if has_line(&original, &mark) {
            return Ok(None);
        }
        let envelope = Envelope { recipients: others, ..Envelope::clone(&stored.envelope) };
        let mut draft = self.0.spool.draft(Id::new(SystemTime::now()), envelope);
        draft.buffer().extend_from_slice(mark.as_bytes());
        let mut at = 0;
        while at < stored.octets {
            let wanted = (stored.octets - at).min(crate::spool::BUFFER_OCTETS as u64) as usize;
            let held = draft.buffer().len();
            draft.buffer().resize(held + wanted, 0);
            file.read_exact_at(&mut draft.buffer()[held..], stored.start + at)?;
            at += wanted as u64;
            if draft.is_full() {
                draft.spill()?;
            }
        }
        draft.commit(stored.envelope.body).map(Some)
    }

    // --- What came of it ---------------------------------------------------------------------------------------------

    /// Notes what came of a try, tells the sender what it must know, removes what is done.
    async fn settle(&self, id: Id, recipients: Vec<usize>, mut fate: impl FnMut(usize) -> Fate) {
        let now = SystemTime::now();
        let (stored, outcomes) = {
            let book = self.book();
            let Some(message) = book.messages.get(&id) else { return };
            let outcome = |recipient: &usize| self.judge(message, *recipient, fate(*recipient), now);
            (message.stored.clone(), recipients.iter().filter_map(outcome).collect())
        };
        let queue = self.clone();
        if spawn_blocking(move || queue.take_note(&stored, outcomes, now)).await.is_err() {
            // It panicked, which the log tells. What is not noted has not happened.
            let again = unix(now + self.report_again());
            if let Some(message) = self.book().messages.get_mut(&id) {
                for recipient in recipients {
                    message.under_way.remove(&recipient);
                    message.state.recipients[recipient].next_try = again;
                }
            }
            self.put_on_agenda(id);
        }
    }

    /// Reports, then notes, in this order: a report that is made twice is better than one that is not made. Blocks.
    fn take_note(&self, stored: &Stored, outcomes: Vec<Outcome>, now: SystemTime) {
        crash::here("tried");
        let news: Vec<&News> = outcomes.iter().filter_map(|outcome| outcome.news.as_ref()).collect();
        let cause = self.book().messages.get(&stored.id).and_then(|message| message.cause.clone());
        let report = self.report(stored, &news, now, cause.as_ref());
        crash::here("reported");
        if let Some(message) = self.book().messages.get_mut(&stored.id) {
            for Outcome { recipient, mut progress, news } in outcomes {
                match news.map(|news| news.action).filter(|_| report.is_err()) {
                    // RFC 5321 §6.1: who has taken over a message delivers it, or tells its sender. What nobody can be told has not failed
                    // yet: it is tried once more, and told then.
                    Some(Action::Failed) => {
                        (progress.done, progress.next_try) = (false, unix(now + self.report_again()));
                    }
                    Some(Action::Delayed { .. }) => progress.warned = false,
                    Some(Action::Delivered | Action::Relayed | Action::Expanded) | None => {}
                }
                message.state.recipients[recipient] = progress;
                message.under_way.remove(&recipient);
            }
        }
        match report {
            Ok(report) => report.into_iter().for_each(|report| self.add(report, cause.clone())),
            Err(error) => tracing::error!(about = %stored.id, %error, "cannot store a report; what it is about waits"),
        }
        self.put_on_agenda(stored.id);
        self.note_or_tell(stored.id);
    }

    /// How long a message waits whose failure could not be told.
    fn report_again(&self) -> Duration {
        self.rules().schedule.delays.first().copied().unwrap_or(Duration::from_mins(1))
    }

    /// Sees to it that a message is looked at when it is due.
    fn put_on_agenda(&self, id: Id) {
        let mut book = self.book();
        let due = book.messages.get(&id).and_then(Message::due);
        book.agenda.extend(due.map(|due| (due, id)));
        drop(book);
        self.0.bell.notify_one();
    }

    /// Writes down what is known of a message now, or removes it, if nothing is left to do. Blocks.
    fn note(&self, id: Id) -> io::Result<()> {
        let Some(pen) = self.book().messages.get(&id).map(|message| Arc::clone(&message.pen)) else { return Ok(()) };
        let _turn = pen.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at with the pen in hand: whoever writes last writes what is newest.
        let Some(state) = self.book().messages.get(&id).map(|message| message.state.clone()) else { return Ok(()) };
        if !state.is_done() {
            return self.0.spool.note(id, &state);
        }
        let removed = self.0.spool.remove(id);
        let mut book = self.book();
        book.messages.remove(&id);
        self.0.counters.waiting(&book);
        drop(book);
        self.0.gone.notify_waiters();
        removed
    }

    fn note_or_tell(&self, id: Id) {
        if let Err(error) = self.note(id) {
            tracing::error!(%id, %error, "cannot note what came of a try; it may be made again");
        }
    }

    /// What a fate means for a recipient; what its sender must know of it.
    fn judge(&self, message: &Message, recipient: usize, fate: Fate, now: SystemTime) -> Option<Outcome> {
        let (counters, schedule) = (&self.0.counters, &self.rules().schedule);
        let id = message.stored.id;
        let Recipient { to, notify, .. } = message.stored.envelope.recipients.get(recipient)?;
        let mut progress = message.state.recipients.get(recipient)?.clone();
        progress.tries += 1;
        let tries = progress.tries;
        let news = |action, account| Some(News { recipient, action, account });
        let tell = |what: &dyn Fn() -> String| {
            self.0.story.tell(message.cause.as_ref(), || format!("message {id} for {to}: {}", what()));
        };
        progress.last = in_short(&fate.account().to_string()).into_owned();
        progress.done = !matches!(fate, Fate::Deferred(_));
        let news = match fate {
            Fate::Delivered(account) => {
                counters.delivered.inc();
                tracing::info!(%id, %to, tries, how = %account, "delivered");
                tell(&|| account.to_string());
                if notify.of_success() { news(Action::Delivered, account) } else { None }
            }
            Fate::Relayed { account, reports } => {
                counters.relayed.inc();
                tracing::info!(%id, %to, tries, how = %account, "relayed");
                let told = notify.of_success() && reports == Reports::NotItself;
                if told { news(Action::Relayed, account) } else { None }
            }
            Fate::Expanded(account) => {
                counters.relayed.inc();
                tracing::info!(%id, %to, tries, how = %account, "expanded");
                if notify.of_success() { news(Action::Expanded, account) } else { None }
            }
            Fate::Failed(account) => {
                counters.failed.inc();
                tracing::warn!(%id, %to, tries, because = %account, "failed");
                news(Action::Failed, account)
            }
            Fate::Deferred(account) => {
                counters.deferred.inc();
                let warned = if progress.warned { Warned::Yes } else { Warned::NotYet };
                let so_far = schedule::Progress { arrived: id.arrived(), tries, warned };
                match schedule.next(&so_far, now, chance(id, tries)) {
                    schedule::Next::Again { at, until, warn } => {
                        // Rounded up: within its second it is not due yet, or it would be tried again and again.
                        progress.next_try = unix(at + Duration::from_millis(999));
                        progress.warned |= warn == Warn::Now;
                        let wait = at.duration_since(now).unwrap_or_default();
                        tracing::info!(%id, %to, tries, because = %account, next = ?wait, "deferred");
                        tell(&|| format!("{account}; it is tried again in {}", people(wait)));
                        if warn == Warn::Now { news(Action::Delayed { until }, account) } else { None }
                    }
                    schedule::Next::GiveUp { after } => {
                        counters.failed.inc();
                        let text = format!("given up after {} tries in {}: {}", tries, people(after), account.text);
                        // RFC 3463 §3.5: 4.4.7 "delivery time expired"; it is permanent now.
                        let account = Account { status: Status(5, 4, 7), text, ..account };
                        tracing::warn!(%id, %to, tries, because = %account, "failed");
                        (progress.done, progress.last) = (true, in_short(&account.to_string()).into_owned());
                        news(Action::Failed, account)
                    }
                }
            }
        };
        Some(Outcome { recipient, progress, news })
    }

    /// Makes the report that is needed, if one is, and makes it safe. Blocks.
    fn report(
        &self,
        stored: &Stored,
        news: &[&News],
        now: SystemTime,
        cause: Option<&Conversation>,
    ) -> io::Result<Option<Stored>> {
        let failed = news.iter().any(|piece| piece.action == Action::Failed);
        let none = |why: &str| {
            if failed {
                tracing::info!(id = %stored.id, why, "nobody is told");
                self.0.story.tell(cause, || format!("message {} is lost, and nobody is told: {why}", stored.id));
            }
            Ok(None)
        };
        let house = &self.rules().terms.house;
        let postmaster = house.names(POSTMASTER).and_then(|mailboxes| mailboxes.into_iter().next());
        let addressee = match (&stored.envelope.from, &postmaster) {
            (ReversePath::Mailbox(_), _) => Addressee::Sender,
            // RFC 5321 §4.5.5: never to <>. Somebody should know all the same, unless it was for that somebody.
            (ReversePath::Null, Some(postmaster)) => {
                let own = stored.envelope.recipients.iter().any(|recipient| recipient.to == *postmaster);
                if !failed || own {
                    return none("it came from nobody, and was for the postmaster");
                }
                Addressee::Postmaster(postmaster)
            }
            (ReversePath::Null, None) => return none("it came from nobody, and there is no postmaster"),
        };
        let id = Id::new(now);
        let original = self.0.spool.message(stored.id).and_then(|file| {
            let mut original = vec![0; stored.octets.min(ORIGINAL_OCTETS_MAX as u64) as usize];
            file.read_exact_at(&mut original, stored.start)?;
            Ok(original)
        });
        let original = original.unwrap_or_else(|error| {
            tracing::error!(id = %stored.id, %error, "cannot read a message that is to be reported");
            vec![]
        });
        let entries = news.iter().map(|piece| ReportEntry {
            recipient: piece.recipient,
            action: piece.action,
            account: &piece.account,
            tried: now,
        });
        let report = Report {
            host: &house.name,
            id: &id.to_string(),
            queue_id: &stored.id.to_string(),
            addressee,
            envelope: &stored.envelope,
            arrived: stored.id.arrived(),
            now,
            entries: entries.collect(),
            original: &original,
            octets: stored.octets,
        };
        let Some(Built { envelope, message, in_short }) = report.build() else {
            return none("its sender wants to hear nothing");
        };
        let body = if message.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
        let mut draft = self.0.spool.draft(id, envelope);
        draft.buffer().extend_from_slice(&message);
        let report = draft.commit(body)?;
        self.0.counters.reports.inc();
        for Recipient { to, .. } in &report.envelope.recipients {
            tracing::info!(%id, about = %stored.id, %to, because = in_short, "report");
            self.0
                .story
                .tell(cause, || format!("report {id} about message {} is made, to {to}: {in_short}", stored.id));
        }
        Ok(Some(report))
    }
}

/// What its sender must know of a recipient.
struct News {
    recipient: usize,
    action: Action,
    account: Account,
}

/// What came of a try for one recipient.
struct Outcome {
    recipient: usize,
    progress: Progress,
    news: Option<News>,
}

/// A message at the door of a mailbox.
struct Letter<'q> {
    stored: &'q Stored,
    file: &'q File,
    /// Which recipient.
    index: usize,
    attempt: Attempt,
}

/// What a mailbox without room means for its message.
fn no_room(room: Room) -> Fate {
    match room {
        Room::Enough | Room::NotNow => {
            Fate::Deferred(ours(Status(4, 2, 2), "the mailbox is full; its owner can make room"))
        }
        Room::Never { quota } => {
            let text = format!("the message is larger than the mailbox, which has room for {quota} octets");
            Fate::Failed(ours(Status(5, 2, 2), text))
        }
    }
}

/// Whether others have their copy of a forwarded message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    Due,
    Sent,
}

/// What the mailbox of a forwarder keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeps {
    Message,
    Nothing,
}

impl Message {
    /// When a recipient that nobody works on is tried next.
    fn due(&self) -> Option<u64> {
        let waits = |(index, progress): &(usize, &Progress)| !progress.done && !self.under_way.contains(index);
        let waiting = self.state.recipients.iter().enumerate().filter(waits);
        waiting.map(|(_, progress)| progress.next_try).min().filter(|_| !self.state.held)
    }
}

/// Whether a header has this line. `X-Delivered-To:`, which others write, is another field.
fn has_line(message: &[u8], line: &str) -> bool {
    let header = memmem::find(message, b"\r\n\r\n").map_or(message, |end| &message[..end + 2]);
    memmem::find_iter(header, line).any(|at| at == 0 || header[..at].ends_with(b"\r\n"))
}

/// What happened here, without anybody else.
fn ours(status: Status, text: impl Into<String>) -> Account {
    Account { status, remote: None, reply: None, text: text.into() }
}

/// What the system refused, for the sender: nothing about our insides.
fn trouble(error: &io::Error) -> Account {
    match Trouble::from(error) {
        Trouble::DiskFull => ours(Status(4, 3, 1), "there is no room on the disk"),
        Trouble::QueueFull | Trouble::Disk => {
            ours(Status(4, 3, 0), "the mailbox cannot be written to; our log says why")
        }
    }
}

/// What picks within the jitter: different for each message and try.
fn chance(id: Id, tries: u32) -> u8 {
    let text = id.to_string();
    text.bytes().fold(tries as u8, |sum, octet| sum.wrapping_mul(31).wrapping_add(octet))
}

/// A time for people.
fn people(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        1 => "1 second".to_owned(),
        0..120 => format!("{seconds} seconds"),
        120..7200 => format!("{} minutes", seconds / 60),
        7200..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

// --- What a person asks of it ----------------------------------------------------------------------------------------

/// What is asked of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// What waits.
    List,
    /// One message: its envelope, what came of it, its header.
    Show(Id),
    /// Try now.
    Flush(Which),
    /// Let it wait.
    Hold(Which),
    /// Let it wait no longer.
    Release(Which),
    /// Remove it; nobody is told.
    Delete(Which),
}

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// All that wait.
    All,
    /// This one.
    One(Id),
}

impl Question {
    /// `list`, `show ID`, `flush`, `hold ID`, `release all` ...
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(action: &str, argument: Option<&str>) -> Result<Self, String> {
        let which = || match argument {
            None | Some("all") => Ok(Which::All),
            Some(id) => id.parse().map(Which::One).map_err(|()| format!("`{id}` is no queue id; `list` shows them")),
        };
        let named = || if argument.is_none() { Err(format!("{action} what? a queue id, or all")) } else { which() };
        match action {
            "list" => Ok(Self::List),
            "show" => match which()? {
                Which::One(id) => Ok(Self::Show(id)),
                Which::All => Err("show which message? `list` shows their ids".to_owned()),
            },
            "flush" => which().map(Self::Flush),
            "hold" => named().map(Self::Hold),
            "release" => named().map(Self::Release),
            "delete" => named().map(Self::Delete),
            other => Err(format!("`{other}` is none of list, show, flush, hold, release, delete")),
        }
    }
}

impl Queue {
    /// Answers an action in words, as [`Question::parse`] has them. Blocks.
    ///
    /// # Errors
    /// What would be right.
    pub fn about(&self, action: &str, argument: Option<&str>) -> Result<Vec<String>, String> {
        Question::parse(action, argument).map(|question| self.answer(&question))
    }

    /// Answers in lines. Blocks.
    pub fn answer(&self, question: &Question) -> Vec<String> {
        match question {
            Question::List => self.list(),
            Question::Show(id) => self.show(*id),
            Question::Flush(which) => self.change(*which, |state, now| {
                if state.held {
                    return "is held; release it first";
                }
                for progress in state.recipients.iter_mut().filter(|progress| !progress.done) {
                    progress.next_try = unix(now);
                }
                "will be tried now"
            }),
            Question::Hold(which) => self.change(*which, |state, _| {
                state.held = true;
                "held"
            }),
            Question::Release(which) => self.change(*which, |state, _| {
                state.held = false;
                "released"
            }),
            Question::Delete(which) => self.delete(*which),
        }
    }

    fn list(&self) -> Vec<String> {
        let now = SystemTime::now();
        let book = self.book();
        let mut lines = vec![];
        for (id, Message { stored, state, under_way, .. }) in &book.messages {
            let age = people(now.duration_since(id.arrived()).unwrap_or_default());
            let held = if state.held { "  held" } else { "" };
            lines.push(format!("{id}  {} octets  {age}  from {}{held}", stored.octets, stored.envelope.from));
            let recipients = stored.envelope.recipients.iter().zip(&state.recipients).enumerate();
            for (index, (recipient, progress)) in recipients.filter(|(_, (_, progress))| !progress.done) {
                let tries = if progress.tries == 1 { "1 try".to_owned() } else { format!("{} tries", progress.tries) };
                let next = if under_way.contains(&index) {
                    "on its way".to_owned()
                } else if state.held {
                    "held".to_owned()
                } else {
                    format!("next in {}", people(Duration::from_secs(progress.next_try.saturating_sub(unix(now)))))
                };
                lines.push(format!("    to {}  {tries}, {next}", recipient.to));
                if !progress.last.is_empty() {
                    lines.push(format!("      {}", progress.last));
                }
            }
        }
        lines.push(match book.messages.len() {
            0 => "the queue is empty".to_owned(),
            1 => "1 message waits".to_owned(),
            count => format!("{count} messages wait"),
        });
        lines
    }

    fn show(&self, id: Id) -> Vec<String> {
        let Some(stored) = self.book().messages.get(&id).map(|message| message.stored.clone()) else {
            return vec![no_message(id)];
        };
        // The file is its own best picture: the dialogue that brought it, then the message.
        let mut octets = vec![0; (stored.start + stored.octets).min(SHOWN_OCTETS) as usize];
        let read = self.0.spool.message(id).and_then(|file| file.read_exact_at(&mut octets, 0));
        if let Err(error) = read {
            return vec![format!("{id}: {error}")];
        }
        let mut lines: Vec<String> = octets
            .split(|octet| *octet == b'\n')
            .map(|line| {
                // Folded header fields begin with a tab, which would be shown as `\t`.
                let pieces = line.trim_ascii_end().split(|octet| *octet == b'\t');
                pieces.map(shared::transcript::readable).collect::<Vec<_>>().join("        ")
            })
            .collect();
        if stored.start + stored.octets > SHOWN_OCTETS {
            lines.push(format!("... and {} octets more", stored.start + stored.octets - SHOWN_OCTETS));
        }
        lines
    }

    /// Changes what is known of messages. `change` says in words what it did.
    fn change(&self, which: Which, change: impl Fn(&mut State, SystemTime) -> &'static str) -> Vec<String> {
        let now = SystemTime::now();
        let mut lines = vec![];
        for id in self.named(which) {
            let Some(done) = self.book().messages.get_mut(&id).map(|message| change(&mut message.state, now)) else {
                lines.push(no_message(id));
                continue;
            };
            match self.note(id) {
                Ok(()) => lines.push(format!("{id} {done}")),
                Err(error) => lines.push(format!("{id} {done}, but that cannot be noted on disk: {error}")),
            }
            self.put_on_agenda(id);
        }
        if lines.is_empty() {
            lines.push("the queue is empty".to_owned());
        }
        lines
    }

    fn delete(&self, which: Which) -> Vec<String> {
        let mut lines = vec![];
        for id in self.named(which) {
            let mut book = self.book();
            match book.messages.get(&id) {
                None => lines.push(no_message(id)),
                Some(message) if !message.under_way.is_empty() => {
                    lines.push(format!("{id} is on its way; hold it, then delete it"));
                }
                Some(_) => {
                    book.messages.remove(&id);
                    self.0.counters.waiting(&book);
                    drop(book);
                    match self.0.spool.remove(id) {
                        Ok(()) => lines.push(format!("{id} deleted; its sender is not told")),
                        Err(error) => lines.push(format!("{id} cannot be removed: {error}")),
                    }
                }
            }
        }
        if lines.is_empty() {
            lines.push("the queue is empty".to_owned());
        }
        lines
    }

    fn named(&self, which: Which) -> Vec<Id> {
        match which {
            Which::All => self.book().messages.keys().copied().collect(),
            Which::One(id) => vec![id],
        }
    }
}

fn no_message(id: Id) -> String {
    format!("no message {id} waits; `list` shows those that do")
}

/// How much of a message `show` has.
const SHOWN_OCTETS: u64 = 64 << 10;
