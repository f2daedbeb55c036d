//! The server over sockets, with the zones of the lab.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use dns::{Config, Rewrite, Server, ZoneFile, name::Name, rdata::Type};
use shared::{
    Shared,
    daemon::StartError,
    tls::{LabCa, client_config},
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Every zone file of the lab.
fn lab() -> Config {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/zones");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|extension| extension == "zone"));
    let zone = |file: PathBuf| {
        let stem = file.file_stem().unwrap().to_str().unwrap().to_owned();
        ZoneFile { name: if stem == "root" { ".".to_owned() } else { stem }, file: Some(file), ..ZoneFile::default() }
    };
    with(files.map(zone).collect())
}

fn with(zones: Vec<ZoneFile>) -> Config {
    // One client asks the same a few hundred times here.
    let (listen, rate) = (vec!["127.0.0.1:0".parse().unwrap()], 0);
    Config { listen, zones, rewrite: Rewrite::Loopback, rate, ..Config::default() }
}

struct Running {
    address: SocketAddr,
    reloader: dns::Reloader,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), StartError>>,
}

fn start(config: &Config) -> Running {
    start_with(config, &Shared::for_tests("dns"))
}

#[expect(clippy::disallowed_methods, reason = "the test waits for its only task itself")]
fn start_with(config: &Config, shared: &Shared) -> Running {
    let server = Server::bind(config, shared).unwrap();
    let address = server.local_addrs()[0].address;
    let (reloader, shutdown) = (server.reloader(), CancellationToken::new());
    Running { address, reloader, task: tokio::spawn(server.run(shutdown.clone())), shutdown }
}

impl Running {
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    async fn ask(&self, name: &str, qtype: Type) -> Vec<u8> {
        self.send(&query(7, name, qtype)).await
    }

    /// The answer to a datagram; without one the test has failed.
    async fn send(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, self.address).await.unwrap();
        let mut answer = [0; 4096];
        let octets = timeout(Duration::from_secs(10), socket.recv(&mut answer)).await.expect("an answer").unwrap();
        answer[..octets].to_vec()
    }
}

fn query(id: u8, name: &str, qtype: Type) -> Vec<u8> {
    let name: Name = name.parse().unwrap();
    let [high, low] = qtype.0.to_be_bytes();
    [&[0, id, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], name.borrow().as_wire(), &[high, low, 0, 1]].concat()
}

/// The data of the last record of the answer section is an address: its four octets.
fn last_address(answer: &[u8]) -> [u8; 4] {
    assert_eq!(answer[3] & 0xf, 0, "NOERROR");
    answer.last_chunk().copied().unwrap()
}

#[tokio::test]
async fn the_lab_has_the_names_and_addresses_of_the_course() {
    let running = start(&lab());
    for (name, want) in [
        ("gaia.cs.umass.edu", [128, 119, 245, 12]),
        ("cse.unsw.edu.au", [129, 94, 242, 51]),
        ("www.ibm.com", [127, 77, 4, 80]),
        ("www.someschool.edu", [127, 77, 3, 80]),
        ("www.somesite.com", [127, 77, 4, 80]),
        ("www-net.cs.umass.edu", [127, 77, 4, 80]),
        ("www.wikipedia.org", [127, 77, 4, 80]),
        ("calliope.ics.forth.gr", [127, 77, 4, 80]),
        ("info.cern.ch", [127, 77, 4, 80]),
        ("m.root-servers.net", [127, 77, 0, 1]),
    ] {
        assert_eq!(last_address(&running.ask(name, Type::A).await), want, "{name}");
    }
    let root = running.ask(".", Type::NS).await;
    assert_eq!(root[7], 13, "thirteen servers, a to m");
    assert_eq!(running.ask("www.networkutopia.com", Type::A).await[3] & 0xf, 3, "nobody has registered it yet");
    running.stop().await;
}

#[tokio::test]
async fn three_addresses_come_first_in_turn() {
    let running = start(&lab());
    let mut first = [0; 3];
    for _ in 0..300 {
        let answer = running.ask("www.yahoo.com", Type::A).await;
        // Twelve octets of header, fifteen of name, four; the first record has a pointer for its name.
        let address = &answer[31 + 12..31 + 16];
        first[usize::from(address[3] - 80)] += 1;
    }
    assert_eq!(first, [100; 3]);
    running.stop().await;
}

