//! Mailboxes: one file for each message, readable with `cat`, no lock for those who deliver.
//!
//! ```text
//!   bob/                    a Maildir (cr.yp.to/proto/maildir.html)
//!     tmp/                  messages that are being written; nobody looks at them
//!     new/  1193763600.M2P7Q1.mail.hamburger.edu,S=484,W=498          delivered
//!     cur/  1193763601.M5P7Q2.mail.hamburger.edu,S=890,W=912:2,S      delivered, and a reader has seen it: its flags
//!     tomte.lock            held by the one reader that may delete
//!     tomte-sizes           sizes that had to be counted, so that they are counted once
//!
//!   deliver:  tmp/NAME written -> fsync -> renamed to new/NAME,S=..,W=.. -> fsync of new/
//!   read:     lock -> one pass over new/ and cur/ -> open, unlink
//! ```
//!
//! A message's *unique name* is its file's name up to the sizes and flags. It never changes, so it is the message's identity.
//! `S=` is what the file has, `W=` what the message has on the wire, where each line ends with CR LF: other agents write
//! files whose lines end with LF alone. With both in the name, a mailbox of 100,000 messages is read without opening one.
//!
//! All functions here block; asynchronous callers use the runtime's pool for that.

use crate::message::Patience;
use memchr::memchr_iter;
use ring::digest::{SHA256, digest};
use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    fs::{
        AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, SeekFrom, fdatasync,
        flock, fstat, fsync, mkdirat, openat, openat2, renameat, renameat_with, seek, statat, unlinkat,
    },
    io::Errno,
};
use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

/// Held by the reader that may delete; it stays when nobody does, because removing it would let two hold two files.
const LOCK: &str = "tomte.lock";
/// Sizes that had to be counted.
const SIZES: &str = "tomte-sizes";
/// An index larger than this is not ours.
const SIZES_OCTETS_MAX: u64 = 64 << 20;
/// The Maildir specification: a file in tmp/ that is older was given up.
const GIVEN_UP_AFTER: Duration = Duration::from_hours(36);
/// With fewer messages to count, threads cost more than they gain.
const COUNT_ALONE: usize = 512;
/// RFC 1939 §7: "a unique-id ... consisting of one to 70 characters in the range 0x21 to 0x7E".
pub const UID_OCTETS_MAX: usize = 70;

/// How a directory or a file inside a mailbox is opened: whoever can write there must not lead us elsewhere by a symbolic
/// link, nor keep us waiting with a pipe.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// A mailbox.
#[derive(Debug)]
pub struct Maildir {
    root: OwnedFd,
    path: PathBuf,
}

/// Where a delivered message lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Nobody has looked at it.
    New,
    /// A reader has.
    Cur,
}

/// Why a mailbox is not ours.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another session, of this process or another, has it.
    #[error("another session has the mailbox")]
    Busy,
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where the mailbox of an account is, below the directory with all of them; nowhere for a name that would lead elsewhere.
pub fn of_account(mailboxes: &Path, account: &str) -> Option<PathBuf> {
    let safe = !account.is_empty() && !account.starts_with('.') && !account.contains(['/', '\0']);
    safe.then(|| mailboxes.join(account))
}

impl Maildir {
    /// The mailbox at `path`.
    ///
    /// # Errors
    /// `NotFound` when there is none; otherwise the system refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        // The path itself comes from the configuration and may lead anywhere; what is inside may not.
        let root = openat(CWD, path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { root, path: path.to_owned() })
    }

    /// The mailbox at `path`, which is made durably if it is not there.
    ///
    /// # Errors
    /// The system refused.
    pub fn open_or_create(path: &Path) -> io::Result<Self> {
        let maildir = match Self::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut builder = std::fs::DirBuilder::new();
                std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
                builder.recursive(true).create(path)?;
                let maildir = Self::open(path)?;
                // A message is as durable as the directories above it.
                fsync(openat(&maildir.root, "..", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)?;
                maildir
            }
            opened => opened?,
        };
        let mut made = false;
        for folder in ["tmp", "new", "cur"] {
            match mkdirat(&maildir.root, folder, Mode::RWXU) {
                Ok(()) => made = true,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if made {
            fsync(&maildir.root)?;
        }
        Ok(maildir)
    }

    fn folder(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(openat(&self.root, name, OFlags::DIRECTORY | SAFELY, Mode::empty())?)
    }

    /// Takes the mailbox for one reader. flock(2) belongs to the opened file, so it keeps out other sessions of this process as
    /// well as other processes, and the kernel gives it back however we end.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn lock(self) -> Result<Locked, LockError> {
        let flags = OFlags::RDWR | OFlags::CREATE | SAFELY;
        let lock = openat(&self.root, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(io::Error::from)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Busy),
            Err(error) => return Err(io::Error::from(error).into()),
        }
        let (new, cur) = (self.folder("new")?, self.folder("cur")?);
        Ok(Locked { maildir: self, new, cur, moved: Mutex::default(), _lock: lock })
    }

    /// Removes what was given up half-way, by us or by others.
    ///
    /// # Errors
    /// The system refused.
    pub fn sweep(&self, now: SystemTime) -> io::Result<usize> {
        let tmp = self.folder("tmp")?;
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(GIVEN_UP_AFTER);
        let mut removed = 0;
        read_dir(tmp.as_fd(), |name| {
            let old = |stat: rustix::fs::Stat| u64::try_from(stat.st_mtime).is_ok_and(|time| time < seconds.as_secs());
            if statat(&tmp, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(old) {
                removed += usize::from(unlinkat(&tmp, name, AtFlags::empty()).is_ok());
            }
        })?;
        Ok(removed)
    }

    /// What all messages have on disk, for a quota. Sizes that no name tells are asked of the system.
    ///
    /// # Errors
    /// The system refused.
    pub fn octets(&self) -> io::Result<u64> {
        let mut octets = 0;
        for folder in ["new", "cur"] {
            let dir = match self.folder(folder) {
                // Other agents make a directory when they need it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                dir => dir?,
            };
            read_dir(dir.as_fd(), |name| {
                let told =
                    base(name).split(|octet| *octet == b',').skip(1).find_map(|f| number(f.strip_prefix(b"S=")?));
                let asked = || {
                    statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0))
                };
                octets += told.unwrap_or_else(asked);
            })?;
        }
        Ok(octets)
    }
}

