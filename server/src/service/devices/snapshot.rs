//! Snapshots of overlays: read as they were taken, with what changed between them.

use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};

use nbd::{ExportInfo, IoError, OptionError, Refusal, TransmissionFlags};
use overlay::{Attempt, Overlay, SnapshotId, SnapshotName, View};

use super::overlaid::{extent, fault, overlay_info};
use crate::service::{Device, Export, Extent, Fault, device::DIRTY_BITMAP};

/// A snapshot, for as many connections as come. Each sees it until it closes, also when it is dropped meanwhile.
pub struct SnapshotExport {
    view: Arc<View>,
    description: String,
}

impl SnapshotExport {
    /// Gives the snapshot `name` of `overlay` out as it is now; the overlay itself is not held.
    ///
    /// # Errors
    /// When there is no such snapshot.
    pub fn open(
        overlay: &Overlay,
        name: &SnapshotName,
        description: String,
    ) -> Result<Self, Refusal> {
        let view = overlay.snapshot_view(name).map_err(|error| {
            Refusal::new(OptionError::Unknown, format!("no such snapshot: {error}"))
        })?;
        Ok(Self {
            view: Arc::new(view),
            description,
        })
    }
}

impl Export for SnapshotExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        use TransmissionFlags as F;
        let mut info = overlay_info(self.view.size());
        info.flags = F::READ_ONLY
            .with(F::SEND_FLUSH)
            .with(F::SEND_CACHE)
            .with(F::CAN_MULTI_CONN);
        info.description = Some(self.description.clone());
        info.contexts.extend(contexts(self.view.older()));
        Ok(info)
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        Ok(Arc::new(SnapshotDevice(self.view.clone())))
    }
}

/// Names of the contexts that tell what changed since each of `snapshots`.
pub(super) fn contexts(snapshots: &[(SnapshotName, SnapshotId)]) -> impl Iterator<Item = String> {
    snapshots
        .iter()
        .map(|(name, _)| format!("{DIRTY_BITMAP}{name}"))
}

/// The snapshot called `name`.
pub(super) fn find(
    snapshots: &[(SnapshotName, SnapshotId)],
    name: &str,
) -> Result<SnapshotId, Fault> {
    let known = snapshots.iter().find(|(known, _)| known.as_str() == name);
    let gone = || Fault::Request(IoError::Invalid, format!("no snapshot {name:?}"));
    known.map(|(_, id)| *id).ok_or_else(gone)
}

/// Hears the runs of a range and whether they changed.
type Hear<'a> = &'a mut dyn FnMut(Range<u64>, bool) -> ControlFlow<()>;

/// The first `most` runs that `tell` tells of, by their length.
pub(super) fn changed_runs(
    most: usize,
    tell: impl FnOnce(Hear<'_>) -> overlay::Result<()>,
) -> overlay::Result<Vec<(u64, bool)>> {
    let mut runs = Vec::new();
    tell(&mut |run, changed| {
        runs.push((run.end - run.start, changed));
        match runs.len() < most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    })?;
    Ok(runs)
}

struct SnapshotDevice(Arc<View>);

/// The handshake says that it is read-only, and requests that write are refused before they come here.
fn read_only<T>() -> Result<T, Fault> {
    let text = "a snapshot does not change";
    Err(Fault::Request(IoError::NotPermitted, text.into()))
}

impl Device for SnapshotDevice {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.0.read(buf, offset).map_err(|error| fault(&error))
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        let attempt = self.0.try_read(buf, offset);
        Ok(attempt.map_err(|error| fault(&error))? == Attempt::Done)
    }

    fn write(&self, _data: &[u8], _offset: u64) -> Result<(), Fault> {
        read_only()
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn trim(&self, _range: Range<u64>) -> Result<(), Fault> {
        read_only()
    }

    fn zero(&self, _range: Range<u64>, _may_hole: bool, _only_fast: bool) -> Result<(), Fault> {
        read_only()
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        let mut extents = Vec::new();
        let mut found = |run| {
            extents.push(extent(&run));
            match extents.len() < most {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let status = self.0.block_status(range, &mut found);
        status.map_err(|error| fault(&error))?;
        Ok(extents)
    }

    fn changed(
        &self,
        snapshot: &str,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, Fault> {
        let since = find(self.0.older(), snapshot)?;
        changed_runs(most, |found| self.0.changed(since, range, found))
            .map_err(|error| fault(&error))
    }
}
