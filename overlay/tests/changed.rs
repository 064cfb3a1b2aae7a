//! What is said to have changed since a snapshot: all that did, whatever happens to other snapshots, and not much more.
#![allow(missing_docs)]

mod support;

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use overlay::{Attachment, Base, Durability, ErrorKind, Overlay, SnapshotId, Store};
use proptest::prelude::*;
use support::*;

const SIZE: u64 = 300 * 4096 + 1536;
const PROCESS: Durability = Durability::Process;

struct World {
    dir: tempfile::TempDir,
    base: Arc<dyn Base>,
    store: Option<Store>,
    overlay: Option<Arc<Overlay>>,
    disk: Option<Attachment>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = file_base(dir.path(), &pattern(200 * 4096, 1));
        let store = store(dir.path());
        let overlay = store.create(&id("pc"), spec(SIZE, &base)).unwrap();
        Self {
            dir,
            base,
            disk: Some(overlay.attach()),
            overlay: Some(overlay),
            store: Some(store),
        }
    }

    fn overlay(&self) -> &Arc<Overlay> {
        self.overlay.as_ref().unwrap()
    }

    fn disk(&self) -> &Attachment {
        self.disk.as_ref().unwrap()
    }

    fn take(&self, text: &str) -> SnapshotId {
        self.overlay().snapshot(&name(text), 0).unwrap();
        let ids = self.overlay().snapshot_ids();
        ids.iter().find(|(n, _)| n.as_str() == text).unwrap().1
    }

    /// As after the death of the process.
    fn reopen(&mut self) {
        (self.disk, self.overlay, self.store) = (None, None, None);
        let store = store(self.dir.path());
        let overlay = reopen(&store, "pc", &self.base);
        self.disk = Some(overlay.attach());
        (self.overlay, self.store) = (Some(overlay), Some(store));
    }

    /// What changed in `range`, and that the answer covers it without gaps, alternating.
    fn changed_in(&self, since: SnapshotId, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut at, mut last, mut found) = (range.start, None, Vec::new());
        let mut tell = |run: Range<u64>, changed: bool| {
            assert!(run.start == at && run.start < run.end);
            assert_ne!(last, Some(changed), "neighbours differ");
            (at, last) = (run.end, Some(changed));
            found.extend(changed.then_some(run));
            ControlFlow::Continue(())
        };
        self.disk()
            .changed(since, range.clone(), &mut tell)
            .unwrap();
        assert_eq!(at, range.end);
        found
    }

    fn changed(&self, since: SnapshotId) -> Vec<Range<u64>> {
        self.changed_in(since, 0..SIZE)
    }

    fn read(&self) -> Vec<u8> {
        let mut buf = vec![0; SIZE as usize];
        self.disk().read(&mut buf, 0).unwrap();
        buf
    }
}

#[test]
fn every_kind_of_change_is_told_and_nothing_else() {
    let world = World::new();
    let disk = world.disk();
    disk.write(&[1; 50_000], 0, PROCESS).unwrap();
    let since = world.take("monday");
    assert_eq!(world.changed(since), []);
    disk.write(&[2; 10], 4090, PROCESS).unwrap();
    disk.trim(40_960..49_152, PROCESS).unwrap();
    disk.write_zeroes(819_200..823_296, true, PROCESS).unwrap();
    // Past the base's end, where it reads as zeros anyway; and the last, which is no whole block.
    disk.write_zeroes(900 * 1024..900 * 1024 + 4096, true, PROCESS)
        .unwrap();
    disk.write(&[3; 1], SIZE - 1, PROCESS).unwrap();
    let all = [
        0..8192,
        40_960..49_152,
        819_200..823_296,
        921_600..925_696,
        300 * 4096..SIZE,
    ];
    assert_eq!(world.changed(since), all);
    assert_eq!(
        world.changed_in(since, 4096..45_000),
        [4096..8192, 40_960..45_000]
    );
    assert_eq!(world.changed_in(since, 8192..8192), []);
}

#[test]
fn it_stops_where_it_is_told_to() {
    let world = World::new();
    let since = world.take("monday");
    world.disk().write(&[1; 4096], 8192, PROCESS).unwrap();
    let mut found = Vec::new();
    let mut first = |run: Range<u64>, changed| {
        found.push((run, changed));
        ControlFlow::Break(())
    };
    world.disk().changed(since, 0..SIZE, &mut first).unwrap();
    assert_eq!(found, [(0..8192, false)]);
}

#[test]
fn the_same_name_taken_again_is_another_snapshot() {
    let world = World::new();
    let since = world.take("monday");
    world.disk().write(&[1; 4096], 0, PROCESS).unwrap();
    world.overlay().drop_snapshot(&name("monday")).unwrap();
    let again = world.take("monday");
    assert_ne!(since, again);
    let mut none = |_, _| ControlFlow::Continue(());
    let told = world.disk().changed(since, 0..SIZE, &mut none);
    assert_eq!(told.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.changed(again), []);
}

