//! The host programs that builds and imports run.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// A program and the Debian package that has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub program: &'static str,
    pub package: &'static str,
}

pub(crate) const MMDEBSTRAP: Tool = Tool {
    program: "mmdebstrap",
    package: "mmdebstrap",
};
pub(crate) const APT: Tool = Tool {
    program: "apt-get",
    package: "apt",
};
pub(crate) const MKE2FS: Tool = Tool {
    program: "mke2fs",
    package: "e2fsprogs",
};
pub(crate) const DEBUGFS: Tool = Tool {
    program: "debugfs",
    package: "e2fsprogs",
};
pub(crate) const UNSHARE: Tool = Tool {
    program: "unshare",
    package: "util-linux",
};
pub(crate) const SETPRIV: Tool = Tool {
    program: "setpriv",
    package: "util-linux",
};
pub(crate) const NEWUIDMAP: Tool = Tool {
    program: "newuidmap",
    package: "uidmap",
};
pub(crate) const QEMU_IMG: Tool = Tool {
    program: "qemu-img",
    package: "qemu-utils",
};

/// Where system programs are, which an ordinary user's `PATH` may leave out.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Makes sure that all of `tools` are installed.
///
/// # Errors
/// [`ErrorKind::MissingTool`] names all that are missing and the command that installs them.
pub(crate) fn require(tools: &[Tool]) -> Result<()> {
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !is_installed(tool.program))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|tool| tool.program).collect();
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    Err(Error::new(
        ErrorKind::MissingTool,
        format!(
            "{} not found: apt-get install {}",
            programs.join(", "),
            packages.join(" ")
        ),
    ))
}

fn is_installed(program: &str) -> bool {
    search_path().iter().any(|dir| dir.join(program).is_file())
}

/// `PATH`, then the system directories.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path);
    dirs.chain(SYSTEM_DIRS.map(|dir| Path::new(dir).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_tools_are_named_with_their_packages() {
        require(&[UNSHARE, SETPRIV]).unwrap();
        let absent = |program| Tool {
            program,
            package: "no-such-package",
        };
        let error = require(&[UNSHARE, absent("no-such-a"), absent("no-such-b")]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingTool);
        assert_eq!(
            error.to_string(),
            "no-such-a, no-such-b not found: apt-get install no-such-package"
        );
    }
}
