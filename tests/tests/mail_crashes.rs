//! The promise behind a 250: whatever kills the server, and whenever, the mail that it took is delivered, once.
//!
//! First at each step of a message's way, where the table in `daemons/smtp/src/spool.rs` says which files are there; then in the middle of
//! load, at moments that nobody chose.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use tests::mail::{Client, Site, send, until};
use tests::process::pause;
use tests::program::{Running, Signal};

const ALICE: &str = "alice@crepes.fr";
const BOB: &str = "bob@hamburger.edu";
/// Bob's mailbox too, but another recipient: a message for both goes through the queue.
const BOBS_LISTS: &str = "bob+lists@hamburger.edu";

/// What a test sees on disk.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Files that are not whole, and that nobody reads.
    begun: usize,
    /// Messages of the queue, and states.
    queued: usize,
    states: usize,
    /// Messages that bob finds.
    mail: usize,
}

fn seen(site: &Site, user: &str) -> Seen {
    let queue = site.queue();
    let states = queue.iter().filter(|path| path.extension().is_some()).count();
    let begun = site.begun().len() + site.begun_letters(user).len();
    Seen { begun, queued: queue.len() - states, states, mail: site.mail(user).len() }
}

/// Starts a server that dies at a step.
fn start_dying(site: &Site, step: &str) -> Running {
    site.start_with(&[("TOMTE_CRASH_AT", step)]).unwrap()
}

/// Hands in a message to a server that dies of it, and waits for its death. Whether it said 250 before.
fn send_and_die(site: &Site, running: Running, to: &[&str]) -> bool {
    let mut client = Client::greeted(site.address()).unwrap();
    let answered =
        client.send(ALICE, to, "Subject: the last one\r\n\r\nhello").is_ok_and(|heard| heard.starts_with("250"));
    let ended = running.end().unwrap();
    assert_eq!(ended.code, None, "it was killed: {ended:?}");
    answered
}

/// A message is either whole or not there.
fn assert_whole(site: &Site, user: &str) {
    for message in site.mail(user) {
        assert!(message.starts_with("Return-Path: <"), "{message}");
        assert!(message.ends_with("\r\n\r\nhello\r\n"), "{message}");
    }
}

#[test]
fn a_kill_while_a_message_comes_in_leaves_it_whole_in_the_queue_or_not_at_all() {
    for (step, left, delivered) in [
        ("written", Seen { begun: 1, queued: 0, states: 0, mail: 0 }, 0),
        ("synced", Seen { begun: 1, queued: 0, states: 0, mail: 0 }, 0),
        // It has its name. Nobody was told, and it is delivered all the same: its sender will send it again (RFC 1047).
        ("renamed", Seen { begun: 0, queued: 1, states: 0, mail: 0 }, 2),
        ("safe", Seen { begun: 0, queued: 1, states: 0, mail: 0 }, 2),
    ] {
        let site = Site::new("hamburger.edu", "bob").unwrap();
        let answered = send_and_die(&site, start_dying(&site, step), &[BOB, BOBS_LISTS]);
        assert!(!answered, "{step}: 250 comes after all of it");
        assert_eq!(seen(&site, "bob"), left, "{step}");
        let _running = site.start().unwrap();
        assert_eq!(site.begun(), [] as [PathBuf; 0], "{step}: tmp/ is empty after a start");
        site.wait_until_delivered().unwrap();
        assert_eq!(site.mail("bob").len(), delivered, "{step}");
        // The sender, who heard nothing, sends it again.
        send(site.address(), ALICE, &[BOB, BOBS_LISTS], "Subject: again\r\n\r\nhello").unwrap();
        site.wait_until_delivered().unwrap();
        assert_eq!(site.mail("bob").len(), delivered + 2, "{step}");
        assert_whole(&site, "bob");
    }
}

#[test]
fn a_kill_while_a_message_goes_straight_into_a_mailbox_shows_it_whole_or_not_at_all() {
    for (step, left) in [
        ("letter written", Seen { begun: 1, queued: 0, states: 0, mail: 0 }),
        ("letter placed", Seen { begun: 0, queued: 0, states: 0, mail: 1 }),
    ] {
        let site = Site::new("hamburger.edu", "bob").unwrap();
        let answered = send_and_die(&site, start_dying(&site, step), &[BOB]);
        assert!(!answered, "{step}: 250 comes after all of it");
        assert_eq!(seen(&site, "bob"), left, "{step}");
        let _running = site.start().unwrap();
        send(site.address(), ALICE, &[BOB], "Subject: again\r\n\r\nhello").unwrap();
        assert_eq!(site.mail("bob").len(), left.mail + 1, "{step}");
        assert_whole(&site, "bob");
    }
}

