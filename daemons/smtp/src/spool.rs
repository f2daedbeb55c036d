//! The queue on disk: what was answered 250 and is not yet delivered.
//!
//! ```text
//!   spool/
//!     lock            held by the one process that works here
//!     tmp/ID          a message that is coming in, or a state that is being written
//!     queue/ID        a message: its envelope as it was said, then the message as it will go on
//!     queue/ID.state  what came of it so far; there is none before the first try that leaves something to do
//! ```
//!
//! A message is one file that `cat` shows and every mail person can read, for its head is the dialogue that brought it:
//!
//! ```text
//! MAIL FROM:<alice@crepes.fr> BODY=7BIT
//! RCPT TO:<bob@hamburger.edu>
//! DATA
//! Received: from ...
//! ```
//!
//! Which files exist at each step, and what a crash leaves:
//!
//! | step | files | after a crash here |
//! |---|---|---|
//! | octets come | `tmp/ID` | removed at start; the client was told nothing and sends it again |
//! | written, synced | `tmp/ID` | the same |
//! | renamed | `queue/ID` | there or not; if it is there it is whole, for it was synced before |
//! | directory synced, then 250 | `queue/ID` | there, and delivered after the start |
//! | a try left something to do | `queue/ID`, `tmp/ID.state`, then `queue/ID.state` | the old state or the new one; with the old one that try is made again |
//! | mailbox has it | the same, and `new/NAME` | the try is made again, finds NAME, and makes no second one |
//! | another server has it | the same | it is sent again: a duplicate, which RFC 5321 §4.5.4.1 and RFC 1047 prefer to a loss |
//! | who has a `.forward` has sent a copy on | the same, the copy as a message of its own, then `queue/ID.state` | a second copy, if the state is the old one |
//! | a report is needed | the same, and the report as a message of its own | a second report |
//! | nothing left to do | `queue/ID` removed, then `queue/ID.state` | a state without its message, which is removed at start |
//!
//! All functions here block.

use crate::{
    address::ForwardPath,
    command::{Command, Mail, Rcpt},
    crash,
    envelope::{Body, Charset, Envelope, Notify, Recipient, Ret},
    group::Group,
    session::Trouble,
};
use memchr::memmem;
use rustix::{
    fd::OwnedFd,
    fs::{
        FlockOperation, Mode, OFlags, RenameFlags, fdatasync, flock, fsync, openat, renameat, renameat_with, unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Read, Write as _},
    os::unix::fs::{DirBuilderExt, FileExt},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// Most envelopes are not longer; none is longer than this, with as many recipients as can be and all their parameters.
const HEAD_OCTETS: u64 = 16 << 10;
const HEAD_OCTETS_MAX: u64 = 4 << 20;
/// What came of a thousand recipients, each told at length, is shorter.
const STATE_OCTETS_MAX: u64 = 16 << 20;
/// Octets that wait in memory before they are written. Most messages are shorter, and touch the disk once.
pub(crate) const BUFFER_OCTETS: usize = 128 << 10;

// --- What a message is called ----------------------------------------------------------------------------------------

/// A queue id: when the message came, in microseconds, as eleven letters and digits. No two are the same, and they sort by age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// Without I, L, O and U, which people take for others (Crockford's base 32).
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const ID_LENGTH: usize = 11;

impl Id {
    /// A new one.
    pub fn new(now: SystemTime) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let micros = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let next = |last: u64| Some(micros.max(last + 1));
        let last = LAST.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or_default();
        Self(micros.max(last + 1))
    }

    /// When the message came.
    pub fn arrived(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_micros(self.0)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..ID_LENGTH).rev().try_for_each(|place| {
            let digit = usize::try_from(self.0 >> (5 * place) & 31).unwrap_or(0);
            f.write_char(DIGITS[digit].into())
        })
    }
}

impl FromStr for Id {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digit = |octet: u8| DIGITS.iter().position(|digit| digit.eq_ignore_ascii_case(&octet)).map(|at| at as u64);
        if text.len() != ID_LENGTH {
            return Err(());
        }
        text.bytes().try_fold(0, |number, octet| Ok(number << 5 | digit(octet).ok_or(())?)).map(Self)
    }
}

