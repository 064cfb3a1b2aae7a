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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    use overlay::{Durability, OverlayId, OverlaySpec, Retention, Store};

    use super::*;

    const SIZE: u64 = 64 << 10;

    fn id() -> BaseId {
        BaseId {
            version: uuid::Uuid::from_bytes([7; 16]),
            digest: overlay::Digest([9; 32]),
        }
    }

    /// A file of sevens that is to be found once the switch is thrown.
    fn late(dir: &std::path::Path, id_found: BaseId) -> (Arc<LateBase>, Arc<AtomicBool>) {
        let (path, here) = (dir.join("disk.raw"), Arc::new(AtomicBool::new(false)));
        fs::write(&path, vec![7; SIZE as usize]).unwrap();
        let switch = here.clone();
        let find = move || {
            let open = || Arc::new(overlay::FileBase::open(&path, id_found).unwrap());
            switch
                .load(Ordering::Relaxed)
                .then(|| open() as Arc<dyn Base>)
        };
        let base = LateBase::new(id(), SIZE, Box::new(find));
        (Arc::new(base), here)
    }

    #[test]
    fn reads_fail_until_the_version_is_here_and_never_after() {
        let dir = tempfile::tempdir().unwrap();
        let (base, here) = late(dir.path(), id());
        let mut buf = [0; 4096];
        assert_eq!((*base.id(), base.size()), (id(), SIZE));
        assert_eq!(base.read_at(&mut buf, 0).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(base.try_read_at(&mut buf, 0).unwrap(), Attempt::WouldBlock);
        assert!(base.resident(0..4096).is_none() && base.file().is_none());
        let mut ignore = |_| ControlFlow::Continue(());
        let error = base.extents(0..SIZE, &mut ignore).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("other server"), "{error}");

        here.store(true, Ordering::Relaxed);
        assert!(base.found.get().is_none());
        base.read_at(&mut buf, SIZE - 4096).unwrap();
        assert_eq!(buf, [7; 4096]);
        // Not looked for any more.
        here.store(false, Ordering::Relaxed);
        assert!(base.found.get().is_some());
        base.read_at(&mut buf, 0).unwrap();
        assert!(base.try_read_at(&mut buf, 0).is_ok());
        assert!(base.file().is_some() && base.resident(0..4096).is_some());
        base.extents(0..SIZE, &mut ignore).unwrap();
    }

    #[test]
    fn past_the_end_is_past_the_end_whether_it_is_here_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (base, here) = late(dir.path(), id());
        for is_here in [false, true] {
            here.store(is_here, Ordering::Relaxed);
            let mut buf = [0; 4096];
            for offset in [SIZE - 4095, u64::MAX] {
                let read = base.read_at(&mut buf, offset).unwrap_err();
                let tried = base.try_read_at(&mut buf, offset).unwrap_err();
                assert_eq!(read.kind(), ErrorKind::OutOfRange);
                assert_eq!(tried.kind(), ErrorKind::OutOfRange);
            }
            let mut ignore = |_| ControlFlow::Continue(());
            let extents = base.extents(0..SIZE + 1, &mut ignore).unwrap_err();
            assert_eq!(extents.kind(), ErrorKind::OutOfRange);
        }
    }

    #[test]
    fn another_version_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = id();
        other.digest.0[0] ^= 1;
        let (base, here) = late(dir.path(), other);
        here.store(true, Ordering::Relaxed);
        let error = base.read_at(&mut [0; 512], 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BaseMismatch);
        assert!(base.found.get().is_none());
    }

    /// What the standby does with the primary's writes before it has the version.
    #[test]
    fn an_overlay_takes_whole_blocks_before_its_base_is_here() {
        let dir = tempfile::tempdir().unwrap();
        let (base, here) = late(dir.path(), id());
        let store = Store::open(&dir.path().join("overlays"), overlay::Options::default()).unwrap();
        let spec = OverlaySpec {
            size: SIZE,
            quota: None,
            retention: Retention::Keep,
            base,
        };
        let name = OverlayId::new("525400120001-debian").unwrap();
        let overlay = store.create(&name, spec).unwrap();
        let disk = overlay.attach();
        disk.write(&[1; 4096], 8192, Durability::Process).unwrap();
        let mut buf = [0; 4096];
        disk.read(&mut buf, 8192).unwrap();
        assert_eq!(buf, [1; 4096]);
        assert!(disk.read(&mut buf, 0).is_err());
        assert!(
            disk.write(&[2; 512], 0, Durability::Process).is_err(),
            "the rest of the block is not here"
        );
        disk.flush().unwrap();

        here.store(true, Ordering::Relaxed);
        disk.read(&mut buf, 0).unwrap();
        assert_eq!(buf, [7; 4096]);
        disk.write(&[2; 512], 512, Durability::Process).unwrap();
        disk.read(&mut buf, 0).unwrap();
        assert_eq!(
            [&buf[..512], &buf[512..1024], &buf[1024..]].map(|part| part[0]),
            [7, 2, 7]
        );
    }
}
