//! Copies of zones: AXFR, all of it (RFC 5936), and IXFR, what has changed (RFC 1995).
//!
//! ```text
//!   AXFR          SOA 12 | every other record ... | SOA 12
//!
//!   IXFR from 10  SOA 12 | SOA 10, what went | SOA 11, what came | SOA 11, what went | SOA 12, what came | SOA 12
//!   up to date    SOA 12
//!   not known     as AXFR
//! ```
//!
//! The records are cut into as many messages as they need. All are of one version of the zone: whoever answers holds
//! that version, and changes make others. Going out: [`choose`] and [`Messages`]. Coming in: [`Incoming`], which
//! believes nothing.

use crate::{
    draft::Difference,
    message::{Edns, Fit, Header, Rcode, Section, Writer},
    name::{Name, NameRef},
    rdata::{self, Class, Type},
    record::{Message, Record, Soa, is_newer},
    zone::{AddError, Builder, Place, Zone},
};
use std::{iter::Peekable, sync::Arc};

/// A message is full with so many octets: pointers of compression reach no further (RFC 1035 §4.1.4), and a client can
/// work on one while the next is on its way.
const MESSAGE_OCTETS: usize = 16 * 1024;
/// A record alone may need a message of the largest size.
const MESSAGE_OCTETS_MAX: usize = u16::MAX as usize;
/// More than this no primary makes us keep, whatever it sends: four times the largest zone that this server was
/// measured with.
const INCOMING_OCTETS_MAX: u64 = 1 << 30;

/// What is sent to somebody who wants a copy.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// "You have it already": one SOA record (RFC 1995 §2).
    Current(Arc<Zone>),
    /// Everything.
    Whole(Arc<Zone>),
    /// What has changed; the last difference ends with the zone's version.
    Differences(Arc<Zone>, Vec<Arc<Difference>>),
}

/// What to send to somebody who has the version with `serial`. `history` leads to the version of `zone`, each
/// difference from where the one before ends.
pub fn choose(zone: &Arc<Zone>, history: &[Arc<Difference>], serial: u32) -> Transfer {
    // RFC 1995 §2: also to whoever has a newer one than we do.
    if !is_newer(zone.serial(), serial) {
        return Transfer::Current(Arc::clone(zone));
    }
    let known = history.iter().position(|difference| difference.from == serial);
    let chain = known.map_or(&[][..], |known| &history[known..]);
    // RFC 1995 §5: differences that are longer than the zone help nobody.
    let records: usize = chain.iter().map(|difference| difference.len()).sum();
    if chain.is_empty() || records > zone.len() {
        return Transfer::Whole(Arc::clone(zone));
    }
    Transfer::Differences(Arc::clone(zone), chain.to_vec())
}

/// One record on its way out: owner, type, TTL and data.
type Line<'z> = (NameRef<'z>, Type, u32, &'z [u8]);

fn line(record: &Record) -> Line<'_> {
    (record.owner.borrow(), record.rtype, record.ttl, &record.rdata)
}

impl Transfer {
    /// The zone.
    pub fn zone(&self) -> &Arc<Zone> {
        match self {
            Transfer::Current(zone) | Transfer::Whole(zone) | Transfer::Differences(zone, _) => zone,
        }
    }

    /// Its records, in the order in which they are sent.
    fn lines(&self) -> Box<dyn Iterator<Item = Line<'_>> + Send + '_> {
        let zone = self.zone();
        let soa = || zone.soa().map(|(ttl, rdata)| (zone.name(), Type::SOA, ttl, rdata)).into_iter();
        match self {
            Transfer::Current(_) => Box::new(soa()),
            // RFC 5936 §2.2: SOA first and last, and nowhere else.
            Transfer::Whole(_) => {
                let all = zone.nodes().flat_map(|node| {
                    node.sets().flat_map(move |set| {
                        set.records().map(move |rdata| (node.name(), set.rtype, node.ttl_of(set, rdata), rdata))
                    })
                });
                Box::new(soa().chain(all.filter(|line| line.1 != Type::SOA)).chain(soa()))
            }
            Transfer::Differences(_, chain) => {
                let all =
                    chain.iter().flat_map(|difference| difference.deleted.iter().chain(&difference.added)).map(line);
                Box::new(soa().chain(all).chain(soa()))
            }
        }
    }

