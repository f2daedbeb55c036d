//! The transcripts, played every way; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use shared::{
    Shared,
    accounts::{self, Accounts},
    sasl::{Credentials, ScramKeys},
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::Transport,
    wire::{Crlf, Line, LineEnd},
};
use smtp::{
    Config, Server,
    body::{Flaw, Incoming, Progress},
    reply::Reply,
    session::{
        Channel, Curiosity, Effect, LINE_OCTETS_MAX, Outcome, Plaintext, Purpose, Session, StartTls, Step, Terms,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::io::duplex;
use tokio_util::sync::CancellationToken;

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config");

/// RFC 2920 §3.1: what must be the last of a group; and each line of AUTH.
fn must_wait(line: &str) -> bool {
    let verb = line.to_ascii_uppercase();
    ["EHLO", "DATA", "AUTH", "STARTTLS", "QUIT", "NOOP", "VRFY", "EXPN"].iter().any(|word| verb.starts_with(word))
        || line == "*"
        || line == "."
        || line.ends_with('=')
        || line.ends_with('5')
}

const PACES: [Pace; 3] = [Pace::Lines, Pace::Octets, Pace::Pipelined(must_wait)];

/// Where a server of hamburger.edu keeps its things.
struct House(tempfile::TempDir);

impl House {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// The messages in bob's mailbox, oldest first.
    fn mail(&self, user: &str) -> Vec<String> {
        files(&self.0.path().join("mail").join(user).join("new"))
    }

    /// The messages in the queue.
    fn queue(&self) -> Vec<String> {
        files(&self.0.path().join("spool/queue"))
    }

    /// Files that were begun.
    fn begun(&self) -> Vec<String> {
        [self.0.path().join("mail/bob/tmp"), self.0.path().join("spool/tmp")]
            .iter()
            .flat_map(|path| files(path))
            .collect()
    }

    fn config(&self) -> Config {
        Config {
            listen: vec![([127, 0, 0, 1], 0).into()],
            hostname: "hamburger.edu".to_owned(),
            domains: vec!["hamburger.edu".to_owned()],
            users: vec!["bob".to_owned()],
            aliases: BTreeMap::from([("info".to_owned(), vec!["bob".to_owned(), "bob+info".to_owned()])]),
            mailboxes: self.0.path().join("mail"),
            spool: self.0.path().join("spool"),
            allow: vec![],
            allow_plaintext_auth: true,
            verify: true,
            fault_addresses: true,
            message_max: shared::units::Size(2000),
            recipients: 8,
            // Nobody is asked in these tests, and nobody may be.
            resolvers: vec![([127, 0, 0, 1], 9).into()],
            ..Config::default()
        }
    }
}

fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

fn shared() -> Shared {
    let file = Some(Path::new(SHIPPED).join("accounts.toml"));
    let accounts = Accounts::load(&accounts::Config { file, ..accounts::Config::default() }).unwrap();
    Shared { accounts: Arc::new(accounts), ..Shared::for_tests("smtp") }
}

/// The stage has no props in this play.
async fn no_stage(text: &str) -> Result<(), String> {
    Err(format!("`@ {text}` is unknown"))
}

/// The settings that the transcripts of a folder are played with.
fn settings(folder: &str, config: Config) -> Config {
    match folder {
        "strict" => Config { allow_plaintext_auth: false, verify: false, fault_addresses: false, ..config },
        // Three recipients are allowed where a transcript is about that.
        _ => config,
    }
}

fn purpose(folder: &str) -> Purpose {
    if folder == "submission" { Purpose::Submission } else { Purpose::Relay }
}

// --- The session alone -----------------------------------------------------------------------------------------------

/// What the world answers a session that stands alone.
struct World {
    session: Session,
    config: Config,
    /// A message that is coming in.
    incoming: Option<Incoming>,
}

impl World {
    fn new(folder: &str) -> (Self, Reply) {
        let house = House::new();
        let config = settings(folder, house.config());
        let terms = Terms {
            house: config.house(&shared(), vec![]).unwrap(),
            message_octets_max: config.message_max.0,
            recipients_max: config.recipients,
            starttls: StartTls::No,
            plaintext: if config.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls },
            curiosity: if config.verify { Curiosity::Answered } else { Curiosity::Declined },
        };
        let relay = smtp::route::MayRelay::No;
        let (session, greeting) = Session::new(Arc::new(terms), Channel::Clear, purpose(folder), relay);
        (Self { session, config, incoming: None }, greeting)
    }

    fn perform(effect: Effect) -> Outcome {
        match effect {
            Effect::Verify(Credentials::Password { user, secret }) if user == "bob" && secret == b"hungry" => {
                Outcome::Verified
            }
            Effect::Verify(_) => Outcome::Denied,
            Effect::FetchKeys(user) => {
                Outcome::Keys { keys: ScramKeys::decoy(b"key", &user), nonce: "nonce".to_owned() }
            }
            Effect::Admit { .. } => Outcome::Admitted,
            Effect::Open(_) => Outcome::Opened,
        }
    }

    fn said(&self, reply: &Reply) -> Said {
        Said::lines(reply.lines(self.session.codes()))
    }

    fn hear(&mut self, line: &Line) -> Said {
        let mut step = match (self.incoming.take(), line) {
            (Some(mut incoming), Line::Text(text)) => {
                let mut octets = bytes::BytesMut::from(&[text, &b"\r\n"[..]].concat()[..]);
                if incoming.take(&mut octets, &mut vec![]) == Progress::More {
                    self.incoming = Some(incoming);
                    return Said::nothing();
                }
                let outcome = incoming.flaw().map_or(Outcome::Stored { id: "ID".to_owned() }, Outcome::Flawed);
                self.session.on_outcome(outcome)
            }
            (_, line) => self.session.on_line(line),
        };
        loop {
            step = match step {
                Step::Perform(effect) => self.session.on_outcome(Self::perform(effect)),
                Step::Reply(reply) | Step::Challenge(reply) => return self.said(&reply),
                Step::StartTls(_) => panic!("no certificate was offered"),
                Step::Close(reply) => return self.said(&reply).and_close(),
                Step::ReadText(reply) => {
                    self.incoming = Some(Incoming::text(self.config.bounds(), None));
                    return self.said(&reply);
                }
                Step::ReadChunk { .. } | Step::SkipChunk { .. } => panic!("chunks are no lines"),
            };
        }
    }
}

#[test]
fn transcripts_play_against_the_pure_session() {
    for folder in ["", "strict", "submission"] {
        play_all(Path::new(TRANSCRIPTS).join(folder), |script| {
            let (mut world, greeting) = World::new(folder);
            script.on_session(Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX), |cue| match cue {
                Cue::Opened => Ok(world.said(&greeting)),
                Cue::Line(line) => Ok(world.hear(&line)),
                Cue::Ended => Ok(Said::nothing().and_close()),
                Cue::Stage(text) => Err(format!("`@ {text}` is unknown")),
            })
        });
    }
}

