//! What a server of a pair has on its disks, and the works that the state machine asks of it.
//!
//! Must never apply a change that it was not asked for, and never report one that has not ended.

mod adoption;
pub mod damaged;
pub mod files;
pub mod kept;
pub mod record;
pub mod volumes;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use anyhow::Context;
use bytes::Bytes;
use mirror::{BLOCK, BlockRange, Blocks, Fault, Op, VolumeId, Work, Yield};
use overlay::{Attachment, Durability, ErrorKind, Overlay, RunKind, SnapshotName};
use parking_lot::Mutex;
use pxe::RedbLeases;

use crate::{clients::registry::Rows, service::pieces_of};
use damaged::blocks_of;
use kept::Kept;
use record::{Key, Number, Record, decode, difference, encode, lease_change};
use volumes::Volumes;

/// Long writes are stored in pieces that end at multiples of this. The host keeps what is written at once in pages of about
/// that size and looks through a whole one for each short write to it, which happens on two servers here: shorter than where
/// there is one ([`crate::service`]). Bytes.
const PIECE: u64 = 16 << 10;

/// All of it.
pub struct PairStore {
    /// The data directory.
    pub data: PathBuf,
    /// The machines' rows.
    pub rows: Arc<dyn Rows>,
    /// The leases.
    pub leases: RedbLeases,
    /// The disks.
    pub volumes: Volumes,
    /// A resync into this server has not ended.
    pub half_old: AtomicBool,
    /// Files that the other server does not get, and why, as of when all of them were last looked at.
    pub left_out: Mutex<Vec<String>>,
    /// What was here before that resync.
    pub kept: Kept,
}

/// Why a work failed, for the log; the state machine gets the class only.
pub type Failure = (Fault, anyhow::Error);

impl PairStore {
    /// Does a work to its end. May block.
    ///
    /// # Errors
    /// What the disk said.
    pub fn work(self: &Arc<Self>, work: Work) -> Result<Yield, Failure> {
        let volume = volume_of(&work);
        let done = self.try_work(work);
        if let (Some(volume), Err((_, error))) = (volume, &done) {
            self.volumes.note_failure(volume, error);
        }
        done
    }

    fn try_work(self: &Arc<Self>, work: Work) -> Result<Yield, Failure> {
        match work {
            Work::Apply(op) => self.apply(op),
            Work::Restore {
                volume,
                range,
                data,
            } => self.restore(volume, range, &data),
            Work::ReplaceMetadata(all) => {
                self.begin_to_keep()?;
                self.replace(&all).map_err(broken)
            }
            Work::ReadMetadata => self.gather().map(Yield::Data).map_err(broken),
            Work::GoBack => self.go_back().map(|()| Yield::Nothing).map_err(broken),
            Work::Forget => self.forget_kept().map(|()| Yield::Nothing).map_err(broken),
            Work::Flush(volume) => self.on(volume, |disk| disk.flush()),
            Work::Read { volume, range } => self
                .read(volume, range)
                .map(|found| found.map_or(Yield::Gone, |data| Yield::Data(data.into()))),
            Work::Sum { volume, range } => self.sum(volume, range),
            Work::Survey => self.survey().map_err(broken),
        }
    }

    /// How many bytes a work writes that ends at once: it copies whole blocks to the page cache.
    pub fn quick_bytes(&self, work: &Work) -> Option<u64> {
        match work {
            Work::Apply(Op::Write {
                volume,
                offset,
                length,
                ..
            }) if offset.is_multiple_of(BLOCK)
                && length.is_multiple_of(BLOCK)
                && !self.kept.wants(*volume) =>
            {
                Some(*length)
            }
            _ => None,
        }
    }

    fn disk(&self, volume: VolumeId) -> Result<Option<Arc<Attachment>>, Failure> {
        match self.volumes.attachment(volume) {
            // A fresh disk is about to take its place.
            Err(error) if error.kind() == ErrorKind::Evicted => Ok(None),
            found => found.map_err(of_overlay),
        }
    }

