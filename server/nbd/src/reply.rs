//! Heads of replies ("Simple reply message", "Structured reply chunk message", "Extended reply chunk
//! message"): everything but the data itself, built without allocating.

use crate::numbers::{
    EXTENDED_REPLY_MAGIC, HeaderStyle, IoError, SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC,
};
use crate::request::Request;

const FLAG_DONE: u16 = 1;
const TYPE_NONE: u16 = 0;
const TYPE_OFFSET_DATA: u16 = 1;
const TYPE_OFFSET_HOLE: u16 = 2;
const TYPE_BLOCK_STATUS: u16 = 5;
const TYPE_BLOCK_STATUS_EXT: u16 = 6;
const TYPE_ERROR: u16 = (1 << 15) + 1;

/// A reply's head; small enough to live on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; Self::CAPACITY],
    len: u8,
}

impl Head {
    /// Longest head in bytes: an extended chunk's header and a hole's payload.
    pub const CAPACITY: usize = 48;

    const EMPTY: Self = Self {
        bytes: [0; Self::CAPACITY],
        len: 0,
    };

    /// The bytes to send.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    #[inline]
    fn put(&mut self, field: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + field.len()].copy_from_slice(field);
        self.len += field.len() as u8;
    }
}

#[inline]
fn simple(request: &Request, error: u32) -> Head {
    let mut head = Head::EMPTY;
    head.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    head.put(&error.to_be_bytes());
    head.put(&request.cookie.0.to_be_bytes());
    head
}

#[inline]
fn chunk(style: HeaderStyle, request: &Request, flags: u16, kind: u16, payload: u32) -> Head {
    let mut head = Head::EMPTY;
    let extended = style == HeaderStyle::Extended;
    let magic = if extended {
        EXTENDED_REPLY_MAGIC
    } else {
        STRUCTURED_REPLY_MAGIC
    };
    head.put(&magic.to_be_bytes());
    head.put(&flags.to_be_bytes());
    head.put(&kind.to_be_bytes());
    head.put(&request.cookie.0.to_be_bytes());
    if extended {
        head.put(&request.offset.to_be_bytes());
        head.put(&u64::from(payload).to_be_bytes());
    } else {
        head.put(&payload.to_be_bytes());
    }
    head
}

/// Success without data: answers all but READ and BLOCK_STATUS.
#[inline]
pub fn done(style: HeaderStyle, request: &Request) -> Head {
    match style {
        HeaderStyle::Extended => chunk(style, request, FLAG_DONE, TYPE_NONE, 0),
        HeaderStyle::Simple | HeaderStyle::Structured => simple(request, 0),
    }
}

/// The last chunk of a successful reply whose chunks did not say that they were the last.
#[inline]
pub fn end(style: HeaderStyle, request: &Request) -> Head {
    chunk(style, request, FLAG_DONE, TYPE_NONE, 0)
}

/// Failure of any request; closes a reply that has begun, too.
pub fn error(style: HeaderStyle, request: &Request, error: IoError) -> Head {
    if style == HeaderStyle::Simple {
        return simple(request, error.to_wire());
    }
    let mut head = chunk(style, request, FLAG_DONE, TYPE_ERROR, 6);
    head.put(&error.to_wire().to_be_bytes());
    head.put(&0u16.to_be_bytes());
    head
}

/// Announces `length` bytes of data at `offset`, which follow. In the simple style it is the whole
/// reply's head. `last` says that nothing can fail any more and no chunk follows.
#[inline]
pub fn data(style: HeaderStyle, request: &Request, offset: u64, length: u32, last: bool) -> Head {
    if style == HeaderStyle::Simple {
        return simple(request, 0);
    }
    let flags = if last { FLAG_DONE } else { 0 };
    let mut head = chunk(
        style,
        request,
        flags,
        TYPE_OFFSET_DATA,
        length.saturating_add(8),
    );
    head.put(&offset.to_be_bytes());
    head
}

/// Says that `length` bytes at `offset` are zeroes; not for the simple style.
#[inline]
pub fn hole(style: HeaderStyle, request: &Request, offset: u64, length: u32, last: bool) -> Head {
    let flags = if last { FLAG_DONE } else { 0 };
    let mut head = chunk(style, request, flags, TYPE_OFFSET_HOLE, 12);
    head.put(&offset.to_be_bytes());
    head.put(&length.to_be_bytes());
    head
}

