//! What the target of a resync held before: kept until the resync has ended, given up, or gone back to.
//!
//! The machine says when; what is kept is the disk's business. From the moment at which [`Durable::kept`] is durable until
//! [`Work::Forget`] the disk keeps, of whatever it changes, what was there before.

use crate::{Blocks, Fault, Generation, Notice, PersistId, WhyNot, Work, Yield};

use super::{Job, Node, seeking::Demand};

impl Node {
    /// Under which name the disk has to keep what it changes, if it has to.
    pub fn keeps(&self) -> Option<Generation> {
        let no_longer = self.unkept.map(|(_, name)| name);
        self.durable.kept.or(no_longer)
    }

    /// A resync into this server begins. What it overwrites is worth keeping if it is whole, and was not begun to be
    /// overwritten before.
    pub(super) fn keep(&mut self) {
        if !self.durable.inconsistent && !self.durable.history.is_empty() {
            self.durable.kept = Some(self.new_generation());
        }
    }

    /// Nothing is kept from the next replacement of the durable state on, which the caller asks for.
    pub(super) fn keep_no_longer(&mut self) {
        if let Some(name) = self.durable.kept.take() {
            self.unkept = Some((PersistId(self.last_persist.0 + 1), name));
        }
    }

    /// Not before that is durable: a crash would find nothing of what it believes to be kept.
    pub(super) fn forget_kept(&mut self) {
        let durable = |id| id <= self.last_persist && self.is_durable(id);
        if self.unkept.is_some_and(|(id, _)| durable(id)) {
            self.unkept = None;
            self.work(Job::Forget, Work::Forget);
        }
    }

    /// There is no room for what the resync brings beside what was there before. A standby is worth more.
    pub(super) fn make_room(&mut self, fault: Fault) {
        if fault == Fault::NoSpace && self.durable.kept.is_some() {
            self.keep_no_longer();
            self.persist(super::After::Nothing);
            self.note(Notice::KeptNoLonger);
        }
    }

    pub(super) fn go_back(&mut self) {
        match self.durable.kept {
            Some(_) => self.demand(Demand::Back),
            None => self.note(Notice::NotPromotable(WhyNot::NothingKept)),
        }
    }

    /// Whether a fresh primary has yet to go back to what was kept; goes on with it. Nothing else is under way on the disk.
    pub(super) fn goes_back(&mut self) -> bool {
        let Some(primary) = self.primary.as_ref().filter(|primary| primary.back) else {
            return false;
        };
        match primary.straying {
            _ if self.durable.kept.is_none() => self.cannot_go_back(WhyNot::NothingKept),
            None => self.stray(),
            Some(id) if self.is_durable(id) => self.work(Job::Back, Work::GoBack),
            Some(_) => {}
        }
        true
    }

    /// These data are nobody's past or future from here on: the other server may have all that is lost here, and no list
    /// says what that is, so neither takes the other's without a person's word. Durable before the disk goes back, which
    /// may fail, or end in a crash, with half of it done.
    fn stray(&mut self) {
        self.durable.history = vec![self.new_generation()];
        self.durable.shared = false;
        self.durable.complete = false;
        self.start_over();
        let persist = self.persist(super::After::Nothing);
        if let Some(primary) = self.primary.as_mut() {
            primary.straying = Some(persist);
        }
    }

    fn cannot_go_back(&mut self, why: WhyNot) {
        self.depose();
        self.note(Notice::NotPromotable(why));
    }

    pub(super) fn gone_back(&mut self, result: Result<Yield, Fault>) {
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.back) else {
            return;
        };
        primary.back = false;
        if result.is_err() {
            self.cannot_go_back(WhyNot::NotBack);
            return;
        }
        self.dirty.unsent = Blocks::default();
    }
}
