//! The local name server in a small Internet of its own: a root, two top-level domains, some zones, and servers that lie.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod cookies;
mod hostile;
mod internet;
mod lessons;
mod own;
mod validation;

use dns::{message::Rcode, name::Name, rdata::Type, resolver::prime::Prime};
use internet::{
    CREPES, EDU, FR, HONEST, Internet, LIAR, ROOT, SCHOOL, addresses, explained, explanation, liar, query, reply,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{net::UdpSocket, time::timeout};

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

/// RFC 9609 §2: hints are old. They are asked who the root's servers are, and for nothing more once that is known.
#[tokio::test]
async fn the_hints_are_asked_who_the_root_is_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let hints = dir.path().join("old.hints");
    std::fs::write(&hints, format!(". 3600 NS old.root.\nold.root. 3600 A {LIAR}\n")).unwrap();
    let internet = Internet::start(|config| (config.hints, config.prime) = (Some(hints), Prime::Always));
    // It may come too late for the first try, which is done again.
    let asked = liar(internet.port, |query| {
        let mut answer = reply(query, [0, 0, 0], &[]);
        answer[3] = 5;
        if query[12..].starts_with(&[0, 0, 2]) {
            let server: Name = "a.root".parse().unwrap();
            let records = [
                (".", Type::NS, server.borrow().as_wire().to_vec()),
                ("a.root", Type::A, ROOT.parse::<Ipv4Addr>().unwrap().octets().to_vec()),
            ];
            answer = reply(query, [1, 0, 1], &records);
        }
        vec![answer]
    })
    .await;
    let primed = async {
        while internet.send(&query(".", Type::NS, 0)).await.answers.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), primed).await.unwrap();
    assert_eq!(addresses(&internet.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    assert_eq!((asked.load(Ordering::SeqCst), internet.asked(ROOT).await), (1, 1));
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

/// RFC 8482 §4.1; an alias is one of the sets too.
#[tokio::test]
async fn any_gets_one_of_the_sets() {
    for internet in [Internet::start(|_| {}), Internet::signed(|_| {})] {
        for (name, known) in [
            ("www.crepes.fr", Some(Type::A)),
            ("alias.crepes.fr", Some(Type::CNAME)),
            ("bare.crepes.fr", Some(Type::TXT)),
            ("www.crepes.fr", Some(Type::A)),
        ] {
            let answer = internet.ask(name, Type::ANY).await;
            assert_eq!(
                (answer.rcode(), answer.answers.first().map(|record| record.rtype)),
                (Rcode::NOERROR, known),
                "{name}"
            );
        }
        assert_eq!(internet.ask("nothing.crepes.fr", Type::ANY).await.rcode(), Rcode::NXDOMAIN);
        // What came so is remembered.
        let asked = internet.asked(CREPES).await;
        assert_eq!(addresses(&internet.ask("www.crepes.fr", Type::A).await), ["192.0.2.1", "192.0.2.2"]);
        assert_eq!(internet.asked(CREPES).await, asked);
        internet.stop().await;
    }
}

#[tokio::test]
async fn a_server_without_glue_is_looked_for() {
    let internet = Internet::start(|_| {});
    assert_eq!(addresses(&internet.ask("www.glueless.fr", Type::A).await), ["192.0.2.4"]);
    internet.stop().await;
}

/// A zone that is remembered with servers that nobody can find any more: the zone above is asked again, and may refer to others by now.
#[tokio::test]
async fn the_zone_above_tells_anew_whose_servers_cannot_be_found() {
    /// To a server that is not there, or to one with its address.
    fn referral(query: &[u8], server: &str, address: Option<&str>) -> Vec<u8> {
        let wire = server.parse::<Name>().unwrap().borrow().as_wire().to_vec();
        let glue = address.map(|text| (server, Type::A, text.parse::<Ipv4Addr>().unwrap().octets().to_vec()));
        let records: Vec<_> = [("sub.evil.fr", Type::NS, wire)].into_iter().chain(glue).collect();
        let mut referral = reply(query, [0, 1, records.len() as u8 - 1], &records);
        referral[2] = 0x80;
        referral
    }
    let nowhere = "no address of a server of sub.evil.fr. can be found";
    for has_moved in [true, false] {
        let internet = Internet::start(|_| {});
        let number = AtomicUsize::new(0);
        let asked = liar(internet.port, move |query| {
            let is_first = number.fetch_add(1, Ordering::SeqCst) == 0;
            vec![if is_first || !has_moved {
                referral(query, "gone.school.edu", None)
            } else {
                referral(query, "ns.sub.evil.fr", Some(HONEST))
            }]
        })
        .await;
        let cold = internet.ask("www.sub.evil.fr", Type::A).await;
        assert_eq!((explanation(&cold).as_str(), asked.load(Ordering::SeqCst)), (nowhere, 1));
        // Another name, for failures are remembered. It begins with the servers that were told before.
        let again = internet.ask("alias.sub.evil.fr", Type::A).await;
        if has_moved {
            assert_eq!(addresses(&again), ["192.0.2.9"]);
        } else {
            assert_eq!(explanation(&again), nowhere);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 2, "who says the same again has said all");
        internet.stop().await;
    }
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

/// RFC 1034 §5.3.3 step 4c: an alias that is known is followed from where it leads, and not asked for again.
#[tokio::test]
async fn what_is_known_of_a_chain_of_aliases_is_not_asked_for() {
    let internet = Internet::start(|_| {});
    let alias = internet.ask("alias.crepes.fr", Type::CNAME).await;
    assert_eq!(alias.answers.len(), 1, "{alias:?}");
    let address = internet.ask("alias.crepes.fr", Type::A).await;
    assert_eq!((addresses(&address), address.answers.len()), (vec!["192.0.2.3".to_owned()], 2), "{address:?}");
    assert_eq!([internet.asked(CREPES).await, internet.asked(SCHOOL).await], [1, 1]);
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

/// `forward`: those who do the asking for us are asked for the whole name, one after the other, and nobody else.
#[tokio::test]
async fn who_forwards_asks_nobody_else() {
    let first = Internet::start(|_| {});
    let (dead, alive) = (SocketAddr::from(([127, 9, 9, 9], 1)), first.resolver);
    let second = Internet::start(|config| {
        config.forward = vec![dead, alive];
        config.minimise_names = true;
    });
    assert_eq!(addresses(&second.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    assert_eq!(addresses(&second.ask("alias.crepes.fr", Type::A).await), ["192.0.2.3"]);
    assert_eq!(second.ask("nothing.crepes.fr", Type::A).await.header.rcode(), Rcode::NXDOMAIN);
    assert_eq!(second.ask("bare.crepes.fr", Type::A).await.authority[0].rtype, Type::SOA);
    let heard = second.heard().await;
    assert!(
        heard
            .iter()
            .all(|line| line.contains(" 127.0.0.1 ") || line.contains(" 127.9.9.9 ") || line.contains(" 127.9.2.2 ")),
        "{heard:#?}"
    );
    assert!(heard.contains(&"C: 127.9.2.2 www.school.edu. A? rd".to_owned()), "{heard:#?}");
    second.stop().await;

    // Nobody answers there: that is told, unless the root may be asked instead.
    let third = Internet::start(|config| config.forward = vec![dead]);
    let answer = third.ask("www.school.edu", Type::A).await;
    assert_eq!((answer.header.rcode(), explained(&answer)), (Rcode::SERVFAIL, Some(22)));
    assert_eq!(third.asked(ROOT).await, 0);
    third.stop().await;
    let fourth = Internet::start(|config| (config.forward, config.forward_only) = (vec![dead], false));
    assert_eq!(addresses(&fourth.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    fourth.stop().await;
    first.stop().await;
}

/// `local`: some names are answered here, whatever others say, also where an alias of theirs leads to one.
#[tokio::test]
async fn some_names_are_answered_here() {
    let lines = ["www.school.edu A 192.0.2.77", "ads.crepes.fr CNAME .", "shop.crepes.fr 5 CNAME www.crepes.fr"];
    let internet = Internet::start(|config| config.local = lines.map(str::to_owned).to_vec());
    let own = internet.ask("www.school.edu", Type::A).await;
    assert_eq!((addresses(&own), explained(&own)), (vec!["192.0.2.77".to_owned()], Some(4)));
    assert_eq!(internet.ask("www.school.edu", Type::MX).await.answers.len(), 0);
    let blocked = internet.ask("ads.crepes.fr", Type::A).await;
    assert_eq!((blocked.header.rcode(), explained(&blocked)), (Rcode::NXDOMAIN, Some(15)));
    assert_eq!(addresses(&internet.ask("localhost", Type::A).await), ["127.0.0.1"]);
    assert_eq!(internet.asked(ROOT).await, 0);
    for _ in 0..2 {
        assert_eq!(addresses(&internet.ask("alias.crepes.fr", Type::A).await), ["192.0.2.77"]);
        let shop = internet.ask("shop.crepes.fr", Type::A).await;
        assert_eq!((addresses(&shop).len(), shop.answers[0].ttl), (2, 5));
    }
    internet.stop().await;
}

/// A host without a way to some servers, as one without IPv6, loses no time with them.
#[tokio::test]
async fn servers_out_of_reach_cost_no_try() {
    let dead: Vec<SocketAddr> = (1..30).map(|n| SocketAddr::from(([192, 0, 2, n], 53))).collect();
    let first = Internet::start(|_| {});
    let alive = first.resolver;
    let second = Internet::start(|config| {
        // From a loopback address there is no way out.
        config.query_from = "127.9.2.2".parse().unwrap();
        config.forward = [&dead[..], &[alive]].concat();
    });
    assert_eq!(addresses(&second.ask("www.school.edu", Type::A).await), ["192.0.2.3"]);
    second.stop().await;
    first.stop().await;
}
