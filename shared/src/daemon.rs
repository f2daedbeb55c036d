//! `main()` for all: what happens between `exec` and the exit code.
//!
//! ```text
//!   flags -> settings -> log -> sockets, counters, admin -> bind -> READY=1 -> run
//!                                                                     |
//!     SIGHUP:  read the settings again; if they are wrong, keep the old ones and say so
//!     SIGTERM: STOPPING=1, cancel the token; sessions say goodbye; exit 0 within the grace time
//! ```
//!
//! A daemon's own `main.rs` names its program and says how to check, bind and run:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     shared::daemon::main(&PROGRAM, Server::check, async |config: Config, daemon: Daemon<Config>| {
//!         let server = Server::bind(config, &daemon.shared)?;
//!         daemon.ready(&server.local_addrs());
//!         server.run(daemon.shutdown.clone()).await
//!     })
//! }
//! ```

use crate::{
    accounts::{self, Accounts},
    admin::{self, Admin, Directory, State, View},
    check::Check,
    config::{self, ConfigError, Settings},
    listener::{BindError, Sockets},
    logging,
    metrics::{Metrics, Registers},
    tls,
    transcript::{self, Hub, Transcript},
};
use clap::{CommandFactory, FromArgMatches, Parser};
use sd_notify::NotifyState;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fmt, io,
    net::SocketAddr,
    num::NonZeroUsize,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// `EX_CONFIG` of sysexits.h; the units tell systemd not to restart after it.
pub const EXIT_CONFIG: u8 = 78;
/// A daemon has its own grace time; this much later the process ends whatever still runs.
const GRACE_MAX: Duration = Duration::from_mins(1);

/// What a daemon is called and how it lives.
#[derive(Debug)]
pub struct Program {
    /// The word: crate, configuration table, log target.
    pub name: &'static str,
    /// One sentence for `--help`.
    pub about: &'static str,
    /// Examples for `--help`, which come first there.
    pub examples: &'static str,
    /// The crate's version.
    pub version: &'static str,
    /// Where its tasks run.
    pub runtime: Runtime,
}

/// Where a daemon's tasks run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// One multi-threaded runtime.
    Shared,
    /// The daemon starts a thread with a runtime of its own for each worker.
    PerCore,
}

/// Why a daemon cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for what cannot be; exit code 78.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The value of one key does not fit the world (a directory that does not exist); exit code 78.
    #[error("{key}: {problem}")]
    Unfit {
        /// `web.docroot`
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A socket cannot be had; exit code 1.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refused something else; exit code 1.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// More than one thing is wrong; exit code 78 if that is so for any of them.
    #[error("{}", config::lines(.0))]
    Several(Vec<StartError>),
}

impl StartError {
    /// The value of `key` does not fit.
    pub fn unfit(key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Self::Unfit { key: key.into(), problem: problem.to_string() }
    }

    /// The exit code for this reason.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Config(_) | StartError::Unfit { .. } => EXIT_CONFIG,
            StartError::Bind(_) | StartError::Io(_) => 1,
            StartError::Several(all) => all.iter().map(Self::exit_code).max().unwrap_or(1),
        }
    }

    /// This error, or those that it is made of.
    pub fn each(self) -> Vec<Self> {
        match self {
            Self::Several(all) => all.into_iter().flat_map(Self::each).collect(),
            Self::Config(all) => all.each().into_iter().map(Self::Config).collect(),
            one => vec![one],
        }
    }

    /// Nothing, one error, or several.
    ///
    /// # Errors
    /// There are some.
    pub fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }

    /// A value that does not fit is said of the place where it stands.
    #[must_use]
    pub fn placed(self, settings: &Settings) -> Self {
        match self {
            Self::Unfit { key, problem } => Self::Config(settings.misfit(&key, &problem)),
            Self::Several(all) => Self::Several(all.into_iter().map(|error| error.placed(settings)).collect()),
            other => other,
        }
    }
}

/// What all daemons of one process have in common: the stand-alone daemon has one, the lab has one for all its hosts.
#[derive(Clone)]
pub struct Process {
    /// The transcripts.
    pub hub: Hub,
    /// The counters.
    pub registers: Registers,
    /// Who serves where.
    pub directory: Directory,
    /// Our own sockets or systemd's.
    pub sockets: Sockets,
    /// Who may log in.
    pub accounts: Arc<Accounts>,
    /// Worker threads for a daemon that has its own.
    pub workers: Workers,
}

