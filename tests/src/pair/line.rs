//! A long line between the two servers: what goes over it takes its time, and there is only so much of it. The kernel of
//! the tests has no netem, so it is a third box that both are diverted to, which passes bytes on.
//!
//! Only what is sent is late; that a connection is there at once is no matter for those that last.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::host::LINK;
use super::{Pair, Side};
use crate::namespace::Namespace;

/// Where it is.
const BOX: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 7);
/// What a router keeps for a line that is busy.
const QUEUE: Duration = Duration::from_millis(50);
/// Bytes that are passed on at once.
const PIECE: usize = 16 << 10;

/// What the line is like, each way.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// How long everything is on its way.
    pub delay: Duration,
    /// Bytes in a second.
    pub speed: u64,
}

/// The line. Connections that there are outlive it, the servers' end ends them.
pub struct Line {
    _namespace: Namespace,
    listeners: Vec<Arc<TcpListener>>,
}

impl Line {
    /// Lays it. Neither server may run yet.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn lay(pair: &Pair, quality: Quality) -> Self {
        let namespace = Namespace::new();
        pair.switch.plug("line", &namespace);
        namespace.ip(&format!("address add {BOX}/24 dev eth0"));
        let listeners = namespace.inside(|| Side::BOTH.map(|to| serve(to, quality)).to_vec());
        for (to, listener) in Side::BOTH.into_iter().zip(&listeners) {
            let place = listener.local_addr().expect("it listens");
            pair.host(to.other()).divert(place);
        }
        Self {
            _namespace: namespace,
            listeners,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for listener in &self.listeners {
            // Who waits for connections is woken by it.
            let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
        }
    }
}

/// Takes connections for the server of that side.
fn serve(to: Side, quality: Quality) -> Arc<TcpListener> {
    let listener = Arc::new(TcpListener::bind((BOX, 0)).expect("a port"));
    let address: Ipv4Addr = to.address().parse().expect("an address");
    let target = SocketAddr::from((address, LINK));
    let accepting = listener.clone();
    // All connections share the line.
    let ways = [Way::new(quality), Way::new(quality)];
    thread::spawn(move || {
        for socket in accepting.incoming() {
            let Ok(socket) = socket else { return };
            // The server may be down: then who dialled is hung up on.
            let _ = join(&socket, target, &ways);
        }
    });
    listener
}

fn join(near: &TcpStream, target: SocketAddr, [there, back]: &[Way; 2]) -> io::Result<()> {
    let far = TcpStream::connect_timeout(&target, Duration::from_secs(1))?;
    for (from, to, way) in [(near, &far, there), (&far, near, back)] {
        to.set_nodelay(true)?;
        let (from, to, way) = (from.try_clone()?, to.try_clone()?, way.clone());
        let (put, take) = sync_channel(4096);
        thread::spawn(move || way.carry(from, &put));
        thread::spawn(move || deliver(&take, to));
    }
    Ok(())
}

/// One direction.
#[derive(Clone)]
struct Way {
    quality: Quality,
    /// Until when it is busy with what was sent before.
    busy: Arc<Mutex<Instant>>,
}

type Letter = (Instant, Vec<u8>);

impl Way {
    fn new(quality: Quality) -> Self {
        Self {
            quality,
            busy: Arc::new(Mutex::new(Instant::now())),
        }
    }

    fn carry(&self, mut from: TcpStream, put: &SyncSender<Letter>) {
        let mut piece = vec![0; PIECE];
        while let Ok(count @ 1..) = from.read(&mut piece) {
            let end = self.send(count);
            if put
                .send((end + self.quality.delay, piece[..count].to_vec()))
                .is_err()
            {
                break;
            }
            thread::sleep((end - QUEUE).saturating_duration_since(Instant::now()));
        }
        let _ = from.shutdown(Shutdown::Read);
    }

    /// When the last of so many bytes has left.
    fn send(&self, count: usize) -> Instant {
        let mut busy = self.busy.lock().expect("nobody panicked with it");
        let takes = Duration::from_secs_f64(count as f64 / self.quality.speed as f64);
        *busy = (*busy).max(Instant::now()) + takes;
        *busy
    }
}

fn deliver(letters: &Receiver<Letter>, mut to: TcpStream) {
    for (due, bytes) in letters {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
