//! The witness' file. PROTOCOL.md of the `mirror` crate, "The witness' file", has the layout.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use mirror::WitnessState;
use rustix::fs::{FlockOperation, flock};

use crate::files::{Magic, PRIVATE, seal, sync_folder, unseal, write_whole};

const MAGIC: Magic = *b"BRwitns1";
/// No state is longer: what is, is none.
const LONGEST: u64 = 256;

/// The file, locked by this process.
pub struct StateFile {
    folder: PathBuf,
    _lock: File,
}

impl StateFile {
    /// Opens the folder, which is made if it is not there, and reads the state, if there is one.
    ///
    /// # Errors
    /// Another process has it; it cannot be read; it is damaged.
    pub fn open(folder: &Path) -> anyhow::Result<(Self, Option<WitnessState>)> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let file = Self {
            folder: folder.to_owned(),
            _lock: lock(folder)?,
        };
        let state = file.load()?;
        Ok((file, state))
    }

    fn path(&self) -> PathBuf {
        self.folder.join("witness")
    }

    fn load(&self) -> anyhow::Result<Option<WitnessState>> {
        let path = self.path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
        };
        // A process that died between rename and sync left a state that is there and not yet durable.
        let synced = file.sync_all().and_then(|()| sync_folder(&path));
        synced.with_context(|| format!("cannot sync {}", path.display()))?;
        if file.metadata()?.len() > LONGEST {
            return Err(damaged(&path));
        }
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        decode(&bytes).map(Some).ok_or_else(|| damaged(&path))
    }

    /// Replaces the state; durable when this returns.
    ///
    /// # Errors
    /// The disk did not take it. Either state may be found at the next open.
    pub fn save(&self, state: &WitnessState) -> anyhow::Result<()> {
        let saved = write_whole(&self.path(), &encode(state), PRIVATE);
        saved.with_context(|| format!("cannot write {}", self.path().display()))
    }
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join(".lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("{} is in use by another witness", folder.display());
    }
    Ok(file)
}

fn damaged(path: &Path) -> anyhow::Error {
    anyhow::anyhow!(
        "{} is damaged. No backup may take its place: remove it; the witness then begins under a new identity, which a \
         pair that is in sync accepts by itself, and a server that is alone when it is told to",
        path.display()
    )
}

/// A state as the bytes that are kept of it, wherever that is.
pub fn encode(state: &WitnessState) -> Vec<u8> {
    seal(MAGIC, &state.encode())
}

/// Reads what [`encode`] made; `None` if it is damaged.
pub fn decode(bytes: &[u8]) -> Option<WitnessState> {
    let content = unseal(MAGIC, bytes)?;
    WitnessState::decode(bytes::Bytes::copy_from_slice(content)).ok()
}

#[cfg(test)]
mod tests {
    use mirror::{NodeId, Record, Revision, Term, WitnessId};

    use super::*;

    fn state() -> WitnessState {
        let record = Record {
            term: Term(4),
            holder: NodeId::A,
            outdated: Some(NodeId::B),
        };
        WitnessState {
            id: WitnessId(77),
            revision: Revision(5),
            record: Some(record),
        }
    }

    #[test]
    fn a_state_comes_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (file, none) = StateFile::open(folder.path()).unwrap();
        assert_eq!(none, None);
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), Some(state()));
        let good = fs::read(file.path()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(file.path(), bad).unwrap();
            assert!(file.load().unwrap_err().to_string().contains("damaged"));
        }
        for length in 0..good.len() {
            fs::write(file.path(), &good[..length]).unwrap();
            assert!(file.load().is_err());
        }
    }

    #[test]
    fn one_process_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateFile::open(folder.path()).unwrap();
        let second = StateFile::open(folder.path()).err().unwrap();
        assert!(second.to_string().contains("in use"));
        drop(first);
        StateFile::open(folder.path()).unwrap();
    }

    #[test]
    fn a_write_that_was_cut_short_leaves_the_old_state() {
        let folder = tempfile::tempdir().unwrap();
        let (file, _) = StateFile::open(folder.path()).unwrap();
        file.save(&state()).unwrap();
        fs::write(folder.path().join("witness.new"), b"BRwi").unwrap();
        assert_eq!(file.load().unwrap(), Some(state()));
    }
}
