//! A room whose disks come over TLS only: the kernel encrypts, the wire shows nothing, each machine proves who it is, and
//! stays itself over resets and restarts.

use std::path::Path;
use std::process::Output;

use bootroom_tests::machine::{Firmware, Machine};
use bootroom_tests::room::{Plan, Room};
use bootroom_tests::wire::{self, Tap};

const SERVER: &str = "tls = \"required\"\nclient_certificates = \"required\"\nssh_host_keys = true";
/// What libnbd says of an export that the server says it does not have.
const UNKNOWN: &str = "No such file or directory";
const HOST_KEY: &str = "/etc/ssh/ssh_host_ed25519_key";

#[test]
#[ignore = "long: make test-full"]
fn a_room_with_tls_boots_and_its_machines_stay_themselves() {
    let plan = Plan {
        server: SERVER,
        ..Plan::default()
    };
    let mut room = Room::with(
        plan,
        &[
            ("bios", Firmware::Bios, "retention = \"keep\""),
            ("uefi", Firmware::Uefi, "retention = \"boot\""),
        ],
    );
    let mut machines = room.boot();
    for (machine, name) in machines.iter_mut().zip(["bios", "uefi"]) {
        kernel_encrypts(machine);
        is_itself(machine, name);
    }
    let keys = host_keys(&mut machines);
    assert_ne!(keys[0], keys[1]);
    wire_shows_nothing(&room, &mut machines[0]);
    others_are_refused(&room, &mut machines[0]);
    identity_is_given_once(&room, &mut machines[0]);

    room.stop_server();
    room.start_server();
    for machine in &mut machines {
        machine.console.run("echo after > /root/after && sync");
        let errors = machine.console.try_run("dmesg | grep -i 'I/O error'");
        assert_ne!(errors.status, 0, "{}", errors.text);
    }

    machines.into_iter().for_each(Machine::pull_plug);
    room.server()
        .json(&["client", "reset", "bios", "--now", "--yes"]);
    let mut machines = room.boot();
    let gone = machines[0].console.try_run("cat /root/after");
    assert_ne!(gone.status, 0, "a disk that was reset has no such file");
    assert_eq!(host_keys(&mut machines), keys);
}

/// One connection in each direction, by the kernel's own TLS.
fn kernel_encrypts(machine: &mut Machine) {
    let root = machine.console.run("grep ' / ' /proc/mounts");
    assert!(root.starts_with("/dev/nbd0 / "), "{root}");
    let in_use = "grep -E 'TlsCurr(Tx|Rx)(Sw|Device)' /proc/net/tls_stat | awk '{ n += $2 } END { print n }'";
    assert_eq!(machine.console.run(in_use), "2");
}

fn is_itself(machine: &mut Machine, name: &str) {
    let console = &mut machine.console;
    assert_eq!(
        console.run("hostname; cat /etc/hostname"),
        format!("{name}\r\n{name}")
    );
    let id = console.run("cat /etc/machine-id");
    assert_eq!(id.len(), 32, "{id}");
    let cmdline = console.run("cat /proc/cmdline");
    assert!(
        cmdline.contains(&format!("systemd.machine_id={id}")),
        "{cmdline}"
    );
    assert_eq!(
        console.run(&format!("stat -c '%a %U' {HOST_KEY}")),
        "600 root"
    );
    assert!(
        console
            .run(&format!("cat {HOST_KEY}.pub"))
            .ends_with(&format!(" root@{name}"))
    );
    let state = console.run("systemctl is-system-running --wait || systemctl --failed");
    assert_eq!(state, "running");
}

/// Both halves of each machine's key, by digest.
fn host_keys(machines: &mut [Machine]) -> Vec<String> {
    let digests = format!("sha256sum {HOST_KEY} {HOST_KEY}.pub");
    machines
        .iter_mut()
        .map(|machine| machine.console.run(&digests))
        .collect()
}

