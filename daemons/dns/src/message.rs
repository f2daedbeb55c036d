//! Messages: a query is read where it lies, an answer is written into the caller's buffer.
//!
//! ```text
//!   +----+-------------------+---------+---------+---------+---------+
//!   | id | qr opcode aa tc   | QDCOUNT | ANCOUNT | NSCOUNT | ARCOUNT |   header, 12 octets (RFC 1035 §4.1.1)
//!   |    | rd ra z ad cd rc  |         |         |         |         |
//!   +----+-------------------+---------+---------+---------+---------+
//!   | question: name, type, class                                    |   exactly one, in a query that we answer
//!   +----------------------------------------------------------------+
//!   | answer, authority, additional: records                         |   in a query only OPT and TSIG, in the last
//!   +----------------------------------------------------------------+
//! ```
//!
//! [`receive`] has an opinion about any octets: a [`Query`], a [`Malformed`] that is answered with its RCODE, or silence.

use crate::{
    name::{NAME_OCTETS_MAX, Name, NameError, NameRef, Suffixes},
    rdata::{self, Class, Type},
    zone::RrSet,
};
use std::{cell::RefCell, fmt};

/// RFC 1035 §4.1.1.
pub const HEADER_OCTETS: usize = 12;
/// What a client without EDNS takes over UDP (RFC 1035 §4.2.1).
pub const UDP_OCTETS_PLAIN: usize = 512;
/// The root's name, type, class, TTL and length: OPT without options (RFC 6891 §6.1.2).
const OPT_OCTETS: usize = 11;
/// Name server identifier (RFC 5001).
pub const NSID: u16 = 3;
/// How long an idle connection stays (RFC 7828).
pub const KEEPALIVE: u16 = 11;
/// Octets that say nothing (RFC 7830).
pub const PADDING: u16 = 12;
/// Extended DNS error (RFC 8914).
pub const EXPLANATION: u16 = 15;
/// The text of an explanation is for people, who read a line.
const EXPLANATION_OCTETS_MAX: usize = 120;
/// The bit of OPT's flags that asks for DNSSEC records (RFC 3225).
const DO: u16 = 0x8000;

const QR: u16 = 0x8000;
const AA: u16 = 0x0400;
const TC: u16 = 0x0200;
const RD: u16 = 0x0100;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;

/// What a message is about (RFC 1035 §4.1.1, RFC 6895 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opcode(pub u8);

impl Opcode {
    /// A standard query.
    pub const QUERY: Opcode = Opcode(0);
    /// "Your copy of the zone is old" (RFC 1996).
    pub const NOTIFY: Opcode = Opcode(4);
    /// A change of a zone (RFC 2136).
    pub const UPDATE: Opcode = Opcode(5);
}

/// How it went (RFC 1035 §4.1.1, RFC 6895 §2.3). Those above 15 need EDNS.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

#[expect(missing_docs, reason = "they are the RFCs' own names")]
impl Rcode {
    pub const NOERROR: Rcode = Rcode(0);
    pub const FORMERR: Rcode = Rcode(1);
    pub const SERVFAIL: Rcode = Rcode(2);
    pub const NXDOMAIN: Rcode = Rcode(3);
    pub const NOTIMP: Rcode = Rcode(4);
    pub const REFUSED: Rcode = Rcode(5);
    pub const YXDOMAIN: Rcode = Rcode(6);
    pub const YXRRSET: Rcode = Rcode(7);
    pub const NXRRSET: Rcode = Rcode(8);
    pub const NOTAUTH: Rcode = Rcode(9);
    pub const NOTZONE: Rcode = Rcode(10);
    pub const BADVERS: Rcode = Rcode(16);
    /// RFC 7873 §8: others say it; we never do.
    pub const BADCOOKIE: Rcode = Rcode(23);
    /// All that we give.
    pub const ALL: [Rcode; 12] = [
        Rcode::NOERROR,
        Rcode::FORMERR,
        Rcode::SERVFAIL,
        Rcode::NXDOMAIN,
        Rcode::NOTIMP,
        Rcode::REFUSED,
        Rcode::YXDOMAIN,
        Rcode::YXRRSET,
        Rcode::NXRRSET,
        Rcode::NOTAUTH,
        Rcode::NOTZONE,
        Rcode::BADVERS,
    ];
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Rcode::NOERROR => "NOERROR",
            Rcode::FORMERR => "FORMERR",
            Rcode::SERVFAIL => "SERVFAIL",
            Rcode::NXDOMAIN => "NXDOMAIN",
            Rcode::NOTIMP => "NOTIMP",
            Rcode::REFUSED => "REFUSED",
            Rcode::YXDOMAIN => "YXDOMAIN",
            Rcode::YXRRSET => "YXRRSET",
            Rcode::NXRRSET => "NXRRSET",
            Rcode::NOTAUTH => "NOTAUTH",
            Rcode::NOTZONE => "NOTZONE",
            Rcode::BADVERS => "BADVERS",
            Rcode::BADCOOKIE => "BADCOOKIE",
            Rcode(number) => return write!(f, "RCODE{number}"),
        })
    }
}

