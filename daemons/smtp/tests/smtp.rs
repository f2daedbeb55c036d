//! The transcripts, played every way; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use base64::{Engine, prelude::BASE64_STANDARD};
use shared::{
    Shared,
    accounts::{self, Accounts},
    login::Answer,
    sasl::{Credentials, ScramKeys},
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::{Event, Heard, Kind, Subscription, Transport},
    wire::{Crlf, Line, LineEnd},
};
use smtp::{
    Config, Server,
    body::{Flaw, Incoming, Progress},
    courier::Route,
    queue::Queue,
    relay::Relay,
    reply::Reply,
    session::{
        Channel, Curiosity, Effect, LINE_OCTETS_MAX, Outcome, Plaintext, Purpose, Session, StartTls, Step, Terms,
    },
};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, duplex},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
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
            aliases: BTreeMap::from([
                ("info".to_owned(), vec!["bob".to_owned(), "bob+info".to_owned()]),
                ("all".to_owned(), members(1..=10)),
            ]),
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

/// Members of a list.
fn members(numbers: RangeInclusive<usize>) -> Vec<String> {
    numbers.map(|number| format!("bob+{number}")).collect()
}

fn relay(host: &str) -> Relay {
    host.parse::<Route>().unwrap().into()
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
        "lists" => {
            let lists = [("one", members(1..=600)), ("two", members(601..=1200))];
            Config { aliases: lists.map(|(name, members)| (name.to_owned(), members)).into(), ..config }
        }
        "utf8" => {
            let users = ["bob", "åsa"].map(str::to_owned).to_vec();
            Config { aliases: BTreeMap::from([("both".to_owned(), users.clone())]), users, ..config }
        }
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
            house: config.house(&shared()).unwrap(),
            message_octets_max: config.message_max.0,
            recipients_max: config.recipients,
            starttls: if folder == "tls" { StartTls::Offered } else { StartTls::No },
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
                Outcome::Login(Answer::Welcome)
            }
            Effect::Verify(_) => Outcome::Login(Answer::Denied),
            Effect::FetchKeys(user) => {
                Outcome::Login(Answer::Keys { keys: ScramKeys::decoy(b"key", &user), nonce: "nonce".to_owned() })
            }
            Effect::Admit { .. } => Outcome::Admitted,
            Effect::Open(_) => Outcome::Opened,
        }
    }

    /// RFC 5321 §4.2: replies are ASCII. RFC 6531 §3.7.4.2 lets them repeat an address that is not.
    fn said(&self, reply: &Reply) -> Said {
        let lines: Vec<String> = reply.lines(self.session.codes()).collect();
        assert!(lines.iter().all(|line| line.is_ascii() || line.contains("åsa@")), "{lines:?}");
        Said::lines(lines)
    }

    fn hear(&mut self, line: &Line) -> Said {
        let mut step = match (self.incoming.take(), line) {
            (Some(mut incoming), Line::Text(text) | Line::BareLf(text)) => {
                // A piece with a bare LF has its end already.
                let end = if matches!(line, Line::Text(_)) { &b"\r\n"[..] } else { b"" };
                let mut octets = bytes::BytesMut::from(&[text, end].concat()[..]);
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
                Step::StartTls(reply) => {
                    let said = self.said(&reply);
                    // Here it takes no handshake; what both ends say is the same.
                    self.session.encrypted();
                    return said;
                }
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
    for folder in ["", "strict", "submission", "lists", "utf8", "tls"] {
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

/// STARTTLS is refused after a login, so only a server that has it otherwise would come here.
#[test]
fn a_login_in_clear_is_forgotten_when_tls_begins() {
    let (mut world, _) = World::new("tls");
    for line in ["EHLO crepes.fr", "AUTH PLAIN AGJvYgBodW5ncnk="] {
        world.hear(&Line::Text(line.into()));
    }
    assert_eq!((world.session.user(), world.session.may_relay()), (Some("bob"), true));
    world.session.encrypted();
    assert_eq!((world.session.user(), world.session.may_relay()), (None, false));
}

#[test]
fn a_list_of_more_than_a_thousand_is_refused_at_the_start() {
    let aliases = BTreeMap::from([("all".to_owned(), members(1..=1001))]);
    let error = Config { aliases, ..House::new().config() }.house(&shared()).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("smtp.aliases: all: it means more than 1000 mailboxes"), "{error}");
}

#[test]
fn a_flaw_is_a_refusal_that_names_the_rule() {
    let long = [Flaw::LongLine(1000), Flaw::LongHeader(1000), Flaw::TooLarge(5), Flaw::Loop(101)];
    for flaw in [Flaw::BareCr, Flaw::BareLf, Flaw::Nul].into_iter().chain(long) {
        assert!(Reply::from(flaw).is_permanent(), "{flaw:?}");
    }
}

/// How many times a session is told these lines before it says goodbye; none, if it never does.
fn until_goodbye(world: &mut World, lines: &[&str]) -> Option<usize> {
    (1..=500).find(|_| {
        lines.iter().any(|line| {
            let mut step = world.session.on_line(&Line::Text((*line).to_owned().into()));
            while let Step::Perform(effect) = step {
                step = world.session.on_outcome(World::perform(effect));
            }
            match step {
                Step::Close(_) => true,
                Step::ReadText(_) => {
                    let step = world.session.on_outcome(Outcome::Stored { id: "ID".to_owned() });
                    assert!(matches!(step, Step::Reply(_)), "{step:?}");
                    false
                }
                _ => false,
            }
        })
    })
}

/// Postfix has the same number (`smtpd_junk_command_limit`). Nobody who types comes near it.
#[test]
fn a_client_that_talks_and_brings_no_message_is_sent_away() {
    let begin = |folder| {
        let (mut world, _) = World::new(folder);
        world.hear(&Line::Text("EHLO crepes.fr".into()));
        world
    };
    for talk in [
        "NOOP",
        "RSET",
        "VRFY bob",
        "EXPN info",
        "HELP",
        "HELO crepes.fr",
        "EHLO crepes.fr",
        "MAIL FROM:<a@b> SIZE=3000",
    ] {
        assert_eq!(until_goodbye(&mut begin(""), &[talk]), Some(100), "{talk}");
    }
    for talk in [&["AUTH PLAIN", "*"][..], &["MAIL FROM:<a@b>", "RCPT TO:<bob@hamburger.edu>", "RSET"]] {
        assert_eq!(until_goodbye(&mut begin(""), talk), Some(100), "{talk:?}");
    }
    // Far beyond the longest list.
    let mut world = begin("");
    world.hear(&Line::Text("MAIL FROM:<a@b>".into()));
    assert_eq!(until_goodbye(&mut world, &["RCPT TO:<bob@hamburger.edu>"; 10]), Some(111));
    // Who brings messages may stay, and err now and then.
    let message = &["NOOP", "NONSENSE", "MAIL FROM:<a@b>", "RCPT TO:<bob@hamburger.edu>", "DATA"];
    assert_eq!(until_goodbye(&mut begin(""), message), None);
}

// --- Over a stream, and over TCP -------------------------------------------------------------------------------------

#[tokio::test]
async fn transcripts_play_over_a_stream() {
    let address = SocketAddr::from(([127, 0, 0, 1], 25));
    for folder in ["", "strict", "submission", "lists", "utf8", "chunks"] {
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

#[tokio::test]
async fn transcripts_play_over_tcp() {
    for folder in ["", "strict", "chunks"] {
        play_all_async(Path::new(TRANSCRIPTS).join(folder), async |script: &Script| {
            let (house, shared) = (House::new(), shared());
            let mut result = Ok(());
            beside_a_server(settings(folder, house.config()), &shared, async |at, _| {
                result = script.on_tcp(at, Pace::Lines, no_stage).await;
            })
            .await;
            result
        })
        .await;
    }
}

// --- What a transcript cannot say ------------------------------------------------------------------------------------

/// Runs `test` beside a server, then stops the server and waits for it.
async fn beside_a_server<F: Future<Output = ()>>(
    config: Config,
    shared: &Shared,
    test: impl FnOnce(SocketAddr, Queue) -> F,
) {
    let server = Server::bind(config, shared).unwrap();
    let (address, queue) = (server.local_addrs()[0].address, server.queue());
    let shutdown = CancellationToken::new();
    let test = async {
        test(address, queue).await;
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

/// A client that is connected.
type Client = BufStream<TcpStream>;

async fn connect(at: SocketAddr) -> Client {
    let mut client = BufStream::new(TcpStream::connect(at).await.unwrap());
    assert!(hear(&mut client).await.starts_with("220 "));
    client
}

/// A whole reply; its last line.
async fn hear(client: &mut Client) -> String {
    loop {
        let mut line = String::new();
        client.read_line(&mut line).await.unwrap();
        if line.as_bytes().get(3) != Some(&b'-') {
            return line.trim_end().to_owned();
        }
    }
}

async fn say(client: &mut Client, line: &str) -> String {
    client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    hear(client).await
}

/// Sends a message; the answer behind its dot.
async fn send(client: &mut Client, from: &str, to: &[&str], text: &str) -> String {
    assert!(say(client, &format!("MAIL FROM:<{from}>")).await.starts_with("250 "));
    for to in to {
        let heard = say(client, &format!("RCPT TO:<{to}>")).await;
        assert!(heard.starts_with("250 "), "{heard}");
    }
    assert!(say(client, "DATA").await.starts_with("354 "));
    say(client, &format!("{text}\r\n.")).await
}

async fn greeted(at: SocketAddr) -> Client {
    let mut client = connect(at).await;
    assert!(say(&mut client, "EHLO crepes.fr").await.starts_with("250 "));
    client
}

/// A socket for both families shows it with its address in IPv6's clothes.
#[tokio::test]
async fn a_client_over_ipv4_is_known_by_its_ipv4_address() {
    let (house, shared) = (House::new(), shared());
    let server = Server::bind(house.config(), &shared).unwrap();
    let (here, client) = ("[::ffff:127.0.0.1]:25".parse().unwrap(), "[::ffff:192.0.2.1]:4000".parse().unwrap());
    let talk = shared.transcript.conversation(Transport::Tcp, here, client);
    assert_eq!((talk.local().to_string(), talk.remote().to_string()), ("127.0.0.1:25".into(), "192.0.2.1:4000".into()));
    let (mut near, far) = duplex(1 << 16);
    let said = b"HELO crepes.fr\r\nMAIL FROM:<a@b.c>\r\nRCPT TO:<bob@hamburger.edu>\r\nDATA\r\nS: x\r\n.\r\nQUIT\r\n";
    near.write_all(said).await.unwrap();
    server.serve_stream(far, (Channel::Clear, Purpose::Relay), talk, CancellationToken::new()).await;
    let mail = house.mail("bob").remove(0);
    assert!(mail.contains("Received: from crepes.fr ([192.0.2.1])"), "{mail}");
}

#[tokio::test]
async fn a_message_that_is_cut_off_at_any_octet_leaves_nothing() {
    let (house, shared) = (House::new(), shared());
    let config = Config { grace: shared::units::Span::secs(0), ..house.config() };
    beside_a_server(config, &shared, async |at, _| {
        let text = "Subject: x\r\n\r\n..\r\nhello\r\n.\r\n";
        for length in 0..text.len() {
            let mut client = greeted(at).await;
            say(&mut client, "MAIL FROM:<alice@crepes.fr>").await;
            say(&mut client, "RCPT TO:<bob@hamburger.edu>").await;
            // Two recipients go through the queue, one goes straight to its mailbox.
            if length % 2 == 0 {
                say(&mut client, "RCPT TO:<bob+2@hamburger.edu>").await;
            }
            say(&mut client, "DATA").await;
            client.write_all(&text.as_bytes()[..length]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = vec![];
            client.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"", "{length}");
        }
    })
    .await;
    assert_eq!((house.mail("bob"), house.queue(), house.begun()), (vec![], vec![], vec![]));
}

/// After the words, the octets that come are read and counted, too: those of a message, and those of a chunk that is refused. Each of these
/// ends within an hour, however steadily they drip.
#[tokio::test(start_paused = true)]
async fn octets_that_drip_keep_nobody_for_ever() {
    let opening =
        "HELO crepes.fr\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@hamburger.edu>\r\nRCPT TO:<bob+1@hamburger.edu>\r\n";
    for words in [format!("{opening}DATA\r\n"), "BDAT 1500 LAST\r\n".to_owned(), format!("{opening}BDAT 1500 LAST\r\n")]
    {
        let (house, shared) = (House::new(), shared());
        let server = Server::bind(house.config(), &shared).unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], 25));
        let talk = shared.transcript.conversation(Transport::Tcp, at, at);
        let (mut near, far) = duplex(1 << 16);
        near.write_all(words.as_bytes()).await.unwrap();
        let drip = async {
            // Four minutes are within the idle timeout.
            while near.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_mins(4)).await;
            }
        };
        let serving = server.serve_stream(far, (Channel::Clear, Purpose::Relay), talk, CancellationToken::new());
        let began = tokio::time::Instant::now();
        tokio::select! {
            () = serving => {}
            () = drip => {}
        }
        let minutes = began.elapsed().as_secs() / 60;
        assert!((59..=65).contains(&minutes), "{words}: {minutes} minutes");
    }
}

#[tokio::test]
async fn a_message_for_several_goes_through_the_queue_and_each_gets_it_once() {
    let (house, shared) = (House::new(), shared());
    beside_a_server(house.config(), &shared, async |at, queue| {
        let mut client = greeted(at).await;
        let to = ["info@hamburger.edu", "bob@hamburger.edu", "BOB@hamburger.edu", "postmaster@hamburger.edu"];
        let heard = send(&mut client, "alice@crepes.fr", &to, "Subject: to all").await;
        assert!(heard.starts_with("250 2.0.0 Message accepted for delivery as "), "{heard}");
        queue.empty().await;
    })
    .await;
    // bob, bob+info and BOB are three recipients and one mailbox.
    let mail = house.mail("bob");
    assert_eq!((mail.len(), house.mail("postmaster").len()), (3, 1));
    assert!(
        mail[0].starts_with("Return-Path: <alice@crepes.fr>\r\nReceived: from crepes.fr ([127.0.0.1])"),
        "{}",
        mail[0]
    );
    assert!(!mail[0].contains("for <"), "{}", mail[0]);
    assert!(house.queue().is_empty());
}

#[tokio::test]
async fn an_alias_of_its_own_name_keeps_a_copy() {
    let (house, shared) = (House::new(), shared());
    let users = ["bob", "carol"].map(str::to_owned).to_vec();
    let config = Config { aliases: BTreeMap::from([("bob".to_owned(), users.clone())]), users, ..house.config() };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        assert_eq!(say(&mut client, "VRFY bob").await, "553 5.1.4 That means more than one mailbox; EXPN shows them");
        send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
        queue.empty().await;
    })
    .await;
    assert_eq!((house.mail("bob").len(), house.mail("carol").len()), (1, 1));
}

