//! The immutable content below overlays.

use std::fs::File;
use std::io::IoSlice;
use std::ops::{ControlFlow, Range};
use std::path::Path;

use crate::disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::BaseId;
use crate::mapped::Mapping;
use crate::residency::{Residency, Second};
use crate::storage::{Attempt, StoredFile};

/// A stretch of a base, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// Where, in bytes from the start of the disk.
    pub range: Range<u64>,
    /// Whether it is known to read as zeros without being stored.
    pub hole: bool,
}

/// Immutable content below overlays: an image version's disk.
///
/// The bytes at an offset never change for the life of the value; all overlays over it share them.
pub trait Base: Send + Sync {
    /// Which content this is; an overlay is bound to it.
    fn id(&self) -> &BaseId;

    /// Size in bytes. An overlay may be larger (zeros follow) or smaller.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset` (bytes). May block on disk.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] past [`Base::size`]; [`ErrorKind::Io`] for a bad sector or a file cut short.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// As [`Base::read_at`], but never waits for a disk: says [`Attempt::WouldBlock`] instead, with `buf` undefined.
    ///
    /// # Errors
    /// As [`Base::read_at`].
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt>;

    /// The file that holds the content at equal offsets, if all of `range` lies in the page cache, or did a moment ago.
    ///
    /// For handing to `sendfile`: between this answer and its use the kernel may drop a page, and reading it again
    /// may take time or fail; `sendfile` then waits, or says so.
    fn resident(&self, range: Range<u64>) -> Option<&File>;

    /// The content of `range` in a mapping, if all of it lies in the page cache, or did a moment ago.
    ///
    /// For handing to a system call that copies it, and for nothing else: where a page cannot be read any more, the call
    /// fails with EFAULT, but a look at it from this process would be the process's end (SIGBUS).
    fn mapped(&self, _range: Range<u64>) -> Option<IoSlice<'_>> {
        None
    }

    /// Calls `found` for the data and holes of `range`, in order and without gaps, until it says stop.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] past [`Base::size`]; [`ErrorKind::Io`] if the host cannot tell.
    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()>;

    /// The file that holds the content at equal offsets, if there is one: lets a commit copy inside the kernel.
    fn file(&self) -> Option<&File> {
        None
    }
}

/// A base in one raw file.
pub struct FileBase {
    id: BaseId,
    size: u64,
    name: String,
    file: disk::DiskFile,
    map: Option<Mapping>,
    residency: Residency,
}

impl FileBase {
    /// Opens the raw disk at `path`, read-only, and maps it.
    ///
    /// The digest in `id` is taken on trust here; the catalogue verifies it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] if it cannot be opened.
    pub fn open(path: &Path, id: BaseId) -> Result<Self> {
        let name = format!("base {}", path.display());
        let file = File::open(path).context(|| format!("opening {name}"))?;
        let size = file.metadata().context(|| format!("opening {name}"))?.len();
        let map = Mapping::of(&file, size).context(|| format!("mapping {name}"))?;
        let file = disk::DiskFile::new(file);
        Ok(Self {
            id,
            size,
            name,
            file,
            map,
            residency: Residency::new(size),
        })
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.size {
            return Ok(());
        }
        let text = format!("{}: bytes {range:?} of {}", self.name, self.size);
        Err(Error::new(ErrorKind::OutOfRange, text))
    }

    /// No data up to `end`, if the file still reaches that far.
    fn nothing_more(&self, end: u64) -> Result<Range<u64>> {
        if self.reading(end, self.file.len())? >= end {
            return Ok(end..end);
        }
        let text = format!("{}: shorter than it was, below {end} bytes", self.name);
        Err(Error::new(ErrorKind::Io, text))
    }

    /// The mapping, if all of `range` lay in memory within this second.
    fn warm(&self, range: &Range<u64>) -> Option<&Mapping> {
        let map = self.map.as_ref()?;
        let look = |stretch: Range<u64>| {
            map.is_resident(self.file.file(), stretch.start..stretch.end.min(self.size))
        };
        self.residency
            .holds(range, Second::now(), look)
            .then_some(map)
    }

    fn reading<T>(&self, offset: u64, result: std::io::Result<T>) -> Result<T> {
        result.context(|| format!("reading {} at byte {offset}", self.name))
    }
}

fn range_of(buf: &[u8], offset: u64) -> Range<u64> {
    offset..offset.saturating_add(buf.len() as u64)
}

impl Base for FileBase {
    fn id(&self) -> &BaseId {
        &self.id
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(&range_of(buf, offset))?;
        self.reading(offset, self.file.read_at(buf, offset))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.check(&range_of(buf, offset))?;
        self.reading(offset, self.file.try_read_at(buf, offset))
    }

    fn resident(&self, range: Range<u64>) -> Option<&File> {
        self.check(&range).ok()?;
        let file = self.file.file();
        // The stretches that it touches may miss a page that it does not.
        let there =
            self.warm(&range).is_some() || self.map.as_ref()?.is_resident(file, range.clone());
        there.then_some(file)
    }

    fn mapped(&self, range: Range<u64>) -> Option<IoSlice<'_>> {
        self.check(&range).ok()?;
        self.warm(&range)?.bytes(range)
    }

    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check(&range)?;
        let mut at = range.start;
        while at < range.end {
            let data = match self.reading(at, self.file.next_data(at))? {
                Some(data) => data,
                None => self.nothing_more(range.end)?,
            };
            let start = data.start.clamp(at, range.end);
            let end = data.end.clamp(start, range.end);
            for (range, hole) in [(at..start, true), (start..end, false)] {
                if !range.is_empty() && found(Extent { range, hole }).is_break() {
                    return Ok(());
                }
            }
            at = end;
        }
        Ok(())
    }

    fn file(&self) -> Option<&File> {
        Some(self.file.file())
    }
}

/// A base of zeros: for a disk that starts blank.
pub struct ZeroBase {
    id: BaseId,
}

impl ZeroBase {
    /// A blank base known as `id`.
    pub fn new(id: BaseId) -> Self {
        Self { id }
    }
}

impl Base for ZeroBase {
    fn id(&self) -> &BaseId {
        &self.id
    }

    fn size(&self) -> u64 {
        0
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        if buf.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::OutOfRange, "a blank base"))
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.read_at(buf, offset).map(|()| Attempt::Done)
    }

    fn resident(&self, _range: Range<u64>) -> Option<&File> {
        None
    }

    fn extents(
        &self,
        _range: Range<u64>,
        _found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        Ok(())
    }
}
