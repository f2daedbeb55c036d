//! One session, from greeting to goodbye: no socket, no file, no clock.
//!
//! ```text
//!   Unnamed -- HELO, EHLO --> Ready -- MAIL --> Transaction -- RCPT ... DATA, message, dot --> Ready
//!                               ^                 |    |
//!                               +-- RSET, EHLO ---+    +-- BDAT --> Chunking -- BDAT LAST --> Ready
//! ```
//!
//! The client's line goes in, a [`Step`] comes out. What the session wants from the world is an [`Effect`], and what came of it an
//! [`Outcome`]. Sender and recipients exist only within a transaction (RFC 5321 §3.3), so they live in its states.

use crate::{
    address::{ForwardPath, Mailbox, ReversePath},
    body::Flaw,
    command::{Client, Command, Last, MECHANISMS, Mail, Rcpt},
    envelope::{Charset, Envelope, OriginalRecipient, Recipient},
    reply::{Codes, Reply},
    route::{EXPANDED_MAX, House, MayRelay, Meant, POSTMASTER},
};
use shared::{
    sasl::{self, Answer, Credentials, Exchange, Next, Refusal},
    wire::Line,
};
use std::{mem::replace, slice, sync::Arc, time::Duration};

pub use shared::sasl::{AUTH_LINE_OCTETS_MAX, Channel, Plaintext};

/// RFC 5321 §4.5.3.1.4 has 512 octets; each extension's parameters add to that (RFC 1870: 26, RFC 3461 §4.2: 500, §4.4: 110,
/// RFC 4954 §3: 500, RFC 6152: 16, RFC 6531: 10), and RFC 6531 §3.4 more for addresses in UTF-8.
pub const LINE_OCTETS_MAX: usize = 2048;
/// Lines that were none, or came at the wrong time, since the last message, before we hang up. RFC 5321 §4.3.2 wants patience; a flood is no
/// dialogue.
const ERRORS_MAX: u32 = 50;
/// Commands since the last message that bring none nearer (NOOP, RSET, HELP, ...), before we hang up: with all its pauses a client that has
/// nothing to send holds its connection for a working day, and not for ever. Whoever types says ten of them. Postfix has the same number.
const IN_VAIN_MAX: u32 = 100;
/// RCPT beyond those that we take for a message, which some say for the whole of a long list (RFC 5321 §4.5.3.1.10); more are in vain.
const RCPT_MORE_MAX: usize = 1000;
/// Wrong passwords before we hang up.
const DENIED_MAX: u32 = 5;

/// What this server offers, to all.
#[derive(Debug)]
pub struct Terms {
    /// Who is here.
    pub house: House,
    /// Octets of a message.
    pub message_octets_max: u64,
    /// Recipients that a client may name for a message.
    pub recipients_max: usize,
    /// Whether STARTTLS is offered.
    pub starttls: StartTls,
    /// Whether passwords may be sent in clear.
    pub plaintext: Plaintext,
    /// Whether VRFY and EXPN tell the truth.
    pub curiosity: Curiosity,
}

/// Whether STARTTLS is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum StartTls {
    Offered,
    No,
}

/// Whether VRFY and EXPN tell the truth (RFC 5321 §7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Curiosity {
    Answered,
    Declined,
}

/// What the port is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Port 25: other servers bring mail.
    Relay,
    /// Ports 587 and 465 (RFC 6409): our users bring theirs, and log in first.
    Submission,
}

/// What the driver must do next.
#[derive(Debug)]
pub enum Step {
    /// Say this, then wait for the client.
    Reply(Reply),
    /// Say this; the next line is the client's answer within AUTH, and a secret.
    Challenge(Reply),
    /// Say this, then begin TLS, then call [`Session::encrypted`].
    StartTls(Reply),
    /// Say this, then hang up.
    Close(Reply),
    /// Do this, then call [`Session::on_outcome`].
    Perform(Effect),
    /// Say this, read the message up to its dot, store it, then call [`Session::on_outcome`].
    ReadText(Reply),
    /// Read so many octets of the message, store it if they were the last, then call [`Session::on_outcome`].
    ReadChunk {
        /// How many.
        octets: u64,
        /// Whether the message ends with them.
        last: Last,
    },
    /// Read so many octets and drop them (RFC 3030 §2: they come even after a refusal), then say this.
    SkipChunk {
        /// How many.
        octets: u64,
        /// The refusal.
        reply: Reply,
    },
}

