//! A server that was one of a pair goes on by itself. Only when a person says so: the other one may be serving the same
//! disks, and what either changes without the other's knowledge nobody could put together again.

use std::{fs, io, path::Path};

use anyhow::{Context, bail};
use mirror::Durable;
use overlay::{HostDisk, Storage};

use super::{
    pair::{clear_strangers, open_overlays, open_volumes},
    state::StateFile,
    store::volumes::Volumes,
};
use crate::{clients::versions::OpenVersions, config::Config, files::sync_folder};

/// What a data directory says of the server that it is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It was never one of a pair, or is no longer.
    None,
    /// It was the primary last.
    Primary,
    /// It was the standby last, or waited for the other one, and its disks are whole.
    Follower,
    /// It was being brought up as the standby.
    HalfOld,
}

impl Part {
    fn of(durable: &Durable) -> Self {
        match durable {
            Durable {
                inconsistent: true, ..
            } => Self::HalfOld,
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
/// What it says of a pair cannot be read, or is damaged.
pub fn part(data: &Path) -> anyhow::Result<Part> {
    let folder = data.join("mirror");
    match folder.is_dir() {
        true => state_in(&folder).map(|(_, durable)| Part::of(&durable)),
        false => Ok(Part::None),
    }
}

fn state_in(folder: &Path) -> anyhow::Result<(StateFile, Durable)> {
    let boot = HostDisk
        .boot_id()
        .context("cannot read the host's boot id")?;
    let (state, found) = StateFile::open(folder, boot)?;
    Ok((state, found.durable))
}

/// Makes the data directory one of a single server. May be cut off anywhere and begun again.
///
/// # Errors
/// The server is running, its disks are half old, or its files cannot be changed.
pub fn leave(config: &Config) -> anyhow::Result<()> {
    let data = &config.server.data.value;
    let folder = data.join("mirror");
    // Taken as long as a server runs.
    let overlays = std::sync::Arc::new(open_overlays(config, 0)?);
    let (state, mut durable) = state_in(&folder)?;
    if Part::of(&durable) == Part::HalfOld {
        bail!("the disks of this server are half old and half new");
    }
    let versions = std::sync::Arc::new(OpenVersions::of(images::Catalogue::open(
        config.server.images(),
    )?));
    let (volumes, _) = open_volumes(&folder, overlays.clone(), &versions)?;
    clear_strangers(&volumes, &overlays)?;
    durable.kept = None;
    state
        .save(&durable)
        .context("cannot write the state of the pair")?;
    fold(&volumes);
    overlays.drop_away()?;
    drop(volumes);
    // What is said of the pair goes first: a server that has it, and not the table, would take its disks for leftovers.
    for name in ["state", "kept", "volumes.redb"] {
        remove(&folder.join(name))?;
    }
    Ok(())
}

/// Folds what was taken to be gone back to. A disk that cannot be opened concerns its machine only.
fn fold(volumes: &Volumes) {
    for (volume, spec) in volumes.specs() {
        let opened = volumes.overlay(volume);
        let folded =
            opened.and_then(|found| found.map_or(Ok(()), |one| one.fold_hidden(|_| false)));
        if let Err(error) = folded {
            let overlay = &spec.overlay;
            tracing::warn!("overlay {overlay}: what was kept from before a resync stays: {error}");
        }
    }
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed
            .and_then(|()| sync_folder(path))
            .with_context(|| format!("cannot remove {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
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
        let (state, new) = state_in(&folder).unwrap();
        assert_eq!(
            part(data.path()).unwrap(),
            Part::None,
            "it was never paired"
        );
        let of = Incarnation(1);
        let paired = Durable {
            history: vec![Generation { of, number: 1 }],
            ..new
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
                Part::HalfOld,
            ),
        ];
        for (durable, expected) in cases {
            state.save(&durable).unwrap();
            assert_eq!(part(data.path()).unwrap(), expected);
        }
        fs::write(folder.join("state"), "no state").unwrap();
        assert!(part(data.path()).is_err());
    }
}
