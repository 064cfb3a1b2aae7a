//! Every crash point of random work, with what was not synced kept, lost, reordered or torn: P1, P2 and P3.
//!
//! `BOOTROOM_CRASH_STATES` sets how many states are tried (default 4000), `BOOTROOM_CRASH_SEED` the first seed.
#![allow(missing_docs)]

mod support;

use std::collections::HashSet;
use std::env;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use overlay::{
    Attachment, Base, BaseId, ErrorKind, Options, Overlay, OverlaySpec, Retention, SnapshotName,
    Storage, Store, View,
};
use support::history::{DISK, Epoch, NEVER, TagBase, Taken, USED, place};
use support::image::{Dice, Event, Fate, Image, POWER, SECTOR, crash};
use support::sim::Sim;
use support::worker::Worker;
use support::{base_id, id};

/// What was done, by whom, and every storage call of it.
struct Recording {
    seed: u64,
    log: Vec<Event>,
    epochs: Vec<Epoch>,
}

/// `seed` decides whether folds have several steps, or are done at once.
fn open_store(sim: &Arc<Sim>, seed: u64) -> Store {
    let host: Arc<dyn Storage> = sim.clone();
    let options = Options {
        host,
        background: false,
        portion: [16, 16 * 20][seed as usize % 2] * 4096,
        ..Options::default()
    };
    Store::open(Path::new("/store"), options).unwrap()
}

fn spec(epoch: usize) -> OverlaySpec {
    OverlaySpec {
        size: DISK * SECTOR,
        quota: None,
        retention: Retention::Keep,
        base: Arc::new(TagBase::new(epoch)),
    }
}

fn resolve(wanted: &BaseId) -> Option<Arc<dyn Base>> {
    let epoch = (0..20).find(|epoch| base_id(*epoch as u8 + 1) == *wanted)?;
    Some(Arc::new(TagBase::new(epoch)))
}

/// Work of one thread, with snapshots and resets in between.
fn record_alone(seed: u64) -> Recording {
    let sim = Arc::new(Sim::new(Image::default(), 1));
    let mut dice = Dice(seed);
    let begin = sim.mark();
    let store = open_store(&sim, seed);
    let overlay = store.create(&id("pc"), spec(0)).unwrap();
    let mut epochs = vec![Epoch::new(0, (begin, sim.mark()))];
    let mut disk = overlay.attach();
    for round in 0..32 {
        let what = dice.below(100);
        let number = epochs.len();
        let epoch = epochs.last_mut().unwrap();
        match what {
            0..8 => take(&sim, &overlay, epoch, round),
            8..16 => drop_one(&sim, &overlay, epoch, &mut dice),
            16..18 => disk = overlay.attach(),
            18..21 => {
                revert(&sim, &overlay, epoch, &mut dice);
                disk = overlay.attach();
            }
            21..23 => {
                let next = reset(&sim, &store, epoch, number);
                epochs.push(next);
                disk = overlay.attach();
            }
            _ => {
                let shared = Mutex::new(epoch.clone());
                let tags = 100 + round * 10..u64::MAX;
                let (disk, dice) = (&disk, Dice(dice.roll()));
                Worker {
                    sim: &sim,
                    disk,
                    epoch: &shared,
                    dice,
                    tags,
                }
                .step();
                *epoch = shared.into_inner().unwrap();
            }
        }
    }
    Recording {
        seed,
        log: sim.log(),
        epochs,
    }
}

fn take(sim: &Sim, overlay: &Overlay, epoch: &mut Epoch, round: u64) {
    let name = format!("s{round}");
    let begin = sim.mark();
    overlay
        .snapshot(&SnapshotName::new(name.clone()).unwrap(), 0)
        .unwrap();
    let end = sim.mark();
    epoch.flushes.push((begin, end));
    let tags = epoch.tags();
    epoch.snapshots.push(Taken {
        name,
        begin,
        end,
        dropped: (NEVER, NEVER),
        folded: false,
        tags,
    });
}

/// One of the snapshots that are there.
fn pick<'a>(epoch: &'a mut Epoch, dice: &mut Dice) -> Option<(SnapshotName, &'a mut Taken)> {
    let mut there: Vec<_> = epoch
        .snapshots
        .iter_mut()
        .filter(|s| s.dropped.0 == NEVER)
        .collect();
    let chosen = dice.below(there.len().max(1) as u64) as usize;
    let taken = (chosen < there.len()).then(|| there.swap_remove(chosen))?;
    Some((SnapshotName::new(taken.name.clone()).unwrap(), taken))
}

