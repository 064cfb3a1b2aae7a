use std::path::Path;

use mirror::{BlockRange, Op};
use overlay::{BaseId, Digest, FileBase, OverlayId, Retention, Store};
use pxe::Mac;

use super::{record::VolumeSpec, *};
use crate::clients::registry::RedbRows;

const SIZE: u64 = 1 << 20;
const BASE: BaseId = BaseId {
    version: uuid::Uuid::from_u128(7),
    digest: Digest([7; 32]),
};

/// A server's half: its store, and what was lost at its start.
fn open(dir: &Path) -> (Arc<PairStore>, volumes::Lost) {
    let (store, amiss) = open_amiss(dir);
    (store, amiss.lost)
}

fn open_amiss(dir: &Path) -> (Arc<PairStore>, volumes::Amiss) {
    open_with(dir, 0)
}

fn open_with(dir: &Path, low_water: u64) -> (Arc<PairStore>, volumes::Amiss) {
    let image = dir.join("image");
    std::fs::write(&image, vec![1; SIZE as usize]).unwrap();
    let base = Arc::new(FileBase::open(&image, BASE).unwrap());
    let overlays = dir.join("overlays");
    let options = overlay::Options {
        low_water,
        ..Default::default()
    };
    let overlays = Arc::new(Store::open(&overlays, options).unwrap());
    let bases = move |_, _| base.clone() as Arc<dyn overlay::Base>;
    let path = dir.join("volumes.redb");
    let (volumes, amiss) = Volumes::open(&path, overlays, Box::new(bases)).unwrap();
    let store = PairStore {
        data: dir.to_owned(),
        rows: Arc::new(RedbRows::open(&dir.join("state.redb")).unwrap()),
        leases: RedbLeases::open(dir.join("leases.redb")).unwrap(),
        volumes,
        half_old: AtomicBool::new(false),
        left_out: Default::default(),
        kept: Kept::nothing(dir),
    };
    (Arc::new(store), amiss)
}

fn spec(quota: Option<u64>) -> VolumeSpec {
    VolumeSpec {
        overlay: OverlayId::new("525400120001-debian").unwrap(),
        base: BASE,
        base_size: SIZE,
        size: SIZE,
        quota,
        retention: Retention::Keep,
    }
}

fn made(volume: u64, quota: Option<u64>) -> Record {
    Record::Volume {
        volume: Number(volume),
        spec: Some(spec(quota)),
    }
}

fn meta(store: &Arc<PairStore>, records: &[Record]) {
    let record = encode(records).unwrap();
    let op = Op::Meta {
        volume: None,
        record,
    };
    store.work(Work::Apply(op)).unwrap();
}

fn write(
    store: &Arc<PairStore>,
    volume: u64,
    offset: u64,
    data: Vec<u8>,
) -> Result<Yield, Failure> {
    store.work(Work::Apply(Op::Write {
        volume: VolumeId(volume),
        offset,
        length: data.len() as u64,
        data: data.into(),
    }))
}

fn blocks(start: u64, end: u64) -> BlockRange {
    BlockRange { start, end }
}

fn read(store: &Arc<PairStore>, volume: u64, range: BlockRange) -> Bytes {
    let volume = VolumeId(volume);
    match store.work(Work::Read { volume, range }).unwrap() {
        Yield::Data(data) => data,
        other => panic!("{other:?}"),
    }
}

