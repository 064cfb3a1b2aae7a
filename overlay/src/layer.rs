//! One layer of an overlay: a sparse data file and its map.
//!
//! FORMAT.md gives the ordering rules that the functions here keep; each says which.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::BLOCK;
use crate::layerfile::{Names, check_data_len, open, read_live, remake_live};
use crate::map::{Lanes, Map, PAGE_BLOCKS, PAGE_WORDS, State, WORD_BLOCKS, Word, words_of};
use crate::mapfile::{self, Durable};
use crate::pages::{Own, Pages};
use crate::storage::{Attempt, OpenMode, Storage, StoredFile};

/// Bytes of disk that one word of the map covers, and one lock guards.
pub(crate) const REGION: u64 = WORD_BLOCKS * BLOCK;
const STRIPES: usize = 64;

/// One block's content.
pub(crate) type BlockBuf = [u8; BLOCK as usize];

/// What a layer must know of the world around it to change itself.
pub(crate) trait Around {
    /// The content of a block that this layer does not hold.
    fn read_below(&self, block: u64, buf: &mut BlockBuf) -> Result<()>;
    /// The first block from which on everything below reads as zeros anyway.
    fn blank_from(&self) -> u64;
    /// Asks for room for so many more blocks.
    fn reserve(&self, blocks: u64) -> Result<()>;
    /// Gives room back.
    fn release(&self, blocks: u64);
}

/// An open layer.
pub(crate) struct Layer {
    pub uuid: Uuid,
    pub map: Map,
    name: String,
    data: Arc<dyn StoredFile>,
    live: Option<Arc<dyn StoredFile>>,
    durable: Durable,
    stripes: [Mutex<()>; STRIPES],
    /// Data was written since the last sync began.
    unsynced: AtomicBool,
    /// This process has synced data and map once: one killed before may have written either and not lived to do so.
    synced_once: AtomicBool,
    /// A sync failed: what the disk holds is unknown.
    failed: AtomicBool,
    syncing: Mutex<()>,
    /// The data file in memory, while somebody reads it so.
    pages: Mutex<Option<Arc<Pages>>>,
}

/// How to find the state of a layer at open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The process died, the host went on: the live map is right, the durable one lags.
    Live,
    /// Power was lost: the durable map is right; a fresh live map is made from it.
    Durable,
    /// Frozen: the durable map is right, there is no live one.
    Frozen,
}

pub(crate) fn blocks_in(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

/// The blocks that a range of bytes touches.
pub(crate) fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK..bytes.end.div_ceil(BLOCK)
}

/// The bytes of a range of blocks.
pub(crate) fn bytes_of(blocks: &Range<u64>) -> Range<u64> {
    blocks.start * BLOCK..blocks.end * BLOCK
}

impl Layer {
    /// Opens the layer `uuid` in `dir` for a disk of `size` bytes.
    pub(crate) fn open(
        host: &dyn Storage,
        dir: &Path,
        uuid: Uuid,
        size: u64,
        trust: Trust,
    ) -> Result<Self> {
        let names = Names::of(dir, uuid);
        let name = format!("layer {uuid} in {}", dir.display());
        let data = open(host, &names.data, OpenMode::Write)?;
        check_data_len(&*data, size, &names.data)?;
        let file = open(host, &names.durable, OpenMode::Write)?;
        let durable_map = Map::new(blocks_in(size));
        mapfile::load_durable(
            &*file,
            uuid,
            &durable_map,
            &names.durable.display().to_string(),
        )?;
        let durable = Durable::new(file, uuid, durable_map.words());
        let (map, live) = match trust {
            Trust::Frozen => (durable_map, None),
            Trust::Live => {
                let (map, live) = read_live(host, &names, size)?;
                durable.note_differences(&map, &durable_map);
                (map, Some(live))
            }
            Trust::Durable => {
                let live = remake_live(host, &names, &durable_map)?;
                (durable_map, Some(live))
            }
        };
        Ok(Self {
            uuid,
            map,
            name,
            data,
            live,
            durable,
            stripes: std::array::from_fn(|_| Mutex::new(())),
            unsynced: AtomicBool::new(false),
            // Whether an earlier process synced what it wrote is not known: the first sync does everything.
            synced_once: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            syncing: Mutex::new(()),
            pages: Mutex::new(None),
        })
    }

