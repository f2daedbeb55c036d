//! Messages that the zones alone do not answer: UPDATE, NOTIFY, transfers, and whatever is signed.
//!
//! ```text
//!   message --> signature (RFC 8945) --> what is it? --> who may? --> do it --> answer, signed like the question
//! ```

use crate::{
    authority::Rotation,
    config::Dnssec,
    message::{self, Edns, Header, Opcode, Query, Rcode, Received, UDP_OCTETS_PLAIN, Writer},
    name::Name,
    notify::{self, Heard},
    rdata::{Class, Type},
    record::Message,
    registry::{Done, Errand, Registry, Source, lock},
    respond::{self, Asker, Carrier, Response, World},
    sign::is_made_by_signing,
    transfer::{self, Messages, Transfer},
    tsig::{self, Answerer},
    update::{self, Refusal},
};
use shared::transcript::Conversation;
use std::{
    net::IpAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::mpsc;

/// The largest message.
pub(crate) const OCTETS_MAX: usize = u16::MAX as usize;

/// Seconds since 1970, which is how signatures tell the time.
pub(crate) fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A message that could be read and believed, and the way back.
pub(crate) struct Asking<'e> {
    pub(crate) errand: &'e Errand,
    pub(crate) message: Message,
    pub(crate) talk: &'e Conversation,
    answers: &'e mpsc::Sender<Vec<u8>>,
    /// If it was signed.
    signer: Option<Answerer>,
    world: Arc<World>,
}

/// Nobody waits for the answer any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gone;

impl Asking<'_> {
    /// Who asks.
    pub(crate) fn client(&self) -> IpAddr {
        self.errand.peer.ip().to_canonical()
    }

    /// The key that signed.
    pub(crate) fn key(&self) -> Option<&Name> {
        self.signer.as_ref().map(|signer| signer.key().name())
    }

    /// How many octets of each message are for its signature.
    pub(crate) fn room(&self) -> usize {
        self.signer.as_ref().map_or(0, |signer| signer.key().record_octets())
    }

    /// Sends one message, signed if the question was.
    pub(crate) async fn send(&mut self, mut answer: Vec<u8>) -> Result<(), Gone> {
        if let Some(signer) = &mut self.signer {
            signer.sign(&mut answer, seconds(SystemTime::now()));
        }
        tell_answer(self.talk, &answer);
        self.answers.send(answer).await.map_err(|_| Gone)
    }

    /// An answer that is an RCODE.
    pub(crate) async fn send_rcode(&mut self, rcode: Rcode) -> Result<(), Gone> {
        self.send(bare(&self.message, rcode, self.world.udp_octets_max)).await
    }
}

fn tell_answer(talk: &Conversation, answer: &[u8]) {
    if talk.is_heard() {
        let rcode = Header::parse(answer).map_or(Rcode::SERVFAIL, Header::rcode);
        talk.server(respond::answer_line(answer, rcode).as_bytes(), answer.len());
    }
}

fn edns(message: &Message) -> Option<Edns<'_>> {
    let opt = message.additional.iter().find(|record| record.rtype == Type::OPT)?;
    Some(Edns { udp_octets: opt.class.0, dnssec_ok: opt.ttl & 0x8000 != 0, options: &opt.rdata })
}

/// How large a message may be that goes to whoever asks.
pub(crate) fn octets_max(asking: &Asking<'_>) -> usize {
    respond::octets_max(&asking.world, asking.errand.carrier, edns(&asking.message))
}

/// The message's own header and question with an RCODE.
fn bare(message: &Message, rcode: Rcode, udp_octets_max: u16) -> Vec<u8> {
    let mut answer = vec![0; UDP_OCTETS_PLAIN];
    let mut writer = Writer::new(&mut answer, UDP_OCTETS_PLAIN, message.header);
    if let Some(edns) = edns(message) {
        writer.edns(edns, udp_octets_max);
    }
    if let Some((name, qtype, class)) = message.question() {
        writer.question(name.borrow(), *qtype, *class);
    }
    writer.rcode(rcode);
    let octets = writer.finish();
    answer.truncate(octets);
    answer
}

