//! The crate's error type.

use std::borrow::Cow;

/// What went wrong on the wire.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct Error {
    kind: ErrorKind,
    context: Cow<'static, str>,
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// The classes of [`Error`] that a caller may want to treat differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The other side does not speak NBD, or only the oldstyle handshake.
    NotNbd,
    /// The other side broke a rule of the specification; the connection is of no more use.
    Protocol,
    /// The server answered an option with this error; the text is in the error's message.
    Refused(OptionError),
    /// TLS was asked for and the server does not offer it.
    TlsUnavailable,
    /// The server wants TLS first and the caller has none to offer.
    TlsRequired,
    /// A limit given by the caller was passed.
    Limit,
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            context: context.into(),
        }
    }

    pub(crate) fn protocol(context: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, context)
    }

    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

/// Error replies to an option ("Option reply types"). The number on the wire has bit 31 set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionError {
    /// The server does not know the option.
    Unsupported,
    /// Forbidden by the server's policy.
    Policy,
    /// Malformed, or not valid now.
    Invalid,
    /// Not possible on the server's platform.
    Platform,
    /// TLS has to be started first.
    TlsRequired,
    /// There is no such export.
    Unknown,
    /// The server is shutting down.
    Shutdown,
    /// The client has to ask for the block sizes.
    BlockSizeRequired,
    /// The request or its answer is too large.
    TooBig,
    /// The client has to negotiate extended headers first.
    ExtendedHeadersRequired,
    /// A number that this crate does not know, without bit 31.
    Other(u32),
}

const ERROR_BIT: u32 = 1 << 31;

impl OptionError {
    /// The reply type on the wire.
    pub fn to_wire(self) -> u32 {
        ERROR_BIT
            | match self {
                Self::Unsupported => 1,
                Self::Policy => 2,
                Self::Invalid => 3,
                Self::Platform => 4,
                Self::TlsRequired => 5,
                Self::Unknown => 6,
                Self::Shutdown => 7,
                Self::BlockSizeRequired => 8,
                Self::TooBig => 9,
                Self::ExtendedHeadersRequired => 10,
                Self::Other(number) => number,
            }
    }

    /// Reads a reply type; `None` when it is not an error (bit 31 clear).
    pub fn from_wire(reply_type: u32) -> Option<Self> {
        if reply_type & ERROR_BIT == 0 {
            return None;
        }
        Some(match reply_type & !ERROR_BIT {
            1 => Self::Unsupported,
            2 => Self::Policy,
            3 => Self::Invalid,
            4 => Self::Platform,
            5 => Self::TlsRequired,
            6 => Self::Unknown,
            7 => Self::Shutdown,
            8 => Self::BlockSizeRequired,
            9 => Self::TooBig,
            10 => Self::ExtendedHeadersRequired,
            other => Self::Other(other),
        })
    }

    /// A short phrase for messages to people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Unsupported => "the server does not know this option",
            Self::Policy => "forbidden by the server's policy",
            Self::Invalid => "the server calls the request invalid",
            Self::Platform => "not possible on the server's platform",
            Self::TlsRequired => "the server requires TLS",
            Self::Unknown => "no such export",
            Self::Shutdown => "the server is shutting down",
            Self::BlockSizeRequired => "the server requires the client to honour its block sizes",
            Self::TooBig => "the request or its answer is too large",
            Self::ExtendedHeadersRequired => "the server requires extended headers",
            Self::Other(_) => "an error that this program does not know",
        }
    }
}
