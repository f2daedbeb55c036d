//! Who may log in.
//!
//! ```toml
//! [alice]
//! password = "$argon2id$v=19$m=19456,t=2,p=1$..."
//! ```
//!
//! A guess costs the guesser more than us:
//!
//! ```text
//!   verify(user, secret, peer, now)
//!     1. the peer has guessed wrong and must wait  -> TooSoon       nothing is computed
//!     2. the same secret was right a moment ago    -> Welcome       a keyed hash, some microseconds
//!     3. argon2id, also when there is no such user -> Welcome       19 MiB and some 20 ms, one at a time on each core
//!                                                  -> Denied        and the peer's next pause is twice as long
//! ```
//!
//! Each account is a table, so that secrets of other kinds stand beside `password`: `scram_sha_256` and `apop_secret`, for ways
//! to log in that keep the password off the wire. They cost little to check, so [`Accounts::judge`] has no part 2 and 3.

use crate::{
    admin::Directory,
    current::Current,
    listener::site,
    sasl::{ROUNDS, ScramKeys, prepare, prepare_secret},
    units::Span,
};
use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// The `[accounts]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The file with the accounts. Without one nobody can log in.
    pub file: Option<PathBuf>,
    /// How long a password that was right is remembered (as a keyed hash, in memory only), so that a mail reader that
    /// looks every minute costs microseconds. `"0 s"` remembers nothing.
    pub remember: Span,
    /// How long a client's address waits after a wrong password, at most: 1 s after the first, then twice as long each time. Some 5,000
    /// guesses a day are left with 16 s. `"0 s"` slows nobody down.
    pub pause_max: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self { file: None, remember: Span::secs(60), pause_max: PAUSE_MAX }
    }
}

/// An accounts file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// It cannot be read.
    #[error("{}: cannot read the accounts: {source}{}", path.display(), cure(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It can be read but not understood.
    #[error("{}:{line}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there and what would be right.
        problem: String,
    },
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; make the file with `tomte user add NAME`, or leave `accounts.file` out",
        io::ErrorKind::PermissionDenied => "; let the daemon's user read it (chgrp, chmod g+r), and nobody else",
        _ => "",
    }
}

/// What [`Accounts::verify`] found. The daemon tells the peer as little as possible, the log why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is who it says.
    Welcome,
    /// It is not. The peer must not learn which of the two it was.
    Denied {
        /// For the log.
        because: Because,
        /// Answer after this time; until then every attempt of the same peer is `TooSoon`.
        pause: Duration,
    },
    /// The peer has guessed wrong before and must wait; the secret was not even looked at.
    TooSoon {
        /// How long.
        wait: Duration,
    },
    /// We failed (no memory for the hash). The peer hears its protocol's temporary failure.
    CannotTell,
}

/// Why somebody was denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// There is no such account.
    UnknownUser,
    /// There is, but the secret is another.
    WrongSecret,
}

/// The accounts, and what is known about those who try them.
pub struct Accounts {
    config: Config,
    book: Current<Book>,
    remembered: Remembered,
    patience: Mutex<Patience>,
    /// Argon2 wants memory and a core to itself: more at once would only be slower, for all.
    cores: Semaphore,
}

impl fmt::Debug for Accounts {
    /// Without names and hashes: this may end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounts").field("users", &self.book().users.len()).finish_non_exhaustive()
    }
}

impl Accounts {
    /// The accounts of `config.file`.
    ///
    /// # Errors
    /// The file cannot be read or understood; file and line are named.
    pub fn load(config: &Config) -> Result<Self, AccountsError> {
        let book = Book::load(config)?;
        Ok(Self {
            config: config.clone(),
            book: Current::new(book),
            remembered: Remembered::new(config.remember.0),
            patience: Mutex::new(Patience::new(config.pause_max.0)),
            cores: Semaphore::new(available_parallelism().map_or(1, Into::into)),
        })
    }

    /// Nobody can log in.
    pub fn none() -> Self {
        Self::load(&Config::default()).expect("without a file there is nothing that could be wrong")
    }

    /// Reads the file again, and forgets what was remembered. When it is wrong, the old accounts stay.
    ///
    /// # Errors
    /// As [`Accounts::load`].
    pub fn reload(&self) -> Result<(), AccountsError> {
        self.book.set(Book::load(&self.config)?);
        self.remembered.forget_all();
        Ok(())
    }

    /// Has their file, if there is one, read anew when the admin socket is asked to: `/reload?daemon=accounts`.
    pub fn on_reload(self: &Arc<Self>, directory: &Directory, host: &str) {
        if self.config.file.is_none() {
            return;
        }
        let accounts = Arc::clone(self);
        directory
            .on_reload("accounts", host, move || accounts.reload().map(|()| vec![]).map_err(|error| error.to_string()));
    }