#[test]
fn an_alias_that_leads_to_nobody_is_refused_at_the_start_with_what_would_be_right() {
    let (house, shared) = (House::new(), shared());
    for (alias, targets, problem) in [
        ("info", &["bob", "bbo"][..], "info = `bbo`: nobody here is called so"),
        ("info", &["bbo@Hamburger.edu"], "info = `bbo@Hamburger.edu`: nobody here is called so"),
        ("info", &["\\postmister"], "info = `\\postmister`: nobody here is called so"),
        ("bbo", &["BBO"], "bbo: it leads to nobody but itself"),
    ] {
        let text = |text: &&str| (*text).to_owned();
        let aliases = BTreeMap::from([(text(&alias), targets.iter().map(text).collect())]);
        let config = Config { aliases: aliases.clone(), ..house.config() };
        let error = config.house(&shared).map(drop).unwrap_err().to_string();
        assert!(error.starts_with(&format!("smtp.aliases: {problem}")), "{error}");
        // Where somebody gets what is for nobody, it is no mistake.
        let config = Config { aliases, catch_all: "bob".to_owned(), ..house.config() };
        assert_eq!(config.house(&shared).is_ok(), !targets[0].starts_with('\\') && alias != "bbo", "{problem}");
    }
    let error =
        Config { catch_all: "bbo".to_owned(), ..house.config() }.house(&shared).map(drop).unwrap_err().to_string();
    assert!(error.starts_with("smtp.catch_all: `bbo`: nobody here is called so"), "{error}");
}

