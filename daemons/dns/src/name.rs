//! Domain names, as they stand on the wire.
//!
//! A name is a row of labels, each with its length before it, and ends with the root's empty label (RFC 1035 §3.1):
//!
//! ```text
//!   www.crepes.fr.   =   3 w w w  6 c r e p e s  2 f r  0
//! ```
//!
//! The octets keep the case in which somebody wrote them; comparison and hash ignore it (RFC 1034 §3.1, RFC 4343: ASCII
//! letters only, whatever the labels mean to people). [`NameRef`] borrows the octets, from a query or a zone, so that a lookup
//! allocates nothing; [`Name`] owns them.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
};

/// RFC 1035 §2.3.4: a label has 63 octets at most; two bits of its length octet tell a label from a pointer.
pub const LABEL_OCTETS_MAX: usize = 63;
/// RFC 1035 §2.3.4: a name has 255 octets at most, with the length octets and the root.
pub const NAME_OCTETS_MAX: usize = 255;
/// With 255 octets, of which the root has one, there are at most 127 labels of one octet.
pub const LABELS_MAX: usize = 127;

/// A name that owns its octets.
#[derive(Clone)]
pub struct Name(Box<[u8]>);

/// A name inside other octets: uncompressed, whole, with the root label at its end.
#[derive(Clone, Copy)]
pub struct NameRef<'a>(&'a [u8]);

/// Why octets or text are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The octets end before the name does.
    #[error("the name is cut off")]
    CutOff,
    /// A length octet above 63 (or a compression pointer where none may be).
    #[error("a label is longer than 63 octets")]
    LabelTooLong,
    /// More than 255 octets.
    #[error("the name is longer than 255 octets")]
    NameTooLong,
    /// Two dots in a row, or one at the beginning.
    #[error("a label is empty: there are two dots in a row, or one at the beginning")]
    EmptyLabel,
    /// A backslash with nothing, or no number up to 255, behind it.
    #[error("`\\` must be followed by a character or by three digits up to 255")]
    BadEscape,
    /// A name without a dot at its end where no origin is known.
    #[error("the name does not end with a dot, and there is no origin to add")]
    NoOrigin,
}

impl<'a> NameRef<'a> {
    /// The root, which is the empty name.
    pub const ROOT: NameRef<'static> = NameRef(&[0]);

    /// Reads an uncompressed name from the beginning of `octets`, which may go on behind it.
    pub fn parse(octets: &'a [u8]) -> Result<Self, NameError> {
        let mut at = 0;
        loop {
            match octets.get(at) {
                None => return Err(NameError::CutOff),
                Some(0) => {
                    let name = &octets[..=at];
                    return if name.len() > NAME_OCTETS_MAX { Err(NameError::NameTooLong) } else { Ok(Self(name)) };
                }
                Some(&length) if usize::from(length) > LABEL_OCTETS_MAX => return Err(NameError::LabelTooLong),
                Some(&length) => at += 1 + usize::from(length),
            }
            if at >= NAME_OCTETS_MAX {
                return Err(NameError::NameTooLong);
            }
        }
    }

