//! What the target of a resync held before, kept until the machine says that it is not needed any more.
//!
//! Before the first change of a resync the metadata are written to `mirror/kept`: `BRbefor1`, the CRC-32C of what follows (4
//! bytes), JSON of [`Saved`]. Replaced as a whole. Before the first change of a disk a hidden snapshot of it is taken, and a
//! disk that would be deleted or made afresh is put away instead. So what the resync leaves alone costs nothing.
//!
//! All of it bears the name that the machine has for it, in its durable state: what has another name is of no use, and goes.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use mirror::{Fault, Generation, Incarnation, Op, VolumeId};
use overlay::{ErrorKind, Limits, Overlay, SnapshotName};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Failure, PairStore, broken, of_overlay,
    record::{Number, Record, VolumeSpec, difference},
    volumes::Row,
};
use crate::files::{Magic, PRIVATE, is_full, remove, seal, unseal, write_whole};

const MAGIC: Magic = *b"BRbefor1";

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    /// The name: of which run, and which of its.
    name: (u64, u64),
    /// When the resync first changed something, in seconds since 1970.
    begun: u64,
    /// When a disk was last changed before, in seconds since 1970.
    last_change: Option<u64>,
    volumes: Vec<(Number, Row)>,
    records: Vec<Record>,
}

/// The state from before a resync, as far as it is kept.
pub struct Kept {
    path: PathBuf,
    /// Under which name the machine has it kept.
    name: Mutex<Option<Generation>>,
    /// Whether there is one: looked at with every change.
    wanted: AtomicBool,
    saved: Mutex<Option<Arc<Saved>>>,
    /// Disks that may be changed now: their snapshots are taken.
    taken: Mutex<HashMap<VolumeId, Arc<Mutex<bool>>>>,
    beginning: Mutex<()>,
    folding: Mutex<()>,
}

impl Kept {
    /// What is kept in the folder of the pair's state, under `name`; `None` if that is damaged.
    ///
    /// # Errors
    /// It cannot be read, which may pass.
    pub fn open(folder: &Path, name: Generation) -> io::Result<Option<Self>> {
        let kept = Self::nothing(folder);
        kept.set(Some(name));
        let bytes = match fs::read(&kept.path) {
            // Nothing was changed yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(kept)),
            read => read?,
        };
        let saved = decode(&bytes).map(Arc::new);
        let whole = saved.is_some();
        *kept.saved.lock() = saved;
        Ok(whole.then_some(kept))
    }

    /// Nothing is kept there, or nothing that is needed.
    pub fn nothing(folder: &Path) -> Self {
        Self {
            path: folder.join("kept"),
            name: Mutex::default(),
            wanted: AtomicBool::new(false),
            saved: Mutex::default(),
            taken: Mutex::default(),
            beginning: Mutex::default(),
            folding: Mutex::default(),
        }
    }

    /// Says under which name what is changed from now on has to be kept, if it has to.
    pub fn set(&self, name: Option<Generation>) {
        let mut known = self.name.lock();
        if *known != name {
            *known = name;
            self.wanted.store(name.is_some(), Relaxed);
            self.taken.lock().clear();
        }
    }

    /// Whether something has to be done, or waited for, before this disk may be changed. Does not wait itself: the thread
    /// that asks reads what the other server sends.
    pub fn wants(&self, volume: VolumeId) -> bool {
        self.wanted.load(Relaxed) && !self.is_taken(volume)
    }

    /// Whether this disk's snapshot is there; not while it is being taken.
    fn is_taken(&self, volume: VolumeId) -> bool {
        let taken = self.taken.lock().get(&volume).cloned();
        taken.is_some_and(|taken| taken.try_lock().is_some_and(|taken| *taken))
    }

    /// What was saved under the name that counts now.
    fn saved(&self) -> Option<Arc<Saved>> {
        let name = *self.name.lock();
        let saved = self.saved.lock().clone()?;
        (name.map(|name| (name.of.0, name.number)) == Some(saved.name)).then_some(saved)
    }

    /// The name of the snapshots, while something is kept.
    fn snapshot(&self) -> Option<SnapshotName> {
        (*self.name.lock()).map(snapshot_of)
    }

    /// Since when it is kept, and when a disk was last changed before that, in seconds since 1970.
    pub fn times(&self) -> Option<(u64, Option<u64>)> {
        self.saved().map(|saved| (saved.begun, saved.last_change))
    }

    /// The disks that were there before, as far as they are kept.
    pub fn specs(&self) -> Vec<VolumeSpec> {
        let saved = self.saved();
        let rows = saved.iter().flat_map(|saved| saved.volumes.iter());
        rows.map(|(_, row)| row.spec.clone()).collect()
    }
}

fn decode(bytes: &[u8]) -> Option<Saved> {
    serde_json::from_slice(unseal(MAGIC, bytes)?).ok()
}

