//! Real programs that send mail through the lab's servers, and Postfix on either side: swaks, msmtp, s-nail, mutt, curl, telnet, Python,
//! openssl, smtp-source.
//!
//! Tests that need programs besides Rust are listed as ignored by plain `cargo test`; `tests/run clients` runs them, and there a
//! program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeSet;

use tests::client::{connect, run_client, run_script};
use tests::lab::Lab;
use tests::mail::{Site, contents, send, until};
use tests::postfix::Postfix;
use tests::process::free_address;
use tests::program::Ended;

const CREPES: &str = "mail.crepes.fr";
const ALICE: &str = "alice@crepes.fr";
const BOB: &str = "bob@hamburger.edu";

/// The messages that alice finds.
fn alices(lab: &Lab) -> Vec<String> {
    contents(&lab.state().join("mail/crepes.fr/alice/new"))
}

fn authority(lab: &Lab) -> String {
    lab.state().join("ca/ca.crt").display().to_string()
}

fn client(program: &str, package: &str, arguments: &[&str]) -> Ended {
    run_client(program, package, arguments, &[]).unwrap()
}

#[test]
#[ignore = "needs swaks: tests/run clients"]
fn swaks_sends_in_clear_with_starttls_and_logged_in_by_each_mechanism() {
    let lab = Lab::up().unwrap();
    let authority = authority(&lab);
    let tls = ["--tls-verify", "--tls-ca-path", &authority];
    let login = ["--auth-user", "alice", "--auth-password", "crepes"];
    let mut sent = 0;
    for (port, options) in [
        (8025, vec![]),
        (8025, [&["--tls"], &tls[..]].concat()),
        (8587, [&["--auth", "PLAIN"], &login[..]].concat()),
        (8587, [&["--tls", "--auth", "LOGIN"], &login[..], &tls].concat()),
        (8465, [&["--tlsc", "--auth", "PLAIN"], &login[..], &tls].concat()),
    ] {
        let server = lab.address(CREPES, port).to_string();
        let envelope = ["--server", &server, "--from", ALICE, "--to", ALICE, "--helo", "crepes.fr"];
        let said = client("swaks", "swaks", &[&envelope[..], &["--body", "ketchup"], &options].concat());
        said.with_code(0).unwrap();
        sent += 1;
        let mail = alices(&lab);
        assert_eq!(mail.len(), sent, "{port} {options:?}");
    }
    assert!(alices(&lab).iter().all(|message| message.contains("ketchup")));
    let server = lab.address(CREPES, 8587).to_string();
    let refused = client("swaks", "swaks", &["--server", &server, "--from", ALICE, "--to", ALICE]);
    assert!(refused.out.contains("530 5.7.0"), "{refused:?}");
}

