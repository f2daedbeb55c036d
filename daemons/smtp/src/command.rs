//! What a client may say (RFC 5321 §4.1; RFC 3030 §2; RFC 3207 §4; RFC 4954 §4; parameters of RFC 1870, 3461, 6152, 6531).

use crate::{
    address::{AddressError, ForwardPath, Host, ReversePath, ascii, path_length},
    envelope::{Body, Charset, Notify, ORCPT_OCTETS_MAX, Occasions, OriginalRecipient, Ret, Xtext},
    reply::Reply,
};
use shared::{
    sasl::{Mechanism, initial_response},
    wire::star_behind,
};
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFCs' own names")]
pub enum Command {
    Helo(Client),
    Ehlo(Client),
    Mail(Mail),
    Rcpt(Rcpt),
    Data,
    Bdat { octets: u64, last: Last },
    Rset,
    Noop,
    Vrfy { name: String, reply: Charset },
    Expn { list: String, reply: Charset },
    Help,
    Quit,
    StartTls,
    Auth { mechanism: Mechanism, initial: Option<Vec<u8>> },
}

/// What a client calls itself. RFC 5321 §4.1.4: it may be wrong, and that is no reason to refuse mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client(String);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// MAIL's address and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The reverse-path.
    pub from: ReversePath,
    /// RFC 1870: octets of the message, as the client estimates.
    pub size: Option<u64>,
    /// RFC 6152.
    pub body: Body,
    /// RFC 6531.
    pub charset: Charset,
    /// RFC 3461 §4.3.
    pub ret: Ret,
    /// RFC 3461 §4.4.
    pub envid: Option<Xtext>,
}

/// RCPT's address and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rcpt {
    /// The forward-path.
    pub to: ForwardPath,
    /// RFC 3461 §4.1.
    pub notify: Notify,
    /// RFC 3461 §4.2.
    pub orcpt: Option<OriginalRecipient>,
}

/// RFC 3030 §2: whether the message ends with this chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Last {
    Yes,
    No,
}

/// A line that is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// No command begins so.
    UnknownCommand,
    /// RFC 5321 appendix F: it was one, long ago.
    Obsolete,
    /// It is one, but goes on otherwise.
    Arguments(&'static str),
    /// MAIL's address is none.
    Sender(AddressError),
    /// RCPT's address is none.
    Recipient(AddressError),
    /// A parameter that was not offered.
    UnknownParameter,
    /// A parameter whose value it cannot have.
    Parameter(&'static str),
    /// AUTH with a mechanism that is not known here.
    UnknownMechanism,
    /// The initial response of AUTH is no base64.
    NotBase64,
    /// A CR, LF or NUL within the line.
    Stray,
}

impl From<SyntaxError> for Reply {
    fn from(error: SyntaxError) -> Self {
        match error {
            SyntaxError::UnknownCommand => Reply::unknown_command(),
            SyntaxError::Obsolete => Reply::obsolete(),
            SyntaxError::Arguments(usage) | SyntaxError::Parameter(usage) => Reply::arguments(usage),
            SyntaxError::Sender(error) => Reply::bad_sender(error),
            SyntaxError::Recipient(error) => Reply::bad_recipient(error),
            SyntaxError::UnknownParameter => Reply::unknown_parameter(),
            SyntaxError::UnknownMechanism => Reply::unknown_mechanism(),
            SyntaxError::NotBase64 => Reply::not_base64(),
            SyntaxError::Stray => Reply::stray(),
        }
    }
}

/// How one may log in here.
pub const MECHANISMS: [Mechanism; 3] = [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256];

const MAIL: &str = "MAIL FROM:<you@crepes.fr>";
const RCPT: &str = "RCPT TO:<bob@hamburger.edu>";
const BDAT: &str = "BDAT octets [LAST]";

impl Command {
    /// RFC 5321 §4.1.1: a verb in any case, then its arguments. Blanks at the end do no harm.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Self, SyntaxError> {
        // RFC 5321 §2.3.8: "CR and LF ... MUST NOT appear ... except together"; whoever takes one alone for an end would see
        // other commands than we do.
        if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(SyntaxError::Stray);
        }
        // RFC 6531 §3.3 lets addresses be UTF-8, and nothing be anything else.
        let line = str::from_utf8(line).map_err(|_| SyntaxError::UnknownCommand)?.trim_ascii_end();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_ascii_start();
        let alone = |command, usage| if rest.is_empty() { Ok(command) } else { Err(SyntaxError::Arguments(usage)) };
        match &*verb.to_ascii_uppercase() {
            "HELO" => client(rest).map(Self::Helo).ok_or(SyntaxError::Arguments("HELO your.domain")),
            "EHLO" => client(rest).map(Self::Ehlo).ok_or(SyntaxError::Arguments("EHLO your.domain")),
            "MAIL" => mail(rest).map(Self::Mail),
            "RCPT" => rcpt(rest).map(Self::Rcpt),
            "DATA" => alone(Self::Data, "DATA, alone"),
            "BDAT" => bdat(rest).ok_or(SyntaxError::Arguments(BDAT)),
            "RSET" => alone(Self::Rset, "RSET, alone"),
            // RFC 5321 §4.1.1.9: NOOP's argument is ignored. So is HELP's.
            "NOOP" => Ok(Self::Noop),
            "HELP" => Ok(Self::Help),
            "VRFY" => asked(rest, "VRFY name").map(|(name, reply)| Self::Vrfy { name, reply }),
            "EXPN" => asked(rest, "EXPN list").map(|(list, reply)| Self::Expn { list, reply }),
            "QUIT" => alone(Self::Quit, "QUIT, alone"),
            // RFC 3207 §4: no parameters.
            "STARTTLS" => alone(Self::StartTls, "STARTTLS, alone"),
            "AUTH" => auth(rest),
            "SEND" | "SOML" | "SAML" | "TURN" => Err(SyntaxError::Obsolete),
            _ => Err(SyntaxError::UnknownCommand),
        }
    }
}

