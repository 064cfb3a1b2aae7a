//! What is said to the witness and by it, and the two durable states.

use bytes::Bytes;

use super::{Put, Take, framed, unknown};
use crate::{
    Durable, Generation, Incarnation, NodeId, Record, Result, Revision, Swap, Term, WitnessAnswer,
    WitnessId, WitnessRequest, WitnessState,
};

/// Version of both durable states.
const FORMAT: u8 = 1;
/// That of a server's state while something is kept from before a resync.
const FORMAT_KEPT: u8 = 2;

impl WitnessRequest {
    /// Appends this request as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        framed(out, |out| {
            out.put_u64(self.number);
            out.put_node(self.from);
            out.put_flag(self.swap.is_some());
            if let Some(swap) = self.swap {
                out.put_u64(swap.witness.0);
                out.put_u64(swap.expect.0);
                swap.record.put(out);
                out.put_flag(swap.force);
            }
        })
    }

    /// Reads a frame's content, without its length.
    pub fn decode(frame: Bytes) -> Result<Self> {
        let mut take = Take::new(&frame);
        let number = take.u64()?;
        let from = take.node()?;
        let swap = if take.flag()? {
            Some(Swap::take(&mut take)?)
        } else {
            None
        };
        take.end(Self { number, from, swap })
    }
}

impl Swap {
    fn take(take: &mut Take) -> Result<Self> {
        Ok(Self {
            witness: WitnessId(take.u64()?),
            expect: Revision(take.u64()?),
            record: Record::take(take)?,
            force: take.flag()?,
        })
    }
}

impl Record {
    fn put(&self, out: &mut Vec<u8>) {
        out.put_u64(self.term.0);
        out.put_node(self.holder);
        out.push(self.outdated.map_or(2, |node| node as u8));
    }

    fn take(take: &mut Take) -> Result<Self> {
        let term = Term(take.u64()?);
        let holder = take.node()?;
        let outdated = match take.u8()? {
            0 => Some(NodeId::A),
            1 => Some(NodeId::B),
            2 => None,
            _ => return Err(unknown("an outdated server that is not one of the pair")),
        };
        Ok(Self {
            term,
            holder,
            outdated,
        })
    }

    fn put_option(record: Option<Self>, out: &mut Vec<u8>) {
        out.put_flag(record.is_some());
        if let Some(record) = record {
            record.put(out);
        }
    }

    fn take_option(take: &mut Take) -> Result<Option<Self>> {
        Ok(if take.flag()? {
            Some(Self::take(take)?)
        } else {
            None
        })
    }
}

impl WitnessAnswer {
    /// Appends this answer as a frame.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        framed(out, |out| {
            out.put_u64(self.number);
            out.put_u64(self.witness.0);
            out.put_u64(self.revision.0);
            Record::put_option(self.record, out);
        })
    }

    /// Reads a frame's content, without its length.
    pub fn decode(frame: Bytes) -> Result<Self> {
        let mut take = Take::new(&frame);
        let number = take.u64()?;
        let witness = WitnessId(take.u64()?);
        let revision = Revision(take.u64()?);
        let record = Record::take_option(&mut take)?;
        take.end(Self {
            number,
            witness,
            revision,
            record,
        })
    }
}

impl WitnessState {
    /// This state as bytes. The caller guards them with a checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.put_u64(self.id.0);
        out.put_u64(self.revision.0);
        Record::put_option(self.record, &mut out);
        out
    }

    /// Reads what [`WitnessState::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut take = Take::new(&bytes);
        check_format(&mut take)?;
        let id = WitnessId(take.u64()?);
        let revision = Revision(take.u64()?);
        let record = Record::take_option(&mut take)?;
        take.end(Self {
            id,
            revision,
            record,
        })
    }
}

impl Durable {
    /// This state as bytes. The caller guards them with a checksum.
    pub fn encode(&self) -> Vec<u8> {
        // A release that knows nothing of what is kept must not go on from there.
        let mut out = vec![match self.kept {
            Some(_) => FORMAT_KEPT,
            None => FORMAT,
        }];
        out.put_u64(self.term.0);
        out.put_option(self.witness.map(|witness| witness.0));
        out.put_history(&self.history);
        for flag in [
            self.shared,
            self.inconsistent,
            self.paired,
            self.complete,
            self.rolled_back,
            self.last_primary,
        ] {
            out.put_flag(flag);
        }
        out.put_blocks(&self.marks);
        if let Some(kept) = self.kept {
            out.put_u64(kept.of.0);
            out.put_u64(kept.number);
        }
        out
    }

    /// Reads what [`Durable::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Result<Self> {
        let mut take = Take::new(&bytes);
        let kept = match take.u8()? {
            FORMAT => false,
            FORMAT_KEPT => true,
            _ => return Err(other_format()),
        };
        let mut state = Self {
            kept: None,
            term: Term(take.u64()?),
            witness: take.option()?.map(WitnessId),
            history: take.history()?,
            shared: take.flag()?,
            inconsistent: take.flag()?,
            paired: take.flag()?,
            complete: take.flag()?,
            rolled_back: take.flag()?,
            last_primary: take.flag()?,
            marks: take.blocks()?,
        };
        if kept {
            state.kept = Some(Generation {
                of: Incarnation(take.u64()?),
                number: take.u64()?,
            });
        }
        take.end(state)
    }
}

fn check_format(take: &mut Take) -> Result<()> {
    match take.u8()? {
        FORMAT => Ok(()),
        _ => Err(other_format()),
    }
}

fn other_format() -> crate::Error {
    unknown("a durable state of another format: written by a newer release?")
}
