//! `tomte user`: who can log in.
//!
//! The accounts are a file that people edit too (see [`shared::accounts`]): what they wrote, comments and order, stays. A change is
//! written beside it and takes its place at once, so a daemon that reads it meanwhile finds the old file or the new one, whole.

use crate::{client::post, hidden::password, hosts::Lab, state};
use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use shared::{
    accounts::{self, Kinds, check_name, entries},
    admin::Reloaded,
    config::{DEFAULT_FILE, Settings},
};
use smtp::Config as Mail;
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::{
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};
use toml_edit::{DocumentMut, Item, Table, value};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte user list              who can log in, how, and where the mail is\n  \
    tomte user add carol         asks for her password twice\n  \
    tomte user add carol <FILE   ... or takes the first line of a file\n  \
    tomte user passwd bob        another password for bob\n  \
    tomte user add dave --clear  also by APOP and SCRAM; for lessons\n  \
    tomte user remove carol      she can log in no longer; her mail stays\n";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Let somebody log in
    Add(Change),
    /// Give an account another password; what it can log in with beside it is made anew
    Passwd(Change),
    /// Show all accounts: what they can log in with, never what it is, and where their mail is
    List(Where),
    /// Let somebody log in no longer; mail that has come stays where it is
    Remove {
        /// The account
        name: String,
        #[command(flatten)]
        place: Where,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    /// The account: small letters and digits, and . - _ between them
    name: String,
    /// Keep keys for SCRAM-SHA-256 too, which keeps the password off the wire
    #[arg(long)]
    scram: bool,
    /// Keep the password itself, which APOP cannot do without, and the keys of --scram; for lessons only
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Where {
    /// The accounts that this configuration of daemons names, as /etc/tomte/tomte.toml
    #[arg(short, long, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    /// The accounts of the lab in this state directory
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub(crate) fn user(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::List(place) => list(&Accounts::find(place)?),
        Command::Add(Change { name, scram, clear, place }) => {
            check_name(name).map_err(anyhow::Error::msg)?;
            let accounts = Accounts::find(place)?;
            let absent = || {
                let locked = Locked::open(&accounts.file)?;
                match locked.find(name) {
                    None => Ok(locked),
                    Some(_) => bail!("{name} is there already; `tomte user passwd {name}` gives another password"),
                }
            };
            let kinds = Kinds { scram: *scram || *clear, clear: *clear };
            // Looked at twice: whoever thinks about a password keeps nobody else from the file.
            absent()?;
            let entries = entries(&password(name)?, kinds)?;
            absent()?.replace(|document| {
                add(document, name, &entries);
                Ok(())
            })?;
            println!("{name} can log in: {}", accounts.file.display());
            accounts.tell()?;
            if accounts.mail_of(name).is_empty() {
                println!("A mailbox needs more: put {name} among the `users` of a mail server, in {}", accounts.place);
            }
            Ok(())
        }
        Command::Passwd(Change { name, scram, clear, place }) => {
            let accounts = Accounts::find(place)?;
            let kept = Locked::open(&accounts.file)?.known(name)?;
            let kinds = Kinds { scram: kept.scram || *scram || *clear, clear: kept.clear || *clear };
            let entries = entries(&password(name)?, kinds)?;
            let locked = Locked::open(&accounts.file)?;
            locked.known(name)?;
            locked.replace(|document| set(document, name, &entries))?;
            println!("{name} has another password: {}", accounts.file.display());
            accounts.tell()
        }
        Command::Remove { name, place } => {
            let accounts = Accounts::find(place)?;
            let locked = Locked::open(&accounts.file)?;
            locked.known(name)?;
            locked.replace(|document| remove(document, name))?;
            println!("{name} can log in no longer: {}", accounts.file.display());
            accounts.tell()
        }
    }
}

fn list(accounts: &Accounts) -> anyhow::Result<()> {
    let text = read(&accounts.file)?;
    let known = accounts::list(&text).map_err(|(line, problem)| misfit(&accounts.file, line, &problem))?;
    let mut out = io::stdout().lock();
    let width = known.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:<29}  MAIL", "NAME", "LOGS IN WITH")?;
    for (name, Kinds { scram, clear }) in known {
        let kinds = [(true, "password"), (scram, "SCRAM"), (clear, "APOP (clear)")];
        let kinds: Vec<&str> = kinds.into_iter().filter(|(has, _)| *has).map(|(_, kind)| kind).collect();
        let mail = accounts.mail_of(&name);
        // One below the other.
        let next = format!("\n{:1$}", "", width + 33);
        let mail = if mail.is_empty() { "-".to_owned() } else { mail.join(&next) };
        writeln!(out, "{name:width$}  {:<29}  {mail}", kinds.join(", "))?;
    }
    Ok(())
}

