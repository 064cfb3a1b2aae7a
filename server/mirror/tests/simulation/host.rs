//! A server as its process and its machine: runs the state machine under test, with a disk, a clock and a way to die.

use std::collections::{BTreeMap, VecDeque};

use mirror::{
    Action, Blocks, ConnectionId, Durable, Event, Fault, Generation, Incarnation, Message, Moment,
    Node, NodeId, Notice, PersistId, Reply, RequestId, Status, Ticket, VolumeId, Work, Yield,
};

use crate::{
    disk::{Content, Disk, Snapshot},
    lies::Lie,
    random::Random,
    world::{Ev, Found, World},
};

/// What a process is told.
#[derive(Clone)]
pub enum Input {
    Event(Event),
    /// A client's read.
    Read(Read),
}

#[derive(Clone, Copy)]
pub struct Read {
    pub request: Option<RequestId>,
    /// Number of the read in the model.
    pub id: u64,
    pub volume: VolumeId,
    pub connection: Option<ConnectionId>,
    pub sector: usize,
}

/// An answer that waits until it may leave.
enum Held {
    /// A read, and what it found.
    Read(Read, u64),
    /// What became of a change or a flush.
    Ended(RequestId, Reply),
}

pub struct Host {
    pub node: Option<Node>,
    pub life: u64,
    pub frozen: bool,
    pub inbox: Vec<Input>,
    pub disk: Disk,
    pub durable: Durable,
    persists: VecDeque<(PersistId, Durable)>,
    persist_at: u64,
    works: BTreeMap<Ticket, (Work, Option<Snapshot>)>,
    held: Vec<Held>,
    /// A volume that cannot be read, until it was said and a later session has made it afresh.
    damaged: Option<VolumeId>,
    /// This process has said so.
    told_damage: bool,
    /// Its last greeting while it was not primary.
    pub greeting: Option<Message>,
    /// Counts how often all clients were closed.
    pub reign: u64,
    pub clock: Clock,
    pub full: bool,
    pub failing: bool,
    /// Its disk does not go back but half.
    pub balks: bool,
    /// Since when its disk has ended nothing.
    pub hung: Option<u64>,
    /// Since when it has owed the process an answer that nobody but that one waits for.
    pub asked: Option<Moment>,
    /// What would have ended meanwhile.
    pub stuck: Vec<Ev>,
    /// Power was lost since the durable state was written.
    pub power_lost: bool,
    /// Lost power since its data were last known to be good.
    pub lacks: bool,
    /// What is to be found by going back, as long as something is kept: under which name, and what it is.
    pub before: Option<(Generation, Content)>,
    /// Generations of the data when something began to be kept under this name.
    past: Option<(Generation, Vec<Generation>)>,
}

/// A monotonic clock that runs a little wrong, and stands still while the machine is stopped.
#[derive(Clone, Copy, Default)]
pub struct Clock {
    pub base: u64,
    /// Parts of a million too fast.
    pub drift: i64,
    /// Microseconds that it missed.
    pub missed: u64,
}

impl Clock {
    pub fn read(&self, now: u64) -> Moment {
        let ran = now - self.missed;
        let drifted = ran as i64 + ran as i64 / 1000 * self.drift / 1000;
        Moment(self.base + drifted as u64 / 1000)
    }
}

impl Host {
    pub fn new(volumes: u64) -> Self {
        Self {
            node: None,
            life: 0,
            frozen: false,
            inbox: Vec::new(),
            disk: Disk::new(volumes),
            durable: Durable::default(),
            persists: VecDeque::new(),
            persist_at: 0,
            works: BTreeMap::new(),
            held: Vec::new(),
            damaged: None,
            told_damage: false,
            greeting: None,
            reign: 0,
            clock: Clock::default(),
            full: false,
            failing: false,
            balks: false,
            hung: None,
            asked: None,
            stuck: Vec::new(),
            power_lost: false,
            lacks: false,
            before: None,
            past: None,
        }
    }