#[tokio::test]
async fn a_full_mailbox_is_told_at_rcpt_and_when_the_message_is_larger_than_was_said() {
    let (house, shared) = (House::new(), shared());
    let config = Config { quota: shared::units::Size(1500), ..house.config() };
    beside_a_server(config, &shared, async |at, _| {
        let mut client = greeted(at).await;
        let text = format!("Subject: x\r\n\r\n{}", "0123456789\r\n".repeat(80));
        assert!(send(&mut client, "a@b", &["bob@hamburger.edu"], &text).await.starts_with("250 "));
        assert!(say(&mut client, "MAIL FROM:<a@b> SIZE=1600").await.starts_with("250 "));
        assert!(say(&mut client, "RCPT TO:<bob@hamburger.edu>").await.starts_with("552 5.2.2"));
        assert!(say(&mut client, "RSET").await.starts_with("250 "));
        assert!(say(&mut client, "MAIL FROM:<a@b> SIZE=1000").await.starts_with("250 "));
        assert!(say(&mut client, "RCPT TO:<bob@hamburger.edu>").await.starts_with("452 4.2.2"));
        assert!(say(&mut client, "RSET").await.starts_with("250 "));
        let heard = send(&mut client, "a@b", &["bob@hamburger.edu"], &text).await;
        assert_eq!(
            heard,
            "452 4.2.2 <bob@hamburger.edu>... the mailbox is full; try again when its owner has made room"
        );
        let heard = send(&mut client, "a@b", &["bob@hamburger.edu"], &text.repeat(2)[..1600]).await;
        assert_eq!(
            heard,
            "552 5.2.2 <bob@hamburger.edu>... the mailbox has room for 1500 octets in all: make the message smaller"
        );
        // In chunks it is the same.
        assert!(say(&mut client, "MAIL FROM:<a@b>").await.starts_with("250 "));
        assert!(say(&mut client, "RCPT TO:<bob@hamburger.edu>").await.starts_with("250 "));
        let heard = say(&mut client, &format!("BDAT {} LAST\r\n{text}", text.len() + 2)).await;
        assert!(heard.starts_with("452 4.2.2"), "{heard}");
    })
    .await;
    assert_eq!(house.mail("bob").len(), 1);
}

#[tokio::test]
async fn a_stranger_is_told_to_come_back_and_who_may_relay_is_not() {
    let (house, shared) = (House::new(), shared());
    let config = || Config { greylist: shared::units::Span::secs(60), ..house.config() };
    beside_a_server(config(), &shared, async |at, _| {
        let mut client = greeted(at).await;
        let heard = recipient(&mut client, "bob@hamburger.edu").await;
        assert!(heard.starts_with("451 4.7.1 We have not met: try again in"), "{heard}");
        // Who has logged in is one of us, and so is who sits where we know everybody.
        assert!(say(&mut client, "AUTH PLAIN AGJvYgBodW5ncnk=").await.starts_with("235 "));
        assert!(recipient(&mut client, "bob@hamburger.edu").await.starts_with("250 "));
    })
    .await;
    beside_a_server(Config { allow: vec!["127.0.0.1".parse().unwrap()], ..config() }, &shared, async |at, _| {
        assert!(recipient(&mut greeted(at).await, "bob@hamburger.edu").await.starts_with("250 "));
    })
    .await;
}

