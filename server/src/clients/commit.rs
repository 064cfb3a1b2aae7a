//! Commit: a client's disk becomes the next version of an image.
//!
//! The disk is copied from a snapshot, so the machine may run on meanwhile; what it gets is then what a power cut at
//! that moment would have left, which its filesystem's journal mends at the first mount.

use std::{fs::File, ops::ControlFlow, sync::Arc, time::SystemTime};

use images::{Cancel, Details, ImageName, Progress, Staging, Version, VersionId};
use overlay::{ErrorKind as OverlayError, Overlay, SnapshotName, View};
use pxe::Mac;

use super::{
    Clients, Error, ErrorKind, Result, disks::overlay_id, overlays::Held, snapshots::seconds_now,
};

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
        let (overlay, base, view) = self.freeze(name, &image)?;
        let failed = |error| Error::disk(format!("cannot publish the disk of {name}"), error);
        let catalogue = self.disks.catalogue();
        let staging = catalogue.stage(VersionId::random()).map_err(failed)?;
        staging.copy_boot_files(&base).map_err(failed)?;
        let copied = copy(&overlay, &view, &staging, progress, cancel);
        drop_snapshot(&overlay);
        copied?;
        let details = Details {
            image,
            created: SystemTime::now(),
            description,
            cmdline: base.cmdline().to_owned(),
        };
        let staged = staging.finish(details, progress, cancel).map_err(failed)?;
        catalogue.publish(staged).map_err(failed)
    }

    /// The machine's disk of `image`, or else the one that is meant by its name alone, as it is now, and the version that
    /// it lies over. A machine that comes back to its disk is not kept waiting: a fresh disk that is made meanwhile is
    /// noticed instead.
    fn freeze(&self, name: &str, image: &ImageName) -> Result<(Arc<Held>, Version, View)> {
        let record = self.find(name)?;
        let same = overlay_id(record.mac, image);
        let id = match self.disks.info(&same)? {
            Some(_) => same,
            None => self.main_disk(&record)?,
        };
        let overlay = self.disks.open_existing(&id)?;
        drop_snapshot(&overlay);
        let before = overlay.info().incarnation;
        let base = self.disks.base_of(&overlay)?;
        let view = take_view(&overlay)?;
        if overlay.info().incarnation == before {
            return Ok((overlay, base, view));
        }
        drop_snapshot(&overlay);
        let text = format!("{name} was given a fresh disk at this moment: try again");
        Err(Error::new(ErrorKind::NotBootable, text))
    }
}

fn take_view(overlay: &Overlay) -> Result<View> {
    let name = snapshot_name();
    overlay
        .snapshot(&name, seconds_now())
        .map_err(|e| failed(overlay, e))?;
    overlay.snapshot_view(&name).map_err(|e| failed(overlay, e))
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
    view: &View,
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

/// Whether a snapshot of that name belongs to commits.
pub(super) fn is_own(name: &SnapshotName) -> bool {
    name.as_str() == SNAPSHOT
}

fn snapshot_name() -> SnapshotName {
    SnapshotName::new(SNAPSHOT).unwrap_or_else(|_| unreachable!("{SNAPSHOT} names a snapshot"))
}

/// What cannot be dropped takes room until the next commit tries again; what was copied is good all the same.
fn drop_snapshot(overlay: &Overlay) {
    match overlay.drop_snapshot(&snapshot_name()) {
        Err(error) if error.kind() != OverlayError::NotFound => {
            tracing::warn!(
                "the snapshot of a commit stays in overlay {}: {error}",
                overlay.id()
            );
        }
        _ => {}
    }
}

fn failed(overlay: &Overlay, error: overlay::Error) -> Error {
    Error::disk(format!("cannot copy overlay {}", overlay.id()), error)
}
