//! Blocks that go from one layer of a stack to its neighbour, so that one of the two can go. What the stack reads is the
//! same before and after each step, so a merge may stop anywhere.

use crate::error::Result;
use crate::layer::{Around, Layer, bytes_of};
use crate::map::{Lanes, State, WORD_BLOCKS};
use crate::space::Space;

impl Layer {
    /// Takes over from an older layer the blocks of `word` that this one does not hold; `older` stays as it is.
    pub(crate) fn adopt(&self, word: u64, older: &Layer, around: &dyn Around) -> Result<()> {
        let _lock = self.stripe(word).lock();
        let old = self.map.word(word);
        let theirs = older.map.word(word);
        let missing = old.lanes(State::Below);
        let data = missing.and(theirs.lanes(State::Data));
        let zero = missing.and(theirs.lanes(State::Zero));
        around.reserve(data.count())?;
        let new = old.with(data, State::Data).with(zero, State::Zero);
        let adopted = self
            .copy_lanes(word, data, older)
            .and_then(|()| self.set_word(word, old, new));
        if adopted.is_err() {
            around.release(data.count());
            self.discard(word, data);
        }
        self.note_data();
        adopted
    }

    /// Takes from a newer layer what that holds in `word`, and hides here; `newer` stays as it is. With `in_place` only
    /// what takes no room. Gives the lanes taken.
    pub(crate) fn soak(
        &self,
        word: u64,
        newer: &Layer,
        in_place: bool,
        space: &Space,
    ) -> Result<Lanes> {
        let _lock = self.stripe(word).lock();
        let (old, theirs) = (self.map.word(word), newer.map.word(word));
        let own = old.lanes(State::Data);
        let zero = theirs.lanes(State::Zero);
        let mut data = theirs.lanes(State::Data);
        if in_place {
            data = data.and(own);
        }
        if data.or(zero).0 == 0 {
            return Ok(Lanes(0));
        }
        let fresh = data.without(own);
        space.reserve_anyway(fresh.count());
        let new = old.with(data, State::Data).with(zero, State::Zero);
        let soaked = self
            .copy_lanes(word, data, newer)
            .and_then(|()| self.set_word(word, old, new));
        if let Err(error) = soaked {
            space.release(fresh.count());
            self.discard(word, fresh);
            return Err(error);
        }
        space.release(zero.and(own).count());
        self.note_data();
        Ok(data.or(zero))
    }

    /// Lets go of `lanes` of `word`: they are as below from now on. Gives how many of them were data.
    pub(crate) fn shed(&self, word: u64, lanes: Lanes) -> Result<u64> {
        let _lock = self.stripe(word).lock();
        let old = self.map.word(word);
        self.set_word(word, old, old.with(lanes, State::Below))?;
        Ok(lanes.and(old.lanes(State::Data)).count())
    }

    /// Gives back the space of those of `lanes` that are not data by the map. Failure costs space only.
    pub(crate) fn trim_lanes(&self, word: u64, lanes: Lanes) {
        let lanes = lanes.without(self.map.word(word).lanes(State::Data));
        for run in lanes.runs(word) {
            let _ = self.punch(&run);
        }
    }

    fn copy_lanes(&self, word: u64, lanes: Lanes, from: &Layer) -> Result<()> {
        for run in lanes.runs(word) {
            let bytes = bytes_of(&run);
            let mut buf = vec![0; (bytes.end - bytes.start) as usize];
            from.read_data(&mut buf, bytes.start)?;
            self.write_data(&buf, bytes.start)?;
        }
        Ok(())
    }
}

impl Lanes {
    /// The blocks of these lanes of word `word`, neighbours together.
    fn runs(self, word: u64) -> impl Iterator<Item = std::ops::Range<u64>> {
        let first = word * WORD_BLOCKS;
        let has = move |block: u64| self.0 >> (2 * (block - first)) & 1 == 1;
        let mut at = first;
        let end = first + WORD_BLOCKS;
        std::iter::from_fn(move || {
            let start = (at..end).find(|block| has(*block))?;
            at = (start..end).find(|block| !has(*block)).unwrap_or(end);
            Some(start..at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_lanes_are_their_blocks() {
        let runs = |blocks: &[std::ops::Range<u64>]| {
            let lanes = blocks.iter().map(|run| Lanes::of(1, run));
            let lanes = lanes.fold(Lanes(0), Lanes::or);
            lanes.runs(1).collect::<Vec<_>>()
        };
        assert_eq!(runs(&[]), []);
        for whole in [[32..33, 40..42, 63..64], [32..40, 41..42, 43..64]] {
            assert_eq!(runs(&whole), whole);
        }
        assert_eq!(runs(&[0..33, 63..99]), [32..33, 63..64]);
    }
}
