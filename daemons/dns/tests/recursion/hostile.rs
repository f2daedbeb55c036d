//! Servers that mean harm, or do it: what each can make us do has a bound, is counted, and is told to the client.

use super::internet::{
    CREPES, EDU, Internet, LIAR, SCHOOL, addresses, explained, explanation, liar, middleman, query, query_with, reply,
};
use dns::{message::Rcode, name::Name, rdata::Type};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const TRUTH: [u8; 4] = [192, 0, 2, 9];

fn wire(name: &str) -> Vec<u8> {
    name.parse::<Name>().unwrap().borrow().as_wire().to_vec()
}

fn truth(query: &[u8]) -> Vec<u8> {
    reply(query, [1, 0, 0], &[("www.evil.fr", Type::A, TRUTH.to_vec())])
}

/// The same server over TCP.
pub(crate) async fn liar_over_tcp(port: u16, says: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind((LIAR, port)).await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let Ok(octets) = stream.read_u16().await else { continue };
            let mut query = vec![0; usize::from(octets)];
            if stream.read_exact(&mut query).await.is_err() {
                continue;
            }
            count.fetch_add(1, Ordering::SeqCst);
            let answer = says(&query);
            // Who has heard enough does not listen to the end.
            let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat()).await;
        }
    });
    asked
}

/// Who guesses ids as fast as he can drives us to TCP, where nobody can guess.
#[tokio::test]
async fn a_flood_of_wrong_answers_ends_at_tcp() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| {
        let mut wrong = truth(query);
        wrong[0] ^= 1;
        vec![wrong; 100]
    })
    .await;
    let over_tcp = liar_over_tcp(internet.port, truth).await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!((asked.load(Ordering::SeqCst), over_tcp.load(Ordering::SeqCst)), (1, 1));
    assert_eq!(internet.counted("upstream_forged{wrong=\"id\"}"), 64);
    assert_eq!(internet.counted("upstream_forged{wrong=\"flood\"}"), 1);
    internet.stop().await;
}

