//! Linux's own client, by netlink on four connections and by ioctl on one: a filesystem is made, mounted, worked on
//! with every block verified, trimmed and unmounted, and e2fsck finds nothing to say. One guest for all.

use std::path::Path;
use std::process::Command;

use bootroom_tests::guest::disk::{DiskServer, assert_clean, free_port};
use bootroom_tests::guest::initramfs::program;
use bootroom_tests::guest::{Guest, HOST};

/// What the load has to write at least: each of its writes is synced, and read back past the page cache.
const WRITES: u64 = 50;

/// A disk that is served, and how to get what it holds into a file.
struct Disk {
    server: DiskServer,
    port: u16,
}

impl Disk {
    fn serve(image: &Path, options: &[&str]) -> Self {
        let file = std::fs::File::create(image).unwrap();
        file.set_len(96 << 20).unwrap();
        let port = free_port();
        let server = DiskServer::start(image, port, options);
        Self { server, port }
    }

    /// Reads it through NBD, and has e2fsck judge.
    fn judge(mut self, copy: &Path) {
        let uri = format!("nbd://127.0.0.1:{}", self.port);
        let copied = Command::new("nbdcopy").arg(uri).arg(copy).status();
        assert!(copied.expect("nbdcopy runs").success());
        self.server.stop();
        assert_clean(copy);
    }
}

/// A life of a disk on the guest: from mkfs to the last flush.
fn live(guest: &mut Guest, attach: &str) {
    guest.run(attach);
    guest.run("mkfs.ext4 -q -F /dev/nbd0");
    guest.run("mount -o discard /dev/nbd0 /mnt");
    guest.run("dd if=/dev/urandom of=/mnt/noise bs=64k count=320 2>/dev/null && sync");
    let before = guest.run("md5sum < /mnt/noise");
    guest.start_load("/mnt/load");
    guest.wait_for_writes(WRITES);
    let log = guest.stop_load();
    let [writes, errors, wrong] = log.done.expect("the load has ended");
    assert!(writes >= WRITES && (errors, wrong) == (0, 0), "{log:?}");
    guest.run("cp /mnt/noise /mnt/again && rm /mnt/load && sync && fstrim /mnt");
    // Mounted anew, past the page cache.
    guest.run("umount /mnt && echo 3 > /proc/sys/vm/drop_caches && mount /dev/nbd0 /mnt");
    assert_eq!(guest.run("md5sum < /mnt/noise"), before);
    assert_eq!(guest.run("md5sum < /mnt/again"), before);
    let complaints =
        "dmesg | grep -iE 'i/o error|EXT4-fs (error|warning)|nbd.*(timed out|Receive)' || true";
    assert_eq!(guest.run(complaints), "");
    guest.run("umount /mnt && sync && nbd-client -d /dev/nbd0 >/dev/null 2>&1");
}

#[test]
fn linux_makes_uses_and_leaves_a_filesystem() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let path = |name: &str| directory.path().join(name);
    let files = program("sbin/mkfs.ext4", Path::new("/sbin/mke2fs"));
    let files: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.clone()))
        .collect();
    let mut guest = Guest::boot(&files);

    let disk = Disk::serve(&path("file.img"), &["--name", "disk"]);
    let netlink = format!(
        "nbd-client -N disk {HOST} {} /dev/nbd0 -C 4 >/dev/null 2>&1",
        disk.port
    );
    live(&mut guest, &netlink);
    disk.judge(&path("file.copy"));

    let overlay = path("overlay");
    let disk = Disk::serve(&path("base.img"), &["--overlay", overlay.to_str().unwrap()]);
    let ioctl = format!(
        "nbd-client -nonetlink -N '' {HOST} {} /dev/nbd0 >/dev/null 2>&1",
        disk.port
    );
    live(&mut guest, &ioctl);
    disk.judge(&path("overlay.copy"));
}
