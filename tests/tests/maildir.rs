//! One mailbox, several programs: tomte-smtp delivers to it, tomte-pop3, Dovecot and Python read it.
//!
//! Tests that need programs besides Rust are listed as ignored by plain `cargo test`; `tests/run clients` runs them, and there a
//! program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use tests::client::run_client;
use tests::dovecot::{Dovecot, give_away};
use tests::mail::{Site, files, send};
use tests::pop3;
use tests::process::PATIENCE;

const ALICE: &str = "alice@crepes.fr";
const BOB: &str = "bob@hamburger.edu";
const PASSWORD: &str = "hungry";
/// For the same mailbox. What is for both goes there by way of the queue, twice.
const BOB_TOO: &str = "bob+too@hamburger.edu";

/// Texts with what is hard about them.
fn texts() -> Vec<String> {
    vec![
        "Subject: plain\r\n\r\nDo you like ketchup?".to_owned(),
        // As the client says it: each dot at the start of a line is doubled on its way.
        "Subject: dots\r\n\r\n..\r\n...\r\n..one\r\nend".to_owned(),
        "Subject: no body\r\n".to_owned(),
        "Subject: octets\r\n\r\ncafé, crêpes\r\n".to_owned(),
        format!("Subject: long\r\n\r\n{}", format!("{}\r\n", "ketchup ".repeat(100)).repeat(400)),
    ]
}

/// What a reader that speaks POP3 shows of bob's mailbox.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    sizes: Vec<String>,
    uids: Vec<String>,
    messages: Vec<String>,
}

fn log_in(address: SocketAddr) -> pop3::Client {
    pop3::Client::log_in(address, "bob", PASSWORD).unwrap()
}

fn look(address: SocketAddr) -> Seen {
    let mut client = log_in(address);
    let (sizes, uids) = (client.list("LIST").unwrap(), client.list("UIDL").unwrap());
    let messages = (1..=sizes.len()).map(|number| client.ask(&format!("RETR {number}")).unwrap()).collect();
    client.quit().unwrap();
    Seen { sizes, uids, messages }
}

fn remove(address: SocketAddr, number: usize) {
    let mut client = log_in(address);
    client.say(&format!("DELE {number}")).unwrap();
    client.quit().unwrap();
}

/// Says these commands to an IMAP server, and hears all until it hangs up.
fn imap(address: SocketAddr, commands: &[&str]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (login, mut heard) = (format!("LOGIN bob {PASSWORD}"), String::new());
    for command in [&[&*login, "SELECT INBOX"], commands, &["LOGOUT"]].concat() {
        write!(stream, "tag {command}\r\n").unwrap();
    }
    stream.read_to_string(&mut heard).unwrap();
    assert_eq!(heard.matches("\r\ntag OK ").count(), commands.len() + 3, "{heard}");
    heard
}

/// The file of a message, whose name begins with what tomte-pop3 calls it, whether a reader has seen it or not.
fn letter(mailbox: &Path, uid: &str) -> PathBuf {
    let mut letters = [files(&mailbox.join("new")), files(&mailbox.join("cur"))].concat();
    letters.retain(|letter| letter.file_name().unwrap().to_str().unwrap().starts_with(uid));
    assert_eq!(letters.len(), 1, "{uid}: {letters:?}");
    letters.remove(0)
}

/// Delivers a message, straight or by way of the queue.
fn deliver(site: &Site, to: &[&str], text: &str) {
    send(site.address(), ALICE, to, text).unwrap();
    site.wait_until_delivered().unwrap();
}

