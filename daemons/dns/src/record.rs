//! Records by themselves: out of a message, and on paper.
//!
//! A query is read where it lies ([`crate::message`]). What UPDATE, NOTIFY and transfers carry is kept for longer, so
//! here every record owns its octets, with names unpacked, and can be written as a line of a master file:
//!
//! ```text
//!   www.crepes.fr. 3600 IN A 10.77.1.80
//! ```

use crate::{
    message::{self, HEADER_OCTETS, Header, Rcode, read_name},
    name::{Name, NameRef},
    rdata::{self, Class, Field, Type},
    service,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
};

/// RFC 2181 §8: a TTL has 31 bits.
pub const TTL_MAX: u32 = 0x7fff_ffff;

/// One record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// Whose it is.
    pub owner: Name,
    /// Its type.
    pub rtype: Type,
    /// IN; in an UPDATE also ANY and NONE.
    pub class: Class,
    /// Seconds that it may be cached.
    pub ttl: u32,
    /// Its data, without compression.
    pub rdata: Vec<u8>,
}

/// A message with all its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Id and flags.
    pub header: Header,
    /// The questions; in an UPDATE the zone (RFC 2136 §2.3).
    pub questions: Vec<(Name, Type, Class)>,
    /// Answers; in an UPDATE the prerequisites.
    pub answers: Vec<Record>,
    /// Authority; in an UPDATE the changes.
    pub authority: Vec<Record>,
    /// Additional records, OPT among them, but not TSIG.
    pub additional: Vec<Record>,
    /// Where the TSIG record begins, if there is one.
    pub tsig_at: Option<usize>,
}

impl Message {
    /// Reads a whole message.
    ///
    /// # Errors
    /// It is malformed: what is wrong, for whoever watches.
    pub fn parse(octets: &[u8]) -> Result<Self, &'static str> {
        let header = Header::parse(octets).ok_or("shorter than a header")?;
        let count = |at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
        let mut reader = Reader { octets, at: HEADER_OCTETS, tsig_at: None };
        let mut questions = vec![];
        for _ in 0..count(4) {
            questions.push(reader.question()?);
        }
        let answers = reader.section(count(6))?;
        let authority = reader.section(count(8))?;
        if reader.tsig_at.is_some() {
            return Err("TSIG is not in the additional section");
        }
        let additional = reader.section(count(10))?;
        if reader.at != octets.len() {
            return Err("octets behind the end of the message");
        }
        Ok(Self { header, questions, answers, authority, additional, tsig_at: reader.tsig_at })
    }

    /// The OPT record, if EDNS is spoken.
    pub fn opt(&self) -> Option<&Record> {
        self.additional.iter().find(|record| record.rtype == Type::OPT)
    }

    /// How it went, with the upper bits that OPT has (RFC 6891 §6.1.3).
    pub fn rcode(&self) -> Rcode {
        let upper = self.opt().map_or(0, |opt| (opt.ttl >> 24) as u16);
        Rcode(upper << 4 | self.header.rcode().0)
    }

    /// The first of OPT's options with this code.
    pub fn option(&self, code: u16) -> Option<&[u8]> {
        message::options(&self.opt()?.rdata).find(|(known, _)| *known == code).map(|(_, data)| data)
    }

    /// The one question, where there is exactly one.
    pub fn question(&self) -> Option<&(Name, Type, Class)> {
        self.questions.first().filter(|_| self.questions.len() == 1)
    }
}

struct Reader<'m> {
    octets: &'m [u8],
    at: usize,
    tsig_at: Option<usize>,
}

