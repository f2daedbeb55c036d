//! Where mail for a destination goes (RFC 5321 §5.1).
//!
//! ```text
//!   hamburger.edu --- MX? ---> 10 mail, 10 mx2, 20 backup   sorted by preference, equals in random order,
//!        |                              |                   without ourselves and what is no better than we
//!        |  no MX: the domain itself    |
//!        +------------------------------+--- A? AAAA? ---> addresses, IPv6 and IPv4 in turn
//! ```
//!
//! What is decided is pure: [`exchangers`] and [`addresses`] get what the DNS said and say where to go, or why there is no way. [`Resolver`]
//! only asks.

use crate::{
    address::{AddressError, Domain, Host},
    envelope::{Account, Fate, Status},
};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use shared::transcript::{Conversation, Kind, Transcript, Transport};
use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    str::FromStr,
    time::Duration,
};
use tokio::time::timeout;

/// How many servers of a domain are tried: the best ones. The RFC has no bound, and a domain of a thousand MX records is none.
const EXCHANGERS_MAX: usize = 10;
/// How many addresses of a server are tried.
const ADDRESSES_MAX: usize = 8;
/// How long we wait for the answer to a question, all repetitions included.
const LOOK_UP: Duration = Duration::from_secs(20);
/// How long one repetition takes.
const QUERY: Duration = Duration::from_secs(4);

/// Where mail goes without a look at MX records: `mail.crepes.fr`, `127.77.2.25:8025`, `[2001:db8::25]:25`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// A name, whose addresses are looked up, or an address.
    pub host: Host,
    /// The port, if it is not the usual one.
    pub port: Option<u16>,
}

/// What is no route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no host; write a name or an address, and perhaps a port, like \"mail.crepes.fr\", \"127.77.2.25:8025\" or \"[::1]:25\""
)]
pub struct RouteError(String);

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let wrong = || RouteError(text.to_owned());
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self { host: Host::Literal(address), port: None });
        }
        // A colon within brackets belongs to the address.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let port = port.map(|port| port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)).transpose()?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = match bare.parse::<IpAddr>() {
            Ok(address) => Host::Literal(address),
            Err(_) => host.parse().map_err(|_: AddressError| wrong())?,
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Host::Literal(address @ IpAddr::V6(_)), Some(port)) => write!(f, "[{address}]:{port}"),
            (Host::Literal(address), Some(port)) => write!(f, "{address}:{port}"),
            (Host::Literal(address), None) => address.fmt(f),
            (Host::Domain(domain), Some(port)) => write!(f, "{domain}:{port}"),
            (Host::Domain(domain), None) => domain.fmt(f),
        }
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Route {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// What mail has in common that can go over one connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Wherever the DNS, or a static route, says.
    Domain(Domain),
    /// RFC 5321 §4.1.3: this address.
    Literal(IpAddr),
    /// The host that gets everything.
    SmartHost,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Domain(domain) => domain.fmt(f),
            Destination::Literal(address) => Host::Literal(*address).fmt(f),
            Destination::SmartHost => f.write_str("the smart host"),
        }
    }
}

/// What the DNS said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<T> {
    /// These, at least one.
    These(Vec<T>),
    /// The name is there and has none of them.
    None,
    /// RFC 2308 §2.1: there is no such name.
    NoName,
    /// There was no answer, or one that says that there is none now.
    NoAnswer(String),
}

/// An MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchanger {
    /// Lower is better.
    pub preference: u16,
    /// Its name, without the dot at its end; empty for the root, which is nowhere (RFC 7505).
    pub name: String,
}

/// A server that takes mail, whose addresses are to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name or its address.
    pub host: String,
    /// Why it.
    pub because: Because,
}

/// Why a server takes the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// An MX record says so.
    Mx {
        /// Lower is better.
        preference: u16,
    },
    /// RFC 5321 §5.1: there is no MX record, so the domain is its own server.
    NoMx,
    /// Somebody who configured us says so.
    Route,
    /// RFC 5321 §4.1.3: the mail's address says so itself.
    Literal,
}

/// The sockets at which we take mail ourselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own(Vec<SocketAddr>);

impl Own {
    /// These.
    pub fn new(sockets: Vec<SocketAddr>) -> Self {
        Self(sockets)
    }

