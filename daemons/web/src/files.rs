//! Files beneath a document root, and the small ones kept in memory.
//!
//! A path is opened in one step by openat2(2) with `RESOLVE_BENEATH`: the kernel itself refuses `..`, absolute symlinks
//! and every other way out, also when somebody swaps a directory for a symlink while we look. What cannot be opened is
//! [`Missing`], with the reason that the error page and the log give.

use crate::{
    conditional::Validators,
    listing::{Entry, Kind},
};
use bytes::Bytes;
use http::HeaderValue;
use rustix::{
    fs::{CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2},
    io::Errno,
};
use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// What lies at a path.
#[derive(Debug)]
pub(crate) enum Opened {
    File(OpenFile),
    Directory(OwnedFd),
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) stamp: Stamp,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    changed: (i64, i64),
    pub(crate) octets: u64,
    pub(crate) modified: SystemTime,
}

impl Stamp {
    fn of(stat: &Stat) -> Self {
        let since_epoch = |secs: i64, nanos: i64| {
            let whole = Duration::from_secs(secs.unsigned_abs());
            let base = if secs < 0 {
                SystemTime::UNIX_EPOCH.checked_sub(whole)
            } else {
                SystemTime::UNIX_EPOCH.checked_add(whole)
            };
            base.map_or(SystemTime::UNIX_EPOCH, |base| base + Duration::from_nanos(nanos.unsigned_abs()))
        };
        #[expect(
            clippy::cast_possible_wrap,
            reason = "the type of nanoseconds differs between C libraries; the value is below 10^9"
        )]
        let (modified_nanos, changed_nanos) = (stat.st_mtime_nsec as i64, stat.st_ctime_nsec as i64);
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            changed: (stat.st_ctime, changed_nanos),
            octets: stat.st_size.unsigned_abs(),
            modified: since_epoch(stat.st_mtime, modified_nanos),
        }
    }
}

/// Why there is nothing to serve at a path.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Missing {
    /// 404
    #[error("no such file")]
    NotFound,
    /// 404: there is a file, and the path goes on behind it.
    #[error("a part of the path before the last is a file, not a directory")]
    ThroughFile,
    /// 404: no file system has such a name.
    #[error("the name is longer than a file name can be")]
    NameTooLong,
    /// 403
    #[error("the file exists, but the server has no permission to read it")]
    Forbidden,
    /// 403
    #[error("a symbolic link leads out of the document root")]
    Escapes,
    /// 403
    #[error("symbolic links lead round in a circle")]
    Circle,
    /// 403: a device, pipe or socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// 500
    #[error("the document root itself cannot be opened: {0}")]
    Root(io::Error),
    /// 503
    #[error("too many files are open at the moment")]
    TooManyOpen,
    /// 500
    #[error("{0}")]
    Other(io::Error),
}

/// Another process may rename a directory on our path while the kernel walks it; it then says EAGAIN (openat2(2)).
const RACES_MAX: u32 = 16;

/// Opens `path`, which is relative to `root` and may be empty for the root itself.
pub(crate) fn open(root: &Path, path: &[u8]) -> Result<Opened, Missing> {
    // The root is opened anew each time, so that a site can be replaced by renaming its directory.
    let root =
        openat2(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())
            .map_err(|error| Missing::Root(error.into()))?;
    let path = if path.is_empty() { b"." } else { path };
    // O_NONBLOCK: opening a pipe must not wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut races = 0;
    let fd = loop {
        match openat2(&root, path, flags, Mode::empty(), beneath) {
            Ok(fd) => break fd,
            Err(Errno::AGAIN | Errno::INTR) if races < RACES_MAX => races += 1,
            Err(error) => return Err(Missing::from(error)),
        }
    };
    let stat = fstat(&fd).map_err(Missing::from)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(Opened::File(OpenFile { file: fd.into(), stamp: Stamp::of(&stat) })),
        FileType::Directory => Ok(Opened::Directory(fd)),
        _ => Err(Missing::NotRegular),
    }
}

impl From<Errno> for Missing {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Missing::NotFound,
            Errno::NOTDIR => Missing::ThroughFile,
            Errno::NAMETOOLONG => Missing::NameTooLong,
            Errno::ACCESS | Errno::PERM => Missing::Forbidden,
            // RESOLVE_BENEATH: "EXDEV: an escape from the root during path resolution was detected".
            Errno::XDEV => Missing::Escapes,
            Errno::LOOP => Missing::Circle,
            // A socket cannot be opened at all, a device may have no driver.
            Errno::NXIO | Errno::NODEV => Missing::NotRegular,
            Errno::MFILE | Errno::NFILE => Missing::TooManyOpen,
            other => Missing::Other(other.into()),
        }
    }
}

