//! Changes on their way: shipped, answered by the standby, applied, answered to the client; in this order.

use bytes::Bytes;

use crate::{
    Ask, BlockRange, ConnectionId, Fault, Item, Mode, Op, Reply, Request, RequestId, Seq,
    SessionId, Ticket, VolumeId, Work, Yield, operation::Footprint,
};

use super::{After, Job, Node, primary::Road, session::Purpose};

/// What is on its way.
#[derive(Debug, Clone)]
pub(super) enum Content {
    /// A client's or the server's own change.
    Op(Op),
    /// A piece of a resync: blocks.
    Piece(VolumeId, BlockRange),
    /// A piece of a resync: all metadata.
    Metadata,
    /// Blocks that are compared.
    Check(VolumeId, BlockRange),
}

/// What one side holds of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sum {
    /// Its checksum.
    Of(u64),
    /// There is no such volume any more.
    Gone,
}

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Waits for its turn, for a durable mark, or for the road to open.
    Held,
    /// A piece of a resync is being read or compared here.
    Preparing,
    /// Shipped, not answered.
    Shipped,
    /// Being applied here.
    Applying,
    /// Mode `async`: being applied here, and not answered by the standby either.
    Both,
    /// Mode `async`: applied here, not answered by the standby.
    Applied,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) content: Content,
    pub(super) footprint: Footprint,
    pub(super) stage: Stage,
    pub(super) from: Option<(VolumeId, ConnectionId)>,
    /// Who waits for the answer.
    pub(super) request: Option<RequestId>,
    /// The session that it was shipped in, and its place.
    pub(super) shipped: Option<(SessionId, Seq)>,
    pub(super) sums: (Option<Sum>, Option<Sum>),
}

impl Change {
    pub(super) fn new(content: Content, footprint: Footprint) -> Self {
        Self {
            content,
            footprint,
            stage: Stage::Held,
            from: None,
            request: None,
            shipped: None,
            sums: (None, None),
        }
    }

    /// Blocks of data that it changes.
    pub(super) fn blocks(&self) -> Option<(VolumeId, BlockRange)> {
        match &self.content {
            Content::Op(op) => op.changes(),
            Content::Piece(volume, range) | Content::Check(volume, range) => {
                Some((*volume, *range))
            }
            Content::Metadata => None,
        }
    }

    pub(super) fn is_piece(&self) -> bool {
        !matches!(self.content, Content::Op(_))
    }
}

impl Node {
    pub(super) fn admit(&mut self, request: Request) {
        let Request { id, from, ask } = request;
        if let (Ask::Attach, Some((volume, connection))) = (&ask, from) {
            self.attach(id, volume, connection);
            return;
        }
        if !self.owns(from) {
            self.reply(id, Reply::Evicted);
            return;
        }
        match (ask, from) {
            (Ask::Change(op), _) => self.admit_change(id, from, op),
            (Ask::Flush, Some((volume, connection))) => {
                self.admit_flush(id, volume, Some(connection))
            }
            (Ask::Flush | Ask::Attach, None) => self.reply(id, Reply::Failed),
            (Ask::Attach, Some(_)) => {}
        }
    }

    fn admit_change(&mut self, id: RequestId, from: Option<(VolumeId, ConnectionId)>, op: Op) {
        let footprint = op.footprint();
        let mut change = Change::new(Content::Op(op), footprint);
        change.from = from;
        change.request = Some(id);
        self.enqueue(change);
    }

    pub(super) fn enqueue(&mut self, change: Change) -> Ticket {
        let ticket = self.new_ticket();
        if let Some(primary) = self.primary.as_mut() {
            primary.changes.insert(ticket, change);
        }
        ticket
    }

    /// Starts what waits, in the order in which it came.
    pub(super) fn start_changes(&mut self) {
        let Some(mut next) = self.ready_after(None) else {
            return;
        };
        let (road, bringing_up) = (self.road(), self.brings_up());
        if road.is_none() && !bringing_up {
            return;
        }
        self.mark();
        loop {
            let road = match self.is_piece(next) {
                true => bringing_up.then_some(Road::Ship),
                false => road,
            };
            if road == Some(Road::Ship) && !self.window_open() {
                return;
            }
            if let Some(road) = road {
                self.start_change(next, road);
            }
            let Some(after) = self.ready_after(Some(next)) else {
                return;
            };
            next = after;
        }
    }

    /// The next that nothing earlier keeps from starting.
    fn ready_after(&self, last: Option<Ticket>) -> Option<Ticket> {
        self.primary.as_ref()?.changes.ready_after(last)
    }

