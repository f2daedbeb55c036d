//! The transcripts, played every way; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::BytesMut;
use pop3::{
    Config, Server,
    body::{Cut, Stuffing, header},
    reply::Reply,
    session::{Channel, Credentials, Effect, Extent, LINE_OCTETS_MAX, Offer, Outcome, Plaintext, Session, Step, Stls},
};
use shared::{
    Shared,
    accounts::{self, Accounts},
    maildir::{Listing, Maildir},
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::{Heard, Transport},
    wire::{Crlf, LineEnd},
};
use std::{
    collections::BTreeSet,
    fs,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, duplex},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");

/// RFC 2449 §6.6: "The client ... must wait" where the next line's meaning depends on the answer. RFC 5034: each line of AUTH.
fn must_wait(line: &str) -> bool {
    line.to_ascii_uppercase().starts_with("AUTH") || line == "*" || line.ends_with('=')
}

const PACES: [Pace; 3] = [Pace::Lines, Pace::Octets, Pace::Pipelined(must_wait)];

/// Mailboxes as the lab begins: bob has two messages, alice none.
struct Mailboxes(tempfile::TempDir);

impl Mailboxes {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Maildir::open_or_create(&folder.path().join("bob")).unwrap();
        let mailboxes = Self(folder);
        for entry in fs::read_dir(Path::new(SHIPPED).join("mail/hamburger.edu/bob/new")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), mailboxes.path("new").join(entry.file_name())).unwrap();
        }
        mailboxes
    }

    fn path(&self, folder: &str) -> PathBuf {
        self.0.path().join("bob").join(folder)
    }

    fn files(&self) -> Vec<String> {
        let names =
            fs::read_dir(self.path("new")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path("new").join(name), text).unwrap();
    }

    fn config(&self) -> Config {
        Config {
            listen: vec![([127, 0, 0, 1], 0).into()],
            mailboxes: self.0.path().to_owned(),
            domains: vec!["hamburger.edu".to_owned()],
            allow_plaintext_auth: true,
            ..Config::default()
        }
    }
}

fn shared() -> Shared {
    let file = Some(Path::new(SHIPPED).join("accounts.toml"));
    let accounts = Accounts::load(&accounts::Config { file, ..accounts::Config::default() }).unwrap();
    Shared { accounts: Arc::new(accounts), ..Shared::for_tests("pop3") }
}

