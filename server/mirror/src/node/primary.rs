//! The primary: when it may act, how it makes sure that nobody else does, and how it stops.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Body, ConnectionId, Moment, Notice, PersistId, Ticket, VolumeId};

use super::{
    After, Node,
    asking::Want,
    flushing::Flush,
    gate::Attach,
    session::{Phase, Session},
    under_way::UnderWay,
};

#[derive(Debug)]
pub(super) struct Primary {
    /// What it did as standby has ended, and its state is durable.
    pub(super) settled: bool,
    /// Before that it goes back to what was kept from before a resync.
    pub(super) back: bool,
    /// The replacement of the durable state that says so.
    pub(super) straying: Option<PersistId>,
    /// The step from tracking in memory to tracking durably is under way.
    pub(super) branching: Option<PersistId>,
    /// The witness has the other server down as outdated, and was not asked to change that.
    pub(super) witness_fenced: bool,
    /// The other server is durably inconsistent, by its own word, and was not told otherwise.
    pub(super) peer_fenced: bool,
    pub(super) lease_until: Moment,
    pub(super) session: Option<Session>,
    pub(super) sessions: u64,
    pub(super) attached: BTreeMap<VolumeId, ConnectionId>,
    pub(super) attaches: Vec<Attach>,
    pub(super) changes: UnderWay,
    pub(super) flushes: BTreeMap<Ticket, Flush>,
    pub(super) flush_at: Moment,
    /// The next resync compares checksums before it sends.
    pub(super) compare: bool,
    /// The standby is to take over: nothing new is begun.
    pub(super) yielding: bool,
    /// No resync before this moment: a disk could not be flushed.
    pub(super) resync_at: Moment,
    /// Volumes that could not be read somewhere: that was told.
    pub(super) ill: BTreeSet<VolumeId>,
}

impl Primary {
    /// One that has just won its term; the other server was declared outdated with it.
    pub(super) fn new(back: bool) -> Self {
        Self {
            settled: false,
            back,
            straying: None,
            branching: None,
            witness_fenced: true,
            peer_fenced: false,
            lease_until: Moment(0),
            session: None,
            sessions: 0,
            attached: BTreeMap::new(),
            attaches: Vec::new(),
            changes: UnderWay::default(),
            flushes: BTreeMap::new(),
            flush_at: Moment(0),
            compare: false,
            yielding: false,
            resync_at: Moment(0),
            ill: BTreeSet::new(),
        }
    }

    /// Whether the other server cannot be promoted.
    pub(super) fn fenced(&self) -> bool {
        self.witness_fenced || self.peer_fenced
    }

    pub(super) fn phase(&self) -> Option<Phase> {
        self.session.as_ref().map(|session| session.phase)
    }

    /// Whether the standby is, or is about to become, promotable.
    fn in_step(&self) -> bool {
        matches!(self.phase(), Some(Phase::Finishing | Phase::Paired))
    }
}

/// Which way changes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Road {
    /// To the own disk only.
    Alone,
    /// To the standby first.
    Ship,
}

impl Node {
    /// The primary, if it may begin something.
    fn acting(&self) -> Option<&Primary> {
        let primary = self.primary.as_ref();
        primary.filter(|p| p.settled && p.branching.is_none() && !p.yielding)
    }

    fn tracks_durably(&self) -> bool {
        !self.durable.paired && !self.durable.shared
    }

    /// Whether the standby may be sent what it lacks.
    pub(super) fn brings_up(&self) -> bool {
        match self.acting().and_then(Primary::phase) {
            Some(Phase::Syncing) => self.tracks_durably(),
            Some(Phase::Finishing | Phase::Paired) => true,
            None | Some(Phase::Opening) => false,
        }
    }

    /// Which way changes go now; `None` while clients must wait.
    pub(super) fn road(&self) -> Option<Road> {
        let primary = self.acting()?;
        let tracked = self.tracks_durably();
        match primary.phase() {
            Some(Phase::Finishing | Phase::Paired) => Some(Road::Ship),
            // Without the metadata the standby knows no volume that was made since it was here last.
            Some(Phase::Syncing) if tracked && self.has_metadata() => Some(Road::Ship),
            None | Some(Phase::Opening | Phase::Syncing) => {
                (tracked && primary.fenced() && self.continues_alone()).then_some(Road::Alone)
            }
        }
    }

    /// Tells the witness that the other server is outdated, when this one has to go on without it.
    pub(super) fn fence(&mut self) {
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        if primary.fenced() || primary.in_step() {
            return;
        }
        if !self.config.witness {
            primary.witness_fenced = true; // By hand: who promotes the other one answers for it.
        } else if self.continues_alone() && !matches!(self.asker.want, Some(Want::Take { .. })) {
            self.asker.begin(Want::Take { force: false });
        }
    }

    /// The witness has this server down as holder once more, under the present term, and the other one as outdated.
    pub(super) fn taken_again(&mut self) {
        self.term = self.durable.term;
        if let Some(primary) = self.primary.as_mut() {
            primary.witness_fenced = true;
        }
    }

