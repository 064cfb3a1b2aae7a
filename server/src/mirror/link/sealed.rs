//! An encrypted connection between the two servers.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, Read, Write},
    net::TcpStream,
    sync::Arc,
    time::Instant,
};

use rustls::{
    ClientConfig, ExtractedSecrets, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    kernel::KernelConnection,
    pki_types::ServerName,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

use super::HANDSHAKE;
use crate::service::{
    records::{Broken, Records},
    secured::Handshake,
};

/// A connection that this server dialled.
pub type Dialled = Sealed<ClientConnectionData>;
/// One that the other server dialled.
pub type Taken = Sealed<ServerConnectionData>;

/// A connection that has been shaken hands on.
pub struct Sealed<D> {
    socket: TcpStream,
    records: Records<KernelConnection<D>>,
    /// Sealed, and not taken by the socket yet.
    left: VecDeque<u8>,
}

impl Dialled {
    /// Shakes hands with whom was dialled.
    ///
    /// # Errors
    /// It does not come about by then, or the other end is not the one.
    pub fn connect(
        socket: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Instant,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        let (session, early) = Handshake::new(session, &socket, deadline).run()?;
        Self::behind(socket, session.dangerous_into_kernel_connection(), &early)
    }
}

impl Taken {
    /// Shakes hands with who dialled.
    ///
    /// # Errors
    /// As [`Dialled::connect`].
    pub fn accept(
        socket: TcpStream,
        config: Arc<ServerConfig>,
        deadline: Instant,
    ) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let (session, early) = Handshake::new(session, &socket, deadline).run()?;
        Self::behind(socket, session.dangerous_into_kernel_connection(), &early)
    }
}

impl<D> Sealed<D> {
    fn behind(
        socket: TcpStream,
        secrets: Result<(ExtractedSecrets, KernelConnection<D>), rustls::Error>,
        early: &[u8],
    ) -> io::Result<Self> {
        let (secrets, kernel) = secrets.map_err(io::Error::other)?;
        // For the greeting.
        socket.set_read_timeout(Some(HANDSHAKE))?;
        Ok(Self {
            socket,
            records: Records::after_handshake(secrets, kernel, early)?,
            left: VecDeque::new(),
        })
    }

    /// The socket, to wait for it and to end it.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// Receives once, at most `most` bytes; false at the end.
    ///
    /// # Errors
    /// Of the socket.
    pub fn receive(&mut self, most: usize) -> io::Result<bool> {
        let room = self.records.room()?;
        let most = most.min(room.len());
        let count = self.socket.read(&mut room[..most])?;
        self.records.received(count);
        Ok(count > 0)
    }

    /// What was received, piece by piece; `None` if no more of it is whole.
    ///
    /// # Errors
    /// It is not the other end's.
    pub fn opened(&mut self) -> io::Result<Option<&[u8]>> {
        self.records.next().map_err(in_words)
    }

    /// Takes all of `bytes`. Hands over what is ready when much is; false if the socket takes no more now.
    ///
    /// # Errors
    /// The connection is over.
    pub fn put(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        let mut takes = true;
        while !bytes.is_empty() {
            if self.records.batch().is_full() {
                takes = self.push()?;
            }
            let count = self.records.batch().put(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(takes)
    }

    /// Hands everything over; false if the socket takes no more now.
    ///
    /// # Errors
    /// The connection is over.
    pub fn push(&mut self) -> io::Result<bool> {
        if !self.records.batch().is_empty() {
            let mut sealed = self.records.seal()?;
            let mut unsent = &mut sealed[..];
            if self.left.is_empty() {
                send(&self.socket, &mut unsent)?;
            }
            unsent
                .iter()
                .for_each(|slice| self.left.extend(slice.iter()));
            self.records.sent();
        }
        self.push_left()
    }

    fn push_left(&mut self) -> io::Result<bool> {
        if self.left.is_empty() {
            return Ok(true);
        }
        let (first, second) = self.left.as_slices();
        let mut slices = [IoSlice::new(first), IoSlice::new(second)];
        let mut unsent = &mut slices[..];
        send(&self.socket, &mut unsent)?;
        match unsent.iter().map(|slice| slice.len()).sum() {
            // Gives the memory back: it may be much after a stall.
            0 => self.left = VecDeque::new(),
            count => drop(self.left.drain(..self.left.len() - count)),
        }
        Ok(self.left.is_empty())
    }
}

/// Sends what the socket takes; the rest stays in `slices`.
fn send(mut socket: &TcpStream, slices: &mut &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        match socket.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn in_words(broken: Broken) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, broken.reason)
}

/// For a conversation that may wait for the socket.
impl<D> Read for Sealed<D> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.records.read(buf).map_err(in_words)? {
                0 if !self.records.is_closed() && !buf.is_empty() => {}
                count => return Ok(count),
            }
            if !self.receive(usize::MAX)? {
                return Ok(0);
            }
        }
    }
}

/// For a conversation that may wait for the socket. A time that runs out is an error of the next call: what was given to this
/// one is taken, and must not be given again.
impl<D> Write for Sealed<D> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        in_time(self.push_left()?)?;
        self.put(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        in_time(self.push()?)
    }
}

fn in_time(all: bool) -> io::Result<()> {
    match all {
        true => Ok(()),
        false => Err(io::ErrorKind::TimedOut.into()),
    }
}
