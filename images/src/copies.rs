//! Versions that come from another server: same identity, same number, same record.
//!
//! Whoever copies knows how to reach the other server; this module knows what a version is. An
//! [`Original`] is what the other server says of a version; [`Catalogue::stage_copy`] gives a
//! directory for its files; [`Copying::finish`] holds what was written there against the digests
//! that the version was published with; [`Catalogue::publish_copy`] lets it be seen.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use overlay::Digest;

use crate::cancel::Cancel;
use crate::catalogue::Catalogue;
use crate::digest;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{Bytes, ImageName, ImageRef, VersionId, VersionNumber};
use crate::layout::{self, ChangeLock};
use crate::progress::Progress;
use crate::record::{self, FileRecord, RECORD_MAX, Record};
use crate::staging::{check_cmdline, check_disk_size};
use crate::version::Version;

/// Largest kernel or initrd that a copy is believed to have.
const BOOT_FILE_MAX: Bytes = Bytes::gib(4);
/// Files of a copy while they are written.
const WRITABLE: u32 = 0o644;

/// One of the files of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The root disk.
    Disk,
    /// The kernel.
    Kernel,
    /// The initrd.
    Initrd,
}

impl Part {
    /// All of them, the small ones first.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Initrd, Self::Disk];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Disk => layout::DISK,
            Self::Kernel => layout::KERNEL,
            Self::Initrd => layout::INITRD,
        }
    }
}

/// A version as its `version.json` describes it: on another server, or on its way from there.
///
/// The text goes along byte by byte, so that a copy also keeps what a later release has added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    record: Record,
    text: Vec<u8>,
}

