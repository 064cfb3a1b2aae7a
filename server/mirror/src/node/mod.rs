//! One server of the pair.

mod asking;
mod changes;
mod dirty;
mod flushing;
mod gate;
mod hanging;
mod kept;
mod pace;
mod pieces;
mod primary;
mod resync;
mod seeking;
mod session;
mod standby;
mod status;
mod under_way;
mod verify;

use std::collections::{BTreeMap, VecDeque};

use crate::{
    Action, Body, Command, Config, Durable, Event, Generation, Hello, Incarnation, Message, Moment,
    NodeId, Notice, PersistId, Request, SessionId, Term, Ticket, WitnessId, Work,
};
use asking::Asker;
use dirty::Dirty;
use primary::Primary;
use seeking::Seeking;
use standby::Standby;

pub use status::{Progress, Role, Status, Wait};
pub use verify::Findings;

/// What a finished disk work was for.
#[derive(Debug, Clone, Copy)]
enum Job {
    /// A change on the primary.
    Change(Ticket),
    /// Reading for a resync: content or metadata.
    Read(Ticket),
    /// Checksum for a resync.
    Sum(Ticket),
    /// The primary's half of a flush.
    Flush(Ticket),
    /// The primary's half of a survey.
    Survey(SessionId),
    /// An item on the standby.
    Item(SessionId, crate::Seq),
    /// Going back to what was kept.
    Back,
    /// Forgetting it.
    Forget,
}

/// What follows once a state is durable.
#[derive(Debug, Clone, Copy)]
enum After {
    Nothing,
    /// The term may be used at the witness.
    Raised,
    /// The primary tracks durably, and may go on alone.
    Alone,
    /// Marks of changes made alone.
    Marked,
    /// The standby may say that it opened the session.
    Opened(SessionId),
    /// The standby may answer this item.
    Item(SessionId, crate::Seq),
    /// The primary may tell the standby that it is consistent.
    Shared(SessionId),
    /// The other witness counts from here on.
    Adopted,
}

/// One server of the pair. See PROTOCOL.md.
#[derive(Debug)]
pub struct Node {
    me: NodeId,
    config: Config,
    incarnation: Incarnation,
    now: Moment,
    term: Term,
    durable: Durable,
    persists: VecDeque<(PersistId, After)>,
    last_persist: PersistId,
    generations: u64,
    dirty: Dirty,
    works: BTreeMap<Ticket, hanging::AtWork>,
    watch: hanging::Watch,
    last_ticket: Ticket,
    seeking: Seeking,
    primary: Option<Primary>,
    standby: Option<Standby>,
    asker: Asker,
    peer: Option<(Moment, Hello)>,
    peer_term: Term,
    /// When anything came from the other server.
    heard: Option<Moment>,
    promise_until: Moment,
    hello_at: Moment,
    rest_until: Moment,
    /// Nothing is kept from before a resync any more, as of this replacement of the durable state; the disk is to be told.
    unkept: Option<(PersistId, Generation)>,
    prepared: bool,
    /// Since when it hears what comes in; nothing while it does not.
    hears_since: Option<Moment>,
    split_brain: bool,
    /// What the last comparison found.
    findings: Option<Findings>,
    out: Vec<Action>,
}

impl Node {
    /// A server as it starts: it trusts nothing but its durable state. `power_lost` says that the host started anew
    /// since this state was written, so what was not flushed may be gone. `incarnation` is random; `config` has passed
    /// [`Config::check`].
    pub fn start(
        me: NodeId,
        config: Config,
        durable: Durable,
        power_lost: bool,
        incarnation: Incarnation,
        now: Moment,
    ) -> Self {
        let durable = durable.after_start(power_lost);
        let dirty = Dirty::starting_with(durable.marks.clone());
        Self {
            me,
            incarnation,
            now,
            term: durable.term,
            persists: VecDeque::new(),
            last_persist: PersistId(0),
            generations: 0,
            dirty,
            works: BTreeMap::new(),
            watch: hanging::Watch::beginning(now),
            last_ticket: Ticket(0),
            seeking: Seeking::default(),
            primary: None,
            standby: None,
            asker: Asker::default(),
            peer: None,
            peer_term: Term(0),
            heard: None,
            // A promise given before the crash is forgotten, so it is taken to have been given just now.
            promise_until: now.after(config.timing.promise),
            hello_at: now,
            rest_until: Moment(0),
            unkept: None,
            prepared: true,
            hears_since: Some(now),
            split_brain: false,
            findings: None,
            out: Vec::new(),
            durable,
            config,
        }
    }

    /// Takes in what happened at `now` and hands out what is to be done, in this order.
    pub fn handle(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.handle_all(now, [event], &mut actions);
        actions
    }