    pub(super) fn is_piece(&self, ticket: Ticket) -> bool {
        let change = self.primary.as_ref().and_then(|p| p.changes.get(ticket));
        change.is_some_and(Change::is_piece)
    }

    fn start_change(&mut self, ticket: Ticket, road: Road) {
        if !self.marked(ticket) {
            return;
        }
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        primary.changes.start(ticket);
        let piece = self.is_piece(ticket);
        match road {
            Road::Ship if piece => self.prepare_piece(ticket),
            Road::Ship => self.ship_change(ticket),
            Road::Alone => self.apply_alone(ticket),
        }
    }

    /// Whether the blocks of this change are durably marked, if they have to be.
    fn marked(&self, ticket: Ticket) -> bool {
        if self.marking() {
            return false; // Marks on their way to the disk, or their end: neither counts yet.
        }
        let change = self.primary.as_ref().and_then(|p| p.changes.get(ticket));
        let blocks = change.and_then(Change::blocks);
        self.durable.paired
            || blocks.is_none_or(|(volume, range)| self.durable.marks.contains(volume, range))
    }

    fn marking(&self) -> bool {
        let mut waiting = self.persists.iter();
        waiting.any(|(_, after)| matches!(after, After::Marked))
    }

    /// Marks the blocks of all that may start, with one replacement of the durable state.
    fn mark(&mut self) {
        if self.durable.paired || self.marking() {
            return;
        }
        let changes = self.primary.iter().map(|p| &p.changes);
        let blocks =
            changes.flat_map(|all| all.ready().filter_map(|ticket| all.get(ticket)?.blocks()));
        let marks = &self.durable.marks;
        let missing: Vec<_> = blocks
            .filter(|(volume, range)| !marks.contains(*volume, *range))
            .collect();
        if missing.is_empty() {
            return;
        }
        for (volume, range) in missing {
            self.durable
                .marks
                .insert(volume, range.widened(self.config.region));
        }
        self.persist(After::Marked);
    }

