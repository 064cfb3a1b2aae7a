//! The DHCP service: sockets in front of the engine.
//!
//! One task receives; one thread asks the engine, writes leases and sends. The thread takes whatever has queued up
//! meanwhile as one batch, so that a storm shares its disk flushes, and packets of one machine keep their order.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use socket2::Socket;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tracing::{debug, warn};

use super::config::{DhcpConfig, Mode};
use super::engine::{Engine, Via};
use super::frame;
use super::lease::Leases;
use super::reply::{BINL_PORT, SERVER_PORT};
use super::worker::{Job, Worker};
use crate::error::{Error, ErrorKind, Result};
use crate::machine::Mac;
use crate::net::{self, Interface, Sharing};
use crate::policy::Policy;
use crate::sys;

/// Packets that may wait for the worker; what comes on top is dropped, and asked again by its client.
const QUEUE: usize = 1024;
/// No sensible DHCP packet is longer.
const LONGEST: usize = 4096;

/// The DHCP server.
pub struct Dhcp {
    config: DhcpControl,
    leases: Arc<Leases>,
    policy: Arc<dyn Policy>,
    sockets: Arc<Sockets>,
}

/// Changes what a running DHCP service gives out.
#[derive(Clone)]
pub struct DhcpControl(Arc<RwLock<Arc<DhcpConfig>>>);

impl DhcpControl {
    fn new(config: DhcpConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// What is in force.
    pub fn current(&self) -> Arc<DhcpConfig> {
        self.0.read().clone()
    }

    /// Answers by `config` from the next packet on. Leases stay; one that no range holds any more is not renewed.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it contradicts itself, or would need other sockets.
    pub fn reconfigure(&self, config: DhcpConfig) -> Result<()> {
        config.check()?;
        let sockets = |c: &DhcpConfig| (c.interface.clone(), c.server, c.mode, c.probe);
        let mut current = self.0.write();
        if sockets(&current) != sockets(&config) {
            let text = "interface, server address and mode of DHCP cannot change while it runs";
            return Err(Error::new(ErrorKind::Config, text));
        }
        *current = Arc::new(config);
        Ok(())
    }
}

/// Everything that the service sends through.
pub(super) struct Sockets {
    pub interface: Interface,
    pub server: Ipv4Addr,
    dhcp: Socket,
    binl: Option<Socket>,
    /// Whole IP packets, for machines without an address; absent without CAP_NET_RAW.
    raw: Option<Socket>,
    arp: Option<Socket>,
}

impl Dhcp {
    /// Takes port 67 (in proxy mode also 4011) on the one interface named.
    pub fn bind(config: DhcpConfig, leases: Arc<Leases>, policy: Arc<dyn Policy>) -> Result<Self> {
        config.check()?;
        let interface = Interface::find(&config.interface)?;
        let proxy = config.mode == Mode::Proxy;
        let any = |port| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
        let dhcp = if proxy {
            proxy_socket(&config)?
        } else {
            net::udp(Some(&config.interface), any(SERVER_PORT), Sharing::Alone)?
        };
        let binl = match proxy {
            true => Some(net::udp(
                Some(&config.interface),
                any(BINL_PORT),
                Sharing::Alone,
            )?),
            false => None,
        };
        for socket in [Some(&dhcp), binl.as_ref()].into_iter().flatten() {
            socket
                .set_broadcast(true)
                .map_err(|e| Error::io("cannot broadcast", e))?;
        }
        let raw = optional(
            net::packet_sender(),
            "answers to machines without an address will be broadcast",
        );
        let probing = !config.probe.is_zero() && !proxy;
        let arp = match probing {
            true => optional(
                net::packet(&interface, frame::ETH_ARP),
                "new addresses will not be probed",
            ),
            false => None,
        };
        let sockets = Arc::new(Sockets {
            interface,
            server: config.server,
            dhcp,
            binl,
            raw,
            arp,
        });
        Ok(Self {
            config: DhcpControl::new(config),
            leases,
            policy,
            sockets,
        })
    }

    /// Changes what it gives out while it runs.
    pub fn control(&self) -> DhcpControl {
        self.config.clone()
    }

    /// Serves until `shutdown` resolves, then answers what it has received and returns.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(QUEUE);
        let engine = Engine::new(
            self.config.current(),
            self.leases.clone(),
            self.policy.clone(),
        );
        let worker = Worker::new(
            engine,
            self.leases,
            self.policy,
            self.sockets.clone(),
            self.config,
        );
        let thread = std::thread::Builder::new()
            .name("dhcp".into())
            .spawn(move || worker.run(&receiver))
            .map_err(|e| Error::io("cannot start the DHCP thread", e))?;
        let received = tokio::select! {
            done = receive_all(&self.sockets, &sender) => done,
            () = shutdown => Ok(()),
        };
        drop(sender);
        // The thread ends once its queue is empty.
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            return Err(Error::new(ErrorKind::Io, "the DHCP thread failed"));
        }
        received
    }
}

