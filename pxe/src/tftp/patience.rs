//! Whether to poll for an ACK for a moment before sleeping: a client near by answers a window sooner than this thread
//! would be asleep and awake again.

use std::time::{Duration, Instant};

/// About what sleeping and being woken would cost.
const LONGEST: Duration = Duration::from_micros(50);
/// After as many misses in a row, polling pauses for two to the power of this windows.
const MOST_MISSES: u32 = 10;

/// What was learned about one client.
#[derive(Debug, Default)]
pub struct Patience {
    misses: u32,
    pause: u32,
}

impl Patience {
    /// Asks `look` again and again for a moment, unless that has not paid lately; gives what it found.
    pub fn poll<T>(&mut self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let deadline = Instant::now() + LONGEST;
        let mut found = look();
        while found.is_none() && Instant::now() < deadline {
            // The client may be on this machine, and want this processor.
            std::thread::yield_now();
            found = look();
        }
        self.misses = match found {
            Some(_) => 0,
            None => (self.misses + 1).min(MOST_MISSES),
        };
        self.pause = (1 << self.misses) - 1;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polling_is_given_up_where_it_does_not_pay_and_tried_again() {
        let mut patience = Patience::default();
        let mut looked = 0;
        for _ in 0..10_000 {
            let pauses = patience.pause > 0;
            let found = patience.poll(|| None::<()>);
            looked += u32::from(found.is_none() && !pauses);
        }
        assert!((10..30).contains(&looked), "{looked} times");
        while patience.poll(|| Some(())).is_none() {}
        assert!((0..1000).all(|_| patience.poll(|| Some(())).is_some()));
    }
}
