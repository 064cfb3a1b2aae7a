//! TFTP: one client's file by block size and window, with either kind of client, and a crowd.

use std::path::Path;
use std::time::Duration;

use bootroom_tests::namespace::Namespace;

use super::bare;
use super::client::{self, Client};
use super::peers::{LIMIT, Peer, enter, median, print_times, timed};

const SIZE: usize = 20 << 20;
const BLOCKS: [u16; 2] = [1432, 512];
const RUNS: usize = 5;
const CROWD: usize = 200;
const CROWD_RUNS: usize = 5;

/// Measures one client with each kind of terms, and the crowd.
pub fn run([single, many]: [bool; 2]) {
    println!("TFTP, {} MiB on loopback, median of {RUNS}", SIZE >> 20);
    let namespace = Namespace::new();
    // tftpd-hpa refuses to start on a host with nothing but a loopback.
    namespace.ip("link add other type veth peer name far");
    namespace.ip("addr add 10.99.0.1/24 dev other");
    namespace.ip("link set other up");
    let dir = tempfile::tempdir().expect("a temporary directory");
    // The peers drop their privileges.
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("chmod");
    let file: Vec<u8> = (0..SIZE).map(|i| (i * 31 % 251) as u8).collect();
    std::fs::write(dir.path().join("file"), &file).expect("the file is written");
    std::fs::write(dir.path().join("small"), &file[..1 << 20]).expect("the file is written");
    let peers = start(&namespace, dir.path().to_str().expect("a plain path"));
    enter(&namespace);
    if single {
        compare_all(&peers);
    }
    if many {
        crowds(&peers);
    }
}

fn compare_all(peers: &[Peer]) {
    for client in [Client::Polling, Client::Gathering] {
        for window in [16, 1] {
            for block in BLOCKS {
                compare(peers, (block, window), client);
            }
        }
    }
}

/// The servers in turn, so that what else the machine does hits all alike.
fn crowds(peers: &[Peer]) {
    let real = peers.iter().filter(|p| p.name != LIMIT);
    let mut results: Vec<_> = real.map(|p| (p, p.cpu(), Vec::new())).collect();
    for _ in 0..CROWD_RUNS {
        for (peer, _, times) in &mut results {
            times.push(timed(|| crowd(peer)));
        }
    }
    for (peer, before, _) in &results {
        let cpu = (peer.cpu() - *before) / CROWD_RUNS as u32;
        println!(
            "  {}: {:.2} s of its processor",
            peer.name,
            cpu.as_secs_f64()
        );
    }
    let middle = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let results = results.into_iter().map(|(p, _, t)| (p.name, middle(t)));
    print_times(
        &format!("{CROWD} clients at once, 1 MiB each"),
        &results.collect::<Vec<_>>(),
    );
}

fn compare(peers: &[Peer], terms: (u16, u16), client: Client) {
    let fetch = |peer| fetch(peer, "file", SIZE, terms, client);
    let results = peers.iter().map(|p| (p.name, median(|| fetch(p), RUNS)));
    let (block, window) = terms;
    let how = format!("{client:?}").to_lowercase();
    print_times(
        &format!("blksize {block}, windowsize {window}, {how}"),
        &results.collect::<Vec<_>>(),
    );
}

/// Runs the limit's server; never returns.
pub fn serve_limit(file: &str, port: &str) {
    let file = std::fs::read(Path::new(file)).expect("the file is there");
    let port = port.parse().expect("a port");
    bare::serve(port, &file, &BLOCKS.map(usize::from)).expect("the limit serves");
}

fn start(namespace: &Namespace, dir: &str) -> Vec<Peer> {
    let ours = [
        "lo",
        "127.0.0.1/8",
        "127.0.0.2-127.0.0.3",
        dir,
        "tftp=6901",
        "http=8001",
        "nodhcp",
    ];
    let root = format!("--tftp-root={dir}");
    let max = format!("--tftp-max={CROWD}");
    let dnsmasq = [
        "--keep-in-foreground",
        "--port=0",
        "--enable-tftp",
        &root,
        "--user=root",
        "--interface=lo",
        &max,
        "--conf-file=/dev/null",
        "--pid-file",
    ];
    let hpa = [
        "--foreground",
        "--ipv4",
        "--address",
        "127.0.0.1:6903",
        "--user",
        "root",
        "--secure",
        dir,
    ];
    let program = std::env::current_exe().expect("this program has a path");
    let program = program.to_str().expect("a plain path");
    let file = format!("{dir}/file");
    let limit = ["limit", &file, "6904"];
    [
        Some(Peer::ours(namespace, 6901, &ours)),
        Peer::start(namespace, "dnsmasq", 69, "dnsmasq", &dnsmasq),
        Peer::start(namespace, "tftpd-hpa", 6903, "in.tftpd", &hpa),
        Peer::start(namespace, LIMIT, 6904, program, &limit),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn crowd(peer: &Peer) {
    let got = client::crowd(peer.port, "small", (1432, 1), CROWD);
    let whole = CROWD << 20;
    assert_eq!(got, whole, "{} sends every client all of it", peer.name);
}

fn fetch(peer: &Peer, name: &str, size: usize, terms: (u16, u16), client: Client) -> Duration {
    timed(|| {
        let got = client::receive(peer.port, name, terms, client);
        assert_eq!(got, size, "{} sends the whole file", peer.name);
    })
}
