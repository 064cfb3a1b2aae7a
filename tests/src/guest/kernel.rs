//! Debian's kernel and the modules that a guest needs, from Debian's package.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary;

/// Debian's kernel for virtual machines: small, and with every driver that matters here.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// An unpacked kernel package.
pub struct Kernel {
    /// The bootable image.
    pub image: PathBuf,
    modules: HashMap<String, PathBuf>,
}

impl Kernel {
    /// The kernel, fetched and unpacked under `target/guest` if it is not there yet.
    ///
    /// # Panics
    /// When it cannot be had.
    pub fn get() -> Self {
        let package = package();
        let unpacked = binary::target().join("guest").join(&package);
        if !unpacked.exists() {
            fetch(&package, &unpacked);
        }
        let mut modules = HashMap::new();
        list_modules(&unpacked.join("lib/modules"), &mut modules);
        let image = std::fs::read_dir(unpacked.join("boot"))
            .expect("the package holds /boot")
            .map(|entry| entry.expect("readable").path())
            .find(|path| file_name(path).starts_with("vmlinuz"))
            .expect("the package holds a kernel");
        Self { image, modules }
    }

    /// Files of these modules and all that they need, in the order of loading. One that is built in has no file.
    pub fn modules(&self, names: &[&str]) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for name in names {
            self.add_module(name, &mut found);
        }
        found
    }

    fn add_module(&self, name: &str, found: &mut Vec<PathBuf>) {
        let Some(path) = self.modules.get(&name.replace('-', "_")) else {
            return;
        };
        for needed in depends(path) {
            self.add_module(&needed, found);
        }
        if !found.contains(path) {
            found.push(path.clone());
        }
    }
}

/// The package that the meta package stands for today.
fn package() -> String {
    let output = Command::new("apt-cache")
        .args(["depends", META_PACKAGE])
        .output()
        .expect("apt-cache runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let name = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    format!(
        "linux-image-{}",
        name.expect("the meta package names its kernel; is apt's list up to date?")
    )
}

fn fetch(package: &str, unpacked: &Path) {
    let parent = unpacked.parent().expect("has a parent");
    std::fs::create_dir_all(parent).expect("target is writable");
    let work = tempfile::tempdir_in(parent).expect("target is writable");
    let download = Command::new("apt-get")
        .args(["download", "-qq", package])
        .current_dir(&work)
        .status();
    assert!(
        download.expect("apt-get runs").success(),
        "{package} cannot be downloaded"
    );
    let archive = std::fs::read_dir(&work)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .next()
        .expect("apt-get has left the package here");
    let tree = work.path().join("tree");
    let unpack = Command::new("dpkg-deb")
        .arg("-x")
        .args([&archive, &tree])
        .status();
    assert!(
        unpack.expect("dpkg-deb runs").success(),
        "{package} cannot be unpacked"
    );
    std::fs::rename(tree, unpacked).expect("a rename within target");
}

fn list_modules(directory: &Path, modules: &mut HashMap<String, PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("the package holds /lib/modules") {
        let path = entry.expect("readable").path();
        let name = file_name(&path);
        if path.is_dir() && !path.is_symlink() {
            list_modules(&path, modules);
        } else if let Some(name) = name.strip_suffix(".ko") {
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The names in the module's own `depends=` field.
fn depends(module: &Path) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let bytes = std::fs::read(module).expect("the module is readable");
    let Some(at) = bytes
        .windows(FIELD.len())
        .position(|window| window == FIELD)
    else {
        return Vec::new();
    };
    let value = bytes[at + FIELD.len()..]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}
