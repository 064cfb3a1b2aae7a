//! One immutable version.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use overlay::Digest;

use crate::cancel::Cancel;
use crate::copies::Part;
use crate::digest;
use crate::disk::VersionDisk;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{Bytes, ImageName, ImageRef, VersionId, VersionNumber};
use crate::layout;
use crate::progress::Progress;
use crate::record::{FileRecord, Record};

/// A published version: what is recorded of it and where its files are.
///
/// Holding one does not hold the version in use; [`Version::open`] does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    dir: PathBuf,
    record: Record,
}

/// One file of a version, such as a kernel to serve over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub size: Bytes,
    /// The digest of its content.
    pub digest: Digest,
}

impl Version {
    /// Reads the version in `dir`, whose name and whose parent's name the record must agree with.
    pub(crate) fn read(dir: &Path, image: &ImageName, number: VersionNumber) -> Result<Self> {
        let path = dir.join(layout::RECORD);
        let file = File::open(&path).at("open", &path)?;
        let record = Record::read(&file, &path)?;
        Self::from_record(dir, record).belonging_to(image, number)
    }

    pub(crate) fn from_record(dir: &Path, record: Record) -> Self {
        Self {
            dir: dir.to_owned(),
            record,
        }
    }

    /// A directory copied or renamed by hand is not taken for another version.
    fn belonging_to(self, image: &ImageName, number: VersionNumber) -> Result<Self> {
        if self.image() == image && self.number() == number {
            return Ok(self);
        }
        Err(Error::new(
            ErrorKind::Damaged,
            format!(
                "{} says that it is {self}: undo the renaming",
                self.dir.display()
            ),
        ))
    }

    /// Identity, the same on every server.
    pub fn id(&self) -> VersionId {
        self.record.id
    }

    /// The image it is a version of.
    pub fn image(&self) -> &ImageName {
        &self.record.image
    }

    /// Its number within the image.
    pub fn number(&self) -> VersionNumber {
        self.record.number
    }

    /// `image@number`.
    pub fn reference(&self) -> ImageRef {
        ImageRef {
            image: self.image().clone(),
            number: Some(self.number()),
        }
    }

    /// Size of the disk that clients see.
    pub fn size(&self) -> Bytes {
        self.record.disk.size
    }

    /// Digest of the disk's content.
    pub fn digest(&self) -> Digest {
        self.record.disk.digest
    }

    /// When it was made.
    pub fn created(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.record.created)
    }

    /// What people wrote about it; may be empty.
    pub fn description(&self) -> &str {
        &self.record.description
    }

    /// Words for the kernel command line that this version needs; may be empty.
    pub fn cmdline(&self) -> &str {
        &self.record.cmdline
    }

    /// The directory that holds the version.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The raw disk.
    pub fn disk_path(&self) -> PathBuf {
        self.dir.join(layout::DISK)
    }

    /// The kernel to boot.
    pub fn kernel(&self) -> BootFile {
        self.boot_file(layout::KERNEL, self.record.kernel)
    }

    /// The initrd to boot with.
    pub fn initrd(&self) -> BootFile {
        self.boot_file(layout::INITRD, self.record.initrd)
    }

    /// One of its files.
    pub fn file(&self, part: Part) -> BootFile {
        match part {
            Part::Disk => self.boot_file(layout::DISK, self.record.disk),
            Part::Kernel => self.kernel(),
            Part::Initrd => self.initrd(),
        }
    }

    fn boot_file(&self, name: &str, record: FileRecord) -> BootFile {
        BootFile {
            path: self.dir.join(name),
            size: record.size,
            digest: record.digest,
        }
    }

    /// Opens the disk for reading and holds the version in use until the handle is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it was removed meanwhile, [`ErrorKind::Damaged`] when the
    /// disk has not the recorded size.
    pub fn open(&self) -> Result<VersionDisk> {
        VersionDisk::open(self)
    }

    /// Reads the disk, the kernel and the initrd whole and compares them with what was published.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] names the file that differs, is cut short or cannot be read.
    pub fn verify(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        for part in Part::ALL {
            let (name, file) = (part.name(), self.file(part));
            progress.phase(&format!("Verifying the {name} of {self}"));
            let found = digest::of_file(&file.path, file.size, progress, cancel)?;
            if found != file.digest {
                let path = file.path.display();
                let context = format!(
                    "{path} has changed since {self} was published: its digest is {found} and was {}",
                    file.digest
                );
                return Err(Error::new(ErrorKind::Damaged, context));
            }
        }
        Ok(())
    }
}

impl fmt::Display for Version {
    /// `image@number`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.record.image, self.record.number)
    }
}
