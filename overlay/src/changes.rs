//! What changed since a snapshot: the blocks that the layers above it hold.
//!
//! Never misses a block that reads otherwise than it did in the snapshot, also after a crash: such a block is held by a
//! layer above, and that is where it is read from. FORMAT.md says what may be named that did not change.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use uuid::Uuid;

use crate::attachment::Attachment;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::SnapshotName;
use crate::layer::{Layer, blocks_of, bytes_of};
use crate::map::descend;
use crate::overlay::Overlay;
use crate::stack::Stack;
use crate::view::View;

/// Which snapshot it is: another one that is taken later under the same name is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotId(pub(crate) Uuid);

impl Overlay {
    /// Calls `found` with what was written, trimmed or zeroed after `from` was taken (`None`: ever) and before `to`
    /// was (`None`: until now), in whole blocks, as bytes, in order, until it breaks.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] if `to` is older than `from`.
    pub fn diff(
        &self,
        from: Option<&SnapshotName>,
        to: Option<&SnapshotName>,
        found: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
    ) -> Result<()> {
        let layers = self.between(from, to)?;
        let Some(newest) = layers.last() else {
            return Ok(());
        };
        let blocks = 0..newest.map.blocks();
        let mut last: Option<Range<u64>> = None;
        let flow = changed(&layers, blocks, &mut |run| match &mut last {
            Some(last) if last.end == run.start => {
                last.end = run.end;
                ControlFlow::Continue(())
            }
            last => last
                .replace(run)
                .map_or(ControlFlow::Continue(()), &mut *found),
        });
        if let (ControlFlow::Continue(()), Some(last)) = (flow, last) {
            let _ = found(last);
        }
        Ok(())
    }

    /// The layers that hold what changed between two snapshots.
    fn between(
        &self,
        from: Option<&SnapshotName>,
        to: Option<&SnapshotName>,
    ) -> Result<Vec<Arc<Layer>>> {
        let inside = self.gate.read();
        let layers = &inside.stack.layers;
        let manifest = self.manifest.lock();
        let start = from.map_or(Ok(0), |name| manifest.find(name).map(|at| at + 1))?;
        let end = to.map_or(Ok(layers.len()), |name| {
            manifest.find(name).map(|at| at + 1)
        })?;
        match layers.get(start..end) {
            Some(layers) => Ok(layers.to_vec()),
            None => Err(Error::new(
                ErrorKind::Invalid,
                "the later snapshot is the older one",
            )),
        }
    }

    /// The snapshots by name and identity, oldest first.
    pub fn snapshot_ids(&self) -> Vec<(SnapshotName, SnapshotId)> {
        self.manifest.lock().snapshot_ids()
    }
}

impl Attachment {
    /// Calls `found` with the stretches of `range` (bytes), in order and without gaps, and whether they were written,
    /// trimmed or zeroed since `since` was taken, until it breaks. Neighbours differ.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if that snapshot was dropped, also when another one has its name now;
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::Evicted`].
    pub fn changed(
        &self,
        since: SnapshotId,
        range: Range<u64>,
        found: &mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>,
    ) -> Result<()> {
        self.enter()?.stack.changed(since, range, found)
    }
}

impl View {
    /// As [`Attachment::changed`], up to the snapshot that this shows. Goes on when snapshots are dropped.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if `since` is none of [`View::older`]; [`ErrorKind::OutOfRange`].
    pub fn changed(
        &self,
        since: SnapshotId,
        range: Range<u64>,
        found: &mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>,
    ) -> Result<()> {
        self.stack.changed(since, range, found)
    }
}

impl Stack {
    fn changed(
        &self,
        since: SnapshotId,
        range: Range<u64>,
        found: &mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check(&range)?;
        let frozen = self.layers.iter().position(|layer| layer.uuid == since.0);
        let gone = || Error::new(ErrorKind::NotFound, "the snapshot to compare with");
        let above = frozen.ok_or_else(gone)? + 1;
        let mut runs = Alternating {
            changed: range.start..range.start,
            found,
        };
        let flow = changed(&self.layers[above..], blocks_of(&range), &mut |run| {
            runs.add(run.start.max(range.start)..run.end.min(range.end))
        });
        if flow.is_continue() {
            let _ = runs.end(range.end);
        }
        Ok(())
    }
}

/// Joins changed runs that touch, and tells what lies between them.
struct Alternating<'a> {
    /// The last one, which may go on; empty at the start of the range.
    changed: Range<u64>,
    found: &'a mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>,
}

impl Alternating<'_> {
    fn add(&mut self, run: Range<u64>) -> ControlFlow<()> {
        if self.changed.end != run.start {
            self.end(run.start)?;
            self.changed.start = run.start;
        }
        self.changed.end = run.end;
        ControlFlow::Continue(())
    }

    /// Tells the run that ended, and the unchanged one from there to `next`.
    fn end(&mut self, next: u64) -> ControlFlow<()> {
        let changed = self.changed.clone();
        if !changed.is_empty() {
            (self.found)(changed.clone(), true)?;
        }
        if changed.end < next {
            (self.found)(changed.end..next, false)?;
        }
        ControlFlow::Continue(())
    }
}

/// Calls `found` for the runs, in bytes, that any of `layers` holds.
fn changed(
    layers: &[Arc<Layer>],
    blocks: Range<u64>,
    found: &mut dyn FnMut(Range<u64>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let map = |layer: usize| &layers[layer].map;
    descend(map, layers.len(), blocks, |holder, run| match holder {
        Some(_) => found(bytes_of(&run)),
        None => ControlFlow::Continue(()),
    })
}