    /// The other server has a higher term from an attempt to become primary that failed. It will obey none below, so
    /// this server, which is the holder, takes one above.
    pub(super) fn raise_above_peer(&mut self) {
        let quiet = self
            .primary
            .as_ref()
            .is_some_and(|p| p.settled && p.session.is_none());
        let pending = self.raise_pending() || matches!(self.asker.want, Some(Want::Take { .. }));
        if quiet && !pending && self.peer_term > self.durable.term {
            self.raise_term();
        }
    }

    pub(super) fn raised_as_primary(&mut self) {
        if self.config.witness {
            self.asker.begin(Want::Take { force: false });
        } else {
            self.term = self.durable.term;
        }
    }

    /// Begins to track durably, with a generation of its own, once nobody else can be promoted.
    pub(super) fn go_alone(&mut self) {
        let Some(primary) = &self.primary else {
            return;
        };
        let needed = self.durable.paired || self.durable.shared;
        if needed
            && primary.settled
            && primary.branching.is_none()
            && primary.fenced()
            && !primary.in_step()
        {
            self.branch_off();
        }
    }

    pub(super) fn branch_off(&mut self) {
        let generation = self.new_generation();
        self.durable.branch(generation);
        self.durable.marks = self.dirty.unsent.widened(self.config.region);
        let persist = self.persist(After::Alone);
        if let Some(primary) = self.primary.as_mut() {
            primary.settled = true;
            primary.branching = Some(persist);
        }
    }

    pub(super) fn alone(&mut self) {
        let branching = self.primary.as_ref().and_then(|p| p.branching);
        if !branching.is_some_and(|id| self.is_durable(id)) {
            return;
        }
        if let Some(primary) = self.primary.as_mut() {
            primary.branching = None;
        }
        self.note(Notice::GoingAlone);
    }

    /// Another server is primary: nothing is answered any more, not even with an error.
    pub(super) fn depose(&mut self) {
        self.end_session();
        let Some(primary) = self.primary.take() else {
            return;
        };
        for change in primary.changes.values() {
            if let Some((volume, range)) = change.blocks() {
                self.dirty.unsent.insert(volume, range);
            }
        }
        self.asker.forget();
        self.out.push(crate::Action::CloseClients);
        self.note(Notice::Deposed(self.term));
        if !self.raise_pending() {
            self.term = self.durable.term; // It may have raised it in vain: the other one must hear of that.
        }
        self.hold_off_after_reign();
    }

    fn hold_off_after_reign(&mut self) {
        self.promise_until = self.now.after(self.config.timing.promise);
        self.hello_at = self.now;
    }

    /// Begins to make way for the standby, if both hold the same and the witness would let it.
    pub(super) fn hand_over(&mut self) {
        let even = self.is_paired() && self.dirty.is_sent();
        let ready = even && self.asker.want.is_none();
        match self.primary.as_mut() {
            Some(primary) if ready => primary.yielding = true,
            Some(_) => self.note(Notice::NotHandedOver),
            None => {}
        }
    }

    /// Gives the place up once nothing is under way and the witness would let the standby have it. Nothing is answered
    /// from then on, so no promise has to be kept.
    pub(super) fn yield_place(&mut self) {
        if !self.dirty.wrong.is_empty() {
            self.stay(); // Found by a comparison that was under way.
        }
        let Some(primary) = self.primary.as_ref().filter(|p| p.yielding) else {
            return;
        };
        let held = primary.changes.is_all_held() && !self.is_flushing();
        let clear = self.asker.want.is_none() && !primary.fenced();
        let durable = self.persists.is_empty() && self.quiet();
        if held && clear && durable {
            self.leave_place();
        }
    }

    /// Does not make way after all.
    fn stay(&mut self) {
        let yields = self.primary.as_mut().map(|p| &mut p.yielding);
        if yields.is_some_and(std::mem::take) {
            self.note(Notice::NotHandedOver);
        }
    }

    /// Lets the standby have it, now.
    pub(super) fn leave_place(&mut self) {
        let Some(session) = self.session().map(|session| session.id) else {
            return;
        };
        self.depose();
        self.durable.last_primary = false;
        self.persist(After::Nothing);
        self.send(Body::Yield { session });
    }

    /// The standby is gone. What was on its way may have reached it or not.
    pub(super) fn lose_session(&mut self) {
        if self.end_session() {
            self.note(Notice::PeerLost);
        }
    }

    /// Ends the session, if there is one; tells whether the standby was there.
    fn end_session(&mut self) -> bool {
        let Some(primary) = self.primary.as_mut() else {
            return false;
        };
        let Some(session) = primary.session.take() else {
            return false;
        };
        primary.recall_attaches();
        primary.yielding = false;
        self.dirty.all_unsent();
        if session.phase == Phase::Opening {
            return false;
        }
        self.recall_changes();
        self.recall_flushes();
        if session.phase != Phase::Syncing {
            self.asker.want = None; // A wish to clear the fence.
        }
        self.stop_verifying(session.verify);
        true
    }
}