    /// Whether `secret` is the password of `user`. `peer` is slowed down when it is not. `now` comes from the caller, as
    /// all time does.
    pub async fn verify(&self, user: &str, secret: &[u8], peer: IpAddr, now: Instant) -> Verdict {
        // The pause comes before all else, or the memory of right passwords could be asked as fast as the wire allows.
        if let Err(wait) = self.patience().admit(peer, now) {
            return Verdict::TooSoon { wait };
        }
        // Gives the attempt back even when the session ends while argon2 is at work.
        let _attempt = Attempt { accounts: self, peer };
        // Not every way to log in knows of RFC 4013, and names and passwords come from keyboards.
        let (user, secret) = (&*prepare(user), &*prepare_secret(secret));
        let book = self.book();
        let stored = book.users.get(user);
        if let Some(stored) = stored
            && self.remembered.knows(user, stored, secret, now)
        {
            return Verdict::Welcome;
        }
        // An unknown user costs as much time as the costliest known one, so that time does not tell who exists.
        let hash = stored.unwrap_or(&book.decoy).clone();
        match self.argon2(hash, secret.to_vec()).await {
            Ok(Match::Right) if let Some(stored) = stored => {
                self.remembered.keep(user, stored, secret, now);
                Verdict::Welcome
            }
            Ok(_) => {
                let because = if stored.is_some() { Because::WrongSecret } else { Because::UnknownUser };
                Verdict::Denied { because, pause: self.patience().failed(peer, now) }
            }
            Err(problem) => {
                tracing::error!(user, problem, "cannot verify a password");
                Verdict::CannotTell
            }
        }
    }

    /// Whether `proof` shows that the peer knows the secret of `user`, for ways to log in that cost little to check. It gets the
    /// account's clear secret, if there is one. The peer is slowed down as by [`Accounts::verify`].
    pub fn judge(&self, user: &str, peer: IpAddr, now: Instant, proof: impl FnOnce(Option<&str>) -> bool) -> Verdict {
        if let Err(wait) = self.patience().admit(peer, now) {
            return Verdict::TooSoon { wait };
        }
        let _attempt = Attempt { accounts: self, peer };
        let book = self.book();
        if proof(book.secrets.get(user).and_then(|secrets| secrets.clear.as_deref())) {
            return Verdict::Welcome;
        }
        let because = if book.users.contains_key(user) { Because::WrongSecret } else { Because::UnknownUser };
        Verdict::Denied { because, pause: self.patience().failed(peer, now) }
    }

    /// What a proof of SCRAM-SHA-256 is checked with. An account without keys, and one that does not exist, have such that
    /// fit no password: the peer must not learn who is there.
    pub fn scram(&self, user: &str) -> ScramKeys {
        let keys = self.book().secrets.get(user).and_then(|secrets| secrets.scram.clone());
        keys.unwrap_or_else(|| ScramKeys::decoy(&self.remembered.key, user))
    }

    /// Whether there is such an account. Mail for it can be taken; whoever asks over the wire learns it by trying.
    pub fn has(&self, user: &str) -> bool {
        self.book().users.contains_key(user)
    }

    /// Whether anybody can log in by APOP.
    pub fn has_clear_secrets(&self) -> bool {
        self.book().secrets.values().any(|secrets| secrets.clear.is_some())
    }

    /// How long this peer has to wait before its next attempt is looked at, if it has to.
    pub fn wait(&self, peer: IpAddr, now: Instant) -> Option<Duration> {
        let wait = self.patience().admit(peer, now).err();
        if wait.is_none() {
            self.patience().done(peer);
        }
        wait
    }

    async fn argon2(&self, stored: PasswordHash, secret: Vec<u8>) -> Result<Match, String> {
        let _core = self.cores.acquire().await.map_err(|closed| closed.to_string())?;
        let compute = move || match Argon2::default().verify_password(&secret, &stored) {
            Ok(()) => Ok(Match::Right),
            Err(argon2::password_hash::Error::PasswordInvalid) => Ok(Match::Wrong),
            Err(other) => Err(other.to_string()),
        };
        tokio::task::spawn_blocking(compute).await.map_err(|died| died.to_string())?
    }

