//! The POP3 server against Dovecot as Debian ships it, with the same mailboxes, in the same minutes.
//!
//! ```text
//! cargo build --release -p tomte-pop3 -p tomte-tests --bins
//! target/release/bench-pop3                     # everything, about two minutes
//! target/release/bench-pop3 --only single --seconds 1
//! ```
//!
//! Both servers have the settings that their manuals recommend for many POP3 logins, both check a password each time (a plain one:
//! what Argon2 costs is no matter of POP3; ours remembers it, as it does by default, Dovecot's cache is on), and both read
//! Maildirs whose names tell the sizes. They take turns, round by round, and the median counts. The client is a thread for each
//! connection on the same machine, which is why the processor time stands beside the rate. Before a server is timed, its
//! octets are compared with the files.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Figure, OURS, Report, Runs};
use tests::process::{PATIENCE, Server, built_program, find_program, free_address, version};
use tests::table::figure;

/// Measures tomte-pop3 and Dovecot side by side.
#[derive(Debug, Parser)]
struct Flags {
    /// How often each server runs each column; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// How long one run takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Only these columns.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "COLUMN")]
    only: Vec<Column>,
    /// Only these servers.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::value_variants().to_vec())]
    servers: Vec<Kind>,
    /// Our binary; by default the `tomte-pop3` of this source tree.
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Print JSON, with every single run.
    #[arg(long)]
    json: bool,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// Connect, log in, STAT, QUIT; four clients, a mailbox each.
    Login,
    /// RETR of messages of 1 KiB, each after the answer to the last one.
    Single,
    /// The same, a hundred commands at once.
    Pipelined,
    /// RETR of messages of 100 KiB, pipelined.
    Large,
    /// Log in, STAT and QUIT on 100,000 messages whose names tell the sizes; the first time of a server does not count.
    Crowd,
    /// The same, when another agent has just filled the mailbox and its names tell no sizes.
    Strange,
}

const RATE: [Figure; 2] =
    [Figure { unit: "1/s", better: Better::More }, Figure { unit: "CPU us each", better: Better::Less }];
const WAIT: [Figure; 1] = [Figure { unit: "s", better: Better::Less }];

/// Users that log in at the same time.
const USERS: usize = 4;
/// Messages in a mailbox that is read.
const MESSAGES: usize = 1000;
const LARGE_MESSAGES: usize = 100;
const CROWD: usize = 100_000;

impl Column {
    fn name(self) -> String {
        self.to_possible_value().expect("no column is skipped").get_name().to_owned()
    }

    fn figures(self) -> &'static [Figure] {
        match self {
            Self::Crowd | Self::Strange => &WAIT,
            _ => &RATE,
        }
    }

    /// The mailbox: how many messages, how large, and whether their names tell the sizes.
    fn mailbox(self) -> (usize, usize, Names) {
        match self {
            Self::Login => (10, 1024, Names::Sizes),
            Self::Single | Self::Pipelined => (MESSAGES, 1024, Names::Sizes),
            Self::Large => (LARGE_MESSAGES, 100 << 10, Names::Sizes),
            Self::Crowd => (CROWD, 1024, Names::Sizes),
            Self::Strange => (CROWD, 1024, Names::Bare),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    Sizes,
    Bare,
}

/// The servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Dovecot,
}

