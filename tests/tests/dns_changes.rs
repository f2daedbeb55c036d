//! Zones that change, with the programs that people use for it: nsupdate with a key, dig for transfers, BIND as a secondary of
//! ours and ours as one of BIND.
//!
//! These tests need programs besides Rust, so plain `cargo test` lists them as ignored; `tests/run clients` runs them, and
//! there a program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fs;

use tempfile::TempDir;
use tests::nameserver::{Key, Ours, nsupdate};

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
