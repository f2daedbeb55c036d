//! What we may answer (RFC 5321 §4.2): a code for programs, an enhanced one (RFC 3463, RFC 2034), words for people.
//!
//! One constructor for each *reason*; nobody else knows codes and texts. Those that the course's slides print are theirs, and
//! whoever says HELO hears them to the letter. Whoever says EHLO hears the enhanced code before each (RFC 2034 §4); a refusal
//! has it always, for it helps whoever looks it up.

use crate::{
    address::{AddressError, ForwardPath, Mailbox, ReversePath, ascii},
    command::Client,
    envelope::{Charset, Status},
    session::StartTls,
};
use shared::{sasl::Refusal, transcript::readable};
use std::{fmt, time::Duration};

/// An answer, of one line or more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    status: Option<Status>,
    text: Vec<String>,
}

/// Whether success too is told with an enhanced code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// The client said HELO, or nothing yet.
    Plain,
    /// The client said EHLO.
    Enhanced,
}

fn reply(code: u16, text: impl Into<String>) -> Reply {
    Reply { code, status: None, text: vec![text.into()] }
}

fn enhanced(code: u16, subject: u16, detail: u16, text: impl Into<String>) -> Reply {
    let class = u8::try_from(code / 100).unwrap_or(5);
    Reply { code, status: Some(Status(class, subject, detail)), text: vec![text.into()] }
}

impl Reply {
    /// Its lines as they go out, without line ends: `250-` before all but the last (RFC 5321 §4.2.1).
    pub fn lines(&self, codes: Codes) -> impl Iterator<Item = String> {
        let shown = self.status.filter(|_| codes == Codes::Enhanced || self.code >= 400);
        let last = self.text.len() - 1;
        self.text.iter().enumerate().map(move |(index, text)| {
            let mut line = format!("{}{}", self.code, if index == last { ' ' } else { '-' });
            if let Some(status) = shown {
                line.push_str(&status.to_string());
                line.push(' ');
            }
            line.push_str(text);
            line
        })
    }

    /// Whether it says yes.
    pub fn is_ok(&self) -> bool {
        self.code < 400
    }

    /// Whether it says never.
    pub fn is_permanent(&self) -> bool {
        self.code >= 500
    }
}

impl fmt::Display for Reply {
    /// For the log: with its enhanced code, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        self.status.map_or(Ok(()), |status| write!(f, " {status}"))?;
        write!(f, " {}", self.text.join(" / "))
    }
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

