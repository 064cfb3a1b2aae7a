//! The one error type of this crate.

use std::path::Path;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: the kind to decide by, a sentence for a person, and the cause.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The kinds of failure a caller may want to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A name, reference or size that no image can have.
    Invalid,
    /// No such image or version.
    NotFound,
    /// The version is served, current, or has overlays bound to it.
    InUse,
    /// Two servers know different versions under the same name, or one under different names.
    Conflict,
    /// What is on disk is not what was published, or cannot be read.
    Damaged,
    /// Written by a newer bootroom.
    NewerFormat,
    /// A program that a build or an import needs is not installed.
    MissingTool,
    /// A program that a build or an import ran has failed.
    ToolFailed,
    /// The caller cancelled the work.
    Cancelled,
    /// The operating system refused something.
    Io,
}

impl Error {
    /// An error that begins here.
    pub(crate) fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self {
            kind,
            context: context.into(),
            source: None,
        }
    }

    /// The same error with its cause.
    pub(crate) fn because(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An operating system error about one path.
    pub(crate) fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        Self::new(ErrorKind::Io, format!("{doing} {}", path.display())).because(source)
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Says what was being done, and to which path, when the operating system refuses.
pub(crate) trait IoContext<T> {
    /// Wraps the error as "`doing` `path`".
    fn at(self, doing: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, doing: &str, path: &Path) -> Result<T> {
        self.map_err(|error| Error::io(doing, path, error.into()))
    }
}
