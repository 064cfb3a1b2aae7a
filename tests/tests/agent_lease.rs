//! The lease of the address that the root disk hangs on is extended for as long as the machine runs, by the agent, at
//! a DHCP server that is not ours; one that gives the address away is complained about, and nothing else.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use bootroom_tests::guest::disk::make_ext4;
use bootroom_tests::guest::{Guest, Hardware};
use bootroom_tests::namespace::Namespace;

const MAC: &str = "52:54:00:12:34:56";

/// A child that is gone with the test.
struct Mortal(Child);

impl Mortal {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn network() -> Namespace {
    let namespace = Namespace::new();
    namespace.ip("tuntap add tap0 mode tap");
    namespace.ip("address add 10.79.0.1/24 dev tap0");
    namespace.ip("link set tap0 up");
    namespace
}

/// dnsmasq giving out `range` for two minutes, the shortest it can; its leases go to the file `leases`.
fn dnsmasq(namespace: &Namespace, range: &str, leases: &Path) -> Mortal {
    let mut command = namespace.command("dnsmasq");
    command
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0"])
        .args([
            "--interface=tap0",
            "--bind-interfaces",
            "--user=root",
            "--pid-file=",
        ])
        .args(["--dhcp-authoritative", "--no-ping", "--log-facility=-"])
        .arg(format!("--dhcp-range={range},2m"))
        .arg(format!("--dhcp-leasefile={}", leases.display()));
    Mortal::start(&mut command)
}

/// When the machine's lease ends, in seconds since 1970, by dnsmasq's own account.
fn lease_end(leases: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(leases).ok()?;
    let line = text.lines().find(|line| line.contains(MAC))?;
    line.split_whitespace().next()?.parse().ok()
}

#[test]
fn the_agent_takes_the_lease_over_and_complains_of_a_server_that_gives_it_away() {
    holds_the_lease(false);
}

#[test]
#[ignore = "long: make test-full"]
fn the_agent_extends_the_lease_at_half_time() {
    holds_the_lease(true);
}

fn holds_the_lease(again: bool) {
    let directory = tempfile::tempdir().unwrap();
    let (image, leases) = (
        directory.path().join("disk.img"),
        directory.path().join("leases"),
    );
    make_ext4(&image, 16);
    let namespace = network();
    let _disk = Mortal::start(
        namespace
            .command(binary::bootroom())
            .args(["export", "--bind", "10.79.0.1", "--name", "disk"])
            .arg(&image),
    );
    let mut guest = Guest::boot_as(&[], |hardware| Hardware {
        append: "nbdroot=10.79.0.1/disk".to_owned(),
        network: "tap,ifname=tap0,script=no,downscript=no".to_owned(),
        namespace: Some(&namespace),
        ..hardware
    });
    // The address as the boot loader would have left it.
    guest.run("ip address flush dev eth0; ip address add 10.79.0.50/24 dev eth0");

    let other = dnsmasq(&namespace, "10.79.0.100,10.79.0.199", &leases);
    guest.run("bootroom-attach --cmdline && mount /dev/nbd0 /mnt");
    guest.expect(
        "the DHCP server says that 10.79.0.50 is not this machine's",
        Duration::from_secs(60),
    );
    assert_eq!(lease_end(&leases), None);
    assert!(
        guest
            .run("ip -4 address show dev eth0")
            .contains("10.79.0.50/24"),
        "it stays"
    );
    drop(other);

    let _right = dnsmasq(&namespace, "10.79.0.10,10.79.0.99", &leases);
    let first = wait_for("the lease", Duration::from_secs(90), || lease_end(&leases));
    if again {
        is_extended(first, &leases);
    }
    guest.run("date >/mnt/now && sync");
    assert_eq!(
        guest.run("netstat -lun | grep -c ':68 ' || :"),
        "0",
        "the port is free in between"
    );
}

fn is_extended(first: u64, leases: &Path) {
    let second = wait_for("it to be extended", Duration::from_secs(90), || {
        lease_end(leases).filter(|&end| end > first)
    });
    println!("extended by {} s", second - first);
    assert!((50..90).contains(&(second - first)), "at half time");
}
