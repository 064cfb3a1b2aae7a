//! TFTP, with a client that does as little as it can between packets: one alone polls its socket, so that what is
//! measured is not how long it takes to wake it up.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use bootroom_tests::namespace::Namespace;
use rustix::net::RecvFlags;

use super::peers::{Peer, enter, median, print_times, timed};

const SIZE: usize = 20 << 20;
const RUNS: usize = 3;
const CROWD: usize = 200;

/// Measures all.
pub fn run() {
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
    for (block, window) in [(1432, 16), (512, 16), (1432, 1), (512, 1)] {
        let results = peers.iter().map(|p| {
            (
                p.name,
                median(|| fetch(p, "file", SIZE, (block, window), true), RUNS),
            )
        });
        print_times(
            &format!("blksize {block}, windowsize {window}"),
            &results.collect::<Vec<_>>(),
        );
    }
    let results: Vec<_> = peers.iter().map(|p| (p.name, timed(|| crowd(p)))).collect();
    print_times(&format!("{CROWD} clients at once, 1 MiB each"), &results);
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
    [
        Some(Peer::ours(namespace, 6901, &ours)),
        Peer::start(namespace, "dnsmasq", 69, "dnsmasq", &dnsmasq),
        Peer::start(namespace, "tftpd-hpa", 6903, "in.tftpd", &hpa),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn crowd(peer: &Peer) {
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| fetch(peer, "small", 1 << 20, (1432, 1), false));
        }
    });
}

fn fetch(peer: &Peer, name: &str, size: usize, terms: (u16, u16), polling: bool) -> Duration {
    timed(|| {
        let got = receive(peer.port, name, terms, polling);
        assert_eq!(got, size, "{} sends the whole file", peer.name);
    })
}

/// Fetches a file; says how long it was. Repeats itself after a second of silence, as clients do.
fn receive(port: u16, name: &str, (block, window): (u16, u16), polling: bool) -> usize {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a timeout");
    let request = request(name, block, window);
    socket
        .send_to(&request, ("127.0.0.1", port))
        .expect("the request is sent");
    let mut packet = vec![0; 65536];
    // The server may still be starting.
    let first = (0..30).find_map(|_| {
        socket
            .send_to(&request, ("127.0.0.1", port))
            .expect("the request is sent");
        socket.recv_from(&mut packet).ok()
    });
    let (mut len, from) = first.unwrap_or_else(|| panic!("nothing answers at port {port}"));
    let (mut block, mut window) = (usize::from(block), window);
    let (mut done, mut expected, mut pending) = (0, 1u16, 0);
    loop {
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        match packet[1] {
            6 => {
                // What a server does not know it leaves out.
                let text = String::from_utf8_lossy(&packet[2..len]).to_lowercase();
                window = if text.contains("windowsize") {
                    window
                } else {
                    1
                };
                block = if text.contains("blksize") { block } else { 512 };
                socket.connect(from).expect("the socket connects");
                send_ack(&socket, 0);
            }
            3 if number == expected => {
                done += len - 4;
                expected = expected.wrapping_add(1);
                pending += 1;
                let last = len - 4 < block;
                if pending == window || last {
                    pending = 0;
                    send_ack(&socket, number);
                }
                if last {
                    return done;
                }
            }
            3 => {}
            _ => panic!(
                "the server answers {:?}",
                String::from_utf8_lossy(&packet[..len])
            ),
        }
        len = loop {
            match next(&socket, &mut packet, polling) {
                Some(len) => break len,
                None => send_ack(&socket, expected.wrapping_sub(1)),
            }
        };
    }
}

/// The next packet; None after a second of silence.
fn next(socket: &UdpSocket, packet: &mut [u8], polling: bool) -> Option<usize> {
    if !polling {
        return socket.recv(packet).ok();
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match rustix::net::recv(socket, &mut *packet, RecvFlags::DONTWAIT) {
            Ok((len, _)) => return Some(len),
            Err(_) if Instant::now() > deadline => return None,
            Err(_) => std::thread::yield_now(),
        }
    }
}

fn send_ack(socket: &UdpSocket, block: u16) {
    let [high, low] = block.to_be_bytes();
    socket.send(&[0, 4, high, low]).expect("the ACK is sent");
}

fn request(name: &str, block: u16, window: u16) -> Vec<u8> {
    let mut request = vec![0, 1];
    let options = [("blksize", block), ("windowsize", window)];
    let mut put = |text: &str| {
        request.extend(text.as_bytes());
        request.push(0);
    };
    put(name);
    put("octet");
    for (option, value) in options.iter().filter(|(o, v)| *o != "windowsize" || *v > 1) {
        put(option);
        put(&value.to_string());
    }
    request
}
