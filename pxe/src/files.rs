//! Paths that clients ask for: made safe, and resolved below the directories that may be served.

use std::path::PathBuf;

/// Where one path, or all paths under a prefix, are found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    /// The path clients ask for, or the prefix (ends in `/`, or is empty).
    path: String,
    /// The file, or the directory.
    target: PathBuf,
}

/// The files and directories that are served to anyone, when the policy has no answer for a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Roots {
    files: Vec<Mapping>,
    dirs: Vec<Mapping>,
}

impl Roots {
    /// Nothing at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// The boot loaders of the distribution's packages (`ipxe`, `shim-signed`, `grub-efi-amd64-signed`, `pxelinux`),
    /// under the names the crate hands out. Which exist is found out when they are asked for.
    pub fn loaders() -> Self {
        Self::default().with_dir("ipxe/", "/usr/lib/ipxe")
    }

    /// Serves `file` as `path`.
    pub fn with_file(mut self, path: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        self.files.push(Mapping {
            path: path.into(),
            target: file.into(),
        });
        self
    }

    /// Serves what lies below `dir` under `prefix` (which ends in `/`, or is empty). Links that lead out of `dir` are
    /// not followed.
    pub fn with_dir(mut self, prefix: impl Into<String>, dir: impl Into<PathBuf>) -> Self {
        self.dirs.push(Mapping {
            path: prefix.into(),
            target: dir.into(),
        });
        self
    }
}
