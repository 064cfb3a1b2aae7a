//! A small image that is never booted: its kernel is one in its first bytes only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::Host;
use super::seat::text;
use crate::binary;
use crate::noise::noise;

/// Megabytes of its disk.
pub const MEGABYTES: u64 = 64;

/// Imports the image `name` into the data of a host, as a version of its own each time; returns what it was made of.
///
/// # Panics
/// When it cannot be done.
pub fn import(host: &Host, name: &str) -> PathBuf {
    let place = host.log().with_file_name(format!("parts-{name}"));
    fs::create_dir_all(&place).expect("a directory");
    let disk = place.join("disk");
    make_disk(&disk, MEGABYTES);
    import_disk(host, name, &disk);
    disk
}

/// A filesystem with some noise in it.
///
/// # Panics
/// When it cannot be made.
pub fn make_disk(disk: &Path, megabytes: u64) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::write(tree.path().join("noise"), noise(8 << 20)).expect("it is written");
    let file = fs::File::create(disk).expect("a disk can be made");
    file.set_len(megabytes << 20).expect("it can be sized");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-d"])
        .args([tree.path(), disk])
        .status();
    assert!(made.expect("mkfs.ext4 runs").success());
}

/// Imports a disk as the image `name`.
///
/// # Panics
/// When it cannot be done.
pub fn import_disk(host: &Host, name: &str, disk: &Path) {
    let (kernel, initrd) = (disk.with_extension("kernel"), disk.with_extension("initrd"));
    let file = |path: &Path, magic: &[u8], at: usize| {
        let mut bytes = vec![0; 4096];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        fs::write(path, bytes).expect("it is written");
    };
    file(&kernel, b"HdrS", 0x202);
    file(&initrd, b"070701", 0);
    let mut import = host.namespace().command(binary::bootroom());
    import
        .args(["image", "import"])
        .arg(disk)
        .args(["--name", name]);
    import
        .arg("--kernel")
        .arg(&kernel)
        .arg("--initrd")
        .arg(&initrd);
    let output = import
        .arg("--data")
        .arg(host.data())
        .output()
        .expect("bootroom runs");
    assert!(output.status.success(), "{}", text(&output));
}
