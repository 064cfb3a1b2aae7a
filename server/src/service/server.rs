//! The service as a whole: accepts, limits, starts connections, stops them.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{
    connection::{self, End, Engine},
    device::{Event, Exports, Peer},
    handshake::{self, Desk, Opened},
    listen::Listener,
    pool::Pool,
    registry::{ConnectionView, Ending, Full, Live, Registry},
    tls::Tls,
    transport::{Socket, Transport},
};

/// Bounds on what peers may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in all.
    pub connections: usize,
    /// Connections from one address.
    pub per_peer: usize,
    /// Time for the whole handshake, TLS and takeover included.
    pub handshake: Duration,
    /// Options in one handshake.
    pub options: u32,
    /// Bytes that requests under way may hold, per connection.
    pub in_flight: u64,
    /// Bytes that requests of all connections together may hold before each gets one at a time.
    pub in_flight_in_all: u64,
    /// Threads for what waits on disks.
    pub disk_threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_peer: 64,
            handshake: Duration::from_secs(10),
            options: 64,
            in_flight: 64 << 20,
            in_flight_in_all: 512 << 20,
            disk_threads: 32,
        }
    }
}

/// Where connections come in, each with its TLS.
type Listeners = Vec<(Listener, Arc<Tls>)>;

type Listen = Box<dyn Fn(Event) + Send + Sync>;

/// What a service is made of.
pub struct ServiceOptions {
    /// Where connections come in, and with which TLS.
    pub listeners: Listeners,
    /// What can be opened.
    pub exports: Arc<dyn Exports>,
    /// Bounds.
    pub limits: Limits,
    /// Told of what happens; must not block.
    pub events: Listen,
}

struct Shared {
    acceptor: Mutex<Option<JoinHandle<()>>>,
    listeners: Mutex<Option<Listeners>>,
    tls: Vec<Arc<Tls>>,
    exports: Arc<dyn Exports>,
    limits: Limits,
    events: Listen,
    registry: Registry,
    pool: Arc<Pool>,
    stop: OwnedFd,
}

/// A running NBD service. Dropping it does not stop it: call [`Service::drain`].
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

/// Room that a connection's thread needs: TLS and a handshake's buffers. Only what is touched is taken. Bytes.
const STACK: usize = 256 << 10;

impl Service {
    /// Begins to accept connections, on a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(options: ServiceOptions) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            acceptor: Mutex::default(),
            tls: options
                .listeners
                .iter()
                .map(|(_, tls)| tls.clone())
                .collect(),
            listeners: Mutex::new(Some(options.listeners)),
            exports: options.exports,
            limits: options.limits,
            events: options.events,
            registry: Registry::default(),
            pool: Pool::new(options.limits.disk_threads, options.limits.in_flight_in_all),
            stop: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let acceptor = shared.clone();
        let name = thread::Builder::new()
            .name("nbd-accept".into())
            .stack_size(STACK);
        let thread = name.spawn(move || acceptor.accept_all())?;
        *shared.acceptor.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// Reads all certificates again.
    ///
    /// # Errors
    /// The first that cannot be used; all stay as they were.
    pub fn reload_tls(&self) -> anyhow::Result<()> {
        let again: anyhow::Result<Vec<_>> =
            self.shared.tls.iter().map(|tls| tls.read_again()).collect();
        for (tls, state) in self.shared.tls.iter().zip(again?) {
            tls.replace(state);
        }
        Ok(())
    }

    /// The connections that there are.
    pub fn connections(&self) -> Vec<ConnectionView> {
        self.shared.registry.view()
    }

    /// Ends the connections that `concerns` gives a reason for, by the name that their export claims ([`Claim`]), if it
    /// does, and by who they are: what is under way is answered and flushed. Gives how many those are, and whether
    /// all ended in time; the rest is cut off. Blocks.
    ///
    /// [`Claim`]: super::Claim
    pub fn end(
        &self,
        concerns: &dyn Fn(Option<&str>, &Peer) -> Option<Ending>,
        limit: Duration,
    ) -> (usize, bool) {
        self.shared.registry.end(concerns, limit)
    }

    /// Stops: no new connections; what is under way is answered and flushed. True when everyone ended in time;
    /// the rest is cut off. Blocks.
    pub fn drain(&self, limit: Duration) -> bool {
        self.close();
        self.shared.registry.drain(limit)
    }

    /// Stops at once: everybody is cut off with no answer to what they asked, which another server is to give. Blocks
    /// until nothing of them is under way.
    pub fn abandon(&self, limit: Duration) {
        self.close();
        self.shared.registry.abandon(limit);
    }

