//! The transcripts, played every way; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use bytes::BytesMut;
use pop3::{
    Config, Server,
    body::{Cut, header},
    reply::Reply,
    session::{Channel, Credentials, Effect, Extent, LINE_OCTETS_MAX, Offer, Outcome, Plaintext, Session, Step, Stls},
};
use shared::{
    Shared,
    accounts::{self, Accounts},
    login::Answer,
    maildir::{Listing, Maildir},
    message::Stuffing,
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::{Heard, Subscription, Transport},
    wire::{Crlf, Line, LineEnd},
};
use std::{
    fmt::Write as _,
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
            Effect::Verify(Credentials::Sasl(shared::sasl::Credentials::Password { user, secret }))
                if [("bob", &b"hungry"[..]), ("alice", b"crepes")].contains(&(user.as_str(), secret.as_slice())) =>
            {
                Outcome::Login(Answer::Welcome)
            }
            Effect::Verify(_) => Outcome::Login(Answer::Denied),
            Effect::FetchKeys(user) => {
                let keys = shared::sasl::ScramKeys::decoy(b"key", &user);
                Outcome::Login(Answer::Keys { keys, nonce: "nonce".to_owned() })
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

    fn hear(&mut self, line: &Line) -> Said {
        let mut step = self.session.on_line(line);
        loop {
            // RFC 1939 §3: what is said beside messages is printable ASCII.
            if let Step::Reply(reply) | Step::Challenge(reply) | Step::Close(reply) = &step {
                assert!(reply.to_string().is_ascii(), "{reply}");
            }
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

// --- What a transcript cannot say ------------------------------------------------------------------------------------

/// A client that is connected.
type Client = BufStream<TcpStream>;

async fn connect(at: SocketAddr) -> Client {
    let mut client = BufStream::new(TcpStream::connect(at).await.unwrap());
    assert!(hear(&mut client).await.starts_with("+OK POP3 server ready"));
    client
}

async fn hear(client: &mut Client) -> String {
    let mut line = String::new();
    client.read_line(&mut line).await.unwrap();
    line
}

async fn say(client: &mut Client, line: &str) -> String {
    client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    hear(client).await
}

async fn logged_in(at: SocketAddr) -> Client {
    let mut client = connect(at).await;
    say(&mut client, "USER bob").await;
    assert_eq!(say(&mut client, "PASS hungry").await, "+OK user successfully logged on\r\n");
    client
}

/// The message, as a client that knows POP3 keeps it.
async fn retrieve(client: &mut Client, number: usize) -> (String, Vec<u8>) {
    let reply = say(client, &format!("RETR {number}")).await;
    let mut message = vec![];
    while reply.starts_with("+OK") {
        let mut line = vec![];
        client.read_until(b'\n', &mut line).await.unwrap();
        match line.strip_prefix(b".") {
            Some(b"\r\n") => break,
            Some(rest) => message.extend_from_slice(rest),
            None => message.extend_from_slice(&line),
        }
    }
    (reply, message)
}

#[tokio::test]
async fn octets_that_are_told_are_octets_that_are_sent() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let long = format!(".{}\n", "x".repeat(200_000));
    for (number, text) in
        ["", ".", "\n.\n..\n", "a\r\nb\n", "no end", &long, &"line\r\n".repeat(50_000), "\r"].iter().enumerate()
    {
        mailboxes.put(&format!("20000000{number:02}.V1I1M1.h"), text);
    }
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        for number in 1..=10 {
            let told = say(&mut client, &format!("LIST {number}")).await;
            let (reply, message) = retrieve(&mut client, number).await;
            assert_eq!(told, format!("+OK {number} {}\r\n", message.len()));
            assert_eq!(reply, format!("+OK {} octets\r\n", message.len()));
        }
    })
    .await;
}

/// Who reads in order finds the next message read ahead; nobody else does.
#[tokio::test]
async fn in_whatever_order_messages_are_read_they_are_the_same() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    // Around what is read ahead, and around what is read at once.
    let lengths = [0, 1, 900, 16 << 10, (16 << 10) + 1, 64 << 10, (64 << 10) + 1, 0, 900, 900];
    for (number, length) in lengths.into_iter().enumerate() {
        let text: String =
            (0..length).map(|at| if at % 60 == 59 { '\n' } else { char::from(b'a' + number as u8) }).collect();
        mailboxes.put(&format!("20000000{number:02}.V1I1M1.h"), text);
    }
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        let mut backwards = vec![];
        for number in (1..=12).rev() {
            backwards.push(retrieve(&mut client, number).await);
        }
        backwards.reverse();
        for number in 1..=12 {
            assert!(retrieve(&mut client, number).await == backwards[number - 1], "message {number}");
            // Other commands between, and a step back, change nothing.
            if number % 3 == 0 {
                say(&mut client, "NOOP").await;
                assert!(retrieve(&mut client, number - 1).await == backwards[number - 2], "message {number} - 1");
                assert!(retrieve(&mut client, number).await == backwards[number - 1], "message {number} again");
            }
        }
        // One that is removed when it has been read ahead can still be read, as whoever has a file open can.
        retrieve(&mut client, 10).await;
        retrieve(&mut client, 11).await;
        say(&mut client, "NOOP").await;
        fs::remove_file(mailboxes.path("new").join("2000000009.V1I1M1.h")).unwrap();
        assert!(retrieve(&mut client, 12).await == backwards[11]);
        assert!(say(&mut client, "RETR 12").await.starts_with("-ERR [SYS/TEMP] message 12 is gone"));
    })
    .await;
}