/// Everything that a session can want from the world.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out whether these are right.
    Verify(Credentials),
    /// What a proof of this user will be checked with, and a nonce.
    FetchKeys(String),
    /// May there be mail from this sender for this recipient now? Greylist, quota.
    Admit {
        /// The sender.
        from: ReversePath,
        /// The recipient as it was said.
        to: ForwardPath,
        /// Whom it means.
        mailboxes: Vec<Mailbox>,
        /// What the message will have, as far as was said.
        octets: Option<u64>,
        /// How long to wait with the answer.
        pause: Duration,
    },
    /// Begin to store a message.
    Open(Box<Opening>),
}

/// What is known of a message before it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// For whom.
    pub envelope: Envelope,
    /// What the client calls itself.
    pub client: Client,
    /// RFC 3848: `SMTP`, `ESMTP`, `ESMTPS`, `ESMTPA`, `ESMTPSA`, or with `UTF8` before it (RFC 6531 §3.7.3).
    pub with: &'static str,
    /// What the port is for.
    pub purpose: Purpose,
    /// Addresses that stood for several, as they were said, where success is to be told.
    pub expanded: Vec<Recipient>,
}

/// What came of an [`Effect`].
#[derive(Debug)]
pub enum Outcome {
    /// Of credentials, or of keys that were asked for.
    Login(Answer),
    /// The recipient may have mail.
    Admitted,
    /// It may not, or not now.
    Refused(Reply),
    /// The message can come.
    Opened,
    /// A chunk is there.
    ChunkRead,
    /// The message is safe on disk.
    Stored {
        /// What we call it.
        id: String,
    },
    /// The message is not what a message must be.
    Flawed(Flaw),
    /// We cannot store it.
    Trouble(Trouble),
}

/// Why a message cannot be stored. It is not the client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No room on the disk.
    DiskFull,
    /// No room in the queue.
    QueueFull,
    /// Anything else; the log says what.
    Disk,
}

impl From<Trouble> for Reply {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::DiskFull => Reply::disk_full(),
            Trouble::QueueFull => Reply::queue_full(),
            Trouble::Disk => Reply::cannot_store(),
        }
    }
}

/// A mail transaction (RFC 5321 §3.3) after MAIL.
#[derive(Debug)]
struct Transaction {
    mail: Mail,
    recipients: Vec<Recipient>,
    /// Addresses that stand for several, where success is to be told: once, and not by each of them.
    expanded: Vec<Recipient>,
    /// RCPT commands that were accepted; one may mean many recipients.
    accepted: usize,
    /// RFC 5321 §3.3: what DATA without recipients is told depends on whether any was tried.
    tried: usize,
}

/// Where the session is.
#[derive(Debug)]
enum State {
    /// RFC 5321 §4.1.4: HELO or EHLO is awaited.
    Unnamed,
    /// No transaction.
    Ready,
    /// MAIL was accepted.
    Transaction(Transaction),
    /// RFC 3030: the message comes in chunks, `octets` so far.
    Chunking { octets: u64 },
    /// RFC 4954: an exchange of AUTH is under way. After it, Ready.
    Authenticating(Exchange),
    /// The world is asked; the client is not heard meanwhile.
    Admitting { transaction: Transaction, rcpt: Rcpt, mailboxes: Vec<Mailbox> },
    /// As before.
    Opening(Then),
    /// The message is being read.
    Reading,
}

/// What follows once a message can come.
#[derive(Clone, Copy, Debug)]
enum Then {
    Text,
    Chunk { octets: u64, last: Last },
}

/// A session.
#[derive(Debug)]
pub struct Session {
    state: State,
    terms: Arc<Terms>,
    channel: Channel,
    purpose: Purpose,
    relay: MayRelay,
    client: Option<Client>,
    codes: Codes,
    user: Option<String>,
    errors: u32,
    in_vain: u32,
    denied: u32,
}

impl Session {
    /// A new session and its greeting. `relay` is what the client's address entitles it to.
    pub fn new(terms: Arc<Terms>, channel: Channel, purpose: Purpose, relay: MayRelay) -> (Self, Reply) {
        let greeting = Reply::greeting(&terms.house.name);
        let session = Self {
            state: State::Unnamed,
            terms,
            channel,
            purpose,
            relay,
            client: None,
            codes: Codes::Plain,
            user: None,
            errors: 0,
            in_vain: 0,
            denied: 0,
        };
        (session, greeting)
    }

