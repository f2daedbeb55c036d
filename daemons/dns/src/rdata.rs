//! Record types, and what their data is made of.
//!
//! Each type is a row of [`TABLE`]: its number, its mnemonic, and the fields of its data in order. The master-file reader reads
//! by this table, the message writer finds the names in it that may be compressed, and a type that is not in it is still served
//! (RFC 3597): its data is octets.

use crate::{name::NameRef, rare, service};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// A record type (RFC 1035 §3.2.2 and what came after).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type(pub u16);

#[expect(missing_docs, reason = "they are the RFCs' own names")]
impl Type {
    pub const A: Type = Type(1);
    pub const NS: Type = Type(2);
    pub const CNAME: Type = Type(5);
    pub const SOA: Type = Type(6);
    pub const PTR: Type = Type(12);
    pub const HINFO: Type = Type(13);
    pub const MX: Type = Type(15);
    pub const TXT: Type = Type(16);
    pub const AAAA: Type = Type(28);
    pub const SRV: Type = Type(33);
    pub const DNAME: Type = Type(39);
    pub const OPT: Type = Type(41);
    pub const DS: Type = Type(43);
    pub const RRSIG: Type = Type(46);
    pub const NSEC: Type = Type(47);
    pub const DNSKEY: Type = Type(48);
    pub const NSEC3: Type = Type(50);
    pub const NSEC3PARAM: Type = Type(51);
    pub const CDS: Type = Type(59);
    pub const CDNSKEY: Type = Type(60);
    pub const TSIG: Type = Type(250);
    pub const IXFR: Type = Type(251);
    pub const AXFR: Type = Type(252);
    pub const ANY: Type = Type(255);
    pub const CAA: Type = Type(257);

    /// Types that only a question or a message as a whole can have (RFC 6895 §3.1: 128 to 255, and OPT), never a zone.
    pub fn is_meta(self) -> bool {
        self == Type::OPT || (128..=255).contains(&self.0) || self.0 == 0
    }
}

impl fmt::Display for Type {
    /// `MX`, or `TYPE65280` (RFC 3597 §5).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = TABLE.iter().find(|row| row.0 == self.0).map(|row| row.1);
        let question = QUESTIONS.iter().find(|row| row.0 == self.0).map(|row| row.1);
        match row.or(question) {
            Some(mnemonic) => f.write_str(mnemonic),
            None => write!(f, "TYPE{}", self.0),
        }
    }
}

impl fmt::Debug for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Type {
    type Err = ();

    /// `mx`, `MX` and `TYPE15` are the same.
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(row) = TABLE.iter().find(|row| row.1.eq_ignore_ascii_case(text)) {
            return Ok(Type(row.0));
        }
        let (word, number) = text.split_at_checked(4).ok_or(())?;
        if !word.eq_ignore_ascii_case("TYPE") {
            return Err(());
        }
        number.parse().map(Type).map_err(|_| ())
    }
}

/// A class. Ours is IN; CH is asked who we are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Class(pub u16);

#[expect(missing_docs, reason = "they are the RFCs' own names")]
impl Class {
    pub const IN: Class = Class(1);
    pub const CH: Class = Class(3);
    pub const NONE: Class = Class(254);
    pub const ANY: Class = Class(255);
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Class::IN => f.write_str("IN"),
            Class::CH => f.write_str("CH"),
            Class(4) => f.write_str("HS"),
            Class::NONE => f.write_str("NONE"),
            Class::ANY => f.write_str("ANY"),
            Class(number) => write!(f, "CLASS{number}"),
        }
    }
}

