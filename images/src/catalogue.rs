//! The catalogue: all images of a server.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::{ImageName, ImageRef, VersionId, VersionNumber};
use crate::layout::{self, ChangeLock};
use crate::record::{FORMAT, Record};
use crate::staging::{self, Staged, Staging};
use crate::version::Version;

/// Furthest that a misspelt name may be from the one we suggest, in single edits.
const NEAR: usize = 3;

/// The directory of all images. It keeps nothing in memory: several processes may use it.
#[derive(Debug, Clone)]
pub struct Catalogue {
    root: PathBuf,
}

/// An image and its versions.
#[derive(Debug)]
pub struct Image {
    /// Its name.
    pub name: ImageName,
    /// The version that the bare name means.
    pub current: Option<VersionNumber>,
    /// All readable versions, by number.
    pub versions: Vec<Version>,
    /// Versions that are there but cannot be read.
    pub damaged: Vec<Damaged>,
}

/// A version whose record cannot be read.
#[derive(Debug)]
pub struct Damaged {
    /// Its number.
    pub number: VersionNumber,
    /// Why.
    pub error: Error,
}

impl Catalogue {
    /// Opens the catalogue in `root`, making the directory if need be, and removes what
    /// interrupted builds and removals have left there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the directory cannot be made or written.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        fs::create_dir_all(&root).at("make directory", &root)?;
        let catalogue = Self { root };
        catalogue.clean()?;
        Ok(catalogue)
    }

    /// Where the catalogue is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Removes stagings that nobody works on any more, and versions whose removal was cut short.
    /// Returns how many there were.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when something cannot be deleted.
    pub fn clean(&self) -> Result<usize> {
        let _lock = ChangeLock::take(&self.root)?;
        staging::clean(&self.root)
    }

    /// All images, by name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when a directory cannot be read; a version that cannot be read is
    /// listed as damaged instead.
    pub fn list(&self) -> Result<Vec<Image>> {
        let names = self.names()?;
        let images = names
            .into_iter()
            .map(|name| self.image(name))
            .collect::<Result<Vec<_>>>()?;
        let filled = |image: &Image| !image.versions.is_empty() || !image.damaged.is_empty();
        Ok(images.into_iter().filter(filled).collect())
    }

    /// The version that `reference` means now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] names near matches and what to do.
    pub fn resolve(&self, reference: &ImageRef) -> Result<Version> {
        let number = match reference.number {
            Some(number) => number,
            None => self
                .current(&reference.image)?
                .ok_or_else(|| self.unknown(reference))?,
        };
        let dir = self.version_dir(&reference.image, number);
        if !dir.is_dir() {
            return Err(self.unknown(reference));
        }
        Version::read(&dir, &reference.image, number)
    }

    /// The version with this identity, if this server has it.
    ///
    /// # Errors
    /// As [`Catalogue::list`].
    pub fn find(&self, id: VersionId) -> Result<Option<Version>> {
        let images = self.list()?;
        let mut versions = images.into_iter().flat_map(|image| image.versions);
        Ok(versions.find(|version| version.id() == id))
    }

    /// The number that the bare name means; `None` when there is no such image.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when the pointer is no version number.
    pub fn current(&self, image: &ImageName) -> Result<Option<VersionNumber>> {
        let path = self.image_dir(image).join(layout::CURRENT);
        let target = match fs::read_link(&path) {
            Ok(target) => target,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("read link", &path, error)),
        };
        let number = target.to_str().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| {
            let context = format!(
                "{} points to {target:?}, which is no version: run `bootroom image publish {image}@N`",
                path.display()
            );
            Error::new(ErrorKind::Damaged, context)
        })
    }

    /// Begins a new version. What is written to the staging becomes one by
    /// [`Staging::finish`] and [`Catalogue::publish`], or vanishes when dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the directory cannot be made.
    pub fn stage(&self, id: VersionId) -> Result<Staging> {
        let _lock = ChangeLock::take(&self.root)?;
        staging::clean(&self.root)?;
        Staging::create(&self.root, id)
    }

    /// Publishes a staged version as the next one of its image, and makes it current.
    /// When this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the disk is full or fails; nothing is published then.
    pub fn publish(&self, staged: Staged) -> Result<Version> {
        let _lock = ChangeLock::take(&self.root)?;
        let image = staged.details.image.clone();
        layout::make_dir(&self.image_dir(&image))?;
        let number = self.next_number(&image)?;
        // All that needs space comes before the version is seen.
        self.prepare_pointer(&image, number)?;
        self.enter(staged, number)?;
        self.switch_pointer(&image)?;
        Version::read(&self.version_dir(&image, number), &image, number)
    }

    /// Makes an existing version the current one, whether newer or older than the one before.
    /// Running clients are left alone. Returns the version.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is no such version.
    pub fn set_current(&self, reference: &ImageRef) -> Result<Version> {
        let _lock = ChangeLock::take(&self.root)?;
        let version = self.resolve(reference)?;
        self.point(version.image(), version.number())?;
        Ok(version)
    }

    /// Makes the newest version below the current one current again.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none.
    pub fn rollback(&self, image: &ImageName) -> Result<Version> {
        let _lock = ChangeLock::take(&self.root)?;
        let bare = ImageRef {
            image: image.clone(),
            number: None,
        };
        let current = self.current(image)?.ok_or_else(|| self.unknown(&bare))?;
        let versions = self.image(image.clone())?.versions;
        let earlier = versions
            .into_iter()
            .rfind(|version| version.number() < current);
        let earlier = earlier.ok_or_else(|| {
            let context =
                format!("{image}@{current} is the oldest version: there is none to go back to");
            Error::new(ErrorKind::NotFound, context)
        })?;
        self.point(image, earlier.number())?;
        Ok(earlier)
    }

    pub(crate) fn image_dir(&self, image: &ImageName) -> PathBuf {
        self.root.join(image.as_str())
    }

    pub(crate) fn version_dir(&self, image: &ImageName, number: VersionNumber) -> PathBuf {
        self.image_dir(image).join(number.to_string())
    }

    /// The numbers of an image's versions, in order.
    pub(crate) fn numbers(&self, image: &ImageName) -> Result<Vec<VersionNumber>> {
        let entries = layout::entries(&self.image_dir(image))?;
        let mut numbers: Vec<_> = entries
            .iter()
            .filter_map(|(name, _)| name.parse().ok())
            .collect();
        numbers.sort();
        Ok(numbers)
    }

    pub(crate) fn image(&self, name: ImageName) -> Result<Image> {
        let current = self.current(&name).unwrap_or_else(|error| {
            tracing::warn!(%error, "image has a damaged pointer");
            None
        });
        let mut image = Image {
            name,
            current,
            versions: Vec::new(),
            damaged: Vec::new(),
        };
        for number in self.numbers(&image.name)? {
            match Version::read(&self.version_dir(&image.name, number), &image.name, number) {
                Ok(version) => image.versions.push(version),
                Err(error) => image.damaged.push(Damaged { number, error }),
            }
        }
        Ok(image)
    }

    pub(crate) fn names(&self) -> Result<Vec<ImageName>> {
        let entries = layout::entries(&self.root)?.into_iter();
        let dirs = entries.filter(|(_, path)| path.is_dir());
        Ok(dirs.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// One more than any number ever given, and made durable, so that `debian@3` always means
    /// the same build, also after version 3 was removed.
    fn next_number(&self, image: &ImageName) -> Result<VersionNumber> {
        let last = self.last_number(image)?;
        let next = last
            .map_or(1, VersionNumber::get)
            .checked_add(u32::from(last.is_some()));
        let next = next.and_then(VersionNumber::new).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                format!("image {image} has no version number left"),
            )
        })?;
        self.note_last(image, next)?;
        Ok(next)
    }

    /// The highest number ever given, if any was.
    pub(crate) fn last_number(&self, image: &ImageName) -> Result<Option<VersionNumber>> {
        let recorded = fs::read_to_string(self.image_dir(image).join(layout::LAST)).ok();
        let recorded = recorded.and_then(|text| text.trim().parse().ok());
        Ok(self.numbers(image)?.into_iter().chain(recorded).max())
    }

    pub(crate) fn note_last(&self, image: &ImageName, last: VersionNumber) -> Result<()> {
        let path = self.image_dir(image).join(layout::LAST);
        layout::replace(&path, format!("{last}\n").as_bytes())
    }

    /// Moves the staging to its place under `number`.
    fn enter(&self, staged: Staged, number: VersionNumber) -> Result<()> {
        let Staged {
            staging,
            details,
            disk,
            kernel,
            initrd,
        } = staged;
        let record = Record {
            format: FORMAT,
            id: staging.id(),
            image: details.image.clone(),
            number,
            created: details.created_unix(),
            description: details.description,
            cmdline: details.cmdline,
            disk,
            kernel,
            initrd,
        };
        staging.seal(&record)?;
        staging.become_version(&self.version_dir(&details.image, number))?;
        layout::sync(&self.image_dir(&details.image))
    }

    fn point(&self, image: &ImageName, number: VersionNumber) -> Result<()> {
        self.prepare_pointer(image, number)?;
        self.switch_pointer(image)
    }

    /// Makes the pointer under a name of its own; one that a crash has left is replaced.
    fn prepare_pointer(&self, image: &ImageName, number: VersionNumber) -> Result<()> {
        let path = self.image_dir(image).join(layout::NEW_CURRENT);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("delete", &path, error));
            }
            _ => {}
        }
        symlink(number.to_string(), &path).at("make link", &path)
    }

    /// Makes the prepared pointer the one that counts, in one step.
    fn switch_pointer(&self, image: &ImageName) -> Result<()> {
        let dir = self.image_dir(image);
        let path = dir.join(layout::CURRENT);
        fs::rename(dir.join(layout::NEW_CURRENT), &path).at("switch", &path)?;
        layout::sync(&dir)
    }

    /// Says what there is instead of what was asked for.
    fn unknown(&self, reference: &ImageRef) -> Error {
        let numbers = self.numbers(&reference.image).unwrap_or_default();
        let hint = match (&reference.number, numbers.as_slice()) {
            (_, []) => self.near(&reference.image),
            (Some(_), numbers) => format!("there are {}", join(numbers)),
            (None, numbers) => format!(
                "no version of it is current: run `bootroom image publish {}@N` with one of {}",
                reference.image,
                join(numbers)
            ),
        };
        Error::new(ErrorKind::NotFound, format!("no image {reference}: {hint}"))
    }

    fn near(&self, name: &ImageName) -> String {
        let names = self
            .list()
            .unwrap_or_default()
            .into_iter()
            .map(|image| image.name);
        let distance = |other: &ImageName| strsim::levenshtein(other.as_str(), name.as_str());
        let near = names.map(|other| (distance(&other), other)).min();
        match near {
            Some((distance, other)) if distance <= NEAR => format!("did you mean {other}?"),
            Some(_) => "`bootroom image list` shows what there is".to_owned(),
            None => "there is none yet: run `bootroom image build debian`".to_owned(),
        }
    }
}

fn join(numbers: &[VersionNumber]) -> String {
    let numbers: Vec<_> = numbers.iter().map(|number| format!("@{number}")).collect();
    numbers.join(", ")
}
