//! A zone in memory: small, found by hash, never changed once it is made.
//!
//! ```text
//!   table (hash -> node)      nodes, 24 octets each        names (wire form, one after the other)
//!   [ . 7 . 0 . . 3 . ]  -->  [ name  parent  sets .. ] -> 6crepes2fr0 3www6crepes2fr0 ...
//!                                       |
//!                                       v                  data (as it goes into messages)
//!                                       +----------------> type ttl count octets | length rdata | length rdata ...
//! ```
//!
//! Every name of the zone is a node, also one that is only above another one (an empty non-terminal, RFC 4592 §2.2.2): so a
//! walk from the apex down to a name that does not exist ends at its closest encloser, after as many steps as there are labels,
//! however large the zone is. A change makes a new zone; whoever still answers from the old one keeps it.

use crate::{
    denial::Chain,
    name::{self, Name, NameRef, Suffixes},
    rdata::{self, Class, Type},
    record::{Record, Soa},
};
use std::{collections::HashSet, fmt, sync::OnceLock};

/// A slot of the hash table with nothing in it.
const EMPTY: u32 = u32::MAX;
/// The apex.
const APEX: u32 = 0;
/// Octets before the records of a set: type, TTL, count, octets.
const SET_HEAD: usize = 2 + 4 + 2 + 4;

/// A zone.
#[derive(Debug)]
pub struct Zone {
    names: Vec<u8>,
    nodes: Vec<Inner>,
    table: Vec<u32>,
    data: Vec<u8>,
    records: usize,
    negative_ttl: u32,
    order: OnceLock<Vec<u32>>,
    chain: Chain,
}

/// A node as it is stored.
#[derive(Clone, Copy, Debug)]
struct Inner {
    /// Where its name begins in `names`.
    name: u32,
    parent: u32,
    hash: u32,
    /// Where its sets begin in `data`.
    data: u32,
    /// How many sets it has; none makes it an empty non-terminal.
    sets: u16,
    marks: u8,
}

/// NS below the apex: what lies below belongs to somebody else.
const CUT: u8 = 1;
/// A DNAME: what lies below is elsewhere.
const DNAME: u8 = 2;
/// Its child `*` exists.
const WILDCARD: u8 = 4;

/// All records of one type at one name.
#[derive(Clone, Copy, Debug)]
pub struct RrSet<'z> {
    /// The type.
    pub rtype: Type,
    /// Seconds that it may be cached.
    pub ttl: u32,
    count: u16,
    records: &'z [u8],
}

impl<'z> RrSet<'z> {
    /// A set of one record, which is not in a zone; `framed` is the data with its length before it.
    pub fn single(rtype: Type, ttl: u32, framed: &'z [u8]) -> Self {
        Self { rtype, ttl, count: 1, records: framed }
    }

    /// `count` records that are not in a zone; `framed` is the data of each with its length before it.
    pub fn of_framed(rtype: Type, ttl: u32, count: u16, framed: &'z [u8]) -> Self {
        Self { rtype, ttl, count, records: framed }
    }

    /// How many records.
    pub fn len(self) -> usize {
        usize::from(self.count)
    }

    /// Sets are never empty; asked by convention.
    pub fn is_empty(self) -> bool {
        self.count == 0
    }

    /// The data of each record.
    pub fn records(self) -> impl Iterator<Item = &'z [u8]> + Clone {
        let mut rest = self.records;
        std::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<2>()?;
            let (rdata, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)));
            rest = behind;
            Some(rdata)
        })
    }
}

/// One name of a zone.
#[derive(Clone, Copy)]
pub struct Node<'z> {
    zone: &'z Zone,
    index: u32,
}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name())
    }
}