/// Runs `test` beside a server, then stops the server and waits for it.
async fn beside_a_server<F: Future<Output = ()>>(config: Config, shared: &Shared, test: impl FnOnce(SocketAddr) -> F) {
    let server = Server::bind(config, shared).unwrap();
    let address = server.local_addrs()[0].address;
    let shutdown = CancellationToken::new();
    let test = async {
        test(address).await;
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

/// The stage has no props in this play.
async fn no_stage(text: &str) -> Result<(), String> {
    Err(format!("`@ {text}` is unknown"))
}

/// The settings that the transcripts of a folder are played with.
fn settings(folder: &str, config: Config) -> Config {
    match folder {
        "strict" => Config { allow_plaintext_auth: false, ..config },
        "apop" => Config { apop: true, ..config },
        _ => config,
    }
}

// --- The session alone -----------------------------------------------------------------------------------------------

/// What the world answers a session that stands alone: bob's and alice's maildrops, in memory.
struct World {
    session: Session,
    messages: Vec<(String, Vec<u8>)>,
    opened: Option<(Vec<u8>, Extent)>,
}

impl World {
    fn new(offer: Offer, stamp: Option<&str>) -> (Self, Reply) {
        let folder = Path::new(SHIPPED).join("mail/hamburger.edu/bob/new");
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let mut messages: Vec<(String, Vec<u8>)> =
            entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect();
        messages.sort();
        let (session, greeting) = Session::new(Arc::new(offer), Channel::Clear, stamp.map(Arc::from));
        (Self { session, messages, opened: None }, greeting)
    }

    fn perform(&mut self, effect: Effect) -> Outcome {
        match effect {
            Effect::Verify(Credentials::Password { user, secret })
                if [("bob", &b"hungry"[..]), ("alice", b"crepes")].contains(&(user.as_str(), secret.as_slice())) =>
            {
                Outcome::Verified
            }
            Effect::Verify(_) => Outcome::Denied,
            Effect::FetchKeys(user) => {
                let keys = shared::sasl::ScramKeys::decoy(b"key", &user);
                Outcome::Keys { keys, nonce: "nonce".to_owned() }
            }
            Effect::OpenMaildrop(user) => {
                let sizes = self.messages.iter().filter(|_| user == "bob").map(|(name, _)| {
                    let (_, octets) = name.rsplit_once('=').unwrap();
                    (name.as_str(), octets.parse().unwrap())
                });
                Outcome::Opened(Arc::new(Listing::of(sizes)))
            }
            Effect::Open { index, extent } => {
                let text = self.messages[index].1.clone();
                let header = header(&text);
                self.opened = Some((text, extent));
                Outcome::Ready(header)
            }
            Effect::Remove(_) => Outcome::Removed { failed: 0 },
        }
    }

    fn hear(&mut self, line: &shared::wire::Line) -> Said {
        let mut step = self.session.on_line(line);
        loop {
            step = match step {
                Step::Perform(effect) => {
                    let outcome = self.perform(effect);
                    self.session.on_outcome(outcome)
                }
                Step::Reply(reply) | Step::Challenge(reply) => return Said::line(reply.to_string()),
                Step::StartTls(_) => panic!("no certificate was offered"),
                Step::Close(reply) => return Said::line(reply.to_string()).and_close(),
                Step::Lines(reply, lines) => {
                    let lines: Vec<String> = self.session.lines(&lines).collect();
                    return Said::lines([vec![reply.to_string()], lines, vec![".".to_owned()]].concat());
                }
                Step::Message(reply) => {
                    let (text, extent) = self.opened.take().unwrap();
                    let (mut out, mut stuffing) = (BytesMut::new(), Stuffing::default());
                    stuffing.push(&text[..Cut::new(extent).take(&text)], &mut out);
                    stuffing.finish(&mut out);
                    let text = String::from_utf8(out.to_vec()).unwrap();
                    let lines = text.strip_suffix("\r\n").unwrap().split("\r\n").map(str::to_owned);
                    return Said::lines([vec![reply.to_string()], lines.collect()].concat());
                }
            };
        }
    }
}

#[test]
fn transcripts_play_against_the_pure_session() {
    for (folder, plaintext, stamp) in [
        ("", Plaintext::Allowed, None),
        ("strict", Plaintext::OverTls, None),
        ("apop", Plaintext::Allowed, Some("<1@h>")),
    ] {
        play_all(Path::new(TRANSCRIPTS).join(folder), |script| {
            let offer = Offer { plaintext, stls: Stls::No, login_delay: Duration::ZERO };
            let (mut world, greeting) = World::new(offer, stamp);
            script.on_session(Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX), |cue| match cue {
                Cue::Opened => Ok(Said::line(greeting.to_string())),
                Cue::Line(line) => Ok(world.hear(&line)),
                Cue::Ended => Ok(Said::nothing().and_close()),
                Cue::Stage(text) => Err(format!("`@ {text}` is unknown")),
            })
        });
    }
}

// --- Over a stream, and over TCP -------------------------------------------------------------------------------------

#[tokio::test]
async fn transcripts_play_over_a_stream() {
    let address = SocketAddr::from(([127, 0, 0, 1], 110));
    for kind in ["", "strict", "apop"] {
        for pace in PACES {
            play_all_async(Path::new(TRANSCRIPTS).join(kind), async |script: &Script| {
                let (mailboxes, shared) = (Mailboxes::new(), shared());
                let server = Server::bind(settings(kind, mailboxes.config()), &shared).unwrap();
                let (near, far) = duplex(64);
                let talk = shared.transcript.conversation(Transport::Tcp, address, address);
                let serve = server.serve_stream(far, Channel::Clear, talk, CancellationToken::new());
                let (result, ()) = tokio::join!(script.on_stream(near, pace, no_stage), serve);
                result
            })
            .await;
        }
    }
}

#[tokio::test]
async fn transcripts_play_over_tcp_and_what_was_deleted_is_gone() {
    for pace in PACES {
        play_all_async(TRANSCRIPTS, async |script: &Script| {
            let (mailboxes, shared) = (Mailboxes::new(), shared());
            let mut result = Ok(());
            beside_a_server(mailboxes.config(), &shared, async |at| result = script.on_tcp(at, pace, no_stage).await)
                .await;
            let left = if script.path().ends_with("textbook.txt") { 0 } else { 2 };
            assert_eq!(mailboxes.files().len(), left, "{}", script.path().display());
            result
        })
        .await;
    }
}
