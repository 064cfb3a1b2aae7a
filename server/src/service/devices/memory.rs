//! A few bytes in memory, to be read.

use std::{ops::Range, sync::Arc};

use nbd::{ExportInfo, IoError, Refusal, TransmissionFlags};

use crate::service::{Device, Export, Extent, Fault};

/// Bytes that are given out over TLS only, and never named in a log.
pub struct SecretExport {
    content: Arc<[u8]>,
    shown: String,
}

impl SecretExport {
    /// Gives out `content`, which the log calls `shown`.
    pub fn new(content: &[u8], shown: String) -> Self {
        let content = content.into();
        Self { content, shown }
    }
}

impl Export for SecretExport {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        let flags = TransmissionFlags::READ_ONLY;
        Ok(ExportInfo::new(self.content.len() as u64, flags))
    }

    fn needs_tls(&self) -> bool {
        true
    }

    fn shown(&self) -> Option<String> {
        Some(self.shown.clone())
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        Ok(Arc::new(Memory(self.content.clone())))
    }
}

struct Memory(Arc<[u8]>);

impl Device for Memory {
    fn read(&self, buf: &mut [u8], offset: u64) -> Result<(), Fault> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(start..).and_then(|rest| rest.get(..buf.len()));
        let past = || Fault::Request(IoError::Invalid, "past the end".into());
        buf.copy_from_slice(found.ok_or_else(past)?);
        Ok(())
    }

    fn try_read(&self, buf: &mut [u8], offset: u64) -> Result<bool, Fault> {
        self.read(buf, offset).map(|()| true)
    }

    fn flush(&self) -> Result<(), Fault> {
        Ok(())
    }

    fn status(&self, range: Range<u64>, _most: usize) -> Result<Vec<Extent>, Fault> {
        let length = range.end - range.start;
        Ok(vec![Extent {
            length,
            hole: false,
            zero: false,
            depth: 1,
        }])
    }
}
