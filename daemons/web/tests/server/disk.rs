//! What happens when the files change while the server runs.

use crate::stage::{Answer, PATIENCE, Stage};
use std::{
    fs::{self, File},
    time::{Duration, Instant, SystemTime},
};

/// Asks until the answer is as wanted, and says how long that took.
fn ask_until(stage: &Stage, target: &str, fields: &str, wanted: impl Fn(&Answer) -> bool) -> Duration {
    let began = Instant::now();
    loop {
        let answer = stage.get(target, fields);
        if wanted(&answer) {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "still {answer:?}");
    }
}

/// Small files are looked at once a second; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(4);

#[test]
fn a_page_that_was_saved_is_served_fresh_within_a_second() {
    let stage = Stage::new();
    assert_eq!(stage.get("/hello.txt", "").text(), "Hello, world!\n");
    fs::write(stage.path("hello.txt"), "Hello, again!\n").unwrap();
    let took = ask_until(&stage, "/hello.txt", "", |answer| answer.text() == "Hello, again!\n");
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_page_saved_twice_in_a_moment_is_not_stuck_at_the_first_time() {
    let stage = Stage::new();
    for text in ["one", "two", "six", "ten"] {
        fs::write(stage.path("hello.txt"), text).unwrap();
        ask_until(&stage, "/hello.txt", "", |answer| answer.text() == text);
    }
}

#[test]
fn a_fresh_file_has_a_weak_tag_that_becomes_strong() {
    let stage = Stage::new();
    fs::write(stage.path("fresh.txt"), "fresh").unwrap();
    let tag = stage.get("/fresh.txt", "").field("Etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");
    let strong = tag.strip_prefix("W/").unwrap();
    ask_until(&stage, "/fresh.txt", "", |answer| answer.field("Etag") == Some(strong));
}

#[test]
fn a_touched_page_is_sent_whole_to_who_asks_whether_it_was_modified() {
    let stage = Stage::new();
    let condition = "If-Modified-Since: Tue, 30 Oct 2007 17:00:02 GMT\r\n";
    let answer = stage.get("/hello.txt", condition);
    assert_eq!((answer.status, answer.body.len()), (304, 0));
    File::open(stage.path("hello.txt")).unwrap().set_modified(SystemTime::now()).unwrap();
    let took = ask_until(&stage, "/hello.txt", condition, |answer| answer.status == 200);
    assert!(took < SOON, "{took:?}");
}

#[test]
fn a_file_of_the_future_is_not_dated_later_than_the_answer() {
    let stage = Stage::new();
    let tomorrow = SystemTime::now() + Duration::from_hours(24);
    File::open(stage.path("hello.txt")).unwrap().set_modified(tomorrow).unwrap();
    let answer = stage.get("/hello.txt", "");
    let date = |name| httpdate::parse_http_date(answer.field(name).unwrap()).unwrap();
    assert!(date("Last-Modified") <= date("Date"), "{answer:?}");
}

#[test]
fn a_page_that_was_removed_is_gone_within_a_second() {
    let stage = Stage::new();
    assert_eq!(stage.get("/hello.txt", "").status, 200);
    fs::remove_file(stage.path("hello.txt")).unwrap();
    assert!(ask_until(&stage, "/hello.txt", "", |answer| answer.status == 404) < SOON);
}

#[test]
fn a_page_that_becomes_a_way_out_is_not_followed() {
    let stage = Stage::new();
    assert_eq!(stage.get("/hello.txt", "").status, 200);
    fs::remove_file(stage.path("hello.txt")).unwrap();
    std::os::unix::fs::symlink("../outside.txt", stage.path("hello.txt")).unwrap();
    ask_until(&stage, "/hello.txt", "", |answer| answer.status == 403);
}

#[test]
fn without_its_document_root_the_server_says_so_and_recovers() {
    let stage = Stage::new();
    assert_eq!(stage.get("/hello.txt", "").status, 200);
    let (root, away) = (stage.path(""), stage.path("").with_file_name("away"));
    fs::rename(&root, &away).unwrap();
    let answer = stage.get("/digits.txt", "");
    assert_eq!(answer.status, 500);
    // Where the files lie is nobody's business.
    assert!(!answer.text().contains(root.to_str().unwrap().trim_end_matches('/')), "{}", answer.text());
    ask_until(&stage, "/hello.txt", "", |answer| answer.status == 500);
    fs::rename(&away, &root).unwrap();
    assert_eq!(stage.get("/digits.txt", "").status, 200);
    assert_eq!(stage.get("/hello.txt", "").status, 200);
}
