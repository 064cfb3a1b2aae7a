//! Overlays: a client's own, and one for each connection.

use std::{
    any::Any,
    collections::{HashMap, HashSet},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::Context;
use nbd::{ExportInfo, IoError, OptionError, Refusal, TransmissionFlags};
use overlay::{
    Attachment, Attempt, Base, BaseId, Durability, ErrorKind, Overlay, OverlayId, OverlaySpec,
    Retention, Run, RunKind, SnapshotId, SnapshotName, Store,
};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::snapshot;
use crate::service::{Device, Export, Extent, Fault, Mapped, Segment, Source};

/// Bases and overlays that failed once while the kernel sent them. They are read by checked system calls from then on, by
/// all devices over them, so that a failure is an answer and not the end of the connection.
#[derive(Debug, Default, Clone)]
pub struct Suspects {
    bases: Arc<Mutex<HashMap<BaseId, Arc<AtomicBool>>>>,
    /// Only those that failed.
    overlays: Arc<Mutex<HashSet<OverlayId>>>,
}

impl Suspects {
    /// The mark of `base`, shared by all that ask.
    fn mark(&self, base: &BaseId) -> Arc<AtomicBool> {
        self.bases.lock().entry(*base).or_default().clone()
    }
}

/// What is said of an overlay of `size` bytes.
pub fn overlay_info(size: u64) -> ExportInfo {
    use TransmissionFlags as F;
    let flags = F::SEND_FLUSH
        .with(F::SEND_FUA)
        .with(F::SEND_TRIM)
        .with(F::SEND_WRITE_ZEROES);
    let mut info = ExportInfo::new(size, flags.with(F::SEND_CACHE).with(F::SEND_FAST_ZERO));
    info.contexts = vec!["base:allocation".into(), "qemu:allocation-depth".into()];
    info
}

/// An attachment, served.
pub struct OverlayDevice {
    attachment: Arc<Attachment>,
    base: Arc<dyn Base>,
    suspect: Arc<AtomicBool>,
    suspects: Suspects,
    /// Whether the overlay itself failed.
    own_suspect: AtomicBool,
    /// Whether any of what is the overlay's own was given out as a mapping.
    lent: AtomicBool,
    /// The snapshots there were when it was opened: what a client chose then must not turn into another one.
    snapshots: Vec<(SnapshotName, SnapshotId)>,
    /// Lives as long as this, for who counts.
    _held: Option<Arc<dyn Any + Send + Sync>>,
}

impl OverlayDevice {
    /// Serves `attachment`.
    pub fn new(attachment: Arc<Attachment>, suspects: &Suspects) -> Self {
        let base = attachment.base().clone();
        let suspect = suspects.mark(base.id());
        let snapshots = attachment.overlay().snapshot_ids();
        let failed = suspects.overlays.lock().contains(attachment.overlay().id());
        Self {
            attachment,
            base,
            suspect,
            suspects: suspects.clone(),
            own_suspect: AtomicBool::new(failed),
            lent: AtomicBool::new(false),
            snapshots,
            _held: None,
        }
    }

    /// Keeps `held` as long as it lives.
    pub fn holding(self, held: Arc<dyn Any + Send + Sync>) -> Self {
        Self {
            _held: Some(held),
            ..self
        }
    }
}

pub(super) fn fault(error: &overlay::Error) -> Fault {
    let kind = match error.kind() {
        ErrorKind::Evicted => return Fault::Gone,
        _ if error.is_no_space() => IoError::NoSpace,
        ErrorKind::OutOfRange | ErrorKind::Invalid => IoError::Invalid,
        _ => IoError::Io,
    };
    Fault::Request(kind, error.to_string())
}

pub(super) fn extent(run: &Run) -> Extent {
    let length = run.range.end - run.range.start;
    let (hole, zero, depth) = match run.kind {
        RunKind::Data => (false, false, 1),
        RunKind::Zero => (true, true, 0),
        // Writing to it takes room in the overlay.
        RunKind::Base => (false, false, 2),
    };
    Extent {
        length,
        hole,
        zero,
        depth,
    }
}

impl OverlayDevice {
    /// What the client is told; nothing if its overlay was deleted under it, as in a takeover.
    fn fault(&self, error: &overlay::Error) -> Fault {
        if error.kind() == ErrorKind::NotFound && self.attachment.is_evicted() {
            return Fault::Gone;
        }
        fault(error)
    }
}

impl OverlayDevice {
    /// Refuses what a write of `range` would be refused for want of room.
    ///
    /// # Errors
    /// As of the write.
    pub fn require_room(&self, range: &Range<u64>) -> Result<(), Fault> {
        let room = self.attachment.require_room(range);
        room.map_err(|error| self.fault(&error))
    }

    fn mapped_base(&self, range: Range<u64>) -> overlay::Result<Option<Mapped<'_>>> {
        if self.suspect.load(Relaxed) {
            return Ok(None);
        }
        let bytes = self.attachment.mapped(range)?;
        Ok(bytes.map(Mapped::Base))
    }

    fn mapped_own(&self, range: Range<u64>) -> overlay::Result<Option<Mapped<'_>>> {
        let own = self.attachment.own(range)?;
        if own.is_some() && !self.lent.load(Relaxed) {
            self.lent.store(true, Relaxed);
        }
        Ok(own.map(Mapped::Own))
    }
}

