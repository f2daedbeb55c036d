//! Alice writes to Bob, in the lab as it is shipped: through the queue of her server, the lab's name servers and one connection into his
//! mailbox, where he reads it. Each test has its network for itself ([`tests::alone`]), with the real ports.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

use tests::alone;
use tests::lab::{Description, Lab};
use tests::mail::{Client, Site, contents, files, send, until};
use tests::process::{PATIENCE, free_address};
use tests::program::{command, run};

const CREPES: &str = "mail.crepes.fr";
const HAMBURGER: &str = "mail.hamburger.edu";
const ALICE: &str = "alice@crepes.fr";
const BOB: &str = "bob@hamburger.edu";

/// What the slide prints.
const TEXTBOOK: &str = include_str!("../../daemons/smtp/tests/transcripts/textbook.txt");

fn mailbox(lab: &Lab, site: &str, user: &str) -> PathBuf {
    lab.state().join("mail").join(site).join(user).join("new")
}

/// How many messages bob finds. Two are there from the beginning.
fn bobs(lab: &Lab) -> usize {
    files(&mailbox(lab, "hamburger.edu", "bob")).len()
}

fn alice_writes(lab: &Lab, to: &str, text: &str) {
    send(lab.address(CREPES, 25), ALICE, &[to], text).unwrap();
}

/// What `tomte queue` says.
fn queue(lab: &Lab, arguments: &[&str]) -> String {
    let mut tomte = command("tomte").unwrap();
    run(tomte.arg("queue").args(arguments).arg("--state").arg(lab.state())).unwrap().with_code(0).unwrap().out
}

/// The id of the only message that waits.
fn waiting(lab: &Lab) -> String {
    let list = queue(lab, &["list", "--host", CREPES]);
    let line = list.lines().find(|line| line.contains(" octets ")).unwrap_or_else(|| panic!("nothing waits: {list}"));
    line.split_whitespace().next().unwrap().to_owned()
}

/// Plays a dialogue in which `S:` is what must be said.
fn play(address: SocketAddr, dialogue: &str) {
    let mut stream = BufReader::new(TcpStream::connect(address).unwrap());
    stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    for line in dialogue.lines() {
        if let Some(said) = line.strip_prefix("C: ") {
            write!(stream.get_mut(), "{said}\r\n").unwrap();
        } else if let Some(wanted) = line.strip_prefix("S: ") {
            let mut heard = String::new();
            stream.read_line(&mut heard).unwrap();
            assert_eq!(heard.trim_end(), wanted);
        }
    }
    assert_eq!(stream.read_line(&mut String::new()).unwrap(), 0, "it hangs up");
}

/// A lab in which bob's server does not run, and then one in which only that runs, at the same addresses.
fn without_hamburger() -> Lab {
    let mut description = Description::shipped().unwrap();
    let begin = description.text.find("[[host]]\nname = \"mail.hamburger.edu\"").unwrap();
    let end = begin + description.text[begin + 1..].find("[[host]]").unwrap();
    description.text.replace_range(begin..=end, "");
    Lab::alone_with(description, &[]).unwrap()
}

