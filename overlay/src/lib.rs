//! The copy-on-write store under every client's disk.
//!
//! Must never know the network, DHCP or how an image is built; must never lose or mix up what it has answered for.
//!
//! A [`Store`] is a folder of overlays. An [`Overlay`] is one client's changes over a [`Base`], an immutable image
//! version. All input and output goes through an [`Attachment`], of which an overlay has at most one that works: a
//! newer one evicts the older. What an answer promises:
//!
//! - a write, trim or zeroing survives the end of this process;
//! - a flush, or [`Durability::Disk`], survives a power cut of everything answered before it;
//! - after a power cut every sector holds what it held at the last flush, or something written since.
//!
//! Everything here blocks unless its name begins with `try_`; all types may be shared between threads. What is on
//! disk, and why its ordering is safe, stands in FORMAT.md.
#![deny(unsafe_code)]

mod aside;
mod attachment;
mod base;
mod changes;
mod check;
#[cfg(fuzzing)]
pub mod decoders;
mod disk;
mod error;
mod fold;
mod group;
mod ids;
mod layer;
mod layerfile;
mod manifest;
mod map;
mod mapfile;
#[allow(unsafe_code)]
mod mapped;
mod merge;
mod overlay;
mod pages;
mod residency;
mod snapshot;
mod space;
mod stack;
mod storage;
mod store;
mod stream;
mod trash;
mod view;

pub use attachment::{Attachment, Durability};
pub use base::{Base, Extent, FileBase, ZeroBase};
pub use changes::SnapshotId;
pub use check::{Finding, Report, Resolve, Severity, check};
pub use disk::HostDisk;
pub use error::{Error, ErrorKind, Result};
pub use ids::{BLOCK, BaseId, Digest, MAX_SIZE, OverlayId, SnapshotName};
pub use manifest::Snapshot;
pub use overlay::{Overlay, OverlayInfo};
pub use pages::Own;
pub use space::{Level, Limits, Retention, Usage};
pub use stack::{Run, RunKind};
pub use storage::{Attempt, OpenMode, Storage, StoredFile};
pub use store::{Options, OverlaySpec, Store};
pub use stream::{Change, ChangeReader, ChangeWriter, MAX_CHANGE};
pub use view::{Progress, View};
