//! Whether this server takes in what the other one says: the thread that reads the link also does quick works, and waits
//! with them where a disk stalls.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use mirror::Moment;

/// Nobody is busy.
const FREE: u64 = u64::MAX;
/// Works that take so long are a stall. Milliseconds: less than a second, after which silence counts.
const STALL: u64 = 200;

/// Since when the reading thread has been busy.
pub struct Ear {
    since: AtomicU64,
}

impl Default for Ear {
    fn default() -> Self {
        Self {
            since: AtomicU64::new(FREE),
        }
    }
}

/// While it is there, the thread is busy.
pub struct Busy<'a>(&'a Ear);

impl Ear {
    /// The reading thread has something to do.
    pub fn busy(&self, now: Moment) -> Busy<'_> {
        self.since.store(now.0, Release);
        Busy(self)
    }

    /// Whether what comes in is taken in.
    pub fn hears(&self, now: Moment) -> bool {
        let since = self.since.load(Acquire);
        since == FREE || now.0.saturating_sub(since) < STALL
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.since.store(FREE, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_makes_deaf_and_short_works_do_not() {
        let ear = Ear::default();
        assert!(ear.hears(Moment(0)) && ear.hears(Moment(1 << 60)));
        let busy = ear.busy(Moment(1000));
        assert!(ear.hears(Moment(1000 + STALL - 1)));
        assert!(!ear.hears(Moment(1000 + STALL)));
        drop(busy);
        assert!(ear.hears(Moment(5000)));
    }
}
