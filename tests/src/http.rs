//! HTTP as it is typed: what is sent is written out in the test, what comes back is taken apart.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};

use crate::process::PATIENCE;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// `HTTP/1.1 200 OK`
    pub status_line: String,
    /// Names as they came, with their values.
    pub fields: Vec<(String, String)>,
    /// The content.
    pub body: Vec<u8>,
}

impl Response {
    /// The three digits.
    pub fn status(&self) -> &str {
        self.status_line.split(' ').nth(1).unwrap_or_default()
    }

    /// The value of the first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The content as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Whether an answer has content: one to HEAD has none, whatever its `Content-Length` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// As `Content-Length` says; without one, until the connection ends.
    Follows,
    /// None.
    Absent,
}

/// A connection over which HTTP is spoken.
#[derive(Debug)]
pub struct Talk<S: Read + Write> {
    stream: BufReader<S>,
}

impl Talk<TcpStream> {
    /// Connects. A server that then stays silent for [`PATIENCE`] is an error.
    pub fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("no connection to {address}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Talk<S> {
    /// Talks over a stream that is there already.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// The client says this.
    pub fn say(&mut self, text: &str) -> Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())?;
        Ok(self.stream.get_mut().flush()?)
    }

    /// Asks for a path with the method GET.
    pub fn get(&mut self, path: &str, host: &str, fields: &str) -> Result<Response> {
        self.say(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"))?;
        self.response(Content::Follows)
    }

    /// The next answer, up to its head and no further.
    pub fn head(&mut self) -> Result<Response> {
        let mut line = || -> Result<String> {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            ensure!(line.ends_with("\r\n"), "the head is cut off after {line:?}");
            Ok(line.trim_end().to_owned())
        };
        let status_line = line()?;
        let mut fields = vec![];
        loop {
            let field = line()?;
            if field.is_empty() {
                return Ok(Response { status_line, fields, body: vec![] });
            }
            let (name, value) = field.split_once(": ").with_context(|| format!("{field:?} is no field"))?;
            fields.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The next answer.
    pub fn response(&mut self, content: Content) -> Result<Response> {
        let mut response = self.head()?;
        if content == Content::Follows && !matches!(response.status(), "204" | "304") {
            match response.field("Content-Length").map(str::parse::<usize>).transpose()? {
                Some(length) => {
                    response.body = vec![0; length];
                    self.stream.read_exact(&mut response.body).context("the content is cut short")?;
                }
                None => {
                    self.stream.read_to_end(&mut response.body)?;
                }
            }
        }
        Ok(response)
    }

    /// Exactly so many octets.
    pub fn octets(&mut self, count: usize) -> Result<Vec<u8>> {
        let mut octets = vec![0; count];
        self.stream.read_exact(&mut octets)?;
        Ok(octets)
    }

    /// Waits for the server to hang up, and returns what it still says before.
    pub fn until_the_end(&mut self) -> Result<Vec<u8>> {
        let mut rest = vec![];
        match self.stream.read_to_end(&mut rest) {
            Ok(_) => Ok(rest),
            // The server had unread octets of ours: the connection is over all the same.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(rest),
            Err(error) => Err(error).context("the server does not hang up"),
        }
    }
}

/// One question over a connection of its own.
pub fn get(address: SocketAddr, path: &str, host: &str, fields: &str) -> Result<Response> {
    Talk::open(address)?.get(path, host, &format!("Connection: close\r\n{fields}"))
}
