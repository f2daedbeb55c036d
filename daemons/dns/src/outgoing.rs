//! What the registry does without being asked: it looks after its copies, and tells secondaries of changes.
//!
//! ```text
//!   a copy     SOA? over UDP  --newer-->  IXFR over TCP  --not possible-->  AXFR       secondary.rs says when
//!   a zone     NOTIFY over UDP, again and again, until somebody answers                notify.rs says whom
//! ```
//!
//! Here we are the client. Each step is told with its reason.

use crate::{
    copy,
    draft::Draft,
    errands::{OCTETS_MAX, seconds},
    message::{Header, Rcode},
    name::Name,
    notify,
    rdata::{Class, Type},
    record::{Message, Record, Soa, is_newer},
    registry::{How, Registry, Slot, Source, lock},
    respond,
    secondary::Due,
    transfer::{self, Copied, Incoming},
    tsig::{self, Asked},
    zone::Zone,
};
use ring::rand::{SecureRandom, SystemRandom};
use shared::transcript::{Conversation, Transport};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long an answer over UDP is waited for, and how often the question is asked.
const UDP_PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(4)];
/// How long a connection may take to be made, and each message of a transfer to come.
const TCP_PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer to a question for SOA that is read.
const UDP_OCTETS: usize = 4096;

/// Why a primary could not be asked, or copied from.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}")]
    Gone(#[from] io::Error),
    #[error("no answer in time")]
    Silent,
    #[error(transparent)]
    Unbelievable(#[from] tsig::AnswerFault),
    #[error(transparent)]
    Transfer(#[from] transfer::IncomingError),
    #[error("{0}")]
    Unusable(String),
}

fn random() -> u32 {
    let mut octets = [0; 4];
    // Without randomness an id can be guessed; TLS and TSIG would fail too, long before.
    let _ = SystemRandom::new().fill(&mut octets);
    u32::from_be_bytes(octets)
}

impl Registry {
    /// What is to be done without being asked, until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut reloaded = self.reloaded.subscribe();
        loop {
            let (tasks, token) = (TaskTracker::new(), shutdown.child_token());
            for slot in &self.taken().slots {
                let (registry, slot, token) = (Arc::clone(&self), Arc::clone(slot), token.clone());
                tasks.spawn(async move { token.run_until_cancelled(registry.look_after(&slot)).await });
            }
            tasks.close();
            tokio::select! {
                () = shutdown.cancelled() => {}
                // With another configuration there are other slots, with other rules.
                _ = reloaded.changed() => {}
            }
            token.cancel();
            tasks.wait().await;
            if shutdown.is_cancelled() {
                return;
            }
        }
    }

    async fn look_after(self: &Arc<Self>, slot: &Arc<Slot>) {
        match &slot.rules.source {
            Source::File(_) => self.tell_others(slot).await,
            Source::Primaries(primaries) => {
                tokio::join!(self.tell_others(slot), self.keep_copy(slot, primaries));
            }
        }
    }

    /// Looks after a copy, for ever.
    async fn keep_copy(self: &Arc<Self>, slot: &Arc<Slot>, primaries: &[SocketAddr]) {
        loop {
            let now = SystemTime::now();
            let due = lock(&slot.live.schedule).as_ref().map_or(Due::Refresh, |schedule| schedule.due(now));
            match due {
                Due::Wait(until) => {
                    let pause = until.duration_since(now).unwrap_or_default();
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = slot.live.refresh.notified() => {
                            if let Some(schedule) = &mut *lock(&slot.live.schedule) {
                                schedule.notified(SystemTime::now());
                            }
                        }
                    }
                }
                Due::Expire => {
                    tracing::error!(zone = %slot.name, "the copy has expired: no primary could be asked for too long");
                    self.hide_copy(slot);
                    if let Some(schedule) = &mut *lock(&slot.live.schedule) {
                        schedule.expired();
                    }
                }
                Due::Refresh => {
                    let fresh = self.refresh(slot, primaries).await;
                    if let Some(schedule) = &mut *lock(&slot.live.schedule) {
                        match fresh {
                            Some(soa) => schedule.succeeded(SystemTime::now(), soa, random()),
                            None => schedule.failed(SystemTime::now(), random()),
                        }
                    }
                }
            }
        }
    }

    /// Asks the primaries in turn until one has told what the newest version is, and we have it.
    async fn refresh(self: &Arc<Self>, slot: &Arc<Slot>, primaries: &[SocketAddr]) -> Option<Soa> {
        let said_by = lock(&slot.live.said_by).take();
        // Whoever has told of a change knows it; the others may not have it yet.
        let first =
            said_by.and_then(|(address, _)| primaries.iter().position(|known| known.ip().to_canonical() == address));
        let mut newest = None;
        for primary in primaries.iter().cycle().skip(first.unwrap_or(0)).take(primaries.len()) {
            match self.copy_from(slot, *primary, said_by.map(|(_, cause)| cause)).await {
                Ok((soa, Outcome::Transferred)) => {
                    self.counters.refreshes_transferred.inc();
                    return Some(soa);
                }
                // Another primary may be ahead of this one.
                Ok((soa, Outcome::Current)) => newest = Some(soa),
                Err(error) => tracing::warn!(zone = %slot.name, %primary, %error, "cannot copy from this primary"),
            }
        }
        match newest {
            Some(_) => self.counters.refreshes_current.inc(),
            None => self.counters.refreshes_failed.inc(),
        };
        newest
    }

    /// Asks one primary, and copies from it if it has something newer.
    async fn copy_from(
        self: &Arc<Self>,
        slot: &Arc<Slot>,
        primary: SocketAddr,
        cause: Option<u64>,
    ) -> Result<(Soa, Outcome), AskError> {
        let old = Registry::copy_of(slot);
        let have = old.as_ref().map(|zone| zone.serial());
        let (theirs, talk) = self.ask_soa(slot, primary, cause).await?;
        let because = match have {
            None => format!("there is no copy here; serial {} at {primary} is the first", theirs.serial),
            Some(have) if is_newer(theirs.serial, have) => {
                format!("serial {} at {primary} is newer than our {have}", theirs.serial)
            }
            Some(have) if theirs.serial == have => format!("serial {have} at {primary} is what we have"),
            Some(have) => format!("serial {} at {primary} is older than our {have}: it is behind", theirs.serial),
        };
        talk.note(&because);
        talk.closed();
        if let Some((old, have)) = old.clone().zip(have)
            && !is_newer(theirs.serial, have)
        {
            let path = slot.path(&self.taken().config, "copy");
            if let Err(error) = copy::checked(&path, SystemTime::now()) {
                tracing::warn!(zone = %slot.name, %error, "a restart will not know that the copy is fresh");
            }
            // One that had expired is served again.
            if slot.shown().zone.is_none() {
                self.show_copy(slot, &old, How::Whole);
            }
            let soa = old.soa().and_then(|(_, rdata)| Soa::parse(rdata)).unwrap_or(theirs);
            return Ok((soa, Outcome::Current));
        }
        let cause = Some(talk.id());
        let (zone, how) = match self.fetch(slot, primary, old.as_ref(), cause).await {
            // RFC 1995 §2 and §4: whoever cannot do it by differences may do it as a whole.
            Err(error) if old.is_some() => {
                tracing::debug!(zone = %slot.name, %primary, %error, "IXFR failed; AXFR is tried");
                self.fetch(slot, primary, None, cause).await?
            }
            other => other?,
        };
        let soa = zone.soa().and_then(|(_, rdata)| Soa::parse(rdata));
        let soa = soa.ok_or_else(|| AskError::Unusable("the zone has no SOA".to_owned()))?;
        tracing::info!(zone = %slot.name, %primary, because, serial = soa.serial, records = zone.len(), "copied");
        let path = slot.path(&self.taken().config, "copy");
        let stored = Arc::clone(&zone);
        let written = tokio::task::spawn_blocking(move || copy::store(&path, &stored)).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(io::Error::other(error))) {
            // It is served nevertheless; a restart will have to ask again.
            tracing::error!(zone = %slot.name, %error, "the copy cannot be kept");
        }
        self.show_copy(slot, &zone, how);
        Ok((soa, Outcome::Transferred))
    }

    fn conversation(
        &self,
        transport: Transport,
        local: SocketAddr,
        remote: SocketAddr,
        cause: Option<u64>,
    ) -> Conversation {
        let talk = self.transcript.conversation(transport, local, remote).outgoing();
        let talk = match cause {
            Some(cause) => talk.because_of(cause),
            None => talk,
        };
        talk.opened();
        talk
    }

    /// From which of our addresses others are asked: the one that we serve at, so that they know us.
    fn local_for(&self, remote: SocketAddr) -> SocketAddr {
        let taken = self.taken();
        let ours = taken.config.listen.iter().map(SocketAddr::ip);
        let known = ours.into_iter().find(|ip| ip.is_ipv4() == remote.is_ipv4() && !ip.is_unspecified());
        let any: IpAddr = if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        SocketAddr::new(known.unwrap_or(any), 0)
    }

    /// Signs a message of ours, if the zone has a key.
    fn sign(slot: &Slot, message: &mut Vec<u8>) -> Option<Asked> {
        slot.rules.key.as_ref().map(|key| tsig::sign(message, key, seconds(SystemTime::now())))
    }

    /// What the newest version is at a primary (RFC 1034 §4.3.5).
    async fn ask_soa(
        &self,
        slot: &Slot,
        primary: SocketAddr,
        cause: Option<u64>,
    ) -> Result<(Soa, Conversation), AskError> {
        let socket = UdpSocket::bind(self.local_for(primary)).await?;
        socket.connect(primary).await?;
        let talk = self.conversation(Transport::Udp, socket.local_addr()?, primary, cause);
        let have = Registry::copy_of(slot).map(|zone| zone.serial());
        talk.note(
            &have.map_or_else(|| "there is no copy here".to_owned(), |have| format!("our copy has serial {have}")),
        );
        let result = Self::ask_soa_over(slot, &socket, &talk).await;
        match result {
            Ok(soa) => Ok((soa, talk)),
            Err(error) => {
                talk.note(&error.to_string());
                talk.closed();
                Err(error)
            }
        }
    }

    async fn ask_soa_over(slot: &Slot, socket: &UdpSocket, talk: &Conversation) -> Result<Soa, AskError> {
        for patience in UDP_PATIENCE {
            let id = random() as u16;
            let mut message = transfer::question(id, &slot.name, None);
            // The same form, another type.
            let type_at = message.len() - 4;
            message[type_at..type_at + 2].copy_from_slice(&Type::SOA.0.to_be_bytes());
            let mut asked = Self::sign(slot, &mut message);
            socket.send(&message).await?;
            talk.client(format!("{} SOA?", slot.name).as_bytes(), message.len());
            let answer = timeout(patience, async {
                let mut answer = vec![0; UDP_OCTETS];
                loop {
                    let octets = socket.recv(&mut answer).await?;
                    // Whoever guesses may answer too: what is not ours is passed over.
                    if let Some(soa) = soa_of(&answer[..octets], id, &slot.name, asked.as_mut()) {
                        tell_answer(talk, &answer[..octets]);
                        return soa;
                    }
                }
            });
            if let Ok(answer) = answer.await {
                return answer;
            }
        }
        Err(AskError::Silent)
    }

    /// Takes a copy: what has changed since `old`, or all of it.
    async fn fetch(
        &self,
        slot: &Slot,
        primary: SocketAddr,
        old: Option<&Arc<Zone>>,
        cause: Option<u64>,
    ) -> Result<(Arc<Zone>, How), AskError> {
        let local = self.local_for(primary);
        let socket = if primary.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(local)?;
        let mut stream = timeout(TCP_PATIENCE, socket.connect(primary)).await.map_err(|_| AskError::Silent)??;
        let talk = self.conversation(Transport::Tcp, stream.local_addr()?, primary, cause);
        let result = self.fetch_over(slot, &mut stream, old, &talk).await;
        if let Err(error) = &result {
            talk.note(&error.to_string());
        }
        talk.closed();
        result
    }

    async fn fetch_over(
        &self,
        slot: &Slot,
        stream: &mut TcpStream,
        old: Option<&Arc<Zone>>,
        talk: &Conversation,
    ) -> Result<(Arc<Zone>, How), AskError> {
        let id = random() as u16;
        let soa_record = |zone: &Arc<Zone>| {
            let (ttl, rdata) = zone.soa()?;
            Some(Record { owner: slot.name.clone(), rtype: Type::SOA, class: Class::IN, ttl, rdata: rdata.to_vec() })
        };
        let have = old.and_then(soa_record);
        let mut message = transfer::question(id, &slot.name, have.as_ref());
        let mut asked = Self::sign(slot, &mut message);
        let what = old.map_or_else(|| "AXFR".to_owned(), |old| format!("IXFR from serial {}", old.serial()));
        talk.client(format!("{} {what}?", slot.name).as_bytes(), message.len());
        stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).await?;
        let mut incoming = Incoming::new(id, &slot.name, have.as_ref());
        let mut buffer = Vec::with_capacity(OCTETS_MAX);
        let copied = loop {
            let read = timeout(TCP_PATIENCE, read_message(stream, &mut buffer));
            read.await.map_err(|_| AskError::Silent)??;
            tell_answer(talk, &buffer);
            if let Some(asked) = &mut asked {
                asked.check(&buffer, seconds(SystemTime::now()))?;
            }
            if let Some(copied) = incoming.take(&buffer)? {
                break copied;
            }
        };
        // RFC 8945 §5.3.1: the last message is signed, and vouches for those before it.
        if asked.is_some_and(|asked| !asked.is_complete()) {
            return Err(tsig::AnswerFault::Unsigned.into());
        }
        match (copied, old) {
            (Copied::Whole(zone), _) => {
                talk.note(&format!("the whole zone, {} records, serial {}", zone.len(), zone.serial()));
                Ok((Arc::new(*zone), How::Whole))
            }
            (Copied::Differences(differences), Some(old)) => {
                talk.note(&format!("{} differences", differences.len()));
                let mut draft = Draft::new(Arc::clone(old));
                for difference in &differences {
                    if let Some(misfit) = draft.apply(difference).first() {
                        return Err(AskError::Unusable(misfit.to_string()));
                    }
                }
                let zone = draft.finish().map_err(|error| AskError::Unusable(error.to_string()))?;
                Ok((Arc::new(zone), How::Through(differences)))
            }
            (Copied::Current, Some(old)) => Ok((Arc::clone(old), How::Through(vec![]))),
            (Copied::Current | Copied::Differences(_), None) => {
                Err(AskError::Unusable("differences, where a whole zone should be".to_owned()))
            }
        }
    }

    /// Tells the secondaries of each change, for ever.
    async fn tell_others(self: &Arc<Self>, slot: &Arc<Slot>) {
        slot.live.changed.notified().await;
        loop {
            // Whoever has not answered yet is told of the newest version only.
            let again = tokio::select! {
                () = self.tell_all(slot) => false,
                () = slot.live.changed.notified() => true,
            };
            if !again {
                slot.live.changed.notified().await;
            }
        }
    }

    async fn tell_all(&self, slot: &Slot) {
        let Some(zone) = slot.shown().zone else { return };
        let taken = self.taken();
        let world = Arc::clone(&self.world().borrow());
        let addresses = |name: &Name| -> Vec<IpAddr> {
            world
                .own_zones(&slot.view)
                .chain(world.own_zones(""))
                .flat_map(|zone| notify::addresses(zone, name))
                .collect()
        };
        let mut servers = notify::servers(&zone, addresses, taken.config.peer_port);
        servers
            .extend(slot.rules.notify.iter().copied().filter(|server| !servers.contains(server)).collect::<Vec<_>>());
        servers.retain(|server| !is_ourselves(&taken.config.listen, *server));
        let tasks = servers.into_iter().map(|server| self.tell(slot, &zone, server));
        join_all(tasks.collect()).await;
    }

    /// Tells one server, until it answers or has been told often enough.
    async fn tell(&self, slot: &Slot, zone: &Zone, server: SocketAddr) {
        match self.try_tell(slot, zone, server).await {
            Ok(rcode) => {
                self.counters.notifies_acknowledged.inc();
                tracing::debug!(zone = %slot.name, %server, %rcode, "notified");
            }
            Err(error) => {
                self.counters.notifies_unanswered.inc();
                tracing::info!(zone = %slot.name, %server, %error, "could not be notified; it will look by itself");
            }
        }
    }

    async fn try_tell(&self, slot: &Slot, zone: &Zone, server: SocketAddr) -> Result<Rcode, AskError> {
        let socket = UdpSocket::bind(self.local_for(server)).await?;
        socket.connect(server).await?;
        let cause = *lock(&slot.live.changed_by);
        let talk = self.conversation(Transport::Udp, socket.local_addr()?, server, cause);
        talk.note(&format!("the zone has serial {} now", zone.serial()));
        for patience in notify::PATIENCE {
            let id = random() as u16;
            let mut message = notify::message(id, zone);
            let asked = Self::sign(slot, &mut message);
            // "Connection refused" is for the one before: it may be there now.
            let _ = socket.send(&message).await;
            talk.client(format!("NOTIFY {}, serial {}", slot.name, zone.serial()).as_bytes(), message.len());
            let answer = timeout(patience, async {
                let mut answer = vec![0; UDP_OCTETS];
                loop {
                    let Ok(octets) = socket.recv(&mut answer).await else { std::future::pending().await };
                    let believed = asked
                        .clone()
                        .is_none_or(|mut asked| asked.check(&answer[..octets], seconds(SystemTime::now())).is_ok());
                    if let Some(rcode) = notify::is_answer(id, &answer[..octets]).filter(|_| believed) {
                        return (rcode, octets);
                    }
                }
            });
            if let Ok((rcode, octets)) = answer.await {
                talk.server(rcode.to_string().as_bytes(), octets);
                talk.closed();
                return Ok(rcode);
            }
        }
        talk.note("no answer");
        talk.closed();
        Err(AskError::Silent)
    }
}

