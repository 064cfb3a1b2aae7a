//! One thread of random work on a disk, noting what it did and when.

use std::ops::Range;
use std::sync::Mutex;

use overlay::{Attachment, Durability, ErrorKind, SnapshotName};

use super::history::{self, Epoch, NEVER, Taken, USED, place};
use super::image::{Dice, SECTOR};
use super::sim::Sim;

/// One thread of work on a disk.
pub struct Worker<'a> {
    pub sim: &'a Sim,
    pub disk: &'a Attachment,
    pub epoch: &'a Mutex<Epoch>,
    pub dice: Dice,
    pub tags: Range<u64>,
}

impl Worker<'_> {
    fn place(&mut self) -> Range<usize> {
        let half = USED as u64 / 2;
        let start = self.dice.below(half);
        let mut len = (1 + self.dice.below(24)).min(half - start);
        let mut start = start;
        if self.dice.below(2) == 0 {
            start = start / 8 * 8;
            len = len.next_multiple_of(8).min(half - start);
        }
        let window = self.dice.below(2) * half;
        (window + start) as usize..(window + start + len) as usize
    }

    fn timed(&self, work: impl FnOnce()) -> (usize, usize) {
        let begin = self.sim.mark();
        work();
        (begin, self.sim.mark())
    }

    pub fn write(&mut self, fua: bool) {
        let used = self.place();
        let tag = self.tags.next().unwrap();
        let bytes: Vec<u8> = used
            .clone()
            .flat_map(|s| history::content(tag, place(s)))
            .collect();
        let durability = if fua {
            Durability::Disk
        } else {
            Durability::Process
        };
        let (begin, end) = self.timed(|| {
            self.disk
                .write(&bytes, place(used.start) * SECTOR, durability)
                .unwrap()
        });
        self.epoch.lock().unwrap().wrote(used, tag, begin, end, fua);
    }

    fn zero(&mut self, punch: bool) {
        let used = self.place();
        let bytes = bytes_of(&used);
        let (begin, end) = self.timed(|| {
            self.disk
                .write_zeroes(bytes, punch, Durability::Process)
                .unwrap()
        });
        self.epoch.lock().unwrap().wrote(used, 0, begin, end, false);
    }

    fn trim(&mut self) {
        let used = self.place();
        let bytes = bytes_of(&used);
        let (begin, end) = self.timed(|| self.disk.trim(bytes, Durability::Process).unwrap());
        let whole = used.start.next_multiple_of(8)..used.end / 8 * 8;
        if !whole.is_empty() {
            self.epoch
                .lock()
                .unwrap()
                .wrote(whole, 0, begin, end, false);
        }
    }

    pub fn flush(&mut self) {
        let flush = self.timed(|| self.disk.flush().unwrap());
        self.epoch.lock().unwrap().flushes.push(flush);
    }

    pub fn step(&mut self) {
        match self.dice.below(100) {
            0..60 => self.write(false),
            60..68 => self.write(true),
            68..75 => self.zero(true),
            75..78 => self.zero(false),
            78..87 => self.trim(),
            _ => self.flush(),
        }
    }
}

impl Worker<'_> {
    /// A snapshot beside other work holds some of it; its content is not known.
    pub fn step_or_snapshot(&mut self, round: u64) {
        match self.dice.below(10) {
            0 => {}
            1 => return self.fold(round),
            _ => return self.step(),
        }
        let name = format!("s{}-{round}", self.tags.start);
        let snapshot = SnapshotName::new(name.clone()).unwrap();
        let (begin, end) = self.timed(|| drop(self.disk.overlay().snapshot(&snapshot, 0).unwrap()));
        let dropped = (NEVER, NEVER);
        let mut epoch = self.epoch.lock().unwrap();
        epoch.flushes.push((begin, end));
        epoch.snapshots.push(Taken {
            name,
            begin,
            end,
            dropped,
            folded: false,
            tags: Vec::new(),
        });
    }
}

impl Worker<'_> {
    /// A snapshot that nobody sees, and its fold, beside other work: changes nothing.
    fn fold(&mut self, round: u64) {
        let overlay = self.disk.overlay();
        let number = uuid::Uuid::from_u64_pair(self.tags.start, round);
        let name = SnapshotName::hidden("test", number);
        let flush = self.timed(|| drop(overlay.snapshot(&name, 0).unwrap()));
        self.epoch.lock().unwrap().flushes.push(flush);
        match overlay.fold_hidden(|_| false) {
            // Others write all the time.
            Err(e) if e.kind() == ErrorKind::Busy => {}
            folded => folded.unwrap(),
        }
    }
}

fn bytes_of(used: &Range<usize>) -> Range<u64> {
    let start = place(used.start) * SECTOR;
    start..start + used.len() as u64 * SECTOR
}