    /// The name under which the process has what it changes kept.
    fn keeps(&self) -> Option<Generation> {
        self.node.as_ref().and_then(Node::keeps)
    }

    /// The durable state was replaced: something may be kept from now on, or not any more.
    fn note_kept(&mut self) {
        if let Some(name) = self.durable.kept
            && self.past.as_ref().is_none_or(|(of, _)| *of != name)
        {
            self.past = Some((name, self.durable.history.clone()));
        }
        let known = self.before.as_ref().map(|(name, _)| *name);
        if known != self.durable.kept {
            let now = |name: Generation| (name, self.disk.before(name));
            self.before = self.durable.kept.map(now);
        }
    }

    /// Generations of the data as if it had never begun to go back.
    pub fn past(&self) -> Option<&Vec<Generation>> {
        let past = self.past.as_ref();
        past.filter(|(of, _)| self.durable.kept == Some(*of))
            .map(|(_, history)| history)
    }

    /// What there would be after going back, or is, if that is done.
    pub fn to_be_found(&self) -> Content {
        let before = self.before.as_ref().map(|(_, content)| content.clone());
        before.unwrap_or_else(|| (self.disk.cache.clone(), self.disk.metadata.clone()))
    }

    /// What the disk would go back to is what was there when it began to keep it.
    fn check_kept(&self) -> Result<(), String> {
        match &self.before {
            Some((name, content)) if self.disk.before(*name) != *content => Err(format!(
                "kept as {name:?} is {:?} and not {content:?}",
                self.disk.before(*name)
            )),
            _ => Ok(()),
        }
    }

    pub fn status(&self) -> Option<Status> {
        self.node.as_ref().map(Node::status)
    }

    /// The process dies: of what it had asked of the kernel, some was done.
    fn stop(&mut self, random: &mut Random) {
        let keeps = self.keeps();
        self.node = None;
        self.life += 1;
        self.frozen = false;
        self.inbox.clear();
        self.held.clear();
        self.asked = None;
        self.told_damage = false;
        for (_, (work, snapshot)) in std::mem::take(&mut self.works) {
            if matches!(work, Work::GoBack) {
                self.disk.go_half_back(keeps, random);
            } else if snapshot.is_none() && random.one_in(2) {
                self.disk.work(&work, keeps);
            }
        }
        let done = random.below(self.persists.len() as u64 + 1) as usize;
        if let Some((_, state)) = std::mem::take(&mut self.persists)
            .into_iter()
            .take(done)
            .next_back()
        {
            self.durable = state;
            self.power_lost = false;
            self.note_kept();
        }
    }
}

impl World {
    pub fn host(&mut self, id: NodeId) -> &mut Host {
        &mut self.hosts[id as usize]
    }

    pub fn boot(&mut self, id: NodeId) {
        let (now, drift) = (self.now, self.setup.drift[id as usize]);
        let base = self.random.between(1_000_000, 9_000_000);
        let incarnation = Incarnation(self.random.next());
        let config = self.setup.config.clone();
        let lie = self.lie;
        let host = self.host(id);
        if host.node.is_some() {
            return;
        }
        if host.durable.kept.is_none() {
            host.disk.forget();
        }
        let power_lost = host.power_lost && lie != Lie::PowerCutUnseen;
        host.clock = Clock {
            base,
            drift,
            missed: 0,
        };
        let moment = host.clock.read(now);
        host.node = Some(Node::start(
            id,
            config,
            host.durable.clone(),
            power_lost,
            incarnation,
            moment,
        ));
        host.persist_at = now;
        let life = host.life;
        self.log(|| format!("{id:?} boots, power lost {power_lost}"));
        self.at(1000, Ev::Tick(id, life));
    }

    pub fn kill(&mut self, id: NodeId) {
        let mut random = Random::new(self.random.next());
        self.log(|| format!("{id:?} is killed"));
        if self.host(id).node.is_some() {
            let had = !self.host(id).durable.inconsistent;
            self.host(id).stop(&mut random);
            self.note_target(id, had);
            self.close_clients_of(id);
        }
    }

