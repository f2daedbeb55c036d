//! Logging in without a protocol of its own: PLAIN (RFC 4616) and SCRAM-SHA-256 (RFC 5802, RFC 7677) as mail protocols embed
//! them with AUTH.
//!
//! ```text
//!   C: n,,n=bob,r=<client's nonce>                        ClientFirst::parse
//!   S: r=<both nonces>,s=<salt>,i=<rounds>                ClientFirst::challenge
//!   C: c=biws,r=<both nonces>,p=<proof>                   Challenge::check: does it know the password?
//!   S: v=<signature>                                      and the client sees that we know it too
//! ```
//!
//! The password never travels, and what is stored here cannot be used to log in. Everything is pure: octets in, octets out;
//! the nonce comes from the caller.
//!
//! SMTP and POP3 embed an exchange in the same way (RFC 4954 §4, RFC 5034 §4): each message is a line of base64, and `*` gives up. What they
//! reply is theirs.

use base64::{Engine, prelude::BASE64_STANDARD};
use ring::{
    digest::{SHA256, digest},
    hmac::{self, HMAC_SHA256, Key},
    pbkdf2::{self, PBKDF2_HMAC_SHA256},
};
use std::{borrow::Cow, num::NonZeroU32, time::Duration};
use stringprep::saslprep;

/// What the client sent is not of the mechanism's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(&'static str);

// --- Whether a password may be said ------------------------------------------------------------------------------------

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Anybody between us can read it.
    Clear,
    /// TLS.
    Encrypted,
}

/// Whether passwords may be sent in clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plaintext {
    /// Yes: it is a lesson.
    Allowed,
    /// Only over TLS.
    OverTls,
}

impl Plaintext {
    /// RFC 2595 §2.2, RFC 4954 §4, RFC 5034 §4: a password in clear only over TLS, unless somebody has decided otherwise.
    pub fn may_pass(self, channel: Channel) -> bool {
        channel == Channel::Encrypted || self == Self::Allowed
    }
}

// --- A whole exchange ------------------------------------------------------------------------------------------------

/// RFC 4954 §4: what a client says within AUTH. RFC 5034 §4 lets it be longer than other lines, too, and has no figure.
pub const AUTH_LINE_OCTETS_MAX: usize = 12_288;

/// How AUTH may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the RFCs' own names")]
pub enum Mechanism {
    Plain,
    /// Never standardised, and all that some old clients can do: it asks for the name, then for the password.
    Login,
    ScramSha256,
}

impl Mechanism {
    /// What it is called after AUTH.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
        }
    }

    /// The one of these that is called so, in any case.
    pub fn called(name: &[u8], offered: &[Self]) -> Option<Self> {
        offered.iter().copied().find(|mechanism| name.eq_ignore_ascii_case(mechanism.name().as_bytes()))
    }

    /// Whether whoever listens on the way learns the password.
    pub fn shows_password(self) -> bool {
        self != Self::ScramSha256
    }

    /// Whether it may be used there.
    pub fn may_be_used(self, plaintext: Plaintext, channel: Channel) -> bool {
        !self.shows_password() || plaintext.may_pass(channel)
    }
}

/// Names, with blanks between, for EHLO and CAPA: those of the mechanisms that may be used there.
pub fn usable(offered: &[Mechanism], plaintext: Plaintext, channel: Channel) -> String {
    let usable = offered.iter().filter(|mechanism| mechanism.may_be_used(plaintext, channel));
    usable.map(|mechanism| mechanism.name()).collect::<Vec<_>>().join(" ")
}

/// A message as it travels. What does not belong into base64 is refused, not passed over (RFC 4954 §4, RFC 5034 §4).
fn decode(line: &[u8]) -> Option<Vec<u8>> {
    BASE64_STANDARD.decode(line).ok()
}

/// The message that comes with AUTH itself; none, if it is not base64. RFC 4954 §4, RFC 5034 §4: one that is empty is written `=`.
pub fn initial_response(text: &[u8]) -> Option<Vec<u8>> {
    if text == b"=" { Some(vec![]) } else { decode(text) }
}

/// How a client shows who it is.
#[derive(PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Credentials {
    Password {
        user: String,
        secret: Vec<u8>,
    },
    /// The proof has been checked already; whoever keeps count of failures wants to know.
    Scram {
        user: String,
        proof: Proof,
    },
}

impl Credentials {
    /// Who it says to be.
    pub fn user(&self) -> &str {
        match self {
            Self::Password { user, .. } | Self::Scram { user, .. } => user,
        }
    }
}

impl std::fmt::Debug for Credentials {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.user())
    }
}

