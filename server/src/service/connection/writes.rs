//! Writes: stored from the receive buffer, long ones in pieces.

use std::sync::atomic::Ordering::Relaxed;

use nbd::{Operation, Request, reply};

use super::{End, Next, Partial, Transmission};
use crate::service::{
    device::{Fault, pieces},
    input::{self, Input},
};

/// Long payloads are collected in lengths that end at multiples of this before any of it is stored: to go back and forth
/// between socket and file in shorter ones costs a quarter more. Bytes.
const COLLECTED: u64 = input::LONGEST_PIECE as u64;

impl Partial {
    /// Length of what is to be collected next, in bytes.
    pub(super) fn piece(&self) -> usize {
        (COLLECTED - self.at % COLLECTED).min(self.left) as usize
    }
}

impl Transmission<'_, '_> {
    /// What is missing of a long payload's next piece: no more is received, so that nothing that comes after it has to be
    /// moved within the buffer.
    pub(super) fn missing(&self) -> Option<usize> {
        let missing = |partial: &Partial| partial.piece() - self.input.bytes().len();
        self.partial.as_ref().map(missing)
    }

    pub(super) fn begin_write(
        &mut self,
        request: Request,
        fua: bool,
        header: usize,
    ) -> Result<Next, End> {
        let length = request.length as usize;
        let whole = header + length;
        let later = self.device.writes_wait() || self.device.deferred().is_some();
        if later || self.input.bytes().len() >= whole {
            return self.write_whole(request, fua, header);
        }
        if Input::fits(whole) {
            return Ok(Next::Receive);
        }
        self.input.consume(header);
        self.go_on(Partial {
            request,
            at: request.offset,
            left: request.length,
            fua,
            result: Ok(()),
        })
    }

    /// The payload is all there, or has to be collected for a device whose writes wait.
    fn write_whole(&mut self, request: Request, fua: bool, header: usize) -> Result<Next, End> {
        let length = request.length as usize;
        let Some(payload) = self.input.bytes().get(header..header + length) else {
            if Input::fits(header + length) {
                return Ok(Next::Receive);
            }
            self.input.consume(header);
            let result = Ok(());
            return self.go_on(Partial {
                request,
                at: request.offset,
                left: request.length,
                fua,
                result,
            });
        };
        let operation = Operation::Write { fua };
        if self.defers(operation) {
            let payload = self.arena.keep(payload);
            self.input.consume(header + length);
            return self
                .defer(request, operation, payload)
                .map(|()| Next::Request);
        }
        if self.device.writes_wait() {
            let payload = payload.to_vec();
            self.input.consume(header + length);
            self.submit(request, operation, payload, 0);
            return Ok(Next::Request);
        }
        let result = self.device.write(payload, request.offset);
        self.input.consume(header + length);
        self.end_write(&request, fua, result)
            .map(|()| Next::Request)
    }

    /// Stores, or throws away, what has come of a long payload.
    pub(super) fn go_on(&mut self, mut partial: Partial) -> Result<Next, End> {
        while partial.left > 0 {
            let piece = partial.piece();
            let Some(data) = self.input.bytes().get(..piece) else {
                break;
            };
            if partial.result.is_ok() {
                let mut pieces = pieces(partial.at, data);
                partial.result = pieces.try_for_each(|(at, piece)| self.device.write(piece, at));
            }
            self.input.consume(piece);
            partial.at += piece as u64;
            partial.left -= piece as u64;
        }
        if partial.left > 0 {
            self.partial = Some(partial);
            return Ok(Next::Receive);
        }
        self.end_write(&partial.request, partial.fua, partial.result)
            .map(|()| Next::Request)
    }

    fn end_write(
        &mut self,
        request: &Request,
        fua: bool,
        result: Result<(), Fault>,
    ) -> Result<(), End> {
        match result {
            Ok(()) if fua => {
                self.flush(*request)?;
                self.engine
                    .live
                    .counters
                    .written
                    .fetch_add(request.length, Relaxed);
            }
            Ok(()) => {
                self.count(&self.engine.live.counters.written, request.length);
                self.output.head(&reply::done(self.rules.style, request))?;
            }
            Err(fault) => self.fail(request, fault)?,
        }
        Ok(())
    }
}
