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
//!
//! Where each command waits for the answer to the last one, a round trip is mostly two processors that wake each other up. Ours looks out
//! for the next command before it goes to sleep (`shared::lookout`); `several` shows what that does to others. On one processor there is
//! nobody to look out for: `single-cpu` shows the servers' work alone. Beside them stands what a [`parrot`] does, which has its one
//! answer ready: a server that sleeps until it is spoken to is hardly faster.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Contestant, Figure, Work, name};
use tests::dovecot::{Dovecot, give_away};
use tests::pop3::Client;
use tests::process::{Server, free_address, on_one_processor};
use tests::table::figure;

/// Measures tomte-pop3 and Dovecot side by side.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    choices: contest::Choices<Column, Kind>,
    /// How long one run takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// Connect, log in, STAT, QUIT; four clients, a mailbox each.
    Login,
    /// RETR of messages of 1 KiB, each after the answer to the last one.
    Single,
    /// The same, where client and server share one processor.
    SingleCpu,
    /// The same, four clients at the same time, a mailbox each.
    Several,
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

impl Work for Column {
    fn figures(self) -> &'static [Figure] {
        match self {
            Self::Crowd | Self::Strange => &WAIT,
            _ => &RATE,
        }
    }
}

impl Column {
    /// The mailbox: how many messages, how large, and whether their names tell the sizes.
    fn mailbox(self) -> (usize, usize, Names) {
        match self {
            Self::Login => (10, 1024, Names::Sizes),
            Self::Single | Self::SingleCpu | Self::Several | Self::Pipelined => (MESSAGES, 1024, Names::Sizes),
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

/// Everybody's password, and Argon2's hash of it with the least of memory: what it costs is no matter of POP3.
const PASSWORD: &str = "bench";
const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$dG9tdGViZW5jaHNhbHQwMA$aonqjdV0Y7iAfocvwkCvWkeYrHJgIlE+ybyPFC4yow4";

/// What Dovecot's manual has for busy POP3: high-performance login processes, processes that serve one client after the other, and no
/// lock files.
const DOVECOT: &str = "protocols = pop3\nauth_cache_size = 10M\nmaildir_very_dirty_syncs = yes\npop3_uidl_format = %f\n\
    service pop3-login {\n service_count = 0\n process_min_avail = 2\n client_limit = 1000\n}\n\
    service pop3 {\n service_count = 0\n process_min_avail = 4\n}\n";

impl Contestant for Kind {
    const OURS: &'static str = "tomte-pop3";

    fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ours => None,
            Self::Dovecot => Some(("dovecot", "dovecot-pop3d")),
        }
    }
}

/// A server at work, with mailboxes of its own: what one notes there must not help or hinder the other.
struct Bench {
    running: Running,
    mail: tempfile::TempDir,
}

enum Running {
    Ours { server: Server, _folder: tempfile::TempDir },
    Dovecot(Dovecot),
}

impl Bench {
    fn start(kind: Kind, column: Column, flags: &Flags) -> Result<Self> {
        let mail = tempfile::Builder::new().prefix("bench-pop3-mail.").tempdir()?;
        fill(column, mail.path())?;
        let running = match kind {
            Kind::Ours => start_ours(&flags.choices.program(kind)?, mail.path())?,
            Kind::Dovecot => Running::Dovecot(Dovecot::start(mail.path(), PASSWORD, DOVECOT)?),
        };
        let bench = Self { running, mail };
        check(column, bench.server().address())?;
        Ok(bench)
    }

