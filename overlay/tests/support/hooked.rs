//! The real disk, on which a test looks at every call before it is made, and may hold it up or fail it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use overlay::{Attempt, HostDisk, OpenMode, Storage, StoredFile};
use uuid::Uuid;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Write,
    Punch,
    Sync,
    Rename,
    Remove,
    List,
    /// A listing was made and is about to be handed over.
    Listed,
}

type Hook = dyn Fn(Call, &Path) -> io::Result<()> + Send + Sync;

/// The host.
pub struct Hooked(Arc<Hook>);

impl Hooked {
    pub fn host(
        hook: impl Fn(Call, &Path) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<dyn Storage> {
        Arc::new(Self(Arc::new(hook)))
    }
}

struct HookedFile {
    file: Arc<dyn StoredFile>,
    path: PathBuf,
    hook: Arc<Hook>,
}

impl Storage for Hooked {
    fn boot_id(&self) -> io::Result<Uuid> {
        HostDisk.boot_id()
    }
    fn fresh_uuid(&self) -> Uuid {
        HostDisk.fresh_uuid()
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        HostDisk.free_bytes(dir)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StoredFile>> {
        Ok(Arc::new(HookedFile {
            file: HostDisk.open(path, mode)?,
            path: path.to_owned(),
            hook: self.0.clone(),
        }))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        (self.0)(Call::List, dir)?;
        let names = HostDisk.list(dir)?;
        (self.0)(Call::Listed, dir)?;
        Ok(names)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        (self.0)(Call::Rename, to)?;
        HostDisk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        (self.0)(Call::Remove, path)?;
        HostDisk.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        HostDisk.sync_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        HostDisk.lock(path)
    }
}

impl StoredFile for HookedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }
    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<Attempt> {
        self.file.try_read_at(buf, offset)
    }
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        (self.hook)(Call::Write, &self.path)?;
        self.file.write_at(data, offset)
    }
    fn punch(&self, range: Range<u64>) -> io::Result<()> {
        (self.hook)(Call::Punch, &self.path)?;
        self.file.punch(range)
    }
    fn allocate(&self, range: Range<u64>) -> io::Result<()> {
        self.file.allocate(range)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }
    fn sync(&self) -> io::Result<()> {
        (self.hook)(Call::Sync, &self.path)?;
        self.file.sync()
    }
    fn forget_cache(&self) -> io::Result<()> {
        self.file.forget_cache()
    }
    fn next_data(&self, from: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(from)
    }
}
