//! Any octets as what a client says, from every state: always an answer or a goodbye, never a panic, totals that fit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pop3::session::{Channel, Effect, Extent, Header, Offer, Outcome, Plaintext, Session, Step, Stls};
use shared::{
    login::Answer,
    maildir::Listing,
    sasl::ScramKeys,
    wire::{Crlf, Line, LineEnd},
};
use std::{sync::Arc, time::Duration};

/// What the world answers; the first octet of the input decides how it is disposed.
fn outcome(effect: Effect, mood: u8) -> Outcome {
    match effect {
        Effect::Verify(_) if mood & 1 == 0 => Outcome::Login(Answer::Welcome),
        Effect::Verify(_) => Outcome::Login(Answer::Denied),
        Effect::FetchKeys(user) => {
            Outcome::Login(Answer::Keys { keys: ScramKeys::decoy(b"key", &user), nonce: "nonce".to_owned() })
        }
        Effect::OpenMaildrop(_) if mood & 2 == 0 => {
            Outcome::Opened(Arc::new(Listing::of([("1.M1P1Q1.h", 498), ("2.M1P1Q1.h", 912), ("3.M1P1Q1.h", 0)])))
        }
        Effect::OpenMaildrop(_) => Outcome::Busy,
        Effect::Open { index, extent } => {
            assert!(index < 3 && (extent == Extent::Whole || matches!(extent, Extent::Top(_))));
            if mood & 4 == 0 { Outcome::Ready(Header::Plain) } else { Outcome::Vanished }
        }
        Effect::Remove(indexes) => {
            assert!(!indexes.is_empty() && indexes.iter().all(|index| *index < 3));
            Outcome::Removed { failed: usize::from(mood & 8) }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mood, said)) = data.split_first() else { return };
    let plaintext = if mood & 16 == 0 { Plaintext::Allowed } else { Plaintext::OverTls };
    let stls = if mood & 32 == 0 { Stls::Offered } else { Stls::No };
    let offer = Offer { plaintext, stls, login_delay: Duration::from_secs(u64::from(mood >> 6)) };
    let (mut session, _) = Session::new(Arc::new(offer), Channel::Clear, Some("<1@h>".into()));
    // Beginning in each state: as we are, logged in, and within AUTH.
    let before: &[&[u8]] = match mood >> 6 {
        1 => &[b"USER bob", b"PASS hungry"],
        2 => &[b"AUTH SCRAM-SHA-256"],
        _ => &[],
    };
    let mut crlf = Crlf::new(LineEnd::CrLf, 255);
    let mut input = said.into();
    let first = before.iter().map(|line| Line::Text(line.to_vec().into()));
    let mut lines = first.collect::<Vec<_>>();
    while let Some(line) = crlf.next_line(&mut input) {
        lines.push(line);
    }
    for line in lines {
        let mut step = session.on_line(&line);
        for _ in 0..4 {
            match step {
                Step::Perform(effect) => step = session.on_outcome(outcome(effect, *mood)),
                _ => break,
            }
        }
        match step {
            Step::Perform(effect) => panic!("no answer after four effects: {effect:?}"),
            Step::Close(reply) => {
                assert!(reply.to_string().len() <= 510);
                return;
            }
            Step::StartTls(_) => session.encrypted(),
            Step::Lines(reply, lines) => {
                assert!(reply.is_ok() && session.lines(&lines).all(|line| !line.starts_with('.') && line.len() <= 510));
            }
            Step::Reply(reply) | Step::Challenge(reply) | Step::Message(reply) => {
                // RFC 1939 §3: 512 octets with CR LF. A challenge may be longer, as far as the client's nonce makes it so.
                let text = reply.to_string();
                assert!(text.len() <= 510 || text.starts_with("+ "), "{text}");
            }
        }
    }
});
