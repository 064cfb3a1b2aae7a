//! Overlays that both servers have.

use std::{sync::Arc, time::Duration};

use images::VersionId;
use mirror::VolumeId;
use overlay::{
    ErrorKind as OverlayError, Limits, Overlay, OverlayId, OverlaySpec, Snapshot, SnapshotName,
    Store,
};
use parking_lot::Mutex;

use super::{device::PairDevice, keys::Keys};
use crate::{
    clients::{
        error::{Error, ErrorKind, Result},
        overlays::{Held, Overlays, Resolve, Whose},
    },
    mirror::{
        driver::Mirror,
        pair::Pair,
        store::{
            PairStore,
            record::{Record, VolumeSpec},
        },
    },
    service::{
        Device,
        devices::{OverlayDevice, Suspects},
    },
};

/// How long a machine waits for its disk before it is sent away to come again: less than the 5 s that the agent waits in
/// a handshake.
const ATTACH: Duration = Duration::from_secs(4);

/// The overlays of a pair, as its primary changes them.
pub struct PairOverlays {
    pair: Arc<Pair>,
    mirror: Arc<Mirror>,
    store: Arc<Store>,
    reign: u64,
    keys: Mutex<Keys>,
}

impl PairOverlays {
    /// The overlays of `pair`, in one reign.
    ///
    /// # Errors
    /// The keys and certificates there are cannot be read.
    pub fn new(pair: Arc<Pair>, reign: u64) -> std::io::Result<Self> {
        let keys = Keys::new(pair.mirror.store().data.clone())?;
        Ok(Self {
            mirror: pair.mirror.clone(),
            store: pair.overlays.clone(),
            reign,
            pair,
            keys: Mutex::new(keys),
        })
    }

    fn volume(&self, id: &OverlayId) -> Result<(VolumeId, VolumeSpec)> {
        self.mirror.store().volumes.of(id).ok_or_else(|| {
            let text = format!("overlay {id} is no disk of the pair");
            Error::new(ErrorKind::Disk, text)
        })
    }

    fn record(&self, volume: Option<VolumeId>, records: &[Record], what: &str) -> Result<()> {
        let done = self.mirror.record(self.reign, volume, records);
        done.map_err(|error| Error::disk(format!("cannot {what} on both servers"), error))
    }

    fn overlay(&self, id: &OverlayId) -> Result<Arc<Overlay>> {
        let (volume, _) = self.volume(id)?;
        let failed = |error| Error::disk(format!("cannot open overlay {id}"), error);
        let overlay = self.mirror.store().volumes.overlay(volume);
        overlay
            .map_err(failed)?
            .ok_or_else(|| Error::new(ErrorKind::Disk, format!("overlay {id} was deleted")))
    }

    /// Takes or drops a snapshot on both.
    fn snapshot_record(
        &self,
        overlay: &Overlay,
        name: &SnapshotName,
        taken: Option<u64>,
    ) -> overlay::Result<()> {
        let failed = |text: String| overlay::Error::new(OverlayError::Io, text);
        let found = self.volume(overlay.id());
        let (volume, _) = found.map_err(|error| failed(error.with_causes()))?;
        let record = Record::Snapshot {
            volume: volume.into(),
            name: name.clone(),
            taken,
        };
        // Nobody waits for a snapshot that is dropped.
        let about = taken.is_some().then_some(volume);
        let done = self.mirror.record(self.reign, about, &[record]);
        done.map_err(|error| failed(error.to_string()))
    }
}

impl Overlays for PairOverlays {
    fn store(&self) -> &Store {
        &self.store
    }

