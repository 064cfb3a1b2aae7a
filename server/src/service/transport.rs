//! A socket, with or without TLS.

mod files;

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use self::files::Pipe;
use super::{
    device::PeerAddress,
    output::{Batch, Output},
    secured::Secured,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags},
};

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

    /// Whether a read would not wait.
    pub fn is_readable(&self) -> bool {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut fds = [PollFd::new(self, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&now)), Ok(1))
    }

    /// Whether TCP keeps what does not fill a packet until it is told otherwise.
    fn cork(&self, corked: bool) {
        if let Self::Tcp(socket) = self {
            // All is sent without it, too, in more packets.
            let _ = rustix::net::sockopt::set_tcp_cork(socket, corked);
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

    /// Sends all of `slices`; blocks as long as the peer does not read. With `more` the rest of a packet may wait for
    /// what is sent next.
    pub fn send_all(&self, mut slices: &mut [IoSlice<'_>], more: bool) -> io::Result<()> {
        let flags = match more {
            true => SendFlags::NOSIGNAL | SendFlags::MORE,
            false => SendFlags::NOSIGNAL,
        };
        while !slices.is_empty() {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self, slices, &mut none, flags) {
                Ok(sent) => IoSlice::advance_slices(&mut slices, sent),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Socket {
    /// Sends as much of `bytes` as it takes without waiting for the peer.
    pub fn send_now(&self, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        loop {
            match rustix::net::send(self, bytes, flags) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(0),
                result => return Ok(result?),
            }
        }
    }
}

impl Unsent {
    /// What a failed `sendmsg` means: EFAULT is about what was to be sent, all else about the socket.
    fn of(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EFAULT) => Self::File(error),
            _ => Self::Socket(error),
        }
    }
}

/// Why output was not sent as a whole. Either way the connection is over: the peer has a part of a reply.
#[derive(Debug)]
pub enum Unsent {
    /// The peer is gone.
    Socket(io::Error),
    /// A file could not be read.
    File(io::Error),
}

impl Read for &Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.receive(buf, RecvFlags::empty())
    }
}

impl Write for &Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.send_all(&mut [IoSlice::new(buf)], false)
            .map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a connection's thread reads from and writes to.
pub struct Transport<'s> {
    socket: &'s Socket,
    tls: Option<Box<Secured>>,
    /// For what it sends of files, once there was something.
    pipe: Option<Pipe>,
}

impl<'s> Transport<'s> {
    /// A transport without TLS.
    pub fn plain(socket: &'s Socket) -> Self {
        Self {
            socket,
            tls: None,
            pipe: None,
        }
    }

    /// From here on everything goes through `tls`.
    pub fn secure(&mut self, tls: Secured) {
        self.tls = Some(Box::new(tls));
    }