/// The kernel chooses a port that is free over UDP; over TCP somebody may have it.
#[test]
fn port_0_finds_a_port_that_is_free_over_both() {
    let taken: Vec<_> = (0..500).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    for _ in 0..200 {
        let server = Server::bind(&with(vec![]), &Shared::for_tests("dns")).unwrap();
        let ports: Vec<u16> = server.local_addrs().iter().map(|endpoint| endpoint.address.port()).collect();
        assert_eq!(ports[0], ports[1]);
    }
    drop(taken);
}

/// An attacker asks with a victim's address; the victim's network must not be flooded by us.
#[tokio::test]
async fn above_the_rate_only_clients_with_a_cookie_get_answers() {
    let running = start(&Config { rate: 10, slip: 1, ..lab() });
    let (mut answered, mut slipped) = (0, 0);
    for _ in 0..30 {
        let answer = running.ask("www.someschool.edu", Type::A).await;
        match answer[2] & 0x02 {
            0 => answered += 1,
            _ => slipped += 1,
        }
    }
    // As many as the rate gives at once, and what it gives in the time that the test takes.
    assert!((10..20).contains(&answered) && slipped > 10, "{answered} answered, {slipped} slipped");
    // The cookie comes with the first answer, slipped or not; who has it is known.
    let with_cookie = |cookie: &[u8]| {
        let mut query = query(7, "www.someschool.edu", Type::A);
        query[11] = 1;
        query.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 4 + cookie.len() as u8, 0, 10, 0, cookie.len() as u8]);
        query.extend(cookie);
        query
    };
    let slipped = running.send(&with_cookie(&[1; 8])).await;
    let cookie = slipped.last_chunk::<24>().unwrap();
    assert_eq!(cookie[..8], [1; 8]);
    for _ in 0..30 {
        let answer = running.send(&with_cookie(cookie)).await;
        assert_eq!((answer[2] & 0x02, answer[7]), (0, 1));
    }
    running.stop().await;
}

#[tokio::test]
async fn queries_over_tcp_may_come_together_and_in_pieces() {
    let running = start(&lab());
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let mut octets = vec![];
    for id in 0..20 {
        let query = query(id, "www.someschool.edu", Type::A);
        octets.extend((query.len() as u16).to_be_bytes());
        octets.extend(query);
    }
    // The cut is within a message: what is whole must be answered without waiting for the rest.
    let (first, rest) = octets.split_at(octets.len() - 5);
    stream.write_all(first).await.unwrap();
    for id in 0..20 {
        if id == 19 {
            stream.write_all(rest).await.unwrap();
        }
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!((answer[1], last_address(&answer)), (id, [127, 77, 3, 80]));
    }
    running.stop().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "a stop closes the connection");
}

/// Octets that make no message do not keep a connection: a client could hold it with one of them now and then.
#[tokio::test(start_paused = true)]
async fn a_connection_without_a_whole_message_is_closed_in_time() {
    let running = start(&Config { idle_timeout: shared::units::Span::secs(10), ..lab() });
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    stream.write_all(&[0, 40, 1]).await.unwrap();
    let began = tokio::time::Instant::now();
    let (mut dripped, mut octet) = (0, [0]);
    loop {
        tokio::select! {
            end = stream.read(&mut octet) => {
                // The rest of what was dripped may make it a reset.
                assert!(matches!(end, Ok(0) | Err(_)));
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(3)) => {
                dripped += 1;
                assert!(dripped < 10, "still open after {:?}", began.elapsed());
                let _ = stream.write_all(&[0]).await;
            }
        }
    }
    assert!(began.elapsed() >= Duration::from_secs(9), "{:?}", began.elapsed());
    running.stop().await;
}