    /// For whoever watches.
    pub fn describe(&self) -> String {
        let serial = self.zone().serial();
        match self {
            Transfer::Current(_) => format!("nothing newer than what they have; the serial is {serial}"),
            Transfer::Whole(zone) => format!("the whole zone, {} records, serial {serial}", zone.len()),
            Transfer::Differences(_, chain) => {
                let from = chain.first().map_or(serial, |first| first.from);
                let count = chain.len();
                format!("{count} difference{}, from serial {from} to {serial}", if count == 1 { "" } else { "s" })
            }
        }
    }
}

/// Cuts a transfer into messages.
pub struct Messages<'t> {
    lines: Peekable<Box<dyn Iterator<Item = Line<'t>> + Send + 't>>,
    header: Header,
    question: &'t (Name, Type, Class),
    edns: Option<(Edns<'t>, u16)>,
    /// Octets that each message has at most.
    octets_max: usize,
    is_first: First,
}

/// Only the first message repeats the question, and has OPT (RFC 5936 §2.2.1, §2.2.5).
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Yes,
    No,
}

/// A record that fits into no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a record fits into no message")]
pub struct Oversized;

impl<'t> Messages<'t> {
    /// The messages of `transfer`, as the answer to a question. Each leaves `room` octets for its signature. `edns` is
    /// what the client said, and the size of datagrams that we take.
    pub fn new(
        transfer: &'t Transfer,
        header: Header,
        question: &'t (Name, Type, Class),
        edns: Option<(Edns<'t>, u16)>,
        room: usize,
    ) -> Self {
        let octets_max = MESSAGE_OCTETS_MAX - room;
        Self { lines: transfer.lines().peekable(), header, question, edns, octets_max, is_first: First::Yes }
    }

    /// The same in a single message of so many octets; `None` if they are too few.
    pub fn single(mut self, octets_max: usize) -> Option<Vec<u8>> {
        let message = self.message(octets_max).ok()?;
        self.lines.peek().is_none().then_some(message)
    }

    fn message(&mut self, octets_max: usize) -> Result<Vec<u8>, Oversized> {
        let mut message = vec![0; octets_max];
        let mut writer = Writer::new(&mut message, octets_max, self.header);
        writer.authoritative();
        if self.is_first == First::Yes {
            if let Some((edns, udp_octets)) = self.edns {
                writer.edns(edns, udp_octets);
            }
            let (name, qtype, class) = self.question;
            writer.question(name.borrow(), *qtype, *class);
        }
        let mut written = 0;
        while let Some((owner, rtype, ttl, rdata)) = self.lines.peek() {
            match writer.lone(Section::Answer, *owner, *rtype, Class::IN, *ttl, rdata) {
                Fit::Whole => written += 1,
                Fit::NoRoom if written == 0 => return Err(Oversized),
                Fit::NoRoom => break,
            }
            self.lines.next();
        }
        let octets = writer.finish();
        message.truncate(octets);
        Ok(message)
    }
}

impl Iterator for Messages<'_> {
    type Item = Result<Vec<u8>, Oversized>;

    fn next(&mut self) -> Option<Self::Item> {
        self.lines.peek()?;
        let message =
            self.message(MESSAGE_OCTETS.min(self.octets_max)).or_else(|Oversized| self.message(self.octets_max));
        self.is_first = First::No;
        Some(message)
    }
}

/// What a client that asks for IXFR has: the serial of the SOA in its authority section (RFC 1995 §3).
pub fn serial_of(message: &Message, zone: &Name) -> Option<u32> {
    let soa = message.authority.iter().find(|record| record.rtype == Type::SOA && record.owner == *zone)?;
    Some(Soa::parse(&soa.rdata)?.serial)
}

/// Asks for a copy: for all of it, or for what has changed since the version with this SOA record.
pub fn question(id: u16, zone: &Name, have: Option<&Record>) -> Vec<u8> {
    let qtype = if have.is_some() { Type::IXFR } else { Type::AXFR };
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0, 0, 0, 1, 0, 0, 0, u8::from(have.is_some()), 0, 0]);
    message.extend(zone.borrow().as_wire());
    message.extend(qtype.0.to_be_bytes());
    message.extend(Class::IN.0.to_be_bytes());
    if let Some(Record { owner, rtype, class, ttl, rdata }) = have {
        message.extend(owner.borrow().as_wire());
        message.extend(rtype.0.to_be_bytes());
        message.extend(class.0.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((rdata.len() as u16).to_be_bytes());
        message.extend(rdata);
    }
    message
}

