//! Records that were received, opened where they lie.

use std::{io, ops::Range};

use memmap2::MmapMut;

use super::{
    Alert, ContentType,
    cipher::{self, Cipher},
};

/// Room for what one `recv` may bring, behind the beginning of a record. Bytes.
const CAPACITY: usize = (128 << 10) + cipher::LONGEST;

/// What came from the socket, the record that is being read, and the key.
pub struct Opener {
    cipher: Cipher,
    /// A mapping of its own, so that giving it back really gives it back.
    buffer: Option<MmapMut>,
    /// Sealed bytes.
    sealed: Range<usize>,
    /// What is left of the content of the record before them.
    content: Range<usize>,
}

impl Opener {
    /// An empty one.
    pub fn new(cipher: Cipher) -> Self {
        Self {
            cipher,
            buffer: None,
            sealed: 0..0,
            content: 0..0,
        }
    }

    /// The next record is under this key.
    pub fn change(&mut self, cipher: Cipher) {
        self.cipher = cipher;
    }

    /// Takes in what was received elsewhere.
    pub fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !bytes.is_empty() {
            let room = self.room()?.get_mut(..bytes.len());
            room.ok_or(io::ErrorKind::OutOfMemory)?
                .copy_from_slice(bytes);
            self.received(bytes.len());
        }
        Ok(())
    }

    /// Free space. Nothing but the beginning of a record is there when this is called, and the rest of one always fits.
    pub fn room(&mut self) -> io::Result<&mut [u8]> {
        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(MmapMut::map_anon(CAPACITY)?),
        };
        buffer.copy_within(self.sealed.clone(), 0);
        self.sealed = 0..self.sealed.len();
        Ok(&mut buffer[self.sealed.end..])
    }

    /// `count` bytes were put into [`Opener::room`].
    pub fn received(&mut self, count: usize) {
        self.sealed.end += count;
    }

    /// Whether there is content or a record to open (or to complain of).
    pub fn has_pending(&self) -> bool {
        !self.content.is_empty() || !matches!(self.next_length(), Ok(None))
    }

    /// Length of the next record if all of it is there.
    fn next_length(&self) -> Result<Option<usize>, Alert> {
        let sealed = &self.bytes()[self.sealed.clone()];
        let length = Cipher::length(sealed)?;
        Ok(length.filter(|length| *length <= sealed.len()))
    }

    fn bytes(&self) -> &[u8] {
        self.buffer.as_deref().unwrap_or(&[])
    }

    /// Opens the next record; says what it holds. `None` if it is not all there. What was left of the one before is gone.
    pub fn open(&mut self) -> Result<Option<ContentType>, Alert> {
        let Some(length) = self.next_length()? else {
            return Ok(None);
        };
        let start = self.sealed.start;
        let buffer = self.buffer.as_deref_mut().unwrap_or(&mut []);
        let (kind, content) = self.cipher.open(&mut buffer[start..start + length])?;
        self.sealed.start += length;
        self.content = start + content.start..start + content.end;
        Ok(Some(kind))
    }

    /// Moves content to `buf`, as much as fits.
    pub fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = buf.len().min(self.content.len());
        let from = self.content.start;
        buf[..count].copy_from_slice(&self.bytes()[from..from + count]);
        self.content.start += count;
        count
    }

    /// All that is left of the content.
    pub fn take_all(&mut self) -> &[u8] {
        let content = std::mem::take(&mut self.content);
        &self.bytes()[content]
    }

    /// Whether nothing is left of the content.
    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Gives the memory back if nothing is in it.
    pub fn release(&mut self) {
        if self.content.is_empty() && self.sealed.is_empty() {
            self.buffer = None;
            (self.sealed, self.content) = (0..0, 0..0);
        }
    }
}
