//! Primary and secondary over sockets: NOTIFY, IXFR, AXFR, and what a secondary does when its primary is away.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use dns::{
    Config, Key, Server, ZoneFile,
    message::Header,
    name::Name,
    rdata::Type,
    record::{Message, Record},
    transfer::{self, Copied, Incoming},
    tsig,
};
use shared::{Shared, daemon::StartError};
use std::{
    fmt::Write as _,
    fs,
    io::{Read, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio_util::sync::CancellationToken;

const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0";
const NOERROR: u16 = 0;
const SERVFAIL: u16 = 2;
const REFUSED: u16 = 5;
const NOTAUTH: u16 = 9;
/// Nothing here takes so long; a test that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn key() -> Arc<tsig::Key> {
    Arc::new(tsig::Key::new("ours", "hmac-sha256", SECRET).unwrap())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The zone with a serial and the address of `www`; `names` more make it large.
fn text(serial: u32, address: &str, names: usize) -> String {
    let mut text =
        format!("$TTL 300\n@ SOA ns hostmaster {serial} 1h 15m 1w 5m\n NS ns\nns A 127.0.0.1\nwww A {address}\n");
    for number in 0..names {
        writeln!(text, "n{number} TXT \"{}\"", "x".repeat(50)).unwrap();
    }
    text
}

fn config(state: &Path, zone: ZoneFile) -> Config {
    let key = Key { name: "ours".to_owned(), algorithm: "hmac-sha256".to_owned(), secret: SECRET.to_owned() };
    Config {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        zones: vec![ZoneFile { name: "example".to_owned(), ..zone }],
        keys: vec![key],
        state: state.to_owned(),
        // Whoever waits here asks again and again.
        rate: 0,
        ..Config::default()
    }
}

fn primary(dir: &Path) -> Config {
    let zone = ZoneFile {
        file: Some(dir.join("example.zone")),
        transfer: vec!["key:ours".to_owned()],
        update: vec!["key:ours".to_owned()],
        key: "ours".to_owned(),
        ..ZoneFile::default()
    };
    config(&dir.join("primary"), zone)
}

fn secondary(dir: &Path, primaries: &[SocketAddr]) -> Config {
    let zone = ZoneFile {
        primaries: primaries.to_vec(),
        key: "ours".to_owned(),
        transfer: vec!["127.0.0.0/8".to_owned()],
        ..ZoneFile::default()
    };
    config(&dir.join("secondary"), zone)
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

    /// RCODE and last four octets of the answer to a question for an address.
    fn ask(&self, owner: &str) -> (u16, [u8; 4]) {
        let question =
            [&[0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name(owner).borrow().as_wire(), &[0, 1, 0, 1]].concat();
        let answer = udp(self.address, &question);
        (Header::parse(&answer).unwrap().rcode().0, *answer.last_chunk().unwrap())
    }

    /// Until the answer is this one.
    fn wait_for(&self, owner: &str, want: (u16, [u8; 4])) {
        let begin = Instant::now();
        while self.ask(owner) != want {
            assert!(begin.elapsed() < PATIENCE, "{owner}: {:?}, not {want:?}", self.ask(owner));
            std::thread::yield_now();
        }
    }

    /// Adds an address by UPDATE.
    fn update(&self, owner: &str, address: [u8; 4]) {
        let mut message = [&[0, 1, 0x28, 0, 0, 1, 0, 0, 0, 1, 0, 0][..], name("example").borrow().as_wire()].concat();
        message.extend([0, 6, 0, 1]);
        message.extend(name(owner).borrow().as_wire());
        message.extend([0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        message.extend(address);
        tsig::sign(&mut message, &key(), now());
        assert_eq!(Header::parse(&udp(self.address, &message)).unwrap().rcode().0, NOERROR);
    }
}

fn udp(server: SocketAddr, message: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(message, server).unwrap();
    let mut answer = [0; 4096];
    let octets = socket.recv(&mut answer).unwrap();
    answer[..octets].to_vec()
}

/// Takes a copy over TCP, signed if there is a key: what came and in how many messages, or the RCODE.
fn copy(server: SocketAddr, have: Option<&Record>, key: Option<&Arc<tsig::Key>>) -> Result<(Copied, usize), u16> {
    let mut message = transfer::question(7, &name("example"), have);
    let mut asked = key.map(|key| tsig::sign(&mut message, key, now()));
    let mut stream = TcpStream::connect(server).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat()).unwrap();
    let mut incoming = Incoming::new(7, &name("example"), have);
    for count in 1.. {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).unwrap();
        if let Some(asked) = &mut asked {
            asked.check(&answer, now()).unwrap();
        }
        match incoming.take(&answer) {
            Ok(Some(copied)) => return Ok((copied, count)),
            Ok(None) => {}
            Err(_) => return Err(Header::parse(&answer).unwrap().rcode().0),
        }
    }
    unreachable!("the stream ends or is complete")
}

#[test]
fn a_zone_goes_out_to_those_who_may_have_it_in_signed_messages() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 5000)).unwrap();
    let running = start(&primary(dir.path()));
    assert_eq!(copy(running.address, None, None).unwrap_err(), REFUSED);
    let (copied, messages) = copy(running.address, None, Some(&key())).unwrap();
    let Copied::Whole(zone) = copied else { panic!("{copied:?}") };
    assert!(messages > 10, "{messages}");
    assert_eq!((zone.len(), zone.serial()), (5004, 10));
    // What changes later is told by itself.
    let soa = zone.soa().map(|(ttl, rdata)| Record {
        owner: name("example"),
        rtype: Type::SOA,
        class: dns::rdata::Class::IN,
        ttl,
        rdata: rdata.to_vec(),
    });
    let (copied, _) = copy(running.address, soa.as_ref(), Some(&key())).unwrap();
    assert!(matches!(copied, Copied::Current), "{copied:?}");
    running.update("new.example", [127, 0, 0, 9]);
    running.update("newer.example", [127, 0, 0, 9]);
    let (copied, messages) = copy(running.address, soa.as_ref(), Some(&key())).unwrap();
    let Copied::Differences(differences) = copied else { panic!("{copied:?}") };
    assert_eq!((differences.len(), differences[1].to, messages), (2, 12, 1));
    // Also after a restart, from the journal.
    running.stop();
    let running = start(&primary(dir.path()));
    let (copied, _) = copy(running.address, soa.as_ref(), Some(&key())).unwrap();
    assert!(matches!(copied, Copied::Differences(again) if again == differences));
    // And after a new master file, from what is different in it.
    fs::write(dir.path().join("example.zone"), text(20, "127.0.0.3", 5000)).unwrap();
    running.reloader.reload_zones().unwrap();
    let (copied, _) = copy(running.address, soa.as_ref(), Some(&key())).unwrap();
    assert!(matches!(&copied, Copied::Differences(all) if all.len() == 3 && all[2].to == 20), "{copied:?}");
    running.stop();
}

