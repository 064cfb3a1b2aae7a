//! The thread behind the DHCP sockets: packets through the engine, and out go the answers that need no lease written.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime};

use tracing::warn;

use super::engine::{Engine, Now, Outcome, Via};
use super::packet::Packet;
use super::reply::Reply;
use super::scribe::Voice;
use super::service::DhcpControl;
use super::sockets::{Heard, LONGEST, Source};
use crate::error::{Error, ErrorKind, Result};
use crate::limit::Once;
use crate::machine::Mac;
use crate::policy::Event;

/// Packets of one source before it is another's turn.
const BATCH: usize = 64;
/// How long it waits after it could not receive: an interface that goes down says so again and again, and may come back.
const PAUSE: Duration = Duration::from_millis(500);
/// Offers that wait for a probe at most; under a storm further ones go out at once.
const PROBES: usize = 64;

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
    voice: Voice,
    /// To whoever writes leases down ([`super::scribe`]).
    scribe: SyncSender<Outcome>,
    config: DhcpControl,
    probe: Duration,
    waiting: Vec<Waiting>,
    /// The scribe is gone.
    mute: bool,
    malformed: Once<Ipv4Addr>,
}

impl Worker {
    pub fn new(
        engine: Engine,
        voice: Voice,
        scribe: SyncSender<Outcome>,
        config: DhcpControl,
    ) -> Self {
        let probe = config.current().probe;
        Self {
            engine,
            voice,
            scribe,
            config,
            probe,
            waiting: Vec::new(),
            mute: false,
            malformed: Once::default(),
        }
    }

    /// Works until `stop` can be read or is closed, and what was received by then is answered.
    pub fn run(mut self, stop: &OwnedFd) -> Result<()> {
        loop {
            let due = self.waiting.iter().map(|w| w.until).min();
            let ready = self.voice.sockets.wait(stop, due);
            let ready = ready.map_err(|e| Error::io("cannot wait for DHCP packets", e))?;
            let last = ready.is_none();
            let received = self.batch(&ready.unwrap_or_else(|| Source::ALL.into()));
            self.release_waiting();
            if self.mute {
                let text = "the thread that writes down leases failed";
                return Err(Error::new(ErrorKind::Leases, text));
            }
            if last {
                return Ok(());
            }
            if let Err(error) = received {
                warn!(%error, "cannot receive; trying again");
                std::thread::sleep(PAUSE);
            }
        }
    }

    /// Takes what these sources have, and answers it.
    fn batch(&mut self, ready: &[Source]) -> io::Result<()> {
        self.engine.use_config(self.config.current());
        let mut received = Ok(());
        for source in ready {
            let taken = self.take(*source);
            received = received.and(taken);
        }
        received
    }

    fn take(&mut self, source: Source) -> io::Result<()> {
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let outcome = match self.voice.sockets.receive(source, &mut buffer)? {
                Some(Heard::Packet(len, via)) => self.packet(&buffer[..len], via, Instant::now()),
                Some(Heard::Seen(mac, address)) => self.seen(mac, address),
                Some(Heard::Noise) => None,
                None => break,
            };
            match outcome {
                Some(outcome) if outcome.changes.is_empty() => {
                    self.voice.deliver(outcome.reply, outcome.event);
                }
                Some(outcome) => self.later(outcome),
                None => {}
            }
        }
        Ok(())
    }

    /// Has the leases written down before the answer leaves. Waits for the disk only when very much waits for it.
    fn later(&mut self, outcome: Outcome) {
        self.mute |= self.scribe.send(outcome).is_err();
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
        if !local || self.waiting.len() >= PROBES || !self.voice.sockets.ask_arp(address) {
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
            self.voice.deliver(waiting.reply, waiting.event);
        }
    }
}
