//! The link between the two servers: each dials one connection for what it sends, and takes the other's for what it
//! receives. So no connection is shared between a reader and a writer, and what is sent is written by whoever has it.
//!
//! All is TLS 1.3 with the pair's keys ([`super::secret`]). The first byte on a connection says what it is for
//! ([`Purpose`]), and 8 bytes are a digest of the settings that must be the same on both; the answer is the first byte
//! again, or 0 where they are not. On a connection for messages follow the frames of PROTOCOL.md ("On the wire"), in one direction only.

mod incoming;
mod outgoing;
mod sealed;

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use mirror::NodeId;

use super::secret::{PairRole, PairSecret};

pub use incoming::{Doors, listen};
pub use outgoing::{Outgoing, connect};
pub use sealed::{Dialled, Taken};

/// How long dialling, and a handshake, may take.
const HANDSHAKE: Duration = Duration::from_secs(2);
/// Between two attempts to dial.
const RETRY: Duration = Duration::from_millis(100);

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Messages from who dialled.
    Messages = 1,
    /// Who dialled fetches image versions.
    Images = 2,
}

impl Purpose {
    fn of(byte: u8) -> Option<Self> {
        [Self::Messages, Self::Images]
            .into_iter()
            .find(|purpose| *purpose as u8 == byte)
    }
}

/// The two ends.
#[derive(Clone)]
pub struct Ends {
    /// Which server this is.
    pub me: NodeId,
    /// What both know each other by.
    pub secret: Arc<PairSecret>,
    /// Where the other server listens.
    pub peer: SocketAddr,
    /// A digest of what both must be told alike.
    pub settings: u64,
}

impl Ends {
    fn role(&self) -> PairRole {
        self.me.into()
    }

    fn other(&self) -> PairRole {
        self.me.peer().into()
    }
}

/// Before the handshake. An end that is cut off without a word is noticed by the state machine; keepalive only frees what it
/// held.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(HANDSHAKE))?;
    let probe = Duration::from_secs(5);
    let settings = socket2::TcpKeepalive::new()
        .with_time(probe)
        .with_interval(probe)
        .with_retries(3);
    let socket = socket2::SockRef::from(socket);
    socket.set_tcp_keepalive(&settings)?;
    socket.set_tcp_user_timeout(Some(3 * probe))
}

#[cfg(test)]
mod tests;