/// RFC 8601 §5, also where nobody looks for results: whoever sorts mail further on may believe such a field.
#[tokio::test]
async fn results_that_a_stranger_tells_in_our_name_are_cut_out_and_our_own_relays_keep_theirs() {
    let claims = "Authentication-Results: hamburger.edu; spf=pass\r\nAuthentication-Results:\r\n\t(we) hamburger.edu 1; dkim=pass";
    // A header that does not fit into what is written at once, with a claim at its end.
    let long = format!("{claims}\r\n{}{claims}", "X-Field: and another one, and one more\r\n".repeat(5000));
    for (allow, kept) in [(vec![], false), (vec!["127.0.0.1".parse().unwrap()], true)] {
        let (house, shared) = (House::new(), shared());
        let config = Config { allow, message_max: shared::units::Size::mib(1), ..house.config() };
        beside_a_server(config, &shared, async |at, queue| {
            let mut client = greeted(at).await;
            for header in [claims, &long] {
                // Straight into the mailbox, and by the queue.
                for to in [&["bob@hamburger.edu"][..], &["bob@hamburger.edu", "postmaster@hamburger.edu"]] {
                    let text = format!("{header}\r\nSubject: x\r\n\r\n{claims}");
                    assert!(send(&mut client, "eve@far.fr", to, &text).await.starts_with("250 "));
                }
            }
            queue.empty().await;
        })
        .await;
        let mail = house.mail("bob");
        assert_eq!(mail.len(), 4);
        for message in mail {
            let (header, body) = message.split_once("\r\n\r\n").unwrap();
            assert!(header.contains("Subject: x") && body == format!("{claims}\r\n"), "{message}");
            assert_eq!(header.contains("Authentication-Results"), kept, "{message}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_stored_is_answered_451_and_nothing_is_left() {
    let (house, shared) = (House::new(), shared());
    beside_a_server(house.config(), &shared, async |at, _| {
        // Neither mailbox nor queue can be written to: files stand where folders should.
        fs::write(house.0.path().join("mail/bob"), "").unwrap();
        fs::remove_dir(house.0.path().join("spool/tmp")).unwrap();
        let mut client = greeted(at).await;
        for to in [&["bob@hamburger.edu"][..], &["bob@hamburger.edu", "postmaster@hamburger.edu"]] {
            let heard = send(&mut client, "a@b", to, "Subject: x").await;
            assert!(heard.starts_with("451 4.3.0 I cannot store it now"), "{heard}");
        }
        assert!(say(&mut client, "QUIT").await.starts_with("221 "));
    })
    .await;
    assert!(house.queue().is_empty());
}

#[tokio::test]
async fn forward_files_send_on_keep_copies_and_do_not_run_in_circles() {
    let (house, shared) = (House::new(), shared());
    let config = Config { users: ["bob", "carol", "dave"].map(str::to_owned).to_vec(), ..house.config() };
    for (user, targets) in [("bob", "\\bob, carol"), ("carol", "dave@hamburger.edu"), ("dave", "carol")] {
        fs::create_dir_all(house.0.path().join("mail").join(user)).unwrap();
        fs::write(house.0.path().join("mail").join(user).join(".forward"), targets).unwrap();
    }
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "bob@hamburger.edu", &["bob@hamburger.edu"], "Subject: on and on").await;
        queue.empty().await;
    })
    .await;
    // Bob has his copy, and a report about the circle that carol and dave made, which was forwarded to them too.
    let mut mail = house.mail("bob");
    // Either may be the first: they came by two ways.
    mail.sort_by_key(|text| text.contains("Return-Path: <>"));
    assert!(mail[0].contains("Subject: on and on") && !mail[0].contains("Delivered-To: bob"), "{mail:?}");
    assert!(mail[1].contains("Return-Path: <>") && mail[1].contains("it runs in a circle"), "{mail:?}");
    assert!(house.queue().is_empty());
}

#[tokio::test]
async fn a_message_that_was_delivered_to_an_address_elsewhere_is_forwarded_all_the_same() {
    let (house, shared) = (House::new(), shared());
    let config = Config { users: ["bob", "carol"].map(str::to_owned).to_vec(), ..house.config() };
    fs::create_dir_all(house.0.path().join("mail/bob")).unwrap();
    fs::write(house.0.path().join("mail/bob/.forward"), "carol").unwrap();
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        for (header, circle) in [
            ("X-Delivered-To: bob@hamburger.edu\r\nSubject: x", false),
            ("Subject: x\r\n\r\nDelivered-To: bob@hamburger.edu", false),
            ("Subject: x\r\nDelivered-To: bob@hamburger.edu", true),
        ] {
            let before = house.mail("carol").len();
            send(&mut client, "", &["bob@hamburger.edu"], header).await;
            queue.empty().await;
            assert_eq!(house.mail("carol").len() == before, circle, "{header}");
        }
    })
    .await;
}

