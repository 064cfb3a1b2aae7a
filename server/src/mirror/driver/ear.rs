//! Whether this server takes in what the other one says: the thread that reads the link also does quick works, and waits
//! with them where a disk stalls.

use mirror::Moment;
use parking_lot::Mutex;

/// Works that take so long are a stall. Milliseconds: less than a second, after which silence counts.
const STALL: u64 = 200;

/// Since when the reading thread has been busy. A newer connection has a thread of its own while that of an older one may
/// still wait for a disk: the newest counts, since what comes in comes in there.
#[derive(Default)]
pub struct Ear {
    reader: Mutex<Reader>,
}

#[derive(Default)]
struct Reader {
    /// Counts how often one became busy.
    number: u64,
    since: Option<Moment>,
}

/// While it is there, the thread is busy.
pub struct Busy<'a> {
    ear: &'a Ear,
    number: u64,
}

impl Ear {
    /// The reading thread has something to do.
    pub fn busy(&self, now: Moment) -> Busy<'_> {
        let mut reader = self.reader.lock();
        reader.number += 1;
        reader.since = Some(now);
        Busy {
            ear: self,
            number: reader.number,
        }
    }

    /// Whether what comes in is taken in.
    pub fn hears(&self, now: Moment) -> bool {
        let since = self.reader.lock().since;
        since.is_none_or(|since| now.since(since).0 < STALL)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut reader = self.ear.reader.lock();
        if reader.number == self.number {
            reader.since = None;
        }
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

    #[test]
    fn a_thread_of_an_older_connection_says_nothing_of_the_newer_one() {
        let ear = Ear::default();
        let older = ear.busy(Moment(1000));
        drop(ear.busy(Moment(2000)));
        assert!(ear.hears(Moment(5000)), "the newer one listens");
        let newer = ear.busy(Moment(5000));
        drop(older);
        assert!(!ear.hears(Moment(6000)), "and now does not");
        drop(newer);
        assert!(ear.hears(Moment(7000)));
    }
}
