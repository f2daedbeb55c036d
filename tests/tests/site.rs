//! The course's site keeps what its slides promise: sizes, dates, ten pictures, and links that lead somewhere.

#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Linked from the site on purpose although no file is there: the lesson on 404 (CLAIMS C42).
const NOT_FOUND_ON_PURPOSE: &str = "www.someschool.edu/~carey/CPSC441/oddtest4.html";

fn www() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/www")
}

fn read(path: &str) -> Vec<u8> {
    std::fs::read(www().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below `config/www` that belong to a host, as `host/path`.
fn files() -> BTreeSet<String> {
    fn walk(directory: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.strip_prefix(www()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&www(), &mut found);
    found.remove("dates.toml");
    found
}

/// Every page of every host with its text.
fn pages() -> Vec<(String, String)> {
    let is_page = |path: &String| Path::new(path).extension().is_some_and(|ext| ext == "html" || ext == "index");
    files().into_iter().filter(is_page).map(|path| (path.clone(), String::from_utf8(read(&path)).unwrap())).collect()
}

/// The values of an attribute in a page, in any case, in the order of the page.
fn attributes<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let needle = format!(" {name}=\"");
    let lower = text.to_ascii_lowercase();
    lower
        .match_indices(&needle)
        .map(|(at, _)| text[at + needle.len()..].split('"').next().expect("split gives at least one piece"))
        .collect()
}

/// Which file a reference on a page leads to: `page` and the result are `host/path`.
fn resolve(page: &str, reference: &str) -> String {
    let (host, path) = page.split_once('/').expect("a page lies in its host's folder");
    let mut segments: Vec<&str> = match reference.strip_prefix('/') {
        Some(_) => Vec::new(),
        None => path.split('/').rev().skip(1).collect::<Vec<_>>().into_iter().rev().collect(),
    };
    for segment in reference.split('/') {
        match segment {
            "" | "." => {}
            ".." => assert!(segments.pop().is_some(), "{page}: {reference} leaves the site"),
            name => segments.push(name),
        }
    }
    if reference.is_empty() || reference.ends_with('/') {
        segments.push("index.html");
    }
    format!("{host}/{}", segments.join("/"))
}

/// Pages name other documents with these two attributes, and load other objects with `src`.
fn links(page: &str, text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for reference in attributes(text, "href").into_iter().chain(attributes(text, "src")) {
        // An empty icon: without it a browser would ask for /favicon.ico and spoil the count of requests.
        if reference == "data:," {
            continue;
        }
        assert!(!reference.contains(':') && !reference.starts_with("//"), "{page} leaves its host: {reference}");
        // What shows forms is no file; `lab.rs` sends it some.
        if reference.starts_with("/animalsearch?") {
            continue;
        }
        let (document, fragment) = reference.split_once('#').unwrap_or((reference, ""));
        if document.is_empty() {
            assert!(attributes(text, "name").contains(&fragment), "{page}: no anchor {fragment}");
        } else {
            found.insert(resolve(page, document));
        }
    }
    found
}

#[test]
fn sample_responses_have_the_sizes_of_the_slides() {
    assert_eq!(read("www.someschool.edu/index.html").len(), 2652, "S2 and S3 print 2652 bytes");
    assert_eq!(read("www.someschool.edu/1998.html").len(), 6821, "S0 and S1 print 6821 bytes");
}

#[test]
fn home_index_refers_to_exactly_ten_pictures() {
    let page = "www.someschool.edu/someDepartment/home.index";
    let text = String::from_utf8(read(page)).unwrap();
    let pictures: Vec<String> = attributes(&text, "src").iter().map(|name| resolve(page, name)).collect();
    let expected: Vec<String> = (1..=10).map(|n| format!("www.someschool.edu/someDepartment/pic{n}.jpg")).collect();
    assert_eq!(pictures, expected);
    let mut contents = BTreeSet::new();
    for picture in &pictures {
        let octets = read(picture);
        assert!((2_000..=6_000).contains(&octets.len()), "{picture}: {} octets", octets.len());
        assert!(octets.starts_with(&[0xff, 0xd8, 0xff]) && octets.ends_with(&[0xff, 0xd9]), "{picture} is no JPEG");
        contents.insert(octets);
    }
    assert_eq!(contents.len(), 10, "each picture is another one");
    assert!(text.contains("Computer Networking: A Top-Down Approach"));
}

#[test]
fn every_link_leads_to_a_file() {
    let files = files();
    for (page, text) in pages() {
        for target in links(&page, &text) {
            if target == NOT_FOUND_ON_PURPOSE {
                assert!(!files.contains(&target), "{target} must not exist");
            } else {
                assert!(files.contains(&target), "{page} links to {target}, which is not there");
            }
        }
    }
}

#[test]
fn front_page_leads_to_all_pages_of_the_site() {
    let page = "www.someschool.edu/index.html";
    let linked = links(page, &String::from_utf8(read(page)).unwrap());
    for (other, _) in pages().iter().filter(|(path, _)| path.starts_with("www.someschool.edu/") && path != page) {
        assert!(linked.contains(other), "the front page does not mention {other}");
    }
    assert!(linked.contains(NOT_FOUND_ON_PURPOSE));
}

#[test]
fn pages_are_ascii_and_say_iso_8859_1() {
    for (page, text) in pages() {
        assert!(text.is_ascii(), "{page}: ASCII means the same whatever charset a header announces");
        assert!(text.starts_with("<!DOCTYPE HTML PUBLIC "), "{page}");
        if page.starts_with("www.someschool.edu/") && !page.ends_with("/1998.html") {
            assert!(text.contains("charset=ISO-8859-1"), "{page}: the header of the sample response says so");
        }
    }
}

#[test]
fn range_of_the_notes_is_one_line_of_the_page() {
    // CLAIMS C43: `Range: bytes=250-300`, both ends included, is 51 octets.
    let octets = read("www.someschool.edu/~carey/CPSC441/oddtest2.html");
    assert_eq!(&octets[250..=300], b"You asked for octets 250 to 300. These are all 51!\n");
}

#[test]
fn dates_are_http_dates_of_files_that_exist() {
    let table: toml::Table = String::from_utf8(read("dates.toml")).unwrap().parse().unwrap();
    let files = files();
    for (path, date) in &table {
        let date = date.as_str().expect("a date is a string");
        assert!(files.contains(path), "dates.toml names {path}, which is not there");
        // RFC 9110 §5.6.7: only the fixed-length form may be generated; the round trip finds a wrong weekday too.
        assert_eq!(httpdate::fmt_http_date(httpdate::parse_http_date(date).unwrap()), date, "{path}");
    }
    assert_eq!(table["www.someschool.edu/index.html"].as_str(), Some("Tue, 30 Oct 2007 17:00:02 GMT"));
    assert!(table["www.someschool.edu/1998.html"].as_str().unwrap().starts_with("Mon, 22 Jun 1998 "));
}

#[test]
fn every_host_of_the_course_has_a_page() {
    let hosts: BTreeSet<String> =
        pages().iter().map(|(page, _)| page.split('/').next().expect("host/path").to_owned()).collect();
    let expected = [
        "cse.unsw.edu.au",
        "gaia.cs.umass.edu",
        "info.cern.ch",
        "www-net.cs.umass.edu",
        "www.amazon.com",
        "www.doubleclick.com",
        "www.ebay.com",
        "www.ibm.com",
        "www.someschool.edu",
        "www.somesite.com",
        "www.wikipedia.org",
        "www.yahoo.com",
    ];
    assert_eq!(hosts, expected.map(str::to_owned).into());
}
