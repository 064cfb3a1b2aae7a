//! What this server receives.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use bytes::BytesMut;
use mirror::{FRAME_HEAD, Message, frame_length};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Ends, HANDSHAKE, Purpose, Taken};
use crate::{mirror::strangers::Strangers, service::connection::patience::Patience};

/// Who gets what comes in. Called on the connections' threads.
pub trait Doors: Send + Sync + 'static {
    /// Messages, in the order in which they were sent.
    fn messages(&self, messages: Vec<Message>);
    /// The connection for messages has ended.
    fn silent(&self);
    /// The other server fetches images; returns when it is done.
    fn images(&self, stream: Taken) -> anyhow::Result<()>;
}

/// Room for what is received at once: no more than what stays at hand between being decrypted and being applied, which also
/// begins sooner. Bytes.
const ROOM: usize = 64 << 10;

/// How long is polled for the next messages: a client, a server and the other one have their turns before they come. Three
/// sleeps cost each write more than that, and at depth a quarter of all processors' time.
const ROUND: Duration = Duration::from_micros(150);

/// Takes connections at `place` until the process ends.
///
/// # Errors
/// The port cannot be taken.
pub fn listen(place: SocketAddr, ends: Ends, doors: Arc<dyn Doors>) -> anyhow::Result<()> {
    let listener = TcpListener::bind(place);
    let listener = listener
        .with_context(|| format!("cannot listen on {place} for the other server of the pair"))?;
    let strangers = Strangers::preferring(ends.peer.ip());
    let hall = Arc::new(Hall {
        ends,
        doors,
        current: Mutex::default(),
        strangers: Mutex::new(strangers),
    });
    let thread = thread::Builder::new().name("pair-accept".into());
    thread.spawn(move || hall.accept_all(&listener))?;
    Ok(())
}

struct Hall {
    ends: Ends,
    doors: Arc<dyn Doors>,
    /// The connection whose messages count: the newest.
    current: Mutex<(u64, Option<TcpStream>)>,
    /// Connections that are shaking hands: until then they may be anybody's.
    strangers: Mutex<Strangers<TcpStream>>,
}

impl Hall {
    fn accept_all(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let (socket, from) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("cannot take a connection of the other server: {error}");
                    thread::sleep(super::RETRY);
                    continue;
                }
            };
            if let Err(error) = self.clone().receive(socket, from.ip()) {
                tracing::warn!("cannot serve a connection of the other server: {error}");
            }
        }
    }

    fn receive(self: Arc<Self>, socket: TcpStream, from: IpAddr) -> io::Result<()> {
        let (number, gone) = self.strangers.lock().enter(from, socket.try_clone()?);
        if let Some(gone) = gone {
            // Its thread ends with it; it may have ended already.
            let _ = gone.shutdown(Shutdown::Both);
        }
        let hall = self.clone();
        let thread = thread::Builder::new().name("pair-receive".into());
        let started = thread.spawn(move || {
            if let Err(error) = hall.serve(socket, number) {
                tracing::debug!(%from, "a connection of the other server ended: {error:#}");
            }
        });
        if started.is_err() {
            self.strangers.lock().leave(number, false);
        }
        started.map(drop)
    }

    fn serve(&self, socket: TcpStream, number: u64) -> anyhow::Result<()> {
        let welcomed = self.welcome(socket);
        self.strangers.lock().leave(number, welcomed.is_ok());
        match welcomed? {
            (Purpose::Images, stream) => self.doors.images(stream),
            (Purpose::Messages, stream) => self.listen_to(stream),
        }
    }

    /// Shakes hands.
    fn welcome(&self, socket: TcpStream) -> anyhow::Result<(Purpose, Taken)> {
        super::prepare(&socket)?;
        let config = self.ends.secret.server(self.ends.role());
        let deadline = Instant::now() + HANDSHAKE;
        let mut stream = Taken::accept(socket, config, deadline).context("handshake")?;
        let mut greeting = [0; 9];
        stream.read_exact(&mut greeting)?;
        let [purpose, settings @ ..] = greeting;
        let same = u64::from_le_bytes(settings) == self.ends.settings;
        let Some(purpose) = Purpose::of(purpose) else {
            bail!("a connection for {purpose}, which this release does not know");
        };
        stream.write_all(&[if same { purpose as u8 } else { 0 }])?;
        stream.flush()?;
        anyhow::ensure!(same, "the other server has other settings in [standby]");
        Ok((purpose, stream))
    }

    fn listen_to(&self, stream: Taken) -> anyhow::Result<()> {
        stream.socket().set_read_timeout(None)?;
        let number = self.enter(stream.socket())?;
        let outcome = self.read_all(stream, number);
        if self.current.lock().0 == number {
            self.doors.silent();
        }
        outcome
    }

    /// From now on this connection's messages count, and no older one's.
    fn enter(&self, socket: &TcpStream) -> io::Result<u64> {
        let mut current = self.current.lock();
        if let Some(older) = current.1.replace(socket.try_clone()?) {
            let _ = older.shutdown(Shutdown::Both);
        }
        current.0 += 1;
        Ok(current.0)
    }

    fn read_all(&self, mut stream: Taken, number: u64) -> anyhow::Result<()> {
        let mut received = BytesMut::new();
        let mut patience = Patience::lasting(ROUND);
        loop {
            while let Some(bytes) = stream.opened()? {
                received.extend_from_slice(bytes);
            }
            let messages = take_messages(&mut received)?;
            if self.current.lock().0 != number {
                return Ok(());
            }
            if !messages.is_empty() {
                self.doors.messages(messages);
            }
            // Also in the midst of a message: the rest is on its way.
            patience.poll(|| is_readable(stream.socket()));
            if !stream.receive(ROOM)? {
                return Ok(());
            }
        }
    }
}

fn is_readable(socket: &TcpStream) -> bool {
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(socket, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&now)), Ok(1))
}

/// The whole frames at the front. They are split off together: a handle for each would cost as much as to read it.
fn take_messages(received: &mut BytesMut) -> anyhow::Result<Vec<Message>> {
    let (mut whole, mut missing) = (0, 0);
    while let Some(head) = received[whole..].first_chunk::<FRAME_HEAD>() {
        let end = whole + FRAME_HEAD + frame_length(*head)?;
        missing = end.saturating_sub(received.len());
        if missing > 0 {
            break;
        }
        whole = end;
    }
    let frames = received.split_to(whole).freeze();
    received.reserve(missing);
    Ok(Message::decode_all(&frames)?)
}