impl Device for OverlayDevice {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.attachment
            .read(buf, offset)
            .map_err(|error| self.fault(&error))
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        let attempt = self
            .attachment
            .try_read(buf, offset)
            .map_err(|error| self.fault(&error))?;
        Ok(attempt == Attempt::Done)
    }

    fn segments(&self, range: Range<u64>, out: &mut Vec<Segment>) -> Result<(), Fault> {
        let mut runs = Vec::new();
        self.attachment
            .segments(range, &mut runs)
            .map_err(|error| self.fault(&error))?;
        let mapped = if self.suspect.load(Relaxed) {
            Source::Stored
        } else {
            Source::File
        };
        for Run { range, kind } in runs {
            let source = match kind {
                RunKind::Zero => Source::Zero,
                RunKind::Data => Source::Stored,
                RunKind::Base => mapped,
            };
            match out.last_mut() {
                Some(last) if last.source == source => last.range.end = range.end,
                _ => out.push(Segment { range, source }),
            }
        }
        Ok(())
    }

    fn resident(&self, range: Range<u64>) -> Option<BorrowedFd<'_>> {
        self.base.resident(range).map(AsFd::as_fd)
    }

    fn mapped(&self, range: Range<u64>) -> Result<Option<Mapped<'_>>, Fault> {
        match self.mapped_base(range.clone()) {
            Ok(None) if !self.own_suspect.load(Relaxed) => self.mapped_own(range),
            mapped => mapped,
        }
        .map_err(|error| self.fault(&error))
    }

    fn rest(&self) {
        self.attachment.rest();
    }

    /// What the kernel sends in one call may be of both. If it was not the overlay, the next connection will tell.
    fn distrust(&self) {
        if !self.lent.swap(false, Relaxed) {
            return self.suspect.store(true, Relaxed);
        }
        self.own_suspect.store(true, Relaxed);
        let id = self.attachment.overlay().id().clone();
        self.suspects.overlays.lock().insert(id);
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Fault> {
        self.attachment
            .write(data, offset, Durability::Process)
            .map_err(|error| self.fault(&error))
    }

    fn flush(&self) -> Result<(), Fault> {
        self.attachment.flush().map_err(|error| self.fault(&error))
    }

    fn trim(&self, range: Range<u64>) -> Result<(), Fault> {
        self.attachment
            .trim(range, Durability::Process)
            .map_err(|error| self.fault(&error))
    }

    fn zero(&self, range: Range<u64>, may_hole: bool, only_fast: bool) -> Result<(), Fault> {
        if only_fast && !may_hole {
            return Err(Fault::Request(
                IoError::NotSupported,
                "zeros without a hole have to be written".into(),
            ));
        }
        self.attachment
            .write_zeroes(range, may_hole, Durability::Process)
            .map_err(|error| self.fault(&error))
    }

    fn cache(&self, range: Range<u64>) -> Result<(), Fault> {
        let mut buf = vec![0; 256 << 10];
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(buf.len() as u64) as usize;
            self.read(&mut buf[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        snapshot::extents(most, |found| self.attachment.block_status(range, found))
            .map_err(|error| self.fault(&error))
    }

    fn changed(
        &self,
        snapshot: &str,
        range: Range<u64>,
        most: usize,
    ) -> Result<Vec<(u64, bool)>, Fault> {
        let since = snapshot::find(&self.snapshots, snapshot)?;
        snapshot::changed_runs(most, |found| self.attachment.changed(since, range, found))
            .map_err(|error| self.fault(&error))
    }
}

/// One overlay that lasts: a newer connection takes it over from an older one.
pub struct OverlayExport {
    overlay: Arc<Overlay>,
    size: u64,
    suspects: Suspects,
}

impl OverlayExport {
    /// Gives `overlay` out, of `size` bytes.
    pub fn new(overlay: Arc<Overlay>, size: u64) -> Self {
        Self {
            overlay,
            size,
            suspects: Suspects::default(),
        }
    }
}

impl Export for OverlayExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        let mut info = overlay_info(self.size);
        let snapshots = self.overlay.snapshot_ids();
        info.contexts.extend(snapshot::contexts(&snapshots));
        Ok(info)
    }

    fn owner(&self) -> Option<String> {
        Some(self.overlay.id().as_str().to_owned())
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        Ok(Arc::new(OverlayDevice::new(
            Arc::new(self.overlay.attach()),
            &self.suspects,
        )))
    }
}

