//! The manifest: what an overlay consists of. Replaced as a whole, atomically.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::changes::SnapshotId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::{BLOCK, BaseId, MAX_SIZE, SnapshotName};
use crate::space::{Limits, Retention};
use crate::storage::{OpenMode, Storage};

/// The format that this release writes, and the newest that it reads.
pub(crate) const FORMAT: u32 = 1;
const FILE: &str = "manifest";
const NEXT: &str = "manifest.next";
const MAGIC: &str = "bootroom-overlay";
/// Longest manifest that is read.
const MAX_LEN: u64 = 1 << 20;
/// Most layers: keeps look-ups short, and the manifest below its limit.
pub(crate) const MAX_LAYERS: usize = 256;

/// A snapshot, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// Its name, unique in the overlay.
    pub name: SnapshotName,
    /// When it was taken, in seconds since 1970, as the caller said.
    pub taken: u64,
}

/// One layer, as the manifest names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerEntry {
    pub uuid: Uuid,
    /// The snapshot that froze it; the newest layer has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Snapshot>,
}

/// What an overlay consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Changes at every reset.
    pub incarnation: Uuid,
    /// Bytes.
    pub size: u64,
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    pub retention: Retention,
    pub base: BaseId,
    /// Bytes.
    pub base_size: u64,
    /// The run of the host's kernel in which the live map is right; nil for none.
    pub boot: Uuid,
    /// Oldest first; the last is the one that changes.
    pub layers: Vec<LayerEntry>,
}

impl Manifest {
    /// The bytes of the manifest file.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let body = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::io("encoding a manifest", e.into()))?;
        let sum = crc32c::crc32c(&body);
        let mut bytes = format!("{MAGIC} {FORMAT} {sum:08x}\n").into_bytes();
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// Reads the bytes of a manifest file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let bad = |what: &str| Error::new(ErrorKind::Corrupt, format!("the manifest {what}"));
        let newline = bytes.iter().take(64).position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(newline.ok_or_else(|| bad("has no first line"))?);
        let body = &body[1..];
        let head = std::str::from_utf8(head).map_err(|_| bad("has a garbled first line"))?;
        let mut words = head.split(' ');
        if words.next() != Some(MAGIC) {
            return Err(bad("is not one of an overlay"));
        }
        check_format(words.next())?;
        let sum = words
            .next()
            .and_then(|sum| u32::from_str_radix(sum, 16).ok());
        if sum != Some(crc32c::crc32c(body)) {
            return Err(bad("has a wrong checksum"));
        }
        let manifest: Self =
            serde_json::from_slice(body).map_err(|e| bad(&format!("cannot be read: {e}")))?;
        manifest.check().map_err(bad)?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.size == 0 || self.size > MAX_SIZE || !self.size.is_multiple_of(512) {
            return Err("gives an impossible size");
        }
        if self.layers.is_empty() || self.layers.len() > MAX_LAYERS {
            return Err("gives an impossible number of layers");
        }
        let (last, frozen) = self.layers.split_last().ok_or("has no layer")?;
        if last.snapshot.is_some() || frozen.iter().any(|layer| layer.snapshot.is_none()) {
            return Err("confuses snapshots and layers");
        }
        let mut uuids: Vec<_> = self.layers.iter().map(|layer| layer.uuid).collect();
        uuids.sort_unstable();
        if uuids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err("names a layer twice");
        }
        Ok(())
    }

    /// How far the overlay may grow.
    pub(crate) fn limits(&self) -> Limits {
        let (quota, retention) = (self.quota, self.retention);
        Limits { quota, retention }
    }

    pub(crate) fn set_limits(&mut self, limits: Limits) {
        (self.quota, self.retention) = (limits.quota, limits.retention);
    }

    /// The snapshots, oldest first: the hidden ones, or all others.
    fn those(&self, hidden: bool) -> impl Iterator<Item = &Snapshot> {
        let all = self.layers.iter();
        let all = all.filter_map(|layer| layer.snapshot.as_ref());
        all.filter(move |one| one.name.is_hidden() == hidden)
    }

    /// The snapshots, oldest first, but for the hidden ones.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.those(false).cloned().collect()
    }

    /// Names of the hidden snapshots, oldest first.
    pub(crate) fn hidden_snapshots(&self) -> Vec<SnapshotName> {
        self.those(true).map(|one| one.name.clone()).collect()
    }

    pub(crate) fn has_hidden(&self) -> bool {
        self.those(true).next().is_some()
    }

    /// Names and identities of the snapshots, oldest first, but for the hidden ones.
    pub(crate) fn snapshot_ids(&self) -> Vec<(SnapshotName, SnapshotId)> {
        self.snapshot_ids_below(self.layers.len())
    }

    /// Those of the layers before that number.
    pub(crate) fn snapshot_ids_below(&self, number: usize) -> Vec<(SnapshotName, SnapshotId)> {
        let id = |layer: &LayerEntry| {
            let snapshot = layer.snapshot.as_ref()?;
            let shown = !snapshot.name.is_hidden();
            shown.then(|| (snapshot.name.clone(), SnapshotId(layer.uuid)))
        };
        self.layers[..number].iter().filter_map(id).collect()
    }

    /// Number of the layer that `name` froze.
    pub(crate) fn find(&self, name: &SnapshotName) -> Result<usize> {
        let is = |layer: &LayerEntry| layer.snapshot.as_ref().is_some_and(|s| s.name == *name);
        let missing = || Error::new(ErrorKind::NotFound, format!("snapshot {name}"));
        self.layers.iter().position(is).ok_or_else(missing)
    }

    /// Reads the manifest of the overlay in `dir`.
    pub(crate) fn load(host: &dyn Storage, dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let naming = || format!("reading {}", path.display());
        let file = host.open(&path, OpenMode::Read).context(naming)?;
        let len = file.len().context(naming)?;
        if len > MAX_LEN {
            let text = format!("{} is {len} bytes long", path.display());
            return Err(Error::new(ErrorKind::Corrupt, text));
        }
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).context(naming)?;
        Self::decode(&bytes).map_err(|e| e.within(&dir.display().to_string()))
    }

    /// Writes the manifest beside the one in force, durably, for [`publish`].
    pub(crate) fn stage(&self, host: &dyn Storage, dir: &Path) -> Result<()> {
        let path = dir.join(NEXT);
        let bytes = self.encode()?;
        let write = || {
            match host.remove(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let file = host.open(&path, OpenMode::CreateNew)?;
            file.write_at(&bytes, 0)?;
            file.sync()
        };
        write().context(|| format!("writing {}", path.display()))
    }

    /// Stages and publishes. With the answer "unsure" an error means that either manifest may be found later.
    pub(crate) fn replace(&self, host: &dyn Storage, dir: &Path) -> Result<(), Replacing> {
        // Whatever the new manifest names must have a durable name before.
        let synced = || {
            host.sync_dir(dir)
                .context(|| format!("syncing {}", dir.display()))
        };
        self.stage(host, dir)
            .and_then(|()| synced())
            .map_err(Replacing::Kept)?;
        let (next, path) = paths(dir);
        host.rename(&next, &path)
            .context(|| format!("replacing {}", path.display()))
            .map_err(Replacing::Kept)?;
        synced().map_err(Replacing::Unsure)
    }
}