/// The accounts, and who uses them.
struct Accounts {
    file: PathBuf,
    /// Which configuration names them, for people.
    place: String,
    /// The mail servers that have mailboxes for them.
    mail: Vec<Mail>,
    /// Where daemons that have read them may answer.
    sockets: Vec<PathBuf>,
    /// How those are told that do not.
    otherwise: &'static str,
}

impl Accounts {
    fn find(Where { config, state }: &Where) -> anyhow::Result<Self> {
        let lab = state.clone().unwrap_or_else(state::default_dir);
        let has_lab = lab.join("accounts.toml").exists();
        match (config, state) {
            (Some(file), _) => Self::of_daemons(Some(file)),
            (None, Some(_)) if !has_lab => {
                bail!("{} has no accounts.toml: no lab was ever started there (tomte up --state DIR)", lab.display())
            }
            (None, Some(_)) => Self::of_lab(&lab),
            // The same person may have a lab and look after services. Whoever changes passwords must not have to guess.
            (None, None) if has_lab && Path::new(DEFAULT_FILE).exists() => bail!(
                "which accounts? There is a lab in {0} and there are services: say --state {0}, or -c {DEFAULT_FILE}",
                lab.display()
            ),
            (None, None) if has_lab => Self::of_lab(&lab),
            (None, None) if Path::new(DEFAULT_FILE).exists() => Self::of_daemons(None),
            (None, None) => bail!(
                "there are no accounts: neither a lab (start one with `tomte up`) nor {DEFAULT_FILE}; name a \
                 configuration with -c FILE"
            ),
        }
    }

    fn of_lab(state: &Path) -> anyhow::Result<Self> {
        let copy = state.join("lab.toml");
        let lab = match fs::read_to_string(&copy) {
            Ok(text) => Lab::parse(&copy.display().to_string(), &text)?,
            Err(_) => Lab::parse("lab.toml", state::shipped("lab.toml")?)?,
        };
        let mail = lab.host.into_iter().filter_map(|host| host.smtp);
        let mail = mail.map(|mail| Mail { mailboxes: state.join(&mail.mailboxes), ..mail });
        Ok(Self {
            file: state.join("accounts.toml"),
            place: format!("{}, and start that: tomte up --lab {0}", copy.display()),
            mail: mail.collect(),
            sockets: vec![state.join("admin.sock")],
            otherwise: "the lab does not run; it will know when it starts",
        })
    }

    fn of_daemons(file: Option<&Path>) -> anyhow::Result<Self> {
        let settings = Settings::load(file, std::env::vars(), &[])?;
        let place = file.unwrap_or(Path::new(DEFAULT_FILE)).display().to_string();
        let config: accounts::Config = settings.table("accounts")?;
        let Some(file) = config.file else {
            bail!("{place} names no accounts: write\n[accounts]\nfile = \"/etc/tomte/accounts.toml\"");
        };
        let services = fs::read_dir("/run/tomte").into_iter().flatten().flatten();
        let services = services.map(|entry| entry.path().join("admin.sock"));
        let own = settings.table::<shared::admin::Config>("admin")?.socket;
        Ok(Self {
            file,
            mail: if settings.has("smtp") { vec![settings.table("smtp")?] } else { vec![] },
            sockets: own.into_iter().chain(services).collect(),
            otherwise: "no daemon answers here; tell those that run: systemctl reload 'tomte-*', or SIGHUP",
            place,
        })
    }

    /// Has the daemons that run read the file anew.
    fn tell(&self) -> anyhow::Result<()> {
        let mut told = 0;
        for socket in self.sockets.iter().filter(|socket| UnixStream::connect(socket).is_ok()) {
            let mut json = String::new();
            post(socket, "/reload?daemon=accounts")?.read_to_string(&mut json)?;
            for Reloaded { host, problem, .. } in serde_json::from_str::<Vec<Reloaded>>(&json)? {
                match problem {
                    None => told += 1,
                    Some(problem) => bail!("{host} keeps the old accounts: {problem}"),
                }
            }
        }
        match told {
            0 => println!("({})", self.otherwise),
            _ => println!("What runs knows it already."),
        }
        Ok(())
    }

