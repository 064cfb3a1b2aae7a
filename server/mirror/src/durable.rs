//! What a server must find again after a crash or a power cut.

use crate::{Blocks, Incarnation, Term, WitnessId};

/// Name of a state of the data that one server alone has gone on from. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation {
    /// The run that began it.
    pub of: Incarnation,
    /// Counted by that run.
    pub number: u64,
}

/// How many generations are remembered. One is added each time a pair is broken and its rest goes on.
pub const HISTORY: usize = 64;

/// A server's durable state. It is replaced as a whole, in the order in which it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Durable {
    /// Highest term that this server used or obeyed.
    pub term: Term,
    /// The witness that counts.
    pub witness: Option<WitnessId>,
    /// Generations of the data, newest first.
    pub history: Vec<Generation>,
    /// The other server has, or is about to have, the newest generation.
    pub shared: bool,
    /// A resync into this server was begun and not finished.
    pub inconsistent: bool,
    /// What the target of that resync held before is kept under this name, and was whole.
    pub kept: Option<Generation>,
    /// What may differ between the servers is kept in memory only; a restart forgets it.
    pub paired: bool,
    /// `marks`, with what is in memory, cover everything that may differ, as far as this server caused it or knew of it.
    pub complete: bool,
    /// Power was lost since the data were last known to be good: answered writes that nobody flushed may be gone.
    pub rolled_back: bool,
    /// This server was primary last.
    pub last_primary: bool,
    /// Regions that may differ.
    pub marks: Blocks,
}

impl Durable {
    /// What is left after a start. `power_lost`: the host started anew since this state was written.
    pub(crate) fn after_start(mut self, power_lost: bool) -> Self {
        self.complete &= !self.paired;
        self.rolled_back |= power_lost && !self.history.is_empty();
        self
    }

    /// Begins a generation of its own, if the other server may know the newest.
    pub(crate) fn branch(&mut self, next: Generation) {
        if self.shared || self.history.is_empty() {
            self.history.insert(0, next);
            self.history.truncate(HISTORY);
        }
        self.shared = false;
        self.paired = false;
    }
}
