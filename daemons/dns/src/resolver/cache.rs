//! What others have told us, for as long as they said that it may be kept (RFC 1034 §5.3.3 step 1, RFC 2181 §5, RFC 2308).
//!
//! ```text
//!   (name, type) -> a set of records, or that there is none;  (name) -> that the name does not exist
//!                   until when, how far it is to be believed, and who said it
//! ```
//!
//! The cache has a bound in octets. Whoever asks for names that nobody else wants must not be able to empty it: what is new waits
//! in a short queue, and only what is asked for a second time gets into the long one (S3-FIFO).
//!
//! Time is an argument: seconds since any fixed moment.

use super::validate::Insecurity;
use crate::{
    name::{NAME_OCTETS_MAX, Name, NameRef},
    rdata::{Class, Type},
    record::Record,
    zone::RrSet,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

/// Locks that the cache is cut into: workers seldom wait for each other.
const SHARDS: usize = 64;
/// What a shard keeps for each entry besides its octets: the table's slot, of which a third is empty, the queue's, and what the
/// allocator adds to both keys.
const ENTRY_OCTETS: usize = 256;
/// What a set takes besides its octets: itself, and what the allocator adds to it, its name and its records.
const SET_OCTETS: usize = size_of::<Set>() + 96;
/// A tenth of the cache is for what was asked for once.
const PROBATION_SHARE: usize = 10;
/// RFC 8767 §5: a day is how long data may be used after its end, when nobody can be asked. RFC 2308 §5 and RFC 8767 §4: nothing
/// is kept longer than this, whatever its TTL says.
pub const STALE_SECS: u64 = 86_400;
/// See [`STALE_SECS`].
pub const TTL_MAX_SECS: u32 = 7 * 86_400;
/// RFC 2308 §5: "values of one to three hours have been found to work well".
pub const NEGATIVE_TTL_MAX_SECS: u32 = 3 * 3600;

/// How far data is to be believed (RFC 2181 §5.4.1), the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credibility {
    /// It came beside something else: glue, and the addresses in the additional section.
    Additional,
    /// The parent's word about its child: NS in a referral.
    Referral,
    /// The authority section of an authoritative answer.
    AuthorityOfAnswer,
    /// An answer of somebody who is not the authority.
    Hearsay,
    /// An answer of the authority.
    Answer,
}

impl fmt::Display for Credibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credibility::Additional => "beside an answer",
            Credibility::Referral => "referral",
            Credibility::AuthorityOfAnswer => "authority section",
            Credibility::Hearsay => "hearsay",
            Credibility::Answer => "answer of the authority",
        })
    }
}

impl Credibility {
    /// Whether a client may get it as an answer (RFC 2181 §5.4.1: what came in the additional section, or in the authority section
    /// of a referral, must not be returned as one).
    pub fn may_answer(self) -> bool {
        self >= Credibility::AuthorityOfAnswer
    }
}

/// What is known about whether data is what its zone has signed (RFC 4033 §5). Bogus data is not kept at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Nobody has looked yet.
    Unchecked,
    /// It need not be signed, for this reason.
    Insecure(Insecurity),
    /// The signatures are right, from a trust anchor down.
    Secure,
}

impl Security {
    /// What is known of both together: the lesser.
    #[must_use]
    pub fn and(self, other: Security) -> Security {
        match (self, other) {
            (Security::Unchecked, _) | (_, Security::Unchecked) => Security::Unchecked,
            (Security::Insecure(because), _) | (_, Security::Insecure(because)) => Security::Insecure(because),
            (Security::Secure, Security::Secure) => Security::Secure,
        }
    }
}

/// What is known of each part of an answer. An alias that its zone has signed is secure, however little is proved about its end; and
/// who asks for the alias, or goes on from it to another end, must hear so (RFC 4035 §3.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Of the aliases, in order.
    pub aliases: Vec<Security>,
    /// Of what is at their end, and of aliases that have none of their own.
    pub end: Security,
}

impl Marks {
    /// Nobody has looked at any of it.
    pub const UNCHECKED: Self = Self { aliases: vec![], end: Security::Unchecked };

    /// What is known of the alias at a place in the chain.
    pub fn of_alias(&self, place: usize) -> Security {
        self.aliases.get(place).copied().unwrap_or(self.end)
    }

