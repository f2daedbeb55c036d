//! `tomte status`: who serves where.

use crate::{
    client::{Whom, get},
    terminal::{self, fold},
};
use shared::admin::{Entry, State};
use std::{
    io::{Read, Write},
    time::{Duration, SystemTime},
};

pub(crate) const EXAMPLES: &str = "Examples:\n  \
    tomte status         every daemon of every host, and its addresses\n  \
    tomte status --json  the same for programs\n";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// As JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn status(arguments: &Arguments) -> anyhow::Result<()> {
    let mut entries: Vec<Entry> = vec![];
    for socket in arguments.whom.sockets()? {
        let mut json = String::new();
        get(&socket, "/status")?.read_to_string(&mut json)?;
        entries.append(&mut serde_json::from_str(&json)?);
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&entries)?)?;
        return Ok(());
    }
    let width = entries.iter().map(|entry| entry.host.len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:width$}  {:<11} {:<9} {:<8} ADDRESSES", "HOST", "DAEMON", "STATE", "SINCE")?;
    for Entry { daemon, host, addresses, state, since } in entries {
        let state = match state {
            State::Starting => "starting",
            State::Serving => "serving",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        };
        let row = format!("{host:width$}  {daemon:<11} {state:<9} {:<8} ", age(since));
        let all = addresses.join(", ");
        // Where they have no room beside the rest, they have lines of their own.
        match terminal::width() {
            Some(columns) if row.len() + all.len() > columns => {
                writeln!(out, "{}\n    {}", row.trim_end(), fold(&addresses, ", ", 4, Some(columns)))?;
            }
            _ => writeln!(out, "{row}{all}")?,
        }
    }
    Ok(())
}

/// How long ago, in the largest unit that says something.
fn age(since: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(since);
    let seconds = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
