//! The buffer of what was received.

use std::io;

use memmap2::MmapMut;

/// Room for what one `recv` may bring that begins with a message. Bytes.
const MESSAGES: usize = 512 << 10;
/// The longest piece of a payload that is collected. Bytes.
pub const LONGEST_PIECE: usize = 1 << 20;
/// A piece may begin wherever a message may end.
const CAPACITY: usize = MESSAGES + LONGEST_PIECE;
/// Payloads begin at multiples of this where they can, a line of the processor's cache: 256 KiB that begin elsewhere take a
/// fifth longer to copy into the page cache. Bytes.
const LINE: usize = 64;

/// Received bytes in the order of their arrival. Its memory is taken when first needed and can be given back.
pub struct Input {
    /// A mapping of its own, so that giving it back really gives it back.
    buffer: Option<MmapMut>,
    start: usize,
    end: usize,
    /// Where a message is put when there is nothing before it: its payload then begins with a line.
    first: usize,
}

impl Input {
    /// Begins with `bytes`, received along with the handshake. Messages have headers of `header` bytes.
    pub fn with(bytes: &[u8], header: usize) -> io::Result<Self> {
        let mut input = Self {
            buffer: None,
            start: 0,
            end: 0,
            first: header.next_multiple_of(LINE) - header,
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = input.room(None)?;
            let count = rest.len().min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            input.received(count);
            rest = &rest[count..];
        }
        Ok(input)
    }

    /// What is there.
    pub fn bytes(&self) -> &[u8] {
        self.buffer
            .as_deref()
            .map_or(&[], |buffer| &buffer[self.start..self.end])
    }

    /// Drops the first `count` bytes.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Whether a message of `length` bytes fits as a whole.
    pub fn fits(length: usize) -> bool {
        length <= MESSAGES / 2
    }

    /// Space for what is `missing` of a piece, and for nothing after it; or else free space for messages, never empty as
    /// long as those that do not fit are taken in pieces.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn room(&mut self, missing: Option<usize>) -> io::Result<&mut [u8]> {
        if self.start == self.end {
            self.start = missing.map_or(self.first, |_| 0);
            self.end = self.start;
        }
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(MmapMut::map_anon(CAPACITY)?),
        };
        if let Some(missing) = missing {
            return Ok(&mut buffer[self.end..self.end + missing]);
        }
        if self.start > self.first && self.end > MESSAGES / 2 {
            buffer.copy_within(self.start..self.end, self.first);
            self.end -= self.start - self.first;
            self.start = self.first;
        }
        Ok(&mut buffer[self.end..MESSAGES])
    }

    /// `count` bytes were put into [`Input::room`].
    pub fn received(&mut self, count: usize) {
        self.end += count;
    }

    /// Gives the memory back if nothing is in it.
    pub fn release(&mut self) {
        if self.start == self.end {
            self.buffer = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_across_compaction() {
        let mut input = Input::with(&[], 28).unwrap();
        let (mut sent, mut taken) = (0u32, 0u32);
        while taken < 400_000 {
            let room = input.room(None).unwrap();
            assert!(!room.is_empty());
            let count = (room.len() / 4).min(50_000);
            for slot in room.chunks_exact_mut(4).take(count) {
                slot.copy_from_slice(&sent.to_be_bytes());
                sent += 1;
            }
            input.received(count * 4);
            let take = input.bytes().len() / 4 * 3 / 4;
            for word in input.bytes().chunks_exact(4).take(take) {
                assert_eq!(word, taken.to_be_bytes());
                taken += 1;
            }
            input.consume(take * 4);
        }
    }

    /// Nothing is moved for a piece, wherever in the buffer its message ended, and nothing after it is received.
    #[test]
    fn the_longest_piece_fits_after_any_message() {
        let mut input = Input::with(&[], 28).unwrap();
        let room = input.room(None).unwrap().len();
        input.received(room);
        input.consume(room - 1);
        let missing = LONGEST_PIECE - 1;
        for part in [1, missing - 1] {
            let there = input.bytes().len();
            let room = input.room(Some(LONGEST_PIECE - there)).unwrap();
            assert_eq!(room.len(), LONGEST_PIECE - there);
            input.received(part);
        }
        assert_eq!(input.bytes().len(), LONGEST_PIECE);
    }

    /// Of a message with nothing before it, of what is longer than a piece, and after a message that was cut was moved.
    #[test]
    fn payloads_begin_with_a_line() {
        for header in [28, 32] {
            let mut input = Input::with(&[], header).unwrap();
            let is_aligned = |bytes: &[u8]| bytes.as_ptr().addr().is_multiple_of(LINE);
            input.room(None).unwrap();
            input.received(header + 500);
            assert!(is_aligned(&input.bytes()[header..]));
            input.consume(header + 500);
            assert!(is_aligned(input.room(Some(LONGEST_PIECE)).unwrap()));
            let room = input.room(None).unwrap().len();
            input.received(room);
            input.consume(room - header);
            input.room(None).unwrap();
            assert!(is_aligned(&input.bytes()[header..]));
        }
    }

    #[test]
    fn memory_is_given_back_only_when_empty() {
        let mut input = Input::with(b"abc", 28).unwrap();
        input.release();
        assert_eq!(input.bytes(), b"abc");
        input.consume(3);
        input.release();
        assert!(input.buffer.is_none());
    }
}
