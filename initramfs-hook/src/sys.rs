//! The system calls for which no safe wrapper is at hand. All of this crate's `unsafe` is here.

#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::traffic::Traffic;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Sets an option of any plain type on a socket.
fn set_option<T: Copy>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which lives across the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            length,
        )
    };
    check(result).map(drop)
}

/// Lets a netlink socket receive what is sent to a multicast group.
pub fn join_group(fd: BorrowedFd<'_>, group: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, &group)
}

/// Confines a socket to one interface.
pub fn bind_to_device(fd: BorrowedFd<'_>, interface: &str) -> io::Result<()> {
    let mut name = [0u8; libc::IFNAMSIZ];
    let bytes = interface.as_bytes();
    // The last byte stays zero.
    let place = name[..libc::IFNAMSIZ - 1].get_mut(..bytes.len());
    place
        .ok_or(io::ErrorKind::InvalidInput)?
        .copy_from_slice(bytes);
    set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)
}

/// The Ethernet interface that holds `address`: its name and its own address.
pub fn interface_of(address: IpAddr) -> io::Result<Option<(String, [u8; 6])>> {
    let list = InterfaceList::get()?;
    let holder = list
        .entries()
        .find(|entry| entry.ip() == Some(address))
        .map(Entry::name);
    let Some(name) = holder else { return Ok(None) };
    let mac = list
        .entries()
        .filter(|entry| entry.name() == name)
        .find_map(|entry| entry.mac());
    Ok(mac.map(|mac| (name.to_string_lossy().into_owned(), mac)))
}

/// What getifaddrs returned; freed at the end.
struct InterfaceList(*mut libc::ifaddrs);

/// One entry of it.
#[derive(Clone, Copy)]
struct Entry<'a>(&'a libc::ifaddrs);

impl InterfaceList {
    fn get() -> io::Result<Self> {
        let mut first = std::ptr::null_mut();
        // SAFETY: the pointer is to a local that the call fills in; on success it owns a list.
        check(unsafe { libc::getifaddrs(&raw mut first) })?;
        Ok(Self(first))
    }

    fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        // SAFETY: the list is as getifaddrs made it, and lives as long as `self`, which the entries borrow.
        let first = unsafe { self.0.as_ref() };
        std::iter::successors(first.map(Entry), |entry| {
            // SAFETY: as above; the last entry's `ifa_next` is null.
            unsafe { entry.0.ifa_next.as_ref() }.map(Entry)
        })
    }
}

impl Drop for InterfaceList {
    fn drop(&mut self) {
        // SAFETY: came from getifaddrs, and is freed this once.
        unsafe { libc::freeifaddrs(self.0) };
    }
}

impl<'a> Entry<'a> {
    fn name(self) -> &'a std::ffi::CStr {
        // SAFETY: getifaddrs gives every entry a NUL-terminated name that lives as long as the list.
        unsafe { std::ffi::CStr::from_ptr(self.0.ifa_name) }
    }

    fn family(self) -> Option<i32> {
        // SAFETY: null, or a socket address that lives as long as the list; every one begins with its family.
        unsafe { self.0.ifa_addr.as_ref() }.map(|address| address.sa_family.into())
    }

    fn ip(self) -> Option<IpAddr> {
        let address = self.0.ifa_addr;
        match self.family()? {
            libc::AF_INET => {
                // SAFETY: the family says that it is a sockaddr_in; nothing promises its alignment.
                let address = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
                let bits = u32::from_be(address.sin_addr.s_addr);
                Some(Ipv4Addr::from(bits).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that it is a sockaddr_in6; nothing promises its alignment.
                let address = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
                Some(Ipv6Addr::from(address.sin6_addr.s6_addr).into())
            }
            _ => None,
        }
    }

    fn mac(self) -> Option<[u8; 6]> {
        if self.family() != Some(libc::AF_PACKET) {
            return None;
        }
        let address = self.0.ifa_addr;
        // SAFETY: the family says that it is a sockaddr_ll; nothing promises its alignment.
        let link = unsafe { address.cast::<libc::sockaddr_ll>().read_unaligned() };
        let ethernet = link.sll_hatype == libc::ARPHRD_ETHER && link.sll_halen == 6;
        ethernet.then(|| std::array::from_fn(|at| link.sll_addr[at]))
    }
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The process that called; its child has this process id.
    Parent(i32),
    /// The new process.
    Child,
}

/// Makes a second process. Only for a process with one thread, which the agent always is.
pub fn fork() -> io::Result<Side> {
    // SAFETY: no other thread exists that could hold a lock across the fork, so the child may do anything.
    match check(unsafe { libc::fork() })? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(pid)),
    }
}

