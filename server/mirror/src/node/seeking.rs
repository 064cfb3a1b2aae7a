//! A server that is neither primary nor standby: it looks for a primary, or tries to become one.

use crate::{
    Alone, Body, Generation, Hello, Incarnation, Notice, PersistId, Record, Revision, SessionId,
    Term, WhyNot,
};

use super::{After, Node, Role, asking::Want, primary::Primary};

#[derive(Debug, Default)]
pub(super) struct Seeking {
    /// The attempt to become primary that is under way.
    claim: Option<Claim>,
    /// A primary asked for a session; accepted as soon as the disk is quiet.
    open: Option<(Term, SessionId)>,
    /// The operator wants this server promoted.
    demand: Option<Order>,
    /// The primary of this term has made way for this server, which lacks nothing that it answered.
    given: Option<Term>,
}

/// How the operator wants it promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// If nothing is lost by it.
    Careful,
    /// Whatever is lost.
    Forced,
    /// The same, with what it held before the resync that has not ended.
    Back,
}

/// A demand; it begins once no promise holds it back.
#[derive(Debug, Clone, Copy)]
struct Order {
    demand: Demand,
    /// The other server was known to be primary, so it is meant to lose its place.
    against_primary: bool,
}

#[derive(Debug, Clone, Copy)]
struct Claim {
    /// Whoever wants it, if it is by hand.
    order: Option<Order>,
    /// The replacement of the durable state that holds the term to be used.
    raising: Option<PersistId>,
    /// The witness' revision that the decision rests on.
    seen: Option<Revision>,
}

impl Claim {
    fn new(order: Option<Order>) -> Self {
        Self {
            order,
            raising: None,
            seen: None,
        }
    }

    fn by_hand(&self) -> bool {
        self.order.is_some()
    }

    fn demands(&self, demand: Demand) -> bool {
        self.order.is_some_and(|order| order.demand == demand)
    }

    /// Whatever is lost.
    fn force(&self) -> bool {
        self.demands(Demand::Forced) || self.back()
    }

    /// What was kept from before a resync is gone back to.
    fn back(&self) -> bool {
        self.demands(Demand::Back)
    }
}

impl Node {
    /// Says how this server is, as long as there is no session.
    pub(super) fn greet(&mut self) {
        if self.now < self.hello_at || self.standby.is_some() || self.has_session() {
            return;
        }
        self.hello_at = self.now.after(self.config.timing.ping);
        self.say_hello();
    }

    /// Whether no resync into this server is unfinished.
    pub fn is_consistent(&self) -> bool {
        !self.durable.inconsistent
    }

    /// Whether this server has never been one of a pair: what it holds is all its own.
    pub fn is_new(&self) -> bool {
        self.durable.history.is_empty() && !self.durable.inconsistent
    }

    /// Whether the other server is primary, as far as this one knows.
    pub fn follows(&self) -> bool {
        self.standby.is_some() || self.recent_peer().is_some_and(|peer| peer.primary)
    }

    /// Whether a primary has it as its standby: what changes here was admitted there.
    pub fn is_standby(&self) -> bool {
        self.standby.is_some()
    }

    /// Whether it wants no session now.
    fn rests(&self) -> bool {
        self.now < self.rest_until || !self.prepared || self.hangs()
    }

    /// Whether this server has what it needs to be a standby besides what the other one sends it. It begins with yes.
    pub fn prepare(&mut self, prepared: bool) {
        self.prepared = prepared;
    }

    pub(super) fn say_hello(&mut self) {
        let hello = Hello {
            incarnation: Some(self.incarnation),
            primary: self.primary.is_some(),
            history: self.durable.history.clone(),
            inconsistent: self.durable.inconsistent,
            rolled_back: self.durable.rolled_back,
            last_primary: self.durable.last_primary,
            resting: self.rests(),
        };
        self.send(Body::Hello(hello));
    }