impl fmt::Debug for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One field of a type's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// A number of one octet.
    U8,
    /// A number of two octets.
    U16,
    /// A number of four octets.
    U32,
    /// A time in seconds, also written `1h30m`.
    Period,
    /// A point in time, written `20260131120000` or in seconds since 1970 (RFC 4034 §3.2).
    Moment,
    /// A name that may be compressed in messages: only in the types of RFC 1035 (RFC 3597 §4).
    NameCompressible,
    /// A name that may not.
    Name,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// One character-string: up to 255 octets with their number before them.
    Text,
    /// One or more of them, to the end.
    Texts,
    /// A character-string without the number, to the end (CAA's value, URI's target).
    TextToEnd,
    /// Hexadecimal digits to the end.
    Hex,
    /// Hexadecimal digits in one word, with their number of octets before them; `-` is none (NSEC3's salt).
    HexCounted,
    /// Base64 to the end.
    Base64,
    /// Base32 with extended hex alphabet in one word, with the number of octets before it (NSEC3's next name).
    Base32Counted,
    /// A mnemonic of a type (RRSIG's type covered).
    TypeCode,
    /// Mnemonics of types to the end, as a bit map (RFC 4034 §4.1.2).
    TypeBitmap,
    /// Octets written `00-00-5e-00-53-2a`, as many as the number says (EUI48, EUI64).
    Eui(u8),
    /// SVCB's parameters to the end (RFC 9460 §2.1).
    ServiceParameters,
    /// A form of its own to the end; see [`crate::rare`].
    Rare,
}

use Field::{
    Base32Counted, Base64, Eui, Hex, HexCounted, Ipv4, Ipv6, Moment, Name, NameCompressible, Period, Rare,
    ServiceParameters, Text, TextToEnd, Texts, TypeBitmap, TypeCode, U8, U16, U32,
};

/// One type: number, mnemonic, fields.
pub type Row = (u16, &'static str, &'static [Field]);

/// The types whose data we can read as text.
pub const TABLE: &[Row] = &[
    // RFC 1035 §3.3 and §3.4: the only ones in which names may be compressed.
    (1, "A", &[Ipv4]),
    (2, "NS", &[NameCompressible]),
    (3, "MD", &[NameCompressible]),
    (4, "MF", &[NameCompressible]),
    (5, "CNAME", &[NameCompressible]),
    (6, "SOA", &[NameCompressible, NameCompressible, U32, Period, Period, Period, Period]),
    (7, "MB", &[NameCompressible]),
    (8, "MG", &[NameCompressible]),
    (9, "MR", &[NameCompressible]),
    (11, "WKS", &[Ipv4, Rare]),
    (12, "PTR", &[NameCompressible]),
    (13, "HINFO", &[Text, Text]),
    (14, "MINFO", &[NameCompressible, NameCompressible]),
    (15, "MX", &[U16, NameCompressible]),
    (16, "TXT", &[Texts]),
    // Later ones, by number.
    (17, "RP", &[Name, Name]),
    (18, "AFSDB", &[U16, Name]),
    (19, "X25", &[Text]),
    (21, "RT", &[U16, Name]),
    (24, "SIG", &[TypeCode, U8, U8, U32, Moment, Moment, U16, Name, Base64]),
    (25, "KEY", &[U16, U8, U8, Base64]),
    (26, "PX", &[U16, Name, Name]),
    (27, "GPOS", &[Text, Text, Text]),
    (28, "AAAA", &[Ipv6]),
    (29, "LOC", &[Rare]),
    (33, "SRV", &[U16, U16, U16, Name]),
    (35, "NAPTR", &[U16, U16, Text, Text, Text, Name]),
    (36, "KX", &[U16, Name]),
    (37, "CERT", &[U16, U16, U8, Base64]),
    (39, "DNAME", &[Name]),
    (42, "APL", &[Rare]),
    (43, "DS", &[U16, U8, U8, Hex]),
    (44, "SSHFP", &[U8, U8, Hex]),
    (45, "IPSECKEY", &[Rare]),
    (46, "RRSIG", &[TypeCode, U8, U8, U32, Moment, Moment, U16, Name, Base64]),
    (47, "NSEC", &[Name, TypeBitmap]),
    (48, "DNSKEY", &[U16, U8, U8, Base64]),
    (49, "DHCID", &[Base64]),
    (50, "NSEC3", &[U8, U8, U16, HexCounted, Base32Counted, TypeBitmap]),
    (51, "NSEC3PARAM", &[U8, U8, U16, HexCounted]),
    (52, "TLSA", &[U8, U8, U8, Hex]),
    (53, "SMIMEA", &[U8, U8, U8, Hex]),
    (55, "HIP", &[Rare]),
    (56, "NINFO", &[Texts]),
    (57, "RKEY", &[U16, U8, U8, Base64]),
    (58, "TALINK", &[Name, Name]),
    (59, "CDS", &[U16, U8, U8, Hex]),
    (60, "CDNSKEY", &[U16, U8, U8, Base64]),
    (61, "OPENPGPKEY", &[Base64]),
    (62, "CSYNC", &[U32, U16, TypeBitmap]),
    (63, "ZONEMD", &[U32, U8, U8, Hex]),
    (64, "SVCB", &[U16, Name, ServiceParameters]),
    (65, "HTTPS", &[U16, Name, ServiceParameters]),
    (99, "SPF", &[Texts]),
    (104, "NID", &[U16, Rare]),
    (105, "L32", &[U16, Ipv4]),
    (106, "L64", &[U16, Rare]),
    (107, "LP", &[U16, Name]),
    (108, "EUI48", &[Eui(6)]),
    (109, "EUI64", &[Eui(8)]),
    (256, "URI", &[U16, U16, TextToEnd]),
    (257, "CAA", &[U8, Text, TextToEnd]),
    (258, "AVC", &[Texts]),
    (32768, "TA", &[U16, U8, U8, Hex]),
    (32769, "DLV", &[U16, U8, U8, Hex]),
];