    fn book(&self) -> Arc<Book> {
        self.book.get()
    }

    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text for the `password` key: argon2id with a fresh salt and the parameters that OWASP recommends (19 MiB, 2 rounds).
///
/// # Errors
/// No memory or no randomness.
pub fn hash(secret: &[u8]) -> io::Result<String> {
    Argon2::default().hash_password(&prepare_secret(secret)).map(|hash| hash.to_string()).map_err(io::Error::other)
}

/// What an account can have beside the hash of its password, for ways to log in that keep the password off the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds {
    /// Keys for SCRAM-SHA-256. As the hash, they do not let anybody in; they are quicker to guess from.
    pub scram: bool,
    /// The password itself: APOP cannot do without.
    pub clear: bool,
}

/// The keys of an account's table in the file, and their values.
///
/// # Errors
/// No memory, no randomness, or a password in clear that is no text.
pub fn entries(secret: &str, kinds: Kinds) -> io::Result<Vec<(&'static str, String)>> {
    let mut entries = vec![("password", hash(secret.as_bytes())?)];
    if kinds.clear {
        entries.push(("apop_secret", secret.to_owned()));
    }
    if kinds.scram {
        let mut salt = [0; 16];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut salt).map_err(|_| io::Error::other("no randomness"))?;
        entries.push(("scram_sha_256", ScramKeys::derive(secret.as_bytes(), &salt, ROUNDS).to_string()));
    }
    Ok(entries)
}

/// Everybody in the text of an accounts file, and what each has: never a secret.
///
/// # Errors
/// The line that is wrong, from 1, and why.
pub fn list(text: &str) -> Result<Vec<(String, Kinds)>, (usize, String)> {
    let kinds = |secrets: Secrets| Kinds { scram: secrets.scram.is_some(), clear: secrets.clear.is_some() };
    Ok(Book::parse(text)?.secrets.into_iter().map(|(name, secrets)| (name, kinds(secrets))).collect())
}

/// The longest name: RFC 5321 §4.5.3.1.1 lets the part of an address before the @ have so many octets.
const NAME_OCTETS_MAX: usize = 64;

/// Whether `name` can be the name of a new account. It is a directory, the part of an address before the @, and what is typed before a
/// colon or a space; so letters and digits of any script will do, and `.`, `-` and `_` between them.
///
/// # Errors
/// The rule that it breaks.
pub fn check_name(name: &str) -> Result<(), String> {
    let is_letter = |letter: char| letter.is_alphanumeric();
    let wrong = |rule: &str| Err(format!("`{}` cannot be the name of an account: {rule}", name.escape_debug()));
    if name.is_empty() || name.len() > NAME_OCTETS_MAX {
        wrong("it has 1 to 64 octets")
    } else if !name.chars().all(|letter| is_letter(letter) || ".-_".contains(letter)) {
        wrong("it has letters and digits, and . - _ between them")
    } else if !name.starts_with(is_letter) || !name.ends_with(is_letter) || name.contains("..") {
        wrong("it begins and ends with a letter or a digit, and has no two dots together")
    } else if name.chars().any(char::is_uppercase) {
        // Mail for BOB and for Bob is bob's.
        wrong("it is written in small letters, for mail to it is, however its sender writes it")
    } else if prepare(name) != name {
        wrong(&format!("write it as `{}` (RFC 4013)", prepare(name)))
    } else {
        Ok(())
    }
}

enum Match {
    Right,
    Wrong,
}

/// An attempt that is being looked at.
struct Attempt<'a> {
    accounts: &'a Accounts,
    peer: IpAddr,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.accounts.patience().done(self.peer);
    }
}

// --- The file --------------------------------------------------------------------------------------------------------

/// One account as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    password: toml::Spanned<String>,
    /// As [`ScramKeys`] are written.
    scram_sha_256: Option<toml::Spanned<String>>,
    /// The password in clear: APOP cannot do without.
    apop_secret: Option<String>,
}

/// What an account has beside its password.
#[derive(Clone)]
struct Secrets {
    scram: Option<ScramKeys>,
    clear: Option<String>,
}

/// The accounts as they are used.
struct Book {
    users: BTreeMap<String, PasswordHash>,
    secrets: BTreeMap<String, Secrets>,
    /// What is computed for a user who does not exist.
    decoy: PasswordHash,
}

/// Of a password that nobody knows, with the parameters of [`hash`].
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$PoaJBX7qA9irGKjaRvMrkw$hj/C8rA4KKAQwKWY5EUhi7q7z0Bg9kiXXwsVL+p9fxc";

/// A hash may ask for this much memory and this many rounds. More would let one line of the file stop the machine.
const KIBIBYTES_MAX: u32 = 256 * 1024;
const ROUNDS_MAX: u32 = 20;

impl Book {
    fn load(config: &Config) -> Result<Self, AccountsError> {
        let Some(path) = config.file.clone() else {
            return Ok(Self { users: BTreeMap::new(), secrets: BTreeMap::new(), decoy: decoy() });
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map_err(|(line, problem)| AccountsError::Invalid { path, line, problem }),
            Err(source) => Err(AccountsError::Unreadable { path, source }),
        }
    }

