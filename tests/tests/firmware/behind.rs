//! Machines beside the site's own DHCP server, and behind a router.

use bootroom_tests::machine::{Desk, Firmware};
use bootroom_tests::namespace::Namespace;
use bootroom_tests::room::{Plan, Room};
use bootroom_tests::site::{Daemon, cable, switch};

use crate::{QUIET, SHELL, assert_in_order, boot_all};

const BOTH: [(&str, Firmware, &str); 2] = [
    ("bios", Firmware::Bios, SHELL),
    ("uefi", Firmware::Uefi, SHELL),
];

/// As pxe/docs/behind-existing-dhcp.md has it.
#[test]
#[ignore = "long: make test-full"]
fn a_dhcp_server_that_nobody_may_touch_gives_the_addresses() {
    let plan = Plan {
        server: QUIET,
        dhcp: Some("[dhcp]\nmode = \"proxy\"\n"),
        elsewhere: false,
    };
    let room = Room::with(plan, &BOTH);
    let site = Namespace::new();
    cable(room.namespace(), "site0", &site, "eth0");
    room.namespace().ip("link set site0 master room0");
    site.ip("address add 10.78.0.2/24 dev eth0");
    let _dnsmasq = Daemon::dnsmasq(&site, "eth0");
    let mut machines = boot_all(&room, room.namespace(), room.desks());
    for machine in &mut machines {
        let address = machine.console.run("ip -4 -o address show scope global");
        assert!(address.contains(" 10.78.0.1"), "{address}");
        let last: u8 = address
            .split("10.78.0.")
            .nth(1)
            .and_then(|rest| rest.split('/').next())
            .and_then(|last| last.parse().ok())
            .expect("an address of the room");
        assert!((150..180).contains(&last), "dnsmasq gave {address}");
    }
    assert_in_order(
        &room.steps("uefi"),
        &["discover", "tftp", "ipxe", "attached"],
    );
    assert_eq!(room.server().json(&["status"])["leases"], 0);
}

/// As pxe/docs/router.md has it.
#[test]
#[ignore = "long: make test-full"]
fn a_relay_brings_machines_of_another_network() {
    let plan = Plan {
        server: QUIET,
        dhcp: Some(
            "[dhcp]\nrange = \"10.78.0.100-10.78.0.199\"\n\
             [[dhcp.subnets]]\nnetwork = \"10.90.0.0/24\"\nrange = \"10.90.0.50-10.90.0.59\"\nrouter = \"10.90.0.1\"\n",
        ),
        elsewhere: true,
    };
    let room = Room::with(plan, &BOTH);
    let router = router(&room);
    let _relay = Daemon::relay(&router, "north", "south", "10.78.0.1");
    let mut machines = boot_all(&room, &router, room.desks());
    for machine in &mut machines {
        let address = machine.console.run("ip -4 -o address show scope global");
        assert!(address.contains("10.90.0.5"), "{address}");
        let route = machine.console.run("ip route show default");
        assert!(route.contains("via 10.90.0.1"), "{route}");
    }
}

/// Between the room's switch and one of its own, where the machines are plugged in.
fn router(room: &Room) -> Namespace {
    let router = Namespace::new();
    cable(room.namespace(), "router0", &router, "north");
    let home = room.namespace();
    home.ip("link set router0 master room0");
    home.ip("route add 10.90.0.0/24 via 10.78.0.2");
    router.ip("address add 10.78.0.2/24 dev north");
    let taps: Vec<&str> = room
        .desks()
        .iter()
        .map(|Desk { tap, .. }| tap.as_str())
        .collect();
    switch(&router, "south", "10.90.0.1/24", &taps);
    let forward = ["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
    let done = router.command("sh").args(forward).status();
    assert!(
        done.is_ok_and(|status| status.success()),
        "it forwards packets"
    );
    router
}
