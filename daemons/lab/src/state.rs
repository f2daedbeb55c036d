//! What the lab keeps on disk: a state directory that a student may look into and change.
//!
//! ```text
//!   lab.toml accounts.toml   for reading; `--lab FILE` uses another
//!   www/                     the site, unpacked at first start; what was edited since stays
//!   mail/                    the mailboxes, unpacked once; --fresh brings the first messages back
//!   ca/                      the lab's certificate authority
//!   log/                     access logs
//!   admin.sock               for `tomte status` and `tomte events`
//! ```

use anyhow::{Context, bail};
use include_dir::{Dir, DirEntry, include_dir};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// The files that are shipped, inside the program, so that it needs nothing else to start the lab.
static SHIPPED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../config");

/// Tells a state directory from somebody's home directory before `--fresh` empties it.
const MARK: &str = ".tomte-lab";

/// `$XDG_STATE_HOME/tomte`, or `~/.local/state/tomte` (XDG Base Directory Specification).
pub(crate) fn default_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = var("XDG_STATE_HOME").or_else(|| var("HOME").map(|home| home.join(".local/state")));
    home.unwrap_or_else(std::env::temp_dir).join("tomte")
}

/// A shipped file as text.
pub(crate) fn shipped(name: &str) -> anyhow::Result<&'static str> {
    SHIPPED.get_file(name).and_then(|file| file.contents_utf8()).with_context(|| format!("{name} is not shipped"))
}

/// Whether the lab begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Keep what a former run left and what was edited.
    Continue,
    /// Throw it away.
    Fresh,
}

/// Makes the directory and unpacks what is missing.
pub(crate) fn prepare(dir: &Path, begin: Begin) -> anyhow::Result<()> {
    let mark = dir.join(MARK);
    // One that is empty has just been made, and has nothing to lose.
    if begin == Begin::Fresh && fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        if !mark.exists() {
            bail!("{} is no state directory of the lab (it has no file {MARK}), so it is not emptied", dir.display());
        }
        fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    let cure = || format!("cannot write {}; name another directory with --state DIR", dir.display());
    fs::create_dir_all(dir).with_context(cure)?;
    fs::write(&mark, "").with_context(cure)?;
    fs::create_dir_all(dir.join("log")).with_context(cure)?;
    unpack(&SHIPPED, dir).with_context(cure)?;
    set_dates(&dir.join("www")).with_context(cure)
}

/// Writes what is not there yet.
fn unpack(from: &Dir<'_>, to: &Path) -> anyhow::Result<()> {
    for entry in from.entries() {
        let path = to.join(entry.path());
        match entry {
            // A mailbox whose messages were taken must not fill again at the next start.
            DirEntry::Dir(dir) if dir.path() == Path::new("mail") && path.exists() => {}
            DirEntry::Dir(dir) => {
                fs::create_dir_all(&path)?;
                unpack(dir, to)?;
            }
            // For daemons of their own; here it would invite edits that change nothing.
            DirEntry::File(file) if file.path() == Path::new("tomte.toml") => {}
            DirEntry::File(_) if path.exists() => {}
            DirEntry::File(file) => fs::write(&path, file.contents())?,
        }
    }
    Ok(())
}

/// Files that the course prints with their date get it. One that was edited keeps the date of the edit.
fn set_dates(www: &Path) -> anyhow::Result<()> {
    let dates: BTreeMap<String, String> = toml::from_str(shipped("www/dates.toml")?)?;
    for (path, date) in dates {
        let original = SHIPPED.get_file(Path::new("www").join(&path)).map(include_dir::File::contents);
        let file = www.join(&path);
        if fs::read(&file).ok().as_deref() == original {
            let date: SystemTime = httpdate::parse_http_date(&date).with_context(|| format!("dates.toml: {path}"))?;
            fs::File::options().write(true).open(&file)?.set_modified(date)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_survive_a_restart_and_fresh_undoes_them() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("state");
        let page = dir.join("www/www.someschool.edu/somedir/page.html");
        let index = dir.join("www/www.someschool.edu/index.html");
        prepare(&dir, Begin::Continue).unwrap();
        assert!(dir.join("lab.toml").exists() && !dir.join("tomte.toml").exists());
        fs::write(&page, "edited").unwrap();
        fs::remove_file(&index).unwrap();
        let mailbox = dir.join("mail/hamburger.edu/bob/new");
        let message = fs::read_dir(&mailbox).unwrap().next().unwrap().unwrap().path();
        fs::remove_file(&message).unwrap();
        prepare(&dir, Begin::Continue).unwrap();
        assert_eq!(fs::read_to_string(&page).unwrap(), "edited");
        assert!(!message.exists(), "what was taken from a mailbox is gone");
        let date = httpdate::fmt_http_date(fs::metadata(&index).unwrap().modified().unwrap());
        assert_eq!(date, "Tue, 30 Oct 2007 17:00:02 GMT");
        prepare(&dir, Begin::Fresh).unwrap();
        assert_ne!(fs::read_to_string(&page).unwrap(), "edited");
        assert!(message.exists());
    }

    #[test]
    fn the_first_start_may_be_a_fresh_one() {
        let empty = tempfile::tempdir().unwrap();
        for dir in [empty.path(), &empty.path().join("not there yet")] {
            prepare(dir, Begin::Fresh).unwrap();
            assert!(dir.join("lab.toml").exists());
        }
    }

    #[test]
    fn fresh_empties_no_directory_that_is_not_ours() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("thesis.tex"), "x").unwrap();
        let message = prepare(home.path(), Begin::Fresh).unwrap_err().to_string();
        assert!(message.contains("not emptied"), "{message}");
        assert!(home.path().join("thesis.tex").exists());
    }
}
