//! The crate's error type.

/// What is wrong with bytes that should be a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: &'static str,
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The classes of [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// More bytes than a frame may have.
    TooLong,
    /// The bytes end too early, or go on after the end.
    Length,
    /// A number that means nothing here: damage, or a newer release on the other side.
    Unknown,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: &'static str) -> Self {
        Self { kind, context }
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
