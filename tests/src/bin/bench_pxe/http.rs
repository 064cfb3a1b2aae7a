//! HTTP beside nginx: a file of a kernel's and initrd's size to a room of machines at once.

use std::io::{Read, Write};
use std::net::TcpStream;

use bootroom_tests::namespace::Namespace;
use rustix::net::RecvFlags;

use super::peers::{Peer, enter, median, print_times, timed};

const SIZE: usize = 60 << 20;
const CROWD: usize = 100;
const RUNS: usize = 3;

/// Measures all.
pub fn run() {
    println!(
        "HTTP, {} MiB to {CROWD} clients on loopback, median of {RUNS}",
        SIZE >> 20
    );
    let namespace = Namespace::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .expect("chmod");
    std::fs::write(dir.path().join("file"), vec![7; SIZE]).expect("the file is written");
    let peers = start(&namespace, dir.path().to_str().expect("a plain path"));
    enter(&namespace);
    let results: Vec<_> = peers
        .iter()
        .map(|p| (p.name, median(|| timed(|| crowd(p)), RUNS)))
        .collect();
    print_times("all clients served", &results);
    let results: Vec<_> = peers
        .iter()
        .map(|p| (p.name, median(|| timed(|| fetch(p.port)), RUNS)))
        .collect();
    print_times("one client", &results);
}

fn start(namespace: &Namespace, dir: &str) -> Vec<Peer> {
    let config = format!("{dir}/nginx.conf");
    // One process, since it has one processor, and workers would outlive a master that is killed.
    let text = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log /dev/null;\n\
         events {{ worker_connections 1024; }}\n\
         http {{ sendfile on; tcp_nopush on; access_log off;\n\
         server {{ listen 127.0.0.1:8002; root {dir}; }} }}\n"
    );
    std::fs::write(&config, text).expect("the configuration is written");
    let ours = [
        "lo",
        "127.0.0.1/8",
        "127.0.0.2-127.0.0.3",
        dir,
        "tftp=6901",
        "http=8001",
        "nodhcp",
    ];
    [
        Some(Peer::ours(namespace, 8001, &ours)),
        Peer::start(namespace, "nginx", 8002, "nginx", &["-c", &config]),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn crowd(peer: &Peer) {
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| fetch(peer.port));
        }
    });
}

fn fetch(port: u16) {
    // The server may still be starting.
    let mut stream = bootroom_tests::deadline::wait_for(
        "the server",
        std::time::Duration::from_secs(10),
        || TcpStream::connect(("127.0.0.1", port)).ok(),
    );
    stream
        .write_all(b"GET /file HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("the request is sent");
    let mut head = Vec::new();
    let body = loop {
        let mut part = [0; 512];
        let n = stream.read(&mut part).expect("the head arrives");
        assert!(n > 0, "the server answers");
        head.extend(&part[..n]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            break head.len() - end - 4;
        }
    };
    assert!(head.starts_with(b"HTTP/1.1 200"), "the file is there");
    assert_eq!(body + drain(&stream), SIZE, "the whole file arrives");
}

/// Takes all that comes; TRUNC throws it away in the kernel, so that the client costs little.
fn drain(stream: &TcpStream) -> usize {
    let mut sink = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match rustix::net::recv(stream, &mut sink[..], RecvFlags::TRUNC) {
            Ok((_, 0)) => return total,
            Ok((_, n)) => total += n,
            Err(error) => panic!("the connection broke: {error}"),
        }
    }
}
