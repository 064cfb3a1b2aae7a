//! Delivers one report, without ever making anything else wait.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::{RecvFlags, SendFlags};

use crate::link::Now;
use crate::net;

/// A report is dropped when it is not delivered by then.
const PATIENCE: Duration = Duration::from_secs(5);

/// A report on its way.
#[derive(Debug)]
pub struct Post {
    fd: OwnedFd,
    rest: Vec<u8>,
    answer: Vec<u8>,
    deadline: Now,
}

/// How far a report has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Still on its way.
    Underway,
    /// The server has answered with success.
    Delivered,
    /// It will not arrive.
    Failed,
}

impl Post {
    /// Begins to send `request` to `address`.
    pub fn begin(address: SocketAddr, request: Vec<u8>, now: Now) -> std::io::Result<Self> {
        Ok(Self {
            fd: net::dial(address)?,
            rest: request,
            answer: Vec::new(),
            deadline: now.after(PATIENCE),
        })
    }

    /// What to wait for.
    pub fn watch(&self) -> (BorrowedFd<'_>, PollFlags) {
        (
            self.fd.as_fd(),
            if self.rest.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::OUT
            },
        )
    }

    /// When to give up.
    pub fn deadline(&self) -> Now {
        self.deadline
    }

    /// The awaited thing has come, or time has passed.
    pub fn proceed(&mut self, now: Now) -> Progress {
        if now >= self.deadline {
            return Progress::Failed;
        }
        let step = if self.rest.is_empty() {
            self.read_answer()
        } else {
            self.write_request()
        };
        step.unwrap_or_else(|errno| match errno {
            rustix::io::Errno::AGAIN | rustix::io::Errno::INTR => Progress::Underway,
            _ => Progress::Failed,
        })
    }

    fn write_request(&mut self) -> rustix::io::Result<Progress> {
        let sent = rustix::net::send(&self.fd, &self.rest, SendFlags::NOSIGNAL)?;
        self.rest.drain(..sent);
        Ok(Progress::Underway)
    }

    /// Only the status line matters: `HTTP/1.1 2…`.
    fn read_answer(&mut self) -> rustix::io::Result<Progress> {
        let mut buffer = [0; 64];
        let (length, _) = rustix::net::recv(&self.fd, buffer.as_mut_slice(), RecvFlags::empty())?;
        self.answer.extend_from_slice(&buffer[..length]);
        match self.answer.get(9) {
            Some(b'2') => Ok(Progress::Delivered),
            None if length > 0 => Ok(Progress::Underway),
            _ => Ok(Progress::Failed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn deliver(answer: &'static [u8]) -> (Progress, Vec<u8>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = vec![0; 5];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(answer).unwrap();
            got
        });
        let mut post = Post::begin(address, b"hello".to_vec(), crate::clock::now()).unwrap();
        let progress = loop {
            let (fd, flags) = post.watch();
            crate::clock::wait(
                &mut [rustix::event::PollFd::from_borrowed_fd(fd, flags)],
                Some(post.deadline()),
            );
            match post.proceed(crate::clock::now()) {
                Progress::Underway => {}
                end => break end,
            }
        };
        (progress, server.join().unwrap())
    }

    #[test]
    fn delivers_and_believes_the_status_line_only() {
        assert_eq!(
            deliver(b"HTTP/1.1 204 No Content\r\n\r\n"),
            (Progress::Delivered, b"hello".to_vec())
        );
        assert_eq!(
            deliver(b"HTTP/1.1 404 Not Found\r\n\r\n").0,
            Progress::Failed
        );
        assert_eq!(deliver(b"").0, Progress::Failed);
    }
}
