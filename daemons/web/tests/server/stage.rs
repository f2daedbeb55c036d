//! The stage: a small site on disk, a server that serves it, and a client that waits for what must come.
//!
//! The server runs on a thread and runtime of its own, so that tests are plain blocking code. It runs without root's
//! right to read every file, as it does in real life.

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    thread::{CapabilitySet, capabilities, set_capabilities},
};
use shared::{
    Shared,
    accounts::{self, Accounts},
    tls::LabCa,
    transcript::{Heard, Kind, Subscription},
    units::Span,
};
use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, SystemTime},
};
use tempfile::TempDir;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio_util::sync::CancellationToken;
use web::{Config, Protect, Redirect, RedirectStatus, Reloader, Server, Site};

/// Tue, 30 Oct 2007 17:00:02 GMT: the date of the course's sample response.
pub(crate) const MODIFIED: u64 = 1_193_763_602;

/// A server that says nothing for this long will not say it at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The site: path below the document root, and what the file holds. All of them were last changed at [`MODIFIED`].
const FILES: [(&str, &str); 16] = [
    ("index.html", "<h1>Welcome</h1>\n"),
    ("hello.txt", "Hello, world!\n"),
    ("digits.txt", "0123456789\n"),
    ("lines.txt", "one\ntwo\nthree\nfour\n"),
    ("empty.txt", ""),
    ("somedir/page.html", "<p>A page.\n"),
    ("list/b.txt", "bb\n"),
    ("list/a.txt", "a, and more\n"),
    ("list/inner/deep.txt", "deep\n"),
    ("list/.hidden", "nobody sees me\n"),
    ("with space/plus+and&.txt", "odd names\n"),
    ("denied.html", "nobody may see me\n"),
    ("vault/plan.txt", "the plan\n"),
    ("vault/bob/diary.txt", "dear diary\n"),
    ("locked.txt", "no permission\n"),
    ("list/noindex/only.txt", "only\n"),
];

/// A running server.
pub(crate) struct Stage {
    dir: TempDir,
    http: SocketAddr,
    https: SocketAddr,
    pub(crate) shared: Shared,
    pub(crate) config: Config,
    pub(crate) reloader: Reloader,
    shutdown: CancellationToken,
    server: Option<JoinHandle<()>>,
}

impl Stage {
    /// The usual server.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// A server whose configuration is changed before it starts; `dir` is where the stage lies: the document root is
    /// `dir/site`.
    pub(crate) fn with(change: impl FnOnce(&mut Config, &Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        build(dir.path());
        let names = ["www.example.org".to_owned()];
        let mut shared = Shared::for_tests("web");
        shared.tls = LabCa::open_or_create(&dir.path().join("ca")).unwrap().certificate_for(&names).unwrap();
        shared.accounts = Arc::new(accounts(dir.path()));
        let mut config = config(dir.path());
        change(&mut config, dir.path());
        let server = Server::bind(&config, &shared).unwrap();
        let address = |wanted: &str| server.local_addrs().iter().find(|at| at.protocol == wanted).unwrap().address;
        let (http, https) = (address("http"), address("https"));
        let reloader = server.reloader();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let run = move || {
            give_up_roots_rights();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(server.run(stop)).unwrap();
        };
        Self { dir, http, https, shared, config, reloader, shutdown, server: Some(std::thread::spawn(run)) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.http
    }

    /// A file below the document root.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("site").join(path)
    }

    /// Writes a file below the document root, last changed long ago.
    pub(crate) fn write(&self, path: &str, octets: &[u8]) {
        write(&self.path(path), octets);
    }

    /// A client in the clear.
    pub(crate) fn connect(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, input: vec![] }
    }

