//! Real programs talk to the name servers: dig, kdig, drill, host, nslookup, delv, zonemaster. They are the last word on
//! whether what we say is DNS.
//!
//! These tests need programs besides Rust, so plain `cargo test` lists them as ignored; `tests/run clients` runs them, and
//! there a program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;
use std::path::Path;

use tests::lab::Lab;
use tests::nameserver::{Ours, ask, client};
use tests::process::find_program;
use tests::program::{Ended, command, run};

const SCHOOL: &str = "ns.someschool.edu";
const ROOT: &str = "a.root-servers.net";

fn assert_all(said: &str, wants: &[&str], about: &[&str]) {
    for want in wants {
        assert!(said.contains(want), "{about:?} lacks `{want}`:\n{said}");
    }
}

#[test]
#[ignore = "needs dig: tests/run clients"]
fn dig_gets_what_each_of_its_options_asks_for() {
    let lab = Lab::up().unwrap();
    for (host, question, wants) in [
        (SCHOOL, &["+norecurse", "www.someschool.edu"][..], &["flags: qr aa;", "127.77.3.80", "(UDP)"][..]),
        (
            SCHOOL,
            &["+tcp", "+keepopen", "www.someschool.edu", "mail.someschool.edu"],
            &["127.77.3.80", "127.77.3.25", "(TCP)"],
        ),
        // 13 servers with their addresses: whole in 1232 octets, and in 512 of a client without EDNS.
        (ROOT, &[".", "NS"], &["ANSWER: 13", "ADDITIONAL: 14", "udp: 1232"]),
        (ROOT, &["+noedns", ".", "NS"], &["ANSWER: 13", "(UDP)"]),
        (SCHOOL, &["+bufsize=512", "someschool.edu", "TXT"], &["v=spf1 mx -all"]),
        // RFC 6891 §6.1.2: an option that nobody knows is passed over. §6.1.3: a version that nobody knows is not.
        (SCHOOL, &["+ednsopt=65001:01ff", "www.someschool.edu"], &["NOERROR", "127.77.3.80"]),
        (SCHOOL, &["+edns=1", "+noednsneg", "www.someschool.edu"], &["BADVERS", "EDNS: version: 0", "ANSWER: 0"]),
        (SCHOOL, &["+subnet=192.0.2.0/24", "www.someschool.edu"], &["127.77.3.80"]),
        // RFC 5001: which server is it? RFC 7873: a cookie of ours beside the client's, in the form that dig knows.
        (SCHOOL, &["+nsid", "www.someschool.edu"], &["NSID: ", "(\"ns.someschool.edu\")"]),
        (SCHOOL, &["+cookie", "www.someschool.edu"], &["COOKIE: ", "(good)"]),
        // RFC 8482 §4.1: one set.
        (SCHOOL, &["someschool.edu", "ANY"], &["NOERROR", "ANSWER: 1,"]),
        (SCHOOL, &["hostname.bind", "CH", "TXT"], &["\"ns.someschool.edu\""]),
        (SCHOOL, &["version.bind", "CH", "TXT"], &["\"tomte-dns "]),
        (SCHOOL, &["+opcode=STATUS", "www.someschool.edu"], &["NOTIMP"]),
        (SCHOOL, &["-x", "127.77.3.80"], &["REFUSED"]),
        (SCHOOL, &["wWw.SomeSchool.EDU", "+noall", "+answer"], &["wWw.SomeSchool.EDU."]),
    ] {
        assert_all(&ask("dig", lab.address(host, 8053), question).unwrap(), wants, question);
    }
}

