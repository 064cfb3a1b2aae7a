//! A guest whose disk is under load, a server to do things to, and the verdict afterwards.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::disk::{DiskServer, assert_clean, free_port, make_ext4};
use super::outage::Outage;
use super::relay::Relay;
use super::{Guest, HOST, LoadLog};

/// What TLS may take in addition: its handshake takes about a second on an emulated processor.
const HANDSHAKE: Duration = Duration::from_secs(2);

/// What is special about a scene.
#[derive(Default)]
pub struct Special<'a> {
    /// Put a relay between machine and server, which can reset connections.
    pub relay: bool,
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
    /// The server's port, or that of the relay in front of it: what the machine is told.
    pub port: u16,
    /// The port where the server is when it has moved: the agent's second.
    pub second: u16,
    /// The relay, if there is one.
    pub relay: Option<Relay>,
    handshake: Duration,
    _directory: TempDir,
}

impl Scene {
    /// A served disk, and a guest that has it attached by the agent and mounted, under load.
    ///
    /// # Panics
    /// When any of it does not come up.
    pub fn new(special: &Special<'_>) -> Self {
        let mut scene = Self::unattached(special);
        let scheme = if special.tls { "nbds" } else { "nbd" };
        let (port, second) = (scene.port, scene.second);
        scene.begin(&format!(
            "bootroom-attach {scheme}://{HOST}:{port}/disk /dev/nbd0 --server {HOST}:{second}"
        ));
        scene
    }

    /// The same, with nothing attached yet.
    ///
    /// # Panics
    /// When any of it does not come up.
    pub fn unattached(special: &Special<'_>) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let image = directory.path().join("disk.img");
        make_ext4(&image, 64);
        let mut options = vec!["--name", "disk"];
        options.extend(&special.server);
        let port = free_port();
        let server = DiskServer::start(&image, port, &options);
        let relay = special
            .relay
            .then(|| Relay::new(([127, 0, 0, 1], port).into()));
        Self {
            guest: Guest::boot(&special.files),
            server,
            image,
            port: relay.as_ref().map_or(port, Relay::port),
            second: free_port(),
            relay,
            handshake: if special.tls {
                HANDSHAKE
            } else {
                Duration::ZERO
            },
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
        Self::new(&Special::default())
    }

    /// Something happens; afterwards the load must go on, soon enough. Prints a row of the
    /// table of pauses.
    ///
    /// # Panics
    /// When it does not.
    pub fn survive(&mut self, outage: &Outage) -> Duration {
        let what = outage.name;
        self.guest.wait_for_writes(5);
        self.guest.clear_log();
        let begun = Instant::now();
        (outage.happen)(self);
        let away = begun.elapsed();
        self.guest.wait_for_writes(20);
        let pause = self.guest.load_log().longest();
        println!(
            "{what:40} away {:6.1} s  pause {:6.1} s",
            away.as_secs_f64(),
            pause.as_secs_f64()
        );
        let late = pause > away + outage.back_within + self.handshake;
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
