//! One session as the client, from the server's greeting to our goodbye: no socket, no file, no clock.
//!
//! ```text
//!   greeting -> EHLO (HELO) -> STARTTLS, EHLO again -> AUTH -> ready --- QUIT ---> over
//!                                                              |   ^
//!                                       MAIL RCPT .. DATA      v   |  what came of it, for each recipient
//!                                                        a transaction
//! ```
//!
//! The server's reply goes in, a [`Step`] comes out. With PIPELINING (RFC 2920) the commands of a transaction are said in one go, and a
//! message costs two round trips instead of three and one for each recipient.

use crate::{
    address::{Mailbox, ReversePath},
    answer::{Answer, Class, Malformed},
    envelope::{Account, Body, Charset, Envelope, Fate, Recipient, Reports, Ret, Status},
    session::{Channel, Plaintext},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use shared::sasl::{Mechanism, Prover};
use std::{
    borrow::Cow,
    collections::{BTreeSet, VecDeque},
    fmt::Write as _,
    mem::replace,
    sync::Arc,
};

/// RFC 5321 §4.5.3.1.8: every server takes 100 recipients. Who is for more gets the message more than once over the same connection, which
/// is better than to find out which servers take more.
const RECIPIENTS_MAX: usize = 100;
/// How many commands are said before the first reply is heard. Two ends that write and do not read would wait for each other for ever
/// (RFC 2920 §3.1); so many commands, and the replies to them, fit into any TCP window.
const GROUP_MAX: usize = 50;
/// RFC 5321 §4.5.3.1.4: a command has at most 512 octets with its CR LF.
const COMMAND_OCTETS_MAX: usize = 512;
/// How we log in, best first: with SCRAM the password never travels.
const MECHANISMS: [Mechanism; 3] = [Mechanism::ScramSha256, Mechanism::Plain, Mechanism::Login];

/// How we introduce ourselves.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Our name.
    pub name: String,
    /// Whether to encrypt.
    pub tls: Tls,
    /// Who we are, where one must log in.
    pub login: Option<Login>,
    /// For SCRAM, which is not tried without: printable, without comma, and never the same twice.
    pub nonce: Option<String>,
}

/// Whether to encrypt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// RFC 7435: where it is offered; better than nothing.
    IfOffered,
    /// It was tried and failed.
    Never,
    /// Nothing is sent without.
    Required,
    /// RFC 8314 §3.3: it came before all else.
    Begun,
}

/// Who we are to a server that wants to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The password.
    pub secret: String,
    /// Whether it may be said where everybody can read it.
    pub plaintext: Plaintext,
}

impl std::fmt::Debug for Login {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.user)
    }
}

/// Who the server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// For reports: `mail.hamburger.edu`.
    pub name: String,
    /// For people: `mail.hamburger.edu [127.77.2.25]:8025`.
    pub label: String,
}

/// What the driver must do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Say these lines in one go, then hear the next reply.
    Say(Vec<String>, Awaited),
    /// Say this line, which is a secret as a whole, then hear the next reply.
    SaySecret(String, Awaited),
    /// Hear the next reply.
    Hear(Awaited),
    /// Begin TLS, then call [`Client::encrypted`].
    StartTls,
    /// [`Client::begin`] may be called, or [`Client::quit`].
    Ready,
    /// Nothing can be sent here, and this is why. [`Client::quit`] comes next.
    Unready(Fate),
    /// Send the message and the dot, then call [`Client::message_sent`].
    SendMessage,
    /// The transaction is over, with these fates of its recipients. If the session [is ready](Client::is_ready), another may follow.
    Finished(Vec<Fate>),
    /// Hang up.
    HangUp,
}

/// Which reply is awaited: each has its own patience (RFC 5321 §4.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Awaited {
    Greeting,
    Mail,
    Rcpt,
    DataInitiation,
    DataTermination,
    Quit,
    /// To EHLO, STARTTLS, AUTH, RSET.
    Other,
}

/// How the session came to an end that nobody wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The server hung up.
    HungUp,
    /// The server was silent for too long.
    Silent,
    /// The server does not read what we say.
    Deaf,
    /// The connection broke, and this is what the system says.
    Broken(String),
    /// The server does not speak SMTP.
    Malformed(Malformed),
    /// Our own file with the message cannot be read, says the system.
    Unreadable(String),
}

/// A service extension that we make use of (RFC 5321 §2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 1870.
    Size,
    /// RFC 6152.
    EightBitMime,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
    /// RFC 3207.
    StartTls,
}

/// What a server offers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    extensions: BTreeSet<Extension>,
    /// RFC 1870 §4: the largest message; nothing, if there is no limit or it is not told.
    octets_max: Option<u64>,
    /// RFC 4954 §3: the ways to log in that we know, too, best first.
    mechanisms: Vec<Mechanism>,
}

impl Offer {
    /// RFC 5321 §4.1.1.1: what the lines of a reply to EHLO say, but for the first, which is a greeting.
    fn read(answer: &Answer) -> Self {
        let mut offer = Self::default();
        for line in answer.lines().skip(1) {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
            offer.extensions.extend(match &*keyword {
                "PIPELINING" => Some(Extension::Pipelining),
                "SIZE" => {
                    // RFC 1870 §4: zero is no limit.
                    offer.octets_max = words.next().and_then(|octets| octets.parse().ok()).filter(|octets| *octets > 0);
                    Some(Extension::Size)
                }
                "8BITMIME" => Some(Extension::EightBitMime),
                "SMTPUTF8" => Some(Extension::SmtpUtf8),
                "DSN" => Some(Extension::Dsn),
                "STARTTLS" => Some(Extension::StartTls),
                "AUTH" => {
                    let names: Vec<&str> = words.collect();
                    let offered =
                        |mechanism: &Mechanism| names.iter().any(|name| name.eq_ignore_ascii_case(mechanism.name()));
                    offer.mechanisms = MECHANISMS.into_iter().filter(offered).collect();
                    None
                }
                _ => None,
            });
        }
        offer
    }