/// Where an exchange is.
#[derive(Debug)]
pub enum Exchange {
    /// The client's first message is awaited.
    First(Mechanism),
    /// LOGIN: the password is awaited.
    Password {
        /// Who it says to be.
        user: String,
    },
    /// SCRAM: the keys of this user are awaited, from us.
    Keys(ClientFirst),
    /// SCRAM: the proof is awaited.
    Final(Challenge),
    /// Whether the credentials are right is awaited, from us.
    Verifying {
        /// Who it says to be.
        user: String,
        /// SCRAM: what proves that we know the password too.
        signature: Option<String>,
    },
    /// SCRAM has no room for our proof beside the word of success in mail protocols (RFC 4954 §4, RFC 5034 §4), so it was a
    /// challenge, and the client's empty answer is awaited.
    Proven {
        /// Who it is.
        user: String,
    },
}

/// What an exchange wants next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Say this, in base64; the line that the client answers goes to [`Exchange::on_line`].
    Challenge(String),
    /// Fetch this user's keys and a nonce for [`Exchange::on_answer`].
    FetchKeys(String),
    /// Find out whether these are right, for [`Exchange::on_answer`].
    Verify(Credentials),
    /// It is this user.
    Welcome(String),
}

/// What a session hears of those who want to log in.
#[derive(Debug)]
pub enum Answer {
    /// It is who it says.
    Welcome,
    /// It is not.
    Denied,
    /// Wrong passwords came from its address; it must wait.
    TooSoon(Duration),
    /// We failed.
    CannotTell,
    /// For a challenge of SCRAM.
    Keys {
        /// Real ones or a decoy.
        keys: ScramKeys,
        /// Printable, never the same.
        nonce: String,
    },
}

/// Why nobody has logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client has given up.
    Cancelled,
    /// Its line is not base64.
    NotBase64,
    /// Its message is not of the mechanism's form.
    Malformed(Malformed),
    /// It is not who it says.
    Denied,
    /// Wrong passwords came from its address; it must wait.
    TooSoon(Duration),
    /// We failed.
    CannotTell,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<Answer> for Refusal {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Denied => Self::Denied,
            Answer::TooSoon(wait) => Self::TooSoon(wait),
            // What fits no question is our own mistake; the client can try again.
            Answer::CannotTell | Answer::Welcome | Answer::Keys { .. } => Self::CannotTell,
        }
    }
}

impl Exchange {
    /// AUTH was said, perhaps with a first message.
    ///
    /// # Errors
    /// The exchange is over before it began.
    pub fn begin(mechanism: Mechanism, initial: Option<&[u8]>) -> Result<(Self, Next), Refusal> {
        match (mechanism, initial) {
            (_, Some(message)) => Ok(Self::First(mechanism).on_message(message)?),
            (Mechanism::Login, None) => Ok((Self::First(mechanism), challenge("Username:"))),
            (Mechanism::Plain | Mechanism::ScramSha256, None) => Ok((Self::First(mechanism), challenge(""))),
        }
    }

    /// The client's line after a challenge. RFC 4954 §4, RFC 5034 §4: base64, or `*` if it gives up.
    ///
    /// # Errors
    /// The exchange is over.
    pub fn on_line(self, line: &[u8]) -> Result<(Self, Next), Refusal> {
        if line == b"*" {
            return Err(Refusal::Cancelled);
        }
        Ok(self.on_message(&decode(line).ok_or(Refusal::NotBase64)?)?)
    }

    /// What the accounts said.
    ///
    /// # Errors
    /// The exchange is over.
    pub fn on_answer(self, answer: Answer) -> Result<(Self, Next), Refusal> {
        match (self, answer) {
            (Self::Keys(first), Answer::Keys { keys, nonce }) => {
                let (proof, message) = first.challenge(keys, &nonce);
                Ok((Self::Final(proof), challenge(&message)))
            }
            (Self::Verifying { user, signature: None }, Answer::Welcome) => {
                Ok((Self::Proven { user: user.clone() }, Next::Welcome(user)))
            }
            (Self::Verifying { user, signature: Some(signature) }, Answer::Welcome) => {
                Ok((Self::Proven { user }, challenge(&signature)))
            }
            (_, answer) => Err(answer.into()),
        }
    }