/// A fresh overlay for each connection, gone when it ends.
pub struct CowExport {
    copies: Arc<Copies>,
    base: Arc<dyn Base>,
    size: u64,
    quota: Option<u64>,
    next: AtomicU64,
    suspects: Suspects,
}

/// The store of the copies, and its folder, which is gone when the last of them is.
struct Copies {
    store: Store,
    _folder: TempDir,
}

impl CowExport {
    /// Makes overlays over `base` in a folder of their own below `place`, each of at most `quota` bytes. With less
    /// than `low_water` bytes free there they stop growing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn new(
        place: &Path,
        base: Arc<dyn Base>,
        quota: Option<u64>,
        low_water: u64,
    ) -> anyhow::Result<Self> {
        let naming = || format!("cannot make a folder for copies in {}", place.display());
        std::fs::create_dir_all(place).with_context(naming)?;
        let folder = tempfile::tempdir_in(place).with_context(naming)?;
        let options = overlay::Options {
            low_water,
            ..Default::default()
        };
        let store = Store::open(folder.path(), options)?;
        Ok(Self {
            copies: Arc::new(Copies {
                store,
                _folder: folder,
            }),
            size: base.size(),
            base,
            quota,
            next: AtomicU64::new(1),
            suspects: Suspects::default(),
        })
    }

    fn make(&self) -> overlay::Result<Arc<Overlay>> {
        let id = OverlayId::new(format!("c{}", self.next.fetch_add(1, Relaxed)))?;
        let spec = OverlaySpec {
            size: self.size,
            quota: self.quota,
            retention: Retention::Discard,
            base: self.base.clone(),
        };
        self.copies.store.create(&id, spec)
    }
}

impl Export for CowExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        Ok(overlay_info(self.size))
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        let overlay = self
            .make()
            .map_err(|error| Refusal::new(OptionError::Policy, error.to_string()))?;
        let device = OverlayDevice::new(Arc::new(overlay.attach()), &self.suspects);
        Ok(Arc::new(Passing {
            device,
            copies: self.copies.clone(),
            id: overlay.id().clone(),
        }))
    }
}

/// A device whose overlay is deleted with it.
struct Passing {
    device: OverlayDevice,
    copies: Arc<Copies>,
    id: OverlayId,
}

impl Drop for Passing {
    fn drop(&mut self) {
        if let Err(error) = self.copies.store.delete(&self.id) {
            tracing::warn!("cannot delete the overlay of a closed connection: {error}");
        }
    }
}

