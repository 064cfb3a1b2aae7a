//! DHCP under perfdhcp: four-way exchanges per second, leases written down.

use std::path::Path;
use std::process::Command;

use bootroom_tests::namespace::Namespace;

use super::peers::{Peer, on_path};

const MACHINES: &str = "8000";
const SECONDS: &str = "10";

/// Measures all, one server after the other, since they share port 67.
pub fn run() {
    println!("DHCP, perfdhcp for {SECONDS} s, {MACHINES} machines");
    let (server, client) = (Namespace::new(), Namespace::new());
    server.ip(&format!(
        "link add s0 type veth peer name c0 netns {}",
        client.pid()
    ));
    server.ip("addr add 10.88.0.1/16 dev s0");
    server.ip("link set s0 up");
    client.ip("addr add 10.88.0.2/16 dev c0");
    client.ip("link set c0 up");
    let dir = tempfile::tempdir_in("/var/tmp").expect("a temporary directory");
    let starts: [fn(&Namespace, &Path) -> Option<Peer>; 3] = [ours, dnsmasq, kea];
    let mut rates = Vec::new();
    for start in starts {
        if let Some(peer) = start(&server, dir.path()) {
            rates.extend(measure(&client).map(|rate| (peer.name, rate)));
        }
    }
    let ours = rates
        .iter()
        .find(|(n, _)| *n == "bootroom")
        .map(|(_, r)| *r);
    let best = rates
        .iter()
        .filter(|(n, _)| *n != "bootroom")
        .map(|(_, r)| *r)
        .fold(0.0, f64::max);
    let list: Vec<_> = rates.iter().map(|(n, r)| format!("{n} {r:.0}/s")).collect();
    println!(
        "{:<44} {}  ratio {:.2}",
        "exchanges (DISCOVER to ACK)",
        list.join("  "),
        ours.unwrap_or(0.0) / best
    );
}

fn ours(namespace: &Namespace, dir: &Path) -> Option<Peer> {
    let leases = format!("leases={}/leases.redb", dir.display());
    let files = dir.to_str()?;
    let args = [
        "s0",
        "10.88.0.1/16",
        "10.88.1.0-10.88.100.255",
        files,
        "noprobe",
        &leases,
    ];
    Some(Peer::ours(namespace, 67, &args))
}

fn dnsmasq(namespace: &Namespace, dir: &Path) -> Option<Peer> {
    let leases = format!("--dhcp-leasefile={}/dnsmasq.leases", dir.display());
    let args = [
        "--keep-in-foreground",
        "--port=0",
        "--conf-file=/dev/null",
        "--pid-file",
        "--user=root",
        "--interface=s0",
        "--dhcp-range=10.88.1.0,10.88.100.255,12h",
        "--dhcp-lease-max=100000",
        "--no-ping",
        "--quiet-dhcp",
        &leases,
    ];
    Peer::start(namespace, "dnsmasq", 67, "dnsmasq", &args)
}

fn kea(namespace: &Namespace, dir: &Path) -> Option<Peer> {
    let config = dir.join("kea.json");
    let text = serde_json::json!({ "Dhcp4": {
        "interfaces-config": { "interfaces": ["s0"] },
        "lease-database": { "type": "memfile", "persist": true, "name": dir.join("kea.csv") },
        "subnet4": [{ "id": 1, "subnet": "10.88.0.0/16", "pools": [{ "pool": "10.88.1.0 - 10.88.100.255" }] }],
        "loggers": [{ "name": "kea-dhcp4", "severity": "ERROR", "output_options": [{ "output": "/dev/null" }] }],
    }});
    std::fs::write(&config, text.to_string()).expect("the configuration is written");
    let dirs =
        ["KEA_PIDFILE_DIR", "KEA_LOCKFILE_DIR"].map(|name| format!("{name}={}", dir.display()));
    let args = [&dirs[0], &dirs[1], "kea-dhcp4", "-c", config.to_str()?];
    on_path("kea-dhcp4").then(|| Peer::start(namespace, "kea", 67, "env", &args))?
}

/// The rate that perfdhcp reports, if any exchange succeeded.
fn measure(client: &Namespace) -> Option<f64> {
    // The first, short run waits until the server is there.
    for (machines, seconds) in [("10", "2"), (MACHINES, SECONDS)] {
        let mut command: Command = client.command("perfdhcp");
        let output = command
            .args(["-4", "-l", "c0", "-R", machines, "-p", seconds, "-W", "1"])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if machines == MACHINES {
            let line = text.lines().find(|l| l.starts_with("Rate:"));
            if line.is_none() {
                println!(
                    "  (perfdhcp says: {})",
                    text.lines().last().unwrap_or_default()
                );
            }
            return line?.split_whitespace().nth(1)?.parse().ok();
        }
    }
    None
}
