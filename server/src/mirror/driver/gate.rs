//! Whether answers may leave, for threads that ask at each of them.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Release},
};

use mirror::Moment;
use parking_lot::{Condvar, Mutex};

use crate::mirror::clock;

/// This server has stopped being primary: nothing is answered any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deposed;

/// Until when answers may leave.
#[derive(Default)]
pub struct Gate {
    /// [`mirror::Node::answers_until`]: 0 never, the largest always.
    until: AtomicU64,
    /// How often it was closed for good.
    reign: AtomicU64,
    changing: Mutex<()>,
    changed: Condvar,
}

impl Gate {
    pub fn set(&self, until: Moment) {
        if self.until.swap(until.0, Release) != until.0 {
            drop(self.changing.lock());
            self.changed.notify_all();
        }
    }

    /// Ends a reign: who waits here goes away.
    pub fn close(&self) {
        self.until.store(0, Release);
        self.reign.fetch_add(1, Release);
        drop(self.changing.lock());
        self.changed.notify_all();
    }

    /// The reign that there is now.
    pub fn reign(&self) -> u64 {
        self.reign.load(Acquire)
    }

    fn is_open(&self) -> bool {
        clock::now().0 < self.until.load(Acquire)
    }

    /// Whether what was read in `reign` may be answered now.
    pub fn is_passable(&self, reign: u64) -> bool {
        self.reign() == reign && self.is_open()
    }

    /// Returns when what was read in `reign` may be answered.
    pub fn pass(&self, reign: u64) -> Result<(), Deposed> {
        if self.is_passable(reign) {
            return Ok(());
        }
        let mut changing = self.changing.lock();
        loop {
            if self.reign() != reign {
                return Err(Deposed);
            }
            if self.is_open() {
                return Ok(());
            }
            self.changed.wait(&mut changing);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread, time::Duration};

    use super::*;

    #[test]
    fn answers_wait_for_the_lease_and_end_with_the_reign() {
        let gate = Gate::default();
        gate.set(Moment(u64::MAX));
        assert_eq!(gate.pass(0), Ok(()));
        gate.set(Moment(1)); // Long ago.
        let (tell, told) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| tell.send(gate.pass(0)).unwrap());
            scope.spawn(|| tell.send(gate.pass(0)).unwrap());
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
            gate.close();
            for _ in 0..2 {
                assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(Err(Deposed)));
            }
        });
        gate.set(Moment(u64::MAX));
        assert_eq!(gate.pass(0), Err(Deposed), "of an older reign");
        assert_eq!(gate.pass(1), Ok(()));
    }
}
