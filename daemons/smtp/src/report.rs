//! What a sender hears about its message: that it could not be delivered, that it takes long, that it was delivered, that it went where
//! nobody reports (RFC 3461, 3462, 3464; in UTF-8 RFC 6533).
//!
//! ```text
//!   multipart/report
//!     |-- text/plain                  for people: what happened, who said what, what to do
//!     |-- message/delivery-status     the same for programs
//!     `-- message/rfc822              the message, or text/rfc822-headers: its header
//! ```
//!
//! It is from `<>`, so that no report is ever made about it.

use crate::{
    address::{Host, Mailbox, ReversePath},
    envelope::{Account, Body, Charset, Envelope, Notify, Recipient, Ret, Status},
    route::MAILER_DAEMON,
};
use shared::transcript::readable;
use std::time::SystemTime;
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

/// How wide lines are: RFC 5322 §2.1.1 would have 78, and quoting adds to them.
const WIDTH: usize = 72;

/// How much of a message is returned with RET=FULL (RFC 3461 §4.3). Deviates: of a longer one the header alone is returned, for a report as
/// large as a film helps nobody and may not be deliverable itself.
pub const FULL_OCTETS_MAX: u64 = 64 << 10;
/// How many octets of the message [`Report::original`] needs at most.
pub const ORIGINAL_OCTETS_MAX: usize = FULL_OCTETS_MAX as usize;

/// What is to be reported.
#[derive(Clone, Debug)]
pub struct Report<'a> {
    /// Our name.
    pub host: &'a str,
    /// Unique on this host: the report's Message-ID and boundary come from it.
    pub id: &'a str,
    /// The message's queue id.
    pub queue_id: &'a str,
    /// To whom.
    pub addressee: Addressee<'a>,
    /// The message's envelope.
    pub envelope: &'a Envelope,
    /// When the message came.
    pub arrived: SystemTime,
    /// The time.
    pub now: SystemTime,
    /// What happened to whom.
    pub entries: Vec<Entry<'a>>,
    /// The message from its start: all of it, or its first [`ORIGINAL_OCTETS_MAX`] octets.
    pub original: &'a [u8],
    /// The octets of the whole message.
    pub octets: u64,
}

/// Who gets the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressee<'a> {
    /// The message's sender; if there is none, there is no report.
    Sender,
    /// Somebody who answers for this server, about a report that could not be delivered itself.
    Postmaster(&'a Mailbox),
}

/// What happened to one recipient.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// The index into the envelope's recipients.
    pub recipient: usize,
    /// What.
    pub action: Action,
    /// How.
    pub account: &'a Account,
    /// When it was tried last.
    pub tried: SystemTime,
}

/// RFC 3464 §2.3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Never.
    Failed,
    /// Not yet.
    Delayed {
        /// When it will be given up.
        until: SystemTime,
    },
    /// In the mailbox.
    Delivered,
    /// Gone to a server that does not report.
    Relayed,
    /// Gone to those whom a list or a `.forward` file names (RFC 3461 §5.2.7.3).
    Expanded,
}

impl Action {
    /// What happened to a message; the recipient's address follows.
    fn in_words(self) -> &'static str {
        match self {
            Action::Failed => "could not be delivered to",
            Action::Delayed { .. } => "has not been delivered yet to",
            Action::Delivered => "has been delivered to",
            Action::Relayed => "has been passed on, to a server that does not report deliveries, for",
            Action::Expanded => "has been passed on to all whom this address stands for:",
        }
    }
}

/// A report that is ready to be queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// From nobody, to the addressee.
    pub envelope: Envelope,
    /// The message, its lines ended by CR LF, not dot-stuffed.
    pub message: Vec<u8>,
    /// What it is about, for whoever runs the server: what happened to the first recipient, and how many others there are.
    pub in_short: String,
}

