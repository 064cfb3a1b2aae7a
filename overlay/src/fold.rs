//! A snapshot dropped the other way round: what was written since it was taken moves into its layer. So the drop costs
//! what was written since, and not all that the snapshot holds. And the way back to a snapshot.
//!
//! Only for snapshots that nobody reads: the frozen layer changes while what it hides behind is still there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{BLOCK, SnapshotName};
use crate::layer::{Layer, Trust};
use crate::layerfile::{self, Names};
use crate::manifest::Manifest;
use crate::map::{Lanes, PAGE_WORDS, State};
use crate::overlay::{Inside, Overlay};
use crate::space::Space;

/// Most layers that are put on top to come down to that.
const ROUNDS: u32 = 8;

/// What is to be done about a snapshot that is folded.
enum Fold {
    /// It is gone.
    Done,
    /// What was written since has this name's layer now, and is to be folded as well.
    Further(SnapshotName),
}

/// What was moved and not let go of yet: words of the map, and which of their lanes.
type Moved = Vec<(u64, Lanes)>;

impl Overlay {
    /// Drops a snapshot, as [`Overlay::drop_snapshot`] does, but takes as long as copying what was written since it was
    /// taken, while requests go on. Nobody may have a view of it. If another snapshot was taken since, that one has another
    /// [`crate::SnapshotId`] afterwards. Takes little room at a time.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Busy`] if it gave way to a reset or a snapshot, or more is written all the time than
    /// it moves; [`ErrorKind::NoSpace`]. [`Overlay::fold_hidden`] goes on with what is left then.
    /// [`ErrorKind::SyncFailed`] as for [`Overlay::flush`].
    pub fn fold_snapshot(&self, name: &SnapshotName) -> Result<()> {
        let _change = self.change_layers();
        let mut name = name.clone();
        for _ in 0..ROUNDS {
            match self.fold(&name)? {
                Fold::Done => return Ok(()),
                Fold::Further(next) => name = next,
            }
        }
        let text = format!("overlay {}: more is written than is moved", self.id);
        Err(Error::new(ErrorKind::Busy, text))
    }

    /// Folds every hidden snapshot that is not needed, whether a fold was begun before or not. `is_needed` is asked again
    /// after each look at what there is: of one that is taken meanwhile it must know before it is there.
    ///
    /// # Errors
    /// As for [`Overlay::fold_snapshot`].
    pub fn fold_hidden(&self, is_needed: impl Fn(&SnapshotName) -> bool) -> Result<()> {
        let next = || {
            let hidden = self.hidden_snapshots();
            hidden.into_iter().find(|name| !is_needed(name))
        };
        while let Some(name) = next() {
            match self.fold_snapshot(&name) {
                // Somebody else was at it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                folded => folded?,
            }
        }
        Ok(())
    }

    /// Names of the snapshots that [`Overlay::snapshots`] leaves out, oldest first.
    pub fn hidden_snapshots(&self) -> Vec<SnapshotName> {
        self.manifest.lock().hidden_snapshots()
    }

    fn fold(&self, name: &SnapshotName) -> Result<Fold> {
        let (mut at, mut stack, space) = self.place(name)?;
        if at + 2 == stack.layers.len() {
            // Requests do not have to wait for this.
            let synced = stack.layers[at].sync();
            synced.inspect_err(|_| self.heed(&self.gate.read()))?;
            if self.fold_top(name)? {
                return Ok(Fold::Done);
            }
            // Too much to have requests wait for it: it is frozen, and moved while they go on.
            let moving = SnapshotName::hidden("fold", self.host.fresh_uuid());
            self.flush()?;
            self.freeze_as(&moving, 0)?;
            (at, stack, _) = self.place(name)?;
        }
        let (older, newer) = (&stack.layers[at], &stack.layers[at + 1]);
        let moved = self.pour(older, newer, &space);
        moved.inspect_err(|_| self.heed(&self.gate.read()))?;
        let mut inside = self.gate.write();
        // A sync may have failed since, and what is now put in force must not hide the note of it.
        inside.stack.top().usable()?;
        let mut next = self.manifest.lock().clone();
        let emptied = next.layers.remove(at + 1);
        next.layers[at].snapshot = emptied.snapshot;
        let taken_over = next.layers[at].snapshot.clone();
        let sure = self.commit(next, inside.stack.top())?;
        inside.stack.layers.remove(at + 1);
        self.heed_hidden(&inside);
        drop(inside);
        if sure {
            self.remove_layer(newer.uuid);
        }
        let hidden = taken_over.filter(|snapshot| is_moving(&snapshot.name));
        Ok(hidden.map_or(Fold::Done, |snapshot| Fold::Further(snapshot.name)))
    }

    /// Moves everything of the frozen layer `newer` into `older`, durably: first what takes no room, which makes some.
    fn pour(&self, older: &Layer, newer: &Layer, space: &Space) -> Result<()> {
        older.usable()?;
        newer.usable()?;
        for in_place in [true, false] {
            let mut words = words_in(newer).peekable();
            while words.peek().is_some() {
                let mut moved = Moved::new();
                let soaked =
                    self.soak_some(&mut words, &mut moved, (older, newer), in_place, space);
                // What was moved makes room for the rest.
                self.let_go(older, newer, moved, space)?;
                soaked?;
                self.give_way()?;
            }
        }
        Ok(())
    }

