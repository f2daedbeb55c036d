//! Plays transcript files: tests that read like documentation.
//!
//! ```text
//! # RFC 1939 §7: PASS needs a USER just before it.
//! S: +OK POP3 server ready
//! C: PASS secret
//! S: -ERR USER first
//! @ maildrop busy
//! C: USER mrose
//! S: +OK [..]
//! C: QUIT
//! S: +OK bye
//! @ close
//! ```
//!
//! | Line | Meaning |
//! | --- | --- |
//! | `S: text` | The server must say this line. `[..]` matches anything within the line. Octets that are not printable are written as the transcript writes them: `\xff`. |
//! | `C: text` | The client says this line; CR LF is added. `\xff` `\u{e5}` `\r` `\n` `\t` `\\` are the octets they always are, any other backslash is itself. `\c` at the end leaves the CR LF out, as it does for `echo`: `C: CAT\n\c` ends with a bare LF. |
//! | `C:` after `C:` | The second line is said ahead of the first one's answer, so that the answers follow together. |
//! | `@ close` | The server must close the connection here. |
//! | `@ eof` | The client says no more, but still listens (it closes its half). |
//! | `@ text` | Anything else sets the stage: it goes to the test, which must know it. |
//! | `# text` | A remark. So is an empty line. |
//!
//! Where what is tested is the client, the file is read [from the other side](Script::for_a_client): `C:` must be said, `S:` is said.
//!
//! The same file is played against the pure session ([`Script::on_session`]), over any stream, whole lines, octet by octet
//! and pipelined ([`Script::on_stream`]), and over TCP ([`Script::on_tcp`]). With `UPDATE=1` in the environment
//! the `S:` lines of the file are rewritten instead of compared; those that match by `[..]` stay as they are. Then read
//! the diff as a reviewer would.

use crate::{
    transcript::readable,
    wire::{Crlf, Line, LineEnd},
};
use bytes::BytesMut;
use std::{
    collections::VecDeque,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    time::timeout,
};

/// Plays every `.txt` file of a directory, in the order of their names.
///
/// # Panics
/// When a file was not played as it is written (all of them are told), or when there is none: a test that asserts
/// nothing is worse than no test.
pub fn play_all(dir: impl AsRef<Path>, mut play: impl FnMut(&Script) -> Result<(), Mismatch>) {
    let mismatches: Vec<Mismatch> = scripts(dir.as_ref()).iter().filter_map(|script| play(script).err()).collect();
    report(&mismatches);
}

/// As [`play_all`], for players that wait.
///
/// # Panics
/// As [`play_all`].
pub async fn play_all_async(dir: impl AsRef<Path>, mut play: impl AsyncFnMut(&Script) -> Result<(), Mismatch>) {
    let mut mismatches = vec![];
    for script in scripts(dir.as_ref()) {
        mismatches.extend(play(&script).await.err());
    }
    report(&mismatches);
}

fn scripts(dir: &Path) -> Vec<Script> {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(!paths.is_empty(), "{}: no transcripts (*.txt) in here", dir.display());
    paths.iter().map(Script::load).collect()
}

fn report(mismatches: &[Mismatch]) {
    let told: Vec<String> = mismatches.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "\n{}\nUPDATE=1 rewrites the S: lines.\n", told.join("\n"));
}

// --- The file --------------------------------------------------------------------------------------------------------

/// A transcript file.
#[derive(Clone, Debug)]
pub struct Script {
    path: PathBuf,
    parts: Vec<Part>,
    purpose: Purpose,
    tested: Tested,
}

/// Which end of the conversation is tested. The other one is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tested {
    Server,
    /// The parts are kept as if a server were tested, `S:` and `C:` exchanged.
    Client,
}

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Server(String),
    Client(String),
    Stage(String),
    Remark(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Compare,
    Update,
}

impl Part {
    fn parse(line: &str) -> Option<Self> {
        let text = |rest: &str| rest.strip_prefix(' ').unwrap_or(rest).to_owned();
        if let Some(rest) = line.strip_prefix("S:") {
            Some(Self::Server(text(rest)))
        } else if let Some(rest) = line.strip_prefix("C:") {
            Some(Self::Client(text(rest)))
        } else if let Some(rest) = line.strip_prefix('@') {
            Some(Self::Stage(text(rest)))
        } else if line.starts_with('#') || line.trim().is_empty() {
            Some(Self::Remark(line.to_owned()))
        } else {
            None
        }
    }
}

