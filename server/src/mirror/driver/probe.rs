//! Asks the disk below the machines' disks for a sign of life: one that hangs gives no error, and who only reads from it
//! is seen by nobody else.

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use mirror::Moment;

use crate::files::PRIVATE;

/// It owes no answer.
const FREE: u64 = u64::MAX;
/// What is written, the same in place each time: a full disk takes it, too. Bytes.
const SIZE: usize = 4096;

/// Since when the disk has owed an answer.
pub struct Probe {
    since: AtomicU64,
    asked: AtomicU64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            since: AtomicU64::new(FREE),
            asked: AtomicU64::new(0),
        }
    }
}

impl Probe {
    /// Writes a little to the file at `path`, and waits until it is on the disk.
    ///
    /// # Errors
    /// What the disk said, which is an answer.
    pub fn ask(&self, path: &Path, now: Moment) -> io::Result<()> {
        self.since.store(now.0, Release);
        let answer = self.write(path);
        self.since.store(FREE, Release);
        answer
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = options.mode(PRIVATE).open(path)?;
        let number = self.asked.fetch_add(1, Relaxed);
        file.write_all_at(&[number as u8; SIZE], 0)?;
        file.sync_data()
    }

    /// Since when it has owed an answer.
    pub fn since(&self) -> Option<Moment> {
        let since = self.since.load(Acquire);
        (since != FREE).then_some(Moment(since))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, thread};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_disk_that_answers_owes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (probe, path) = (Probe::default(), folder.path().join("probe"));
        for _ in 0..2 {
            probe.ask(&path, Moment(5)).unwrap();
            assert_eq!(probe.since(), None);
        }
        assert_eq!(std::fs::read(&path).unwrap(), [1; SIZE]);
        probe.ask(folder.path(), Moment(6)).unwrap_err();
        assert_eq!(probe.since(), None, "an error is an answer");
    }

    /// A pipe that nobody reads lets nobody in.
    #[test]
    fn one_that_does_not_answer_owes_it_since_it_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let probe = Probe::default();
        thread::scope(|scope| {
            let asking = scope.spawn(|| probe.ask(&path, Moment(5)));
            while probe.since().is_none() {
                thread::yield_now();
            }
            assert_eq!(probe.since(), Some(Moment(5)));
            let reader = File::open(&path).unwrap();
            asking.join().unwrap().unwrap_err();
            drop(reader);
        });
        assert_eq!(probe.since(), None);
    }
}
