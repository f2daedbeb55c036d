//! A mail server among people who mean no good, and on a machine that is in trouble: nothing is lost, nothing grows, everybody is answered.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tests::alone;
use tests::lab::Lab;
use tests::mail::{Client, Site, send};
use tests::process::{PATIENCE, own_memory_octets, pause};
use tests::program::Running;

const ALICE: &str = "alice@crepes.fr";
const BOB: &str = "bob@hamburger.edu";
/// Bob's mailbox too, but another recipient: a message for both goes through the queue.
const BOBS_LISTS: &str = "bob+lists@hamburger.edu";
const MIB: usize = 1 << 20;

fn hamburger() -> Site {
    Site::new("hamburger.edu", "bob").unwrap()
}

/// A client that may send a message to bob now.
fn at_data(site: &Site, to: &[&str]) -> Client {
    let mut client = Client::greeted(site.address()).unwrap();
    client.say("MAIL FROM:<alice@crepes.fr>").unwrap();
    for to in to {
        client.say(&format!("RCPT TO:<{to}>")).unwrap();
    }
    assert!(client.say("DATA").unwrap().starts_with("354 "));
    client
}

/// Sends so many times what `piece` has, and returns by how many octets the server was larger meanwhile, at most.
fn flood(client: &mut Client, running: &Running, piece: &[u8], times: usize) -> u64 {
    let before = own_memory_octets(running.pid()).unwrap();
    let mut most = before;
    for number in 0..times {
        client.push(piece).unwrap();
        if number % 16 == 0 {
            most = most.max(own_memory_octets(running.pid()).unwrap());
        }
    }
    most - before
}

/// No message, no half of one.
fn assert_untouched(site: &Site) {
    assert_eq!((site.mail("bob").len(), site.queue().len(), site.begun().len()), (0, 0, 0));
    assert_eq!(site.begun_letters("bob").len(), 0);
}

fn assert_still_serves(site: &Site) {
    send(site.address(), ALICE, &[BOB], "Subject: all is well").unwrap();
    assert!(site.mail("bob").iter().any(|message| message.contains("all is well")));
}

// --- What is too long ------------------------------------------------------------------------------------------------

#[test]
#[ignore = "sends three gibibytes, which takes half a minute: tests/run clients"]
fn lines_and_headers_of_a_gibibyte_are_refused_and_memory_stays_flat() {
    let site = hamburger();
    let running = site.start().unwrap();
    let letters = vec![b'x'; MIB];
    let fields = b"X-Field: and another one, and one more, so that it never ends\r\n".repeat(MIB / 64);

    let mut client = Client::greeted(site.address()).unwrap();
    let command = flood(&mut client, &running, &letters, 1024);
    let heard = client.say("").unwrap();
    assert!(heard.starts_with("500 "), "{heard}");

    let mut client = at_data(&site, &[BOB]);
    let line = flood(&mut client, &running, &letters, 1024);
    let heard = client.say("\r\n.").unwrap();
    assert!(heard.starts_with('5'), "{heard}");

    let mut client = at_data(&site, &[BOB, BOBS_LISTS]);
    let header = flood(&mut client, &running, &fields, 1024);
    let heard = client.say("\r\n.").unwrap();
    assert!(heard.starts_with("554 5.6.0 The message's header has more than"), "{heard}");

    println!("a gibibyte took {command} octets as a command, {line} as a line of a message, {header} as a header");
    assert!([command, line, header].iter().all(|octets| *octets < 4 * MIB as u64), "{command} {line} {header}");
    assert_untouched(&site);
    assert_still_serves(&site);
}

#[test]
#[ignore = "sends a gibibyte over two servers, which takes half a minute: tests/run clients"]
fn a_message_of_a_gibibyte_is_taken_and_sent_on_in_flat_memory() {
    let there = hamburger().with("message_max = \"2 GiB\"");
    let here = Site::new("crepes.fr", "alice").unwrap().sending_to(&there).with("message_max = \"2 GiB\"");
    let (at_hamburger, at_crepes) = (there.start().unwrap(), here.start().unwrap());
    let before = own_memory_octets(at_hamburger.pid()).unwrap();
    // Lines nearly as long as they may be: it is the octets that matter here, and unoptimised servers take their time for each line.
    let text =
        [&b"Do you like ketchup? How about pickles? And what about onions? ".repeat(15)[..], b"Do you?\r\n"].concat();
    let text = text.repeat(MIB / text.len() + 1);
    let mut client = Client::greeted(here.address()).unwrap();
    client.say("MAIL FROM:<alice@crepes.fr>").unwrap();
    client.say("RCPT TO:<bob@hamburger.edu>").unwrap();
    client.say("DATA").unwrap();
    let taking = flood(&mut client, &at_crepes, &text, 1024);
    let idle = own_memory_octets(at_crepes.pid()).unwrap();
    assert!(client.say(".").unwrap().starts_with("250 "));
    let (mut sending, mut storing, begin) = (0, 0, Instant::now());
    while !here.queue().is_empty() {
        sending = sending.max(own_memory_octets(at_crepes.pid()).unwrap().saturating_sub(idle));
        storing = storing.max(own_memory_octets(at_hamburger.pid()).unwrap().saturating_sub(before));
        assert!(begin.elapsed() < 60 * PATIENCE, "it does not arrive");
        pause();
    }
    let letter = tests::mail::files(&there.folder().join("mail/bob/new")).pop().unwrap();
    assert!(letter.metadata().unwrap().len() > 1024 * MIB as u64, "{letter:?}");
    let mib = |octets: u64| octets as f64 / MIB as f64;
    let [taking, sending, storing] = [taking, sending, storing].map(mib);
    println!(
        "a message of 1 GiB: {taking:.1} MiB more to take it, {sending:.1} to send it on, {storing:.1} to store it"
    );
    assert!(taking.max(sending).max(storing) < 8.0, "{taking} {sending} {storing}");
}

