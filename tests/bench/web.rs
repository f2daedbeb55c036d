//! The web server against its peers: nginx and lighttpd as Debian ships them, on the same files, in the same minutes.
//!
//! ```text
//! cargo build --release -p tomte-web -p tomte-tests --bins
//! target/release/bench-web                      # everything, about five minutes
//! target/release/bench-web --only 1KiB --servers ours,nginx --seconds 1
//! ```
//!
//! Every server has two workers and the settings its own manual recommends for this work ([`Kind::configuration`]). The
//! servers take turns, round by round, so that a slow minute of the machine hits all of them, and the median of the
//! rounds counts. `wrk` runs on the same machine and takes its share of it; ratios mean something elsewhere, absolute
//! figures do not. Before a server is timed, each of its files is fetched and compared octet by octet.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use tests::load::{self, Connection, Load};
use tests::process::{Server, built_program, find_program, free_address, version};
use tests::table::{Table, figure, median};

/// Measures tomte-web, nginx and lighttpd side by side.
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
    /// Our binary; by default the `tomte-web` beside this program.
    #[arg(long, value_name = "FILE")]
    ours: Option<PathBuf>,
    /// Print JSON, with every single run.
    #[arg(long)]
    json: bool,
}

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    /// 1 KiB, 64 keep-alive connections.
    #[value(name = "1KiB")]
    Small,
    /// 10 KiB, 64 keep-alive connections.
    #[value(name = "10KiB")]
    Page,
    /// 1 MiB, 64 keep-alive connections.
    #[value(name = "1MiB")]
    Picture,
    /// 100 MiB, 8 keep-alive connections.
    #[value(name = "100MiB")]
    Film,
    /// 1 KiB, a new connection for each request.
    #[value(name = "close")]
    Close,
    /// 1 KiB, 64 keep-alive connections, each request written to an access log.
    #[value(name = "log")]
    Logged,
    /// The memory of 1,000 idle keep-alive connections.
    #[value(name = "idle")]
    Idle,
}

/// How many connections the column [`Column::Idle`] holds.
const IDLE_CONNECTIONS: usize = 1_000;

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * 1024.0;

/// The files that are served, with their sizes in octets.
const FILES: [(&str, usize); 4] =
    [("/1k.bin", 1 << 10), ("/10k.bin", 10 << 10), ("/1m.bin", 1 << 20), ("/100m.bin", 100 << 20)];

/// What one unit of work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Request,
    Mebibyte,
    Memory,
}

impl Unit {
    fn rate(self) -> &'static str {
        match self {
            Self::Request => "req/s",
            Self::Mebibyte => "MiB/s",
            Self::Memory => "MiB above idle",
        }
    }

    fn cost(self) -> &'static str {
        match self {
            Self::Request => "CPU us/req",
            Self::Mebibyte => "CPU us/MiB",
            Self::Memory => "KiB/connection",
        }
    }
}

impl Column {
    fn name(self) -> String {
        self.to_possible_value().expect("no column is skipped").get_name().to_owned()
    }

    fn unit(self) -> Unit {
        match self {
            Self::Small | Self::Page | Self::Close | Self::Logged => Unit::Request,
            Self::Picture | Self::Film => Unit::Mebibyte,
            Self::Idle => Unit::Memory,
        }
    }

    fn path(self) -> &'static str {
        let file = match self {
            Self::Small | Self::Close | Self::Logged | Self::Idle => 0,
            Self::Page => 1,
            Self::Picture => 2,
            Self::Film => 3,
        };
        FILES[file].0
    }

    fn log(self) -> AccessLog {
        if self == Self::Logged { AccessLog::File } else { AccessLog::Off }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessLog {
    Off,
    File,
}

/// The servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    Ours,
    Nginx,
    Lighttpd,
}

impl Kind {
    fn name(self) -> String {
        self.to_possible_value().expect("no server is skipped").get_name().to_owned()
    }

    fn program(self, flags: &Flags) -> Result<PathBuf> {
        match (self, &flags.ours) {
            (Self::Nginx, _) => find_program("nginx", "nginx-light"),
            (Self::Lighttpd, _) => find_program("lighttpd", "lighttpd"),
            (Self::Ours, Some(program)) => Ok(program.clone()),
            (Self::Ours, None) => built_program("tomte-web"),
        }
    }

