//! Greylisting (RFC 6647): a stranger's first try is answered "later", and whoever comes back is welcome. Pure; the time is an
//! argument.

use shared::listener::site;
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

/// How long somebody who has come back is remembered.
const KNOWN_FOR: Duration = Duration::from_hours(36 * 24);
/// Whoever does not come back within this time is forgotten: the longest that RFC 5321 §4.5.4.1 lets a server wait for its next try.
const NEW_FOR: Duration = Duration::from_hours(24);
/// Those that are remembered. A flood of made-up senders makes us forget others who have not come back yet, and nothing worse.
const REMEMBERED_MAX: usize = 100_000;

/// Who has been here.
#[derive(Debug)]
pub(crate) struct Greylist {
    wait: Duration,
    hasher: RandomState,
    /// By a hash of client's network, sender and recipient: what is remembered has the same size however long they are.
    seen: HashMap<u64, Seen>,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Once { at: Instant },
    Welcome { until: Instant },
}

/// What a try is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Welcome,
    /// Come back after this time.
    Later(Duration),
}

impl Greylist {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { wait, hasher: RandomState::new(), seen: HashMap::new() }
    }

    /// From now on this is how long strangers wait.
    pub(crate) fn set_wait(&mut self, wait: Duration) {
        self.wait = wait;
    }

    pub(crate) fn judge(&mut self, peer: IpAddr, from: &str, to: &str, now: Instant) -> Verdict {
        if self.wait.is_zero() {
            return Verdict::Welcome;
        }
        let key = self.hasher.hash_one((site(peer), from, to));
        if self.seen.len() >= REMEMBERED_MAX && !self.seen.contains_key(&key) {
            self.forget(now);
        }
        let seen = self.seen.get(&key).copied().filter(|seen| match seen {
            Seen::Once { at } => now.duration_since(*at) < NEW_FOR,
            Seen::Welcome { until } => now < *until,
        });
        let (seen, verdict) = match seen {
            None => (Seen::Once { at: now }, Verdict::Later(self.wait)),
            Some(Seen::Once { at }) if now.duration_since(at) < self.wait => {
                (Seen::Once { at }, Verdict::Later(self.wait.saturating_sub(now.duration_since(at))))
            }
            Some(_) => (Seen::Welcome { until: now + KNOWN_FOR }, Verdict::Welcome),
        };
        self.seen.insert(key, seen);
        verdict
    }

    /// Makes room: what is out of date, or else all who have not come back.
    fn forget(&mut self, now: Instant) {
        self.seen.retain(|_, seen| matches!(seen, Seen::Welcome { until } if now < *until));
        if self.seen.len() >= REMEMBERED_MAX {
            self.seen.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_in_time_is_welcome_from_then_on() {
        let (mut list, start) = (Greylist::new(Duration::from_mins(1)), Instant::now());
        let peer = [192, 0, 2, 1].into();
        let mut at = |seconds, to| list.judge(peer, "<a@b>", to, start + Duration::from_secs(seconds));
        assert_eq!(at(0, "<c@d>"), Verdict::Later(Duration::from_mins(1)));
        assert_eq!(at(20, "<c@d>"), Verdict::Later(Duration::from_secs(40)));
        assert_eq!(at(60, "<c@d>"), Verdict::Welcome);
        assert_eq!(at(61, "<c@d>"), Verdict::Welcome);
        assert_eq!(at(61, "<e@d>"), Verdict::Later(Duration::from_mins(1)));
        assert_eq!(at(61 + 25 * 3600, "<e@d>"), Verdict::Later(Duration::from_mins(1)));
        assert_eq!(Greylist::new(Duration::ZERO).judge(peer, "", "", start), Verdict::Welcome);
    }

    #[test]
    fn a_flood_does_not_make_it_grow() {
        let (mut list, start) = (Greylist::new(Duration::from_mins(1)), Instant::now());
        for number in 0..REMEMBERED_MAX + 10 {
            list.judge([192, 0, 2, 1].into(), &number.to_string(), "", start);
        }
        assert!(list.seen.len() <= REMEMBERED_MAX);
    }
}
