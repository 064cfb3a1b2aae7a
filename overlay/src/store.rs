//! The folder of all overlays: made, opened, reset, deleted, listed.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::base::Base;
use crate::disk::HostDisk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{BaseId, OverlayId, SnapshotName};
use crate::layer::Trust;
use crate::layerfile;
use crate::manifest::{self, LayerEntry, Manifest};
use crate::overlay::{Overlay, OverlayInfo, info, open_stack};
use crate::space::{Pool, Retention};
use crate::storage::Storage;
use crate::trash::Emptying;

const LOCK: &str = ".lock";
const HALF_MADE: &str = ".new-";

/// How to run a store.
pub struct Options {
    /// The pool's low-water mark in bytes: with less free, no overlay is made and only kept ones grow. 0 is none.
    pub low_water: u64,
    /// Remove what was deleted on a thread of its own; otherwise [`Store::empty_trash`] must be called.
    pub background: bool,
    /// Bytes that [`Overlay::fold_snapshot`] moves between two syncs; a sixteenth of it may move with requests waiting.
    pub portion: u64,
    /// The host.
    pub host: Arc<dyn Storage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            low_water: 0,
            background: true,
            portion: 64 << 20,
            host: Arc::new(HostDisk),
        }
    }
}

/// What an overlay is to be.
pub struct OverlaySpec {
    /// Size of the disk in bytes: 4 KiB to 16 TiB in steps of 512; need not be the base's.
    pub size: u64,
    /// Most bytes of its own that it may hold; `None` for no limit.
    pub quota: Option<u64>,
    /// Whether it lasts.
    pub retention: Retention,
    /// What it lies over.
    pub base: Arc<dyn Base>,
}

pub(crate) type Slot = Arc<Mutex<Weak<Overlay>>>;

/// All overlays below one folder. One process at a time; calls may come from many threads.
pub struct Store {
    pub(crate) dir: PathBuf,
    pub(crate) host: Arc<dyn Storage>,
    pool: Arc<Pool>,
    slots: Mutex<HashMap<OverlayId, Slot>>,
    pub(crate) background: bool,
    portion: u64,
    pub(crate) emptying: Arc<Mutex<Emptying>>,
    _lock: Box<dyn Send + Sync>,
}

