//! Snapshots folded into what came after them, and gone back to; overlays put away and brought back.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use overlay::{
    Attachment, Base, Durability, ErrorKind, HostDisk, Limits, Options, Overlay, Retention,
    SnapshotName, Storage, Store,
};
use support::hooked::{Call, Hooked};
use support::image::Dice;
use support::*;

const SIZE: u64 = 8 << 20;
const PROCESS: Durability = Durability::Process;

struct World {
    dir: tempfile::TempDir,
    base: Arc<dyn Base>,
    overlay: Arc<Overlay>,
    disk: Attachment,
    store: Store,
}

/// A store whose folds move half a megabyte at a time.
fn open(dir: &Path, host: Arc<dyn Storage>) -> Store {
    let options = Options {
        host,
        portion: 512 << 10,
        ..Options::default()
    };
    Store::open(&dir.join("overlays"), options).unwrap()
}

fn world_on(host: Arc<dyn Storage>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(4 << 20, 1));
    let store = open(dir.path(), host);
    let overlay = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    let disk = overlay.attach();
    World {
        dir,
        base,
        overlay,
        disk,
        store,
    }
}

fn world() -> World {
    world_on(Arc::new(HostDisk))
}

/// What the disk holds once the store was closed and opened.
fn after_a_restart(world: World) -> Vec<u8> {
    let World {
        dir,
        base,
        overlay,
        disk,
        store,
    } = world;
    drop((overlay, disk, store));
    let store = open(dir.path(), Arc::new(HostDisk));
    all(&reopen(&store, "pc", &base).attach())
}

fn hidden() -> SnapshotName {
    SnapshotName::hidden("test", uuid::Uuid::from_u128(1))
}

fn data_files(world: &World) -> Vec<u64> {
    let folder = fs::read_dir(world.dir.path().join("overlays/pc")).unwrap();
    let files = folder.map(|entry| entry.unwrap());
    let data = files.filter(|file| file.path().extension().is_some_and(|e| e == "data"));
    data.map(|file| file.metadata().unwrap().blocks() * 512)
        .collect()
}

/// A disk of 6 MiB of its own, a hidden snapshot of it, and 2 MiB of changes since.
fn changed(world: &World) {
    world.disk.write(&vec![1; 6 << 20], 0, PROCESS).unwrap();
    world.overlay.snapshot(&hidden(), 1).unwrap();
    world
        .disk
        .write(&vec![2; 1 << 20], 3 << 20, PROCESS)
        .unwrap();
    world
        .disk
        .write(&vec![3; 1 << 20], 6 << 20, PROCESS)
        .unwrap();
    world.disk.trim(0..1 << 20, PROCESS).unwrap();
}

#[test]
fn a_fold_changes_nothing_and_gives_the_space_back() {
    let world = world();
    changed(&world);
    let now = all(&world.disk);
    assert_eq!(world.overlay.usage().used, 8 << 20);
    assert!(world.overlay.snapshots().is_empty(), "it is hidden");
    assert!(world.overlay.snapshot_ids().is_empty());
    world.overlay.fold_hidden(|name| *name == hidden()).unwrap();
    assert_eq!(
        world.overlay.hidden_snapshots(),
        [hidden()],
        "that is needed"
    );
    world.overlay.fold_hidden(|_| false).unwrap();
    assert!(world.overlay.hidden_snapshots().is_empty());
    assert!(all(&world.disk) == now);
    assert_eq!(world.overlay.usage().used, 6 << 20);
    let files = data_files(&world);
    assert_eq!(files.len(), 1);
    assert!(files[0] <= (6 << 20) + 65536, "{files:?}");
    world.disk.write(&[9; 5000], 100, PROCESS).unwrap();
    world.disk.flush().unwrap();
    let now = all(&world.disk);
    assert!(after_a_restart(world) == now);
}

#[test]
fn a_snapshot_that_is_taken_between_two_folds_is_not_folded() {
    let world = world();
    changed(&world);
    let later = SnapshotName::hidden("test", uuid::Uuid::from_u128(2));
    let is_needed = |name: &SnapshotName| {
        if !world.overlay.hidden_snapshots().contains(&later) {
            world.overlay.snapshot(&later, 2).unwrap();
        }
        *name == later
    };
    world.overlay.fold_hidden(is_needed).unwrap();
    assert_eq!(world.overlay.hidden_snapshots(), [later]);
}

#[test]
fn a_snapshot_that_is_named_like_one_of_a_folds_stays() {
    let world = world();
    changed(&world);
    let theirs = name("--fold-monday");
    world.overlay.snapshot(&theirs, 2).unwrap();
    let monday = all(&world.disk);
    world.disk.write(&[4; 9000], 0, PROCESS).unwrap();
    world.overlay.fold_hidden(|_| false).unwrap();
    assert!(world.overlay.hidden_snapshots().is_empty());
    assert!(all_of(&world.overlay.snapshot_view(&theirs).unwrap()) == monday);
}

