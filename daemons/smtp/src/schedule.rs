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
    /// How long to wait after the first try, after the second, and so on; the last one repeats. Never empty in effect: without
    /// any, the delay is `give_up`.
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
        let longer = delay * u32::from(self.jitter_percent) * u32::from(chance) / (100 * u32::from(u8::MAX));
        let due = self.warn.is_some_and(|warn| waited >= warn) && progress.warned == Warned::NotYet;
        Next::Again {
            // The last try is at the very end, whatever the delay says.
            at: (now + delay + longer).min(until),
            until,
            warn: if due { Warn::Now } else { Warn::No },
        }
    }
}