#[tokio::test]
async fn a_set_that_is_too_large_for_a_datagram_comes_whole_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.zone");
    let many = (0..60).map(|n| format!("many A 192.0.2.{n}")).collect::<Vec<_>>().join("\n");
    fs::write(&file, format!("$TTL 60\n@ SOA ns root 1 1 1 1 1\n NS ns\nns A 192.0.2.1\n{many}")).unwrap();
    let running = start(&with(vec![ZoneFile { name: "test".to_owned(), file: Some(file), ..ZoneFile::default() }]));
    let short = running.ask("many.test", Type::A).await;
    assert_eq!((short[2] & 0x02, short[7], short.len()), (0x02, 0, query(0, "many.test", Type::A).len()));
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    let query = query(1, "many.test", Type::A);
    stream.write_u16(query.len() as u16).await.unwrap();
    stream.write_all(&query).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!((answer[2] & 0x02, answer[7]), (0, 60));
    running.stop().await;
}

#[tokio::test]
async fn a_new_file_is_taken_and_a_wrong_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.zone");
    let write = |tail: &str| {
        fs::write(&file, format!("$TTL 60\n@ SOA ns root 1 1 1 1 1\n NS ns\nns A 192.0.2.1\n{tail}\n")).unwrap();
    };
    write("www A 192.0.2.7");
    let other = dir.path().join("other.zone");
    fs::write(&other, "$TTL 60\n@ SOA ns root 1 1 1 1 1\n NS ns\nns A 192.0.2.1\n").unwrap();
    let zone = |name: &str, file: &Path| ZoneFile {
        name: name.to_owned(),
        file: Some(file.to_owned()),
        ..ZoneFile::default()
    };
    let config = with(vec![zone("test", &file), zone("other", &other)]);
    let running = start(&config);
    assert_eq!(last_address(&running.ask("www.test", Type::A).await)[3], 7);
    write("www A 192.0.2.8");
    running.reloader.reload(&config, &Shared::for_tests("dns")).unwrap();
    assert_eq!(last_address(&running.ask("www.test", Type::A).await)[3], 8);
    write("www A 192.0.2");
    let error = running.reloader.reload(&config, &Shared::for_tests("dns")).unwrap_err().to_string();
    assert!(error.contains("a zone was not taken, the other one was:\n"), "{error}");
    assert!(error.contains("test.zone:5: `192.0.2` stands where an IPv4 address"), "{error}");
    assert!(error.contains("the old zone stays"), "{error}");
    assert_eq!(last_address(&running.ask("www.test", Type::A).await)[3], 8);
    running.stop().await;
}

/// RFC 1034 §4.3.5. The commonest slip of all who look after zones.
#[tokio::test]
async fn a_zone_that_changes_without_its_serial_is_told_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("test.zone");
    let write = |serial: u32, address: u8| {
        let text = format!("$TTL 60\n@ SOA ns root {serial} 1 1 1 1\n NS ns\nns A 192.0.2.{address}\n");
        fs::write(&file, text).unwrap();
    };
    write(5, 1);
    let zone = ZoneFile { name: "test".to_owned(), file: Some(file.clone()), ..ZoneFile::default() };
    let running = start(&Config { state: dir.path().join("state"), ..with(vec![zone]) });
    let reload = || running.reloader.reload_zones().unwrap();
    assert_eq!(reload(), Vec::<String>::new());
    let cure = |serial: u32| format!("write {serial} into the SOA record of {} and reload it again", file.display());
    for (serial, address, doubt) in [
        (
            5,
            2,
            Some(format!(
                "test.: the zone has changed and its serial is 5 as before, so no secondary will notice: {}",
                cure(6)
            )),
        ),
        (6, 3, None),
        (
            4,
            3,
            Some(format!(
                "test.: the serial 4 is older than the one before, 6, so no secondary will take the zone: {}",
                cure(7)
            )),
        ),
    ] {
        write(serial, address);
        assert_eq!(reload(), Vec::from_iter(doubt));
    }
    running.stop().await;
}