fn surveyed(store: &Arc<PairStore>) -> Blocks {
    match store.work(Work::Survey).unwrap() {
        Yield::Blocks(blocks) => blocks,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_metadata_of_one_server_is_that_of_the_other() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (open(one.path()).0, open(two.path()).0);
    let mac = Mac([2, 0, 0, 0, 0, 1]);
    let client = Record::Client {
        mac,
        row: Some("{}".into()),
    };
    meta(&one, &[made(5, None), client]);
    meta(&two, &[made(6, None), Record::absence(Key::Client(mac))]);
    let Yield::Data(all) = one.work(Work::ReadMetadata).unwrap() else {
        panic!("no metadata");
    };
    two.work(Work::ReplaceMetadata(all)).unwrap();
    assert_eq!(two.records().unwrap(), one.records().unwrap());
    assert_eq!(read(&two, 5, blocks(0, 1))[..], [1; 4096]);
    let volume = VolumeId(6);
    let range = blocks(0, 1);
    let gone = two.work(Work::Read { volume, range }).unwrap();
    assert!(matches!(gone, Yield::Gone));
}

#[test]
fn what_reads_the_same_stays_in_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    write(&store, 5, 4096, vec![9; 4096]).unwrap();
    let mut content = vec![1; 4 * 4096];
    content[3 * 4096..].fill(0);
    store
        .work(Work::Restore {
            volume: VolumeId(5),
            range: blocks(0, 4),
            data: content.clone().into(),
        })
        .unwrap();
    assert_eq!(read(&store, 5, blocks(0, 4))[..], content[..]);
    let own: Vec<_> = surveyed(&store).ranges().map(|(_, range)| range).collect();
    assert_eq!(own, [blocks(1, 2), blocks(3, 4)]);
    let usage = store.volumes.overlay(VolumeId(5)).unwrap().unwrap().usage();
    assert_eq!(usage.used, 4096, "zeros take no room");
}

#[test]
fn ranges_end_where_the_disk_does() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    let last = SIZE / BLOCK;
    assert_eq!(read(&store, 5, blocks(last - 1, last + 1000)).len(), 4096);
    assert_eq!(read(&store, 5, blocks(last + 1, u64::MAX)).len(), 0);
}

#[test]
fn a_write_to_a_disk_that_is_not_here_is_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (fault, _) = write(&store, 5, 0, vec![9; 4096]).unwrap_err();
    assert_eq!(fault, Fault::Broken);
}

#[test]
fn a_reset_disk_is_another_volume_and_late_writes_do_not_reach_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    write(&store, 5, 0, vec![9; 4096]).unwrap();
    meta(&store, &[made(6, None)]);
    assert!(write(&store, 5, 0, vec![8; 4096]).is_err());
    assert_eq!(read(&store, 6, blocks(0, 1))[..], [1; 4096]);
    assert_eq!(store.volumes.specs().len(), 1);
}

#[test]
fn limits_change_and_the_content_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    write(&store, 5, 0, vec![9; 4096]).unwrap();
    meta(&store, &[made(5, Some(8192))]);
    assert_eq!(read(&store, 5, blocks(0, 1))[..], [9; 4096]);
    write(&store, 5, 4096, vec![9; 4096]).unwrap();
    let (fault, _) = write(&store, 5, 8192, vec![9; 4096]).unwrap_err();
    assert_eq!(fault, Fault::NoSpace);
}

fn replace(store: &Arc<PairStore>, all: &Bytes) -> Yield {
    store.work(Work::ReplaceMetadata(all.clone())).unwrap()
}

#[test]
fn a_standby_takes_what_the_primary_admitted() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, Some(4096))]);
    write(&store, 5, 0, vec![9; 4096]).unwrap();
    store.volumes.set_admitted(true);
    write(&store, 5, 4096, vec![9; 4096]).unwrap();
    store.volumes.set_admitted(false);
    assert_eq!(
        write(&store, 5, 8192, vec![9; 4096]).unwrap_err().0,
        Fault::NoSpace
    );
}

/// Spoils every file of the overlay whose name ends so.
fn spoil(dir: &Path, ending: &str) {
    let folder = dir.join("overlays").join(spec(None).overlay.as_str());
    let files = std::fs::read_dir(folder).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let mut spoilt = paths.filter(|path| path.to_string_lossy().ends_with(ending));
    spoilt
        .by_ref()
        .for_each(|path| std::fs::write(path, "noise").unwrap());
}

