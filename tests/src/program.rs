//! One of our own programs under test: what it says, line by line as it comes, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

pub use rustix::process::Signal;

use crate::process::{PATIENCE, built_program, signal};

/// A command that starts one of our programs, without what the tests' own surroundings would tell it: a service manager
/// that runs the tests, settings of the person who does.
pub fn command(name: &str) -> Result<Command> {
    Ok(cleaned(Command::new(built_program(name)?)))
}

/// The same for another program that will become one of ours (`sh -c 'exec tomte-web ...'`).
pub fn command_at(program: &Path) -> Command {
    cleaned(Command::new(program))
}

fn cleaned(mut command: Command) -> Command {
    let ours = |name: &str| name.starts_with("TOMTE__") || name.starts_with("LISTEN_") || name.starts_with("WATCHDOG_");
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    for name in ["NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "JOURNAL_STREAM"] {
        command.env_remove(name);
    }
    command
}

/// A program that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<Line>,
    said: Ended,
}

#[derive(Debug)]
enum Line {
    Out(String),
    Err(String),
}

/// What a program said in its life, and its last word.
#[derive(Debug, Default)]
pub struct Ended {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl Running {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let spawned = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.with_context(|| format!("cannot start {command:?}"))?;
        let (sender, lines) = channel();
        let out = child.stdout.take().context("standard output is piped")?;
        let err = child.stderr.take().context("standard error is piped")?;
        read_lines(out, sender.clone(), Line::Out);
        read_lines(err, sender, Line::Err);
        Ok(Self { child, lines, said: Ended::default() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, which: Signal) -> Result<()> {
        signal(self.pid(), which)
    }

    /// Types a line into its standard input, which its command must have piped.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let keyboard = self.child.stdin.as_mut().context("its standard input is not piped")?;
        Ok(writeln!(keyboard, "{line}")?)
    }

    /// Waits for a line with `words` in it, on either stream, and returns it. Lines before it are taken.
    pub fn wait_for(&mut self, words: &str) -> Result<String> {
        let begin = Instant::now();
        loop {
            match self.next(begin) {
                Ok(line) if line.contains(words) => return Ok(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("no `{words}` within {PATIENCE:?}; it said {:?}", self.said),
                Err(RecvTimeoutError::Disconnected) => bail!("it ended without `{words}`; it said {:?}", self.said),
            }
        }
    }

    /// Waits for its next line, on either stream; none when it has closed both.
    pub fn next_line(&mut self) -> Result<Option<String>> {
        match self.next(Instant::now()) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => bail!("it says nothing more within {PATIENCE:?}"),
        }
    }

    /// What it has said up to the line that was waited for last.
    pub fn said(&self) -> &Ended {
        &self.said
    }

    /// Waits until it ends by itself.
    pub fn end(mut self) -> Result<Ended> {
        let begin = Instant::now();
        loop {
            match self.next(begin) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => bail!("it does not end; it said {:?}", self.said),
                // Both its outputs are closed.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.said.code = self.child.wait()?.code();
        Ok(std::mem::take(&mut self.said))
    }

    fn next(&mut self, begin: Instant) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(PATIENCE.saturating_sub(begin.elapsed()))?;
        let (stream, line) = match line {
            Line::Out(line) => (&mut self.said.out, line),
            Line::Err(line) => (&mut self.said.err, line),
        };
        stream.push_str(&line);
        Ok(line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already in a test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Result<Ended> {
    Running::start(command)?.end()
}

impl Ended {
    /// Checks the exit code.
    pub fn with_code(self, code: i32) -> Result<Self> {
        if self.code == Some(code) { Ok(self) } else { Err(anyhow!("expected exit code {code}: {self:?}")) }
    }
}

fn read_lines(stream: impl Read + Send + 'static, sender: Sender<Line>, wrap: fn(String) -> Line) {
    thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = vec![];
        while reader.read_until(b'\n', &mut line).is_ok_and(|octets| octets > 0) {
            if sender.send(wrap(String::from_utf8_lossy(&line).into_owned())).is_err() {
                return;
            }
            line.clear();
        }
    });
}