/// RFC 7858, from one certificate to the next.
#[tokio::test]
async fn a_reload_takes_a_new_certificate_and_keeps_the_old_when_the_new_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let authority = LabCa::open_or_create(dir.path()).unwrap();
    let certified = |name: &str| {
        let mut shared = Shared::for_tests("dns");
        shared.tls = authority.certificate_for(&[name.to_owned()]).unwrap();
        shared
    };
    let config = Config { listen: vec![], listen_tls: vec!["127.0.0.1:0".parse().unwrap()], ..lab() };
    let running = start_with(&config, &certified("old.example"));
    let trusted = client_config(&authority.certificate_file()).unwrap();
    let ask = async |server: &'static str| {
        let stream = TcpStream::connect(running.address).await.unwrap();
        let mut stream = TlsConnector::from(trusted.clone()).connect(server.try_into().unwrap(), stream).await.ok()?;
        let query = query(7, "www.someschool.edu", Type::A);
        stream.write_all(&[&[0, query.len() as u8], &query[..]].concat()).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        Some(last_address(&answer))
    };
    assert_eq!(ask("old.example").await, Some([127, 77, 3, 80]));
    running.reloader.reload(&config, &certified("new.example")).unwrap();
    assert_eq!(ask("new.example").await, Some([127, 77, 3, 80]));
    assert_eq!(ask("old.example").await, None);
    let problem = running.reloader.reload(&config, &Shared::for_tests("dns")).unwrap_err().to_string();
    assert!(problem.contains("DNS over TLS needs a certificate"), "{problem}");
    assert_eq!(ask("new.example").await, Some([127, 77, 3, 80]));
    running.stop().await;
}

#[test]
fn a_start_with_a_wrong_zone_is_refused_with_its_place() {
    for (zones, want) in [
        (vec![("a..b", "x.zone")], "`a..b`: a label is empty"),
        (vec![("test", "/nowhere/x.zone")], "/nowhere/x.zone: cannot read the zone file"),
    ] {
        let zones = zones.into_iter().map(|(name, file)| ZoneFile {
            name: name.to_owned(),
            file: Some(file.into()),
            ..ZoneFile::default()
        });
        let error = Server::bind(&with(zones.collect()), &Shared::for_tests("dns")).err().unwrap();
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(want), "{error}");
    }
}

/// Two servers that share a directory for DS records, as parent and child do in the lab.
#[tokio::test]
async fn a_zone_is_signed_its_parent_vouches_for_it_and_its_serial_never_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = |zone: &str, state: &str, text: &str| {
        let file = dir.path().join(format!("{zone}.zone"));
        fs::write(&file, format!("$TTL 60\n@ SOA ns root 5 1 1 1 1\n NS ns\nns A 192.0.2.1\n{text}")).unwrap();
        let dnssec = dns::Dnssec::Sign;
        let zone = ZoneFile { name: zone.to_owned(), file: Some(file), dnssec, ..ZoneFile::default() };
        let (state, ds_dir) = (dir.path().join(state), dir.path().join("ds"));
        Config { state, ds_dir, ..with(vec![zone]) }
    };
    let child = config("child.test", "child", "www A 192.0.2.2\n");
    let parent = config("test", "parent", "child NS ns.child\nns.child A 192.0.2.1\n");
    let serial = |answer: &[u8]| u32::from_be_bytes(answer[answer.len() - 20..][..4].try_into().unwrap());

    let running = start(&child);
    assert_eq!(serial(&running.ask("child.test", Type::SOA).await), 5);
    assert_eq!(running.ask("child.test", Type::DNSKEY).await[7], 1);
    // Read again, and nothing has changed: the same zone.
    running.reloader.reload(&child, &Shared::for_tests("dns")).unwrap();
    assert_eq!(serial(&running.ask("child.test", Type::SOA).await), 5);
    // A new name needs no new serial in the file: it is another version all the same.
    let file = child.zones[0].file.as_ref().unwrap();
    fs::write(file, fs::read_to_string(file).unwrap() + "more A 192.0.2.3\n").unwrap();
    running.reloader.reload(&child, &Shared::for_tests("dns")).unwrap();
    assert_eq!(last_address(&running.ask("more.child.test", Type::A).await)[3], 3);
    assert_eq!(serial(&running.ask("child.test", Type::SOA).await), 6);
    running.stop().await;
    // New signatures are another version, which secondaries must see.
    let running = start(&child);
    assert_eq!(serial(&running.ask("child.test", Type::SOA).await), 7);
    let cds = running.ask("child.test", Type::CDS).await;
    running.stop().await;

    let running = start(&parent);
    let ds = running.ask("child.test", Type::DS).await;
    assert_eq!((ds[7], ds.last_chunk::<36>()), (1, cds.last_chunk::<36>()), "DS is what the child said");
    running.stop().await;
}