#[test]
fn a_damaged_disk_of_a_standby_is_put_aside_and_made_afresh_once_that_is_noted() {
    for ending in ["manifest", ".live", ".map"] {
        let dir = tempfile::tempdir().unwrap();
        let all = {
            let store = open(dir.path()).0;
            meta(&store, &[made(5, None)]);
            write(&store, 5, 0, vec![9; 4096]).unwrap();
            store.work(Work::Flush(VolumeId(5))).unwrap();
            store.gather().unwrap()
        };
        spoil(dir.path(), ending);
        if ending == ".map" {
            // Which counts after a power cut.
            spoil(dir.path(), ".live");
        }
        let (store, amiss) = open_amiss(dir.path());
        assert_eq!(amiss.lost, [], "{ending}: it is here");
        assert_eq!(amiss.unreadable.len(), usize::from(ending == "manifest"));
        let range = blocks(0, 1);
        let volume = VolumeId(5);
        assert!(store.work(Work::Read { volume, range }).is_err());
        let own = surveyed(&store);
        assert!(own.contains(volume, blocks(0, SIZE / BLOCK)), "{ending}");
        let Yield::Lost(blocks) = replace(&store, &all) else {
            panic!("{ending}: taken for a good one")
        };
        assert!(blocks.contains(volume, self::blocks(0, SIZE / BLOCK)));
        let kept = dir.path().join("overlays/.damaged-525400120001-debian");
        assert!(kept.is_dir(), "{ending}");
        {
            // The process ends here: the volume is missing, and not empty.
            drop(store);
            let (_, lost) = open(dir.path());
            assert_eq!(lost, [(volume, SIZE)], "{ending}");
        }
        let store = open(dir.path()).0;
        assert!(matches!(replace(&store, &all), Yield::Lost(_)));
        assert!(surveyed(&store).is_empty(), "what is not here is no error");
        assert!(matches!(replace(&store, &all), Yield::Nothing));
        assert_eq!(read(&store, 5, range)[..], [1; 4096], "{ending}: empty");
        assert!(kept.is_dir(), "{ending}");
        drop(store);
        assert_eq!(open(dir.path()).1, []);
    }
}

/// As a bad sector would: the file ends too early, under an open disk.
#[test]
fn a_disk_that_fails_while_it_is_in_use_is_put_aside_and_made_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    write(&store, 5, 4096, vec![9; 4096]).unwrap();
    store.work(Work::Flush(VolumeId(5))).unwrap();
    let all = store.gather().unwrap();
    spoil(dir.path(), ".data");
    assert!(matches!(replace(&store, &all), Yield::Nothing), "unseen");
    let (volume, range) = (VolumeId(5), blocks(0, 2));
    let (fault, _) = store.work(Work::Sum { volume, range }).unwrap_err();
    assert_eq!(fault, Fault::Broken);
    assert!(store.volumes.has_failed(volume));
    let Yield::Lost(blocks) = replace(&store, &all) else {
        panic!("relied on all the same")
    };
    assert!(blocks.contains(volume, self::blocks(0, SIZE / BLOCK)));
    assert!(matches!(replace(&store, &all), Yield::Nothing));
    assert_eq!(read(&store, 5, range)[..], [1; 8192], "empty");
    write(&store, 5, 4096, vec![8; 4096]).unwrap();
    assert!(matches!(replace(&store, &all), Yield::Nothing), "once");
    assert_eq!(read(&store, 5, range)[4096..], [8; 4096]);
}

/// To make the disk afresh would not mend it.
#[test]
fn a_disk_whose_image_cannot_be_read_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    meta(&store, &[made(5, None)]);
    write(&store, 5, 0, vec![9; 4096]).unwrap();
    let all = store.gather().unwrap();
    std::fs::write(dir.path().join("image"), "short").unwrap();
    let (volume, range) = (VolumeId(5), blocks(0, 2));
    assert!(store.work(Work::Read { volume, range }).is_err());
    assert!(matches!(replace(&store, &all), Yield::Nothing));
    assert_eq!(read(&store, 5, blocks(0, 1))[..], [9; 4096]);
}

/// A crash between the making of a fresh overlay and the writing of its row.
#[test]
fn a_volume_whose_overlay_is_another_one_by_now_is_lost_and_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (store, lost) = open(dir.path());
        assert_eq!(lost, []);
        meta(&store, &[made(5, None)]);
    }
    {
        let overlays = dir.path().join("overlays");
        let overlays = Store::open(&overlays, overlay::Options::default()).unwrap();
        let image = FileBase::open(&dir.path().join("image"), BASE).unwrap();
        let spec = overlay::OverlaySpec {
            size: SIZE,
            quota: None,
            retention: Retention::Keep,
            base: Arc::new(image),
        };
        let id = OverlayId::new("525400120001-debian").unwrap();
        overlays.reset(&id, spec).unwrap();
    }
    let (store, lost) = open(dir.path());
    assert_eq!(lost, [(VolumeId(5), SIZE)]);
    drop(store);
    let (store, lost) = open(dir.path());
    assert_eq!(lost.len(), 1, "it is told until it is written down");
    store.volumes.forget(&lost).unwrap();
    assert_eq!(store.volumes.specs(), []);
    drop(store);
    assert_eq!(open(dir.path()).1, []);
}