/// How a look at a primary went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Current,
    Transferred,
}

/// Waits for all of them at the same time.
async fn join_all(tasks: Vec<impl Future<Output = ()>>) {
    let mut tasks: Vec<_> = tasks.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        tasks.retain_mut(|task| task.as_mut().poll(context).is_pending());
        if tasks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Whether a server is this one: NOTIFY to oneself says nothing new.
fn is_ourselves(listen: &[SocketAddr], server: SocketAddr) -> bool {
    listen.iter().any(|ours| {
        let is_ours = if ours.ip().is_unspecified() {
            // Whoever can bind an address has it.
            std::net::UdpSocket::bind((server.ip(), 0)).is_ok()
        } else {
            ours.ip() == server.ip()
        };
        is_ours && ours.port() == server.port()
    })
}

fn tell_answer(talk: &Conversation, answer: &[u8]) {
    if talk.is_heard() {
        let rcode = Header::parse(answer).map_or(Rcode::SERVFAIL, Header::rcode);
        talk.server(respond::answer_line(answer, rcode).as_bytes(), answer.len());
    }
}

async fn read_message(stream: &mut TcpStream, message: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    message.resize(usize::from(u16::from_be_bytes(length)), 0);
    stream.read_exact(message).await?;
    Ok(())
}

/// The SOA in an answer to our question; `None` if this is no answer to it.
fn soa_of(answer: &[u8], id: u16, zone: &Name, asked: Option<&mut Asked>) -> Option<Result<Soa, AskError>> {
    let message = Message::parse(answer).ok()?;
    let is_ours = message.header.id == id
        && message.header.is_response()
        && message.question().is_some_and(|(name, qtype, _)| name == zone && *qtype == Type::SOA);
    if !is_ours {
        return None;
    }
    if let Some(asked) = asked
        && let Err(fault) = asked.check(answer, seconds(SystemTime::now()))
    {
        return Some(Err(fault.into()));
    }
    let unusable = |because: String| Some(Err(AskError::Unusable(because)));
    if message.header.rcode() != Rcode::NOERROR {
        return unusable(format!("the primary answers {}", message.header.rcode()));
    }
    // Whoever only has it from a cache cannot say what is the newest.
    if !message.header.is_authoritative() {
        return unusable("the primary is not an authority for the zone".to_owned());
    }
    let soa = message.answers.iter().find(|record| record.rtype == Type::SOA && record.owner == *zone);
    match soa.and_then(|soa| Soa::parse(&soa.rdata)) {
        Some(soa) => Some(Ok(soa)),
        None => unusable("the primary has no SOA for the zone".to_owned()),
    }
}
