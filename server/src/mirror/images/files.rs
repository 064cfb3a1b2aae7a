//! The files of versions, chunk by chunk: those that are there, and those that are being copied.

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use images::{Bytes, Digest, Part, Version, VersionDisk};
use overlay::Base;
use rustix::fs::{Advice, FallocateFlags, SeekFrom, fadvise, fallocate, seek, statvfs};
use rustix::io::Errno;

use super::wire::{CHUNK, Chunks, Sum, WINDOW};
use crate::files::is_full;

/// What host filesystems keep apart.
const BLOCK: usize = 4096;

/// The chunks of a file of `size` bytes, as many at a time as one question may name.
pub fn windows(size: u64) -> impl Iterator<Item = Chunks> {
    let all = u32::try_from(size.div_ceil(CHUNK)).unwrap_or(u32::MAX);
    (0..all).step_by(WINDOW as usize).map(move |first| Chunks {
        first,
        count: WINDOW.min(all - first),
    })
}

/// The bytes of a chunk of a file of `size` bytes; none behind its end.
pub fn chunk_at(index: u32, size: u64) -> Option<Range<u64>> {
    let start = u64::from(index) * CHUNK;
    (start < size).then(|| start..(start + CHUNK).min(size))
}

/// The BLAKE3 digest of some bytes.
pub fn digest_of(content: &[u8]) -> Digest {
    Digest(blake3::hash(content).into())
}