    /// A client that does not know that it talks to the wrong port.
    pub(crate) fn connect_in_the_clear_to_https(&self) -> Client<TcpStream> {
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, input: vec![] }
    }

    /// A client that trusts the lab's authority.
    pub(crate) fn connect_tls(&self) -> Client<StreamOwned<ClientConnection, TcpStream>> {
        self.connect_tls_to("www.example.org")
    }

    /// The same, to a host of this name.
    pub(crate) fn connect_tls_to(&self, name: &'static str) -> Client<StreamOwned<ClientConnection, TcpStream>> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(self.dir.path().join("ca/ca.crt")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(shared::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let session = ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(self.https).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream: StreamOwned::new(session, stream), input: vec![] }
    }

    /// One request on a connection of its own.
    pub(crate) fn get(&self, target: &str, fields: &str) -> Answer {
        let mut client = self.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n"));
        client.answer()
    }

    /// The order to stop, which open connections may take some time to follow.
    pub(crate) fn order_to_stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until `run` has returned. Everything is written down then.
    pub(crate) fn stop(&mut self) {
        self.shutdown.cancel();
        self.server.take().expect("stopped once").join().unwrap();
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(server) = self.server.take()
            && !std::thread::panicking()
        {
            server.join().unwrap();
        }
    }
}

/// Root may read every file. A server that runs as it should may not, and no test may depend on who runs it.
fn give_up_roots_rights() {
    let mut mine = capabilities(None).unwrap();
    mine.effective -= CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    set_capabilities(None, mine).unwrap();
}

fn config(dir: &Path) -> Config {
    let any_port = vec![([127, 0, 0, 1], 0).into()];
    let redirect = |from: &str, to: &str, status| Redirect { from: from.to_owned(), to: to.to_owned(), status };
    let protect = |path: &str, users: &[&str]| Protect {
        path: path.to_owned(),
        realm: "the vault".to_owned(),
        users: users.iter().map(|user| (*user).to_owned()).collect(),
    };
    Config {
        listen: any_port.clone(),
        listen_tls: any_port,
        docroot: dir.join("site"),
        deny: vec!["/denied.html".to_owned(), "/with space/".to_owned()],
        redirect: vec![
            redirect("/old.html", "/somedir/page.html", RedirectStatus::MovedPermanently),
            redirect("/moved/", "http://other.example/new/", RedirectStatus::MovedPermanently),
            redirect("/elsewhere", "http://other.example/?from=here", RedirectStatus::Found),
        ],
        protect: vec![protect("/vault/bob/", &["bob"]), protect("/vault/", &[])],
        site: vec![
            Site {
                name: "www.someschool.edu".to_owned(),
                aliases: vec!["someschool.edu".to_owned(), "[::1]".to_owned()],
                docroot: Some(dir.join("school")),
                ..Site::default()
            },
            Site {
                name: "plain.example".to_owned(),
                docroot: Some(dir.join("school")),
                listing: Some(false),
                ..Site::default()
            },
        ],
        keep_alive_timeout: Span::secs(5),
        body_octets_max: shared::units::Size::kib(1),
        access_log: "none".to_owned(),
        ..Config::default()
    }
}

fn accounts(dir: &Path) -> Accounts {
    let file = dir.join("accounts.toml");
    let hash = |secret: &[u8]| accounts::hash(secret).unwrap();
    let text = format!("[alice]\npassword = \"{}\"\n[bob]\npassword = \"{}\"\n", hash(b"crepes"), hash(b"hungry"));
    fs::write(&file, text).unwrap();
    Accounts::load(&accounts::Config { file: Some(file), ..accounts::Config::default() }).unwrap()
}

fn build(dir: &Path) {
    let root = dir.join("site");
    for (path, text) in FILES {
        write(&root.join(path), text.as_bytes());
    }
    write(&dir.join("school/index.html"), b"<h1>Some School</h1>\n");
    write(&dir.join("school/docs/notes.txt"), b"notes\n");
    write(&dir.join("outside.txt"), b"secret\n");
    fs::set_permissions(root.join("locked.txt"), fs::Permissions::from_mode(0o000)).unwrap();
    symlink("hello.txt", root.join("link-inside.txt")).unwrap();
    symlink("../outside.txt", root.join("link-out.txt")).unwrap();
    symlink(dir.join("outside.txt"), root.join("link-absolute.txt")).unwrap();
    symlink("link-round.txt", root.join("link-round.txt")).unwrap();
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    UnixListener::bind(root.join("socket")).unwrap();
    for directory in ["list/inner", "list/noindex", "list"] {
        set_date(&root.join(directory));
    }
}