impl<'z> Node<'z> {
    fn inner(self) -> &'z Inner {
        &self.zone.nodes[self.index as usize]
    }

    /// Its name, as the zone's owner wrote it.
    pub fn name(self) -> NameRef<'z> {
        self.zone.name_at(self.inner().name)
    }

    /// Whether it is the zone's own name.
    pub fn is_apex(self) -> bool {
        self.index == APEX
    }

    /// Whether the zone ends here: there are NS records, and this is not the apex.
    pub fn is_cut(self) -> bool {
        self.inner().marks & CUT != 0
    }

    /// Whether a DNAME leads all that is below elsewhere.
    pub fn has_dname(self) -> bool {
        self.inner().marks & DNAME != 0
    }

    /// Whether nothing but names below it makes it exist.
    pub fn is_empty_non_terminal(self) -> bool {
        self.inner().sets == 0
    }

    /// Whether all that it has is an NSEC3 record, with its signatures.
    pub fn is_hash_only(self) -> bool {
        matches!(self.zone.chain, Chain::Nsec3 { .. })
            && self.set(Type::NSEC3).is_some()
            && self.sets().all(|set| [Type::NSEC3, Type::RRSIG].contains(&set.rtype))
    }

    /// Its number in the zone.
    pub fn index(self) -> u32 {
        self.index
    }

    /// The node above; `None` at the apex.
    pub fn parent(self) -> Option<Node<'z>> {
        (!self.is_apex()).then(|| Node { zone: self.zone, index: self.inner().parent })
    }

    /// The node `*` below this one (RFC 4592 §2.1.1).
    pub fn wildcard(self) -> Option<Node<'z>> {
        if self.inner().marks & WILDCARD == 0 {
            return None;
        }
        let name = self.name().wildcard().ok()?;
        self.zone.node(name.borrow())
    }

    /// Its sets, by type.
    pub fn sets(self) -> impl Iterator<Item = RrSet<'z>> + Clone {
        let mut rest = &self.zone.data[self.inner().data as usize..];
        (0..self.inner().sets).map_while(move |_| {
            let head = rest.first_chunk::<SET_HEAD>()?;
            let octets = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
            let records = rest.get(SET_HEAD..SET_HEAD + octets)?;
            rest = &rest[SET_HEAD + octets..];
            Some(RrSet {
                rtype: Type(u16::from_be_bytes([head[0], head[1]])),
                ttl: u32::from_be_bytes([head[2], head[3], head[4], head[5]]),
                count: u16::from_be_bytes([head[6], head[7]]),
                records,
            })
        })
    }

    /// The TTL of one record of a set of this node. A signature has that of what it signs (RFC 4034 §3), whatever the
    /// others have that stand beside it.
    pub fn ttl_of(self, set: RrSet<'_>, rdata: &[u8]) -> u32 {
        let covered = rdata.first_chunk().map(|covered| Type(u16::from_be_bytes(*covered)));
        let signed = covered.filter(|_| set.rtype == Type::RRSIG).and_then(|covered| self.set(covered));
        signed.map_or(set.ttl, |signed| signed.ttl)
    }

    /// The set of one type.
    pub fn set(self, rtype: Type) -> Option<RrSet<'z>> {
        self.sets().find(|set| set.rtype == rtype)
    }
}

impl Zone {
    /// Its name.
    pub fn name(&self) -> NameRef<'_> {
        self.apex().name()
    }

    /// The node of its own name.
    pub fn apex(&self) -> Node<'_> {
        Node { zone: self, index: APEX }
    }

    /// How many records it has.
    pub fn len(&self) -> usize {
        self.records
    }

    /// Never: there is a SOA record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// The SOA record, with the TTL that it has in negative answers: the lesser of its own and its MINIMUM field
    /// (RFC 2308 §3 and §5).
    pub fn negative_soa(&self) -> Option<RrSet<'_>> {
        self.apex().set(Type::SOA).map(|set| RrSet { ttl: self.negative_ttl, ..set })
    }

    /// The node of exactly this name.
    pub fn node(&self, name: NameRef<'_>) -> Option<Node<'_>> {
        self.node_hashed(name, name::hash(name))
    }

    /// The node of exactly this name, whose hash is known.
    pub fn node_hashed(&self, name: NameRef<'_>, hash: u32) -> Option<Node<'_>> {
        find(&self.table, &self.nodes, &self.names, name, hash).ok().map(|index| Node { zone: self, index })
    }

    /// The SOA record: its TTL and its data. Only a zone with an error has none.
    pub fn soa(&self) -> Option<(u32, &[u8])> {
        self.apex().set(Type::SOA).and_then(|set| Some((set.ttl, set.records().next()?)))
    }

    /// The zone's version (RFC 1035 §3.3.13).
    pub fn serial(&self) -> u32 {
        self.soa().and_then(|(_, rdata)| Soa::parse(rdata)).map_or(0, |soa| soa.serial)
    }

    /// All nodes in the canonical order of RFC 4034 §6.1, the apex first; a name's subtree stands together. Sorted the first time
    /// somebody asks.
    pub fn in_order(&self) -> impl ExactSizeIterator<Item = Node<'_>> {
        let order = self.order.get_or_init(|| {
            let mut order: Vec<u32> = (0..self.nodes.len() as u32).collect();
            let name = |index: &u32| self.name_at(self.nodes[*index as usize].name);
            order.sort_by(|one, other| name(one).canonical_cmp(name(other)));
            order
        });
        order.iter().map(|index| Node { zone: self, index: *index })
    }

    /// All nodes, in no order that means something.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Node<'_>> {
        (0..self.nodes.len() as u32).map(|index| Node { zone: self, index })
    }

    /// The node with a number of [`Node::index`].
    pub fn node_at(&self, index: u32) -> Node<'_> {
        Node { zone: self, index }
    }

    /// How the zone proves what it has not.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Octets of memory, but for what the allocator keeps.
    pub fn octets(&self) -> usize {
        self.names.capacity()
            + self.nodes.capacity() * size_of::<Inner>()
            + self.table.capacity() * size_of::<u32>()
            + self.data.capacity()
    }

    fn name_at(&self, at: u32) -> NameRef<'_> {
        stored(&self.names, at)
    }
}

