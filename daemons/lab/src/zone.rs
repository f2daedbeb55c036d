//! `tomte zone`: whether a zone file is right, and telling running name servers that it has changed.

use crate::client::{Whom, get, post};
use anyhow::{Context, bail};
use dns::{Rewrite, name::Name, zonefile};
use shared::admin::{Entry, Filter, Reloaded};
use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte zone check crepes.fr.zone       the zone is what its $ORIGIN says\n  \
    tomte zone check db.crepes crepes.fr  ... or what you say\n  \
    tomte zone reload                     all name servers read their zones anew\n  \
    tomte zone reload ns.crepes.fr        only this one\n";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Say whether a zone file is right
    Check {
        /// The master file
        file: PathBuf,
        /// The zone's name; by default what the file's first $ORIGIN says
        origin: Option<String>,
    },
    /// Tell running name servers to read their zones anew
    Reload(Reload),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reload {
    /// Only the name server of this host
    host: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

pub(crate) fn zone(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Check { file, origin } => check(file, origin.as_deref()),
        Command::Reload(arguments) => reload(arguments),
    }
}

fn check(file: &Path, origin: Option<&str>) -> anyhow::Result<()> {
    let place = file.display();
    let origin: Name = match origin {
        Some(text) => text.parse().with_context(|| format!("`{text}` is no name of a zone"))?,
        None => first_origin(file)?,
    };
    match zonefile::load(origin.borrow(), file, Rewrite::None) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            let records = match loaded.zone.len() {
                1 => "1 record".to_owned(),
                count => format!("{count} records"),
            };
            let warnings = match loaded.warnings.len() {
                0 => String::new(),
                1 => ", 1 warning".to_owned(),
                count => format!(", {count} warnings"),
            };
            writeln!(std::io::stdout(), "ok: {place}: {origin} has {records}{warnings}")?;
            Ok(())
        }
        Err(errors) => {
            for error in &errors {
                eprintln!("error: {error}");
            }
            bail!("{place} makes no zone {origin}");
        }
    }
}

/// The name behind the first `$ORIGIN` of a file.
fn first_origin(file: &Path) -> anyhow::Result<Name> {
    let place = file.display();
    let text = fs::read(file).with_context(|| format!("cannot read {place}"))?;
    let text = String::from_utf8_lossy(&text);
    let mut entries = text.lines().map(str::split_ascii_whitespace);
    let told = entries.find_map(|mut words| {
        let is_origin = words.next().is_some_and(|word| word.eq_ignore_ascii_case("$ORIGIN"));
        words.next().filter(|_| is_origin)
    });
    let Some(told) = told else {
        bail!("{place} does not say which zone it is: it has no $ORIGIN. Name it: tomte zone check {place} crepes.fr");
    };
    told.parse().with_context(|| format!("{place}: `$ORIGIN {told}`"))
}

fn reload(Reload { host, whom }: &Reload) -> anyhow::Result<()> {
    let filter = Filter { daemon: Some("dns".to_owned()), host: host.clone(), connection: None };
    let sockets = whom.sockets()?;
    let mut reloaded: Vec<Reloaded> = vec![];
    for socket in &sockets {
        let mut json = String::new();
        post(socket, &format!("/reload?{}", filter.to_query()))?.read_to_string(&mut json)?;
        reloaded.append(&mut serde_json::from_str(&json)?);
    }
    if reloaded.is_empty() {
        bail!("{}", nobody(host.as_deref(), &sockets)?);
    }
    let mut out = std::io::stdout().lock();
    for Reloaded { host, problem, doubts, .. } in &reloaded {
        match problem {
            None => writeln!(out, "{host}: reloaded")?,
            // What is wrong with its zones is told zone by zone; it should be seen whose they are.
            Some(problem) => eprintln!("{host}: {}", problem.trim_end().replace('\n', "\n  ")),
        }
        for doubt in doubts {
            eprintln!("warning: {doubt}");
        }
    }
    let wrong = reloaded.iter().filter(|server| server.problem.is_some()).count();
    if wrong > 0 {
        bail!(
            "{wrong} of {} name servers found something wrong; the rest of their zones is as the files say",
            reloaded.len()
        );
    }
    Ok(())
}

/// Why no name server was reached, and which there are.
fn nobody(host: Option<&str>, sockets: &[PathBuf]) -> anyhow::Result<String> {
    let mut known = vec![];
    for socket in sockets {
        let mut json = String::new();
        get(socket, "/status")?.read_to_string(&mut json)?;
        let entries: Vec<Entry> = serde_json::from_str(&json)?;
        known.extend(entries.into_iter().filter(|entry| entry.daemon == "dns").map(|entry| entry.host));
    }
    Ok(match host {
        _ if known.is_empty() => "no name server runs here; start one with `tomte up`".to_owned(),
        Some(host) if !known.iter().any(|other| other == host) => {
            format!("no name server runs on `{host}`; they run on {}", known.join(", "))
        }
        _ => "a name server that is a service of its own is told by its manager: systemctl reload tomte-dns".to_owned(),
    })
}