impl fmt::Debug for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The first twelve octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Chosen by the client, repeated by us.
    pub id: u16,
    flags: u16,
}

impl Header {
    /// Reads the first twelve octets.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let (id, flags) = u16_at(message, 0).zip(u16_at(message, 2))?;
        (message.len() >= HEADER_OCTETS).then_some(Self { id, flags })
    }

    /// Whether this is an answer.
    pub fn is_response(self) -> bool {
        self.flags & QR != 0
    }

    /// Whether the answer is cut off.
    pub fn is_truncated(self) -> bool {
        self.flags & TC != 0
    }

    /// Whether the answer is an authority's.
    pub fn is_authoritative(self) -> bool {
        self.flags & AA != 0
    }

    /// How it went, in an answer; the four bits of it that stand in the header.
    pub fn rcode(self) -> Rcode {
        Rcode(self.flags & 0xf)
    }

    /// What the message is about.
    pub fn opcode(self) -> Opcode {
        Opcode((self.flags >> 11) as u8 & 0xf)
    }

    /// Whether all that is said has been validated; in a query, whether the client wants to know (RFC 6840 §5.7).
    pub fn authentic_data(self) -> bool {
        self.flags & AD != 0
    }

    /// Whether the client validates itself (RFC 4035 §3.2.2).
    pub fn checking_disabled(self) -> bool {
        self.flags & CD != 0
    }

    /// Whether the client wants us to ask on.
    pub fn recursion_desired(self) -> bool {
        self.flags & RD != 0
    }
}

/// EDNS(0), as the client speaks it (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns<'a> {
    /// The largest datagram that it takes.
    pub udp_octets: u16,
    /// Whether it wants DNSSEC records.
    pub dnssec_ok: bool,
    /// The options, as they stand; their lengths add up.
    pub options: &'a [u8],
}

impl<'a> Edns<'a> {
    /// The options: code and data.
    pub fn options(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        options(self.options)
    }
}

/// The options of an OPT record's data.
pub(crate) fn options(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (code, length) = (u16_at(rest, 0)?, usize::from(u16_at(rest, 2)?));
        let data = rest.get(4..4 + length)?;
        rest = &rest[4 + length..];
        Some((code, data))
    })
}

/// A well-formed query with one question.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Id and flags.
    pub header: Header,
    /// The name asked for, in the client's own case.
    pub name: NameRef<'a>,
    /// The type asked for.
    pub qtype: Type,
    /// The class asked for.
    pub class: Class,
    /// EDNS, if the client speaks it.
    pub edns: Option<Edns<'a>>,
    /// Where the TSIG record begins, if there is one: what is signed ends there (RFC 8945 §4.3).
    pub tsig_at: Option<usize>,
}

impl Query<'_> {
    /// Whether the answer needs more than a look at the zones: a key to be checked, or a zone to be copied.
    pub fn is_errand(&self) -> bool {
        self.tsig_at.is_some() || [Type::AXFR, Type::IXFR].contains(&self.qtype)
    }
}

/// A message that is answered with an error, and with what of it could be read.
#[derive(Clone, Copy, Debug)]
pub struct Malformed<'a> {
    /// Id and flags.
    pub header: Header,
    /// FORMERR, NOTIMP or BADVERS; NOERROR for a message that asks for a cookie and nothing else.
    pub rcode: Rcode,
    /// The question, where it could be read.
    pub question: Option<(NameRef<'a>, Type, Class)>,
    /// Whether an OPT record was seen: then the answer has one too (RFC 6891 §7).
    pub edns: Option<Edns<'a>>,
    /// For whoever watches.
    pub because: &'static str,
}