/// A name that a builder has stored.
fn stored(names: &[u8], at: u32) -> NameRef<'_> {
    NameRef::parse(&names[at as usize..]).expect("only names are stored")
}

/// The node of `name`, or the slot where it would go.
fn find(table: &[u32], nodes: &[Inner], names: &[u8], name: NameRef<'_>, hash: u32) -> Result<u32, usize> {
    // The table is a power of two and never more than half full, so the walk ends soon.
    let mask = table.len() - 1;
    let mut slot = hash as usize & mask;
    loop {
        let index = table[slot];
        if index == EMPTY {
            return Err(slot);
        }
        let node = &nodes[index as usize];
        // Equal names have equal lengths, so the comparison needs no walk along the labels.
        let here = &names[node.name as usize..];
        let wire = name.as_wire();
        if node.hash == hash && here.get(..wire.len()).is_some_and(|here| here.eq_ignore_ascii_case(wire)) {
            return Ok(index);
        }
        slot = (slot + 1) & mask;
    }
}

/// Where a record stood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Which file: an index into the reader's list.
    pub file: u16,
    /// Which line, from 1; 0 if it comes from no file.
    pub line: u32,
}

/// Why a record cannot be in the zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// It belongs to somebody else's zone.
    #[error("the name is not in the zone")]
    OutOfZone,
    /// The offsets have 32 bits.
    #[error("the zone has more than 4 GiB")]
    TooLarge,
}

/// Collects records and makes a zone of them.
#[derive(Debug)]
pub struct Builder {
    names: Vec<u8>,
    nodes: Vec<Inner>,
    table: Vec<u32>,
    records: Vec<Entry>,
    rdata: Vec<u8>,
    /// The node of the last record: most records follow one of the same name.
    last: u32,
}

/// A record on its way into a zone.
#[derive(Clone, Copy, Debug)]
struct Entry {
    node: u32,
    rtype: Type,
    ttl: u32,
    /// Where its data begins, with two octets of length.
    rdata: u32,
    place: Place,
}

impl Builder {
    /// An empty zone of this name.
    pub fn new(origin: NameRef<'_>) -> Self {
        let mut builder =
            Self { names: vec![], nodes: vec![], table: vec![EMPTY; 16], records: vec![], rdata: vec![], last: APEX };
        builder.insert(origin, name::hash(origin), APEX);
        builder
    }