#[test]
#[ignore = "needs kdig, drill, host and nslookup: tests/run clients"]
fn every_client_understands_every_kind_of_answer() {
    let lab = Lab::up().unwrap();
    for (program, host, question, wants) in [
        ("kdig", SCHOOL, &["www.someschool.edu"][..], &["status: NOERROR", "Flags: qr aa rd;", "127.77.3.80"][..]),
        (
            "kdig",
            SCHOOL,
            &["+tcp", "+keepopen", "www.someschool.edu", "ftp.someschool.edu"],
            &["127.77.3.80", "127.77.3.21", "(TCP)"],
        ),
        ("kdig", SCHOOL, &["+padding=128", "nobody.someschool.edu"], &["NXDOMAIN", "SOA"]),
        ("kdig", SCHOOL, &["+nsid", "+cookie", "www.someschool.edu"], &["NSID: ", "\"ns.someschool.edu\"", "COOKIE: "]),
        ("drill", SCHOOL, &["www.someschool.edu"], &["rcode: NOERROR", "127.77.3.80"]),
        ("drill", SCHOOL, &["-t", "_http._tcp.someschool.edu", "SRV"], &["0 0 80 www.someschool.edu.", "127.77.3.80"]),
        ("drill", SCHOOL, &["-D", "nobody.someschool.edu"], &["rcode: NXDOMAIN", "SOA", "flags: do"]),
        ("host", SCHOOL, &["www.someschool.edu"], &["www.someschool.edu has address 127.77.3.80"]),
        ("host", SCHOOL, &["-t", "MX", "someschool.edu"], &["mail is handled by 10 mail.someschool.edu."]),
        ("host", SCHOOL, &["nobody.someschool.edu"], &["not found: 3(NXDOMAIN)"]),
        ("host", "ns.ibm.com", &["www.ibm.com"], &["is an alias for servereast.backup2.ibm.com.", "127.77.4.80"]),
        ("nslookup", SCHOOL, &["www.someschool.edu"], &["Name:\twww.someschool.edu", "Address: 127.77.3.80"]),
        ("nslookup", SCHOOL, &["-type=MX", "someschool.edu"], &["mail exchanger = 10 mail.someschool.edu."]),
        ("nslookup", SCHOOL, &["nobody.someschool.edu"], &["can't find nobody.someschool.edu: NXDOMAIN"]),
        ("nslookup", "ns.crepes.fr", &["www.someschool.edu"], &["REFUSED"]),
    ] {
        let said = ask(program, lab.address(host, 8053), question).unwrap();
        assert_all(&said, wants, &[&[program], question].concat());
    }
}

#[test]
#[ignore = "needs kdig: tests/run clients"]
fn kdig_asks_over_tls_and_trusts_the_name_of_the_server_only() {
    let lab = Lab::up().unwrap();
    let server = lab.address(SCHOOL, 8853);
    let authority = format!("+tls-ca={}", lab.state().join("ca/ca.crt").display());
    let said = |hostname| {
        let hostname = format!("+tls-hostname={hostname}");
        ask("kdig", server, &[&authority, &hostname, "+keepopen", "www.someschool.edu", "mail.someschool.edu"]).unwrap()
    };
    assert_all(&said(SCHOOL), &["TLS1.3", "NOERROR", "127.77.3.80", "127.77.3.25"], &[SCHOOL]);
    let impostor = said("ns.crepes.fr");
    assert!(impostor.contains("certificate") && !impostor.contains("127.77.3.80"), "{impostor}");
}

/// Runs a script beside the whole lab, with the real ports, in a network of their own where there is nothing but loopback. There
/// the addresses are the shipped ones, and `/etc/hosts` says what a resolver would. `$HINTS` has the root server.
fn beside_the_lab(flags: &[&str], script: &str) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    file("hints", ". 3600 IN NS a.root-servers.net.\na.root-servers.net. 3600 IN A 127.77.0.1\n");
    // dig asks its resolver where the servers are that a referral names, although the glue is beside it.
    let root: Vec<String> = ('a'..='m').map(|letter| format!("{letter}.root-servers.net")).collect();
    file("hosts", &format!("127.77.0.1 {}\n127.77.0.3 ns.nic.edu\n127.77.3.53 ns.someschool.edu\n", root.join(" ")));
    let around = "export PATH=$PATH:/sbin:/usr/sbin; ip link set lo up && mount --bind hosts /etc/hosts || exit 2
        : >up.log; \"$@\" >>up.log 2>&1 &
        lab=$!
        tail --pid=$lab --lines=+1 --follow up.log | grep --quiet Ctrl-C || { cat up.log; exit 3; }
        eval \"$SCRIPT\"
        kill -INT $lab; wait $lab";
    find_program("ip", "iproute2").unwrap();
    let mut alone = client("unshare").unwrap();
    alone.args(["--user", "--map-root-user", "--net", "--mount", "--kill-child", "sh", "-c", around, "sh"]);
    let up = command("tomte").unwrap();
    alone.arg(up.get_program()).args(["up", "--privileged-ports", "--state", "state"]).args(flags);
    run(alone.current_dir(folder.path()).env("SCRIPT", script).env("HINTS", "hints")).unwrap()
}

