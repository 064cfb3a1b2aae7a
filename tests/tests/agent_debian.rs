//! A whole Debian with systemd on a network disk: its network managers leave the interface alone, TLS is the kernel's,
//! and it goes down in bounded time whether or not there is a server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bootroom_tests::guest::disk::{DiskServer, assert_clean, free_port};
use bootroom_tests::guest::initramfs::Archive;
use bootroom_tests::guest::lab::{Lab, Maker};
use bootroom_tests::guest::pki::pki;
use bootroom_tests::guest::{Guest, HOST, Hardware};
use tempfile::TempDir;

/// How long a Debian without its disk may take to end: the agent's patience is 30 s, systemd needs its own time.
const END_WITHOUT_SERVER: Duration = Duration::from_secs(90);
/// The same with its disk.
const END: Duration = Duration::from_secs(120);

struct Stage {
    server: DiskServer,
    image: PathBuf,
    guest: Guest,
    _directory: TempDir,
}

impl Stage {
    /// Boots with this scheme and further parameters; `certificates` is the server's, with which the root is encrypted.
    fn boot(parameters: &str, certificates: Option<&Path>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (image, initrd) = (
            directory.path().join("disk.img"),
            directory.path().join("initrd"),
        );
        let lab = Lab::get();
        lab.disk(&image);
        std::fs::copy(lab.initrd(Maker::InitramfsTools), &initrd).unwrap();
        let mut options = vec!["--name", "disk"];
        if let Some(pki) = certificates {
            append_authority(&initrd, &pki.join("ca.pem"));
            options.extend(["--tls", "required", "--pki", pki.to_str().unwrap()]);
        }
        let scheme = certificates.map_or("nbd", |_| "nbds");
        let port = free_port();
        let server = DiskServer::start(&image, port, &options);
        let append = format!(
            "root=/dev/nbd0 nbdroot={scheme}://{HOST}:{port}/disk systemd.hostname=guest \
             ip=10.0.2.15::10.0.2.2:255.255.255.0:guest::none BOOTIF=01-52-54-00-12-34-56 {parameters}"
        );
        let mut guest = Guest::power_on(&Hardware {
            append,
            memory: 512,
            ..Hardware::new(&lab.kernel(), &initrd)
        });
        drop(lab);
        guest.log_in("guest");
        Self {
            server,
            image,
            guest,
            _directory: directory,
        }
    }

    /// The server goes away, something tells systemd to end the machine: it must not take for ever.
    fn ends_without_server(mut self, signal: &str) {
        self.server.kill();
        let begun = Instant::now();
        // What the power button and Ctrl-Alt-Del come to (systemd(1), "Signals"), by a builtin of the shell: nothing
        // can be read from the disk any more.
        self.guest.type_line(&format!("kill -s {signal} 1"));
        self.guest.wait_for_end(END_WITHOUT_SERVER);
        println!(
            "{signal} without a server: ended after {:.1} s",
            begun.elapsed().as_secs_f64()
        );
    }
}

/// A second archive behind the first: the kernel unpacks both.
fn append_authority(initrd: &Path, authority: &Path) {
    let mut archive = Archive::default();
    for directory in ["etc", "etc/bootroom", "etc/bootroom/tls"] {
        archive.directory(directory);
    }
    archive.file(
        "etc/bootroom/tls/ca.pem",
        &std::fs::read(authority).unwrap(),
    );
    let mut bytes = std::fs::read(initrd).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(archive.finish());
    std::fs::write(initrd, bytes).unwrap();
}

/// Three managers are set up to run DHCP on the interface; none may, not even when it is started again.
fn managers_leave_the_interface_alone(guest: &mut Guest) {
    let restart = "systemctl restart networking systemd-networkd NetworkManager";
    guest.run(&format!(
        "{restart}; udevadm trigger --settle --action=add --subsystem-match=net"
    ));
    let networkd = guest.run("networkctl list --no-legend ens2");
    assert!(networkd.contains("unmanaged"), "{networkd}");
    let manager = guest.run("nmcli -g GENERAL.STATE device show ens2");
    assert!(manager.contains("unmanaged"), "{manager}");
    assert_eq!(
        guest.run("systemctl is-enabled ifup@ens2 || :"),
        "masked-runtime"
    );
    assert_eq!(guest.try_run("pgrep -l dhc").text, "", "a DHCP client runs");
    let addresses = guest.run("ip -4 -o address show dev ens2");
    assert_eq!(addresses.lines().count(), 1, "{addresses}");
    assert!(
        addresses.contains("10.0.2.15/24") && addresses.contains("valid_lft forever"),
        "{addresses}"
    );
}

#[test]
#[ignore = "long: make test-full"]
fn an_encrypted_root_rides_through_restarts_and_ends_without_its_server() {
    let pki = pki();
    let mut stage = Stage::boot("rw", Some(pki.path()));
    let root = stage.guest.run("findmnt -n -o SOURCE,FSTYPE /");
    assert_eq!(
        root.split_whitespace().collect::<Vec<_>>(),
        ["/dev/nbd0", "ext4"]
    );
    let in_use = "awk '/TlsCurr(Tx|Rx)/ { n += $2 } END { print n }' /proc/net/tls_stat";
    assert_eq!(
        stage.guest.run(in_use),
        "2",
        "the kernel encrypts both ways"
    );
    managers_leave_the_interface_alone(&mut stage.guest);
    for _ in 0..2 {
        stage.server.kill();
        stage.server.up();
        stage.guest.run("date >/root/now && sync");
    }
    let complaints = "dmesg | grep -iE 'i/o error|EXT4-fs (error|warning)|Remounting' || :";
    assert_eq!(stage.guest.run(complaints), "");
    stage.ends_without_server("RTMIN+4");
}

#[test]
#[ignore = "long: make test-full"]
fn an_overlay_of_memory_ends_without_its_server_too() {
    let mut stage = Stage::boot("ro bootroom.overlay=tmpfs:size=64M", None);
    let before = std::fs::metadata(&stage.image).unwrap().modified().unwrap();
    stage
        .guest
        .run("dd if=/dev/zero of=/root/x bs=1M count=8 && sync");
    let after = std::fs::metadata(&stage.image).unwrap().modified().unwrap();
    assert_eq!(before, after, "the disk was written to");
    stage.ends_without_server("INT");
}

#[test]
#[ignore = "long: make test-full"]
fn an_orderly_end_is_not_held_up_and_leaves_a_clean_disk() {
    let mut stage = Stage::boot("rw", None);
    stage
        .guest
        .run("dd if=/dev/urandom of=/root/x bs=1M count=8");
    let begun = Instant::now();
    stage.guest.type_line("systemctl poweroff");
    stage.guest.wait_for_end(END);
    println!("poweroff: {:.1} s", begun.elapsed().as_secs_f64());
    stage.server.stop();
    assert_clean(&stage.image);
}
