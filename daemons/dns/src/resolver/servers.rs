//! The SLIST of RFC 1034 §5.3.3: which of a zone's servers to ask first.
//!
//! Each address has a smoothed round-trip time (RFC 6298 §2). The fastest is asked; the others' times shrink a little each time that
//! they are passed over, so that each of them is tried again one day. A server that does not answer is rested, longer each time.

use crate::{cookie::CLIENT_OCTETS, name::Name};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Addresses that are remembered. A flood of delegations must not fill the memory; what is forgotten is learnt again.
const KNOWN_MAX: usize = 20_000;
/// What an address is taken for of which nothing is known: tried before the slow ones.
const UNKNOWN_MILLIS: f64 = 100.0;
/// The patience with a server of which nothing is known.
const PATIENCE_UNKNOWN: Duration = Duration::from_millis(400);
/// The least and the most of it with others: what is lost in a full queue is asked for again soon, and satellites are waited for.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// How long a server rests after its first failure in a row; twice as long after each further one.
const REST_SECS: u64 = 2;
/// The longest rest: an outage that is over should be noticed.
const REST_SECS_MAX: u64 = 60;
/// How long a server is known not to serve a zone that is delegated to it.
const LAME_SECS: u64 = 600;

#[derive(Clone, Debug, Default)]
struct Server {
    /// Smoothed round-trip time and its variation, in milliseconds.
    times: Option<(f64, f64)>,
    failures: u32,
    rests_until: u64,
    lame: Vec<(Name, u64)>,
    cookie: Option<Cookie>,
}

/// What proves to a server that we are who it has answered before.
#[derive(Clone, Debug)]
struct Cookie {
    /// Our part, which the server's part was made for. When ours is another one, this is worth nothing.
    client: [u8; CLIENT_OCTETS],
    server: Box<[u8]>,
}

/// What is known of all servers.
#[derive(Debug, Default)]
pub struct Servers {
    known: Mutex<HashMap<SocketAddr, Server>>,
}

impl Servers {
    fn with<T>(&self, address: SocketAddr, change: impl FnOnce(&mut Server) -> T) -> T {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX && !known.contains_key(&address) {
            known.clear();
        }
        change(known.entry(address).or_default())
    }