    /// The zone's name.
    pub fn origin(&self) -> NameRef<'_> {
        stored(&self.names, 0)
    }

    /// Adds a record. A second one that is the same disappears (RFC 2181 §5).
    pub fn add(
        &mut self,
        owner: NameRef<'_>,
        rtype: Type,
        ttl: u32,
        rdata: &[u8],
        place: Place,
    ) -> Result<(), AddError> {
        if self.rdata.len().max(self.names.len()) > (u32::MAX - 0x2_0000) as usize {
            return Err(AddError::TooLarge);
        }
        if stored(&self.names, self.nodes[self.last as usize].name).as_wire() != owner.as_wire() {
            self.last = self.node_for(owner)?;
        }
        self.records.push(Entry { node: self.last, rtype, ttl, rdata: self.rdata.len() as u32, place });
        self.rdata.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
        self.rdata.extend_from_slice(rdata);
        Ok(())
    }

    /// The node of a name; makes it, and those between it and the apex.
    fn node_for(&mut self, owner: NameRef<'_>) -> Result<u32, AddError> {
        let above = self.origin().label_count();
        if !owner.is_within(self.origin()) {
            return Err(AddError::OutOfZone);
        }
        let suffixes = Suffixes::of(owner);
        let mut node = APEX;
        for (name, hash) in suffixes.from_root().skip(above + 1) {
            node = match find(&self.table, &self.nodes, &self.names, name, hash) {
                Ok(known) => known,
                Err(_) => self.insert(name, hash, node),
            };
        }
        Ok(node)
    }

    fn insert(&mut self, name: NameRef<'_>, hash: u32, parent: u32) -> u32 {
        if (self.nodes.len() + 1) * 2 > self.table.len() {
            let mut table = vec![EMPTY; self.table.len() * 2];
            let mask = table.len() - 1;
            for (index, node) in self.nodes.iter().enumerate() {
                let mut slot = node.hash as usize & mask;
                while table[slot] != EMPTY {
                    slot = (slot + 1) & mask;
                }
                table[slot] = index as u32;
            }
            self.table = table;
        }
        let index = self.nodes.len() as u32;
        if let Err(slot) = find(&self.table, &self.nodes, &self.names, name, hash) {
            self.table[slot] = index;
        }
        if name.as_wire().starts_with(b"\x01*") && index != APEX {
            self.nodes[parent as usize].marks |= WILDCARD;
        }
        self.nodes.push(Inner { name: self.names.len() as u32, parent, hash, data: 0, sets: 0, marks: 0 });
        self.names.extend_from_slice(name.as_wire());
        index
    }

    /// The records one by one, as they were added: no zone is made of them.
    pub fn into_records(self) -> Vec<Record> {
        let record = |entry: &Entry| {
            let at = entry.rdata as usize;
            let octets = usize::from(u16::from_be_bytes([self.rdata[at], self.rdata[at + 1]]));
            Record {
                owner: stored(&self.names, self.nodes[entry.node as usize].name).to_name(),
                rtype: entry.rtype,
                class: Class::IN,
                ttl: entry.ttl,
                rdata: self.rdata[at + 2..at + 2 + octets].to_vec(),
            }
        };
        self.records.iter().map(record).collect()
    }

    /// Makes the zone, and says what is wrong or doubtful about it. With an [`Severity::Error`] among the findings it must
    /// not be served.
    pub fn finish(self) -> (Zone, Vec<Finding>) {
        let Self { names, mut nodes, table, mut records, rdata, .. } = self;
        records.sort_by_key(|record| (record.node, record.rtype));
        let mut data = Vec::with_capacity(rdata.len() + records.len() * SET_HEAD);
        let mut findings = vec![];
        let mut kept = 0;
        for set in records.chunk_by(|one, other| (one.node, one.rtype) == (other.node, other.rtype)) {
            let node = &mut nodes[set[0].node as usize];
            if node.sets == 0 {
                node.data = data.len() as u32;
            }
            node.sets += 1;
            match set[0].rtype {
                Type::NS if set[0].node != APEX => node.marks |= CUT,
                Type::DNAME => node.marks |= DNAME,
                _ => {}
            }
            let head_at = data.len();
            data.extend_from_slice(&[0; SET_HEAD]);
            let mut count = 0_u16;
            let mut seen = HashSet::new();
            for record in set {
                let at = record.rdata as usize;
                let length = usize::from(u16::from_be_bytes([rdata[at], rdata[at + 1]]));
                let framed = &rdata[at..at + 2 + length];
                // RFC 2181 §5: a set has no record twice.
                if set.len() > 1 && !seen.insert(framed) {
                    continue;
                }
                if count == u16::MAX {
                    let text =
                        format!("more than {} {} records: no message can carry them all", u16::MAX, set[0].rtype);
                    let owner = stored(&names, nodes[set[0].node as usize].name).to_name();
                    findings.push(Finding { severity: Severity::Error, owner, place: record.place, text });
                    break;
                }
                data.extend_from_slice(framed);
                count += 1;
            }
            kept += usize::from(count);
            // RFC 2181 §5.2: the TTLs of a set are one; where they differ, the least is safe. RRSIG's follow what they sign.
            let ttl = set.iter().map(|record| record.ttl).min().unwrap_or_default();
            if set.iter().any(|record| record.ttl != ttl) && set[0].rtype != Type::RRSIG {
                let text = format!("the {} records have different TTLs; all get {ttl}", set[0].rtype);
                let owner = stored(&names, nodes[set[0].node as usize].name).to_name();
                findings.push(Finding { severity: Severity::Warning, owner, place: set[0].place, text });
            }
            let octets = (data.len() - head_at - SET_HEAD) as u32;
            let head = [
                &set[0].rtype.0.to_be_bytes()[..],
                &ttl.to_be_bytes()[..],
                &count.to_be_bytes()[..],
                &octets.to_be_bytes()[..],
            ];
            data[head_at..head_at + SET_HEAD].copy_from_slice(&head.concat());
        }
        data.shrink_to_fit();
        let mut zone = Zone {
            names,
            nodes,
            table,
            data,
            records: kept,
            negative_ttl: 0,
            order: OnceLock::new(),
            chain: Chain::None,
        };
        // Not at the first question: whoever asks it would wait for the whole zone to be sorted.
        zone.chain = Chain::of(&zone);
        zone.negative_ttl = zone.apex().set(Type::SOA).map_or(0, |soa| {
            let minimum = soa.records().next().and_then(|rdata| rdata.last_chunk::<4>()).copied().unwrap_or_default();
            soa.ttl.min(u32::from_be_bytes(minimum))
        });
        check(&zone, &records, &mut findings);
        (zone, findings)
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It works, and is perhaps not meant.
    Warning,
    /// The zone cannot be served.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Something wrong or doubtful about a zone as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// At which name.
    pub owner: Name,
    /// Where the record stands.
    pub place: Place,
    /// What is wrong and what would be right.
    pub text: String,
}

