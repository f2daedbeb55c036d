//! Mailboxes of this server: how a message gets into one. All functions here block.
//!
//! A mailbox is a Maildir, `mailboxes/bob`, which `tomte-pop3`, or any other server that knows Maildir, hands out. The message is
//! written to `tmp/`, synced, renamed to `new/`, and the directory synced: then it is delivered ([`shared::maildir`]).

use crate::{
    address::ReversePath,
    crash,
    group::Group,
    quota::{Room, Stock},
    route::Target,
    spool::{BUFFER_OCTETS, Id},
};
use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use shared::maildir::{self, Attempt, Delivery, Maildir, Placed, UniqueName};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// A `.forward` that is longer is no list of addresses.
const FORWARD_OCTETS_MAX: u64 = 16 << 10;
/// How often a mailbox is looked through for what others gave up half-way.
const SWEEP_EVERY: Duration = Duration::from_hours(24);

/// All mailboxes.
#[derive(Debug)]
pub(crate) struct Mailboxes {
    root: PathBuf,
    host: String,
    /// Octets that a mailbox may hold.
    quota: Option<u64>,
    /// As many as there are accounts.
    known: Mutex<HashMap<PathBuf, Known>>,
}

#[derive(Debug)]
struct Known {
    group: Arc<Group>,
    stock: Arc<Mutex<Stock>>,
    swept: Option<Instant>,
}

/// What came of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The message is in the mailbox, and stays there.
    Placed(Placed),
    /// It is not: there is no room for it.
    NoRoom(Room),
}

impl Mailboxes {
    pub(crate) fn new(root: &Path, host: &str, quota: Option<u64>) -> Self {
        Self { root: root.to_owned(), host: host.to_owned(), quota, known: Mutex::default() }
    }

    /// The mailbox of an account; none for a name that would lead elsewhere.
    fn path(&self, account: &str) -> io::Result<PathBuf> {
        maildir::of_account(&self.root, account).ok_or_else(|| io::ErrorKind::InvalidFilename.into())
    }

    /// What a message is called there: from queue id and recipient, so that a delivery that is made again finds itself.
    pub(crate) fn name(&self, id: Id, recipient: usize) -> io::Result<UniqueName> {
        let time = id.arrived().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let host: String =
            self.host.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_".contains(*c)).take(64).collect();
        // Six digits, so that `ls` shows what came first first.
        let text = format!("{}.M{:06}Q{id}R{recipient}.{host}", time.as_secs(), time.subsec_micros());
        UniqueName::new(text).ok_or_else(|| io::ErrorKind::InvalidFilename.into())
    }

    /// Whether there is room for `octets` more.
    pub(crate) fn room(&self, account: &str, octets: u64) -> io::Result<Room> {
        let Some(quota) = self.quota else { return Ok(Room::Enough) };
        let path = self.path(account)?;
        locked(&self.stock(&path)).room(&path, octets, quota, Instant::now())
    }

    /// Whether a quota is set, so that [`Mailboxes::room`] is worth asking.
    pub(crate) fn has_quota(&self) -> bool {
        self.quota.is_some()
    }