    /// Does something with a volume; nothing if there is none.
    fn on(
        &self,
        volume: VolumeId,
        work: impl FnOnce(&Attachment) -> overlay::Result<()>,
    ) -> Result<Yield, Failure> {
        match self.disk(volume)?.map(|disk| work(&disk)) {
            None => Ok(Yield::Gone),
            Some(Ok(())) => Ok(Yield::Nothing),
            // A fresh disk has just taken its place.
            Some(Err(error)) if is_replaced(&error) => Ok(Yield::Gone),
            Some(Err(error)) => Err(of_overlay(error)),
        }
    }

    /// A change of a volume that is not here is no success: the other server has that volume.
    fn change(
        &self,
        volume: VolumeId,
        work: impl FnOnce(&Attachment) -> overlay::Result<()>,
    ) -> Result<Yield, Failure> {
        match self.on(volume, work)? {
            Yield::Gone => Err(broken(anyhow::anyhow!("there is no volume {}", volume.0))),
            done => Ok(done),
        }
    }

    fn apply(&self, op: Op) -> Result<Yield, Failure> {
        self.keep_what(&op)?;
        match op {
            Op::Write {
                volume,
                offset,
                data,
                ..
            } => self.change(volume, |disk| {
                pieces_of(PIECE, offset, &data)
                    .try_for_each(|(at, piece)| disk.write(piece, at, Durability::Process))
            }),
            Op::Zero {
                volume,
                offset,
                length,
                trim,
            } => self.change(volume, |disk| {
                disk.write_zeroes(
                    offset..offset.saturating_add(length),
                    trim,
                    Durability::Process,
                )
            }),
            Op::Meta { record, .. } => {
                let records = decode(&record).context("a record of the metadata");
                let done = records.and_then(|records| self.make(&records));
                done.map(|()| Yield::Nothing).map_err(broken)
            }
        }
    }

    /// Makes records so, in their order.
    fn make(&self, records: &[Record]) -> anyhow::Result<()> {
        records.iter().try_for_each(|record| self.make_one(record))
    }

    fn make_one(&self, record: &Record) -> anyhow::Result<()> {
        match record {
            Record::Client { mac, row } => self.rows.write(mac, row.as_deref())?,
            Record::Lease { address, lease } => {
                self.leases
                    .write(&[lease_change(*address, lease.as_ref())])?;
            }
            Record::Volume { volume, spec } => match spec {
                Some(spec) => self.put((*volume).into(), spec)?,
                None => self.remove((*volume).into())?,
            },
            Record::Snapshot {
                volume,
                name,
                taken,
            } => self.snapshot((*volume).into(), name, *taken)?,
            Record::File { path, file } => files::apply(&self.data, path, file.as_ref())?,
        }
        Ok(())
    }

    fn snapshot(
        &self,
        volume: VolumeId,
        name: &SnapshotName,
        taken: Option<u64>,
    ) -> overlay::Result<()> {
        let Some(overlay) = self.volumes.overlay(volume)? else {
            return Ok(());
        };
        let has = overlay.snapshots().iter().any(|known| known.name == *name);
        match taken {
            // Of a disk that is half old and half new there is nothing to remember.
            Some(_) if self.half_old.load(Relaxed) => {}
            Some(taken) if !has => drop(overlay.snapshot(name, taken)?),
            None if has => drop_in_background(overlay, name.clone()),
            _ => {}
        }
        Ok(())
    }

    /// All metadata.
    fn gather(&self) -> anyhow::Result<Bytes> {
        let found = files::find_all(&self.data)?;
        for file in &found.left_out {
            tracing::error!("the other server does not get {file}");
        }
        *self.left_out.lock() = found.left_out;
        Ok(encode(&self.records_and(found.records)?)?)
    }

    fn records(&self) -> anyhow::Result<Vec<Record>> {
        self.records_and(files::all(&self.data)?)
    }

