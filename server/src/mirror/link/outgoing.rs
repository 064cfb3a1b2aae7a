//! What this server sends: a queue that is written by whoever can, and by a thread of its own when the other end is slow.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use mirror::Message;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Dialled, Ends, HANDSHAKE, Purpose, RETRY};

/// How long a server that stops waits for its last words to leave.
const LAST: Duration = Duration::from_millis(200);

/// The sending end. Everything queued is sent in order, on one connection, or dropped when that ends.
pub struct Outgoing {
    queue: Mutex<Queue>,
    /// The connection, held by whoever writes to it.
    wire: Mutex<Option<Dialled>>,
    /// For the thread that waits until the wire takes more, and dials.
    wake: Condvar,
    stop: AtomicBool,
    /// That settings differ.
    told: AtomicBool,
}

/// Content of at least this length waits where it lies; what is shorter is copied, so that it needs no entry of its own. Bytes.
const LONG: usize = 1 << 10;

/// Messages that wait to be sent.
#[derive(Default)]
struct Waiting {
    /// All of them but long content.
    bytes: Vec<u8>,
    /// Long content, and before which of `bytes` it has its place.
    contents: Vec<(usize, Bytes)>,
    length: usize,
}

impl Waiting {
    fn put(&mut self, message: &Message) -> mirror::Result<()> {
        let before = self.bytes.len();
        let content = message.encode_head(&mut self.bytes)?;
        self.length += self.bytes.len() - before + content.len();
        match content.len() {
            ..LONG => self.bytes.extend_from_slice(content),
            _ => self.contents.push((self.bytes.len(), content.clone())),
        }
        Ok(())
    }

    /// All of it, in its order.
    fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let mut from = 0;
        let contents = self.contents.iter().flat_map(move |(at, content)| {
            let before = &self.bytes[from..*at];
            from = *at;
            [before, &content[..]]
        });
        let last = self.contents.last().map_or(0, |(at, _)| *at);
        contents.chain([&self.bytes[last..]])
    }

    /// Forgets all, and keeps the memory.
    fn clear(&mut self) {
        self.bytes.clear();
        self.contents.clear();
        self.length = 0;
    }
}

#[derive(Default)]
struct Queue {
    waiting: Waiting,
    up: bool,
    /// The wire does not take more at the moment; the thread waits for it.
    stuck: bool,
    /// The socket, to end the connection by.
    socket: Option<TcpStream>,
}