    pub(super) fn greeted(&mut self, term: Term, hello: Hello) {
        let other_primary = hello.primary;
        self.peer = Some((self.now, hello.clone()));
        if other_primary && self.primary.is_some() {
            self.two_primaries(term);
        } else if self.primary.is_some() {
            self.offer_session(term, &hello);
        } else if other_primary {
            self.notice_rival(term, &hello);
            self.withdraw_demand();
            self.say_hello();
        }
    }

    /// Sees whether both have gone on from what they had in common. A primary that merely does not know what these data
    /// were last said so before it went on itself: its greeting was late.
    fn notice_rival(&mut self, term: Term, primary: &Hello) {
        if self.role() != Role::Seeking || term < self.durable.term {
            return;
        }
        let (mine, theirs) = (&self.durable.history, &primary.history);
        let unknown = |newest: Option<&Generation>, to: &[Generation]| {
            newest.is_some_and(|newest| !to.contains(newest))
        };
        let rival = unknown(mine.first(), theirs) && unknown(theirs.first(), mine);
        if rival && !self.split_brain {
            self.note(Notice::SplitBrain);
        }
        self.split_brain = rival;
    }

    /// The other server is primary. Who demanded this one's promotion before that was known meant to have one primary. A
    /// claim that is on its way is refused by the witness, if it looked before the other one won.
    fn withdraw_demand(&mut self) {
        let seeking = &mut self.seeking;
        let unaware = |order: &mut Order| !order.against_primary;
        let demand = seeking.demand.take_if(unaware).is_some();
        let witness = self.config.witness;
        let unasked = |claim: &mut Claim| !witness && claim.order.as_mut().is_some_and(unaware);
        if seeking.claim.take_if(unasked).is_some() || demand {
            self.note(Notice::NotPromotable(WhyNot::Overtaken));
        }
    }

    fn two_primaries(&mut self, term: Term) {
        if term > self.term {
            self.depose();
        } else {
            self.say_hello();
        }
    }

    /// What the other server last said of itself, if that is not long ago.
    pub(super) fn recent_peer(&self) -> Option<&Hello> {
        let fresh = self.config.timing.silence;
        let peer = self.peer.as_ref();
        peer.filter(|(when, _)| self.now.since(*when) < fresh)
            .map(|(_, hello)| hello)
    }

    /// Seeks promotion once nobody relies on this server not to.
    pub(super) fn seek(&mut self) {
        let courtesy = if self.durable.last_primary {
            0
        } else {
            self.config.timing.courtesy.0
        };
        let over = self.now.since(self.promise_until).0 > courtesy
            || (courtesy == 0 && self.now >= self.promise_until);
        let busy = self.role() != Role::Seeking
            || self.seeking.open.is_some()
            || self.seeking.claim.is_some();
        if busy || !over {
            return;
        }
        let demand = self.seeking.demand.take();
        if demand.is_some() || self.may_seek() {
            self.begin_claim(Claim::new(demand));
        }
    }

    fn may_seek(&self) -> bool {
        let data = !self.durable.history.is_empty() && !self.durable.inconsistent;
        let led = self.recent_peer().is_some_and(|peer| peer.primary);
        data && !led && !self.hangs() && (self.agreed_witness().is_some() || self.may_resume())
    }

    /// Without a witness: the last primary goes on after a restart if the other server says that it was not promoted.
    fn may_resume(&self) -> bool {
        let follower = self.recent_peer().is_some_and(|peer| {
            let known = peer
                .history
                .first()
                .is_none_or(|newest| self.durable.history.contains(newest));
            !peer.primary && !peer.last_primary && known
        });
        !self.config.witness && self.durable.last_primary && follower
    }

    fn begin_claim(&mut self, claim: Claim) {
        self.seeking.claim = Some(claim);
        if self.config.witness {
            self.asker.begin(Want::Look);
        } else {
            self.claim_without_witness(claim);
        }
    }

    fn claim_without_witness(&mut self, claim: Claim) {
        match self.eligible_by_hand(claim) {
            Ok(()) => self.raise(),
            Err(why) => self.refuse_claim(why),
        }
    }