impl Store {
    /// Opens the store in `dir`, making the folder if need be, and clears away what a crash left half done.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`] while another process has it; [`ErrorKind::Io`].
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let host = options.host;
        let naming = || format!("opening the store {}", dir.display());
        make_dir(&*host, dir).context(naming)?;
        let pool = Pool::new(host.clone(), dir.to_owned(), options.low_water);
        let store = Self {
            _lock: lock(&*host, dir)?,
            dir: dir.to_owned(),
            pool: Arc::new(pool),
            slots: Mutex::default(),
            background: options.background,
            portion: options.portion,
            emptying: Arc::default(),
            host,
        };
        store.drop_half_made()?;
        store.tidy();
        Ok(store)
    }

    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let names = self.host.list(&self.dir);
        names.context(|| format!("listing {}", self.dir.display()))
    }

    fn drop_half_made(&self) -> Result<()> {
        let names = self.names()?;
        for name in names.iter().filter(|name| name.starts_with(HALF_MADE)) {
            self.discard(&self.dir.join(name))?;
        }
        Ok(())
    }

    pub(crate) fn slot(&self, id: &OverlayId) -> Slot {
        self.slots.lock().entry(id.clone()).or_default().clone()
    }

    pub(crate) fn path(&self, id: &OverlayId) -> PathBuf {
        self.dir.join(id.as_str())
    }

    /// Whether a new overlay may be made now, for who has to know before it is made.
    ///
    /// # Errors
    /// [`ErrorKind::PoolLow`] when it may not.
    pub fn require_room(&self) -> Result<()> {
        self.pool.require_room()
    }

    /// Whether changes are admitted elsewhere: then quotas and the low-water mark refuse nothing here, and only what the
    /// host cannot hold is an error. Not so at first.
    pub fn set_admitted(&self, admitted: bool) {
        self.pool.set_admitted(admitted);
    }

    /// Whether less is free than the low-water mark.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the host does not say.
    pub fn is_low(&self) -> Result<bool> {
        self.pool.is_low()
    }

    /// Makes an overlay. After a crash it is there wholly or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`], [`ErrorKind::PoolLow`], [`ErrorKind::NoSpace`], [`ErrorKind::Invalid`] for an
    /// impossible size.
    pub fn create(&self, id: &OverlayId, spec: OverlaySpec) -> Result<Arc<Overlay>> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        manifest::check_size(spec.size)?;
        self.pool.require_room()?;
        if self.exists(id)? {
            return Err(Error::new(ErrorKind::Exists, format!("overlay {id}")));
        }
        let draft = self
            .dir
            .join(format!("{HALF_MADE}{}", self.host.fresh_uuid()));
        let made = self.make(id, &draft, &spec);
        if made.is_err() {
            let _ = self.host.remove(&draft);
        }
        let overlay = self.load(id, &|_| Some(spec.base.clone()), made?)?;
        *slot = Arc::downgrade(&overlay);
        Ok(overlay)
    }

    fn exists(&self, id: &OverlayId) -> Result<bool> {
        Ok(self.names()?.iter().any(|name| name == id.as_str()))
    }

    /// Builds an overlay's folder as `draft` and gives it its name.
    fn make(&self, id: &OverlayId, draft: &Path, spec: &OverlaySpec) -> Result<Manifest> {
        let path = self.path(id);
        let naming = || format!("making overlay {id}");
        self.host.create_dir(draft).context(naming)?;
        let manifest = self.draft(draft, spec)?;
        manifest
            .replace(&*self.host, draft)
            .map_err(|e| e.into_error())?;
        // Opening it makes the name durable.
        self.host.rename(draft, &path).context(naming)?;
        Ok(manifest)
    }

    /// Makes the files of a fresh disk in `dir`, and the manifest that would put it in force.
    fn draft(&self, dir: &Path, spec: &OverlaySpec) -> Result<Manifest> {
        let layer = self.host.fresh_uuid();
        layerfile::create_files(&*self.host, dir, layer, spec.size)?;
        Ok(Manifest {
            incarnation: self.host.fresh_uuid(),
            size: spec.size,
            quota: spec.quota,
            retention: spec.retention,
            base: *spec.base.id(),
            base_size: spec.base.size(),
            boot: self.boot()?,
            layers: vec![LayerEntry {
                uuid: layer,
                snapshot: None,
            }],
        })
    }

    fn boot(&self) -> Result<Uuid> {
        self.host
            .boot_id()
            .context(|| "reading the host's boot id".into())
    }

    /// Opens an overlay, or returns it if it is open. `resolve` finds the image version that it was made over.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::BaseMissing`] if `resolve` has none, [`ErrorKind::BaseMismatch`] if it has
    /// another; [`ErrorKind::Corrupt`] or [`ErrorKind::NewerFormat`] by what is on disk.
    pub fn open_overlay(
        &self,
        id: &OverlayId,
        resolve: &dyn Fn(&BaseId) -> Option<Arc<dyn Base>>,
    ) -> Result<Arc<Overlay>> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        if let Some(overlay) = slot.upgrade() {
            return Ok(overlay);
        }
        let overlay = self.load(id, resolve, self.load_manifest(id)?)?;
        *slot = Arc::downgrade(&overlay);
        Ok(overlay)
    }

    /// Names of an overlay's hidden snapshots, from its manifest alone.
    ///
    /// # Errors
    /// As [`Store::info`].
    pub fn hidden_snapshots(&self, id: &OverlayId) -> Result<Vec<SnapshotName>> {
        Ok(self.load_manifest(id)?.hidden_snapshots())
    }

    fn load_manifest(&self, id: &OverlayId) -> Result<Manifest> {
        if !self.exists(id)? {
            return Err(Error::new(ErrorKind::NotFound, format!("overlay {id}")));
        }
        Manifest::load(&*self.host, &self.path(id)).map_err(|e| match e.kind() {
            ErrorKind::NotFound => e.with_kind(ErrorKind::Corrupt),
            _ => e,
        })
    }

    fn load(
        &self,
        id: &OverlayId,
        resolve: &dyn Fn(&BaseId) -> Option<Arc<dyn Base>>,
        mut manifest: Manifest,
    ) -> Result<Arc<Overlay>> {
        let dir = self.path(id);
        let base = check_base(id, &manifest, resolve(&manifest.base))?;
        self.settle_names(&dir)?;
        self.clear_strays(&dir, &manifest)?;
        let boot = self.boot()?;
        let trust = if manifest.boot == boot {
            Trust::Live
        } else {
            Trust::Durable
        };
        let distrusted = manifest.boot.is_nil();
        if distrusted {
            let mut layers = manifest.layers.iter();
            layers.try_for_each(|layer| layerfile::forget_cache(&*self.host, &dir, layer.uuid))?;
        }
        let stack = open_stack(&*self.host, &dir, &manifest, base, trust)?;
        if distrusted {
            stack.layers.iter().for_each(|layer| layer.renew_map());
        }
        if trust == Trust::Durable {
            // Only now is the live map right.
            manifest.boot = boot;
            manifest
                .replace(&*self.host, &dir)
                .map_err(|e| e.into_error())?;
        }
        let (host, pool) = (self.host.clone(), self.pool.clone());
        Ok(Arc::new(Overlay::new(
            id.clone(),
            dir,
            host,
            pool,
            manifest,
            stack,
            self.portion,
        )))
    }

    /// Makes durable the names that are found: a process that was killed may have given them and not lived to do so,
    /// and a power cut could otherwise take a manifest back on whose strength flushes were answered since.
    fn settle_names(&self, dir: &Path) -> Result<()> {
        let sync = || {
            self.host.sync_dir(dir)?;
            self.host.sync_dir(&self.dir)
        };
        sync().context(|| format!("syncing {}", dir.display()))
    }

    /// Throws away files that a crash left in an overlay's folder and that the manifest does not name.
    fn clear_strays(&self, dir: &Path, manifest: &Manifest) -> Result<()> {
        let names = self.host.list(dir);
        let names = names.context(|| format!("listing {}", dir.display()))?;
        let mut strays = names
            .iter()
            .filter(|name| !manifest::is_wanted(name, &manifest.layers));
        strays.try_for_each(|name| self.discard(&dir.join(name)))?;
        self.tidy();
        Ok(())
    }

    /// Puts a fresh disk in place of an overlay's, whatever state that is in; takes no longer for a large one. Evicts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NoSpace`], [`ErrorKind::Invalid`] for an impossible size; the old disk
    /// stays then.
    pub fn reset(&self, id: &OverlayId, spec: OverlaySpec) -> Result<Arc<Overlay>> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        manifest::check_size(spec.size)?;
        let dir = self.path(id);
        if !self.exists(id)? {
            return Err(Error::new(ErrorKind::NotFound, format!("overlay {id}")));
        }
        let next = self.draft(&dir, &spec)?;
        let overlay = match slot.upgrade() {
            Some(overlay) => {
                let stack = open_stack(&*self.host, &dir, &next, spec.base, Trust::Live)?;
                let clear = || self.clear_strays(&dir, &next);
                overlay.replace_all(next.clone(), stack, clear)?;
                overlay
            }
            None => {
                next.replace(&*self.host, &dir)
                    .map_err(|e| e.into_error())?;
                self.load(id, &|_| Some(spec.base.clone()), next.clone())?
            }
        };
        *slot = Arc::downgrade(&overlay);
        Ok(overlay)
    }

    /// Deletes an overlay; takes no longer for a large one. Evicts.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Io`].
    pub fn delete(&self, id: &OverlayId) -> Result<()> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        vacate(&mut slot);
        self.discard(&self.path(id))?;
        let synced = self.host.sync_dir(&self.dir);
        synced.context(|| format!("deleting overlay {id}"))?;
        self.tidy();
        Ok(())
    }

    /// Gives an overlay another name. After a crash it has the one or the other.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Exists`] if the name is taken, [`ErrorKind::Invalid`] if it is open.
    pub fn rename(&self, from: &OverlayId, to: &OverlayId) -> Result<()> {
        let slot = self.slot(from);
        let slot = slot.lock();
        if slot.upgrade().is_some() {
            let text = format!("renaming overlay {from} while it is open");
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        let naming = || format!("renaming overlay {from} to {to}");
        // The host refuses to put a folder in the place of one that has files in it.
        self.host
            .rename(&self.path(from), &self.path(to))
            .context(naming)?;
        self.host.sync_dir(&self.dir).context(naming)
    }

    /// The names of all overlays, in order; nothing of them is read.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the folder cannot be listed.
    pub fn ids(&self) -> Result<Vec<OverlayId>> {
        let names = self.names()?;
        let mut ids: Vec<_> = names
            .into_iter()
            .filter_map(|n| OverlayId::new(n).ok())
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// All overlays by name, also those whose base is missing; one that cannot be read is listed with the reason.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the folder cannot be listed.
    pub fn list(&self) -> Result<Vec<(OverlayId, Result<OverlayInfo>)>> {
        Ok(self
            .ids()?
            .into_iter()
            .map(|id| (id.clone(), self.info(&id)))
            .collect())
    }

    /// What the overlay `id` is, from its manifest alone.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Corrupt`], [`ErrorKind::NewerFormat`].
    pub fn info(&self, id: &OverlayId) -> Result<OverlayInfo> {
        let manifest = self.load_manifest(id)?;
        Ok(info(&*self.host, &self.path(id), id, &manifest))
    }
}

/// Closes what is open of an overlay that goes away.
pub(crate) fn vacate(slot: &mut Weak<Overlay>) {
    if let Some(overlay) = slot.upgrade() {
        overlay.close();
    }
    *slot = Weak::new();
}

/// Makes the folder unless it is there; durably, also if it was a killed process that made it.
fn make_dir(host: &dyn Storage, dir: &Path) -> io::Result<()> {
    match host.create_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    host.sync_dir(parent.unwrap_or(Path::new(".")))
}

pub(crate) fn lock(host: &dyn Storage, dir: &Path) -> Result<Box<dyn Send + Sync>> {
    host.lock(&dir.join(LOCK)).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => {
            let text = format!("the store {} is in use by another process", dir.display());
            Error::new(ErrorKind::Busy, text)
        }
        _ => Error::io(format!("locking the store {}", dir.display()), e),
    })
}

/// An overlay over another version is corruption: refused, never guessed.
fn check_base(
    id: &OverlayId,
    manifest: &Manifest,
    found: Option<Arc<dyn Base>>,
) -> Result<Arc<dyn Base>> {
    let wanted = &manifest.base;
    let Some(base) = found else {
        let text =
            format!("overlay {id} needs {wanted}; bring that version back, or reset the overlay");
        return Err(Error::new(ErrorKind::BaseMissing, text));
    };
    if base.id() == wanted && base.size() == manifest.base_size {
        return Ok(base);
    }
    let text = format!(
        "overlay {id} needs {wanted} of {} bytes and was offered {} of {} bytes; bring that version back, or reset the overlay",
        manifest.base_size,
        base.id(),
        base.size()
    );
    Err(Error::new(ErrorKind::BaseMismatch, text))
}
