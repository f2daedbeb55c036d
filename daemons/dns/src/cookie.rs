//! DNS cookies (RFC 7873, RFC 9018): a client that was answered at its address before can prove it, and so can the server.
//!
//! A datagram's sender can be forged; a cookie that we made for an address comes back only from whoever receives datagrams there.
//! Nothing is kept: the cookie is a keyed hash of the client's own cookie, the time and the address.
//!
//! ```text
//!   client cookie (8) | version 1, reserved 0 (4) | time (4) | SipHash-2-4 of all before and the address (8)
//!   the client's part |  the server's part: 8 to 32 octets, which mean something to that server only
//! ```
//!
//! [`Cookies`] are what we give to clients. [`OwnCookies`] are what we show to other servers, of whom we are a client.

use siphasher::sip::SipHasher24;
use std::{
    hash::Hasher,
    net::{IpAddr, SocketAddr},
    time::SystemTime,
};

/// The EDNS option's code.
pub const OPTION: u16 = 10;
/// A whole cookie of ours.
pub const OCTETS: usize = 24;
/// RFC 9018 §4.2.
const VERSION: u8 = 1;
/// RFC 9018 §4.3: not older than an hour ...
const AGE_MAX_SECS: u32 = 3600;
/// ... and not from more than five minutes ahead, for servers that share the secret and have other clocks.
const AHEAD_MAX_SECS: u32 = 300;
/// RFC 9018 §4.3: above half an hour a new one is given.
const RENEW_SECS: u32 = 1800;

/// What makes and checks cookies.
pub struct Cookies {
    secret: [u8; 16],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies { .. }")
    }
}

/// What a client's cookie is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It receives datagrams at its address.
    Known,
    /// It has no cookie of ours, or an old or wrong one.
    Unknown,
}

/// An option of a length that no cookie has: FORMERR (RFC 7873 §5.2.2). In an answer also one that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl Cookies {
    /// Makes cookies with `secret`.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// Looks at the option of a client, and says what it is worth and what cookie goes back.
    ///
    /// # Errors
    /// The option is no cookie.
    pub fn check(&self, option: &[u8], client: IpAddr, now: SystemTime) -> Result<(Standing, [u8; OCTETS]), Malformed> {
        let (ours, server) = option.split_first_chunk::<8>().ok_or(Malformed)?;
        if !server.is_empty() && !(8..=32).contains(&server.len()) {
            return Err(Malformed);
        }
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32);
        let mut head = [0; 16];
        head[..8].copy_from_slice(ours);
        head[8] = VERSION;
        head[12..].copy_from_slice(&now.to_be_bytes());
        let fresh = || self.whole(&head, client);
        let Some(whole) = option.first_chunk::<OCTETS>().filter(|_| option.len() == OCTETS) else {
            return Ok((Standing::Unknown, fresh()));
        };
        // RFC 9018 §4.4: hashed is what came, also where we would have written zeros.
        let (theirs, hash) = whole.split_first_chunk::<16>().ok_or(Malformed)?;
        let made = u32::from_be_bytes([theirs[12], theirs[13], theirs[14], theirs[15]]);
        // Times are compared as serial numbers (RFC 1982), which go on after 2106.
        let age = now.wrapping_sub(made).cast_signed();
        let is_in_time = age <= AGE_MAX_SECS.cast_signed() && age >= -AHEAD_MAX_SECS.cast_signed();
        let is_ours = theirs[8] == VERSION && self.hash(theirs, client).to_le_bytes() == hash;
        match (is_in_time && is_ours, age > RENEW_SECS.cast_signed()) {
            (true, false) => Ok((Standing::Known, *whole)),
            (true, true) => Ok((Standing::Known, fresh())),
            (false, _) => Ok((Standing::Unknown, fresh())),
        }
    }

    fn whole(&self, head: &[u8; 16], client: IpAddr) -> [u8; OCTETS] {
        let mut cookie = [0; OCTETS];
        cookie[..16].copy_from_slice(head);
        cookie[16..].copy_from_slice(&self.hash(head, client).to_le_bytes());
        cookie
    }

    /// RFC 9018 §4.4.
    fn hash(&self, head: &[u8; 16], client: IpAddr) -> u64 {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(head);
        match client {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.finish()
    }
}

/// The client's part.
pub const CLIENT_OCTETS: usize = 8;
/// How long the same cookies are shown to other servers. RFC 7873 §7.1: a secret is changed each day or so, after 36 days at the latest.
pub const OWN_SECS: u64 = 86_400;

/// What makes the cookies that we show to other servers.
pub struct OwnCookies {
    secret: [u8; 16],
}

impl std::fmt::Debug for OwnCookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnCookies { .. }")
    }
}

