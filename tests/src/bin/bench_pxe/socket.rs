//! The two socket options of UDP that neither std nor rustix sets.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Lets one receive take all that was sent in one piece.
pub fn gather(socket: &impl AsFd) -> io::Result<()> {
    set(socket, libc::UDP_GRO, 1)
}

/// Lets one send hand over many packets of `size` bytes, the last of which may be shorter.
pub fn segment(socket: &impl AsFd, size: usize) -> io::Result<()> {
    set(socket, libc::UDP_SEGMENT, size as i32)
}

fn set(socket: &impl AsFd, option: i32, value: i32) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: `value` lives until the call returns, and `len` is its size.
    let done =
        unsafe { libc::setsockopt(fd, libc::SOL_UDP, option, (&raw const value).cast(), len) };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