#[test]
#[ignore = "needs unshare, ip, dig and drill: tests/run clients"]
fn dig_and_drill_follow_the_name_from_the_root_by_themselves() {
    client("dig").unwrap();
    client("drill").unwrap();
    let said = beside_the_lab(
        &[],
        "dig @127.77.0.1 +trace +nodnssec www.someschool.edu; drill -T -r $HINTS www.someschool.edu | sed 's/^/drill: /'",
    );
    assert_eq!(said.code, Some(0), "{said:?}");
    let (dig, drill): (Vec<&str>, Vec<&str>) = said.out.lines().partition(|line| !line.starts_with("drill: "));
    let received: Vec<&str> = dig.iter().copied().filter(|line| line.contains(";; Received ")).collect();
    assert_eq!(received.len(), 4, "the root's servers, edu's, the school's, the answer: {dig:#?}");
    for (line, server) in received.iter().zip(["127.77.0.1", "127.77.0.1", "127.77.0.3", "127.77.3.53"]) {
        assert!(line.contains(&format!("from {server}#53")), "{line}");
    }
    assert!(
        dig.iter().any(|line| line.starts_with("www.someschool.edu.") && line.ends_with("127.77.3.80")),
        "{dig:#?}"
    );
    let [.., edu, school, answer] = &drill[..] else { panic!("{drill:#?}") };
    assert!(edu.contains("ns.nic.edu.") && school.contains("ns.someschool.edu."), "{drill:#?}");
    assert!(answer.contains("www.someschool.edu.") && answer.ends_with("127.77.3.80"), "{answer}");
}

/// C108: eight messages, from the root down. C113: the second time there are two, and what is remembered can be listed. C120: the
/// answer of a cache is not authoritative.
#[test]
#[ignore = "needs unshare, ip and nslookup: tests/run clients"]
fn a_local_name_server_goes_down_the_tree_once_and_remembers() {
    client("nslookup").unwrap();
    let tomte = command("tomte").unwrap();
    let script = "tomte() { \"$TOMTE\" \"$@\" --state state; }
        tomte dns trace www.someschool.edu | sed 's/^/cold: /'; tomte dns trace www.someschool.edu | sed 's/^/warm: /'
        nslookup www.someschool.edu 127.77.1.2
        tomte cache list --host resolver.crepes.fr; tomte cache purge edu --host resolver.crepes.fr
        tomte cache list --host resolver.crepes.fr
        dig @127.77.1.2 nobody.crepes.fr +noall +comments; dig @127.77.2.2 alice.crepes.fr +short";
    let script = script.replace("$TOMTE", &tomte.get_program().to_string_lossy());
    let said = beside_the_lab(&[], &script);
    assert_eq!(said.code, Some(0), "{said:?}");
    let drawn = |mark: &str| -> Vec<String> {
        let lines = said.out.lines().filter_map(|line| line.strip_prefix(mark)).map(str::trim_start);
        let numbered = lines.filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
        numbered.map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" ")).collect()
    };
    let (root, edu, school) = ("a.root-servers.net", "ns.nic.edu", "ns.someschool.edu");
    let resolver = "resolver.crepes.fr";
    let steps = [
        ("you", resolver),
        (resolver, root),
        (root, resolver),
        (resolver, edu),
        (edu, resolver),
        (resolver, school),
        (school, resolver),
        (resolver, "you"),
    ];
    assert_eq!(drawn("cold: "), steps.map(|(from, to)| format!("{from} -> {to}")));
    assert_eq!(drawn("warm: ").len(), 2);
    let want = [
        "Non-authoritative answer:",
        "Address: 127.77.3.80",
        "NS ns.someschool.edu. ; referral, from 127.77.0.3:53",
        "A 127.77.3.80 ; answer of the authority, from 127.77.3.53:53",
        "entries forgotten",
        "resolver.crepes.fr: empty",
        "status: NXDOMAIN",
        "mail.crepes.fr.\n127.77.1.25",
    ];
    assert_all(&said.out, &want, &[]);
}