/// What can only be seen when all records are there.
fn check(zone: &Zone, records: &[Entry], findings: &mut Vec<Finding>) {
    let mut find = |severity, node: Node<'_>, place, text: String| {
        findings.push(Finding { severity, owner: node.name().to_name(), place, text });
    };
    let apex = zone.apex();
    match apex.set(Type::SOA).map(RrSet::len) {
        Some(1) => {}
        None => find(Severity::Error, apex, Place::default(), "there is no SOA record for the zone's name".to_owned()),
        Some(count) => {
            let place = records[0].place;
            find(Severity::Error, apex, place, format!("there are {count} SOA records; a zone has one"));
        }
    }
    if apex.set(Type::NS).is_none() {
        find(Severity::Error, apex, Place::default(), "there is no NS record for the zone's name".to_owned());
    }
    for set in records.chunk_by(|one, other| (one.node, one.rtype) == (other.node, other.rtype)) {
        let (node, place) = (Node { zone, index: set[0].node }, set[0].place);
        match set[0].rtype {
            Type::SOA if !node.is_apex() => {
                let text = format!("SOA stands at the zone's own name only, which is {}", zone.name());
                find(Severity::Error, node, place, text);
            }
            Type::CNAME => {
                // RFC 2181 §10.1: an alias has no other data, but for what DNSSEC says about it (RFC 4034 §3 and §4).
                let other = node.sets().find(|s| ![Type::CNAME, Type::RRSIG, Type::NSEC, Type(25)].contains(&s.rtype));
                if let Some(other) = other {
                    let text = format!("a CNAME and {} at the same name: an alias has no other data", other.rtype);
                    find(Severity::Error, node, place, text);
                }
                if node.set(Type::CNAME).is_some_and(|set| set.len() > 1) {
                    find(Severity::Error, node, place, "more than one CNAME: an alias has one target".to_owned());
                }
            }
            // RFC 6672 §2.4.
            Type::DNAME if node.set(Type::DNAME).is_some_and(|set| set.len() > 1) => {
                find(Severity::Error, node, place, "more than one DNAME: a name has one".to_owned());
            }
            rtype @ (Type::NS | Type::MX | Type::SRV) => {
                let Some(set) = node.set(rtype) else { continue };
                for target in set.records().filter_map(|rdata| rdata::target(rtype, rdata)) {
                    if let Some((severity, text)) = doubt_target(zone, node, rtype, target) {
                        find(severity, node, place, text);
                    }
                }
            }
            _ => {}
        }
    }
}