/// `PR_SET_IO_FLUSHER` of `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Tells the kernel that this process is needed to write memory back, so that the memory it allocates on our behalf
/// (a socket, a packet) must not wait for the very disk that we are about to bring back. Linux 5.6 and later.
pub fn become_io_flusher() -> io::Result<()> {
    // SAFETY: takes plain integers only.
    check(unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) }).map(drop)
}

/// The name in `ps` and in kernel messages.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: the pointer is a NUL-terminated string that lives across the call. A failure only costs the name.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// Keeps freed memory in the process and takes it in larger steps, so that reconnecting needs none from the kernel.
pub fn keep_heap(spare: usize) {
    let spare = libc::c_int::try_from(spare).unwrap_or(libc::c_int::MAX);
    // SAFETY: takes plain integers only; called before anything depends on the allocator's settings.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, libc::c_int::MAX);
        libc::mallopt(libc::M_TOP_PAD, spare);
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
}

/// Puts `fd` in the place of the standard stream `number`.
pub fn replace_stream(fd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: takes plain integers only; 0 to 2 are not owned by any Rust object that would notice.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Ignores a signal from now on.
pub fn ignore(signal: libc::c_int) {
    // SAFETY: SIG_IGN runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// `SOL_TLS`, `TLS_TX` and `TLS_RX` of `linux/tls.h`.
const SOL_TLS: libc::c_int = 282;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `TLS_TX`
    Send = 1,
    /// `TLS_RX`
    Receive = 2,
}

/// Puts the kernel's TLS layer on an established connection. `ENOENT`: the kernel has none.
pub fn start_ktls(fd: BorrowedFd<'_>) -> io::Result<()> {
    set_option(fd, libc::SOL_TCP, libc::TCP_ULP, b"tls")
}

/// Gives the kernel's TLS layer one direction's keys, as `linux/tls.h` lays them out.
pub fn set_ktls_keys(fd: BorrowedFd<'_>, direction: Direction, info: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `info`, which lives across the call; the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_TLS,
            direction as libc::c_int,
            info.as_ptr().cast(),
            length,
        )
    };
    check(result).map(drop)
}

/// The number of the next record in one direction, counted on from what [`set_ktls_keys`] was given, whose `length` this has
/// to be. The kernel tells the keys as well; they are forgotten at once.
pub fn ktls_record(fd: BorrowedFd<'_>, direction: Direction, length: usize) -> io::Result<u64> {
    let mut info = [0u8; 64];
    let mut size = length.min(info.len()) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes into `info`, which is no shorter.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            SOL_TLS,
            direction as libc::c_int,
            info.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    check(result)?;
    // The record number is the last of it, whatever the cipher.
    let number = length.checked_sub(8).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(u64::from_be_bytes(field(&info, number)))
}

/// Waits until this process is told to terminate (SIGTERM).
pub fn wait_for_termination() -> io::Result<()> {
    // SAFETY: the set is a plain value on the stack, initialised by sigemptyset before use; `number` outlives the call.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        check(libc::sigprocmask(
            libc::SIG_BLOCK,
            &raw const set,
            std::ptr::null_mut(),
        ))?;
        let mut number = 0;
        match libc::sigwait(&raw const set, &raw mut number) {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// Ends the machine at once, with nothing synced: switches it off, or restarts it.
pub fn end_machine(power_off: bool) -> io::Result<()> {
    let how = if power_off {
        libc::RB_POWER_OFF
    } else {
        libc::RB_AUTOBOOT
    };
    // SAFETY: takes a plain integer.
    check(unsafe { libc::reboot(how) }).map(drop)
}

/// What a TCP connection has carried, by `struct tcp_info` (`linux/tcp.h`; all of it since Linux 4.6).
pub fn tcp_traffic(fd: BorrowedFd<'_>) -> io::Result<Traffic> {
    const UNACKED: usize = 24;
    const ACKED: usize = 120;
    const RECEIVED: usize = 128;
    const SEGMENTS: usize = 156;
    let mut info = [0u8; 232];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `info`, which is that long, and says how many.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    check(result)?;
    Ok(Traffic {
        sent: u32::from_ne_bytes(field(&info, SEGMENTS)),
        unacked: u32::from_ne_bytes(field(&info, UNACKED)),
        acked: u64::from_ne_bytes(field(&info, ACKED)),
        received: u64::from_ne_bytes(field(&info, RECEIVED)),
    })
}

fn field<const N: usize>(info: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|n| info[at + n])
}
