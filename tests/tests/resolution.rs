//! What the course says about finding names, shown by our local name server: in the lab as it is shipped, and in small Internets in
//! which servers die, lie and forge. Each test has its network for itself ([`tests::alone`]), with the real ports.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use tests::alone;
use tests::dns::{Answer, Over, Question, Type, flags, name_to_wire, reply};
use tests::http;
use tests::internet::{Flaw, Internet, Maker, Resolver, Signing, Way, Zone, liar};
use tests::lab::{Description, Lab, Said};
use tests::nameserver::{Ours, client, nsupdate, until};
use tests::process::{find_program, free_address, pause};
use tests::program::{command, run};

const ROOT: Ipv4Addr = Ipv4Addr::new(127, 53, 0, 1);
const TOP: Ipv4Addr = Ipv4Addr::new(127, 53, 0, 2);
const SITE: Ipv4Addr = Ipv4Addr::new(127, 53, 1, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 53, 1, 2);
/// Here the tests' own servers are, which lie.
const LIAR: Ipv4Addr = Ipv4Addr::new(127, 53, 6, 6);
/// Nobody is here.
const DEAD: Ipv4Addr = Ipv4Addr::new(127, 53, 9, 9);

const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;

/// RFC 8914 §4.4 and §4.23.
const STALE_ANSWER: u16 = 3;
const NO_REACHABLE_AUTHORITY: u16 = 22;

/// A root, the domain `t`, and what is below it.
fn zones(below: &[(&str, Ipv4Addr, &str)]) -> Vec<Zone> {
    let root = format!("@ NS ns.root.\nns.root. A {ROOT}\nt NS ns.t.\nns.t. A {TOP}\n");
    let mut top = format!("@ NS ns\nns A {TOP}\n");
    let mut zones = vec![];
    for (name, server, records) in below {
        writeln!(top, "{name} NS ns.{name}\nns.{name} A {server}").unwrap();
        // A liar has no zone that could be served.
        if !records.is_empty() {
            zones.push(Zone::new(&format!("{name}.t."), &[*server], format!("@ NS ns\nns A {server}\n{records}")));
        }
    }
    zones.extend([Zone::new(".", &[ROOT], root), Zone::new("t.", &[TOP], top)]);
    zones
}

fn addresses(answer: &Answer) -> Vec<String> {
    let mut all: Vec<String> = answer.answers.iter().filter_map(|it| Some(it.address()?.to_string())).collect();
    all.sort();
    all
}

fn code(answer: &Answer) -> Option<u16> {
    answer.explanation.as_ref().map(|(code, _)| *code)
}

/// Whom a resolver has asked, in order.
fn asked(heard: &[Said], client: SocketAddr) -> Vec<String> {
    let questions = heard.iter().filter(|said| said.kind == "client" && said.remote.ip() != client.ip());
    questions.map(|said| said.remote.ip().to_string()).collect()
}