/// When the directories of a mailbox were last changed: a message came, went or was moved. [`Maildir::changed`] tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed([SystemTime; 2]);

impl Changed {
    /// The later one.
    pub fn latest(&self) -> SystemTime {
        self.0[0].max(self.0[1])
    }
}

impl Maildir {
    /// When messages last came, went or were moved; a directory that is not there has never changed.
    ///
    /// # Errors
    /// The system refused.
    pub fn changed(&self) -> io::Result<Changed> {
        let time = |folder| -> io::Result<SystemTime> {
            let stat = match statat(&self.root, folder, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => return Ok(SystemTime::UNIX_EPOCH),
                stat => stat?,
            };
            let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let nanos = Duration::from_nanos(stat.st_mtime_nsec);
            Ok(SystemTime::UNIX_EPOCH + seconds + nanos)
        };
        Ok(Changed([time("new")?, time("cur")?]))
    }
}

/// Calls `each` with the name of every regular file that is not hidden.
fn read_dir(dir: BorrowedFd<'_>, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    // The descriptor is kept, and where the last pass ended too.
    seek(dir, SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut entries = RawDir::new(dir, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        let is_file = match entry.file_type() {
            FileType::RegularFile => true,
            // Some file systems do not tell.
            FileType::Unknown => statat(dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
            _ => false,
        };
        if is_file && !name.starts_with(b".") {
            each(name);
        }
    }
    Ok(())
}

// --- What a name says ------------------------------------------------------------------------------------------------

/// The name without its flags: up to the colon.
fn base(name: &[u8]) -> &[u8] {
    name.split(|octet| *octet == b':').next().unwrap_or_default()
}

/// What identifies the message: the name without sizes and flags.
fn unique(name: &[u8]) -> &[u8] {
    let mut rest = base(name);
    while let Some(comma) = rest.iter().rposition(|octet| *octet == b',') {
        let field = &rest[comma + 1..];
        let is_size =
            field.strip_prefix(b"S=").or(field.strip_prefix(b"W=")).is_some_and(|digits| number(digits).is_some());
        if !is_size {
            break;
        }
        rest = &rest[..comma];
    }
    rest
}

/// Up to eighteen digits and nothing else.
fn number(digits: &[u8]) -> Option<u64> {
    let right = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    right.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// `W=` of a name, if it is right in form and fits `S=`.
fn wire_octets_in(name: &[u8]) -> Option<u64> {
    let field =
        |key: &[u8]| base(name).split(|octet| *octet == b',').skip(1).find_map(|f| number(f.strip_prefix(key)?));
    let wire = field(b"W=")?;
    // At most each octet is a bare LF, and the last line has no end.
    field(b"S=").is_none_or(|size| size <= wire && wire <= size * 2 + 2).then_some(wire)
}

/// When the message was delivered, in microseconds: `1193763600.M2P7Q1.host`. Names of other forms come first.
fn delivered_at(name: &[u8]) -> u64 {
    let digits = |text: &[u8]| text.iter().take_while(|octet| octet.is_ascii_digit()).count();
    let seconds = number(&name[..digits(name)]).unwrap_or(0);
    let rest = &name[digits(name)..];
    let micros = rest.strip_prefix(b".M").and_then(|rest| number(&rest[..digits(rest)])).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(micros.min(999_999))
}

/// What `octets` have on the wire: each line ends with CR LF there, the last one too. Pure, and in pieces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WireOctets {
    octets: u64,
    last: Option<u8>,
}

impl WireOctets {
    /// More of the message.
    pub fn push(&mut self, octets: &[u8]) {
        let before = |at: usize| if at == 0 { self.last } else { Some(octets[at - 1]) };
        let bare = memchr_iter(b'\n', octets).filter(|at| before(*at) != Some(b'\r')).count();
        self.octets += (octets.len() + bare) as u64;
        self.last = octets.last().copied().or(self.last);
    }

    /// All of it.
    pub fn total(self) -> u64 {
        let unfinished = self.last.is_some_and(|octet| octet != b'\n');
        self.octets + if unfinished { 2 } else { 0 }
    }
}

// --- Reading ---------------------------------------------------------------------------------------------------------

/// The messages of a mailbox as they were at one moment, oldest first.
#[derive(Debug, Default)]
pub struct Listing {
    /// All names, one behind the other: a mailbox of 100,000 messages is two allocations.
    names: Vec<u8>,
    messages: Vec<Message>,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    delivered_at: u64,
    octets: u64,
    from: u32,
    length: u16,
    folder: Folder,
    sized: Sized,
}

/// How we know a message's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sized {
    Known,
    NotYet,
    /// The file is gone.
    Never,
}

impl Listing {
    /// The listing of a mailbox with these files. For tests; [`Locked::scan`] reads real ones.
    pub fn of<'a>(files: impl IntoIterator<Item = (&'a str, u64)>) -> Self {
        let mut listing = Self::default();
        for (name, octets) in files {
            listing.push(Folder::New, name.as_bytes());
            if let Some(message) = listing.messages.last_mut() {
                (message.octets, message.sized) = (octets, Sized::Known);
            }
        }
        listing.sort();
        listing
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// What the message of this index (from 0) has on the wire, before byte-stuffing.
    ///
    /// # Panics
    /// When there is no such message.
    pub fn octets(&self, index: usize) -> u64 {
        self.messages[index].octets
    }

    /// What identifies the message for ever: 1 to 70 printable octets (RFC 1939 §7). It is the unique name, or a hash of it
    /// where that does not fit.
    ///
    /// # Panics
    /// When there is no such message.
    pub fn uid(&self, index: usize) -> String {
        let unique = unique(self.name(index));
        match str::from_utf8(unique) {
            Ok(text) if (1..=UID_OCTETS_MAX).contains(&text.len()) && text.bytes().all(|o| o.is_ascii_graphic()) => {
                text.to_owned()
            }
            _ => {
                // No unique name that fits looks like this by accident, and nobody gains by choosing one on purpose.
                let mut uid = "sha256-".to_owned();
                for octet in &digest(&SHA256, unique).as_ref()[..24] {
                    write!(uid, "{octet:02x}").expect("writing into a String does not fail");
                }
                uid
            }
        }
    }

    fn name(&self, index: usize) -> &[u8] {
        self.name_of(&self.messages[index])
    }

    fn name_of(&self, message: &Message) -> &[u8] {
        &self.names[message.from as usize..][..usize::from(message.length)]
    }

    fn push(&mut self, folder: Folder, name: &[u8]) {
        // No file system has longer names, and no directory that can be read has 4 GiB of them.
        let (Ok(from), Ok(length)) = (u32::try_from(self.names.len()), u16::try_from(name.len())) else { return };
        let octets = wire_octets_in(name);
        let sized = if octets.is_some() { Sized::Known } else { Sized::NotYet };
        self.names.extend_from_slice(name);
        let (octets, delivered_at) = (octets.unwrap_or(0), delivered_at(name));
        self.messages.push(Message { delivered_at, octets, from, length, folder, sized });
    }

    /// Oldest first, each once: a message that another reader moved from new/ to cur/ while we looked was seen in both.
    fn sort(&mut self) {
        let mut messages = std::mem::take(&mut self.messages);
        let place =
            |message: &Message| (message.delivered_at, base(self.name_of(message)), message.folder == Folder::New);
        messages.sort_unstable_by(|a, b| place(a).cmp(&place(b)));
        messages.dedup_by(|later, kept| base(self.name_of(later)) == base(self.name_of(kept)));
        self.messages = messages;
    }
}

