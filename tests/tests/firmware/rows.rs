//! Machines on the server's own network.

use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::image;
use bootroom_tests::machine::Firmware;
use bootroom_tests::room::{Plan, Room};

use crate::{LIMIT, QUIET, SHELL, assert_in_order, boot_all, told};

/// A menu whose default is the image.
fn menu(name: &str) -> String {
    let image = image::NAME;
    format!(
        "{SHELL}[clients.{name}.menu]\ntimeout = \"2s\"\ndefault = \"The image\"\n\
         [[clients.{name}.menu.entries]]\ntitle = \"Its own disk\"\nlocal = true\n\
         [[clients.{name}.menu.entries]]\ntitle = \"The image\"\nimage = \"{image}\"\n"
    )
}

fn room(plan: Plan<'_>, name: &str, firmware: Firmware, lines: &str) -> Room {
    Room::with(
        Plan {
            server: QUIET,
            ..plan
        },
        &[(name, firmware, lines)],
    )
}

#[test]
#[ignore = "long: make test-full"]
fn uefi_boots_over_http_through_the_menu_of_ipxe() {
    let room = room(Plan::default(), "http", Firmware::UefiHttp, &menu("http"));
    boot_all(&room, room.namespace(), room.desks());
    let steps = room.steps("http");
    assert_in_order(&steps, &["dhcp", "loader", "ipxe", "kernel", "attached"]);
    assert!(!steps.contains(&"tftp".to_owned()), "{steps:?}");
    assert!(told(&room, "http", "ipxe", "ipxe/menu/"));
}

#[test]
#[ignore = "long: make test-full"]
fn secure_boot_goes_through_shim_and_the_menu_of_grub() {
    let lines = format!("loader = \"grub\"\n{}", menu("secure"));
    let room = room(Plan::default(), "secure", Firmware::SecureBoot, &lines);
    let mut machines = boot_all(&room, room.namespace(), room.desks());
    // The byte after the four of attributes is 1 while Secure Boot is in force.
    let variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    let console = &mut machines[0].console;
    console.try_run("mount -t efivarfs efivarfs /sys/firmware/efi/efivars");
    assert_eq!(console.run(&format!("od -An -t u1 -j 4 {variable}")), "1");
    let steps = room.steps("secure");
    assert_in_order(&steps, &["dhcp", "tftp", "kernel", "initramfs", "attached"]);
    for file in ["shimx64.efi", "grubx64.efi", "grub.cfg", "grub/menu/"] {
        assert!(
            told(&room, "secure", "tftp", file) || told(&room, "secure", "grub", file),
            "{file}"
        );
    }
}

/// Debian 12 for x86 packages no signed loader for ARM: what the firmware asks for is a file of the site's own.
#[test]
#[ignore = "long: make test-full"]
fn arm64_firmware_fetches_its_loader() {
    let files = tempfile::tempdir().expect("a temporary directory");
    std::fs::create_dir(files.path().join("grub")).expect("a directory");
    std::fs::write(files.path().join("grub/shimaa64.efi"), vec![0; 100_000]).expect("a file");
    let server = format!("{QUIET}\nfiles = {:?}", files.path().display().to_string());
    let plan = Plan {
        server: &server,
        ..Plan::default()
    };
    let room = Room::with(plan, &[("arm", Firmware::Arm64, SHELL)]);
    let _machine = room.power_on(&room.desks()[0]);
    wait_for("the loader to be asked for", LIMIT, || {
        told(&room, "arm", "tftp", "grub/shimaa64.efi").then_some(())
    });
    assert!(told(&room, "arm", "discover", "architecture 11"));
    // What it got is no program: the machine goes no further, and the trace says so.
    wait_for("the advice", Duration::from_secs(120), || {
        told(&room, "arm", "stuck", "did not start").then_some(())
    });
}