    /// The octets on the wire.
    pub fn as_wire(self) -> &'a [u8] {
        self.0
    }

    /// Whether this is the root.
    pub fn is_root(self) -> bool {
        self.0.len() == 1
    }

    /// The first label and the name behind it; `None` for the root.
    pub fn split_first(self) -> Option<(&'a [u8], NameRef<'a>)> {
        let length = usize::from(self.0[0]);
        (length > 0).then(|| (&self.0[1..=length], NameRef(&self.0[1 + length..])))
    }

    /// The name without its first label; `None` for the root.
    pub fn parent(self) -> Option<NameRef<'a>> {
        self.split_first().map(|(_, parent)| parent)
    }

    /// The labels as they are written, from the leaf to the root, which is not among them.
    pub fn labels(self) -> impl Iterator<Item = &'a [u8]> + Clone {
        let mut rest = self;
        std::iter::from_fn(move || {
            let (label, parent) = rest.split_first()?;
            rest = parent;
            Some(label)
        })
    }

    /// How many labels there are; the root has none.
    pub fn label_count(self) -> usize {
        self.labels().count()
    }

    /// Whether this name is `other` or lies below it.
    pub fn is_within(self, other: NameRef<'_>) -> bool {
        let Some(above) = self.0.len().checked_sub(other.0.len()) else { return false };
        // The octets could agree by chance in the middle of a label, so walk by labels.
        let mut rest = self;
        while rest.0.len() > other.0.len() {
            let Some(parent) = rest.parent() else { return false };
            rest = parent;
        }
        rest.0.len() + above == self.0.len() && rest == other
    }

    /// This name with `*` as its only label before it: the wildcard that would match below it (RFC 4592 §3.3.1).
    pub fn wildcard(self) -> Result<Name, NameError> {
        Name::join(b"\x01*", self)
    }

    /// An owned copy.
    pub fn to_name(self) -> Name {
        Name(self.0.into())
    }

    /// The order of RFC 4034 §6.1: by labels from the root, as lower-case octets, a missing label first.
    pub fn canonical_cmp(self, other: NameRef<'_>) -> Ordering {
        let (mine, theirs) = (Suffixes::of(self), Suffixes::of(other));
        let pairs = mine.from_root().skip(1).zip(theirs.from_root().skip(1));
        for ((mine, _), (theirs, _)) in pairs {
            let (mine, theirs) = (mine.first_label(), theirs.first_label());
            let folded = |label: &'a [u8]| label.iter().map(u8::to_ascii_lowercase);
            let theirs = theirs.iter().map(u8::to_ascii_lowercase);
            match folded(mine).cmp(theirs) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
        }
        mine.count.cmp(&theirs.count)
    }

    /// The first label; empty for the root.
    fn first_label(self) -> &'a [u8] {
        &self.0[1..=usize::from(self.0[0])]
    }
}

impl PartialEq for NameRef<'_> {
    // Length octets are at most 63, below the letters, so folding the whole wire form leaves them alone.
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(other.0)
    }
}

impl Eq for NameRef<'_> {}

impl Hash for NameRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.iter().for_each(|octet| state.write_u8(octet.to_ascii_lowercase()));
    }
}

impl fmt::Display for NameRef<'_> {
    /// `www.crepes.fr.`, with what is special in a master file escaped (RFC 1035 §5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &octet in label {
                match octet {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => write!(f, "\\{}", char::from(octet))?,
                    0x21..=0x7e => write!(f, "{}", char::from(octet))?,
                    _ => write!(f, "\\{octet:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for NameRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Name {
    /// The root.
    pub fn root() -> Self {
        NameRef::ROOT.to_name()
    }

    /// Reads a name as people write it. Without a dot at its end, `origin` is added (RFC 1035 §5.1).
    pub fn from_text(text: &[u8], origin: Option<NameRef<'_>>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(NAME_OCTETS_MAX + 1);
        append_text(&mut wire, text, origin)?;
        Ok(Self(wire.into()))
    }

    /// Puts labels (in wire form, without a root) before `suffix`. Too long is an error, which DNAME makes YXDOMAIN.
    pub fn join(labels: &[u8], suffix: NameRef<'_>) -> Result<Self, NameError> {
        let octets = [labels, suffix.0].concat();
        if octets.len() > NAME_OCTETS_MAX { Err(NameError::NameTooLong) } else { Ok(Self(octets.into())) }
    }

    /// The borrowed form, which has the methods.
    pub fn borrow(&self) -> NameRef<'_> {
        NameRef(&self.0)
    }
}

/// Appends the wire form of a name in text to `wire`: what a zone of a million names is read with, so it allocates nothing.
pub fn append_text(wire: &mut Vec<u8>, text: &[u8], origin: Option<NameRef<'_>>) -> Result<(), NameError> {
    let begin = wire.len();
    match text {
        b"." => {
            wire.push(0);
            return Ok(());
        }
        b"@" => {
            wire.extend_from_slice(origin.ok_or(NameError::NoOrigin)?.0);
            return Ok(());
        }
        b"" => return Err(NameError::EmptyLabel),
        _ => {}
    }
    let mut length_at = wire.len();
    wire.push(0);
    let mut octets = text.iter().copied();
    let mut absolute = false;
    while let Some(octet) = octets.next() {
        absolute = false;
        let octet = match octet {
            b'.' => {
                let length = wire.len() - length_at - 1;
                if length == 0 {
                    return Err(NameError::EmptyLabel);
                }
                wire[length_at] = length as u8;
                length_at = wire.len();
                wire.push(0);
                absolute = true;
                continue;
            }
            b'\\' => unescape(&mut octets).ok_or(NameError::BadEscape)?,
            plain => plain,
        };
        wire.push(octet);
        if wire.len() - length_at - 1 > LABEL_OCTETS_MAX {
            return Err(NameError::LabelTooLong);
        }
        if wire.len() - begin > NAME_OCTETS_MAX {
            return Err(NameError::NameTooLong);
        }
    }
    if !absolute {
        wire[length_at] = (wire.len() - length_at - 1) as u8;
        wire.extend_from_slice(origin.ok_or(NameError::NoOrigin)?.0);
    }
    if wire.len() - begin > NAME_OCTETS_MAX { Err(NameError::NameTooLong) } else { Ok(()) }
}