impl Reader<'_> {
    fn name(&mut self) -> Result<Name, &'static str> {
        let (name, end) = read_name(self.octets, self.at).map_err(|_| "a name is malformed")?;
        self.at = end;
        Ok(name)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        let pair = self.octets.get(self.at..self.at + 2).ok_or("a record is cut off")?;
        self.at += 2;
        Ok(u16::from_be_bytes([pair[0], pair[1]]))
    }

    fn question(&mut self) -> Result<(Name, Type, Class), &'static str> {
        Ok((self.name()?, Type(self.u16()?), Class(self.u16()?)))
    }

    fn section(&mut self, count: u16) -> Result<Vec<Record>, &'static str> {
        let mut records = vec![];
        for number in 0..count {
            let begin = self.at;
            let owner = self.name()?;
            let (rtype, class) = (Type(self.u16()?), Class(self.u16()?));
            let ttl = u32::from(self.u16()?) << 16 | u32::from(self.u16()?);
            // RFC 2181 §8: a TTL with its highest bit set is 0. What OPT has in this place is no TTL (RFC 6891 §6.1.3).
            let ttl = if ttl > TTL_MAX && rtype != Type::OPT { 0 } else { ttl };
            let end = usize::from(self.u16()?) + self.at;
            if end > self.octets.len() {
                return Err("a record is cut off");
            }
            if rtype == Type::TSIG {
                // RFC 8945 §5.1: the last record of the message, and the only one of its kind.
                if number + 1 != count || self.tsig_at.is_some() {
                    return Err("TSIG is not the last record");
                }
                self.tsig_at = Some(begin);
                self.at = end;
                continue;
            }
            let rdata = unpack(self.octets, rtype, self.at, end).ok_or("the data of a record is malformed")?;
            self.at = end;
            records.push(Record { owner, rtype, class, ttl, rdata });
        }
        Ok(records)
    }
}

/// The data of a record with its names written out. RFC 3597 §4: names are expected to be compressed in the types of
/// RFC 1035, and to be understood so in some later ones; where one stands we read it either way.
fn unpack(message: &[u8], rtype: Type, begin: usize, end: usize) -> Option<Vec<u8>> {
    let whole = message.get(begin..end)?;
    let Some(fields) = rdata::fields(rtype) else { return Some(whole.to_vec()) };
    if whole.is_empty() || !fields.iter().any(|field| matches!(field, Field::Name | Field::NameCompressible)) {
        return Some(whole.to_vec());
    }
    let (mut rdata, mut at) = (Vec::with_capacity(whole.len()), begin);
    for field in fields {
        let octets = match field {
            Field::Name | Field::NameCompressible => {
                let (name, behind) = read_name(&message[..end], at).ok()?;
                rdata.extend_from_slice(name.borrow().as_wire());
                at = behind;
                continue;
            }
            other => other.octets(message.get(at..end)?)?,
        };
        rdata.extend_from_slice(message.get(at..at + octets).filter(|_| at + octets <= end)?);
        at += octets;
    }
    // What is behind the last field makes the record malformed; whoever cares looks with `is_well_formed`.
    rdata.extend_from_slice(message.get(at..end)?);
    Some(rdata)
}

/// What a message comes to, for people: `www.crepes.fr. A 10.77.1.80 (+1)`, `ask ns.nic.edu. about edu.`; empty for the rest.
pub fn gist(message: &Message) -> String {
    let records = |section: &[Record], rtype: Option<Type>| -> Vec<String> {
        let shown = section
            .iter()
            .filter(|record| record.rtype != Type::RRSIG && rtype.is_none_or(|rtype| rtype == record.rtype));
        shown.map(ToString::to_string).collect()
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let answers = records(&message.answers, None);
    if let Some(last) = answers.last() {
        // Owner, TTL, class, type, data.
        let words = words(last);
        let more = if answers.len() > 1 { format!(" (+{})", answers.len() - 1) } else { String::new() };
        let data = words.get(3..).unwrap_or_default().join(" ");
        return format!("{} {data}{more}", words.first().map_or("", String::as_str));
    }
    let is_negative = message.authority.iter().any(|record| record.rtype == Type::SOA);
    match records(&message.authority, Some(Type::NS)).first().map(|line| words(line)) {
        Some(words) if !is_negative && words.len() > 4 => format!("ask {} about {}", words[4], words[0]),
        _ => String::new(),
    }
}

/// What SOA says besides who the primary is (RFC 1035 §3.3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soa {
    /// The zone's version.
    pub serial: u32,
    /// Seconds between two looks at the primary.
    pub refresh: u32,
    /// Seconds until the next look when one has failed.
    pub retry: u32,
    /// Seconds after which a copy that could not be checked is worth nothing.
    pub expire: u32,
}

impl Soa {
    /// Reads the data of a SOA record.
    pub fn parse(rdata: &[u8]) -> Option<Soa> {
        let primary = NameRef::parse(rdata).ok()?;
        let behind = &rdata[primary.as_wire().len()..];
        let mailbox = NameRef::parse(behind).ok()?;
        let numbers: &[u8; 20] = behind[mailbox.as_wire().len()..].try_into().ok()?;
        let number = |at: usize| u32::from_be_bytes([numbers[at], numbers[at + 1], numbers[at + 2], numbers[at + 3]]);
        Some(Soa { serial: number(0), refresh: number(4), retry: number(8), expire: number(12) })
    }

