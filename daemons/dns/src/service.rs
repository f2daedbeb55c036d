//! The parameters of SVCB and HTTPS (RFC 9460): `alpn=h2,h3 port=8443` on paper, on the wire sorted by number.
//!
//! ```text
//!   alpn="h2,h3"        00 01  00 06  02 h 2  02 h 3        key, length, value
//! ```

use crate::record::quoted;
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    fmt::Display,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

const MANDATORY: u16 = 0;
const ALPN: u16 = 1;
const NO_DEFAULT_ALPN: u16 = 2;
const PORT: u16 = 3;
const IPV4_HINT: u16 = 4;
const ECH: u16 = 5;
const IPV6_HINT: u16 = 6;
const OHTTP: u16 = 8;

/// The keys with a name, by number (RFC 9460 §14.3.2, RFC 9461 §5, RFC 9540 §4).
const NAMES: [&str; 9] =
    ["mandatory", "alpn", "no-default-alpn", "port", "ipv4hint", "ech", "ipv6hint", "dohpath", "ohttp"];

/// A key by its name, or as `key123` (§2.1).
fn key(text: &str) -> Option<u16> {
    match NAMES.iter().position(|name| *name == text) {
        Some(number) => Some(number as u16),
        None => text.strip_prefix("key").filter(|digits| !digits.starts_with('+'))?.parse().ok(),
    }
}

/// One parameter from its key and its value, in which no escapes are left: its number, and its octets.
///
/// # Errors
/// There is no such key, or the value does not fit: what would.
pub fn read(name: &str, value: &[u8]) -> Result<(u16, Vec<u8>), &'static str> {
    let number = key(name).ok_or("a parameter: alpn=, port=, ipv4hint=, key123= ...")?;
    let (data, right) = match number {
        MANDATORY => (keys(value), "mandatory= and keys, each once, and not itself"),
        ALPN => (protocols(value), "alpn= and names of protocols, as in alpn=h2,h3"),
        NO_DEFAULT_ALPN | OHTTP => (value.is_empty().then(Vec::new), "this parameter without a value"),
        PORT => (one(value).map(|port: u16| port.to_be_bytes().to_vec()), "port= and a number up to 65535"),
        IPV4_HINT => (list(value, |ip: Ipv4Addr| ip.octets()), "ipv4hint= and addresses, as in ipv4hint=192.0.2.1"),
        ECH => (STANDARD.decode(value).ok().filter(|octets| !octets.is_empty()), "ech= and base64"),
        IPV6_HINT => (list(value, |ip: Ipv6Addr| ip.octets()), "ipv6hint= and addresses, as in ipv6hint=2001:db8::1"),
        _ => (Some(value.to_vec()), ""),
    };
    Ok((number, data.ok_or(right)?))
}

fn one<T: FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Values with commas between them, none of which may stand in one of them.
fn list<T: FromStr, const N: usize>(value: &[u8], octets: impl Fn(T) -> [u8; N]) -> Option<Vec<u8>> {
    let items = value.split(|octet| *octet == b',').map(|item| one(item).map(&octets));
    Some(items.collect::<Option<Vec<_>>>()?.concat())
}

/// §8: on paper in any order, on the wire in their own.
fn keys(value: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(value).ok()?;
    let mut keys = text.split(',').map(key).collect::<Option<Vec<u16>>>()?;
    keys.sort_unstable();
    let data = keys.iter().flat_map(|key| key.to_be_bytes()).collect::<Vec<u8>>();
    are_keys(&data).then_some(data)
}

/// §7.1.1, and appendix A.1: a comma or a backslash in a name has a backslash before it.
fn protocols(value: &[u8]) -> Option<Vec<u8>> {
    let (mut names, mut octets) = (vec![vec![]], value.iter());
    while let Some(octet) = octets.next() {
        match octet {
            b',' => names.push(vec![]),
            b'\\' => names.last_mut()?.push(*octets.next().filter(|next| matches!(next, b',' | b'\\'))?),
            plain => names.last_mut()?.push(*plain),
        }
    }
    let framed = |name: &Vec<u8>| {
        let length = u8::try_from(name.len()).ok().filter(|length| *length > 0)?;
        Some([&[length], &name[..]].concat())
    };
    Some(names.iter().map(framed).collect::<Option<Vec<_>>>()?.concat())
}

