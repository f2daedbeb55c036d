//! LESSONS.md is true: what it says to type is typed, in a lab of its own, and what it says will come does come.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use tests::alone;
use tests::process::{PATIENCE, built_program, find_program};
use tests::program::{Running, command, command_at};

const LESSONS: &str = include_str!("../../LESSONS.md");

/// What is typed, and what must come. Commands that are none of ours nor of the shell's are in the packages that the page names.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    lesson: String,
    typed: String,
    wanted: Vec<String>,
}

/// The steps of all `console` blocks. A command goes on in the next line behind a `<< END`, up to that word.
fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut lesson, mut inside, mut here) = (Vec::<Step>::new(), "", false, false);
    for line in page.lines() {
        match (line, steps.last_mut()) {
            _ if line.starts_with("### ") => lesson = &line[4..],
            ("```console", _) => inside = true,
            ("```", _) => inside = false,
            _ if !inside => {}
            (_, Some(step)) if here => {
                step.typed.extend(["\n", line]);
                here = line != "END";
            }
            (_, step) => match (line.strip_prefix("$ "), step) {
                (Some(typed), _) => {
                    here = typed.ends_with("<< END");
                    steps.push(Step { lesson: lesson.to_owned(), typed: typed.to_owned(), wanted: vec![] });
                }
                (None, Some(step)) => step.wanted.push(line.to_owned()),
                (None, None) => panic!("{line:?} answers nothing"),
            },
        }
    }
    steps
}

/// Whether `said` is `wanted`, in which `[..]` stands for anything.
fn fits(wanted: &str, said: &str) -> bool {
    let (wanted, said) = (wanted.trim_end(), said.trim_end());
    match wanted.split_once("[..]") {
        None => said == wanted,
        Some((before, after)) => said.strip_prefix(before).is_some_and(|rest| {
            // Wherever it may go on.
            (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
        }),
    }
}

/// What is still to come.
struct Wanted(VecDeque<String>);

impl Wanted {
    /// Takes a line that has come.
    fn take(&mut self, said: &str) -> Result<()> {
        let skips = self.0.front().is_some_and(|line| line == "...");
        match self.0.get(usize::from(skips)) {
            Some(wanted) if fits(wanted, said) => drop(self.0.drain(..=usize::from(skips))),
            _ if skips => {}
            Some(wanted) => bail!("{wanted:?} should come, and not {said:?}"),
            None => bail!("nothing more should come, and not {said:?}"),
        }
        Ok(())
    }

    fn is_all_there(&self) -> bool {
        self.0.iter().all(|line| line == "...")
    }
}

/// What telnet says when the server has closed.
const CLOSED: &str = "Connection closed by foreign host.";

/// A dialogue: `C:` lines are said, `S:` lines must come, and the end of the connection where telnet tells it.
fn talk(address: SocketAddr, lines: &[String]) -> Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(address)?);
    stream.get_ref().set_read_timeout(Some(PATIENCE))?;
    let mut skips = false;
    for line in lines {
        let of = |who: &str| line.strip_prefix(who).map(|text| text.strip_prefix(' ').unwrap_or_default());
        match (of("C:"), of("S:")) {
            (Some(typed), _) => write!(stream.get_mut(), "{typed}\r\n")?,
            (_, Some(wanted)) => loop {
                let mut said = String::new();
                stream.read_line(&mut said)?;
                if fits(wanted, &said) {
                    skips = false;
                    break;
                }
                ensure!(skips && !said.is_empty(), "{wanted:?} should come, and not {said:?}");
            },
            _ if line == CLOSED => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest)?;
                ensure!(skips || rest.is_empty(), "the server should close, and not say {rest:?}");
            }
            _ if line == "..." => skips = true,
            _ => bail!("who says {line:?}?"),
        }
    }
    Ok(())
}

/// A command in a shell. One that follows what happens is ended when it has told what is wanted.
fn run(step: &Step, variables: &str, mut shell: Command) -> Result<()> {
    let mut wanted = Wanted(step.wanted.iter().cloned().collect());
    let follows = step.typed.starts_with("tomte events") && !step.typed.contains("--past");
    let exec = if follows { "exec " } else { "" };
    shell.args(["-c", &format!("{variables}{exec}{}\n", step.typed)]).stdin(Stdio::null());
    let mut running = Running::start(&mut shell)?;
    while !(follows && wanted.is_all_there()) {
        let next = running.next_line();
        let said = || format!("while {:?} should come; it has said\n{}", wanted.0, last_lines(&running.said().out));
        let Some(line) = next.with_context(said)? else { break };
        wanted.take(&line)?;
    }
    ensure!(wanted.is_all_there(), "it ended before {:?} came", wanted.0);
    Ok(())
}