    /// The version as the program itself tells it.
    fn version(self, program: &Path) -> Result<String> {
        version(program, if self == Self::Ours { "--version" } else { "-v" })
    }

    fn configuration(self, site: &Site, port: u16, log: AccessLog) -> String {
        let docroot = site.docroot.display();
        let folder = site.folder.path().display();
        match self {
            // The limits that protect a public server from one greedy peer are lifted, as they are for the others.
            Self::Ours => {
                let log = match log {
                    AccessLog::Off => "none".to_owned(),
                    AccessLog::File => format!("{folder}/ours.access"),
                };
                format!(
                    r#"[web]
listen = ["127.0.0.1:{port}"]
docroot = "{docroot}"
workers = 2
keep_alive_max = 100000000
keep_alive_timeout = "75 s"
connections_per_peer = 4096
access_log = "{log}"
"#
                )
            }
            // The manual's advice for static files: sendfile with full packets, descriptors kept open, one listening
            // socket for each worker; for the log a buffer, without which each request costs a write.
            Self::Nginx => {
                let log = match log {
                    AccessLog::Off => "off".to_owned(),
                    AccessLog::File => format!("{folder}/nginx.access combined buffer=64k flush=1s"),
                };
                format!(
                    r"daemon off;
worker_processes 2;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log {folder}/nginx.error warn;
events {{ worker_connections 4096; }}
http {{
  default_type application/octet-stream;
  access_log {log};
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 75s;
  keepalive_requests 100000000;
  open_file_cache max=1000 inactive=20s;
  open_file_cache_valid 30s;
  open_file_cache_min_uses 1;
  open_file_cache_errors on;
  client_body_temp_path {folder}/nginx.body;
  proxy_temp_path {folder}/nginx.proxy;
  fastcgi_temp_path {folder}/nginx.fastcgi;
  uwsgi_temp_path {folder}/nginx.uwsgi;
  scgi_temp_path {folder}/nginx.scgi;
  server {{ listen 127.0.0.1:{port} reuseport; root {docroot}; }}
}}
"
                )
            }
            // Its log is buffered by default, its stat cache and sendfile are on by default; they are named here so
            // that nobody has to look that up. The number of requests is a 16-bit field.
            Self::Lighttpd => {
                let log = match log {
                    AccessLog::Off => String::new(),
                    AccessLog::File => format!(
                        "server.modules = (\"mod_accesslog\")\naccesslog.filename = \"{folder}/lighttpd.access\"\n"
                    ),
                };
                format!(
                    r#"{log}server.bind = "127.0.0.1"
server.port = {port}
server.document-root = "{docroot}"
server.errorlog = "{folder}/lighttpd.error"
server.max-worker = 2
server.max-fds = 16384
server.max-connections = 4096
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = 75
server.network-backend = "sendfile"
server.stat-cache-engine = "simple"
mimetype.assign = ("" => "application/octet-stream")
"#
                )
            }
        }
    }

    /// Starts the server on a free port and checks that it serves every file as it is on disk.
    fn start(self, flags: &Flags, site: &Site, log: AccessLog) -> Result<Server> {
        let address = free_address()?;
        let file = site.folder.path().join(format!("{}.conf", self.name()));
        fs::write(&file, self.configuration(site, address.port(), log))?;
        let program = self.program(flags)?;
        let file = file.display().to_string();
        let arguments = match self {
            Self::Ours | Self::Nginx => vec!["-c", &file],
            Self::Lighttpd => vec!["-D", "-f", &file],
        };
        let output = site.folder.path().join(format!("{}.out", self.name()));
        let server = Server::start(&program, arguments, address, &output)?;
        for (path, octets) in FILES {
            let body = load::get(address, path).with_context(|| self.name())?;
            ensure!(body == pseudo_random(octets), "{} serves {path} wrongly", self.name());
        }
        Ok(server)
    }
}

/// The files, in a folder that goes away with the value.
struct Site {
    folder: tempfile::TempDir,
    docroot: PathBuf,
}

