//! Damaged overlays that are kept out of the way, for whoever has their content elsewhere.

use std::path::PathBuf;

use crate::error::{Context, Result};
use crate::ids::OverlayId;
use crate::store::{Store, vacate};

const ASIDE: &str = ".damaged-";

impl Store {
    /// Puts an overlay out of the way, in whatever state it is, and keeps its files: as `.damaged-ID`, of which there is
    /// the newest only. Evicts. Nothing happens if there is none of that name.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the overlay is where it was then.
    pub fn set_aside(&self, id: &OverlayId) -> Result<()> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        vacate(&mut slot);
        let names = self.names()?;
        let has = |name: &str| names.iter().any(|known| known == name);
        if !has(id.as_str()) {
            return Ok(());
        }
        let aside = format!("{ASIDE}{id}");
        if has(&aside) {
            self.discard(&self.dir.join(&aside))?;
        }
        let naming = || format!("putting overlay {id} aside");
        let moved = self.host.rename(&self.path(id), &self.dir.join(aside));
        moved.context(naming)?;
        self.host.sync_dir(&self.dir).context(naming)?;
        self.tidy();
        Ok(())
    }

    /// The folders of what was put aside and is still there, in order of the overlays' names.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if the store's folder cannot be listed.
    pub fn aside(&self) -> Result<Vec<PathBuf>> {
        let mut names = self.names()?;
        names.retain(|name| name.starts_with(ASIDE));
        names.sort_unstable();
        Ok(names.iter().map(|name| self.dir.join(name)).collect())
    }
}
