//! The local name server against its peers: `PowerDNS` Recursor, Unbound and Knot Resolver as Debian ships them, in front of the
//! same small Internet, in the same minutes.
//!
//! ```text
//! cargo build --release -p tomte-dns -p tomte-tests --bins
//! target/release/bench-resolver                 # everything, about six minutes
//! target/release/bench-resolver --only misses --servers ours,unbound --seconds 1
//! ```
//!
//! Every server has two workers and the settings its own manual recommends for this work ([`Kind::configuration`]): no log of
//! queries, validation only where something is signed, 64 MiB of cache. The servers take turns, round by round, so that a slow
//! minute of the machine hits all of them, and the median of the rounds counts. `dnsperf` and the authorities run on the same
//! machine and take their share of it, which is why the processor time of each query stands beside the rate; ratios mean
//! something elsewhere, absolute figures do not. Before a server is timed its answers are compared with the zones, and
//! dnsperf's count of RCODEs is compared with the questions. The authorities are loaded with the same questions first: they
//! must be far faster than whoever asks them.
//!
//! All of it happens in a network of its own ([`tests::alone`]), because resolvers ask port 53.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use tests::alone;
use tests::contest::{self, Better, Contestant, Figure, Work, name};
use tests::dns::{Answer, Over, Question, Type};
use tests::dnsperf::{self, Outcome, Pace, Queries};
use tests::process::{PATIENCE, Server, find_program, free_address, pause, version};
use tests::table::figure;

/// Measures tomte-dns, pdns-recursor, Unbound and Knot Resolver side by side.
#[derive(Debug, Parser)]
struct Flags {
    #[command(flatten)]
    choices: contest::Choices<Column, Kind>,
    /// How long one run takes, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=10))]
    seconds: u64,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// Names that are in the cache; 10,000 of them.
    Hits,
    /// Names that nobody has asked for, in 300 zones whose servers are known: one question upstream for each. Every second does
    /// not exist.
    Misses,
    /// Names that exist, each asked for once, in the same zones when they are signed: one question upstream and one signature to
    /// verify for each. (An answer about a name that does not exist may be made from proofs that are known, without asking.)
    Validated,
    /// How long a client waits at 2,000 hits a second.
    HitLatency,
    /// How long a client waits at 500 misses a second.
    MissLatency,
    /// How many of a hundred useful names are still in the cache after 500,000 random ones, and the memory that it takes then.
    Flood,
}

const MIB: f64 = 1024.0 * 1024.0;

const FLOOD: [Figure; 3] = [
    Figure { unit: "% kept", better: Better::More },
    Figure { unit: "MiB then", better: Better::Less },
    Figure { unit: "q/s", better: Better::More },
];

impl Work for Column {
    fn figures(self) -> &'static [Figure] {
        if self == Self::Flood { &FLOOD } else { self.pace().figures() }
    }

    fn rounds(self, wanted: u16) -> u16 {
        if self == Self::Flood { 1 } else { wanted }
    }
}

impl Column {
    /// The tree that it is measured in.
    fn tree(self) -> Tree {
        if self == Self::Validated { Tree::Signed } else { Tree::Plain }
    }

    fn pace(self) -> Pace {
        match self {
            Self::Hits | Self::Misses | Self::Validated | Self::Flood => Pace::AsFastAsItGoes,
            Self::HitLatency => Pace::PerSecond(2000),
            Self::MissLatency => Pace::PerSecond(500),
        }
    }
}

/// Whether zones are signed, and resolvers validate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tree {
    Plain,
    Signed,
}

/// The cache of each server, in MiB. The flood is larger.
const CACHE_MIB: u32 = 64;
const FLOOD_NAMES: u32 = 500_000;

/// The servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Pdns,
    Unbound,
    Kresd,
}

impl Contestant for Kind {
    const OURS: &'static str = "tomte-dns";

    fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ours => None,
            Self::Pdns => Some(("pdns_recursor", "pdns-recursor")),
            Self::Unbound => Some(("unbound", "unbound")),
            Self::Kresd => Some(("kresd", "knot-resolver")),
        }
    }

    fn version(self, program: &Path) -> Result<String> {
        version(program, if self == Self::Unbound { "-V" } else { "--version" })
    }
}

impl Kind {
    /// The name of its configuration's file, and what stands there. None asks over IPv6, for there is none.
    fn configuration(self, folder: &Path, bench: &Bench, port: u16) -> Result<(&'static str, String)> {
        let anchor = bench.anchor()?;
        let (folder, hints) = (folder.display(), bench.hints()?.display().to_string());
        let when_signed =
            |text: &str| if anchor.is_empty() { String::new() } else { text.replace("{anchor}", &anchor) };
        Ok(match self {
            Self::Ours => (
                "tomte.toml",
                format!(
                    r#"[dns]
listen = ["127.0.0.1:{port}"]
workers = 2
recurse = true
hints = "{hints}"
query_ipv6 = false
cache = "{CACHE_MIB} MiB"
rate = 0
{}"#,
                    when_signed(&format!("trust_anchors = \"{}\"\n", bench.anchor_file().display()))
                ),
            ),
            // The manual's advice for speed: the kernel shares out the queries. Its cache has a bound in entries only: each
            // needs some 500 octets, of which two caches have their part.
            Self::Pdns => (
                "recursor.conf",
                format!(
                    r"local-address=127.0.0.1:{port}
threads=2
pdns-distributes-queries=no
reuseport=yes
hint-file={hints}
dont-query=
dnssec={}
lua-config-file={folder}/anchor.lua
max-cache-entries=100000
max-packetcache-entries=50000
security-poll-suffix=
socket-dir={folder}
write-pid=no
daemon=no
quiet=yes
loglevel=2
",
                    if anchor.is_empty() { "off" } else { "validate" },
                ),
            ),
            // The manual's "howto optimise": as many slabs as threads, a third of the memory for messages, many sockets.
            Self::Unbound => (
                "unbound.conf",
                format!(
                    r#"server:
  interface: 127.0.0.1
  port: {port}
  num-threads: 2
  so-reuseport: yes
  msg-cache-slabs: 2
  rrset-cache-slabs: 2
  infra-cache-slabs: 2
  key-cache-slabs: 2
  msg-cache-size: {messages}m
  rrset-cache-size: {sets}m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  root-hints: "{hints}"
  {validation}
  do-not-query-localhost: no
  do-ip6: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  verbosity: 0
remote-control:
  control-enable: no
"#,
                    validation = match bench.tree {
                        Tree::Plain => "module-config: \"iterator\"".to_owned(),
                        Tree::Signed => format!("trust-anchor-file: \"{}\"", bench.anchor_file().display()),
                    },
                    messages = CACHE_MIB / 3,
                    sets = CACHE_MIB - CACHE_MIB / 3,
                ),
            ),
            // Two processes share the port and the cache, as the manual wants it for two cores.
            Self::Kresd => (
                "kresd.conf",
                format!(
                    r"net.listen('127.0.0.1', {port}, {{ kind = 'dns' }})
net.ipv6 = false
modules = {{ 'hints > iterate' }}
hints.root_file('{hints}')
option('ALLOW_LOCAL', true)
trust_anchors.remove('.')
{}
cache.open({CACHE_MIB} * MB, 'lmdb://{folder}/cache')
log_level('crit')
",
                    when_signed("trust_anchors.add('{anchor}')")
                ),
            ),
        })
    }

