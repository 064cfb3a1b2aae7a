//! One writable attachment (P6), and nobody waits for another's disk (P5).
#![allow(missing_docs)]

mod support;

use std::fs::File;
use std::io::Write;
use std::ops::{ControlFlow, Range};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use overlay::{
    Attachment, Attempt, Base, BaseId, Durability, Error, ErrorKind, Extent, FileBase, Result,
    SnapshotName,
};
use support::*;

/// A base whose reads report that they began, and wait until they may go on.
struct SlowBase {
    id: BaseId,
    began: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

fn slow_base() -> (Arc<dyn Base>, Receiver<()>, Sender<()>) {
    let (began, wait_began) = channel();
    let (go, wait_go) = channel();
    let base = SlowBase {
        id: base_id(1),
        began: Mutex::new(began),
        go: Mutex::new(wait_go),
    };
    (Arc::new(base), wait_began, go)
}

impl Base for SlowBase {
    fn id(&self) -> &BaseId {
        &self.id
    }

    fn size(&self) -> u64 {
        1 << 20
    }

    fn read_at(&self, buf: &mut [u8], _offset: u64) -> Result<()> {
        self.began.lock().unwrap().send(()).unwrap();
        let lost = |_| Error::new(ErrorKind::Io, "a base gone bad");
        self.go
            .lock()
            .unwrap()
            .recv_timeout(DEADLINE)
            .map_err(lost)?;
        buf.fill(7);
        Ok(())
    }

    fn try_read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<Attempt> {
        Ok(Attempt::WouldBlock)
    }

    fn resident(&self, _range: Range<u64>) -> Option<&std::fs::File> {
        None
    }

    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        let _ = found(Extent { range, hole: false });
        Ok(())
    }
}

/// How long a test may hang before it fails.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long something that must not happen is waited for.
const GRACE: Duration = Duration::from_millis(150);

fn sector(disk: &Attachment) -> Vec<u8> {
    let mut buf = vec![0; 512];
    disk.read(&mut buf, 0).unwrap();
    buf
}

/// Where one lock of the map ends and the next begins.
const EDGE: u64 = 128 << 10;

/// The older one's write waits for a cold read below, with a part still to do under another lock, when the newer one
/// comes: it must be through, not come later.
#[test]
fn what_the_older_was_applying_is_through_before_the_newer_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (base, began, go) = slow_base();
    let overlay = store(dir.path())
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap();
    let older = overlay.attach();
    let (done, wait_done) = channel();
    thread::scope(|scope| {
        let write = scope.spawn(|| older.write(&[1; 1024], EDGE - 512, Durability::Process));
        began.recv().unwrap();
        let newer = scope.spawn(|| {
            let newer = overlay.attach();
            newer.write(&[2; 4096], EDGE, Durability::Process).unwrap();
            done.send(()).unwrap();
            newer
        });
        // Were the newer one let in, it would finish here, and the older write come after it.
        assert!(
            wait_done.recv_timeout(GRACE).is_err(),
            "the newer one did not wait"
        );
        go.send(()).unwrap();
        go.send(()).unwrap();
        write.join().unwrap().unwrap();
        let mut buf = [0; 4096];
        newer.join().unwrap().read(&mut buf, EDGE).unwrap();
        assert_eq!(buf, [2; 4096]);
    });
    assert_eq!(
        older
            .write(&[3; 512], 0, Durability::Process)
            .unwrap_err()
            .kind(),
        ErrorKind::Evicted
    );
}

/// Requests that arrived before an eviction and are applied after it are refused.
#[test]
fn ownership_is_checked_when_a_write_is_applied() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let overlay = store(dir.path())
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap();
    for round in 0..40u32 {
        let older = overlay.attach();
        let begun = Barrier::new(3);
        let newest = thread::scope(|scope| {
            let work = || {
                let write = || older.write(&[1; 512], 0, Durability::Process);
                write().unwrap();
                begun.wait();
                let given_up = Instant::now() + DEADLINE;
                while write().is_ok() {
                    assert!(Instant::now() < given_up, "never evicted");
                }
            };
            let writers = [scope.spawn(work), scope.spawn(work)];
            begun.wait();
            let newest = overlay.attach();
            newest
                .write(&round.to_le_bytes(), 0, Durability::Process)
                .unwrap();
            writers
                .into_iter()
                .for_each(|writer| writer.join().unwrap());
            newest
        });
        assert_eq!(
            sector(&newest)[..4],
            round.to_le_bytes(),
            "a write of the older one came later"
        );
    }
}

