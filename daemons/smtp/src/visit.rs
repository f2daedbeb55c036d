//! One client: carries out what the [session](crate::session) decides.

use crate::{
    address::{ForwardPath, Host, Mailbox, ReversePath},
    authenticity::{HELD_OCTETS_MAX, Signer, cut_forged_results},
    body::{Incoming, Missing, Progress},
    command::{Client, Last},
    envelope::{Body, Envelope, Notify, Recipient},
    greylist::Verdict as Grey,
    local::{Letter, Sent},
    quota::Room,
    reply::Reply,
    server::Office,
    session::{
        AUTH_LINE_OCTETS_MAX, Channel, Effect, LINE_OCTETS_MAX, Opening, Outcome, Purpose, Session, Step, Trouble,
    },
    spool::{Draft, Id, Stored},
};
use shared::{
    login,
    maildir::Attempt,
    message::Shown,
    transcript::{Conversation, Kind},
    wire::{Wire, WireError},
};
use std::{
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task::{block_in_place, spawn_blocking},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How much of a message is read at once.
const CHUNK_OCTETS: usize = 64 << 10;
/// A message may take an hour, and more if it comes faster than this. Somebody who types has time enough; whoever drips octets to
/// keep a connection has not.
const MESSAGE_TIME: Duration = Duration::from_hours(1);
const OCTETS_PER_SECOND_MIN: u64 = 1024;

/// How a conversation ended.
enum End {
    /// With words, that are still to be sent.
    Goodbye,
    /// Without: the client is gone.
    Silence,
    /// It goes on over TLS.
    StartTls,
}

/// A client's visit.
pub(crate) struct Visit {
    office: Arc<Office>,
    session: Session,
    peer: IpAddr,
    /// The message that is coming in, by DATA or in chunks.
    receiving: Option<Receiving>,
}

/// How much of a message there is to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    Whole,
    /// More than is held in memory.
    TooLong,
}

/// A message that is coming in.
struct Receiving {
    incoming: Incoming,
    vessel: Vessel,
    pace: Pace,
    from: ReversePath,
    expanded: Vec<Recipient>,
    shown: Shown,
    /// What is still to be done to its header.
    crown: Option<Crown>,
}

/// How fast octets come.
struct Pace {
    began: tokio::time::Instant,
    octets: u64,
}

impl Pace {
    fn begin() -> Self {
        Self { began: tokio::time::Instant::now(), octets: 0 }
    }

    /// How long more of them may take.
    fn left(&self) -> Duration {
        let allowed = MESSAGE_TIME.max(Duration::from_secs(self.octets / OCTETS_PER_SECOND_MIN));
        allowed.saturating_sub(self.began.elapsed())
    }
}

/// What becomes of a header once it is there, and perhaps all of the message: what will stand on top depends on that.
struct Crown {
    what: Sealed,
    /// Where in the vessel's buffer they go, and where the message begins.
    at: usize,
    message: usize,
}

/// What the header is to tell.
#[derive(Clone, Debug)]
enum Sealed {
    /// Where it comes from (RFC 8601), if that is wanted; nothing, in any case, that a stranger tells in our name.
    Origin(Client),
    /// That it is from us (RFC 6376): by this one of the signers.
    Signature(usize),
}

/// Where it goes.
enum Vessel {
    /// Into the queue.
    Queue(Draft),
    /// For one mailbox of ours, and nothing else is to be done with it: there it is as safe as in the queue, and is where it belongs.
    Mailbox { letter: Letter, id: Id, to: Mailbox },
    /// Nowhere: writing failed, and the rest is read so that the conversation stays in step.
    Lost(Trouble),
}

