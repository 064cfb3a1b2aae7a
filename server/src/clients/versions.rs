//! The versions that somebody uses.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use images::{Catalogue, Version, VersionDisk, VersionId};
use parking_lot::Mutex;

use super::error::{Error, ErrorKind, Result};

/// All overlays of a version share one open disk and its memory map.
pub struct OpenVersions {
    catalogue: Catalogue,
    open: Mutex<HashMap<VersionId, Weak<VersionDisk>>>,
}

impl OpenVersions {
    /// Opens versions of `catalogue`.
    pub fn of(catalogue: Catalogue) -> Self {
        Self {
            catalogue,
            open: Mutex::default(),
        }
    }

    /// The versions that there are.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// A version.
    ///
    /// # Errors
    /// When it is not in the catalogue.
    pub fn find(&self, id: VersionId) -> Result<Version> {
        let failed = |error| Error::disk("cannot read the image catalogue", error);
        self.catalogue.find(id).map_err(failed)?.ok_or_else(|| {
            let context = format!(
                "image version {id} is no longer in the catalogue: restore it, or `bootroom client reset` \
                 gives the client a fresh disk over the current version"
            );
            Error::new(ErrorKind::NotBootable, context)
        })
    }

    /// A version's disk, which all that use it share.
    ///
    /// # Errors
    /// When it is not in the catalogue any more, or damaged.
    pub fn open(&self, id: VersionId) -> Result<Arc<VersionDisk>> {
        let mut open = self.open.lock();
        if let Some(disk) = open.get(&id).and_then(Weak::upgrade) {
            return Ok(disk);
        }
        let version = self.find(id)?;
        let failed = |error| Error::disk(format!("cannot open {version}"), error);
        let disk = Arc::new(version.open().map_err(failed)?);
        open.retain(|_, disk| disk.strong_count() > 0);
        open.insert(id, Arc::downgrade(&disk));
        Ok(disk)
    }
}
