//! A small Internet: authorities at the real port, each with its zones, signed or not, and the local name servers of several makers
//! that know only where its root is. Whoever wants one is [alone](crate::alone) on the network.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::dns::{Answer, Over, Question, Type};
use crate::nameserver::{self, client};
use crate::process::{Server, built_program, find_program, free_address};
use crate::program::run;

/// A zone, and who serves it.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Its name, with the last dot.
    pub name: String,
    /// Its records as a master file has them, without `$TTL` and SOA; `{flaw}` in it is what a [`Flaw`] spoils.
    pub records: String,
    /// The addresses of its servers.
    pub servers: Vec<Ipv4Addr>,
    /// How it is signed.
    pub signing: Signing,
    /// What is wrong with it.
    pub flaw: Flaw,
}

/// How a zone is signed. Its DS record is in the zone above if that is signed too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the RFCs' own words")]
pub enum Signing {
    Unsigned,
    Nsec,
    Nsec3,
    /// RFC 5155 §6: unsigned delegations have no NSEC3 record of their own.
    Nsec3OptOut,
}

/// What is wrong with a signed zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// The text `genuine` was made `altered` after it was signed.
    Altered,
    /// Its signatures have expired.
    Expired,
    /// The DS record above is that of another key.
    WrongDs,
    /// There is a DS record above, and nothing is signed.
    Stripped,
}

/// Who made a local name server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are names")]
pub enum Maker {
    Ours,
    Unbound,
    Bind,
}

/// How a local name server finds things out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the root down.
    Down,
    /// It asks another one.
    Through(SocketAddr),
}

/// A small Internet. Dropping it ends its servers.
#[derive(Debug)]
pub struct Internet {
    servers: BTreeMap<Ipv4Addr, Server>,
    root: Ipv4Addr,
    anchor: Option<String>,
    folder: TempDir,
}

impl Internet {
    /// Signs the zones and starts their servers. One of the zones is the root, `.`.
    pub fn start(zones: &[Zone]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let root = zones.iter().find(|zone| zone.name == ".").context("there is no root")?;
        let mut files = BTreeMap::new();
        // From the leaves up: each leaves its DS record for the zone above.
        let mut order: Vec<&Zone> = zones.iter().collect();
        order.sort_by_key(|zone| Reverse(zone.name.split('.').filter(|label| !label.is_empty()).count()));
        for zone in order {
            files.insert(&zone.name, zone.write(folder.path()).with_context(|| zone.name.clone())?);
        }
        let mut served: BTreeMap<Ipv4Addr, Vec<&Zone>> = BTreeMap::new();
        for zone in zones {
            for server in &zone.servers {
                served.entry(*server).or_default().push(zone);
            }
        }
        let mut servers = BTreeMap::new();
        for (ip, zones) in served {
            let list = zones.iter().map(|zone| (zone.name.as_str(), files[&zone.name].as_path()));
            servers.insert(ip, authority(folder.path(), ip, list)?);
        }
        let anchor = (root.signing != Signing::Unsigned).then(|| key(folder.path(), ".")).transpose()?;
        Ok(Self { servers, root: root.servers[0], anchor, folder })
    }

    /// Stops the server at an address: nobody is there any more.
    pub fn stop(&mut self, server: Ipv4Addr) {
        self.servers.remove(&server);
    }

    /// Serves another version of a zone: its servers are stopped and started.
    pub fn change(&mut self, zone: &Zone) -> Result<()> {
        zone.write(self.folder.path())?;
        for ip in &zone.servers {
            self.stop(*ip);
            self.servers.insert(*ip, start_authority(self.folder.path(), *ip)?);
        }
        Ok(())
    }

    /// Starts a local name server. `more` is what stands in its configuration besides.
    pub fn resolver(&self, maker: Maker, way: Way, more: &str) -> Result<Resolver> {
        let address = free_address()?;
        let folder = tempfile::Builder::new().prefix("resolver").tempdir_in(self.folder.path())?.keep();
        let hints = folder.join("root.hints");
        fs::write(&hints, format!(". 3600 IN NS ns.root.\nns.root. 3600 IN A {}\n", self.root))?;
        let anchor = folder.join("root.key");
        if let Some(key) = &self.anchor {
            fs::write(&anchor, key)?;
        }
        let anchor = self.anchor.as_ref().map(|key| (key.as_str(), anchor.as_path()));
        let mut text = maker.configuration(way, address, &folder, &hints, anchor) + more;
        if maker == Maker::Ours {
            write!(text, "\n[admin]\nsocket = \"{}\"\n", folder.join(ADMIN).display())?;
        }
        let (file, output) =
            (folder.join(if maker == Maker::Ours { "tomte.toml" } else { "conf" }), folder.join("output"));
        fs::write(&file, text)?;
        let file = file.display().to_string();
        let server = match maker {
            Maker::Ours => Server::start(&built_program("tomte-dns")?, ["-c", &file], address, &output),
            Maker::Unbound => {
                Server::start(&find_program("unbound", "unbound")?, ["-d", "-c", &file], address, &output)
            }
            Maker::Bind => {
                let arguments = ["-4", "-g", "-n", "1", "-c", &file];
                Server::start(&find_program("named", "bind9")?, arguments, address, &output)
            }
        }?;
        Ok(Resolver { server, folder })
    }
}