/// A name without blanks. RFC 5321 §4.1.1.1 wants a domain or an address literal; what real clients send has underscores too,
/// and nothing depends on it. Letters beyond ASCII should be none (RFC 6531 §3.7.1), and must be none where the name is repeated:
/// in our reply, and in `Received:`.
fn client(name: &str) -> Option<Client> {
    let plain = |octet: u8| octet.is_ascii_alphanumeric() || b".-_".contains(&octet) || !octet.is_ascii();
    let right = !name.is_empty() && name.len() <= 255 && name.bytes().all(plain)
        || matches!(name.parse(), Ok(Host::Literal(_)));
    right.then(|| Client(ascii(name)))
}

/// Whom VRFY or EXPN ask for. RFC 6531 §3.7.4.2: SMTPUTF8 behind that lets the reply have letters beyond ASCII.
fn asked(rest: &str, usage: &'static str) -> Result<(String, Charset), SyntaxError> {
    let (name, reply) = match rest.rsplit_once(' ') {
        Some((name, last)) if last.eq_ignore_ascii_case("SMTPUTF8") => (name.trim_ascii_end(), Charset::Utf8),
        _ => (rest, Charset::Ascii),
    };
    if name.is_empty() { Err(SyntaxError::Arguments(usage)) } else { Ok((name.to_owned(), reply)) }
}

/// What follows `FROM:` or `TO:`, in any case: the path and the parameters. RFC 5321 §3.3: "spaces are not permitted" before the
/// path, but textbooks print one, and it can mean nothing else.
fn path<'a>(rest: &'a str, keyword: &str, usage: &'static str) -> Result<(&'a str, &'a str), SyntaxError> {
    let (word, path) = rest.split_once(':').ok_or(SyntaxError::Arguments(usage))?;
    if !word.trim_ascii_end().eq_ignore_ascii_case(keyword) {
        return Err(SyntaxError::Arguments(usage));
    }
    let path = path.trim_ascii_start();
    let length = path_length(path).unwrap_or(path.len());
    Ok((&path[..length], &path[length..]))
}

/// Behind the path: each parameter after a blank, `KEY` or `KEY=value` (RFC 5321 §4.1.2), and none twice.
fn parameters(text: &str) -> Result<BTreeMap<String, Option<&str>>, SyntaxError> {
    let mut found = BTreeMap::new();
    for parameter in text.split(' ').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').map_or((parameter, None), |(key, value)| (key, Some(value)));
        if found.insert(key.to_ascii_uppercase(), value).is_some() {
            return Err(SyntaxError::Parameter("each parameter once"));
        }
    }
    Ok(found)
}