    /// The accounts in `text`, or the line that is wrong and why.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let line_of = |at: usize| 1 + text.bytes().take(at).filter(|octet| *octet == b'\n').count();
        let accounts: BTreeMap<String, Account> = toml::from_str(text).map_err(|error| {
            let line = line_of(error.span().map_or(0, |span| span.start));
            (
                line,
                format!(
                    "{}; an account is written: [name], and below it password = \"$argon2id$...\"",
                    error.message()
                ),
            )
        })?;
        let (mut users, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        let mut decoy = decoy();
        for (name, account) in accounts {
            let name = prepare(&name).into_owned();
            let line = line_of(account.password.span().start);
            if users.contains_key(&name) {
                return Err((
                    line,
                    format!("[{name}] is there twice, once written in another way; leave one of them out"),
                ));
            }
            // The value itself is never repeated: who wrote a password in clear should not find it in the log too.
            let hash =
                parse_hash(account.password.get_ref()).map_err(|problem| (line, format!("[{name}] {problem}")))?;
            if cost(&hash) > cost(&decoy) {
                decoy = hash.clone();
            }
            let scram = account.scram_sha_256.map(|text| {
                let wrong = |problem| (line_of(text.span().start), format!("[{name}] scram_sha_256 {problem}"));
                ScramKeys::parse(text.get_ref()).map_err(wrong)
            });
            secrets.insert(name.clone(), Secrets { scram: scram.transpose()?, clear: account.apop_secret });
            users.insert(name, hash);
        }
        Ok(Self { users, secrets, decoy })
    }
}

fn decoy() -> PasswordHash {
    PasswordHash::new(DECOY).expect("a constant that is an argon2 hash")
}

fn parse_hash(text: &str) -> Result<PasswordHash, String> {
    let not_a_hash = "password is not an argon2 hash; `tomte user passwd NAME` writes one";
    let hash = PasswordHash::new(text).map_err(|_| not_a_hash.to_owned())?;
    Algorithm::try_from(hash.algorithm.as_str()).map_err(|_| not_a_hash.to_owned())?;
    let params =
        Params::try_from(&hash).map_err(|error| format!("password has parameters that argon2 refuses: {error}"))?;
    if params.m_cost() > KIBIBYTES_MAX || params.t_cost() > ROUNDS_MAX {
        return Err(format!("password asks for more than m={KIBIBYTES_MAX} (KiB) or t={ROUNDS_MAX} (rounds)"));
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(format!("{not_a_hash} (this one was cut short)"));
    }
    Ok(hash)
}

/// How much work it is to verify.
fn cost(hash: &PasswordHash) -> u64 {
    Params::try_from(hash).map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost()))
}

// --- Passwords that were right a moment ago --------------------------------------------------------------------------

/// For each user at most one keyed hash, so the accounts file bounds it.
struct Remembered {
    /// Made at start, kept nowhere: without it the hashes are worth nothing.
    key: [u8; 32],
    span: Duration,
    users: Mutex<HashMap<String, Memory>>,
}

struct Memory {
    tag: [u8; 32],
    /// The stored hash that the secret was checked against: a changed password is not remembered.
    stored: PasswordHash,
    until: Instant,
}

impl Remembered {
    fn new(span: Duration) -> Self {
        let mut key = [0; 32];
        let random = rustls::crypto::ring::default_provider().secure_random;
        random.fill(&mut key).expect("a machine without randomness cannot keep a secret");
        Self { key, span, users: Mutex::default() }
    }

    fn knows(&self, user: &str, stored: &PasswordHash, secret: &[u8], now: Instant) -> bool {
        let users = self.users();
        let Some(memory) = users.get(user) else { return false };
        // A comparison that stops at the first difference tells nothing here: without the key nobody can choose tags.
        now < memory.until && memory.stored == *stored && memory.tag == self.tag(secret)
    }

    fn keep(&self, user: &str, stored: &PasswordHash, secret: &[u8], now: Instant) {
        if self.span > Duration::ZERO {
            let memory = Memory { tag: self.tag(secret), stored: stored.clone(), until: now + self.span };
            self.users().insert(user.to_owned(), memory);
        }
    }

    fn forget_all(&self) {
        self.users().clear();
    }

