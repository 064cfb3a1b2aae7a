//! Changes as an ordered, checksummed stream: for backups, for bringing a copy up to date, for a mirror.
//!
//! FORMAT.md describes the bytes. Every checksum covers the one before it, so that a record lost, repeated or out of
//! order is found as surely as one that is damaged.

use std::io::{self, Read, Write};
use std::ops::Range;

use crate::attachment::{Attachment, Durability};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ids::SnapshotName;
use crate::overlay::Overlay;
use crate::stack::{Run, RunKind};
use crate::view::View;

/// First bytes of a stream.
pub(crate) const STREAM_MAGIC: [u8; 8] = *b"BRchange";
/// The version written, and the newest read.
pub(crate) const STREAM_VERSION: u32 = 1;
/// Bytes of the stream's header.
pub(crate) const STREAM_HEADER: usize = 24;
/// Bytes of a record before its data.
pub(crate) const RECORD_HEADER: usize = 32;
/// Most data in a record.
pub const MAX_CHANGE: usize = 32 << 20;
/// Data in a record of an export.
const EXPORT_PIECE: u64 = 1 << 20;

/// One change of a disk. Offsets in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// Bytes written.
    Write {
        /// Where.
        offset: u64,
        /// What; at most [`MAX_CHANGE`].
        data: &'a [u8],
    },
    /// A range made zeros.
    Zero {
        /// Where.
        range: Range<u64>,
        /// Whether its space is given back.
        punch: bool,
    },
    /// A range whose whole blocks were dropped.
    Trim(Range<u64>),
    /// Everything before made durable.
    Flush,
}

const WRITE: u8 = 1;
const ZERO: u8 = 2;
const PUNCH: u8 = 3;
const TRIM: u8 = 4;
const FLUSH: u8 = 5;
const END: u8 = 6;

impl Change<'_> {
    fn parts(&self) -> (u8, u64, u64, &[u8]) {
        let span = |range: &Range<u64>| (range.start, range.end.saturating_sub(range.start));
        match self {
            Self::Write { offset, data } => (WRITE, *offset, data.len() as u64, data),
            Self::Zero { range, punch } => {
                let (at, len) = span(range);
                (if *punch { PUNCH } else { ZERO }, at, len, &[])
            }
            Self::Trim(range) => {
                let (at, len) = span(range);
                (TRIM, at, len, &[])
            }
            Self::Flush => (FLUSH, 0, 0, &[]),
        }
    }
}

/// Writes a stream of changes.
pub struct ChangeWriter<W> {
    out: W,
    sequence: u32,
    sum: u32,
}

impl<W: Write> ChangeWriter<W> {
    /// Begins a stream for a disk of `size` bytes.
    ///
    /// # Errors
    /// What `out` fails with.
    pub fn new(mut out: W, size: u64) -> Result<Self> {
        let mut header = [0; STREAM_HEADER];
        header[..8].copy_from_slice(&STREAM_MAGIC);
        header[8..12].copy_from_slice(&STREAM_VERSION.to_le_bytes());
        header[12..20].copy_from_slice(&size.to_le_bytes());
        let sum = crc32c::crc32c(&header[..20]);
        header[20..].copy_from_slice(&sum.to_le_bytes());
        writing(out.write_all(&header))?;
        Ok(Self {
            out,
            sequence: 0,
            sum,
        })
    }