impl Part {
    /// As the other end sees it.
    fn exchanged(self) -> Self {
        match self {
            Part::Server(text) => Part::Client(text),
            Part::Client(text) => Part::Server(text),
            other => other,
        }
    }

    fn is_close(&self) -> bool {
        matches!(self, Part::Stage(text) if text == "close")
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, text) = match self {
            Part::Server(text) => ("S:", text),
            Part::Client(text) => ("C:", text),
            Part::Stage(text) => ("@", text),
            Part::Remark(text) => return f.write_str(text),
        };
        // No blank at the end of a line: editors take it away.
        if text.is_empty() { f.write_str(mark) } else { write!(f, "{mark} {text}") }
    }
}

impl Script {
    /// Reads a file.
    ///
    /// # Panics
    /// When it cannot be read, or a line is not in the notation.
    pub fn load(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let purpose = if std::env::var_os("UPDATE").is_some() { Purpose::Update } else { Purpose::Compare };
        Self::parse(path, &text, purpose)
    }

    fn parse(path: &Path, text: &str, purpose: Purpose) -> Self {
        let parse = |(number, line)| {
            let wrong = || panic!("{}:{number}: a line starts with S: C: @ or #, this one is `{line}`", path.display());
            Part::parse(line).unwrap_or_else(wrong)
        };
        Self {
            path: path.to_owned(),
            parts: (1..).zip(text.lines()).map(parse).collect(),
            purpose,
            tested: Tested::Server,
        }
    }

    /// The same file where a client is tested: its `C:` lines must be said, its `S:` lines are said to it. All that is told of `C:`, `S:`,
    /// client and server here holds with the two exchanged, and `UPDATE=1` rewrites the `C:` lines.
    #[must_use]
    pub fn for_a_client(&self) -> Self {
        let parts = self.parts.iter().cloned().map(Part::exchanged).collect();
        Self { parts, tested: Tested::Client, ..self.clone() }
    }

    /// A part as it stands in the file.
    fn written(&self, part: &Part) -> String {
        match self.tested {
            Tested::Server => part.to_string(),
            Tested::Client => part.clone().exchanged().to_string(),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn mismatch(&self, by: &str, index: usize, heard: Heard) -> Mismatch {
        let before = self.parts[..index.min(self.parts.len())].iter().rev();
        let mut context: Vec<String> = before.take(CONTEXT_LINES).map(|part| self.written(part)).collect();
        context.reverse();
        let expected = self.parts.get(index).map(|part| self.written(part));
        let heard = match heard {
            Heard::Line(text) => self.written(&Part::Server(text)),
            Heard::Close => "@ close".to_owned(),
            Heard::Nothing => "(nothing)".to_owned(),
            Heard::Problem(problem) => format!("({problem})"),
        };
        let (path, line, by) = (self.path.clone(), index + 1, by.to_owned());
        Mismatch(Box::new(Difference { path, line, by, context, expected, heard }))
    }

    /// Whether the client says this line before it has heard the answer to its last one: both are `C:` lines, and there
    /// are at most remarks between them.
    fn is_said_ahead(&self, index: usize) -> bool {
        let before = self.parts[..index].iter().rfind(|part| !matches!(part, Part::Remark(_)));
        matches!((before, &self.parts[index]), (Some(Part::Client(_)), Part::Client(_)))
    }

    /// Replaces the file: beside it first, because another player may be reading it.
    fn rewrite(&self, parts: &[Part]) {
        if parts == self.parts {
            return;
        }
        let lines: Vec<String> = parts.iter().map(|part| self.written(part)).collect();
        let text = lines.join("\n") + "\n";
        let beside = self.path.with_extension(format!("tmp-{:?}", std::thread::current().id()));
        let written = fs::write(&beside, text).and_then(|()| fs::rename(&beside, &self.path));
        written.unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
    }
}

/// The octets that a `C:` line stands for.
fn octets(text: &str) -> Vec<u8> {
    let (text, end): (&str, &[u8]) = text.strip_suffix("\\c").map_or((text, b"\r\n"), |text| (text, b""));
    let mut octets = vec![];
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        octets.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at..];
        let length = escape(rest, &mut octets);
        rest = &rest[length..];
    }
    octets.extend_from_slice(rest.as_bytes());
    octets.extend_from_slice(end);
    octets
}

