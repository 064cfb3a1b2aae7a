//! The witness' box: may be down, slow, or lose its memory.

use mirror::{Record, Revision, Witness, WitnessAnswer, WitnessId, WitnessRequest, WitnessState};

use crate::lies::Lie;

pub struct WitnessHost {
    witness: Witness,
    pub down: bool,
    /// The last record that counted, also when the witness has forgotten it.
    truth: Option<Record>,
}

impl WitnessHost {
    pub fn new(id: u64) -> Self {
        Self {
            witness: Witness::new(WitnessState::new(WitnessId(id))),
            down: false,
            truth: None,
        }
    }

    /// What is known of who is primary and who is outdated.
    pub fn truth(&self) -> Option<Record> {
        self.truth
    }

    /// Who it is.
    pub fn id(&self) -> WitnessId {
        self.witness.state().id
    }

    pub fn revision(&self) -> Revision {
        self.witness.state().revision
    }

    /// Its file is gone; it makes a new one.
    pub fn forget(&mut self, id: u64) {
        self.witness = Witness::new(WitnessState::new(WitnessId(id)));
    }

    /// Starts anew from its file.
    pub fn restart(&mut self) {
        self.down = false;
        self.witness = Witness::new(self.witness.state());
    }

    pub fn handle(&mut self, mut request: WitnessRequest, lie: Lie) -> Option<WitnessAnswer> {
        if self.down {
            return None;
        }
        if let Some(swap) = &mut request.swap {
            swap.force |= lie == Lie::OutdatedMayLead || lie == Lie::NeverInconsistent;
            if lie == Lie::SwapWithoutCompare {
                swap.expect = self.witness.state().revision;
            }
        }
        let mut answer = self.witness.handle(request);
        self.truth = self.witness.state().record.or(self.truth);
        if let Some(record) = &mut answer.record
            && matches!(lie, Lie::OutdatedMayLead | Lie::NeverInconsistent)
            && record.outdated == Some(request.from)
        {
            record.outdated = None;
        }
        Some(answer)
    }
}
