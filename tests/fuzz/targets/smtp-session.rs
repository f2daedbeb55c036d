//! Any octets as what a client says, from every state: always an answer or a goodbye, never a panic, replies that fit into their lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::{
    login::Answer,
    sasl::ScramKeys,
    wire::{Crlf, Line, LineEnd},
};
use smtp::{
    body::Flaw,
    reply::Reply,
    route::{Faults, House, MayRelay, Residents, Target},
    session::{
        Channel, Curiosity, Effect, LINE_OCTETS_MAX, Outcome, Plaintext, Purpose, Session, StartTls, Step, Terms,
        Trouble,
    },
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock},
};

const RECIPIENTS_MAX: usize = 5;

/// Who is there. What is offered depends on the input.
fn terms(mood: u8) -> Arc<Terms> {
    static ALIASES: LazyLock<HashMap<String, Vec<Target>>> = LazyLock::new(|| {
        let name = |name: &str| Target::Name(name.to_owned());
        HashMap::from([
            ("info".to_owned(), vec![name("bob"), name("alice")]),
            ("circle".to_owned(), vec![name("circle")]),
        ])
    });
    Arc::new(Terms {
        house: House {
            name: "hamburger.edu".to_owned(),
            domains: vec!["hamburger.edu".parse().expect("a domain")],
            addresses: vec![[127, 0, 0, 1].into()],
            residents: Residents::Named(HashSet::from(["alice", "bob"].map(str::to_owned))),
            aliases: ALIASES.clone(),
            catch_all: None,
            separator: Some('+'),
            faults: Faults::On,
        },
        message_octets_max: 2000,
        recipients_max: RECIPIENTS_MAX,
        starttls: if mood & 1 == 0 { StartTls::Offered } else { StartTls::No },
        plaintext: if mood & 2 == 0 { Plaintext::Allowed } else { Plaintext::OverTls },
        curiosity: if mood & 4 == 0 { Curiosity::Answered } else { Curiosity::Declined },
    })
}

/// What the world answers.
fn outcome(effect: Effect, mood: u8) -> Outcome {
    match effect {
        Effect::Verify(_) if mood & 8 == 0 => Outcome::Login(Answer::Welcome),
        Effect::Verify(_) => Outcome::Login(Answer::Denied),
        Effect::FetchKeys(user) => {
            Outcome::Login(Answer::Keys { keys: ScramKeys::decoy(b"key", &user), nonce: "nonce".to_owned() })
        }
        Effect::Admit { mailboxes, .. } => {
            assert!(!mailboxes.is_empty(), "a recipient means somebody");
            if mood & 16 == 0 { Outcome::Admitted } else { Outcome::Refused(Reply::queue_full()) }
        }
        Effect::Open(opening) => {
            assert!(!opening.envelope.recipients.is_empty(), "nobody would get it");
            if mood & 32 == 0 { Outcome::Opened } else { Outcome::Trouble(Trouble::QueueFull) }
        }
    }
}

/// What comes of a message that was read.
fn read(mood: u8) -> Outcome {
    match mood >> 4 & 3 {
        0 => Outcome::Stored { id: "1K165SN36BV".to_owned() },
        1 => Outcome::Flawed(Flaw::BareLf),
        _ => Outcome::Trouble(Trouble::DiskFull),
    }
}

/// RFC 5321 §4.5.3.1.5: a line of a reply has at most 512 octets with CR LF, and nothing of a client's becomes a line of its own.
fn assert_sound(session: &Session, reply: &Reply) {
    let lines: Vec<_> = reply.lines(session.codes()).collect();
    assert!(!lines.is_empty());
    for (number, line) in lines.iter().enumerate() {
        let text: &str = line;
        assert!(text.len() <= 4096 && !text.contains(['\r', '\n', '\0']), "{text:?}");
        let divides = if number + 1 == lines.len() { b' ' } else { b'-' };
        assert!(text.as_bytes()[..3].iter().all(u8::is_ascii_digit) && text.as_bytes()[3] == divides, "{text:?}");
    }
}

fuzz_target!(|data: &[u8]| {
    let [mood, begin, said @ ..] = data else { return };
    let purpose = if begin & 16 == 0 { Purpose::Relay } else { Purpose::Submission };
    let relay = if begin & 32 == 0 { MayRelay::Yes } else { MayRelay::No };
    let (mut session, greeting) = Session::new(terms(*mood), Channel::Clear, purpose, relay);
    assert_sound(&session, &greeting);
    // Beginning in each state: as we are, with a name, in a transaction, with a recipient, within AUTH, among chunks.
    let before: &[&[u8]] = match begin & 15 {
        1 => &[b"HELO crepes.fr"],
        2 => &[b"EHLO crepes.fr"],
        3 => &[b"EHLO crepes.fr", b"MAIL FROM:<alice@crepes.fr>"],
        4 => &[b"EHLO crepes.fr", b"MAIL FROM:<>", b"RCPT TO:<bob@hamburger.edu>"],
        5 => &[b"EHLO crepes.fr", b"AUTH LOGIN"],
        6 => &[b"EHLO crepes.fr", b"AUTH SCRAM-SHA-256"],
        7 => &[b"EHLO crepes.fr", b"MAIL FROM:<>", b"RCPT TO:<info@hamburger.edu>", b"BDAT 5"],
        8 => &[b"EHLO crepes.fr", b"AUTH PLAIN AGJvYgBodW5ncnk=", b"MAIL FROM:<bob@hamburger.edu>"],
        _ => &[],
    };
    let mut crlf = Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX);
    let mut input = said.into();
    let mut lines: Vec<Line> = before.iter().map(|line| Line::Text(line.to_vec().into())).collect();
    while let Some(line) = crlf.next_line(&mut input) {
        lines.push(line);
    }
    for line in lines {
        let mut step = session.on_line(&line);
        let mut turns = 0;
        loop {
            turns += 1;
            assert!(turns < 5, "no answer after {turns} steps");
            step = match step {
                Step::Perform(effect) => session.on_outcome(outcome(effect, *mood)),
                Step::ReadText(reply) => {
                    assert_sound(&session, &reply);
                    session.on_outcome(read(*mood))
                }
                Step::ReadChunk { last: smtp::command::Last::Yes, .. } => session.on_outcome(read(*mood)),
                Step::ReadChunk { .. } => session.on_outcome(Outcome::ChunkRead),
                Step::SkipChunk { reply, .. } | Step::Reply(reply) | Step::Challenge(reply) => {
                    assert_sound(&session, &reply);
                    break;
                }
                Step::StartTls(reply) => {
                    assert_sound(&session, &reply);
                    session.encrypted();
                    break;
                }
                Step::Close(reply) => {
                    assert_sound(&session, &reply);
                    return;
                }
            };
        }
    }
});
