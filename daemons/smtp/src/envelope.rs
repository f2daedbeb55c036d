//! What travels with a message and is not part of it: from whom, for whom, and what is wanted (RFC 5321 §2.3.1).
//!
//! The header's `From:` and `To:` are for people. Servers look at the envelope alone.

use crate::address::{Mailbox, ReversePath};
use std::fmt::{self, Write as _};

/// An envelope: everything of a transaction but the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where to say that it was lost.
    pub from: ReversePath,
    /// What octets the message has.
    pub body: Body,
    /// Whether addresses or header may have UTF-8.
    pub charset: Charset,
    /// RFC 3461 §4.3: how much of the message a report shall have.
    pub ret: Ret,
    /// RFC 3461 §4.4: what the sender calls it, in xtext.
    pub envid: Option<Xtext>,
    /// For whom, at least one.
    pub recipients: Vec<Recipient>,
}

/// RFC 6152: what octets the message has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// `BODY=7BIT`: ASCII only.
    #[default]
    SevenBit,
    /// `BODY=8BITMIME`: lines of any octets.
    EightBitMime,
}

/// RFC 6531: whether addresses or header may have UTF-8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charset {
    /// ASCII only.
    #[default]
    Ascii,
    /// `SMTPUTF8`.
    Utf8,
}

/// RFC 3461 §4.3: how much of the message a report about its loss shall have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ret {
    /// Whatever the server likes; here, the header.
    #[default]
    Unsaid,
    /// `RET=FULL`.
    Full,
    /// `RET=HDRS`.
    Headers,
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// The mailbox.
    pub to: Mailbox,
    /// What its sender wants to hear of.
    pub notify: Notify,
    /// RFC 3461 §4.2: the recipient that the sender named first, before anybody forwarded.
    pub orcpt: Option<OriginalRecipient>,
}

/// RFC 3461 §4.1: what the sender wants to hear of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notify {
    /// Nothing was said: of failure, and perhaps of delay.
    #[default]
    Unsaid,
    /// `NOTIFY=NEVER`.
    Never,
    /// `NOTIFY=` and a list.
    Of(Occasions),
}

/// The occasions of a NOTIFY list; at least one is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFC's own names")]
pub struct Occasions {
    pub success: bool,
    pub failure: bool,
    pub delay: bool,
}

impl Notify {
    /// Whether the sender wants to hear that it could not be delivered.
    pub fn of_failure(self) -> bool {
        match self {
            Notify::Unsaid => true,
            Notify::Never => false,
            Notify::Of(occasions) => occasions.failure,
        }
    }

    /// Whether the sender wants to hear that it takes long.
    pub fn of_delay(self) -> bool {
        match self {
            // RFC 3461 §4.1: without NOTIFY a report of delay "MAY be issued".
            Notify::Unsaid => true,
            Notify::Never => false,
            Notify::Of(occasions) => occasions.delay,
        }
    }

    /// The same without a word about success, which whoever speaks for all of them tells.
    #[must_use]
    pub fn without_success(self) -> Self {
        match self {
            Notify::Of(Occasions { success: true, failure: false, delay: false }) => Notify::Never,
            Notify::Of(occasions) => Notify::Of(Occasions { success: false, ..occasions }),
            Notify::Unsaid | Notify::Never => self,
        }
    }

    /// Whether the sender wants to hear that it was delivered.
    pub fn of_success(self) -> bool {
        matches!(self, Notify::Of(Occasions { success: true, .. }))
    }
}

impl fmt::Display for Notify {
    /// The value of the parameter; empty when nothing was said.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let occasions = match self {
            Notify::Unsaid => return Ok(()),
            Notify::Never => return f.write_str("NEVER"),
            Notify::Of(occasions) => occasions,
        };
        let named = [("SUCCESS", occasions.success), ("FAILURE", occasions.failure), ("DELAY", occasions.delay)];
        let wanted: Vec<&str> = named.iter().filter(|(_, wanted)| *wanted).map(|(name, _)| *name).collect();
        f.write_str(&wanted.join(","))
    }
}

/// RFC 3461 §4.2: an ORCPT has at most 500 octets.
pub(crate) const ORCPT_OCTETS_MAX: usize = 500;

/// RFC 3461 §4.2: `rfc822;bob@hamburger.edu`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginalRecipient {
    /// `rfc822`, or `utf-8` (RFC 6533 §3).
    pub kind: String,
    /// The address as it was said, in xtext.
    pub address: Xtext,
}

impl OriginalRecipient {
    /// The address that a message had before it was forwarded; none, if it is too long to be told.
    pub fn of(mailbox: &Mailbox) -> Option<Self> {
        let text = mailbox.to_string();
        let (kind, address) = if mailbox.is_ascii() {
            ("rfc822", Xtext::encode(&text))
        } else {
            ("utf-8", Xtext(utf8_addr_xtext(&text)))
        };
        let told = Self { kind: kind.to_owned(), address };
        (told.to_string().len() <= ORCPT_OCTETS_MAX).then_some(told)
    }
}

/// RFC 6533 §3, `utf-8-addr-xtext`: ASCII, in which `\x{E5}` stands for å.
fn utf8_addr_xtext(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_ascii_graphic() && !matches!(letter, '+' | '=' | '\\') {
            encoded.push(letter);
        } else {
            write!(encoded, "\\x{{{:02X}}}", u32::from(letter)).expect("writing into a String does not fail");
        }
    }
    encoded
}

impl fmt::Display for OriginalRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{};{}", self.kind, self.address.encoded())
    }
}

/// RFC 3461 §4: printable ASCII in which `+3D` stands for `=`. Kept as it was said, so that it goes on unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xtext(String);

