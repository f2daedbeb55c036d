//! Real programs talk to the web server: curl, telnet, nc. They are the last word on whether it is usable.
//!
//! These tests need programs besides Rust, so plain `cargo test` lists them as ignored; `tests/run clients` runs them, and
//! there a program that is missing fails its test.
#![expect(clippy::unwrap_used, reason = "a helper of a test may fail as the test does")]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::client::{connect, run_client, run_script, type_into};
use tests::lab::{Description, Lab, up};
use tests::process::{Server, built_program, find_program, free_address};
use tests::program::{Running, Signal, command_at, run};

/// www.someschool.edu as the lab serves it, with the dates that git does not keep.
struct School {
    address: SocketAddr,
    _server: Server,
    _folder: tempfile::TempDir,
}

fn www() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/www")
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

impl School {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&www(), &folder.path().join("www"));
        let dates: toml::Table = fs::read_to_string(www().join("dates.toml")).unwrap().parse().unwrap();
        for (path, date) in dates {
            let date = httpdate::parse_http_date(date.as_str().unwrap()).unwrap();
            File::options()
                .append(true)
                .open(folder.path().join("www").join(path))
                .unwrap()
                .set_modified(date)
                .unwrap();
        }
        let address = free_address().unwrap();
        let docroot = folder.path().join("www/www.someschool.edu");
        let configuration = format!(
            r#"[web]
listen = ["{address}"]
workers = 1
docroot = "{}"
charset = "ISO-8859-1"
types = {{ ".index" = "text/html" }}
deny = ["/~carey/CPSC441/oddtest3.html"]
keep_alive_timeout = "10 s"
access_log = "none"
"#,
            docroot.display()
        );
        let file = folder.path().join("tomte.toml");
        fs::write(&file, configuration).unwrap();
        let program = built_program("tomte-web").unwrap();
        let arguments = ["-c", file.to_str().unwrap()];
        let server = Server::start(&program, arguments, address, &folder.path().join("out")).unwrap();
        Self { address, _server: server, _folder: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What curl prints on standard output.
    fn curl(&self, arguments: &[&str], path: &str) -> Vec<u8> {
        let output = Command::new(find_program("curl", "curl").unwrap())
            .args(["--silent", "--show-error", "--max-time", "20"])
            .args(arguments)
            .arg(self.url(path))
            .output()
            .unwrap();
        assert!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn type_into(&self, program: &str, package: &str, text: &str) -> String {
        type_into(program, package, self.address, text).unwrap()
    }
}

/// The page of the ten pictures, as curl's globbing writes it: one base file, ten images.
const PICTURES: &str = "/someDepartment/{home.index,pic1.jpg,pic2.jpg,pic3.jpg,pic4.jpg,pic5.jpg,pic6.jpg,pic7.jpg,\
    pic8.jpg,pic9.jpg,pic10.jpg}";

#[test]
#[ignore = "needs curl: tests/run clients"]
fn eleven_objects_take_one_connection_or_eleven() {
    // CLAIMS C15. curl counts the connections it had to open for each object.
    let school = School::open();
    let connects = |version| {
        let lines =
            school.curl(&[version, "--output", "/dev/null", "--write-out", "%{http_code} %{num_connects}\n"], PICTURES);
        String::from_utf8(lines).unwrap()
    };
    let persistent = connects("--http1.1");
    assert_eq!(persistent, format!("200 1\n{}", "200 0\n".repeat(10)));
    let one_each = connects("--http1.0");
    assert_eq!(one_each, "200 1\n".repeat(11));
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_gets_every_octet_of_a_picture() {
    let school = School::open();
    let body = school.curl(&[], "/someDepartment/pic7.jpg");
    assert_eq!(body, fs::read(www().join("www.someschool.edu/someDepartment/pic7.jpg")).unwrap());
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn head_shows_the_header_fields_of_the_slides() {
    // CLAIMS C32.
    let school = School::open();
    let head = String::from_utf8(school.curl(&["--head"], "/index.html")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let fields = head.to_ascii_lowercase();
    for field in [
        "last-modified: tue, 30 oct 2007 17:00:02 gmt",
        "content-length: 2652",
        "content-type: text/html; charset=iso-8859-1",
        "accept-ranges: bytes",
        "keep-alive: timeout=10",
        "etag: \"",
    ] {
        assert!(fields.contains(&format!("\r\n{field}")), "no {field} in\n{head}");
    }
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_gets_206_for_the_range_of_the_notes() {
    // CLAIMS C43; the notes' `250-30` is no range and is ignored.
    let school = School::open();
    let path = "/~carey/CPSC441/oddtest2.html";
    assert_eq!(school.curl(&["--range", "250-300"], path), b"You asked for octets 250 to 300. These are all 51!\n");
    let status = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}"];
    let whole = fs::metadata(www().join("www.someschool.edu").join(path.trim_start_matches('/'))).unwrap().len();
    let ignored = school.curl(&[&status[..], &["--header", "Range: bytes=250-30"]].concat(), path);
    assert_eq!(String::from_utf8(ignored).unwrap(), format!("200 {whole}"));
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_gets_304_for_a_page_it_has() {
    // CLAIMS C71.
    let school = School::open();
    let ask = |date: &str| {
        let header = format!("If-Modified-Since: {date}");
        let arguments = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}", "--header", &header];
        String::from_utf8(school.curl(&arguments, "/1998.html")).unwrap()
    };
    assert_eq!(ask("Mon, 22 Jun 1998 09:23:24 GMT"), "304 0");
    assert_eq!(ask("Wed, 01 Jan 1997 00:00:00 GMT"), "200 6821");
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn forbidden_and_missing_pages_are_403_and_404() {
    // CLAIMS C42.
    let school = School::open();
    let status = |path| {
        let arguments = ["--output", "/dev/null", "--write-out", "%{http_code}"];
        String::from_utf8(school.curl(&arguments, path)).unwrap()
    };
    assert_eq!(status("/~carey/CPSC441/oddtest1.html"), "200");
    assert_eq!(status("/~carey/CPSC441/oddtest3.html"), "403");
    assert_eq!(status("/~carey/CPSC441/oddtest4.html"), "404");
    assert_eq!(status("/~ross"), "301");
}

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn telnet_shows_a_page_and_the_end_of_the_connection() {
    // CLAIMS C30, pasted as the textbook prints it, without a blank after the last colon.
    let school = School::open();
    let request = "GET /somedir/page.html HTTP/1.1\nHost: www.someschool.edu\nUser-agent: Mozilla/4.0\n\
        Connection: close\nAccept-language:fr\n\n";
    let shown = school.type_into("telnet", "telnet", request);
    assert!(shown.contains("HTTP/1.1 200 OK"), "{shown}");
    assert!(shown.to_ascii_lowercase().contains("connection: close"), "{shown}");
    assert!(shown.contains("</html>"), "{shown}");
}

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn telnet_with_nonsense_is_answered_400_at_once() {
    // CLAIMS C38: one line is enough, the server does not wait for the empty one.
    let school = School::open();
    let shown = school.type_into("telnet", "telnet", "what is this\n");
    assert!(shown.contains("HTTP/1.1 400 Bad Request") || shown.contains("HTTP/1.0 400 Bad Request"), "{shown}");
}

#[test]
#[ignore = "needs nc: tests/run clients"]
fn nc_with_bare_line_feeds_is_understood() {
    // CLAIMS C45: nc sends LF where telnet sends CR LF.
    let school = School::open();
    let shown = school.type_into("nc", "netcat-openbsd", "GET /~ross/ HTTP/1.0\n\n");
    let (head, body) = shown.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.") && head.contains(" 200 OK\r\n"), "{head}");
    assert_eq!(body, fs::read_to_string(www().join("www.someschool.edu/~ross/index.html")).unwrap());
    // C38: the same with HEAD is the same without the body.
    let head_only = school.type_into("nc", "netcat-openbsd", "HEAD /~ross/ HTTP/1.0\n\n");
    assert!(head_only.contains(" 200 OK\r\n") && head_only.ends_with("\r\n\r\n"), "{head_only}");
}

#[test]
#[ignore = "needs nc: tests/run clients"]
fn ten_requests_in_one_go_are_answered_in_order() {
    // CLAIMS C19: pipelining.
    let school = School::open();
    let mut text = String::new();
    for n in 1..=10 {
        let close = if n == 10 { "Connection: close\r\n" } else { "" };
        write!(text, "HEAD /someDepartment/pic{n}.jpg HTTP/1.1\r\nHost: a\r\n{close}\r\n").unwrap();
    }
    let shown = school.type_into("nc", "netcat-openbsd", &text).to_ascii_lowercase();
    let lengths: Vec<u64> =
        shown.lines().filter_map(|line| line.strip_prefix("content-length: ")).map(|n| n.parse().unwrap()).collect();
    let expected: Vec<u64> = (1..=10)
        .map(|n| fs::metadata(www().join(format!("www.someschool.edu/someDepartment/pic{n}.jpg"))).unwrap().len())
        .collect();
    assert_eq!(lengths, expected);
}

// --- Against the whole lab -------------------------------------------------------------------------------------------

const SCHOOL: &str = "www.someschool.edu";

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn the_telnet_dialogues_of_the_notes_go_as_the_notes_say() {
    // CLAIMS C37 to C45, C48: what is typed, what must be shown, what must not. Who asks with
    // HTTP/1.0 is answered with it.
    let dialogues: &[(&str, &[&str], &[&str])] = &[
        // C38: nonsense; the content; only what is known about it.
        ("hello, is anybody there?\n", &["HTTP/1.1 400 Bad Request"], &["200 OK"]),
        ("GET /~ross/ HTTP/1.0\n\n", &["HTTP/1.0 200 OK", "Connection: close", "</html>"], &[]),
        ("HEAD /~ross/ HTTP/1.0\n\n", &["HTTP/1.0 200 OK", "Content-Length: "], &["</html>"]),
        // C39: Host is mandatory in HTTP/1.1.
        ("GET /~ross/ HTTP/1.1\n\n", &["HTTP/1.1 400 Bad Request", "Host"], &["</html>"]),
        // C40: any name will do, and the connection stays for a while.
        (
            "GET /~carey/CPSC441/oddtest1.html HTTP/1.1\nHost: asdasda\n\n",
            &["HTTP/1.1 200 OK", "Keep-Alive: timeout=1", "</html>"],
            &["\nConnection: close"],
        ),
        // C41: the empty line is missing, so the server waits; in the end it says so.
        ("GET /~ross/ HTTP/1.1\nHost: asdasda\n", &["HTTP/1.1 408 Request Timeout"], &["200 OK", "</html>"]),
        // C42.
        ("GET /~carey/CPSC441/oddtest3.html HTTP/1.0\n\n", &["HTTP/1.0 403 Forbidden", "permission"], &[]),
        ("GET /~carey/CPSC441/oddtest4.html HTTP/1.0\n\n", &["HTTP/1.0 404 Not Found", "oddtest4.html"], &[]),
        // C43: a part; and `250-30` is none, so it is ignored.
        (
            "GET /~carey/CPSC441/oddtest2.html HTTP/1.1\nHost: a\nRange: bytes=250-300\nConnection: close\n\n",
            &["HTTP/1.1 206 Partial Content", "Content-Range: bytes 250-300/", "You asked for octets 250 to 300."],
            &["</html>"],
        ),
        (
            "GET /~carey/CPSC441/oddtest2.html HTTP/1.1\nHost: a\nRange: bytes=250-30\nConnection: close\n\n",
            &["HTTP/1.1 200 OK", "</html>"],
            &["\nContent-Range: "],
        ),
        // C44.
        ("GET /internal/ HTTP/1.0\n\n", &["HTTP/1.0 301 Moved Permanently", "Location: http://127."], &[]),
        // C45, with the line that was forgotten.
        ("GET /~ross/ HTTP/1.1\nHost: www.someschool.edu\n\n", &["HTTP/1.1 200 OK", "</html>"], &[]),
        // C37: the rest of the status codes.
        ("GET / HTTP/9.9\nHost: a\n\n", &[" 505 HTTP Version Not Supported"], &[]),
        ("BREW /pot HTTP/1.1\nHost: a\n\n", &["HTTP/1.1 501 Not Implemented"], &[]),
        ("DELETE / HTTP/1.1\nHost: a\n\n", &["HTTP/1.1 405 Method Not Allowed", "Allow: GET, HEAD, OPTIONS"], &[]),
        ("GET /private/ HTTP/1.0\n\n", &["HTTP/1.0 401 Unauthorized", "uthenticate: Basic realm="], &["</html>"]),
        // Redirected to the same with a slash, as every directory is.
        ("GET /~ross HTTP/1.0\n\n", &["HTTP/1.0 301 Moved Permanently", "Location: /~ross/"], &[]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut description = Description::own().unwrap();
    // So that nobody waits long for what the lab otherwise gives people time for.
    let impatient = "[host.web]\nkeep_alive_timeout = \"1 s\"\nhead_timeout = \"2 s\"\n";
    description.text = description.text.replacen("\n[host.web]\n", &format!("\n{impatient}"), 1);
    let mut lab = Running::start(&mut up(&description, folder.path(), &folder.path().join("state")).unwrap()).unwrap();
    lab.wait_for("Ctrl-C").unwrap();
    let school = description.address(SCHOOL, 8080);
    for (typed, expected, refused) in dialogues {
        let shown = type_into("telnet", "telnet", school, typed).unwrap();
        for words in *expected {
            assert!(shown.contains(words), "no `{words}` after {typed:?}:\n{shown}");
        }
        for words in *refused {
            assert!(!shown.contains(words), "`{words}` after {typed:?}:\n{shown}");
        }
    }
    lab.signal(Signal::INT).unwrap();
    lab.end().unwrap().with_code(0).unwrap();
}

#[test]
#[ignore = "needs telnet: tests/run clients"]
fn telnet_sees_the_pause_of_the_notes_before_the_connection_ends() {
    // CLAIMS C40: five seconds, which is what the header field says.
    let lab = Lab::up().unwrap();
    let begin = Instant::now();
    let typed = "GET /~carey/CPSC441/oddtest1.html HTTP/1.1\nHost: asdasda\n\n";
    let shown = type_into("telnet", "telnet", lab.address(SCHOOL, 8080), typed).unwrap();
    assert!(shown.contains("HTTP/1.1 200 OK") && shown.contains("Keep-Alive: timeout=5"), "{shown}");
    assert!(begin.elapsed() >= Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
#[ignore = "needs telnet and nc: tests/run clients"]
fn words_are_counted_for_telnet_while_nc_is_served() {
    // CLAIMS C6.
    let lab = Lab::up().unwrap();
    let words = lab.address("words.someschool.edu", 7777);
    let mut telnet = connect("telnet", "telnet", words).unwrap();
    telnet.wait_for("Escape character").unwrap();
    telnet.type_line("CAT").unwrap();
    assert_eq!(telnet.wait_for("3").unwrap().trim_end(), "3");
    // telnet is still connected.
    let (ip, port) = (words.ip().to_string(), words.port().to_string());
    let nc = |flags: &str| {
        let script = format!("printf 'CAT\\nELEPHANT\\n' | nc {flags} {ip} {port}");
        run_script("nc", "netcat-openbsd", &script, &[]).unwrap()
    };
    assert_eq!(nc("-N").with_code(0).unwrap().out.replace('\r', ""), "3\n8\n");
    // UDP: one datagram each way; nc is told to wait a second for what may come.
    let datagram = nc("-u -w 1");
    assert!(datagram.out.starts_with('3') || datagram.out.starts_with("12"), "{datagram:?}");
    telnet.type_line("hippopotamus").unwrap();
    assert_eq!(telnet.wait_for("12").unwrap().trim_end(), "12");
}

#[test]
#[ignore = "needs curl: tests/run clients"]
fn curl_trusts_https_with_the_authority_of_the_lab_and_not_without() {
    let lab = Lab::up().unwrap();
    let url = format!("https://{}/index.html", lab.address(SCHOOL, 8443));
    let curl = |arguments: &[&str]| {
        run_client("curl", "curl", &[&["--silent", "--show-error"], arguments, &[&url]].concat(), &[]).unwrap()
    };
    let authority = lab.state().join("ca/ca.crt").display().to_string();
    assert_eq!(curl(&["--cacert", &authority]).with_code(0).unwrap().out.len(), 2652);
    // 60: CURLE_PEER_FAILED_VERIFICATION.
    assert!(curl(&[]).with_code(60).unwrap().err.contains("certificate"));
}

#[test]
#[ignore = "needs unshare, ip, setpriv and curl: tests/run clients"]
fn the_lab_runs_without_network_and_without_privilege() {
    let folder = tempfile::tempdir().unwrap();
    let description = Description::own().unwrap();
    let up = up(&description, folder.path(), &folder.path().join("state")).unwrap();
    for (program, package) in [("ip", "iproute2"), ("setpriv", "util-linux"), ("curl", "curl")] {
        find_program(program, package).unwrap();
    }
    // A network of its own in which there is nothing but loopback, and not one capability.
    let script = "export PATH=$PATH:/sbin:/usr/sbin; ip link set lo up || exit 2
        setpriv --bounding-set -all --inh-caps -all --no-new-privs -- \"$@\" >up.log 2>&1 &
        curl --silent --show-error --max-time 20 --retry 100 --retry-connrefused --retry-delay 0 \"$URL\"
        kill -INT $!; wait $!; echo \"ended with $?\"";
    let mut alone = command_at(&find_program("unshare", "util-linux").unwrap());
    alone.args(["--user", "--map-root-user", "--net", "sh", "-c", script, "sh"]).current_dir(folder.path());
    alone.arg(up.get_program()).args(up.get_args());
    alone.env("URL", format!("http://{}/index.html", description.address(SCHOOL, 8080)));
    let said = run(&mut alone).unwrap();
    assert!(said.out.contains("Some School") && said.out.contains("ended with 0"), "{said:?}");
}

/// What dig prints when `lab`'s `host` is asked.
fn dig(lab: &Lab, host: &str, question: &[&str]) -> String {
    let server = lab.address(host, 8053);
    let mut command = Command::new("dig");
    command.args([format!("@{}", server.ip()), "-p".to_owned(), server.port().to_string()]);
    let output =
        command.args(["+norecurse", "+tries=1"]).args(question).output().expect("dig is there: tests/run clients");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs dig: tests/run clients"]
fn dig_is_led_from_the_root_to_the_site() {
    let lab = Lab::up().unwrap();
    for (host, question, wants) in [
        // A root server gives the name away: no aa, no answer, the servers of edu and where they are.
        (
            "a.root-servers.net",
            &["www.someschool.edu"][..],
            &["status: NOERROR", "flags: qr;", "ANSWER: 0", "ns.nic.edu.", "127.77.0.3"][..],
        ),
        ("ns.nic.edu", &["www.someschool.edu"], &["flags: qr;", "ANSWER: 0", "ns.someschool.edu.", "127.77.3.53"]),
        ("ns.someschool.edu", &["www.someschool.edu"], &["flags: qr aa;", "ANSWER: 1", "127.77.3.80"]),
        // An alias leads on within the same server's zones.
        ("ns.ibm.com", &["www.ibm.com"], &["flags: qr aa;", "servereast.backup2.ibm.com.", "127.77.4.80"]),
        ("ns.crepes.fr", &["crepes.fr", "MX"], &["10 mail.crepes.fr.", "127.77.1.25"]),
        // What is not there: NXDOMAIN with the SOA that says for how long. What is not ours: REFUSED.
        ("ns.crepes.fr", &["nobody.crepes.fr"], &["status: NXDOMAIN", "flags: qr aa;", "SOA"]),
        ("ns.crepes.fr", &["hamburger.edu"], &["status: REFUSED"]),
        ("a.root-servers.net", &["+tcp", ".", "NS"], &["ANSWER: 13", "m.root-servers.net.", "(TCP)"]),
        ("a.root-servers.net", &["+noedns", "version.bind", "CH", "TXT"], &["tomte-dns"]),
    ] {
        let said = dig(&lab, host, question);
        for want in wants {
            assert!(said.contains(want), "{host} {question:?} lacks {want}:\n{said}");
        }
    }
}