/// A mailbox that is ours until this is dropped.
#[derive(Debug)]
pub struct Locked {
    maildir: Maildir,
    new: OwnedFd,
    cur: OwnedFd,
    moved: Mutex<Moved>,
    _lock: OwnedFd,
}

/// A folder, and a name in it.
type Place = (Folder, Vec<u8>);

/// Where messages lie that another reader has moved or given flags, by unique name: as of the last look.
#[derive(Debug, Default)]
struct Moved {
    names: Option<HashMap<Vec<u8>, Place>>,
    #[cfg(test)]
    looks: u32,
}

/// What came of a removal.
#[derive(Debug)]
pub enum Removal {
    /// It is gone now.
    Removed,
    /// Somebody else had removed it.
    WasGone,
    /// It is still there.
    Failed(io::Error),
}

impl Locked {
    fn dir(&self, folder: Folder) -> &OwnedFd {
        match folder {
            Folder::New => &self.new,
            Folder::Cur => &self.cur,
        }
    }

    /// The messages that are there now.
    ///
    /// # Errors
    /// The system refused.
    pub fn scan(&self) -> io::Result<Listing> {
        let mut listing = Listing::default();
        // In this order: messages move from new/ to cur/ and never back, so none can slip past us.
        for folder in [Folder::New, Folder::Cur] {
            read_dir(self.dir(folder).as_fd(), |name| listing.push(folder, name))?;
        }
        listing.sort();
        if listing.messages.iter().any(|message| message.sized == Sized::NotYet) {
            self.size(&mut listing);
        }
        Ok(listing)
    }

    /// Finds the sizes that no name tells: from the index, or else by reading the messages.
    fn size(&self, listing: &mut Listing) {
        let index = self.read_index().unwrap_or_default();
        let known: HashMap<&[u8], u64> = index.split(|octet| *octet == b'\n').filter_map(index_line).collect();
        let mut messages = std::mem::take(&mut listing.messages);
        for message in messages.iter_mut().filter(|message| message.sized == Sized::NotYet) {
            if let Some(octets) = known.get(base(listing.name_of(message))) {
                (message.octets, message.sized) = (*octets, Sized::Known);
            }
        }
        let mut uncounted: Vec<&mut Message> = messages.iter_mut().filter(|m| m.sized == Sized::NotYet).collect();
        let counted = !uncounted.is_empty();
        let names = &*listing;
        if uncounted.len() < COUNT_ALONE {
            self.count(names, &mut uncounted);
        } else {
            let threads = crate::daemon::cores().get().min(8);
            let share = uncounted.len().div_ceil(threads);
            thread::scope(|scope| {
                for part in uncounted.chunks_mut(share) {
                    scope.spawn(|| self.count(names, part));
                }
            });
        }
        messages.retain(|message| message.sized != Sized::Never);
        listing.messages = messages;
        if counted && let Err(error) = self.write_index(listing) {
            // It is only slower: they are counted again next time.
            tracing::debug!(mailbox = %self.maildir.path.display(), %error, "cannot keep the sizes of messages");
        }
    }

    /// Reads the messages.
    fn count(&self, listing: &Listing, messages: &mut [&mut Message]) {
        let mut buffer = vec![0; 64 << 10];
        for message in messages {
            let name = listing.name_of(message);
            let mut count = || -> io::Result<u64> {
                let mut file = File::from(self.open_file(message.folder, name, Patience::Disk)?.file);
                let mut counting = WireOctets::default();
                loop {
                    match file.read(&mut buffer)? {
                        0 => return Ok(counting.total()),
                        read => counting.push(&buffer[..read]),
                    }
                }
            };
            (message.octets, message.sized) = match count() {
                Ok(octets) => (octets, Sized::Known),
                Err(error) if error.kind() == io::ErrorKind::NotFound => (0, Sized::Never),
                Err(error) => {
                    // One bad file must not close the mailbox; whoever asks for this message is told.
                    tracing::warn!(mailbox = %self.maildir.path.display(), %error, "cannot read a message");
                    (0, Sized::Known)
                }
            };
        }
    }

    fn read_index(&self) -> io::Result<Vec<u8>> {
        let file = File::from(openat(&self.maildir.root, SIZES, SAFELY | OFlags::RDONLY, Mode::empty())?);
        let mut index = vec![];
        file.take(SIZES_OCTETS_MAX).read_to_end(&mut index)?;
        Ok(index)
    }

