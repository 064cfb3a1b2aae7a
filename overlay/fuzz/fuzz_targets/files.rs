//! Arbitrary bytes as manifest, live map or durable map: an error, or a disk that can be read, written and compared with
//! its snapshots; the check at rest, with and without repair, comes before.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/support/image.rs"]
mod image;
#[allow(dead_code)]
#[path = "../../tests/support/sim.rs"]
mod sim;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use overlay::{
    Base, BaseId, Digest, Durability, OpenMode, Options, OverlayId, OverlaySpec, Retention, SnapshotName, Storage, Store,
    ZeroBase,
};
use image::Image;
use sim::Sim;

const SIZE: u64 = 70 << 20;

fn base() -> Arc<dyn Base> {
    let version = uuid::Uuid::nil();
    Arc::new(ZeroBase::new(BaseId { version, digest: Digest([0; 32]) }))
}

fn open_store(host: &Arc<dyn Storage>) -> Store {
    let options = Options { host: host.clone(), background: false, ..Options::default() };
    Store::open(Path::new("/store"), options).expect("the folder is sound")
}

fn sealed(first_line: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("{first_line} {:08x}\n", crc32c::crc32c(body)).into_bytes();
    out.extend_from_slice(body);
    out
}

fn damage(host: &dyn Storage, path: PathBuf, bytes: &[u8], keep_len: bool) {
    let file = host.open(&path, OpenMode::Write).expect("it was listed");
    let len = file.len().expect("it is open");
    if !keep_len {
        file.set_len(bytes.len() as u64).expect("in memory");
    }
    let fits = if keep_len { bytes.len().min(len as usize) } else { bytes.len() };
    file.write_at(&bytes[..fits], 0).expect("in memory");
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let host: Arc<dyn Storage> = Arc::new(Sim::new(Image::default(), 1));
    let id = OverlayId::new("pc").expect("well formed");
    let spec = OverlaySpec { size: SIZE, quota: None, retention: Retention::Keep, base: base() };
    drop(open_store(&host).create(&id, spec).expect("in memory"));
    let dir = Path::new("/store/pc");
    let mut names = host.list(dir).expect("it is there");
    names.retain(|name| !name.ends_with(".data"));
    names.sort();
    let name = &names[usize::from(how % 3)];
    let sealed = sealed("bootroom-overlay 1", bytes);
    let bytes = if name == "manifest" && how & 4 != 0 { &sealed } else { bytes };
    damage(&*host, dir.join(name), bytes, name != "manifest" && how & 8 != 0);
    if how & 16 != 0 {
        let reports = overlay::check(&*host, Path::new("/store"), Some(&id), how & 32 != 0, Some(&|_| Some(base())));
        assert_eq!(reports.expect("the folder is sound").len(), 1);
    }
    let store = open_store(&host);
    let _ = store.list().expect("the folder can be listed");
    if let Ok(overlay) = store.open_overlay(&id, &|_| Some(base())) {
        let disk = overlay.attach();
        let mut buf = vec![0; 8192];
        let _ = disk.read(&mut buf, 0);
        let _ = disk.write(&buf, 1000, Durability::Disk);
        let _ = overlay.snapshot(&SnapshotName::new("now").expect("well formed"), 0);
        for (_, snapshot) in overlay.snapshot_ids() {
            let mut at = 0;
            let mut tell = |run: std::ops::Range<u64>, _| {
                assert_eq!(run.start, at);
                at = run.end;
                ControlFlow::Continue(())
            };
            disk.changed(snapshot, 0..disk.size(), &mut tell).expect("it is there");
            assert_eq!(at, disk.size());
        }
    }
});