#[test]
#[ignore = "needs Dovecot: tests/run clients"]
fn dovecot_and_tomte_pop3_read_the_same_messages_and_each_sees_what_the_other_did() {
    let site = Site::new("hamburger.edu", "bob").unwrap();
    let _smtp = site.start().unwrap();
    let mailbox = site.folder().join("mail/bob");
    for text in texts() {
        deliver(&site, &[BOB], &text);
        deliver(&site, &[BOB, BOB_TOO], &text);
    }
    give_away(site.folder()).unwrap();
    let dovecot = Dovecot::start(&site.folder().join("mail"), PASSWORD, "protocols = pop3 imap\n").unwrap();
    let (_pop3, ours) = site.start_pop3().unwrap();
    let theirs = dovecot.server().address();

    // Both have what was sent, and what the names of the files tell: S= of the file, W= on the wire.
    let first = look(ours);
    let their_first = look(theirs);
    assert_eq!((&first.messages, &first.sizes), (&their_first.messages, &their_first.sizes));
    let sent: Vec<String> = texts().into_iter().flat_map(|text| [text.clone(), text.clone(), text]).collect();
    assert_eq!(first.messages.len(), sent.len());
    for (index, (message, sent)) in first.messages.iter().zip(sent).enumerate() {
        let sent = sent.replace("\r\n..", "\r\n.");
        assert!(message.trim_end().ends_with(&format!("\r\n{}", sent.trim_end())), "{message}");
        assert_eq!(first.sizes[index], message.len().to_string());
        let letter = letter(&mailbox, &first.uids[index]);
        let told = format!(",S={},W={}", fs::metadata(&letter).unwrap().len(), message.len());
        assert!(letter.to_str().unwrap().contains(&told), "{} and not {told}", letter.display());
    }

    // Dovecot has moved all to cur/ and notes there who has read and marked what.
    let told = imap(dovecot.imap(), &[r"STORE 2 +FLAGS (\Flagged \Answered)", "FETCH 1:* (RFC822.SIZE FLAGS)"]);
    for (index, (size, uid)) in first.sizes.iter().zip(&first.uids).enumerate() {
        let (flags, letters) = if index == 1 { (r"\Answered \Flagged \Seen", "FRS") } else { (r"\Seen", "S") };
        let line = format!("* {} FETCH (RFC822.SIZE {size} FLAGS ({flags}))\r\n", index + 1);
        assert!(told.contains(&line), "no {line}in {told}");
        let file = letter(&mailbox, uid);
        assert!(file.starts_with(mailbox.join("cur")) && file.to_str().unwrap().ends_with(&format!(":2,{letters}")));
    }

    // That changes nothing for us, nor for whoever asks Dovecot again.
    assert_eq!(look(ours), first);
    assert_eq!(look(theirs), their_first);

    // What one removes is gone for the other, and the rest is called what it was. What comes in meanwhile is last for both.
    remove(theirs, 3);
    remove(ours, 1);
    deliver(&site, &[BOB], "Subject: later");
    give_away(site.folder()).unwrap();
    let (second, their_second) = (look(ours), look(theirs));
    assert_eq!((&second.messages, &second.sizes), (&their_second.messages, &their_second.sizes));
    // The second of all is first now, and the fourth comes next.
    for (before, after) in [(&first, &second), (&their_first, &their_second)] {
        let ((uid, uids), (message, messages)) =
            (after.uids.split_last().unwrap(), after.messages.split_last().unwrap());
        assert_eq!(uids, [&before.uids[1..2], &before.uids[3..]].concat());
        assert_eq!(messages, [&before.messages[1..2], &before.messages[3..]].concat());
        assert!(!before.uids.contains(uid) && message.ends_with("Subject: later\r\n"), "{uid}: {message}");
    }
}

#[test]
#[ignore = "needs python3: tests/run clients"]
fn pythons_library_reads_our_maildir() {
    let site = Site::new("hamburger.edu", "bob").unwrap();
    let _smtp = site.start().unwrap();
    for subject in ["ketchup", "pickles"] {
        deliver(&site, &[BOB], &format!("From: {ALICE}\r\nSubject: {subject}\r\n\r\nhello"));
    }
    let script = "import mailbox, sys\nbox = mailbox.Maildir(sys.argv[1], create=False)\n\
        print(sorted((mail['Subject'], mail['Return-Path'], mail.get_payload().strip()) for mail in box))";
    let mailbox = site.folder().join("mail/bob").display().to_string();
    let said = run_client("python3", "python3", &["-c", script, &mailbox], &[]).unwrap().with_code(0).unwrap().out;
    let wanted = ["ketchup", "pickles"].map(|subject| format!("('{subject}', '<{ALICE}>', 'hello')")).join(", ");
    assert_eq!(said, format!("[{wanted}]\n"));
}
