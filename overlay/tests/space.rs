//! Full disks, quotas and low-water marks: an error to that request, and nothing lost (P4).
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;

use overlay::{
    Base, Durability, ErrorKind, Level, Limits, Options, OverlaySpec, Retention, SnapshotName,
    Store,
};
use support::*;

const PROCESS: Durability = Durability::Process;

#[test]
fn a_quota_refuses_growth_and_allows_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let store = store(dir.path());
    let quota = Some(10 * 4096);
    let overlay = store
        .create(
            &id("pc"),
            OverlaySpec {
                quota,
                ..spec(1 << 20, &base)
            },
        )
        .unwrap();
    let disk = overlay.attach();
    let block = [5; 4096];
    for i in 0..10 {
        let level = overlay.usage().level;
        assert_eq!(level, if i < 8 { Level::Fine } else { Level::Warning });
        disk.write(&block, i * 4096, PROCESS).unwrap();
    }
    assert_eq!(overlay.usage().level, Level::Full);
    let error = disk.write(&block, 10 * 4096, PROCESS).unwrap_err();
    assert!(error.is_no_space() && error.kind() == ErrorKind::QuotaFull);
    assert!(
        disk.write(&[1; 20], 50_000, PROCESS)
            .unwrap_err()
            .is_no_space()
    );
    disk.write(&[6; 4096], 0, PROCESS).unwrap();
    disk.trim(4096..8192, PROCESS).unwrap();
    disk.write(&block, 20 * 4096, PROCESS).unwrap();
    drop((disk, overlay, store));
    let overlay = reopen(&support::store(dir.path()), "pc", &base);
    assert_eq!(overlay.usage().used, 10 * 4096);
    assert!(overlay.attach().write(&block, 10 * 4096, PROCESS).is_err());
}

#[test]
fn other_limits_hold_at_once_and_last() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let store = support::store(dir.path());
    let overlay = store.create(&id("pc"), spec(1 << 20, &base)).unwrap();
    let disk = overlay.attach();
    for i in 0..8 {
        disk.write(&[5; 4096], i * 4096, PROCESS).unwrap();
    }
    let limits = |blocks: u64| Limits {
        quota: Some(blocks * 4096),
        retention: Retention::Keep,
    };
    overlay.set_limits(limits(4)).unwrap();
    let refused = disk.write(&[5; 4096], 8 * 4096, PROCESS).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaFull);
    disk.write(&[6; 4096], 0, PROCESS).unwrap();
    overlay.set_limits(limits(9)).unwrap();
    disk.write(&[5; 4096], 8 * 4096, PROCESS).unwrap();
    let after = SnapshotName::new("after").unwrap();
    overlay.snapshot(&after, 0).unwrap();
    drop((disk, overlay, store));
    let overlay = reopen(&support::store(dir.path()), "pc", &base);
    assert_eq!(overlay.info().quota, Some(9 * 4096));
    assert_eq!(overlay.info().retention, Retention::Keep);
    assert!(
        overlay
            .attach()
            .write(&[5; 4096], 9 * 4096, PROCESS)
            .is_err()
    );
}

/// A filesystem of its own, unmounted at the end.
struct Mount(PathBuf);

