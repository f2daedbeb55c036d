//! Programs of others that ask our servers: run to their end, or typed into.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::process::find_program;
use crate::program::{Ended, Running, command_at, run};

/// How many seconds a program may take: a server that does not hang up must fail the test, not stop it for ever.
const SECONDS_MAX: &str = "20";
/// How timeout(1) ends when the time was not enough.
const TOO_LONG: Option<i32> = Some(124);

/// A program of this Debian package.
fn client(program: &str, package: &str) -> Result<Command> {
    let mut command = command_at(&find_program("timeout", "coreutils")?);
    command.arg(SECONDS_MAX).arg(find_program(program, package)?);
    Ok(command)
}

/// Runs a program to its end. `files` lie in a folder where it runs, which is its home too.
pub fn run_client(program: &str, package: &str, arguments: &[&str], files: &[(&str, &str)]) -> Result<Ended> {
    let folder = tempfile::tempdir()?;
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::write(&path, text)?;
        // Who keeps a password in a file that others can read is told off.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    }
    let mut command = client(program, package)?;
    let ended =
        run(command.args(arguments).current_dir(folder.path()).env("HOME", folder.path()).stdin(Stdio::null()))?;
    ensure!(ended.code != TOO_LONG, "{program} was not done within {SECONDS_MAX} s: {ended:?}");
    Ok(ended)
}

/// The same for a script of the shell, which runs a program and looks at what it leaves.
pub fn run_script(program: &str, package: &str, script: &str, files: &[(&str, &str)]) -> Result<Ended> {
    find_program(program, package)?;
    run_client("sh", "dash", &["-c", script], files)
}

/// A program that is connected to `address`, to be typed into line by line.
pub fn connect(program: &str, package: &str, address: SocketAddr) -> Result<Running> {
    Running::start(connected(program, package, address)?.stdin(Stdio::piped()))
}

/// Types all of `text` into a program that is connected to `address`, and reads what it shows until the server hangs up.
pub fn type_into(program: &str, package: &str, address: SocketAddr, text: &str) -> Result<String> {
    let mut command = connected(program, package, address)?;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut keyboard = child.stdin.take().context("its standard input is piped")?;
    keyboard.write_all(text.as_bytes())?;
    // nc leaves when both directions have ended, telnet as soon as its input does: it must see the answer first.
    let keyboard = (program == "telnet").then_some(keyboard);
    let mut shown = String::new();
    child.stdout.take().context("its standard output is piped")?.read_to_string(&mut shown)?;
    drop(keyboard);
    let ended = child.wait()?;
    ensure!(ended.code() != TOO_LONG, "the server does not hang up on {program} within {SECONDS_MAX} s: {shown}");
    Ok(shown)
}

fn connected(program: &str, package: &str, address: SocketAddr) -> Result<Command> {
    let mut command = client(program, package)?;
    command.args([address.ip().to_string(), address.port().to_string()]);
    Ok(command)
}