/// What were left out would be removed at the next start.
#[test]
fn a_server_that_was_alone_brings_all_of_its_disks_into_the_pair_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let base = FileBase::open(&dir.path().join("image"), BASE).unwrap();
    let base: Arc<dyn overlay::Base> = Arc::new(base);
    let disk = |name: &str| {
        let spec = overlay::OverlaySpec {
            size: SIZE,
            base: base.clone(),
            quota: None,
            retention: Retention::Keep,
        };
        let id = OverlayId::new(name).unwrap();
        store.volumes.store.create(&id, spec).unwrap();
    };
    ["one", "two"].into_iter().for_each(disk);
    let size = |_: &overlay::OverlayInfo| Some(SIZE);
    let manifest = dir.path().join("overlays/two/manifest");
    let good = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, b"damaged").unwrap();
    let refused = store.volumes.adopt_all(&size).unwrap_err();
    assert!(format!("{refused:#}").contains("overlay two cannot become"));
    assert!(store.volumes.specs().is_empty());
    std::fs::write(&manifest, good).unwrap();
    let refused = store.volumes.adopt_all(&|_| None).unwrap_err();
    assert!(format!("{refused:#}").contains("is not here"));
    assert!(store.volumes.specs().is_empty());
    store.volumes.adopt_all(&size).unwrap();
    assert_eq!(store.volumes.specs().len(), 2);
}

fn restore(store: &Arc<PairStore>, volume: u64, range: BlockRange, data: Vec<u8>) {
    let work = Work::Restore {
        volume: VolumeId(volume),
        range,
        data: data.into(),
    };
    store.work(work).unwrap();
}

const KEPT: mirror::Generation = mirror::Generation {
    of: mirror::Incarnation(1),
    number: 1,
};

/// As after a start in which the machine says that something is kept.
fn keeping(dir: &Path) -> Arc<PairStore> {
    keeping_with(dir, 0)
}

fn keeping_with(dir: &Path, low_water: u64) -> Arc<PairStore> {
    let (store, amiss) = open_with(dir, low_water);
    assert_eq!(amiss.lost, []);
    let store = Arc::into_inner(store).unwrap();
    let kept = Kept::open(dir, KEPT).unwrap().unwrap();
    Arc::new(PairStore { kept, ..store })
}

fn other_disk(volume: u64) -> Record {
    let spec = VolumeSpec {
        overlay: OverlayId::new("525400120002-debian").unwrap(),
        ..spec(None)
    };
    Record::Volume {
        volume: Number(volume),
        spec: Some(spec),
    }
}

fn client(number: u8) -> Record {
    Record::Client {
        mac: Mac([2, 0, 0, 0, 0, number]),
        row: Some("{}".into()),
    }
}