    /// Whether what the client says next belongs to AUTH, which is secret and may be long.
    pub fn is_authenticating(&self) -> bool {
        matches!(self.state, State::Authenticating(_))
    }

    /// Whether a message comes in chunks, and more of them will come.
    pub fn is_chunking(&self) -> bool {
        matches!(self.state, State::Chunking { .. })
    }

    /// Whether success too is told with an enhanced code.
    pub fn codes(&self) -> Codes {
        self.codes
    }

    /// Who has logged in.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether the client is one of ours: it may send to others.
    pub fn may_relay(&self) -> bool {
        self.user.is_some() || self.relay == MayRelay::Yes
    }

    /// TLS has begun. RFC 3207 §4.2: what was learnt before is forgotten, a login too, and the client begins anew with EHLO.
    pub fn encrypted(&mut self) {
        self.channel = Channel::Encrypted;
        self.state = State::Unnamed;
        self.client = None;
        self.user = None;
        self.codes = Codes::Plain;
    }

    /// What the client said.
    pub fn on_line(&mut self, line: &Line) -> Step {
        let text = match line {
            Line::Text(text) => text,
            Line::TooLong => {
                let authenticating = self.is_authenticating();
                self.give_up_exchange();
                let most = if authenticating { AUTH_LINE_OCTETS_MAX } else { LINE_OCTETS_MAX };
                return self.wrong(Reply::line_too_long(most));
            }
            Line::BareLf(_) => {
                self.give_up_exchange();
                return self.wrong(Reply::lf_alone());
            }
        };
        match replace(&mut self.state, State::Unnamed) {
            State::Authenticating(exchange) => return self.advance(exchange.on_line(text)),
            state => self.state = state,
        }
        match Command::parse(text) {
            Ok(command) => self.on_command(command),
            Err(error) => self.wrong(error.into()),
        }
    }

    fn on_command(&mut self, command: Command) -> Step {
        use {Command as C, State as S};
        match (&mut self.state, command) {
            // --- HELO, EHLO: RFC 5321 §4.1.1.1. Said again, they end a transaction as RSET does (§4.1.4) ---
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Helo(client)) => {
                let reply = Reply::hello(&client);
                (self.state, self.client, self.codes) = (S::Ready, Some(client), Codes::Plain);
                self.in_vain(reply)
            }
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Ehlo(client)) => {
                let reply = Reply::hello_with(&self.terms.house.name, &client, self.extensions());
                (self.state, self.client, self.codes) = (S::Ready, Some(client), Codes::Enhanced);
                self.in_vain(reply)
            }

            // --- MAIL: RFC 5321 §4.1.1.2 ---
            (S::Ready, C::Mail(mail)) => self.on_mail(mail),
            (S::Transaction(_), C::Mail(_)) => self.wrong(Reply::mail_already()),

            // --- RCPT: RFC 5321 §4.1.1.3 ---
            (S::Transaction(_), C::Rcpt(rcpt)) => self.on_rcpt(rcpt),

            // --- DATA: RFC 5321 §4.1.1.4 ---
            (S::Transaction(transaction), C::Data) => {
                if transaction.recipients.is_empty() {
                    let refused = transaction.tried > 0;
                    return self.wrong(if refused { Reply::no_valid_recipients() } else { Reply::recipient_first() });
                }
                self.open(Then::Text)
            }

            // --- BDAT: RFC 3030 §2 ---
            (S::Transaction(transaction), C::Bdat { octets, last }) => {
                if transaction.recipients.is_empty() {
                    let reply =
                        if transaction.tried > 0 { Reply::no_valid_recipients() } else { Reply::recipient_first() };
                    return self.skip(octets, reply);
                }
                if octets > self.terms.message_octets_max {
                    self.state = S::Ready;
                    return self.skip(octets, Reply::too_large(self.terms.message_octets_max));
                }
                self.open(Then::Chunk { octets, last })
            }
            (S::Chunking { octets }, C::Bdat { octets: 0, last: Last::No }) => {
                let reply = Reply::chunk(*octets);
                self.in_vain(reply)
            }
            (S::Chunking { octets: before }, C::Bdat { octets, last }) => {
                let all = before.saturating_add(octets);
                if all > self.terms.message_octets_max {
                    self.state = S::Ready;
                    return self.skip(octets, Reply::too_large(self.terms.message_octets_max));
                }
                *before = all;
                Step::ReadChunk { octets, last }
            }
            (S::Chunking { .. }, C::Mail(_) | C::Rcpt(_) | C::Data) => self.wrong(Reply::chunks_only()),
            (S::Unnamed | S::Ready, C::Bdat { octets, .. }) => {
                let reply = self.what_first();
                self.skip(octets, reply)
            }

