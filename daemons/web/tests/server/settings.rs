//! Settings that cannot be meant, and settings that change while the server runs.

use crate::stage::Stage;
use shared::{Shared, tls::LabCa};
use std::fs;
use web::{Config, Protect, Redirect, Server, Site};

/// A configuration that is good but for `change`.
fn problem_with(change: impl FnOnce(&mut Config)) -> String {
    let root = tempfile::tempdir().unwrap();
    let mut config = Config {
        listen: vec![([127, 0, 0, 1], 0).into()],
        docroot: root.path().to_owned(),
        access_log: "none".to_owned(),
        ..Config::default()
    };
    change(&mut config);
    let Err(error) = Server::bind(&config, &Shared::for_tests("web")) else { panic!("it starts all the same") };
    // A check finds the same, in the same words.
    let checked = Server::check(&config, &Shared::for_tests("web"));
    let checked: Vec<String> = checked.iter().map(ToString::to_string).collect();
    assert_eq!(checked.join("\n"), error.to_string());
    error.to_string()
}

#[test]
fn a_setting_that_cannot_be_meant_is_refused_with_its_cure() {
    let redirect = |from: &str, to: &str| Redirect { from: from.to_owned(), to: to.to_owned(), ..Redirect::default() };
    let site = |name: &str| Site { name: name.to_owned(), docroot: Some("/".into()), ..Site::default() };
    for (problem, words) in [
        (problem_with(|config| config.docroot = "/not/there".into()), "`/not/there`: No such file"),
        (problem_with(|config| config.listen.clear()), "no address at all"),
        (problem_with(|config| config.listen_tls = vec![([127, 0, 0, 1], 0).into()]), "https needs a certificate"),
        (problem_with(|config| config.access_log = "/not/there/log".to_owned()), "make the directory writable"),
        (problem_with(|config| config.deny = vec!["secret".to_owned()]), "must begin with a slash: `/secret`"),
        (
            problem_with(|config| config.protect = vec![Protect { path: "x".to_owned(), ..Protect::default() }]),
            "must begin with a slash: `/x`",
        ),
        (problem_with(|config| config.echo = vec!["form".to_owned()]), "must begin with a slash: `/form`"),
        (problem_with(|config| config.redirect = vec![redirect("/a", "")]), "is no place to send anybody"),
        (
            problem_with(|config| config.redirect = vec![redirect("/a", "/b\nSet-Cookie: x")]),
            "no place to send anybody",
        ),
        (
            problem_with(|config| config.redirect = vec![redirect("/a/", "http://b.example")]),
            "must end with a slash: `http://b.example/`",
        ),
        (problem_with(|config| config.site = vec![site("A.example"), site("a.example")]), "two sites have the name"),
        (
            problem_with(|config| config.site = vec![Site { name: "gone".to_owned(), ..Site::default() }]),
            "web.site[0].docroot: site `gone`: `",
        ),
        (problem_with(|config| config.site = vec![site("")]), "web.site[0].name: a site needs a name"),
    ] {
        assert!(problem.contains(words), "`{words}` is to be in `{problem}`");
    }
}

#[test]
fn all_that_cannot_be_meant_is_told_at_once_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let gone = |name: &str| Site { name: name.to_owned(), docroot: Some("/not/there".into()), ..Site::default() };
    let config = Config {
        listen: vec![],
        docroot: folder.path().to_owned(),
        deny: vec!["a".to_owned(), "/b".to_owned(), "c".to_owned()],
        site: vec![gone("a.example"), gone("b.example")],
        access_log: folder.path().join("access.log").display().to_string(),
        ..Config::default()
    };
    let problems = Server::check(&config, &Shared::for_tests("web"));
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let begins = ["web.listen: ", "web.deny: ", "web.deny: ", "web.site[0].docroot: ", "web.site[1].docroot: "];
    assert!(
        told.len() == begins.len() && told.iter().zip(begins).all(|(told, want)| told.starts_with(want)),
        "{told:#?}"
    );
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_reload_takes_new_sites_and_rules_and_keeps_the_old_when_the_new_are_wrong() {
    let stage = Stage::new();
    assert_eq!(stage.get("/hello.txt", "").status, 200);
    let denied = Config { deny: vec!["/hello.txt".to_owned()], ..stage.config.clone() };
    stage.reloader.reload(&denied, &stage.shared).unwrap();
    assert_eq!(stage.get("/hello.txt", "").status, 403);
    assert_eq!(stage.get("/denied.html", "").status, 200);
    let wrong = Config { docroot: "/not/there".into(), ..stage.config.clone() };
    assert!(stage.reloader.reload(&wrong, &stage.shared).is_err());
    assert_eq!(stage.get("/hello.txt", "").status, 403);
}

/// A certificate lives for ninety days, a server for longer.
#[test]
fn a_reload_takes_a_new_certificate_and_keeps_the_old_when_the_new_is_wrong() {
    let stage = Stage::new();
    let request = "GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut early = stage.connect_tls();
    early.send(request);
    assert_eq!(early.answer().status, 200);
    let mut renewed = Shared::for_tests("web");
    let authority = LabCa::open_or_create(&stage.path("../ca")).unwrap();
    renewed.tls = authority.certificate_for(&["shop.example.org".to_owned()]).unwrap();
    stage.reloader.reload(&stage.config, &renewed).unwrap();
    let serves_the_new_one = || {
        let mut client = stage.connect_tls_to("shop.example.org");
        client.send(request);
        client.answer().status == 200
    };
    assert!(serves_the_new_one());
    // Whoever was there keeps talking.
    early.send(request);
    assert_eq!(early.answer().status, 200);
    for (certificate, words) in
        [(Some(stage.path("hello.txt")), "no certificate in PEM form"), (None, "https needs a certificate")]
    {
        let mut wrong = Shared::for_tests("web");
        wrong.tls.key = certificate.as_ref().and(renewed.tls.key.clone());
        wrong.tls.certificate = certificate;
        let problem = stage.reloader.reload(&stage.config, &wrong).unwrap_err().to_string();
        assert!(problem.contains(words), "{problem}");
    }
    assert!(serves_the_new_one());
}

/// logrotate moves the file away and asks for a reload.
#[test]
fn a_reload_opens_the_access_log_anew() {
    let mut stage = Stage::with(|config, dir| config.access_log = dir.join("access.log").display().to_string());
    let (log, moved) = (stage.path("../access.log"), stage.path("../access.log.1"));
    stage.get("/hello.txt", "");
    fs::rename(&log, &moved).unwrap();
    stage.reloader.reload(&stage.config, &stage.shared).unwrap();
    // The thread that writes takes what waits to the old file and then opens the new one.
    while !log.exists() {
        std::thread::yield_now();
    }
    stage.get("/digits.txt", "");
    stage.stop();
    let read = |path| fs::read_to_string(path).unwrap();
    assert!(read(&moved).contains("/hello.txt") && !read(&moved).contains("/digits.txt"));
    assert!(read(&log).contains("/digits.txt"));
}
