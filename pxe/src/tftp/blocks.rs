//! The blocks of a file as ready packets, side by side in one buffer, so that a window leaves in one system call. What
//! comes after them is read while the client takes them.

use std::io::{self, IoSliceMut};

use super::packet::data_header;
use crate::files::Source;

/// Bytes that are read at a time, if a window is not more.
const READ_AHEAD: usize = 64 * 1024;
/// The kernel takes so many slices in one call.
const MOST_SLICES: u64 = 1024;
const HEADER: usize = 4;

/// A stretch of consecutive DATA packets.
#[derive(Debug)]
pub struct Blocks {
    source: Source,
    block_size: usize,
    capacity: u64,
    buffer: Vec<u8>,
    first: u64,
    count: u64,
}

impl Blocks {
    /// Nothing read yet; room for a few windows, so that none lies across the end.
    pub fn new(source: Source, block_size: u16, window: u16) -> Self {
        let stride = usize::from(block_size) + HEADER;
        let window = u64::from(window).clamp(1, MOST_SLICES);
        let most = (READ_AHEAD / stride).clamp(1, MOST_SLICES as usize) as u64;
        let capacity = (most / window).max(1) * window;
        Self {
            source,
            block_size: block_size.into(),
            capacity,
            buffer: Vec::new(),
            first: 1,
            count: 0,
        }
    }

    /// Bytes of a full packet.
    pub fn stride(&self) -> usize {
        self.block_size + HEADER
    }

    /// The packets of `count` blocks from `first` on, without waiting for a disk. None: call [`Blocks::fill`] first.
    pub fn get(&mut self, first: u64, count: u64) -> io::Result<Option<&[u8]>> {
        if !self.holds(first, count) && !self.read_cached(first)? {
            return Ok(None);
        }
        let from = (first - self.first) as usize * self.stride();
        let to = (from + count as usize * self.stride()).min(self.buffer.len());
        Ok(Some(&self.buffer[from..to]))
    }

    /// Reads what begins with `first`, unless it is held already, the disk would have to be waited for, or the file ends
    /// before it. An error is for [`Blocks::get`] to meet again, if anybody still wants the block then.
    pub fn ahead(&mut self, first: u64) {
        if !self.holds(first, 1) && first <= self.total() {
            let _ = self.read_cached(first);
        }
    }

    fn holds(&self, first: u64, count: u64) -> bool {
        first >= self.first && first + count <= self.first + self.count
    }

    /// How many blocks the file has; the last is shorter than the others, maybe empty.
    fn total(&self) -> u64 {
        self.source.len() / self.block_size as u64 + 1
    }

    /// Reads from `first` on, waiting for the disk.
    pub fn fill(mut self, first: u64) -> io::Result<Self> {
        self.prepare(first);
        let mut offset = (self.first - 1) * self.block_size as u64;
        for packet in self.buffer.chunks_mut(self.block_size + HEADER) {
            self.source.read_exact_at(&mut packet[HEADER..], offset)?;
            offset += self.block_size as u64;
        }
        Ok(self)
    }

    /// Lays the buffer out for the blocks from `first` on.
    fn prepare(&mut self, first: u64) {
        let (size, block_size) = (self.source.len(), self.block_size as u64);
        let blocks = self.total();
        self.first = first;
        self.count = self.capacity.min((blocks + 1).saturating_sub(first));
        let ends = first + self.count > blocks;
        let short = if ends {
            self.block_size - (size % block_size) as usize
        } else {
            0
        };
        self.buffer.resize(
            self.count as usize * self.stride() - short.min(self.count as usize * self.stride()),
            0,
        );
        for (block, packet) in (first..).zip(self.buffer.chunks_mut(self.block_size + HEADER)) {
            packet[..HEADER].copy_from_slice(&data_header(block));
        }
    }

    /// Reads from `first` on. False: the disk would have to be waited for, and nothing is held.
    fn read_cached(&mut self, first: u64) -> io::Result<bool> {
        self.prepare(first);
        let offset = (first - 1) * self.block_size as u64;
        let packets = self.buffer.chunks_mut(self.block_size + HEADER);
        let mut slices: Vec<_> = packets.map(|p| IoSliceMut::new(&mut p[HEADER..])).collect();
        let read = self.source.try_read_slices_at(&mut slices, offset);
        if !matches!(read, Ok(true)) {
            self.count = 0;
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn file(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 % 251) as u8).collect()
    }

    fn collect(len: usize, block_size: u16, window: u16) -> Vec<u8> {
        let content = file(len);
        let mut blocks = Blocks::new(Source::Bytes(Bytes::from(content)), block_size, window);
        let total = (len / usize::from(block_size) + 1) as u64;
        let (mut out, mut first) = (Vec::new(), 1);
        while first <= total {
            let count = u64::from(window).min(total + 1 - first);
            let bytes = blocks.get(first, count).unwrap().unwrap().to_vec();
            blocks.ahead(first + count);
            for (block, packet) in (first..).zip(bytes.chunks(usize::from(block_size) + 4)) {
                assert_eq!(packet[..4], data_header(block));
                out.extend(&packet[4..]);
            }
            first += count;
        }
        out
    }

    #[test]
    fn blocks_hold_the_file_whatever_the_sizes() {
        for len in [0, 1, 511, 512, 513, 8192, 100_000] {
            for (block_size, window) in [(512, 1), (512, 16), (1432, 64), (8, 3), (65_464, 2)] {
                assert_eq!(
                    collect(len, block_size, window),
                    file(len),
                    "{len} {block_size} {window}"
                );
            }
        }
    }

    #[test]
    fn going_back_reads_again() {
        let mut blocks = Blocks::new(Source::Bytes(Bytes::from(file(1 << 20))), 512, 4);
        let early = blocks.get(3, 4).unwrap().unwrap().to_vec();
        blocks.get(1000, 4).unwrap().unwrap();
        assert_eq!(blocks.get(3, 4).unwrap().unwrap(), early);
        let blocks = blocks.fill(1000).unwrap();
        assert_eq!(blocks.first, 1000);
    }

    #[test]
    fn reading_ahead_keeps_what_it_can_and_leaves_errors_to_whoever_asks() {
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &self::file(20_000)).unwrap();
        // As if it had been longer when it was opened.
        let source = Source::File(file.into(), 200_000);
        let mut blocks = Blocks::new(source, 1000, 10);
        if blocks.get(1, 10).unwrap().is_none() {
            return; // A filesystem that cannot tell what it has in memory.
        }
        blocks.ahead(11);
        assert!(!blocks.holds(11, 1));
        assert!(blocks.get(1, 10).unwrap().is_some());
        assert!(blocks.fill(11).is_err());
    }
}
