//! Changes of devices that end them later: collected while requests are parsed, begun together, answered as they end.

use bytes::Bytes;
use nbd::{IoError, Operation, Request};

use super::{End, Transmission};
use crate::service::{
    device::{Change, Deliver, Ended, Fault},
    jobs::Finished,
};

impl Transmission<'_, '_> {
    /// Whether the device ends this later.
    pub(super) fn defers(&self, operation: Operation) -> bool {
        let changes = matches!(
            operation,
            Operation::Write { .. }
                | Operation::Flush
                | Operation::Trim { .. }
                | Operation::WriteZeroes { .. }
        );
        changes && self.device.deferred().is_some()
    }

    /// Takes a request on, to be begun with the others that came with it. `payload` is a write's data.
    pub(super) fn defer(
        &mut self,
        request: Request,
        operation: Operation,
        payload: Bytes,
    ) -> Result<(), End> {
        let weight = payload.len() as u64;
        let change = match change(&request, operation, payload) {
            Ok(change) => change,
            Err(fault) => return self.fail(&request, fault),
        };
        let (mailbox, style) = (self.mailbox.clone(), self.rules.style);
        let ended: Ended = Box::new(move |result| {
            let finished = Finished::without_data((style, &request), result, weight, None);
            mailbox.add(finished);
            Some(mailbox as std::sync::Arc<dyn Deliver>)
        });
        self.deferred.push((change, ended));
        self.jobs += 1;
        self.in_flight += weight;
        self.engine.pool.take(weight);
        match operation {
            Operation::Write { .. } => self.count(&self.engine.live.counters.written, weight),
            _ => self.count(&self.engine.live.counters.read, 0),
        }
        Ok(())
    }

    /// Begins what was taken on.
    pub(super) fn begin_deferred(&mut self) {
        if self.deferred.is_empty() {
            return;
        }
        let changes = std::mem::take(&mut self.deferred);
        if let Some(device) = self.device.deferred() {
            device.begin(changes);
        }
    }

    /// Forgets what was taken on and not begun: the connection ends.
    pub(super) fn forget_deferred(&mut self) {
        self.jobs -= self.deferred.len();
        self.deferred.clear();
    }
}

fn change(request: &Request, operation: Operation, payload: Bytes) -> Result<Change, Fault> {
    let range = request.offset..request.offset + request.length;
    Ok(match operation {
        Operation::Write { fua } => Change::Write {
            offset: request.offset,
            data: payload,
            fua,
        },
        Operation::Trim { fua } => Change::Zero {
            range,
            may_hole: true,
            fua,
        },
        Operation::WriteZeroes {
            may_hole: false,
            only_fast: true,
            ..
        } => {
            let text = "zeros without a hole have to be written";
            return Err(Fault::Request(IoError::NotSupported, text.into()));
        }
        Operation::WriteZeroes { fua, may_hole, .. } => Change::Zero {
            range,
            may_hole,
            fua,
        },
        _ => Change::Flush,
    })
}