/// A local name server.
#[derive(Debug)]
pub struct Resolver {
    server: Server,
    folder: PathBuf,
}

/// In a resolver's folder, if it is ours.
const ADMIN: &str = "admin.sock";

impl Resolver {
    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What it says to a client of its.
    pub fn ask(&self, name: &str, rtype: Type) -> Result<Answer> {
        Question::new(name, rtype).recursive().with_dnssec().ask(self.address(), Over::Udp)
    }

    /// What dig says when it asks.
    pub fn dig(&self, question: &[&str]) -> Result<String> {
        nameserver::ask("dig", self.address(), question)
    }

    /// One of our own counters: `upstream_forged`, `upstream_queries{transport="udp"}`.
    pub fn count(&self, counter: &str) -> Result<u64> {
        let mut admin = UnixStream::connect(self.folder.join(ADMIN))?;
        admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        admin.read_to_string(&mut text)?;
        let (name, labels) = counter.split_once('{').unwrap_or((counter, "}"));
        let labels = labels.trim_end_matches('}');
        let is_it = |line: &&str| line.starts_with(&format!("tomte_dns_{name}_total")) && line.contains(labels);
        let line = text.lines().find(is_it).with_context(|| format!("no {counter} in {text}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    }
}

/// A server at the real port that says what a test wants: `says` gets its socket, what came, and from whom. With the socket that is
/// returned it can be made to speak unasked. It ends with the process, which who is alone has for himself.
pub fn liar(at: Ipv4Addr, mut says: impl FnMut(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((at, 53))?;
    let unasked = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((octets, from)) = socket.recv_from(&mut buffer) {
            says(&socket, &buffer[..octets], from);
        }
    });
    Ok(unasked)
}

/// One of our own name servers with zones, at the real port.
fn authority<'z>(folder: &Path, ip: Ipv4Addr, zones: impl Iterator<Item = (&'z str, &'z Path)>) -> Result<Server> {
    let place = folder.join(ip.to_string());
    fs::create_dir(&place)?;
    let zones = zones.map(|(name, file)| format!("{{ name = \"{name}\", file = \"{}\" }}", file.display()));
    let zones = zones.collect::<Vec<_>>().join(",\n");
    let state = place.display();
    let text =
        format!("[dns]\nlisten = [\"{ip}:53\"]\nworkers = 1\nrate = 0\nstate = \"{state}\"\nzones = [\n{zones}\n]\n");
    fs::write(place.join("tomte.toml"), text)?;
    start_authority(folder, ip)
}

fn start_authority(folder: &Path, ip: Ipv4Addr) -> Result<Server> {
    let place = folder.join(ip.to_string());
    let file = place.join("tomte.toml");
    let program = built_program("tomte-dns")?;
    Server::start(&program, ["-c".as_ref(), file.as_os_str()], (ip, 53).into(), &place.join("output"))
}

/// A zone's key as it stands in a zone: `. IN DNSKEY 257 3 13 ...`.
fn key(folder: &Path, zone: &str) -> Result<String> {
    let prefix = format!("K{zone}+");
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(&prefix) && Path::new(&name).extension().is_some_and(|it| it == "key") {
            let text = fs::read_to_string(entry.path())?;
            let line = text.lines().find(|line| !line.starts_with(';')).context("a file without a key")?;
            return Ok(line.to_owned() + "\n");
        }
    }
    anyhow::bail!("no key of {zone} in {}", folder.display())
}

impl Zone {
    /// An unsigned zone without a flaw.
    pub fn new(name: &str, servers: &[Ipv4Addr], records: String) -> Self {
        let (name, servers) = (name.to_owned(), servers.to_vec());
        Self { name, records, servers, signing: Signing::Unsigned, flaw: Flaw::None }
    }