#[test]
#[ignore = "needs msmtp, s-nail and mutt: tests/run clients"]
fn programs_that_people_write_with_send_with_a_login() {
    let lab = Lab::up().unwrap();
    let (submission, encrypted) = (lab.address(CREPES, 8587), lab.address(CREPES, 8465));
    let authority = authority(&lab);
    for (auth, address, starttls) in
        [("plain", submission, "on"), ("login", encrypted, "off"), ("scram-sha-256", submission, "on")]
    {
        let rc = format!(
            "account default\nhost {}\nport {}\nfrom {ALICE}\nauth {auth}\nuser alice\npassword crepes\ntls on\n\
             tls_starttls {starttls}\ntls_trust_file {authority}\n",
            address.ip(),
            address.port()
        );
        let script = format!("printf 'Subject: {auth}\\n\\nketchup\\n' | msmtp --file=rc {ALICE}");
        run_script("msmtp", "msmtp", &script, &[("rc", &rc)]).unwrap().with_code(0).unwrap();
    }
    let rc = format!(
        "set smtp_url=\"smtp://alice:crepes@{submission}\"
set from=\"{ALICE}\"
set ssl_ca_certificates_file=\"{authority}\"
"
    );
    let script = format!("echo ketchup | mutt -F rc -s mutt {ALICE}");
    run_script("mutt", "mutt", &script, &[("rc", &rc)]).unwrap().with_code(0).unwrap();
    let options = format!("-S v15-compat -S mta=smtp://alice:crepes@{submission} -S smtp-auth=plain -S from={ALICE}");
    let script = format!("echo ketchup | s-nail -:/ {options} -S hostname=crepes.fr -s s-nail {ALICE}");
    run_script("s-nail", "s-nail", &script, &[]).unwrap().with_code(0).unwrap();
    let mail = alices(&lab);
    for subject in ["plain", "login", "scram-sha-256", "mutt", "s-nail"] {
        let wanted = format!("Subject: {subject}\r\n");
        let message = mail.iter().find(|message| message.contains(&wanted)).unwrap_or_else(|| panic!("no {subject}"));
        assert!(message.ends_with("\r\n\r\nketchup\r\n"), "{message}");
    }
    assert_eq!(mail.len(), 5);
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_uploads_in_clear_and_encrypted() {
    let lab = Lab::up().unwrap();
    let (clear, encrypted) = (lab.address(CREPES, 8025), lab.address(CREPES, 8465));
    let authority = authority(&lab);
    let text = "Subject: curl\r\n\r\nketchup\r\n.\r\n..\r\nthe end\r\n";
    for (url, more) in [
        (format!("smtp://{clear}/crepes.fr"), &[][..]),
        (format!("smtp://{clear}/crepes.fr"), &["--ssl-reqd"]),
        (format!("smtps://{encrypted}/crepes.fr"), &["--user", "alice:crepes"]),
    ] {
        let arguments =
            ["--silent", "--show-error", "--cacert", &authority, "--mail-from", ALICE, "--mail-rcpt", ALICE];
        let arguments = [&arguments[..], &["--upload-file", "mail"], more, &[&url]].concat();
        run_client("curl", "curl", &arguments, &[("mail", text)]).unwrap().with_code(0).unwrap();
    }
    let mail = alices(&lab);
    assert_eq!(mail.len(), 3);
    assert!(mail.iter().all(|message| message.ends_with("\r\nketchup\r\n.\r\n..\r\nthe end\r\n")), "dots: {mail:?}");
}

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn telnet_is_typed_line_after_line_in_any_case() {
    let lab = Lab::up().unwrap();
    let mut telnet = connect("telnet", "telnet", lab.address(CREPES, 8025)).unwrap();
    telnet.wait_for("220 crepes.fr").unwrap();
    for (typed, answer) in [
        ("helo crepes.fr", "250 Hello crepes.fr, pleased to meet you"),
        ("Mail From: <bob@hamburger.edu>", "250 bob@hamburger.edu... Sender ok"),
        ("rcpt to: <alice@crepes.fr>", "250 alice@crepes.fr... Recipient ok"),
        ("data", "354 Enter mail, end with \".\" on a line by itself"),
        ("Do you like ketchup?\nHow about pickles?\n.", "250 Message accepted for delivery"),
        ("quit", "221 crepes.fr closing connection"),
    ] {
        telnet.type_line(typed).unwrap();
        let heard = telnet.wait_for(&answer[..3]).unwrap();
        assert!(heard.starts_with(answer), "{heard}");
    }
    telnet.end().unwrap();
    assert!(alices(&lab)[0].ends_with("Do you like ketchup?\r\nHow about pickles?\r\n"));
}

/// Python's own library.
const PYTHON: &str = r#"
import scram, smtplib, ssl, sys
from email.message import EmailMessage
clear, submission, encrypted, authority = sys.argv[1:]
def at(address): host, port = address.rsplit(":", 1); return dict(host=host, port=int(port))
trust = ssl.create_default_context(cafile=authority)
def write(smtp, subject):
    mail = EmailMessage()
    mail["From"] = mail["To"] = "alice@crepes.fr"; mail["Subject"] = subject
    mail.set_content("caf\u00e9\n.\nend", cte="8bit")
    assert smtp.send_message(mail) == {}
    smtp.quit()
write(smtplib.SMTP(**at(clear)), "clear")
smtp = smtplib.SMTP(**at(submission)); smtp.starttls(context=trust); smtp.login("alice", "crepes"); write(smtp, "starttls")
smtp = smtplib.SMTP_SSL(**at(encrypted), context=trust); smtp.login("alice", "crepes"); write(smtp, "tls")
def prove(smtp, secret):
    before = ["AUTH SCRAM-SHA-256 ", ""]
    def ask(text):
        code, said = smtp.docmd(before.pop(0) + scram.encode(text))
        if code != 334: raise smtplib.SMTPAuthenticationError(code, said)
        return scram.decode(said)
    scram.prove("alice", secret, ask)
    assert smtp.docmd("")[0] == 235
smtp = smtplib.SMTP(**at(submission)); smtp.ehlo()
prove(smtp, "crepes")
write(smtp, "scram")
smtp = smtplib.SMTP(**at(submission)); smtp.ehlo()
try: prove(smtp, "thirsty"); raise SystemExit("a wrong password is welcome")
except smtplib.SMTPAuthenticationError as error: assert error.smtp_code == 535, error
try: smtp.sendmail("alice@crepes.fr", ["alice@crepes.fr"], "x"); raise SystemExit("nobody has logged in")
except smtplib.SMTPSenderRefused as error: assert error.smtp_code == 530, error
print("all well")
"#;

#[test]
#[ignore = "needs python3: tests/run clients"]
fn python_sends_logged_in_in_every_way() {
    let lab = Lab::up().unwrap();
    let [clear, submission, encrypted] = [8025, 8587, 8465].map(|port| lab.address(CREPES, port).to_string());
    let arguments = ["-c", PYTHON, &clear, &submission, &encrypted, &authority(&lab)];
    let said = run_client("python3", "python3", &arguments, &[("scram.py", include_str!("scram.py"))]).unwrap();
    assert_eq!(said.with_code(0).unwrap().out, "all well\n");
    let mail = alices(&lab);
    assert_eq!(mail.len(), 4);
    assert!(mail.iter().all(|message| message.ends_with("café\r\n.\r\nend\r\n")), "{mail:?}");
}

#[test]
#[ignore = "needs openssl: tests/run clients"]
fn openssl_finds_the_certificate_good_behind_starttls_and_on_the_port_for_tls() {
    let lab = Lab::up().unwrap();
    let authority = authority(&lab);
    for (port, more) in [(8025, &["-starttls", "smtp"][..]), (8587, &["-starttls", "smtp"]), (8465, &[])] {
        let address = lab.address(CREPES, port).to_string();
        let verify = ["s_client", "-connect", &address, "-CAfile", &authority, "-verify_hostname", CREPES];
        let said = client("openssl", "openssl", &[&verify[..], &["-verify_return_error"], more].concat());
        assert!(said.out.contains("Verify return code: 0 (ok)"), "{port}: {said:?}");
    }
}

// --- Other servers ---------------------------------------------------------------------------------------------------

#[test]
#[ignore = "needs Postfix, as root: tests/run clients"]
fn postfix_delivers_to_us_and_we_deliver_to_postfix() {
    let (ours, theirs) = (Site::new("crepes.fr", "alice").unwrap(), free_address().unwrap());
    let route = format!("routes = {{ \"hamburger.edu\" = \"{theirs}\" }}");
    let ours = ours.with("allow = [\"127.0.0.1\"]").with(&route);
    let _running = ours.start().unwrap();
    let postfix = Postfix::start("hamburger.edu", theirs, ours.address()).unwrap();
    // A dot at the start of a line is doubled on its way, each time.
    send(ours.address(), ALICE, &[BOB], "Subject: to Postfix\r\n\r\n..\r\n...dots").unwrap();
    send(postfix.address(), BOB, &[ALICE], "Subject: from Postfix\r\n\r\n..\r\n...dots").unwrap();
    until("both have their mail", || ours.mail("alice").len() == 1 && !postfix.mail().is_empty()).unwrap();
    assert!(ours.mail("alice")[0].ends_with("\r\n\r\n.\r\n..dots\r\n"), "{:?}", ours.mail("alice"));
    // Postfix keeps its mailboxes with the line ends of Unix.
    assert!(postfix.mail()[0].ends_with("\n\n.\n..dots\n"), "{:?}", postfix.mail());
    ours.wait_until_delivered().unwrap();
    // Each says what is wrong with the other's mail, and the sender hears of it.
    send(postfix.address(), BOB, &["nobody@crepes.fr"], "Subject: to nobody").unwrap();
    until("Postfix reports to bob", || postfix.mail().iter().any(|mail| mail.contains("550 5.1.1"))).unwrap();
}

#[test]
#[ignore = "needs smtp-source of Postfix: tests/run clients"]
fn two_thousand_messages_over_twenty_sessions_arrive_once_each() {
    // smtp-source writes to 1bob and 2bob, when there are to be two.
    let site = Site::new("hamburger.edu", "bob").unwrap().with("catch_all = \"bob\"");
    let _running = site.start().unwrap();
    let source = |to: &str, more: &[&str]| {
        let server = site.address().to_string();
        let load = ["-c", "-s", "20", "-m", "1000", "-l", "1024", "-f", ALICE, "-t", to];
        client("smtp-source", "postfix", &[&load[..], more, &[&server]].concat()).with_code(0).unwrap();
    };
    // A connection for each; then several over one, for two names that are the same mailbox, which gets one copy.
    source(BOB, &[]);
    source(BOB, &["-d", "-r", "2"]);
    site.wait_until_delivered().unwrap();
    let ids = site
        .mail("bob")
        .iter()
        .map(|message| message.split(" id ").nth(1).unwrap()[..11].to_owned())
        .collect::<BTreeSet<_>>();
    assert_eq!((site.mail("bob").len(), ids.len()), (2000, 2000));
    assert!(site.mail("bob").iter().all(|message| message.starts_with("Return-Path: <alice@crepes.fr>\r\nReceived: ")));
    assert_eq!((site.begun().len(), site.begun_letters("bob").len()), (0, 0));
}
