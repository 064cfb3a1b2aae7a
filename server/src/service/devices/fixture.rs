//! What tests of several devices begin with.

use std::sync::Arc;

use overlay::{
    BaseId, Digest, Options, Overlay, OverlayId, OverlaySpec, Retention, Store, ZeroBase,
};

/// An overlay of `size` bytes over nothing, in a store and a folder that have to outlive it.
pub fn overlay_over_zeros(size: u64) -> (tempfile::TempDir, Store, Arc<Overlay>) {
    let dir = tempfile::tempdir().unwrap();
    let (version, digest) = (uuid::Uuid::nil(), Digest([0; 32]));
    let spec = OverlaySpec {
        size,
        quota: None,
        retention: Retention::Keep,
        base: Arc::new(ZeroBase::new(BaseId { version, digest })),
    };
    let store = Store::open(dir.path(), Options::default()).unwrap();
    let overlay = store.create(&OverlayId::new("pc").unwrap(), spec).unwrap();
    (dir, store, overlay)
}
