//! Accounts as whoever looks after them sees them: `tomte user`, with the lab and with daemons of their own.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use tests::http::get;
use tests::lab::Lab;
use tests::program::{Ended, Running, Signal, command, run};

/// `tomte user ACTION`, with what is typed at its standard input, which is no terminal.
fn user(place: &[&str], arguments: &[&str], typed: &str) -> Ended {
    let mut user = command("tomte").unwrap();
    user.arg("user").args(arguments).args(place).stdin(Stdio::piped());
    let mut running = Running::start(&mut user).unwrap();
    // Who refuses before it reads may be gone already; what it says is looked at anyway.
    let _ = running.type_line(typed);
    running.end().unwrap()
}

/// Whether the protected page of the lab's school lets somebody in. `basic` is the base64 of user:password.
fn status(address: SocketAddr, basic: &str) -> String {
    let field = format!("Authorization: Basic {basic}\r\n");
    get(address, "/private/", "www.someschool.edu", &field).unwrap().status().to_owned()
}

const CAROL_SOUP: &str = "Y2Fyb2w6c291cA==";
const CAROL_STEW: &str = "Y2Fyb2w6c3Rldw==";

#[test]
fn whoever_is_added_can_log_in_at_once_and_whoever_is_removed_no_longer() {
    let lab = Lab::up().unwrap();
    let web = lab.address("www.someschool.edu", 8080);
    let place = ["--state", lab.state().to_str().unwrap()];
    let file = lab.state().join("accounts.toml");
    let shipped = fs::read_to_string(&file).unwrap();
    assert_eq!(status(web, CAROL_SOUP), "401");

    let said = user(&place, &["add", "carol"], "soup").with_code(0).unwrap();
    for words in ["carol can log in: ", "What runs knows it already", "`users` of a mail server"] {
        assert!(said.out.contains(words), "{said:?}");
    }
    assert_eq!(status(web, CAROL_SOUP), "200");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with(&shipped) && text.contains("$argon2id$v=19$m=19456,t=2,p=1$"), "{text}");

    user(&place, &["passwd", "carol", "--clear"], "stew").with_code(0).unwrap();
    assert_eq!((status(web, CAROL_STEW).as_str(), status(web, CAROL_SOUP).as_str()), ("200", "401"));
    let said = user(&place, &["list"], "").with_code(0).unwrap().out;
    let line = |name: &str| said.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("carol").contains("password, SCRAM, APOP (clear)") && line("carol").ends_with('-'), "{said}");
    let mailbox = lab.state().join("mail/hamburger.edu/bob");
    let wanted = format!("bob@hamburger.edu (also postmaster) in {}", mailbox.display());
    assert!(line("bob").ends_with(&wanted), "{said}");
    // Another mailbox has another line, below the first.
    let other = said.lines().find(|line| line.trim_start().starts_with("bob@someschool.edu")).unwrap();
    assert_eq!(other.find("bob@"), line("bob").find("bob@"), "{said}");
    assert!(!said.contains("stew") && !said.contains("argon2"), "{said}");

    user(&place, &["remove", "carol"], "").with_code(0).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), shipped);
}

#[test]
fn what_cannot_be_is_said_with_the_cure_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (config, file) = (folder.path().join("tomte.toml"), folder.path().join("accounts.toml"));
    fs::write(&config, format!("[accounts]\nfile = \"{}\"\n", file.display())).unwrap();
    let place = ["-c", config.to_str().unwrap()];
    let said = user(&place, &["add", "bob"], "hungry").with_code(0).unwrap().out;
    assert!(said.contains("no daemon answers here; tell those that run: systemctl reload"), "{said}");
    let text = fs::read_to_string(&file).unwrap();
    for (arguments, typed, words) in [
        (&["add", "bob"][..], "x", "bob is there already; `tomte user passwd bob`"),
        (&["add", "Bob"], "x", "`Bob` cannot be the name of an account: it is written in small letters"),
        (&["add", "../x"], "x", "letters and digits"),
        (&["add", "eve"], "", "a password cannot be empty"),
        (&["passwd", "eve"], "x", "there is no account `eve`; there are bob"),
        (&["remove", "eve"], "x", "there are bob"),
    ] {
        let said = user(&place, arguments, typed).with_code(1).unwrap().err;
        assert!(said.contains(words), "{said}");
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    // An account is a table like this, and no argument has its password.
    let help = run(command("tomte").unwrap().args(["user", "add", "--help"])).unwrap().with_code(0).unwrap().out;
    assert!(!help.contains("<PASSWORD>"), "{help}");
    fs::write(&config, "").unwrap();
    let said = user(&place, &["list"], "").with_code(1).unwrap().err;
    assert!(said.contains("names no accounts: write\n[accounts]"), "{said}");
}

