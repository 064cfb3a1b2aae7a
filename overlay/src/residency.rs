//! A short memory of what lay in the page cache, so that the kernel is not asked before every read.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::time::{ClockId, clock_gettime};

/// Bytes that are asked about together. One page that is missing makes the whole stretch one that is not there.
const STRETCH: u64 = 256 << 10;
/// Stretches in one group, which exists only where something was ever asked about.
const GROUP: u64 = 1024;

/// A second of the host's uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Second(u32);

impl Second {
    /// The present one. The coarse clock is a read of memory.
    pub(crate) fn now() -> Self {
        Self(clock_gettime(ClockId::MonotonicCoarse).tv_sec as u32)
    }

    /// What is noted of a stretch that was looked at in this second; never 0.
    fn note(self, found: bool) -> u32 {
        (self.0 + 1) << 1 | u32::from(found)
    }
}

/// Whether each stretch of a file lay in memory as a whole when it was last looked at, and in which second that was.
///
/// What it says may be out of date by up to a second: whoever relies on it has to stand a page that was dropped since.
pub(crate) struct Residency {
    groups: Box<[OnceLock<Box<Group>>]>,
}

type Group = [AtomicU32; GROUP as usize];

impl Residency {
    /// For a file of `size` bytes. Takes 16 bytes per 256 MiB, and 4 KiB more of each that is used.
    pub(crate) fn new(size: u64) -> Self {
        let groups = size.div_ceil(STRETCH * GROUP);
        Self {
            groups: (0..groups).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Whether every stretch that `range` touches lay in memory when it was looked at in the second `now`: by an
    /// earlier call, or else with `look`, which is asked about whole stretches.
    pub(crate) fn holds(
        &self,
        range: &Range<u64>,
        now: Second,
        look: impl Fn(Range<u64>) -> bool,
    ) -> bool {
        let mut stretches = range.start / STRETCH..range.end.div_ceil(STRETCH);
        stretches.all(|stretch| {
            let Some(group) = self.groups.get((stretch / GROUP) as usize) else {
                return false;
            };
            let group = group.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU32::new(0))));
            let noted = &group[(stretch % GROUP) as usize];
            let note = noted.load(Ordering::Relaxed);
            if note >> 1 == now.note(true) >> 1 {
                return note == now.note(true);
            }
            let found = look(stretch * STRETCH..(stretch + 1) * STRETCH);
            noted.store(now.note(found), Ordering::Relaxed);
            found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Asks about `range` in second `now`; gives the answer, and what had to be looked at.
    fn ask(residency: &Residency, range: Range<u64>, now: u32, there: bool) -> (bool, Vec<u64>) {
        let looked = RefCell::new(Vec::new());
        let answer = residency.holds(&range, Second(now), |stretch| {
            assert_eq!(stretch.end - stretch.start, STRETCH);
            looked.borrow_mut().push(stretch.start / STRETCH);
            there
        });
        (answer, looked.into_inner())
    }

    #[test]
    fn what_was_seen_is_believed_for_its_second_only() {
        let residency = Residency::new(1 << 30);
        for (second, there) in [(0, true), (1, false), (2, true), (9, false)] {
            assert_eq!(ask(&residency, 0..4096, second, there), (there, vec![0]));
            let again = ask(&residency, 8192..12288, second, !there);
            assert_eq!(again, (there, vec![]));
        }
    }

    #[test]
    fn a_range_needs_all_its_stretches() {
        let residency = Residency::new(1 << 30);
        let last = STRETCH * GROUP;
        assert_eq!(
            ask(&residency, last..last + 1, 5, true),
            (true, vec![GROUP])
        );
        let range = last - 1..last + 2 * STRETCH;
        assert_eq!(
            ask(&residency, range, 5, true),
            (true, vec![GROUP - 1, GROUP + 1])
        );
        assert!(
            !ask(&residency, (1 << 30) - 1..(1 << 30) + 1, 5, true).0,
            "past the end"
        );
    }
}
