//! The local name server in a small Internet of its own: a root, two top-level domains, some zones, and servers that lie.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use dns::{Config, Server, ZoneFile, message::Rcode, name::Name, rdata::Type, record::Message};
use shared::{
    Shared,
    daemon::StartError,
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
const ROOT: &str = "127.9.0.1";
const FR: &str = "127.9.0.2";
const EDU: &str = "127.9.0.3";
const CREPES: &str = "127.9.1.53";
const SCHOOL: &str = "127.9.3.53";
const LIAR: &str = "127.9.6.6";

const ZONES: [(&str, &str, &str); 5] = [
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
         evil NS ns.evil\nns.evil A 127.9.6.6\n",
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
         loop CNAME pool\npool CNAME loop\nbare TXT \"no address\"\n",
    ),
    (SCHOOL, "school.edu", "@ NS ns\nns A 127.9.3.53\nwww A 192.0.2.3\nmany TXT \"0\"\n"),
];

/// A small Internet, and a resolver in it.
struct Internet {
    resolver: SocketAddr,
    port: u16,
    hub: Hub,
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
    fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let many: String = (0..200)
            .fold(String::new(), |zone, n| zone + &format!("many TXT \"a text that makes the set long, {n}\"\n"));
        let (stop, mut tasks, mut port) = (CancellationToken::new(), vec![], 0);
        let extra = ["glueless.fr", "lame.fr"];
        for (address, zone, text) in ZONES {
            let write = |zone: &str, text: &str| {
                let file = dir.path().join(format!("{}.zone", zone.replace('.', "_")));
                fs::write(&file, format!("$TTL 1h\n@ SOA ns.nic.fr. root.nic.fr. 1 1h 15m 1w 5m\n{text}")).unwrap();
                ZoneFile { name: zone.to_owned(), file: Some(file), ..ZoneFile::default() }
            };
            let mut config = config(address, port);
            config.zones.push(write(zone, &format!("{text}{}", if zone == "school.edu" { &*many } else { "" })));
            match address {
                SCHOOL => config.zones.push(write(extra[0], "@ NS ns.school.edu.\nwww A 192.0.2.4\n")),
                CREPES => config.zones.push(write(extra[1], "@ NS ns.crepes.fr.\nwww A 192.0.2.5\n")),
                _ => {}
            }
            let server = Server::bind(&config, &Shared::for_tests("dns")).unwrap();
            port = server.local_addrs()[0].address.port();
            tasks.push(run(server, &stop));
        }
        let hints = dir.path().join("root.hints");
        fs::write(&hints, format!(". 3600 NS a.root.\na.root. 3600 A {ROOT}\n")).unwrap();
        let mut config = config("127.9.2.2", 0);
        config.recurse = true;
        config.hints = Some(hints);
        config.minimise_names = false;
        config.query_ipv6 = false;
        config.peer_port = port;
        change(&mut config);
        let hub = Hub::new(&transcript::Config { ring: 5000, ..transcript::Config::default() }).unwrap();
        let shared = Shared { transcript: hub.transcript("dns", "resolver"), ..Shared::for_tests("dns") };
        let server = Server::bind(&config, &shared).unwrap();
        let resolver = server.local_addrs()[0].address;
        tasks.push(run(server, &stop));
        Self { resolver, port, hub, stop, tasks, _dir: dir }
    }

    async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }

    async fn ask(&self, name: &str, rtype: Type) -> Message {
        self.send(&query(name, rtype, 1)).await
    }

    async fn send(&self, query: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(query, self.resolver).await.unwrap();
        let mut answer = [0; 4096];
        let octets = timeout(Duration::from_secs(20), socket.recv(&mut answer)).await.expect("an answer").unwrap();
        Message::parse(&answer[..octets]).unwrap()
    }

    /// What the resolver said and heard since it was asked last: `C:` and `S:` lines, with who was asked.
    async fn heard(&self) -> Vec<String> {
        let mut subscription = self.hub.subscribe();
        let mut lines = vec![];
        // The ring has all of it already.
        while let Ok(Some(Heard::Event(event))) = timeout(Duration::ZERO, subscription.next()).await {
            if matches!(event.kind, Kind::Client | Kind::Server) {
                lines.push(format!("{} {} {}", event.kind.mark(), event.remote.ip(), event.line));
            }
        }
        lines
    }

    /// How often a server was asked.
    async fn asked(&self, server: &str) -> usize {
        self.heard().await.iter().filter(|line| line.starts_with(&format!("C: {server} "))).count()
    }
}

