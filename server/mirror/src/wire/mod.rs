//! Messages as bytes. PROTOCOL.md, "On the wire", has the layout.
//!
//! Decoding never panics, copies no content, and allocates no more than the bytes that are there can hold.

mod items;
mod link;
mod records;

use std::ops::Range;

use bytes::Bytes;

use crate::{
    BlockRange, Blocks, Error, ErrorKind, Generation, HISTORY, Incarnation, NodeId, Result,
    VolumeId,
};

/// Longest frame after its length, in bytes: the content of the largest NBD request and some room.
pub const MAX_FRAME: usize = (32 << 20) + 4096;

/// Bytes of the length before each frame.
pub const FRAME_HEAD: usize = 4;

/// Reads a frame's length.
pub fn frame_length(head: [u8; FRAME_HEAD]) -> Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_FRAME {
        return Err(Error::new(
            ErrorKind::TooLong,
            "a frame is longer than the protocol allows",
        ));
    }
    Ok(length)
}

/// Writes a frame: its length, and what `body` appends. Fails, with `out` as before, if it is too long.
fn framed(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    framed_before(0, out, body)
}

/// As [`framed`], for a frame that ends with `more` bytes which are not in `out`.
fn framed_before(more: usize, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    body(out);
    let length = out.len() - start - FRAME_HEAD + more;
    if length > MAX_FRAME {
        out.truncate(start);
        return Err(Error::new(
            ErrorKind::TooLong,
            "a message is longer than a frame may be",
        ));
    }
    out[start..start + FRAME_HEAD].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Appends.
trait Put {
    fn put_u64(&mut self, value: u64);
    fn put_flag(&mut self, value: bool);
    fn put_node(&mut self, node: NodeId);
    fn put_range(&mut self, volume: VolumeId, range: BlockRange);
    fn put_blocks(&mut self, blocks: &Blocks);
    fn put_history(&mut self, history: &[Generation]);
    fn put_option(&mut self, value: Option<u64>);
}

impl Put for Vec<u8> {
    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_flag(&mut self, value: bool) {
        self.push(u8::from(value));
    }

    fn put_node(&mut self, node: NodeId) {
        self.push(node as u8);
    }

    fn put_range(&mut self, volume: VolumeId, range: BlockRange) {
        self.put_u64(volume.0);
        self.put_u64(range.start);
        self.put_u64(range.end);
    }

    fn put_blocks(&mut self, blocks: &Blocks) {
        self.put_u64(blocks.ranges().count() as u64);
        for (volume, range) in blocks.ranges() {
            self.put_range(volume, range);
        }
    }

    fn put_history(&mut self, history: &[Generation]) {
        self.put_u64(history.len() as u64);
        for generation in history {
            self.put_u64(generation.of.0);
            self.put_u64(generation.number);
        }
    }

    fn put_option(&mut self, value: Option<u64>) {
        self.put_flag(value.is_some());
        self.put_u64(value.unwrap_or(0));
    }
}

/// Takes from the front. Numbers are read where they lie: a handle for each would cost more than the number.
struct Take<'a> {
    all: &'a Bytes,
    at: usize,
    end: usize,
}

fn short() -> Error {
    Error::new(ErrorKind::Length, "a message ends too early")
}

fn unknown(context: &'static str) -> Error {
    Error::new(ErrorKind::Unknown, context)
}

impl<'a> Take<'a> {
    fn new(bytes: &'a Bytes) -> Self {
        Self::part(bytes, 0..bytes.len())
    }

    /// Of that part of `all`.
    fn part(all: &'a Bytes, part: Range<usize>) -> Self {
        Self {
            all,
            at: part.start,
            end: part.end,
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let array = *self.all[self.at..self.end]
            .first_chunk()
            .ok_or_else(short)?;
        self.at += N;
        Ok(array)
    }

    fn rest(&mut self) -> Bytes {
        let rest = self.all.slice(self.at..self.end);
        self.at = self.end;
        rest
    }

    fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(unknown("a flag is neither 0 nor 1")),
        }
    }

    fn node(&mut self) -> Result<NodeId> {
        match self.u8()? {
            0 => Ok(NodeId::A),
            1 => Ok(NodeId::B),
            _ => Err(unknown("a server is neither A nor B")),
        }
    }

    fn range(&mut self) -> Result<(VolumeId, BlockRange)> {
        let volume = VolumeId(self.u64()?);
        let (start, end) = (self.u64()?, self.u64()?);
        if start >= end {
            return Err(unknown("a range of blocks ends before it begins"));
        }
        Ok((volume, BlockRange { start, end }))
    }

    fn blocks(&mut self) -> Result<Blocks> {
        let mut blocks = Blocks::default();
        for _ in 0..self.u64()? {
            let (volume, range) = self.range()?;
            blocks.insert(volume, range);
        }
        Ok(blocks)
    }

    fn history(&mut self) -> Result<Vec<Generation>> {
        let count = self.u64()?;
        if count > HISTORY as u64 {
            return Err(Error::new(
                ErrorKind::TooLong,
                "a history is longer than any server keeps",
            ));
        }
        (0..count).map(|_| self.generation()).collect()
    }

    fn generation(&mut self) -> Result<Generation> {
        let of = Incarnation(self.u64()?);
        let number = self.u64()?;
        Ok(Generation { of, number })
    }

    fn option(&mut self) -> Result<Option<u64>> {
        let given = self.flag()?;
        let value = self.u64()?;
        match (given, value) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, _) => Err(unknown("a value is given and said not to be")),
        }
    }

    /// Everything has been read.
    fn end<T>(self, value: T) -> Result<T> {
        if self.at < self.end {
            return Err(Error::new(
                ErrorKind::Length,
                "a message goes on after its end",
            ));
        }
        Ok(value)
    }
}