impl Report<'_> {
    /// Writes the report. There is none when nobody may be told (the message came from `<>`), or when the sender wanted to hear of none of
    /// this (NOTIFY).
    pub fn build(&self) -> Option<Built> {
        // RFC 5321 §4.5.5, §6.1: never to `<>`.
        let to = match (self.addressee, &self.envelope.from) {
            (Addressee::Postmaster(mailbox), _) | (Addressee::Sender, ReversePath::Mailbox(mailbox)) => mailbox.clone(),
            (Addressee::Sender, ReversePath::Null) => return None,
        };
        let entries: Vec<&Entry> = self.entries.iter().filter(|entry| self.is_wanted(entry)).collect();
        if entries.is_empty() {
            return None;
        }
        let (explanation, status) = (self.explanation(&entries), self.status(&entries));
        let returned = self.returned(&entries);
        let parts = [Part::text(explanation), status, returned];

        let mut text = Vec::with_capacity(4096);
        let boundary = self.boundary(&parts);
        let host = self.host;
        for (name, value) in [
            ("Date", date(self.now)),
            ("From", format!("Mail Delivery System <{MAILER_DAEMON}@{host}>")),
            ("To", format!("<{to}>")),
            ("Subject", self.subject(&entries)),
            ("Message-ID", format!("<{}@{host}>", self.id)),
            // RFC 3834 §5: programs that answer mail do not answer this.
            ("Auto-Submitted", "auto-replied".to_owned()),
            ("MIME-Version", "1.0".to_owned()),
            ("Content-Type", format!("multipart/report; report-type=delivery-status; boundary=\"{boundary}\"")),
        ] {
            field(&mut text, name, &value);
        }
        if parts.iter().any(|part| !part.content.is_ascii()) {
            field(&mut text, "Content-Transfer-Encoding", "8bit");
        }
        text.extend_from_slice(b"\r\nThis is a report in MIME form (RFC 3464).\r\n");
        for part in &parts {
            text.extend_from_slice(format!("\r\n--{boundary}\r\n").as_bytes());
            part.write(&mut text);
        }
        text.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());

        let body = if text.is_ascii() { Body::SevenBit } else { Body::EightBitMime };
        let charset = if to.is_ascii() { Charset::Ascii } else { Charset::Utf8 };
        // Nobody is told of what becomes of a report.
        let recipients = vec![Recipient { to, notify: Notify::Never, orcpt: None }];
        let envelope = Envelope { from: ReversePath::Null, body, charset, ret: Ret::Unsaid, envid: None, recipients };
        Some(Built { envelope, message: text, in_short: self.in_short(&entries) })
    }

    /// RFC 3461 §4.1, §5.2: what the sender wants to hear of. The postmaster hears of everything.
    fn is_wanted(&self, entry: &Entry<'_>) -> bool {
        let notify = self.recipient(entry).notify;
        match (self.addressee, entry.action) {
            (Addressee::Postmaster(_), _) => true,
            (Addressee::Sender, Action::Failed) => notify.of_failure(),
            (Addressee::Sender, Action::Delayed { .. }) => notify.of_delay(),
            (Addressee::Sender, Action::Delivered | Action::Relayed | Action::Expanded) => notify.of_success(),
        }
    }

    fn recipient(&self, entry: &Entry<'_>) -> &Recipient {
        &self.envelope.recipients[entry.recipient]
    }

    /// A line that stands in none of the parts (RFC 2046 §5.1.1), whatever a message has in it.
    fn boundary(&self, parts: &[Part]) -> String {
        let mut number = 0_u64;
        loop {
            let boundary = format!("=_{}.{number}", self.id);
            let delimiter = format!("--{boundary}");
            let is_in = |part: &Part| memchr::memmem::find(&part.content, delimiter.as_bytes()).is_some();
            if !parts.iter().any(is_in) {
                return boundary;
            }
            number += 1;
        }
    }

    fn in_short(&self, entries: &[&Entry<'_>]) -> String {
        let [first, others @ ..] = entries else { return String::new() };
        let others = match others.len() {
            0 => String::new(),
            1 => ", and so on for 1 recipient more".to_owned(),
            count => format!(", and so on for {count} recipients more"),
        };
        format!("it {} {}: {}{others}", first.action.in_words(), self.recipient(first).to, first.account)
    }

    // --- For people ---

    fn whose(&self) -> &'static str {
        match self.addressee {
            Addressee::Sender => "Your message",
            Addressee::Postmaster(_) => "The report",
        }
    }

    fn subject(&self, entries: &[&Entry<'_>]) -> String {
        let all = |is: fn(&Action) -> bool| entries.iter().all(|entry| is(&entry.action));
        let whose = self.whose();
        if all(|action| matches!(action, Action::Failed)) {
            format!("{whose} could not be delivered")
        } else if all(|action| matches!(action, Action::Delayed { .. })) {
            format!("{whose} has not been delivered yet")
        } else if all(|action| matches!(action, Action::Delivered)) {
            format!("{whose} has been delivered")
        } else if all(|action| matches!(action, Action::Relayed | Action::Expanded)) {
            format!("{whose} has been passed on")
        } else {
            format!("{whose}, and what became of it")
        }
    }

    fn explanation(&self, entries: &[&Entry<'_>]) -> Vec<u8> {
        let mut text = vec![];
        paragraph(&mut text, "", &format!("This is the mail server {}.", self.host));
        if let Addressee::Postmaster(_) = self.addressee {
            let about = "A report about a lost message could not be delivered itself. Nobody else can be told, so you are: somebody \
                whose address is wrong or forged has sent mail, or its server is out of order.";
            paragraph(&mut text, "", about);
        }
        let whose = self.whose();
        for entry in entries {
            let to = &self.recipient(entry).to;
            paragraph(&mut text, "", &format!("{whose} {}", entry.action.in_words()));
            paragraph(&mut text, "    ", &to.to_string());
            let stop = if entry.account.text.ends_with(['.', '?', '!']) { "" } else { "." };
            paragraph(&mut text, "", &format!("What happened: {}{stop}", entry.account.text));
            if let Some(reply) = &entry.account.reply {
                let who = entry.account.remote.as_deref().unwrap_or("the server");
                paragraph(&mut text, "", &format!("What {who} said: {}", self.repeated(reply)));
            }
            paragraph(&mut text, "", &format!("What to do: {}", advice(entry, to)));
        }
        let arrived = date(self.arrived);
        paragraph(&mut text, "", &format!("{whose} came here on {arrived} and was called {}.", self.queue_id));
        // The last paragraph needs no empty line behind it.
        text.truncate(text.len() - 2);
        text
    }

    /// What a server said. RFC 5321 §4.2 has it in ASCII; where it is not, and nobody's address is the reason,
    /// a report that repeated it would need 8BITMIME, which the sender's server may not offer.
    fn repeated(&self, said: &str) -> String {
        let kept =
            |letter: char| if letter.is_ascii() || self.envelope.charset == Charset::Utf8 { letter } else { '?' };
        said.chars().map(kept).collect()
    }

    // --- For programs, RFC 3464 §2 ---

    fn status(&self, entries: &[&Entry<'_>]) -> Part {
        let mut text = vec![];
        if let Some(envid) = &self.envelope.envid {
            field(&mut text, "Original-Envelope-Id", &envid.decoded());
        }
        field(&mut text, "Reporting-MTA", &format!("dns; {}", self.host));
        field(&mut text, "Arrival-Date", &date(self.arrived));
        for entry in entries {
            let Recipient { to, orcpt, .. } = self.recipient(entry);
            let Account { status, remote, reply, .. } = entry.account;
            text.extend_from_slice(b"\r\n");
            if let Some(original) = orcpt {
                let address = original.address.decoded();
                field(&mut text, "Original-Recipient", &format!("{};{address}", original.kind));
            }
            // RFC 6533 §3.
            let kind = if to.is_ascii() { "rfc822" } else { "utf-8" };
            field(&mut text, "Final-Recipient", &format!("{kind};{to}"));
            field(
                &mut text,
                "Action",
                match entry.action {
                    Action::Failed => "failed",
                    Action::Delayed { .. } => "delayed",
                    Action::Delivered => "delivered",
                    Action::Relayed => "relayed",
                    Action::Expanded => "expanded",
                },
            );
            field(&mut text, "Status", &status.to_string());
            if let Some(remote) = remote {
                field(&mut text, "Remote-MTA", &format!("dns; {remote}"));
            }
            if let Some(reply) = reply {
                field(&mut text, "Diagnostic-Code", &format!("smtp; {}", self.repeated(reply)));
            }
            field(&mut text, "Last-Attempt-Date", &date(entry.tried));
            if let Action::Delayed { until } = entry.action {
                field(&mut text, "Will-Retry-Until", &date(until));
            }
        }
        let global = !text.is_ascii();
        Part { kind: if global { "message/global-delivery-status" } else { "message/delivery-status" }, content: text }
    }

    // --- The message itself ---

    fn returned(&self, entries: &[&Entry<'_>]) -> Part {
        // RFC 3461 §4.3: RET is about failures; other reports have the header only.
        let has_failed = entries.iter().any(|entry| entry.action == Action::Failed);
        let is_here = self.original.len() as u64 == self.octets && self.octets <= FULL_OCTETS_MAX;
        let header = header(self.original);
        // RFC 6533 §5, §6: with UTF-8 in its header it is a message of another kind.
        let is_global = !header.is_ascii() && str::from_utf8(header).is_ok();
        let (kind, content) = match (has_failed && self.envelope.ret == Ret::Full && is_here, is_global) {
            (true, false) => ("message/rfc822", self.original),
            (true, true) => ("message/global", self.original),
            (false, false) => ("text/rfc822-headers", header),
            (false, true) => ("message/global-headers", header),
        };
        Part { kind, content: content.to_vec() }
    }
}

/// The header at the start of a message; as many whole lines of it as there are.
fn header(message: &[u8]) -> &[u8] {
    if message.starts_with(b"\r\n") {
        return &[];
    }
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(end) => &message[..end + 2],
        None => memchr::memmem::rfind(message, b"\r\n").map_or(&[], |end| &message[..end + 2]),
    }
}

/// What a sender can do. The status is the one thing that says in a few numbers what the matter is (RFC 3463 §3).
fn advice(entry: &Entry<'_>, to: &Mailbox) -> String {
    let postmaster = match to.host() {
        Host::Domain(domain) => format!("postmaster@{domain}"),
        host @ Host::Literal(_) => format!("whoever runs {host}"),
    };
    let Status(_, subject, detail) = entry.account.status;
    match (entry.action, subject, detail) {
        (Action::Delayed { until }, ..) => {
            format!("nothing. It is tried again until {}; if that fails too, you will hear of it.", date(until))
        }
        (Action::Delivered, ..) => "nothing.".to_owned(),
        (Action::Expanded, ..) => "nothing. Of what cannot be delivered to one of them, you hear if you wished to.".to_owned(),
        (Action::Relayed, ..) => "nothing. If it cannot be delivered there, you should hear of it.".to_owned(),
        (Action::Failed, 1, 1) => format!("look whether the name before the @ in {to} is right."),
        (Action::Failed, 1, 10) => "find another address; this domain has none that takes mail.".to_owned(),
        (Action::Failed, 1, _) => {
            format!("look whether the address {to} is right, above all what stands behind the @.")
        }
        (Action::Failed, 2, 2) => "send it again when the recipient has made room in the mailbox.".to_owned(),
        (Action::Failed, 2 | 3, 3 | 4) => {
            "make the message smaller, or put what is large on a web server and send its address.".to_owned()
        }
        (Action::Failed, 4, 6) => {
            format!("nothing; tell {postmaster}, who can change where mail for this domain goes.")
        }
        (Action::Failed, 4, _) => {
            format!(
                "send it again later. If it fails again, ask {postmaster} by another way whether the server is running."
            )
        }
        (Action::Failed, 6, 7) => {
            "for this recipient, use addresses in ASCII, yours too, and have your mail program encode subject and names (RFC 2047)."
                .to_owned()
        }
        (Action::Failed, 6, _) => {
            "have your mail program encode the message as quoted-printable or base64 (RFC 2045, section 6).".to_owned()
        }
        (Action::Failed, 7, _) => {
            format!("read what was said; the server has a rule against it. {postmaster} knows more.")
        }
        (Action::Failed, ..) => format!("read what was said; if it does not help, ask {postmaster}."),
    }
}

/// A part of the report.
struct Part {
    kind: &'static str,
    content: Vec<u8>,
}

impl Part {
    fn text(content: Vec<u8>) -> Self {
        Self { kind: if content.is_ascii() { "text/plain" } else { "text/plain; charset=utf-8" }, content }
    }

    fn write(&self, text: &mut Vec<u8>) {
        field(text, "Content-Type", self.kind);
        if !self.content.is_ascii() {
            field(text, "Content-Transfer-Encoding", "8bit");
        }
        text.extend_from_slice(b"\r\n");
        text.extend_from_slice(&self.content);
        // The line end before the delimiter belongs to the delimiter (RFC 2046 §5.1.1).
        if !self.content.ends_with(b"\r\n") {
            text.extend_from_slice(b"\r\n");
        }
    }
}

/// RFC 5322 §3.3.
fn date(time: SystemTime) -> String {
    // The calendar of the crate ends in the year 9999, that of RFC 2822 begins in 1900; nobody's mail is from elsewhere.
    OffsetDateTime::from(time).format(&Rfc2822).unwrap_or_else(|_| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned())
}

/// `Name: value`, folded (RFC 5322 §2.2.3).
fn field(text: &mut Vec<u8>, name: &str, value: &str) {
    lines(text, &format!("{name}: "), " ", value);
}

/// A paragraph for people, and an empty line.
fn paragraph(text: &mut Vec<u8>, indent: &str, words: &str) {
    lines(text, indent, indent, words);
    text.extend_from_slice(b"\r\n");
}

/// Words in lines of [`WIDTH`]. What is no text is made readable: an address or a reply must not bring a line of its own.
fn lines(text: &mut Vec<u8>, first: &str, next: &str, words: &str) {
    let mut line = first.to_owned();
    let mut is_new = true;
    let mut end = |line: &mut String| {
        text.extend_from_slice(line.trim_end().as_bytes());
        text.extend_from_slice(b"\r\n");
        next.clone_into(line);
    };
    for word in readable(words.as_bytes()).split(' ').filter(|word| !word.is_empty()) {
        if !is_new && line.chars().count() + 1 + word.chars().count() > WIDTH {
            end(&mut line);
            is_new = true;
        }
        if !is_new {
            line.push(' ');
        }
        for character in word.chars() {
            // RFC 5322 §2.1.1: a line has at most 998 octets, also one without blanks.
            if line.len() > 900 {
                end(&mut line);
            }
            line.push(character);
        }
        is_new = false;
    }
    end(&mut line);
}
