//! One session, from greeting to goodbye: no socket, no file, no clock.
//!
//! ```text
//!   AUTHORIZATION --- USER PASS | APOP | AUTH ---> TRANSACTION --- QUIT ---> UPDATE: what was marked is removed
//!        |                                              |
//!        +-- QUIT, too many errors: goodbye             +-- silence, a lost connection: nothing is removed
//! ```
//!
//! The client's line goes in, a [`Step`] comes out. What the session wants from the world is an [`Effect`], and what came of it an
//! [`Outcome`].

use crate::{
    command::{Command, MECHANISMS, Number},
    reply::Reply,
};
use shared::{
    maildir::Listing,
    sasl::{self, Answer, Exchange, Next, Refusal},
    wire::Line,
};
use std::{collections::BTreeSet, fmt::Write as _, mem::replace, sync::Arc, time::Duration};

pub use shared::sasl::{AUTH_LINE_OCTETS_MAX, Channel, Plaintext};

/// RFC 2449 §4: a command has at most 255 octets with its CR LF.
pub const LINE_OCTETS_MAX: usize = 255;
/// A client that has said so many lines that are none, or at the wrong time, does not speak POP3.
const ERRORS_MAX: u32 = 100;
/// Lines before a login: whoever types says ten of them. With all its pauses a client that has no account holds its connection for a day, and
/// not for ever. One that has logged in may stay: it keeps nobody but itself from its mailbox.
const BEFORE_LOGIN_MAX: u32 = 100;
/// Wrong passwords before we hang up.
const DENIED_MAX: u32 = 5;

/// What this server offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Whether passwords may be sent in clear.
    pub plaintext: Plaintext,
    /// Whether STLS is offered.
    pub stls: Stls,
    /// What LOGIN-DELAY tells; zero offers none.
    pub login_delay: Duration,
}

/// Whether STLS is offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stls {
    /// There is a certificate.
    Offered,
    /// There is none.
    No,
}

/// What the driver must do next.
#[derive(Debug)]
pub enum Step {
    /// Say this, then wait for the client.
    Reply(Reply),
    /// Say this and these lines, byte-stuffed, and a dot.
    Lines(Reply, Lines),
    /// Say this, then the message that was [opened](Effect::Open).
    Message(Reply),
    /// Say this; the next line is the client's answer within AUTH, and a secret.
    Challenge(Reply),
    /// Say this, then begin TLS, then call [`Session::encrypted`].
    StartTls(Reply),
    /// Say this, then hang up.
    Close(Reply),
    /// Do this, then call [`Session::on_outcome`].
    Perform(Effect),
}

/// Lines that are made when they leave: a list of 100,000 messages is never in memory.
#[derive(Debug)]
pub enum Lines {
    /// These.
    Of(Vec<String>),
    /// `number octets` of each message that is not deleted.
    Octets,
    /// `number uid` of each message that is not deleted.
    Uids,
}

/// Everything that a session can want from the world.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out whether these are right.
    Verify(Credentials),
    /// What a proof of this user will be checked with, and a nonce.
    FetchKeys(String),
    /// Lock this user's maildrop and list it.
    OpenMaildrop(String),
    /// Open a message, and look at its header.
    Open {
        /// Its place in the listing.
        index: usize,
        /// How much of it will be sent.
        extent: Extent,
    },
    /// Remove these messages.
    Remove(Vec<usize>),
}

/// How much of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All.
    Whole,
    /// The header, the empty line, and so many lines.
    Top(u64),
}

/// How a client shows who it is.
#[derive(Debug, PartialEq, Eq)]
pub enum Credentials {
    /// By USER and PASS, or AUTH.
    Sasl(sasl::Credentials),
    /// By APOP: a digest of the greeting's timestamp and the clear secret.
    #[expect(missing_docs, reason = "the names say it")]
    Digest { user: String, stamp: Arc<str>, digest: [u8; 16] },
}

impl Credentials {
    /// Who it says to be.
    pub fn user(&self) -> &str {
        match self {
            Self::Sasl(credentials) => credentials.user(),
            Self::Digest { user, .. } => user,
        }
    }
}

/// What came of an [`Effect`].
#[derive(Debug)]
pub enum Outcome {
    /// Of credentials, or of keys that were asked for.
    Login(Answer),
    /// The maildrop is ours, and this is in it.
    Opened(Arc<Listing>),
    /// Another session has it.
    Busy,
    /// The last login was too short a time ago.
    TooEarly,
    /// The system does not let us in.
    CannotOpen,
    /// The message is open.
    Ready(Header),
    /// The message is gone.
    Vanished,
    /// The message cannot be read.
    Unreadable,
    /// So many of the messages are still there.
    Removed {
        /// How many.
        failed: usize,
    },
}