/// C107, C108, C110 to C113, C120, C125, C131: the way from the root down, what is remembered of it, and that what is remembered costs
/// no question.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn the_eight_messages_of_the_figure_are_heard_in_order() {
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let (host, resolver) = ("resolver.crepes.fr", lab.address("resolver.crepes.fr", 53));
        let ask = |name, rtype| Question::new(name, rtype).recursive().ask(resolver, Over::Udp).unwrap();

        // All that a resolver knows at first.
        let hints = fs::read_to_string(lab.state().join("zones/root.hints")).unwrap();
        let records: Vec<&str> = hints.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).collect();
        assert!(records.iter().all(|line| line.contains("a.root-servers.net")) && records.len() == 2, "{hints}");

        let answer = ask("www.someschool.edu", Type::A);
        assert_eq!((addresses(&answer), answer.authoritative), (vec!["127.77.3.80".to_owned()], false));
        let heard = lab.heard(host, "NOERROR 1 answer: www.someschool.edu. A 127.77.3.80").unwrap();
        let figure: Vec<(&str, String)> = heard
            .iter()
            .filter(|said| said.kind != "note")
            .map(|said| (said.kind.as_str(), said.remote.ip().to_string()))
            .collect();
        let (client, root, edu, school) = ("127.0.0.1", "127.77.0.1", "127.77.0.3", "127.77.3.53");
        let wanted = [
            ("client", client),
            ("client", root),
            ("server", root),
            ("client", edu),
            ("server", edu),
            ("client", school),
            ("server", school),
            ("server", client),
        ];
        assert_eq!(figure, wanted.map(|(kind, who)| (kind, who.to_owned())), "{heard:#?}");
        assert!(heard.is_sorted_by_key(|said| said.at), "{heard:#?}");
        let lines: Vec<&str> = heard.iter().map(|said| said.line.as_str()).collect();
        assert!(lines[2].ends_with("ask ns.nic.edu. about edu."), "{lines:#?}");
        assert!(lines[4].ends_with("ask ns.someschool.edu. about someschool.edu."), "{lines:#?}");

        // The servers of the top-level domain are known now: nobody asks the root.
        ask("gaia.cs.umass.edu", Type::A);
        let heard = lab.heard(host, "NOERROR 1 answer: gaia.cs.umass.edu.").unwrap();
        assert_eq!(asked(&heard, "127.0.0.1:1".parse().unwrap())[3..], ["127.77.0.3", "127.77.4.53"]);
        // Three servers from the right-most label; then none at all.
        for _ in 0..2 {
            ask("www.wikipedia.org", Type::A);
        }
        ask("mail.crepes.fr", Type::A);
        let heard = lab.heard(host, "NOERROR 1 answer: mail.crepes.fr.").unwrap();
        let way = ["127.77.0.1", "127.77.0.4", "127.77.4.53", "127.77.0.1", "127.77.0.2", "127.77.1.53"];
        assert_eq!(asked(&heard, "127.0.0.1:1".parse().unwrap())[5..], way);

        let servers = ask(".", Type::Ns);
        assert_eq!(servers.answers.len(), 13);
        assert!(servers.answers.iter().all(|record| (172_000..=172_800).contains(&record.ttl)), "{servers:?}");
        let authority = Question::new("www.someschool.edu", Type::A).ask("127.77.3.53:53".parse().unwrap(), Over::Udp);
        assert!(authority.unwrap().authoritative);
    })
    .unwrap();
}

/// C106, C130: a name is looked up before the first octet of HTTP. Who looks it up is said by files: `hosts` before the resolver, and
/// which resolver.
#[test]
#[ignore = "needs unshare, ip and curl: tests/run clients"]
fn a_name_is_looked_up_before_its_page_is_fetched_and_files_say_where() {
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("resolv.conf", "nameserver 127.77.1.2\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
            ("hosts", "127.77.3.7 words\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
            alone::cover(&format!("/etc/{name}"), &folder.path().join(name)).unwrap();
        }
        let fetch = |url: &str| {
            let mut curl = std::process::Command::new(find_program("curl", "curl").unwrap());
            run(curl.args(["--silent", "--show-error", "--ipv4", "--noproxy", "*", url]))
                .unwrap()
                .with_code(0)
                .unwrap()
                .out
        };
        assert!(fetch("http://www.someschool.edu/index.html").contains("<html"));
        let answered = lab.heard("resolver.crepes.fr", "A 127.77.3.80").unwrap();
        let fetched = lab.heard("www.someschool.edu", "GET /index.html").unwrap();
        assert!(answered.last().unwrap().at <= fetched[0].at, "{answered:#?} {fetched:#?}");

        let getent = |name: &str| {
            let getent = find_program("getent", "libc-bin").unwrap();
            run(std::process::Command::new(getent).args(["hosts", name])).unwrap().out
        };
        let (file, resolver) = (getent("words"), getent("mail.crepes.fr"));
        assert!(file.starts_with("127.77.3.7 ") && resolver.starts_with("127.77.1.25 "), "{file:?} {resolver:?}");
        fs::write(folder.path().join("hosts"), "192.0.2.1 mail.crepes.fr\n").unwrap();
        assert!(getent("mail.crepes.fr").starts_with("192.0.2.1 "), "the file comes first");
    })
    .unwrap();
}

