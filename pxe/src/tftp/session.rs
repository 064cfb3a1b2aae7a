//! One transfer on its own socket.

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::net::UdpSocket;
use tracing::debug;

use super::blocks::Blocks;
use super::packet::{self, ErrorCode, FromClient};
use super::patience::Patience;
use super::service::Shared;
use super::transfer::{Step, Terms, Transfer};
use crate::error::{Error, Result};
use crate::files::Source;
use crate::net::{self, Sharing};
use crate::policy::{Happening, Outcome, Protocol};
use crate::stop::Stop;
use crate::sys::{self, Received};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(1);
/// What the kernel cuts into packets at a time: packets, and bytes.
const MOST_SEGMENTS: usize = 64;
const MOST_BYTES: usize = 60_000;

pub(super) struct Session {
    shared: Arc<Shared>,
    from: Received,
    path: String,
    size: u64,
    terms: Terms,
    source: Source,
}

/// How a window is sent: many packets in one call where the kernel and the interface can (UDP_SEGMENT).
struct Sender {
    socket: UdpSocket,
    stride: usize,
    segments: bool,
    patience: Patience,
}

impl Session {
    pub fn new(
        shared: Arc<Shared>,
        from: Received,
        path: String,
        source: Source,
        terms: Terms,
    ) -> Self {
        let size = source.len();
        Self {
            shared,
            from,
            path,
            size,
            terms,
            source,
        }
    }

    /// Sends the file, and tells of it.
    pub async fn run(self, stop: Stop) -> Result<()> {
        let blocks = Blocks::new(
            self.source.clone(),
            self.terms.block_size,
            self.terms.window,
        );
        let sender = Sender::open(&self.shared, self.from, blocks.stride(), self.terms.window)?;
        let (protocol, path, size) = (Protocol::Tftp, self.path.clone(), self.size);
        self.shared.tell(
            self.from,
            Happening::TransferStart {
                protocol,
                path,
                size,
            },
        );
        let (done, outcome) = self.transfer(blocks, sender, stop).await;
        let path = self.path.clone();
        self.shared.tell(
            self.from,
            Happening::TransferEnd {
                protocol,
                path,
                done,
                outcome,
            },
        );
        Ok(())
    }

    async fn transfer(
        &self,
        mut blocks: Blocks,
        mut sender: Sender,
        mut stop: Stop,
    ) -> (u64, Outcome) {
        let give_up = self.shared.config.give_up;
        let (mut transfer, mut step) =
            Transfer::start(self.terms.clone(), self.size, give_up, Instant::now());
        let (mut buffer, mut told) = ([0; 256], Instant::now());
        loop {
            let sent = match step {
                Step::Wait => Ok(()),
                Step::SendOptions => {
                    sender
                        .send(self.terms.option_ack.as_deref().unwrap_or_default())
                        .await
                }
                Step::Send { first, count } => sender.blocks(&mut blocks, first, count).await,
                Step::End(outcome) => return (transfer.done(), outcome),
            };
            if let Err(error) = sent {
                sender.say_error(&error).await;
                return (transfer.done(), ended_by(&transfer, error));
            }
            // While the client takes what was sent.
            blocks.ahead(transfer.next());
            if self.shared.is_crowded() {
                transfer.hurry();
            }
            let deadline = transfer.deadline();
            let received = tokio::select! {
                biased;
                received = sender.receive(&mut buffer, deadline, self.shared.is_alone()) => received,
                () = stop.stopped() => return (transfer.done(), Outcome::Shutdown),
            };
            let now = Instant::now();
            step = match received {
                Ok(Some(len)) => react(&mut transfer, &buffer[..len], now),
                Ok(None) => transfer.on_timeout(now),
                Err(error) => return (transfer.done(), ended_by(&transfer, error)),
            };
            if now.duration_since(told) >= PROGRESS {
                told = now;
                self.progress(transfer.done());
            }
        }
    }

    fn progress(&self, done: u64) {
        let (protocol, path, size) = (Protocol::Tftp, self.path.clone(), self.size);
        self.shared.tell(
            self.from,
            Happening::TransferProgress {
                protocol,
                path,
                done,
                size,
            },
        );
    }
}

