//! Removing a version that nobody needs.

use std::fs::{self, File};
use std::path::Path;

use crate::catalogue::Catalogue;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{ImageName, ImageRef, VersionId};
use crate::layout::{self, ChangeLock};
use crate::version::Version;

/// Removed versions of an image that are remembered.
const REMEMBERED: usize = 256;

/// An overlay on disk and the version that it is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The overlay's owner, for messages.
    pub overlay: String,
    /// The version it was made on.
    pub version: VersionId,
}

impl Catalogue {
    /// Removes a version for good. `bindings` are all overlays there are.
    ///
    /// The current version of an image that has others is kept unless `force` is given; then
    /// the bare name means nothing until another version is published. Nothing forces the
    /// removal of a version that is served or has overlays.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] says by whom, [`ErrorKind::NotFound`] when there is no such version.
    pub fn remove(
        &self,
        reference: &ImageRef,
        bindings: impl IntoIterator<Item = Binding>,
        force: bool,
    ) -> Result<Version> {
        let lock = ChangeLock::take(self.root())?;
        let version = self.resolve(reference)?;
        check_overlays(&version, bindings)?;
        self.check_current(&version, force)?;
        let _unused = lock_unused(&version)?;
        self.note_removed(&version);
        let trash = self
            .root()
            .join(format!("{}{}", layout::TRASH, version.id()));
        self.take_out(&version, &trash)?;
        drop(lock);
        if let Err(error) = layout::delete_tree(&trash) {
            tracing::warn!(%error, "the version is removed; the next start frees its space");
        }
        Ok(version)
    }

    /// The versions that were here and were removed, of all images, the newest last; so that a
    /// server that holds copies can tell them from versions that never were here.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when a directory cannot be read.
    pub fn removed(&self) -> Result<Vec<VersionId>> {
        let names = self.names()?;
        Ok(names
            .iter()
            .flat_map(|name| self.removed_of(name))
            .collect())
    }

    fn removed_of(&self, image: &ImageName) -> Vec<VersionId> {
        let path = self.image_dir(image).join(layout::REMOVED);
        let text = fs::read_to_string(path).unwrap_or_default();
        let ids = text.lines().filter_map(|line| line.parse().ok());
        ids.map(VersionId::from_uuid).collect()
    }

    /// Removing frees space, so it must go on where there is none to note it; other servers then
    /// keep their copies.
    fn note_removed(&self, version: &Version) {
        let mut ids = self.removed_of(version.image());
        ids.retain(|id| *id != version.id());
        ids.push(version.id());
        let newest = &ids[ids.len().saturating_sub(REMEMBERED)..];
        let text: String = newest.iter().map(|id| format!("{id}\n")).collect();
        let path = self.image_dir(version.image()).join(layout::REMOVED);
        if let Err(error) = layout::replace(&path, text.as_bytes()) {
            tracing::warn!(%error, "other servers will keep their copies of {version}");
        }
    }

    fn check_current(&self, version: &Version, force: bool) -> Result<()> {
        let is_current = self.current(version.image())? == Some(version.number());
        let is_last = self.numbers(version.image())?.len() == 1;
        if !is_current || is_last || force {
            return Ok(());
        }
        let image = version.image();
        Err(Error::new(
            ErrorKind::InUse,
            format!(
                "{version} is the current version of {image}: make another one current first \
                 (`bootroom image rollback {image}`), or use --force"
            ),
        ))
    }

    /// The version leaves its number in one step; its pointer goes first, so that it never
    /// points to nothing.
    fn take_out(&self, version: &Version, trash: &Path) -> Result<()> {
        let dir = self.image_dir(version.image());
        if self.current(version.image())? == Some(version.number()) {
            let path = dir.join(layout::CURRENT);
            fs::remove_file(&path).at("delete", &path)?;
            layout::sync(&dir)?;
        }
        fs::rename(version.dir(), trash).at("remove", version.dir())?;
        layout::sync(&dir)?;
        layout::sync(self.root())
    }
}

fn check_overlays(version: &Version, bindings: impl IntoIterator<Item = Binding>) -> Result<()> {
    let bound = bindings
        .into_iter()
        .filter(|binding| binding.version == version.id());
    let owners: Vec<_> = bound.map(|binding| binding.overlay).collect();
    let Some(first) = owners.first() else {
        return Ok(());
    };
    let more = match owners.len() {
        1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    Err(Error::new(
        ErrorKind::InUse,
        format!(
            "{version} has overlays bound to it, of {first}{more}: \
             `bootroom client reset` frees them"
        ),
    ))
}

/// The exclusive lock that says nobody serves the version; keep it until the version is gone.
fn lock_unused(version: &Version) -> Result<File> {
    let path = version.dir().join(layout::RECORD);
    let file = File::open(&path).at("open", &path)?;
    if layout::try_lock(&file, &path)? {
        return Ok(file);
    }
    Err(Error::new(
        ErrorKind::InUse,
        format!("{version} is being served: shut down its clients first"),
    ))
}