#[tokio::test]
async fn a_maildrop_has_one_reader_and_new_mail_waits_for_the_next() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut first = logged_in(at).await;
        let mut second = connect(at).await;
        say(&mut second, "USER bob").await;
        assert!(say(&mut second, "PASS hungry").await.starts_with("-ERR [IN-USE] "));
        mailboxes.put("2000000000.M1P1Q9.h,S=6,W=7", "hello\n");
        assert_eq!(say(&mut first, "STAT").await, "+OK 2 1410\r\n");
        assert_eq!(say(&mut first, "QUIT").await, "+OK POP3 server signing off\r\n");
        // Whoever has heard the goodbye can come back at once.
        say(&mut second, "USER bob").await;
        assert_eq!(say(&mut second, "PASS hungry").await, "+OK user successfully logged on\r\n");
        assert_eq!(say(&mut second, "STAT").await, "+OK 3 1417\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_message_that_another_program_takes_away_is_told_and_does_not_stop_the_rest() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        let files = mailboxes.files();
        fs::remove_file(mailboxes.path("new").join(&files[0])).unwrap();
        // It got flags meanwhile, which is no other message.
        fs::rename(mailboxes.path("new").join(&files[1]), mailboxes.path("cur").join(format!("{}:2,S", files[1])))
            .unwrap();
        assert!(say(&mut client, "RETR 1").await.starts_with("-ERR [SYS/TEMP] message 1 is gone"));
        assert_eq!(retrieve(&mut client, 2).await.1.len(), 912);
        for number in 1..=2 {
            assert!(say(&mut client, &format!("DELE {number}")).await.starts_with("+OK"));
        }
        assert_eq!(say(&mut client, "QUIT").await, "+OK POP3 server signing off\r\n");
        assert_eq!(fs::read_dir(mailboxes.path("cur")).unwrap().count(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_message_that_becomes_shorter_on_its_way_does_not_look_finished() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    mailboxes.put("2000000000.M1P1Q9.h", "line\r\n".repeat(100_000));
    let server = Server::bind(mailboxes.config(), &shared).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 110));
    let (mut near, far) = duplex(1024);
    let talk = shared.transcript.conversation(Transport::Tcp, address, address);
    let serve = server.serve_stream(far, Channel::Clear, talk, CancellationToken::new());
    let read = async {
        near.write_all(b"USER bob\r\nPASS hungry\r\nRETR 3\r\nQUIT\r\n").await.unwrap();
        // So much has been read of the file, and not all of it.
        let mut heard = vec![0; 1000];
        near.read_exact(&mut heard).await.unwrap();
        fs::File::options()
            .write(true)
            .open(mailboxes.path("new").join("2000000000.M1P1Q9.h"))
            .unwrap()
            .set_len(300_000)
            .unwrap();
        near.read_to_end(&mut heard).await.unwrap();
        String::from_utf8(heard).unwrap()
    };
    let ((), heard) = tokio::join!(serve, read);
    assert!(heard.contains("+OK 600000 octets\r\nline\r\n") && heard.len() < 310_000, "{}", heard.len());
    assert!(!heard.contains("\r\n.\r\n"), "{}", &heard[heard.len() - 100..]);
}

