//! What was discarded is removed in the end, all of it.
#![allow(missing_docs)]

mod support;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use overlay::{ErrorKind, Options, Store};
use support::hooked::{Call, Hooked};
use support::*;

const SIZE: u64 = 1 << 20;

fn trash(dir: &Path) -> usize {
    let names = fs::read_dir(dir.join("overlays")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".trash-")).count()
}

/// A delete in the moment in which the thread that empties the trash has found no more and is about to end.
#[test]
fn what_is_discarded_as_the_trash_was_found_empty_goes_too() {
    let (reached, wait_reached) = mpsc::channel();
    let (go, wait_go) = mpsc::channel::<()>();
    let ends = Arc::new(Mutex::new(None));
    let armed = ends.clone();
    let host = Hooked::host(move |call, path: &Path| {
        let by_it = thread::current().name() == Some("overlay-trash");
        if call != Call::Listed || !by_it || trash(path.parent().unwrap()) > 0 {
            return Ok(());
        }
        let ends: Option<(mpsc::Sender<()>, mpsc::Receiver<()>)> = armed.lock().unwrap().take();
        if let Some((reached, wait_go)) = ends {
            reached.send(()).unwrap();
            wait_go.recv().unwrap();
        }
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
    let store = store_on(dir.path(), host);
    for name in ["a", "b"] {
        store.create(&id(name), spec(SIZE, &base)).unwrap();
    }
    *ends.lock().unwrap() = Some((reached, wait_go));
    store.delete(&id("a")).unwrap();
    wait_reached.recv().unwrap();
    store.delete(&id("b")).unwrap();
    go.send(()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while trash(dir.path()) > 0 {
        assert!(Instant::now() < deadline, "it stays");
        thread::yield_now();
    }
}

#[test]
fn what_cannot_be_removed_does_not_keep_the_rest() {
    let stuck: Mutex<Option<PathBuf>> = Mutex::default();
    let host = Hooked::host(move |call, path: &Path| {
        if call != Call::Remove || !path.to_string_lossy().contains(".trash-") {
            return Ok(());
        }
        let mut stuck = stuck.lock().unwrap();
        if stuck.get_or_insert_with(|| path.to_owned()) == path {
            return Err(io::Error::other("a dying disk"));
        }
        Ok(())
    });
    let dir = tempfile::tempdir().unwrap();
    let base = file_base(dir.path(), &pattern(SIZE as usize, 1));
    let options = Options {
        host,
        background: false,
        ..Options::default()
    };
    let store = Store::open(&dir.path().join("overlays"), options).unwrap();
    for name in ["a", "b", "c"] {
        store.create(&id(name), spec(SIZE, &base)).unwrap();
        store.delete(&id(name)).unwrap();
    }
    assert_eq!(store.empty_trash().unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(trash(dir.path()), 1);
}
