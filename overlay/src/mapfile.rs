//! The two files of a layer's map; FORMAT.md describes them byte by byte.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use uuid::Uuid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::map::{Lanes, Map, Word};
use crate::storage::StoredFile;

/// What a disk writes wholly or not at all.
pub(crate) const SECTOR: usize = 512;
/// Words of the map in a sector of the durable map.
pub(crate) const SECTOR_WORDS: u64 = 63;
/// Marks a sector of the durable map that was ever written.
pub(crate) const SECTOR_MAGIC: [u8; 4] = *b"BRm1";
/// Sectors of the durable map for which room is made at a time.
const ROOM_SECTORS: u64 = 8;
/// Changed sectors that may wait for a flush: bounds what a flush must hold in memory (32 MiB).
#[cfg(not(test))]
const MOST_CHANGED: usize = 1 << 16;
#[cfg(test)]
const MOST_CHANGED: usize = 4;
/// Bytes read at a time while loading.
const CHUNK: u64 = 64 << 10;

fn corrupt(text: String) -> Error {
    Error::new(ErrorKind::Corrupt, text)
}

/// Length of the live map file for a map of `words` words.
pub(crate) fn live_len(words: u64) -> u64 {
    (words * 8).next_multiple_of(4096)
}

/// Sectors of the durable map for a map of `words` words.
pub(crate) fn sectors(words: u64) -> u64 {
    words.div_ceil(SECTOR_WORDS)
}

/// Length of the durable map file for a map of `words` words.
pub(crate) fn durable_len(words: u64) -> u64 {
    (sectors(words) * SECTOR as u64).next_multiple_of(4096)
}

/// Calls `found` with every chunk of `file` that may hold something other than zeros.
fn scan(
    file: &dyn StoredFile,
    len: u64,
    found: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut buf = vec![0; CHUNK.min(len) as usize];
    let mut at = 0;
    while let Some(data) = file.next_data(at).context(|| "scanning a map".into())? {
        at = data.start.max(at) / SECTOR as u64 * SECTOR as u64;
        let end = data.end.next_multiple_of(SECTOR as u64).min(len);
        while at < end {
            let part = &mut buf[..(end - at).min(CHUNK) as usize];
            file.read_at(part, at)
                .context(|| format!("reading a map at byte {at}"))?;
            found(at, part)?;
            at += part.len() as u64;
        }
        at = at.max(data.end);
        if at >= len {
            break;
        }
    }
    Ok(())
}

fn check_len(file: &dyn StoredFile, want: u64, name: &str) -> Result<()> {
    let len = file.len().context(|| format!("measuring {name}"))?;
    if len == want {
        return Ok(());
    }
    Err(corrupt(format!(
        "{name} is {len} bytes long and should be {want}"
    )))
}

/// Stores a word read from disk, if it is one that this code may have written.
fn accept(map: &Map, word: u64, value: Word, name: &str) -> Result<()> {
    let legal = Lanes::of(word, &(0..map.blocks()));
    if !value.is_valid() || value.0 & !legal.0 != 0 {
        return Err(corrupt(format!(
            "{name}: word {word} holds {:#018x}, which is no state",
            value.0
        )));
    }
    if value.0 != 0 {
        map.store(word, value);
    }
    Ok(())
}

/// Reads the live map in `file` into `map`.
pub(crate) fn load_live(file: &dyn StoredFile, map: &Map, name: &str) -> Result<()> {
    let len = live_len(map.words());
    check_len(file, len, name)?;
    scan(file, len, &mut |at, bytes| {
        for (word, value) in (at / 8..).zip(bytes.chunks_exact(8)) {
            accept(map, word, Word(le64(value)), name)?;
        }
        Ok(())
    })
}

/// Writes all of `map` to the fresh live map `file`.
pub(crate) fn store_live(file: &dyn StoredFile, map: &Map) -> io::Result<()> {
    const PAGE: u64 = crate::map::PAGE_WORDS;
    for page in map.touched_pages() {
        let words = page * PAGE..(page + 1) * PAGE;
        let bytes: Vec<u8> = words.flat_map(|w| map.word(w).0.to_le_bytes()).collect();
        file.write_at(&bytes, page * PAGE * 8)?;
    }
    Ok(())
}

fn le64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The checksum of a sector: of the layer it belongs to, its number, and its words.
fn checksum(layer: Uuid, sector: u64, words: &[u8]) -> u32 {
    let sum = crc32c::crc32c(layer.as_bytes());
    let sum = crc32c::crc32c_append(sum, &sector.to_le_bytes());
    crc32c::crc32c_append(sum, words)
}

