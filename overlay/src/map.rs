//! The map in memory: two bits per block, in pages that exist only where something was ever changed.
//!
//! Reads take no lock. Changes happen under the layer's stripe locks, one writer per word at a time.

use std::ops::{ControlFlow, Range};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks in one word of the map (128 KiB of disk).
pub(crate) const WORD_BLOCKS: u64 = 32;
/// Words in one page of the map (64 MiB of disk).
pub(crate) const PAGE_WORDS: u64 = 512;
/// Blocks in one page of the map.
pub(crate) const PAGE_BLOCKS: u64 = WORD_BLOCKS * PAGE_WORDS;

/// The low bit of every lane of a word.
const LOW: u64 = 0x5555_5555_5555_5555;

/// Where the content of a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Below this layer: in an older layer or in the base.
    Below = 0,
    /// In this layer's data file.
    Data = 1,
    /// Nowhere: it reads as zeros.
    Zero = 2,
}

impl State {
    /// A word all of whose lanes hold this state.
    const fn word(self) -> u64 {
        LOW * self as u64
    }

    fn of(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Below,
            1 => Self::Data,
            _ => Self::Zero,
        }
    }
}

/// The 32 lanes of one word, as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Word(pub u64);

/// A set of lanes of a word: both bits of each are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lanes(pub u64);

impl Lanes {
    /// The lanes of word `word` that `blocks` covers.
    pub(crate) fn of(word: u64, blocks: &Range<u64>) -> Self {
        let first = word * WORD_BLOCKS;
        let from = blocks.start.saturating_sub(first).min(WORD_BLOCKS);
        let to = blocks.end.saturating_sub(first).min(WORD_BLOCKS);
        let below = |lane: u64| {
            if lane == WORD_BLOCKS {
                u64::MAX
            } else {
                (1 << (2 * lane)) - 1
            }
        };
        Self(below(to) & !below(from))
    }

