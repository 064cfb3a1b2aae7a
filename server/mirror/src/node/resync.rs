//! Making both servers equal: what may differ is sent again, piece by piece, beside the clients' changes.

use std::collections::BTreeSet;

use crate::{
    BlockRange, Blocks, Fault, Item, Mode, Moment, Notice, Seq, SessionId, Ticket, VolumeId, Work,
    Yield, operation::Footprint,
};

use super::{
    After, Job, Node,
    asking::Want,
    changes::{Change, Content, Stage, Sum},
    pace::Pace,
    pieces::Retry,
    session::{Phase, Purpose},
};

/// How far the resync of a session is.
#[derive(Debug)]
pub(super) struct Resync {
    pub(super) begun: Moment,
    /// Blocks that the standby was found to hold, or has been sent.
    pub(super) done: u64,
    /// Surveys that have not come: this server's, the standby's.
    surveys: (bool, bool),
    /// The standby has the metadata.
    metadata: bool,
    /// Which of what cannot be read is tried next, and when.
    pub(super) retry: Retry,
    /// How many pieces are under way.
    pub(super) pace: Pace,
    /// Flushes of what was sent, when all is sent.
    round: Option<BTreeSet<Ticket>>,
    /// Whose disks it flushes.
    flushed: BTreeSet<VolumeId>,
}

impl Resync {
    pub(super) fn beginning(begun: Moment, most_pieces: usize) -> Self {
        Self {
            begun,
            done: 0,
            surveys: (false, false),
            metadata: false,
            retry: Retry::default(),
            pace: Pace::new(most_pieces),
            round: None,
            flushed: BTreeSet::new(),
        }
    }
}

impl Node {
    /// The standby is there and inconsistent.
    pub(super) fn begin_resync(&mut self) {
        let compare = self.primary.as_ref().is_some_and(|p| p.compare);
        self.note(Notice::Resync {
            blocks: self.dirty.unsent.len(),
            compare,
        });
        if let Some(witness) = self.agreed_witness() {
            self.ship_adoption(witness);
        }
        // Ahead of what waits, which may wait for just that.
        let held = self.take_held();
        self.enqueue(Change::new(Content::Metadata, Footprint::metadata()));
        for change in held {
            self.enqueue(change);
        }
        if compare {
            self.survey();
        }
    }

    fn survey(&mut self) {
        let Some(session) = self.session_mut() else {
            return;
        };
        session.resync.surveys = (true, true);
        let id = session.id;
        self.ship(Item::Survey, Purpose::Survey);
        self.work(Job::Survey(id), Work::Survey);
    }

    pub(super) fn survey_done(&mut self, id: SessionId, result: Result<Yield, Fault>) {
        if !self.is_session(id) {
            return;
        }
        let verify = self.verifying().is_some();
        match result {
            Ok(Yield::Blocks(blocks)) if verify => self.verify_surveyed(&blocks, true),
            Ok(Yield::Blocks(blocks)) => self.surveyed(&blocks),
            _ if verify => {
                let verify = self.session_mut().and_then(|session| session.verify.take());
                self.stop_verifying(verify);
            }
            _ => self.lose_session(),
        }
    }

    fn surveyed(&mut self, blocks: &Blocks) {
        self.dirty.unsent.merge(blocks);
        if let Some(session) = self.session_mut() {
            session.resync.surveys.0 = false;
        }
    }

    pub(super) fn standby_surveyed(&mut self, blocks: &Blocks) {
        if self.session().is_some_and(|s| s.phase == Phase::Paired) {
            self.verify_surveyed(blocks, false);
            return;
        }
        self.dirty.unsent.merge(blocks);
        if let Some(session) = self.session_mut() {
            session.resync.surveys.1 = false;
        }
    }