/// The parameters one after the other; `None` where octets are left that are none.
fn each(mut data: &[u8]) -> impl Iterator<Item = Option<(u16, &[u8])>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let next = (|| {
            let ([high, low, long, short], behind) = data.split_first_chunk()?;
            let (value, behind) = behind.split_at_checked(u16::from_be_bytes([*long, *short]).into())?;
            data = behind;
            Some((u16::from_be_bytes([*high, *low]), value))
        })();
        if next.is_none() {
            data = &[];
        }
        Some(next)
    })
}

/// Whether octets are parameters: keys strictly ascending, and values of the form that they want (§2.2). What breaks this, clients must
/// not use at all.
pub fn is_well_formed(data: &[u8]) -> bool {
    let mut above = None;
    each(data).all(|parameter| {
        parameter.is_some_and(|(key, value)| {
            let ascends = above < Some(key);
            above = Some(key);
            ascends && is_value(key, value)
        })
    })
}

/// The values of §7 and §8; those of other keys are octets.
fn is_value(key: u16, value: &[u8]) -> bool {
    let is_list_of = |octets: usize| !value.is_empty() && value.len().is_multiple_of(octets);
    match key {
        MANDATORY => are_keys(value),
        ALPN => !value.is_empty() && names(value).all(|name| name.is_some_and(|name| !name.is_empty())),
        NO_DEFAULT_ALPN | OHTTP => value.is_empty(),
        PORT => value.len() == 2,
        IPV4_HINT => is_list_of(4),
        ECH => !value.is_empty(),
        IPV6_HINT => is_list_of(16),
        _ => true,
    }
}

/// §8: at least one key, strictly ascending, and not `mandatory` itself.
fn are_keys(value: &[u8]) -> bool {
    let (keys, rest) = value.as_chunks::<2>();
    rest.is_empty() && keys.first().is_some_and(|first| *first != [0, 0]) && keys.is_sorted_by(|one, next| one < next)
}

/// Names with their lengths before them; `None` where one is cut off.
fn names(mut value: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let (length, behind) = value.split_first()?;
        let name = behind.split_at_checked(usize::from(*length));
        value = name.map_or(&[], |(_, behind)| behind);
        Some(name.map(|(name, _)| name))
    })
}

/// What keeps clients from using well-formed parameters (§7.1.1, §8).
pub fn inconsistency(data: &[u8]) -> Option<&'static str> {
    let all: Vec<(u16, &[u8])> = each(data).flatten().collect();
    let has = |wanted: u16| all.iter().any(|(key, _)| *key == wanted);
    for (key, value) in &all {
        match *key {
            MANDATORY if !value.as_chunks().0.iter().all(|key| has(u16::from_be_bytes(*key))) => {
                return Some("`mandatory` names a parameter that is not there");
            }
            NO_DEFAULT_ALPN if !has(ALPN) => return Some("`no-default-alpn` wants `alpn` beside it"),
            _ => {}
        }
    }
    None
}

/// Well-formed parameters as [`read`] takes them, with the escapes of a master file. `None` for those that it refuses.
pub fn write(data: &[u8]) -> Option<String> {
    if inconsistency(data).is_some() {
        return None;
    }
    let each = each(data).map(|parameter| {
        let (key, value) = parameter?;
        let name = |key: u16| match NAMES.get(usize::from(key)) {
            Some(name) => (*name).to_owned(),
            None => format!("key{key}"),
        };
        let joined = |items: Vec<String>| items.join(",");
        let value = match key {
            MANDATORY => joined(value.as_chunks().0.iter().map(|key| name(u16::from_be_bytes(*key))).collect()),
            ALPN => {
                let escaped = |name: &[u8]| {
                    let before = |octet: &u8| if matches!(octet, b',' | b'\\') { &b"\\"[..] } else { b"" };
                    name.iter().flat_map(|octet| [before(octet), &[*octet]].concat()).collect::<Vec<u8>>()
                };
                let names: Vec<Vec<u8>> = names(value).flatten().map(escaped).collect();
                quoted(&names.join(&b','))
            }
            PORT => u16::from_be_bytes(value.try_into().ok()?).to_string(),
            IPV4_HINT => addresses(value, |octets: [u8; 4]| Ipv4Addr::from(octets)),
            ECH => STANDARD.encode(value),
            IPV6_HINT => addresses(value, |octets: [u8; 16]| Ipv6Addr::from(octets)),
            _ if value.is_empty() => return Some(name(key)),
            _ => quoted(value),
        };
        Some(format!("{}={value}", name(key)))
    });
    Some(each.collect::<Option<Vec<String>>>()?.join(" "))
}