/// What octets a header has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// ASCII, or what nobody knows.
    Plain,
    /// UTF-8 beyond ASCII (RFC 6532).
    Utf8,
}

/// RFC 1939 §3: "A POP3 session progresses through a number of states during its lifetime."
#[derive(Debug)]
enum State {
    /// §4: who is it? After USER, also its name.
    Authorization { user: Option<String> },
    /// RFC 5034 §4: an exchange of AUTH is under way.
    Authenticating(Exchange),
    /// The world is asked; the client is not heard meanwhile.
    Verifying { user: String },
    /// §5: the client works on its maildrop.
    Transaction(Maildrop),
    /// §5: a message is being opened.
    Opening { maildrop: Maildrop, number: usize, extent: Extent },
    /// §6: what was marked is being removed.
    Update,
}

/// The client's maildrop, and what it has marked.
#[derive(Debug)]
struct Maildrop {
    listing: Arc<Listing>,
    deleted: BTreeSet<usize>,
    /// Of what is not marked.
    count: usize,
    octets: u64,
}

impl Maildrop {
    fn new(listing: Arc<Listing>) -> Self {
        let octets = (0..listing.len()).map(|index| listing.octets(index)).sum();
        Self { count: listing.len(), octets, deleted: BTreeSet::new(), listing }
    }

    /// The place of message `number`, or why there is none.
    fn index(&self, Number(number): Number) -> Result<usize, Reply> {
        let index = number.checked_sub(1).filter(|index| *index < self.listing.len());
        let index = index.ok_or_else(|| Reply::no_such_message(self.listing.len()))?;
        if self.deleted.contains(&index) { Err(Reply::deleted_already(number)) } else { Ok(index) }
    }

    /// The places of what is not marked.
    fn kept(&self) -> impl Iterator<Item = usize> {
        (0..self.listing.len()).filter(|index| !self.deleted.contains(index))
    }

    fn delete(&mut self, number: Number) -> Reply {
        match self.index(number) {
            Ok(index) => {
                self.deleted.insert(index);
                self.count -= 1;
                self.octets -= self.listing.octets(index);
                Reply::deleted(number.0)
            }
            Err(reply) => reply,
        }
    }
}

/// A session.
#[derive(Debug)]
pub struct Session {
    state: State,
    offer: Arc<Offer>,
    channel: Channel,
    stamp: Option<Arc<str>>,
    encoding: Encoding,
    before_login: u32,
    errors: u32,
    denied: u32,
}

/// RFC 6856 §2: whether the client takes UTF-8 in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Ascii,
    Utf8,
}

impl Session {
    /// A new session and its greeting. With a timestamp, `<unique@host>`, APOP may be used.
    pub fn new(offer: Arc<Offer>, channel: Channel, stamp: Option<Arc<str>>) -> (Self, Reply) {
        let greeting = Reply::greeting(stamp.as_deref());
        let state = State::Authorization { user: None };
        let (encoding, before_login, errors, denied) = (Encoding::Ascii, 0, 0, 0);
        let session = Self { state, offer, channel, stamp, encoding, before_login, errors, denied };
        (session, greeting)
    }

    /// Whether what the client says next belongs to AUTH, which is secret and may be long.
    pub fn is_authenticating(&self) -> bool {
        matches!(self.state, State::Authenticating(_))
    }

    /// TLS has begun. RFC 2595 §4: what was learnt before is forgotten.
    pub fn encrypted(&mut self) {
        self.channel = Channel::Encrypted;
        self.state = State::Authorization { user: None };
    }

    /// What the client said.
    pub fn on_line(&mut self, line: &Line) -> Step {
        if let State::Authorization { .. } | State::Authenticating(_) = self.state {
            self.before_login += 1;
            if self.before_login > BEFORE_LOGIN_MAX {
                return Step::Close(Reply::no_login());
            }
        }
        let line = match line {
            Line::Text(line) => line,
            Line::TooLong => {
                let most = if self.is_authenticating() { AUTH_LINE_OCTETS_MAX } else { LINE_OCTETS_MAX };
                self.forget_user();
                return self.wrong(Reply::line_too_long(most));
            }
            Line::BareLf(_) => {
                self.forget_user();
                return self.wrong(Reply::lf_alone());
            }
        };
        match replace(&mut self.state, State::Authorization { user: None }) {
            State::Authenticating(exchange) => return self.advance(exchange.on_line(line)),
            state => self.state = state,
        }
        match Command::parse(line) {
            Ok(command) => self.on_command(command),
            Err(error) => {
                self.forget_user();
                self.wrong(error.into())
            }
        }
    }

