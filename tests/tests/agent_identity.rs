//! The hooks of all generators put a machine's identity into its root before anything runs there, whether that root is
//! mounted read-only or lies under a layer of memory, and leave nothing of it behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bootroom_tests::guest::disk::{DiskServer, assert_clean, free_port};
use bootroom_tests::guest::lab::{Lab, Maker};
use bootroom_tests::guest::{Guest, HOST, Hardware, root};
use tempfile::TempDir;

const NETWORK: &str =
    "ip=10.0.2.15::10.0.2.2:255.255.255.0:guest::none BOOTIF=01-52-54-00-12-34-56";
const KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

/// A root disk, and initrds with an identity behind each maker's own.
struct Stage {
    server: DiskServer,
    image: PathBuf,
    port: u16,
    identity: PathBuf,
    directory: TempDir,
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (image, port) = (directory.path().join("disk.img"), free_port());
        root::make(&image, 64);
        Self {
            server: DiskServer::start(&image, port, &["--name", "disk"]),
            image,
            port,
            identity: identity(directory.path()),
            directory,
        }
    }

    fn boot(&self, maker: Maker, more: &str) -> Guest {
        let (lab, initrd) = (Lab::get(), self.directory.path().join("initrd"));
        let mut both = fs::read(lab.initrd(maker)).unwrap();
        both.extend(fs::read(&self.identity).unwrap());
        fs::write(&initrd, both).unwrap();
        let append = format!(
            "root=/dev/nbd0 nbdroot={HOST}:{}/disk {NETWORK} {more}",
            self.port
        );
        Guest::boot_root(&Hardware {
            append,
            memory: 512,
            ..Hardware::new(&lab.kernel(), &initrd)
        })
    }
}

/// What the server would send, packed by other programs than the server's.
fn identity(directory: &Path) -> PathBuf {
    let top = directory.join("bootroom.identity");
    fs::create_dir_all(top.join("ssh")).unwrap();
    for (name, content) in [
        ("hostname", "r12-01\n"),
        ("machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("ssh/ssh_host_ed25519_key", "private"),
        ("ssh/ssh_host_ed25519_key.pub", "public"),
    ] {
        fs::write(top.join(name), content).unwrap();
    }
    let packed = directory.join("identity.gz");
    let pack = "find bootroom.identity | cpio --quiet -o -H newc | gzip > identity.gz";
    let done = Command::new("sh")
        .args(["-c", pack])
        .current_dir(directory)
        .stdin(Stdio::null())
        .status();
    assert!(done.expect("cpio and gzip run").success());
    packed
}

fn has_identity(guest: &mut Guest) {
    assert_eq!(guest.run("cat /etc/hostname"), "r12-01");
    assert!(
        guest
            .run("cat /etc/machine-id")
            .starts_with("0123456789abcdef")
    );
    assert_eq!(guest.run(&format!("cat {KEY} {KEY}.pub")), "privatepublic");
    let modes = guest.run(&format!("stat -c %a:%u {KEY} {KEY}.pub /etc/machine-id"));
    assert_eq!(
        modes.split_whitespace().collect::<Vec<_>>(),
        ["600:0", "644:0", "444:0"]
    );
    assert_eq!(
        guest.run("ls -d /run/bootroom*/*identity* /bootroom* 2>/dev/null | cat"),
        ""
    );
}

#[test]
#[ignore = "long: make test-full"]
fn a_root_that_is_mounted_read_only_gets_it_and_stays_so() {
    for maker in [
        Maker::InitramfsTools,
        Maker::Mkinitcpio,
        Maker::DracutNetworkd,
    ] {
        let mut stage = Stage::new();
        let mut guest = stage.boot(maker, "ro");
        has_identity(&mut guest);
        let root = guest.run("grep ' / ' /proc/mounts | tail -1");
        assert!(root.starts_with("/dev/nbd0 / ext4 ro"), "{maker:?}: {root}");
        drop(guest);
        stage.server.stop();
        assert_clean(&stage.image);
    }
}

#[test]
#[ignore = "long: make test-full"]
fn under_a_layer_of_memory_it_does_not_reach_the_disk() {
    let stage = Stage::new();
    let before = fs::read(&stage.image).unwrap();
    let mut guest = stage.boot(Maker::InitramfsTools, "ro bootroom.overlay=tmpfs");
    has_identity(&mut guest);
    drop(guest);
    assert!(
        fs::read(&stage.image).unwrap() == before,
        "the disk was written to"
    );
}
