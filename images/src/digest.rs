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

use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::Bytes;
use crate::progress::{Progress, report};

/// Bytes of one subtree: a power of two, as the tree's shape demands.
const PIECE: u64 = 4 << 20;
/// Bytes of one read; several fit a piece, and it stays in the CPU's cache.
const READ: usize = 256 << 10;

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
    let length = file.metadata().at("look at", path)?.len();
    if length != size.get() {
        return Err(Error::new(
            ErrorKind::Damaged,
            format!(
                "{} has {length} bytes and should have {}",
                path.display(),
                size.get()
            ),
        ));
    }
    let source = Source {
        file: &file,
        path,
        size: size.get(),
    };
    source.digest(progress, cancel)
}

impl Source<'_> {
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
        let mut at = offset;
        let mut buffer = vec![0; READ];
        while at < end {
            let want = (end - at).min(READ as u64) as usize;
            self.file
                .read_exact_at(&mut buffer[..want], at)
                .map_err(|error| self.unreadable(at, error))?;
            hasher.update(&buffer[..want]);
            at += want as u64;
        }
        Ok(())
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
