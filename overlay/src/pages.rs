//! A layer's own data in the page cache, lent to system calls that copy it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::map::{Map, State};
use crate::mapped::Mapping;
use crate::residency::{Residency, Second};

/// A data file, mapped, and what of it lay in memory lately.
///
/// Only ever copied from, never sent by reference: a page that waits in a socket could not be dropped from memory
/// after a failed sync, and would be taken for what is on the disk.
pub(crate) struct Pages {
    mapping: Mapping,
    residency: Residency,
    size: u64,
    _share: Share,
}

/// Bytes of all disks that are mapped. A process has room for addresses of 128 TiB, which everything else needs, too.
static MAPPED: AtomicU64 = AtomicU64::new(0);
const MOST: u64 = 32 << 40;

/// What one disk takes of that.
struct Share(u64);

impl Share {
    fn of(size: u64) -> Option<Self> {
        let share = Self(size);
        (MAPPED.fetch_add(size, Relaxed) + size <= MOST).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        MAPPED.fetch_sub(self.0, Relaxed);
    }
}

impl Pages {
    /// Maps `file`, of `size` bytes; `None` if it is empty, or too much is mapped.
    pub(crate) fn of(file: &File, size: u64) -> io::Result<Option<Self>> {
        let Some(share) = Share::of(size) else {
            return Ok(None);
        };
        let mapping = Mapping::of(file, size)?;
        Ok(mapping.map(|mapping| Self {
            mapping,
            residency: Residency::new(size),
            size,
            _share: share,
        }))
    }

    /// Whether every block of `map`'s data in the stretches that `range` touches lay in memory within this second.
    /// What was written since lies there as well.
    fn hold(&self, range: &Range<u64>, map: &Map) -> bool {
        let look = |stretch: Range<u64>| {
            // A block is a page.
            let is_data = |block: u64| map.state(block) == State::Data;
            let stretch = stretch.start..stretch.end.min(self.size);
            self.mapping.are_resident(stretch, is_data)
        };
        self.residency.holds(range, Second::now(), look)
    }
}

/// A stretch of a client's own data, for a system call that copies it and for nothing else: where a page cannot be read
/// any more the call fails with EFAULT, but a look at it from this process would be the process's end (SIGBUS).
///
/// What is written meanwhile may be in it or not.
#[derive(Clone)]
pub struct Own {
    pages: Arc<Pages>,
    range: Range<u64>,
}

impl Own {
    /// `range` of `pages`, if `map`, by which all of it is data, has no block near it that is not in memory.
    pub(crate) fn of(pages: Arc<Pages>, range: Range<u64>, map: &Map) -> Option<Self> {
        let there = pages.hold(&range, map) && pages.mapping.bytes(range.clone()).is_some();
        there.then_some(Self { pages, range })
    }

    /// The bytes.
    pub fn bytes(&self) -> IoSlice<'_> {
        let none = IoSlice::new(&[]);
        // That they are there was seen when it was made.
        self.pages.mapping.bytes(self.range.clone()).unwrap_or(none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_mapped_than_leaves_room_for_the_rest() {
        let first = Share::of(MOST - 4096).unwrap();
        assert!(Share::of(1 << 40).is_none());
        drop(first);
        assert!(Share::of(MOST - 4096).is_some());
    }
}
