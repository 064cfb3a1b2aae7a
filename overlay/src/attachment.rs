//! A client's hold on its overlay: all reads and writes.

use std::io::IoSlice;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use parking_lot::RwLockReadGuard;

use crate::base::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::BLOCK;
use crate::layer::blocks_of;
use crate::map::{PAGE_BLOCKS, State};
use crate::overlay::{Inside, Overlay};
use crate::pages::Own;
use crate::stack::Run;
use crate::storage::Attempt;

/// What a write must outlive before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// This process.
    Process,
    /// A power cut (FUA).
    Disk,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Bytes that are filled with zeros between two looks whether an eviction waits.
const FILL_PIECE: u64 = 4 << 20;
/// Bytes that are trimmed between two: those that a page of the map covers, which change with one write of it.
const ZERO_PIECE: u64 = PAGE_BLOCKS * BLOCK;

/// A client's hold on its overlay. Every call fails with [`ErrorKind::Evicted`] once a newer one was made.
///
/// May be used from many threads; requests run in parallel and in any order, as on a disk. Offsets and lengths are in
/// bytes, of any alignment.
pub struct Attachment {
    overlay: Arc<Overlay>,
    generation: u64,
    base: Arc<dyn Base>,
    size: u64,
}

impl Attachment {
    pub(crate) fn new(overlay: Arc<Overlay>, inside: &Inside) -> Self {
        Self {
            overlay,
            generation: inside.generation,
            base: inside.stack.base.clone(),
            size: inside.stack.size,
        }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The base below, for sending its resident bytes without a copy. Stays the same for this attachment's life.
    pub fn base(&self) -> &Arc<dyn Base> {
        &self.base
    }

    /// The overlay.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.overlay
    }

    /// Whether a newer attachment, a reset or a delete took this one's place.
    pub fn is_evicted(&self) -> bool {
        self.overlay.gate.read().generation != self.generation
    }