/// How many workers a daemon that asks for one a core gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// A thread each, as many as the daemon's configuration says.
    Threads,
    /// None of its own: many daemons share this process's runtime.
    Inline,
}

impl Workers {
    /// How many a daemon gets that asks for `wanted`; 0 asks for one a core.
    pub fn count(self, wanted: usize) -> NonZeroUsize {
        match self {
            Workers::Threads => NonZeroUsize::new(wanted).unwrap_or_else(cores),
            Workers::Inline => NonZeroUsize::MIN,
        }
    }

    /// Runs each piece of `work`: on a thread with a runtime of its own, or one after the other right here. Returns when
    /// all have ended.
    ///
    /// # Errors
    /// A thread or runtime cannot be started, or a piece of work ended with an error.
    pub async fn run<F>(self, name: &str, work: Vec<F>) -> io::Result<()>
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        if self == Workers::Inline {
            for piece in work {
                piece.await?;
            }
            return Ok(());
        }
        let mut threads = vec![];
        for (number, piece) in work.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = std::thread::Builder::new().name(format!("{name}-{number}"));
            threads.push(thread.spawn(move || {
                let result = runtime.block_on(piece);
                if let Err(error) = &result {
                    // At once: the others may go on for a long time.
                    tracing::error!(%error, "a worker has ended");
                }
                result
            })?);
        }
        let join_all = move || {
            let results = threads.into_iter().map(|thread| {
                // Sessions that panic do not get here; a worker itself has nothing that could.
                thread.join().unwrap_or_else(|_| Err(io::Error::other("a worker thread died")))
            });
            results.collect::<Result<(), _>>()
        };
        tokio::task::spawn_blocking(join_all).await.map_err(io::Error::other)?
    }
}

/// What a daemon gets from its surroundings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The name of the host it serves.
    pub host: Arc<str>,
    /// Where it says what it hears and says.
    pub transcript: Transcript,
    /// What it counts.
    pub metrics: Metrics,
    /// Where its sockets come from.
    pub sockets: Sockets,
    /// Who may log in.
    pub accounts: Arc<Accounts>,
    /// Its certificate.
    pub tls: tls::Config,
    /// Whether it may start threads.
    pub workers: Workers,
}

impl Process {
    /// The part of one daemon on one host.
    pub fn shared(&self, daemon: &'static str, host: &str, tls: tls::Config) -> Shared {
        Shared {
            host: host.into(),
            transcript: self.hub.transcript(daemon, host),
            metrics: self.registers.of(daemon, host),
            sockets: self.sockets.clone(),
            accounts: Arc::clone(&self.accounts),
            tls,
            workers: self.workers,
        }
    }

    /// What the admin pages show.
    pub fn view(&self) -> View {
        View { hub: self.hub.clone(), registers: self.registers.clone(), directory: self.directory.clone() }
    }
}

impl Shared {
    /// Surroundings for a test: no accounts, nobody listening, one thread.
    pub fn for_tests(daemon: &'static str) -> Self {
        let process = Process {
            hub: Hub::quiet(),
            registers: Registers::default(),
            directory: Directory::default(),
            sockets: Sockets::default(),
            accounts: Arc::new(Accounts::none()),
            workers: Workers::Inline,
        };
        process.shared(daemon, "test", tls::Config::default())
    }
}

/// What a daemon's `main` hands to its closure.
pub struct Daemon<C> {
    /// Its surroundings.
    pub shared: Shared,
    /// Cancelled when it is time to stop.
    pub shutdown: CancellationToken,
    name: &'static str,
    directory: Directory,
    reload: Arc<Mutex<Option<Reload<C>>>>,
}

/// How a daemon takes a new configuration while it runs.
type Reload<C> = Box<dyn Fn(C, &Shared) -> Result<(), StartError> + Send>;

impl<C> Daemon<C> {
    /// The sockets are bound: systemd may start who waits for us.
    pub fn ready(&self, endpoints: &[Endpoint]) {
        let addresses: Vec<String> = endpoints.iter().map(Endpoint::to_string).collect();
        let status = format!("serving {}", addresses.join(", "));
        tracing::info!("{status}");
        self.directory.set(self.name, &self.shared.host, State::Serving, addresses);
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// Where the daemon says how it answers about itself.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What to do with a new configuration at SIGHUP; it comes with the surroundings, in which the certificate may be another. If it
    /// returns an error, the daemon keeps the old one.
    pub fn on_reload(&self, reload: impl Fn(C, &Shared) -> Result<(), StartError> + Send + 'static) {
        *self.reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(reload));
    }
}