/// C114, C122: who registers a name puts two records into the domain above and its own into a server of its own. Who has heard that
/// the name does not exist believes it for a while.
#[test]
#[ignore = "needs unshare, ip and nsupdate: tests/run clients"]
fn a_new_name_is_known_when_it_is_registered_and_caches_have_forgotten_that_it_was_not() {
    alone::test(|| {
        let lab = Lab::alone(&[]).unwrap();
        let resolver = lab.address("resolver.crepes.fr", 53);
        let ask = |name, rtype| Question::new(name, rtype).recursive().ask(resolver, Over::Udp).unwrap();
        assert_eq!(ask("www.networkutopia.com", Type::A).rcode, NXDOMAIN);

        let folder = tempfile::tempdir().unwrap();
        let zone = "$TTL 60\n@ SOA dns1 root 1 1h 15m 1w 5m\n NS dns1\n MX 10 mail\ndns1 A 127.77.9.10\n\
        www A 127.77.4.80\nmail A 127.77.9.25\n";
        fs::write(folder.path().join("zone"), zone).unwrap();
        let zones = r#"zones = [{ name = "networkutopia.com", file = "{folder}/zone" }]"#;
        let _own = Ours::start_at("127.77.9.10:53".parse().unwrap(), folder, zones).unwrap();
        let key = "hmac-sha256:registrar:dG9tdGUtbGFiLXJlZ2lzdHJhci1zZWNyZXQ=";
        let script = "zone com\nupdate add networkutopia.com 172800 NS dns1.networkutopia.com\n\
        update add dns1.networkutopia.com 172800 A 127.77.9.10\nsend";
        nsupdate(lab.address("ns.nic.com", 53), &["-y", key], script).unwrap().with_code(0).unwrap();

        assert_eq!(
            ask("www.networkutopia.com", Type::A).rcode,
            NXDOMAIN,
            "it is in the cache that there is no such name"
        );
        let mut purge = command("tomte").unwrap();
        purge.args(["cache", "purge", "networkutopia.com", "--host", "resolver.crepes.fr", "--state"]).arg(lab.state());
        run(&mut purge).unwrap().with_code(0).unwrap();
        assert_eq!(addresses(&ask("www.networkutopia.com", Type::A)), ["127.77.4.80"]);
        let mail = ask("networkutopia.com", Type::Mx);
        assert_eq!(
            (mail.answers[0].preference(), mail.answers[0].target.as_deref()),
            (Some(10), Some("mail.networkutopia.com."))
        );
        let page = http::get("127.77.4.80:80".parse().unwrap(), "/", "www.networkutopia.com", "").unwrap();
        assert_eq!(page.status(), "200");
        // Another site's resolver had heard nothing before.
        let other = Question::new("www.networkutopia.com", Type::A).recursive();
        assert_eq!(
            addresses(&other.ask(lab.address("resolver.hamburger.edu", 53), Over::Udp).unwrap()),
            ["127.77.4.80"]
        );
    })
    .unwrap();
}

/// C114: what a cache has said stays so until its TTL ends; then the new is told.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn an_old_address_is_told_until_its_time_is_over() {
    alone::test(|| {
        let zones = zones(&[("site", SITE, "www 2 A 192.0.2.1\n")]);
        let mut internet = Internet::start(&zones).unwrap();
        let resolver = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
        assert_eq!(addresses(&resolver.ask("www.site.t", Type::A).unwrap()), ["192.0.2.1"]);
        let moved = Zone { records: zones[0].records.replace("192.0.2.1", "192.0.2.2"), ..zones[0].clone() };
        internet.change(&moved).unwrap();
        let mut seen = vec![];
        until("the new address", || {
            let answer = resolver.ask("www.site.t", Type::A)?;
            seen.push((addresses(&answer).concat(), answer.answers[0].ttl));
            Ok(seen.last().is_some_and(|(address, _)| address == "192.0.2.2"))
        })
        .unwrap();
        // One question before, one after: all others were answered from the cache, with less and less time.
        assert!(seen.is_sorted_by(|(one, before), (next, after)| one != next || before >= after), "{seen:?}");
        assert!(seen.iter().all(|(_, ttl)| *ttl <= 2), "{seen:?}");
    })
    .unwrap();
}

/// C124, C126: caches keep what they know alive when the root dies; a top-level domain's death is worse; the only authority's is the end
/// of a name, but that what is past its time is better than nothing (RFC 8767).
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn names_outlive_the_root_and_not_their_only_authority() {
    alone::test(|| {
        let hosts = "www A 192.0.2.1\nnew A 192.0.2.2\nbrief 1 A 192.0.2.3\n";
        let mut internet = Internet::start(&zones(&[("site", SITE, hosts), ("other", OTHER, hosts)])).unwrap();
        let resolver = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
        let ask = |name| resolver.ask(name, Type::A).unwrap();
        for name in ["www.site.t", "brief.site.t"] {
            assert_eq!(ask(name).rcode, 0, "{name}");
        }

        internet.stop(ROOT);
        for name in ["www.site.t", "new.site.t", "www.other.t"] {
            assert_eq!(ask(name).rcode, 0, "{name} without a root");
        }
        let unknown = ask("www.else");
        assert_eq!((unknown.rcode, code(&unknown)), (SERVFAIL, Some(NO_REACHABLE_AUTHORITY)), "{unknown:?}");

        internet.stop(TOP);
        assert_eq!((ask("www.site.t").rcode, ask("new.other.t").rcode), (0, 0), "their own servers are known");
        assert_eq!(ask("www.third.t").rcode, SERVFAIL, "a new name of a domain without a server");

        internet.stop(SITE);
        assert_eq!(addresses(&ask("www.site.t")), ["192.0.2.1"], "for an hour");
        let never = ask("never.site.t");
        assert_eq!((never.rcode, code(&never)), (SERVFAIL, Some(NO_REACHABLE_AUTHORITY)), "{never:?}");
        until("the end of a name with a TTL of a second", || Ok(code(&ask("brief.site.t")) == Some(STALE_ANSWER)))
            .unwrap();
        assert_eq!(addresses(&ask("brief.site.t")), ["192.0.2.3"]);
    })
    .unwrap();
}

