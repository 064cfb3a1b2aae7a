//! Replies on their way to the socket.

use std::{
    io::{self, IoSlice},
    ops::Range,
    os::fd::BorrowedFd,
};

use memmap2::MmapMut;
use nbd::reply::Head;

use super::device;

/// Longest stretch of data that is copied into an empty output. Bytes.
pub const LARGEST_COPY: u64 = 1 << 20;
/// Room for heads and copied data between two sends. Bytes.
const CAPACITY: usize = LARGEST_COPY as usize + (64 << 10);
/// Most pieces in one `sendmsg` (the kernel takes 1024).
const MOST_PIECES: usize = 512;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

enum Piece<'d> {
    Copied(Range<usize>),
    File(FilePart<'d>),
    Mapped(device::Mapped<'d>),
    Zeros(usize),
    Owned(Vec<u8>),
}

/// A stretch of a file that goes from the page cache to the socket, or into TLS records.
#[derive(Clone)]
pub struct FilePart<'d> {
    /// The file.
    pub file: BorrowedFd<'d>,
    /// Bytes of it.
    pub range: Range<u64>,
}

/// What is sent in one go.
pub enum Batch<'o, 'd> {
    /// With `sendmsg`.
    Memory(Vec<IoSlice<'o>>),
    /// With `splice` or `sendfile`.
    File(&'o FilePart<'d>),
}

/// Gathers replies; data in files is referred to, not copied.
#[derive(Default)]
pub struct Output<'d> {
    /// A mapping of its own, so that giving it back really gives it back.
    arena: Option<MmapMut>,
    used: usize,
    pieces: Vec<Piece<'d>>,
}

/// A point to go back to.
#[derive(Clone, Copy)]
pub struct Mark {
    used: usize,
    pieces: usize,
    last: usize,
}

impl<'d> Output<'d> {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether it should be sent before `more` bytes are copied into it.
    pub fn is_full(&self, more: usize) -> bool {
        self.used + more + 64 * Head::CAPACITY > CAPACITY || self.pieces.len() >= MOST_PIECES - 64
    }

    /// Adds a reply's head.
    pub fn head(&mut self, head: &Head) -> io::Result<()> {
        let bytes = head.as_bytes();
        self.space(bytes.len())?.copy_from_slice(bytes);
        Ok(())
    }

    /// Adds `length` bytes that the caller fills in; [`Output::is_full`] has said that there is room.
    pub fn space(&mut self, length: usize) -> io::Result<&mut [u8]> {
        let arena = match &mut self.arena {
            Some(arena) => arena,
            none => none.insert(MmapMut::map_anon(CAPACITY)?),
        };
        let range = self.used..self.used + length;
        match self.pieces.last_mut() {
            Some(Piece::Copied(last)) => last.end = range.end,
            _ => self.pieces.push(Piece::Copied(range.clone())),
        }
        self.used = range.end;
        Ok(&mut arena[range])
    }

    /// Adds bytes of a file.
    pub fn file(&mut self, part: FilePart<'d>) {
        self.pieces.push(Piece::File(part));
    }

    /// Adds bytes that nobody but `sendmsg` will look at.
    pub fn mapped(&mut self, bytes: device::Mapped<'d>) {
        self.pieces.push(Piece::Mapped(bytes));
    }

    /// Adds zeros.
    pub fn zeros(&mut self, length: u64) {
        let mut left = length as usize;
        while left > 0 {
            let now = left.min(ZEROS.len());
            self.pieces.push(Piece::Zeros(now));
            left -= now;
        }
    }

    /// Adds a reply made elsewhere.
    pub fn owned(&mut self, bytes: Vec<u8>) {
        self.pieces.push(Piece::Owned(bytes));
    }

    /// Where it stands.
    pub fn mark(&self) -> Mark {
        let last = match self.pieces.last() {
            Some(Piece::Copied(range)) => range.end,
            _ => 0,
        };
        Mark {
            used: self.used,
            pieces: self.pieces.len(),
            last,
        }
    }

    /// Forgets what was added after `mark`.
    pub fn back_to(&mut self, mark: Mark) {
        self.used = mark.used;
        self.pieces.truncate(mark.pieces);
        if let Some(Piece::Copied(range)) = self.pieces.last_mut() {
            range.end = mark.last;
        }
    }

    /// What to send, in order.
    pub fn batches(&self) -> impl Iterator<Item = Batch<'_, 'd>> {
        let in_memory = |piece: &Piece<'_>| !matches!(piece, Piece::File(_));
        let batches = self
            .pieces
            .chunk_by(move |one, next| in_memory(one) && in_memory(next));
        batches.map(|pieces| match pieces {
            [Piece::File(part)] => Batch::File(part),
            memory => Batch::Memory(memory.iter().map(|piece| self.slice(piece)).collect()),
        })
    }

    fn slice<'o>(&'o self, piece: &'o Piece<'d>) -> IoSlice<'o> {
        IoSlice::new(match piece {
            Piece::Copied(range) => self.copied(range),
            Piece::Zeros(length) => &ZEROS[..*length],
            Piece::Owned(bytes) => bytes,
            Piece::Mapped(bytes) => return bytes.bytes(),
            // Is a batch of its own.
            Piece::File(_) => &[],
        })
    }

    fn copied(&self, range: &Range<usize>) -> &[u8] {
        self.arena
            .as_deref()
            .map_or(&[], |arena| &arena[range.clone()])
    }

    /// Everything was sent.
    pub fn clear(&mut self) {
        self.used = 0;
        self.pieces.clear();
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn flat(output: &Output<'_>) -> Vec<u8> {
        let bytes = |batch| match batch {
            Batch::Memory(slices) => slices.iter().flat_map(|slice| slice.to_vec()).collect(),
            Batch::File(part) => vec![b'f'; (part.range.end - part.range.start) as usize],
        };
        output.batches().flat_map(bytes).collect()
    }

    fn part(file: &std::fs::File, length: u64) -> FilePart<'_> {
        FilePart {
            file: file.as_fd(),
            range: 0..length,
        }
    }

    #[test]
    fn what_was_rolled_back_is_not_sent() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::default();
        output.space(2).unwrap().copy_from_slice(b"ab");
        let mark = output.mark();
        output.space(2).unwrap().copy_from_slice(b"xx");
        output.file(part(&file, 3));
        output.back_to(mark);
        output.space(1).unwrap().copy_from_slice(b"c");
        output.zeros(2);
        assert_eq!(flat(&output), b"abc\0\0");
    }

    #[test]
    fn adjacent_copies_become_one_piece() {
        let mut output = Output::default();
        for _ in 0..32 {
            output.space(16).unwrap();
        }
        let batches: Vec<_> = output.batches().collect();
        assert!(matches!(&batches[..], [Batch::Memory(slices)] if slices.len() == 1));
    }

    #[test]
    fn files_keep_their_place_among_the_rest() {
        let file = tempfile::tempfile().unwrap();
        let mut output = Output::default();
        output.space(1).unwrap().copy_from_slice(b"a");
        output.file(part(&file, 2));
        output.file(part(&file, 1));
        output.zeros(1);
        output.owned(b"b".to_vec());
        assert_eq!(flat(&output), b"afff\0b");
        assert_eq!(output.batches().count(), 4);
    }
}