fn query(name: &str, rtype: Type, recursion_desired: u8) -> Vec<u8> {
    let name: Name = name.parse().unwrap();
    let [high, low] = rtype.0.to_be_bytes();
    let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];
    [&[1, 2, recursion_desired, 0, 0, 1, 0, 0, 0, 0, 0, 1], name.borrow().as_wire(), &[high, low, 0, 1], &opt].concat()
}

/// The addresses in an answer.
fn addresses(message: &Message) -> Vec<String> {
    let addresses = message.answers.iter().filter(|record| record.rtype == Type::A);
    let mut texts: Vec<String> =
        addresses.map(|record| IpAddr::from(*record.rdata.first_chunk::<4>().unwrap()).to_string()).collect();
    texts.sort();
    texts
}

/// The text of the extended error.
fn explanation(message: &Message) -> String {
    let opt = message.additional.iter().find(|record| record.rtype == Type::OPT).unwrap();
    let at = opt.rdata.windows(2).position(|code| code == [0, 15]).map_or(opt.rdata.len(), |at| at + 6);
    String::from_utf8_lossy(&opt.rdata[at..]).into_owned()
}

/// C108: the textbook's figure has eight numbered messages.
#[tokio::test]
async fn a_cold_question_makes_eight_messages() {
    let internet = Internet::start(|_| {});
    let answer = internet.ask("www.school.edu", Type::A).await;
    assert_eq!(addresses(&answer), ["192.0.2.3"]);
    let lines: Vec<String> = internet.heard().await;
    let who: Vec<&str> = lines.iter().map(|line| line.split(' ').take(2).last().unwrap()).collect();
    let client = "127.0.0.1";
    assert_eq!(who, [client, ROOT, ROOT, EDU, EDU, SCHOOL, SCHOOL, client], "{lines:#?}");
    internet.stop().await;
}

/// C113: top-level servers are usually cached, so the root is seldom asked. C120: AA is the authority's, not the cache's.
#[tokio::test]
async fn what_was_told_once_is_not_asked_again() {
    let internet = Internet::start(|_| {});
    let first = internet.ask("www.crepes.fr", Type::A).await;
    assert_eq!((first.header.is_authoritative(), first.answers[0].ttl), (false, 3600));
    let again = internet.ask("WWW.crepes.FR", Type::A).await;
    assert_eq!(addresses(&again), ["192.0.2.1", "192.0.2.2"]);
    assert!(again.answers[0].ttl > 3590);
    internet.ask("ns.crepes.fr", Type::A).await;
    assert_eq!([internet.asked(ROOT).await, internet.asked(FR).await, internet.asked(CREPES).await], [1, 1, 2]);
    internet.stop().await;
}

/// RFC 2308 §5; RFC 8020: below a name that does not exist there is nothing.
#[tokio::test]
async fn what_does_not_exist_is_remembered_too() {
    let internet = Internet::start(|_| {});
    for (name, rtype, rcode) in [
        ("nothing.crepes.fr", Type::A, Rcode::NXDOMAIN),
        ("nothing.crepes.fr", Type::MX, Rcode::NXDOMAIN),
        ("below.nothing.crepes.fr", Type::A, Rcode::NXDOMAIN),
        ("bare.crepes.fr", Type::A, Rcode::NOERROR),
        ("bare.crepes.fr", Type::A, Rcode::NOERROR),
    ] {
        let answer = internet.ask(name, rtype).await;
        assert_eq!((answer.header.rcode(), answer.answers.len()), (rcode, 0), "{name}");
        assert_eq!(answer.authority[0].rtype, Type::SOA, "{name}");
        assert!((295..=300).contains(&answer.authority[0].ttl), "{name}");
    }
    assert_eq!(internet.asked(CREPES).await, 2);
    internet.stop().await;
}

#[tokio::test]
async fn aliases_are_followed_from_zone_to_zone() {
    let internet = Internet::start(|_| {});
    let answer = internet.ask("alias.crepes.fr", Type::A).await;
    let types: Vec<Type> = answer.answers.iter().map(|record| record.rtype).collect();
    assert_eq!((types, addresses(&answer)), (vec![Type::CNAME, Type::A], vec!["192.0.2.3".to_owned()]));
    let answer = internet.ask("www.far.crepes.fr", Type::A).await;
    assert_eq!(addresses(&answer), ["192.0.2.3"]);
    assert_eq!(answer.answers[0].rtype, Type::DNAME);
    let circle = internet.ask("loop.crepes.fr", Type::A).await;
    assert_eq!(circle.header.rcode(), Rcode::SERVFAIL);
    internet.stop().await;
}

