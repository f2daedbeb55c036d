//! Guessing passwords takes time.

use crate::stage::{PATIENCE, Stage};
use std::time::Instant;

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
