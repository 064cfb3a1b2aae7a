//! Arbitrary bytes as manifest, maps and change stream: an error or a disk, never a panic.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use overlay::{Change, ChangeReader, ChangeWriter, Durability, HostDisk, check};
use proptest::prelude::*;
use support::*;

const SIZE: u64 = 9 << 20;

fn files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir.join("overlays/pc")).unwrap();
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_none_or(|ext| ext != "data"));
    paths.sort();
    paths
}

#[derive(Debug, Clone)]
enum Damage {
    Replace(Vec<u8>),
    Flip(Vec<(prop::sample::Index, u8)>),
    Cut(prop::sample::Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..9000);
    let flips = proptest::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6);
    prop_oneof![
        bytes.prop_map(Damage::Replace),
        flips.prop_map(Damage::Flip),
        any::<prop::sample::Index>().prop_map(Damage::Cut),
    ]
}

impl Damage {
    fn apply(self, bytes: &mut Vec<u8>) {
        match self {
            Damage::Replace(new) => *bytes = new,
            Damage::Flip(flips) => flips.into_iter().for_each(|(at, mask)| {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }),
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_are_refused_or_read(which in 0usize..3, damage in damage(), repair: bool) {
        let dir = tempfile::tempdir().unwrap();
        let base = file_base(dir.path(), &pattern(SIZE as usize / 2, 1));
        let disk = store(dir.path()).create(&id("pc"), spec(SIZE, &base)).unwrap().attach();
        disk.write(&[1; 9000], 70_000, Durability::Disk).unwrap();
        disk.trim(0..SIZE / 3, Durability::Process).unwrap();
        drop(disk);
        let path = &files(dir.path())[which];
        let mut bytes = fs::read(path).unwrap();
        damage.apply(&mut bytes);
        fs::write(path, bytes).unwrap();
        let reports = check(&HostDisk, &dir.path().join("overlays"), None, repair, None).unwrap();
        let store = store(dir.path());
        prop_assert_eq!(store.list().unwrap().len(), 1);
        let opened = store.open_overlay(&id("pc"), &|_| Some(base.clone()));
        prop_assert_eq!(opened.is_ok(), reports[0].is_sound(), "check and open agree: {:?}", reports);
        if let Ok(overlay) = opened {
            let disk = overlay.attach();
            let mut buf = vec![0; SIZE as usize];
            disk.read(&mut buf, 0).unwrap();
            disk.write(&[1; 512], 0, Durability::Disk).unwrap();
        }
    }

    #[test]
    fn damaged_streams_are_refused(damage in damage(), records in 0usize..5) {
        let mut writer = ChangeWriter::new(Vec::new(), SIZE).unwrap();
        for i in 0..records {
            writer.put(&Change::Write { offset: i as u64 * 600, data: &[i as u8; 600] }).unwrap();
        }
        let good = writer.finish().unwrap();
        let mut bytes = good.clone();
        damage.apply(&mut bytes);
        let read = || -> overlay::Result<()> {
            let mut reader = ChangeReader::new(&bytes[..])?;
            while reader.next_change()?.is_some() {}
            Ok(())
        };
        prop_assert_eq!(read().is_ok(), bytes == good);
    }
}
