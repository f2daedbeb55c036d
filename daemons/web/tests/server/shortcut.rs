//! Plain fetches of small files go a shorter way than all other requests, and nobody can tell from the answers.
//!
//! A connection that somebody watches goes the long way. So each request is made twice, unwatched and watched, of a server
//! that has the file in memory.

use crate::stage::{Answer, Stage, pattern};
use proptest::prelude::*;
use std::{fs, path::Path};
use web::Config;

fn logging(config: &mut Config, dir: &Path) {
    config.access_log = dir.join("access.log").display().to_string();
    config.keep_alive_max = 3;
}

/// All that the server says to `requests` on one connection, each sent when the last is answered, up to its end.
fn said(stage: &Stage, requests: &[String]) -> String {
    let mut client = stage.connect();
    let mut said = String::new();
    for request in requests {
        client.send(request);
        let head = client.head_as_sent();
        let answer = Answer::parse(&head);
        let length = answer.field("Content-Length").map_or(0, |length| length.parse().unwrap());
        let length = if request.starts_with("HEAD") { 0 } else { length };
        client.take(length);
        // The two ways may see another second.
        let date = answer.field("Date").unwrap();
        said += &head.replace(date, &"x".repeat(date.len()));
        said += &client.drain(length).escape_ascii().to_string();
        if answer.field("Connection") == Some("close") {
            break;
        }
    }
    client.finish_sending();
    client.expect_end();
    said
}

/// Both ways' answers and log lines, the latter without their times.
fn both_ways(requests: &[String]) -> [(String, Vec<String>); 2] {
    let mut stage = Stage::with(logging);
    stage.write("small.bin", &pattern(3000));
    stage.write("larger.bin", &pattern(60_000));
    for target in ["/", "/hello.txt", "/empty.txt", "/small.bin", "/larger.bin"] {
        for host in ["x", "someschool.edu"] {
            let mut client = stage.connect();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"));
            client.rest();
        }
    }
    let unwatched = said(&stage, requests);
    let listener = stage.shared.transcript.hub().subscribe();
    let watched = said(&stage, requests);
    drop(listener);
    stage.stop();
    let log = fs::read_to_string(stage.path("../access.log")).unwrap();
    let untimed = |line: &str| {
        let (start, rest) = line.split_once('[').unwrap();
        format!("{start}{}", rest.split_once(']').unwrap().1)
    };
    let lines: Vec<String> = log.lines().skip(10).map(untimed).collect();
    let (first, second) = lines.split_at(lines.len() / 2);
    [(unwatched, first.to_vec()), (watched, second.to_vec())]
}

#[test]
fn the_first_answer_those_between_and_the_last_are_the_same_on_both_ways() {
    let get = |target: &str, fields: &str| format!("GET {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let requests =
        [get("/hello.txt", ""), get("/larger.bin", "User-Agent: a\r\n"), get("/empty.txt", ""), get("/", "")];
    let [short, long] = both_ways(&requests);
    assert_eq!(short, long);
    assert_eq!(short.0.matches("Connection: close").count(), 1, "{}", short.0);
    assert_eq!(short.0.matches("Keep-Alive: timeout=5, max=3").count(), 1, "{}", short.0);
    assert_eq!(short.1.len(), 3);
}

fn request() -> impl Strategy<Value = String> {
    let method = prop_oneof![4 => Just("GET"), 2 => Just("HEAD"), 1 => Just("OPTIONS"), 1 => Just("POST")];
    let target = prop_oneof![
        Just("/"),
        Just("/hello.txt"),
        Just("/hello.txt?query"),
        Just("/empty.txt"),
        Just("/small.bin"),
        Just("/larger.bin"),
        Just("/./hello.txt"),
        Just("/nothing"),
        Just("//hello.txt"),
        Just("http://someschool.edu/"),
    ];
    let host = prop_oneof![6 => Just("x"), 1 => Just("someschool.edu"), 1 => Just("SomeSchool.edu.:80"), 1 => Just("[::1]:8080")];
    let field = prop_oneof![
        Just("Connection: close\r\n"),
        Just("Connection: keep-alive\r\n"),
        Just("connection: Keep-Alive, x\r\n"),
        Just("Accept: text/html\r\n"),
        Just("User-Agent: \ta b \r\n"),
        Just("user-agent:\r\n"),
        Just("Referer: http://a/\"\r\n"),
        Just("If-None-Match: *\r\n"),
        Just("If-Modified-Since: Tue, 30 Oct 2007 17:00:02 GMT\r\n"),
        Just("Range: bytes=1-2\r\n"),
        Just("Expect: 100-continue\r\n"),
        Just("Upgrade: h2c\r\n"),
        Just("Content-Length: 0\r\n"),
    ];
    let version = prop_oneof![4 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0")];
    (method, target, version, host, prop_oneof![Just(vec![]), prop::collection::vec(field, 0..3)]).prop_map(
        |(method, target, version, host, fields)| {
            format!("{method} {target} {version}\r\nHost: {host}\r\n{}\r\n", fields.concat())
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn both_ways_say_and_log_the_same(requests in prop::collection::vec(request(), 1..4)) {
        let [short, long] = both_ways(&requests);
        prop_assert_eq!(short, long);
    }
}
