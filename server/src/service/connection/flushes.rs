//! Flushes: on a disk thread, or at once where that is quick.

use std::time::Duration;

use nbd::{Operation, Request};

use super::{End, Transmission};

/// A flush that takes no longer than this is not worth two switches of threads.
const QUICK: Duration = Duration::from_millis(1);

impl Transmission<'_, '_> {
    /// Makes durable what was answered, and then answers `request`.
    ///
    /// That happens on this thread if the last one was quick and the client waits for nothing else; what it sends
    /// meanwhile waits about as long as that one took. Other clients have threads of their own.
    pub(super) fn flush(&mut self, request: Request) -> Result<(), End> {
        if self.defers(Operation::Flush) {
            return self.defer(request, Operation::Flush, bytes::Bytes::new());
        }
        let alone = self.jobs == 0 && self.output.is_empty() && self.input.bytes().is_empty();
        if !alone || !self.flushes_quickly {
            self.submit(request, Operation::Flush, Vec::new(), 0);
            return Ok(());
        }
        self.count(&self.engine.live.counters.read, 0);
        let finished = self.job(request, Operation::Flush, Vec::new(), 0).run();
        self.take_in(finished)
    }

    /// Learns from a flush.
    pub(super) fn flushed(&mut self, took: Duration) {
        self.flushes_quickly = took <= QUICK;
    }
}
