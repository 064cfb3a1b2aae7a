//! The primary's side of a session: opening, signs of life, the stream and its answers.

use std::collections::BTreeMap;

use crate::{
    Blocks, Body, Hello, Incarnation, Item, ItemAnswer, Moment, Notice, Seq, SessionId, Term,
    Ticket, WitnessId,
};

use super::{Node, changes::Sum, resync::Resync, verify::Verify};

/// An answer that is owed for so many times what counts as a stall is late, also to who did not always listen.
const LATE: u64 = 3;

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Asked for.
    Opening,
    /// The standby is inconsistent, and is being brought up.
    Syncing,
    /// It was told that it is consistent and has not answered yet.
    Finishing,
    /// Both hold the same.
    Paired,
}

/// What an item was for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Change(Ticket),
    Flush(Ticket),
    Sum(Ticket),
    Survey,
    Synced,
    Adopt(WitnessId),
    Nothing,
}

/// An item without an answer.
#[derive(Debug)]
struct Pending {
    purpose: Purpose,
    since: Moment,
    /// Bytes of content.
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    with: Incarnation,
    /// The standby has no data of the pair's, or gave up its own: no list says what it lacks.
    empty: bool,
    pub(super) phase: Phase,
    last_seq: Seq,
    pending: BTreeMap<Seq, Pending>,
    /// Begun, or last heard of.
    heard: Moment,
    ping_at: Moment,
    pub(super) pings: u64,
    pub(super) resync: Resync,
    adopting: Option<WitnessId>,
    /// Both sides are being compared.
    pub(super) verify: Option<Verify>,
}

impl Session {
    fn new(id: SessionId, with: Incarnation, empty: bool, now: Moment, most_pieces: usize) -> Self {
        Self {
            id,
            with,
            empty,
            phase: Phase::Opening,
            last_seq: Seq(0),
            pending: BTreeMap::new(),
            heard: now,
            ping_at: now,
            pings: 0,
            resync: Resync::beginning(now, most_pieces),
            adopting: None,
            verify: None,
        }
    }

    /// Since when the oldest item has been without an answer.
    pub(super) fn oldest(&self) -> Option<Moment> {
        self.pending.values().next().map(|pending| pending.since)
    }

    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.pending.values().map(|pending| pending.bytes).sum()
    }
}

impl Node {
    pub(super) fn session(&self) -> Option<&Session> {
        self.primary.as_ref()?.session.as_ref()
    }

    pub(super) fn session_mut(&mut self) -> Option<&mut Session> {
        self.primary.as_mut()?.session.as_mut()
    }

    pub(super) fn is_session(&self, id: SessionId) -> bool {
        self.session().is_some_and(|session| session.id == id)
    }

    pub(super) fn has_session(&self) -> bool {
        self.session()
            .is_some_and(|session| session.phase != Phase::Opening)
    }

    pub(super) fn is_paired(&self) -> bool {
        self.session()
            .is_some_and(|session| session.phase == Phase::Paired)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.session().map_or(0, |session| session.pending.len())
    }

    /// Another server is there and not primary: it may become the standby, if its data are a past of this server's.
    pub(super) fn offer_session(&mut self, term: Term, hello: &Hello) {
        let Some(to) = hello.incarnation.filter(|_| !hello.resting) else {
            return;
        };
        if self.session().is_some_and(|session| session.with != to) {
            self.lose_session(); // It was started anew.
        }
        let ready = self
            .primary
            .as_ref()
            .is_some_and(|p| p.settled && p.branching.is_none());
        if !ready || term > self.term || self.session().is_some() || !self.descends_from(hello) {
            return;
        }
        let Some(primary) = self.primary.as_mut() else {
            return;
        };
        primary.sessions += 1;
        let session = SessionId {
            of: self.incarnation,
            number: primary.sessions,
        };
        primary.session = Some(Session::new(
            session,
            to,
            hello.history.is_empty(),
            self.now,
            self.config.chunks,
        ));
        self.send(Body::Open { session, to });
    }

    fn descends_from(&mut self, hello: &Hello) -> bool {
        let known = hello
            .history
            .first()
            .is_none_or(|newest| self.durable.history.contains(newest));
        if !known && !self.split_brain {
            self.note(Notice::SplitBrain);
        }
        self.split_brain = !known;
        known
    }

    pub(super) fn opened(&mut self, term: Term, id: SessionId, complete: bool, dirty: &Blocks) {
        let opening = self
            .session()
            .is_some_and(|s| s.id == id && s.phase == Phase::Opening);
        if !opening || term != self.term {
            return;
        }
        let now = self.now;
        self.dirty.unsent.merge(dirty);
        let empty = self.session().is_some_and(|s| s.empty);
        let compare = empty || (!complete && !self.durable.complete);
        if let Some(primary) = self.primary.as_mut() {
            primary.peer_fenced = true;
            primary.compare |= compare;
        }
        if let Some(session) = self.session_mut() {
            session.phase = Phase::Syncing;
            session.heard = now;
        }
        self.begin_resync();
    }

    /// Appends to the stream.
    pub(super) fn ship(&mut self, item: Item, purpose: Purpose) -> Seq {
        let now = self.now;
        let Some(session) = self.session_mut() else {
            return Seq(0);
        };
        session.last_seq.0 += 1;
        let (id, seq) = (session.id, session.last_seq);
        let pending = Pending {
            purpose,
            since: now,
            bytes: item.content_length(),
        };
        session.pending.insert(seq, pending);
        self.send(Body::Ship {
            session: id,
            seq,
            item,
        });
        seq
    }

