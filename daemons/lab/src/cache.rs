//! `tomte cache`: what the local name servers remember.

use crate::client::{Whom, get, post};
use anyhow::bail;
use shared::admin::{Answered, Filter};
use std::io::{Read, Write};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte cache list                            what every local name server has\n  \
    tomte cache list --host resolver.crepes.fr  only Alice's\n  \
    tomte cache purge www.someschool.edu        forget a name, and all below it\n  \
    tomte cache purge .                         forget everything\n";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what is remembered: records with the seconds that are left, how far they are believed, and who said them
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Forget a name and all below it
    Purge {
        /// The name; `.` for everything
        name: String,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Only the local name server of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

pub(crate) fn cache(command: &Command) -> anyhow::Result<()> {
    let (which, page) = match command {
        Command::List { which } => (which, "/cache".to_owned()),
        Command::Purge { name, which } => {
            // The name goes into a path.
            if name.is_empty() || !name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b".-_".contains(&octet)) {
                bail!("`{name}` is no name to be forgotten; write for example www.someschool.edu");
            }
            (which, format!("/cache/{name}"))
        }
    };
    let filter = Filter { daemon: None, host: which.host.clone(), connection: None };
    let mut caches: Vec<Answered> = vec![];
    for socket in which.whom.sockets()? {
        let path = format!("{page}?{}", filter.to_query());
        let mut json = String::new();
        let mut answer = if page == "/cache" { get(&socket, &path)? } else { post(&socket, &path)? };
        answer.read_to_string(&mut json)?;
        caches.append(&mut serde_json::from_str(&json)?);
    }
    if caches.is_empty() {
        let which = which.host.as_ref().map_or("here".to_owned(), |host| format!("on `{host}`"));
        bail!("nobody has a cache {which}; the lab's local name servers are called resolver.*");
    }
    let mut out = std::io::stdout().lock();
    for Answered { host, lines, .. } in caches {
        writeln!(out, "{host}:{}", if lines.is_empty() { " empty" } else { "" })?;
        for line in lines {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
