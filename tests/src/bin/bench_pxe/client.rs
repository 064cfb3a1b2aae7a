//! A TFTP client that does as little as it can between packets, and a crowd of them in one thread.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::RecvFlags;

use super::socket;

/// How a client takes packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Polls, so that what is measured is not how long it takes to wake it up.
    Polling,
    /// Polls, and takes what the server handed over in one piece in one piece (UDP_GRO), so that what is measured is
    /// not its own system calls either: in life they are another machine's. From a server that sends its packets
    /// one by one it gets them one by one.
    Gathering,
}

/// One fetch under way.
struct Fetch {
    socket: UdpSocket,
    block: usize,
    window: u16,
    done: usize,
    expected: u16,
    pending: u16,
}

/// Fetches a file; says how long it was. Repeats itself after a second of silence, as clients do.
pub fn receive(port: u16, name: &str, terms: (u16, u16), client: Client) -> usize {
    let mut packet = vec![0; 65536];
    let mut fetch = Fetch::new(terms, client);
    let mut len = fetch.first(port, name, &mut packet);
    while !fetch.take(&packet[..len]) {
        len = loop {
            match fetch.next(&mut packet) {
                Some(len) => break len,
                None => fetch.repeat(),
            }
        };
    }
    fetch.done
}

/// Opens `count` transfers of the same file, then fetches them all at once; says how many bytes came in all.
pub fn crowd(port: u16, name: &str, terms: (u16, u16), count: usize) -> usize {
    let mut packet = vec![0; 65536];
    let open = |_| {
        let fetch = Fetch::new(terms, Client::Polling);
        let len = fetch.first(port, name, &mut packet);
        (fetch, packet[..len].to_vec())
    };
    let opened: Vec<_> = (0..count).map(open).collect();
    let begin = |(mut fetch, answer): (Fetch, Vec<u8>)| {
        fetch.take(&answer);
        fetch
    };
    let mut running: Vec<Fetch> = opened.into_iter().map(begin).collect();
    let mut total = 0;
    while !running.is_empty() {
        let ready = ready(&running);
        for at in ready.into_iter().rev() {
            if running[at].take_all(&mut packet) {
                total += running.swap_remove(at).done;
            }
        }
    }
    total
}

/// Which of them have packets. After a second of silence all repeat themselves.
fn ready(running: &[Fetch]) -> Vec<usize> {
    let sockets = running
        .iter()
        .map(|f| PollFd::new(&f.socket, PollFlags::IN));
    let mut sockets: Vec<_> = sockets.collect();
    let second = Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    if poll(&mut sockets, Some(&second)).expect("sockets can be polled") == 0 {
        running.iter().for_each(Fetch::repeat);
    }
    let found = sockets.iter().enumerate();
    found
        .filter(|(_, socket)| !socket.revents().is_empty())
        .map(|(at, _)| at)
        .collect()
}

impl Fetch {
    fn new((block, window): (u16, u16), client: Client) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let timeout = Some(Duration::from_secs(1));
        socket.set_read_timeout(timeout).expect("a timeout");
        if client == Client::Gathering {
            socket::gather(&socket).expect("the kernel has UDP_GRO");
        }
        let (block, done, expected, pending) = (block.into(), 0, 1, 0);
        Self {
            socket,
            block,
            window,
            done,
            expected,
            pending,
        }
    }

    /// Asks until something answers: the server may still be starting.
    fn first(&self, port: u16, name: &str, packet: &mut [u8]) -> usize {
        let request = &request(name, self.block, self.window);
        let first = (0..30).find_map(|_| {
            let sent = self.socket.send_to(request, ("127.0.0.1", port));
            sent.expect("the request is sent");
            self.socket.recv_from(packet).ok()
        });
        let (len, from) = first.unwrap_or_else(|| panic!("nothing answers at port {port}"));
        self.socket.connect(from).expect("the socket connects");
        len
    }

    /// Takes one packet, or several in one piece; says whether the file is whole.
    fn take(&mut self, bytes: &[u8]) -> bool {
        match bytes[1] {
            3 => bytes.chunks(self.block + 4).any(|packet| self.data(packet)),
            6 => {
                // What a server does not know it leaves out.
                let text = String::from_utf8_lossy(&bytes[2..]).to_lowercase();
                let knows = |option| text.contains(option);
                self.window = if knows("windowsize") { self.window } else { 1 };
                self.block = if knows("blksize") { self.block } else { 512 };
                self.ack(0);
                false
            }
            _ => panic!("the server answers {:?}", String::from_utf8_lossy(bytes)),
        }
    }

    fn data(&mut self, packet: &[u8]) -> bool {
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        if number != self.expected {
            return false;
        }
        self.done += packet.len() - 4;
        self.expected = self.expected.wrapping_add(1);
        self.pending += 1;
        let last = packet.len() - 4 < self.block;
        if self.pending == self.window || last {
            self.pending = 0;
            self.ack(number);
        }
        last
    }

    /// The next packet; None after a second of silence.
    fn next(&self, packet: &mut [u8]) -> Option<usize> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match rustix::net::recv(&self.socket, &mut *packet, RecvFlags::DONTWAIT) {
                Ok((len, _)) => return Some(len),
                Err(_) if Instant::now() > deadline => return None,
                Err(_) => std::thread::yield_now(),
            }
        }
    }

    /// Takes every packet that is there; says whether the file is whole.
    fn take_all(&mut self, packet: &mut [u8]) -> bool {
        while let Ok((len, _)) = rustix::net::recv(&self.socket, &mut *packet, RecvFlags::DONTWAIT)
        {
            if self.take(&packet[..len]) {
                return true;
            }
        }
        false
    }

    fn repeat(&self) {
        self.ack(self.expected.wrapping_sub(1));
    }

    fn ack(&self, block: u16) {
        let [high, low] = block.to_be_bytes();
        let sent = self.socket.send(&[0, 4, high, low]);
        sent.expect("the ACK is sent");
    }
}

fn request(name: &str, block: usize, window: u16) -> Vec<u8> {
    let mut request = format!("\0\x01{name}\0octet\0blksize\0{block}\0");
    if window > 1 {
        request += &format!("windowsize\0{window}\0");
    }
    request.into_bytes()
}
