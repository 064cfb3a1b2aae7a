//! The crate's one module with `unsafe`: socket calls that neither std, socket2 nor rustix wraps. Each function is a
//! thin shell round one system call; what it reads or writes lives on its own stack or in slices it is given.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use socket2::{SockAddr, SockAddrStorage};

use crate::machine::Mac;

/// Room for one `in_pktinfo` control message, aligned as the kernel wants it.
#[repr(align(8))]
struct Control([u8; 64]);

/// A datagram that came in.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// Its length; the rest of a longer one is lost.
    pub len: usize,
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The address of ours that it was sent to, or that would answer a broadcast. Needs [`enable_pktinfo`].
    pub local: Ipv4Addr,
}

/// Sets a socket option of type `int`.
pub fn set_int(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` lives until the call returns and `len` is its size.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    check(done as isize)?;
    Ok(())
}

/// Makes [`receive`] tell which address a datagram was sent to.
pub fn enable_pktinfo(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_int(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)
}

/// Receives one datagram without waiting.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid `sockaddr_in` and a valid `msghdr`.
    let (mut name, mut message): (libc::sockaddr_in, libc::msghdr) = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer in `message` is to a live local or to `buffer`, with its true length beside it.
    let len =
        check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) })?;
    // SAFETY: `message` is as the kernel left it, and `control` is alive.
    let local = unsafe { local_address(&message) };
    let source = SocketAddrV4::new(
        Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
        u16::from_be(name.sin_port),
    );
    Ok(Received {
        len,
        source,
        local: local.unwrap_or(Ipv4Addr::UNSPECIFIED),
    })
}

/// # Safety
/// `message` must be as `recvmsg` filled it, its control buffer alive.
unsafe fn local_address(message: &libc::msghdr) -> Option<Ipv4Addr> {
    // SAFETY: the macros walk the control buffer within `msg_controllen`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: `header` is not null and points into the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if (level, kind) == (libc::IPPROTO_IP, libc::IP_PKTINFO) {
            // SAFETY: the kernel puts a whole `in_pktinfo` behind such a header; it may be unaligned.
            let info = unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::in_pktinfo>()
                    .read_unaligned()
            };
            return Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr)));
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// Sends one datagram from the address `from`, without waiting.
pub fn send_from(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddrV4,
    from: Ipv4Addr,
) -> io::Result<()> {
    let mut control = Control([0; 64]);
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: all-zero is a valid `sockaddr_in`, `msghdr` and `in_pktinfo`.
    let (mut name, mut message, mut info): (libc::sockaddr_in, libc::msghdr, libc::in_pktinfo) =
        unsafe { mem::zeroed() };
    name.sin_family = libc::AF_INET as libc::sa_family_t;
    name.sin_port = to.port().to_be();
    name.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    info.ipi_spec_dst.s_addr = u32::from(from).to_be();
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
    message.msg_iov = &raw mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    let size = mem::size_of::<libc::in_pktinfo>() as u32;
    // SAFETY: pure arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(size) } as usize;
    // SAFETY: the control buffer has room for one header with an `in_pktinfo`, so the first header is not null.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::IPPROTO_IP;
        (*header).cmsg_type = libc::IP_PKTINFO;
        (*header).cmsg_len = libc::CMSG_LEN(size) as usize;
        libc::CMSG_DATA(header)
            .cast::<libc::in_pktinfo>()
            .write_unaligned(info);
    }
    // SAFETY: every pointer in `message` is to a live local or to `bytes`, which the kernel only reads.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) })?;
    Ok(())
}

/// The address of a packet socket: protocol (`ETH_P_…`) and hardware address on an interface.
pub fn link_address(interface: u32, protocol: u16, mac: Mac) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the types a socket address storage may be viewed as.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = interface as i32;
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&mac.0);
    let len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the storage holds a whole `sockaddr_ll` of that length.
    unsafe { SockAddr::new(storage, len) }
}

/// The hardware address of an interface.
pub fn interface_mac(fd: BorrowedFd<'_>, interface: &str) -> io::Result<Mac> {
    let request = interface_request(fd, interface, libc::SIOCGIFHWADDR)?;
    // SAFETY: SIOCGIFHWADDR fills this member of the union.
    let data = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    Ok(Mac(std::array::from_fn(|i| data[i] as u8)))
}

/// The largest packet that an interface carries, in bytes.
pub fn interface_mtu(fd: BorrowedFd<'_>, interface: &str) -> io::Result<u32> {
    let request = interface_request(fd, interface, libc::SIOCGIFMTU)?;
    // SAFETY: SIOCGIFMTU fills this member of the union.
    Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
}

fn interface_request(
    fd: BorrowedFd<'_>,
    interface: &str,
    call: libc::Ioctl,
) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    if interface.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: both calls read the name and write within the `ifreq` given.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), call, &raw mut request) } as isize)?;
    Ok(request)
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn the_address_asked_is_told_and_answers_leave_from_it() {
        let server = UdpSocket::bind("0.0.0.0:0").unwrap();
        enable_pktinfo(server.as_fd()).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"hello", ("127.0.0.9", port)).unwrap();
        let mut buffer = [0; 16];
        // Loopback delivers before send_to returns.
        let received = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..received.len], b"hello");
        assert_eq!(received.local, Ipv4Addr::new(127, 0, 0, 9));
        send_from(server.as_fd(), b"answer", received.source, received.local).unwrap();
        let (_, from) = client.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), std::net::IpAddr::V4(received.local));
    }

    #[test]
    fn loopback_has_an_mtu_and_nonsense_has_none() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(interface_mtu(socket.as_fd(), "lo").unwrap() >= 1500);
        assert_eq!(interface_mac(socket.as_fd(), "lo").unwrap(), Mac([0; 6]));
        assert!(interface_mtu(socket.as_fd(), "no-such-interface-name").is_err());
        assert!(interface_mtu(socket.as_fd(), "nosuch0").is_err());
    }
}