#[test]
fn a_kill_while_the_queue_fills_mailboxes_delivers_to_each_recipient_once() {
    for (step, left) in [
        ("letter written", Seen { begun: 1, queued: 1, states: 0, mail: 0 }),
        ("letter placed", Seen { begun: 0, queued: 1, states: 0, mail: 1 }),
        ("tried", Seen { begun: 0, queued: 1, states: 0, mail: 2 }),
        ("reported", Seen { begun: 0, queued: 1, states: 0, mail: 2 }),
        ("message removed", Seen { begun: 0, queued: 0, states: 0, mail: 2 }),
    ] {
        let site = Site::new("hamburger.edu", "bob").unwrap();
        // Whether 250 was said is not ours to know: the delivery begins while it is on its way.
        send_and_die(&site, start_dying(&site, step), &[BOB, BOBS_LISTS]);
        assert_eq!(seen(&site, "bob"), left, "{step}");
        let _running = site.start().unwrap();
        site.wait_until_delivered().unwrap();
        assert_eq!(seen(&site, "bob"), Seen { begun: 0, queued: 0, states: 0, mail: 2 }, "{step}");
        assert_whole(&site, "bob");
    }
}

#[test]
fn a_kill_while_a_state_is_written_leaves_the_old_state_or_the_new_one() {
    for (step, left) in [
        ("state written", Seen { begun: 1, queued: 1, states: 0, mail: 0 }),
        ("state renamed", Seen { begun: 0, queued: 1, states: 1, mail: 0 }),
    ] {
        let there = Site::new("hamburger.edu", "bob").unwrap().with("fault_addresses = true");
        let here = Site::new("crepes.fr", "alice").unwrap().sending_to(&there).with("retry = [\"1 h\"]");
        let _there = there.start().unwrap();
        send_and_die(&here, start_dying(&here, step), &["fail-451@hamburger.edu"]);
        assert_eq!(seen(&here, "alice"), left, "{step}");
        let _running = here.start().unwrap();
        // With the old state, which is none, the try is made again; with the new one its time has not come.
        until("one try is noted", || seen(&here, "alice") == Seen { begun: 0, queued: 1, states: 1, mail: 0 }).unwrap();
        let state = here.queue().into_iter().find(|path| path.extension().is_some()).unwrap();
        let state = fs::read_to_string(state).unwrap();
        assert!(state.contains("tries = 1\n") && state.contains("451"), "{step}: {state}");
    }
}

#[test]
fn a_kill_before_a_failure_is_noted_costs_a_second_report_and_never_the_first() {
    for (step, reports) in [("tried", 1), ("reported", 2)] {
        let there = Site::new("hamburger.edu", "bob").unwrap();
        let here = Site::new("crepes.fr", "alice").unwrap().sending_to(&there);
        let _there = there.start().unwrap();
        send_and_die(&here, start_dying(&here, step), &["nobody@hamburger.edu"]);
        assert_eq!(seen(&here, "alice"), Seen { begun: 0, queued: reports, states: 0, mail: 0 }, "{step}");
        let _running = here.start().unwrap();
        here.wait_until_delivered().unwrap();
        let mail = here.mail("alice");
        assert_eq!(mail.len(), reports, "{step}");
        assert!(
            mail.iter().all(|report| report.contains("nobody@hamburger.edu") && report.contains("550")),
            "{mail:?}"
        );
    }
}

#[test]
fn a_state_whose_message_is_gone_is_removed_at_the_next_start() {
    let there = Site::new("hamburger.edu", "bob").unwrap();
    let here = Site::new("crepes.fr", "alice").unwrap().sending_to(&there);
    let _there = there.start().unwrap();
    // The first of the two to be done leaves a state, the second removes the message.
    send_and_die(&here, start_dying(&here, "message removed"), &[ALICE, BOB]);
    assert_eq!(seen(&here, "alice"), Seen { begun: 0, queued: 0, states: 1, mail: 1 });
    let _running = here.start().unwrap();
    assert_eq!(seen(&here, "alice"), Seen { begun: 0, queued: 0, states: 0, mail: 1 });
    assert_eq!(there.mail("bob").len(), 1);
}

// --- At any moment ---------------------------------------------------------------------------------------------------

/// What the senders know: the messages that were answered 250, and for whom.
#[derive(Default)]
struct Ledger {
    answered: Mutex<Vec<(String, Kind)>>,
    unanswered: AtomicUsize,
}

/// The ways of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Straight into alice's mailbox.
    Straight,
    /// Into alice's mailbox by way of the queue, for two recipients.
    Queued,
    /// On to bob's server.
    Relayed,
}

