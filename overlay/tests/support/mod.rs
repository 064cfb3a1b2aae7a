//! What several tests need.
#![allow(dead_code, missing_docs)]

pub mod history;
pub mod hooked;
pub mod image;
pub mod sim;
pub mod worker;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use overlay::{
    Attachment, Base, BaseId, Digest, FileBase, Options, Overlay, OverlayId, OverlaySpec,
    Retention, SnapshotName, Storage, Store, View,
};

pub fn base_id(n: u8) -> BaseId {
    BaseId {
        version: uuid::Uuid::from_bytes([n; 16]),
        digest: Digest([n; 32]),
    }
}

/// Bytes that differ from sector to sector and are never zero.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let byte = |i: usize| (i as u64 / 512 * 7 + seed * 31 + i as u64 % 5) as u8 | 1;
    (0..len).map(byte).collect()
}

/// A base file in `dir` with that content.
pub fn file_base(dir: &Path, content: &[u8]) -> Arc<dyn Base> {
    let path = dir.join("base.raw");
    fs::write(&path, content).unwrap();
    Arc::new(FileBase::open(&path, base_id(1)).unwrap())
}

pub fn store(dir: &Path) -> Store {
    Store::open(&dir.join("overlays"), Options::default()).unwrap()
}

/// The store in `dir` on another host.
pub fn store_on(dir: &Path, host: Arc<dyn Storage>) -> Store {
    let options = Options {
        host,
        ..Options::default()
    };
    Store::open(&dir.join("overlays"), options).unwrap()
}

pub fn spec(size: u64, base: &Arc<dyn Base>) -> OverlaySpec {
    OverlaySpec {
        size,
        quota: None,
        retention: Retention::Keep,
        base: base.clone(),
    }
}

pub fn id(name: &str) -> OverlayId {
    OverlayId::new(name).unwrap()
}

pub fn reopen(store: &Store, name: &str, base: &Arc<dyn Base>) -> Arc<Overlay> {
    store
        .open_overlay(&id(name), &|_| Some(base.clone()))
        .unwrap()
}

/// The name of a snapshot.
pub fn name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// What a disk holds.
pub fn all(disk: &Attachment) -> Vec<u8> {
    let mut buf = vec![0; disk.size() as usize];
    disk.read(&mut buf, 0).unwrap();
    buf
}

/// What a snapshot holds.
pub fn all_of(view: &View) -> Vec<u8> {
    let mut buf = vec![0; view.size() as usize];
    view.read(&mut buf, 0).unwrap();
    buf
}