/// One context's part of the answer to BLOCK_STATUS, header and payload. `extents` are pairs of a
/// length and a status. In the structured style lengths are cut at 32 bits, which ends the list.
pub fn block_status(
    style: HeaderStyle,
    request: &Request,
    context: crate::ContextId,
    extents: &[(u64, u64)],
    last: bool,
) -> Vec<u8> {
    let flags = if last { FLAG_DONE } else { 0 };
    if style == HeaderStyle::Extended {
        let length = 8 + 16 * extents.len() as u32;
        let mut out = chunk(style, request, flags, TYPE_BLOCK_STATUS_EXT, length)
            .as_bytes()
            .to_vec();
        out.extend_from_slice(&context.0.to_be_bytes());
        out.extend_from_slice(&(extents.len() as u32).to_be_bytes());
        for (length, status) in extents {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&status.to_be_bytes());
        }
        return out;
    }
    let whole = extents
        .iter()
        .take_while(|(length, _)| *length <= LONGEST_COMPACT)
        .count();
    let sent = &extents[..extents.len().min(whole + 1)];
    let length = 4 + 8 * sent.len() as u32;
    let mut out = chunk(style, request, flags, TYPE_BLOCK_STATUS, length)
        .as_bytes()
        .to_vec();
    out.extend_from_slice(&context.0.to_be_bytes());
    for (length, status) in sent {
        out.extend_from_slice(&((*length).min(LONGEST_COMPACT) as u32).to_be_bytes());
        out.extend_from_slice(&(*status as u32).to_be_bytes());
    }
    out
}

/// Longest extent of a compact reply: the largest multiple of 64 KiB (the largest minimum block
/// size) that fits in 32 bits.
const LONGEST_COMPACT: u64 = 0xffff_0000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, CommandFlags, ContextId, Cookie, Reply, ReplyBody, ReplyDecoder};

    fn request(command: Command) -> Request {
        Request {
            flags: CommandFlags::default(),
            command,
            cookie: Cookie(0xabcd),
            offset: 4096,
            length: 512,
        }
    }

    fn decode(style: HeaderStyle, bytes: &[u8]) -> Reply {
        let decoder = ReplyDecoder::new(style, 1 << 20);
        let (reply, used) = decoder.decode(bytes, |_| Some(0)).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        reply
    }

    #[test]
    fn extended_replies_must_repeat_cookie_and_offset_of_the_request() {
        let head = done(HeaderStyle::Extended, &request(Command::Write));
        assert_eq!(head.as_bytes().len(), 32);
        assert_eq!(&head.as_bytes()[16..24], &4096u64.to_be_bytes());
        assert_eq!(
            decode(HeaderStyle::Extended, head.as_bytes()).cookie,
            Cookie(0xabcd)
        );
    }

    #[test]
    fn a_read_error_must_not_be_a_simple_reply_once_structured() {
        let head = error(
            HeaderStyle::Structured,
            &request(Command::Read),
            IoError::Invalid,
        );
        let reply = decode(HeaderStyle::Structured, head.as_bytes());
        assert_eq!(reply.body, ReplyBody::Error(IoError::Invalid));
        assert!(reply.last);
    }

    #[test]
    fn hole_chunk_has_exactly_twelve_bytes() {
        let head = hole(
            HeaderStyle::Structured,
            &request(Command::Read),
            4096,
            512,
            true,
        );
        assert_eq!(head.as_bytes().len(), 32);
        let reply = decode(HeaderStyle::Structured, head.as_bytes());
        assert_eq!(
            reply.body,
            ReplyBody::Hole {
                offset: 4096,
                length: 512
            }
        );
    }

    #[test]
    fn status_lengths_above_32_bits_are_cut_and_end_the_list() {
        let extents = [(1u64 << 40, 3), (4096, 0)];
        let bytes = block_status(
            HeaderStyle::Structured,
            &request(Command::BlockStatus),
            ContextId(1),
            &extents,
            true,
        );
        let ReplyBody::Status { extents, .. } = decode(HeaderStyle::Structured, &bytes).body else {
            panic!()
        };
        assert_eq!(extents, vec![(0xffff_0000, 3)]);
    }

    #[test]
    fn extended_status_carries_its_descriptor_count() {
        let extents = [(1u64 << 40, 3), (4096, 0)];
        let bytes = block_status(
            HeaderStyle::Extended,
            &request(Command::BlockStatus),
            ContextId(1),
            &extents,
            true,
        );
        let ReplyBody::Status {
            extents: got,
            context,
        } = decode(HeaderStyle::Extended, &bytes).body
        else {
            panic!()
        };
        assert_eq!(
            (got.as_slice(), context),
            (extents.as_slice(), ContextId(1))
        );
    }
}
