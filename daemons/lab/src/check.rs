//! `tomte check-config`: all tables of a file, checked by the daemons that they belong to.

use crate::{
    hosts::{Lab, Ports},
    state::{self, Begin},
};
use shared::{
    accounts::Accounts,
    check::{Check, surroundings},
    config::{DEFAULT_FILE, Settings, misfit_in},
    daemon::{StartError, host_name},
};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte check-config                                the services' /etc/tomte/tomte.toml\n  \
    tomte check-config ~/.local/state/tomte/lab.toml  a lab\n";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// `tomte.toml` or `lab.toml`; without one, /etc/tomte/tomte.toml
    files: Vec<PathBuf>,
    /// For a `lab.toml`: where its relative paths begin
    #[arg(long, value_name = "DIR", default_value_os_t = state::default_dir())]
    state: PathBuf,
}

pub(crate) fn check(Arguments { files, state }: &Arguments) -> anyhow::Result<()> {
    let usual = [PathBuf::from(DEFAULT_FILE)];
    let files = if files.is_empty() { &usual[..] } else { &files[..] };
    let mut problems = vec![];
    for file in files {
        match check_one(file, state) {
            Ok(what) => writeln!(io::stdout(), "ok: {}{what}", file.display())?,
            Err(error) => problems.extend(error.each()),
        }
    }
    Ok(StartError::all(problems)?)
}

/// What is to be said of a file that is right.
fn check_one(file: &Path, state: &Path) -> Result<String, StartError> {
    let text = fs::read_to_string(file).map_err(|error| {
        StartError::unfit(
            file.display().to_string(),
            format!("cannot read it: {error}; tomte check-config FILE names another"),
        )
    })?;
    // A description of a lab has hosts, a configuration of daemons has none.
    if text.lines().any(|line| line.trim_start().starts_with("[[host]]")) {
        return check_lab(&file.display().to_string(), &text, state);
    }
    let settings = Settings::load(Some(file), std::iter::empty(), &[])?;
    check_tables(&settings).finish().map(|()| String::new())
}

/// Every daemon that the file has a table for.
fn check_tables(settings: &Settings) -> Check<'_> {
    let mut all = Check::new(settings, &host_name());
    let mut has = |name: &'static str, look: &dyn Fn(&mut Check<'_>)| {
        if settings.has(name) {
            look(&mut all);
        }
    };
    has("wordlength", &|all| all.daemon("wordlength", wordlength::Server::check));
    has("web", &|all| all.daemon("web", web::Server::check));
    has("dns", &|all| all.daemon("dns", dns::Server::check));
    has("smtp", &|all| all.daemon("smtp", smtp::Server::check));
    has("pop3", &|all| all.daemon("pop3", pop3::Server::check));
    all
}

