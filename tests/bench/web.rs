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

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};
use tests::contest::{self, Better, Contestant, Figure, Work, name};
use tests::load::{self, Connection, Load};
use tests::process::{Server, find_program, free_address, version};

/// Measures tomte-web, nginx and lighttpd side by side.
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

/// How long they have had nothing to do when the memory is looked at.
const REST: Duration = Duration::from_secs(1);

const KIB: f64 = 1024.0;
const MIB: f64 = KIB * 1024.0;

/// The files that are served, with their sizes in octets.
const FILES: [(&str, usize); 4] =
    [("/1k.bin", 1 << 10), ("/10k.bin", 10 << 10), ("/1m.bin", 1 << 20), ("/100m.bin", 100 << 20)];

const REQUESTS: [Figure; 2] =
    [Figure { unit: "req/s", better: Better::More }, Figure { unit: "CPU us/req", better: Better::Less }];
const MEBIBYTES: [Figure; 2] =
    [Figure { unit: "MiB/s", better: Better::More }, Figure { unit: "CPU us/MiB", better: Better::Less }];
const MEMORY: [Figure; 2] =
    [Figure { unit: "MiB above idle", better: Better::Less }, Figure { unit: "KiB/connection", better: Better::Less }];

impl Work for Column {
    fn figures(self) -> &'static [Figure] {
        match self {
            Self::Small | Self::Page | Self::Close | Self::Logged => &REQUESTS,
            Self::Picture | Self::Film => &MEBIBYTES,
            Self::Idle => &MEMORY,
        }
    }
}

impl Column {
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

impl Contestant for Kind {
    const OURS: &'static str = "tomte-web";

    fn peer(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ours => None,
            Self::Nginx => Some(("nginx", "nginx-light")),
            Self::Lighttpd => Some(("lighttpd", "lighttpd")),
        }
    }

    fn version(self, program: &Path) -> Result<String> {
        version(program, if matches!(self, Self::Ours) { "--version" } else { "-v" })
    }
}

impl Kind {
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
        let file = site.folder.path().join(format!("{}.conf", name(self)));
        fs::write(&file, self.configuration(site, address.port(), log))?;
        let program = flags.choices.program(self)?;
        let file = file.display().to_string();
        let arguments = match self {
            Self::Ours | Self::Nginx => vec!["-c", &file],
            Self::Lighttpd => vec!["-D", "-f", &file],
        };
        let output = site.folder.path().join(format!("{}.out", name(self)));
        let server = Server::start(&program, arguments, address, &output)?;
        for (path, octets) in FILES {
            let body = load::get(address, path)?;
            ensure!(body == pseudo_random(octets), "{path} is served wrongly");
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

/// The figures of one run, in the order of [`Column::figures`].
fn measure(column: Column, server: &Server, flags: &Flags, site: &Site) -> Result<Vec<f64>> {
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
    let work = match column {
        Column::Picture | Column::Film => outcome.octets as f64 / MIB,
        _ => outcome.requests as f64,
    };
    Ok(vec![work / seconds, cpu_us / work])
}

#[expect(clippy::disallowed_methods, reason = "idle is who has had nothing to do for a while")]
fn measure_idle(server: &Server) -> Result<Vec<f64>> {
    let before = server.memory_octets()?;
    let mut connections = Vec::with_capacity(IDLE_CONNECTIONS);
    for _ in 0..IDLE_CONNECTIONS {
        let mut connection = Connection::open(server.address())?;
        connection.get(Column::Idle.path())?;
        connections.push(connection);
    }
    std::thread::sleep(REST);
    let octets = server.memory_octets()? as f64 - before as f64;
    for connection in &connections {
        ensure!(connection.is_idle()?, "the server did not keep {IDLE_CONNECTIONS} idle connections");
    }
    Ok(vec![octets / MIB, octets / KIB / IDLE_CONNECTIONS as f64])
}

/// Runs a column on servers of its own: memory that an earlier column left behind must not count, and the settings of
/// the log differ.
fn run_column(column: Column, flags: &Flags, site: &Site) -> Result<contest::Column> {
    let start = |kind: Kind| kind.start(flags, site, column.log());
    flags.choices.run(column, start, |kind, server, round| {
        // Memory is measured on a server that has not yet had those connections.
        if column == Column::Idle && round > 1 {
            *server = start(kind)?;
        }
        measure(column, server, flags, site)
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
    let site = Site::create()?;
    let columns = flags.choices.columns().iter().map(|column| run_column(*column, &flags, &site));
    let columns = columns.collect::<Result<_>>()?;
    let wrk = ("wrk".to_owned(), version(&find_program("wrk", "wrk")?, "-v")?);
    flags.choices.report(&format!("{} s", flags.seconds), vec![wrk], columns)
}