    /// As [`Node::handle`], for events that had all happened at `now`, in their order; appends to `actions`.
    pub fn handle_all(
        &mut self,
        now: Moment,
        events: impl IntoIterator<Item = Event>,
        actions: &mut Vec<Action>,
    ) {
        self.now = self.now.max(now);
        self.out = std::mem::take(actions);
        for event in events {
            self.take_in(event);
            self.go_on();
        }
        *actions = std::mem::take(&mut self.out);
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Received(message) => self.receive(message),
            Event::LinkDown => self.link_down(),
            Event::Witness(answer) => self.answered(answer),
            Event::Request(request) => self.request(request),
            Event::Done(ticket, result) => self.done(ticket, result),
            Event::Persisted(id) => self.persisted(id),
            Event::Command(command) => self.command(command),
        }
    }

    /// Whatever can go on now, goes on.
    fn go_on(&mut self) {
        self.forget_kept();
        self.accept_open();
        self.settle();
        self.raise_above_peer();
        self.fence();
        self.go_alone();
        self.yield_place();
        self.start_changes();
        self.start_flushes();
        self.resync();
        self.finish_resync();
        self.go_on_verifying();
        self.answer_attaches();
        self.drive_witness();
    }

    fn tick(&mut self) {
        self.watch_disk();
        self.check_silence();
        self.ping();
        self.greet();
        self.seek();
        self.flush_regularly();
    }

    fn receive(&mut self, message: Message) {
        if message.from == self.me {
            return;
        }
        self.heard = Some(self.now);
        self.peer_term = self.peer_term.max(message.term);
        let Message { term, body, .. } = message;
        match body {
            Body::Hello(hello) => self.greeted(term, hello),
            Body::Open { session, to } => self.asked_to_open(term, session, to),
            Body::Opened {
                session,
                complete,
                dirty,
            } => self.opened(term, session, complete, &dirty),
            Body::Ship { session, seq, item } => self.shipped(term, session, seq, item),
            Body::Ack {
                session,
                seq,
                answer,
            } => self.acknowledged(session, seq, answer),
            Body::Ping {
                session,
                number,
                sent,
            } => self.pinged(term, session, number, sent),
            Body::Pong {
                session,
                number,
                sent,
            } => self.ponged(session, number, sent),
            Body::Failed { session } => self.standby_failed(session),
            Body::Yield { session } => self.yielded(term, session),
        }
    }

    fn link_down(&mut self) {
        self.lose_session();
        self.lose_primary();
    }

    fn request(&mut self, request: Request) {
        if self.primary.is_none() {
            self.reply(request.id, crate::Reply::NotPrimary);
            return;
        }
        self.admit(request);
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Promote { force } => self.promote(force),
            Command::GoBack => self.go_back(),
            Command::HandOver => self.hand_over(),
            Command::Discard => self.discard(),
            Command::AcceptWitness => self.accept_witness(),
            Command::Verify => self.verify(),
        }
    }

    fn send(&mut self, body: Body) {
        self.out.push(Action::Send(Message {
            from: self.me,
            term: self.term,
            body,
        }));
    }

    fn note(&mut self, notice: Notice) {
        self.out.push(Action::Note(notice));
    }

    fn reply(&mut self, id: crate::RequestId, reply: crate::Reply) {
        self.out.push(Action::Reply(id, reply));
    }

    fn new_ticket(&mut self) -> Ticket {
        self.last_ticket.0 += 1;
        self.last_ticket
    }

    fn work(&mut self, job: Job, work: Work) {
        let ticket = self.new_ticket();
        let at_work = hanging::AtWork::new(job, work.changes(), self.now);
        self.works.insert(ticket, at_work);
        self.out.push(Action::Disk(ticket, work));
    }

    /// Whether no change of the disk is under way. One of an older session that ended late would overwrite newer data.
    fn quiet(&self) -> bool {
        self.works.values().all(|work| !work.changes)
    }

    fn done(&mut self, ticket: Ticket, result: Result<crate::Yield, crate::Fault>) {
        let Some(work) = self.works.remove(&ticket) else {
            return;
        };
        self.note_end(&work);
        match work.job {
            Job::Change(entry) => self.change_done(entry, result),
            Job::Read(entry) => self.resync_read(entry, result),
            Job::Sum(entry) => self.resync_summed(entry, result),
            Job::Flush(flush) => self.flush_done(flush, result),
            Job::Survey(session) => self.survey_done(session, result),
            Job::Item(session, seq) => self.item_done(session, seq, result),
            Job::Back => self.gone_back(result),
            Job::Forget => {}
        }
    }

    fn persist(&mut self, after: After) -> PersistId {
        self.last_persist.0 += 1;
        self.persists.push_back((self.last_persist, after));
        let state = Box::new(self.durable.clone());
        self.out.push(Action::Persist(self.last_persist, state));
        self.last_persist
    }

    fn persisted(&mut self, id: PersistId) {
        while let Some(&(first, after)) = self.persists.front() {
            if first > id {
                return;
            }
            self.persists.pop_front();
            self.follow(after);
        }
    }

    fn follow(&mut self, after: After) {
        match after {
            After::Nothing | After::Marked => {}
            After::Raised => self.raised(),
            After::Alone => self.alone(),
            After::Opened(session) => self.say_opened(session),
            After::Item(session, seq) => self.answer_item(session, seq, crate::ItemAnswer::Done),
            After::Shared(session) => self.say_synced(session),
            After::Adopted => self.adopted(),
        }
    }

    /// Whether this replacement of the durable state has ended.
    fn is_durable(&self, id: PersistId) -> bool {
        self.persists.front().is_none_or(|(first, _)| *first > id)
    }

    fn new_generation(&mut self) -> Generation {
        self.generations += 1;
        Generation {
            of: self.incarnation,
            number: self.generations,
        }
    }

    /// What this server has said of its data so far is not so any more: who offers a session on the strength of it offers
    /// that to somebody who is not there any more.
    fn start_over(&mut self) {
        /// Far from other random numbers.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        self.incarnation.0 = self.incarnation.0.wrapping_add(STEP);
    }

    fn agreed_witness(&self) -> Option<WitnessId> {
        self.durable.witness.filter(|_| self.config.witness)
    }
}