#[test]
fn a_fold_costs_what_was_written_since() {
    let written = Arc::new(AtomicU64::new(0));
    let count = written.clone();
    let world = world_on(Hooked::host(move |call, path| {
        let data = path.extension().is_some_and(|e| e == "data");
        count.fetch_add(u64::from(call == Call::Write && data), Ordering::Relaxed);
        Ok(())
    }));
    changed(&world);
    written.store(0, Ordering::Relaxed);
    world.overlay.fold_hidden(|_| false).unwrap();
    // Of 128 KiB each.
    assert_eq!(written.load(Ordering::Relaxed), 2 * 8);
}

#[test]
fn snapshots_before_and_after_a_folded_one_stay_as_they_are() {
    let world = world();
    let World { overlay, disk, .. } = &world;
    disk.write(&[7; 8192], 0, PROCESS).unwrap();
    overlay.snapshot(&name("older"), 1).unwrap();
    let older = all(disk);
    changed(&world);
    overlay.snapshot(&name("newer"), 2).unwrap();
    let newer = all(disk);
    disk.write(&vec![5; 3 << 20], 1 << 20, PROCESS).unwrap();
    let now = all(disk);
    let view = overlay.snapshot_view(&name("newer")).unwrap();
    assert_eq!(view.older().len(), 1, "but for the hidden one");
    overlay.fold_hidden(|_| false).unwrap();
    assert!(all_of(&view) == newer, "a view is read on");
    let names: Vec<_> = overlay.snapshots().into_iter().map(|s| s.name).collect();
    assert_eq!(names, [name("older"), name("newer")]);
    for (of, content) in [("older", &older), ("newer", &newer)] {
        assert!(all_of(&overlay.snapshot_view(&name(of)).unwrap()) == *content);
    }
    assert!(all(disk) == now);
}

/// What is lent to system calls, as one of them finds it.
fn lent(disk: &Attachment, at: u64, len: u64) -> Option<Vec<u8>> {
    let own = disk.own(at..at + len).unwrap()?;
    // The fold gets on meanwhile.
    std::thread::yield_now();
    let mut file = tempfile::tempfile().unwrap();
    let written = file.write_vectored(&[own.bytes()]).unwrap();
    assert_eq!(written as u64, len);
    file.rewind().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    Some(bytes)
}