/// What came.
#[derive(Clone, Copy, Debug)]
pub enum Received<'a> {
    /// A query.
    Query(Query<'a>),
    /// NOTIFY and UPDATE: not a question; nothing but the header has been looked at.
    Errand(Header),
    /// Something that gets an error for an answer.
    Malformed(Malformed<'a>),
    /// Something that gets none, with the reason.
    Silence(&'static str),
}

fn u16_at(octets: &[u8], at: usize) -> Option<u16> {
    octets.get(at..at + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// Reads a message that came to a server.
pub fn receive(message: &[u8]) -> Received<'_> {
    // Without an id there is nothing that a client could tell our answer by.
    let Some((id, flags)) = u16_at(message, 0).zip(u16_at(message, 2)).filter(|_| message.len() >= HEADER_OCTETS)
    else {
        return Received::Silence("shorter than a header");
    };
    let header = Header { id, flags };
    // Two servers that answered each other's answers would never stop.
    if flags & QR != 0 {
        return Received::Silence("a response, where a query should be");
    }
    let error =
        |rcode, question, edns, because| Received::Malformed(Malformed { header, rcode, question, edns, because });
    if [Opcode::NOTIFY, Opcode::UPDATE].contains(&header.opcode()) {
        return Received::Errand(header);
    }
    if header.opcode() != Opcode::QUERY {
        return error(Rcode::NOTIMP, None, None, "an opcode that we do not serve");
    }
    let count = |at| u16_at(message, at).unwrap_or(0);
    let (mut at, mut question) = (HEADER_OCTETS, None);
    let formerr = |because| error(Rcode::FORMERR, question, None, because);
    // RFC 9619: a query has exactly one question, but for one that asks for a cookie.
    if count(4) > 1 {
        return formerr("not exactly one question");
    }
    if count(4) == 1 {
        // A pointer could only point at the header here, or at itself: no name stands before it (RFC 1035 §4.1.4).
        let Ok(name) = NameRef::parse(&message[at..]) else { return formerr("the name asked for is malformed") };
        at += name.as_wire().len();
        let Some((qtype, class)) = u16_at(message, at).zip(u16_at(message, at + 2)) else {
            return formerr("the question is cut off");
        };
        at += 4;
        question = Some((name, Type(qtype), Class(class)));
    }
    let formerr = |because| error(Rcode::FORMERR, question, None, because);
    // RFC 1035 §4.1.1 lets nothing but questions stand in a standard query; IXFR's SOA is of another opcode's kin and is
    // told apart by its type (RFC 1995 §3).
    let before_additional = usize::from(count(6)) + usize::from(count(8));
    if before_additional > 0 && question.is_none_or(|(_, qtype, _)| qtype != Type::IXFR) {
        return formerr("records where a query has none");
    }
    let (mut opt, mut tsig_at) = (None, None);
    let records = before_additional + usize::from(count(10));
    for number in 0..records {
        let Some(record) = Record::read(message, at) else { return formerr("a record is malformed or cut off") };
        if record.rtype == Type::OPT {
            // RFC 6891 §6.1.1: one at most, in the additional section, with the root for its name.
            if number < before_additional || opt.is_some() || record.end_of_name != at + 1 || message[at] != 0 {
                return formerr("OPT stands twice, or elsewhere, or has a name");
            }
            opt = Some(record);
        } else if record.rtype == Type::TSIG {
            // RFC 8945 §5.1: the last record of the message, and the only one.
            if number + 1 != records {
                return formerr("TSIG is not the last record");
            }
            tsig_at = Some(at);
        }
        at = record.end;
    }
    if at != message.len() {
        return formerr("octets behind the end of the message");
    }
    let mut edns = None;
    if let Some(opt) = opt {
        let spoken = Edns {
            udp_octets: opt.class,
            dnssec_ok: opt.ttl as u16 & DO != 0,
            options: &message[opt.end_of_head..opt.end],
        };
        // RFC 6891 §6.1.3: "BADVERS" for a version that we do not speak, whatever else it may mean there.
        if opt.ttl >> 16 & 0xff != 0 {
            return error(Rcode::BADVERS, question, Some(spoken), "an EDNS version above 0");
        }
        let octets: usize = spoken.options().map(|(_, data)| 4 + data.len()).sum();
        if octets != spoken.options.len() {
            return error(Rcode::FORMERR, question, Some(spoken), "an EDNS option is cut off");
        }
        edns = Some(spoken);
    }
    let Some((name, qtype, class)) = question else {
        // RFC 7873 §5.4: a message without a question may ask for a cookie, and for nothing else.
        let asks = edns.is_some_and(|edns| edns.options().any(|(code, _)| code == crate::cookie::OPTION));
        return if asks && tsig_at.is_none() {
            error(Rcode::NOERROR, None, edns, "it asks for a cookie and nothing else")
        } else {
            error(Rcode::FORMERR, None, edns, "not exactly one question")
        };
    };
    Received::Query(Query { header, name, qtype, class, edns, tsig_at })
}

/// One record's head, and where its parts end.
#[derive(Clone, Copy, Debug)]
struct Record {
    rtype: Type,
    class: u16,
    ttl: u32,
    end_of_name: usize,
    end_of_head: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], at: usize) -> Option<Record> {
        let end_of_name = skip_name(message, at)?;
        let head = message.get(end_of_name..end_of_name + 10)?;
        let end_of_head = end_of_name + 10;
        let end = end_of_head + usize::from(u16_at(head, 8)?);
        (end <= message.len()).then_some(Record {
            rtype: Type(u16_at(head, 0)?),
            class: u16_at(head, 2)?,
            ttl: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            end_of_name,
            end_of_head,
            end,
        })
    }
}

/// Where a name ends that may be compressed.
fn skip_name(message: &[u8], at: usize) -> Option<usize> {
    read_name(message, at).ok().map(|(_, end)| end)
}

/// Reads a name that may be compressed, and says where it ends.
///
/// Each pointer must lead to an earlier place than the one before it (RFC 1035 §4.1.4: "a prior occurrence"), so there is an end
/// to them.
pub fn read_name(message: &[u8], at: usize) -> Result<(Name, usize), NameError> {
    let mut wire = [0; NAME_OCTETS_MAX];
    let (mut length, mut at, mut end, mut before) = (0, at, None, at);
    loop {
        let octet = usize::from(*message.get(at).ok_or(NameError::CutOff)?);
        match octet {
            0xc0..=0xff => {
                let low = usize::from(*message.get(at + 1).ok_or(NameError::CutOff)?);
                end = end.or(Some(at + 2));
                at = (octet & 0x3f) << 8 | low;
                if at >= before || at < HEADER_OCTETS {
                    return Err(NameError::CutOff);
                }
                before = at;
            }
            0..=63 => {
                let label = message.get(at..=at + octet).ok_or(NameError::CutOff)?;
                wire.get_mut(length..length + label.len()).ok_or(NameError::NameTooLong)?.copy_from_slice(label);
                length += label.len();
                at += label.len();
                if octet == 0 {
                    return Ok((NameRef::parse(&wire[..length])?.to_name(), end.unwrap_or(at)));
                }
            }
            // 01 and 10 in the upper bits are reserved.
            _ => return Err(NameError::LabelTooLong),
        }
    }
}

/// The three sections of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "they are the RFC's own names")]
pub enum Section {
    Answer,
    Authority,
    Additional,
}

/// Whether a set of records was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Fit {
    /// All of it.
    Whole,
    /// Nothing of it: there was no room.
    NoRoom,
}