/// A name server's own address may end before the NS record that names it, when somebody has asked for it: then the zone above knows.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn a_zone_lives_on_when_the_addresses_of_its_servers_have_gone_before_it() {
    alone::test(|| {
        let mut zones = zones(&[("site", SITE, "www 1 A 192.0.2.1\nlater A 192.0.2.2\n")]);
        zones[0].records = zones[0].records.replace("ns A", "ns 1 A");
        let internet = Internet::start(&zones).unwrap();
        let resolver = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
        let ask = |name, rtype| resolver.ask(name, rtype).unwrap();
        // NS for an hour, from the zone itself; then the address, for a second.
        assert_eq!(ask("site.t", Type::Ns).answers.len(), 1);
        assert_eq!(ask("ns.site.t", Type::A).answers[0].ttl, 1);
        // What has the same TTL and was asked for after it has ended too when it is told anew.
        let first = ask("www.site.t", Type::A);
        let asked = resolver.count("upstream_queries{transport=\"udp\"}").unwrap();
        until("the end of what is good for a second", || {
            assert_eq!(addresses(&ask("www.site.t", Type::A)), addresses(&first));
            Ok(resolver.count("upstream_queries{transport=\"udp\"}")? > asked)
        })
        .unwrap();
        assert_eq!(addresses(&ask("later.site.t", Type::A)), ["192.0.2.2"]);
    })
    .unwrap();
}

/// C118: the ids of our questions are random, and so are the ports that they come from.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn a_thousand_questions_have_ids_and_ports_that_nobody_can_foretell() {
    alone::test(|| {
        let internet = Internet::start(&zones(&[("evil", LIAR, "")])).unwrap();
        let seen: Arc<Mutex<Vec<(u16, u16)>>> = Arc::default();
        let log = Arc::clone(&seen);
        liar(LIAR, move |socket, query, from| {
            log.lock().unwrap().push((u16::from_be_bytes([query[0], query[1]]), from.port()));
            socket.send_to(&reply(query, flags::AUTHORITATIVE | flags::NXDOMAIN, [&[], &[], &[]]), from).unwrap();
        })
        .unwrap();
        let resolver = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
        for number in 0..1000 {
            assert_eq!(resolver.ask(&format!("n{number}.evil.t"), Type::A).unwrap().rcode, NXDOMAIN);
        }
        let seen = seen.lock().unwrap();
        let ids: Vec<u16> = seen.iter().map(|(id, _)| *id).collect();
        assert!(ids.len() >= 1000);
        // Sixteen buckets by any four bits have about the same number. Above 60 the chi-square of 15 degrees of freedom comes once in
        // three million runs.
        for shift in [0, 4, 8, 12] {
            let mut buckets = [0_f64; 16];
            for id in &ids {
                buckets[usize::from(id >> shift & 15)] += 1.0;
            }
            let expected = ids.len() as f64 / 16.0;
            let chi_square: f64 = buckets.iter().map(|count| (count - expected).powi(2) / expected).sum();
            assert!(chi_square < 60.0, "bits {shift} to {}: {buckets:?}", shift + 3);
        }
        // It is no counter, and no id is used again and again: about eight of a thousand come twice.
        let steps = ids.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) < 16).count();
        assert!(steps < 10, "{steps} ids are just above the one before");
        assert!(ids.iter().collect::<BTreeSet<_>>().len() > 950);
        let ports: BTreeSet<u16> = seen.iter().map(|(_, port)| *port).collect();
        assert!(ports.len() > 900, "{} ports", ports.len());
    })
    .unwrap();
}