#[tokio::test]
async fn what_cannot_be_removed_is_told_at_quit() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        say(&mut client, "DELE 1").await;
        // A folder of the same name cannot be unlinked, not even by root.
        let file = mailboxes.path("new").join(&mailboxes.files()[0]);
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        let told = say(&mut client, "QUIT").await;
        assert_eq!(told, "-ERR [SYS/PERM] 1 message of the deleted could not be removed; tell the postmaster\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_header_in_utf8_is_for_those_who_asked_for_it() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    mailboxes.put("2000000000.M1P1Q9.h", "Subject: h\u{e5}ll\n\nx\n");
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        assert!(say(&mut client, "RETR 3").await.starts_with("-ERR [UTF8] "));
        assert!(say(&mut client, "TOP 3 0").await.starts_with("-ERR [UTF8] "));
        assert!(say(&mut client, "RETR 1").await.starts_with("+OK"));
        say(&mut client, "QUIT").await;
        let mut client = connect(at).await;
        for line in ["UTF8", "USER bob", "PASS hungry"] {
            assert!(say(&mut client, line).await.starts_with("+OK"), "{line}");
        }
        assert_eq!(retrieve(&mut client, 3).await.1, "Subject: h\u{e5}ll\r\n\r\nx\r\n".as_bytes());
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_is_let_go_without_a_word_and_nothing_is_removed() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let config = Config { idle_timeout: "300 ms".parse().unwrap(), ..mailboxes.config() };
    beside_a_server(config, &shared, async |at| {
        let mut client = logged_in(at).await;
        assert!(say(&mut client, "DELE 1").await.starts_with("+OK"));
        let mut rest = vec![];
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"", "RFC 1939 \u{a7}3: without any response");
    })
    .await;
    assert_eq!(mailboxes.files().len(), 2);
}

#[tokio::test]
async fn a_stop_says_goodbye_and_removes_nothing() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let server = Server::bind(mailboxes.config(), &shared).unwrap();
    let (at, shutdown) = (server.local_addrs()[0].address, CancellationToken::new());
    let client = async {
        let mut client = logged_in(at).await;
        say(&mut client, "DELE 1").await;
        shutdown.cancel();
        assert_eq!(hear(&mut client).await, "-ERR [SYS/TEMP] the server stops; nothing was deleted\r\n");
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), client);
    result.unwrap();
    assert_eq!(mailboxes.files().len(), 2);
}

