//! Every kind of firmware that can be had here comes from power-on to a root that is mounted over the network.
//!
//! A shell takes the place of the system, so that a row ends as soon as the root is there. BIOS and UEFI with PXE are in
//! `boot_bios_pxe`, to their login.

mod behind;
mod pxelinux;
mod rows;

use std::time::{Duration, Instant};

use bootroom_tests::machine::{Desk, Machine};
use bootroom_tests::namespace::Namespace;
use bootroom_tests::room::{QUIET, Room, SHELL};
use serde_json::Value;

/// How long a machine may take to its shell. It takes 20 to 60 s on an idle computer with two cores.
const LIMIT: Duration = Duration::from_secs(280);

/// Boots these desks, plugged in at `namespace`, side by side; each gets to its root. Returns them, running.
fn boot_all(room: &Room, namespace: &Namespace, desks: &[Desk]) -> Vec<Machine> {
    let begun = Instant::now();
    let machines = desks.iter().map(|desk| room.power_on_at(namespace, desk));
    let mut machines: Vec<Machine> = machines.collect();
    for (machine, desk) in machines.iter_mut().zip(desks) {
        machine.console.take_shell(LIMIT);
        eprintln!("{} has its root after {:.1?}", desk.name, begun.elapsed());
        has_its_root(machine);
        let client = room.server().json(&["client", "show", &desk.name]);
        assert_eq!(client["attached"], true, "{client}");
        assert!(client["stuck"].is_null(), "{client}");
    }
    machines
}

/// Its root is the network's, and can be written.
fn has_its_root(machine: &mut Machine) {
    let root = machine.console.run("grep ' / ' /proc/mounts");
    assert!(root.starts_with("/dev/nbd0 / "), "{root}");
    let wrote = "mount -o remount,rw / && echo mine > /mine && sync && cat /mine";
    assert_eq!(machine.console.run(wrote), "mine");
}

/// The steps came in this order, with others in between.
fn assert_in_order(steps: &[String], wanted: &[&str]) {
    let mut rest = steps.iter();
    for step in wanted {
        let found = rest.any(|seen| seen == step);
        assert!(found, "{step} is missing or out of order in {steps:?}");
    }
}

/// Whether a step's detail holds these words. A machine that was never heard of has no steps.
fn told(room: &Room, name: &str, step: &str, words: &str) -> bool {
    let output = room.server().ask(&["client", "trace", name, "--json"]);
    let steps: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
    steps.iter().any(|one| {
        let detail = one["detail"].as_str().expect("a step has a detail");
        one["step"] == step && detail.contains(words)
    })
}
