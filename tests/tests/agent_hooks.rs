//! The initramfs hooks of all generators bring a machine to its root, hand the network over, and leave the agent in
//! peace; the tmpfs overlay spares the disk; and none of it takes longer than Debian's own hook.

use std::path::{Path, PathBuf};

use bootroom_tests::guest::disk::{DiskServer, assert_clean, free_port};
use bootroom_tests::guest::lab::{Lab, Maker};
use bootroom_tests::guest::{Guest, HOST, Hardware, root};
use tempfile::TempDir;

/// As bootroom's boot script writes it.
const STATIC: &str = "ip=10.0.2.15::10.0.2.2:255.255.255.0:guest::none BOOTIF=01-52-54-00-12-34-56";
/// The card that QEMU gives a machine that is told nothing else.
const MAC: &str = "52:54:00:12:34:56";

/// A root disk, its server, and what a machine needs to boot from it.
struct Stage {
    server: DiskServer,
    image: PathBuf,
    port: u16,
    kernel: PathBuf,
    initrd: PathBuf,
    _directory: TempDir,
}

impl Stage {
    fn new(maker: Maker) -> Self {
        let lab = Lab::get();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("disk.img");
        root::make(&image, 64);
        let port = free_port();
        Self {
            server: DiskServer::start(&image, port, &["--name", "disk"]),
            image,
            port,
            kernel: lab.kernel(),
            initrd: lab.initrd(maker),
            _directory: directory,
        }
    }

    fn boot(&self, network: &str, more: &str) -> Guest {
        let append = format!(
            "root=/dev/nbd0 nbdroot={HOST}:{}/disk {network} {more}",
            self.port
        );
        Guest::boot_root(&Hardware {
            append,
            memory: 512,
            ..Hardware::new(&self.kernel, &self.initrd)
        })
    }
}

/// Boots once with this maker's image, looks at all that the hook has to leave behind, and takes the server away.
fn comes_to_its_root(maker: Maker, network: &str) {
    let mut stage = Stage::new(maker);
    let mut guest = stage.boot(network, "rw");
    let root = guest.run("grep ' / ' /proc/mounts | tail -1");
    assert!(root.starts_with("/dev/nbd0 / ext4 rw"), "{root}");
    interface_is_left_alone(&mut guest);
    agent_is_at_peace(&mut guest);
    guest.start_load("/load");
    stage.server.kill();
    stage.server.up();
    guest.wait_for_writes(10);
    let [_, errors, wrong] = guest.stop_load().done.unwrap();
    assert_eq!((errors, wrong), (0, 0));
    let mounted = guest.run("cat /run/mounted");
    println!("{maker:?}: root reached {mounted} s after the kernel's start");
    guest.run("sync; mount -o remount,ro /");
    drop(guest);
    stage.server.stop();
    assert_clean(&stage.image);
}

/// The managers are told, and the address has no end.
fn interface_is_left_alone(guest: &mut Guest) {
    let told = guest.run(
        "cat /run/systemd/network/00-bootroom.network /run/NetworkManager/conf.d/00-bootroom.conf",
    );
    assert_eq!(told.matches(MAC).count(), 2, "{told}");
    let interface = guest.run("cat /run/bootroom/interface");
    let addresses = guest.run(&format!("ip -4 address show dev {interface}"));
    assert!(addresses.contains("inet 10.0.2.15/24"), "{addresses}");
    assert!(!addresses.contains("dynamic"), "{addresses}");
}

/// After switch_root: small, locked, and with nothing of the root in its hands.
fn agent_is_at_peace(guest: &mut Guest) {
    let agent = "cd $(grep -l '^@bootroom' /proc/[0-9]*/cmdline | head -1 | sed 's,/cmdline,,')";
    let memory = guest.run(&format!("{agent} && grep -E 'VmRSS|VmLck' status"));
    let resident: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next())
        .and_then(|kb| kb.parse().ok())
        .unwrap();
    assert!(resident < 4096, "{memory}");
    let device = guest.run("stat -c %d /");
    let held = guest.run(&format!(
        "{agent}; for f in fd/* exe; do [ \"$(stat -L -c %d $f)\" != {device} ] || readlink $f; done; \
         awk '{{ print $4, $6 }}' maps | grep \"^$(printf '%02x:%02x' $(stat -c '0x%t 0x%T' /dev/nbd0)) \" || :"
    ));
    assert_eq!(held, "", "held open on the root");
}