#[test]
fn nine_hundred_idle_sessions_take_sixteen_kibibytes_each_at_most() {
    // With what else a process has open they fit into 1024 files, which is what many systems allow.
    const SESSIONS: usize = 900;
    let site = hamburger().with("connections = 2000").with("connections_per_peer = 2000");
    let running = site.start().unwrap();
    // The first ones bring what all share.
    let mut clients: Vec<Client> = (0..50).map(|_| Client::greeted(site.address()).unwrap()).collect();
    let before = own_memory_octets(running.pid()).unwrap();
    clients.extend((0..SESSIONS).map(|_| Client::greeted(site.address()).unwrap()));
    let each = own_memory_octets(running.pid()).unwrap().saturating_sub(before) / SESSIONS as u64;
    println!("an idle session has {each} octets");
    assert!((1..=16 << 10).contains(&each), "{each}");
    assert!(clients.iter_mut().all(|client| client.say("NOOP").unwrap().starts_with("250 ")));
}

// --- What is no conversation -----------------------------------------------------------------------------------------

#[test]
fn nul_octets_are_refused_in_commands_and_in_messages() {
    let site = hamburger();
    let _running = site.start().unwrap();
    let mut client = Client::greeted(site.address()).unwrap();
    assert!(client.say("NO\0OP").unwrap().starts_with("500 "));
    assert!(client.say("MAIL FROM:<al\0ice@crepes.fr>").unwrap().starts_with("500 "));
    let mut client = at_data(&site, &[BOB]);
    let heard = client.say("Subject: n\0thing\r\n.").unwrap();
    assert!(heard.starts_with('5') && heard.contains("NUL"), "{heard}");
    assert_untouched(&site);
}

#[test]
fn a_flood_of_garbage_is_answered_line_by_line_and_then_hung_up_on() {
    let site = hamburger();
    let _running = site.start().unwrap();
    let mut client = Client::connect(site.address()).unwrap();
    client.push(b"GET / HTTP/1.1\r\nHost: hamburger.edu\r\n\r\n").unwrap();
    client.push(&b"\xff\xfe\x00garbage\r\n".repeat(47)).unwrap();
    let heard = client.hear_out().unwrap();
    let lines: Vec<&str> = heard.lines().collect();
    assert_eq!(lines.len(), 50, "an answer for each line, and the last one is goodbye: {heard}");
    assert!(lines[49].starts_with("421 "), "{heard}");
    assert_still_serves(&site);
}

#[test]
fn who_says_nothing_or_drips_octets_is_let_go() {
    let site = hamburger().with("idle_timeout = \"1 s\"");
    let _running = site.start().unwrap();
    let silent = Client::greeted(site.address()).unwrap();
    assert!(silent.hear_out().unwrap().starts_with("421 "));
    let mut dripping = Client::greeted(site.address()).unwrap();
    dripping.stream().set_nonblocking(true).unwrap();
    // A line that never ends, so slowly that it takes minutes to become too long.
    let heard = loop {
        pause();
        match dripping.hear() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => dripping.push(b"N").unwrap(),
            heard => break heard.unwrap(),
        }
    };
    assert!(heard.starts_with("421 "), "{heard}");
    assert_still_serves(&site);
}

// --- TLS -------------------------------------------------------------------------------------------------------------

/// A client that trusts the authority of a lab.
fn trusting(lab: &Lab) -> Arc<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(lab.state().join("ca/ca.crt")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
}