#[tokio::test]
async fn five_messages_for_one_site_are_one_connection_with_five_transactions() {
    let (there, here) = (House::new(), House::new());
    let receiver = shared();
    let mut listener = receiver.transcript.hub().subscribe();
    beside_a_server(there.config(), &receiver, async |hamburger, _| {
        let routes = BTreeMap::from([("hamburger.edu".to_owned(), relay(&hamburger.to_string()))]);
        let config = Config {
            hostname: "crepes.fr".to_owned(),
            domains: vec!["crepes.fr".to_owned()],
            allow: vec!["127.0.0.1".parse().unwrap()],
            reuse: shared::units::Span::secs(60),
            routes,
            ..here.config()
        };
        beside_a_server(config, &shared(), async |at, queue| {
            let mut client = greeted(at).await;
            for number in 1..=5 {
                send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], &format!("Subject: {number}")).await;
                if number == 1 {
                    // The connection stays for those that come later.
                    queue.empty().await;
                }
            }
            queue.empty().await;
        })
        .await;
    })
    .await;
    assert_eq!(there.mail("bob").len(), 5);
    let (mut connections, mut transactions) = (0, 0);
    while transactions < 5 {
        match listener.next().await {
            Some(Heard::Event(event)) => {
                connections += usize::from(event.kind == Kind::Open);
                transactions += usize::from(event.line.starts_with("MAIL FROM:"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(connections, 1);
}

/// Whoever reads along sees first that a message is safe, then where it goes. A connection to the other site waits, so it goes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_told_to_be_safe_before_it_goes_on() {
    const MESSAGES: usize = 100;
    let (there, here) = (House::new(), House::new());
    let sender = shared();
    let mut listener = sender.transcript.hub().subscribe();
    let mut order = vec![];
    beside_a_server(there.config(), &shared(), async |hamburger, _| {
        let routes = BTreeMap::from([("hamburger.edu".to_owned(), relay(&hamburger.to_string()))]);
        let allow = vec!["127.0.0.1".parse().unwrap()];
        let config = Config { domains: vec!["crepes.fr".to_owned()], routes, allow, ..here.config() };
        beside_a_server(config, &sender, async |at, queue| {
            let mut client = greeted(at).await;
            for _ in 0..MESSAGES {
                send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
                queue.empty().await;
                order.extend(told(&mut listener).await.iter().map(|event| event.line.clone()));
            }
        })
        .await;
    })
    .await;
    let first = |words: &str| order.iter().position(|line| line.contains(words));
    let ids = order.iter().filter_map(|line| line.strip_prefix("the message is safe on disk as "));
    let ids: Vec<&str> = ids.collect();
    assert_eq!(ids.len(), MESSAGES);
    for id in ids {
        let (safe, goes) = (first(&format!("safe on disk as {id}")), first(&format!("message {id}, because")));
        assert!(safe.is_some() && safe < goes, "{id}: safe {safe:?}, goes {goes:?}");
    }
}

#[tokio::test]
async fn a_courier_that_waits_for_another_message_leaves_when_the_server_stops() {
    let (there, here) = (House::new(), House::new());
    beside_a_server(there.config(), &shared(), async |hamburger, _| {
        let routes = BTreeMap::from([("hamburger.edu".to_owned(), relay(&hamburger.to_string()))]);
        let hour = shared::units::Span::secs(3600);
        let config = Config {
            domains: vec!["crepes.fr".to_owned()],
            allow: vec!["127.0.0.1".parse().unwrap()],
            reuse: hour,
            grace: hour,
            routes,
            ..here.config()
        };
        let shared = shared();
        let run = beside_a_server(config, &shared, async |at, queue| {
            let mut client = greeted(at).await;
            send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
            say(&mut client, "QUIT").await;
            queue.empty().await;
        });
        tokio::time::timeout(Duration::from_mins(1), run).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_courier_with_nothing_to_do_makes_room_for_one_to_another_site() {
    let (there, here) = (House::new(), House::new());
    let domains = ["hamburger.edu", "umass.edu", "someschool.edu"].map(str::to_owned);
    let config = Config { domains: domains.to_vec(), ..there.config() };
    beside_a_server(config, &shared(), async |address, _| {
        let config = Config {
            domains: vec!["crepes.fr".to_owned()],
            allow: vec!["127.0.0.1".parse().unwrap()],
            routes: domains.clone().map(|domain| (domain, relay(&address.to_string()))).into(),
            reuse: shared::units::Span::secs(3600),
            deliveries: 1,
            ..here.config()
        };
        beside_a_server(config, &shared(), async |at, queue| {
            let mut client = greeted(at).await;
            let deliver = async {
                // One after the other, then all at once.
                send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
                queue.empty().await;
                let all = ["bob@umass.edu", "bob@hamburger.edu", "bob@someschool.edu"];
                send(&mut client, "alice@crepes.fr", &all, "Subject: x").await;
                queue.empty().await;
            };
            tokio::time::timeout(Duration::from_secs(30), deliver).await.unwrap();
        })
        .await;
    })
    .await;
    assert_eq!(there.mail("bob").len(), 4);
}

/// A site that takes a message for each of these permits, and then falls silent behind the dot.
async fn slow_site(listener: TcpListener, permits: &Semaphore) {
    let serve = |stream| async {
        let mut peer: Client = BufStream::new(stream);
        let mut reply = "220 slow.example\r\n";
        loop {
            peer.write_all(reply.as_bytes()).await.unwrap();
            peer.flush().await.unwrap();
            reply = match &*hear(&mut peer).await {
                "" => return,
                "DATA" => {
                    peer.write_all(b"354 go\r\n").await.unwrap();
                    peer.flush().await.unwrap();
                    while hear(&mut peer).await != "." {}
                    permits.acquire().await.unwrap().forget();
                    "250 ok\r\n"
                }
                _ => "250 ok\r\n",
            };
        }
    };
    let mut peers = vec![];
    for _ in 0..2 {
        peers.push(serve(listener.accept().await.unwrap().0));
    }
    let (first, second) = (peers.remove(0), peers.remove(0));
    tokio::join!(first, second);
}

#[tokio::test]
async fn a_site_with_much_mail_leaves_a_courier_to_a_site_with_little() {
    let (there, here) = (House::new(), House::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = listener.local_addr().unwrap().to_string();
    beside_a_server(there.config(), &shared(), async |hamburger, _| {
        let routes = [("hamburger.edu", hamburger.to_string()), ("slow.example", slow.clone())];
        let config = Config {
            domains: vec!["crepes.fr".to_owned()],
            allow: vec!["127.0.0.1".parse().unwrap()],
            routes: routes.map(|(domain, host)| (domain.to_owned(), relay(&host))).into(),
            deliveries: 2,
            grace: shared::units::Span::secs(0),
            ..here.config()
        };
        beside_a_server(config, &shared(), async |at, queue| {
            let permits = Semaphore::new(0);
            let test = async {
                let mut client = greeted(at).await;
                for number in 1..=25 {
                    send(&mut client, "", &[&format!("u{number}@slow.example")], "Subject: x").await;
                }
                send(&mut client, "", &["bob@hamburger.edu"], "Subject: x").await;
                // One of the two couriers comes back, and is sent elsewhere though there is more for its site.
                permits.add_permits(1);
                while there.mail("bob").is_empty() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                listed(&queue, "24 messages wait").await;
            };
            tokio::select! {
                () = slow_site(listener, &permits) => panic!("both have hung up"),
                done = tokio::time::timeout(Duration::from_secs(30), test) => done.unwrap(),
            }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_login_that_is_refused_keeps_the_mail_waiting_with_the_reason() {
    let (there, here, folder) = (House::new(), House::new(), tempfile::tempdir().unwrap());
    let (config, receiver) = smart_host(&there, folder.path());
    beside_a_server(config, &receiver, async |submission, _| {
        let config = sending_to(&here, submission, folder.path(), "thirsty");
        beside_a_server(config, &shared(), async |at, queue| {
            let mut client = greeted(at).await;
            send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
            let told = loop {
                let told = queue.about("list", None).unwrap().join("\n");
                if told.contains("1 try, next in") {
                    break told;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            assert!(
                told.contains(&format!(
                    "[127.0.0.1]:{} refused our login (`user` and `password_file` of our configuration): 535 5.7.8",
                    submission.port()
                )),
                "{told}"
            );
        })
        .await;
    })
    .await;
    assert!(there.mail("bob").is_empty());
}

/// A site whose server lets its users send from elsewhere after a login: at two ports, of which the second begins with TLS.
fn smart_host(house: &House, folder: &Path) -> (Config, Shared) {
    let authority = shared::tls::LabCa::open_or_create(folder).unwrap();
    let tls = authority.certificate_for(&["127.0.0.1".to_owned()]).unwrap();
    let port = || vec![([127, 0, 0, 1], 0).into()];
    let config = Config { listen: vec![], listen_submission: port(), listen_tls: port(), ..house.config() };
    (Config { allow_plaintext_auth: false, ..config }, Shared { tls, ..shared() })
}

/// A server of crepes.fr that sends everything to this one, as bob.
fn sending_to(house: &House, smart_host: SocketAddr, folder: &Path, password: &str) -> Config {
    let password_file = folder.join("password");
    fs::write(&password_file, format!("{password}\n")).unwrap();
    Config {
        domains: vec!["crepes.fr".to_owned()],
        allow: vec!["127.0.0.1".parse().unwrap()],
        smart_host: Some(Relay { user: "bob".to_owned(), password_file, ..relay(&smart_host.to_string()) }),
        tls_roots: folder.join("ca.crt"),
        ..house.config()
    }
}

#[tokio::test]
async fn a_smart_host_that_wants_a_login_gets_one_over_tls_that_is_verified() {
    let (there, here, folder) = (House::new(), House::new(), tempfile::tempdir().unwrap());
    let (config, receiver) = smart_host(&there, folder.path());
    let server = Server::bind(config, &receiver).unwrap();
    let addresses: Vec<SocketAddr> = server.local_addrs().iter().map(|endpoint| endpoint.address).collect();
    let shutdown = CancellationToken::new();
    let test = async {
        for (number, address) in addresses.into_iter().enumerate() {
            let mut config = sending_to(&here, address, folder.path(), "hungry");
            // The second one begins with TLS.
            config.smart_host.as_mut().unwrap().tls_first = number == 1;
            beside_a_server(config, &shared(), async |at, queue| {
                let mut client = greeted(at).await;
                send(&mut client, "alice@crepes.fr", &["bob@hamburger.edu"], "Subject: x").await;
                queue.empty().await;
            })
            .await;
            assert_eq!(there.mail("bob").len(), number + 1);
            assert!(there.mail("bob")[number].contains("with ESMTPSA"), "{:?}", there.mail("bob"));
        }
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

#[tokio::test]
async fn what_cannot_be_delivered_is_tried_as_often_as_the_schedule_says_and_then_reported() {
    let (house, shared) = (House::new(), shared());
    let config = Config {
        // Nobody listens there.
        routes: BTreeMap::from([("else.example".to_owned(), relay("127.0.0.1:9"))]),
        allow: vec!["127.0.0.1".parse().unwrap()],
        retry: vec![shared::units::Span::secs(1)],
        give_up: shared::units::Span::secs(2),
        ..house.config()
    };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "bob@hamburger.edu", &["carol@else.example"], "Subject: lost").await;
        let told = queue.about("list", None).unwrap().join("\n");
        assert!(told.contains("from <bob@hamburger.edu>") && told.contains("to carol@else.example"), "{told}");
        queue.empty().await;
    })
    .await;
    let report = house.mail("bob").remove(0);
    let (_, tries) = report.split_once("given up after ").unwrap();
    assert!(["2 tries", "3 tries"].iter().any(|right| tries.starts_with(right)), "{report}");
    assert!(report.starts_with("Return-Path: <>\r\n") && report.contains("Action: failed"), "{report}");
}

/// Programs for mail offer the whole address as the name.
#[tokio::test]
async fn a_user_may_log_in_by_address() {
    let (house, shared) = (House::new(), shared());
    beside_a_server(house.config(), &shared, async |at, _| {
        for (user, code) in [("bob@hamburger.edu", "235 "), ("bob", "235 "), ("bob@crepes.fr", "535 ")] {
            let mut client = greeted(at).await;
            let secret = BASE64_STANDARD.encode(format!("\0{user}\0hungry"));
            let heard = say(&mut client, &format!("AUTH PLAIN {secret}")).await;
            assert!(heard.starts_with(code), "{user}: {heard}");
        }
    })
    .await;
}

/// The machine began in 2040, until it heard the time.
#[tokio::test]
async fn mail_from_before_the_clock_was_set_back_does_not_wait_for_that_day() {
    let house = House::new();
    let folder = house.0.path().join("spool/queue");
    fs::create_dir_all(&folder).unwrap();
    let head = "MAIL FROM:<bob@hamburger.edu> BODY=7BIT    \r\nRCPT TO:<bob@hamburger.edu>\r\n";
    for (id, state) in
        [("1Z000000000", ""), ("1Z000000001", "[[recipients]]\ndone = false\ntries = 1\nnext_try = 2216615441\n")]
    {
        fs::write(folder.join(id), format!("{head}DATA\r\nSubject: {id}\r\n\r\n")).unwrap();
        if !state.is_empty() {
            fs::write(folder.join(format!("{id}.state")), state).unwrap();
        }
    }
    beside_a_server(house.config(), &shared(), async |_, queue| {
        tokio::time::timeout(Duration::from_secs(10), queue.empty()).await.unwrap();
    })
    .await;
    assert_eq!(house.mail("bob").len(), 2);
}

/// What the queue lists, once it says this.
async fn listed(queue: &Queue, words: &str) -> String {
    loop {
        let told = queue.about("list", None).unwrap().join("\n");
        if told.contains(words) {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A server that has no way to else.example, and tries again every second.
fn cut_off(house: &House) -> Config {
    Config {
        // Nobody listens there.
        routes: BTreeMap::from([("else.example".to_owned(), relay("127.0.0.1:9"))]),
        allow: vec!["127.0.0.1".parse().unwrap()],
        retry: vec![shared::units::Span::secs(1)],
        ..house.config()
    }
}

#[tokio::test]
async fn what_cannot_be_delivered_nor_reported_waits() {
    let (house, shared) = (House::new(), shared());
    let config = Config { give_up: shared::units::Span::secs(1), ..cut_off(&house) };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "bob@hamburger.edu", &["carol@else.example"], "Subject: precious").await;
        // From now on nothing can be written into the queue.
        fs::remove_dir(house.0.path().join("spool/tmp")).unwrap();
        let told = listed(&queue, "given up after").await;
        assert!(told.contains("carol@else.example") && told.contains("1 message waits"), "{told}");
        // It is tried once more, for somebody may have made room.
        listed(&queue, "given up after 3 tries").await;
    })
    .await;
    assert!(house.queue()[0].contains("Subject: precious"));
    assert!(house.mail("bob").is_empty());
}

#[tokio::test]
async fn a_report_that_cannot_be_delivered_is_the_postmasters() {
    let (house, shared) = (House::new(), shared());
    let config = Config { give_up: shared::units::Span::secs(1), ..cut_off(&house) };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "carol@else.example", &["dave@else.example"], "Subject: lost").await;
        queue.empty().await;
    })
    .await;
    let mail = house.mail("postmaster");
    assert_eq!(mail.len(), 1, "{mail:?}");
    assert!(mail[0].contains("A report about a lost message could not be delivered itself."), "{mail:?}");
}

/// What is told from now on until nobody speaks any more.
async fn told(listener: &mut Subscription) -> Vec<Arc<Event>> {
    let mut told = vec![];
    while let Ok(Some(heard)) = tokio::time::timeout(Duration::ZERO, listener.next()).await {
        match heard {
            Heard::Event(event) => told.push(event),
            Heard::Missed(count) => panic!("{count} events were missed"),
        }
    }
    told
}

#[tokio::test]
async fn what_becomes_of_a_message_is_told_on_the_connection_that_brought_it() {
    let (house, shared) = (House::new(), shared());
    let mut listener = shared.transcript.hub().subscribe();
    // Whichever try comes before the end is late enough for a warning.
    let warn = shared::units::Span(Duration::from_millis(1));
    let config = Config { give_up: shared::units::Span::secs(2), warn, ..cut_off(&house) };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "carol@else.example", &["dave@else.example", "erin@else.example"], "Subject: lost").await;
        say(&mut client, "MAIL FROM:<bob@hamburger.edu>").await;
        say(&mut client, "RCPT TO:<dave@else.example> NOTIFY=NEVER").await;
        say(&mut client, "DATA").await;
        say(&mut client, "Subject: nobody cares\r\n.").await;
        send(&mut client, "bob@hamburger.edu", &["bob@hamburger.edu", "postmaster@hamburger.edu"], "Subject: x").await;
        queue.empty().await;
    })
    .await;
    let told = told(&mut listener).await;
    let stored = told.iter().find_map(|event| event.line.strip_prefix("the message is safe on disk as ")).unwrap();
    let connection = told[0].connection;
    let notes: Vec<&str> = told
        .iter()
        .filter(|event| event.kind == Kind::Note && event.connection == connection)
        .map(|event| event.line.as_str())
        .collect();
    let why = "[127.0.0.1]:9 does not answer: connection refused, for nobody listens at that port";
    let reports = |to: &str, what: &str| {
        let is_so = |note: &&&str| {
            note.starts_with("report ") && note.contains(&format!(" is made, to {to}: it {what}")) && note.contains(why)
        };
        notes.iter().filter(is_so).count()
    };
    assert!(
        notes.contains(&&*format!("message {stored} for dave@else.example: {why}; it is tried again in 1 second")),
        "{notes:#?}"
    );
    // RFC 5321 \u{a7}4.5.5: the second and fourth are about reports.
    for (to, what, count) in [
        ("carol@else.example", "has not been delivered yet to dave@else.example: ", 1),
        ("carol@else.example", "could not be delivered to dave@else.example: given up after ", 1),
        ("postmaster@hamburger.edu", "could not be delivered to carol@else.example: given up after ", 2),
    ] {
        assert_eq!(reports(to, what), count, "{to} {what} {notes:#?}");
    }
    assert!(notes.iter().any(|note| note.starts_with("report ")
        && note.contains(&format!(" about message {stored} "))
        && note.ends_with(", and so on for 1 recipient more")));
    assert!(
        notes.iter().any(|note| note.ends_with(" is lost, and nobody is told: its sender wants to hear nothing")),
        "{notes:#?}"
    );
    assert!(notes.iter().any(|note| note.ends_with(": in the mailbox of bob")), "{notes:#?}");
}

#[tokio::test]
async fn each_recipient_that_takes_long_is_told_once() {
    let (house, shared) = (House::new(), shared());
    let mut config = Config { warn: shared::units::Span::secs(1), ..cut_off(&house) };
    config.routes.insert("third.example".to_owned(), relay("127.0.0.2:9"));
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "bob@hamburger.edu", &["a@else.example", "b@third.example"], "Subject: slow").await;
        while house.mail("bob").len() < 2 {
            listed(&queue, "1 message waits").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // They are tried once more without a word.
        queue.about("flush", None).unwrap();
        let tries = |told: &str| told.matches("4 tries").count();
        while tries(&queue.about("list", None).unwrap().join("\n")) < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mail = house.mail("bob").join("\n");
    let told = |to: &str| mail.matches(&format!("Final-Recipient: rfc822;{to}")).count();
    assert_eq!(
        (mail.matches("Action: delayed").count(), told("a@else.example"), told("b@third.example")),
        (2, 1, 1),
        "{mail}"
    );
}

#[tokio::test]
async fn a_forwarder_whose_own_mailbox_is_full_sends_on_once() {
    let (house, shared) = (House::new(), shared());
    let bobs = house.0.path().join("mail/bob");
    fs::create_dir_all(bobs.join("new")).unwrap();
    fs::write(bobs.join("new/1.M1P1Q1.h,S=900,W=900"), "x".repeat(900)).unwrap();
    fs::write(bobs.join(".forward"), "\\bob, carol").unwrap();
    let (users, quota) = (["bob", "carol"].map(str::to_owned).to_vec(), shared::units::Size(1000));
    let config = Config { users, quota, ..cut_off(&house) };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        let queued = ["bob@hamburger.edu", "info@hamburger.edu"];
        send(&mut client, "", &queued, "Subject: once").await;
        listed(&queue, "3 tries").await;
    })
    .await;
    let mail = house.mail("carol");
    assert!(mail.len() == 2 && mail[0].contains("Subject: once"), "{mail:?}");
}

#[tokio::test]
async fn a_backslash_in_a_forward_file_means_the_account_whatever_its_alias_says() {
    let (house, shared) = (House::new(), shared());
    fs::create_dir_all(house.0.path().join("mail/bob")).unwrap();
    fs::write(house.0.path().join("mail/bob/.forward"), "\\carol").unwrap();
    let users = ["bob", "carol", "dave"].map(str::to_owned).to_vec();
    let aliases = BTreeMap::from([("carol".to_owned(), vec!["dave".to_owned()])]);
    beside_a_server(Config { users, aliases, ..house.config() }, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "", &["bob@hamburger.edu"], "Subject: to herself").await;
        queue.empty().await;
    })
    .await;
    assert_eq!([house.mail("carol").len(), house.mail("dave").len()], [1, 0]);
}

/// RFC 3461 §5.2.7.
#[tokio::test]
async fn success_is_told_by_whoever_has_the_copy_and_names_the_address_that_was_written_to() {
    let (house, shared) = (House::new(), shared());
    fs::create_dir_all(house.0.path().join("mail/bob")).unwrap();
    fs::write(house.0.path().join("mail/bob/.forward"), "carol").unwrap();
    let config = Config { users: ["alice", "bob", "carol"].map(str::to_owned).to_vec(), ..house.config() };
    beside_a_server(config, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        say(&mut client, "MAIL FROM:<alice@hamburger.edu>").await;
        say(&mut client, "RCPT TO:<bob@hamburger.edu> NOTIFY=SUCCESS").await;
        say(&mut client, "DATA").await;
        say(&mut client, "Subject: told\r\n\r\n.").await;
        queue.empty().await;
    })
    .await;
    assert_eq!((house.mail("bob").len(), house.mail("carol").len()), (0, 1));
    let reports = house.mail("alice");
    assert_eq!(reports.len(), 1, "{reports:?}");
    for words in ["Original-Recipient: rfc822;bob@hamburger.edu", "Final-Recipient: rfc822;carol@hamburger.edu"] {
        assert!(reports[0].contains(words), "{reports:?}");
    }
}

/// RFC 3461 §5.2.7.3 (c): who has asked for one report gets one, and not as many as the list has members.
#[tokio::test]
async fn success_of_a_list_is_told_once_that_it_was_expanded() {
    let success = ["RCPT TO:<info@hamburger.edu> NOTIFY=SUCCESS,FAILURE", "RCPT TO:<bob@hamburger.edu> NOTIFY=SUCCESS"];
    let original = "Original-Recipient: rfc822;info@hamburger.edu";
    for (rcpt, forward, mail, final_recipient, original) in [
        (success[0], None, [1, 0, 1], "Final-Recipient: rfc822;info@hamburger.edu", ""),
        (
            &format!("{} ORCPT=rfc822;info@hamburger.edu", success[0]),
            None,
            [1, 0, 1],
            "rfc822;info@hamburger.edu",
            original,
        ),
        // The same for a .forward file that names several, and keeps nothing.
        (success[1], Some("carol, dave"), [0, 1, 1], "Final-Recipient: rfc822;bob@hamburger.edu", ""),
    ] {
        let (house, shared) = (House::new(), shared());
        let bob = house.0.path().join("mail/bob");
        fs::create_dir_all(&bob).unwrap();
        if let Some(forward) = forward {
            fs::write(bob.join(".forward"), forward).unwrap();
        }
        let aliases = BTreeMap::from([("info".to_owned(), ["bob", "dave"].map(str::to_owned).to_vec())]);
        let users = ["alice", "bob", "carol", "dave"].map(str::to_owned).to_vec();
        beside_a_server(Config { users, aliases, ..house.config() }, &shared, async |at, queue| {
            let mut client = greeted(at).await;
            say(&mut client, "MAIL FROM:<alice@hamburger.edu> ENVID=x1").await;
            say(&mut client, rcpt).await;
            say(&mut client, "DATA").await;
            let heard = say(&mut client, "Subject: to all\r\n\r\n.").await;
            assert!(heard.starts_with("250 "), "{heard}");
            queue.empty().await;
        })
        .await;
        assert_eq!(["bob", "carol", "dave"].map(|user| house.mail(user).len()), mail, "{rcpt}");
        let reports = house.mail("alice");
        assert_eq!(reports.len(), 1, "{reports:?}");
        for words in ["Action: expanded", "Original-Envelope-Id: x1", final_recipient, original] {
            assert!(reports[0].contains(words), "{words}: {reports:?}");
        }
    }
}

/// As for a program that answers in its owner's stead: what is kept is what is told of (RFC 3461 §5.2.7.3 (b)).
#[tokio::test]
async fn success_of_a_forwarder_that_keeps_a_copy_is_told_once() {
    let (house, shared) = (House::new(), shared());
    fs::create_dir_all(house.0.path().join("mail/bob")).unwrap();
    fs::write(house.0.path().join("mail/bob/.forward"), "\\bob, carol").unwrap();
    let users = ["alice", "bob", "carol"].map(str::to_owned).to_vec();
    beside_a_server(Config { users, ..house.config() }, &shared, async |at, queue| {
        let mut client = greeted(at).await;
        say(&mut client, "MAIL FROM:<alice@hamburger.edu>").await;
        say(&mut client, "RCPT TO:<bob@hamburger.edu> NOTIFY=SUCCESS").await;
        say(&mut client, "DATA").await;
        say(&mut client, "Subject: kept\r\n\r\n.").await;
        queue.empty().await;
    })
    .await;
    let reports = house.mail("alice");
    assert_eq!([house.mail("bob").len(), house.mail("carol").len(), reports.len()], [1, 1, 1], "{reports:?}");
    assert!(reports[0].contains("Final-Recipient: rfc822;bob@hamburger.edu"), "{reports:?}");
}

#[tokio::test]
async fn what_was_held_over_a_restart_is_tried_when_it_is_released() {
    let (house, shared) = (House::new(), shared());
    let config = Config { retry: vec![shared::units::Span::secs(2)], ..cut_off(&house) };
    beside_a_server(config.clone(), &shared, async |at, queue| {
        let mut client = greeted(at).await;
        send(&mut client, "bob@hamburger.edu", &["carol@else.example"], "Subject: patience").await;
        listed(&queue, "1 try, next").await;
        let told = queue.about("hold", Some("all")).unwrap();
        assert!(told[0].ends_with(" held"), "{told:?}");
        let told = queue.about("flush", None).unwrap();
        assert!(told[0].ends_with(" is held; release it first"), "{told:?}");
    })
    .await;
    beside_a_server(config, &shared, async |_, queue| {
        listed(&queue, "1 try, held").await;
        queue.about("release", Some("all")).unwrap();
        listed(&queue, "2 tries").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_flushed_by_many_at_once_notes_each_state_whole() {
    let (house, shared) = (House::new(), shared());
    beside_a_server(cut_off(&house), &shared, async |at, queue| {
        let mut client = greeted(at).await;
        let to: Vec<String> = (0..8).map(|number| format!("u{number}@else.example")).collect();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        send(&mut client, "bob@hamburger.edu", &to, "Subject: now").await;
        let hurry = || {
            let queue = queue.clone();
            tokio::task::spawn_blocking(move || (0..50).flat_map(|_| queue.about("flush", None).unwrap()).collect())
        };
        for answers in [hurry(), hurry(), hurry()] {
            let answers: Vec<String> = answers.await.unwrap();
            assert!(answers.iter().all(|line| line.ends_with("will be tried now")), "{answers:?}");
        }
    })
    .await;
}

/// What the server says of a recipient; the transaction is given up.
async fn recipient(client: &mut Client, to: &str) -> String {
    assert!(say(client, "MAIL FROM:<alice@crepes.fr>").await.starts_with("250 "));
    let heard = say(client, &format!("RCPT TO:<{to}>")).await;
    assert!(say(client, "RSET").await.starts_with("250 "));
    heard
}

#[tokio::test]
async fn a_new_configuration_is_for_new_sessions_and_a_wrong_one_is_for_nobody() {
    let (house, shared) = (House::new(), shared());
    let server = Server::bind(house.config(), &shared).unwrap();
    let (at, queue, reloader) = (server.local_addrs()[0].address, server.queue(), server.reloader());
    let shutdown = CancellationToken::new();
    let test = async {
        let mut before = greeted(at).await;
        assert!(recipient(&mut before, "team@hamburger.edu").await.starts_with("550 5.1.1"));
        let new = || Config {
            aliases: BTreeMap::from([("team".to_owned(), vec!["bob".to_owned(), "postmaster".to_owned()])]),
            message_max: shared::units::Size(99),
            // Another port would take a restart; that keeps nothing else from being taken.
            listen: vec![([127, 0, 0, 1], 1).into()],
            ..house.config()
        };
        reloader.reload(new(), &shared).unwrap();
        let mut after = greeted(at).await;
        assert!(say(&mut after, "MAIL FROM:<a@b> SIZE=100").await.starts_with("552 5.3.4"));
        assert!(send(&mut after, "a@b", &["team@hamburger.edu"], "Subject: x").await.starts_with("250 "));
        // Bob and postmaster are two, so it went through the queue.
        queue.empty().await;
        assert_eq!((house.mail("bob").len(), house.mail("postmaster").len()), (1, 1));
        assert!(recipient(&mut before, "team@hamburger.edu").await.starts_with("550 5.1.1"));

        let text = |text: &str| text.to_owned();
        for (key, wrong) in [
            ("smtp.aliases", Config { aliases: BTreeMap::from([(text("x"), vec![text("@")])]), ..new() }),
            ("smtp.routes", Config { routes: BTreeMap::from([(text("no domain"), relay("crepes.fr"))]), ..new() }),
            ("smtp.domains", Config { domains: vec![text("-")], ..new() }),
        ] {
            let error = reloader.reload(wrong, &shared).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
        assert!(recipient(&mut greeted(at).await, "team@hamburger.edu").await.starts_with("250 "));
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

#[tokio::test]
async fn mail_for_an_address_that_is_our_own_comes_back_at_once_and_does_not_go_round() {
    let (house, shared) = (House::new(), shared());
    let config =
        || Config { listen: vec![([0; 4], 0).into()], allow: vec!["127.0.0.0/8".parse().unwrap()], ..house.config() };
    let server = Server::bind(config(), &shared).unwrap();
    let (port, queue) = (server.local_addrs()[0].address.port(), server.queue());
    // The port is known only now.
    server.reloader().reload(Config { peer_port: port, ..config() }, &shared).unwrap();
    let shutdown = CancellationToken::new();
    let test = async {
        let mut client = greeted(([127, 0, 0, 1], port).into()).await;
        assert!(send(&mut client, "bob@hamburger.edu", &["bob@[127.0.0.9]"], "Subject: x").await.starts_with("250 "));
        queue.empty().await;
        let mail = house.mail("bob");
        assert!(mail.len() == 1 && mail[0].contains("Status: 5.4.6"), "{mail:?}");
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

#[tokio::test]
async fn a_waiting_session_is_small() {
    let (house, shared) = (House::new(), shared());
    let server = Server::bind(house.config(), &shared).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 25));
    let (_near, far) = duplex(64);
    let talk = shared.transcript.conversation(Transport::Tcp, address, address);
    let session = server.serve_stream(far, (Channel::Clear, Purpose::Relay), talk, CancellationToken::new());
    // What it has on the heap besides, an envelope and the last lines, is about two KiB.
    assert!(size_of_val(&session) < 6 << 10, "{} octets", size_of_val(&session));
}
