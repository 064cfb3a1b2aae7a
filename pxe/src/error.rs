//! The crate's one error type: what kind of trouble, where, and the cause beneath.

use std::fmt;
use std::io;

/// The result of this crate's fallible calls.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, coarse enough to choose an exit code or a hint by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The address and port are in use by another program.
    PortTaken,
    /// The process may not do this (low port, raw socket, binding to a device).
    Permission,
    /// The named network interface does not exist.
    NoInterface,
    /// The configuration contradicts itself or the host.
    Config,
    /// The lease file cannot be read or written.
    Leases,
    /// Any other failure of the operating system.
    Io,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::PortTaken => "port taken",
            ErrorKind::Permission => "not permitted",
            ErrorKind::NoInterface => "no such interface",
            ErrorKind::Config => "configuration",
            ErrorKind::Leases => "lease file",
            ErrorKind::Io => "system",
        })
    }
}

/// An error with its kind, what was being done, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{context} ({kind})")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without a deeper cause. `context` names the thing and, where there is one, the fix.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// An error with the cause beneath it.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// A system error; the kind is read off `source`.
    pub(crate) fn io(context: impl Into<String>, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::AddrInUse => ErrorKind::PortTaken,
            io::ErrorKind::PermissionDenied => ErrorKind::Permission,
            _ if source.raw_os_error() == Some(libc::ENODEV) => ErrorKind::NoInterface,
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, context, source)
    }

    /// The kind of trouble.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_read_off_system_errors() {
        let kind = |code| Error::io("x", io::Error::from_raw_os_error(code)).kind();
        assert_eq!(kind(libc::EADDRINUSE), ErrorKind::PortTaken);
        assert_eq!(kind(libc::EACCES), ErrorKind::Permission);
        assert_eq!(kind(libc::EPERM), ErrorKind::Permission);
        assert_eq!(kind(libc::ENODEV), ErrorKind::NoInterface);
        assert_eq!(kind(libc::EBADF), ErrorKind::Io);
    }
}
