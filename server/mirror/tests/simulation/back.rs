//! The end of a pair: the primary dies for good while it brings the standby up, which goes back to what it held before. Or it
//! was out of reach only, and returns to a standby that got half the way.

use mirror::{Command, Event, Message, NodeId, Role};

use crate::{disk::Content, host::Host, net::End, world::World};

impl World {
    /// After everything else, since nothing that clients were told counts after it.
    pub fn break_resync_and_go_back(&mut self) -> Result<(), String> {
        let Some(primary) = self.leader() else {
            return Err("nobody leads in peace".to_owned());
        };
        let standby = primary.peer();
        self.part(standby)?;
        if self.random.one_in(3) {
            return self.go_half_back_and_meet(primary);
        }
        if !self.break_resync(primary)? {
            return Ok(());
        }
        let content = self.go_back(standby)?;
        let host = self.host(standby);
        if (&host.disk.cache, &host.disk.metadata) != (&content.0, &content.1) {
            return Err(format!(
                "went back to {:?}, not {content:?}",
                host.disk.cache
            ));
        }
        self.counts.returns += 1;
        self.take_back(primary)
    }

    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &NodeId| {
            let status = self.hosts[*node as usize].status();
            status.is_some_and(|status| status.role == Role::Primary)
        };
        [NodeId::A, NodeId::B].into_iter().find(leads)
    }

    /// The standby is away for a while, and the primary goes on.
    fn part(&mut self, standby: NodeId) -> Result<(), String> {
        self.busy = true;
        self.cut_both(standby, true);
        let end = self.now + self.random.between(500_000, 3_000_000);
        self.until(u64::MAX / 2, "a while", |world| world.now >= end)?;
        self.cut_both(standby, false);
        Ok(())
    }

    fn cut_both(&mut self, node: NodeId, cut: bool) {
        let (here, there) = (End::Server(node), End::Server(node.peer()));
        self.net.cut(here, there, cut);
        self.net.cut(there, here, cut);
    }

    /// Kills the primary in the midst of the resync; tells whether that was in time.
    fn break_resync(&mut self, primary: NodeId) -> Result<bool, String> {
        let standby = primary.peer();
        self.wait_for_resync(standby)?;
        if self.random.one_in(4) {
            self.kill(standby);
            self.boot(standby);
        }
        self.over = true; // Nobody starts the primary any more.
        self.kill(primary);
        if self.random.one_in(4) {
            self.cut_power(standby);
            self.boot(standby);
        }
        let idle = |world: &mut World| world.is_idle(standby);
        self.until(5_000_000, "the end of what is under way", idle)?;
        let kept = self.host(standby).before.is_some();
        let leads = self.leader().is_some();
        Ok(kept && !leads)
    }

    /// Waits until a resync is under way, and a little longer.
    fn wait_for_resync(&mut self, standby: NodeId) -> Result<(), String> {
        // Where the wire was cut too shortly to be noticed, none comes.
        let late = self.now + 5_000_000;
        let begun = |world: &mut World| world.host(standby).before.is_some() || world.now > late;
        self.until(u64::MAX / 2, "a resync", begun)?;
        let end = self.now + self.random.between(0, 60_000);
        self.until(u64::MAX / 2, "a bit of it", |world| world.now >= end)
    }

    /// The primary cannot be reached any more. The standby begins to go back, and its disk fails, or it dies. Then the
    /// primary is there again.
    fn go_half_back_and_meet(&mut self, primary: NodeId) -> Result<(), String> {
        let standby = primary.peer();
        self.wait_for_resync(standby)?;
        if self.leader() != Some(primary) {
            return Ok(()); // The standby took its place while they were apart.
        }
        self.cut_both(standby, true);
        let late = self.greeting_of(standby)?;
        self.busy = false;
        self.over = true;
        self.host(standby).balks = true;
        for _ in 0..self.random.between(1, 3) {
            self.event(standby, Event::Command(Command::GoBack));
            let end = self.now + self.random.between(2_000, 4_000_000);
            self.until(u64::MAX / 2, "a moment", |world| world.now >= end)?;
            if self.random.one_in(2) {
                self.kill(standby);
                self.boot(standby);
            }
        }
        self.cut_both(standby, false);
        self.counts.halves += 1;
        self.meet_again(primary, late)
    }

    /// A greeting that will come late. The server may have been started anew before, and does not know then what it was sent.
    fn greeting_of(&mut self, standby: NodeId) -> Result<Option<Message>, String> {
        if self.aside.one_in(2) {
            self.kill(standby);
            self.boot(standby);
            let end = self.now + 300_000;
            self.until(u64::MAX / 2, "a greeting", |world| world.now >= end)?;
        }
        Ok(self.host(standby).greeting.clone())
    }

    /// The other server, which has everything, leads again: by itself, or by a person's word. If it takes this one unasked
    /// they hold the same, and if not, this one gives its own up; then a greeting from before comes, which was long on its way.
    fn meet_again(&mut self, primary: NodeId, mut late: Option<Message>) -> Result<(), String> {
        let standby = primary.peer();
        for _ in 0..20 {
            let end = self.now + 3_000_000;
            self.until(u64::MAX / 2, "a while", |world| world.now >= end)?;
            if self.paired() {
                break;
            }
            if self.leader() != Some(primary) {
                self.event(primary, Event::Command(Command::Promote { force: true }));
                continue;
            }
            self.event(primary, Event::Command(Command::AcceptWitness));
            self.event(standby, Event::Command(Command::Discard));
            if let Some(message) = late.take() {
                self.event(primary, Event::Received(message));
            }
        }
        self.end_alike()
    }

    /// A person says so until it is done; the server may die meanwhile, or its disk do half of it.
    /// Gives what there should be then: less, if power was lost, by what had not been flushed.
    fn go_back(&mut self, standby: NodeId) -> Result<Content, String> {
        let before = self.host(standby).before.clone();
        let (name, mut content) = before.ok_or("nothing is kept")?;
        self.log(|| format!("{standby:?} is to go back to {name:?}"));
        let mut deaths = self.random.below(3);
        let mut failures = self.aside.below(3);
        for _ in 0..20 {
            self.host(standby).balks = failures > 0;
            failures = failures.saturating_sub(1);
            self.event(standby, Event::Command(Command::GoBack));
            let end = self.now + self.random.between(2_000, 4_000_000);
            let done = |world: &mut World| world.leads_alone(standby) || world.now >= end;
            self.until(u64::MAX / 2, "a moment", done)?;
            if self.leads_alone(standby) {
                return Ok(content);
            }
            if deaths > 0 && self.host(standby).before.is_some() {
                deaths -= 1;
                match self.random.one_in(2) {
                    true => self.kill(standby),
                    false => {
                        self.cut_power(standby);
                        content = self.host(standby).to_be_found();
                    }
                }
                self.boot(standby);
            }
        }
        Err("it did not go back".to_owned())
    }

    fn leads_alone(&mut self, node: NodeId) -> bool {
        let idle = self.is_idle(node);
        let host = self.host(node);
        let whole = host
            .status()
            .is_some_and(|s| s.role == Role::Primary && s.consistent);
        whole && idle && host.before.is_none() && !host.disk.keeps()
    }

    /// The dead one is found again: nothing of it is taken, and it takes nothing, before a person says which one counts.
    fn take_back(&mut self, old: NodeId) -> Result<(), String> {
        self.boot(old);
        let end = self.now + 3_000_000;
        self.until(u64::MAX / 2, "a while", |world| world.now >= end)?;
        if self.paired() {
            return Err("two pasts were joined unasked".to_owned());
        }
        self.event(old, Event::Command(Command::Discard));
        self.end_alike()
    }

    fn end_alike(&mut self) -> Result<(), String> {
        let in_flight = |host: &Host| host.status().is_none_or(|status| status.in_flight > 0);
        let quiet = |world: &mut World| {
            let idle = world.is_idle(NodeId::A) && world.is_idle(NodeId::B);
            idle && world.paired() && !world.hosts.iter().any(in_flight)
        };
        self.until(30_000_000, "the last pairing", quiet)?;
        let [a, b] = &self.hosts;
        match a.disk.cache == b.disk.cache && a.disk.metadata == b.disk.metadata {
            true => Ok(()),
            false => Err("they differ after all".to_owned()),
        }
    }
}