/// Writes sector `sector` of `map` into `out`.
pub(crate) fn encode(layer: Uuid, sector: u64, map: &Map, out: &mut [u8; SECTOR]) {
    let first = sector * SECTOR_WORDS;
    let (words, trailer) = out.split_at_mut(SECTOR_WORDS as usize * 8);
    for (word, bytes) in (first..).zip(words.chunks_exact_mut(8)) {
        bytes.copy_from_slice(&map.word(word).0.to_le_bytes());
    }
    trailer[..4].copy_from_slice(&SECTOR_MAGIC);
    trailer[4..].copy_from_slice(&checksum(layer, sector, words).to_le_bytes());
}

/// Gives the sector the trailer that its words ask for, if it has any.
#[cfg(fuzzing)]
pub(crate) fn seal(layer: Uuid, sector: u64, bytes: &mut [u8; SECTOR]) {
    if bytes.iter().any(|byte| *byte != 0) {
        let (words, trailer) = bytes.split_at_mut(SECTOR_WORDS as usize * 8);
        trailer[..4].copy_from_slice(&SECTOR_MAGIC);
        trailer[4..].copy_from_slice(&checksum(layer, sector, words).to_le_bytes());
    }
}

/// Reads a sector of the durable map into `map`; one all zeros was never written.
fn decode(layer: Uuid, sector: u64, bytes: &[u8], map: &Map, name: &str) -> Result<()> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    let (words, trailer) = bytes.split_at(SECTOR_WORDS as usize * 8);
    let sum = checksum(layer, sector, words).to_le_bytes();
    if trailer[..4] != SECTOR_MAGIC || trailer[4..] != sum {
        return Err(corrupt(format!(
            "{name}: the checksum of sector {sector} is wrong"
        )));
    }
    for (word, value) in (sector * SECTOR_WORDS..).zip(words.chunks_exact(8)) {
        accept(map, word, Word(le64(value)), name)?;
    }
    Ok(())
}

/// Reads the durable map in `file` into `map`.
pub(crate) fn load_durable(
    file: &dyn StoredFile,
    layer: Uuid,
    map: &Map,
    name: &str,
) -> Result<()> {
    let len = durable_len(map.words());
    check_len(file, len, name)?;
    scan(file, len, &mut |at, bytes| {
        let sectors = bytes.chunks_exact(SECTOR);
        for (sector, bytes) in (at / SECTOR as u64..).zip(sectors) {
            decode(layer, sector, bytes, map, name)?;
        }
        Ok(())
    })
}

/// A set of numbers that threads only ever add to.
struct Bits(Box<[AtomicU64]>);

