//! One open overlay: the gate that orders attachments, snapshots and resets against requests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use uuid::Uuid;

use crate::attachment::Attachment;
use crate::base::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::group::Group;
use crate::ids::{BaseId, OverlayId};
use crate::layer::{Layer, Trust};
use crate::manifest::{Manifest, Replacing, Snapshot};
use crate::space::{Limits, Pool, Retention, Space, Usage};
use crate::stack::{Stack, Surroundings};
use crate::storage::Storage;

/// What an overlay is, from its manifest alone.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OverlayInfo {
    /// Its name.
    pub id: OverlayId,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Most bytes that it may hold.
    pub quota: Option<u64>,
    /// Whether it lasts.
    pub retention: Retention,
    /// The image version that it was made over.
    pub base: BaseId,
    /// Changes at every reset.
    pub incarnation: Uuid,
    /// Snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// Bytes of disk that its files take now.
    pub allocated: u64,
}

/// What requests see; changed only with the gate closed.
pub(crate) struct Inside {
    pub stack: Stack,
    pub space: Arc<Space>,
    /// Grows with every attachment, reset and delete; only the newest may act.
    pub generation: u64,
    pub deleted: bool,
}

/// One open overlay. Made by [`crate::Store`]; all input and output goes through [`Overlay::attach`].
pub struct Overlay {
    pub(crate) id: OverlayId,
    pub(crate) dir: PathBuf,
    pub(crate) host: Arc<dyn Storage>,
    pub(crate) pool: Arc<Pool>,
    /// Every request holds it shared while it is applied; attach, snapshot, reset and delete close it.
    pub(crate) gate: RwLock<Inside>,
    /// What is on disk. Taken briefly, and after the gate where both are needed.
    pub(crate) manifest: Mutex<Manifest>,
    /// Deleted: another overlay may have the folder's name by now. Set and looked at with `manifest` held.
    closed: AtomicBool,
    /// Held through every change of layers, which may be long; taken before the gate.
    changing: Mutex<()>,
    /// Tells a long change of layers to give way.
    pub(crate) hurry: AtomicBool,
    /// Snapshots that wait for their turn to change the layers.
    pub(crate) freezing: AtomicUsize,
    group: Group,
    /// Each [`crate::View`] has a share of it. Given out with the gate held.
    pub(crate) reading: Arc<()>,
    /// Bytes that a fold moves at a time.
    pub(crate) portion: u64,
}

impl Inside {
    pub(crate) fn around(&self) -> Surroundings<'_> {
        Surroundings {
            stack: &self.stack,
            layer: self.stack.layers.len() - 1,
            space: &self.space,
            anyway: false,
        }
    }
}

/// The layers of a manifest over a base, opened.
pub(crate) fn open_stack(
    host: &dyn Storage,
    dir: &Path,
    manifest: &Manifest,
    base: Arc<dyn Base>,
    trust: Trust,
) -> Result<Stack> {
    let last = manifest.layers.len() - 1;
    let layers = manifest.layers.iter().enumerate().map(|(i, entry)| {
        let trust = if i == last { trust } else { Trust::Frozen };
        Layer::open(host, dir, entry.uuid, manifest.size, trust).map(Arc::new)
    });
    Ok(Stack {
        layers: layers.collect::<Result<_>>()?,
        base,
        size: manifest.size,
    })
}

impl Overlay {
    pub(crate) fn new(
        id: OverlayId,
        dir: PathBuf,
        host: Arc<dyn Storage>,
        pool: Arc<Pool>,
        manifest: Manifest,
        stack: Stack,
        portion: u64,
    ) -> Self {
        let space = new_space(&id, &manifest, &stack, &pool);
        let inside = Inside {
            stack,
            space,
            generation: 0,
            deleted: false,
        };
        Self {
            id,
            dir,
            host,
            pool,
            gate: RwLock::new(inside),
            manifest: Mutex::new(manifest),
            closed: AtomicBool::new(false),
            changing: Mutex::new(()),
            hurry: AtomicBool::new(false),
            freezing: AtomicUsize::new(0),
            group: Group::default(),
            reading: Arc::default(),
            portion,
        }
    }

    /// Its name.
    pub fn id(&self) -> &OverlayId {
        &self.id
    }

    /// The one writable attachment. An older one is evicted: this returns after what it was applying is through, and
    /// nothing of it is applied later.
    pub fn attach(self: &Arc<Self>) -> Attachment {
        let mut inside = self.gate.write();
        inside.generation += 1;
        Attachment::new(self.clone(), &inside)
    }

    /// Evicts the attachment there is, if any, as a newer one would.
    pub fn evict(&self) {
        self.gate.write().generation += 1;
    }

    /// What it holds, and how near its quota that is.
    pub fn usage(&self) -> Usage {
        self.gate.read().space.usage()
    }

    /// What it is.
    pub fn info(&self) -> OverlayInfo {
        info(&*self.host, &self.dir, &self.id, &self.manifest.lock())
    }

    /// Bytes of memory that its maps take.
    pub fn map_memory(&self) -> u64 {
        let inside = self.gate.read();
        inside
            .stack
            .layers
            .iter()
            .map(|layer| layer.map.memory())
            .sum()
    }

    /// Makes everything answered so far durable. Concurrent calls share one sync.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if the map does not fit (free space and try again); [`ErrorKind::SyncFailed`] if the host
    /// failed to write, after which nothing more is accepted until the overlay is opened anew.
    pub fn flush(&self) -> Result<()> {
        self.group.run(|| {
            // Older layers were synced when they were frozen.
            let top = self.gate.read().stack.top().clone();
            let result = top.sync();
            if result.is_err() {
                self.heed(&self.gate.read());
            }
            result
        })
    }

