//! Files that are there as a whole, or as they were.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Everybody, as far as the umask lets them.
    All,
    /// We alone: it is a secret.
    Owner,
}

/// Replaces a file: whoever reads it, also after a crash, finds the old octets or the new ones. When this returns the
/// new ones are on disk.
///
/// ```text
///   NAME.tmp written ... fsync ... renamed to NAME ... fsync of the directory
/// ```
///
/// # Errors
/// The system refused; the old file is as it was.
pub(crate) fn replace(path: &Path, octets: &[u8], readers: Readers) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_directory(directory)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let mode = match readers {
        Readers::All => 0o644,
        // At no moment is it open to others.
        Readers::Owner => 0o600,
    };
    let mut file = File::options().write(true).create(true).truncate(true).mode(mode).open(&beside)?;
    // A failed fsync is never tried again: the kernel may have dropped what it could not write.
    let written = file.write_all(octets).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    sync_directory(directory)
}

/// Makes a directory, and those above it, if they are not there.
///
/// # Errors
/// The system refused.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory)?;
    match directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// A name is on disk when its directory is.
///
/// # Errors
/// The system refused.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}
