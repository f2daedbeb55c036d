//! Mail servers of a test's own, what they have on disk, and a client that says what it is told.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{PATIENCE, free_address, pause};
use crate::program::{Running, command};

/// A site with a mail server: its address and its files, which outlive the server.
#[derive(Debug)]
pub struct Site {
    domain: String,
    address: SocketAddr,
    /// More lines of its `[smtp]` table.
    settings: String,
    folder: TempDir,
}

impl Site {
    /// A site, whose server is not running yet. Its only user has one mailbox; `user+anything` means it too.
    pub fn new(domain: &str, user: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let settings = format!("users = [\"{user}\"]\naliases = {{ postmaster = [\"{user}\"] }}\n");
        Ok(Self { domain: domain.to_owned(), address: free_address()?, settings, folder })
    }

    /// The same with another line in its `[smtp]` table.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.settings.push_str(line);
        self.settings.push('\n');
        self
    }

    /// The same, taking mail for another site to its server, for everybody on this machine.
    #[must_use]
    pub fn sending_to(self, other: &Self) -> Self {
        let route = format!("routes = {{ \"{}\" = \"{}\" }}", other.domain, other.address);
        self.with("allow = [\"127.0.0.1\"]").with(&route)
    }

    /// Where its server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts its server, and waits until it serves.
    pub fn start(&self) -> Result<Running> {
        self.start_with(&[])
    }

    /// Starts its server in an environment with these variables.
    pub fn start_with(&self, environment: &[(&str, &str)]) -> Result<Running> {
        let mut server = command("tomte-smtp")?;
        server.arg("-c").arg(self.configuration()?).envs(environment.iter().copied());
        let mut running = Running::start(&mut server)?;
        running.wait_for(&format!("serving smtp {}", self.address))?;
        Ok(running)
    }

    /// Starts a server from which its users fetch their mail; where that listens. Its accounts are the lab's.
    pub fn start_pop3(&self) -> Result<(Running, SocketAddr)> {
        let (address, place) = (free_address()?, self.folder().display());
        let accounts = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/accounts.toml");
        let text = format!(
            "[accounts]\nfile = \"{accounts}\"\n[pop3]\nlisten = [\"{address}\"]\nmailboxes = \"{place}/mail\"\n\
             allow_plaintext_auth = true\n"
        );
        let file = self.folder().join("pop3.toml");
        fs::write(&file, text)?;
        let mut running = Running::start(command("tomte-pop3")?.arg("-c").arg(file))?;
        running.wait_for(&format!("serving pop3 {address}"))?;
        Ok((running, address))
    }

    /// Writes the configuration of its server; returns the file.
    pub fn configuration(&self) -> Result<PathBuf> {
        let Self { domain, address, settings, folder } = self;
        let place = folder.path().display();
        let text = format!(
            "[smtp]\nlisten = [\"{address}\"]\nhostname = \"{domain}\"\ndomains = [\"{domain}\"]\n\
             mailboxes = \"{place}/mail\"\nspool = \"{place}/spool\"\n{settings}"
        );
        let file = folder.path().join("tomte.toml");
        fs::write(&file, text)?;
        Ok(file)
    }

    /// The messages that a user finds, oldest first.
    pub fn mail(&self, user: &str) -> Vec<String> {
        contents(&self.folder().join("mail").join(user).join("new"))
    }

    /// The files of the queue.
    pub fn queue(&self) -> Vec<PathBuf> {
        files(&self.folder().join("spool/queue"))
    }

    /// Files of the queue that are not whole yet.
    pub fn begun(&self) -> Vec<PathBuf> {
        files(&self.folder().join("spool/tmp"))
    }

    /// Files of a mailbox that are not whole yet.
    pub fn begun_letters(&self, user: &str) -> Vec<PathBuf> {
        files(&self.folder().join("mail").join(user).join("tmp"))
    }

    /// Waits until nothing is left in the queue.
    pub fn wait_until_delivered(&self) -> Result<()> {
        until("the queue is empty", || self.queue().is_empty())
    }
}

/// Waits until something is so that no program tells: what is on disk.
pub fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !is_so() {
        ensure!(begin.elapsed() < 3 * PATIENCE, "it should be that {what}, and is not");
        pause();
    }
    Ok(())
}

/// The files of a folder, by name; none, if there is no such folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// What the files of a folder hold, by their names.
pub fn contents(folder: &Path) -> Vec<String> {
    // A reader may take a file away between the two looks.
    let read = |path: &PathBuf| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned());
    files(folder).iter().filter_map(read).collect()
}

/// A client of a mail server. It knows no protocol: it says lines and hears replies.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects, and hears the greeting.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(3 * PATIENCE))?;
        let mut client = Self(BufReader::new(stream));
        client.hear()?;
        Ok(client)
    }

    /// Connects, and says EHLO.
    pub fn greeted(address: SocketAddr) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        client.say("EHLO client.example")?;
        Ok(client)
    }

    /// Says a line; the last line of the reply.
    pub fn say(&mut self, line: &str) -> io::Result<String> {
        self.push(format!("{line}\r\n").as_bytes())?;
        self.hear()
    }

    /// Sends octets, and does not wait for an answer.
    pub fn push(&mut self, octets: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(octets)
    }

    /// The last line of the next reply.
    pub fn hear(&mut self) -> io::Result<String> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.as_bytes().get(3) != Some(&b'-') {
                return Ok(line.trim_end().to_owned());
            }
        }
    }

    /// All that is said until the server hangs up.
    pub fn hear_out(mut self) -> io::Result<String> {
        let mut heard = vec![];
        self.0.read_to_end(&mut heard)?;
        Ok(String::from_utf8_lossy(&heard).into_owned())
    }

    /// Sends a message; the answer behind its dot, or the first refusal.
    pub fn send(&mut self, from: &str, to: &[&str], text: &str) -> io::Result<String> {
        let mut commands = vec![format!("MAIL FROM:<{from}>")];
        commands.extend(to.iter().map(|to| format!("RCPT TO:<{to}>")));
        for command in commands {
            let heard = self.say(&command)?;
            if !heard.starts_with('2') {
                return Ok(heard);
            }
        }
        match self.say("DATA")? {
            heard if heard.starts_with('3') => self.say(&format!("{text}\r\n.")),
            refused => Ok(refused),
        }
    }

    /// Its socket.
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }
}

/// Hands in a message over a connection of its own; an error, unless it is taken.
pub fn send(address: SocketAddr, from: &str, to: &[&str], text: &str) -> Result<()> {
    let mut client = Client::greeted(address).with_context(|| format!("no mail server at {address}"))?;
    let heard = client.send(from, to, text)?;
    if !heard.starts_with("250 ") {
        bail!("{address} does not take mail from {from} to {to:?}: {heard}");
    }
    client.say("QUIT")?;
    Ok(())
}