    pub(super) fn window_open(&self) -> bool {
        self.in_flight() < self.config.window
    }

    pub(super) fn last_seq(&self) -> Seq {
        self.session().map_or(Seq(0), |session| session.last_seq)
    }

    pub(super) fn acknowledged(&mut self, id: SessionId, seq: Seq, answer: ItemAnswer) {
        if !self.is_session(id) {
            return;
        }
        self.heard_standby();
        let Some(pending) = self.session_mut().and_then(|s| s.pending.remove(&seq)) else {
            return;
        };
        self.keep_pace(&pending);
        match (pending.purpose, answer) {
            (Purpose::Change(ticket), _) => self.change_acknowledged(ticket, seq),
            (Purpose::Flush(ticket), _) => self.flush_acknowledged(ticket),
            (Purpose::Sum(ticket), ItemAnswer::Sum(sum)) => {
                self.standby_summed(ticket, seq, Sum::Of(sum))
            }
            (Purpose::Sum(ticket), ItemAnswer::Done) => self.standby_summed(ticket, seq, Sum::Gone),
            (Purpose::Survey, ItemAnswer::Blocks(blocks)) => self.standby_surveyed(&blocks),
            (Purpose::Synced, _) => self.synced(),
            (Purpose::Adopt(witness), _) => self.adoption_agreed(witness),
            (Purpose::Nothing, _) => {}
            (Purpose::Sum(_) | Purpose::Survey, _) => self.lose_session(),
        }
    }

    /// How long a piece took says how many may be under way.
    fn keep_pace(&mut self, answered: &Pending) {
        let piece = match answered.purpose {
            Purpose::Sum(_) => true,
            Purpose::Change(ticket) => self.is_piece(ticket),
            _ => false,
        };
        if piece {
            let (took, under_way) = (self.now.since(answered.since), self.pieces_under_way());
            if let Some(session) = self.session_mut() {
                session.resync.pace.answered(took, under_way);
            }
        }
    }

    fn heard_standby(&mut self) {
        let now = self.now;
        if let Some(session) = self.session_mut() {
            session.heard = now;
        }
    }

    pub(super) fn ping(&mut self) {
        let (now, next) = (self.now, self.now.after(self.config.timing.ping));
        let due = |s: &&mut Session| s.phase != Phase::Opening && now >= s.ping_at;
        if let Some(session) = self.session_mut().filter(due) {
            session.ping_at = next;
            self.send_ping();
        }
    }

    /// Sends a sign of life now; returns its number.
    pub(super) fn send_ping(&mut self) -> u64 {
        let sent = self.now;
        let Some(session) = self.session_mut() else {
            return 0;
        };
        session.pings += 1;
        let (id, number) = (session.id, session.pings);
        self.send(Body::Ping {
            session: id,
            number,
            sent,
        });
        number
    }

    /// The lease runs from the moment at which the question left, by this server's own clock.
    pub(super) fn ponged(&mut self, id: SessionId, number: u64, sent: Moment) {
        if !self.is_session(id) {
            return;
        }
        self.heard_standby();
        let until = sent.after(self.config.timing.lease);
        if let Some(primary) = self.primary.as_mut() {
            primary.lease_until = primary.lease_until.max(until);
            primary.confirm_attaches(number);
        }
    }

    pub(super) fn standby_failed(&mut self, id: SessionId) {
        if self.is_session(id) {
            self.lose_session();
        }
    }

    /// Says whether this server takes in what comes: a stall of its own disk may keep it from that, and is no silence of the
    /// other one's.
    pub fn hear(&mut self, hears: bool) {
        match hears {
            true => self.hears_since = self.hears_since.or(Some(self.now)),
            false => self.hears_since = None,
        }
    }

    pub(super) fn check_silence(&mut self) {
        if self.is_standby_silent() {
            self.lose_session();
        }
        self.check_primary_silence();
    }

    fn is_standby_silent(&self) -> bool {
        let (Some(session), Some(hears)) = (self.session(), self.hears_since) else {
            return false;
        };
        let timing = self.config.timing;
        let waited = |since: Moment| self.now.since(since.max(hears));
        // However often this server was deaf for a moment, an answer is not waited for without an end: what has come by
        // then is taken in within the time that counts as silence, if it is not deaf again before.
        let owed = |since, times| self.now.since(since).0 >= times * timing.stall.0;
        let late = |since| {
            waited(since) >= timing.stall
                || owed(since, LATE) && waited(since) >= timing.silence
                || owed(since, 2 * LATE)
        };
        let stalled = session.oldest().is_some_and(late);
        waited(session.heard) >= timing.silence || stalled
    }

    pub(super) fn ship_adoption(&mut self, witness: WitnessId) {
        let Some(session) = self.session_mut() else {
            return;
        };
        if session.adopting == Some(witness) {
            return;
        }
        session.adopting = Some(witness);
        // From here on the standby may obey the new witness, so the old one's word fences nobody.
        if self.durable.witness != Some(witness)
            && let Some(primary) = self.primary.as_mut()
        {
            primary.witness_fenced = false;
        }
        self.ship(Item::Adopt(witness), Purpose::Adopt(witness));
    }
}
