//! Couriers among servers: which one is found, what happens when one is not there, what goes over the wire beside the dialogue.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, MX},
    },
};
use shared::{
    metrics::Registers,
    tls::{self, LabCa},
    transcript::{Heard, Hub},
};
use smtp::{
    courier::{Begin, Connection, Couriers, Destination, Job, Login, Neighbour, Route, Security, Settings, Timeouts},
    envelope::{Account, Body, Charset, Envelope, Fate, Notify, Recipient, Ret, Status},
    mx::Own,
    session::Plaintext,
};
use std::{
    collections::HashMap,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream, UdpSocket},
    time::Instant,
};
use tokio_rustls::TlsAcceptor;

const PATIENCE: Duration = Duration::from_secs(10);

fn settings(port: u16, resolver: Option<SocketAddr>) -> Settings {
    Settings {
        hello: "crepes.fr".to_owned(),
        resolvers: vec![resolver.unwrap_or(([127, 0, 0, 1], 9).into())],
        routes: HashMap::new(),
        smart_host: None,
        trust: None,
        port,
        from: None,
        our_names: vec!["mail.crepes.fr".parse().unwrap()],
        ipv6: false,
        connect_timeout: PATIENCE,
        timeouts: Timeouts::default(),
    }
}

fn couriers_in(hub: &Hub, settings: Settings) -> Couriers {
    let metrics = Registers::default().of("smtp", "mail.crepes.fr");
    Couriers::new(settings, hub.transcript("smtp", "mail.crepes.fr"), &metrics).unwrap()
}

fn couriers(settings: Settings) -> Couriers {
    couriers_in(&Hub::quiet(), settings)
}

fn to(domain: &str) -> Destination {
    Destination::Domain(domain.parse().unwrap())
}

fn here() -> Destination {
    Destination::Literal(Ipv4Addr::LOCALHOST.into())
}

/// A message for these recipients.
fn job(recipients: usize, content: &[u8]) -> Job {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    let of = |number| {
        let to = format!("bob{number}@hamburger.edu").parse().unwrap();
        Recipient { to, notify: Notify::Unsaid, orcpt: None }
    };
    let envelope = Envelope {
        from: "<alice@crepes.fr>".parse().unwrap(),
        body: Body::SevenBit,
        charset: Charset::Ascii,
        ret: Ret::Unsaid,
        envid: None,
        recipients: (0..recipients).map(of).collect(),
    };
    Job {
        id: "Q1".to_owned(),
        cause: Some(17),
        envelope: Arc::new(envelope),
        recipients: (0..recipients).collect(),
        message: Arc::new(file),
        start: 0,
        octets: content.len() as u64,
    }
}

/// A host at this port of this machine that mail is to go to.
fn neighbour(port: u16) -> Neighbour {
    format!("127.0.0.1:{port}").parse::<Route>().unwrap().into()
}

fn is_relayed(fates: &[Fate]) -> bool {
    !fates.is_empty() && fates.iter().all(|fate| matches!(fate, Fate::Relayed { .. }))
}

// --- Other servers ---------------------------------------------------------------------------------------------------

/// The other end of a connection.
struct Peer<S>(BufStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    fn new(stream: S) -> Self {
        Self(BufStream::new(stream))
    }

    async fn say(&mut self, lines: &str) {
        self.0.write_all(lines.replace('\n', "\r\n").as_bytes()).await.unwrap();
        self.0.write_all(b"\r\n").await.unwrap();
        self.0.flush().await.unwrap();
    }

    /// The next line; empty when there is none.
    async fn hear(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap_or_default();
        line.trim_end().to_owned()
    }

    /// Must hear this.
    async fn expect(&mut self, line: &str) {
        assert_eq!(self.hear().await, line);
    }

    async fn greet(&mut self, offer: &str) {
        self.say("220 mail.hamburger.edu").await;
        self.expect("EHLO crepes.fr").await;
        self.say(&format!("250-mail.hamburger.edu\n{offer}250 HELP")).await;
    }

    /// Takes messages until QUIT or the end; tells how many octets each had, dots and all, and how many recipients.
    async fn take(&mut self) -> Vec<(u64, usize)> {
        let (mut taken, mut recipients) = (vec![], 0);
        loop {
            let line = self.hear().await;
            match line.split([' ', ':']).next().unwrap_or_default() {
                "MAIL" => recipients = 0,
                "RCPT" => recipients += 1,
                "DATA" => {
                    self.say("354 go").await;
                    taken.push((self.message().await, recipients));
                }
                "QUIT" => {
                    self.say("221 bye").await;
                    return taken;
                }
                "" => return taken,
                _ => {}
            }
            self.say("250 ok").await;
        }
    }

    /// Reads to the dot.
    async fn message(&mut self) -> u64 {
        let (mut octets, mut line) = (0, vec![]);
        loop {
            line.clear();
            if self.0.read_until(b'\n', &mut line).await.unwrap() == 0 || line == b".\r\n" {
                return octets;
            }
            octets += line.len() as u64;
        }
    }
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// The best server of hamburger.edu and its backup: the same port at two addresses of this machine.
async fn best_and_backup() -> (TcpListener, TcpListener, u16) {
    loop {
        let (backup, port) = listener().await;
        if let Ok(best) = TcpListener::bind(("127.0.0.2", port)).await {
            return (best, backup, port);
        }
    }
}

async fn accept(listener: &TcpListener) -> Peer<TcpStream> {
    Peer::new(listener.accept().await.unwrap().0)
}

/// Sends over a connection to a server with this offer, which takes everything; what came of it, and what the server has.
async fn over_a_connection<T>(offer: &str, send: impl AsyncFnOnce(&mut Connection) -> T) -> (T, Vec<(u64, usize)>) {
    let (listener, port) = listener().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet(offer).await;
        peer.take().await
    };
    let send = async {
        let mut connection = couriers(settings(port, None)).connect(&here(), None).await.unwrap();
        let result = send(&mut connection).await;
        connection.quit().await;
        result
    };
    tokio::join!(send, serve)
}

