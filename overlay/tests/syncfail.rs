//! A host that fails to sync: nothing is promised on it any more, and the last good flush is what remains.
#![allow(missing_docs)]

mod support;

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use overlay::{
    Attempt, Base, Durability, ErrorKind, HostDisk, OpenMode, Options, Storage, Store, StoredFile,
};
use support::*;
use uuid::Uuid;

/// The real disk, whose data files fail to sync while `broken` is set.
struct BadDisk {
    broken: Arc<AtomicBool>,
}

struct BadFile {
    file: Arc<dyn StoredFile>,
    broken: Option<Arc<AtomicBool>>,
}

impl Storage for BadDisk {
    fn boot_id(&self) -> io::Result<Uuid> {
        HostDisk.boot_id()
    }
    fn fresh_uuid(&self) -> Uuid {
        HostDisk.fresh_uuid()
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        HostDisk.free_bytes(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoredFile>> {
        let file = HostDisk.open(path, mode)?;
        let is_data = path.extension().is_some_and(|ext| ext == "data");
        let broken = is_data.then(|| self.broken.clone());
        Ok(Arc::new(BadFile { file, broken }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        HostDisk.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        HostDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        HostDisk.lock(path)
    }
}

impl StoredFile for BadFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.file.try_read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        self.file.punch(range)
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.file.allocate(range)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
    fn sync(&self) -> io::Result<()> {
        match &self.broken {
            Some(broken) if broken.load(Ordering::Relaxed) => Err(io::Error::other("a dying disk")),
            _ => self.file.sync(),
        }
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(from)
    }
}

#[test]
fn after_a_failed_sync_the_last_good_flush_is_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    let base: Arc<dyn Base> = file_base(dir.path(), &pattern(1 << 20, 1));
    let broken = Arc::new(AtomicBool::new(false));
    let host = Arc::new(BadDisk {
        broken: broken.clone(),
    });
    let options = Options {
        host,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("overlays"), options).unwrap();
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
