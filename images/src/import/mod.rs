//! Taking over a disk image that was made elsewhere.
//!
//! The disk becomes a client's root as a whole, so it must hold a filesystem and no partition
//! table. What comes from elsewhere is not trusted: a qcow2 file that names other files of this
//! machine is refused, and so is anything that could not boot.

mod copy;
mod inspect;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::build::{CMDLINE, Job, needed_tools, tools};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, IoContext, Result};
use crate::ids::ImageName;
use crate::progress::Progress;
use crate::staging::{Details, Staged, Staging};
use inspect::{Container, FileSystem};

/// What to import.
#[derive(Debug, Clone)]
pub struct Import {
    /// The image that gets the new version.
    pub image: ImageName,
    /// The disk: raw or qcow2.
    pub disk: PathBuf,
    /// The kernel and the initrd to boot it with; `None` takes the newest from its `/boot`,
    /// which works for ext2, ext3 and ext4.
    pub boot_files: Option<BootFiles>,
    /// Words for the kernel command line; `None` means those of our own builds.
    pub cmdline: Option<String>,
    /// Free text about the version.
    pub description: String,
}

/// A kernel and its initrd, as files.
#[derive(Debug, Clone)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initrd, which must carry bootroom's client.
    pub initrd: PathBuf,
}

/// Copies a disk, a kernel and an initrd into `staging`, which `created` dates.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the files are not what they should be, [`ErrorKind::MissingTool`]
/// when a tool is needed that is not installed. Nothing is left behind.
pub fn import(
    staging: Staging,
    what: &Import,
    created: SystemTime,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Staged> {
    let scratch = Scratch {
        staging: &staging,
        progress,
        cancel,
    };
    scratch.take_disk(&what.disk)?;
    let filesystem = inspect::filesystem(&staging.disk_path(), &what.disk)?;
    match &what.boot_files {
        Some(files) => scratch.take_boot_files(files)?,
        None => scratch.extract_boot_files(filesystem)?,
    }
    inspect::check_kernel(&staging.kernel_path())?;
    inspect::check_initrd(&staging.initrd_path())?;
    let details = Details {
        image: what.image.clone(),
        created,
        description: describe(what),
        cmdline: what.cmdline.clone().unwrap_or_else(|| CMDLINE.to_owned()),
    };
    staging.finish(details, progress, cancel)
}

fn describe(what: &Import) -> String {
    match what.description.as_str() {
        "" => format!("imported from {}", what.disk.display()),
        given => given.to_owned(),
    }
}

/// An import at work.
struct Scratch<'a> {
    staging: &'a Staging,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

impl Scratch<'_> {
    fn take_disk(&self, source: &Path) -> Result<()> {
        let file = File::open(source).at("open", source)?;
        let target = self.staging.disk_path();
        match inspect::container(&file, source)? {
            Container::Raw => {
                self.progress.phase("Copying the disk");
                copy::sparse(&file, source, &target, self.progress, self.cancel)
            }
            Container::Qcow2 => {
                self.progress.phase("Converting the disk");
                tools::require(&[needed_tools().as_slice(), &[tools::QEMU_IMG]].concat())?;
                self.convert(source, &target)?;
                copy::round_up(&target)
            }
        }
    }

    fn convert(&self, source: &Path, target: &Path) -> Result<()> {
        let source = fs::canonicalize(source).at("find", source)?;
        Job::new(tools::QEMU_IMG, self.staging.dir())?
            .args(["convert", "-f", "qcow2", "-O", "raw", "-S", "4k"])
            .args([source.as_path(), target])
            .run(self.cancel, &mut |line| self.progress.detail(line))
    }

    fn take_boot_files(&self, files: &BootFiles) -> Result<()> {
        let pairs = [
            (&files.kernel, self.staging.kernel_path()),
            (&files.initrd, self.staging.initrd_path()),
        ];
        for (source, target) in pairs {
            fs::copy(source, target).at("copy", source)?;
        }
        Ok(())
    }

    /// Reads the newest kernel and its initrd out of the filesystem, without mounting it.
    fn extract_boot_files(&self, filesystem: FileSystem) -> Result<()> {
        if filesystem != FileSystem::Ext {
            return Err(invalid(format!(
                "the kernel cannot be read out of {filesystem}: give --kernel and --initrd"
            )));
        }
        tools::require(&[needed_tools().as_slice(), &[tools::DEBUGFS]].concat())?;
        let mut listing = Vec::new();
        self.debugfs("ls -p /boot", &mut |line| listing.push(line.to_owned()))?;
        let release = newest_release(&listing).ok_or_else(|| {
            invalid(
                "no kernel with its initrd in /boot of the disk: give --kernel and --initrd"
                    .to_owned(),
            )
        })?;
        for (name, target) in [
            (format!("vmlinuz-{release}"), self.staging.kernel_path()),
            (format!("initrd.img-{release}"), self.staging.initrd_path()),
        ] {
            let target = target.display();
            self.debugfs(&format!("dump \"/boot/{name}\" \"{target}\""), &mut |_| {})?;
        }
        Ok(())
    }

    fn debugfs(&self, request: &str, heard: &mut dyn FnMut(&str)) -> Result<()> {
        Job::new(tools::DEBUGFS, self.staging.dir())?
            .args(["-R", request])
            .args([self.staging.disk_path()])
            .run(self.cancel, heard)
    }
}

/// The newest release that `/boot` has both files of. `debugfs` lists
/// `/INODE/MODE/UID/GID/NAME/SIZE/`.
fn newest_release(listing: &[String]) -> Option<String> {
    let names: Vec<_> = listing
        .iter()
        .filter_map(|line| line.split('/').nth(5))
        .collect();
    let releases = names
        .iter()
        .filter_map(|name| name.strip_prefix("vmlinuz-"));
    let usable = |release: &&str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._~".contains(&b);
        release.bytes().all(plain) && names.contains(&format!("initrd.img-{release}").as_str())
    };
    releases
        .filter(usable)
        .max_by_key(|release| numbers_in(release))
        .map(str::to_owned)
}

/// Orders `6.1.0-9` below `6.1.0-10`.
fn numbers_in(release: &str) -> Vec<u64> {
    let runs = release.split(|c: char| !c.is_ascii_digit());
    runs.filter_map(|run| run.parse().ok()).collect()
}

fn invalid(context: String) -> Error {
    Error::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_with_an_initrd_is_taken() {
        let listing = [
            "/12/040755/0/0/./",
            "/13/100644/0/0/vmlinuz-6.1.0-9-amd64/100/",
            "/14/100644/0/0/initrd.img-6.1.0-9-amd64/100/",
            "/15/100644/0/0/vmlinuz-6.1.0-10-amd64/100/",
            "/16/100644/0/0/initrd.img-6.1.0-10-amd64/100/",
            "/17/100644/0/0/vmlinuz-6.2.0-1-amd64/100/",
            "/18/100644/0/0/vmlinuz-7\" \"x/100/",
            "/19/100644/0/0/initrd.img-7\" \"x/100/",
        ];
        let listing = listing.map(str::to_owned);
        assert_eq!(newest_release(&listing).as_deref(), Some("6.1.0-10-amd64"));
        assert_eq!(newest_release(&listing[..1]), None);
    }
}
