//! A host that fails to sync: nothing is promised on it any more, and the last good flush is what remains.
#![allow(missing_docs)]

mod support;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use overlay::{Attachment, Base, Durability, ErrorKind, Options, SnapshotName, Storage, Store};
use support::history::TagBase;
use support::hooked::{Call, Hooked};
use support::image::Image;
use support::sim::Sim;
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

#[test]
fn nothing_is_promised_after_a_sync_that_a_panic_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let base: Arc<dyn Base> = file_base(dir.path(), &pattern(1 << 20, 1));
    let broken = Arc::new(AtomicBool::new(false));
    let breaks = broken.clone();
    let host = Hooked::host(move |call, path: &Path| {
        let data = path.extension().is_some_and(|ext| ext == "data");
        assert!(
            !(call == Call::Sync && data && breaks.load(Ordering::Relaxed)),
            "a mistake"
        );
        Ok(())
    });
    let store = store_on(dir.path(), host);
    let disk = store
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap()
        .attach();
    disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
    disk.write(&[2; 4096], 8192, Durability::Process).unwrap();
    broken.store(true, Ordering::Relaxed);
    let flush = std::panic::AssertUnwindSafe(|| disk.flush());
    assert!(std::panic::catch_unwind(flush).is_err());
    broken.store(false, Ordering::Relaxed);
    assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::SyncFailed);
}

fn on_sim(sim: &Arc<Sim>) -> Attachment {
    let options = Options {
        host: sim.clone(),
        background: false,
        ..Options::default()
    };
    let store = Store::open(Path::new("/store"), options).unwrap();
    let base: Arc<dyn Base> = Arc::new(TagBase::new(0));
    let made = store.create(&id("pc"), spec(1 << 20, &base));
    let found = made.or_else(|_| store.open_overlay(&id("pc"), &|_| Some(base.clone())));
    found.unwrap().attach()
}

/// The host keeps in memory what it could not write, as if it were on the disk: no flush may be answered on that.
#[test]
fn what_a_failed_sync_left_in_memory_is_not_taken_for_durable() {
    for part in ["data", "map"] {
        let sim = Arc::new(Sim::new(Image::default(), 1));
        let disk = on_sim(&sim);
        disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
        disk.write(&[2; 4096], 0, Durability::Process).unwrap();
        disk.write(&[3; 4096], 8192, Durability::Process).unwrap();
        sim.fail_syncs_of(Some(part));
        disk.flush().unwrap_err();
        sim.fail_syncs_of(None);
        drop(disk);
        let disk = on_sim(&sim);
        let mut before = [0; 12288];
        disk.read(&mut before, 0).unwrap();
        disk.flush().unwrap();
        let sim = Arc::new(Sim::new(sim.power_cut(), 2));
        let mut after = [0; 12288];
        on_sim(&sim).read(&mut after, 0).unwrap();
        assert!(before == after, "a flush was answered: {part}");
        assert_eq!(after[0], if part == "data" { 1 } else { 2 });
    }
}

/// What is to fail.
#[derive(Default)]
struct Faults {
    sync_of: Option<&'static str>,
    manifests: bool,
}

fn faulty(faults: &Arc<Mutex<Faults>>) -> Arc<dyn Storage> {
    let faults = faults.clone();
    Hooked::host(move |call, path: &Path| {
        let faults = faults.lock().unwrap();
        let is = |ext| path.extension().is_some_and(|found| found == ext);
        let sync = call == Call::Sync && faults.sync_of.is_some_and(is);
        let manifest = call == Call::Rename && faults.manifests && path.ends_with("manifest");
        match sync || manifest {
            true => Err(io::Error::other("a dying disk")),
            false => Ok(()),
        }
    })
}

/// One that could not be noted on disk is noted as soon as that is possible.
#[test]
fn a_failed_sync_is_noted_in_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let faults = Arc::new(Mutex::new(Faults::default()));
    let store = store_on(dir.path(), faulty(&faults));
    let overlay = store.create(&id("pc"), spec(1 << 20, &base)).unwrap();
    let disk = overlay.attach();
    disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
    disk.write(&[2; 4096], 8192, Durability::Process).unwrap();
    *faults.lock().unwrap() = Faults {
        sync_of: Some("data"),
        manifests: true,
    };
    disk.flush().unwrap_err();
    *faults.lock().unwrap() = Faults::default();
    disk.write(&[3; 4096], 0, Durability::Process).unwrap_err();
    drop((disk, overlay, store));
    let disk = reopen(&support::store(dir.path()), "pc", &base).attach();
    let mut buf = [0; 4096];
    disk.read(&mut buf, 8192).unwrap();
    assert!(buf[..] == pattern(1 << 20, 1)[8192..12288]);
}

/// A sync that fails in a frozen layer is as bad as one in the newest: it holds answered blocks.
#[test]
fn a_sync_that_fails_while_a_snapshot_is_dropped_ends_all_promises() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let faults = Arc::new(Mutex::new(Faults::default()));
    let store = store_on(dir.path(), faulty(&faults));
    let overlay = store.create(&id("pc"), spec(1 << 20, &base)).unwrap();
    let disk = overlay.attach();
    let names = ["a", "b", "c"].map(|name| SnapshotName::new(name).unwrap());
    for (name, byte) in names.iter().zip(1u8..) {
        let at = u64::from(byte) * 4096;
        disk.write(&[byte; 4096], at, Durability::Process).unwrap();
        overlay.snapshot(name, 0).unwrap();
    }
    disk.write(&[9; 4096], 0, Durability::Process).unwrap();
    faults.lock().unwrap().sync_of = Some("map");
    let failed = overlay.drop_snapshot(&names[0]).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::SyncFailed);
    *faults.lock().unwrap() = Faults::default();
    let refused = [
        disk.write(&[3; 4096], 0, Durability::Process),
        disk.flush(),
        overlay.drop_snapshot(&names[0]),
        overlay.drop_snapshot(&names[1]),
    ];
    for result in refused {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::SyncFailed);
    }
    drop((disk, overlay, store));
    let overlay = reopen(&support::store(dir.path()), "pc", &base);
    let disk = overlay.attach();
    let mut found = [0; 4 * 4096];
    disk.read(&mut found, 0).unwrap();
    assert!(
        found[..4096] == pattern(1 << 20, 1)[..4096],
        "was not flushed"
    );
    assert_eq!([found[4096], found[8192], found[12288]], [1, 2, 3]);
    overlay.drop_snapshot(&names[0]).unwrap();
}