/// Each kind of wrong answer is counted as what it is, and the right one behind them is taken.
#[tokio::test]
async fn what_does_not_fit_is_counted_by_what_is_wrong() {
    let internet = Internet::start(|_| {});
    liar(internet.port, |query| {
        let (mut id, mut case, mut rtype, mut question) = (truth(query), truth(query), truth(query), truth(query));
        id[1] ^= 1;
        case[13] ^= 0x20;
        rtype[12 + "\x03www\x04evil\x02fr\0".len() + 1] = 28;
        question[2] = 0;
        vec![id, case, rtype, question, truth(query)]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    for (wrong, count) in [("id", 1), ("question", 2), ("no answer", 1), ("flood", 0)] {
        assert_eq!(internet.counted(&format!("upstream_forged{{wrong=\"{wrong}\"}}")), count, "{wrong}");
    }
    internet.stop().await;
}

/// What is not about the server's own zone is passed over, and counted.
#[tokio::test]
async fn records_out_of_bailiwick_are_counted() {
    let internet = Internet::start(|_| {});
    liar(internet.port, |query| {
        let records = [
            ("www.evil.fr", Type::A, TRUTH.to_vec()),
            ("school.edu", Type::NS, wire("ns.evil.fr")),
            ("ns.school.edu", Type::A, vec![127, 9, 6, 6]),
        ];
        vec![reply(query, [1, 1, 1], &records)]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!(internet.counted("upstream_foreign_records"), 2);
    assert_eq!(addresses(&internet.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    internet.stop().await;
}

/// An answer that comes when we have asked again finds nobody: its port is gone.
#[tokio::test]
async fn a_late_answer_finds_nobody() {
    let internet = Internet::start(|_| {});
    let socket = tokio::net::UdpSocket::bind((LIAR, internet.port)).await.unwrap();
    let server = async {
        let (mut first, mut second) = ([0; 512], [0; 512]);
        let (octets, peer) = socket.recv_from(&mut first).await.unwrap();
        let late = reply(&first[..octets], [1, 0, 0], &[("www.evil.fr", Type::A, vec![6, 6, 6, 6])]);
        let (octets, again) = socket.recv_from(&mut second).await.unwrap();
        assert_ne!(peer, again, "each question has a port of its own");
        socket.send_to(&late, peer).await.unwrap();
        let _ = socket.send_to(&truth(&second[..octets]), again).await;
    };
    let (answer, ()) = tokio::join!(internet.ask("www.evil.fr", Type::A), server);
    assert_eq!(addresses(&answer), ["192.0.2.9"]);
    assert_eq!(internet.counted("upstream_timeouts"), 1);
    internet.stop().await;
}

/// What each does to the client: SERVFAIL and why, after so many questions at most.
#[tokio::test]
async fn useless_servers_are_given_up_and_the_client_is_told_why() {
    type Says = fn(&[u8]) -> Vec<Vec<u8>>;
    let cases: [(&str, Says, &str); 6] = [
        (
            "no server of evil.fr. gives a useful answer (the answer is malformed: ",
            |query| {
                let mut cut = truth(query);
                cut.truncate(cut.len() - 2);
                vec![cut]
            },
            "upstream_malformed",
        ),
        (
            "no server of evil.fr. gives a useful answer (it says REFUSED)",
            |query| {
                let mut refusal = reply(query, [0, 0, 0], &[]);
                refusal[3] = 5;
                vec![refusal]
            },
            "upstream_useless",
        ),
        (
            "no server of evil.fr. gives a useful answer (it refers to where we come from (lame))",
            |query| {
                let mut up = reply(query, [0, 1, 0], &[("fr", Type::NS, wire("ns.nic.fr"))]);
                up[2] = 0x80;
                vec![up]
            },
            "upstream_useless",
        ),
        // In a circle: the zone refers to itself.
        (
            "no server of evil.fr. gives a useful answer (it refers to where we come from (lame))",
            |query| {
                let mut circle = reply(query, [0, 1, 0], &[("evil.fr", Type::NS, wire("ns.evil.fr"))]);
                circle[2] = 0x80;
                vec![circle]
            },
            "upstream_useless",
        ),
        // Cut off over UDP, and nobody is there over TCP.
        (
            "no server of evil.fr. gives a useful answer (Connection refused",
            |query| {
                let mut cut = reply(query, [0, 0, 0], &[]);
                cut[2] |= 2;
                vec![cut]
            },
            "upstream_queries{transport=\"tcp\"}",
        ),
        // Silence.
        ("no server of evil.fr. gives a useful answer (no answer in", |_| vec![], "upstream_timeouts"),
    ];
    for (because, says, counter) in cases {
        let internet = Internet::start(|_| {});
        let asked = liar(internet.port, says).await;
        let answer = internet.ask("www.evil.fr", Type::A).await;
        assert_eq!((answer.header.rcode(), explained(&answer)), (Rcode::SERVFAIL, Some(22)), "{because}");
        assert!(explanation(&answer).starts_with(because), "{} instead of {because}", explanation(&answer));
        assert!(internet.counted(counter) >= 1, "{because}: {counter}");
        assert!((1..=8).contains(&asked.load(Ordering::SeqCst)), "{because}: asked {asked:?} times");
        internet.stop().await;
    }
}

/// Each alias leads to the next, and each is asked for.
#[tokio::test]
async fn aliases_that_do_not_end_are_given_up() {
    let internet = Internet::start(|_| {});
    let number = AtomicUsize::new(0);
    let asked = liar(internet.port, move |query| {
        let (owner, _) = dns::message::read_name(query, 12).unwrap();
        let next = wire(&format!("n{}.evil.fr", number.fetch_add(1, Ordering::SeqCst)));
        vec![reply(query, [1, 0, 0], &[(&owner.to_string(), Type::CNAME, next)])]
    })
    .await;
    let answer = internet.ask("www.evil.fr", Type::A).await;
    assert_eq!(explanation(&answer), "the question makes too much work: the aliases do not end");
    assert!(asked.load(Ordering::SeqCst) <= 17);
    assert_eq!(internet.counted("recursion_limits{limit=\"aliases\"}"), 1);
    internet.stop().await;
}

/// RFC 1034 §3.6.2: "CNAME loops [should be] signalled as an error". It is the zone's, and no fault of its server.
#[tokio::test]
async fn aliases_in_a_circle_are_told_as_soon_as_a_name_comes_twice() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| {
        let records =
            [("www.evil.fr", Type::CNAME, wire("a.evil.fr")), ("a.evil.fr", Type::CNAME, wire("www.evil.fr"))];
        vec![reply(query, [2, 0, 0], &records)]
    })
    .await;
    for (name, circle) in [
        // In one message, from somebody else and from an authority of ours.
        ("www.evil.fr", "www.evil.fr"),
        ("loop.crepes.fr", "loop.crepes.fr"),
        // From zone to zone and back, by CNAME and by DNAME.
        ("round.crepes.fr", "round.crepes.fr"),
        ("x.ring.crepes.fr", "x.ring.crepes.fr"),
        ("into.crepes.fr", "round.school.edu"),
    ] {
        let before = internet.counted("recursion_limits{limit=\"circle\"}");
        let answer = internet.ask(name, Type::A).await;
        assert_eq!((answer.header.rcode(), explained(&answer)), (Rcode::SERVFAIL, Some(0)), "{name}");
        assert_eq!(explanation(&answer), format!("the aliases lead in a circle: {circle}. leads back to itself"));
        assert_eq!(internet.counted("recursion_limits{limit=\"circle\"}"), before + 1, "{name}");
    }
    assert_eq!((asked.load(Ordering::SeqCst), internet.counted("upstream_useless")), (1, 0));
    // `round`, `x.ring` and what they lead to were asked for once each.
    let cold = internet.heard().await;
    assert_eq!([internet.asked(CREPES).await, internet.asked(SCHOOL).await], [4, 2], "{cold:#?}");
    // The cache knows the circle, wherever one gets into it.
    for name in ["a.evil.fr", "pool.crepes.fr", "round.school.edu", "x.ring.school.edu"] {
        let answer = internet.ask(name, Type::A).await;
        assert_eq!(explanation(&answer), format!("the aliases lead in a circle: {name}. leads back to itself"));
    }
    assert_eq!(internet.heard().await.len(), cold.len() + 4 * 2, "nobody is asked again");
    internet.stop().await;
}

/// CVE-2022-3204: a referral to a thousand servers none of which answers.
#[tokio::test]
async fn a_referral_to_a_thousand_servers_makes_little_work() {
    let internet = Internet::start(|_| {});
    liar(internet.port, |query| {
        let mut cut = reply(query, [0, 0, 0], &[]);
        cut[2] |= 2;
        vec![cut]
    })
    .await;
    let names: Vec<String> = (0..900).map(|n| format!("ns{n}.victim.edu")).collect();
    liar_over_tcp(internet.port, move |query| {
        let servers: Vec<_> = names.iter().map(|name| ("sub.evil.fr", Type::NS, wire(name))).collect();
        let mut answer = reply(query, [0, 0, 0], &servers);
        answer[2] = 0x80;
        answer[8..10].copy_from_slice(&900_u16.to_be_bytes());
        answer
    })
    .await;
    let answer = internet.ask("www.sub.evil.fr", Type::A).await;
    assert_eq!(
        explanation(&answer),
        "the question makes too much work: too many servers whose addresses must be looked for"
    );
    assert_eq!(internet.counted("recursion_limits{limit=\"server names\"}"), 1);
    assert!(internet.asked(EDU).await <= 12, "{}", internet.asked(EDU).await);
    internet.stop().await;
}

/// More records than it takes to answer anything.
#[tokio::test]
async fn an_answer_with_thousands_of_records_is_no_answer() {
    let internet = Internet::start(|_| {});
    liar(internet.port, |query| {
        let mut cut = reply(query, [0, 0, 0], &[]);
        cut[2] |= 2;
        vec![cut]
    })
    .await;
    liar_over_tcp(internet.port, move |query| {
        let records: Vec<_> =
            (0..2000_u16).map(|n| ("www.evil.fr", Type::A, [&[192, 0][..], &n.to_be_bytes()].concat())).collect();
        let mut answer = reply(query, [0, 0, 0], &records);
        answer[6..8].copy_from_slice(&2000_u16.to_be_bytes());
        answer
    })
    .await;
    let answer = internet.ask("www.evil.fr", Type::A).await;
    assert_eq!(explanation(&answer), "no server of evil.fr. gives a useful answer (more records than anybody needs)");
    internet.stop().await;
}

/// `KeyTrap` (CVE-2023-50387): many signatures that look as if they could be right.
#[tokio::test]
async fn many_wrong_signatures_are_too_much_work() {
    let internet = Internet::signed(|_| {});
    middleman(internet.port, |message| {
        if message.question().is_some_and(|(_, rtype, _)| *rtype == Type::A) {
            let rrsig = message.answers.iter().find(|record| record.rtype == Type::RRSIG).cloned();
            message.answers.retain(|record| record.rtype != Type::RRSIG);
            for (rrsig, n) in rrsig.iter().flat_map(|rrsig| (1..=9_u8).map(move |n| (rrsig, n))) {
                let mut wrong = rrsig.clone();
                wrong.rdata[60] ^= n;
                message.answers.push(wrong);
            }
        }
    })
    .await;
    let answer = internet.send(&query_with("www.evil.fr", Type::A, 0)).await;
    assert_eq!((answer.header.rcode(), explained(&answer)), (Rcode::SERVFAIL, Some(6)));
    assert_eq!(explanation(&answer), "www.evil.fr. A: more signatures or hashes than anybody needs");
    assert_eq!(internet.counted("validation{result=\"too much work\"}"), 1);
    // Nobody else's question suffers: the zone's keys are as good as before.
    let keys = internet.send(&query_with("evil.fr", Type::DNSKEY, 0)).await;
    assert!(keys.header.authentic_data());
    internet.stop().await;
}

/// RFC 9520 §3.1: nobody is asked again and again because many want to know.
#[tokio::test]
async fn what_the_client_asks_twice_is_not_asked_twice_of_a_dead_server() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |_| vec![]).await;
    let all = internet.send_all((0..30).map(|_| query("www.evil.fr", Type::A, 1)).collect()).await;
    assert!(all.iter().all(|answer| answer.header.rcode() == Rcode::SERVFAIL));
    assert!(asked.load(Ordering::SeqCst) <= 8, "{asked:?}");
    internet.stop().await;
}
