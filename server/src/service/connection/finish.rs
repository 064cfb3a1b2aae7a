//! What becomes of jobs: their replies, and the rest of them when the connection ends.

use super::{End, Transmission, wait_for_bell};
use crate::service::{jobs::Finished, transport::Transport};

impl Transmission<'_, '_> {
    /// Takes in what the disk threads have finished, all of it also when the export is gone: a job that is not
    /// counted off is waited for without end.
    pub(super) fn collect(&mut self) -> Result<(), End> {
        if self.jobs == 0 {
            return Ok(());
        }
        let done = self.mailbox.take();
        self.jobs -= done.len();
        self.unsent += done.iter().map(|finished| finished.weight).sum::<u64>();
        let taken = done.into_iter().map(|finished| self.take_in(finished));
        taken.fold(Ok(()), Result::and)
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
        self.output.owned(reply);
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
        while self.jobs > 0 {
            let mailbox = self.mailbox.clone();
            if wait_for_bell(&mailbox.bell()).is_err() {
                break;
            }
            if let Err(gone) = self.collect() {
                end = gone;
            }
            if matches!(end, End::Closed | End::Drained) {
                self.send_last(transport);
            }
        }
        end
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
        while self.jobs > 0 && wait_for_bell(&self.mailbox.bell()).is_ok() {
            self.jobs -= self.mailbox.take().len();
        }
        self.engine.pool.give_back(self.in_flight);
    }
}
