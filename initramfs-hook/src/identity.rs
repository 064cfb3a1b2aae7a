//! What makes this machine itself, from the server to the root disk: name, machine-id, ssh host keys.
//!
//! The server puts it into a second initrd, so that it lies in the initramfs as `/bootroom.identity`: `hostname`,
//! `machine-id`, `ssh/ssh_host_*`, and `tls/`, which [`crate::security`] reads. [`settle`] puts the rest into the
//! mounted root, before the machine's own system starts, and erases all of it from the initramfs.
//!
//! Where the root disk comes over TLS, the private half of the host key does too ([`crate::secret`]), and [`keep`] puts it
//! beside the public one.
//!
//! Must never follow a link of the root disk out of that disk, never leave half a file there, and write nothing where
//! all is as it should be: a root that is not changed costs no room on the server.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fchmod, fstat, mkdirat, openat,
    openat2, renameat, statvfs, unlinkat,
};
use rustix::mount::{MountFlags, mount_remount};

use crate::error::{Error, Kind, Result};

/// Where it lies in the initramfs.
pub const PLACE: &str = "/bootroom.identity";
/// The part of it that is for TLS.
pub const TLS: &str = "/bootroom.identity/tls";

/// No file of it is larger, in bytes.
pub const LARGEST: u64 = 64 << 10;
const HOST_KEY: &str = "ssh_host_";
/// The host key that is fetched.
const FETCHED_KEY: &str = "ssh/ssh_host_ed25519_key";
const HALF: &str = ".bootroom-new";

/// A file of the root.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    name: String,
    mode: u32,
    content: Vec<u8>,
}

/// A folder of the root and what belongs there.
struct Shelf {
    path: &'static str,
    items: Vec<Item>,
    /// Whether other host keys have to go: they came with the image, so that every machine has them.
    alone: bool,
}

/// Whether the private host key in `place` is still to be fetched.
pub fn lacks_secret(place: &Path) -> bool {
    place.join(format!("{FETCHED_KEY}.pub")).exists() && !place.join(FETCHED_KEY).exists()
}

/// Puts the private host key into `place`, for nobody but root to read.
///
/// # Errors
/// When the initramfs takes no file.
pub fn keep(place: &Path, secret: &[u8]) -> Result<()> {
    let write = || {
        let mut options = fs::OpenOptions::new();
        let path = place.join(FETCHED_KEY);
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(secret)
    };
    write().map_err(|e| failed(place, e))
}

/// Puts what is in `place` into the root that is mounted at `root`, and erases `place`, whatever came of it.
///
/// # Errors
/// What cannot be read, or not be written to the root.
pub fn settle(place: &Path, root: &Path) -> Result<()> {
    if !place.exists() {
        return Ok(());
    }
    let settled = shelves(place)
        .map_err(|e| failed(place, e))
        .and_then(|shelves| install(&shelves, root).map_err(|e| failed(root, e)));
    let erased = fs::remove_dir_all(place).map_err(|e| failed(place, e));
    settled.and(erased)
}

fn failed(path: &Path, source: io::Error) -> Error {
    let context = format!(
        "this machine's identity did not get into its root disk ({})",
        path.display()
    );
    Error::with(Kind::Root, context, source)
}

fn shelves(place: &Path) -> io::Result<Vec<Shelf>> {
    let mut etc = Vec::new();
    for (name, mode) in [("hostname", 0o644), ("machine-id", 0o444)] {
        etc.extend(item(place, name, mode)?);
    }
    let mut keys = Vec::new();
    let folder = place.join("ssh");
    for entry in folder.read_dir().into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let mode = if name.ends_with(".pub") { 0o644 } else { 0o600 };
        if name.starts_with(HOST_KEY) {
            keys.extend(item(&folder, &name, mode)?);
        }
    }
    // Half a pair would cost the root the key that it has.
    if lacks_secret(place) {
        keys.clear();
    }
    let shelf = |path, items: Vec<Item>, alone| Shelf { path, items, alone };
    let mut shelves = vec![shelf("etc", etc, false), shelf("etc/ssh", keys, true)];
    shelves.retain(|shelf| !shelf.items.is_empty());
    Ok(shelves)
}

/// No such file: nothing.
fn item(folder: &Path, name: &str, mode: u32) -> io::Result<Option<Item>> {
    let mut content = Vec::new();
    match fs::File::open(folder.join(name)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.take(LARGEST).read_to_end(&mut content)?,
    };
    let name = name.to_owned();
    Ok(Some(Item {
        name,
        mode,
        content,
    }))
}

fn install(shelves: &[Shelf], root: &Path) -> io::Result<()> {
    let path = root;
    let root = open_root(path)?;
    if shelves.iter().all(|shelf| shelf.is_settled(&root)) {
        return Ok(());
    }
    let _writable = Writable::make(path)?;
    shelves.iter().try_for_each(|shelf| shelf.settle(&root))
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, FOLDER, Mode::empty())?)
}