/// What is wrong with where a record leads, as far as this zone can know.
fn doubt_target(zone: &Zone, node: Node<'_>, rtype: Type, target: NameRef<'_>) -> Option<(Severity, String)> {
    // RFC 7505: `MX 0 .` says that there is no mail; SRV has the same (RFC 2782).
    if target.is_root() || !target.is_within(zone.name()) {
        return None;
    }
    let Some(found) = zone.node(target) else {
        let encloser = Suffixes::of(target);
        let above = (0..encloser.count()).rev().find_map(|labels| zone.node(encloser.suffix(labels)));
        let covered = above.is_some_and(|above| above.wildcard().is_some() || above.has_dname());
        let below_other_cut = std::iter::successors(above, |node| node.parent()).any(Node::is_cut);
        if covered || below_other_cut && !(rtype == Type::NS && target.is_within(node.name())) {
            return None;
        }
        // Without an address, nobody can reach the server that knows the address.
        return Some(if rtype == Type::NS {
            (Severity::Error, format!("{target} has no address here (glue): add `{target} A ...`"))
        } else {
            (Severity::Warning, format!("{rtype} leads to {target}, which does not exist"))
        });
    };
    // RFC 2181 §10.3: what NS and MX lead to must not be an alias.
    if found.set(Type::CNAME).is_some() {
        return Some((Severity::Warning, format!("{rtype} leads to {target}, which is an alias; name its target")));
    }
    let has_address = found.set(Type::A).is_some() || found.set(Type::AAAA).is_some();
    (!has_address && !found.is_cut()).then(|| match rtype {
        Type::NS => (Severity::Error, format!("{target} has no address here (glue): add `{target} A ...`")),
        _ => (Severity::Warning, format!("{rtype} leads to {target}, which has no address")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn zone() -> Zone {
        let mut builder = Builder::new(name("fr").borrow());
        let place = Place::default();
        let soa = [&b"\x01a\0\x01b\0"[..], &[0; 16], &60_u32.to_be_bytes()].concat();
        builder.add(name("fr").borrow(), Type::SOA, 3600, &soa, place).unwrap();
        builder.add(name("fr").borrow(), Type::NS, 3600, b"\x01a\x03net\0", place).unwrap();
        for (owner, rtype, rdata) in [
            ("a.b.c.fr", Type::A, &[10, 0, 0, 1][..]),
            ("A.b.c.fr", Type::A, &[10, 0, 0, 2]),
            ("a.b.c.fr", Type::A, &[10, 0, 0, 1]),
            ("*.w.fr", Type::TXT, b"\x01x"),
            ("crepes.fr", Type::NS, b"\x01a\x03net\0"),
        ] {
            builder.add(name(owner).borrow(), rtype, 300, rdata, place).unwrap();
        }
        assert_eq!(builder.add(name("edu").borrow(), Type::A, 1, &[1, 2, 3, 4], place), Err(AddError::OutOfZone));
        let (zone, findings) = builder.finish();
        assert_eq!(findings, []);
        zone
    }

    #[test]
    fn names_between_two_names_exist_and_have_no_data() {
        let zone = zone();
        for (text, sets) in [("fr", Some(2)), ("c.fr", Some(0)), ("B.C.FR", Some(0)), ("x.fr", None), ("edu", None)] {
            assert_eq!(zone.node(name(text).borrow()).map(|node| node.sets().count()), sets, "{text}");
        }
    }

    #[test]
    fn a_set_has_each_record_once_and_case_makes_no_second_name() {
        let zone = zone();
        let set = zone.node(name("a.b.c.fr").borrow()).unwrap().set(Type::A).unwrap();
        assert_eq!(set.records().collect::<Vec<_>>(), [[10, 0, 0, 1], [10, 0, 0, 2]]);
        assert_eq!((set.len(), zone.len()), (2, 6));
    }

    #[test]
    fn cuts_and_wildcards_are_marked_and_the_negative_ttl_is_the_lesser() {
        let zone = zone();
        assert!(zone.node(name("crepes.fr").borrow()).unwrap().is_cut());
        assert!(!zone.apex().is_cut());
        let above = zone.node(name("w.fr").borrow()).unwrap();
        assert_eq!(above.wildcard().unwrap().name(), name("*.w.fr").borrow());
        assert_eq!(zone.negative_soa().unwrap().ttl, 60);
    }

    #[test]
    fn nodes_can_be_had_in_canonical_order() {
        let zone = zone();
        let names: Vec<String> = zone.in_order().map(|node| node.name().to_string()).collect();
        assert_eq!(names, ["fr.", "c.fr.", "b.c.fr.", "a.b.c.fr.", "crepes.fr.", "w.fr.", "*.w.fr."]);
    }
}