#[test]
fn a_flaw_is_a_refusal_that_names_the_rule() {
    for flaw in [Flaw::BareCr, Flaw::BareLf, Flaw::Nul, Flaw::LongLine(1000), Flaw::TooLarge(5), Flaw::Loop(101)] {
        assert!(Reply::from(flaw).is_permanent(), "{flaw:?}");
    }
}

// --- Over a stream, and over TCP -------------------------------------------------------------------------------------

#[tokio::test]
async fn transcripts_play_over_a_stream() {
    let address = SocketAddr::from(([127, 0, 0, 1], 25));
    for folder in ["", "strict", "submission", "chunks"] {
        for pace in PACES {
            play_all_async(Path::new(TRANSCRIPTS).join(folder), async |script: &Script| {
                let (house, shared) = (House::new(), shared());
                let server = Server::bind(settings(folder, house.config()), &shared).unwrap();
                let (near, far) = duplex(64);
                let talk = shared.transcript.conversation(Transport::Tcp, address, address);
                let serve = server.serve_stream(far, (Channel::Clear, purpose(folder)), talk, CancellationToken::new());
                let (result, ()) = tokio::join!(script.on_stream(near, pace, no_stage), serve);
                let expected = match script.path().file_stem().unwrap().to_str().unwrap() {
                    "textbook" | "extended" | "bdat" => 1,
                    "two-messages" => 2,
                    _ => 0,
                };
                assert_eq!(house.mail("bob").len(), expected, "{}", script.path().display());
                assert_eq!((house.queue(), house.begun()), (vec![], vec![]), "{}", script.path().display());
                result
            })
            .await;
        }
    }
}
