//! The handshake with a server over a connection that never blocks.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::error::{Error, Kind, Result};
use crate::greeting::Greeting;
use crate::terms::Terms;
use crate::uri::{Target, Transport};

/// Read at once; a handshake is a few hundred bytes.
const CHUNK: usize = 2048;

/// A handshake under way.
pub struct Talk {
    greeting: Greeting,
}

impl Talk {
    /// Begins the handshake for `target`.
    pub fn new(target: &Target) -> Result<Self> {
        if target.transport == Transport::Tls {
            return Err(Error::new(
                Kind::Usage,
                "nbds:// is not supported; use nbd://",
            ));
        }
        Ok(Self {
            greeting: Greeting::new(target.export.as_str()),
        })
    }

    /// Whether there is something to send.
    pub fn wants_to_write(&self) -> bool {
        !self.greeting.output().is_empty()
    }

    /// Sends and receives what it can without waiting. `Some` when the server has agreed.
    pub fn proceed(&mut self, fd: &OwnedFd) -> Result<Option<Terms>> {
        self.write(fd)?;
        let mut buffer = [0; CHUNK];
        while let Some(length) =
            would_block(rustix::net::recv(fd, &mut buffer[..], RecvFlags::empty()))?
        {
            if length.0 == 0 {
                return Err(Error::new(
                    Kind::Network,
                    "the server closed the connection during the handshake",
                ));
            }
            let terms = self.greeting.input(&buffer[..length.0])?;
            self.write(fd)?;
            if terms.is_some() {
                return Ok(terms);
            }
        }
        Ok(None)
    }

    fn write(&mut self, fd: &OwnedFd) -> Result<()> {
        while self.wants_to_write() {
            let sent = would_block(rustix::net::send(
                fd,
                self.greeting.output(),
                SendFlags::NOSIGNAL,
            ))?;
            let Some(sent) = sent else { return Ok(()) };
            self.greeting.sent(sent);
        }
        Ok(())
    }
}

/// `None` when the call would have to wait.
fn would_block<T>(result: rustix::io::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(Error::with(
            Kind::Network,
            "the connection broke during the handshake",
            std::io::Error::from(e),
        )),
    }
}
