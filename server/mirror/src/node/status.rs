//! How a server is, for people and for tests.

use crate::{Blocks, Millis, Mode, Term};

use super::{
    Node,
    session::{Phase, Session},
};

/// What a server is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It serves clients, or will as soon as it may.
    Primary,
    /// It follows a primary.
    Standby,
    /// Neither: it looks for a primary or tries to become one.
    Seeking,
}

/// How a server is, for people and for tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Primary: whether both servers hold the same and the standby may be promoted.
    pub paired: bool,
    /// Primary: what its clients have to wait for, if they have to.
    pub waits: Option<Wait>,
    /// Blocks that may differ between the servers and have to be sent.
    pub unsent: u64,
    /// Primary: those of them that it could not read, see [`Node::unread`].
    pub unread: u64,
    /// Items on their way to the standby.
    pub in_flight: usize,
    /// Bytes of content in them.
    pub in_flight_bytes: u64,
    /// How long the oldest of them has been on its way.
    pub oldest: Option<Millis>,
    /// The resync that is under way.
    pub resync: Option<Progress>,
    /// The comparison that is under way.
    pub verify: Option<Progress>,
    /// Whether its data may be served after a promotion.
    pub consistent: bool,
    /// What it held before a resync that has not ended is kept.
    pub kept: bool,
    /// It never had data of the pair, or gave them up.
    pub empty: bool,
    /// It lost power, and answered writes that nobody flushed may be gone.
    pub rolled_back: bool,
    /// Whether both servers have changes of their own.
    pub split_brain: bool,
    /// The witness that answers is not the agreed one.
    pub strange_witness: bool,
    /// For how long this server's disk has been hanging.
    pub hangs: Option<Millis>,
    /// How long ago the other server was heard of.
    pub heard: Option<Millis>,
}

/// What the clients of a primary wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// What this server did before has to end, or to be written down.
    Beginning,
    /// The standby takes over.
    Yielding,
    /// The standby is lost, and clients are to wait for it.
    Standby,
    /// The standby is lost, and the witness has not said yet that it will not be promoted.
    Witness,
}

/// How far something is that goes through blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Whether blocks are compared by checksum before they are sent.
    pub compare: bool,
    /// Blocks done.
    pub done: u64,
    /// Blocks left, as far as they are known.
    pub left: u64,
    /// How long it has been under way.
    pub since: Millis,
}

impl Node {
    /// How this server is.
    pub fn status(&self) -> Status {
        let session = self.session();
        Status {
            role: self.role(),
            term: self.term,
            paired: self.is_paired(),
            waits: self.waits(),
            unsent: self.dirty.left(),
            unread: self.dirty.unread.len(),
            in_flight: self.in_flight(),
            in_flight_bytes: session.map_or(0, Session::bytes_in_flight),
            oldest: session
                .and_then(Session::oldest)
                .map(|since| self.now.since(since)),
            resync: self.resync_progress(),
            verify: session
                .and_then(|s| s.verify.as_ref())
                .map(|verify| verify.progress(self.now)),
            consistent: !self.durable.inconsistent,
            kept: self.durable.kept.is_some(),
            empty: self.durable.history.is_empty(),
            rolled_back: self.durable.rolled_back,
            split_brain: self.split_brain,
            strange_witness: self.asker.stranger.is_some(),
            hangs: self.hung_for(),
            heard: self.heard.map(|when| self.now.since(when)),
        }
    }

    /// What this server knows to differ from the other one, or may: of a split brain, what it changed by itself.
    pub fn differing(&self) -> &Blocks {
        &self.dirty.unsent
    }

    /// What this primary could not read, so that the standby lacks it.
    pub fn unread(&self) -> &Blocks {
        &self.dirty.unread
    }

    /// Whether changes are answered before the standby has them.
    pub fn answers_early(&self) -> bool {
        matches!(self.config.mode, Mode::Async { .. })
    }

    pub(super) fn role(&self) -> Role {
        match (&self.primary, &self.standby) {
            (Some(_), _) => Role::Primary,
            (None, Some(_)) => Role::Standby,
            (None, None) => Role::Seeking,
        }
    }

    fn waits(&self) -> Option<Wait> {
        let primary = self.primary.as_ref()?;
        if self.road().is_some() {
            return None;
        }
        Some(match () {
            () if primary.yielding => Wait::Yielding,
            () if !primary.settled || primary.branching.is_some() => Wait::Beginning,
            () if !self.continues_alone() => Wait::Standby,
            () if !primary.fenced() => Wait::Witness,
            () => Wait::Beginning,
        })
    }

    fn resync_progress(&self) -> Option<Progress> {
        let session = self.session().filter(|s| s.phase == Phase::Syncing)?;
        Some(Progress {
            compare: self.primary.as_ref().is_some_and(|p| p.compare),
            done: session.resync.done,
            left: self.dirty.left(),
            since: self.now.since(session.resync.begun),
        })
    }
}