impl Vessel {
    fn buffer<'a>(&'a mut self, waste: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        match self {
            Vessel::Queue(draft) => draft.buffer(),
            Vessel::Mailbox { letter, .. } => letter.buffer(),
            Vessel::Lost(_) => {
                waste.clear();
                waste
            }
        }
    }

    /// What waits in memory, if anything does.
    fn held(&mut self) -> Option<&mut Vec<u8>> {
        match self {
            Vessel::Queue(draft) => Some(draft.buffer()),
            Vessel::Mailbox { letter, .. } => Some(letter.buffer()),
            Vessel::Lost(_) => None,
        }
    }

    fn is_full(&self) -> bool {
        match self {
            Vessel::Queue(draft) => draft.is_full(),
            Vessel::Mailbox { letter, .. } => letter.is_full(),
            Vessel::Lost(_) => false,
        }
    }

    /// Blocks.
    fn spill(&mut self) -> io::Result<()> {
        match self {
            Vessel::Queue(draft) => draft.spill(),
            Vessel::Mailbox { letter, .. } => letter.spill(),
            Vessel::Lost(_) => Ok(()),
        }
    }
}

/// Serves a client until it leaves, falls silent, or we stop.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send>(
    office: Arc<Office>,
    mut wire: Wire<S>,
    (channel, purpose): (Channel, Purpose),
    shutdown: &CancellationToken,
) {
    let peer = wire.conversation().remote().ip();
    let relay = office.may_relay(peer);
    let (session, greeting) = Session::new(Arc::clone(&office.terms), channel, purpose, relay);
    let mut visit = Visit { session, peer, receiving: None, office };
    visit.say(&mut wire, &greeting);
    match visit.converse(&mut wire, shutdown).await {
        End::Silence => {}
        // The client may be gone, which is how sessions end: there is nobody left to tell.
        End::Goodbye => drop(wire.close().await),
        // Boxed, so that those who need no TLS do not carry its size.
        End::StartTls => Box::pin(visit.go_on_encrypted(wire, shutdown)).await,
    }
}

