//! What may differ between the two servers.

use std::{cmp::Reverse, collections::BTreeMap};

use crate::{BLOCK, BlockRange, Blocks, Seq, VolumeId};

/// Blocks that may differ, or would if one of the servers lost power now. Everything else is the same on both disks.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    /// Not sent, or sent in vain.
    pub(super) unsent: Blocks,
    /// Not sent either: this server could not read them when they had their turn.
    pub(super) unread: Blocks,
    /// What of `unsent` and `unread` holds something that the standby was found not to hold. Of the rest of them it has what
    /// clients were told.
    pub(super) wrong: Blocks,
    /// Applied on both sides, not known to be on both disks.
    pub(super) sent: BTreeMap<VolumeId, Sent>,
}

/// What a volume was sent.
#[derive(Debug, Default)]
pub(super) struct Sent {
    list: Batch,
    /// How long the list was when it was put together last.
    merged: usize,
    /// Blocks that were written, those that were written twice twice.
    blocks: u64,
}

impl Sent {
    /// Puts the list together whenever it has become twice as long, so that this costs each entry the same.
    fn push(&mut self, seq: Seq, range: BlockRange) {
        self.list.push((seq, range));
        self.blocks += range.blocks();
        if self.list.len() >= LONG.max(2 * self.merged) {
            merge(&mut self.list);
            self.merged = self.list.len();
        }
    }
}

/// Blocks that a flush will have made durable on both sides.
pub(super) type Batch = Vec<(Seq, BlockRange)>;

/// So many blocks are flushed at once: a disk that takes 100 MB/s has done with them long before the standby counts as lost, and
/// as many at most are sent again when it is. 256 MiB.
const MUCH: u64 = (256 << 20) / BLOCK;

/// How many entries a list may have before it is put together for the first time.
const LONG: usize = 4096;

impl Dirty {
    pub(super) fn starting_with(unsent: Blocks) -> Self {
        Self {
            unsent,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, volume: VolumeId, seq: Seq, range: BlockRange) {
        self.sent.entry(volume).or_default().push(seq, range);
    }

    /// Volumes that have something to flush: all of them, or those that have much.
    pub(super) fn to_flush(&self, all: bool) -> Vec<VolumeId> {
        let sent = self.sent.iter();
        let due = sent.filter(|(_, sent)| all || sent.blocks >= MUCH);
        due.map(|(volume, _)| *volume).collect()
    }

    /// Takes everything of a volume that waits for a flush.
    pub(super) fn take(&mut self, volume: VolumeId) -> Batch {
        self.sent.remove(&volume).unwrap_or_default().list
    }

    /// What the other side confirms up to `upto` is on both disks.
    pub(super) fn confirm(&mut self, volume: VolumeId, upto: Seq) {
        if let Some(sent) = self.sent.get_mut(&volume) {
            sent.list.retain(|(seq, _)| *seq > upto);
            sent.merged = sent.merged.min(sent.list.len());
            if sent.list.is_empty() {
                self.sent.remove(&volume);
            }
        }
    }

    /// A flush came to nothing.
    pub(super) fn put_back(&mut self, volume: VolumeId, batch: Batch) {
        for (_, range) in batch {
            self.unsent.insert(volume, range);
        }
    }

    /// Whether the standby was sent everything.
    pub(super) fn is_sent(&self) -> bool {
        self.unsent.is_empty() && self.unread.is_empty()
    }

    /// How many blocks it was not sent.
    pub(super) fn left(&self) -> u64 {
        self.unsent.len() + self.unread.len()
    }

    /// Whether it was not sent some of these.
    pub(super) fn lacks(&self, volume: VolumeId, range: BlockRange) -> bool {
        self.unsent.touches(volume, range) || self.unread.touches(volume, range)
    }

    /// The standby holds something else. Tells whether that was not to be expected.
    pub(super) fn differs(&mut self, volume: VolumeId, range: BlockRange) -> bool {
        let known = self.lacks(volume, range);
        self.unsent.insert(volume, range);
        self.wrong.insert(volume, range);
        !known
    }

    /// These cannot be read here for now.
    pub(super) fn put_off(&mut self, volume: VolumeId, range: BlockRange) {
        self.unsent.remove(volume, range);
        self.unread.insert(volume, range);
    }

    /// Both sides hold the same of these. Where some could not be read before, the rest of that volume has its turn again.
    pub(super) fn arrived(&mut self, volume: VolumeId, range: BlockRange) {
        self.unsent.remove(volume, range);
        self.wrong.remove(volume, range);
        if self.unread.touches(volume, range) {
            self.unread.remove(volume, range);
            for left in self.unread.take(volume).ranges() {
                self.unsent.insert(volume, left);
            }
        }
    }

    /// The session is over: nothing of what was sent is known to stay.
    pub(super) fn all_unsent(&mut self) {
        self.unsent.merge(&std::mem::take(&mut self.unread));
        self.wrong = Blocks::default();
        for (volume, sent) in std::mem::take(&mut self.sent) {
            self.put_back(volume, sent.list);
        }
    }
}

/// Equal ranges once, under the highest number: confirmed later than it could be, never earlier.
fn merge(list: &mut Batch) {
    list.sort_unstable_by_key(|(seq, range)| (*range, Reverse(*seq)));
    list.dedup_by_key(|(_, range)| *range);
}

#[cfg(test)]
mod tests {
    use super::*;

    const V: VolumeId = VolumeId(1);

    fn block(n: u64) -> BlockRange {
        BlockRange {
            start: n,
            end: n + 1,
        }
    }

    #[test]
    fn what_is_not_confirmed_is_sent_again() {
        let mut dirty = Dirty::default();
        dirty.push(V, Seq(1), block(1));
        dirty.push(V, Seq(2), block(2));
        dirty.confirm(V, Seq(1));
        dirty.all_unsent();
        assert!(dirty.unsent.contains(V, block(2)));
        assert_eq!(dirty.unsent.len(), 1);
    }

    #[test]
    fn a_list_grows_with_what_is_in_it_and_not_with_time() {
        let mut dirty = Dirty::default();
        for seq in 0..1_000_000 {
            dirty.push(V, Seq(seq), block(seq % 10_000));
            assert!(dirty.sent[&V].list.len() <= 20_001);
        }
        dirty.all_unsent();
        assert_eq!(dirty.unsent.len(), 10_000);
    }

    #[test]
    fn who_has_much_to_flush_does_not_wait_for_the_others() {
        let mut dirty = Dirty::default();
        let other = VolumeId(2);
        dirty.push(other, Seq(1), block(1));
        for seq in 2..=4 {
            let (start, end) = (0, MUCH / 2 - 1);
            dirty.push(V, Seq(seq), BlockRange { start, end });
            let much = if seq == 4 { vec![V] } else { vec![] };
            assert_eq!(dirty.to_flush(false), much);
        }
        assert_eq!(dirty.to_flush(true), [V, other]);
        dirty.take(V);
        assert!(dirty.to_flush(false).is_empty());
    }

    #[test]
    fn putting_a_list_together_keeps_the_newest_number() {
        let mut list = vec![(Seq(1), block(1)), (Seq(5), block(1)), (Seq(3), block(2))];
        merge(&mut list);
        assert_eq!(list, vec![(Seq(5), block(1)), (Seq(3), block(2))]);
    }
}
