//! Where mail for a destination goes (RFC 5321 §5.1).

use crate::address::{AddressError, Domain, Host};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, net::IpAddr, str::FromStr};

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