    /// To whom the owner forwards: the lines of `.forward` in the mailbox, each an address or a name; `\bob`, or bob's own name,
    /// keeps a copy. None when there is no such file. Lines that are neither are told in the log and passed over.
    pub(crate) fn forward(&self, account: &str) -> io::Result<Option<Vec<Target>>> {
        // Whoever can write there must not lead us elsewhere by a symbolic link, nor keep us waiting with a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(CWD, self.path(account)?.join(".forward"), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no regular file"));
        }
        let mut text = String::new();
        file.take(FORWARD_OCTETS_MAX).read_to_string(&mut text)?;
        let entries = text.lines().flat_map(|line| line.split(',')).map(str::trim);
        let mut targets = vec![];
        for entry in entries.filter(|entry| !entry.is_empty() && !entry.starts_with('#')) {
            match Target::parse(entry) {
                Ok(target) => targets.push(target),
                Err(error) => tracing::warn!(account, entry, %error, "no address in .forward"),
            }
        }
        Ok((!targets.is_empty()).then_some(targets))
    }

    /// Whether the owner forwards.
    pub(crate) fn forwards(&self, account: &str) -> bool {
        self.path(account).is_ok_and(|path| path.join(".forward").exists())
    }

    fn known<T>(&self, path: &Path, of: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Known { group: Arc::default(), stock: Arc::default(), swept: None };
        of(known.entry(path.to_owned()).or_insert_with(new))
    }

    fn stock(&self, path: &Path) -> Arc<Mutex<Stock>> {
        self.known(path, |known| Arc::clone(&known.stock))
    }

    fn group(&self, path: &Path, now: Instant) -> (Arc<Group>, bool) {
        self.known(path, |known| {
            let due = known.swept.is_none_or(|swept| now.duration_since(swept) >= SWEEP_EVERY);
            if due {
                known.swept = Some(now);
            }
            (Arc::clone(&known.group), due)
        })
    }

    /// A message that begins to go into a mailbox. Nothing is on disk yet.
    pub(crate) fn letter(
        self: &Arc<Self>,
        account: &str,
        name: UniqueName,
        attempt: Attempt,
        from: &ReversePath,
    ) -> io::Result<Letter> {
        let path = self.path(account)?;
        // RFC 5321 §4.4: the server that makes the final delivery puts the return path at the beginning.
        let buffer = format!("Return-Path: {from}\r\n").into_bytes();
        Ok(Letter { mailboxes: Arc::clone(self), path, name, attempt, buffer, begun: None })
    }

    /// Puts `octets` octets of a file, from `start` on, into a mailbox.
    pub(crate) fn deliver(
        self: &Arc<Self>,
        account: &str,
        name: UniqueName,
        attempt: Attempt,
        from: &ReversePath,
        (message, start, octets): (&File, u64, u64),
    ) -> io::Result<Sent> {
        let mut letter = self.letter(account, name, attempt, from)?;
        let mut at = 0;
        while at < octets {
            let buffer = letter.buffer();
            let held = buffer.len();
            let wanted = usize::try_from(octets - at).unwrap_or(usize::MAX).min(BUFFER_OCTETS);
            buffer.resize(held + wanted, 0);
            message.read_exact_at(&mut buffer[held..], start + at)?;
            at += wanted as u64;
            letter.spill()?;
        }
        letter.commit()
    }
}

/// A message on its way into a mailbox. Dropped before [`Letter::commit`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct Letter {
    mailboxes: Arc<Mailboxes>,
    path: PathBuf,
    name: UniqueName,
    attempt: Attempt,
    buffer: Vec<u8>,
    begun: Option<(Maildir, Delivery)>,
}

