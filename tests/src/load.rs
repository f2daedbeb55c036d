//! Asking a web server: once and carefully, a thousand times and idly, or as fast as `wrk` can.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::process::find_program;

/// A response head longer than this is no answer of a server under test.
const HEAD_OCTETS_MAX: usize = 16 * 1024;

/// How long a server may stay silent before the check gives up on it.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// Fetches a path over a connection of its own and returns the body of the 200.
pub fn get(address: SocketAddr, path: &str) -> Result<Vec<u8>> {
    let mut connection = Connection::open(address)?;
    connection.get(path)
}

/// A persistent connection, for looking rather than for speed.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no connection to {address}"))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Self { stream })
    }

    /// Asks for a path, checks that the answer is a 200 with a `Content-Length`, and reads exactly that body, so that
    /// the connection can be asked again.
    pub fn get(&mut self, path: &str) -> Result<Vec<u8>> {
        let host = self.stream.peer_addr()?;
        write!(self.stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < HEAD_OCTETS_MAX, "{path}: the head of the answer does not end");
            let mut octet = [0];
            self.stream.read_exact(&mut octet).with_context(|| format!("{path}: no complete head"))?;
            head.push(octet[0]);
        }
        let head = String::from_utf8(head).context("the head is not ASCII")?;
        let (status, fields) = head.split_once("\r\n").context("no status line")?;
        ensure!(status.starts_with("HTTP/1.1 200 "), "{path}: {status}");
        let length = fields
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .with_context(|| format!("{path}: no Content-Length"))?
            .1;
        let mut body = vec![0; length.trim().parse().context("Content-Length is no number")?];
        self.stream.read_exact(&mut body).with_context(|| format!("{path}: the body is cut short"))?;
        Ok(body)
    }

    /// Whether the server has neither closed the connection nor said anything unasked.
    pub fn is_idle(&self) -> Result<bool> {
        self.stream.set_nonblocking(true)?;
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false)?;
        match seen {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
            Ok(_) | Err(_) => Ok(false),
        }
    }
}

/// What one run of `wrk` does.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// The server.
    pub address: SocketAddr,
    /// The path to ask for, again and again.
    pub path: &'a str,
    /// How many connections ask at the same time, from one thread.
    pub connections: usize,
    /// For how long.
    pub duration: Duration,
    /// Header lines besides `Host`, for instance `Connection: close`.
    pub headers: &'a [&'a str],
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// Complete responses.
    pub requests: u64,
    /// Octets received, heads and unfinished bodies included.
    pub octets: u64,
    /// The time it really took.
    pub duration: Duration,
}

/// Makes `wrk` print exact figures; its own report rounds them to three digits. A script that only defines `done` is not
/// called while the load runs.
const REPORT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("exact %d %d %d %d\n", summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

impl Load<'_> {
    /// Runs `wrk`. A single refused, failed or late request is an error: a server must not win by hanging up.
    pub fn run(&self, scratch: &Path) -> Result<Outcome> {
        let script = scratch.join("report.lua");
        std::fs::write(&script, REPORT)?;
        let mut wrk = Command::new(find_program("wrk", "wrk")?);
        wrk.args(["--threads", "1", "--connections", &self.connections.to_string(), "--timeout", "30s"]);
        wrk.args(["--duration", &format!("{}s", self.duration.as_secs().max(1))]).arg("--script").arg(&script);
        for header in self.headers {
            wrk.args(["--header", header]);
        }
        let output = wrk.arg(format!("http://{}{}", self.address, self.path)).output().context("cannot start wrk")?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "wrk: {}{text}", String::from_utf8_lossy(&output.stderr));
        let exact = text.lines().find_map(|line| line.strip_prefix("exact "));
        let figures: Vec<u64> = exact
            .with_context(|| format!("wrk did not report: {text}"))?
            .split(' ')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .with_context(|| format!("wrk reported {exact:?}"))?;
        let [requests, octets, duration_us, errors] = figures[..] else { bail!("wrk reported {exact:?}") };
        ensure!(errors == 0 && requests > 0, "{requests} requests, {errors} errors\n{text}");
        Ok(Outcome { requests, octets, duration: Duration::from_micros(duration_us) })
    }
}
