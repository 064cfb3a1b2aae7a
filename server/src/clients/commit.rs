//! Commit: a client's disk becomes the next version of an image.
//!
//! The disk is copied from a snapshot, so the machine may run on meanwhile; what it gets is then what a power cut at
//! that moment would have left, which its filesystem's journal mends at the first mount.

use std::{
    fs::File,
    ops::ControlFlow,
    time::{SystemTime, UNIX_EPOCH},
};

use images::{Cancel, Details, ImageName, Progress, Staging, Version, VersionId};
use overlay::{ErrorKind as OverlayError, Overlay, SnapshotName};
use pxe::Mac;

use super::{Clients, Error, ErrorKind, Result};

/// The snapshot that a commit copies from; one that a crash left is dropped by the next commit.
const SNAPSHOT: &str = "commit";

impl Clients {
    /// Makes the disk of `name` the next version of `image`, and that version current.
    ///
    /// # Errors
    /// When there is no such client, it has no overlay, it is being committed already, or the copy fails; nothing is
    /// published then.
    pub fn commit(
        &self,
        name: &str,
        image: ImageName,
        description: String,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Version> {
        let mac = self.find(name)?.mac;
        let _turn = Turn::take(self, mac)?;
        let overlay = self.disks.open_existing(mac)?;
        let base = self.disks.base_of(&overlay)?;
        let failed = |error| Error::disk(format!("cannot publish the disk of {name}"), error);
        let catalogue = self.disks.catalogue();
        let staging = catalogue.stage(VersionId::random()).map_err(failed)?;
        staging.copy_boot_files(&base).map_err(failed)?;
        copy(&overlay, &staging, progress, cancel)?;
        let details = Details {
            image,
            created: SystemTime::now(),
            description,
            cmdline: base.cmdline().to_owned(),
        };
        let staged = staging.finish(details, progress, cancel).map_err(failed)?;
        catalogue.publish(staged).map_err(failed)
    }
}

/// The right to commit one machine; given back at the end.
struct Turn<'a> {
    clients: &'a Clients,
    mac: Mac,
}

impl<'a> Turn<'a> {
    fn take(clients: &'a Clients, mac: Mac) -> Result<Self> {
        match clients.committing.lock().insert(mac) {
            true => Ok(Turn { clients, mac }),
            false => Err(Error::new(
                ErrorKind::NotBootable,
                "its disk is being committed already",
            )),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.clients.committing.lock().remove(&self.mac);
    }
}

fn copy(
    overlay: &Overlay,
    staging: &Staging,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    let name = SnapshotName::new(SNAPSHOT).map_err(|e| failed(overlay, e))?;
    drop_snapshot(overlay, &name)?;
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    overlay
        .snapshot(&name, since.as_secs())
        .map_err(|e| failed(overlay, e))?;
    let copied = copy_snapshot(overlay, &name, staging, progress, cancel);
    let dropped = drop_snapshot(overlay, &name);
    copied.and(dropped)
}

fn copy_snapshot(
    overlay: &Overlay,
    name: &SnapshotName,
    staging: &Staging,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<()> {
    progress.phase("Copying the disk");
    let path = staging.disk_path();
    let making = |error| Error::disk(format!("cannot make {}", path.display()), error);
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(making)?;
    let view = overlay
        .snapshot_view(name)
        .map_err(|e| failed(overlay, e))?;
    let mut tell = |state: overlay::Progress| {
        progress.fraction(state.done as f64 / state.size.max(1) as f64);
        match cancel.is_cancelled() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    view.copy_to(&file, &mut tell)
        .map_err(|e| failed(overlay, e))
}

fn drop_snapshot(overlay: &Overlay, name: &SnapshotName) -> Result<()> {
    match overlay.drop_snapshot(name) {
        Err(error) if error.kind() != OverlayError::NotFound => Err(failed(overlay, error)),
        _ => Ok(()),
    }
}

fn failed(overlay: &Overlay, error: overlay::Error) -> Error {
    Error::disk(format!("cannot copy overlay {}", overlay.id()), error)
}