fn addresses<A: Display, const N: usize>(value: &[u8], address: impl Fn([u8; N]) -> A) -> String {
    let texts: Vec<String> = value.as_chunks().0.iter().map(|octets| address(*octets).to_string()).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{rdata::Type, zonefile};
    use std::path::Path;

    #[test]
    fn service_parameters_ascend_and_have_values_that_fit() {
        for (parameters, want) in [
            (&b""[..], true),
            (b"\0\x01\0\x03\x02h2", true),
            (b"\0\x01\0\x06\x02h2\x02h3\0\x03\0\x02\x20\xfb", true),
            (b"\0\0\0\x02\0\x03\0\x03\0\x02\x20\xfb", true),
            (b"\0\x02\0\0", true),
            (b"\0\x04\0\x08aaaabbbb\0\x06\0\x100123456789abcdef", true),
            (b"\xff\0\0\0\xff\x01\0\x01x", true),
            // Cut off: in the key, in the length, in the value.
            (b"\0", false),
            (b"\0\x03\0", false),
            (b"\0\x03\0\x02\x20", false),
            (b"\xff\0\0\x02x", false),
            // A key twice, or behind a greater one.
            (b"\0\x03\0\x02\x20\xfb\0\x03\0\x02\x20\xfb", false),
            (b"\0\x03\0\x02\x20\xfb\0\x01\0\x03\x02h2", false),
            // mandatory: half a key, none, itself, one twice, in the wrong order.
            (b"\0\0\0\x01\0", false),
            (b"\0\0\0\0", false),
            (b"\0\0\0\x02\0\0", false),
            (b"\0\0\0\x04\0\x03\0\x03\0\x03\0\x02\x20\xfb", false),
            (b"\0\0\0\x04\0\x03\0\x01\0\x01\0\x03\x02h2\0\x03\0\x02\x20\xfb", false),
            // alpn: none, an empty one, one that is cut off.
            (b"\0\x01\0\0", false),
            (b"\0\x01\0\x04\0\x02h2", false),
            (b"\0\x01\0\x04\x02h2\0", false),
            (b"\0\x01\0\x02\x02h", false),
            // no-default-alpn has no value, a port is two octets, addresses are whole and at least one.
            (b"\0\x02\0\x01x", false),
            (b"\0\x03\0\x01x", false),
            (b"\0\x04\0\x03aaa", false),
            (b"\0\x04\0\0", false),
            (b"\0\x06\0\x04aaaa", false),
        ] {
            assert_eq!(is_well_formed(parameters), want, "{parameters:?}");
        }
    }

    fn read_line(line: &str) -> Result<Vec<u8>, String> {
        let records = zonefile::records(Path::new(""), format!("$TTL 7200\n{line}\n").as_bytes());
        records.map(|records| records[0].rdata.clone()).map_err(|error| error.problem)
    }

    /// RFC 9460 appendix D.1 and D.2, and back again.
    #[test]
    fn the_test_vectors_of_the_rfc_are_read_and_written() {
        const COM: &str = "03666f6f076578616d706c6503636f6d00";
        const ORG: &str = "03666f6f076578616d706c65036f726700";
        for (line, data) in [
            ("HTTPS 0 foo.example.com.", format!("0000{COM}")),
            ("SVCB 1 .", "000100".to_owned()),
            ("SVCB 16 foo.example.com. port=53", format!("0010{COM}000300020035")),
            ("SVCB 1 foo.example.com. key667=hello", format!("0001{COM}029b000568656c6c6f")),
            (r#"SVCB 1 foo.example.com. key667="hello\210qoo""#, format!("0001{COM}029b000968656c6c6fd2716f6f")),
            (
                r#"SVCB 1 foo.example.com. ( ipv6hint="2001:db8::1,2001:db8::53:1" )"#,
                format!("0001{COM}0006002020010db800000000000000000000000120010db8000000000000000000530001"),
            ),
            (
                r#"SVCB 1 example.com. ( ipv6hint="2001:db8:122:344::192.0.2.33" )"#,
                "0001076578616d706c6503636f6d000006001020010db80122034400000000c0000221".to_owned(),
            ),
            (
                "SVCB 16 foo.example.org. ( alpn=h2,h3-19 mandatory=ipv4hint,alpn ipv4hint=192.0.2.1 )",
                format!("0010{ORG}0000000400010004000100090268320568332d313900040004c0000201"),
            ),
            (
                r#"SVCB 16 foo.example.org. alpn="f\\\\oo\\,bar,h2""#,
                format!("0010{ORG}0001000c08665c6f6f2c626172026832"),
            ),
            (
                r"SVCB 16 foo.example.org. alpn=f\\\092oo\092,bar,h2",
                format!("0010{ORG}0001000c08665c6f6f2c626172026832"),
            ),
        ] {
            let read = read_line(&format!("example.com. {line}")).unwrap();
            let octet = |at| u8::from_str_radix(&data[at..at + 2], 16).unwrap();
            assert_eq!(read, (0..data.len()).step_by(2).map(octet).collect::<Vec<u8>>(), "{line}");
            let rtype: Type = line.split(' ').next().unwrap().parse().unwrap();
            let written = crate::record::Data { rtype, rdata: &read }.to_string();
            assert!(!written.starts_with("\\#"), "{written}");
            assert_eq!(read_line(&format!("example.com. {rtype} {written}")), Ok(read), "{line}: {written}");
        }
    }

    /// RFC 9460 appendix D.3, and what else clients would not use.
    #[test]
    fn what_clients_would_not_use_is_refused_with_the_cure() {
        for (parameters, problem) in [
            ("key123=abc key123=def", "a parameter stands there twice"),
            ("mandatory", "`mandatory` stands where mandatory= and keys, each once, and not itself should be"),
            ("alpn", "`alpn` stands where alpn= and names of protocols, as in alpn=h2,h3 should be"),
            ("alpn=h2,", "`alpn=h2,` stands where alpn= and names of protocols, as in alpn=h2,h3 should be"),
            ("port", "`port` stands where port= and a number up to 65535 should be"),
            ("port=65536", "`port=65536` stands where port= and a number up to 65535 should be"),
            ("ipv4hint", "`ipv4hint` stands where ipv4hint= and addresses, as in ipv4hint=192.0.2.1 should be"),
            ("ipv6hint", "`ipv6hint` stands where ipv6hint= and addresses, as in ipv6hint=2001:db8::1 should be"),
            ("ech", "`ech` stands where ech= and base64 should be"),
            ("no-default-alpn=abc", "`no-default-alpn=abc` stands where this parameter without a value should be"),
            ("mandatory=key123", "`mandatory` names a parameter that is not there"),
            (
                "mandatory=mandatory",
                "`mandatory=mandatory` stands where mandatory= and keys, each once, and not itself should be",
            ),
            (
                "mandatory=key123,key123 key123=abc",
                "`mandatory=key123,key123` stands where mandatory= and keys, each once, and not itself should be",
            ),
            ("no-default-alpn", "`no-default-alpn` wants `alpn` beside it"),
            ("ports=1", "`ports=1` stands where a parameter: alpn=, port=, ipv4hint=, key123= ... should be"),
        ] {
            let line = format!("example.com. SVCB 1 foo.example.com. {parameters}");
            assert_eq!(read_line(&line), Err(problem.to_owned()), "{parameters}");
        }
    }
}
