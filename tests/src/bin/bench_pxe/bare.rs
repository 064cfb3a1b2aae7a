//! The limit: a TFTP server of one thread that holds the file in memory as ready packets, checks nothing, never sleeps,
//! and sends a window in one system call. What a client needs with it is the client's own time and the kernel's.

use std::net::{SocketAddr, UdpSocket};

use rustix::net::{RecvFlags, recv};

use super::socket;

/// Serves the same bytes whatever is asked for, one client after the other, in blocks of these sizes.
pub fn serve(port: u16, file: &[u8], blocks: &[usize]) -> std::io::Result<()> {
    let ready: Vec<_> = blocks.iter().map(|b| (*b, packets(file, *b))).collect();
    let listener = UdpSocket::bind(("127.0.0.1", port))?;
    let mut request = [0; 512];
    loop {
        let (len, client) = listener.recv_from(&mut request)?;
        let asked = |name| option(&request[2..len], name);
        let block = asked("blksize").unwrap_or(512);
        if let Some((_, packets)) = ready.iter().find(|(b, _)| *b == block) {
            // A client that leaves ends its transfer only.
            let _ = transfer(client, packets, block, asked("windowsize").unwrap_or(1));
        }
    }
}

fn option(request: &[u8], name: &str) -> Option<usize> {
    let mut words = request.split(|b| *b == 0);
    words.find(|word| *word == name.as_bytes())?;
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

fn transfer(
    client: SocketAddr,
    packets: &[u8],
    block: usize,
    window: usize,
) -> std::io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(client)?;
    if window > 1 {
        socket::segment(&socket, block + 4)?;
    }
    socket.send(format!("\0\x06blksize\0{block}\0windowsize\0{window}\0").as_bytes())?;
    for flight in packets.chunks(window * (block + 4)) {
        wait(&socket)?;
        socket.send(flight)?;
    }
    wait(&socket)
}

fn packets(file: &[u8], block: usize) -> Vec<u8> {
    let mut packets = Vec::with_capacity(file.len() + file.len() / block * 4 + 8);
    for number in 0..=file.len() / block {
        let [high, low] = (number as u16 + 1).to_be_bytes();
        packets.extend([0, 3, high, low]);
        packets.extend(&file[number * block..file.len().min((number + 1) * block)]);
    }
    packets
}

/// Until an ACK comes; which one, a client on loopback need not be asked.
fn wait(socket: &UdpSocket) -> std::io::Result<()> {
    let mut ack = [0; 4];
    loop {
        match recv(socket, &mut ack[..], RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => std::hint::spin_loop(),
            done => return done.map(|_| ()).map_err(Into::into),
        }
    }
}