/// Tells systemd, if it is there.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}

#[derive(Debug, Parser)]
struct Flags {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over everything else
    #[arg(short, long, value_name = "TABLE.KEY=VALUE")]
    set: Vec<String>,
    /// Say whether the configuration is right, and leave (exit code 78 if not)
    #[arg(long)]
    check_config: bool,
    /// Print every key with its value and where that came from, and leave
    #[arg(long)]
    print_config: bool,
}

/// The shared tables.
#[derive(Debug, Default)]
struct Common {
    log: logging::Config,
    admin: admin::Config,
    transcript: transcript::Config,
    accounts: accounts::Config,
    tls: tls::Config,
}

impl Common {
    fn read(settings: &Settings) -> Result<Self, ConfigError> {
        Ok(Self {
            log: settings.table("log")?,
            admin: settings.table("admin")?,
            transcript: settings.table("transcript")?,
            accounts: settings.table("accounts")?,
            tls: settings.table("tls")?,
        })
    }
}

/// Everything a daemon's `main` does. `check` finds what would keep it from starting, without sockets and without writing; `run` is bind, then
/// run.
pub fn main<C, F>(program: &Program, check: fn(&C, &Shared) -> Vec<StartError>, run: F) -> ExitCode
where
    C: Serialize + DeserializeOwned + Default,
    F: AsyncFnOnce(C, Daemon<C>) -> Result<(), StartError>,
{
    let command = Flags::command()
        .name(format!("tomte-{}", program.name))
        .about(program.about)
        .version(program.version)
        .before_help(program.examples);
    let flags = Flags::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit());
    let result = Settings::load(flags.config.as_deref(), std::env::vars(), &flags.set).map_err(StartError::from);
    let result = result.and_then(|settings| {
        let all = || {
            let mut all = Check::new(&settings, &host_name());
            all.daemon(program.name, check);
            all
        };
        if flags.check_config {
            all().finish()?;
            let files: Vec<&str> = settings.files().collect();
            println!("ok: {}", if files.is_empty() { "no file, only defaults".to_owned() } else { files.join(", ") });
            return Ok(());
        }
        match start(program, &flags, &settings, run) {
            // Whoever mends one thing wants to know of the others, too.
            Err(error) if error.exit_code() == EXIT_CONFIG => all().with(error).finish(),
            result => result,
        }
    });
    let Err(error) = result else { return ExitCode::SUCCESS };
    let code = error.exit_code();
    // On standard error and not in the log: the log may be what is wrong.
    for error in error.each() {
        eprintln!("tomte-{}: {error}", program.name);
    }
    ExitCode::from(code)
}

