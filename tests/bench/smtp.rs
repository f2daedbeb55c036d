//! The mail server against Postfix as Debian ships it: the same messages from the same client, in the same minutes.
//!
//! ```text
//! cargo build --release -p tomte-smtp -p tomte-tests --bins
//! target/release/bench-smtp                     # everything, about three minutes
//! target/release/bench-smtp --only small10
//! ```
//!
//! The client is Postfix's own `smtp-source`, a connection for each message, as mail comes from strangers. Time runs from its start until the
//! last message is where it belongs: in the Maildir of a user, or taken over by a [`sink`] and gone from the queue. Both servers are as
//! durable as they are by default: fsync before 250. They take turns, round by round, and the median counts. The disk is shared with whatever
//! else this machine does, which is why the processor time stands beside the rate.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Contestant, Figure, Work, name};
use tests::postfix;
use tests::process::{PATIENCE, Server, find_program, free_address, on_one_processor, pause, version};
use tests::sink;

/// Measures tomte-smtp and Postfix side by side.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    choices: contest::Choices<Column, Kind>,
    /// How many messages a run has, in percent of the usual number.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    percent: u32,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// 1 KiB into a mailbox, one session after the other.
    Small1,
    /// The same, where client and server share one processor.
    Small1Cpu,
    /// The same on all processors, ten at a time.
    Small10,
    /// The same, fifty at a time.
    Small50,
    /// 10 KiB into a mailbox, one session after the other.
    Medium1,
    /// The same, ten at a time.
    Medium10,
    /// The same, fifty at a time.
    Medium50,
    /// 1 MiB into a mailbox, one after the other.
    Large1,
    /// The same, ten at a time.
    Large10,
    /// 1 KiB on to another server, ten at a time.
    Relay,
    /// 1 MiB on to another server, ten at a time.
    RelayLarge,
}

const FIGURES: [Figure; 2] =
    [Figure { unit: "messages/s", better: Better::More }, Figure { unit: "CPU us each", better: Better::Less }];

/// Where mail goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Mailbox,
    Relay,
}

impl Work for Column {
    fn figures(self) -> &'static [Figure] {
        &FIGURES
    }
}

impl Column {
    /// Sessions at a time, octets of a message, messages.
    fn work(self) -> (usize, usize, u32) {
        match self {
            Self::Small1 | Self::Small1Cpu => (1, 1 << 10, 1000),
            Self::Small10 | Self::Relay => (10, 1 << 10, 2000),
            Self::Small50 => (50, 1 << 10, 2000),
            Self::Medium1 => (1, 10 << 10, 1000),
            Self::Medium10 => (10, 10 << 10, 2000),
            Self::Medium50 => (50, 10 << 10, 2000),
            Self::Large1 => (1, 1 << 20, 150),
            Self::Large10 | Self::RelayLarge => (10, 1 << 20, 300),
        }
    }

    fn goal(self) -> Goal {
        if matches!(self, Self::Relay | Self::RelayLarge) { Goal::Relay } else { Goal::Mailbox }
    }
}

/// The servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Postfix,
}

/// A server at work, with what it needs.
struct Bench {
    kind: Kind,
    server: Server,
    folder: PathBuf,
}

impl Contestant for Kind {
    const OURS: &'static str = "tomte-smtp";

    fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ours => None,
            Self::Postfix => Some(("postfix", "postfix")),
        }
    }

    fn version(self, program: &Path) -> Result<String> {
        match self {
            Self::Ours => version(program, "--version"),
            Self::Postfix => version(&find_program("postconf", "postfix")?, "-d mail_version"),
        }
    }
}

/// The domain whose mail they take. All other mail goes on to a [`sink`].
const DOMAIN: &str = "bench.example";

fn start_ours(program: &Path, folder: &Path, address: SocketAddr, sink: SocketAddr) -> Result<Server> {
    let place = folder.display();
    let text = format!(
        "[smtp]\nlisten = [\"{address}\"]\nhostname = \"{DOMAIN}\"\ndomains = [\"{DOMAIN}\"]\nusers = [\"user\"]\n\
         mailboxes = \"{place}/mail\"\nspool = \"{place}/spool\"\nconnections_per_peer = 1000\n\
         routes = {{ \"else.example\" = \"{sink}\" }}\n"
    );
    let file = folder.join("server.toml");
    fs::write(&file, text)?;
    Server::start(program, [Path::new("-c"), &file], address, &folder.join("output"))
}