    pub(crate) fn count(self) -> u64 {
        u64::from(self.0.count_ones() / 2)
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Word {
    /// The lanes that hold `state`.
    pub(crate) fn lanes(self, state: State) -> Lanes {
        let differs = self.0 ^ state.word();
        let same = !(differs | differs >> 1) & LOW;
        Lanes(same | same << 1)
    }

    /// This word with `lanes` set to `state`.
    pub(crate) fn with(self, lanes: Lanes, state: State) -> Self {
        Self(self.0 & !lanes.0 | state.word() & lanes.0)
    }

    /// Whether every lane holds one of the three states.
    pub(crate) fn is_valid(self) -> bool {
        self.0 & self.0 >> 1 & LOW == 0
    }
}

type Page = [AtomicU64; PAGE_WORDS as usize];

/// The states of all blocks of one layer.
pub(crate) struct Map {
    pages: Box<[OnceLock<Box<Page>>]>,
    blocks: u64,
}

impl Map {
    /// A map of `blocks` blocks, all [`State::Below`]. Takes 16 bytes per 64 MiB of disk until changed.
    pub(crate) fn new(blocks: u64) -> Self {
        let pages = blocks.div_ceil(PAGE_BLOCKS);
        let pages = (0..pages).map(|_| OnceLock::new()).collect();
        Self { pages, blocks }
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Words in the map.
    pub(crate) fn words(&self) -> u64 {
        self.blocks.div_ceil(WORD_BLOCKS)
    }

    fn page(&self, word: u64) -> Option<&Page> {
        let page = self.pages.get((word / PAGE_WORDS) as usize)?;
        page.get().map(|page| &**page)
    }

    /// The word `word`; words that were never stored, or lie past the end, are all [`State::Below`].
    pub(crate) fn word(&self, word: u64) -> Word {
        let slot = |page: &Page| page[(word % PAGE_WORDS) as usize].load(Ordering::Acquire);
        Word(self.page(word).map_or(0, slot))
    }

    /// Stores a word. The caller holds the lock for it.
    pub(crate) fn store(&self, word: u64, value: Word) {
        let Some(page) = self.pages.get((word / PAGE_WORDS) as usize) else {
            return;
        };
        let page = page.get_or_init(|| Box::new(std::array::from_fn(|_| AtomicU64::new(0))));
        page[(word % PAGE_WORDS) as usize].store(value.0, Ordering::Release);
    }

    pub(crate) fn state(&self, block: u64) -> State {
        State::of(self.word(block / WORD_BLOCKS).0 >> (2 * (block % WORD_BLOCKS)))
    }

    /// Whether all of `blocks` are in `state`.
    pub(crate) fn all(&self, blocks: &Range<u64>, state: State) -> bool {
        if blocks.end - blocks.start == 1 {
            return self.state(blocks.start) == state;
        }
        words_of(blocks).all(|word| {
            let lanes = Lanes::of(word, blocks);
            lanes.without(self.word(word).lanes(state)).0 == 0
        })
    }

    /// How many of `blocks` are not in `state`.
    pub(crate) fn lacking(&self, blocks: &Range<u64>, state: State) -> u64 {
        if self.all(blocks, state) {
            return 0;
        }
        let lacks = |block: &u64| self.state(*block) != state;
        blocks.clone().filter(lacks).count() as u64
    }

    /// Blocks in `state`, where that is not [`State::Below`].
    pub(crate) fn count(&self, state: State) -> u64 {
        let pages = self.pages.iter().filter_map(OnceLock::get);
        let words = pages.flat_map(|page| page.iter());
        let word = |word: &AtomicU64| Word(word.load(Ordering::Acquire)).lanes(state).count();
        words.map(word).sum()
    }

    /// Numbers of the pages that hold anything.
    pub(crate) fn touched_pages(&self) -> impl Iterator<Item = u64> + '_ {
        let pages = self.pages.iter().enumerate();
        pages
            .filter(|(_, page)| page.get().is_some())
            .map(|(i, _)| i as u64)
    }

    /// Bytes of memory that the map takes.
    pub(crate) fn memory(&self) -> u64 {
        let top = std::mem::size_of_val(&*self.pages) as u64;
        top + self.touched_pages().count() as u64 * size_of::<Page>() as u64
    }

    /// Calls `found` for the maximal runs of equal state in `blocks`, in order, until it breaks.
    ///
    /// Pages never touched and words all in one state are passed in one step each.
    pub(crate) fn runs<B>(
        &self,
        blocks: Range<u64>,
        mut found: impl FnMut(State, Range<u64>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        Runs::new(self, blocks).try_for_each(|(state, run)| found(state, run))
    }

    /// The state at `block`, and an end up to which it holds: in one word, or in one untouched page.
    fn step(&self, block: u64, end: u64) -> (State, u64) {
        let word = block / WORD_BLOCKS;
        let Some(page) = self.page(word) else {
            return (
                State::Below,
                (block / PAGE_BLOCKS + 1)
                    .saturating_mul(PAGE_BLOCKS)
                    .min(end),
            );
        };
        let bits = page[(word % PAGE_WORDS) as usize].load(Ordering::Acquire);
        let lane = block % WORD_BLOCKS;
        let state = State::of(bits >> (2 * lane));
        let differs = (bits ^ state.word()) >> (2 * lane);
        let same = u64::from(differs.trailing_zeros() / 2).min(WORD_BLOCKS - lane);
        if lane + same < WORD_BLOCKS {
            return (state, (block + same).min(end));
        }
        // To the end of this word, and of as many more in the page as are all alike.
        let asked = end.div_ceil(WORD_BLOCKS) - word - 1;
        let more = page[(word % PAGE_WORDS) as usize + 1..]
            .iter()
            .take(asked as usize);
        let alike = |word: &&AtomicU64| word.load(Ordering::Acquire) == state.word();
        let words = word + 1 + more.take_while(alike).count() as u64;
        (state, (words * WORD_BLOCKS).min(end))
    }
}

/// The maximal runs of equal state in a range of blocks.
struct Runs<'a> {
    map: &'a Map,
    at: u64,
    end: u64,
    /// The step from `at`, where it was looked up already.
    next: Option<(State, u64)>,
}

impl<'a> Runs<'a> {
    fn new(map: &'a Map, blocks: Range<u64>) -> Self {
        Self {
            map,
            at: blocks.start,
            end: blocks.end,
            next: None,
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = (State, Range<u64>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        if start >= self.end {
            return None;
        }
        let step = |at| self.map.step(at, self.end);
        let (state, mut end) = self.next.take().unwrap_or_else(|| step(start));
        while end < self.end {
            let (other, after) = step(end);
            if other != state {
                self.next = Some((other, after));
                break;
            }
            end = after;
        }
        self.at = end;
        Some((state, start..end))
    }
}

/// Calls `found` for the runs of `blocks`, in order, with the number and state of the highest of the lowest `layers`
/// layers that holds them, or nothing where none does, until it breaks. Goes down in a list and not by calls: there
/// may be many layers, and threads have small stacks.
pub(crate) fn descend<'a, B>(
    map: impl Fn(usize) -> &'a Map,
    layers: usize,
    blocks: Range<u64>,
    mut found: impl FnMut(Option<(usize, State)>, Range<u64>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let Some(mut layer) = layers.checked_sub(1) else {
        return found(None, blocks);
    };
    let mut runs = Runs::new(map(layer), blocks);
    // What is left to do in the layers above.
    let mut above = Vec::new();
    loop {
        match runs.next() {
            Some((State::Below, run)) if layer > 0 => {
                layer -= 1;
                above.push(std::mem::replace(&mut runs, Runs::new(map(layer), run)));
            }
            Some((State::Below, run)) => found(None, run)?,
            Some((state, run)) => found(Some((layer, state)), run)?,
            None => match above.pop() {
                Some(upper) => {
                    runs = upper;
                    layer += 1;
                }
                None => return ControlFlow::Continue(()),
            },
        }
    }
}

/// Numbers of the words that hold `blocks`.
pub(crate) fn words_of(blocks: &Range<u64>) -> Range<u64> {
    if blocks.is_empty() {
        return 0..0;
    }
    blocks.start / WORD_BLOCKS..blocks.end.div_ceil(WORD_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(map: &Map, block: u64, state: State) {
        let word = block / WORD_BLOCKS;
        let lanes = Lanes::of(word, &(block..block + 1));
        map.store(word, map.word(word).with(lanes, state));
    }

    proptest! {
        #[test]
        fn runs_tell_what_single_look_ups_tell(
            marks in proptest::collection::vec((0u64..70_000, 0u64..300, 0u8..3), 0..20),
            from in 0u64..70_000, len in 0u64..70_000,
        ) {
            let map = Map::new(70_000);
            for (start, len, state) in marks {
                for block in start..(start + len).min(70_000) {
                    set(&map, block, State::of(u64::from(state)));
                }
            }
            let range = from..(from + len).min(70_000);
            let mut at = range.start;
            let mut last = None;
            let all = map.runs(range.clone(), |state, run| {
                assert_eq!(run.start, at);
                assert!(run.clone().all(|block| map.state(block) == state));
                assert_ne!(last, Some(state), "runs are maximal");
                (at, last) = (run.end, Some(state));
                ControlFlow::<()>::Continue(())
            });
            prop_assert!(all.is_continue());
            prop_assert_eq!(at, range.end.max(range.start));
        }
    }

    #[test]
    fn lanes_cover_exactly_their_blocks() {
        assert_eq!(Lanes::of(0, &(0..32)).0, u64::MAX);
        assert_eq!(Lanes::of(1, &(0..33)).0, 3);
        assert_eq!(Lanes::of(0, &(1..2)).0, 12);
        assert_eq!(Lanes::of(2, &(0..33)).count(), 0);
        assert!(!Word(3).is_valid());
        assert_eq!(Word(0b1001).lanes(State::Data).0, 3);
        assert_eq!(Word(0b1001).lanes(State::Zero).0, 12);
    }
}
