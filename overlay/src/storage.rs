//! What the store asks of its host. Everything durable goes through here, so that the crash tests can stand in.
//!
//! The rules that a double must model: without a sync, a write may be kept, lost, or torn between 512-byte sectors,
//! in any order; names change only durably with `sync_dir`; a write that a failed sync should have made durable is read
//! back from memory until `forget_cache`, and no later sync makes it durable.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use uuid::Uuid;

/// Outcome of an operation that must not wait for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Attempt {
    /// Done.
    Done,
    /// It would have to wait; nothing was done that matters. Repeat with the blocking call.
    WouldBlock,
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// To look only.
    Read,
    /// An existing one, to change.
    Write,
    /// A new one; `AlreadyExists` if there is one.
    CreateNew,
}

/// Names, and what else the store must know of its host.
pub trait Storage: Send + Sync {
    /// Identity of this run of the host's kernel: another one means that memory was lost in between.
    fn boot_id(&self) -> io::Result<Uuid>;
    /// A fresh random UUID.
    fn fresh_uuid(&self) -> Uuid;
    /// Bytes that may still be written below `dir`.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoredFile>>;
    /// Makes a folder; `AlreadyExists` if there is one.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder, in no order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Gives a file or folder another name, atomically; replaces a file.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a folder and what is in it.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in `dir` durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Takes the lock file at `path` for this process, until the value is dropped; `WouldBlock` if another has it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
}

/// One open file. Offsets and lengths in bytes. Calls may come from many threads at once.
pub trait StoredFile: Send + Sync {
    /// Fills `buf`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// As `read_at` without waiting for a disk.
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt>;
    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes `range` read as zeros and gives its space back; the length stays. A host that cannot may do nothing
    /// but say `Unsupported`.
    fn punch(&self, range: Range<u64>) -> io::Result<()>;
    /// Sees to it that later writes to `range` find space; contents stay.
    fn allocate(&self, range: Range<u64>) -> io::Result<()>;
    /// Sets the length; what is added reads as zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Whether the length is 0.
    fn is_empty(&self) -> io::Result<bool> {
        self.len().map(|len| len == 0)
    }
    /// Bytes of disk taken.
    fn allocated(&self) -> io::Result<u64>;
    /// Makes contents and length durable.
    fn sync(&self) -> io::Result<()>;
    /// Drops what the host holds of the file in memory, so that reads come from the disk. After a failed sync the host
    /// may hold, as if it were clean, what never got there.
    fn forget_cache(&self) -> io::Result<()>;
    /// The first stretch at or after `from` that may hold something other than zeros.
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>>;
    /// The file itself, where copies inside the kernel are possible.
    fn as_file(&self) -> Option<&File> {
        None
    }
}