    /// All records, with those of the files as they were found.
    fn records_and(&self, files: Vec<Record>) -> anyhow::Result<Vec<Record>> {
        let rows = self.rows.load()?.into_iter();
        let mut records: Vec<_> = rows
            .map(|(mac, row)| Record::Client {
                mac,
                row: Some(row),
            })
            .collect();
        records.extend(self.leases.read()?.into_iter().map(Record::from));
        for (volume, spec) in self.volumes.specs() {
            records.push(Record::Volume {
                volume: volume.into(),
                spec: Some(spec),
            });
            if let Err(error) = self.add_snapshots(volume, &mut records) {
                // It concerns its own machine only.
                tracing::error!(
                    "volume {}: its snapshots are not known: {error:#}",
                    volume.0
                );
            }
        }
        records.extend(files);
        Ok(records)
    }

    fn add_snapshots(&self, volume: VolumeId, records: &mut Vec<Record>) -> anyhow::Result<()> {
        let overlay = self.volumes.overlay(volume)?;
        let snapshots = overlay.map(|overlay| overlay.snapshots());
        for snapshot in snapshots.unwrap_or_default() {
            records.push(Record::Snapshot {
                volume: volume.into(),
                name: snapshot.name,
                taken: Some(snapshot.taken),
            });
        }
        Ok(())
    }

    /// Puts the other server's metadata in the place of this one's. A snapshot that is not here cannot be made after the
    /// fact, and one of the same name that was taken at another time is another one.
    /// A damaged disk is put aside first, and nothing else done.
    fn replace(&self, all: &[u8]) -> anyhow::Result<Yield> {
        let new = decode(all).context("the other server's metadata")?;
        self.volumes.forget_aside()?;
        let lost = self.volumes.set_damaged_aside()?;
        if !lost.is_empty() {
            return Ok(Yield::Lost(blocks_of(&lost)));
        }
        let steps = difference(&self.records()?, &new);
        for step in &steps {
            match step {
                Record::Snapshot { taken: Some(_), .. } => {
                    self.make_one(&Record::absence(step.key()))?;
                }
                _ => self.make_one(step)?,
            }
        }
        Ok(Yield::Nothing)
    }

    /// The part of `range` that lies on a disk, in bytes.
    fn bytes_of(disk: &Attachment, range: BlockRange) -> std::ops::Range<u64> {
        let end = range.end.saturating_mul(BLOCK).min(disk.size());
        (range.start.saturating_mul(BLOCK)).min(end)..end
    }

    fn read(&self, volume: VolumeId, range: BlockRange) -> Result<Option<Vec<u8>>, Failure> {
        let Some(disk) = self.disk(volume)? else {
            return Ok(None);
        };
        let bytes = Self::bytes_of(&disk, range);
        let mut data = vec![0; (bytes.end - bytes.start) as usize];
        disk.read(&mut data, bytes.start).map_err(of_overlay)?;
        Ok(Some(data))
    }

    fn sum(&self, volume: VolumeId, range: BlockRange) -> Result<Yield, Failure> {
        Ok(match self.read(volume, range)? {
            None => Yield::Gone,
            Some(data) => Yield::Sum(checksum(&data)),
        })
    }

    /// Takes the other server's content. Blocks that read the same are left as they are, so that what lies in the base on
    /// one server lies there on the other.
    fn restore(&self, volume: VolumeId, range: BlockRange, data: &[u8]) -> Result<Yield, Failure> {
        let Some(disk) = self.disk(volume)? else {
            return Err(broken(anyhow::anyhow!("there is no volume {}", volume.0)));
        };
        let start = range.start.saturating_mul(BLOCK);
        let own = self.read(volume, range)?.unwrap_or_default();
        if own.len() != data.len() {
            let (own, theirs) = (own.len(), data.len());
            let text = format!("volume {}: {theirs} bytes where {own} are here", volume.0);
            return Err(broken(anyhow::anyhow!(text)));
        }
        if own != data {
            self.keep(volume)?;
        }
        for (number, (old, new)) in own
            .chunks(BLOCK as usize)
            .zip(data.chunks(BLOCK as usize))
            .enumerate()
        {
            if old != new {
                put(&disk, start + number as u64 * BLOCK, new).map_err(of_overlay)?;
            }
        }
        Ok(Yield::Nothing)
    }