impl Kind {
    fn recipients(self) -> &'static [&'static str] {
        match self {
            Self::Straight => &[ALICE],
            Self::Queued => &[ALICE, "alice+lists@crepes.fr"],
            Self::Relayed => &[BOB],
        }
    }
}

impl Ledger {
    fn count(&self) -> usize {
        self.answered.lock().unwrap().len()
    }

    /// Sends one message after the other until `over`. None is sent twice, so whatever is there twice was made by the servers.
    fn send(&self, site: &Site, sender: usize, over: &AtomicBool) {
        let kind = [Kind::Straight, Kind::Queued, Kind::Relayed, Kind::Relayed][sender % 4];
        let mut client = None;
        for number in 0.. {
            if over.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("<{sender}.{number}>");
            let Some(open) = client.take().or_else(|| Client::greeted(site.address()).ok()) else {
                pause();
                continue;
            };
            let mut open: Client = open;
            match open.send("carol@crepes.fr", kind.recipients(), &format!("Subject: {name}\r\n\r\nhello")) {
                Ok(heard) if heard.starts_with("250 ") => self.answered.lock().unwrap().push((name, kind)),
                // It was killed, or is being started.
                Ok(_) | Err(_) => {
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
            }
            client = Some(open);
        }
    }
}

/// Ends the senders, also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often each message is in a mailbox, by its name.
fn copies(site: &Site, user: &str) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for message in site.mail(user) {
        assert!(message.ends_with("\r\n\r\nhello\r\n"), "a message that is not whole: {message}");
        let subject = message.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap();
        *copies.entry(subject.to_owned()).or_default() += 1;
    }
    copies
}

#[test]
#[ignore = "kills two servers sixty times, which takes half a minute: tests/run clients"]
fn whatever_was_answered_250_is_delivered_after_sixty_kills_under_load() {
    const KILLS: usize = 60;
    const SENDERS: usize = 8;
    /// `deliveries_per_destination`: messages that can be between two servers when one of them dies.
    const COURIERS: usize = 5;
    let there = Site::new("hamburger.edu", "bob").unwrap();
    let here = Site::new("crepes.fr", "alice").unwrap().sending_to(&there).with("retry = [\"1 s\"]");
    let mut running = [&there, &here].map(|site| Some(site.start().unwrap()));
    let (ledger, over, begin) = (Ledger::default(), AtomicBool::new(false), Instant::now());
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (ledger, here, over) = (&ledger, &here, &over);
            scope.spawn(move || ledger.send(here, sender, over));
        }
        let _end = End(&over);
        for kill in 0..KILLS {
            // After so many more messages; each time another number, so that the kills meet other steps.
            let goal = ledger.count() + 5 + kill * 7 % 40;
            until("mail goes on", || ledger.count() >= goal).unwrap();
            // Two of three times the server that has the queue.
            let (site, running) = if kill % 3 == 2 { (&there, &mut running[0]) } else { (&here, &mut running[1]) };
            let killed = running.take().unwrap();
            killed.signal(Signal::KILL).unwrap();
            assert_eq!(killed.end().unwrap().code, None);
            *running = Some(site.start().unwrap());
        }
    });
    here.wait_until_delivered().unwrap();
    there.wait_until_delivered().unwrap();

    let (alices, bobs) = (copies(&here, "alice"), copies(&there, "bob"));
    let answered = ledger.answered.into_inner().unwrap();
    for (name, kind) in &answered {
        let found = if *kind == Kind::Relayed { bobs.get(name) } else { alices.get(name) };
        assert!(
            found.is_some_and(|copies| *copies >= kind.recipients().len()),
            "{name} {kind:?} was answered 250: {found:?}"
        );
    }
    for (name, copies) in &alices {
        let sender: usize = name[1..].split('.').next().unwrap().parse().unwrap();
        let most = if sender % 4 == 1 { 2 } else { 1 };
        assert!(*copies <= most, "{name} is there {copies} times, for {most} recipients");
    }
    let twice = bobs.values().map(|copies| copies - 1).sum::<usize>();
    assert!(twice <= KILLS * COURIERS, "{twice} more than were under way");
    let relayed = answered.iter().filter(|(_, kind)| *kind == Kind::Relayed).count();
    println!(
        "{KILLS} kills in {:.1?}: {} messages answered 250 ({relayed} of them relayed), {} not answered; lost 0; \
         twice in a mailbox by local delivery 0, by relaying {twice} (killed between the other's 250 and our note)",
        begin.elapsed(),
        answered.len(),
        ledger.unanswered.load(Ordering::Relaxed),
    );
}
