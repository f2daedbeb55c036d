//! Guessing passwords takes time.

use crate::stage::{PATIENCE, Stage};
use std::{os::unix::fs::symlink, time::Instant};
use web::{Config, Protect};

/// Base64 of `alice:crepes`.
const RIGHT: &str = "Authorization: Basic YWxpY2U6Y3JlcGVz\r\n";
/// Base64 of `alice:hungry`.
const WRONG: &str = "Authorization: Basic YWxpY2U6aHVuZ3J5\r\n";
/// Base64 of `mallory:crepes`.
const UNKNOWN: &str = "Authorization: Basic bWFsbG9yeTpjcmVwZXM=\r\n";

#[test]
fn a_wrong_guess_is_answered_late_and_other_tries_meanwhile_with_429() {
    let stage = Stage::new();
    for guess in [WRONG, UNKNOWN] {
        let mut guesser = stage.connect();
        guesser.send(format!("GET /vault/plan.txt HTTP/1.1\r\nHost: x\r\n{guess}\r\n"));
        // The same address may not try again before the pause is over, not even with the right password.
        let began = Instant::now();
        let too_soon = loop {
            match stage.get("/vault/plan.txt", RIGHT) {
                answer if answer.status == 429 => break answer,
                answer => assert_eq!(answer.status, 200),
            }
            assert!(began.elapsed() < PATIENCE, "the wrong guess has no consequence");
        };
        let wait: u64 = too_soon.field("Retry-After").unwrap().parse().unwrap();
        assert!((1..=4).contains(&wait), "{wait}");
        let answer = guesser.answer();
        assert_eq!(answer.status, 401);
        assert!(answer.text().contains("User or password is wrong."), "{}", answer.text());
        assert_eq!(answer.field("Www-Authenticate"), Some("Basic realm=\"the vault\", charset=\"UTF-8\""));
        // The connection stays usable, and so does the rest of the site.
        guesser.send("GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(guesser.answer().status, 200);
        while stage.get("/vault/plan.txt", RIGHT).status != 200 {
            assert!(began.elapsed() < PATIENCE, "the pause does not end");
        }
    }
}

#[test]
fn credentials_that_are_none_are_asked_for_again_at_once() {
    let stage = Stage::new();
    for credentials in ["Basic", "Basic ", "Basic !!!", "Basic YWxpY2U=", "Basic /////w==", "alice:crepes"] {
        let answer = stage.get("/vault/plan.txt", &format!("Authorization: {credentials}\r\n"));
        assert_eq!(answer.status, 401, "{credentials}");
        assert!(!answer.text().contains("the plan"), "{credentials}");
    }
}

#[test]
fn what_is_protected_is_not_remembered_for_those_without_a_password() {
    let stage = Stage::new();
    for _ in 0..3 {
        assert_eq!(stage.get("/vault/plan.txt", RIGHT).text(), "the plan\n");
        assert_eq!(stage.get("/vault/plan.txt", "").status, 401);
        assert_eq!(stage.get("/vault/../vault/./plan.txt", "").status, 401);
    }
}

#[test]
fn a_rule_about_an_index_file_holds_for_its_directory_too() {
    let rules = |config: &mut Config, _: &_| {
        let protect = |path: &str| Protect { path: path.to_owned(), ..Protect::default() };
        config.deny.push("/shut/index.html".to_owned());
        config.protect.push(protect("/guarded/index.html"));
    };
    let stage = Stage::with(rules);
    for directory in ["shut", "guarded", "open"] {
        stage.write(&format!("{directory}/index.html"), b"the page\n");
    }
    // One connection, so that from the second request on the short way is taken if there is one.
    let mut client = stage.connect();
    for (directory, credentials, status) in [
        ("shut", "", 403),
        ("shut", RIGHT, 403),
        ("guarded", "", 401),
        ("guarded", RIGHT, 200),
        ("guarded", "", 401),
        ("open", "", 200),
    ] {
        // Cold, then from memory.
        for round in 0..2 {
            for target in [format!("/{directory}/"), format!("/{directory}/index.html")] {
                let what = format!("{target} {credentials} {round}");
                client.send(format!("HEAD {target} HTTP/1.1\r\nHost: x\r\n{credentials}\r\n"));
                assert!(client.head_as_sent().starts_with(&format!("HTTP/1.1 {status} ")), "{what}");
                client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{credentials}\r\n"));
                let answer = client.answer();
                assert_eq!(answer.status, status, "{what}");
                assert_eq!(answer.text().contains("the page"), status == 200, "{what}");
            }
        }
    }
}

/// What is kept in memory is looked at every second; a link to it looks the same.
#[test]
fn an_index_file_that_nobody_may_see_is_not_taken_for_the_one_in_memory() {
    let stage = Stage::with(|config, _| {
        config.index = vec!["first.html".to_owned(), "second.html".to_owned()];
        config.deny.push("/two/first.html".to_owned());
    });
    stage.write(
        "two/second.html",
        b"the page
",
    );
    assert_eq!(stage.get("/two/", "").status, 200);
    symlink("second.html", stage.path("two/first.html")).unwrap();
    let began = Instant::now();
    while stage.get("/two/", "").status != 403 {
        assert!(began.elapsed() < PATIENCE, "the new index file is never seen");
    }
    assert_eq!(stage.get("/two/second.html", "").status, 200);
}