    fn make(&self, id: &OverlayId, spec: OverlaySpec) -> Result<Arc<Overlay>> {
        let fresh = PairStore::fresh_volume();
        let fresh = fresh.map_err(|error| Error::disk("cannot make a disk", error))?;
        let spec = VolumeSpec {
            overlay: id.clone(),
            base: *spec.base.id(),
            base_size: spec.base.size(),
            size: spec.size,
            quota: spec.quota,
            retention: spec.retention,
        };
        let made = Record::Volume {
            volume: fresh,
            spec: Some(spec),
        };
        // Nothing of what was there is under way any more, then the new one takes its place.
        let older = self.mirror.store().volumes.of(id).map(|(volume, _)| volume);
        if older.is_none() {
            // What fails here after the other server has it ends the session: refuse it before anybody is asked.
            let room = self.store.require_room();
            room.map_err(|error| Error::disk(format!("cannot make overlay {id}"), error))?;
        }
        self.record(older, &[made], "make a disk")?;
        self.overlay(id)
    }

    fn open(&self, id: &OverlayId, _resolve: Resolve<'_>) -> Result<Arc<Overlay>> {
        self.overlay(id)
    }

    fn delete(&self, id: &OverlayId) -> Result<()> {
        let Some((volume, _)) = self.mirror.store().volumes.of(id) else {
            return Overlays::delete(&*self.store, id);
        };
        self.record(Some(volume), &[PairStore::removal(volume)], "delete a disk")
    }

    fn set_limits(&self, overlay: &Overlay, limits: Limits) -> Result<()> {
        let (volume, spec) = self.volume(overlay.id())?;
        let wanted = VolumeSpec {
            quota: limits.quota,
            retention: limits.retention,
            ..spec.clone()
        };
        if wanted == spec {
            return Ok(());
        }
        let record = Record::Volume {
            volume: volume.into(),
            spec: Some(wanted),
        };
        self.record(Some(volume), &[record], "change the limits of a disk")
    }

    fn snapshot(
        &self,
        overlay: &Overlay,
        name: &SnapshotName,
        taken: u64,
    ) -> overlay::Result<Snapshot> {
        if overlay.snapshots().iter().any(|known| known.name == *name) {
            let text = format!("snapshot {name}");
            return Err(overlay::Error::new(OverlayError::Exists, text));
        }
        self.snapshot_record(overlay, name, Some(taken))?;
        Ok(Snapshot {
            name: name.clone(),
            taken,
        })
    }

    fn drop_snapshot(&self, overlay: &Overlay, name: &SnapshotName) -> overlay::Result<()> {
        if !overlay.snapshots().iter().any(|known| known.name == *name) {
            let text = format!("snapshot {name}");
            return Err(overlay::Error::new(OverlayError::NotFound, text));
        }
        self.snapshot_record(overlay, name, None)
    }

    fn may_boot(&self, version: VersionId) -> bool {
        self.pair.may_boot(version)
    }

    /// Nothing: one connection of a machine ends before the next opens a disk, whichever, and the pair knows which one it
    /// was.
    fn evict(&self, _overlay: &Overlay) {}

    fn serve(&self, held: Arc<Held>, suspects: &Suspects) -> Result<Arc<dyn Device>> {
        let id = held.id().clone();
        let failed = |error| Error::disk(format!("overlay {id} cannot be served"), error);
        let (volume, _) = self.volume(&id)?;
        let attached = self.mirror.attach(volume, ATTACH).map_err(failed)?;
        let failed = |error| Error::disk(format!("cannot open overlay {id}"), error);
        let attachment = self.mirror.store().volumes.attachment(volume);
        let attachment = attachment
            .map_err(failed)?
            .ok_or_else(|| Error::new(ErrorKind::Disk, format!("overlay {id} was deleted")))?;
        let disk = OverlayDevice::new(attachment, suspects).holding(held);
        Ok(Arc::new(PairDevice::new(
            disk,
            self.mirror.clone(),
            attached,
        )))
    }

    fn keep_keys(&self, whose: Whose<'_>) -> Result<()> {
        let mut keys = self.keys.lock();
        let failed = |error| Error::identity("cannot read the machines' keys", error);
        let found = keys.news(whose).map_err(failed)?;
        if matches!(whose, Whose::All) {
            *self.mirror.store().left_out.lock() = found.left_out;
        }
        let news = found.records;
        if news.is_empty() {
            return Ok(());
        }
        self.record(None, &news, "keep a machine's keys")?;
        keys.told(news);
        Ok(())
    }
}