// --- The DNS ---------------------------------------------------------------------------------------------------------

/// A name server with a few names; ends when `until` does.
async fn beside_a_name_server<T>(until: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let serve = async {
        let mut buffer = [0; 1500];
        loop {
            let (octets, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..octets]).unwrap();
            if question.queries[0].name.to_ascii() == "from-5.edu." {
                assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 5));
            }
            socket.send_to(&answer(&question).to_vec().unwrap(), from).await.unwrap();
        }
    };
    tokio::select! {
        result = until(address) => result,
        never = serve => never,
    }
}

fn answer(question: &Message) -> Message {
    let query = question.queries[0].clone();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let mx = |preference, text: &str| RData::MX(MX::new(preference, name(text)));
    let a = |last| RData::A(A(Ipv4Addr::new(127, 0, 0, last)));
    let asked = query.name.to_ascii();
    let records = match (asked.as_str(), query.query_type) {
        ("hamburger.edu.", RecordType::MX) => {
            Ok(vec![(&*asked, mx(20, "backup.hamburger.edu.")), (&asked, mx(10, "mail.hamburger.edu."))])
        }
        ("mail.hamburger.edu.", RecordType::A) => Ok(vec![(&*asked, a(2))]),
        ("backup.hamburger.edu.", RecordType::A) => Ok(vec![(&*asked, a(1))]),
        ("from-5.edu.", RecordType::MX) => Ok(vec![(&*asked, mx(10, "backup.hamburger.edu."))]),
        ("burger.edu.", RecordType::MX) => Ok(vec![
            (&*asked, RData::CNAME(CNAME(name("hamburger.edu.")))),
            ("hamburger.edu.", mx(10, "backup.hamburger.edu.")),
        ]),
        ("equals.edu.", RecordType::MX) => {
            Ok(vec![(&*asked, mx(10, "backup.hamburger.edu.")), (&asked, mx(10, "mail.hamburger.edu."))])
        }
        ("null.edu.", RecordType::MX) => Ok(vec![(&*asked, mx(0, "."))]),
        ("loop.edu.", RecordType::MX) => Ok(vec![(&*asked, mx(5, "mail.crepes.fr."))]),
        ("dangling.edu.", RecordType::MX) => Ok(vec![(&*asked, mx(5, "nowhere.edu."))]),
        // They are there, and have nothing else.
        ("silly.edu." | "backup.hamburger.edu." | "mail.hamburger.edu.", _) => Ok(vec![]),
        ("broken.edu.", _) => Err(ResponseCode::ServFail),
        ("refused.edu.", _) => Err(ResponseCode::Refused),
        _ => Err(ResponseCode::NXDomain),
    };
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    answer.add_query(query);
    match records {
        Ok(records) => records.into_iter().for_each(|(owner, data)| {
            answer.add_answer(Record::from_rdata(name(owner), 60, data));
        }),
        Err(code) => answer.metadata.response_code = code,
    }
    answer
}

// --- Finding the server ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_best_server_that_answers_gets_the_mail_and_the_transcript_tells_the_whole_story() {
    // mail.hamburger.edu is 127.0.0.2, where nobody listens; backup is 127.0.0.1.
    let (listener, port) = listener().await;
    let hub = Hub::quiet();
    let mut events = hub.subscribe();
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet("").await;
        peer.take().await
    };
    let send = beside_a_name_server(async |resolver| {
        let couriers = couriers_in(&hub, settings(port, Some(resolver)));
        let mut connection = couriers.connect(&to("hamburger.edu"), Some(17)).await.unwrap();
        assert_eq!(connection.remote(), format!("backup.hamburger.edu [127.0.0.1]:{port}"));
        let fates = connection.send(&job(1, b"Subject: Dinner\r\n\r\nketchup\r\n.pickles\r\n")).await;
        assert!(is_relayed(&fates), "{fates:?}");
        assert_eq!(fates[0].account().remote.as_deref(), Some("backup.hamburger.edu"));
        assert!(connection.is_usable());
        connection.quit().await;
        resolver
    });
    let (resolver, taken) = tokio::join!(send, serve);
    assert_eq!(taken, [(39, 1)]);
    drop(hub);
    let mut told = vec![];
    while let Some(Heard::Event(event)) = events.next().await {
        assert_eq!(event.cause, Some(17), "{event}");
        told.push(event.to_string());
        if told.last().is_some_and(|line| line == "@ close") {
            break;
        }
    }
    let want = format!(
        "C: hamburger.edu. MX?\n\
        S: hamburger.edu. 60 IN MX 20 backup.hamburger.edu., hamburger.edu. 60 IN MX 10 mail.hamburger.edu.\n\
        C: mail.hamburger.edu. A?\n\
        S: mail.hamburger.edu. 60 IN A 127.0.0.2\n\
        # mail.hamburger.edu [127.0.0.2]:{port} does not answer: connection refused, for nobody listens at that port\n\
        C: backup.hamburger.edu. A?\n\
        S: backup.hamburger.edu. 60 IN A 127.0.0.1\n\
        @ open\n\
        S: 220 mail.hamburger.edu\n\
        C: EHLO crepes.fr\n\
        S: 250-mail.hamburger.edu\n\
        S: 250 HELP\n\
        # message Q1, because of connection 17\n\
        C: MAIL FROM:<alice@crepes.fr>\n\
        S: 250 ok\n\
        C: RCPT TO:<bob0@hamburger.edu>\n\
        S: 250 ok\n\
        C: DATA\n\
        S: 354 go\n\
        C: Subject: Dinner\nC: \nC: ketchup\nC: ..pickles\nC: .\n\
        S: 250 ok\n\
        C: QUIT\n\
        S: 221 bye\n\
        @ close"
    );
    assert_eq!(told.join("\n"), want, "{resolver}");
}