    /// Whether a connection to this address would come to ourselves. The hosts of a lab have one port at many addresses of one machine: where
    /// a socket has an address of its own, no other will do. Only one that takes what comes to any address has all that are `here`.
    pub fn has(&self, address: SocketAddr, here: impl Fn(IpAddr) -> bool) -> bool {
        let ip = match address.ip().to_canonical() {
            // Linux takes the unspecified address for the loopback one.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let reaches = |own: IpAddr| match own {
            // `[::]` is for IPv4 clients, too.
            any if any.is_unspecified() => (any.is_ipv6() || ip.is_ipv4()) && (ip.is_loopback() || here(ip)),
            own => own.to_canonical() == ip,
        };
        self.0.iter().any(|own| own.port() == address.port() && reaches(own.ip()))
    }
}

/// Whether an address is one of this machine: whoever speaks with himself has the same one at both ends. No packet leaves for this.
pub fn is_here(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let near_end = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, 25))?;
        socket.local_addr()
    };
    near_end().is_ok_and(|near| near.ip() == ip)
}

/// The servers of `domain`, best first. `random` gives another number each time.
///
/// # Errors
/// There is no way: [`Fate::Failed`] for ever, or [`Fate::Deferred`] for now.
pub fn exchangers(
    domain: &Domain,
    found: Found<Exchanger>,
    ours: &[Domain],
    mut random: impl FnMut() -> u64,
) -> Result<Vec<Server>, Fate> {
    let is_ours = |name: &str| name.parse::<Domain>().is_ok_and(|name| ours.contains(&name));
    let mut found = match found {
        Found::These(found) => found,
        // RFC 5321 §5.1: "If an empty list of MXs is returned, the address is treated as if it was associated with an implicit MX RR, with
        // a preference of 0, pointing to that host."
        Found::None => {
            if is_ours(domain.as_str()) {
                return Err(looping(domain));
            }
            return Ok(vec![Server { host: domain.to_string(), because: Because::NoMx }]);
        }
        Found::NoName => {
            return Err(failed(Status(5, 1, 2), format!("there is no domain {domain}; is the address right?")));
        }
        Found::NoAnswer(why) => {
            return Err(deferred(
                Status(4, 4, 3),
                format!("the DNS does not tell where mail for {domain} goes: {why}"),
            ));
        }
    };
    // RFC 7505 §3: a record for the root says that there is no mail. Beside others it is a mistake, and they count.
    found.retain(|exchanger| !exchanger.name.is_empty());
    if found.is_empty() {
        return Err(failed(Status(5, 1, 10), format!("{domain} takes no mail: its MX record says so (null MX)")));
    }
    // RFC 5321 §5.1: where we are in the list ourselves, we and what is no better than we "MUST be discarded", or mail would go round.
    if let Some(own) = found.iter().filter(|found| is_ours(&found.name)).map(|found| found.preference).min() {
        found.retain(|exchanger| exchanger.preference < own);
    }
    if found.is_empty() {
        return Err(looping(domain));
    }
    // "... the sender-SMTP MUST randomize them to spread the load".
    found.sort_by_cached_key(|exchanger| (exchanger.preference, random()));
    found.truncate(EXCHANGERS_MAX);
    let server = |Exchanger { preference, name }| Server { host: name, because: Because::Mx { preference } };
    Ok(found.into_iter().map(server).collect())
}

/// The addresses of a server, in the order in which they are to be tried: both families in turn, IPv6 first, so that a network without
/// one of them costs one attempt and not eight.
///
/// # Errors
/// As [`exchangers`].
pub fn addresses(server: &Server, v6: Found<IpAddr>, v4: Found<IpAddr>) -> Result<Vec<IpAddr>, Fate> {
    let Server { host, because } = server;
    let (mut these, mut unanswered) = ([vec![], vec![]], None);
    for (family, found) in these.iter_mut().zip([v6, v4]) {
        match found {
            Found::These(found) => *family = found,
            Found::NoAnswer(why) => unanswered = Some(why),
            Found::None | Found::NoName => {}
        }
    }
    let longest = these[0].len().max(these[1].len());
    let in_turn = (0..longest).flat_map(|number| these.iter().filter_map(move |family| family.get(number)));
    let addresses: Vec<IpAddr> = in_turn.copied().take(ADDRESSES_MAX).collect();
    match (addresses.is_empty(), unanswered, because) {
        (false, ..) => Ok(addresses),
        (true, Some(why), _) => {
            Err(deferred(Status(4, 4, 3), format!("the DNS does not tell the address of {host}: {why}")))
        }
        (true, None, Because::NoMx) => {
            Err(failed(Status(5, 1, 2), format!("{host} takes no mail: it has neither an MX record nor an address")))
        }
        // RFC 5321 §5.1: MX records of which none is usable "MUST be reported as an error".
        (true, None, Because::Mx { .. }) => {
            Err(failed(Status(5, 4, 4), format!("the MX record names {host}, which has no address")))
        }
        // Our own configuration can be mended; the mail waits.
        (true, None, Because::Route | Because::Literal) => {
            Err(deferred(Status(4, 3, 5), format!("our configuration sends this mail to {host}, which has no address")))
        }
    }
}

