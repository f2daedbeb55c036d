//! Zones that change, with the programs that people use for it: nsupdate with a key, dig for transfers, BIND as a secondary of
//! ours and ours as one of BIND.
//!
//! These tests need programs besides Rust, so plain `cargo test` lists them as ignored; `tests/run clients` runs them, and
//! there a program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;
use tests::lab::Lab;
use tests::nameserver::{Bind, Key, Ours, ask, client, nsupdate, until};
use tests::process::free_address;
use tests::program::run;

const ZONE: &str = "$ORIGIN change.test.
$TTL 1h
@    SOA  ns hostmaster ( 1 1h 1s 1w 5m )
     NS   ns
ns   A    127.0.0.1
www  A    192.0.2.1
     A    192.0.2.2
old  A    192.0.2.3
";

const KEY: Key =
    Key { name: "admin.test", algorithm: "hmac-sha256", secret: "dGhlIGxhYiBrbm93cyBpdCwgYW5kIHNvIGRvIHlvdSE=" };

fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("change.zone"), ZONE).unwrap();
    folder
}

/// Ours, with the zone that whoever has the key may change and copy.
fn primary(more: &str) -> Ours {
    let key = KEY.ours();
    let zone = r#"name = "change.test", file = "{folder}/change.zone", update = ["key:admin.test"], transfer = ["key:admin.test"]"#;
    Ours::start(folder(), &format!("keys = [{key}]\nzones = [{{ {zone}{more} }}]\n")).unwrap()
}