/// Argon2's hash of `bench`, with the least of memory: what it costs is no matter of POP3.
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$dG9tdGViZW5jaHNhbHQwMA$aonqjdV0Y7iAfocvwkCvWkeYrHJgIlE+ybyPFC4yow4";

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().expect("no server is skipped").get_name().to_owned()
    }

    fn program(self, flags: &Flags) -> Result<PathBuf> {
        match (self, &flags.ours) {
            (Self::Dovecot, _) => find_program("dovecot", "dovecot-pop3d"),
            (Self::Ours, Some(program)) => Ok(program.clone()),
            (Self::Ours, None) => built_program("tomte-pop3"),
        }
    }

    /// Dovecot's part follows its manual for busy POP3: high-performance login processes, processes that serve one client after
    /// the other, and no lock files.
    fn configuration(self, folder: &Path, mail: &Path, port: u16) -> String {
        let (folder, mail) = (folder.display(), mail.display());
        match self {
            Self::Ours => format!(
                "[accounts]\nfile = \"{folder}/accounts.toml\"\n[pop3]\nlisten = [\"127.0.0.1:{port}\"]\n\
                 mailboxes = \"{mail}\"\nallow_plaintext_auth = true\nconnections_per_peer = 1000\n"
            ),
            Self::Dovecot => format!(
                "base_dir = {folder}/run\nstate_dir = {folder}/state\nlog_path = {folder}/log\nprotocols = pop3\nssl = no\n\
                 listen = 127.0.0.1\ndisable_plaintext_auth = no\nauth_cache_size = 10M\nmail_location = maildir:{mail}/%u\n\
                 maildir_very_dirty_syncs = yes\npop3_uidl_format = %f\nfirst_valid_uid = 1\n\
                 passdb {{\n driver = static\n args = password=bench\n}}\n\
                 userdb {{\n driver = static\n args = uid=nobody gid=nogroup home={mail}/%u\n}}\n\
                 service pop3-login {{\n service_count = 0\n process_min_avail = 2\n client_limit = 1000\n \
                 inet_listener pop3 {{\n  port = {port}\n }}\n inet_listener pop3s {{\n  port = 0\n }}\n}}\n\
                 service pop3 {{\n service_count = 0\n process_min_avail = 4\n}}\n"
            ),
        }
    }

    fn start(self, flags: &Flags, mail: &Path) -> Result<(Server, tempfile::TempDir)> {
        let address = free_address()?;
        let folder = tempfile::Builder::new().prefix("bench-pop3-").tempdir()?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let accounts =
            (0..USERS).fold(String::new(), |all, user| all + &format!("[user{user}]\npassword = \"{HASH}\"\n"));
        fs::write(folder.path().join("accounts.toml"), accounts)?;
        let file = folder.path().join("server.conf");
        fs::write(&file, self.configuration(folder.path(), mail, address.port()))?;
        let file = file.display().to_string();
        let arguments = match self {
            Self::Ours => vec!["-c", &file],
            Self::Dovecot => vec!["-F", "-c", &file],
        };
        let server = Server::start(&self.program(flags)?, arguments, address, &folder.path().join("output"))?;
        Ok((server, folder))
    }
}

/// A connection that has been greeted.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE * 6))?;
        let mut talk = Self(BufReader::with_capacity(256 << 10, stream));
        talk.ok()?;
        Ok(talk)
    }

    fn say(&mut self, line: &str) -> Result<()> {
        Ok(self.0.get_mut().write_all(line.as_bytes())?)
    }

    fn ok(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(line.starts_with("+OK"), "the server says {line:?}");
        Ok(line)
    }

    fn log_in(&mut self, user: usize) -> Result<()> {
        self.say(&format!("USER user{user}\r\n"))?;
        self.ok()?;
        self.say("PASS bench\r\n")?;
        self.ok().map(drop)
    }

    /// Reads a message to its end; how many octets it has, the end not counted.
    fn message(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        self.ok()?;
        let mut octets = 0;
        loop {
            buffer.clear();
            self.0.read_until(b'\n', buffer)?;
            match &buffer[..] {
                b".\r\n" => return Ok(octets),
                [] => bail!("the message does not end"),
                line => octets += line.len(),
            }
        }
    }
}

/// Writes the mailboxes of a column. They belong to nobody, which is who Dovecot reads them as when root starts it.
fn fill(column: Column, mail: &Path) -> Result<()> {
    let (messages, octets, names) = column.mailbox();
    let head = "From: alice@crepes.fr\nTo: bob@hamburger.edu\nSubject: bench\n\n";
    let line = "sixty-three octets and their end make sixty-four, which is neat\n";
    let lines = (octets - head.len()) / (line.len() + 1);
    let text = format!("{head}{}", line.repeat(lines));
    let on_the_wire = text.len() + text.lines().count();
    let users = if column == Column::Login { USERS } else { 1 };
    for user in 0..users {
        let folder = mail.join(format!("user{user}"));
        for dir in ["new", "cur", "tmp"] {
            fs::create_dir_all(folder.join(dir))?;
        }
        for number in 0..messages {
            let name = match names {
                Names::Sizes => format!("1193{number:06}.M1P1Q1.h,S={},W={on_the_wire}", text.len()),
                Names::Bare => format!("1193{number:06}.V1I1M1.h"),
            };
            fs::write(folder.join("cur").join(format!("{name}:2,")), &text)?;
        }
        own(&folder)?;
    }
    own(mail)
}

fn own(folder: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        let status = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(folder).status()?;
        ensure!(status.success(), "chown failed");
        chown(folder, Some(65534), Some(65534))?;
    }
    Ok(())
}

/// Both servers must tell and send the same octets.
fn check(column: Column, address: SocketAddr) -> Result<()> {
    let (messages, octets, _) = column.mailbox();
    let mut talk = Talk::open(address)?;
    talk.log_in(0)?;
    talk.say("STAT\r\n")?;
    let told = talk.ok()?;
    talk.say("RETR 1\r\n")?;
    let sent = talk.message(&mut vec![])?;
    ensure!(sent > octets * 9 / 10 && sent <= octets, "a message of {sent} octets");
    ensure!(told.starts_with(&format!("+OK {messages} {}", messages * sent)), "STAT says {told:?}");
    talk.say("QUIT\r\n")?;
    talk.ok().map(drop)
}