impl Visit {
    async fn go_on_encrypted<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &mut self,
        wire: Wire<S>,
        shutdown: &CancellationToken,
    ) {
        let Some(acceptor) = self.office.acceptor.clone() else { return };
        // RFC 3207 §4.2 and CVE-2011-0411: what came behind STARTTLS in clear is dropped here.
        let Some(mut wire) = wire.over_tls(&acceptor).await else { return };
        self.session.encrypted();
        if let End::Goodbye = self.converse(&mut wire, shutdown).await {
            drop(wire.close().await);
        }
    }

    fn say<S: AsyncRead + AsyncWrite + Unpin>(&self, wire: &mut Wire<S>, reply: &Reply) {
        reply.lines(self.session.codes()).for_each(|line| wire.say(line));
    }

    async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(
        &mut self,
        wire: &mut Wire<S>,
        shutdown: &CancellationToken,
    ) -> End {
        let host = self.office.terms.house.name.clone();
        loop {
            // A stop is noticed between two commands, never within one.
            let line = match shutdown.run_until_cancelled(wire.line()).await {
                Some(Ok(line)) => line,
                // RFC 5321 §3.8: 421 before a connection is closed that the client did not close.
                Some(Err(WireError::TimedOut)) => {
                    self.say(wire, &Reply::timed_out(&host));
                    return End::Goodbye;
                }
                Some(Err(reason)) => return gone(wire, &reason),
                None => {
                    self.say(wire, &Reply::stopping(&host));
                    return End::Goodbye;
                }
            };
            let mut step = self.session.on_line(&line);
            loop {
                step = match step {
                    Step::Perform(effect) => {
                        let outcome = self.perform(effect, wire, shutdown).await;
                        self.session.on_outcome(outcome)
                    }
                    Step::ReadText(reply) => {
                        self.say(wire, &reply);
                        match self.receive(wire, None).await {
                            Ok(outcome) => self.session.on_outcome(outcome),
                            Err(reason) => return self.lost(wire, &reason),
                        }
                    }
                    Step::ReadChunk { octets, last } => match self.receive(wire, Some((octets, last))).await {
                        Ok(outcome) => self.session.on_outcome(outcome),
                        Err(reason) => return self.lost(wire, &reason),
                    },
                    Step::SkipChunk { octets, reply } => match skip(wire, octets).await {
                        Ok(()) => {
                            self.say(wire, &reply);
                            break;
                        }
                        Err(reason) => return self.lost(wire, &reason),
                    },
                    Step::Reply(reply) => {
                        self.say(wire, &reply);
                        break;
                    }
                    Step::Challenge(reply) => {
                        self.say(wire, &reply);
                        wire.next_line_is_secret();
                        break;
                    }
                    Step::StartTls(reply) => {
                        self.say(wire, &reply);
                        return End::StartTls;
                    }
                    Step::Close(reply) => {
                        self.say(wire, &reply);
                        return End::Goodbye;
                    }
                };
            }
            // A message that comes in chunks and was given up (RSET, EHLO) leaves nothing.
            if !self.session.is_chunking() {
                self.receiving = None;
            }
            let long = self.session.is_authenticating();
            wire.set_line_octets_max(if long { AUTH_LINE_OCTETS_MAX } else { LINE_OCTETS_MAX });
        }
    }

    /// The client fell silent, or left, within a message: it is no message.
    fn lost<S: AsyncRead + AsyncWrite + Unpin>(&mut self, wire: &mut Wire<S>, reason: &WireError) -> End {
        self.receiving = None;
        if let WireError::TimedOut = reason {
            let reply = Reply::timed_out(&self.office.terms.house.name);
            self.say(wire, &reply);
            return End::Goodbye;
        }
        gone(wire, reason)
    }

    fn account<'a>(&self, user: &'a str) -> &'a str {
        login::account(user, &self.office.config.domains)
    }

    async fn perform<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        effect: Effect,
        wire: &mut Wire<S>,
        shutdown: &CancellationToken,
    ) -> Outcome {
        match effect {
            Effect::Verify(credentials) => {
                // It takes its time, and answers to what was said before need not wait with it.
                let _ = wire.flush().await;
                let logins = &self.office.lasting.logins;
                Outcome::Login(logins.check(self.account(credentials.user()), &credentials, self.peer, shutdown).await)
            }
            Effect::FetchKeys(user) => Outcome::Login(self.office.lasting.logins.keys(self.account(&user), self.peer)),
            Effect::Admit { from, to, mailboxes, octets, pause } => {
                if !pause.is_zero() {
                    let _ = wire.flush().await;
                    shutdown.run_until_cancelled(sleep(pause)).await;
                }
                self.admit(&from, &to, &mailboxes, octets).await
            }
            Effect::Open(opening) => self.open(*opening, wire.conversation()),
        }
    }

    /// Greylist and quota.
    async fn admit(&self, from: &ReversePath, to: &ForwardPath, mailboxes: &[Mailbox], octets: Option<u64>) -> Outcome {
        let office = &self.office;
        // Our own users are no strangers, and their mail programs do not come back by themselves.
        if !self.session.may_relay()
            && let Grey::Later(wait) =
                office.lasting.greylist().judge(self.peer, &from.to_string(), &to.to_string(), Instant::now())
        {
            return Outcome::Refused(Reply::greylisted(wait));
        }
        if !office.mailboxes.has_quota() {
            return Outcome::Admitted;
        }
        let house = &office.terms.house;
        let ours = mailboxes.iter().filter(|mailbox| house.is_ours(mailbox.host()));
        for account in ours.filter_map(|mailbox| house.account(mailbox.local())) {
            let (mailboxes, octets) = (Arc::clone(&office.mailboxes), octets.unwrap_or(1));
            match spawn_blocking(move || mailboxes.room(&account, octets)).await {
                Ok(Ok(room)) => {
                    if let Some(reply) = no_room(room, to) {
                        return Outcome::Refused(reply);
                    }
                }
                Ok(Err(error)) => {
                    tracing::error!(%to, %error, "cannot tell how full a mailbox is");
                    return Outcome::Trouble(Trouble::Disk);
                }
                Err(_) => return Outcome::Trouble(Trouble::Disk),
            }
        }
        Outcome::Admitted
    }

    // --- A message comes in ------------------------------------------------------------------------------------------

    fn open(&mut self, opening: Opening, talk: &Conversation) -> Outcome {
        let Opening { envelope, client, with, purpose, expanded } = opening;
        let office = &self.office;
        if office.lasting.queue.is_full() {
            return Outcome::Trouble(Trouble::QueueFull);
        }
        let now = SystemTime::now();
        let id = Id::new(now);
        let date = OffsetDateTime::from(now).format(&Rfc2822).unwrap_or_default();
        // A recipient is named only if it is the only one, or the others would learn of it.
        let only_recipient = match &envelope.recipients[..] {
            [one] => format!("\r\n\tfor <{}>", one.to),
            _ => String::new(),
        };
        // RFC 5321 §4.4: who it says to be and whence it came; RFC 3848 §1: how.
        let received = format!(
            "Received: from {client} ({})\r\n\tby {} with {with} id {id}{only_recipient};\r\n\t{date}\r\n",
            Host::Literal(self.peer),
            office.terms.house.name,
        );
        let missing = (purpose == Purpose::Submission).then(|| Missing {
            date: format!("Date: {date}"),
            message_id: format!("Message-ID: <{id}@{}>", office.terms.house.name),
        });
        let sender = envelope.from.clone();
        let signs = |signer: &Signer| signer.is_for(&sender);
        let sealed = if self.session.may_relay() {
            office.signers.iter().position(signs).map(Sealed::Signature)
        } else {
            Some(Sealed::Origin(client.clone()))
        };
        let mut vessel = match office.straight_to_mailbox(&envelope, id) {
            Some((letter, to)) if expanded.is_empty() => Vessel::Mailbox { letter, id, to },
            _ => Vessel::Queue(office.lasting.queue.spool().draft(id, envelope)),
        };
        let mut waste = vec![];
        let buffer = vessel.buffer(&mut waste);
        let at = buffer.len();
        buffer.extend_from_slice(received.as_bytes());
        let crown = sealed.map(|what| Crown { what, at, message: buffer.len() });
        self.receiving = Some(Receiving {
            crown,
            incoming: Incoming::text(office.config.bounds(), missing),
            vessel,
            pace: Pace::begin(),
            from: sender,
            expanded,
            shown: Shown::new(talk, Kind::Client),
        });
        Outcome::Opened
    }

    /// Reads the message up to its dot, or so many octets of it.
    async fn receive<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        wire: &mut Wire<S>,
        chunk: Option<(u64, Last)>,
    ) -> Result<Outcome, WireError> {
        let Some(mut receiving) = self.receiving.take() else { return Ok(Outcome::Trouble(Trouble::Disk)) };
        if let Some((octets, _)) = chunk {
            // A message of very many chunks has no more time than any other.
            if receiving.pace.left().is_zero() {
                return Err(WireError::TimedOut);
            }
            receiving.incoming.chunk(octets);
        }
        wire.flush().await?;
        let idle = self.office.config.idle_timeout.0;
        let mut waste = vec![];
        loop {
            let (stream, input) = wire.parts_mut();
            let before = input.len();
            let watched = receiving.shown.wants_more().then(|| input.clone());
            let progress = receiving.incoming.take(input, receiving.vessel.buffer(&mut waste));
            let taken = before - input.len();
            receiving.pace.octets += taken as u64;
            receiving.shown.push_some(watched.as_deref().map(|octets| &octets[..taken]), taken);
            if receiving.vessel.is_full() && receiving.incoming.flaw().is_none() {
                let held = receiving.vessel.held().map_or(0, |held| held.len());
                if !self.waits_for_more(&receiving) || held > HELD_OCTETS_MAX {
                    self.crown(&mut receiving, Extent::TooLong).await;
                    receiving.vessel = spill(receiving.vessel).await;
                }
            }
            if progress == Progress::End {
                break;
            }
            input.reserve(CHUNK_OCTETS);
            match timeout(receiving.pace.left().min(idle), stream.read_buf(input)).await {
                Err(_) => return Err(WireError::TimedOut),
                Ok(Ok(0)) => return Err(WireError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
        if let Some((_, Last::No)) = chunk {
            let flaw = receiving.incoming.flaw();
            if flaw.is_none() {
                self.receiving = Some(receiving);
            }
            return Ok(flaw.map_or(Outcome::ChunkRead, Outcome::Flawed));
        }
        Ok(self.store(receiving, wire.conversation()).await)
    }

    /// Whether the header is to be changed, and more of the message is needed for that.
    fn waits_for_more(&self, Receiving { crown, incoming, .. }: &Receiving) -> bool {
        match crown.as_ref().map(|crown| &crown.what) {
            None => false,
            Some(Sealed::Origin(_)) if self.office.authenticator.is_none() => !incoming.is_past_header(),
            Some(Sealed::Origin(_) | Sealed::Signature(_)) => true,
        }
    }

    /// Cuts out of a header what is not to be there, and writes on top of it what depends on the message.
    async fn crown(&self, receiving: &mut Receiving, extent: Extent) {
        let Some(Crown { what, at, message }) = receiving.crown.take() else { return };
        let (office, from) = (&self.office, receiving.from.clone());
        let Some(held) = receiving.vessel.held() else { return };
        let field = match &what {
            Sealed::Origin(client) => {
                cut_forged_results(held, message, &office.terms.house.name);
                let Some(authenticator) = &office.authenticator else { return };
                let whole = (extent == Extent::Whole).then_some(&held[message..]);
                // Boxed, so that those whose mail nobody looks into do not carry its size.
                Box::pin(authenticator.results(self.peer, client, &from, whole)).await
            }
            Sealed::Signature(signer) if extent == Extent::Whole => {
                match office.signers.get(*signer).map(|signer| signer.sign(&held[message..])) {
                    Some(Ok(field)) => field,
                    Some(Err(error)) => {
                        tracing::error!(%from, %error, "cannot sign a message; it goes unsigned");
                        return;
                    }
                    None => return,
                }
            }
            Sealed::Signature(_) => return,
        };
        held.splice(at..at, field.into_bytes());
    }

    /// The message is whole: makes it safe.
    async fn store(&mut self, mut receiving: Receiving, talk: &Conversation) -> Outcome {
        receiving.incoming.finish(receiving.vessel.buffer(&mut vec![]));
        if receiving.incoming.flaw().is_none() {
            self.crown(&mut receiving, Extent::Whole).await;
        }
        let Receiving { incoming, vessel, from, expanded, shown, .. } = receiving;
        shown.tell(talk);
        if let Some(flaw) = incoming.flaw() {
            return Outcome::Flawed(flaw);
        }
        // RFC 6152 §3 lets only those bodies have octets beyond ASCII that are declared so. Many clients do not bother; what the
        // message has counts, so that it is not damaged on its further way.
        let body = if incoming.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
        let (peer, connection) = (self.peer, talk.id());
        let octets = incoming.octets();
        let is_safe = |id| talk.note(&format!("the message is safe on disk as {id}"));
        let outcome = match vessel {
            Vessel::Lost(trouble) => return Outcome::Trouble(trouble),
            Vessel::Queue(draft) => match commit(move || draft.commit(body)).await {
                Ok(stored) => {
                    let Stored { id, envelope, .. } = &stored;
                    let id = *id;
                    tracing::info!(%id, connection, %peer, %from, recipients = envelope.recipients.len(), octets, "accepted");
                    // Before it goes on: a courier on another thread may have it at once.
                    is_safe(id);
                    let (queue, cause) = (self.office.lasting.queue.clone(), talk.clone());
                    if expanded.is_empty() {
                        queue.add(stored, Some(cause));
                        Ok(id)
                    } else {
                        commit(move || queue.add_expanded(stored, expanded, &cause)).await.map(|()| id)
                    }
                }
                Err(error) => Err(error),
            },
            Vessel::Mailbox { letter, id, to } => {
                let sent = commit(move || letter.commit()).await;
                if let Ok(Sent::NoRoom(room)) = sent
                    && let Some(reply) = no_room(room, &ForwardPath::Mailbox(to.clone()))
                {
                    // Its owner's affair and not ours: the disk is well.
                    tracing::info!(connection, %peer, %from, %to, octets, %reply, "no room in a mailbox");
                    return Outcome::Refused(reply);
                }
                sent.map(|_| {
                    tracing::info!(%id, connection, %peer, %from, recipients = 1, octets, "accepted");
                    tracing::info!(%id, %to, tries = 1, how = "while its client waited", "delivered");
                    is_safe(id);
                    self.office.lasting.queue.counters().delivered.inc();
                    id
                })
            }
        };
        match outcome {
            Ok(id) => {
                self.office.lasting.queue.counters().accepted.inc();
                Outcome::Stored { id: id.to_string() }
            }
            Err(error) => {
                tracing::error!(connection, %error, "cannot store a message");
                Outcome::Trouble(Trouble::from(&error))
            }
        }
    }
}

impl Office {
    /// Where a message goes that is for one mailbox of ours and nothing else: no copy elsewhere, no report of success.
    fn straight_to_mailbox(&self, envelope: &Envelope, id: Id) -> Option<(Letter, Mailbox)> {
        let [Recipient { to, notify, .. }] = &envelope.recipients[..] else { return None };
        let house = &self.terms.house;
        if !house.is_ours(to.host()) || matches!(notify, Notify::Of(occasions) if occasions.success) {
            return None;
        }
        let account = house.account(to.local())?;
        let name = self.mailboxes.name(id, 0).ok()?;
        let letter = self.mailboxes.letter(&account, name, Attempt::First, &envelope.from).ok()?;
        // One look at a directory that is in memory.
        (!self.mailboxes.forwards(&account)).then(|| (letter, to.clone()))
    }
}

/// How many messages are made safe in place at once. When more wait, the disk is what they wait for; and each takes a thread from
/// those that the runtime has for everything else.
const IN_PLACE_MAX: usize = 16;

/// Does what makes a message safe, and what its client waits for: here, while this thread's other sessions move to another one. On
/// the pool for blocking work it would take two threads that wake each other up, a tenth of the time until the 250.
async fn commit<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    static IN_PLACE: Semaphore = Semaphore::const_new(IN_PLACE_MAX);
    match (Handle::current().runtime_flavor(), IN_PLACE.try_acquire()) {
        (RuntimeFlavor::MultiThread, Ok(_permit)) => block_in_place(work),
        // A runtime of one thread has no other to move them to.
        _ => spawn_blocking(work).await.unwrap_or_else(|died| Err(io::Error::other(died))),
    }
}

/// What the sender is told where a mailbox has no room for its message.
fn no_room(room: Room, to: &ForwardPath) -> Option<Reply> {
    match room {
        Room::Enough => None,
        Room::NotNow => Some(Reply::mailbox_full(to)),
        Room::Never { quota } => Some(Reply::larger_than_mailbox(to, quota)),
    }
}

/// Writes what waits in memory.
async fn spill(mut vessel: Vessel) -> Vessel {
    let spilled = spawn_blocking(move || match vessel.spill() {
        Ok(()) => vessel,
        Err(error) => {
            tracing::error!(%error, "cannot store a message");
            Vessel::Lost(Trouble::from(&error))
        }
    });
    spilled.await.unwrap_or(Vessel::Lost(Trouble::Disk))
}

/// RFC 3030 §2: reads and drops the octets of a chunk that was refused.
async fn skip<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, mut octets: u64) -> Result<(), WireError> {
    let (idle, mut pace) = (wire.idle(), Pace::begin());
    while octets > 0 {
        let (stream, input) = wire.parts_mut();
        let now = usize::try_from(octets).unwrap_or(usize::MAX).min(input.len());
        drop(input.split_to(now));
        octets -= now as u64;
        pace.octets += now as u64;
        if octets > 0 {
            match timeout(pace.left().min(idle), stream.read_buf(input)).await {
                Err(_) => return Err(WireError::TimedOut),
                Ok(Ok(0)) => return Err(WireError::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn gone<S: AsyncRead + AsyncWrite + Unpin>(wire: &Wire<S>, reason: &WireError) -> End {
    wire.ended_abruptly(reason);
    End::Silence
}