    /// What is known of all together.
    pub fn of_all(&self) -> Security {
        self.aliases.iter().fold(self.end, |all, alias| all.and(*alias))
    }
}

impl fmt::Display for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Security::Unchecked => f.write_str("not validated"),
            Security::Insecure(because) => write!(f, "insecure: {because}"),
            Security::Secure => f.write_str("secure"),
        }
    }
}

/// What goes with data that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// How far it is to be believed.
    pub credibility: Credibility,
    /// Whether its zone has signed it.
    pub security: Security,
    /// Who said it.
    pub from: SocketAddr,
}

/// All records of one type at one name, as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Whose they are.
    pub owner: Name,
    /// Their type.
    pub rtype: Type,
    /// The TTL that they came with.
    pub ttl: u32,
    count: u16,
    /// Each with its length before it.
    records: Box<[u8]>,
    /// The data of the RRSIG records that cover it.
    pub signatures: Vec<Box<[u8]>>,
    /// What proves that a wildcard may stand for the name, if one does: NSEC or NSEC3 sets.
    pub proofs: Vec<Arc<Set>>,
    /// Whether it is an alias that we have made of a DNAME (RFC 6672 §3.1): it is not signed, and not kept.
    pub is_made: bool,
}

/// That there is nothing, with what goes with such an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// The SOA of the zone that says so (RFC 2308 §3).
    pub soa: Option<Arc<Set>>,
    /// NSEC or NSEC3 that prove it, with their signatures.
    pub proofs: Vec<Arc<Set>>,
}

impl Denial {
    /// RFC 2308 §5: the lesser of the SOA's own TTL and its MINIMUM field; without a SOA it is not to be kept.
    pub fn ttl(&self) -> u32 {
        let Some(soa) = &self.soa else { return 0 };
        let minimum = soa.rdata().next().and_then(|rdata| rdata.last_chunk::<4>());
        minimum.map_or(0, |octets| u32::from_be_bytes(*octets)).min(soa.ttl).min(NEGATIVE_TTL_MAX_SECS)
    }

    fn octets(&self) -> usize {
        size_of::<Self>() + self.soa.iter().chain(&self.proofs).map(|set| set.octets()).sum::<usize>()
    }
}

impl Set {
    /// A set of records with the same owner and type; the least of their TTLs counts (RFC 2181 §5.2). `None` without a record.
    pub fn of(records: &[&Record]) -> Option<Self> {
        let first = records.first()?;
        let mut framed = vec![];
        let mut kept: Vec<&[u8]> = vec![];
        for record in records {
            if !kept.contains(&&record.rdata[..]) && kept.len() < usize::from(u16::MAX) {
                kept.push(&record.rdata);
                framed.extend_from_slice(&(record.rdata.len() as u16).to_be_bytes());
                framed.extend_from_slice(&record.rdata);
            }
        }
        // RFC 2181 §8: a TTL with its highest bit set is 0.
        let ttl = records.iter().map(|record| if record.ttl >> 31 == 0 { record.ttl } else { 0 }).min()?;
        let (owner, count) = (first.owner.clone(), kept.len() as u16);
        let (rtype, ttl, records) = (first.rtype, ttl.min(TTL_MAX_SECS), framed.into());
        Some(Self { owner, rtype, ttl, count, records, signatures: vec![], proofs: vec![], is_made: false })
    }

    /// The alias that a DNAME makes of a name below its owner (RFC 6672 §2.2, §3.1). `None` for other sets and other names, and if the
    /// new name would be too long.
    pub fn made_of(dname: &Set, name: NameRef<'_>) -> Option<Self> {
        let owner = dname.owner.borrow();
        if dname.rtype != Type::DNAME || name == owner || !name.is_within(owner) {
            return None;
        }
        let target = NameRef::parse(dname.rdata().next()?).ok()?;
        let below = name.as_wire().len() - owner.as_wire().len();
        let rdata = Name::join(&name.as_wire()[..below], target).ok()?.borrow().as_wire().to_vec();
        let (owner, class) = (name.to_name(), Class::IN);
        let cname = Self::of(&[&Record { owner, rtype: Type::CNAME, class, ttl: dname.ttl, rdata }])?;
        Some(Self { is_made: true, ..cname })
    }

    /// Whether both are the records of one type at one name.
    pub fn is_same_set(&self, other: &Self) -> bool {
        self.rtype == other.rtype && self.owner == other.owner
    }

