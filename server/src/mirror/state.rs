//! The file with what a server of a pair must find again: `mirror/state` in the data directory.
//!
//! `BRmirro1`, the CRC-32C of what follows (4 bytes), the host's boot id at the time of writing (16 bytes), the state
//! (PROTOCOL.md of the `mirror` crate, "On the wire"). Replaced as a whole. A file that is damaged is refused: without it
//! nobody knows what may differ from the other server.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use mirror::Durable;
use overlay::{HostDisk, Storage};
use uuid::Uuid;

use crate::files::{Magic, PRIVATE, private_folder, seal, unseal, write_whole};

const MAGIC: Magic = *b"BRmirro1";
const BOOT: usize = 16;

/// The file.
pub struct StateFile {
    path: PathBuf,
    boot: Uuid,
}

/// What was found in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// The state; that of a new server if there was none.
    pub durable: Durable,
    /// The host started anew since it was written.
    pub power_lost: bool,
}

impl StateFile {
    /// Opens or begins the file in `folder`, as of the host's boot that there is now, which is what the overlays go by.
    ///
    /// # Errors
    /// As [`StateFile::open`], or the boot id cannot be read.
    pub fn of_this_host(folder: &Path) -> anyhow::Result<(Self, Found)> {
        let boot = HostDisk
            .boot_id()
            .context("cannot read the host's boot id")?;
        Self::open(folder, boot)
    }

    /// Opens or begins the file in `folder`. `boot` is the host's boot id.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn open(folder: &Path, boot: Uuid) -> anyhow::Result<(Self, Found)> {
        let naming = || format!("cannot make {}", folder.display());
        private_folder(folder).with_context(naming)?;
        let file = Self {
            path: folder.join("state"),
            boot,
        };
        let found = file.load()?;
        Ok((file, found))
    }

    /// Whether there is such a file.
    pub fn exists(&self) -> bool {
        self.path.exists()
    }

    fn load(&self) -> anyhow::Result<Found> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Found {
                    durable: Durable::default(),
                    power_lost: false,
                });
            }
            read => read.with_context(|| format!("cannot read {}", self.path.display()))?,
        };
        let (boot, durable) = decode(&bytes).ok_or_else(|| Damaged(self.path.clone()))?;
        Ok(Found {
            durable,
            power_lost: boot != self.boot,
        })
    }

    /// Replaces the state; durable when this returns.
    ///
    /// # Errors
    /// The disk did not take it.
    pub fn save(&self, durable: &Durable) -> io::Result<()> {
        write_whole(&self.path, &self.encode(durable), PRIVATE)
    }

    fn encode(&self, durable: &Durable) -> Vec<u8> {
        let mut content = self.boot.as_bytes().to_vec();
        content.extend(durable.encode());
        seal(MAGIC, &content)
    }
}

/// What the file holds cannot be told.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} is damaged: what differs from the other server is not known any more. If the other one has everything, move this \
     server's data directory away and start again: it then takes all from the other one. If that one is lost: `bootroom \
     standby leave` makes this one a single server, with its disks as they are",
    .0.display()
)]
pub struct Damaged(PathBuf);

fn decode(bytes: &[u8]) -> Option<(Uuid, Durable)> {
    let (boot, state) = unseal(MAGIC, bytes)?.split_at_checked(BOOT)?;
    let boot = Uuid::from_slice(boot).ok()?;
    let durable = Durable::decode(bytes::Bytes::copy_from_slice(state)).ok()?;
    Some((boot, durable))
}

#[cfg(test)]
mod tests {
    use mirror::Term;

    use super::*;

    #[test]
    fn the_state_comes_back_with_word_of_a_power_cut_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let (file, found) = StateFile::open(folder.path(), one).unwrap();
        assert_eq!(
            (found.durable, found.power_lost),
            (Durable::default(), false)
        );
        let durable = Durable {
            term: Term(6),
            ..Durable::default()
        };
        file.save(&durable).unwrap();
        let again = |boot| StateFile::open(folder.path(), boot).unwrap().1;
        assert_eq!(
            (again(one).durable, again(one).power_lost),
            (durable, false)
        );
        assert!(again(two).power_lost);
        let good = fs::read(&file.path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file.path, bad).unwrap();
            assert!(file.load().unwrap_err().to_string().contains("damaged"));
        }
    }
}