#[tokio::test]
async fn every_way_that_leads_nowhere_is_told_in_words() {
    // A port at which nobody listens.
    let (listener, port) = listener().await;
    drop(listener);
    beside_a_name_server(async |resolver| {
        let couriers = couriers(settings(port, Some(resolver)));
        for (domain, want) in [
            (
                "hamburger.edu",
                "D 4.4.1 mail.hamburger.edu [127.0.0.2]:PORT does not answer: connection refused, for nobody listens at that port; \
                 backup.hamburger.edu [127.0.0.1]:PORT does not answer: connection refused, for nobody listens at that port",
            ),
            // An alias; then a domain without MX.
            ("burger.edu", "D 4.4.1 backup.hamburger.edu [127.0.0.1]:PORT does not answer: connection refused, for nobody listens at that port"),
            ("mail.hamburger.edu", "D 4.4.1 mail.hamburger.edu [127.0.0.2]:PORT does not answer: connection refused, for nobody listens at that port"),
            ("null.edu", "F 5.1.10 null.edu takes no mail: its MX record says so (null MX)"),
            (
                "loop.edu",
                "F 5.4.6 the DNS sends mail for loop.edu to us, and loop.edu is not in our `smtp.domains`; one of the two must be changed",
            ),
            ("dangling.edu", "F 5.4.4 the MX record names nowhere.edu, which has no address"),
            ("silly.edu", "F 5.1.2 silly.edu takes no mail: it has neither an MX record nor an address"),
            ("typo.edu", "F 5.1.2 there is no domain typo.edu; is the address right?"),
            ("broken.edu", "D 4.4.3 the DNS does not tell where mail for broken.edu goes: the name server cannot tell (SERVFAIL)"),
            ("refused.edu", "D 4.4.3 the DNS does not tell where mail for refused.edu goes: the name server refuses to tell (REFUSED)"),
        ] {
            let fate = couriers.connect(&to(domain), None).await.unwrap_err();
            let kind = if matches!(fate, Fate::Failed(_)) { "F" } else { "D" };
            let told = format!("{kind} {} {}", fate.account().status, fate.account());
            assert_eq!(told.replace(&port.to_string(), "PORT"), want, "{domain}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_is_silent_is_not_waited_for_for_ever() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let couriers = couriers(settings(25, Some(socket.local_addr().unwrap())));
    let began = Instant::now();
    let fate = couriers.connect(&to("hamburger.edu"), None).await.unwrap_err();
    let text = "the DNS does not tell where mail for hamburger.edu goes: no answer in time";
    assert_eq!((fate.account().status, fate.account().text.as_str()), (Status(4, 4, 3), text));
    assert!(began.elapsed() <= Duration::from_secs(21), "{:?}", began.elapsed());
}

#[tokio::test]
async fn our_end_is_the_address_that_is_configured_for_questions_too() {
    let (listener, port) = listener().await;
    let serve = async {
        let (stream, remote) = listener.accept().await.unwrap();
        let mut peer = Peer::new(stream);
        peer.greet("").await;
        peer.take().await;
        remote.ip()
    };
    let send = beside_a_name_server(async |resolver| {
        let from = Some(Ipv4Addr::new(127, 0, 0, 5).into());
        let couriers = couriers(Settings { from, ..settings(port, Some(resolver)) });
        couriers.connect(&to("from-5.edu"), None).await.unwrap().quit().await;
    });
    let ((), remote) = tokio::join!(send, serve);
    assert_eq!(remote, Ipv4Addr::new(127, 0, 0, 5));
}

#[tokio::test]
async fn routes_go_before_the_dns_and_a_smart_host_gets_what_is_for_it() {
    let (listener, port) = listener().await;
    let mut settings = settings(25, None);
    settings.routes.insert("hamburger.edu".parse().unwrap(), neighbour(port));
    let without = couriers(settings.clone());
    let text = "mail is to go to the smart host, and the configuration names none";
    assert_eq!(without.connect(&Destination::SmartHost, None).await.unwrap_err().account().text, text);
    let host = |text: &str| text.parse::<smtp::address::Host>().unwrap();
    assert_eq!(without.destination(&host("umass.edu")), to("umass.edu"));
    settings.smart_host = Some(neighbour(port));
    let couriers = couriers(settings);
    // Who has a way of its own does not go the general one.
    assert_eq!(couriers.destination(&host("HAMBURGER.edu")), to("hamburger.edu"));
    assert_eq!(couriers.destination(&host("umass.edu")), Destination::SmartHost);
    assert_eq!(couriers.destination(&host("[127.0.0.9]")), Destination::SmartHost);
    for destination in [to("HAMBURGER.edu"), Destination::SmartHost] {
        let serve = async {
            let mut peer = accept(&listener).await;
            peer.greet("").await;
            peer.take().await
        };
        let send = async {
            let connection = couriers.connect(&destination, None).await.unwrap();
            assert_eq!(connection.remote(), format!("[127.0.0.1]:{port}"));
            connection.quit().await;
        };
        tokio::join!(send, serve);
    }
}

#[tokio::test]
async fn mail_is_never_taken_to_ourselves_by_whatever_name_or_address() {
    let (best, backup, port) = best_and_backup().await;
    let us = |text: &str| -> Own { Own::new(vec![text.replace("PORT", &port.to_string()).parse().unwrap()]) };
    let the_dns = |domain| {
        format!(
            "F 5.4.6 the DNS sends mail for {domain} to us, and {domain} is not in our `smtp.domains`; one of the two must be changed"
        )
    };
    let best_is_down = "D 4.3.2 mail.hamburger.edu [127.0.0.2]:PORT does not want to talk with us now: 450 4.3.2 no";
    let literal = "F 5.4.6 [127.0.0.1] is this server itself, which takes no mail for it as long as it is not in our `smtp.listen`";
    let route = "D 4.3.5 our configuration sends this mail to [127.0.0.1], and that is this server itself";
    beside_a_name_server(async |resolver| {
        for (own, destination, want) in [
            // We are the best server, the backup, one of equals, the domain itself.
            ("127.0.0.2:PORT", to("hamburger.edu"), the_dns("hamburger.edu")),
            ("127.0.0.1:PORT", to("hamburger.edu"), best_is_down.to_owned()),
            ("127.0.0.1:PORT", to("equals.edu"), the_dns("equals.edu")),
            ("127.0.0.2:PORT", to("equals.edu"), the_dns("equals.edu")),
            ("0.0.0.0:PORT", to("hamburger.edu"), the_dns("hamburger.edu")),
            ("[::]:PORT", to("backup.hamburger.edu"), the_dns("backup.hamburger.edu")),
            ("0.0.0.0:PORT", here(), literal.to_owned()),
            ("127.0.0.1:PORT", Destination::SmartHost, route.to_owned()),
        ] {
            let mut settings = settings(port, Some(resolver));
            settings.smart_host = (destination == Destination::SmartHost).then(|| neighbour(port));
            let couriers = couriers(settings);
            couriers.avoid(us(own));
            let send = couriers.connect(&destination, None);
            let fate = if want == best_is_down {
                let refuse = async {
                    let mut peer = accept(&best).await;
                    peer.say("450 4.3.2 no").await;
                    peer.expect("QUIT").await;
                };
                tokio::join!(send, refuse).0
            } else {
                send.await
            };
            let fate = fate.unwrap_err();
            let kind = if matches!(fate, Fate::Failed(_)) { "F" } else { "D" };
            let told = format!("{kind} {} {}", fate.account().status, fate.account());
            assert_eq!(told.replace(&port.to_string(), "PORT"), want, "{own} {destination}");
        }
        // Another host of the lab has the same port at another address.
        let couriers = couriers(settings(port, Some(resolver)));
        couriers.avoid(us("127.0.0.3:PORT"));
        let serve = async {
            let mut peer = accept(&backup).await;
            peer.greet("").await;
            peer.take().await;
        };
        let send = async { couriers.connect(&to("backup.hamburger.edu"), None).await.unwrap().quit().await };
        tokio::join!(send, serve);
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_busy_leaves_the_mail_to_the_next_one() {
    let (best, backup, port) = best_and_backup().await;
    beside_a_name_server(async |resolver| {
        let couriers = couriers(settings(port, Some(resolver)));
        let serve = async {
            accept(&best).await.say("421 4.3.2 too busy").await;
            let mut peer = accept(&backup).await;
            peer.say("554 5.3.2 no").await;
            peer.expect("QUIT").await;
        };
        let (fate, ()) = tokio::join!(async { couriers.connect(&to("hamburger.edu"), None).await }, serve);
        let Err(Fate::Deferred(account)) = fate else { panic!("{fate:?}") };
        let text = account.to_string().replace(&port.to_string(), "PORT");
        let want = "mail.hamburger.edu [127.0.0.2]:PORT ends the session: 421 4.3.2 too busy; \
            backup.hamburger.edu [127.0.0.1]:PORT does not want to talk with us: 554 5.3.2 no";
        assert_eq!((account.status, &*text), (Status(4, 3, 2), want));
    })
    .await;
}

// --- Servers that fail after their greeting ----------------------------------------------------------------------------

/// Says these replies, one for each line that it hears; before `354` comes a message. `-` is no reply but the end.
async fn reply_in_turn(peer: &mut Peer<TcpStream>, replies: &str) {
    let mut within = false;
    for reply in replies.split('|') {
        if within {
            peer.message().await;
        } else {
            peer.hear().await;
        }
        if reply == "-" {
            return;
        }
        peer.say(reply).await;
        within = reply.starts_with("354");
    }
}

#[tokio::test]
async fn a_server_that_fails_after_its_greeting_leaves_the_mail_to_the_next_one() {
    let (best, backup, port) = best_and_backup().await;
    beside_a_name_server(async |resolver| {
        for replies in [
            "421 4.3.0 going down",
            "451 4.3.0 disk broken",
            "-",
            "250 ok|451 4.3.0 no database",
            "250 ok|250 ok|451 4.3.0 no room",
            "250 ok|250 ok|354 go|452 4.3.1 no room",
            "250 ok|250 ok|354 go|421 4.3.0 going down",
        ] {
            let serve = async {
                let mut first = accept(&best).await;
                first.greet("").await;
                reply_in_turn(&mut first, replies).await;
                let leaves = replies.contains("421") || replies == "-";
                let first = (!leaves).then_some(first);
                let mut second = accept(&backup).await;
                second.greet("").await;
                // Who does not go by himself hears our goodbye, once another is found.
                if let Some(mut first) = first {
                    first.expect("QUIT").await;
                    first.say("221 bye").await;
                }
                second.take().await
            };
            let send = async {
                let couriers = couriers(settings(port, Some(resolver)));
                let mut connection = couriers.connect(&to("hamburger.edu"), None).await.unwrap();
                let fates = connection.send(&job(1, b"hello\r\n")).await;
                assert!(is_relayed(&fates), "{replies}: {fates:?}");
                assert_eq!(fates[0].account().remote.as_deref(), Some("backup.hamburger.edu"));
                // The connection leads to the backup now, and the next message goes there.
                assert!(connection.is_usable());
                assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
                connection.quit().await;
            };
            let ((), taken) = tokio::join!(send, serve);
            assert_eq!(taken, [(7, 1), (7, 1)], "{replies}");
        }
    })
    .await;
}

#[tokio::test]
async fn nobody_gets_a_message_twice_and_who_is_greylisted_waits() {
    let (best, backup, port) = best_and_backup().await;
    beside_a_name_server(async |resolver| {
        let serve = async {
            let mut peer = accept(&best).await;
            peer.greet("").await;
            reply_in_turn(&mut peer, "250 ok|250 ok|451 no database|450 4.2.0 greylisted|550 5.1.1 who?|354 go|250 ok")
                .await;
            let mut second = accept(&backup).await;
            second.greet("").await;
            peer.take().await;
            second.expect("MAIL FROM:<alice@crepes.fr>").await;
            second.say("250 ok").await;
            second.expect("RCPT TO:<bob1@hamburger.edu>").await;
            second.say("250 ok").await;
            second.take().await;
        };
        let send = async {
            let couriers = couriers(settings(port, Some(resolver)));
            let mut connection = couriers.connect(&to("hamburger.edu"), None).await.unwrap();
            let fates = connection.send(&job(4, b"hello\r\n")).await;
            connection.quit().await;
            let told = |fate: &Fate| {
                let remote = fate.account().remote.clone().unwrap_or_default();
                format!("{} {remote}", fate.account().status)
            };
            fates.iter().map(told).collect::<Vec<_>>()
        };
        let (told, ()) = tokio::join!(send, serve);
        let (best, backup) = ("mail.hamburger.edu", "backup.hamburger.edu");
        assert_eq!(
            told,
            [format!("2.0.0 {best}"), format!("2.0.0 {backup}"), format!("4.2.0 {best}"), format!("5.1.1 {best}")]
        );
    })
    .await;
}

#[tokio::test]
async fn a_message_that_a_server_may_have_taken_over_is_not_given_to_another_at_once() {
    let (best, _backup, port) = best_and_backup().await;
    beside_a_name_server(async |resolver| {
        let serve = async {
            let mut peer = accept(&best).await;
            peer.greet("").await;
            reply_in_turn(&mut peer, "250 ok|250 ok|354 go|-").await;
        };
        let send = async {
            let couriers = couriers(settings(port, Some(resolver)));
            let mut connection = couriers.connect(&to("hamburger.edu"), None).await.unwrap();
            connection.send(&job(1, b"hello\r\n")).await
        };
        // If the backup were asked, nobody would answer there, and this would not end.
        let (fates, ()) = tokio::join!(send, serve);
        let [Fate::Deferred(account)] = &fates[..] else { panic!("{fates:?}") };
        assert!(account.text.contains("it may arrive twice"), "{account}");
    })
    .await;
}

#[tokio::test]
async fn where_all_servers_fail_it_is_told_of_each_and_the_next_message_asks_each_again() {
    let (best, backup, port) = best_and_backup().await;
    let hub = Hub::quiet();
    let mut events = hub.subscribe();
    beside_a_name_server(async |resolver| {
        let serve = async {
            let mut first = accept(&best).await;
            first.greet("").await;
            reply_in_turn(&mut first, "451 4.3.0 disk broken").await;
            let mut second = accept(&backup).await;
            second.greet("").await;
            first.take().await;
            reply_in_turn(&mut second, "250 ok|250 ok|452 4.3.1 no room").await;
            // The next message begins where the last one ended; the best server is well again.
            second.expect("RSET").await;
            second.say("250 ok").await;
            reply_in_turn(&mut second, "451 4.3.1 no room").await;
            let mut third = accept(&best).await;
            third.greet("").await;
            second.take().await;
            third.take().await
        };
        let send = async {
            let couriers = couriers_in(&hub, settings(port, Some(resolver)));
            let mut connection = couriers.connect(&to("hamburger.edu"), Some(17)).await.unwrap();
            let fates = connection.send(&job(1, b"hello\r\n")).await;
            let again = connection.send(&job(1, b"hello\r\n")).await;
            connection.quit().await;
            (fates, again)
        };
        let ((fates, again), taken) = tokio::join!(send, serve);
        let [Fate::Deferred(account)] = &fates[..] else { panic!("{fates:?}") };
        let want = "mail.hamburger.edu [127.0.0.2]:PORT does not take the sender <alice@crepes.fr> now: 451 4.3.0 disk broken; \
            backup.hamburger.edu [127.0.0.1]:PORT does not want the message now: 452 4.3.1 no room";
        assert_eq!((account.status, &*account.text.replace(&port.to_string(), "PORT")), (Status(4, 3, 0), want));
        assert!(is_relayed(&again), "{again:?}");
        assert_eq!(taken, [(7, 1)]);
    })
    .await;
    drop(hub);
    let mut told = vec![];
    while let Some(Heard::Event(event)) = events.next().await {
        told.push(event.to_string());
        if told.iter().filter(|line| *line == "@ close").count() == 3 {
            break;
        }
    }
    let story: Vec<&str> = told.iter().filter_map(|line| line.strip_prefix("# ")).collect();
    assert_eq!(
        story,
        [
            "message Q1, because of connection 17",
            "message Q1 is offered to the next server, for 1 of its recipients",
            "message Q1, because of connection 17",
            "message Q1, because of connection 17",
            "message Q1 is offered to the next server, for 1 of its recipients",
            "message Q1, because of connection 17",
        ]
    );
}

// --- TLS -------------------------------------------------------------------------------------------------------------

/// With a certificate for `name`; its authority's is in the folder, as `ca.crt`.
fn acceptor(folder: &Path, name: &str) -> TlsAcceptor {
    let config = LabCa::open_or_create(folder).unwrap().certificate_for(&[name.to_owned()]).unwrap();
    TlsAcceptor::from(tls::server_config(&config, &[]).unwrap().unwrap())
}

#[tokio::test]
async fn mail_is_encrypted_where_it_is_offered_whatever_the_certificate_says() {
    let folder = tempfile::tempdir().unwrap();
    let acceptor = acceptor(folder.path(), "elsewhere.net");
    let (listener, port) = listener().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet("250-STARTTLS\n").await;
        peer.expect("STARTTLS").await;
        // What somebody in the middle adds in clear is not heard (CVE-2011-0411 from the other side).
        peer.say("220 go ahead\n250 evil").await;
        let mut peer = Peer::new(acceptor.accept(peer.0.into_inner()).await.unwrap());
        peer.expect("EHLO crepes.fr").await;
        peer.say("250-mail\n250 AUTH PLAIN").await;
        peer.expect("AUTH PLAIN AGFsaWNlAGNyZXBlcw==").await;
        peer.say("235 welcome").await;
        peer.take().await
    };
    let send = async {
        let mut settings = settings(25, None);
        let (user, secret, plaintext) = ("alice".to_owned(), "crepes".to_owned(), Plaintext::OverTls);
        settings.smart_host = Some(Neighbour { login: Some(Login { user, secret, plaintext }), ..neighbour(port) });
        let mut connection = couriers(settings).connect(&Destination::SmartHost, None).await.unwrap();
        assert!(is_relayed(&connection.send(&job(1, b"private\r\n")).await));
        assert!(connection.is_usable());
        connection.quit().await;
    };
    let ((), taken) = tokio::join!(send, serve);
    assert_eq!(taken, [(9, 1)]);
}

#[tokio::test]
async fn a_certificate_is_verified_where_that_is_wanted_and_a_wrong_one_stops_the_mail() {
    let (folder, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (right, wrong) = (acceptor(folder.path(), "127.0.0.1"), acceptor(folder.path(), "elsewhere.net"));
    let strange = acceptor(others.path(), "127.0.0.1");
    let (listener, port) = listener().await;
    for (acceptor, security, begin, want) in [
        (&right, Security::Verified, Begin::InClear, ""),
        (&right, Security::Verified, Begin::WithTls, ""),
        (&wrong, Security::Required, Begin::InClear, ""),
        (&wrong, Security::Verified, Begin::InClear, "4.7.5 its certificate is for another name"),
        (&wrong, Security::Verified, Begin::WithTls, "4.7.5 its certificate is for another name"),
        (&strange, Security::Verified, Begin::InClear, "4.7.5 nobody whom we trust has signed its certificate"),
    ] {
        let serve = async {
            let mut stream = accept(&listener).await;
            if begin == Begin::InClear {
                stream.greet("250-STARTTLS\n").await;
                stream.expect("STARTTLS").await;
                stream.say("220 go ahead").await;
            }
            // Whoever does not like the certificate hangs up.
            let Ok(stream) = acceptor.accept(stream.0.into_inner()).await else { return };
            let mut peer = Peer::new(stream);
            if begin == Begin::WithTls {
                peer.say("220 mail").await;
            }
            if peer.hear().await == "EHLO crepes.fr" {
                peer.say("250 mail").await;
                peer.take().await;
            }
        };
        let send = async {
            let mut settings = settings(25, None);
            settings.smart_host = Some(Neighbour { security, begin, ..neighbour(port) });
            settings.trust = Some(tls::client_config(&folder.path().join("ca.crt")).unwrap());
            match couriers(settings).connect(&Destination::SmartHost, None).await {
                Ok(connection) => {
                    connection.quit().await;
                    String::new()
                }
                Err(Fate::Deferred(Account { status, text, .. })) => format!("{status} {text}"),
                Err(fate) => panic!("{fate:?}"),
            }
        };
        let (told, ()) = tokio::join!(send, serve);
        let told = told.replace(&format!("[127.0.0.1]:{port} offers TLS, which fails: "), "");
        assert_eq!(told, want, "{security:?} {begin:?}");
    }
}

#[tokio::test]
async fn where_tls_fails_the_mail_goes_in_clear_over_a_new_connection() {
    let (listener, port) = listener().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet("250-STARTTLS\n").await;
        peer.expect("STARTTLS").await;
        peer.say("220 go ahead\n").await;
        peer.say("500 what is this binary rubbish?").await;
        drop(peer);
        let mut peer = accept(&listener).await;
        peer.greet("250-STARTTLS\n").await;
        peer.take().await
    };
    let send = async {
        let mut connection = couriers(settings(port, None)).connect(&here(), None).await.unwrap();
        assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
        connection.quit().await;
    };
    let ((), taken) = tokio::join!(send, serve);
    assert_eq!(taken, [(7, 1)]);
}

// --- Connections that are used again ----------------------------------------------------------------------------------

#[tokio::test]
async fn five_messages_go_over_one_connection() {
    let send = async |connection: &mut Connection| {
        for _ in 0..5 {
            assert!(connection.is_usable());
            assert!(is_relayed(&connection.send(&job(2, b"hello\r\n")).await));
        }
    };
    let ((), taken) = over_a_connection("250-PIPELINING\n", send).await;
    assert_eq!(taken, [(7, 2); 5]);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_it_was_idle_costs_no_try() {
    let (listener, port) = listener().await;
    // Before each message but the first, the server ends the session in another way.
    let serve = async {
        for farewell in ["421 idle for too long", ""] {
            let mut peer = accept(&listener).await;
            peer.greet("").await;
            peer.expect("MAIL FROM:<alice@crepes.fr>").await;
            peer.say("250 ok").await;
            peer.hear().await;
            peer.say("250 ok").await;
            peer.hear().await;
            peer.say("354 go").await;
            peer.message().await;
            peer.say("250 ok").await;
            // The next one has begun already.
            peer.expect("MAIL FROM:<alice@crepes.fr>").await;
            if !farewell.is_empty() {
                peer.say(farewell).await;
            }
        }
        let mut peer = accept(&listener).await;
        peer.greet("").await;
        peer.take().await
    };
    let send = async {
        let mut connection = couriers(settings(port, None)).connect(&here(), None).await.unwrap();
        for _ in 0..3 {
            assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
        }
        connection.quit().await;
    };
    let ((), taken) = tokio::join!(send, serve);
    assert_eq!(taken, [(7, 1)]);
}

/// RFC 5321 §5.1 has the servers tried in their order: a backup that took a message is not asked first for all that follow.
#[tokio::test]
async fn a_connection_ends_after_five_minutes_however_much_there_is_to_send_and_the_best_server_is_asked_again() {
    let (best, backup, port) = best_and_backup().await;
    beside_a_name_server(async |resolver| {
        let couriers = couriers(settings(port, Some(resolver)));
        let serve = async {
            accept(&best).await.say("421 4.3.2 too busy").await;
            let mut peer = accept(&backup).await;
            peer.greet("").await;
            let taken = peer.take().await;
            let mut peer = accept(&best).await;
            peer.greet("").await;
            (taken, peer.take().await)
        };
        let send = async {
            let mut connection = couriers.connect(&to("hamburger.edu"), None).await.unwrap();
            let opened = Instant::now();
            for minutes in [0, 2, 4] {
                assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
                connection = connection.keep(opened + Duration::from_mins(minutes)).await.unwrap();
            }
            assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
            // It says goodbye.
            assert!(connection.keep(opened + Duration::from_mins(5)).await.is_none());
            let mut connection = couriers.connect(&to("hamburger.edu"), None).await.unwrap();
            assert!(connection.remote().starts_with("mail.hamburger.edu"));
            assert!(is_relayed(&connection.send(&job(1, b"hello\r\n")).await));
            connection.quit().await;
        };
        let ((), (by_backup, by_best)) = tokio::join!(send, serve);
        assert_eq!((by_backup.len(), by_best.len()), (4, 1));
    })
    .await;
}

#[tokio::test]
async fn a_server_that_has_hung_up_or_says_something_on_its_own_is_not_used_again() {
    let (listener, port) = listener().await;
    let couriers = couriers(settings(port, None));
    for goodbye in ["421 idle for too long", ""] {
        let serve = async {
            let mut peer = accept(&listener).await;
            peer.greet("").await;
            peer
        };
        let (connection, mut peer) = tokio::join!(async { couriers.connect(&here(), None).await }, serve);
        let connection = connection.unwrap();
        assert!(connection.is_usable());
        if goodbye.is_empty() {
            drop(peer);
        } else {
            peer.say(goodbye).await;
        }
        // The kernel carries it over; on loopback it is there at once, or a moment later.
        while connection.is_usable() {
            tokio::task::yield_now().await;
        }
    }
}

// --- Messages --------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn many_recipients_are_a_hundred_at_a_time() {
    for offer in ["", "250-PIPELINING\n"] {
        let send = async |connection: &mut Connection| connection.send(&job(250, b"hello\r\n")).await;
        let (fates, taken) = over_a_connection(offer, send).await;
        assert!(fates.len() == 250 && is_relayed(&fates));
        assert_eq!(taken, [(7, 100), (7, 100), (7, 50)]);
    }
}

#[tokio::test]
async fn a_large_message_arrives_whole_with_its_dots_doubled() {
    let content = b".a line that begins with a dot\r\nand one that does not\r\n".repeat(100_000);
    let send = async |connection: &mut Connection| connection.send(&job(1, &content)).await;
    let (fates, taken) = over_a_connection("250-PIPELINING\n", send).await;
    assert!(is_relayed(&fates));
    assert_eq!(taken, [(content.len() as u64 + 100_000, 1)]);
}

#[tokio::test]
async fn a_server_that_has_heard_enough_is_heard() {
    let (listener, port) = listener().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet("250-PIPELINING\n").await;
        for _ in 0..3 {
            peer.hear().await;
        }
        peer.say("250 ok\n250 ok\n354 go").await;
        let mut some = [0; 1000];
        peer.0.read_exact(&mut some).await.unwrap();
        peer.say("552 5.3.4 that is too much").await;
        // It does not read the rest, and closes its end for good when ours has given up.
        peer
    };
    let send = async {
        let mut settings = settings(port, None);
        settings.timeouts.data_block = Duration::from_millis(200);
        let mut connection = couriers(settings).connect(&here(), None).await.unwrap();
        let fates = connection.send(&job(1, &b"x\r\n".repeat(8_000_000))).await;
        assert!(!connection.is_usable());
        fates
    };
    let (fates, _peer) = tokio::join!(send, serve);
    let [Fate::Failed(account)] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!(account.status, Status(5, 3, 4));
    assert!(account.text.ends_with("refused the message before it had all of it"), "{account}");
}

#[tokio::test]
async fn a_file_that_has_become_shorter_is_never_sent_as_if_it_were_whole() {
    let (listener, port) = listener().await;
    let serve = async {
        let mut peer = accept(&listener).await;
        peer.greet("").await;
        for reply in ["250 ok", "250 ok", "354 go"] {
            peer.hear().await;
            peer.say(reply).await;
        }
        let mut rest = String::new();
        peer.0.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let send = async {
        let mut connection = couriers(settings(port, None)).connect(&here(), None).await.unwrap();
        let job = Job { octets: 1000, ..job(1, b"hello\r\n") };
        let fates = connection.send(&job).await;
        assert!(!connection.is_usable());
        connection.quit().await;
        fates
    };
    let (fates, rest) = tokio::join!(send, serve);
    assert!(!rest.contains("\r\n.\r\n"), "{rest:?}");
    let [Fate::Deferred(account)] = &fates[..] else { panic!("{fates:?}") };
    assert_eq!(account.status, Status(4, 3, 0));
}

#[tokio::test]
async fn a_promise_of_utf8_or_eight_bits_that_is_not_needed_stops_nothing() {
    let send = async |connection: &mut Connection| {
        let long = "X: y\r\n".repeat(20_000);
        let mut statuses = vec![];
        for (body, charset, content) in [
            (Body::EightBitMime, Charset::Utf8, format!("{long}\r\nascii\r\n")),
            (Body::EightBitMime, Charset::Ascii, format!("{long}\r\nå\r\n")),
            (Body::SevenBit, Charset::Utf8, format!("{long}Subject: å\r\n\r\nascii\r\n")),
            (Body::SevenBit, Charset::Utf8, format!("{long}\r\nå\r\n")),
        ] {
            let job = job(1, content.as_bytes());
            let envelope = Envelope { body, charset, ..Envelope::clone(&job.envelope) };
            let fates = connection.send(&Job { envelope: Arc::new(envelope), ..job }).await;
            statuses.push(fates[0].account().status);
        }
        statuses
    };
    let (statuses, taken) = over_a_connection("", send).await;
    assert_eq!(statuses, [Status(2, 0, 0), Status(5, 6, 3), Status(5, 6, 7), Status(2, 0, 0)]);
    assert_eq!(taken.len(), 2);
}
