//! Overlays made, bound, reset, deleted, listed; what is damaged is refused with the reason, never guessed.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlay::{
    Base, Durability, ErrorKind, FileBase, HostDisk, Options, OverlayId, Report, Severity, Store,
    check,
};
use support::*;

const SIZE: u64 = 1 << 20;
const PROCESS: Durability = Durability::Process;

struct World {
    dir: tempfile::TempDir,
    base: Arc<dyn Base>,
}

impl World {
    /// A store with an overlay "pc", something written to it, flushed, and something more written.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
        let world = Self { dir, base };
        let disk = world
            .store()
            .create(&id("pc"), spec(SIZE, &world.base))
            .unwrap()
            .attach();
        disk.write(&[1; 4096], 0, Durability::Disk).unwrap();
        disk.write(&[2; 4096], 8192, PROCESS).unwrap();
        world
    }

    fn store(&self) -> Store {
        store(self.dir.path())
    }

    fn overlays(&self) -> PathBuf {
        self.dir.path().join("overlays")
    }

    fn file(&self, ending: &str) -> PathBuf {
        let files = fs::read_dir(self.overlays().join("pc")).unwrap();
        let mut paths = files.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.to_str().unwrap().ends_with(ending))
            .unwrap()
    }

    fn open_error(&self) -> overlay::Error {
        let base = self.base.clone();
        self.store()
            .open_overlay(&id("pc"), &|_| Some(base.clone()))
            .err()
            .expect("opened")
    }

    fn check(&self, repair: bool) -> Report {
        let mut reports = check(&HostDisk, &self.overlays(), None, repair, None).unwrap();
        assert_eq!(reports.len(), 1);
        reports.remove(0)
    }

    fn first_bytes(&self) -> (u8, u8) {
        let disk = reopen(&self.store(), "pc", &self.base).attach();
        let mut buf = [0; 8193];
        disk.read(&mut buf, 0).unwrap();
        (buf[0], buf[8192])
    }
}

fn damage(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_second_process_is_kept_out() {
    let world = World::new();
    let _store = world.store();
    let error = Store::open(&world.overlays(), Options::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert_eq!(
        check(&HostDisk, &world.overlays(), None, false, None)
            .unwrap_err()
            .kind(),
        ErrorKind::Busy
    );
}

#[test]
fn another_base_is_refused() {
    let world = World::new();
    let path = world.dir.path().join("base.raw");
    let store = world.store();
    let missing = store.open_overlay(&id("pc"), &|_| None).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::BaseMissing);
    assert!(
        missing
            .to_string()
            .contains(&world.base.id().version.to_string())
    );
    let other: Arc<dyn Base> = Arc::new(FileBase::open(&path, base_id(2)).unwrap());
    let error = store
        .open_overlay(&id("pc"), &|_| Some(other.clone()))
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::BaseMismatch);
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(SIZE - 512)
        .unwrap();
    let shorter: Arc<dyn Base> = Arc::new(FileBase::open(&path, base_id(1)).unwrap());
    let error = store
        .open_overlay(&id("pc"), &|_| Some(shorter.clone()))
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::BaseMismatch);
    let info = &store.list().unwrap()[0];
    assert_eq!(info.1.as_ref().unwrap().base, base_id(1));
    store.reset(&id("pc"), spec(SIZE, &other)).unwrap();
    assert!(
        store
            .open_overlay(&id("pc"), &|_| Some(other.clone()))
            .is_ok()
    );
}