#[tokio::test]
async fn a_second_login_too_early_is_told_how_long_to_wait() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let config = Config { login_delay: "5 min".parse().unwrap(), ..mailboxes.config() };
    beside_a_server(config, &shared, async |at| {
        let mut client = logged_in(at).await;
        say(&mut client, "QUIT").await;
        let mut client = connect(at).await;
        say(&mut client, "USER bob").await;
        let told = say(&mut client, "PASS hungry").await;
        assert_eq!(told, "-ERR [LOGIN-DELAY] wait at least 300 s between two logins\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_login_that_found_the_maildrop_in_use_is_none_to_wait_after() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let config = Config { login_delay: "5 min".parse().unwrap(), ..mailboxes.config() };
    let elsewhere = Maildir::open(&mailboxes.0.path().join("bob")).unwrap().lock().unwrap();
    beside_a_server(config, &shared, async |at| {
        let mut client = connect(at).await;
        say(&mut client, "USER bob").await;
        assert!(say(&mut client, "PASS hungry").await.starts_with("-ERR [IN-USE] "));
        drop(elsewhere);
        say(&mut client, "USER bob").await;
        assert_eq!(say(&mut client, "PASS hungry").await, "+OK user successfully logged on\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_new_configuration_is_for_new_sessions_and_a_wrong_one_is_for_nobody() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let server = Server::bind(mailboxes.config(), &shared).unwrap();
    let (at, reloader, shutdown) = (server.local_addrs()[0].address, server.reloader(), CancellationToken::new());
    let test = async {
        let mut before = connect(at).await;
        reloader.reload(Config { allow_plaintext_auth: false, ..mailboxes.config() }, &shared).unwrap();
        assert!(say(&mut connect(at).await, "USER bob").await.starts_with("-ERR"));
        assert!(say(&mut before, "USER bob").await.starts_with("+OK"));
        // A file is no place for mailboxes.
        let authority = shared::tls::LabCa::open_or_create(mailboxes.0.path()).unwrap();
        let wrong = Config { mailboxes: authority.certificate_file(), ..mailboxes.config() };
        let error = reloader.reload(wrong, &shared).unwrap_err().to_string();
        assert!(error.starts_with("pop3.mailboxes"), "{error}");
        assert!(say(&mut connect(at).await, "USER bob").await.starts_with("-ERR"));
        // A certificate that was not there before is offered.
        let tls = authority.certificate_for(&["localhost".to_owned()]).unwrap();
        reloader.reload(mailboxes.config(), &Shared { tls, ..shared.clone() }).unwrap();
        assert!(say(&mut connect(at).await, "STLS").await.starts_with("+OK"));
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

/// The transcript of a whole conversation.
async fn to_the_end(listener: &mut Subscription) -> String {
    let mut told = String::new();
    while !told.contains("@ close") {
        match listener.next().await {
            Some(Heard::Event(event)) => writeln!(told, "{event}").unwrap(),
            other => panic!("{other:?}"),
        }
    }
    told
}

#[tokio::test]
async fn nothing_that_was_said_behind_stls_in_clear_is_obeyed() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let authority = shared::tls::LabCa::open_or_create(mailboxes.0.path()).unwrap();
    let tls = authority.certificate_for(&["localhost".to_owned()]).unwrap();
    let shared = Shared { tls, ..shared };
    let mut listener = shared.transcript.hub().subscribe();
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = connect(at).await;
        client.write_all(b"STLS\r\nUSER bob\r\nPASS hungry\r\nSTAT\r\n").await.unwrap();
        client.flush().await.unwrap();
        assert_eq!(hear(&mut client).await, "+OK begin TLS\r\n");
        // The handshake that is awaited now does not come.
        drop(client);
    })
    .await;
    let told = to_the_end(&mut listener).await;
    assert!(told.contains("octets sent in clear before the TLS handshake are dropped"), "{told}");
    assert!(!told.contains("USER") && !told.contains("STAT"), "{told}");
}

#[tokio::test]
async fn the_transcript_has_whole_messages_and_no_password() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let mut listener = shared.transcript.hub().subscribe();
    beside_a_server(mailboxes.config(), &shared, async |at| {
        let mut client = logged_in(at).await;
        retrieve(&mut client, 1).await;
        say(&mut client, "AUTH PLAIN").await;
        say(&mut client, "QUIT").await;
    })
    .await;
    let told = to_the_end(&mut listener).await;
    for line in ["C: PASS ********\n", "S: +OK 498 octets\nS: Return-Path: ", "S: Do you like ketchup?\n", "S: .\n"] {
        assert!(told.contains(line), "{told}");
    }
    assert!(!told.contains("hungry"), "{told}");
}

#[test]
fn a_client_that_only_errs_or_guesses_is_sent_away() {
    let offer = || Offer { plaintext: Plaintext::Allowed, stls: Stls::No, login_delay: Duration::ZERO };
    let (mut world, _) = World::new(offer(), None);
    let text = |text: &'static str| Line::Text(text.into());
    let closes = |step: Step| matches!(step, Step::Close(_));
    let errors = (1..1000).find(|_| closes(world.session.on_line(&text("NONSENSE")))).unwrap();
    assert_eq!(errors, 100);
    let (mut world, _) = World::new(offer(), None);
    let guesses = (1..1000).find(|_| {
        world.session.on_line(&text("USER bob"));
        let Step::Perform(effect) = world.session.on_line(&text("PASS thirsty")) else { panic!("PASS is looked at") };
        let outcome = world.perform(effect);
        closes(world.session.on_outcome(outcome))
    });
    assert_eq!(guesses, Some(5));
}

/// Nobody who types comes near it. Who has logged in holds nothing but a mailbox of its own.
#[test]
fn a_client_that_talks_and_does_not_log_in_is_sent_away() {
    let offer = || Offer { plaintext: Plaintext::Allowed, stls: Stls::No, login_delay: Duration::ZERO };
    let text = |text: &str| Line::Text(text.to_owned().into());
    let closes = |step: Step| matches!(step, Step::Close(_));
    for talk in ["CAPA", "USER bob", "UTF8"] {
        let (mut world, _) = World::new(offer(), None);
        assert_eq!((1..1000).find(|_| closes(world.session.on_line(&text(talk)))), Some(101), "{talk}");
    }
    let (mut world, _) = World::new(offer(), None);
    let exchanges =
        (1..1000).find(|_| ["AUTH PLAIN", "*"].iter().any(|line| closes(world.session.on_line(&text(line)))));
    assert_eq!(exchanges, Some(51));
    let (mut world, _) = World::new(offer(), None);
    for line in ["USER bob", "PASS hungry"] {
        let mut step = world.session.on_line(&text(line));
        while let Step::Perform(effect) = step {
            let outcome = world.perform(effect);
            step = world.session.on_outcome(outcome);
        }
    }
    assert!((1..1000).all(|_| !closes(world.session.on_line(&text("NOOP")))));
}

#[test]
fn scram_in_the_session_proves_both_sides_before_the_maildrop_opens() {
    let offer = Offer { plaintext: Plaintext::OverTls, stls: Stls::No, login_delay: Duration::ZERO };
    let (mut session, _) = Session::new(Arc::new(offer), Channel::Clear, None);
    let text = |text: &str| Line::Text(text.to_owned().into());
    // RFC 7677 §3, in base64: n,,n=user,r=rOprNGfwEbeRWgbNEkqO
    let step = session.on_line(&text("AUTH SCRAM-SHA-256 biwsbj11c2VyLHI9ck9wck5HZndFYmVSV2diTkVrcU8="));
    assert!(matches!(step, Step::Perform(Effect::FetchKeys(user)) if user == "user"));
    let keys = shared::sasl::ScramKeys::parse(
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
         wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=",
    );
    let nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_owned();
    assert!(matches!(
        session.on_outcome(Outcome::Login(Answer::Keys { keys: keys.unwrap(), nonce })),
        Step::Challenge(_)
    ));
    let last = "Yz1iaXdzLHI9ck9wck5HZndFYmVSV2diTkVrcU8laHZZRHBXVWEyUmFUQ0FmdXhGSWxqKWhObEYkazAscD1kSHpiWmFwV0lrNGpVaE4rVXRlOXl0YWc5empmTUhnc3FtbWl6N0FuZFZRPQ==";
    assert!(matches!(
        session.on_line(&text(last)),
        Step::Perform(Effect::Verify(Credentials::Sasl(shared::sasl::Credentials::Scram { .. })))
    ));
    let Step::Challenge(reply) = session.on_outcome(Outcome::Login(Answer::Welcome)) else { panic!("we prove it too") };
    assert_eq!(reply.to_string(), "+ dj02cnJpVFJCaTIzV3BSUi93dHVwK21NaFVaVW4vZEI1bkxUSlJzamw5NUc0PQ==");
    assert!(matches!(session.on_line(&text("")), Step::Perform(Effect::OpenMaildrop(user)) if user == "user"));
    assert!(matches!(session.on_outcome(Outcome::Opened(Arc::default())), Step::Reply(_)));
}

#[test]
fn a_line_that_is_too_long_hears_the_bound_that_it_broke() {
    let offer = Offer { plaintext: Plaintext::Allowed, stls: Stls::No, login_delay: Duration::ZERO };
    let (mut session, _) = Session::new(Arc::new(offer), Channel::Clear, None);
    for (said, most) in [("NOOP", 255), ("AUTH PLAIN", 12_288), ("NOOP", 255)] {
        session.on_line(&Line::Text(said.into()));
        let Step::Reply(reply) = session.on_line(&Line::TooLong) else { panic!("no reply") };
        assert_eq!(reply.to_string(), format!("-ERR a line has at most {most} octets"));
    }
}

#[tokio::test]
async fn a_waiting_session_is_small() {
    let (mailboxes, shared) = (Mailboxes::new(), shared());
    let server = Server::bind(mailboxes.config(), &shared).unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], 110));
    let (_near, far) = duplex(64);
    let talk = shared.transcript.conversation(Transport::Tcp, address, address);
    let session = server.serve_stream(far, Channel::Clear, talk, CancellationToken::new());
    // What it has on the heap besides, names and sizes of a few messages and the last lines, is about two KiB.
    assert!(size_of_val(&session) < 8 << 10, "{} octets", size_of_val(&session));
}
