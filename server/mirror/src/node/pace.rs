//! How many pieces of a resync are under way at once: as many as the line holds, so that it never lies idle, and hardly
//! more, since a client's write waits behind them. What lies on the line is told from how much longer a piece takes to be
//! answered than the quickest one took (the way of RFC 6817).

use crate::Millis;

/// Pieces under way at the beginning, and at least.
pub(super) const FEWEST: usize = 4;
/// What comes behind the pieces may have to wait for them this long. Milliseconds.
const QUEUE: f64 = 10.0;

#[derive(Debug)]
pub(super) struct Pace {
    most: f64,
    pieces: f64,
    /// How long the quickest piece took.
    least: Option<Millis>,
    /// No limit was met yet: it doubles with each round trip.
    doubling: bool,
}

impl Pace {
    /// At most so many at once, which bounds the memory that they take.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most: most as f64,
            pieces: most.min(FEWEST) as f64,
            least: None,
            doubling: true,
        }
    }

    /// Pieces that may be under way.
    pub(super) fn pieces(&self) -> usize {
        self.pieces as usize
    }

    /// A piece was answered after `took`, while so many were under way with it.
    pub(super) fn answered(&mut self, took: Millis, under_way: usize) {
        let least = self.least.map_or(took, |least| least.min(took));
        self.least = Some(least);
        let waited = (took.0 - least.0) as f64 / QUEUE;
        if waited < 1.0 && under_way < self.pieces() {
            return; // The line would not have held more: nobody tried.
        }
        self.doubling &= waited < 0.5;
        self.pieces += match self.doubling {
            true => 1.0,
            false => (1.0 - waited).max(self.pieces / -2.0) / self.pieces,
        };
        let fewest = self.most.min(FEWEST as f64);
        self.pieces = self.pieces.clamp(fewest, self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Pieces over a line: there and back in `trip`, one piece in each `each` of a millisecond's hundredth. Gives how many
    /// are under way in the end, what share of the time the line was busy with them, and how long the last one waited.
    fn run(trip: u64, each: u64, most: usize) -> (usize, f64, u64) {
        let mut pace = Pace::new(most);
        let (mut now, mut free, mut busy) = (0, 0, 0);
        let mut sent: VecDeque<(u64, u64)> = VecDeque::new();
        let mut waited = 0;
        while now < 500_000 {
            while sent.len() < pace.pieces() {
                waited = free.max(now) - now;
                free = free.max(now) + each;
                busy += each;
                sent.push_back((now, free + trip));
            }
            let (left, back) = sent.pop_front().unwrap();
            now = back;
            pace.answered(Millis((back - left) / 100), sent.len() + 1);
        }
        (pace.pieces(), busy as f64 / now as f64, waited / 100)
    }

    #[test]
    fn a_long_line_is_filled_and_not_much_more() {
        // 20 ms there and back; a piece of 256 KiB takes 2 ms at 1 Gbit/s.
        let (pieces, busy, waited) = run(2000, 200, 128);
        assert!(busy > 0.95, "{busy}");
        assert!((11..=18).contains(&pieces), "{pieces}");
        assert!(waited <= 12, "{waited} ms");
    }

    #[test]
    fn a_short_line_is_filled_too() {
        let (_, busy, waited) = run(20, 50, 128);
        assert!(busy > 0.95 && waited <= 12, "{busy} {waited}");
    }

    #[test]
    fn memory_is_bounded() {
        // A quarter of a second, and a piece in each tenth of a millisecond.
        assert_eq!(run(25_000, 10, 128).0, 128);
        assert_eq!(run(25_000, 10, 2).0, 2);
    }

    #[test]
    fn it_shrinks_also_while_fewer_than_it_allows_are_under_way() {
        let mut pace = Pace::new(128);
        for _ in 0..124 {
            pace.answered(Millis(5), 128);
        }
        assert_eq!(pace.pieces(), 128);
        pace.answered(Millis(5), 8);
        assert_eq!(pace.pieces(), 128);
        for _ in 0..300 {
            pace.answered(Millis(500), 8);
        }
        assert_eq!(pace.pieces(), FEWEST);
    }

    #[test]
    fn a_slow_line_has_as_many_as_ever_and_no_more() {
        assert_eq!(run(100, 5000, 128).0, FEWEST);
    }
}