/// Gives `write` a buffer of `octets_max`, 65,535 at most, and returns as much of it as it says. The buffer is the thread's: an answer
/// of a hundred octets is then a small piece of memory, although it might have become a large one.
pub fn written(octets_max: usize, write: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    thread_local! {
        static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; usize::from(u16::MAX)].into());
    }
    ROOM.with_borrow_mut(|room| {
        let octets = write(&mut room[..octets_max]);
        room[..octets].to_vec()
    })
}

/// How many places of a message are remembered for compression.
const PLACES_MAX: usize = 48;

/// Writes an answer: header and question first, then whole sets of records in the order of the sections, then OPT.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    /// How much of the buffer may be used for records; OPT's room is already taken off.
    limit: usize,
    at: usize,
    /// Names written so far: hash of the name, and where it stands.
    places: [(u32, u16); PLACES_MAX],
    places_count: usize,
    counts: [u16; 3],
    flags: u16,
    rcode: Rcode,
    edns: Option<Opt>,
}

/// The OPT record of an answer.
struct Opt {
    udp_octets: u16,
    flags: u16,
    options: Vec<u8>,
    /// The message's size becomes a multiple of this.
    block: Option<usize>,
}

/// No room for what was to be written.
struct Full;

impl<'b> Writer<'b> {
    /// Begins an answer in `buffer`, which has room for at least 512 octets, with `octets_max` for the whole message.
    pub fn new(buffer: &'b mut [u8], octets_max: usize, header: Header) -> Self {
        let limit = octets_max.min(buffer.len()).min(usize::from(u16::MAX));
        // RFC 1035 §4.1.1: id, opcode and RD are the client's. RFC 4035 §3.1.6: so is CD.
        let flags = QR | header.flags & (0x7800 | RD | CD);
        buffer[..HEADER_OCTETS].fill(0);
        buffer[..2].copy_from_slice(&header.id.to_be_bytes());
        Self {
            buffer,
            limit,
            at: HEADER_OCTETS,
            places: [(0, 0); PLACES_MAX],
            places_count: 0,
            counts: [0; 3],
            flags,
            rcode: Rcode::NOERROR,
            edns: None,
        }
    }