impl OwnCookies {
    /// Makes cookies with `secret`.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// Our cookie for `server`, at our address `own`, `secs` seconds after any fixed moment.
    ///
    /// Two servers that compare what they were shown must not see that it was the same client (RFC 7873 §4.1, RFC 9018 §3), nor must one
    /// server see it of a client that has moved; so both addresses go into the hash. The number of the day is hashed with them: to
    /// whoever does not know the secret that is as good as another secret.
    pub fn client(&self, own: IpAddr, server: SocketAddr, secs: u64) -> [u8; CLIENT_OCTETS] {
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(&(secs / OWN_SECS).to_be_bytes());
        for address in [own, server.ip()] {
            // In one form for both families: what is hashed has one length, and can be read in one way.
            hasher.write(&match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            });
        }
        hasher.write(&server.port().to_be_bytes());
        hasher.finish().to_be_bytes()
    }
}

/// Reads the option in an answer to whom the cookie `client` was shown: the server's part, which is empty if there is none.
///
/// # Errors
/// It has a length that no cookie has, or another client's part: such an answer is forged (RFC 7873 §5.3).
pub fn read_answer<'o>(option: &'o [u8], client: &[u8; CLIENT_OCTETS]) -> Result<&'o [u8], Malformed> {
    let server = option.strip_prefix(client).ok_or(Malformed)?;
    if server.is_empty() || (8..=32).contains(&server.len()) { Ok(server) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn octets<const N: usize>(hex: &str) -> [u8; N] {
        let octet = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(octet).collect::<Vec<_>>().try_into().unwrap()
    }

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
    }

    /// RFC 9018 appendix A.
    #[test]
    fn cookies_are_those_of_the_rfc() {
        let first = Cookies::new(octets("e5e973e5a6b2a43f48e7dc849e37bfcf"));
        let client: IpAddr = "198.51.100.100".parse().unwrap();
        // A.1: a new one.
        let (standing, cookie) = first.check(&octets::<8>("2464c4abcf10c957"), client, at(1_559_731_985)).unwrap();
        let want = octets::<24>("2464c4abcf10c957010000005cf79f111f8130c3eee29480");
        assert_eq!((standing, cookie), (Standing::Unknown, want));
        // A.2: it comes back forty minutes later, and is renewed.
        let (standing, cookie) = first.check(&cookie, client, at(1_559_734_385)).unwrap();
        let want = octets::<24>("2464c4abcf10c957010000005cf7a871d4a564a1442aca77");
        assert_eq!((standing, cookie), (Standing::Known, want));
    }

    #[test]
    fn a_cookie_is_good_for_an_hour_at_its_address() {
        let cookies = Cookies::new([7; 16]);
        let (here, there): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        let now = 1_800_000_000;
        for client in [here, there] {
            let (_, cookie) = cookies.check(&[1; 8], client, at(now)).unwrap();
            for (when, who, want) in [
                (now, client, Standing::Known),
                (now + 3600, client, Standing::Known),
                (now + 3601, client, Standing::Unknown),
                (now - 300, client, Standing::Known),
                (now - 301, client, Standing::Unknown),
                (now, if client == here { there } else { here }, Standing::Unknown),
            ] {
                assert_eq!(cookies.check(&cookie, who, at(when)).unwrap().0, want, "{when} {who}");
            }
            let mut forged = cookie;
            forged[23] ^= 1;
            assert_eq!(cookies.check(&forged, client, at(now)).unwrap().0, Standing::Unknown);
        }
        for octets in 0..50 {
            let is_cookie = octets == 8 || (16..=40).contains(&octets);
            assert_eq!(cookies.check(&vec![0; octets], here, at(now)).is_ok(), is_cookie, "{octets} octets");
        }
    }

    /// RFC 7873 §4.1, RFC 9018 §3: nobody can tell by it that two have met the same client.
    #[test]
    fn our_own_cookie_is_another_for_each_server_address_and_day() {
        let own = OwnCookies::new([7; 16]);
        let (here, server): (IpAddr, SocketAddr) = ("192.0.2.1".parse().unwrap(), "198.51.100.1:53".parse().unwrap());
        let cookie = own.client(here, server, 5);
        assert_eq!(own.client(here, server, OWN_SECS - 1), cookie);
        for other in [
            own.client(here, "198.51.100.2:53".parse().unwrap(), 5),
            own.client(here, "198.51.100.1:54".parse().unwrap(), 5),
            own.client(here, "[2001:db8::1]:53".parse().unwrap(), 5),
            own.client("192.0.2.2".parse().unwrap(), server, 5),
            own.client(server.ip(), SocketAddr::new(here, 53), 5),
            own.client(here, server, OWN_SECS),
            OwnCookies::new([8; 16]).client(here, server, 5),
        ] {
            assert_ne!(other, cookie);
        }
    }

    #[test]
    fn an_answer_has_our_cookie_and_perhaps_the_servers() {
        let client = [1; CLIENT_OCTETS];
        for octets in 0..50 {
            let is_cookie = octets == 8 || (16..=40).contains(&octets);
            let read = read_answer(&[1; 50][..octets], &client).map(<[u8]>::len);
            assert_eq!(read, if is_cookie { Ok(octets - 8) } else { Err(Malformed) }, "{octets} octets");
        }
        assert_eq!(read_answer(&[1, 1, 1, 1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3, 3, 3], &client), Err(Malformed));
    }
}