    fn server(&self) -> &Server {
        match &self.running {
            Running::Ours { server, .. } => server,
            Running::Dovecot(dovecot) => dovecot.server(),
        }
    }
}

fn start_ours(program: &Path, mail: &Path) -> Result<Running> {
    let (address, folder) = (free_address()?, tempfile::tempdir()?);
    let [accounts, file, output] = ["accounts.toml", "tomte.toml", "output"].map(|name| folder.path().join(name));
    let account = |user| format!("[{}]\npassword = \"{HASH}\"\n", name_of(user));
    fs::write(&accounts, (0..USERS).map(account).collect::<String>())?;
    let (accounts, mail) = (accounts.display(), mail.display());
    let text = format!(
        "[accounts]\nfile = \"{accounts}\"\n[pop3]\nlisten = [\"{address}\"]\nmailboxes = \"{mail}\"\n\
         allow_plaintext_auth = true\nconnections_per_peer = 1000\n"
    );
    fs::write(&file, text)?;
    let server = Server::start(program, [Path::new("-c"), &file], address, &output)?;
    Ok(Running::Ours { server, _folder: folder })
}

fn name_of(user: usize) -> String {
    format!("user{user}")
}

fn log_in(address: SocketAddr, user: usize) -> Result<Client> {
    Client::log_in(address, &name_of(user), PASSWORD)
}

/// A message that has at most so many octets on the wire.
fn text(octets: usize) -> String {
    let head = "From: alice@crepes.fr\nTo: bob@hamburger.edu\nSubject: bench\n\n";
    let line = "sixty-three octets and their end make sixty-four, which is neat\n";
    let lines = (octets - head.len()) / (line.len() + 1);
    format!("{head}{}", line.repeat(lines))
}

/// Writes the mailboxes of a column, for whoever Dovecot runs as.
fn fill(column: Column, mail: &Path) -> Result<()> {
    let (messages, octets, names) = column.mailbox();
    let text = text(octets);
    let on_the_wire = text.len() + text.lines().count();
    let users = if matches!(column, Column::Login | Column::Several) { USERS } else { 1 };
    for user in 0..users {
        let folder = mail.join(name_of(user));
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
    }
    give_away(mail)
}

/// Both servers must tell and send the same octets.
fn check(column: Column, address: SocketAddr) -> Result<()> {
    let (messages, octets, _) = column.mailbox();
    let mut client = log_in(address, 0)?;
    let told = client.say("STAT")?;
    client.push("RETR 1\r\n")?;
    let sent = client.hear_text(&mut vec![])?;
    ensure!(sent > octets * 9 / 10 && sent <= octets, "a message of {sent} octets");
    ensure!(told == format!("{messages} {}", messages * sent), "STAT says {told:?}");
    client.quit()
}

/// Log in, STAT, QUIT.
fn visit(address: SocketAddr, user: usize) -> Result<()> {
    let mut client = log_in(address, user)?;
    client.say("STAT")?;
    client.quit()
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
fn retrievals(address: SocketAddr, user: usize, messages: usize, at_once: usize, until: Instant) -> Result<u64> {
    let mut client = log_in(address, user)?;
    let (mut count, mut next, mut buffer) = (0, 0, vec![]);
    while Instant::now() < until {
        let commands: String =
            (0..at_once).fold(String::new(), |all, index| all + &format!("RETR {}\r\n", (next + index) % messages + 1));
        client.push(&commands)?;
        for _ in 0..at_once {
            client.hear_text(&mut buffer)?;
        }
        next = (next + at_once) % messages;
        count += at_once as u64;
    }
    Ok(count)
}

/// What all users do at the same time.
fn by_all(work: impl Fn(usize) -> Result<u64> + Sync) -> Result<u64> {
    let work = &work;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..USERS).map(|user| scope.spawn(move || work(user))).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| bail!("a client died"))).sum()
    })
}

/// The figures of one run, in the order of [`Column::figures`].
fn measure(column: Column, server: &Server, flags: &Flags) -> Result<Vec<f64>> {
    let (address, begin, before) = (server.address(), Instant::now(), server.cpu()?);
    let until = begin + Duration::from_secs(flags.seconds);
    let (messages, ..) = column.mailbox();
    let count = match column {
        Column::Login => by_all(|user| visits(address, user, until))?,
        Column::Several => by_all(|user| retrievals(address, user, messages, 1, until))?,
        Column::Single | Column::SingleCpu => retrievals(address, 0, messages, 1, until)?,
        Column::Pipelined => retrievals(address, 0, messages, 100, until)?,
        Column::Large => retrievals(address, 0, messages, 10, until)?,
        Column::Crowd | Column::Strange => {
            visit(address, 0)?;
            return Ok(vec![begin.elapsed().as_secs_f64()]);
        }
    };
    let seconds = begin.elapsed().as_secs_f64();
    let cost = server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6 / count as f64;
    Ok(vec![count as f64 / seconds, cost])
}

/// What the same client gets in a second from a server that has one answer to RETR and one to everything else: it reads, it writes, and
/// between the two it does nothing.
fn parrot(column: Column, flags: &Flags) -> Result<f64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (address, (_, octets, _)) = (listener.local_addr()?, column.mailbox());
    let message = format!("+OK\r\n{}.\r\n", text(octets).replace('\n', "\r\n"));
    let serve = || -> Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.write_all(b"+OK\r\n")?;
        let mut heard = [0; 512];
        loop {
            // The client says one line, and no more before it is answered.
            match stream.read(&mut heard)? {
                0 => return Ok(()),
                _ if heard.starts_with(b"RETR") => stream.write_all(message.as_bytes())?,
                _ => stream.write_all(b"+OK\r\n")?,
            }
        }
    };
    let count = std::thread::scope(|scope| {
        scope.spawn(serve);
        retrievals(address, 0, MESSAGES, 1, Instant::now() + Duration::from_secs(flags.seconds))
    })?;
    Ok(count as f64 / flags.seconds as f64)
}

/// What a server has noted about a mailbox that it does not know yet: forgotten, so that it is strange again.
fn forget(mail: &Path) -> Result<()> {
    for entry in fs::read_dir(mail.join(name_of(0)))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn run_column(column: Column, flags: &Flags) -> Result<contest::Column> {
    let measure = |bench: &Bench| {
        if column == Column::Strange {
            forget(bench.mail.path())?;
        }
        measure(column, bench.server(), flags)
    };
    let run = || {
        if matches!(column, Column::Single | Column::SingleCpu) {
            eprintln!("{}: a parrot alone answers {} 1/s", name(column), figure(parrot(column, flags)?));
        }
        flags.choices.run(column, |kind| Bench::start(kind, column, flags), |_, bench, _| measure(bench))
    };
    if column == Column::SingleCpu { on_one_processor(run) } else { run() }
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let columns = flags.choices.columns().iter().map(|column| run_column(*column, &flags)).collect::<Result<_>>()?;
    flags.choices.report(&format!("{} s", flags.seconds), vec![], columns)
}