/// Drops a snapshot in one direction or the other.
fn drop_one(sim: &Sim, overlay: &Overlay, epoch: &mut Epoch, dice: &mut Dice) {
    let Some((name, taken)) = pick(epoch, dice) else {
        return;
    };
    let begin = sim.mark();
    taken.folded = dice.below(2) == 0;
    match taken.folded {
        false => overlay.drop_snapshot(&name).unwrap(),
        true => overlay.fold_snapshot(&name).unwrap(),
    }
    taken.dropped = (begin, sim.mark());
}

/// Goes back to a snapshot: what it held is what was written last, and durable.
fn revert(sim: &Sim, overlay: &Overlay, epoch: &mut Epoch, dice: &mut Dice) {
    let Some((name, taken)) = pick(epoch, dice) else {
        return;
    };
    let (tags, first) = (taken.tags.clone(), taken.begin);
    let begin = sim.mark();
    overlay.revert(&name).unwrap();
    let end = sim.mark();
    for (used, tag) in tags.into_iter().enumerate() {
        epoch.wrote(used..used + 1, tag, begin, end, true);
    }
    let gone = epoch.snapshots.iter_mut().filter(|s| s.dropped.0 == NEVER);
    gone.filter(|s| s.begin >= first)
        .for_each(|s| s.dropped = (begin, end));
}

fn reset(sim: &Sim, store: &Store, epoch: &mut Epoch, number: usize) -> Epoch {
    let begin = sim.mark();
    store.reset(&id("pc"), spec(number)).unwrap();
    let made = (begin, sim.mark());
    for snapshot in epoch.snapshots.iter_mut().filter(|s| s.dropped.0 == NEVER) {
        snapshot.dropped = made;
    }
    Epoch::new(number, made)
}

/// Work of three threads at once on the same blocks.
fn record_together(seed: u64) -> Recording {
    let sim = Arc::new(Sim::new(Image::default(), 1));
    let begin = sim.mark();
    let store = open_store(&sim, seed);
    let disk = store.create(&id("pc"), spec(0)).unwrap().attach();
    let epoch = Mutex::new(Epoch::new(0, (begin, sim.mark())));
    thread::scope(|scope| {
        for number in 0..3 {
            let (sim, disk, epoch) = (&sim, &disk, &epoch);
            let dice = Dice(seed * 3 + number);
            let tags = 1000 * (number + 1)..u64::MAX;
            let mut worker = Worker {
                sim,
                disk,
                epoch,
                dice,
                tags,
            };
            scope.spawn(move || (0..8).for_each(|round| worker.step_or_snapshot(round)));
        }
    });
    Recording {
        seed,
        log: sim.log(),
        epochs: vec![epoch.into_inner().unwrap()],
    }
}

/// A crash: before which call, and what became of the unsynced.
#[derive(Debug, Clone, Copy)]
struct Crash {
    at: usize,
    power: bool,
}

fn read_used(read: impl Fn(&mut [u8], u64)) -> Vec<u8> {
    let mut disk = vec![0; USED * SECTOR as usize];
    let (low, high) = disk.split_at_mut(USED / 2 * SECTOR as usize);
    read(low, 0);
    read(high, place(USED / 2) * SECTOR);
    disk
}

impl Recording {
    /// Opens what a crash left and says what is wrong with it.
    fn judge(&self, sim: &Arc<Sim>, crash: Crash) -> Result<Option<Attachment>, String> {
        let store = open_store(sim, self.seed);
        let overlay = match store.open_overlay(&id("pc"), &resolve) {
            Ok(overlay) => overlay,
            Err(e) if e.kind() == ErrorKind::NotFound && self.epochs[0].made.1 >= crash.at => {
                return Ok(None);
            }
            Err(e) => return Err(format!("cannot be opened: {e}")),
        };
        let disk = overlay.attach();
        let bytes = read_used(|buf, at| disk.read(buf, at).unwrap());
        let candidates = self.epochs.iter().enumerate().filter(|(i, epoch)| {
            let next = self.epochs.get(i + 1).map_or(NEVER, |next| next.made.1);
            epoch.made.0 < crash.at && next >= crash.at
        });
        let mut reasons = Vec::new();
        for (number, epoch) in candidates {
            let verdict = epoch
                .judge(&bytes, crash.at, crash.power)
                .and_then(|()| judge_snapshots(epoch, &overlay, crash))
                .and_then(|()| judge_changes(&disk, &bytes));
            match verdict {
                Ok(()) => return Ok(Some(disk)),
                Err(e) => reasons.push(format!("as of reset {number}: {e}")),
            }
        }
        Err(reasons.join("; "))
    }