    /// Keeps some pieces under way.
    pub(super) fn resync(&mut self) {
        let ready = self.brings_up() && self.has_metadata();
        let idle = self.dirty.is_sent() || !ready;
        let rests = self.primary.as_ref().is_none_or(|p| self.now < p.resync_at);
        let surveyed = self
            .session()
            .is_some_and(|s| s.resync.surveys == (false, false));
        if idle || rests || !surveyed {
            return;
        }
        for (volume, range) in self.next_pieces() {
            let footprint = Footprint::of(volume, range);
            self.enqueue(Change::new(Content::Piece(volume, range), footprint));
        }
        self.start_changes();
    }

    /// A piece has its turn: nothing else touches these blocks until it is done.
    pub(super) fn prepare_piece(&mut self, ticket: Ticket) {
        let compare = self.primary.as_ref().is_some_and(|p| p.compare);
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        change.stage = Stage::Preparing;
        match change.content {
            Content::Metadata => self.work(Job::Read(ticket), Work::ReadMetadata),
            Content::Piece(volume, range) if compare => self.sum_both(ticket, volume, range),
            Content::Check(volume, range) => self.sum_both(ticket, volume, range),
            Content::Piece(volume, range) => {
                self.work(Job::Read(ticket), Work::Read { volume, range })
            }
            Content::Op(_) => {}
        }
    }

    fn sum_both(&mut self, ticket: Ticket, volume: VolumeId, range: BlockRange) {
        self.ship(Item::Sum { volume, range }, Purpose::Sum(ticket));
        self.work(Job::Sum(ticket), Work::Sum { volume, range });
    }

    pub(super) fn resync_read(&mut self, ticket: Ticket, result: Result<Yield, Fault>) {
        if self.change_mut(ticket).is_none() {
            return;
        }
        match result {
            Ok(Yield::Data(data)) => {
                if let Some(item) = self.piece_item(ticket, data) {
                    self.ship_as(ticket, item);
                }
            }
            Ok(Yield::Gone) => self.piece_equal(ticket, None),
            _ => self.piece_failed(ticket),
        }
    }

