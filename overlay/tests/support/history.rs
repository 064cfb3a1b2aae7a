//! What was done to a disk and when, and what a crash may therefore leave on it.

use overlay::{Attempt, Base, BaseId, Extent, Result};
use std::ops::{ControlFlow, Range};

use super::image::SECTOR;

/// The parts of the disk that are used, in sectors: its beginning, and where a word and a sector of the map end.
const WINDOWS: [Range<u64>; 2] = [0..20 * 8, 2006 * 8..2026 * 8];
/// Size of the disk in sectors; the last block is not whole.
pub const DISK: u64 = 2100 * 8 - 3;
/// Size of the base in sectors.
const BASE: u64 = 2010 * 8 + 3;
/// Sectors in the windows.
pub const USED: usize = 40 * 8;

/// Sector of the disk for a sector of the windows.
pub fn place(used: usize) -> u64 {
    let used = used as u64;
    let first = WINDOWS[0].end;
    if used < first {
        used
    } else {
        WINDOWS[1].start + used - first
    }
}

/// Content of a sector that `tag` wrote; 0 is zeros.
pub fn content(tag: u64, sector: u64) -> [u8; SECTOR as usize] {
    let mut bytes = [0; SECTOR as usize];
    if tag != 0 {
        let word = tag << 32 | sector;
        bytes.as_chunks_mut::<8>().0.fill(word.to_le_bytes());
    }
    bytes
}

/// Who wrote these bytes; `None` if they are a mixture, or were written for another sector.
fn decode(bytes: &[u8], sector: u64) -> Option<u64> {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[..8]);
    let tag = u64::from_le_bytes(word) >> 32;
    (bytes == content(tag, sector)).then_some(tag)
}

/// A base in which every sector says which base it is of.
pub struct TagBase {
    id: BaseId,
    tag: u64,
}

impl TagBase {
    pub fn new(epoch: usize) -> Self {
        let tag = epoch as u64 + 1;
        Self {
            id: super::base_id(tag as u8),
            tag,
        }
    }
}

impl Base for TagBase {
    fn id(&self) -> &BaseId {
        &self.id
    }

    fn size(&self) -> u64 {
        BASE * SECTOR
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        assert!(offset.is_multiple_of(SECTOR) && offset + buf.len() as u64 <= self.size());
        for (i, bytes) in buf.chunks_exact_mut(512).enumerate() {
            bytes.copy_from_slice(&content(self.tag, offset / SECTOR + i as u64));
        }
        Ok(())
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    fn resident(&self, _range: Range<u64>) -> Option<&std::fs::File> {
        None
    }

    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        let _ = found(Extent { range, hole: false });
        Ok(())
    }
}

/// A content of a sector, and from which mark to which its writing lasted.
#[derive(Clone)]
struct Version {
    tag: u64,
    begin: usize,
    end: usize,
    fua: bool,
}

/// A snapshot: its content, from when it must be there, and until when.
#[derive(Clone)]
pub struct Taken {
    pub name: String,
    pub begin: usize,
    pub end: usize,
    /// Begin and end of its drop.
    pub dropped: (usize, usize),
    /// It is dropped by a fold: what it reads while that goes on is nothing that anybody wants.
    pub folded: bool,
    pub tags: Vec<u64>,
}

/// What was done between two resets.
#[derive(Clone)]
pub struct Epoch {
    /// Begin and end of the reset that began it.
    pub made: (usize, usize),
    sectors: Vec<Vec<Version>>,
    /// Begin and end of flushes.
    pub flushes: Vec<(usize, usize)>,
    pub snapshots: Vec<Taken>,
}

pub const NEVER: usize = usize::MAX;

impl Epoch {
    pub fn new(number: usize, made: (usize, usize)) -> Self {
        let fresh = |used| Version {
            tag: if place(used) < BASE {
                number as u64 + 1
            } else {
                0
            },
            begin: 0,
            end: 0,
            fua: true,
        };
        Self {
            made,
            sectors: (0..USED).map(|used| vec![fresh(used)]).collect(),
            flushes: Vec::new(),
            snapshots: Vec::new(),
        }
    }

    pub fn wrote(&mut self, used: Range<usize>, tag: u64, begin: usize, end: usize, fua: bool) {
        for sector in &mut self.sectors[used] {
            sector.push(Version {
                tag,
                begin,
                end,
                fua,
            });
        }
    }

    /// What each sector holds, where nothing ran side by side.
    pub fn tags(&self) -> Vec<u64> {
        self.sectors
            .iter()
            .map(|versions| versions.last().unwrap().tag)
            .collect()
    }

    /// Whether `tag` may be read in a sector after a crash before mark `at`.
    fn allows(&self, used: usize, tag: u64, at: usize, power: bool) -> bool {
        // Of what was flushed, the newest that surely is on disk.
        let flushed = self
            .flushes
            .iter()
            .filter(|(_, end)| *end < at)
            .map(|(begin, _)| *begin)
            .max();
        let safe = |version: &Version| {
            let flushed = flushed.is_some_and(|flush| version.end < flush);
            version.end < at && (!power || flushed || version.fua)
        };
        let versions = &self.sectors[used];
        let newest_safe = versions
            .iter()
            .filter(|v| safe(v))
            .map(|v| v.begin)
            .max()
            .unwrap_or(0);
        let fits = |v: &Version| v.tag == tag && v.begin < at.max(1) && v.end >= newest_safe;
        versions.iter().any(fits)
    }

    /// Says what is wrong with a disk read after a crash.
    pub fn judge(&self, disk: &[u8], at: usize, power: bool) -> Result<(), String> {
        for (used, bytes) in disk.chunks_exact(512).enumerate() {
            let sector = place(used);
            let allowed =
                decode(bytes, sector).is_some_and(|tag| self.allows(used, tag, at, power));
            if !allowed {
                let found = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                return Err(format!(
                    "sector {sector}: write {} of sector {}",
                    found >> 32,
                    found as u32
                ));
            }
        }
        Ok(())
    }
}