    fn complain(&self, crash: Crash, fate: Fate, what: &str) -> ! {
        panic!(
            "seed {} before call {} of {}, {fate:?}: {what}",
            self.seed,
            crash.at,
            self.log.len()
        );
    }

    /// Tries one crash, sometimes a second one during or after recovery; returns the fingerprint of the state.
    fn try_crash(&self, at: usize, fate: Fate, dice: &mut Dice) -> u64 {
        let image = crash(&Image::default(), &self.log[..at], fate, dice);
        let print = image.fingerprint();
        let power = fate != Fate::Kill;
        let what = Crash { at, power };
        let sim = Arc::new(Sim::new(image.clone(), 1 + u64::from(power)));
        let recovery = match self.judge(&sim, what) {
            Ok(disk) => disk,
            Err(e) => self.complain(what, fate, &e),
        };
        let story = Story::new(&self.log[..at], image, power);
        match dice.below(8) {
            0 => self.crash_again(&story, &sim.log(), what, dice),
            1 => self.work_on(&story, &sim, recovery, what, dice),
            _ => {}
        }
        print
    }

    /// A crash while the first one is recovered from.
    fn crash_again(&self, story: &Story, log: &[Event], first: Crash, dice: &mut Dice) {
        let upto = dice.below(log.len() as u64 + 1) as usize;
        let fate = if dice.below(3) == 0 {
            Fate::Kill
        } else {
            POWER[dice.below(6) as usize]
        };
        let image = story.crash(&log[..upto], fate, dice);
        let power = first.power || fate != Fate::Kill;
        let boot = 1 + u64::from(first.power) + u64::from(fate != Fate::Kill);
        let sim = Arc::new(Sim::new(image, boot));
        let what = Crash {
            at: first.at,
            power,
        };
        if let Err(e) = self.judge(&sim, what) {
            self.complain(
                what,
                fate,
                &format!("after a second crash in recovery: {e}"),
            );
        }
    }

    /// What is there after recovery, or written then, and flushed, is there after the next power cut.
    fn work_on(
        &self,
        story: &Story,
        sim: &Arc<Sim>,
        disk: Option<Attachment>,
        what: Crash,
        dice: &mut Dice,
    ) {
        let Some(disk) = disk else { return };
        let found = read_used(|buf, at| disk.read(buf, at).unwrap());
        disk.overlay().fold_hidden(|_| false).unwrap();
        if read_used(|buf, at| disk.read(buf, at).unwrap()) != found {
            self.complain(what, Fate::Kill, "a fold after recovery changed the disk");
        }
        let epoch = Mutex::new(Epoch::new(0, (0, 0)));
        let mut worker = Worker {
            sim,
            disk: &disk,
            epoch: &epoch,
            dice: dice.clone(),
            tags: 9000..9001,
        };
        if dice.below(2) == 0 {
            worker.write(false);
        }
        worker.flush();
        let before = read_used(|buf, at| disk.read(buf, at).unwrap());
        let image = story.crash(&sim.log(), Fate::DropAll, dice);
        let sim = Arc::new(Sim::new(image, 9));
        let overlay = open_store(&sim, self.seed)
            .open_overlay(&id("pc"), &resolve)
            .unwrap();
        let disk = overlay.attach();
        if read_used(|buf, at| disk.read(buf, at).unwrap()) != before {
            self.complain(what, Fate::DropAll, "work after recovery was lost");
        }
    }
}

/// What led to the state that a recovery began with. A kill leaves the unsynced unsynced.
struct Story {
    start: Image,
    log: Vec<Event>,
}

impl Story {
    fn new(log: &[Event], image: Image, power: bool) -> Self {
        if power {
            return Self {
                start: image,
                log: Vec::new(),
            };
        }
        Self {
            start: Image::default(),
            log: log.to_vec(),
        }
    }