            // --- RSET, VRFY, EXPN, HELP, NOOP, QUIT: RFC 5321 §4.1.1.5 to §4.1.1.10, at any time ---
            (S::Transaction(_) | S::Chunking { .. }, C::Rset) => {
                self.state = S::Ready;
                self.in_vain(Reply::reset())
            }
            (S::Unnamed | S::Ready, C::Rset) => self.in_vain(Reply::reset()),
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Vrfy { name, reply }) => {
                let reply = self.verify_name(&name, reply);
                self.in_vain(reply)
            }
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Expn { list, reply }) => {
                let reply = self.expand(&list, reply);
                self.in_vain(reply)
            }
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Help) => self.in_vain(Reply::help()),
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Noop) => self.in_vain(Reply::noop()),
            (S::Unnamed | S::Ready | S::Transaction(_) | S::Chunking { .. }, C::Quit) => {
                Step::Close(Reply::closing(&self.terms.house.name))
            }

            // --- STARTTLS: RFC 3207 §4 ---
            (S::Unnamed, C::StartTls) => self.wrong(Reply::ehlo_first()),
            (S::Ready, C::StartTls) => match (self.channel, self.terms.starttls) {
                (Channel::Encrypted, _) => self.wrong(Reply::tls_already()),
                (Channel::Clear, StartTls::No) => self.wrong(Reply::no_tls()),
                // RFC 3207 §4.2 would have the login forgotten, and RFC 4954 §4 allows no second one: the client would believe
                // that it is logged in, or mail that is put in by somebody in the middle would go out in its name.
                (Channel::Clear, StartTls::Offered) if self.user.is_some() => self.wrong(Reply::tls_before_login()),
                (Channel::Clear, StartTls::Offered) => Step::StartTls(Reply::begin_tls()),
            },

            // --- AUTH: RFC 4954 §4 ---
            (S::Ready, C::Auth { mechanism, initial }) => {
                if self.codes == Codes::Plain {
                    return self.wrong(Reply::ehlo_first());
                }
                if self.user.is_some() {
                    return self.wrong(Reply::logged_in_already());
                }
                if !mechanism.may_be_used(self.terms.plaintext, self.channel) {
                    return self.wrong(Reply::encrypt_first(self.terms.starttls));
                }
                self.advance(Exchange::begin(mechanism, initial.as_deref()))
            }

            // --- Everything else is said at the wrong time ---
            (S::Transaction(_) | S::Chunking { .. }, C::StartTls | C::Auth { .. }) => {
                self.wrong(Reply::not_within_a_transaction())
            }
            (S::Unnamed | S::Ready, C::Rcpt(_) | C::Data) | (S::Unnamed, C::Mail(_) | C::Auth { .. }) => {
                let reply = self.what_first();
                self.wrong(reply)
            }
            // The driver hears no line while it works for us; if it did, this would be true.
            (
                S::Authenticating(_) | S::Admitting { .. } | S::Opening(_) | S::Reading,
                C::Helo(_)
                | C::Ehlo(_)
                | C::Mail(_)
                | C::Rcpt(_)
                | C::Data
                | C::Bdat { .. }
                | C::Rset
                | C::Noop
                | C::Vrfy { .. }
                | C::Expn { .. }
                | C::Help
                | C::Quit
                | C::StartTls
                | C::Auth { .. },
            ) => self.wrong(Reply::mail_first()),
        }
    }

    /// RFC 5321 §4.1.4: what must be said before the command that was said.
    fn what_first(&self) -> Reply {
        if matches!(self.state, State::Unnamed) { Reply::hello_first() } else { Reply::mail_first() }
    }

    fn on_mail(&mut self, mail: Mail) -> Step {
        if self.purpose == Purpose::Submission && self.user.is_none() {
            let encrypt = !self.terms.plaintext.may_pass(self.channel) && self.terms.starttls == StartTls::Offered;
            return self.wrong(if encrypt { Reply::starttls_first() } else { Reply::login_first() });
        }
        // RFC 1870 §6.1: refused now, what would be refused after many octets.
        if mail.size.is_some_and(|octets| octets > self.terms.message_octets_max) {
            return self.in_vain(Reply::too_large(self.terms.message_octets_max));
        }
        let reply = Reply::sender_ok(&mail.from);
        self.state =
            State::Transaction(Transaction { mail, recipients: vec![], expanded: vec![], accepted: 0, tried: 0 });
        Step::Reply(reply)
    }

    fn on_rcpt(&mut self, rcpt: Rcpt) -> Step {
        let relay = if self.user.is_some() { MayRelay::Yes } else { self.relay };
        let most = self.terms.recipients_max;
        let State::Transaction(transaction) = &mut self.state else { return self.wrong(Reply::mail_first()) };
        transaction.tried += 1;
        if transaction.tried > most + RCPT_MORE_MAX {
            return self.in_vain(Reply::too_many_recipients(most));
        }
        if transaction.mail.charset == Charset::Ascii
            && matches!(&rcpt.to, ForwardPath::Mailbox(mailbox) if !mailbox.is_ascii())
        {
            return self.wrong(Reply::recipient_needs_utf8());
        }
        let Meant { mailboxes, pause } = match self.terms.house.judge(&rcpt.to, relay) {
            Ok(meant) => meant,
            Err(reply) => return self.wrong(reply),
        };
        // RFC 5321 §4.5.3.1.8, §4.5.3.1.10: "452 Too many recipients" is about what the client says, and no mistake of its.
        if transaction.accepted >= most {
            return Step::Reply(Reply::too_many_recipients(most));
        }
        // What it expands to is bounded too, but a first recipient is always taken: in a transaction of its own a list gets through.
        let expanded_most = most.max(EXPANDED_MAX);
        if transaction.accepted > 0 && transaction.recipients.len() + mailboxes.len() > expanded_most {
            return Step::Reply(Reply::too_many_recipients(expanded_most));
        }
        let (from, octets) = (transaction.mail.from.clone(), transaction.mail.size);
        let (to, wanted) = (rcpt.to.clone(), mailboxes.clone());
        if let State::Transaction(transaction) = replace(&mut self.state, State::Ready) {
            self.state = State::Admitting { transaction, rcpt, mailboxes };
        }
        Step::Perform(Effect::Admit { from, to, mailboxes: wanted, octets, pause })
    }

    /// The recipients are known, the message may come.
    fn open(&mut self, then: Then) -> Step {
        let State::Transaction(Transaction { mail, recipients, expanded, .. }) =
            replace(&mut self.state, State::Opening(then))
        else {
            return self.wrong(Reply::mail_first());
        };
        let Some(client) = self.client.clone() else { return self.wrong(Reply::hello_first()) };
        let Mail { from, body, charset, ret, envid, .. } = mail;
        let with = self.protocol(charset);
        let envelope = Envelope { from, body, charset, ret, envid, recipients };
        Step::Perform(Effect::Open(Box::new(Opening { envelope, client, with, purpose: self.purpose, expanded })))
    }

    /// RFC 3848 §1, RFC 6531 §4.3: what `Received:` calls the protocol.
    fn protocol(&self, charset: Charset) -> &'static str {
        match (self.codes, charset, self.channel, &self.user) {
            (Codes::Plain, ..) => "SMTP",
            (_, Charset::Ascii, Channel::Clear, None) => "ESMTP",
            (_, Charset::Ascii, Channel::Clear, Some(_)) => "ESMTPA",
            (_, Charset::Ascii, Channel::Encrypted, None) => "ESMTPS",
            (_, Charset::Ascii, Channel::Encrypted, Some(_)) => "ESMTPSA",
            (_, Charset::Utf8, Channel::Clear, None) => "UTF8SMTP",
            (_, Charset::Utf8, Channel::Clear, Some(_)) => "UTF8SMTPA",
            (_, Charset::Utf8, Channel::Encrypted, None) => "UTF8SMTPS",
            (_, Charset::Utf8, Channel::Encrypted, Some(_)) => "UTF8SMTPSA",
        }
    }

    /// RFC 3030 §2: the octets of a chunk come whatever we say.
    fn skip(&mut self, octets: u64, reply: Reply) -> Step {
        self.errors += 1;
        // Nobody who means well sends that much after a refusal.
        if self.errors >= ERRORS_MAX || octets > self.terms.message_octets_max.saturating_mul(2) {
            return Step::Close(Reply::too_many_errors(&self.terms.house.name));
        }
        Step::SkipChunk { octets, reply }
    }

    /// AUTH goes on, or is over.
    fn advance(&mut self, next: Result<(Exchange, Next), Refusal>) -> Step {
        self.state = State::Ready;
        let (exchange, next) = match next {
            Ok(next) => next,
            Err(refusal) => return self.refuse(refusal),
        };
        let step = match next {
            Next::Welcome(user) => {
                let reply = Reply::logged_in(&user);
                self.user = Some(user);
                return Step::Reply(reply);
            }
            Next::Challenge(message) => Step::Challenge(Reply::challenge(message)),
            Next::FetchKeys(user) => Step::Perform(Effect::FetchKeys(user)),
            Next::Verify(credentials) => Step::Perform(Effect::Verify(credentials)),
        };
        self.state = State::Authenticating(exchange);
        step
    }

    fn refuse(&mut self, refusal: Refusal) -> Step {
        match refusal {
            Refusal::NotBase64 | Refusal::Malformed(_) => self.wrong(refusal.into()),
            Refusal::Denied => {
                self.denied += 1;
                if self.denied >= DENIED_MAX {
                    return Step::Close(Reply::too_many_errors(&self.terms.house.name));
                }
                Step::Reply(refusal.into())
            }
            Refusal::Cancelled | Refusal::TooSoon(_) | Refusal::CannotTell => self.in_vain(refusal.into()),
        }
    }

    /// What came of the last effect.
    pub fn on_outcome(&mut self, outcome: Outcome) -> Step {
        let state = replace(&mut self.state, State::Ready);
        match (state, outcome) {
            (State::Authenticating(exchange), Outcome::Login(answer)) => self.advance(exchange.on_answer(answer)),
            (State::Authenticating(_), _) => self.refuse(Refusal::CannotTell),
            (State::Admitting { mut transaction, rcpt, mailboxes }, outcome) => {
                let step = match outcome {
                    Outcome::Admitted => {
                        let reply = Reply::recipient_ok(&rcpt.to);
                        add(&mut transaction, rcpt, mailboxes, &self.terms.house);
                        transaction.accepted += 1;
                        Step::Reply(reply)
                    }
                    Outcome::Refused(reply) => Step::Reply(reply),
                    _ => Step::Reply(Reply::cannot_store()),
                };
                self.state = State::Transaction(transaction);
                step
            }
            (State::Opening(Then::Text), Outcome::Opened) => {
                self.state = State::Reading;
                Step::ReadText(Reply::start_input())
            }
            (State::Opening(Then::Chunk { octets, last }), Outcome::Opened) => {
                self.state = State::Chunking { octets };
                Step::ReadChunk { octets, last }
            }
            (State::Opening(Then::Chunk { octets, .. }), Outcome::Trouble(trouble)) => {
                Step::SkipChunk { octets, reply: trouble.into() }
            }
            (State::Chunking { octets }, Outcome::ChunkRead) => {
                self.state = State::Chunking { octets };
                Step::Reply(Reply::chunk(octets))
            }
            // RFC 5321 §4.1.1.4: however it ended, the transaction is over.
            (State::Reading | State::Chunking { .. }, Outcome::Stored { id }) => {
                (self.errors, self.in_vain) = (0, 0);
                Step::Reply(Reply::accepted(&id, self.codes))
            }
            (State::Reading | State::Chunking { .. }, Outcome::Flawed(flaw)) => self.wrong(flaw.into()),
            (State::Reading | State::Chunking { .. }, Outcome::Refused(reply)) => self.in_vain(reply),
            (_, Outcome::Trouble(trouble)) => self.in_vain(trouble.into()),
            // What fits no question is our own mistake; the client can try again.
            (
                State::Unnamed
                | State::Ready
                | State::Transaction(_)
                | State::Chunking { .. }
                | State::Opening(_)
                | State::Reading,
                Outcome::Login(_)
                | Outcome::Admitted
                | Outcome::Refused(_)
                | Outcome::Opened
                | Outcome::ChunkRead
                | Outcome::Stored { .. }
                | Outcome::Flawed(_),
            ) => Step::Reply(Reply::cannot_store()),
        }
    }

    /// What EHLO's answer names. What cannot be used now is not told.
    fn extensions(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES", "CHUNKING", "DSN", "HELP"]
                .map(str::to_owned)
                .to_vec();
        lines.push(format!("SIZE {}", self.terms.message_octets_max));
        if self.channel == Channel::Clear && self.terms.starttls == StartTls::Offered && self.user.is_none() {
            lines.push("STARTTLS".to_owned());
        }
        lines.push(format!("AUTH {}", sasl::usable(&MECHANISMS, self.terms.plaintext, self.channel)));
        lines
    }

    /// RFC 5321 §3.5: whom VRFY's name means.
    fn verify_name(&self, name: &str, charset: Charset) -> Reply {
        if self.terms.curiosity == Curiosity::Declined {
            return Reply::not_verified();
        }
        let house = &self.terms.house;
        let text = name.trim_start_matches('<').trim_end_matches('>');
        let local = match text.parse::<Mailbox>() {
            Ok(mailbox) if house.is_ours(mailbox.host()) => mailbox.local().to_owned(),
            // §3.5.3: we would relay, or not; nothing can be said about others' mailboxes.
            Ok(_) => return Reply::not_verified(),
            Err(_) => text.to_owned(),
        };
        match house.names(&local).as_deref() {
            Some([mailbox]) => Reply::verified(slice::from_ref(mailbox), charset),
            Some(_) => Reply::ambiguous(),
            None => Reply::no_such_name(),
        }
    }

    /// RFC 5321 §3.5: the members of EXPN's list.
    fn expand(&self, list: &str, charset: Charset) -> Reply {
        if self.terms.curiosity == Curiosity::Declined {
            return Reply::expand_denied();
        }
        let house = &self.terms.house;
        let text = list.trim_start_matches('<').trim_end_matches('>');
        let local = match text.parse::<Mailbox>() {
            Ok(mailbox) if house.is_ours(mailbox.host()) => mailbox.local().to_owned(),
            // Others' lists are not ours to show.
            Ok(_) => return Reply::no_such_name(),
            Err(_) => text.to_owned(),
        };
        match house.names(&local) {
            Some(mailboxes) => Reply::verified(&mailboxes, charset),
            None => Reply::no_such_name(),
        }
    }

    /// An answer that counts: who makes only mistakes is sent away.
    fn wrong(&mut self, reply: Reply) -> Step {
        self.errors += 1;
        if self.errors >= ERRORS_MAX {
            Step::Close(Reply::too_many_errors(&self.terms.house.name))
        } else {
            Step::Reply(reply)
        }
    }

    /// An answer to what brings no message nearer: who does nothing else is sent away.
    fn in_vain(&mut self, reply: Reply) -> Step {
        self.in_vain += 1;
        if self.in_vain > IN_VAIN_MAX {
            Step::Close(Reply::nothing_to_send(&self.terms.house.name))
        } else {
            Step::Reply(reply)
        }
    }

    fn give_up_exchange(&mut self) {
        if self.is_authenticating() {
            self.state = State::Ready;
        }
    }
}

