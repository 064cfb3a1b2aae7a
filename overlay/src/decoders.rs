//! The decoders of what is on disk, for fuzzing alone: built with `--cfg fuzzing` only, as cargo-fuzz does.
//!
//! Each takes any bytes. It must not panic, and what it accepts must come out again as it went in.

use std::io;
use std::ops::Range;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::manifest::Manifest;
use crate::map::{Map, WORD_BLOCKS};
use crate::mapfile::{self, SECTOR, SECTOR_WORDS};
use crate::storage::{Attempt, StoredFile};

/// Blocks of the disk whose maps are read: more than a sector of the durable map holds, and no whole word at the end.
const BLOCKS: u64 = SECTOR_WORDS * WORD_BLOCKS * 3 / 2 + 7;
const LAYER: Uuid = Uuid::from_u128(7);

/// The file `manifest`.
pub fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::decode(bytes) else {
        return;
    };
    let again = manifest.encode().expect("it can be written");
    assert_eq!(Manifest::decode(&again).expect("it can be read"), manifest);
}

/// A live map that begins with `bytes`.
pub fn live_map(bytes: &[u8]) {
    let map = Map::new(BLOCKS);
    let file = Bytes::new(bytes, mapfile::live_len(map.words()));
    if mapfile::load_live(&file, &map, "live").is_err() {
        return;
    }
    let again = Bytes::new(&[], mapfile::live_len(map.words()));
    mapfile::store_live(&again, &map).expect("in memory");
    let words = map.words() as usize * 8;
    assert_eq!(again.0.lock()[..words], file.0.lock()[..words]);
}

/// A durable map that begins with `bytes`; with `sealed` its checksums are put right, so that what lies behind them
/// is reached.
pub fn durable_map(bytes: &[u8], sealed: bool) {
    let map = Map::new(BLOCKS);
    let file = Bytes::new(bytes, mapfile::durable_len(map.words()));
    if sealed {
        let mut bytes = file.0.lock();
        let (sectors, _) = bytes.as_chunks_mut::<SECTOR>();
        let numbered = (0..mapfile::sectors(map.words())).zip(sectors);
        numbered.for_each(|(number, sector)| mapfile::seal(LAYER, number, sector));
    }
    if mapfile::load_durable(&file, LAYER, &map, "durable").is_err() {
        return;
    }
    let mut again = [0; SECTOR];
    mapfile::encode(LAYER, 0, &map, &mut again);
    let sector = &file.0.lock()[..SECTOR];
    // One that was never written says the same as one that says nothing.
    assert!(sector == again || sector.iter().all(|byte| *byte == 0));
}

/// A file in memory.
struct Bytes(Mutex<Vec<u8>>);

impl Bytes {
    fn new(start: &[u8], len: u64) -> Self {
        let mut bytes = start.to_vec();
        bytes.resize(len as usize, 0);
        Self(Mutex::new(bytes))
    }
}

impl StoredFile for Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock();
        let there = bytes
            .get(offset as usize..)
            .and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut bytes = self.0.lock();
        let end = offset as usize + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[offset as usize..end].copy_from_slice(data);
        Ok(())
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.0.lock()[range.start as usize..range.end as usize].fill(0);
        Ok(())
    }

    fn allocate(&self, _range: Range<u64>) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.len()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        Ok(())
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        Ok((from < len).then_some(from..len))
    }
}
