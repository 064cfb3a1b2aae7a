//! The wires: what is cut, what is slow.

use mirror::NodeId;

use crate::random::Random;

/// Ends of wires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    Server(NodeId),
    Witness,
    Clients,
}

impl End {
    fn index(self) -> usize {
        match self {
            Self::Server(node) => node as usize,
            Self::Witness => 2,
            Self::Clients => 3,
        }
    }
}

#[derive(Default)]
pub struct Net {
    cut: [[bool; 4]; 4],
    /// Longest delay in microseconds, by direction; 0 for the usual one.
    slow: [[u64; 4]; 4],
    /// One message in so many is lost between the servers; 0 for none.
    pub loses: u64,
}

const USUAL: u64 = 1500;

impl Net {
    pub fn cut(&mut self, from: End, to: End, cut: bool) {
        self.cut[from.index()][to.index()] = cut;
    }

    pub fn slow(&mut self, from: End, to: End, most: u64) {
        self.slow[from.index()][to.index()] = most;
    }

    pub fn heal(&mut self) {
        *self = Self::default();
    }

    /// How long a message takes in microseconds; `None` if it never comes. Each has its own delay, so they overtake
    /// one another.
    pub fn delay(&self, random: &mut Random, from: End, to: End) -> Option<u64> {
        let (from, to) = (from.index(), to.index());
        let lost = self.loses > 0 && from < 2 && to < 2 && random.one_in(self.loses);
        let most = self.slow[from][to].max(USUAL);
        let delay = random.between(50, most);
        (!self.cut[from][to] && !lost).then_some(delay)
    }

    /// Between a client and a server, either way.
    pub fn client_delay(&self, random: &mut Random, node: NodeId) -> Option<u64> {
        self.delay(random, End::Clients, End::Server(node))
    }
}