    /// The addresses in the order in which to ask them; those that rest or are lame for `zone` come last.
    pub fn in_order(&self, zone: &Name, addresses: &[SocketAddr], now: u64) -> Vec<SocketAddr> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rated: Vec<(bool, f64, SocketAddr)> = vec![];
        for address in addresses {
            if rated.iter().any(|(_, _, other)| other == address) {
                continue;
            }
            let server = known.get(address);
            let is_bad = server.is_some_and(|server| {
                server.rests_until > now || server.lame.iter().any(|(lame, until)| lame == zone && *until > now)
            });
            let millis = server.and_then(|server| server.times).map_or(UNKNOWN_MILLIS, |(smoothed, _)| smoothed);
            rated.push((is_bad, millis, *address));
        }
        rated.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        for (_, _, address) in rated.iter().skip(1) {
            if let Some((smoothed, _)) = known.get_mut(address).and_then(|server| server.times.as_mut()) {
                *smoothed *= 0.98;
            }
        }
        rated.into_iter().map(|(_, _, address)| address).collect()
    }

    /// How long to wait for an answer: what is usual with this server and some more (RFC 6298 §2.3), and longer after failures.
    pub fn patience(&self, address: SocketAddr) -> Duration {
        self.with(address, |server| {
            let usual = server.times.map_or(PATIENCE_UNKNOWN, |(smoothed, variation)| {
                Duration::from_secs_f64((smoothed + 4.0 * variation) / 1000.0)
            });
            (usual * 2_u32.pow(server.failures.min(3))).clamp(PATIENCE.0, PATIENCE.1)
        })
    }

    /// The server has answered after this time.
    pub fn answered(&self, address: SocketAddr, after: Duration) {
        let millis = after.as_secs_f64() * 1000.0;
        self.with(address, |server| {
            server.failures = 0;
            server.rests_until = 0;
            server.times = Some(match server.times {
                None => (millis, millis / 2.0),
                Some((smoothed, variation)) => {
                    (smoothed * 0.875 + millis * 0.125, variation * 0.75 + (smoothed - millis).abs() * 0.25)
                }
            });
        });
    }

    /// The server has not answered, or nonsense.
    pub fn failed(&self, address: SocketAddr, now: u64) {
        self.with(address, |server| {
            // What is lost at the same time is one failure, however many questions were under way.
            if server.rests_until > now {
                return;
            }
            server.rests_until = now + (REST_SECS << server.failures.min(5)).min(REST_SECS_MAX);
            server.failures = server.failures.saturating_add(1);
        });
    }

    /// The cookie that a server has given to whom it knows as `client`.
    pub fn cookie(&self, address: SocketAddr, client: [u8; CLIENT_OCTETS]) -> Option<Box<[u8]>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let cookie = known.get(&address)?.cookie.as_ref()?;
        (cookie.client == client).then(|| cookie.server.clone())
    }

    /// A server has given a cookie to whom it knows as `client`; or `None`, and the one that it gave before is worth nothing.
    pub fn keep_cookie(&self, address: SocketAddr, client: [u8; CLIENT_OCTETS], cookie: Option<&[u8]>) {
        self.with(address, |server| server.cookie = cookie.map(|octets| Cookie { client, server: octets.into() }));
    }

    /// The server does not serve `zone`.
    pub fn is_lame(&self, address: SocketAddr, zone: &Name, now: u64) {
        self.with(address, |server| {
            server.lame.retain(|(known, until)| known != zone && *until > now);
            server.lame.push((zone.clone(), now + LAME_SECS));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 53))
    }

    #[test]
    fn the_fastest_is_asked_first_and_the_others_now_and_then() {
        let (servers, zone) = (Servers::default(), Name::root());
        servers.answered(at(1), Duration::from_millis(80));
        servers.answered(at(2), Duration::from_millis(10));
        // 3 is unknown: it comes between the fast and the slow ones.
        servers.answered(at(4), Duration::from_millis(300));
        let all = [at(1), at(2), at(3), at(4), at(1)];
        assert_eq!(servers.in_order(&zone, &all, 0), [at(2), at(1), at(3), at(4)]);
        let firsts = (0..200).filter(|_| servers.in_order(&zone, &all, 0)[0] == at(1)).count();
        assert!((1..150).contains(&firsts), "1 was first {firsts} times of 200");
    }

    #[test]
    fn who_fails_rests_and_who_is_lame_is_so_for_one_zone() {
        let (servers, zone, other) = (Servers::default(), "fr".parse().unwrap(), "edu".parse().unwrap());
        let all = [at(1), at(2)];
        servers.answered(at(1), Duration::from_millis(1));
        servers.failed(at(1), 100);
        assert_eq!(servers.in_order(&zone, &all, 101)[0], at(2));
        assert_eq!(servers.in_order(&zone, &all, 102)[0], at(1), "after two seconds");
        servers.failed(at(1), 102);
        assert_eq!(servers.in_order(&zone, &all, 105)[0], at(2), "twice as long");
        servers.answered(at(1), Duration::from_millis(1));
        assert_eq!(servers.in_order(&zone, &all, 105)[0], at(1));
        servers.is_lame(at(1), &zone, 105);
        assert_eq!(servers.in_order(&zone, &all, 106)[0], at(2));
        assert_eq!(servers.in_order(&other, &all, 106)[0], at(1));
        assert_eq!(servers.in_order(&zone, &all, 106 + LAME_SECS)[0], at(1));
    }

    #[test]
    fn a_servers_cookie_is_for_the_one_that_it_was_given_to() {
        let (servers, cookie) = (Servers::default(), &[7; 16][..]);
        servers.keep_cookie(at(1), [1; 8], Some(cookie));
        assert_eq!(servers.cookie(at(1), [1; 8]).as_deref(), Some(cookie));
        assert_eq!(servers.cookie(at(1), [2; 8]), None);
        assert_eq!(servers.cookie(at(2), [1; 8]), None);
        servers.keep_cookie(at(1), [1; 8], None);
        assert_eq!(servers.cookie(at(1), [1; 8]), None);
    }

    #[test]
    fn patience_is_a_few_round_trips_and_grows_with_failures() {
        let servers = Servers::default();
        assert_eq!(servers.patience(at(1)), PATIENCE_UNKNOWN);
        servers.answered(at(1), Duration::from_millis(200));
        assert_eq!(servers.patience(at(1)), Duration::from_millis(600));
        (0..10).for_each(|_| servers.failed(at(1), 10));
        assert_eq!(servers.patience(at(1)), Duration::from_millis(1200), "they were lost together");
        (0..10).for_each(|n| servers.failed(at(1), 100 * n + 100));
        assert_eq!(servers.patience(at(1)), PATIENCE.1);
        servers.answered(at(2), Duration::from_micros(200));
        assert_eq!(servers.patience(at(2)), PATIENCE.0);
    }
}