    /// Writes it into `folder`, signed if it is to be, and returns the file.
    fn write(&self, folder: &Path) -> Result<PathBuf> {
        let file = folder.join(format!("zone-{}", self.name));
        let head = "$TTL 1h\n@ SOA ns.root. hostmaster.root. ( 1 1h 15m 1w 1m )\n";
        fs::write(&file, format!("$ORIGIN {}\n{head}{}", self.name, self.records))?;
        if self.signing == Signing::Unsigned {
            return Ok(file);
        }
        let mut keygen = client("dnssec-keygen")?;
        keygen.current_dir(folder).args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", &self.name]);
        run(&mut keygen)?.with_code(0)?;
        let signed = folder.join(format!("signed-{}", self.name));
        let mut signzone = client("dnssec-signzone")?;
        // One key signs everything (-z); the DS records of the zones below are put in (-g).
        signzone.current_dir(folder).args(["-S", "-z", "-g", "-q", "-o", &self.name, "-f"]).arg(&signed);
        match self.signing {
            Signing::Unsigned | Signing::Nsec => {}
            Signing::Nsec3 => drop(signzone.args(["-3", "ab", "-H", "3"])),
            Signing::Nsec3OptOut => drop(signzone.args(["-3", "-", "-H", "0", "-A"])),
        }
        if self.flaw == Flaw::Expired {
            // -P: it is not verified.
            signzone.args(["-P", "-s", "20200101000000", "-e", "20200201000000"]);
        }
        run(signzone.arg(&file))?.with_code(0)?;
        match self.flaw {
            Flaw::None | Flaw::Expired => {}
            Flaw::Altered => change(&signed, |text| text.replace("genuine", "altered"))?,
            Flaw::Stripped => return Ok(file),
            // Its last digit is another one.
            Flaw::WrongDs => change(&folder.join(format!("dsset-{}", self.name)), |text| {
                let text = text.trim_end();
                let (start, last) = text.split_at(text.len() - 1);
                format!("{start}{}\n", if last == "0" { "1" } else { "0" })
            })?,
        }
        Ok(signed)
    }
}

fn change(file: &Path, how: impl FnOnce(String) -> String) -> Result<()> {
    let text = fs::read_to_string(file)?;
    let changed = how(text.clone());
    ensure!(changed != text, "nothing to change in {}", file.display());
    Ok(fs::write(file, changed)?)
}

impl Maker {
    fn configuration(
        self,
        way: Way,
        address: SocketAddr,
        folder: &Path,
        hints: &Path,
        anchor: Option<(&str, &Path)>,
    ) -> String {
        let (ip, port) = (address.ip(), address.port());
        let (folder, hints) = (folder.display(), hints.display());
        match self {
            Self::Ours => {
                let way = match way {
                    Way::Down => format!("hints = \"{hints}\""),
                    Way::Through(other) => format!("forward = [\"{other}\"]"),
                };
                let anchor = anchor.map(|(_, file)| format!("trust_anchors = \"{}\"\n", file.display()));
                format!(
                    "[dns]\nlisten = [\"{address}\"]\nworkers = 1\nrate = 0\nquery_ipv6 = false\nstate = \"{folder}\"\n\
                     recurse = true\n{way}\n{}",
                    anchor.unwrap_or_default(),
                )
            }
            // Without what it would add to answers, or leave out, by its own choice.
            Self::Unbound => {
                let (way, clause) = match way {
                    Way::Down => (format!("root-hints: \"{hints}\""), String::new()),
                    Way::Through(other) => {
                        let (ip, port) = (other.ip(), other.port());
                        (String::new(), format!("forward-zone:\n  name: \".\"\n  forward-addr: {ip}@{port}\n"))
                    }
                };
                let anchor = match anchor {
                    Some((_, file)) => format!("trust-anchor-file: \"{}\"", file.display()),
                    None => "module-config: \"iterator\"".to_owned(),
                };
                format!(
                    r#"remote-control:
  control-enable: no
{clause}server:
  interface: {ip}
  port: {port}
  {way}
  {anchor}
  do-not-query-localhost: no
  do-ip6: no
  aggressive-nsec: no
  serve-expired: no
  rrset-roundrobin: no
  ede: yes
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  num-threads: 1
"#
                )
            }
            Self::Bind => {
                let (way, zone) = match way {
                    Way::Down => (String::new(), format!("zone \".\" {{ type hint; file \"{hints}\"; }};\n")),
                    Way::Through(other) => {
                        let (ip, port) = (other.ip(), other.port());
                        (format!("forward only; forwarders port {port} {{ {ip}; }};"), String::new())
                    }
                };
                // `. IN DNSKEY 257 3 13 ...`, which named.conf wants without class and type, and the key in quotes.
                let anchor = anchor.map(|(key, _)| {
                    let words: Vec<&str> = key.split_whitespace().collect();
                    let (numbers, key) = (words[3..6].join(" "), words[6..].concat());
                    format!("trust-anchors {{ . static-key {numbers} \"{key}\"; }};\n")
                });
                let validation = if anchor.is_some() { "yes" } else { "no" };
                format!(
                    r#"options {{
  directory "{folder}";
  listen-on port {port} {{ {ip}; }};
  listen-on-v6 {{ none; }};
  pid-file none;
  session-keyfile none;
  recursion yes;
  empty-zones-enable no;
  dnssec-validation {validation};
  {way}
}};
controls {{ }};
{}{zone}"#,
                    anchor.unwrap_or_default(),
                )
            }
        }
    }
}
