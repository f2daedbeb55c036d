//! The transcripts, played every way; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use shared::{
    Shared,
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::{Heard, Transport},
    units::{Size, Span},
    wire::Crlf,
};
use std::{future::Future, net::SocketAddr};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream, duplex},
    net::{TcpStream, UdpSocket},
};
use tokio_util::sync::CancellationToken;
use wordlength::{Config, Server, serve_stream, session};

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts");
const PACES: [Pace; 3] = [Pace::Lines, Pace::Octets, Pace::Pipelined(|_| false)];

fn config() -> Config {
    Config { listen: vec![([127, 0, 0, 1], 0).into()], word_octets_max: Size(16), ..Config::default() }
}

/// The stage has no props in this play.
async fn no_stage(text: &str) -> Result<(), String> {
    Err(format!("`@ {text}` is unknown"))
}

/// Where a server under test serves.
#[derive(Clone, Copy)]
struct Addresses {
    tcp: SocketAddr,
    udp: SocketAddr,
}

/// Runs `test` beside a server, then stops the server and waits for it.
async fn beside_a_server<F: Future<Output = ()>>(config: Config, shared: &Shared, test: impl FnOnce(Addresses) -> F) {
    let server = Server::bind(config, shared).unwrap();
    let addresses = Addresses { tcp: server.tcp_addrs()[0], udp: server.udp_addrs()[0] };
    let shutdown = CancellationToken::new();
    let test = async {
        test(addresses).await;
        shutdown.cancel();
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), test);
    result.unwrap();
}

#[test]
fn transcripts_play_against_the_pure_session() {
    let limits = config().limits();
    play_all(TRANSCRIPTS, |script| {
        script.on_session(Crlf::new(limits.line_end, limits.line_octets_max), |cue| match cue {
            Cue::Opened => Ok(Said::nothing()),
            Cue::Line(line) => Ok(Said::line(session::on_line(&line).to_string())),
            Cue::Ended => Ok(Said::nothing().and_close()),
            Cue::Stage(text) => Err(format!("`@ {text}` is unknown")),
        })
    });
}

#[tokio::test]
async fn transcripts_play_over_a_stream() {
    let transcript = Shared::for_tests("wordlength").transcript;
    let address = SocketAddr::from(([127, 0, 0, 1], 7777));
    for pace in PACES {
        play_all_async(TRANSCRIPTS, async |script: &Script| {
            let (near, far) = duplex(64);
            let talk = transcript.conversation(Transport::Tcp, address, address);
            let serve = serve_stream(far, config().limits(), talk, CancellationToken::new());
            let (result, ()) = tokio::join!(script.on_stream(near, pace, no_stage), serve);
            result
        })
        .await;
    }
}

#[tokio::test]
async fn transcripts_play_over_tcp() {
    beside_a_server(config(), &Shared::for_tests("wordlength"), async |at| {
        for pace in PACES {
            play_all_async(TRANSCRIPTS, async |script: &Script| script.on_tcp(at.tcp, pace, no_stage).await).await;
        }
    })
    .await;
}

async fn ask(client: &mut BufStream<TcpStream>, word: &str) -> String {
    client.write_all(word.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_second_client_is_served_while_the_first_is_connected() {
    beside_a_server(config(), &Shared::for_tests("wordlength"), async |at| {
        let mut first = BufStream::new(TcpStream::connect(at.tcp).await.unwrap());
        assert_eq!(ask(&mut first, "CAT\r\n").await, "3\r\n");
        let mut second = BufStream::new(TcpStream::connect(at.tcp).await.unwrap());
        assert_eq!(ask(&mut second, "HORSE\n").await, "5\r\n");
        assert_eq!(ask(&mut first, "OX\n").await, "2\r\n");
    })
    .await;
}

#[tokio::test]
async fn over_udp_a_datagram_is_a_word() {
    beside_a_server(config(), &Shared::for_tests("wordlength"), async |at| {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut answer = [0; 64];
        let far_too_long = [b'x'; 5000];
        // The empty datagram is not answered, so the next answer is the next word's.
        client.send_to(b"", at.udp).await.unwrap();
        for (question, want) in [(&b"CAT"[..], &b"3"[..]), (b"CAT\r\n", b"3\r\n"), (&far_too_long, b"too long")] {
            client.send_to(question, at.udp).await.unwrap();
            let (octets, from) = client.recv_from(&mut answer).await.unwrap();
            assert_eq!((&answer[..octets], from), (want, at.udp));
        }
    })
    .await;
}

#[tokio::test]
async fn a_silent_client_is_let_go() {
    let config = Config { idle_timeout: "20 ms".parse().unwrap(), ..config() };
    beside_a_server(config, &Shared::for_tests("wordlength"), async |at| {
        let mut client = TcpStream::connect(at.tcp).await.unwrap();
        let mut said = vec![];
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"");
    })
    .await;
}

#[tokio::test]
async fn one_address_gets_its_share_and_no_more() {
    let config = Config { connections_per_peer: 1, ..config() };
    beside_a_server(config, &Shared::for_tests("wordlength"), async |at| {
        let mut first = BufStream::new(TcpStream::connect(at.tcp).await.unwrap());
        assert_eq!(ask(&mut first, "CAT\n").await, "3\r\n");
        let mut second = BufStream::new(TcpStream::connect(at.tcp).await.unwrap());
        let mut said = String::new();
        second.read_line(&mut said).await.unwrap();
        assert_eq!(said, "too many connections\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_stop_closes_open_sessions_within_the_grace_time() {
    let server = Server::bind(config(), &Shared::for_tests("wordlength")).unwrap();
    let address = server.tcp_addrs()[0];
    let shutdown = CancellationToken::new();
    let client = async {
        let mut client = BufStream::new(TcpStream::connect(address).await.unwrap());
        assert_eq!(ask(&mut client, "CAT\n").await, "3\r\n");
        shutdown.cancel();
        let mut rest = vec![];
        client.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
    };
    let (result, ()) = tokio::join!(server.run(shutdown.clone()), client);
    result.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn both_transports_are_seen_in_the_transcript() {
    let shared = Shared::for_tests("wordlength");
    let mut listener = shared.transcript.hub().subscribe();
    beside_a_server(config(), &shared, async |at| {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"CAT\n", at.udp).await.unwrap();
        client.recv_from(&mut [0; 8]).await.unwrap();
        let mut client = BufStream::new(TcpStream::connect(at.tcp).await.unwrap());
        ask(&mut client, "HORSE\n").await;
    })
    .await;
    let mut told = vec![];
    for _ in 0..6 {
        match listener.next().await {
            Some(Heard::Event(event)) => told.push(format!("{:?} {event}", event.transport)),
            other => panic!("{other:?}"),
        }
    }
    let want = ["Udp C: CAT", "Udp S: 3", "Tcp @ open", "Tcp C: HORSE", "Tcp S: 5", "Tcp @ close"];
    assert_eq!(told, want);
}

#[test]
fn an_address_in_use_is_an_error_that_names_it() {
    let shared = Shared::for_tests("wordlength");
    let first = Server::bind(config(), &shared).unwrap();
    let again = Config { listen: first.tcp_addrs(), ..config() };
    let error = Server::bind(again, &shared).unwrap_err();
    assert!(error.to_string().contains(&first.tcp_addrs()[0].port().to_string()), "{error}");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn the_defaults_say_what_they_mean() {
    assert_eq!(Config::default().idle_timeout, Span::secs(300));
    assert_eq!(Config::default().limits().line_octets_max, 1002);
}