    fn eligible_by_hand(&self, claim: Claim) -> Result<(), WhyNot> {
        if claim.force() {
            return Ok(());
        }
        if self.durable.inconsistent {
            return Err(WhyNot::Inconsistent);
        }
        if self.recent_peer().is_some_and(|peer| peer.primary) {
            return Err(WhyNot::Outdated);
        }
        Ok(())
    }

    /// The witness' record is here.
    pub(super) fn looked(&mut self, record: Option<Record>) {
        self.asker.want = None;
        if self.primary.is_some() {
            self.looked_as_primary(record);
            return;
        }
        let Some(claim) = self.seeking.claim else {
            return;
        };
        match self.eligible(claim, record) {
            Ok(()) => self.raise(),
            Err(why) => self.refuse_claim(why),
        }
    }

    fn eligible(&self, claim: Claim, record: Option<Record>) -> Result<(), WhyNot> {
        if claim.force() {
            return Ok(());
        }
        if self.durable.inconsistent {
            return Err(WhyNot::Inconsistent);
        }
        let Some(record) = record else {
            return if claim.by_hand() {
                Ok(())
            } else {
                Err(WhyNot::Empty)
            };
        };
        if record.outdated == Some(self.me) {
            return Err(WhyNot::Outdated);
        }
        if record.outdated == Some(self.me.peer()) {
            return Ok(());
        }
        let lags = self.answers_early() && record.holder != self.me;
        if lags && self.seeking.given != Some(record.term) {
            return Err(WhyNot::Lagging);
        }
        self.nothing_better(&record)
    }

    /// After a power cut this server may lack answered writes; the other one may have them, unless it says otherwise.
    fn nothing_better(&self, record: &Record) -> Result<(), WhyNot> {
        let peer_lost_too = self
            .recent_peer()
            .is_some_and(|peer| peer.rolled_back && !peer.primary);
        let first = record.holder == self.me;
        if self.durable.rolled_back && !(peer_lost_too && first) {
            return Err(WhyNot::RolledBack);
        }
        Ok(())
    }

    pub(super) fn refuse_claim(&mut self, why: WhyNot) {
        if self
            .seeking
            .claim
            .take()
            .is_some_and(|claim| claim.by_hand())
        {
            self.note(Notice::NotPromotable(why));
        }
        self.hold_off();
    }

    fn hold_off(&mut self) {
        self.promise_until = self
            .promise_until
            .max(self.now.after(self.config.timing.silence));
    }

    /// The primary of this term makes way for this server.
    pub(super) fn is_given(&mut self, term: Term) {
        self.seeking.given = Some(term);
    }

    /// Takes the next term of its own, durably, before anybody hears of it.
    fn raise(&mut self) {
        let persist = self.raise_term();
        if let Some(claim) = &mut self.seeking.claim {
            claim.raising = Some(persist);
            claim.seen = self.asker.revision();
        }
    }

    pub(super) fn raise_term(&mut self) -> PersistId {
        let highest = self.asker.record().map_or(Term(0), |record| record.term);
        let above = self.durable.term.max(self.peer_term).max(highest);
        self.durable.term = above.next_for(self.me);
        self.persist(After::Raised)
    }

    pub(super) fn raise_pending(&self) -> bool {
        self.persists
            .iter()
            .any(|(_, after)| matches!(after, After::Raised))
    }

    pub(super) fn raised(&mut self) {
        if self.primary.is_some() {
            self.raised_as_primary();
            return;
        }
        self.term = self.durable.term;
        let Some(claim) = self.seeking.claim else {
            return;
        };
        if !claim.raising.is_some_and(|id| self.is_durable(id)) {
            return;
        }
        if self.config.witness {
            self.asker.begin(Want::Take {
                force: claim.force(),
            });
            self.asker.rest_on(claim.seen);
        } else {
            self.claim_won();
        }
    }