/// How the replacement of a manifest failed.
pub(crate) enum Replacing {
    /// The old one stays in force.
    Kept(Error),
    /// The new one is in force for now, but a power cut may bring the old one back.
    Unsure(Error),
}

impl Replacing {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Kept(e) | Self::Unsure(e) => e,
        }
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join(NEXT), dir.join(FILE))
}

/// Whether a file of that name in an overlay's folder is the manifest or belongs to `layers`.
pub(crate) fn is_wanted(name: &str, layers: &[LayerEntry]) -> bool {
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    name == FILE || Uuid::parse_str(stem).is_ok_and(|uuid| layers.iter().any(|l| l.uuid == uuid))
}

fn check_format(text: Option<&str>) -> Result<()> {
    let format = text.and_then(|format| format.parse::<u32>().ok());
    match format {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => {
            let text = format!(
                "overlay format {newer}, and this release reads up to {FORMAT}; install the newer release"
            );
            Err(Error::new(ErrorKind::NewerFormat, text))
        }
        _ => Err(Error::new(
            ErrorKind::Corrupt,
            "the manifest has no known format",
        )),
    }
}

/// Whether a disk of `size` bytes can be served.
pub(crate) fn check_size(size: u64) -> Result<()> {
    if (BLOCK..=MAX_SIZE).contains(&size) && size.is_multiple_of(512) {
        return Ok(());
    }
    let text = format!("disk size {size}: must be 4 KiB to 16 TiB, in steps of 512 bytes");
    Err(Error::new(ErrorKind::Invalid, text))
}
