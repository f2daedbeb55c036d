//! A root, two top-level domains, some zones, servers that lie, and a resolver among them.

use dns::{Config, Dnssec, Server, ZoneFile, name::Name, rdata::Type, record::Message};
use shared::{
    Shared,
    daemon::StartError,
    metrics::Registers,
    transcript::{self, Heard, Hub, Kind},
};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::UdpSocket, time::timeout};
use tokio_util::sync::CancellationToken;

/// Where the servers are; all use the port that was free for the first of them.
pub(crate) const ROOT: &str = "127.9.0.1";
pub(crate) const FR: &str = "127.9.0.2";
pub(crate) const EDU: &str = "127.9.0.3";
pub(crate) const CREPES: &str = "127.9.1.53";
pub(crate) const SCHOOL: &str = "127.9.3.53";
pub(crate) const LIAR: &str = "127.9.6.6";
/// Has the zones that the liar is a server of too, and says what they say.
pub(crate) const HONEST: &str = "127.9.6.53";

const ZONES: [(&str, &str, &str); 11] = [
    (
        ROOT,
        ".",
        "@ NS a.root.\na.root. A 127.9.0.1\nfr. NS ns.nic.fr.\nns.nic.fr. A 127.9.0.2\nedu. NS ns.nic.edu.\nns.nic.edu. A 127.9.0.3\n",
    ),
    (
        FR,
        "fr",
        "@ NS ns.nic\nns.nic A 127.9.0.2\ncrepes NS ns.crepes\nns.crepes A 127.9.1.53\n\
         ; Its server's address is in the other top-level domain.\nglueless NS ns.school.edu.\n\
         ; The first does not serve it, the second is not there.\nlame NS ns.nic\nlame NS dead\nlame NS ns.crepes\ndead A 127.9.9.9\n\
         ; Each waits for the other.\ncircle NS ns.circle2.edu.\n\
         evil NS ns.evil\nns.evil A 127.9.6.6\n\
         twofaced NS ns.evil\ntwofaced NS ns.honest\nns.honest A 127.9.6.53\n",
    ),
    (
        EDU,
        "edu",
        "@ NS ns.nic\nns.nic A 127.9.0.3\nschool NS ns.school\nns.school A 127.9.3.53\ncircle2 NS ns.circle.fr.\n",
    ),
    (
        CREPES,
        "crepes.fr",
        "@ NS ns\nns A 127.9.1.53\nwww A 192.0.2.1\nwww A 192.0.2.2\nalias CNAME www.school.edu.\nfar DNAME school.edu.\n\
         loop CNAME pool\npool CNAME loop\nround CNAME round.school.edu.\nring DNAME ring.school.edu.\ninto CNAME round\nbare TXT \"no address\"\n\
         ds CNAME @\n",
    ),
    (
        SCHOOL,
        "school.edu",
        "@ NS ns\nns A 127.9.3.53\nwww A 192.0.2.3\nmany TXT \"0\"\nround CNAME round.crepes.fr.\nring DNAME ring.crepes.fr.\n\
         into CNAME www.corp.\ndeep CNAME a.wild.corp.\nbelow CNAME www.sub.corp.\nlost CNAME nothing.corp.\n",
    ),
    // Only who has `corp` knows that it is here.
    (SCHOOL, "sub.corp", "@ NS ns\nns A 127.9.3.53\nwww A 192.0.2.8\n"),
    (SCHOOL, "glueless.fr", "@ NS ns.school.edu.\nwww A 192.0.2.4\n"),
    (CREPES, "lame.fr", "@ NS ns.crepes.fr.\nwww A 192.0.2.5\n"),
    (HONEST, "evil.fr", EVIL),
    (HONEST, "twofaced.fr", EVIL),
    (HONEST, "sub.evil.fr", EVIL),
];
const EVIL: &str = "@ NS ns.evil.fr.\nns A 127.9.6.6\nwww A 192.0.2.9\n*.wild A 192.0.2.10\nalias CNAME www\nfar DNAME school.edu.\n\
     near DNAME @\n*.lost CNAME nothing.crepes.fr.\nsub NS ns\n";

/// Which zones are signed, if any are; edu and what is below it never are.
const SIGNED: [&str; 6] = [".", "fr", "crepes.fr", "evil.fr", "twofaced.fr", "sub.evil.fr"];