    pub(super) fn resync_summed(&mut self, ticket: Ticket, result: Result<Yield, Fault>) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        change.sums.0 = match result {
            Ok(Yield::Sum(sum)) => Some(Sum::Of(sum)),
            Ok(Yield::Gone) => Some(Sum::Gone),
            _ if matches!(change.content, Content::Check(..)) => return self.check_failed(ticket),
            _ => return self.piece_failed(ticket),
        };
        self.compare_sums(ticket);
    }

    pub(super) fn standby_summed(&mut self, ticket: Ticket, seq: Seq, sum: Sum) {
        let Some(session) = self.session().map(|s| s.id) else {
            return;
        };
        if let Some(change) = self.change_mut(ticket) {
            change.sums.1 = Some(sum);
            change.shipped = Some((session, seq));
            self.compare_sums(ticket);
        }
    }

    fn compare_sums(&mut self, ticket: Ticket) {
        let Some(change) = self.change_mut(ticket) else {
            return;
        };
        let (Some(here), Some(there)) = change.sums else {
            return;
        };
        let place = change.shipped.take().map(|(_, seq)| seq);
        let seq = place.filter(|_| here != Sum::Gone);
        match change.content {
            Content::Check(..) => self.checked(ticket, seq, here == there),
            _ if here == there => self.piece_equal(ticket, seq),
            Content::Piece(volume, range) => {
                self.work(Job::Read(ticket), Work::Read { volume, range });
            }
            Content::Op(_) | Content::Metadata => {}
        }
    }

    pub(super) fn piece_arrived(&mut self, ticket: Ticket, seq: Seq) {
        let content = self.change_mut(ticket).map(|change| change.content.clone());
        if let (Some(Content::Metadata), Some(session)) = (content, self.session_mut()) {
            session.resync.metadata = true;
        }
        self.piece_equal(ticket, Some(seq));
    }

    /// Both hold the same of these blocks, since this place in the stream; not yet on both disks.
    fn piece_equal(&mut self, ticket: Ticket, seq: Option<Seq>) {
        let Some((volume, range)) = self.end_piece(ticket) else {
            return;
        };
        self.piece_in_place(volume, range);
        if let Some(seq) = seq {
            self.dirty.push(volume, seq, range);
        }
        if let Some(session) = self.session_mut() {
            session.resync.done += range.blocks();
        }
    }

    pub(super) fn end_piece(&mut self, ticket: Ticket) -> Option<(VolumeId, BlockRange)> {
        let change = self.primary.as_mut()?.changes.remove(ticket)?;
        change.blocks()
    }

    /// When all is sent: flush it on both sides, make the generation shared, and tell the standby.
    pub(super) fn finish_resync(&mut self) {
        if !self.all_sent() {
            return;
        }
        let Some(session) = self.session_mut() else {
            return;
        };
        match &session.resync.round {
            None => self.begin_round(),
            Some(round) if round.is_empty() => self.share(),
            Some(_) => {}
        }
    }

    fn all_sent(&self) -> bool {
        let Some(session) = self.session().filter(|s| s.phase == Phase::Syncing) else {
            return false;
        };
        let pieces = self
            .primary
            .iter()
            .flat_map(|p| p.changes.values())
            .any(Change::is_piece);
        let sent = self.dirty.is_sent() && !pieces;
        sent && session.resync.metadata
            && session.resync.surveys == (false, false)
            && self.brings_up()
    }

    /// Whether the standby knows of every volume.
    pub(super) fn has_metadata(&self) -> bool {
        self.session().is_some_and(|s| s.resync.metadata)
    }

    fn begin_round(&mut self) {
        let mut volumes: BTreeSet<VolumeId> = self.dirty.sent.keys().copied().collect();
        volumes.extend(self.flushing_volumes());
        let round = volumes
            .iter()
            .map(|volume| self.flush_volume(*volume))
            .collect();
        if let Some(session) = self.session_mut() {
            session.resync.flushed.extend(volumes);
            session.resync.round = Some(round);
        }
        self.start_flushes();
    }

    pub(super) fn resync_flushed(&mut self, ticket: Ticket) {
        if let Some(round) = self.session_mut().and_then(|s| s.resync.round.as_mut()) {
            round.remove(&ticket);
        }
    }

    pub(super) fn resync_flush_failed(&mut self) {
        let later = self.now.after(self.config.timing.rest);
        if let Some(primary) = self.primary.as_mut() {
            primary.resync_at = later;
            if let Some(session) = primary.session.as_mut() {
                session.resync.round = None;
            }
        }
    }

    fn share(&mut self) {
        let Some(session) = self.session_mut() else {
            return;
        };
        session.phase = Phase::Finishing;
        let id = session.id;
        self.durable.shared = true;
        self.persist(After::Shared(id));
    }

    /// From here on the standby may be promoted as far as its own state goes, so its inconsistency protects nobody.
    pub(super) fn say_synced(&mut self, id: SessionId) {
        if !self.is_session(id) {
            return;
        }
        if let Some(primary) = self.primary.as_mut() {
            primary.peer_fenced = false;
        }
        let complete = self.config.mode == Mode::Sync;
        let history = self.durable.history.clone();
        self.ship(Item::Synced { complete, history }, Purpose::Synced);
    }

    /// Lets the standby drop from its list what the resync has brought, also of disks that nobody uses now: only flushes
    /// while paired tell it.
    fn confirm_resync(&mut self) {
        let flushed = self
            .session_mut()
            .map(|s| std::mem::take(&mut s.resync.flushed));
        for volume in flushed.unwrap_or_default() {
            self.flush_volume(volume);
        }
    }

    /// The standby is durably consistent. What may differ is kept in memory from here on.
    pub(super) fn synced(&mut self) {
        self.durable.paired = true;
        self.durable.complete = true;
        self.durable.marks = Blocks::default();
        self.persist(After::Marked);
        if let Some(primary) = self.primary.as_mut() {
            primary.compare = false;
            primary.witness_fenced = false;
            if let Some(session) = primary.session.as_mut() {
                session.phase = Phase::Paired;
            }
        }
        self.confirm_resync();
        if self.config.witness {
            self.asker.begin(Want::Clear);
        }
        self.note(Notice::Paired);
    }
}
