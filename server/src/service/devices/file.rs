//! Plain files and block devices.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSliceMut, Seek, SeekFrom},
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use nbd::{BlockSizes, ExportInfo, IoError, OptionError, Refusal, TransmissionFlags};
use rustix::{
    fs::{Advice, FallocateFlags},
    io::{Errno, ReadWriteFlags},
};

use super::flushes::{Flushes, Unflushed};
use crate::service::{Device, Export, Extent, Fault};

/// Zeros that are written where the filesystem cannot punch holes.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// Serves a file or block device to as many connections as come. All see one another's writes at once, and a flush
/// covers them all, so that cluster filesystems can share it.
pub struct FileExport {
    path: PathBuf,
    disk: Arc<FileDisk>,
    info: ExportInfo,
}

struct FileDisk {
    file: File,
    name: String,
    read_only: bool,
    /// Set once the filesystem has said that it cannot read without waiting.
    waits: AtomicBool,
    /// Of all connections.
    flushes: Flushes,
}

impl FileExport {
    /// Opens `path`; its size is fixed from here on.
    ///
    /// # Errors
    /// As opening it fails.
    pub fn open(path: &Path, read_only: bool, description: Option<String>) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        let name = path.display().to_string();
        let is_device = file.metadata()?.file_type().is_block_device();
        let disk = FileDisk {
            file,
            name,
            read_only,
            waits: AtomicBool::new(false),
            flushes: Flushes::default(),
        };
        let mut info = ExportInfo::new(size, flags(read_only));
        info.description = description;
        info.contexts = vec!["base:allocation".into(), "qemu:allocation-depth".into()];
        if is_device && let Ok(sizes) = BlockSizes::new(512, 4096, nbd::DEFAULT_MAX_PAYLOAD) {
            info.block_sizes = sizes;
        }
        Ok(Self {
            path: path.to_owned(),
            disk: Arc::new(disk),
            info,
        })
    }
}

fn flags(read_only: bool) -> TransmissionFlags {
    use TransmissionFlags as F;
    let both = F::SEND_FLUSH
        .with(F::SEND_FUA)
        .with(F::CAN_MULTI_CONN)
        .with(F::SEND_CACHE);
    match read_only {
        true => both.with(F::READ_ONLY),
        false => both
            .with(F::SEND_TRIM)
            .with(F::SEND_WRITE_ZEROES)
            .with(F::SEND_FAST_ZERO),
    }
}

impl Export for FileExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        Ok(self.info.clone())
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        if self.path.exists() {
            return Ok(self.disk.clone());
        }
        Err(Refusal::new(
            OptionError::Unknown,
            "the file behind this export was removed",
        ))
    }
}

impl FileDisk {
    fn allocate(&self, flags: FallocateFlags, range: &Range<u64>) -> Result<(), Errno> {
        rustix::fs::fallocate(
            &self.file,
            flags | FallocateFlags::KEEP_SIZE,
            range.start,
            range.end - range.start,
        )
    }

    fn fault(&self, error: impl Into<io::Error>) -> Fault {
        match Fault::from(error.into()) {
            Fault::Request(kind, text) => Fault::Request(kind, format!("{}: {text}", self.name)),
            gone => gone,
        }
    }

    /// Nothing is taken any more once a flush failed.
    fn check(&self) -> Result<(), Fault> {
        match self.flushes.have_failed() {
            false => Ok(()),
            true => Err(self.lost()),
        }
    }

    fn lost(&self) -> Fault {
        let text = format!(
            "{}: an earlier flush failed and writes may be lost; check the disk and restart",
            self.name
        );
        Fault::Request(IoError::Io, text)
    }

    fn write_zeros(&self, range: Range<u64>) -> Result<(), Fault> {
        let mut at = range.start;
        while at < range.end {
            let length = (range.end - at).min(ZEROS.len() as u64);
            self.write(&ZEROS[..length as usize], at)?;
            at += length;
        }
        Ok(())
    }