    /// To be called after every sync that did not succeed, of whichever layer. If one failed, nothing more is promised
    /// on the stack, and the next open goes back to the last good flush.
    pub(crate) fn heed(&self, inside: &Inside) {
        if inside.stack.has_failed() {
            inside.stack.top().set_failed();
            self.distrust();
        }
    }

    /// Notes on disk that the live map is not to be trusted. If that fails, the next call tries again.
    fn distrust(&self) {
        let mut manifest = self.manifest.lock();
        if manifest.boot.is_nil() || self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut next = manifest.clone();
        next.boot = Uuid::nil();
        match next.replace(&*self.host, &self.dir) {
            Ok(()) => *manifest = next,
            Err(error) => {
                let error = error.into_error();
                tracing::error!(overlay = %self.id, %error, "cannot note that a sync failed");
            }
        }
    }

    /// What hidden snapshots hold is not the client's doing. To be called when the layers have changed.
    pub(crate) fn heed_hidden(&self, inside: &Inside) {
        let hidden = self.manifest.lock().has_hidden();
        inside.space.set_lenient(hidden);
    }

    /// Begins a change of layers.
    pub(crate) fn change_layers(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Puts `next` in force on disk. If it is not sure which manifest a power cut would leave, says so with `false`
    /// and fails the layer `top`: nothing may be promised on it.
    pub(crate) fn commit(&self, mut next: Manifest, top: &Layer) -> Result<bool> {
        let mut manifest = self.manifest.lock();
        if next.incarnation == manifest.incarnation {
            // A sync may have failed, or the limits been changed, since `next` was drawn up.
            next.boot = manifest.boot;
            next.set_limits(manifest.limits());
        }
        self.put_in_force(&mut manifest, next, top)
    }

    /// [`Overlay::commit`], with nothing between the look at the manifest in force and its replacement.
    fn put_in_force(&self, manifest: &mut Manifest, next: Manifest, top: &Layer) -> Result<bool> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(self.deleted());
        }
        match next.replace(&*self.host, &self.dir) {
            Ok(()) => {
                *manifest = next;
                Ok(true)
            }
            Err(Replacing::Kept(e)) => Err(e),
            Err(Replacing::Unsure(e)) => {
                *manifest = next;
                top.set_failed();
                tracing::error!(overlay = %self.id, error = %e, "unsure which manifest is on disk");
                Ok(false)
            }
        }
    }

    /// Holds the overlay to other limits from now on, also while it is attached. One that holds more than its new quota
    /// keeps it all, and grows again once it holds less.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] and [`ErrorKind::Io`], with the old limits in force; [`ErrorKind::NotFound`] if it is
    /// deleted.
    pub fn set_limits(&self, limits: Limits) -> Result<()> {
        // Layers do not change while the gate is held.
        let inside = self.gate.read();
        let mut manifest = self.manifest.lock();
        if manifest.limits() == limits {
            return Ok(());
        }
        let mut next = manifest.clone();
        next.set_limits(limits);
        self.put_in_force(&mut manifest, next, inside.stack.top())?;
        inside.space.set_limits(limits);
        Ok(())
    }

    /// Puts another disk in this one's place. Evicts. `clear` is called once the old one is out of force and before any
    /// further layer can be made: what the new manifest does not name may then be cleared away.
    pub(crate) fn replace_all(
        &self,
        next: Manifest,
        stack: Stack,
        clear: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.hurry.store(true, Ordering::Relaxed);
        let _change = self.change_layers();
        self.hurry.store(false, Ordering::Relaxed);
        let mut inside = self.gate.write();
        inside.generation += 1;
        let space = new_space(&self.id, &next, &stack, &self.pool);
        self.commit(next, stack.top())?;
        inside.space = space;
        inside.stack = stack;
        drop(inside);
        clear()
    }

    /// Ends all use of it: once this returns nothing is written in its folder's name any more.
    pub(crate) fn close(&self) {
        let mut inside = self.gate.write();
        inside.generation += 1;
        inside.deleted = true;
        let _manifest = self.manifest.lock();
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn deleted(&self) -> Error {
        Error::new(
            ErrorKind::NotFound,
            format!("overlay {} (deleted)", self.id),
        )
    }
}

fn new_space(id: &OverlayId, manifest: &Manifest, stack: &Stack, pool: &Arc<Pool>) -> Arc<Space> {
    let used = stack.layers.iter().map(|layer| layer.data_blocks()).sum();
    let limits = manifest.limits();
    let space = Space::new(id.clone(), used, limits, pool.clone());
    space.set_lenient(manifest.has_hidden());
    Arc::new(space)
}

pub(crate) fn info(
    host: &dyn Storage,
    dir: &Path,
    id: &OverlayId,
    manifest: &Manifest,
) -> OverlayInfo {
    OverlayInfo {
        id: id.clone(),
        size: manifest.size,
        quota: manifest.quota,
        retention: manifest.retention,
        base: manifest.base,
        incarnation: manifest.incarnation,
        snapshots: manifest.snapshots(),
        allocated: allocated(host, dir),
    }
}

fn allocated(host: &dyn Storage, dir: &Path) -> u64 {
    use crate::storage::OpenMode;
    let names = host.list(dir).unwrap_or_default();
    let size = |name: &String| host.open(&dir.join(name), OpenMode::Read)?.allocated();
    names.iter().map(|name| size(name).unwrap_or(0)).sum()
}
