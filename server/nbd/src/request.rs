//! Request headers ("Request message").

use crate::error::{Error, Result};
use crate::flags::CommandFlags;
use crate::numbers::{Command, EXTENDED_REQUEST_MAGIC, HeaderStyle, REQUEST_MAGIC};

/// What a client chose to recognise the reply by; given back as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cookie(pub u64);

/// A request's header, as it is on the wire; [`crate::Rules`] says whether it may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Modifiers of the command.
    pub flags: CommandFlags,
    /// What to do.
    pub command: Command,
    /// To be given back in the reply.
    pub cookie: Cookie,
    /// Start of the range in bytes.
    pub offset: u64,
    /// Length of the range, or of the payload, in bytes.
    pub length: u64,
}

impl Request {
    /// Length of a header in the simple and structured styles, in bytes.
    pub const COMPACT_LEN: usize = 28;
    /// Length of a header in the extended style, in bytes.
    pub const EXTENDED_LEN: usize = 32;

    /// Length of a header in `style`, in bytes.
    pub const fn header_len(style: HeaderStyle) -> usize {
        match style {
            HeaderStyle::Extended => Self::EXTENDED_LEN,
            HeaderStyle::Simple | HeaderStyle::Structured => Self::COMPACT_LEN,
        }
    }

    /// Reads the header at the front of `bytes`; `None` while it is not all there.
    ///
    /// # Errors
    /// A wrong magic number: the stream cannot be followed any further.
    #[inline]
    pub fn decode(style: HeaderStyle, bytes: &[u8]) -> Result<Option<Self>> {
        match style {
            HeaderStyle::Extended => match bytes.first_chunk() {
                Some(header) => Self::decode_extended(header).map(Some),
                None => Ok(None),
            },
            HeaderStyle::Simple | HeaderStyle::Structured => match bytes.first_chunk() {
                Some(header) => Self::decode_compact(header).map(Some),
                None => Ok(None),
            },
        }
    }

    #[inline]
    fn decode_compact(h: &[u8; Self::COMPACT_LEN]) -> Result<Self> {
        if u32::from_be_bytes([h[0], h[1], h[2], h[3]]) != REQUEST_MAGIC {
            return Err(wrong_magic());
        }
        let length = u32::from_be_bytes([h[24], h[25], h[26], h[27]]);
        Ok(Self::common(h, u64::from(length)))
    }

    #[inline]
    fn decode_extended(h: &[u8; Self::EXTENDED_LEN]) -> Result<Self> {
        if u32::from_be_bytes([h[0], h[1], h[2], h[3]]) != EXTENDED_REQUEST_MAGIC {
            return Err(wrong_magic());
        }
        Ok(Self::common(h, eight(h, 24)))
    }

    #[inline]
    fn common<const N: usize>(h: &[u8; N], length: u64) -> Self {
        Self {
            flags: CommandFlags::from_bits(u16::from_be_bytes([h[4], h[5]])),
            command: Command::from_wire(u16::from_be_bytes([h[6], h[7]])),
            cookie: Cookie(eight(h, 8)),
            offset: eight(h, 16),
            length,
        }
    }

    /// Bytes of payload that follow the header.
    #[inline]
    pub fn payload_len(&self, style: HeaderStyle) -> u64 {
        let has_payload = match style {
            HeaderStyle::Extended => self.flags.contains(CommandFlags::PAYLOAD_LEN),
            HeaderStyle::Simple | HeaderStyle::Structured => self.command == Command::Write,
        };
        if has_payload { self.length } else { 0 }
    }

    /// Appends the header to `out`. In the compact styles a length past 32 bits is cut: callers keep
    /// to the sizes that were negotiated.
    pub fn encode(&self, style: HeaderStyle, out: &mut Vec<u8>) {
        let extended = style == HeaderStyle::Extended;
        let magic = if extended {
            EXTENDED_REQUEST_MAGIC
        } else {
            REQUEST_MAGIC
        };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.bits().to_be_bytes());
        out.extend_from_slice(&self.command.to_wire().to_be_bytes());
        out.extend_from_slice(&self.cookie.0.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.length.to_be_bytes());
        } else {
            out.extend_from_slice(&(self.length as u32).to_be_bytes());
        }
    }
}

#[inline]
fn eight<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(field)
}

fn wrong_magic() -> Error {
    Error::protocol("a request does not begin with its magic number")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn compact_layout_is_the_specifications() {
        let mut bytes = vec![0x25, 0x60, 0x95, 0x13, 0, 1, 0, 6];
        bytes.extend_from_slice(&7u64.to_be_bytes());
        bytes.extend_from_slice(&4096u64.to_be_bytes());
        bytes.extend_from_slice(&512u32.to_be_bytes());
        let request = Request::decode(HeaderStyle::Simple, &bytes)
            .unwrap()
            .unwrap();
        assert_eq!(request.command, Command::WriteZeroes);
        assert!(request.flags.contains(CommandFlags::FUA));
        assert_eq!(
            (request.cookie.0, request.offset, request.length),
            (7, 4096, 512)
        );
    }

    #[test]
    fn a_wrong_magic_is_an_error_and_a_short_header_is_not() {
        assert!(Request::decode(HeaderStyle::Simple, &[0; 28]).is_err());
        assert!(Request::decode(HeaderStyle::Extended, &[0; 32]).is_err());
        assert_eq!(
            Request::decode(HeaderStyle::Extended, &[0; 31]).unwrap(),
            None
        );
    }

    #[test]
    fn compact_length_is_payload_for_write_only() {
        let mut request = Request {
            flags: CommandFlags::default(),
            command: Command::Write,
            cookie: Cookie(1),
            offset: 0,
            length: 512,
        };
        assert_eq!(request.payload_len(HeaderStyle::Structured), 512);
        assert_eq!(request.payload_len(HeaderStyle::Extended), 0);
        request.command = Command::BlockStatus;
        assert_eq!(request.payload_len(HeaderStyle::Structured), 0);
        request.flags = CommandFlags::PAYLOAD_LEN;
        assert_eq!(request.payload_len(HeaderStyle::Extended), 512);
    }

    proptest! {
        #[test]
        fn encode_then_decode_gives_the_request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) {
            let request = Request {
                flags: CommandFlags::from_bits(flags),
                command: Command::from_wire(command),
                cookie: Cookie(cookie),
                offset,
                length: u64::from(length),
            };
            for style in [HeaderStyle::Simple, HeaderStyle::Structured, HeaderStyle::Extended] {
                let mut bytes = Vec::new();
                request.encode(style, &mut bytes);
                prop_assert_eq!(Request::decode(style, &bytes).unwrap(), Some(request));
            }
        }
    }
}
