//! A password that is typed and shown nowhere: not on the screen, and in no list of processes, as an argument would be.

use anyhow::{Context, bail};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use std::io::{BufRead, IsTerminal, Read, StdinLock, Write, stdin};

/// More is a file by mistake.
const OCTETS_MAX: usize = 1024;

/// The password that whoever sits at the terminal types twice, or else the first line of standard input.
pub(crate) fn password(name: &str) -> anyhow::Result<String> {
    let mut input = stdin().lock();
    let password = if input.is_terminal() {
        let first = typed(&mut input, &format!("Password for {name}: "))?;
        if typed(&mut input, "The same again: ")? != first {
            bail!("the two are not the same; nothing has changed");
        }
        first
    } else {
        let mut line = vec![];
        input.take(OCTETS_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        line.strip_suffix(b"\r").unwrap_or(line).to_vec()
    };
    if password.is_empty() {
        bail!("a password cannot be empty; nothing has changed");
    }
    if password.len() > OCTETS_MAX {
        bail!("a password has at most {OCTETS_MAX} octets; nothing has changed");
    }
    String::from_utf8(password).context("a password is text (UTF-8); nothing has changed")
}

/// What the keys mean while nobody sees them. Ctrl-C is one of them: it would leave the terminal without echo.
const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const CTRL_U: u8 = 0x15;
const BACKSPACE: [u8; 2] = [0x08, 0x7f];

fn typed(input: &mut StdinLock<'_>, prompt: &str) -> anyhow::Result<Vec<u8>> {
    let _quiet = Quiet::new()?;
    // Only now: who sees it can type.
    eprint!("{prompt}");
    let mut typed = vec![];
    loop {
        let mut octet = [0];
        let came = input.read(&mut octet)?;
        match octet[0] {
            _ if came == 0 => break,
            b'\n' | b'\r' => break,
            CTRL_C | CTRL_D => {
                eprintln!();
                bail!("nothing has changed");
            }
            CTRL_U => typed.clear(),
            octet if BACKSPACE.contains(&octet) => {
                // The last character, which may have several octets.
                while typed.pop().is_some_and(|octet| octet & 0xc0 == 0x80) {}
            }
            octet if typed.len() <= OCTETS_MAX => typed.push(octet),
            _ => {}
        }
    }
    eprintln!();
    Ok(typed)
}

/// As long as it lives the terminal shows nothing of what is typed.
struct Quiet(Termios);

impl Quiet {
    fn new() -> anyhow::Result<Self> {
        let before = tcgetattr(stdin()).context("the terminal cannot be asked")?;
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG;
        // What was typed before the question was shown, and is not meant for it.
        tcsetattr(stdin(), OptionalActions::Flush, &quiet).context("the terminal shows what is typed")?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = std::io::stderr().flush();
        if let Err(error) = tcsetattr(stdin(), OptionalActions::Now, &self.0) {
            eprintln!("the terminal does not show what is typed ({error}); type: stty sane");
        }
    }
}
