//! Response rate limiting: nobody is flooded through us.
//!
//! An attacker sends small questions with the victim's address as their source, and the victim gets our large answers. We cannot
//! tell a forged question from a true one, but a victim's network gets the same answer over and over, which no true client wants.
//! So answers of one kind to one network are counted. Above the rate most are dropped, and every so many ("slip") is sent with TC
//! and nothing in it: a true client comes again over TCP, where its address is proved.
//!
//! What is counted has no table of clients that could be filled: it has a fixed number of places, found by hash, each with a time
//! (the generic cell rate algorithm). Two kinds that fall into one place push each other out, which errs on the side of answering.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// Places: 512 KiB for all workers together.
const PLACES: usize = 1 << 16;
/// Answers may come at once that the rate gives in this time.
const BURST: Duration = Duration::from_secs(1);
/// The lower bits of a place are a time in microseconds since the start, good for two years; the upper ones say whose place it is.
const TIME_BITS: u32 = 46;

/// Counts answers.
#[derive(Debug)]
pub struct Rates {
    /// None: no limit.
    places: Box<[AtomicU64]>,
    /// Microseconds that one answer costs.
    cost: u64,
    slip: u32,
    keys: RandomState,
    started: SystemTime,
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send it.
    Send,
    /// Send it with TC and nothing in it.
    Slip,
    /// Send nothing.
    Drop,
}

/// The part of an address that one owner has: /24, or /56 of IPv6. An attacker picks addresses from all of the victim's network.
fn network(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(address) => u64::from(address.to_bits() >> 8),
        IpAddr::V6(address) => (address.to_bits() >> 72) as u64 | 1 << 63,
    }
}

impl Rates {
    /// `rate` answers a second, or any number if it is 0; one in `slip` of those above is sent with TC, or none if it is 0.
    pub fn new(rate: u32, slip: u32, started: SystemTime) -> Self {
        let places = if rate == 0 { 0 } else { PLACES };
        Self {
            places: (0..places).map(|_| AtomicU64::new(0)).collect(),
            cost: 1_000_000 / u64::from(rate.max(1)),
            slip,
            keys: RandomState::new(),
            started,
        }
    }

    /// Whether there is a limit at all.
    pub fn is_on(&self) -> bool {
        !self.places.is_empty()
    }

    /// One more answer of `kind` goes to `client`.
    pub fn check(&self, client: IpAddr, kind: u64, now: SystemTime) -> Verdict {
        if !self.is_on() {
            return Verdict::Send;
        }
        let hash = self.keys.hash_one((network(client), kind));
        let place = &self.places[hash as usize % PLACES];
        let tag = hash >> TIME_BITS << TIME_BITS;
        let now = now.duration_since(self.started).map_or(0, |since| since.as_micros() as u64);
        let mut before = place.load(Ordering::Relaxed);
        loop {
            // When the answers so far will have been paid for; somebody else's place is as good as empty.
            let paid = if before & !((1 << TIME_BITS) - 1) == tag { before & ((1 << TIME_BITS) - 1) } else { 0 };
            let ahead = paid.saturating_sub(now);
            if ahead + self.cost > BURST.as_micros() as u64 {
                // Which of them slips is left to chance that nobody outside can know: the next bits of the time and the hash.
                let turn = self.keys.hash_one(now) as u32;
                return if self.slip > 0 && turn.is_multiple_of(self.slip) { Verdict::Slip } else { Verdict::Drop };
            }
            let after = tag | (paid.max(now) + self.cost) & ((1 << TIME_BITS) - 1);
            match place.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Verdict::Send,
                Err(other) => before = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_gets_its_rate_of_each_kind_and_everybody_else_is_served() {
        let start = SystemTime::UNIX_EPOCH;
        let rates = Rates::new(100, 0, start);
        let sent = |who: &str, kind, from: u64, count: u64| {
            // All within a millisecond.
            let at = |n| start + Duration::from_millis(from) + Duration::from_micros(n * 1000 / count);
            (0..count).filter(|n| rates.check(client(who), kind, at(*n)) == Verdict::Send).count()
        };
        assert_eq!(sent("192.0.2.1", 1, 0, 1000), 100);
        assert_eq!(sent("192.0.2.200", 1, 2, 1000), 0, "the same /24");
        assert_eq!(sent("192.0.3.1", 1, 2, 1000), 100);
        assert_eq!(sent("192.0.2.1", 2, 2, 1000), 100, "another kind");
        // What half a second gives.
        assert_eq!(sent("192.0.2.1", 1, 500, 1000), 50);
        assert_eq!(sent("2001:db8:0:1::1", 1, 500, 1000), 100);
        assert_eq!(sent("2001:db8:0:ff::1", 1, 502, 1000), 0, "the same /56");
    }

    #[test]
    fn some_of_those_above_slip_and_no_limit_is_no_limit() {
        let start = SystemTime::UNIX_EPOCH;
        let of = |slip| {
            let rates = Rates::new(1, slip, start);
            let verdicts: Vec<_> =
                (0..10_001).map(|n| rates.check(client("192.0.2.1"), 0, start + Duration::from_micros(n))).collect();
            assert_eq!(verdicts[0], Verdict::Send);
            verdicts[1..].iter().filter(|verdict| **verdict == Verdict::Slip).count()
        };
        assert_eq!([of(0), of(1)], [0, 10_000]);
        let half = of(2);
        assert!((4000..6000).contains(&half), "{half}");
        let none = Rates::new(0, 2, start);
        assert!((0..10_000).all(|_| none.check(client("192.0.2.1"), 0, start) == Verdict::Send));
    }
}
