//! Magic numbers, options, commands and error values ("Values").

pub(crate) const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
pub(crate) const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;

pub(crate) const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
pub(crate) const HANDSHAKE_NO_ZEROES: u16 = 2;
pub(crate) const CLIENT_FIXED_NEWSTYLE: u32 = 1;
pub(crate) const CLIENT_NO_ZEROES: u32 = 2;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_DESCRIPTION: u16 = 2;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Zero bytes after the answer to EXPORT_NAME, unless both sides agreed to leave them out.
pub(crate) const EXPORT_NAME_PADDING: usize = 124;

/// Bits of the `base:allocation` context's status ("`base:allocation` metadata context").
pub mod block_state {
    /// Not allocated in the backing storage.
    pub const HOLE: u32 = 1;
    /// Reads as zeroes.
    pub const ZERO: u32 = 2;
}

/// Options that a client can send ("Option types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OptionKind {
    /// Choose an export and start transmission; cannot be refused politely.
    ExportName,
    /// End the handshake.
    Abort,
    /// List the exports.
    List,
    /// Upgrade to TLS.
    StartTls,
    /// Describe an export.
    Info,
    /// Describe an export and start transmission.
    Go,
    /// Agree on structured replies.
    StructuredReply,
    /// List metadata contexts.
    ListMetaContext,
    /// Select metadata contexts.
    SetMetaContext,
    /// Agree on extended headers.
    ExtendedHeaders,
    /// Unknown to this crate.
    Unknown(u32),
}

impl OptionKind {
    /// Reads the option's number.
    pub fn from_wire(number: u32) -> Self {
        match number {
            1 => Self::ExportName,
            2 => Self::Abort,
            3 => Self::List,
            5 => Self::StartTls,
            6 => Self::Info,
            7 => Self::Go,
            8 => Self::StructuredReply,
            9 => Self::ListMetaContext,
            10 => Self::SetMetaContext,
            11 => Self::ExtendedHeaders,
            other => Self::Unknown(other),
        }
    }

    /// The option's number.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::ExportName => 1,
            Self::Abort => 2,
            Self::List => 3,
            Self::StartTls => 5,
            Self::Info => 6,
            Self::Go => 7,
            Self::StructuredReply => 8,
            Self::ListMetaContext => 9,
            Self::SetMetaContext => 10,
            Self::ExtendedHeaders => 11,
            Self::Unknown(other) => other,
        }
    }
}

/// Which headers the two sides agreed on for the transmission phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderStyle {
    /// Compact requests, simple replies. All that Linux's own client knows.
    #[default]
    Simple,
    /// Compact requests, structured replies to READ and BLOCK_STATUS.
    Structured,
    /// Extended requests and extended replies, with 64-bit lengths.
    Extended,
}

/// Commands of the transmission phase ("Request types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    /// Read data.
    Read,
    /// Write data.
    Write,
    /// Disconnect; has no reply.
    Disconnect,
    /// Make everything answered so far durable.
    Flush,
    /// The range's contents are no longer needed.
    Trim,
    /// The range will be read soon.
    Cache,
    /// Make the range read as zeroes.
    WriteZeroes,
    /// Report the state of the range's blocks.
    BlockStatus,
    /// Unknown to this crate.
    Unknown(u16),
}

impl Command {
    /// Reads the command's number.
    pub fn from_wire(number: u16) -> Self {
        match number {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::Disconnect,
            3 => Self::Flush,
            4 => Self::Trim,
            5 => Self::Cache,
            6 => Self::WriteZeroes,
            7 => Self::BlockStatus,
            other => Self::Unknown(other),
        }
    }

    /// The command's number.
    pub fn to_wire(self) -> u16 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Disconnect => 2,
            Self::Flush => 3,
            Self::Trim => 4,
            Self::Cache => 5,
            Self::WriteZeroes => 6,
            Self::BlockStatus => 7,
            Self::Unknown(other) => other,
        }
    }
}

/// Errors of the transmission phase ("Error values").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IoError {
    /// EPERM: the export is read-only.
    #[error("operation not permitted")]
    NotPermitted,
    /// EIO: the storage failed.
    #[error("input/output error")]
    Io,
    /// ENOMEM: no memory.
    #[error("out of memory")]
    NoMemory,
    /// EINVAL: the request breaks a rule.
    #[error("invalid argument")]
    Invalid,
    /// ENOSPC: no room, over the quota, or a write past the end.
    #[error("no space left")]
    NoSpace,
    /// EOVERFLOW: too long to answer in one piece.
    #[error("value too large")]
    Overflow,
    /// ENOTSUP: zeroing would not be fast.
    #[error("operation not supported")]
    NotSupported,
    /// ESHUTDOWN: the server is shutting down.
    #[error("the server is shutting down")]
    Shutdown,
}

impl IoError {
    /// The number on the wire.
    pub fn to_wire(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Overflow => 75,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }

    /// Reads a nonzero error field; a number that the specification does not list counts as EINVAL,
    /// as it asks of clients.
    pub fn from_wire(number: u32) -> Self {
        match number {
            1 => Self::NotPermitted,
            5 => Self::Io,
            12 => Self::NoMemory,
            28 => Self::NoSpace,
            75 => Self::Overflow,
            95 => Self::NotSupported,
            108 => Self::Shutdown,
            _ => Self::Invalid,
        }
    }
}