    fn apply_alone(&mut self, ticket: Ticket) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        change.shipped = None;
        if let Some((volume, range)) = change.blocks() {
            self.dirty.unsent.insert(volume, range);
        }
        self.apply(ticket, Stage::Applying);
    }

    fn apply(&mut self, ticket: Ticket, stage: Stage) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        change.stage = stage;
        if let Content::Op(op) = &change.content {
            let work = Work::Apply(op.clone());
            self.work(Job::Change(ticket), work);
        }
    }

    fn ship_change(&mut self, ticket: Ticket) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        let Content::Op(op) = &change.content else {
            return;
        };
        let item = Item::Op(op.clone());
        self.ship_as(ticket, item);
        if self.answers_early() {
            self.apply(ticket, Stage::Both);
        }
    }

    /// Ships what became of a change, and notes where.
    pub(super) fn ship_as(&mut self, ticket: Ticket, item: Item) {
        let Some(session) = self.session().map(|session| session.id) else {
            return;
        };
        let seq = self.ship(item, Purpose::Change(ticket));
        if let Some(change) = self.change_mut(ticket) {
            change.stage = Stage::Shipped;
            change.shipped = Some((session, seq));
        }
    }

    pub(super) fn change_mut(&mut self, ticket: Ticket) -> Option<&mut Change> {
        self.primary.as_mut()?.changes.get_mut(ticket)
    }

    /// The standby holds it.
    pub(super) fn change_acknowledged(&mut self, ticket: Ticket, seq: Seq) {
        let current = self.session().map(|session| (session.id, seq));
        let Some(change) = self.change_mut(ticket).filter(|c| c.shipped == current) else {
            return;
        };
        match (change.is_piece(), change.stage) {
            (true, _) => self.piece_arrived(ticket, seq),
            (false, Stage::Shipped) => self.apply(ticket, Stage::Applying),
            (false, Stage::Both) => change.stage = Stage::Applying,
            (false, Stage::Applied) => self.finish_change(ticket, Reply::Done),
            (false, _) => {}
        }
    }

    /// This server has applied it, or failed to.
    pub(super) fn change_done(&mut self, ticket: Ticket, result: Result<Yield, Fault>) {
        let lag = self.in_flight();
        let mode = self.config.mode;
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        match result {
            Err(fault) => self.change_failed(ticket, fault),
            Ok(_) if change.stage == Stage::Both => {
                change.stage = Stage::Applied;
                let near = matches!(mode, Mode::Async { lag: most } if lag <= most);
                if let Some(id) = change.request.take_if(|_| near) {
                    self.reply(id, Reply::Done);
                }
            }
            Ok(_) => self.finish_change(ticket, Reply::Done),
        }
    }

    /// The standby has what this server could not write: this server's content is what counts.
    fn change_failed(&mut self, ticket: Ticket, fault: Fault) {
        let change = self.change_mut(ticket);
        let blocks = change.as_ref().and_then(|c| c.blocks());
        let meta = change.is_some_and(|c| c.footprint.meta);
        if let Some((volume, range)) = blocks {
            self.dirty.unsent.insert(volume, range);
        }
        let reply = if fault == Fault::NoSpace {
            Reply::NoSpace
        } else {
            Reply::Failed
        };
        self.end_failed(ticket, reply);
        if meta {
            self.lose_session(); // Metadata is only sent again as a whole.
            // A disk may have been made afresh there and not here. All that differs is looked for.
            if let Some(primary) = self.primary.as_mut() {
                primary.compare = true;
            }
        }
    }

    /// In mode `async` the standby may still be at it: nothing else may touch these blocks until it has answered.
    fn end_failed(&mut self, ticket: Ticket, reply: Reply) {
        let Some(change) = self.change_mut(ticket).filter(|c| c.stage == Stage::Both) else {
            self.end_change(ticket, reply);
            return;
        };
        change.stage = Stage::Applied;
        if let Some(id) = change.request.take() {
            self.reply(id, reply);
        }
    }

    fn finish_change(&mut self, ticket: Ticket, reply: Reply) {
        let session = self.session().map(|session| session.id);
        if let Some(change) = self.change_mut(ticket)
            && let (Some((volume, range)), Some((shipped, seq))) = (change.blocks(), change.shipped)
            && session == Some(shipped)
        {
            self.dirty.push(volume, seq, range);
        }
        self.end_change(ticket, reply);
    }

    fn end_change(&mut self, ticket: Ticket, reply: Reply) {
        let change = self.primary.as_mut().and_then(|p| p.changes.remove(ticket));
        if let Some(id) = change.and_then(|change| change.request) {
            self.reply(id, reply);
        }
    }

    /// The session is over: what the standby had not answered waits until it is clear how to go on, and then starts anew.
    pub(super) fn recall_changes(&mut self) {
        for ticket in self.tickets(Change::is_piece) {
            self.end_piece(ticket);
        }
        for ticket in self.tickets(|change| change.stage != Stage::Held) {
            self.recall(ticket);
        }
    }

    fn recall(&mut self, ticket: Ticket) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        let (blocks, stage) = (change.blocks(), change.stage);
        match stage {
            Stage::Shipped => change.stage = Stage::Held,
            Stage::Both => change.stage = Stage::Applying,
            Stage::Held | Stage::Preparing | Stage::Applying | Stage::Applied => {}
        }
        if let Some((volume, range)) = blocks {
            self.dirty.unsent.insert(volume, range);
        }
        if stage == Stage::Applied {
            self.end_change(ticket, Reply::Done);
        } else if let Some(primary) = self.primary.as_mut().filter(|_| stage == Stage::Shipped) {
            primary.changes.hold(ticket);
        }
    }

    /// All changes of a kind.
    pub(super) fn tickets(&self, kind: impl Fn(&Change) -> bool) -> Vec<Ticket> {
        let changes = self.primary.iter().flat_map(|p| p.changes.iter());
        let found = changes.filter(|(_, change)| kind(change));
        found.map(|(ticket, _)| ticket).collect()
    }

    /// Takes out what has not been started, in the order in which it came.
    pub(super) fn take_held(&mut self) -> Vec<Change> {
        let held = self.tickets(|change| change.stage == Stage::Held);
        let changes = self.primary.iter_mut().map(|p| &mut p.changes);
        changes
            .flat_map(|all| held.iter().filter_map(|ticket| all.remove(*ticket)))
            .collect()
    }

    /// Drops what an evicted connection asked for and what has not been started.
    pub(super) fn drop_held(&mut self, volume: VolumeId) {
        let mine = |change: &Change| {
            let asked = change.from.is_some_and(|(of, _)| of == volume);
            asked && change.stage == Stage::Held
        };
        for ticket in self.tickets(mine) {
            self.end_change(ticket, Reply::Evicted);
        }
    }

    /// Content for a piece of a resync.
    pub(super) fn piece_item(&self, ticket: Ticket, data: Bytes) -> Option<Item> {
        match self.primary.as_ref()?.changes.get(ticket)?.content {
            Content::Piece(volume, range) => Some(Item::Restore {
                volume,
                range,
                data,
            }),
            Content::Metadata => Some(Item::Metadata(data)),
            Content::Op(_) | Content::Check(..) => None,
        }
    }
}
