//! What the course says about names, asked of the lab: the root and its thirteen names, the way down, aliases, mail servers,
//! load that is spread, and servers that are near.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};

use tests::dns::{Answer, Over, Record, Type, ask, ask_from};
use tests::lab::{Lab, SHIPPED};
use tests::nameserver::Ours;

const ROOT: &str = "a.root-servers.net";
const COMPANIES: &str = "ns.ibm.com";

/// 127.77.x.y, which zones and glue say, as the address that the same host has in a test's own lab.
fn own(lab: &Lab, shipped: Ipv4Addr) -> SocketAddr {
    let [_, b, c, d] = shipped.octets();
    let description: toml::Table = SHIPPED.parse().unwrap();
    let address = format!("10.{b}.{c}.{d}");
    let host = description["host"].as_array().unwrap().iter().find(|host| host["address"].as_str() == Some(&address));
    lab.address(host.unwrap()["name"].as_str().unwrap(), 8053)
}

fn targets(records: &[Record]) -> Vec<&str> {
    records.iter().filter_map(|record| record.target.as_deref()).collect()
}

/// Goes down from the root by referrals, as a resolver does; returns whom it asked, and the answer.
fn from_the_root(lab: &Lab, name: &str, rtype: Type) -> (Vec<String>, Answer) {
    let (mut server, mut asked) = (lab.address(ROOT, 8053), vec![".".to_owned()]);
    loop {
        let answer = ask(server, Over::Udp, name, rtype).unwrap();
        if answer.authoritative {
            return (asked, answer);
        }
        assert!(asked.len() < 8 && answer.answers.is_empty(), "{name}: {asked:?} {answer:?}");
        let cut = &answer.authorities[0];
        let glue = answer.additional.iter().find(|record| Some(&record.owner) == cut.target.as_ref()).unwrap();
        server = own(lab, glue.address().unwrap());
        asked.push(cut.owner.clone());
    }
}

#[test]
fn the_root_has_thirteen_names_that_are_kept_for_days() {
    // CLAIMS C112, C131.
    let lab = Lab::up().unwrap();
    let answer = ask(lab.address(ROOT, 8053), Over::Udp, ".", Type::Ns).unwrap();
    let mut names = targets(&answer.answers);
    names.sort_unstable();
    assert_eq!(names, ('a'..='m').map(|letter| format!("{letter}.root-servers.net.")).collect::<Vec<_>>());
    assert!(answer.answers.iter().all(|record| record.ttl == 172_800), "two days");
    for domain in ["fr", "edu", "com", "org", "net", "au", "ch", "gr"] {
        let referral = ask(lab.address(ROOT, 8053), Over::Udp, domain, Type::Ns).unwrap();
        assert!(!referral.authoritative && referral.authorities[0].ttl == 172_800, "{domain}: {referral:?}");
    }
}

#[test]
fn three_servers_are_asked_from_the_right_most_label() {
    // CLAIMS C110, and the names of the other lessons.
    let lab = Lab::up().unwrap();
    for (name, way, address) in [
        ("www.wikipedia.org", &[".", "org.", "wikipedia.org."][..], [127, 77, 4, 80]),
        ("www.someschool.edu", &[".", "edu.", "someschool.edu."], [127, 77, 3, 80]),
        ("mail.crepes.fr", &[".", "fr.", "crepes.fr."], [127, 77, 1, 25]),
        ("cse.unsw.edu.au", &[".", "au.", "unsw.edu.au."], [129, 94, 242, 51]),
    ] {
        let (asked, answer) = from_the_root(&lab, name, Type::A);
        assert_eq!(asked, way, "{name}");
        assert_eq!(answer.answers[0].address(), Some(address.into()), "{name}");
    }
    let (asked, nobody) = from_the_root(&lab, "networkutopia.com", Type::A);
    assert_eq!((asked.as_slice(), nobody.rcode), (&[".".to_owned(), "com.".to_owned()][..], 3));
}

#[test]
fn an_alias_leads_to_its_canonical_name_and_mail_has_servers_of_its_own() {
    // CLAIMS C115, C116.
    let lab = Lab::up().unwrap();
    let (_, ibm) = from_the_root(&lab, "www.ibm.com", Type::A);
    assert_eq!(targets(&ibm.answers), ["servereast.backup2.ibm.com."]);
    assert_eq!(ibm.answers[1].address(), Some([127, 77, 4, 80].into()));
    let (_, foo) = from_the_root(&lab, "foo.com", Type::Mx);
    let mut servers: Vec<_> = foo.answers.iter().map(|mx| (mx.preference(), mx.target.as_deref())).collect();
    servers.sort_unstable();
    assert_eq!(servers, [(Some(10), Some("mail1.foo.com.")), (Some(20), Some("mail2.foo.com."))]);
}

#[test]
fn each_of_three_addresses_comes_first_a_third_of_the_time() {
    // CLAIMS C121. From a hundred networks, because one that asks so often is slowed down.
    let lab = Lab::up().unwrap();
    let mut first: BTreeMap<Ipv4Addr, u32> = BTreeMap::new();
    for number in 0..300_u16 {
        let client = Ipv4Addr::new(127, 78, (number % 100) as u8, 1);
        let answer = ask_from(client, lab.address(COMPANIES, 8053), Over::Udp, "www.yahoo.com", Type::A).unwrap();
        assert_eq!(answer.answers.len(), 3);
        *first.entry(answer.answers[0].address().unwrap()).or_default() += 1;
    }
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(first.values().all(|times| (90..=110).contains(times)), "{first:?}");
}

#[test]
fn each_client_is_led_to_the_server_that_is_near() {
    // CLAIMS C75: two replicas, two networks of clients, one name.
    let folder = tempfile::tempdir().unwrap();
    for (file, address) in [("far", "192.0.2.1"), ("near", "198.51.100.1")] {
        let zone = format!("$TTL 60\n@ SOA ns h 1 1h 15m 1w 5m\n NS ns\nns A 127.0.0.1\nwww A {address}\n");
        fs::write(folder.path().join(file), zone).unwrap();
    }
    let views = r#"views = [{ name = "near", clients = ["127.7.0.0/16"] }]
zones = [
    { name = "cdn.test", file = "{folder}/near", view = "near" },
    { name = "cdn.test", file = "{folder}/far" },
]
"#;
    let ours = Ours::start(folder, views).unwrap();
    for (client, wants) in [([127, 7, 1, 1], [198, 51, 100, 1]), ([127, 8, 1, 1], [192, 0, 2, 1])] {
        for over in [Over::Udp, Over::Tcp] {
            let answer = ask_from(Ipv4Addr::from(client), ours.address(), over, "www.cdn.test", Type::A).unwrap();
            assert_eq!(answer.answers[0].address(), Some(wants.into()), "{client:?} {over:?}");
        }
    }
}