fn start<C, F>(program: &Program, flags: &Flags, settings: &Settings, run: F) -> Result<(), StartError>
where
    C: Serialize + DeserializeOwned + Default,
    F: AsyncFnOnce(C, Daemon<C>) -> Result<(), StartError>,
{
    let mut common = Common::read(settings)?;
    let config: C = settings.table(program.name)?;
    if flags.print_config {
        print!("{}", explain(program.name, settings, &common, &config));
        return Ok(());
    }

    logging::init(&common.log).map_err(|problem| StartError::unfit("log.filter", problem))?;
    log_panics();
    raise_descriptor_limit();
    if common.admin.socket.is_none() {
        // systemd makes this directory and removes it after us.
        common.admin.socket = std::env::var_os("RUNTIME_DIRECTORY").map(|dir| PathBuf::from(dir).join("admin.sock"));
    }
    let process = Process {
        hub: Hub::new(&common.transcript).map_err(|error| StartError::unfit("transcript.dir", error))?,
        registers: Registers::default(),
        directory: Directory::default(),
        sockets: Sockets::from_environment(),
        accounts: Arc::new(
            Accounts::load(&common.accounts).map_err(|error| StartError::unfit("accounts.file", error))?,
        ),
        workers: Workers::Threads,
    };
    let host = host_name();
    process.directory.set(program.name, &host, State::Starting, vec![]);
    process.accounts.on_reload(&process.directory, &host);
    let runtime = match program.runtime {
        Runtime::Shared => tokio::runtime::Builder::new_multi_thread().enable_all().build()?,
        Runtime::PerCore => tokio::runtime::Builder::new_current_thread().enable_all().build()?,
    };
    let result = runtime.block_on(async {
        // Before anybody learns that we are there: a signal that came in between would end us with no goodbye.
        let signals = Signals::new()?;
        let shutdown = CancellationToken::new();
        let reload = Arc::new(Mutex::new(None));
        let tasks = TaskTracker::new();
        tasks.spawn(Admin::bind(&common.admin).await?.run(process.view(), shutdown.clone()));
        tasks.spawn(watchdog());
        let daemon = Daemon {
            shared: process.shared(program.name, &host, common.tls.clone()),
            shutdown: shutdown.clone(),
            name: program.name,
            directory: process.directory.clone(),
            reload: Arc::clone(&reload),
        };
        let surroundings = daemon.shared.clone();
        let on_hangup = || {
            let settings = Settings::load(flags.config.as_deref(), std::env::vars(), &flags.set)?;
            let config = settings.table::<C>(program.name)?;
            let surroundings = Shared { tls: settings.table("tls")?, ..surroundings.clone() };
            let taken = || {
                process.accounts.reload().map_err(|error| StartError::unfit("accounts.file", error))?;
                match &*reload.lock().unwrap_or_else(PoisonError::into_inner) {
                    Some(reload) => reload(config, &surroundings),
                    None => Err(StartError::unfit(program.name, "this daemon has nothing to reload; restart it")),
                }
            };
            taken().map_err(|error| error.placed(&settings))
        };
        tokio::select! {
            result = run(config, daemon) => result,
            never = signals.obey(&shutdown, &process.directory, on_hangup) => never,
        }
    });
    runtime.shutdown_background();
    result
}

/// The signals that we catch.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Until the daemon has returned: SIGTERM and SIGINT stop it, SIGHUP reloads. Returns only when it does not stop in
    /// time.
    async fn obey(
        mut self,
        shutdown: &CancellationToken,
        directory: &Directory,
        on_hangup: impl Fn() -> Result<(), StartError>,
    ) -> Result<(), StartError> {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => break,
                _ = self.interrupt.recv() => break,
                _ = self.hangup.recv() => {
                    if let Ok(now) = NotifyState::monotonic_usec_now() {
                        notify(&[NotifyState::Reloading, now]);
                    }
                    match on_hangup() {
                        Ok(()) => tracing::info!("configuration reloaded"),
                        Err(error) => tracing::error!(%error, "configuration not reloaded; the old one stays"),
                    }
                    notify(&[NotifyState::Ready]);
                }
            }
        }
        tracing::info!("stopping");
        notify(&[NotifyState::Stopping]);
        directory.stopping();
        shutdown.cancel();
        tokio::select! {
            // Asked twice: somebody is in a hurry.
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = tokio::time::sleep(GRACE_MAX) => {}
        }
        Err(io::Error::other("stopped before all sessions had said goodbye").into())
    }
}

/// Tells systemd that the runtime still turns. A runtime that hangs does not get here.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn explain<C: Serialize>(name: &str, settings: &Settings, common: &Common, config: &C) -> String {
    [
        settings.explain("log", &common.log),
        settings.explain("admin", &common.admin),
        settings.explain("transcript", &common.transcript),
        settings.explain("accounts", &common.accounts),
        settings.explain("tls", &common.tls),
        settings.explain(name, config),
    ]
    .join("\n")
}

/// A panic ends one session. It must be seen nevertheless.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic| tracing::error!(target: "panic", "{panic}")));
}

/// Ten thousand connections are ten thousand descriptors; the usual soft limit is 1,024 and the hard one far above.
pub fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "cannot raise the descriptor limit");
    }
}

/// One worker for each core that we may use.
pub fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// What this machine is called.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// One place where a daemon serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What is spoken there: `http`, `https`, `tcp`, `udp` ...
    pub protocol: &'static str,
    /// Where; with port 0 in the configuration this tells the port.
    pub address: SocketAddr,
}

impl fmt::Display for Endpoint {
    /// `http 127.0.0.1:80`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)
    }
}
