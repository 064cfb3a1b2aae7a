//! The blocks of a file as ready packets, side by side in one buffer, so that a window leaves in one system call.

use std::io::{self, IoSliceMut};

use super::packet::data_header;
use crate::files::Source;

/// Bytes that are read ahead at least.
const READ_AHEAD: usize = 32 * 1024;
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
    /// Nothing read yet; room for `window` blocks and some more.
    pub fn new(source: Source, block_size: u16, window: u16) -> Self {
        let stride = usize::from(block_size) + HEADER;
        let capacity = u64::from(window)
            .max((READ_AHEAD / stride) as u64)
            .clamp(1, MOST_SLICES);
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
        let held = |b: &Self| first >= b.first && first + count <= b.first + b.count;
        if !held(self) {
            self.prepare(first);
            if !self.read_cached()? {
                self.count = 0;
                return Ok(None);
            }
        }
        let from = (first - self.first) as usize * self.stride();
        let to = (from + count as usize * self.stride()).min(self.buffer.len());
        Ok(Some(&self.buffer[from..to]))
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
        let blocks = size / block_size + 1;
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

    fn read_cached(&mut self) -> io::Result<bool> {
        let offset = (self.first - 1) * self.block_size as u64;
        let packets = self.buffer.chunks_mut(self.block_size + HEADER);
        let mut slices: Vec<_> = packets.map(|p| IoSliceMut::new(&mut p[HEADER..])).collect();
        self.source.try_read_slices_at(&mut slices, offset)
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
}
