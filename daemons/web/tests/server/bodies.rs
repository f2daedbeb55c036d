//! Many octets, in the three ways they can take: from memory, by sendfile, and encrypted.

use crate::stage::{Answer, Client, Stage, pattern, wait_for_note};
use shared::units::{Size, Span};
use std::{
    fs::File,
    io::{Read, Write},
};

const SMALL: usize = 60_000;
const LARGE: usize = 5_000_003;

/// A server with a file for its memory and one that is too large for it.
fn stage() -> Stage {
    let stage = Stage::new();
    stage.write("small.bin", &pattern(SMALL));
    stage.write("large.bin", &pattern(LARGE));
    stage
}

fn get(client: &mut Client<impl Read + Write>, path: &str, fields: &str) -> Answer {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n"));
    client.answer()
}

#[test]
fn files_from_memory_and_by_sendfile_arrive_octet_for_octet() {
    let stage = stage();
    every_part_arrives(&mut stage.connect(), "/small.bin", SMALL);
    every_part_arrives(&mut stage.connect(), "/large.bin", LARGE);
}

#[test]
fn encrypted_files_arrive_octet_for_octet() {
    let stage = stage();
    every_part_arrives(&mut stage.connect_tls(), "/small.bin", SMALL);
    every_part_arrives(&mut stage.connect_tls(), "/large.bin", LARGE);
}

/// All of it, and parts, on one connection that stays in step.
fn every_part_arrives(client: &mut Client<impl Read + Write>, path: &str, length: usize) {
    let octets = pattern(length);
    let whole = get(client, path, "");
    assert_eq!(whole.status, 200);
    assert!(whole.body == octets, "{path}: the whole differs");
    let tag = whole.field("Etag").unwrap().to_owned();

    let end = length - 1;
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 0),
        (format!("bytes={end}-"), end, end),
        ("bytes=1000-".to_owned(), 1000, end),
        ("bytes=-50000".to_owned(), length - 50_000, end),
        ("bytes=0-99999999".to_owned(), 0, end),
        ("bytes=17-40016".to_owned(), 17, 40_016),
    ] {
        for condition in [String::new(), format!("If-Range: {tag}\r\n")] {
            let part = get(client, path, &format!("Range: {range}\r\n{condition}"));
            assert_eq!(part.status, 206, "{path} {range}");
            assert_eq!(part.field("Content-Range"), Some(&*format!("bytes {from}-{to}/{length}")), "{path} {range}");
            assert!(part.body == octets[from..=to], "{path} {range}: the part differs");
        }
    }

    let several = get(client, path, "Range: bytes=40000-49999, 0-0, -3\r\n");
    let parts = [(40_000, 49_999), (0, 0), (length - 3, end)];
    assert_eq!(several.status, 206);
    assert!(several.body == multipart(&several, &parts, &octets), "{path}: the parts differ");

    let other = get(client, path, "Range: bytes=0-9\r\nIf-Range: \"other\"\r\n");
    assert!(other.status == 200 && other.body == octets, "{path}: If-Range names another, so all of it");
    assert_eq!(get(client, path, "Range: bytes=99999999-\r\n").status, 416);
    assert_eq!(get(client, path, &format!("If-None-Match: {tag}\r\n")).status, 304);
    client.send(format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(client.head().field("Content-Length"), Some(&*length.to_string()));
    assert_eq!(get(client, "/hello.txt", "").text(), "Hello, world!\n");
}

/// What RFC 9110 §14.6 wants the body to be.
fn multipart(answer: &Answer, parts: &[(usize, usize)], octets: &[u8]) -> Vec<u8> {
    let content_type = answer.field("Content-Type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut body = vec![];
    for (from, to) in parts {
        let head = format!("--{boundary}\r\nContent-Type: application/octet-stream\r\n");
        let range = format!("Content-Range: bytes {from}-{to}/{}\r\n\r\n", octets.len());
        body.extend_from_slice(format!("{}{head}{range}", if body.is_empty() { "" } else { "\r\n" }).as_bytes());
        body.extend_from_slice(&octets[*from..=*to]);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    body
}

#[test]
fn pipelined_large_files_come_whole_and_in_order() {
    let stage = stage();
    let other: Vec<u8> = pattern(LARGE).into_iter().rev().collect();
    stage.write("other.bin", &other);
    let mut client = stage.connect();
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    let paths = ["/large.bin", "/other.bin", "/hello.txt", "/large.bin", "/small.bin"];
    client.send(paths.map(request).concat());
    let bodies = [&pattern(LARGE)[..], &other, b"Hello, world!\n", &pattern(LARGE), &pattern(SMALL)];
    for (path, body) in paths.iter().zip(bodies) {
        assert!(client.answer().body == body, "{path} differs");
    }
}

/// The length that was promised cannot be kept. RFC 9112 §8 lets the client see it: the connection ends early.
#[test]
fn a_file_cut_short_while_it_is_sent_ends_the_connection_and_is_not_padded() {
    const PROMISED: u64 = 256 << 20;
    const KEPT: u64 = 64 << 20;
    let stage = Stage::new();
    let file = File::create(stage.path("sparse.bin")).unwrap();
    let request = "GET /sparse.bin HTTP/1.1\r\nHost: x\r\n\r\n";
    let check = |received: usize| assert!(received as u64 <= KEPT, "{received} octets");

    file.set_len(PROMISED).unwrap();
    let mut client = stage.connect();
    client.send(request);
    assert_eq!(client.head().field("Content-Length"), Some(&*PROMISED.to_string()));
    file.set_len(KEPT).unwrap();
    check(client.rest().len());

    file.set_len(PROMISED).unwrap();
    let mut client = stage.connect_tls();
    client.send(request);
    assert_eq!(client.head().status, 200);
    file.set_len(KEPT).unwrap();
    check(client.rest_until_broken().len());
}

#[test]
fn a_client_that_takes_nothing_is_dropped_in_the_end() {
    let stage = Stage::with(|config, _| config.send_timeout = Span::secs(1));
    File::create(stage.path("sparse.bin")).unwrap().set_len(256 << 20).unwrap();
    let events = stage.shared.transcript.hub().subscribe();
    let mut client = stage.connect();
    client.send("GET /sparse.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for_note(events, "the client did not take what we sent: closing");
    assert!(client.rest_until_broken().len() < 256 << 20);
}

#[test]
fn a_small_file_limit_of_nothing_serves_everything_from_disk() {
    let stage = Stage::with(|config, _| config.small_file_max = Size(0));
    let mut client = stage.connect();
    assert_eq!(get(&mut client, "/hello.txt", "").text(), "Hello, world!\n");
    assert_eq!(get(&mut client, "/empty.txt", "").text(), "");
    assert_eq!(get(&mut client, "/hello.txt", "Range: bytes=7-11\r\n").text(), "world");
}
