//! A server's disk: what is in the page cache, what is on the platter, and what a power cut leaves.

use std::collections::BTreeMap;

use bytes::Bytes;
use mirror::{BLOCK, BlockRange, Blocks, Generation, Op, VolumeId, Work, Yield};

use crate::random::Random;

/// Bytes of a sector: half a block, so that changes of parts of blocks are tried too.
pub const SECTOR: u64 = BLOCK / 2;
/// Sectors of a volume.
pub const SECTORS: usize = 16;

pub type Volume = [u64; SECTORS];

#[derive(Clone, Default)]
pub struct Disk {
    /// What a read sees.
    pub cache: BTreeMap<VolumeId, Volume>,
    /// What is on the platter.
    pub platter: BTreeMap<VolumeId, Volume>,
    /// Everything written since the last flush that ended: any of it may be on the platter after a power cut.
    loose: BTreeMap<(VolumeId, usize), Vec<u64>>,
    /// Metadata: durable at once.
    pub metadata: BTreeMap<u64, u64>,
    /// Kept from before a resync.
    pub kept: Kept,
}

/// What was there before it was changed for the first time; durable at once.
#[derive(Clone, Default)]
pub struct Kept {
    name: Option<Generation>,
    volumes: BTreeMap<VolumeId, Volume>,
    metadata: Option<BTreeMap<u64, u64>>,
}

/// All that a disk holds.
pub type Content = (BTreeMap<VolumeId, Volume>, BTreeMap<u64, u64>);

/// What a flush found when it began.
pub type Snapshot = (VolumeId, Vec<(usize, u64)>);

pub fn encode(values: &[u64]) -> Bytes {
    values
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect::<Vec<u8>>()
        .into()
}

