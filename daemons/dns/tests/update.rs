//! UPDATE over sockets: signed by a client, on disk before it is answered.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use dns::{Config, Key, Server, ZoneFile, message::Header, name::Name, rdata::Type, tsig};
use shared::{Shared, daemon::StartError};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0";
const ZONE: &str = "$TTL 300
@    SOA ns hostmaster 10 1h 15m 1w 5m
     NS  ns
ns   A   127.0.0.1
";
const NOERROR: u16 = 0;
const NXDOMAIN: u16 = 3;
const REFUSED: u16 = 5;
const YXDOMAIN: u16 = 6;
const NOTAUTH: u16 = 9;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn key(name: &str) -> Arc<tsig::Key> {
    Arc::new(tsig::Key::new(name, "hmac-sha256", SECRET).unwrap())
}

fn wire(name: &str) -> Vec<u8> {
    name.parse::<Name>().unwrap().borrow().as_wire().to_vec()
}

/// An UPDATE of `example`; each record is owner, class, type, TTL and data.
fn update(id: u16, updates: &[(&str, u16, Type, u32, &[u8])]) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0x28, 0, 0, 1, 0, 0, 0, updates.len() as u8, 0, 0]);
    message.extend(wire("example"));
    message.extend([0, 6, 0, 1]);
    for (owner, class, rtype, ttl, rdata) in updates {
        message.extend(wire(owner));
        message.extend(rtype.0.to_be_bytes());
        message.extend(class.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((rdata.len() as u16).to_be_bytes());
        message.extend(*rdata);
    }
    message
}

fn query(name: &str) -> Vec<u8> {
    [&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire(name), &[0, 1, 0, 1]].concat()
}

/// Says something over UDP and waits for the answer.
fn ask(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    ask_from("127.0.0.1:0", server, message)
}

fn ask_from(client: &str, server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind(client).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket.send_to(message, server).unwrap();
    let mut answer = [0; 4096];
    let octets = socket.recv(&mut answer).unwrap();
    answer[..octets].to_vec()
}

fn rcode(answer: &[u8]) -> u16 {
    Header::parse(answer).unwrap().rcode().0
}

fn config(dir: &Path) -> Config {
    fs::write(dir.join("example.zone"), ZONE).unwrap();
    let zone = ZoneFile {
        name: "example".to_owned(),
        file: Some(dir.join("example.zone")),
        update: vec!["key:ours".to_owned()],
        ..ZoneFile::default()
    };
    let key =
        |name: &str| Key { name: name.to_owned(), algorithm: "hmac-sha256".to_owned(), secret: SECRET.to_owned() };
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        rate: 0,
        zones: vec![zone],
        keys: vec![key("ours"), key("other")],
        state: dir.join("state"),
        ..Config::default()
    }
}

struct Running {
    address: SocketAddr,
    reloader: dns::Reloader,
    shutdown: CancellationToken,
    thread: std::thread::JoinHandle<Result<(), StartError>>,
}

/// Serves on a thread of its own, so that the tests may block.
fn start(config: &Config) -> Running {
    let server = Server::bind(config, &Shared::for_tests("dns")).unwrap();
    let (address, reloader, shutdown) = (server.local_addrs()[0].address, server.reloader(), CancellationToken::new());
    let stop = shutdown.clone();
    let thread = std::thread::spawn(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(server.run(stop))
    });
    Running { address, reloader, shutdown, thread }
}

impl Running {
    fn stop(self) {
        self.shutdown.cancel();
        self.thread.join().unwrap().unwrap();
    }

    /// Sends a signed update; returns the RCODE once the answer's signature is checked.
    fn update(&self, key: &Arc<tsig::Key>, updates: &[(&str, u16, Type, u32, &[u8])]) -> u16 {
        let mut message = update(7, updates);
        let mut asked = tsig::sign(&mut message, key, now());
        let answer = ask(self.address, &message);
        asked.check(&answer, now()).unwrap();
        rcode(&answer)
    }
}

#[test]
fn an_update_is_served_at_once_and_after_a_restart_and_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let running = start(&config);
    assert_eq!(rcode(&ask(running.address, &query("new.example"))), NXDOMAIN);
    assert_eq!(running.update(&key("ours"), &[("new.example", 1, Type::A, 60, &[127, 0, 0, 9])]), NOERROR);
    assert_eq!(ask(running.address, &query("new.example")).last_chunk(), Some(&[127, 0, 0, 9]));
    running.reloader.reload(&config, &Shared::for_tests("dns")).unwrap();
    assert_eq!(ask(running.address, &query("new.example")).last_chunk(), Some(&[127, 0, 0, 9]));
    running.stop();
    let running = start(&config);
    assert_eq!(ask(running.address, &query("new.example")).last_chunk(), Some(&[127, 0, 0, 9]));
    // A newer master file counts; what came by UPDATE before is put aside.
    fs::write(dir.path().join("example.zone"), ZONE.replace(" 10 ", " 20 ")).unwrap();
    running.reloader.reload_zones().unwrap();
    assert_eq!(rcode(&ask(running.address, &query("new.example"))), NXDOMAIN);
    assert!(dir.path().join("state/-/example.journal.11").exists());
    // One that is older than the changes is refused, and the old zone stays.
    assert_eq!(running.update(&key("ours"), &[("new.example", 1, Type::A, 60, &[127, 0, 0, 8])]), NOERROR);
    fs::write(dir.path().join("example.zone"), ZONE).unwrap();
    let error = running.reloader.reload_zones().unwrap_err().to_string();
    assert!(error.contains("lead from 20 to 21") && error.contains("the old zone stays"), "{error}");
    assert_eq!(ask(running.address, &query("new.example")).last_chunk(), Some(&[127, 0, 0, 8]));
    running.stop();
}