impl Bits {
    fn new(len: u64) -> Self {
        Self((0..len.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    fn set(&self, bit: u64) {
        self.0[(bit / 64) as usize].fetch_or(1 << (bit % 64), Ordering::Relaxed);
    }

    fn get(&self, bit: u64) -> bool {
        self.0[(bit / 64) as usize].load(Ordering::Relaxed) >> (bit % 64) & 1 == 1
    }
}

/// The sectors that wait for a flush, each once. Mark and list change under one lock: whoever finds a sector marked
/// knows that the next flush will find it listed.
struct Waiting {
    marks: Box<[u64]>,
    sectors: Vec<u32>,
}

impl Waiting {
    fn new(sectors: u64) -> Self {
        Self {
            marks: vec![0; sectors.div_ceil(64) as usize].into(),
            sectors: Vec::new(),
        }
    }

    fn add(&mut self, sector: u32) {
        let mask = 1 << (sector % 64);
        let mark = &mut self.marks[sector as usize / 64];
        if *mark & mask == 0 {
            *mark |= mask;
            self.sectors.push(sector);
        }
    }

    fn take(&mut self) -> Vec<u32> {
        let sectors = std::mem::take(&mut self.sectors);
        for sector in &sectors {
            self.marks[*sector as usize / 64] &= !(1 << (sector % 64));
        }
        sectors
    }
}

/// What a flush will write, taken down before the data is synced.
pub(crate) struct Captured {
    sectors: Vec<u32>,
    image: Vec<u8>,
}

impl Captured {
    pub(crate) fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }
}

/// The durable map of one layer: its file, and which sectors lag behind the map in memory.
pub(crate) struct Durable {
    file: std::sync::Arc<dyn StoredFile>,
    layer: Uuid,
    waiting: Mutex<Waiting>,
    /// More than [`MOST_CHANGED`] wait; looked at with every write, so not below the lock.
    crowded: AtomicBool,
    roomy: Bits,
}

impl Durable {
    pub(crate) fn new(file: std::sync::Arc<dyn StoredFile>, layer: Uuid, words: u64) -> Self {
        let sectors = sectors(words);
        Self {
            file,
            layer,
            waiting: Mutex::new(Waiting::new(sectors)),
            crowded: AtomicBool::new(false),
            roomy: Bits::new(sectors.div_ceil(ROOM_SECTORS)),
        }
    }

    /// Takes space on disk for the sectors of `words`, so that a full disk fails the write and not a later flush.
    pub(crate) fn make_room(&self, words: &Range<u64>) -> io::Result<()> {
        let last = (words.end - 1) / SECTOR_WORDS / ROOM_SECTORS;
        for room in words.start / SECTOR_WORDS / ROOM_SECTORS..=last {
            if self.roomy.get(room) {
                continue;
            }
            let len = ROOM_SECTORS * SECTOR as u64;
            match self.file.allocate(room * len..(room + 1) * len) {
                Err(e) if e.kind() != io::ErrorKind::Unsupported => return Err(e),
                _ => self.roomy.set(room),
            }
        }
        Ok(())
    }

    /// Notes that `words` were stored in the map in memory (after the store, or a flush could miss it).
    pub(crate) fn note(&self, words: &Range<u64>) {
        let mut waiting = self.waiting.lock();
        for sector in words.start / SECTOR_WORDS..=(words.end - 1) / SECTOR_WORDS {
            waiting.add(sector as u32);
        }
        let crowded = waiting.sectors.len() > MOST_CHANGED;
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Whether so much waits that it should be flushed before more is added.
    pub(crate) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.waiting.lock().sectors.is_empty()
    }

    /// Takes down the changed sectors as they are now, and forgets that they changed.
    pub(crate) fn capture(&self, map: &Map) -> Captured {
        // First the marks, then the words: a change in between is marked again.
        let mut sectors = {
            let mut waiting = self.waiting.lock();
            self.crowded.store(false, Ordering::Relaxed);
            waiting.take()
        };
        sectors.sort_unstable();
        let mut image = vec![0; sectors.len() * SECTOR];
        let (slots, _) = image.as_chunks_mut::<SECTOR>();
        for (sector, out) in sectors.iter().zip(slots) {
            encode(self.layer, u64::from(*sector), map, out);
        }
        Captured { sectors, image }
    }

    /// Puts what was captured back among the changed, after a flush that failed.
    pub(crate) fn put_back(&self, captured: &Captured) {
        let mut waiting = self.waiting.lock();
        let sectors = captured.sectors.iter();
        sectors.for_each(|sector| waiting.add(*sector));
        let crowded = waiting.sectors.len() > MOST_CHANGED;
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Writes what was captured, neighbours together.
    pub(crate) fn write(&self, captured: &Captured) -> io::Result<()> {
        let mut image = captured.image.as_slice();
        for run in captured.sectors.chunk_by(|a, b| a + 1 == *b) {
            let (bytes, rest) = image.split_at(run.len() * SECTOR);
            let first = run.first().map_or(0, |sector| u64::from(*sector));
            self.file.write_at(bytes, first * SECTOR as u64)?;
            image = rest;
        }
        Ok(())
    }

    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// Notes all sectors that hold anything.
    pub(crate) fn note_all(&self, map: &Map) {
        self.note_differences(map, &Map::new(map.blocks()));
    }

    /// Notes the sectors in which `map` differs from what `durable` says.
    pub(crate) fn note_differences(&self, map: &Map, durable: &Map) {
        let differs = |word: &u64| map.word(*word) != durable.word(*word);
        let pages = map.touched_pages().chain(durable.touched_pages());
        let words = |page| page * crate::map::PAGE_WORDS..(page + 1) * crate::map::PAGE_WORDS;
        for word in pages.flat_map(words).filter(differs) {
            self.note(&(word..word + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{State, WORD_BLOCKS};
    use crate::storage::{OpenMode, Storage};
    use std::thread;

    /// Two threads change words of one sector side by side; whoever is through finds its change captured.
    #[test]
    fn a_flush_takes_down_what_was_noted_before_it() {
        const ROUNDS: u64 = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let file = crate::disk::HostDisk.open(&dir.path().join("map"), OpenMode::CreateNew);
        let map = Map::new(64 * WORD_BLOCKS);
        let durable = Durable::new(file.unwrap(), Uuid::from_u128(1), map.words());
        let round = AtomicU64::new(0);
        let mut missed = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=ROUNDS {
                    while round.load(Ordering::Acquire) < number {
                        std::hint::spin_loop();
                    }
                    durable.note(&(0..1));
                }
            });
            for number in 1..=ROUNDS {
                let value = [State::Data, State::Zero][number as usize % 2];
                let lanes = Lanes::of(1, &(WORD_BLOCKS..2 * WORD_BLOCKS));
                map.store(1, Word::default().with(lanes, value));
                round.store(number, Ordering::Release);
                // Sweeps how far the two are apart.
                (0..number % 100).for_each(|_| std::hint::spin_loop());
                durable.note(&(1..2));
                let captured = durable.capture(&map);
                missed += u64::from(captured.image.get(8..16).map(le64) != Some(map.word(1).0));
            }
        });
        assert_eq!(missed, 0, "changes that a flush did not see");
    }
}