    fn on_command(&mut self, command: Command) -> Step {
        use Command as C;
        use State as S;
        match (&mut self.state, command) {
            // --- AUTHORIZATION state, RFC 1939 §4 and §7 ---
            (S::Authorization { user }, C::User(name)) => {
                if !self.offer.plaintext.may_pass(self.channel) {
                    return self.wrong(Reply::encrypt_first(self.offer.stls == Stls::Offered));
                }
                *user = Some(name);
                Step::Reply(Reply::name_heard())
            }
            // §7: "may only be given in the AUTHORIZATION state immediately after a successful USER command".
            (S::Authorization { user }, C::Pass(secret)) => match user.take() {
                Some(user) => self.verify(Credentials::Sasl(sasl::Credentials::Password { user, secret })),
                None => self.wrong(Reply::user_first()),
            },
            (S::Authorization { .. }, C::Apop { user, digest }) => match self.stamp.clone() {
                Some(stamp) => self.verify(Credentials::Digest { user, stamp, digest }),
                None => self.wrong(Reply::no_apop()),
            },
            (S::Authorization { .. }, C::Quit) => Step::Close(Reply::signing_off()),

            // --- TRANSACTION state, RFC 1939 §5 ---
            (S::Transaction(maildrop), C::Stat) => Step::Reply(Reply::totals(maildrop.count, maildrop.octets)),
            (S::Transaction(maildrop), C::List(None)) => {
                Step::Lines(Reply::listing(maildrop.count, maildrop.octets), Lines::Octets)
            }
            (S::Transaction(maildrop), C::List(Some(number))) => Step::Reply(match maildrop.index(number) {
                Ok(index) => Reply::one(number.0, maildrop.listing.octets(index)),
                Err(reply) => reply,
            }),
            (S::Transaction(maildrop), C::Retr(number)) => match maildrop.index(number) {
                Ok(index) => self.open(index, Extent::Whole),
                Err(reply) => Step::Reply(reply),
            },
            (S::Transaction(maildrop), C::Dele(number)) => Step::Reply(maildrop.delete(number)),
            (S::Transaction(_), C::Noop) => Step::Reply(Reply::still_here()),
            (S::Transaction(maildrop), C::Rset) => {
                *maildrop = Maildrop::new(Arc::clone(&maildrop.listing));
                Step::Reply(Reply::all_restored(maildrop.count, maildrop.octets))
            }

            // --- UPDATE state, RFC 1939 §6 ---
            (S::Transaction(maildrop), C::Quit) => {
                let deleted: Vec<usize> = maildrop.deleted.iter().copied().collect();
                self.state = S::Update;
                if deleted.is_empty() {
                    return Step::Close(Reply::signing_off());
                }
                Step::Perform(Effect::Remove(deleted))
            }

            // --- Optional commands, RFC 1939 §7 ---
            (S::Transaction(maildrop), C::Top { number, lines }) => match maildrop.index(number) {
                Ok(index) => self.open(index, Extent::Top(lines)),
                Err(reply) => Step::Reply(reply),
            },
            (S::Transaction(_), C::Uidl(None)) => Step::Lines(Reply::uids(), Lines::Uids),
            (S::Transaction(maildrop), C::Uidl(Some(number))) => Step::Reply(match maildrop.index(number) {
                Ok(index) => Reply::one(number.0, maildrop.listing.uid(index)),
                Err(reply) => reply,
            }),

            // --- CAPA, RFC 2449 §5: in both states ---
            (S::Authorization { .. } | S::Transaction(_), C::Capa) => {
                Step::Lines(Reply::capabilities(), Lines::Of(self.capabilities()))
            }

            // --- STLS, RFC 2595 §4: in the AUTHORIZATION state only, once ---
            (S::Authorization { .. }, C::Stls) => match (self.offer.stls, self.channel, self.encoding) {
                (_, Channel::Encrypted, _) => self.wrong(Reply::tls_already()),
                (Stls::No, Channel::Clear, _) => self.wrong(Reply::no_tls()),
                // RFC 6856 §2.1: "servers MAY ... enforce this".
                (Stls::Offered, Channel::Clear, Encoding::Utf8) => self.wrong(Reply::tls_before_utf8()),
                (Stls::Offered, Channel::Clear, Encoding::Ascii) => Step::StartTls(Reply::begin_tls()),
            },

            // --- AUTH, RFC 5034 §4 ---
            (S::Authorization { .. }, C::Auth { mechanism, initial }) => {
                if !mechanism.may_be_used(self.offer.plaintext, self.channel) {
                    return self.wrong(Reply::encrypt_first(self.offer.stls == Stls::Offered));
                }
                self.advance(Exchange::begin(mechanism, initial.as_deref()))
            }

            // --- UTF8, RFC 6856 §2.1: in the AUTHORIZATION state only ---
            (S::Authorization { .. }, C::Utf8) => {
                self.encoding = Encoding::Utf8;
                Step::Reply(Reply::utf8())
            }

            // --- Everything else is said at the wrong time ---
            (S::Transaction(_), C::User(_) | C::Pass(_) | C::Apop { .. } | C::Auth { .. } | C::Stls | C::Utf8) => {
                self.wrong(Reply::logged_in_already())
            }
            (
                S::Authorization { user },
                C::Stat | C::List(_) | C::Retr(_) | C::Dele(_) | C::Noop | C::Rset | C::Top { .. } | C::Uidl(_),
            ) => {
                *user = None;
                self.wrong(Reply::log_in_first())
            }
            // The driver hears no line while it works for us; if it did, this would be true.
            (
                S::Authenticating(_) | S::Verifying { .. } | S::Opening { .. } | S::Update,
                C::User(_)
                | C::Pass(_)
                | C::Apop { .. }
                | C::Auth { .. }
                | C::Stls
                | C::Utf8
                | C::Capa
                | C::Stat
                | C::List(_)
                | C::Retr(_)
                | C::Dele(_)
                | C::Noop
                | C::Rset
                | C::Top { .. }
                | C::Uidl(_)
                | C::Quit,
            ) => self.wrong(Reply::log_in_first()),
        }
    }

