//! Data whose text is a little language of its own: LOC, WKS, APL, IPSECKEY, HIP, NID, L64.
//!
//! Each function takes the words of the master file from where the form begins, and makes the octets; `None` means that the words
//! are not of this form.

use crate::{
    name::{Name, NameRef},
    rdata::Type,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::net::{Ipv4Addr, Ipv6Addr};

/// What the words of a type look like, for whoever wrote others.
pub fn shape(rtype: Type) -> &'static str {
    match rtype.0 {
        11 => "a protocol and services (`tcp smtp 53`)",
        29 => "a place (`52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m`)",
        42 => "address prefixes (`1:192.0.2.0/24 !2:2001:db8::/32`)",
        45 => "precedence, gateway type, algorithm, gateway and key (`10 1 2 192.0.2.38 AQNR...`)",
        55 => "algorithm, tag, key and servers (`2 200100107B1A74DF365639CC39F1D578 AwEAAb... rvs.example.com.`)",
        _ => "sixty-four bits (`2001:0db8:1140:1000`)",
    }
}

/// The octets that the words of a type make.
pub fn read(rtype: Type, words: &[&str], origin: NameRef<'_>) -> Option<Vec<u8>> {
    match rtype.0 {
        11 => services(words),
        29 => location(words),
        42 => words.iter().map(|word| prefix(word)).collect::<Option<Vec<_>>>().map(|items| items.concat()),
        45 => ipsec_key(words, origin),
        55 => host_identity(words, origin),
        104 | 106 => match words {
            [word] => locator(word).map(Vec::from),
            _ => None,
        },
        _ => None,
    }
}

/// Whether octets are such data, for what comes as `\# 4 0a000001` or in an UPDATE.
pub fn is_well_formed(rtype: Type, data: &[u8]) -> bool {
    let name = |data: &[u8]| NameRef::parse(data).ok().map(|name| name.as_wire().len());
    match (rtype.0, data) {
        // The protocol, and a bit for each of 65536 ports.
        (11, [_, bits @ ..]) => bits.len() <= 8192,
        (29, [0, _, _, _, coordinates @ ..]) => coordinates.len() == 12,
        // RFC 1876 §2: data of another version is to be left alone.
        (29, [_, ..]) => true,
        (42, mut rest) => {
            while let [_, _, _, length, data @ ..] = rest {
                match data.get(usize::from(length & 0x7f)..) {
                    Some(behind) => rest = behind,
                    None => return false,
                }
            }
            rest.is_empty()
        }
        (45, [_, kind, _, rest @ ..]) => match kind {
            0 => true,
            1 => rest.len() >= 4,
            2 => rest.len() >= 16,
            3 => name(rest).is_some(),
            _ => false,
        },
        (55, [tag, _, high, low, rest @ ..]) => {
            let before = usize::from(*tag) + usize::from(u16::from_be_bytes([*high, *low]));
            let Some(mut servers) = rest.get(before..) else { return false };
            while !servers.is_empty() {
                match name(servers) {
                    Some(octets) => servers = &servers[octets..],
                    None => return false,
                }
            }
            true
        }
        (104 | 106, data) => data.len() == 8,
        _ => false,
    }
}

/// WKS (RFC 1035 §3.4.2): a protocol, and a bit map of its ports.
fn services(words: &[&str]) -> Option<Vec<u8>> {
    const PROTOCOLS: [(&str, u8); 2] = [("tcp", 6), ("udp", 17)];
    const SERVICES: [(&str, u16); 10] = [
        ("ftp-data", 20),
        ("ftp", 21),
        ("ssh", 22),
        ("telnet", 23),
        ("smtp", 25),
        ("time", 37),
        ("domain", 53),
        ("http", 80),
        ("pop3", 110),
        ("https", 443),
    ];
    let (protocol, ports) = words.split_first()?;
    let known = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(protocol)).map(|(_, number)| *number);
    let mut data = vec![known.or_else(|| protocol.parse().ok())?];
    for word in ports {
        let known = SERVICES.iter().find(|(name, _)| name.eq_ignore_ascii_case(word)).map(|(_, port)| *port);
        let port = usize::from(known.or_else(|| word.parse().ok())?);
        data.resize(data.len().max(2 + port / 8), 0);
        data[1 + port / 8] |= 0x80 >> (port % 8);
    }
    Some(data)
}

/// LOC (RFC 1876 §3): `d [m [s]] N|S  d [m [s]] E|W  altitude [size [horizontal [vertical precision]]]`.
fn location(words: &[&str]) -> Option<Vec<u8>> {
    let (latitude, words) = angle(words, ["N", "S"], 90)?;
    let (longitude, words) = angle(words, ["E", "W"], 180)?;
    let (altitude, words) = words.split_first()?;
    // Centimetres above a place 100 km below the reference spheroid.
    let altitude = u32::try_from(centimetres(altitude)? + 10_000_000).ok()?;
    // §3: 1 m, 10,000 m, 10 m, if nothing is said.
    let mut sizes = [100, 1_000_000, 1_000];
    if words.len() > sizes.len() {
        return None;
    }
    for (size, word) in sizes.iter_mut().zip(words) {
        *size = centimetres(word)?;
    }
    let [size, horizontal, vertical] = sizes.map(mantissa_and_exponent);
    let numbers = [latitude, longitude, altitude].map(u32::to_be_bytes).concat();
    Some([&[0, size?, horizontal?, vertical?][..], &numbers].concat())
}

