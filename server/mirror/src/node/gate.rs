//! Who may have an answer.

use crate::{ConnectionId, Moment, Reply, RequestId, VolumeId};

use super::{Node, primary::Primary};

/// A connection that wants a volume.
#[derive(Debug)]
pub(super) struct Attach {
    request: RequestId,
    volume: VolumeId,
    connection: ConnectionId,
    /// The sign of life that was sent after this request had come.
    ping: Option<u64>,
    /// The standby has answered it, so nobody else had been promoted when this request had come.
    confirmed: bool,
}

impl Node {
    /// Whether an answer to a client may leave at `now`. To be asked *after* the data of a read were read and right before
    /// it is sent; if not, the answer waits until it may, or is dropped when the clients' connections are closed.
    pub fn may_answer(&self, now: Moment) -> bool {
        let now = self.now.max(now);
        let primary = self.primary.as_ref().filter(|p| p.settled);
        primary.is_some_and(|p| p.fenced() || now < p.lease_until)
    }

    /// Until when answers may leave as things stand; the end of time if nobody else can be promoted. For callers that
    /// keep it at hand: it counts for as long as nothing else was handled.
    pub fn answers_until(&self) -> Moment {
        let primary = self.primary.as_ref().filter(|p| p.settled);
        primary.map_or(Moment(0), |p| match p.fenced() {
            true => Moment(u64::MAX),
            false => p.lease_until,
        })
    }

    /// Whether this connection is the one that uses the volume.
    pub fn is_attached(&self, volume: VolumeId, connection: ConnectionId) -> bool {
        self.owns(Some((volume, connection)))
    }

    pub(super) fn owns(&self, from: Option<(VolumeId, ConnectionId)>) -> bool {
        let Some((volume, connection)) = from else {
            return true;
        };
        let primary = self.primary.as_ref();
        primary.is_some_and(|p| p.attached.get(&volume) == Some(&connection))
    }

    pub(super) fn attach(
        &mut self,
        request: RequestId,
        volume: VolumeId,
        connection: ConnectionId,
    ) {
        self.drop_held(volume);
        self.drop_flushes(volume);
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        primary.attached.insert(volume, connection);
        let older = primary
            .attaches
            .extract_if(.., |attach| attach.volume == volume);
        let evicted: Vec<RequestId> = older.map(|attach| attach.request).collect();
        primary.attaches.push(Attach {
            request,
            volume,
            connection,
            ping: None,
            confirmed: false,
        });
        for id in evicted {
            self.reply(id, Reply::Evicted);
        }
    }

    /// Answers those who wait for a volume: once nothing of an older connection is under way, and once it is certain
    /// that this server was still the primary after they had asked.
    pub(super) fn answer_attaches(&mut self) {
        if self
            .primary
            .as_ref()
            .is_none_or(|p| p.attaches.is_empty() || !p.settled)
        {
            return;
        }
        self.ask_for_attaches();
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        let fenced = primary.fenced();
        let changes = &primary.changes;
        let drained = |attach: &Attach| {
            let older = |from: &(VolumeId, ConnectionId)| {
                from.0 == attach.volume && from.1 != attach.connection
            };
            !changes
                .values()
                .any(|change| change.from.as_ref().is_some_and(older))
        };
        let ready = |attach: &mut Attach| (fenced || attach.confirmed) && drained(attach);
        let done: Vec<Attach> = primary.attaches.extract_if(.., ready).collect();
        for attach in done {
            self.reply(attach.request, Reply::Done);
        }
    }

    fn ask_for_attaches(&mut self) {
        let asks = |p: &Primary| p.attaches.iter().any(|attach| attach.ping.is_none());
        if !self.has_session() || !self.primary.as_ref().is_some_and(asks) {
            return;
        }
        let number = self.send_ping();
        if let Some(primary) = self.primary.as_mut() {
            for attach in &mut primary.attaches {
                attach.ping.get_or_insert(number);
            }
        }
    }
}

impl Primary {
    pub(super) fn confirm_attaches(&mut self, number: u64) {
        for attach in &mut self.attaches {
            attach.confirmed |= attach.ping.is_some_and(|ping| ping <= number);
        }
    }

    /// The session is over: its signs of life will not be answered.
    pub(super) fn recall_attaches(&mut self) {
        for attach in &mut self.attaches {
            attach.ping = None;
        }
    }
}
