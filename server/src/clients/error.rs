//! What can go wrong about clients and their disks.

use std::error::Error as StdError;

/// Result of this module.
pub type Result<T> = std::result::Result<T, Error>;

/// Which kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such client.
    Unknown,
    /// The token opens nothing: an old boot, or a guess.
    Refused,
    /// The client cannot boot as it is configured.
    NotBootable,
    /// More machines than are remembered.
    Full,
    /// The state database failed.
    State,
    /// The overlay store or the catalogue failed.
    Disk,
    /// A machine's keys or certificates cannot be had.
    Identity,
    /// Another server serves the room now.
    Standby,
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
    /// A failure without a cause below it.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Error {
            kind,
            context: context.into(),
            source: None,
        }
    }

    fn caused(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Error {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// A failure of the state database.
    pub fn state(
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::caused(ErrorKind::State, context, source)
    }

    /// A failure of the overlay store or the catalogue.
    pub fn disk(
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::caused(ErrorKind::Disk, context, source)
    }

    /// A failure about a machine's keys or certificates.
    pub fn identity(
        context: impl Into<String>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::caused(ErrorKind::Identity, context, source)
    }

    /// There is no such client.
    pub fn unknown(name: &str) -> Self {
        let context =
            format!("no client `{name}`: `bootroom client list` shows those that were seen");
        Error::new(ErrorKind::Unknown, context)
    }

    /// Too many machines.
    pub fn full(most: usize) -> Self {
        Error::new(
            ErrorKind::Full,
            format!("{most} machines are known already; no further one is served"),
        )
    }

    /// The failure and what lies below it, on one line.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
