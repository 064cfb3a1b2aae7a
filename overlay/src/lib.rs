//! The copy-on-write store under every client's disk.
//!
//! Must never know the network, DHCP or how an image is built.
//!
//! # Surface to come (signatures are settled; all is `Send + Sync`, blocking unless it says `try_`)
//! ```text
//! Store::open(dir: &Path, options: Options) -> Result<Store>                      Options: Default
//! Store::create(&OverlayId, OverlaySpec{size, quota: Option<u64>, retention: Retention::{Keep,Discard}, base: Arc<dyn Base>}) -> Result<Arc<Overlay>>
//! Store::open_overlay(&OverlayId, resolve: &dyn Fn(&BaseId) -> Option<Arc<dyn Base>>) -> Result<Arc<Overlay>>
//! Store::reset(&OverlayId, OverlaySpec) -> Result<Arc<Overlay>>    evicts; instant
//! Store::delete(&OverlayId) -> Result<()>                           evicts; instant
//! Store::list() -> Result<Vec<(OverlayId, Result<OverlayInfo>)>>    from headers; base need not be there
//! Overlay::attach(self: &Arc<Self>) -> Attachment                   evicts the older one, waits for what it is applying
//! Overlay::{info, usage, snapshot, snapshots, snapshot_view, drop_snapshot, diff, evict}
//! Attachment::size() -> u64;  base() -> &Arc<dyn Base>
//! Attachment::read(&self, buf: &mut [u8], offset: u64) -> Result<()>
//! Attachment::try_read(&self, buf: &mut [u8], offset: u64) -> Result<Attempt>
//! Attachment::segments(&self, range: Range<u64>, out: &mut Vec<Segment>) -> Result<()>    Segment::{Base(Range), Data(Range), Zero(Range)}
//! Attachment::write(&self, data: &[u8], offset: u64, Durability::{Process, Disk}) -> Result<()>
//! Attachment::trim(&self, range: Range<u64>) -> Result<()>
//! Attachment::write_zeroes(&self, range: Range<u64>, punch: bool, Durability) -> Result<()>
//! Attachment::flush(&self) -> Result<()>
//! Attachment::block_status(&self, range: Range<u64>, f: &mut dyn FnMut(Run{range, kind: RunKind::{Base, Data, Zero}}) -> ControlFlow<()>) -> Result<()>
//! ```
#![deny(unsafe_code)]

mod base;
mod disk;
mod error;
mod ids;
#[allow(unsafe_code)]
mod mapped;
mod storage;

pub use base::{Base, Extent, FileBase, ZeroBase};
pub use disk::HostDisk;
pub use error::{Error, ErrorKind, Result};
pub use ids::{BLOCK, BaseId, Digest, MAX_SIZE, OverlayId, SnapshotName};
pub use storage::{Attempt, OpenMode, Storage, StoredFile};