impl Site {
    fn create() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("bench-web.").tempdir()?;
        // Servers that are started by root drop to another user, who must be able to read and to log here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
        let docroot = folder.path().join("docroot");
        fs::create_dir(&docroot)?;
        fs::set_permissions(&docroot, fs::Permissions::from_mode(0o755))?;
        for (path, octets) in FILES {
            let file = docroot.join(path.trim_start_matches('/'));
            fs::write(&file, pseudo_random(octets))?;
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        }
        Ok(Self { folder, docroot })
    }
}

/// Octets that nothing can compress and that are the same in every run (xorshift64).
fn pseudo_random(octets: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut data = Vec::with_capacity(octets);
    while data.len() < octets {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(octets);
    data
}

/// What one run showed.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// In [`Unit::rate`].
    rate: f64,
    /// In [`Unit::cost`].
    cost: f64,
}

fn measure(column: Column, server: &Server, flags: &Flags, site: &Site) -> Result<Measured> {
    if column == Column::Idle {
        return measure_idle(server);
    }
    let load = Load {
        address: server.address(),
        path: column.path(),
        connections: if column == Column::Film { 8 } else { 64 },
        duration: Duration::from_secs(flags.seconds),
        headers: if column == Column::Close { &["Connection: close"] } else { &[] },
    };
    let before = server.cpu()?;
    let outcome = load.run(site.folder.path())?;
    let cpu_us = server.cpu()?.saturating_sub(before).as_secs_f64() * 1e6;
    let seconds = outcome.duration.as_secs_f64();
    let work = match column.unit() {
        Unit::Mebibyte => outcome.octets as f64 / MIB,
        Unit::Request | Unit::Memory => outcome.requests as f64,
    };
    Ok(Measured { rate: work / seconds, cost: cpu_us / work })
}

fn measure_idle(server: &Server) -> Result<Measured> {
    let before = server.memory_octets()?;
    let mut connections = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        let mut connection = Connection::open(server.address())?;
        connection.get(Column::Idle.path())?;
        connections.push(connection);
    }
    let octets = server.memory_octets()? as f64 - before as f64;
    for connection in &connections {
        ensure!(connection.is_idle()?, "the server did not keep {IDLE_CONNECTIONS} idle connections");
    }
    Ok(Measured { rate: octets / MIB, cost: octets / KIB / IDLE_CONNECTIONS as f64 })
}

/// One server's runs of one column.
struct Runs {
    kind: Kind,
    runs: Vec<Measured>,
}

impl Runs {
    fn median(&self, pick: fn(&Measured) -> f64) -> f64 {
        median(&self.runs.iter().map(pick).collect::<Vec<_>>()).expect("there is at least one round")
    }

    fn rate(&self) -> f64 {
        self.median(|measured| measured.rate)
    }

    fn cost(&self) -> f64 {
        self.median(|measured| measured.cost)
    }
}

/// Runs a column on servers of its own: memory that an earlier column left behind must not count, and the settings of
/// the log differ.
fn run_column(column: Column, flags: &Flags, site: &Site) -> Result<Vec<Runs>> {
    let start = |kind: Kind| kind.start(flags, site, column.log()).map(|server| (kind, server));
    let mut results: Vec<Runs> = flags.servers.iter().map(|kind| Runs { kind: *kind, runs: Vec::new() }).collect();
    let mut servers = flags.servers.iter().copied().map(start).collect::<Result<Vec<_>>>()?;
    for round in 1..=flags.rounds {
        for ((kind, server), result) in servers.iter_mut().zip(&mut results) {
            // Memory is measured on a server that has not yet had those connections.
            if column == Column::Idle && round > 1 {
                *server = kind.start(flags, site, column.log())?;
            }
            let measured = measure(column, server, flags, site).with_context(|| kind.name())?;
            eprintln!(
                "{} round {round}: {} {} {}",
                column.name(),
                kind.name(),
                figure(measured.rate),
                column.unit().rate()
            );
            result.runs.push(measured);
        }
    }
    Ok(results)
}

