//! The mail servers of the lab, and real programs that fetch mail from them: telnet, curl, Python, mpop, fetchmail, getmail, openssl.
//!
//! Tests that need programs besides Rust are listed as ignored by plain `cargo test`; `tests/run clients` runs them, and there a
//! program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

use tests::client::{run_client, run_script, type_into};
use tests::lab::Lab;
use tests::process::{PATIENCE, free_address};
use tests::program::{Ended, Running, Signal, command, run};

const HAMBURGER: &str = "mail.hamburger.edu";
const SCHOOL: &str = "mail.someschool.edu";

/// What the slide prints, and the lines that it leaves out.
const TEXTBOOK: &str = include_str!("../../daemons/pop3/tests/transcripts/textbook.txt");

fn bobs_mail(lab: &Lab) -> Vec<PathBuf> {
    let entries = fs::read_dir(lab.state().join("mail/hamburger.edu/bob/new")).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Bob's messages as they are on the wire.
fn messages(lab: &Lab) -> Vec<String> {
    bobs_mail(lab).iter().map(|path| fs::read_to_string(path).unwrap().replace('\n', "\r\n")).collect()
}

/// Says these lines, and hears all until the server hangs up.
fn say(address: SocketAddr, lines: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all((lines.join("\r\n") + "\r\n").as_bytes()).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    heard
}

#[test]
fn the_textbooks_visit_goes_as_it_is_printed_and_the_messages_are_gone() {
    let lab = Lab::up().unwrap();
    assert_eq!(messages(&lab).iter().map(String::len).collect::<Vec<_>>(), [498, 912]);
    let mut stream = BufReader::new(TcpStream::connect(lab.address(HAMBURGER, 8110)).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    // As it is typed: each line after the answer to the last one.
    for line in TEXTBOOK.lines() {
        if let Some(said) = line.strip_prefix("C: ") {
            write!(stream.get_mut(), "{said}\r\n").unwrap();
        } else if line.starts_with("S:") {
            let mut heard = String::new();
            stream.read_line(&mut heard).unwrap();
            let want = line.strip_prefix("S: ").unwrap_or_default().replace("\\t", "\t");
            assert_eq!(heard, format!("{want}\r\n"));
        }
    }
    assert_eq!(stream.read_line(&mut String::new()).unwrap(), 0, "it hangs up");
    assert_eq!(bobs_mail(&lab).len(), 0);
    let second = say(lab.address(HAMBURGER, 8110), &["USER bob@hamburger.edu", "PASS hungry", "STAT", "QUIT"]);
    assert!(second.contains("+OK 0 0\r\n"), "another reader finds nothing: {second}");
}

#[test]
fn everybody_has_a_maildrop_at_every_site_and_nobody_gets_in_without_a_password() {
    let lab = Lab::up().unwrap();
    for (host, user, password, totals) in [
        ("mail.crepes.fr", "alice", "crepes", "+OK 0 0"),
        (HAMBURGER, "bob", "hungry", "+OK 2 1410"),
        (SCHOOL, "bob@someschool.edu", "hungry", "+OK 0 0"),
        (HAMBURGER, "bob", "crepes", "-ERR log in first"),
    ] {
        let heard =
            say(lab.address(host, 8110), &[&format!("USER {user}"), &format!("PASS {password}"), "STAT", "QUIT"]);
        assert!(heard.contains(totals), "{host} {user}: {heard}");
    }
    let said = run(lab.tomte("status").unwrap().arg("--json")).unwrap().with_code(0).unwrap().out;
    assert!(said.contains("pop3s "), "{said}");
}

#[test]
fn a_kill_in_the_middle_of_quit_leaves_each_message_whole_or_gone() {
    const MESSAGES: usize = 3000;
    let accounts = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/accounts.toml");
    let mut in_the_middle = 0;
    for round in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("bob/new");
        for dir in ["new", "cur", "tmp"] {
            fs::create_dir_all(folder.path().join("bob").join(dir)).unwrap();
        }
        for number in 0..MESSAGES {
            fs::write(new.join(format!("{number}.M1P1Q1.h,S=6,W=7")), "hello\n").unwrap();
        }
        let address = free_address().unwrap();
        let mut pop3 = command("tomte-pop3").unwrap();
        pop3.args(["--set", &format!("pop3.listen=[\"{address}\"]"), "--set", "pop3.allow_plaintext_auth=true"]);
        pop3.args(["--set", &format!("pop3.mailboxes={}", folder.path().display())]);
        let mut running = Running::start(pop3.args(["--set", &format!("accounts.file={accounts}")])).unwrap();
        running.wait_for("serving").unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let commands = (1..=MESSAGES).fold(String::new(), |all, number| all + &format!("DELE {number}\r\n"));
        write!(stream, "USER bob\r\nPASS hungry\r\n{commands}STAT\r\n").unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        while lines.next().unwrap().unwrap() != "+OK 0 0" {}
        assert_eq!(fs::read_dir(&new).unwrap().count(), MESSAGES, "before QUIT nothing is removed");
        write!(stream, "QUIT\r\n").unwrap();
        // The kill comes when so many are gone.
        let begin = Instant::now();
        while fs::read_dir(&new).unwrap().count() > MESSAGES - round * MESSAGES / 8 {
            assert!(begin.elapsed() < PATIENCE, "nothing is removed");
        }
        running.signal(Signal::KILL).unwrap();
        drop(running.end().unwrap());
        let left: Vec<_> = fs::read_dir(&new).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.iter().all(|path| fs::read(path).unwrap() == b"hello\n"));
        in_the_middle += usize::from(!left.is_empty() && left.len() < MESSAGES);
    }
    println!("{in_the_middle} of 6 kills came in the middle");
    assert!(in_the_middle > 0, "nothing was shown");
}

