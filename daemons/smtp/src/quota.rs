//! How full is a mailbox? All functions here block.
//!
//! To know it, its names are gone through, which tell the sizes: ten milliseconds for 20,000 of them, too much for each RCPT. So the sum is
//! kept, with the times at which the directories were last changed:
//!
//! ```text
//!   unchanged since the sum was made     it is right
//!   changed                              it is right for a second: what we have put there since is added, what others have, is seen then
//!   it says that there is no room        a refusal is about what is there now: what was changed is gone through again
//! ```

use shared::maildir::{Changed, Maildir};
use std::{
    io,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

/// How long a sum is believed while the mailbox changes. Nobody else than us puts much there in that time, and what does is seen after it.
const FRESH: Duration = Duration::from_secs(1);
/// How coarse a file system's clock may be: a directory that was changed so recently may be changed again and show the same time.
const CLOCK_STEP: Duration = Duration::from_secs(2);

/// Whether there is room in a mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// Not now.
    NotNow,
    /// The message is larger than the mailbox may ever be.
    Never {
        quota: u64,
    },
}

/// What is known of what a mailbox holds.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    sum: Option<Sum>,
    /// How often it was gone through.
    #[cfg(test)]
    pub(crate) looks: u32,
}

#[derive(Debug)]
struct Sum {
    octets: u64,
    at: Instant,
    changed: Changed,
    /// Whether every later change shows.
    settled: bool,
}

impl Stock {
    /// Whether there is room for `octets` more.
    pub(crate) fn room(&mut self, mailbox: &Path, octets: u64, quota: u64, now: Instant) -> io::Result<Room> {
        if octets > quota {
            return Ok(Room::Never { quota });
        }
        let maildir = match Maildir::open(mailbox) {
            // Somebody's first message.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Room::Enough),
            opened => opened?,
        };
        let changed = maildir.changed()?;
        let fits = |sum: &Sum| if sum.octets.saturating_add(octets) > quota { Room::NotNow } else { Room::Enough };
        if let Some(sum) = &self.sum {
            let (same, fresh) = (sum.changed == changed, now.saturating_duration_since(sum.at) < FRESH);
            let room = fits(sum);
            if same && sum.settled || fresh && (same || room == Room::Enough) {
                return Ok(room);
            }
        }
        #[cfg(test)]
        {
            self.looks += 1;
        }
        // A change meanwhile is not in `changed`, so it is seen the next time.
        let settled = changed.latest() + CLOCK_STEP < SystemTime::now();
        let sum = self.sum.insert(Sum { octets: maildir.octets()?, at: now, changed, settled });
        Ok(fits(sum))
    }

    /// We have put so much there.
    pub(crate) fn add(&mut self, octets: u64) {
        if let Some(sum) = &mut self.sum {
            sum.octets = sum.octets.saturating_add(octets);
        }
    }

    /// What is there now is not known.
    pub(crate) fn forget(&mut self) {
        self.sum = None;
    }
}
