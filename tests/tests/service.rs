//! A daemon as an admin and a service manager see it: flags, configuration and its mistakes, signals, handed-over sockets,
//! notifications.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::http::{Content, Talk, get};
use tests::mail;
use tests::process::{PATIENCE, built_program};
use tests::program::{Ended, Running, Signal, command, command_at, run};

/// A configuration of one web server: `docroot` with one page, an address that the kernel chooses.
struct Site {
    folder: TempDir,
}

impl Site {
    fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        site.page("www", "hello");
        site.configure("");
        site
    }

    fn page(&self, directory: &str, text: &str) {
        let directory = self.path(directory);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("index.html"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("tomte.toml")
    }

    /// Writes the file: a `[web]` that works, then `more`.
    fn configure(&self, more: &str) {
        let docroot = self.path("www");
        let web = format!("listen = [\"127.0.0.1:0\"]\ndocroot = \"{}\"\naccess_log = \"none\"", docroot.display());
        fs::write(self.file(), format!("[web]\n{web}\n{more}")).unwrap();
    }

    fn command(&self) -> Command {
        let mut web = command("tomte-web").unwrap();
        web.arg("-c").arg(self.file());
        web
    }

    /// What it says about a configuration that it does not take.
    fn refused(&self, text: &str) -> String {
        fs::write(self.file(), text).unwrap();
        let said = run(&mut self.command()).unwrap().with_code(78).unwrap();
        // A check finds it too, and says the same.
        let checked = run(self.command().arg("--check-config")).unwrap().with_code(78).unwrap();
        assert_eq!(checked.err, said.err);
        said.err
    }
}

/// Starts a web server and waits until it serves.
fn serving(command: &mut Command) -> (Running, SocketAddr) {
    let mut running = Running::start(command).unwrap();
    let line = running.wait_for("serving http ").unwrap();
    let address = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
    (running, address)
}

fn home(address: SocketAddr, host: &str) -> String {
    get(address, "/", host, "").unwrap().text()
}

fn stopped(running: Running) -> Ended {
    running.signal(Signal::TERM).unwrap();
    running.end().unwrap().with_code(0).unwrap()
}

