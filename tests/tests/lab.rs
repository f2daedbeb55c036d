//! The whole lab as a student starts it: `tomte up`, then everything that its table suggests, then Ctrl-C.
//!
//! Each test has a lab of its own, at addresses and in a directory that nobody else has. They need nothing but Rust: no
//! network, no root, no container. What needs curl, telnet or nc stands in `clients.rs`.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tests::dns::{Over, Type, ask};
use tests::http::{Content, Talk, get};
use tests::lab::{Description, Lab, up};
use tests::process::{PATIENCE, built_program, memory_octets};
use tests::program::{Running, Signal, command, command_at, run};

const SCHOOL: &str = "www.someschool.edu";
const WORDS: &str = "words.someschool.edu";

/// Events as `tomte events --json` prints them.
fn events(text: &str) -> Vec<serde_json::Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The page with the ten pictures: eleven paths.
fn eleven() -> Vec<String> {
    let pictures = (1..=10).map(|number| format!("/someDepartment/pic{number}.jpg"));
    std::iter::once("/someDepartment/home.index".to_owned()).chain(pictures).collect()
}

#[test]
fn up_prints_its_table_and_uses_little_memory() {
    let lab = Lab::up().unwrap();
    let memory = memory_octets(lab.running.pid()).unwrap();
    println!("up after {:?}; idle memory (PSS): {:.1} MiB", lab.took, memory as f64 / f64::from(1 << 20));
    // A second is what is promised; a machine that compiles on all cores at the same time gets more.
    assert!(lab.took < Duration::from_secs(10), "{:?}", lab.took);
    assert!(memory < 40 << 20, "{memory} octets");
    lab.running.signal(Signal::INT).unwrap();
    let Lab { description, running, .. } = lab;
    let table = running.end().unwrap().with_code(0).unwrap().out;
    for (host, port) in [(SCHOOL, 8080), (SCHOOL, 8443), (WORDS, 7777), ("www.somesite.com", 8080)] {
        let address = description.address(host, port);
        let row = table.lines().find(|line| line.starts_with(host)).unwrap();
        assert!(row.contains(&address.ip().to_string()) && row.contains(&port.to_string()), "{row}");
    }
    let by_hand = format!("telnet {} 8080", description.address(SCHOOL, 8080).ip());
    assert!(table.contains(&by_hand) && table.contains("curl --cacert"), "{table}");
}

#[test]
fn a_page_a_range_and_a_condition_are_answered() {
    let lab = Lab::up().unwrap();
    let school = lab.address(SCHOOL, 8080);
    let page = get(school, "/index.html", SCHOOL, "").unwrap();
    assert_eq!((page.status(), page.body.len()), ("200", 2652));
    assert_eq!(page.field("Last-Modified"), Some("Tue, 30 Oct 2007 17:00:02 GMT"));
    assert_eq!(page.field("Content-Type"), Some("text/html; charset=ISO-8859-1"));

    let path = "/~carey/CPSC441/oddtest2.html";
    let part = get(school, path, SCHOOL, "Range: bytes=250-300\r\n").unwrap();
    assert_eq!((part.status(), part.body.len()), ("206", 51));
    assert!(part.field("Content-Range").unwrap().starts_with("bytes 250-300/"));

    let since = "If-Modified-Since: Tue, 30 Oct 2007 17:00:02 GMT\r\n";
    let same = get(school, "/index.html", SCHOOL, since).unwrap();
    assert_eq!((same.status(), same.body.len()), ("304", 0));
    let tag = format!("If-None-Match: {}\r\n", page.field("ETag").unwrap());
    assert_eq!(get(school, "/index.html", SCHOOL, &tag).unwrap().status(), "304");
    // Edited since: the whole page again.
    fs::write(lab.state().join("www").join(SCHOOL).join("1998.html"), "new").unwrap();
    let edited = get(school, "/1998.html", SCHOOL, since).unwrap();
    assert_eq!((edited.status(), edited.text().as_str()), ("200", "new"));
}

/// CLAIMS C37. What the page says is typed, and what it promises comes back.
#[test]
fn each_recipe_of_the_page_on_status_codes_gives_exactly_its_line() {
    let lab = Lab::up().unwrap();
    let page = get(lab.address(SCHOOL, 8080), "/codes.html", SCHOOL, "").unwrap().text();
    let mut codes = BTreeSet::new();
    for recipe in page.split("<dt><code>").skip(1) {
        let between = |from: &str, to: &str| recipe.split_once(from).unwrap().1.split_once(to).unwrap().0.to_owned();
        let promised = recipe.split_once("</code>").unwrap().0.replace("&#39;", "'");
        let request = between("<pre>", "</pre>").replace('\n', "\r\n") + "\r\n";
        let mut talk = Talk::open(lab.address(SCHOOL, 8080)).unwrap();
        talk.say(&request).unwrap();
        let head = talk.head().unwrap();
        assert_eq!(head.status_line, promised, "{request}");
        assert_eq!(head.field("Location").is_some(), promised.contains("301"), "{request}");
        codes.insert(promised.split(' ').nth(1).unwrap().to_owned());
    }
    for code in ["200", "206", "301", "304", "400", "401", "403", "404", "418", "429", "451", "505"] {
        assert!(codes.contains(code), "no recipe for {code}: {codes:?}");
    }
}

