//! What can be set.

use crate::{
    address::{Domain, Host},
    authenticity::{Authenticator, DkimKey, Signer},
    body::{Bounds, Stray},
    courier::{Couriers, Neighbour, Security, Settings, Timeouts},
    mx::Resolver,
    relay::Relay,
    route::{EXPANDED_MAX, Faults, House, Residents, Target, Unmeant, folded},
    schedule::Schedule,
    session::LINE_OCTETS_MAX,
};
use serde::{Deserialize, Serialize};
use shared::{
    Shared,
    config::keep,
    daemon::StartError,
    tls::{self, TlsError},
    units::{Network, Size, Span, private_networks},
    wire::{Limits, LineEnd},
};
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// The `[smtp]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in a file that people write")]
pub struct Config {
    /// Addresses where other servers bring mail (port 25); STARTTLS begins TLS there.
    pub listen: Vec<SocketAddr>,
    /// Addresses where our users bring theirs, after they have logged in (port 587).
    pub listen_submission: Vec<SocketAddr>,
    /// The same with TLS first (port 465); they need a certificate in `[tls]`.
    pub listen_tls: Vec<SocketAddr>,
    /// What the server calls itself; empty is the name of the machine.
    pub hostname: String,
    /// Domains whose mailboxes are here. Mail for any other is relayed, or refused.
    pub domains: Vec<String>,
    /// Accounts that have a mailbox here; empty means all of them.
    pub users: Vec<String>,
    /// Names that stand for others, which may be elsewhere: `{ info = ["bob", "alice@crepes.fr"] }`. In an alias of its own name, bob is the
    /// account: `{ bob = ["bob", "alice"] }` leaves him a copy. So is `'\bob'` everywhere.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// Who gets mail for names that nobody has; empty refuses it.
    pub catch_all: String,
    /// What divides a name from what its owner adds to it: bob+lists@hamburger.edu is bob. Empty divides nothing.
    pub separator: String,
    /// The directory with the mailboxes, one Maildir for each user: `MAILBOXES/bob/{cur,new,tmp}`. Postmaster's is there too.
    pub mailboxes: PathBuf,
    /// The most that a mailbox may hold; `"0 B"` sets no limit. What other programs put there is seen within a second.
    pub quota: Size,
    /// The directory of the queue. A message is answered 250 when it is safe there, or in a mailbox.
    pub spool: PathBuf,
    /// Who may send to other domains through us without a login. Only private networks and this machine, unless you say otherwise:
    /// an open relay is a weapon.
    pub allow: Vec<Network>,
    /// Take passwords on connections that are not encrypted. For lessons only: everybody on the way can read them.
    pub allow_plaintext_auth: bool,
    /// Tell the truth to VRFY and EXPN, and so to whoever collects addresses.
    pub verify: bool,
    /// Addresses that misbehave as they are called: `fail-451@`, `slow-10s@`. For lessons only.
    pub fault_addresses: bool,
    /// How long a stranger must wait between its first message from somebody to somebody and the next try, which is welcome; programs
    /// that send spam rarely come back. `"0 s"` makes nobody wait.
    pub greylist: Span,
    /// Look whether a message comes from where its sender's domain says (SPF) and is signed by it (DKIM), and whether one of them speaks for its
    /// `From:` (DMARC), and tell the results on top of it in `Authentication-Results:`. Nothing is refused for that.
    pub authenticate: bool,
    /// Keys that sign what our users send (DKIM): `[{ domain = "crepes.fr", selector = "lab", key = "/etc/tomte/dkim.pem" }]`.
    pub dkim: Vec<DkimKey>,
    /// The largest message.
    pub message_max: Size,
    /// The longest line of a message, with its line end. RFC 5321 §4.5.3.1.6 has 1000 octets.
    pub text_line_max: Size,
    /// Take messages in which a CR or an LF stands alone, and make a line end of it. It never ends a message.
    pub mend_line_ends: bool,
    /// Recipients that a client may name for a message; a list is one. RFC 5321 §4.5.3.1.8 wants at least 100.
    pub recipients: usize,
    /// Servers that a message may have been through, before it is said to run in a circle. RFC 5321 §6.3 wants at least 100.
    pub hops: usize,
    /// How long a client may be silent. RFC 5321 §4.5.3.2.7 wants at least 5 minutes.
    pub idle_timeout: Span,
    /// How long a client may refuse to take anything of what we send.
    pub send_timeout: Span,
    /// How long sessions and deliveries may finish after the order to stop.
    pub grace: Span,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one address (one /64 for IPv6).
    pub connections_per_peer: usize,
    /// Messages that may wait in the queue.
    pub queue: usize,
    /// How long to wait after the first try to deliver, after the second, and so on; the last one repeats.
    pub retry: Vec<Span>,
    /// How long after its arrival a message is given up, and its sender told. RFC 5321 §4.5.4.1 wants at least 4 days.
    pub give_up: Span,
    /// How long after its arrival the sender is told that it takes long; `"0 s"` tells nobody.
    pub warn: Span,
    /// Name servers that tell where mail goes, as address and port; empty asks those of /etc/resolv.conf.
    pub resolvers: Vec<SocketAddr>,
    /// Domains whose mail goes to a fixed host, without a look at MX: `{ "hamburger.edu" = "127.77.2.25:8025" }`. A host can be a table, too,
    /// like that of `smart_host`.
    pub routes: BTreeMap<String, Relay>,
    /// The host that takes all mail to others but those in `routes`; without one each domain's own is looked for. Its address alone, or a table: `tls` is
    /// "opportunistic" (where it is offered), "required", or "verified" (with a certificate for this name, from one of `tls_roots`); `tls_first` is
    /// for port 465; `user` and `password_file` log in, by SCRAM-SHA-256, PLAIN or LOGIN, and then `tls` is "verified" unless it says
    /// otherwise; `allow_plaintext_auth` says the password in clear, too, for lessons only.
    pub smart_host: Option<Relay>,
    /// A PEM file with the authorities whose certificates are good for `tls = "verified"`.
    pub tls_roots: PathBuf,
    /// The port of other servers.
    pub peer_port: u16,
    /// The address that connections to other servers come from; `0.0.0.0` lets the system choose.
    pub send_from: IpAddr,
    /// Whether mail goes out over IPv6 too.
    pub send_ipv6: bool,
    /// How long to wait for a connection to another server.
    pub connect_timeout: Span,
    /// Connections to other servers at the same time.
    pub deliveries: usize,
    /// Connections at the same time to one destination.
    pub deliveries_per_destination: usize,
    /// How long a connection to another server waits for one more message.
    pub reuse: Span,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 25).into()],
            listen_submission: vec![],
            listen_tls: vec![],
            hostname: String::new(),
            domains: vec![],
            users: vec![],
            aliases: BTreeMap::new(),
            catch_all: String::new(),
            separator: "+".to_owned(),
            mailboxes: PathBuf::from("/var/lib/tomte/mail"),
            quota: Size(0),
            spool: PathBuf::from("/var/lib/tomte/smtp"),
            allow: private_networks(),
            allow_plaintext_auth: false,
            verify: false,
            fault_addresses: false,
            greylist: Span::secs(0),
            authenticate: false,
            dkim: vec![],
            message_max: Size::mib(50),
            text_line_max: Size(1000),
            mend_line_ends: false,
            recipients: 100,
            hops: 100,
            idle_timeout: Span::secs(300),
            send_timeout: Span::secs(60),
            grace: Span::secs(5),
            connections: 1000,
            connections_per_peer: 100,
            queue: 100_000,
            retry: [5, 15, 30, 60, 120].map(|minutes| Span::secs(60 * minutes)).to_vec(),
            give_up: Span::secs(5 * 24 * 3600),
            warn: Span::secs(4 * 3600),
            resolvers: vec![],
            routes: BTreeMap::new(),
            smart_host: None,
            // Where Debian, Alpine and Arch have those of the web.
            tls_roots: PathBuf::from("/etc/ssl/certs/ca-certificates.crt"),
            peer_port: 25,
            send_from: std::net::Ipv4Addr::UNSPECIFIED.into(),
            send_ipv6: true,
            connect_timeout: Span::secs(30),
            deliveries: 50,
            deliveries_per_destination: 5,
            reuse: Span::secs(5),
        }
    }
}