    /// The name that an alias leads to.
    pub fn target(&self) -> Option<NameRef<'_>> {
        self.rdata().next().and_then(|rdata| NameRef::parse(rdata).ok())
    }

    /// The same set at another name.
    #[must_use]
    pub fn at(self, owner: NameRef<'_>) -> Self {
        Self { owner: owner.to_name(), ..self }
    }

    /// The same set, for no longer than `ttl`.
    #[must_use]
    pub fn within(self: Arc<Self>, ttl: u32) -> Arc<Self> {
        if self.ttl <= ttl { self } else { Arc::new(Self { ttl, ..(*self).clone() }) }
    }

    /// The set as it is written into messages, with a TTL of `ttl`.
    pub fn with_ttl(&self, ttl: u32) -> RrSet<'_> {
        RrSet::of_framed(self.rtype, ttl, self.count, &self.records)
    }

    /// The data of each record.
    pub fn rdata(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.with_ttl(0).records()
    }

    /// Octets that it takes.
    pub(super) fn octets(&self) -> usize {
        let signatures: usize = self.signatures.iter().map(|signature| size_of::<Box<[u8]>>() + signature.len()).sum();
        let proofs: usize = self.proofs.iter().map(|proof| proof.octets()).sum();
        SET_OCTETS + self.records.len() + self.owner.borrow().as_wire().len() + signatures + proofs
    }
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The records.
    Set(Arc<Set>),
    /// The name exists, and has no records of the type.
    NoData(Arc<Denial>),
    /// The name does not exist, nor does any below it (RFC 8020).
    NoName(Arc<Denial>),
}

impl Content {
    /// Whether it is the very same.
    fn is(&self, other: &Content) -> bool {
        match (self, other) {
            (Content::Set(one), Content::Set(other)) => Arc::ptr_eq(one, other),
            (Content::NoData(one), Content::NoData(other)) | (Content::NoName(one), Content::NoName(other)) => {
                Arc::ptr_eq(one, other)
            }
            _ => false,
        }
    }
}

/// What the cache says.
#[derive(Clone, Debug)]
pub struct Found {
    /// What.
    pub content: Content,
    /// Seconds that it is still good for; 0 if it is stale.
    pub ttl: u32,
    /// Whether its time is over (RFC 8767): only if nobody can be asked.
    pub is_stale: bool,
    /// Whether it is in the last tenth of its time: somebody may fetch it anew before it is missed.
    pub is_ending: bool,
    /// How far it is to be believed, and who said it.
    pub origin: Origin,
}

/// An entry as somebody who looks into the cache sees it.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The name.
    pub name: Name,
    /// The type; `None` for a name that does not exist.
    pub rtype: Option<Type>,
    /// What is known.
    pub found: Found,
    /// Seconds since its time was over: then it is told when nobody else tells anything.
    pub stale_secs: u64,
}

#[derive(Debug)]
struct Entry {
    content: Content,
    ends: u64,
    ttl: u32,
    origin: Origin,
    octets: usize,
    /// Whether it was asked for since it was looked at last for throwing it out.
    is_used: bool,
    queue: Queue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Probation,
    Proven,
}

#[derive(Debug, Default)]
struct Shard {
    entries: HashMap<Box<[u8]>, Entry>,
    probation: VecDeque<Box<[u8]>>,
    proven: VecDeque<Box<[u8]>>,
    probation_octets: usize,
    octets: usize,
}

/// The cache.
#[derive(Debug)]
pub struct Cache {
    shards: Box<[Mutex<Shard>]>,
    /// For each shard.
    octets_max: usize,
    /// Seconds for which data past its time may be told.
    stale_secs: u64,
    /// Whether there ever was a DNAME: they are rare, and without one nobody need look for them above each name.
    has_dname: AtomicBool,
}

/// The type that stands for the name itself; no record has it (RFC 6895 §3.1).
const NAME_ITSELF: Type = Type(0);

/// A type and a name.
const KEY_OCTETS_MAX: usize = 2 + NAME_OCTETS_MAX;

/// Where an entry stands: its type, and its name in lower case. It is made on the caller's stack, for most keys are only looked up.
fn key<'r>(room: &'r mut [u8; KEY_OCTETS_MAX], name: NameRef<'_>, rtype: Type) -> &'r [u8] {
    let wire = name.as_wire();
    let key = &mut room[..2 + wire.len()];
    key[..2].copy_from_slice(&rtype.0.to_be_bytes());
    key[2..].copy_from_slice(wire);
    key[2..].make_ascii_lowercase();
    key
}

