//! The name server against its peers: Knot, NSD and BIND as Debian ships them, with the same zones, in the same minutes.
//!
//! ```text
//! cargo build --release -p tomte-dns -p tomte-tests --bins
//! target/release/bench-dns                      # everything, about five minutes
//! target/release/bench-dns --only hits --servers ours,knot --seconds 1
//! ```
//!
//! Every server has two workers and the settings its own manual recommends for this work ([`Kind::configuration`]): no log of
//! queries, no rate limit, nothing in an answer that was not asked for. The servers take turns, round by round, so that a
//! slow minute of the machine hits all of them, and the median of the rounds counts. `dnsperf` runs on the same machine and
//! takes its share of it, which is why the processor time of each query stands beside the rate; ratios mean something
//! elsewhere, absolute figures do not. Before a server is timed, its answers are compared with the zone file, and dnsperf's
//! count of RCODEs is compared with the questions.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Contestant, Figure, Work, name};
use tests::dns::{Answer, Over, Type, ask};
use tests::dnsperf::{self, Outcome, Pace, Queries};
use tests::process::{PATIENCE, Server, free_address, pause, version};

/// Measures tomte-dns, Knot, NSD and BIND side by side.
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
    /// Addresses of names that exist, over UDP; 10,000 names.
    Hits,
    /// Every second name does not exist: half of those directly below the zone, half two labels deeper.
    Nxdomain,
    /// The hits over TCP, 32 connections that stay.
    Tcp,
    /// How long a UDP client waits at 5,000 queries a second.
    Latency,
    /// From the start of the program to the first answer, and its memory, with 1,000,000 records.
    Load,
}

const MIB: f64 = 1024.0 * 1024.0;

const LOAD: [Figure; 3] = [
    Figure { unit: "s", better: Better::Less },
    Figure { unit: "MiB then", better: Better::Less },
    Figure { unit: "MiB at most", better: Better::Less },
];

impl Work for Column {
    fn figures(self) -> &'static [Figure] {
        if self == Self::Load { &LOAD } else { self.pace().figures() }
    }
}

impl Column {
    fn names(self) -> u32 {
        if self == Self::Load { 1_000_000 } else { 10_000 }
    }

    fn pace(self) -> Pace {
        if self == Self::Latency { Pace::PerSecond(5000) } else { Pace::AsFastAsItGoes }
    }
}

/// The servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Knot,
    Nsd,
    Bind,
}

impl Contestant for Kind {
    const OURS: &'static str = "tomte-dns";

    fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ours => None,
            Self::Knot => Some(("knotd", "knot")),
            Self::Nsd => Some(("nsd", "nsd")),
            Self::Bind => Some(("named", "bind9")),
        }
    }

    fn version(self, program: &Path) -> Result<String> {
        version(program, if matches!(self, Self::Nsd | Self::Bind) { "-v" } else { "--version" })
    }
}

impl Kind {
    fn configuration(self, folder: &Path, zone: &Path, port: u16) -> String {
        let folder = folder.display();
        let zone = zone.display();
        match self {
            // The limits that protect a public server from one greedy peer are lifted, as they are for the others.
            Self::Ours => format!(
                r#"[dns]
listen = ["127.0.0.1:{port}"]
workers = 2
zones = [{{ name = "{ZONE}", file = "{zone}" }}]
connections_per_peer = 1000
rate = 0
"#
            ),
            // `tcp-reuseport` is the manual's advice for several TCP workers. Without the journal's copy of the zone, which
            // is for a server whose zones change; the rate limit is a module that is not loaded.
            Self::Knot => format!(
                r#"server:
  listen: 127.0.0.1@{port}
  udp-workers: 2
  tcp-workers: 2
  tcp-reuseport: on
  tcp-max-clients: 1000
  rundir: "{folder}"
database:
  storage: "{folder}"
log:
  - target: stderr
    any: error
zone:
  - domain: {ZONE}
    file: "{zone}"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
"#
            ),
            // The manual's advice for speed: a process for each core with its own socket, no database file. Debian builds it
            // with a rate limit. Processes are not bound to cores, because dnsperf needs the same ones.
            Self::Nsd => format!(
                r#"server:
  ip-address: 127.0.0.1
  port: {port}
  server-count: 2
  reuseport: yes
  tcp-count: 1000
  minimal-responses: yes
  rrl-ratelimit: 0
  verbosity: 0
  database: ""
  username: ""
  chroot: ""
  zonesdir: "{folder}"
  pidfile: "{folder}/nsd.pid"
  logfile: "{folder}/nsd.log"
  xfrdfile: "{folder}/xfrd.state"
  zonelistfile: "{folder}/zone.list"
  xfrdir: "{folder}"
remote-control:
  control-enable: no
zone:
  name: {ZONE}
  zonefile: {zone}
"#
            ),
            // The manual's advice for an authoritative server: no recursion, minimal responses. The number of its workers
            // stands on its command line.
            Self::Bind => format!(
                r#"options {{
  directory "{folder}";
  listen-on port {port} {{ 127.0.0.1; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  session-keyfile none;
  recursion no;
  minimal-responses yes;
  tcp-clients 1000;
  notify no;
  querylog no;
  empty-zones-enable no;
  dnssec-validation no;
}};
controls {{ }};
logging {{ category default {{ null; }}; category unmatched {{ null; }}; }};
zone "{ZONE}" {{ type primary; file "{zone}"; }};
"#
            ),
        }
    }