/// What was said just before.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Does a step, in a shell that knows the variables which were set before.
fn take(step: &Step, variables: &mut String, home: &Path, programs: &Path) -> Result<()> {
    if let Some(whom) = step.typed.strip_prefix("telnet ") {
        return talk(whom.replace(' ', ":").parse()?, &step.wanted);
    }
    let is_name = |name: &str| name.bytes().all(|octet| octet.is_ascii_uppercase());
    if step.typed.split_once('=').is_some_and(|(name, _)| is_name(name)) {
        variables.extend([&step.typed, "\n"]);
        return Ok(());
    }
    let mut shell = command_at(&find_program("bash", "bash")?);
    let path = format!("{}:{}", programs.display(), std::env::var("PATH")?);
    shell.env("HOME", home).env_remove("XDG_STATE_HOME").env("PATH", path);
    run(step, variables, shell)
}

#[test]
#[ignore = "needs unshare, ip, curl, dig, nslookup, nsupdate, nc: tests/run clients"]
fn every_lesson_goes_as_it_is_written() {
    alone::test(|| {
        let (home, tomte) = (tempfile::tempdir().unwrap(), built_program("tomte").unwrap());
        let mut up = command("tomte").unwrap();
        let typed = LESSONS.lines().find_map(|line| line.strip_prefix("tomte ")).unwrap();
        up.args(typed.split('#').next().unwrap().split_whitespace());
        up.env("HOME", home.path()).env_remove("XDG_STATE_HOME");
        let mut lab = Running::start(&mut up).unwrap();
        lab.wait_for("Ctrl-C").unwrap();
        let mut variables = String::new();
        let wrong: Vec<String> = steps(LESSONS)
            .iter()
            .filter_map(|step| {
                let told = take(step, &mut variables, home.path(), tomte.parent().unwrap());
                told.err().map(|error| format!("{}\n  $ {}\n  {error:#}\n", step.lesson, step.typed))
            })
            .collect();
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    })
    .unwrap();
}

#[test]
fn the_page_is_read_as_a_reader_does() {
    let page = "### C1 One\n```sh\nnot this\n```\n```console\n$ a << END\nb\nEND\nc [..] d\n...\n$ e\n```\n";
    let step = |typed: &str, wanted: &[&str]| Step {
        lesson: "C1 One".to_owned(),
        typed: typed.to_owned(),
        wanted: wanted.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(steps(page), [step("a << END\nb\nEND", &["c [..] d", "..."]), step("e", &[])]);
    for (wanted, said, fit) in [
        ("abc", "abc  \r\n", true),
        ("abc", "abcd", false),
        ("a[..]c", "a b c", true),
        ("a[..]c[..]", "a b d", false),
        ("[..]b[..]", "abc", true),
        ("a[..]a", "a", false),
    ] {
        assert_eq!(fits(wanted, said), fit, "{wanted:?} {said:?}");
    }
    for (dialogue, goes) in [
        (&["C: HI", "S: 220 a", "S: 221 b", CLOSED][..], true),
        (&["C: HI", "...", "S: 221 [..]"], true),
        (&["C: HI", "...", CLOSED], true),
        (&["...", "C: HI", "S: 221 b"], true),
        (&["C: HI", "S: 221 b"], false),
        (&["C: HI", "S: 220 a", CLOSED], false),
        (&["C: HI", "...", "S: 222 c"], false),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let mut client = BufReader::new(listener.accept().unwrap().0);
            client.read_line(&mut String::new()).unwrap();
            client.get_mut().write_all(b"220 a\r\n221 b\r\n").unwrap();
        });
        let lines: Vec<String> = dialogue.iter().map(|line| (*line).to_owned()).collect();
        assert_eq!(talk(address, &lines).is_ok(), goes, "{dialogue:?}");
        server.join().unwrap();
    }
    let mut wanted = Wanted(["a", "...", "b", "..."].map(str::to_owned).into());
    assert!(wanted.take("x").is_err());
    for line in ["a", "c", "b", "d"] {
        wanted.take(line).unwrap();
    }
    assert!(wanted.is_all_there());
}