impl Xtext {
    /// Text that came in the encoded form.
    pub fn parse(encoded: &str) -> Option<Self> {
        let mut octets = encoded.bytes();
        while let Some(octet) = octets.next() {
            let right = match octet {
                b'+' => (0..2).all(|_| octets.next().is_some_and(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'))),
                b'=' => false,
                // RFC 6533 §3 lets `utf-8;` addresses be UTF-8 where SMTPUTF8 was said.
                octet => octet.is_ascii_graphic() || !octet.is_ascii(),
            };
            if !right {
                return None;
            }
        }
        (!encoded.is_empty()).then(|| Self(encoded.to_owned()))
    }

    /// `text` in the encoded form.
    pub fn encode(text: &str) -> Self {
        let mut encoded = String::with_capacity(text.len());
        for octet in text.bytes() {
            if octet.is_ascii_graphic() && octet != b'+' && octet != b'=' {
                encoded.push(octet.into());
            } else {
                write!(encoded, "+{octet:02X}").expect("writing into a String does not fail");
            }
        }
        Self(encoded)
    }

    /// The form that goes over the wire.
    pub fn encoded(&self) -> &str {
        &self.0
    }

    /// What it means, for people; octets that are no UTF-8 are replaced.
    pub fn decoded(&self) -> String {
        let mut octets = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_bytes();
        while let Some((octet, after)) = rest.split_first() {
            let hex = (*octet == b'+').then(|| after.get(..2)).flatten();
            let hex = hex.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
            octets.push(hex.unwrap_or(*octet));
            rest = if hex.is_some() { &after[2..] } else { after };
        }
        String::from_utf8_lossy(&octets).into_owned()
    }
}

/// RFC 3463: why, for programs: class, subject, detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u8, pub u16, pub u16);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// What came of trying to deliver to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is in the mailbox.
    Delivered(Account),
    /// Another server has taken it over, and will report by itself if it knows how to.
    Relayed {
        /// What was done.
        account: Account,
        /// RFC 3461 §5.2.2: whether the other server has promised to report success.
        reports: Reports,
    },
    /// RFC 3461 §5.2.7.3: it goes on to several, and that is all that will be told of success.
    Expanded(Account),
    /// Not now; it is tried again.
    Deferred(Account),
    /// Never; its sender is told.
    Failed(Account),
}

impl Fate {
    /// What was done and heard.
    pub fn account(&self) -> &Account {
        match self {
            Fate::Delivered(account)
            | Fate::Relayed { account, .. }
            | Fate::Expanded(account)
            | Fate::Deferred(account)
            | Fate::Failed(account) => account,
        }
    }
}

/// Whether a server that took a message over reports success itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reports {
    /// It offers DSN.
    Itself,
    /// It does not: we say that the message was relayed, and no more can be known.
    NotItself,
}

/// What was done and heard, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// For programs.
    pub status: Status,
    /// Who said it: the name of the remote server, if it was one.
    pub remote: Option<String>,
    /// What the remote server said: its reply, code first, lines joined by a blank.
    pub reply: Option<String>,
    /// What happened, for people: `mail.hamburger.edu [127.77.2.25]:25 refused the recipient`.
    pub text: String,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        self.reply.as_ref().map_or(Ok(()), |reply| write!(f, ": {reply}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn xtext_is_refused_where_it_is_none() {
        for good in ["bob@hamburger.edu", "a+2Bb", "QQ314159"] {
            assert_eq!(Xtext::parse(good).unwrap().encoded(), good);
        }
        for bad in ["", "a=b", "a b", "a+2", "a+2b", "a+zz", "a\tb"] {
            assert_eq!(Xtext::parse(bad), None, "{bad:?}");
        }
        assert_eq!(Xtext::parse("a+2Bb+3D").unwrap().decoded(), "a+b=");
    }

    #[test]
    fn an_address_that_a_message_had_before_is_told_as_its_letters_want_it_and_where_it_fits() {
        let of = |mailbox: &str| OriginalRecipient::of(&mailbox.parse().unwrap()).map(|orcpt| orcpt.to_string());
        for (mailbox, told) in [
            ("bob@hamburger.edu", Some("rfc822;bob@hamburger.edu")),
            ("bob+x@hamburger.edu", Some("rfc822;bob+2Bx@hamburger.edu")),
            // RFC 6533 §3.
            ("håkan@exämple.se", Some("utf-8;h\\x{E5}kan@ex\\x{E4}mple.se")),
            ("\"å b\\\\+\"@c.d", Some("utf-8;\"\\x{E5}\\x{20}b\\x{5C}\\x{5C}\\x{2B}\"@c.d")),
            // RFC 3461 §4.2: more than 500 octets.
            (&format!("{}@{}.se", "å".repeat(32), ["ä".repeat(31), "ä".repeat(31)].join(".")), None),
        ] {
            assert_eq!(of(mailbox).as_deref(), told, "{mailbox}");
        }
    }

    #[test]
    fn without_notify_a_sender_hears_of_failure_and_not_of_success() {
        let heard = |notify: Notify| [notify.of_success(), notify.of_failure(), notify.of_delay()];
        assert_eq!(heard(Notify::Unsaid), [false, true, true]);
        assert_eq!(heard(Notify::Never), [false, false, false]);
        let success = Occasions { success: true, ..Occasions::default() };
        assert_eq!(heard(Notify::Of(success)), [true, false, false]);
        assert_eq!(Notify::Of(Occasions { delay: true, ..success }).to_string(), "SUCCESS,DELAY");
    }

    proptest! {
        #[test]
        fn what_was_encoded_means_the_same(text in ".{1,40}") {
            let xtext = Xtext::encode(&text);
            prop_assert_eq!(Xtext::parse(xtext.encoded()), Some(xtext.clone()));
            prop_assert_eq!(xtext.decoded(), text);
        }
    }
}
