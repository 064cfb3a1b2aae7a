//! What can go wrong in the agent: a kind to act on, a sentence for the person in front of the machine, and the cause.

use std::fmt;

/// The result of anything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What sort of failure it was; decides whether trying again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A command line, URI or kernel parameter that cannot be understood. Trying again is useless.
    Usage,
    /// The running kernel lacks something (nbd, tls, netlink family). Trying again is useless.
    Kernel,
    /// The network or the server did not answer in time, or the connection broke. Try again.
    Network,
    /// The server answered, but not with the disk that was attached before. Never install such a socket.
    Refused,
    /// The device is not (or no longer) ours: in use already, or disconnected by hand.
    Device,
    /// The mounted root does not take what belongs on it.
    Root,
}

/// An error of the agent.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    kind: Kind,
    context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error without an underlying cause.
    pub fn new(kind: Kind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// An error with the cause underneath.
    pub fn with(
        kind: Kind,
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            kind,
            context: context.into(),
            source: Some(source.into()),
        }
    }

    /// What sort of failure it was.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl fmt::Display for Error {
    /// One line, cause included: it is read aloud over the telephone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) => write!(f, "{}: {source}", self.context),
            None => f.write_str(&self.context),
        }
    }
}

/// Shorthand for a [`Kind::Usage`] error.
pub(crate) fn usage(context: impl Into<String>) -> Error {
    Error::new(Kind::Usage, context)
}