/// What it means that mail for `to` would go to ourselves.
pub fn ourselves(server: &Server, to: &Destination) -> Fate {
    match server.because {
        Because::Mx { .. } | Because::NoMx => looping(to),
        Because::Literal => {
            let text = format!(
                "{to} is this server itself, which takes no mail for it as long as it is not in our `smtp.listen`"
            );
            failed(Status(5, 4, 6), text)
        }
        // Our own configuration can be mended; the mail waits.
        Because::Route => {
            let host = &server.host;
            let text = format!("our configuration sends this mail to {host}, and that is this server itself");
            deferred(Status(4, 3, 5), text)
        }
    }
}

/// RFC 5321 §5.1: "the message MUST be returned as undeliverable".
fn looping(to: &impl fmt::Display) -> Fate {
    let text = format!(
        "the DNS sends mail for {to} to us, and {to} is not in our `smtp.domains`; one of the two must be changed"
    );
    failed(Status(5, 4, 6), text)
}

fn failed(status: Status, text: String) -> Fate {
    Fate::Failed(Account { status, remote: None, reply: None, text })
}

fn deferred(status: Status, text: String) -> Fate {
    Fate::Deferred(Account { status, remote: None, reply: None, text })
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    /// Our end is an IPv4 address, or IPv6 is switched off.
    V4,
    /// Our end is an IPv6 address.
    V6,
    /// What there is.
    Both,
}

/// Asks the DNS. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Resolver {
    inner: TokioResolver,
    transcript: Transcript,
    /// For the transcript: our end, and whom we ask.
    ends: (SocketAddr, SocketAddr),
}