impl Bench {
    fn start(kind: Kind, flags: &Flags, ground: &Path) -> Result<Self> {
        let (address, sink) = (free_address()?, sink::start()?);
        // The ground removes it with the others.
        let folder = tempfile::Builder::new().prefix(&name(kind)).tempdir_in(ground)?.keep();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        let server = match kind {
            Kind::Ours => start_ours(&flags.choices.program(kind)?, &folder, address, sink)?,
            Kind::Postfix => postfix::start_in(&folder, DOMAIN, address, sink, "")?,
        };
        Ok(Self { kind, server, folder })
    }

    /// Files in which a message may still wait.
    fn waiting(&self) -> Result<usize> {
        let queue = match self.kind {
            Kind::Ours => vec!["spool/queue"],
            Kind::Postfix => vec!["queue/incoming", "queue/active", "queue/deferred", "queue/maildrop"],
        };
        queue.iter().map(|dir| files(&self.folder.join(dir))).sum()
    }

    fn mailbox(&self) -> PathBuf {
        self.folder.join("mail/user/new")
    }

    fn run(&self, column: Column, flags: &Flags) -> Result<Vec<f64>> {
        let (sessions, octets, messages) = column.work();
        let messages = (messages * flags.percent / 100).max(1);
        // What was delivered before stays ([`ground`] says why).
        let held = files(&self.mailbox())?;
        // What the round before left to be written must not be paid for in this one.
        rustix::fs::sync();
        let to = if column.goal() == Goal::Mailbox { "user@bench.example" } else { "user@else.example" };
        let (begin, before) = (Instant::now(), self.server.cpu()?);
        let status = Command::new(find_program("smtp-source", "postfix")?)
            .args(["-s", &sessions.to_string(), "-m", &messages.to_string(), "-l", &octets.to_string()])
            .args(["-f", "sender@source.example", "-t", to, &self.server.address().to_string()])
            .status()?;
        ensure!(status.success(), "smtp-source is not content");
        let patience = begin + PATIENCE * 6;
        let there = |bench: &Self| -> Result<bool> {
            Ok(match column.goal() {
                Goal::Mailbox => files(&bench.mailbox())? >= held + messages as usize,
                Goal::Relay => bench.waiting()? == 0,
            })
        };
        while !there(self)? {
            ensure!(Instant::now() < patience, "{messages} messages do not arrive");
            pause();
        }
        let seconds = begin.elapsed().as_secs_f64();
        let cost = self.server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(messages);
        Ok(vec![f64::from(messages) / seconds, cost])
    }
}

/// Files in a folder and below.
fn files(folder: &Path) -> Result<usize> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(0) };
    let mut count = 0;
    for entry in entries {
        let entry = entry?;
        // It may be gone already.
        let Ok(kind) = entry.file_type() else { continue };
        count += if kind.is_dir() { files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Where the servers' folders are made, each in a part of the disk of its own, and where they stay until the end.
///
/// ext4 does not give away the inodes of files that were removed in the last minutes, and looks at each of them again for every new
/// file. So whoever runs in the part where another has just tidied up pays for it, in milliseconds for each message.
fn ground() -> Result<tempfile::TempDir> {
    let ground = tempfile::Builder::new().prefix("bench-smtp-").tempdir()?;
    fs::set_permissions(ground.path(), fs::Permissions::from_mode(0o755))?;
    let spread = Command::new("chattr").arg("+T").arg(ground.path()).stderr(Stdio::null()).status();
    if !spread.is_ok_and(|status| status.success()) {
        eprintln!(
            "the servers' folders are not spread over the disk (chattr +T): files removed by one may slow the other"
        );
    }
    Ok(ground)
}

fn run_column(column: Column, flags: &Flags, ground: &Path) -> Result<contest::Column> {
    let run =
        || flags.choices.run(column, |kind| Bench::start(kind, flags, ground), |_, bench, _| bench.run(column, flags));
    if column == Column::Small1Cpu { on_one_processor(run) } else { run() }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let ground = ground()?;
    let columns = flags.choices.columns().iter().map(|column| run_column(*column, &flags, ground.path()));
    let columns = columns.collect::<Result<_>>()?;
    flags.choices.report(&format!("{} % of the messages", flags.percent), vec![], columns)
}