    fn on_message(self, message: &[u8]) -> Result<(Self, Next), Malformed> {
        let verify = |credentials: Credentials, signature| {
            (Self::Verifying { user: credentials.user().to_owned(), signature }, Next::Verify(credentials))
        };
        match self {
            Self::First(Mechanism::Plain) => {
                let Plain { user, secret } = plain(message)?;
                Ok(verify(Credentials::Password { user, secret }, None))
            }
            Self::First(Mechanism::Login) => {
                let user = str::from_utf8(message).map_err(|_| Malformed("the user's name is not UTF-8"))?;
                let user = prepare(user).into_owned();
                Ok((Self::Password { user }, challenge("Password:")))
            }
            Self::Password { user } => Ok(verify(Credentials::Password { user, secret: message.to_vec() }, None)),
            Self::First(Mechanism::ScramSha256) => {
                let first = ClientFirst::parse(message)?;
                let user = first.user.clone();
                Ok((Self::Keys(first), Next::FetchKeys(user)))
            }
            Self::Final(challenge) => {
                let proof = challenge.check(message)?;
                let signature = match &proof {
                    Proof::Right(signature) => Some(signature.clone()),
                    Proof::Wrong => None,
                };
                Ok(verify(Credentials::Scram { user: challenge.user().to_owned(), proof }, signature))
            }
            Self::Proven { user } if message.is_empty() => {
                Ok((Self::Proven { user: user.clone() }, Next::Welcome(user)))
            }
            Self::Proven { .. } | Self::Keys(_) | Self::Verifying { .. } => Err(Malformed("nothing more was asked")),
        }
    }
}

fn challenge(message: &str) -> Next {
    Next::Challenge(BASE64_STANDARD.encode(message))
}

// --- The client's side -----------------------------------------------------------------------------------------------

/// The other side of an [`Exchange`]: whoever logs in elsewhere.
pub enum Prover {
    /// LOGIN: the server is about to ask for the name, then for the password.
    #[expect(missing_docs, reason = "the names say it")]
    Login { user: String, secret: Vec<u8> },
    /// LOGIN: the password is asked for.
    #[expect(missing_docs, reason = "the name says it")]
    Password { secret: Vec<u8> },
    /// SCRAM: the server is about to challenge us.
    #[expect(missing_docs, reason = "the names of RFC 5802 §3 say it")]
    Scram { secret: Vec<u8>, bare: String, nonce: String },
    /// SCRAM: the server must prove that it knows the password too, and this is how.
    Verifier(String),
    /// There is nothing more to say; the server has the word.
    Done,
}

impl std::fmt::Debug for Prover {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Login { .. } => "Login",
            Self::Password { .. } => "Password",
            Self::Scram { .. } => "Scram",
            Self::Verifier(_) => "Verifier",
            Self::Done => "Done",
        })
    }
}

impl Prover {
    /// Begins, with a first message if the mechanism has the client begin. `nonce` is printable, without comma, and never the same twice.
    pub fn begin(mechanism: Mechanism, user: &str, secret: &[u8], nonce: &str) -> (Self, Option<Vec<u8>>) {
        let secret = secret.to_vec();
        match mechanism {
            Mechanism::Plain => (Self::Done, Some([b"\0", user.as_bytes(), b"\0", &secret].concat())),
            Mechanism::Login => (Self::Login { user: user.to_owned(), secret }, None),
            Mechanism::ScramSha256 => {
                // RFC 5802 §5.1: what would end the name is written otherwise.
                let user = prepare(user).replace('=', "=3D").replace(',', "=2C");
                let bare = format!("n={user},r={nonce}");
                let first = format!("n,,{bare}");
                (Self::Scram { secret, bare, nonce: nonce.to_owned() }, Some(first.into_bytes()))
            }
        }
    }

    /// The server's next message; our answer.
    ///
    /// # Errors
    /// It is not of the mechanism's form, or the server does not know the password: whoever it is, it is not who we look for.
    pub fn on_challenge(self, challenge: &[u8]) -> Result<(Self, Vec<u8>), Malformed> {
        match self {
            // It asks `Username:` and `Password:`, more or less; nobody has ever written down what.
            Self::Login { user, secret } => Ok((Self::Password { secret }, user.into_bytes())),
            Self::Password { secret } => Ok((Self::Done, secret)),
            Self::Scram { secret, bare, nonce } => {
                let ServerFirst { text, nonce, salt, rounds } = ServerFirst::parse(challenge, &nonce)?;
                // RFC 5802 §3: ClientProof := ClientKey XOR HMAC(StoredKey, AuthMessage). `biws` is `n,,`: no channel binding.
                let salted = salted(&secret, &salt, rounds);
                let client_key = hmac(&salted, b"Client Key");
                let without_proof = format!("c=biws,r={nonce}");
                let all = format!("{bare},{text},{without_proof}");
                let signature = hmac(&sha256(&client_key), all.as_bytes());
                let proof: Vec<u8> = client_key.iter().zip(signature).map(|(key, signature)| key ^ signature).collect();
                let verifier = BASE64_STANDARD.encode(hmac(&hmac(&salted, b"Server Key"), all.as_bytes()));
                let answer = format!("{without_proof},p={}", BASE64_STANDARD.encode(proof));
                Ok((Self::Verifier(format!("v={verifier}")), answer.into_bytes()))
            }
            Self::Verifier(right) => {
                // §7: extensions may follow behind a comma; base64 has none.
                if challenge.split(|octet| *octet == b',').next() != Some(right.as_bytes()) {
                    return Err(Malformed("it does not know the password that it asks for"));
                }
                Ok((Self::Done, vec![]))
            }
            Self::Done => Err(Malformed("it asks for more than the mechanism has")),
        }
    }