// --- What came of it so far ------------------------------------------------------------------------------------------

/// What came of a message so far: `ID.state`, in TOML.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// Somebody wants it to wait until it is released.
    pub held: bool,
    /// In the order of the envelope.
    pub recipients: Vec<Progress>,
}

/// What came of one recipient so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Nothing is left to do.
    pub done: bool,
    /// Tries so far.
    pub tries: u32,
    /// When it is tried next: seconds since 1970-01-01 00:00 UTC.
    pub next_try: u64,
    /// What came of the last one, in words.
    pub last: String,
    /// The sender has been told that it takes long.
    pub warned: bool,
    /// Those to whom the recipient forwards have their copy.
    pub forwarded: bool,
}

impl State {
    /// Of a message that has not been tried.
    pub fn new(recipients: usize, now: SystemTime) -> Self {
        let next_try = unix(now);
        let recipients = vec![Progress { next_try, ..Progress::default() }; recipients];
        Self { recipients, ..Self::default() }
    }

    /// Whether nothing is left to do.
    pub fn is_done(&self) -> bool {
        self.recipients.iter().all(|progress| progress.done)
    }
}

/// Seconds since 1970-01-01 00:00 UTC.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A message that is safe.
#[derive(Clone, Debug)]
pub struct Stored {
    /// What it is called.
    pub id: Id,
    /// Its envelope.
    pub envelope: Arc<Envelope>,
    /// Where in the file the message begins.
    pub start: u64,
    /// How long it is.
    pub octets: u64,
}

// --- The directory ---------------------------------------------------------------------------------------------------

/// The spool of this process.
#[derive(Debug)]
pub struct Spool {
    path: PathBuf,
    tmp: OwnedFd,
    queue: OwnedFd,
    group: Group,
    _lock: OwnedFd,
}