#[test]
fn who_reads_beside_folds_finds_what_was_written() {
    let world = world();
    let content = pattern(SIZE as usize, 9);
    world.disk.write(&content, 0, PROCESS).unwrap();
    let over = AtomicBool::new(false);
    let (disk, content) = (&world.disk, &content);
    let check = |found: &[u8], at: u64| {
        let at = at as usize;
        assert!(found == &content[at..at + found.len()], "at {at}");
    };
    std::thread::scope(|scope| {
        for number in 0..2 {
            let over = &over;
            scope.spawn(move || {
                let mut dice = Dice(number);
                let mut buf = vec![0; 64 << 10];
                while !over.load(Ordering::Relaxed) {
                    let at = dice.below(SIZE / 4096 - 16) * 4096;
                    disk.read(&mut buf, at).unwrap();
                    check(&buf, at);
                    assert!(
                        disk.mapped(at..at + 4096).unwrap().is_none(),
                        "not the base's"
                    );
                    if let Some(found) = lent(disk, at, 32 << 10) {
                        check(&found, at);
                    }
                }
            });
        }
        let mut dice = Dice(77);
        for round in 0..30 {
            let name = SnapshotName::hidden("test", uuid::Uuid::from_u128(round));
            world.overlay.snapshot(&name, 1).unwrap();
            for _ in 0..20 {
                let at = dice.below(SIZE / 4096 - 64) as usize * 4096;
                disk.write(&content[at..at + (256 << 10)], at as u64, PROCESS)
                    .unwrap();
            }
            world.overlay.fold_hidden(|_| false).unwrap();
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(world.overlay.usage().used, SIZE);
}

#[test]
fn a_fold_that_finds_no_room_goes_on_later() {
    let full = Arc::new(AtomicBool::new(false));
    let is_full = full.clone();
    let world = world_on(Hooked::host(move |call, path| {
        let data = path.extension().is_some_and(|e| e == "data");
        match call == Call::Write && data && is_full.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }));
    changed(&world);
    let now = all(&world.disk);
    full.store(true, Ordering::Relaxed);
    let error = world.overlay.fold_hidden(|_| false).unwrap_err();
    assert!(error.is_no_space(), "{error}");
    assert!(all(&world.disk) == now);
    full.store(false, Ordering::Relaxed);
    world.overlay.fold_hidden(|_| false).unwrap();
    assert!(all(&world.disk) == now);
    assert_eq!(world.overlay.usage().used, 6 << 20);
}

/// A machine waits for its snapshot; nobody waits for a fold.
#[test]
fn a_fold_gives_way_to_a_snapshot_and_is_done_after_it() {
    let (begin, begun) = mpsc::channel();
    let (folds, folding) = (Arc::new(AtomicBool::new(false)), thread::current().id());
    let is_folding = folds.clone();
    let world = world_on(Hooked::host(move |call, _| {
        let of_fold = call == Call::Sync && thread::current().id() == folding;
        let once = of_fold && is_folding.swap(false, Ordering::Relaxed);
        if once {
            begin.send(()).unwrap();
            // The snapshot begins meanwhile.
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }));
    changed(&world);
    let now = all(&world.disk);
    let of_machine = SnapshotName::new("machine").unwrap();
    folds.store(true, Ordering::Relaxed);
    thread::scope(|scope| {
        let (overlay, name) = (&world.overlay, &of_machine);
        let taking = scope.spawn(move || {
            begun.recv().unwrap();
            overlay.snapshot(name, 2)
        });
        let folded = overlay.fold_snapshot(&hidden());
        assert_eq!(folded.unwrap_err().kind(), ErrorKind::Busy);
        taking.join().unwrap().unwrap();
    });
    assert!(all(&world.disk) == now);
    world.overlay.fold_hidden(|_| false).unwrap();
    let left = world.overlay.snapshots();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].name, of_machine);
    assert!(all(&world.disk) == now);
    assert!(after_a_restart(world) == now);
}

#[test]
fn what_is_hidden_is_not_held_against_the_client() {
    let world = world();
    let limits = Limits {
        quota: Some(7 << 20),
        retention: Retention::Keep,
    };
    world.overlay.set_limits(limits).unwrap();
    changed(&world);
    assert_eq!(world.overlay.usage().used, 8 << 20);
    world.overlay.fold_hidden(|_| false).unwrap();
    world.disk.write(&vec![1; 1 << 20], 0, PROCESS).unwrap();
    let error = world.disk.write(&[1; 512], 7 << 20, PROCESS).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::QuotaFull);
}

#[test]
fn going_back_brings_all_of_it_back() {
    let world = world();
    let World { overlay, disk, .. } = &world;
    disk.write(&[7; 5000], 300, PROCESS).unwrap();
    overlay.snapshot(&name("one"), 1).unwrap();
    let one = all(disk);
    changed(&world);
    overlay.snapshot(&name("two"), 2).unwrap();
    overlay.revert(&name("one")).unwrap();
    let kind = disk.write(&[1; 512], 0, PROCESS).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Evicted);
    let disk = overlay.attach();
    assert!(all(&disk) == one);
    assert!(overlay.snapshots().is_empty() && overlay.hidden_snapshots().is_empty());
    assert_eq!(overlay.usage().used, 8192);
    assert_eq!(data_files(&world).len(), 1);
    disk.write(&[8; 512], 0, PROCESS).unwrap();
    let now = all(&disk);
    let missing = overlay.revert(&name("one")).unwrap_err().kind();
    assert_eq!(missing, ErrorKind::NotFound);
    drop(disk);
    assert!(after_a_restart(world) == now);
}

#[test]
fn what_is_put_away_makes_room_for_another_and_comes_back() {
    let world = world();
    let World {
        store, disk, base, ..
    } = &world;
    disk.write(&[7; 5000], 300, PROCESS).unwrap();
    let before = all(disk);
    store.put_away(&id("pc")).unwrap();
    assert_eq!(disk.flush().unwrap_err().kind(), ErrorKind::NotFound);
    store.put_away(&id("pc")).unwrap();
    assert!(store.ids().unwrap().is_empty());
    let other = store.create(&id("pc"), spec(SIZE, base)).unwrap();
    let kind = store.put_away(&id("pc")).unwrap_err().kind();
    assert_eq!(kind, ErrorKind::Exists);
    assert!(
        other.attach().write(&[1; 512], 0, PROCESS).is_ok(),
        "it is where it was"
    );
    store.bring_back(&id("pc")).unwrap();
    store.bring_back(&id("pc")).unwrap();
    assert!(all(&reopen(store, "pc", base).attach()) == before);
    store.put_away(&id("pc")).unwrap();
    store.drop_away().unwrap();
    store.bring_back(&id("pc")).unwrap();
    assert!(store.ids().unwrap().is_empty());
}