/// What only questions ask for, and the types of whole messages.
const QUESTIONS: &[(u16, &str)] = &[(41, "OPT"), (250, "TSIG"), (251, "IXFR"), (252, "AXFR"), (255, "ANY")];

/// The fields of a type; `None` when its data is opaque to us.
pub fn fields(rtype: Type) -> Option<&'static [Field]> {
    TABLE.iter().find(|row| row.0 == rtype.0).map(|row| row.2)
}

/// Where compressible names stand in the data of a type: octets before the first of them, and how many follow each other.
pub fn compressible(rtype: Type) -> (usize, usize) {
    match rtype.0 {
        2..=5 | 7..=9 | 12 => (0, 1),
        6 | 14 => (0, 2),
        15 => (2, 1),
        _ => (0, 0),
    }
}

/// The name that the data of a type leads to, if it leads to one whose addresses a client will want next
/// (RFC 1035 §3.3.9 and §3.3.11, RFC 2782).
pub fn target(rtype: Type, rdata: &[u8]) -> Option<NameRef<'_>> {
    let before = match rtype {
        Type::NS => 0,
        Type::MX => 2,
        Type::SRV => 6,
        _ => return None,
    };
    NameRef::parse(rdata.get(before..)?).ok()
}

impl Field {
    /// How many octets the field takes of those from where it begins, if names are not compressed there: all, where nothing says how many.
    /// `None` if that cannot be read.
    pub fn octets(self, data: &[u8]) -> Option<usize> {
        Some(match self {
            U8 => 1,
            U16 | TypeCode => 2,
            U32 | Period | Moment | Ipv4 => 4,
            Ipv6 => 16,
            Eui(octets) => usize::from(octets),
            Name | NameCompressible => NameRef::parse(data).ok()?.as_wire().len(),
            Text | HexCounted | Base32Counted => 1 + usize::from(*data.first()?),
            Texts | TextToEnd | Hex | Base64 | TypeBitmap | ServiceParameters | Rare => data.len(),
        })
    }