fn mail(rest: &str) -> Result<Mail, SyntaxError> {
    use SyntaxError::{Parameter, Sender, UnknownParameter};
    let (from, rest) = path(rest, "FROM", MAIL)?;
    let from: ReversePath = from.parse().map_err(Sender)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(Sender(AddressError::Brackets));
    }
    let mut mail =
        Mail { from, size: None, body: Body::default(), charset: Charset::default(), ret: Ret::default(), envid: None };
    for (key, value) in parameters(rest)? {
        match (&*key, value) {
            ("SIZE", Some(digits)) => {
                mail.size = Some(number(digits).ok_or(Parameter("SIZE=octets"))?);
            }
            ("BODY", Some(value)) => {
                mail.body = match &*value.to_ascii_uppercase() {
                    "7BIT" => Body::SevenBit,
                    "8BITMIME" => Body::EightBitMime,
                    _ => return Err(Parameter("BODY=7BIT or BODY=8BITMIME")),
                }
            }
            ("SMTPUTF8", None) => mail.charset = Charset::Utf8,
            ("RET", Some(value)) => {
                mail.ret = match &*value.to_ascii_uppercase() {
                    "FULL" => Ret::Full,
                    "HDRS" => Ret::Headers,
                    _ => return Err(Parameter("RET=FULL or RET=HDRS")),
                }
            }
            ("ENVID", Some(value)) if value.len() <= ENVID_OCTETS_MAX => {
                mail.envid = Some(Xtext::parse(value).ok_or(Parameter("ENVID=xtext"))?);
            }
            // RFC 4954 §5: who submitted it elsewhere, or <>. We trust nobody's word for it, and pass nothing on.
            ("AUTH", Some(value)) if value == "<>" || Xtext::parse(value).is_some() => {}
            ("SIZE" | "BODY" | "RET" | "ENVID" | "AUTH", _) => {
                return Err(Parameter("SIZE=octets BODY=8BITMIME RET=HDRS ENVID=text SMTPUTF8, any of them"));
            }
            _ => return Err(UnknownParameter),
        }
    }
    if mail.charset == Charset::Ascii && matches!(&mail.from, ReversePath::Mailbox(mailbox) if !mailbox.is_ascii()) {
        return Err(Sender(AddressError::Ascii));
    }
    Ok(mail)
}

/// RFC 3461 §4.4: ENVID "MUST NOT be longer than 100 characters".
const ENVID_OCTETS_MAX: usize = 100;

fn rcpt(rest: &str) -> Result<Rcpt, SyntaxError> {
    use SyntaxError::{Parameter, Recipient, UnknownParameter};
    const NOTIFY: SyntaxError = Parameter("NOTIFY=NEVER, or a list of SUCCESS,FAILURE,DELAY");
    const ORCPT: SyntaxError = Parameter("ORCPT=rfc822;address");
    let (to, rest) = path(rest, "TO", RCPT)?;
    let to: ForwardPath = to.parse().map_err(Recipient)?;
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(Recipient(AddressError::Brackets));
    }
    let mut rcpt = Rcpt { to, notify: Notify::default(), orcpt: None };
    for (key, value) in parameters(rest)? {
        match (&*key, value) {
            ("NOTIFY", Some(value)) => rcpt.notify = notify(value).ok_or(NOTIFY)?,
            ("ORCPT", Some(value)) if value.len() <= ORCPT_OCTETS_MAX => {
                let (kind, address) = value.split_once(';').ok_or(ORCPT)?;
                let plain =
                    !kind.is_empty() && kind.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
                let address = Xtext::parse(address).filter(|_| plain).ok_or(ORCPT)?;
                rcpt.orcpt = Some(OriginalRecipient { kind: kind.to_owned(), address });
            }
            ("NOTIFY", None) => return Err(NOTIFY),
            ("ORCPT", _) => return Err(ORCPT),
            _ => return Err(UnknownParameter),
        }
    }
    Ok(rcpt)
}

/// RFC 3461 §4.1: NEVER stands alone.
fn notify(value: &str) -> Option<Notify> {
    if value.eq_ignore_ascii_case("NEVER") {
        return Some(Notify::Never);
    }
    let mut occasions = Occasions::default();
    for word in value.split(',') {
        match &*word.to_ascii_uppercase() {
            "SUCCESS" => occasions.success = true,
            "FAILURE" => occasions.failure = true,
            "DELAY" => occasions.delay = true,
            _ => return None,
        }
    }
    Some(Notify::Of(occasions))
}