/// `UPDATE crepes.fr. 2 changes, signed with alice.`
fn line(message: &Message) -> String {
    let (name, qtype) = message.question().map_or((Name::root(), Type::SOA), |(name, qtype, _)| (name.clone(), *qtype));
    let (answers, authority) = (message.answers.len(), message.authority.len());
    let counted = |count: usize, what: &str| match count {
        0 => String::new(),
        1 => format!(" 1 {what}"),
        more => format!(" {more} {what}s"),
    };
    match message.header.opcode() {
        Opcode::UPDATE => {
            format!("UPDATE {name}{}{}", counted(answers, "prerequisite"), counted(authority, "change"))
        }
        Opcode::NOTIFY => format!("NOTIFY {name}{}", counted(answers, "record")),
        _ => format!("{name} {qtype}?"),
    }
}

impl Registry {
    /// Answers UPDATE, NOTIFY, transfers and whatever is signed. Every message of the answer goes into `answers`, which
    /// may be full for a while: a zone is larger than what a client takes at once.
    pub async fn serve(self: &Arc<Self>, errand: &Errand, talk: &Conversation, answers: &mpsc::Sender<Vec<u8>>) {
        // Whoever asked may be gone before the last message is sent: then there is nothing more to do.
        let _ = self.answer(errand, talk, answers).await;
    }

    async fn answer(
        self: &Arc<Self>,
        errand: &Errand,
        talk: &Conversation,
        answers: &mpsc::Sender<Vec<u8>>,
    ) -> Result<(), Gone> {
        let (taken, world) = (self.taken(), Arc::clone(&self.world().borrow()));
        let octets = errand.message.len();
        let message = match Message::parse(&errand.message) {
            Ok(message) => message,
            Err(because) => {
                talk.client(b"a message that is malformed", octets);
                talk.note(because);
                let Some(header) = Header::parse(&errand.message) else { return Ok(()) };
                let mut answer = vec![0; UDP_OCTETS_PLAIN];
                let mut writer = Writer::new(&mut answer, UDP_OCTETS_PLAIN, header);
                writer.rcode(Rcode::FORMERR);
                let octets = writer.finish();
                answer.truncate(octets);
                tell_answer(talk, &answer);
                return answers.send(answer).await.map_err(|_| Gone);
            }
        };
        if talk.is_heard() {
            talk.client(line(&message).as_bytes(), octets);
        }
        let signer = match tsig::verify(&errand.message, message.tsig_at, &taken.keys, seconds(SystemTime::now())) {
            Ok(signer) => signer,
            Err(refusal) => {
                // RFC 8945 §5.2: NOTAUTH with the reason, and nothing is done.
                self.counters.signatures_refused.inc();
                tracing::info!(connection = talk.id(), peer = %errand.peer, because = %refusal, "signature refused");
                talk.note(&refusal.to_string());
                let mut answer = bare(&message, refusal.rcode(), world.udp_octets_max);
                refusal.append(&mut answer);
                tell_answer(talk, &answer);
                return answers.send(answer).await.map_err(|_| Gone);
            }
        };
        if let Some(signer) = &signer {
            talk.note(&format!("signed with the key {}", signer.key().name()));
        }
        let mut asking = Asking { errand, message, talk, answers, signer, world };
        match (asking.message.header.opcode(), asking.message.question().map(|question| question.1)) {
            (Opcode::UPDATE, _) => self.answer_update(&mut asking).await,
            (Opcode::NOTIFY, _) => self.answer_notify(&mut asking).await,
            (_, Some(Type::AXFR | Type::IXFR)) => self.answer_transfer(&mut asking).await,
            _ => self.answer_question(&mut asking).await,
        }
    }

    /// RFC 2136 §3.
    async fn answer_update(self: &Arc<Self>, asking: &mut Asking<'_>) -> Result<(), Gone> {
        let result = self.try_update(asking).await;
        let (counter, rcode, because) = match &result {
            Ok(Done::Nothing) => (&self.counters.updates_unchanged, Rcode::NOERROR, "all was so already".to_owned()),
            Ok(Done::Changed(serial)) => (
                &self.counters.updates_changed,
                Rcode::NOERROR,
                format!("done and on disk, the serial is {serial} now"),
            ),
            Err(Refusal { rcode: Rcode::SERVFAIL, because }) => {
                (&self.counters.updates_failed, Rcode::SERVFAIL, because.clone())
            }
            Err(Refusal { rcode, because }) => (&self.counters.updates_refused, *rcode, because.clone()),
        };
        counter.inc();
        let zone = asking.message.question().map_or_else(Name::root, |(zone, ..)| zone.clone());
        let key = asking.key().map(ToString::to_string);
        tracing::info!(connection = asking.talk.id(), peer = %asking.errand.peer, %zone, key, %rcode, because, "update");
        asking.talk.note(&because);
        asking.send_rcode(rcode).await
    }

