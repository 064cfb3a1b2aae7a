//! Stretches of files on their way from the page cache to a socket.
//!
//! Long ones go by way of a pipe: the one that `sendfile` has for itself holds 16 pages, so that it looks for the next pages
//! only when these are sent.

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
};

use super::{Socket, Unsent};
use crate::service::output::FilePart;

/// Stretches of this length and more go through the pipe: for what `sendfile`'s own holds, that one costs less. Bytes.
const PIPED: u64 = 128 << 10;
/// What the pipe holds: more would gain nothing. Bytes.
const PIPE: usize = 256 << 10;
/// Bytes of a file that are copied at a time where the kernel cannot send it by itself.
const COPIED: u64 = 256 << 10;

/// A pipe that is empty between two stretches.
pub(super) struct Pipe {
    from: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// None where file descriptors are used up, or what a user may have in pipes.
    fn open() -> Option<Self> {
        let (from, into) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        fcntl_setpipe_size(&into, PIPE).ok()?;
        Some(Self { from, into })
    }

    /// Sends bytes from `at` to `end` at most, and moves `at` past what was sent. If it fails the pipe is of no use any
    /// more: it may still hold something.
    fn carry(
        &self,
        file: BorrowedFd<'_>,
        at: &mut u64,
        end: u64,
        socket: &Socket,
    ) -> Result<(), Errno> {
        let (mut offset, left) = (*at, (end - *at) as usize);
        let flags = SpliceFlags::empty();
        let mut held = splice(file, Some(&mut offset), &self.into, None, left, flags)?;
        if held == 0 {
            return Err(Errno::NODATA);
        }
        while held > 0 {
            match splice(&self.from, None, socket, None, held, flags)? {
                0 => return Err(Errno::NODATA), // Cut short meanwhile, before it was in memory.
                sent => {
                    held -= sent;
                    *at += sent as u64;
                }
            }
        }
        Ok(())
    }
}

impl Socket {
    /// Sends a stretch of a file, straight from the page cache.
    pub(super) fn send_part(
        &self,
        part: &FilePart<'_>,
        pipe: &mut Option<Pipe>,
    ) -> Result<(), Unsent> {
        let Range { start: mut at, end } = part.range;
        if end - at >= PIPED && pipe.is_none() {
            *pipe = Pipe::open();
        }
        let pipe = if end - at >= PIPED { pipe } else { &mut None };
        while at < end {
            let sent = match pipe {
                Some(pipe) => pipe.carry(part.file, &mut at, end, self),
                None => self.send_pages(part.file, &mut at, end),
            };
            // The file was cut short, could not be read, or cannot be sent like this; or it is the socket.
            if sent.is_err() {
                *pipe = None;
                return self.copy_part(part.file, at..end);
            }
        }
        Ok(())
    }

    /// As [`Pipe::carry`], with `sendfile`.
    fn send_pages(&self, file: BorrowedFd<'_>, at: &mut u64, end: u64) -> Result<(), Errno> {
        let left = (end - *at) as usize;
        match rustix::fs::sendfile(self, file, Some(at), left)? {
            0 => Err(Errno::NODATA),
            _ => Ok(()),
        }
    }

    /// As [`Socket::send_part`] with a copy, for files that the kernel does not send; and to tell what failed.
    pub(super) fn copy_part(&self, file: BorrowedFd<'_>, range: Range<u64>) -> Result<(), Unsent> {
        let mut buffer = vec![0; (range.end - range.start).min(COPIED) as usize];
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(COPIED) as usize;
            let count = match rustix::io::pread(file, &mut buffer[..length], at) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Unsent::File(error.into())),
                Ok(0) => return Err(Unsent::File(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => count,
            };
            self.send_all(&mut [IoSlice::new(&buffer[..count])], false)
                .map_err(Unsent::Socket)?;
            at += count as u64;
        }
        Ok(())
    }
}
