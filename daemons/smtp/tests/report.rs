//! Reports, as their readers get them: `reports/*.txt`. `UPDATE=1` rewrites the files; then read the diff as a reviewer would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use proptest::prelude::*;
use smtp::{
    address::ReversePath,
    envelope::{Account, Body, Charset, Envelope, Notify, Occasions, OriginalRecipient, Recipient, Ret, Status, Xtext},
    report::{Action, Addressee, Built, Entry, FULL_OCTETS_MAX, Report},
};
use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

const MESSAGE: &str = "Received: from pc by mail.crepes.fr\r\nFrom: Alice <alice@crepes.fr>\r\nTo: bob@hamburger.edu\r\n\
    Subject: Dinner\r\n\r\nDo you like ketchup?\r\nHow about pickles?\r\n";

fn at(minutes: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_mins(29_000_000 + minutes)
}

fn recipient(to: &str, notify: Notify) -> Recipient {
    Recipient { to: to.parse().unwrap(), notify, orcpt: None }
}

fn envelope(from: &str, recipients: Vec<Recipient>) -> Envelope {
    let (body, charset, ret) = (Body::SevenBit, Charset::Ascii, Ret::Unsaid);
    Envelope { from: from.parse().unwrap(), body, charset, ret, envid: None, recipients }
}

fn refused() -> Account {
    Account {
        status: Status(5, 1, 1),
        remote: Some("mail.hamburger.edu".to_owned()),
        reply: Some("550 5.1.1 There is no nobody here. Did you mean somebody?".to_owned()),
        text: "mail.hamburger.edu [127.77.2.25]:8025 does not take the recipient nobody@hamburger.edu".to_owned(),
    }
}

fn down() -> Account {
    Account {
        status: Status(4, 4, 1),
        remote: Some("mail.hamburger.edu".to_owned()),
        reply: None,
        text: "mail.hamburger.edu [127.77.2.25]:8025 does not answer: connection refused".to_owned(),
    }
}

fn taken() -> Account {
    let (remote, reply) = (Some("mail.hamburger.edu".to_owned()), Some("250 ok".to_owned()));
    let text = "mail.hamburger.edu [127.77.2.25]:8025 has taken the message over".to_owned();
    Account { status: Status(2, 0, 0), remote, reply, text }
}

fn report<'a>(envelope: &'a Envelope, outcomes: &[(Action, &'a Account)], original: &'a [u8]) -> Report<'a> {
    let entry = |(recipient, (action, account)): (usize, &(Action, &'a Account))| Entry {
        recipient,
        action: *action,
        account,
        tried: at(7),
    };
    Report {
        host: "mail.crepes.fr",
        id: "R2",
        queue_id: "Q1",
        addressee: Addressee::Sender,
        envelope,
        arrived: at(0),
        now: at(7),
        entries: outcomes.iter().enumerate().map(entry).collect(),
        original,
        octets: original.len() as u64,
    }
}

/// Holds a report against its file, in which CR LF is LF.
fn is_as_in(name: &str, built: &Built) {
    let text = String::from_utf8(built.message.clone()).unwrap();
    is_well_formed(&text);
    let text = text.replace("\r\n", "\n");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reports").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).unwrap();
    }
    assert_eq!(text, fs::read_to_string(&path).unwrap_or_default(), "{name}; UPDATE=1 rewrites it");
}

fn is_well_formed(text: &str) {
    for line in text.split_inclusive("\r\n") {
        let inner = line.strip_suffix("\r\n").unwrap();
        // RFC 5322 §2.1.1, and no stray CR or LF.
        assert!(inner.len() <= 998 && !inner.contains(['\r', '\n']), "{inner:?}");
    }
}

