//! The disks of a pair on one server: which overlay each volume is, kept in `mirror/volumes.redb`.
//!
//! One table, `volumes`: the volume's number → JSON of its [`VolumeSpec`] and of the overlay's incarnation here. An overlay
//! that was made afresh and whose row a crash kept from being written has another incarnation than its row: its volume is
//! then not here, and is taken from the other server as a whole.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use mirror::VolumeId;
use overlay::{
    Attachment, Base, BaseId, ErrorKind, Limits, Overlay, OverlayId, OverlayInfo, OverlaySpec,
    SnapshotName, Store,
};
use parking_lot::Mutex;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::VolumeSpec;

const VOLUMES: TableDefinition<u64, &[u8]> = TableDefinition::new("volumes");

/// Finds what lies below an overlay: id and size of the version.
pub type Bases = Box<dyn Fn(BaseId, u64) -> Arc<dyn Base> + Send + Sync>;

/// What is kept of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) spec: VolumeSpec,
    pub(super) incarnation: Uuid,
}

/// The volumes of one server.
pub struct Volumes {
    pub(super) store: Arc<Store>,
    bases: Bases,
    database: Database,
    rows: Mutex<BTreeMap<VolumeId, Row>>,
    open: Mutex<HashMap<VolumeId, Arc<Attachment>>>,
    /// Damaged ones that were put aside: their rows are still here.
    pub(super) aside: Mutex<Lost>,
    /// Those whose files failed since this server was started.
    pub(super) failed: Mutex<HashSet<VolumeId>>,
    /// One overlay is opened at a time.
    opening: Mutex<()>,
    /// One change of the table at a time.
    changing: Mutex<()>,
}

/// Volumes with their sizes in bytes.
pub type Lost = Vec<(VolumeId, u64)>;

/// What an open found amiss.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Amiss {
    /// Volumes that are not here any more.
    pub lost: Lost,
    /// Those that are, and cannot be read.
    pub unreadable: Lost,
}

