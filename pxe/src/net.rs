//! Opening sockets, with errors that name what to do.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{Error, ErrorKind, Result};
use crate::machine::Mac;
use crate::sys;

/// An interface, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its hardware address; zeros on loopback.
    pub mac: Mac,
    /// Its largest packet, in bytes.
    pub mtu: u32,
}

impl Interface {
    /// Looks the interface up.
    pub fn find(name: &str) -> Result<Self> {
        let missing = |e: io::Error| {
            let text =
                format!("there is no network interface `{name}` (`ip link` lists those there are)");
            Error::with_source(ErrorKind::NoInterface, text, e)
        };
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)
            .map_err(|e| Error::io("cannot open a socket", e))?;
        let index =
            rustix::net::netdevice::name_to_index(&socket, name).map_err(|e| missing(e.into()))?;
        let mac = sys::interface_mac(socket.as_fd(), name).map_err(missing)?;
        let mtu = sys::interface_mtu(socket.as_fd(), name).map_err(missing)?;
        Ok(Self {
            name: name.to_owned(),
            index,
            mac,
            mtu,
        })
    }
}

/// How a socket shares its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// With nobody.
    Alone,
    /// With other sockets that agree to it.
    Reuse,
}

/// A UDP socket on one interface (or any, if none is named), not blocking, that tells and chooses addresses.
pub fn udp(interface: Option<&str>, address: SocketAddrV4, sharing: Sharing) -> Result<Socket> {
    let what = format!("UDP port {}", address.port());
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        socket.set_reuse_address(sharing == Sharing::Reuse)?;
        bind(&socket, interface, address)?;
        sys::enable_pktinfo(socket.as_fd())?;
        Ok(socket)
    };
    open().map_err(|e| explain(&what, interface, *address.ip(), e))
}

/// A listening TCP socket on one interface (or any), not blocking.
pub fn tcp(interface: Option<&str>, address: SocketAddrV4, backlog: i32) -> Result<Socket> {
    let what = format!("TCP port {}", address.port());
    let open = || -> io::Result<Socket> {
        let socket = Socket::new(
            Domain::IPV4,
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // A restart must not wait for the old connections to be forgotten.
        socket.set_reuse_address(true)?;
        bind(&socket, interface, address)?;
        socket.listen(backlog)?;
        Ok(socket)
    };
    open().map_err(|e| explain(&what, interface, *address.ip(), e))
}

/// A socket that only sends frames; it takes no part in receiving, which would cost a copy of all traffic.
pub fn packet_sender() -> io::Result<Socket> {
    Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)
}

/// A socket for frames of one protocol on one interface, not blocking.
pub fn packet(interface: &Interface, protocol: u16) -> io::Result<Socket> {
    let number = Protocol::from(i32::from(protocol.to_be()));
    let socket = Socket::new(
        Domain::PACKET,
        Type::DGRAM.nonblocking().cloexec(),
        Some(number),
    )?;
    socket.bind(&sys::link_address(interface.index, protocol, Mac([0; 6])))?;
    Ok(socket)
}

fn bind(socket: &Socket, interface: Option<&str>, address: SocketAddrV4) -> io::Result<()> {
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    socket.bind(&SockAddr::from(address))
}

fn explain(what: &str, interface: Option<&str>, address: Ipv4Addr, source: io::Error) -> Error {
    let place = interface.map_or_else(
        || address.to_string(),
        |name| format!("{address} on {name}"),
    );
    let hint = match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            "another program has it (`ss -lnp` names it); stop that one, or choose another port"
        }
        Some(libc::EACCES | libc::EPERM) => {
            "run as root, or grant CAP_NET_BIND_SERVICE and CAP_NET_RAW"
        }
        Some(libc::ENODEV) => "there is no such interface (`ip link` lists those there are)",
        Some(libc::EADDRNOTAVAIL) => {
            "the host has no such address (`ip address` lists those it has)"
        }
        _ => "the system refused",
    };
    Error::io(
        format!("cannot listen on {what} of {place}: {hint}"),
        source,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);

    #[test]
    fn errors_name_the_thing_and_the_fix() {
        let held = udp(None, ANY, Sharing::Alone).unwrap();
        let taken = held.local_addr().unwrap().as_socket_ipv4().unwrap();
        let error = udp(None, taken, Sharing::Alone).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PortTaken);
        assert!(
            error.to_string().contains(&taken.port().to_string()),
            "{error}"
        );
        let error = udp(Some("nosuch0"), ANY, Sharing::Alone).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoInterface);
        assert_eq!(
            Interface::find("nosuch0").unwrap_err().kind(),
            ErrorKind::NoInterface
        );
        let error = udp(
            None,
            SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 0),
            Sharing::Alone,
        )
        .unwrap_err();
        assert!(error.to_string().contains("no such address"), "{error}");
    }

    #[test]
    fn loopback_is_found() {
        let lo = Interface::find("lo").unwrap();
        assert!(lo.index > 0 && lo.mtu >= 1500);
    }
}
