//! Which versions a server has.

use std::collections::HashSet;

use anyhow::bail;
use images::{Catalogue, ImageName, ImageRef, Original, VersionId};

/// The versions of a server.
#[derive(Debug, Default)]
pub struct Listing {
    /// All that this release can read.
    pub versions: Vec<Listed>,
    /// Those that were there and were removed.
    pub removed: HashSet<VersionId>,
    /// Why others cannot be read: a newer release made them.
    pub unreadable: Vec<images::Error>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What it is.
    pub version: Original,
    /// Whether the bare name of its image means it.
    pub current: bool,
}

impl Listing {
    /// Whether the version is among them.
    pub fn has(&self, id: VersionId) -> bool {
        self.versions.iter().any(|one| one.version.id() == id)
    }

    /// Takes one in that another server has named.
    pub(super) fn add(&mut self, current: bool, record: &[u8]) {
        match Original::parse(record) {
            Ok(version) => self.versions.push(Listed { version, current }),
            Err(error) => self.unreadable.push(error),
        }
    }

    /// One number has one version and one version one number, or it is no catalogue's.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let mut ids = HashSet::<VersionId>::new();
        let mut places = HashSet::<ImageRef>::new();
        let mut current = HashSet::<&ImageName>::new();
        for Listed {
            version,
            current: is,
        } in &self.versions
        {
            let fresh = ids.insert(version.id()) && places.insert(version.reference());
            if !fresh || (*is && !current.insert(version.image())) {
                bail!(
                    "the other server lists {version} twice, or two current versions of its image"
                );
            }
        }
        Ok(())
    }
}

/// The versions in `listing` that `catalogue` does not have.
///
/// # Errors
/// When the catalogue cannot be read.
pub fn lacking(catalogue: &Catalogue, listing: &Listing) -> images::Result<Vec<VersionId>> {
    let images = catalogue.list()?;
    let here: HashSet<_> = images
        .iter()
        .flat_map(|image| &image.versions)
        .map(|version| version.id())
        .collect();
    let there = listing.versions.iter().map(|one| one.version.id());
    Ok(there.filter(|id| !here.contains(id)).collect())
}