/// RFC 2181 §8: such a TTL is 0. Master files refuse it, and so does the reader of the journal.
#[test]
fn an_update_with_a_ttl_of_32_bits_does_not_keep_the_server_from_starting_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let running = start(&config);
    assert_eq!(running.update(&key("ours"), &[("new.example", 1, Type::A, 0x8000_0000, &[127, 0, 0, 9])]), NOERROR);
    running.stop();
    let running = start(&config);
    let answer = ask(running.address, &query("new.example"));
    assert_eq!(answer.last_chunk(), Some(&[0, 0, 0, 0, 0, 4, 127, 0, 0, 9]), "TTL, length and address");
    running.stop();
}

#[test]
fn without_a_key_that_may_nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&config(dir.path()));
    let change: (&str, u16, Type, u32, &[u8]) = ("new.example", 1, Type::A, 60, &[127, 0, 0, 9]);
    // Not signed at all, signed with a key that is for something else, and with one that we do not know.
    assert_eq!(rcode(&ask(running.address, &update(7, &[change]))), REFUSED);
    assert_eq!(running.update(&key("other"), &[change]), REFUSED);
    let mut message = update(7, &[change]);
    let mut asked = tsig::sign(&mut message, &key("unknown"), now());
    let answer = ask(running.address, &message);
    assert_eq!((rcode(&answer), asked.check(&answer, now())), (NOTAUTH, Err(tsig::AnswerFault::Refused(17))));
    // The clock is wrong: the answer is signed, and tells the time.
    let mut message = update(7, &[change]);
    let mut asked = tsig::sign(&mut message, &key("ours"), now() - 1000);
    let answer = ask(running.address, &message);
    assert_eq!((rcode(&answer), asked.check(&answer, now())), (NOTAUTH, Err(tsig::AnswerFault::Refused(18))));
    assert_eq!(rcode(&ask(running.address, &query("new.example"))), NXDOMAIN);
    assert!(!dir.path().join("state/-/example.journal").exists());
    running.stop();
}

#[test]
fn a_zone_that_is_not_here_is_notauth_and_a_malformed_message_is_formerr() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&config(dir.path()));
    // `sub.example` would be a name of ours, and is no zone of ours.
    for zone in ["sub.example", "elsewhere"] {
        let message = [&[0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &wire(zone), &[0, 6, 0, 1]].concat();
        assert_eq!(rcode(&ask(running.address, &message)), NOTAUTH, "{zone}");
    }
    let message = update(1, &[("new.example", 1, Type::A, 60, &[127, 0, 0, 9])]);
    for octets in [12, 20, message.len() - 1] {
        assert_eq!(rcode(&ask(running.address, &message[..octets])), 1, "{octets}");
    }
    running.stop();
}

#[test]
fn an_update_changes_the_zone_that_its_client_sees() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let clients = vec!["127.0.0.2".parse().unwrap()];
    config.views = vec![dns::View { name: "inside".to_owned(), clients }];
    config.zones.push(ZoneFile { view: "inside".to_owned(), ..config.zones[0].clone() });
    let running = start(&config);
    let mut message = update(7, &[("new.example", 1, Type::A, 60, &[127, 0, 0, 9])]);
    tsig::sign(&mut message, &key("ours"), now());
    assert_eq!(rcode(&ask_from("127.0.0.2:0", running.address, &message)), NOERROR);
    let new = query("new.example");
    assert_eq!(rcode(&ask_from("127.0.0.2:0", running.address, &new)), NOERROR);
    assert_eq!(rcode(&ask_from("127.0.0.1:0", running.address, &new)), NXDOMAIN);
    assert!(dir.path().join("state/inside/example.journal").exists());
    running.stop();
    let running = start(&config);
    assert_eq!(rcode(&ask_from("127.0.0.2:0", running.address, &new)), NOERROR);
    assert_eq!(rcode(&ask_from("127.0.0.1:0", running.address, &new)), NXDOMAIN);
    running.stop();
}

#[test]
fn a_wrong_list_or_key_is_told_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let running = start(&config);
    let with = |change: &dyn Fn(&mut ZoneFile)| {
        let mut config = config.clone();
        change(&mut config.zones[0]);
        running.reloader.reload(&config, &Shared::for_tests("dns")).unwrap_err().to_string()
    };
    for (error, want) in [
        (with(&|zone| zone.update = vec!["key:nobody".to_owned()]), "there is no such key among the `keys`"),
        (with(&|zone| zone.transfer = vec!["everybody".to_owned()]), "is not a network"),
        (with(&|zone| zone.key = "nobody".to_owned()), "there is no key `nobody`"),
        (with(&|zone| zone.file = None), "no `primaries` to copy it from"),
        (with(&|zone| zone.primaries = vec!["127.0.0.1:53".parse().unwrap()]), "comes from one of them"),
    ] {
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(running.update(&key("ours"), &[("new.example", 1, Type::A, 60, &[127, 0, 0, 9])]), NOERROR);
    running.stop();
}

