//! Overlays that are kept out of the way: damaged ones, and those that may be wanted back.

use std::path::PathBuf;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::OverlayId;
use crate::store::{Store, vacate};

const ASIDE: &str = ".damaged-";
const AWAY: &str = ".kept-";

impl Store {
    /// Puts an overlay out of the way, in whatever state it is, and keeps its files: as `.damaged-ID`, of which there is
    /// the newest only. Evicts. Nothing happens if there is none of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; the overlay is where it was then.
    pub fn set_aside(&self, id: &OverlayId) -> Result<()> {
        self.hide(id, ASIDE, true)
    }

    /// Puts an overlay out of the way as `.kept-ID`, so that another may be made under its name. Evicts. Nothing happens
    /// if there is none of that name.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if one is away already; [`ErrorKind::Io`]. The overlay is where it was then.
    pub fn put_away(&self, id: &OverlayId) -> Result<()> {
        self.hide(id, AWAY, false)
    }

    fn hide(&self, id: &OverlayId, prefix: &str, newest: bool) -> Result<()> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        let naming = || format!("putting overlay {id} out of the way");
        let hidden = format!("{prefix}{id}");
        let names = self.names()?;
        if !has(&names, id.as_str()) {
            return Ok(());
        }
        if has(&names, &hidden) {
            if !newest {
                return Err(Error::new(ErrorKind::Exists, naming()));
            }
            self.discard(&self.dir.join(&hidden))?;
        }
        vacate(&mut slot);
        let moved = self.host.rename(&self.path(id), &self.dir.join(hidden));
        moved.context(naming)?;
        self.host.sync_dir(&self.dir).context(naming)?;
        self.tidy();
        Ok(())
    }

    /// Gives an overlay that is away its name again; one that has the name is deleted. Evicts. Nothing happens if none is
    /// away.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; it may be away still, and the other one deleted.
    pub fn bring_back(&self, id: &OverlayId) -> Result<()> {
        let slot = self.slot(id);
        let mut slot = slot.lock();
        let away = format!("{AWAY}{id}");
        let names = self.names()?;
        if !has(&names, &away) {
            return Ok(());
        }
        if has(&names, id.as_str()) {
            vacate(&mut slot);
            self.discard(&self.path(id))?;
        }
        let naming = || format!("bringing overlay {id} back");
        let moved = self.host.rename(&self.dir.join(away), &self.path(id));
        moved.context(naming)?;
        self.host.sync_dir(&self.dir).context(naming)?;
        self.tidy();
        Ok(())
    }

    /// Deletes all overlays that are away.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; some may be deleted then.
    pub fn drop_away(&self) -> Result<()> {
        let mut names = self.names()?;
        names.retain(|name| name.starts_with(AWAY));
        for name in &names {
            self.discard(&self.dir.join(name))?;
        }
        if !names.is_empty() {
            let synced = self.host.sync_dir(&self.dir);
            synced.context(|| "deleting overlays that are away".into())?;
            self.tidy();
        }
        Ok(())
    }

    /// The folders of what was put aside and is still there, in order of the overlays' names.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the store's folder cannot be listed.
    pub fn aside(&self) -> Result<Vec<PathBuf>> {
        let mut names = self.names()?;
        names.retain(|name| name.starts_with(ASIDE));
        names.sort_unstable();
        Ok(names.iter().map(|name| self.dir.join(name)).collect())
    }
}

fn has(names: &[String], name: &str) -> bool {
    names.iter().any(|known| known == name)
}
