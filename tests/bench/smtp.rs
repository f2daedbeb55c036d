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
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Figure, OURS, Runs};
use tests::process::{PATIENCE, Server, built_program, find_program, free_address, pause};
use tests::sink;
use tests::table::figure;

/// Measures tomte-smtp and Postfix side by side.
#[derive(Debug, Parser)]
struct Flags {
    /// How often each server runs each column; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How many messages a run has, in percent of the usual number.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    percent: u32,
    /// Only these columns.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMN")]
    only: Vec<Column>,
    /// Only these servers.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::value_variants().to_vec())]
    servers: Vec<Kind>,
    /// Our binary; by default the `tomte-smtp` of this source tree.
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Print JSON, with every single run.
    #[arg(long)]
    json: bool,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// 1 KiB into a mailbox, one session after the other.
    Small1,
    /// The same, ten at a time.
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

impl Column {
    fn name(self) -> String {
        self.to_possible_value().expect("no column is skipped").get_name().to_owned()
    }

    /// Sessions at a time, octets of a message, messages.
    fn work(self) -> (usize, usize, u32) {
        match self {
            Self::Small1 => (1, 1 << 10, 1000),
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
    folder: tempfile::TempDir,
}

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().expect("no server is skipped").get_name().to_owned()
    }

    fn program(self, flags: &Flags) -> Result<PathBuf> {
        match (self, &flags.ours) {
            (Self::Postfix, _) => find_program("postfix", "postfix"),
            (Self::Ours, Some(program)) => Ok(program.clone()),
            (Self::Ours, None) => built_program("tomte-smtp"),
        }
    }

    fn start(self, flags: &Flags, ground: &Path) -> Result<Bench> {
        let (address, sink) = (free_address()?, sink::start()?);
        let folder = tempfile::Builder::new().prefix(&self.name()).tempdir_in(ground)?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let server = match self {
            Self::Ours => self.start_ours(flags, folder.path(), address, sink)?,
            Self::Postfix => start_postfix(folder.path(), address, sink)?,
        };
        Ok(Bench { kind: self, server, folder })
    }

    fn start_ours(self, flags: &Flags, folder: &Path, address: SocketAddr, sink: SocketAddr) -> Result<Server> {
        let place = folder.display();
        let text = format!(
            "[smtp]\nlisten = [\"{address}\"]\nhostname = \"bench.example\"\ndomains = [\"bench.example\"]\nusers = [\"user\"]\n\
             mailboxes = \"{place}/mail\"\nspool = \"{place}/spool\"\nconnections_per_peer = 1000\n\
             routes = {{ \"else.example\" = \"{sink}\" }}\n"
        );
        let file = folder.join("server.toml");
        fs::write(&file, text)?;
        Server::start(&self.program(flags)?, [Path::new("-c"), &file], address, &folder.join("output"))
    }
}

/// Postfix in a folder of its own, with a mailbox as its virtual(8) has them.
fn start_postfix(folder: &Path, address: SocketAddr, sink: SocketAddr) -> Result<Server> {
    let place = folder.display();
    let (queue, data, mail) = (folder.join("queue"), folder.join("data"), folder.join("mail"));
    for dir in [&queue, &data, &mail] {
        fs::create_dir_all(dir)?;
    }
    let ids = |name: &str| -> Result<u32> {
        let output = Command::new("id").args(["-u", name]).output()?;
        String::from_utf8(output.stdout)?.trim().parse().with_context(|| format!("there is no user {name}"))
    };
    chown(&data, Some(ids("postfix")?), None)?;
    chown(&mail, Some(65534), Some(65534))?;
    let settings = format!(
        "compatibility_level = 3.6\nqueue_directory = {place}/queue\ndata_directory = {place}/data\n\
         maillog_file = {place}/log\nmaillog_file_prefixes = {place}\nmyhostname = bench.example\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nalias_maps =\nbiff = no\n\
         virtual_mailbox_domains = bench.example\nvirtual_mailbox_base = {place}/mail\n\
         virtual_mailbox_maps = static:user/\nvirtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\n\
         virtual_minimum_uid = 100\nvirtual_mailbox_limit = 0\nrelayhost = [{}]:{}\nsmtpd_client_connection_count_limit = 0\n",
        sink.ip(),
        sink.port()
    );
    let master = format!(
        "127.0.0.1:{} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nverify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\nproxywrite unix - - n - 1 proxymap\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n\
         showq unix n - n - - showq\nerror unix - - n - - error\nretry unix - - n - - error\ndiscard unix - - n - - discard\n\
         local unix - n n - - local\nvirtual unix - n n - - virtual\nlmtp unix - - n - - lmtp\nanvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\npostlog unix-dgram n - n - 1 postlogd\n",
        address.port()
    );
    let config = folder.join("postfix");
    fs::create_dir_all(&config)?;
    fs::write(config.join("main.cf"), settings)?;
    fs::write(config.join("master.cf"), master)?;
    let program = find_program("postfix", "postfix")?;
    let status = Command::new(&program).arg("-c").arg(&config).arg("check").stderr(Stdio::null()).status()?;
    ensure!(status.success(), "postfix check says no");
    let config = config.display().to_string();
    Server::start(&program, ["-c", &config, "start-fg"], address, &folder.join("output"))
}

impl Bench {
    /// Files in which a message may still wait.
    fn waiting(&self) -> Result<usize> {
        let queue = match self.kind {
            Kind::Ours => vec!["spool/queue"],
            Kind::Postfix => vec!["queue/incoming", "queue/active", "queue/deferred", "queue/maildrop"],
        };
        queue.iter().map(|dir| files(&self.folder.path().join(dir))).sum()
    }

    fn mailbox(&self) -> PathBuf {
        self.folder.path().join("mail/user/new")
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
    let mut benches = vec![];
    for kind in &flags.servers {
        benches.push(kind.start(flags, ground).with_context(|| kind.name())?);
    }
    let mut results: Vec<Runs> =
        flags.servers.iter().map(|kind| Runs { server: kind.name(), runs: Vec::new() }).collect();
    for round in 1..=flags.rounds {
        for (bench, result) in benches.iter().zip(&mut results) {
            let run = bench.run(column, flags).with_context(|| result.server.clone())?;
            eprintln!("{} round {round}: {} {} messages/s", column.name(), result.server, figure(run[0]));
            result.runs.push(run);
        }
    }
    for bench in benches {
        // The ground removes them all.
        let _: PathBuf = bench.folder.keep();
    }
    Ok(contest::Column { name: column.name(), figures: &FIGURES, servers: results })
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    debug_assert_eq!(Kind::Ours.name(), OURS);
    let wanted = if flags.only.is_empty() { Column::value_variants() } else { &flags.only };
    let ground = ground()?;
    let columns = wanted.iter().map(|column| run_column(*column, &flags, ground.path())).collect::<Result<Vec<_>>>()?;
    if flags.json {
        let value = serde_json::json!({
            "rounds": flags.rounds,
            "columns": columns.iter().map(contest::Column::to_json).collect::<Vec<_>>(),
        });
        println!("{value:#}");
        return Ok(());
    }
    println!("{} rounds, medians, {} processors\n", flags.rounds, std::thread::available_parallelism()?);
    print!("{}", contest::table(&columns));
    println!("\nours/best: above 1 ours is ahead, in rate and processor alike.");
    Ok(())
}