    fn crash(&self, more: &[Event], fate: Fate, dice: &mut Dice) -> Image {
        let log = [&self.log, more].concat();
        crash(&self.start, &log, fate, dice)
    }
}

fn judge_snapshots(epoch: &Epoch, overlay: &Overlay, crash: Crash) -> Result<(), String> {
    let there: Vec<_> = overlay
        .snapshots()
        .into_iter()
        .map(|s| s.name.to_string())
        .collect();
    for taken in &epoch.snapshots {
        let is = there.contains(&taken.name);
        let must = taken.end < crash.at && taken.dropped.0 >= crash.at;
        let must_not = taken.begin >= crash.at || taken.dropped.1 < crash.at;
        if must && !is || must_not && is {
            return Err(format!("snapshot {} is there: {is}", taken.name));
        }
        let folding = taken.folded && taken.dropped.0 < crash.at;
        if is && !folding {
            let view = overlay
                .snapshot_view(&SnapshotName::new(taken.name.clone()).unwrap())
                .unwrap();
            judge_view(taken, &view)?;
        }
    }
    let known = |name: &String| epoch.snapshots.iter().any(|taken| taken.name == *name);
    match there.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("snapshot {name} is of another time")),
        None => Ok(()),
    }
}

fn judge_view(taken: &Taken, view: &View) -> Result<(), String> {
    let bytes = read_used(|buf, at| view.read(buf, at).unwrap());
    for (used, (bytes, tag)) in bytes.chunks_exact(512).zip(&taken.tags).enumerate() {
        if bytes != support::history::content(*tag, place(used)) {
            return Err(format!(
                "snapshot {}: sector {} changed",
                taken.name,
                place(used)
            ));
        }
    }
    Ok(())
}

/// Whatever reads otherwise than in a snapshot is said to have changed since: a backup that copies no more than that
/// misses nothing.
fn judge_changes(disk: &Attachment, now: &[u8]) -> Result<(), String> {
    for (name, id) in disk.overlay().snapshot_ids() {
        let view = disk.overlay().snapshot_view(&name).unwrap();
        let then = read_used(|buf, at| view.read(buf, at).unwrap());
        let mut changed = Vec::new();
        let mut tell = |run, is| {
            changed.extend(Some(run).filter(|_| is));
            ControlFlow::Continue(())
        };
        disk.changed(id, 0..DISK * SECTOR, &mut tell).unwrap();
        let told = |at: u64| changed.iter().any(|run: &Range<u64>| run.contains(&at));
        let sectors = now.chunks_exact(512).zip(then.chunks_exact(512));
        for (used, (now, then)) in sectors.enumerate() {
            if now != then && !told(place(used) * SECTOR) {
                let sector = place(used);
                return Err(format!(
                    "since {name}: the change of sector {sector} is not told"
                ));
            }
        }
    }
    Ok(())
}

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Tries crashes of recordings until `wanted` different states were seen; returns how many crashes that took.
fn explore(wanted: u64, record: impl Fn(u64) -> Recording) -> (u64, u64) {
    let mut seed = setting("BOOTROOM_CRASH_SEED", 1);
    let mut states = HashSet::new();
    let mut tried = 0;
    while (states.len() as u64) < wanted {
        let recording = record(seed);
        let mut dice = Dice(seed ^ 0xD1CE);
        for at in 0..=recording.log.len() {
            // More recordings, rather than every point of few.
            if dice.below(3) != 0 {
                continue;
            }
            let second = POWER[(at + seed as usize) % POWER.len()];
            let third = POWER[dice.below(6) as usize];
            for fate in [Fate::Kill, second, third] {
                let print = recording.try_crash(at, fate, &mut dice);
                states.insert((seed, at, fate == Fate::Kill, print));
                tried += 1;
            }
        }
        seed += 1;
    }
    (states.len() as u64, tried)
}

#[test]
fn crashes_of_one_clients_work_lose_nothing() {
    let (states, tried) = explore(setting("BOOTROOM_CRASH_STATES", 4000) / 2, record_alone);
    println!("crash states, one thread: {states} different, {tried} tried, 0 violations");
}

#[test]
fn crashes_of_work_side_by_side_lose_nothing() {
    let (states, tried) = explore(setting("BOOTROOM_CRASH_STATES", 4000) / 2, record_together);
    println!("crash states, three threads: {states} different, {tried} tried, 0 violations");
}