    /// Replaces the index as a whole. It is not synced: it can be counted again.
    fn write_index(&self, listing: &Listing) -> io::Result<()> {
        let mut index = vec![];
        for message in &listing.messages {
            let name = listing.name_of(message);
            if wire_octets_in(name).is_none() && !name.contains(&b'\n') {
                write!(index, "{} ", message.octets)?;
                index.extend_from_slice(base(name));
                index.push(b'\n');
            }
        }
        let beside = format!("{SIZES}.tmp");
        let _ = unlinkat(&self.maildir.root, &beside, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | SAFELY;
        let mut file = File::from(openat(&self.maildir.root, &beside, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&index)?;
        Ok(renameat(&self.maildir.root, &beside, &self.maildir.root, SIZES)?)
    }

    /// Opens a message.
    ///
    /// # Errors
    /// `NotFound` when somebody else has removed it, `WouldBlock` when only what is in memory was asked for.
    pub fn open(&self, listing: &Listing, index: usize, patience: Patience) -> io::Result<Source> {
        let message = &listing.messages[index];
        match self.open_file(message.folder, listing.name(index), patience) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match patience {
                Patience::Cached => Err(io::ErrorKind::WouldBlock.into()),
                // Another reader has given it other flags, perhaps.
                Patience::Disk => {
                    let (folder, name) = self.find(unique(listing.name(index)))?.ok_or(io::ErrorKind::NotFound)?;
                    self.open_file(folder, &name, patience)
                }
            },
            opened => opened,
        }
    }

    fn open_file(&self, folder: Folder, name: &[u8], patience: Patience) -> io::Result<Source> {
        let (dir, flags) = (self.dir(folder), OFlags::RDONLY | SAFELY);
        let file = match patience {
            Patience::Cached => {
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::CACHED;
                // Kernels before 5.12 know no CACHED.
                openat2(dir, name, flags, Mode::empty(), resolve).map_err(|_| io::ErrorKind::WouldBlock)?
            }
            Patience::Disk => openat(dir, name, flags, Mode::empty())?,
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Ok(Source { file, length: u64::try_from(stat.st_size).unwrap_or(0) })
    }

    /// Where the message of this unique name is now. Another reader moves all that is new when it comes, and a look at each of 100,000 names
    /// for each of as many messages would take hours: who is not there at the first look is gone, and only who was there is looked for again.
    fn find(&self, wanted: &[u8]) -> io::Result<Option<Place>> {
        let mut moved = self.moved();
        if moved.names.is_none() {
            moved.look(self)?;
        }
        let is_there =
            |(folder, name): &&Place| statat(self.dir(*folder), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        match moved.names.as_ref().and_then(|names| names.get(wanted)) {
            None => return Ok(None),
            Some(place) if is_there(&place) => return Ok(Some(place.clone())),
            Some(_) => moved.look(self)?,
        }
        Ok(moved.names.as_ref().and_then(|names| names.get(wanted).cloned()))
    }

    fn moved(&self) -> MutexGuard<'_, Moved> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often the names of the mailbox were gone through for what another reader has moved.
    #[cfg(test)]
    fn looks(&self) -> u32 {
        self.moved().looks
    }

    /// Removes a message. [`Locked::sync`] makes it last.
    pub fn remove(&self, listing: &Listing, index: usize) -> Removal {
        let message = &listing.messages[index];
        let remove = |folder, name: &[u8]| unlinkat(self.dir(folder), name, AtFlags::empty());
        match remove(message.folder, listing.name(index)) {
            Ok(()) => Removal::Removed,
            Err(Errno::NOENT) => match self.find(unique(listing.name(index))) {
                Ok(Some((folder, name))) => match remove(folder, &name) {
                    Ok(()) => Removal::Removed,
                    Err(Errno::NOENT) => Removal::WasGone,
                    Err(error) => Removal::Failed(error.into()),
                },
                Ok(None) => Removal::WasGone,
                Err(error) => Removal::Failed(error),
            },
            Err(error) => Removal::Failed(error.into()),
        }
    }

    /// Makes removals last over a power cut.
    ///
    /// # Errors
    /// The system refused.
    pub fn sync(&self) -> io::Result<()> {
        fsync(&self.new)?;
        Ok(fsync(&self.cur)?)
    }
}

impl Moved {
    fn look(&mut self, mailbox: &Locked) -> io::Result<()> {
        let mut names = HashMap::new();
        // In this order: messages move from new/ to cur/ and never back.
        for folder in [Folder::New, Folder::Cur] {
            read_dir(mailbox.dir(folder).as_fd(), |name| {
                names.insert(unique(name).to_vec(), (folder, name.to_vec()));
            })?;
        }
        self.names = Some(names);
        #[cfg(test)]
        {
            self.looks += 1;
        }
        Ok(())
    }
}

/// `498 1193763600.M2P7Q1.host`
fn index_line(line: &[u8]) -> Option<(&[u8], u64)> {
    let space = line.iter().position(|octet| *octet == b' ')?;
    Some((&line[space + 1..], number(&line[..space])?))
}

/// A message that is open for reading.
#[derive(Debug)]
pub struct Source {
    file: OwnedFd,
    length: u64,
}

impl Source {
    /// The octets in the file.
    pub fn length(&self) -> u64 {
        self.length
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

// --- Delivering ------------------------------------------------------------------------------------------------------

/// What a new message is called, and by which it will be known for ever: 1 to 150 octets that are letters, digits or one of
/// `. - _ = + @`, not a dot at the start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UniqueName(String);

/// Room for sizes and flags below the 255 octets that file systems allow.
const UNIQUE_OCTETS_MAX: usize = 150;

impl UniqueName {
    /// A name that comes from elsewhere, such as queue id and recipient: the same name for the same message, so that a
    /// delivery that is tried again makes no second one.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let plain = |octet: u8| octet.is_ascii_alphanumeric() || b".-_=+@".contains(&octet);
        let right = (1..=UNIQUE_OCTETS_MAX).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain);
        right.then_some(Self(text))
    }

    /// A name that nobody else has: `SECONDS.M<micros>P<pid>Q<number>.HOST`. What does not belong into a name is left out of
    /// the host's.
    pub fn generate(now: SystemTime, host: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let time = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect();
        let (seconds, micros, pid) = (time.as_secs(), time.subsec_micros(), std::process::id());
        Self(format!("{seconds}.M{micros:06}P{pid}Q{number}.{host}"))
    }
}

impl fmt::Display for UniqueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a delivery may have been done before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// Nobody has used the name yet.
    First,
    /// It may be that a crash came after the delivery and before we had noted it. The mailbox is searched.
    Again,
}

/// What [`Delivery::place`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// The message lies in new/.
    Now,
    /// An earlier attempt had placed it; nothing was changed.
    Before,
}

/// A message on its way into a mailbox. Dropped before [`Delivery::place`], it leaves nothing.
///
/// ```text
///   step              on disk after a crash here
///   begin, write      tmp/NAME, which nobody reads; `sweep` or the next attempt removes it
///   place             tmp/NAME or new/NAME,S=..,W=..: whole, for the file was synced before
///   sync_name         new/NAME,S=..,W=..
/// ```
#[derive(Debug)]
pub struct Delivery {
    tmp: OwnedFd,
    new: OwnedFd,
    /// Where a reader may have moved what an earlier attempt placed; none at the first attempt.
    cur: Option<OwnedFd>,
    file: File,
    name: UniqueName,
    octets: u64,
    on_the_wire: WireOctets,
    is_in_tmp: bool,
    is_durable: bool,
}

impl Maildir {
    /// Begins a delivery.
    ///
    /// # Errors
    /// The system refused; `AlreadyExists` when somebody else delivers under this name.
    pub fn deliver(&self, name: UniqueName, attempt: Attempt) -> io::Result<Delivery> {
        let (tmp, new) = (self.folder("tmp")?, self.folder("new")?);
        let cur = match attempt {
            Attempt::First => None,
            Attempt::Again => {
                match unlinkat(&tmp, &name.0, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(error) => return Err(error.into()),
                }
                Some(self.folder("cur")?)
            }
        };
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | SAFELY;
        let file = File::from(openat(&tmp, &name.0, flags, Mode::RUSR | Mode::WUSR)?);
        let on_the_wire = WireOctets::default();
        Ok(Delivery { tmp, new, cur, file, name, octets: 0, on_the_wire, is_in_tmp: true, is_durable: false })
    }
}

impl Write for Delivery {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let written = self.file.write(octets)?;
        self.octets += written as u64;
        self.is_durable = false;
        self.on_the_wire.push(&octets[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Delivery {
    /// What the file has.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Makes the message durable. Nobody sees it yet; [`Delivery::place`] then takes no time.
    ///
    /// # Errors
    /// The system refused. A failed fsync is never tried again: the file is to be discarded.
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.is_durable {
            fdatasync(&self.file)?;
            self.is_durable = true;
        }
        Ok(())
    }

    /// Makes the message durable and shows it to readers. Its name is durable after [`Delivery::sync_name`].
    ///
    /// # Errors
    /// The system refused; the message is not there. A failed fsync is never tried again: the file is discarded.
    pub fn place(&mut self) -> io::Result<Placed> {
        self.sync()?;
        let (name, unique_name) = (self.placed_name(), &self.name.0);
        if let Some(cur) = &self.cur {
            let mut found = false;
            for dir in [&self.new, cur] {
                read_dir(dir.as_fd(), |name| found |= unique(name) == unique_name.as_bytes())?;
            }
            if found {
                return Ok(Placed::Before);
            }
        }
        match renameat_with(&self.tmp, unique_name, &self.new, &name, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // At a first attempt it is another message that has the name: a clock was set back.
            Err(Errno::EXIST) if self.cur.is_some() => return Ok(Placed::Before),
            // Some file systems do not know the flag. The name is ours alone, so nothing can be replaced but our own.
            Err(Errno::INVAL | Errno::NOSYS) => renameat(&self.tmp, unique_name, &self.new, &name)?,
            Err(error) => return Err(error.into()),
        }
        self.is_in_tmp = false;
        Ok(Placed::Now)
    }

    /// Makes the name durable: it is on disk when its directory is. One call serves all that were placed in this mailbox before it.
    ///
    /// # Errors
    /// The system refused. What was placed may or may not outlive a power cut; a failed fsync must not be tried again.
    pub fn sync_name(&self) -> io::Result<()> {
        Ok(fsync(&self.new)?)
    }

    /// Takes back what was placed now, for a sender that is told that it is not there and comes again.
    ///
    /// # Errors
    /// The system refused; `NotFound` when a reader has moved it.
    pub fn take_back(&self) -> io::Result<()> {
        Ok(unlinkat(&self.new, self.placed_name(), AtFlags::empty())?)
    }

    /// The unique name and the sizes, which are known when all is written.
    fn placed_name(&self) -> String {
        format!("{},S={},W={}", self.name, self.octets, self.on_the_wire.total())
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.is_in_tmp {
            // It may be gone already; what stays, `sweep` removes.
            let _ = unlinkat(&self.tmp, &self.name.0, AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::read_at;
    use std::{fs, os::unix::fs::symlink, sync::Barrier};

    fn mailbox() -> (tempfile::TempDir, Maildir) {
        let folder = tempfile::tempdir().unwrap();
        let maildir = Maildir::open_or_create(&folder.path().join("bob")).unwrap();
        (folder, maildir)
    }

    #[test]
    fn no_name_leads_out_of_the_mailboxes() {
        assert_eq!(of_account(Path::new("/m"), "bob"), Some("/m/bob".into()));
        for bad in ["", ".", "..", "../etc", "a/b", "/etc", ".hidden", "a\0"] {
            assert_eq!(of_account(Path::new("/m"), bad), None, "{bad:?}");
        }
    }

    fn locked(folder: &tempfile::TempDir) -> Locked {
        Maildir::open(&folder.path().join("bob")).unwrap().lock().unwrap()
    }

    fn put(folder: &tempfile::TempDir, file: &str, text: impl AsRef<[u8]>) {
        fs::write(folder.path().join("bob").join(file), text).unwrap();
    }

    fn deliver(maildir: &Maildir, name: &str, attempt: Attempt, text: &[u8]) -> io::Result<Placed> {
        let mut delivery = maildir.deliver(UniqueName::new(name).unwrap(), attempt)?;
        delivery.write_all(text)?;
        delivery.place()
    }

    fn uids(listing: &Listing) -> Vec<String> {
        (0..listing.len()).map(|index| listing.uid(index)).collect()
    }

    fn files(folder: &tempfile::TempDir, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(folder.path().join("bob").join(dir)).unwrap();
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn names_are_read_as_every_agent_writes_them() {
        for (name, identity, octets, micros) in [
            ("1193763600.M2P7Q1.mail.hamburger.edu,S=484,W=498", "1193763600.M2P7Q1.mail.hamburger.edu", Some(498), 2),
            ("1193763600.M2P7Q1.mail,S=484,W=498:2,RS", "1193763600.M2P7Q1.mail", Some(498), 2),
            ("1193763600.M2P7.mail,W=498,S=484:2,", "1193763600.M2P7.mail", Some(498), 2),
            // Postfix tells no sizes, Courier only that of the file.
            ("1193763600.V801I2M123456.mail", "1193763600.V801I2M123456.mail", None, 0),
            ("1193763600.M123P9_courier.mail,S=484", "1193763600.M123P9_courier.mail", None, 123),
            // What is not right in form is part of the name, or no size.
            ("1193763600.a,S=,W=x", "1193763600.a,S=,W=x", None, 0),
            ("1193763600.a,b,S=4,W=6", "1193763600.a,b", Some(6), 0),
            ("1193763600.a,S=484,W=3", "1193763600.a", None, 0),
            ("1193763600.a,S=484,W=99999", "1193763600.a", None, 0),
            ("1193763600.a,S=1,W=99999999999999999999", "1193763600.a,S=1,W=99999999999999999999", None, 0),
        ] {
            assert_eq!(unique(name.as_bytes()), identity.as_bytes(), "{name}");
            assert_eq!(wire_octets_in(name.as_bytes()), octets, "{name}");
            assert_eq!(delivered_at(name.as_bytes()), 1_193_763_600_000_000 + micros, "{name}");
        }
        assert_eq!((delivered_at(b"hello"), unique(b""), wire_octets_in(b"")), (0, &b""[..], None));
    }

    #[test]
    fn octets_on_the_wire_are_the_same_in_every_chunk_size() {
        for (text, octets) in [
            (&b""[..], 0),
            (b"a\r\nb\r\n", 6),
            (b"a\nb\n", 6),
            (b"a\n\r\n\n", 7),
            (b"a\r\r\n", 4),
            (b"a", 3),
            (b"a\r\nb", 6),
            (b"a\r", 4),
            (b"\n", 2),
        ] {
            for size in 1..=text.len().max(1) {
                let mut counting = WireOctets::default();
                text.chunks(size).for_each(|chunk| counting.push(chunk));
                assert_eq!(counting.total(), octets, "{text:?} in chunks of {size}");
            }
        }
    }

    #[test]
    fn messages_come_oldest_first_whatever_folder_they_lie_in() {
        let (folder, maildir) = mailbox();
        put(&folder, "new/100.M20P1Q1.h,S=1,W=3", "c");
        put(&folder, "new/100.M3P1Q9.h,S=1,W=3", "b");
        put(&folder, "cur/99.M500000P1Q1.h,S=1,W=3:2,S", "a");
        put(&folder, "new/.hidden", "x");
        put(&folder, "tmp/98.M1P1Q1.h", "x");
        fs::create_dir(folder.path().join("bob/new/97.folder")).unwrap();
        let listing = maildir.lock().unwrap().scan().unwrap();
        assert_eq!(uids(&listing), ["99.M500000P1Q1.h", "100.M3P1Q9.h", "100.M20P1Q1.h"]);
        assert!((0..3).all(|index| listing.octets(index) == 3));
    }

    #[test]
    fn a_message_that_is_moved_while_we_look_is_one_message() {
        let mut listing = Listing::default();
        listing.push(Folder::New, b"1.M1P1Q1.h,S=1,W=3");
        listing.push(Folder::Cur, b"1.M1P1Q1.h,S=1,W=3:2,S");
        listing.sort();
        assert_eq!((listing.len(), listing.messages[0].folder), (1, Folder::Cur));
    }

    #[test]
    fn sizes_that_no_name_tells_are_counted_once_and_kept() {
        let (folder, maildir) = mailbox();
        for number in 0..COUNT_ALONE + 10 {
            put(&folder, &format!("new/{number}.V1I2M3.h"), "x\n".repeat(number % 7));
        }
        let locked = maildir.lock().unwrap();
        let listing = locked.scan().unwrap();
        let expected = |listing: &Listing| {
            assert_eq!(listing.len(), COUNT_ALONE + 10);
            (0..listing.len()).all(|index| listing.octets(index) == 3 * (index as u64 % 7))
        };
        assert!(expected(&listing));
        // What is in the index is not counted again: now it would come out otherwise.
        for number in 0..COUNT_ALONE + 10 {
            put(&folder, &format!("new/{number}.V1I2M3.h"), "");
        }
        assert!(expected(&locked.scan().unwrap()));
        // Flags do not matter, and what is gone leaves the index with the next count.
        fs::rename(folder.path().join("bob/new/6.V1I2M3.h"), folder.path().join("bob/cur/6.V1I2M3.h:2,S")).unwrap();
        fs::remove_file(folder.path().join("bob/new/5.V1I2M3.h")).unwrap();
        put(&folder, "new/9999.V1I2M3.h", "one more");
        let listing = locked.scan().unwrap();
        assert_eq!((listing.octets(5), listing.octets(listing.len() - 1)), (18, 10));
        let index = fs::read_to_string(folder.path().join("bob").join(SIZES)).unwrap();
        assert!(index.contains("18 6.V1I2M3.h\n") && !index.contains(" 5.V1I2M3.h"), "{index}");
        // A broken index costs time and nothing else.
        put(&folder, SIZES, b"x\n\xff 1 2\n99999999999999999999999 6.V1I2M3.h\n");
        assert_eq!(locked.scan().unwrap().octets(0), 0);
    }

    #[test]
    fn unique_ids_are_printable_short_and_stay() {
        let long = "x".repeat(71);
        let names = ["1.M1P1Q1.h,S=1,W=3:2,S", long.as_str(), "3 with blanks", "4.h\u{e5}ll", ",S=1,W=3"];
        let listing = Listing::of(names.map(|name| (name, 3)));
        let mut uids = uids(&listing);
        assert!(uids.iter().all(|uid| (1..=UID_OCTETS_MAX).contains(&uid.len())), "{uids:?}");
        assert!(uids.iter().all(|uid| uid.bytes().all(|octet| (0x21..=0x7e).contains(&octet))), "{uids:?}");
        assert!(uids.contains(&"1.M1P1Q1.h".to_owned()), "{uids:?}");
        uids.sort();
        uids.dedup();
        assert_eq!(uids.len(), names.len());
        // For ever: this one must never change.
        let hashed = Listing::of([("3 with blanks", 1)]).uid(0);
        assert_eq!(hashed, "sha256-f5d2a0e0240e419192250edc4a0334fe6f03804f8675808c");
    }

    #[test]
    fn one_reader_at_a_time_has_the_mailbox() {
        let (folder, maildir) = mailbox();
        let first = maildir.lock().unwrap();
        let again = || Maildir::open(&folder.path().join("bob")).unwrap().lock();
        assert!(matches!(again(), Err(LockError::Busy)));
        drop(first);
        assert!(again().is_ok());
    }

    #[test]
    fn symbolic_links_and_pipes_are_no_messages() {
        let (folder, maildir) = mailbox();
        put(&folder, "secret", "of somebody else");
        symlink(folder.path().join("bob/secret"), folder.path().join("bob/new/1.M1P1Q1.h,S=1,W=3")).unwrap();
        let locked = maildir.lock().unwrap();
        assert!(locked.scan().unwrap().is_empty());
        // Put there after we looked.
        put(&folder, "new/2.M1P1Q1.h,S=1,W=3", "x");
        let listing = locked.scan().unwrap();
        let path = folder.path().join("bob/new/2.M1P1Q1.h,S=1,W=3");
        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("bob/secret"), &path).unwrap();
        for patience in [Patience::Cached, Patience::Disk] {
            assert!(locked.open(&listing, 0, patience).is_err());
        }
        fs::remove_file(&path).unwrap();
        rustix::fs::mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let error = locked.open(&listing, 0, Patience::Disk).unwrap_err();
        assert_eq!(error.to_string(), "not a regular file");
        // Nor does a folder lead elsewhere.
        fs::remove_dir_all(folder.path().join("bob/cur")).unwrap();
        symlink("/", folder.path().join("bob/cur")).unwrap();
        drop(locked);
        assert!(Maildir::open(&folder.path().join("bob")).unwrap().lock().is_err());
    }

    #[test]
    fn a_message_is_found_again_when_its_flags_change_and_missed_when_it_is_gone() {
        let (folder, maildir) = mailbox();
        put(&folder, "new/1.M1P1Q1.h,S=5,W=7", "hello");
        let locked = maildir.lock().unwrap();
        let listing = locked.scan().unwrap();
        let bob = folder.path().join("bob");
        fs::rename(bob.join("new/1.M1P1Q1.h,S=5,W=7"), bob.join("cur/1.M1P1Q1.h,S=5,W=7:2,RS")).unwrap();
        let source = locked.open(&listing, 0, Patience::Disk).unwrap();
        let mut buffer = [0; 8];
        assert_eq!((source.length(), read_at(&source, &mut buffer, 1, Patience::Disk).unwrap()), (5, 4));
        assert_eq!(&buffer[..4], b"ello");
        assert!(matches!(locked.remove(&listing, 0), Removal::Removed));
        assert!(matches!(locked.remove(&listing, 0), Removal::WasGone));
        assert_eq!(locked.open(&listing, 0, Patience::Disk).unwrap_err().kind(), io::ErrorKind::NotFound);
        locked.sync().unwrap();
    }

    #[test]
    fn another_reader_that_moves_everything_costs_one_look_at_the_mailbox() {
        let (folder, maildir) = mailbox();
        let name = |number: usize| format!("10000{number:02}.M1P1Q1.h,S=1,W=1");
        let file = |place: &str, name: String| folder.path().join("bob").join(place).join(name);
        (0..20).for_each(|number| fs::write(file("new", name(number)), "x").unwrap());
        let locked = maildir.lock().unwrap();
        let listing = locked.scan().unwrap();
        for number in 0..20 {
            fs::rename(file("new", name(number)), file("cur", name(number) + ":2,S")).unwrap();
        }
        (15..20).for_each(|number| fs::remove_file(file("cur", name(number) + ":2,S")).unwrap());
        (0..15).for_each(|index| drop(locked.open(&listing, index, Patience::Disk).unwrap()));
        assert_eq!(locked.looks(), 1);
        // And one more, when it moves one again.
        fs::rename(file("cur", name(7) + ":2,S"), file("cur", name(7) + ":2,RS")).unwrap();
        for index in 0..20 {
            let (removal, is_there) = (locked.remove(&listing, index), index < 15);
            assert!(
                matches!(removal, Removal::Removed) == is_there && !matches!(removal, Removal::Failed(_)),
                "{index}"
            );
        }
        assert_eq!(locked.looks(), 2);
        assert_eq!(fs::read_dir(folder.path().join("bob/cur")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_memory_is_read_without_waiting_and_the_same_as_from_the_disk() {
        let (folder, maildir) = mailbox();
        put(&folder, "new/1.M1P1Q1.h", "some words\n");
        let locked = maildir.lock().unwrap();
        let listing = locked.scan().unwrap();
        assert_eq!(listing.octets(0), 12);
        let read = |patience| {
            let source = locked.open(&listing, 0, patience)?;
            let mut buffer = [0; 64];
            read_at(&source, &mut buffer, 0, patience).map(|octets| buffer[..octets].to_vec())
        };
        let from_disk = read(Patience::Disk).unwrap();
        match read(Patience::Cached) {
            Ok(cached) => assert_eq!(cached, from_disk),
            // A file system without the flags.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    #[test]
    fn a_delivery_appears_whole_with_its_sizes_and_only_when_placed() {
        let (folder, maildir) = mailbox();
        let mut delivery = maildir.deliver(UniqueName::new("q1-bob").unwrap(), Attempt::First).unwrap();
        delivery.write_all(b"Subject: x\n\nhel").unwrap();
        delivery.write_all(b"lo\r\n").unwrap();
        assert_eq!((files(&folder, "tmp"), files(&folder, "new")), (vec!["q1-bob".to_owned()], vec![]));
        assert_eq!(delivery.place().unwrap(), Placed::Now);
        delivery.sync_name().unwrap();
        assert_eq!((files(&folder, "tmp"), files(&folder, "new")), (vec![], vec!["q1-bob,S=19,W=21".to_owned()]));
        // Given up.
        drop(maildir.deliver(UniqueName::new("q2-bob").unwrap(), Attempt::First).unwrap());
        assert_eq!((files(&folder, "tmp").len(), files(&folder, "new").len()), (0, 1));
    }

    #[test]
    fn a_delivery_that_is_tried_again_makes_no_second_message() {
        let (folder, maildir) = mailbox();
        assert_eq!(deliver(&maildir, "q1-bob", Attempt::First, b"x\n").unwrap(), Placed::Now);
        assert_eq!(deliver(&maildir, "q1-bob", Attempt::Again, b"x\n").unwrap(), Placed::Before);
        // Nobody has tried it before, so it is another message: its sender must not hear that it is there.
        let error = deliver(&maildir, "q1-bob", Attempt::First, b"y\n").unwrap_err();
        assert_eq!((error.kind(), files(&folder, "tmp").len()), (io::ErrorKind::AlreadyExists, 0));
        // A reader has seen it meanwhile.
        let bob = folder.path().join("bob");
        fs::rename(bob.join("new/q1-bob,S=2,W=3"), bob.join("cur/q1-bob,S=2,W=3:2,S")).unwrap();
        assert_eq!(deliver(&maildir, "q1-bob", Attempt::Again, b"x\n").unwrap(), Placed::Before);
        assert_eq!((files(&folder, "new").len(), files(&folder, "cur").len()), (0, 1));
        // The crash came before: what was left half-way does not stand in the way.
        put(&folder, "tmp/q2-bob", "half");
        let error = deliver(&maildir, "q2-bob", Attempt::First, b"x\n").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(deliver(&maildir, "q2-bob", Attempt::Again, b"whole\n").unwrap(), Placed::Now);
        assert_eq!((files(&folder, "new"), files(&folder, "tmp").len()), (vec!["q2-bob,S=6,W=7".to_owned()], 0));
    }

    #[test]
    fn deliverers_and_a_reader_do_not_disturb_each_other() {
        const EACH: usize = 100;
        let (folder, maildir) = mailbox();
        let begin = Barrier::new(3);
        thread::scope(|scope| {
            let deliverers = [(); 2].map(|()| {
                scope.spawn(|| {
                    begin.wait();
                    for _ in 0..EACH {
                        let name = UniqueName::generate(SystemTime::now(), "mail.hamburger.edu");
                        let mut delivery = maildir.deliver(name, Attempt::First).unwrap();
                        delivery.write_all(b"hello\n").unwrap();
                        assert_eq!(delivery.place().unwrap(), Placed::Now);
                    }
                })
            });
            begin.wait();
            let (locked, mut seen) = (locked(&folder), 0);
            while !deliverers.iter().all(thread::ScopedJoinHandle::is_finished) {
                let listing = locked.scan().unwrap();
                assert!(listing.len() >= seen && (0..listing.len()).all(|index| listing.octets(index) == 7));
                seen = listing.len();
            }
            let mut uids = uids(&locked.scan().unwrap());
            uids.sort();
            uids.dedup();
            assert_eq!(uids.len(), 2 * EACH, "{seen} were seen on the way");
        });
    }

    #[test]
    fn what_was_given_up_is_swept_away_and_what_is_under_way_is_not() {
        let (folder, maildir) = mailbox();
        put(&folder, "tmp/old", "x");
        put(&folder, "tmp/young", "x");
        let now = SystemTime::now();
        let file = File::options().write(true).open(folder.path().join("bob/tmp/old")).unwrap();
        file.set_modified(now - GIVEN_UP_AFTER - Duration::from_secs(5)).unwrap();
        assert_eq!(maildir.sweep(now).unwrap(), 1);
        assert_eq!(files(&folder, "tmp"), ["young"]);
    }

    #[test]
    fn names_for_deliveries_are_safe_as_file_names() {
        for good in ["q1-bob", "1.M1P1Q1.mail.hamburger.edu", "4Fxyz=bob+x@hamburger.edu"] {
            assert!(UniqueName::new(good).is_some(), "{good}");
        }
        let long = "x".repeat(UNIQUE_OCTETS_MAX + 1);
        for bad in ["", ".", "..", ".hidden", "a/b", "a:2,S", "a,S=1", "a b", "h\u{e5}ll", "a\0b", &long] {
            assert!(UniqueName::new(bad).is_none(), "{bad}");
        }
        let generated = UniqueName::generate(SystemTime::now(), "a/b:c,d\u{e5}.example").to_string();
        assert!(generated.ends_with(".abcd.example") && UniqueName::new(&*generated).is_some(), "{generated}");
    }

    #[test]
    fn a_missing_mailbox_is_told_and_a_new_one_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/bob");
        assert_eq!(Maildir::open(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        Maildir::open_or_create(&path).unwrap();
        for dir in [path.clone(), path.join("new")] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700);
        }
        Maildir::open_or_create(&path).unwrap();
    }
}
