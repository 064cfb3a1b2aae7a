//! The crate's only `unsafe`: mapped files, and asking the kernel which pages of them are in memory.

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;

/// Most pages that `mincore` is asked about in one call: 1 MiB of them, so that the answer fits the stack.
const MOST_PAGES: usize = 256;
const PAGE: usize = 4096;
/// So many are asked about by mincore alone.
const FEW_PAGES: usize = 64;

/// The number of cachestat (Linux 6.5), the same on all architectures that this runs on; libc does not name it on all.
const CACHESTAT: libc::c_long = 451;
static HAS_CACHESTAT: AtomicBool = AtomicBool::new(true);

/// A read-only mapping of a file. This process never looks at what is in it, since a page that
/// cannot be read would kill it: it asks about pages, and hands them to system calls, which fail with EFAULT instead.
pub(crate) struct Mapping {
    map: Mmap,
}

impl Mapping {
    /// Maps the first `size` bytes; `None` for an empty file.
    pub(crate) fn of(file: &File, size: u64) -> io::Result<Option<Self>> {
        if size == 0 {
            return Ok(None);
        }
        // SAFETY: this process never dereferences the bytes, only the kernel does: neither what a client writes to its
        // own data under the mapping nor a page that cannot be read any more meets a look at them.
        let map = unsafe { Mmap::map(file)? };
        Ok(Some(Self { map }))
    }

    /// The bytes of `range`, for a system call and for nothing else.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Option<IoSlice<'_>> {
        let range = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        self.map.get(range).map(IoSlice::new)
    }

    /// Whether every page of `range` is in the page cache. `file` is the one that was mapped.
    pub(crate) fn is_resident(&self, file: &File, range: Range<u64>) -> bool {
        let Some(pages) = self.pages(&range) else {
            return false;
        };
        // cachestat also counts pages that a readahead has only just ordered, or failed to fill: its yes is not enough.
        if pages.len() > FEW_PAGES
            && cached_pages(file, &pages).is_some_and(|cached| cached < pages.len() as u64)
        {
            return false;
        }
        self.ask_mincore(pages, |_| true)
    }

    /// Whether every page of `range` that is `needed`, by its number, is in the page cache.
    pub(crate) fn are_resident(&self, range: Range<u64>, needed: impl Fn(u64) -> bool) -> bool {
        let pages = self.pages(&range);
        pages.is_some_and(|pages| self.ask_mincore(pages, needed))
    }

    /// The pages that `range` touches; `None` if it is empty or not in the mapping.
    fn pages(&self, range: &Range<u64>) -> Option<Range<usize>> {
        let (start, end) = (
            usize::try_from(range.start).ok()?,
            usize::try_from(range.end).ok()?,
        );
        let inside = start < end && end <= self.map.len();
        inside.then(|| start / PAGE..end.div_ceil(PAGE))
    }

    /// The slow way: mincore looks pages up one by one, and costs 18 µs for each MiB.
    fn ask_mincore(&self, pages: Range<usize>, needed: impl Fn(u64) -> bool) -> bool {
        let mut answer = [0u8; MOST_PAGES];
        pages.clone().step_by(MOST_PAGES).all(|first| {
            let count = (pages.end - first).min(MOST_PAGES);
            let start = self.map.as_ptr().wrapping_add(first * PAGE);
            // SAFETY: the pages lie in the mapping (whose last page is whole), start is page-aligned, and the answer
            // has room for a byte for each. mincore does not touch the pages.
            let failed = unsafe {
                libc::mincore(
                    start.cast_mut().cast(),
                    count * PAGE,
                    answer.as_mut_ptr().cast(),
                )
            };
            let mut answers = (first as u64..).zip(&answer[..count]);
            failed == 0 && answers.all(|(page, there)| there & 1 == 1 || !needed(page))
        })
    }
}

/// How many of `pages` are in the page cache, by cachestat (2 µs for each MiB); `None` where that cannot be asked.
fn cached_pages(file: &File, pages: &Range<usize>) -> Option<u64> {
    if !HAS_CACHESTAT.load(Ordering::Relaxed) {
        return None;
    }
    // As the kernel has them: offset and length in bytes; cached, dirty, writeback, evicted, recently evicted pages.
    let range = [(pages.start * PAGE) as u64, (pages.len() * PAGE) as u64];
    let mut answer = [0u64; 5];
    // SAFETY: both arrays have the layout of the structures that the call reads and fills, and live through it.
    let failed = unsafe {
        libc::syscall(
            CACHESTAT,
            file.as_raw_fd(),
            range.as_ptr(),
            answer.as_mut_ptr(),
            0,
        )
    };
    if failed != 0 {
        HAS_CACHESTAT.store(false, Ordering::Relaxed);
        return None;
    }
    Some(answer[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two ways of asking agree, on files in memory and not.
    #[test]
    fn cachestat_and_mincore_say_the_same() {
        const PAGES: usize = 600;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("base");
        std::fs::write(&path, vec![7; PAGES * PAGE - 100]).unwrap();
        let file = File::open(&path).unwrap();
        let size = file.metadata().unwrap().len();
        let mapping = Mapping::of(&file, size).unwrap().unwrap();
        let both = |pages: Range<usize>| {
            let slow = mapping.ask_mincore(pages.clone(), |_| true);
            if let Some(cached) = cached_pages(&file, &pages) {
                assert_eq!(cached == pages.len() as u64, slow);
            }
            slow
        };
        assert!(both(0..PAGES) && both(3..4) && both(PAGES - 1..PAGES));
        assert!(mapping.is_resident(&file, 5000..size));
        assert!(!mapping.is_resident(&file, 0..size + 1), "past the end");
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(!both(0..PAGES) && !both(3..4));
    }

    /// Ordered by a readahead is not there yet.
    #[test]
    fn what_is_called_resident_can_be_read_without_waiting() {
        const SIZE: usize = 32 << 20;
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("base");
        std::fs::write(&path, vec![7; SIZE]).unwrap();
        let file = File::open(&path).unwrap();
        file.sync_all().unwrap();
        let mapping = Mapping::of(&file, SIZE as u64).unwrap().unwrap();
        let mut buffer = vec![0; SIZE];
        for _ in 0..5 {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::WillNeed).unwrap();
            for start in (0..SIZE).step_by(1 << 20) {
                if !mapping.is_resident(&file, start as u64..(start + (1 << 20)) as u64) {
                    continue;
                }
                let part = std::io::IoSliceMut::new(&mut buffer[..1 << 20]);
                let flags = rustix::io::ReadWriteFlags::NOWAIT;
                let read = rustix::io::preadv2(&file, &mut [part], start as u64, flags);
                assert_eq!(read, Ok(1 << 20), "at {start}");
            }
        }
    }
}
