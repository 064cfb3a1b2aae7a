//! What can go wrong about certificates.

use std::{error::Error as StdError, path::Path};

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Which kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What should be made is there already.
    Exists,
    /// What is needed is not there.
    Missing,
    /// A name that cannot be one.
    BadName,
    /// A file cannot be read or written.
    File,
    /// A file does not hold what it should, or a certificate cannot be made.
    Certificate,
}

/// A failure: kind, what was being done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Error {
            kind,
            context: context.into(),
            source: None,
        }
    }

    pub(super) fn certificate(
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Error {
            kind: ErrorKind::Certificate,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    pub(super) fn read(path: &Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::Missing,
            _ => ErrorKind::File,
        };
        Error {
            kind,
            context: format!("cannot read {}", path.display()),
            source: Some(source.into()),
        }
    }

    pub(super) fn write(path: &Path, source: std::io::Error) -> Self {
        Error {
            kind: ErrorKind::File,
            context: format!("cannot write {}", path.display()),
            source: Some(source.into()),
        }
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