    /// A keyed hash: argon2 takes a key (RFC 9106 §3.1, parameter K), and with the least memory that it allows it is little
    /// more than some dozens of `BLAKE2b`. So no second hash function is needed.
    fn tag(&self, secret: &[u8]) -> [u8; 32] {
        let least = Params::new(Params::MIN_M_COST, 1, 1, None).expect("the smallest parameters are allowed");
        let keyed = Argon2::new_with_secret(&self.key, Algorithm::Argon2id, Version::V0x13, least)
            .expect("a key of 32 octets is allowed");
        let mut tag = [0; 32];
        keyed
            .hash_password_into(secret, b"remembered", &mut tag)
            .expect("the lengths are constants that argon2 allows");
        tag
    }

    fn users(&self) -> MutexGuard<'_, HashMap<String, Memory>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// --- Peers that guess ------------------------------------------------------------------------------------------------

/// The first wrong guess costs this pause, each further one twice the last, up to the second figure: who mistypes barely notices.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Span = Span::secs(16);
/// A peer's failures are forgotten this long after the last one. A success does not wipe them out: it could be had with
/// the attacker's own account.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(10);
/// Attempts of one peer that may be looked at together. Many people may share one address, but without a limit a guesser
/// would send a thousand guesses before the first is found wrong.
const ATTEMPTS_AT_ONCE: u32 = 16;
/// How many peers are remembered; beyond that, who has been quiet longest is forgotten.
const PEERS_MAX: usize = 10_000;

/// Peers with failures or with attempts under way. Pure: time comes in.
#[derive(Debug)]
struct Patience {
    pause_max: Duration,
    peers: HashMap<IpAddr, Peer>,
}

#[derive(Debug)]
struct Peer {
    failures: u32,
    /// Attempts that are being looked at.
    pending: u32,
    not_before: Instant,
}

impl Patience {
    fn new(pause_max: Duration) -> Self {
        Self { pause_max, peers: HashMap::new() }
    }

    /// Lets an attempt through, or says how long to wait.
    fn admit(&mut self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        let peer = site(peer);
        if !self.peers.contains_key(&peer) {
            self.make_room(now);
        }
        let record = self.peers.entry(peer).or_insert(Peer { failures: 0, pending: 0, not_before: now });
        if now >= record.not_before + FORGOTTEN_AFTER {
            record.failures = 0;
        }
        // Without a failure there is nothing to wait for: `not_before` is then the moment of another attempt, which may have
        // looked at the clock after us.
        if record.failures > 0 && now < record.not_before {
            return Err(record.not_before - now);
        }
        // Who has failed is looked at one attempt at a time.
        let at_once = if record.failures == 0 { ATTEMPTS_AT_ONCE } else { 1 };
        if record.pending >= at_once {
            return Err(PAUSE_FIRST);
        }
        record.pending += 1;
        Ok(())
    }

    /// The attempt was wrong; says how long the pause is.
    fn failed(&mut self, peer: IpAddr, now: Instant) -> Duration {
        let record = self.peers.entry(site(peer)).or_insert(Peer { failures: 0, pending: 0, not_before: now });
        let pause = PAUSE_FIRST.saturating_mul(1 << record.failures.min(16)).min(self.pause_max);
        record.failures = record.failures.saturating_add(1);
        record.not_before = now + pause;
        pause
    }

    /// The attempt is over, whatever came of it.
    fn done(&mut self, peer: IpAddr) {
        let peer = site(peer);
        if let Some(record) = self.peers.get_mut(&peer) {
            record.pending = record.pending.saturating_sub(1);
            if record.pending == 0 && record.failures == 0 {
                self.peers.remove(&peer);
            }
        }
    }

