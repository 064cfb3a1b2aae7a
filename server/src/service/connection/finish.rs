//! What becomes of jobs: their replies, and the rest of them when the connection ends.

use super::{End, Transmission, wait_for_bell};
use crate::service::{jobs::Finished, mailbox::SHORT, transport::Transport};

impl Transmission<'_, '_> {
    /// Takes in what the disk threads have finished, all of it also when the export is gone: a job that is not
    /// counted off is waited for without end.
    pub(super) fn collect(&mut self) -> Result<(), End> {
        if self.jobs == 0 {
            return Ok(());
        }
        let done = self.mailbox.take();
        self.count_off(&done);
        let unsent = done.into_iter().filter(|finished| !finished.sent);
        let taken = unsent.map(|finished| {
            self.unsent += finished.weight;
            self.take_in(finished)
        });
        taken.fold(Ok(()), Result::and)
    }

    /// These are no longer under way. What was answered is counted off in the pool as well.
    fn count_off(&mut self, done: &[Finished]) {
        self.jobs -= done.len();
        let sent = done.iter().filter(|finished| finished.sent);
        self.in_flight -= sent.map(|finished| finished.weight).sum::<u64>();
    }

    /// Takes in one result.
    pub(super) fn take_in(&mut self, finished: Finished) -> Result<(), End> {
        if let Some(error) = &finished.error {
            self.count_error(error);
        }
        if let Some(took) = finished.flushed {
            self.flushed(took);
        }
        let reply = finished.reply.map_err(|_| End::Gone)?;
        match reply.len() {
            // Together they are one piece for the kernel.
            ..=SHORT if !self.output.is_full(reply.len()) => {
                self.output.space(reply.len())?.copy_from_slice(&reply)
            }
            _ => self.output.owned(reply),
        }
        Ok(())
    }

    /// Lets what is under way end: answers it if the client may still be there, drops what has not begun if not.
    pub(super) fn finish(&mut self, transport: &mut Transport<'_>, mut end: End) -> End {
        if matches!(end, End::Closed | End::Drained) {
            self.begin_deferred();
            self.send_last(transport);
        } else {
            self.forget_deferred();
            self.jobs -= self.lane.cancel(self.engine.live.id);
        }
        loop {
            // First: for what was answered meanwhile no bell was rung.
            if let Err(gone) = self.collect() {
                end = gone;
            }
            if matches!(end, End::Closed | End::Drained) {
                self.send_last(transport);
            }
            if self.jobs == 0 || wait_for_bell(&self.mailbox.bell()).is_err() {
                return end;
            }
        }
    }

    /// Sends what is ready to a client that need not be there any more.
    fn send_last(&mut self, transport: &mut Transport<'_>) {
        if self.send(transport).is_err() {
            self.output.clear();
        }
    }
}

impl Drop for Transmission<'_, '_> {
    /// Nothing is under way here but when a bug panics: also then a successor must not be let in before all of this
    /// connection's requests have ended (design P6).
    fn drop(&mut self) {
        self.forget_deferred();
        if self.jobs > 0 {
            self.jobs -= self.lane.cancel(self.engine.live.id);
        }
        loop {
            let done = self.mailbox.take();
            self.count_off(&done);
            if self.jobs == 0 || wait_for_bell(&self.mailbox.bell()).is_err() {
                break;
            }
        }
        self.engine.pool.give_back(self.in_flight);
    }
}