#[test]
fn every_call_of_an_evicted_attachment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(8192, 1));
    let overlay = store(dir.path())
        .create(&id("pc"), spec(8192, &base))
        .unwrap();
    let old = overlay.attach();
    overlay.evict();
    let process = Durability::Process;
    let mut buf = [0; 512];
    let mut runs = Vec::new();
    let results = [
        old.read(&mut buf, 0),
        old.try_read(&mut buf, 0).map(|_| ()),
        old.write(&buf, 0, process),
        old.trim(0..4096, process),
        old.write_zeroes(0..4096, true, process),
        old.flush(),
        old.segments(0..512, &mut runs),
        old.block_status(0..512, &mut |_| ControlFlow::Continue(())),
    ];
    for result in results {
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Evicted);
    }
}

#[test]
fn a_read_that_must_wait_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(1 << 20, 1);
    let base = file_base(dir.path(), &content);
    let file = File::open(dir.path().join("base.raw")).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let disk = store(dir.path())
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap()
        .attach();
    let mut buf = vec![0; 4096];
    assert!(base.resident(8192..12288).is_none(), "nothing is cached");
    assert_eq!(disk.try_read(&mut buf, 8192).unwrap(), Attempt::WouldBlock);
    disk.read(&mut buf, 8192).unwrap();
    assert_eq!(disk.try_read(&mut buf, 8192).unwrap(), Attempt::Done);
    assert!(buf == content[8192..12288]);
    assert!(base.resident(8192..12288).is_some());
}

/// What a system call finds at the other end of a mapping.
fn content_of(bytes: std::io::IoSlice<'_>) -> Vec<u8> {
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(file.write_vectored(&[bytes]).unwrap(), bytes.len());
    let mut content = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut content, 0).unwrap();
    content
}

#[test]
fn mapped_is_what_the_base_holds_and_the_client_has_not_written() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let content = pattern(1 << 20, 1);
    let base = file_base(dir.path(), &content);
    let overlay = store(dir.path())
        .create(&id("pc"), spec(2 << 20, &base))
        .unwrap();
    let disk = overlay.attach();
    disk.write(&[9; 512], 40_960, Durability::Process).unwrap();
    disk.trim(65_536..69_632, Durability::Process).unwrap();
    let is_mapped = |range| disk.mapped(range).unwrap().is_some();
    let first = disk.mapped(5000..30_000).unwrap().unwrap();
    assert!(content_of(first) == content[5000..30_000]);
    assert!(!is_mapped(40_000..50_000), "written in part");
    assert!(!is_mapped(45_055..45_056), "in a written block");
    assert!(is_mapped(45_056..65_536));
    assert!(!is_mapped(65_536..65_537), "trimmed");
    assert!(is_mapped((1 << 20) - 1..1 << 20));
    assert!(
        !is_mapped((1 << 20) - 1..(1 << 20) + 1),
        "past the base's end"
    );
    assert!(!is_mapped(0..0));
    let newer = overlay.attach();
    assert_eq!(disk.mapped(0..1).unwrap_err().kind(), ErrorKind::Evicted);
    assert!(newer.mapped(0..1).unwrap().is_some());
}

#[test]
fn own_is_what_the_client_wrote_as_it_is_now() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let overlay = store(dir.path())
        .create(&id("pc"), spec(2 << 20, &base))
        .unwrap();
    let disk = overlay.attach();
    let own = |range| disk.own(range).unwrap();
    assert!(own(0..4096).is_none(), "the base's");
    let written = pattern(300_000, 2);
    disk.write(&written, 40_960, Durability::Process).unwrap();
    let lent = own(41_000..300_000).unwrap();
    assert!(content_of(lent.bytes()) == written[40..259_040]);
    disk.write(&[9; 4096], 40_960, Durability::Process).unwrap();
    assert!(
        content_of(lent.bytes())[..4056] == [9; 4056],
        "written since"
    );
    assert!(own(40_959..41_000).is_none(), "in part");
    disk.trim(65_536..69_632, Durability::Process).unwrap();
    assert!(own(69_631..69_632).is_none(), "trimmed");
    assert!(own(69_632..70_000).is_some());
    overlay
        .snapshot(&SnapshotName::new("now").unwrap(), 1)
        .unwrap();
    assert!(own(69_632..70_000).is_some(), "of an older layer");
    disk.write(&[3; 4096], 69_632, Durability::Process).unwrap();
    assert!(content_of(own(69_632..70_000).unwrap().bytes()) == [3; 368]);
    assert!(own(69_632..75_000).is_none(), "of two layers");
    disk.rest();
    assert!(own(69_632..70_000).is_some(), "after a rest");
    let newer = overlay.attach();
    let error = disk.own(0..1).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Evicted);
    assert!(newer.own(40_960..41_000).unwrap().is_some());
}

