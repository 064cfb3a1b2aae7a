//! PXELINUX, for sites that want it, and programs that take the whole machine.

use bootroom_tests::image;
use bootroom_tests::machine::Firmware;
use bootroom_tests::room::{Plan, Room};

use crate::{LIMIT, QUIET, SHELL, assert_in_order, boot_all, told};

/// Debian's package memtest86+ puts them there.
const MEMTEST: &str =
    "program = \"/boot/memtest86+x64.bin\"\nprogram_efi = \"/boot/memtest86+x64.efi\"";
/// On memtest86+'s screen as soon as it runs.
const MEMTEST_RUNS: &str = "Memtest86+";

/// A menu of an image and a memory test, whose default is `default`.
fn menu(name: &str, default: &str) -> String {
    let image = image::NAME;
    format!(
        "loader = \"pxelinux\"\n{SHELL}[clients.{name}.menu]\ntimeout = \"2s\"\ndefault = \"{default}\"\n\
         [[clients.{name}.menu.entries]]\ntitle = \"The image\"\nimage = \"{image}\"\n\
         [[clients.{name}.menu.entries]]\ntitle = \"Memory test\"\n{MEMTEST}\n"
    )
}

fn room(clients: &[(&str, Firmware, &str)]) -> Room {
    let plan = Plan {
        server: QUIET,
        ..Plan::default()
    };
    Room::with(plan, clients)
}

#[test]
#[ignore = "long: make test-full"]
fn pxelinux_boots_the_image_through_its_menu() {
    let room = room(&[(
        "syslinux",
        Firmware::Pxelinux,
        &menu("syslinux", "The image"),
    )]);
    boot_all(&room, room.namespace(), room.desks());
    assert_in_order(
        &room.steps("syslinux"),
        &["dhcp", "tftp", "kernel", "attached"],
    );
    for file in [
        "pxelinux.0",
        "ldlinux.c32",
        "pxelinux.cfg/01-",
        "pxelinux/menu/",
    ] {
        assert!(told(&room, "syslinux", "tftp", file), "{file}");
    }
}

#[test]
#[ignore = "long: make test-full"]
fn the_memory_test_runs_from_the_menus_of_pxelinux_and_ipxe() {
    let room = room(&[
        (
            "by-syslinux",
            Firmware::Pxelinux,
            &menu("by-syslinux", "Memory test"),
        ),
        (
            "by-ipxe",
            Firmware::BiosScreen,
            &menu("by-ipxe", "Memory test"),
        ),
    ]);
    for desk in room.desks() {
        let _machine = room.power_on(desk);
        let screen = room.screen(desk).expect(MEMTEST_RUNS, LIMIT);
        eprintln!("{} shows:\n{screen}", desk.name);
        assert!(
            told(&room, &desk.name, "program", "tools/"),
            "{}",
            desk.name
        );
    }
}
