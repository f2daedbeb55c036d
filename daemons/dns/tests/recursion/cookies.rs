//! Cookies towards other servers (RFC 7873 §5): who has given one must show ours again.

use super::{
    hostile::liar_over_tcp,
    internet::{Internet, SCHOOL, addresses, explanation, liar, reply},
};
use dns::{message::Rcode, rdata::Type};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

/// The server's part.
const COOKIE: [u8; 16] = [7; 16];
/// Ours, and the server's.
type Cookies = (Vec<u8>, Vec<u8>);

const FORMERR: u16 = 1;
const BADCOOKIE: u16 = 23;

/// The OPT record of a query of ours, which is the last of the message.
fn opt(query: &[u8]) -> Option<&[u8]> {
    let question = 12 + query[12..].iter().position(|octet| *octet == 0).unwrap() + 5;
    (query[11] == 1).then(|| &query[question..])
}

/// The cookies in a query: ours, and the server's.
fn shown(query: &[u8]) -> Option<(&[u8], &[u8])> {
    let option = &opt(query)?[11..];
    (!option.is_empty()).then(|| {
        assert_eq!((&option[..2], usize::from(option[3])), (&[0, 10][..], option.len() - 4));
        option[4..].split_at(8)
    })
}

/// An answer with another RCODE.
fn with_rcode(mut answer: Vec<u8>, rcode: u16) -> Vec<u8> {
    answer[3] |= (rcode & 0xf) as u8;
    answer
}

/// An answer with OPT, which has the upper bits of an RCODE, and cookies.
fn with_cookie(answer: Vec<u8>, rcode: u16, client: &[u8], server: &[u8]) -> Vec<u8> {
    let mut answer = with_rcode(answer, rcode);
    answer[11] += 1;
    let octets = (client.len() + server.len()) as u8;
    answer.extend([0, 0, 41, 4, 208, (rcode >> 4) as u8, 0, 0, 0, 0, octets + 4, 0, 10, 0, octets]);
    answer.extend([client, server].concat());
    answer
}

/// The question, answered with one address.
fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let (owner, _) = dns::message::read_name(query, 12).unwrap();
    reply(query, [1, 0, 0], &[(&owner.to_string(), Type::A, address.to_vec())])
}

fn truth(query: &[u8]) -> Vec<u8> {
    answer(query, [192, 0, 2, 9])
}

fn forgery(query: &[u8]) -> Vec<u8> {
    answer(query, [6, 6, 6, 6])
}

/// The question, answered with nothing.
fn nothing(query: &[u8]) -> Vec<u8> {
    reply(query, [0, 0, 0], &[])
}

/// Ours against ours: a server of ours knows us by our cookie, and we know it. One answer a second is all that strangers get of it.
#[tokio::test]
async fn a_server_of_ours_knows_us() {
    let servers = |config: &mut dns::Config| (config.rate, config.slip) = (1, 0);
    let internet = Internet::with_servers(servers, |_| {});
    for n in 0..8 {
        let answer = internet.ask(&format!("n{n}.school.edu"), Type::A).await;
        assert_eq!(answer.header.rcode(), Rcode::NXDOMAIN, "{}", explanation(&answer));
    }
    // The root, edu, and eight times the school, which knew us from the second question on.
    assert_eq!((internet.counted("upstream_cookies"), internet.counted("upstream_timeouts")), (10, 0));
    internet.stop().await;

    let internet = Internet::with_servers(servers, |config| config.query_cookies = false);
    for n in 0..3 {
        internet.ask(&format!("n{n}.school.edu"), Type::A).await;
    }
    assert!(internet.counted("upstream_timeouts") > 0, "{} questions", internet.asked(SCHOOL).await);
    assert_eq!(internet.counted("upstream_cookies"), 0);
    internet.stop().await;
}