#[test]
fn help_begins_with_examples_and_the_version_is_told() {
    for name in ["tomte-dns", "tomte-pop3", "tomte-smtp", "tomte-web", "tomte-wordlength"] {
        let help = run(command(name).unwrap().arg("--help")).unwrap().with_code(0).unwrap().out;
        assert!(help.starts_with(&format!("Examples:\n  {name}")), "{help}");
        for flag in ["--config <FILE>", "--set <TABLE.KEY=VALUE>", "--check-config", "--print-config"] {
            assert!(help.contains(flag), "{flag} in {help}");
        }
        let version = run(command(name).unwrap().arg("--version")).unwrap().with_code(0).unwrap().out;
        assert_eq!(version, format!("{name} {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_wrong_configuration_ends_with_78_and_says_what_would_be_right() {
    let site = Site::new();
    let file = site.file().display().to_string();
    for (text, expected) in [
        ("[web]\ndocrot = \"/srv/www\"\n", &[":2:1: unknown key `docrot`; did you mean `docroot`?", "^^^^^^"][..]),
        (
            "[web]\nlisten = 80\n",
            &[":2:10: ", "(key web.listen)", "expected a sequence", "listen = [\"127.0.0.1:80\"]"],
        ),
        ("[web]\nlisten = [\"80\"]\n", &[":2:11: ", "socket address", "like \"127.0.0.1:8080\""]),
        ("[web]\nkeep_alive_timeout = \"5 parsecs\"\n", &[":2:22: ", "`5 parsecs` is not a time", "\"30 s\""]),
        ("[web]\nhead_octets_max = 16384\n", &[":2:19: ", "with its unit in quotes, like \"10 MiB\""]),
        ("[web]\nredirect = [{ from = \"/a\", to = \"/b\", status = 200 }]\n", &[":2:", "200 is no redirect"]),
        ("[wbe]\n", &[":1:2: unknown key `wbe`; did you mean `web`?"]),
        ("[web\n", &[":1:"]),
        ("[web]\nlisten = []\n", &["web.listen: no address at all"]),
        ("[log]\nfilter = \"=\"\n", &["log.filter"]),
        ("[web]\nlisten_tls = [\"127.0.0.1:0\"]\n", &["web.listen_tls: https needs a certificate"]),
    ] {
        let said = site.refused(text);
        for words in expected {
            assert!(said.contains(words), "no `{words}` in: {said}");
        }
        assert!(!expected[0].starts_with(':') || said.contains(&format!("{file}{}", expected[0])), "{said}");
    }
    // All at once, each with its place.
    let said = site
        .refused("[web]\ndocrot = 1\nworkers = \"a\"\n[tls]\nkey = \"/no/key\"\n[accounts]\nfile = \"/no/accounts\"\n");
    for place in [":2:1: unknown key", ":3:11: invalid type", ":7:8: accounts.file: /no/accounts: cannot read"] {
        assert!(said.lines().any(|line| line.contains(&format!("{file}{place}"))), "{said}");
    }
    let said = site.refused("[web]\nlisten = [\"127.0.0.1:0\"]\ndocroot = \"/no\"\n[[web.site]]\nname = \"x\"\ndocroot = \"/such\"\n[tls]\ncertificate = \"/no/key\"\nkey = \"/no/key\"\n");
    for place in [
        ":3:11: web.docroot: `/no`: No such",
        ":6:11: web.site[0].docroot: site `x`: `/such`",
        ":8:15: tls.certificate: /no/key: cannot read it",
    ] {
        assert!(said.lines().any(|line| line.contains(&format!("{file}{place}"))), "{said}");
    }
    let missing = site.path("nowhere");
    let said = site.refused(&format!("[web]\nlisten = [\"127.0.0.1:0\"]\ndocroot = \"{}\"\n", missing.display()));
    assert!(said.contains("web.docroot") && said.contains("nowhere") && said.contains("mkdir -p"), "{said}");
    let absent = run(command("tomte-web").unwrap().arg("-c").arg(&missing)).unwrap().with_code(78).unwrap().err;
    assert!(absent.contains("nowhere") && absent.matches("-c FILE").count() == 1, "{absent}");
    assert_eq!(absent.matches("No such file").count(), 1, "{absent}");
}

#[test]
fn a_port_in_use_is_code_1_and_names_its_holder() {
    let site = Site::new();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("web.listen=[\"{}\"]", held.local_addr().unwrap());
    let said = run(site.command().arg("--set").arg(listen)).unwrap().with_code(1).unwrap().err;
    assert!(said.contains(&format!("(pid {})", std::process::id())) && said.contains("another port"), "{said}");
}

#[test]
fn every_value_is_printed_with_its_origin_and_the_later_layer_wins() {
    let site = Site::new();
    site.configure("keep_alive_max = 7\nfields_max = 7\ncharset = \"latin\"\n");
    fs::create_dir(site.path("conf.d")).unwrap();
    fs::write(site.path("conf.d/10-mine.toml"), "[web]\nfields_max = 8\ncharset = \"ascii\"\n").unwrap();
    let mut print = site.command();
    print.args(["--print-config", "--set", "web.workers=3"]).env("TOMTE__WEB__CHARSET", "koi8-r");
    let said = run(&mut print).unwrap().with_code(0).unwrap().out;
    for (key, origin) in [
        ("keep_alive_max = 7 ", "tomte.toml:5"),
        ("fields_max = 8 ", "conf.d/10-mine.toml:2"),
        ("charset = \"koi8-r\" ", "environment variable TOMTE__WEB__CHARSET"),
        ("workers = 3 ", "--set web.workers=3"),
        ("keep_alive_timeout = \"5 s\" ", "default"),
        ("filter = \"info\" ", "default"),
    ] {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {said}"));
        assert!(line.contains("# ") && line.ends_with(origin), "{line}");
    }
    let checked = run(site.command().arg("--check-config")).unwrap().with_code(0).unwrap().out;
    assert!(checked.starts_with("ok: ") && checked.contains("10-mine.toml"), "{checked}");
}

#[test]
fn a_hangup_takes_the_new_configuration_and_keeps_the_old_one_when_it_is_wrong() {
    let site = Site::new();
    let (mut running, address) = serving(&mut site.command());
    assert_eq!(home(address, "new.example"), "hello");
    site.page("new", "a new site");
    let new = format!("[[web.site]]\nname = \"new.example\"\ndocroot = \"{}\"\n", site.path("new").display());
    site.configure(&new);
    running.signal(Signal::HUP).unwrap();
    running.wait_for("configuration reloaded").unwrap();
    assert_eq!((home(address, "new.example").as_str(), home(address, "else").as_str()), ("a new site", "hello"));

    for wrong in ["docrot = 1\n", "[[web.site]]\nname = \"x\"\ndocroot = \"/no/such/place\"\n"] {
        site.configure(wrong);
        running.signal(Signal::HUP).unwrap();
        let line = running.wait_for("the old one stays").unwrap();
        assert!(line.contains("ERROR"), "{line}");
        assert_eq!(home(address, "new.example"), "a new site");
    }
    stopped(running);
}

#[test]
fn a_hangup_brings_a_mail_server_new_aliases_and_ends_no_session() {
    let site = mail::Site::new("hamburger.edu", "bob").unwrap();
    let mut running = site.start().unwrap();
    let mut before = mail::Client::greeted(site.address()).unwrap();
    let file = site.configuration().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    for (team, told) in [
        ("team = [\"bob\"]", "configuration reloaded"),
        ("team = [\"@\"]", "smtp.aliases: team = `@`"),
        ("team =", "the old one stays"),
    ] {
        fs::write(&file, text.replace("aliases = {", &format!("aliases = {{ {team},"))).unwrap();
        running.signal(Signal::HUP).unwrap();
        running.wait_for(told).unwrap();
        mail::send(site.address(), "alice@crepes.fr", &["team@hamburger.edu"], "Subject: x").unwrap();
    }
    assert_eq!(site.mail("bob").len(), 3);
    assert!(before.say("NOOP").unwrap().starts_with("250 "));
    stopped(running);
}

#[test]
fn a_download_that_runs_is_finished_before_the_stop() {
    const OCTETS: usize = 24 << 20;
    let site = Site::new();
    // Larger than what the kernel buffers on the way, so that most of it is still to come.
    File::create(site.path("www/large")).unwrap().set_len(OCTETS as u64).unwrap();
    let (mut running, address) = serving(&mut site.command());
    let mut talk = Talk::open(address).unwrap();
    let mut idle = Talk::open(address).unwrap();
    assert_eq!(idle.get("/", "a", "").unwrap().text(), "hello");
    talk.say("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(talk.head().unwrap().field("Content-Length"), Some(OCTETS.to_string().as_str()));
    running.signal(Signal::TERM).unwrap();
    running.wait_for("stopping").unwrap();
    // Who waits for nothing is let go at once.
    assert_eq!(idle.until_the_end().unwrap(), b"");
    assert_eq!(talk.octets(OCTETS).unwrap().len(), OCTETS);
    assert_eq!(talk.until_the_end().unwrap(), b"");
    running.end().unwrap().with_code(0).unwrap();
}

#[test]
fn a_second_signal_leaves_at_once() {
    let site = Site::new();
    let (mut running, address) = serving(site.command().args(["--set", "web.grace='1 h'"]));
    // Half a request keeps the connection busy.
    let mut talk = Talk::open(address).unwrap();
    talk.say("GET / HTTP/1.1\r\nHost: a\r\nX-Slow:").unwrap();
    assert_eq!(home(address, "a"), "hello");
    running.signal(Signal::INT).unwrap();
    running.wait_for("stopping").unwrap();
    running.signal(Signal::INT).unwrap();
    let ended = running.end().unwrap();
    assert!(matches!(ended.code, Some(0 | 1)), "{ended:?}");
}

/// Starts `tomte-web` with `socket` as descriptor 3, as systemd does (`sd_listen_fds(3)`).
///
/// The shell becomes the daemon, so that `LISTEN_PID` is right; a descriptor above 2 cannot be given to a child by safe
/// Rust otherwise.
fn handed_over(site: &Site, socket: &TcpListener) -> Command {
    let mut shell = command_at(Path::new("sh"));
    shell.args(["-c", "exec env LISTEN_PID=$$ LISTEN_FDS=1 \"$0\" \"$@\" 3<&0 </dev/null"]);
    shell.arg(built_program("tomte-web").unwrap()).arg("-c").arg(site.file());
    shell.stdin(OwnedFd::from(socket.try_clone().unwrap()));
    shell
}

#[test]
fn a_socket_that_is_handed_over_is_served_and_no_client_is_lost_between_two_daemons() {
    let site = Site::new();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let listen = format!("web.listen=[\"{address}\"]");
    for _ in 0..2 {
        // The client comes first: the socket is there although nobody serves.
        let mut talk = Talk::open(address).unwrap();
        talk.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let (running, told) = serving(handed_over(&site, &socket).args(["--set", &listen]));
        assert_eq!(told, address);
        assert_eq!(talk.response(Content::Follows).unwrap().text(), "hello");
        stopped(running);
    }
}

#[test]
fn the_service_manager_is_told_when_we_are_ready_alive_and_stopping() {
    let site = Site::new();
    let manager = UnixDatagram::bind(site.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut datagram = [0; 1024];
        let octets = manager.recv(&mut datagram).unwrap();
        String::from_utf8_lossy(&datagram[..octets]).into_owned()
    };
    let until = |words: &str| {
        while !told().contains(words) {
            // Something else came first; `told` fails when nothing comes any more.
        }
    };
    let mut web = site.command();
    // In microseconds.
    web.env("NOTIFY_SOCKET", site.path("notify")).env("WATCHDOG_USEC", "200000");
    let mut running = Running::start(&mut web).unwrap();
    until("READY=1");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    running.signal(Signal::HUP).unwrap();
    until("RELOADING=1");
    until("READY=1");
    running.wait_for("configuration reloaded").unwrap();
    running.signal(Signal::TERM).unwrap();
    until("STOPPING=1");
    running.end().unwrap().with_code(0).unwrap();
}

#[test]
fn health_and_metrics_are_told_over_the_admin_socket() {
    let site = Site::new();
    let socket = site.path("admin.sock");
    site.configure(&format!("[admin]\nsocket = \"{}\"\n", socket.display()));
    let (running, address) = serving(&mut site.command());
    let ask = |path: &str| {
        let stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Talk::over(stream).get(path, "admin", "Connection: close\r\n").unwrap()
    };
    assert_eq!((ask("/healthz").status(), ask("/healthz").text().as_str()), ("200", "ok\n"));
    home(address, "a");
    let metrics = ask("/metrics").text();
    let counted =
        metrics.lines().any(|line| line.starts_with("tomte_web_connections_accepted") && line.ends_with(" 1"));
    assert!(counted, "{metrics}");
    // `tomte status` asks the same socket.
    let status = run(command("tomte").unwrap().arg("status").arg("--socket").arg(&socket)).unwrap();
    assert!(status.with_code(0).unwrap().out.contains(&address.to_string()));
    stopped(running);
}