/// Thousandths of a second of arc, with the equator or the prime meridian at 2^31.
fn angle<'w, 't>(words: &'w [&'t str], signs: [&str; 2], degrees_max: u32) -> Option<(u32, &'w [&'t str])> {
    let sign_at = words.iter().take(4).position(|word| signs.iter().any(|sign| sign.eq_ignore_ascii_case(word)))?;
    let (degrees, minutes, seconds) = match words[..sign_at] {
        [degrees] => (degrees, "0", "0"),
        [degrees, minutes] => (degrees, minutes, "0"),
        [degrees, minutes, seconds] => (degrees, minutes, seconds),
        _ => return None,
    };
    let (degrees, minutes) = (degrees.parse::<u32>().ok()?, minutes.parse::<u32>().ok()?);
    let thousandths = u32::try_from(decimal(seconds, 3)?).ok()?;
    if degrees > degrees_max || minutes > 59 || thousandths > 59_999 {
        return None;
    }
    let angle = degrees * 3_600_000 + minutes * 60_000 + thousandths;
    if angle > degrees_max * 3_600_000 {
        return None;
    }
    let middle = 1 << 31;
    let is_positive = signs[0].eq_ignore_ascii_case(words[sign_at]);
    Some((if is_positive { middle + angle } else { middle - angle }, &words[sign_at + 1..]))
}

/// `-24m` and `1.5` in centimetres.
fn centimetres(word: &str) -> Option<i64> {
    let word = word.strip_suffix(['m', 'M']).unwrap_or(word);
    match word.strip_prefix('-') {
        Some(depth) => decimal(depth, 2).map(|depth| -depth),
        None => decimal(word, 2),
    }
    .filter(|length| (-10_000_000..=4_284_967_295).contains(length))
}

/// A number without a sign, with up to `places` digits behind its point; it is multiplied by ten as often.
fn decimal(word: &str, places: usize) -> Option<i64> {
    let (whole, part) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.bytes().all(|octet| octet.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || part.len() > places || !digits(whole) || !digits(part) {
        return None;
    }
    format!("{whole}{part:0<places$}").parse().ok()
}

/// A length in centimetres as a digit and a power of ten (RFC 1876 §2).
fn mantissa_and_exponent(length: i64) -> Option<u8> {
    let (mut mantissa, mut exponent) = (u64::try_from(length).ok()?, 0);
    while mantissa > 9 {
        mantissa /= 10;
        exponent += 1;
    }
    (exponent <= 9).then_some((mantissa as u8) << 4 | exponent)
}

/// APL (RFC 3123 §4 and §5): `[!]family:address/bits`; zeros at the end of the address are not sent.
fn prefix(word: &str) -> Option<Vec<u8>> {
    let (negation, rest) = word.strip_prefix('!').map_or((0, word), |rest| (0x80, rest));
    let (family, rest) = rest.split_once(':')?;
    let (address, bits) = rest.split_once('/')?;
    let bits: u8 = bits.parse().ok()?;
    let mut octets = match family {
        "1" => address.parse::<Ipv4Addr>().ok()?.octets().to_vec(),
        "2" => address.parse::<Ipv6Addr>().ok()?.octets().to_vec(),
        _ => return None,
    };
    if usize::from(bits) > octets.len() * 8 {
        return None;
    }
    octets.truncate(octets.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1));
    let family: u16 = family.parse().ok()?;
    Some([&family.to_be_bytes()[..], &[bits, negation | octets.len() as u8], &octets].concat())
}

/// IPSECKEY (RFC 4025 §3.1): the gateway's form is what its type says.
fn ipsec_key(words: &[&str], origin: NameRef<'_>) -> Option<Vec<u8>> {
    let [precedence, kind, algorithm, gateway, key @ ..] = words else { return None };
    let mut data = vec![precedence.parse().ok()?, kind.parse().ok()?, algorithm.parse().ok()?];
    match data[1] {
        0 if *gateway == "." => {}
        1 => data.extend(gateway.parse::<Ipv4Addr>().ok()?.octets()),
        2 => data.extend(gateway.parse::<Ipv6Addr>().ok()?.octets()),
        3 => data.extend(Name::from_text(gateway.as_bytes(), Some(origin)).ok()?.borrow().as_wire()),
        _ => return None,
    }
    data.extend(STANDARD.decode(key.concat()).ok()?);
    Some(data)
}

