//! Whether to poll for the next request for a moment before sleeping.
//!
//! A client that has one request under way at a time sends the next one a few microseconds after the answer. To sleep
//! in between costs more than that: the thread, and often its processor, has to be woken. Where it does not pay,
//! because the client is far away or thinks for long, polling is given up for longer and longer.

use std::time::{Duration, Instant};

/// How long is polled for a client: about what sleeping and being woken would cost.
const LONGEST: Duration = Duration::from_micros(50);
/// After as many misses in a row, polling pauses for two to the power of this requests.
const MOST_MISSES: u32 = 12;

/// What was learned about one client.
#[derive(Debug)]
pub struct Patience {
    longest: Duration,
    misses: u32,
    pause: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self::lasting(LONGEST)
    }
}

impl Patience {
    /// One that polls for so long.
    pub fn lasting(longest: Duration) -> Self {
        Self {
            longest,
            misses: 0,
            pause: 0,
        }
    }

    /// Polls with `ready` unless that has not paid lately. True if it said yes, which may save a sleep.
    pub fn poll(&mut self, mut ready: impl FnMut() -> bool) -> bool {
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        let deadline = Instant::now() + self.longest;
        let mut came = ready();
        while !came && Instant::now() < deadline {
            // Whoever else wants this processor goes first: it may be the client.
            std::thread::yield_now();
            came = ready();
        }
        self.learn(came);
        came
    }

    fn learn(&mut self, came: bool) {
        if came {
            *self = Self::lasting(self.longest);
            return;
        }
        self.misses = (self.misses + 1).min(MOST_MISSES);
        self.pause = 1 << self.misses;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_never_comes_in_time_costs_next_to_nothing() {
        let mut patience = Patience::default();
        let mut polled = 0;
        for _ in 0..100_000 {
            let pause = patience.pause;
            assert!(!patience.poll(|| false));
            polled += u32::from(pause == 0);
        }
        assert!((10..50).contains(&polled), "{polled} times");
    }

    #[test]
    fn one_that_comes_in_time_is_always_polled_for() {
        let mut patience = Patience::default();
        patience.poll(|| false);
        while !patience.poll(|| true) {}
        assert!((0..1000).all(|_| patience.poll(|| true)));
    }
}
