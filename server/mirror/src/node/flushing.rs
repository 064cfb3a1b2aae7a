//! Flushes: answered when both servers have flushed.

use crate::{ConnectionId, Fault, Item, Reply, RequestId, Seq, Ticket, VolumeId, Work, Yield};

use super::{
    Job, Node,
    changes::{Change, Stage},
    dirty::Batch,
    primary::Road,
    session::Purpose,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Held,
    Waiting,
    Done,
}

#[derive(Debug)]
pub(super) struct Flush {
    volume: VolumeId,
    connection: Option<ConnectionId>,
    request: Option<RequestId>,
    /// Mode `async`: changes that were answered before the standby had them. It is to flush them too.
    behind: Vec<Ticket>,
    here: Half,
    there: Half,
    /// What will be on both disks when both halves are done.
    batch: Batch,
    /// What the standby may be told is confirmed.
    upto: Seq,
}

impl Node {
    pub(super) fn admit_flush(
        &mut self,
        id: RequestId,
        volume: VolumeId,
        connection: Option<ConnectionId>,
    ) {
        self.enqueue_flush(volume, connection, Some(id));
    }

    /// A flush of the server's own.
    pub(super) fn flush_volume(&mut self, volume: VolumeId) -> Ticket {
        self.enqueue_flush(volume, None, None)
    }

    fn enqueue_flush(
        &mut self,
        volume: VolumeId,
        connection: Option<ConnectionId>,
        request: Option<RequestId>,
    ) -> Ticket {
        let ticket = self.new_ticket();
        let behind = match request {
            Some(_) => self.answered_early(volume),
            None => Vec::new(),
        };
        let flush = Flush {
            volume,
            connection,
            request,
            behind,
            here: Half::Held,
            there: Half::Held,
            batch: Batch::new(),
            upto: Seq(0),
        };
        if let Some(primary) = self.primary.as_mut() {
            primary.flushes.insert(ticket, flush);
        }
        ticket
    }

    /// Changes of a volume that are applied here and not answered by the standby.
    fn answered_early(&self, volume: VolumeId) -> Vec<Ticket> {
        let early = |change: &Change| {
            let of_volume = change.blocks().is_some_and(|(of, _)| of == volume);
            of_volume && change.stage == Stage::Applied
        };
        self.tickets(early)
    }

    pub(super) fn start_flushes(&mut self) {
        let waiting = |f: &Flush| f.here == Half::Held;
        if !self
            .primary
            .as_ref()
            .is_some_and(|p| p.flushes.values().any(waiting))
        {
            return;
        }
        let Some(road) = self.road() else {
            return;
        };
        let primaries = self.primary.iter();
        let flushes = primaries.flat_map(|p| p.flushes.iter().map(move |(t, f)| (p, *t, f)));
        let held: Vec<_> = flushes
            .filter(|(_, _, f)| waiting(f))
            .filter(|(p, _, f)| f.behind.iter().all(|of| p.changes.get(*of).is_none()))
            .map(|(_, ticket, f)| (ticket, f.volume))
            .collect();
        for (ticket, volume) in held {
            self.start_flush(ticket, volume, road);
        }
    }

    fn start_flush(&mut self, ticket: Ticket, volume: VolumeId, road: Road) {
        let upto = self.completed(volume);
        let batch = self.dirty.take(volume);
        let there = match road {
            Road::Alone => Half::Done,
            Road::Ship => Half::Waiting,
        };
        if let Some(flush) = self.flush_mut(ticket) {
            flush.batch = batch;
            flush.upto = upto;
            flush.here = Half::Waiting;
            flush.there = there;
        }
        if road == Road::Ship {
            self.ship(Item::Flush(volume), Purpose::Flush(ticket));
        }
        self.work(Job::Flush(ticket), Work::Flush(volume));
    }

    /// Everything of a volume up to this place is applied on both sides.
    fn completed(&self, volume: VolumeId) -> Seq {
        let changes = self.primary.iter().flat_map(|p| p.changes.values());
        let session = self.session().map(|session| session.id);
        let of_volume =
            changes.filter(|change| change.blocks().is_some_and(|(of, _)| of == volume));
        let places =
            of_volume.filter_map(|change| change.shipped.filter(|(of, _)| Some(*of) == session));
        let first = places.map(|(_, seq)| seq.0.saturating_sub(1)).min();
        Seq(first.unwrap_or_else(|| self.last_seq().0))
    }