    /// Has the older of two layers take a portion of what the newer holds.
    fn soak_some(
        &self,
        words: &mut impl Iterator<Item = u64>,
        moved: &mut Moved,
        (older, newer): (&Layer, &Layer),
        in_place: bool,
        space: &Space,
    ) -> Result<()> {
        let mut blocks = 0;
        for word in words {
            let lanes = older.soak(word, newer, in_place, space)?;
            if lanes.count() > 0 {
                moved.push((word, lanes));
                blocks += lanes.count();
            }
            if blocks * BLOCK >= self.portion {
                break;
            }
        }
        Ok(())
    }

    /// Neither a reset nor a snapshot waits.
    fn give_way(&self) -> Result<()> {
        if !self.hurry.load(Ordering::Relaxed) && self.freezing.load(Ordering::Relaxed) == 0 {
            return Ok(());
        }
        let text = format!("folding a snapshot of overlay {}", self.id);
        Err(Error::new(ErrorKind::Busy, text))
    }

    /// `older` has these blocks: `newer` lets go of them, and their space is given back. Order: all of `older` on disk,
    /// then the map of `newer`, that on disk, and only then, with nobody left who went by the old map, the holes.
    fn let_go(&self, older: &Layer, newer: &Layer, moved: Moved, space: &Space) -> Result<()> {
        if moved.is_empty() {
            return Ok(());
        }
        older.sync()?;
        for (word, lanes) in &moved {
            space.release(newer.shed(*word, *lanes)?);
        }
        newer.sync()?;
        let inside = self.gate.write();
        // Views and lent pages outlive a request. What they may read stays until the whole layer goes.
        let unread = Arc::strong_count(&self.reading) == 1 && !newer.is_lent();
        drop(inside);
        for (word, lanes) in moved {
            older.trim_lanes(word, lanes);
            if unread {
                newer.trim_lanes(word, lanes);
            }
        }
        Ok(())
    }

    /// Moves what the newest layer holds into the frozen one below, which takes its place, with no request under way.
    /// `false` if that is too much.
    fn fold_top(&self, name: &SnapshotName) -> Result<bool> {
        let mut inside = self.gate.write();
        let at = self.manifest.lock().find(name)?;
        let (older, top) = (inside.stack.layers[at].clone(), inside.stack.top().clone());
        older.usable()?;
        top.usable()?;
        if held(&top) > self.portion / BLOCK / 16 {
            return Ok(false);
        }
        let mut next = self.manifest.lock().clone();
        next.layers.truncate(at + 1);
        let moved = soak_all(&older, &top, &inside.space).and_then(|()| older.sync());
        moved.inspect_err(|_| self.heed(&inside))?;
        self.seat(&mut inside, next)?;
        Ok(true)
    }

    /// Goes back to a snapshot: the disk is as it was then, what was written since is lost, and the snapshot and all later
    /// ones are gone. Evicts. After a crash all of it has happened, or nothing.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::NoSpace`], [`ErrorKind::Io`], with the disk as it was;
    /// [`ErrorKind::SyncFailed`] as for [`Overlay::flush`].
    pub fn revert(&self, name: &SnapshotName) -> Result<()> {
        self.hurry.store(true, Ordering::Relaxed);
        let _change = self.change_layers();
        self.hurry.store(false, Ordering::Relaxed);
        let mut inside = self.gate.write();
        inside.stack.top().usable()?;
        let mut next = self.manifest.lock().clone();
        let at = next.find(name)?;
        inside.stack.layers[at].usable()?;
        next.layers.truncate(at + 1);
        inside.generation += 1;
        self.seat(&mut inside, next)
    }

    /// Makes the last layer of `next`, which is frozen now, the one that changes; those above it go. Its durable map says
    /// all; the live one is made before `next` is in force.
    fn seat(&self, inside: &mut Inside, mut next: Manifest) -> Result<()> {
        let at = next.layers.len() - 1;
        next.layers[at].snapshot = None;
        let frozen = inside.stack.layers[at].clone();
        let names = Names::of(&self.dir, frozen.uuid);
        drop(layerfile::remake_live(&*self.host, &names, &frozen.map)?);
        let size = inside.stack.size;
        let layer = Layer::open(&*self.host, &self.dir, frozen.uuid, size, Trust::Live)?;
        let sure = self.commit(next, &layer)?;
        let above = inside.stack.layers.split_off(at + 1);
        inside.stack.layers[at] = Arc::new(layer);
        for gone in above {
            inside.space.release(gone.data_blocks());
            if sure {
                self.remove_layer(gone.uuid);
            }
        }
        self.heed_hidden(inside);
        Ok(())
    }
}

/// Whether a snapshot is one that a fold took to freeze what it moves.
fn is_moving(name: &SnapshotName) -> bool {
    name.is_hidden() && name.as_str().starts_with("--fold-")
}

/// Blocks that a layer says something of.
fn held(layer: &Layer) -> u64 {
    layer.map.count(State::Data) + layer.map.count(State::Zero)
}

/// Words of the map of which a layer may say something.
fn words_in(layer: &Layer) -> impl Iterator<Item = u64> {
    let pages = layer.map.touched_pages();
    pages.flat_map(|page| page * PAGE_WORDS..(page + 1) * PAGE_WORDS)
}

/// All of `top`, with nobody beside.
fn soak_all(older: &Layer, top: &Layer, space: &Space) -> Result<()> {
    for word in words_in(top) {
        let lanes = older.soak(word, top, false, space)?;
        older.trim_lanes(word, lanes);
    }
    Ok(())
}