#[test]
fn what_is_said_behind_starttls_in_the_same_segment_is_dropped() {
    // RFC 3207 §4.2, CVE-2011-0411: whoever sits in between could put commands into the encrypted part.
    let lab = Lab::up().unwrap();
    let mut tcp = TcpStream::connect(lab.address("mail.hamburger.edu", 8025)).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(tcp.try_clone().unwrap());
    let mut hear = |wanted: &str| {
        let mut line = String::new();
        while !line.starts_with(wanted) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "no {wanted}");
        }
    };
    hear("220 ");
    write!(tcp, "EHLO crepes.fr\r\n").unwrap();
    hear("250 ");
    write!(tcp, "STARTTLS\r\nMAIL FROM:<mallory@example.org>\r\nRCPT TO:<bob@hamburger.edu>\r\n").unwrap();
    hear("220 ");
    let name = ServerName::try_from("mail.hamburger.edu").unwrap();
    let session = rustls::ClientConnection::new(trusting(&lab), name).unwrap();
    let mut tls = BufReader::new(rustls::StreamOwned::new(session, tcp));
    write!(tls.get_mut(), "RSET\r\nEHLO crepes.fr\r\nDATA\r\nQUIT\r\n").unwrap();
    let mut heard = String::new();
    // It may close without saying so in TLS.
    let _ = tls.read_to_string(&mut heard);
    let codes: Vec<&str> = heard.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| &line[..3]).collect();
    assert_eq!(codes, ["250", "250", "503", "221"], "only what came inside TLS is answered: {heard}");
}

#[test]
fn who_speaks_no_tls_where_it_is_wanted_is_let_go_and_others_are_served() {
    let lab = Lab::up().unwrap();
    let at = lab.address("mail.hamburger.edu", 8465);
    let mut wrong = TcpStream::connect(at).unwrap();
    wrong.set_read_timeout(Some(PATIENCE)).unwrap();
    wrong.write_all(b"EHLO crepes.fr\r\n").unwrap();
    let mut heard = vec![];
    // The answer is an alert of TLS, or nothing.
    let _ = wrong.read_to_end(&mut heard);
    assert!(!heard.starts_with(b"2"), "{heard:?}");
    let name = ServerName::try_from("mail.hamburger.edu").unwrap();
    let session = rustls::ClientConnection::new(trusting(&lab), name).unwrap();
    let mut tls = BufReader::new(rustls::StreamOwned::new(session, TcpStream::connect(at).unwrap()));
    let mut greeting = String::new();
    tls.read_line(&mut greeting).unwrap();
    assert_eq!(greeting, "220 hamburger.edu\r\n");
}

// --- A machine in trouble --------------------------------------------------------------------------------------------

#[test]
fn a_queue_or_a_mailbox_that_cannot_be_written_to_is_451_and_the_log_says_why() {
    let site = hamburger();
    let mut running = site.start().unwrap();
    fs::remove_dir_all(site.folder().join("spool/queue")).unwrap();
    let mut client = Client::greeted(site.address()).unwrap();
    let heard = client.send(ALICE, &[BOB, BOBS_LISTS], "Subject: where to").unwrap();
    assert!(heard.starts_with("451 4.3.0 "), "{heard}");
    let log = running.wait_for("cannot store a message").unwrap();
    assert!(log.contains("No such file or directory"), "{log}");
    assert_untouched(&site);
    // For one mailbox no queue is needed. One that is missing is made; one that is no directory can be none.
    assert!(client.send(ALICE, &[BOB], "Subject: made for you").unwrap().starts_with("250 "));
    fs::remove_dir_all(site.folder().join("mail/bob")).unwrap();
    fs::write(site.folder().join("mail/bob"), "in the way").unwrap();
    let heard = client.send(ALICE, &[BOB], "Subject: where to").unwrap();
    assert!(heard.starts_with("451 4.3.0 "), "{heard}");
    fs::remove_file(site.folder().join("mail/bob")).unwrap();
    assert_still_serves(&site);
}

#[test]
#[ignore = "mounts a small file system, which needs user namespaces: tests/run clients"]
fn a_full_disk_is_452_and_nothing_is_lost() {
    alone::test(|| {
        let site = hamburger();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"]).arg(site.folder()).status();
        assert!(mounted.unwrap().success());
        let mut running = site.start().unwrap();
        let large = "ketchup and pickles, over and over\r\n".repeat(MIB / 35);
        send(site.address(), ALICE, &[BOB], "Subject: before").unwrap();
        // By way of the queue, and straight into a mailbox.
        for to in [&[BOB, BOBS_LISTS][..], &[BOB]] {
            let mut client = Client::greeted(site.address()).unwrap();
            let heard = client.send(ALICE, to, &large).unwrap();
            assert!(heard.starts_with("452 4.3.1 "), "{heard}");
            let log = running.wait_for("cannot store a message").unwrap();
            assert!(log.contains("No space left on device"), "{log}");
            assert_eq!((site.queue().len(), site.begun().len(), site.begun_letters("bob").len()), (0, 0, 0));
            // The client is still there, and so is room for what is small.
            assert!(client.send(ALICE, &[BOB], "Subject: after").unwrap().starts_with("250 "));
        }
        let subjects: Vec<String> = site
            .mail("bob")
            .iter()
            .filter_map(|mail| Some(mail.lines().find(|line| line.starts_with("Subject: "))?.to_owned()))
            .collect();
        assert_eq!(subjects, ["Subject: before", "Subject: after", "Subject: after"]);
    })
    .unwrap();
}
