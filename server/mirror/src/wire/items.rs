//! Items of the stream and their answers.

use super::{Put, Take, unknown};
use crate::{Item, ItemAnswer, Op, Result, Seq, VolumeId, WitnessId};

impl Item {
    /// The number of this kind of item.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Op(_) => 1,
            Self::Restore { .. } => 2,
            Self::Metadata(_) => 3,
            Self::Flush(_) => 4,
            Self::Confirmed { .. } => 5,
            Self::Sum { .. } => 6,
            Self::Survey => 7,
            Self::Synced { .. } => 8,
            Self::Adopt(_) => 9,
        }
    }

    /// All but the content, which follows.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.kind());
        match self {
            Self::Op(op) => op.put(out),
            Self::Restore { volume, range, .. } => out.put_range(*volume, *range),
            Self::Metadata(_) => {}
            Self::Flush(volume) => out.put_u64(volume.0),
            Self::Confirmed { volume, upto } => {
                out.put_u64(volume.0);
                out.put_u64(upto.0);
            }
            Self::Sum { volume, range } => out.put_range(*volume, *range),
            Self::Survey => {}
            Self::Synced { complete, history } => {
                out.put_flag(*complete);
                out.put_history(history);
            }
            Self::Adopt(witness) => out.put_u64(witness.0),
        }
    }

    pub(super) fn take(take: &mut Take) -> Result<Self> {
        Ok(match take.u8()? {
            1 => Self::Op(Op::take(take)?),
            2 => {
                let (volume, range) = take.range()?;
                let data = take.rest();
                Self::Restore {
                    volume,
                    range,
                    data,
                }
            }
            3 => Self::Metadata(take.rest()),
            4 => Self::Flush(VolumeId(take.u64()?)),
            5 => Self::Confirmed {
                volume: VolumeId(take.u64()?),
                upto: Seq(take.u64()?),
            },
            6 => {
                let (volume, range) = take.range()?;
                Self::Sum { volume, range }
            }
            7 => Self::Survey,
            8 => Self::Synced {
                complete: take.flag()?,
                history: take.history()?,
            },
            9 => Self::Adopt(WitnessId(take.u64()?)),
            _ => return Err(unknown("an item of an unknown kind")),
        })
    }
}

impl Op {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Write {
                volume,
                offset,
                length,
                ..
            } => {
                out.push(1);
                out.put_u64(volume.0);
                out.put_u64(*offset);
                out.put_u64(*length);
            }
            Self::Zero {
                volume,
                offset,
                length,
                trim,
            } => {
                out.push(2);
                out.put_u64(volume.0);
                out.put_u64(*offset);
                out.put_u64(*length);
                out.put_flag(*trim);
            }
            Self::Meta { volume, .. } => {
                out.push(3);
                out.put_option(volume.map(|volume| volume.0));
            }
        }
    }

    fn take(take: &mut Take) -> Result<Self> {
        Ok(match take.u8()? {
            1 => Self::Write {
                volume: VolumeId(take.u64()?),
                offset: take.u64()?,
                length: take.u64()?,
                data: take.rest(),
            },
            2 => Self::Zero {
                volume: VolumeId(take.u64()?),
                offset: take.u64()?,
                length: take.u64()?,
                trim: take.flag()?,
            },
            3 => Self::Meta {
                volume: take.option()?.map(VolumeId),
                record: take.rest(),
            },
            _ => return Err(unknown("a change of an unknown kind")),
        })
    }
}

impl ItemAnswer {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Done => out.push(1),
            Self::Sum(sum) => {
                out.push(2);
                out.put_u64(*sum);
            }
            Self::Blocks(blocks) => {
                out.push(3);
                out.put_blocks(blocks);
            }
        }
    }

    pub(super) fn take(take: &mut Take) -> Result<Self> {
        Ok(match take.u8()? {
            1 => Self::Done,
            2 => Self::Sum(take.u64()?),
            3 => Self::Blocks(take.blocks()?),
            _ => return Err(unknown("an answer of an unknown kind")),
        })
    }
}
