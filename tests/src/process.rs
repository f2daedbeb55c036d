//! A server as its admin sees it: a program, its workers, what they cost.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// How long a server may take to listen, to say what it is asked for, and to end after SIGTERM. Far more than any of them needs, so that a slow
/// machine does not fail; a broken server costs a test this long once.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An address on loopback with a port that was free a moment ago. Other programs cannot take it by accident: the kernel
/// gives out ephemeral ports in turn, and this one has just been used.
pub fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?)
}

/// Where a program is: on the `PATH`, or in the system folders that the `PATH` of a user often lacks.
///
/// The error names the Debian package to install, because an absent tool is a failure and never a silent skip.
pub fn find_program(name: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{name} is not installed: apt-get install {package}"))
}

/// The first line that a program prints about itself when it is given `flags`, on whichever of the two outputs.
pub fn version(program: &Path, flags: &str) -> Result<String> {
    let output =
        Command::new(program).args(flags.split(' ')).output().with_context(|| program.display().to_string())?;
    let told = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&told).lines().next().unwrap_or("unknown").trim().to_owned())
}

/// One of our own programs, built from the sources as they are now, in the profile of the running test or benchmark.
///
/// Cargo builds the binaries of a package for that package's own tests only, so a test that just looked for `tomte` beside
/// itself would fail in a fresh clone and, worse, pass with yesterday's program later. So cargo is asked, once in each
/// process; when all is built already that takes a third of a second. It waits for no lock: cargo has given its own back
/// before it starts the tests.
pub fn built_program(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<HashMap<String, PathBuf>, String>> = OnceLock::new();
    let built = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let built = built.as_ref().map_err(|problem| anyhow!("{problem}"))?;
    built.get(name).cloned().with_context(|| format!("no package of {PACKAGES:?} has a program {name}"))
}

/// The packages with programs of ours.
const PACKAGES: [&str; 6] = ["tomte-dns", "tomte-lab", "tomte-pop3", "tomte-smtp", "tomte-web", "tomte-wordlength"];

/// Asks cargo for our programs; it tells where they are, whatever the target folder is called.
fn build() -> Result<HashMap<String, PathBuf>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.args(["build", "--bins", "--message-format=json-render-diagnostics", "--manifest-path"]);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"));
    command.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Cargo tells a test about its package in these. Build scripts that look at them (ring's) would take them for a change,
    // and everything above would be compiled again in each test run.
    let about_us = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p));
    for (name, _) in std::env::vars().filter(|(name, _)| about_us(name)) {
        command.env_remove(name);
    }
    let output = command.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build: {}", String::from_utf8_lossy(&output.stderr));
    let messages = String::from_utf8(output.stdout)?;
    let artifact = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let program = PathBuf::from(message["executable"].as_str()?);
        Some((message["target"]["name"].as_str()?.to_owned(), program))
    };
    Ok(messages.lines().filter_map(artifact).collect())
}

/// A running server with all its workers. Dropping it ends them.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    output: PathBuf,
}

impl Server {
    /// Starts a program in the foreground and waits until it accepts connections at `address`.
    ///
    /// What it prints goes to the file `output`, and into the error when it ends before it listens. The server ends with
    /// the thread that started it, at the latest.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        address: SocketAddr,
        output: &Path,
    ) -> Result<Self> {
        let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
        // A process group of its own, because lighttpd passes SIGTERM on to its whole group, which would be ours. Then
        // Ctrl-C no longer reaches it, so the kernel is asked to end it when we end, however that comes about.
        let child = Command::new(find_program("setpriv", "util-linux")?)
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self { child, address, output: output.to_owned() };
        server.wait_until_it_accepts().with_context(|| format!("{} does not serve", program.display()))?;
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn wait_until_it_accepts(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}: {}", fs::read_to_string(&self.output)?.trim());
            }
            match TcpStream::connect(self.address) {
                Ok(_) => return Ok(()),
                Err(_) if begin.elapsed() < PATIENCE => pause(),
                Err(error) => bail!("no connection to {} after {PATIENCE:?}: {error}", self.address),
            }
        }
    }

    /// The process that was started and all its descendants.
    fn processes(&self) -> Result<HashSet<u32>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            // A process may end between the two reads; then it has no parent any more and is none of ours.
            if let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat"))
                && let Some(parent) = field(&stat, StatField::Parent)
            {
                parents.push((pid, parent));
            }
        }
        let mut tree = HashSet::from([self.child.id()]);
        loop {
            let before = tree.len();
            for (pid, parent) in &parents {
                if tree.contains(&(*parent as u32)) {
                    tree.insert(*pid);
                }
            }
            if tree.len() == before {
                return Ok(tree);
            }
        }
    }

    /// The processor time that all its processes have used since they started, in user mode and in the kernel.
    ///
    /// The kernel counts in ticks, mostly of 10 ms: measure over seconds.
    pub fn cpu(&self) -> Result<Duration> {
        let mut ticks = 0;
        for pid in self.processes()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            for which in [StatField::UserTicks, StatField::SystemTicks] {
                ticks += field(&stat, which).with_context(|| format!("cannot read /proc/{pid}/stat"))?;
            }
        }
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// The memory of all its processes in octets, a page that several of them share counted once (PSS).
    pub fn memory_octets(&self) -> Result<u64> {
        self.processes()?.into_iter().map(memory_octets).sum()
    }

    /// The memory that it had at most, in octets: the high-water mark of its largest process (RSS), or what all have now
    /// together if that is more.
    pub fn memory_octets_max(&self) -> Result<u64> {
        let marks: Result<Vec<u64>> = self.processes()?.into_iter().map(resident_octets_max).collect();
        Ok(marks?.into_iter().max().unwrap_or(0).max(self.memory_octets()?))
    }

    fn stop(&mut self) -> Result<()> {
        let tree = self.processes()?;
        let begin = Instant::now();
        if self.child.try_wait()?.is_none() {
            signal(self.child.id(), Signal::TERM)?;
            while self.child.try_wait()?.is_none() && begin.elapsed() < PATIENCE {
                pause();
            }
        }
        // Who has outlived the first one, as Postfix's master does, is told too.
        let left = || tree.iter().copied().filter(|pid| is_running(*pid));
        left().for_each(|pid| drop(signal(pid, Signal::TERM)));
        while left().next().is_some() {
            if begin.elapsed() > PATIENCE {
                // The first one first, so that it does not replace the workers that are gone.
                self.child.kill()?;
                left().for_each(|pid| drop(signal(pid, Signal::KILL)));
                self.child.wait()?;
                bail!("it did not end within {PATIENCE:?} after SIGTERM and was killed");
            }
            pause();
        }
        Ok(())
    }
}