    /// Whether what the field takes is as it should be, besides its length.
    fn fits(self, rtype: Type, data: &[u8]) -> bool {
        match self {
            Text if rtype == Type::CAA => begins_with_tag(data),
            Texts => are_strings(data),
            // RFC 5155 §3.1.6: a hash has 1 to 255 octets.
            Base32Counted => data.first() != Some(&0),
            // RFC 4034 §4.1.2: NSEC has at least its own type. NSEC3 of an empty non-terminal has none (RFC 5155 §7.1).
            TypeBitmap => is_type_bitmap(data) && !(rtype == Type::NSEC && data.is_empty()),
            ServiceParameters => service::is_well_formed(data),
            Rare => rare::is_well_formed(rtype, data),
            _ => true,
        }
    }
}

/// Whether octets are data of a type, in a form that other servers take too: for what comes in an UPDATE, in a transfer, or as
/// `\# 4 0a000001` (RFC 3597 §5: known types too may be written so).
pub fn is_well_formed(rtype: Type, rdata: &[u8]) -> bool {
    let Some(fields) = fields(rtype) else { return true };
    let mut rest = rdata;
    for field in fields {
        let behind = field.octets(rest).and_then(|octets| rest.get(octets..));
        match behind {
            Some(behind) if field.fits(rtype, rest) => rest = behind,
            _ => return false,
        }
    }
    rest.is_empty()
}

/// RFC 1035 §3.3.14: one or more character-strings.
fn are_strings(data: &[u8]) -> bool {
    let mut rest = data;
    while let [length, behind @ ..] = rest {
        match behind.get(usize::from(*length)..) {
            Some(behind) => rest = behind,
            None => return false,
        }
    }
    !data.is_empty()
}

/// RFC 4034 §4.1.2: windows in ascending order, each with 1 to 32 octets of which the last is not zero.
fn is_type_bitmap(mut map: &[u8]) -> bool {
    let mut above = None;
    while let [window, octets, rest @ ..] = map {
        let Some((bits, behind)) = rest.split_at_checked(usize::from(*octets)) else { return false };
        // Without octets there is no last one.
        if above >= Some(*window) || bits.len() > 32 || bits.last().is_none_or(|last| *last == 0) {
            return false;
        }
        (above, map) = (Some(*window), behind);
    }
    map.is_empty()
}

/// RFC 8659 §4.1: a tag is letters and digits, at least one.
fn begins_with_tag(rest: &[u8]) -> bool {
    let tag = rest.split_first().and_then(|(length, behind)| behind.get(..usize::from(*length)));
    tag.is_some_and(|tag| !tag.is_empty() && tag.iter().all(u8::is_ascii_alphanumeric))
}