#[test]
fn over_udp_there_is_no_axfr_and_ixfr_when_it_fits() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 0)).unwrap();
    let config = primary(dir.path());
    let running = start(&config);
    let mut asked = transfer::question(7, &name("example"), None);
    assert_eq!(Header::parse(&udp(running.address, &asked)).unwrap().rcode().0, 1);
    // IXFR without the SOA that says what they have.
    let type_at = asked.len() - 3;
    asked[type_at] = Type::IXFR.0 as u8;
    tsig::sign(&mut asked, &key(), now());
    assert_eq!(Header::parse(&udp(running.address, &asked)).unwrap().rcode().0, 1);
    let soa = |serial: u8| Record {
        owner: name("example"),
        rtype: Type::SOA,
        class: dns::rdata::Class::IN,
        ttl: 0,
        rdata: [&[0, 0, 0, 0, 0, serial][..], &[0; 16]].concat(),
    };
    running.update("new.example", [127, 0, 0, 9]);
    for (serial, records) in [(10, 5), (11, 1), (9, 1)] {
        let mut asked = transfer::question(7, &name("example"), Some(&soa(serial)));
        tsig::sign(&mut asked, &key(), now());
        let answer = Message::parse(&udp(running.address, &asked)).unwrap();
        assert_eq!(answer.answers.len(), records, "{serial}");
    }
    running.stop();
}

