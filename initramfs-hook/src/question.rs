//! A question to another server, while the one in use is silent: does it serve by now? An NBD server speaks first, so the
//! answer is the beginning of its greeting. A standby refuses the connection, and of a frozen server only the kernel takes it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::RecvFlags;

use crate::link::Now;
use crate::net;

/// How long a server may take to take the connection and greet.
const GREETING: Duration = Duration::from_secs(1);

/// The question: a connection that is being opened, and over which nothing is said.
#[derive(Debug)]
pub struct Question {
    fd: OwnedFd,
    since: Now,
}

impl Question {
    /// Asks.
    pub fn new(server: SocketAddr, now: Now) -> io::Result<Self> {
        let fd = net::dial(server)?;
        Ok(Self { fd, since: now })
    }

    /// What to wait for: an answer, or the end.
    pub fn watch(&self) -> (BorrowedFd<'_>, PollFlags) {
        (self.fd.as_fd(), PollFlags::IN)
    }

    /// Whether the answer is yes.
    pub fn has_greeted(&self) -> bool {
        let mut first = [0; 1];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.fd, &mut first, flags), Ok((1, _)))
    }

    /// Whether it is worth while to wait for an answer any longer. A refusal is an answer.
    pub fn is_open(&self, now: Now) -> bool {
        now.since(self.since) < GREETING
    }

    /// The connection, with the greeting still to be read.
    pub fn into_connection(self) -> OwnedFd {
        self.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, Timespec, poll};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    const BEGUN: Now = Now(Duration::from_secs(7));

    fn comes(question: &Question) {
        let (fd, flags) = question.watch();
        let limit = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1);
    }

    #[test]
    fn one_that_greets_serves_and_one_that_only_takes_the_connection_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let question = Question::new(listener.local_addr().unwrap(), BEGUN).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        assert!(!question.has_greeted());
        assert!(question.is_open(BEGUN.after(GREETING / 2)));
        assert!(!question.is_open(BEGUN.after(GREETING)));
        server.write_all(b"NBDMAGIC").unwrap();
        comes(&question);
        assert!(question.has_greeted());
        let mut connection = TcpStream::from(question.into_connection());
        connection.set_nonblocking(false).unwrap();
        let mut greeting = [0; 8];
        connection.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"NBDMAGIC", "nothing of it is lost");
    }

    #[test]
    fn one_that_refuses_or_hangs_up_does_not_serve() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let question = Question::new(address, BEGUN).unwrap();
        drop(listener.accept().unwrap());
        comes(&question);
        assert!(!question.has_greeted());
        drop(listener);
        let question = Question::new(address, BEGUN).unwrap();
        comes(&question);
        assert!(!question.has_greeted());
    }
}
