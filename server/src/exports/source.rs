//! From what the configuration says of an export to a disk that can be served.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, bail};
use images::{ImageRef, Version, VersionDisk, VersionId};
use overlay::{Base, BaseId, Digest, FileBase};

use crate::{
    clients::Clients,
    config::exports::{ExportSpec, Mode, Source},
    service::{
        Export,
        devices::{CowExport, FileExport},
    },
};

/// Which data an export serves: another file of the same name is other data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A file or device.
    File {
        /// The filesystem, or the device itself.
        device: u64,
        /// The file in it.
        inode: u64,
        /// Bytes.
        size: u64,
    },
    /// A version of an image.
    Version(VersionId),
}

/// An export's data, open.
pub struct Disk {
    /// What is served.
    pub export: Arc<dyn Export>,
    /// Which data it is.
    pub identity: Identity,
    /// Keeps a version from being removed.
    _version: Option<Arc<VersionDisk>>,
}

impl Disk {
    /// `export`, of data that need no version to be held.
    pub fn new(export: Arc<dyn Export>, identity: Identity) -> Self {
        Self {
            export,
            identity,
            _version: None,
        }
    }
}

/// What is needed to open exports.
pub struct Opener<'a> {
    /// Has the images.
    pub clients: &'a Clients,
    /// Where copies on write are kept.
    pub scratch: PathBuf,
    /// With less free there, copies stop growing. Bytes.
    pub low_water: u64,
}

impl Opener<'_> {
    /// Which data `spec` means now.
    ///
    /// # Errors
    /// When there are none, or not of the kind that it says.
    pub fn identify(&self, spec: &ExportSpec) -> anyhow::Result<Identity> {
        match &spec.source {
            Source::File(path) => identify_file(path, false),
            Source::Device(path) => identify_file(path, true),
            Source::Image(image) => Ok(Identity::Version(self.resolve(image)?.id())),
        }
    }

    /// Opens what `spec` names.
    ///
    /// # Errors
    /// As [`Opener::identify`], or when it cannot be opened.
    pub fn open(&self, spec: &ExportSpec) -> anyhow::Result<Disk> {
        let identity = self.identify(spec)?;
        match &spec.source {
            Source::File(path) | Source::Device(path) => {
                let export = match spec.mode {
                    Mode::CopyOnWrite => self.copies(file_base(path)?, spec)?,
                    mode => open_file(path, mode == Mode::ReadOnly)?,
                };
                Ok(Disk::new(export, identity))
            }
            Source::Image(image) => self.open_image(image, identity, spec),
        }
    }

    fn open_image(
        &self,
        image: &ImageRef,
        identity: Identity,
        spec: &ExportSpec,
    ) -> anyhow::Result<Disk> {
        let id = self.resolve(image)?.id();
        let version = self.clients.disks().open_version(id)?;
        let export = match spec.mode {
            Mode::CopyOnWrite => self.copies(version.clone(), spec)?,
            Mode::ReadOnly | Mode::ReadWrite => open_file(&version.version().disk_path(), true)?,
        };
        Ok(Disk {
            export,
            identity,
            _version: Some(version),
        })
    }

    fn resolve(&self, image: &ImageRef) -> anyhow::Result<Version> {
        Ok(self.clients.disks().catalogue().resolve(image)?)
    }

    fn copies(&self, base: Arc<dyn Base>, spec: &ExportSpec) -> anyhow::Result<Arc<dyn Export>> {
        let quota = spec.quota.map(|quota| quota.0);
        let copies = CowExport::new(&self.scratch, base, quota, self.low_water)?;
        Ok(Arc::new(copies))
    }
}

fn open_file(path: &Path, read_only: bool) -> anyhow::Result<Arc<dyn Export>> {
    let export = FileExport::open(path, read_only, None);
    Ok(Arc::new(export.with_context(|| {
        format!("cannot open {}", path.display())
    })?))
}

/// Looks at a file or device without opening it.
///
/// # Errors
/// When it is not there, or not of that kind.
pub fn identify_file(path: &Path, is_device: bool) -> anyhow::Result<Identity> {
    let meta = fs::metadata(path).with_context(|| format!("cannot open {}", path.display()))?;
    let kind = meta.file_type();
    match is_device {
        true if !kind.is_block_device() => bail!("{} is no block device", path.display()),
        true => Ok(Identity::File {
            device: meta.rdev(),
            inode: 0,
            size: device_size(path)?,
        }),
        false if kind.is_block_device() => {
            bail!(
                "{0} is a block device: write device = {0:?}",
                path.display()
            )
        }
        false if !kind.is_file() => bail!("{} is no regular file", path.display()),
        false => Ok(Identity::File {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
        }),
    }
}

fn device_size(path: &Path) -> anyhow::Result<u64> {
    use std::io::Seek;
    let size = fs::File::open(path).and_then(|mut device| device.seek(std::io::SeekFrom::End(0)));
    size.with_context(|| format!("cannot open {}", path.display()))
}

/// A file as the base of overlays. Its identity is what tells a file that was changed: size and time of its last
/// change.
///
/// # Errors
/// When it cannot be opened, or is no regular file.
pub fn file_base(file: &Path) -> anyhow::Result<Arc<dyn Base>> {
    let meta = fs::metadata(file).with_context(|| format!("cannot open {}", file.display()))?;
    if !meta.is_file() {
        bail!(
            "{} is no regular file, which copy-on-write needs",
            file.display()
        );
    }
    let mut hash = blake3::Hasher::new();
    for number in [meta.len(), meta.mtime() as u64, meta.mtime_nsec() as u64] {
        hash.update(&number.to_be_bytes());
    }
    let digest = *hash.finalize().as_bytes();
    let mut version = [0; 16];
    version.copy_from_slice(&digest[..16]);
    let id = BaseId {
        version: uuid::Uuid::from_bytes(version),
        digest: Digest(digest),
    };
    Ok(Arc::new(FileBase::open(file, id)?))
}
