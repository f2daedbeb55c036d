//! A network of one's own: a namespace in which there is nothing but loopback, so that every address of 127.0.0.0/8 and every
//! port below 1024 is free. Name servers of others ask port 53 and no other. Files can be put over those of the machine, such as
//! `/etc/resolv.conf`, and nobody else sees them ([`cover`]).
//!
//! A process cannot move there once it has threads, so the program runs itself a second time under unshare(1).

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

/// Runs a test alone: `Ok(true)` where it is to be done, `Ok(false)` in the process around it once it has passed there.
///
/// `name` is the function's own; the tests of a file lie side by side.
pub fn test(name: &str) -> Result<bool> {
    if is_alone() {
        return Ok(true);
    }
    let ended =
        again([name, "--exact", "--include-ignored", "--nocapture"])?.output().context("cannot start unshare")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    ensure!(ended.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    Ok(false)
}
