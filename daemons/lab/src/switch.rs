//! `tomte stop` and `tomte start`: one host of the running lab goes off, and comes back.

use crate::client::{Whom, get, post};
use anyhow::bail;
use shared::admin::{Entry, Switch, Switched};
use std::io::Read;

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte stop mail.hamburger.edu   it is away: who has mail for it waits\n  \
    tomte start mail.hamburger.edu  it is back, with all that it had on disk\n";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The hosts, as `tomte status` calls them
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    #[command(flatten)]
    whom: Whom,
}

pub(crate) fn switch(action: Switch, Arguments { hosts, whom }: &Arguments) -> anyhow::Result<()> {
    let (word, done) = match action {
        Switch::Stop => ("stop", "stopped"),
        Switch::Start => ("start", "started"),
    };
    let sockets = whom.sockets()?;
    for host in hosts {
        let (mut owner, mut known) = (None, vec![]);
        for socket in &sockets {
            let mut json = String::new();
            get(socket, "/status")?.read_to_string(&mut json)?;
            let entries: Vec<Entry> = serde_json::from_str(&json)?;
            if entries.iter().any(|entry| entry.host == *host) {
                owner = Some(socket);
            }
            known.extend(entries.into_iter().map(|entry| entry.host));
        }
        known.dedup();
        let Some(socket) = owner else { bail!("there is no host `{host}` here; there are {}", known.join(", ")) };
        let mut json = String::new();
        post(socket, &format!("/host/{word}/{host}"))?.read_to_string(&mut json)?;
        match serde_json::from_str::<Switched>(&json)?.problem {
            None => println!("{host}: {done}"),
            Some(problem) => bail!("{host}: {problem}"),
        }
    }
    Ok(())
}
