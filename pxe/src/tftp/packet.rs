//! TFTP's packets (RFC 1350 §5) and options (RFC 2347, 2348, 2349, 7440).

/// Data bytes of a block when nothing else was agreed.
pub const DEFAULT_BLOCK: u16 = 512;

/// What a client may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// Wants to read a file.
    Read(ReadRequest<'a>),
    /// Wants to write one; refused.
    Write,
    /// Has everything up to this block.
    Ack(u16),
    /// Gives up, with these words.
    Error(u16, &'a [u8]),
}

/// A read request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRequest<'a> {
    /// The path as sent.
    pub path: &'a [u8],
    /// Whether line ends are to be converted (mode `netascii`).
    pub netascii: bool,
    /// `blksize`: data bytes in a block.
    pub block_size: Option<u16>,
    /// `windowsize`: blocks before an ACK.
    pub window: Option<u16>,
    /// `timeout`: seconds before a block is sent again.
    pub timeout: Option<u8>,
    /// Whether `tsize` was asked: the length of the file.
    pub size: bool,
}

/// Why bytes are no packet that a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Cut short, or without the NULs that end strings.
    #[error("truncated packet")]
    Truncated,
    /// Not an operation for servers.
    #[error("operation {0}")]
    Operation(u16),
    /// Neither octet nor netascii.
    #[error("transfer mode is neither octet nor netascii")]
    Mode,
}

/// Error codes (RFC 1350, appendix).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ErrorCode {
    Undefined = 0,
    NotFound = 1,
    Access = 2,
    Illegal = 4,
}

/// Reads a packet; never panics.
pub fn decode(bytes: &[u8]) -> Result<FromClient<'_>, PacketError> {
    let (operation, rest) = bytes
        .split_first_chunk::<2>()
        .ok_or(PacketError::Truncated)?;
    let number = || {
        rest.first_chunk::<2>()
            .map(|b| u16::from_be_bytes(*b))
            .ok_or(PacketError::Truncated)
    };
    match u16::from_be_bytes(*operation) {
        1 => read_request(rest).map(FromClient::Read),
        2 => Ok(FromClient::Write),
        4 => number().map(FromClient::Ack),
        5 => {
            let words = &rest[2.min(rest.len())..];
            Ok(FromClient::Error(
                number()?,
                words.split(|b| *b == 0).next().unwrap_or_default(),
            ))
        }
        other => Err(PacketError::Operation(other)),
    }
}

fn read_request(rest: &[u8]) -> Result<ReadRequest<'_>, PacketError> {
    let mut fields = strings(rest);
    let path = fields.next().ok_or(PacketError::Truncated)?;
    let mode = fields.next().ok_or(PacketError::Truncated)?;
    let netascii = mode.eq_ignore_ascii_case(b"netascii");
    if !netascii && !mode.eq_ignore_ascii_case(b"octet") {
        return Err(PacketError::Mode);
    }
    let mut request = ReadRequest {
        path,
        netascii,
        block_size: None,
        window: None,
        timeout: None,
        size: false,
    };
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        request.option(name, value);
    }
    Ok(request)
}

impl ReadRequest<'_> {
    /// Values out of bounds are passed over, as if they had not been asked for (RFC 2347 §"Negotiation").
    fn option(&mut self, name: &[u8], value: &[u8]) {
        let value = std::str::from_utf8(value)
            .ok()
            .and_then(|v| v.parse::<u64>().ok());
        let within = |low: u64, high: u64| value.filter(|v| (low..=high).contains(v));
        match name.to_ascii_lowercase().as_slice() {
            b"blksize" => self.block_size = within(8, 65464).map(|v| v as u16),
            b"windowsize" => self.window = within(1, 65535).map(|v| v as u16),
            b"timeout" => self.timeout = within(1, 255).map(|v| v as u8),
            b"tsize" => self.size = value.is_some(),
            _ => {}
        }
    }
}

/// Strings that each end in NUL; what comes after the last NUL is none.
fn strings(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = rest.iter().position(|b| *b == 0)?;
        let string = &rest[..end];
        rest = &rest[end + 1..];
        Some(string)
    })
}

/// An ERROR packet.
pub fn error(code: ErrorCode, words: &str) -> Vec<u8> {
    let mut packet = vec![0, 5, 0, code as u8];
    packet.extend(words.as_bytes());
    packet.push(0);
    packet
}

/// An OACK packet with these options.
pub fn option_ack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut packet = vec![0, 6];
    for (name, value) in options {
        packet.extend(name.as_bytes());
        packet.push(0);
        packet.extend(value.to_string().as_bytes());
        packet.push(0);
    }
    packet
}

/// The four bytes before a block's data.
pub fn data_header(block: u64) -> [u8; 4] {
    // The number on the wire has 16 bits and rolls over to 0.
    let [high, low] = (block as u16).to_be_bytes();
    [0, 3, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_with_options_in_any_case() {
        let bytes = b"\0\x01/boot/x\0OCTET\0BlkSize\x001432\0tsize\x000\0windowsize\x0016\0timeout\x003\0odd\x001\0";
        let Ok(FromClient::Read(request)) = decode(bytes) else {
            panic!("no request")
        };
        assert_eq!(
            (request.path, request.netascii, request.size),
            (&b"/boot/x"[..], false, true)
        );
        assert_eq!(
            (request.block_size, request.window, request.timeout),
            (Some(1432), Some(16), Some(3))
        );
    }

    #[test]
    fn bad_options_count_as_not_asked() {
        let bytes =
            b"\0\x01x\0netascii\0blksize\x007\0windowsize\x000\0timeout\x00256\0tsize\0x\0cut";
        let Ok(FromClient::Read(request)) = decode(bytes) else {
            panic!("no request")
        };
        assert!(request.netascii && !request.size);
        assert_eq!(
            (request.block_size, request.window, request.timeout),
            (None, None, None)
        );
    }

    #[test]
    fn the_rest() {
        assert_eq!(decode(b"\0\x04\x01\x02"), Ok(FromClient::Ack(258)));
        assert_eq!(
            decode(b"\0\x05\0\x08bye\0junk"),
            Ok(FromClient::Error(8, b"bye"))
        );
        assert_eq!(decode(b"\0\x05\0\x08"), Ok(FromClient::Error(8, b"")));
        assert_eq!(decode(b"\0\x02x\0octet\0"), Ok(FromClient::Write));
        assert_eq!(decode(b"\0\x04\x01"), Err(PacketError::Truncated));
        assert_eq!(decode(b"\0\x05"), Err(PacketError::Truncated));
        assert_eq!(decode(b"\0\x01x\0oct"), Err(PacketError::Truncated));
        assert_eq!(decode(b"\0\x01x\0mail\0"), Err(PacketError::Mode));
        assert_eq!(decode(b"\0\x03"), Err(PacketError::Operation(3)));
        assert_eq!(option_ack(&[("tsize", 9)]), b"\0\x06tsize\x009\0");
        assert_eq!(data_header(65_537), [0, 3, 0, 1]);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes);
            for operation in 1..=5 {
                let _ = decode(&[&[0, operation], &bytes[..]].concat());
            }
        }
    }
}
