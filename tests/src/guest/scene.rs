//! A guest whose disk is under load, a server to do things to, and the verdict afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::disk::{DiskServer, assert_clean, free_port, make_ext4};
use super::{Guest, HOST, LoadLog};

/// How soon after the server listens again the load has to go on.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// What is special about a scene.
#[derive(Default)]
pub struct Special<'a> {
    /// The ports that the agent is told, in order; empty: the server's.
    pub ports: Vec<u16>,
    /// `nbds` instead of `nbd`.
    pub tls: bool,
    /// Further options of `bootroom export`.
    pub server: Vec<&'a str>,
    /// Further files of the guest.
    pub files: Vec<(&'a str, Vec<u8>)>,
}

/// The scene.
pub struct Scene {
    /// The machine.
    pub guest: Guest,
    /// The server of its disk.
    pub server: DiskServer,
    /// The disk.
    pub image: PathBuf,
    /// The server's port.
    pub port: u16,
    _directory: TempDir,
}

impl Scene {
    /// A disk on a server at `port`, and a guest that has it attached by the agent and mounted, under load.
    ///
    /// # Panics
    /// When any of it does not come up.
    pub fn new(port: u16, special: &Special<'_>) -> Self {
        let mut scene = Self::unattached(port, special);
        let ports = if special.ports.is_empty() {
            &[port][..]
        } else {
            &special.ports
        };
        let scheme = if special.tls { "nbds" } else { "nbd" };
        let more: Vec<String> = ports[1..]
            .iter()
            .map(|p| format!("--server {HOST}:{p}"))
            .collect();
        let command = format!(
            "bootroom-attach {scheme}://{HOST}:{}/disk /dev/nbd0 {}",
            ports[0],
            more.join(" ")
        );
        scene.begin(&command);
        scene
    }

    /// The same, with nothing attached yet.
    ///
    /// # Panics
    /// When any of it does not come up.
    pub fn unattached(port: u16, special: &Special<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("disk.img");
        make_ext4(&image, 64);
        let mut options = vec!["--name", "disk"];
        options.extend(&special.server);
        let server = DiskServer::start(&image, port, &options);
        Self {
            guest: Guest::boot(&special.files),
            server,
            image,
            port,
            _directory: directory,
        }
    }

    /// Attaches the disk by `command`, mounts it, starts the load.
    ///
    /// # Panics
    /// When any of it fails.
    pub fn begin(&mut self, command: &str) {
        self.guest.run(command);
        self.guest.run("mount /dev/nbd0 /mnt");
        self.guest.start_load("/mnt/load");
    }

    /// With the agent, and nothing special.
    pub fn simple() -> Self {
        Self::new(free_port(), &Special::default())
    }

    /// Something happens; afterwards the load must go on, within two seconds. Prints a row of the table of pauses.
    ///
    /// # Panics
    /// When it does not.
    pub fn pause(&mut self, what: &str, event: impl FnOnce(&mut Self)) -> Duration {
        self.guest.wait_for_writes(5);
        self.guest.clear_log();
        let begun = Instant::now();
        event(self);
        let away = begun.elapsed();
        self.guest.wait_for_writes(20);
        let pause = self.guest.load_log().longest();
        println!(
            "{what:40} away {:6.1} s  pause {:6.1} s",
            away.as_secs_f64(),
            pause.as_secs_f64()
        );
        let late = pause > away + BACK_WITHIN;
        let said = if late {
            self.guest.run("dmesg | tail -12")
        } else {
            String::new()
        };
        assert!(
            !late,
            "{what}: paused for {pause:?}, away for {away:?}; the kernel's last words:\n{said}"
        );
        pause
    }

    /// The load's own verdict, the kernel's, and e2fsck's.
    ///
    /// # Panics
    /// When one of them is bad.
    pub fn verdict(mut self) -> LoadLog {
        let log = self.guest.stop_load();
        let [operations, errors, wrong] = log.done.expect("the load has ended");
        assert_eq!((errors, wrong), (0, 0), "{:?}", log.errors);
        assert!(operations > 20, "{operations} writes are not a load");
        let complaints = "dmesg | grep -iE 'i/o error|EXT4-fs (error|warning)|Remounting' || true";
        assert_eq!(self.guest.run(complaints), "");
        self.guest.run("umount /mnt && sync");
        self.server.stop();
        assert_clean(&self.image);
        log
    }
}