/// HIP (RFC 8005 §6): algorithm, host identity tag in hex, key in base64, rendezvous servers.
fn host_identity(words: &[&str], origin: NameRef<'_>) -> Option<Vec<u8>> {
    let [algorithm, tag, key, servers @ ..] = words else { return None };
    let algorithm: u8 = algorithm.parse().ok()?;
    let octet = |at| tag.get(at..at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let tag: Vec<u8> = (0..tag.len()).step_by(2).map(octet).collect::<Option<_>>()?;
    let key = STANDARD.decode(key).ok()?;
    let mut data = vec![u8::try_from(tag.len()).ok()?, algorithm];
    data.extend(u16::try_from(key.len()).ok()?.to_be_bytes());
    data.extend(tag);
    data.extend(key);
    for server in servers {
        data.extend(Name::from_text(server.as_bytes(), Some(origin)).ok()?.borrow().as_wire());
    }
    Some(data)
}

/// NID and L64 (RFC 6742 §2.1 and §2.3): four groups of hexadecimal digits.
fn locator(word: &str) -> Option<[u8; 8]> {
    let mut data = [0; 8];
    let mut groups = word.split(':');
    for pair in data.chunks_exact_mut(2) {
        let group = groups.next().filter(|group| (1..=4).contains(&group.len()))?;
        pair.copy_from_slice(&u16::from_str_radix(group, 16).ok()?.to_be_bytes());
    }
    groups.next().is_none().then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rtype: u16, text: &str, want: Option<&str>) {
        let origin: Name = "example".parse().unwrap();
        let words: Vec<&str> = text.split_whitespace().collect();
        let data = read(Type(rtype), &words, origin.borrow());
        let hex = data.as_ref().map(|data| data.iter().fold(String::new(), |hex, octet| hex + &format!("{octet:02x}")));
        assert_eq!(hex.as_deref(), want, "{text}");
        if let Some(data) = data {
            assert!(is_well_formed(Type(rtype), &data), "{text}");
        }
    }

    #[test]
    fn what_the_rfcs_show_is_read() {
        // RFC 1876 appendix A and §4; RFC 3123 §5; RFC 4025 §3.2; RFC 8005 §6; RFC 6742 §2.
        check(29, "42 21 54 N 71 06 18 W -24m 30m", Some("0033161389172dd070be15f000988d20"));
        check(29, "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m", Some("000016138b3cf018810cbce0009895b8"));
        check(29, "0 N 0 E 0", Some("00121613800000008000000000989680"));
        check(42, "1:192.168.32.0/21 !1:192.168.38.0/28", Some("00011503c0a82000011c83c0a826"));
        check(42, "1:224.0.0.0/4 2:FF00:0:0:0:0:0:0:0/8", Some("00010401e000020801ff"));
        check(42, "", Some(""));
        check(45, "10 1 2 192.0.2.38 AQNRU3mG", Some("0a0102c0000226010351537986"));
        check(45, "10 0 2 . AQNRU3mG", Some("0a0002010351537986"));
        check(45, "10 3 2 gw AQNR", Some("0a0302026777076578616d706c6500010351"));
        check(55, "2 2001 AQNR rvs", Some("02020003200101035103727673076578616d706c6500"));
        check(104, "0014:4fff:ff20:ee64", Some("00144fffff20ee64"));
        check(106, "2001:0DB8:1140:1000", Some("20010db811401000"));
        check(11, "tcp smtp 0", Some("0680000040"));
    }

    #[test]
    fn what_is_of_another_form_is_not() {
        for (rtype, text) in [
            (29, "91 N 0 E 0"),
            (29, "90 0 0.001 N 0 E 0"),
            (29, "1 60 N 0 E 0"),
            (29, "1 1 1 1 N 0 E 0"),
            (29, "1 N 1 E"),
            (29, "1 N 1 E 1 2 3 4 5"),
            (29, "1 N 1 E -100001m"),
            (29, "1 N 1 E 1.234m"),
            (42, "3:1/1"),
            (42, "1:192.0.2.0/33"),
            (42, "1:192.0.2.0"),
            (45, "10 4 2 . AQNR"),
            (45, "10 1 2 ::1 AQNR"),
            (45, "10 0 2 gw AQNR"),
            (55, "2 200 AQNR"),
            (55, "2 2001"),
            (104, "1:2:3"),
            (104, "1:2:3:4:5"),
            (104, "1:2:3:44444"),
            (11, "tcp mail"),
            (11, ""),
        ] {
            check(rtype, text, None);
        }
    }

    #[test]
    fn octets_are_held_against_their_type() {
        for (rtype, data, want) in [
            (11, &[6][..], true),
            (11, &[], false),
            (29, &[0; 16], true),
            (29, &[0; 15], false),
            (29, &[1], true),
            (42, &[0, 1, 8, 2, 10], false),
            (42, &[0, 1, 8], false),
            (45, &[1, 1, 1, 1, 2, 3], false),
            (45, &[1, 3, 1, 1], false),
            (45, &[1, 9, 1], false),
            (55, &[2, 1, 0, 1, 9, 9], false),
            (55, &[1, 1, 0, 1, 9, 9, 1], false),
            (104, &[0; 8], true),
            (106, &[0; 9], false),
        ] {
            assert_eq!(is_well_formed(Type(rtype), data), want, "{rtype} {data:?}");
        }
    }
}
