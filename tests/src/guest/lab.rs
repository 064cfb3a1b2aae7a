//! Initramfs images as the generators of a whole Debian system make them, with the client package's hooks in them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary;

/// Who makes the initramfs, and with whose hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// initramfs-tools, ours.
    InitramfsTools,
    /// initramfs-tools, the one of Debian's package nbd-client.
    NbdClient,
    /// dracut with its own network scripts and dhclient.
    DracutLegacy,
    /// dracut with systemd-networkd: what Debian's dracut takes by itself.
    DracutNetworkd,
    /// dracut with NetworkManager: what it takes where that is installed.
    DracutNetworkManager,
    /// A stand-in for mkinitcpio, which no Debian has: see `mkinitcpio.sh`.
    Mkinitcpio,
}

impl Maker {
    fn name(self) -> &'static str {
        match self {
            Self::InitramfsTools => "initramfs-tools",
            Self::NbdClient => "nbd-client",
            Self::DracutLegacy => "dracut-legacy",
            Self::DracutNetworkd => "dracut-networkd",
            Self::DracutNetworkManager => "dracut-networkmanager",
            Self::Mkinitcpio => "mkinitcpio",
        }
    }
}

/// The system, under `target/lab`. Made once; what depends on the client package, again whenever that is another one.
pub struct Lab {
    dir: PathBuf,
    /// Held while this lives: one test at a time works in the system.
    _lock: File,
}

impl Lab {
    /// The system with the client package installed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn get() -> Self {
        let dir = binary::target().join("lab");
        fs::create_dir_all(&dir).expect("target is writable");
        let lock = File::create(dir.join("lock")).expect("the lock can be made");
        lock.lock().expect("the lock can be taken");
        let lab = Self { dir, _lock: lock };
        lab.make_system();
        lab.install_client();
        lab
    }

    /// The kernel.
    ///
    /// # Panics
    /// When the system has none.
    pub fn kernel(&self) -> PathBuf {
        let boot = fs::read_dir(self.dir.join("system/boot")).expect("the system has /boot");
        boot.map(|entry| entry.expect("readable").path())
            .find(|path| path.to_string_lossy().contains("vmlinuz"))
            .expect("a kernel is installed")
    }

    /// The image of this maker.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn initrd(&self, maker: Maker) -> PathBuf {
        let image = self.dir.join(format!("{}.img", maker.name()));
        // The hooks of mkinitcpio are not in the package whose digest is looked at, and its image is made in no time.
        if !image.exists() || maker == Maker::Mkinitcpio {
            self.run(&["initrd", "system", maker.name(), path(&image)]);
        }
        image
    }

    /// A copy of a root disk with all of the system on it, at `to`. Its interface is `ens2`, which ifupdown,
    /// systemd-networkd and NetworkManager are all set up to run a DHCP client on.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn disk(&self, to: &Path) {
        let disk = self.dir.join("disk.img");
        if !disk.exists() {
            self.run(&["disk", "system", path(&disk)]);
        }
        let copied = Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .args([&disk, to])
            .status();
        assert!(copied.expect("cp runs").success());
    }

    fn make_system(&self) {
        if !self.dir.join("system").exists() {
            let _ = fs::remove_dir_all(self.dir.join("new"));
            self.run(&["system", "new"]);
            fs::rename(self.dir.join("new"), self.dir.join("system")).expect("a rename");
        }
    }

    fn install_client(&self) {
        let package = binary::target().join("deb/bootroom-client.deb");
        let (stamp, digest) = (self.dir.join("stamp"), crate::image::client_digest());
        if fs::read_to_string(&stamp).ok().as_ref() == Some(&digest) {
            return;
        }
        for maker in [
            Maker::InitramfsTools,
            Maker::DracutLegacy,
            Maker::DracutNetworkd,
            Maker::DracutNetworkManager,
            Maker::Mkinitcpio,
        ] {
            let _ = fs::remove_file(self.dir.join(format!("{}.img", maker.name())));
        }
        let _ = fs::remove_file(self.dir.join("disk.img"));
        self.run(&["client", "system", path(&package)]);
        fs::write(&stamp, digest).expect("the stamp can be written");
    }

    fn run(&self, arguments: &[&str]) {
        let script = binary::workspace().join("tests/src/guest/lab.sh");
        let (log, errors) = (
            File::create(self.dir.join("log")).expect("the log can be made"),
            File::options()
                .append(true)
                .open(self.dir.join("log"))
                .expect("the log is there"),
        );
        let status = Command::new(script)
            .args(arguments)
            .current_dir(&self.dir)
            .stdout(log)
            .stderr(errors)
            .status()
            .expect("sh runs");
        let said = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(status.success(), "lab.sh {arguments:?}: {}", said());
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("target has a plain name")
}