    fn close(&self) {
        let _ = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes());
        if let Some(acceptor) = self.shared.acceptor.lock().take() {
            // It closes the listening sockets, and removes those in the filesystem.
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn accept_all(self: Arc<Self>) {
        let Some(listeners) = self.listeners.lock().take() else {
            return;
        };
        loop {
            let mut fds: Vec<_> = listeners
                .iter()
                .map(|(listener, _)| PollFd::new(listener, PollFlags::IN))
                .collect();
            fds.push(PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN));
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return tracing::error!("cannot wait for NBD connections: {error}"),
                Ok(_) => {}
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[listeners.len()] {
                return;
            }
            for ((listener, tls), _) in listeners.iter().zip(ready).filter(|(_, ready)| *ready) {
                match listener.accept() {
                    Ok(socket) => self.admit(socket, tls.clone()),
                    Err(error) => out_of_descriptors(&error),
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: Socket, tls: Arc<Tls>) {
        let peer = socket.peer();
        let live = match self
            .registry
            .enter(socket, self.limits.connections, self.limits.per_peer)
        {
            Ok(live) => live,
            Err(full) => {
                return (self.events)(Event::Refused {
                    peer,
                    reason: say_full(full),
                });
            }
        };
        let (shared, thread_live) = (self.clone(), live.clone());
        let builder = thread::Builder::new().name("nbd".into()).stack_size(STACK);
        let started = builder.spawn(move || {
            // Also when a bug panics: a connection that stays in the registry would block its successor.
            let _leave = Leave {
                registry: &shared.registry,
                live: &thread_live,
            };
            shared.guarded(&thread_live, &tls);
        });
        if let Err(error) = started {
            self.registry.leave(&live);
            (self.events)(Event::Refused {
                peer,
                reason: format!("cannot start a thread: {error}"),
            });
        }
    }

    /// A bug that panics ends this connection, and no other.
    fn guarded(&self, live: &Arc<Live>, tls: &Tls) {
        let served = catch_unwind(AssertUnwindSafe(|| self.connection(live, tls)));
        if served.is_err() {
            live.socket.shut(std::net::Shutdown::Both);
            let (export, owner) = live.holds();
            (self.events)(Event::Detached {
                peer: live.peer,
                export: export.unwrap_or_default(),
                owner,
                reason: "a bug in the server (see its log for the panic)".into(),
            });
        }
    }

    fn connection(&self, live: &Arc<Live>, tls: &Tls) {
        let mut transport = Transport::plain(&live.socket);
        let desk = Desk {
            live,
            registry: &self.registry,
            exports: &*self.exports,
            tls,
            deadline: Instant::now() + self.limits.handshake,
            options: self.limits.options,
            events: &*self.events,
        };
        match handshake::negotiate(&desk, &mut transport) {
            Ok(Some(opened)) => self.serve(live, &mut transport, opened),
            Ok(None) => {}
            Err(reason) => (self.events)(Event::Refused {
                peer: live.peer,
                reason,
            }),
        }
        transport.close();
    }

    fn serve(&self, live: &Arc<Live>, transport: &mut Transport<'_>, opened: Opened) {
        let name = shown(&opened);
        live.opened(&name);
        let (peer, owner) = (live.peer, live.holds().1);
        let secure = transport.is_secure();
        (self.events)(Event::Attached {
            peer,
            export: name.clone(),
            owner: owner.clone(),
            secure,
        });
        let tell = |error: &str| {
            (self.events)(Event::Failed {
                peer,
                export: name.clone(),
                error: error.to_owned(),
            });
        };
        let engine = Engine {
            live,
            device: &opened.device,
            pool: &self.pool,
            most_in_flight: self.limits.in_flight,
            returns: opened.export.clients_return(),
            on_error: &tell,
        };
        let end = connection::serve(&engine, transport, &opened.session, &opened.early);
        let reason = match end {
            End::Closed => "closed by the client".into(),
            End::Gone => "taken over".into(),
            End::Drained => self.flush(&opened).unwrap_or_else(|| {
                let why = live.ending().unwrap_or(Ending::Stopping);
                why.to_string()
            }),
            End::Failed(reason) => reason,
        };
        (self.events)(Event::Detached {
            peer,
            export: name,
            owner,
            reason,
        });
    }

    /// The last thing that a drained connection does.
    fn flush(&self, opened: &Opened) -> Option<String> {
        opened
            .device
            .flush()
            .err()
            .map(|error| format!("the last flush failed: {error}"))
    }
}

/// The name for logs: never one with a token in it.
fn shown(opened: &Opened) -> String {
    opened
        .export
        .shown()
        .unwrap_or_else(|| opened.session.name.clone())
}

struct Leave<'a> {
    registry: &'a Registry,
    live: &'a Live,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.registry.leave(self.live);
    }
}

fn say_full(full: Full) -> String {
    match full {
        Full::All => "too many connections".into(),
        Full::Peer => "too many connections from this address".into(),
        Full::Draining => "the service stops".into(),
    }
}

/// Accepting fails for a while when the process has no descriptors left; a short rest keeps that from spinning.
fn out_of_descriptors(error: &io::Error) {
    if matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    ) {
        tracing::error!("cannot accept NBD connections: {error}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests;
