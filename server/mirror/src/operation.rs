//! What a client or the server itself does to the mirrored state, and what is shipped to the standby.

use bytes::Bytes;

use crate::{BlockRange, Blocks, Generation, Seq, VolumeId, WitnessId};

/// A change that both servers make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Bytes of a volume.
    Write {
        /// Which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes the write covers. The data may be coded by the caller.
        length: u64,
        /// The content.
        data: Bytes,
    },
    /// Zeros, with or without giving the space back.
    Zero {
        /// Which volume.
        volume: VolumeId,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        length: u64,
        /// Whether the space may be given back.
        trim: bool,
    },
    /// A record of the metadata: an overlay made or reset, a token, a lease. Durable when it is applied.
    Meta {
        /// The volume whose writes it must not be mixed with; `None` when it touches none.
        volume: Option<VolumeId>,
        /// The record; this crate does not look into it.
        record: Bytes,
    },
}

/// What an operation touches, for ordering: two that touch the same never run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Blocks of a volume; all of it for metadata about it.
    pub(crate) blocks: Option<(VolumeId, BlockRange)>,
    /// Whether metadata is touched.
    pub(crate) meta: bool,
}

const WHOLE: BlockRange = BlockRange {
    start: 0,
    end: u64::MAX,
};

impl Op {
    pub(crate) fn footprint(&self) -> Footprint {
        let blocks = match self {
            Self::Write {
                volume,
                offset,
                length,
                ..
            }
            | Self::Zero {
                volume,
                offset,
                length,
                ..
            } => Some((*volume, BlockRange::touched(*offset, *length))),
            Self::Meta { volume, .. } => volume.map(|volume| (volume, WHOLE)),
        };
        Footprint {
            blocks,
            meta: matches!(self, Self::Meta { .. }),
        }
    }

    /// Blocks of data that it changes; metadata changes none.
    pub(crate) fn changes(&self) -> Option<(VolumeId, BlockRange)> {
        match self {
            Self::Meta { .. } => None,
            _ => self.footprint().blocks,
        }
    }
}

impl Footprint {
    /// That of something which touches these blocks only.
    pub(crate) fn of(volume: VolumeId, range: BlockRange) -> Self {
        Self {
            blocks: Some((volume, range)),
            meta: false,
        }
    }

    /// That of all metadata.
    pub(crate) fn metadata() -> Self {
        Self {
            blocks: None,
            meta: true,
        }
    }

    pub(crate) fn collides(&self, other: &Self) -> bool {
        let blocks = match (self.blocks, other.blocks) {
            (Some((a, x)), Some((b, y))) => a == b && x.overlaps(y),
            _ => false,
        };
        blocks || (self.meta && other.meta)
    }
}

/// An item of the stream from the primary to the standby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A change.
    Op(Op),
    /// Blocks as the primary has them. A target that reads the same already need not write.
    Restore {
        /// Which volume.
        volume: VolumeId,
        /// Which blocks.
        range: BlockRange,
        /// Their content.
        data: Bytes,
    },
    /// All metadata as the primary has it; takes the place of the standby's.
    Metadata(Bytes),
    /// Everything of this volume to disk.
    Flush(VolumeId),
    /// What came up to here for this volume is durable on both sides.
    Confirmed {
        /// Which volume.
        volume: VolumeId,
        /// Up to here.
        upto: Seq,
    },
    /// Asks for the checksum of blocks.
    Sum {
        /// Which volume.
        volume: VolumeId,
        /// Which blocks.
        range: BlockRange,
    },
    /// Asks which blocks the standby has of its own.
    Survey,
    /// The resync is done: the standby is consistent from here on.
    Synced {
        /// Whether the standby's own list of what came in is all that can differ (mode `sync`).
        complete: bool,
        /// The data's generations, newest first.
        history: Vec<Generation>,
    },
    /// From here on this witness counts.
    Adopt(WitnessId),
}

impl Item {
    /// The content in it.
    pub(crate) fn content(&self) -> Option<&Bytes> {
        match self {
            Self::Op(Op::Write { data, .. }) | Self::Restore { data, .. } => Some(data),
            Self::Op(Op::Meta { record, .. }) => Some(record),
            Self::Metadata(all) => Some(all),
            _ => None,
        }
    }

    /// Bytes of content in it.
    pub(crate) fn content_length(&self) -> u64 {
        self.content().map_or(0, |content| content.len() as u64)
    }
}

/// The standby's answer to an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ItemAnswer {
    /// Applied; of a flush: on disk.
    Done,
    /// Checksum of the blocks.
    Sum(u64),
    /// Blocks that the standby has of its own.
    Blocks(Blocks),
}
