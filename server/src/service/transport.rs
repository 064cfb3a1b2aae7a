//! A socket, with or without TLS.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags},
};
use rustls::ServerConnection;

use super::device::PeerAddress;

/// A connected stream socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Socket {
    /// Who is at the other end.
    pub fn peer(&self) -> PeerAddress {
        match self {
            Self::Tcp(socket) => match socket.peer_addr() {
                Ok(address) => PeerAddress::Ip(address.ip().to_canonical()),
                Err(_) => PeerAddress::Local,
            },
            Self::Unix(_) => PeerAddress::Local,
        }
    }

    /// Ends one or both directions, for every holder of the socket.
    pub fn shut(&self, how: Shutdown) {
        // It fails when the peer was faster, which serves as well.
        let _ = match self {
            Self::Tcp(socket) => socket.shutdown(how),
            Self::Unix(socket) => socket.shutdown(how),
        };
    }

    /// How long a read waits before it fails with `WouldBlock`.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_read_timeout(timeout),
            Self::Unix(socket) => socket.set_read_timeout(timeout),
        }
    }

    /// Waits until something can be read, here or (true in the answer's second half) at `other`.
    pub fn wait(
        &self,
        other: Option<BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> io::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(self, PollFlags::IN)];
        fds.extend(other.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            });
            match poll(&mut fds, left.as_ref()) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
            return Ok((ready(&fds[0]), fds.get(1).is_some_and(ready)));
        }
    }

    fn receive(&self, buf: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            match rustix::net::recv(self, &mut *buf, flags) {
                Err(Errno::INTR) => {}
                Ok((count, _)) => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends all of `slices`; blocks as long as the peer does not read.
    fn send_all(&self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self, slices, &mut none, SendFlags::NOSIGNAL) {
                Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, RecvFlags::empty())
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send_all(&mut [IoSlice::new(buf)]).map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a connection's thread reads from and writes to.
pub struct Transport<'s> {
    socket: &'s Socket,
    tls: Option<Box<ServerConnection>>,
}

/// Plain text that is encrypted at once: it stays in the processor's cache. Bytes.
const TLS_STRIDE: usize = 64 << 10;

impl<'s> Transport<'s> {
    /// A transport without TLS.
    pub fn plain(socket: &'s Socket) -> Self {
        Self { socket, tls: None }
    }

    /// From here on everything goes through `session`, whose handshake is done.
    pub fn secure(&mut self, session: ServerConnection) {
        self.tls = Some(Box::new(session));
    }

    /// Whether TLS is in use.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket below.
    pub fn socket(&self) -> &'s Socket {
        self.socket
    }

    /// Whether something was received that [`Transport::recv`] gives without waiting.
    pub fn has_pending(&mut self) -> bool {
        let pending = |tls: &mut Box<ServerConnection>| {
            tls.process_new_packets()
                .is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
        };
        self.tls.as_mut().is_some_and(pending)
    }

    /// Receives; 0 at the end. Waits as long as the socket's timeout says.
    pub fn recv(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(count) = self.step(buf)? {
                return Ok(count);
            }
        }
    }

    /// As [`Transport::recv`], but fails with `WouldBlock` rather than wait for the rest of a TLS record, once the
    /// socket was read.
    pub fn recv_once(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.step(buf)?.ok_or(io::ErrorKind::WouldBlock.into())
    }

    /// Reads from the socket at most once; `None` if what came is no whole record.
    fn step(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(tls) = &mut self.tls else {
            return self.socket.receive(buf, RecvFlags::empty()).map(Some);
        };
        if let Some(count) = plaintext(tls, buf)? {
            return Ok(Some(count));
        }
        if tls.read_tls(&mut &*self.socket)? == 0 {
            return Ok(Some(0));
        }
        if let Err(error) = tls.process_new_packets() {
            let _ = tls.write_tls(&mut &*self.socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        plaintext(tls, buf)
    }

    /// Sends all of `slices`.
    pub fn send(&mut self, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return self.socket.send_all(slices);
        };
        for slice in slices {
            for piece in slice.chunks(TLS_STRIDE) {
                tls.writer().write_all(piece)?;
                if tls.wants_write() && piece.len() == TLS_STRIDE {
                    push(tls, self.socket)?;
                }
            }
        }
        push(tls, self.socket)
    }

    /// Says goodbye where TLS asks for it.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = push(tls, self.socket);
        }
        self.socket.shut(Shutdown::Both);
    }
}

/// What is decrypted already; `None` if that is nothing.
fn plaintext(tls: &mut ServerConnection, buf: &mut [u8]) -> io::Result<Option<usize>> {
    match tls.reader().read(buf) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(0)),
        result => result.map(Some),
    }
}

fn push(tls: &mut ServerConnection, socket: &Socket) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(&mut &*socket)?;
    }
    Ok(())
}