impl Resolver {
    /// Asks `servers`; without any, those of `/etc/resolv.conf`. Questions leave from the address `from`, if there is one. Nothing is cached: that is the
    /// name server's business, and who changes a record in a lesson wants to see what follows.
    ///
    /// # Errors
    /// `/etc/resolv.conf` cannot be read.
    pub fn new(servers: &[SocketAddr], from: Option<IpAddr>, transcript: Transcript) -> io::Result<Self> {
        let runtime = TokioRuntimeProvider::default();
        let mut builder = if servers.is_empty() {
            TokioResolver::builder(runtime).map_err(|error| {
                io::Error::other(format!("/etc/resolv.conf: {error}; or name the servers to ask in `resolvers`"))
            })?
        } else {
            let of = |server: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    // One of the other family could not be asked from there.
                    let from = from.filter(|from| from.is_ipv4() == server.is_ipv4());
                    connection.bind_addr = from.map(|from| SocketAddr::new(from, 0));
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.into())
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(of).collect());
            TokioResolver::builder_with_config(config, runtime)
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.timeout = QUERY;
        options.attempts = 2;
        if !servers.is_empty() {
            options.use_hosts_file = ResolveHosts::Never;
        }
        let inner = builder.build().map_err(io::Error::other)?;
        let unknown = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 53));
        let local = SocketAddr::new(from.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), 0);
        Ok(Self { inner, transcript, ends: (local, servers.first().copied().unwrap_or(unknown)) })
    }

    /// The library's half, for another that asks by it. What it asks is not in the transcript.
    pub(crate) fn library(&self) -> TokioResolver {
        self.inner.clone()
    }

    /// The MX records of a domain; those of the name that it is an alias for, if it is one (RFC 5321 §5.1).
    pub async fn exchangers(&self, domain: &Domain, cause: Option<u64>) -> Found<Exchanger> {
        self.ask(domain.as_str(), RecordType::MX, cause, |record| match &record.data {
            RData::MX(mx) => {
                // A name in U-labels would be no name for TLS and for reports.
                let name = mx.exchange.to_ascii();
                Some(Exchanger { preference: mx.preference, name: name.trim_end_matches('.').to_owned() })
            }
            _ => None,
        })
        .await
    }

    /// The addresses of a server.
    ///
    /// # Errors
    /// As [`addresses`].
    pub async fn addresses(
        &self,
        server: &Server,
        families: Families,
        cause: Option<u64>,
    ) -> Result<Vec<IpAddr>, Fate> {
        let v6 = async {
            if families == Families::V4 {
                return Found::None;
            }
            let of = |record: &Record| match &record.data {
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            };
            self.ask(&server.host, RecordType::AAAA, cause, of).await
        };
        let v4 = async {
            if families == Families::V6 {
                return Found::None;
            }
            let of = |record: &Record| match &record.data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                _ => None,
            };
            self.ask(&server.host, RecordType::A, cause, of).await
        };
        let (v6, v4) = tokio::join!(v6, v4);
        addresses(server, v6, v4)
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        cause: Option<u64>,
        of: impl Fn(&Record) -> Option<T>,
    ) -> Found<T> {
        // RFC 6531 §3.1, RFC 5891: U-labels are asked for as A-labels; the crate does that.
        let Ok(mut fqdn) = Name::from_utf8(name) else { return Found::NoName };
        // What is behind an @ is a whole name; a search list must not add to it (RFC 5321 §2.3.5).
        fqdn.set_fqdn(true);
        let question = format!("{fqdn} {kind}?");
        let found = timeout(LOOK_UP, self.inner.lookup(fqdn, kind)).await;
        let (found, told) = match found {
            Err(_) => (Found::NoAnswer("no answer in time".to_owned()), "no answer in time".to_owned()),
            Ok(Ok(lookup)) => {
                let told: Vec<String> = lookup.answers().iter().map(ToString::to_string).collect();
                let these: Vec<T> = lookup.answers().iter().filter_map(of).collect();
                (if these.is_empty() { Found::None } else { Found::These(these) }, told.join(", "))
            }
            Ok(Err(error)) => {
                let found = match error {
                    NetError::Timeout => Found::NoAnswer("no answer in time".to_owned()),
                    NetError::Dns(DnsError::NoRecordsFound(none)) => from_code(none.response_code),
                    NetError::Dns(DnsError::ResponseCode(code)) => from_code(code),
                    error => Found::NoAnswer(error.to_string()),
                };
                let told = match &found {
                    Found::NoName => "NXDOMAIN".to_owned(),
                    Found::None => "NOERROR, and no such record".to_owned(),
                    Found::NoAnswer(why) => why.clone(),
                    Found::These(_) => String::new(),
                };
                (found, told)
            }
        };
        self.tell(&question, told, cause);
        found
    }

    /// What was asked and answered, for whoever watches. The octets went over a socket of the crate's.
    fn tell(&self, question: &str, told: String, cause: Option<u64>) {
        if !self.transcript.is_heard() {
            return;
        }
        let talk = self.transcript.conversation(Transport::Udp, self.ends.0, self.ends.1).outgoing();
        let talk = cause.into_iter().fold(talk, Conversation::because_of);
        talk.message(Kind::Client, question.to_owned(), vec![], 0);
        talk.message(Kind::Server, told, vec![], 0);
    }
}

