//! What is said about an export during the handshake.

use std::fmt;

use crate::error::{Error, Result};
use crate::flags::TransmissionFlags;
use crate::wire;

/// The name of an export: UTF-8, no NUL, at most 4096 bytes; empty means the default export.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ExportName(String);

impl ExportName {
    /// Checks the specification's rules for strings.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        wire::string(name.as_bytes())?;
        Ok(Self(name))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ExportName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// The sizes that requests have to keep to ("Size constraints"), in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    minimum: u32,
    preferred: u32,
    maximum: u32,
}

impl BlockSizes {
    /// What holds when nothing was said: 1, 4096 and 32 MiB.
    pub const DEFAULT: Self = Self {
        minimum: 1,
        preferred: 4096,
        maximum: crate::DEFAULT_MAX_PAYLOAD,
    };

    /// Checks what the specification demands of the three sizes.
    pub fn new(minimum: u32, preferred: u32, maximum: u32) -> Result<Self> {
        let fine = minimum.is_power_of_two()
            && minimum <= 65536
            && preferred.is_power_of_two()
            && preferred >= minimum.max(512)
            && maximum >= preferred;
        if !fine {
            let text = format!("impossible block sizes {minimum}/{preferred}/{maximum}");
            return Err(Error::protocol(text));
        }
        Ok(Self {
            minimum,
            preferred,
            maximum,
        })
    }

    /// Smallest length and alignment of a request.
    pub fn minimum(self) -> u32 {
        self.minimum
    }

    /// Smallest length and alignment that is served well.
    pub fn preferred(self) -> u32 {
        self.preferred
    }

    /// Largest payload of one request.
    pub fn maximum(self) -> u32 {
        self.maximum
    }
}

/// All that a server says about one export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportInfo {
    /// Size in bytes.
    pub size: u64,
    /// What the export can do. SEND_DF and BLOCK_STATUS_PAYLOAD are added by the handshake where the
    /// agreed headers allow them, and removed where not.
    pub flags: TransmissionFlags,
    /// The sizes that the server enforces.
    pub block_sizes: BlockSizes,
    /// A line for people.
    pub description: Option<String>,
    /// The export's own name where it differs from the one asked for.
    pub canonical_name: Option<String>,
    /// Names of the metadata contexts that can be selected, such as `base:allocation`.
    pub contexts: Vec<String>,
}

impl ExportInfo {
    /// An export of `size` bytes with default sizes and nothing else.
    pub fn new(size: u64, flags: TransmissionFlags) -> Self {
        Self {
            size,
            flags: flags.with(TransmissionFlags::HAS_FLAGS),
            block_sizes: BlockSizes::DEFAULT,
            description: None,
            canonical_name: None,
            contexts: Vec::new(),
        }
    }
}

/// Number of a selected metadata context, valid on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContextId(pub u32);

/// A selected metadata context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaContext {
    /// Its number on this connection.
    pub id: ContextId,
    /// Its name.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_block_size_must_be_a_power_of_two_not_above_65536() {
        assert!(BlockSizes::new(3, 4096, 1 << 20).is_err());
        assert!(BlockSizes::new(0, 4096, 1 << 20).is_err());
        assert!(BlockSizes::new(1 << 17, 1 << 17, 1 << 20).is_err());
        assert!(BlockSizes::new(512, 4096, 1 << 20).is_ok());
    }

    #[test]
    fn preferred_block_size_must_be_at_least_the_minimum_and_512() {
        assert!(BlockSizes::new(4096, 512, 1 << 20).is_err());
        assert!(BlockSizes::new(1, 256, 1 << 20).is_err());
    }

    #[test]
    fn maximum_payload_must_be_at_least_the_preferred_size() {
        assert!(BlockSizes::new(1, 4096, 2048).is_err());
        assert!(BlockSizes::new(1, 4096, u32::MAX).is_ok());
    }
}
