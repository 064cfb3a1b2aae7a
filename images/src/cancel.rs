//! Stopping a long job from another thread or a signal handler's task.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// A switch that is thrown once. Clones are the same switch.
///
/// It is a file descriptor underneath, so that a job may wait for its child process and for the
/// switch at the same time.
#[derive(Debug, Clone)]
pub struct Cancel(Arc<OwnedFd>);

impl Cancel {
    /// A switch that nobody has thrown.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the process has no file descriptor left.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fd = eventfd(0, flags).at("make", Path::new("an eventfd"))?;
        Ok(Self(Arc::new(fd)))
    }

    /// Throws the switch. May be called from anywhere, any number of times.
    pub fn cancel(&self) {
        // Only a full counter refuses the write, and then the switch is thrown already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Whether the switch was thrown.
    pub fn is_cancelled(&self) -> bool {
        let mut fds = [PollFd::new(&*self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..))
    }

    /// [`ErrorKind::Cancelled`] once the switch was thrown.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(cancelled())
        } else {
            Ok(())
        }
    }
}

impl AsFd for Cancel {
    /// Readable from the moment the switch is thrown.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The error of a job that was told to stop.
pub(crate) fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "cancelled; nothing was published")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_sees_the_switch_thrown() {
        let cancel = Cancel::new().unwrap();
        let seen = cancel.clone();
        assert!(!seen.is_cancelled());
        cancel.cancel();
        cancel.cancel();
        assert!(seen.is_cancelled());
        assert_eq!(seen.check().unwrap_err().kind(), ErrorKind::Cancelled);
    }
}
