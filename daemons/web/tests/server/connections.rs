//! How connections live and end (RFC 9112 §9), where a dialogue alone cannot show it.

use crate::stage::{PATIENCE, Stage, pattern, wait_for_note};
use shared::units::Span;
use std::{
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

const HELLO: &str = "GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn the_first_answer_tells_what_the_connection_may_be_used_for_and_the_last_says_close() {
    let stage = Stage::with(|config, _| config.keep_alive_max = 3);
    let mut client = stage.connect();
    let mut fields = vec![];
    for _ in 0..3 {
        client.send(HELLO);
        let answer = client.answer();
        fields.push((answer.field("Connection").map(str::to_owned), answer.field("Keep-Alive").map(str::to_owned)));
    }
    let said =
        |connection: &str, keep_alive: Option<&str>| (Some(connection.to_owned()), keep_alive.map(str::to_owned));
    assert_eq!(
        fields,
        [
            said("keep-alive", Some("timeout=5, max=3")),
            // HTTP/1.1 stays without a word (RFC 9112 §9.3).
            (None, None),
            said("close", None)
        ]
    );
    client.expect_end();
}

/// RFC 9112 §9.6: a server that closes while requests are still coming in would have the kernel reset the connection,
/// and the client would lose answers that it has not yet read.
#[test]
fn requests_beyond_the_last_do_not_cost_the_client_its_answers() {
    let stage = Stage::with(|config, _| config.keep_alive_max = 10);
    // Of 64 octets, so that what is read at once may well end between two requests.
    let even = "GET /hello.txt HTTP/1.1\r\nHost: x\r\nX-Sixty-Four-Octets: quite\r\n\r\n";
    assert_eq!(even.len(), 64);
    for request in [HELLO, even] {
        let mut client = stage.connect();
        client.send(request.repeat(10_000));
        let mut last = client.answer();
        for _ in 1..10 {
            last = client.answer();
        }
        assert_eq!(last.field("Connection"), Some("close"));
        client.expect_end();
    }
}

#[test]
fn an_unused_connection_is_closed_when_its_time_is_up_and_not_before() {
    let stage = Stage::with(|config, _| config.keep_alive_timeout = Span::secs(1));
    let mut client = stage.connect();
    client.send(HELLO);
    let asked = Instant::now();
    assert_eq!(client.answer().field("Keep-Alive"), Some("timeout=1, max=100"));
    client.expect_end();
    let (waited, second) = (asked.elapsed(), Duration::from_secs(1));
    assert!(second <= waited && waited < second * 5, "closed after {waited:?}");
}

#[test]
fn a_connection_in_use_is_not_closed() {
    let stage = Stage::with(|config, _| {
        config.keep_alive_timeout = Span::secs(1);
        config.keep_alive_max = u64::MAX;
    });
    let mut client = stage.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        client.send(HELLO);
        assert_eq!(client.answer().status, 200);
    }
}

/// `nc -N` closes its half as soon as its input ends.
#[test]
fn who_has_said_everything_still_gets_all_answers() {
    let stage = Stage::new();
    let mut client = stage.connect();
    client.send(HELLO.repeat(3));
    client.finish_sending();
    for _ in 0..3 {
        assert_eq!(client.answer().text(), "Hello, world!\n");
    }
    client.expect_end();
}

#[test]
fn dripping_octets_does_not_stretch_the_time_for_a_head() {
    let stage = Stage::with(|config, _| config.head_timeout = Span::secs(1));
    let mut client = stage.connect();
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let began = Instant::now();
    client.send("GET /hello.txt HTTP/1.1\r\nX-Slow: ");
    // Each time nothing has come for a moment, another octet is said.
    let mut octet = [0];
    while let Err(error) = client.stream.read(&mut octet) {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(began.elapsed() < Duration::from_secs(5), "the server waits as long as something comes");
        client.send("x");
    }
    assert_eq!(&octet, b"H");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let rest = client.rest();
    assert!(rest.starts_with(b"TTP/1.1 408 Request Timeout\r\n"), "{}", rest.escape_ascii());
}

