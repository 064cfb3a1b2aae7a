//! Snapshots: a layer is frozen and a fresh one laid over it. Nothing frozen is ever changed in what it reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::SnapshotName;
use crate::layer::{Layer, Trust};
use crate::layerfile::{self, Names};
use crate::manifest::{LayerEntry, MAX_LAYERS, Manifest, Snapshot};
use crate::map::PAGE_WORDS;
use crate::overlay::Overlay;
use crate::space::Space;
use crate::stack::{Stack, Surroundings};
use crate::view::View;

impl Overlay {
    /// Freezes the disk as it is now under `name`; writes go on, but for the moment in which the last of them are
    /// made durable. Every write answered before is in it, none that comes after it returns. `taken` is the time, in
    /// seconds since 1970.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`]; [`ErrorKind::Invalid`] when there are too many; what [`Overlay::flush`] fails with.
    pub fn snapshot(&self, name: &SnapshotName, taken: u64) -> Result<Snapshot> {
        // Most of what there is to sync is synced while requests go on.
        self.flush()?;
        self.freezing.fetch_add(1, Ordering::Relaxed);
        let _change = self.change_layers();
        self.freezing.fetch_sub(1, Ordering::Relaxed);
        self.freeze_as(name, taken)
    }

    /// Number of the layer that `name` froze, in the layers as they are, and what counts their space.
    pub(crate) fn place(&self, name: &SnapshotName) -> Result<(usize, Stack, Arc<Space>)> {
        let inside = self.gate.read();
        let at = self.manifest.lock().find(name)?;
        Ok((at, inside.stack.clone(), inside.space.clone()))
    }

    /// [`Overlay::snapshot`], within a change of layers.
    pub(crate) fn freeze_as(&self, name: &SnapshotName, taken: u64) -> Result<Snapshot> {
        check_new(&self.manifest.lock(), name)?;
        let uuid = self.host.fresh_uuid();
        let frozen = self.freeze(name, taken, uuid);
        if frozen.is_err() {
            self.remove_layer(uuid);
        }
        frozen
    }

    fn freeze(&self, name: &SnapshotName, taken: u64, uuid: Uuid) -> Result<Snapshot> {
        let (host, dir) = (&*self.host, &self.dir);
        let manifest = self.manifest.lock().clone();
        layerfile::create_files(host, dir, uuid, manifest.size)?;
        let layer = Layer::open(host, dir, uuid, manifest.size, Trust::Live)?;
        let name = name.clone();
        let snapshot = Snapshot { name, taken };
        let next = with_snapshot(&manifest, &snapshot, uuid);
        let mut inside = self.gate.write();
        let top = inside.stack.top();
        top.sync().inspect_err(|_| self.heed(&inside))?;
        self.commit(next, &layer)?;
        inside.stack.layers.push(Arc::new(layer));
        self.heed_hidden(&inside);
        Ok(snapshot)
    }

    pub(crate) fn remove_layer(&self, uuid: Uuid) {
        let names = Names::of(&self.dir, uuid);
        for path in [names.data, names.live, names.durable] {
            // What stays is cleared away at the next open.
            let _ = self.host.remove(&path);
        }
    }

    /// The snapshots, oldest first, but for those with a name of [`SnapshotName::hidden`].
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.manifest.lock().snapshots()
    }

    /// Drops a snapshot. Blocks that only it holds move to the next newer layer first, while requests go on: takes
    /// as long as copying them does.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] if it gave way to a reset; [`ErrorKind::NoSpace`] if there is no
    /// room for the copies. The snapshot stays then. [`ErrorKind::SyncFailed`] as for [`Overlay::flush`].
    pub fn drop_snapshot(&self, name: &SnapshotName) -> Result<()> {
        let _change = self.change_layers();
        let (at, stack, space) = self.place(name)?;
        let around = Surroundings {
            stack: &stack,
            layer: at + 1,
            space: &space,
            anyway: true,
        };
        let (older, newer) = (&stack.layers[at], &stack.layers[at + 1]);
        let merged = self.merge(older, newer, &around);
        merged.inspect_err(|_| self.heed(&self.gate.read()))?;
        let mut inside = self.gate.write();
        // A sync may have failed since, and what is now put in force must not hide the note of it.
        inside.stack.top().usable()?;
        let mut next = self.manifest.lock().clone();
        next.layers.remove(at);
        let sure = self.commit(next, newer)?;
        inside.stack.layers.remove(at);
        drop(inside);
        space.release(older.data_blocks());
        if sure {
            self.remove_layer(older.uuid);
        }
        Ok(())
    }

    /// Gives `newer` everything of `older` that it does not hide, durably.
    fn merge(&self, older: &Layer, newer: &Layer, around: &Surroundings<'_>) -> Result<()> {
        // After a failed sync neither holds for sure what it says, and the other one may be the better.
        older.usable()?;
        newer.usable()?;
        for page in older.map.touched_pages() {
            if self.hurry.load(Ordering::Relaxed) {
                let text = format!("dropping a snapshot of overlay {}", self.id);
                return Err(Error::new(ErrorKind::Busy, text));
            }
            for word in page * PAGE_WORDS..(page + 1) * PAGE_WORDS {
                newer.adopt(word, older, around)?;
            }
            if newer.is_crowded() {
                newer.sync()?;
            }
        }
        // The older layer goes away: from now on the newer one alone answers for these blocks.
        newer.sync()
    }

    /// The disk as `name` froze it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn snapshot_view(&self, name: &SnapshotName) -> Result<View> {
        let inside = self.gate.read();
        let at = self.manifest.lock().find(name)?;
        let mut stack = inside.stack.clone();
        stack.layers.truncate(at + 1);
        let older = self.manifest.lock().snapshot_ids_below(at);
        Ok(View::new(stack, older, self.reading.clone()))
    }

    /// The disk as it is, for reading at rest: evicts its attachment. [`View::copy_to`] fails if one is made meanwhile.
    pub fn view_at_rest(self: &Arc<Self>) -> View {
        let mut inside = self.gate.write();
        inside.generation += 1;
        View::at_rest(
            inside.stack.clone(),
            self.clone(),
            inside.generation,
            self.reading.clone(),
        )
    }
}

fn check_new(manifest: &Manifest, name: &SnapshotName) -> Result<()> {
    if manifest.find(name).is_ok() {
        return Err(Error::new(ErrorKind::Exists, format!("snapshot {name}")));
    }
    if manifest.layers.len() >= MAX_LAYERS {
        let text = format!("{} snapshots are the most; drop some", MAX_LAYERS - 1);
        return Err(Error::new(ErrorKind::Invalid, text));
    }
    Ok(())
}

fn with_snapshot(manifest: &Manifest, snapshot: &Snapshot, uuid: Uuid) -> Manifest {
    let mut next = manifest.clone();
    if let Some(last) = next.layers.last_mut() {
        last.snapshot = Some(snapshot.clone());
    }
    next.layers.push(LayerEntry {
        uuid,
        snapshot: None,
    });
    next
}