/// Why a transfer that comes in is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IncomingError {
    /// The primary says so.
    #[error("the primary answers {0}")]
    Refused(Rcode),
    /// A message is not what it should be.
    #[error("the primary sends nonsense: {0}")]
    Nonsense(&'static str),
    /// A record that has no place in this zone.
    #[error("the primary sends `{0}`, which has no place in this zone")]
    Foreign(Box<Record>),
    /// More than we take.
    #[error("the primary sends more than {INCOMING_OCTETS_MAX} octets")]
    TooLarge,
}

impl From<AddError> for IncomingError {
    fn from(_: AddError) -> Self {
        IncomingError::TooLarge
    }
}

/// What has come.
#[derive(Debug)]
pub enum Copied {
    /// We have the newest version.
    Current,
    /// All of it.
    Whole(Box<Zone>),
    /// What leads from our version to the newest.
    Differences(Vec<Difference>),
}

/// A transfer that comes in, message by message.
#[derive(Debug)]
pub struct Incoming {
    id: u16,
    zone: Name,
    /// The serial that we have, if we asked for differences.
    have: Option<u32>,
    octets: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Nothing has come.
    Begin,
    /// The first SOA record: the version that will be complete.
    Newest(Record),
    /// As AXFR.
    Whole(Box<Builder>, Record),
    /// Deletions, of which the first is the old SOA.
    Deleted { newest: Record, done: Vec<Difference>, deleted: Vec<Record> },
    /// Additions, of which the first is the new SOA.
    Added { newest: Record, done: Vec<Difference>, deleted: Vec<Record>, added: Vec<Record> },
    /// The last SOA has come.
    End(Copied),
}

impl Incoming {
    /// For the answer to [`question`] with the same arguments.
    pub fn new(id: u16, zone: &Name, have: Option<&Record>) -> Self {
        let have = have.and_then(|soa| Soa::parse(&soa.rdata)).map(|soa| soa.serial);
        Self { id, zone: zone.clone(), have, octets: 0, state: State::Begin }
    }

