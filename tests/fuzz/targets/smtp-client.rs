//! Any octets as what another server answers: the session comes to an end, says lines that are lines, and each recipient has one fate.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shared::wire::{Crlf, LineEnd};
use smtp::{
    answer::{LINE_OCTETS_MAX, Listener},
    client::{Client, Hello, Login, Loss, Peer, Step, Tls, Transaction},
    envelope::{Body, Charset, Envelope, Notify, Recipient, Ret},
    session::Plaintext,
};
use std::sync::Arc;

/// A message for so many.
fn transaction(mood: u8) -> Transaction {
    let recipient = |number: u8| {
        let to = format!("user{number}@hamburger.edu").parse().expect("an address");
        Recipient { to, notify: Notify::Unsaid, orcpt: None }
    };
    // Now and then more than a server must take at once (RFC 5321 §4.5.3.1.8).
    let count = if mood & 3 == 3 { 120 } else { 1 + (mood & 3) };
    let body = if mood & 4 == 0 { Body::SevenBit } else { Body::EightBitMime };
    let (from, charset, ret) = ("<alice@crepes.fr>".parse().expect("a path"), Charset::Ascii, Ret::Unsaid);
    let recipients: Vec<Recipient> = (0..count).map(recipient).collect();
    let which = (0..recipients.len()).collect();
    let envelope = Envelope { from, body, charset, ret, envid: None, recipients };
    Transaction { envelope: Arc::new(envelope), recipients: which, octets: 1000, body, charset }
}

/// What a session has come to.
#[derive(Debug, PartialEq, Eq)]
enum Now {
    /// It hears the server.
    Hears,
    /// It has told why nothing can be sent, or hung up.
    Over,
}

/// Drives a session.
struct Driver {
    client: Client,
    mood: u8,
    /// Messages that are still to be sent, and recipients of the one that is under way.
    left: u8,
    under_way: usize,
}

impl Driver {
    /// Does what the session wants until it hears again.
    fn perform(&mut self, mut step: Step) -> Now {
        loop {
            step = match step {
                Step::Hear(_) => return Now::Hears,
                Step::Say(lines, _) => {
                    for line in &lines {
                        assert!(line.len() <= 2000 && !line.contains(['\r', '\n', '\0']), "{line:?}");
                    }
                    assert!(!lines.is_empty() && lines.len() <= 200, "{} lines in one go", lines.len());
                    return Now::Hears;
                }
                Step::SaySecret(line, _) => {
                    assert!(!line.contains(['\r', '\n']));
                    return Now::Hears;
                }
                Step::StartTls if self.mood & 8 == 0 => self.client.encrypted(),
                Step::StartTls => self.client.lost(&Loss::Broken("no TLS".to_owned())),
                Step::Ready => self.next(),
                Step::SendMessage => self.client.message_sent(),
                Step::Unready(fate) => {
                    assert!(!fate.account().to_string().contains(char::is_control));
                    self.client.quit()
                }
                Step::Finished(fates) => {
                    assert_eq!(fates.len(), self.under_way, "one fate for each recipient");
                    self.under_way = 0;
                    if self.client.is_ready() { self.next() } else { self.client.quit() }
                }
                Step::HangUp => return Now::Over,
            };
        }
    }

    fn next(&mut self) -> Step {
        if self.left == 0 {
            return self.client.quit();
        }
        self.left -= 1;
        let transaction = transaction(self.mood);
        self.under_way = transaction.recipients.len();
        self.client.begin(transaction)
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mood, said)) = data.split_first() else { return };
    let (user, secret, plaintext) = ("alice".to_owned(), "crepes".to_owned(), Plaintext::Allowed);
    let login = (mood & 16 != 0).then_some(Login { user, secret, plaintext });
    let tls = if mood & 32 == 0 { Tls::IfOffered } else { Tls::Never };
    let hello = Hello { name: "crepes.fr".to_owned(), tls, login, nonce: Some("n".to_owned()) };
    let peer =
        Peer { name: "mail.hamburger.edu".to_owned(), label: "mail.hamburger.edu [127.77.2.25]:8025".to_owned() };
    let (client, step) = Client::new(Arc::new(hello), peer);
    let mut driver = Driver { client, mood: *mood, left: mood >> 6, under_way: 0 };
    let mut now = driver.perform(step);
    let (mut crlf, mut listener) = (Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX), Listener::default());
    let mut input = said.into();
    while now == Now::Hears
        && let Some(line) = crlf.next_line(&mut input)
    {
        let step = match listener.hear(&line) {
            Ok(None) => continue,
            Ok(Some(answer)) => driver.client.on_answer(&answer),
            Err(malformed) => driver.client.lost(&Loss::Malformed(malformed)),
        };
        now = driver.perform(step);
    }
    // It hangs up at last, whatever it has said; after QUIT nobody waits any more.
    for _ in 0..3 {
        if now == Now::Hears {
            let step = driver.client.lost(&Loss::HungUp);
            now = driver.perform(step);
        }
    }
    assert_eq!((now, driver.under_way), (Now::Over, 0), "a recipient without a fate");
});
