//! A disk at one point in time: read, and copied out whole.

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::Errno;

use crate::changes::SnapshotId;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::SnapshotName;
use crate::overlay::Overlay;
use crate::stack::{Run, Source, Stack, finish};
use crate::storage::Attempt;

/// Bytes copied at a time: one step of progress.
const STEP: u64 = 8 << 20;
/// Bytes copied at a time where the kernel cannot do it itself.
const BUF: usize = 256 << 10;

/// How far a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the disk dealt with.
    pub done: u64,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that were not zeros and had to be copied (or shared) so far.
    pub copied: u64,
}

/// A disk at one point in time.
pub struct View {
    pub(crate) stack: Stack,
    /// The snapshots before this one, oldest first.
    older: Vec<(SnapshotName, SnapshotId)>,
    /// For a view of the disk itself: it holds as long as the generation does.
    at_rest: Option<(Arc<Overlay>, u64)>,
    /// Tells the overlay that somebody reads what no request does.
    _reading: Arc<()>,
}

impl View {
    pub(crate) fn new(
        stack: Stack,
        older: Vec<(SnapshotName, SnapshotId)>,
        reading: Arc<()>,
    ) -> Self {
        Self {
            stack,
            older,
            at_rest: None,
            _reading: reading,
        }
    }

    pub(crate) fn at_rest(
        stack: Stack,
        overlay: Arc<Overlay>,
        generation: u64,
        reading: Arc<()>,
    ) -> Self {
        Self {
            at_rest: Some((overlay, generation)),
            ..Self::new(stack, Vec::new(), reading)
        }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.stack.size
    }

    /// The snapshots that were taken before this one and were there when it was opened, oldest first.
    pub fn older(&self) -> &[(SnapshotName, SnapshotId)] {
        &self.older
    }

    /// As [`View::read`] without waiting for a disk; on [`Attempt::WouldBlock`] `buf` is undefined.
    ///
    /// # Errors
    /// As [`View::read`].
    pub fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.stack.try_read(buf, offset)
    }

    /// Fills `buf` from `offset` (bytes).
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::OutOfRange`].
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.stack.read(buf, offset)
    }

    /// As [`crate::Attachment::block_status`].
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::OutOfRange`].
    pub fn block_status(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Run) -> ControlFlow<()>,
    ) -> Result<()> {
        self.stack.status(range, found)
    }

    /// Writes the whole disk to `out`, an empty file: sparse where it reads as zeros by the maps, sharing blocks with
    /// the source where the filesystem can. Synced before this returns. `progress` is called between steps.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`] if `progress` says stop; [`ErrorKind::Busy`] if this is a view at rest and a client
    /// attached meanwhile; [`ErrorKind::NoSpace`], [`ErrorKind::Io`].
    pub fn copy_to(
        &self,
        out: &File,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let size = self.stack.size;
        out.set_len(size)
            .context(|| "setting the length of the copy".into())?;
        let mut state = Progress {
            done: 0,
            size,
            copied: 0,
        };
        finish(
            self.stack.resolve(
                0..size,
                self.stack.layers.len(),
                &mut |source, run| match self.copy_run(source, run, out, &mut state, progress) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(e) => ControlFlow::Break(Err(e)),
                },
            ),
        )?;
        out.sync_all().context(|| "syncing the copy".into())?;
        self.still_at_rest()
    }

    fn still_at_rest(&self) -> Result<()> {
        match &self.at_rest {
            Some((overlay, generation)) if overlay.gate.read().generation != *generation => {
                let text = format!(
                    "copying overlay {}: a client attached meanwhile",
                    overlay.id()
                );
                Err(Error::new(ErrorKind::Busy, text))
            }
            _ => Ok(()),
        }
    }

    fn copy_run(
        &self,
        source: Source,
        run: Range<u64>,
        out: &File,
        state: &mut Progress,
        progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let end = match source {
                Source::Zero => run.end,
                _ => run.end.min(at + STEP),
            };
            state.copied += self.copy_step(source, at..end, out)?;
            state.done = end;
            if progress(*state).is_break() {
                return Err(Error::new(ErrorKind::Cancelled, "copying a disk"));
            }
            at = end;
        }
        Ok(())
    }

    /// Copies one step; says how many bytes that were.
    fn copy_step(&self, source: Source, range: Range<u64>, out: &File) -> Result<u64> {
        match source {
            Source::Zero => Ok(0),
            Source::Layer(layer) => {
                let file = self.stack.layers[layer].data_file().as_file();
                self.copy_range(file, range, out)
            }
            Source::Base => {
                let mut copied = 0;
                let mut result = Ok(());
                self.stack.base.extents(range, &mut |extent| {
                    if extent.hole {
                        return ControlFlow::Continue(());
                    }
                    match self.copy_range(self.stack.base.file(), extent.range, out) {
                        Ok(bytes) => copied += bytes,
                        Err(e) => {
                            result = Err(e);
                            return ControlFlow::Break(());
                        }
                    }
                    ControlFlow::Continue(())
                })?;
                result.map(|()| copied)
            }
        }
    }

    fn copy_range(&self, from: Option<&File>, range: Range<u64>, out: &File) -> Result<u64> {
        let mut at = range.start;
        while let Some(from) = from
            && at < range.end
        {
            match copy_inside(from, at..range.end, out).context(|| "copying a disk".into())? {
                0 => break,
                copied => at += copied,
            }
        }
        self.copy_through(at..range.end, out)?;
        Ok(range.end - range.start)
    }

    /// Copies through this process.
    fn copy_through(&self, range: Range<u64>, out: &File) -> Result<()> {
        let mut buf = vec![0; BUF.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(BUF as u64) as usize;
            self.stack.read(&mut buf[..len], at)?;
            out.write_all_at(&buf[..len], at)
                .context(|| "writing a copy of a disk".into())?;
            at += len as u64;
        }
        Ok(())
    }
}

/// Has the kernel copy, or share, equal offsets. 0: it cannot, or not further.
fn copy_inside(from: &File, range: Range<u64>, out: &File) -> std::io::Result<u64> {
    let (mut source, mut target) = (range.start, range.start);
    let len = (range.end - range.start) as usize;
    match rustix::fs::copy_file_range(from, Some(&mut source), out, Some(&mut target), len) {
        Ok(copied) => Ok(copied as u64),
        Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::TXTBSY) => Ok(0),
        Err(Errno::INTR) => copy_inside(from, range, out),
        Err(error) => Err(error.into()),
    }
}