    /// Starts the server on a free port and waits for its first answer.
    fn start(self, flags: &Flags, bench: &Bench) -> Result<Server> {
        let address = free_address()?;
        // A folder for each start: what a server leaves behind for its next start must not count.
        let folder = tempfile::Builder::new().prefix(&name(self)).tempdir_in(bench.folder.path())?.keep();
        let (file, text) = self.configuration(&folder, bench, address.port())?;
        let file = folder.join(file);
        fs::write(&file, text)?;
        // `addTA` wants the name and the data of the DS record.
        let anchor = bench.anchor()?;
        let lua = anchor.strip_prefix(". IN DS ").map(|data| format!("clearTA()\naddTA('.', \"{data}\")\n"));
        fs::write(folder.join("anchor.lua"), lua.unwrap_or_default())?;
        let (program, place) = (flags.choices.program(self)?, folder.display().to_string());
        let file = file.display().to_string();
        let output = folder.join("output");
        let server = match self {
            Self::Ours => Server::start(&program, ["-c", &file], address, &output),
            Self::Pdns => Server::start(&program, [format!("--config-dir={place}")], address, &output),
            Self::Unbound => Server::start(&program, ["-d", "-c", &file], address, &output),
            Self::Kresd => {
                let twice = "\"$@\" & first=$!; \"$@\" & trap 'kill $first $!' TERM; wait; wait";
                let program = program.display().to_string();
                let arguments = ["-c", twice, "sh", &program, "-n", "-c", &file, &place];
                Server::start(&find_program("sh", "dash")?, arguments, address, &output)
            }
        }?;
        let begin = Instant::now();
        loop {
            match ask(&server, &host(0)) {
                Ok(answer) if is_hit(&answer, &host(0), address_of(0)) => return Ok(server),
                told if begin.elapsed() > PATIENCE => bail!("no answer after {PATIENCE:?}: {told:?}"),
                _ => pause(),
            }
        }
    }
}

fn ask(server: &Server, name: &str) -> Result<Answer> {
    Question::new(name, Type::A).recursive().ask(server.address(), Over::Udp)
}

/// The servers of the small Internet: the root's, the top-level domains', and those of all other zones.
const ROOT: &str = "127.53.0.1";
const TOP: &str = "127.53.0.2";
const ZONES_AT: [&str; 4] = ["127.53.1.1", "127.53.1.2", "127.53.1.3", "127.53.1.4"];

const DOMAINS: [&str; 3] = ["com", "net", "org"];
const ZONES: u32 = 300;
/// Names that exist; in the signed tree, where each is asked for once, more: a run ends when all are.
const HOSTS: u32 = 10_000;
const HOSTS_SIGNED: u32 = 24_000;

/// In seconds.
const TTL: u32 = 3600;

/// A zone's name. One with an even number has a wildcard: there is no name that does not exist.
fn zone(number: u32) -> String {
    format!("zone-{number}.{}", DOMAINS[number as usize % DOMAINS.len()])
}

fn host(number: u32) -> String {
    format!("host-{number}.{}", zone(number % ZONES))
}

fn address_of(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 | number)
}

/// What a wildcard says.
const ANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The small Internet, and scratch files, in a folder that goes away with the value.
struct Bench {
    tree: Tree,
    authorities: Vec<Server>,
    folder: tempfile::TempDir,
}