impl Cache {
    /// An empty cache of at most `octets_max`.
    pub fn new(octets_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            octets_max: octets_max / SHARDS,
            stale_secs: STALE_SECS,
            has_dname: AtomicBool::new(false),
        }
    }

    /// The same, and data past its time may be told for so many seconds.
    #[must_use]
    pub fn stale_for(self, stale_secs: u64) -> Self {
        Self { stale_secs, ..self }
    }

    /// Another one of the same kind, with nothing in it.
    #[must_use]
    pub fn empty(&self) -> Self {
        Self::new(self.octets_max * SHARDS).stale_for(self.stale_secs)
    }

    fn shard(&self, name: NameRef<'_>) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[crate::name::hash(name) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a set.
    pub fn put_set(&self, set: Arc<Set>, origin: Origin, now: u64) {
        let (name, rtype, ttl) = (set.owner.clone(), set.rtype, set.ttl);
        let octets = set.octets();
        if rtype == Type::DNAME {
            self.has_dname.store(true, Ordering::Relaxed);
        }
        self.put(name.borrow(), rtype, Content::Set(set), ttl, octets, origin, now);
    }

    /// Remembers for `ttl` seconds that there are no records of `rtype` at `name`.
    pub fn put_no_data(&self, name: NameRef<'_>, rtype: Type, denial: Arc<Denial>, ttl: u32, origin: Origin, now: u64) {
        let octets = denial.octets();
        self.put(name, rtype, Content::NoData(denial), ttl, octets, origin, now);
    }

    /// Remembers that `name` does not exist.
    pub fn put_no_name(&self, name: NameRef<'_>, denial: Arc<Denial>, origin: Origin, now: u64) {
        let (ttl, octets) = (denial.ttl(), denial.octets());
        self.put(name, NAME_ITSELF, Content::NoName(denial), ttl, octets, origin, now);
    }

    #[expect(clippy::too_many_arguments, reason = "private, and each is another thing")]
    fn put(&self, name: NameRef<'_>, rtype: Type, content: Content, ttl: u32, octets: usize, origin: Origin, now: u64) {
        let mut room = [0; KEY_OCTETS_MAX];
        let key = key(&mut room, name, rtype);
        let octets = octets + 2 * key.len() + ENTRY_OCTETS;
        // RFC 1035 §3.2.1: a TTL of 0 is for the question in hand only.
        if ttl == 0 || octets > self.octets_max / 4 {
            return;
        }
        let mut shard = self.shard(name);
        let shard = &mut *shard;
        let ends = now + u64::from(ttl);
        if let Some(known) = shard.entries.get_mut(key) {
            // RFC 2181 §5.4.1: less credible data does not replace what is still good. Nor does the child's NS set live longer
            // for being told again by the parent: a domain that was taken away must be able to go (ghost domains). And what has
            // been validated does not give way to what has not.
            let is_weaker = known.origin.credibility > origin.credibility
                || known.origin.security == Security::Secure && origin.security == Security::Unchecked;
            if known.ends > now && is_weaker {
                return;
            }
            // Nor for being told again by the child itself (CVE-2012-1033): at its end the parent is asked. The root has none.
            let is_cut = rtype == Type::NS && !name.is_root();
            let ends = if is_cut && known.ends > now { ends.min(known.ends) } else { ends };
            shard.octets = shard.octets - known.octets + octets;
            if known.queue == Queue::Probation {
                shard.probation_octets = shard.probation_octets - known.octets + octets;
            }
            (known.content, known.ends, known.ttl) = (content, ends, ttl);
            (known.origin, known.octets) = (origin, octets);
        } else {
            let queue = Queue::Probation;
            let entry = Entry { content, ends, ttl, origin, octets, is_used: false, queue };
            shard.octets += octets;
            shard.probation_octets += octets;
            shard.probation.push_back(key.into());
            shard.entries.insert(key.into(), entry);
        }
        while shard.octets > self.octets_max {
            shard.make_room(self.octets_max / PROBATION_SHARE);
        }
    }

    /// Remembers what validation has found about `content`, and that it is good for `ttl` seconds at most; if it has not been replaced
    /// meanwhile.
    pub fn judged(&self, name: NameRef<'_>, rtype: Type, content: &Content, security: Security, ttl: u32, now: u64) {
        let rtype = if let Content::NoName(_) = content { NAME_ITSELF } else { rtype };
        let mut shard = self.shard(name);
        if let Some(entry) =
            shard.entries.get_mut(key(&mut [0; KEY_OCTETS_MAX], name, rtype)).filter(|entry| entry.content.is(content))
        {
            entry.origin.security = security;
            entry.ends = entry.ends.min(now + u64::from(ttl));
        }
    }

    /// Forgets what turned out to be bogus.
    pub fn forget(&self, name: NameRef<'_>, rtype: Type, content: &Content) {
        let rtype = if let Content::NoName(_) = content { NAME_ITSELF } else { rtype };
        let mut shard = self.shard(name);
        if let Some(entry) =
            shard.entries.get_mut(key(&mut [0; KEY_OCTETS_MAX], name, rtype)).filter(|entry| entry.content.is(content))
        {
            // Neither good nor stale; its place in the queue is given back in its turn.
            (entry.ends, entry.content) = (0, Content::NoData(Arc::default()));
        }
    }

    /// What is known about records of `rtype` at `name`.
    pub fn get(&self, name: NameRef<'_>, rtype: Type, now: u64) -> Option<Found> {
        self.shard(name).get(key(&mut [0; KEY_OCTETS_MAX], name, rtype), now, self.stale_secs)
    }

    /// Whether a DNAME may be in the cache.
    pub fn has_dname(&self) -> bool {
        self.has_dname.load(Ordering::Relaxed)
    }

    /// Whether it is known that `name` does not exist.
    pub fn get_no_name(&self, name: NameRef<'_>, now: u64) -> Option<Found> {
        self.get(name, NAME_ITSELF, now)
    }

    /// Forgets `name`, and with it all that is below; returns how many entries that were.
    pub fn purge(&self, name: NameRef<'_>) -> usize {
        let mut purged = 0;
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let shard = &mut *shard;
            let is_below = |key: &[u8]| NameRef::parse(&key[2..]).is_ok_and(|known| known.is_within(name));
            let before = shard.entries.len();
            shard.entries.retain(|key, _| !is_below(key));
            purged += before - shard.entries.len();
            shard.probation.retain(|key| !is_below(key));
            shard.proven.retain(|key| !is_below(key));
            shard.octets = shard.entries.values().map(|entry| entry.octets).sum();
            let waits = |entry: &&Entry| entry.queue == Queue::Probation;
            shard.probation_octets = shard.entries.values().filter(waits).map(|entry| entry.octets).sum();
        }
        purged
    }

    /// Everything that may be told now, by name.
    pub fn list(&self, now: u64) -> Vec<Listed> {
        let mut all = vec![];
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (key, entry) in shard.entries.iter().filter(|(_, entry)| entry.may_be_told(now, self.stale_secs)) {
                let rtype = Type(u16::from_be_bytes([key[0], key[1]]));
                let Ok(name) = NameRef::parse(&key[2..]) else { continue };
                let rtype = (rtype != NAME_ITSELF).then_some(rtype);
                let stale_secs = now.saturating_sub(entry.ends);
                all.push(Listed { name: name.to_name(), rtype, found: entry.found(now), stale_secs });
            }
        }
        all.sort_by(|one, other| {
            one.name.borrow().canonical_cmp(other.name.borrow()).then(one.rtype.cmp(&other.rtype))
        });
        all
    }

    /// Octets in use.
    pub fn octets(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).octets).sum()
    }
}

