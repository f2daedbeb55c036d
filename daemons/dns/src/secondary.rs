//! When a secondary looks whether its copy is still the newest, and when it gives the copy up (RFC 1034 §4.3.5).
//!
//! ```text
//!                 NOTIFY, or REFRESH seconds have gone by
//!    +---------+ -----------------------------------------> +--------------------+
//!    | waiting |                                            | asks its primaries |
//!    +---------+ <----------------------------------------- +--------------------+
//!         |        fine: wait REFRESH   failed: wait RETRY
//!         v EXPIRE seconds since a primary said that all was fine
//!    the copy is not served any more, and the primaries are asked as before
//! ```
//!
//! The three times stand in the zone's own SOA. Nothing here waits or asks: time is an argument, and so is chance.

use crate::record::Soa;
use std::time::{Duration, SystemTime};

/// REFRESH and RETRY are not taken shorter: a zone must not make us ask without a pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Nor longer: four weeks, after which the world is another one.
const PAUSE_MAX: Duration = Duration::from_hours(4 * 7 * 24);
/// As long as there has never been a copy there is no RETRY: the pauses begin with `PAUSE_MIN`, double, and end with
/// this.
const FIRST_PAUSE_MAX: Duration = Duration::from_mins(1);

/// The times of one zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// What the copy says; none before the first one.
    copy: Option<Copy>,
    /// When to ask.
    next: SystemTime,
    /// How often asking has failed since it went well.
    failures: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    soa: Soa,
    /// When a primary last said that this is the newest.
    checked: SystemTime,
    life: Life,
}

/// Whether the copy is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Served,
    Expired,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing, until then.
    Wait(SystemTime),
    /// Ask the primaries.
    Refresh,
    /// Serve the copy no longer.
    Expire,
}

impl Schedule {
    /// With no copy, or with one that was checked at a time: a restart does not make it younger. The primaries are
    /// asked at once.
    pub fn new(now: SystemTime, copy: Option<(Soa, SystemTime)>) -> Self {
        // A clock that was wrong must not keep a copy alive.
        let copy = copy.map(|(soa, checked)| Copy { soa, checked: checked.min(now), life: Life::Served });
        Self { copy, next: now, failures: 0 }
    }

    /// What to do now.
    pub fn due(&self, now: SystemTime) -> Due {
        let expires = self.copy.as_ref().filter(|copy| copy.life == Life::Served).map(Copy::expires);
        match expires {
            Some(expires) if expires <= now => Due::Expire,
            _ if self.next <= now => Due::Refresh,
            Some(expires) => Due::Wait(self.next.min(expires)),
            None => Due::Wait(self.next),
        }
    }

    /// Somebody says that there is something new (RFC 1996 §3.11): ask at once.
    pub fn notified(&mut self, now: SystemTime) {
        self.next = self.next.min(now);
    }

    /// A primary says that the version with this SOA is the newest, and we have it. `chance` is any number.
    pub fn succeeded(&mut self, now: SystemTime, soa: Soa, chance: u32) {
        self.copy = Some(Copy { soa, checked: now, life: Life::Served });
        self.failures = 0;
        self.next = now + spread(u64::from(soa.refresh), chance);
    }

    /// No primary could tell, or be understood.
    pub fn failed(&mut self, now: SystemTime, chance: u32) {
        let seconds = match &self.copy {
            Some(copy) => u64::from(copy.soa.retry),
            None => (PAUSE_MIN.as_secs() << self.failures.min(16)).min(FIRST_PAUSE_MAX.as_secs()),
        };
        self.failures += 1;
        self.next = now + spread(seconds, chance);
    }

    /// The copy is not served any more.
    pub fn expired(&mut self) {
        if let Some(copy) = &mut self.copy {
            copy.life = Life::Expired;
        }
    }
}

impl Copy {
    /// RFC 1034 §4.3.5: EXPIRE counts from the last time that a primary could be asked.
    fn expires(&self) -> SystemTime {
        self.checked + Duration::from_secs(u64::from(self.soa.expire))
    }
}