impl Bench {
    fn create(flags: &Flags, tree: Tree) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-resolver.").tempdir()?;
        // A server that is started by root may drop to another user, who must be able to read here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let mut bench = Self { tree, authorities: vec![], folder };
        let soa = format!("$TTL {TTL}\n@ SOA ns hostmaster 1 1h 15m 1w 5m\n");
        let mut root = format!("{soa}@ NS ns\nns A {ROOT}\n");
        let mut tops = DOMAINS.map(|_| format!("{soa}@ NS ns.nic\nns.nic A {TOP}\n"));
        for domain in DOMAINS {
            writeln!(root, "{domain} NS ns.nic.{domain}\nns.nic.{domain} A {TOP}")?;
        }
        let mut zones = vec![];
        for number in 0..ZONES {
            let (name, at) = (zone(number), ZONES_AT[number as usize % ZONES_AT.len()]);
            writeln!(tops[number as usize % DOMAINS.len()], "{name}. NS ns.{name}.\nns.{name}. A {at}")?;
            let mut text = format!("{soa}@ NS ns\nns A {at}\n");
            for host in (number..bench.hosts()).step_by(ZONES as usize) {
                writeln!(text, "host-{host} A {}", address_of(host))?;
            }
            if number % 2 == 0 {
                writeln!(text, "* A {ANY}")?;
            }
            zones.push((name, text));
        }
        let tops = DOMAINS.map(str::to_owned).into_iter().zip(tops).collect();
        // From the leaves up, because each leaves its DS record for the zone above.
        for (addresses, zones) in [(&ZONES_AT[..], zones), (&[TOP], tops), (&[ROOT], vec![(".".to_owned(), root)])] {
            bench.authorities.push(bench.authority(flags, addresses, &zones)?);
        }
        Ok(bench)
    }

    /// One of our own servers with zones. It is the fastest of all that `bench-dns` knows.
    fn authority(&self, flags: &Flags, addresses: &[&str], zones: &[(String, String)]) -> Result<Server> {
        let folder = tempfile::Builder::new().prefix("authority").tempdir_in(self.folder.path())?.keep();
        let listen: Vec<SocketAddr> =
            addresses.iter().map(|ip| Ok(SocketAddr::new(ip.parse()?, 53))).collect::<Result<_>>()?;
        let mut text = format!(
            "[dns]\nlisten = {:?}\nworkers = 2\nrate = 0\nstate = \"{}\"\nds_dir = \"{}\"\nzones = [\n",
            quoted(&listen),
            folder.display(),
            self.ds_dir().display()
        );
        let dnssec = if self.tree == Tree::Signed { "sign" } else { "as-is" };
        for (name, zone) in zones {
            let file = folder.join(format!("{name}zone"));
            fs::write(&file, zone)?;
            writeln!(text, "{{ name = \"{name}\", file = \"{}\", dnssec = \"{dnssec}\" }},", file.display())?;
        }
        text += "]\n";
        let file = folder.join("tomte.toml");
        fs::write(&file, text)?;
        Server::start(
            &flags.choices.program(Kind::Ours)?,
            ["-c".as_ref(), file.as_os_str()],
            listen[0],
            &folder.join("output"),
        )
    }

    fn hosts(&self) -> u32 {
        if self.tree == Tree::Signed { HOSTS_SIGNED } else { HOSTS }
    }

    fn ds_dir(&self) -> PathBuf {
        self.folder.path().join("ds")
    }

    /// Where the root's DS record is, if it is signed.
    fn anchor_file(&self) -> PathBuf {
        self.ds_dir().join("root.ds")
    }

    /// The root's DS record; nothing, if nothing is signed.
    fn anchor(&self) -> Result<String> {
        if self.tree == Tree::Plain {
            return Ok(String::new());
        }
        Ok(fs::read_to_string(self.anchor_file())?.trim().to_owned())
    }

    fn hints(&self) -> Result<PathBuf> {
        let file = self.folder.path().join("root.hints");
        fs::write(&file, format!(". {TTL} IN NS ns.\nns. {TTL} IN A {ROOT}\n"))?;
        Ok(file)
    }

    /// Names that exist, each once, in an order that no cache can foresee.
    fn known(&self, count: u32) -> Result<PathBuf> {
        let file = self.folder.path().join(format!("{count}.known"));
        // 7919 has no factor in common with a power of ten.
        let names = (0..u64::from(count)).map(|number| (number * 7919 % u64::from(count)) as u32);
        fs::write(&file, lines(names.map(host)))?;
        Ok(file)
    }

    /// Names that nobody has asked for: no two files have one in common. Zone after zone, so every second name does not exist.
    fn unknown(&self, count: u32) -> Result<PathBuf> {
        let file = tempfile::Builder::new().prefix("unknown.").tempfile_in(self.folder.path())?;
        let salt = file.path().extension().context("what tempfile has made up")?.to_string_lossy().to_lowercase();
        let names = (0..count).map(|number| format!("{salt}-{number}.{}", zone(number % ZONES)));
        fs::write(file.path(), lines(names))?;
        Ok(file.keep()?.1)
    }
}

