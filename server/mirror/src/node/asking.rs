//! The conversation with the witness.

use crate::{
    Action, Moment, Notice, Record, Revision, Swap, WhyNot, WitnessAnswer, WitnessId,
    WitnessRequest,
};

use super::{After, Node};

/// What is wanted of the witness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// Its record, to see whether a promotion is possible.
    Look,
    /// To be its holder, with the other server outdated.
    Take {
        /// By hand.
        force: bool,
    },
    /// To be its holder, with nobody outdated.
    Clear,
}

#[derive(Debug, Default)]
pub(super) struct Asker {
    pub(super) want: Option<Want>,
    pending: Option<(u64, Moment)>,
    seen: Option<(Revision, Option<Record>)>,
    /// The want is met only by a revision above this one: a change asked for earlier and still on its way would meet a
    /// newer revision then, and fail.
    base: Option<Revision>,
    last_number: u64,
    /// Another witness than the agreed one answered, and nobody holds its record.
    pub(super) stranger: Option<WitnessId>,
}

impl Asker {
    pub(super) fn begin(&mut self, want: Want) {
        if self.want == Some(want) {
            return;
        }
        self.want = Some(want);
        self.pending = None;
        self.base = None;
        if want == Want::Look {
            self.seen = None;
        }
    }

    pub(super) fn record(&self) -> Option<Record> {
        self.seen.and_then(|(_, record)| record)
    }

    pub(super) fn revision(&self) -> Option<Revision> {
        self.seen.map(|(revision, _)| revision)
    }

    /// The want was decided on this revision and is void with any other.
    pub(super) fn rest_on(&mut self, revision: Option<Revision>) {
        self.base = revision;
    }

    pub(super) fn forget(&mut self) {
        let last_number = self.last_number;
        *self = Self {
            last_number,
            ..Self::default()
        };
    }
}

impl Node {
    /// Asks what is to be asked, unless an answer is due.
    pub(super) fn drive_witness(&mut self) {
        let Some(want) = self.asker.want else {
            return;
        };
        let due = self.config.timing.ask;
        let timed_out = match self.asker.pending {
            Some((_, since)) if self.now.since(since) < due => return,
            pending => pending.is_some(),
        };
        if self.raise_pending() {
            return;
        }
        let swap = if timed_out {
            None
        } else {
            self.wanted_swap(want)
        };
        self.asker.last_number += 1;
        let number = self.asker.last_number;
        self.asker.pending = Some((number, self.now));
        let from = self.me;
        self.out
            .push(Action::Ask(WitnessRequest { number, from, swap }));
    }

    fn wanted_swap(&mut self, want: Want) -> Option<Swap> {
        let (expect, _) = self.asker.seen.filter(|_| want != Want::Look)?;
        let witness = self.durable.witness?;
        let expect = self
            .asker
            .base
            .filter(|_| self.primary.is_none())
            .unwrap_or(expect);
        self.asker.base.get_or_insert(expect);
        Some(Swap {
            witness,
            expect,
            record: self.wanted_record(want),
            force: want == Want::Take { force: true },
        })
    }

    fn wanted_record(&self, want: Want) -> Record {
        Record {
            term: self.durable.term,
            holder: self.me,
            outdated: (want != Want::Clear).then_some(self.me.peer()),
        }
    }

    pub(super) fn answered(&mut self, answer: WitnessAnswer) {
        if self
            .asker
            .pending
            .is_some_and(|(number, _)| number == answer.number)
        {
            self.asker.pending = None;
        } else if self.asker.want == Some(Want::Look) {
            return; // A look must have been taken after it was wanted.
        }
        if !self.is_agreed(&answer) {
            return;
        }
        if self
            .asker
            .seen
            .is_some_and(|(revision, _)| revision > answer.revision)
        {
            return;
        }
        self.asker.seen = Some((answer.revision, answer.record));
        self.witnessed(answer);
    }

    fn is_agreed(&mut self, answer: &WitnessAnswer) -> bool {
        let agreed = self.durable.witness;
        if agreed == Some(answer.witness) {
            self.asker.stranger = None;
            return true;
        }
        if self.may_adopt_by_hand() {
            self.durable.witness = Some(answer.witness);
            return true;
        }
        if self.asker.stranger != Some(answer.witness) {
            self.note(Notice::StrangeWitness);
        }
        self.asker.stranger = Some(answer.witness);
        self.asker.pending = Some((0, self.now)); // Asked again, but not at once.
        if self.primary.is_none() {
            self.asker.want = None;
            self.refuse_claim(WhyNot::StrangeWitness);
        }
        self.adopt_together(answer);
        false
    }

    fn witnessed(&mut self, answer: WitnessAnswer) {
        let taken = answer
            .record
            .is_some_and(|r| r.holder != self.me && r.term > self.term);
        if taken && self.primary.is_some() {
            self.depose();
            return;
        }
        let Some(want) = self.asker.want else {
            return;
        };
        if want == Want::Look {
            self.looked(answer.record);
            return;
        }
        let newer = self.asker.base.is_some_and(|base| answer.revision > base);
        if newer && answer.record == Some(self.wanted_record(want)) {
            self.asker.want = None;
            self.granted(want);
        } else if newer && self.primary.is_none() {
            // Somebody was faster: whether a promotion is still possible has to be seen afresh.
            self.asker.want = None;
            self.refuse_claim(WhyNot::Overtaken);
        }
    }

    fn granted(&mut self, want: Want) {
        if self.primary.is_none() {
            self.claim_won();
            return;
        }
        if matches!(want, Want::Take { .. }) {
            self.taken_again();
        }
    }

    /// The operator says that the witness which answered last is the one that counts.
    pub(super) fn accept_witness(&mut self) {
        if let Some(witness) = self.asker.stranger {
            let want = self.asker.want;
            self.durable.witness = Some(witness);
            self.persist(After::Nothing);
            self.asker.forget();
            self.asker.want = want;
        }
    }

    /// A primary whose standby is in sync may agree with it on a new witness: both know that neither is outdated.
    fn adopt_together(&mut self, answer: &WitnessAnswer) {
        if answer.record.is_none() && self.is_paired() {
            self.ship_adoption(answer.witness);
        }
    }

    /// The standby has agreed on the new witness.
    pub(super) fn adoption_agreed(&mut self, witness: WitnessId) {
        if self.durable.witness != Some(witness) {
            self.durable.witness = Some(witness);
            self.persist(After::Adopted);
        }
    }

    /// This server has, too: the new witness gets its first record.
    pub(super) fn adopted(&mut self) {
        self.asker.forget();
        if self.is_paired() {
            self.asker.begin(Want::Clear);
        }
    }
}