    fn make_room(&mut self, now: Instant) {
        if self.peers.len() < PEERS_MAX {
            return;
        }
        self.peers.retain(|_, record| record.pending > 0 || now < record.not_before + FORGOTTEN_AFTER);
        if self.peers.len() >= PEERS_MAX
            && let Some(quietest) = self.peers.iter().min_by_key(|(_, record)| record.not_before).map(|(peer, _)| *peer)
        {
            self.peers.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    /// A hash that even an unoptimised build computes at once.
    fn cheap_hash(secret: &str) -> String {
        let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
        Argon2::from(params).hash_password(secret.as_bytes()).unwrap().to_string()
    }

    fn accounts_file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn config_of(file: &tempfile::NamedTempFile) -> Config {
        Config { file: Some(file.path().into()), ..Config::default() }
    }

    /// Alice, whose password is `crepes`; even the decoy is cheap.
    fn accounts() -> Accounts {
        let file = accounts_file(&format!("[alice]\npassword = \"{}\"\n", cheap_hash("crepes")));
        let accounts = Accounts::load(&config_of(&file)).unwrap();
        let cheap = PasswordHash::new(&cheap_hash("decoy")).unwrap();
        let users = accounts.book().users.clone();
        accounts.book.set(Book { users, secrets: BTreeMap::new(), decoy: cheap });
        accounts
    }

    fn peer(last: u8) -> IpAddr {
        IpAddr::from([127, 77, 9, last])
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_password_is_the_same_on_every_keyboard_and_so_is_a_name() {
        // The accent as a character of its own, in the file; what is typed has it in one.
        let file =
            accounts_file(&format!("[\"zoe\u{308}\"]\npassword = \"{}\"\n", hash("cre\u{302}pes".as_bytes()).unwrap()));
        let (accounts, now) = (Accounts::load(&config_of(&file)).unwrap(), Instant::now());
        for secret in ["cr\u{ea}pes", "cre\u{302}pes"] {
            assert_eq!(accounts.verify("zo\u{eb}", secret.as_bytes(), peer(1), now).await, Verdict::Welcome);
        }
        assert!(accounts.has("zo\u{eb}"));
    }

    #[tokio::test]
    async fn the_right_password_is_welcome_and_others_are_denied_with_their_reason() {
        let (accounts, now) = (accounts(), Instant::now());
        let table: [(&str, &[u8], Verdict); 6] = [
            ("alice", b"crepes", Verdict::Welcome),
            ("alice", b"Crepes", Verdict::Denied { because: Because::WrongSecret, pause: SECOND }),
            ("alice", b"", Verdict::Denied { because: Because::WrongSecret, pause: SECOND }),
            ("alice", b"\xff\0", Verdict::Denied { because: Because::WrongSecret, pause: SECOND }),
            ("Alice", b"crepes", Verdict::Denied { because: Because::UnknownUser, pause: SECOND }),
            // The decoy's own password opens nothing.
            ("mallory", b"decoy", Verdict::Denied { because: Because::UnknownUser, pause: SECOND }),
        ];
        for (number, (user, secret, want)) in (0..).zip(table) {
            assert_eq!(accounts.verify(user, secret, peer(number), now).await, want, "{user} {secret:?}");
        }
    }

    #[tokio::test]
    async fn a_right_password_is_remembered_for_a_minute_and_only_that_one() {
        let (accounts, now) = (accounts(), Instant::now());
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now).await, Verdict::Welcome);
        // Without a core argon2 would wait for ever: what is answered now is answered from memory.
        accounts.cores.forget_permits(usize::MAX);
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now + SECOND * 59).await, Verdict::Welcome);
        for (secret, after) in [(&b"crepes"[..], 60), (b"hungry", 1)] {
            let verify = accounts.verify("alice", secret, peer(2), now + SECOND * after);
            tokio::select! {
                biased;
                verdict = verify => panic!("{verdict:?} without argon2"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert!(accounts.patience().peers.is_empty(), "attempts given up half-way are given back");
    }

    #[tokio::test]
    async fn a_guessing_peer_waits_even_with_the_right_password_and_others_do_not() {
        let (accounts, now) = (accounts(), Instant::now());
        accounts.verify("alice", b"wrong", peer(1), now).await;
        let half = Duration::from_millis(500);
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now + half).await, Verdict::TooSoon { wait: half });
        assert_eq!(accounts.verify("alice", b"crepes", peer(2), now + half).await, Verdict::Welcome);
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now + SECOND).await, Verdict::Welcome);
    }

    #[test]
    fn proofs_that_cost_little_are_slowed_down_as_well() {
        let hash = cheap_hash("crepes");
        let file = accounts_file(&format!("[alice]\npassword = \"{hash}\"\napop_secret = \"crepes\"\n"));
        let (accounts, now) = (Accounts::load(&config_of(&file)).unwrap(), Instant::now());
        let judge = |user, last, now, right: &str| accounts.judge(user, peer(last), now, |clear| clear == Some(right));
        assert!(accounts.has_clear_secrets());
        assert_eq!(judge("alice", 1, now, "crepes"), Verdict::Welcome);
        assert_eq!(judge("alice", 1, now, "x"), Verdict::Denied { because: Because::WrongSecret, pause: SECOND });
        assert_eq!((accounts.wait(peer(1), now), accounts.wait(peer(2), now)), (Some(SECOND), None));
        assert_eq!(judge("alice", 1, now, "crepes"), Verdict::TooSoon { wait: SECOND });
        assert_eq!(judge("mallory", 2, now, "x"), Verdict::Denied { because: Because::UnknownUser, pause: SECOND });
        assert!(accounts.scram("alice") == accounts.scram("alice") && accounts.scram("alice") != accounts.scram("eve"));
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_are_forgotten_after_a_time() {
        let (mut patience, mut now) = (Patience::new(PAUSE_MAX.0), Instant::now());
        for seconds in [1, 2, 4, 8, 16, 16, 16] {
            assert_eq!(patience.admit(peer(1), now), Ok(()));
            assert_eq!(patience.failed(peer(1), now), SECOND * seconds);
            patience.done(peer(1));
            assert_eq!(patience.admit(peer(1), now), Err(SECOND * seconds));
            now += SECOND * seconds;
        }
        now += FORGOTTEN_AFTER;
        assert_eq!(patience.admit(peer(1), now), Ok(()));
        assert_eq!(patience.failed(peer(1), now), SECOND);
        // Where everybody has one address, as in the lab, it can be less.
        let mut short = Patience::new(SECOND);
        assert_eq!([short.failed(peer(1), now), short.failed(peer(1), now)], [SECOND, SECOND]);
        let mut none = Patience::new(Duration::ZERO);
        assert_eq!((none.failed(peer(1), now), none.admit(peer(1), now)), (Duration::ZERO, Ok(())));
    }

    #[test]
    fn attempts_that_looked_at_the_clock_in_another_order_are_not_in_each_others_way() {
        let (mut patience, now) = (Patience::new(PAUSE_MAX.0), Instant::now());
        assert_eq!(patience.admit(peer(1), now + Duration::from_micros(5)), Ok(()));
        assert_eq!(patience.admit(peer(1), now), Ok(()));
    }

    #[test]
    fn guesses_sent_together_are_not_looked_at_together() {
        let (mut patience, now) = (Patience::new(PAUSE_MAX.0), Instant::now());
        for _ in 0..ATTEMPTS_AT_ONCE {
            assert_eq!(patience.admit(peer(1), now), Ok(()));
        }
        assert_eq!(patience.admit(peer(1), now), Err(PAUSE_FIRST));
        patience.failed(peer(1), now);
        for _ in 0..ATTEMPTS_AT_ONCE {
            patience.done(peer(1));
        }
        assert_eq!(patience.admit(peer(1), now + SECOND), Ok(()));
        assert_eq!(patience.admit(peer(1), now + SECOND), Err(PAUSE_FIRST));
    }

    #[test]
    fn one_customer_of_an_ipv6_network_is_one_peer() {
        let (mut patience, now) = (Patience::new(PAUSE_MAX.0), Instant::now());
        let [one, neighbour, other]: [IpAddr; 3] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|address| address.parse().unwrap());
        patience.failed(one, now);
        assert_eq!(patience.admit(neighbour, now), Err(SECOND));
        assert_eq!(patience.admit(other, now), Ok(()));
    }

    #[test]
    fn the_table_of_peers_is_bounded() {
        let (mut patience, now) = (Patience::new(PAUSE_MAX.0), Instant::now());
        for number in 0..PEERS_MAX as u32 + 100 {
            let peer = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            assert_eq!(patience.admit(peer, now), Ok(()));
            patience.failed(peer, now);
            patience.done(peer);
        }
        assert_eq!(patience.peers.len(), PEERS_MAX);
    }

    #[test]
    fn errors_name_file_and_line_and_never_the_secret() {
        let good = cheap_hash("x");
        let greedy = good.replace("m=8,", "m=999999,");
        let table = [
            ("[alice]\npassword = \"letmein\"\n".to_owned(), ":2: [alice] password is not an argon2 hash"),
            (format!("[a]\npassword = \"{good}\"\n\n[b]\npasswort = \"letmein\"\n"), ":5: unknown field `passwort`"),
            ("[alice]\n".to_owned(), ":1: missing field `password`"),
            ("\n\n[alice\n".to_owned(), ":3: "),
            (format!("[alice]\npassword = \"{greedy}\"\n"), ":2: [alice] password asks for more than"),
            ("[alice]\npassword = \"$argon2id$v=19$m=8,t=1,p=1\"\n".to_owned(), ":2: [alice] password is not"),
            ("[alice]\npassword = \"$scrypt$ln=4$letmein\"\n".to_owned(), ":2: [alice] password is not"),
            (
                format!("[a]\npassword = \"{good}\"\nscram_sha_256 = \"letmein\"\n"),
                ":3: [a] scram_sha_256 is not SCRAM",
            ),
        ];
        for (text, want) in table {
            let file = accounts_file(&text);
            let message = Accounts::load(&config_of(&file)).unwrap_err().to_string();
            let place = file.path().display().to_string();
            assert!(message.starts_with(&place) && message.contains(want), "{message}\nwanted {want}");
            assert!(!message.contains("letmein"), "{message}");
        }
        let missing = Config { file: Some("/nowhere/accounts.toml".into()), ..Config::default() };
        let message = Accounts::load(&missing).unwrap_err().to_string();
        assert!(message.contains("/nowhere/accounts.toml") && message.contains("tomte user add"), "{message}");
    }

    #[tokio::test]
    async fn a_reload_takes_effect_at_once_and_a_wrong_file_changes_nothing() {
        let file = accounts_file(&format!("[alice]\npassword = \"{}\"\n", cheap_hash("crepes")));
        let (accounts, now) = (Accounts::load(&config_of(&file)).unwrap(), Instant::now());
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now).await, Verdict::Welcome);
        std::fs::write(file.path(), "[alice\n").unwrap();
        assert!(accounts.reload().is_err());
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now).await, Verdict::Welcome);
        std::fs::write(file.path(), format!("[alice]\npassword = \"{}\"\n", cheap_hash("baguette"))).unwrap();
        accounts.reload().unwrap();
        let denied = Verdict::Denied { because: Because::WrongSecret, pause: SECOND };
        assert_eq!(accounts.verify("alice", b"crepes", peer(1), now).await, denied);
        assert_eq!(accounts.verify("alice", b"baguette", peer(2), now).await, Verdict::Welcome);
    }

    #[test]
    fn debug_output_holds_no_hash() {
        assert_eq!(format!("{:?}", accounts()), "Accounts { users: 1, .. }");
    }

    #[test]
    fn what_hash_writes_is_understood_and_as_costly_as_the_decoy() {
        let hash = hash(b"crepes").unwrap();
        assert_eq!(cost(&parse_hash(&hash).unwrap()), cost(&decoy()));
    }

    #[test]
    fn an_entry_has_what_was_asked_for_and_a_list_tells_it_without_the_secret() {
        for kinds in [(false, false), (true, false), (true, true), (false, true)] {
            let kinds = Kinds { scram: kinds.0, clear: kinds.1 };
            let lines = entries("cr\u{ea}pes", kinds).unwrap();
            let text = lines.iter().fold("[zo\u{eb}]\n".replace("zo\u{eb}", "\"zo\u{eb}\""), |text, (key, value)| {
                format!("{text}{key} = {value:?}\n")
            });
            assert_eq!(list(&text), Ok(vec![("zo\u{eb}".to_owned(), kinds)]));
            let book = Book::parse(&text).unwrap();
            let right = Argon2::default().verify_password("cr\u{ea}pes".as_bytes(), &book.users["zo\u{eb}"]);
            assert_eq!(right, Ok(()));
            let Secrets { scram, clear } = &book.secrets["zo\u{eb}"];
            assert!(scram.iter().all(|keys| *keys == keys.of_the_same_salt("cr\u{ea}pes".as_bytes())));
            assert!(clear.iter().all(|clear| clear == "cr\u{ea}pes"));
        }
        assert_eq!(list("[a\n").unwrap_err().0, 1);
    }

    #[test]
    fn names_that_are_no_directory_or_no_address_are_refused_with_the_rule() {
        for good in ["bob", "b", "alice.smith", "x-1_y", "zo\u{eb}", "\u{5f20}\u{4e09}", "7up"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for (bad, rule) in [
            ("", "1 to 64 octets"),
            (&"x".repeat(65), "1 to 64 octets"),
            ("..", "begins and ends"),
            (".bob", "begins and ends"),
            ("bob.", "begins and ends"),
            ("a..b", "two dots"),
            ("a/b", "letters and digits"),
            ("a b", "letters and digits"),
            ("a:b", "letters and digits"),
            ("bob@hamburger.edu", "letters and digits"),
            ("bob+lists", "letters and digits"),
            ("a\nb", "`a\\nb` cannot be"),
            ("a\0", "letters and digits"),
            ("Bob", "small letters"),
            ("\u{fb01}sh", "write it as `fish`"),
        ] {
            let told = check_name(bad).unwrap_err();
            assert!(told.contains(rule), "{bad:?}: {told}");
        }
    }

    /// The passwords are the textbook's; the daemons' lessons print them.
    #[test]
    fn the_lab_knows_alice_and_bob() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/accounts.toml");
        let book = Book::load(&Config { file: Some(file.into()), ..Config::default() }).unwrap();
        for (user, secret) in [("alice", "crepes"), ("bob", "hungry")] {
            assert_eq!(Argon2::default().verify_password(secret.as_bytes(), &book.users[user]), Ok(()), "{user}");
            let Secrets { scram, clear } = &book.secrets[user];
            assert_eq!(clear.as_deref(), Some(secret), "{user}");
            let scram = scram.as_ref().unwrap();
            assert_eq!(scram, &scram.of_the_same_salt(secret.as_bytes()), "{user}");
        }
        assert_eq!(book.users.len(), 2);
    }
}
