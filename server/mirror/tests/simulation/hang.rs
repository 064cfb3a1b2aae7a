//! Disks that end nothing for a while, or that a primary waits for in vain.

use mirror::{Moment, NodeId, Role};

use crate::{
    client::Task,
    faults::Fault,
    world::{Ev, World},
};

impl World {
    /// A disk hangs for a while, also so long that its server says so.
    pub fn hang_some(&mut self) {
        if !self.hanging || !self.hangs.one_in(8) {
            return;
        }
        let node = *self.hangs.pick(&[NodeId::A, NodeId::B]);
        let span = self.hangs.between(50_000, 7_000_000);
        self.hang(node);
        let end = Fault::DiskGoesOn(node, self.now);
        self.at(span, Ev::Fault(end));
    }

    fn hang(&mut self, node: NodeId) {
        let now = self.now;
        self.log(|| format!("the disk of {node:?} hangs"));
        self.host(node).hung = Some(now);
    }

    /// A server asks its disk for a sign of life; gives since when that has not been answered.
    pub fn ask_disk(&mut self, node: NodeId) -> Option<Moment> {
        let (now, probing) = (self.now, self.probing);
        let host = self.host(node);
        if host.hung.is_none() || !probing || host.frozen {
            host.asked = None;
        } else {
            host.asked.get_or_insert(host.clock.read(now));
        }
        host.asked
    }

    pub fn end_hang(&mut self, node: NodeId) {
        self.host(node).hung = None;
        for event in std::mem::take(&mut self.host(node).stuck) {
            let delay = self.hangs.between(20, 4000);
            self.at(delay, event);
        }
    }

    /// What happens, unless a disk that hangs keeps it from happening.
    pub fn pass_disk(&mut self, event: Ev) -> Option<Ev> {
        let disk = match &event {
            Ev::Disk(id, ..) | Ev::ReadDisk(id, ..) | Ev::Persist(id, ..) => *id,
            _ => return Some(event),
        };
        let host = self.host(disk);
        if host.hung.is_none() {
            return Some(event);
        }
        host.stuck.push(event);
        None
    }

    /// The disk of a primary hangs, with its state file, and does not go on before the standby serves in its place. The
    /// server may be killed meanwhile, or lose power. In the end both are equal, and nothing is lost that was answered.
    pub fn hang_and_be_replaced(&mut self) -> Result<(), String> {
        if !self.hanging || !self.hangs.one_in(3) {
            return Ok(());
        }
        let Some(primary) = self.leader() else {
            return Err("nobody leads in peace".to_owned());
        };
        let standby = primary.peer();
        let agreed = self.host(primary).durable.witness;
        if agreed != Some(self.witness.id()) {
            return Ok(()); // Nobody could be promoted.
        }
        self.busy = true;
        self.hang(primary);
        if !self.probing {
            // Who waits for reads only is seen by nobody but the probe.
            (0..self.clients.len()).for_each(|who| self.add_task(who, Task::Flush));
        }
        // If the session ended meanwhile, the witness was told that nobody may be promoted, or a new one has the standby wait
        // for what this disk does not give.
        let settled = |world: &mut Self| {
            let outdated = world.truth().and_then(|record| record.outdated);
            let status = world.host(standby).status();
            let led = status.is_some_and(|s| s.role == Role::Primary || !s.consistent);
            led || outdated == Some(standby)
        };
        self.until(
            15_000_000,
            "another primary than one whose disk hangs",
            settled,
        )?;
        let status = self.host(standby).status();
        self.counts.hangs += u64::from(status.is_some_and(|s| s.role == Role::Primary));
        self.trouble_it(primary)?;
        self.end_hang(primary);
        self.busy = false;
        self.until(
            60_000_000,
            "the peace after a disk that hung",
            Self::at_peace,
        )?;
        self.review()
    }

    fn trouble_it(&mut self, hung: NodeId) -> Result<(), String> {
        let kind = self.hangs.below(4);
        match kind {
            0 => self.kill(hung),
            1 => self.cut_power(hung),
            _ => {}
        }
        if kind < 2 {
            self.boot(hung);
        }
        let end = self.now + self.hangs.between(0, 5_000_000);
        self.until(u64::MAX / 2, "a while", |world| world.now >= end)
    }
}
