//! The `[dns]` table.

use crate::{
    resolver::{cache::STALE_SECS, prime::Prime},
    zonefile::Rewrite,
};
use serde::{Deserialize, Serialize};
use shared::{
    daemon::StartError,
    units::{Network, Size, Span, private_networks},
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The `[dns]` table: each key with its default and its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of its own, and means something by itself")]
pub struct Config {
    /// Addresses to serve on, each over UDP and over TCP. On a machine with several addresses name each of them: an answer
    /// from `[::]` may leave by another address than the one that was asked, and the client will not know it.
    pub listen: Vec<SocketAddr>,
    /// Addresses for DNS over TLS (RFC 7858, port 853); they need a certificate in `[tls]`.
    pub listen_tls: Vec<SocketAddr>,
    /// Worker threads, each with its own sockets; 0 means one for each core.
    pub workers: usize,
    /// The zones that this server owns, or has a copy of.
    pub zones: Vec<ZoneFile>,
    /// Clients that see other zones of the same name than everybody else: the first view that a client is in counts.
    pub views: Vec<View>,
    /// Secrets that sign updates, transfers and NOTIFY (TSIG, RFC 8945).
    pub keys: Vec<Key>,
    /// Where journals of updates, copies of other servers' zones, and signing keys are kept.
    pub state: PathBuf,
    /// A directory that servers share: whoever signs a zone leaves its DS record there, and the server of the zone above takes
    /// it from there if it signs too.
    pub ds_dir: PathBuf,
    /// `none` takes addresses as the zone files have them; `loopback` makes 10.x.y.z 127.x.y.z, for the lab in one process.
    pub rewrite: Rewrite,
    /// Whether it finds out for its clients what it does not know itself (RFC 1034 §5.3.3). Its own zones come first.
    pub recurse: bool,
    /// Who may have others asked. Only private networks and this machine, unless you say otherwise: an open resolver is a weapon.
    pub allow: Vec<Network>,
    /// A file with the NS records of the root and their servers' addresses; without one, the root of the Internet is asked.
    pub hints: Option<PathBuf>,
    /// Whether the root's servers are asked who they are, at the start and again when the answer gets old (RFC 9609): `internet` does so
    /// unless there is a file of `hints`, for a lab's root is what its file says; `always` and `never` do what they say.
    pub prime: Prime,
    /// Servers that do the asking instead of us: larger resolvers that know more. The fastest is asked first, and the next one if
    /// it does not answer.
    pub forward: Vec<SocketAddr>,
    /// Whether nobody else is asked if none of `forward` answers. If not, we then go down from the root ourselves.
    pub forward_only: bool,
    /// Records that are answered here, whatever others say: `"printer.example A 192.0.2.7"`. A name with records here has no others;
    /// `*.name` stands for all below a name, and `CNAME .` says that there is no such name.
    pub local: Vec<String>,
    /// A file with DS or DNSKEY records: the keys of zones that are trusted, from which on answers are validated (RFC 4035 §5).
    /// Without one, the keys of the Internet's root are trusted if it is what is asked; with `hints` or `forward`, nothing is.
    pub trust_anchors: Option<PathBuf>,
    /// Names that are not validated, nor what is below them, because their owners have made a mistake (RFC 7646). Take a name
    /// out again when it is mended; `["."]` validates nothing.
    pub negative_trust_anchors: Vec<String>,
    /// Whether what a signed zone has proved not to be there answers questions about its neighbours too (RFC 8198), so that random names
    /// make no work for others. A name that is new may be missed then until the proof's time is over.
    pub deduce_denials: bool,
    /// How long what is past its time is still told, when nobody can be asked (RFC 8767); `"0 s"` makes such questions fail.
    pub serve_stale: Span,
    /// The most that the cache may use. Each view with zones of its own has another one.
    pub cache: Size,
    /// Whether a server is shown only as many labels of a name as it needs (RFC 9156). The lab does without, so that its messages
    /// are those of the textbook.
    pub minimise_names: bool,
    /// Whether servers are asked over IPv6 too.
    pub query_ipv6: bool,
    /// The address that questions to other servers come from; `0.0.0.0` lets the system choose.
    pub query_from: IpAddr,
    /// Whether other servers are shown a cookie (RFC 7873), another one for each: what comes back without it is forged.
    pub query_cookies: bool,
    /// Permits what a lesson needs and nobody else should have: the three keys below, and `rate = 0` on addresses of the Internet.
    pub unsafe_lab: bool,
    /// The port that all questions to other servers come from, one at a time; 0 takes another one for each, as it should be.
    pub fixed_source_port: u16,
    /// Whether the ids of questions to other servers count up, names keep their case, and no cookie is shown, so that an answer is easy
    /// to forge.
    pub sequential_ids: bool,
    /// Whether other servers are asked to do the asking: if they do, a question goes from one to the next, the root first.
    pub ask_recursively: bool,
    /// What `version.bind` is told; empty refuses the question.
    pub version: String,
    /// What `hostname.bind` and `id.server` are told; empty means the host's name.
    pub identity: String,
    /// The largest datagram that is sent. 1232 octets fit through every network without fragments.
    pub udp_octets_max: u16,
    /// What cookies are made with (RFC 7873): 32 hexadecimal digits, the same on all servers behind one address; empty makes
    /// a secret at each start.
    pub cookie_secret: String,
    /// Answers of one kind that one network (/24, or /56 of IPv6) gets over UDP in a second; 0 sets no limit. Clients with a
    /// cookie are known and have none.
    pub rate: u32,
    /// Of the answers above the rate, every so many is sent with TC, so that a true client comes over TCP; 0 sends none.
    pub slip: u32,
    /// The port at which other name servers are asked and notified.
    pub peer_port: u16,
    /// How long a TCP connection may stay unused.
    pub idle_timeout: Span,
    /// How long a client may refuse to take our answers.
    pub send_timeout: Span,
    /// How long connections may finish after the order to stop.
    pub grace: Span,
    /// TCP connections at the same time.
    pub connections: usize,
    /// TCP connections at the same time from one address (one /64 for IPv6).
    pub connections_per_peer: usize,
}

impl Config {
    /// What is for lessons only, unless this is one.
    ///
    /// # Errors
    /// Each key that must not be set, and what to do about it.
    pub fn refuse_unsafe(&self) -> Result<(), StartError> {
        let private = private_networks();
        let is_world = |address: &SocketAddr| !private.iter().any(|network| network.contains(address.ip()));
        let weak = [
            (self.fixed_source_port != 0, "fixed_source_port", "answers are easy to forge if the port is known"),
            (self.sequential_ids, "sequential_ids", "answers are easy to forge if the id is known"),
            (self.ask_recursively, "ask_recursively", "the root would bear everybody's load"),
            (
                self.rate == 0 && self.listen.iter().any(is_world),
                "rate",
                "without a limit, others can be flooded with answers from this address",
            ),
        ];
        let wrong = weak.into_iter().filter(|(is_set, ..)| *is_set && !self.unsafe_lab).map(|(_, key, because)| {
            let cure = "take the key out, or set `unsafe_lab = true` if this is a lab that nobody else depends on";
            StartError::unfit(format!("dns.{key}"), format!("{because}; {cure}"))
        });
        StartError::all(wrong.collect())
    }
}

/// One zone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneFile {
    /// Its name: `crepes.fr`, or `.` for the root.
    pub name: String,
    /// Its master file. A zone with `primaries` has none: it is copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The view that sees it; without one, everybody does who has no zone of this name in a view.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub view: String,
    /// Whether it is signed here.
    #[serde(default)]
    pub dnssec: Dnssec,
    /// Who may copy it: networks, and keys as `key:NAME`. Nobody, if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transfer: Vec<String>,
    /// Who may change it (RFC 2136): keys as `key:NAME`, and networks. Nobody, if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub update: Vec<String>,
    /// Servers that are told of changes, besides those that its NS records name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<SocketAddr>,
    /// The servers that it is copied from, which makes this server one of its secondaries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub primaries: Vec<SocketAddr>,
    /// The key that signs what is said to the primaries, and to those that are notified.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// Whether a zone is signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dnssec {
    /// It is served as it stands in the file, with signatures if it has some.
    #[default]
    AsIs,
    /// It is signed, with a key that is made at the first start and kept in `state`.
    Sign,
}