/// Whether nothing is stored in `range`.
fn is_hole(file: &File, range: &Range<u64>) -> io::Result<bool> {
    match seek(file, SeekFrom::Data(range.start)) {
        Ok(data) => Ok(data >= range.end),
        Err(Errno::NXIO) => Ok(true),
        // A filesystem that knows no holes.
        Err(Errno::INVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A file of a published version, which is in use as long as this exists.
pub struct Source {
    version: VersionDisk,
    part: Part,
    file: File,
    size: u64,
}

impl Source {
    /// Opens it.
    pub fn open(version: &Version, part: Part) -> anyhow::Result<Self> {
        let (disk, its) = (version.open()?, version.file(part));
        let opening = || format!("opening {}", its.path.display());
        let file = File::open(&its.path).with_context(opening)?;
        // Read ahead, a chunk would be in the page cache before it is asked whether clients have put it there.
        fadvise(&file, 0, None, Advice::Random).with_context(opening)?;
        Ok(Self {
            version: disk,
            part,
            file,
            size: its.size.get(),
        })
    }

    /// Its length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buf` with a chunk.
    pub fn read(&self, range: &Range<u64>, buf: &mut Vec<u8>) -> io::Result<()> {
        buf.resize((range.end - range.start) as usize, 0);
        let cached = self.is_cached(range);
        self.file.read_exact_at(buf, range.start)?;
        if !cached {
            let length = NonZeroU64::new(buf.len() as u64);
            // A hint: where it is not taken, the copy costs others some page cache.
            let _ = fadvise(&self.file, range.start, length, Advice::DontNeed);
        }
        Ok(())
    }

    /// Whether clients may have use of what is cached of it: a copy must neither take that from them nor add to it.
    fn is_cached(&self, range: &Range<u64>) -> bool {
        self.part != Part::Disk || self.version.resident(range.clone()).is_some()
    }

    /// What is in a chunk; `buf` is for working.
    pub fn sum(&self, range: &Range<u64>, buf: &mut Vec<u8>) -> io::Result<Sum> {
        if is_hole(&self.file, range)? {
            return Ok(Sum::Zeros);
        }
        self.read(range, buf)?;
        match is_zero(buf) {
            true => Ok(Sum::Zeros),
            false => Ok(Sum::Data(digest_of(buf))),
        }
    }

    /// Whether the chunk is this; `buf` then holds it. What cannot be read is not.
    pub fn holds(&self, range: &Range<u64>, digest: Digest, buf: &mut Vec<u8>) -> bool {
        range.end <= self.size && self.read(range, buf).is_ok() && digest_of(buf) == digest
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// There is no room for a copy.
#[derive(Debug, thiserror::Error)]
#[error("no room for the copy in {}: {free} are free, and {reserve} of that are kept for clients", root.display())]
pub struct NoRoom {
    root: PathBuf,
    free: Bytes,
    reserve: Bytes,
}

/// A file that is being copied.
pub struct Target {
    file: File,
    path: PathBuf,
    size: u64,
    reserve: Bytes,
}

impl Target {
    /// Opens the file at `path`, going on with what is there. If nothing is, it begins as a clone of `like`, where the
    /// filesystem can share blocks between files.
    pub fn open(
        path: &Path,
        size: u64,
        like: Option<&Source>,
        reserve: Bytes,
    ) -> anyhow::Result<Self> {
        let opening = || format!("writing {}", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let file = match options.clone().create_new(true).open(path) {
            Ok(file) => {
                // Without it, what is the same is copied.
                let _ = like.map(|like| rustix::fs::ioctl_ficlone(&file, &like.file));
                file
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                options.open(path).with_context(opening)?
            }
            Err(error) => return Err(error).with_context(opening),
        };
        file.set_len(size).with_context(opening)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            size,
            reserve,
        })
    }

    /// Its length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the chunk is this already; `buf` is for working.
    pub fn holds(
        &self,
        range: &Range<u64>,
        digest: Digest,
        buf: &mut Vec<u8>,
    ) -> anyhow::Result<bool> {
        if self.doing(is_hole(&self.file, range))? {
            return Ok(false);
        }
        buf.resize((range.end - range.start) as usize, 0);
        // What cannot be read is written anew.
        Ok(self.file.read_exact_at(buf, range.start).is_ok() && digest_of(buf) == digest)
    }

    /// Makes a hole of it.
    pub fn clear(&self, range: &Range<u64>) -> anyhow::Result<()> {
        if self.doing(is_hole(&self.file, range))? {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, range.start, range.end - range.start) {
            Err(Errno::OPNOTSUPP) => {
                let zeros = vec![0; (range.end - range.start) as usize];
                self.doing(self.file.write_all_at(&zeros, range.start))
            }
            other => self.doing(other.map_err(io::Error::from)),
        }
    }

    /// Writes a chunk, with holes for its zeros.
    pub fn write(&self, range: &Range<u64>, content: &[u8]) -> anyhow::Result<()> {
        self.check_room(content.len())?;
        self.clear(range)?;
        let stored = content.chunks(BLOCK).map(|block| !is_zero(block));
        let mut at = 0;
        for run in stored.collect::<Vec<_>>().chunk_by(|a, b| a == b) {
            let end = (at + run.len() * BLOCK).min(content.len());
            if run[0] {
                let written = self
                    .file
                    .write_all_at(&content[at..end], range.start + at as u64);
                self.doing(written)?;
            }
            at = end;
        }
        Ok(())
    }

    /// Clients' overlays grow on the same disk, and their writes matter more.
    fn check_room(&self, bytes: usize) -> anyhow::Result<()> {
        let root = self.path.parent().unwrap_or(&self.path);
        let stat = self.doing(statvfs(root).map_err(io::Error::from))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= self.reserve.get().saturating_add(bytes as u64) {
            return Ok(());
        }
        Err(self.no_room(Bytes::new(free)).into())
    }

    fn no_room(&self, free: Bytes) -> NoRoom {
        let folder = self.path.parent().and_then(Path::parent);
        NoRoom {
            root: folder.unwrap_or(&self.path).to_owned(),
            free,
            reserve: self.reserve,
        }
    }

    fn doing<T>(&self, done: io::Result<T>) -> anyhow::Result<T> {
        match done {
            Err(error) if is_full(&error) => Err(self.no_room(Bytes::new(0)).into()),
            other => other.with_context(|| format!("writing {}", self.path.display())),
        }
    }
}
