//! The thread behind the DHCP sockets: batches of packets through the engine, one flush, then the answers.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, error, warn};

use super::engine::{Engine, Now, Outcome, Via};
use super::lease::Leases;
use super::packet::Packet;
use super::reply::{CLIENT_PORT, Destination, Reply};
use super::service::{DhcpControl, Sockets};
use crate::limit::Once;
use crate::machine::Mac;
use crate::policy::{Event, Policy};

/// Packets that share one flush at most.
const BATCH: usize = 256;
/// Offers that wait for a probe at most; under a storm further ones go out at once.
const PROBES: usize = 64;

/// Work for the thread.
pub(super) enum Job {
    /// A packet, how it came, and when.
    Packet(Box<[u8]>, Via, Instant),
    /// A machine was seen at an address.
    Seen(Mac, Ipv4Addr),
}

/// An offer that waits whether somebody sits at its address.
struct Waiting {
    mac: Mac,
    address: Ipv4Addr,
    until: Instant,
    request: Packet,
    via: Via,
    reply: Option<Reply>,
    event: Option<Event>,
}

pub(super) struct Worker {
    engine: Engine,
    leases: Arc<Leases>,
    policy: Arc<dyn Policy>,
    sockets: Arc<Sockets>,
    config: DhcpControl,
    probe: Duration,
    waiting: Vec<Waiting>,
    malformed: Once<Ipv4Addr>,
}

impl Worker {
    pub fn new(
        engine: Engine,
        leases: Arc<Leases>,
        policy: Arc<dyn Policy>,
        sockets: Arc<Sockets>,
        config: DhcpControl,
    ) -> Self {
        let probe = config.current().probe;
        Self {
            engine,
            leases,
            policy,
            sockets,
            config,
            probe,
            waiting: Vec::new(),
            malformed: Once::default(),
        }
    }

    /// Works until the other end of `jobs` is gone and all is done.
    pub fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = match self.waiting.iter().map(|w| w.until).min() {
                Some(until) => jobs.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => jobs.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            let batch: Vec<Job> = first
                .into_iter()
                .chain(jobs.try_iter())
                .take(BATCH)
                .collect();
            self.batch(batch);
            self.release_waiting();
        }
    }

    fn batch(&mut self, jobs: Vec<Job>) {
        self.engine.use_config(self.config.current());
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            match job {
                Job::Packet(bytes, via, at) => outcomes.extend(self.packet(&bytes, via, at)),
                Job::Seen(mac, address) => outcomes.extend(self.seen(mac, address)),
            }
        }
        let changes: Vec<_> = outcomes
            .iter_mut()
            .flat_map(|o| std::mem::take(&mut o.changes))
            .collect();
        if let Err(error) = self.leases.commit(&changes) {
            // An address that is not written down must not be promised: the clients will ask again.
            error!(%error, source = std::error::Error::source(&error), "leases are not on disk; not answering");
            return;
        }
        for outcome in outcomes {
            self.deliver(outcome.reply, outcome.event);
        }
    }

    fn packet(&mut self, bytes: &[u8], via: Via, at: Instant) -> Option<Outcome> {
        match Packet::decode(bytes) {
            Ok(packet) => self.handle(packet, via, at),
            Err(error) => {
                if self.malformed.first(*via.source.ip(), at) {
                    warn!(peer = %via.source, %error, "malformed DHCP packet");
                }
                None
            }
        }
    }

    fn handle(&mut self, request: Packet, via: Via, at: Instant) -> Option<Outcome> {
        let now = Now {
            wall: SystemTime::now().into(),
            mono: at,
        };
        let outcome = self.engine.handle(&request, via, now);
        let Some((mac, address)) = outcome.probe else {
            return Some(outcome);
        };
        self.waiting.retain(|w| w.mac != mac);
        let local = request.giaddr == Ipv4Addr::UNSPECIFIED;
        if !local || self.waiting.len() >= PROBES || !self.sockets.ask_arp(address) {
            return Some(outcome);
        }
        let until = at + self.probe;
        let (reply, event) = (outcome.reply, outcome.event);
        self.waiting.push(Waiting {
            mac,
            address,
            until,
            request,
            via,
            reply,
            event,
        });
        None
    }

    /// Somebody is at `address`. If it was about to be offered to another machine, that one gets another.
    fn seen(&mut self, mac: Mac, address: Ipv4Addr) -> Option<Outcome> {
        let at = self
            .waiting
            .iter()
            .position(|w| w.address == address && w.mac != mac)?;
        let waiting = self.waiting.swap_remove(at);
        let mono = Instant::now();
        self.engine.conflict(
            waiting.mac,
            address,
            Now {
                wall: SystemTime::now().into(),
                mono,
            },
        );
        self.handle(waiting.request, waiting.via, mono)
    }

    fn release_waiting(&mut self) {
        let now = Instant::now();
        let (due, rest): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(|w| w.until <= now);
        self.waiting = rest;
        for waiting in due {
            self.deliver(waiting.reply, waiting.event);
        }
    }

    fn deliver(&self, reply: Option<Reply>, event: Option<Event>) {
        if let Some(reply) = reply
            && let Err(error) = self.send(&reply)
        {
            debug!(to = ?reply.to, %error, "cannot send an answer");
            return;
        }
        if let Some(event) = event {
            self.policy.event(event);
        }
    }

    fn send(&self, reply: &Reply) -> std::io::Result<()> {
        let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        match reply.to {
            Destination::Unicast(to) => self.sockets.send(&reply.packet, to, reply.from_port),
            Destination::Broadcast => self.sockets.send(&reply.packet, everyone, reply.from_port),
            Destination::Hardware { mac, address } => {
                let to = SocketAddrV4::new(address, CLIENT_PORT);
                match self
                    .sockets
                    .send_raw(&reply.packet, to, mac, reply.from_port)?
                {
                    true => Ok(()),
                    false => self.sockets.send(&reply.packet, everyone, reply.from_port),
                }
            }
        }
    }
}
