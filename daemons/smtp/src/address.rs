//! Who mail is from and for: the paths of MAIL and RCPT (RFC 5321 §4.1.2), in UTF-8 too (RFC 6531 §3.3).
//!
//! ```text
//!   <alice@crepes.fr>                 a mailbox: local part, `@`, domain
//!   <"alice b"@[127.77.1.25]>         quoted local part, address literal
//!   <@relay.fr,@other.fr:bob@b.edu>   a source route, which is read and forgotten
//!   <>                                nobody: where a message about a lost message comes from
//!   <Postmaster>                      whoever answers for this server, without a domain
//! ```

use hickory_resolver::proto::rr::Name;
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// RFC 5321 §4.5.3.1.1, §4.5.3.1.2, §4.5.3.1.3: octets of a local part, of a domain, and of a path with its brackets.
const LOCAL_OCTETS_MAX: usize = 64;
const DOMAIN_OCTETS_MAX: usize = 255;
const PATH_OCTETS_MAX: usize = 256;
/// RFC 1035 §2.3.4: octets between two dots.
const LABEL_OCTETS_MAX: usize = 63;

/// Why this is no address. Each says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Something stands outside of `<` and `>`, or they are not there.
    #[error("put the address into angle brackets, as in <alice@crepes.fr>")]
    Brackets,
    /// There is no `@` where one must be.
    #[error("an address is a name, an @, and a domain, as in <alice@crepes.fr>")]
    At,
    /// What stands before the `@`.
    #[error(
        "left of the @ stand letters, digits and !#$%&'*+-/=?^_`{{|}}~ with dots between, or a text in double quotes"
    )]
    Local,
    /// What stands behind the `@`.
    #[error("right of the @ stands a domain such as crepes.fr, or an address such as [127.77.1.25] or [IPv6:::1]")]
    Domain,
    /// RFC 5321 §4.5.3.1.
    #[error("too long: at most 64 octets left of the @, 255 right of it, 256 in all")]
    TooLong,
    /// RFC 6531 §3.3: only with the parameter SMTPUTF8.
    #[error("letters beyond ASCII need SMTPUTF8 behind MAIL's address")]
    Ascii,
}

/// A domain name: labels of letters, digits and inner hyphens, with dots between. Kept as it was written; compared without
/// regard to case (RFC 5321 §2.4), and by its A-labels (RFC 5890 §2.3.2.4): xn--exmple-cua.se is exämple.se.
#[derive(Clone, Debug)]
pub struct Domain {
    text: String,
    /// What the DNS knows it by, if it has letters beyond ASCII.
    a_labels: Option<String>,
}

impl Domain {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// As the DNS has it.
    pub(crate) fn in_dns(&self) -> &str {
        self.a_labels.as_deref().unwrap_or(&self.text)
    }
}

/// RFC 5891 §5; none for what no DNS can know, which is then only itself.
fn a_labels(text: &str) -> Option<String> {
    if text.is_ascii() {
        return None;
    }
    Name::from_utf8(text).ok().map(|name| name.to_ascii().trim_end_matches('.').to_owned())
}

impl FromStr for Domain {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > DOMAIN_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        // RFC 6531 §3.3 adds U-labels; whether they are good ones is for whoever looks them up.
        let beyond = |character: char| !character.is_ascii() && !character.is_control();
        let inner = |character: char| character.is_ascii_alphanumeric() || beyond(character);
        let label = |label: &str| {
            (1..=LABEL_OCTETS_MAX).contains(&label.len())
                && label.starts_with(inner)
                && label.ends_with(inner)
                && label.chars().all(|character| inner(character) || character == '-')
        };
        if !text.split('.').all(label) {
            return Err(AddressError::Domain);
        }
        Ok(Self { text: text.to_owned(), a_labels: a_labels(text) })
    }
}

impl PartialEq for Domain {
    fn eq(&self, other: &Self) -> bool {
        self.in_dns().eq_ignore_ascii_case(other.in_dns())
    }
}

impl Eq for Domain {}