impl Letter {
    /// Where more of the message is added. When it has become long, [`Letter::spill`] it.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether enough waits in memory to be written.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_OCTETS
    }

    /// Writes what waits in memory.
    pub(crate) fn spill(&mut self) -> io::Result<()> {
        let (_, delivery) = if let Some(begun) = &mut self.begun {
            begun
        } else {
            let begin = |maildir: Maildir| {
                let delivery = maildir.deliver(self.name.clone(), self.attempt)?;
                Ok((maildir, delivery))
            };
            let opened = match Maildir::open(&self.path).and_then(begin) {
                // Somebody's first message.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Maildir::open_or_create(&self.path).and_then(begin)
                }
                opened => opened,
            };
            self.begun.insert(opened?)
        };
        delivery.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// Delivers: when this returns, the message is in the mailbox, and stays there; or there is no room. After an error it is not, as far as
    /// that can be undone; whoever tries again under the same name makes no second one in any case.
    pub(crate) fn commit(self) -> io::Result<Sent> {
        self.commit_by(Delivery::sync_name)
    }

    /// The same with another way to make the name durable, so that a test can have it fail.
    fn commit_by(mut self, sync: impl FnOnce(&Delivery) -> io::Result<()>) -> io::Result<Sent> {
        self.spill()?;
        let Some((maildir, mut delivery)) = self.begun.take() else { return Err(io::ErrorKind::Other.into()) };
        crash::here("letter written");
        let placed = match self.place(&mut delivery)? {
            Sent::Placed(placed) => placed,
            full @ Sent::NoRoom(_) => return Ok(full),
        };
        crash::here("letter placed");
        let (group, sweep) = self.mailboxes.group(&self.path, Instant::now());
        if let Err(error) = group.sync(|| sync(&delivery)) {
            if placed == Placed::Now {
                self.take_back(&delivery);
            }
            return Err(error);
        }
        if sweep && let Err(error) = maildir.sweep(SystemTime::now()) {
            tracing::debug!(mailbox = %self.path.display(), %error, "cannot look through tmp/");
        }
        Ok(Sent::Placed(placed))
    }

    /// Shows the message to readers, if there is room for it.
    fn place(&self, delivery: &mut Delivery) -> io::Result<Sent> {
        let Some(quota) = self.mailboxes.quota else { return delivery.place().map(Sent::Placed) };
        let (stock, octets) = (self.mailboxes.stock(&self.path), delivery.octets());
        let full = |stock: &mut Stock| {
            let room = stock.room(&self.path, octets, quota, Instant::now())?;
            Ok::<_, io::Error>((room != Room::Enough).then_some(Sent::NoRoom(room)))
        };
        if let Some(full) = full(&mut locked(&stock))? {
            return Ok(full);
        }
        delivery.sync()?;
        // Others may have come meanwhile. Now nobody can: what is looked at and what is added are the same, however many come at once.
        let mut stock = locked(&stock);
        if let Some(full) = full(&mut stock)? {
            return Ok(full);
        }
        let placed = delivery.place()?;
        if placed == Placed::Now {
            stock.add(octets);
        }
        Ok(Sent::Placed(placed))
    }

    /// Nobody was told 250. A client that waits for it comes again with the same message under another name, and its owner would have two.
    fn take_back(&self, delivery: &Delivery) {
        let (mailbox, name) = (self.path.display(), &self.name);
        match delivery.take_back() {
            Ok(()) => {
                locked(&self.mailboxes.stock(&self.path)).forget();
                tracing::warn!(%mailbox, %name, "took back a message whose name cannot be made durable");
            }
            Err(error) => {
                tracing::error!(%mailbox, %name, %error, "cannot take back a message; there may be two of it");
            }
        }
    }
}

