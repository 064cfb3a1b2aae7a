//! One agent holds several disks: a filesystem, a second one, and swap that is in use.

use std::path::Path;
use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::guest::disk::{DiskServer, assert_clean, free_port, make_ext4};
use bootroom_tests::guest::{Guest, HOST};

/// Prints more than the guest has memory for: two megabytes, ninety-five times, and slowly: this is no test of the OOM killer.
const FILL: &str = "for i in $(seq 95); do cat /bin/busybox; sleep 0.1; done";

/// How long memory may take to come back, once all servers have. The disks have little to do with it: the guest's one emulated
/// processor has no idle moment by then, and on a host that had other work it needed between one minute and three and a half.
const SWAPPED_IN: Duration = Duration::from_secs(300);

fn serve(directory: &Path, name: &str, megabytes: u64) -> DiskServer {
    let image = directory.join(name);
    make_ext4(&image, megabytes);
    DiskServer::start(&image, free_port(), &["--name", name])
}

#[test]
fn one_agent_holds_a_root_a_data_disk_and_swap() {
    holds_three(false);
}

#[test]
#[ignore = "long: make test-full"]
fn swap_comes_back_too() {
    holds_three(true);
}

fn holds_three(swapping: bool) {
    let directory = tempfile::tempdir().unwrap();
    let mut servers = [("root", 64), ("data", 64), ("swap", 256)]
        .map(|(name, megabytes)| serve(directory.path(), name, megabytes));
    let mut guest = Guest::boot(&[]);
    let disks: Vec<String> = (0..)
        .zip(["root", "data", "swap"])
        .zip(&servers)
        .map(|((n, name), server)| format!("nbd://{HOST}:{}/{name} /dev/nbd{n}", server.port()))
        .collect();
    guest.run(&format!("bootroom-attach {}", disks.join(" ")));
    assert_eq!(
        guest.run("grep -l '^@bootroom' /proc/[0-9]*/cmdline | wc -l"),
        "1"
    );
    guest.run("dmesg -n 1; mkdir /data; mount /dev/nbd0 /mnt && mount /dev/nbd1 /data");
    guest.run("mkswap /dev/nbd2 >/dev/null && swapon /dev/nbd2");
    guest.start_load("/mnt/load");

    one_away_does_not_stop_another(&mut guest, &mut servers[1]);
    if swapping {
        fill_memory(&mut guest);
        all_away_while_swap_is_needed(&mut guest, &mut servers);
    } else {
        servers.iter_mut().for_each(DiskServer::kill);
        servers.iter_mut().for_each(DiskServer::up);
        guest.wait_for_writes(10);
    }

    let [operations, errors, wrong] = guest.stop_load().done.unwrap();
    assert_eq!((errors, wrong), (0, 0), "of {operations}");
    assert_eq!(
        guest.run("dmesg | grep -iE 'i/o error|out of memory|Remounting' || :"),
        ""
    );
    guest.run("rm -f /tmp/a; umount /mnt /data; swapoff /dev/nbd2; sync");
    servers.iter_mut().for_each(DiskServer::stop);
    for name in ["root", "data"] {
        assert_clean(&directory.path().join(name));
    }
}

/// Fills memory until some of it is on the swap disk. What works beside the shell is no child of it: when such a child ended,
/// busybox's shell ended as well in five runs of six, and once took a typed command with it.
fn fill_memory(guest: &mut Guest) {
    guest.run("mount -t tmpfs -o size=300M big /tmp");
    guest.run(&format!(
        "({{ {{ {FILL}; }} >/tmp/a; touch /run/filled; }} &)"
    ));
    wait_for("memory to be full", Duration::from_secs(120), || {
        (guest.try_run("test -e /run/filled").status == 0).then_some(())
    });
    let swapped: u64 = guest
        .run("awk 'END { print $4 }' /proc/swaps")
        .parse()
        .unwrap();
    assert!(swapped > 10_000, "only {swapped} kB are on the swap disk");
}

/// The data disk's server is away: the root's load goes on as if nothing had happened.
fn one_away_does_not_stop_another(guest: &mut Guest, data: &mut DiskServer) {
    data.kill();
    guest.run("(date >/data/now; sync -f /data; touch /run/synced) & true");
    guest.wait_for_writes(20);
    assert_ne!(guest.try_run("test -e /run/synced").status, 0);
    data.up();
    guest.run("for i in $(seq 300); do test -e /run/synced && break; sleep 0.1; done; test -e /run/synced");
}

/// All servers are away while a program needs its memory back from the swap disk.
fn all_away_while_swap_is_needed(guest: &mut Guest, servers: &mut [DiskServer]) {
    servers.iter_mut().for_each(DiskServer::kill);
    guest.run("(md5sum </tmp/a >/run/sum &)");
    servers.iter_mut().for_each(DiskServer::up);
    guest.run(&format!("({{ {FILL}; }} | md5sum >/run/wanted &)"));
    wait_for("memory to come back", SWAPPED_IN, || {
        let look = guest.try_run("sleep 1; test -s /run/sum && test -s /run/wanted");
        (look.status == 0).then_some(())
    });
    assert_eq!(
        guest.run("cat /run/sum"),
        guest.run("cat /run/wanted"),
        "memory came back other than it went"
    );
    guest.wait_for_writes(10);
}
