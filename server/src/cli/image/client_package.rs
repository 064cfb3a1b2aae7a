//! Finding the package that is installed into images.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Its file name.
const NAME: &str = "bootroom-client.deb";
/// Where an installed bootroom has it.
const INSTALLED: &str = "/usr/share/bootroom";

/// The package to install: beside this program, in the build tree, or where bootroom is installed.
///
/// # Errors
/// There is none; the error says how to get it.
pub fn find() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let beside = program.parent().unwrap_or(Path::new("/"));
    let places = [beside.to_owned(), beside.join("../deb"), INSTALLED.into()];
    let found = places
        .iter()
        .map(|place| place.join(NAME))
        .find(|path| path.is_file());
    let Some(found) = found else {
        bail!(
            "no {NAME} beside {} or in {INSTALLED}: build it with `make deb`, or name it with --client-package",
            program.display()
        );
    };
    Ok(found)
}