/// A value that does not fit, with its key.
pub(crate) fn unfit(key: &str, problem: impl fmt::Display) -> StartError {
    StartError::Unfit { key: format!("smtp.{key}"), problem: problem.to_string() }
}

fn parse<T: FromStr<Err: fmt::Display>>(key: &str, text: &str) -> Result<T, StartError> {
    text.parse().map_err(|error| unfit(key, format!("`{text}`: {error}")))
}

impl Config {
    /// How we read and write. RFC 5321 §2.3.8: a line ends with CR LF and nothing else.
    pub fn limits(&self) -> Limits {
        Limits {
            line_end: LineEnd::CrLf,
            line_octets_max: LINE_OCTETS_MAX,
            idle: self.idle_timeout.0,
            write: self.send_timeout.0,
        }
    }

    /// What a running server cannot change stays as it `was`; the keys that would have been changed.
    pub(crate) fn keep_bound(&mut self, was: &Self) -> Vec<&'static str> {
        let mut kept = vec![];
        keep("listen", &mut self.listen, &was.listen, &mut kept);
        keep("listen_submission", &mut self.listen_submission, &was.listen_submission, &mut kept);
        keep("listen_tls", &mut self.listen_tls, &was.listen_tls, &mut kept);
        keep("spool", &mut self.spool, &was.spool, &mut kept);
        keep("connections", &mut self.connections, &was.connections, &mut kept);
        keep("connections_per_peer", &mut self.connections_per_peer, &was.connections_per_peer, &mut kept);
        keep("grace", &mut self.grace, &was.grace, &mut kept);
        kept
    }

    /// What a message may be.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            octets_max: self.message_max.0,
            line_octets_max: self.text_line_max.octets(),
            hops_max: self.hops,
            stray: if self.mend_line_ends { Stray::Mended } else { Stray::Refused },
        }
    }

    /// When to try again.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            delays: self.retry.iter().map(|span| span.0).collect(),
            give_up: self.give_up.0,
            warn: (!self.warn.0.is_zero()).then_some(self.warn.0),
            ..Schedule::default()
        }
    }

    /// What the server calls itself.
    pub fn name(&self, shared: &Shared) -> String {
        if self.hostname.is_empty() { shared.host.to_string() } else { self.hostname.clone() }
    }

    /// Who is here.
    ///
    /// # Errors
    /// A domain or an alias is none, or an alias leads to nobody or to too many: all that is wrong.
    pub fn house(&self, shared: &Shared) -> Result<House, StartError> {
        let listen = self.listen.iter().chain(&self.listen_submission).chain(&self.listen_tls);
        let addresses = listen.map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()).collect();
        let name = self.name(shared);
        let mut problems: Vec<StartError> = parse::<Host>("hostname", &name).err().into_iter().collect();
        let domains = self.domains.iter().map(|domain| parse("domains", domain));
        let mut domains: Vec<Domain> = domains.filter_map(|domain| keep_good(domain, &mut problems)).collect();
        if self.domains.is_empty() {
            // RFC 5321 §4.5.1: there is always a postmaster, who needs an address.
            domains.extend(name.parse());
        }
        let residents = if self.users.is_empty() {
            Residents::Accounts(Arc::clone(&shared.accounts))
        } else {
            Residents::Named(self.users.iter().cloned().collect())
        };
        let mut aliases = HashMap::new();
        for (name, targets) in &self.aliases {
            let target = |target: &String| {
                Target::parse(target).map_err(|error| unfit("aliases", format!("{name} = `{target}`: {error}")))
            };
            let targets = targets.iter().map(target).filter_map(|target| keep_good(target, &mut problems));
            aliases.insert(folded(name), targets.collect());
        }
        let mut characters = self.separator.chars();
        let separator = characters.next();
        if characters.next().is_some() {
            problems.push(unfit("separator", format!("`{}` is more than one character; choose one", self.separator)));
        }
        // Who is left out above would be missed below.
        StartError::all(problems)?;
        let house = House {
            name,
            domains,
            addresses,
            residents,
            aliases,
            catch_all: (!self.catch_all.is_empty()).then(|| self.catch_all.clone()),
            separator,
            faults: if self.fault_addresses { Faults::On } else { Faults::Off },
        };
        self.nobody_is_misspelt(&house)?;
        Ok(house)
    }

    /// A name that nobody has would lose mail without a word: whoever sends it to the alias is told yes, for the others' sake.
    fn nobody_is_misspelt(&self, house: &House) -> Result<(), StartError> {
        let cure = "nobody here is called so; name an account, an alias, or an address elsewhere";
        let mut problems = vec![];
        if !self.catch_all.is_empty() && house.names(&self.catch_all).is_none() {
            problems.push(unfit("catch_all", format!("`{}`: {cure}", self.catch_all)));
        }
        for (name, targets) in &self.aliases {
            let lost = targets.iter().find(|text| Target::parse(text).is_ok_and(|target| house.is_for_nobody(&target)));
            if let Some(target) = lost {
                problems.push(unfit("aliases", format!("{name} = `{target}`: {cure}")));
                continue;
            }
            match house.expand(name) {
                // One without targets is there to refuse mail.
                Err(Unmeant::Nobody) if !targets.is_empty() => {
                    problems.push(unfit("aliases", format!("{name}: it leads to nobody but itself; {cure}")));
                }
                Err(Unmeant::TooMany) => {
                    let problem = format!("it means more than {EXPANDED_MAX} mailboxes; make several of it");
                    problems.push(unfit("aliases", format!("{name}: {problem}")));
                }
                Ok(_) | Err(Unmeant::Nobody) => {}
            }
        }
        StartError::all(problems)
    }

    /// Who finds out where mail comes from, if that is wanted.
    ///
    /// # Errors
    /// The system's name servers cannot be read.
    pub(crate) fn authenticator(&self, shared: &Shared, house: &House) -> Result<Option<Authenticator>, StartError> {
        if !self.authenticate {
            return Ok(None);
        }
        let resolver = Resolver::new(&self.resolvers, self.sends_from(), shared.transcript.clone());
        let resolver = resolver.map_err(|error| unfit("resolvers", error))?;
        Ok(Some(Authenticator::new(&resolver, &house.name)))
    }

    /// Who signs.
    ///
    /// # Errors
    /// A key cannot be read, or several.
    pub(crate) fn signers(&self) -> Result<Vec<Signer>, StartError> {
        let mut problems = vec![];
        let signer = |(at, key)| Signer::new(key).map_err(|problem| unfit(&format!("dkim[{at}]"), problem));
        let signers = self.dkim.iter().enumerate().map(signer).filter_map(|it| keep_good(it, &mut problems)).collect();
        StartError::all(problems).map(|()| signers)
    }

    fn sends_from(&self) -> Option<IpAddr> {
        (!self.send_from.is_unspecified()).then_some(self.send_from)
    }

    /// Who takes mail to others.
    ///
    /// # Errors
    /// A route or the smart host is none, or the system's name servers cannot be read.
    pub fn couriers(&self, shared: &Shared, house: &House) -> Result<Couriers, StartError> {
        let Relays { routes, smart_host, trust } = self.relays()?;
        let settings = Settings {
            hello: house.name.clone(),
            resolvers: self.resolvers.clone(),
            routes,
            smart_host,
            trust,
            port: self.peer_port,
            from: self.sends_from(),
            our_names: house.domains.iter().cloned().chain(house.name.parse()).collect(),
            ipv6: self.send_ipv6,
            connect_timeout: self.connect_timeout.0.max(Duration::from_millis(1)),
            timeouts: Timeouts::default(),
        };
        Couriers::new(settings, shared.transcript.clone(), &shared.metrics)
            .map_err(|error| unfit("resolvers", format!("{error}; name servers with their ports")))
    }

    /// Where mail goes that does not go where the DNS says.
    ///
    /// # Errors
    /// A route or the smart host is none, or those who vouch for them cannot be read: all that is wrong.
    pub(crate) fn relays(&self) -> Result<Relays, StartError> {
        let (mut routes, mut problems) = (HashMap::new(), vec![]);
        for (domain, relay) in &self.routes {
            let neighbour = relay.neighbour().map_err(|problem| unfit("routes", format!("{domain}: {problem}")));
            let (domain, neighbour) = (parse::<Domain>("routes", domain), keep_good(neighbour, &mut problems));
            routes.extend(keep_good(domain, &mut problems).zip(neighbour));
        }
        let smart_host = self.smart_host.as_ref().map(Relay::neighbour).transpose();
        let smart_host = keep_good(smart_host.map_err(|problem| unfit("smart_host", problem)), &mut problems).flatten();
        let verified = routes.values().chain(&smart_host).any(|neighbour| neighbour.security == Security::Verified);
        let trust = verified.then(|| tls::client_config(&self.tls_roots)).transpose();
        let trust = trust.map_err(|error| match error {
            TlsError::Unreadable { path, source } => unfit(
                "tls_roots",
                format!(
                    "{}: {source}; the package ca-certificates has such a file, a lab has its own ca.crt",
                    path.display()
                ),
            ),
            error => unfit("tls_roots", error),
        });
        let trust = keep_good(trust, &mut problems).flatten();
        StartError::all(problems).map(|()| Relays { routes, smart_host, trust })
    }
}

/// Where mail goes that does not go where the DNS says, and who vouches for the certificates there.
pub(crate) struct Relays {
    routes: HashMap<Domain, Neighbour>,
    smart_host: Option<Neighbour>,
    trust: Option<Arc<rustls::ClientConfig>>,
}

/// What is good; what is not joins the problems.
fn keep_good<T>(result: Result<T, StartError>, problems: &mut Vec<StartError>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}