    /// Whether the server may say now that we are welcome: all was said, and it has proven what it had to.
    pub fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

/// The server's first message.
struct ServerFirst<'a> {
    text: &'a str,
    nonce: &'a str,
    salt: Vec<u8>,
    rounds: NonZeroU32,
}

impl<'a> ServerFirst<'a> {
    /// RFC 5802 §7: `"r=" nonce ",s=" salt ",i=" rounds`, perhaps with extensions behind. `ours` is our half of the nonce.
    fn parse(message: &'a [u8], ours: &str) -> Result<Self, Malformed> {
        const FORM: Malformed = Malformed("its challenge is not r=NONCE,s=SALT,i=ROUNDS");
        let text = str::from_utf8(message).map_err(|_| FORM)?;
        let mut attributes = text.split(',');
        let mut attribute = |key| attributes.next().and_then(|part| part.strip_prefix(key)).ok_or(FORM);
        let (nonce, salt, rounds) = (attribute("r=")?, attribute("s=")?, attribute("i=")?);
        // §5.1: without both halves it could be the answer to somebody else.
        if nonce.strip_prefix(ours).is_none_or(str::is_empty) {
            return Err(Malformed("its nonce does not go on from ours"));
        }
        let salt = BASE64_STANDARD.decode(salt).map_err(|_| FORM)?;
        let rounds: NonZeroU32 = rounds.parse().map_err(|_| FORM)?;
        // RFC 7677 §4: fewer would make guessing easy for whoever reads along. More would keep us busy for long.
        if !(ROUNDS.get()..=ROUNDS_MAX).contains(&rounds.get()) {
            return Err(Malformed("it asks for fewer than 4,096 rounds, or more than a million"));
        }
        Ok(Self { text, nonce, salt, rounds })
    }
}

// --- Names and passwords that are not ASCII --------------------------------------------------------------------------

/// RFC 4013 (SASLprep): one form for a name or a password that keyboards and systems write in several, as one character or as a letter and
/// its accent.
///
/// Deviates: what must not be there (§2.3, §2.4), or was not known to Unicode 3.2 (§2.5), is no error but stays as it is, and is compared
/// octet by octet. Who has a smiley in his password can log in, and nothing is refused that was taken before.
pub fn prepare(text: &str) -> Cow<'_, str> {
    // A name of nothing but soft hyphens must not become none.
    saslprep(text).ok().filter(|prepared| !prepared.is_empty()).unwrap_or(Cow::Borrowed(text))
}

/// The same for a password, which may be no text at all.
pub fn prepare_secret(secret: &[u8]) -> Cow<'_, [u8]> {
    match str::from_utf8(secret).map(prepare) {
        Ok(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        Ok(Cow::Borrowed(_)) | Err(_) => Cow::Borrowed(secret),
    }
}

// --- PLAIN -----------------------------------------------------------------------------------------------------------

/// The message of PLAIN.
#[derive(Clone, PartialEq, Eq)]
pub struct Plain {
    /// Who it says to be.
    pub user: String,
    /// The password.
    pub secret: Vec<u8>,
}

/// RFC 4616 §2: `[authzid] NUL authcid NUL passwd`. To act for somebody else is not offered, so authzid is empty or the same.
///
/// # Errors
/// The message has another form.
pub fn plain(message: &[u8]) -> Result<Plain, Malformed> {
    let parts: Vec<&[u8]> = message.split(|octet| *octet == 0).collect();
    let [authzid, user, secret] = parts[..] else {
        return Err(Malformed("PLAIN is NUL, user, NUL, password, in base64"));
    };
    if !authzid.is_empty() && authzid != user {
        return Err(Malformed("nobody may act for somebody else here"));
    }
    // RFC 4616 §2: the server prepares both before it compares them. Whoever verifies the password does that for it.
    let user = prepare(str::from_utf8(user).map_err(|_| Malformed("the user's name is not UTF-8"))?).into_owned();
    if user.is_empty() || secret.is_empty() {
        return Err(Malformed("PLAIN has a user and a password, and neither is empty"));
    }
    Ok(Plain { user, secret: secret.to_vec() })
}

// --- SCRAM-SHA-256 ---------------------------------------------------------------------------------------------------

/// RFC 7677 §4: at least 4096 rounds.
pub const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
/// A stored line that asks the client for more is a mistake: clients refuse or hang.
const ROUNDS_MAX: u32 = 1_000_000;
/// What is said before anything is proven.
const NONCE_OCTETS_MAX: usize = 256;

type Hash = [u8; 32];