impl Mount {
    fn run(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(
            output.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn tmpfs(at: &Path, size: &str) -> Self {
        fs::create_dir(at).unwrap();
        Self::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
                .arg(at),
        );
        Self(at.to_owned())
    }

    /// ext4 in a file, if this host can mount one.
    fn ext4(dir: &Path, at: &Path) -> Option<Self> {
        let image = dir.join("ext4.img");
        fs::create_dir(at).unwrap();
        fs::File::create(&image).unwrap().set_len(48 << 20).unwrap();
        Self::run(
            Command::new("mkfs.ext4")
                .args(["-q", "-F", "-m", "0"])
                .arg(&image),
        );
        let mount = Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(at)
            .output()
            .unwrap();
        mount.status.success().then(|| Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// Three overlays fill a filesystem at once; after room is made all go on, and what was answered is there.
fn fill(pool: &Path, base: &Arc<dyn Base>) {
    let size = 64 << 20;
    let store = Store::open(&pool.join("overlays"), Options::default()).unwrap();
    let names = ["a", "b", "c"];
    let overlays = names.map(|name| store.create(&id(name), spec(size, base)).unwrap());
    let disks = overlays.each_ref().map(|overlay| overlay.attach());
    let counts: Vec<u64> = thread::scope(|scope| {
        let fill = |n: usize| {
            let disk = &disks[n];
            move || {
                let full = (0..size / 4096).find(|i| {
                    let data = [i.to_le_bytes()[0] | 1; 2048];
                    let result = disk.write(&data, i * 4096, PROCESS);
                    result
                        .inspect_err(|e| assert!(e.is_no_space(), "{e}"))
                        .is_err()
                });
                full.expect("the filesystem holds less than all three want")
            }
        };
        let threads: Vec<_> = (0..3).map(|n| scope.spawn(fill(n))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (disk, count) in disks.iter().zip(&counts) {
        disk.flush()
            .unwrap_or_else(|e| panic!("a full disk fails writes, not flushes: {e}"));
        verify(disk, *count);
    }
    store.delete(&id("a")).unwrap();
    drop(overlays);
    store.empty_trash().unwrap();
    let mut disks = disks.into_iter();
    drop(disks.next());
    let mut disks: Vec<_> = disks.collect();
    for (disk, count) in disks.iter().zip(&counts[1..]) {
        disk.write(&[count.to_le_bytes()[0] | 1; 2048], count * 4096, PROCESS)
            .unwrap();
        disk.flush().unwrap();
        verify(disk, count + 1);
    }
    disks.clear();
    drop(store);
    let store = Store::open(&pool.join("overlays"), Options::default()).unwrap();
    for (name, count) in ["b", "c"].iter().zip(&counts[1..]) {
        let overlay = reopen(&store, name, base);
        assert_eq!(overlay.usage().used, (count + 1) * 4096);
        verify(&overlay.attach(), count + 1);
    }
}

fn verify(disk: &overlay::Attachment, count: u64) {
    let mut buf = [0; 4096];
    for i in 0..count + 2 {
        let byte = if i < count { i.to_le_bytes()[0] | 1 } else { 0 };
        disk.read(&mut buf, i * 4096).unwrap();
        assert!(
            buf[..2048].iter().all(|b| *b == byte) && buf[2048..].iter().all(|b| *b == 0),
            "block {i}"
        );
    }
}

#[test]
fn a_full_tmpfs_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &[]);
    let mount = Mount::tmpfs(&dir.path().join("pool"), "12m");
    fill(&mount.0, &base);
}

#[test]
fn a_full_ext4_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &[]);
    match Mount::ext4(dir.path(), &dir.path().join("pool")) {
        Some(mount) => fill(&mount.0, &base),
        None => eprintln!("skipped: this host cannot mount ext4 from a file"),
    }
}

#[test]
fn below_the_low_water_mark_only_kept_overlays_grow() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &[]);
    let mount = Mount::tmpfs(&dir.path().join("pool"), "32m");
    let options = Options {
        low_water: 16 << 20,
        ..Options::default()
    };
    let store = Store::open(&mount.0.join("overlays"), options).unwrap();
    let spec = |retention| OverlaySpec {
        retention,
        ..spec(64 << 20, &base)
    };
    let keep = store
        .create(&id("keep"), spec(Retention::Keep))
        .unwrap()
        .attach();
    let discard = store
        .create(&id("discard"), spec(Retention::Discard))
        .unwrap()
        .attach();
    let data = vec![1; 1 << 20];
    let refused = (0..64).find_map(|i| discard.write(&data, i << 20, PROCESS).err());
    let error = refused.expect("the pool has 32 MiB");
    assert!(
        error.is_no_space() && error.kind() == ErrorKind::PoolLow,
        "{error}"
    );
    keep.write(&data, 0, PROCESS).unwrap();
    discard.write(&[2; 4096], 0, PROCESS).unwrap();
    let error = store
        .create(&id("new"), spec(Retention::Keep))
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::PoolLow);
    discard.trim(0..64 << 20, PROCESS).unwrap();
    discard.write(&data, 0, PROCESS).unwrap();
    store.create(&id("new"), spec(Retention::Discard)).unwrap();
}

/// A second copy of a disk: what its first copy had room for is not refused because of this host's mark or its own count.
#[test]
fn what_is_admitted_elsewhere_is_refused_by_the_host_only() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let options = Options {
        low_water: u64::MAX / 2,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("overlays"), options).unwrap();
    let limited = || OverlaySpec {
        quota: Some(2 * 4096),
        retention: Retention::Discard,
        ..spec(1 << 20, &base)
    };
    assert!(store.is_low().unwrap());
    let refused = store.create(&id("pc"), limited()).err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::PoolLow);
    store.set_admitted(true);
    let disk = store.create(&id("pc"), limited()).unwrap().attach();
    for block in 0..4 {
        disk.write(&[5; 4096], block * 4096, PROCESS).unwrap();
    }
    assert_eq!(disk.overlay().usage().used, 4 * 4096);
    store.set_admitted(false);
    let refused = disk.write(&[5; 4096], 4 * 4096, PROCESS).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaFull);
    assert_eq!(store.require_room().unwrap_err().kind(), ErrorKind::PoolLow);
    disk.write(&[6; 4096], 0, PROCESS).unwrap();
}

/// Who has others make a change first asks before they do.
#[test]
fn what_would_be_refused_is_known_before_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let store = Store::open(&dir.path().join("overlays"), Options::default()).unwrap();
    let limited = OverlaySpec {
        quota: Some(2 * 4096),
        ..spec(1 << 20, &base)
    };
    let disk = store.create(&id("pc"), limited).unwrap().attach();
    disk.require_room(&(0..8192)).unwrap();
    let refused = disk.require_room(&(0..8193)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaFull);
    assert_eq!(disk.overlay().usage().used, 0, "nothing was taken");
    disk.write(&[5; 8192], 0, PROCESS).unwrap();
    disk.require_room(&(0..8192)).unwrap();
    assert!(disk.require_room(&(8192..8193)).is_err());
}
