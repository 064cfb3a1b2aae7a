//! Sets of blocks, kept as ranges.

use std::collections::BTreeMap;

use crate::VolumeId;

/// Bytes of a block: what is tracked and sent again as a whole.
pub const BLOCK: u64 = 4096;

/// Blocks `start` up to, but not including, `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockRange {
    /// First block.
    pub start: u64,
    /// Block after the last.
    pub end: u64,
}

impl BlockRange {
    /// Every block that `length` bytes from `offset` on touch.
    pub fn touched(offset: u64, length: u64) -> Self {
        Self {
            start: offset / BLOCK,
            end: offset.saturating_add(length).div_ceil(BLOCK),
        }
    }

    /// Number of blocks.
    pub fn blocks(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether both have a block.
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The same, widened to whole regions of `region` blocks.
    pub fn widened(self, region: u64) -> Self {
        Self {
            start: self.start / region * region,
            end: self.end.div_ceil(region).saturating_mul(region),
        }
    }
}

/// Blocks of one volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockSet(BTreeMap<u64, u64>);

impl BlockSet {
    /// Adds blocks; joins ranges that touch.
    pub fn insert(&mut self, range: BlockRange) {
        if range.start >= range.end {
            return;
        }
        let BlockRange { mut start, mut end } = range;
        while let Some((&s, &e)) = self.0.range(..=end).next_back() {
            if e < start {
                break;
            }
            start = start.min(s);
            end = end.max(e);
            self.0.remove(&s);
        }
        self.0.insert(start, end);
    }

    /// Takes blocks out.
    pub fn remove(&mut self, range: BlockRange) {
        if range.start >= range.end {
            return;
        }
        while let Some((&s, &e)) = self.0.range(..range.end).next_back() {
            if e <= range.start {
                return;
            }
            self.0.remove(&s);
            if s < range.start {
                self.0.insert(s, range.start);
            }
            if e > range.end {
                self.0.insert(range.end, e);
            }
        }
    }

    /// Whether every block of the range is in.
    pub fn contains(&self, range: BlockRange) -> bool {
        let before = self.0.range(..=range.start).next_back();
        range.start >= range.end || before.is_some_and(|(_, &e)| e >= range.end)
    }

    /// Whether any block of the range is in.
    pub fn touches(&self, range: BlockRange) -> bool {
        let before = self.0.range(..range.end).next_back();
        range.start < range.end && before.is_some_and(|(_, &e)| e > range.start)
    }

    /// The ranges in order.
    pub fn ranges(&self) -> impl Iterator<Item = BlockRange> + '_ {
        self.0
            .iter()
            .map(|(&start, &end)| BlockRange { start, end })
    }

    /// Number of blocks.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|(s, e)| e - s).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Blocks of many volumes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks(BTreeMap<VolumeId, BlockSet>);

impl Blocks {
    /// Adds blocks of a volume.
    pub fn insert(&mut self, volume: VolumeId, range: BlockRange) {
        if range.start < range.end {
            self.0.entry(volume).or_default().insert(range);
        }
    }

    /// Takes blocks of a volume out.
    pub fn remove(&mut self, volume: VolumeId, range: BlockRange) {
        if let Some(set) = self.0.get_mut(&volume) {
            set.remove(range);
            if set.is_empty() {
                self.0.remove(&volume);
            }
        }
    }

    /// Adds everything of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (volume, range) in other.ranges() {
            self.insert(volume, range);
        }
    }

    /// Whether every block of the range is in.
    pub fn contains(&self, volume: VolumeId, range: BlockRange) -> bool {
        range.start >= range.end || self.0.get(&volume).is_some_and(|set| set.contains(range))
    }

    /// Whether any block of the range is in.
    pub fn touches(&self, volume: VolumeId, range: BlockRange) -> bool {
        self.0.get(&volume).is_some_and(|set| set.touches(range))
    }

    /// All ranges, volume by volume.
    pub fn ranges(&self) -> impl Iterator<Item = (VolumeId, BlockRange)> + '_ {
        self.0
            .iter()
            .flat_map(|(&volume, set)| set.ranges().map(move |range| (volume, range)))
    }

    /// The volumes that blocks of are in, with these.
    pub fn volumes(&self) -> impl Iterator<Item = (VolumeId, &BlockSet)> {
        self.0.iter().map(|(&volume, set)| (volume, set))
    }

    /// Whether any block of the volume is in.
    pub fn has(&self, volume: VolumeId) -> bool {
        self.0.contains_key(&volume)
    }

    /// Takes all blocks of a volume out.
    pub fn take(&mut self, volume: VolumeId) -> BlockSet {
        self.0.remove(&volume).unwrap_or_default()
    }

    /// Number of blocks.
    pub fn len(&self) -> u64 {
        self.0.values().map(BlockSet::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, each range widened to whole regions of `region` blocks.
    pub fn widened(&self, region: u64) -> Self {
        let mut wide = Self::default();
        for (volume, range) in self.ranges() {
            wide.insert(volume, range.widened(region));
        }
        wide
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(steps in prop::collection::vec((any::<bool>(), 0u64..40, 0u64..12), 0..60)) {
            let (mut set, mut plain) = (BlockSet::default(), BTreeSet::new());
            for (add, start, length) in steps {
                let range = BlockRange { start, end: start + length };
                if add {
                    set.insert(range);
                    plain.extend(start..start + length);
                } else {
                    set.remove(range);
                    plain.retain(|b| !(start..start + length).contains(b));
                }
                let seen: Vec<u64> = set.ranges().flat_map(|r| r.start..r.end).collect();
                prop_assert_eq!(&seen, &plain.iter().copied().collect::<Vec<_>>());
                prop_assert_eq!(set.len(), plain.len() as u64);
                let ranges: Vec<_> = set.ranges().collect();
                prop_assert!(ranges.windows(2).all(|w| w[0].end < w[1].start));
            }
        }

        #[test]
        fn contains_only_what_is_whole(start in 0u64..20, length in 1u64..5) {
            let mut set = BlockSet::default();
            set.insert(BlockRange { start: 5, end: 10 });
            let range = BlockRange { start, end: start + length };
            prop_assert_eq!(set.contains(range), start >= 5 && start + length <= 10);
            prop_assert_eq!(set.touches(range), start < 10 && start + length > 5);
        }
    }

    #[test]
    fn a_byte_more_touches_a_block_more() {
        assert_eq!(
            BlockRange::touched(4095, 2),
            BlockRange { start: 0, end: 2 }
        );
        assert_eq!(
            BlockRange::touched(4096, 4096),
            BlockRange { start: 1, end: 2 }
        );
        assert_eq!(
            BlockRange { start: 3, end: 5 }.widened(4),
            BlockRange { start: 0, end: 8 }
        );
    }
}