/// All hosts, with the files as they are in the state directory; what is not there yet, a start would unpack.
fn check_lab(place: &str, text: &str, state: &Path) -> Result<String, StartError> {
    let mut lab = Lab::parse(place, text)?;
    let shipped = tempfile::tempdir()?;
    state::prepare(shipped.path(), Begin::Continue).map_err(io::Error::other)?;
    let find = |path: &Path| {
        let (edited, shipped) = (state.join(path), shipped.path().join(path));
        if !edited.exists() && shipped.exists() { shipped } else { edited }
    };
    lab.settle_with(Ports::High, state, &find);
    let accounts = shared::accounts::Config { file: Some(find(Path::new("accounts.toml"))), ..Default::default() };
    let accounts = Accounts::load(&accounts).map_err(|error| StartError::unfit("accounts", error))?;
    let process = surroundings(accounts);
    let mut problems = vec![];
    for (index, host) in lab.host.iter_mut().enumerate() {
        let shared = |daemon| process.shared(daemon, &host.name, shared::tls::Config::default());
        let mut found = vec![];
        // The lab makes certificates and directories of logs itself.
        if let Some(web) = &mut host.web {
            web.listen_tls.clear();
            "none".clone_into(&mut web.access_log);
            found.extend(web::Server::check(web, &shared("web")));
        }
        if let Some(dns) = &mut host.dns {
            dns.listen_tls.clear();
            found.extend(dns::Server::check(dns, &shared("dns")));
        }
        if let Some(smtp) = &mut host.smtp {
            smtp.listen_tls.clear();
            found.extend(smtp::Server::check(smtp, &shared("smtp")));
        }
        if let Some(pop3) = &mut host.pop3 {
            pop3.listen_tls.clear();
            found.extend(pop3::Server::check(pop3, &shared("pop3")));
        }
        problems.extend(found.into_iter().map(|error| match error {
            StartError::Unfit { key, problem } => {
                let key = format!("host[{index}].{key}");
                misfit_in(place, text, &key, &format!("{}: {problem}", host.name)).into()
            }
            other => other,
        }));
    }
    let hosts = lab.host.len();
    StartError::all(problems).map(|()| format!(" ({hosts} hosts)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Serialize, de::DeserializeOwned};
    use std::fmt::Debug;

    const MANUAL: &str = include_str!("../../../config/tomte.toml");

    /// Where the struct of each table is, with the comments on its fields.
    const SOURCES: [(&str, &str); 10] = [
        ("log", include_str!("../../../shared/src/logging.rs")),
        ("admin", include_str!("../../../shared/src/admin.rs")),
        ("transcript", include_str!("../../../shared/src/transcript.rs")),
        ("accounts", include_str!("../../../shared/src/accounts.rs")),
        ("tls", include_str!("../../../shared/src/tls.rs")),
        ("wordlength", include_str!("../../wordlength/src/lib.rs")),
        ("web", include_str!("../../web/src/config.rs")),
        ("dns", include_str!("../../dns/src/config.rs")),
        ("pop3", include_str!("../../pop3/src/config.rs")),
        ("smtp", include_str!("../../smtp/src/config.rs")),
    ];

    /// The fields of `pub struct Config`, each with its comment as one line.
    fn fields(source: &str) -> Vec<(String, String)> {
        let (_, rest) = source.split_once("pub struct Config {\n").unwrap();
        let (body, _) = rest.split_once("\n}\n").unwrap();
        let (mut fields, mut comment) = (vec![], vec![]);
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.trim());
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                fields.push((name.to_owned(), comment.join(" ")));
                comment.clear();
            }
        }
        fields
    }

    /// The keys of `[table]` in the manual, set or shown behind `#`, each with the remark above it as one line.
    fn keys(table: &str) -> Vec<(String, String)> {
        let (_, rest) = MANUAL.split_once(&format!("\n[{table}]\n")).unwrap();
        let section = rest.split("\n[").next().unwrap();
        let (mut keys, mut remark, mut in_list) = (vec![], vec![], false);
        for line in section.lines() {
            let bare = line.trim_start_matches('#');
            if let Some(text) = line.strip_prefix("# ") {
                remark.push(text);
            } else if let Some(list) = bare.strip_prefix(&format!("[[{table}.")) {
                keys.push((list.trim_end_matches(']').to_owned(), remark.join(" ")));
                in_list = true;
            } else if let Some((key, _)) = bare.split_once(" = ").filter(|_| !in_list) {
                keys.push((key.to_owned(), remark.join(" ")));
            }
            if !line.starts_with("# ") {
                remark.clear();
            }
        }
        keys
    }

    #[test]
    fn the_manual_names_every_key_and_says_what_the_code_says() {
        for (table, source) in SOURCES {
            let keys = keys(table);
            let fields = fields(source);
            assert!(!fields.is_empty(), "[{table}]");
            for (name, comment) in &fields {
                let (_, remark) = keys.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("{table}.{name}"));
                assert!(remark.starts_with(comment), "{table}.{name}\n code:   {comment}\n manual: {remark}");
            }
            for (key, _) in &keys {
                assert!(fields.iter().any(|(name, _)| name == key), "{table}.{key} is no key of the code");
            }
        }
    }

    #[test]
    fn the_manual_changes_nothing_as_it_stands() {
        fn same<T: Debug + PartialEq + Default + DeserializeOwned + Serialize>(settings: &Settings, table: &str) {
            assert_eq!(settings.table::<T>(table).unwrap(), T::default(), "[{table}]");
            for key in toml::Table::try_from(T::default()).unwrap().keys() {
                assert!(keys(table).iter().any(|(known, _)| known == key), "{table}.{key}");
            }
        }
        let settings = Settings::from_text("tomte.toml", MANUAL).unwrap();
        same::<shared::logging::Config>(&settings, "log");
        same::<shared::admin::Config>(&settings, "admin");
        same::<shared::transcript::Config>(&settings, "transcript");
        same::<shared::accounts::Config>(&settings, "accounts");
        same::<shared::tls::Config>(&settings, "tls");
        same::<wordlength::Config>(&settings, "wordlength");
        same::<web::Config>(&settings, "web");
        same::<dns::Config>(&settings, "dns");
        same::<pop3::Config>(&settings, "pop3");
        same::<smtp::Config>(&settings, "smtp");
    }

    #[test]
    fn the_examples_behind_number_signs_are_right_and_complete() {
        let uncovered = |line: &str| match line.strip_prefix('#') {
            Some(example) if !example.starts_with(' ') && !example.is_empty() => example.to_owned(),
            _ => line.to_owned(),
        };
        let text: Vec<String> = MANUAL.lines().map(uncovered).collect();
        let settings = Settings::from_text("tomte.toml", &text.join("\n")).unwrap();
        // Whether its files are there is another question.
        let wrong = check_tables(&settings).finish().err().map(StartError::each).unwrap_or_default();
        let is_misspelt = |error: &StartError| !error.to_string().contains("No such file");
        assert!(!wrong.iter().any(is_misspelt), "{wrong:?}");
        let web: web::Config = settings.table("web").unwrap();
        assert_eq!((web.redirect.len(), web.protect.len(), web.site.len()), (1, 1, 1));
        // A site shows every key that it can have.
        let site = &web.site[0];
        assert!(site.docroot.is_some() && site.index.is_some() && site.listing.is_some() && site.charset.is_some());
        let lists = [site.aliases.len(), site.types.len(), site.redirect.len(), site.deny.len(), site.protect.len()];
        assert!(!lists.contains(&0), "{lists:?}");
        assert!(!site.echo.is_empty() && !site.answer.is_empty());
    }
}
