//! A lab of its own for each test: the shipped description, at addresses that nobody else has.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::program::{Running, command};

/// The lab as it is shipped.
pub const SHIPPED: &str = include_str!("../../config/lab.toml");

/// lab.toml with other addresses, so that tests run beside each other and beside the lab of whoever runs them.
#[derive(Debug, Clone)]
pub struct Description {
    /// The text of the file.
    pub text: String,
    addresses: BTreeMap<String, Ipv4Addr>,
}

impl Description {
    /// The shipped hosts at addresses of this process.
    pub fn own() -> Result<Self> {
        static HOSTS: AtomicU8 = AtomicU8::new(1);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let lab: toml::Table = SHIPPED.parse()?;
        let (mut text, mut addresses) = (SHIPPED.to_owned(), BTreeMap::new());
        for host in lab["host"].as_array().context("lab.toml has hosts")? {
            let word = |key: &str| host[key].as_str().with_context(|| format!("a host without {key}"));
            let number = HOSTS.fetch_add(1, Ordering::Relaxed);
            let line = format!("address = \"{}\"\n", word("address")?);
            text = text.replace(&line, &format!("address = \"10.{high}.{low}.{number}\"\n"));
            addresses.insert(word("name")?.to_owned(), Ipv4Addr::new(127, high, low, number));
        }
        Ok(Self { text, addresses })
    }

    /// The shipped hosts where they are when `tomte up` is typed. Only who is [alone](crate::alone) has these addresses.
    pub fn shipped() -> Result<Self> {
        let lab: toml::Table = SHIPPED.parse()?;
        let mut addresses = BTreeMap::new();
        for host in lab["host"].as_array().context("lab.toml has hosts")? {
            let word = |key: &str| host[key].as_str().with_context(|| format!("a host without {key}"));
            let [_, b, c, d] = word("address")?.parse::<Ipv4Addr>()?.octets();
            addresses.insert(word("name")?.to_owned(), Ipv4Addr::new(127, b, c, d));
        }
        Ok(Self { text: SHIPPED.to_owned(), addresses })
    }

    /// Adds lines to the `[host.dns]` table of a host that has one.
    pub fn add_to_dns(&mut self, host: &str, lines: &str) -> Result<()> {
        let table = "[host.dns]\n";
        let at = self.text.find(&format!("name = \"{host}\"\n")).with_context(|| format!("no {host}"))?;
        let at = at + self.text[at..].find(table).with_context(|| format!("{host} has no {table}"))? + table.len();
        self.text.insert_str(at, lines);
        Ok(())
    }

    /// Where a host serves on a port.
    pub fn address(&self, host: &str, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses[host].into(), port)
    }
}

/// A running lab, with its files. Dropping it kills it.
#[derive(Debug)]
pub struct Lab {
    /// Who is where.
    pub description: Description,
    /// `tomte up`.
    pub running: Running,
    /// From the start of the program to the last line of its table.
    pub took: Duration,
    state: PathBuf,
    _folder: TempDir,
}

impl Lab {
    /// Starts it and waits for the table of hosts, which is printed when every socket is bound.
    pub fn up() -> Result<Self> {
        Self::of(Description::own()?)
    }

    /// Starts the lab of a description, as [`Lab::up`].
    pub fn of(description: Description) -> Result<Self> {
        Self::with(description, &[])
    }

    /// Starts the shipped lab at its own addresses and with the real ports, for who is [alone](crate::alone).
    pub fn alone(flags: &[&str]) -> Result<Self> {
        Self::alone_with(Description::shipped()?, flags)
    }

    /// The same with some of its hosts changed.
    pub fn alone_with(description: Description, flags: &[&str]) -> Result<Self> {
        Self::with(description, &[&["--privileged-ports"], flags].concat())
    }

    fn with(description: Description, flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let state = folder.path().join("state");
        let mut up = up(&description, folder.path(), &state)?;
        up.args(flags);
        let begin = Instant::now();
        let mut running = Running::start(&mut up)?;
        running.wait_for("Ctrl-C")?;
        Ok(Self { description, running, took: begin.elapsed(), state, _folder: folder })
    }

    /// Where a host serves on a port.
    pub fn address(&self, host: &str, port: u16) -> SocketAddr {
        self.description.address(host, port)
    }

    /// Its state directory.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// A command of `tomte` that asks this lab.
    pub fn tomte(&self, name: &str) -> Result<Command> {
        let mut tomte = command("tomte")?;
        tomte.arg(name).arg("--state").arg(&self.state);
        Ok(tomte)
    }
}

/// Something that a host has said or heard, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// When, in microseconds.
    pub at: u64,
    /// `client`, `server` or `note`: who speaks, or what happened.
    pub kind: String,
    /// The other side.
    pub remote: SocketAddr,
    /// The line.
    pub line: String,
}

impl Lab {
    /// What a host has said and heard, as `tomte events` tells it, up to the first line with `last` in it.
    pub fn heard(&self, host: &str, last: &str) -> Result<Vec<Said>> {
        self.heard_times(host, last, 1)
    }

    /// The same up to the line that is so manieth with `last` in it.
    pub fn heard_times(&self, host: &str, last: &str, times: usize) -> Result<Vec<Said>> {
        let mut events = Running::start(self.tomte("events")?.args(["--json", "--host", host]))?;
        for _ in 0..times {
            events.wait_for(last)?;
        }
        let said = |line: &str| {
            let event: serde_json::Value = serde_json::from_str(line)?;
            let word = |key: &str| event[key].as_str().with_context(|| format!("an event without {key}: {line}"));
            let at = event["micros"].as_u64().context("an event without a time")?;
            Ok(Said {
                at,
                kind: word("kind")?.to_owned(),
                remote: word("remote")?.parse()?,
                line: word("line")?.to_owned(),
            })
        };
        events.said().out.lines().map(said).collect()
    }
}

/// `tomte up` with this description, which is written into `folder`.
pub fn up(description: &Description, folder: &Path, state: &Path) -> Result<Command> {
    let file = folder.join("lab.toml");
    fs::write(&file, &description.text)?;
    let mut up = command("tomte")?;
    up.arg("up").arg("--lab").arg(file).arg("--state").arg(state);
    Ok(up)
}