/// RFC 1870 §3 and RFC 3030 §2: up to twenty digits.
fn number(digits: &str) -> Option<u64> {
    let right = (1..=20).contains(&digits.len()) && digits.bytes().all(|octet| octet.is_ascii_digit());
    right.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn bdat(rest: &str) -> Option<Command> {
    let (octets, last) = match rest.split_once(' ') {
        None => (rest, Last::No),
        Some((octets, last)) if last.trim_ascii().eq_ignore_ascii_case("LAST") => (octets, Last::Yes),
        Some(_) => return None,
    };
    Some(Command::Bdat { octets: number(octets)?, last })
}

fn auth(rest: &str) -> Result<Command, SyntaxError> {
    if rest.is_empty() {
        return Err(SyntaxError::Arguments("AUTH mechanism [initial-response]"));
    }
    let (name, initial) = rest.split_once(' ').map_or((rest, None), |(name, initial)| (name, Some(initial)));
    let mechanism = Mechanism::called(name.as_bytes(), &MECHANISMS).ok_or(SyntaxError::UnknownMechanism)?;
    let initial = initial.map(|text| initial_response(text.as_bytes()).ok_or(SyntaxError::NotBase64));
    Ok(Command::Auth { mechanism, initial: initial.transpose()? })
}

/// Stars what is secret in a line: what a client says with AUTH. The mechanism may be seen.
pub fn mask(line: &[u8]) -> Cow<'_, [u8]> {
    star_behind(line, |verb| verb.eq_ignore_ascii_case(b"AUTH").then_some(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail_from(from: &str) -> Mail {
        let from = from.parse().unwrap();
        Mail { from, size: None, body: Body::SevenBit, charset: Charset::Ascii, ret: Ret::Unsaid, envid: None }
    }

    fn rcpt_to(to: &str) -> Rcpt {
        Rcpt { to: to.parse().unwrap(), notify: Notify::Unsaid, orcpt: None }
    }

    #[test]
    fn commands_are_understood_in_any_case() {
        let success = Notify::Of(Occasions { success: true, delay: true, failure: false });
        let orcpt = OriginalRecipient { kind: "rfc822".to_owned(), address: Xtext::encode("b+b@c.d") };
        for (line, command) in [
            ("HELO crepes.fr", Command::Helo(Client("crepes.fr".to_owned()))),
            ("ehlo [127.77.1.9]", Command::Ehlo(Client("[127.77.1.9]".to_owned()))),
            ("EHLO my_laptop ", Command::Ehlo(Client("my_laptop".to_owned()))),
            ("MAIL FROM:<alice@crepes.fr>", Command::Mail(mail_from("<alice@crepes.fr>"))),
            ("mail from: <alice@crepes.fr>", Command::Mail(mail_from("<alice@crepes.fr>"))),
            ("Mail  From:<>", Command::Mail(mail_from("<>"))),
            ("MAIL FROM:<\"a b>\"@c.d> SIZE=5", Command::Mail(Mail { size: Some(5), ..mail_from("<\"a b>\"@c.d>") })),
            (
                "MAIL FROM:<a@b> body=8bitmime size=99999999999999999999 RET=hdrs ENVID=QQ+2B SMTPUTF8 AUTH=<>",
                Command::Mail(Mail {
                    size: Some(u64::MAX),
                    body: Body::EightBitMime,
                    charset: Charset::Utf8,
                    ret: Ret::Headers,
                    envid: Xtext::parse("QQ+2B"),
                    ..mail_from("<a@b>")
                }),
            ),
            ("RCPT TO: <bob@hamburger.edu>", Command::Rcpt(rcpt_to("<bob@hamburger.edu>"))),
            ("RCPT TO:<postmaster>", Command::Rcpt(rcpt_to("<Postmaster>"))),
            (
                "RCPT TO:<a@b> NOTIFY=success,DELAY ORCPT=rfc822;b+2Bb@c.d",
                Command::Rcpt(Rcpt { notify: success, orcpt: Some(orcpt), ..rcpt_to("<a@b>") }),
            ),
            ("RCPT TO:<a@b> notify=never", Command::Rcpt(Rcpt { notify: Notify::Never, ..rcpt_to("<a@b>") })),
            ("data", Command::Data),
            ("BDAT 0 last", Command::Bdat { octets: 0, last: Last::Yes }),
            ("bdat 86", Command::Bdat { octets: 86, last: Last::No }),
            ("rset ", Command::Rset),
            ("NOOP are you there", Command::Noop),
            ("help MAIL", Command::Help),
            ("VRFY bob", Command::Vrfy { name: "bob".to_owned(), reply: Charset::Ascii }),
            ("expn staff", Command::Expn { list: "staff".to_owned(), reply: Charset::Ascii }),
            ("EXPN all staff smtputf8", Command::Expn { list: "all staff".to_owned(), reply: Charset::Utf8 }),
            ("QUIT", Command::Quit),
            ("StartTLS", Command::StartTls),
            ("AUTH PLAIN", Command::Auth { mechanism: Mechanism::Plain, initial: None }),
            ("auth login =", Command::Auth { mechanism: Mechanism::Login, initial: Some(vec![]) }),
            ("AUTH PLAIN AGI=", Command::Auth { mechanism: Mechanism::Plain, initial: Some(b"\0b".to_vec()) }),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Ok(command), "{line}");
        }
    }

    #[test]
    fn what_is_no_command_is_told_why() {
        use SyntaxError::{
            Arguments, NotBase64, Obsolete, Parameter, Recipient, Sender, Stray, UnknownCommand, UnknownMechanism,
            UnknownParameter,
        };
        for (line, error) in [
            ("", UnknownCommand),
            (" MAIL", UnknownCommand),
            ("GET / HTTP/1.1", UnknownCommand),
            ("HELOcrepes.fr", UnknownCommand),
            ("HELO", Arguments("HELO your.domain")),
            ("EHLO a b", Arguments("EHLO your.domain")),
            ("MAIL", Arguments(MAIL)),
            ("MAIL alice@crepes.fr", Arguments(MAIL)),
            ("MAIL TO:<a@b>", Arguments(MAIL)),
            ("MAIL FROM:alice@crepes.fr", Sender(AddressError::Brackets)),
            ("MAIL FROM:<alice>", Sender(AddressError::At)),
            ("MAIL FROM:<a@b>SIZE=1", Sender(AddressError::Brackets)),
            ("MAIL FROM:<å@b>", Sender(AddressError::Ascii)),
            ("MAIL FROM:<a@b> SIZE=many", Parameter("SIZE=octets")),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", Parameter("BODY=7BIT or BODY=8BITMIME")),
            ("MAIL FROM:<a@b> ENVID==", Parameter("ENVID=xtext")),
            ("MAIL FROM:<a@b> COLOUR=red", UnknownParameter),
            // Which of the two counts, here and further on?
            ("MAIL FROM:<a@b> BODY=7BIT body=8BITMIME", Parameter("each parameter once")),
            ("RCPT TO:<a@b> NOTIFY=NEVER NOTIFY=SUCCESS", Parameter("each parameter once")),
            ("RCPT FROM:<a@b>", Arguments(RCPT)),
            ("RCPT TO:<>", Recipient(AddressError::At)),
            ("RCPT TO:<a@b> SIZE=3", UnknownParameter),
            ("RCPT TO:<a@b> ORCPT=bob", Parameter("ORCPT=rfc822;address")),
            ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", Parameter("NOTIFY=NEVER, or a list of SUCCESS,FAILURE,DELAY")),
            ("DATA now", Arguments("DATA, alone")),
            ("BDAT", Arguments(BDAT)),
            ("BDAT -1", Arguments(BDAT)),
            ("BDAT 5 FIRST", Arguments(BDAT)),
            ("VRFY", Arguments("VRFY name")),
            ("AUTH", Arguments("AUTH mechanism [initial-response]")),
            ("AUTH CRAM-MD5", UnknownMechanism),
            ("AUTH PLAIN !", NotBase64),
            ("TURN", Obsolete),
            ("NOOP\rQUIT", Stray),
            ("NOOP\nQUIT", Stray),
            ("NOOP\0", Stray),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), Err(error), "{line}");
        }
        assert_eq!(Command::parse(b"MAIL FROM:<\xff@b>"), Err(UnknownCommand));
    }

    #[test]
    fn what_auth_says_is_starred() {
        assert_eq!(&*mask(b"AUTH PLAIN AGI="), b"AUTH PLAIN ********");
        assert_eq!(&*mask(b"auth login"), b"auth login");
        // What is no command, and was meant to be one.
        assert_eq!(&*mask(b" AUTH PLAIN AGI="), b" AUTH PLAIN ********");
        assert_eq!(&*mask(b"AUTH\tPLAIN\tAGI="), b"AUTH\tPLAIN ********");
        assert_eq!(&*mask(b"AUTH  PLAIN AGI="), b"AUTH  ********");
        assert_eq!(&*mask(b"MAIL FROM:<a@b> AUTH=<>"), b"MAIL FROM:<a@b> AUTH=<>");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..80), verb in "(MAIL FROM:<|RCPT TO:<|BDAT |AUTH )?") {
            let _ = Command::parse(&[verb.as_bytes(), &line].concat());
        }
    }
}