/// What dnsperf asks: the address of each name.
fn lines(names: impl Iterator<Item = String>) -> String {
    names.fold(String::new(), |text, name| text + &name + " A\n")
}

fn quoted(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(SocketAddr::to_string).collect()
}

/// Checks a server's answers against the zones, and so gets the servers of each zone into its cache.
fn check(server: &Server, tree: Tree) -> Result<()> {
    for number in 0..ZONES {
        let (name, wanted) = (host(number), address_of(number));
        let answer = ask(server, &name)?;
        ensure!(is_hit(&answer, &name, wanted), "{name}: {answer:?}");
        let name = format!("check.{}", zone(number));
        let answer = ask(server, &name)?;
        let is_right = if number % 2 == 0 { is_hit(&answer, &name, ANY) } else { is_nxdomain(&answer) };
        ensure!(is_right, "{name}: {answer:?}");
    }
    let validated = Question::new(&host(0), Type::A).recursive().with_dnssec().ask(server.address(), Over::Udp)?;
    ensure!(validated.authentic == (tree == Tree::Signed), "{validated:?}");
    Ok(())
}

fn is_hit(answer: &Answer, name: &str, address: Ipv4Addr) -> bool {
    let [record] = &answer.answers[..] else { return false };
    let is_right = record.owner == format!("{name}.") && record.ttl <= TTL && record.address() == Some(address);
    answer.rcode == 0 && !answer.authoritative && is_right
}

fn is_nxdomain(answer: &Answer) -> bool {
    let has_soa = answer.authorities.iter().any(|record| record.rtype == Type::Soa as u16);
    answer.rcode == 3 && answer.answers.is_empty() && has_soa
}

/// What two cores could ask at most in `seconds`: so a file is never gone through twice.
const UNKNOWN_PER_SECOND: u32 = 100_000;

/// Loads a server.
fn load(column: Column, server: SocketAddr, seconds: u64, bench: &Bench) -> Result<Outcome> {
    let are_known = matches!(column, Column::Hits | Column::HitLatency | Column::Validated);
    let questions = match (column, column.pace()) {
        (Column::Flood, _) => bench.unknown(FLOOD_NAMES)?,
        _ if are_known => bench.known(bench.hosts())?,
        (_, Pace::AsFastAsItGoes) => bench.unknown(UNKNOWN_PER_SECOND * seconds as u32)?,
        (_, Pace::PerSecond(rate)) => bench.unknown(rate * (seconds as u32 + 1))?,
    };
    let passes = if matches!(column, Column::Hits | Column::HitLatency) { None } else { Some(1) };
    // The flood ends when all its names were asked.
    let duration = Duration::from_secs(if column == Column::Flood { 300 } else { seconds });
    let outcome =
        Queries { server, questions: &questions, over: Over::Udp, pace: column.pace(), passes, duration }.run()?;
    let Outcome { completed, lost, nxdomain, .. } = outcome;
    let wanted = if are_known { 0 } else { completed / 2 };
    // Questions are asked in turn; only those that are lost or under way at the end can shift the halves.
    ensure!(nxdomain.abs_diff(wanted) <= lost + 1000, "{nxdomain} of {completed} answers are NXDOMAIN");
    Ok(outcome)
}

/// The figures of one run, in the order of [`Column::figures`].
fn measure(column: Column, server: &Server, flags: &Flags, bench: &Bench) -> Result<Vec<f64>> {
    let before = server.cpu()?;
    let outcome = load(column, server.address(), flags.seconds, bench)?;
    outcome.figures(column.pace(), server.cpu()?.saturating_sub(before))
}

