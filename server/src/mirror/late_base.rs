//! The base of an overlay whose image version may still be on its way from the other server.

use std::{
    fs::File,
    ops::{ControlFlow, Range},
    sync::{Arc, OnceLock},
};

use overlay::{Attempt, Base, BaseId, Error, ErrorKind, Extent, Result};

/// Finds the version's disk, if it is here by now. May block.
pub type Find = Box<dyn Fn() -> Option<Arc<dyn Base>> + Send + Sync>;

/// A base that is looked for at each read until it is found.
///
/// An overlay can be made over it, and whole blocks written, before the version is here; what needs the version's own
/// bytes fails with an input/output error until then.
pub struct LateBase {
    id: BaseId,
    size: u64,
    find: Find,
    found: OnceLock<Arc<dyn Base>>,
}

impl LateBase {
    /// The base `id` of `size` bytes, which `find` will find.
    pub fn new(id: BaseId, size: u64, find: Find) -> Self {
        Self {
            id,
            size,
            find,
            found: OnceLock::new(),
        }
    }

    /// Whether it was found. Does not look for it.
    pub fn is_here(&self) -> bool {
        self.found.get().is_some()
    }

    fn base(&self) -> Result<&Arc<dyn Base>> {
        if let Some(base) = self.found.get() {
            return Ok(base);
        }
        let Some(base) = (self.find)() else {
            let text = format!("{} has not come from the other server yet", self.id);
            return Err(Error::new(ErrorKind::Io, text));
        };
        self.check(base.as_ref())?;
        // Two that find it at the same time have found the same.
        Ok(self.found.get_or_init(|| base))
    }

    /// The wrong bytes would be worse than none.
    fn check(&self, base: &dyn Base) -> Result<()> {
        if *base.id() == self.id && base.size() == self.size {
            return Ok(());
        }
        let text = format!(
            "{} of {} bytes came in the place of {} of {}",
            base.id(),
            base.size(),
            self.id,
            self.size
        );
        Err(Error::new(ErrorKind::BaseMismatch, text))
    }

    fn check_range(&self, start: u64, end: u64) -> Result<()> {
        if start <= end && end <= self.size {
            return Ok(());
        }
        let text = format!("{}: bytes {start}..{end} of {}", self.id, self.size);
        Err(Error::new(ErrorKind::OutOfRange, text))
    }
}

impl Base for LateBase {
    fn id(&self) -> &BaseId {
        &self.id
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check_range(offset, offset.saturating_add(buf.len() as u64))?;
        self.base()?.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> Result<Attempt> {
        self.check_range(offset, offset.saturating_add(buf.len() as u64))?;
        match self.found.get() {
            Some(base) => base.try_read_at(buf, offset),
            // Looking for it reads directories.
            None => Ok(Attempt::WouldBlock),
        }
    }

    fn resident(&self, range: Range<u64>) -> Option<&File> {
        self.found.get()?.resident(range)
    }

    fn extents(
        &self,
        range: Range<u64>,
        found: &mut dyn FnMut(Extent) -> ControlFlow<()>,
    ) -> Result<()> {
        self.check_range(range.start, range.end)?;
        self.base()?.extents(range, found)
    }

    fn file(&self) -> Option<&File> {
        self.base().ok()?.file()
    }
}
