//! Sockets that connections come in by.

use std::{
    fs::Permissions,
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use socket2::{Domain, SockRef, Socket as RawSocket, TcpKeepalive, Type};

use super::transport::Socket;

/// After so long of silence a peer is probed, and so often after that.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Data that stays unacknowledged for so long means that the peer is dead.
const DEAD_AFTER: Duration = Duration::from_secs(45);
const BACKLOG: i32 = 1024;
/// The first file descriptor that systemd passes.
const FIRST_PASSED: RawFd = 3;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix, with the path to remove at the end if it was made here.
    Unix(UnixListener, Option<PathBuf>),
}

impl Listener {
    /// Listens on a TCP address.
    ///
    /// # Errors
    /// Naming the address.
    pub fn tcp(address: SocketAddr) -> anyhow::Result<Self> {
        Self::tcp_on(None, address)
    }

    /// Listens on a TCP address, and takes only what comes in by `interface`: Linux otherwise takes packets for any
    /// of its addresses on any interface.
    ///
    /// # Errors
    /// Naming the address.
    pub fn tcp_on(interface: Option<&str>, address: SocketAddr) -> anyhow::Result<Self> {
        let bind = || -> io::Result<TcpListener> {
            let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            if address.is_ipv6() {
                socket.set_only_v6(true)?;
            }
            socket.bind_device(interface.map(str::as_bytes))?;
            socket.bind(&address.into())?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        Ok(Self::Tcp(
            bind().with_context(|| format!("cannot listen on {address}"))?,
        ))
    }

    /// Listens on a Unix socket at `path`; one that a dead server left there is replaced.
    ///
    /// # Errors
    /// Naming the path.
    pub fn unix(path: &Path) -> anyhow::Result<Self> {
        let stale = |path: &Path| {
            let is_socket = path
                .symlink_metadata()
                .is_ok_and(|meta| meta.file_type().is_socket());
            is_socket && UnixStream::connect(path).is_err()
        };
        if stale(path) {
            let _ = std::fs::remove_file(path);
        }
        let listener = UnixListener::bind(path);
        let listener = listener.with_context(|| format!("cannot listen on {}", path.display()))?;
        Ok(Self::Unix(listener, Some(path.to_owned())))
    }

    /// Listens on a Unix socket at `path` that only this user and group may open, in a folder that is made if it is
    /// not there.
    ///
    /// # Errors
    /// Naming the path.
    pub fn unix_for_group(path: &Path) -> anyhow::Result<Self> {
        let naming = || format!("cannot listen on {}", path.display());
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(naming)?;
        }
        let listener = Self::unix(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o660)).with_context(naming)?;
        Ok(listener)
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.to_string(),
                Err(error) => error.to_string(),
            },
            Self::Unix(_, Some(path)) => path.display().to_string(),
            Self::Unix(_, None) => "passed Unix socket".into(),
        }
    }

    /// Takes one connection in.
    pub(super) fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (socket, _) = listener.accept()?;
                let reference = SockRef::from(&socket);
                reference.set_tcp_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(KEEPALIVE_IDLE)
                    .with_interval(KEEPALIVE_INTERVAL);
                reference.set_tcp_keepalive(&keepalive)?;
                reference.set_tcp_user_timeout(Some(DEAD_AFTER))?;
                Ok(Socket::Tcp(socket))
            }
            Self::Unix(listener, _) => Ok(Socket::Unix(listener.accept()?.0)),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, Some(path)) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The listening sockets that a service manager passed (`LISTEN_FDS`), in its order. Call once, at the start.
///
/// # Errors
/// A passed descriptor that is no listening stream socket.
pub fn passed_sockets() -> anyhow::Result<Vec<Listener>> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|value| value.parse::<i32>().ok())
    };
    let ours = number("LISTEN_PID") == i32::try_from(std::process::id()).ok();
    let count = number("LISTEN_FDS").filter(|_| ours).unwrap_or(0);
    (FIRST_PASSED..FIRST_PASSED + count.clamp(0, 64))
        .map(adopt)
        .collect()
}

#[allow(unsafe_code)]
fn adopt(fd: RawFd) -> anyhow::Result<Listener> {
    // SAFETY: the service manager opened this descriptor for this process (LISTEN_PID names it), and passed_sockets
    // is called once, before anything else could have taken it over.
    let socket = RawSocket::from(unsafe { OwnedFd::from_raw_fd(fd) });
    socket
        .set_cloexec(true)
        .with_context(|| format!("passed descriptor {fd} is no socket"))?;
    let domain = socket
        .domain()
        .with_context(|| format!("passed descriptor {fd} is no socket"))?;
    if !socket.is_listener().unwrap_or(false) {
        anyhow::bail!("passed descriptor {fd} does not listen (use Accept=no)");
    }
    Ok(match domain {
        Domain::UNIX => Listener::Unix(OwnedFd::from(socket).into(), None),
        _ => Listener::Tcp(socket.into()),
    })
}