/// What the machine writes is not on the wire, while what it says aloud is.
fn wire_shows_nothing(room: &Room, machine: &mut Machine) {
    let dir = tempfile::tempdir().unwrap();
    let tap = Tap::new(room.namespace(), "room0", dir.path());
    // Put together by the machine, so that only what it writes has it in one piece.
    machine.console.run(
        "yes kept-sec''ret | head -c 100000 > /root/secret && sync && \
         echo spoken-al''oud > /dev/udp/10.78.0.1/9",
    );
    let heard = tap.heard_until("spoken-aloud");
    assert!(!wire::contains(&heard, "kept-secret"));
}

/// Neither a plain connection with the right token, nor one with another machine's certificate.
fn others_are_refused(room: &Room, machine: &mut Machine) {
    let export = export(machine);
    let plain = nbdinfo(room, &format!("nbd://10.78.0.1/{export}"));
    let said = String::from_utf8_lossy(&plain.stderr).into_owned();
    assert!(!plain.status.success() && said.contains("TLS"), "{said}");
    let dir = tempfile::tempdir().unwrap();
    let uri = |name: &str| {
        certificates(&room.data(), name, dir.path());
        format!(
            "nbds://10.78.0.1/{export}?tls-certificates={}",
            dir.path().display()
        )
    };
    let other = nbdinfo(room, &uri("uefi"));
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains(UNKNOWN), "{said}");
    // The same with the right certificate is let in, and takes the disk from the machine, whose agent takes it back.
    let own = nbdinfo(room, &uri("bios"));
    assert!(
        own.status.success(),
        "{}",
        String::from_utf8_lossy(&own.stderr)
    );
    machine.console.run("echo back > /root/back && sync");
}

/// Lays out a machine's certificate as libnbd wants it.
fn certificates(data: &Path, name: &str, dir: &Path) {
    let pki = data.join("pki");
    for (from, to) in [
        (pki.join("ca.pem"), "ca-cert.pem"),
        (pki.join(format!("clients/{name}.pem")), "client-cert.pem"),
        (pki.join(format!("clients/{name}.key")), "client-key.pem"),
    ] {
        std::fs::copy(from, dir.join(to)).expect("the server has made it");
    }
}

fn nbdinfo(room: &Room, uri: &str) -> Output {
    let output = room
        .namespace()
        .command("nbdinfo")
        .args(["--size", uri])
        .output();
    output.expect("nbdinfo (package libnbd-bin) runs")
}

/// A program on the machine knows the token, and gets nothing for it.
fn identity_is_given_once(room: &Room, machine: &mut Machine) {
    let export = export(machine);
    let dir = tempfile::tempdir().unwrap();
    certificates(&room.data(), "bios", dir.path());
    let secret = export.replacen("client/", "identity/", 1);
    let (host, folder) = ("nbds://10.78.0.1", dir.path().display());
    let secret = nbdinfo(room, &format!("{host}/{secret}?tls-certificates={folder}"));
    let said = String::from_utf8_lossy(&secret.stderr).into_owned();
    assert!(!secret.status.success() && said.contains(UNKNOWN), "{said}");
    let token = export.rsplit('/').next().expect("a token ends it");
    let mut status = |path: &str| {
        machine.console.run(&format!(
            "exec 3<>/dev/tcp/10.78.0.1/80; printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3; head -n 1 <&3; exec 3>&-"
        ))
    };
    let identity = status(&format!("identity/{token}.cpio"));
    assert!(identity.contains(" 404 "), "{identity}");
    let script = status("ipxe/52-54-00-5c-00-01");
    assert!(script.contains(" 200 "), "{script}");
}

/// The export with its token, from the kernel command line.
fn export(machine: &mut Machine) -> String {
    let cmdline = machine.console.run("cat /proc/cmdline");
    let uri = cmdline
        .split_whitespace()
        .find_map(|word| word.strip_prefix("nbdroot=nbds://"));
    let (_, export) = uri
        .and_then(|uri| uri.split_once('/'))
        .expect("a disk over TLS");
    export.to_owned()
}