impl Outgoing {
    /// A sending end that dials by itself. `down` is called, on its thread, whenever a connection has ended, and `up`
    /// when one has come about.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(ends: Ends, changed: impl Fn(bool) + Send + 'static) -> io::Result<Arc<Self>> {
        let outgoing = Arc::new(Self {
            queue: Mutex::default(),
            wire: Mutex::default(),
            wake: Condvar::new(),
            stop: AtomicBool::new(false),
            told: AtomicBool::new(false),
        });
        let own = outgoing.clone();
        let thread = thread::Builder::new().name("pair-send".into());
        thread.spawn(move || own.run(&ends, &changed))?;
        Ok(outgoing)
    }

    /// Whether there is a connection.
    pub fn is_up(&self) -> bool {
        self.queue.lock().up
    }

    /// Bytes that wait to be sent.
    pub fn waiting(&self) -> usize {
        self.queue.lock().waiting.length
    }

    /// Queues a message; it is dropped when there is no connection.
    ///
    /// # Errors
    /// It is too long.
    pub fn put(&self, message: &Message) -> mirror::Result<()> {
        let mut queue = self.queue.lock();
        match queue.up {
            true => queue.waiting.put(message),
            false => Ok(()),
        }
    }

    /// Sends what is queued as far as that goes without waiting. What another thread is sending is sent by that one.
    pub fn kick(&self) {
        while let Some(mut held) = self.wire.try_lock() {
            let Some(sent) = held.as_mut().map(|wire| self.send(wire)) else {
                return;
            };
            drop(held);
            match sent {
                Ok(true) => {}
                Ok(false) => return self.hand_over(),
                Err(error) => return self.cut(&error.to_string()),
            }
            // Queued by somebody who found the wire held: looked at now that it is free.
            if self.waiting() == 0 {
                return;
            }
        }
    }

    /// Lets the thread wait for the wire.
    fn hand_over(&self) {
        self.queue.lock().stuck = true;
        self.wake.notify_all();
    }

    /// Writes what is queued; false if the wire takes no more now.
    fn send(&self, wire: &mut Dialled) -> io::Result<bool> {
        let mut waiting = std::mem::take(&mut self.queue.lock().waiting);
        let all = write(wire, &waiting)?;
        waiting.clear();
        self.reuse(waiting);
        Ok(all)
    }

    /// Gives the queue its buffers back, unless they have grown large.
    fn reuse(&self, empty: Waiting) {
        const KEPT: usize = 1 << 20;
        let mut queue = self.queue.lock();
        if queue.waiting.length == 0 && empty.bytes.capacity() <= KEPT {
            queue.waiting = empty;
        }
    }

    /// Ends the connection; the thread dials again.
    pub fn cut(&self, why: &str) {
        let queue = self.queue.lock();
        if let Some(socket) = &queue.socket {
            tracing::info!("the connection to the other server is closed: {why}");
            let _ = socket.shutdown(Shutdown::Both);
        }
        drop(queue);
        self.hand_over();
    }

    /// Ends the thread. What is queued leaves before, unless the other end takes nothing.
    pub fn stop(&self) {
        let deadline = Instant::now() + LAST;
        // Whoever is at it may have looked at the queue before the last word was in it.
        while self.is_up() && self.waiting() > 0 && Instant::now() < deadline {
            self.kick();
            thread::sleep(Duration::from_millis(1));
        }
        // What was taken from the queue may not be out yet.
        let left = deadline.saturating_duration_since(Instant::now());
        if let Some(wire) = self
            .wire
            .try_lock_for(left)
            .as_mut()
            .and_then(|held| held.as_mut())
        {
            while matches!(wire.push(), Ok(false)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
        self.stop.store(true, Relaxed);
        self.cut("this server stops");
    }

    fn run(&self, ends: &Ends, changed: &dyn Fn(bool)) {
        while !self.stop.load(Relaxed) {
            match dial(ends) {
                Ok(wire) => {
                    self.begin(wire);
                    self.kick(); // Queued by somebody who found the wire held.
                    changed(true);
                    self.look_after();
                    self.end();
                    changed(false);
                }
                Err(error) => self.complain(&error),
            }
            thread::sleep(RETRY);
        }
    }

    /// Once for settings that differ: who has to mend that may look here.
    fn complain(&self, error: &anyhow::Error) {
        match error.is::<OtherSettings>() && !self.told.swap(true, Relaxed) {
            true => tracing::error!("{error}"),
            false => tracing::debug!("the other server cannot be reached: {error}"),
        }
    }

    fn begin(&self, wire: Dialled) {
        let socket = wire.socket().try_clone().ok();
        let mut held = self.wire.lock();
        *self.queue.lock() = Queue {
            up: true,
            socket,
            ..Queue::default()
        };
        *held = Some(wire);
    }

    fn end(&self) {
        *self.queue.lock() = Queue::default();
        *self.wire.lock() = None;
    }

    /// Waits, for the wire where it is slow, or for its end.
    fn look_after(&self) {
        loop {
            if !self.wait_stuck() {
                return;
            }
            let mut held = self.wire.lock();
            let Some(wire) = held.as_mut() else { return };
            if let Err(error) = self.drain(wire) {
                tracing::info!("the connection to the other server is lost: {error}");
                return;
            }
            drop(held);
            // Queued by somebody who found the wire held, after the last look at the queue.
            self.kick();
        }
    }

    /// Sends what is queued, waiting for the socket as long as it takes.
    fn drain(&self, wire: &mut Dialled) -> io::Result<()> {
        loop {
            while !wire.push()? {
                wait_writable(wire.socket())?;
            }
            if self.waiting() == 0 {
                return Ok(());
            }
            self.send(wire)?;
        }
    }

    /// Returns when somebody found the wire full; false when the connection is over.
    fn wait_stuck(&self) -> bool {
        /// How often the connection is looked at.
        const GLANCE: Duration = Duration::from_millis(200);
        let mut queue = self.queue.lock();
        while !queue.stuck {
            self.wake.wait_for(&mut queue, GLANCE);
            let over = queue.socket.as_ref().is_none_or(is_over);
            if over || self.stop.load(Relaxed) {
                return false;
            }
        }
        queue.stuck = false;
        true
    }
}

/// Whether the other end has closed. It never says anything, so what can be read is its end.
fn is_over(socket: &TcpStream) -> bool {
    let flags = PollFlags::IN | PollFlags::RDHUP;
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(socket, flags)];
    let there = poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0);
    there
        && fds[0]
            .revents()
            .intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)
}

/// Encrypts all of it and hands it over as it goes; false if the socket takes no more now.
fn write(wire: &mut Dialled, waiting: &Waiting) -> io::Result<bool> {
    for slice in waiting.slices() {
        wire.put(slice)?;
    }
    wire.push()
}

fn wait_writable(socket: &TcpStream) -> io::Result<()> {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut fds, None)?;
    match fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
        true => Err(io::ErrorKind::ConnectionReset.into()),
        false => Ok(()),
    }
}

/// The other server would not do in a failure what this one counts on.
#[derive(Debug, thiserror::Error)]
#[error(
    "the other server has other settings: mode, lag, alone and whether there is a witness must be the same in [standby] on both"
)]
struct OtherSettings;

fn dial(ends: &Ends) -> anyhow::Result<Dialled> {
    let wire = connect(ends, Purpose::Messages)?;
    wire.socket().set_nonblocking(true)?;
    Ok(wire)
}

/// A connection for `purpose`, blocking.
///
/// # Errors
/// The other server cannot be reached, or is not the one.
pub fn connect(ends: &Ends, purpose: Purpose) -> anyhow::Result<Dialled> {
    let socket = TcpStream::connect_timeout(&ends.peer, HANDSHAKE)?;
    super::prepare(&socket)?;
    let config = ends.secret.client(ends.role(), ends.other());
    let deadline = Instant::now() + HANDSHAKE;
    let mut wire = Dialled::connect(socket, config, ends.other().name(), deadline)?;
    let mut greeting = vec![purpose as u8];
    greeting.extend(ends.settings.to_le_bytes());
    wire.write_all(&greeting)?;
    wire.flush()?;
    // The answer to the handshake: until it is here nobody knows whether the other end takes this one's key.
    let mut welcome = [0];
    wire.read_exact(&mut welcome)?;
    match welcome[0] == purpose as u8 {
        true => Ok(wire),
        false => Err(OtherSettings.into()),
    }
}