fn react(transfer: &mut Transfer, bytes: &[u8], now: Instant) -> Step {
    match packet::decode(bytes) {
        Ok(FromClient::Ack(block)) => transfer.on_ack(block, now),
        Ok(FromClient::Error(_, words)) => transfer.on_error(words),
        Ok(FromClient::Read(_) | FromClient::Write) | Err(_) => Step::Wait,
    }
}

/// A client that closed its port has left; before the first block, it only wanted to know the size.
fn ended_by(transfer: &Transfer, error: io::Error) -> Outcome {
    let left = error.kind() == io::ErrorKind::ConnectionRefused;
    match left && transfer.done() == 0 && transfer.terms().size_asked {
        true => Outcome::SizeProbe,
        false if left => Outcome::Aborted("the client closed its port".into()),
        false => Outcome::ReadError(error.to_string()),
    }
}

impl Sender {
    fn open(shared: &Shared, from: Received, stride: usize, window: u16) -> Result<Self> {
        let local = SocketAddrV4::new(from.local, 0);
        let socket = net::udp(shared.config.interface.as_deref(), local, Sharing::Alone)?;
        let failed = |e| Error::io("cannot open a transfer's socket", e);
        socket
            .connect(&SocketAddr::from(from.source).into())
            .map_err(failed)?;
        let segments = window > 1 && set_segments(&socket, stride).is_ok();
        let socket = UdpSocket::from_std(socket.into()).map_err(failed)?;
        Ok(Self {
            socket,
            stride,
            segments,
            patience: Patience::default(),
        })
    }

    async fn blocks(&mut self, blocks: &mut Blocks, first: u64, count: u64) -> io::Result<()> {
        if blocks.get(first, count)?.is_none() {
            // The disk has to be waited for: not on a thread that serves others.
            let waiting = std::mem::replace(
                blocks,
                Blocks::new(Source::Bytes(Default::default()), 512, 1),
            );
            *blocks = tokio::task::spawn_blocking(move || waiting.fill(first))
                .await
                .map_err(io::Error::other)??;
        }
        let bytes = blocks
            .get(first, count)?
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        self.packets(bytes).await
    }

    async fn packets(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.segments && bytes.len() > self.stride {
            let most = (MOST_BYTES / self.stride).clamp(1, MOST_SEGMENTS) * self.stride;
            match self.pieces(bytes, most).await {
                Err(error) if cannot_segment(&error) => {
                    debug!(%error, "no segmentation here; sending packets one by one");
                    self.segments = false;
                    set_segments(&self.socket, 0)?;
                }
                done => return done,
            }
        }
        self.pieces(bytes, self.stride).await
    }

    async fn pieces(&self, bytes: &[u8], size: usize) -> io::Result<()> {
        for piece in bytes.chunks(size) {
            self.send(piece).await?;
        }
        Ok(())
    }

    async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self.socket.send(bytes).await {
            // A full queue or a route that flaps loses packets; the protocol is made for that.
            Err(error) if is_loss(&error) => Ok(()),
            done => done.map(drop),
        }
    }

    /// The next packet; None at the deadline. Polls for a moment if this thread has nobody else to serve.
    async fn receive(
        &mut self,
        buffer: &mut [u8],
        deadline: Instant,
        alone: bool,
    ) -> io::Result<Option<usize>> {
        let socket = &self.socket;
        // Not by way of the runtime, which would not look before it has slept.
        let look = || match rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            done => Some(done.map(|(len, _)| len)),
        };
        if alone && let Some(done) = self.patience.poll(look) {
            return Ok(Some(done?));
        }
        match tokio::time::timeout_at(deadline.into(), self.socket.recv(buffer)).await {
            Ok(done) => done.map(Some),
            Err(_) => Ok(None),
        }
    }

    async fn say_error(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::ConnectionRefused {
            let packet = packet::error(ErrorCode::Undefined, "cannot read the file");
            if let Err(error) = self.socket.send(&packet).await {
                debug!(%error, "cannot send a TFTP error");
            }
        }
    }
}

fn set_segments(socket: &impl AsFd, size: usize) -> io::Result<()> {
    sys::set_int(
        socket.as_fd(),
        libc::SOL_UDP,
        libc::UDP_SEGMENT,
        size as i32,
    )
}

fn cannot_segment(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EOPNOTSUPP | libc::EMSGSIZE)
    )
}

fn is_loss(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOBUFS | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN)
    )
}