    /// Keeps room for an OPT record, which [`Writer::finish`] writes: a responder includes one exactly if the query had one
    /// (RFC 6891 §6.1.1, §7). `udp_octets` is what we take ourselves.
    pub fn edns(&mut self, client: Edns<'_>, udp_octets: u16) {
        self.limit -= OPT_OCTETS;
        // RFC 3225 §3: DO is copied.
        let flags = if client.dnssec_ok { DO } else { 0 };
        self.edns = Some(Opt { udp_octets, flags, options: vec![], block: None });
    }

    /// An option of OPT; nothing, if the client does not speak EDNS, there is no room, or it stands there already: who asks for
    /// something forty times gets it once.
    pub fn option(&mut self, code: u16, data: &[u8]) {
        let Some(opt) = &mut self.edns else { return };
        let octets = 4 + data.len();
        if self.at + octets > self.limit || options(&opt.options).any(|(known, _)| known == code) {
            return;
        }
        self.limit -= octets;
        opt.options.extend_from_slice(&code.to_be_bytes());
        opt.options.extend_from_slice(&(data.len() as u16).to_be_bytes());
        opt.options.extend_from_slice(data);
    }

    /// Makes the message's size a multiple of `block`, so that an encrypted answer does not tell by its length what it is
    /// (RFC 7830, RFC 8467 §4.1).
    pub fn pad_to(&mut self, block: usize) {
        if let Some(opt) = &mut self.edns {
            opt.block = Some(block);
        }
    }

    /// How it went.
    pub fn rcode(&mut self, rcode: Rcode) {
        self.rcode = rcode;
    }

    /// We are the authority for the name asked for (or for the first alias).
    pub fn authoritative(&mut self) {
        self.flags |= AA;
    }

    /// We ask others for those who ask us (RFC 1035 §4.1.1).
    pub fn recursion_available(&mut self) {
        self.flags |= RA;
    }

    /// All that is said has been validated (RFC 4035 §3.2.3).
    pub fn authentic(&mut self) {
        self.flags |= AD;
    }

    /// Says more than RCODE can (RFC 8914): a code, and words for people.
    pub fn explain(&mut self, code: u16, text: &str) {
        let text = &text.as_bytes()[..text.len().min(EXPLANATION_OCTETS_MAX)];
        self.option(EXPLANATION, &[&code.to_be_bytes()[..], text].concat());
    }

    /// Repeats the question. Its name becomes the place that most owners point to.
    pub fn question(&mut self, name: NameRef<'_>, qtype: Type, class: Class) {
        let write = |writer: &mut Self| {
            writer.name(name)?;
            writer.put(&qtype.0.to_be_bytes())?;
            writer.put(&class.0.to_be_bytes())
        };
        // Twelve octets, 255 for the name, four for the rest: less than the 512 that any buffer has.
        let begin = (self.at, self.places_count);
        if write(self).is_ok() {
            self.buffer[5] = 1;
        } else {
            (self.at, self.places_count) = begin;
        }
    }