/// What is stored of a password (RFC 5802 §3): enough to check a proof, not to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    salt: Vec<u8>,
    rounds: NonZeroU32,
    stored: Hash,
    server: Hash,
}

impl ScramKeys {
    /// The keys of a password.
    pub fn derive(secret: &[u8], salt: &[u8], rounds: NonZeroU32) -> Self {
        let salted = salted(secret, salt, rounds);
        let stored = sha256(&hmac(&salted, b"Client Key"));
        Self { salt: salt.to_vec(), rounds, stored, server: hmac(&salted, b"Server Key") }
    }

    /// The keys of another password with the same salt, to compare.
    #[cfg(test)]
    pub(crate) fn of_the_same_salt(&self, secret: &[u8]) -> Self {
        Self::derive(secret, &self.salt, self.rounds)
    }

    /// Keys of nobody's password, which look to a stranger as those of a user would: the same each time.
    pub fn decoy(key: &[u8], user: &str) -> Self {
        let salt = hmac(key, user.as_bytes());
        // Nobody can make a proof that fits a random stored key.
        Self { salt: salt[..16].to_vec(), rounds: ROUNDS, stored: hmac(key, &salt), server: hmac(key, b"server") }
    }

    /// Reads `SCRAM-SHA-256$4096:<salt>$<StoredKey>:<ServerKey>` (nearly the form of RFC 5803, and that of a well-known database).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        const FORM: Malformed = Malformed("is not SCRAM-SHA-256$ROUNDS:SALT$STORED:SERVER");
        let mut parts = text.split('$');
        let (Some("SCRAM-SHA-256"), Some(salt), Some(keys), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(FORM);
        };
        let ((rounds, salt), (stored, server)) = salt.split_once(':').zip(keys.split_once(':')).ok_or(FORM)?;
        let rounds = rounds.parse().ok().filter(|rounds: &NonZeroU32| rounds.get() <= ROUNDS_MAX).ok_or(FORM)?;
        let octets = |text| BASE64_STANDARD.decode(text).map_err(|_| FORM);
        let hash = |text| Hash::try_from(octets(text)?).map_err(|_| FORM);
        Ok(Self { salt: octets(salt)?, rounds, stored: hash(stored)?, server: hash(server)? })
    }
}

impl std::fmt::Display for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |octets: &[u8]| BASE64_STANDARD.encode(octets);
        let (salt, stored, server) = (text(&self.salt), text(&self.stored), text(&self.server));
        write!(f, "SCRAM-SHA-256${}:{salt}${stored}:{server}", self.rounds)
    }
}

impl std::fmt::Debug for ScramKeys {
    /// Without the keys: this may end up in a log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramKeys").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// RFC 5802 §3: `Hi(Normalize(password), salt, i)`.
fn salted(secret: &[u8], salt: &[u8], rounds: NonZeroU32) -> Hash {
    let mut salted = [0; 32];
    pbkdf2::derive(PBKDF2_HMAC_SHA256, rounds, salt, &prepare_secret(secret), &mut salted);
    salted
}

fn hmac(key: &[u8], message: &[u8]) -> Hash {
    let tag = hmac::sign(&Key::new(HMAC_SHA256, key), message);
    tag.as_ref().try_into().expect("HMAC with SHA-256 has 32 octets")
}

fn sha256(octets: &[u8]) -> Hash {
    digest(&SHA256, octets).as_ref().try_into().expect("SHA-256 has 32 octets")
}

/// The client's first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFirst {
    /// Who it says to be.
    pub user: String,
    header: String,
    bare: String,
    nonce: String,
}

impl ClientFirst {
    /// RFC 5802 §7: `gs2-cbind-flag "," [authzid] "," "n=" user ",r=" nonce`.
    ///
    /// # Errors
    /// The message has another form, or asks for what is not offered.
    pub fn parse(message: &[u8]) -> Result<Self, Malformed> {
        const FORM: Malformed = Malformed("SCRAM begins n,,n=USER,r=NONCE");
        let text = str::from_utf8(message).map_err(|_| FORM)?;
        let mut parts = text.splitn(3, ',');
        let (flag, authzid, bare) = (parts.next().ok_or(FORM)?, parts.next().ok_or(FORM)?, parts.next().ok_or(FORM)?);
        match flag {
            // `y`: it would bind to the channel and thinks that we cannot. It is right (§6).
            "n" | "y" => {}
            _ if flag.starts_with("p=") => return Err(Malformed("channel binding is not offered")),
            _ => return Err(FORM),
        }
        // §5.1: an extension that we do not know, and that must be understood.
        if bare.starts_with("m=") {
            return Err(Malformed("no mandatory extension of SCRAM is known here"));
        }
        let mut attributes = bare.split(',');
        let attribute = |part: Option<&str>, key: &str| part.and_then(|p| p.strip_prefix(key).map(str::to_owned));
        let user = attribute(attributes.next(), "n=").and_then(|name| unescape(&name)).ok_or(FORM)?;
        let nonce = attribute(attributes.next(), "r=").ok_or(FORM)?;
        let printable = nonce.bytes().all(|octet| octet.is_ascii_graphic());
        if user.is_empty() || nonce.is_empty() || nonce.len() > NONCE_OCTETS_MAX || !printable {
            return Err(FORM);
        }
        let same = authzid.is_empty() || authzid.strip_prefix("a=").and_then(unescape).as_ref() == Some(&user);
        if !same {
            return Err(Malformed("nobody may act for somebody else here"));
        }
        // §5.1: the client prepares its name; some do not.
        let user = prepare(&user).into_owned();
        Ok(Self { user, header: format!("{flag},{authzid},"), bare: bare.to_owned(), nonce })
    }

