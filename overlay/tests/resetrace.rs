//! A snapshot that is taken while an overlay is reset.
#![allow(missing_docs)]

mod support;

use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use overlay::SnapshotName;
use support::hooked::{Call, Hooked};
use support::*;

const SIZE: u64 = 1 << 20;

/// While a reset clears away the old disk's files, somebody takes a snapshot: its layer is none of them.
#[test]
fn a_snapshot_taken_as_a_reset_clears_up_stays() {
    let (ask, wait_asked) = mpsc::channel();
    let (taken, wait_taken) = mpsc::channel();
    let ends = Arc::new(Mutex::new(None));
    let armed = ends.clone();
    let host = Hooked::host(move |call, path: &Path| {
        if call != Call::List || !path.ends_with("pc") {
            return Ok(());
        }
        let ends: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)> = armed.lock().unwrap().take();
        if let Some((ask, wait_taken)) = ends {
            ask.send(()).unwrap();
            // It is taken at once, or waits for the end of the reset, which is as good.
            let _ = wait_taken.recv_timeout(Duration::from_millis(500));
        }
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
    let store = store_on(dir.path(), host);
    let overlay = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
    *ends.lock().unwrap() = Some((ask, wait_taken));
    let other = thread::spawn(move || {
        wait_asked.recv().unwrap();
        let name = SnapshotName::new("s").unwrap();
        overlay.snapshot(&name, 0).unwrap();
        // Nobody waits for it if the reset went on meanwhile.
        let _ = taken.send(());
    });
    drop(store.reset(&id("pc"), spec(SIZE, &base)).unwrap());
    other.join().unwrap();
    drop(store);
    let found = reopen(&support::store(dir.path()), "pc", &base);
    assert_eq!(found.snapshots().len(), 1);
}
