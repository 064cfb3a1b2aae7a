//! What goes wrong, and how it ends.

use mirror::{Command, Event, NodeId, Role};

use crate::{
    host::Input,
    net::End,
    world::{Ev, World},
};

/// The end of a failure.
#[derive(Clone, Copy)]
pub enum Fault {
    Boot(NodeId),
    Thaw(NodeId, u64),
    Uncut(End, End),
    Unslow(End, End),
    WitnessUp,
    DiskWell(NodeId),
    /// A disk that hung goes on.
    DiskGoesOn(NodeId, u64),
    /// Somebody looks after the pair.
    Operator,
}

const NODES: [NodeId; 2] = [NodeId::A, NodeId::B];

impl World {
    pub fn next_fault(&mut self) {
        if !self.active {
            return;
        }
        let every = self.setup.fault_every;
        let delay = self.random.between(every / 8, every * 2);
        self.at(delay, Ev::Faults);
        self.counts.faults += 1;
        if self.verifies && self.coin() {
            NODES
                .into_iter()
                .for_each(|node| self.command(node, Command::Verify));
        }
        self.break_something();
        if self.random.one_in(4) {
            self.break_something(); // Failures like company.
        }
        self.hang_some();
    }

    fn break_something(&mut self) {
        let node = *self.random.pick(&NODES);
        let short = self.random.between(20_000, 500_000);
        let long = self.random.between(20_000, 2_500_000);
        let span = if self.random.one_in(2) { short } else { long };
        match self.random.below(23) {
            0..=2 => self.stop_and_boot(node, span, false),
            3 | 4 => self.stop_and_boot(node, span, true),
            5 => NODES
                .into_iter()
                .for_each(|node| self.stop_and_boot(node, span, true)),
            6 => self.both_at_once(span),
            7..=9 => self.freeze(node, span),
            10..=13 => self.cut(span),
            14 => self.slow(span),
            15 => self.witness_down(span),
            16 => self.witness_forgets(),
            17 => self.link_down(),
            18 => self.fill_disk(node, span),
            19 | 20 => self.isolate(node, span),
            21 => self.command(node, Command::HandOver),
            _ => self.spoil_disk(node, span),
        }
    }

    /// Somebody tells a server something: it hears of it once it runs again.
    fn command(&mut self, node: NodeId, command: Command) {
        self.input(node, Input::Event(Event::Command(command)));
    }

    fn stop_and_boot(&mut self, node: NodeId, span: u64, power: bool) {
        if power {
            self.cut_power(node);
        } else {
            self.kill(node);
        }
        self.at(span, Ev::Fault(Fault::Boot(node)));
    }

    /// One is killed and the other loses power.
    fn both_at_once(&mut self, span: u64) {
        let other = self.random.between(20_000, 800_000);
        self.stop_and_boot(NodeId::A, span, self.coin());
        self.stop_and_boot(NodeId::B, other, !self.coin());
    }

    fn coin(&self) -> bool {
        self.now.is_multiple_of(2)
    }

    fn freeze(&mut self, node: NodeId, span: u64) {
        let now = self.now;
        let host = self.host(node);
        if host.node.is_some() && !host.frozen {
            host.frozen = true;
            self.log(|| format!("{node:?} freezes for {span}"));
            self.at(span, Ev::Fault(Fault::Thaw(node, now)));
        }
    }

    fn ends(&mut self) -> (End, End) {
        let all = [
            End::Server(NodeId::A),
            End::Server(NodeId::B),
            End::Witness,
            End::Clients,
        ];
        loop {
            let pair = (*self.random.pick(&all), *self.random.pick(&all));
            let servers = matches!(pair.0, End::Server(_)) || matches!(pair.1, End::Server(_));
            if pair.0 != pair.1 && servers {
                return pair;
            }
        }
    }

    fn cut(&mut self, span: u64) {
        let link = (End::Server(NodeId::A), End::Server(NodeId::B));
        let (from, to) = if self.random.one_in(2) {
            link
        } else {
            self.ends()
        };
        let ways = self.random.below(3);
        self.log(|| format!("a wire is cut for {span}, ways {ways}"));
        if ways != 1 {
            self.net.cut(from, to, true);
            self.at(span, Ev::Fault(Fault::Uncut(from, to)));
        }
        if ways != 2 {
            self.net.cut(to, from, true);
            self.at(span, Ev::Fault(Fault::Uncut(to, from)));
        }
    }