fn snapshot_of(name: Generation) -> SnapshotName {
    let Generation {
        of: Incarnation(run),
        number,
    } = name;
    SnapshotName::hidden("before", Uuid::from_u64_pair(run, number))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

/// When anything was last written to a file of the store's overlays.
fn last_change(overlays: &Path) -> Option<u64> {
    let written = |path: PathBuf| fs::metadata(path).and_then(|about| about.modified()).ok();
    let folders = fs::read_dir(overlays).ok()?.flatten();
    let files = folders.filter_map(|folder| fs::read_dir(folder.path()).ok());
    let data = files.flatten().flatten().map(|file| file.path());
    let data = data.filter(|path| path.extension().is_some_and(|ending| ending == "data"));
    data.filter_map(written).max().map(seconds)
}

impl Saved {
    fn row(&self, volume: VolumeId) -> Option<&Row> {
        let rows = &self.volumes;
        let found = rows.iter().find(|(known, _)| known.0 == volume.0);
        found.map(|(_, row)| row)
    }
}

impl PairStore {
    /// Sees to it that what is here of the metadata can be gone back to.
    pub(super) fn begin_to_keep(&self) -> Result<(), Failure> {
        self.save().map_err(|error| match is_no_space(&error) {
            true => (Fault::NoSpace, error),
            false => broken(error),
        })
    }

    fn save(&self) -> anyhow::Result<()> {
        let kept = &self.kept;
        let Some(name) = *kept.name.lock() else {
            return Ok(());
        };
        let _alone = kept.beginning.lock();
        if kept.saved().is_some() {
            return Ok(());
        }
        // Of an older state.
        self.volumes.store.drop_away()?;
        let rows = self.volumes.rows().into_iter();
        let saved = Saved {
            name: (name.of.0, name.number),
            begun: seconds(SystemTime::now()),
            last_change: last_change(&self.data.join("overlays")),
            volumes: rows.map(|(volume, row)| (volume.into(), row)).collect(),
            records: self.records()?,
        };
        let bytes = seal(MAGIC, &serde_json::to_vec(&saved)?);
        write_whole(&kept.path, &bytes, PRIVATE)
            .with_context(|| format!("cannot write {}", kept.path.display()))?;
        *kept.saved.lock() = Some(Arc::new(saved));
        Ok(())
    }

    /// Before a change is made.
    pub(super) fn keep_what(&self, op: &Op) -> Result<(), Failure> {
        match op {
            Op::Write { volume, .. } | Op::Zero { volume, .. } => self.keep(*volume),
            Op::Meta { .. } => self.begin_to_keep(),
        }
    }

    /// Sees to it that what is on this disk can be gone back to, if it has to be.
    pub(super) fn keep(&self, volume: VolumeId) -> Result<(), Failure> {
        if !self.kept.wanted.load(Relaxed) {
            return Ok(());
        }
        // Looked at with every change, since each takes room. Rather a standby without what is kept than none.
        if self.volumes.store.is_low().map_err(of_overlay)? {
            let text = "too little is free to keep what was here before the resync";
            return Err((Fault::NoSpace, anyhow::anyhow!(text)));
        }
        let taken = self.kept.taken.lock().entry(volume).or_default().clone();
        // Other changes of this disk wait; those of other disks do not.
        let mut taken = taken.lock();
        if !*taken {
            self.take(volume)?;
            *taken = true;
        }
        Ok(())
    }

    fn take(&self, volume: VolumeId) -> Result<(), Failure> {
        self.begin_to_keep()?;
        let (Some(saved), Some(name)) = (self.kept.saved(), self.kept.snapshot()) else {
            return Ok(());
        };
        // One that was made since has nothing from before.
        if saved.row(volume).is_none() {
            return Ok(());
        }
        let overlay = self.volumes.overlay(volume).map_err(of_overlay)?;
        let Some(overlay) = overlay.filter(|one| !one.hidden_snapshots().contains(&name)) else {
            return Ok(());
        };
        match overlay.snapshot(&name, saved.begun) {
            Ok(_) => Ok(()),
            // It has as many as it may have.
            Err(error) if error.kind() == ErrorKind::Invalid => Err((Fault::NoSpace, error.into())),
            Err(error) => Err(of_overlay(error)),
        }
    }

    /// Whether this volume was there before.
    fn is_kept(&self, volume: VolumeId) -> bool {
        let saved = self.kept.saved();
        saved.is_some_and(|saved| saved.row(volume).is_some())
    }

    /// Makes a volume, or changes what is said of it.
    pub(super) fn put(&self, volume: VolumeId, spec: &VolumeSpec) -> anyhow::Result<()> {
        match self.volumes.of(&spec.overlay) {
            Some((older, _)) if older != volume && self.is_kept(older) => {
                self.volumes.put_away(older)?;
            }
            _ => {}
        }
        self.volumes.put(volume, spec)
    }

    /// Takes a volume away.
    pub(super) fn remove(&self, volume: VolumeId) -> anyhow::Result<()> {
        match self.is_kept(volume) {
            true => self.volumes.put_away(volume),
            false => self.volumes.remove(volume),
        }
    }

    /// Makes everything as it was before. May stop anywhere and be begun again.
    pub(super) fn go_back(&self) -> anyhow::Result<()> {
        let name = self.kept.snapshot().context("nothing is kept")?;
        // What goes back has no snapshot any more: before it is changed again another one is taken.
        self.kept.taken.lock().clear();
        let Some(saved) = self.kept.saved() else {
            return Ok(()); // Nothing was changed.
        };
        let now = self.volumes.specs().into_iter();
        for (volume, _) in now.filter(|(volume, _)| saved.row(*volume).is_none()) {
            self.volumes.remove(volume)?;
        }
        // The rows first: an overlay that is no volume's is removed at the next start.
        let rows = saved.volumes.iter().cloned();
        let rows: Vec<_> = rows.map(|(volume, row)| (volume.into(), row)).collect();
        self.volumes.put_rows(&rows)?;
        for (volume, row) in &rows {
            self.volumes.store.bring_back(&row.spec.overlay)?;
            self.revert(*volume, row, &name)?;
        }
        let steps = difference(&self.records()?, &saved.records);
        let others =
            |step: &&Record| !matches!(step, Record::Volume { .. } | Record::Snapshot { .. });
        steps
            .iter()
            .filter(others)
            .try_for_each(|step| self.make_one(step))
    }

    /// A disk that is damaged, or gone, does not keep the others from going back.
    fn revert(&self, volume: VolumeId, row: &Row, name: &SnapshotName) -> anyhow::Result<()> {
        self.volumes.let_go(volume);
        let reverted = self.volumes.overlay(volume).and_then(|overlay| {
            overlay.map_or(Ok(()), |overlay| revert_overlay(&overlay, row, name))
        });
        self.volumes.let_go(volume);
        match reverted {
            Err(error) if error.is_damage() || is_gone(&error) => {
                let overlay = &row.spec.overlay;
                tracing::error!("overlay {overlay} cannot go back and is left out: {error}");
                if error.is_damage() {
                    self.volumes.store.set_aside(overlay)?;
                }
                self.volumes.forget(&vec![(volume, row.spec.size)])
            }
            reverted => Ok(reverted?),
        }
    }

    /// What was kept goes; the snapshots in the background.
    ///
    /// # Errors
    /// The disk did not take it. It goes at the next start.
    pub fn forget_kept(self: &Arc<Self>) -> anyhow::Result<()> {
        let kept = &self.kept;
        remove(&kept.path)?;
        *kept.saved.lock() = None;
        let own = self.clone();
        let thread = std::thread::Builder::new().name("pair-kept".into());
        thread.spawn(move || own.fold_all())?;
        Ok(self.volumes.store.drop_away()?)
    }

    /// Folds all snapshots that were taken to be gone back to and are not needed any more.
    fn fold_all(&self) {
        /// Until it is tried again, where it could not be done.
        const REST: Duration = Duration::from_secs(10);
        let _alone = self.kept.folding.lock();
        while self.fold_some() {
            std::thread::sleep(REST);
        }
    }

    /// Whether there is something left to do.
    fn fold_some(&self) -> bool {
        let mut left = false;
        for (volume, spec) in self.volumes.specs() {
            let is_needed = |name: &SnapshotName| Some(name) == self.kept.snapshot().as_ref();
            let folded = self.volumes.fold_hidden(volume, &spec.overlay, is_needed);
            if let Err(error) = folded {
                left |= matches!(error.kind(), ErrorKind::Busy) || error.is_no_space();
                tracing::warn!(
                    "overlay {}: what was kept from before a resync stays for now: {error}",
                    spec.overlay
                );
            }
        }
        left
    }
}

fn revert_overlay(overlay: &Overlay, row: &Row, name: &SnapshotName) -> overlay::Result<()> {
    if overlay.hidden_snapshots().contains(name) {
        overlay.revert(name)?;
    }
    overlay.set_limits(Limits {
        quota: row.spec.quota,
        retention: row.spec.retention,
    })
}

fn is_no_space(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(is_full)
}

fn is_gone(error: &overlay::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Evicted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_about_a_disk_does_not_wait_for_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::nothing(dir.path());
        assert!(!kept.wants(VolumeId(5)));
        kept.set(Some(Generation {
            of: Incarnation(1),
            number: 1,
        }));
        let taken = Arc::new(Mutex::new(true));
        kept.taken.lock().insert(VolumeId(5), taken.clone());
        assert!(!kept.wants(VolumeId(5)));
        let being_taken = taken.lock();
        assert!(kept.wants(VolumeId(5)));
        drop(being_taken);
    }

    #[test]
    fn a_full_disk_is_told_from_a_bad_one() {
        let failure = |kind: io::ErrorKind| Err::<(), _>(io::Error::from(kind)).context("kept");
        assert!(is_no_space(
            &failure(io::ErrorKind::StorageFull).unwrap_err()
        ));
        assert!(!is_no_space(&failure(io::ErrorKind::Other).unwrap_err()));
    }
}
