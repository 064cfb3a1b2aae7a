//! The client's view of replies.

use crate::error::{Error, Result};
use crate::export::ContextId;
use crate::numbers::*;
use crate::request::Cookie;
use crate::wire::Fields;

/// One reply, or one chunk of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The cookie of the request that this answers.
    pub cookie: Cookie,
    /// Whether it is the request's last.
    pub last: bool,
    /// What it says.
    pub body: ReplyBody,
}

/// What a reply says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// Success, or the end of a list of chunks.
    Done,
    /// `length` bytes for `offset` follow this reply's head in the stream. A simple reply does not
    /// name the offset: it is the request's.
    Data {
        /// Where the data belongs, if the reply says so.
        offset: Option<u64>,
        /// Bytes that follow.
        length: u32,
    },
    /// Zeroes.
    Hole {
        /// Start of the zeroes.
        offset: u64,
        /// Their length in bytes.
        length: u32,
    },
    /// Extents of one metadata context: lengths and statuses.
    Status {
        /// The context.
        context: ContextId,
        /// Pairs of a length in bytes and a status.
        extents: Vec<(u64, u64)>,
    },
    /// Failure.
    Error(IoError),
}

/// Splits the server's stream into replies.
#[derive(Debug, Clone, Copy)]
pub struct ReplyDecoder {
    style: HeaderStyle,
    max_payload: u32,
}

struct Chunk<'a> {
    kind: u16,
    payload_len: u32,
    payload: &'a [u8],
}

impl ReplyDecoder {
    /// A decoder for the agreed headers; chunks with more than `max_payload` bytes (and a little
    /// overhead) are refused.
    pub fn new(style: HeaderStyle, max_payload: u32) -> Self {
        Self { style, max_payload }
    }

    /// Reads the reply at the front of `bytes`; `None` while its head is not all there. Gives the
    /// number of bytes used; data that a reply announces is not counted among them.
    ///
    /// `data_len` tells, for a successful simple reply, how many bytes of data its request asked
    /// for (0 for all but READ), or `None` when there is no such request.
    pub fn decode(
        &self,
        bytes: &[u8],
        data_len: impl Fn(Cookie) -> Option<u32>,
    ) -> Result<Option<(Reply, usize)>> {
        let Some(magic) = bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        match (u32::from_be_bytes(*magic), self.style) {
            (SIMPLE_REPLY_MAGIC, HeaderStyle::Simple | HeaderStyle::Structured) => {
                simple(bytes, data_len)
            }
            (STRUCTURED_REPLY_MAGIC, HeaderStyle::Structured) => self.chunk(bytes, 20),
            (EXTENDED_REPLY_MAGIC, HeaderStyle::Extended) => self.chunk(bytes, 32),
            _ => Err(Error::protocol(
                "a reply does not begin with the magic number that was agreed on",
            )),
        }
    }

    fn chunk(&self, bytes: &[u8], head: usize) -> Result<Option<(Reply, usize)>> {
        if bytes.len() < head {
            return Ok(None);
        }
        let mut fields = Fields::new(&bytes[4..head]);
        let (flags, kind, cookie) = (fields.u16()?, fields.u16()?, Cookie(fields.u64()?));
        let length = if head == 32 {
            fields.u64()?;
            fields.u64()?
        } else {
            u64::from(fields.u32()?)
        };
        if length > u64::from(self.max_payload) + 64 {
            return Err(Error::protocol(
                "a reply is longer than the largest payload",
            ));
        }
        // OFFSET_DATA's bytes stay in the stream; of it only the offset is part of the head.
        let wanted = if kind == 1 { length.min(8) } else { length } as usize;
        let Some(payload) = bytes.get(head..head + wanted) else {
            return Ok(None);
        };
        let body = Chunk {
            kind,
            payload_len: length as u32,
            payload,
        }
        .body()?;
        Ok(Some((
            Reply {
                cookie,
                last: flags & 1 != 0,
                body,
            },
            head + wanted,
        )))
    }
}

fn simple(
    bytes: &[u8],
    data_len: impl Fn(Cookie) -> Option<u32>,
) -> Result<Option<(Reply, usize)>> {
    let Some(head) = bytes.get(4..16) else {
        return Ok(None);
    };
    let mut fields = Fields::new(head);
    let (error, cookie) = (fields.u32()?, Cookie(fields.u64()?));
    let expected = data_len(cookie).ok_or_else(|| Error::protocol("a reply to no request"))?;
    let body = match (error, expected) {
        (0, 0) => ReplyBody::Done,
        (0, length) => ReplyBody::Data {
            offset: None,
            length,
        },
        (error, _) => ReplyBody::Error(IoError::from_wire(error)),
    };
    Ok(Some((
        Reply {
            cookie,
            last: true,
            body,
        },
        16,
    )))
}

impl Chunk<'_> {
    fn body(&self) -> Result<ReplyBody> {
        let mut fields = Fields::new(self.payload);
        let body = match self.kind {
            0 => ReplyBody::Done,
            1 if self.payload_len > 8 => ReplyBody::Data {
                offset: Some(fields.u64()?),
                length: self.payload_len - 8,
            },
            2 => ReplyBody::Hole {
                offset: fields.u64()?,
                length: fields.u32()?,
            },
            5 => {
                return status(fields, |fields| {
                    Ok((u64::from(fields.u32()?), u64::from(fields.u32()?)))
                });
            }
            6 => return status_ext(fields),
            kind if kind & (1 << 15) != 0 => return error(fields),
            kind => return Err(Error::protocol(format!("unknown reply type {kind}"))),
        };
        fields.finish()?;
        Ok(body)
    }
}

fn status_ext(mut fields: Fields<'_>) -> Result<ReplyBody> {
    let context = ContextId(fields.u32()?);
    let count = fields.u32()?;
    if fields.remaining() as u64 != 16 * u64::from(count) {
        return Err(Error::protocol(
            "a block status with a wrong number of extents",
        ));
    }
    extents(context, fields, |fields| Ok((fields.u64()?, fields.u64()?)))
}

type Extent = (u64, u64);

fn status(
    mut fields: Fields<'_>,
    one: impl Fn(&mut Fields<'_>) -> Result<Extent>,
) -> Result<ReplyBody> {
    let context = ContextId(fields.u32()?);
    extents(context, fields, one)
}

fn extents(
    context: ContextId,
    mut fields: Fields<'_>,
    one: impl Fn(&mut Fields<'_>) -> Result<Extent>,
) -> Result<ReplyBody> {
    let mut extents = Vec::with_capacity(fields.remaining() / 8);
    while fields.remaining() > 0 {
        extents.push(one(&mut fields)?);
    }
    if extents.is_empty() || extents.iter().any(|(length, _)| *length == 0) {
        return Err(Error::protocol("a block status with an empty extent"));
    }
    Ok(ReplyBody::Status { context, extents })
}

fn error(mut fields: Fields<'_>) -> Result<ReplyBody> {
    let error = fields.u32()?;
    let length = fields.u16()?;
    fields.bytes(usize::from(length))?;
    Ok(ReplyBody::Error(IoError::from_wire(error)))
}