#[test]
#[ignore = "needs unshare, ip, dig and drill: tests/run clients"]
fn drill_trusts_every_step_from_the_root_when_the_lab_is_signed() {
    client("dig").unwrap();
    client("drill").unwrap();
    let script = "dig @127.77.0.1 +noall +answer . DNSKEY >key
        drill -TD -k key -r $HINTS www.someschool.edu; drill -TD -k key -r $HINTS nobody.someschool.edu";
    let said = beside_the_lab(&["--dnssec"], script);
    assert_eq!(said.code, Some(0), "{said:?}");
    let steps: Vec<&str> = said.out.lines().filter(|line| line.starts_with('[')).collect();
    assert!(steps.iter().all(|step| step.starts_with("[T] ")), "{steps:#?}");
    for trusted in [
        ". 86400 IN DNSKEY",
        "edu. 172800 IN DS",
        "edu. 86400 IN DNSKEY",
        "someschool.edu. 172800 IN DS",
        "someschool.edu. 3600 IN DNSKEY",
        "www.someschool.edu.\t3600\tIN\tA\t127.77.3.80",
        "Existence denied: nobody.someschool.edu. A",
    ] {
        assert!(steps.iter().any(|step| step[4..].starts_with(trusted)), "no `{trusted}` in {steps:#?}");
    }
}

/// What zonemaster does not like about a site of the lab, each with the reason why it is so.
const EXPECTED: [&str; 11] = [
    // The lab is on loopback, and has no names for addresses.
    "NAMESERVER_IP_PRIVATE_NETWORK",
    "NAMESERVER_IP_WITHOUT_REVERSE",
    // A site of the textbook has one name server, without IPv6.
    "NOT_ENOUGH_NS_CHILD",
    "NOT_ENOUGH_NS_DEL",
    "NOT_ENOUGH_IPV4_NS_CHILD",
    "NOT_ENOUGH_IPV4_NS_DEL",
    "NO_IPV6_NS_CHILD",
    "NO_IPV6_NS_DEL",
    // Whoever is in the lab may look at all of it.
    "AXFR_AVAILABLE",
    // Its times are short, so that a lesson sees them pass.
    "REFRESH_MINIMUM_VALUE_LOWER",
    "RETRY_MINIMUM_VALUE_LOWER",
];

/// The same about its signatures, when it has none.
const UNSIGNED: [&str; 3] = ["NEITHER_DNSKEY_NOR_DS", "NOT_SIGNED", "ZONE_NOT_SIGNED"];

#[test]
#[ignore = "needs unshare, ip and zonemaster-cli: tests/run clients"]
fn zonemaster_finds_nothing_but_what_the_lab_is_meant_to_be() {
    client("zonemaster-cli").unwrap();
    for (flags, unsigned) in [(&[][..], &UNSIGNED[..]), (&["--dnssec"], &[])] {
        let script = "zonemaster-cli --hints $HINTS --no-ipv6 --no-time --raw --level NOTICE someschool.edu";
        let said = beside_the_lab(flags, script);
        assert_eq!(said.code, Some(0), "{said:?}");
        let found: Vec<&str> = said.out.lines().filter(|line| !line.trim().is_empty()).collect();
        assert!(found.iter().any(|line| line.contains("RETRY_MINIMUM_VALUE_LOWER")), "it looked at the zone: {said:?}");
        for line in found {
            let is_expected = |tag: &&str| line.contains(*tag);
            assert!(EXPECTED.iter().chain(unsigned).any(is_expected), "{flags:?}: {line}\n{said:?}");
        }
    }
}

/// A zone in which each kind of answer, and of denial, can be had.
const SIGNABLE: &str = "$ORIGIN signed.test.
$TTL 1h
@      SOA   ns hostmaster ( 1 1h 15m 1w 5m )
       NS    ns
       MX    10 www
ns     A     127.0.0.1
www    A     192.0.2.1
       A     192.0.2.2
alias  CNAME www
a.deep A     192.0.2.3
*.wild TXT   \"a wildcard\"
old    DNAME deep
sub    NS    ns.sub
ns.sub A     127.0.0.1
";

