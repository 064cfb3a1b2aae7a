//! The third box: one record, changed by compare-and-swap, and no clock.
//!
//! It needs no leases of its own: the only server that could take over is the standby, so it is the standby that grants
//! the primary its lease (see PROTOCOL.md). What is left for the witness is to decide between two that both want to be
//! right, for good and once.

use crate::{NodeId, Revision, Term, WitnessId};

/// What the witness knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Highest term that was won.
    pub term: Term,
    /// Who won it.
    pub holder: NodeId,
    /// The server that misses answered writes and must not be promoted.
    pub outdated: Option<NodeId>,
}

/// What a server asks of the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WitnessRequest {
    /// Comes back with the answer.
    pub number: u64,
    /// Who asks.
    pub from: NodeId,
    /// The change that is wanted; `None` reads only.
    pub swap: Option<Swap>,
}

/// A change of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swap {
    /// The witness that is meant.
    pub witness: WitnessId,
    /// The revision that the sender saw.
    pub expect: Revision,
    /// The record that it shall have.
    pub record: Record,
    /// By hand: an outdated server may take over.
    pub force: bool,
}

/// The witness' answer: its record after the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WitnessAnswer {
    /// The request's number.
    pub number: u64,
    /// Which witness answers.
    pub witness: WitnessId,
    /// How often the record was changed.
    pub revision: Revision,
    /// The record, if there ever was one.
    pub record: Option<Record>,
}

/// What the witness keeps on disk. It never goes back: a file restored from a backup must be thrown away instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WitnessState {
    /// Drawn at random when the file was made.
    pub id: WitnessId,
    /// How often the record was changed.
    pub revision: Revision,
    /// The record.
    pub record: Option<Record>,
}

/// The witness itself.
#[derive(Debug, Clone)]
pub struct Witness {
    state: WitnessState,
}

impl WitnessState {
    /// A witness that knows nothing yet. `id` is random.
    pub fn new(id: WitnessId) -> Self {
        Self {
            id,
            revision: Revision(0),
            record: None,
        }
    }
}

impl Witness {
    /// Goes on from what is on disk.
    pub fn new(state: WitnessState) -> Self {
        Self { state }
    }

    /// What has to be on disk before any answer given so far is sent.
    pub fn state(&self) -> WitnessState {
        self.state
    }

    /// Handles a request. If [`Witness::state`] changed, it must be durable before the answer leaves.
    pub fn handle(&mut self, request: WitnessRequest) -> WitnessAnswer {
        if let Some(swap) = request.swap.filter(|swap| self.allows(request.from, swap)) {
            self.state.revision.0 += 1;
            self.state.record = Some(swap.record);
        }
        WitnessAnswer {
            number: request.number,
            witness: self.state.id,
            revision: self.state.revision,
            record: self.state.record,
        }
    }

    fn allows(&self, from: NodeId, swap: &Swap) -> bool {
        swap.witness == self.state.id
            && swap.expect == self.state.revision
            && swap.record.holder == from
            && swap.record.outdated != Some(from)
            && self.state.record.is_none_or(|old| old.may_become(swap))
    }
}

impl Record {
    fn may_become(&self, swap: &Swap) -> bool {
        let new = &swap.record;
        let stays = new.holder == self.holder && new.term >= self.term;
        let passes = new.term > self.term && (swap.force || self.outdated != Some(new.holder));
        stays || passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: WitnessId = WitnessId(7);

    fn record(term: u64, holder: NodeId, outdated: Option<NodeId>) -> Record {
        Record {
            term: Term(term),
            holder,
            outdated,
        }
    }

    fn swap(witness: &mut Witness, expect: u64, record: Record) -> bool {
        let answer = witness.handle(WitnessRequest {
            number: 1,
            from: record.holder,
            swap: Some(Swap {
                witness: ID,
                expect: Revision(expect),
                record,
                force: false,
            }),
        });
        answer.revision == Revision(expect + 1) && answer.record == Some(record)
    }

    fn held_by_a() -> Witness {
        let mut witness = Witness::new(WitnessState::new(ID));
        assert!(swap(&mut witness, 0, record(2, NodeId::A, Some(NodeId::B))));
        witness
    }

    #[test]
    fn an_outdated_server_cannot_take_over() {
        let mut witness = held_by_a();
        assert!(!swap(
            &mut witness,
            1,
            record(3, NodeId::B, Some(NodeId::A))
        ));
        assert!(swap(&mut witness, 1, record(2, NodeId::A, None)));
        assert!(swap(&mut witness, 2, record(3, NodeId::B, Some(NodeId::A))));
        assert!(!swap(&mut witness, 3, record(4, NodeId::A, None)));
    }

    #[test]
    fn a_late_request_meets_a_newer_revision() {
        let mut witness = held_by_a();
        assert!(swap(&mut witness, 1, record(2, NodeId::A, Some(NodeId::B))));
        assert!(!swap(&mut witness, 1, record(2, NodeId::A, None)));
    }

    #[test]
    fn nobody_declares_itself_outdated_or_takes_an_old_term() {
        let mut witness = held_by_a();
        assert!(!swap(
            &mut witness,
            1,
            record(4, NodeId::A, Some(NodeId::A))
        ));
        assert!(!swap(&mut witness, 1, record(0, NodeId::A, None)));
        assert!(!swap(&mut witness, 1, record(1, NodeId::B, None)));
    }

    #[test]
    fn another_witness_of_the_same_revision_refuses() {
        let mut witness = Witness::new(WitnessState::new(WitnessId(8)));
        assert!(!swap(&mut witness, 0, record(2, NodeId::A, None)));
    }
}
