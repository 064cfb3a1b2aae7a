//! A TLS handshake, of either side, after which nothing is left in rustls.

use std::{
    io::{self, Read, Write},
    os::fd::AsFd,
    time::Instant,
};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustls::{
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus},
};

use crate::service::records::HEADER;

/// One side's part in a handshake.
pub trait Side {
    /// What rustls keeps for it.
    type Data;

    /// Takes notice of records, and says what is to be done next.
    fn process<'c, 'i>(&'c mut self, records: &'i mut [u8])
    -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        records: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(records)
    }
}

/// A handshake under way. It is given one record at a time: what follows the last one is not rustls's any more.
pub struct Handshake<'s, S, T> {
    session: S,
    socket: &'s T,
    deadline: Instant,
    incoming: Vec<u8>,
    /// So much of it was shown to rustls.
    shown: usize,
    outgoing: Vec<u8>,
}

/// How a handshake goes on.
enum Step {
    Again,
    Receive,
    Done,
}

impl<'s, S: Side, T: AsFd> Handshake<'s, S, T>
where
    for<'a> &'a T: Read + Write,
{
    /// One that has not begun. It ends at the deadline, however slowly the other end sends.
    pub fn new(session: S, socket: &'s T, deadline: Instant) -> Self {
        Self {
            session,
            socket,
            deadline,
            incoming: Vec::new(),
            shown: 0,
            outgoing: Vec::new(),
        }
    }

    /// Shakes hands; gives what was received behind the handshake, too.
    ///
    /// # Errors
    /// Why it failed; the peer was told.
    pub fn run(mut self) -> io::Result<(S, Vec<u8>)> {
        loop {
            match self.step() {
                Ok(Step::Again) => {}
                Ok(Step::Receive) => self.show_record()?,
                Ok(Step::Done) => return Ok((self.session, self.incoming)),
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        self.tell();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn step(&mut self) -> io::Result<Step> {
        let shown = &mut self.incoming[..self.shown];
        let UnbufferedStatus { discard, state } = self.session.process(shown);
        let step = match state {
            Ok(ConnectionState::EncodeTlsData(data)) => {
                encode(data, &mut self.outgoing).map(|()| Step::Again)
            }
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                let outgoing = std::mem::take(&mut self.outgoing);
                self.write(&outgoing).map(|()| Step::Again)
            }
            Ok(ConnectionState::BlockedHandshake) => Ok(Step::Receive),
            Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
            Ok(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        self.incoming.drain(..discard);
        self.shown -= discard;
        step
    }

    /// After a failure: the alert that rustls has for the peer, which may be gone. rustls is shown nothing more, since
    /// it does not stand to fail again.
    fn tell(&mut self) {
        self.incoming.clear();
        self.shown = 0;
        if let Ok(Step::Again) = self.step() {
            let _ = self.write(&self.outgoing);
        }
    }

    /// Has rustls see one record more.
    fn show_record(&mut self) -> io::Result<()> {
        loop {
            let next = &self.incoming[self.shown..];
            let length = next.first_chunk().map_or(usize::MAX, record_length);
            if next.len() >= length {
                self.shown += length;
                return Ok(());
            }
            self.receive()?;
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut socket = self.socket;
        socket.write_all(bytes)
    }

    fn receive(&mut self) -> io::Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        set_socket_timeout(self.socket, Timeout::Recv, Some(left))?;
        let (mut socket, mut buffer) = (self.socket, [0; 4096]);
        match socket.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.incoming.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::ErrorKind::TimedOut.into())
            }
            Err(error) => Err(error),
        }
    }
}

/// Length of the record that begins like this. Of what is no record rustls is shown the beginning, so that it says so.
fn record_length(header: &[u8; HEADER]) -> usize {
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    let is_record = (20..=23).contains(&header[0]) && header[1] == 3 && length < 1 << 15;
    HEADER + if is_record { length } else { 0 }
}

/// Appends what rustls has to say.
fn encode<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) -> io::Result<()> {
    let before = outgoing.len();
    let mut room = 0;
    loop {
        outgoing.resize(before + room, 0);
        match data.encode(&mut outgoing[before..]) {
            Ok(count) => {
                outgoing.truncate(before + count);
                return Ok(());
            }
            Err(EncodeError::InsufficientSize(short)) => room = short.required_size,
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}