/// What the backslash at the start of `text` stands for; says how long the escape is.
fn escape(text: &str, octets: &mut Vec<u8>) -> usize {
    let hexadecimal = |digits: Option<&str>| digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
    match text.as_bytes().get(1) {
        Some(b'r') => octets.push(b'\r'),
        Some(b'n') => octets.push(b'\n'),
        Some(b't') => octets.push(b'\t'),
        Some(b'\\') => octets.push(b'\\'),
        Some(b'x') if let Some(octet) = hexadecimal(text.get(2..4)) => {
            octets.push(octet as u8);
            return 4;
        }
        Some(b'u')
            if let Some((digits, _)) =
                text.get(2..).and_then(|t| t.strip_prefix('{')).and_then(|t| t.split_once('}'))
                && let Some(character) = hexadecimal(Some(digits)).and_then(char::from_u32) =>
        {
            octets.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            return digits.len() + 4;
        }
        _ => {
            octets.push(b'\\');
            return 1;
        }
    }
    2
}

/// Whether `line` is what the `S:` line says.
fn matches(pattern: &str, line: &str) -> bool {
    let Some((start, rest)) = pattern.split_once("[..]") else { return pattern == line };
    let Some(mut line) = line.strip_prefix(start) else { return false };
    let mut pieces: Vec<&str> = rest.split("[..]").collect();
    let end = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = line.find(piece) else { return false };
        line = &line[at + piece.len()..];
    }
    line.ends_with(end)
}

// --- When it went otherwise ------------------------------------------------------------------------------------------

/// How much of the script is shown before the line that went wrong.
const CONTEXT_LINES: usize = 6;

/// The first place where the server did not play as it is written.
#[derive(Clone)]
pub struct Mismatch(Box<Difference>);

#[derive(Clone)]
struct Difference {
    path: PathBuf,
    line: usize,
    by: String,
    context: Vec<String>,
    expected: Option<String>,
    heard: String,
}

/// What came instead.
#[derive(Clone)]
enum Heard {
    Line(String),
    Close,
    Nothing,
    Problem(String),
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { path, line, by, context, expected, heard } = &*self.0;
        writeln!(f, "{}:{line}: went otherwise ({by}):", path.display())?;
        context.iter().try_for_each(|line| writeln!(f, "      {line}"))?;
        writeln!(f, "    - {}", expected.as_deref().unwrap_or("(the end of the file)"))?;
        writeln!(f, "    + {heard}")
    }
}

impl fmt::Debug for Mismatch {
    /// As people read it, for `unwrap` in tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}

// --- Against a pure session ------------------------------------------------------------------------------------------

/// What happens to the session.
#[derive(Debug)]
pub enum Cue<'a> {
    /// A client has connected. Most protocols greet.
    Opened,
    /// The client said this line.
    Line(Line),
    /// The client will say no more.
    Ended,
    /// `@ text`, which the test must know.
    Stage(&'a str),
}

/// What the session did.
#[derive(Debug, Default)]
pub struct Said {
    lines: Vec<String>,
    then: Then,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Then {
    #[default]
    Listen,
    Close,
}

impl Said {
    /// Nothing.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// This line, without line end.
    pub fn line(line: impl AsRef<[u8]>) -> Self {
        Self::lines([line])
    }

    /// These lines.
    pub fn lines(lines: impl IntoIterator<Item: AsRef<[u8]>>) -> Self {
        Self { lines: lines.into_iter().map(|line| readable(line.as_ref())).collect(), then: Then::Listen }
    }

