//! What those cost who do not mean well: little, and not for long.

use crate::stage::{Client, Stage};
use shared::{daemon, units::Span};
use std::{
    fs,
    io::{ErrorKind, Write},
    net::TcpStream,
    time::Duration,
};

/// Memory of this process in octets, client included.
fn memory() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<i64>().unwrap() << 10
}

/// Far more than is needed, far less than what is prevented. Other tests may run in the same process.
const GROWTH_MAX: i64 = 64 << 20;

#[test]
fn two_thousand_half_heads_are_all_sent_away_when_their_time_is_up() {
    daemon::raise_descriptor_limit();
    let stage = Stage::with(|config, _| {
        config.head_timeout = Span::secs(2);
        config.connections = 3_000;
        config.connections_per_peer = 3_000;
    });
    let before = memory();
    let mut clients: Vec<Client<TcpStream>> = (0..2_000).map(|_| stage.connect()).collect();
    for client in &mut clients {
        client.send("GET /hello.txt HTTP/1.1\r\nHost: x\r\nX: ");
    }
    // Meanwhile, others are served.
    assert_eq!(stage.get("/hello.txt", "").status, 200);
    let growth = memory() - before;
    assert!(growth < GROWTH_MAX, "{growth} octets for 2,000 connections");
    for mut client in clients {
        assert_eq!(client.answer().status, 408);
        client.finish_sending();
        client.expect_end();
    }
}

#[test]
fn who_asks_and_asks_and_never_reads_is_not_read_from_either() {
    let stage = Stage::with(|config, _| config.keep_alive_max = u64::MAX);
    let mut client = stage.connect();
    client.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // Each answer is a page that is made anew, of some 1,700 octets: all of them would be 170 MB.
    let request = b"GET /list/ HTTP/1.1\r\nHost: x\r\n\r\n";
    let before = memory();
    let mut asked = 0;
    for _ in 0..100_000 {
        match client.stream.write_all(request) {
            Ok(()) => asked += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let growth = memory() - before;
    assert!(growth < GROWTH_MAX, "{growth} octets for {asked} requests");
    // Once it reads, it gets its answers: nothing was lost, it only waited.
    for number in 0..asked.min(1_000) {
        assert_eq!(client.answer().status, 200, "{number}");
    }
}

#[test]
fn an_address_with_too_many_connections_is_told_so() {
    let stage = Stage::with(|config, _| config.connections_per_peer = 2);
    let (mut one, mut two) = (stage.connect(), stage.connect());
    for client in [&mut one, &mut two] {
        client.send("GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    let mut three = stage.connect();
    let answer = three.answer();
    assert_eq!((answer.status, answer.field("Connection")), (503, Some("close")));
    three.expect_end();
}