    /// Starts the server on a free port and waits for the answer to the last name of its zone.
    fn start(self, flags: &Flags, bench: &Bench, names: u32) -> Result<Server> {
        let address = free_address()?;
        // A folder for each start: what a server leaves behind for its next start must not count.
        let folder = tempfile::Builder::new().prefix(&name(self)).tempdir_in(bench.folder.path())?.keep();
        let file = folder.join("server.conf");
        fs::write(&file, self.configuration(&folder, &bench.zone(names)?, address.port()))?;
        let file = file.display().to_string();
        let arguments = match self {
            Self::Ours | Self::Knot => vec!["-c", &file],
            Self::Nsd => vec!["-d", "-c", &file],
            Self::Bind => vec!["-4", "-f", "-n", "2", "-c", &file],
        };
        let server = Server::start(&flags.choices.program(self)?, arguments, address, &folder.join("output"))?;
        let (last, begin) = (format!("host-{}.{ZONE}", names - 1), Instant::now());
        loop {
            // Some listen before they have read their zones.
            match ask(address, Over::Udp, &last, Type::A) {
                Ok(answer) if is_hit(&answer, &last, names - 1) => return Ok(server),
                told if begin.elapsed() > PATIENCE => bail!("no answer after {PATIENCE:?}: {told:?}"),
                _ => pause(),
            }
        }
    }
}

/// The zone: `host-0.example` to `host-N.example`, each with an address of its own.
const ZONE: &str = "example";

/// In seconds.
const TTL: u32 = 3600;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 | number)
}

/// Each number below `count` once, in an order that no cache can foresee: the step has no factor in common with a power of
/// ten.
fn scattered(count: u32) -> impl Iterator<Item = u32> {
    (0..u64::from(count)).map(move |number| (number * 7919 % u64::from(count)) as u32)
}

/// Zones, questions and scratch files, in a folder that goes away with the value.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn create() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-dns.").tempdir()?;
        // A server that is started by root may drop to another user, who must be able to read here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self { folder })
    }

    /// The master file with so many names; with the SOA, the NS and its address three records more.
    fn zone(&self, names: u32) -> Result<PathBuf> {
        let file = self.folder.path().join(format!("{names}.zone"));
        if !file.exists() {
            let mut text = format!("$TTL {TTL}\n@ SOA ns hostmaster 1 1h 15m 1w 5m\n  NS ns\nns A 192.0.2.53\n");
            for number in 0..names {
                writeln!(text, "host-{number} A {}", address(number))?;
            }
            fs::write(&file, text)?;
        }
        Ok(file)
    }

    /// dnsperf's file of questions.
    fn questions(&self, column: Column) -> Result<PathBuf> {
        let file = self.folder.path().join(format!("{}.questions", name(column)));
        if !file.exists() {
            let mut text = String::new();
            for (turn, number) in scattered(column.names()).enumerate() {
                match (column, turn % 4) {
                    (Column::Nxdomain, 1) => writeln!(text, "nobody-{number}.{ZONE} A")?,
                    (Column::Nxdomain, 3) => writeln!(text, "not.even.nobody-{number}.{ZONE} A")?,
                    _ => writeln!(text, "host-{number}.{ZONE} A")?,
                }
            }
            fs::write(&file, text)?;
        }
        Ok(file)
    }
}