impl Entry {
    /// RFC 8767 §4: for a while after its time, if nobody else tells anything.
    fn may_be_told(&self, now: u64, stale_secs: u64) -> bool {
        self.ends > 0 && self.ends + stale_secs > now
    }

    fn found(&self, now: u64) -> Found {
        let left = self.ends.saturating_sub(now) as u32;
        Found {
            content: self.content.clone(),
            ttl: left,
            is_stale: left == 0,
            is_ending: left <= self.ttl / 10,
            origin: self.origin,
        }
    }
}

impl Shard {
    fn get(&mut self, key: &[u8], now: u64, stale_secs: u64) -> Option<Found> {
        let entry = self.entries.get_mut(key).filter(|entry| entry.may_be_told(now, stale_secs))?;
        entry.is_used = true;
        Some(entry.found(now))
    }

    /// Throws one entry out, or gives one that was used another chance.
    fn make_room(&mut self, probation_max: usize) {
        let from_probation = self.probation_octets > probation_max || self.proven.is_empty();
        let queue = if from_probation { &mut self.probation } else { &mut self.proven };
        let Some(key) = queue.pop_front() else { return };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let was_used = std::mem::take(&mut entry.is_used);
        if entry.queue == Queue::Probation {
            self.probation_octets -= entry.octets;
        }
        if was_used {
            entry.queue = Queue::Proven;
            self.proven.push_back(key);
        } else {
            self.octets -= entry.octets;
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdata::Class;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn set(owner: &str, rtype: Type, ttl: u32, rdata: &[u8]) -> Arc<Set> {
        let record = Record { owner: name(owner), rtype, class: Class::IN, ttl, rdata: rdata.to_vec() };
        Arc::new(Set::of(&[&record]).unwrap())
    }

    fn soa(ttl: u32, minimum: u32) -> Arc<Denial> {
        let soa = set("example", Type::SOA, ttl, &[&b"\0\0"[..], &[0; 16], &minimum.to_be_bytes()].concat());
        Arc::new(Denial { soa: Some(soa), proofs: vec![] })
    }

    fn told(credibility: Credibility) -> Origin {
        Origin { credibility, security: Security::Unchecked, from: SocketAddr::from(([127, 0, 0, 1], 53)) }
    }

    /// CVE-2012-1033: whoever lost a domain must not keep it by telling his own servers again and again.
    #[test]
    fn a_child_does_not_prolong_its_own_delegation() {
        let (cache, who) = (Cache::new(1 << 20), name("ghost.example"));
        let servers = |ttl| set("ghost.example", Type::NS, ttl, b"\x02ns\x05ghost\x07example\0");
        cache.put_set(servers(5), told(Credibility::Referral), 0);
        for second in 0..5 {
            cache.put_set(servers(100), told(Credibility::Answer), second);
            assert_eq!(cache.get(who.borrow(), Type::NS, second).unwrap().ttl, 5 - second as u32);
        }
        assert!(cache.get(who.borrow(), Type::NS, 5).is_none_or(|found| found.is_stale));
        // What the parent tells then is a new beginning.
        cache.put_set(servers(5), told(Credibility::Referral), 6);
        assert_eq!(cache.get(who.borrow(), Type::NS, 6).unwrap().ttl, 5);
        // The root has no parent.
        cache.put_set(set(".", Type::NS, 5, b"\x01a\x04root\0"), told(Credibility::Answer), 0);
        cache.put_set(set(".", Type::NS, 100, b"\x01a\x04root\0"), told(Credibility::Answer), 1);
        assert_eq!(cache.get(name(".").borrow(), Type::NS, 1).unwrap().ttl, 100);
    }

    #[test]
    fn what_was_validated_stays_so_and_what_is_bogus_is_gone() {
        let (cache, who) = (Cache::new(1 << 20), name("www.example"));
        let secure = Origin { security: Security::Secure, ..told(Credibility::Answer) };
        cache.put_set(set("www.example", Type::A, 100, &[1, 2, 3, 4]), secure, 0);
        cache.put_set(set("www.example", Type::A, 100, &[6, 6, 6, 6]), told(Credibility::Answer), 10);
        let found = cache.get(who.borrow(), Type::A, 10).unwrap();
        assert_eq!((found.origin.security, found.ttl), (Security::Secure, 90));
        cache.judged(who.borrow(), Type::A, &found.content, Security::Secure, 5, 10);
        assert_eq!(cache.get(who.borrow(), Type::A, 10).unwrap().ttl, 5);
        let other = Content::Set(set("www.example", Type::A, 100, &[1, 2, 3, 4]));
        cache.forget(who.borrow(), Type::A, &other);
        assert!(cache.get(who.borrow(), Type::A, 10).is_some(), "it is not the one that was looked at");
        cache.forget(who.borrow(), Type::A, &found.content);
        assert!(cache.get(who.borrow(), Type::A, 10).is_none());
        assert!(cache.list(0).is_empty());
    }

    #[test]
    fn what_is_kept_grows_old_and_goes() {
        let cache = Cache::new(1 << 20);
        cache.put_set(set("www.Example", Type::A, 100, &[1, 2, 3, 4]), told(Credibility::Answer), 1000);
        let at =
            |now| cache.get(name("WWW.example").borrow(), Type::A, now).map(|it| (it.ttl, it.is_stale, it.is_ending));
        assert_eq!(at(1000), Some((100, false, false)));
        assert_eq!(at(1091), Some((9, false, true)));
        assert_eq!(at(1100), Some((0, true, true)));
        assert_eq!(at(1100 + STALE_SECS), None);
        assert!(cache.get(name("www.example").borrow(), Type::AAAA, 1000).is_none());
        cache.put_set(set("zero.example", Type::A, 0, &[1, 2, 3, 4]), told(Credibility::Answer), 1000);
        assert!(cache.get(name("zero.example").borrow(), Type::A, 1000).is_none(), "RFC 1035 §3.2.1");
    }

    #[test]
    fn what_is_not_there_is_kept_as_long_as_the_soa_says() {
        let cache = Cache::new(1 << 20);
        let who = name("x.example");
        cache.put_no_data(who.borrow(), Type::A, soa(600, 60), soa(600, 60).ttl(), told(Credibility::Answer), 0);
        assert_eq!(cache.get(who.borrow(), Type::A, 0).unwrap().ttl, 60);
        cache.put_no_name(who.borrow(), soa(30, 60), told(Credibility::Answer), 0);
        assert_eq!(cache.get_no_name(who.borrow(), 0).unwrap().ttl, 30);
        cache.put_no_name(name("y.example").borrow(), Arc::default(), told(Credibility::Answer), 0);
        assert!(cache.get_no_name(name("y.example").borrow(), 0).is_none(), "without a SOA it is not kept");
    }

    #[test]
    fn the_less_credible_does_not_replace_the_more_credible_while_that_is_good() {
        let cache = Cache::new(1 << 20);
        let data = |now| match cache.get(name("ns.example").borrow(), Type::A, now).unwrap().content {
            Content::Set(set) => set.rdata().next().unwrap()[3],
            other => panic!("{other:?}"),
        };
        cache.put_set(set("ns.example", Type::A, 100, &[1, 2, 3, 1]), told(Credibility::Answer), 0);
        cache.put_set(set("ns.example", Type::A, 100, &[1, 2, 3, 2]), told(Credibility::Additional), 50);
        assert_eq!(data(50), 1);
        cache.put_set(set("ns.example", Type::A, 100, &[1, 2, 3, 3]), told(Credibility::Answer), 60);
        assert_eq!(data(60), 3);
        cache.put_set(set("ns.example", Type::A, 100, &[1, 2, 3, 4]), told(Credibility::Additional), 161);
        assert_eq!(data(161), 4);
    }

    #[test]
    fn a_flood_of_names_that_nobody_asks_for_again_does_not_push_out_what_is_used() {
        let cache = Cache::new(2 << 20);
        let used: Vec<String> = (0..500).map(|n| format!("used-{n}.example")).collect();
        for owner in &used {
            cache.put_set(set(owner, Type::A, 3600, &[1, 2, 3, 4]), told(Credibility::Answer), 0);
            assert!(cache.get(name(owner).borrow(), Type::A, 0).is_some());
        }
        for n in 0..100_000 {
            let owner = name(&format!("random-{n}.example"));
            cache.put_no_name(owner.borrow(), soa(600, 600), told(Credibility::Answer), 1);
        }
        assert!(cache.octets() <= 2 << 20);
        let left = used.iter().filter(|owner| cache.get(name(owner).borrow(), Type::A, 2).is_some()).count();
        assert!(left > 490, "{left} of 500 are left");
    }

    #[test]
    fn a_name_is_purged_with_all_below_it() {
        let cache = Cache::new(1 << 20);
        for owner in ["example", "a.example", "b.a.example", "ample"] {
            cache.put_set(set(owner, Type::A, 3600, &[1, 2, 3, 4]), told(Credibility::Answer), 0);
        }
        assert_eq!(cache.list(0).len(), 4);
        assert_eq!(cache.purge(name("a.example").borrow()), 2);
        let left: Vec<String> = cache.list(0).iter().map(|listed| listed.name.to_string()).collect();
        assert_eq!(left, ["ample.", "example."]);
        assert_eq!(cache.purge(NameRef::ROOT), 2);
        assert_eq!(cache.octets(), 0);
    }
}