    /// Whether this extension is offered.
    pub fn has(&self, extension: Extension) -> bool {
        self.extensions.contains(&extension)
    }
}

/// A message and those it is for.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The envelope.
    pub envelope: Arc<Envelope>,
    /// Indexes into the envelope's recipients.
    pub recipients: Vec<usize>,
    /// The message's octets as RFC 1870 §6 counts them: with CR LF, without the dots that are doubled.
    pub octets: u64,
    /// What octets it really has, if that is known better than the envelope knows it.
    pub body: Body,
    /// Whether its header really has UTF-8.
    pub charset: Charset,
}

/// Where the session is.
#[derive(Debug)]
enum State {
    /// RFC 5321 §3.1.
    Greeting,
    /// RFC 5321 §3.2.
    Hello(Dialect),
    /// RFC 3207: the server is asked to begin TLS.
    StartTls,
    /// RFC 3207: the handshake is the driver's.
    Handshake,
    /// RFC 4954: an exchange of AUTH is under way.
    Auth(Auth),
    /// RFC 4954 §4: we have given it up, for this reason.
    Cancelled(Account),
    /// RFC 5321 §3.3 may begin.
    Ready,
    /// RFC 5321 §3.3.
    Sending(Box<Sending>),
    /// The server does not want us.
    Unwanted,
    /// RFC 5321 §3.8.
    Quitting,
    /// Nothing more is said or heard.
    Over,
}

/// How we greet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Extended,
    /// RFC 5321 §3.2: for servers that do not know EHLO.
    Old,
}

/// An exchange of AUTH.
#[derive(Debug)]
struct Auth {
    prover: Prover,
    /// A first message that did not fit into the command.
    initial: Option<Vec<u8>>,
    /// What can be tried if this is refused.
    untried: VecDeque<Mechanism>,
}

/// Whether the server still remembers a transaction that was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slate {
    Clean,
    /// RFC 5321 §4.1.4: MAIL is refused while one is open.
    Written,
}

/// A transaction under way. Recipients are told apart by their position in it.
#[derive(Debug)]
struct Sending {
    transaction: Transaction,
    fates: Vec<Option<Fate>>,
    /// Who has not been mentioned yet.
    todo: VecDeque<usize>,
    /// Who is mentioned in this round.
    mentioned: Vec<usize>,
    to_say: VecDeque<Said>,
    awaited: VecDeque<Said>,
    accepted: Vec<usize>,
    /// Who is too many for one message, and what was said about it.
    too_many: Vec<(usize, Answer)>,
    /// Who is not to be mentioned to another server of the destination, though this one has not taken the message for him.
    not_elsewhere: BTreeSet<usize>,
    message: Message,
}

/// What we said, to know what an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    Message,
    /// RFC 2920 §3.1: a dot alone, where DATA was let through though nobody is left.
    NoMessage,
}

impl Said {
    fn awaited(self) -> Awaited {
        match self {
            Said::Rset => Awaited::Other,
            Said::Mail => Awaited::Mail,
            Said::Rcpt(_) => Awaited::Rcpt,
            Said::Data => Awaited::DataInitiation,
            Said::Message | Said::NoMessage => Awaited::DataTermination,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Said::Rset => "RSET",
            Said::Mail => "MAIL",
            Said::Rcpt(_) => "RCPT",
            Said::Data => "DATA",
            Said::Message | Said::NoMessage => "the message",
        }
    }
}

/// How much of the message has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Untouched,
    UnderWay,
    /// With its dot.
    Gone,
}

/// A session.
#[derive(Debug)]
pub struct Client {
    hello: Arc<Hello>,
    peer: Peer,
    state: State,
    channel: Channel,
    offer: Offer,
    slate: Slate,
    elsewhere: Vec<usize>,
}

impl Client {
    /// A new session; the server has the first word.
    pub fn new(hello: Arc<Hello>, peer: Peer) -> (Self, Step) {
        let channel = if hello.tls == Tls::Begun { Channel::Encrypted } else { Channel::Clear };
        let (offer, slate, elsewhere) = (Offer::default(), Slate::Clean, vec![]);
        let client = Self { hello, peer, state: State::Greeting, channel, offer, slate, elsewhere };
        (client, Step::Hear(Awaited::Greeting))
    }