/// Beside another server on the same host, port 67 is shared: then only broadcasts are taken, so that the other
/// server's renewals do not end up here.
fn proxy_socket(config: &DhcpConfig) -> Result<Socket> {
    let at = |address| SocketAddrV4::new(address, SERVER_PORT);
    match net::udp(
        Some(&config.interface),
        at(Ipv4Addr::UNSPECIFIED),
        Sharing::Alone,
    ) {
        Err(error) if error.kind() == ErrorKind::PortTaken => net::udp(
            Some(&config.interface),
            at(Ipv4Addr::BROADCAST),
            Sharing::Reuse,
        ),
        other => other,
    }
}

fn optional(socket: io::Result<Socket>, without: &str) -> Option<Socket> {
    socket
        .inspect_err(|error| warn!(%error, "no raw socket (CAP_NET_RAW is missing?): {without}"))
        .ok()
}

async fn receive_all(sockets: &Sockets, jobs: &SyncSender<Job>) -> Result<()> {
    let dhcp = receive_port(&sockets.dhcp, SERVER_PORT, jobs);
    let binl = async {
        match &sockets.binl {
            Some(socket) => receive_port(socket, BINL_PORT, jobs).await,
            None => std::future::pending().await,
        }
    };
    let arp = async {
        match &sockets.arp {
            Some(socket) => receive_arp(socket, jobs).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! { done = dhcp => done, done = binl => done, done = arp => done }
}

async fn receive_port(socket: &Socket, port: u16, jobs: &SyncSender<Job>) -> Result<()> {
    let socket = watch(socket)?;
    let mut buffer = [0; LONGEST];
    loop {
        match socket
            .async_io(Interest::READABLE, || {
                sys::receive(socket.as_fd(), &mut buffer)
            })
            .await
        {
            Ok(got) => {
                let via = Via {
                    source: got.source,
                    port,
                };
                let packet = buffer[..got.len].into();
                queue(jobs, Job::Packet(packet, via, Instant::now()))?;
            }
            Err(error) => pause(&error).await,
        }
    }
}

async fn receive_arp(socket: &Socket, jobs: &SyncSender<Job>) -> Result<()> {
    let socket = watch(socket)?;
    let mut buffer = [0; 64];
    loop {
        match socket
            .async_io(Interest::READABLE, || {
                Ok(rustix::net::recv(
                    &socket,
                    &mut buffer[..],
                    rustix::net::RecvFlags::DONTWAIT,
                )?)
            })
            .await
        {
            Ok((len, _)) => {
                if let Some((mac, address)) = frame::arp_sender(&buffer[..len]) {
                    queue(jobs, Job::Seen(mac, address))?;
                }
            }
            Err(error) => pause(&error).await,
        }
    }
}

/// A second handle on a socket, for the runtime to wait on. It takes every kind of datagram socket as a UDP one.
fn watch(socket: &Socket) -> Result<UdpSocket> {
    let watched = socket
        .try_clone()
        .and_then(|s| UdpSocket::from_std(s.into()));
    watched.map_err(|e| Error::io("cannot watch a socket", e))
}

fn queue(jobs: &SyncSender<Job>, job: Job) -> Result<()> {
    match jobs.try_send(job) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(_)) => {
            debug!("too many packets at once, dropping one");
            Ok(())
        }
        // Only a panic ends the thread before its queue: the policy's, most likely.
        Err(TrySendError::Disconnected(_)) => {
            Err(Error::new(ErrorKind::Io, "the DHCP thread failed"))
        }
    }
}

/// An interface that goes down reports that again and again; it may come back.
async fn pause(error: &io::Error) {
    warn!(%error, "cannot receive; trying again");
    tokio::time::sleep(Duration::from_millis(500)).await;
}

impl Sockets {
    /// Broadcasts on the segment, or sends to an address that is in use, from the port given.
    pub fn send(&self, bytes: &[u8], to: SocketAddrV4, from_port: u16) -> io::Result<()> {
        let socket = if from_port == BINL_PORT {
            self.binl.as_ref().unwrap_or(&self.dhcp)
        } else {
            &self.dhcp
        };
        sys::send_from(socket.as_fd(), bytes, to, self.server)
    }

    /// Sends an IP packet to a hardware address. `Ok(false)`: there is no raw socket.
    pub fn send_raw(
        &self,
        bytes: &[u8],
        to: SocketAddrV4,
        mac: Mac,
        from_port: u16,
    ) -> io::Result<bool> {
        let Some(raw) = &self.raw else {
            return Ok(false);
        };
        let packet = frame::udp(SocketAddrV4::new(self.server, from_port), to, bytes);
        raw.send_to(
            &packet,
            &sys::link_address(self.interface.index, frame::ETH_IPV4, mac),
        )?;
        Ok(true)
    }

    /// Asks who has `address`. `false`: it cannot be asked.
    pub fn ask_arp(&self, address: Ipv4Addr) -> bool {
        let Some(arp) = &self.arp else { return false };
        let request = frame::arp_request(self.interface.mac, self.server, address);
        let everyone = sys::link_address(self.interface.index, frame::ETH_ARP, Mac([0xff; 6]));
        arp.send_to(&request, &everyone).is_ok()
    }
}