/// Clients that see other zones.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct View {
    /// Its name, which zones refer to.
    pub name: String,
    /// Who sees it.
    pub clients: Vec<Network>,
}

/// A secret that two servers, or a server and a client, share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its name, a domain name that both sides know.
    pub name: String,
    /// `hmac-sha256`, `hmac-sha384` or `hmac-sha512`; `hmac-sha1` for old peers.
    pub algorithm: String,
    /// The secret in base64, as `tsig-keygen` prints it.
    pub secret: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 53).into()],
            listen_tls: vec![],
            workers: 0,
            zones: vec![],
            views: vec![],
            keys: vec![],
            state: "/var/lib/tomte/dns".into(),
            ds_dir: "/var/lib/tomte/ds".into(),
            rewrite: Rewrite::None,
            recurse: false,
            allow: private_networks(),
            hints: None,
            prime: Prime::Internet,
            forward: vec![],
            forward_only: true,
            local: vec![],
            trust_anchors: None,
            negative_trust_anchors: vec![],
            deduce_denials: true,
            serve_stale: Span::secs(STALE_SECS),
            cache: Size::mib(64),
            minimise_names: true,
            query_ipv6: true,
            query_from: Ipv4Addr::UNSPECIFIED.into(),
            query_cookies: true,
            unsafe_lab: false,
            fixed_source_port: 0,
            sequential_ids: false,
            ask_recursively: false,
            version: concat!("tomte-dns ", env!("CARGO_PKG_VERSION")).to_owned(),
            identity: String::new(),
            udp_octets_max: 1232,
            cookie_secret: String::new(),
            rate: 200,
            slip: 2,
            peer_port: 53,
            // RFC 7766 §6.2.3: a few seconds.
            idle_timeout: Span::secs(10),
            send_timeout: Span::secs(10),
            grace: Span::secs(5),
            connections: 1000,
            connections_per_peer: 100,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Weaken = fn(&mut Config);

    #[test]
    fn what_is_for_lessons_is_refused_elsewhere_with_the_cure() {
        let home = || vec![SocketAddr::from(([127, 0, 0, 1], 53))];
        let weak: [(&str, Weaken); 4] = [
            ("dns.fixed_source_port", |config| config.fixed_source_port = 5353),
            ("dns.sequential_ids", |config| config.sequential_ids = true),
            ("dns.ask_recursively", |config| config.ask_recursively = true),
            ("dns.rate", |config| (config.rate, config.listen) = (0, Config::default().listen)),
        ];
        for (want, change) in weak {
            let mut config = Config { listen: home(), ..Config::default() };
            assert!(config.refuse_unsafe().is_ok());
            change(&mut config);
            let Err(StartError::Unfit { key, problem }) = config.refuse_unsafe() else {
                panic!("{want} is not refused")
            };
            assert_eq!(key, want);
            assert!(problem.contains("`unsafe_lab = true`"), "{problem}");
            config.unsafe_lab = true;
            assert!(config.refuse_unsafe().is_ok(), "{want}");
        }
        // Nobody can be flooded from an address that only neighbours reach.
        assert!(Config { listen: home(), rate: 0, ..Config::default() }.refuse_unsafe().is_ok());
    }
}