    /// Where mail for an account is, one for each server that has some: its address, its aliases, its directory.
    fn mail_of(&self, name: &str) -> Vec<String> {
        let here = self.mail.iter().filter(|mail| mail.users.is_empty() || mail.users.iter().any(|user| user == name));
        let told = here.map(|mail| {
            let domain = mail.domains.first().unwrap_or(&mail.hostname);
            let means = |targets: &[String]| targets.iter().any(|target| target.trim_start_matches('\\') == name);
            let aliases = mail.aliases.iter().filter(|(alias, targets)| *alias != name && means(targets));
            let aliases: Vec<&str> = aliases.map(|(alias, _)| alias.as_str()).collect();
            let aliases = if aliases.is_empty() { String::new() } else { format!(" (also {})", aliases.join(", ")) };
            format!("{name}@{domain}{aliases} in {}", mail.mailboxes.join(name).display())
        });
        told.collect()
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => text.with_context(|| format!("cannot read {}", file.display())),
    }
}

fn misfit(file: &Path, line: usize, problem: &str) -> anyhow::Error {
    anyhow::anyhow!("{}:{line}: {problem}", file.display())
}

/// The file, as long as nobody else changes it by this command.
struct Locked {
    /// Behind all symbolic links.
    file: PathBuf,
    folder: File,
    text: String,
    known: Vec<(String, Kinds)>,
}

impl Locked {
    fn open(file: &Path) -> anyhow::Result<Self> {
        // One that is not there yet has no links.
        let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
        let place = file.parent().filter(|place| *place != Path::new("")).unwrap_or(Path::new("."));
        let folder = File::open(place).with_context(|| format!("cannot open {}", place.display()))?;
        // The directory and not the file, which is another one after each change.
        flock(&folder, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", place.display()))?;
        let text = read(&file)?;
        let known = accounts::list(&text).map_err(|(line, problem)| misfit(&file, line, &problem))?;
        Ok(Self { file, folder, text, known })
    }

    fn find(&self, name: &str) -> Option<Kinds> {
        self.known.iter().find(|(known, _)| known == name).map(|(_, kinds)| *kinds)
    }

    /// What an account has.
    fn known(&self, name: &str) -> anyhow::Result<Kinds> {
        let names = || self.known.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
        self.find(name).with_context(|| format!("there is no account `{name}`; there are {}", names()))
    }

    fn replace(self, change: impl FnOnce(&mut DocumentMut) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let Self { file, folder, text, .. } = self;
        let mut document: DocumentMut = text.parse().with_context(|| format!("{} is not TOML", file.display()))?;
        change(&mut document)?;
        let text = document.to_string();
        // What daemons could not read must not take the place of what they can.
        accounts::list(&text).map_err(|(line, problem)| misfit(&file, line, &problem))?;
        let beside = file.with_extension(format!("tmp-{}", std::process::id()));
        let write = || -> io::Result<()> {
            let was = file.metadata().ok();
            // Nobody else may read a new one; whoever looks after the services gives it to the daemons' group.
            let mut new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            if let Some(was) = &was {
                let me = new.metadata()?;
                if (was.uid(), was.gid()) != (me.uid(), me.gid()) {
                    fchown(&new, Some(was.uid()), Some(was.gid()))?;
                }
                new.set_permissions(fs::Permissions::from_mode(was.mode() & 0o7777))?;
            } else {
                new.set_permissions(fs::Permissions::from_mode(0o640))?;
            }
            new.write_all(text.as_bytes())?;
            new.sync_all()?;
            fs::rename(&beside, &file)?;
            folder.sync_all()
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&beside)))
            .with_context(|| format!("cannot write {}; do it as the user whose file it is, or as root", file.display()))
    }
}

/// A table at the end, below what stands there.
fn add(document: &mut DocumentMut, name: &str, entries: &[(&str, String)]) {
    let mut table = Table::new();
    let above = document.trailing().as_str().unwrap_or_default().to_owned();
    if !document.is_empty() || !above.is_empty() {
        document.set_trailing("");
        table.decor_mut().set_prefix(above + "\n");
    }
    for (key, text) in entries {
        table.insert(key, value(text));
    }
    document.insert(name, Item::Table(table));
}

/// New values for an account; comments behind the old ones stay.
fn set(document: &mut DocumentMut, name: &str, entries: &[(&str, String)]) -> anyhow::Result<()> {
    let (_, item) = find(document, name)?;
    let table = item.as_table_like_mut().context("an account is a table")?;
    for (key, text) in entries {
        match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = text.into();
                *old.decor_mut() = decor;
            }
            None => {
                table.insert(key, value(text));
            }
        }
    }
    Ok(())
}