    /// Who the server is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What the server offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Whether a transaction may begin.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready)
    }

    /// Who was deferred in the last transaction for a reason that lies with this server, by position: another server of the destination
    /// may do better (RFC 5321 §5.1).
    pub fn elsewhere(&self) -> &[usize] {
        &self.elsewhere
    }

    /// What the server answered.
    pub fn on_answer(&mut self, answer: &Answer) -> Step {
        // RFC 5321 §4.2.2: 421 "may be a reply to any command".
        if answer.code() == 421 && !matches!(self.state, State::Quitting | State::Over) {
            let account = self.heard("ends the session", answer);
            return self.give_up(&Fate::Deferred(account));
        }
        match replace(&mut self.state, State::Over) {
            // --- Session initiation, RFC 5321 §3.1 ---
            State::Greeting => match answer.class() {
                Class::Done => self.greet(Dialect::Extended),
                _ => self.unwanted("does not want to talk with us", answer),
            },

            // --- Client initiation, RFC 5321 §3.2 ---
            State::Hello(dialect) => match (answer.class(), dialect) {
                (Class::Done, Dialect::Extended) => {
                    self.offer = Offer::read(answer);
                    self.introduced()
                }
                (Class::Done, Dialect::Old) => self.introduced(),
                // "... the client SHOULD be able to fall back and send HELO."
                (Class::Never, Dialect::Extended) => self.greet(Dialect::Old),
                _ => self.unwanted(&format!("does not take us as {}", self.hello.name), answer),
            },

            // --- STARTTLS, RFC 3207 §4 ---
            State::StartTls if answer.class() == Class::Done => {
                self.state = State::Handshake;
                Step::StartTls
            }
            // It was offered and now it is not there: go on as if it had not been offered.
            State::StartTls => {
                self.offer.extensions.remove(&Extension::StartTls);
                self.introduced()
            }

            // --- AUTH, RFC 4954 §4 ---
            State::Auth(auth) => self.on_answer_within_auth(auth, answer),
            State::Cancelled(account) => {
                self.state = State::Unwanted;
                Step::Unready(Fate::Deferred(account))
            }

            // --- Mail transactions, RFC 5321 §3.3 ---
            State::Sending(sending) => self.on_answer_within(sending, answer),

            // --- Terminating, RFC 5321 §3.8 ---
            State::Quitting => Step::HangUp,

            // --- Nobody has asked ---
            State::Ready | State::Handshake | State::Unwanted | State::Over => {
                let account = self.own(Status(4, 5, 0), "talks when it has not been asked");
                self.give_up(&Fate::Deferred(account))
            }
        }
    }

    /// TLS has begun. RFC 3207 §4.2: "The client MUST discard any knowledge obtained from the server, such as the list of SMTP service
    /// extensions, which was not obtained from the TLS negotiation itself", and says EHLO again.
    pub fn encrypted(&mut self) -> Step {
        self.channel = Channel::Encrypted;
        self.offer = Offer::default();
        self.greet(Dialect::Extended)
    }

    fn greet(&mut self, dialect: Dialect) -> Step {
        self.state = State::Hello(dialect);
        let verb = match dialect {
            Dialect::Extended => "EHLO",
            Dialect::Old => "HELO",
        };
        Step::Say(vec![format!("{verb} {}", self.hello.name)], Awaited::Other)
    }

    /// The server knows who we are, and we know what it offers.
    fn introduced(&mut self) -> Step {
        let clear = self.channel == Channel::Clear;
        if clear && self.hello.tls != Tls::Never && self.offer.has(Extension::StartTls) {
            self.state = State::StartTls;
            return Step::Say(vec!["STARTTLS".to_owned()], Awaited::Other);
        }
        // RFC 3207 §4.1: what to do when the server has no TLS is "determined by the local policy".
        if clear && self.hello.tls == Tls::Required {
            return self.unready(
                Status(4, 7, 4),
                "offers no TLS, without which our configuration lets no mail go there (`tls`)",
            );
        }
        let Some(login) = &self.hello.login else { return self.ready() };
        if self.offer.mechanisms.is_empty() {
            return self
                .unready(Status(4, 7, 0), "offers no AUTH with SCRAM-SHA-256, PLAIN or LOGIN, and we know no other");
        }
        // RFC 4954 §4: PLAIN and LOGIN tell the password to everybody on the way.
        let private = login.plaintext.may_pass(self.channel);
        let (telling, scram): (Vec<Mechanism>, _) = self.offer.mechanisms.iter().partition(|way| way.shows_password());
        let scram = scram.into_iter().filter(|_| self.hello.nonce.is_some());
        // What is wrong for one of the two is wrong for the other, and each wrong guess makes the server wait longer.
        let untried = scram.chain(telling.into_iter().take(usize::from(private))).collect();
        self.log_in(untried)
    }

    /// RFC 4954 §4: the next way to log in.
    fn log_in(&mut self, mut untried: VecDeque<Mechanism>) -> Step {
        let (Some(mechanism), Some(login)) = (untried.pop_front(), &self.hello.login) else {
            let what =
                "is reached without TLS, and our password is not said in clear; our configuration may want `tls`";
            return self.unready(Status(4, 7, 0), what);
        };
        let nonce = self.hello.nonce.as_deref().unwrap_or_default();
        let (prover, initial) = Prover::begin(mechanism, &login.user, login.secret.as_bytes(), nonce);
        let command = format!("AUTH {}", mechanism.name());
        let whole = initial.as_ref().map(|initial| format!("{command} {}", BASE64_STANDARD.encode(initial)));
        // With its first message the command has the length of any command; a longer one goes alone.
        let (line, initial) = match whole {
            Some(whole) if whole.len() + 2 <= COMMAND_OCTETS_MAX => (whole, None),
            _ => (command, initial),
        };
        self.state = State::Auth(Auth { prover, initial, untried });
        Step::Say(vec![line], Awaited::Other)
    }

    fn on_answer_within_auth(&mut self, auth: Auth, answer: &Answer) -> Step {
        let Auth { prover, initial, untried } = auth;
        match answer.class() {
            Class::GoOn => {
                let challenge = || BASE64_STANDARD.decode(answer.lines().next().unwrap_or_default());
                let (prover, response) = match (initial, challenge()) {
                    (Some(initial), _) => (prover, initial),
                    (None, Ok(challenge)) => match prover.on_challenge(&challenge) {
                        Ok(next) => next,
                        Err(malformed) => return self.cancel(&malformed.to_string()),
                    },
                    (None, Err(_)) => return self.cancel("its challenge is not base64"),
                };
                self.state = State::Auth(Auth { prover, initial: None, untried });
                Step::SaySecret(BASE64_STANDARD.encode(response), Awaited::Other)
            }
            Class::Done if prover.is_done() => self.ready(),
            // RFC 5802 §3: a client that does not check the server's signature could as well talk with somebody else.
            Class::Done => self.unready(
                Status(4, 7, 0),
                "lets us in without a proof that it knows our password (RFC 5802, section 3); somebody may be in its place",
            ),
            // Not every account can log in in every way that its server offers.
            Class::Never if !untried.is_empty() => self.log_in(untried),
            // The mail is good, our configuration is not: it waits until somebody has mended that.
            Class::Never | Class::NotNow => {
                let account = Account {
                    status: Status(4, 7, 8),
                    ..self.heard("refused our login (`user` and `password_file` of our configuration)", answer)
                };
                self.state = State::Unwanted;
                Step::Unready(Fate::Deferred(account))
            }
        }
    }

    /// RFC 4954 §4: "If the client wishes to cancel the authentication exchange, it issues a line with a single "*"."
    fn cancel(&mut self, why: &str) -> Step {
        let account = self.own(Status(4, 7, 0), &format!("is not to be logged in to: {why}"));
        self.state = State::Cancelled(account);
        Step::Say(vec!["*".to_owned()], Awaited::Other)
    }

    fn ready(&mut self) -> Step {
        self.state = State::Ready;
        Step::Ready
    }

    /// The server does not want us, and says why.
    fn unwanted(&mut self, what: &str, answer: &Answer) -> Step {
        self.state = State::Unwanted;
        Step::Unready(self.judged(what, answer))
    }

    /// We do not want the server.
    fn unready(&mut self, status: Status, what: &str) -> Step {
        self.state = State::Unwanted;
        Step::Unready(Fate::Deferred(self.own(status, what)))
    }

    /// Begins a transaction. Call it when the session [is ready](Self::is_ready).
    pub fn begin(&mut self, transaction: Transaction) -> Step {
        self.elsewhere.clear();
        let count = transaction.recipients.len();
        let mut sending = Box::new(Sending {
            fates: vec![None; count],
            todo: VecDeque::new(),
            mentioned: vec![],
            to_say: VecDeque::new(),
            awaited: VecDeque::new(),
            accepted: vec![],
            too_many: vec![],
            not_elsewhere: BTreeSet::new(),
            message: Message::Untouched,
            transaction,
        });
        if let Some(account) = self.unsuited(&sending.transaction) {
            sending.decide_rest(&Fate::Failed(account));
        }
        for position in 0..count {
            // RFC 6531 §3.2: an address beyond ASCII cannot be said to a server without SMTPUTF8. The others can.
            let to = &sending.recipient(position).to;
            if !to.is_ascii() && !self.offer.has(Extension::SmtpUtf8) && sending.fates[position].is_none() {
                sending.fates[position] = Some(Fate::Failed(self.needs_utf8(&format!("the address {to} needs"))));
            }
        }
        sending.todo = (0..count).filter(|position| sending.fates[*position].is_none()).collect();
        self.begin_round(sending)
    }

    /// Why this message cannot be sent here, whoever it is for.
    fn unsuited(&self, transaction: &Transaction) -> Option<Account> {
        let offers = |extension| self.offer.has(extension);
        // RFC 1870 §6: what is known to be too large need not be tried.
        if let Some(most) = self.offer.octets_max.filter(|most| transaction.octets > *most) {
            let what = format!("takes messages of at most {most} octets, and this one has {}", transaction.octets);
            return Some(self.own(Status(5, 3, 4), &what));
        }
        // RFC 6152 §3 leaves two ways: encode it in seven bits, which breaks signatures, or treat it as a permanent error.
        if transaction.body == Body::EightBitMime && !offers(Extension::EightBitMime) {
            let what = "does not offer 8BITMIME (RFC 6152), and the message has octets beyond ASCII that are not encoded as quoted-printable or base64";
            return Some(self.own(Status(5, 6, 3), what));
        }
        // RFC 6531 §3.2.
        if offers(Extension::SmtpUtf8) {
            return None;
        }
        match &transaction.envelope.from {
            ReversePath::Mailbox(from) if !from.is_ascii() => {
                Some(self.needs_utf8(&format!("the sender's address {from} needs")))
            }
            _ if transaction.charset == Charset::Utf8 => {
                let what = "the header needs: it has letters beyond ASCII that are not encoded (RFC 2047)";
                Some(self.needs_utf8(what))
            }
            _ => None,
        }
    }

    fn needs_utf8(&self, what: &str) -> Account {
        self.own(Status(5, 6, 7), &format!("does not offer SMTPUTF8 (RFC 6531), which {what}"))
    }

    /// Mentions the next recipients, or finishes when there are none left.
    fn begin_round(&mut self, mut sending: Box<Sending>) -> Step {
        let count = sending.todo.len().min(RECIPIENTS_MAX);
        if count == 0 {
            self.state = State::Ready;
            return self.finish(*sending);
        }
        sending.mentioned = sending.todo.drain(..count).collect();
        sending.accepted.clear();
        sending.message = Message::Untouched;
        if self.slate == Slate::Written {
            sending.to_say.push_back(Said::Rset);
        }
        sending.to_say.push_back(Said::Mail);
        sending.to_say.extend(sending.mentioned.iter().copied().map(Said::Rcpt));
        // RFC 2920 §3.1: DATA "can only appear as the last command in a group".
        sending.to_say.push_back(Said::Data);
        self.go_on(sending)
    }

    /// What comes next in a transaction.
    fn go_on(&mut self, mut sending: Box<Sending>) -> Step {
        if let Some(next) = sending.awaited.front() {
            let awaited = next.awaited();
            self.state = State::Sending(sending);
            return Step::Hear(awaited);
        }
        // RFC 5321 §3.3: without recipients there is nothing to send.
        if sending.to_say.front() == Some(&Said::Data) && sending.accepted.is_empty() {
            sending.to_say.clear();
        }
        let Some(first) = sending.to_say.front().copied() else { return self.end_round(sending) };
        let group = if self.offer.has(Extension::Pipelining) { GROUP_MAX } else { 1 };
        let count = group.min(sending.to_say.len());
        sending.awaited = sending.to_say.drain(..count).collect();
        let lines = sending.awaited.iter().map(|said| self.line(&sending, *said)).collect();
        self.state = State::Sending(sending);
        Step::Say(lines, first.awaited())
    }

    fn end_round(&mut self, mut sending: Box<Sending>) -> Step {
        for (position, answer) in std::mem::take(&mut sending.too_many) {
            // RFC 5321 §4.5.3.1.10: some were taken, so the others may be in a transaction of their own.
            if sending.accepted.is_empty() {
                sending.fates[position] = Some(self.judged_recipient(&sending, position, &answer));
            } else {
                sending.todo.push_back(position);
            }
        }
        self.begin_round(sending)
    }

    fn on_answer_within(&mut self, mut sending: Box<Sending>, answer: &Answer) -> Step {
        let Some(said) = sending.awaited.pop_front() else {
            return self.senseless(sending, "a reply that nobody asked for", answer);
        };
        match (said, answer.class()) {
            (Said::Mail, Class::Done) => self.slate = Slate::Written,
            (Said::Mail, Class::NotNow | Class::Never) => {
                let from = &sending.transaction.envelope.from;
                let fate = self.judged(&format!("does not take the sender {from}"), answer);
                sending.decide_rest(&fate);
                sending.todo.clear();
                sending.to_say.clear();
            }

            // What follows a MAIL that was refused is refused too, and says nothing new.
            (Said::Rcpt(position), _) if sending.fates[position].is_some() => {}
            (Said::Rcpt(position), Class::Done) => sending.accepted.push(position),
            (Said::Rcpt(position), Class::NotNow | Class::Never) if is_too_many(answer) => {
                sending.too_many.push((position, answer.clone()));
            }
            (Said::Rcpt(position), Class::NotNow | Class::Never) => {
                sending.fates[position] = Some(self.judged_recipient(&sending, position, answer));
                if is_about_recipient(answer) {
                    sending.not_elsewhere.insert(position);
                }
            }

            (Said::Data, Class::GoOn) if sending.accepted.is_empty() => {
                // RFC 2920 §3.1: "if the DATA command was accepted the client SMTP should send a single dot."
                sending.awaited.push_back(Said::NoMessage);
                self.state = State::Sending(sending);
                return Step::Say(vec![".".to_owned()], Awaited::DataTermination);
            }
            (Said::Data, Class::GoOn) => {
                sending.awaited.push_back(Said::Message);
                sending.message = Message::UnderWay;
                self.state = State::Sending(sending);
                return Step::SendMessage;
            }
            (Said::Data, Class::NotNow | Class::Never) => {
                let fate = self.judged("does not want the message", answer);
                sending.decide_accepted(&fate);
            }

            (Said::Message, Class::NotNow | Class::Never) if sending.message == Message::UnderWay => {
                // It had heard enough. There is no way to stop within a message but to hang up.
                let fate = self.judged("refused the message before it had all of it", answer);
                sending.decide_accepted(&fate);
                return self.lost_within(*sending, &fate);
            }
            (Said::Message, Class::Done) if sending.message == Message::Gone => {
                self.slate = Slate::Clean;
                let account = self.heard("has taken the message over", answer);
                // RFC 3461 §5.2.2.
                let dsn = self.offer.has(Extension::Dsn);
                let reports = if dsn { Reports::Itself } else { Reports::NotItself };
                sending.decide_accepted(&Fate::Relayed { account, reports });
            }
            (Said::Message, Class::NotNow | Class::Never) => {
                self.slate = Slate::Clean;
                let fate = self.judged("does not take the message", answer);
                sending.decide_accepted(&fate);
            }

            (Said::Rset, Class::Done) | (Said::NoMessage, Class::Done | Class::NotNow | Class::Never) => {
                self.slate = Slate::Clean;
            }

            (Said::Rset, Class::GoOn | Class::NotNow | Class::Never)
            | (Said::Mail | Said::Rcpt(_) | Said::NoMessage, Class::GoOn)
            | (Said::Data, Class::Done)
            | (Said::Message, Class::Done | Class::GoOn) => {
                let what = format!("a reply to {} that makes no sense there", said.name());
                return self.senseless(sending, &what, answer);
            }
        }
        self.go_on(sending)
    }

    /// The message and its dot have been sent.
    pub fn message_sent(&mut self) -> Step {
        if let State::Sending(sending) = &mut self.state {
            sending.message = Message::Gone;
        }
        Step::Hear(Awaited::DataTermination)
    }

    /// The session is lost. RFC 5321 §4.2.1 and §4.5.3.2: who has no final answer is tried again.
    pub fn lost(&mut self, loss: &Loss) -> Step {
        let what: Cow<'_, str> = match loss {
            Loss::HungUp => "hung up".into(),
            Loss::Silent => "was silent for too long".into(),
            Loss::Deaf => "does not read what we say".into(),
            Loss::Broken(why) => format!("was lost: {why}").into(),
            Loss::Malformed(why) => format!("does not speak SMTP: {why}").into(),
            Loss::Unreadable(why) => format!("was left because we cannot read the message ourselves: {why}").into(),
        };
        let when: Cow<'_, str> = match &self.state {
            State::Greeting => ", and has not greeted".into(),
            State::Hello(_) => " when we had said our name".into(),
            State::StartTls | State::Handshake => " when TLS was to begin".into(),
            State::Auth(_) | State::Cancelled(_) => " when we logged in".into(),
            State::Sending(sending) => match (sending.message, sending.awaited.front()) {
                (Message::UnderWay, _) => " in the middle of the message".into(),
                // RFC 1047: the one case in which nobody can know. A message twice is better than none.
                (Message::Gone, _) => {
                    " when it had the whole message and had not answered; if it has taken it over, it may arrive twice"
                        .into()
                }
                (Message::Untouched, Some(said)) => format!(" when we had said {}", said.name()).into(),
                (Message::Untouched, None) => "".into(),
            },
            State::Quitting => return Step::HangUp,
            State::Ready | State::Unwanted | State::Over => "".into(),
        };
        // RFC 3463 §3.5: 4.4.2, bad connection; 4.5.0, protocol; 4.3.0, our own system.
        let status = match loss {
            Loss::HungUp | Loss::Silent | Loss::Deaf | Loss::Broken(_) => Status(4, 4, 2),
            Loss::Malformed(_) => Status(4, 5, 0),
            Loss::Unreadable(_) => Status(4, 3, 0),
        };
        let account = self.own(status, &format!("{what}{when}"));
        if let State::Sending(sending) = &mut self.state {
            match loss {
                // Whoever it is sent to, it is our file.
                Loss::Unreadable(_) => sending.not_elsewhere.extend(0..sending.fates.len()),
                _ if sending.message == Message::Gone => sending.may_have_gone(),
                _ => {}
            }
        }
        self.give_up(&Fate::Deferred(account))
    }

    /// Says goodbye. RFC 5321 §4.1.1.10: also to a server that does not want us.
    pub fn quit(&mut self) -> Step {
        if matches!(self.state, State::Over | State::Quitting) {
            return Step::HangUp;
        }
        self.state = State::Quitting;
        Step::Say(vec!["QUIT".to_owned()], Awaited::Quit)
    }

    /// There will be no more answers; this is what it means for whoever waits for one.
    fn give_up(&mut self, fate: &Fate) -> Step {
        match replace(&mut self.state, State::Over) {
            State::Sending(sending) => self.lost_within(*sending, fate),
            _ => Step::Unready(fate.clone()),
        }
    }

    fn lost_within(&mut self, mut sending: Sending, fate: &Fate) -> Step {
        self.state = State::Over;
        sending.decide_rest(fate);
        self.finish(sending)
    }

    /// Everybody has a fate.
    fn finish(&mut self, sending: Sending) -> Step {
        let deferred = |position: &usize| matches!(sending.fates[*position], Some(Fate::Deferred(_)));
        let may = |position: &usize| deferred(position) && !sending.not_elsewhere.contains(position);
        self.elsewhere = (0..sending.fates.len()).filter(may).collect();
        Step::Finished(sending.fates.into_iter().flatten().collect())
    }

    /// We and the server are out of step.
    fn senseless(&mut self, mut sending: Box<Sending>, what: &str, answer: &Answer) -> Step {
        if sending.message != Message::Untouched {
            sending.may_have_gone();
        }
        let account = self.heard(&format!("gave {what}"), answer);
        self.lost_within(*sending, &Fate::Deferred(Account { status: Status(4, 5, 0), ..account }))
    }

    // --- What we say ---

    fn line(&self, sending: &Sending, said: Said) -> String {
        match said {
            Said::Rset => "RSET".to_owned(),
            Said::Mail => self.mail(&sending.transaction, sending),
            Said::Rcpt(position) => self.rcpt(sending.recipient(position), sending),
            Said::Data => "DATA".to_owned(),
            Said::Message | Said::NoMessage => ".".to_owned(),
        }
    }

    /// RFC 5321 §4.1.1.2.
    fn mail(&self, transaction: &Transaction, sending: &Sending) -> String {
        let Transaction { envelope, octets, body, .. } = transaction;
        let mut line = format!("MAIL FROM:{}", envelope.from);
        let mut parameter = |text: &str| {
            line.push(' ');
            line.push_str(text);
        };
        if self.offer.has(Extension::Size) {
            parameter(&format!("SIZE={octets}"));
        }
        if *body == Body::EightBitMime {
            parameter("BODY=8BITMIME");
        }
        if self.is_utf8(sending) {
            parameter("SMTPUTF8");
        }
        if self.offer.has(Extension::Dsn) {
            match envelope.ret {
                Ret::Unsaid => {}
                Ret::Full => parameter("RET=FULL"),
                Ret::Headers => parameter("RET=HDRS"),
            }
            if let Some(envid) = &envelope.envid {
                parameter(&format!("ENVID={}", envid.encoded()));
            }
        }
        line
    }

    /// RFC 5321 §4.1.1.3. RFC 3461 §5.2.1: what came with the recipient goes on with it, unchanged.
    fn rcpt(&self, recipient: &Recipient, sending: &Sending) -> String {
        let mut line = format!("RCPT TO:<{}>", recipient.to);
        if !self.offer.has(Extension::Dsn) {
            return line;
        }
        let notify = recipient.notify.to_string();
        if !notify.is_empty() {
            line.push_str(" NOTIFY=");
            line.push_str(&notify);
        }
        if let Some(orcpt) = recipient.orcpt.as_ref().map(ToString::to_string) {
            // RFC 6533 §3: its UTF-8 form is for transactions with SMTPUTF8.
            if orcpt.is_ascii() || self.is_utf8(sending) {
                write!(line, " ORCPT={orcpt}").expect("writing into a String does not fail");
            }
        }
        line
    }

    /// RFC 6531 §3.4: whether this transaction needs SMTPUTF8.
    fn is_utf8(&self, sending: &Sending) -> bool {
        let Transaction { envelope, charset, .. } = &sending.transaction;
        let beyond = |mailbox: &Mailbox| !mailbox.is_ascii();
        let from = matches!(&envelope.from, ReversePath::Mailbox(mailbox) if beyond(mailbox));
        let to = sending.mentioned.iter().any(|position| beyond(&sending.recipient(*position).to));
        self.offer.has(Extension::SmtpUtf8) && (*charset == Charset::Utf8 || from || to)
    }

    // --- What we tell of it ---

    /// What the server did, and what it said.
    fn heard(&self, what: &str, answer: &Answer) -> Account {
        Account { status: answer.status(), reply: Some(answer.to_string()), ..self.own(Status(4, 0, 0), what) }
    }

    /// What happened without a word of the server.
    fn own(&self, status: Status, what: &str) -> Account {
        let text = format!("{} {what}", self.peer.label);
        Account { status, remote: Some(self.peer.name.clone()), reply: None, text }
    }

    /// RFC 5321 §4.2.1: 4yz is tried again, 5yz is not. What makes no sense is tried again too.
    fn judged(&self, what: &str, answer: &Answer) -> Fate {
        let account = self.heard(what, answer);
        match answer.class() {
            Class::Never => Fate::Failed(account),
            Class::NotNow => Fate::Deferred(Account { text: account.text + " now", ..account }),
            Class::Done | Class::GoOn => Fate::Deferred(Account { status: Status(4, 5, 0), ..account }),
        }
    }

    fn judged_recipient(&self, sending: &Sending, position: usize, answer: &Answer) -> Fate {
        self.judged(&format!("does not take the recipient {}", sending.recipient(position).to), answer)
    }
}

