//! The files of a layer: made, opened, and the live map remade.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::BLOCK;
use crate::layer::blocks_in;
use crate::map::Map;
use crate::mapfile;
use crate::storage::{OpenMode, Storage, StoredFile};

/// The files of a layer.
pub(crate) struct Names {
    pub data: PathBuf,
    pub live: PathBuf,
    pub durable: PathBuf,
}

impl Names {
    pub(crate) fn of(dir: &Path, layer: Uuid) -> Self {
        let file = |kind: &str| dir.join(format!("{layer}.{kind}"));
        Self {
            data: file("data"),
            live: file("live"),
            durable: file("map"),
        }
    }
}

/// Makes the files of a new, empty layer durable in `dir` (not yet their names).
pub(crate) fn create_files(host: &dyn Storage, dir: &Path, layer: Uuid, size: u64) -> Result<()> {
    let names = Names::of(dir, layer);
    let words = Map::new(blocks_in(size)).words();
    let lens = [
        (names.data, blocks_in(size) * BLOCK),
        (names.live, mapfile::live_len(words)),
        (names.durable, mapfile::durable_len(words)),
    ];
    for (path, len) in lens {
        let make = || {
            let file = host.open(&path, OpenMode::CreateNew)?;
            file.set_len(len)?;
            file.sync()
        };
        make().context(|| format!("making {} of {len} bytes", path.display()))?;
    }
    Ok(())
}

/// Has a layer's data and durable map read from the disk: what the host holds in memory may never have got there.
pub(crate) fn forget_cache(host: &dyn Storage, dir: &Path, layer: Uuid) -> Result<()> {
    let names = Names::of(dir, layer);
    for path in [names.data, names.durable] {
        let forgotten = open(host, &path, OpenMode::Write)?.forget_cache();
        forgotten.context(|| format!("dropping {} from memory", path.display()))?;
    }
    Ok(())
}

/// Opens `path`, naming it in the error.
pub(crate) fn open(host: &dyn Storage, path: &Path, mode: OpenMode) -> Result<Arc<dyn StoredFile>> {
    let lost = |e: Error| match e.kind() {
        ErrorKind::NotFound => e.with_kind(ErrorKind::Corrupt),
        _ => e,
    };
    host.open(path, mode)
        .context(|| format!("opening {}", path.display()))
        .map_err(lost)
}

pub(crate) fn check_data_len(data: &dyn StoredFile, size: u64, path: &Path) -> Result<()> {
    let want = blocks_in(size) * BLOCK;
    let len = data
        .len()
        .context(|| format!("measuring {}", path.display()))?;
    if len == want {
        return Ok(());
    }
    let text = format!(
        "{} is {len} bytes long and should be {want}",
        path.display()
    );
    Err(Error::new(ErrorKind::Corrupt, text))
}

pub(crate) fn read_live(
    host: &dyn Storage,
    names: &Names,
    size: u64,
) -> Result<(Map, Arc<dyn StoredFile>)> {
    let live = open(host, &names.live, OpenMode::Write)?;
    let map = Map::new(blocks_in(size));
    mapfile::load_live(&*live, &map, &names.live.display().to_string())?;
    Ok((map, live))
}

/// A fresh live map that says what the durable one says. The manifest names the new boot only after this.
pub(crate) fn remake_live(
    host: &dyn Storage,
    names: &Names,
    map: &Map,
) -> Result<Arc<dyn StoredFile>> {
    let make = || {
        match host.remove(&names.live) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let live = host.open(&names.live, OpenMode::CreateNew)?;
        live.set_len(mapfile::live_len(map.words()))?;
        mapfile::store_live(&*live, map)?;
        live.sync()?;
        Ok(live)
    };
    make().context(|| format!("making {}", names.live.display()))
}