/// Takes an account out, with the comment that stands right above it. What is set off by an empty line is about the file, and stays.
fn remove(document: &mut DocumentMut, name: &str) -> anyhow::Result<()> {
    let (key, item) = find(document, name)?;
    let above = item.as_table().and_then(|table| table.decor().prefix()?.as_str()).unwrap_or_default().to_owned();
    let stays = above.rfind("\n\n").map_or("", |at| &above[..=at]).to_owned();
    document.remove(&key);
    let next = document.iter_mut().find_map(|(_, item)| item.as_table_mut());
    match next {
        _ if stays.trim().is_empty() => {}
        Some(next) => {
            let below = next.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
            next.decor_mut().set_prefix(stays + &below);
        }
        None => document.set_trailing(stays),
    }
    Ok(())
}

/// The account as the file spells it: an accent may be a character of its own there.
fn find<'d>(document: &'d mut DocumentMut, name: &str) -> anyhow::Result<(String, &'d mut Item)> {
    let is_meant = |key: &str| shared::sasl::prepare(key) == name;
    let key = document.iter().map(|(key, _)| key.to_owned()).find(|key| is_meant(key));
    let key = key.with_context(|| format!("{name} is not in the file"))?;
    let item = document.get_mut(&key).context("it was there a moment ago")?;
    Ok((key, item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, change: impl FnOnce(&mut DocumentMut) -> anyhow::Result<()>) -> String {
        let mut document: DocumentMut = text.parse().unwrap();
        change(&mut document).unwrap();
        document.to_string()
    }

    fn added(text: &str, name: &str, entries: &[(&str, String)]) -> String {
        changed(text, |document| {
            add(document, name, entries);
            Ok(())
        })
    }

    const FILE: &str = "# All who may.\n\n# The first.\n[bob] # is he\npassword = \"old\" # since 2007\n\n[\"zoe\u{308}\"]\npassword = \"z\"\n";

    #[test]
    fn what_people_wrote_stays_where_it_was() {
        let entry = [("password", "new".to_owned()), ("apop_secret", "clear".to_owned())];
        assert_eq!(added(FILE, "carol", &entry[..1]), format!("{FILE}\n[carol]\npassword = \"new\"\n"));
        assert_eq!(added("# Nobody\n", "bob", &entry[..1]), "# Nobody\n\n[bob]\npassword = \"new\"\n");
        assert_eq!(added("", "zo\u{eb}", &entry[..1]), "[\"zo\u{eb}\"]\npassword = \"new\"\n");
        assert_eq!(
            changed(FILE, |it| set(it, "bob", &entry)),
            FILE.replace("\"old\" # since 2007\n", "\"new\" # since 2007\napop_secret = \"clear\"\n")
        );
        assert_eq!(changed(FILE, |it| set(it, "zo\u{eb}", &entry[..1])), FILE.replace("\"z\"", "\"new\""));
    }

    #[test]
    fn who_is_removed_takes_its_own_comment_along_and_no_other() {
        let without_bob = changed(FILE, |it| remove(it, "bob"));
        assert_eq!(without_bob, "# All who may.\n\n[\"zoe\u{308}\"]\npassword = \"z\"\n");
        let (kept, _) = FILE.split_once("\n[\"zoe").unwrap();
        assert_eq!(changed(FILE, |it| remove(it, "zo\u{eb}")), kept);
        assert_eq!(changed(&without_bob, |it| remove(it, "zo\u{eb}")), "# All who may.\n");
    }

    #[test]
    fn the_shipped_file_keeps_its_heading_without_alice() {
        let shipped = state::shipped("accounts.toml").unwrap();
        let heading = shipped.split_once("\n[alice]").unwrap().0;
        let left = changed(shipped, |it| remove(it, "alice"));
        assert!(left.starts_with(heading) && left.contains("[bob]") && !left.contains("[alice]"), "{left}");
    }

    #[test]
    fn mode_and_place_of_the_file_are_kept_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("accounts.toml"), folder.path().join("link.toml"));
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let entry = entries("hungry", Kinds::default()).unwrap();
        Locked::open(&link)
            .unwrap()
            .replace(|it| {
                add(it, "bob", &entry);
                Ok(())
            })
            .unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o604);
        assert!(link.is_symlink() && Locked::open(&file).unwrap().find("bob").is_some());
        // What cannot be read is not written.
        let wrong = [("password", "clear".to_owned())];
        let error = Locked::open(&file)
            .unwrap()
            .replace(|it| {
                add(it, "eve", &wrong);
                Ok(())
            })
            .unwrap_err()
            .to_string();
        assert!(error.contains("[eve] password is not an argon2 hash"), "{error}");
        assert!(Locked::open(&file).unwrap().find("eve").is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