/// Why a spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process works there.
    #[error("{0}: another tomte-smtp works here; stop it, or name another directory")]
    Busy(PathBuf),
    /// The system refused.
    #[error("{path}: {source}; name a directory that the daemon's user can write to")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Spool {
    /// The spool at `path`, made if it is not there, and what waits in it, oldest first.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<(Stored, State)>), SpoolError> {
        let failed = |source: io::Error| SpoolError::Io { path: path.to_owned(), source };
        for folder in ["tmp", "queue"] {
            // What strangers write to each other is nobody else's business.
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join(folder)).map_err(failed)?;
        }
        let root = File::open(path).map_err(failed)?;
        // A message is as durable as the directory that it lies in.
        root.sync_all().map_err(failed)?;
        let folder = |name: &str| {
            openat(&root, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|error| failed(error.into()))
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = openat(&root, "lock", flags, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(SpoolError::Busy(path.to_owned())),
            Err(error) => return Err(failed(error.into())),
        }
        let (tmp, queue) = (folder("tmp")?, folder("queue")?);
        let spool = Self { path: path.to_owned(), tmp, queue, group: Group::default(), _lock: lock };
        for entry in fs::read_dir(path.join("tmp")).map_err(failed)? {
            fs::remove_file(entry.map_err(failed)?.path()).map_err(failed)?;
        }
        let waiting = spool.scan().map_err(failed)?;
        Ok((spool, waiting))
    }

    /// What waits, oldest first.
    fn scan(&self) -> io::Result<Vec<(Stored, State)>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(self.path.join("queue"))? {
            names.extend(entry?.file_name().into_string());
        }
        let mut waiting = vec![];
        for name in &names {
            if let Some(of) = name.strip_suffix(".state") {
                if !names.contains(of) {
                    fs::remove_file(self.path.join("queue").join(name))?;
                }
                continue;
            }
            let Ok(id) = name.parse::<Id>() else {
                tracing::warn!(name, "this is no message of the queue; it is left alone");
                continue;
            };
            match self.read(id) {
                Ok(found) => waiting.push(found),
                // One bad file must not keep the others from being delivered.
                Err(error) => tracing::error!(%id, %error, "cannot read a message of the queue; it is left alone"),
            }
        }
        Ok(waiting)
    }

    fn read(&self, id: Id) -> io::Result<(Stored, State)> {
        let file = self.message(id)?;
        let length = file.metadata()?.len();
        let mut head = vec![];
        // Most are short, and a full queue is read at each start.
        (&file).take(HEAD_OCTETS).read_to_end(&mut head)?;
        let mut parsed = parse_head(&head);
        if parsed.is_none() {
            (&file).take(HEAD_OCTETS_MAX).read_to_end(&mut head)?;
            parsed = parse_head(&head);
        }
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "its head is no envelope");
        let (envelope, start) = parsed.ok_or_else(wrong)?;
        let mut text = String::new();
        let state = match File::open(self.path.join("queue").join(format!("{id}.state"))) {
            Ok(file) => {
                file.take(STATE_OCTETS_MAX).read_to_string(&mut text)?;
                // It is a promise to deliver the message, and none to know how often that was tried.
                toml::from_str(&text).unwrap_or_else(|error| {
                    tracing::error!(%id, %error, "what came of a message so far cannot be read; it is tried from the start");
                    State::default()
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        let recipients = envelope.recipients.len();
        let state = if state.recipients.len() == recipients {
            state
        } else {
            State { held: state.held, ..State::new(recipients, id.arrived()) }
        };
        Ok((Stored { id, envelope: Arc::new(envelope), start, octets: length - start }, state))
    }

    /// The file of a message.
    ///
    /// # Errors
    /// The system refused.
    pub fn message(&self, id: Id) -> io::Result<File> {
        let file = openat(&self.queue, id.to_string(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(file.into())
    }

    /// A message that begins to come in. Nothing is on disk yet.
    pub fn draft(self: &Arc<Self>, id: Id, envelope: Envelope) -> Draft {
        let (head, body_at) = head(&envelope);
        let start = head.len() as u64;
        Draft { spool: Arc::clone(self), id, envelope, start, body_at, buffer: head, file: None, written: 0 }
    }

    /// Replaces the state of a message.
    ///
    /// # Errors
    /// The system refused; the old state counts.
    pub fn note(&self, id: Id, state: &State) -> io::Result<()> {
        let name = format!("{id}.state");
        let text = toml::to_string(state).map_err(io::Error::other)?;
        let mut file = File::from(openat(
            &self.tmp,
            &name,
            OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC,
            Mode::RUSR | Mode::WUSR,
        )?);
        file.write_all(text.as_bytes())?;
        crash::here("state written");
        fdatasync(&file)?;
        renameat(&self.tmp, &name, &self.queue, &name)?;
        crash::here("state renamed");
        self.sync()
    }

    /// Removes a message for which nothing is left to do. If a power cut undoes that, it is delivered again, and what has gone into
    /// a mailbox is found there; so nobody waits for the disk here.
    ///
    /// # Errors
    /// The system refused.
    pub fn remove(&self, id: Id) -> io::Result<()> {
        // In this order: a state without a message is nothing, a message without a state is one that was never tried.
        for name in [id.to_string(), format!("{id}.state")] {
            match unlinkat(&self.queue, &name, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => crash::here("message removed"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.group.sync(|| Ok(fsync(&self.queue)?))
    }
}

// --- The head of a file ----------------------------------------------------------------------------------------------

/// The dialogue that makes this envelope, and where in it the value of BODY stands.
fn head(envelope: &Envelope) -> (Vec<u8>, u64) {
    let mut text = format!("MAIL FROM:{} BODY=", envelope.from);
    let body_at = text.len() as u64;
    text.push_str(body_value(envelope.body));
    let mut add =
        |parameter: fmt::Arguments<'_>| text.write_fmt(parameter).expect("writing into a String does not fail");
    if envelope.charset == Charset::Utf8 {
        add(format_args!(" SMTPUTF8"));
    }
    match envelope.ret {
        Ret::Unsaid => {}
        Ret::Full => add(format_args!(" RET=FULL")),
        Ret::Headers => add(format_args!(" RET=HDRS")),
    }
    if let Some(envid) = &envelope.envid {
        add(format_args!(" ENVID={}", envid.encoded()));
    }
    add(format_args!("\r\n"));
    for Recipient { to, notify, orcpt } in &envelope.recipients {
        add(format_args!("RCPT TO:<{to}>"));
        if *notify != Notify::Unsaid {
            add(format_args!(" NOTIFY={notify}"));
        }
        if let Some(orcpt) = orcpt {
            add(format_args!(" ORCPT={orcpt}"));
        }
        add(format_args!("\r\n"));
    }
    add(format_args!("DATA\r\n"));
    (text.into_bytes(), body_at)
}

/// Both have the same length: which of the two it is, is known when the message has come.
fn body_value(body: Body) -> &'static str {
    match body {
        Body::SevenBit => "7BIT    ",
        Body::EightBitMime => "8BITMIME",
    }
}

/// The envelope in front of a message, and its length.
fn parse_head(octets: &[u8]) -> Option<(Envelope, u64)> {
    let mut envelope = None;
    let mut at = 0;
    loop {
        let line = octets[at..].get(..memmem::find(&octets[at..], b"\r\n")?)?;
        at += line.len() + 2;
        match (Command::parse(line).ok()?, &mut envelope) {
            (Command::Mail(Mail { from, body, charset, ret, envid, .. }), None) => {
                envelope = Some(Envelope { from, body, charset, ret, envid, recipients: vec![] });
            }
            (Command::Rcpt(Rcpt { to: ForwardPath::Mailbox(to), notify, orcpt }), Some(envelope)) => {
                envelope.recipients.push(Recipient { to, notify, orcpt });
            }
            (Command::Data, Some(found)) if !found.recipients.is_empty() => return Some((envelope?, at as u64)),
            _ => return None,
        }
    }
}

// --- A message that comes in -----------------------------------------------------------------------------------------

/// A message on its way into the queue. Dropped before [`Draft::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    spool: Arc<Spool>,
    id: Id,
    envelope: Envelope,
    start: u64,
    body_at: u64,
    buffer: Vec<u8>,
    file: Option<File>,
    written: u64,
}

impl Draft {
    /// What it is called.
    pub fn id(&self) -> Id {
        self.id
    }

    /// Where more of the message is added. When it has become long, [`Draft::spill`] it.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether enough waits in memory to be written.
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_OCTETS
    }

    /// Writes what waits in memory. Blocks.
    ///
    /// # Errors
    /// The system refused.
    pub fn spill(&mut self) -> io::Result<()> {
        let file = if let Some(file) = &mut self.file {
            file
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(&self.spool.tmp, self.id.to_string(), flags, Mode::RUSR | Mode::WUSR)?;
            self.file.insert(file.into())
        };
        file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the message durable: when this returns, 250 can be said. `body` is what the message turned out to have. Blocks.
    ///
    /// # Errors
    /// The system refused; there is no message. A failed fsync is never tried again.
    pub fn commit(mut self, body: Body) -> io::Result<Stored> {
        let value = body_value(body).as_bytes();
        self.envelope.body = body;
        if self.file.is_none() {
            let at = usize::try_from(self.body_at).unwrap_or(0);
            self.buffer[at..][..value.len()].copy_from_slice(value);
            self.spill()?;
        } else {
            self.spill()?;
            self.file.as_ref().map_or(Ok(()), |file| file.write_all_at(value, self.body_at))?;
        }
        crash::here("written");
        if let Some(file) = &self.file {
            fdatasync(file)?;
        }
        crash::here("synced");
        let name = self.id.to_string();
        // Ids come from the clock, and a clock that was set back may give one again: the older message stays, the newer one comes again.
        match renameat_with(&self.spool.tmp, &name, &self.spool.queue, &name, RenameFlags::NOREPLACE) {
            // Some file systems do not know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.spool.tmp, &name, &self.spool.queue, &name)?,
            renamed => renamed?,
        }
        crash::here("renamed");
        let (id, start, octets) = (self.id, self.start, self.written - self.start);
        // It has left tmp/, and there is nothing to be cleaned up any more.
        self.file = None;
        if let Err(error) = self.spool.sync() {
            // Nobody was told 250, so it must not be delivered either.
            let _ = self.spool.remove(id);
            return Err(error);
        }
        crash::here("safe");
        let recipients = std::mem::take(&mut self.envelope.recipients);
        let envelope = Envelope { recipients, ..self.envelope.clone() };
        Ok(Stored { id, envelope: Arc::new(envelope), start, octets })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.file.is_some() {
            // If even that fails, the next start removes it.
            let _ = unlinkat(&self.spool.tmp, self.id.to_string(), rustix::fs::AtFlags::empty());
        }
    }
}

impl From<&io::Error> for Trouble {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Trouble::DiskFull
            }
            _ => Trouble::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        address::{Mailbox, ReversePath},
        envelope::{Occasions, OriginalRecipient, Xtext},
    };

    fn envelope() -> Envelope {
        let orcpt = OriginalRecipient { kind: "rfc822".to_owned(), address: Xtext::encode("info@hamburger.edu") };
        let success = Occasions { success: true, ..Occasions::default() };
        Envelope {
            from: "<alice@crepes.fr>".parse().unwrap(),
            body: Body::SevenBit,
            charset: Charset::Ascii,
            ret: Ret::Headers,
            envid: Xtext::parse("QQ+2B"),
            recipients: vec![
                Recipient { to: "bob@hamburger.edu".parse().unwrap(), notify: Notify::Unsaid, orcpt: Some(orcpt) },
                Recipient { to: "\"b>c\"@a.b".parse().unwrap(), notify: Notify::Of(success), orcpt: None },
            ],
        }
    }

    fn names(spool: &Path, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(spool.join(folder)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn ids_are_never_the_same_and_tell_when() {
        let now = SystemTime::now();
        let (first, second) = (Id::new(now), Id::new(now));
        assert!(first < second);
        assert_eq!(first.to_string().parse(), Ok(first));
        assert_eq!(first.to_string().to_lowercase().parse(), Ok(first));
        assert!(second.arrived().duration_since(now).unwrap() < Duration::from_secs(1));
        assert_eq!("../../../etc".parse::<Id>(), Err(()));
    }

    #[test]
    fn a_message_survives_a_restart_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let (spool, waiting) = Spool::open(folder.path()).unwrap();
        assert!(waiting.is_empty());
        let spool = Arc::new(spool);
        for body in [Body::SevenBit, Body::EightBitMime] {
            let mut draft = spool.draft(Id::new(SystemTime::now()), envelope());
            draft.buffer().extend_from_slice(b"Subject: x\r\n\r\nRCPT TO:<not@this.one>\r\n");
            if body == Body::EightBitMime {
                draft.spill().unwrap();
            }
            let stored = draft.commit(body).unwrap();
            assert_eq!(stored.octets, 38);
            let expected = Envelope { body, ..envelope() };
            let (found, state) = spool.read(stored.id).unwrap();
            assert_eq!((&*found.envelope, found.start, found.octets), (&expected, stored.start, 38));
            assert_eq!(state, State::new(2, stored.id.arrived()));
        }
        let text = fs::read_to_string(folder.path().join("queue").join(&names(folder.path(), "queue")[0])).unwrap();
        assert_eq!(
            text,
            "MAIL FROM:<alice@crepes.fr> BODY=7BIT     RET=HDRS ENVID=QQ+2B\r\n\
            RCPT TO:<bob@hamburger.edu> ORCPT=rfc822;info@hamburger.edu\r\n\
            RCPT TO:<\"b>c\"@a.b> NOTIFY=SUCCESS\r\nDATA\r\n\
            Subject: x\r\n\r\nRCPT TO:<not@this.one>\r\n"
        );
        drop(spool);
        assert_eq!(Spool::open(folder.path()).unwrap().1.len(), 2);
    }

    /// A clock that was set back may give an id a second time.
    #[test]
    fn a_message_never_takes_the_place_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path()).unwrap().0);
        let id = Id::new(SystemTime::now());
        let commit = |text: &[u8]| {
            let mut draft = spool.draft(id, envelope());
            draft.buffer().extend_from_slice(text);
            draft.commit(Body::SevenBit)
        };
        let first = commit(b"Subject: first\r\n").unwrap();
        let error = commit(b"Subject: second, which is longer\r\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(spool.read(id).unwrap().0.octets, first.octets);
        assert!(names(folder.path(), "tmp").is_empty());
    }

    #[test]
    fn what_was_given_up_leaves_nothing_and_states_without_a_message_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path()).unwrap().0);
        let mut draft = spool.draft(Id::new(SystemTime::now()), envelope());
        draft.buffer().extend_from_slice(b"x");
        draft.spill().unwrap();
        assert_eq!(names(folder.path(), "tmp").len(), 1);
        drop(draft);
        assert_eq!(names(folder.path(), "tmp").len(), 0);

        let stored = spool.draft(Id::new(SystemTime::now()), envelope()).commit(Body::SevenBit).unwrap();
        let mut state = State::new(2, SystemTime::now());
        state.recipients[1].done = true;
        spool.note(stored.id, &state).unwrap();
        assert_eq!(spool.read(stored.id).unwrap().1, state);
        fs::remove_file(folder.path().join("queue").join(stored.id.to_string())).unwrap();
        fs::write(folder.path().join("tmp").join("half"), "MAIL").unwrap();
        assert!(matches!(Spool::open(folder.path()), Err(SpoolError::Busy(_))));
        drop(spool);
        assert!(Spool::open(folder.path()).unwrap().1.is_empty());
        assert!(names(folder.path(), "queue").is_empty() && names(folder.path(), "tmp").is_empty());
    }

    #[test]
    fn a_file_that_is_no_message_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(Spool::open(folder.path()).unwrap());
        let bad = folder.path().join("queue").join(Id::new(SystemTime::now()).to_string());
        for text in ["", "MAIL FROM:<a@b>\r\nDATA\r\n", "RCPT TO:<a@b>\r\n", "MAIL FROM:<a@b>\r\nRCPT TO:<a@b>\r\n"] {
            fs::write(&bad, text).unwrap();
            assert!(Spool::open(folder.path()).unwrap().1.is_empty(), "{text:?}");
            assert!(bad.exists());
        }
    }

    #[test]
    fn a_message_whose_state_cannot_be_read_waits_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path()).unwrap().0);
        let stored = spool.draft(Id::new(SystemTime::now()), envelope()).commit(Body::SevenBit).unwrap();
        drop(spool);
        for text in ["", "held = maybe", "\0\0\0", "[[recipients]]\ntries = 1\n"] {
            fs::write(folder.path().join("queue").join(format!("{}.state", stored.id)), text).unwrap();
            let (_, waiting) = Spool::open(folder.path()).unwrap();
            assert_eq!(waiting[0].1, State::new(2, stored.id.arrived()), "{text:?}");
        }
    }

    /// As an alias leaves it: whom the sender named stands beside whom that means.
    #[test]
    fn an_envelope_with_the_longest_addresses_is_read_again() {
        for letter in ["å", "+", "😀"] {
            let local = letter.repeat(64 / letter.len());
            let label = if letter == "+" { "x".repeat(63) } else { letter.repeat(60 / letter.len()) };
            let named: Mailbox = format!("{local}@{label}.{label}.{}", &label[..56]).parse().unwrap();
            let recipient =
                Recipient { to: named.clone(), notify: Notify::Unsaid, orcpt: OriginalRecipient::of(&named) };
            let envelope = Envelope { charset: Charset::Utf8, recipients: vec![recipient], ..envelope() };
            let (head, _) = head(&envelope);
            assert_eq!(parse_head(&head), Some((envelope, head.len() as u64)), "{letter}");
        }
    }

    #[test]
    fn an_envelope_without_a_sender_is_read_again() {
        let envelope = Envelope { from: ReversePath::Null, ..envelope() };
        let (head, _) = head(&envelope);
        assert_eq!(parse_head(&head), Some((envelope, head.len() as u64)));
    }
}
