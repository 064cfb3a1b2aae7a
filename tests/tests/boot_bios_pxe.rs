//! Machines without a disk, one with a BIOS and one with UEFI, come from power-on to a login over the network.

use bootroom_tests::console::Console;
use bootroom_tests::machine::Firmware;
use bootroom_tests::room::Room;

const BOOT: &str = "retention = \"boot\"";

#[test]
fn machines_without_a_disk_come_to_their_login() {
    let room = Room::new(&[
        ("bios", Firmware::Bios, BOOT),
        ("uefi", Firmware::Uefi, BOOT),
    ]);
    let mut machines = room.boot();
    for (machine, name) in machines.iter_mut().zip(["bios", "uefi"]) {
        is_itself(&mut machine.console, name);
        is_known(&room, name);
    }
    let bios = room.steps("bios");
    assert_in_order(&bios, &["dhcp", "ipxe", "kernel", "initramfs", "attached"]);
    // UEFI's own PXE fetches iPXE first; the card's ROM of the BIOS machine is iPXE already.
    assert_in_order(
        &room.steps("uefi"),
        &["dhcp", "tftp", "ipxe", "kernel", "initramfs", "attached"],
    );
    assert!(!bios.contains(&"tftp".to_owned()), "{bios:?}");
}

/// The machine has its name, its root from the network, and no other disk.
fn is_itself(console: &mut Console, name: &str) {
    assert_eq!(console.run("hostname"), name);
    let root = console.run("grep ' / ' /proc/mounts");
    assert!(root.starts_with("/dev/nbd0 / "), "{root}");
    assert_eq!(console.run("touch /written && echo yes"), "yes");
    let disks = console.run("ls /sys/block");
    assert!(
        disks
            .split_whitespace()
            .all(|disk| disk.starts_with("nbd") || disk.starts_with("loop")),
        "{disks}"
    );
    assert_eq!(
        console.run("systemctl is-system-running --wait || true"),
        "running"
    );
}

/// The server shows it as attached, with the address it has.
fn is_known(room: &Room, name: &str) {
    let client = room.server().json(&["client", "show", name]);
    assert_eq!(client["attached"], true, "{client}");
    assert_eq!(client["export"], format!("client/{name}"), "{client}");
    assert!(
        client["address"]
            .as_str()
            .is_some_and(|address| address.starts_with("10.78.0.1")),
        "{client}"
    );
}

fn assert_in_order(steps: &[String], wanted: &[&str]) {
    let mut rest = steps.iter();
    for step in wanted {
        assert!(
            rest.any(|seen| seen == step),
            "{step} is missing or out of order in {steps:?}"
        );
    }
}
