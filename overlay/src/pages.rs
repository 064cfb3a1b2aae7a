//! A layer's own data in the page cache, lent to system calls that copy it.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

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
}

impl Pages {
    /// Maps `file`, of `size` bytes; `None` if it is empty.
    pub(crate) fn of(file: &File, size: u64) -> io::Result<Option<Self>> {
        let mapping = Mapping::of(file, size)?;
        Ok(mapping.map(|mapping| Self {
            mapping,
            residency: Residency::new(size),
            size,
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
