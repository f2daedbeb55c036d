//! What we may answer (RFC 1939 §3): `+OK` or `-ERR`, perhaps a code for programs (RFC 2449 §8), then words for people.
//!
//! One constructor for each *reason*; nobody else knows the texts. Those that the course's slides print are theirs.

use shared::sasl::Refusal;
use std::{borrow::Cow, fmt, time::Duration};

/// An answer of one line, or the first line of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    status: Status,
    code: Option<Code>,
    text: Cow<'static, str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    Err,
    /// RFC 5034 §4: the exchange goes on.
    Continue,
}

/// Codes that tell a program why, where `-ERR` alone would make it ask for another password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// RFC 2449 §8.1.2: another session has the maildrop.
    InUse,
    /// RFC 2449 §8.1.1: the last login was too short a time ago.
    LoginDelay,
    /// RFC 3206 §4: it is the credentials.
    Auth,
    /// RFC 3206 §4: it is us, and it may pass.
    SysTemp,
    /// RFC 3206 §4: it is us, and somebody must look after it.
    SysPerm,
    /// RFC 6856 §2: the message needs the UTF8 command.
    Utf8,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Code::InUse => "IN-USE",
            Code::LoginDelay => "LOGIN-DELAY",
            Code::Auth => "AUTH",
            Code::SysTemp => "SYS/TEMP",
            Code::SysPerm => "SYS/PERM",
            Code::Utf8 => "UTF8",
        })
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.status {
            Status::Ok => "+OK",
            Status::Err => "-ERR",
            // The blank belongs to it, also when nothing follows.
            Status::Continue => "+ ",
        })?;
        if let Some(code) = self.code {
            write!(f, " [{code}]")?;
        }
        match (self.status, &*self.text) {
            (_, "") => Ok(()),
            (Status::Continue, text) => f.write_str(text),
            (_, text) => write!(f, " {text}"),
        }
    }
}

fn ok(text: impl Into<Cow<'static, str>>) -> Reply {
    Reply { status: Status::Ok, code: None, text: text.into() }
}

fn err(text: impl Into<Cow<'static, str>>) -> Reply {
    Reply { status: Status::Err, code: None, text: text.into() }
}

fn err_code(code: Code, text: impl Into<Cow<'static, str>>) -> Reply {
    Reply { status: Status::Err, code: Some(code), text: text.into() }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Cancelled => Reply::cancelled(),
            Refusal::NotBase64 => Reply::not_base64(),
            Refusal::Malformed(problem) => Reply::malformed(problem),
            Refusal::Denied => Reply::wrong_credentials(),
            Refusal::TooSoon(wait) => Reply::too_soon(wait),
            Refusal::CannotTell => Reply::cannot_tell(),
        }
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[expect(missing_docs, reason = "the names are the reasons")]
impl Reply {
    /// Whether it says yes.
    pub fn is_ok(&self) -> bool {
        self.status != Status::Err
    }

    // --- Yes ---

    /// RFC 1939 §7, APOP: a greeting with a timestamp tells that APOP may be used.
    pub fn greeting(stamp: Option<&str>) -> Self {
        ok(stamp.map_or("POP3 server ready".into(), |stamp| Cow::from(format!("POP3 server ready {stamp}"))))
    }
    /// Whether the name is known is not told.
    pub fn name_heard() -> Self {
        ok("")
    }
    pub fn logged_on() -> Self {
        ok("user successfully logged on")
    }
    pub fn signing_off() -> Self {
        ok("POP3 server signing off")
    }
    pub fn capabilities() -> Self {
        ok("this is what I can do")
    }
    pub fn begin_tls() -> Self {
        ok("begin TLS")
    }
    pub fn utf8() -> Self {
        ok("UTF-8 from here on")
    }
    pub fn challenge(base64: String) -> Self {
        Self { status: Status::Continue, code: None, text: base64.into() }
    }
    pub fn totals(count: usize, octets: u64) -> Self {
        ok(format!("{count} {octets}"))
    }
    pub fn listing(count: usize, octets: u64) -> Self {
        ok(format!("{} ({octets} octets)", plural(count, "message")))
    }
    pub fn one(number: usize, what: impl fmt::Display) -> Self {
        ok(format!("{number} {what}"))
    }
    pub fn uids() -> Self {
        ok("the unique id of each message")
    }
    pub fn message(octets: u64) -> Self {
        ok(format!("{octets} octets"))
    }
    pub fn top(lines: u64) -> Self {
        ok(format!("the header and {}", plural(usize::try_from(lines).unwrap_or(usize::MAX), "line")))
    }
    pub fn deleted(number: usize) -> Self {
        ok(format!("message {number} deleted"))
    }
    pub fn all_restored(count: usize, octets: u64) -> Self {
        ok(format!("maildrop has {} ({octets} octets)", plural(count, "message")))
    }
    pub fn still_here() -> Self {
        ok("")
    }

    // --- No, and it is the client's fault ---