/// Log in, STAT, QUIT.
fn visit(address: SocketAddr, user: usize) -> Result<()> {
    let mut talk = Talk::open(address)?;
    talk.log_in(user)?;
    talk.say("STAT\r\n")?;
    talk.ok()?;
    talk.say("QUIT\r\n")?;
    talk.ok().map(drop)
}

/// Visits, again and again; how many.
fn visits(address: SocketAddr, user: usize, until: Instant) -> Result<u64> {
    let mut count = 0;
    while Instant::now() < until {
        visit(address, user)?;
        count += 1;
    }
    Ok(count)
}

/// RETR of each message in turn, so many commands at once.
fn retrievals(address: SocketAddr, messages: usize, at_once: usize, until: Instant) -> Result<u64> {
    let mut talk = Talk::open(address)?;
    talk.log_in(0)?;
    let (mut count, mut next, mut buffer) = (0, 0, vec![]);
    while Instant::now() < until {
        let commands: String =
            (0..at_once).fold(String::new(), |all, index| all + &format!("RETR {}\r\n", (next + index) % messages + 1));
        talk.say(&commands)?;
        for _ in 0..at_once {
            talk.message(&mut buffer)?;
        }
        next = (next + at_once) % messages;
        count += at_once as u64;
    }
    Ok(count)
}

/// The figures of one run, in the order of [`Column::figures`].
fn measure(column: Column, server: &Server, flags: &Flags) -> Result<Vec<f64>> {
    let (address, begin, before) = (server.address(), Instant::now(), server.cpu()?);
    let until = begin + Duration::from_secs(flags.seconds);
    let (messages, ..) = column.mailbox();
    let count = match column {
        Column::Login => std::thread::scope(|scope| {
            let clients: Vec<_> = (0..USERS).map(|user| scope.spawn(move || visits(address, user, until))).collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap_or_else(|_| bail!("a client died")))
                .sum::<Result<u64>>()
        })?,
        Column::Single => retrievals(address, messages, 1, until)?,
        Column::Pipelined => retrievals(address, messages, 100, until)?,
        Column::Large => retrievals(address, messages, 10, until)?,
        Column::Crowd | Column::Strange => {
            visit(address, 0)?;
            return Ok(vec![begin.elapsed().as_secs_f64()]);
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    let cost = server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / count as f64;
    Ok(vec![count as f64 / seconds, cost])
}

/// What a server has noted about a mailbox that it does not know yet: forgotten, so that it is strange again.
fn forget(mail: &Path) -> Result<()> {
    for entry in fs::read_dir(mail.join("user0"))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn run_column(column: Column, flags: &Flags) -> Result<contest::Column> {
    let mut servers = vec![];
    for kind in &flags.servers {
        // Each has mailboxes of its own: what one notes there must not help or hinder the other.
        let mail = tempfile::Builder::new().prefix("bench-pop3-mail.").tempdir()?;
        fs::set_permissions(mail.path(), fs::Permissions::from_mode(0o755))?;
        fill(column, mail.path())?;
        let (server, folder) = kind.start(flags, mail.path()).with_context(|| kind.name())?;
        check(column, server.address()).with_context(|| kind.name())?;
        servers.push((server, folder, mail));
    }
    let mut results: Vec<Runs> =
        flags.servers.iter().map(|kind| Runs { server: kind.name(), runs: Vec::new() }).collect();
    for round in 1..=flags.rounds {
        for ((server, _, mail), result) in servers.iter().zip(&mut results) {
            if column == Column::Strange {
                forget(mail.path())?;
            }
            let run = measure(column, server, flags).with_context(|| result.server.clone())?;
            let unit = column.figures()[0].unit;
            eprintln!("{} round {round}: {} {} {unit}", column.name(), result.server, figure(run[0]));
            result.runs.push(run);
        }
    }
    Ok(contest::Column { name: column.name(), figures: column.figures(), servers: results })
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    debug_assert_eq!(Kind::Ours.name(), OURS);
    let mut versions = Vec::new();
    for kind in &flags.servers {
        versions.push((kind.name(), version(&kind.program(&flags)?, "--version")?));
    }
    let wanted = if flags.only.is_empty() { Column::value_variants() } else { &flags.only };
    let columns = wanted.iter().map(|column| run_column(*column, &flags)).collect::<Result<Vec<_>>>()?;
    let report = Report { rounds: flags.rounds, seconds: flags.seconds, versions, columns };
    if flags.json {
        println!("{:#}", report.to_json());
    } else {
        print!("{report}");
    }
    Ok(())
}