impl std::hash::Hash for Domain {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.in_dns().bytes().for_each(|octet| state.write_u8(octet.to_ascii_lowercase()));
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where a mailbox is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By name.
    Domain(Domain),
    /// RFC 5321 §4.1.3: by address.
    Literal(IpAddr),
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let Some(literal) = text.strip_prefix('[') else { return text.parse().map(Self::Domain) };
        let literal = literal.strip_suffix(']').ok_or(AddressError::Domain)?;
        let tagged = literal.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("IPv6:"));
        let address = if tagged {
            literal[5..].parse::<Ipv6Addr>().map(IpAddr::V6)
        } else {
            literal.parse::<Ipv4Addr>().map(IpAddr::V4)
        };
        address.map(Self::Literal).map_err(|_| AddressError::Domain)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Domain(domain) => domain.fmt(f),
            Host::Literal(IpAddr::V4(address)) => write!(f, "[{address}]"),
            Host::Literal(IpAddr::V6(address)) => write!(f, "[IPv6:{address}]"),
        }
    }
}

/// `alice@crepes.fr`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mailbox {
    /// Without quotes. What it means, its case included, is known to its host alone (RFC 5321 §2.4).
    local: String,
    host: Host,
}

impl Mailbox {
    /// The mailbox `local` (without quotes) at `host`.
    ///
    /// # Errors
    /// The local part is too long, or has octets that no address can have.
    pub fn new(local: &str, host: Host) -> Result<Self, AddressError> {
        if local.len() > LOCAL_OCTETS_MAX {
            return Err(AddressError::TooLong);
        }
        // Even in quotes there is no place for controls.
        if local.is_empty() || local.chars().any(char::is_control) {
            return Err(AddressError::Local);
        }
        let mailbox = Self { local: local.to_owned(), host };
        let path_octets = mailbox.to_string().len() + "<>".len();
        if path_octets <= PATH_OCTETS_MAX { Ok(mailbox) } else { Err(AddressError::TooLong) }
    }

    /// What stands left of the `@`, without quotes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// What stands right of the `@`.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether it can be written without SMTPUTF8.
    pub fn is_ascii(&self) -> bool {
        let host = match &self.host {
            Host::Domain(domain) => domain.text.is_ascii(),
            Host::Literal(_) => true,
        };
        host && self.local.is_ascii()
    }
}

/// RFC 5322 §3.2.3 `atext`, with RFC 6531 §3.3's letters beyond ASCII.
fn is_atext(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character) || !character.is_ascii()
}

fn is_dot_string(text: &str) -> bool {
    text.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

impl FromStr for Mailbox {
    type Err = AddressError;

    /// `Local-part "@" ( Domain / address-literal )`.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (local, host) = if let Some(quoted) = text.strip_prefix('"') {
            let (local, rest) = unquote(quoted).ok_or(AddressError::Local)?;
            (local, rest.strip_prefix('@').ok_or(AddressError::At)?)
        } else {
            let (local, host) = text.split_once('@').ok_or(AddressError::At)?;
            if !is_dot_string(local) {
                return Err(AddressError::Local);
            }
            (local.to_owned(), host)
        };
        Self::new(&local, host.parse()?)
    }
}

/// `Quoted-string` behind its first quote: what it means, and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut meaning = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((meaning, &text[at + 1..])),
            // `quoted-pairSMTP`: a backslash takes the meaning from any printable one.
            '\\' => meaning.push(characters.next().map(|(_, next)| next).filter(|next| matches!(next, ' '..='~'))?),
            ' '..='~' => meaning.push(character),
            character if !character.is_ascii() => meaning.push(character),
            _ => return None,
        }
    }
    None
}

impl fmt::Display for Mailbox {
    /// RFC 5321 §4.1.2: quotes only where they must be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_string(&self.local) {
            return write!(f, "{}@{}", self.local, self.host);
        }
        f.write_str("\"")?;
        for character in self.local.chars() {
            let escape = if matches!(character, '"' | '\\') { "\\" } else { "" };
            write!(f, "{escape}{character}")?;
        }
        write!(f, "\"@{}", self.host)
    }
}

/// What MAIL FROM has: where to say that the message was lost.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ReversePath {
    /// `<>`: nowhere. RFC 5321 §4.5.5: a report about a lost report would go round for ever.
    Null,
    /// A sender.
    Mailbox(Mailbox),
}