#[test]
fn empty_lines_do_not_stretch_the_time_either() {
    let stage = Stage::with(|config, _| config.head_timeout = Span::secs(1));
    let mut client = stage.connect();
    client.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let began = Instant::now();
    let mut octet = [0];
    let end = loop {
        // A peer that is gone is found out by the read.
        let _ = client.stream.write_all(b"\r\n");
        match client.stream.read(&mut octet) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            end => break end,
        }
        assert!(began.elapsed() < Duration::from_secs(5), "the server waits as long as something comes");
    };
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// What is refused for its size is refused while it still comes, and the client can read why.
#[test]
fn what_is_too_long_is_refused_with_a_readable_reason() {
    let stage = Stage::new();
    let many = |fields: usize| format!("Host: x\r\n{}", "X: y\r\n".repeat(fields - 1));
    let (target, value) = ("x".repeat(8191), "x".repeat(500_000));
    for (request, status, reason) in [
        (format!("GET /hello.txt HTTP/1.1\r\n{}\r\n", many(100)), 200, ""),
        (format!("GET /hello.txt HTTP/1.1\r\n{}\r\n", many(101)), 431, "more than the 100 header fields"),
        (format!("GET /hello.txt HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", &value[..16_000]), 200, ""),
        (format!("GET /hello.txt HTTP/1.1\r\nHost: x\r\nX: {value}\r\n\r\n"), 431, "longer than the 16384 octets"),
        (format!("GET /{target} HTTP/1.1\r\nHost: x\r\n\r\n"), 404, "longer than a file name can be"),
        (format!("GET /{target}x HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "longer than the 8192 octets"),
        (format!("GET /{value} HTTP/1.1\r\nHost: x\r\n\r\n"), 414, "longer than the 8192 octets"),
        (format!("nonsense\r\n{value}"), 400, "is not a request line"),
        (format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n{value}"), 413, "longer than the 1024"),
    ] {
        let start = &request[..request.len().min(40)];
        let mut client = stage.connect();
        client.send(&request);
        let answer = client.answer();
        assert_eq!(answer.status, status, "{start}");
        assert!(answer.text().contains(reason), "{start}: {}", answer.text());
        if status != 200 && status != 404 {
            assert_eq!(answer.field("Connection"), Some("close"), "{start}");
            client.finish_sending();
            client.expect_end();
        }
    }
}

#[test]
fn at_a_stop_unused_connections_end_at_once() {
    let mut stage = Stage::with(|config, _| {
        config.keep_alive_timeout = Span::secs(600);
        config.head_timeout = Span::secs(600);
        config.grace = Span::secs(600);
    });
    let (silent, mut used, mut half) = (stage.connect(), stage.connect(), stage.connect());
    used.send(HELLO);
    used.answer();
    half.send("GET /hello.txt HTTP/1.1\r\nHost:");
    // Another one's answer tells that the server has heard what came before.
    stage.get("/hello.txt", "");
    stage.order_to_stop();
    silent.expect_end();
    used.expect_end();
    half.expect_end();
    stage.stop();
}

#[test]
fn at_a_stop_a_request_in_progress_is_answered_and_told_that_it_was_the_last() {
    let mut stage = Stage::new();
    let mut client = stage.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().status, 100);
    stage.order_to_stop();
    client.send("body");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("Connection")), (405, Some("close")));
    assert_eq!(answer.field("Keep-Alive"), None);
    client.expect_end();
    stage.stop();
}

#[test]
fn at_a_stop_a_long_answer_is_sent_to_its_end() {
    let mut stage = Stage::new();
    let octets = pattern(16 << 20);
    stage.write("long.bin", &octets);
    let mut client = stage.connect();
    client.send("GET /long.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.head().status, 200);
    stage.order_to_stop();
    assert!(client.rest() == octets, "all of the file, and then the end");
    stage.stop();
}

#[test]
fn sessions_that_do_not_end_are_cut_off_when_the_grace_time_is_over() {
    let mut stage = Stage::with(|config, _| config.grace = Span::secs(1));
    let mut client = stage.connect();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().status, 100);
    stage.stop();
}

#[test]
fn clear_text_to_the_https_port_ends_that_connection_and_no_other() {
    let stage = Stage::new();
    let mut tls = stage.connect_tls();
    let mut clear = stage.connect_in_the_clear_to_https();
    clear.send(HELLO);
    // Nothing of what is here in clear; but what to write instead, as nginx and Apache say it.
    let told = clear.answer();
    assert_eq!((told.status, told.field("Connection")), (400, Some("close")));
    assert!(told.text().contains("This is plain HTTP, and the port is for https"), "{}", told.text());
    clear.expect_end();
    tls.send(HELLO);
    assert_eq!(tls.answer().text(), "Hello, world!\n");
}

/// As a browser does that was given http:// with the https port, and whoever types a request there by hand.
#[test]
fn whoever_forgets_the_s_in_https_is_told_the_url() {
    let stage = Stage::new();
    let https = stage.connect_in_the_clear_to_https().stream.peer_addr().unwrap();
    for (request, url) in [
        (format!("GET /hello.txt?a=b HTTP/1.1\r\nHost: {https}\r\n\r\n"), format!("https://{https}/hello.txt?a=b")),
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), format!("https://x:{}/", https.port())),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), format!("https://{https}/")),
        (
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=b".to_owned(),
            format!("https://x:{}/", https.port()),
        ),
    ] {
        let mut client = stage.connect_in_the_clear_to_https();
        client.send(&request);
        let told = client.answer();
        assert!(told.status == 400 && told.text().contains(&format!("Try next   {url}\n")), "{request}{}", told.text());
        client.expect_end();
    }
    // What is no request either is told that first.
    let mut client = stage.connect_in_the_clear_to_https();
    client.send("GET /\r\n");
    assert!(client.answer().text().contains("version"));
}

#[test]
fn whoever_writes_one_s_too_many_is_told_at_once() {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for pieces in [&[&hello[..]][..], &[&hello[..1], &hello[1..2], &hello[2..]]] {
        let stage = Stage::new();
        let events = stage.shared.transcript.hub().subscribe();
        let mut client = stage.connect();
        for piece in pieces {
            client.send(piece);
        }
        let told = client.answer();
        assert!(told.status == 400 && told.text().contains("This is how TLS begins"), "{}", told.text());
        let note = "This is how TLS begins, and the port is for plain HTTP: write http:// instead of https://, or use the \
                    https port.";
        wait_for_note(events, note);
    }
}

/// RFC 8446 §6.1: who ends a TLS connection says so, or the other side cannot tell the end from an attack.
#[test]
fn an_encrypted_connection_ends_with_a_goodbye() {
    let stage = Stage::new();
    let mut client = stage.connect_tls();
    client.send(HELLO);
    assert_eq!(client.answer().field("Connection"), Some("keep-alive"));
    client.send("GET https://x/hello.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    client.expect_end();
}

#[test]
fn a_handshake_that_does_not_come_is_not_waited_for_longer_than_a_head() {
    let stage = Stage::with(|config, _| config.head_timeout = Span::secs(1));
    stage.connect_in_the_clear_to_https().expect_end();
}