/// A small Internet, and a resolver in it.
pub(crate) struct Internet {
    pub(crate) resolver: SocketAddr,
    pub(crate) port: u16,
    hub: Hub,
    registers: Registers,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<Result<(), StartError>>>,
    _dir: tempfile::TempDir,
}

fn config(address: &str, port: u16) -> Config {
    Config { listen: vec![SocketAddr::new(address.parse().unwrap(), port)], rate: 0, ..Config::default() }
}

#[expect(clippy::disallowed_methods, reason = "the test waits for its tasks itself")]
fn run(server: Server, stop: &CancellationToken) -> tokio::task::JoinHandle<Result<(), StartError>> {
    tokio::spawn(server.run(stop.clone()))
}

impl Internet {
    /// Nothing is signed.
    pub(crate) fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(&[], |_| {}, change)
    }

    /// Some zones are signed, and the resolver trusts the root's key.
    pub(crate) fn signed(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(&SIGNED, |_| {}, change)
    }

    /// The servers too are as `servers` wants them; those that recurse know the root.
    pub(crate) fn with_servers(servers: impl Fn(&mut Config), change: impl FnOnce(&mut Config)) -> Self {
        Self::with(&[], servers, change)
    }

    /// Both.
    pub(crate) fn signed_with_servers(servers: impl Fn(&mut Config), change: impl FnOnce(&mut Config)) -> Self {
        Self::with(&SIGNED, servers, change)
    }

    fn with(signed: &[&str], servers: impl Fn(&mut Config), change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let many: String = (0..200)
            .fold(String::new(), |zone, n| zone + &format!("many TXT \"a text that makes the set long, {n}\"\n"));
        let (stop, mut tasks) = (CancellationToken::new(), vec![]);
        let (state, ds_dir) = (dir.path().join("state"), dir.path().join("ds"));
        let mut configs: Vec<Config> = vec![];
        for (address, zone, text) in ZONES {
            let file = dir.path().join(format!("{}.zone", zone.replace('.', "_")));
            let more = if zone == "school.edu" { &*many } else { "" };
            fs::write(&file, format!("$TTL 1h\n@ SOA ns.nic.fr. root.nic.fr. 1 1h 15m 1w 5m\n{text}{more}")).unwrap();
            let dnssec = if signed.contains(&zone) { Dnssec::Sign } else { Dnssec::AsIs };
            let zone = ZoneFile { name: zone.to_owned(), file: Some(file), dnssec, ..ZoneFile::default() };
            let known = configs.iter_mut().find(|config| config.listen[0].ip() == address.parse::<IpAddr>().unwrap());
            match known {
                Some(config) => config.zones.push(zone),
                None => configs.push(Config {
                    zones: vec![zone],
                    state: state.clone(),
                    ds_dir: ds_dir.clone(),
                    ..config(address, 0)
                }),
            }
        }
        // All keys come before the first zone: a parent signs what it says about its children's.
        for config in &configs {
            dns::make_keys(config).unwrap();
        }
        let hints = dir.path().join("root.hints");
        fs::write(&hints, format!(". 3600 NS a.root.\na.root. 3600 A {ROOT}\n")).unwrap();
        let hub = Hub::new(&transcript::Config { ring: 5000, ..transcript::Config::default() }).unwrap();
        let registers = Registers::default();
        let shared = |host: &str| Shared {
            transcript: hub.transcript("dns", host),
            metrics: registers.of("dns", host),
            ..Shared::for_tests("dns")
        };
        let mut port = 0;
        // The last ones ask nobody: the port that is free for the first of them is not known to it yet.
        for config in configs.iter_mut().rev() {
            config.listen[0].set_port(port);
            servers(config);
            if config.recurse {
                (config.peer_port, config.hints) = (port, Some(hints.clone()));
                (config.query_ipv6, config.minimise_names) = (false, false);
            }
            let server = Server::bind(config, &shared(&config.listen[0].ip().to_string())).unwrap();
            port = server.local_addrs()[0].address.port();
            tasks.push(run(server, &stop));
        }
        let mut config = config("127.9.2.2", 0);
        config.recurse = true;
        config.hints = Some(hints.clone());
        config.minimise_names = false;
        config.query_ipv6 = false;
        config.peer_port = port;
        config.trust_anchors = (!signed.is_empty()).then(|| ds_dir.join("root.ds"));
        change(&mut config);
        let server = Server::bind(&config, &shared("resolver")).unwrap();
        let resolver = server.local_addrs()[0].address;
        tasks.push(run(server, &stop));
        Self { resolver, port, hub, registers, stop, tasks, _dir: dir }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }

    pub(crate) async fn ask(&self, name: &str, rtype: Type) -> Message {
        self.send(&query(name, rtype, 1)).await
    }

    pub(crate) async fn send(&self, query: &[u8]) -> Message {
        self.send_to(self.resolver, query).await
    }

    pub(crate) async fn send_to(&self, server: SocketAddr, query: &[u8]) -> Message {
        Self::exchange("127.0.0.1", server, query).await
    }

    /// As a client at another address.
    pub(crate) async fn send_from(&self, client: &str, query: &[u8]) -> Message {
        Self::exchange(client, self.resolver, query).await
    }

    async fn exchange(client: &str, server: SocketAddr, query: &[u8]) -> Message {
        let socket = UdpSocket::bind((client, 0)).await.unwrap();
        socket.send_to(query, server).await.unwrap();
        let mut answer = [0; 4096];
        let octets = timeout(Duration::from_secs(20), socket.recv(&mut answer)).await.expect("an answer").unwrap();
        Message::parse(&answer[..octets]).unwrap()
    }

    /// All at the same time.
    pub(crate) async fn send_all(&self, queries: Vec<Vec<u8>>) -> Vec<Message> {
        let mut set = tokio::task::JoinSet::new();
        for query in queries {
            let resolver = self.resolver;
            set.spawn(async move {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.send_to(&query, resolver).await.unwrap();
                let mut answer = [0; 4096];
                let octets = socket.recv(&mut answer).await.unwrap();
                Message::parse(&answer[..octets]).unwrap()
            });
        }
        timeout(Duration::from_secs(20), set.join_all()).await.expect("answers")
    }

    /// What the resolver said and heard since it was asked last: `C:` and `S:` lines, with who was asked.
    pub(crate) async fn heard(&self) -> Vec<String> {
        self.heard_by("resolver").await
    }

    /// The same of any server, by its address.
    pub(crate) async fn heard_by(&self, host: &str) -> Vec<String> {
        let mut subscription = self.hub.subscribe();
        let mut lines = vec![];
        // The ring has all of it already.
        while let Ok(Some(Heard::Event(event))) = timeout(Duration::ZERO, subscription.next()).await {
            if *event.host == *host && matches!(event.kind, Kind::Client | Kind::Server) {
                lines.push(format!("{} {} {}", event.kind.mark(), event.remote.ip(), event.line));
            }
        }
        lines
    }

    /// What the resolver's counter says: `upstream_forged{wrong="id"}`.
    pub(crate) fn counted(&self, what: &str) -> u64 {
        let (name, label) =
            what.split_once('{').map_or((what, ""), |(name, label)| (name, label.trim_end_matches('}')));
        let text = self.registers.text();
        let is_it = |line: &&str| {
            line.starts_with(&format!("tomte_dns_{name}_total{{"))
                && line.contains("host=\"resolver\"")
                && line.contains(label)
        };
        let values = text.lines().filter(is_it).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        values.sum()
    }

    /// How often a server was asked.
    pub(crate) async fn asked(&self, server: &str) -> usize {
        self.heard().await.iter().filter(|line| line.starts_with(&format!("C: {server} "))).count()
    }
}