    async fn try_update(self: &Arc<Self>, asking: &Asking<'_>) -> Result<Done, Refusal> {
        let refuse = |rcode, because: &str| Err(Refusal { rcode, because: because.to_owned() });
        let zone = update::zone(&asking.message)?;
        // RFC 2136 §3.1.2: the zone is to be named exactly.
        let taken = self.taken();
        let Some(slot) = taken.slot(asking.client(), zone) else {
            return refuse(Rcode::NOTAUTH, "there is no such zone here");
        };
        if matches!(slot.rules.source, Source::Primaries(_)) {
            // §6 lets a secondary pass updates on. This one does not: the client finds the primary in the SOA.
            return refuse(Rcode::NOTIMP, "this is a copy; ask the primary, which the SOA names");
        }
        // Deviates: §3.3 would have this looked at after the prerequisites. Then whoever may not change the zone could
        // still ask it questions with them, past whatever hides it.
        if !slot.rules.update.admits(asking.client(), asking.key()) {
            return refuse(Rcode::REFUSED, "updates of this zone are not for everybody");
        }
        if slot.rules.dnssec == Dnssec::Sign && asking.message.authority.iter().any(|it| is_made_by_signing(it.rtype)) {
            return refuse(Rcode::REFUSED, "the zone is signed here; signatures and keys are not to be given");
        }
        *lock(&slot.live.changed_by) = Some(asking.talk.id());
        self.update(Arc::clone(slot), asking.message.clone()).await
    }

    /// RFC 1996 §3.
    async fn answer_notify(&self, asking: &mut Asking<'_>) -> Result<(), Gone> {
        let result = self.try_notify(asking);
        let (counter, rcode, because) = match &result {
            Ok(because) => (&self.counters.notifies_accepted, Rcode::NOERROR, *because),
            Err(Refusal { rcode, because }) => (&self.counters.notifies_refused, *rcode, because.as_str()),
        };
        counter.inc();
        let zone = asking.message.question().map_or_else(Name::root, |(zone, ..)| zone.clone());
        tracing::info!(connection = asking.talk.id(), peer = %asking.errand.peer, %zone, %rcode, because, "notify");
        asking.talk.note(because);
        asking.send_rcode(rcode).await
    }

