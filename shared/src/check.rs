//! Whether a configuration would do: what a start would find wrong, all of it at once, without taking a socket or writing a file.
//!
//! ```text
//!   settings --> Check::new: log, admin, transcript, accounts ---+
//!            --> Check::daemon: the daemon's own table ----------+--> problems, each with its place
//! ```
//!
//! `--check-config` and `tomte check-config` end with it, and a start that fails tells the same: whoever mends a file wants to mend
//! it once. What belongs to the moment is not looked at: whether a port is free, whether another process holds the queue.

use crate::{
    Shared,
    accounts::{self, Accounts},
    admin::{self, Directory},
    config::Settings,
    daemon::{Process, StartError, Workers},
    listener::Sockets,
    logging,
    metrics::Registers,
    tls,
    transcript::{self, Hub},
};
use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::HashSet, io, path::Path, sync::Arc};

/// What is found while a configuration is looked at.
pub struct Check<'s> {
    settings: &'s Settings,
    process: Process,
    tls: tls::Config,
    host: String,
    problems: Vec<StartError>,
}

impl<'s> Check<'s> {
    /// Begins with the tables that all daemons share. `host` is what this machine is called.
    pub fn new(settings: &'s Settings, host: &str) -> Self {
        let mut check = Self {
            settings,
            process: surroundings(Accounts::none()),
            tls: tls::Config::default(),
            host: host.to_owned(),
            problems: vec![],
        };
        if let Some(log) = check.table::<logging::Config>("log") {
            check.look("log.filter", logging::check(&log));
        }
        if let Some(admin::Config { socket: Some(socket), .. }) = check.table("admin") {
            check.look("admin.socket", folder_of(&socket));
        }
        if let Some(transcript::Config { dir: Some(dir), .. }) = check.table("transcript") {
            check.look("transcript.dir", directory(&dir));
        }
        if let Some(config) = check.table::<accounts::Config>("accounts") {
            match Accounts::load(&config) {
                Ok(accounts) => check.process.accounts = Arc::new(accounts),
                Err(error) => check.problems.push(StartError::unfit("accounts.file", error)),
            }
        }
        check.tls = check.table("tls").unwrap_or_default();
        check
    }

    /// Looks at the table of one daemon, and has the daemon look at what it says.
    pub fn daemon<C>(&mut self, name: &'static str, check: impl FnOnce(&C, &Shared) -> Vec<StartError>)
    where
        C: Serialize + DeserializeOwned + Default,
    {
        if let Some(config) = self.table::<C>(name) {
            self.problems.extend(check(&config, &self.process.shared(name, &self.host, self.tls.clone())));
        }
    }

    /// Adds what a start has stumbled over, unless that is known already.
    #[must_use]
    pub fn with(mut self, error: StartError) -> Self {
        for error in error.each() {
            let is_known = self.problems.iter().any(|known| match (known, &error) {
                (StartError::Unfit { key: known, .. }, StartError::Unfit { key, .. }) => known.starts_with(key),
                (known, error) => known.to_string() == error.to_string(),
            });
            if !is_known {
                self.problems.push(error);
            }
        }
        self
    }

    /// All that was found, where it stands.
    ///
    /// # Errors
    /// Something was.
    pub fn finish(self) -> Result<(), StartError> {
        let problems = self.problems.into_iter().flat_map(StartError::each).map(|error| error.placed(self.settings));
        // What daemons share is found by each of them.
        let mut seen = HashSet::new();
        StartError::all(problems.filter(|error| seen.insert(error.to_string())).collect())
    }

    fn table<T: DeserializeOwned + Default>(&mut self, name: &str) -> Option<T> {
        match self.settings.table(name) {
            Ok(table) => Some(table),
            Err(error) => {
                self.problems.extend(StartError::Config(error).each());
                None
            }
        }
    }

    fn look(&mut self, key: &str, found: Result<(), String>) {
        self.problems.extend(found.err().map(|problem| StartError::unfit(key, problem)));
    }
}

/// What daemons find around them that are only looked at.
pub fn surroundings(accounts: Accounts) -> Process {
    Process {
        hub: Hub::quiet(),
        registers: Registers::default(),
        directory: Directory::default(),
        sockets: Sockets::default(),
        accounts: Arc::new(accounts),
        workers: Workers::Inline,
    }
}

/// The cure for a directory that cannot be written.
pub const WRITABLE: &str = "name a directory that the daemon's user can write to";

/// Whether we could write in `path`, a directory that is made if it is not there.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn directory(path: &Path) -> Result<(), String> {
    // What is not there would be made in the nearest directory that is.
    let there = path.ancestors().find(|place| place.symlink_metadata().is_ok()).filter(|place| *place != Path::new(""));
    let there = there.unwrap_or(Path::new("."));
    let problem = if there.is_dir() {
        match accessat(CWD, there, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            Ok(()) => return Ok(()),
            Err(error) if there == path => io::Error::from(error).to_string(),
            Err(error) => format!("{} in {}, where it would be made", io::Error::from(error), there.display()),
        }
    } else {
        format!("{} is no directory", there.display())
    };
    Err(format!("`{}`: {problem}; {WRITABLE}", path.display()))
}

