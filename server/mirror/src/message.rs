//! What the two servers say to one another.

use crate::{
    Blocks, Generation, Incarnation, Item, ItemAnswer, Moment, NodeId, Seq, SessionId, Term,
};

/// A message of the link. The transport may deliver messages of several connections in any order, late, or not at all,
/// and must not change them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who says it.
    pub from: NodeId,
    /// The term under which it is said.
    pub term: Term,
    /// What is said.
    pub body: Body,
}

/// What is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// "This is how I am": sent regularly while there is no session.
    Hello(Hello),
    /// Primary: "be my standby".
    Open {
        /// The session to begin.
        session: SessionId,
        /// The run that is meant: that of the greeting which this answers.
        to: Incarnation,
    },
    /// Standby: "I am, and durably inconsistent until you say otherwise".
    Opened {
        /// The session.
        session: SessionId,
        /// Whether `dirty` covers everything that may differ as far as the standby knows.
        complete: bool,
        /// What may differ.
        dirty: Blocks,
    },
    /// Primary: the next item of the stream.
    Ship {
        /// The session.
        session: SessionId,
        /// Its place.
        seq: Seq,
        /// The item.
        item: Item,
    },
    /// Standby: answer to an item.
    Ack {
        /// The session.
        session: SessionId,
        /// The item's place.
        seq: Seq,
        /// The answer.
        answer: ItemAnswer,
    },
    /// Primary: "are you there?"
    Ping {
        /// The session.
        session: SessionId,
        /// Counted by the primary.
        number: u64,
        /// The primary's clock when it was sent.
        sent: Moment,
    },
    /// Standby: "yes, and from now on I seek no promotion for the agreed time".
    Pong {
        /// The session.
        session: SessionId,
        /// From the ping.
        number: u64,
        /// From the ping.
        sent: Moment,
    },
    /// Primary: "I am it no longer, and rely on no promise: your turn".
    Yield {
        /// The session, which is over with this.
        session: SessionId,
    },
    /// Standby: "I could not do that; the session is over".
    Failed {
        /// The session.
        session: SessionId,
    },
}

/// How a server is that has no session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Its run.
    pub incarnation: Option<Incarnation>,
    /// Whether it is primary.
    pub primary: bool,
    /// Generations of its data, newest first.
    pub history: Vec<Generation>,
    /// See [`crate::Durable::inconsistent`].
    pub inconsistent: bool,
    /// See [`crate::Durable::rolled_back`].
    pub rolled_back: bool,
    /// See [`crate::Durable::last_primary`].
    pub last_primary: bool,
    /// It failed a moment ago and wants no session yet.
    pub resting: bool,
}