    /// Passes the gate: whoever holds the guard acts before any later attachment does.
    pub(crate) fn enter(&self) -> Result<RwLockReadGuard<'_, Inside>> {
        let inside = self.overlay.gate.read();
        self.owns(&inside)?;
        Ok(inside)
    }

    fn owns(&self, inside: &Inside) -> Result<()> {
        if inside.deleted {
            return Err(self.overlay.deleted());
        }
        if inside.generation == self.generation {
            return Ok(());
        }
        let text = format!("overlay {}", self.overlay.id);
        Err(Error::new(ErrorKind::Evicted, text))
    }

    /// Fills `buf` from `offset`. May block on disk.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::OutOfRange`], [`ErrorKind::Evicted`].
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.enter()?.stack.read(buf, offset)
    }

    /// As [`Attachment::read`], but never waits for a disk or a lock; on [`Attempt::WouldBlock`] `buf` is undefined.
    ///
    /// # Errors
    /// As [`Attachment::read`].
    pub fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        let Some(inside) = self.overlay.gate.try_read() else {
            return Ok(Attempt::WouldBlock);
        };
        self.owns(&inside)?;
        inside.stack.try_read(buf, offset)
    }

    /// What `range` reads, where all of it is the base's and lies in memory: for a system call only, as
    /// [`Base::mapped`] says. `None` in any other case, and where this would have to wait.
    ///
    /// # Errors
    /// [`ErrorKind::Evicted`].
    pub fn mapped(&self, range: Range<u64>) -> Result<Option<IoSlice<'_>>> {
        let Some(inside) = self.overlay.gate.try_read() else {
            return Ok(None);
        };
        self.owns(&inside)?;
        if range.is_empty() || !inside.stack.is_base(&range) {
            return Ok(None);
        }
        Ok(self.base.mapped(range))
    }

    /// What `range` reads, where all of it is the client's own, of one layer, and lies in memory. `None` in any other case,
    /// and where this would have to wait.
    ///
    /// # Errors
    /// [`ErrorKind::Evicted`].
    pub fn own(&self, range: Range<u64>) -> Result<Option<Own>> {
        let Some(inside) = self.overlay.gate.try_read() else {
            return Ok(None);
        };
        self.owns(&inside)?;
        if range.is_empty() || range.end > self.size {
            return Ok(None);
        }
        let holder = inside.stack.holder(&range);
        Ok(holder.and_then(|layer| layer.lend(range)))
    }

    /// Gives back what [`Attachment::own`] took to find data in memory; it is taken again when needed. Does not wait.
    pub fn rest(&self) {
        if let Some(inside) = self.overlay.gate.try_read() {
            inside.stack.layers.iter().for_each(|layer| layer.unmap());
        }
    }

    /// Appends to `out` where each stretch of `range` is stored now, without touching a disk; neighbours may be of
    /// equal kind. A stretch of the base may be sent from [`Base::resident`]; the others through
    /// [`Attachment::read`] or as zeros. A write that comes between counts as concurrent with the read.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::Evicted`].
    pub fn segments(&self, range: Range<u64>, out: &mut Vec<Run>) -> Result<()> {
        self.enter()?
            .stack
            .segments(range, &mut |run| out.push(run))
    }

    /// Writes `data` at `offset`; answered, it outlives what `durability` says.
    ///
    /// # Errors
    /// One for which [`Error::is_no_space`] holds, [`ErrorKind::Io`], [`ErrorKind::OutOfRange`],
    /// [`ErrorKind::Evicted`]; after an error each sector holds either its old content or the new.
    pub fn write(&self, data: &[u8], offset: u64, durability: Durability) -> Result<()> {
        self.apply_write(data, offset)?;
        self.settle(durability)
    }

    /// Refuses what [`Attachment::write`] would refuse for want of room as things stand, which others may change meanwhile.
    ///
    /// # Errors
    /// One for which [`Error::is_no_space`] holds, [`ErrorKind::Evicted`].
    pub fn require_room(&self, range: &Range<u64>) -> Result<()> {
        let inside = self.enter()?;
        let blocks = blocks_of(range);
        let fresh = inside.stack.top().map.lacking(&blocks, State::Data);
        inside.space.require(fresh)
    }

    fn apply_write(&self, data: &[u8], offset: u64) -> Result<()> {
        let inside = self.enter()?;
        inside
            .stack
            .check(&(offset..offset.saturating_add(data.len() as u64)))?;
        if data.is_empty() {
            return Ok(());
        }
        let written = inside.stack.top().write(data, offset, &inside.around());
        self.heed(&inside, written)?;
        self.relieve(inside)
    }

    /// Leaves the gate, and flushes if so much of the map changed since the last flush that the next one would take
    /// much memory: not every client ever asks for one.
    fn relieve(&self, inside: RwLockReadGuard<'_, Inside>) -> Result<()> {
        let crowded = inside.stack.top().is_crowded();
        drop(inside);
        match crowded {
            true => self.overlay.flush(),
            false => Ok(()),
        }
    }

    fn settle(&self, durability: Durability) -> Result<()> {
        match durability {
            Durability::Process => Ok(()),
            Durability::Disk => self.overlay.flush(),
        }
    }

    /// If a failed sync could not be noted, that is tried again with whatever is refused because of it.
    fn heed(&self, inside: &Inside, result: Result<()>) -> Result<()> {
        result.inspect_err(|e| {
            if e.kind() == ErrorKind::SyncFailed {
                self.overlay.heed(inside);
            }
        })
    }

    /// Drops the content of the whole blocks in `range`: they read as zeros, their space is given back. A newer
    /// attachment may come, and a snapshot be taken, when part of it is done.
    ///
    /// # Errors
    /// As [`Attachment::write`].
    pub fn trim(&self, range: Range<u64>, durability: Durability) -> Result<()> {
        self.enter()?.stack.check(&range)?;
        self.in_pieces(whole_blocks(&range, self.size), ZERO_PIECE, Inside::zero)?;
        self.settle(durability)
    }

    /// Does `work` to one piece of `range` after the other, passing the gate anew for each: an eviction then waits for
    /// one piece and not for a whole disk, and ends the rest.
    fn in_pieces(
        &self,
        range: Range<u64>,
        piece: u64,
        work: fn(&Inside, Range<u64>) -> Result<()>,
    ) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let end = (at / piece + 1).saturating_mul(piece).min(range.end);
            let inside = self.enter()?;
            self.heed(&inside, work(&inside, at..end))?;
            self.relieve(inside)?;
            at = end;
        }
        Ok(())
    }

    /// Makes `range` read as zeros. With `punch` the space of whole blocks is given back; without, it is taken, so
    /// that later writes there find room. A newer attachment may come, and a snapshot be taken, when part of it is done.
    ///
    /// # Errors
    /// As [`Attachment::write`].
    pub fn write_zeroes(
        &self,
        range: Range<u64>,
        punch: bool,
        durability: Durability,
    ) -> Result<()> {
        self.enter()?.stack.check(&range)?;
        let whole = if punch {
            whole_blocks(&range, self.size)
        } else {
            range.start..range.start
        };
        let rest = whole.end.max(range.start)..range.end;
        self.in_pieces(range.start..whole.start, FILL_PIECE, Inside::fill_zeros)?;
        self.in_pieces(whole, ZERO_PIECE, Inside::zero)?;
        self.in_pieces(rest, FILL_PIECE, Inside::fill_zeros)?;
        self.settle(durability)
    }

    /// Makes everything answered so far durable, whoever wrote it. Concurrent calls share one sync.
    ///
    /// # Errors
    /// As [`Overlay::flush`], and [`ErrorKind::Evicted`].
    pub fn flush(&self) -> Result<()> {
        drop(self.enter()?);
        self.overlay.flush()
    }

    /// Calls `found` for the maximal runs of base, data and zeros in `range`, in order, until it breaks. May ask the
    /// disk for the holes of the base.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::OutOfRange`], [`ErrorKind::Evicted`].
    pub fn block_status(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Run) -> ControlFlow<()>,
    ) -> Result<()> {
        self.enter()?.stack.status(range, found)
    }
}