    pub(super) fn claim_won(&mut self) {
        let Some(claim) = self.seeking.claim.take() else {
            return;
        };
        self.start_over();
        self.durable.shared |= claim.force(); // A forced one always goes a way of its own.
        self.seeking.open = None;
        self.term = self.durable.term;
        self.dirty.all_unsent();
        self.primary = Some(Primary::new(claim.back()));
        self.note(Notice::Primary(self.term));
    }

    /// A fresh primary begins as one that lost its standby, once what it did as standby has ended.
    pub(super) fn settle(&mut self) {
        let unsettled = self.primary.as_ref().is_some_and(|p| !p.settled);
        if !unsettled || !self.quiet() || self.goes_back() {
            return;
        }
        self.keep_no_longer();
        self.durable.last_primary = true;
        self.durable.rolled_back = false;
        self.durable.inconsistent = false;
        self.branch_off();
    }

    pub(super) fn promote(&mut self, force: bool) {
        self.demand(match force {
            true => Demand::Forced,
            false => Demand::Careful,
        });
    }

    pub(super) fn demand(&mut self, demand: Demand) {
        if self.primary.is_some() {
            return;
        }
        self.seeking.claim = None;
        if self.standby.is_some() && demand == Demand::Careful {
            self.note(Notice::NotPromotable(WhyNot::Outdated));
            return;
        }
        let against_primary = self.follows();
        self.leave_standby();
        self.seeking.demand = Some(Order {
            demand,
            against_primary,
        });
    }

    pub(super) fn may_adopt_by_hand(&self) -> bool {
        let fresh = self.durable.witness.is_none();
        self.seeking
            .claim
            .is_some_and(|claim| claim.by_hand() && (claim.force() || fresh))
    }

    /// Gives up this server's own changes: it becomes as a new one, which takes everything from the other.
    pub(super) fn discard(&mut self) {
        if self.role() != Role::Seeking {
            return;
        }
        self.keep_no_longer();
        self.durable.history.clear();
        self.durable.inconsistent = true;
        self.durable.complete = false;
        self.split_brain = false;
        self.start_over();
        self.seeking.claim = None;
        self.seeking.demand = None;
        self.asker.forget();
        self.persist(After::Nothing);
    }

    /// A primary wants this server as its standby.
    pub(super) fn asked_to_open(&mut self, term: Term, session: SessionId, to: Incarnation) {
        if to != self.incarnation || self.rests() {
            return;
        }
        if term < self.durable.term || (self.primary.is_some() && term <= self.term) {
            self.say_hello(); // So that it learns of the newer term.
            return;
        }
        if self.primary.is_some() {
            self.depose();
        }
        self.leave_standby();
        // A promotion of this server that is still on its way to the witness meets a newer revision there: the primary
        // won its higher term after this server looked.
        self.drop_promotion();
        self.asker.forget();
        self.seeking.open = Some((term, session));
    }

    /// A primary has it as its standby: nothing that was to make it primary outlasts that.
    fn drop_promotion(&mut self) {
        let claimed = self
            .seeking
            .claim
            .take()
            .is_some_and(|claim| claim.by_hand());
        if self.seeking.demand.take().is_some() || claimed {
            self.note(Notice::NotPromotable(WhyNot::Led));
        }
    }

    /// Opens the session once nothing of an older one is under way on the disk.
    pub(super) fn accept_open(&mut self) {
        if !self.quiet() || self.unkept.is_some() {
            return;
        }
        let Some((term, session)) = self.seeking.open.take() else {
            return;
        };
        self.drop_promotion();
        self.dirty.all_unsent();
        self.keep();
        self.durable.term = term;
        self.durable.inconsistent = true;
        self.durable.paired = false;
        self.durable.last_primary = false;
        self.durable.marks = self.dirty.unsent.widened(self.config.region);
        self.term = term;
        self.begin_standby(session);
        self.persist(After::Opened(session));
    }

    /// Whether a primary without a standby may serve.
    pub(super) fn continues_alone(&self) -> bool {
        self.config.alone == Alone::Continue
    }
}
