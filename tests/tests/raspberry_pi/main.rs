//! A Raspberry Pi boots as pxe/docs/raspberry-pi.md says: no Pi, but a script that sends what one sends.

use std::path::Path;

use bootroom_tests::namespace::Namespace;
use bootroom_tests::room::{Plan, Room};
use bootroom_tests::site::cable;

const SCRIPT: &str = include_str!("pi.py");
/// A Pi 3 whose files are its own, and a Pi 4 that takes those for all.
const OWN: &str = "b22faaeb";
const OTHER: &str = "12345678";

#[test]
fn a_raspberry_pi_finds_its_files() {
    let files = tempfile::tempdir().expect("a temporary directory");
    fill(files.path());
    let server = format!("files = {:?}", files.path().display().to_string());
    let plan = Plan {
        server: &server,
        dhcp: Some(
            "[dhcp]\nrange = \"10.78.0.100-10.78.0.199\"\n\
             [groups.pis]\nmacs = [\"b8:27:eb:*\", \"dc:a6:32:*\"]\nimage = \"debian\"\n",
        ),
        elsewhere: true,
    };
    let room = Room::with(plan, &[]);
    let script = files.path().join("pi.py");
    std::fs::write(&script, SCRIPT).expect("a script");
    for (kind, mac, serial, found) in [
        ("rom", "b8:27:eb:2f:aa:eb", OWN, "b22faaeb/ "),
        ("eeprom", "dc:a6:32:0a:ef:79", OTHER, "common "),
    ] {
        let pi = Namespace::new();
        cable(room.namespace(), "pi0", &pi, "eth0");
        room.namespace().ip("link set pi0 master room0");
        pi.ip(&format!("link set eth0 address {mac}"));
        let mut python = pi.command("python3");
        python
            .arg(&script)
            .args([kind, "eth0", mac, serial, "10.78.0.1"]);
        let output = python.arg(files.path()).output().expect("python3 runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind}: {said}{error}");
        assert!(said.starts_with(found), "{kind}: {said}");
        room.namespace().ip("link del pi0");
    }
}

/// What is on a Pi's boot partition, by name and about by size; once for all, once for one.
fn fill(dir: &Path) {
    let own = dir.join(OWN);
    std::fs::create_dir(&own).expect("a directory");
    let sizes = [
        ("bootcode.bin", 52_480),
        ("config.txt", 1_000),
        ("cmdline.txt", 150),
        ("start.elf", 2_981_376),
        ("start4.elf", 2_253_000),
        ("fixup.dat", 7_265),
        ("fixup4.dat", 5_400),
        ("bcm2711-rpi-4-b.dtb", 55_000),
        ("kernel8.img", 9 << 20),
    ];
    for (place, step) in [(dir, 7), (own.as_path(), 11)] {
        for (name, size) in sizes {
            let bytes: Vec<u8> = (0..size).map(|i| (i * step % 251) as u8).collect();
            std::fs::write(place.join(name), bytes).expect("a file");
        }
    }
}