fn locked(stock: &Mutex<Stock>) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FileType, mknodat};
    use std::fs;

    fn mailboxes(quota: Option<u64>) -> (tempfile::TempDir, Arc<Mailboxes>) {
        let folder = tempfile::tempdir().unwrap();
        let mailboxes = Mailboxes::new(folder.path(), "mail.hamburger.edu", quota);
        (folder, Arc::new(mailboxes))
    }

    fn new(folder: &tempfile::TempDir) -> Vec<PathBuf> {
        fs::read_dir(folder.path().join("bob/new")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_delivery_that_is_made_again_makes_no_second_message() {
        let (folder, mailboxes) = mailboxes(None);
        let mut message = tempfile::tempfile().unwrap();
        message.write_all(b"headS: x\r\n\r\nhello\r\n").unwrap();
        let (id, from) = (Id::new(SystemTime::now()), "<alice@crepes.fr>".parse().unwrap());
        let deliver = |attempt| {
            let name = mailboxes.name(id, 0).unwrap();
            mailboxes.deliver("bob", name, attempt, &from, (&message, 4, 15)).unwrap()
        };
        assert_eq!(deliver(Attempt::First), Sent::Placed(Placed::Now));
        assert_eq!(deliver(Attempt::Again), Sent::Placed(Placed::Before));
        let files = new(&folder);
        assert_eq!(files.len(), 1);
        let text = fs::read_to_string(&files[0]).unwrap();
        assert_eq!(text, "Return-Path: <alice@crepes.fr>\r\nS: x\r\n\r\nhello\r\n");
        assert!(files[0].to_str().unwrap().ends_with(",S=47,W=47"), "{files:?}");
    }

    #[test]
    fn names_sort_as_messages_came() {
        let (_folder, mailboxes) = mailboxes(None);
        let at = |micros| {
            let id = Id::new(SystemTime::now() + Duration::from_hours(1) + Duration::from_micros(micros));
            mailboxes.name(id, 0).unwrap().to_string()
        };
        let names: Vec<String> = (0..50).map(|number| at(number * 40_123)).collect();
        assert!(names.is_sorted(), "{names:?}");
    }

    #[test]
    fn a_name_that_cannot_be_made_durable_leaves_no_message() {
        let (folder, mailboxes) = mailboxes(None);
        let id = Id::new(SystemTime::now());
        let letter = |attempt| {
            let name = mailboxes.name(id, 0).unwrap();
            let mut letter = mailboxes.letter("bob", name, attempt, &ReversePath::Null).unwrap();
            letter.buffer().extend_from_slice(b"S: x\r\n\r\nhello\r\n");
            letter
        };
        let fails = |_: &Delivery| Err(io::Error::from_raw_os_error(5));
        let error = letter(Attempt::First).commit_by(fails).unwrap_err();
        assert_eq!((error.raw_os_error(), new(&folder)), (Some(5), vec![]));
        assert_eq!(letter(Attempt::First).commit().unwrap(), Sent::Placed(Placed::Now));
        // What is there from an earlier try stays.
        letter(Attempt::Again).commit_by(fails).unwrap_err();
        assert_eq!(new(&folder).len(), 1);
    }

    /// Puts a message of so many octets into bob's mailbox.
    fn send(mailboxes: &Arc<Mailboxes>, octets: usize) -> Sent {
        let name = mailboxes.name(Id::new(SystemTime::now()), 0).unwrap();
        let mut letter = mailboxes.letter("bob", name, Attempt::First, &ReversePath::Null).unwrap();
        letter.buffer().clear();
        letter.buffer().resize(octets, b'x');
        letter.commit().unwrap()
    }

    #[test]
    fn a_quota_is_kept() {
        let (folder, mailboxes) = mailboxes(Some(100));
        assert_eq!(mailboxes.room("bob", 100).unwrap(), Room::Enough);
        assert_eq!(mailboxes.room("bob", 101).unwrap(), Room::Never { quota: 100 });
        assert_eq!(send(&mailboxes, 101), Sent::NoRoom(Room::Never { quota: 100 }));
        assert_eq!(send(&mailboxes, 60), Sent::Placed(Placed::Now));
        assert_eq!(mailboxes.room("bob", 41).unwrap(), Room::NotNow);
        assert_eq!(send(&mailboxes, 41), Sent::NoRoom(Room::NotNow));
        assert_eq!(send(&mailboxes, 40), Sent::Placed(Placed::Now));
        assert_eq!(new(&folder).len(), 2);
        assert_eq!(fs::read_dir(folder.path().join("bob/tmp")).unwrap().count(), 0);
    }

    #[test]
    fn many_at_once_do_not_go_beyond_a_quota_together() {
        let (folder, mailboxes) = mailboxes(Some(1000));
        send(&mailboxes, 1);
        let placed = std::thread::scope(|scope| {
            let senders: Vec<_> =
                (0..8).map(|_| scope.spawn(|| (0..10).map(|_| send(&mailboxes, 30)).collect())).collect();
            let sent = senders.into_iter().flat_map(|sender| -> Vec<Sent> { sender.join().unwrap() });
            sent.filter(|sent| matches!(sent, Sent::Placed(_))).count()
        });
        assert_eq!((placed, new(&folder).len()), (33, 34));
    }

    #[test]
    fn a_mailbox_is_not_gone_through_for_each_message() {
        let (folder, mailboxes) = mailboxes(Some(100_000));
        send(&mailboxes, 10);
        let looks = || mailboxes.stock(&folder.path().join("bob")).lock().unwrap().looks;
        let before = looks();
        for number in 0..100 {
            assert_eq!(mailboxes.room("bob", 10).unwrap(), Room::Enough, "{number}");
            send(&mailboxes, 10);
        }
        // Once a second at most while it changes, and it took less than ten.
        assert!(looks() - before < 10, "{}", looks());
    }

    /// What its owner takes away makes room at once, even for whoever has just been told that there is none.
    #[test]
    fn a_refusal_is_never_about_what_is_gone() {
        let (folder, mailboxes) = mailboxes(Some(100));
        send(&mailboxes, 90);
        // Now the clock of the file system goes on before the next change.
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        File::open(folder.path().join("bob/new")).unwrap().set_modified(long_ago).unwrap();
        assert_eq!(mailboxes.room("bob", 90).unwrap(), Room::NotNow);
        fs::remove_file(&new(&folder)[0]).unwrap();
        assert_eq!(mailboxes.room("bob", 90).unwrap(), Room::Enough);
    }

    /// A mailbox that nobody has touched for long is not gone through again, and what others put there is seen.
    #[test]
    fn what_others_do_to_a_mailbox_is_seen() {
        let (folder, mailboxes) = mailboxes(Some(1000));
        send(&mailboxes, 10);
        let (bob, stock) = (folder.path().join("bob"), mailboxes.stock(&folder.path().join("bob")));
        let long_ago = SystemTime::now() - Duration::from_hours(1);
        for dir in ["new", "cur"] {
            File::open(bob.join(dir)).unwrap().set_modified(long_ago).unwrap();
        }
        let later = |seconds| Instant::now() + Duration::from_secs(seconds);
        let room = |at| stock.lock().unwrap().room(&bob, 500, 1000, at).unwrap();
        assert_eq!(room(later(10)), Room::Enough);
        let looks = stock.lock().unwrap().looks;
        assert_eq!((room(later(20)), stock.lock().unwrap().looks), (Room::Enough, looks));
        fs::write(bob.join("cur/1.M1P1Q1.h,S=600,W=600:2,S"), "").unwrap();
        assert_eq!(room(later(30)), Room::NotNow);
    }

    #[test]
    fn no_account_leads_out_of_the_mailboxes() {
        let (_folder, mailboxes) = mailboxes(None);
        for account in ["", "..", "../etc", "/etc", "a/b", "a\0"] {
            let name = mailboxes.name(Id::new(SystemTime::now()), 0).unwrap();
            assert!(mailboxes.letter(account, name, Attempt::First, &ReversePath::Null).is_err(), "{account:?}");
        }
    }

    /// Whoever can write there must not lead us elsewhere, nor keep us waiting.
    #[test]
    fn a_forward_file_that_is_a_pipe_or_a_link_is_told_and_keeps_nobody_waiting() {
        let (folder, mailboxes) = mailboxes(None);
        let (bob, elsewhere) = (folder.path().join("bob"), folder.path().join("elsewhere"));
        fs::create_dir(&bob).unwrap();
        fs::write(&elsewhere, "carol").unwrap();
        let file = bob.join(".forward");
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR, 0).unwrap();
        mailboxes.forward("bob").unwrap_err();
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
        mailboxes.forward("bob").unwrap_err();
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        mailboxes.forward("bob").unwrap_err();
    }

    #[test]
    fn forward_files_are_read_as_people_write_them() {
        let (folder, mailboxes) = mailboxes(None);
        assert_eq!(mailboxes.forward("bob").unwrap(), None);
        fs::create_dir(folder.path().join("bob")).unwrap();
        fs::write(folder.path().join("bob/.forward"), "# away\n\\bob, alice@crepes.fr\nno@where@at\n\n").unwrap();
        let targets = ["\\bob", "alice@crepes.fr"].map(|text| Target::parse(text).unwrap());
        assert_eq!(mailboxes.forward("bob").unwrap(), Some(targets.to_vec()));
        fs::write(folder.path().join("bob/.forward"), "\n").unwrap();
        assert_eq!(mailboxes.forward("bob").unwrap(), None);
    }
}