    /// Has the next sync write all of the durable map: what it says now may be in the host's memory only.
    pub(crate) fn renew_map(&self) {
        self.durable.note_all(&self.map);
    }

    /// Whether so many changes of the map wait for a flush that there should be one before more are made.
    pub(crate) fn is_crowded(&self) -> bool {
        self.durable.is_crowded()
    }

    /// Blocks in the data file.
    pub(crate) fn data_blocks(&self) -> u64 {
        self.map.count(State::Data)
    }

    pub(crate) fn data_file(&self) -> &dyn StoredFile {
        &*self.data
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn set_failed(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// Refuses after a failed sync.
    pub(crate) fn usable(&self) -> Result<()> {
        if !self.has_failed() {
            return Ok(());
        }
        let fix = "what was written since the last good flush may be lost; restart the server to go back to that flush";
        Err(Error::new(
            ErrorKind::SyncFailed,
            format!("{}: {fix}", self.name),
        ))
    }

    fn failing<T>(&self, doing: &str, at: u64, result: io::Result<T>) -> Result<T> {
        result.context(|| format!("{doing} {} at byte {at}", self.name))
    }

    /// Reads from the data file, whatever the map says.
    pub(crate) fn read_data(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.failing("reading", offset, self.data.read_at(buf, offset))
    }

    /// Writes to the data file, whatever the map says.
    pub(crate) fn write_data(&self, data: &[u8], offset: u64) -> Result<()> {
        self.failing("writing", offset, self.data.write_at(data, offset))
    }

    /// As [`Layer::read_data`] without waiting.
    pub(crate) fn try_read_data(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.failing("reading", offset, self.data.try_read_at(buf, offset))
    }

    /// What the data file holds at `range`, all of it data by the map, if it lies in memory.
    pub(crate) fn lend(&self, range: Range<u64>) -> Option<Own> {
        Own::of(self.pages()?, range, &self.map)
    }

    /// `None` where the file cannot be mapped: it is read by system calls then.
    fn pages(&self) -> Option<Arc<Pages>> {
        let mut pages = self.pages.lock();
        if pages.is_none() {
            let size = self.map.blocks() * BLOCK;
            let made = Pages::of(self.data.as_file()?, size);
            *pages = made.ok().flatten().map(Arc::new);
        }
        pages.clone()
    }

    /// Gives back what reading from memory took: page tables of up to 1/512 of what was read.
    pub(crate) fn unmap(&self) {
        let mut pages = self.pages.lock();
        if pages
            .as_ref()
            .is_some_and(|pages| Arc::strong_count(pages) == 1)
        {
            *pages = None;
        }
    }

    /// Whether somebody may be about to read what [`Layer::lend`] lent.
    pub(crate) fn is_lent(&self) -> bool {
        let pages = self.pages.lock();
        pages
            .as_ref()
            .is_some_and(|pages| Arc::strong_count(pages) > 1)
    }

    /// Writes. Blocks already in the data file are overwritten in place, without a lock; the map stays as it is.
    pub(crate) fn write(&self, data: &[u8], offset: u64, around: &dyn Around) -> Result<()> {
        self.usable()?;
        let range = offset..offset + data.len() as u64;
        if self.map.all(&blocks_of(&range), State::Data) {
            self.write_data(data, offset)?;
        } else {
            self.write_fresh(data, offset, around)?;
        }
        self.note_data();
        Ok(())
    }

    /// Notes that a flush has something to sync. Who sees the mark set already is covered by the sync that clears it.
    pub(crate) fn note_data(&self) {
        if !self.unsynced.load(Ordering::Acquire) {
            self.unsynced.store(true, Ordering::Release);
        }
    }

    fn write_fresh(&self, data: &[u8], offset: u64, around: &dyn Around) -> Result<()> {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let room = (REGION - at % REGION) as usize;
            let (piece, later) = rest.split_at(room.min(rest.len()));
            let _lock = self.stripe(at / REGION).lock();
            self.write_region(piece, at, around)?;
            at += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }

    pub(crate) fn stripe(&self, word: u64) -> &Mutex<()> {
        &self.stripes[word as usize % STRIPES]
    }

    /// Writes within one word of the map, whose lock is held. Order: room, data, live map, map in memory.
    fn write_region(&self, data: &[u8], offset: u64, around: &dyn Around) -> Result<()> {
        let word = offset / REGION;
        let old = self.map.word(word);
        let lanes = Lanes::of(word, &blocks_of(&(offset..offset + data.len() as u64)));
        let fresh = lanes.without(old.lanes(State::Data));
        around.reserve(fresh.count())?;
        let written = self
            .write_blocks(data, offset, old, around)
            .and_then(|()| self.set_word(word, old, old.with(fresh, State::Data)));
        if written.is_err() {
            around.release(fresh.count());
            self.discard(word, fresh);
        }
        written
    }

    /// Gives back the space of blocks that were written in part and are in no map. Failure costs space only.
    pub(crate) fn discard(&self, word: u64, fresh: Lanes) {
        let first = word * WORD_BLOCKS;
        for block in (first..first + WORD_BLOCKS).filter(|b| {
            let lane = Lanes::of(word, &(*b..*b + 1));
            fresh.and(lane) == lane
        }) {
            let _ = self.data.punch(bytes_of(&(block..block + 1)));
        }
    }

    /// Puts the data in place; blocks of which only a part is written are made whole first.
    fn write_blocks(&self, data: &[u8], offset: u64, old: Word, around: &dyn Around) -> Result<()> {
        let partial = |block: u64| {
            let lane = Lanes::of(block / WORD_BLOCKS, &(block..block + 1));
            lane.and(old.lanes(State::Data)).0 == 0
        };
        let (mut at, mut rest) = (offset, data);
        if !at.is_multiple_of(BLOCK) && partial(at / BLOCK) {
            let len = rest.len().min((BLOCK - at % BLOCK) as usize);
            let (head, later) = rest.split_at(len);
            self.write_whole(head, at, old, around)?;
            (at, rest) = (at + len as u64, later);
        }
        let tail = (at + rest.len() as u64) % BLOCK;
        let mut body = rest;
        if tail != 0 && !rest.is_empty() && partial((at + rest.len() as u64) / BLOCK) {
            let (whole, part) = rest.split_at(rest.len() - tail as usize);
            self.write_whole(part, at + whole.len() as u64, old, around)?;
            body = whole;
        }
        if body.is_empty() {
            return Ok(());
        }
        self.write_data(body, at)
    }

    /// Copy-up: writes the whole block that `part` is a part of, in one call, so that no reader of the block, after
    /// a crash or not, finds anything but old content and new.
    fn write_whole(&self, part: &[u8], at: u64, old: Word, around: &dyn Around) -> Result<()> {
        let block = at / BLOCK;
        let mut whole: BlockBuf = [0; BLOCK as usize];
        let lane = Lanes::of(block / WORD_BLOCKS, &(block..block + 1));
        if lane.and(old.lanes(State::Below)).0 != 0 {
            around.read_below(block, &mut whole)?;
        }
        let start = (at % BLOCK) as usize;
        whole[start..start + part.len()].copy_from_slice(part);
        let start = block * BLOCK;
        self.write_data(&whole, start)
    }

    pub(crate) fn set_word(&self, word: u64, old: Word, new: Word) -> Result<()> {
        if old == new {
            return Ok(());
        }
        self.set_words(word, &[new])
    }

    /// Changes words of the map: room for the durable map, live map, memory, note for the next flush.
    fn set_words(&self, first: u64, new: &[Word]) -> Result<()> {
        let words = first..first + new.len() as u64;
        let mut bytes = [0; PAGE_WORDS as usize * 8];
        for (word, bytes) in new.iter().zip(bytes.chunks_exact_mut(8)) {
            bytes.copy_from_slice(&word.0.to_le_bytes());
        }
        let store = || {
            self.durable.make_room(&words)?;
            match &self.live {
                Some(live) => live.write_at(&bytes[..new.len() * 8], first * 8),
                None => Ok(()),
            }
        };
        store().context(|| format!("writing the map of {}", self.name))?;
        for (word, value) in words.clone().zip(new) {
            self.map.store(word, *value);
        }
        self.durable.note(&words);
        Ok(())
    }

    fn lock_words(&self, words: &Range<u64>) -> [Option<MutexGuard<'_, ()>>; STRIPES] {
        let one = words.end - words.start == 1;
        let wanted = |i: usize| !one || i == words.start as usize % STRIPES;
        std::array::from_fn(|i| wanted(i).then(|| self.stripes[i].lock()))
    }

    /// Makes whole blocks read as zeros and gives their space back. Order: live map, memory, hole; so that a hole is
    /// never read as data that the client wrote.
    pub(crate) fn zero(&self, blocks: Range<u64>, around: &dyn Around) -> Result<()> {
        self.usable()?;
        let mut at = blocks.start;
        while at < blocks.end {
            let end = (at / PAGE_BLOCKS + 1)
                .saturating_mul(PAGE_BLOCKS)
                .min(blocks.end);
            self.zero_page(at..end, around)?;
            at = end;
        }
        Ok(())
    }

    fn zero_page(&self, blocks: Range<u64>, around: &dyn Around) -> Result<()> {
        let words = words_of(&blocks);
        let _locks = self.lock_words(&words);
        let mut new = [Word::default(); PAGE_WORDS as usize];
        let mut freed = 0;
        let mut changed = false;
        let blank = around.blank_from()..u64::MAX;
        for (word, new) in words.clone().zip(&mut new) {
            let old = self.map.word(word);
            let lanes = Lanes::of(word, &blocks);
            let keep = Lanes::of(word, &blank).and(old.lanes(State::Below));
            *new = old.with(lanes.without(keep), State::Zero);
            freed += lanes.and(old.lanes(State::Data)).count();
            changed |= *new != old;
        }
        if !changed {
            return Ok(());
        }
        self.set_words(words.start, &new[..(words.end - words.start) as usize])?;
        around.release(freed);
        if freed > 0 {
            self.punch(&blocks)
        } else {
            Ok(())
        }
    }

    pub(crate) fn punch(&self, blocks: &Range<u64>) -> Result<()> {
        let bytes = bytes_of(blocks);
        match self.data.punch(bytes.clone()) {
            // The map says zero already; such a filesystem only keeps the space.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => self.failing("punching", bytes.start, result),
        }
    }

    /// Makes everything answered so far durable. Order: note what changed in the map, sync the data, write what was
    /// noted to the durable map, sync that; so that the durable map never says more than the disk holds.
    pub(crate) fn sync(&self) -> Result<()> {
        let _one = self.syncing.lock();
        self.usable()?;
        let unwinding = Unwinding(self);
        let result = self.sync_alone();
        std::mem::forget(unwinding);
        result
    }

    fn sync_alone(&self) -> Result<()> {
        let synced_once = self.synced_once.load(Ordering::Relaxed);
        let unsynced = self.unsynced.swap(false, Ordering::AcqRel);
        if !unsynced && synced_once && self.durable.is_clean() {
            return Ok(());
        }
        let captured = self.durable.capture(&self.map);
        self.sync_or_fail("data", self.data.sync())?;
        if captured.is_empty() && synced_once {
            return Ok(());
        }
        if let Err(e) = self.durable.write(&captured) {
            self.durable.put_back(&captured);
            return Err(Error::io(
                format!("writing the durable map of {}", self.name),
                e,
            ));
        }
        self.sync_or_fail("map", self.durable.sync())?;
        self.synced_once.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// After a failed sync the host may have dropped what it could not write: nothing can be promised any more.
    fn sync_or_fail(&self, what: &str, result: io::Result<()>) -> Result<()> {
        result
            .context(|| format!("syncing the {what} of {}", self.name))
            .inspect_err(|_| self.set_failed())
            .map_err(|e| e.with_kind(ErrorKind::SyncFailed))
    }
}

/// A sync that is left by a panic has forgotten what it was to make durable: nothing may be promised after it.
struct Unwinding<'a>(&'a Layer);

impl Drop for Unwinding<'_> {
    fn drop(&mut self) {
        self.0.set_failed();
    }
}
