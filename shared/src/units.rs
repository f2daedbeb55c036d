//! Sizes and times as people write them: `"10 MiB"`, `"30 s"`.
//!
//! A bare number is refused: `timeout = 30` leaves the reader to guess what thirty means.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr, time::Duration};

/// A number of octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A span of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

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