    /// Volumes that are being flushed: what they wait for is in no list meanwhile.
    pub(super) fn flushing_volumes(&self) -> Vec<VolumeId> {
        let flushes = self.primary.iter().flat_map(|p| p.flushes.values());
        flushes.map(|flush| flush.volume).collect()
    }

    /// Whether a flush was begun and has not ended.
    pub(super) fn is_flushing(&self) -> bool {
        let mut flushes = self.primary.iter().flat_map(|p| p.flushes.values());
        flushes.any(|flush| flush.here != Half::Held)
    }

    fn flush_mut(&mut self, ticket: Ticket) -> Option<&mut Flush> {
        self.primary.as_mut()?.flushes.get_mut(&ticket)
    }

    fn take_flush(&mut self, ticket: Ticket) -> Option<Flush> {
        self.primary.as_mut()?.flushes.remove(&ticket)
    }

    pub(super) fn flush_acknowledged(&mut self, ticket: Ticket) {
        if let Some(flush) = self.flush_mut(ticket) {
            flush.there = Half::Done;
        }
        self.end_flush(ticket);
    }

    pub(super) fn flush_done(&mut self, ticket: Ticket, result: Result<Yield, Fault>) {
        if result.is_err() {
            self.flush_failed(ticket);
            return;
        }
        if let Some(flush) = self
            .flush_mut(ticket)
            .filter(|flush| flush.here == Half::Waiting)
        {
            flush.here = Half::Done;
        }
        self.end_flush(ticket);
    }

    fn end_flush(&mut self, ticket: Ticket) {
        let both = |f: &&mut Flush| f.here == Half::Done && f.there == Half::Done;
        if self.flush_mut(ticket).filter(both).is_none() {
            return;
        }
        let Some(flush) = self.take_flush(ticket) else {
            return;
        };
        if let Some(id) = flush.request {
            self.reply(id, Reply::Done);
        }
        self.confirm(flush.volume, flush.upto);
        self.resync_flushed(ticket);
    }

    /// Tells the standby what it need no longer keep in mind. Not while something is still to be sent: the standby's
    /// list is all that is left of it if this server dies.
    fn confirm(&mut self, volume: VolumeId, upto: Seq) {
        if self.is_paired() && self.dirty.is_sent() && upto > Seq(0) {
            self.ship(Item::Confirmed { volume, upto }, Purpose::Nothing);
        }
    }

    /// This server's disk did not take it. What was sent since the last good flush stays in mind.
    fn flush_failed(&mut self, ticket: Ticket) {
        let Some(flush) = self.take_flush(ticket) else {
            return;
        };
        self.dirty.put_back(flush.volume, flush.batch);
        if let Some(id) = flush.request {
            self.reply(id, Reply::Failed);
        }
        self.resync_flush_failed();
    }

    /// The session is over: flushes start anew, by whatever road opens.
    pub(super) fn recall_flushes(&mut self) {
        let flushes = self
            .primary
            .as_mut()
            .map(|p| std::mem::take(&mut p.flushes));
        for (_, mut flush) in flushes.unwrap_or_default() {
            self.dirty
                .put_back(flush.volume, std::mem::take(&mut flush.batch));
            if flush.request.is_some() {
                self.enqueue_flush(flush.volume, flush.connection, flush.request);
            }
        }
    }

    pub(super) fn flush_regularly(&mut self) {
        let (now, next) = (self.now, self.now.after(self.config.timing.flush));
        let Some(primary) = self.primary.as_mut().filter(|p| p.session.is_some()) else {
            return;
        };
        let all = now >= primary.flush_at;
        if all {
            primary.flush_at = next;
        }
        let under_way = self.flushing_volumes();
        for volume in self.dirty.to_flush(all) {
            if all || !under_way.contains(&volume) {
                self.flush_volume(volume);
            }
        }
    }

    /// Drops the flushes of an evicted connection.
    pub(super) fn drop_flushes(&mut self, volume: VolumeId) {
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        let evicted =
            |f: &Flush| f.volume == volume && f.connection.is_some() && f.here == Half::Held;
        let flushes = std::mem::take(&mut primary.flushes).into_iter();
        let (gone, stay): (Vec<_>, Vec<_>) = flushes.partition(|(_, flush)| evicted(flush));
        primary.flushes = stay.into_iter().collect();
        for (_, flush) in gone {
            if let Some(id) = flush.request {
                self.reply(id, Reply::Evicted);
            }
        }
    }
}
