//! The image that all scenarios boot, built once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary;

/// The image's name.
pub const NAME: &str = "debian";
/// Root's password on it.
pub const PASSWORD: &str = "scenario";

/// The data directory that holds the image; built by whoever needs it first, and again when the client package is
/// another one than it was built with.
///
/// # Panics
/// When the build fails.
pub fn shared() -> PathBuf {
    let dir = binary::target().join("scenario-image");
    fs::create_dir_all(&dir).expect("the target directory can be written");
    let lock = File::create(dir.join("lock")).expect("the lock can be made");
    lock.lock().expect("the lock can be taken");
    let (stamp, wanted) = (dir.join("stamp"), client_digest());
    let built = dir.join("images").join(NAME).join("current").exists();
    if !built || fs::read_to_string(&stamp).ok().as_ref() != Some(&wanted) {
        build(&dir);
        fs::write(&stamp, wanted).expect("the stamp can be written");
    }
    dir
}

fn build(dir: &Path) {
    let status = build_command(dir).status().expect("bootroom runs");
    assert!(status.success(), "the image cannot be built: {status}");
}

/// The command that builds the image in this data directory.
pub fn build_command(data: &Path) -> Command {
    let build = [
        "image",
        "build",
        "debian",
        "--name",
        NAME,
        "--kernel",
        "cloud",
        "--root-password",
        PASSWORD,
    ];
    let mut command = binary::command(&build);
    command.arg("--data").arg(data);
    command
}

/// What tells one client package from another: its digest.
pub(crate) fn client_digest() -> String {
    let package = binary::target().join("deb/bootroom-client.deb");
    assert!(
        package.exists(),
        "no {}: run `make deb` first",
        package.display()
    );
    let output = Command::new("sha256sum")
        .arg(package)
        .output()
        .expect("sha256sum runs");
    String::from_utf8(output.stdout).expect("a digest is text")
}
