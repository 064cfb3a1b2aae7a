//! A server that crashed, and then was restarted, between two boots still knows leases, images and overlays.

use bootroom_tests::machine::{Firmware, Machine};
use bootroom_tests::room::Room;

#[test]
fn a_restart_between_two_boots_loses_nothing() {
    let mut room = Room::new(&[
        ("one", Firmware::Bios, "retention = \"keep\""),
        ("two", Firmware::Bios, "retention = \"keep\""),
    ]);
    let mut machines = room.boot();
    let before = addresses(&mut machines);
    for (machine, name) in machines.iter_mut().zip(["one", "two"]) {
        machine
            .console
            .run(&format!("echo {name} > /root/name && sync"));
    }
    let known = facts(&room);
    machines.into_iter().for_each(Machine::pull_plug);
    room.kill_server();
    room.start_server();
    room.stop_server();
    room.start_server();
    assert_eq!(facts(&room), known);
    let mut machines = room.boot();
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
    let images = room.server().json(&["status"])["images"].clone();
    facts.chain([images]).collect()
}
