//! What is written down about a request: the access log, and the transcript for whoever watches.

use crate::stage::{Stage, pattern, wait_for_note};
use shared::transcript::{Heard, Kind};
use std::{
    fs,
    path::{Path, PathBuf},
};
use web::{Config, LogFormat};

fn logging(format: LogFormat) -> impl FnOnce(&mut Config, &Path) {
    move |config, dir| {
        config.access_log = dir.join("access.log").display().to_string();
        config.access_log_format = format;
    }
}

/// The lines of the log of a server that has stopped.
fn lines(stage: &mut Stage) -> Vec<String> {
    stage.stop();
    let path: PathBuf = stage.path("../access.log");
    fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
}

/// A line of the combined format without its time, which must look like one.
fn without_time(line: &str) -> String {
    let (start, rest) = line.split_once(" [").unwrap();
    let (time, rest) = rest.split_once("] ").unwrap();
    assert_eq!((time.len(), &time[20..]), (26, " +0000"), "{line}");
    format!("{start} {rest}")
}

#[test]
fn each_request_is_a_line_of_the_combined_log_as_it_was_sent() {
    let mut stage = Stage::with(logging(LogFormat::Combined));
    stage.write("large.bin", &pattern(1 << 20));
    for (request, line) in [
        ("GET /hello.txt HTTP/1.1\r\nHost: x", r#""GET /hello.txt HTTP/1.1" 200 14 "-" "-""#),
        ("GET /hello.txt?a=1&b HTTP/1.0", r#""GET /hello.txt?a=1&b HTTP/1.0" 200 14 "-" "-""#),
        ("HEAD /hello.txt HTTP/1.1\r\nHost: x", r#""HEAD /hello.txt HTTP/1.1" 200 - "-" "-""#),
        ("GET /large.bin HTTP/1.1\r\nHost: x", r#""GET /large.bin HTTP/1.1" 200 1048576 "-" "-""#),
        (
            "GET /large.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=5-70004",
            r#""GET /large.bin HTTP/1.1" 206 70000 "-" "-""#,
        ),
        ("GET /hello.txt HTTP/1.1\r\nHost: x\r\nIf-None-Match: *", r#""GET /hello.txt HTTP/1.1" 304 - "-" "-""#),
        (
            "GET /hello.txt HTTP/1.1\r\nHost: x\r\nReferer: http://a/\r\nUser-Agent: Mozilla/4.0 (a; b)",
            r#""GET /hello.txt HTTP/1.1" 200 14 "http://a/" "Mozilla/4.0 (a; b)""#,
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: x", r#""OPTIONS * HTTP/1.1" 200 - "-" "-""#),
        ("GET http://x/hello.txt HTTP/1.1\r\nHost: x", r#""GET http://x/hello.txt HTTP/1.1" 200 14 "-" "-""#),
        ("CONNECT x:443 HTTP/1.1\r\nHost: x:443", r#""CONNECT x:443 HTTP/1.1" 405 182 "-" "-""#),
        // What cannot be a request is logged as it was sent, too.
        ("GET /hello.txt HTTP/9.9", r#""GET /hello.txt HTTP/9.9" 505 125 "-" "-""#),
        ("what is this", r#""what is this" 400 170 "-" "-""#),
        ("nonsense", r#""nonsense" 400 222 "-" "-""#),
        // Nobody forges a line, ends a quotation, or commands the terminal of who reads the log.
        (
            "GET /%0d%0a10.0.0.1%20-%20- HTTP/1.1\r\nHost: x\r\nUser-Agent: \" 200 0 \"x\\",
            r#""GET /%0d%0a10.0.0.1%20-%20- HTTP/1.1" 404 254 "-" "\" 200 0 \"x\\""#,
        ),
        ("GET /\u{1b}[2J HTTP/1.1\r\nHost: x", r#""GET /\x1b[2J HTTP/1.1" 400 143 "-" "-""#),
        ("GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: a\u{9b}b", r#""GET / HTTP/1.1" 200 17 "-" "a\xc2\x9bb""#),
    ] {
        let mut client = stage.connect();
        client.send(format!("{request}\r\n\r\n"));
        client.finish_sending();
        client.rest();
        let path = stage.path("../wanted");
        let wanted = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{wanted}127.0.0.1 - - {line}\n")).unwrap();
    }
    let wanted = fs::read_to_string(stage.path("../wanted")).unwrap();
    let logged: Vec<String> = lines(&mut stage).iter().map(|line| without_time(line)).collect();
    assert_eq!(logged, wanted.lines().collect::<Vec<_>>());
}

#[test]
fn the_json_log_holds_the_same_and_more() {
    let mut stage = Stage::with(logging(LogFormat::Json));
    let mut client = stage.connect();
    let fields = "Host: x\r\nAuthorization: Basic YWxpY2U6Y3JlcGVz\r\nReferer: \"\\\r\nUser-Agent: caf\u{e9}\r\n";
    client.send(format!("GET /vault/plan.txt?q HTTP/1.1\r\n{fields}\r\n"));
    client.answer();
    drop(client);
    let lines = lines(&mut stage);
    assert_eq!(lines.len(), 1);
    let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    for (key, value) in [
        ("remote", "127.0.0.1".into()),
        ("user", "alice".into()),
        ("method", "GET".into()),
        ("target", "/vault/plan.txt?q".into()),
        ("version", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("octets", serde_json::Value::from(9)),
        ("referer", "\"\\".into()),
        ("user_agent", "caf\u{c3}\u{a9}".into()),
        ("host", "x".into()),
    ] {
        assert_eq!(line[key], value, "{key} in {line}");
    }
    assert!(!lines[0].contains("crepes") && !lines[0].contains("YWxp"), "{line}");
}

#[test]
fn of_an_answer_that_was_given_up_the_log_has_the_octets_that_went_out() {
    let mut stage = Stage::with(logging(LogFormat::Combined));
    fs::File::create(stage.path("sparse.bin")).unwrap().set_len(1 << 30).unwrap();
    let mut client = stage.connect();
    client.send("GET /sparse.bin HTTP/1.1\r\nHost: x\r\n\r\n");
    client.head();
    let taken = client.take(10_000_000);
    drop(client);
    let lines = lines(&mut stage);
    let octets: usize = lines[0].split(' ').nth(9).unwrap().parse().unwrap();
    // What lay in the two sockets' buffers was sent as well, though nobody has read it.
    assert!((taken..1 << 29).contains(&octets), "{taken} taken, {}", lines[0]);
}

#[test]
fn who_watches_sees_heads_and_reasons_but_no_secrets() {
    let stage = Stage::new();
    let mut events = stage.shared.transcript.hub().subscribe();
    let mut client = stage.connect();
    let fields = "Host: x\r\nauthorization: Basic YWxpY2U6Y3JlcGVz\r\nCookie: a=b\r\nIf-None-Match: *\r\n";
    client.send(format!("GET /vault/plan.txt HTTP/1.1\r\n{fields}\r\n"));
    client.answer();
    client.send("nonsense\r\n");
    client.answer();
    client.finish_sending();
    client.expect_end();
    let mut seen = vec![];
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let connection = runtime.block_on(async {
        loop {
            let Some(Heard::Event(event)) = events.next().await else { panic!("no events") };
            if event.kind != Kind::Open && event.kind != Kind::Close {
                seen.push(event.to_string());
            }
            if event.kind == Kind::Close {
                break event;
            }
        }
    });
    assert_eq!((connection.local, &*connection.daemon, &*connection.host), (stage.address(), "web", "test"));
    let first = |text: &str| text.lines().next().unwrap().to_owned();
    assert_eq!(
        seen[0],
        "C: GET /vault/plan.txt HTTP/1.1\nC: Host: x\nC: authorization: Basic ********\nC: Cookie: ********\n\
         C: If-None-Match: *"
    );
    assert_eq!(seen[1], "# If-None-Match names the current entity tag (RFC 9110 §13.1.2)");
    assert_eq!(first(&seen[2]), "S: HTTP/1.1 304 Not Modified");
    assert!(
        seen[2].contains("\nS: Etag: \"") && seen[2].contains("\nS: Keep-Alive: timeout=5, max=100"),
        "{}",
        seen[2]
    );
    assert_eq!(seen[3], "C: nonsense");
    assert!(seen[4].starts_with("# \"nonsense\" is not a request line."), "{}", seen[4]);
    assert_eq!(first(&seen[5]), "S: HTTP/1.1 400 Bad Request");
    assert_eq!(seen.len(), 6, "{seen:?}");
}

/// The lines of a head, its octets, and those of the body behind it.
type Seen = (Vec<String>, u64, Option<u64>);

#[test]
fn who_watches_sees_each_head_as_it_is_on_the_wire_and_how_much_follows_it() {
    let stage = Stage::with(logging(LogFormat::Json));
    stage.write("large.bin", &pattern(1 << 20));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (request, body) in [
        ("GET /hello.txt HTTP/1.1\r\nHost: x\r\n", 14),
        ("GET /hello.txt HTTP/1.0\r\nConnection: keep-alive\r\n", 14),
        ("GET /hello.txt HTTP/1.0\r\n", 14),
        ("HEAD /hello.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", 0),
        ("GET /empty.txt HTTP/1.1\r\nHost: x\r\n", 0),
        ("HEAD /empty.txt HTTP/1.1\r\nHost: x\r\n", 0),
        ("GET /hello.txt HTTP/1.1\r\nHost: x\r\nIf-None-Match: *\r\n", 0),
        ("GET /large.bin HTTP/1.1\r\nHost: x\r\n", 1 << 20),
        ("GET /large.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=5-70004\r\n", 70_000),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n", 0),
        ("GET /vault/plan.txt HTTP/1.1\r\nHost: x\r\nAccept: text/html\r\n", 0),
        ("what is this\r\n", 0),
        ("POST /hello.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n", 0),
    ] {
        let mut events = stage.shared.transcript.hub().subscribe();
        let request = format!("{request}\r\n");
        let sent = if request.starts_with("POST") { format!("{request}abc") } else { request.clone() };
        let mut client = stage.connect();
        client.send(&sent);
        client.finish_sending();
        let received = client.rest();
        let end = received.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(received[..end].to_vec()).unwrap();
        // What a page of ours says of an error is as long as it is.
        let body = if head.contains(" 4") && head.starts_with("HTTP/1.1 4") { received.len() - end } else { body };
        assert_eq!(received.len() - end, body, "{request}");
        let (mut asked, mut answered): (Option<Seen>, Option<Seen>) = (None, None);
        runtime.block_on(async {
            loop {
                let Some(Heard::Event(event)) = events.next().await else { panic!("no events") };
                let lines = std::iter::once(event.line.clone()).chain(event.more.clone()).collect();
                let seen = (lines, event.octets, event.body);
                match event.kind {
                    Kind::Client => asked = Some(seen),
                    Kind::Server => answered = Some(seen),
                    Kind::Close => break,
                    _ => {}
                }
            }
        });
        let lines = |head: &str| head.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let follows = match &*request {
            "what is this\r\n\r\n" => None,
            request => Some((sent.len() - request.len()) as u64),
        };
        assert_eq!(asked.unwrap(), (lines(&request), request.len() as u64, follows));
        assert_eq!(answered.unwrap(), (lines(&head), end as u64, Some(body as u64)), "{request}");
    }
}

#[test]
fn the_log_has_the_octets_of_heads_as_well_whichever_way_an_answer_went() {
    let mut stage = Stage::with(logging(LogFormat::Json));
    stage.write("large.bin", &pattern(1 << 20));
    let mut wanted = vec![];
    // The second time it is in memory.
    for target in ["/hello.txt", "/hello.txt", "/empty.txt", "/large.bin", "/nothing"] {
        let mut client = stage.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        let received = client.rest();
        let head = received.windows(4).position(|octets| octets == b"\r\n\r\n").unwrap() + 4;
        wanted.push((head as u64, (received.len() - head) as u64));
    }
    let logged = lines(&mut stage);
    let logged = logged.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let logged: Vec<_> =
        logged.map(|line| (line["head_octets"].as_u64().unwrap(), line["octets"].as_u64().unwrap())).collect();
    assert_eq!(logged, wanted);
}

#[test]
fn waiting_in_vain_is_told_to_who_watches() {
    let stage = Stage::with(|config, _| config.keep_alive_timeout = shared::units::Span::secs(1));
    let events = stage.shared.transcript.hub().subscribe();
    let mut client = stage.connect();
    client.send("GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n");
    client.answer();
    wait_for_note(events, "nothing more was asked in time: closing");
}