    /// Appends a change.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for more than [`MAX_CHANGE`] bytes; what the output fails with.
    pub fn put(&mut self, change: &Change<'_>) -> Result<()> {
        let (kind, offset, len, data) = change.parts();
        if data.len() > MAX_CHANGE {
            let text = format!(
                "a change of {} bytes; {MAX_CHANGE} are the most",
                data.len()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        self.record(kind, offset, len, data)
    }

    fn record(&mut self, kind: u8, offset: u64, len: u64, data: &[u8]) -> Result<()> {
        let mut header = [0; RECORD_HEADER];
        header[0] = kind;
        header[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        header[8..16].copy_from_slice(&offset.to_le_bytes());
        header[16..24].copy_from_slice(&len.to_le_bytes());
        let sum = crc32c::crc32c_append(self.sum, &header[..24]);
        header[24..28].copy_from_slice(&sum.to_le_bytes());
        self.sum = crc32c::crc32c_append(sum, data);
        header[28..].copy_from_slice(&self.sum.to_le_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        writing(
            self.out
                .write_all(&header)
                .and_then(|()| self.out.write_all(data)),
        )
    }

    /// Ends the stream; one without an end was cut short.
    ///
    /// # Errors
    /// What the output fails with.
    pub fn finish(mut self) -> Result<W> {
        self.record(END, 0, 0, &[])?;
        writing(self.out.flush())?;
        Ok(self.out)
    }
}

fn writing<T>(result: io::Result<T>) -> Result<T> {
    result.context(|| "writing a change stream".into())
}

/// Reads a stream of changes; trusts nothing in it.
pub struct ChangeReader<R> {
    input: R,
    size: u64,
    sequence: u32,
    sum: u32,
    ended: bool,
    data: Vec<u8>,
}

fn bad(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("change stream: {what}"))
}

fn reading(result: io::Result<()>) -> Result<()> {
    result.map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => bad("cut short"),
        _ => Error::io("reading a change stream", e),
    })
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

impl<R: Read> ChangeReader<R> {
    /// Reads the beginning of a stream.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::NewerFormat`], what `input` fails with.
    pub fn new(mut input: R) -> Result<Self> {
        let mut header = [0; STREAM_HEADER];
        reading(input.read_exact(&mut header))?;
        if header[..8] != STREAM_MAGIC {
            return Err(bad("not one"));
        }
        let version = u32::from_le_bytes(field(&header, 8));
        if version > STREAM_VERSION {
            let text =
                format!("change stream of version {version}; this release reads {STREAM_VERSION}");
            return Err(Error::new(ErrorKind::NewerFormat, text));
        }
        let sum = crc32c::crc32c(&header[..20]);
        if version == 0 || header[20..] != sum.to_le_bytes() {
            return Err(bad("damaged at its beginning"));
        }
        Ok(Self {
            input,
            size: u64::from_le_bytes(field(&header, 12)),
            sequence: 0,
            sum,
            ended: false,
            data: Vec::new(),
        })
    }

    /// Size in bytes of the disk that the stream is for.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next change; `None` at the end. Not an iterator: a change borrows the reader's buffer.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a stream that is damaged, out of order or cut short; what the input fails with.
    pub fn next_change(&mut self) -> Result<Option<Change<'_>>> {
        if self.ended {
            return Ok(None);
        }
        let mut header = [0; RECORD_HEADER];
        reading(self.input.read_exact(&mut header))?;
        let sum = crc32c::crc32c_append(self.sum, &header[..24]);
        let sequence = u32::from_le_bytes(field(&header, 4));
        if header[24..28] != sum.to_le_bytes() || sequence != self.sequence {
            return Err(bad(format!(
                "record {} is damaged or out of order",
                self.sequence
            )));
        }
        let offset = u64::from_le_bytes(field(&header, 8));
        let len = u64::from_le_bytes(field(&header, 16));
        self.read_data(if header[0] == WRITE { len } else { 0 })?;
        self.sum = crc32c::crc32c_append(sum, &self.data);
        if header[28..] != self.sum.to_le_bytes() {
            return Err(bad(format!(
                "the data of record {} is damaged",
                self.sequence
            )));
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.change(header[0], offset, len)
    }

    fn read_data(&mut self, len: u64) -> Result<()> {
        if len > MAX_CHANGE as u64 {
            return Err(bad(format!("record {} claims {len} bytes", self.sequence)));
        }
        self.data.clear();
        // Memory grows with what arrives, not with what is claimed.
        let got = self.input.by_ref().take(len).read_to_end(&mut self.data);
        if got.map_err(|e| Error::io("reading a change stream", e))? as u64 != len {
            return Err(bad("cut short"));
        }
        Ok(())
    }

    fn change(&mut self, kind: u8, offset: u64, len: u64) -> Result<Option<Change<'_>>> {
        let end = offset.checked_add(len).filter(|end| *end <= self.size);
        let end =
            end.ok_or_else(|| bad(format!("a change past the disk's {} bytes", self.size)))?;
        let range = offset..end;
        Ok(Some(match kind {
            WRITE => Change::Write {
                offset,
                data: &self.data,
            },
            ZERO | PUNCH => Change::Zero {
                range,
                punch: kind == PUNCH,
            },
            TRIM => Change::Trim(range),
            FLUSH => Change::Flush,
            END => {
                self.ended = true;
                return Ok(None);
            }
            other => return Err(bad(format!("no change is of kind {other}"))),
        }))
    }
}

impl Attachment {
    /// Does to this disk what `change` says was done to another.
    ///
    /// # Errors
    /// As the calls that it stands for.
    pub fn apply(&self, change: &Change<'_>) -> Result<()> {
        match change {
            Change::Write { offset, data } => self.write(data, *offset, Durability::Process),
            Change::Zero { range, punch } => {
                self.write_zeroes(range.clone(), *punch, Durability::Process)
            }
            Change::Trim(range) => self.trim(range.clone(), Durability::Process),
            Change::Flush => self.flush(),
        }
    }

