//! Drives the handshake of one connection, within a deadline.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use nbd::{
    Directory, ExportInfo, OptionError, Purpose, Refusal, ServerHandshake, ServerLimits,
    ServerStep, Session,
};

use super::{
    device::{Device, Event, Export, Exports, Peer},
    registry::{Live, Registry},
    tls::{self, Tls},
    transport::Transport,
};

/// What a handshake needs.
pub struct Desk<'a> {
    /// The connection.
    pub live: &'a Arc<Live>,
    /// All connections, for takeovers.
    pub registry: &'a Registry,
    /// What can be opened.
    pub exports: &'a dyn Exports,
    /// TLS of the listener.
    pub tls: &'a Tls,
    /// When it has to be done.
    pub deadline: Instant,
    /// Options that it may take.
    pub options: u32,
    /// Listens for news.
    pub events: &'a (dyn Fn(Event) + Send + Sync),
}

/// A handshake that led to the transmission phase.
pub struct Opened {
    /// What was agreed on.
    pub session: Session,
    /// What was opened.
    pub export: Arc<dyn Export>,
    /// The disk.
    pub device: Arc<dyn Device>,
    /// The first requests, received along with the last option.
    pub early: Vec<u8>,
}

/// The directory as one peer sees it.
struct Counter<'a> {
    desk: &'a Desk<'a>,
    peer: Peer,
    opened: Option<(Arc<dyn Export>, Arc<dyn Device>)>,
}

/// Does the handshake. `Ok(None)` when the client only wanted to look.
///
/// # Errors
/// Why the connection is to be closed, in words.
pub fn negotiate(desk: &Desk<'_>, transport: &mut Transport<'_>) -> Result<Option<Opened>, String> {
    let mut counter = Counter {
        desk,
        peer: Peer::plain(desk.live.peer),
        opened: None,
    };
    let limits = ServerLimits {
        options: desk.options,
        ..ServerLimits::default()
    };
    let mut handshake = ServerHandshake::new(desk.tls.policy(), limits);
    let mut buffer = [0; 4096];
    let mut silent = true;
    send(transport, &mut handshake)?;
    loop {
        if desk.live.is_draining() {
            handshake.shut_down();
        }
        let count = receive(desk, transport, &mut buffer)?;
        if count == 0 {
            let early = if silent {
                Ok(None)
            } else {
                Err("left in the middle of the handshake".into())
            };
            return early;
        }
        silent = false;
        let step = handshake.feed(&buffer[..count], &mut counter);
        let step = step.map_err(|error| error.to_string())?;
        send(transport, &mut handshake)?;
        match step {
            ServerStep::More => {}
            ServerStep::Close => return Ok(None),
            ServerStep::StartTls => start_tls(&mut counter, transport, &mut handshake)?,
            ServerStep::Transmission(session) => {
                return Ok(finish(*session, counter, &mut handshake));
            }
        }
    }
}

fn finish(
    session: Session,
    counter: Counter<'_>,
    handshake: &mut ServerHandshake,
) -> Option<Opened> {
    let (export, device) = counter.opened?;
    Some(Opened {
        session,
        export,
        device,
        early: handshake.take_leftover(),
    })
}

fn send(transport: &mut Transport<'_>, handshake: &mut ServerHandshake) -> Result<(), String> {
    let output = handshake.take_output();
    let sent = transport.send_bytes(&output);
    sent.map_err(|error| error.to_string())
}

fn receive(
    desk: &Desk<'_>,
    transport: &mut Transport<'_>,
    buffer: &mut [u8],
) -> Result<usize, String> {
    let left = time_left(desk)?;
    let socket = transport.socket();
    socket
        .set_read_timeout(Some(left))
        .map_err(|error| error.to_string())?;
    match transport.recv(buffer) {
        Ok(count) => Ok(count),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err("took too long over the handshake".into())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn time_left(desk: &Desk<'_>) -> Result<Duration, String> {
    let left = desk.deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        Err("took too long over the handshake".into())
    } else {
        Ok(left)
    }
}

fn start_tls(
    counter: &mut Counter<'_>,
    transport: &mut Transport<'_>,
    handshake: &mut ServerHandshake,
) -> Result<(), String> {
    if !handshake.take_leftover().is_empty() {
        return Err("sent plain text behind STARTTLS".into());
    }
    let desk = counter.desk;
    let (secured, shown) = desk.tls.accept(transport.socket(), desk.deadline)?;
    counter.peer.secure = true;
    (counter.peer.names, counter.peer.serial) = tls::shown_by(shown.as_ref());
    transport.secure(secured);
    handshake.tls_established();
    Ok(())
}

impl Directory for Counter<'_> {
    fn list(&mut self) -> Result<Vec<(String, Option<String>)>, Refusal> {
        Ok(self.desk.exports.list(&self.peer))
    }

    fn lookup(&mut self, name: &str, purpose: Purpose) -> Result<ExportInfo, Refusal> {
        let found = self.desk.exports.find(name, &self.peer);
        let export = found.inspect_err(|refusal| self.refused(refusal))?;
        if export.needs_tls() && !self.peer.secure {
            return Err(Refusal::new(
                OptionError::TlsRequired,
                "this export is given out over TLS only",
            ));
        }
        if purpose == Purpose::Open {
            self.open(export.clone())
                .inspect_err(|refusal| self.refused(refusal))?;
        }
        export.info()
    }
}

impl Counter<'_> {
    fn refused(&self, refusal: &Refusal) {
        let event = Event::Refused {
            peer: self.peer.address,
            reason: refusal.message.clone(),
        };
        (self.desk.events)(event);
    }

    /// Opens an export; if it has an owner, whoever had it before is out first (design P6).
    fn open(&mut self, export: Arc<dyn Export>) -> Result<(), Refusal> {
        let desk = self.desk;
        if let Some(owner) = export.owner() {
            let limit = desk.deadline.saturating_duration_since(Instant::now());
            let evicted = desk.registry.take_over(desk.live, &owner, limit);
            let evicted = evicted.map_err(|text| Refusal::new(OptionError::Policy, text))?;
            for old in evicted {
                (desk.events)(Event::Evicted {
                    peer: old.peer,
                    owner: owner.clone(),
                });
            }
        }
        self.claim(&*export)?;
        let device = export
            .open()
            .inspect_err(|_| desk.registry.unclaim(desk.live))?;
        if desk.live.is_evicted() {
            let text = "a newer connection of this client has taken over";
            return Err(Refusal::new(OptionError::Policy, text));
        }
        self.opened = Some((export, device));
        Ok(())
    }

    /// First it is said that this connection has the export, then the export is asked whether it is still there: so
    /// that a reload, which goes the other way about, misses nobody.
    fn claim(&self, export: &dyn Export) -> Result<(), Refusal> {
        let Desk { registry, live, .. } = self.desk;
        let claimed = registry.claim(live, export.claim(), self.peer.clone());
        claimed.map_err(|holder| {
            let text =
                format!("{holder} has this export, which one connection at a time may write to");
            Refusal::new(OptionError::Policy, text)
        })
    }
}