    /// And then it hung up.
    #[must_use]
    pub fn and_close(mut self) -> Self {
        self.then = Then::Close;
        self
    }
}

impl Script {
    /// Plays against a session without a socket. `crlf` cuts what the client says into lines, as the daemon would;
    /// `session` gets each cue and returns what the session said, or why the cue cannot be played (an unknown `@`).
    ///
    /// # Errors
    /// The first line that went otherwise.
    pub fn on_session(
        &self,
        mut crlf: Crlf,
        mut session: impl FnMut(Cue<'_>) -> Result<Said, String>,
    ) -> Result<(), Mismatch> {
        const BY: &str = "the session alone";
        let (mut played, mut rewriting) = (Played::default(), Rewriting::default());
        let mut input = BytesMut::new();
        let mut then = Then::Listen;
        let mut cue = |cue, at, played: &mut Played| match session(cue) {
            Ok(said) => {
                played.said.extend(said.lines);
                Ok(said.then)
            }
            Err(problem) => Err(self.mismatch(BY, at, Heard::Problem(problem))),
        };
        then = then.max(cue(Cue::Opened, 0, &mut played)?);
        for (index, part) in self.parts.iter().enumerate() {
            match (self.purpose, part) {
                (Purpose::Update, Part::Server(_) | Part::Remark(_)) => rewriting.keep(part),
                // The answers to both lines follow.
                (Purpose::Update, Part::Client(_)) if self.is_said_ahead(index) => rewriting.act(part),
                (Purpose::Update, Part::Client(_) | Part::Stage(_)) => {
                    rewriting.answered(played.said.drain(..));
                    played.close_seen |= part.is_close();
                    if !part.is_close() || then == Then::Close {
                        rewriting.act(part);
                    }
                }
                (Purpose::Compare, Part::Client(_)) if self.is_said_ahead(index) => {}
                (Purpose::Compare, _) => {
                    if let Some(heard) = played.instead_of(Some(part), then) {
                        return Err(self.mismatch(BY, index, heard));
                    }
                }
            }
            match part {
                Part::Client(text) => {
                    input.extend_from_slice(&octets(text));
                    while then == Then::Listen
                        && let Some(line) = crlf.next_line(&mut input)
                    {
                        then = cue(Cue::Line(line), index, &mut played)?;
                    }
                }
                Part::Stage(text) if text == "eof" => then = then.max(cue(Cue::Ended, index, &mut played)?),
                Part::Stage(text) if !part.is_close() => then = then.max(cue(Cue::Stage(text), index, &mut played)?),
                Part::Server(_) | Part::Remark(_) | Part::Stage(_) => {}
            }
        }
        match self.purpose {
            Purpose::Compare => {
                let heard = played.instead_of(None, then);
                heard.map_or(Ok(()), |heard| Err(self.mismatch(BY, self.parts.len(), heard)))
            }
            Purpose::Update => {
                rewriting.answered(played.said);
                if then == Then::Close && !played.close_seen {
                    rewriting.act(&Part::Stage("close".to_owned()));
                }
                self.rewrite(&rewriting.parts);
                Ok(())
            }
        }
    }
}

impl Then {
    /// Once closed, closed for good.
    fn max(self, other: Self) -> Self {
        if self == Self::Close { self } else { other }
    }
}

/// What the session said and nobody has looked at yet.
#[derive(Default)]
struct Played {
    said: VecDeque<String>,
    /// Whether `@ close` has been reached.
    close_seen: bool,
}

impl Played {
    /// What came instead of this line of the file, or of its end.
    fn instead_of(&mut self, part: Option<&Part>, then: Then) -> Option<Heard> {
        match part {
            Some(Part::Remark(_)) => None,
            Some(Part::Server(pattern)) => match self.said.pop_front() {
                Some(line) if matches(pattern, &line) => None,
                Some(line) => Some(Heard::Line(line)),
                None if then == Then::Close => Some(Heard::Close),
                None => Some(Heard::Nothing),
            },
            // Before somebody else acts, all that was said must have been looked at.
            Some(Part::Client(_) | Part::Stage(_)) | None => {
                if let Some(line) = self.said.pop_front() {
                    return Some(Heard::Line(line));
                }
                let closes = part.is_some_and(Part::is_close);
                self.close_seen |= closes;
                match then {
                    Then::Listen if closes => Some(Heard::Nothing),
                    Then::Close if !self.close_seen => Some(Heard::Close),
                    Then::Listen | Then::Close => None,
                }
            }
        }
    }
}

/// The file as it would have to be.
#[derive(Default)]
struct Rewriting {
    parts: Vec<Part>,
    /// Where the answers to what was done last begin.
    answers_from: usize,
}

impl Rewriting {
    /// An `S:` line or a remark, as it stands.
    fn keep(&mut self, part: &Part) {
        self.parts.push(part.clone());
    }

    /// A line of the client, or a stage direction.
    fn act(&mut self, part: &Part) {
        self.parts.push(part.clone());
        self.answers_from = self.parts.len();
    }