    /// AUTH goes on, or is over.
    fn advance(&mut self, next: Result<(Exchange, Next), Refusal>) -> Step {
        self.state = State::Authorization { user: None };
        let (exchange, next) = match next {
            Ok(next) => next,
            Err(refusal) => return self.refuse(refusal),
        };
        let step = match next {
            Next::Welcome(user) => return self.open_maildrop(user),
            Next::Challenge(message) => Step::Challenge(Reply::challenge(message)),
            Next::FetchKeys(user) => Step::Perform(Effect::FetchKeys(user)),
            Next::Verify(credentials) => Step::Perform(Effect::Verify(Credentials::Sasl(credentials))),
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
                    return Step::Close(Reply::too_many_wrong_passwords());
                }
                Step::Reply(refusal.into())
            }
            Refusal::Cancelled | Refusal::TooSoon(_) | Refusal::CannotTell => Step::Reply(refusal.into()),
        }
    }

    /// What came of the last effect.
    pub fn on_outcome(&mut self, outcome: Outcome) -> Step {
        let state = replace(&mut self.state, State::Authorization { user: None });
        match (state, outcome) {
            (State::Verifying { user }, Outcome::Login(Answer::Welcome)) => self.open_maildrop(user),
            (State::Authenticating(exchange), Outcome::Login(answer)) => self.advance(exchange.on_answer(answer)),
            (State::Verifying { .. }, Outcome::Opened(listing)) => {
                self.state = State::Transaction(Maildrop::new(listing));
                Step::Reply(Reply::logged_on())
            }
            (State::Opening { maildrop, number, extent }, outcome) => {
                let octets = maildrop.listing.octets(number - 1);
                self.state = State::Transaction(maildrop);
                match (outcome, extent) {
                    (Outcome::Ready(Header::Utf8), _) if self.encoding == Encoding::Ascii => {
                        Step::Reply(Reply::needs_utf8())
                    }
                    (Outcome::Ready(_), Extent::Whole) => Step::Message(Reply::message(octets)),
                    (Outcome::Ready(_), Extent::Top(lines)) => Step::Message(Reply::top(lines)),
                    (Outcome::Vanished, _) => Step::Reply(Reply::vanished(number)),
                    _ => Step::Reply(Reply::unreadable(number)),
                }
            }
            (State::Update, Outcome::Removed { failed: 0 }) => Step::Close(Reply::signing_off()),
            (State::Update, Outcome::Removed { failed }) => Step::Close(Reply::not_all_removed(failed)),
            (State::Update, _) => Step::Close(Reply::cannot_open_maildrop()),
            (_, Outcome::Login(answer)) => self.refuse(answer.into()),
            (_, Outcome::Busy) => Step::Reply(Reply::in_use()),
            (_, Outcome::TooEarly) => Step::Reply(Reply::too_early(self.offer.login_delay)),
            (_, Outcome::CannotOpen) => Step::Reply(Reply::cannot_open_maildrop()),
            // What fits no question is our own mistake; the client can try again.
            (
                _,
                Outcome::Opened(_)
                | Outcome::Ready(_)
                | Outcome::Vanished
                | Outcome::Unreadable
                | Outcome::Removed { .. },
            ) => Step::Reply(Reply::cannot_tell()),
        }
    }

    /// The lines that follow a reply, made as they are wanted.
    pub fn lines<'a>(&'a self, lines: &'a Lines) -> Box<dyn Iterator<Item = String> + Send + 'a> {
        let maildrop = match &self.state {
            State::Transaction(maildrop) => Some(maildrop),
            _ => None,
        };
        match lines {
            Lines::Of(lines) => Box::new(lines.iter().cloned()),
            Lines::Octets => Box::new(maildrop.into_iter().flat_map(|maildrop| {
                maildrop.kept().map(|index| format!("{} {}", index + 1, maildrop.listing.octets(index)))
            })),
            Lines::Uids => Box::new(maildrop.into_iter().flat_map(|maildrop| {
                maildrop.kept().map(|index| format!("{} {}", index + 1, maildrop.listing.uid(index)))
            })),
        }
    }

    /// RFC 2449 §6, RFC 2595 §4, RFC 3206 §6, RFC 5034 §3, RFC 6856 §2. What cannot be used now is not told, as §5 of RFC 2449
    /// allows for what needs the AUTHORIZATION state.
    fn capabilities(&self) -> Vec<String> {
        let before_login = matches!(self.state, State::Authorization { .. });
        let mut lines = vec!["TOP".to_owned(), "UIDL".to_owned()];
        lines.push(format!("SASL {}", sasl::usable(&MECHANISMS, self.offer.plaintext, self.channel)));
        if self.offer.plaintext.may_pass(self.channel) {
            lines.push("USER".to_owned());
        }
        if before_login && self.offer.stls == Stls::Offered && self.channel == Channel::Clear {
            lines.push("STLS".to_owned());
        }
        lines.extend(["PIPELINING", "RESP-CODES", "AUTH-RESP-CODE", "EXPIRE NEVER"].map(str::to_owned));
        if !self.offer.login_delay.is_zero() {
            let mut line = String::new();
            write!(line, "LOGIN-DELAY {}", self.offer.login_delay.as_secs())
                .expect("writing into a String does not fail");
            lines.push(line);
        }
        // RFC 6856 §2.2: names and passwords may be UTF-8, too.
        lines.push("UTF8 USER".to_owned());
        lines.push(concat!("IMPLEMENTATION tomte-pop3-", env!("CARGO_PKG_VERSION")).to_owned());
        lines
    }

    fn verify(&mut self, credentials: Credentials) -> Step {
        self.state = State::Verifying { user: credentials.user().to_owned() };
        Step::Perform(Effect::Verify(credentials))
    }

    fn open_maildrop(&mut self, user: String) -> Step {
        self.state = State::Verifying { user: user.clone() };
        Step::Perform(Effect::OpenMaildrop(user))
    }

    fn open(&mut self, index: usize, extent: Extent) -> Step {
        let state = replace(&mut self.state, State::Authorization { user: None });
        let State::Transaction(maildrop) = state else { return self.wrong(Reply::log_in_first()) };
        self.state = State::Opening { maildrop, number: index + 1, extent };
        Step::Perform(Effect::Open { index, extent })
    }

    /// An answer that counts: who makes only mistakes is sent away.
    fn wrong(&mut self, reply: Reply) -> Step {
        self.errors += 1;
        if self.errors >= ERRORS_MAX { Step::Close(Reply::too_many_errors()) } else { Step::Reply(reply) }
    }

    /// PASS comes right behind USER, and within AUTH nothing is said but answers.
    fn forget_user(&mut self) {
        if let State::Authorization { .. } | State::Authenticating(_) = self.state {
            self.state = State::Authorization { user: None };
        }
    }
}
