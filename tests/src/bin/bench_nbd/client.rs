//! The leanest NBD client that keeps a server busy.
//!
//! It copies as little as it can, so that what is measured is the server: payloads are sent from where they lie, and
//! the data of reads is thrown away by the kernel. For large reads it polls, since a server that has to wake its client
//! for every 64 KiB pays more for that than for anything that it does itself.

#[path = "secured.rs"]
mod secured;

use std::{
    io::{self, IoSlice, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::{io::Errno, net::RecvFlags};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use secured::Secured;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const EXPORT_NAME: u32 = 1;
const STARTTLS: u32 = 5;
const ACK: u32 = 1;
/// Bytes of a request's and a simple reply's head.
const REQUEST_HEAD: usize = 28;
const REPLY_HEAD: usize = 16;
/// Requests of this size and more are large. Bytes.
const LARGE: u64 = 64 << 10;
/// How long a server may be silent.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest request, in bytes.
const LARGEST: usize = 1 << 20;

/// What the protocol goes over.
enum Wire {
    Plain(TcpStream),
    Secured(Box<Secured>),
}

/// A connection in the transmission phase, with simple replies.
pub struct Client {
    wire: Wire,
    size: u64,
    random: u64,
    /// What is received and looked at.
    buffer: Vec<u8>,
    have: usize,
    /// What writes write.
    payload: Vec<u8>,
}

/// What to do, again and again.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Bytes of each request.
    pub block: u64,
    /// Requests under way at a time.
    pub depth: usize,
    /// Of 100 requests, how many are reads.
    pub reads: u64,
    /// A flush follows so many requests; 0 is none.
    pub flush_every: u64,
    /// One after the other instead of at random places.
    pub sequential: bool,
}

impl Work {
    /// Random requests.
    pub const fn random(block: u64, depth: usize, reads: u64) -> Self {
        Self {
            block,
            depth,
            reads,
            flush_every: 0,
            sequential: false,
        }
    }

    /// Whether all replies are equally long: then their bytes tell how many there are.
    fn is_only_reads(&self) -> bool {
        self.reads == 100 && self.flush_every == 0
    }
}

/// One request on its way out.
struct Request {
    head: [u8; REQUEST_HEAD],
    payload: usize,
}

struct Run {
    work: Work,
    sent: u64,
    position: u64,
    /// Bytes of data that each reply brings, by cookie.
    expected: Vec<usize>,
    free: Vec<usize>,
    /// Bytes of a reply that were counted before its end.
    part: usize,
}

impl Run {
    fn new(work: Work) -> Self {
        Self {
            work,
            sent: 0,
            position: 0,
            expected: vec![0; work.depth],
            free: (0..work.depth).collect(),
            part: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.work.depth
    }
}

impl Client {
    /// Connects to a port of this host and opens `export`.
    pub fn connect(port: u16, export: &str) -> anyhow::Result<Self> {
        Self::connect_to(("127.0.0.1", port), export)
    }

    /// The same anywhere.
    pub fn connect_to(place: impl ToSocketAddrs, export: &str) -> anyhow::Result<Self> {
        let mut socket = socket(place)?;
        let no_zeroes = greet(&mut socket)?;
        let size = open(&mut socket, export, no_zeroes).context("NBD handshake")?;
        Ok(Self::new(Wire::Plain(socket), size))
    }

    /// As [`Client::connect`], over TLS with `localhost`.
    #[allow(
        dead_code,
        reason = "the other program that has this client has no use for it"
    )]
    pub fn connect_secured(
        port: u16,
        export: &str,
        config: Arc<ClientConfig>,
    ) -> anyhow::Result<Self> {
        let mut socket = socket(("127.0.0.1", port))?;
        let no_zeroes = greet(&mut socket)?;
        start_tls(&mut socket)?;
        let mut session = ClientConnection::new(config, "localhost".try_into()?)?;
        session.set_buffer_limit(None);
        let mut stream = StreamOwned::new(session, socket);
        let size = open(&mut stream, export, no_zeroes).context("NBD handshake")?;
        let secured = Secured::new(stream)?;
        Ok(Self::new(Wire::Secured(Box::new(secured)), size))
    }

    fn new(wire: Wire, size: u64) -> Self {
        Self {
            wire,
            size,
            random: 0x9e37_79b9_7f4a_7c15,
            buffer: vec![0; 2 << 20],
            have: 0,
            payload: (0..LARGEST).map(|i| (i % 251) as u8 + 1).collect(),
        }
    }

    /// Does `work` for `time`; gives the requests done and the time it took.
    pub fn run(&mut self, work: Work, time: Duration) -> anyhow::Result<(u64, Duration)> {
        let start = Instant::now();
        let mut run = Run::new(work);
        let mut done = 0;
        loop {
            if start.elapsed() < time {
                self.send(&mut run)?;
            } else if run.is_idle() {
                return Ok((done, start.elapsed()));
            }
            done += self.receive(&mut run)?;
        }
    }

    /// Writes the whole disk once from front to back.
    pub fn fill(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let mut run = Run::new(Work {
            sequential: true,
            ..Work::random(LARGEST as u64, 4, 0)
        });
        loop {
            if run.position < self.size {
                self.send(&mut run)?;
            } else if run.is_idle() {
                return Ok(start.elapsed());
            }
            self.receive(&mut run)?;
        }
    }

    fn receive(&mut self, run: &mut Run) -> anyhow::Result<u64> {
        if run.work.is_only_reads() {
            return self.count(run);
        }
        let (buffer, have) = (&mut self.buffer, &mut self.have);
        match &mut self.wire {
            Wire::Plain(socket) => *have += socket.read(&mut buffer[*have..])?,
            Wire::Secured(secured) => secured.receive(
                |mut socket, room| Ok(socket.read(room)?),
                |content| {
                    buffer[*have..*have + content.len()].copy_from_slice(content);
                    *have += content.len();
                },
            )?,
        }
        let (count, used) = self.take(run)?;
        self.buffer.copy_within(used..self.have, 0);
        self.have -= used;
        Ok(count)
    }

    fn send(&mut self, run: &mut Run) -> anyhow::Result<()> {
        let mut requests = Vec::with_capacity(run.work.depth);
        while let Some(cookie) = run.free.pop() {
            requests.push(self.request(run, cookie));
            if run.work.sequential && run.position >= self.size {
                break;
            }
        }
        let mut slices = Vec::with_capacity(2 * requests.len());
        for request in &requests {
            slices.push(IoSlice::new(&request.head));
            if request.payload > 0 {
                slices.push(IoSlice::new(&self.payload[..request.payload]));
            }
        }
        match &mut self.wire {
            Wire::Plain(socket) => send_all(socket, &mut slices)?,
            Wire::Secured(secured) => secured.send(&slices)?,
        }
        Ok(())
    }

    fn request(&mut self, run: &mut Run, cookie: usize) -> Request {
        run.sent += 1;
        let flush = run.work.flush_every > 0 && run.sent.is_multiple_of(run.work.flush_every + 1);
        let command = match flush {
            true => FLUSH,
            false if self.next_random() % 100 < run.work.reads => READ,
            false => WRITE,
        };
        let offset = self.place(run, flush);
        let length = if flush { 0 } else { run.work.block as usize };
        run.expected[cookie] = if command == READ { length } else { 0 };
        Request {
            head: head(command, cookie as u64, offset, length as u32),
            payload: if command == WRITE { length } else { 0 },
        }
    }

    fn place(&mut self, run: &mut Run, flush: bool) -> u64 {
        let block = run.work.block;
        match (flush, run.work.sequential) {
            (true, _) => 0,
            (false, false) => self.next_random() % (self.size / block) * block,
            (false, true) => {
                let at = run.position;
                run.position += block;
                at
            }
        }
    }

    fn next_random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Has the kernel throw replies to reads away, and counts them by their bytes. A failed request brings fewer, so
    /// that the last reply never comes and the run fails with a timeout.
    fn count(&mut self, run: &mut Run) -> anyhow::Result<u64> {
        let length = REPLY_HEAD + run.work.block as usize;
        let count = self.discard(run.work.block >= LARGE)?;
        ensure!(count > 0, "the server closed the connection");
        run.part += count;
        let whole = run.part / length;
        run.part %= length;
        // Which cookies these were does not matter, since all are alike.
        let under_way = run.work.depth - run.free.len();
        ensure!(whole <= under_way, "more replies than requests");
        run.free.extend(0..whole);
        Ok(whole as u64)
    }

    /// Throws away what has come; says how much it was.
    fn discard(&mut self, polling: bool) -> anyhow::Result<usize> {
        match &mut self.wire {
            Wire::Plain(socket) => discard(socket, &mut self.buffer, polling),
            Wire::Secured(secured) => {
                let mut count = 0;
                secured.receive(
                    |socket, room| take(socket, room, polling),
                    |content| count += content.len(),
                )?;
                Ok(count)
            }
        }
    }

    /// Counts the whole replies in the buffer, and their bytes.
    fn take(&self, run: &mut Run) -> anyhow::Result<(u64, usize)> {
        let (mut count, mut used) = (0, 0);
        while self.have - used >= REPLY_HEAD {
            let head = &self.buffer[used..used + REPLY_HEAD];
            ensure!(head[..4] == REPLY.to_be_bytes(), "not a reply");
            ensure!(head[4..8] == [0; 4], "a request failed");
            let cookie = u64::from_be_bytes(head[8..].try_into()?) as usize;
            let length = REPLY_HEAD + run.expected[cookie];
            if self.have - used < length {
                break;
            }
            used += length;
            count += 1;
            run.free.push(cookie);
        }
        Ok((count, used))
    }
}

