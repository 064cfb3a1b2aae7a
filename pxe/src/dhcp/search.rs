//! Looking for the DHCP servers of a network, as a client would: one DISCOVER, and whoever offers.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::frame;
use super::packet::{MessageType, Packet, code};
use super::reply::{CLIENT_PORT, SERVER_PORT};
use crate::error::{Error, Result};
use crate::machine::Mac;
use crate::net::{self, Interface};
use crate::sys;

/// A server that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundServer {
    /// How it calls itself (option 54).
    pub server: Ipv4Addr,
    /// The address that it offered; 0.0.0.0: it is a proxy and gives boot files only.
    pub offered: Ipv4Addr,
}

/// How long to wait for other servers' offers: dnsmasq alone tries for 3 s whether an address is free.
pub const OFFERS_WITHIN: Duration = Duration::from_secs(5);

/// Asks on `interface` and collects offers for `wait`; blocks. Takes no lease. `xid` should be random. Needs
/// CAP_NET_RAW; disturbs no DHCP client or server on this host, but does not see a server on it either.
pub fn find_servers(interface: &str, xid: u32, wait: Duration) -> Result<Vec<FoundServer>> {
    let interface = Interface::find(interface)?;
    let failed = |e: io::Error| {
        Error::io(
            format!("cannot look for DHCP servers on {}", interface.name),
            e,
        )
    };
    let socket = net::packet(&interface, frame::ETH_IPV4).map_err(failed)?;
    let discover = Packet::discover(interface.mac, xid).encode(usize::MAX);
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT);
    let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    let everyone = sys::link_address(interface.index, frame::ETH_IPV4, Mac([0xff; 6]));
    socket
        .send_to(&frame::udp(from, to, &discover), &everyone)
        .map_err(failed)?;
    let (deadline, mut found) = (Instant::now() + wait, Vec::new());
    let mut buffer = [0; 2048];
    while let Some(len) = receive(&socket, &mut buffer, deadline).map_err(failed)? {
        if let Some(server) = offer(&buffer[..len], xid)
            && !found.contains(&server)
        {
            found.push(server);
        }
    }
    Ok(found)
}

/// The next packet; None at the deadline.
fn receive(
    socket: &socket2::Socket,
    buffer: &mut [u8],
    deadline: Instant,
) -> io::Result<Option<usize>> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let ready = poll(
            &mut [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)],
            Some(&timeout),
        )?;
        if ready == 0 {
            return Ok(None);
        }
        match rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT) {
            Ok((len, _)) => return Ok(Some(len)),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn offer(ip: &[u8], xid: u32) -> Option<FoundServer> {
    let packet = Packet::decode(frame::udp_payload(ip, CLIENT_PORT)?).ok()?;
    let ours = packet.reply && packet.kind == MessageType::Offer && packet.xid == xid.to_be_bytes();
    let server = packet.options.address(code::SERVER_ID)?;
    ours.then_some(FoundServer {
        server,
        offered: packet.yiaddr,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_offers_to_us_count() {
        let from = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), SERVER_PORT);
        let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        let mut reply = Packet::discover(Mac([2, 0, 0, 0, 0, 1]), 7);
        (reply.reply, reply.kind, reply.yiaddr) =
            (true, MessageType::Offer, Ipv4Addr::new(10, 0, 0, 50));
        reply.options.set(code::SERVER_ID, from.ip().octets());
        let packet = frame::udp(from, to, &reply.encode(1500));
        let found = FoundServer {
            server: *from.ip(),
            offered: reply.yiaddr,
        };
        assert_eq!(offer(&packet, 7), Some(found));
        assert_eq!(offer(&packet, 8), None);
        // Up to the option that names the server.
        for len in 0..276 {
            assert_eq!(offer(&packet[..len], 7), None);
        }
    }
}
