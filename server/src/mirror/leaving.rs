//! A server that was one of a pair goes on by itself. Only when a person says so: the other one may be serving the same
//! disks, and what either changes without the other's knowledge nobody could put together again.

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use images::Catalogue;
use mirror::Durable;
use overlay::Store;

use super::{
    pair::{open_overlays, open_volumes},
    state::{Damaged, StateFile},
};
use crate::{clients::versions::OpenVersions, config::Config, files::remove};

/// What a data directory says of the server that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It was never one of a pair, or is no longer.
    None,
    /// It was the primary last.
    Primary,
    /// It was the standby last, or waited for the other one, and its disks are whole.
    Follower,
    /// It waits for the other one's data: its disks are half old and half new, or one of them was lost.
    Incomplete,
    /// That is not known any more.
    Unknown,
}

impl Part {
    fn of(durable: &Durable) -> Self {
        match durable {
            Durable {
                inconsistent: true, ..
            } => Self::Incomplete,
            Durable { history, .. } if history.is_empty() => Self::None,
            Durable {
                last_primary: true, ..
            } => Self::Primary,
            _ => Self::Follower,
        }
    }
}

/// Looks at the data directory `data`.
///
/// # Errors
/// What it says of a pair cannot be read.
pub fn part(data: &Path) -> anyhow::Result<Part> {
    let folder = data.join("mirror");
    if !folder.is_dir() {
        return Ok(Part::None);
    }
    match StateFile::of_this_host(&folder) {
        // Somebody took the state away while a resync was under way.
        Ok((state, _)) if !state.exists() && keeps(&folder) => Ok(Part::Unknown),
        Ok((_, found)) => Ok(Part::of(&found.durable)),
        Err(error) if error.is::<Damaged>() => Ok(Part::Unknown),
        Err(error) => Err(error),
    }
}

/// Whether something is kept from before a resync, which then has not ended.
fn keeps(folder: &Path) -> bool {
    folder.join("kept").exists()
}

/// Why a server that is [`Part::Incomplete`] cannot leave.
pub const INCOMPLETE: &str = "\
this server waits for what the other one has: its disks are half old and half new, or one was lost. Start it with [standby] and \
let the other server bring it up. If that one is lost: start this one with [standby] all the same, `bootroom standby promote \
--force` (with `--before-resync` for what it held before a resync), stop it, and leave then";

/// Makes the data directory one of a single server; gives in words what stays and takes up space. May be cut off anywhere and
/// begun again.
///
/// # Errors
/// The server is running, it lacks what the other one has, or its files cannot be changed.
pub fn leave(config: &Config) -> anyhow::Result<Vec<String>> {
    let data = &config.server.data.value;
    let folder = data.join("mirror");
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    // Taken as long as a server runs.
    let overlays = open_overlays(config, 0).context("stop the server first")?;
    let part = part(data)?;
    if part == Part::Incomplete {
        bail!(INCOMPLETE);
    }
    let remarks = match part {
        Part::Primary | Part::Follower => fold(config, &folder, Arc::new(overlays))?,
        // It may be all that is whole.
        Part::Unknown if keeps(&folder) => {
            vec!["what was kept from before a resync stays in the folders of the overlays".into()]
        }
        _ => Vec::new(),
    };
    // The table last: a server that has a state, and no table, would take its disks for leftovers.
    for name in ["kept", "state", "volumes.redb"] {
        let path = folder.join(name);
        remove(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(remarks)
}

/// Gives back what was kept to be gone back to; says what of it stays.
fn fold(config: &Config, folder: &Path, overlays: Arc<Store>) -> anyhow::Result<Vec<String>> {
    let versions = OpenVersions::of(Catalogue::open(config.server.images())?);
    let mut remarks = Vec::new();
    match open_volumes(folder, overlays.clone(), &Arc::new(versions)) {
        Ok((volumes, _)) => {
            for (volume, spec) in volumes.specs() {
                let overlay = &spec.overlay;
                if let Err(error) = volumes.fold_hidden(volume, overlay, |_| false) {
                    remarks.push(format!(
                        "overlay {overlay}: what was kept from before a resync stays: {error}"
                    ));
                }
                volumes.let_go(volume); // There may be more disks than files that may be open.
            }
        }
        Err(error) => remarks.push(format!(
            "what was kept of disks from before a resync stays, if there is any: {error:#}"
        )),
    }
    overlays.drop_away()?;
    Ok(remarks)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use mirror::{Generation, Incarnation};

    use super::*;

    #[test]
    fn only_a_server_that_has_data_of_a_pair_is_one_of_it() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(part(data.path()).unwrap(), Part::None);
        assert!(
            !data.path().join("mirror").exists(),
            "looking makes nothing"
        );
        let folder = data.path().join("mirror");
        let (state, found) = StateFile::open(&folder, uuid::Uuid::nil()).unwrap();
        assert_eq!(
            part(data.path()).unwrap(),
            Part::None,
            "it was never paired"
        );
        let of = Incarnation(1);
        let paired = Durable {
            history: vec![Generation { of, number: 1 }],
            ..found.durable
        };
        let cases = [
            (paired.clone(), Part::Follower),
            (
                Durable {
                    last_primary: true,
                    ..paired.clone()
                },
                Part::Primary,
            ),
            (
                Durable {
                    inconsistent: true,
                    ..paired
                },
                Part::Incomplete,
            ),
        ];
        for (durable, expected) in cases {
            state.save(&durable).unwrap();
            assert_eq!(part(data.path()).unwrap(), expected);
        }
        fs::write(folder.join("state"), "no state").unwrap();
        assert_eq!(part(data.path()).unwrap(), Part::Unknown);
        fs::remove_file(folder.join("state")).unwrap();
        assert_eq!(part(data.path()).unwrap(), Part::None);
        fs::write(folder.join("kept"), "").unwrap();
        assert_eq!(part(data.path()).unwrap(), Part::Unknown);
    }
}