    /// A server that hears nobody but its clients.
    fn isolate(&mut self, node: NodeId, span: u64) {
        self.log(|| format!("{node:?} is alone for {span}"));
        for other in [End::Server(node.peer()), End::Witness] {
            for (from, to) in [(other, End::Server(node)), (End::Server(node), other)] {
                self.net.cut(from, to, true);
                self.at(span, Ev::Fault(Fault::Uncut(from, to)));
            }
        }
    }

    fn slow(&mut self, span: u64) {
        let to_witness = (End::Server(*self.random.pick(&NODES)), End::Witness);
        let (from, to) = if self.random.one_in(2) {
            to_witness
        } else {
            self.ends()
        };
        let most = self.random.between(5_000, 900_000);
        self.net.slow(from, to, most);
        self.at(span, Ev::Fault(Fault::Unslow(from, to)));
        if self.random.one_in(4) {
            self.net.loses = 50;
        }
    }

    fn witness_down(&mut self, span: u64) {
        self.witness.down = true;
        self.at(span * 2, Ev::Fault(Fault::WitnessUp));
    }

    fn witness_forgets(&mut self) {
        if self.random.one_in(3) {
            let id = self.random.next();
            self.log(|| "the witness forgets".to_owned());
            self.witness.forget(id);
        }
    }

    /// The transport's connections break, and both notice.
    fn link_down(&mut self) {
        for node in NODES {
            self.input(node, Input::Event(Event::LinkDown));
        }
    }

    fn fill_disk(&mut self, node: NodeId, span: u64) {
        self.host(node).full = true;
        self.at(span, Ev::Fault(Fault::DiskWell(node)));
    }

    fn spoil_disk(&mut self, node: NodeId, span: u64) {
        self.host(node).failing = true;
        self.at(span, Ev::Fault(Fault::DiskWell(node)));
    }

    pub fn end_fault(&mut self, fault: Fault) {
        match fault {
            Fault::Boot(node) => self.boot(node),
            Fault::Thaw(node, since) => self.thaw(node, since),
            Fault::Uncut(from, to) => self.net.cut(from, to, false),
            Fault::Unslow(from, to) => {
                self.net.slow(from, to, 0);
                self.net.loses = 0;
            }
            Fault::WitnessUp => self.witness.restart(),
            Fault::DiskWell(node) => {
                self.host(node).full = false;
                self.host(node).failing = false;
            }
            Fault::DiskGoesOn(node, since) => {
                if self.host(node).hung == Some(since) {
                    self.end_hang(node);
                }
            }
            Fault::Operator => self.operate(),
        }
    }

    /// Everything works again.
    pub fn heal(&mut self) {
        self.log(|| "everything is healed".to_owned());
        self.net.heal();
        self.witness.restart();
        for node in NODES {
            self.end_fault(Fault::DiskWell(node));
            self.end_hang(node);
            if self.hosts[node as usize].node.is_none() {
                self.at(1000, Ev::Fault(Fault::Boot(node)));
            }
        }
        self.at(6_000_000, Ev::Fault(Fault::Operator));
    }

    /// When nobody is primary after a while, a person decides: not for a server that is known to lack something, if
    /// there is one that does not.
    fn operate(&mut self) {
        self.at(6_000_000, Ev::Fault(Fault::Operator));
        let role = |node: NodeId| self.hosts[node as usize].status().map(|s| s.role);
        let led = NODES.into_iter().find(|n| role(*n) == Some(Role::Primary));
        if let Some(primary) = led.filter(|primary| self.holder() == Some(*primary)) {
            self.command(primary, Command::AcceptWitness);
            return;
        }
        let outdated = self.truth().and_then(|record| record.outdated);
        let holder = self.holder();
        let worth = |node: &NodeId| {
            let host = &self.hosts[*node as usize];
            let good = !host.durable.inconsistent && outdated != Some(*node);
            (good, !host.lacks, holder == Some(*node))
        };
        let best = NODES.into_iter().max_by_key(worth).expect("two");
        if self.hosts[best as usize].hung.is_some() {
            return; // That disk is looked after first.
        }
        self.log(|| format!("the operator promotes {best:?}"));
        self.counts.by_hand += 1;
        if !self.setup.is_sync() {
            self.lose_unflushed(); // The person was told that the standby may be behind.
        }
        self.command(best, Command::Promote { force: true });
    }
}
