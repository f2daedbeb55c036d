//! The access log: entries are formatted where they happen and written by a thread of their own.
//!
//! A request costs the formatting and a short lock; the disk is waited for by nobody. Entries reach the file within a
//! second, and when the server stops.

use crate::{
    Config, LogFormat,
    accesslog::{self, Clock, Entry, combined, json},
};
use shared::{check, daemon::StartError};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime},
};

/// The thread is woken for this much; less waits for the second to end.
const WAKE_OCTETS: usize = 64 << 10;
/// When the disk is so slow or so full that this much waits, further entries are dropped and counted: a log must not
/// take the server's memory.
const WAITING_OCTETS_MAX: usize = 8 << 20;
/// How long an entry may wait.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// An open access log.
#[derive(Debug)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    format: LogFormat,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    waiting: Mutex<Waiting>,
    wake: Condvar,
}

#[derive(Debug)]
struct Waiting {
    octets: Vec<u8>,
    clock: Clock,
    dropped: u64,
    orders: Orders,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Orders {
    Write,
    /// The file was moved away (logrotate): open it again under its name.
    Reopen,
    Stop,
}

/// Where entries go.
enum Sink {
    File(PathBuf, File),
    Stdout,
}

impl Log {
    /// Whether what `config` names could be opened.
    pub(crate) fn check(config: &Config) -> Result<(), StartError> {
        match config.access_log.as_str() {
            "none" | "-" => Ok(()),
            path => check::file(Path::new(path)).map_err(|error| unwritable(path, &error)),
        }
    }

    /// Opens what `config` names; `None` when it wants no log.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, StartError> {
        let sink = match config.access_log.as_str() {
            "none" => return Ok(None),
            "-" => Sink::Stdout,
            path => {
                let file = open_file(Path::new(path)).map_err(|error| unwritable(path, &error))?;
                Sink::File(path.into(), file)
            }
        };
        let waiting = Waiting { octets: Vec::new(), clock: Clock::new(), dropped: 0, orders: Orders::Write };
        let shared = Arc::new(Shared { waiting: Mutex::new(waiting), wake: Condvar::new() });
        let with_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || with_thread.run(sink))?;
        Ok(Some(Self { shared, format: config.access_log_format, thread: Some(thread) }))
    }

    /// Adds an entry.
    pub(crate) fn write(&self, entry: &Entry<'_>) {
        let mut waiting = self.shared.lock();
        if waiting.octets.len() > WAITING_OCTETS_MAX {
            waiting.dropped += 1;
            return;
        }
        let Waiting { octets, clock, .. } = &mut *waiting;
        let before = octets.len();
        match self.format {
            LogFormat::Combined => combined(octets, clock, entry),
            LogFormat::Json => json(octets, clock, entry),
        }
        if before < WAKE_OCTETS && WAKE_OCTETS <= octets.len() {
            self.shared.wake.notify_one();
        }
    }

    /// Opens the file again under its name.
    pub(crate) fn reopen(&self) {
        self.shared.lock().orders = Orders::Reopen;
        self.shared.wake.notify_one();
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.shared.lock().orders = Orders::Stop;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // It ends after the last entries are written; a panic there was logged already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // An entry cut short by a panic is the worst that can be found here.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut sink: Sink) {
        let mut batch = Vec::with_capacity(WAKE_OCTETS);
        loop {
            let (orders, dropped) = {
                let quiet =
                    |waiting: &mut Waiting| waiting.orders == Orders::Write && waiting.octets.len() < WAKE_OCTETS;
                let waiting = self.wake.wait_timeout_while(self.lock(), FLUSH_EVERY, quiet);
                let (mut waiting, _) = waiting.unwrap_or_else(PoisonError::into_inner);
                std::mem::swap(&mut waiting.octets, &mut batch);
                let orders = waiting.orders;
                if orders == Orders::Reopen {
                    waiting.orders = Orders::Write;
                }
                (orders, std::mem::take(&mut waiting.dropped))
            };
            if dropped > 0 {
                tracing::warn!(dropped, "access log is behind: entries dropped");
            }
            if let Err(error) = sink.write(&batch) {
                tracing::error!(%error, octets = batch.len(), "access log: entries lost");
            }
            batch.clear();
            // After a burst, memory goes back.
            batch.shrink_to(WAKE_OCTETS * 4);
            match orders {
                Orders::Write => {}
                Orders::Reopen => sink.reopen(),
                Orders::Stop => return,
            }
        }
    }
}

impl Sink {
    fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        match self {
            Sink::File(_, file) => file.write_all(octets),
            Sink::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(octets)?;
                stdout.flush()
            }
        }
    }

    fn reopen(&mut self) {
        if let Sink::File(path, file) = self {
            match open_file(path) {
                Ok(fresh) => *file = fresh,
                Err(error) => {
                    tracing::error!(%error, path = %path.display(), "cannot reopen the access log; the old one stays");
                }
            }
        }
    }
}

fn unwritable(path: &str, error: &io::Error) -> StartError {
    let cure = "make the directory writable, or set \"none\" or \"-\"";
    StartError::unfit("web.access_log", format!("cannot write `{path}`: {error}; {cure}"))
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// An entry that waits for its body to be sent.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) log: Arc<Log>,
    pub(crate) began: Instant,
    pub(crate) remote: IpAddr,
    pub(crate) user: Option<String>,
    pub(crate) method: Vec<u8>,
    pub(crate) target: Vec<u8>,
    pub(crate) version: http::Version,
    pub(crate) status: http::StatusCode,
    pub(crate) head_octets: u64,
    pub(crate) referer: Option<Vec<u8>>,
    pub(crate) user_agent: Option<Vec<u8>>,
    pub(crate) host: Option<Vec<u8>>,
    pub(crate) connection: u64,
}

impl Ticket {
    /// Writes the entry: this many octets of body were sent.
    pub(crate) fn write(self, octets: u64) {
        self.log.write(&Entry {
            remote: self.remote,
            user: self.user.as_deref(),
            time: SystemTime::now(),
            method: &self.method,
            target: &self.target,
            version: accesslog::version(self.version).as_bytes(),
            status: self.status.as_u16(),
            head_octets: self.head_octets,
            octets,
            referer: self.referer.as_deref(),
            user_agent: self.user_agent.as_deref(),
            host: self.host.as_deref(),
            micros: self.began.elapsed().as_micros() as u64,
            connection: self.connection,
        });
    }
}
