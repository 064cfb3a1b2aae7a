//! Building a version from a distribution's packages.
//!
//! A build needs no loop device and no mount that outlives it: packages are unpacked into a
//! directory inside the staging, and `mke2fs -d` makes the filesystem from that directory.

mod job;
mod recipe;
mod sources;
pub(crate) mod tools;

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

pub(crate) use job::{Job, needed_tools};
pub use recipe::{Kernel, Password, Recipe};

use crate::cancel::Cancel;
use crate::error::{IoContext, Result};
use crate::layout;
use crate::progress::Progress;
use crate::staging::{Details, Staged, Staging};
use tools::Tool;

/// Packages of every image: what a machine needs to boot, to be logged in to and to be looked into.
const PACKAGES: &[&str] = &[
    "busybox",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libnss-myhostname",
    "libpam-systemd",
    "login",
    "nano",
    "passwd",
    "procps",
    "systemd",
    "systemd-sysv",
    "udev",
    "zstd",
];
/// The hooks and the packing, run by mmdebstrap and by us.
const SCRIPTS: [(&str, &str); 3] = [
    ("early.sh", include_str!("early.sh")),
    ("late.sh", include_str!("late.sh")),
    ("pack.sh", include_str!("pack.sh")),
];
/// The initramfs mounts the root writable at once, as there is no fsck to wait for; access times
/// would turn every read of a file into a write to the overlay. The last console is where errors
/// of the boot are shown.
pub(crate) const CMDLINE: &str = "rw rootflags=noatime console=ttyS0 console=tty0";

const SHELL: Tool = Tool {
    program: "sh",
    package: "dash",
};

/// Builds a Debian root image in `staging`, which `created` dates.
///
/// Takes half a minute to several minutes, mostly for fetching and unpacking packages. Runs
/// `mmdebstrap`; without root it needs a range of subordinate user ids (`/etc/subuid`).
///
/// # Errors
/// [`crate::ErrorKind::MissingTool`] names the packages to install,
/// [`crate::ErrorKind::ToolFailed`] quotes the tool. Nothing is left behind.
pub fn debian(
    staging: Staging,
    recipe: &Recipe,
    created: SystemTime,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Staged> {
    recipe.check()?;
    let mut needed = needed_tools();
    needed.extend([tools::MMDEBSTRAP, tools::APT, tools::MKE2FS]);
    tools::require(&needed)?;
    let workshop = Workshop::set_up(&staging, recipe)?;
    workshop.bootstrap(recipe, progress, cancel)?;
    workshop.pack(&staging, recipe, progress, cancel)?;
    workshop.tear_down()?;
    let details = Details {
        image: recipe.image.clone(),
        created,
        description: describe(recipe),
        cmdline: CMDLINE.to_owned(),
    };
    staging.finish(details, progress, cancel)
}

fn describe(recipe: &Recipe) -> String {
    match recipe.description.as_str() {
        "" => format!("Debian {}, {}", recipe.suite, recipe.kernel.package()),
        given => given.to_owned(),
    }
}

/// The directory inside the staging where the root is put together.
struct Workshop {
    dir: PathBuf,
}

impl Workshop {
    fn set_up(staging: &Staging, recipe: &Recipe) -> Result<Self> {
        let dir = staging.dir().join("build");
        fs::create_dir(&dir).at("make directory", &dir)?;
        for (name, text) in SCRIPTS {
            let path = dir.join(name);
            fs::write(&path, text).at("write", &path)?;
        }
        if let Some(client) = &recipe.client_package {
            fs::copy(client, dir.join("client.deb")).at("copy", client)?;
        }
        let workshop = Self { dir };
        if let Some(password) = &recipe.root_password {
            write_secret(&workshop.dir.join("password"), password.expose())?;
        }
        Ok(workshop)
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Unpacks and configures all packages.
    fn bootstrap(&self, recipe: &Recipe, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let packages = [PACKAGES, &[recipe.kernel.package()]].concat().join(",");
        let mut job = Job::new(tools::MMDEBSTRAP, &self.dir)?
            .args(["--mode=root", "--variant=minbase", "--format=directory"])
            .args([format!("--include={packages}")])
            .args(
                recipe
                    .packages
                    .iter()
                    .map(|package| format!("--include={package}")),
            )
            .args(["--essential-hook=sh \"$BOOTROOM_TOOLS/early.sh\" \"$1\""])
            .args(["--customize-hook=sh \"$BOOTROOM_TOOLS/late.sh\" \"$1\""])
            .args([Path::new(&recipe.suite), &self.root()])
            .args(sources::lines(recipe, &sources::of_host()))
            .env("BOOTROOM_TOOLS", &self.dir)
            .env("BOOTROOM_MODULES", recipe.kernel.modules())
            .env("BOOTROOM_DRIVERS", recipe.kernel.drivers())
            .env("INITRD", "No");
        for (key, proxy) in sources::proxies() {
            job = job.env(key, proxy);
        }
        progress.phase("Starting mmdebstrap");
        job.run(cancel, &mut |line| tell(progress, line))
    }

    /// Makes the version's files from the root directory.
    fn pack(
        &self,
        staging: &Staging,
        recipe: &Recipe,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<()> {
        progress.phase("Making the filesystem");
        Job::new(SHELL, &self.dir)?
            .args([
                self.dir.join("pack.sh"),
                self.root(),
                staging.dir().to_owned(),
            ])
            .args([
                (recipe.size.get() >> 10).to_string(),
                staging.id().to_string(),
            ])
            .run(cancel, &mut |line| progress.detail(line))
    }

    fn tear_down(self) -> Result<()> {
        layout::delete_tree(&self.dir)
    }
}

/// mmdebstrap announces its steps as `I: installing essential packages...`.
fn tell(progress: &dyn Progress, line: &str) {
    let step = line
        .strip_prefix("I: ")
        .and_then(|rest| rest.strip_suffix("..."));
    match step.and_then(capitalised) {
        Some(step) => progress.phase(&step),
        None => progress.detail(line),
    }
}

fn capitalised(step: &str) -> Option<String> {
    let first = step.chars().next()?;
    Some(format!(
        "{}{}",
        first.to_uppercase(),
        &step[first.len_utf8()..]
    ))
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .at("write", path)?;
    writeln!(file, "{secret}").at("write", path)
}