/// C127: what is forged is dropped: another id, another question, another sender, and the true sender's word about names that are not
/// his. What reaches the socket is counted; other senders' datagrams the kernel drops.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn forged_answers_are_dropped_and_counted() {
    alone::test(|| {
        let internet = Internet::start(&zones(&[("evil", LIAR, ""), ("bank", SITE, "www A 192.0.2.1\n")])).unwrap();
        let (other_port, other_address) = (UdpSocket::bind((LIAR, 0)).unwrap(), UdpSocket::bind((OTHER, 53)).unwrap());
        liar(LIAR, move |socket, query, from| {
            let lie = |address: [u8; 4]| {
                let answer = [("www.evil.t", Type::A, address.to_vec())];
                let authority = [("bank.t", Type::Ns, name_to_wire("ns.evil.t"))];
                let beside =
                    [("www.bank.t", Type::A, vec![6, 6, 6, 6]), ("ns.bank.t", Type::A, LIAR.octets().to_vec())];
                reply(query, flags::AUTHORITATIVE, [&answer, &authority, &beside])
            };
            let (mut other_id, mut other_name) = (lie([6, 6, 6, 1]), lie([6, 6, 6, 2]));
            other_id[1] ^= 1;
            other_name[14] ^= 1;
            socket.send_to(&other_id, from).unwrap();
            socket.send_to(&other_name, from).unwrap();
            other_port.send_to(&lie([6, 6, 6, 3]), from).unwrap();
            other_address.send_to(&lie([6, 6, 6, 4]), from).unwrap();
            socket.send_to(&lie([192, 0, 2, 9]), from).unwrap();
        })
        .unwrap();
        let resolver = internet.resolver(Maker::Ours, Way::Down, "").unwrap();
        assert_eq!(addresses(&resolver.ask("www.evil.t", Type::A).unwrap()), ["192.0.2.9"]);
        for wrong in ["id", "question"] {
            assert!(resolver.count(&format!("upstream_forged{{wrong=\"{wrong}\"}}")).unwrap() > 0, "{wrong}");
        }
        assert_eq!(addresses(&resolver.ask("www.bank.t", Type::A).unwrap()), ["192.0.2.1"]);
    })
    .unwrap();
}

/// C127: with one source port and ids that count up, which only `unsafe_lab` permits, an answer can be made without seeing the
/// question.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn a_weakened_resolver_believes_whoever_guesses() {
    alone::test(|| {
        let internet = Internet::start(&zones(&[("evil", LIAR, ""), ("bank", OTHER, "")])).unwrap();
        // The attacker has a zone of his own, at whose server he sees the last id.
        let last_id = Arc::new(Mutex::new(0));
        let log = Arc::clone(&last_id);
        liar(LIAR, move |socket, query, from| {
            *log.lock().unwrap() = u16::from_be_bytes([query[0], query[1]]);
            socket.send_to(&reply(query, flags::AUTHORITATIVE | flags::NXDOMAIN, [&[], &[], &[]]), from).unwrap();
        })
        .unwrap();
        // The bank's server is slow: it answers whoever asks a second time. In its name the attacker speaks meanwhile.
        let mut is_first = false;
        let forger = liar(OTHER, move |socket, query, from| {
            is_first = !is_first;
            if !is_first {
                let truth = [("www.bank.t", Type::A, vec![192, 0, 2, 1])];
                socket.send_to(&reply(query, flags::AUTHORITATIVE, [&truth, &[], &[]]), from).unwrap();
            }
        })
        .unwrap();
        let attack = |resolver: &Resolver, port: u16| {
            assert_eq!(resolver.ask("own.evil.t", Type::A).unwrap().rcode, NXDOMAIN);
            let seen = *last_id.lock().unwrap();
            std::thread::scope(|scope| {
                let victim = scope.spawn(|| resolver.ask("www.bank.t", Type::A).unwrap());
                while !victim.is_finished() {
                    for guess in 1..=8_u16 {
                        let id = seen.wrapping_add(guess).to_be_bytes();
                        let query = [&id[..], &[0; 10], &name_to_wire("www.bank.t"), &[0, 1, 0, 1]].concat();
                        let lie = reply(
                            &query,
                            flags::AUTHORITATIVE,
                            [&[("www.bank.t", Type::A, vec![6, 6, 6, 6])], &[], &[]],
                        );
                        // Nobody may be there yet.
                        forger.send_to(&lie, (Ipv4Addr::LOCALHOST, port)).ok();
                    }
                    pause();
                }
                addresses(&victim.join().unwrap())
            })
        };
        let port = free_address().unwrap().port();
        let weak = format!(
            "unsafe_lab = true\nfixed_source_port = {port}\nsequential_ids = true\nminimise_names = false\n\
         query_from = \"127.0.0.1\"\n"
        );
        assert_eq!(attack(&internet.resolver(Maker::Ours, Way::Down, &weak).unwrap(), port), ["6.6.6.6"]);
        let strong = internet.resolver(Maker::Ours, Way::Down, "minimise_names = false\n").unwrap();
        assert_eq!(attack(&strong, port), ["192.0.2.1"]);
    })
    .unwrap();
}

