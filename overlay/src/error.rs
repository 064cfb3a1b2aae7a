//! The one error type of this crate: a kind to act on, a context to read, a source to dig into.

use std::fmt;
use std::io;

/// What went wrong, in a form that a caller can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The host filesystem has no room (`ENOSPC` to the request).
    NoSpace,
    /// The overlay has reached its quota (`ENOSPC` to the request).
    QuotaFull,
    /// The pool is below its low-water mark: no new overlays, no growth except of kept ones.
    PoolLow,
    /// The host could not read or write (`EIO` to the request).
    Io,
    /// An earlier sync failed; what was written since the last good flush may be lost (`EIO`).
    SyncFailed,
    /// A newer attachment, a reset or a delete took this one's place.
    Evicted,
    /// The request reaches past the end of the disk (`EINVAL`).
    OutOfRange,
    /// What is on disk contradicts itself.
    Corrupt,
    /// Written by a newer release than this one.
    NewerFormat,
    /// The version that the overlay was made over is not there.
    BaseMissing,
    /// The version offered is not the one that the overlay was made over.
    BaseMismatch,
    /// There is already one of that name.
    Exists,
    /// There is none of that name.
    NotFound,
    /// Another process, or another operation, holds it.
    Busy,
    /// An argument is not of the required form.
    Invalid,
    /// The caller's progress callback asked to stop.
    Cancelled,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "no space left on the host's disk",
            Self::QuotaFull => "the overlay's quota is used up",
            Self::PoolLow => "the pool of overlays is almost full",
            Self::Io => "input/output error",
            Self::SyncFailed => "an earlier sync to disk failed",
            Self::Evicted => "a newer attachment took over",
            Self::OutOfRange => "past the end of the disk",
            Self::Corrupt => "damaged on disk",
            Self::NewerFormat => "written by a newer release",
            Self::BaseMissing => "the image version it was made over is missing",
            Self::BaseMismatch => "made over another image version",
            Self::Exists => "already exists",
            Self::NotFound => "not found",
            Self::Busy => "in use",
            Self::Invalid => "not valid",
            Self::Cancelled => "stopped on request",
        })
    }
}

/// What the host says of a disk or a filesystem that is damaged.
const BAD_DISK: [i32; 3] = [libc::EIO, libc::EBADMSG, libc::EUCLEAN];

/// Any failure of this crate.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {kind}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    /// Of what lies below the overlay.
    of_base: bool,
    #[source]
    source: Option<io::Error>,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`; `context` names the thing and, where there is one, the fix.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        let context = context.into();
        Self {
            kind,
            context,
            of_base: false,
            source: None,
        }
    }

    /// An error of the host, sorted into a kind by its errno.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let context = context.into();
        Self {
            kind: kind_of(&source),
            context,
            of_base: false,
            source: Some(source),
        }
    }

    /// What to act on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether a client should be told `ENOSPC`.
    pub fn is_no_space(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::NoSpace | ErrorKind::QuotaFull | ErrorKind::PoolLow
        )
    }

    /// Whether what the overlay has on disk is damaged, or the disk below it: to try again brings nothing. What its base
    /// cannot read is no damage of the overlay's.
    pub fn is_damage(&self) -> bool {
        !self.of_base
            && (self.kind == ErrorKind::Corrupt || self.source.as_ref().is_some_and(is_bad_disk))
    }

    /// This error, of what lies below an overlay.
    pub(crate) fn of_base(mut self) -> Self {
        self.of_base = true;
        self
    }

    /// This error, of the thing `name`.
    pub(crate) fn within(mut self, name: &str) -> Self {
        self.context = format!("{name}: {}", self.context);
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }
}

/// A file that ends before it should has lost something, too.
fn is_bad_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::UnexpectedEof
        || errno.is_some_and(|errno| BAD_DISK.contains(&errno))
}

fn kind_of(error: &io::Error) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty => ErrorKind::Exists,
        _ => ErrorKind::Io,
    }
}

/// Adds the "doing what, to what" to an error of the host.
pub(crate) trait Context<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::io(context(), e))
    }
}