/// Whether there is such a process that has not ended; one whose end nobody has looked at yet has.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("stopping the server at {}: {error:#}", self.address);
        }
    }
}

/// Does something in a thread that is bound to one processor, as are the threads and programs that it starts.
pub fn on_one_processor<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let bound = scope.spawn(|| bind_to_one_processor().and_then(|()| work()));
        bound.join().unwrap_or_else(|_| bail!("the thread died"))
    })
}

/// Binds the thread that calls to the first processor that this program may use.
fn bind_to_one_processor() -> Result<()> {
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|processor| all.is_set(*processor)).context("no processor")?;
    let mut one = CpuSet::new();
    one.set(first);
    Ok(sched_setaffinity(None, &one)?)
}

/// The memory of one process in octets, its share of what it has in common with others included (PSS).
pub fn memory_octets(pid: u32) -> Result<u64> {
    octets_in(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// The memory of one process that holds no part of a file, in octets: what it has asked for by itself. How it grows is its own doing, while
/// its share of what others have mapped too changes with them.
pub fn own_memory_octets(pid: u32) -> Result<u64> {
    octets_in(&format!("/proc/{pid}/smaps_rollup"), "Anonymous:")
}

/// The most memory that a process ever had, in octets, what it shares with others counted whole (RSS).
fn resident_octets_max(pid: u32) -> Result<u64> {
    octets_in(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// A line such as `Pss:  1234 kB` of a file in /proc.
fn octets_in(path: &str, key: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let kibibytes = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse::<u64>().ok())
        .with_context(|| format!("no {key} in {path}"))?;
    Ok(kibibytes * 1024)
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("{pid} is no process id"))?;
    Ok(kill_process(pid, signal)?)
}

/// A moment between two looks at a program that is not ours.
#[expect(clippy::disallowed_methods, reason = "a foreign program has no event for `I listen now` or `I have ended`")]
pub fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// The fields of `/proc/PID/stat` that matter here, by their number in proc(5).
#[derive(Clone, Copy)]
enum StatField {
    Parent = 4,
    UserTicks = 14,
    SystemTicks = 15,
}

/// Reads one number of a `stat` line. The second field is the program's name in parentheses and may contain blanks and
/// parentheses itself, so counting starts after the last closing one.
fn field(stat: &str, which: StatField) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_ascii_whitespace().nth(which as usize - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_is_counted_after_the_name() {
        let line = "42 (a (odd) name) S 7 42 42 0 -1 4194560 1 2 3 4 1234 567 0 0 20 0 1 0 99 1 1";
        assert_eq!(field(line, StatField::Parent), Some(7));
        assert_eq!(field(line, StatField::UserTicks), Some(1234));
        assert_eq!(field(line, StatField::SystemTicks), Some(567));
        assert_eq!(field("42 (cut", StatField::Parent), None);
    }

    #[test]
    fn who_outlives_the_first_process_is_ended_too() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shell = find_program("sh", "dash").unwrap();
        let script = ["-c", "setsid sleep 1000 & wait"];
        let server = Server::start(&shell, script, listener.local_addr().unwrap(), &folder.path().join("out")).unwrap();
        while server.processes().unwrap().len() < 2 {
            pause();
        }
        let tree = server.processes().unwrap();
        drop(server);
        assert!(!tree.into_iter().any(is_running));
    }

    #[test]
    fn absent_program_names_its_package() {
        let error = find_program("no-such-program", "some-package").unwrap_err().to_string();
        assert_eq!(error, "no-such-program is not installed: apt-get install some-package");
    }

    #[test]
    fn program_that_ends_at_once_is_reported_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let shell = find_program("sh", "dash").unwrap();
        let script = ["-c", "echo 'port is taken' >&2; exit 3"];
        let error = Server::start(&shell, script, free_address().unwrap(), &folder.path().join("out")).unwrap_err();
        let told = format!("{error:#}");
        assert!(told.contains("exit status: 3") && told.contains("port is taken"), "{told}");
    }
}