/// C109: with recursion switched on at the root and the top-level domain the question goes along a chain, and its answer back: the work
/// is theirs.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn a_recursive_question_goes_along_a_chain_and_its_answer_back() {
    alone::test(|| {
        let mut description = Description::shipped().unwrap();
        let switches = "unsafe_lab = true\nask_recursively = true\n";
        for host in ["a.root-servers.net", "ns.nic.edu"] {
            description
                .add_to_dns(
                    host,
                    &format!("recurse = true\nhints = \"zones/root.hints\"\nminimise_names = false\n{switches}"),
                )
                .unwrap();
        }
        description.add_to_dns("resolver.crepes.fr", switches).unwrap();
        let lab = Lab::alone_with(description, &[]).unwrap();
        let resolver = lab.address("resolver.crepes.fr", 53);
        let answer = Question::new("www.someschool.edu", Type::A).recursive().ask(resolver, Over::Udp).unwrap();
        assert_eq!(addresses(&answer), ["127.77.3.80"]);
        let (asker, root, edu, school) = ("127.77.1.2", "127.77.0.1", "127.77.0.3", "127.77.3.53");
        for (host, wanted) in [
            ("resolver.crepes.fr", &["127.0.0.1", root, root, "127.0.0.1"][..]),
            ("a.root-servers.net", &[asker, edu, edu, asker]),
            ("ns.nic.edu", &[root, school, school, root]),
            ("ns.someschool.edu", &[edu, edu]),
        ] {
            // Each hears the answer, but for the last, and says it.
            let heard = lab.heard_times(host, "NOERROR", wanted.len() / 2).unwrap();
            let who: Vec<String> =
                heard.iter().filter(|said| said.kind != "note").map(|said| said.remote.ip().to_string()).collect();
            assert_eq!(who, wanted, "{host}: {heard:#?}");
        }
    })
    .unwrap();
}

/// C128: an answer is larger than its question, which is what a reflector is for; the rate limit takes that away.
#[test]
#[ignore = "needs unshare and ip: tests/run clients"]
fn what_amplifies_is_made_small_by_the_rate_limit() {
    alone::test(|| {
        let text = "x".repeat(250);
        let zone = format!(
            "$TTL 60\n@ SOA ns h 1 1h 15m 1w 5m\n NS ns\n TXT {text:?} {text:?} {text:?} {text:?}\nns A 127.0.0.1\n"
        );
        let questions = 300;
        let received = |rate: u32| {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("zone"), &zone).unwrap();
            let configuration =
                format!("rate = {rate}\nslip = 2\nzones = [{{ name = \"big.test\", file = \"{{folder}}/zone\" }}]\n");
            let server = Ours::start(folder, &configuration).unwrap();
            // The victim's socket: all answers come here, and one last question has an answer for certain, because it is over TCP.
            let victim = UdpSocket::bind("127.9.9.9:0").unwrap();
            let mut query =
                [&[0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1][..], &name_to_wire("big.test"), &[0, 16, 0, 1]].concat();
            query.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 0]);
            victim.connect(server.address()).unwrap();
            victim.set_nonblocking(true).unwrap();
            let (mut octets, mut buffer) = (0, [0; 4096]);
            for _ in 0..questions {
                victim.send(&query).unwrap();
                // Few are under way at any time, so that no buffer overflows.
                Question::new("ns.big.test", Type::A)
                    .ask_from(Ipv4Addr::new(127, 8, 8, 8), server.address(), Over::Tcp)
                    .unwrap();
                while let Ok(more) = victim.recv(&mut buffer) {
                    octets += more;
                }
            }
            octets as f64 / (questions * query.len()) as f64
        };
        let (open, limited) = (received(0), received(20));
        assert!(open > 20.0, "each octet makes {open:.1}");
        assert!(limited < open / 4.0, "each octet makes {limited:.1} with a limit, {open:.1} without");
    })
    .unwrap();
}

