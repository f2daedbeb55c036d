//! `tomte queue`: the mail that waits.

use crate::client::{Whom, get, post};
use anyhow::bail;
use shared::admin::{Answered, Filter};
use smtp::queue::Question;
use std::io::{Read, Write};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte queue list                        what waits, for whom, since when\n  \
    tomte queue list --host mail.crepes.fr  only at Alice's server\n  \
    tomte queue show 1K165SN36BV            the message, and how it came\n  \
    tomte queue flush                       try everything now\n  \
    tomte queue hold 1K165SN36BV            let it wait, until it is released\n  \
    tomte queue release 1K165SN36BV         let it go on\n  \
    tomte queue delete 1K165SN36BV          throw it away; nobody is told\n";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show what waits: sender and recipients, size, tries, the next try, and what came of the last one
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Show one message: its envelope, then the message
    Show(One),
    /// Try now what waits, or one message
    Flush {
        /// The queue id; without one, all
        id: Option<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Let a message wait until it is released
    Hold(One),
    /// Let a message that is held go on
    Release(One),
    /// Remove a message; its sender is not told
    Delete(One),
}

#[derive(Debug, clap::Args)]
pub(crate) struct One {
    /// The queue id, as `tomte queue list` shows it; `all` for every message (not for show)
    id: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// Only the queue of this host
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    #[command(flatten)]
    whom: Whom,
}

pub(crate) fn queue(command: &Command) -> anyhow::Result<()> {
    let (action, id, which) = match command {
        Command::List { which } => ("list", None, which),
        Command::Show(One { id, which }) => ("show", Some(id), which),
        Command::Flush { id, which } => ("flush", id.as_ref(), which),
        Command::Hold(One { id, which }) => ("hold", Some(id), which),
        Command::Release(One { id, which }) => ("release", Some(id), which),
        Command::Delete(One { id, which }) => ("delete", Some(id), which),
    };
    // The id goes into a path, and only what is one may.
    if let Err(problem) = Question::parse(action, id.map(String::as_str)) {
        bail!("{problem} (tomte queue list)");
    }
    let path = match (action, id) {
        ("list", _) => "/queue".to_owned(),
        (action, None) => format!("/queue/{action}"),
        (action, Some(id)) => format!("/queue/{action}/{id}"),
    };
    let filter = Filter { daemon: None, host: which.host.clone(), connection: None };
    let mut answered: Vec<Answered> = vec![];
    for socket in which.whom.sockets()? {
        let path = format!("{path}?{}", filter.to_query());
        let mut json = String::new();
        let mut answer = if matches!(action, "list" | "show") { get(&socket, &path)? } else { post(&socket, &path)? };
        answer.read_to_string(&mut json)?;
        answered.append(&mut serde_json::from_str(&json)?);
    }
    if answered.is_empty() {
        let which = which.host.as_ref().map_or("here".to_owned(), |host| format!("on `{host}`"));
        bail!("nobody has a queue {which}; the lab's mail servers are called mail.*");
    }
    // An id is known to one queue; what the others say would only hide its answer.
    let knows = |answer: &Answered| !answer.lines.iter().all(|line| line.starts_with("no message "));
    if let Some(id) = id.filter(|id| *id != "all") {
        answered.retain(knows);
        if answered.is_empty() {
            bail!("no message {id} waits here; `tomte queue list` shows those that do");
        }
    }
    let mut out = std::io::stdout().lock();
    for Answered { host, lines, .. } in answered {
        writeln!(out, "{host}:")?;
        for line in lines {
            writeln!(out, "  {line}")?;
        }
    }
    Ok(())
}