    /// Writes a set of records, `first` of them first and then around, or nothing at all (RFC 2181 §9: a client must not
    /// take a part of a set for the whole). `signed` is the RRSIG set of the owner and the type that is covered: signatures go
    /// with what they sign, and have its TTL (RFC 4035 §2.2).
    pub fn set(
        &mut self,
        section: Section,
        owner: NameRef<'_>,
        class: Class,
        set: RrSet<'_>,
        first: usize,
        signed: Option<(RrSet<'_>, Type)>,
    ) -> Fit {
        let begin = (self.at, self.places_count);
        let count = set.len();
        let first = if count > 0 { first % count } else { 0 };
        let turned = set.records().skip(first).chain(set.records().take(first));
        let signatures = signed.into_iter().flat_map(|(signatures, covered)| {
            signatures.records().filter(move |rdata| rdata.starts_with(&covered.0.to_be_bytes()))
        });
        let all = turned.map(|rdata| (set.rtype, rdata)).chain(signatures.map(|rdata| (Type::RRSIG, rdata)));
        let mut written = 0;
        for (rtype, rdata) in all {
            if self.record(owner, rtype, class, set.ttl, rdata).is_err() {
                (self.at, self.places_count) = begin;
                return Fit::NoRoom;
            }
            written += 1;
        }
        self.counts[section as usize] += written;
        Fit::Whole
    }

    /// Writes one record by itself: in a transfer a set may be cut by the end of a message (RFC 5936 §2.2).
    pub fn lone(
        &mut self,
        section: Section,
        owner: NameRef<'_>,
        rtype: Type,
        class: Class,
        ttl: u32,
        rdata: &[u8],
    ) -> Fit {
        let begin = (self.at, self.places_count);
        if self.record(owner, rtype, class, ttl, rdata).is_err() {
            (self.at, self.places_count) = begin;
            return Fit::NoRoom;
        }
        self.counts[section as usize] += 1;
        Fit::Whole
    }

    /// Something that the client must know had no room: it shall ask again over TCP (RFC 1035 §4.1.1).
    pub fn truncate(&mut self) {
        self.flags |= TC;
    }

    /// Completes header and OPT; returns how many octets the message has.
    pub fn finish(self) -> usize {
        let Self { buffer, mut at, mut counts, flags, rcode, edns, .. } = self;
        if let Some(Opt { udp_octets, flags, mut options, block }) = edns {
            let unpadded = at + OPT_OCTETS + options.len() + 4;
            // RFC 7830 §3: padding is optional, and a message that is full has no room for it.
            if let Some(block) = block.filter(|_| unpadded <= buffer.len()) {
                let zeros = (unpadded.next_multiple_of(block) - unpadded).min(buffer.len().saturating_sub(unpadded));
                options.extend_from_slice(&PADDING.to_be_bytes());
                options.extend_from_slice(&(zeros as u16).to_be_bytes());
                options.resize(options.len() + zeros, 0);
            }
            // RFC 6891 §6.1.3: OPT's TTL holds the upper bits of RCODE, the version, and the flags.
            let [upper, _] = (rcode.0 << 4).to_be_bytes();
            let [size, flags, length] = [udp_octets, flags, options.len() as u16].map(u16::to_be_bytes);
            let opt = [0, 0, 41, size[0], size[1], upper, 0, flags[0], flags[1], length[0], length[1]];
            buffer[at..at + OPT_OCTETS].copy_from_slice(&opt);
            at += OPT_OCTETS;
            buffer[at..at + options.len()].copy_from_slice(&options);
            at += options.len();
            counts[2] += 1;
        }
        buffer[2..4].copy_from_slice(&(flags | rcode.0 & 0xf).to_be_bytes());
        for (count, place) in counts.iter().zip([6, 8, 10]) {
            buffer[place..place + 2].copy_from_slice(&count.to_be_bytes());
        }
        at
    }

    fn record(&mut self, owner: NameRef<'_>, rtype: Type, class: Class, ttl: u32, rdata: &[u8]) -> Result<(), Full> {
        self.name(owner)?;
        self.put(&rtype.0.to_be_bytes())?;
        self.put(&class.0.to_be_bytes())?;
        self.put(&ttl.to_be_bytes())?;
        let length_at = self.at;
        self.put(&[0, 0])?;
        // RFC 3597 §4: names are compressed in the types of RFC 1035 only; a resolver need not know the others.
        let (before, names) = rdata::compressible(rtype);
        let (fixed, mut rest) = rdata.split_at_checked(before).unwrap_or((rdata, &[]));
        self.put(fixed)?;
        for _ in 0..names {
            let Ok(name) = NameRef::parse(rest) else { break };
            self.name(name)?;
            rest = &rest[name.as_wire().len()..];
        }
        self.put(rest)?;
        let length = (self.at - length_at - 2) as u16;
        self.buffer[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Writes a name: the labels that are new, then a pointer to where the rest stands already.
    ///
    /// Names that differ in case only are one (RFC 4343 §4.1 allows it), so an owner shows the question's case.
    fn name(&mut self, name: NameRef<'_>) -> Result<(), Full> {
        let suffixes = Suffixes::of(name);
        let mut hashes = [0; crate::name::LABELS_MAX + 1];
        for (labels, (_, hash)) in suffixes.from_root().enumerate() {
            hashes[labels] = hash;
        }
        // The longest suffix that stands in the message already.
        let mut known = None;
        for labels in (1..=suffixes.count()).rev() {
            let place = self.places[..self.places_count].iter().find(|(hash, at)| {
                *hash == hashes[labels] && self.stands_at(usize::from(*at), suffixes.suffix(labels))
            });
            if let Some((_, at)) = place {
                known = Some((labels, *at));
                break;
            }
        }
        let known_labels = known.map_or(0, |(labels, _)| labels);
        let new_octets = name.as_wire().len() - suffixes.suffix(known_labels).as_wire().len();
        for labels in (known_labels + 1..=suffixes.count()).rev() {
            let at = self.at + name.as_wire().len() - suffixes.suffix(labels).as_wire().len();
            // A pointer has 14 bits.
            if self.places_count < PLACES_MAX && at < 0x4000 {
                self.places[self.places_count] = (hashes[labels], at as u16);
                self.places_count += 1;
            }
        }
        self.put(&name.as_wire()[..new_octets])?;
        match known {
            Some((_, at)) => self.put(&(0xc000 | at).to_be_bytes()),
            None => self.put(&[0]),
        }
    }

    /// Whether `name` stands at a place of the message, perhaps compressed. We wrote what stands there.
    fn stands_at(&self, mut at: usize, name: NameRef<'_>) -> bool {
        let mut labels = name.labels();
        loop {
            let octet = usize::from(self.buffer[at]);
            if octet >= 0xc0 {
                at = (octet & 0x3f) << 8 | usize::from(self.buffer[at + 1]);
                continue;
            }
            let here = &self.buffer[at + 1..=at + octet];
            match labels.next() {
                None => return octet == 0,
                Some(label) if label.eq_ignore_ascii_case(here) => at += 1 + octet,
                Some(_) => return false,
            }
        }
    }

    fn put(&mut self, octets: &[u8]) -> Result<(), Full> {
        let end = self.at + octets.len();
        if end > self.limit {
            return Err(Full);
        }
        self.buffer[self.at..end].copy_from_slice(octets);
        self.at = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7830 §3: padding fills what is left, and where not even an empty option fits there is none.
    #[test]
    fn padding_never_makes_a_message_longer_than_it_may_be() {
        let header = Header::parse(&[0; HEADER_OCTETS]).unwrap();
        let client = Edns { udp_octets: 1232, dnssec_ok: false, options: &[] };
        for used in 450..=512 - OPT_OCTETS {
            let mut buffer = [0; 512];
            let mut writer = Writer::new(&mut buffer, 512, header);
            writer.edns(client, 1232);
            writer.pad_to(128);
            // As many octets of records.
            writer.at = used;
            let octets = writer.finish();
            let fits = used + OPT_OCTETS + 4 <= 512;
            assert_eq!(octets, if fits { 512 } else { used + OPT_OCTETS }, "{used}");
        }
    }
}
