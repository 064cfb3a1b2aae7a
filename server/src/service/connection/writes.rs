//! Writes: stored from the receive buffer, long ones piece by piece as they come.

use std::sync::atomic::Ordering::Relaxed;

use nbd::{Operation, Request, reply};

use super::{End, Next, Partial, Transmission};
use crate::service::{device::Fault, input::Input};

impl Transmission<'_, '_> {
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
            let payload = bytes::Bytes::copy_from_slice(payload);
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
        let there = self.input.bytes();
        let mut count = (there.len() as u64).min(partial.left);
        if count < partial.left && partial.result.is_ok() {
            // Whole blocks of the device, so that none is copied up for a part of it.
            count = ((partial.at + count) & !4095).saturating_sub(partial.at);
        }
        if count > 0 && partial.result.is_ok() {
            partial.result = self.device.write(&there[..count as usize], partial.at);
        }
        self.input.consume(count as usize);
        partial.at += count;
        partial.left -= count;
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