#[test]
fn a_failure_says_who_said_what_and_what_to_do() {
    let mut envelope = envelope(
        "<alice@crepes.fr>",
        vec![
            recipient("nobody@hamburger.edu", Notify::Unsaid),
            recipient("bob@hamburger.edu", Notify::Of(Occasions { failure: true, ..Occasions::default() })),
            recipient("silent@hamburger.edu", Notify::Never),
        ],
    );
    envelope.envid = Some(Xtext::encode("Q=314\r\nBcc: x"));
    envelope.recipients[0].orcpt =
        Some(OriginalRecipient { kind: "rfc822".to_owned(), address: Xtext::encode("somebody+x@someschool.edu") });
    let (refused, down) = (refused(), down());
    let text = format!("given up after 62 tries in 5 days: {}", down.text);
    let expired = Account { status: Status(5, 4, 7), text, ..down };
    let failed = Action::Failed;
    let report = report(&envelope, &[(failed, &refused), (failed, &expired), (failed, &refused)], MESSAGE.as_bytes());
    let built = report.build().unwrap();
    is_as_in("failed.txt", &built);
    assert_eq!(built.envelope.from, ReversePath::Null);
    assert_eq!(built.envelope.recipients, [recipient("alice@crepes.fr", Notify::Never)]);
    assert_eq!(built.envelope.body, Body::SevenBit);
}

/// RFC 6152 §3, RFC 6531 §3.6: we do not encode what its author has not, so its author must hear how.
#[test]
fn what_another_server_cannot_take_is_reported_with_the_way_to_write_it() {
    let envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
    for (status, cure) in [
        (Status(5, 6, 3), "What to do: have your mail program encode the message as quoted-printable or base64"),
        (Status(5, 6, 7), "What to do: for this recipient, use addresses in ASCII, yours too, and have your mail"),
    ] {
        let account = Account { status, ..refused() };
        let built = report(&envelope, &[(Action::Failed, &account)], MESSAGE.as_bytes()).build().unwrap();
        let text = String::from_utf8(built.message).unwrap().replace("\r\n", " ");
        assert!(text.contains(cure), "{text}");
    }
}

/// RFC 5321 §4.2: replies are ASCII. A report about one that is not must get through to a server without 8BITMIME all the same.
#[test]
fn a_report_is_ascii_where_all_but_the_other_servers_reply_is() {
    let envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
    let account = Account { reply: Some("550 Empfänger unbekannt".to_owned()), ..refused() };
    let built = report(&envelope, &[(Action::Failed, &account)], MESSAGE.as_bytes()).build().unwrap();
    assert_eq!((built.envelope.body, built.message.is_ascii()), (Body::SevenBit, true));
    assert!(String::from_utf8(built.message).unwrap().contains("Diagnostic-Code: smtp; 550 Empf?nger unbekannt"));
}

#[test]
fn a_delay_says_until_when_it_is_tried() {
    let envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
    let down = down();
    let report = report(&envelope, &[(Action::Delayed { until: at(7200) }, &down)], MESSAGE.as_bytes());
    is_as_in("delayed.txt", &report.build().unwrap());
}

#[test]
fn success_is_told_to_those_who_asked_and_by_whom_it_is_known() {
    let success = Notify::Of(Occasions { success: true, ..Occasions::default() });
    let envelope = envelope(
        "<alice@crepes.fr>",
        vec![
            recipient("bob@hamburger.edu", success),
            recipient("carol@crepes.fr", success),
            recipient("dave@crepes.fr", Notify::Unsaid),
        ],
    );
    let (taken, local) =
        (taken(), Account { remote: None, reply: None, text: "it is in the mailbox".to_owned(), ..taken() });
    let outcomes = [(Action::Relayed, &taken), (Action::Delivered, &local), (Action::Delivered, &local)];
    is_as_in("success.txt", &report(&envelope, &outcomes, MESSAGE.as_bytes()).build().unwrap());
    // Who has not asked hears nothing.
    let mut only_dave = report(&envelope, &outcomes, MESSAGE.as_bytes());
    only_dave.entries.drain(..2);
    assert_eq!(only_dave.build(), None);
}

#[test]
fn in_utf8_the_parts_are_those_of_rfc_6533() {
    let mut envelope = envelope("<åsa@crepes.fr>", vec![recipient("håkan@hamburger.edu", Notify::Unsaid)]);
    envelope.ret = Ret::Full;
    let refused =
        Account { text: "the server does not take the recipient håkan@hamburger.edu".to_owned(), ..refused() };
    let message = MESSAGE.replace("Dinner", "Middag på lördag");
    let built = report(&envelope, &[(Action::Failed, &refused)], message.as_bytes()).build().unwrap();
    is_as_in("utf8.txt", &built);
    assert_eq!((built.envelope.body, built.envelope.charset), (Body::EightBitMime, Charset::Utf8));
}

