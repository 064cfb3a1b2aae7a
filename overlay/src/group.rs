//! Group commit: whoever asks while a sync runs shares the next one.

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, ErrorKind, Result};

#[derive(Default)]
struct Rounds {
    started: u64,
    done: u64,
    /// Outcome of the last round done.
    failed: Option<(ErrorKind, String)>,
}

/// Lets many wait for few syncs.
#[derive(Default)]
pub(crate) struct Group {
    rounds: Mutex<Rounds>,
    turned: Condvar,
}

/// Ends a round even if the sync panics, so that nobody waits for ever.
struct Round<'a> {
    group: &'a Group,
    outcome: Option<(ErrorKind, String)>,
}

impl Drop for Round<'_> {
    fn drop(&mut self) {
        let mut rounds = self.group.rounds.lock();
        rounds.done = rounds.started;
        rounds.failed = self.outcome.take();
        self.group.turned.notify_all();
    }
}

impl Group {
    /// Returns after a `sync` that began after this call. Its outcome is that of the latest sync.
    pub(crate) fn run(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut rounds = self.rounds.lock();
        // A round under way may have begun too early for this caller.
        let wanted = rounds.started + 1;
        while rounds.done < wanted {
            if rounds.started == rounds.done {
                rounds.started += 1;
                drop(rounds);
                return self.lead(sync);
            }
            self.turned.wait(&mut rounds);
        }
        match &rounds.failed {
            None => Ok(()),
            Some((kind, text)) => Err(Error::new(*kind, text.clone())),
        }
    }

    fn lead(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let outcome = Some((ErrorKind::Io, "flush: the sync ended early".to_owned()));
        let mut round = Round {
            group: self,
            outcome,
        };
        let result = sync();
        round.outcome = result.as_ref().err().map(|e| (e.kind(), e.to_string()));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Barrier, mpsc};
    use std::thread;

    #[test]
    fn those_who_come_during_a_sync_share_the_next() {
        let group = Group::default();
        let syncs = AtomicU32::new(0);
        let (entered, wait_entered) = mpsc::channel();
        let (go, wait_go) = mpsc::channel::<()>();
        let all = Barrier::new(9);
        thread::scope(|scope| {
            let first = &group;
            scope.spawn(move || {
                let slow = || {
                    entered.send(()).unwrap();
                    wait_go.recv().unwrap();
                    Ok(())
                };
                first.run(slow).unwrap();
            });
            wait_entered.recv().unwrap();
            for _ in 0..8 {
                scope.spawn(|| {
                    all.wait();
                    let count = || {
                        syncs.fetch_add(1, Ordering::SeqCst);
                        Ok(())
                    };
                    group.run(count).unwrap();
                });
            }
            all.wait();
            // Those not yet waiting when the slow one ends may need a round more, never one each.
            thread::yield_now();
            go.send(()).unwrap();
        });
        assert!((1..=8).contains(&syncs.load(Ordering::SeqCst)));
        let rounds = group.rounds.lock();
        assert_eq!(rounds.done, rounds.started);
    }

    #[test]
    fn a_failed_sync_fails_all_who_shared_it_and_no_later_one() {
        let group = Group::default();
        let fail = || Err(Error::new(ErrorKind::NoSpace, "x"));
        assert_eq!(group.run(fail).unwrap_err().kind(), ErrorKind::NoSpace);
        assert!(group.run(|| Ok(())).is_ok());
    }
}