/// What RCPT TO has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ForwardPath {
    /// RFC 5321 §4.1.1.3: `<Postmaster>` in any case, without a domain.
    Postmaster,
    /// A recipient.
    Mailbox(Mailbox),
}

impl FromStr for ReversePath {
    type Err = AddressError;

    /// With its brackets.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match inner(text)? {
            "" => Ok(Self::Null),
            mailbox => mailbox.parse().map(Self::Mailbox),
        }
    }
}

impl FromStr for ForwardPath {
    type Err = AddressError;

    /// With its brackets.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        match inner(text)? {
            postmaster if postmaster.eq_ignore_ascii_case("postmaster") => Ok(Self::Postmaster),
            mailbox => mailbox.parse().map(Self::Mailbox),
        }
    }
}

/// What stands in the brackets, without a source route.
fn inner(text: &str) -> Result<&str, AddressError> {
    if text.len() > PATH_OCTETS_MAX {
        return Err(AddressError::TooLong);
    }
    let path = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).ok_or(AddressError::Brackets)?;
    // RFC 5321 §4.1.1.3, appendix C: a server "MUST recognize source route syntax" and "SHOULD ... ignore it".
    let Some(route) = path.strip_prefix('@') else { return Ok(path) };
    let (route, mailbox) = route.split_once(':').ok_or(AddressError::At)?;
    for hop in route.split(",@") {
        hop.parse::<Domain>()?;
    }
    Ok(mailbox)
}

impl fmt::Display for ReversePath {
    /// With its brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReversePath::Null => f.write_str("<>"),
            ReversePath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

impl fmt::Display for ForwardPath {
    /// With its brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ForwardPath::Postmaster => f.write_str("<Postmaster>"),
            ForwardPath::Mailbox(mailbox) => write!(f, "<{mailbox}>"),
        }
    }
}

/// What can be shown of a name where nothing but ASCII may stand.
pub fn ascii(name: &str) -> String {
    name.chars().map(|letter| if letter.is_ascii() { letter } else { '?' }).collect()
}