/// A listing longer than this helps nobody, and reading it would hold up everybody else.
pub(crate) const LISTING_MAX: usize = 10_000;

/// The entries of a directory that can be served: no dot files, nothing but files and directories.
pub(crate) fn list(directory: &OwnedFd) -> io::Result<Vec<Entry>> {
    let mut entries = vec![];
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name.starts_with(b".") {
            continue;
        }
        // Looked up the way a request would: a symlink shows what it leads to, and one that leads out is left out.
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let Ok(fd) = openat2(directory, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath) else { continue };
        let Ok(stat) = fstat(&fd) else { continue };
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            _ => continue,
        };
        let stamp = Stamp::of(&stat);
        entries.push(Entry { name: name.to_vec(), kind, size: stamp.octets, modified: stamp.modified });
        if entries.len() == LISTING_MAX {
            break;
        }
    }
    Ok(entries)
}

/// A file as a response describes it: header values that are made once, not with every request.
#[derive(Debug)]
pub(crate) struct Entity {
    pub(crate) stamp: Stamp,
    pub(crate) validators: Validators,
    pub(crate) last_modified: HeaderValue,
    pub(crate) content_type: HeaderValue,
    pub(crate) content_length: HeaderValue,
}

impl Entity {
    pub(crate) fn new(stamp: Stamp, content_type: HeaderValue, now: SystemTime) -> Self {
        let validators = Validators::of_file(stamp.modified, stamp.octets, now);
        let last_modified = HeaderValue::try_from(httpdate::fmt_http_date(validators.last_modified));
        Self {
            stamp,
            last_modified: last_modified.expect("an HTTP date is plain ASCII"),
            validators,
            content_type,
            content_length: HeaderValue::from(stamp.octets),
        }
    }
}

impl Entity {
    /// Whether the validators are final: a file changed within this second may change again without a sign.
    pub(crate) fn is_settled(&self) -> bool {
        self.validators.etag.header_value().as_bytes().starts_with(b"\"")
    }
}

/// A small file in memory.
#[derive(Debug)]
pub(crate) struct Small {
    pub(crate) entity: Entity,
    pub(crate) octets: Bytes,
    /// Status line and fields of the usual answer as they are sent, for the [shortcut](crate::shortcut).
    pub(crate) head: Box<[u8]>,
    /// When the file was last looked at, in milliseconds since the memory was made.
    checked: AtomicU64,
    /// Whether it was asked for since the last sweep.
    used: AtomicBool,
}

/// How long a small file is served without looking at the disk again: a stat for each second instead of each request,
/// and nobody who saves a page and reloads it sees the old one.
const TRUSTED: Duration = Duration::from_secs(1);

/// Small files, by the request target that led to them.
#[derive(Debug)]
pub(crate) struct Memory {
    began: Instant,
    octets_max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    files: HashMap<Box<[u8]>, Arc<Small>>,
    octets: usize,
}

/// What the memory says of a target.
#[derive(Debug)]
pub(crate) enum Remembered {
    /// Serve this.
    Fresh(Arc<Small>),
    /// Look whether the file still has this stamp; then [`Memory::confirm`] it.
    Stale(Arc<Small>),
    Unknown,
}

impl Memory {
    pub(crate) fn new(octets_max: usize) -> Self {
        Self { began: Instant::now(), octets_max, kept: Mutex::default() }
    }

    pub(crate) fn recall(&self, target: &[u8]) -> Remembered {
        let small = match self.kept().files.get(target) {
            Some(small) => Arc::clone(small),
            None => return Remembered::Unknown,
        };
        // Most requests find the flag set, and then the cache line stays shared between the cores.
        if !small.used.load(Ordering::Relaxed) {
            small.used.store(true, Ordering::Relaxed);
        }
        let age = self.now().saturating_sub(small.checked.load(Ordering::Relaxed));
        if age < TRUSTED.as_millis() as u64 { Remembered::Fresh(small) } else { Remembered::Stale(small) }
    }

    /// The file was looked at and is the same.
    pub(crate) fn confirm(&self, small: &Small) {
        small.checked.store(self.now(), Ordering::Relaxed);
    }