    /// These were the answers: they replace the `S:` lines that stand there, one for one. What is more goes behind the last
    /// of them; what is less is taken out. Remarks stay where they are.
    fn answered(&mut self, said: impl IntoIterator<Item = String>) {
        let mut said = said.into_iter();
        let mut behind = self.answers_from;
        for part in self.parts.split_off(self.answers_from) {
            match part {
                Part::Server(pattern) => {
                    let Some(line) = said.next() else { continue };
                    self.parts.push(Part::Server(if matches(&pattern, &line) { pattern } else { line }));
                    behind = self.parts.len();
                }
                other => self.parts.push(other),
            }
        }
        self.parts.splice(behind..behind, said.map(Part::Server));
    }
}

// --- Over a stream ---------------------------------------------------------------------------------------------------

/// How the client speaks.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// A line, then it listens. This player rewrites the file for `UPDATE=1`; the others then play nothing.
    Lines,
    /// The same, but each octet is sent alone.
    Octets,
    /// As many lines as possible in one write. RFC 2920 §3.1 says after which commands a client must wait for the answer
    /// (EHLO, DATA ...); the function says it of a `C:` line. It waits for the greeting too, and at each `@`.
    Pipelined(fn(&str) -> bool),
}

/// A server that says nothing for this long will not say it at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// When the file is rewritten, a server that is silent for this long has said all it wanted.
const QUIET: Duration = Duration::from_millis(300);
/// The longest line that a server may say.
const LINE_OCTETS_MAX: usize = 1 << 16;

impl Script {
    /// Plays over a connection to a server at `address`.
    ///
    /// # Errors
    /// As [`Script::on_stream`]; a connection that fails is told the same way.
    pub async fn on_tcp(
        &self,
        address: SocketAddr,
        pace: Pace,
        stage: impl AsyncFnMut(&str) -> Result<(), String>,
    ) -> Result<(), Mismatch> {
        let connect = async {
            let stream = TcpStream::connect(address).await?;
            // Octet by octet means a segment for each.
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        match connect.await {
            Ok(stream) => self.play(stream, pace, "TCP", stage).await,
            Err::<_, io::Error>(error) => Err(self.mismatch("TCP", 0, Heard::Problem(format!("{address}: {error}")))),
        }
    }

    /// Plays over any stream to a server. `stage` gets each `@` and says why it cannot be played (unknown).
    ///
    /// # Errors
    /// The first line that went otherwise.
    pub async fn on_stream(
        &self,
        stream: impl AsyncRead + AsyncWrite,
        pace: Pace,
        stage: impl AsyncFnMut(&str) -> Result<(), String>,
    ) -> Result<(), Mismatch> {
        self.play(stream, pace, "stream", stage).await
    }

    async fn play<S: AsyncRead + AsyncWrite>(
        &self,
        stream: S,
        pace: Pace,
        over: &str,
        mut stage: impl AsyncFnMut(&str) -> Result<(), String>,
    ) -> Result<(), Mismatch> {
        let how = match pace {
            Pace::Lines => "line by line",
            Pace::Octets => "octet by octet",
            Pace::Pipelined(_) => "pipelined",
        };
        if self.purpose == Purpose::Update && !matches!(pace, Pace::Lines) {
            return Ok(());
        }
        let (hearing, mouth) = split(stream);
        let crlf = Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX);
        let by = format!("{over}, {how}");
        let mut client = Client {
            script: self,
            by,
            pace,
            mouth,
            ear: Ear { hearing, input: BytesMut::new(), crlf },
            to_say: vec![],
            to_hear: vec![],
        };
        let mut rewriting = Rewriting::default();
        let mut must_wait = true;
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Server(_) | Part::Remark(_) => rewriting.keep(part),
                Part::Client(_) if self.purpose == Purpose::Update && self.is_said_ahead(index) => rewriting.act(part),
                Part::Client(_) | Part::Stage(_) => {
                    if must_wait || matches!(part, Part::Stage(_)) {
                        client.settle(&mut rewriting).await?;
                    }
                    rewriting.act(part);
                }
            }
            match part {
                Part::Client(text) => {
                    client.to_say.extend_from_slice(&octets(text));
                    must_wait = match pace {
                        Pace::Lines | Pace::Octets => true,
                        Pace::Pipelined(must_wait) => must_wait(text),
                    };
                }
                Part::Server(_) => client.to_hear.push(index),
                Part::Stage(text) if text == "close" => client.expect_close(index).await?,
                Part::Stage(text) if text == "eof" => {
                    // A peer that is gone already is found out at the next `S:` or `@ close`.
                    let _ = client.mouth.shutdown().await;
                }
                Part::Stage(text) => {
                    let problem = |problem| self.mismatch(&client.by, index, Heard::Problem(problem));
                    stage(text).await.map_err(problem)?;
                }
                Part::Remark(_) => {}
            }
        }
        client.settle(&mut rewriting).await?;
        if self.purpose == Purpose::Update {
            self.rewrite(&rewriting.parts);
        }
        Ok(())
    }
}

