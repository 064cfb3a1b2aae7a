//! Volumes of a standby whose overlays are damaged: put aside, and taken from the primary as a whole.
//!
//! That has two steps, so that a crash between them forgets nothing. In one session the overlay is put aside and its row
//! stays; the machine notes durably that all of it has to come, and gives that session up. In the next the row goes, and
//! the volume is made afresh. A start in between finds a row without an overlay, which is noted as well.

use mirror::{BLOCK, BlockRange, Blocks, VolumeId};
use overlay::{Error, ErrorKind};

use super::volumes::{Lost, Volumes};

impl Volumes {
    /// Puts aside what cannot be opened and never will be. Only on a server whose data are being replaced by the other's.
    ///
    /// # Errors
    /// An overlay cannot be put aside.
    pub fn set_damaged_aside(&self) -> overlay::Result<Lost> {
        let mut lost = Lost::new();
        for (volume, spec) in self.specs() {
            let error = match self.attachment(volume) {
                Err(error) if is_lost(&error) => error,
                _ => continue,
            };
            let overlay = &spec.overlay;
            tracing::error!(
                "overlay {overlay} is damaged and put aside; all of it comes from the other server: {error}"
            );
            self.store.set_aside(overlay)?;
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
