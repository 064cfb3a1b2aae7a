//! Where things are in the catalogue's directory, and in which order they become durable.
//!
//! ```text
//! .lock                    flock: held while the catalogue changes
//! .staging-UUID/           an unfinished version; flocked by whoever works on it
//! .copy-UUID/              a version on its way from another server; flocked by whoever copies
//! .trash-UUID/             a version being removed
//! NAME/NUMBER/             a version: disk.raw, vmlinuz, initrd.img, version.json
//! NAME/current             symlink to the NUMBER that the bare NAME means
//! NAME/.current.new        the same, not valid yet
//! NAME/.last               the highest number ever given, in decimal
//! NAME/.removed            UUIDs of versions that were removed, one a line, the newest last
//! ```
//!
//! Publishing: sync the four files and the staging directory; record the number in `.last`;
//! make `.current.new`; rename the staging directory to `NAME/NUMBER`; sync `NAME`; switch `current`; sync `NAME`.
//! A crash between any two steps leaves either a staging directory, which nobody has locked any
//! more and the next staging removes, or a complete version.
//!
//! A copy is published in the same order, under the number that it has on the other server. Cut short,
//! its directory stays, so that the next try need not begin anew; nothing but a copy looks at it.
//!
//! Removing: record the UUID in `.removed`; rename `NAME/NUMBER` to `.trash-UUID`, sync, then delete at leisure; a version is
//! never seen half deleted.

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, ErrorKind, IoContext, Result};

/// Published files are never written again.
const READ_ONLY: u32 = 0o444;

/// File names of a version.
pub(crate) const DISK: &str = "disk.raw";
pub(crate) const KERNEL: &str = "vmlinuz";
pub(crate) const INITRD: &str = "initrd.img";
pub(crate) const RECORD: &str = "version.json";
/// The pointer of an image.
pub(crate) const CURRENT: &str = "current";
/// The pointer before it counts.
pub(crate) const NEW_CURRENT: &str = ".current.new";
/// The highest number given.
pub(crate) const LAST: &str = ".last";
/// The versions that were here once.
pub(crate) const REMOVED: &str = ".removed";
/// Begin the names of directories that are not versions.
pub(crate) const STAGING: &str = ".staging-";
pub(crate) const COPY: &str = ".copy-";
pub(crate) const TRASH: &str = ".trash-";

/// Makes a file's or directory's content durable.
pub(crate) fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .at("sync", path)
}

/// Writes the record of the version in `dir` and makes everything there durable; it is ready to
/// be seen then.
pub(crate) fn seal(dir: &Path, record: &[u8]) -> Result<()> {
    let path = dir.join(RECORD);
    let mut file = File::create_new(&path).at("write", &path)?;
    file.write_all(record).at("write", &path)?;
    for name in [DISK, KERNEL, INITRD, RECORD] {
        let path = dir.join(name);
        let read_only = fs::Permissions::from_mode(READ_ONLY);
        fs::set_permissions(&path, read_only).at("protect", &path)?;
        sync(&path)?;
    }
    sync(dir)
}

/// The atomic step: from here on the version that was made in `dir` exists.
pub(crate) fn become_version(dir: &Path, place: &Path) -> Result<()> {
    // A rename onto an empty directory would succeed; a number must never be given twice.
    if place.exists() {
        let context = format!("{} exists already", place.display());
        return Err(Error::new(ErrorKind::InUse, context));
    }
    fs::rename(dir, place).at("publish", place)
}

/// Makes a directory if it is not there, and durable in its parent.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::io("make directory", path, error)),
    }
}

/// Replaces a small file so that a crash leaves the old content or the new.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("new");
    let mut file = File::create(&beside).at("write", &beside)?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .at("write", &beside)?;
    fs::rename(&beside, path).at("replace", path)?;
    path.parent().map_or(Ok(()), sync)
}

/// The changing of a catalogue, one process at a time; given up when dropped.
#[derive(Debug)]
pub(crate) struct ChangeLock(#[allow(dead_code, reason = "closing it gives the lock up")] File);

impl ChangeLock {
    /// Waits for the lock of the catalogue in `root`. It is held for moments only.
    pub fn take(root: &Path) -> Result<Self> {
        let path = root.join(".lock");
        let file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .at("open", &path)?;
        file.lock().at("lock", &path)?;
        Ok(Self(file))
    }
}

/// Tries for an exclusive lock: `false` when somebody holds a lock already.
pub(crate) fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(Error::io("lock", path, error)),
    }
}

/// The entries of a directory by name; one that is not there has none.
pub(crate) fn entries(dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let reader = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.at("list", dir)?,
    };
    let mut found = Vec::new();
    for entry in reader {
        let entry = entry.at("list", dir)?;
        // Names that are not UTF-8 are not ours.
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes a tree that is no version any more.
pub(crate) fn delete_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            delete_as_mapped_root(path)
        }
        other => other.at("delete", path),
    }
}

/// A build without root unpacks files that belong to subordinate user ids; only the root of a
/// user namespace that maps them may delete these.
fn delete_as_mapped_root(path: &Path) -> Result<()> {
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--map-auto", "rm", "-rf", "--"])
        .arg(path)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .at("delete", path)?;
    if status.success() {
        return Ok(());
    }
    let context = format!("cannot delete {}: run rm -rf on it as root", path.display());
    Err(Error::new(ErrorKind::Io, context))
}