    /// What we answer. `nonce` is ours: printable, without comma, and never the same twice.
    pub fn challenge(self, keys: ScramKeys, nonce: &str) -> (Challenge, String) {
        let nonce = format!("{}{nonce}", self.nonce);
        let message = format!("r={nonce},s={},i={}", BASE64_STANDARD.encode(&keys.salt), keys.rounds);
        let so_far = format!("{},{message}", self.bare);
        (Challenge { user: self.user, header: self.header, nonce, so_far, keys }, message)
    }
}

/// §5.1: a comma in a name is `=2C`, an equals sign `=3D`, and no other equals sign may be there.
fn unescape(name: &str) -> Option<String> {
    let plain = name.replace("=2C", ",").replace("=3D", "\0");
    (!plain.contains('=') && !name.contains('\0')).then(|| plain.replace('\0', "="))
}

/// We have challenged the client, and wait for its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    user: String,
    header: String,
    nonce: String,
    so_far: String,
    keys: ScramKeys,
}

/// What the client's proof is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It knows the password. This proves to it that we know it too.
    Right(String),
    /// It does not.
    Wrong,
}

impl Challenge {
    /// Who it says to be.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// RFC 5802 §7: `"c=" channel-binding ",r=" nonce [extensions] ",p=" proof`.
    ///
    /// # Errors
    /// The message has another form, or does not belong to this exchange.
    pub fn check(&self, message: &[u8]) -> Result<Proof, Malformed> {
        const FORM: Malformed = Malformed("SCRAM ends c=biws,r=NONCE,p=PROOF");
        let text = str::from_utf8(message).map_err(|_| FORM)?;
        let (without_proof, proof) = text.rsplit_once(",p=").ok_or(FORM)?;
        let mut parts = without_proof.split(',');
        let binding = parts.next().and_then(|part| part.strip_prefix("c=")).ok_or(FORM)?;
        let nonce = parts.next().and_then(|part| part.strip_prefix("r=")).ok_or(FORM)?;
        if BASE64_STANDARD.decode(binding).ok().as_deref() != Some(self.header.as_bytes()) {
            return Err(Malformed("the channel binding is another than at the beginning"));
        }
        if nonce != self.nonce {
            return Err(Malformed("the nonce is another than in the challenge"));
        }
        let proof = BASE64_STANDARD.decode(proof).ok().and_then(|octets| Hash::try_from(octets).ok()).ok_or(FORM)?;
        // §3: ClientKey := ClientProof XOR HMAC(StoredKey, AuthMessage); right if H(ClientKey) is StoredKey. A comparison of
        // hashes that stops at the first difference tells nothing that could be used.
        let all = format!("{},{without_proof}", self.so_far);
        let signature = hmac(&self.keys.stored, all.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(signature).map(|(proof, signature)| proof ^ signature).collect();
        if sha256(&client_key) != self.keys.stored {
            return Ok(Proof::Wrong);
        }
        Ok(Proof::Right(format!("v={}", BASE64_STANDARD.encode(hmac(&self.keys.server, all.as_bytes())))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_is_taken_apart() {
        let right = |message: &[u8]| plain(message).map(|plain| (plain.user, plain.secret));
        assert_eq!(right(b"\0bob\0hungry"), Ok(("bob".to_owned(), b"hungry".to_vec())));
        assert_eq!(right(b"bob\0bob\0h\xff"), Ok(("bob".to_owned(), b"h\xff".to_vec())));
        for wrong in [
            &b""[..],
            b"bob",
            b"bob\0hungry",
            b"\0bob\0hungry\0",
            b"alice\0bob\0hungry",
            b"\0\0x",
            b"\0bob\0",
            b"\0\xff\0x",
        ] {
            assert!(plain(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn names_and_passwords_are_prepared_as_rfc_4013_wants_and_what_cannot_be_stays() {
        for (text, prepared) in [
            // The table of §3.
            ("I\u{ad}X", "IX"),
            ("user", "user"),
            ("USER", "USER"),
            ("\u{aa}", "a"),
            ("\u{2168}", "IX"),
            ("\u{7}", "\u{7}"),
            ("\u{627}1", "\u{627}1"),
            // A space of another kind; a name that would be empty; what Unicode 3.2 did not know.
            ("a\u{a0}b", "a b"),
            ("\u{ad}", "\u{ad}"),
            ("\u{1f600}", "\u{1f600}"),
        ] {
            assert_eq!(prepare(text), prepared, "{text:?}");
            assert_eq!(*prepare_secret(text.as_bytes()), *prepared.as_bytes());
        }
        assert_eq!(*prepare_secret(b"h\xff"), *b"h\xff");
        let of = |secret: &str| ScramKeys::derive(secret.as_bytes(), b"salt", ROUNDS);
        assert_eq!(of("h\u{e5}ll"), of("ha\u{30a}ll"));
        assert_eq!(plain("\0ha\u{30a}ll\0x".as_bytes()).unwrap().user, "h\u{e5}ll");
        assert_eq!(ClientFirst::parse("n,,n=ha\u{30a}ll,r=x".as_bytes()).unwrap().user, "h\u{e5}ll");
    }

    /// The example of RFC 7677 §3.
    fn example() -> (ClientFirst, ScramKeys) {
        let first = ClientFirst::parse(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO").unwrap();
        let salt = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        (first, ScramKeys::derive(b"pencil", &salt, ROUNDS))
    }

    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

    #[test]
    fn the_example_of_the_rfc_is_played_to_the_octet() {
        let (first, keys) = example();
        assert_eq!(first.user, "user");
        let (challenge, message) = first.challenge(keys, SERVER_NONCE);
        let nonce = format!("rOprNGfwEbeRWgbNEkqO{SERVER_NONCE}");
        assert_eq!(message, format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"));
        let answer = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        let want = Proof::Right("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned());
        assert_eq!(challenge.check(answer.as_bytes()), Ok(want));
        let wrong = answer.replace("p=dH", "p=aH");
        assert_eq!(challenge.check(wrong.as_bytes()), Ok(Proof::Wrong));
        for malformed in [
            answer.replace("c=biws", "c=eSws"),
            answer.replace("r=rO", "r=rX"),
            answer.replace("p=dHz", "p=d"),
            answer.replace(",p=", ",q="),
            String::new(),
        ] {
            assert!(challenge.check(malformed.as_bytes()).is_err(), "{malformed}");
        }
    }

    #[test]
    fn the_client_plays_the_example_of_the_rfc_and_believes_only_a_server_that_knows_the_password() {
        let ours = "rOprNGfwEbeRWgbNEkqO";
        let begin = || {
            let (prover, first) = Prover::begin(Mechanism::ScramSha256, "user", b"pencil", ours);
            assert_eq!(first.as_deref(), Some(&b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"[..]));
            prover
        };
        let challenge = format!("r={ours}{SERVER_NONCE},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
        let (prover, answer) = begin().on_challenge(challenge.as_bytes()).unwrap();
        let want = format!("c=biws,r={ours}{SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(String::from_utf8(answer).unwrap(), want);
        assert!(!prover.is_done());
        let (prover, answer) = prover.on_challenge(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=").unwrap();
        assert!(prover.is_done() && answer.is_empty());
        for wrong in [
            challenge.replace("i=4096", "i=4095"),
            challenge.replace("i=4096", "i=1000001"),
            challenge.replace(SERVER_NONCE, ""),
            challenge.replace("r=r", "r=R"),
            challenge.replace(",s=", ",t="),
            format!("m=1,{challenge}"),
            String::new(),
        ] {
            assert!(begin().on_challenge(wrong.as_bytes()).is_err(), "{wrong}");
        }
        for wrong in ["v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=", "v=", "e=invalid-proof", ""] {
            let (prover, _) = begin().on_challenge(challenge.as_bytes()).unwrap();
            assert!(prover.on_challenge(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_client_and_the_server_understand_each_other_whatever_the_name_is() {
        for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256] {
            let (user, secret) = ("a=b,c", b"h\xc3\xa5ll,=");
            let keys = ScramKeys::derive(secret, b"salt", ROUNDS);
            let (mut prover, initial) = Prover::begin(mechanism, user, secret, "ours");
            let (mut exchange, mut next) = Exchange::begin(mechanism, initial.as_deref()).unwrap();
            let welcome = loop {
                (exchange, next) = match next {
                    Next::Challenge(challenge) => {
                        let (then, answer) = prover.on_challenge(&decode(challenge.as_bytes()).unwrap()).unwrap();
                        prover = then;
                        exchange.on_line(BASE64_STANDARD.encode(answer).as_bytes()).unwrap()
                    }
                    Next::FetchKeys(_) => {
                        exchange.on_answer(Answer::Keys { keys: keys.clone(), nonce: "theirs".to_owned() }).unwrap()
                    }
                    Next::Verify(Credentials::Password { user, secret: said }) => {
                        assert_eq!((user.as_str(), &*said), ("a=b,c", &secret[..]));
                        exchange.on_answer(Answer::Welcome).unwrap()
                    }
                    Next::Verify(Credentials::Scram { proof, .. }) => {
                        assert_ne!(proof, Proof::Wrong);
                        exchange.on_answer(Answer::Welcome).unwrap()
                    }
                    Next::Welcome(user) => break user,
                };
            };
            assert!(prover.is_done() && welcome == user, "{mechanism:?}");
        }
    }

    #[test]
    fn an_exchange_ends_with_the_reason_and_an_answer_to_no_question_is_our_own_mistake() {
        let begin = || Exchange::begin(Mechanism::Plain, None).unwrap().0;
        let asked = || begin().on_line(b"AGJvYgBodW5ncnk=").unwrap().0;
        let wait = Duration::from_secs(3);
        for (ended, because) in [
            (begin().on_line(b"*"), Refusal::Cancelled),
            (begin().on_line(b"A GJ"), Refusal::NotBase64),
            (begin().on_line(b"YQ"), Refusal::NotBase64),
            (begin().on_line(b""), Refusal::Malformed(Malformed("PLAIN is NUL, user, NUL, password, in base64"))),
            (begin().on_answer(Answer::Welcome), Refusal::CannotTell),
            (asked().on_answer(Answer::Denied), Refusal::Denied),
            (asked().on_answer(Answer::TooSoon(wait)), Refusal::TooSoon(wait)),
            (asked().on_answer(Answer::CannotTell), Refusal::CannotTell),
            (asked().on_line(b""), Refusal::Malformed(Malformed("nothing more was asked"))),
        ] {
            assert_eq!(ended.map(|(_, next)| next), Err(because));
        }
        assert_eq!(asked().on_answer(Answer::Welcome).unwrap().1, Next::Welcome("bob".to_owned()));
    }

    #[test]
    fn mechanisms_that_tell_the_password_are_offered_where_it_may_be_said() {
        let offered = [Mechanism::Plain, Mechanism::ScramSha256];
        assert_eq!(Mechanism::called(b"plain", &offered), Some(Mechanism::Plain));
        assert_eq!(Mechanism::called(b"LOGIN", &offered), None);
        for (plaintext, channel, names) in [
            (Plaintext::Allowed, Channel::Clear, "PLAIN SCRAM-SHA-256"),
            (Plaintext::OverTls, Channel::Encrypted, "PLAIN SCRAM-SHA-256"),
            (Plaintext::OverTls, Channel::Clear, "SCRAM-SHA-256"),
        ] {
            assert_eq!(usable(&offered, plaintext, channel), names);
        }
        assert_eq!(initial_response(b"="), Some(vec![]));
        assert_eq!(initial_response(b"=="), None);
    }

    #[test]
    fn first_messages_are_checked() {
        let user = |message: &str| ClientFirst::parse(message.as_bytes()).map(|first| first.user);
        for (message, name) in
            [("y,,n=bob,r=x", "bob"), ("n,a=bob,n=bob,r=x,e=1", "bob"), ("n,,n=a=2Cb=3Dc,r=x", "a,b=c")]
        {
            assert_eq!(user(message).as_deref(), Ok(name), "{message}");
        }
        for wrong in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=bob",
            "n,,n=,r=x",
            "n,,n=bob,r=",
            "x,,n=bob,r=x",
            "n,a=alice,n=bob,r=x",
            "n,,n=a=b,r=x",
            "n,,m=1,n=bob,r=x",
            "p=tls-unique,,n=bob,r=x",
            "n,,r=x,n=bob",
            "n,,n=bob,r=a b",
        ] {
            assert!(user(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_a_decoy_stays_the_same() {
        let (_, keys) = example();
        assert_eq!(ScramKeys::parse(&keys.to_string()), Ok(keys.clone()));
        let text = keys.to_string();
        for wrong in [
            "",
            "SCRAM-SHA-256$",
            "SCRAM-SHA-1$4096:AA==$AA==:AA==",
            &text[..text.len() - 4],
            &text.replace("4096", "0"),
        ] {
            assert!(ScramKeys::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ScramKeys::decoy(b"key", "bob"), ScramKeys::decoy(b"key", "bob"));
        assert_ne!(ScramKeys::decoy(b"key", "bob").salt, ScramKeys::decoy(b"key", "eve").salt);
        assert!(!format!("{keys:?}").contains(&BASE64_STANDARD.encode(keys.stored)));
    }
}
