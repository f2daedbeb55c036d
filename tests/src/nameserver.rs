//! Name servers and those who ask them: ours with zones of its own, BIND beside it, and the clients that everybody uses.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::process::{PATIENCE, Server, built_program, find_program, free_address, pause};
use crate::program::{Ended, Running, command_at, run};

/// The Debian package of each program.
const PACKAGES: [(&str, &str); 13] = [
    ("dig", "bind9-dnsutils"),
    ("nslookup", "bind9-dnsutils"),
    ("delv", "bind9-dnsutils"),
    ("nsupdate", "bind9-dnsutils"),
    ("host", "bind9-host"),
    ("dnssec-keygen", "bind9-utils"),
    ("dnssec-signzone", "bind9-utils"),
    ("named", "bind9"),
    ("kdig", "knot-dnsutils"),
    ("drill", "ldnsutils"),
    ("ldns-verify-zone", "ldnsutils"),
    ("zonemaster-cli", "zonemaster-cli"),
    ("unshare", "util-linux"),
];

/// A program that is not ours. One that is missing is an error with the package to install.
pub fn client(program: &str) -> Result<Command> {
    let known = PACKAGES.iter().find(|(name, _)| *name == program);
    let (_, package) = known.with_context(|| format!("nobody knows which package {program} is in"))?;
    Ok(command_at(&find_program(program, package)?))
}

/// What a client says when it is told to ask `server`; `question` follows, or stands before the server, as the client wants it.
pub fn ask(program: &str, server: SocketAddr, question: &[&str]) -> Result<String> {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let (at, port_flag) = (format!("@{ip}"), format!("-port={port}"));
    let around = |before: &[&str], behind: &[&str]| {
        [before, question, behind].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let arguments = match program {
        "dig" => around(&[&at, "-p", &port, "+tries=1"], &[]),
        "kdig" => around(&[&at, "-p", &port, "+retry=0"], &[]),
        "drill" => around(&[&at, "-p", &port], &[]),
        "host" => around(&["-p", &port], &[&ip]),
        "nslookup" => around(&[&port_flag], &[&ip]),
        other => bail!("nobody knows how {other} is told its server"),
    };
    let Ended { out, err, .. } = run(client(program)?.args(arguments))?;
    Ok(out + &err)
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let begin = Instant::now();
    while !is_so()? {
        if begin.elapsed() > PATIENCE {
            bail!("not within {PATIENCE:?}: {what}");
        }
        pause();
    }
    Ok(())
}

/// A secret that both sides know.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// `hmac-sha256` ...
    pub algorithm: &'static str,
    /// In base64.
    pub secret: &'static str,
}

impl Key {
    /// How dig and nsupdate take it, behind `-y`.
    pub fn flag(&self) -> String {
        format!("{}:{}:{}", self.algorithm, self.name, self.secret)
    }

    /// How it stands in the list `keys` of ours.
    pub fn ours(&self) -> String {
        format!(r#"{{ name = "{}", algorithm = "{}", secret = "{}" }}"#, self.name, self.algorithm, self.secret)
    }

    /// How it stands in named.conf.
    pub fn bind(&self) -> String {
        format!(r#"key "{}" {{ algorithm {}; secret "{}"; }};"#, self.name, self.algorithm, self.secret)
    }
}

/// Our name server with zones of its own.
#[derive(Debug)]
pub struct Ours {
    server: Server,
    folder: TempDir,
}

impl Ours {
    /// Starts it at a free address. `configuration` is what stands in `[dns]` besides `listen` and `state`; `{folder}` in it is
    /// `folder`, where the zone files are.
    pub fn start(folder: TempDir, configuration: &str) -> Result<Self> {
        Self::start_at(free_address()?, folder, configuration)
    }

    /// The same at an address that others know already.
    pub fn start_at(address: SocketAddr, folder: TempDir, configuration: &str) -> Result<Self> {
        let place = folder.path().display().to_string();
        let configuration = configuration.replace("{folder}", &place);
        let text = format!("[dns]\nlisten = [\"{address}\"]\nworkers = 1\nstate = \"{place}/state\"\n{configuration}");
        fs::write(folder.path().join("tomte.toml"), text)?;
        let server = Self::run(address, folder.path())?;
        Ok(Self { server, folder })
    }

    fn run(address: SocketAddr, folder: &Path) -> Result<Server> {
        let file = folder.join("tomte.toml");
        Server::start(
            &built_program("tomte-dns")?,
            ["-c".as_ref(), file.as_os_str()],
            address,
            &folder.join("tomte.out"),
        )
    }

    /// Stops it, and starts it again with the same configuration, at the same address.
    pub fn restart(self) -> Result<Self> {
        let Self { server, folder } = self;
        let address = server.address();
        drop(server);
        Ok(Self { server: Self::run(address, folder.path())?, folder })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What dig says when it asks this server.
    pub fn dig(&self, question: &[&str]) -> Result<String> {
        ask("dig", self.address(), question)
    }
}

/// BIND with a configuration of its own.
#[derive(Debug)]
pub struct Bind {
    server: Server,
    folder: TempDir,
}

impl Bind {
    /// Starts it. `configuration` is what stands in named.conf besides `options`: keys and zones. Relative files are in
    /// `folder`.
    pub fn start_at(address: SocketAddr, folder: TempDir, configuration: &str) -> Result<Self> {
        let place = folder.path().display();
        let (ip, port) = (address.ip(), address.port());
        let text = format!(
            r#"options {{
  directory "{place}";
  listen-on port {port} {{ {ip}; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  session-keyfile none;
  recursion no;
  dnssec-validation no;
  empty-zones-enable no;
  serial-query-rate 1000;
  startup-notify-rate 1000;
  notify-rate 1000;
  notify-delay 0;
  masterfile-format text;
}};
controls {{ }};
{configuration}"#
        );
        let file = folder.path().join("named.conf");
        fs::write(&file, text)?;
        let named = find_program("named", "bind9")?;
        let arguments = ["-4".as_ref(), "-g".as_ref(), "-n".as_ref(), "1".as_ref(), "-c".as_ref(), file.as_os_str()];
        let server = Server::start(&named, arguments, address, &folder.path().join("named.out"))?;
        Ok(Self { server, folder })
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What dig says when it asks this server.
    pub fn dig(&self, question: &[&str]) -> Result<String> {
        ask("dig", self.address(), question)
    }

    /// What it has logged so far.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.path().join("named.out"))?)
    }
}

/// Runs nsupdate with a script, which begins with the server.
pub fn nsupdate(server: SocketAddr, arguments: &[&str], script: &str) -> Result<Ended> {
    let mut nsupdate = client("nsupdate")?;
    let mut running = Running::start(nsupdate.args(arguments).stdin(Stdio::piped()))?;
    running.type_line(&format!("server {} {}\n{script}\nquit", server.ip(), server.port()))?;
    running.end()
}