pub(crate) fn query(name: &str, rtype: Type, recursion_desired: u8) -> Vec<u8> {
    let name: Name = name.parse().unwrap();
    let [high, low] = rtype.0.to_be_bytes();
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    [&[1, 2, recursion_desired, 0, 0, 1, 0, 0, 0, 0, 0, 1], name.borrow().as_wire(), &[high, low, 0, 1], &opt].concat()
}

/// With DO, and with flags in the fourth octet: AD is 0x20, CD is 0x10.
pub(crate) fn query_with(name: &str, rtype: Type, flags: u8) -> Vec<u8> {
    let mut query = query(name, rtype, 1);
    query[3] = flags;
    let octets = query.len();
    query[octets - 4] = 0x80;
    query
}

/// The addresses in an answer.
pub(crate) fn addresses(message: &Message) -> Vec<String> {
    let addresses = message.answers.iter().filter(|record| record.rtype == Type::A);
    let mut texts: Vec<String> =
        addresses.map(|record| IpAddr::from(*record.rdata.first_chunk::<4>().unwrap()).to_string()).collect();
    texts.sort();
    texts
}

/// The code of the extended error.
pub(crate) fn explained(message: &Message) -> Option<u16> {
    let opt = message.additional.iter().find(|record| record.rtype == Type::OPT).unwrap();
    let at = opt.rdata.windows(2).position(|code| code == [0, 15])?;
    Some(u16::from_be_bytes([opt.rdata[at + 4], opt.rdata[at + 5]]))
}