fn head(command: u16, cookie: u64, offset: u64, length: u32) -> [u8; REQUEST_HEAD] {
    let mut head = [0; REQUEST_HEAD];
    head[..4].copy_from_slice(&REQUEST.to_be_bytes());
    head[6..8].copy_from_slice(&command.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    head[16..24].copy_from_slice(&offset.to_be_bytes());
    head[24..].copy_from_slice(&length.to_be_bytes());
    head
}

fn send_all(socket: &mut TcpStream, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    while !slices.is_empty() {
        let sent = socket.write_vectored(slices)?;
        IoSlice::advance_slices(&mut slices, sent);
    }
    Ok(())
}

/// The kernel throws it away.
fn discard(socket: &TcpStream, buffer: &mut [u8], polling: bool) -> anyhow::Result<usize> {
    let now = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
    match polling {
        true => ask_again(|| rustix::net::recv(socket, &mut *buffer, now)),
        false => Ok(rustix::net::recv(socket, buffer, RecvFlags::TRUNC)?),
    }
    .map(|(_, count)| count)
}

/// Takes what has come.
fn take(socket: &TcpStream, room: &mut [u8], polling: bool) -> anyhow::Result<usize> {
    match polling {
        true => ask_again(|| rustix::net::recv(socket, &mut *room, RecvFlags::DONTWAIT)),
        false => Ok(rustix::net::recv(socket, room, RecvFlags::empty())?),
    }
    .map(|(_, count)| count)
}

/// Asks until something has come, so that nobody has to wake this thread.
fn ask_again<T>(mut receive: impl FnMut() -> rustix::io::Result<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match receive() {
            Err(Errno::AGAIN) if Instant::now() < deadline => {}
            result => return Ok(result?),
        }
    }
}

fn socket(place: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(place)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Exchanges greetings; true if EXPORT_NAME's answer ends without zeros.
fn greet(socket: &mut TcpStream) -> anyhow::Result<bool> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
        bail!("no newstyle server");
    }
    let no_zeroes = greeting[17] & 2;
    socket.write_all(&[0, 0, 0, 1 | no_zeroes])?;
    Ok(no_zeroes != 0)
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"IHAVEOPT".to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn start_tls(socket: &mut TcpStream) -> anyhow::Result<()> {
    socket.write_all(&option(STARTTLS, &[]))?;
    let mut answer = [0; 20];
    socket.read_exact(&mut answer)?;
    ensure!(answer[12..16] == ACK.to_be_bytes(), "the server has no TLS");
    Ok(())
}

/// EXPORT_NAME, which every server knows; gives the size.
fn open(stream: &mut (impl Read + Write), export: &str, no_zeroes: bool) -> anyhow::Result<u64> {
    stream.write_all(&option(EXPORT_NAME, export.as_bytes()))?;
    let mut answer = vec![0; if no_zeroes { 10 } else { 134 }];
    stream.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer[..8].try_into()?))
}
