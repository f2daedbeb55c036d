//! What a client may say (RFC 1939 §3, §5, §7; RFC 2449 §5; RFC 2595 §4; RFC 5034 §4; RFC 6856 §2).

use crate::reply::Reply;
use shared::{
    sasl::{Mechanism, initial_response, prepare},
    wire::star_behind,
};
use std::borrow::Cow;

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFCs' own names")]
pub enum Command {
    User(String),
    Pass(Vec<u8>),
    Apop { user: String, digest: [u8; 16] },
    Auth { mechanism: Mechanism, initial: Option<Vec<u8>> },
    Stls,
    Utf8,
    Capa,
    Stat,
    List(Option<Number>),
    Retr(Number),
    Dele(Number),
    Noop,
    Rset,
    Top { number: Number, lines: u64 },
    Uidl(Option<Number>),
    Quit,
}

/// The number of a message, from 1. Whether there is such a message is for the session to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub usize);

/// A line that is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyntaxError {
    /// No command begins so.
    UnknownCommand,
    /// It does, but goes on otherwise.
    Arguments(&'static str),
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
            SyntaxError::Arguments(usage) => Reply::arguments(usage),
            SyntaxError::UnknownMechanism => Reply::unknown_mechanism(),
            SyntaxError::NotBase64 => Reply::not_base64(),
            SyntaxError::Stray => Reply::stray(),
        }
    }
}

/// How one may log in here by AUTH.
pub const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::ScramSha256];

impl Command {
    /// RFC 1939 §3: a keyword in any case, then arguments, each behind one space. A space at the end does no harm, except
    /// to a password.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn parse(line: &[u8]) -> Result<Self, SyntaxError> {
        // A line ends at CR LF only: what else looks like an end may be one to somebody between us.
        if line.iter().any(|octet| matches!(octet, b'\r' | b'\n' | 0)) {
            return Err(SyntaxError::Stray);
        }
        let (keyword, rest) = split(line);
        // RFC 1939 §7: a password may have spaces, so all the rest is one argument.
        if keyword.eq_ignore_ascii_case(b"PASS") {
            return match rest {
                Some(secret) if !secret.is_empty() => Ok(Self::Pass(secret.to_vec())),
                _ => Err(SyntaxError::Arguments("PASS password")),
            };
        }
        let rest = rest.map(<[u8]>::trim_ascii_end).filter(|rest| !rest.is_empty());
        let alone = |command, usage| if rest.is_none() { Ok(command) } else { Err(SyntaxError::Arguments(usage)) };
        let numbered = |usage| rest.and_then(number).map(Number).ok_or(SyntaxError::Arguments(usage));
        let optional = |usage| rest.map(|_| numbered(usage)).transpose();
        match &keyword.to_ascii_uppercase()[..] {
            b"USER" => text(rest).map(Self::User).ok_or(SyntaxError::Arguments("USER name")),
            b"APOP" => apop(rest).ok_or(SyntaxError::Arguments("APOP name digest (32 hexadecimal digits)")),
            b"AUTH" => auth(rest),
            b"STLS" => alone(Self::Stls, "STLS"),
            b"UTF8" => alone(Self::Utf8, "UTF8"),
            b"CAPA" => alone(Self::Capa, "CAPA"),
            b"STAT" => alone(Self::Stat, "STAT"),
            b"LIST" => Ok(Self::List(optional("LIST [number]")?)),
            b"RETR" => Ok(Self::Retr(numbered("RETR number")?)),
            b"DELE" => Ok(Self::Dele(numbered("DELE number")?)),
            b"NOOP" => alone(Self::Noop, "NOOP"),
            b"RSET" => alone(Self::Rset, "RSET"),
            b"TOP" => top(rest).ok_or(SyntaxError::Arguments("TOP number lines")),
            b"UIDL" => Ok(Self::Uidl(optional("UIDL [number]")?)),
            b"QUIT" => alone(Self::Quit, "QUIT"),
            _ => Err(SyntaxError::UnknownCommand),
        }
    }
}