/// Who validates, and who asks through whom: ours, Unbound and BIND say the same of what is signed, unsigned, spoilt and not there.
#[test]
#[ignore = "needs unshare, ip, unbound, named, dnssec-keygen and dnssec-signzone: tests/run clients"]
fn resolvers_of_three_makers_ask_through_each_other() {
    alone::test(|| {
        let hosts = "www A 192.0.2.1\nflaw TXT \"genuine\"\n";
        let mut zones = zones(&[("signed", SITE, hosts), ("plain", OTHER, hosts)]);
        for zone in zones.iter_mut().filter(|zone| zone.name != "plain.t.") {
            zone.signing = Signing::Nsec;
        }
        zones[0].flaw = Flaw::Altered;
        let internet = Internet::start(&zones).unwrap();
        for (behind, before) in [
            (Maker::Ours, Maker::Unbound),
            (Maker::Ours, Maker::Bind),
            (Maker::Unbound, Maker::Ours),
            (Maker::Bind, Maker::Ours),
            (Maker::Ours, Maker::Ours),
        ] {
            let upstream = internet.resolver(before, Way::Down, "").unwrap();
            let resolver = internet.resolver(behind, Way::Through(upstream.address()), "").unwrap();
            for (name, rtype, rcode, authentic, count) in [
                ("www.signed.t", Type::A, 0, true, 2),
                ("www.signed.t", Type::A, 0, true, 2),
                ("nobody.signed.t", Type::A, NXDOMAIN, true, 0),
                ("www.signed.t", Type::Txt, 0, true, 0),
                ("flaw.signed.t", Type::Txt, SERVFAIL, false, 0),
                ("www.plain.t", Type::A, 0, false, 1),
                ("nobody.plain.t", Type::A, NXDOMAIN, false, 0),
            ] {
                let answer = resolver.ask(name, rtype).unwrap();
                let said = (answer.rcode, answer.authentic, answer.answers.len());
                assert_eq!(said, (rcode, authentic, count), "{behind:?} through {before:?}: {name} {answer:?}");
            }
        }
    })
    .unwrap();
}

/// delv trusts nobody but the root's key, and gets all that it needs for that from our resolver.
#[test]
#[ignore = "needs unshare, ip, dig and delv: tests/run clients"]
fn delv_validates_through_our_resolver_when_the_lab_is_signed() {
    alone::test(|| {
        let lab = Lab::alone(&["--dnssec"]).unwrap();
        let keys =
            tests::nameserver::ask("dig", lab.address("a.root-servers.net", 53), &["+short", ".", "DNSKEY"]).unwrap();
        let words: Vec<&str> = keys.lines().next().unwrap().split_whitespace().collect();
        let folder = tempfile::tempdir().unwrap();
        let anchors = folder.path().join("anchors");
        let (numbers, key) = (words[..3].join(" "), words[3..].concat());
        fs::write(&anchors, format!("trust-anchors {{ . static-key {numbers} \"{key}\"; }};\n")).unwrap();
        for (name, rtype, wanted) in [
            ("www.someschool.edu", "A", "127.77.3.80"),
            ("www.ibm.com", "A", "servereast.backup2.ibm.com."),
            ("crepes.fr", "MX", "mail.crepes.fr."),
            ("crepes.fr", "TXT", "\"v=spf1 mx -all\""),
            ("_dmarc.crepes.fr", "TXT", "\"v=DMARC1; p=reject\""),
            ("_dmarc.hamburger.edu", "TXT", "\"v=DMARC1; p=reject\""),
            ("nobody.someschool.edu", "A", "NXDOMAIN"),
            ("www.someschool.edu", "AAAA", "NXRRSET"),
        ] {
            let mut delv = client("delv").unwrap();
            delv.args(["@127.77.1.2", "-a", &anchors.display().to_string(), "+root=.", name, rtype]);
            let said = run(&mut delv).unwrap();
            let told = said.out + &said.err;
            assert!(
                told.contains(wanted) && told.contains("fully validated") && !told.contains("unsigned"),
                "{name}: {told}"
            );
        }
    })
    .unwrap();
}

/// What a bad server says, if anything.
type Says = fn(&[u8]) -> Option<Vec<u8>>;

