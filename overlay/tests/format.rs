//! FORMAT.md is what the code writes: files are built and read here by the page alone.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use overlay::{Change, ChangeWriter, Durability};
use support::*;

const PAGE: &str = include_str!("../FORMAT.md");
const SIZE: u64 = 100 << 20;

fn file(dir: &Path, ending: &str) -> PathBuf {
    let files = fs::read_dir(dir.join("overlays/pc")).unwrap();
    let mut paths = files.map(|entry| entry.unwrap().path());
    paths
        .find(|path| path.to_str().unwrap().ends_with(ending))
        .unwrap()
}

/// State of a block by the words of a map, as the page has it.
fn state(words: &[u64], block: u64) -> u64 {
    words[block as usize / 32] >> (2 * (block % 32)) & 3
}

fn live_words(bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks_exact(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

/// Words of a durable map, every sector verified.
fn durable_words(layer: &str, bytes: &[u8]) -> Vec<u64> {
    let layer = uuid::Uuid::parse_str(layer).unwrap();
    let sector = |(s, bytes): (usize, &[u8])| {
        if bytes.iter().any(|byte| *byte != 0) {
            let covered = [
                layer.as_bytes(),
                &(s as u64).to_le_bytes()[..],
                &bytes[..504],
            ]
            .concat();
            assert_eq!(&bytes[504..508], b"BRm1");
            assert_eq!(bytes[508..], crc32c::crc32c(&covered).to_le_bytes());
        }
        live_words(&bytes[..504])
    };
    bytes
        .chunks_exact(512)
        .enumerate()
        .flat_map(sector)
        .collect()
}

#[test]
fn files_are_as_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
    let store = store(dir.path());
    let disk = store.create(&id("pc"), spec(SIZE, &base)).unwrap().attach();
    disk.write(&[1; 4096], 5 * 4096, Durability::Process)
        .unwrap();
    disk.trim(4096 * 2016..4096 * 2018, Durability::Disk)
        .unwrap();
    disk.write(&[2; 4096], 40 * 4096, Durability::Process)
        .unwrap();
    let manifest = fs::read(file(dir.path(), "manifest")).unwrap();
    let end = manifest.iter().position(|byte| *byte == b'\n').unwrap();
    let sum = format!(
        "bootroom-overlay 1 {:08x}",
        crc32c::crc32c(&manifest[end + 1..])
    );
    assert_eq!(std::str::from_utf8(&manifest[..end]).unwrap(), sum);
    let json: serde_json::Value = serde_json::from_slice(&manifest[end + 1..]).unwrap();
    for field in json.as_object().unwrap().keys() {
        assert!(
            PAGE.contains(&format!("| `{field}` |")),
            "{field} is not described"
        );
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(json["boot"], boot.trim());
    assert_eq!(json["retention"], "keep");
    assert_eq!(json["base"]["digest"], "01".repeat(32));
    let layer = json["layers"][0]["uuid"].as_str().unwrap();
    let live = fs::read(file(dir.path(), &format!("{layer}.live"))).unwrap();
    let map = fs::read(file(dir.path(), &format!("{layer}.map"))).unwrap();
    let data = fs::read(file(dir.path(), &format!("{layer}.data"))).unwrap();
    assert_eq!(
        (live.len(), map.len(), data.len() as u64),
        (8192, 8192, SIZE)
    );
    let (live, durable) = (live_words(&live), durable_words(layer, &map));
    for (block, in_live, in_durable) in [
        (5, 1, 1),
        (40, 1, 0),
        (2016, 2, 2),
        (2017, 2, 2),
        (2018, 0, 0),
    ] {
        assert_eq!(
            (state(&live, block), state(&durable, block)),
            (in_live, in_durable),
            "block {block}"
        );
    }
    assert!(data[5 * 4096..6 * 4096] == [1; 4096] && data[40 * 4096..41 * 4096] == [2; 4096]);
    for name in fs::read_dir(dir.path().join("overlays")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "pc" || PAGE.contains(&format!("`{name}`")),
            "{name}"
        );
    }
}

#[test]
fn a_stream_is_as_the_page_says() {
    let mut writer = ChangeWriter::new(Vec::new(), 1 << 20).unwrap();
    writer
        .put(&Change::Write {
            offset: 512,
            data: &[7; 3],
        })
        .unwrap();
    writer
        .put(&Change::Zero {
            range: 1024..2048,
            punch: true,
        })
        .unwrap();
    let written = writer.finish().unwrap();
    let mut built = b"BRchange".to_vec();
    built.extend(1u32.to_le_bytes());
    built.extend((1u64 << 20).to_le_bytes());
    let mut sum = crc32c::crc32c(&built);
    built.extend(sum.to_le_bytes());
    let records: [(u8, u64, u64, &[u8]); 3] =
        [(1, 512, 3, &[7; 3]), (3, 1024, 1024, &[]), (6, 0, 0, &[])];
    for (number, (kind, offset, len, data)) in records.into_iter().enumerate() {
        let mut record = vec![kind, 0, 0, 0];
        record.extend((number as u32).to_le_bytes());
        record.extend(offset.to_le_bytes());
        record.extend(len.to_le_bytes());
        sum = crc32c::crc32c_append(sum, &record);
        record.extend(sum.to_le_bytes());
        sum = crc32c::crc32c_append(sum, data);
        record.extend(sum.to_le_bytes());
        built.extend(record);
        built.extend(data);
    }
    assert_eq!(written, built);
    assert!(PAGE.contains(&overlay::MAX_CHANGE.to_string()));
}
