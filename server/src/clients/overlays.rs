//! Where the machines' overlays are made, changed and opened: on this server alone, or on both of a pair.

use std::{ops::Deref, sync::Arc};

use images::VersionId;
use overlay::{
    Base, BaseId, ErrorKind as OverlayError, Limits, Overlay, OverlayId, OverlaySpec, Snapshot,
    SnapshotName, Store,
};
use pxe::Mac;

use super::error::{Error, Result};
use crate::service::{
    Device,
    devices::{OverlayDevice, Suspects},
};

/// An overlay that somebody uses: a connection, a commit, who takes a snapshot.
pub struct Held(Arc<Overlay>);

impl Held {
    /// Holds `overlay` as long as it lives.
    pub fn new(overlay: Arc<Overlay>) -> Arc<Self> {
        Arc::new(Held(overlay))
    }

    /// The overlay.
    pub fn overlay(&self) -> &Arc<Overlay> {
        &self.0
    }
}

impl Deref for Held {
    type Target = Overlay;

    fn deref(&self) -> &Overlay {
        &self.0
    }
}

/// Finds the version below an overlay.
pub type Resolve<'a> = &'a dyn Fn(&BaseId) -> Option<Arc<dyn Base>>;

/// Whose keys and certificates.
#[derive(Debug, Clone, Copy)]
pub enum Whose<'a> {
    /// The site's and all machines'.
    All,
    /// One machine's.
    Machine {
        /// Which.
        mac: Mac,
        /// Its name: certificates are filed under that.
        name: &'a str,
    },
}

/// Every change of an overlay that is not a write of its machine goes through this.
pub trait Overlays: Send + Sync {
    /// The overlays of this server, for looking at.
    fn store(&self) -> &Store;

    /// Puts an empty overlay in the place of what there is, whatever state that is in.
    ///
    /// # Errors
    /// When it cannot be made; what is there stays then.
    fn make(&self, id: &OverlayId, spec: OverlaySpec) -> Result<Arc<Overlay>>;

    /// Opens an overlay that is there.
    ///
    /// # Errors
    /// When it cannot be opened.
    fn open(&self, id: &OverlayId, resolve: Resolve<'_>) -> Result<Arc<Overlay>>;

    /// Throws an overlay away; it need not be there.
    ///
    /// # Errors
    /// When it cannot be.
    fn delete(&self, id: &OverlayId) -> Result<()>;

    /// Holds an overlay to other limits.
    ///
    /// # Errors
    /// When that cannot be noted; the old ones stay then.
    fn set_limits(&self, overlay: &Overlay, limits: Limits) -> Result<()>;

    /// Takes a snapshot; `taken` is in seconds since 1970.
    ///
    /// # Errors
    /// When it cannot be taken.
    fn snapshot(
        &self,
        overlay: &Overlay,
        name: &SnapshotName,
        taken: u64,
    ) -> overlay::Result<Snapshot>;

    /// Drops a snapshot.
    ///
    /// # Errors
    /// When it cannot be dropped.
    fn drop_snapshot(&self, overlay: &Overlay, name: &SnapshotName) -> overlay::Result<()>;

    /// Whether machines may be given a version: whoever could take over must have it, too.
    fn may_boot(&self, _version: VersionId) -> bool {
        true
    }

    /// Takes an overlay away from whoever has it.
    fn evict(&self, overlay: &Overlay);

    /// Serves an overlay to one connection.
    ///
    /// # Errors
    /// When it cannot be served.
    fn serve(&self, held: Arc<Held>, suspects: &Suspects) -> Result<Arc<dyn Device>>;

    /// Makes keys and certificates that were made meanwhile as lasting as the disks are, before anybody is told of them.
    ///
    /// # Errors
    /// When they cannot be.
    fn keep_keys(&self, whose: Whose<'_>) -> Result<()>;
}

impl Overlays for Store {
    fn store(&self) -> &Store {
        self
    }

    fn make(&self, id: &OverlayId, spec: OverlaySpec) -> Result<Arc<Overlay>> {
        let made = match self.info(id) {
            Err(error) if error.kind() == OverlayError::NotFound => self.create(id, spec),
            _ => self.reset(id, spec),
        };
        made.map_err(|error| Error::disk(format!("cannot make overlay {id}"), error))
    }

    fn open(&self, id: &OverlayId, resolve: Resolve<'_>) -> Result<Arc<Overlay>> {
        let failed = |error| Error::disk(format!("cannot open overlay {id}"), error);
        self.open_overlay(id, resolve).map_err(failed)
    }

    fn delete(&self, id: &OverlayId) -> Result<()> {
        match Store::delete(self, id) {
            Err(error) if error.kind() != OverlayError::NotFound => {
                Err(Error::disk(format!("cannot delete overlay {id}"), error))
            }
            _ => Ok(()),
        }
    }

    fn set_limits(&self, overlay: &Overlay, limits: Limits) -> Result<()> {
        let failed = |error| Error::disk(format!("overlay {}", overlay.id()), error);
        overlay.set_limits(limits).map_err(failed)
    }

    fn snapshot(
        &self,
        overlay: &Overlay,
        name: &SnapshotName,
        taken: u64,
    ) -> overlay::Result<Snapshot> {
        overlay.snapshot(name, taken)
    }

    fn drop_snapshot(&self, overlay: &Overlay, name: &SnapshotName) -> overlay::Result<()> {
        overlay.drop_snapshot(name)
    }

    fn evict(&self, overlay: &Overlay) {
        overlay.evict();
    }

    fn serve(&self, held: Arc<Held>, suspects: &Suspects) -> Result<Arc<dyn Device>> {
        let attachment = Arc::new(held.overlay().attach());
        Ok(Arc::new(
            OverlayDevice::new(attachment, suspects).holding(held),
        ))
    }

    fn keep_keys(&self, _whose: Whose<'_>) -> Result<()> {
        Ok(())
    }
}