#[test]
fn ret_full_returns_the_message_if_it_is_of_reasonable_size_and_failed() {
    let mut envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
    envelope.ret = Ret::Full;
    let (refused, failed) = (refused(), Action::Failed);
    let has = |report: Report<'_>, what: &str| {
        let text = String::from_utf8(report.build().unwrap().message).unwrap();
        is_well_formed(&text);
        text.contains(what)
    };
    assert!(has(report(&envelope, &[(failed, &refused)], MESSAGE.as_bytes()), "How about pickles?"));
    let delayed = Action::Delayed { until: at(1) };
    assert!(!has(report(&envelope, &[(delayed, &refused)], MESSAGE.as_bytes()), "How about pickles?"));
    let large = MESSAGE.to_owned() + &"x\r\n".repeat(30_000);
    assert!(large.len() as u64 > FULL_OCTETS_MAX);
    let mut cut = report(&envelope, &[(failed, &refused)], &large.as_bytes()[..1000]);
    cut.octets = large.len() as u64;
    assert!(has(cut.clone(), "Subject: Dinner\r\n\r\n--=_R2.0--"));
    assert!(!has(cut, "How about pickles?"));
    // A header that is longer than what we have ends with a whole line.
    let endless = "X-Long: yes\r\n".repeat(100);
    let mut cut = report(&envelope, &[(failed, &refused)], &endless.as_bytes()[..1000]);
    cut.octets = 100_000;
    assert!(has(cut, "X-Long: yes\r\n\r\n--=_R2.0--"));
}

#[test]
fn nobody_is_told_of_a_lost_report_but_the_postmaster() {
    let envelope = envelope("<>", vec![recipient("mallory@evil.com", Notify::Never)]);
    let refused = refused();
    let mut report = report(&envelope, &[(Action::Failed, &refused)], MESSAGE.as_bytes());
    assert_eq!(report.build(), None);
    let postmaster = "postmaster@crepes.fr".parse().unwrap();
    report.addressee = Addressee::Postmaster(&postmaster);
    is_as_in("postmaster.txt", &report.build().unwrap());
}

#[test]
fn a_message_that_has_our_boundary_in_it_gets_another_one() {
    let mut envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
    envelope.ret = Ret::Full;
    let refused = refused();
    let message = format!("{MESSAGE}--=_R2.0\r\n--=_R2.1--\r\n");
    let text = report(&envelope, &[(Action::Failed, &refused)], message.as_bytes()).build().unwrap().message;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("boundary=\"=_R2.2\"") && text.ends_with("\r\n--=_R2.2--\r\n"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_a_server_or_sender_says_becomes_a_line_of_its_own(
        reply in ".{0,1500}", text in ".{0,300}", envid in ".{0,60}", word in "[a-z]{0,2000}",
    ) {
        let mut envelope = envelope("<alice@crepes.fr>", vec![recipient("bob@hamburger.edu", Notify::Unsaid)]);
        envelope.envid = Some(Xtext::encode(&envid));
        let reply = Some(format!("{reply}\r\nEvil: yes\r\n{word}"));
        let account = Account { reply, text: format!("{text}\r\n.\r\n{word}"), ..refused() };
        let built = report(&envelope, &[(Action::Failed, &account)], MESSAGE.as_bytes()).build().unwrap();
        let text = String::from_utf8(built.message).unwrap();
        is_well_formed(&text);
        // In the part for people a line may begin with any word; what programs read are the header and the parts below.
        let (header, rest) = text.split_once("\r\n\r\n").unwrap();
        let (_, fields) = rest.split_once("\r\nContent-Type: message/").unwrap();
        prop_assert!(!header.contains("\r\nEvil:") && !fields.contains("\r\nEvil:"));
    }
}
