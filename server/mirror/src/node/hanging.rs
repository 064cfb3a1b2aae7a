//! A disk that hangs: what was asked of it does not end, not even with an error.
//!
//! A server that waits for such a disk gives signs of life as ever, so nobody would take its place. It looks itself: a
//! primary whose standby holds everything gives its place up, and needs nothing of its disk for that.

use crate::{Millis, Moment, Notice, Record};

use super::{
    Job, Node,
    asking::Want,
    changes::{Change, Stage},
    primary::Primary,
};

/// What is under way on the disk.
#[derive(Debug)]
pub(super) struct AtWork {
    pub(super) job: Job,
    /// Whether it changes what is on the disk.
    pub(super) changes: bool,
    since: Moment,
}

impl AtWork {
    pub(super) fn new(job: Job, changes: bool, since: Moment) -> Self {
        Self {
            job,
            changes,
            since,
        }
    }

    /// What it tells of the disk, if it should end before long. Reading is the standby's or a client's affair, and what
    /// replaces or compares everything takes as long as it takes.
    fn kind(&self) -> Option<Kind> {
        match self.job {
            Job::Change(_) => Some(Kind::Change),
            Job::Flush(_) => Some(Kind::Flush),
            _ => None,
        }
    }
}

/// A disk whose cache takes changes may hang in flushes only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Change,
    Flush,
}

const KINDS: [Kind; 2] = [Kind::Change, Kind::Flush];

/// What was seen of the disk.
#[derive(Debug)]
pub(super) struct Watch {
    /// When a change, and a flush, ended last. One that ends says that it is a slow disk, and not one that hangs.
    ended: [Moment; KINDS.len()],
    /// Since when time has passed in small steps. While this server was stopped, its disk could not report anything.
    awake: Moment,
    ticked: Moment,
    /// Since when it has owed the caller an answer.
    asked: Option<Moment>,
    hangs: bool,
}

impl Watch {
    pub(super) fn beginning(now: Moment) -> Self {
        Self {
            ended: [now; KINDS.len()],
            awake: now,
            ticked: now,
            asked: None,
            hangs: false,
        }
    }
}

impl Node {
    /// Whether this server's disk hangs, as of the last tick.
    pub(super) fn hangs(&self) -> bool {
        self.watch.hangs
    }

    /// Says since when the disk has owed the caller a sign of life that it asked for by itself. What clients read does not
    /// come here, so nobody else would notice where they do nothing but read.
    pub fn wait_for_disk(&mut self, since: Option<Moment>) {
        self.watch.asked = since;
    }

    /// How long this server's disk has been hanging.
    pub(super) fn hung_for(&self) -> Option<Millis> {
        self.longest_wait().filter(|_| self.watch.hangs)
    }

    fn longest_wait(&self) -> Option<Millis> {
        let asked = self.watch.asked.map(|since| since.max(self.watch.awake));
        let asked = asked.map(|since| self.now.since(since));
        let waits = KINDS.into_iter().filter_map(|kind| self.waited_for(kind));
        waits.chain(asked).max()
    }

    /// For how long one of a kind has been under way, and none has ended.
    fn waited_for(&self, kind: Kind) -> Option<Millis> {
        let mut works = self.works.values();
        let oldest = works.find(|work| work.kind() == Some(kind))?;
        let ended = self.watch.ended[kind as usize];
        let since = oldest.since.max(ended).max(self.watch.awake);
        Some(self.now.since(since))
    }

    /// A work has ended, well or not.
    pub(super) fn note_end(&mut self, work: &AtWork) {
        if let Some(kind) = work.kind() {
            self.watch.ended[kind as usize] = self.now;
        }
    }

    /// Looks after the disk, each tick.
    pub(super) fn watch_disk(&mut self) {
        if self.now.since(self.watch.ticked) >= self.config.timing.silence {
            self.watch.awake = self.now;
        }
        self.watch.ticked = self.now;
        let most = self.config.timing.hang;
        let hangs = self.longest_wait().is_some_and(|span| span >= most);
        if hangs && !self.watch.hangs {
            self.note(Notice::DiskHangs);
        }
        self.watch.hangs = hangs;
        if hangs {
            self.give_way();
        }
    }

    /// Lets the standby take over, if it holds everything, once the witness has said that it would let it: if that cannot
    /// be reached, a pair that waits for a disk is better off than one that nobody leads. What is under way need not end:
    /// nothing of it was answered, and it is on the list of what may differ.
    fn give_way(&mut self) {
        if !self.may_give_way() {
            return;
        }
        match (self.config.witness, self.asker.want) {
            (true, None) => self.asker.begin(Want::Look),
            (false, None) => self.leave_place(),
            (_, Some(_)) => {}
        }
    }

    /// The witness' record is here.
    pub(super) fn looked_as_primary(&mut self, record: Option<Record>) {
        let next = record.is_some_and(|r| r.holder == self.me && r.outdated.is_none());
        if next && self.hangs() && self.may_give_way() {
            self.leave_place();
        }
    }

    fn may_give_way(&self) -> bool {
        let fenced = self.primary.as_ref().is_none_or(Primary::fenced);
        self.is_paired() && self.dirty.wrong.is_empty() && !fenced && !self.is_ahead()
    }

    /// Mode `async`: whether something was answered that the standby does not have.
    fn is_ahead(&self) -> bool {
        let ahead = |change: &Change| change.stage == Stage::Applied;
        self.answers_early() && !self.tickets(ahead).is_empty()
    }
}