    /// This server, which had everything or not, may have become the target of a resync from one that lost power meanwhile.
    fn note_target(&mut self, id: NodeId, had: bool) {
        let peer_lacks = self.hosts[id.peer() as usize].lacks;
        if had && self.host(id).durable.inconsistent && peer_lacks {
            self.lose_unflushed();
        }
    }

    pub fn cut_power(&mut self, id: NodeId) {
        let mut random = Random::new(self.random.next());
        self.log(|| format!("{id:?} loses power"));
        let other_good = self.has_everything(id.peer());
        let host = self.host(id);
        if host.node.is_some() {
            host.stop(&mut random);
        }
        host.disk.power_cut(&mut random);
        // What nobody had flushed is as gone there as here.
        host.before = None;
        host.note_kept();
        host.power_lost = true;
        host.lacks = true;
        if !other_good {
            self.lose_unflushed();
        }
    }

    /// From here on answered writes that nobody flushed may be gone.
    pub fn lose_unflushed(&mut self) {
        let volumes = self.setup.volumes;
        self.model.power_cut(|(volume, _)| volume < volumes);
    }

    /// Whether this server has all that was ever answered. In mode `async` nobody knows.
    fn has_everything(&self, id: NodeId) -> bool {
        let host = &self.hosts[id as usize];
        let outdated = self
            .witness
            .truth()
            .is_some_and(|record| record.outdated == Some(id));
        self.setup.is_sync()
            && !outdated
            && !host.lacks
            && !host.durable.inconsistent
            && !host.durable.history.is_empty()
    }

    pub fn thaw(&mut self, id: NodeId, frozen_at: u64) {
        let (now, stops) = (self.now, self.setup.clocks_stop);
        let host = self.host(id);
        if !host.frozen {
            return;
        }
        host.frozen = false;
        if stops {
            host.clock.missed += now - frozen_at;
        }
        self.log(|| format!("{id:?} thaws"));
        for input in std::mem::take(&mut self.host(id).inbox) {
            self.input(id, input);
        }
    }

    /// Tells a process something, if it runs.
    pub fn input(&mut self, id: NodeId, input: Input) {
        let host = self.host(id);
        if host.node.is_none() {
            return;
        }
        if host.frozen {
            host.inbox.push(input);
            return;
        }
        match input {
            Input::Event(event) => self.event(id, event),
            Input::Read(read) => self.read_arrives(id, read),
        }
    }

    pub fn event(&mut self, id: NodeId, event: Event) {
        let now = self.now;
        let host = self.host(id);
        let moment = host.clock.read(now);
        let Some(node) = host.node.as_mut() else {
            return;
        };
        let actions = node.handle(moment, event);
        for action in actions {
            self.act(id, action);
        }
        self.answer_held(id);
    }