    fn try_notify(&self, asking: &Asking<'_>) -> Result<&'static str, Refusal> {
        let refuse = |rcode, because: &str| Err(Refusal { rcode, because: because.to_owned() });
        let Some((zone, ..)) = asking.message.question() else {
            return refuse(Rcode::FORMERR, "NOTIFY is about exactly one zone");
        };
        let taken = self.taken();
        let Some(slot) = taken.slot(asking.client(), zone) else {
            return refuse(Rcode::NOTAUTH, "there is no such zone here");
        };
        let Source::Primaries(primaries) = &slot.rules.source else {
            return refuse(Rcode::NOTAUTH, "this server is the primary of the zone");
        };
        // §3.10: only those whom we copy from can tell us something: by their address, or by the key that we share with
        // them.
        let is_known = primaries.iter().any(|primary| primary.ip().to_canonical() == asking.client());
        let has_key = asking.key().is_some() && asking.key() == slot.rules.key.as_ref().map(|key| key.name());
        if !is_known && !has_key {
            return refuse(Rcode::REFUSED, "whoever says so is none of the primaries");
        }
        let have = slot.shown().zone.map(|zone| zone.serial());
        match notify::judge(&asking.message, have) {
            Heard::Malformed(because) => refuse(Rcode::FORMERR, because),
            Heard::Known => Ok("the version it tells of is here"),
            Heard::Look => {
                *lock(&slot.live.said_by) = Some((asking.client(), asking.talk.id()));
                slot.live.refresh.notify_one();
                Ok("the primary is asked at once")
            }
        }
    }

    /// RFC 5936 §2.2 and RFC 1995.
    async fn answer_transfer(&self, asking: &mut Asking<'_>) -> Result<(), Gone> {
        let transfer = match self.choose_transfer(asking) {
            Ok(transfer) => transfer,
            Err(Refusal { rcode, because }) => {
                self.counters.transfers_refused.inc();
                tracing::info!(connection = asking.talk.id(), peer = %asking.errand.peer, %rcode, because, "transfer refused");
                asking.talk.note(&because);
                return asking.send_rcode(rcode).await;
            }
        };
        let counter = match &transfer {
            Transfer::Whole(_) => &self.counters.transfers_whole,
            Transfer::Current(_) | Transfer::Differences(..) => &self.counters.transfers_incremental,
        };
        counter.inc();
        let what = transfer.describe();
        let zone = transfer.zone().name();
        tracing::info!(connection = asking.talk.id(), peer = %asking.errand.peer, %zone, what, "transfer");
        asking.talk.note(&what);
        let message = asking.message.clone();
        let Some(question) = message.question() else { return Ok(()) };
        let edns = edns(&message).map(|edns| (edns, asking.world.udp_octets_max));
        let messages = |transfer| Messages::new(transfer, message.header, question, edns, asking.room());
        if asking.errand.carrier == Carrier::Udp {
            // RFC 1995 §2: what has no room in a datagram is the newest SOA alone, and the client comes again over TCP.
            let octets_max = octets_max(asking) - asking.room();
            let current = Transfer::Current(Arc::clone(transfer.zone()));
            let fitting = match &transfer {
                Transfer::Whole(_) => None,
                transfer => messages(transfer).single(octets_max),
            };
            let Some(answer) = fitting.or_else(|| messages(&current).single(octets_max)) else {
                return asking.send_rcode(Rcode::SERVFAIL).await;
            };
            return asking.send(answer).await;
        }
        for answer in messages(&transfer) {
            match answer {
                Ok(answer) => asking.send(answer).await?,
                Err(error) => {
                    tracing::error!(%error, "a transfer ends early");
                    return asking.send_rcode(Rcode::SERVFAIL).await;
                }
            }
        }
        Ok(())
    }

    /// What somebody gets who wants a copy.
    fn choose_transfer(&self, asking: &Asking<'_>) -> Result<Transfer, Refusal> {
        let refuse = |rcode, because: &str| Err(Refusal { rcode, because: because.to_owned() });
        let Some((name, qtype, class)) = asking.message.question() else {
            return refuse(Rcode::FORMERR, "not exactly one question");
        };
        if *qtype == Type::AXFR && asking.errand.carrier == Carrier::Udp {
            // RFC 5936 §4.2 knows no AXFR over UDP.
            return refuse(Rcode::FORMERR, "AXFR goes over TCP only");
        }
        let taken = self.taken();
        // RFC 5936 §2.2.1: NOTAUTH for a zone that is not ours.
        let Some(slot) = taken.slot(asking.client(), name).filter(|_| *class == Class::IN) else {
            return refuse(Rcode::NOTAUTH, "there is no such zone here");
        };
        // RFC 5936 §5.
        if !slot.rules.transfer.admits(asking.client(), asking.key()) {
            return refuse(Rcode::REFUSED, "copies of this zone are not for everybody");
        }
        let shown = slot.shown();
        let Some(zone) = shown.zone else {
            return refuse(Rcode::SERVFAIL, "there is no copy of the zone here, or it has expired");
        };
        if *qtype == Type::AXFR {
            return Ok(Transfer::Whole(zone));
        }
        match transfer::serial_of(&asking.message, name) {
            Some(serial) => Ok(transfer::choose(&zone, &shown.history, serial)),
            None => refuse(Rcode::FORMERR, "IXFR needs the SOA that the client has (RFC 1995 §3)"),
        }
    }

    /// A question that is signed: answered like one that is not, and then signed.
    async fn answer_question(&self, asking: &mut Asking<'_>) -> Result<(), Gone> {
        let errand = asking.errand;
        let received = message::receive(&errand.message);
        let now = SystemTime::now();
        let asker = Asker { address: asking.client(), carrier: errand.carrier, now };
        // What is not there cannot be written to: the signature has its room.
        let mut answer = vec![0; octets_max(asking) - asking.room()];
        let mut rotation = Rotation::default();
        let received = match received {
            Received::Query(query) => Received::Query(Query { tsig_at: None, ..query }),
            other => other,
        };
        let response = respond::respond(&asking.world, &received, asker, &mut rotation, &mut answer);
        match response {
            Response::Send { octets, because, .. } => {
                asking.talk.note(&because.to_string());
                answer.truncate(octets);
                asking.send(answer).await
            }
            Response::Silence(because) => {
                asking.talk.note(because);
                Ok(())
            }
            Response::Recurse(cached) => {
                let (world, cause) = (Arc::clone(&asking.world), asking.talk.id());
                match respond::recurse(&world, &errand.message, asker, cached, cause, 0).await {
                    Some((answer, _, because)) => {
                        asking.talk.note(&because.to_string());
                        asking.send(answer).await
                    }
                    None => Ok(()),
                }
            }
            Response::Errand => Ok(()),
        }
    }
}
