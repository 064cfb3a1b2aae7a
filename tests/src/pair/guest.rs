//! A real machine of the pair: QEMU with Debian's kernel, whose root is an ext4 on its disk, attached by the client agent.

use std::time::Duration;

use super::{LIMIT, Pair, Side, image};
use crate::deadline::wait_for;
use crate::guest::disk::assert_clean;
use crate::guest::{Guest, Hardware, LoadLog, root};

/// Megabytes of its root.
const ROOT: u64 = 64;
/// The image of it.
pub const IMAGE: &str = "root";

/// The machine, under load.
pub struct Machine {
    /// Its console.
    pub guest: Guest,
    export: String,
}

/// What happened to a server, and how long the machine stood still each time.
pub struct Pauses {
    /// For the table.
    pub event: &'static str,
    /// In the order in which they were.
    pub each: Vec<Duration>,
}

impl Pauses {
    /// The middle one.
    pub fn median(&self) -> Duration {
        let mut sorted = self.each.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }

    /// The longest one.
    pub fn longest(&self) -> Duration {
        self.each.iter().copied().max().unwrap_or_default()
    }

    /// A line of the table.
    pub fn print(&self) {
        println!(
            "{:44} n {:3}   p50 {:5.2} s   max {:5.2} s",
            self.event,
            self.each.len(),
            self.median().as_secs_f64(),
            self.longest().as_secs_f64()
        );
    }
}

/// Imports the machine's root into the data of the first primary.
pub fn import_root(pair: &Pair) {
    let disk = pair.path("root.disk");
    root::make(&disk, ROOT);
    image::import_disk(pair.host(Side::A), IMAGE, &disk);
}

impl Machine {
    /// Boots the machine `number`, called `name`, from its disk, and puts it under load.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn boot(pair: &Pair, number: u8, name: &str) -> Self {
        let seat = pair.seat(number);
        seat.lease();
        let primary = pair.primary().expect("somebody serves");
        let export = seat.export(primary.address(), name);
        drop(seat);
        let tap = format!("guest{number}");
        pair.switch.tap(&tap);
        let init = init(&export, primary, number);
        let mut guest = Guest::boot_as(&[("init", init.into_bytes())], |hardware| Hardware {
            network: format!("tap,ifname={tap},script=no,downscript=no"),
            namespace: Some(pair.switch.namespace()),
            ..hardware
        });
        let root = guest.run("grep ' / ' /proc/mounts | tail -1");
        assert!(root.starts_with("/dev/nbd0 / ext4 rw"), "{root}");
        guest.start_load("/load");
        Self { guest, export }
    }

    /// Something happens; returns how long the machine stood still.
    ///
    /// # Panics
    /// When it does not go on.
    pub fn survive(&mut self, happen: impl FnOnce()) -> Duration {
        self.guest.wait_for_writes(5);
        self.guest.clear_log();
        happen();
        self.guest.wait_for_writes(20);
        self.guest.load_log().longest()
    }

    /// The load's own verdict, the kernel's, and e2fsck's of the disk as `side` serves it.
    ///
    /// # Panics
    /// When one of them is bad.
    pub fn verdict(mut self, pair: &Pair, side: Side) -> LoadLog {
        let log = self.guest.stop_load();
        let [operations, errors, wrong] = log.done.expect("the load has ended");
        assert_eq!((errors, wrong), (0, 0), "{:?}", log.errors);
        assert!(operations > 20, "{operations} writes are not a load");
        let complaints = "dmesg | grep -iE 'i/o error|EXT4-fs (error|warning)|Remounting' || true";
        assert_eq!(self.guest.run(complaints), "");
        self.guest.run("sync; mount -o remount,ro /");
        drop(self.guest);
        let copy = pair.path("copy.disk");
        let uri = format!("nbd://{}/{}", side.address(), self.export);
        wait_for("a copy of the disk", LIMIT, || {
            let mut nbdcopy = pair.host(side).namespace().command("nbdcopy");
            let copied = nbdcopy.arg(&uri).arg(&copy).status().ok()?;
            copied.success().then_some(())
        });
        assert_clean(&copy);
        log
    }
}

/// What the initramfs does: what bootroom's hook does, with an address that is known.
fn init(export: &str, primary: Side, number: u8) -> String {
    let (first, second) = (primary.address(), primary.other().address());
    // Neither a server's nor one that is leased.
    let own = 50 + number;
    format!(
        "#!/bin/sh
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
for m in /lib/modules/*; do insmod $m 2>/dev/null; done
ip link set lo up; ip link set eth0 up; ip addr add 10.80.0.{own}/24 dev eth0
bootroom-attach nbd://{first}/{export} /dev/nbd0 --server {second}:10809
mount /dev/nbd0 /mnt
for m in dev proc sys run; do mount --move /$m /mnt/$m; done
exec switch_root /mnt /sbin/init </dev/console >/dev/console 2>&1
"
    )
}