/// What stands behind a backslash: a character, or three digits that are an octet (RFC 1035 §5.1).
pub fn unescape(octets: &mut impl Iterator<Item = u8>) -> Option<u8> {
    let first = octets.next()?;
    if !first.is_ascii_digit() {
        return Some(first);
    }
    let digits = [first, octets.next()?, octets.next()?];
    let mut value = 0_u16;
    for digit in digits {
        value = value * 10 + u16::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    u8::try_from(value).ok()
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for Name {}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.borrow().fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;

    /// As written in a configuration: the dot at the end may be left out.
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::from_text(text.as_bytes(), Some(NameRef::ROOT))
    }
}

/// A name and all names above it, each with its hash: what a lookup walks along.
///
/// The hash of a name is made from the hash of its parent and its first label, so that all of them together cost one walk over
/// the octets.
pub struct Suffixes<'a> {
    name: NameRef<'a>,
    /// Where the labels begin, from the leaf; the last is the root.
    begins: [u8; LABELS_MAX + 1],
    /// How many labels, without the root.
    count: usize,
}

impl<'a> Suffixes<'a> {
    /// Finds where the labels begin.
    pub fn of(name: NameRef<'a>) -> Self {
        let mut begins = [0; LABELS_MAX + 1];
        let (mut at, mut count) = (0, 0);
        // Two octets a label at the least, 255 in all: `count` stays below the array's length.
        while name.0[at] != 0 {
            begins[count] = at as u8;
            count += 1;
            at += 1 + usize::from(name.0[at]);
        }
        begins[count] = at as u8;
        Self { name, begins, count }
    }

    /// How many labels the name has.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The name's last `labels` labels; 0 is the root.
    pub fn suffix(&self, labels: usize) -> NameRef<'a> {
        NameRef(&self.name.0[usize::from(self.begins[self.count - labels])..])
    }

    /// The root first, then each name on the way to the whole one, with its hash.
    pub fn from_root(&self) -> impl Iterator<Item = (NameRef<'a>, u32)> + '_ {
        let mut hash = hash_root();
        (0..=self.count).map(move |labels| {
            let name = self.suffix(labels);
            if labels > 0 {
                hash = hash_label(hash, name.first_label());
            }
            (name, finish(hash))
        })
    }
}

/// The hash of a name, the same that [`Suffixes::from_root`] gives for it.
pub fn hash(name: NameRef<'_>) -> u32 {
    let suffixes = Suffixes::of(name);
    let state = (1..=suffixes.count).fold(hash_root(), |state, n| hash_label(state, suffixes.suffix(n).first_label()));
    finish(state)
}

/// FNV-1a (its offset and prime). Who asks cannot make a lookup slow by choosing names: the chains of a table depend on the
/// names in the zone only.
fn hash_root() -> u64 {
    0xcbf2_9ce4_8422_2325
}

fn hash_label(parent: u64, label: &[u8]) -> u64 {
    let step = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
    // The length keeps `a.bc` and `ab.c` apart.
    let hash = step(parent, label.len() as u8);
    label.iter().fold(hash, |hash, octet| step(hash, octet.to_ascii_lowercase()))
}