const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

/// Opens a folder of the root; links lead to where they lead once this is the root.
fn folder(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    Ok(openat2(
        root,
        path,
        FOLDER,
        Mode::empty(),
        ResolveFlags::IN_ROOT,
    )?)
}

impl Shelf {
    fn is_settled(&self, root: &OwnedFd) -> bool {
        let settled = |folder: &OwnedFd| {
            let same = self.items.iter().all(|item| item.is_in(folder));
            Ok::<_, io::Error>(same && self.strangers(folder)?.is_empty())
        };
        folder(root, self.path)
            .and_then(|folder| settled(&folder))
            .unwrap_or(false)
    }

    fn settle(&self, root: &OwnedFd) -> io::Result<()> {
        let made = Mode::from_raw_mode(0o755);
        let folder = match folder(root, self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // Through the parent as the root sees it: a link in the way must not lead out of it.
                let (parent, name) = self.path.rsplit_once('/').unwrap_or((".", self.path));
                mkdirat(&folder(root, parent)?, name, made)?;
                folder(root, self.path)?
            }
            found => found?,
        };
        for item in self.items.iter().filter(|item| !item.is_in(&folder)) {
            item.put(&folder)?;
        }
        for name in self.strangers(&folder)? {
            unlinkat(&folder, name.as_str(), AtFlags::empty())?;
        }
        Ok(rustix::fs::fsync(&folder)?)
    }

    /// Host keys in the folder that are not this machine's.
    fn strangers(&self, folder: &OwnedFd) -> io::Result<Vec<String>> {
        if !self.alone {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in Dir::read_from(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let ours = self.items.iter().any(|item| item.name == name);
            if name.starts_with(HOST_KEY) && !ours {
                found.push(name);
            }
        }
        Ok(found)
    }
}

impl Item {
    fn is_in(&self, folder: &OwnedFd) -> bool {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let same = || -> io::Result<bool> {
            let file = openat(folder, self.name.as_str(), flags, Mode::empty())?;
            let mode = fstat(&file)?.st_mode & 0o7777;
            let mut content = Vec::new();
            fs::File::from(file)
                .take(LARGEST + 1)
                .read_to_end(&mut content)?;
            Ok(mode == self.mode && content == self.content)
        };
        same().unwrap_or(false)
    }

    /// Whole or not at all, with its permissions from the start.
    fn put(&self, folder: &OwnedFd) -> io::Result<()> {
        let half = format!("{}{HALF}", self.name);
        match unlinkat(folder, half.as_str(), AtFlags::empty()) {
            Err(e) if e != rustix::io::Errno::NOENT => return Err(e.into()),
            _ => {}
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(folder, half.as_str(), flags, Mode::from_raw_mode(0o600))?;
        let mut file = fs::File::from(file);
        file.write_all(&self.content)?;
        fchmod(file.as_fd(), Mode::from_raw_mode(self.mode))?;
        file.sync_all()?;
        Ok(renameat(folder, half.as_str(), folder, self.name.as_str())?)
    }
}

/// A root that can be written to; read-only again afterwards, if it was before.
struct Writable<'a>(Option<(&'a Path, MountFlags)>);

impl<'a> Writable<'a> {
    fn make(root: &'a Path) -> io::Result<Self> {
        let now = statvfs(root)?.f_flag;
        if !now.contains(StatVfsMountFlags::RDONLY) {
            return Ok(Writable(None));
        }
        let flags = kept(now);
        mount_remount(root, flags, "")?;
        Ok(Writable(Some((root, flags))))
    }
}

impl Drop for Writable<'_> {
    fn drop(&mut self) {
        if let Some((root, flags)) = self.0 {
            // A root that stays writable is what its system makes of it a moment later anyway.
            let _ = mount_remount(root, flags | MountFlags::RDONLY, "");
        }
    }
}