// --- Real programs ---------------------------------------------------------------------------------------------------

fn client(program: &str, package: &str, arguments: &[&str]) -> Ended {
    run_client(program, package, arguments, &[]).unwrap()
}

fn authority(lab: &Lab) -> String {
    lab.state().join("ca/ca.crt").display().to_string()
}

/// Octets as a program prints them.
fn printed(message: &str) -> String {
    message.replace("\r\n", "\n")
}

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn telnet_reads_bobs_mail() {
    let lab = Lab::up().unwrap();
    let typed = "user bob\npass hungry\nlist\nretr 1\nquit\n";
    let shown = type_into("telnet", "telnet", lab.address(HAMBURGER, 8110), typed).unwrap();
    let shown = shown.replace('\r', "");
    for want in [
        "+OK POP3 server ready\n+OK\n+OK user successfully logged on\n",
        "\n1 498\n2 912\n.\n",
        "+OK POP3 server signing off\n",
    ] {
        assert!(shown.contains(want), "no {want:?} in {shown}");
    }
    assert!(shown.contains(&printed(&messages(&lab)[0])), "{shown}");
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_lists_reads_and_deletes_in_clear_with_stls_and_over_tls() {
    let lab = Lab::up().unwrap();
    let (clear, encrypted) = (lab.address(HAMBURGER, 8110), lab.address(HAMBURGER, 8995));
    let authority = authority(&lab);
    let curl = |arguments: &[&str]| {
        let all = [&["--silent", "--show-error", "--user", "bob:hungry", "--cacert", &authority], arguments].concat();
        client("curl", "curl", &all).with_code(0).unwrap().out
    };
    for (server, options) in [
        (format!("pop3://{clear}"), &[][..]),
        (format!("pop3://{clear}"), &["--ssl-reqd"]),
        (format!("pop3s://{encrypted}"), &[]),
        (format!("pop3s://{encrypted}"), &["--login-options", "AUTH=PLAIN", "--sasl-ir"]),
    ] {
        let get = |path: &str, more: &[&str]| curl(&[options, more, &[&format!("{server}/{path}")]].concat());
        assert_eq!(get("", &[]), "1 498\r\n2 912\r\n", "{server} {options:?}");
        assert_eq!(get("2", &[]), messages(&lab)[1], "{server} {options:?}");
        assert!(get("", &["--request", "UIDL"]).starts_with("1 1193763600.M1P1Q1.mail.hamburger.edu\r\n"));
    }
    curl(&["--request", "DELE", "--head", &format!("pop3://{clear}/1")]);
    assert_eq!(bobs_mail(&lab).len(), 1);
}

/// Python's own library.
const PYTHON: &str = r#"
import poplib, scram, ssl, sys
clear, encrypted, school, authority = sys.argv[1:]
poplib._MAXLINE = 1 << 20
def at(address): host, port = address.rsplit(":", 1); return dict(host=host, port=int(port))
trust = ssl.create_default_context(cafile=authority)
def visit(pop, login):
    login(pop)
    assert pop.stat() == (2, 1410), pop.stat()
    assert pop.list()[1] == [b"1 498", b"2 912"]
    answer, lines, octets = pop.retr(2)
    # It counts as we do: each line with its CR LF, dots taken away.
    assert octets == 912 and b".one" in lines and b"." in lines, (octets, lines)
    assert len(pop.top(1, 0)[1]) == 9
    assert pop.uidl(1).endswith(b"1 1193763600.M1P1Q1.mail.hamburger.edu")
    pop.dele(1); pop.rset()
    assert pop.quit() == b"+OK POP3 server signing off"
def password(pop): pop.user("bob"); pop.pass_("hungry")
visit(poplib.POP3(**at(clear)), password)
def stls(pop):
    assert "STLS" in pop.capa()
    pop.stls(context=trust)
    assert "STLS" not in pop.capa()
    password(pop)
visit(poplib.POP3(**at(clear)), stls)
visit(poplib.POP3_SSL(**at(encrypted), context=trust), password)
def utf8(pop): pop.utf8(); password(pop)
visit(poplib.POP3(**at(clear)), utf8)
def prove(pop, secret="hungry"):
    assert pop._shortcmd("AUTH SCRAM-SHA-256") == b"+ "
    scram.prove("bob", secret, lambda text: scram.decode(pop._shortcmd(scram.encode(text))[2:]))
    pop._shortcmd("")
visit(poplib.POP3(**at(clear)), prove)
pop = poplib.POP3(**at(school))
pop.apop("bob", "hungry")
assert pop.stat() == (0, 0)
pop.quit()
# Two at once.
one, two = poplib.POP3(**at(clear)), poplib.POP3(**at(clear))
password(one)
try: password(two); raise SystemExit("two have the maildrop")
except poplib.error_proto as error: assert b"[IN-USE]" in error.args[0], error
one.quit(); two.user("bob"); two.pass_("hungry"); two.quit()
# Wrong proofs, last, because they cost a pause.
pop = poplib.POP3(**at(clear))
for attempt in (lambda: prove(pop, "thirsty"), lambda: poplib.POP3(**at(school)).apop("bob", "thirsty")):
    try: attempt(); raise SystemExit("a wrong password is welcome")
    except poplib.error_proto as error: assert b"[AUTH]" in error.args[0] or b"[SYS/TEMP]" in error.args[0], error
print("all well")
"#;

#[test]
#[ignore = "needs python3: tests/run clients"]
fn python_logs_in_every_way_and_counts_the_same_octets() {
    let lab = Lab::up().unwrap();
    let [clear, encrypted, school] =
        [(HAMBURGER, 8110), (HAMBURGER, 8995), (SCHOOL, 8110)].map(|(host, port)| lab.address(host, port).to_string());
    let authority = authority(&lab);
    let arguments = ["-c", PYTHON, &clear, &encrypted, &school, &authority];
    let said = run_client("python3", "python3", &arguments, &[("scram.py", include_str!("scram.py"))]).unwrap();
    assert_eq!(said.with_code(0).unwrap().out, "all well\n");
}

#[test]
#[ignore = "needs mpop: tests/run clients"]
fn mpop_fetches_with_each_of_its_ways_to_log_in() {
    let lab = Lab::up().unwrap();
    let authority = authority(&lab);
    for (port, host, auth, tls) in [
        (8110, HAMBURGER, "user", "tls off"),
        (8110, HAMBURGER, "plain", "tls on\ntls_starttls on"),
        (8995, HAMBURGER, "plain", "tls on\ntls_starttls off"),
        (8110, HAMBURGER, "scram-sha-256", "tls off"),
        (8110, SCHOOL, "apop", "tls off"),
    ] {
        let address = lab.address(host, port);
        let rc = format!(
            "account default\nhost {}\nport {}\nuser bob\npassword hungry\nauth {auth}\n{tls}\n{}keep on\n\
             delivery mbox inbox\nuidls_file uidls\npipelining on\n",
            address.ip(),
            address.port(),
            if tls == "tls off" { String::new() } else { format!("tls_trust_file {authority}\n") },
        );
        let script = "mpop --file=rc --debug >&2; echo code $?; cat inbox 2>/dev/null";
        let said = run_script("mpop", "mpop", script, &[("rc", &rc)]).unwrap();
        assert!(said.out.starts_with("code 0\n"), "{auth} {tls}: {said:?}");
        if host == HAMBURGER {
            for message in messages(&lab) {
                let (_, body) = message.split_once("\r\n\r\n").unwrap();
                assert!(said.out.contains(&printed(body)), "{auth} {tls}: {said:?}");
            }
        } else {
            assert!(said.err.contains("no messages") || said.err.contains("0 messages"), "{auth}: {said:?}");
        }
    }
}

#[test]
#[ignore = "needs fetchmail: tests/run clients"]
fn fetchmail_takes_all_and_leaves_nothing() {
    let lab = Lab::up().unwrap();
    let (address, want) = (lab.address(HAMBURGER, 8110), messages(&lab));
    let rc = format!(
        "poll {} protocol pop3 service {} timeout 15 user bob password hungry sslproto '' no rewrite\n  mda \"cat >>inbox\"\n",
        address.ip(),
        address.port(),
    );
    let script = "fetchmail --fetchmailrc rc --nosyslog --pidfile pid -v >&2; echo code $?; cat inbox";
    let said = run_script("fetchmail", "fetchmail", script, &[("rc", &rc)]).unwrap();
    assert!(said.out.starts_with("code 0\n"), "{said:?}");
    for message in want {
        let (_, body) = message.split_once("\r\n\r\n").unwrap();
        assert!(said.out.contains(&printed(body)), "{said:?}");
    }
    assert_eq!(bobs_mail(&lab).len(), 0);
}

#[test]
#[ignore = "needs getmail: tests/run clients"]
fn getmail_takes_all_and_keeps_them_on_the_server() {
    let lab = Lab::up().unwrap();
    let address = lab.address(HAMBURGER, 8110);
    let rc = format!(
        "[retriever]\ntype = SimplePOP3Retriever\nserver = {}\nport = {}\nusername = bob\npassword = hungry\n\
         [destination]\ntype = MDA_external\npath = /usr/bin/tee\narguments = (\"-a\", \"BOX\")\nallow_root_commands = true\n\
         [options]\ndelete = false\ndelivered_to = false\nreceived = false\n",
        address.ip(),
        address.port(),
    );
    let script = "sed -i s=BOX=$PWD/inbox= rc; getmail --getmaildir=$PWD --rcfile=rc >&2; echo code $?; cat inbox";
    let said = run_script("getmail", "getmail6", script, &[("rc", &rc)]).unwrap();
    assert!(said.out.starts_with("code 0\n"), "{said:?}");
    for message in messages(&lab) {
        let (_, body) = message.split_once("\r\n\r\n").unwrap();
        assert!(said.out.contains(&printed(body)), "{said:?}");
    }
    assert_eq!(bobs_mail(&lab).len(), 2);
}

#[test]
#[ignore = "needs openssl: tests/run clients"]
fn openssl_finds_the_certificate_good_behind_stls_and_on_the_port_for_tls() {
    let lab = Lab::up().unwrap();
    let authority = authority(&lab);
    for (port, more) in [(8110, &["-starttls", "pop3"][..]), (8995, &[])] {
        let address = lab.address(HAMBURGER, port).to_string();
        let verify = ["s_client", "-connect", &address, "-CAfile", &authority, "-verify_hostname", HAMBURGER];
        let said = client("openssl", "openssl", &[&verify[..], &["-verify_return_error"], more].concat());
        assert!(said.out.contains("Verify return code: 0 (ok)"), "{said:?}");
    }
}