#[test]
fn a_secondary_follows_its_primary_and_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 100)).unwrap();
    // The primary is to notify the secondary, and the secondary is to know the primary: one of them starts twice.
    let first = start(&primary(dir.path()));
    let mut at = primary(dir.path());
    at.listen = vec![first.address];
    let second = start(&secondary(dir.path(), &[first.address]));
    second.wait_for("www.example", (NOERROR, [127, 0, 0, 2]));
    at.zones[0].notify = vec![second.address];
    first.reloader.reload(&at, &Shared::for_tests("dns")).unwrap();

    // NOTIFY and IXFR.
    first.update("new.example", [127, 0, 0, 9]);
    second.wait_for("new.example", (NOERROR, [127, 0, 0, 9]));
    // Others can copy from the secondary.
    let (copied, _) = copy(second.address, None, None).unwrap();
    assert!(matches!(&copied, Copied::Whole(zone) if zone.serial() == 11), "{copied:?}");

    // The primary is gone: the copy is served, also after a restart.
    let mut again = secondary(dir.path(), &at.listen);
    again.listen = vec![second.address];
    first.stop();
    second.stop();
    let second = start(&again);
    assert_eq!(second.ask("new.example"), (NOERROR, [127, 0, 0, 9]));
    second.stop();
    // After EXPIRE it is not. A restart does not make it younger.
    let path = dir.path().join("secondary/-/example.copy");
    let long_ago = SystemTime::now() - Duration::from_hours(8 * 24);
    fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let second = start(&again);
    assert_eq!(second.ask("new.example").0, SERVFAIL);
    assert_eq!(second.ask("example").0, SERVFAIL);
    assert_eq!(second.ask("elsewhere").0, REFUSED);
    // The primary is back, and tells so.
    let first = start(&at);
    second.wait_for("new.example", (NOERROR, [127, 0, 0, 9]));
    first.stop();
    second.stop();
}

#[test]
fn differences_that_do_not_fit_are_replaced_by_the_whole_zone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 100)).unwrap();
    let first = start(&primary(dir.path()));
    let config = secondary(dir.path(), &[first.address]);
    let second = start(&config);
    second.wait_for("www.example", (NOERROR, [127, 0, 0, 2]));
    second.stop();
    // Somebody has edited the copy: a name is gone, and one is there that is about to come.
    let path = dir.path().join("secondary/-/example.copy");
    let copy = fs::read_to_string(&path).unwrap();
    let edited = copy.replace("www.example. 300 IN A 127.0.0.2", "new.example. 60 IN A 127.0.0.9");
    assert_ne!(copy, edited);
    fs::write(&path, edited).unwrap();
    first.update("new.example", [127, 0, 0, 9]);
    let second = start(&config);
    second.wait_for("www.example", (NOERROR, [127, 0, 0, 2]));
    assert_eq!(second.ask("new.example"), (NOERROR, [127, 0, 0, 9]));
    first.stop();
    second.stop();
}

#[test]
fn a_secondary_asks_its_primaries_in_turn() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 0)).unwrap();
    let first = start(&primary(dir.path()));
    // Nobody is at the first address.
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let second = start(&secondary(dir.path(), &[nobody, first.address]));
    assert_eq!(second.ask("www.example").0, SERVFAIL, "there is no copy yet");
    second.wait_for("www.example", (NOERROR, [127, 0, 0, 2]));
    first.stop();
    second.stop();
}

#[test]
fn notify_is_taken_from_primaries_only_and_update_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), text(10, "127.0.0.2", 0)).unwrap();
    let first = start(&primary(dir.path()));
    let second = start(&secondary(dir.path(), &["127.0.0.77:53".parse().unwrap()]));
    let notify = |zone: &str| {
        let mut message = transfer::question(7, &name(zone), None);
        message[2] = 0x20;
        let type_at = message.len() - 3;
        message[type_at] = Type::SOA.0 as u8;
        message
    };
    let rcode = |server: &Running, message: &[u8]| Header::parse(&udp(server.address, message)).unwrap().rcode().0;
    assert_eq!(rcode(&second, &notify("example")), REFUSED);
    assert_eq!(rcode(&second, &notify("elsewhere")), NOTAUTH);
    assert_eq!(rcode(&first, &notify("example")), NOTAUTH, "it is the primary");
    // Whoever has the key is believed, wherever he is.
    let mut signed = notify("example");
    tsig::sign(&mut signed, &key(), now());
    assert_eq!(rcode(&second, &signed), NOERROR);
    let mut update = notify("example");
    update[2] = 0x28;
    assert_eq!(rcode(&second, &update), 4, "updates go to the primary");
    first.stop();
    second.stop();
}