fn plural(count: u64, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[expect(missing_docs, reason = "the names are the reasons")]
impl Reply {
    // --- Yes ---

    /// RFC 5321 §4.2 has the domain first, and nothing must follow.
    pub fn greeting(host: &str) -> Self {
        reply(220, host)
    }
    /// Deviates: RFC 5321 §4.1.1.1 has our domain first. The textbook prints it so, and no client looks.
    pub fn hello(client: &Client) -> Self {
        reply(250, format!("Hello {client}, pleased to meet you"))
    }
    /// RFC 5321 §4.1.1.1: each extension has a line of its own.
    pub fn hello_with(host: &str, client: &Client, extensions: Vec<String>) -> Self {
        let mut text = vec![format!("{host} Hello {client}, pleased to meet you")];
        text.extend(extensions);
        Self { code: 250, status: None, text }
    }
    pub fn sender_ok(from: &ReversePath) -> Self {
        match from {
            ReversePath::Null => enhanced(250, 1, 0, "<>... Sender ok"),
            ReversePath::Mailbox(mailbox) => enhanced(250, 1, 0, format!("{mailbox}... Sender ok")),
        }
    }
    pub fn recipient_ok(to: &ForwardPath) -> Self {
        let name = match to {
            ForwardPath::Postmaster => "Postmaster".to_owned(),
            ForwardPath::Mailbox(mailbox) => mailbox.to_string(),
        };
        enhanced(250, 1, 5, format!("{name}... Recipient ok"))
    }
    pub fn start_input() -> Self {
        reply(354, "Enter mail, end with \".\" on a line by itself")
    }
    pub fn accepted(id: &str, codes: Codes) -> Self {
        match codes {
            Codes::Plain => enhanced(250, 0, 0, "Message accepted for delivery"),
            Codes::Enhanced => enhanced(250, 0, 0, format!("Message accepted for delivery as {id}")),
        }
    }
    pub fn chunk(octets: u64) -> Self {
        enhanced(250, 0, 0, format!("{} received so far", plural(octets, "octet")))
    }
    pub fn reset() -> Self {
        enhanced(250, 0, 0, "Nothing said so far counts")
    }
    pub fn noop() -> Self {
        enhanced(250, 0, 0, "I am still here")
    }
    pub fn closing(host: &str) -> Self {
        enhanced(221, 0, 0, format!("{host} closing connection"))
    }
    pub fn begin_tls() -> Self {
        enhanced(220, 0, 0, "Begin TLS")
    }
    pub fn logged_in(user: &str) -> Self {
        // The name came out of base64, where a CR or an LF passes, and letters that a reply cannot have.
        let user = ascii(&readable(user.as_bytes()));
        enhanced(235, 7, 0, format!("{user} is logged in"))
    }
    /// RFC 4954 §4: the challenge stands where the text would.
    pub fn challenge(base64: String) -> Self {
        reply(334, base64)
    }
    /// RFC 5321 §3.5.3.
    pub fn verified(mailboxes: &[Mailbox], charset: Charset) -> Self {
        if charset == Charset::Ascii && !mailboxes.iter().all(Mailbox::is_ascii) {
            // RFC 6531 §3.7.4.2.
            let text = "The answer has letters beyond ASCII: say SMTPUTF8 behind the name (RFC 6531)";
            return enhanced(550, 6, 8, text);
        }
        let text = mailboxes.iter().map(|mailbox| format!("<{mailbox}>")).collect();
        Self { code: 250, status: Some(Status(2, 1, 5)), text }
    }
    /// RFC 5321 §7.3: who asks must not learn who is here.
    pub fn not_verified() -> Self {
        enhanced(252, 1, 5, "I do not tell, but will take a message and try")
    }
    pub fn help() -> Self {
        let text = [
            "A message goes like this:",
            "  HELO your.domain            who you are (EHLO: and tell me what you can do)",
            "  MAIL FROM:<you@your.domain> whom to tell if it is lost",
            "  RCPT TO:<bob@hamburger.edu> for whom; once for each",
            "  DATA                        then header, empty line, text, and a line with only a dot",
            "  QUIT                        goodbye",
            "Also: RSET NOOP HELP VRFY EXPN BDAT STARTTLS AUTH. See RFC 5321.",
        ];
        Self { code: 214, status: Some(Status(2, 0, 0)), text: text.map(str::to_owned).to_vec() }
    }

    // --- No: what was said ---

    pub fn unknown_command() -> Self {
        enhanced(500, 5, 2, "I know no such command; say HELP for those that I know")
    }
    pub fn obsolete() -> Self {
        enhanced(502, 5, 1, "That command is no longer in use (RFC 5321 appendix F); say MAIL, RCPT, DATA")
    }
    pub fn arguments(usage: &str) -> Self {
        enhanced(501, 5, 4, format!("Say {usage}"))
    }
    pub fn bad_sender(error: AddressError) -> Self {
        enhanced(501, 1, 7, error.to_string())
    }
    pub fn bad_recipient(error: AddressError) -> Self {
        enhanced(501, 1, 3, error.to_string())
    }
    /// RFC 6531 §3.5: the code for an address that needs SMTPUTF8 where it was not said.
    pub fn recipient_needs_utf8() -> Self {
        enhanced(553, 6, 7, AddressError::Ascii.to_string())
    }
    pub fn unknown_parameter() -> Self {
        enhanced(555, 5, 4, "That parameter is not offered; EHLO's answer has those that are")
    }
    pub fn unknown_mechanism() -> Self {
        enhanced(504, 5, 4, "Say AUTH with one of the mechanisms that EHLO's answer names")
    }
    pub fn not_base64() -> Self {
        enhanced(501, 5, 2, "That is not base64 (RFC 4648, section 4)")
    }
    pub fn malformed(problem: impl fmt::Display) -> Self {
        enhanced(501, 5, 2, problem.to_string())
    }
    pub fn stray() -> Self {
        enhanced(500, 5, 2, "A line ends with CR LF, and has no CR, LF or NUL inside (RFC 5321, section 2.3.8)")
    }
    /// The same for both pieces of a line that has one.
    pub fn lf_alone() -> Self {
        let text =
            "That was an LF without CR: a line ends with CR LF, and nothing counts up to the next one (nc -C sends it)";
        enhanced(500, 5, 2, text)
    }
    pub fn line_too_long(octets: usize) -> Self {
        enhanced(500, 5, 2, format!("That line is too long: at most {octets} octets"))
    }

    // --- No: said at the wrong time ---

    pub fn hello_first() -> Self {
        enhanced(503, 5, 1, "Say HELO your.domain first")
    }
    pub fn ehlo_first() -> Self {
        enhanced(503, 5, 1, "Say EHLO your.domain first; HELO has no extensions")
    }
    pub fn mail_first() -> Self {
        enhanced(503, 5, 1, "Say MAIL FROM:<you@crepes.fr> first")
    }
    pub fn mail_already() -> Self {
        enhanced(503, 5, 1, "There is a sender already: go on with RCPT TO, or say RSET")
    }
    pub fn recipient_first() -> Self {
        enhanced(503, 5, 1, "Say RCPT TO:<bob@hamburger.edu> first")
    }
    /// RFC 5321 §3.3.
    pub fn no_valid_recipients() -> Self {
        enhanced(554, 5, 1, "No valid recipients: each RCPT was refused")
    }
    /// RFC 3030 §2.
    pub fn chunks_only() -> Self {
        enhanced(503, 5, 1, "A message has begun with BDAT: go on with BDAT, end with BDAT 0 LAST, or say RSET")
    }
    pub fn login_first() -> Self {
        enhanced(530, 7, 0, "Log in first: AUTH (RFC 6409, section 4.3)")
    }
    /// RFC 4954 §4.
    pub fn encrypt_first(starttls: StartTls) -> Self {
        let text = match starttls {
            StartTls::Offered => "Say STARTTLS first: the password would be read on the way",
            StartTls::No => {
                "The password would be read on the way, and there is no TLS here: log in with AUTH SCRAM-SHA-256"
            }
        };
        enhanced(538, 7, 11, text)
    }
    pub fn starttls_first() -> Self {
        enhanced(530, 7, 0, "Say STARTTLS first, then log in: AUTH (RFC 6409, section 4.3)")
    }
    pub fn logged_in_already() -> Self {
        enhanced(503, 5, 1, "You are logged in already (RFC 4954, section 4): go on with MAIL")
    }
    pub fn not_within_a_transaction() -> Self {
        enhanced(503, 5, 1, "Not between MAIL and the end of the message: say RSET first")
    }
    pub fn tls_already() -> Self {
        enhanced(503, 5, 1, "This connection is encrypted already (RFC 3207, section 4.2): go on with EHLO")
    }
    /// RFC 3207 §4.2.
    pub fn tls_before_login() -> Self {
        enhanced(503, 5, 1, "You have logged in: STARTTLS comes before AUTH")
    }
    pub fn no_tls() -> Self {
        enhanced(502, 5, 1, "TLS is not offered here: there is no certificate in [tls]")
    }

    // --- No: who, and for whom ---

    pub fn wrong_credentials() -> Self {
        enhanced(535, 7, 8, "Name or password is wrong")
    }
    pub fn too_soon(wait: Duration) -> Self {
        let seconds = wait.as_millis().div_ceil(1000) as u64;
        enhanced(454, 7, 0, format!("After a wrong password, wait; try again in {}", plural(seconds, "second")))
    }
    pub fn cancelled() -> Self {
        enhanced(501, 7, 0, "AUTH is given up, as you wish")
    }
    pub fn no_such_user(to: &ForwardPath) -> Self {
        enhanced(550, 1, 1, format!("{to}... there is no such mailbox here; is the name before the @ right?"))
    }
    /// RFC 3463 §3.3: a list that cannot be expanded.
    pub fn list_too_long(to: &ForwardPath, most: usize) -> Self {
        enhanced(550, 2, 4, format!("{to}... that list has more than {most} members: write to a part of them"))
    }
    pub fn relaying_denied(to: &ForwardPath) -> Self {
        enhanced(550, 7, 1, format!("{to}... I relay only for my own users: log in, or ask the server of that domain"))
    }
    pub fn ambiguous() -> Self {
        enhanced(553, 1, 4, "That means more than one mailbox; EXPN shows them")
    }
    pub fn no_such_name() -> Self {
        enhanced(550, 1, 1, "There is no such name here")
    }
    pub fn expand_denied() -> Self {
        enhanced(502, 7, 0, "Lists are not shown here (RFC 5321, section 7.3)")
    }
    pub fn too_many_recipients(most: usize) -> Self {
        enhanced(452, 5, 3, format!("At most {most} recipients at once: send it to these, then to the others"))
    }
    pub fn greylisted(wait: Duration) -> Self {
        let wait = plural(wait.as_secs().max(1), "second");
        enhanced(451, 7, 1, format!("We have not met: try again in {wait} (greylisting, RFC 6647)"))
    }
    pub fn as_wished(code: u16) -> Self {
        let text = "As the address wishes (fault_addresses)";
        enhanced(code, 3, 0, text)
    }

    // --- No: the message ---

    pub fn too_large(octets: u64) -> Self {
        enhanced(552, 3, 4, format!("Too large: at most {octets} octets, as SIZE in EHLO's answer says (RFC 1870)"))
    }
    pub fn bare_cr() -> Self {
        enhanced(
            554,
            6,
            0,
            "The message has a CR without LF: lines end with CR LF and nothing else (RFC 5321, section 2.3.8)",
        )
    }
    pub fn bare_lf() -> Self {
        enhanced(
            554,
            6,
            0,
            "The message has an LF without CR: lines end with CR LF and nothing else (RFC 5321, section 2.3.8)",
        )
    }
    pub fn nul() -> Self {
        enhanced(554, 6, 0, "The message has a NUL: encode it (base64)")
    }
    pub fn text_line_too_long(octets: usize) -> Self {
        enhanced(
            554,
            6,
            0,
            format!("The message has a line of more than {octets} octets (RFC 5321, section 4.5.3.1.6): encode it"),
        )
    }
    pub fn header_too_long(octets: usize) -> Self {
        enhanced(554, 6, 0, format!("The message's header has more than {octets} octets: shorten it"))
    }
    /// RFC 5321 §6.3.
    pub fn loop_detected(hops: usize) -> Self {
        let text = format!(
            "The message has been through {hops} servers (RFC 5321, section 6.3): it runs in a circle, which Received: shows"
        );
        enhanced(554, 4, 6, text)
    }

    // --- Not now: our own fault ---

    pub fn cannot_store() -> Self {
        enhanced(451, 3, 0, "I cannot store it now; try again later")
    }
    pub fn disk_full() -> Self {
        enhanced(452, 3, 1, "There is no room to store it; try again later")
    }
    pub fn queue_full() -> Self {
        enhanced(452, 3, 1, "Too many messages wait here already; try again later")
    }
    /// RFC 5321 §4.2.3: 552 for what can never fit, 452 for what may.
    pub fn mailbox_full(to: &ForwardPath) -> Self {
        enhanced(452, 2, 2, format!("{to}... the mailbox is full; try again when its owner has made room"))
    }
    pub fn larger_than_mailbox(to: &ForwardPath, octets: u64) -> Self {
        enhanced(
            552,
            2,
            2,
            format!("{to}... the mailbox has room for {octets} octets in all: make the message smaller"),
        )
    }
    pub fn cannot_tell() -> Self {
        enhanced(454, 7, 0, "I cannot tell whether that is right; try again later")
    }
    pub fn stopping(host: &str) -> Self {
        enhanced(421, 3, 2, format!("{host} is stopping; try again later"))
    }
    pub fn timed_out(host: &str) -> Self {
        enhanced(421, 4, 2, format!("{host} heard nothing for too long; goodbye"))
    }
    pub fn nothing_to_send(host: &str) -> Self {
        enhanced(421, 7, 0, format!("{host} has heard much and got no message; come back with one, goodbye"))
    }
    pub fn too_many_errors(host: &str) -> Self {
        enhanced(421, 7, 0, format!("{host} has heard too many errors; goodbye"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_has_an_enhanced_code_for_who_said_ehlo_and_a_refusal_always() {
        let all = |reply: Reply, codes| reply.lines(codes).collect::<Vec<_>>();
        let from = "<alice@crepes.fr>".parse().unwrap();
        assert_eq!(all(Reply::sender_ok(&from), Codes::Plain), ["250 alice@crepes.fr... Sender ok"]);
        assert_eq!(all(Reply::sender_ok(&from), Codes::Enhanced), ["250 2.1.0 alice@crepes.fr... Sender ok"]);
        assert_eq!(all(Reply::mail_first(), Codes::Plain), ["503 5.5.1 Say MAIL FROM:<you@crepes.fr> first"]);
        assert_eq!(all(Reply::challenge(String::new()), Codes::Enhanced), ["334 "]);
        let help = all(Reply::help(), Codes::Plain);
        assert!(help[..help.len() - 1].iter().all(|line| line.starts_with("214-")), "{help:?}");
        assert!(help.last().unwrap().starts_with("214 "), "{help:?}");
    }

    /// RFC 5321 §4.5.3.1.5: a reply line has at most 512 octets with its CR LF.
    #[test]
    fn replies_that_repeat_the_longest_address_fit_into_a_line() {
        let domain = format!("{}.{}.{}.fr", "d".repeat(63), "e".repeat(63), "f".repeat(50));
        let to: ForwardPath = format!("<{}@{domain}>", "x".repeat(64)).parse().unwrap();
        for reply in [Reply::relaying_denied(&to), Reply::no_such_user(&to), Reply::recipient_ok(&to)] {
            assert!(reply.lines(Codes::Enhanced).all(|line| line.len() <= 510));
        }
    }

    #[test]
    fn a_users_name_cannot_begin_a_line_of_its_own() {
        let lines: Vec<_> = Reply::logged_in("bob\r\n250 ok").lines(Codes::Plain).collect();
        assert_eq!(lines, ["235 bob\\r\\n250 ok is logged in"]);
        // RFC 5321 §4.2.
        let lines: Vec<_> = Reply::logged_in("åsa").lines(Codes::Plain).collect();
        assert_eq!(lines, ["235 ?sa is logged in"]);
    }
}
