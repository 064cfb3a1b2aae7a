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

    /// Whether a fresh primary has yet to go back to what was kept; begins it. Nothing else is under way on the disk.
    pub(super) fn goes_back(&mut self) -> bool {
        let wanted = self.primary.as_ref().is_some_and(|primary| primary.back);
        if wanted {
            self.work(Job::Back, Work::GoBack);
        }
        wanted
    }

    /// These data are nobody's past or future any more: the other server may have all that is lost here, so neither takes
    /// the other's without a person's word.
    pub(super) fn gone_back(&mut self, result: Result<Yield, Fault>) {
        let Some(primary) = self.primary.as_mut().filter(|primary| primary.back) else {
            return;
        };
        primary.back = false;
        if result.is_err() {
            self.depose();
            self.note(Notice::NotPromotable(WhyNot::NotBack));
            return;
        }
        self.durable.history.clear();
        self.durable.complete = false;
        self.dirty.unsent = Blocks::default();
    }
}