#[test]
fn what_a_resync_changes_deletes_and_makes_afresh_can_be_gone_back_to() {
    let dir = tempfile::tempdir().unwrap();
    let all = |store: &Arc<PairStore>, volume| read(store, volume, blocks(0, SIZE / BLOCK));
    let store = open(dir.path()).0;
    meta(&store, &[made(5, None), other_disk(6), client(1)]);
    write(&store, 5, 4096, vec![5; 8192]).unwrap();
    write(&store, 6, 0, vec![6; 100]).unwrap();
    let (before, other, records) = (all(&store, 5), all(&store, 6), store.records().unwrap());
    drop(store);
    // A resync: one disk changes and is then made afresh, the other one is deleted; a machine comes and one goes.
    let store = keeping(dir.path());
    let mut new = records.clone();
    new.retain(|record| *record != other_disk(6) && *record != client(1));
    new.push(client(2));
    let replace = |store: &Arc<PairStore>, records: &[Record]| {
        let all = encode(records).unwrap();
        store.work(Work::ReplaceMetadata(all)).unwrap();
    };
    replace(&store, &new);
    restore(&store, 5, blocks(0, 4), vec![9; 4 << 12]);
    write(&store, 5, SIZE - 4096, vec![7; 4096]).unwrap();
    assert!(
        store
            .volumes
            .overlay(VolumeId(5))
            .unwrap()
            .unwrap()
            .snapshots()
            .is_empty()
    );
    // The server starts anew in the midst of it, and another session brings the rest.
    drop(store);
    let store = keeping(dir.path());
    write(&store, 5, 0, vec![8; 4096]).unwrap();
    meta(&store, &[made(7, None)]);
    write(&store, 7, 0, vec![7; SIZE as usize]).unwrap();
    assert_eq!(store.volumes.specs().len(), 1);
    for _ in 0..2 {
        store.work(Work::GoBack).unwrap();
        assert!(all(&store, 5) == before && all(&store, 6) == other);
        let sorted = |mut records: Vec<Record>| {
            records.sort_by_key(Record::key);
            records
        };
        assert_eq!(sorted(store.records().unwrap()), sorted(records.clone()));
        // It could not be gone back to as a whole, and the resync goes on.
        write(&store, 5, 0, vec![3; 4096]).unwrap();
    }
    store.kept.set(None);
    store.work(Work::Forget).unwrap();
    write(&store, 5, 0, vec![1; 4096]).unwrap();
    wait_until("the last fold", || Arc::strong_count(&store) == 1);
    drop(store);
    let (store, lost) = open(dir.path());
    assert_eq!(lost, [], "all as it was");
    assert!(all(&store, 6) == other);
}

/// The snapshot takes no room, but each change after it does.
#[test]
fn with_little_free_nothing_is_kept_beside_what_comes_also_of_a_disk_that_has_its_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).0;
    meta(&store, &[made(5, None)]);
    write(&store, 5, 0, vec![5; 4096]).unwrap();
    drop(store);
    let store = keeping(dir.path());
    write(&store, 5, 4096, vec![6; 4096]).unwrap();
    assert!(!store.kept.wants(VolumeId(5)), "it has its snapshot");
    drop(store);
    // As if the file system had become full meanwhile; what the primary admitted is taken all the same.
    let store = keeping_with(dir.path(), u64::MAX);
    store.volumes.set_admitted(true);
    let (fault, error) = write(&store, 5, 8192, vec![7; 4096]).unwrap_err();
    assert_eq!(fault, Fault::NoSpace);
    assert!(error.to_string().contains("too little is free"), "{error}");
    store.kept.set(None);
    write(&store, 5, 8192, vec![7; 4096]).unwrap();
}

fn wait_until(what: &str, met: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !met() {
        assert!(begun.elapsed().as_secs() < 30, "{what} does not come");
        std::thread::yield_now();
    }
}

fn folder_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        about if about.is_dir() => folder_bytes(&entry.path()),
        about => about.blocks() * 512,
    };
    entries.map(size).sum()
}

#[test]
fn what_is_not_needed_any_more_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).0;
    meta(&store, &[made(5, None)]);
    write(&store, 5, 0, vec![5; SIZE as usize]).unwrap();
    drop(store);
    let store = keeping(dir.path());
    restore(&store, 5, blocks(0, 100), vec![9; 100 << 12]);
    let overlay = store.volumes.overlay(VolumeId(5)).unwrap().unwrap();
    assert_eq!(overlay.hidden_snapshots().len(), 1);
    assert_eq!(overlay.usage().used, SIZE + (100 << 12));
    let (before, now) = (
        folder_bytes(&dir.path().join("overlays")),
        read(&store, 5, blocks(0, SIZE / BLOCK)),
    );
    store.kept.set(None);
    store.work(Work::Forget).unwrap();
    wait_until("the fold", || overlay.hidden_snapshots().is_empty());
    assert!(read(&store, 5, blocks(0, SIZE / BLOCK)) == now);
    assert_eq!(overlay.usage().used, SIZE);
    let after = folder_bytes(&dir.path().join("overlays"));
    assert!(after + (100 << 12) <= before, "{after} of {before}");
    assert!(!dir.path().join("kept").exists());
    // What is named otherwise is of another resync.
    let other = mirror::Generation { number: 2, ..KEPT };
    assert!(
        Kept::open(dir.path(), other)
            .unwrap()
            .unwrap()
            .times()
            .is_none()
    );
    std::fs::write(dir.path().join("kept"), "noise").unwrap();
    assert!(Kept::open(dir.path(), other).unwrap().is_none());
}