fn hamburger() -> Lab {
    Lab::alone(&[HAMBURGER]).unwrap()
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn the_textbooks_dialogue_is_said_by_hand_and_its_message_is_there() {
    // CLAIMS C90, C91.
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        play(lab.address(HAMBURGER, 25), TEXTBOOK);
        let mail = contents(&mailbox(&lab, "hamburger.edu", "bob"));
        assert!(
            mail.iter().any(|message| message.ends_with("Do you like ketchup?\r\nHow about pickles?\r\n")),
            "{mail:?}"
        );
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn alice_writes_to_bob_in_six_steps_over_one_connection_between_their_servers() {
    // CLAIMS C86-C89, C97, C105, C116.
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let before = bobs(&lab);
        // 1: she writes; the letterhead says another name than the envelope. 2: her server has it.
        alice_writes(&lab, BOB, "From: Somebody Else <queen@example.org>\r\nSubject: ketchup\r\n\r\nDo you like it?");
        // 3: it finds his server by MX, and connects. 4: it sends. 5: the message is in his mailbox.
        until("the message is in bob's mailbox", || bobs(&lab) == before + 1).unwrap();
        // With the envelope's sender, and the letterhead as it was.
        let mail = contents(&mailbox(&lab, "hamburger.edu", "bob")).pop().unwrap();
        assert!(mail.starts_with("Return-Path: <alice@crepes.fr>\r\n"), "{mail}");
        assert!(mail.contains("From: Somebody Else <queen@example.org>\r\n"), "{mail}");
        // 6: he reads it.
        let mut reader = BufReader::new(TcpStream::connect(lab.address(HAMBURGER, 110)).unwrap());
        reader.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        write!(reader.get_mut(), "USER bob\r\nPASS hungry\r\nRETR {}\r\nQUIT\r\n", before + 1).unwrap();
        let lines: Vec<String> = reader.lines().map(Result::unwrap).collect();
        assert!(lines.contains(&"Do you like it?".to_owned()), "{lines:?}");

        // The same as `tomte events` tells it, of three hosts: each step comes after the one before.
        let at_crepes = lab.heard(CREPES, "Message accepted").unwrap();
        let at_resolver = lab.heard("resolver.crepes.fr", "hamburger.edu. MX").unwrap();
        let at_hamburger = lab.heard(HAMBURGER, "POP3 server signing off").unwrap();
        let mut last = 0;
        for (step, host, events, line) in [
            (1, CREPES, &at_crepes, "RCPT TO:<bob@hamburger.edu>"),
            (2, CREPES, &at_crepes, "the message is safe on disk as "),
            (3, "resolver.crepes.fr", &at_resolver, "hamburger.edu. MX"),
            (4, HAMBURGER, &at_hamburger, "RCPT TO:<bob@hamburger.edu>"),
            (5, HAMBURGER, &at_hamburger, "the message is safe on disk as "),
            (6, HAMBURGER, &at_hamburger, "RETR "),
        ] {
            let said = events.iter().find(|said| said.line.contains(line));
            let said = said.unwrap_or_else(|| panic!("no step {step}, `{line}`, in {events:?}"));
            println!("{step}  {host}  {}", said.line);
            assert!(said.at >= last, "step {step} before the one that it follows");
            last = said.at;
        }
        // EHLO is said twice over it, for TLS begins a conversation anew.
        let hello = at_hamburger.iter().filter(|said| said.line.starts_with("EHLO "));
        let servers: BTreeSet<SocketAddr> = hello.map(|said| said.remote).collect();
        assert_eq!(servers.len(), 1, "one connection from server to server: {servers:?}");
        assert!(
            servers.iter().all(|server| server.ip() == lab.address(CREPES, 25).ip()),
            "and no third one: {servers:?}"
        );
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn a_message_is_in_bobs_mailbox_at_once() {
    // CLAIMS C105. The fastest of several, because this machine may have other work.
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let mut fastest = PATIENCE;
        for _ in 0..5 {
            let (before, begin) = (bobs(&lab), Instant::now());
            alice_writes(&lab, BOB, "Subject: now");
            until("the message is there", || bobs(&lab) > before).unwrap();
            fastest = fastest.min(begin.elapsed());
        }
        println!("from alice's first word to bob's mailbox: {fastest:?}");
        assert!(fastest.as_millis() < 100, "{fastest:?}");
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn mail_waits_for_a_server_that_is_down_and_is_listed_held_shown_and_thrown_away() {
    // CLAIMS C98.
    alone::test(|| {
        let lab = without_hamburger();
        alice_writes(&lab, BOB, "Subject: ketchup");
        until("a try has failed", || queue(&lab, &["list", "--host", CREPES]).contains("1 try, next in")).unwrap();
        let list = queue(&lab, &["list", "--host", CREPES]);
        for wanted in ["from <alice@crepes.fr>", "to bob@hamburger.edu", "refused", "1 message waits"] {
            assert!(list.contains(wanted), "no `{wanted}`: {list}");
        }
        let id = waiting(&lab);
        let shown = queue(&lab, &["show", &id]);
        assert!(shown.contains("MAIL FROM:<alice@crepes.fr>") && shown.contains("Subject: ketchup"), "{shown}");
        assert!(queue(&lab, &["hold", &id]).contains("held"));
        let there = hamburger();
        let before = bobs(&there);
        queue(&lab, &["flush"]);
        assert!(queue(&lab, &["list", "--host", CREPES]).contains("held"), "what is held does not go");
        queue(&lab, &["release", &id]);
        queue(&lab, &["flush", &id]);
        until("the message is there", || bobs(&there) == before + 1).unwrap();
        until("nothing waits", || queue(&lab, &["list", "--host", CREPES]).contains("the queue is empty")).unwrap();
        drop(there);
        alice_writes(&lab, BOB, "Subject: on second thoughts");
        until("a try has failed", || queue(&lab, &["list", "--host", CREPES]).contains("1 try, next in")).unwrap();
        assert!(queue(&lab, &["delete", &waiting(&lab)]).contains("deleted"));
        assert!(queue(&lab, &["list", "--host", CREPES]).contains("the queue is empty"));
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn mail_waits_as_long_as_bobs_server_is_switched_off_and_then_goes_without_help() {
    // CLAIMS C98.
    alone::test(|| {
        let mut description = Description::shipped().unwrap();
        description.text = description.text.replace("retry = [\"10 s\"", "retry = [\"2 s\"");
        let lab = Lab::alone_with(description, &[]).unwrap();
        let switch = |action: &str| run(lab.tomte(action).unwrap().arg(HAMBURGER)).unwrap().with_code(0).unwrap();
        let before = bobs(&lab);
        switch("stop");
        alice_writes(&lab, BOB, "Subject: ketchup");
        until("a try has failed", || queue(&lab, &["list", "--host", CREPES]).contains("1 try, next in")).unwrap();
        assert_eq!(bobs(&lab), before);
        switch("start");
        until("the message is there", || bobs(&lab) == before + 1).unwrap();
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn mail_that_cannot_be_delivered_comes_back_with_the_reason() {
    // CLAIMS C98: at once for nobody, after the limit for a server that stays away.
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        alice_writes(&lab, "nobody@hamburger.edu", "Subject: is there anybody");
        until("the report is there", || !files(&mailbox(&lab, "crepes.fr", "alice")).is_empty()).unwrap();
        let report = contents(&mailbox(&lab, "crepes.fr", "alice")).pop().unwrap();
        for wanted in ["Return-Path: <>", "nobody@hamburger.edu", "550", "Action: failed", "Subject: is there anybody"]
        {
            assert!(report.contains(wanted), "no `{wanted}`: {report}");
        }
    })
    .unwrap();
}

#[test]
fn mail_for_a_server_that_stays_away_comes_back_after_the_limit() {
    // CLAIMS C98.
    let nobody = free_address().unwrap();
    let site = Site::new("crepes.fr", "alice").unwrap().with("allow = [\"127.0.0.1\"]").with("give_up = \"2 s\"");
    let site = site.with("retry = [\"1 s\"]").with(&format!("routes = {{ \"hamburger.edu\" = \"{nobody}\" }}"));
    let _running = site.start().unwrap();
    send(site.address(), ALICE, &[BOB], "Subject: ketchup").unwrap();
    site.wait_until_delivered().unwrap();
    let mail = site.mail("alice");
    assert_eq!(mail.len(), 1, "{mail:?}");
    for wanted in ["Return-Path: <>", BOB, "given up after ", "refused", "Status: 5.4.7", "Subject: ketchup"] {
        assert!(mail[0].contains(wanted), "no `{wanted}`: {}", mail[0]);
    }
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn strangers_may_write_to_bob_under_any_name_and_to_nobody_elsewhere() {
    // CLAIMS C97, C100.
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let mut client = Client::greeted(lab.address(HAMBURGER, 25)).unwrap();
        let heard = client.send("queen@example.org", &[BOB], "Subject: you have won").unwrap();
        assert!(heard.starts_with("250 "), "{heard}");
        let heard = client.send("queen@example.org", &[ALICE], "Subject: you have won").unwrap();
        assert!(heard.starts_with("550 5.7.1 ") || heard.starts_with("554 5.7.1 "), "{heard}");
    })
    .unwrap();
}

#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn five_messages_take_one_connection() {
    // CLAIMS C94.
    alone::test(|| {
        let lab = without_hamburger();
        for number in 1..=5 {
            alice_writes(&lab, BOB, &format!("Subject: {number}"));
        }
        until("all were tried", || queue(&lab, &["list", "--host", CREPES]).matches(" next in ").count() == 5).unwrap();
        let there = hamburger();
        let before = bobs(&there);
        queue(&lab, &["flush"]);
        until("all are there", || bobs(&there) == before + 5).unwrap();
        let heard = there.heard_times(HAMBURGER, "Message accepted", 5).unwrap();
        let connections: BTreeSet<SocketAddr> = heard.iter().map(|said| said.remote).collect();
        let transactions = heard.iter().filter(|said| said.line.starts_with("MAIL FROM:")).count();
        assert_eq!((connections.len(), transactions), (1, 5), "{heard:?}");
    })
    .unwrap();
}
