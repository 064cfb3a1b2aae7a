//! What was discarded: out of the way at once, removed later.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::thread;

use crate::error::{Context, Result};
use crate::storage::Storage;
use crate::store::Store;

const TRASH: &str = ".trash-";

impl Store {
    /// Moves a file or folder out of the way at once, to be removed later.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        let trash = self.dir.join(format!("{TRASH}{}", self.host.fresh_uuid()));
        let moved = self.host.rename(path, &trash);
        moved.context(|| format!("discarding {}", path.display()))
    }

    /// Removes what was discarded.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn empty_trash(&self) -> Result<()> {
        empty_trash(&*self.host, &self.dir)
    }

    /// Has what was discarded removed, if that is to be done in the background.
    pub(crate) fn tidy(&self) {
        if !self.background || !self.emptying.lock().ask() {
            return;
        }
        let (host, dir, emptying) = (self.host.clone(), self.dir.clone(), self.emptying.clone());
        let work = move || {
            loop {
                if let Err(error) = empty_trash(&*host, &dir) {
                    tracing::warn!(%error, "cannot remove discarded overlays");
                }
                if emptying.lock().is_done() {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("overlay-trash".into());
        if thread.spawn(work).is_err() {
            *self.emptying.lock() = Emptying::No;
        }
    }
}

/// Whether the trash is being emptied.
#[derive(Default)]
pub(crate) enum Emptying {
    #[default]
    No,
    Yes,
    /// And there may be more than it has seen.
    Again,
}

impl Emptying {
    /// Asks for it; says whether the caller must do it.
    fn ask(&mut self) -> bool {
        let idle = matches!(self, Self::No);
        *self = if idle { Self::Yes } else { Self::Again };
        idle
    }

    /// Whether who has emptied it may go.
    fn is_done(&mut self) -> bool {
        let done = matches!(self, Self::Yes);
        *self = if done { Self::No } else { Self::Yes };
        done
    }
}

/// Removes all that can be; what cannot does not keep the rest. Fails with the first failure.
fn empty_trash(host: &dyn Storage, dir: &Path) -> Result<()> {
    let naming = || format!("emptying the trash in {}", dir.display());
    let mut stuck = HashSet::new();
    let mut outcome = Ok(());
    loop {
        let mut names = host.list(dir).context(naming)?;
        names.retain(|name| name.starts_with(TRASH) && !stuck.contains(name));
        if names.is_empty() {
            return outcome;
        }
        for name in names {
            let removed = host.remove(&dir.join(&name));
            if let Err(e) = removed.or_else(unless_gone) {
                outcome = outcome.and(Err(e).context(naming));
                stuck.insert(name);
            }
        }
    }
}

fn unless_gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}
