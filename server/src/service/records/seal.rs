//! Records that are filled, sealed and sent together.

use std::io::{self, IoSlice, IoSliceMut};

use memmap2::MmapMut;

use super::{ContentType, MOST_CONTENT, cipher::Cipher};

/// Where the content of a record begins in its stretch of the memory: behind room for what comes before it, and so far from
/// a page's beginning that a copy from one is not slow (processors whose `rep movsb` is slow if the target begins up to 16
/// bytes further into its page than the source: 2.4 GB/s instead of 11, seen with Zen 4).
const CONTENT_AT: usize = 64;
/// From one record to the next. Bytes.
const STRIDE: usize = CONTENT_AT + MOST_CONTENT + 64;

/// Content on its way into records.
#[derive(Default)]
pub struct Batch {
    /// A mapping of its own, so that giving it back really gives it back.
    memory: Option<MmapMut>,
    filled: usize,
}

impl Batch {
    /// Most records in it. They stay in the processor's cache while they are filled, sealed and sent; and the reply to a
    /// read of 128 KiB is one batch, where three took a tenth longer.
    pub const RECORDS: u64 = 9;
    const CAPACITY: usize = Self::RECORDS as usize * MOST_CONTENT;

    /// Whether it has to be sent before anything can be added.
    pub fn is_full(&self) -> bool {
        self.filled == Self::CAPACITY
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Where the next bytes go, `most` of them or as many as there is room for.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn space(&mut self, most: usize) -> io::Result<Vec<IoSliceMut<'_>>> {
        let memory = match &mut self.memory {
            Some(memory) => memory,
            none => none.insert(MmapMut::map_anon(Self::RECORDS as usize * STRIDE)?),
        };
        let (first, mut from) = (self.filled / MOST_CONTENT, self.filled % MOST_CONTENT);
        let mut left = most;
        let mut space = Vec::with_capacity(Self::RECORDS as usize);
        for record in memory.chunks_exact_mut(STRIDE).skip(first) {
            let length = left.min(MOST_CONTENT - from);
            if length == 0 {
                break;
            }
            let start = CONTENT_AT + from;
            space.push(IoSliceMut::new(&mut record[start..start + length]));
            (left, from) = (left - length, 0);
        }
        Ok(space)
    }

    /// So many bytes were put into [`Batch::space`].
    pub fn filled(&mut self, count: usize) {
        self.filled += count;
    }

    /// Adds as many of `bytes` as there is room for; gives their number.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut count = 0;
        for mut space in self.space(bytes.len())? {
            let length = space.len();
            space.copy_from_slice(&bytes[count..count + length]);
            count += length;
        }
        self.filled += count;
        Ok(count)
    }

    /// Makes records of data of all of it, and adds them to `sealed`.
    pub(super) fn seal<'b>(
        &'b mut self,
        cipher: &mut Cipher,
        sealed: &mut Vec<IoSlice<'b>>,
    ) -> io::Result<()> {
        let start = CONTENT_AT - cipher.before();
        let memory = self.memory.as_deref_mut().unwrap_or(&mut []);
        let mut left = self.filled;
        for record in memory.chunks_exact_mut(STRIDE) {
            let content = left.min(MOST_CONTENT);
            if content == 0 {
                break;
            }
            let record = &mut record[start..];
            let length = cipher.seal(ContentType::DATA, record, content)?;
            sealed.push(IoSlice::new(&record[..length]));
            left -= content;
        }
        Ok(())
    }

    /// All was sent.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Gives the memory back if nothing is in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() {
            self.memory = None;
        }
    }
}