#[test]
fn delete_and_reset_take_hold_of_what_is_attached() {
    let world = World::new();
    let store = world.store();
    let overlay = reopen(&store, "pc", &world.base);
    let disk = overlay.attach();
    store.reset(&id("pc"), spec(SIZE * 2, &world.base)).unwrap();
    assert_eq!(
        disk.write(&[1], 0, PROCESS).unwrap_err().kind(),
        ErrorKind::Evicted
    );
    let disk = overlay.attach();
    assert_eq!(disk.size(), SIZE * 2);
    let mut buf = [0; 512];
    disk.read(&mut buf, 0).unwrap();
    assert!(buf[..] == pattern(512, 1)[..]);
    assert_eq!(overlay.usage().used, 0);
    store.delete(&id("pc")).unwrap();
    assert_eq!(
        disk.read(&mut buf, 0).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        store.delete(&id("pc")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert_eq!(
        store
            .reset(&id("pc"), spec(SIZE, &world.base))
            .err()
            .unwrap()
            .kind(),
        ErrorKind::NotFound
    );
    let fresh = store.create(&id("pc"), spec(SIZE, &world.base)).unwrap();
    assert_eq!(
        overlay.attach().read(&mut buf, 0).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    fresh.attach().read(&mut buf, 0).unwrap();
    let again = store
        .create(&id("pc"), spec(SIZE, &world.base))
        .err()
        .unwrap();
    assert_eq!(again.kind(), ErrorKind::Exists);
    let unreal = store
        .create(&id("x"), spec(SIZE + 1, &world.base))
        .err()
        .unwrap();
    assert_eq!(unreal.kind(), ErrorKind::Invalid);
}

#[test]
fn what_a_crash_left_half_made_is_cleared_away() {
    let world = World::new();
    fs::create_dir(world.overlays().join(".new-1")).unwrap();
    fs::write(world.overlays().join(".new-1/x"), "x").unwrap();
    fs::write(world.overlays().join("pc/stray.data"), "x").unwrap();
    let report = world.check(false);
    assert!(report.is_sound());
    assert!(
        report
            .findings
            .iter()
            .any(|f| f.severity == Severity::Waste && f.text.contains("stray.data"))
    );
    let options = Options {
        background: false,
        ..Options::default()
    };
    let store = Store::open(&world.overlays(), options).unwrap();
    let _overlay = reopen(&store, "pc", &world.base);
    store.empty_trash().unwrap();
    let left: Vec<_> = fs::read_dir(world.overlays())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "the lock and the overlay: {left:?}");
    assert_eq!(
        fs::read_dir(world.overlays().join("pc")).unwrap().count(),
        4
    );
}

#[test]
fn a_newer_format_is_refused() {
    let world = World::new();
    damage(&world.file("manifest"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        *bytes = text
            .replacen("bootroom-overlay 1 ", "bootroom-overlay 2 ", 1)
            .into_bytes();
    });
    let error = world.open_error();
    assert_eq!(error.kind(), ErrorKind::NewerFormat);
    assert!(error.to_string().contains("format 2"), "{error}");
    assert!(!world.check(true).is_sound());
}

#[test]
fn a_damaged_manifest_is_told_and_reset_mends_it() {
    let world = World::new();
    damage(&world.file("manifest"), |bytes| bytes[60] ^= 1);
    assert_eq!(world.open_error().kind(), ErrorKind::Corrupt);
    let (_, listed) = world.store().list().unwrap().remove(0);
    assert_eq!(listed.unwrap_err().kind(), ErrorKind::Corrupt);
    world
        .store()
        .reset(&id("pc"), spec(SIZE, &world.base))
        .unwrap();
    assert!(world.check(false).is_sound());
}

#[test]
fn a_damaged_live_map_falls_back_to_the_last_flush_when_told() {
    let world = World::new();
    assert_eq!(world.first_bytes(), (1, 2));
    damage(&world.file(".live"), |bytes| bytes[100] = 0xFF);
    assert_eq!(world.open_error().kind(), ErrorKind::Corrupt);
    let report = world.check(false);
    assert!(!report.is_sound());
    assert_eq!(
        world.open_error().kind(),
        ErrorKind::Corrupt,
        "without repair nothing is changed"
    );
    assert!(world.check(true).is_sound());
    assert_eq!(world.first_bytes(), (1, pattern(8193, 1)[8192]));
}

#[test]
fn a_damaged_durable_map_is_told_by_its_sector() {
    let world = World::new();
    damage(&world.file(".map"), |bytes| bytes[3] ^= 4);
    assert_eq!(world.open_error().kind(), ErrorKind::Corrupt);
    let report = world.check(true);
    assert!(!report.is_sound());
    assert!(report.findings[0].text.contains("sector 0"), "{report:?}");
}

#[test]
fn files_cut_short_or_gone_are_told() {
    for ending in [".data", ".map", ".live"] {
        let world = World::new();
        damage(&world.file(ending), |bytes| bytes.truncate(1000));
        let error = world.open_error();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("1000 bytes"), "{error}");
        fs::remove_file(world.file(ending)).unwrap();
        assert_eq!(world.open_error().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn space_that_no_map_knows_is_found_and_freed() {
    let world = World::new();
    damage(&world.file(".data"), |bytes| bytes[40_960..45_056].fill(9));
    let waste = |report: &Report| {
        report
            .findings
            .iter()
            .any(|f| f.severity == Severity::Waste)
    };
    assert!(waste(&world.check(true)));
    assert!(!waste(&world.check(true)), "it was freed");
    assert_eq!(world.first_bytes(), (1, 2));
}

#[test]
fn check_knows_whether_the_base_is_there() {
    let world = World::new();
    let only = OverlayId::new("pc").unwrap();
    let run = |found: Option<Arc<dyn Base>>| {
        let resolve = move |_: &overlay::BaseId| found.clone();
        check(
            &HostDisk,
            &world.overlays(),
            Some(&only),
            false,
            Some(&resolve),
        )
        .unwrap()[0]
            .is_sound()
    };
    assert!(run(Some(world.base.clone())));
    assert!(!run(None));
    let none = OverlayId::new("none").unwrap();
    assert!(check(&HostDisk, &world.overlays(), Some(&none), false, None).is_err());
}

#[test]
fn an_overlay_takes_another_name_unless_it_is_taken_or_open() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let store = store(dir.path());
    let pc = store.create(&id("pc"), spec(1 << 20, &base)).unwrap();
    let disk = pc.attach();
    disk.write(&[7; 4096], 0, Durability::Process).unwrap();
    let kind = |from: &str, to: &str| store.rename(&id(from), &id(to)).unwrap_err().kind();
    assert_eq!(kind("pc", "pc-debian"), ErrorKind::Invalid);
    drop((pc, disk));
    store.create(&id("other"), spec(1 << 20, &base)).unwrap();
    assert_eq!(kind("pc", "other"), ErrorKind::Exists);
    assert_eq!(kind("none", "pc-debian"), ErrorKind::NotFound);
    store.rename(&id("pc"), &id("pc-debian")).unwrap();
    let mut first = [0; 1];
    let disk = reopen(&store, "pc-debian", &base).attach();
    disk.read(&mut first, 0).unwrap();
    assert_eq!(first, [7]);
    assert_eq!(store.list().unwrap().len(), 2);
}