/// The questions whose answers a validator must believe: name, type, and what delv says then.
const BELIEVED: [(&str, &str, &str); 10] = [
    ("signed.test", "SOA", "; fully validated"),
    ("www.signed.test", "A", "192.0.2.2"),
    ("WWW.signed.test", "A", "; fully validated"),
    ("alias.signed.test", "A", "192.0.2.1"),
    ("x.wild.signed.test", "TXT", "a wildcard"),
    ("a.old.signed.test", "A", "192.0.2.3"),
    ("nobody.signed.test", "A", "ncache nxdomain"),
    ("www.signed.test", "AAAA", "ncache nxrrset"),
    ("deep.signed.test", "A", "ncache nxrrset"),
    ("x.wild.signed.test", "A", "ncache nxrrset"),
];

/// Asks delv, which validates by itself from the key that the server shows: whoever runs the server may trust it.
fn assert_delv_believes(dns: &Ours, zone: &str) {
    let keys = dns.dig(&["+noall", "+answer", zone, "DNSKEY"]).unwrap();
    let keys = keys.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    // 257: a zone's entry point, which signs its keys (RFC 4034 §2.1.1).
    let anchors = keys
        .filter(|words| words.get(4) == Some(&"257"))
        .map(|words| format!("\"{zone}.\" static-key 257 {} {} \"{}\";", words[5], words[6], words[7..].concat()));
    let anchors: Vec<String> = anchors.collect();
    assert!(!anchors.is_empty(), "{zone} shows no key");
    let file = dns.folder().join("anchors").display().to_string();
    fs::write(&file, format!("trust-anchors {{ {} }};\n", anchors.join("\n"))).unwrap();
    for (name, qtype, wanted) in BELIEVED {
        let at = [format!("@{}", dns.address().ip()), "-p".to_owned(), dns.address().port().to_string()];
        let how = ["-a".to_owned(), file.clone(), format!("+root={zone}"), name.to_owned(), qtype.to_owned()];
        let Ended { out, err, .. } = run(client("delv").unwrap().args(at).args(how)).unwrap();
        let told = out + &err;
        assert!(told.contains(wanted) && told.contains("fully validated"), "{name} {qtype} lacks {wanted}:\n{told}");
        assert!(!told.contains("unsigned"), "{name} {qtype}:\n{told}");
    }
}

#[test]
#[ignore = "needs dig and delv: tests/run clients"]
fn delv_believes_a_zone_that_signs_itself() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("signed.zone"), SIGNABLE).unwrap();
    let zones = r#"zones = [{ name = "signed.test", file = "{folder}/signed.zone", dnssec = "sign" }]"#;
    assert_delv_believes(&Ours::start(folder, zones).unwrap(), "signed.test");
}

#[test]
#[ignore = "needs dig, delv, dnssec-keygen and dnssec-signzone: tests/run clients"]
fn delv_believes_a_zone_that_was_signed_elsewhere() {
    for denial in [&[][..], &["-3", "ab", "-H", "3"], &["-3", "-"]] {
        let folder = tempfile::tempdir().unwrap();
        sign(folder.path(), denial);
        let zones = r#"zones = [{ name = "signed.test", file = "{folder}/signed.zone.signed" }]"#;
        assert_delv_believes(&Ours::start(folder, zones).unwrap(), "signed.test");
    }
}

/// Signs [`SIGNABLE`] as an administrator of BIND does: `signed.zone.signed`.
fn sign(folder: &Path, denial: &[&str]) {
    fs::write(folder.join("signed.zone"), SIGNABLE).unwrap();
    for kind in [&["-f", "KSK"][..], &[]] {
        let mut keygen = client("dnssec-keygen").unwrap();
        keygen.current_dir(folder).args(["-q", "-a", "ECDSAP256SHA256"]).args(kind);
        run(keygen.arg("signed.test")).unwrap().with_code(0).unwrap();
    }
    let mut signzone = client("dnssec-signzone").unwrap();
    signzone.current_dir(folder).args(["-S", "-q", "-o", "signed.test"]).args(denial).arg("signed.zone");
    run(&mut signzone).unwrap().with_code(0).unwrap();
}