/// Whether we could write the file `path`, whose directory must be there.
///
/// # Errors
/// What is wrong.
pub fn file(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    match path.metadata() {
        Ok(found) if found.is_dir() => Err(Errno::ISDIR.into()),
        Ok(_) => Ok(accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)?),
        Err(_) => Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?),
    }
}

/// Whether we could make something called `path`, in a directory that is made if it is not there.
fn folder_of(path: &Path) -> Result<(), String> {
    path.parent().map_or(Ok(()), directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::{fs, path::PathBuf};

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Web {
        listen: Vec<std::net::SocketAddr>,
        docroot: PathBuf,
        site: Vec<Site>,
    }

    #[derive(Debug, Default, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Site {
        docroot: PathBuf,
    }

    fn missing(config: &Web, _: &Shared) -> Vec<StartError> {
        let sites = config.site.iter().enumerate().map(|(at, site)| (format!("web.site[{at}].docroot"), &site.docroot));
        let all = std::iter::once(("web.docroot".to_owned(), &config.docroot)).chain(sites);
        let missing = all.filter(|(_, path)| !path.exists());
        missing.map(|(key, path)| StartError::unfit(key, format!("`{}` is not there", path.display()))).collect()
    }

    #[test]
    fn all_that_is_wrong_is_told_at_once_each_with_its_place() {
        let text = "[log]\nfilter = \"=\"\n[accounts]\nfile = \"/nowhere/accounts.toml\"\n[web]\ndocroot = \"/nowhere\"\n\
                    [[web.site]]\ndocroot = \"/\"\n[[web.site]]\ndocroot = \"/none\"\n[tls]\ncertificat = \"x\"\n";
        let settings = Settings::from_text("tomte.toml", text).unwrap();
        let mut check = Check::new(&settings, "here");
        check.daemon("web", missing);
        let error = check.finish().unwrap_err();
        assert_eq!(error.exit_code(), crate::daemon::EXIT_CONFIG);
        let said = error.to_string();
        for want in [
            "tomte.toml:2:10: log.filter: `=`: ",
            "tomte.toml:4:8: accounts.file: /nowhere/accounts.toml: cannot read the accounts",
            "tomte.toml:6:11: web.docroot: `/nowhere` is not there\n   6 | docroot = \"/nowhere\"\n     |           ^^^^^^^^^^",
            "tomte.toml:10:11: web.site[1].docroot: `/none` is not there",
            "tomte.toml:12:1: unknown key `certificat`; did you mean `certificate`?",
        ] {
            assert!(said.contains(want), "{said}\nwithout {want}");
        }
        assert_eq!(error.each().len(), 5, "{said}");
    }

    #[test]
    fn what_no_file_says_is_said_to_be_a_default() {
        let settings = Settings::from_text("tomte.toml", "[web]\n").unwrap();
        let mut check = Check::new(&settings, "here");
        check.daemon("web", missing);
        check.daemon("web", missing);
        let said = check.finish().unwrap_err().to_string();
        assert_eq!(said, "web.docroot: `` is not there (the key is not set: this is its default)");
    }

    #[test]
    fn a_table_that_cannot_be_read_hides_no_other() {
        let text = "[web]\nlisten = 80\ndocrot = 1\ndocroot = 2\n[tls]\nkey = 3\n";
        let settings = Settings::from_text("tomte.toml", text).unwrap();
        let mut check = Check::new(&settings, "here");
        check.daemon("web", missing);
        check.daemon::<tls::Config>("tls", |_, _| vec![]);
        assert_eq!(check.finish().unwrap_err().each().len(), 4);
    }

    #[test]
    fn what_a_start_stumbled_over_is_told_once() {
        let settings = Settings::from_text("tomte.toml", "[web]\ndocroot = \"/nowhere\"\nsite = []\n").unwrap();
        let mut check = Check::new(&settings, "here");
        check.daemon("web", missing);
        let check = check.with(StartError::unfit("web.docroot", "in other words"));
        let check = check.with(StartError::Several(vec![StartError::unfit("web.site", "not so")]));
        let said = check.finish().unwrap_err().to_string();
        assert!(said.contains("is not there") && said.contains("tomte.toml:3:8: web.site: not so"), "{said}");
        assert!(!said.contains("other words"), "{said}");
    }

    #[test]
    fn directories_and_files_that_could_be_made_are_right_and_none_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "").unwrap();
        assert_eq!((directory(folder.path()), directory(&path("a/b/c"))), (Ok(()), Ok(())));
        let problem = directory(&path("file/below")).unwrap_err();
        assert!(problem.contains("/file is no directory; name a directory"), "{problem}");
        assert!(file(&path("file")).is_ok() && file(&path("new")).is_ok());
        assert!(file(&path("no/such")).is_err() && file(folder.path()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