/// The whole blocks of `range`, in bytes, the last one of the disk counting as whole; empty at the start if none.
fn whole_blocks(range: &Range<u64>, size: u64) -> Range<u64> {
    let start = range.start.next_multiple_of(BLOCK);
    let end = if range.end == size {
        size
    } else {
        range.end / BLOCK * BLOCK
    };
    if start >= end {
        range.end..range.end
    } else {
        start..end
    }
}

impl Inside {
    /// Zeros whole blocks, given in bytes, the last one of the disk counting as whole.
    fn zero(&self, range: Range<u64>) -> Result<()> {
        let blocks = range.start / BLOCK..range.end.div_ceil(BLOCK);
        self.stack.top().zero(blocks, &self.around())
    }

    /// Writes zeros.
    fn fill_zeros(&self, range: Range<u64>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(ZEROS.len() as u64);
            self.stack
                .top()
                .write(&ZEROS[..len as usize], at, &self.around())?;
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BaseId, Digest, FileBase, Options, OverlayId, OverlaySpec, Retention, Store};

    /// The bound is a small one in these tests.
    #[test]
    fn a_client_that_never_flushes_does_not_pile_changes_up() {
        const SIZE: u64 = 1 << 30;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("base.raw");
        std::fs::write(&path, []).unwrap();
        let base = BaseId {
            version: uuid::Uuid::from_u128(1),
            digest: Digest([1; 32]),
        };
        let spec = OverlaySpec {
            size: SIZE,
            quota: None,
            retention: Retention::Keep,
            base: Arc::new(FileBase::open(&path, base).unwrap()),
        };
        let store = Store::open(&dir.path().join("overlays"), Options::default()).unwrap();
        let overlay = store.create(&OverlayId::new("pc").unwrap(), spec).unwrap();
        let disk = overlay.attach();
        let crowded = || overlay.gate.read().stack.top().is_crowded();
        for at in (0..SIZE).step_by(16 << 20) {
            disk.write(&[1; 4096], at, Durability::Process).unwrap();
            assert!(!crowded(), "after a write at {at}");
        }
        disk.trim(0..SIZE, Durability::Process).unwrap();
        assert!(!crowded(), "after a trim");
    }

    #[test]
    fn whole_blocks_leave_out_what_is_only_touched() {
        assert_eq!(whole_blocks(&(0..4096), 1 << 20), 0..4096);
        assert_eq!(whole_blocks(&(1..8192), 1 << 20), 4096..8192);
        assert_eq!(whole_blocks(&(1..8191), 1 << 20), 8191..8191);
        assert_eq!(whole_blocks(&(100..200), 1 << 20), 200..200);
        assert_eq!(whole_blocks(&(4096..5120), 5120), 4096..5120);
    }
}