#[test]
#[ignore = "long: make test-full"]
fn mkinitcpios_hook_comes_to_its_root() {
    comes_to_its_root(Maker::Mkinitcpio, STATIC);
}

#[test]
#[ignore = "long: make test-full"]
fn initramfs_tools_comes_to_its_root() {
    comes_to_its_root(Maker::InitramfsTools, STATIC);
}

#[test]
#[ignore = "long: make test-full"]
fn dracut_with_networkd_comes_to_its_root() {
    comes_to_its_root(Maker::DracutNetworkd, STATIC);
}

#[test]
#[ignore = "long: make test-full"]
fn dracut_with_dhclient_comes_to_its_root() {
    comes_to_its_root(Maker::DracutLegacy, "ip=dhcp");
}

#[test]
#[ignore = "long: make test-full"]
fn dracut_with_networkmanager_comes_to_its_root() {
    comes_to_its_root(Maker::DracutNetworkManager, "ip=dhcp");
}

/// `bootroom.overlay=tmpfs`: the machine may write as much as it is allowed to, and the disk does not change by a bit.
fn overlay_spares_the_disk(maker: Maker) {
    let stage = Stage::new(maker);
    let before = std::fs::read(&stage.image).unwrap();
    // systemd, which runs dracut's initramfs, would check the filesystem and note that it did.
    let mut guest = stage.boot(STATIC, "ro bootroom.overlay=tmpfs:size=20M fsck.mode=skip");
    let root = guest.run("grep ' / ' /proc/mounts | tail -1");
    assert!(root.contains("overlay rw"), "{root}");
    assert_eq!(
        guest.run("echo changed >/etc/os-release; cat /etc/os-release"),
        "changed"
    );
    guest.run("rm /sbin/bootroom-attach; mkdir /home; dd if=/dev/zero of=/home/x bs=1M count=10");
    let full = guest.try_run("dd if=/dev/zero of=/home/y bs=1M count=20");
    assert!(
        full.status != 0 && full.text.contains("No space"),
        "{full:?}"
    );
    guest.run("sync");
    drop(guest);
    assert!(
        std::fs::read(&stage.image).unwrap() == before,
        "the disk was written to"
    );
}

#[test]
#[ignore = "long: make test-full"]
fn an_overlay_of_memory_spares_the_disk() {
    for maker in [
        Maker::InitramfsTools,
        Maker::Mkinitcpio,
        Maker::DracutNetworkd,
    ] {
        overlay_spares_the_disk(maker);
    }
}

/// Kernel's start to the root's first program, in seconds.
fn boot_time(stage: &Stage) -> f64 {
    let mut guest = stage.boot(STATIC, "rw");
    guest.run("cat /run/mounted").parse().unwrap()
}

#[test]
#[ignore = "long: make test-full"]
fn the_hook_is_not_slower_than_debians_own() {
    let (ours, stock) = (
        Stage::new(Maker::InitramfsTools),
        Stage::new(Maker::NbdClient),
    );
    let mut times: [Vec<f64>; 2] = Default::default();
    // In turn, so that whatever else the computer does hits both alike.
    for _ in 0..3 {
        times[0].push(boot_time(&ours));
        times[1].push(boot_time(&stock));
    }
    let [ours, stock] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        println!("{times:?}");
        times[1]
    });
    println!("kernel's start to the root: bootroom {ours:.2} s, nbd-client {stock:.2} s");
    assert!(ours < stock * 1.1, "{ours} s, and nbd-client's {stock} s");
}

#[test]
fn the_agent_is_small_and_static() {
    let agent = bootroom_tests::guest::agent();
    let size = agent.metadata().unwrap().len();
    println!("{size} bytes");
    assert!(size < 3_000_000, "{size} bytes");
    assert_eq!(program_headers(agent, 3), 0, "it names a dynamic linker");
}

/// How many program headers of this type an ELF file has (System V ABI, figure 5-1, 64 bits).
fn program_headers(file: &Path, wanted: u32) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let number = |at: usize, length: usize| {
        bytes[at..at + length]
            .iter()
            .rev()
            .fold(0, |n: usize, &b| n << 8 | usize::from(b))
    };
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count)
        .filter(|n| number(first + n * size, 4) == wanted as usize)
        .count()
}
