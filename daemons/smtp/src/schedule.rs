//! When to try again, when to tell the sender that it takes long, when to give up (RFC 5321 §4.5.4.1).
//!
//! ```text
//!   arrived      1st delay   2nd delay           last delay, again and again
//!     |-------------|-----------|----------|--- ... ---|------|
//!     1st try      2nd         3rd        4th                 the last try, at `give_up`
//!                                    ^ `warn`: the sender hears that it takes long, once
//! ```
//!
//! Pure: the time is an argument.

use std::time::{Duration, SystemTime};

/// A retry schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How long to wait after the first try, after the second, and so on; the last one repeats. Without any there is one more try, the last.
    pub delays: Vec<Duration>,
    /// How long after its arrival a message is given up. There is a last try at that time.
    pub give_up: Duration,
    /// How long after its arrival the sender is told that it takes long; never, if there is none.
    pub warn: Option<Duration>,
    /// How much longer a delay may become, in percent of it, so that what failed together does not come back together.
    pub jitter_percent: u8,
}

impl Default for Schedule {
    /// RFC 5321 §4.5.4.1: "two connection attempts in the first hour the message is in the queue, and then backing off to one every two
    /// or three hours"; "the give-up time generally needs to be at least 4-5 days".
    fn default() -> Self {
        Self {
            delays: vec![Duration::from_mins(30), Duration::from_mins(30), Duration::from_hours(2)],
            give_up: Duration::from_hours(5 * 24),
            warn: Some(Duration::from_hours(4)),
            jitter_percent: 10,
        }
    }
}

/// Where a message is in its schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// When the message came.
    pub arrived: SystemTime,
    /// How many tries have failed, the one just made included.
    pub tries: u32,
    /// Whether the sender has been told that it takes long.
    pub warned: Warned,
}

/// Whether the sender has been told that it takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Warned {
    Yes,
    NotYet,
}

/// What follows a try that failed for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is tried again.
    Again {
        /// When.
        at: SystemTime,
        /// When it will be given up, for the report of delay.
        until: SystemTime,
        /// Whether to tell the sender now.
        warn: Warn,
    },
    /// The time is over.
    GiveUp {
        /// How long it was tried.
        after: Duration,
    },
}

/// Whether to tell the sender now that it takes long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Warn {
    Now,
    No,
}

impl Schedule {
    /// What follows a try that failed at `now`. `chance`, from 0 to 255, picks within the jitter.
    pub fn next(&self, progress: &Progress, now: SystemTime, chance: u8) -> Next {
        // Who came after now came before the clock was set back.
        let waited = now.duration_since(progress.arrived).unwrap_or_else(|_| self.tried_for(progress.tries));
        if waited >= self.give_up {
            return Next::GiveUp { after: waited };
        }
        let until = now + self.give_up.saturating_sub(waited);
        let delay = self.delay(progress.tries.saturating_sub(1));
        let longer = self.jitter(delay, chance);
        let due = self.warn.is_some_and(|warn| waited >= warn) && progress.warned == Warned::NotYet;
        Next::Again {
            // The last try is at the very end, whatever the delay says.
            at: (now + delay + longer).min(until),
            until,
            warn: if due { Warn::Now } else { Warn::No },
        }
    }
}

impl Schedule {
    /// The longest time between two tries. What is to wait longer was told so by another clock, or another schedule.
    pub fn longest(&self) -> Duration {
        let delay = self.delays.iter().copied().max().unwrap_or(self.give_up);
        delay + self.jitter(delay, u8::MAX)
    }

    fn delay(&self, nth: u32) -> Duration {
        let nth = usize::try_from(nth).unwrap_or(usize::MAX);
        self.delays.get(nth).or(self.delays.last()).copied().unwrap_or(self.give_up)
    }

    fn jitter(&self, delay: Duration, chance: u8) -> Duration {
        let part = u32::from(self.jitter_percent) * u32::from(chance);
        delay.saturating_mul(part) / (100 * u32::from(u8::MAX))
    }