    /// Reads `file` and keeps it under `target`, with the `head` that is sent before it.
    pub(crate) fn keep(
        &self,
        target: &[u8],
        file: &mut File,
        entity: Entity,
        head: Box<[u8]>,
    ) -> io::Result<Arc<Small>> {
        let mut octets = Vec::with_capacity(entity.stamp.octets as usize);
        file.take(entity.stamp.octets).read_to_end(&mut octets)?;
        if octets.len() as u64 != entity.stamp.octets {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        let checked = AtomicU64::new(self.now());
        let small = Arc::new(Small { entity, octets: octets.into(), head, checked, used: AtomicBool::new(false) });
        let mut kept = self.kept();
        kept.forget(target);
        kept.octets += cost(target, &small);
        kept.files.insert(target.into(), Arc::clone(&small));
        if kept.octets > self.octets_max {
            kept.sweep();
        }
        Ok(small)
    }

    pub(crate) fn forget(&self, target: &[u8]) {
        self.kept().forget(target);
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic between the two fields could at worst leave the sum wrong until the next sweep.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget(&mut self, target: &[u8]) {
        if let Some(small) = self.files.remove(target) {
            self.octets = self.octets.saturating_sub(cost(target, &small));
        }
    }

    /// Keeps what was asked for again since the last sweep: never the file that has just come, whose arrival was too
    /// much, so the bound holds. Rare, because a site whose small files do not fit is rare, and cheap beside reading them.
    fn sweep(&mut self) {
        self.files.retain(|_, small| small.used.swap(false, Ordering::Relaxed));
        self.octets = self.files.iter().map(|(target, small)| cost(target, small)).sum();
    }
}

/// The file, its head, its name and about what the rest takes.
fn cost(target: &[u8], small: &Small) -> usize {
    target.len() + small.octets.len() + small.head.len() + 512
}

/// A path under `root` for people.
pub(crate) fn shown(root: &Path, path: &[u8]) -> String {
    root.join(std::ffi::OsStr::from_bytes(path)).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn site() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::write(root.join("page.html"), "<p>hello").unwrap();
        std::fs::write(dir.path().join("secret"), "secret").unwrap();
        symlink("page.html", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink(dir.path().join("secret"), root.join("absolute")).unwrap();
        symlink("round", root.join("round")).unwrap();
        std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        dir
    }

    #[test]
    fn what_lies_beneath_the_root_opens_and_nothing_else_does() {
        let dir = site();
        let root = dir.path().join("root");
        let open = |path: &str| open(&root, path.as_bytes());
        assert!(matches!(open("page.html"), Ok(Opened::File(f)) if f.stamp.octets == 8));
        assert!(matches!(open("inside"), Ok(Opened::File(_))));
        assert!(matches!(open(""), Ok(Opened::Directory(_))));
        assert!(matches!(open("sub"), Ok(Opened::Directory(_))));
        for (path, want) in [
            ("nothing", "no such file"),
            ("page.html/more", "a part of the path before the last is a file, not a directory"),
            ("outside", "a symbolic link leads out of the document root"),
            ("absolute", "a symbolic link leads out of the document root"),
            ("../secret", "a symbolic link leads out of the document root"),
            ("sub/../../secret", "a symbolic link leads out of the document root"),
            ("round", "symbolic links lead round in a circle"),
            ("socket", "it is not a regular file"),
            (&"x".repeat(300), "the name is longer than a file name can be"),
        ] {
            assert_eq!(open(path).unwrap_err().to_string(), want, "{path}");
        }
        let gone = super::open(&dir.path().join("gone"), b"x").unwrap_err();
        assert!(matches!(gone, Missing::Root(_)), "{gone}");
    }

    #[test]
    fn a_listing_has_what_can_be_served() {
        let dir = site();
        std::fs::write(dir.path().join("root/.hidden"), "x").unwrap();
        let Ok(Opened::Directory(fd)) = open(&dir.path().join("root"), b"") else { panic!("the root is a directory") };
        let mut names: Vec<_> = list(&fd).unwrap().into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect();
        names.sort();
        assert_eq!(names, ["inside", "page.html", "sub"]);
    }

    #[test]
    fn memory_stays_within_its_bound_and_keeps_what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(20 * 1600);
        let keep = |name: &str| {
            let path = dir.path().join("file");
            std::fs::write(&path, vec![b'x'; 1024]).unwrap();
            let Ok(Opened::File(mut open)) = open(dir.path(), b"file") else { panic!("just written") };
            let entity = Entity::new(open.stamp, HeaderValue::from_static("text/plain"), SystemTime::now());
            memory.keep(name.as_bytes(), &mut open.file, entity, (*b"HTTP/1.1 200 OK\r\n").into()).unwrap();
        };
        keep("/favourite");
        for round in 0..100 {
            assert!(!matches!(memory.recall(b"/favourite"), Remembered::Unknown), "round {round}");
            keep(&format!("/{round}"));
            assert!(memory.kept().octets <= 20 * 1600 + 1600);
        }
        memory.forget(b"/favourite");
        assert!(matches!(memory.recall(b"/favourite"), Remembered::Unknown));
        let kept = memory.kept();
        assert_eq!(kept.octets, kept.files.iter().map(|(target, small)| cost(target, small)).sum::<usize>());
    }
}
