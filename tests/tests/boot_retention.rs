//! What is left of a machine's disk after its power was cut: nothing with `boot`, everything with `keep`.

use bootroom_tests::machine::Firmware;
use bootroom_tests::room::Room;

#[test]
fn a_power_cycle_resets_boot_and_spares_keep() {
    let room = Room::new(&[
        ("fresh", Firmware::Bios, "retention = \"boot\""),
        ("lasting", Firmware::Bios, "retention = \"keep\""),
    ]);
    let mut machines = room.boot();
    let mut tokens = Vec::new();
    for machine in &mut machines {
        machine.console.run("echo mine > /root/mine && sync");
        tokens.push(token(&machine.console.run("cat /proc/cmdline")));
    }
    let mut machines = room.power_cycle(machines);
    assert_ne!(
        machines[0].console.try_run("cat /root/mine").status,
        0,
        "a fresh disk has no such file"
    );
    assert_eq!(machines[1].console.run("cat /root/mine"), "mine");
    for (machine, old) in machines.iter_mut().zip(tokens) {
        let new = token(&machine.console.run("cat /proc/cmdline"));
        assert_ne!(new, old, "every boot has a token of its own");
        let uri = format!("nbd://10.78.0.1/{old}");
        let info = room
            .namespace()
            .command("nbdinfo")
            .arg(&uri)
            .output()
            .expect("nbdinfo (package libnbd-bin) runs");
        assert!(
            !info.status.success(),
            "the token of the boot before still opens {uri}"
        );
    }
}

/// The export with its token, from a kernel command line.
fn token(cmdline: &str) -> String {
    let export = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("nbdroot="));
    export
        .and_then(|root| root.split_once('/'))
        .expect("the command line names the export")
        .1
        .to_owned()
}