    pub fn unknown_command() -> Self {
        err("no such command; CAPA tells what I can do")
    }
    pub fn arguments(usage: &'static str) -> Self {
        err(format!("it is written: {usage}"))
    }
    pub fn line_too_long(octets: usize) -> Self {
        err(format!("a line has at most {octets} octets"))
    }
    pub fn stray() -> Self {
        err("a line ends with CR LF, and has no CR, LF or NUL inside")
    }
    /// The same for both pieces of a line that has one.
    pub fn lf_alone() -> Self {
        err("that was an LF without CR: a line ends with CR LF, and nothing counts up to the next one (nc -C sends it)")
    }
    pub fn log_in_first() -> Self {
        err("log in first: USER, then PASS")
    }
    pub fn logged_in_already() -> Self {
        err("you are logged in; QUIT ends the session")
    }
    pub fn user_first() -> Self {
        err("say USER first, and PASS right behind it")
    }
    /// RFC 2595 §2.2, RFC 5034 §4.
    pub fn encrypt_first(tls_is_offered: bool) -> Self {
        err(if tls_is_offered {
            "passwords are taken over TLS only: say STLS first, or use port 995"
        } else {
            "passwords are taken over TLS only, and there is none here: set [tls], or pop3.allow_plaintext_auth"
        })
    }
    pub fn no_tls() -> Self {
        err("TLS is not offered here: there is no certificate in [tls]")
    }
    pub fn tls_already() -> Self {
        err("this is TLS already")
    }
    /// RFC 6856 §2.1: UTF8 comes after STLS.
    pub fn tls_before_utf8() -> Self {
        err("STLS comes before UTF8")
    }
    pub fn no_apop() -> Self {
        err("APOP is not offered here: the greeting has no timestamp (RFC 1939, section 7); say USER and PASS")
    }
    pub fn unknown_mechanism() -> Self {
        err("no such mechanism; CAPA tells which there are")
    }
    pub fn not_base64() -> Self {
        err("this is not base64 (RFC 4648, section 4)")
    }
    pub fn malformed(problem: impl fmt::Display) -> Self {
        err(problem.to_string())
    }
    pub fn cancelled() -> Self {
        err("as you wish")
    }
    pub fn no_such_message(count: usize) -> Self {
        err(format!("no such message; the maildrop had {} when you came", plural(count, "message")))
    }
    pub fn deleted_already(number: usize) -> Self {
        err(format!("message {number} is deleted; RSET brings it back"))
    }
    pub fn no_login() -> Self {
        err("you have said much and not logged in, good bye")
    }
    pub fn too_many_errors() -> Self {
        err("too many errors, good bye")
    }
    pub fn wrong_credentials() -> Self {
        err_code(Code::Auth, "wrong user or password")
    }
    pub fn too_many_wrong_passwords() -> Self {
        err_code(Code::Auth, "too many wrong passwords, good bye")
    }
    pub fn in_use() -> Self {
        err_code(Code::InUse, "another session has this maildrop; try again when it is over")
    }
    pub fn too_early(delay: Duration) -> Self {
        err_code(Code::LoginDelay, format!("wait at least {} s between two logins", delay.as_secs()))
    }
    pub fn too_soon(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000);
        err_code(Code::SysTemp, format!("wrong passwords came from your address; try again in {seconds} s"))
    }
    pub fn needs_utf8() -> Self {
        err_code(Code::Utf8, "the header of this message is UTF-8: say UTF8 before you log in")
    }

    // --- No, and it is ours ---

    pub fn cannot_tell() -> Self {
        err_code(Code::SysTemp, "cannot check the password now; try again later")
    }
    pub fn cannot_open_maildrop() -> Self {
        err_code(Code::SysPerm, "the maildrop cannot be opened; tell the postmaster")
    }
    pub fn vanished(number: usize) -> Self {
        err_code(Code::SysTemp, format!("message {number} is gone: another program has removed it"))
    }
    pub fn unreadable(number: usize) -> Self {
        err_code(Code::SysPerm, format!("message {number} cannot be read; tell the postmaster"))
    }
    /// RFC 1939 §6: "some deleted messages not removed".
    pub fn not_all_removed(failed: usize) -> Self {
        let count = plural(failed, "message");
        err_code(Code::SysPerm, format!("{count} of the deleted could not be removed; tell the postmaster"))
    }
    pub fn stopping() -> Self {
        err_code(Code::SysTemp, "the server stops; nothing was deleted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_has_status_code_and_text_and_fits_its_line() {
        for (reply, text) in [
            (Reply::greeting(None), "+OK POP3 server ready"),
            (Reply::greeting(Some("<1@h>")), "+OK POP3 server ready <1@h>"),
            (Reply::name_heard(), "+OK"),
            (Reply::challenge(String::new()), "+ "),
            (Reply::challenge("cj0x".to_owned()), "+ cj0x"),
            (Reply::in_use(), "-ERR [IN-USE] another session has this maildrop; try again when it is over"),
            (Reply::listing(1, 498), "+OK 1 message (498 octets)"),
            (
                Reply::too_soon(Duration::from_millis(1001)),
                "-ERR [SYS/TEMP] wrong passwords came from your address; try again in 2 s",
            ),
        ] {
            assert_eq!(reply.to_string(), text);
            assert!(text.len() + 2 <= 512, "RFC 1939 §3");
        }
    }
}