/// At the first space.
fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr::memchr(b' ', line) {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    }
}

/// RFC 6856 §2.2: names are UTF-8, and prepared by RFC 4013 before they are compared.
fn text(argument: Option<&[u8]>) -> Option<String> {
    str::from_utf8(argument?).ok().map(|name| prepare(name).into_owned())
}

fn number(digits: &[u8]) -> Option<usize> {
    let right = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    str::from_utf8(digits).ok().filter(|_| right)?.parse().ok()
}

fn top(rest: Option<&[u8]>) -> Option<Command> {
    let (message, lines) = split(rest?);
    Some(Command::Top { number: Number(number(message)?), lines: number(lines?)? as u64 })
}

fn apop(rest: Option<&[u8]>) -> Option<Command> {
    let rest = rest?;
    let space = memchr::memrchr(b' ', rest)?;
    let (user, hex) = (text(Some(&rest[..space]))?, &rest[space + 1..]);
    let digit = |octet: u8| char::from(octet).to_digit(16).map(|digit| digit as u8);
    let octets = hex.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?));
    let digest = octets.collect::<Option<Vec<u8>>>()?.try_into().ok()?;
    (!user.is_empty()).then_some(Command::Apop { user, digest })
}

fn auth(rest: Option<&[u8]>) -> Result<Command, SyntaxError> {
    let (name, initial) = split(rest.ok_or(SyntaxError::Arguments("AUTH mechanism [initial-response]"))?);
    let mechanism = Mechanism::called(name, &MECHANISMS).ok_or(SyntaxError::UnknownMechanism)?;
    let initial = initial.map(|text| initial_response(text).ok_or(SyntaxError::NotBase64));
    Ok(Command::Auth { mechanism, initial: initial.transpose()? })
}

