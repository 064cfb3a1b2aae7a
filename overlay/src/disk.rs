//! The real host: files through positioned system calls.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};
use uuid::Uuid;

use crate::storage::{Attempt, OpenMode, Storage, StoredFile};

/// The host's own filesystem.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostDisk;

impl Storage for HostDisk {
    fn boot_id(&self) -> io::Result<Uuid> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Uuid::parse_str(text.trim()).map_err(io::Error::other)
    }

    fn fresh_uuid(&self) -> Uuid {
        Uuid::new_v4()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoredFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(mode != OpenMode::Read);
        options.create_new(mode == OpenMode::CreateNew).mode(0o600);
        Ok(Arc::new(DiskFile::new(options.open(path)?)))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name());
        let names = fs::read_dir(dir)?.map(name);
        let text = names.filter_map(|name| name.map(|n| n.into_string().ok()).transpose());
        text.collect()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path)?.is_dir() {
            return fs::remove_dir_all(path);
        }
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        let file = options.open(path)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(file))
    }
}

/// A file of the host.
pub(crate) struct DiskFile {
    file: File,
    /// Set once the filesystem has said that it cannot read without waiting, to save the next call.
    waits: AtomicBool,
}

impl DiskFile {
    pub(crate) fn new(file: File) -> Self {
        let waits = AtomicBool::new(false);
        Self { file, waits }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn fallocate(&self, flags: FallocateFlags, range: Range<u64>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let len = range.end - range.start;
        Ok(rustix::fs::fallocate(&self.file, flags, range.start, len)?)
    }
}

impl StoredFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        if self.waits.load(Ordering::Relaxed) {
            return Ok(Attempt::WouldBlock);
        }
        let wanted = buf.len();
        let mut bufs = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(&self.file, &mut bufs, offset, ReadWriteFlags::NOWAIT) {
            Ok(got) if got == wanted => Ok(Attempt::Done),
            // Some of it is not cached, or the file is cut short: the blocking call tells which.
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(Attempt::WouldBlock),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.waits.store(true, Ordering::Relaxed);
                Ok(Attempt::WouldBlock)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.fallocate(
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            range,
        )
    }

    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.fallocate(FallocateFlags::KEEP_SIZE, range)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn forget_cache(&self) -> io::Result<()> {
        // Only clean pages are dropped, and what cannot be written is clean after this: it goes, as it should.
        let _ = self.file.sync_data();
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(from)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let end = match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) => end,
            // Cut short since.
            Err(Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        Ok(Some(start..end))
    }

    fn as_file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
