//! Everything that the DHCP service hears and speaks through.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;
use tracing::warn;

use super::config::{DhcpConfig, Mode};
use super::engine::Via;
use super::frame;
use super::reply::{BINL_PORT, SERVER_PORT};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::Mac;
use crate::net::{self, Interface, Sharing};
use crate::sys;

/// No sensible DHCP packet is longer.
pub const LONGEST: usize = 4096;
/// Bytes that may wait in the kernel while leases are written down: a storm of a few thousand packets.
const WAITING_BYTES: i32 = 4 << 20;

/// Everything that the service sends through.
pub struct Sockets {
    interface: Interface,
    server: Ipv4Addr,
    dhcp: Socket,
    binl: Option<Socket>,
    /// Whole IP packets, for machines without an address; absent without CAP_NET_RAW.
    raw: Option<Socket>,
    arp: Option<Socket>,
}

/// What may be heard from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Port 67.
    Dhcp,
    /// Port 4011.
    Binl,
    /// ARP.
    Arp,
}

impl Source {
    /// All, those that seldom have much first.
    pub const ALL: [Self; 3] = [Self::Arp, Self::Binl, Self::Dhcp];
}

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A packet of so many bytes, and how it came.
    Packet(usize, Via),
    /// A machine was seen at an address.
    Seen(Mac, Ipv4Addr),
    /// Nothing that matters.
    Noise,
}

impl Sockets {
    /// Takes port 67 (in proxy mode also 4011) on the one interface named.
    pub fn bind(config: &DhcpConfig) -> Result<Self> {
        let interface = Interface::find(&config.interface)?;
        let proxy = config.mode == Mode::Proxy;
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let dhcp = if proxy {
            proxy_socket(config)?
        } else {
            net::udp(Some(&config.interface), any(SERVER_PORT), Sharing::Alone)?
        };
        let binl = match proxy {
            true => Some(net::udp(
                Some(&config.interface),
                any(BINL_PORT),
                Sharing::Alone,
            )?),
            false => None,
        };
        for socket in [Some(&dhcp), binl.as_ref()].into_iter().flatten() {
            socket
                .set_broadcast(true)
                .map_err(|e| Error::io("cannot broadcast", e))?;
            make_room(socket);
        }
        let raw = optional(
            net::packet_sender(),
            "answers to machines without an address will be broadcast",
        );
        let probing = !config.probe.is_zero() && !proxy;
        let arp = match probing {
            true => optional(
                net::packet(&interface, frame::ETH_ARP),
                "new addresses will not be probed",
            ),
            false => None,
        };
        Ok(Self {
            interface,
            server: config.server,
            dhcp,
            binl,
            raw,
            arp,
        })
    }

    fn of(&self, source: Source) -> Option<&Socket> {
        match source {
            Source::Dhcp => Some(&self.dhcp),
            Source::Binl => self.binl.as_ref(),
            Source::Arp => self.arp.as_ref(),
        }
    }

    /// Waits until something can be heard, `stop` can be read, or it is `until`. Says where from; None: `stop`.
    pub fn wait(&self, stop: &OwnedFd, until: Option<Instant>) -> io::Result<Option<Vec<Source>>> {
        let open = Source::ALL
            .into_iter()
            .filter_map(|s| Some((s, self.of(s)?)));
        let (sources, sockets): (Vec<_>, Vec<_>) = open.unzip();
        let fds = sockets.iter().map(AsFd::as_fd).chain([stop.as_fd()]);
        let mut fds: Vec<_> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let left = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(Some(Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let heard = sources.into_iter().zip(&fds).filter(|(_, fd)| ready(fd));
        let heard = heard.map(|(source, _)| source).collect();
        Ok(fds.last().is_none_or(|stop| !ready(stop)).then_some(heard))
    }

    /// The next packet of a source, without waiting.
    pub fn receive(&self, source: Source, buffer: &mut [u8]) -> io::Result<Option<Heard>> {
        let Some(socket) = self.of(source) else {
            return Ok(None);
        };
        let port = match source {
            Source::Arp => return receive_arp(socket, buffer),
            Source::Binl => BINL_PORT,
            Source::Dhcp => SERVER_PORT,
        };
        let via = |source| Via { source, port };
        match sys::receive(socket.as_fd(), buffer) {
            Ok(got) => Ok(Some(Heard::Packet(got.len, via(got.source)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Broadcasts on the segment, or sends to an address that is in use, from the port given.
    pub fn send(&self, bytes: &[u8], to: SocketAddrV4, from_port: u16) -> io::Result<()> {
        let socket = if from_port == BINL_PORT {
            self.binl.as_ref().unwrap_or(&self.dhcp)
        } else {
            &self.dhcp
        };
        sys::send_from(socket.as_fd(), bytes, to, self.server)
    }

    /// Sends an IP packet to a hardware address. `Ok(false)`: there is no raw socket.
    pub fn send_raw(
        &self,
        bytes: &[u8],
        to: SocketAddrV4,
        mac: Mac,
        from_port: u16,
    ) -> io::Result<bool> {
        let Some(raw) = &self.raw else {
            return Ok(false);
        };
        let packet = frame::udp(SocketAddrV4::new(self.server, from_port), to, bytes);
        raw.send_to(
            &packet,
            &sys::link_address(self.interface.index, frame::ETH_IPV4, mac),
        )?;
        Ok(true)
    }

    /// Asks who has `address`. `false`: it cannot be asked.
    pub fn ask_arp(&self, address: Ipv4Addr) -> bool {
        let Some(arp) = &self.arp else { return false };
        let request = frame::arp_request(self.interface.mac, self.server, address);
        let everyone = sys::link_address(self.interface.index, frame::ETH_ARP, Mac([0xff; 6]));
        arp.send_to(&request, &everyone).is_ok()
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}

fn receive_arp(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<Heard>> {
    match rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT) {
        Ok((len, _)) => Ok(Some(match frame::arp_sender(&buffer[..len]) {
            Some((mac, address)) => Heard::Seen(mac, address),
            None => Heard::Noise,
        })),
        Err(rustix::io::Errno::AGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets a storm wait in the kernel. Beyond what the system grants everyone it takes a privilege, so it is a wish.
fn make_room(socket: &Socket) {
    let forced = sys::set_int(
        socket.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_RCVBUFFORCE,
        WAITING_BYTES,
    );
    if forced.is_err() {
        let _ = socket.set_recv_buffer_size(WAITING_BYTES as usize);
    }
}

/// Beside another server on the same host, port 67 is shared: then only broadcasts are taken, so that the other
/// server's renewals do not end up here.
fn proxy_socket(config: &DhcpConfig) -> Result<Socket> {
    let at = |address| SocketAddrV4::new(address, SERVER_PORT);
    match net::udp(
        Some(&config.interface),
        at(Ipv4Addr::UNSPECIFIED),
        Sharing::Alone,
    ) {
        Err(error) if error.kind() == ErrorKind::PortTaken => net::udp(
            Some(&config.interface),
            at(Ipv4Addr::BROADCAST),
            Sharing::Reuse,
        ),
        other => other,
    }
}

fn optional(socket: io::Result<Socket>, without: &str) -> Option<Socket> {
    socket
        .inspect_err(|error| warn!(%error, "no raw socket (CAP_NET_RAW is missing?): {without}"))
        .ok()
}
