//! Small files that are there whole or not at all, whenever the power goes.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Permissions of a file that only the server may read.
pub const PRIVATE: u32 = 0o600;
/// Permissions of a file that anyone may read.
pub const PUBLIC: u32 = 0o644;

/// Writes a file with these permissions; on disk when this returns.
///
/// # Errors
/// What the file system says; what was there before is then still there.
pub fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut half = path.as_os_str().to_owned();
    half.push(".new");
    let half = Path::new(&half);
    // Left by a server that died here; its permissions may be others.
    let _ = fs::remove_file(half);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(half)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(half, path)?;
    sync_folder(path)
}

/// Whether the file system, or what its owner may have of it, is full.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Makes the name of a new or removed file last.
///
/// # Errors
/// What the file system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder != Path::new("") => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Removes a file, if it is there; it is gone for good when this returns.
///
/// # Errors
/// What the file system says.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| sync_folder(path)),
    }
}

/// Makes a folder that only the server may look into, and those above it.
///
/// # Errors
/// What the file system says.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// What says that a file is ours, and in which format.
pub type Magic = [u8; 8];

/// A file's bytes: the magic, the CRC-32C of the content (4 bytes, little-endian), the content.
pub fn seal(magic: Magic, content: &[u8]) -> Vec<u8> {
    let mut bytes = magic.to_vec();
    bytes.extend(crc32c::crc32c(content).to_le_bytes());
    bytes.extend(content);
    bytes
}

/// The content of what [`seal`] made; `None` if it is damaged or another file.
pub fn unseal(magic: Magic, bytes: &[u8]) -> Option<&[u8]> {
    let (head, content) = bytes.split_at_checked(magic.len() + 4)?;
    let sum = head.strip_prefix(&magic)?;
    (sum == crc32c::crc32c(content).to_le_bytes()).then_some(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_has_its_permissions_from_the_start_whatever_was_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.key");
        private_folder(path.parent().unwrap()).unwrap();
        fs::write(folder.path().join("a/b.key.new"), "left behind").unwrap();
        write_whole(&path, b"secret", PRIVATE).unwrap();
        write_whole(&path, b"another", PRIVATE).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(fs::read(&path).unwrap(), b"another");
        assert!(!folder.path().join("a/b.key.new").exists());
    }
}