impl Sending {
    fn recipient(&self, position: usize) -> &Recipient {
        &self.transaction.envelope.recipients[self.transaction.recipients[position]]
    }

    /// Whoever has no fate yet gets this one.
    fn decide_rest(&mut self, fate: &Fate) {
        self.fates.iter_mut().filter(|decided| decided.is_none()).for_each(|decided| *decided = Some(fate.clone()));
    }

    /// Whoever was accepted in this round gets this fate.
    fn decide_accepted(&mut self, fate: &Fate) {
        for position in &self.accepted {
            self.fates[*position] = Some(fate.clone());
        }
    }

    /// RFC 1047: the server may have taken the message over. To give it to another at once would often double it; later, this one may
    /// have found its words again.
    fn may_have_gone(&mut self) {
        self.not_elsewhere.extend(self.accepted.iter().copied());
    }
}

/// RFC 5321 §4.5.3.1.10: 452, or 552 from servers that follow RFC 821, says that one message has no more recipients. With a status
/// these codes may speak of a full mailbox instead.
fn is_too_many(answer: &Answer) -> bool {
    matches!(answer.code(), 452 | 552) && matches!(answer.stated(), None | Some(Status(_, 5, 3)))
}

/// Whether a deferral of RCPT is about the recipient and not about the server: a full mailbox, a greylist. It would be no different at the
/// domain's other servers, and a greylist that hears of us everywhere lets us in nowhere sooner. Such a recipient waits for the next try.
///
/// RFC 5321 §4.2.3: 450 is a mailbox that is busy or blocked, 451 an error within the server, 452 its lack of room. A status (RFC 3463
/// §3) knows better: addressing, mailbox and policy are one's own, system and network are the server's.
fn is_about_recipient(answer: &Answer) -> bool {
    match answer.stated() {
        Some(Status(_, 1 | 2 | 7, _)) => true,
        Some(Status(_, 3..=5, _)) => false,
        _ => answer.code() == 450,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{answer::Listener, envelope::Notify};
    use proptest::prelude::*;
    use shared::wire::Line;

    fn answer(text: &str) -> Answer {
        Listener::default().hear(&Line::Text(text.to_owned().into())).unwrap().unwrap()
    }

    fn transaction(recipients: usize) -> Transaction {
        let of = |number| {
            let to = format!("bob{number}@hamburger.edu").parse().unwrap();
            Recipient { to, notify: Notify::Unsaid, orcpt: None }
        };
        let envelope = Envelope {
            from: ReversePath::Null,
            body: Body::SevenBit,
            charset: Charset::Ascii,
            ret: Ret::Unsaid,
            envid: None,
            recipients: (0..recipients).map(of).collect(),
        };
        let (body, charset) = (envelope.body, envelope.charset);
        let recipients = (0..recipients).collect();
        Transaction { envelope: Arc::new(envelope), recipients, octets: 9, body, charset }
    }

    /// A session that is ready.
    fn ready(pipelining: &str) -> Client {
        let hello = Hello { name: "crepes.fr".to_owned(), tls: Tls::IfOffered, login: None, nonce: None };
        let peer = Peer { name: "b".to_owned(), label: "b [127.0.0.1]:25".to_owned() };
        let (mut client, _) = Client::new(Arc::new(hello), peer);
        client.on_answer(&answer("220 b"));
        let mut listener = Listener::default();
        for line in ["250-b", pipelining, "250 HELP"] {
            if let Some(answer) = listener.hear(&Line::Text(line.to_owned().into())).unwrap() {
                assert_eq!(client.on_answer(&answer), Step::Ready);
            }
        }
        client
    }

    /// Whom another server is asked for after these answers to MAIL, to RCPT for two, to DATA and to the message; `-` is a connection that is
    /// lost.
    fn elsewhere_after(answers: &str) -> Vec<usize> {
        let mut client = ready("250-HELP");
        let mut answers = answers.split('|');
        let mut step = client.begin(transaction(2));
        loop {
            step = match step {
                Step::Say(..) | Step::Hear(_) => match answers.next().unwrap() {
                    "-" => client.lost(&Loss::HungUp),
                    text => client.on_answer(&answer(text)),
                },
                Step::SendMessage => client.message_sent(),
                Step::Finished(_) => return client.elsewhere().to_vec(),
                step => panic!("{step:?}"),
            };
        }
    }

    #[test]
    fn another_server_is_asked_where_the_reason_lies_with_this_one_and_nothing_can_be_doubled() {
        for (answers, want) in [
            ("451 disk", &[0, 1][..]),
            ("421 bye", &[0, 1]),
            ("-", &[0, 1]),
            ("550 no", &[]),
            ("250 ok|250 ok|250 ok|451 busy", &[0, 1]),
            ("250 ok|250 ok|250 ok|354 go|451 disk", &[0, 1]),
            ("250 ok|250 ok|250 ok|354 go|421 bye", &[0, 1]),
            ("250 ok|250 ok|250 ok|354 go|250 ok", &[]),
            ("250 ok|250 ok|250 ok|354 go|554 no", &[]),
            // Nobody can know whether it has the message.
            ("250 ok|250 ok|250 ok|354 go|-", &[]),
            ("250 ok|250 ok|250 ok|354 go|354 go", &[]),
            // One is taken. What is wrong with the other is his own, or the server's.
            ("250 ok|250 ok|450 greylisted|354 go|250 ok", &[]),
            ("250 ok|250 ok|451 4.7.1 greylisted|354 go|250 ok", &[]),
            ("250 ok|250 ok|452 4.2.2 full|354 go|250 ok", &[]),
            ("250 ok|250 ok|451 no database|354 go|250 ok", &[1]),
            ("250 ok|250 ok|450 4.3.2 too busy|354 go|250 ok", &[1]),
            ("250 ok|451 no database|451 no database", &[0, 1]),
            ("250 ok|450 greylisted|421 bye", &[1]),
            ("250 ok|250 ok|450 greylisted|354 go|-", &[]),
        ] {
            assert_eq!(elsewhere_after(answers), want, "{answers}");
        }
    }

    #[test]
    fn a_password_too_long_for_one_command_is_said_in_two() {
        let (user, plaintext) = ("alice".to_owned(), Plaintext::OverTls);
        let login = Some(Login { user, secret: "x".repeat(400), plaintext });
        let hello = Hello { name: "crepes.fr".to_owned(), tls: Tls::IfOffered, login, nonce: None };
        let peer = Peer { name: "b".to_owned(), label: "b [127.0.0.1]:25".to_owned() };
        let (mut client, _) = Client::new(Arc::new(hello), peer);
        client.encrypted();
        let mut listener = Listener::default();
        listener.hear(&Line::Text("250-b".into())).unwrap();
        let offer = listener.hear(&Line::Text("250 AUTH PLAIN".into())).unwrap().unwrap();
        assert_eq!(client.on_answer(&offer), Step::Say(vec!["AUTH PLAIN".to_owned()], Awaited::Other));
        let Step::SaySecret(secret, _) = client.on_answer(&answer("334 ")) else { panic!("no response") };
        assert!(secret.len() > 500);
        assert_eq!(client.on_answer(&answer("235 welcome")), Step::Ready);
    }

    #[test]
    fn no_more_than_fifty_commands_are_said_before_an_answer_is_heard() {
        let mut client = ready("250-PIPELINING");
        let mut groups = vec![];
        let mut step = client.begin(transaction(120));
        loop {
            step = match step {
                Step::Say(lines, _) => {
                    groups.push(lines.len());
                    client.on_answer(&answer("250 ok"))
                }
                Step::Hear(Awaited::DataInitiation) => client.on_answer(&answer("354 go")),
                Step::Hear(_) => client.on_answer(&answer("250 ok")),
                Step::SendMessage => client.message_sent(),
                Step::Finished(fates) => break assert_eq!(fates.len(), 120),
                step => panic!("{step:?}"),
            };
        }
        // MAIL, 100 RCPT, DATA; then MAIL, 20 RCPT, DATA.
        assert_eq!(groups, [50, 50, 2, 22]);
    }

    proptest! {
        /// Whatever a server answers, each recipient has one fate in the end, and the message is sent only where somebody was taken.
        #[test]
        fn every_server_leaves_each_recipient_with_a_fate(
            codes in proptest::collection::vec(
                proptest::sample::select(vec![220, 250, 250, 250, 251, 354, 354, 421, 450, 452, 503, 550, 552, 554]), 40..80,
            ),
            pipelining in proptest::sample::select(vec!["250-PIPELINING", "250-HELP"]),
            recipients in 0..5_usize,
        ) {
            let mut client = ready(pipelining);
            let mut codes = codes.into_iter();
            for _ in 0..3 {
                if !client.is_ready() {
                    break;
                }
                let (mut step, mut taken, mut sent) = (client.begin(transaction(recipients)), false, false);
                loop {
                    step = match step {
                        Step::Say(_, awaited) | Step::Hear(awaited) => match codes.next() {
                            Some(code) => {
                                taken |= awaited == Awaited::Rcpt && (200..300).contains(&code);
                                client.on_answer(&answer(&format!("{code} x")))
                            }
                            None => client.lost(&Loss::HungUp),
                        },
                        Step::SendMessage => {
                            prop_assert!(taken);
                            sent = true;
                            client.message_sent()
                        }
                        Step::Finished(fates) => {
                            prop_assert_eq!(fates.len(), recipients);
                            let relayed = fates.iter().any(|fate| matches!(fate, Fate::Relayed { .. }));
                            prop_assert!(sent || !relayed);
                            break;
                        }
                        step => panic!("{step:?}"),
                    };
                }
            }
        }
    }
}