/// The client's end of the stream.
struct Client<'a, S> {
    script: &'a Script,
    by: String,
    pace: Pace,
    mouth: WriteHalf<S>,
    ear: Ear<S>,
    to_say: Vec<u8>,
    /// The `S:` lines of the script (by number) that must come next.
    to_hear: Vec<usize>,
}

impl<S: AsyncRead + AsyncWrite> Client<'_, S> {
    /// Says what is to be said and meanwhile hears what must be heard: who only talks may find that both sides wait
    /// for the other to listen.
    async fn settle(&mut self, rewriting: &mut Rewriting) -> Result<(), Mismatch> {
        let Self { script, by, pace, mouth, ear, to_say, to_hear } = self;
        let say = async {
            let size = if matches!(pace, Pace::Octets) { 1 } else { to_say.len().max(1) };
            for chunk in to_say.chunks(size) {
                // A peer that is gone already is found out by the ear.
                let _ = mouth.write_all(chunk).await;
                let _ = mouth.flush().await;
                tokio::task::yield_now().await;
            }
        };
        let hear = async {
            if script.purpose == Purpose::Update {
                let mut said = vec![];
                // Where the file has an answer, it may have to be waited for.
                let mut patience = if to_hear.is_empty() { QUIET } else { PATIENCE };
                while let Heard::Line(line) = ear.hear(patience).await {
                    said.push(line);
                    patience = QUIET;
                }
                rewriting.answered(said);
                return Ok(());
            }
            for index in to_hear.iter().copied() {
                let heard = ear.hear(PATIENCE).await;
                match (&script.parts[index], heard) {
                    (Part::Server(pattern), Heard::Line(line)) if matches(pattern, &line) => {}
                    (_, heard) => return Err(script.mismatch(by, index, heard)),
                }
            }
            Ok(())
        };
        let ((), heard) = tokio::join!(say, hear);
        self.to_say.clear();
        self.to_hear.clear();
        heard
    }

    async fn expect_close(&mut self, index: usize) -> Result<(), Mismatch> {
        match self.ear.hear(PATIENCE).await {
            Heard::Close => Ok(()),
            _ if self.script.purpose == Purpose::Update => Ok(()),
            heard => Err(self.script.mismatch(&self.by, index, heard)),
        }
    }
}

/// Hears lines.
struct Ear<S> {
    hearing: ReadHalf<S>,
    input: BytesMut,
    crlf: Crlf,
}

