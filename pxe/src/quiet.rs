//! Tells machines that ask for an IPv6 router that there is none (RFC 4861).
//!
//! iPXE asks at every start and waits up to 16 seconds where nobody answers. The answer here is an advertisement with a
//! router lifetime of zero and no prefix: it makes no host use this server as its router, and gives no address.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tracing::debug;

use crate::error::{Error, Result};
use crate::net::Interface;

/// Router Solicitation (RFC 4861 §4.1).
const SOLICITATION: u8 = 133;
/// A Router Advertisement (§4.2): hop limit, flags, router lifetime, reachable time and retransmission time all zero,
/// which says nothing. The kernel fills in the checksum (RFC 3542 §3.1).
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// Neighbour discovery is only believed from a neighbour (§6.1).
const HOPS: u32 = 255;

/// Answers router solicitations on one interface.
pub struct Quiet {
    /// A raw ICMPv6 socket; tokio has no type of its own for one, and handles it like any that takes datagrams.
    socket: UdpSocket,
    index: u32,
}

impl Quiet {
    /// Takes part in IPv6 on `interface`, within a tokio runtime.
    ///
    /// # Errors
    /// There is no such interface, it has no IPv6, or raw sockets are not allowed (CAP_NET_RAW).
    pub fn bind(interface: &str) -> Result<Self> {
        let interface = Interface::find(interface)?;
        let failed = |error| {
            let what = "cannot answer IPv6 router solicitations on";
            Error::io(format!("{what} {}", interface.name), error)
        };
        let socket = open(&interface).and_then(|socket| UdpSocket::from_std(socket.into()));
        let socket = socket.map_err(failed)?;
        Ok(Self {
            socket,
            index: interface.index,
        })
    }

    /// Answers until `shutdown`.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<()> {
        let failed = |error| Error::io("cannot receive ICMPv6", error);
        tokio::select! {
            () = shutdown => Ok(()),
            error = self.answer_all() => Err(failed(error)),
        }
    }

    async fn answer_all(&self) -> io::Error {
        // The type of the message is all that matters of it.
        let mut kind = [0; 1];
        loop {
            match self.socket.recv_from(&mut kind).await {
                Ok((1, from)) if kind[0] == SOLICITATION => self.answer(from).await,
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }

    async fn answer(&self, asker: SocketAddr) {
        let to = match asker.ip() {
            // A machine that has no address yet hears what is told to all (§6.2.6).
            IpAddr::V6(address) if address.is_unspecified() => ALL_NODES,
            IpAddr::V6(address) => address,
            IpAddr::V4(_) => return,
        };
        let to = SocketAddrV6::new(to, 0, 0, self.index);
        if let Err(error) = self.socket.send_to(&ADVERTISEMENT, to).await {
            debug!(%asker, %error, "cannot answer a router solicitation");
        }
    }
}

fn open(interface: &Interface) -> io::Result<Socket> {
    let kind = Type::RAW.nonblocking().cloexec();
    let socket = Socket::new(Domain::IPV6, kind, Some(Protocol::ICMPV6))?;
    socket.bind_device(Some(interface.name.as_bytes()))?;
    socket.join_multicast_v6(&ALL_ROUTERS, interface.index)?;
    socket.set_multicast_hops_v6(HOPS)?;
    socket.set_unicast_hops_v6(HOPS)?;
    socket.set_multicast_loop_v6(false)?;
    Ok(socket)
}
