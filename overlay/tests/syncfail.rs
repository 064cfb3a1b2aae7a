//! A host that fails to sync: nothing is promised on it any more, and the last good flush is what remains.
#![allow(missing_docs)]

mod support;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlay::{Base, Durability, ErrorKind, Storage};
use support::hooked::{Call, Hooked};
use support::*;

/// The real disk, whose data files fail to sync while `broken` is set.
fn bad_disk(broken: &Arc<AtomicBool>) -> Arc<dyn Storage> {
    let broken = broken.clone();
    Hooked::host(move |call, path: &Path| {
        let data = path.extension().is_some_and(|ext| ext == "data");
        if call == Call::Sync && data && broken.load(Ordering::Relaxed) {
            return Err(io::Error::other("a dying disk"));
        }
        Ok(())
    })
}

#[test]
fn after_a_failed_sync_the_last_good_flush_is_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    let base: Arc<dyn Base> = file_base(dir.path(), &pattern(1 << 20, 1));
    let broken = Arc::new(AtomicBool::new(false));
    let store = store_on(dir.path(), bad_disk(&broken));
    let disk = store
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap()
        .attach();
    disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
    disk.write(&[2; 4096], 8192, Durability::Process).unwrap();
    broken.store(true, Ordering::Relaxed);
    assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::SyncFailed);
    // The host reports a failure once and then forgets it: that must not be taken for success.
    broken.store(false, Ordering::Relaxed);
    assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::SyncFailed);
    let refused = disk.write(&[3; 4096], 0, Durability::Process).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SyncFailed);
    assert_eq!(
        disk.trim(0..4096, Durability::Process).unwrap_err().kind(),
        ErrorKind::SyncFailed
    );
    let mut buf = [0; 4096];
    disk.read(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; 4096]);
    drop((disk, store));
    let disk = reopen(&support::store(dir.path()), "pc", &base).attach();
    disk.read(&mut buf, 0).unwrap();
    assert_eq!(buf, [1; 4096]);
    disk.read(&mut buf, 8192).unwrap();
    assert!(
        buf[..] == pattern(1 << 20, 1)[8192..12288],
        "what was not flushed is gone, as after a power cut"
    );
    disk.write(&[4; 4096], 0, Durability::Disk).unwrap();
}