fn write(path: &Path, octets: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, octets).unwrap();
    set_date(path);
}

fn set_date(path: &Path) {
    let date = SystemTime::UNIX_EPOCH + Duration::from_secs(MODIFIED);
    File::open(path).unwrap().set_modified(date).unwrap();
}

/// Octets that differ wherever one looks, so that a piece at the wrong place is seen.
pub(crate) fn pattern(octets: usize) -> Vec<u8> {
    (0..octets as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// Waits until the server remarks this to whoever watches.
pub(crate) fn wait_for_note(mut events: Subscription, note: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let heard = async {
        while let Some(heard) = events.next().await {
            if matches!(heard, Heard::Event(event) if event.kind == Kind::Note && event.line == note) {
                return;
            }
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, heard).await }).expect(note);
}

/// A client's end of a connection.
pub(crate) struct Client<S> {
    pub(crate) stream: S,
    input: Vec<u8>,
}

impl<S: Read + Write> Client<S> {
    pub(crate) fn send(&mut self, octets: impl AsRef<[u8]>) {
        self.stream.write_all(octets.as_ref()).unwrap();
        self.stream.flush().unwrap();
    }

    /// The answer to a GET.
    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        if answer.status >= 200 && answer.status != 204 && answer.status != 304 {
            let length: usize = answer.field("Content-Length").expect("every body here has a length").parse().unwrap();
            while self.input.len() < length {
                assert!(self.read() > 0, "closed after {} octets of {length}", self.input.len());
            }
            answer.body = self.input.drain(..length).collect();
        }
        answer
    }

    /// The answer to a HEAD, or the part before the body.
    pub(crate) fn head(&mut self) -> Answer {
        Answer::parse(&self.head_as_sent())
    }

    /// The same, as it was sent, without its empty line.
    pub(crate) fn head_as_sent(&mut self) -> String {
        loop {
            if let Some(end) = self.input.windows(4).position(|octets| octets == b"\r\n\r\n") {
                let head: Vec<u8> = self.input.drain(..end + 4).collect();
                return String::from_utf8(head[..end].to_vec()).unwrap();
            }
            assert!(self.read() > 0, "closed after `{}`", self.input.escape_ascii());
        }
    }

    /// Everything up to the end of the connection.
    pub(crate) fn rest(mut self) -> Vec<u8> {
        while self.read() > 0 {}
        self.input
    }

    /// Everything until the connection breaks: a reset, or an end without the goodbye that TLS wants.
    pub(crate) fn rest_until_broken(mut self) -> Vec<u8> {
        let end = self.stream.read_to_end(&mut self.input);
        assert!(end.as_ref().is_ok() || end.is_err_and(|error| error.kind() != ErrorKind::WouldBlock), "still open");
        self.input
    }

    /// Reads on until this many octets have come, and says how many it were.
    pub(crate) fn take(&mut self, octets: usize) -> usize {
        while self.input.len() < octets {
            assert!(self.read() > 0, "closed after {} octets of {octets}", self.input.len());
        }
        self.input.len()
    }

    /// The next octets, which have come.
    pub(crate) fn drain(&mut self, octets: usize) -> Vec<u8> {
        self.input.drain(..octets).collect()
    }

    /// Nothing more comes.
    pub(crate) fn expect_end(self) {
        let rest = self.rest();
        assert!(rest.is_empty(), "the end was to come, and not `{}`", rest.escape_ascii());
    }

    fn read(&mut self) -> usize {
        let mut buffer = [0; 1 << 14];
        let octets = self.stream.read(&mut buffer).unwrap();
        self.input.extend_from_slice(&buffer[..octets]);
        octets
    }
}

impl Client<TcpStream> {
    /// The client says no more, and listens on.
    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(head: &str) -> Self {
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.map(|line| line.split_once(": ").expect("every field has its colon"));
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { status, fields, body: vec![] }
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| &**value)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}
