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
        let waited = now.duration_since(progress.arrived).unwrap_or_default();
        if waited >= self.give_up {
            return Next::GiveUp { after: waited };
        }
        let until = progress.arrived + self.give_up;
        let nth = usize::try_from(progress.tries.saturating_sub(1)).unwrap_or(usize::MAX);
        let delay = self.delays.get(nth).or(self.delays.last()).copied().unwrap_or(self.give_up);
        let part = u32::from(self.jitter_percent) * u32::from(chance);
        let longer = delay.saturating_mul(part) / (100 * u32::from(u8::MAX));
        let due = self.warn.is_some_and(|warn| waited >= warn) && progress.warned == Warned::NotYet;
        Next::Again {
            // The last try is at the very end, whatever the delay says.
            at: (now + delay + longer).min(until),
            until,
            warn: if due { Warn::Now } else { Warn::No },
        }
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