#[test]
fn a_daemon_of_its_own_knows_it_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir_all(path("www/private")).unwrap();
    fs::write(path("www/private/index.html"), "in").unwrap();
    let text = format!(
        "[accounts]\nfile = \"{0}/accounts.toml\"\n[admin]\nsocket = \"{0}/admin.sock\"\n[web]\nlisten = [\"127.0.0.1:0\"]\n\
         docroot = \"{0}/www\"\naccess_log = \"none\"\nprotect = [{{ path = \"/private/\", realm = \"x\" }}]\n",
        folder.path().display()
    );
    fs::write(path("tomte.toml"), text).unwrap();
    let config = path("tomte.toml");
    let place = ["-c", config.to_str().unwrap()];
    user(&place, &["add", "bob"], "hungry").with_code(0).unwrap();
    let mut running = Running::start(command("tomte-web").unwrap().arg("-c").arg(&config)).unwrap();
    let line = running.wait_for("serving http ").unwrap();
    let address = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    assert_eq!(status(address, CAROL_SOUP), "401");
    let said = user(&place, &["add", "carol"], "soup").with_code(0).unwrap().out;
    assert!(said.contains("What runs knows it already"), "{said}");
    assert_eq!(status(address, CAROL_SOUP), "200");
    running.signal(Signal::TERM).unwrap();
    running.end().unwrap().with_code(0).unwrap();
}

/// A terminal with `tomte user add carol` at its other end.
struct Terminal {
    keys: File,
    shown: String,
    child: Child,
}

impl Terminal {
    fn open(state: &Path) -> Self {
        let keys = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&keys).unwrap();
        unlockpt(&keys).unwrap();
        let name = PathBuf::from(ptsname(&keys, vec![]).unwrap().into_string().unwrap());
        let screen = OpenOptions::new().read(true).write(true).open(name).unwrap();
        let mut user: Command = command("tomte").unwrap();
        user.args(["user", "add", "carol", "--state"]).arg(state);
        let child = user.stdin(screen.try_clone().unwrap()).stderr(screen).stdout(Stdio::piped()).spawn().unwrap();
        Self { keys: keys.into(), shown: String::new(), child }
    }

    /// Waits for the question, then types.
    fn answer(&mut self, question: &str, keys: &[u8]) {
        while !self.shown.ends_with(question) {
            self.look();
        }
        self.keys.write_all(keys).unwrap();
    }

    /// Takes what has been shown meanwhile; nothing, if the program is gone.
    fn look(&mut self) -> usize {
        let mut room = [0; 256];
        let octets = self.keys.read(&mut room).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&room[..octets]));
        octets
    }

    fn end(mut self) -> (bool, String) {
        while self.look() > 0 {
            // Until the program has let go of the terminal.
        }
        (self.child.wait().unwrap().success(), self.shown)
    }
}

#[test]
fn at_a_terminal_the_password_is_asked_for_twice_and_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("accounts.toml");
    fs::write(&file, "# mine\n").unwrap();
    let mut terminal = Terminal::open(folder.path());
    // With a slip of the finger, mended.
    terminal.answer("Password for carol: ", b"soub\x7fp\r");
    terminal.answer("The same again: ", b"soup\n");
    let (went_well, shown) = terminal.end();
    assert!(went_well && !shown.contains("sou"), "{shown}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("# mine\n\n[carol]\n"), "{text}");

    fs::write(&file, "").unwrap();
    let mut terminal = Terminal::open(folder.path());
    terminal.answer("Password for carol: ", b"soup\n");
    terminal.answer("The same again: ", b"stew\n");
    let (went_well, shown) = terminal.end();
    assert!(!went_well && shown.contains("not the same; nothing has changed"), "{shown}");
    // Ctrl-C
    let mut terminal = Terminal::open(folder.path());
    terminal.answer("Password for carol: ", b"so\x03");
    let (went_well, shown) = terminal.end();
    assert!(!went_well && shown.contains("nothing has changed"), "{shown}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}