fn short(ours: &Ours, question: &[&str]) -> Vec<String> {
    let said = ours.dig(&[&["+short"], question].concat()).unwrap();
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
#[ignore = "needs nsupdate and dig: tests/run clients"]
fn nsupdate_changes_a_zone_and_the_change_survives_a_restart() {
    let ours = primary("");
    let flag = KEY.flag();
    let update = |arguments: &[&str], script: &str| {
        nsupdate(ours.address(), &[&["-y", &flag], arguments].concat(), &format!("zone change.test\n{script}\nsend"))
            .unwrap()
    };
    // RFC 2136 §2.4 and §2.5: prerequisites and changes of each kind; `-v` is over TCP.
    for (turn, (script, question, wants)) in [
        (
            "prereq nxdomain new.change.test\nupdate add new.change.test 60 A 192.0.2.9",
            ["new.change.test", "A"],
            &["192.0.2.9"][..],
        ),
        (
            "prereq yxdomain new.change.test\nupdate add new.change.test 60 A 192.0.2.10",
            ["new.change.test", "A"],
            &["192.0.2.10", "192.0.2.9"],
        ),
        (
            "prereq yxrrset www.change.test A\nupdate delete www.change.test A 192.0.2.1",
            ["www.change.test", "A"],
            &["192.0.2.2"],
        ),
        ("prereq yxrrset www.change.test A 192.0.2.2\nupdate delete www.change.test A", ["www.change.test", "A"], &[]),
        ("prereq nxrrset old.change.test TXT\nupdate delete old.change.test", ["old.change.test", "A"], &[]),
        (
            "update delete old.change.test\nupdate add old.change.test 60 CNAME new.change.test.",
            ["old.change.test", "CNAME"],
            &["new.change.test."],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let ended = update(if turn % 2 == 0 { &[] } else { &["-v"] }, script);
        assert_eq!(ended.code, Some(0), "{script}: {ended:?}");
        assert_eq!(short(&ours, &question), wants, "{script}");
    }
    // The zone's serial has grown, or nobody would copy the changes.
    let soa = short(&ours, &["change.test", "SOA"]);
    let serial: u32 = soa[0].split(' ').nth(2).unwrap().parse().unwrap();
    assert!(serial > 1, "{soa:?}");

    let ours = ours.restart().unwrap();
    assert_eq!(short(&ours, &["new.change.test", "A"]), ["192.0.2.10", "192.0.2.9"]);
    assert_eq!(short(&ours, &["change.test", "SOA"]), soa);
}

#[test]
#[ignore = "needs nsupdate and dig: tests/run clients"]
fn an_update_that_may_not_be_or_cannot_be_is_told_why_and_changes_nothing() {
    let ours = primary("");
    let wrong = Key { secret: "bm90IHRoZSBzZWNyZXQgb2YgdGhlIGxhYiBhdCBhbGw=", ..KEY };
    let unknown = Key { name: "nobody.test", ..KEY };
    let add = "update add new.change.test 60 A 192.0.2.9";
    for (key, script, wants) in [
        (None, add, "REFUSED"),
        (Some(wrong), add, "BADSIG"),
        (Some(unknown), add, "BADKEY"),
        (Some(KEY), "prereq nxdomain www.change.test\nupdate add new.change.test 60 A 192.0.2.9", "YXDOMAIN"),
        (Some(KEY), "prereq yxdomain nobody.change.test\nupdate add new.change.test 60 A 192.0.2.9", "NXDOMAIN"),
        (
            Some(KEY),
            "prereq yxrrset www.change.test A 192.0.2.77\nupdate add new.change.test 60 A 192.0.2.9",
            "NXRRSET",
        ),
        (Some(KEY), "prereq nxrrset www.change.test A\nupdate add new.change.test 60 A 192.0.2.9", "YXRRSET"),
        (Some(KEY), "update add new.elsewhere.test 60 A 192.0.2.9", "NOTZONE"),
    ] {
        let flag = key.map(|key| key.flag());
        let arguments: Vec<&str> = flag.iter().flat_map(|flag| ["-y", flag.as_str()]).collect();
        let ended = nsupdate(ours.address(), &arguments, &format!("zone change.test\n{script}\nsend")).unwrap();
        let told = format!("{}{}", ended.out, ended.err);
        assert!(ended.code != Some(0) && told.contains(wants), "{script} lacks {wants}: {ended:?}");
        assert_eq!(short(&ours, &["new.change.test", "A"]), [""; 0], "{script}");
    }
    let other =
        nsupdate(ours.address(), &["-y", &KEY.flag()], "zone other.test\nupdate add a.other.test 60 A 192.0.2.9\nsend");
    assert!(other.unwrap().err.contains("NOTAUTH"));
    assert!(short(&ours, &["change.test", "SOA"])[0].contains(" 1 "), "the serial is as it was");
}

#[test]
#[ignore = "needs nsupdate and dig: tests/run clients"]
fn each_algorithm_of_a_key_is_understood() {
    for algorithm in ["hmac-sha1", "hmac-sha256", "hmac-sha384", "hmac-sha512"] {
        let key = Key { algorithm, ..KEY };
        let zone = r#"name = "change.test", file = "{folder}/change.zone", update = ["key:admin.test"]"#;
        let ours = Ours::start(folder(), &format!("keys = [{}]\nzones = [{{ {zone} }}]\n", key.ours())).unwrap();
        let script = "zone change.test\nupdate add new.change.test 60 A 192.0.2.9\nsend";
        let ended = nsupdate(ours.address(), &["-y", &key.flag()], script).unwrap();
        assert_eq!(ended.code, Some(0), "{algorithm}: {ended:?}");
        // dig checks the signature of a signed answer.
        let said = ours.dig(&["-y", &key.flag(), "new.change.test"]).unwrap();
        assert!(said.contains("192.0.2.9") && said.contains("TSIG") && !said.contains("verify"), "{said}");
    }
}

/// Adds `name.change.test`.
fn add(server: SocketAddr, name: &str) {
    let script = format!("zone change.test\nupdate add {name}.change.test 60 A 192.0.2.200\nsend");
    let ended = nsupdate(server, &["-y", &KEY.flag()], &script).unwrap();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// Waits until a server answers with the address that [`add`] gave.
fn until_known(server: SocketAddr, name: &str) {
    let question = ["+short", &format!("{name}.change.test"), "A"];
    let what = format!("{server} knows {name}.change.test");
    until(&what, || Ok(ask("dig", server, &question)?.trim() == "192.0.2.200")).unwrap();
}

/// The serial in what `dig` says of a SOA record.
fn serial(soa: &str) -> u32 {
    soa.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs nsupdate and dig: tests/run clients"]
fn dig_copies_a_zone_whole_and_what_has_changed_in_it() {
    let ours = primary("");
    let flag = KEY.flag();
    let axfr = ours.dig(&["-y", &flag, "+nocomments", "+nostats", "change.test", "AXFR"]).unwrap();
    let records: Vec<&str> = axfr.lines().filter(|line| line.contains("\tIN\t")).collect();
    // RFC 5936 §2.2: it begins and ends with the SOA.
    assert_eq!(records.len(), 7, "{axfr}");
    assert!(records[0].contains("\tSOA\t") && records[0] == records[6], "{axfr}");

    add(ours.address(), "new");
    let ixfr = ours.dig(&["-y", &flag, "+nocomments", "+nostats", "change.test", "IXFR=1"]).unwrap();
    let records: Vec<&str> = ixfr.lines().filter(|line| line.contains("\tIN\t")).collect();
    // RFC 1995 §4: the new SOA; the old one and what is gone; the new one and what is there; the new SOA.
    let types: Vec<&str> = records.iter().filter_map(|line| line.split_whitespace().nth(3)).collect();
    assert_eq!(types, ["SOA", "SOA", "SOA", "A", "SOA"], "{ixfr}");
    let now = serial(&ours.dig(&["+short", "change.test", "SOA"]).unwrap());
    let ixfr = ours.dig(&["-y", &flag, "+nocomments", "+nostats", "change.test", &format!("IXFR={now}")]).unwrap();
    assert_eq!(ixfr.lines().filter(|line| line.contains("\tSOA\t")).count(), 1, "nothing has changed since: {ixfr}");

    // kdig reads transfers by rules of its own.
    let kdig = ask("kdig", ours.address(), &["-y", &flag, "change.test", "AXFR"]).unwrap();
    assert!(kdig.contains("new.change.test.") && !kdig.contains(";; WARNING") && !kdig.contains(";; ERROR"), "{kdig}");

    for stranger in [&["change.test", "AXFR"][..], &["change.test", "IXFR=1"], &["-y", &flag, "other.test", "AXFR"]] {
        let said = ours.dig(stranger).unwrap();
        assert!(said.contains("Transfer failed") && !said.contains("192.0.2."), "{stranger:?}: {said}");
    }
}

#[test]
#[ignore = "needs dig, kdig and BIND: tests/run clients"]
fn a_zone_of_many_messages_is_copied_whole_by_everybody() {
    let folder = folder();
    let names: Vec<String> =
        (0..20_000).map(|number| format!("host-{number} A 10.0.{}.{}", number >> 8, number & 255)).collect();
    fs::write(folder.path().join("change.zone"), format!("{ZONE}{}\n", names.join("\n"))).unwrap();
    let zone = r#"name = "change.test", file = "{folder}/change.zone", transfer = ["key:admin.test"]"#;
    let ours = Ours::start(folder, &format!("keys = [{}]\nzones = [{{ {zone} }}]\n", KEY.ours())).unwrap();
    for program in ["dig", "kdig"] {
        let said = ask(program, ours.address(), &["-y", &KEY.flag(), "change.test", "AXFR"]).unwrap();
        let hosts = said.lines().filter(|line| line.starts_with("host-")).count();
        assert_eq!(hosts, 20_000, "{program}: {}", &said[said.len().saturating_sub(400)..]);
        assert!(!said.contains("Transfer failed") && !said.contains(";; ERROR") && !said.contains(";; WARNING"));
    }
    let bind = secondary(free_address().unwrap(), ours.address());
    until("BIND has copied the zone", || Ok(bind.dig(&["+short", "host-19999.change.test"])?.contains("10.0.78.31")))
        .unwrap();
}

/// BIND with a copy of the zone of `primary`.
fn secondary(address: SocketAddr, primary: SocketAddr) -> Bind {
    let configuration = format!(
        "{}\nzone \"change.test\" {{ type secondary; file \"copy\"; primaries {{ {} port {} key \"{}\"; }}; }};",
        KEY.bind(),
        primary.ip(),
        primary.port(),
        KEY.name
    );
    Bind::start_at(address, tempfile::tempdir().unwrap(), &configuration).unwrap()
}

#[test]
#[ignore = "needs nsupdate, dig and BIND: tests/run clients"]
fn bind_follows_a_zone_of_ours() {
    let (primary_at, bind_at) = (free_address().unwrap(), free_address().unwrap());
    let key = KEY.ours();
    let zone = r#"name = "change.test", file = "{folder}/change.zone", update = ["key:admin.test"], transfer = ["key:admin.test"]"#;
    let zones = format!("keys = [{key}]\nzones = [{{ {zone}, notify = [\"{bind_at}\"], key = \"{}\" }}]\n", KEY.name);
    let ours = Ours::start_at(primary_at, folder(), &zones).unwrap();
    let bind = secondary(bind_at, primary_at);
    until("BIND has copied the zone", || Ok(bind.dig(&["+short", "www.change.test"])?.contains("192.0.2.1"))).unwrap();
    // It is told of each change, and asks for the difference. The zone's refresh is an hour: without NOTIFY it would not know.
    for name in ["first", "second", "third"] {
        add(ours.address(), name);
        until_known(bind_at, name);
    }
    let log = bind.log().unwrap();
    assert!(log.contains("received notify for zone 'change.test': TSIG 'admin.test'"), "{log}");
    // The difference has five records: the new SOA, the old one, the new one with the address, the new one. The zone has more.
    assert_eq!(log.matches("Transfer completed: 1 messages, 5 records").count(), 3, "{log}");
    let soa = ["+short", "change.test", "SOA"];
    assert_eq!(ours.dig(&soa).unwrap(), bind.dig(&soa).unwrap());
}

#[test]
#[ignore = "needs nsupdate, dig and BIND: tests/run clients"]
fn ours_follows_a_zone_of_bind_and_keeps_its_copy_over_a_restart() {
    let (ours_at, bind_at) = (free_address().unwrap(), free_address().unwrap());
    let configuration = format!(
        "{}\nzone \"change.test\" {{ type primary; file \"change.zone\"; allow-update {{ key \"{key}\"; }}; \
        allow-transfer {{ key \"{key}\"; }}; notify explicit; also-notify {{ {} port {} key \"{key}\"; }}; }};",
        KEY.bind(),
        ours_at.ip(),
        ours_at.port(),
        key = KEY.name
    );
    let bind = Bind::start_at(bind_at, folder(), &configuration).unwrap();
    until("BIND serves the zone", || Ok(bind.dig(&["+short", "www.change.test"])?.contains("192.0.2.1"))).unwrap();
    let zones = format!(
        "keys = [{}]\nzones = [{{ name = \"change.test\", primaries = [\"{bind_at}\"], key = \"{}\" }}]\n",
        KEY.ours(),
        KEY.name
    );
    let ours = Ours::start_at(ours_at, tempfile::tempdir().unwrap(), &zones).unwrap();
    until("ours has copied the zone", || Ok(ours.dig(&["+short", "www.change.test"])?.contains("192.0.2.1"))).unwrap();
    for name in ["first", "second", "third"] {
        add(bind_at, name);
        until_known(ours_at, name);
    }
    let soa = ["+short", "change.test", "SOA"];
    assert_eq!(ours.dig(&soa).unwrap(), bind.dig(&soa).unwrap());
    drop(bind);
    let ours = ours.restart().unwrap();
    until_known(ours.address(), "third");
}

/// A signed zone is copied with its signatures, and they are right.
#[test]
#[ignore = "needs dig and ldns-verify-zone: tests/run clients"]
fn ldns_verifies_the_copy_of_a_zone_that_signs_itself() {
    let ours = primary(", dnssec = \"sign\"");
    let flag = KEY.flag();
    let verify = |ours: &Ours| {
        let axfr =
            ours.dig(&["-y", &flag, "+onesoa", "+nocomments", "+nostats", "+nocmd", "change.test", "AXFR"]).unwrap();
        let records: Vec<&str> = axfr.lines().filter(|line| !line.contains("TSIG")).collect();
        let file = ours.folder().join("copy.zone");
        fs::write(&file, records.join("\n") + "\n").unwrap();
        let ended = run(client("ldns-verify-zone").unwrap().arg(&file)).unwrap();
        assert!(ended.code == Some(0) && ended.out.contains("Zone is verified and complete"), "{ended:?}\n{axfr}");
        axfr
    };
    verify(&ours);
    // A change is signed at once.
    add(ours.address(), "new");
    assert!(verify(&ours).contains("new.change.test."));
}

/// CLAIMS C122: a start-up registers its name, two records in com, and everybody finds it.
#[test]
#[ignore = "needs nsupdate and dig: tests/run clients"]
fn networkutopia_is_registered_in_the_lab_by_whoever_has_the_registrars_key() {
    let lab = Lab::up().unwrap();
    let com = lab.address("ns.nic.com", 8053);
    let key = Key { name: "registrar", algorithm: "hmac-sha256", secret: "dG9tdGUtbGFiLXJlZ2lzdHJhci1zZWNyZXQ=" };
    let referral = || ask("dig", com, &["+norecurse", "www.networkutopia.com"]).unwrap();
    assert!(referral().contains("NXDOMAIN"));
    let script = "zone com
update add networkutopia.com 172800 NS dns1.networkutopia.com.
update add dns1.networkutopia.com 172800 A 212.212.212.1
send";
    let stranger = nsupdate(com, &[], script).unwrap();
    assert!(stranger.err.contains("REFUSED"), "{stranger:?}");
    let registered = nsupdate(com, &["-y", &key.flag()], script).unwrap();
    assert_eq!(registered.code, Some(0), "{registered:?}");
    let said = referral();
    for words in ["NOERROR", "ANSWER: 0, AUTHORITY: 1", "dns1.networkutopia.com.", "212.212.212.1"] {
        assert!(said.contains(words), "no `{words}` in {said}");
    }
    // What is registered is public: the school lets everybody in the lab look at its zone, Alice's site does not.
    let school = ask("dig", lab.address("ns.someschool.edu", 8053), &["someschool.edu", "AXFR"]).unwrap();
    assert!(school.contains("www.someschool.edu.") && school.contains("XFR size"), "{school}");
    let alice = ask("dig", lab.address("ns.crepes.fr", 8053), &["crepes.fr", "AXFR"]).unwrap();
    assert!(alice.contains("Transfer failed"), "{alice}");
}
