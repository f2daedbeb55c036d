//! Sizes, times and networks as people write them: `"10 MiB"`, `"30 s"`, `"10.77.0.0/16"`.
//!
//! A bare number is refused: `timeout = 30` leaves the reader to guess what thirty means.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
    time::Duration,
};

/// A number of octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A network: an address and how many of its first bits all members share. `10.77.1.2` alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// The network of as many bits at another address.
    #[must_use]
    pub fn map_address(self, map: impl FnOnce(IpAddr) -> IpAddr) -> Self {
        Self { address: map(self.address), ..self }
    }

    /// Whether `address` is in it. An IPv4 address that came in IPv6's clothes (`::ffff:10.0.0.1`, RFC 4291 §2.5.5.2) is the
    /// IPv4 address.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(address)) => {
                (ours.to_bits() ^ address.to_bits()).checked_shr(32 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(address)) => {
                (ours.to_bits() ^ address.to_bits()).checked_shr(128 - u32::from(self.bits)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Networks that nobody reaches from the Internet: this machine's own, and the private ones of RFC 1918, RFC 4193 and RFC 4291
/// §2.5.6. Services that can be misused serve these, unless somebody says otherwise.
pub fn private_networks() -> Vec<Network> {
    const PRIVATE: [&str; 7] =
        ["127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1", "fc00::/7", "fe80::/10"];
    PRIVATE.map(|network| network.parse().expect("these are networks")).to_vec()
}

/// A network that cannot be understood. The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not an address with a number of bits.
    #[error("`{0}` is not a network; write an address and perhaps a number of bits, like \"10.77.0.0/16\" or \"::1\"")]
    Malformed(String),
    /// Bits are set behind the prefix: is the address wrong, or the number?
    #[error("`{0}` has bits behind the first {1}; the network is \"{2}\"")]
    HostBits(String, u8, Network),
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Malformed(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let is_number = |bits: &&str| !bits.is_empty() && bits.bytes().all(|octet| octet.is_ascii_digit());
        let bits: u8 = match bits {
            None => most,
            Some(bits) => Some(bits).filter(is_number).and_then(|bits| bits.parse().ok()).ok_or_else(wrong)?,
        };
        if bits > most {
            return Err(wrong());
        }
        let masked = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        let network = Self { address: masked, bits };
        if masked == address { Ok(network) } else { Err(NetworkError::HostBits(text.to_owned(), bits, network)) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, bits } = self;
        if *bits == if address.is_ipv4() { 32 } else { 128 } {
            write!(f, "{address}")
        } else {
            write!(f, "{address}/{bits}")
        }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

const SIZES: [(&str, u64); 9] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("octets", 1),
    ("octet", 1),
    ("B", 1),
];

/// In milliseconds. The longest name that fits exactly is used for writing.
const TIMES: [(&str, u64); 6] =
    [("weeks", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];

impl Size {
    /// `n` KiB.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// As a length in memory.
    pub fn octets(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Span {
    /// `n` seconds.
    pub const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

/// A size or time that cannot be understood. The text says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}; write a whole number and a unit, like {example} (units: {units})")]
pub struct UnitError {
    text: String,
    what: &'static str,
    example: &'static str,
    units: String,
}

/// `"10 MiB"` is 10 and the factor of MiB.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = (&text[..digits], text[digits..].trim_start());
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn write(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], one: &str) -> fmt::Result {
    let exact = units.iter().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor));
    let (name, factor) = exact.copied().unwrap_or((one, 1));
    write!(f, "{} {name}", value / factor)
}

fn names(units: &[(&str, u64)]) -> String {
    units.iter().rev().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl FromStr for Size {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { text: text.to_owned(), what: "size", example: "\"10 MiB\"", units: names(&SIZES) };
        parse(text, &SIZES).map(Self).ok_or_else(wrong)
    }
}

impl FromStr for Span {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError { text: text.to_owned(), what: "time", example: "\"30 s\"", units: names(&TIMES) };
        parse(text, &TIMES).map(|millis| Self(Duration::from_millis(millis))).ok_or_else(wrong)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Powers of two first, then single octets: a thousand is written "1000 B", not "1 kB", so that what is printed
        // reads the same to everybody.
        write(f, self.0, &SIZES[..3], "B")
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0.as_millis() as u64, &TIMES, "ms")
    }
}

/// Both are written and read as strings; a number gets an error that shows how.
macro_rules! as_string {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$type, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Visitor)
            }
        }
    };
}
as_string!(Size, "a size with its unit in quotes, like \"10 MiB\"");
as_string!(Span, "a time with its unit in quotes, like \"30 s\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_members_and_no_other() {
        for (network, address, want) in [
            ("10.77.0.0/16", "10.77.255.1", true),
            ("10.77.0.0/16", "10.78.0.0", false),
            ("10.77.0.0/16", "::ffff:10.77.1.1", true),
            ("10.77.0.0/16", "::1", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "::1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), want, "{network} {address}");
        }
        for text in ["", "10.77", "10.77.0.0/33", "10.77.0.0/", "10.77.0.0/+8", "::/129", "10.77.0.0/16/2", "lan"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError::Malformed(text.to_owned())), "{text}");
        }
        let error = "10.77.1.2/16".parse::<Network>().unwrap_err().to_string();
        assert_eq!(error, "`10.77.1.2/16` has bits behind the first 16; the network is \"10.77.0.0/16\"");
    }

    #[test]
    fn what_people_write_is_understood() {
        for (text, octets) in
            [("10 MiB", 10 << 20), ("64KiB", 64 << 10), ("1 GB", 1_000_000_000), ("7 B", 7), ("0 B", 0)]
        {
            assert_eq!(text.parse(), Ok(Size(octets)), "{text}");
        }
        for (text, millis) in [("30 s", 30_000), ("5min", 300_000), ("250 ms", 250), ("2 d", 172_800_000)] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(millis))), "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_an_example() {
        for text in [
            "",
            "10",
            "MiB",
            "ten MiB",
            "-1 s",
            "1.5 s",
            "10 Mib",
            "10 m",
            "99999999999999999999 B",
            "18446744073709551615 KiB",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        let message = "30".parse::<Span>().unwrap_err().to_string();
        assert!(message.contains("\"30 s\"") && message.contains("min"), "{message}");
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for octets in [0, 1, 1000, 1024, 1536, 10 << 20, 3 << 30] {
            assert_eq!(Size(octets).to_string().parse(), Ok(Size(octets)));
        }
        for millis in [0, 1, 1500, 60_000, 90_000, 86_400_000] {
            let span = Span(Duration::from_millis(millis));
            assert_eq!(span.to_string().parse(), Ok(span));
        }
        assert_eq!((Size::mib(10).to_string(), Span::secs(90).to_string()), ("10 MiB".to_owned(), "90 s".to_owned()));
    }
}
