//! A client that fetches mail, for looking at a server and for timing it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};

use crate::process::PATIENCE;

/// A connection that has been greeted.
#[derive(Debug)]
pub struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects, and hears the greeting.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no mail server at {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE * 6))?;
        let mut client = Self(BufReader::with_capacity(256 << 10, stream));
        client.hear()?;
        Ok(client)
    }

    /// Connects, and logs in.
    pub fn log_in(address: SocketAddr, user: &str, password: &str) -> Result<Self> {
        let mut client = Self::connect(address)?;
        client.say(&format!("USER {user}"))?;
        client.say(&format!("PASS {password}"))?;
        Ok(client)
    }

    /// Says a line; what is said behind `+OK`.
    pub fn say(&mut self, line: &str) -> Result<String> {
        self.push(&format!("{line}\r\n"))?;
        self.hear().with_context(|| line.to_owned())
    }

    /// Sends commands, and does not wait for an answer.
    pub fn push(&mut self, lines: &str) -> Result<()> {
        Ok(self.0.get_mut().write_all(lines.as_bytes())?)
    }

    /// What is said behind the next `+OK`.
    pub fn hear(&mut self) -> Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        let told = line.strip_prefix("+OK").with_context(|| format!("the server says {line:?}"))?;
        Ok(told.trim().to_owned())
    }

    /// Reads what stands between the next `+OK` and its dot into `text`; how many octets that is. Doubled dots are left so: who is
    /// timed should not pay for them.
    pub fn hear_text(&mut self, text: &mut Vec<u8>) -> Result<usize> {
        self.hear()?;
        text.clear();
        loop {
            let begin = text.len();
            self.0.read_until(b'\n', text)?;
            match &text[begin..] {
                b".\r\n" => {
                    text.truncate(begin);
                    return Ok(begin);
                }
                [] => bail!("the text does not end"),
                _ => {}
            }
        }
    }

    /// Says a line that is answered with a text; that text, with its dots as they were.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.push(&format!("{line}\r\n"))?;
        let mut text = vec![];
        self.hear_text(&mut text).with_context(|| line.to_owned())?;
        let text = String::from_utf8(text)?;
        let whole = |line: &str| line.strip_prefix('.').unwrap_or(line).to_owned();
        Ok(text.split_inclusive("\r\n").map(whole).collect())
    }

    /// What LIST or UIDL tells of each message, in their order.
    pub fn list(&mut self, command: &str) -> Result<Vec<String>> {
        let told = self.ask(command)?;
        let entry = |(index, line): (usize, &str)| {
            let (number, told) = line.split_once(' ').with_context(|| format!("{command}: {line:?}"))?;
            ensure!(number == (index + 1).to_string(), "{command}: {line:?} is number {}", index + 1);
            Ok(told.to_owned())
        };
        told.lines().enumerate().map(entry).collect()
    }

    /// Says QUIT, which is when messages are removed.
    pub fn quit(mut self) -> Result<()> {
        self.say("QUIT").map(drop)
    }
}