/// CLAIMS C36.
#[test]
fn a_form_comes_back_whichever_way_it_was_sent() {
    let lab = Lab::up().unwrap();
    for host in ["www.somesite.com", SCHOOL] {
        let mut talk = Talk::open(lab.address(host, 8080)).unwrap();
        let get = talk.get("/animalsearch?monkeys&banana", host, "").unwrap();
        assert_eq!(get.status(), "200");
        assert!(
            get.text().contains("question mark\nSent       monkeys&banana\nField      monkeys\n"),
            "{}",
            get.text()
        );
        talk.say(&format!("POST /animalsearch HTTP/1.1\r\nHost: {host}\r\nContent-Length: 14\r\n\r\nmonkeys&banana"))
            .unwrap();
        let post = talk.response(Content::Follows).unwrap();
        assert_eq!(post.status(), "200");
        assert!(post.text().contains("empty line\nSent       monkeys&banana\nField      monkeys\n"), "{}", post.text());
        talk.say(&format!("POST /index.html HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n\r\nx")).unwrap();
        assert_eq!(talk.response(Content::Follows).unwrap().status(), "405");
    }
}

#[test]
fn https_works_with_the_authority_of_the_lab() {
    let lab = Lab::up().unwrap();
    let authority = fs::read(lab.state().join("ca/ca.crt")).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&authority).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let trusting = |roots| {
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider));
        let config = config.with_safe_default_protocol_versions().unwrap();
        Arc::new(config.with_root_certificates(Arc::new(roots)).with_no_client_auth())
    };
    let address = lab.address(SCHOOL, 8443);
    let open = |roots, name: String| {
        let tcp = TcpStream::connect(address).unwrap();
        tcp.set_read_timeout(Some(PATIENCE)).unwrap();
        let session = rustls::ClientConnection::new(trusting(roots), ServerName::try_from(name).unwrap()).unwrap();
        Talk::over(rustls::StreamOwned::new(session, tcp))
    };
    // By name and by address, which is what is typed as long as there is no DNS.
    for name in [SCHOOL.to_owned(), address.ip().to_string()] {
        let page = open(roots.clone(), name).get("/index.html", SCHOOL, "").unwrap();
        assert_eq!((page.status(), page.body.len()), ("200", 2652));
    }
    let stranger = open(rustls::RootCertStore::empty(), SCHOOL.to_owned()).get("/", SCHOOL, "");
    assert!(stranger.is_err(), "whoever does not trust the lab's authority must be warned");
    // Whoever watches is told what to do.
    let mut events = Running::start(lab.tomte("events").unwrap().args(["--host", SCHOOL])).unwrap();
    let note = events.wait_for("does not take our certificate").unwrap();
    assert!(note.contains(&format!("curl --cacert {}", lab.state().join("ca/ca.crt").display())), "{note}");
}

