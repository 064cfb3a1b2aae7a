//! A version's disk, opened for serving, and the lock that keeps it from being removed.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::IoSlice;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use overlay::{Attempt, Base, BaseId, Extent, FileBase};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::Bytes;
use crate::layout;
use crate::record::Record;
use crate::version::Version;

/// The disk of a version, open for serving: the base of overlays. As long as one exists, in any
/// process, the version is in use: it holds a shared `flock` on `version.json`.
pub struct VersionDisk {
    version: Version,
    base: FileBase,
    _in_use: File,
}

impl VersionDisk {
    pub(crate) fn open(version: &Version) -> Result<Self> {
        let in_use = hold(version)?;
        let path = version.disk_path();
        let base = FileBase::open(&path, base_id(version)).map_err(|error| {
            Error::new(ErrorKind::Damaged, format!("cannot serve {version}")).because(error)
        })?;
        if base.size() != version.size().get() {
            let (length, size) = (base.size(), version.size().get());
            let context = format!(
                "{} has {length} bytes and should have {size}: restore it, or build the image again",
                path.display()
            );
            return Err(Error::new(ErrorKind::Damaged, context));
        }
        Ok(Self {
            version: version.clone(),
            base,
            _in_use: in_use,
        })
    }

    /// The version that is held.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Size of the disk.
    pub fn size(&self) -> Bytes {
        self.version.size()
    }
}

impl fmt::Debug for VersionDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VersionDisk({})", self.version)
    }
}

/// What an overlay on `version` is bound to.
pub(crate) fn base_id(version: &Version) -> BaseId {
    BaseId {
        version: version.id().uuid(),
        digest: version.digest(),
    }
}

impl Base for VersionDisk {
    fn id(&self) -> &BaseId {
        self.base.id()
    }

    fn size(&self) -> u64 {
        self.base.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> overlay::Result<()> {
        self.base.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> overlay::Result<Attempt> {
        self.base.try_read_at(buf, offset)
    }

    fn resident(&self, range: Range<u64>) -> Option<&File> {
        self.base.resident(range)
    }

    fn mapped(&self, range: Range<u64>) -> Option<IoSlice<'_>> {
        self.base.mapped(range)
    }

    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> overlay::Result<()> {
        self.base.extents(range, found)
    }

    fn file(&self) -> Option<&File> {
        self.base.file()
    }
}

/// Takes the shared lock, and makes sure that what was locked is still the published version.
fn hold(version: &Version) -> Result<File> {
    let path = version.dir().join(layout::RECORD);
    let file = File::open(&path).map_err(|error| gone_or(version, &path, error))?;
    match file.try_lock_shared() {
        Ok(()) => {}
        // Only a removal in progress locks exclusively.
        Err(TryLockError::WouldBlock) => return Err(gone(version)),
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path, error)),
    }
    let locked = file.metadata().at("look at", &path)?;
    let named = fs::metadata(&path).map_err(|error| gone_or(version, &path, error))?;
    let same_file = (locked.dev(), locked.ino()) == (named.dev(), named.ino());
    if !same_file || Record::read(&file, &path)?.id != version.id() {
        return Err(gone(version));
    }
    Ok(file)
}

fn gone_or(version: &Version, path: &Path, error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::NotFound => gone(version),
        _ => Error::io("open", path, error),
    }
}

fn gone(version: &Version) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("image version {version} has been removed"),
    )
}