impl Original {
    /// Reads what another server sent.
    ///
    /// # Errors
    /// [`ErrorKind::NewerFormat`] when only a newer bootroom can hold such a version,
    /// [`ErrorKind::Damaged`] or [`ErrorKind::Invalid`] when no server can have one like it.
    pub fn parse(text: &[u8]) -> Result<Self> {
        if text.len() as u64 > RECORD_MAX {
            let context = format!("a version's record has {} bytes", text.len());
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let record = Record::parse(text, Path::new("a version's record"))?;
        let original = Self {
            record,
            text: text.to_owned(),
        };
        original.check()?;
        Ok(original)
    }

    /// What this server has of a version.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] or [`ErrorKind::Damaged`] when its record is gone or was changed.
    pub fn of(version: &Version) -> Result<Self> {
        let path = version.dir().join(layout::RECORD);
        let file = File::open(&path).at("open", &path)?;
        Self::parse(&record::text_of(&file, &path)?)
    }

    /// The content of `version.json`, at most 64 KiB.
    pub fn text(&self) -> &[u8] {
        &self.text
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

    /// Size of one of its files.
    pub fn size(&self, part: Part) -> Bytes {
        self.file(part).size
    }

    /// Digest of one of its files.
    pub fn digest(&self, part: Part) -> Digest {
        self.file(part).digest
    }

    fn file(&self, part: Part) -> FileRecord {
        match part {
            Part::Disk => self.record.disk,
            Part::Kernel => self.record.kernel,
            Part::Initrd => self.record.initrd,
        }
    }

    fn check(&self) -> Result<()> {
        check_cmdline(&self.record.cmdline)?;
        check_disk_size(self.size(Part::Disk))?;
        for part in Part::ALL {
            let most = match part {
                Part::Disk => Bytes::new(overlay::MAX_SIZE),
                Part::Kernel | Part::Initrd => BOOT_FILE_MAX,
            };
            let size = self.size(part);
            if size.get() == 0 || size > most {
                let context = format!("{self}: a {} of {size}", part.name());
                return Err(Error::new(ErrorKind::Invalid, context));
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Original {
    /// `image@number`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.record.image, self.record.number)
    }
}

/// The directory in which a copy grows. Dropped, it stays for the next try.
#[derive(Debug)]
pub struct Copying {
    dir: PathBuf,
    id: VersionId,
    /// Flocked: two that copy the same version would write into one another's files.
    lock: File,
}

/// A copy that is whole, and waits to be published.
#[derive(Debug)]
pub struct Copied {
    copying: Copying,
    original: Original,
}

impl Copying {
    /// Locks the directory, making it if an earlier try has not.
    fn begin(root: &Path, id: VersionId) -> Result<Self> {
        let dir = root.join(format!("{}{id}", layout::COPY));
        layout::make_dir(&dir)?;
        let lock = File::open(&dir).at("open", &dir)?;
        if !layout::try_lock(&lock, &dir)? {
            let context = format!("version {id} is being copied already");
            return Err(Error::new(ErrorKind::InUse, context));
        }
        let copying = Self { dir, id, lock };
        copying.unseal()?;
        Ok(copying)
    }

    /// A try that came as far as publishing has protected the files.
    fn unseal(&self) -> Result<()> {
        let record = self.dir.join(layout::RECORD);
        if record.exists() {
            fs::remove_file(&record).at("delete", &record)?;
        }
        for path in Part::ALL.map(|part| self.path(part)) {
            if path.exists() {
                let writable = fs::Permissions::from_mode(WRITABLE);
                fs::set_permissions(&path, writable).at("make writable", &path)?;
            }
        }
        Ok(())
    }

    /// The identity that the version has.
    pub fn id(&self) -> VersionId {
        self.id
    }

    /// Where to write a file; an earlier try may have left some of it there.
    pub fn path(&self, part: Part) -> PathBuf {
        self.dir.join(part.file())
    }

    /// Holds what was written against what `original` says of it, and makes it durable.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it is not the same; the files stay for the next try.
    pub fn finish(
        self,
        original: Original,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Copied> {
        progress.phase(&format!("Verifying {original}"));
        for part in Part::ALL {
            let (path, size) = (self.path(part), original.size(part));
            let found = digest::of_file(&path, size, progress, cancel)?;
            if found != original.digest(part) {
                return Err(differs(&original, part, found));
            }
            layout::sync(&path)?;
        }
        Ok(Copied {
            copying: self,
            original,
        })
    }

    /// Gives up, and the space too.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be deleted.
    pub fn discard(self) -> Result<()> {
        layout::delete_tree(&self.dir)
    }
}

fn differs(original: &Original, part: Part, found: Digest) -> Error {
    let context = format!(
        "the copy of {original} has a {} with digest {found} instead of {}: \
         run `bootroom image verify {original}` on the server that it comes from",
        part.name(),
        original.digest(part)
    );
    Error::new(ErrorKind::Damaged, context)
}

impl Catalogue {
    /// The version that `original` is, if this server has it already.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when its number is another version's here, or the same version has
    /// another number here.
    pub fn place_for(&self, original: &Original) -> Result<Option<Version>> {
        if let Some(version) = self.find(original.id())? {
            return same_place(version, original).map(Some);
        }
        let dir = self.version_dir(original.image(), original.number());
        if !dir.exists() {
            return Ok(None);
        }
        match Version::read(&dir, original.image(), original.number()) {
            Ok(version) => Err(number_taken(&version, original)),
            Err(error) => Err(damaged_place(&dir, original).because(error)),
        }
    }

    /// Begins to copy the version `id`, or goes on where an earlier try has ended.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] when somebody else copies it now.
    pub fn stage_copy(&self, id: VersionId) -> Result<Copying> {
        let _lock = ChangeLock::take(self.root())?;
        Copying::begin(self.root(), id)
    }

    /// Publishes a copy under the number that it has on the other server, and leaves `current`
    /// alone. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] as [`Catalogue::place_for`]; [`ErrorKind::Io`] when the disk is full
    /// or fails. Nothing is published then.
    pub fn publish_copy(&self, copied: Copied) -> Result<Version> {
        let _lock = ChangeLock::take(self.root())?;
        let Copied { copying, original } = copied;
        if let Some(version) = self.place_for(&original)? {
            copying.discard()?;
            return Ok(version);
        }
        let (image, number) = (original.image(), original.number());
        layout::make_dir(&self.image_dir(image))?;
        if self.last_number(image)? < Some(number) {
            self.note_last(image, number)?;
        }
        layout::seal(&copying.dir, original.text())?;
        let place = self.version_dir(image, number);
        layout::become_version(&copying.dir, &place)?;
        layout::sync(&self.image_dir(image))?;
        drop(copying.lock);
        Version::read(&place, image, number)
    }

    /// Deletes what interrupted copies have left, but for those that are `wanted` and those that
    /// are being made. Returns how many there were.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when one cannot be deleted.
    pub fn forget_copies(&self, wanted: &dyn Fn(VersionId) -> bool) -> Result<usize> {
        let _lock = ChangeLock::take(self.root())?;
        let mut forgotten = 0;
        for (name, dir) in layout::entries(self.root())? {
            let id = name.strip_prefix(layout::COPY).map(str::parse);
            let Some(Ok(id)) = id else { continue };
            let file = File::open(&dir).at("open", &dir)?;
            if !wanted(VersionId::from_uuid(id)) && layout::try_lock(&file, &dir)? {
                layout::delete_tree(&dir)?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}

fn same_place(version: Version, original: &Original) -> Result<Version> {
    if version.reference() == original.reference()
        && version.digest() == original.digest(Part::Disk)
    {
        return Ok(version);
    }
    let context = format!(
        "version {} is {version} with digest {} here, and {original} with digest {} on the other server: \
         one of the two directories was changed by hand; restore it",
        version.id(),
        version.digest(),
        original.digest(Part::Disk)
    );
    Err(Error::new(ErrorKind::Conflict, context))
}

fn number_taken(version: &Version, original: &Original) -> Error {
    let context = format!(
        "{original} is version {} here and version {} on the other server: two servers gave the same number. \
         To take the other server's, run `bootroom image rm --force {original}` here (first \
         `bootroom image import` its disk under another name, if it is still wanted)",
        version.id(),
        original.id()
    );
    Error::new(ErrorKind::Conflict, context)
}

fn damaged_place(dir: &Path, original: &Original) -> Error {
    let context = format!(
        "{original} cannot be copied: a version that cannot be read is in its place. \
         Delete {}, and it will be copied",
        dir.display()
    );
    Error::new(ErrorKind::Conflict, context)
}
