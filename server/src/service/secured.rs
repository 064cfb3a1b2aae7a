//! TLS on a socket: rustls shakes hands, [`Records`] does all that follows.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    sync::Arc,
    time::Instant,
};

use rustix::io::Errno;
use rustls::{
    ServerConfig,
    kernel::KernelConnection,
    pki_types::CertificateDer,
    server::{ServerConnectionData, UnbufferedServerConnection},
};

use super::{
    output::{Batch, FilePart, Output},
    records::Records,
    transport::{Socket, Unsent},
};

mod handshake;

pub use handshake::Handshake;

/// An established connection.
pub struct Secured {
    records: Records<KernelConnection<ServerConnectionData>>,
}

impl Secured {
    /// Shakes hands on `socket`. Gives the peer's certificate too, if it showed one.
    ///
    /// # Errors
    /// Why it failed; the peer was told.
    pub fn accept(
        config: Arc<ServerConfig>,
        socket: &Socket,
        deadline: Instant,
    ) -> io::Result<(Self, Option<CertificateDer<'static>>)> {
        let session = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        let (session, early) = Handshake::new(session, socket, deadline).run()?;
        let shown = session.peer_certificates().and_then(|chain| chain.first());
        let shown = shown.map(|first| first.clone().into_owned());
        let taken_out = session.dangerous_into_kernel_connection();
        let (secrets, kernel) = taken_out.map_err(io::Error::other)?;
        let records = Records::after_handshake(secrets, kernel, &early)?;
        Ok((Self { records }, shown))
    }

    /// Whether something was received that [`Secured::step`] gives without reading from the socket.
    pub fn has_pending(&self) -> bool {
        self.records.has_pending()
    }

    /// Reads from the socket at most once, and only if nothing is pending; `None` if there is no whole record of data, 0 at
    /// the end.
    pub fn step(&mut self, socket: &Socket, buf: &mut [u8]) -> io::Result<Option<usize>> {
        // May be records without data: nobody knows then that the socket has anything.
        if self.has_pending() {
            return self.opened(socket, buf);
        }
        let mut stream = socket;
        let count = stream.read(self.records.room()?)?;
        if count == 0 {
            return Ok(Some(0));
        }
        self.records.received(count);
        self.opened(socket, buf)
    }

    fn opened(&mut self, mut socket: &Socket, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match self.records.read(buf) {
            Ok(0) if !self.records.is_closed() => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(broken) => {
                // It may be gone.
                let _ = socket.write_all(&broken.last_words);
                Err(io::Error::new(io::ErrorKind::InvalidData, broken.reason))
            }
        }
    }

    /// Sends all of `output`.
    pub fn send(&mut self, socket: &Socket, output: &Output<'_>) -> Result<(), Unsent> {
        for batch in output.batches() {
            match batch {
                Batch::Memory(slices) => {
                    for slice in &slices {
                        self.put(socket, slice).map_err(Unsent::Socket)?;
                    }
                }
                Batch::File(part) => self.put_file(socket, part)?,
            }
        }
        self.push(socket, false).map_err(Unsent::Socket)
    }

    /// Sends all of `bytes`.
    pub fn send_bytes(&mut self, socket: &Socket, bytes: &[u8]) -> io::Result<()> {
        self.put(socket, bytes)?;
        self.push(socket, false)
    }

    fn put(&mut self, socket: &Socket, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.make_room(socket)?;
            let count = self.records.batch().put(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Copies a stretch of a file from the page cache into the records.
    fn put_file(&mut self, socket: &Socket, part: &FilePart<'_>) -> Result<(), Unsent> {
        let mut at = part.range.start;
        while at < part.range.end {
            self.make_room(socket).map_err(Unsent::Socket)?;
            let batch = self.records.batch();
            let left = usize::try_from(part.range.end - at).unwrap_or(usize::MAX);
            let mut space: Vec<IoSliceMut<'_>> = batch.space(left).map_err(Unsent::Socket)?;
            match rustix::io::preadv(part.file, &mut space, at) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(Unsent::File(error.into())),
                Ok(0) => return Err(Unsent::File(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => {
                    batch.filled(count);
                    at += count as u64;
                }
            }
        }
        Ok(())
    }

    /// Sends what is there if nothing more fits, with more to come.
    fn make_room(&mut self, socket: &Socket) -> io::Result<()> {
        match self.records.batch().is_full() {
            true => self.push(socket, true),
            false => Ok(()),
        }
    }

    fn push(&mut self, socket: &Socket, more: bool) -> io::Result<()> {
        if !self.records.batch().is_empty() {
            socket.send_all(&mut self.records.seal()?, more)?;
            self.records.sent();
        }
        Ok(())
    }

    /// Says goodbye.
    pub fn close(&mut self, socket: &Socket) {
        if let Ok(notice) = self.records.close_notify() {
            // The peer may be gone, or not reading.
            let _ = socket.send_all(&mut [IoSlice::new(&notice)], false);
        }
    }

    /// Gives back what memory is not in use.
    pub fn release(&mut self) {
        self.records.release();
    }
}

#[cfg(test)]
mod tests;