impl Device for Passing {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.device.read(buf, offset)
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        self.device.try_read(buf, offset)
    }

    fn segments(&self, range: Range<u64>, out: &mut Vec<Segment>) -> Result<(), Fault> {
        self.device.segments(range, out)
    }

    fn resident(&self, range: Range<u64>) -> Option<BorrowedFd<'_>> {
        self.device.resident(range)
    }

    fn mapped(&self, range: Range<u64>) -> Result<Option<Mapped<'_>>, Fault> {
        self.device.mapped(range)
    }

    fn rest(&self) {
        self.device.rest();
    }

    fn distrust(&self) {
        self.device.distrust();
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Fault> {
        self.device.write(data, offset)
    }

    fn flush(&self) -> Result<(), Fault> {
        self.device.flush()
    }

    fn trim(&self, range: Range<u64>) -> Result<(), Fault> {
        self.device.trim(range)
    }

    fn zero(&self, range: Range<u64>, may_hole: bool, only_fast: bool) -> Result<(), Fault> {
        self.device.zero(range, may_hole, only_fast)
    }

    fn cache(&self, range: Range<u64>) -> Result<(), Fault> {
        self.device.cache(range)
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        self.device.status(range, most)
    }
}

#[cfg(test)]
mod tests {
    use overlay::{Digest, FileBase};

    use super::*;

    const SIZE: u64 = 64 << 10;

    /// Copies over a base of data; and the folder that all of it is in.
    fn copies() -> (tempfile::TempDir, CowExport) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        std::fs::write(&image, vec![7; SIZE as usize]).unwrap();
        let id = BaseId {
            version: uuid::Uuid::nil(),
            digest: Digest([7; 32]),
        };
        let base = Arc::new(FileBase::open(&image, id).unwrap());
        let export = CowExport::new(dir.path(), base, None, 0).unwrap();
        (dir, export)
    }

    fn sources(device: &dyn Device) -> Vec<Source> {
        let mut segments = Vec::new();
        device.segments(0..SIZE, &mut segments).unwrap();
        segments.into_iter().map(|segment| segment.source).collect()
    }

    #[test]
    fn a_file_that_failed_one_device_is_sent_by_none() {
        let (_dir, export) = copies();
        let (one, other) = (export.open().unwrap(), export.open().unwrap());
        assert_eq!(sources(&*other), [Source::File]);
        one.distrust();
        assert_eq!(sources(&*other), [Source::Stored]);
        assert_eq!(sources(&*export.open().unwrap()), [Source::Stored]);
    }

    /// The client of an overlay whose data file failed under a reply comes back, and is told by a checked read.
    #[test]
    fn an_overlay_that_failed_is_lent_no_more_and_its_base_still_is() {
        let (_dir, export) = copies();
        let overlay = export.make().unwrap();
        let open = || OverlayDevice::new(Arc::new(overlay.attach()), &export.suspects);
        let device = open();
        device.write(&[1; 4096], 0).unwrap();
        assert!(matches!(device.mapped(0..4096), Ok(Some(Mapped::Own(_)))));
        device.distrust();
        let device = open();
        assert!(matches!(device.mapped(0..4096), Ok(None)));
        assert!(device.mapped(4096..8192).unwrap().is_some(), "of the base");
        let other = export.open().unwrap();
        other.write(&[1; 4096], 0).unwrap();
        assert!(other.mapped(0..4096).unwrap().is_some(), "of another");
        device.distrust();
        assert!(matches!(device.mapped(4096..8192), Ok(None)));
    }

    #[test]
    fn a_deleted_overlay_is_gone_and_no_input_output_error() {
        let (_dir, export) = copies();
        let overlay = export.make().unwrap();
        let device = OverlayDevice::new(Arc::new(overlay.attach()), &export.suspects);
        device.write(&[1; 512], 0).unwrap();
        export.copies.store.delete(overlay.id()).unwrap();
        let is_gone = |result| matches!(result, Err(Fault::Gone));
        assert!(is_gone(device.read(&mut [0; 512], 0)));
        assert!(is_gone(device.write(&[1; 512], 0)));
        assert!(is_gone(device.flush()));
    }
}
