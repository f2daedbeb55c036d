//! Many wait for one fsync.
//!
//! A new name is on disk when its directory is. Ten sessions that finish at the same moment need their names there, and one fsync
//! does for all that were made before it began. So whoever comes while one runs waits for the *next* one, and the first of those
//! who wait does it for all.
//!
//! ```text
//!   session 1   rename, fsync ------------|
//!   session 2     rename, waits ..........| fsync (for 2 and 3) -----|
//!   session 3         rename, waits ......| ........................ |
//! ```

use std::{
    collections::BTreeMap,
    io,
    sync::{Condvar, Mutex, PoisonError},
};

/// Those who wait for the same directory. Blocking.
#[derive(Debug, Default)]
pub(crate) struct Group {
    turns: Mutex<Turns>,
    over: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// How many have begun, how many are over.
    begun: u64,
    over: u64,
    /// Those that failed, and why. A few are enough: whoever waited for one looks as soon as it is over.
    failed: BTreeMap<u64, Option<i32>>,
}

/// How many failures are remembered: more than threads that could still be about to look.
const FAILURES_KEPT: usize = 1024;

impl Group {
    /// Returns when an `fsync` that began after this call is over; perhaps somebody else's.
    ///
    /// # Errors
    /// That one failed. It must not be tried again: the kernel may have forgotten what it could not write.
    pub(crate) fn sync(&self, fsync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = turns.begun + 1;
        loop {
            if turns.over >= mine {
                return match turns.failed.get(&mine) {
                    None => Ok(()),
                    Some(code) => Err(code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)),
                };
            }
            if turns.begun == turns.over {
                break;
            }
            turns = self.over.wait(turns).unwrap_or_else(PoisonError::into_inner);
        }
        turns.begun += 1;
        drop(turns);
        let result = fsync();
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.over = turns.begun;
        if let Err(error) = &result {
            let turn = turns.over;
            turns.failed.insert(turn, error.raw_os_error());
            if turns.failed.len() > FAILURES_KEPT {
                turns.failed.pop_first();
            }
        }
        drop(turns);
        self.over.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{
        Barrier,
        atomic::{AtomicU32, Ordering},
        mpsc,
    };

    #[test]
    fn whoever_comes_while_one_runs_waits_for_the_next_and_all_of_them_share_it() {
        let (group, calls) = (Group::default(), AtomicU32::new(0));
        let (began, go_on) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                group.sync(|| {
                    began.wait();
                    go_on.wait();
                    calls.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })
            });
            began.wait();
            let (said, heard) = mpsc::channel();
            let others: Vec<_> = (0..5)
                .map(|_| {
                    let (said, group, calls) = (said.clone(), &group, &calls);
                    scope.spawn(move || {
                        said.send(()).unwrap();
                        group.sync(|| {
                            calls.fetch_add(1, Ordering::SeqCst);
                            Err(io::Error::from_raw_os_error(28))
                        })
                    })
                })
                .collect();
            heard.iter().take(5).for_each(drop);
            // Those who have not come to the lock yet may need another turn, so there are at least one and at most five.
            go_on.wait();
            first.join().unwrap().unwrap();
            for other in others {
                assert_eq!(other.join().unwrap().unwrap_err().raw_os_error(), Some(28));
            }
        });
        assert!((2..=6).contains(&calls.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_failure_is_not_the_next_ones() {
        let group = Group::default();
        group.sync(|| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        group.sync(|| Ok(())).unwrap();
    }
}