#[tokio::test]
async fn a_server_without_glue_is_looked_for() {
    let internet = Internet::start(|_| {});
    assert_eq!(addresses(&internet.ask("www.glueless.fr", Type::A).await), ["192.0.2.4"]);
    internet.stop().await;
}

/// One server refuses, one is not there, and the third knows.
#[tokio::test]
async fn lame_and_dead_servers_are_passed_over() {
    let internet = Internet::start(|_| {});
    assert_eq!(addresses(&internet.ask("www.lame.fr", Type::A).await), ["192.0.2.5"]);
    internet.stop().await;
}

#[tokio::test]
async fn servers_that_wait_for_each_other_end_in_an_error_that_says_so() {
    let internet = Internet::start(|_| {});
    let answer = internet.ask("www.circle.fr", Type::A).await;
    assert_eq!(answer.header.rcode(), Rcode::SERVFAIL);
    assert_eq!(explanation(&answer), "no address of a server of circle.fr. can be found");
    // RFC 9520: for a while nobody is asked again.
    let before = internet.heard().await.len();
    let again = internet.ask("www.circle.fr", Type::A).await;
    assert_eq!((again.header.rcode(), internet.heard().await.len()), (Rcode::SERVFAIL, before + 2));
    internet.stop().await;
}

/// RFC 7766 §5: what is cut off is fetched over TCP; the client here gets TC for the same reason.
#[tokio::test]
async fn a_long_answer_is_fetched_over_tcp() {
    let internet = Internet::start(|_| {});
    let answer = internet.ask("many.school.edu", Type::TXT).await;
    assert!(answer.header.is_truncated());
    assert_eq!(internet.asked(SCHOOL).await, 2, "over UDP, then over TCP");
    internet.stop().await;
}

/// RFC 1034 §4.3.1: without RD nobody is asked. And recursion is for friends.
#[tokio::test]
async fn without_rd_the_cache_answers_and_strangers_are_refused() {
    let internet = Internet::start(|_| {});
    let cold = internet.send(&query("www.crepes.fr", Type::A, 0)).await;
    assert_eq!((cold.header.rcode(), cold.answers.len()), (Rcode::NOERROR, 0));
    assert_eq!(internet.asked(ROOT).await, 0);
    internet.ask("www.crepes.fr", Type::A).await;
    let warm = internet.send(&query("www.crepes.fr", Type::A, 0)).await;
    assert_eq!(addresses(&warm).len(), 2);
    internet.stop().await;

    let internet = Internet::start(|config| config.allow = vec!["192.0.2.0/24".parse().unwrap()]);
    let refused = internet.ask("www.crepes.fr", Type::A).await;
    assert_eq!(refused.header.rcode(), Rcode::REFUSED);
    assert!(explanation(&refused).contains("dns.allow"));
    assert_eq!(internet.asked(ROOT).await, 0);
    internet.stop().await;
}

#[tokio::test]
async fn many_who_ask_the_same_make_one_question() {
    let internet = Internet::start(|_| {});
    let all = async {
        let mut set = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let resolver = internet.resolver;
            set.spawn(async move {
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                socket.send_to(&query("www.school.edu", Type::A, 1), resolver).await.unwrap();
                socket.recv(&mut [0; 4096]).await.unwrap()
            });
        }
        set.join_all().await
    };
    assert_eq!(timeout(Duration::from_secs(20), all).await.unwrap().len(), 50);
    assert_eq!([internet.asked(ROOT).await, internet.asked(EDU).await, internet.asked(SCHOOL).await], [1, 1, 1]);
    internet.stop().await;
}

/// RFC 7766 §6.2.1.1: what takes long does not hold up what is asked behind it on the same connection.
#[tokio::test]
async fn answers_over_tcp_come_when_they_are_there() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |_| vec![]).await;
    let mut stream = tokio::net::TcpStream::connect(internet.resolver).await.unwrap();
    for (id, name) in [(1, "www.evil.fr"), (2, "www.school.edu")] {
        let mut query = query(name, Type::A, 1);
        query[1] = id;
        stream.write_all(&[&(query.len() as u16).to_be_bytes()[..], &query].concat()).await.unwrap();
    }
    let mut ids = vec![];
    for _ in 0..2 {
        let octets = timeout(Duration::from_secs(20), stream.read_u16()).await.expect("an answer").unwrap();
        let mut answer = vec![0; usize::from(octets)];
        stream.read_exact(&mut answer).await.unwrap();
        ids.push(answer[1]);
    }
    assert_eq!(ids, [2, 1]);
    assert!(asked.load(Ordering::SeqCst) > 0);
    internet.stop().await;
}