    /// Whether TLS is in use.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket below.
    pub fn socket(&self) -> &'s Socket {
        self.socket
    }

    /// Whether something was received that [`Transport::recv`] has to look at, as a rule data that it gives without reading from
    /// the socket.
    pub fn has_pending(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.has_pending())
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
        match &mut self.tls {
            Some(tls) => tls.step(self.socket, buf),
            None => self.socket.receive(buf, RecvFlags::empty()).map(Some),
        }
    }

    /// Sends all of `output`.
    pub fn send(&mut self, output: &Output<'_>) -> Result<(), Unsent> {
        if let Some(tls) = &mut self.tls {
            return tls.send(self.socket, output);
        }
        let mut batches = output.batches().peekable();
        while let Some(batch) = batches.next() {
            let more = batches.peek().is_some();
            match batch {
                Batch::Memory(mut slices) => {
                    // The end of a page of the file that comes next shall not be a packet of its own.
                    if let Some(Batch::File(_)) = batches.peek() {
                        self.socket.cork(true);
                    }
                    let sent = self.socket.send_all(&mut slices, more);
                    sent.map_err(Unsent::of)?;
                }
                Batch::File(part) => {
                    self.socket.send_part(part, &mut self.pipe)?;
                    self.socket.cork(false);
                }
            }
        }
        Ok(())
    }

    /// Sends what is left of earlier output, and all of `output`.
    pub fn send_after(&mut self, left: &[u8], output: &Output<'_>) -> Result<(), Unsent> {
        if !left.is_empty() {
            self.send_bytes(left).map_err(Unsent::Socket)?;
        }
        self.send(output)
    }

    /// Sends all of `bytes`.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.send_bytes(self.socket, bytes),
            None => self.socket.send_all(&mut [IoSlice::new(bytes)], false),
        }
    }

    /// Gives back what memory is not in use.
    pub fn release(&mut self) {
        self.pipe = None;
        if let Some(tls) = &mut self.tls {
            tls.release();
        }
    }

    /// Says goodbye where TLS asks for it.
    pub fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close(self.socket);
        }
        self.socket.shut(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use super::*;
    use crate::service::{device::Mapped, output::FilePart};

    const SIZE: u64 = 1 << 20;

    fn file(dir: &tempfile::TempDir) -> File {
        let path = dir.path().join("base");
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, bytes).unwrap();
        File::options().read(true).write(true).open(path).unwrap()
    }

    /// Sends two heads and two stretches of `file`; gives what came.
    fn sent(file: &File) -> (Result<(), Unsent>, Vec<u8>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        sent_over(file, ours, Socket::Unix(theirs))
    }

    fn sent_over(
        file: &File,
        mut ours: impl Read + Send + 'static,
        socket: Socket,
    ) -> (Result<(), Unsent>, Vec<u8>) {
        let reader = thread::spawn(move || {
            let mut all = Vec::new();
            ours.read_to_end(&mut all).unwrap();
            all
        });
        let mut output = Output::default();
        for range in [0..SIZE / 2 + 1, SIZE / 2 + 1..SIZE] {
            output.space(4).unwrap().copy_from_slice(b"head");
            let file = file.as_fd();
            output.file(FilePart { file, range });
        }
        let result = Transport::plain(&socket).send(&output);
        if let Socket::Tcp(socket) = &socket {
            let corked = rustix::net::sockopt::tcp_cork(socket).unwrap();
            assert!(!corked || result.is_err(), "the end waits for more");
        }
        drop(socket);
        (result, reader.join().unwrap())
    }

    fn tcp_pair() -> (TcpStream, TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (ours, listener.accept().unwrap().0)
    }

    #[test]
    fn files_are_sent_between_the_heads() {
        let dir = tempfile::tempdir().unwrap();
        is_whole(sent(&file(&dir)));
    }

    #[test]
    fn files_are_sent_over_tcp_without_a_rest_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, theirs) = tcp_pair();
        is_whole(sent_over(&file(&dir), ours, Socket::Tcp(theirs)));
    }

    fn is_whole((result, came): (Result<(), Unsent>, Vec<u8>)) {
        result.unwrap();
        let middle = SIZE as usize / 2 + 5;
        assert_eq!(
            (&came[..4], &came[middle..middle + 4]),
            (&b"head"[..], &b"head"[..])
        );
        let data = came[4..middle].iter().chain(&came[middle + 4..]);
        assert!(data.copied().eq((0..SIZE).map(|at| (at % 251) as u8)));
    }

    /// What is missing is never made up: the client gets less, and then nothing.
    #[test]
    fn a_file_cut_short_under_a_reply_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        file.set_len(SIZE / 4).unwrap();
        let (result, came) = sent(&file);
        assert!(matches!(result, Err(Unsent::File(_))), "{result:?}");
        assert_eq!(came.len() as u64, 4 + SIZE / 4);
    }

    fn base(dir: &tempfile::TempDir) -> overlay::FileBase {
        let id = overlay::BaseId {
            version: uuid::Uuid::nil(),
            digest: overlay::Digest([0; 32]),
        };
        overlay::FileBase::open(&dir.path().join("base"), id).unwrap()
    }

    /// The kernel copies from the mapping, and tells of pages that are not there any more instead of killing anybody.
    #[test]
    fn a_mapped_file_is_sent_until_it_is_cut_short() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = file(&dir);
        let base = base(&dir);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::Unix(theirs);
        let mut output = Output::default();
        output.space(4).unwrap().copy_from_slice(b"head");
        let bytes = overlay::Base::mapped(&base, 4096..8192).unwrap();
        output.mapped(Mapped::Base(bytes));
        let mut came = [0; 4 + 4096];
        Transport::plain(&socket).send(&output).unwrap();
        (&ours).read_exact(&mut came).unwrap();
        assert!(
            came[4..]
                .iter()
                .copied()
                .eq((4096..8192u64).map(|at| (at % 251) as u8))
        );
        file.set_len(4096).unwrap();
        let result = Transport::plain(&socket).send(&output);
        assert!(matches!(result, Err(Unsent::File(_))), "{result:?}");
        drop(socket);
        let mut rest = Vec::new();
        (&ours).read_to_end(&mut rest).unwrap();
        assert!(b"head".starts_with(&rest), "something was made up");
    }

    #[test]
    fn a_client_that_left_is_no_fault_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        let socket = Socket::Unix(theirs);
        let mut output = Output::default();
        output.file(FilePart {
            file: file.as_fd(),
            range: 0..SIZE,
        });
        let mut transport = Transport::plain(&socket);
        let result = transport.send(&output);
        assert!(matches!(result, Err(Unsent::Socket(_))), "{result:?}");
        let left = transport.pipe;
        assert!(
            left.is_none(),
            "what is left in the pipe would go elsewhere"
        );
    }

    #[test]
    fn what_the_kernel_will_not_send_is_copied() {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::Unix(theirs);
        let writer = thread::spawn(move || {
            socket.copy_part(file.as_fd(), 5..SIZE).unwrap();
        });
        let mut came = Vec::new();
        ours.read_to_end(&mut came).unwrap();
        writer.join().unwrap();
        assert!(came.into_iter().eq((5..SIZE).map(|at| (at % 251) as u8)));
    }
}
