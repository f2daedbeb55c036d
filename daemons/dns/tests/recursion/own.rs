//! A local name server that has zones of its own too, which nobody else knows (RFC 1034 §4.3.2 with §5.3.3).

use super::internet::{Internet, ROOT, SCHOOL, addresses, query_with};
use dns::{Config, View, ZoneFile, message::Rcode, rdata::Type};
use std::{fs, net::SocketAddr};

/// `corp` is a zone that the root knows nothing of. What is below `sub.corp` is given away, to a server out there.
const CORP: &str = "$TTL 1h\n@ SOA ns root 1 1h 15m 1w 5m\n@ NS ns\nns A 127.9.2.2\nwww A 192.0.2.6\n*.wild A 192.0.2.7\n\
                    out CNAME www.school.edu.\nsub NS ns.sub\nns.sub A 127.9.3.53\n";

fn owns_corp(dir: &tempfile::TempDir) -> impl Fn(&mut Config) {
    let file = dir.path().join("corp.zone");
    fs::write(&file, CORP).unwrap();
    move |config| {
        let zone = ZoneFile { name: "corp".to_owned(), file: Some(file.clone()), ..ZoneFile::default() };
        config.zones.push(zone);
        config.negative_trust_anchors = vec!["corp".to_owned()];
    }
}

/// Whatever is known of the zones above: what is given away here is asked of those to whom it was given.
#[tokio::test]
async fn what_others_deny_hides_nothing_below_an_own_cut() {
    let dir = tempfile::tempdir().unwrap();
    for internet in [Internet::start(owns_corp(&dir)), Internet::signed(owns_corp(&dir))] {
        // The root says that there is no such name, which covers all that is below it (RFC 8020).
        let denied = internet.send(&query_with("corp", Type::DS, 0)).await;
        assert_eq!(denied.header.rcode(), Rcode::NXDOMAIN, "{denied:?}");
        for turn in ["cold", "warm"] {
            let below = internet.send(&query_with("www.sub.corp", Type::A, 0)).await;
            assert_eq!(addresses(&below), ["192.0.2.8"], "{turn}: {below:?}");
            assert!(!below.header.is_authoritative() && !below.header.authentic_data());
            let nothing = internet.send(&query_with("nothing.sub.corp", Type::A, 0)).await;
            assert_eq!(nothing.header.rcode(), Rcode::NXDOMAIN, "{turn}: {nothing:?}");
        }
        assert_eq!(internet.counted("recursion{result=\"hit\"}"), 2, "at once, the second time");
        assert_eq!(internet.asked(SCHOOL).await, 2, "the cache has what they said: {:#?}", internet.heard().await);
        internet.stop().await;
    }
}

/// Aliases of others lead into own zones, and aliases of own zones to others.
#[tokio::test]
async fn aliases_lead_into_own_zones_and_out_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let internet = Internet::start(owns_corp(&dir));
    for turn in ["cold", "warm"] {
        for (name, want, is_authoritative) in [
            ("into.school.edu", "192.0.2.6", false),
            ("deep.school.edu", "192.0.2.7", false),
            ("below.school.edu", "192.0.2.8", false),
            ("out.corp", "192.0.2.3", true),
        ] {
            let answer = internet.send(&query_with(name, Type::A, 0)).await;
            let got = (addresses(&answer), answer.header.is_authoritative());
            assert_eq!(got, (vec![want.to_owned()], is_authoritative), "{name}, {turn}: {answer:?}");
            assert_eq!(answer.answers[0].rtype, Type::CNAME);
        }
        let nothing = internet.send(&query_with("lost.school.edu", Type::A, 0)).await;
        assert_eq!((nothing.header.rcode(), nothing.answers.len()), (Rcode::NXDOMAIN, 1), "{turn}: {nothing:?}");
    }
    internet.stop().await;
}

/// Who does the asking for us knows as little of them as the root does.
#[tokio::test]
async fn an_own_cut_is_better_than_those_who_ask_for_us() {
    let dir = tempfile::tempdir().unwrap();
    let internet = Internet::start(|config| {
        owns_corp(&dir)(config);
        config.forward = vec![SocketAddr::new(ROOT.parse().unwrap(), config.peer_port)];
    });
    let below = internet.send(&query_with("www.sub.corp", Type::A, 0)).await;
    assert_eq!(addresses(&below), ["192.0.2.8"], "{below:?}");
    assert_eq!(internet.asked(ROOT).await, 0);
    internet.stop().await;
}

/// Split DNS: what some clients see is nothing to others, neither their zones nor what was found below them, whoever asks first.
#[tokio::test]
async fn what_a_view_has_found_stays_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let [inside, outside] = ["127.0.0.7", "127.0.0.1"];
    for order in [[inside, outside], [outside, inside]] {
        let internet = Internet::start(|config| {
            owns_corp(&dir)(config);
            config.zones[0].view = "inside".to_owned();
            config.views =
                vec![View { name: "inside".to_owned(), clients: vec![format!("{inside}/32").parse().unwrap()] }];
        });
        for client in [order, order].concat() {
            for (name, found) in
                [("www.sub.corp", "192.0.2.8"), ("below.school.edu", "192.0.2.8"), ("into.school.edu", "192.0.2.6")]
            {
                let answer = internet.send_from(client, &query_with(name, Type::A, 0)).await;
                let want = if client == inside { (Rcode::NOERROR, vec![found]) } else { (Rcode::NXDOMAIN, vec![]) };
                let got = addresses(&answer);
                assert_eq!(
                    (answer.header.rcode(), got.iter().map(String::as_str).collect()),
                    want,
                    "{client} {name}: {answer:?}"
                );
            }
        }
        internet.stop().await;
    }
}
