//! A server that crashed, and then was restarted, between two boots still knows leases, images, overlays and their
//! snapshots; a machine's disk is backed up while it runs. The machines end with a shell on their root: `boot_disks` has whole
//! systems.

use std::process::Output;

use bootroom_tests::machine::{Firmware, Machine};
use bootroom_tests::room::{Plan, QUIET, Room, SHELL};

#[test]
fn a_restart_between_two_boots_loses_nothing() {
    let plan = Plan {
        server: QUIET,
        ..Plan::default()
    };
    let lines = format!("{SHELL}retention = \"keep\"");
    let mut room = Room::with(
        plan,
        &[
            ("one", Firmware::Bios, &lines),
            ("two", Firmware::Bios, &lines),
        ],
    );
    let mut machines = room.boot_to_shells();
    let before = addresses(&mut machines);
    for (machine, name) in machines.iter_mut().zip(["one", "two"]) {
        machine
            .console
            .run(&format!("echo {name} > /root/name && sync"));
    }
    let opened = back_up(&room, &mut machines[0]);
    let known = facts(&room);
    machines.into_iter().for_each(Machine::pull_plug);
    room.kill_server();
    room.start_server();
    room.stop_server();
    room.start_server();
    assert_eq!(facts(&room), known);
    let info = nbdinfo(&room, &["--size", &opened]);
    assert!(
        !info.status.success(),
        "what was opened before the restart is open still"
    );
    let mut machines = room.boot_to_shells();
    assert_eq!(addresses(&mut machines), before, "the leases are the same");
    for (machine, name) in machines.iter_mut().zip(["one", "two"]) {
        assert_eq!(machine.console.run("cat /root/name"), name);
    }
}

/// The address each machine has by its own account.
fn addresses(machines: &mut [Machine]) -> Vec<String> {
    let address = "ip -4 -o address show scope global | awk '{print $4}'";
    machines
        .iter_mut()
        .map(|machine| machine.console.run(address))
        .collect()
}

/// What the server must not forget: of every client its address, version and overlay, and the images.
fn facts(room: &Room) -> Vec<serde_json::Value> {
    let clients = room.server().json(&["client", "list"]);
    let clients = clients.as_array().expect("a list").iter();
    let facts = clients.flat_map(|client| {
        ["name", "mac", "address", "version", "overlay"].map(|key| client[key].clone())
    });
    let snapshots = room.server().json(&["snapshot", "list", "--client", "one"]);
    let images = room.server().json(&["status"])["images"].clone();
    facts.chain([snapshots, images]).collect()
}

fn nbdinfo(room: &Room, arguments: &[&str]) -> Output {
    let mut nbdinfo = room.namespace().command("nbdinfo");
    nbdinfo
        .args(arguments)
        .output()
        .expect("nbdinfo (package libnbd-bin) runs")
}

/// Takes snapshots of a running machine's disk, and finds in the second what changed since the first, and no more than
/// that; returns where the second is read.
fn back_up(room: &Room, machine: &mut Machine) -> String {
    let server = room.server();
    let snapshot = |name: &str| {
        server.json(&["snapshot", "take", name, "--client", "one"]);
        let opened = server.json(&["snapshot", "open", name, "--client", "one"]);
        opened["uri"].as_str().expect("a URI").to_owned()
    };
    snapshot("monday");
    machine
        .console
        .run("head -c 8M /dev/urandom > /root/noise && sync");
    let uri = snapshot("tuesday");
    let output = nbdinfo(
        room,
        &["--json", "--totals", "--map=qemu:dirty-bitmap:monday", &uri],
    );
    assert!(output.status.success(), "{output:?}");
    let totals: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let dirty = totals.iter().find(|total| total["type"] == 1);
    let dirty = dirty.and_then(|total| total["size"].as_u64()).unwrap_or(0);
    assert!(
        (8 << 20..64 << 20).contains(&dirty),
        "{dirty} bytes changed"
    );
    let guess = uri[..uri.len() - 1].to_owned() + if uri.ends_with('0') { "1" } else { "0" };
    assert!(!nbdinfo(room, &["--size", &guess]).status.success());
    server.json(&["snapshot", "drop", "monday", "--client", "one", "--yes"]);
    uri
}
