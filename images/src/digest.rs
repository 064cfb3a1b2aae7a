//! BLAKE3 digests of files: the same value that `b3sum` prints.
//!
//! BLAKE3 is a binary tree over the file, so the file is cut into equal subtrees that several
//! threads read and hash on their own; the subtrees' values are then joined two by two. Holes of
//! a sparse file are hashed from zeros in memory, never read.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use blake3::Hasher;
use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use overlay::Digest;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::Bytes;
use crate::progress::{Progress, report};

/// Bytes of one subtree: a power of two, as the tree's shape demands.
const PIECE: u64 = 4 << 20;
/// Bytes of one read; several fit a piece, and it stays in the CPU's cache.
const READ: usize = 256 << 10;

/// A stretch of a file that is stored, or that is not.
struct Run {
    hole: bool,
    end: u64,
}

/// Reads one file as exactly `size` bytes.
struct Source<'a> {
    file: &'a File,
    path: &'a Path,
    size: u64,
}

/// The digest of the file at `path`, which must hold exactly `size` bytes.
///
/// # Errors
/// [`ErrorKind::Damaged`] when the file is shorter or longer or a sector cannot be read,
/// [`ErrorKind::Cancelled`] when `cancel` was thrown.
pub(crate) fn of_file(
    path: &Path,
    size: Bytes,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Digest> {
    let file = File::open(path).at("open", path)?;
    let source = Source {
        file: &file,
        path,
        size: size.get(),
    };
    source.check_length()?;
    let digest = source.digest(progress, cancel)?;
    // Cut short meanwhile, what is gone has looked like a hole.
    source.check_length()?;
    Ok(digest)
}

impl Source<'_> {
    fn check_length(&self) -> Result<()> {
        let length = self.file.metadata().at("look at", self.path)?.len();
        if length == self.size {
            return Ok(());
        }
        let path = self.path.display();
        let context = format!("{path} has {length} bytes and should have {}", self.size);
        Err(Error::new(ErrorKind::Damaged, context))
    }

    fn digest(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Digest> {
        if self.size <= PIECE {
            let mut hasher = Hasher::new();
            self.feed(&mut hasher, 0)?;
            return Ok(Digest(hasher.finalize().into()));
        }
        let pieces = self.pieces(progress, cancel)?;
        Ok(Digest(root_of(&pieces)))
    }

    /// The value of every subtree, in file order, worked out by as many threads as there are CPUs.
    fn pieces(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Vec<ChainingValue>> {
        let count = self.size.div_ceil(PIECE);
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get) as u64;
        let done = AtomicU64::new(0);
        let run = |first: u64| -> Result<Vec<ChainingValue>> {
            (first..count)
                .step_by(threads as usize)
                .map(|piece| {
                    cancel.check()?;
                    let value = self.piece(piece * PIECE)?;
                    let bytes = (done.fetch_add(1, Ordering::Relaxed) + 1) * PIECE;
                    report(progress, Bytes::new(bytes), Bytes::new(self.size));
                    Ok(value)
                })
                .collect()
        };
        let lanes = thread::scope(|scope| {
            let lanes: Vec<_> = (0..threads)
                .map(|lane| scope.spawn(move || run(lane)))
                .collect();
            lanes.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        let at = |piece: u64| lanes[(piece % threads) as usize][(piece / threads) as usize];
        Ok((0..count).map(at).collect())
    }

    fn piece(&self, offset: u64) -> Result<ChainingValue> {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(offset);
        self.feed(&mut hasher, offset)?;
        Ok(hasher.finalize_non_root())
    }

    /// Hashes from `offset` to the end of that piece or of the file.
    fn feed(&self, hasher: &mut Hasher, offset: u64) -> Result<()> {
        let end = (offset + PIECE).min(self.size);
        let mut buffer = vec![0; READ];
        let mut at = offset;
        while at < end {
            let run = self
                .run_at(at)
                .map_err(|error| self.unreadable(at, error))?;
            let until = run.end.min(end);
            while at < until {
                let part = &mut buffer[..(until - at).min(READ as u64) as usize];
                if run.hole {
                    part.fill(0);
                } else {
                    let read = self.file.read_exact_at(part, at);
                    read.map_err(|error| self.unreadable(at, error))?;
                }
                hasher.update(part);
                at += part.len() as u64;
            }
        }
        Ok(())
    }

    /// Whether there is a hole at `at`, and where it or the data ends.
    fn run_at(&self, at: u64) -> std::io::Result<Run> {
        match seek(self.file, SeekFrom::Data(at)) {
            Ok(data) if data > at => Ok(Run {
                hole: true,
                end: data,
            }),
            Ok(_) => Ok(Run {
                hole: false,
                end: seek(self.file, SeekFrom::Hole(at))?.max(at + 1),
            }),
            // No data up to the end.
            Err(Errno::NXIO) => Ok(Run {
                hole: true,
                end: self.size,
            }),
            // A filesystem that knows no holes.
            Err(Errno::INVAL) => Ok(Run {
                hole: false,
                end: self.size,
            }),
            Err(error) => Err(error.into()),
        }
    }

    fn unreadable(&self, offset: u64, source: std::io::Error) -> Error {
        let context = format!("cannot read {} at byte {offset}", self.path.display());
        Error::new(ErrorKind::Damaged, context).because(source)
    }
}

/// A worker's result; its panic goes on in the caller.
fn join<T>(worker: thread::ScopedJoinHandle<'_, T>) -> T {
    worker
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Joins at least two subtrees into the root. The left one of two is the largest power of two
/// that leaves something for the right one (BLAKE3 paper, section 2.1).
fn root_of(pieces: &[ChainingValue]) -> [u8; 32] {
    let (left, right) = pieces.split_at(left_len(pieces.len()));
    merge_subtrees_root(&inner(left), &inner(right), Mode::Hash).into()
}

fn inner(pieces: &[ChainingValue]) -> ChainingValue {
    if let [only] = pieces {
        return *only;
    }
    let (left, right) = pieces.split_at(left_len(pieces.len()));
    merge_subtrees_non_root(&inner(left), &inner(right), Mode::Hash)
}

fn left_len(pieces: usize) -> usize {
    pieces.next_power_of_two() / 2
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom, Write};

    use proptest::prelude::*;

    use super::*;
    use crate::progress::Quiet;

    fn digest_of(path: &Path, size: u64) -> Result<Digest> {
        of_file(path, Bytes::new(size), &Quiet, &Cancel::new().unwrap())
    }

    /// A file of `size` bytes with data at some places and holes elsewhere, and its plain hash.
    fn file_with(size: u64, data: &[(u64, Vec<u8>)]) -> (tempfile::NamedTempFile, Digest) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size).unwrap();
        for (at, bytes) in data {
            let at = at % size.max(1);
            let room = (size - at).min(bytes.len() as u64) as usize;
            file.seek(SeekFrom::Start(at)).unwrap();
            file.write_all(&bytes[..room]).unwrap();
        }
        let whole = std::fs::read(file.path()).unwrap();
        (file, Digest(blake3::hash(&whole).into()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn equals_the_plain_hash_of_the_whole(
            pieces in 0u64..6,
            rest in prop_oneof![Just(0u64), Just(1), Just(READ as u64), 0..PIECE],
            data in prop::collection::vec((any::<u64>(), prop::collection::vec(any::<u8>(), 1..9000)), 0..6),
        ) {
            let size = pieces * PIECE + rest;
            let (file, expected) = file_with(size, &data);
            prop_assert_eq!(digest_of(file.path(), size).unwrap(), expected);
        }
    }

    #[test]
    fn a_file_that_is_cut_short_is_damaged_even_where_a_hole_was() {
        let (file, _) = file_with(3 * PIECE, &[(0, vec![7; 5000])]);
        file.as_file().set_len(2 * PIECE).unwrap();
        let error = digest_of(file.path(), 3 * PIECE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
    }

    #[test]
    fn a_job_that_is_told_to_stop_stops() {
        let (file, _) = file_with(3 * PIECE, &[]);
        let cancel = Cancel::new().unwrap();
        cancel.cancel();
        let error = of_file(file.path(), Bytes::new(3 * PIECE), &Quiet, &cancel).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled);
    }
}
