//! Which pieces of a resync have their turn. What this server cannot read holds up nothing else: it is tried again now and
//! then, one piece at a time, volume by volume.

use std::collections::BTreeMap;

use crate::{BlockRange, BlockSet, Moment, Notice, Ticket, VolumeId};

use super::{
    Node,
    changes::{Change, Content},
};

/// When what could not be read is tried again, and where that goes on.
#[derive(Debug, Default)]
pub(super) struct Retry {
    at: Moment,
    last: Option<VolumeId>,
    /// The block of each volume before which it was tried.
    tried: BTreeMap<VolumeId, u64>,
}

impl Node {
    pub(super) fn next_pieces(&self) -> Vec<(VolumeId, BlockRange)> {
        let changes = self.primary.iter().flat_map(|p| p.changes.values());
        let under_way: Vec<_> = changes
            .filter(|c| c.is_piece())
            .filter_map(Change::blocks)
            .collect();
        let room = self.most_pieces().saturating_sub(under_way.len());
        let taken = |(volume, range): &(VolumeId, BlockRange)| {
            under_way
                .iter()
                .any(|(of, other)| of == volume && other.overlaps(*range))
        };
        let pieces = self.unsent_pieces().filter(|piece| !taken(piece));
        let mut next: Vec<_> = pieces.take(room).collect();
        if next.is_empty() && under_way.is_empty() {
            next.extend(self.next_unread());
        }
        next
    }

    /// Volumes that could not be read somewhere come last: a failing disk takes its time.
    fn unsent_pieces(&self) -> impl Iterator<Item = (VolumeId, BlockRange)> {
        let of = |ill: bool| {
            let volumes = self.dirty.unsent.volumes();
            volumes.filter(move |(volume, _)| self.dirty.unread.has(*volume) == ill)
        };
        let size = self.config.chunk;
        of(false)
            .chain(of(true))
            .flat_map(move |(volume, set)| pieces(set, size).map(move |range| (volume, range)))
    }

    /// A quarter of what the line takes while clients have changes under way: theirs come first.
    fn most_pieces(&self) -> usize {
        let pace = self
            .session()
            .map_or(1, |session| session.resync.pace.pieces());
        let mut changes = self.primary.iter().flat_map(|p| p.changes.values());
        match changes.any(|change| !change.is_piece()) {
            true => (pace / 4).max(1),
            false => pace,
        }
    }

    /// Pieces that have not ended.
    pub(super) fn pieces_under_way(&self) -> usize {
        let changes = self.primary.iter().flat_map(|p| p.changes.values());
        changes.filter(|change| change.is_piece()).count()
    }

    /// What could not be read, if it is time to try again: the next volume, where it was left off.
    fn next_unread(&self) -> Option<(VolumeId, BlockRange)> {
        let retry = &self
            .session()
            .filter(|s| self.now >= s.resync.retry.at)?
            .resync
            .retry;
        let later = |(volume, _): &(VolumeId, &BlockSet)| retry.last.is_none_or(|l| *volume > l);
        let mut volumes = self.dirty.unread.volumes();
        let (volume, set) = volumes.find(later).or(self.dirty.unread.volumes().next())?;
        let from = retry.tried.get(&volume).copied().unwrap_or_default();
        let mut all = pieces(set, self.config.chunk);
        let range = all.find(|range| range.start >= from);
        Some((volume, range.or(pieces(set, self.config.chunk).next())?))
    }

    /// It could not be read here. The standby stays inconsistent until it can.
    pub(super) fn piece_failed(&mut self, ticket: Ticket) {
        let later = self.now.after(self.config.timing.rest);
        let Some(change) = self.primary.as_mut().and_then(|p| p.changes.remove(ticket)) else {
            return;
        };
        let Content::Piece(volume, range) = change.content else {
            self.lose_session(); // All metadata.
            return;
        };
        self.dirty.put_off(volume, range);
        if let Some(session) = self.session_mut() {
            let retry = &mut session.resync.retry;
            (retry.at, retry.last) = (later, Some(volume));
            retry.tried.insert(volume, range.end);
        }
        if self.primary.as_mut().is_some_and(|p| p.ill.insert(volume)) {
            self.note(Notice::Unreadable { volume, range });
        }
    }

    /// Both sides hold the same of it.
    pub(super) fn piece_in_place(&mut self, volume: VolumeId, range: BlockRange) {
        let ill = self.dirty.unread.touches(volume, range);
        self.dirty.arrived(volume, range);
        if ill && let Some(primary) = self.primary.as_mut() {
            primary.ill.remove(&volume);
        }
    }
}

/// Blocks of a volume in pieces of at most `size`.
pub(super) fn pieces(set: &BlockSet, size: u64) -> impl Iterator<Item = BlockRange> {
    set.ranges().flat_map(move |range| {
        (range.start..range.end)
            .step_by(size as usize)
            .map(move |start| BlockRange {
                start,
                end: range.end.min(start + size),
            })
    })
}
