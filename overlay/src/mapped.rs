//! The crate's only `unsafe`: mapping a base file, and asking which of its pages are in memory.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

/// Most pages asked about in one call: 1 MiB of them, so that the answer fits the stack.
const MOST_PAGES: usize = 256;
const PAGE: usize = 4096;

/// A read-only mapping of a file that nobody changes.
pub(crate) struct Mapping {
    map: Mmap,
}

impl Mapping {
    /// Maps the first `size` bytes; `None` for an empty file.
    pub(crate) fn of(file: &File, size: u64) -> io::Result<Option<Self>> {
        if size == 0 {
            return Ok(None);
        }
        // SAFETY: a published version is immutable, so the bytes do not change under the mapping. This process never
        // dereferences them: they are handed to the kernel, which reports a failing page as EFAULT.
        let map = unsafe { Mmap::map(file)? };
        // Sequential read-ahead by page faults would fight with the explicit reads.
        map.advise(memmap2::Advice::Random)?;
        Ok(Some(Self { map }))
    }

    /// The bytes of `range`, if every page of it is in the page cache.
    pub(crate) fn resident(&self, range: Range<u64>) -> Option<&[u8]> {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        let bytes = self.map.get(range.clone())?;
        let first = range.start / PAGE * PAGE;
        let pages = (range.end - first).div_ceil(PAGE);
        if pages == 0 || pages > MOST_PAGES {
            return None;
        }
        let mut answer = [0u8; MOST_PAGES];
        let start = self.map.as_ptr().wrapping_add(first);
        // SAFETY: start..start+pages*PAGE lies in the mapping (whose last page is whole), start is page-aligned, and
        // the answer has room for `pages` bytes. mincore does not touch the pages.
        let failed = unsafe {
            libc::mincore(
                start.cast_mut().cast(),
                pages * PAGE,
                answer.as_mut_ptr().cast(),
            )
        };
        let all = failed == 0 && answer[..pages].iter().all(|page| page & 1 == 1);
        all.then_some(bytes)
    }
}
