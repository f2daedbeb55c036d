//! What weakens a local name server, for the lessons of the textbook's chapter on attacks: with it they succeed, without it they fail.

use super::internet::{CREPES, EDU, FR, Internet, LIAR, ROOT, SCHOOL, addresses, query, reply};
use dns::{Config, Server, message::Rcode, rdata::Type};
use shared::{Shared, daemon::StartError};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};
use tokio::net::UdpSocket;

/// C109: asked to do the asking, the root asks edu, edu asks the school: eight messages along the chain.
#[tokio::test]
async fn a_question_goes_along_a_chain_if_all_ask_on() {
    let asks_on = |config: &mut Config| {
        (config.recurse, config.unsafe_lab, config.ask_recursively) = (true, true, true);
        config.query_from = config.listen[0].ip();
    };
    let internet = Internet::with_servers(asks_on, |config| {
        (config.unsafe_lab, config.ask_recursively) = (true, true);
        config.query_from = "127.9.2.2".parse().unwrap();
    });
    let answer = internet.ask("www.school.edu", Type::A).await;
    assert_eq!(addresses(&answer), ["192.0.2.3"], "{answer:?}");
    let client = "127.0.0.1";
    for (host, asked_by, asks) in [
        ("resolver", client, Some(ROOT)),
        (ROOT, "127.9.2.2", Some(EDU)),
        (EDU, ROOT, Some(SCHOOL)),
        (SCHOOL, EDU, None),
    ] {
        let heard = internet.heard_by(host).await;
        let who: Vec<&str> = heard.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        match asks {
            Some(next) => assert_eq!(who, [asked_by, next, next, asked_by], "{host}: {heard:#?}"),
            None => assert_eq!(who, [asked_by, asked_by], "{host}: {heard:#?}"),
        }
    }
    let nothing = internet.ask("nothing.crepes.fr", Type::A).await;
    assert_eq!(nothing.header.rcode(), Rcode::NXDOMAIN);
    assert!([internet.heard_by(FR).await.len(), internet.heard_by(CREPES).await.len()] == [4, 2]);
    internet.stop().await;
}

/// RFC 1034 §4.3.2: a server that has zones and asks on too follows what its own zones lead to.
#[tokio::test]
async fn aliases_and_cuts_of_own_zones_are_followed() {
    let internet = Internet::with_servers(|config| config.recurse = true, |_| {});
    let at = |address: &str| SocketAddr::new(address.parse().unwrap(), internet.port);
    // The server of crepes.fr, for whoever asks it: an alias out of its zone, with AA; a zone that it has given away.
    let alias = internet.send_to(at(CREPES), &query("alias.crepes.fr", Type::A, 1)).await;
    assert_eq!((addresses(&alias), alias.header.is_authoritative()), (vec!["192.0.2.3".to_owned()], true));
    assert_eq!(alias.answers[0].rtype, Type::CNAME);
    let below = internet.send_to(at(FR), &query("www.crepes.fr", Type::A, 1)).await;
    assert_eq!((addresses(&below).len(), below.header.is_authoritative()), (2, false));
    // Who does not want that gets the referral.
    let referral = internet.send_to(at(FR), &query("www.crepes.fr", Type::A, 0)).await;
    assert_eq!((referral.answers.len(), referral.authority[0].rtype), (0, Type::NS));
    internet.stop().await;
}

/// RFC 4035 §3.1.4.1: DS is the parent's. Who has the child only says that it has none; who asks on too asks the parent.
#[tokio::test]
async fn ds_of_an_own_zone_is_its_parents_to_say() {
    let internet = Internet::signed_with_servers(|config| config.recurse = true, |_| {});
    let crepes = SocketAddr::new(CREPES.parse().unwrap(), internet.port);
    for (name, aliases) in [("crepes.fr", 0), ("ds.crepes.fr", 1)] {
        let asked_on = internet.send_to(crepes, &query(name, Type::DS, 1)).await;
        let types: Vec<Type> = asked_on.answers.iter().map(|record| record.rtype).collect();
        assert_eq!(types, [&[Type::CNAME, Type::DS][1 - aliases..]].concat(), "{name}: {asked_on:?}");
        let own = internet.send_to(crepes, &query(name, Type::DS, 0)).await;
        assert_eq!((own.answers.len(), own.header.is_authoritative()), (aliases, true), "{name}: {own:?}");
        assert_eq!(own.authority[0].rtype, Type::SOA);
    }
    internet.stop().await;
}