/// Types in windows of 256, each as a bit map (RFC 4034 §4.1.2).
pub fn type_bitmap(types: &mut [u16]) -> Vec<u8> {
    types.sort_unstable();
    let mut windows: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    for number in types.iter() {
        let [window, bit] = number.to_be_bytes();
        let map = windows.entry(window).or_default();
        map.resize(map.len().max(usize::from(bit / 8) + 1), 0);
        map[usize::from(bit / 8)] |= 0x80 >> (bit % 8);
    }
    windows.into_iter().flat_map(|(window, map)| [vec![window, map.len() as u8], map].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_table_of_compressible_names_agrees_with_the_long_one() {
        for (number, mnemonic, fields) in TABLE {
            let (before, count) = compressible(Type(*number));
            let first = fields.iter().position(|field| *field == NameCompressible);
            assert_eq!(fields.iter().filter(|field| **field == NameCompressible).count(), count, "{mnemonic}");
            let octets: usize = fields[..first.unwrap_or(0)].iter().map(|field| usize::from(*field == U16) * 2).sum();
            assert_eq!(octets, before, "{mnemonic}");
        }
        assert!(TABLE.is_sorted_by_key(|row| row.0));
    }

    #[test]
    fn types_have_names_and_numbers() {
        for (text, number) in [("a", 1), ("MX", 15), ("TYPE15", 15), ("type65280", 65280), ("HTTPS", 65)] {
            assert_eq!(text.parse::<Type>(), Ok(Type(number)));
        }
        for text in ["", "TYPE", "TYPE65536", "AXFR", "TYPEX", "TÝP1"] {
            assert_eq!(text.parse::<Type>(), Err(()), "{text}");
        }
        assert_eq!([Type(15), Type(255), Type(65280)].map(|t| t.to_string()), ["MX", "ANY", "TYPE65280"]);
    }

    #[test]
    fn octets_are_held_against_their_type() {
        for (rtype, rdata, want) in [
            (Type::A, &[10, 0, 0, 1][..], true),
            (Type::A, &[10, 0, 0], false),
            (Type::MX, b"\0\x0a\x01a\0", true),
            (Type::MX, b"\0\x0a\x01a", false),
            (Type::MX, b"\0\x0a\x01a\0x", false),
            (Type::TXT, b"\x01a\x00", true),
            (Type::TXT, b"\x02a", false),
            (Type::TXT, b"", false),
            (Type(65280), b"anything", true),
        ] {
            assert_eq!(is_well_formed(rtype, rdata), want, "{rtype} {rdata:?}");
        }
    }

    #[test]
    fn bit_maps_of_types_have_the_one_form_that_all_servers_take() {
        let full = [&[0, 32][..], &[0xff; 32]].concat();
        let too_long = [&[0, 33][..], &[0xff; 33]].concat();
        for (map, want) in [
            (&[0, 1, 0x40][..], true),
            (&[0, 6, 0x40, 1, 0, 0, 0, 3], true),
            (&[0, 1, 0x40, 4, 1, 1], true),
            (&[255, 1, 1], true),
            (&full, true),
            // A window without octets, with more than 32, and cut off.
            (&[0, 0], false),
            (&too_long, false),
            (&[0], false),
            (&[0, 2, 0x40], false),
            (&[0, 1, 0x40, 4], false),
            // Zeros at the end, or nothing else.
            (&[0, 2, 0x40, 0], false),
            (&[0, 1, 0], false),
            // Windows twice, or in the wrong order.
            (&[0, 1, 0x40, 0, 1, 0x40], false),
            (&[4, 1, 1, 0, 1, 0x40], false),
        ] {
            let nsec3 = [&[1, 0, 0, 0, 0, 20][..], &[7; 20]].concat();
            for (rtype, before) in
                [(Type::NSEC, &b"\x01b\0"[..]), (Type::NSEC3, &nsec3), (Type(62), &[0, 0, 0, 1, 0, 3])]
            {
                assert_eq!(is_well_formed(rtype, &[before, map].concat()), want, "{rtype} {map:?}");
                assert_eq!(is_well_formed(rtype, before), rtype != Type::NSEC, "{rtype} without types");
            }
        }
        assert!(!is_well_formed(Type::NSEC3, &[1, 0, 0, 0, 0, 0, 0, 1, 0x40]), "a hash of no octets");
    }

    #[test]
    fn a_caa_tag_is_letters_and_digits() {
        let longest = [&[0, 255][..], &[b'a'; 255], b"ca.example"].concat();
        for (rdata, want) in [
            (&b"\0\x05issueca.example"[..], true),
            (b"\x80\x04Tag7", true),
            (&longest, true),
            (b"\0\0ca.example", false),
            (b"\0\x05is-uex", false),
            (b"\0\x02\xc3\xa4x", false),
            (b"\0\x05issu", false),
            (b"\0", false),
        ] {
            assert_eq!(is_well_formed(Type::CAA, rdata), want, "{rdata:?}");
        }
    }

    #[test]
    fn types_are_mapped_by_windows() {
        // RFC 4034 §4.3: A MX RRSIG NSEC TYPE1234.
        let want = [&[0, 6, 0x40, 1, 0, 0, 0, 3, 4, 27][..], &[0; 26], &[0x20]].concat();
        assert_eq!(type_bitmap(&mut [1234, 47, 1, 46, 15]), want);
    }
}
