//! A server that was alone becomes the first of a pair: its overlays are volumes from now on.

use anyhow::Context;
use mirror::VolumeId;
use overlay::OverlayInfo;

use super::{PairStore, volumes::Volumes};

impl Volumes {
    /// Makes volumes of all overlays that are none yet: of all or of none, since one that were left out would be taken for
    /// what a crash left behind at the next start, and removed. `base_size` says how large the image version below an
    /// overlay is, in bytes.
    ///
    /// # Errors
    /// An overlay cannot be read, or its image version is not here; the table cannot be written.
    pub fn adopt_all(&self, base_size: &dyn Fn(&OverlayInfo) -> Option<u64>) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for (id, info) in self.strangers()? {
            let refused = || {
                format!(
                    "overlay {id} cannot become a disk of the pair. Mend it, or move its folder out of the data directory, \
                     and start again"
                )
            };
            let info = info.with_context(refused)?;
            let version = info.base.version;
            let size = base_size(&info);
            let size = size.with_context(|| format!("its image version {version} is not here"));
            all.push((info, size.with_context(refused)?));
        }
        for (info, size) in all {
            self.adopt(VolumeId::from(PairStore::fresh_volume()?), &info, size)?;
        }
        Ok(())
    }
}
