//! Overlapping requests side by side never tear a block's copy-up.
#![allow(missing_docs)]

mod support;

use std::sync::Barrier;
use std::thread;

use overlay::Durability;
use support::*;

const BLOCKS: u64 = 512;

/// Eight threads write one sector each of every fresh block at the same time: all eight must be there.
#[test]
fn parts_of_a_fresh_block_written_at_once_are_all_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern((BLOCKS * 4096) as usize, 1);
    let base = file_base(dir.path(), &content);
    let overlay = store(dir.path())
        .create(&id("pc"), spec(BLOCKS * 4096, &base))
        .unwrap();
    let disk = overlay.attach();
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        for sector in 0..8u64 {
            let (disk, barrier) = (&disk, &barrier);
            scope.spawn(move || {
                for block in 0..BLOCKS {
                    if block % 16 == 0 {
                        barrier.wait();
                    }
                    let half = [sector as u8 * 2 + 2; 256];
                    disk.write(&half, block * 4096 + sector * 512, Durability::Process)
                        .unwrap();
                }
            });
        }
    });
    let mut found = vec![0; content.len()];
    disk.read(&mut found, 0).unwrap();
    for (at, byte) in found.iter().enumerate() {
        let written = at % 512 < 256;
        let want = if written {
            (at % 4096 / 512) as u8 * 2 + 2
        } else {
            content[at]
        };
        assert_eq!(*byte, want, "byte {at}");
    }
    assert_eq!(overlay.usage().used, BLOCKS * 4096);
}

/// Writes, trims and snapshots side by side: the books are right, and the disk reads the same after a reopen.
#[test]
fn usage_is_exact_after_a_storm() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let size = 4 << 20;
    let store = store(dir.path());
    let overlay = store.create(&id("pc"), spec(size, &base)).unwrap();
    let disk = overlay.attach();
    thread::scope(|scope| {
        for worker in 0..4u64 {
            let (disk, overlay) = (&disk, &overlay);
            scope.spawn(move || {
                let mut dice = image::Dice(worker);
                for round in 0..300 {
                    let at = dice.below(size / 512 - 64) * 512;
                    let len = 512 * (1 + dice.below(63));
                    match dice.below(10) {
                        0..6 => disk.write(&pattern(len as usize, round), at, Durability::Process),
                        6..8 => disk.trim(at..at + len, Durability::Process),
                        8 => disk.write_zeroes(at..at + len, true, Durability::Process),
                        _ => disk.flush(),
                    }
                    .unwrap();
                    if worker == 0 && round % 60 == 30 {
                        let name = overlay::SnapshotName::new(format!("s{round}")).unwrap();
                        overlay.snapshot(&name, round).unwrap();
                    }
                    let oldest = overlay.snapshots().into_iter().next();
                    if let Some(oldest) = oldest.filter(|_| worker == 1 && round % 60 == 50) {
                        overlay.drop_snapshot(&oldest.name).unwrap();
                    }
                }
            });
        }
    });
    let usage = overlay.usage();
    let mut before = vec![0; size as usize];
    disk.read(&mut before, 0).unwrap();
    drop((disk, overlay, store));
    let overlay = reopen(&support::store(dir.path()), "pc", &base);
    assert_eq!(overlay.usage(), usage);
    let mut after = vec![0; size as usize];
    overlay.attach().read(&mut after, 0).unwrap();
    assert!(before == after);
}
