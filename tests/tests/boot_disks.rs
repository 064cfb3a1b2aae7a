//! Two machines on one image: neither sees, reaches or harms what the other has, nor the image. And what is left of their
//! disks after their power was cut: nothing with `boot`, everything with `keep`.

use bootroom_tests::machine::{Firmware, Machine};
use bootroom_tests::room::{Plan, QUIET, Room};
use bootroom_tests::{binary, image};

/// Fills a file with bytes of its own, and prints its digest as the disk has it.
const FILL: &str = "head -c 20000000 /dev/urandom > /fill && sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum /fill";

#[test]
fn two_machines_do_not_mix_and_a_power_cycle_resets_boot_and_spares_keep() {
    let plan = Plan {
        server: QUIET,
        ..Plan::default()
    };
    let room = Room::with(
        plan,
        &[
            ("fresh", Firmware::Bios, "retention = \"boot\""),
            ("lasting", Firmware::Bios, "retention = \"keep\""),
        ],
    );
    let mut machines = room.boot();
    each_keeps_its_own_file(&mut machines);
    token_opens_only_its_own_export(&room, &mut machines);
    each_overlay_holds_what_its_machine_wrote(&room);
    a_power_cycle_resets_boot_and_spares_keep(&room, machines);
    the_image_is_whole(&room);
}

/// Both write the same path, and thus most likely the same blocks, at the same time.
fn each_keeps_its_own_file(machines: &mut [Machine]) {
    let digests: Vec<String> = machines
        .iter_mut()
        .map(|machine| machine.console.run(FILL))
        .collect();
    assert_ne!(digests[0], digests[1]);
    for (machine, digest) in machines.iter_mut().zip(&digests) {
        machine.console.run("echo 3 > /proc/sys/vm/drop_caches");
        assert_eq!(&machine.console.run("sha256sum /fill"), digest);
    }
}

/// Whether the server has this export for whoever asks.
fn opens(room: &Room, export: &str) -> bool {
    let uri = format!("nbd://10.78.0.1/{export}");
    let mut nbdinfo = room.namespace().command("nbdinfo");
    let info = nbdinfo.arg(&uri).output();
    let info = info.expect("nbdinfo (package libnbd-bin) runs");
    info.status.success()
}

/// The export with its token, from a machine's kernel command line.
fn export(machine: &mut Machine) -> String {
    let cmdline = machine.console.run("cat /proc/cmdline");
    let export = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("nbdroot="));
    export
        .and_then(|root| root.split_once('/'))
        .expect("the command line names the export")
        .1
        .to_owned()
}

/// The token of one machine's boot opens neither another's export, nor does a made-up one open its own.
fn token_opens_only_its_own_export(room: &Room, machines: &mut [Machine]) {
    let own = export(&mut machines[0]);
    let token = own.strip_prefix("client/fresh/").expect("its own export");
    let made_up = "0".repeat(token.len());
    for other in [
        format!("lasting/{token}"),
        format!("fresh/{made_up}"),
        "fresh".to_owned(),
        "lasting".to_owned(),
    ] {
        assert!(!opens(room, &format!("client/{other}")), "{other} opens");
    }
    // And nobody was thrown out by the attempts.
    for machine in machines {
        machine.console.run("echo still-here > /after && sync");
    }
}

fn each_overlay_holds_what_its_machine_wrote(room: &Room) {
    let clients = room.server().json(&["client", "list"]);
    let clients = clients.as_array().expect("a list");
    assert_eq!(clients.len(), 2);
    assert_ne!(clients[0]["overlay"], clients[1]["overlay"]);
    for client in clients {
        let bytes = client["overlay_bytes"].as_u64().expect("a number of bytes");
        // The file, and what a boot writes; far less than the image.
        assert!((20_000_000..100_000_000).contains(&bytes), "{client}");
    }
}

fn a_power_cycle_resets_boot_and_spares_keep(room: &Room, mut machines: Vec<Machine>) {
    let mut exports = Vec::new();
    for machine in &mut machines {
        machine.console.run("echo mine > /root/mine && sync");
        exports.push(export(machine));
    }
    let mut machines = room.power_cycle(machines);
    assert_ne!(
        machines[0].console.try_run("cat /root/mine").status,
        0,
        "a fresh disk has no such file"
    );
    assert_eq!(machines[1].console.run("cat /root/mine"), "mine");
    for (machine, old) in machines.iter_mut().zip(exports) {
        assert_ne!(export(machine), old, "every boot has a token of its own");
        assert!(!opens(room, &old), "the boot before still opens {old}");
    }
}

fn the_image_is_whole(room: &Room) {
    let verify = binary::command(&["image", "verify", image::NAME, "--data"])
        .arg(room.data())
        .output();
    let verify = verify.expect("bootroom runs");
    assert!(
        verify.status.success(),
        "{}",
        String::from_utf8_lossy(&verify.stderr)
    );
}
