//! The disks of clients: which overlay over which version a boot gets, and when it is made afresh.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use images::{Catalogue, ImageName, ImageRef, Version, VersionDisk, VersionId};
use overlay::{
    Base, BaseId, ErrorKind as OverlayError, Limits, Overlay, OverlayId, OverlayInfo, OverlaySpec,
    Store,
};
use parking_lot::Mutex;
use pxe::Mac;

use super::{
    directory::Profile,
    error::{Error, ErrorKind, Result},
    overlays::{Held, Overlays},
    versions::OpenVersions,
};
use crate::config::units::Retention;

/// Overlays and the versions below them.
pub struct Disks {
    overlays: Arc<dyn Overlays>,
    versions: Arc<OpenVersions>,
    in_use: Mutex<HashMap<OverlayId, Weak<Held>>>,
}

/// An overlay, as its store lists it.
pub type Listed = (OverlayId, overlay::Result<OverlayInfo>);

impl Disks {
    /// Serves `overlays` over `versions`.
    pub fn new(overlays: Arc<dyn Overlays>, versions: Arc<OpenVersions>) -> Self {
        Disks {
            overlays,
            versions,
            in_use: Mutex::default(),
        }
    }

    /// What makes, changes and serves overlays.
    pub fn overlays(&self) -> &Arc<dyn Overlays> {
        &self.overlays
    }

    fn store(&self) -> &Store {
        self.overlays.store()
    }

    /// The versions.
    pub fn catalogue(&self) -> &Catalogue {
        self.versions.catalogue()
    }

    /// What is known of an overlay; nothing if there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read.
    pub fn info(&self, id: &OverlayId) -> Result<Option<OverlayInfo>> {
        match self.store().info(id) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == OverlayError::NotFound => Ok(None),
            Err(error) => Err(Error::disk(format!("cannot read overlay {id}"), error)),
        }
    }

    /// Every overlay with what is known of it.
    ///
    /// # Errors
    /// When the directory of overlays cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        self.store().list().map_err(unlisted)
    }

    /// The overlays of one machine: one for each image that it has booted. Those of others are not read.
    ///
    /// # Errors
    /// When the directory of overlays cannot be read.
    pub fn of_machine(&self, mac: Mac) -> Result<Vec<Listed>> {
        let ids = self.store().ids().map_err(unlisted)?;
        let own = ids.into_iter().filter(|id| owner(id) == Some(mac));
        let listed = own.map(|id| (id.clone(), self.store().info(&id)));
        Ok(listed.collect())
    }

    /// Every overlay with the version that it is bound to; one that cannot be read is an error, since what it
    /// needs is then unknown.
    ///
    /// # Errors
    /// When an overlay cannot be read.
    pub fn bindings(&self) -> Result<Vec<(OverlayId, VersionId)>> {
        let mut bindings = Vec::new();
        for (id, info) in self.list()? {
            let info = info.map_err(unlisted)?;
            bindings.push((id, version_of(&info.base)));
        }
        Ok(bindings)
    }

    /// The version whose kernel a machine must boot now: the one its overlay is bound to, or, if the overlay is
    /// to be fresh, the one that the configuration names.
    ///
    /// # Errors
    /// When there is no such version.
    pub fn version_to_boot(
        &self,
        mac: Mac,
        image: &ImageRef,
        retention: Retention,
        fresh: bool,
    ) -> Result<Version> {
        let bound = match fresh || retention == Retention::Boot {
            true => None,
            false => self.info(&overlay_id(mac, &image.image))?,
        };
        match bound {
            Some(info) => self.versions.find(version_of(&info.base)),
            None => self.resolve(image),
        }
    }

    /// The version that is meant; or, where the standby does not have that one yet, the one before it that it has.
    fn resolve(&self, image: &ImageRef) -> Result<Version> {
        let failed = |error| Error::disk(format!("cannot boot image {image}"), error);
        let meant = self.catalogue().resolve(image).map_err(failed)?;
        let may = |version: &Version| self.overlays.may_boot(version.id());
        if image.number.is_some() || may(&meant) {
            return Ok(meant);
        }
        let images = self.catalogue().list().map_err(failed)?;
        let versions = images.into_iter().filter(|one| one.name == image.image);
        let older = versions
            .flat_map(|one| one.versions)
            .filter(|version| version.number() < meant.number() && may(version))
            .max_by_key(Version::number);
        Ok(older.unwrap_or(meant))
    }

    /// A version's disk, which all that use it share.
    ///
    /// # Errors
    /// When it is not in the catalogue any more, or damaged.
    pub fn open_version(&self, id: VersionId) -> Result<Arc<VersionDisk>> {
        self.versions.open(id)
    }

    /// Size in bytes of the disk that a boot gets.
    ///
    /// # Errors
    /// When overlay or version cannot be read.
    pub fn size(
        &self,
        id: &OverlayId,
        profile: Option<&Profile>,
        version: VersionId,
        fresh: bool,
    ) -> Result<u64> {
        let existing = if fresh { None } else { self.info(id)? };
        match existing {
            Some(info) => Ok(info.size),
            None => Ok(size_of(profile, self.versions.find(version)?.size())),
        }
    }

    /// Puts an empty overlay over `version` in the place of what the machine has, whatever state that is in.
    ///
    /// # Errors
    /// When it cannot be made; what is there stays then.
    pub fn make(
        &self,
        id: &OverlayId,
        profile: Option<&Profile>,
        version: VersionId,
    ) -> Result<Arc<Held>> {
        let base = self.open_version(version)?;
        let limits = limits_of(profile);
        let spec = OverlaySpec {
            size: size_of(profile, base.size()),
            quota: limits.quota,
            retention: limits.retention,
            base,
        };
        Ok(self.hold(Held::new(self.overlays.make(id, spec)?)))
    }

    /// Remembers which overlay is in use. A hold that there is already is shared.
    fn hold(&self, held: Arc<Held>) -> Arc<Held> {
        let mut in_use = self.in_use.lock();
        let known = in_use.get(held.id()).and_then(Weak::upgrade);
        let same = known.filter(|known| Arc::ptr_eq(known.overlay(), held.overlay()));
        let held = same.unwrap_or(held);
        in_use.insert(held.id().clone(), Arc::downgrade(&held));
        held
    }

    /// An overlay, opened without taking it over.
    ///
    /// # Errors
    /// When it is not there, or cannot be opened.
    pub fn open_existing(&self, id: &OverlayId) -> Result<Arc<Held>> {
        if self.info(id)?.is_none() {
            let context = "its disk is not there: it was reset, or has never booted";
            return Err(Error::new(ErrorKind::NotBootable, context));
        }
        Ok(self.hold(Held::new(self.open(id)?)))
    }

    /// Holds a machine's overlay to what the configuration says by now. A host that cannot note it is no reason to
    /// keep the machine from its disk: the old limits stay then.
    pub fn apply_limits(&self, overlay: &Overlay, profile: &Profile) {
        if let Err(error) = self.overlays.set_limits(overlay, limits_of(Some(profile))) {
            tracing::warn!(
                "overlay {}: its limits stay as they were: {}",
                overlay.id(),
                error.with_causes()
            );
        }
    }

    /// The version that an overlay is bound to.
    ///
    /// # Errors
    /// When it is no longer in the catalogue.
    pub fn base_of(&self, overlay: &Overlay) -> Result<Version> {
        self.versions.find(version_of(&overlay.info().base))
    }

    fn open(&self, id: &OverlayId) -> Result<Arc<Overlay>> {
        let resolve = |base: &BaseId| {
            let disk = self.open_version(version_of(base));
            disk.inspect_err(|error| tracing::warn!("overlay {id}: {error}"))
                .ok()
                .map(|d| d as Arc<dyn Base>)
        };
        self.overlays.open(id, &resolve)
    }

    /// Whether a connection, or a commit, has the overlay now.
    pub fn in_use(&self, id: &OverlayId) -> bool {
        let in_use = self.in_use.lock();
        in_use.get(id).is_some_and(|one| one.strong_count() > 0)
    }

    /// Whether a connection, or a commit, has an overlay of the machine now.
    pub fn machine_in_use(&self, mac: Mac) -> bool {
        let in_use = self.in_use.lock();
        let mut live = in_use.iter().filter(|(_, one)| one.strong_count() > 0);
        live.any(|(id, _)| owner(id) == Some(mac))
    }

    /// Takes the machine's disks away from whoever has them, but for `kept`: it boots another image now.
    pub fn evict_others(&self, mac: Mac, kept: &OverlayId) {
        let mut others = Vec::new();
        for (id, overlay) in self.in_use.lock().iter() {
            let other = owner(id) == Some(mac) && id != kept;
            others.extend(overlay.upgrade().filter(|_| other));
        }
        others.iter().for_each(|held| self.overlays.evict(held));
    }

    /// Throws an overlay away; it need not be there.
    ///
    /// # Errors
    /// When the store cannot.
    pub fn delete(&self, id: &OverlayId) -> Result<()> {
        self.overlays.delete(id)
    }
}