/// The upper half is the better mixed one.
fn finish(hash: u64) -> u32 {
    ((hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn text_becomes_wire_and_back() {
        for (text, wire) in [
            (".", &b"\0"[..]),
            ("fr.", b"\x02fr\0"),
            ("www.crepes.fr.", b"\x03www\x06crepes\x02fr\0"),
            ("*.crepes.fr.", b"\x01*\x06crepes\x02fr\0"),
            ("_sip._tcp.crepes.fr.", b"\x04_sip\x04_tcp\x06crepes\x02fr\0"),
            (r"Action\.domains.crepes.fr.", b"\x0eAction.domains\x06crepes\x02fr\0"),
            (r"a\\b\000\255.fr.", b"\x05a\\b\0\xff\x02fr\0"),
        ] {
            let name = Name::from_text(text.as_bytes(), None).unwrap();
            assert_eq!(name.borrow().as_wire(), wire, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.", "a".repeat(64));
        let longest = "abcdefg.".repeat(32);
        for (text, want) in [
            ("", NameError::EmptyLabel),
            ("a..b.", NameError::EmptyLabel),
            (".a.", NameError::EmptyLabel),
            ("a", NameError::NoOrigin),
            ("@", NameError::NoOrigin),
            (r"a\", NameError::BadEscape),
            (r"a\25", NameError::BadEscape),
            (r"a\256.", NameError::BadEscape),
            (&long, NameError::LabelTooLong),
            (&longest, NameError::NameTooLong),
        ] {
            assert_eq!(Name::from_text(text.as_bytes(), None).unwrap_err(), want, "{text}");
        }
        assert_eq!(name(&format!("{}.", "a".repeat(63))).borrow().as_wire().len(), 65);
        let fits = format!("{}abcdef.", "abcdefg.".repeat(30));
        assert_eq!(name(&fits).borrow().as_wire().len(), 248);
        for (wire, want) in [
            (&b""[..], NameError::CutOff),
            (b"\x03ww", NameError::CutOff),
            (b"\x03www", NameError::CutOff),
            (b"\x40aaaa", NameError::LabelTooLong),
            (b"\xc0\x0c", NameError::LabelTooLong),
        ] {
            assert_eq!(NameRef::parse(wire).unwrap_err(), want, "{wire:?}");
        }
        let mut wire = b"\x01a".repeat(127);
        wire.push(0);
        assert_eq!(NameRef::parse(&wire).unwrap().label_count(), 127);
        wire.splice(0..0, *b"\x01a");
        assert_eq!(NameRef::parse(&wire).unwrap_err(), NameError::NameTooLong);
    }

    #[test]
    fn case_is_kept_and_means_nothing() {
        let (one, other) = (name("WwW.Crepes.FR"), name("www.crepes.fr"));
        assert_eq!(one, other);
        assert_eq!(hash(one.borrow()), hash(other.borrow()));
        assert_eq!(one.to_string(), "WwW.Crepes.FR.");
        // RFC 4343 §3: only ASCII letters have case; `[` and `{` differ by the same bit and are different.
        assert_ne!(name("[.fr"), name("{.fr"));
    }

    #[test]
    fn within_means_by_whole_labels() {
        for (inner, outer, want) in [
            ("www.crepes.fr", "crepes.fr", true),
            ("crepes.fr", "CREPES.fr", true),
            ("crepes.fr", ".", true),
            (".", "fr", false),
            ("fr", "crepes.fr", false),
            ("xcrepes.fr", "crepes.fr", false),
            // The octets of the longer one end like the shorter one, but a label begins elsewhere.
            (r"a\002fr", "fr", false),
        ] {
            assert_eq!(name(inner).borrow().is_within(name(outer).borrow()), want, "{inner} in {outer}");
        }
    }

    #[test]
    fn the_order_is_that_of_rfc_4034() {
        let sorted = [
            "example.",
            "a.example.",
            "yljkjljk.a.example.",
            "Z.a.example.",
            "zABC.a.EXAMPLE.",
            "z.example.",
            r"\001.z.example.",
            "*.z.example.",
            r"\200.z.example.",
        ];
        for (i, one) in sorted.iter().enumerate() {
            for (j, other) in sorted.iter().enumerate() {
                assert_eq!(name(one).borrow().canonical_cmp(name(other).borrow()), i.cmp(&j), "{one} {other}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_octets_are_printed_so_that_they_are_read_again(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..9)) {
            let wire: Vec<u8> = labels.iter().flat_map(|l| std::iter::once(l.len() as u8).chain(l.iter().copied())).chain([0]).collect();
            let name = NameRef::parse(&wire).unwrap();
            let again: Name = name.to_string().parse().unwrap();
            prop_assert_eq!(again.borrow().as_wire(), &wire[..]);
            let walked: Vec<_> = Suffixes::of(name).from_root().collect();
            prop_assert_eq!(walked.len(), labels.len() + 1);
            for (suffix, walked_hash) in walked {
                prop_assert_eq!(walked_hash, hash(suffix));
                prop_assert!(name.is_within(suffix));
            }
        }

        #[test]
        fn no_octets_make_the_reader_panic(octets in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = NameRef::parse(&octets) {
                prop_assert!(name.as_wire().len() <= NAME_OCTETS_MAX);
                prop_assert_eq!(name.canonical_cmp(name), Ordering::Equal);
            }
        }
    }
}