    /// The next data at or after `at`; `None` when the rest is a hole.
    fn next_data(&self, at: u64) -> Result<Option<u64>, Fault> {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => Ok(Some(start)),
            Err(Errno::NXIO) => Ok(None),
            // A filesystem without holes.
            Err(Errno::INVAL) => Ok(Some(at)),
            Err(error) => Err(self.fault(error)),
        }
    }
}

impl Device for FileDisk {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| self.fault(error))
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        if self.waits.load(Relaxed) {
            return Ok(false);
        }
        let wanted = buf.len();
        match rustix::io::preadv2(
            &self.file,
            &mut [IoSliceMut::new(buf)],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(got) => Ok(got == wanted),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                self.waits.store(true, Relaxed);
                Ok(false)
            }
            // The blocking read repeats an error if it is one.
            Err(_) => Ok(false),
        }
    }

    fn write(&self, data: &[u8], offset: u64) -> Result<(), Fault> {
        self.check()?;
        self.file
            .write_all_at(data, offset)
            .map_err(|error| self.fault(error))
    }

    fn flush(&self) -> Result<(), Fault> {
        if self.read_only {
            return Ok(());
        }
        let flushed = self.flushes.flush(|| self.file.sync_data());
        flushed.map_err(|failure| match failure {
            Unflushed::Now(error) => self.fault(error),
            Unflushed::Before => self.lost(),
        })
    }

    fn trim(&self, range: Range<u64>) -> Result<(), Fault> {
        self.check()?;
        // Only a hint: where the host cannot, the data stays.
        match self.allocate(FallocateFlags::PUNCH_HOLE, &range) {
            Err(error @ (Errno::IO | Errno::NOSPC)) => Err(self.fault(error)),
            _ => Ok(()),
        }
    }

    fn zero(&self, range: Range<u64>, may_hole: bool, only_fast: bool) -> Result<(), Fault> {
        self.check()?;
        if range.is_empty() {
            return Ok(());
        }
        let way = if may_hole {
            FallocateFlags::PUNCH_HOLE
        } else {
            FallocateFlags::ZERO_RANGE
        };
        match self.allocate(way, &range) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) if only_fast => Err(
                Fault::Request(IoError::NotSupported, "zeroing would not be fast".into()),
            ),
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) => self.write_zeros(range),
            Err(error) => Err(self.fault(error)),
        }
    }

    fn cache(&self, range: Range<u64>) -> Result<(), Fault> {
        let length = std::num::NonZeroU64::new(range.end - range.start);
        // Advice only.
        let _ = rustix::fs::fadvise(&self.file, range.start, length, Advice::WillNeed);
        Ok(())
    }

    fn status(&self, range: Range<u64>, most: usize) -> Result<Vec<Extent>, Fault> {
        let mut extents = Vec::new();
        let mut at = range.start;
        while at < range.end && extents.len() < most {
            let data = self
                .next_data(at)?
                .unwrap_or(range.end)
                .clamp(at, range.end);
            let hole = data > at;
            let end = match hole {
                true => data,
                false => match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(at)) {
                    Ok(end) => end.clamp(at + 1, range.end),
                    Err(_) => range.end,
                },
            };
            extents.push(Extent {
                length: end - at,
                hole,
                zero: hole,
                depth: u32::from(!hole),
            });
            at = end;
        }
        Ok(extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `/dev/null` takes writes and cannot be flushed.
    #[test]
    fn after_a_failed_flush_nobody_is_promised_anything() {
        let export = FileExport::open(Path::new("/dev/null"), false, None).unwrap();
        let (one, other) = (export.open().unwrap(), export.open().unwrap());
        other.write(b"data", 0).unwrap();
        one.flush().unwrap_err();
        let is_io = |result| matches!(result, Err(Fault::Request(IoError::Io, _)));
        assert!(is_io(other.flush()));
        assert!(is_io(other.write(b"data", 0)));
        assert!(is_io(other.zero(0..4, true, false)));
        assert!(is_io(other.trim(0..4)));
        other.read(&mut [], 0).unwrap();
    }

    #[test]
    fn a_read_only_file_has_nothing_to_flush() {
        let export = FileExport::open(Path::new("/dev/null"), true, None).unwrap();
        export.open().unwrap().flush().unwrap();
    }
}