/// RFC 9156: a server learns no more of the name than it needs.
#[tokio::test]
async fn names_are_shown_label_by_label() {
    let internet = Internet::start(|config| config.minimise_names = true);
    assert_eq!(addresses(&internet.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    let heard = internet.heard().await;
    for want in
        [format!("C: {ROOT} edu. A?"), format!("C: {EDU} school.edu. A?"), format!("C: {SCHOOL} www.school.edu. A?")]
    {
        assert!(heard.contains(&want), "{want} in {heard:#?}");
    }
    let nothing = internet.ask("a.b.c.nothing.crepes.fr", Type::A).await;
    assert_eq!(nothing.header.rcode(), Rcode::NXDOMAIN);
    internet.stop().await;
}

/// A server that lies: what it says to a question is up to the test. Counts how often it is asked.
async fn liar(port: u16, says: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Arc<AtomicUsize> {
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
fn reply(query: &[u8], counts: [u8; 3], records: &[(&str, Type, Vec<u8>)]) -> Vec<u8> {
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

/// C127: forged answers with another id, or the name in another case, are passed over and counted.
#[tokio::test]
async fn forged_answers_are_passed_over() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| {
        let forged = reply(query, [1, 0, 0], &[("www.evil.fr", Type::A, vec![6, 6, 6, 6])]);
        let (mut other_id, mut other_case) = (forged.clone(), forged);
        other_id[0] ^= 1;
        // One letter of the name.
        other_case[13] ^= 0x20;
        vec![
            other_id,
            other_case,
            vec![],
            vec![0; 11],
            reply(query, [1, 0, 0], &[("www.evil.fr", Type::A, vec![192, 0, 2, 9])]),
        ]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    internet.stop().await;
}

/// What a server says about names that are not its own is as if it were not there.
#[tokio::test]
async fn nobody_is_believed_about_the_zones_of_others() {
    let internet = Internet::start(|_| {});
    let wire = |name: &str| name.parse::<Name>().unwrap().borrow().as_wire().to_vec();
    liar(internet.port, move |query| {
        let records = [
            ("www.evil.fr", Type::A, vec![192, 0, 2, 9]),
            ("school.edu", Type::NS, wire("ns.evil.fr")),
            ("fr", Type::NS, wire("ns.evil.fr")),
            ("www.school.edu", Type::A, vec![6, 6, 6, 6]),
            ("ns.school.edu", Type::A, vec![127, 9, 6, 6]),
        ];
        vec![reply(query, [1, 2, 2], &records)]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!(addresses(&internet.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    assert_eq!(addresses(&internet.ask("www.crepes.fr", Type::A).await).len(), 2);
    internet.stop().await;
}

/// CVE-2020-8616: a referral to many servers whose addresses must all be looked for makes us attack somebody else.
#[tokio::test]
async fn a_referral_to_many_servers_makes_little_work() {
    let internet = Internet::start(|_| {});
    let names: Vec<String> = (0..25).map(|n| format!("ns{n}.victim.edu")).collect();
    let asked = liar(internet.port, move |query| {
        let servers = names
            .iter()
            .map(|name| ("sub.evil.fr", Type::NS, name.parse::<Name>().unwrap().borrow().as_wire().to_vec()));
        let mut answer = reply(query, [0, 25, 0], &servers.collect::<Vec<_>>());
        answer[2] = 0x80;
        vec![answer]
    })
    .await;
    let answer = internet.ask("www.sub.evil.fr", Type::A).await;
    assert_eq!(answer.header.rcode(), Rcode::SERVFAIL);
    assert_eq!(
        explanation(&answer),
        "the question makes too much work: too many servers whose addresses must be looked for"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert!(internet.asked(EDU).await <= 12, "{}", internet.asked(EDU).await);
    internet.stop().await;
}

/// A zone whose only server is silent: the client is told why, in time.
#[tokio::test]
async fn silence_is_told_as_such() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |_| vec![]).await;
    let answer = internet.ask("www.evil.fr", Type::A).await;
    assert_eq!(answer.header.rcode(), Rcode::SERVFAIL);
    assert!(
        explanation(&answer).starts_with("no server of evil.fr. gives a useful answer (no answer in"),
        "{answer:?}"
    );
    assert!((2..=8).contains(&asked.load(Ordering::SeqCst)));
    internet.stop().await;
}
