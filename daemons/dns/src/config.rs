//! The `[dns]` table.

use crate::zonefile::Rewrite;
use serde::{Deserialize, Serialize};
use shared::units::Span;
use std::{
    net::{Ipv6Addr, SocketAddr},
    path::PathBuf,
};

/// The `[dns]` table: each key with its default and its meaning.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Addresses to serve on, each over UDP and over TCP. On a machine with several addresses name each of them: an answer
    /// from `[::]` may leave by another address than the one that was asked, and the client will not know it.
    pub listen: Vec<SocketAddr>,
    /// Worker threads, each with its own sockets; 0 means one for each core.
    pub workers: usize,
    /// The zones that this server owns.
    pub zones: Vec<ZoneFile>,
    /// `none` takes addresses as the zone files have them; `loopback` makes 10.x.y.z 127.x.y.z, for the lab in one process.
    pub rewrite: Rewrite,
    /// What `version.bind` is told; empty refuses the question.
    pub version: String,
    /// What `hostname.bind` and `id.server` are told; empty means the host's name.
    pub identity: String,
    /// The largest datagram that is sent. 1232 octets fit through every network without fragments.
    pub udp_octets_max: u16,
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

/// One zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZoneFile {
    /// Its name: `crepes.fr`, or `.` for the root.
    pub name: String,
    /// Its master file.
    pub file: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 53).into()],
            workers: 0,
            zones: vec![],
            rewrite: Rewrite::None,
            version: concat!("tomte-dns ", env!("CARGO_PKG_VERSION")).to_owned(),
            identity: String::new(),
            udp_octets_max: 1232,
            // RFC 7766 §6.2.3: a few seconds.
            idle_timeout: Span::secs(10),
            send_timeout: Span::secs(10),
            grace: Span::secs(5),
            connections: 1000,
            connections_per_peer: 100,
        }
    }
}