#[test]
fn a_view_tells_what_changed_between_two_snapshots() {
    let world = World::new();
    let monday = world.take("monday");
    world.disk().write(&[1; 4096], 4096, PROCESS).unwrap();
    world.take("tuesday");
    world.disk().write(&[2; 4096], 40_960, PROCESS).unwrap();
    let view = world.overlay().snapshot_view(&name("tuesday")).unwrap();
    let names: Vec<_> = view.older().iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["monday"]);
    let told = || {
        let mut found = Vec::new();
        let mut tell = |run, changed: bool| {
            found.extend(changed.then_some(run));
            ControlFlow::Continue(())
        };
        view.changed(monday, 0..SIZE, &mut tell).unwrap();
        found
    };
    assert!(told().iter().eq([&(4096..8192)]));
    world.overlay().drop_snapshot(&name("monday")).unwrap();
    assert!(
        told().iter().eq([&(4096..8192)]),
        "a view outlives the drop"
    );
}

#[derive(Debug, Clone)]
enum Op {
    Write(u64, u64),
    Zero(u64, u64, bool),
    Trim(u64, u64),
    Take,
    Drop(usize),
    Reopen,
}

fn ops() -> impl Strategy<Value = Op> {
    let place = (0..SIZE, 1u64..40_000).prop_map(|(at, len)| (at, len.min(SIZE - at)));
    prop_oneof![
        6 => place.clone().prop_map(|(at, len)| Op::Write(at, len)),
        2 => (place.clone(), any::<bool>()).prop_map(|((at, len), punch)| Op::Zero(at, len, punch)),
        2 => place.prop_map(|(at, len)| Op::Trim(at, len)),
        2 => Just(Op::Take),
        1 => (0usize..8).prop_map(Op::Drop),
        1 => Just(Op::Reopen),
    ]
}

/// A snapshot, what the disk held then, and which blocks were written to since.
struct Taken {
    name: String,
    then: Vec<u8>,
    touched: Vec<bool>,
}

fn apply(world: &mut World, op: &Op, number: usize, taken: &mut Vec<Taken>) {
    let mut touch = |at: u64, len: u64| {
        let blocks = (at / 4096) as usize..(at + len).div_ceil(4096) as usize;
        taken
            .iter_mut()
            .for_each(|one| one.touched[blocks.clone()].fill(true));
    };
    match *op {
        Op::Write(at, len) => {
            touch(at, len);
            let data = pattern(len as usize, number as u64);
            world.disk().write(&data, at, PROCESS).unwrap();
        }
        Op::Zero(at, len, punch) => {
            touch(at, len);
            let zeroed = world.disk().write_zeroes(at..at + len, punch, PROCESS);
            zeroed.unwrap();
        }
        Op::Trim(at, len) => {
            touch(at, len);
            world.disk().trim(at..at + len, PROCESS).unwrap();
        }
        Op::Take => {
            let name = format!("s{number}");
            world.take(&name);
            let touched = vec![false; SIZE.div_ceil(4096) as usize];
            let then = world.read();
            taken.push(Taken {
                name,
                then,
                touched,
            });
        }
        Op::Drop(which) if which < taken.len() => {
            let gone = taken.remove(which);
            world.overlay().drop_snapshot(&name(&gone.name)).unwrap();
        }
        Op::Drop(_) => {}
        Op::Reopen => world.reopen(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn what_differs_is_told_and_what_nobody_touched_is_not(ops in proptest::collection::vec(ops(), 1..40)) {
        let (mut world, mut taken) = (World::new(), Vec::new());
        for (number, op) in ops.iter().enumerate() {
            apply(&mut world, op, number, &mut taken);
        }
        let now = world.read();
        for (one, (_, id)) in taken.iter().zip(world.overlay().snapshot_ids()) {
            let changed = world.changed(id);
            let told = |block: usize| changed.iter().any(|run| run.contains(&(block as u64 * 4096)));
            let pairs = now.chunks(4096).zip(one.then.chunks(4096)).zip(&one.touched);
            for (block, ((now, then), touched)) in pairs.enumerate() {
                prop_assert!(told(block) || now == then, "block {} since {}", block, one.name);
                prop_assert!(!told(block) || *touched, "block {} since {}", block, one.name);
            }
        }
    }
}

/// As many snapshots as there may be: look-ups go down through all of them, also on a thread with a small stack.
#[test]
fn the_most_snapshots_fit_on_a_small_stack() {
    const STACK: usize = 64 << 10;
    let world = World::new();
    let first = world.take("s0");
    for number in 1..255 {
        world.take(&format!("s{number}"));
        let at = (number * 4096) % (SIZE - 4096);
        world.disk().write(&[1; 100], at, PROCESS).unwrap();
    }
    let full = world.overlay().snapshot(&name("more"), 0).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Invalid);
    let look = || {
        let changed = world.changed(first);
        world.disk().write(&[2; 100], 200, PROCESS).unwrap();
        let mut runs = 0;
        let mut count = |_| {
            runs += 1;
            ControlFlow::Continue(())
        };
        world.disk().block_status(0..SIZE, &mut count).unwrap();
        (world.read().len(), changed.len(), runs)
    };
    let (read, changed, runs) = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn_scoped(scope, look).unwrap().join().unwrap()
    });
    assert!(read == SIZE as usize && changed > 0 && runs > 0);
}