/// The length of the path that `text` begins with: up to the `>` that no quote hides. What follows are parameters.
pub fn path_length(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, octet) in text.bytes().enumerate() {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::hash::{BuildHasher, RandomState};

    #[test]
    fn good_paths_are_read_and_written_as_they_mean() {
        for (text, written) in [
            ("<alice@crepes.fr>", "<alice@crepes.fr>"),
            ("<Alice.B+box@Crepes.FR>", "<Alice.B+box@Crepes.FR>"),
            ("<!#$%&'*+-/=?^_`{|}~@a.b>", "<!#$%&'*+-/=?^_`{|}~@a.b>"),
            ("<\"alice b\"@crepes.fr>", "<\"alice b\"@crepes.fr>"),
            // Quotes that are not needed mean nothing.
            ("<\"alice\"@crepes.fr>", "<alice@crepes.fr>"),
            ("<\"a\\\"b\\\\\"@crepes.fr>", "<\"a\\\"b\\\\\"@crepes.fr>"),
            ("<\"a@b>c\"@crepes.fr>", "<\"a@b>c\"@crepes.fr>"),
            ("<bob@[127.77.2.25]>", "<bob@[127.77.2.25]>"),
            ("<bob@[ipv6:::1]>", "<bob@[IPv6:::1]>"),
            ("<bob@localhost>", "<bob@localhost>"),
            ("<@relay.fr,@other.fr:bob@hamburger.edu>", "<bob@hamburger.edu>"),
            ("<håkan@exämple.se>", "<håkan@exämple.se>"),
        ] {
            assert_eq!(text.parse::<ForwardPath>().unwrap().to_string(), written, "{text}");
            assert_eq!(text.parse::<ReversePath>().unwrap().to_string(), written, "{text}");
        }
        assert_eq!("<>".parse(), Ok(ReversePath::Null));
        assert_eq!("<pOSTMASTER>".parse(), Ok(ForwardPath::Postmaster));
    }

    #[test]
    fn bad_paths_are_refused_with_what_would_be_right() {
        use AddressError::{At, Brackets, Domain, Local, TooLong};
        let long_label = format!("<a@{}.fr>", "x".repeat(64));
        let long_local = format!("<{}@b.fr>", "x".repeat(65));
        let long_path = format!("<a@{}>", vec!["x".repeat(60); 5].join("."));
        for (text, error) in [
            ("", Brackets),
            ("alice@crepes.fr", Brackets),
            ("<alice@crepes.fr", Brackets),
            ("alice", Brackets),
            ("<alice>", At),
            ("<\"alice\">", At),
            ("<@crepes.fr>", At),
            ("<@relay.fr:alice>", At),
            ("<.alice@crepes.fr>", Local),
            ("<al..ice@crepes.fr>", Local),
            ("<al ice@crepes.fr>", Local),
            ("<\"al@crepes.fr>", Local),
            ("<\"\"@crepes.fr>", Local),
            ("<\"a\tb\"@crepes.fr>", Local),
            ("<alice@>", Domain),
            // C1 controls move the cursor of a terminal as ESC does, and they are letters beyond ASCII to whoever looks no closer.
            ("<alice@crepes\u{9b}.fr>", Domain),
            ("<al\u{9b}ice@crepes.fr>", Local),
            ("<alice@crepes.fr.>", Domain),
            ("<alice@-crepes.fr>", Domain),
            ("<alice@cre_pes.fr>", Domain),
            ("<a@b@c>", Domain),
            ("<bob@[127.77.2]>", Domain),
            ("<bob@[IPv6:127.0.0.1]>", Domain),
            ("<bob@[::1]>", Domain),
            ("<bob@[127.0.0.1>", Domain),
            (&long_label, Domain),
            (&long_local, TooLong),
            (&long_path, TooLong),
        ] {
            assert_eq!(text.parse::<ForwardPath>(), Err(error), "{text}");
        }
        assert_eq!("<>".parse::<ForwardPath>(), Err(At));
        // An alias may name it, and the queue writes it down as a path.
        let long = format!("{}@{}.fr", "x".repeat(64), ["y".repeat(63), "y".repeat(63), "y".repeat(63)].join("."));
        assert_eq!(long.parse::<Mailbox>(), Err(TooLong));
        assert_eq!(long[8..].parse::<Mailbox>().unwrap().to_string(), long[8..]);
    }

    #[test]
    fn domains_are_the_same_in_any_case_and_local_parts_are_not() {
        let parse = |text: &str| text.parse::<Mailbox>().unwrap();
        assert_eq!(parse("bob@Hamburger.EDU"), parse("bob@hamburger.edu"));
        assert_ne!(parse("Bob@hamburger.edu"), parse("bob@hamburger.edu"));
        // RFC 5890 §2.3.2.4: who writes in ASCII to a domain that is not means the same one.
        let hasher = RandomState::new();
        let hash = |domain: &str| hasher.hash_one(domain.parse::<Domain>().unwrap());
        for other in ["xn--exmple-cua.se", "XN--EXMPLE-CUA.SE", "Exämple.SE", "EXÄMPLE.se", "exa\u{308}mple.se"] {
            assert_eq!(parse(&format!("bob@{other}")), parse("bob@exämple.se"), "{other}");
            assert_eq!(hash(other), hash("exämple.se"), "{other}");
        }
        assert_ne!(parse("bob@exämple.se"), parse("bob@exaemple.se"));
        assert_eq!(parse("bob@Exämple.se").to_string(), "bob@Exämple.se");
    }

    #[test]
    fn a_path_ends_at_the_bracket_that_no_quote_hides() {
        assert_eq!(path_length("<a@b> SIZE=5"), Some(5));
        assert_eq!(path_length("<\"a>\\\"b\"@c> X"), Some(11));
        assert_eq!(path_length("<\"a>@b"), None);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(local in "[ -~åß]{1,20}", domain in "[a-z0-9]{1,8}(\\.[a-z]{2,5}){0,3}") {
            let mailbox = Mailbox::new(&local, domain.parse().unwrap()).unwrap();
            prop_assert_eq!(mailbox.to_string().parse(), Ok(mailbox));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,60}") {
            let _ = (text.parse::<ForwardPath>(), text.parse::<ReversePath>(), path_length(&text));
        }
    }
}