/// §5.1: "in every DNS request", the server's own with ours when it is known. §5.3: another one than ours is forged.
#[tokio::test]
async fn an_answer_with_another_cookie_is_passed_over() {
    let internet = Internet::start(|_| {});
    let seen: Arc<Mutex<Vec<Cookies>>> = Arc::default();
    let seen_there = Arc::clone(&seen);
    liar(internet.port, move |query| {
        let (client, server) = shown(query).unwrap();
        seen_there.lock().unwrap().push((client.to_vec(), server.to_vec()));
        let other: Vec<u8> = client.iter().map(|octet| octet ^ 1).collect();
        let too_long = [&COOKIE[..], &[0; 17]].concat();
        vec![
            with_cookie(forgery(query), 0, &other, &COOKIE),
            with_cookie(forgery(query), 0, client, &too_long),
            with_cookie(forgery(query), 0, client, &COOKIE[..7]),
            with_cookie(truth(query), 0, client, &COOKIE),
        ]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    internet.ask("www.evil.fr", Type::AAAA).await;
    assert_eq!(internet.counted("upstream_forged{wrong=\"cookie\"}"), 6);
    assert_eq!(internet.counted("upstream_forged{wrong=\"no cookie\"}"), 0);
    let seen = seen.lock().unwrap().clone();
    let (clients, servers): (HashSet<Vec<u8>>, Vec<Vec<u8>>) = seen.into_iter().unzip();
    assert_eq!((clients.len(), servers), (1, vec![vec![], COOKIE.to_vec()]));
    internet.stop().await;
}

/// §5.3: what should have a cookie and has none is no answer; but who stops giving cookies is not lost, with TCP or without.
#[tokio::test]
async fn an_answer_without_the_cookie_is_not_believed_and_its_server_not_lost() {
    for has_tcp in [true, false] {
        let internet = Internet::start(|_| {});
        let number = AtomicUsize::new(0);
        let asked = liar(internet.port, move |query| {
            let (client, server) = shown(query).unwrap();
            match (number.fetch_add(1, Ordering::SeqCst), server.is_empty()) {
                (0, true) => vec![with_cookie(truth(query), 0, client, &COOKIE)],
                (1, false) => vec![forgery(query)],
                // It is forgotten.
                (_, true) => vec![truth(query)],
                (number, false) => panic!("question {number} still has the cookie"),
            }
        })
        .await;
        let over_tcp = if has_tcp { Some(liar_over_tcp(internet.port, truth).await) } else { None };
        for n in 0..4 {
            let answer = internet.ask(&format!("n{n}.evil.fr"), Type::A).await;
            // With nobody there over TCP the second question has no answer; all others do.
            let want = if has_tcp || n != 1 { vec!["192.0.2.9"] } else { vec![] };
            assert_eq!(addresses(&answer), want, "n{n}: {answer:?}");
        }
        assert_eq!(internet.counted("upstream_forged{wrong=\"no cookie\"}"), 1);
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        assert_eq!(over_tcp.map(|over_tcp| over_tcp.load(Ordering::SeqCst)), has_tcp.then_some(1));
        internet.stop().await;
    }
}

/// §5.3: BADCOOKIE brings a new one, which is shown at once; if that is refused too, over TCP none is needed.
#[tokio::test]
async fn a_refused_cookie_is_renewed_once_and_then_tcp_is_tried() {
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| {
        let (client, server) = shown(query).unwrap();
        let knows_us = server == COOKIE;
        vec![if knows_us {
            with_cookie(truth(query), 0, client, &COOKIE)
        } else {
            with_cookie(nothing(query), BADCOOKIE, client, &COOKIE)
        }]
    })
    .await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    internet.stop().await;

    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| {
        let (client, _) = shown(query).unwrap();
        vec![with_cookie(nothing(query), BADCOOKIE, client, &COOKIE)]
    })
    .await;
    let over_tcp = liar_over_tcp(internet.port, truth).await;
    assert_eq!(addresses(&internet.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert_eq!((asked.load(Ordering::SeqCst), over_tcp.load(Ordering::SeqCst)), (2, 1));
    internet.stop().await;
}

/// RFC 6891 §7: FORMERR is what servers say that do not know EDNS, and some say it to an option. They are asked more simply.
#[tokio::test]
async fn who_does_not_know_cookies_or_edns_is_asked_without() {
    type Refuses = fn(&[u8]) -> bool;
    let cases: [(Refuses, usize); 2] = [(|query| shown(query).is_some(), 2), (|query| opt(query).is_some(), 3)];
    for (refuses, questions) in cases {
        let internet = Internet::start(|_| {});
        let asked = liar(internet.port, move |query| {
            vec![if refuses(query) { with_rcode(nothing(query), FORMERR) } else { truth(query) }]
        })
        .await;
        let answer = internet.ask("www.evil.fr", Type::A).await;
        assert_eq!(addresses(&answer), ["192.0.2.9"], "{answer:?}");
        assert_eq!(asked.load(Ordering::SeqCst), questions);
        internet.stop().await;
    }
    // Who says so to anything is of no use.
    let internet = Internet::start(|_| {});
    let asked = liar(internet.port, |query| vec![with_rcode(nothing(query), FORMERR)]).await;
    let answer = internet.ask("www.evil.fr", Type::A).await;
    assert_eq!(explanation(&answer), "no server of evil.fr. gives a useful answer (it says FORMERR)");
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    internet.stop().await;
}