/// Stars what is secret in a line: the password, the proof of APOP, and what a client says with AUTH.
pub fn mask(line: &[u8]) -> Cow<'_, [u8]> {
    star_behind(line, |keyword| {
        let is = |word: &[u8]| keyword.eq_ignore_ascii_case(word);
        // APOP's user name and AUTH's mechanism may be seen.
        if is(b"PASS") { Some(1) } else { (is(b"APOP") || is(b"AUTH")).then_some(2) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_in_any_case() {
        let digest = [0xc4, 0xc9, 0x33, 0x4b, 0xac, 0x56, 0x0e, 0xcc, 0x97, 0x9e, 0x58, 0x00, 0x1b, 0x3e, 0x22, 0xfb];
        let table: [(&[u8], Command); 23] = [
            (b"user bob", Command::User("bob".to_owned())),
            (b"USER bob ", Command::User("bob".to_owned())),
            (b"USER h\xc3\xa5kan b", Command::User("håkan b".to_owned())),
            (b"USER ha\xcc\x8akan", Command::User("håkan".to_owned())),
            (b"PASS hungry", Command::Pass(b"hungry".to_vec())),
            (b"Pass  two words ", Command::Pass(b" two words ".to_vec())),
            (b"PASS \xff", Command::Pass(b"\xff".to_vec())),
            (b"APOP mrose c4c9334bac560ecc979e58001b3e22fb", Command::Apop { user: "mrose".to_owned(), digest }),
            (b"auth plain", Command::Auth { mechanism: Mechanism::Plain, initial: None }),
            (b"AUTH PLAIN =", Command::Auth { mechanism: Mechanism::Plain, initial: Some(vec![]) }),
            (b"AUTH PLAIN AGI=", Command::Auth { mechanism: Mechanism::Plain, initial: Some(b"\0b".to_vec()) }),
            (b"AUTH SCRAM-SHA-256", Command::Auth { mechanism: Mechanism::ScramSha256, initial: None }),
            (b"STLS", Command::Stls),
            (b"CAPA ", Command::Capa),
            (b"STAT", Command::Stat),
            (b"LIST", Command::List(None)),
            (b"list 2", Command::List(Some(Number(2)))),
            (b"RETR 007", Command::Retr(Number(7))),
            (b"DELE 0", Command::Dele(Number(0))),
            (b"TOP 1 0", Command::Top { number: Number(1), lines: 0 }),
            (b"UIDL 3", Command::Uidl(Some(Number(3)))),
            (b"UIDL", Command::Uidl(None)),
            (b"quit", Command::Quit),
        ];
        for (line, command) in table {
            assert_eq!(Command::parse(line).as_ref(), Ok(&command), "{:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn what_is_no_command_is_told() {
        use SyntaxError as E;
        /// Whether it is the error that is meant.
        type IsMeant = fn(&E) -> bool;
        let table: [(&[u8], IsMeant); 30] = [
            (b"", |e| *e == E::UnknownCommand),
            (b" STAT", |e| *e == E::UnknownCommand),
            (b"EHLO", |e| *e == E::UnknownCommand),
            (b"\xff\xfe", |e| *e == E::UnknownCommand),
            (b"STAT\0", |e| *e == E::Stray),
            (b"NOOP\nQUIT", |e| *e == E::Stray),
            (b"NOOP\r", |e| *e == E::Stray),
            (b"USER", |e| matches!(e, E::Arguments(_))),
            (b"USER \xff", |e| matches!(e, E::Arguments(_))),
            (b"PASS", |e| matches!(e, E::Arguments(_))),
            (b"PASS ", |e| matches!(e, E::Arguments(_))),
            (b"STAT 1", |e| matches!(e, E::Arguments(_))),
            (b"LIST x", |e| matches!(e, E::Arguments(_))),
            (b"LIST 1 2", |e| matches!(e, E::Arguments(_))),
            (b"RETR", |e| matches!(e, E::Arguments(_))),
            (b"RETR -1", |e| matches!(e, E::Arguments(_))),
            (b"RETR +1", |e| matches!(e, E::Arguments(_))),
            (b"RETR 99999999999999999999999", |e| matches!(e, E::Arguments(_))),
            (b"TOP 1", |e| matches!(e, E::Arguments(_))),
            (b"TOP 1 -1", |e| matches!(e, E::Arguments(_))),
            (b"TOP 1  1", |e| matches!(e, E::Arguments(_))),
            (b"QUIT now", |e| matches!(e, E::Arguments(_))),
            (b"APOP mrose", |e| matches!(e, E::Arguments(_))),
            (b"APOP mrose c4c9", |e| matches!(e, E::Arguments(_))),
            (b"APOP  c4c9334bac560ecc979e58001b3e22fb", |e| matches!(e, E::Arguments(_))),
            (b"AUTH", |e| matches!(e, E::Arguments(_))),
            (b"AUTH GSSAPI", |e| *e == E::UnknownMechanism),
            (b"AUTH PLAIN =AAA", |e| *e == E::NotBase64),
            (b"AUTH PLAIN AAA=BBB", |e| *e == E::NotBase64),
            (b"AUTH PLAIN A GI=", |e| *e == E::NotBase64),
        ];
        for (line, want) in table {
            let error = Command::parse(line).unwrap_err();
            assert!(want(&error), "{:?} gave {error:?}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn secrets_are_starred_and_nothing_else() {
        let table: [(&[u8], &[u8]); 11] = [
            (b"pass hungry", b"pass ********"),
            // What is no command, and was meant to be one.
            (b" PASS hungry", b" PASS ********"),
            (b"\tpass\thungry", b"\tpass ********"),
            (b"AUTH  PLAIN AGI=", b"AUTH  ********"),
            (b"AUTH PLAIN\tAGI=", b"AUTH PLAIN ********"),
            (b"PASS two words", b"PASS ********"),
            (b"APOP bob c4c9", b"APOP bob ********"),
            (b"AUTH PLAIN AGI=", b"AUTH PLAIN ********"),
            (b"AUTH PLAIN", b"AUTH PLAIN"),
            (b"USER bob", b"USER bob"),
            (b"PASSWORD x", b"PASSWORD x"),
        ];
        for (line, shown) in table {
            assert_eq!(&*mask(line), shown);
        }
    }
}