/// Somebody who cannot see the question, and answers first: he knows the port, and tries ids. The true answer comes after his.
async fn guesser(port: u16, source: Option<u16>, ids: std::ops::Range<u16>) -> Arc<UdpSocket> {
    let socket = Arc::new(UdpSocket::bind((LIAR, port)).await.unwrap());
    let server = Arc::clone(&socket);
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((octets, peer)) = server.recv_from(&mut buffer).await {
            let target = SocketAddr::new(peer.ip(), source.unwrap_or(peer.port()));
            for id in ids.clone() {
                // The name as the attacker knows it.
                let mut guess = query("www.evil.fr", Type::A, 0);
                guess[..2].copy_from_slice(&id.to_be_bytes());
                let forged = reply(&guess, [1, 0, 0], &[("www.evil.fr", Type::A, vec![6, 6, 6, 6])]);
                server.send_to(&forged, target).await.unwrap();
            }
            let truth = reply(&buffer[..octets], [1, 0, 0], &[("www.evil.fr", Type::A, vec![192, 0, 2, 9])]);
            server.send_to(&truth, peer).await.unwrap();
        }
    });
    socket
}

/// C127: with a port that is known and ids that count up, the forged answer is the one that is believed.
#[tokio::test]
async fn a_forged_answer_gets_into_a_weak_server_and_not_into_a_strong_one() {
    let free = UdpSocket::bind("127.9.2.2:0").await.unwrap().local_addr().unwrap().port();
    let weak = Internet::start(|config| {
        (config.unsafe_lab, config.sequential_ids, config.fixed_source_port) = (true, true, free);
        config.query_from = "127.9.2.2".parse().unwrap();
    });
    // The third question since the start: root, fr, and this one.
    let _guesser = guesser(weak.port, Some(free), 1..5).await;
    assert_eq!(addresses(&weak.ask("www.evil.fr", Type::A).await), ["6.6.6.6"]);
    weak.stop().await;

    // A strong one: even who knows the port does not guess id and case; what he says is counted.
    let strong = Internet::start(|_| {});
    let _guesser = guesser(strong.port, None, 1..31).await;
    assert_eq!(addresses(&strong.ask("www.evil.fr", Type::A).await), ["192.0.2.9"]);
    assert!(strong.counted("upstream_forged") >= 30, "{}", strong.counted("upstream_forged"));
    strong.stop().await;
}

/// Many questions at a time over one port: each gets its own answer.
#[tokio::test]
async fn one_port_serves_one_question_at_a_time() {
    let free = UdpSocket::bind("127.9.2.2:0").await.unwrap().local_addr().unwrap().port();
    let internet = Internet::start(|config| {
        (config.unsafe_lab, config.fixed_source_port) = (true, free);
        config.query_from = "127.9.2.2".parse().unwrap();
    });
    let queries = ["www.school.edu", "www.crepes.fr", "www.lame.fr", "www.glueless.fr"];
    for answer in internet.send_all(queries.map(|name| query(name, Type::A, 1)).to_vec()).await {
        assert_eq!(answer.header.rcode(), Rcode::NOERROR);
    }
    internet.stop().await;
}

/// Without `unsafe_lab` nothing of it is to be had.
#[tokio::test]
async fn weakness_is_refused_and_the_cure_is_named() {
    let listen = vec![SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0)];
    let config = Config { listen, sequential_ids: true, ..Config::default() };
    let Err(StartError::Unfit { key, problem }) = Server::bind(&config, &Shared::for_tests("dns")) else {
        panic!("it is not refused")
    };
    assert_eq!(key, "dns.sequential_ids");
    assert!(problem.ends_with("set `unsafe_lab = true` if this is a lab that nobody else depends on"), "{problem}");
}
