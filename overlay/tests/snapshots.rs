//! Snapshots, what changed since, streams of changes, copies.
#![allow(missing_docs)]

mod support;

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use overlay::{
    Attachment, Base, Change, ChangeReader, ChangeWriter, Durability, ErrorKind, Overlay, View,
};
use support::*;

const SIZE: u64 = (3 << 20) + 512;
const PROCESS: Durability = Durability::Process;

fn changes(overlay: &Overlay, from: Option<&str>, to: Option<&str>) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let (from, to) = (from.map(name), to.map(name));
    overlay
        .diff(from.as_ref(), to.as_ref(), &mut |range| {
            found.push((range.start, range.end));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

struct World {
    _dir: tempfile::TempDir,
    base: Arc<dyn Base>,
    overlay: Arc<Overlay>,
    disk: Attachment,
    store: overlay::Store,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(2 << 20, 1));
    let store = store(dir.path());
    let overlay = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    let disk = overlay.attach();
    World {
        _dir: dir,
        base,
        overlay,
        disk,
        store,
    }
}

#[test]
fn a_snapshot_stays_as_it_was_through_all_that_follows() {
    let world = world();
    let World { overlay, disk, .. } = &world;
    disk.write(&[1; 10_000], 5000, PROCESS).unwrap();
    overlay.snapshot(&name("one"), 100).unwrap();
    let one = all(disk);
    disk.write(&[2; 700], 6000, PROCESS).unwrap();
    disk.trim(8192..12288, PROCESS).unwrap();
    overlay.snapshot(&name("two"), 200).unwrap();
    let two = all(disk);
    disk.write(&[3; 50_000], 1000, PROCESS).unwrap();
    disk.write_zeroes(2_000_000..3_000_000, true, PROCESS)
        .unwrap();
    let now = all(disk);
    let view = overlay.snapshot_view(&name("one")).unwrap();
    assert!(all_of(&view) == one);
    assert!(all_of(&overlay.snapshot_view(&name("two")).unwrap()) == two);
    assert_eq!(
        overlay.snapshot(&name("one"), 1).unwrap_err().kind(),
        ErrorKind::Exists
    );
    let names: Vec<_> = overlay
        .snapshots()
        .iter()
        .map(|s| (s.name.to_string(), s.taken))
        .collect();
    assert_eq!(names, [("one".into(), 100), ("two".into(), 200)]);
    overlay.drop_snapshot(&name("one")).unwrap();
    assert!(all_of(&view) == one, "a view outlives the drop");
    assert!(all_of(&overlay.snapshot_view(&name("two")).unwrap()) == two);
    assert!(all(disk) == now);
    overlay.drop_snapshot(&name("two")).unwrap();
    assert!(all(disk) == now);
    assert_eq!(
        overlay.drop_snapshot(&name("two")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn snapshots_are_there_after_a_reopen_and_gone_after_a_reset() {
    let world = world();
    let World {
        overlay,
        disk,
        store,
        base,
        _dir,
    } = world;
    disk.write(&[1; 4096], 0, PROCESS).unwrap();
    overlay.snapshot(&name("one"), 1).unwrap();
    let one = all(&disk);
    disk.write(&[2; 4096], 0, PROCESS).unwrap();
    let (now, usage) = (all(&disk), overlay.usage());
    drop((disk, overlay, store));
    let store = support::store(_dir.path());
    let overlay = reopen(&store, "pc", &base);
    assert_eq!(overlay.usage(), usage);
    assert!(all_of(&overlay.snapshot_view(&name("one")).unwrap()) == one);
    assert!(all(&overlay.attach()) == now);
    store.reset(&id("pc"), spec(SIZE, &base)).unwrap();
    assert!(overlay.snapshots().is_empty());
}

#[test]
fn the_difference_is_what_was_touched_in_between() {
    let world = world();
    let World { overlay, disk, .. } = &world;
    disk.write(&[1; 4096], 0, PROCESS).unwrap();
    overlay.snapshot(&name("one"), 1).unwrap();
    disk.write(&[1; 512], 9000, PROCESS).unwrap();
    disk.trim(16384..20480, PROCESS).unwrap();
    overlay.snapshot(&name("two"), 2).unwrap();
    disk.write(&[1; 4096], 12288, PROCESS).unwrap();
    assert_eq!(
        changes(overlay, Some("one"), Some("two")),
        [(8192, 12288), (16384, 20480)]
    );
    assert_eq!(
        changes(overlay, Some("one"), None),
        [(8192, 20480)],
        "neighbours are one"
    );
    assert_eq!(changes(overlay, None, Some("one")), [(0, 4096)]);
    assert_eq!(changes(overlay, Some("two"), None), [(12288, 16384)]);
    let backwards = overlay.diff(Some(&name("two")), Some(&name("one")), &mut |_| {
        ControlFlow::Break(())
    });
    assert!(backwards.is_err() || changes(overlay, Some("two"), Some("two")).is_empty());
}

/// Full export, then an incremental one: the copy equals the original each time.
#[test]
fn an_export_applied_equals_the_original() {
    let world = world();
    let World {
        overlay,
        disk,
        store,
        base,
        ..
    } = &world;
    let copy = store
        .create(&id("copy"), spec(SIZE, base))
        .unwrap()
        .attach();
    let mut last = None;
    for round in 0..5u64 {
        disk.write(&pattern(30_000, round), 7777 + round * 99_000, PROCESS)
            .unwrap();
        disk.trim(round * 65_536..round * 65_536 + 20_000, PROCESS)
            .unwrap();
        disk.write_zeroes(2_500_000..2_600_000 + round * 100, round % 2 == 0, PROCESS)
            .unwrap();
        let to = name(&format!("s{round}"));
        overlay.snapshot(&to, round).unwrap();
        let mut stream = Vec::new();
        overlay.export(last.as_ref(), &to, &mut stream).unwrap();
        copy.apply_stream(&stream[..]).unwrap();
        assert!(all(&copy) == all(disk), "round {round}");
        last = Some(to);
    }
}

/// Replay of every call equals the original.
#[test]
fn a_stream_of_calls_replayed_equals_the_original() {
    let world = world();
    let World {
        overlay: _,
        disk,
        store,
        base,
        ..
    } = &world;
    let mut writer = ChangeWriter::new(Vec::new(), SIZE).unwrap();
    let mut dice = image::Dice(7);
    for round in 0..200 {
        let at = dice.below(SIZE - 60_000);
        let range = at..at + dice.below(60_000);
        let data = pattern((range.end - at) as usize, round);
        let change = match dice.below(10) {
            0..6 => Change::Write {
                offset: at,
                data: &data,
            },
            6 => Change::Trim(range),
            7 => Change::Flush,
            other => Change::Zero {
                range,
                punch: other == 8,
            },
        };
        disk.apply(&change).unwrap();
        writer.put(&change).unwrap();
    }
    let stream = writer.finish().unwrap();
    let copy = store
        .create(&id("copy"), spec(SIZE, base))
        .unwrap()
        .attach();
    copy.apply_stream(&stream[..]).unwrap();
    assert!(all(&copy) == all(disk));
}

#[test]
fn a_stream_that_is_damaged_reordered_or_cut_is_refused() {
    let record =
        |byte: u8, n: usize| (0..n).map(move |i| (i as u64 * 512, vec![byte + i as u8; 512]));
    let mut writer = ChangeWriter::new(Vec::new(), SIZE).unwrap();
    for (offset, data) in record(1, 4) {
        writer
            .put(&Change::Write {
                offset,
                data: &data,
            })
            .unwrap();
    }
    let good = writer.finish().unwrap();
    let read = |bytes: &[u8]| -> overlay::Result<usize> {
        let mut reader = ChangeReader::new(bytes)?;
        let mut count = 0;
        while reader.next_change()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(read(&good).unwrap(), 4);
    for cut in 0..good.len() {
        assert!(read(&good[..cut]).is_err(), "cut at {cut}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        assert!(read(&bad).is_err(), "flipped at {at}");
    }
    let (head, len) = (24, 32 + 512);
    let swapped = [
        &good[..head],
        &good[head + len..head + 2 * len],
        &good[head..head + len],
        &good[head + 2 * len..],
    ];
    assert!(read(&swapped.concat()).is_err());
    let lost = [&good[..head], &good[head + len..]];
    assert!(read(&lost.concat()).is_err());
}

fn copy(view: &View, dir: &std::path::Path) -> (Vec<u8>, u64) {
    let path = dir.join("copy.raw");
    let out = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    let mut last = 0;
    view.copy_to(&out, &mut |progress| {
        assert!(progress.done >= last && progress.size == SIZE);
        last = progress.done;
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(last, SIZE);
    (
        std::fs::read(&path).unwrap(),
        out.metadata().unwrap().blocks() * 512,
    )
}

#[test]
fn a_copy_holds_base_and_changes_and_is_sparse() {
    let world = world();
    let World {
        overlay,
        disk,
        _dir,
        ..
    } = &world;
    disk.write(&[5; 10_000], 100_000, PROCESS).unwrap();
    disk.trim(1 << 20..2 << 20, PROCESS).unwrap();
    overlay.snapshot(&name("one"), 1).unwrap();
    let then = all(disk);
    disk.write(&[6; 10_000], 100_000, PROCESS).unwrap();
    let (bytes, taken) = copy(&overlay.snapshot_view(&name("one")).unwrap(), _dir.path());
    assert!(bytes == then);
    assert!(
        taken < 1200 << 10,
        "trimmed and missing parts are holes, and it takes {taken}"
    );
    let now = all(disk);
    let view = overlay.view_at_rest();
    assert!(disk.is_evicted());
    assert!(copy(&view, _dir.path()).0 == now);
    let out = tempfile::tempfile().unwrap();
    let stop = view
        .copy_to(&out, &mut |_| ControlFlow::Break(()))
        .unwrap_err();
    assert_eq!(stop.kind(), ErrorKind::Cancelled);
    let _client = overlay.attach();
    let busy = view
        .copy_to(&out, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
}
