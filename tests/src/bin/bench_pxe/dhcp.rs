//! DHCP under perfdhcp: four-way exchanges per second, leases written down.

use std::path::Path;
use std::process::Command;

use bootroom_tests::namespace::Namespace;

use super::peers::{Peer, on_path};

const MACHINES: &str = "8000";
const SECONDS: &str = "10";

/// What a new socket's receive buffer is when nobody says. perfdhcp does not, and what a fast server answers while it
/// is busy sending overflows it: answers that left in time, and that perfdhcp never sees.
const BUFFER: &str = "/proc/sys/net/core/rmem_default";
const LARGE: &str = "4194304";

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
    let (mut narrow, mut wide) = (Vec::new(), Vec::new());
    for start in starts {
        if let Some(peer) = start(&server, dir.path()) {
            narrow.extend(measure(&client, &peer).map(|measured| (peer.name, measured)));
            let _wide = WideBuffers::set();
            wide.extend(measure(&client, &peer).map(|measured| (peer.name, measured)));
        }
    }
    for (buffer, rates) in [("default", narrow), ("4 MiB", wide)] {
        println!("perfdhcp's receive buffer: {buffer}");
        print_all(&rates);
    }
}

fn print_all(rates: &[(&'static str, Measured)]) {
    print("exchanges a second (DISCOVER to ACK)", "/s", rates, |m| {
        m.rate
    });
    print("exchanges per second of server processor", "", rates, |m| {
        m.per_cpu
    });
    let lost = rates.iter().map(|(name, m)| format!("{name} {}", m.lost));
    println!(
        "{:<44} {}",
        "answers lost in perfdhcp's own socket",
        lost.collect::<Vec<_>>().join("  ")
    );
}

/// New sockets have large receive buffers until this is dropped. Servers that run already keep theirs.
struct WideBuffers(String);

impl WideBuffers {
    fn set() -> Self {
        let before = std::fs::read_to_string(BUFFER).expect("the kernel has a default");
        std::fs::write(BUFFER, LARGE).expect("root may change it");
        Self(before)
    }
}

impl Drop for WideBuffers {
    fn drop(&mut self) {
        // Whoever runs this sees a default that is no longer theirs.
        if let Err(error) = std::fs::write(BUFFER, &self.0) {
            println!("  (cannot set {BUFFER} back to {}: {error})", self.0.trim());
        }
    }
}

/// What perfdhcp got.
struct Measured {
    /// Exchanges in a second.
    rate: f64,
    /// Exchanges in a second of the server's processor.
    per_cpu: f64,
    /// Answers that did not fit into its socket.
    lost: u64,
}

/// Prints ours, the peers and the ratio to the best peer (above 1: more).
fn print(
    what: &str,
    unit: &str,
    all: &[(&'static str, Measured)],
    value: impl Fn(&Measured) -> f64,
) {
    let ours = |(name, _): &&(&'static str, Measured)| *name == "bootroom";
    let (mine, peers): (Vec<_>, Vec<_>) = all.iter().partition(ours);
    let best = |of: Vec<&(&str, Measured)>| of.iter().map(|(_, m)| value(m)).fold(0.0, f64::max);
    let list = all
        .iter()
        .map(|(name, m)| format!("{name} {:.0}{unit}", value(m)));
    let list = list.collect::<Vec<_>>().join("  ");
    println!("{what:<44} {list}  ratio {:.2}", best(mine) / best(peers));
}

/// The whole server, which knows its machines and keeps their boot trace.
fn ours(namespace: &Namespace, dir: &Path) -> Option<Peer> {
    let data = dir.join("data");
    std::fs::create_dir(&data).expect("a data directory");
    let (config, control) = (dir.join("bootroom.toml"), dir.join("control.sock"));
    let text = format!(
        "[server]\ndata = {data:?}\ncontrol = {control:?}\ninterface = \"s0\"\naddress = \"10.88.0.1/16\"\n\
         [dhcp]\nrange = \"10.88.1.0-10.88.100.255\"\n\
         [groups.all]\nmacs = [\"*\"]\n[[groups.all.menu.entries]]\ntitle = \"Its own disk\"\nlocal = true\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    Some(Peer::room(namespace, &config, &control))
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

/// What perfdhcp reports, if any exchange succeeded.
fn measure(client: &Namespace, peer: &Peer) -> Option<Measured> {
    // The first, short run waits until the server is there.
    for (machines, seconds) in [("10", "2"), (MACHINES, SECONDS)] {
        let (before, lost) = (peer.cpu(), lost(client));
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
            let rate: f64 = line?.split_whitespace().nth(1)?.parse().ok()?;
            let seconds: f64 = seconds.parse().ok()?;
            let cpu = peer.cpu().saturating_sub(before).as_secs_f64();
            return Some(Measured {
                rate,
                per_cpu: rate * seconds / cpu,
                lost: self::lost(client) - lost,
            });
        }
    }
    None
}

/// Datagrams that this namespace's sockets had no room for, so far: `RcvbufErrors`, the fifth number of `Udp:`.
fn lost(namespace: &Namespace) -> u64 {
    let counters = std::fs::read_to_string(format!("/proc/{}/net/snmp", namespace.pid()));
    let counters = counters.expect("the namespace has counters");
    let udp = counters.lines().rfind(|line| line.starts_with("Udp:"));
    let number = udp.and_then(|line| line.split_whitespace().nth(5)?.parse().ok());
    number.expect("UDP counts what it loses")
}