#[test]
fn a_host_goes_off_and_comes_back_with_what_it_had_and_the_others_do_not_notice() {
    let lab = Lab::up().unwrap();
    let switch = |action: &str, hosts: &[&str]| run(lab.tomte(action).unwrap().args(hosts)).unwrap();
    // Each kind of daemon; the mail servers lock their queue.
    let hosts = [("mail.hamburger.edu", 8025), (SCHOOL, 8080), ("resolver.crepes.fr", 8053), (WORDS, 7777)];
    let names = hosts.map(|(name, _)| name);
    let mut open = Talk::open(lab.address(SCHOOL, 8080)).unwrap();
    assert_eq!(open.get("/index.html", SCHOOL, "").unwrap().status(), "200");
    for _ in 0..2 {
        let said = switch("stop", &names).with_code(0).unwrap().out;
        assert!(said.contains("mail.hamburger.edu: stopped") && said.contains(&format!("{WORDS}: stopped")), "{said}");
        for (name, port) in hosts {
            let refused = TcpStream::connect(lab.address(name, port)).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{name}");
        }
        assert_eq!(get(lab.address("www.somesite.com", 8080), "/", "www.somesite.com", "").unwrap().status(), "200");
        let status = run(&mut lab.tomte("status").unwrap()).unwrap().with_code(0).unwrap().out;
        let row = |name: &str| status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(row(SCHOOL).contains("stopped") && row("www.somesite.com").contains("serving"), "{status}");
        let again = switch("stop", &[SCHOOL]).with_code(1).unwrap().err;
        assert!(again.contains("it is off already"), "{again}");

        switch("start", &names).with_code(0).unwrap();
        for (name, port) in hosts {
            TcpStream::connect(lab.address(name, port)).unwrap();
        }
        assert_eq!(get(lab.address(SCHOOL, 8080), "/index.html", SCHOOL, "").unwrap().status(), "200");
        let again = switch("start", &[SCHOOL]).with_code(1).unwrap().err;
        assert!(again.contains("it is on already"), "{again}");
    }
    // Who was connected has been let go.
    assert_eq!(open.until_the_end().unwrap(), b"");
    let unknown = switch("stop", &["www.nowhere.edu"]).with_code(1).unwrap().err;
    assert!(unknown.contains("there is no host `www.nowhere.edu` here; there are "), "{unknown}");
    // Its queue and its zones can be asked about as before.
    for (command, arguments) in
        [("queue", &["list", "--host", "mail.hamburger.edu"][..]), ("cache", &["list", "--host", "resolver.crepes.fr"])]
    {
        let mut asked = command_at(&built_program("tomte").unwrap());
        asked.arg(command).args(arguments).arg("--state").arg(lab.state());
        run(&mut asked).unwrap().with_code(0).unwrap();
    }
}

#[test]
fn whoever_mixes_up_ports_with_and_without_tls_is_explained() {
    let lab = Lab::up().unwrap();
    let mut events = Running::start(lab.tomte("events").unwrap().args(["--host", "mail.hamburger.edu"])).unwrap();
    let hello = b"\x16\x03\x01\x00\x05hello\r\n";
    for (port, said, note) in [
        (8995, &b"USER bob\r\n"[..], "no TLS: the client speaks in clear, and POP3 over TLS begins with TLS"),
        (8465, b"EHLO crepes.fr\r\n", "no TLS: the client speaks in clear, and SMTP over TLS begins with TLS"),
        (8110, hello, "this is how TLS begins: the client means another port"),
        (8025, hello, "this is how TLS begins: the client means another port"),
    ] {
        let mut client = TcpStream::connect(lab.address("mail.hamburger.edu", port)).unwrap();
        client.write_all(said).unwrap();
        events.wait_for(note).unwrap();
    }
}