    /// Every block that some overlay holds, zeros too.
    fn survey(&self) -> anyhow::Result<Yield> {
        let mut blocks = Blocks::default();
        for (volume, spec) in self.volumes.specs() {
            match self.survey_one(volume, spec.size, &mut blocks) {
                // It is being taken away, or a fresh one made in its place, beside the survey.
                Err(error) if is_replaced(&error) => {}
                // Any of it may have been changed.
                Err(error) if error.is_damage() => blocks.merge(&blocks_of(&[(volume, spec.size)])),
                done => done?,
            }
        }
        Ok(Yield::Blocks(blocks))
    }

    fn survey_one(&self, volume: VolumeId, size: u64, blocks: &mut Blocks) -> overlay::Result<()> {
        let Some(disk) = self.volumes.attachment(volume)? else {
            return Ok(());
        };
        // Not the block status: that also tells what is a hole in the base.
        let mut runs = Vec::new();
        disk.segments(0..size, &mut runs)?;
        for run in runs.into_iter().filter(|run| run.kind != RunKind::Base) {
            let length = run.range.end - run.range.start;
            blocks.insert(volume, BlockRange::touched(run.range.start, length));
        }
        Ok(())
    }

    /// The number of the volume that a new disk shall be.
    ///
    /// # Errors
    /// No random number is to be had.
    pub fn fresh_volume() -> anyhow::Result<Number> {
        Ok(Number(
            getrandom::u64().context("no random number to be had")?,
        ))
    }

    /// What takes a volume away.
    pub fn removal(volume: VolumeId) -> Record {
        Record::absence(Key::Volume(volume.into()))
    }
}

/// The volume that a work is about, if it is about one.
pub fn volume_of(work: &Work) -> Option<VolumeId> {
    match work {
        Work::Apply(Op::Write { volume, .. } | Op::Zero { volume, .. })
        | Work::Restore { volume, .. }
        | Work::Read { volume, .. }
        | Work::Sum { volume, .. }
        | Work::Flush(volume) => Some(*volume),
        Work::Apply(Op::Meta { .. })
        | Work::ReplaceMetadata(_)
        | Work::ReadMetadata
        | Work::GoBack
        | Work::Forget
        | Work::Survey => None,
    }
}

/// What only the snapshot holds moves out of it first: that takes as long as copying it, and nobody waits for it.
fn drop_in_background(overlay: Arc<Overlay>, name: SnapshotName) {
    let id = overlay.id().clone();
    let work = move || {
        if let Err(error) = overlay.drop_snapshot(&name) {
            tracing::warn!("snapshot {name} of overlay {} stays: {error}", overlay.id());
        }
    };
    let thread = std::thread::Builder::new().name("pair-snapshot".into());
    if let Err(error) = thread.spawn(work) {
        tracing::warn!("a snapshot of overlay {id} stays: {error}");
    }
}

/// Writes a block; one of zeros takes no room.
fn put(disk: &Attachment, offset: u64, data: &[u8]) -> overlay::Result<()> {
    match data.iter().all(|byte| *byte == 0) {
        true => disk.write_zeroes(
            offset..offset + data.len() as u64,
            true,
            Durability::Process,
        ),
        false => disk.write(data, offset, Durability::Process),
    }
}

/// Of what is compared between the servers: eight bytes of BLAKE3.
fn checksum(data: &[u8]) -> u64 {
    let hash = blake3::hash(data);
    hash.as_bytes()[..8]
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn is_replaced(error: &overlay::Error) -> bool {
    matches!(error.kind(), ErrorKind::Evicted | ErrorKind::NotFound)
}

/// What has several steps may have been half done.
fn broken(error: anyhow::Error) -> Failure {
    (Fault::Broken, error)
}

fn of_overlay(error: overlay::Error) -> Failure {
    let fault = match error.is_no_space() {
        true => Fault::NoSpace,
        false => Fault::Broken,
    };
    (fault, error.into())
}

#[cfg(test)]
mod tests;