/// Ours against the best of the peers; above 1 we are ahead, in memory and processor time as well. `None` unless ours
/// and a peer have run.
fn ratio(results: &[Runs], pick: fn(&Runs) -> f64, better: Better) -> Option<f64> {
    let ours = pick(results.iter().find(|runs| runs.kind == Kind::Ours)?);
    let peers = results.iter().filter(|runs| runs.kind != Kind::Ours).map(pick);
    match better {
        Better::More => Some(ours / peers.reduce(f64::max)?),
        Better::Less => Some(peers.reduce(f64::min)? / ours),
    }
}

#[derive(Debug, Clone, Copy)]
enum Better {
    More,
    Less,
}

impl Better {
    fn rate(unit: Unit) -> Self {
        if unit == Unit::Memory { Self::Less } else { Self::More }
    }
}

fn print_tables(flags: &Flags, columns: &[(Column, Vec<Runs>)]) -> String {
    let mut text = String::new();
    let heading = || [String::new(), String::new()].into_iter().chain(flags.servers.iter().map(|kind| kind.name()));
    let mut table = Table::new(heading().chain(["ours/best".to_owned()]));
    for (column, results) in columns {
        let unit = column.unit();
        let ratio_text = |ratio: Option<f64>| ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let row = |label: String, unit_name: &str, pick: fn(&Runs) -> f64, better| {
            [label, unit_name.to_owned()]
                .into_iter()
                .chain(results.iter().map(|runs| figure(pick(runs))))
                .chain([ratio_text(ratio(results, pick, better))])
                .collect::<Vec<_>>()
        };
        table.row(row(column.name(), unit.rate(), Runs::rate, Better::rate(unit)));
        table.row(row(String::new(), unit.cost(), Runs::cost, Better::Less));
    }
    write!(text, "{table}").expect("a String takes everything");
    text
}

fn to_json(flags: &Flags, versions: &[(String, String)], columns: &[(Column, Vec<Runs>)]) -> serde_json::Value {
    let column_json = |(column, results): &(Column, Vec<Runs>)| {
        let servers: serde_json::Map<_, _> = results
            .iter()
            .map(|runs| {
                let all = |pick: fn(&Measured) -> f64| runs.runs.iter().map(pick).collect::<Vec<_>>();
                let value = serde_json::json!({
                    "rate": runs.rate(), "cost": runs.cost(),
                    "rates": all(|measured| measured.rate), "costs": all(|measured| measured.cost),
                });
                (runs.kind.name(), value)
            })
            .collect();
        let unit = column.unit();
        serde_json::json!({
            "column": column.name(),
            "rate_unit": unit.rate(),
            "cost_unit": unit.cost(),
            "servers": servers,
            "rate_ratio": ratio(results, Runs::rate, Better::rate(unit)),
            "cost_ratio": ratio(results, Runs::cost, Better::Less),
        })
    };
    serde_json::json!({
        "rounds": flags.rounds,
        "seconds": flags.seconds,
        "versions": versions.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
        "columns": columns.iter().map(column_json).collect::<Vec<_>>(),
    })
}

/// The connections of one column need more descriptors than a shell usually allows; the servers inherit the limit.
fn raise_descriptor_limit() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

fn main() -> Result<()> {
    let flags = Flags::parse();
    raise_descriptor_limit()?;
    let mut versions = Vec::new();
    for kind in &flags.servers {
        versions.push((kind.name(), kind.version(&kind.program(&flags)?)?));
    }
    versions.push(("wrk".to_owned(), version(&find_program("wrk", "wrk")?, "-v")?));
    let site = Site::create()?;
    let wanted = if flags.only.is_empty() { Column::value_variants() } else { &flags.only };
    let mut columns = Vec::new();
    for column in wanted {
        columns.push((*column, run_column(*column, &flags, &site)?));
    }
    if flags.json {
        println!("{:#}", to_json(&flags, &versions, &columns));
    } else {
        for (name, version) in &versions {
            println!("{name}: {version}");
        }
        let processors = std::thread::available_parallelism()?;
        println!("{} rounds of {} s, medians, {processors} processors\n", flags.rounds, flags.seconds);
        print!("{}", print_tables(&flags, &columns));
        println!("\nours/best: above 1 ours is ahead of the better peer, in time, memory and processor alike.");
    }
    Ok(())
}