/// Checks a server's answers against the zone: some of the names, over both transports.
fn check(server: &Server, names: u32) -> Result<()> {
    for over in [Over::Udp, Over::Tcp] {
        for number in scattered(names).step_by(names as usize / 200) {
            let name = format!("host-{number}.{ZONE}");
            let answer = ask(server.address(), over, &name, Type::A)?;
            ensure!(is_hit(&answer, &name, number), "{name} over {over:?}: {answer:?}");
            for missing in [format!("nobody-{number}.{ZONE}"), format!("not.even.nobody-{number}.{ZONE}")] {
                let answer = ask(server.address(), over, &missing, Type::A)?;
                ensure!(is_nxdomain(&answer), "{missing} over {over:?}: {answer:?}");
            }
        }
    }
    Ok(())
}

/// Exactly the address; nothing beside it, so that no server has more to write than another.
fn is_hit(answer: &Answer, name: &str, number: u32) -> bool {
    let [record] = &answer.answers[..] else { return false };
    let alone = answer.authorities.is_empty() && answer.additional.is_empty();
    let right = record.owner == format!("{name}.") && record.ttl == TTL && record.address() == Some(address(number));
    answer.rcode == 0 && answer.authoritative && !answer.truncated && alone && right
}

/// RFC 2308 §3: NXDOMAIN with the SOA, whose TTL is the negative one.
fn is_nxdomain(answer: &Answer) -> bool {
    let [soa] = &answer.authorities[..] else { return false };
    let right = soa.rtype == Type::Soa as u16 && soa.owner == format!("{ZONE}.") && soa.ttl == 300;
    answer.rcode == 3 && answer.authoritative && answer.answers.is_empty() && answer.additional.is_empty() && right
}

/// Loads a server. It must win neither by losing queries nor by answering them wrongly: the RCODEs are counted.
fn load(column: Column, server: SocketAddr, flags: &Flags, bench: &Bench) -> Result<Outcome> {
    let outcome = Queries {
        server,
        questions: &bench.questions(column)?,
        over: if column == Column::Tcp { Over::Tcp } else { Over::Udp },
        pace: column.pace(),
        passes: None,
        duration: Duration::from_secs(flags.seconds),
    }
    .run()?;
    let Outcome { completed, lost, nxdomain, .. } = outcome;
    let wanted = if column == Column::Nxdomain { completed / 2 } else { 0 };
    // Questions are asked in turn; only those that are lost or under way at the end can shift the halves.
    ensure!(nxdomain.abs_diff(wanted) <= lost + 1000, "{nxdomain} of {completed} answers are NXDOMAIN");
    Ok(outcome)
}

/// The figures of one run, in the order of [`Column::figures`].
fn measure(column: Column, server: &Server, flags: &Flags, bench: &Bench) -> Result<Vec<f64>> {
    let before = server.cpu()?;
    let outcome = load(column, server.address(), flags, bench)?;
    outcome.figures(column.pace(), server.cpu()?.saturating_sub(before))
}

/// Starts a server with the large zone.
fn measure_load(kind: Kind, flags: &Flags, bench: &Bench) -> Result<Vec<f64>> {
    let names = Column::Load.names();
    bench.zone(names)?;
    let begin = Instant::now();
    let server = kind.start(flags, bench, names)?;
    let seconds = begin.elapsed().as_secs_f64();
    let octets = server.memory_octets()?;
    check(&server, names)?;
    Ok(vec![seconds, octets as f64 / MIB, server.memory_octets_max()? as f64 / MIB])
}

/// Runs a column on servers of its own, so that memory that an earlier one left behind does not count.
fn run_column(column: Column, flags: &Flags, bench: &Bench) -> Result<contest::Column> {
    let start = |kind: Kind| {
        if column == Column::Load {
            // How it starts is what is measured.
            return Ok(None);
        }
        let server = kind.start(flags, bench, column.names())?;
        check(&server, column.names())?;
        Ok(Some(server))
    };
    flags.choices.run(column, start, |kind, server, _| match server {
        Some(server) => measure(column, server, flags, bench),
        None => measure_load(kind, flags, bench),
    })
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    let bench = Bench::create()?;
    let columns = flags.choices.columns().iter().map(|column| run_column(*column, &flags, &bench));
    let columns = columns.collect::<Result<_>>()?;
    flags.choices.report(&format!("{} s", flags.seconds), vec![dnsperf::version()?], columns)
}

#[cfg(test)]
mod checks {
    use super::*;

    #[test]
    fn every_number_comes_once() {
        let mut numbers: Vec<u32> = scattered(10_000).collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..10_000));
    }
}