impl<S: AsyncRead> Ear<S> {
    async fn hear(&mut self, patience: Duration) -> Heard {
        let line = async {
            loop {
                match self.crlf.next_line(&mut self.input) {
                    Some(Line::Text(text)) => return Heard::Line(readable(&text)),
                    Some(Line::BareLf(text)) => {
                        return Heard::Problem(format!("a bare LF behind `{}`", readable(&text)));
                    }
                    Some(Line::TooLong) => {
                        return Heard::Problem(format!("a line of more than {LINE_OCTETS_MAX} octets"));
                    }
                    None => {}
                }
                match self.hearing.read_buf(&mut self.input).await {
                    Ok(0) if self.input.is_empty() => return Heard::Close,
                    Ok(0) => {
                        let rest = readable(&self.input);
                        return Heard::Problem(format!("closed in the middle of a line: `{rest}`"));
                    }
                    Ok(_) => {}
                    Err(error) => return Heard::Problem(format!("the connection broke: {error}")),
                }
            }
        };
        match timeout(patience, line).await {
            Ok(heard) => heard,
            Err(_) if self.input.is_empty() => Heard::Nothing,
            Err(_) => Heard::Problem(format!("no CR LF after `{}`", readable(&self.input))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        transcript::{Hub, Transport},
        wire::{Limits, Role, Wire, nothing_is_secret},
    };
    use tokio::io::{DuplexStream, duplex};

    /// Says each line back; `BYE` ends it; `TWO` is answered by two lines.
    fn echo(cue: Cue<'_>) -> Result<Said, String> {
        Ok(match cue {
            Cue::Opened => Said::line("ready"),
            Cue::Line(Line::Text(text)) if text == "BYE" => Said::line("bye").and_close(),
            Cue::Line(Line::Text(text)) if text == "TWO" => Said::lines(["one", "two"]),
            Cue::Line(Line::Text(text)) => Said::line(text),
            Cue::Line(Line::TooLong) => Said::line("too long"),
            Cue::Line(Line::BareLf(_)) => Said::line("bare LF"),
            Cue::Ended => Said::nothing().and_close(),
            Cue::Stage("rain") => Said::nothing(),
            Cue::Stage(other) => return Err(format!("`@ {other}` is unknown")),
        })
    }

    /// The same over a stream.
    async fn echo_server(stream: DuplexStream) {
        let limits = Limits { line_end: LineEnd::CrLf, line_octets_max: 16, idle: PATIENCE * 2, write: PATIENCE };
        let address: SocketAddr = ([127, 0, 0, 1], 7).into();
        let talk = Hub::quiet().transcript("echo", "test").conversation(Transport::Tcp, address, address);
        let mut wire = Wire::new(stream, Role::Server, limits, nothing_is_secret, talk);
        let mut said = echo(Cue::Opened).unwrap();
        loop {
            said.lines.iter().for_each(|line| wire.say(line));
            if said.then == Then::Close {
                break wire.close().await.unwrap();
            }
            said = echo(wire.line().await.map_or(Cue::Ended, Cue::Line)).unwrap();
        }
    }

    async fn on_stream(script: &Script, pace: Pace) -> Result<(), Mismatch> {
        let (near, far) = duplex(64);
        let stage = async |text: &str| if text == "rain" { Ok(()) } else { Err(format!("`@ {text}` is unknown")) };
        tokio::select! {
            result = script.on_stream(near, pace, stage) => result,
            never = async { echo_server(far).await; std::future::pending().await } => never,
        }
    }

    fn on_session(script: &Script) -> Result<(), Mismatch> {
        script.on_session(Crlf::new(LineEnd::CrLf, 16), echo)
    }

    fn script(text: &str, purpose: Purpose) -> Script {
        Script::parse(Path::new("a.txt"), text, purpose)
    }

    const PACES: [Pace; 4] =
        [Pace::Lines, Pace::Octets, Pace::Pipelined(|_| false), Pace::Pipelined(|line| line == "TWO")];

    const GOOD: [&str; 5] = [
        "# A remark.\n\nS: ready\nC: CAT\nS: CAT\nC: BYE\nS: bye\n@ close\n",
        "S: [..]\nC: TWO\nC: TWO\nS: one\nS: t[..]o\nS: one\nS: two\n@ rain\nC: x\nS: x\n",
        "S: ready\nC: \\xff\\\\c\\u{e5}\\q\nS: \\xff\\cå\\q\n@ eof\n@ close\n",
        "S: ready\nC: A\\c\nC: B\\r\\nC\\c\nS: AB\n@ rain\nC: D\nS: CD\n",
        "S: ready\nC: 123456789012345\nS: too long\nC:\nS:\n@ eof\n@ close\n",
    ];

    #[tokio::test(start_paused = true)]
    async fn what_goes_as_written_passes_every_player() {
        for text in GOOD {
            let script = script(text, Purpose::Compare);
            on_session(&script).unwrap();
            for pace in PACES {
                on_stream(&script, pace).await.unwrap();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_otherwise_is_told_with_its_line() {
        let table = [
            ("S: hello\n", 1, "    - S: hello\n    + S: ready\n"),
            ("S: ready\nC: CAT\nS: DOG\n", 3, "      S: ready\n      C: CAT\n    - S: DOG\n    + S: CAT\n"),
            ("S: ready\nS: steady\n", 2, "    - S: steady\n    + (nothing)\n"),
            ("S: ready\nC: BYE\nS: bye\nS: more\n", 4, "    - S: more\n    + @ close\n"),
            ("S: ready\nC: CAT\nS: CAT\n@ close\n", 4, "    - @ close\n    + (nothing)\n"),
            ("S: ready\nC: TWO\nS: one\n@ close\n", 4, "    - @ close\n    + S: two\n"),
            ("S: ready\n@ snow\n", 2, "    - @ snow\n    + (`@ snow` is unknown)\n"),
        ];
        for (text, line, diff) in table {
            let script = script(text, Purpose::Compare);
            let mut told = vec![on_session(&script).unwrap_err().to_string()];
            for pace in PACES {
                told.push(on_stream(&script, pace).await.unwrap_err().to_string());
            }
            for told in told {
                assert!(told.starts_with(&format!("a.txt:{line}: ")) && told.ends_with(diff), "{told}wanted {diff}");
            }
        }
    }

    #[test]
    fn the_session_alone_also_tells_of_what_was_said_too_much() {
        let table = [
            ("S: ready\nC: TWO\nS: one\n", "    - (the end of the file)\n    + S: two\n"),
            ("S: ready\nC: TWO\nS: one\nC: CAT\n", "    - C: CAT\n    + S: two\n"),
            ("S: ready\nC: BYE\nS: bye\n", "    - (the end of the file)\n    + @ close\n"),
            ("S: ready\nC: BYE\nS: bye\nC: CAT\n", "    - C: CAT\n    + @ close\n"),
        ];
        for (text, diff) in table {
            let told = on_session(&script(text, Purpose::Compare)).unwrap_err().to_string();
            assert!(told.ends_with(diff), "{told}wanted {diff}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn update_rewrites_what_the_server_says_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let stale = "# Kept.\nS: rea[..]\nS: gone\nC: TWO\n\nS: eins\n# Kept.\nC: A\nC: B\nS: x\n\n# Kept.\n@ rain\nC: D\n\nC: BYE\n@ close\n";
        let fresh = "# Kept.\nS: rea[..]\nC: TWO\n\nS: one\nS: two\n# Kept.\nC: A\nC: B\nS: A\nS: B\n\n# Kept.\n@ rain\nC: D\n\nC: BYE\nS: D\nS: bye\n@ close\n";
        let by = |name: &str| Script::parse(&dir.path().join(name), stale, Purpose::Update);
        on_session(&by("session.txt")).unwrap();
        on_stream(&by("stream.txt"), Pace::Lines).await.unwrap();
        for name in ["session.txt", "stream.txt"] {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), fresh, "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "no transcripts")]
    fn a_directory_without_transcripts_is_a_failure() {
        play_all(tempfile::tempdir().unwrap().path(), |_| Ok(()));
    }

    #[test]
    #[should_panic(expected = "a.txt:2: a line starts with")]
    fn a_line_in_no_notation_is_a_failure() {
        script("S: ready\nQUIT\n", Purpose::Compare);
    }

    #[test]
    fn a_client_is_tested_from_the_other_side() {
        // Says `hello` when it is greeted, `QUIT` to whatever comes then, and hangs up.
        let play = |text: &str| {
            let mut told = 0;
            script(text, Purpose::Compare).for_a_client().on_session(Crlf::new(LineEnd::CrLf, 16), |cue| {
                told += 1;
                Ok(match (cue, told) {
                    (Cue::Opened, _) => Said::nothing(),
                    (_, 2) => Said::line("hello"),
                    (_, 3) => Said::line("QUIT"),
                    _ => Said::nothing().and_close(),
                })
            })
        };
        play("S: 220 ready\nC: hello\nS: 250-a\nC: QUIT\nS: 221 bye\n@ close\n").unwrap();
        let told = play("S: 220 ready\nC: EHLO\n").unwrap_err().to_string();
        assert!(told.ends_with("      S: 220 ready\n    - C: EHLO\n    + C: hello\n"), "{told}");
    }

    #[test]
    fn anything_within_a_line_is_matched_by_two_dots_in_brackets() {
        let accepted = [
            ("a", "a"),
            ("[..]", ""),
            ("a[..]", "abc"),
            ("[..]c", "abc"),
            ("a[..]b[..]c", "axxbyyc"),
            ("a[..]a", "aa"),
        ];
        let refused = [("a", "b"), ("a[..]", "ba"), ("a[..]a", "a"), ("a[..]b[..]c", "acb"), ("", "x")];
        for (pattern, line) in accepted {
            assert!(matches(pattern, line), "{pattern} {line}");
        }
        for (pattern, line) in refused {
            assert!(!matches(pattern, line), "{pattern} {line}");
        }
    }
}