fn unlisted(error: overlay::Error) -> Error {
    Error::disk("cannot list the overlays", error)
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

/// The version that an overlay's base is.
pub(super) fn version_of(base: &BaseId) -> VersionId {
    VersionId::from_uuid(base.version)
}

/// An overlay is filed under its machine's address and its image, so that two machines can never share one, and a machine
/// that boots another image finds its disk of the first as it was: `525400120001-debian`. An image whose name the
/// store does not take is replaced by its digest.
pub fn overlay_id(mac: Mac, image: &ImageName) -> OverlayId {
    let plain = OverlayId::new(format!("{}-{}", mac.hex(), image.as_str()));
    plain.unwrap_or_else(|_| {
        let digest = blake3::hash(image.as_str().as_bytes()).to_hex();
        // Two dashes: no image's name begins with one.
        let name = format!("{}--{}", mac.hex(), &digest[..32]);
        OverlayId::new(name).unwrap_or_else(|_| unreachable!("hex digits name an overlay"))
    })
}

/// The machine that an overlay is filed under; none for a name that is not of [`overlay_id`]'s making.
pub fn owner(id: &OverlayId) -> Option<Mac> {
    let (mac, _image) = id.as_str().split_once('-')?;
    mac_of(mac)
}

/// The address that these digits are, written as [`Mac::hex`] does.
pub(super) fn mac_of(hex: &str) -> Option<Mac> {
    let mac: Mac = hex.parse().ok()?;
    (mac.hex() == hex).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_and_image_has_a_file_of_its_own() {
        let one = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
        let id = |image: &str| overlay_id(one, &image.parse().unwrap());
        assert_eq!(id("debian").as_str(), "525400120001-debian");
        let long = "a".repeat(64);
        let names = ["a.b", "a_b", "a-b", "ab", &long, &long[..63]];
        let ids: std::collections::HashSet<_> = names.into_iter().map(id).collect();
        assert_eq!(ids.len(), names.len());
        assert!(ids.iter().all(|id| owner(id) == Some(one)));
        assert!(!ids.iter().any(|id| owner(id) == Some(Mac([0; 6]))));
    }
}
