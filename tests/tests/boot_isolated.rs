//! Two machines on one image: neither sees, reaches or harms what the other has, nor the image.

use bootroom_tests::machine::{Firmware, Machine};
use bootroom_tests::room::Room;
use bootroom_tests::{binary, image};

/// Fills a file with bytes of its own, and prints its digest as the disk has it.
const FILL: &str = "head -c 20000000 /dev/urandom > /fill && sync && echo 3 > /proc/sys/vm/drop_caches && sha256sum /fill";

#[test]
fn two_machines_do_not_mix() {
    let room = Room::new(&[
        ("left", Firmware::Bios, "retention = \"boot\""),
        ("right", Firmware::Bios, "retention = \"keep\""),
    ]);
    let mut machines = room.boot();
    each_keeps_its_own_file(&mut machines);
    token_opens_only_its_own_export(&room, &mut machines);
    each_overlay_holds_what_its_machine_wrote(&room);
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

/// The token of one machine's boot opens neither another's export, nor does a made-up one open its own.
fn token_opens_only_its_own_export(room: &Room, machines: &mut [Machine]) {
    let cmdline = machines[0].console.run("cat /proc/cmdline");
    let token = cmdline
        .split("/client/left/")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let token = token.expect("the command line names the export");
    let made_up = "0".repeat(token.len());
    for export in [
        format!("right/{token}"),
        format!("left/{made_up}"),
        "left".to_owned(),
        "right".to_owned(),
    ] {
        let uri = format!("nbd://10.78.0.1/client/{export}");
        let info = room
            .namespace()
            .command("nbdinfo")
            .arg(&uri)
            .output()
            .expect("nbdinfo (package libnbd-bin) runs");
        assert!(
            !info.status.success(),
            "{uri} opens: {}",
            String::from_utf8_lossy(&info.stdout)
        );
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
