//! The disks of clients: which overlay over which version a boot gets, and when it is made afresh.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use images::{Catalogue, ImageRef, Version, VersionDisk, VersionId};
use overlay::{
    Base, BaseId, ErrorKind as OverlayError, Limits, Overlay, OverlayId, OverlayInfo, OverlaySpec,
    Store,
};
use parking_lot::Mutex;
use pxe::Mac;

use super::{
    directory::Profile,
    error::{Error, ErrorKind, Result},
};
use crate::config::units::Retention;

/// Overlays and the versions below them.
pub struct Disks {
    store: Store,
    catalogue: Catalogue,
    /// Versions that somebody uses: all overlays of a version share one open disk and its memory map.
    open_versions: Mutex<HashMap<VersionId, Weak<VersionDisk>>>,
    in_use: Mutex<HashMap<Mac, Weak<Overlay>>>,
}

impl Disks {
    /// Serves the overlays of `store` over the versions of `catalogue`.
    pub fn new(store: Store, catalogue: Catalogue) -> Self {
        Disks {
            store,
            catalogue,
            open_versions: Mutex::default(),
            in_use: Mutex::default(),
        }
    }

    /// The versions.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// What is known of a machine's overlay; nothing if it has none.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn info(&self, mac: Mac) -> Result<Option<OverlayInfo>> {
        match self.store.info(&overlay_id(mac)) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == OverlayError::NotFound => Ok(None),
            Err(error) => Err(Error::disk(
                format!("cannot read the overlay of {mac}"),
                error,
            )),
        }
    }

    /// Every overlay with the version that it is bound to; one that cannot be read is an error, since what it
    /// needs is then unknown.
    ///
    /// # Errors
    /// When an overlay cannot be read.
    pub fn bindings(&self) -> Result<Vec<(OverlayId, VersionId)>> {
        let failed = |error| Error::disk("cannot list the overlays", error);
        let mut bindings = Vec::new();
        for (id, info) in self.store.list().map_err(failed)? {
            let info = info.map_err(failed)?;
            bindings.push((id, version_of(&info.base)));
        }
        Ok(bindings)
    }

    /// The version whose kernel a machine must boot now: the one its overlay is bound to, or, if the overlay is
    /// to be fresh, the one that the configuration names.
    ///
    /// # Errors
    /// When there is no such version.
    pub fn version_to_boot(&self, mac: Mac, profile: &Profile, fresh: bool) -> Result<Version> {
        let bound = match fresh || profile.retention == Retention::Boot {
            true => None,
            false => self.info(mac)?,
        };
        match bound {
            Some(info) => self.find(version_of(&info.base)),
            None => self.resolve(profile.image.as_ref()),
        }
    }

    fn resolve(&self, image: Option<&ImageRef>) -> Result<Version> {
        let none = "no image is configured for it: add image = \"…\" to its group";
        let image = image.ok_or_else(|| Error::new(ErrorKind::NotBootable, none))?;
        let failed = |error| Error::disk(format!("cannot boot image {image}"), error);
        self.catalogue.resolve(image).map_err(failed)
    }

    fn find(&self, id: VersionId) -> Result<Version> {
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
    pub fn open_version(&self, id: VersionId) -> Result<Arc<VersionDisk>> {
        let mut open = self.open_versions.lock();
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

    /// Size in bytes of the disk that a boot gets.
    ///
    /// # Errors
    /// When overlay or version cannot be read.
    pub fn size(
        &self,
        mac: Mac,
        profile: Option<&Profile>,
        version: VersionId,
        fresh: bool,
    ) -> Result<u64> {
        let existing = if fresh { None } else { self.info(mac)? };
        match existing {
            Some(info) => Ok(info.size),
            None => Ok(size_of(profile, self.find(version)?.size())),
        }
    }

    /// Puts an empty overlay over `version` in the place of what the machine has, whatever state that is in.
    ///
    /// # Errors
    /// When it cannot be made; what is there stays then.
    pub fn make(
        &self,
        mac: Mac,
        profile: Option<&Profile>,
        version: VersionId,
    ) -> Result<Arc<Overlay>> {
        let id = overlay_id(mac);
        let base = self.open_version(version)?;
        let limits = limits_of(profile);
        let spec = OverlaySpec {
            size: size_of(profile, base.size()),
            quota: limits.quota,
            retention: limits.retention,
            base,
        };
        let made = match self.info(mac) {
            Ok(None) => self.store.create(&id, spec),
            _ => self.store.reset(&id, spec),
        };
        let made = made.map_err(|error| Error::disk(format!("cannot make overlay {id}"), error))?;
        Ok(self.note(mac, made))
    }

    /// Remembers which overlay is in use.
    fn note(&self, mac: Mac, overlay: Arc<Overlay>) -> Arc<Overlay> {
        self.in_use.lock().insert(mac, Arc::downgrade(&overlay));
        overlay
    }

    /// A machine's overlay, opened without taking it over.
    ///
    /// # Errors
    /// When it has none, or it cannot be opened.
    pub fn open_existing(&self, mac: Mac) -> Result<Arc<Overlay>> {
        if self.info(mac)?.is_none() {
            let context = "its disk is not there: it was reset, or has never booted";
            return Err(Error::new(ErrorKind::NotBootable, context));
        }
        Ok(self.note(mac, self.open(&overlay_id(mac))?))
    }

    /// Holds a machine's overlay to what the configuration says by now. A host that cannot note it is no reason to
    /// keep the machine from its disk: the old limits stay then.
    pub fn apply_limits(&self, overlay: &Overlay, profile: &Profile) {
        if let Err(error) = overlay.set_limits(limits_of(Some(profile))) {
            tracing::warn!(
                "overlay {}: its limits stay as they were: {error}",
                overlay.id()
            );
        }
    }

    /// The version that an overlay is bound to.
    ///
    /// # Errors
    /// When it is no longer in the catalogue.
    pub fn base_of(&self, overlay: &Overlay) -> Result<Version> {
        self.find(version_of(&overlay.info().base))
    }

    fn open(&self, id: &OverlayId) -> Result<Arc<Overlay>> {
        let resolve = |base: &BaseId| {
            let disk = self.open_version(version_of(base));
            disk.inspect_err(|error| tracing::warn!("overlay {id}: {error}"))
                .ok()
                .map(|d| d as Arc<dyn Base>)
        };
        let failed = |error| Error::disk(format!("cannot open overlay {id}"), error);
        self.store.open_overlay(id, &resolve).map_err(failed)
    }

    /// Whether a connection, or a commit, has the machine's disk now.
    pub fn in_use(&self, mac: Mac) -> bool {
        self.in_use
            .lock()
            .get(&mac)
            .is_some_and(|overlay| overlay.strong_count() > 0)
    }

    /// Throws a machine's overlay away.
    ///
    /// # Errors
    /// When the store cannot.
    pub fn delete(&self, mac: Mac) -> Result<()> {
        match self.store.delete(&overlay_id(mac)) {
            Err(error) if error.kind() != OverlayError::NotFound => Err(Error::disk(
                format!("cannot delete the overlay of {mac}"),
                error,
            )),
            _ => Ok(()),
        }
    }
}

fn size_of(profile: Option<&Profile>, version: images::Bytes) -> u64 {
    profile
        .and_then(|profile| profile.size)
        .map_or(version.get(), |size| size.0)
}

fn limits_of(profile: Option<&Profile>) -> Limits {
    let retention = profile.map(|profile| profile.retention).unwrap_or_default();
    Limits {
        quota: profile.and_then(|profile| Some(profile.quota?.0)),
        retention: match retention {
            Retention::Keep => overlay::Retention::Keep,
            Retention::Boot | Retention::Session => overlay::Retention::Discard,
        },
    }
}

fn version_of(base: &BaseId) -> VersionId {
    VersionId::from_uuid(base.version)
}

/// An overlay is filed under its machine's address, so that two machines can never share one.
pub fn overlay_id(mac: Mac) -> OverlayId {
    let name = mac.hex();
    OverlayId::new(name.clone())
        .unwrap_or_else(|_| unreachable!("hex digits name an overlay: {name}"))
}