/// Useful names are asked for a few times, then a flood of others comes; what was kept has aged since.
fn measure_flood(server: &Server, flags: &Flags, bench: &Bench) -> Result<Vec<f64>> {
    let passes = Some(3);
    let questions = &bench.known(HOSTS)?;
    let duration = Duration::from_mins(1);
    let pace = Pace::AsFastAsItGoes;
    Queries { server: server.address(), questions, over: Over::Udp, pace, passes, duration }.run()?;
    let begin = Instant::now();
    let outcome = load(Column::Flood, server.address(), flags.seconds, bench)?;
    let octets = server.memory_octets()?;
    let age = begin.elapsed().as_secs() as u32;
    ensure!(age >= 2, "the flood was over in {age} s: nobody can tell old from new");
    let (mut kept, step) = (0, 10);
    for number in (0..HOSTS).step_by(step) {
        let answer = ask(server, &host(number))?;
        ensure!(is_hit(&answer, &host(number), address_of(number)), "{}: {answer:?}", host(number));
        kept += usize::from(answer.answers[0].ttl + age <= TTL + 1);
    }
    Ok(vec![kept as f64 * 100.0 * step as f64 / f64::from(HOSTS), octets as f64 / MIB, outcome.rate()])
}

/// A server that was checked, with what a column wants in its cache.
fn ready(kind: Kind, column: Column, flags: &Flags, bench: &Bench) -> Result<Server> {
    let server = kind.start(flags, bench)?;
    check(&server, bench.tree)?;
    if matches!(column, Column::Hits | Column::HitLatency) {
        load(Column::Hits, server.address(), 1, bench)?;
    }
    Ok(server)
}

/// Runs a column on servers of its own, so that what an earlier one left behind does not count.
fn run_column(column: Column, flags: &Flags, bench: &Bench) -> Result<contest::Column> {
    let start = |kind| ready(kind, column, flags, bench);
    flags.choices.run(column, start, |kind, server, round| {
        if column == Column::Validated && round > 1 {
            // It knows all the names by now.
            *server = start(kind)?;
        }
        match column {
            Column::Flood => measure_flood(server, flags, bench),
            _ => measure(column, server, flags, bench),
        }
    })
}

/// The authorities must not be what holds the resolvers up: alone they are to answer at least twice as many of the same questions.
fn check_authorities(columns: &[contest::Column], bench: &Bench) -> Result<()> {
    let wanted = name(if bench.tree == Tree::Signed { Column::Validated } else { Column::Misses });
    let Some(misses) = columns.iter().find(|column| column.name == wanted) else { return Ok(()) };
    let best = misses.servers.iter().flat_map(|server| &server.runs).map(|run| run[0]).fold(0.0, f64::max);
    let seconds = 2;
    let alone = Queries {
        server: SocketAddr::new(ZONES_AT[0].parse()?, 53),
        questions: &bench.unknown(UNKNOWN_PER_SECOND * seconds)?,
        over: Over::Udp,
        pace: Pace::AsFastAsItGoes,
        passes: None,
        duration: Duration::from_secs(seconds.into()),
    }
    .run()?
    .rate();
    eprintln!("the authorities alone answer {} q/s", figure(alone));
    ensure!(alone > 2.0 * best, "the authorities answer {alone:.0} q/s, the fastest resolver {best:.0}");
    Ok(())
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    if !alone::is_alone() {
        let status = alone::main_again()?;
        std::process::exit(status.code().unwrap_or(1));
    }
    let wanted = flags.choices.columns();
    let mut columns = vec![];
    for tree in [Tree::Plain, Tree::Signed] {
        if wanted.iter().any(|column| column.tree() == tree) {
            let bench = Bench::create(&flags, tree)?;
            for column in wanted.iter().filter(|column| column.tree() == tree) {
                columns.push(run_column(*column, &flags, &bench)?);
            }
            check_authorities(&columns, &bench)?;
        }
    }
    flags.choices.report(&format!("{} s", flags.seconds), vec![dnsperf::version()?], columns)
}
