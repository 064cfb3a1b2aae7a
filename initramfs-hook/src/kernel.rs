//! Talks to the kernel's `nbd` netlink family: two sockets, one for requests, one for announcements.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::cmdline::DeviceIndex;
use crate::error::{Error, Kind, Result};
use crate::netlink::{self, Family, Message, Setup};
use crate::sys;

/// Larger than any message of this family.
const BUFFER: usize = 8192;

/// The open way to the kernel.
#[derive(Debug)]
pub struct Kernel {
    requests: OwnedFd,
    events: OwnedFd,
    family: Family,
    seq: u32,
    out: Vec<u8>,
    input: Vec<u8>,
}

impl Kernel {
    /// Opens the sockets. The `nbd` module has to be loaded by now.
    pub fn open() -> Result<Self> {
        let requests = open_socket(SocketFlags::CLOEXEC).map_err(no_netlink)?;
        let events =
            open_socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(no_netlink)?;
        let (out, input) = (Vec::with_capacity(BUFFER), vec![0; BUFFER]);
        let mut kernel = Self {
            requests,
            events,
            family: Family { id: 0, group: 0 },
            seq: 0,
            out,
            input,
        };
        kernel.family = kernel.find_family()?;
        sys::join_group(kernel.events.as_fd(), kernel.family.group).map_err(no_netlink)?;
        Ok(kernel)
    }

    /// One that knows of no disks.
    #[cfg(test)]
    pub fn without_nbd() -> Self {
        let socket = || open_socket(SocketFlags::NONBLOCK).expect("every kernel has netlink");
        Self {
            requests: socket(),
            events: socket(),
            family: Family { id: 0, group: 0 },
            seq: 0,
            out: Vec::new(),
            input: vec![0; BUFFER],
        }
    }

    fn find_family(&mut self) -> Result<Family> {
        netlink::get_family(&mut self.out, 0);
        let missing = || {
            Error::new(
                Kind::Kernel,
                "the kernel has no nbd support: load the module nbd (modprobe nbd)",
            )
        };
        self.send()?;
        let length = self.receive()?;
        netlink::parse_family(&self.input[..length]).ok_or_else(missing)
    }

    /// Makes the device and gives it its first socket.
    pub fn connect(&mut self, setup: &Setup<'_>, socket: BorrowedFd<'_>) -> Result<()> {
        let (seq, fd) = (self.next_seq(), fd_number(socket));
        netlink::connect(&mut self.out, self.family, seq, setup, fd);
        self.transact(seq, setup.device)
    }

    /// Gives the device its next socket. Says nothing when the kernel still holds the old one for alive.
    pub fn reconfigure(&mut self, setup: &Setup<'_>, socket: BorrowedFd<'_>) -> Result<()> {
        let (seq, fd) = (self.next_seq(), fd_number(socket));
        netlink::reconfigure(&mut self.out, self.family, seq, setup, fd);
        self.transact(seq, setup.device)
    }

    /// Takes the device down.
    pub fn disconnect(&mut self, device: DeviceIndex) -> Result<()> {
        let seq = self.next_seq();
        netlink::disconnect(&mut self.out, self.family, seq, device);
        self.transact(seq, device)
    }

    /// Becomes readable when there are announcements to [`Kernel::drain`].
    pub fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Reads all announcements that are there; calls `dead` for every device whose socket the kernel has given up.
    pub fn drain(&mut self, mut dead: impl FnMut(DeviceIndex)) {
        loop {
            let read =
                rustix::net::recv(&self.events, self.input.as_mut_slice(), RecvFlags::empty());
            match read {
                Ok((length, _)) => netlink::parse(&self.input[..length], self.family, |message| {
                    if let Message::LinkDead(device) = message {
                        dead(device);
                    }
                }),
                // Announcements were lost; the end of the sockets themselves is noticed all the same.
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn next_seq(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.seq
    }

    fn send(&mut self) -> Result<()> {
        let sent = rustix::net::send(&self.requests, &self.out, SendFlags::empty());
        sent.map(drop).map_err(|e| no_netlink(e.into()))
    }

    fn receive(&mut self) -> Result<usize> {
        loop {
            match rustix::net::recv(
                &self.requests,
                self.input.as_mut_slice(),
                RecvFlags::empty(),
            ) {
                Ok((length, _)) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(no_netlink(e.into())),
            }
        }
    }

    /// Sends what is in the buffer and waits for its acknowledgement.
    fn transact(&mut self, seq: u32, device: DeviceIndex) -> Result<()> {
        self.send()?;
        let mut answer = None;
        while answer.is_none() {
            let length = self.receive()?;
            netlink::parse(
                &self.input[..length],
                self.family,
                |message| match message {
                    Message::Ack { seq: of, errno } if of == seq => answer = Some(errno),
                    _ => {}
                },
            );
        }
        answer
            .filter(|&errno| errno != 0)
            .map_or(Ok(()), |errno| Err(refused(device, errno)))
    }
}

fn open_socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(GENERIC),
    )?;
    rustix::net::bind(&fd, &SocketAddrNetlink::new(0, 0))?;
    Ok(fd)
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn no_netlink(source: io::Error) -> Error {
    Error::with(
        Kind::Kernel,
        "talking to the kernel over netlink failed",
        source,
    )
}

fn refused(device: DeviceIndex, errno: i32) -> Error {
    let source = io::Error::from_raw_os_error(errno);
    let (kind, hint) = match errno {
        libc::EBUSY => (
            Kind::Device,
            "is in use already; choose another or detach it first",
        ),
        libc::EPERM => (Kind::Usage, "can be attached by root only"),
        libc::EINVAL => (
            Kind::Device,
            "is not attached any more, or was attached by somebody else",
        ),
        _ => (Kind::Kernel, "was refused by the kernel"),
    };
    Error::with(kind, format!("/dev/{device} {hint}"), source)
}