    /// Takes a message; `Some` after the last.
    ///
    /// # Errors
    /// The transfer is not to be believed; what has come of it is to be thrown away.
    pub fn take(&mut self, octets: &[u8]) -> Result<Option<Copied>, IncomingError> {
        self.octets += octets.len() as u64;
        if self.octets > INCOMING_OCTETS_MAX {
            return Err(IncomingError::TooLarge);
        }
        let message = Message::parse(octets).map_err(IncomingError::Nonsense)?;
        let nonsense = |because| Err(IncomingError::Nonsense(because));
        let Message { header, answers, .. } = &message;
        // RFC 5936 §2.2.1.
        if header.id != self.id || !header.is_response() {
            return nonsense("an answer to another question");
        }
        if header.rcode() != Rcode::NOERROR {
            return Err(IncomingError::Refused(header.rcode()));
        }
        if header.is_truncated() {
            return nonsense("a transfer that is cut off");
        }
        let asked = if self.have.is_some() { Type::IXFR } else { Type::AXFR };
        match &message.questions[..] {
            [(name, qtype, Class::IN)] if *name == self.zone && *qtype == asked => {}
            // RFC 5936 §2.2.1 wants it in the first message only; some servers of old left it out there too.
            [] => {}
            _ => return nonsense("another question than ours"),
        }
        if answers.is_empty() {
            return nonsense("a message without a record");
        }
        for record in message.answers {
            self.record(record)?;
        }
        // One SOA record and nothing behind it: there is nothing newer (RFC 1995 §2).
        if let State::Newest(soa) = &self.state
            && let Some(have) = self.have
        {
            let serial = serial(soa)?;
            // The rest may come in the next message, unless there is none.
            if !is_newer(serial, have) {
                return Ok(Some(Copied::Current));
            }
        }
        match std::mem::replace(&mut self.state, State::Begin) {
            State::End(copied) => Ok(Some(copied)),
            going_on => {
                self.state = going_on;
                Ok(None)
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), IncomingError> {
        let Self { zone, have, state, .. } = self;
        let Record { owner, rtype, class, rdata, .. } = &record;
        let is_soa = *rtype == Type::SOA;
        let is_ours = owner.borrow().is_within(zone.borrow()) && *class == Class::IN && !rtype.is_meta();
        if !is_ours || is_soa && owner != zone || !rdata::is_well_formed(*rtype, rdata) {
            return Err(IncomingError::Foreign(Box::new(record)));
        }
        let nonsense = |because| Err(IncomingError::Nonsense(because));
        *state = match std::mem::replace(state, State::Begin) {
            State::Begin if is_soa => State::Newest(record),
            State::Begin => return nonsense("a transfer that does not begin with SOA"),
            State::Newest(newest) if is_soa && have.is_some_and(|have| serial(&record) == Ok(have)) => {
                State::Deleted { newest, done: vec![], deleted: vec![record] }
            }
            State::Newest(newest) => {
                let builder = Box::new(Builder::new(zone.borrow()));
                whole(builder, newest, &record)?
            }
            State::Whole(builder, newest) => whole(builder, newest, &record)?,
            State::Deleted { newest, done, deleted } if is_soa => {
                State::Added { newest, done, deleted, added: vec![record] }
            }
            State::Deleted { newest, done, mut deleted } => {
                deleted.push(record);
                State::Deleted { newest, done, deleted }
            }
            State::Added { newest, mut done, deleted, added } if is_soa => {
                let Some(difference) = Difference::new(deleted, added) else {
                    return nonsense("a difference without its SOA records");
                };
                let (reached, last, next) = (difference.to, serial(&newest)?, serial(&record)?);
                if !is_newer(difference.to, difference.from) || next != reached {
                    return nonsense("differences that do not follow each other");
                }
                done.push(difference);
                // The version that was promised is complete.
                if reached == last {
                    State::End(Copied::Differences(done))
                } else {
                    State::Deleted { newest, done, deleted: vec![record] }
                }
            }
            State::Added { newest, done, deleted, mut added } => {
                added.push(record);
                State::Added { newest, done, deleted, added }
            }
            State::End(_) => return nonsense("records behind the end of the transfer"),
        };
        Ok(())
    }
}

fn serial(soa: &Record) -> Result<u32, IncomingError> {
    Soa::parse(&soa.rdata).map(|soa| soa.serial).ok_or(IncomingError::Nonsense("a SOA record that is none"))
}

/// A record of a whole zone; the second SOA ends it.
fn whole(mut builder: Box<Builder>, newest: Record, record: &Record) -> Result<State, IncomingError> {
    if record.rtype != Type::SOA {
        builder.add(record.owner.borrow(), record.rtype, record.ttl, &record.rdata, Place::default())?;
        return Ok(State::Whole(builder, newest));
    }
    // RFC 5936 §2.2: the same record; a primary whose zone changed meanwhile has to begin anew.
    if serial(record)? != serial(&newest)? {
        return Err(IncomingError::Nonsense("another SOA at the end than at the beginning"));
    }
    builder.add(newest.owner.borrow(), Type::SOA, newest.ttl, &newest.rdata, Place::default())?;
    // What is doubtful about the zone is its owner's to know.
    Ok(State::End(Copied::Whole(Box::new(builder.finish().0))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        draft::{Draft, Set},
        zonefile::{self, Rewrite},
    };
    use proptest::prelude::*;
    use std::{fmt::Write as _, path::Path};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    /// A zone with so many names more than it needs.
    fn zone(names: usize) -> Arc<Zone> {
        let mut text = "$TTL 300\n@ SOA ns hostmaster 10 1h 15m 1w 5m\n NS ns\nns A 10.77.1.53\n".to_owned();
        for number in 0..names {
            writeln!(text, "n{number} TXT \"a text that is somewhat longer than an address\"").unwrap();
        }
        let origin = name("crepes.fr");
        Arc::new(zonefile::read(origin.borrow(), Path::new("zone"), text.as_bytes(), None, Rewrite::None).unwrap().zone)
    }

    /// Versions 11, 12 ... with an address more each, and what leads to them.
    fn versions(base: &Arc<Zone>, count: u8) -> (Arc<Zone>, Vec<Arc<Difference>>) {
        let mut draft = Draft::new(Arc::clone(base));
        let mut history = vec![];
        for number in 1..=count {
            let set = Set { ttl: 60, records: vec![vec![10, 0, 0, number]] };
            draft.edit(&name(&format!("v{number}.crepes.fr"))).insert(Type::A, set);
            let (_, soa) = draft.soa().unwrap();
            let origin = draft.origin().to_name();
            let soa = Soa::with_serial(&soa, 10 + u32::from(number));
            draft.edit(&origin).get_mut(&Type::SOA).unwrap().records = vec![soa];
            history.push(Arc::new(draft.difference().unwrap()));
        }
        (Arc::new(draft.finish().unwrap()), history)
    }

    fn soa(zone: &Zone) -> Record {
        let (ttl, rdata) = zone.soa().unwrap();
        Record { owner: zone.name().to_name(), rtype: Type::SOA, class: Class::IN, ttl, rdata: rdata.to_vec() }
    }

    /// The messages that answer a question.
    fn answers(transfer: &Transfer, asked: &[u8]) -> Vec<Vec<u8>> {
        let message = Message::parse(asked).unwrap();
        let question = message.question().unwrap();
        Messages::new(transfer, message.header, question, None, 0).map(Result::unwrap).collect()
    }

    fn lines(zone: &Zone) -> Vec<String> {
        let mut lines: Vec<String> = zone
            .nodes()
            .flat_map(|node| node.sets().map(move |set| format!("{node:?} {set:?}")).collect::<Vec<_>>())
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_whole_zone_goes_out_in_many_messages_and_is_the_same_when_it_has_come_in() {
        for names in [0, 1, 10_000] {
            let zone = zone(names);
            let asked = question(7, &name("crepes.fr"), None);
            let messages = answers(&Transfer::Whole(Arc::clone(&zone)), &asked);
            assert_eq!(messages.len() > 10, names > 1000, "{}", messages.len());
            assert!(messages.iter().all(|message| message.len() <= MESSAGE_OCTETS));
            assert!(
                messages[..messages.len() - 1].iter().all(|message| message.len() > MESSAGE_OCTETS - 100),
                "they are full"
            );
            let mut incoming = Incoming::new(7, &name("crepes.fr"), None);
            let (last, rest) = messages.split_last().unwrap();
            for message in rest {
                assert!(incoming.take(message).unwrap().is_none());
            }
            let Some(Copied::Whole(copy)) = incoming.take(last).unwrap() else { panic!("not whole") };
            assert_eq!(lines(&copy), lines(&zone));
        }
    }

    #[test]
    fn differences_go_out_and_lead_to_the_same_version_when_they_have_come_in() {
        let old = zone(200);
        let (new, history) = versions(&old, 9);
        let origin = name("crepes.fr");
        for behind in [0, 4, 8] {
            let (start, _) = versions(&old, behind);
            let have = soa(&start);
            let asked = question(7, &origin, Some(&have));
            assert_eq!(serial_of(&Message::parse(&asked).unwrap(), &origin), Some(10 + u32::from(behind)));
            let transfer = choose(&new, &history, start.serial());
            let messages = answers(&transfer, &asked);
            let mut incoming = Incoming::new(7, &origin, Some(&have));
            let copied = messages.iter().find_map(|message| incoming.take(message).unwrap());
            let Some(Copied::Differences(differences)) = copied else { panic!("{copied:?}") };
            assert_eq!(differences.len(), usize::from(9 - behind));
            let mut draft = Draft::new(start);
            assert!(differences.iter().all(|difference| draft.apply(difference).is_empty()));
            assert_eq!(lines(&draft.finish().unwrap()), lines(&new));
        }
    }

    #[test]
    fn what_is_sent_depends_on_what_they_have() {
        let old = zone(20);
        let (new, history) = versions(&old, 3);
        let kind = |transfer: Transfer| match transfer {
            Transfer::Current(_) => "current",
            Transfer::Whole(_) => "whole",
            Transfer::Differences(..) => "differences",
        };
        for (serial, want) in [
            (13, "current"),
            (14, "current"),
            (12, "differences"),
            (10, "differences"),
            (9, "whole"),
            (0x8000_000e, "whole"),
        ] {
            assert_eq!(kind(choose(&new, &history, serial)), want, "{serial}");
        }
        // Differences that are longer than the zone are not worth it.
        let (new, history) = versions(&zone(0), 9);
        assert_eq!(kind(choose(&new, &history, 10)), "whole");
        assert_eq!(kind(choose(&new, &history, 18)), "differences");
    }

    #[test]
    fn what_fits_into_a_datagram_goes_as_one_and_else_the_newest_soa_does() {
        let (new, history) = versions(&zone(100), 9);
        let transfer = choose(&new, &history, 10);
        let have = soa(&zone(100));
        let message = Message::parse(&question(7, &name("crepes.fr"), Some(&have))).unwrap();
        let single = |transfer: &Transfer, octets| {
            Messages::new(transfer, message.header, message.question().unwrap(), None, 0).single(octets)
        };
        assert!(single(&transfer, 512).is_none());
        let answer = single(&transfer, 4096).unwrap();
        let mut incoming = Incoming::new(7, &name("crepes.fr"), Some(&have));
        assert!(matches!(incoming.take(&answer), Ok(Some(Copied::Differences(_)))));
        let answer = single(&Transfer::Current(new), 512).unwrap();
        assert_eq!(Message::parse(&answer).unwrap().answers.len(), 1);
    }

    #[test]
    fn whoever_is_up_to_date_learns_it_from_one_record() {
        let zone = zone(3);
        let have = soa(&zone);
        let messages = answers(&choose(&zone, &[], 10), &question(7, &name("crepes.fr"), Some(&have)));
        let mut incoming = Incoming::new(7, &name("crepes.fr"), Some(&have));
        assert!(matches!(incoming.take(&messages[0]), Ok(Some(Copied::Current))));
    }

    /// An answer with these records, as text.
    fn message(id: u16, flags: [u8; 2], qtype: Type, records: &[&str]) -> Vec<u8> {
        let mut message = question(id, &name("crepes.fr"), None);
        message[2..4].copy_from_slice(&flags);
        let type_at = message.len() - 4;
        message[type_at..type_at + 2].copy_from_slice(&qtype.0.to_be_bytes());
        message[7] = records.len() as u8;
        for record in records.iter().flat_map(|text| zonefile::records(Path::new("test"), text.as_bytes()).unwrap()) {
            message.extend(record.owner.borrow().as_wire());
            message.extend(record.rtype.0.to_be_bytes());
            message.extend([0, 1]);
            message.extend(record.ttl.to_be_bytes());
            message.extend((record.rdata.len() as u16).to_be_bytes());
            message.extend(record.rdata);
        }
        message
    }

    const SOA_10: &str = "crepes.fr. 1 SOA ns.crepes.fr. h. 10 1 1 1 1";
    const SOA_11: &str = "crepes.fr. 1 SOA ns.crepes.fr. h. 11 1 1 1 1";
    const SOA_12: &str = "crepes.fr. 1 SOA ns.crepes.fr. h. 12 1 1 1 1";
    const A: &str = "ns.crepes.fr. 1 A 10.77.1.53";

    #[test]
    fn nothing_is_believed_that_is_not_a_transfer_of_our_zone() {
        let ok = [0x84, 0];
        let axfr = |records: &[&str]| message(7, ok, Type::AXFR, records);
        let ixfr = |records: &[&str]| message(7, ok, Type::IXFR, records);
        let have = zonefile::records(Path::new("test"), SOA_10.as_bytes()).unwrap().remove(0);
        for (what, have, octets, want) in [
            ("another id", None, message(8, ok, Type::AXFR, &[SOA_10, A, SOA_10]), "another question"),
            ("a query", None, message(7, [0, 0], Type::AXFR, &[SOA_10, A, SOA_10]), "another question"),
            ("another type", None, message(7, ok, Type::IXFR, &[SOA_10, A, SOA_10]), "another question"),
            ("a refusal", None, message(7, [0x84, 5], Type::AXFR, &[]), "REFUSED"),
            ("cut off", None, message(7, [0x86, 0], Type::AXFR, &[SOA_10]), "cut off"),
            ("nothing", None, axfr(&[]), "without a record"),
            ("no SOA", None, axfr(&[A, SOA_10]), "does not begin with SOA"),
            ("another SOA", None, axfr(&[SOA_10, A, SOA_11]), "another SOA at the end"),
            ("behind the end", None, axfr(&[SOA_10, A, SOA_10, A]), "behind the end"),
            ("out of zone", None, axfr(&[SOA_10, "www.edu. 1 A 1.2.3.4", SOA_10]), "`www.edu. 1 IN A 1.2.3.4`"),
            ("a SOA below", None, axfr(&[SOA_10, "x.crepes.fr. 1 SOA a. b. 1 1 1 1 1"]), "no place"),
            ("octets", None, axfr(&[SOA_10])[..40].to_vec(), "cut off"),
            ("a gap", Some(&have), ixfr(&[SOA_12, SOA_10, SOA_11, A, SOA_12, SOA_12]), "do not follow"),
            ("backwards", Some(&have), ixfr(&[SOA_12, SOA_10, SOA_10, A, SOA_10]), "do not follow"),
            ("more", Some(&have), ixfr(&[SOA_12, SOA_10, SOA_12, A, SOA_12, A]), "behind the end"),
        ] {
            let error = Incoming::new(7, &name("crepes.fr"), have).take(&octets).unwrap_err().to_string();
            assert!(error.contains(want), "{what}: {error}");
        }
    }

    #[test]
    fn records_come_in_any_number_of_messages() {
        let have = zonefile::records(Path::new("test"), SOA_10.as_bytes()).unwrap().remove(0);
        let all = [SOA_12, SOA_10, A, SOA_11, "x.crepes.fr. 1 A 1.2.3.4", SOA_11, SOA_12, A, SOA_12];
        for size in 1..=all.len() {
            let mut incoming = Incoming::new(7, &name("crepes.fr"), Some(&have));
            let copied = all
                .chunks(size)
                .find_map(|records| incoming.take(&message(7, [0x84, 0], Type::IXFR, records)).unwrap());
            let Some(Copied::Differences(differences)) = copied else { panic!("{size}") };
            let steps: Vec<_> = differences.iter().map(|one| (one.from, one.to, one.len())).collect();
            assert_eq!(steps, [(10, 11, 4), (11, 12, 3)], "{size}");
        }
        // A primary that does not know our version sends all of it (RFC 1995 §4).
        let mut incoming = Incoming::new(7, &name("crepes.fr"), Some(&have));
        let copied = incoming.take(&message(7, [0x84, 0], Type::IXFR, &[SOA_12, A, SOA_12])).unwrap();
        assert!(matches!(copied, Some(Copied::Whole(zone)) if zone.len() == 2));
    }

    proptest! {
        /// Whatever a primary sends, in whatever messages: a verdict, and at the end a zone that has one SOA.
        #[test]
        fn no_order_of_records_makes_it_panic(
            picks in proptest::collection::vec(0..6_usize, 1..12),
            size in 1..5_usize,
            is_incremental in any::<bool>(),
        ) {
            let have = zonefile::records(Path::new("test"), SOA_10.as_bytes()).unwrap().remove(0);
            let have = is_incremental.then_some(&have);
            let qtype = if is_incremental { Type::IXFR } else { Type::AXFR };
            let all = [SOA_10, SOA_11, SOA_12, A, "x.crepes.fr. 1 A 1.2.3.4", "www.edu. 1 A 1.2.3.4"];
            let records: Vec<&str> = picks.into_iter().map(|pick| all[pick]).collect();
            let mut incoming = Incoming::new(7, &name("crepes.fr"), have);
            for records in records.chunks(size) {
                match incoming.take(&message(7, [0x84, 0], qtype, records)) {
                    Ok(None) => {}
                    Ok(Some(Copied::Whole(zone))) => {
                        prop_assert_eq!(zone.apex().set(Type::SOA).map(crate::zone::RrSet::len), Some(1));
                        break;
                    }
                    Ok(Some(Copied::Differences(steps))) => {
                        prop_assert_eq!(steps.first().map(|step| step.from), Some(10));
                        prop_assert!(steps.windows(2).all(|pair| pair[0].to == pair[1].from));
                        break;
                    }
                    Ok(Some(Copied::Current)) | Err(_) => break,
                }
            }
        }

        #[test]
        fn any_octets_are_a_transfer_or_are_not(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut octets = octets;
            // Past the header, so that the records are looked at.
            if let Some(head) = octets.first_chunk_mut::<8>() {
                *head = [0, 7, 0x84, 0, 0, 0, 0, head[7] % 4];
            }
            let _ = Incoming::new(7, &name("crepes.fr"), None).take(&octets);
        }
    }
}
