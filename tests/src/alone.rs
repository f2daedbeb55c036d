//! A network of one's own: a namespace in which there is nothing but loopback, so that every address of 127.0.0.0/8 and every
//! port below 1024 is free. Name servers of others ask port 53 and no other. Files can be put over those of the machine, such as
//! `/etc/resolv.conf`, and nobody else sees them ([`cover`]).
//!
//! A process cannot move there once it has threads, so the program runs itself a second time under unshare(1).

use std::any::type_name;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::{Context, Result, ensure};

use crate::process::find_program;

/// Set in the process that is alone already.
const MARK: &str = "TOMTE_TESTS_ALONE";

/// Whether this process has its network for itself.
pub fn is_alone() -> bool {
    std::env::var_os(MARK).is_some()
}

/// This program once more, with these arguments, alone; it ends when we do.
fn again<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<Command> {
    find_program("ip", "iproute2")?;
    let up = "PATH=$PATH:/sbin:/usr/sbin; ip link set lo up && exec \"$@\"";
    let mut unshare = Command::new(find_program("unshare", "util-linux")?);
    unshare.args(["--user", "--map-root-user", "--net", "--mount", "--kill-child", "sh", "-c", up, "sh"]);
    unshare.arg(std::env::current_exe()?).args(arguments).env(MARK, "1");
    Ok(unshare)
}

/// Puts a file of ours over one of the machine's, for this process and those that it starts. What is written into ours later is seen
/// there too.
pub fn cover(file: &str, ours: &Path) -> Result<()> {
    ensure!(is_alone(), "{file} is everybody's");
    let status = Command::new(find_program("mount", "mount")?).arg("--bind").arg(ours).arg(file).status()?;
    ensure!(status.success(), "cannot put {} over {file}", ours.display());
    Ok(())
}

/// Runs a program's `main` alone, with the arguments that it has.
pub fn main_again() -> Result<ExitStatus> {
    again(std::env::args_os().skip(1))?.status().context("cannot start unshare")
}

/// Runs a test alone: what `body`, a closure in its function, does is done in a process that has its network for itself. Fails here
/// if the test fails there.
pub fn test<F: FnOnce()>(body: F) -> Result<()> {
    if is_alone() {
        body();
        return Ok(());
    }
    // `mail_lab::five_messages_take_one_connection::{{closure}}`, of which the harness knows the middle.
    let path = type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = path.split_once("::").context("a test has a name")?;
    let ended =
        again([name, "--exact", "--include-ignored", "--nocapture"])?.output().context("cannot start unshare")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    ensure!(ended.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    // With the figures that the test printed.
    print!("{said}");
    Ok(())
}