/// The text of the extended error.
pub(crate) fn explanation(message: &Message) -> String {
    let opt = message.additional.iter().find(|record| record.rtype == Type::OPT).unwrap();
    let at = opt.rdata.windows(2).position(|code| code == [0, 15]).map_or(opt.rdata.len(), |at| at + 6);
    String::from_utf8_lossy(&opt.rdata[at..]).into_owned()
}

/// A server that lies: what it says to a question is up to the test. Counts how often it is asked.
pub(crate) async fn liar(port: u16, says: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind((LIAR, port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((octets, peer)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            for answer in says(&buffer[..octets]) {
                socket.send_to(&answer, peer).await.unwrap();
            }
        }
    });
    asked
}

/// The question, answered with AA and records: owner, type, data.
pub(crate) fn reply(query: &[u8], counts: [u8; 3], records: &[(&str, Type, Vec<u8>)]) -> Vec<u8> {
    let question = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    let mut answer = query[..question].to_vec();
    (answer[2], answer[3]) = (0x84, 0);
    (answer[7], answer[9], answer[11]) = (counts[0], counts[1], counts[2]);
    for (owner, rtype, rdata) in records {
        answer.extend(owner.parse::<Name>().unwrap().borrow().as_wire());
        answer.extend(rtype.0.to_be_bytes());
        answer.extend([0, 1, 0, 0, 14, 16]);
        answer.extend((rdata.len() as u16).to_be_bytes());
        answer.extend(rdata);
    }
    answer
}

/// Between the resolver and the honest server: what that says may be changed on the way. Counts how often it is asked.
pub(crate) async fn middleman(port: u16, changes: impl Fn(&mut Message) + Send + 'static) -> Arc<AtomicUsize> {
    let socket = UdpSocket::bind((LIAR, port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((octets, peer)) = socket.recv_from(&mut buffer).await {
            count.fetch_add(1, Ordering::SeqCst);
            let behind = UdpSocket::bind((LIAR, 0)).await.unwrap();
            behind.send_to(&buffer[..octets], (HONEST, port)).await.unwrap();
            let octets = behind.recv(&mut buffer).await.unwrap();
            let mut message = Message::parse(&buffer[..octets]).unwrap();
            changes(&mut message);
            socket.send_to(&encode(&buffer[..4], &message), peer).await.unwrap();
        }
    });
    asked
}

/// A message without compression; id and flags are given.
pub(crate) fn encode(head: &[u8], message: &Message) -> Vec<u8> {
    let mut octets = head.to_vec();
    let sections = [&message.answers, &message.authority, &message.additional];
    octets.extend((message.questions.len() as u16).to_be_bytes());
    for section in sections {
        octets.extend((section.len() as u16).to_be_bytes());
    }
    for (name, rtype, class) in &message.questions {
        octets.extend(name.borrow().as_wire());
        octets.extend(rtype.0.to_be_bytes());
        octets.extend(class.0.to_be_bytes());
    }
    for record in sections.into_iter().flatten() {
        octets.extend(record.owner.borrow().as_wire());
        octets.extend(record.rtype.0.to_be_bytes());
        octets.extend(record.class.0.to_be_bytes());
        octets.extend(record.ttl.to_be_bytes());
        octets.extend((record.rdata.len() as u16).to_be_bytes());
        octets.extend(&record.rdata);
    }
    octets
}