pub fn decode(data: &Bytes) -> Vec<u64> {
    data.chunks_exact(8)
        .map(|c| u64::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

impl Disk {
    pub fn new(volumes: u64) -> Self {
        let fresh = || (0..volumes).map(|v| (VolumeId(v), [0; SECTORS])).collect();
        Self {
            cache: fresh(),
            platter: fresh(),
            ..Self::default()
        }
    }

    pub fn read(&self, volume: VolumeId, sector: usize) -> u64 {
        self.cache[&volume][sector]
    }

    fn put(&mut self, volume: VolumeId, sector: usize, value: u64) {
        self.cache.get_mut(&volume).unwrap()[sector] = value;
        self.loose.entry((volume, sector)).or_default().push(value);
    }

    fn put_all(&mut self, volume: VolumeId, offset: u64, values: &[u64]) {
        for (i, value) in values.iter().enumerate() {
            self.put(volume, (offset / SECTOR) as usize + i, *value);
        }
    }

    fn sectors(range: BlockRange) -> std::ops::Range<usize> {
        (range.start * 2) as usize..((range.end * 2) as usize).min(SECTORS)
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write {
                volume,
                offset,
                data,
                ..
            } => self.put_all(*volume, *offset, &decode(data)),
            Op::Zero {
                volume,
                offset,
                length,
                ..
            } => {
                self.put_all(*volume, *offset, &vec![0; (length / SECTOR) as usize]);
            }
            Op::Meta { record, .. } => {
                let pair = decode(record);
                self.metadata.insert(pair[0], pair[1]);
            }
        }
    }

    /// Keeps under `name` what a work is about to change.
    fn keep(&mut self, name: Generation, work: &Work) {
        if self.kept.name != Some(name) {
            self.kept = Kept {
                name: Some(name),
                ..Kept::default()
            };
        }
        match work {
            Work::Apply(Op::Meta { .. }) | Work::ReplaceMetadata(_) => {
                let metadata = &self.metadata;
                self.kept.metadata.get_or_insert_with(|| metadata.clone());
            }
            Work::Apply(Op::Write { volume, .. } | Op::Zero { volume, .. })
            | Work::Restore { volume, .. } => self.keep_volume(*volume),
            _ => {}
        }
    }

    /// A snapshot is on the platter.
    fn keep_volume(&mut self, volume: VolumeId) {
        if self.kept.volumes.contains_key(&volume) {
            return;
        }
        let content = self.cache[&volume];
        self.kept.volumes.insert(volume, content);
        self.platter.insert(volume, content);
        self.loose.retain(|(of, _), _| *of != volume);
    }

    /// What would be there after going back to what is kept under `name`.
    pub fn before(&self, name: Generation) -> Content {
        let (mut volumes, mut metadata) = (self.cache.clone(), self.metadata.clone());
        if self.kept.name == Some(name) {
            volumes.extend(self.kept.volumes.clone());
            metadata = self.kept.metadata.clone().unwrap_or(metadata);
        }
        (volumes, metadata)
    }

    pub fn forget(&mut self) {
        self.kept = Kept::default();
    }

    /// Whether something is kept.
    pub fn keeps(&self) -> bool {
        self.kept.name.is_some()
    }

    /// Goes back, by volumes. What is kept of one is used up by it.
    fn go_back(&mut self) {
        for (volume, content) in std::mem::take(&mut self.kept.volumes) {
            self.put_back(volume, content);
        }
        if let Some(metadata) = self.kept.metadata.take() {
            self.metadata = metadata;
        }
    }

    fn put_back(&mut self, volume: VolumeId, content: Volume) {
        self.cache.insert(volume, content);
        self.platter.insert(volume, content);
        self.loose.retain(|(of, _), _| *of != volume);
    }

    /// Goes back with some volumes only. What bears another name than `keeps` is of no use.
    pub fn go_half_back(&mut self, keeps: Option<Generation>, random: &mut Random) {
        if self.kept.name != keeps {
            return;
        }
        for (volume, content) in std::mem::take(&mut self.kept.volumes) {
            match random.one_in(2) {
                true => self.put_back(volume, content),
                false => _ = self.kept.volumes.insert(volume, content),
            }
        }
        if random.one_in(2)
            && let Some(metadata) = self.kept.metadata.take()
        {
            self.metadata = metadata;
        }
    }

    /// The effect of a work, which may be anywhere between its start and its end. Under `keeps` is kept what it changes.
    pub fn work(&mut self, work: &Work, keeps: Option<Generation>) -> Yield {
        if let Some(name) = keeps {
            self.keep(name, work);
        }
        match work {
            Work::GoBack => self.go_back(),
            Work::Forget => self.forget(),
            Work::Apply(op) => self.apply(op),
            Work::Restore {
                volume,
                range,
                data,
            } => self.put_all(*volume, range.start * BLOCK, &decode(data)),
            Work::ReplaceMetadata(all) => {
                let pairs = decode(all);
                self.metadata = pairs.chunks_exact(2).map(|p| (p[0], p[1])).collect();
            }
            Work::ReadMetadata => {
                let flat: Vec<u64> = self.metadata.iter().flat_map(|(k, v)| [*k, *v]).collect();
                return Yield::Data(encode(&flat));
            }
            Work::Read { volume, range } => {
                return Yield::Data(encode(&self.cache[volume][Self::sectors(*range)]));
            }
            Work::Sum { volume, range } => return Yield::Sum(self.sum(*volume, *range)),
            Work::Survey => return Yield::Blocks(self.survey()),
            Work::Flush(_) => unreachable!("flushes have a snapshot"),
        }
        Yield::Nothing
    }

    fn sum(&self, volume: VolumeId, range: BlockRange) -> u64 {
        let values = &self.cache[&volume][Self::sectors(range)];
        values.iter().fold(1, |sum: u64, v| {
            (sum.rotate_left(7) ^ v).wrapping_mul(0x100_0000_01B3)
        })
    }

    /// Silently holds something else from here on, also on the platter.
    pub fn spoil(&mut self, volume: VolumeId, sector: usize, value: u64) {
        self.cache.get_mut(&volume).unwrap()[sector] = value;
        self.platter.get_mut(&volume).unwrap()[sector] = value;
    }

    /// A volume whose files are damaged is put aside: there is nothing of it any more. Gives what it may have held.
    pub fn lose(&mut self, volume: VolumeId) -> Blocks {
        self.cache.insert(volume, [0; SECTORS]);
        self.platter.insert(volume, [0; SECTORS]);
        self.loose.retain(|(of, _), _| *of != volume);
        let mut all = Blocks::default();
        all.insert(volume, BlockRange::touched(0, SECTORS as u64 * SECTOR));
        all
    }

    fn survey(&self) -> Blocks {
        let mut blocks = Blocks::default();
        for (volume, sectors) in &self.cache {
            let platter = &self.platter[volume];
            for i in 0..SECTORS {
                let touched = self.loose.contains_key(&(*volume, i));
                if sectors[i] == 0 && platter[i] == 0 && !touched {
                    continue;
                }
                blocks.insert(*volume, BlockRange::touched(i as u64 * SECTOR, SECTOR));
            }
        }
        blocks
    }

    pub fn begin_flush(&self, volume: VolumeId) -> Snapshot {
        let values = self.cache[&volume];
        let loose = self.loose.keys().filter(|(of, _)| *of == volume);
        (
            volume,
            loose
                .map(|(_, sector)| (*sector, values[*sector]))
                .collect(),
        )
    }

    pub fn end_flush(&mut self, (volume, values): Snapshot) {
        for (sector, value) in values {
            let Some(list) = self.loose.get_mut(&(volume, sector)) else {
                continue; // A flush that began later has ended earlier.
            };
            let Some(at) = list.iter().rposition(|v| *v == value) else {
                continue;
            };
            self.platter.get_mut(&volume).unwrap()[sector] = value;
            list.drain(..=at);
            if list.is_empty() {
                self.loose.remove(&(volume, sector));
            }
        }
    }

    /// Each sector that was not flushed falls back to what is on the platter, or to anything written since.
    pub fn power_cut(&mut self, random: &mut Random) {
        for ((volume, sector), values) in std::mem::take(&mut self.loose) {
            let kept = random.below(values.len() as u64 + 1) as usize;
            if kept > 0 {
                self.platter.get_mut(&volume).unwrap()[sector] = values[kept - 1];
            }
        }
        self.cache = self.platter.clone();
    }
}