#[test]
fn what_is_asked_for_together_is_done_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(&config(dir.path()));
    let address = running.address;
    // Everybody wants the name for himself: `new.example` must not be in use (RFC 2136 §2.4.5).
    let threads: Vec<_> = (0..20_u8)
        .map(|number| {
            std::thread::spawn(move || {
                let mut message = update(u16::from(number), &[("new.example", 1, Type::A, 60, &[127, 0, 0, number])]);
                let prerequisite = [&wire("new.example")[..], &[0, 255, 0, 254, 0, 0, 0, 0, 0, 0]].concat();
                message[7] = 1;
                message.splice(25..25, prerequisite);
                let mut asked = tsig::sign(&mut message, &key("ours"), now());
                let answer = ask(address, &message);
                asked.check(&answer, now()).unwrap();
                rcode(&answer)
            })
        })
        .collect();
    let rcodes: Vec<u16> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(rcodes.iter().filter(|rcode| **rcode == NOERROR).count(), 1, "{rcodes:?}");
    assert_eq!(rcodes.iter().filter(|rcode| **rcode == YXDOMAIN).count(), 19, "{rcodes:?}");
    running.stop();
}

/// The program, as it is deployed.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(dir: &Path) -> Self {
        let dir = dir.display();
        let zones = format!("dns.zones=[{{ name = 'example', file = '{dir}/example.zone', update = ['key:ours'] }}]");
        let keys = format!("dns.keys=[{{ name = \"ours\", algorithm = \"hmac-sha256\", secret = {SECRET:?} }}]");
        let state = format!("dns.state='{dir}/state'");
        let mut child = Command::new(env!("CARGO_BIN_EXE_tomte-dns"))
            .args([
                "--set",
                "dns.listen=[\"127.0.0.1:0\"]",
                "--set",
                "dns.rate=0",
                "--set",
                "dns.workers=1",
                "--set",
                "log.format=\"json\"",
            ])
            // Whoever waits here asks again and again.
            .args(["--set", "dns.rate=0"])
            .args(["--set", &zones, "--set", &keys, "--set", &state])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().expect("it says where it serves").unwrap();
            if let Some((_, behind)) = line.split_once("serving udp ") {
                break behind.split([',', '"']).next().unwrap().parse().unwrap();
            }
        };
        // Somebody must read what it says, or it would wait for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// No goodbye.
    fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    /// A test that fails leaves nobody behind.
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Updates over one connection, one after the other, until the server is gone; returns how many were answered with
/// NOERROR.
fn stream(address: SocketAddr, first: u32) -> std::io::Result<u32> {
    let (key, mut number) = (key("ours"), first);
    let mut connection = TcpStream::connect(address)?;
    loop {
        let owner = format!("n{number}.example");
        let mut message = update(number as u16, &[(&owner, 1, Type::A, 60, &[127, 0, 0, 9])]);
        let mut asked = tsig::sign(&mut message, &key, now());
        let done = (|| {
            connection.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat())?;
            let mut length = [0; 2];
            connection.read_exact(&mut length)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            connection.read_exact(&mut answer).map(|()| answer)
        })();
        let Ok::<_, std::io::Error>(answer) = done else { return Ok(number - first) };
        asked.check(&answer, now()).unwrap();
        assert_eq!(rcode(&answer), NOERROR);
        number += 1;
    }
}

#[test]
fn every_update_that_was_answered_is_there_after_kill_9() {
    const ROUNDS: u32 = 5;
    const STREAMS: u32 = 4;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), ZONE).unwrap();
    let mut answered: Vec<String> = vec![];
    for round in 0..ROUNDS {
        let process = Process::start(dir.path());
        for owner in &answered {
            let answer = ask(process.address, &query(owner));
            assert_eq!(
                (rcode(&answer), answer.last_chunk()),
                (NOERROR, Some(&[127, 0, 0, 9])),
                "{owner} in round {round}"
            );
        }
        let address = process.address;
        let threads: Vec<_> = (0..STREAMS)
            .map(|number| {
                let first = (round * STREAMS + number) * 10_000;
                std::thread::spawn(move || (first, stream(address, first).unwrap()))
            })
            .collect();
        // In the middle of it: as soon as some have been answered, which everybody can see.
        let witness = format!("n{}.example", round * STREAMS * 10_000 + 5 * (round + 1));
        while rcode(&ask(address, &query(&witness))) != NOERROR {}
        process.kill();
        for thread in threads {
            let (first, count) = thread.join().unwrap();
            answered.extend((first..first + count).map(|number| format!("n{number}.example")));
        }
    }
    assert!(answered.len() as u32 >= ROUNDS * 5);
}
