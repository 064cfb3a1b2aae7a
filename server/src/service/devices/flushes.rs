//! Flushes of one file by many connections: one sync at a time, shared by those who came before it began, and one
//! memory of failure for all.

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use parking_lot::Mutex;

/// Why a flush cannot be promised.
#[derive(Debug)]
pub enum Unflushed {
    /// This sync failed.
    Now(io::Error),
    /// An earlier one did, or one side by side with this.
    Before,
}

/// The syncs of one file. The kernel tells of pages that it could not write to one caller of `fdatasync` only, and then
/// forgets them: whoever else asks, beside it or later, would be promised data that are lost.
#[derive(Debug, Default)]
pub struct Flushes {
    /// Syncs that began.
    begun: AtomicU64,
    failed: AtomicBool,
    one: Mutex<()>,
}

impl Flushes {
    /// Whether one failed: nothing is to be taken any more.
    pub fn have_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// Returns when a `sync` that began after this call has succeeded.
    ///
    /// # Errors
    /// When this or any before it failed.
    pub fn flush(&self, sync: impl FnOnce() -> io::Result<()>) -> Result<(), Unflushed> {
        let before = self.begun.load(SeqCst);
        let _one = self.one.lock();
        if self.have_failed() {
            return Err(Unflushed::Before);
        }
        // All that began have ended: one that began since is as good as one of our own.
        if self.begun.load(SeqCst) > before {
            return Ok(());
        }
        self.begun.fetch_add(1, SeqCst);
        sync().map_err(|error| {
            self.failed.store(true, SeqCst);
            Unflushed::Now(error)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn bad() -> io::Result<()> {
        Err(io::Error::other("meant by the test"))
    }

    /// The other one comes while the failing sync is under way: the kernel would tell it that all is well.
    #[test]
    fn whoever_flushes_beside_a_failing_sync_fails_too() {
        for _ in 0..200 {
            let flushes = Flushes::default();
            let flushes = &flushes;
            let (tell, told) = mpsc::channel();
            thread::scope(|scope| {
                let other = scope.spawn(move || {
                    told.recv_timeout(DEADLINE).unwrap();
                    flushes.flush(|| Ok(()))
                });
                let failing = || {
                    tell.send(()).unwrap();
                    thread::yield_now();
                    bad()
                };
                assert!(matches!(flushes.flush(failing), Err(Unflushed::Now(_))));
                assert!(matches!(other.join().unwrap(), Err(Unflushed::Before)));
            });
            assert!(flushes.have_failed());
        }
    }

    #[test]
    fn nobody_is_promised_anything_after_a_failure() {
        let flushes = Flushes::default();
        flushes.flush(|| Ok(())).unwrap();
        flushes.flush(bad).unwrap_err();
        let mut asked = false;
        let later = flushes.flush(|| {
            asked = true;
            Ok(())
        });
        assert!(matches!(later, Err(Unflushed::Before)) && !asked);
    }

    #[test]
    fn those_who_come_during_a_sync_share_the_next() {
        let flushes = Flushes::default();
        let (tell, told) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let flushes = &flushes;
        thread::scope(|scope| {
            let slow = scope.spawn(move || {
                flushes.flush(|| {
                    tell.send(()).unwrap();
                    wait.recv_timeout(DEADLINE).map_err(io::Error::other)
                })
            });
            told.recv_timeout(DEADLINE).unwrap();
            let others: Vec<_> = (0..8)
                .map(|_| scope.spawn(move || flushes.flush(|| Ok(()))))
                .collect();
            go.send(()).unwrap();
            slow.join().unwrap().unwrap();
            others
                .into_iter()
                .for_each(|other| other.join().unwrap().unwrap());
        });
        // The slow one, and at least one that began after it.
        assert!((2..=9).contains(&flushes.begun.load(SeqCst)));
    }
}