    /// The data of a SOA record with another serial.
    pub fn with_serial(rdata: &[u8], serial: u32) -> Vec<u8> {
        let mut rdata = rdata.to_vec();
        if let Some(at) = rdata.len().checked_sub(20) {
            rdata[at..at + 4].copy_from_slice(&serial.to_be_bytes());
        }
        rdata
    }
}

/// RFC 1982 §3.2: whether `one` is newer than `other`. Serials go round; what is half the way round apart is neither
/// newer nor older.
pub fn is_newer(one: u32, other: u32) -> bool {
    one != other && one.wrapping_sub(other) < 1 << 31
}

impl fmt::Display for Record {
    /// A line of a master file, without its end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { owner, rtype, class, ttl, rdata } = self;
        write!(f, "{owner} {ttl} {class} {} {}", Mnemonic(*rtype), Data { rtype: *rtype, rdata })
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A type as a master file has it: ANY and the like have no mnemonic there.
struct Mnemonic(Type);

impl fmt::Display for Mnemonic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if rdata::fields(self.0).is_some() { self.0.fmt(f) } else { write!(f, "TYPE{}", self.0.0) }
    }
}

/// The data of a record as text that [`crate::zonefile`] reads back to the same octets.
#[derive(Clone, Copy, Debug)]
pub struct Data<'r> {
    /// The record's type.
    pub rtype: Type,
    /// The octets.
    pub rdata: &'r [u8],
}

impl fmt::Display for Data<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = self.by_fields() {
            return f.write_str(&text);
        }
        // RFC 3597 §5.
        write!(f, "\\# {}", self.rdata.len())?;
        if !self.rdata.is_empty() {
            f.write_str(" ")?;
        }
        self.rdata.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl Data<'_> {
    /// `None` where the form of RFC 3597 is the only one that is sure to come back.
    fn by_fields(self) -> Option<String> {
        let fields = rdata::fields(self.rtype).filter(|_| rdata::is_well_formed(self.rtype, self.rdata))?;
        let (mut text, mut rest) = (String::new(), self.rdata);
        let mut take = |octets: usize| {
            let (taken, behind) = rest.split_at_checked(octets)?;
            rest = behind;
            Some((taken, behind))
        };
        for field in fields {
            if !text.is_empty() {
                text.push(' ');
            }
            let (_, ahead) = take(0)?;
            let written = match field {
                Field::U8 => write!(text, "{}", take(1)?.0[0]),
                Field::U16 => write!(text, "{}", u16::from_be_bytes(take(2)?.0.try_into().ok()?)),
                Field::U32 | Field::Period => write!(text, "{}", u32::from_be_bytes(take(4)?.0.try_into().ok()?)),
                Field::Moment => {
                    let seconds = u32::from_be_bytes(take(4)?.0.try_into().ok()?);
                    let at = time::UtcDateTime::from_unix_timestamp(i64::from(seconds)).ok()?;
                    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
                    let (hour, minute, second) = at.time().as_hms();
                    write!(text, "{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
                }
                Field::Name | Field::NameCompressible => {
                    let name = NameRef::parse(ahead).ok()?;
                    take(name.as_wire().len())?;
                    write!(text, "{name}")
                }
                Field::Ipv4 => write!(text, "{}", Ipv4Addr::from(<[u8; 4]>::try_from(take(4)?.0).ok()?)),
                Field::Ipv6 => write!(text, "{}", Ipv6Addr::from(<[u8; 16]>::try_from(take(16)?.0).ok()?)),
                Field::TypeCode => {
                    write!(text, "{}", Mnemonic(Type(u16::from_be_bytes(take(2)?.0.try_into().ok()?))))
                }
                Field::Text => {
                    let octets = usize::from(take(1)?.0[0]);
                    text += &quoted(take(octets)?.0);
                    Ok(())
                }
                Field::Texts => {
                    let mut all = take(ahead.len())?.0;
                    let mut blank = "";
                    while let Some((octets, behind)) = all.split_first() {
                        let (string, behind) = behind.split_at_checked(usize::from(*octets))?;
                        text.push_str(blank);
                        text += &quoted(string);
                        (all, blank) = (behind, " ");
                    }
                    Ok(())
                }
                Field::TextToEnd => {
                    text += &quoted(take(ahead.len())?.0);
                    Ok(())
                }
                // With nothing to write, the reader would miss a word.
                Field::Hex | Field::Base64 if ahead.is_empty() => return None,
                Field::Hex => take(ahead.len())?.0.iter().try_for_each(|octet| write!(text, "{octet:02x}")),
                Field::Base64 => write!(text, "{}", STANDARD.encode(take(ahead.len())?.0)),
                Field::HexCounted => {
                    let octets = usize::from(take(1)?.0[0]);
                    if octets == 0 {
                        text.push('-');
                    }
                    take(octets)?.0.iter().try_for_each(|octet| write!(text, "{octet:02x}"))
                }
                Field::Base32Counted => {
                    let octets = usize::from(take(1)?.0[0]);
                    if octets == 0 {
                        return None;
                    }
                    base32hex(&mut text, take(octets)?.0);
                    Ok(())
                }
                Field::TypeBitmap => {
                    bitmap(&mut text, take(ahead.len())?.0)?;
                    Ok(())
                }
                Field::Eui(octets) => {
                    let octets = take(usize::from(*octets))?.0;
                    let pairs: Vec<String> = octets.iter().map(|octet| format!("{octet:02x}")).collect();
                    write!(text, "{}", pairs.join("-"))
                }
                Field::ServiceParameters => {
                    let parameters = service::write(take(ahead.len())?.0)?;
                    text.truncate(text.len() - usize::from(parameters.is_empty()));
                    text += &parameters;
                    Ok(())
                }
                Field::Rare => return None,
            };
            written.expect("writing into a String does not fail");
        }
        Some(text)
    }
}

