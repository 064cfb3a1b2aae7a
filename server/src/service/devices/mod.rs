//! The kinds of disks that can be served.

mod directory;
mod file;
#[cfg(test)]
pub mod fixture;
mod flushes;
mod memory;
mod overlaid;
mod snapshot;

pub use directory::{OneExport, Wide, WithSnapshots};
pub use file::FileExport;
pub use memory::SecretExport;
#[allow(unused_imports)] // A room's clients are served by OverlayDevice.
pub use overlaid::{CowExport, OverlayDevice, OverlayExport, Suspects, overlay_info};
pub use snapshot::SnapshotExport;
