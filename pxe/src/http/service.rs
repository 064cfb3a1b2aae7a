//! The HTTP service: accepts connections and keeps their number in bounds.

use std::collections::HashMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::config::HttpConfig;
use super::connection::Connection;
use crate::dhcp::Leases;
use crate::error::{Error, Result};
use crate::limit::Once;
use crate::net;
use crate::policy::Policy;
use crate::stop;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Connections of one address: more than a router in front of a room needs, fewer than would shut out the others.
pub(super) const PER_PEER: usize = 256;
/// How long responses may go on once the service stops.
const GRACE: Duration = Duration::from_secs(5);

/// The HTTP server.
pub struct Http {
    shared: Arc<Shared>,
    listener: socket2::Socket,
    port: u16,
}

/// What all connections have in common.
pub(super) struct Shared {
    pub config: HttpConfig,
    pub leases: Arc<Leases>,
    pub policy: Arc<dyn Policy>,
    pub malformed: Mutex<Once<Ipv4Addr>>,
    peers: Mutex<HashMap<Ipv4Addr, usize>>,
}

impl Http {
    /// Takes the port.
    pub fn bind(config: HttpConfig, leases: Arc<Leases>, policy: Arc<dyn Policy>) -> Result<Self> {
        let address = SocketAddrV4::new(config.address, config.port);
        let listener = net::tcp(config.interface.as_deref(), address, BACKLOG)?;
        let bound = listener
            .local_addr()
            .map_err(|e| Error::io("cannot name the HTTP socket", e))?;
        let port = bound.as_socket().map_or(config.port, |a| a.port());
        let (malformed, peers) = (Mutex::default(), Mutex::default());
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                leases,
                policy,
                malformed,
                peers,
            }),
            listener,
            port,
        })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Serves until `shutdown` resolves; responses under way then have a few seconds to end.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let listener = TcpListener::from_std(self.listener.into());
        let listener = listener.map_err(|e| Error::io("cannot watch the HTTP socket", e))?;
        let slots = Arc::new(Semaphore::new(self.shared.config.max_connections));
        let (stopper, stop) = stop::pair();
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                Some(_) = connections.join_next() => continue,
                () = &mut shutdown => break,
            };
            let Some((stream, peer, slot)) = accepted else {
                continue;
            };
            let Some(guard) = self.shared.admit(peer) else {
                continue;
            };
            let connection = Connection::new(self.shared.clone(), stream, peer, stop.clone());
            connections.spawn(async move {
                connection.serve().await;
                drop((guard, slot));
            });
        }
        drop(listener);
        stopper.stop();
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, ended).await.is_err() {
            connections.shutdown().await;
        }
        Ok(())
    }
}

type Accepted = (TcpStream, SocketAddrV4, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<Accepted> {
    // First a free slot, then a connection: who finds none waits in the listen queue.
    let slot = slots.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, SocketAddr::V4(peer))) => Some((stream, peer, slot)),
        Ok(_) => None,
        Err(error) => {
            warn!(%error, "cannot accept a connection");
            // Out of descriptors, most likely; some will be given back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// One connection of a peer, counted.
struct Guard(Arc<Shared>, Ipv4Addr);

impl Shared {
    fn admit(self: &Arc<Self>, peer: SocketAddrV4) -> Option<Guard> {
        let mut peers = self.peers.lock();
        let count = peers.entry(*peer.ip()).or_default();
        if *count >= PER_PEER {
            debug!(%peer, "too many connections of one client");
            return None;
        }
        *count += 1;
        Some(Guard(self.clone(), *peer.ip()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut peers = self.0.peers.lock();
        if let Some(count) = peers.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.1);
            }
        }
    }
}