#[test]
fn eleven_objects_take_eleven_connections_or_one() {
    let lab = Lab::up().unwrap();
    let school = lab.address(SCHOOL, 8080);
    // Non-persistent: what a client of HTTP/1.0 does.
    for path in eleven() {
        let mut talk = Talk::open(school).unwrap();
        talk.say(&format!("GET {path} HTTP/1.0\r\n\r\n")).unwrap();
        assert_eq!(talk.response(Content::Follows).unwrap().status(), "200", "{path}");
        assert_eq!(talk.until_the_end().unwrap(), b"", "HTTP/1.0 closes after one object");
    }
    // Persistent.
    let mut talk = Talk::open(school).unwrap();
    for path in eleven() {
        assert_eq!(talk.get(&path, SCHOOL, "").unwrap().status(), "200", "{path}");
    }
    // Something else on the wire, which the filter must keep out.
    assert_eq!(get(lab.address("www.somesite.com", 8080), "/", "www.somesite.com", "").unwrap().status(), "200");

    let follow = |arguments: &[&str]| {
        let mut events = lab.tomte("events").unwrap();
        Running::start(events.arg("--json").args(arguments)).unwrap()
    };
    let (of_school, of_web, of_words) =
        (follow(&["--host", SCHOOL]), follow(&["--daemon", "web"]), follow(&["--daemon", "wordlength"]));
    let mut lines = lab.tomte("events").unwrap();
    let lines = Running::start(lines.arg("--full")).unwrap();
    // All events are in the lab's memory; but only those who listen already are told when it ends.
    let mut listening = [of_school, of_web, of_words, lines];
    let mut word = TcpStream::connect(lab.address(WORDS, 7777)).unwrap();
    writeln!(word, "CAT").unwrap();
    listening[2].wait_for("CAT").unwrap();
    for listener in [0, 1, 3] {
        listening[listener].wait_for("HTTP/1.1 200 OK").unwrap();
    }
    let [of_school, of_web, of_words, lines] = listening;
    lab.running.signal(Signal::INT).unwrap();
    let heard = events(&of_school.end().unwrap().with_code(0).unwrap().out);

    assert!(heard.iter().all(|event| event["host"] == SCHOOL));
    // How many requests came over each connection.
    let mut requests: BTreeMap<u64, usize> = BTreeMap::new();
    for event in &heard {
        let count = requests.entry(event["connection"].as_u64().unwrap()).or_default();
        *count += usize::from(event["kind"] == "client");
    }
    let counts: Vec<usize> = requests.into_values().collect();
    assert_eq!(counts, [&[1; 11][..], &[11]].concat(), "eleven connections with one request, one with eleven");
    for kind in ["open", "close"] {
        assert_eq!(heard.iter().filter(|event| event["kind"] == kind).count(), 12, "{kind}");
    }

    let hosts = |running: Running| -> BTreeSet<String> {
        let heard = events(&running.end().unwrap().out);
        heard.iter().map(|event| event["host"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(hosts(of_web), [SCHOOL.to_owned(), "www.somesite.com".to_owned()].into());
    assert_eq!(hosts(of_words), [WORDS.to_owned()].into());
    let lines = lines.end().unwrap().out;
    for line in [
        "C: GET /someDepartment/home.index HTTP/1.0",
        "C: Host: www.someschool.edu",
        "S: HTTP/1.1 200 OK",
        "C: CAT",
        "S: 3",
    ] {
        assert!(lines.contains(&format!(" {line}\n")), "no `{line}` in\n{lines}");
    }
}

#[test]
fn one_connection_can_be_followed_by_its_number() {
    let lab = Lab::up().unwrap();
    for path in ["/index.html", "/1998.html"] {
        get(lab.address(SCHOOL, 8080), path, SCHOOL, "").unwrap();
    }
    let mut all = Running::start(lab.tomte("events").unwrap().arg("--json")).unwrap();
    let second: serde_json::Value = serde_json::from_str(&all.wait_for("/1998.html").unwrap()).unwrap();
    let number = second["connection"].to_string();
    let mut one = Running::start(lab.tomte("events").unwrap().args(["--json", "--connection", &number])).unwrap();
    one.wait_for("/1998.html").unwrap();
    lab.running.signal(Signal::TERM).unwrap();
    let heard = events(&one.end().unwrap().with_code(0).unwrap().out);
    assert!(heard.iter().all(|event| event["connection"] == second["connection"]));
    let kinds: Vec<&str> = heard.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["open", "client", "server", "close"]);
}

#[test]
fn events_have_the_time_of_the_clock_on_the_wall() {
    let lab = Lab::up().unwrap();
    get(lab.address(SCHOOL, 8080), "/index.html", SCHOOL, "").unwrap();
    // Five and a half hours ahead, told in a way that needs no file on disk.
    let past = |flag: &[&str]| {
        let ended = run(lab.tomte("events").unwrap().args(["--past"]).args(flag).env("TZ", "LAB-5:30")).unwrap();
        ended.with_code(0).unwrap().out
    };
    let micros = events(&past(&["--json"])).first().unwrap()["micros"].as_u64().unwrap();
    let seconds = micros / 1_000_000 + 5 * 3600 + 30 * 60;
    let time = format!("{:02}:{:02}:{:02}.", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let shown = past(&[]);
    assert!(shown.starts_with(&time), "{time} {shown}");
}

#[test]
fn the_past_ends_by_itself_and_who_waits_for_a_connection_is_told_so() {
    let lab = Lab::up().unwrap();
    get(lab.address(SCHOOL, 8080), "/index.html", SCHOOL, "").unwrap();
    let past = |flags: &[&str]| {
        let ended = run(lab.tomte("events").unwrap().arg("--past").args(flags)).unwrap();
        ended.with_code(0).unwrap()
    };
    let said = past(&["--daemon", "web"]);
    assert!(said.out.contains("C: GET /index.html HTTP/1.1\n") && said.err.is_empty(), "{said:?}");
    let nothing = past(&["--connection", "99999"]);
    assert!(nothing.out.is_empty() && nothing.err.contains("nothing of that is remembered"), "{nothing:?}");
    let mut waits = Running::start(lab.tomte("events").unwrap().args(["--connection", "99999"])).unwrap();
    waits.wait_for("nothing is remembered of connection 99999; waiting for it").unwrap();
}

#[test]
fn words_are_counted_over_tcp_and_udp_and_for_two_clients_at_once() {
    let lab = Lab::up().unwrap();
    let words = lab.address(WORDS, 7777);
    let mut clients: Vec<BufReader<TcpStream>> =
        (0..2).map(|_| BufReader::new(TcpStream::connect(words).unwrap())).collect();
    // The second is served while the first is connected, and the first still afterwards.
    for (client, word, answer) in [(1, "ELEPHANT", "8\r\n"), (0, "CAT", "3\r\n"), (1, "", "0\r\n")] {
        let client = &mut clients[client];
        client.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(client.get_mut(), "{word}").unwrap();
        let mut line = String::new();
        client.read_line(&mut line).unwrap();
        assert_eq!(line, answer, "{word}");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(b"CAT\n", words).unwrap();
    let mut answer = [0; 16];
    let (octets, from) = socket.recv_from(&mut answer).unwrap();
    assert_eq!((answer[..octets].trim_ascii_end(), from), (&b"3"[..], words));
}

#[test]
fn status_tells_who_serves_where() {
    let lab = Lab::up().unwrap();
    let table = run(&mut lab.tomte("status").unwrap()).unwrap().with_code(0).unwrap().out;
    let row = table.lines().find(|line| line.starts_with(SCHOOL)).unwrap();
    let https = format!("https {}", lab.address(SCHOOL, 8443));
    assert!(row.contains("web") && row.contains("serving") && row.contains(&https), "{table}");
    let json = run(lab.tomte("status").unwrap().arg("--json")).unwrap().with_code(0).unwrap().out;
    let entries: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Each table of a host in lab.toml is a daemon that runs.
    let daemons = tests::lab::SHIPPED.lines().filter(|line| line.starts_with("[host.")).count();
    assert_eq!(entries.as_array().unwrap().len(), daemons);
    assert!(entries.as_array().unwrap().iter().all(|entry| entry["state"] == "serving"), "{json}");

    let nowhere = tempfile::tempdir().unwrap();
    let alone = run(command("tomte").unwrap().arg("status").arg("--state").arg(nowhere.path())).unwrap();
    // On a machine with the services installed there is somebody after all.
    if alone.code != Some(0) {
        assert!(alone.with_code(1).unwrap().err.contains("Start the lab with `tomte up`"));
    }
}

#[test]
fn edits_stay_until_the_lab_is_started_fresh() {
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("my lab");
    let description = Description::own().unwrap();
    let page = || get(description.address(SCHOOL, 8080), "/somedir/page.html", SCHOOL, "").unwrap().text();
    let mut original = String::new();
    for (flags, edit, expected) in
        [(&[][..], Some("mine"), None), (&[], None, Some("mine")), (&["--fresh"], None, None)]
    {
        let mut running = Running::start(up(&description, folder.path(), &state).unwrap().args(flags)).unwrap();
        running.wait_for("Ctrl-C").unwrap();
        if original.is_empty() {
            original = page();
        }
        assert_eq!(page(), expected.unwrap_or(&original), "{flags:?}");
        if let Some(text) = edit {
            fs::write(state.join("www").join(SCHOOL).join("somedir/page.html"), text).unwrap();
        }
        running.signal(Signal::INT).unwrap();
        running.end().unwrap().with_code(0).unwrap();
    }
    // `--fresh` empties nothing that is not a state directory of the lab.
    fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    let refused = run(up(&description, folder.path(), folder.path()).unwrap().arg("--fresh")).unwrap();
    assert!(refused.with_code(1).unwrap().err.contains("is no state directory of the lab"));
    assert!(folder.path().join("thesis.tex").exists());
}

#[test]
fn who_asks_for_a_name_where_no_name_server_runs_is_told_to_start_one() {
    let (folder, description) = (tempfile::tempdir().unwrap(), Description::own().unwrap());
    let state = folder.path().join("state");
    let mut web = Running::start(up(&description, folder.path(), &state).unwrap().arg(SCHOOL)).unwrap();
    web.wait_for("Ctrl-C").unwrap();
    let asked = run(command("tomte").unwrap().args(["dns", "trace", SCHOOL, "--state"]).arg(&state)).unwrap();
    let said = asked.with_code(1).unwrap().err;
    assert!(said.contains("no name server runs here") && said.contains("tomte up"), "{said}");
}

#[test]
fn a_file_that_was_spoilt_can_be_had_back_as_it_was_shipped() {
    for name in ["zones/crepes.fr.zone", "accounts.toml"] {
        let (folder, description) = (tempfile::tempdir().unwrap(), Description::own().unwrap());
        let state = folder.path().join("state");
        let file = state.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "this is no such file").unwrap();
        let refused = run(&mut up(&description, folder.path(), &state).unwrap()).unwrap();
        let said = refused.with_code(78).unwrap().err;
        assert!(said.contains(&format!("{}:1", file.display())) && said.contains("tomte up --fresh"), "{said}");
    }
}

#[test]
fn a_second_lab_in_the_same_directory_is_refused_and_the_first_goes_on() {
    let lab = Lab::up().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let second = run(&mut up(&Description::own().unwrap(), folder.path(), lab.state()).unwrap()).unwrap();
    let said = second.with_code(1).unwrap().err;
    assert!(said.contains("a lab is running already in") && said.contains("--state"), "{said}");
    // Its terminal may be lost.
    assert!(said.contains(&format!("kill {}", lab.running.pid())), "{said}");
    run(&mut lab.tomte("status").unwrap()).unwrap().with_code(0).unwrap();
}

#[test]
fn control_c_ends_idle_connections_and_the_stream_of_events_with_code_0() {
    let lab = Lab::up().unwrap();
    let mut idle = Talk::open(lab.address(SCHOOL, 8080)).unwrap();
    assert_eq!(idle.get("/index.html", SCHOOL, "").unwrap().field("Connection"), Some("keep-alive"));
    let word = TcpStream::connect(lab.address(WORDS, 7777)).unwrap();
    word.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut listener = Running::start(lab.tomte("events").unwrap().args(["--json", "--daemon", "web"])).unwrap();
    listener.wait_for("200 OK").unwrap();

    lab.running.signal(Signal::INT).unwrap();
    assert_eq!(idle.until_the_end().unwrap(), b"");
    let mut nothing = String::new();
    BufReader::new(word).read_line(&mut nothing).unwrap();
    assert_eq!(nothing, "");
    let (state, school) = (lab.state().to_owned(), lab.address(SCHOOL, 8080));
    let Lab { running, .. } = lab;
    let ended = running.end().unwrap().with_code(0).unwrap();
    assert!(ended.err.contains("stopping"), "{ended:?}");
    let heard = events(&listener.end().unwrap().with_code(0).unwrap().out);
    assert_eq!(heard.last().unwrap()["kind"], "close", "the goodbyes are seen too");
    assert!(!state.join("admin.sock").exists());
    assert!(TcpStream::connect(school).is_err(), "nobody listens any more");
}

#[test]
fn a_port_in_use_is_told_with_program_and_pid() {
    let folder = tempfile::tempdir().unwrap();
    let description = Description::own().unwrap();
    let address = description.address(SCHOOL, 8080);
    let _held = TcpListener::bind(address).unwrap();
    let said = run(&mut up(&description, folder.path(), &folder.path().join("state")).unwrap()).unwrap();
    let said = said.with_code(1).unwrap().err;
    let me = fs::read_to_string("/proc/self/comm").unwrap();
    let me = format!("{} (pid {})", me.trim(), std::process::id());
    assert!(said.contains(&me) && said.contains("8080") && said.contains(SCHOOL), "{said}");
}

#[test]
fn a_port_that_needs_a_privilege_is_told_with_the_cure() {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim().parse::<u16>().unwrap() <= 80 {
        println!("SKIPPED: on this machine everybody may have port 80 (net.ipv4.ip_unprivileged_port_start)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let description = Description::own().unwrap();
    let mut up = up(&description, folder.path(), &folder.path().join("state")).unwrap();
    // Root without this one capability is as anybody else. For anybody else there is nothing to drop.
    let mut privileged = if rustix::process::geteuid().is_root() {
        let capability = "-net_bind_service";
        let mut setpriv = command_at("setpriv".as_ref());
        setpriv.args(["--bounding-set", capability, "--inh-caps", capability, "--"]);
        setpriv.arg(up.get_program()).args(up.get_args());
        setpriv
    } else {
        std::mem::replace(&mut up, Command::new("true"))
    };
    let said = run(privileged.arg("--privileged-ports")).unwrap().with_code(1).unwrap().err;
    assert!(said.contains("port 80") && said.contains("needs a privilege"), "{said}");
    assert!(said.contains("leave --privileged-ports out"), "{said}");
}

#[test]
fn one_host_can_be_started_alone_and_an_unknown_one_is_told_with_those_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let description = Description::own().unwrap();
    let state = folder.path().join("state");
    let said = run(up(&description, folder.path(), &state).unwrap().arg("www.someschol.edu")).unwrap();
    let said = said.with_code(78).unwrap().err;
    assert!(said.contains("no host `www.someschol.edu`") && said.contains(SCHOOL), "{said}");
    let mut one = Running::start(up(&description, folder.path(), &state).unwrap().arg(WORDS)).unwrap();
    one.wait_for("1 host in").unwrap();
    one.wait_for("Ctrl-C").unwrap();
    TcpStream::connect(description.address(WORDS, 7777)).unwrap();
    assert!(TcpStream::connect(description.address(SCHOOL, 8080)).is_err());
}

#[test]
fn a_wrong_lab_toml_is_told_with_line_column_and_cure() {
    let right = Description::own().unwrap();
    for (was, becomes, expected) in [
        ("charset =", "charsed =", &[":21:1: unknown key `charsed`; did you mean `charset`?"][..]),
        ("\n[host.wordlength]", "\n[host.worldlength]", &["unknown key `worldlength`; did you mean `wordlength`?"]),
        ("index = [\"index.html\", \"home.index\"]", "index = 7", &[":18:9: ", "expected a sequence"]),
        (
            "\n[host.wordlength]",
            "\n[host.wordlength]\nidle_timeout = \"5 parsecs\"",
            &["`5 parsecs` is not a time", "\"30 s\""],
        ),
        ("\n[host.wordlength]", "\n[host.wordlength]\nidle_timeout = 30", &["with its unit in quotes"]),
        ("docroot = \"www/www.someschool.edu\"", "docroot = \"www/nowhere\"", &["web.docroot", "nowhere", "mkdir -p"]),
        ("address = \"10.", "address = \"192.", &["must begin with 10"]),
        ("[[host]]", "[[host]", &["lab.toml:"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        assert!(right.text.contains(was), "{was}");
        let mut wrong = right.clone();
        wrong.text = wrong.text.replacen(was, becomes, 1);
        let said = run(&mut up(&wrong, folder.path(), &folder.path().join("state")).unwrap()).unwrap();
        let said = said.with_code(78).unwrap().err;
        for words in expected {
            assert!(said.contains(words), "no `{words}` in: {said}");
        }
    }
}

#[test]
fn check_config_knows_both_kinds_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.toml");
    let check = |text: &str| {
        fs::write(&file, text).unwrap();
        run(command("tomte").unwrap().arg("check-config").arg(&file)).unwrap()
    };
    // Where a package would have made the directories that the manual names.
    let home = folder.path().join("var");
    fs::create_dir_all(home.join("web")).unwrap();
    let manual = include_str!("../../config/tomte.toml").replace("/var/lib/tomte", home.to_str().unwrap());
    for text in [tests::lab::SHIPPED, &manual, ""] {
        let said = check(text).with_code(0).unwrap();
        assert!(said.out.starts_with("ok: "), "{said:?}");
    }
    let away = check(&manual.replace("/var/web", "/war/web")).with_code(78).unwrap().err;
    assert!(away.contains("web.docroot: `") && away.contains("mkdir -p"), "{away}");
    for (text, expected) in [
        ("[web]\ndocrot = \"/srv\"\n", ":2:1: unknown key `docrot`; did you mean `docroot`?"),
        ("[wbe]\n", "unknown key `wbe`; did you mean `web`?"),
        ("[[host]]\nname = 7\n", ":2:8: "),
        ("[[host]] # the first\nname = 7\n", ":2:8: "),
        (
            "[[host]]\nname = \"a\"\naddress = \"10.77.1.1\"\n[host.web]\ndocroot = \"no/where\"\n[host.dns]\nzones = [{ name = \"a.edu\", file = \"no.zone\" }]\n",
            ":5:11: host[0].web.docroot: a: `",
        ),
        (
            "[[host]]\nname = \"a\"\naddress = \"10.77.1.1\"\n[host.smtp]\nhostname = \"-\"\n",
            ":5:12: host[0].smtp.hostname: a: `-`",
        ),
        ("[smtp]\nhostname = \"a b\"\nspool = \"/dev/null/spool\"\n", ":2:12: smtp.hostname: `a b`"),
        ("[dns]\nzones = [{ name = \"a\", file = \"/no.zone\" }]\n", ":2:31: dns.zones[0].file: /no.zone: cannot read"),
    ] {
        let said = check(text).with_code(78).unwrap().err;
        assert!(said.contains(expected), "{said}");
    }
}

const NS: &str = "ns.crepes.fr";

#[test]
fn a_zone_file_is_checked_with_file_line_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.zone");
    let check = |text: &str, origin: &[&str]| {
        fs::write(&file, text).unwrap();
        run(command("tomte").unwrap().args(["zone", "check"]).arg(&file).args(origin)).unwrap()
    };
    let right = include_str!("../../config/zones/crepes.fr.zone");
    let said = check(right, &[]).with_code(0).unwrap();
    assert!(said.out.starts_with("ok: ") && said.out.contains("crepes.fr. has "), "{said:?}");
    let plain = "@ 60 SOA ns host 1 2 3 4 5\n  60 NS ns\nns 60 A 10.0.0.1\n";
    assert!(check(plain, &["example"]).with_code(0).unwrap().out.contains("example. has 3 records"));
    // What is doubtful is said, and is no error.
    let doubtful = check(&format!("{plain}@ 60 MX 10 nowhere\n"), &["example"]).with_code(0).unwrap();
    assert!(doubtful.err.starts_with("warning: ") && doubtful.out.contains("1 warning"), "{doubtful:?}");

    let broken = right.replacen(" A ", " A 10.0.0.256 ; ", 1);
    let line = 1 + broken.lines().position(|line| line.contains("256")).unwrap();
    let place = format!("{}:{line}: ", file.display());
    for (text, origin, expected) in [
        (broken.as_str(), &[][..], &[place.as_str(), "10.0.0.256"][..]),
        (plain, &[], &["has no $ORIGIN", "Name it: tomte zone check"]),
        (plain, &["a..b"], &["`a..b` is no name of a zone"]),
        ("", &["example"], &["makes no zone example.", "SOA"]),
    ] {
        let said = check(text, origin).with_code(1).unwrap();
        for words in expected {
            assert!(said.err.contains(words) && said.out.is_empty(), "no `{words}` in {said:?}");
        }
    }
    let absent = folder.path().join("absent.zone");
    let said = run(command("tomte").unwrap().args(["zone", "check"]).arg(&absent)).unwrap().with_code(1).unwrap();
    assert!(said.err.contains("cannot read") && said.err.contains("absent.zone"), "{said:?}");
}

#[test]
fn changed_zones_are_served_after_reload_and_a_broken_one_keeps_the_old() {
    let lab = Lab::up().unwrap();
    let server = lab.address(NS, 8053);
    let reload = |arguments: &[&str]| {
        let mut tomte = command("tomte").unwrap();
        run(tomte.args(["zone", "reload", "--state"]).arg(lab.state()).args(arguments)).unwrap()
    };
    let rcode = |name: &str| ask(server, Over::Udp, name, Type::A).unwrap().rcode;
    let file = lab.state().join("zones/crepes.fr.zone");
    let zone = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{zone}new A 10.77.1.99\n")).unwrap();
    assert_eq!(rcode("new.crepes.fr"), 3, "a file that is changed changes nothing yet");
    assert_eq!(reload(&[NS]).with_code(0).unwrap().out, format!("{NS}: reloaded\n"));
    let answer = ask(server, Over::Udp, "new.crepes.fr", Type::A).unwrap();
    assert_eq!(answer.answers[0].address(), Some([127, 77, 1, 99].into()), "the file has the containers' addresses");

    fs::write(&file, format!("{zone}newer A 10.77.1.100\nbroken A 10.77.1\n")).unwrap();
    let said = reload(&[]).with_code(1).unwrap();
    let line = 2 + zone.lines().count();
    for words in [&format!("{NS}: "), &format!("crepes.fr.zone:{line}: "), "10.77.1", "the old zone stays", "1 of "] {
        assert!(said.err.contains(words), "no `{words}` in {said:?}");
    }
    let begins_well = |line: &str| [NS, "  ", "tomte: "].iter().any(|begin| line.starts_with(begin));
    assert!(said.err.lines().all(begins_well), "whose problem is it? {said:?}");
    assert!(said.out.contains("ns.nic.fr: reloaded"), "the others are reloaded: {said:?}");
    assert_eq!((rcode("newer.crepes.fr"), rcode("new.crepes.fr")), (3, 0));

    let said = reload(&["ns.crepes.fe"]).with_code(1).unwrap();
    assert!(said.err.contains("no name server runs on `ns.crepes.fe`") && said.err.contains(NS), "{said:?}");
}

#[test]
fn no_query_is_lost_while_zones_are_reloaded() {
    // The same question is asked more often than a name server answers one network.
    let mut description = Description::own().unwrap();
    description.text = description.text.replace("[host.dns]\n", "[host.dns]\nrate = 0\n");
    let lab = Lab::of(description).unwrap();
    let server = lab.address(NS, 8053);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(Ordering::Relaxed) {
                let over = if asked % 2 == 0 { Over::Udp } else { Over::Tcp };
                assert_eq!(ask(server, over, "mail.crepes.fr", Type::A).unwrap().answers.len(), 1);
                asked += 1;
            }
            asked
        });
        for _ in 0..10 {
            let mut tomte = command("tomte").unwrap();
            run(tomte.args(["zone", "reload", "--state"]).arg(lab.state())).unwrap().with_code(0).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 10);
    });
}

#[test]
fn help_begins_with_examples() {
    let said = run(command("tomte").unwrap().args(["zone", "--help"])).unwrap().with_code(0).unwrap().out;
    assert!(said.starts_with("Examples:\n  tomte zone check"), "{said}");
    let said = run(command("tomte").unwrap().arg("--help")).unwrap().with_code(0).unwrap().out;
    assert!(said.starts_with("Examples:\n  tomte up"), "{said}");
    let version = run(command("tomte").unwrap().arg("--version")).unwrap().with_code(0).unwrap().out;
    assert_eq!(version, format!("tomte {}\n", env!("CARGO_PKG_VERSION")));
}
