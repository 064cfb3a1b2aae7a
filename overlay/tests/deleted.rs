//! What goes on in an overlay that is deleted meanwhile does not reach the one that gets its name.
#![allow(missing_docs)]

mod support;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use overlay::{Durability, ErrorKind, Overlay, Result, SnapshotName};
use support::hooked::{Call, Hooked};
use support::*;

const SIZE: u64 = 1 << 20;

/// Deletes the overlay and makes another of its name while `work` waits for a sync of data, which then ends as
/// `outcome` says; returns how the work ended. The new overlay must be found as it was made.
fn replaced_during(
    work: impl FnOnce(&Overlay) -> Result<()> + Send + 'static,
    outcome: fn() -> io::Result<()>,
) -> Result<()> {
    let (reached, wait_reached) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    let ends = Arc::new(Mutex::new(None));
    let taken = ends.clone();
    let host = Hooked::host(move |call, path: &Path| {
        let data = path.extension().is_some_and(|ext| ext == "data");
        if call != Call::Sync || !data {
            return Ok(());
        }
        let armed: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)> = taken.lock().unwrap().take();
        let Some((reached, wait_go)) = armed else {
            return Ok(());
        };
        reached.send(()).unwrap();
        wait_go.recv().unwrap();
        outcome()
    });
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
    let store = store_on(dir.path(), host);
    let old = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    let disk = old.attach();
    disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
    old.snapshot(&SnapshotName::new("s").unwrap(), 0).unwrap();
    disk.write(&[2; 4096], 4096, Durability::Process).unwrap();
    *ends.lock().unwrap() = Some((reached, wait_go));
    let worker = thread::spawn(move || work(&old));
    wait_reached.recv().unwrap();
    store.delete(&id("pc")).unwrap();
    let new = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    let made = new.info();
    go.send(()).unwrap();
    let ended = worker.join().unwrap();
    drop((disk, new, store));
    let found = reopen(&support::store(dir.path()), "pc", &base).info();
    assert_eq!(found.incarnation, made.incarnation);
    assert_eq!(found.snapshots, []);
    ended
}

#[test]
fn dropping_a_snapshot_of_a_deleted_overlay_leaves_its_successor_alone() {
    let drop_it = |old: &Overlay| old.drop_snapshot(&SnapshotName::new("s").unwrap());
    let ended = replaced_during(drop_it, || Ok(()));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_sync_that_fails_after_a_delete_leaves_the_successor_alone() {
    let ended = replaced_during(Overlay::flush, || Err(io::Error::other("a dying disk")));
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::SyncFailed);
}
