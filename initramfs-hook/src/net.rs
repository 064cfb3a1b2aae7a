//! Connections that never block: opening them, and the settings that a disk needs.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::error::{Error, Kind, Result};
use crate::sys;
use crate::uri::Server;

/// Idle time after which the other end is asked for a sign of life.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Pause between two such questions, and how many may stay unanswered.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(3);
const KEEPALIVE_COUNT: u32 = 3;

/// A server's address, with its name as written for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As written.
    pub name: String,
    /// The host alone, as a certificate names it.
    pub host: String,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Looks up all servers, once: later there may be no disk to read `/etc/resolv.conf` from. A name that cannot be found
/// is skipped as long as another server remains.
pub fn resolve(servers: &[Server]) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut reason = None;
    for server in servers {
        match lookup(server) {
            Ok(found) => places.extend(found),
            Err(e) => {
                reason = Some(Error::with(
                    Kind::Network,
                    format!("server {server} cannot be looked up"),
                    e,
                ))
            }
        }
    }
    match reason {
        Some(reason) if places.is_empty() => Err(reason),
        _ => Ok(places),
    }
}

fn lookup(server: &Server) -> io::Result<Vec<Place>> {
    let place = |address| Place {
        name: server.to_string(),
        host: server.host.clone(),
        address,
    };
    if let Ok(ip) = server.host.parse() {
        return Ok(vec![place(SocketAddr::new(ip, server.port))]);
    }
    Ok((server.host.as_str(), server.port)
        .to_socket_addrs()?
        .map(place)
        .collect())
}

/// Whether these are of more than one server: one may have several addresses.
pub fn are_several(places: &[Place]) -> bool {
    places.iter().any(|place| place.name != places[0].name)
}

/// The Ethernet interface by which packets to `address` leave: its name and its own address. Sends nothing.
pub fn interface_towards(address: SocketAddr) -> io::Result<Option<(String, [u8; 6])>> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    sys::interface_of(socket.local_addr()?.ip())
}

/// Begins to open a connection; it is open when the socket becomes writable and [`finished`] agrees.
pub fn dial(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(fd),
        Err(e) => Err(e.into()),
    }
}

/// What became of a connection that was being opened.
pub fn finished(fd: &OwnedFd) -> io::Result<()> {
    sockopt::socket_error(fd)?.map_err(io::Error::from)
}

/// Whether a connection that was open has ended.
pub fn has_ended(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ended| ended > 0)
}

/// Prepares a connection for carrying a disk. `patience` is how long unacknowledged data may stay so before the
/// connection counts as broken.
pub fn prepare(fd: &OwnedFd, patience: Duration) -> io::Result<()> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_tcp_user_timeout(fd, u32::try_from(patience.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_PAUSE)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_COUNT)?;
    Ok(())
}

/// Ends a connection under the hands of the kernel, so that it lets go of it.
pub fn shut(fd: &OwnedFd) {
    // Not connected any more: exactly what was wanted.
    let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
}

/// Makes calls on the socket wait again, as the kernel's disk driver expects.
pub fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(
        fd.as_fd(),
        flags - rustix::fs::OFlags::NONBLOCK,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_writable(fd: &OwnedFd) {
        let mut fds = [PollFd::new(fd, PollFlags::OUT)];
        let deadline = Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        };
        assert_eq!(poll(&mut fds, Some(&deadline)).unwrap(), 1);
    }

    #[test]
    fn dials_without_blocking_and_sees_the_refusal() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let fd = dial(address).unwrap();
        wait_writable(&fd);
        finished(&fd).unwrap();
        assert!(!has_ended(&fd));
        prepare(&fd, Duration::from_secs(10)).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&fd).unwrap(), 10_000);
        drop(listener);
        assert!(has_ended(&fd));
        let fd = dial(address).unwrap();
        wait_writable(&fd);
        assert_eq!(
            finished(&fd).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }

    #[test]
    fn addresses_need_no_lookup_and_one_bad_name_does_not_hide_the_rest() {
        let servers =
            crate::uri::parse_servers("no-such-name.invalid:1,127.0.0.1:2,[::1]:3").unwrap();
        let places = resolve(&servers).unwrap();
        assert_eq!(places.len(), 2);
        assert_eq!(places[1].address, "[::1]:3".parse().unwrap());
        assert!(
            resolve(&servers[..1])
                .unwrap_err()
                .to_string()
                .contains("no-such-name.invalid:1")
        );
    }

    #[test]
    fn two_addresses_of_one_server_are_not_two_servers() {
        let place = |name: &str, address: &str| Place {
            name: name.into(),
            host: name.into(),
            address: address.parse().unwrap(),
        };
        let one = [place("s:1", "10.0.0.1:1"), place("s:1", "[fd00::1]:1")];
        assert!(!are_several(&one) && !are_several(&[]));
        let [first, _] = one;
        assert!(are_several(&[first, place("t:1", "10.0.0.2:1")]));
    }
}