/// Servers of every bad kind, and what dig shows of them: an error that says why.
#[test]
#[ignore = "needs unshare, ip and dig: tests/run clients"]
fn dig_shows_why_a_name_cannot_be_found() {
    alone::test(|| {
        let liars: Vec<Ipv4Addr> = (1..=9).map(|last| Ipv4Addr::new(127, 53, 7, last)).collect();
        let names = ["silent", "refuses", "lame", "garbage", "cut", "loops", "chain", "upwards", "nxns"];
        let below: Vec<(&str, Ipv4Addr, &str)> = names.iter().zip(&liars).map(|(name, at)| (*name, *at, "")).collect();
        let mut zones = zones(&[&below[..], &[("dead", DEAD, "")]].concat());
        let top = zones.iter_mut().find(|zone| zone.name == "t.").unwrap();
        // Each knows only that the other knows.
        top.records += "circle1 NS ns.circle2\ncircle2 NS ns.circle1\n";
        let internet = Internet::start(&zones).unwrap();
        let says: [Says; 9] = [
            |_| None,
            |query| Some(reply(query, flags::REFUSED, [&[], &[], &[]])),
            // It refers to the zone that it should serve.
            |query| Some(reply(query, 0, [&[], &[("lame.t", Type::Ns, name_to_wire("ns.lame.t"))], &[]])),
            |query| Some([&query[..2], &[0x84, 0, 0, 1, 0, 9, 0, 0, 0, 0], &query[12..]].concat()),
            // Nobody is there over TCP.
            |query| Some(reply(query, flags::AUTHORITATIVE | flags::TRUNCATED, [&[], &[], &[]])),
            |query| {
                let circle = [
                    ("www.loops.t", Type::Cname, name_to_wire("web.loops.t")),
                    ("web.loops.t", Type::Cname, name_to_wire("www.loops.t")),
                ];
                Some(reply(query, flags::AUTHORITATIVE, [&circle, &[], &[]]))
            },
            // Each name is an alias of the next.
            |query| {
                let label = usize::from(query[12]);
                let first = String::from_utf8_lossy(&query[13..13 + label]).to_lowercase();
                let number = first.trim_start_matches('n').parse().map_or(0, |number: u32| number + 1);
                let (owner, next) = (format!("{first}.chain.t"), format!("n{number}.chain.t"));
                Some(reply(query, flags::AUTHORITATIVE, [&[(&owner, Type::Cname, name_to_wire(&next))], &[], &[]]))
            },
            |query| Some(reply(query, 0, [&[], &[("t", Type::Ns, name_to_wire("ns.upwards.t"))], &[]])),
            // CVE-2020-8616: whoever follows this asks a victim for the addresses of many servers.
            |query| {
                let names: Vec<String> = (0..20).map(|number| format!("n{number}.victim.t")).collect();
                let servers: Vec<_> = names.iter().map(|name| ("sub.nxns.t", Type::Ns, name_to_wire(name))).collect();
                Some(reply(query, 0, [&[], &servers, &[]]))
            },
        ];
        for (at, says) in liars.iter().zip(says) {
            liar(*at, move |socket, query, from| {
                if let Some(answer) = says(query) {
                    socket.send_to(&answer, from).unwrap();
                }
            })
            .unwrap();
        }
        let resolver = internet.resolver(Maker::Ours, Way::Down, "minimise_names = false").unwrap();
        for (name, wanted) in [
            (
                "www.silent.t",
                "EDE: 22 (No Reachable Authority): (no server of silent.t. gives a useful answer \
                (no answer in",
            ),
            (
                "www.refuses.t",
                "EDE: 22 (No Reachable Authority): (no server of refuses.t. gives a useful answer \
                (it says REFUSED))",
            ),
            ("www.lame.t", "gives a useful answer (it refers to where we come from (lame)))"),
            ("www.garbage.t", "gives a useful answer (the answer is malformed"),
            ("www.cut.t", "EDE: 22 (No Reachable Authority): (no server of cut.t. gives a useful answer ("),
            ("www.loops.t", "EDE: 0 (Other): (the aliases lead in a circle: www.loops.t. leads back to itself)"),
            ("www.chain.t", "EDE: 0 (Other): (the question makes too much work"),
            ("www.upwards.t", "it refers to where we come from (lame)"),
            (
                "www.sub.nxns.t",
                "EDE: 0 (Other): (the question makes too much work: \
                too many servers whose addresses must be looked for)",
            ),
            (
                // The system says at once that nobody is there.
                "www.dead.t",
                "EDE: 22 (No Reachable Authority): (no server of dead.t. gives a useful answer \
                (Connection refused",
            ),
            (
                "www.circle1.t",
                "EDE: 22 (No Reachable Authority): \
                (no address of a server of circle1.t. can be found)",
            ),
        ] {
            let said = resolver.dig(&["+timeout=12", name]).unwrap();
            assert!(said.contains("status: SERVFAIL") && said.contains(wanted), "{name} lacks `{wanted}`:\n{said}");
        }
        // Meanwhile, and after all that, others are served.
        assert_eq!(resolver.ask("nobody.t", Type::A).unwrap().rcode, NXDOMAIN);
    })
    .unwrap();
}
