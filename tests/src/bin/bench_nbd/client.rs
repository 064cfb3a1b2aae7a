//! The leanest NBD client that keeps a server busy.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustix::net::RecvFlags;

const REQUEST: u32 = 0x2560_9513;
const REPLY: u32 = 0x6744_6698;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
/// Requests of this size and more are large.
const LARGE: u64 = 64 << 10;

/// A connection in the transmission phase, with simple replies.
pub struct Client {
    socket: TcpStream,
    size: u64,
    random: u64,
    buffer: Vec<u8>,
    requests: Vec<u8>,
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
}

struct Run {
    sent: u64,
    position: u64,
    /// Bytes of data that each reply brings, by cookie.
    expected: Vec<usize>,
    free: Vec<usize>,
}

impl Client {
    /// Connects and opens `export`.
    pub fn connect(port: u16, export: &str) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let size = handshake(&mut socket, export).context("NBD handshake")?;
        Ok(Self {
            socket,
            size,
            random: 0x9e37_79b9_7f4a_7c15,
            buffer: vec![0; 2 << 20],
            requests: Vec::new(),
        })
    }

    /// Does `work` for `time`; gives the requests done and the time it took.
    pub fn run(&mut self, work: Work, time: Duration) -> anyhow::Result<(u64, Duration)> {
        let start = Instant::now();
        let mut run = Run {
            sent: 0,
            position: 0,
            expected: vec![0; work.depth],
            free: (0..work.depth).collect(),
        };
        let (mut done, mut have) = (0, 0);
        loop {
            let more = start.elapsed() < time;
            if more {
                self.send(&work, &mut run)?;
            } else if run.free.len() == work.depth {
                return Ok((done, start.elapsed()));
            }
            if work.block >= LARGE {
                self.take_large(&mut run)?;
                done += 1;
                continue;
            }
            have += self.socket.read(&mut self.buffer[have..])?;
            let (count, used) = self.take(&mut run, have)?;
            done += count;
            self.buffer.copy_within(used..have, 0);
            have -= used;
        }
    }

    /// Writes the whole disk once from front to back.
    pub fn fill(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let block = 1 << 20;
        let mut work = Work {
            block,
            depth: 4,
            reads: 0,
            flush_every: 0,
            sequential: true,
        };
        let mut run = Run {
            sent: 0,
            position: 0,
            expected: vec![0; 4],
            free: (0..4).collect(),
        };
        let (mut have, mut done) = (0, 0);
        while done < self.size / block {
            if run.position >= self.size {
                work.depth = 0;
                run.free.truncate(4);
            } else {
                self.send(&work, &mut run)?;
            }
            have += self.socket.read(&mut self.buffer[have..])?;
            let (count, used) = self.take(&mut run, have)?;
            done += count;
            self.buffer.copy_within(used..have, 0);
            have -= used;
        }
        Ok(start.elapsed())
    }

    fn send(&mut self, work: &Work, run: &mut Run) -> anyhow::Result<()> {
        self.requests.clear();
        while let Some(cookie) = run.free.pop() {
            run.sent += 1;
            let flush = work.flush_every > 0 && run.sent.is_multiple_of(work.flush_every + 1);
            let command = match flush {
                true => FLUSH,
                false if self.next_random() % 100 < work.reads => READ,
                false => WRITE,
            };
            let offset = self.place(work, run, flush);
            let length = if flush { 0 } else { work.block as u32 };
            put_request(&mut self.requests, command, cookie as u64, offset, length);
            run.expected[cookie] = if command == READ {
                work.block as usize
            } else {
                0
            };
            if command == WRITE {
                let start = self.requests.len();
                self.requests
                    .resize(start + work.block as usize, cookie as u8 + 1);
            }
            if work.sequential && run.position >= self.size {
                break;
            }
        }
        Ok(self.socket.write_all(&self.requests)?)
    }

    fn place(&mut self, work: &Work, run: &mut Run, flush: bool) -> u64 {
        match (flush, work.sequential) {
            (true, _) => 0,
            (false, false) => self.next_random() % (self.size / work.block) * work.block,
            (false, true) => {
                let at = run.position;
                run.position += work.block;
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

    /// Takes one reply whose data the kernel throws away: copying it would hide how fast the server is.
    fn take_large(&mut self, run: &mut Run) -> anyhow::Result<()> {
        let mut head = [0; 16];
        self.socket.read_exact(&mut head)?;
        ensure!(head[..4] == REPLY.to_be_bytes(), "not a reply");
        ensure!(head[4..8] == [0; 4], "a request failed");
        let cookie = u64::from_be_bytes(head[8..].try_into()?) as usize;
        let mut left = run.expected[cookie];
        while left > 0 {
            let most = left.min(self.buffer.len());
            let (_, count) =
                rustix::net::recv(&self.socket, &mut self.buffer[..most], RecvFlags::TRUNC)?;
            ensure!(count > 0, "the server closed the connection");
            left -= count;
        }
        run.free.push(cookie);
        Ok(())
    }

    /// Counts the whole replies among the first `have` bytes.
    fn take(&self, run: &mut Run, have: usize) -> anyhow::Result<(u64, usize)> {
        let (mut count, mut used) = (0, 0);
        while have - used >= 16 {
            let head = &self.buffer[used..used + 16];
            ensure!(head[..4] == REPLY.to_be_bytes(), "not a reply");
            ensure!(head[4..8] == [0; 4], "a request failed");
            let cookie = u64::from_be_bytes(head[8..].try_into()?) as usize;
            let length = 16 + run.expected[cookie];
            if have - used < length {
                break;
            }
            used += length;
            count += 1;
            run.free.push(cookie);
        }
        Ok((count, used))
    }
}

fn put_request(out: &mut Vec<u8>, command: u16, cookie: u64, offset: u64, length: u32) {
    out.extend(REQUEST.to_be_bytes());
    out.extend([0; 2]);
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(length.to_be_bytes());
}

/// EXPORT_NAME, which every server knows; gives the size.
fn handshake(socket: &mut TcpStream, export: &str) -> anyhow::Result<u64> {
    let mut greeting = [0; 18];
    socket.read_exact(&mut greeting)?;
    if &greeting[..16] != b"NBDMAGICIHAVEOPT" {
        bail!("no newstyle server");
    }
    let no_zeroes = greeting[17] & 2;
    let mut hello = vec![0, 0, 0, 1 | no_zeroes];
    hello.extend(b"IHAVEOPT");
    hello.extend(1u32.to_be_bytes());
    hello.extend((export.len() as u32).to_be_bytes());
    hello.extend(export.as_bytes());
    socket.write_all(&hello)?;
    let mut answer = vec![0; if no_zeroes != 0 { 10 } else { 134 }];
    socket.read_exact(&mut answer)?;
    Ok(u64::from_be_bytes(answer[..8].try_into()?))
}
