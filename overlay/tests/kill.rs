//! A child under load is killed at random moments; what it had answered must be there (P1).
//!
//! `BOOTROOM_KILL_ROUNDS` sets how often (default 12).
#![allow(missing_docs)]

mod support;

use std::env;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use overlay::{Attachment, Durability, Store};
use support::image::Dice;
use support::*;

const SECTORS: u64 = 6000;
const THREADS: u64 = 3;
const DIR: &str = "BOOTROOM_KILL_DIR";
const ROUND: &str = "BOOTROOM_KILL_ROUND";
const DEADLINE: Duration = Duration::from_secs(60);

/// The writes of one thread in one round: sector and content number. Threads share blocks, never sectors.
struct Plan {
    dice: Dice,
    thread: u64,
    round: u64,
    count: u64,
}

impl Plan {
    fn new(round: u64, thread: u64) -> Self {
        Self {
            dice: Dice(round * THREADS + thread),
            thread,
            round,
            count: 0,
        }
    }
}

impl Iterator for Plan {
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        self.count += 1;
        let sector = self.dice.below(SECTORS / THREADS) * THREADS + self.thread;
        Some((sector, 1 + (self.round << 20) + self.count))
    }
}

fn content(number: u64, sector: u64) -> [u8; 512] {
    support::history::content(number, sector)
}

fn open(dir: &Path) -> (Store, Attachment) {
    let base =
        std::sync::Arc::new(overlay::FileBase::open(&dir.join("base.raw"), base_id(1)).unwrap());
    let store = store(dir);
    let overlay = store
        .open_overlay(&id("pc"), &|_| Some(base.clone()))
        .unwrap();
    (store, overlay.attach())
}

/// Writes as planned, and notes before and after each write how far it is.
fn work(disk: &Attachment, notes: &File, round: u64, thread: u64) {
    for (number, (sector, value)) in (1u64..).zip(Plan::new(round, thread)) {
        notes
            .write_all_at(&number.to_le_bytes(), thread * 16)
            .unwrap();
        disk.write(&content(value, sector), sector * 512, Durability::Process)
            .unwrap();
        notes
            .write_all_at(&number.to_le_bytes(), thread * 16 + 8)
            .unwrap();
        if thread == 0 && number.is_multiple_of(64) {
            disk.flush().unwrap();
        }
    }
}

/// Not a test of its own: what the child does. Returns at once in the parent.
#[test]
fn child() {
    let (Some(dir), Ok(round)) = (env::var_os(DIR), env::var(ROUND)) else {
        return;
    };
    let (dir, round) = (PathBuf::from(dir), round.parse().unwrap());
    let (_store, disk) = open(&dir);
    let notes = File::options().write(true).open(dir.join("notes")).unwrap();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (disk, notes) = (&disk, &notes);
            scope.spawn(move || work(disk, notes, round, thread));
        }
    });
}

fn note(notes: &File, at: u64) -> u64 {
    let mut bytes = [0; 8];
    notes.read_exact_at(&mut bytes, at).unwrap();
    u64::from_le_bytes(bytes)
}

fn start(dir: &Path, round: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--test-threads=1"])
        .env(DIR, dir)
        .env(ROUND, round.to_string());
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// Lets the child do that many writes, and kills it in the midst of the next.
fn run_and_kill(dir: &Path, notes: &File, round: u64, writes: u64) {
    let mut child = start(dir, round);
    let started = Instant::now();
    while (0..THREADS).map(|t| note(notes, t * 16 + 8)).sum::<u64>() < writes {
        assert!(started.elapsed() < DEADLINE, "the child does not get on");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the child died by itself"
        );
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Brings the model up to what was answered; a write under way may have happened, sector by sector.
fn settle(model: &mut [u64], notes: &File, round: u64, disk: &Attachment) -> u64 {
    let mut answered = 0;
    let mut buf = [0; 512];
    for thread in 0..THREADS {
        let (begun, done) = (note(notes, thread * 16), note(notes, thread * 16 + 8));
        answered += done;
        for (number, (sector, value)) in (1..=begun).zip(Plan::new(round, thread)) {
            disk.read(&mut buf, sector * 512).unwrap();
            if number <= done || buf == content(value, sector) {
                model[sector as usize] = value;
            }
        }
    }
    answered
}

fn verify(model: &[u64], fresh: &[u8], disk: &Attachment, round: u64) {
    let mut found = vec![0; fresh.len()];
    disk.read(&mut found, 0).unwrap();
    for (sector, value) in model.iter().enumerate() {
        let range = sector * 512..sector * 512 + 512;
        let want = match value {
            0 => fresh[range.clone()].to_vec(),
            value => content(*value, sector as u64).to_vec(),
        };
        assert!(
            found[range] == want,
            "round {round}: sector {sector} is not what write {value} left"
        );
    }
}

#[test]
fn what_was_answered_survives_kill_9() {
    if env::var_os(DIR).is_some() {
        return;
    }
    let rounds = env::var("BOOTROOM_KILL_ROUNDS").map_or(12, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let fresh = pattern((SECTORS * 512) as usize, 1);
    let base = file_base(dir.path(), &fresh);
    drop(
        store(dir.path())
            .create(&id("pc"), spec(SECTORS * 512, &base))
            .unwrap(),
    );
    let path = dir.path().join("notes");
    let mut model = vec![0; SECTORS as usize];
    let mut dice = Dice(rounds);
    let mut answered = 0;
    for round in 0..rounds {
        std::fs::write(&path, [0; 16 * THREADS as usize]).unwrap();
        let notes = File::open(&path).unwrap();
        run_and_kill(dir.path(), &notes, round, 1 + dice.below(1500));
        let (_store, disk) = open(dir.path());
        answered += settle(&mut model, &notes, round, &disk);
        verify(&model, &fresh, &disk, round);
    }
    println!("kill -9: {rounds} rounds, {answered} answered writes, 0 lost");
}
