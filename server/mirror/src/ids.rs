//! Numbers with a meaning each, so that none is taken for another.

use std::fmt;

/// One of the two servers of a pair. The configuration says which one a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeId {
    /// The first of the pair.
    A,
    /// The second of the pair.
    B,
}

impl NodeId {
    /// The other server of the pair.
    pub fn peer(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// Number of a reign. It only grows, and each belongs to one server: A has the even ones, B the odd ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

impl Term {
    /// The lowest term above this one that `node` may use.
    pub fn next_for(self, node: NodeId) -> Self {
        let parity = u64::from(node == NodeId::B);
        let above = self.0 + 1;
        Self(above + u64::from(above % 2 != parity))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {}", self.0)
    }
}

/// How often the witness' record was changed. 0: never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Which witness: drawn at random when its file is made, so that one which lost its memory is not taken for the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WitnessId(pub u64);

/// One run of a server: drawn at random at the start of its process, and another one whenever what it has said of its data
/// is not so any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u64);

/// One connection of a primary with a standby, in the sense of this protocol (it may use several sockets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The primary's run.
    pub of: Incarnation,
    /// Counted by that run.
    pub number: u64,
}

/// Place in a session's stream, from 1 without gaps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(pub u64);

/// A disk that is mirrored. Given by the primary when it is made, through the stream of metadata, and never again: a
/// reset overlay is another volume, so a late write to the old one cannot hit the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId(pub u64);

/// One connection of a client with this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A client's request, so that the answer finds it. The caller gives each number once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that this machine asked its caller to do on the disk; comes back with the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// A point on this server's own monotonic clock, in milliseconds since any fixed point.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub u64);

impl Moment {
    /// This point, `span` later.
    pub fn after(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// How long ago `earlier` was; zero if it was not.
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_term_belongs_to_one_server() {
        let (mut a, mut b) = (Term(0), Term(0));
        for _ in 0..10 {
            let (next_a, next_b) = (a.next_for(NodeId::A), b.next_for(NodeId::B));
            assert!(next_a > a && next_b > b);
            assert_eq!((next_a.0 % 2, next_b.0 % 2), (0, 1));
            (a, b) = (next_b, next_a);
        }
    }
}