impl Volumes {
    /// Opens or makes the table at `path` over the overlays of `store`.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub fn open(path: &Path, store: Arc<Store>, bases: Bases) -> anyhow::Result<(Self, Amiss)> {
        let naming = || format!("cannot open {}", path.display());
        let database = Database::create(path).with_context(naming)?;
        let rows = load(&database).with_context(naming)?;
        let volumes = Self {
            store,
            bases,
            database,
            rows: Mutex::new(rows),
            open: Mutex::default(),
            aside: Mutex::default(),
            failed: Mutex::default(),
            opening: Mutex::default(),
            changing: Mutex::default(),
        };
        let amiss = volumes.find_amiss()?;
        Ok((volumes, amiss))
    }

    /// Volumes whose overlay is another one by now, or gone; and those that are damaged. One that merely cannot be read
    /// now is none of these: what is noted of it would outlast the reason.
    fn find_amiss(&self) -> overlay::Result<Amiss> {
        let mut amiss = Amiss::default();
        for (volume, row) in self.rows.lock().iter() {
            let (overlay, entry) = (&row.spec.overlay, (*volume, row.spec.size));
            match self.store.info(overlay) {
                Ok(info) if info.incarnation == row.incarnation => {}
                Err(error) if error.is_damage() => {
                    tracing::error!("volume {} ({overlay}) cannot be read: {error}", volume.0);
                    amiss.unreadable.push(entry);
                }
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {
                    tracing::warn!("volume {} ({overlay}) is not here any more", volume.0);
                    amiss.lost.push(entry);
                }
            }
        }
        Ok(amiss)
    }

    /// Forgets volumes. That they are missing has to be written down before.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget(&self, lost: &Lost) -> anyhow::Result<()> {
        let gone: Vec<_> = lost.iter().map(|(volume, _)| (*volume, None)).collect();
        self.write(&gone)
    }

    /// Overlays that no volume is; one that cannot be read with the reason.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub fn strangers(&self) -> overlay::Result<Vec<(OverlayId, overlay::Result<OverlayInfo>)>> {
        let specs = self.specs().into_iter();
        let known: HashSet<_> = specs.map(|(_, spec)| spec.overlay).collect();
        let mut all = self.store.list()?;
        all.retain(|(id, _)| !known.contains(id));
        Ok(all)
    }

    /// Makes a volume of an overlay that is there already.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn adopt(
        &self,
        volume: VolumeId,
        info: &OverlayInfo,
        base_size: u64,
    ) -> anyhow::Result<()> {
        let row = Row {
            spec: VolumeSpec {
                overlay: info.id.clone(),
                base: info.base,
                base_size,
                size: info.size,
                quota: info.quota,
                retention: info.retention,
            },
            incarnation: info.incarnation,
        };
        self.write(&[(volume, Some(row))])
    }

    /// All volumes in order.
    pub fn specs(&self) -> Vec<(VolumeId, VolumeSpec)> {
        let rows = self.rows.lock();
        rows.iter().map(|(v, row)| (*v, row.spec.clone())).collect()
    }

    /// The overlay of a volume, for people.
    pub fn name_of(&self, volume: VolumeId) -> String {
        let rows = self.rows.lock();
        match rows.get(&volume) {
            Some(row) => row.spec.overlay.to_string(),
            None => format!("volume {}, which is gone", volume.0),
        }
    }

    /// The volume that an overlay is.
    pub fn of(&self, overlay: &OverlayId) -> Option<(VolumeId, VolumeSpec)> {
        let rows = self.rows.lock();
        let found = rows.iter().find(|(_, row)| row.spec.overlay == *overlay);
        found.map(|(volume, row)| (*volume, row.spec.clone()))
    }

    /// The hold on a volume through which all its changes go; nothing if there is no such volume.
    ///
    /// # Errors
    /// Its overlay cannot be opened.
    pub fn attachment(&self, volume: VolumeId) -> overlay::Result<Option<Arc<Attachment>>> {
        if let Some(open) = self.open.lock().get(&volume) {
            return Ok(Some(open.clone()));
        }
        let Some(row) = self.rows.lock().get(&volume).cloned() else {
            return Ok(None);
        };
        // Others that are open are not held up meanwhile.
        let _opening = self.opening.lock();
        if let Some(open) = self.open.lock().get(&volume) {
            return Ok(Some(open.clone()));
        }
        let base = |id: &BaseId| Some((self.bases)(*id, row.spec.base_size));
        let overlay = self.store.open_overlay(&row.spec.overlay, &base)?;
        if overlay.info().incarnation != row.incarnation {
            let text = format!("volume {} of overlay {}", volume.0, row.spec.overlay);
            return Err(overlay::Error::new(ErrorKind::Evicted, text));
        }
        let attachment = Arc::new(overlay.attach());
        self.open.lock().insert(volume, attachment.clone());
        Ok(Some(attachment))
    }

    /// Whether the primary has admitted what changes here.
    pub fn set_admitted(&self, admitted: bool) {
        self.store.set_admitted(admitted);
    }

    /// Lets go of a volume that failed: the next work opens it again, as the disk has it. Only on a server whose disks no
    /// client uses.
    pub fn let_go(&self, volume: VolumeId) {
        self.open.lock().remove(&volume);
    }

    /// Makes a volume with nothing in it, or holds one that is there to what is said of it now.
    ///
    /// # Errors
    /// The overlay cannot be made.
    pub fn put(&self, volume: VolumeId, spec: &VolumeSpec) -> anyhow::Result<()> {
        let _alone = self.changing.lock();
        let known = self.rows.lock().get(&volume).cloned();
        match known {
            Some(row) => self.change(volume, row, spec),
            None => self.make(volume, spec),
        }
    }

    fn make(&self, volume: VolumeId, spec: &VolumeSpec) -> anyhow::Result<()> {
        let wanted = OverlaySpec {
            size: spec.size,
            quota: spec.quota,
            retention: spec.retention,
            base: (self.bases)(spec.base, spec.base_size),
        };
        let there = self.store.ids()?.contains(&spec.overlay);
        let overlay = match there {
            true => self.store.reset(&spec.overlay, wanted)?,
            false => self.store.create(&spec.overlay, wanted)?,
        };
        let older = self.of(&spec.overlay).map(|(older, _)| (older, None));
        let row = Row {
            spec: spec.clone(),
            incarnation: overlay.info().incarnation,
        };
        let changes: Vec<_> = older.into_iter().chain([(volume, Some(row))]).collect();
        self.write(&changes)
    }

    fn change(&self, volume: VolumeId, mut row: Row, spec: &VolumeSpec) -> anyhow::Result<()> {
        if row.spec == *spec {
            return Ok(());
        }
        if let Some(attachment) = self.attachment(volume)? {
            attachment.overlay().set_limits(Limits {
                quota: spec.quota,
                retention: spec.retention,
            })?;
        }
        (row.spec.quota, row.spec.retention) = (spec.quota, spec.retention);
        self.write(&[(volume, Some(row))])
    }

    /// Takes a volume away, if it is there.
    ///
    /// # Errors
    /// The overlay cannot be deleted.
    pub fn remove(&self, volume: VolumeId) -> anyhow::Result<()> {
        let _alone = self.changing.lock();
        let Some(row) = self.rows.lock().get(&volume).cloned() else {
            return Ok(());
        };
        self.write(&[(volume, None)])?;
        match self.store.delete(&row.spec.overlay) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What is kept of all volumes, in order.
    pub(super) fn rows(&self) -> Vec<(VolumeId, Row)> {
        let rows = self.rows.lock();
        rows.iter().map(|(v, row)| (*v, row.clone())).collect()
    }

    /// Puts rows back that were there before.
    pub(super) fn put_rows(&self, rows: &[(VolumeId, Row)]) -> anyhow::Result<()> {
        let rows = rows
            .iter()
            .map(|(volume, row)| (*volume, Some(row.clone())));
        self.write(&rows.collect::<Vec<_>>())
    }

    /// Takes a volume away, if it is there, and keeps its overlay. A crash in between leaves a volume that is not here any
    /// more, and never an overlay that is no volume's, which would be removed.
    pub(super) fn put_away(&self, volume: VolumeId) -> anyhow::Result<()> {
        let _alone = self.changing.lock();
        let Some(row) = self.rows.lock().get(&volume).cloned() else {
            return Ok(());
        };
        self.store.put_away(&row.spec.overlay)?;
        self.write(&[(volume, None)])
    }

    /// The overlay of a volume, if there is such a volume.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn overlay(&self, volume: VolumeId) -> overlay::Result<Option<Arc<Overlay>>> {
        let attachment = self.attachment(volume)?;
        Ok(attachment.map(|attachment| attachment.overlay().clone()))
    }

    /// Folds the hidden snapshots of a volume that are not needed. One that has none is not opened for that.
    ///
    /// # Errors
    /// As [`Overlay::fold_hidden`].
    pub fn fold_hidden(
        &self,
        volume: VolumeId,
        overlay: &OverlayId,
        is_needed: impl Fn(&SnapshotName) -> bool,
    ) -> overlay::Result<()> {
        let hidden = self.store.hidden_snapshots(overlay);
        if hidden.is_ok_and(|names| names.iter().all(&is_needed)) {
            return Ok(());
        }
        let opened = self.overlay(volume)?;
        opened.map_or(Ok(()), |overlay| overlay.fold_hidden(is_needed))
    }

    /// Writes rows, durably; then they are seen.
    fn write(&self, changes: &[(VolumeId, Option<Row>)]) -> anyhow::Result<()> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(VOLUMES)?;
            for (volume, row) in changes {
                match row {
                    Some(row) => drop(table.insert(volume.0, serde_json::to_vec(row)?.as_slice())?),
                    None => drop(table.remove(volume.0)?),
                }
            }
        }
        transaction.commit()?;
        let (mut rows, mut open) = (self.rows.lock(), self.open.lock());
        for (volume, row) in changes {
            match row {
                Some(row) => drop(rows.insert(*volume, row.clone())),
                None => {
                    rows.remove(volume);
                    open.remove(volume);
                }
            }
        }
        Ok(())
    }
}

fn load(database: &Database) -> anyhow::Result<BTreeMap<VolumeId, Row>> {
    let transaction = database.begin_read()?;
    let table = match transaction.open_table(VOLUMES) {
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        other => other?,
    };
    let mut rows = BTreeMap::new();
    for entry in table.iter()? {
        let (volume, row) = entry?;
        let row = serde_json::from_slice(row.value()).context("a volume's row")?;
        rows.insert(VolumeId(volume.value()), row);
    }
    Ok(rows)
}