/// What a response without the records that were asked for means. RFC 2308 §2: NXDOMAIN and NODATA are answers; the others say that
/// there is none now.
fn from_code<T>(code: ResponseCode) -> Found<T> {
    match code {
        ResponseCode::NXDomain => Found::NoName,
        ResponseCode::NoError => Found::None,
        ResponseCode::ServFail => Found::NoAnswer("the name server cannot tell (SERVFAIL)".to_owned()),
        ResponseCode::Refused => Found::NoAnswer("the name server refuses to tell (REFUSED)".to_owned()),
        code => Found::NoAnswer(format!("the name server says {code}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exchanger(text: &str) -> Exchanger {
        let (preference, name) = text.split_once(' ').unwrap();
        Exchanger { preference: preference.parse().unwrap(), name: name.to_owned() }
    }

    fn these(texts: &[&str]) -> Found<Exchanger> {
        Found::These(texts.iter().map(|text| exchanger(text)).collect())
    }

    /// The servers in their order, or status and text of the fate. `random` counts down, so that equals come in the reverse order.
    fn told(found: Found<Exchanger>) -> String {
        let ours = ["mail.crepes.fr".parse().unwrap(), "crepes.fr".parse().unwrap()];
        let mut numbers = u64::MAX;
        let random = || {
            numbers -= 1;
            numbers
        };
        match exchangers(&"hamburger.edu".parse().unwrap(), found, &ours, random) {
            Ok(servers) => servers.into_iter().map(|server| server.host).collect::<Vec<_>>().join(" "),
            Err(fate @ Fate::Failed(_)) => format!("failed {} {}", fate.account().status, fate.account()),
            Err(fate) => format!("deferred {} {}", fate.account().status, fate.account()),
        }
    }

    #[test]
    fn servers_are_in_order_of_preference_and_dead_ends_have_reasons() {
        for (found, want) in [
            (these(&["10 mail.hamburger.edu"]), "mail.hamburger.edu"),
            (these(&["20 backup", "10 a", "30 last", "10 b"]), "b a backup last"),
            // RFC 5321 §5.1: ourselves and what is no better than we.
            (these(&["10 best", "20 MAIL.crepes.FR", "20 equal", "30 worse"]), "best"),
            (these(&["20 mail.crepes.fr", "30 crepes.fr", "10 best", "15 second"]), "best second"),
            (
                these(&["10 mail.crepes.fr", "20 other"]),
                "failed 5.4.6 the DNS sends mail for hamburger.edu to us, and hamburger.edu is not in our `smtp.domains`; one of the \
                 two must be changed",
            ),
            // RFC 7505.
            (these(&["0 "]), "failed 5.1.10 hamburger.edu takes no mail: its MX record says so (null MX)"),
            (these(&["0 ", "10 mail"]), "mail"),
            // RFC 5321 §5.1: the implicit MX.
            (Found::None, "hamburger.edu"),
            (Found::NoName, "failed 5.1.2 there is no domain hamburger.edu; is the address right?"),
            (
                Found::NoAnswer("no answer in time".to_owned()),
                "deferred 4.4.3 the DNS does not tell where mail for hamburger.edu goes: no answer in time",
            ),
        ] {
            assert_eq!(told(found.clone()), want, "{found:?}");
        }
        let ours: Domain = "crepes.fr".parse().unwrap();
        let fate = exchangers(&ours, Found::None, std::slice::from_ref(&ours), || 0).unwrap_err();
        assert_eq!(fate.account().status, Status(5, 4, 6));
    }

    #[test]
    fn a_domain_of_a_thousand_servers_has_ten() {
        let many: Vec<Exchanger> = (0..1000).rev().map(|number| exchanger(&format!("{number} mx{number}"))).collect();
        assert_eq!(told(Found::These(many)), "mx0 mx1 mx2 mx3 mx4 mx5 mx6 mx7 mx8 mx9");
    }

    #[test]
    fn addresses_of_both_families_come_in_turn() {
        let of = |texts: &[&str]| -> Found<IpAddr> {
            let addresses: Vec<IpAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            if addresses.is_empty() { Found::None } else { Found::These(addresses) }
        };
        let down = || Found::NoAnswer("SERVFAIL".to_owned());
        let told = |because, v6, v4| match addresses(&Server { host: "mail.b".to_owned(), because }, v6, v4) {
            Ok(addresses) => addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Err(fate) => format!("{} {}", fate.account().status, fate.account()),
        };
        let mx = Because::Mx { preference: 10 };
        assert_eq!(
            told(mx, of(&["::1", "::2"]), of(&["1.1.1.1", "2.2.2.2", "3.3.3.3"])),
            "::1 1.1.1.1 ::2 2.2.2.2 3.3.3.3"
        );
        // Half an answer is enough.
        assert_eq!(told(mx, down(), of(&["1.1.1.1"])), "1.1.1.1");
        assert_eq!(told(mx, of(&[]), down()), "4.4.3 the DNS does not tell the address of mail.b: SERVFAIL");
        assert_eq!(told(mx, of(&[]), Found::NoName), "5.4.4 the MX record names mail.b, which has no address");
        let no_mx = "5.1.2 mail.b takes no mail: it has neither an MX record nor an address";
        assert_eq!(told(Because::NoMx, of(&[]), of(&[])), no_mx);
        let route = "4.3.5 our configuration sends this mail to mail.b, which has no address";
        assert_eq!(told(Because::Route, of(&[]), of(&[])), route);
        let many: Vec<String> = (1..100).map(|number| format!("1.1.1.{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(told(mx, of(&[]), of(&many)).split(' ').count(), ADDRESSES_MAX);
    }

    #[test]
    fn a_socket_is_ours_at_its_own_address_or_at_any_of_this_machine_where_it_takes_what_comes_to_any() {
        let here = |ip: IpAddr| ip == IpAddr::from([192, 0, 2, 1]) || ip == "2001:db8::1".parse::<IpAddr>().unwrap();
        for (own, address, want) in [
            ("127.77.1.25:8025", "127.77.1.25:8025", true),
            ("127.77.1.25:8025", "[::ffff:127.77.1.25]:8025", true),
            // Another host of the lab, another port.
            ("127.77.1.25:8025", "127.77.2.25:8025", false),
            ("127.77.1.25:8025", "127.77.1.25:25", false),
            ("127.0.0.1:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "0.0.0.0:25", true),
            ("0.0.0.0:25", "127.9.9.9:25", true),
            ("0.0.0.0:25", "192.0.2.1:25", true),
            ("0.0.0.0:25", "192.0.2.2:25", false),
            ("0.0.0.0:25", "192.0.2.1:26", false),
            ("0.0.0.0:25", "[::1]:25", false),
            ("[::]:25", "[::1]:25", true),
            ("[::]:25", "127.0.0.1:25", true),
            ("[::]:25", "[2001:db8::1]:25", true),
            ("[::]:25", "[2001:db8::2]:25", false),
        ] {
            let sockets = Own::new(vec![own.parse().unwrap()]);
            assert_eq!(sockets.has(address.parse().unwrap(), here), want, "{own} {address}");
        }
        assert!(is_here(Ipv4Addr::LOCALHOST.into()));
        // RFC 5737: an address of nobody.
        assert!(!is_here([192, 0, 2, 1].into()));
    }

    #[test]
    fn routes_are_read_and_written() {
        for (text, written) in [
            ("mail.crepes.fr", "mail.crepes.fr"),
            ("mail.crepes.fr:8025", "mail.crepes.fr:8025"),
            ("127.77.2.25", "127.77.2.25"),
            ("127.77.2.25:8025", "127.77.2.25:8025"),
            ("[127.77.2.25]", "127.77.2.25"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::1]:25", "[::1]:25"),
        ] {
            assert_eq!(text.parse::<Route>().unwrap().to_string(), written, "{text}");
        }
        for bad in ["", ":25", "mail:0", "mail:x", "mail:99999", "a b", "[::1", "-mail", "mail:25:25"] {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_server_comes_before_a_better_one_and_none_is_as_bad_as_we(
            found in proptest::collection::vec((0..6_u16, "[a-e]"), 1..30), seed: u64, us in 0..8_u16,
        ) {
            let name = |preference: u16, letter: &str| format!("{letter}{preference}.net");
            let mut records: Vec<Exchanger> =
                found.iter().map(|(preference, letter)| Exchanger { preference: *preference, name: name(*preference, letter) }).collect();
            records.push(Exchanger { preference: us, name: "us.net".to_owned() });
            let mut state = seed;
            let random = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state
            };
            let ours = ["us.net".parse().unwrap()];
            let better = found.iter().filter(|(preference, _)| *preference < us).count();
            match exchangers(&"hamburger.edu".parse().unwrap(), Found::These(records), &ours, random) {
                Ok(servers) => {
                    let preference = |server: &Server| server.host[1..2].parse::<u16>().unwrap();
                    prop_assert!(servers.is_sorted_by_key(preference));
                    prop_assert!(servers.iter().all(|server| preference(server) < us));
                    prop_assert_eq!(servers.len(), better.min(EXCHANGERS_MAX));
                }
                Err(fate) => {
                    prop_assert_eq!(better, 0);
                    prop_assert_eq!(fate.account().status, Status(5, 4, 6));
                }
            }
        }

        #[test]
        fn what_was_written_is_read_again(text in "[a-z0-9:.\\[\\]]{0,20}") {
            if let Ok(route) = text.parse::<Route>() {
                prop_assert_eq!(route.to_string().parse(), Ok(route));
            }
        }
    }
}