    fn act(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Send(message) => self.send_message(id, message),
            Action::Ask(request) => self.send_request(id, request),
            Action::Disk(ticket, work) => self.start_work(id, ticket, work),
            Action::Persist(persist, state) => self.start_persist(id, persist, *state),
            Action::Reply(request, reply) if self.is_gated(request, reply) => {
                self.host(id).held.push(Held::Ended(request, reply));
            }
            Action::Reply(request, reply) => self.send_reply(id, request, reply, None),
            Action::CloseClients => {
                let host = self.host(id);
                host.reign += 1;
                host.held.clear();
                self.close_clients_of(id);
            }
            Action::Note(notice) => self.noted(id, notice),
        }
    }

    fn noted(&mut self, id: NodeId, notice: Notice) {
        self.log(|| format!("{id:?}: {notice:?}"));
        match notice {
            Notice::Primary(term) => {
                self.counts.promotions += 1;
                if self
                    .reigns
                    .insert(term, id)
                    .is_some_and(|other| other != id)
                {
                    self.fail(format!("two primaries in {term}"));
                }
            }
            Notice::SplitBrain if !self.over => {
                self.fail(format!("{id:?} sees a split brain that nobody forced"))
            }
            Notice::Resync { compare: true, .. } => self.counts.compares += 1,
            Notice::Resync { .. } => self.counts.resyncs += 1,
            Notice::Verified { differing, .. } => self.verified(differing),
            Notice::VerifyStopped => self.found = Some(Found::Stopped),
            _ => {}
        }
    }

    fn start_work(&mut self, id: NodeId, ticket: Ticket, work: Work) {
        let latency = if self.random.one_in(40) { 30_000 } else { 800 };
        let delay = self.random.between(20, latency);
        let host = self.host(id);
        let snapshot = match &work {
            Work::Flush(volume) => Some(host.disk.begin_flush(*volume)),
            _ => None,
        };
        host.works.insert(ticket, (work, snapshot));
        let life = host.life;
        self.at(delay, Ev::Disk(id, life, ticket));
    }

    /// What a target of a resync finds damaged before it takes the other's metadata. Not what a primary finds: its volume
    /// would be lost.
    fn find_damage(&mut self, id: NodeId) -> Option<Blocks> {
        let (often, volumes) = (self.setup.damages, self.setup.volumes);
        let new = often > 0 && self.aside.one_in(often);
        let volume = VolumeId(self.aside.below(volumes));
        let host = self.host(id);
        if host.told_damage {
            (host.damaged, host.told_damage) = (None, false);
        } else if new {
            host.damaged.get_or_insert(volume);
        }
        let lost = host.damaged?;
        host.told_damage = true;
        let blocks = host.disk.lose(lost);
        host.before = None;
        host.note_kept();
        self.log(|| format!("{id:?} finds {lost:?} damaged"));
        Some(blocks)
    }

    pub fn end_work(&mut self, id: NodeId, life: u64, ticket: Ticket) {
        let unlucky = self.random.one_in(8);
        let half = self.random.one_in(2);
        let lie = self.lie;
        let host = self.host(id);
        if host.life != life {
            return;
        }
        let Some((work, snapshot)) = host.works.remove(&ticket) else {
            return;
        };
        let metadata = matches!(work, Work::ReplaceMetadata(_));
        if let Some(lost) = metadata.then(|| self.find_damage(id)).flatten() {
            let done = Event::Done(ticket, Ok(Yield::Lost(lost)));
            return self.input(id, Input::Event(done));
        }
        if matches!(work, Work::GoBack) && self.host(id).balks {
            let mut random = Random::new(self.aside.next());
            let keeps = self.host(id).keeps();
            self.host(id).disk.go_half_back(keeps, &mut random);
            let done = Event::Done(ticket, Err(Fault::Broken));
            return self.input(id, Input::Event(done));
        }
        let host = self.host(id);
        let keeps = host.keeps().filter(|_| lie != Lie::NothingKept);
        let writes = matches!(
            work,
            Work::Apply(mirror::Op::Write { .. }) | Work::Restore { .. }
        );
        let result = if host.full && writes {
            Err(Fault::NoSpace)
        } else if host.failing && unlucky {
            if half && snapshot.is_none() {
                host.disk.work(&work, keeps);
            }
            Err(Fault::Broken)
        } else if let Some(snapshot) = snapshot {
            host.disk.end_flush(snapshot);
            Ok(Yield::Nothing)
        } else {
            Ok(host.disk.work(&work, keeps))
        };
        let kept = host.check_kept();
        self.check(kept.map_err(|what| format!("{id:?}: {what}")));
        let result = match result {
            Ok(Yield::Sum(_)) if lie == Lie::SumsAgree => Ok(Yield::Sum(1)),
            result => result,
        };
        self.input(id, Input::Event(Event::Done(ticket, result)));
    }

    fn start_persist(&mut self, id: NodeId, persist: PersistId, state: Durable) {
        let delay = self.random.between(50, 4000);
        let now = self.now;
        let host = self.host(id);
        host.persists.push_back((persist, state));
        host.persist_at = host.persist_at.max(now + delay) + 1;
        let (at, life) = (host.persist_at, host.life);
        if self.lie == Lie::PersistLater {
            self.at(0, Ev::Persisted(id, life, persist));
            self.at(at - now + 200_000, Ev::Persist(id, life, persist));
        } else {
            self.at(at - now, Ev::Persist(id, life, persist));
        }
    }

    pub fn end_persist(&mut self, id: NodeId, life: u64, persist: PersistId) {
        let lie = self.lie;
        let host = self.host(id);
        if host.life != life {
            return;
        }
        let had = !host.durable.inconsistent;
        while host.persists.front().is_some_and(|(of, _)| *of <= persist) {
            let Some((_, state)) = host.persists.pop_front() else {
                break;
            };
            host.durable = state;
            host.power_lost = false;
            if lie == Lie::NeverInconsistent {
                host.durable.inconsistent = false;
            }
            host.lacks = host.durable.rolled_back;
            host.note_kept();
        }
        self.note_target(id, had);
        if lie != Lie::PersistLater {
            self.input(id, Input::Event(Event::Persisted(persist)));
        }
    }

    fn read_arrives(&mut self, id: NodeId, read: Read) {
        let host = self.host(id);
        let node = host.node.as_ref();
        let attached = read
            .connection
            .is_none_or(|c| node.is_some_and(|n| n.is_attached(read.volume, c)));
        if !attached {
            self.end_read(id, read, Err(Reply::Evicted));
            return;
        }
        let (life, reign) = (host.life, host.reign);
        let delay = self.random.between(10, 900);
        self.at(delay, Ev::ReadDisk(id, life, reign, read));
    }

    pub fn read_disk(&mut self, id: NodeId, life: u64, reign: u64, read: Read) {
        let host = self.host(id);
        if host.life != life || host.reign != reign {
            return;
        }
        if host.failing && read.request.is_some() {
            self.end_read(id, read, Err(Reply::Failed));
            return;
        }
        let value = host.disk.read(read.volume, read.sector);
        host.held.push(Held::Read(read, value));
        if !host.frozen {
            self.answer_held(id);
        }
    }

    /// Lets the answers go that may. Who is no client only looks, and does not wait.
    fn answer_held(&mut self, id: NodeId) {
        let (now, lie) = (self.now, self.lie);
        let host = self.host(id);
        if host.held.is_empty() {
            return;
        }
        let moment = host.clock.read(now);
        let primary = host
            .status()
            .is_some_and(|status| status.role == mirror::Role::Primary);
        let may = host
            .node
            .as_ref()
            .is_some_and(|node| node.may_answer(moment));
        if !(may || (lie == Lie::NoLease && primary)) {
            host.held
                .retain(|held| !matches!(held, Held::Read(Read { request: None, .. }, _)));
            return;
        }
        for held in std::mem::take(&mut host.held) {
            match held {
                Held::Read(read, value) => self.end_read(id, read, Ok(value)),
                Held::Ended(request, reply) => self.send_reply(id, request, reply, None),
            }
        }
    }

    fn end_read(&mut self, id: NodeId, read: Read, result: Result<u64, Reply>) {
        match (read.request, result) {
            (Some(request), Ok(value)) => self.send_reply(id, request, Reply::Done, Some(value)),
            (Some(request), Err(reply)) => self.send_reply(id, request, reply, None),
            (None, Ok(value)) => {
                let seen = self.model.has_read(read.id, value);
                self.check(seen.map_err(|e| format!("a reader at {id:?}: {e}")));
            }
            (None, Err(_)) => self.model.forget_read(read.id),
        }
    }

    /// Whether the work of the host's kernel is done.
    pub fn is_idle(&self, id: NodeId) -> bool {
        let host = &self.hosts[id as usize];
        host.works.is_empty() && host.persists.is_empty()
    }
}