    /// How long so many tries take at least, if that is not longer than a message is tried at all.
    fn tried_for(&self, tries: u32) -> Duration {
        let mut waited = Duration::ZERO;
        let first = u32::try_from(self.delays.len()).unwrap_or(u32::MAX).min(tries.saturating_sub(1));
        for nth in 0..first {
            waited = waited.saturating_add(self.delay(nth));
        }
        let repeated = self.delay(first).saturating_mul(tries.saturating_sub(1) - first);
        waited.saturating_add(repeated).min(self.give_up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lab() -> Schedule {
        let delays = [10, 30, 60, 300].map(Duration::from_secs).to_vec();
        Schedule { delays, give_up: 1000 * SECOND, warn: Some(60 * SECOND), jitter_percent: 0 }
    }

    /// The seconds after its arrival at which a message is tried, and those at which its sender is warned, when each try takes no time.
    fn tries(schedule: &Schedule, chance: u8) -> (Vec<u64>, Vec<u64>) {
        let arrived = SystemTime::UNIX_EPOCH + 1000 * SECOND;
        let mut progress = Progress { arrived, tries: 0, warned: Warned::NotYet };
        let (mut now, mut tries, mut warnings) = (arrived, vec![], vec![]);
        let since = |now: SystemTime| now.duration_since(arrived).unwrap().as_secs();
        loop {
            tries.push(since(now));
            progress.tries += 1;
            match schedule.next(&progress, now, chance) {
                Next::Again { at, until, warn } => {
                    assert_eq!(until, arrived + schedule.give_up);
                    if warn == Warn::Now {
                        warnings.push(since(now));
                        progress.warned = Warned::Yes;
                    }
                    now = at;
                }
                Next::GiveUp { after } => {
                    assert_eq!(after.as_secs(), since(now));
                    return (tries, warnings);
                }
            }
        }
    }

    #[test]
    fn the_last_delay_repeats_the_sender_is_warned_once_and_the_last_try_is_at_the_end() {
        assert_eq!(tries(&lab(), 0), (vec![0, 10, 40, 100, 400, 700, 1000], vec![100]));
        let without = Schedule { delays: vec![], warn: None, ..lab() };
        assert_eq!(tries(&without, 0), (vec![0, 1000], vec![]));
        let never = Schedule { give_up: Duration::ZERO, ..lab() };
        assert_eq!(tries(&never, 0), (vec![0], vec![]));
    }

    #[test]
    fn the_default_is_two_tries_in_the_first_hour_then_one_every_two_hours_for_five_days() {
        let (tries, warnings) = tries(&Schedule { jitter_percent: 0, ..Schedule::default() }, 0);
        assert_eq!(tries[..5], [0, 1800, 3600, 10_800, 18_000]);
        assert_eq!((tries.last(), warnings), (Some(&432_000), vec![18_000]));
    }

    #[test]
    fn jitter_makes_a_delay_longer_and_never_shorter() {
        let schedule = Schedule { jitter_percent: 50, ..lab() };
        assert_eq!(tries(&schedule, 0).0[1], 10);
        assert_eq!(tries(&schedule, 255).0[1], 15);
    }

    /// It came at a time that has not come yet: only the tries tell how long ago that was.
    #[test]
    fn a_message_from_before_the_clock_was_set_back_is_tried_as_often_as_any_other() {
        let schedule = lab();
        let now = SystemTime::UNIX_EPOCH + 1000 * SECOND;
        let progress = |tries| Progress { arrived: now + 1_000_000 * SECOND, tries, warned: Warned::Yes };
        for (tries, delay, left) in
            [(1, 10, 1000), (2, 30, 990), (3, 60, 960), (4, 300, 900), (5, 300, 600), (6, 300, 300)]
        {
            let at = now + delay * SECOND;
            let next = Next::Again { at, until: now + left * SECOND, warn: Warn::No };
            assert_eq!(schedule.next(&progress(tries), now, 0), next, "{tries}");
        }
        assert_eq!(schedule.next(&progress(7), now, 0), Next::GiveUp { after: 1000 * SECOND });
        assert_eq!(schedule.next(&progress(u32::MAX), now, 0), Next::GiveUp { after: 1000 * SECOND });
        let never = Schedule { delays: vec![Duration::ZERO], ..lab() };
        assert!(matches!(never.next(&progress(9), now, 0), Next::Again { .. }));
    }

    #[test]
    fn no_next_try_is_farther_away_than_the_longest_delay() {
        assert_eq!(lab().longest(), 300 * SECOND);
        assert_eq!(Schedule { jitter_percent: 50, ..lab() }.longest(), 450 * SECOND);
        assert_eq!(Schedule { delays: vec![], ..lab() }.longest(), 1000 * SECOND);
    }

    proptest! {
        #[test]
        fn every_schedule_ends_and_no_try_comes_before_its_time(
            delays in proptest::collection::vec(1..100_u64, 0..5), give_up in 0..2000_u64, jitter_percent: u8, chance: u8,
        ) {
            let delays: Vec<Duration> = delays.into_iter().map(Duration::from_secs).collect();
            let schedule = Schedule { delays, give_up: Duration::from_secs(give_up), warn: None, jitter_percent };
            let (tries, _) = tries(&schedule, chance);
            prop_assert_eq!(tries.last(), Some(&give_up));
            prop_assert!(tries.is_sorted());
        }
    }
}
