//! Waiting for requests, and receiving them.

use std::{io, os::fd::AsFd};

use super::{ALONE, End, IDLE, Transmission, arena::Arena};
use crate::service::transport::Transport;

impl Transmission<'_, '_> {
    /// Polls for a moment if the client is likely to send its next request, or the rest of one, at once.
    pub(super) fn linger(&mut self, transport: &Transport<'_>) {
        if self.jobs == 0 && (self.single >= ALONE || self.partial.is_some()) {
            self.patience.poll(|| transport.socket().is_readable());
        }
    }

    /// Waits for requests or for finished jobs, and not for longer than [`IDLE`]: what others answered is not told, and
    /// who has nothing under way gives its buffers back. True if something can be received.
    pub(super) fn wait(&self, transport: &mut Transport<'_>) -> Result<bool, End> {
        if transport.has_pending() {
            return Ok(true);
        }
        self.mailbox.hush();
        let bell = self.mailbox.bell();
        Ok(transport.socket().wait(Some(bell.as_fd()), Some(IDLE))?.0)
    }

    /// Receives once. Buffers are given back while nothing comes. With jobs under way it returns also when no whole
    /// TLS record has come: their replies must not wait for the client's next request.
    pub(super) fn receive(&mut self, transport: &mut Transport<'_>) -> Result<Option<End>, End> {
        loop {
            let missing = self.missing();
            let room = self.input.room(missing)?;
            let received = match self.jobs {
                0 => transport.recv(room),
                _ => transport.recv_once(room),
            };
            match received {
                Ok(0) if self.engine.live.is_draining() => return Ok(Some(End::Drained)),
                Ok(0) => return Ok(Some(End::Closed)),
                Ok(count) => {
                    self.input.received(count);
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.jobs > 0 {
                        return Ok(None);
                    }
                    self.rest(transport)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Nothing came for a while: sleeps without buffers.
    fn rest(&mut self, transport: &mut Transport<'_>) -> Result<(), End> {
        self.input.release();
        self.output.release();
        transport.release();
        self.segments = Vec::new();
        self.device.rest();
        self.arena = Arena::default();
        transport.socket().wait(None, None)?;
        Ok(())
    }
}