fn data_file(dir: &std::path::Path) -> File {
    let files = std::fs::read_dir(dir.join("overlays/pc")).unwrap();
    let paths = files.map(|entry| entry.unwrap().path());
    let is_data = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "data");
    let path = paths.into_iter().find(is_data).unwrap();
    File::options().write(true).open(path).unwrap()
}

/// A data file that is cut short is an error of the system call, and nobody's end.
#[test]
fn own_data_that_is_gone_is_told_by_the_kernel() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let store = store(dir.path());
    let overlay = store.create(&id("pc"), spec(1 << 20, &base)).unwrap();
    let disk = overlay.attach();
    disk.write(&[7; 8192], 0, Durability::Disk).unwrap();
    let lent = disk.own(0..8192).unwrap().unwrap();
    data_file(dir.path()).set_len(0).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let error = file.write_vectored(&[lent.bytes()]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
    assert_eq!(
        disk.read(&mut [0; 8192], 0).unwrap_err().kind(),
        ErrorKind::Io
    );
}

#[test]
fn what_is_not_in_memory_is_not_mapped() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let base = file_base(dir.path(), &pattern(1 << 20, 1));
    let file = File::open(dir.path().join("base.raw")).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(base.mapped(8192..12288).is_none());
    base.read_at(&mut vec![0; 1 << 20], 0).unwrap();
    // That it was not there may be believed for a second.
    let deadline = Instant::now() + DEADLINE;
    while base.mapped(8192..12288).is_none() {
        assert!(Instant::now() < deadline, "never mapped");
        thread::yield_now();
    }
}

/// A request stuck in a cold read holds up a newer attachment; nobody's `try_read` waits for either.
#[test]
fn trying_does_not_wait_for_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    let (base, began, go) = slow_base();
    let overlay = store(dir.path())
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap();
    let disk = overlay.attach();
    let (done, wait_done) = channel();
    thread::scope(|scope| {
        let read = scope.spawn(|| disk.read(&mut [0; 512], 0));
        began.recv().unwrap();
        let newer = scope.spawn(|| overlay.attach());
        let disk = &disk;
        scope.spawn(move || {
            for _ in 0..20_000 {
                let tried = disk.try_read(&mut [0; 512], 8192).unwrap();
                assert_eq!(tried, Attempt::WouldBlock);
                thread::yield_now();
            }
            done.send(()).unwrap();
        });
        let in_time = wait_done.recv_timeout(DEADLINE);
        go.send(()).unwrap();
        read.join().unwrap().unwrap();
        drop(newer.join().unwrap());
        assert!(in_time.is_ok(), "a try waited");
    });
}

#[test]
fn a_base_cut_short_fails_the_request_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(1 << 20, 1);
    let base = file_base(dir.path(), &content);
    let overlay = store(dir.path())
        .create(&id("pc"), spec(1 << 20, &base))
        .unwrap();
    let disk = overlay.attach();
    disk.write(&[9; 4096], 600_064, Durability::Process)
        .unwrap();
    let file = File::options()
        .write(true)
        .open(dir.path().join("base.raw"))
        .unwrap();
    file.set_len(500_000).unwrap();
    let mut buf = vec![0; 4096];
    assert_eq!(
        disk.read(&mut buf, 700_000).unwrap_err().kind(),
        ErrorKind::Io
    );
    assert_eq!(
        disk.write(&[1; 512], 800_000, Durability::Process)
            .unwrap_err()
            .kind(),
        ErrorKind::Io
    );
    let status = disk.block_status(400_000..1_000_000, &mut |_| ControlFlow::Continue(()));
    assert_eq!(status.unwrap_err().kind(), ErrorKind::Io);
    if let Attempt::Done = disk
        .try_read(&mut buf, 900_000)
        .unwrap_or(Attempt::WouldBlock)
    {
        panic!("read past the end of the file");
    }
    disk.read(&mut buf, 600_064).unwrap();
    assert_eq!(buf, [9; 4096]);
    disk.read(&mut buf, 0).unwrap();
    assert!(buf == content[..4096]);
    assert!(FileBase::open(&dir.path().join("none"), base_id(1)).is_err());
}