/// The flags of a mount that a remount would forget.
fn kept(now: StatVfsMountFlags) -> MountFlags {
    let pairs = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
        (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
    ];
    let set = pairs.into_iter().filter(|(flag, _)| now.contains(*flag));
    set.fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    struct Stage(tempfile::TempDir);

    impl Stage {
        /// An identity with this host key, and a root whose image had host keys of its own.
        fn new(key: &str) -> Self {
            let stage = Stage(tempfile::tempdir().unwrap());
            stage.bring(key);
            stage.write("root/etc/ssh/ssh_host_rsa_key", "everybody's");
            stage.write("root/etc/ssh/ssh_host_rsa_key.pub", "everybody's");
            stage.write("root/etc/ssh/sshd_config", "Port 22");
            stage
        }

        fn bring(&self, key: &str) {
            self.write("identity/hostname", "r12-01\n");
            self.write("identity/machine-id", "0123\n");
            self.write("identity/ssh/ssh_host_ed25519_key", key);
            self.write("identity/ssh/ssh_host_ed25519_key.pub", "public");
            self.write("identity/ssh/../tls/client.key", "secret");
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::create_dir_all(self.path("identity/ssh")).unwrap();
            fs::write(path, text).unwrap();
        }

        fn settle(&self) -> Result<()> {
            settle(&self.path("identity"), &self.path("root"))
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o7777
        }
    }

    #[test]
    fn the_root_gets_it_with_the_right_modes_and_nothing_is_left_behind() {
        let stage = Stage::new("private");
        stage.settle().unwrap();
        assert_eq!(stage.read("root/etc/hostname"), "r12-01\n");
        assert_eq!(stage.read("root/etc/machine-id"), "0123\n");
        assert_eq!(stage.read("root/etc/ssh/ssh_host_ed25519_key"), "private");
        assert_eq!(stage.mode("root/etc/ssh/ssh_host_ed25519_key"), 0o600);
        assert_eq!(stage.mode("root/etc/ssh/ssh_host_ed25519_key.pub"), 0o644);
        assert_eq!(stage.mode("root/etc/machine-id"), 0o444);
        assert!(!stage.path("identity").exists());
        let mut left: Vec<_> = fs::read_dir(stage.path("root/etc/ssh"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        let ours = [
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
            "sshd_config",
        ];
        assert_eq!(left, ours, "the image's own keys are everybody's");
        stage.settle().unwrap();
    }

    #[test]
    fn a_link_in_the_way_does_not_lead_out_of_the_root() {
        let stage = Stage::new("private");
        fs::rename(stage.path("root/etc"), stage.path("root/kept")).unwrap();
        let outside = stage.path("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, stage.path("root/etc")).unwrap();
        let inside = stage.path("root").join(outside.strip_prefix("/").unwrap());
        fs::create_dir_all(&inside).unwrap();
        stage.settle().unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let key = inside.join("ssh/ssh_host_ed25519_key");
        assert_eq!(fs::read_to_string(key).unwrap(), "private");
    }

    #[test]
    fn what_is_as_it_should_be_is_not_written_again() {
        let stage = Stage::new("private");
        stage.settle().unwrap();
        let inode = |name: &str| fs::metadata(stage.path(name)).unwrap().ino();
        let key = "root/etc/ssh/ssh_host_ed25519_key";
        let before = (inode(key), inode("root/etc/hostname"));
        stage.bring("private");
        stage.settle().unwrap();
        assert_eq!((inode(key), inode("root/etc/hostname")), before);
        stage.bring("another");
        stage.settle().unwrap();
        assert_eq!(stage.read(key), "another");
        assert_eq!(inode("root/etc/hostname"), before.1);
    }

    #[test]
    fn a_link_of_the_root_stays_within_the_root() {
        let stage = Stage::new("private");
        let outside = stage.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::remove_dir_all(stage.path("root/etc/ssh")).unwrap();
        symlink(&outside, stage.path("root/etc/ssh")).unwrap();
        let error = stage.settle().unwrap_err();
        assert_eq!(error.kind(), Kind::Root);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(
            !stage.path("identity").exists(),
            "secrets go whatever happens"
        );
        // A link for a file is replaced, not followed.
        let stage = Stage::new("private");
        stage.write("outside", "untouched");
        symlink(stage.path("outside"), stage.path("root/etc/hostname")).unwrap();
        stage.settle().unwrap();
        assert_eq!(
            (stage.read("outside"), stage.read("root/etc/hostname")),
            ("untouched".into(), "r12-01\n".into())
        );
    }

    #[test]
    fn half_a_key_changes_nothing_and_the_other_half_is_private() {
        let stage = Stage::new("private");
        let half = || fs::remove_file(stage.path("identity").join(FETCHED_KEY)).unwrap();
        half();
        assert!(lacks_secret(&stage.path("identity")));
        stage.settle().unwrap();
        assert_eq!(stage.read("root/etc/ssh/ssh_host_rsa_key"), "everybody's");
        assert!(!stage.path("root/etc/ssh/ssh_host_ed25519_key.pub").exists());
        stage.bring("private");
        half();
        keep(&stage.path("identity"), b"fetched").unwrap();
        assert_eq!(stage.mode("identity/ssh/ssh_host_ed25519_key"), 0o600);
        stage.settle().unwrap();
        assert_eq!(stage.read("root/etc/ssh/ssh_host_ed25519_key"), "fetched");
    }

    #[test]
    fn a_boot_without_one_is_left_alone() {
        let stage = Stage(tempfile::tempdir().unwrap());
        settle(&stage.path("identity"), &stage.path("nowhere")).unwrap();
        fs::create_dir(stage.path("identity")).unwrap();
        fs::create_dir(stage.path("root")).unwrap();
        stage.settle().unwrap();
        assert_eq!(fs::read_dir(stage.path("root")).unwrap().count(), 0);
    }
}