/// Adds the mailboxes that RCPT's address means, each once. Whom it meant first is kept for reports (RFC 3461 §5.2.7).
fn add(transaction: &mut Transaction, rcpt: Rcpt, mailboxes: Vec<Mailbox>, house: &House) {
    let Rcpt { to, mut notify, orcpt } = rcpt;
    let said = match to {
        ForwardPath::Postmaster => format!("{POSTMASTER}@{}", house.name).parse().ok(),
        ForwardPath::Mailbox(mailbox) => Some(mailbox),
    };
    // §5.2.7.3 (c): whoever has asked for one report of success gets one, not as many as there are members.
    if mailboxes.len() > 1 && notify.of_success() {
        let alias = said.clone().map(|to| Recipient { to, notify, orcpt: orcpt.clone() });
        transaction.expanded.extend(alias.filter(|alias| transaction.expanded.iter().all(|it| it.to != alias.to)));
        notify = notify.without_success();
    }
    for to in mailboxes {
        if transaction.recipients.iter().any(|recipient| recipient.to == to) {
            continue;
        }
        let renamed = said.as_ref().filter(|said| **said != to).and_then(OriginalRecipient::of);
        transaction.recipients.push(Recipient { to, notify, orcpt: orcpt.clone().or(renamed) });
    }
}
