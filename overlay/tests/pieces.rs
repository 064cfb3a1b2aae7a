//! A request over much of the disk does not hold an eviction up.
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use overlay::{Attachment, Attempt, Durability, ErrorKind, Result};
use support::hooked::{Call, Hooked};
use support::*;

const SIZE: u64 = 256 << 20;

/// Runs `work` on a disk with data at its start and end; while its first `call` on the data file is made, another
/// attachment is asked for. Returns how the work ended, and what the end of the disk holds.
fn evicted_during(call: Call, work: fn(&Attachment) -> Result<()>) -> (Result<()>, u8) {
    let (reached, wait_reached) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    let ends = Arc::new(Mutex::new(None));
    let taken = ends.clone();
    let host = Hooked::host(move |made, path: &Path| {
        let data = path.extension().is_some_and(|ext| ext == "data");
        if made != call || !data {
            return Ok(());
        }
        let armed: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)> = taken.lock().unwrap().take();
        if let Some((reached, wait_go)) = armed {
            reached.send(()).unwrap();
            wait_go.recv().unwrap();
        }
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &[]);
    let store = store_on(dir.path(), host);
    let overlay = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    let disk = Arc::new(overlay.attach());
    for at in [0, SIZE - 4096] {
        disk.write(&[7; 4096], at, Durability::Process).unwrap();
    }
    *ends.lock().unwrap() = Some((reached, wait_go));
    let worker = thread::spawn({
        let disk = disk.clone();
        move || work(&disk)
    });
    wait_reached.recv().unwrap();
    let newer = thread::spawn(move || overlay.attach());
    // A read that need not wait finds the gate open until the newer attachment waits at it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while disk.try_read(&mut [0; 512], SIZE / 2).unwrap() == Attempt::Done {
        assert!(Instant::now() < deadline, "nobody waits at the gate");
        thread::yield_now();
    }
    go.send(()).unwrap();
    let ended = worker.join().unwrap();
    let mut last = [0; 1];
    newer.join().unwrap().read(&mut last, SIZE - 1).unwrap();
    (ended, last[0])
}

#[test]
fn filling_with_zeros_gives_way() {
    let fill = |disk: &Attachment| disk.write_zeroes(0..SIZE, false, Durability::Process);
    let (ended, last) = evicted_during(Call::Write, fill);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Evicted);
    assert_eq!(last, 7);
}

#[test]
fn punching_zeros_gives_way() {
    let punch = |disk: &Attachment| disk.write_zeroes(0..SIZE, true, Durability::Process);
    let (ended, last) = evicted_during(Call::Punch, punch);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Evicted);
    assert_eq!(last, 7);
}

#[test]
fn trimming_gives_way() {
    let trim = |disk: &Attachment| disk.trim(0..SIZE, Durability::Process);
    let (ended, last) = evicted_during(Call::Punch, trim);
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Evicted);
    assert_eq!(last, 7);
}