/// A character-string in quotes (RFC 1035 §5.1).
pub(crate) fn quoted(octets: &[u8]) -> String {
    let mut text = String::from("\"");
    for &octet in octets {
        match octet {
            b'"' | b'\\' => text.extend(['\\', char::from(octet)]),
            0x20..=0x7e => text.push(char::from(octet)),
            _ => write!(text, "\\{octet:03}").expect("writing into a String does not fail"),
        }
    }
    text + "\""
}

/// RFC 4648 §7, without padding (RFC 5155 §3.3).
fn base32hex(text: &mut String, octets: &[u8]) {
    let (mut bits, mut count) = (0_u32, 0);
    for octet in octets {
        bits = bits << 8 | u32::from(*octet);
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(bits >> count) as usize & 31]));
        }
        bits &= (1 << count) - 1;
    }
    if count > 0 {
        text.push(char::from(b"0123456789abcdefghijklmnopqrstuv"[(bits << (5 - count)) as usize & 31]));
    }
}

/// RFC 4034 §4.1.2. `None` for a map that is not in the one form that the reader makes.
fn bitmap(text: &mut String, mut windows: &[u8]) -> Option<()> {
    let (mut blank, mut last) = ("", None);
    while let [window, octets, behind @ ..] = windows {
        let (map, behind) = behind.split_at_checked(usize::from(*octets))?;
        if last >= Some(*window) || !(1..=32).contains(&map.len()) || map.last() == Some(&0) {
            return None;
        }
        for (index, octet) in map.iter().enumerate() {
            for bit in (0..8_u16).filter(|bit| octet & 0x80 >> bit != 0) {
                let number = u16::from_be_bytes([*window, index as u8 * 8]) | bit;
                write!(text, "{blank}{}", Mnemonic(Type(number))).expect("writing into a String does not fail");
                blank = " ";
            }
        }
        (windows, last) = (behind, Some(*window));
    }
    windows.is_empty().then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zonefile;
    use proptest::prelude::*;
    use std::path::Path;

    #[test]
    fn records_are_written_as_the_zone_file_reader_reads_them() {
        for line in [
            "www.crepes.fr. 3600 IN A 10.77.1.80",
            "www.crepes.fr. 3600 IN AAAA 2001:db8::1",
            "crepes.fr. 0 IN SOA ns.crepes.fr. host\\.master.crepes.fr. 2026010101 3600 900 604800 300",
            "crepes.fr. 1 IN MX 10 mail.crepes.fr.",
            "crepes.fr. 1 IN TXT \"a \\\"quoted\\\" word; and \\\\\" \"\\000\\255\" \"\"",
            "crepes.fr. 1 IN CAA 0 \"issue\" \"ca.example\"",
            "_x._tcp.crepes.fr. 1 IN SRV 0 5 443 www.crepes.fr.",
            "crepes.fr. 1 IN DS 60485 5 1 2bb183af5f22588179a53b0a98631fad1a292118",
            "crepes.fr. 1 IN RRSIG A 5 3 86400 20030322173103 20030220173103 2642 example.com. AQID",
            "a.crepes.fr. 1 IN NSEC host.example.com. A MX RRSIG NSEC TYPE1234",
            "x.crepes.fr. 1 IN NSEC3 1 1 12 aabbccdd 2t7b4g4vsa5smi47k61mv5bv1a22bojr MX DNSKEY NS SOA NSEC3PARAM RRSIG",
            "crepes.fr. 1 IN NSEC3PARAM 1 0 12 -",
            "e.crepes.fr. 1 IN EUI48 00-00-5e-00-53-2a",
            "u.crepes.fr. 1 IN TYPE65280 \\# 4 0a000001",
            "u.crepes.fr. 1 IN TYPE65280 \\# 0",
            "s.crepes.fr. 1 IN HTTPS 1 . alpn=\"h2,h3\" port=8443",
            "t.crepes.fr. 1 IN HTTPS 0 www.crepes.fr.",
            "\\@\\$x\\032y.crepes.fr. 1 IN PTR \\(.crepes.fr.",
        ] {
            let read = |text: &str| zonefile::records(Path::new("test"), text.as_bytes()).unwrap();
            let record = read(line).remove(0);
            assert_eq!(read(&record.to_string()), std::slice::from_ref(&record), "{record}");
            // Types in a bit map come by number.
            if !line.contains("NSEC") {
                assert_eq!(record.to_string(), line);
            }
        }
    }

    proptest! {
        #[test]
        fn any_data_comes_back_from_its_text(
            row in 0..rdata::TABLE.len(),
            rdata in proptest::collection::vec(any::<u8>(), 0..60),
            owner in "[a-z.\\\\0-9]{0,20}",
        ) {
            let owner = Name::from_text(owner.as_bytes(), Some(NameRef::ROOT)).unwrap_or_else(|_| Name::root());
            let rtype = Type(rdata::TABLE[row].0);
            prop_assume!(rdata::is_well_formed(rtype, &rdata));
            let record = Record { owner, rtype, class: Class::IN, ttl: 7, rdata };
            let read = zonefile::records(Path::new("test"), record.to_string().as_bytes());
            prop_assert_eq!(read.unwrap(), [record]);
        }

        #[test]
        fn any_octets_are_a_message_or_are_not(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Message::parse(&octets);
        }
    }

    #[test]
    fn names_in_data_are_unpacked() {
        // Header, the question `example. MX`, and an answer with pointers for its owner and its exchange.
        let message = [
            &[0, 1, 0x80, 0, 0, 1, 0, 1, 0, 0, 0, 0][..],
            b"\x07example\0\0\x0f\0\x01",
            b"\xc0\x0c\0\x0f\0\x01\0\0\0\x05\0\x09\0\x0a\x04mail\xc0\x0c",
        ]
        .concat();
        let parsed = Message::parse(&message).unwrap();
        assert_eq!(parsed.answers[0].to_string(), "example. 5 IN MX 10 mail.example.");
        for octets in 0..message.len() {
            assert!(Message::parse(&message[..octets]).is_err(), "{octets}");
        }
    }

    #[test]
    fn a_ttl_with_its_highest_bit_set_is_0_unless_it_is_that_of_opt() {
        for (rtype, sent, want) in [
            (Type::A, 0x7fff_ffff, 0x7fff_ffff),
            (Type::A, 0x8000_0000, 0),
            (Type::A, u32::MAX, 0),
            (Type::OPT, 0x8000_8000, 0x8000_8000_u32),
        ] {
            let mut message = vec![0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
            message.extend([rtype.0.to_be_bytes(), [0, 1]].concat());
            message.extend(u32::to_be_bytes(sent));
            message.extend([0, 0]);
            assert_eq!(Message::parse(&message).unwrap().additional[0].ttl, want, "{rtype} {sent}");
        }
    }

    #[test]
    fn serials_go_round() {
        for (one, other, want) in [
            (1, 0, true),
            (0, 1, false),
            (0, 0, false),
            (0, u32::MAX, true),
            (u32::MAX, 0, false),
            (0x7fff_ffff, 0, true),
            (0x8000_0000, 0, false),
            (0, 0x8000_0000, false),
        ] {
            assert_eq!(is_newer(one, other), want, "{one} {other}");
        }
    }
}