/// Up to a tenth less: secondaries that were started together do not ask together for ever.
fn spread(seconds: u64, chance: u32) -> Duration {
    let pause = Duration::from_secs(seconds).clamp(PAUSE_MIN, PAUSE_MAX);
    (pause / 10_000 * (10_000 - chance % 1000)).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOA: Soa = Soa { serial: 1, refresh: 1000, retry: 100, expire: 5000 };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    #[test]
    fn a_copy_is_refreshed_retried_and_at_last_given_up() {
        let mut schedule = Schedule::new(at(0), None);
        assert_eq!(schedule.due(at(0)), Due::Refresh);
        schedule.succeeded(at(0), SOA, 0);
        assert_eq!(schedule.due(at(0)), Due::Wait(at(1000)));
        assert_eq!(schedule.due(at(999)), Due::Wait(at(1000)));
        // The primary is away from now on.
        let mut now = 1000;
        while schedule.due(at(now)) == Due::Refresh {
            schedule.failed(at(now), 0);
            assert_eq!(schedule.due(at(now)), Due::Wait(at(now + 100)));
            now += 100;
        }
        assert_eq!((now, schedule.due(at(now))), (5000, Due::Expire));
        schedule.expired();
        // It is asked as before, and when it is back all is as before.
        assert_eq!(schedule.due(at(now)), Due::Refresh);
        schedule.failed(at(now), 0);
        assert_eq!(schedule.due(at(now)), Due::Wait(at(5100)));
        schedule.succeeded(at(5100), SOA, 0);
        assert_eq!(schedule.due(at(5100)), Due::Wait(at(6100)));
        assert_eq!(schedule.due(at(10_100)), Due::Expire);
    }

    #[test]
    fn expire_comes_also_between_two_looks() {
        let mut schedule = Schedule::new(at(0), None);
        schedule.succeeded(at(0), Soa { refresh: 1000, expire: 300, ..SOA }, 0);
        assert_eq!(schedule.due(at(0)), Due::Wait(at(300)));
        assert_eq!(schedule.due(at(300)), Due::Expire);
    }

    #[test]
    fn a_restart_does_not_make_a_copy_younger() {
        let schedule = Schedule::new(at(4000), Some((SOA, at(0))));
        assert_eq!(schedule.due(at(4000)), Due::Refresh);
        let mut schedule = schedule;
        schedule.failed(at(4950), 0);
        assert_eq!(schedule.due(at(4950)), Due::Wait(at(5000)));
        assert_eq!(Schedule::new(at(6000), Some((SOA, at(0)))).due(at(6000)), Due::Expire);
        // Nor does a clock that was ahead.
        let mut schedule = Schedule::new(at(0), Some((SOA, at(9_000_000))));
        schedule.failed(at(0), 0);
        assert_eq!(schedule.due(at(5000)), Due::Expire);
    }

    #[test]
    fn notify_makes_it_ask_at_once() {
        let mut schedule = Schedule::new(at(0), None);
        schedule.succeeded(at(0), SOA, 0);
        schedule.notified(at(10));
        assert_eq!(schedule.due(at(10)), Due::Refresh);
    }

    #[test]
    fn before_the_first_copy_the_pauses_double_up_to_a_minute() {
        let mut schedule = Schedule::new(at(0), None);
        let mut pauses = vec![];
        for _ in 0..8 {
            schedule.failed(at(0), 0);
            let Due::Wait(until) = schedule.due(at(0)) else { panic!("{schedule:?}") };
            pauses.push(until.duration_since(at(0)).unwrap().as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn times_have_bounds_and_are_spread_by_chance() {
        for (refresh, chance, want) in [
            (0, 0, Duration::from_secs(1)),
            (u32::MAX, 0, PAUSE_MAX),
            (1000, 500, Duration::from_secs(950)),
            (1000, 999, Duration::from_millis(900_100)),
        ] {
            let mut schedule = Schedule::new(at(0), None);
            schedule.succeeded(at(0), Soa { refresh, expire: u32::MAX, ..SOA }, chance);
            assert_eq!(schedule.due(at(0)), Due::Wait(at(0) + want), "{refresh} {chance}");
        }
    }
}