    /// Applies a whole stream, and makes it durable. Each record is checked before it is applied.
    ///
    /// # Errors
    /// As [`ChangeReader`] and [`Attachment::apply`]; [`ErrorKind::Invalid`] if the stream is for a disk of another
    /// size. What came before the fault has been applied.
    pub fn apply_stream(&self, input: impl Read) -> Result<()> {
        let mut reader = ChangeReader::new(input)?;
        if reader.size() != self.size() {
            let text = format!(
                "a stream for a disk of {} bytes on one of {}",
                reader.size(),
                self.size()
            );
            return Err(Error::new(ErrorKind::Invalid, text));
        }
        while let Some(change) = reader.next_change()? {
            self.apply(&change)?;
        }
        self.flush()
    }
}

impl Overlay {
    /// Writes the blocks that changed between two snapshots (`None`: since the overlay was made) as a stream that
    /// makes a disk that is as `from` was into one that is as `to` was. Returns the bytes of data in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; what reading or `out` fails with.
    pub fn export(
        &self,
        from: Option<&SnapshotName>,
        to: &SnapshotName,
        out: impl Write,
    ) -> Result<u64> {
        let view = self.snapshot_view(to)?;
        let mut writer = ChangeWriter::new(out, view.size())?;
        let mut buf = vec![0; EXPORT_PIECE as usize];
        let mut written = 0;
        let mut result = Ok(());
        self.diff(from, Some(to), &mut |range| {
            let end = range.end.min(view.size());
            result =
                export_range(&view, range.start..end, &mut buf, &mut writer).map(|n| written += n);
            match result {
                Ok(()) => std::ops::ControlFlow::Continue(()),
                Err(_) => std::ops::ControlFlow::Break(()),
            }
        })?;
        result?;
        writer.finish()?;
        Ok(written)
    }
}

fn export_range<W: Write>(
    view: &View,
    range: Range<u64>,
    buf: &mut [u8],
    writer: &mut ChangeWriter<W>,
) -> Result<u64> {
    let mut written = 0;
    let mut result = Ok(());
    view.block_status(range, &mut |run| {
        result = export_run(view, &run, buf, writer).map(|bytes| written += bytes);
        match result {
            Ok(()) => std::ops::ControlFlow::Continue(()),
            Err(_) => std::ops::ControlFlow::Break(()),
        }
    })?;
    result.map(|()| written)
}

fn export_run<W: Write>(
    view: &View,
    run: &Run,
    buf: &mut [u8],
    writer: &mut ChangeWriter<W>,
) -> Result<u64> {
    if run.kind == RunKind::Zero {
        let range = run.range.clone();
        writer.put(&Change::Zero { range, punch: true })?;
        return Ok(0);
    }
    let mut at = run.range.start;
    while at < run.range.end {
        let len = (run.range.end - at).min(EXPORT_PIECE) as usize;
        view.read(&mut buf[..len], at)?;
        let data = &buf[..len];
        writer.put(&Change::Write { offset: at, data })?;
        at += len as u64;
    }
    Ok(run.range.end - run.range.start)
}
