//! A version in the making.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cancel::Cancel;
use crate::digest;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{Bytes, ImageName, VersionId};
use crate::layout;
use crate::progress::Progress;
use crate::record::{FileRecord, Record};

/// Smallest unit of a disk: a version's size is a multiple of the overlay's block.
const BLOCK: u64 = 4096;

/// A directory in which a version is made. Dropped before it is published, it vanishes; left by
/// a crash, the next [`crate::Catalogue::open`] removes it.
///
/// Whoever makes the version writes [`Staging::disk_path`], [`Staging::kernel_path`] and
/// [`Staging::initrd_path`], then calls [`Staging::finish`].
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    id: VersionId,
    /// Flocked: tells a staging at work from one that a crash has left.
    _lock: File,
    published: bool,
}

/// What people and boot scripts should know of a new version.
#[derive(Debug, Clone)]
pub struct Details {
    /// The image that gets the version.
    pub image: ImageName,
    /// When it was made.
    pub created: SystemTime,
    /// Free text; may be empty.
    pub description: String,
    /// Words for the kernel command line; may be empty.
    pub cmdline: String,
}

impl Details {
    pub(crate) fn created_unix(&self) -> u64 {
        let since = self.created.duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |duration| duration.as_secs())
    }
}

/// A finished version that waits to be published.
#[derive(Debug)]
pub struct Staged {
    pub(crate) staging: Staging,
    pub(crate) details: Details,
    pub(crate) disk: FileRecord,
    pub(crate) kernel: FileRecord,
    pub(crate) initrd: FileRecord,
}

impl Staging {
    /// Makes and locks the directory. The caller holds the catalogue's lock, so that nobody
    /// takes it for stale between the two.
    pub(crate) fn create(root: &Path, id: VersionId) -> Result<Self> {
        let dir = root.join(format!("{}{id}", layout::STAGING));
        fs::create_dir(&dir).at("make directory", &dir)?;
        let lock = File::open(&dir).at("open", &dir)?;
        if !layout::try_lock(&lock, &dir)? {
            return Err(Error::new(
                ErrorKind::InUse,
                format!("{} is locked", dir.display()),
            ));
        }
        Ok(Self {
            dir,
            id,
            _lock: lock,
            published: false,
        })
    }

    /// The identity that the version will have.
    pub fn id(&self) -> VersionId {
        self.id
    }

    /// The directory; whatever else than the version's files is put there must be gone before
    /// [`Staging::finish`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where to write the raw disk. Its length must be a multiple of 4096.
    pub fn disk_path(&self) -> PathBuf {
        self.dir.join(layout::DISK)
    }

    /// Where to write the kernel.
    pub fn kernel_path(&self) -> PathBuf {
        self.dir.join(layout::KERNEL)
    }

    /// Where to write the initrd.
    pub fn initrd_path(&self) -> PathBuf {
        self.dir.join(layout::INITRD)
    }

    /// Copies kernel and initrd of an existing version: for a commit, which changes the disk only.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when one cannot be read or written.
    pub fn copy_boot_files(&self, from: &crate::Version) -> Result<()> {
        for (source, target) in [
            (from.kernel(), self.kernel_path()),
            (from.initrd(), self.initrd_path()),
        ] {
            fs::copy(&source.path, &target).at("copy", &source.path)?;
        }
        Ok(())
    }

    /// Works out sizes and digests of what was written, and makes it durable.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when a file is missing or empty, or the disk is no whole number of
    /// blocks, or a line break is in the command line.
    pub fn finish(
        self,
        details: Details,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Staged> {
        check_cmdline(&details.cmdline)?;
        progress.phase("Working out digests");
        let kernel = measure(&self.kernel_path(), progress, cancel)?;
        let initrd = measure(&self.initrd_path(), progress, cancel)?;
        let disk = measure(&self.disk_path(), progress, cancel)?;
        check_disk_size(disk.size)?;
        progress.phase("Writing to disk");
        self.sync_files()?;
        Ok(Staged {
            staging: self,
            details,
            disk,
            kernel,
            initrd,
        })
    }

    fn sync_files(&self) -> Result<()> {
        let files = [self.disk_path(), self.kernel_path(), self.initrd_path()];
        files.iter().try_for_each(|path| layout::sync(path))
    }

    /// Writes the record and makes everything in the directory durable.
    pub(crate) fn seal(&self, record: &Record) -> Result<()> {
        layout::seal(&self.dir, &record.to_json())
    }

    /// The atomic step: from here on the version exists.
    pub(crate) fn become_version(mut self, place: &Path) -> Result<()> {
        layout::become_version(&self.dir, place)?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        if let Err(error) = layout::delete_tree(&self.dir) {
            tracing::warn!(%error, "the next start removes this unfinished version");
        }
    }
}

impl Staged {
    /// The identity that the version will have.
    pub fn id(&self) -> VersionId {
        self.staging.id
    }

    /// Size of the disk.
    pub fn size(&self) -> Bytes {
        self.disk.size
    }
}

/// Boot scripts are lines: a line break in one field would begin a command of its own.
pub(crate) fn check_cmdline(cmdline: &str) -> Result<()> {
    if cmdline.chars().any(char::is_control) {
        let context = "a kernel command line cannot hold a line break or another control character";
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok(())
}

/// An overlay's blocks must not end beside the disk's.
pub(crate) fn check_disk_size(size: Bytes) -> Result<()> {
    if size.get().is_multiple_of(BLOCK) {
        return Ok(());
    }
    let context = format!("the disk has {} bytes, no multiple of {BLOCK}", size.get());
    Err(Error::new(ErrorKind::Invalid, context))
}

fn measure(path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<FileRecord> {
    let size = Bytes::new(fs::metadata(path).at("find", path)?.len());
    if size.get() == 0 {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{} is empty", path.display()),
        ));
    }
    Ok(FileRecord {
        size,
        digest: digest::of_file(path, size, progress, cancel)?,
    })
}

/// Removes what crashed builds and removals have left. The caller holds the catalogue's lock.
/// What cannot be deleted stays and is logged: it must not keep a server from starting.
pub(crate) fn clean(root: &Path) -> Result<usize> {
    let mut removed = 0;
    for (name, path) in layout::entries(root)? {
        let stale = name.starts_with(layout::TRASH)
            || (name.starts_with(layout::STAGING) && nobody_works_on(&path)?);
        if !stale {
            continue;
        }
        match layout::delete_tree(&path) {
            Ok(()) => removed += 1,
            Err(error) => tracing::warn!(%error, "an unfinished version stays"),
        }
    }
    Ok(removed)
}

fn nobody_works_on(staging: &Path) -> Result<bool> {
    match File::open(staging) {
        Ok(dir) => layout::try_lock(&dir, staging),
        // Its maker has just dropped it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("open", staging, error)),
    }
}
