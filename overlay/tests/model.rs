//! Random operations against a plain `Vec<u8>`, reopened at any point.
#![allow(missing_docs)]

mod support;

use std::ops::ControlFlow;
use std::sync::Arc;

use overlay::{Attachment, Attempt, Base, Durability, ErrorKind, Overlay, RunKind, Store};
use proptest::prelude::*;
use support::*;

#[derive(Debug, Clone)]
enum Op {
    Write {
        at: u64,
        len: u64,
        seed: u64,
        fua: bool,
    },
    Zero {
        at: u64,
        len: u64,
        punch: bool,
    },
    Trim {
        at: u64,
        len: u64,
    },
    Flush,
    Reopen,
    Attach,
    Reset,
}

fn ops(size: u64) -> impl Strategy<Value = Op> {
    let at = prop_oneof![
        0..size,
        (0..size / 512).prop_map(|s| s * 512),
        (0..size / 4096).prop_map(|b| b * 4096)
    ];
    let len = prop_oneof![
        0u64..20_000,
        (0u64..40).prop_map(|s| s * 512),
        (0u64..80).prop_map(|b| b * 4096)
    ];
    let place = (at, len).prop_map(move |(at, len)| (at, len.min(size - at)));
    prop_oneof![
        8 => (place.clone(), 1u64..250, prop::bool::weighted(0.1))
            .prop_map(|((at, len), seed, fua)| Op::Write { at, len, seed, fua }),
        3 => (place.clone(), any::<bool>()).prop_map(|((at, len), punch)| Op::Zero { at, len, punch }),
        2 => place.prop_map(|(at, len)| Op::Trim { at, len }),
        1 => Just(Op::Flush),
        1 => Just(Op::Reopen),
        1 => Just(Op::Attach),
        1 => prop::bool::weighted(0.2).prop_map(|yes| if yes { Op::Reset } else { Op::Flush }),
    ]
}

/// What a process holds; dropped as a whole at its death.
struct Process {
    disk: Attachment,
    overlay: Arc<Overlay>,
    store: Store,
}

struct World {
    base: Arc<dyn Base>,
    fresh: Vec<u8>,
    model: Vec<u8>,
    process: Option<Process>,
    dir: tempfile::TempDir,
}

fn durability(fua: bool) -> Durability {
    if fua {
        Durability::Disk
    } else {
        Durability::Process
    }
}

impl World {
    fn new(base_len: usize, size: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content = pattern(base_len, 3);
        let base = file_base(dir.path(), &content);
        let mut fresh = content;
        fresh.resize(size as usize, 0);
        let store = store(dir.path());
        let overlay = store.create(&id("pc"), spec(size, &base)).unwrap();
        let disk = overlay.attach();
        let model = fresh.clone();
        let process = Some(Process {
            disk,
            overlay,
            store,
        });
        Self {
            base,
            fresh,
            model,
            process,
            dir,
        }
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write { at, len, seed, fua } => {
                let data = pattern(len as usize, seed);
                self.process()
                    .disk
                    .write(&data, at, durability(fua))
                    .unwrap();
                self.model[at as usize..][..len as usize].copy_from_slice(&data);
            }
            Op::Zero { at, len, punch } => {
                self.process()
                    .disk
                    .write_zeroes(at..at + len, punch, durability(false))
                    .unwrap();
                self.model[at as usize..][..len as usize].fill(0);
            }
            Op::Trim { at, len } => self.trim(at, len),
            Op::Flush => self.process().disk.flush().unwrap(),
            Op::Reopen => self.reopen(),
            Op::Attach => self.attach(),
            Op::Reset => {
                let spec = spec(self.model.len() as u64, &self.base);
                self.process().store.reset(&id("pc"), spec).unwrap();
                self.attach();
                self.model = self.fresh.clone();
            }
        }
    }

    fn attach(&mut self) {
        let process = self.process();
        let newer = process.overlay.attach();
        let older = std::mem::replace(&mut process.disk, newer);
        assert!(older.is_evicted());
        assert_eq!(older.flush().unwrap_err().kind(), ErrorKind::Evicted);
    }

    fn trim(&mut self, at: u64, len: u64) {
        self.process()
            .disk
            .trim(at..at + len, durability(false))
            .unwrap();
        let size = self.model.len() as u64;
        let start = at.next_multiple_of(4096);
        let end = if at + len == size {
            size
        } else {
            (at + len) / 4096 * 4096
        };
        if start < end {
            self.model[start as usize..end as usize].fill(0);
        }
    }

    /// As after the death of the process.
    fn reopen(&mut self) {
        let usage = self.process().overlay.usage();
        self.process = None;
        let store = store(self.dir.path());
        let overlay = reopen(&store, "pc", &self.base);
        assert_eq!(overlay.usage(), usage);
        let disk = overlay.attach();
        self.process = Some(Process {
            disk,
            overlay,
            store,
        });
    }

    fn verify(&mut self) {
        let size = self.model.len();
        let mut buf = vec![0; size];
        self.process().disk.read(&mut buf, 0).unwrap();
        assert!(
            buf == self.model,
            "read differs at byte {:?}",
            (0..size).find(|i| buf[*i] != self.model[*i])
        );
        self.verify_status();
    }

    /// Runs cover the disk, alternate, and what is called zero or base reads so.
    fn verify_status(&mut self) {
        let (model, fresh) = (self.model.clone(), self.fresh.clone());
        let (mut at, mut last) = (0, None);
        let size = model.len() as u64;
        let disk = &self.process().disk;
        disk.block_status(0..size, &mut |run| {
            assert_eq!(run.range.start, at);
            assert_ne!(last, Some(run.kind));
            (at, last) = (run.range.end, Some(run.kind));
            let range = run.range.start as usize..run.range.end as usize;
            match run.kind {
                RunKind::Zero => assert!(model[range].iter().all(|byte| *byte == 0)),
                RunKind::Base => assert!(model[range.clone()] == fresh[range]),
                RunKind::Data => {}
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(at, size);
    }

    fn verify_part(&mut self, at: u64, len: u64) {
        let mut buf = vec![0; len as usize];
        let disk = &self.process.as_ref().unwrap().disk;
        if disk.try_read(&mut buf, at).unwrap() == Attempt::WouldBlock {
            disk.read(&mut buf, at).unwrap();
        }
        assert!(buf == self.model[at as usize..][..len as usize]);
    }
}

const SIZE: u64 = 300 * 4096 + 1536;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_disk_holds_what_was_written(
        base_len in prop_oneof![Just(0usize), 1usize..400_000, Just(2_000_000)],
        ops in proptest::collection::vec((ops(SIZE), 0..SIZE, 0u64..9000), 1..40),
    ) {
        let mut world = World::new(base_len.min(SIZE as usize), SIZE);
        for (op, at, len) in ops {
            world.apply(op);
            world.verify_part(at, len.min(SIZE - at));
        }
        world.verify();
        world.reopen();
        world.verify();
    }
}

#[test]
fn a_base_larger_than_the_disk_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let content = pattern(100_000, 1);
    let base = file_base(dir.path(), &content);
    let disk = store(dir.path())
        .create(&id("pc"), spec(8192, &base))
        .unwrap()
        .attach();
    let mut buf = vec![0; 8192];
    disk.read(&mut buf, 0).unwrap();
    assert!(buf == content[..8192]);
    assert_eq!(
        disk.read(&mut buf, 512).unwrap_err().kind(),
        ErrorKind::OutOfRange
    );
    assert_eq!(
        disk.write(&buf, u64::MAX, Durability::Process)
            .unwrap_err()
            .kind(),
        ErrorKind::OutOfRange
    );
}
