//! The thread that writes leases down and then sends the answers that promise them. What comes while it waits for the
//! disk shares the next flush, and packets that need none are answered meanwhile.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tracing::{debug, error};

use super::engine::Outcome;
use super::lease::Leases;
use super::reply::{CLIENT_PORT, Destination, Reply};
use super::sockets::Sockets;
use crate::policy::{Event, Policy};

/// Answers that may wait for the disk; whoever has more waits for it, too.
pub(super) const QUEUE: usize = 1024;

/// Who sends answers, and tells of them.
#[derive(Clone)]
pub(super) struct Voice {
    pub sockets: Arc<Sockets>,
    pub policy: Arc<dyn Policy>,
}

/// Works until the other end of `outcomes` is gone and all is done.
pub(super) fn run(leases: &Leases, voice: &Voice, outcomes: &Receiver<Outcome>) {
    while let Ok(first) = outcomes.recv() {
        let waiting = outcomes.try_iter().take(QUEUE);
        let mut batch: Vec<Outcome> = std::iter::once(first).chain(waiting).collect();
        let changes: Vec<_> = batch
            .iter_mut()
            .flat_map(|o| std::mem::take(&mut o.changes))
            .collect();
        if let Err(error) = leases.commit(&changes) {
            // An address that is not written down must not be promised: the clients will ask again.
            error!(%error, source = std::error::Error::source(&error), "leases are not on disk; not answering");
            continue;
        }
        for outcome in batch {
            voice.deliver(outcome.reply, outcome.event);
        }
    }
}

impl Voice {
    /// Sends the answer, and tells of it if it left.
    pub fn deliver(&self, reply: Option<Reply>, event: Option<Event>) {
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

    fn send(&self, reply: &Reply) -> io::Result<()> {
        let Reply {
            packet,
            to,
            from_port: port,
        } = reply;
        let everyone = SocketAddrV4::new(Ipv4Addr::BROADCAST, CLIENT_PORT);
        match *to {
            Destination::Unicast(to) => self.sockets.send(packet, to, *port),
            Destination::Broadcast => self.sockets.send(packet, everyone, *port),
            Destination::Hardware { mac, address } => {
                let to = SocketAddrV4::new(address, CLIENT_PORT);
                match self.sockets.send_raw(packet, to, mac, *port)? {
                    true => Ok(()),
                    false => self.sockets.send(packet, everyone, *port),
                }
            }
        }
    }
}
