//! Volumes of a standby whose overlays are damaged: put aside, and taken from the primary as a whole. That is found when one
//! is opened, or when it is in use: a file that failed once is not relied on any more, since a disk that has one bad sector
//! may have more, and only what the machines touch would be sent again.
//!
//! That has two steps, so that a crash between them forgets nothing. In one session the overlay is put aside and its row
//! stays; the machine notes durably that all of it has to come, and gives that session up. In the next the row goes, and
//! the volume is made afresh. A start in between finds a row without an overlay, which is noted as well.

use mirror::{BLOCK, BlockRange, Blocks, VolumeId};
use overlay::{Error, ErrorKind};

use super::volumes::{Lost, Volumes};

impl Volumes {
    /// Remembers that a volume's files failed, if that is what the error says.
    pub(super) fn note_failure(&self, volume: VolumeId, error: &anyhow::Error) {
        if error.downcast_ref::<Error>().is_some_and(Error::is_damage) {
            self.failed.lock().insert(volume);
        }
    }

    /// Whether a volume's files failed since this server was started.
    pub fn has_failed(&self, volume: VolumeId) -> bool {
        self.failed.lock().contains(&volume)
    }

    /// Why a volume is lost, if it is.
    fn loss(&self, volume: VolumeId) -> Option<String> {
        if self.has_failed(volume) {
            return Some("it failed while it was in use".into());
        }
        let error = self.attachment(volume).err()?;
        is_lost(&error).then(|| error.to_string())
    }

    /// Puts aside what cannot be opened and never will be, and what failed. Only on a server whose data are being replaced by
    /// the other's.
    ///
    /// # Errors
    /// An overlay cannot be put aside.
    pub fn set_damaged_aside(&self) -> overlay::Result<Lost> {
        let mut lost = Lost::new();
        for (volume, spec) in self.specs() {
            let Some(why) = self.loss(volume) else {
                continue;
            };
            let overlay = &spec.overlay;
            tracing::error!(
                "overlay {overlay} is damaged and put aside; all of it comes from the other server: {why}"
            );
            self.store.set_aside(overlay)?;
            self.let_go(volume);
            self.failed.lock().remove(&volume);
            lost.push((volume, spec.size));
        }
        self.aside.lock().extend(&lost);
        Ok(lost)
    }

    /// Forgets the volumes that were put aside in an earlier session.
    ///
    /// # Errors
    /// The table cannot be written.
    pub fn forget_aside(&self) -> anyhow::Result<()> {
        let mut aside = self.aside.lock();
        if !aside.is_empty() {
            self.forget(&aside)?;
        }
        aside.clear();
        Ok(())
    }
}

/// One that is merely in the way of something else, or whose image version is not here, is not lost.
fn is_lost(error: &Error) -> bool {
    error.is_damage() || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Evicted)
}

/// All blocks of volumes that are lost.
pub fn blocks_of(lost: &[(VolumeId, u64)]) -> Blocks {
    let mut blocks = Blocks::default();
    for (volume, size) in lost {
        let (start, end) = (0, size.div_ceil(BLOCK));
        blocks.insert(*volume, BlockRange { start, end });
    }
    blocks
}
