//! What the configuration says about the pair.

use crate::Millis;

/// When a client's write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// When both servers hold it.
    Sync,
    /// When the primary holds it; at most so many changes may be on their way to the standby.
    Async {
        /// Changes that the standby may be behind.
        lag: usize,
    },
}

/// What a primary does that has lost its standby.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// Goes on, once nobody else can be promoted.
    Continue,
    /// Lets the clients wait until the standby is back.
    Suspend,
}

/// Settings of one server. Both servers must have the same, `timing` above all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// When a write is answered.
    pub mode: Mode,
    /// What happens without a standby.
    pub alone: Alone,
    /// Whether there is a witness. Without one, promotion is by hand.
    pub witness: bool,
    /// Blocks in a region: what the durable list of changes made alone counts in.
    pub region: u64,
    /// Blocks sent in one piece by a resync.
    pub chunk: u64,
    /// Most pieces of a resync under way at once: with `chunk`, the memory that they take on each side.
    pub chunks: usize,
    /// Items that may be on their way to the standby.
    pub window: usize,
    /// The spans of time.
    pub timing: Timing,
}

/// Spans of time. [`Timing::check`] says what must hold between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life, and between two greetings.
    pub ping: Millis,
    /// After this long without a sign of life the other side is lost.
    pub silence: Millis,
    /// For this long after each answer to a sign of life, a standby does not seek promotion.
    pub promise: Millis,
    /// For this long after a sign of life was *sent*, the primary relies on its answer. Shorter than `promise` by more
    /// than two clocks can differ over that time.
    pub lease: Millis,
    /// How long the server that was not the last primary waits longer before it seeks promotion.
    pub courtesy: Millis,
    /// After this long without an answer a question to the witness is asked again.
    pub ask: Millis,
    /// An item that the standby has not answered for this long means that the standby is lost.
    pub stall: Millis,
    /// Between two flushes that keep the list of what must be sent again short.
    pub flush: Millis,
    /// How long a standby that failed stays away, and how long a block that could not be read is left alone.
    pub rest: Millis,
    /// A disk that has ended nothing for this long hangs. Well above what a disk tries by itself before it gives an error
    /// (some 10 s), and above `stall`: where both disks are slow, the standby is lost first, and nobody gives way.
    pub hang: Millis,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            ping: Millis(250),
            silence: Millis(1000),
            promise: Millis(2000),
            lease: Millis(1600),
            courtesy: Millis(500),
            ask: Millis(500),
            stall: Millis(10_000),
            flush: Millis(5000),
            rest: Millis(5000),
            hang: Millis(30_000),
        }
    }
}

impl Timing {
    /// What is wrong with these, if anything: a lease must end well before the promise behind it does, and a primary
    /// should notice that its standby is gone before the standby may seek its place.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.lease.0 * 10 > self.promise.0 * 9 {
            return Err("lease must be at most nine tenths of promise");
        }
        if self.silence.0 >= self.lease.0 {
            return Err("silence must be shorter than lease");
        }
        if self.ping.0 * 3 > self.silence.0 {
            return Err("ping must be at most a third of silence");
        }
        if self.hang.0 <= self.stall.0 {
            return Err("hang must be longer than stall");
        }
        Ok(())
    }
}

impl Config {
    /// What is wrong with these settings, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.region == 0 || self.chunk == 0 || self.chunks == 0 || self.window == 0 {
            return Err("region, chunk, chunks and window must be at least 1");
        }
        self.timing.check()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Sync,
            alone: Alone::Continue,
            witness: true,
            region: 1024,
            chunk: 64,
            chunks: 128,
            window: 1024,
            timing: Timing::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together() {
        assert_eq!(Config::default().check(), Ok(()));
    }

    #[test]
    fn a_lease_as_long_as_the_promise_is_refused() {
        let timing = Timing {
            lease: Millis(2000),
            ..Timing::default()
        };
        assert!(timing.check().unwrap_err().contains("lease"));
    }
}
