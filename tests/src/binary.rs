//! The program under test.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace's directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate is a folder of the workspace")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The built `bootroom`: `$BOOTROOM_BIN`, or the newer one of the release and the debug build.
///
/// # Panics
/// When there is none.
pub fn bootroom() -> PathBuf {
    if let Some(path) = std::env::var_os("BOOTROOM_BIN") {
        return PathBuf::from(path);
    }
    let built = |profile: &str| {
        let path = target().join(profile).join("bootroom");
        let modified = path
            .metadata()
            .and_then(|metadata| metadata.modified())
            .ok()?;
        Some((modified, path))
    };
    let newest = [built("release"), built("debug")]
        .into_iter()
        .flatten()
        .max();
    newest
        .expect("no bootroom binary: run `cargo build -p bootroom` first, or set BOOTROOM_BIN")
        .1
}

/// A `bootroom` command line with these arguments.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(bootroom());
    command.args(arguments);
    command
}
