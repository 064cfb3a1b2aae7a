//! The world of one seed: time, wires, two servers, a witness, clients, and what goes wrong.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use mirror::{
    Body, Command, ConnectionId, Event, Item, Message, NodeId, PersistId, Record, Reply, RequestId,
    Role, Term, Ticket, WitnessAnswer, WitnessRequest,
};

use crate::{
    client::{Client, Task},
    disk::SECTORS,
    faults::Fault,
    host::{Host, Input, Read},
    lies::Lie,
    model::Model,
    net::{End, Net},
    random::Random,
    setup::Setup,
    witness::WitnessHost,
};

/// Something that happens at its time.
pub enum Ev {
    Tick(NodeId, u64),
    Input(NodeId, Input),
    Disk(NodeId, u64, Ticket),
    ReadDisk(NodeId, u64, u64, Read),
    Persist(NodeId, u64, PersistId),
    Persisted(NodeId, u64, PersistId),
    ToWitness(WitnessRequest, u64),
    FromWitness(NodeId, WitnessAnswer),
    Client(usize),
    Answer(RequestId, Reply, Option<u64>, u64),
    Closed(usize, ConnectionId),
    Faults,
    Fault(Fault),
    Reader,
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// So many blocks differed.
    Differing(u64),
    /// It was broken off.
    Stopped,
}

#[derive(Default, Debug, Clone, Copy)]
pub struct Counts {
    pub events: u64,
    pub faults: u64,
    pub promotions: u64,
    pub resyncs: u64,
    pub compares: u64,
    pub errors: u64,
    pub acknowledged: u64,
    pub reads: u64,
    pub by_hand: u64,
    pub verifies: u64,
    pub repairs: u64,
    pub returns: u64,
    pub halves: u64,
    pub hangs: u64,
}

pub struct World {
    pub random: Random,
    pub aside: Random,
    pub hangs: Random,
    pub now: u64,
    order: u64,
    /// When, which of those at that time, and its place in `events`.
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Ev>>,
    /// Places of events that have happened.
    free: Vec<usize>,
    ids: u64,
    pub setup: Setup,
    pub lie: Lie,
    pub hosts: [Host; 2],
    pub witness: WitnessHost,
    pub clients: Vec<Client>,
    pub model: Model,
    pub net: Net,
    pub requests: BTreeMap<RequestId, (usize, ConnectionId, Option<u64>)>,
    pub reigns: BTreeMap<Term, NodeId>,
    /// Losses of power by the time when one server took the other's place.
    pub losses_when_taken: u64,
    pub active: bool,
    /// Both sides are compared now and then.
    pub verifies: bool,
    /// Disks hang now and then.
    pub hanging: bool,
    /// Servers look after their disks, also when nobody else does.
    pub probing: bool,
    /// Clients go on though nothing is broken.
    pub busy: bool,
    /// The pair has gone back to an older state: what clients were told counts no more.
    pub over: bool,
    /// What comparisons since the last peace have found.
    pub found: Option<Found>,
    pub counts: Counts,
    violation: Option<String>,
    verbose: bool,
}

impl World {
    pub fn new(seed: u64, lie: Lie, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let mut setup = Setup::new(&mut random);
        if lie == Lie::HangUnseen {
            setup.config.timing.hang = mirror::Millis(1 << 40);
        }
        let witness = WitnessHost::new(random.next());
        let aside = random.aside();
        Self {
            now: 1_000_000,
            order: 0,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            free: Vec::new(),
            ids: 0,
            lie,
            hosts: [Host::new(setup.volumes), Host::new(setup.volumes)],
            witness,
            clients: (0..setup.volumes).map(Client::new).collect(),
            model: Model::default(),
            net: Net::default(),
            requests: BTreeMap::new(),
            reigns: BTreeMap::new(),
            losses_when_taken: 0,
            active: false,
            verifies: true,
            hanging: true,
            busy: false,
            over: false,
            found: None,
            counts: Counts::default(),
            violation: None,
            verbose,
            setup,
            probing: aside.aside().one_in(2),
            hangs: aside.aside(),
            aside,
            random,
        }
    }

    pub fn log(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} {}", self.now as f64 / 1000.0, text());
        }
    }

    pub fn fail(&mut self, what: String) {
        self.log(|| format!("VIOLATION: {what}"));
        let now = self.now;
        self.violation
            .get_or_insert_with(|| format!("at {now} us: {what}"));
    }

    pub fn check(&mut self, result: Result<(), String>) {
        if let Err(what) = result {
            self.fail(what);
        }
    }

    pub fn new_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    pub fn at(&mut self, delay: u64, event: Ev) {
        self.order += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.queue
            .push(Reverse((self.now + delay, self.order, place)));
    }

    /// One life of the pair: set up, broken in every way, healed, and compared.
    pub fn run(mut self) -> (Counts, Result<(), String>) {
        let result = self.live();
        self.counts.acknowledged = self.model.acknowledged;
        self.counts.reads = self.model.judged;
        (self.counts, result)
    }

    fn live(&mut self) -> Result<(), String> {
        self.log(|| {
            format!(
                "{:?}, clocks stop: {}",
                self.setup.config, self.setup.clocks_stop
            )
        });
        self.boot(NodeId::A);
        self.boot(NodeId::B);
        self.event(NodeId::A, Event::Command(Command::Promote { force: false }));
        (0..self.clients.len()).for_each(|who| self.at(0, Ev::Client(who)));
        self.at(0, Ev::Reader);
        self.until(20_000_000, "the first pairing", Self::paired)?;
        self.active = true;
        self.at(0, Ev::Faults);
        let end = self.now + self.setup.active_for;
        self.until(u64::MAX / 2, "the end of the trouble", |world| {
            world.now >= end
        })?;
        self.active = false;
        self.heal();
        self.until(60_000_000, "peace", Self::at_peace)?;
        if self.verifies {
            self.spoil_and_verify()?;
        }
        self.review()?;
        self.hang_and_be_replaced()?;
        self.break_resync_and_go_back()
    }

    /// The same without comparisons, as all seeds were once.
    pub fn without_verify(self) -> Self {
        Self {
            verifies: false,
            ..self.without_hangs()
        }
    }

    /// The same with disks that do not hang, as they were later.
    pub fn without_hangs(self) -> Self {
        Self {
            hanging: false,
            ..self
        }
    }

    pub fn verified(&mut self, differing: u64) {
        self.counts.verifies += 1;
        self.counts.repairs += differing;
        if self.active && differing > 0 {
            self.fail(format!(
                "{differing} blocks differ though nobody spoiled them"
            ));
        }
        self.found = Some(Found::Differing(differing));
    }

    /// The standby's disk silently loses what it held; a comparison finds it and puts it right, beside clients or without.
    /// What was sent long ago may still end the session, and the comparison with it.
    fn spoil_and_verify(&mut self) -> Result<(), String> {
        let beside_clients = self.random.one_in(2);
        for _ in 0..5 {
            let found = self.spoil_once(beside_clients)?;
            self.busy = false;
            self.until(30_000_000, "the peace after it", Self::at_peace)?;
            match found {
                Found::Stopped => {}
                Found::Differing(0) if !beside_clients => {
                    return Err("nothing was found that was spoiled".to_owned());
                }
                Found::Differing(_) => return Ok(()),
            }
        }
        Err("no comparison came to its end".to_owned())
    }

    fn spoil_once(&mut self, beside_clients: bool) -> Result<Found, String> {
        let leads = |host: &Host| host.status().is_some_and(|s| s.role == Role::Primary);
        let primary = [NodeId::A, NodeId::B][usize::from(leads(&self.hosts[1]))];
        for _ in 0..self.random.between(1, 6) {
            self.spoil(primary.peer());
        }
        self.found = None;
        self.busy = beside_clients;
        self.event(primary, Event::Command(Command::Verify));
        self.until(30_000_000, "the comparison", |world| world.found.is_some())?;
        Ok(self.found.unwrap_or(Found::Stopped))
    }

    fn spoil(&mut self, standby: NodeId) {
        let volume = mirror::VolumeId(self.random.below(self.setup.volumes));
        let sector = self.random.below(SECTORS as u64) as usize;
        let value = if self.random.one_in(3) {
            0
        } else {
            self.new_id()
        };
        let truth = self.hosts[standby.peer() as usize]
            .disk
            .read(volume, sector);
        let value = if value == truth { self.new_id() } else { value };
        self.log(|| format!("{standby:?}: sector {sector} of {volume:?} becomes {value}"));
        self.host(standby).disk.spoil(volume, sector, value);
    }

    pub fn review(&mut self) -> Result<(), String> {
        for who in 0..self.clients.len() {
            self.add_task(who, Task::Flush);
            (0..SECTORS).for_each(|sector| self.add_task(who, Task::Read { sector }));
        }
        self.until(30_000_000, "the last reads", Self::at_peace)?;
        self.compare()
    }

    fn compare(&self) -> Result<(), String> {
        let [a, b] = &self.hosts;
        let caches = a.disk.cache == b.disk.cache;
        let platters = a.disk.platter == a.disk.cache && b.disk.platter == b.disk.cache;
        let metadata = a.disk.metadata == b.disk.metadata;
        match (caches, metadata, platters) {
            (true, true, true) => Ok(()),
            (false, ..) => Err(format!(
                "volumes differ: {:?} and {:?}",
                a.disk.cache, b.disk.cache
            )),
            (_, false, _) => Err(format!(
                "metadata differ: {:?} and {:?}",
                a.disk.metadata, b.disk.metadata
            )),
            _ => Err("a flush was answered and is not on both disks".to_owned()),
        }
    }

    pub fn until(
        &mut self,
        most: u64,
        what: &str,
        met: impl Fn(&mut Self) -> bool,
    ) -> Result<(), String> {
        let deadline = self.now + most;
        loop {
            if let Some(violation) = self.violation.take() {
                return Err(violation);
            }
            if met(self) {
                return Ok(());
            }
            if self.now > deadline {
                let states = [self.hosts[0].status(), self.hosts[1].status()];
                return Err(format!(
                    "{what} did not come: {states:?}, witness {:?}",
                    self.witness.truth()
                ));
            }
            self.step();
        }
    }

    fn step(&mut self) {
        let Reverse((time, _, place)) = self.queue.pop().expect("the clients go on for ever");
        self.now = time;
        self.counts.events += 1;
        let event = self.events[place].take().expect("each once");
        self.free.push(place);
        if let Some(event) = self.pass_disk(event) {
            self.happen(event);
        }
        self.check_gates();
    }

    fn happen(&mut self, event: Ev) {
        match event {
            // Nobody looks any more. The reader's event keeps the time going.
            Ev::Client(_) | Ev::Answer(..) | Ev::Closed(..) | Ev::Fault(_) if self.over => {}
            Ev::Tick(id, life) => self.tick(id, life),
            Ev::Input(id, input) => self.input(id, input),
            Ev::Disk(id, life, ticket) => self.end_work(id, life, ticket),
            Ev::ReadDisk(id, life, reign, read) => self.read_disk(id, life, reign, read),
            Ev::Persist(id, life, persist) => self.end_persist(id, life, persist),
            Ev::Persisted(id, life, persist) if self.hosts[id as usize].life == life => {
                self.input(id, Input::Event(Event::Persisted(persist)));
            }
            Ev::Persisted(..) => {}
            Ev::ToWitness(request, life) => self.at_witness(request, life),
            Ev::FromWitness(id, answer) => self.input(id, Input::Event(Event::Witness(answer))),
            Ev::Client(who) => self.client_step(who),
            Ev::Answer(request, reply, value, losses) => {
                self.client_answer(request, reply, value, losses)
            }
            Ev::Closed(who, connection) => self.client_closed(who, connection),
            Ev::Faults => self.next_fault(),
            Ev::Fault(fault) => self.end_fault(fault),
            Ev::Reader => self.reader(),
        }
    }

    fn tick(&mut self, id: NodeId, life: u64) {
        if self.hosts[id as usize].life == life {
            let ping = self.setup.config.timing.ping.0 * 1000;
            let delay = self.random.between(ping / 2, ping * 9 / 10);
            self.at(delay, Ev::Tick(id, life));
            // Sometimes it cannot listen, as far as it can tell.
            let hears = !self.active || !self.random.one_in(20);
            if let Some(node) = self.hosts[id as usize].node.as_mut() {
                node.hear(hears);
            }
            let asked = self.ask_disk(id);
            if let Some(node) = self.hosts[id as usize].node.as_mut() {
                node.wait_for_disk(asked);
            }
            self.input(id, Input::Event(Event::Tick));
        }
    }

    /// Two servers must never be ready to answer at once, as long as clocks keep the time.
    fn check_gates(&mut self) {
        let now = self.now;
        let ready = |host: &Host| {
            let moment = host.clock.read(now);
            !host.frozen
                && host
                    .node
                    .as_ref()
                    .is_some_and(|node| node.may_answer(moment))
        };
        if !self.setup.clocks_stop && self.hosts.iter().all(ready) {
            self.fail("both servers are ready to answer".to_owned());
        }
    }

    /// Somebody who reads from either server without being its client: only the lease protects them.
    fn reader(&mut self) {
        let delay = self.random.between(1_000, 80_000);
        self.at(delay, Ev::Reader);
        if self.setup.clocks_stop || !self.active {
            return;
        }
        let node = *self.random.pick(&[NodeId::A, NodeId::B]);
        let host = &self.hosts[node as usize];
        if host.frozen || host.node.is_none() {
            return;
        }
        let volume = self.random.below(self.setup.volumes);
        let sector = self.random.below(SECTORS as u64) as usize;
        let id = self.new_id();
        self.model.read(id, (volume, sector));
        let read = Read {
            request: None,
            id,
            volume: mirror::VolumeId(volume),
            connection: None,
            sector,
        };
        self.input(node, Input::Read(read));
    }

    pub fn send_reply(
        &mut self,
        from: NodeId,
        request: RequestId,
        reply: Reply,
        value: Option<u64>,
    ) {
        if reply == Reply::Done {
            self.check_answer(from, request);
        }
        if let Some(delay) = self
            .net
            .delay(&mut self.random, End::Server(from), End::Clients)
        {
            let losses = self.true_until(from);
            self.at(delay, Ev::Answer(request, reply, value, losses));
        }
    }

    pub fn send_message(&mut self, from: NodeId, message: Message) {
        self.lie_about(from, &message);
        if matches!(&message.body, Body::Hello(hello) if !hello.primary) {
            self.host(from).greeting = Some(message.clone());
        }
        let message = self.falsified(message);
        let to = from.peer();
        if let Some(delay) = self
            .net
            .delay(&mut self.random, End::Server(from), End::Server(to))
        {
            self.at(delay, Ev::Input(to, Input::Event(Event::Received(message))));
        }
    }

    fn falsified(&self, mut message: Message) -> Message {
        match (&mut message.body, self.lie) {
            (
                Body::Opened {
                    complete, dirty, ..
                },
                Lie::DirtyForgotten,
            ) => {
                *complete = true;
                *dirty = mirror::Blocks::default();
            }
            (Body::Opened { complete, .. }, Lie::AlwaysComplete) => *complete = true,
            (Body::Hello(hello), Lie::BackUnsaid) => {
                if let Some(past) = self.hosts[message.from as usize].past() {
                    hello.history.clone_from(past);
                }
            }
            _ => {}
        }
        message
    }

    /// Answers in the standby's name before it has done anything.
    fn lie_about(&mut self, from: NodeId, message: &Message) {
        let (session, seq) = match (&message.body, self.lie) {
            (
                Body::Ship {
                    session,
                    seq,
                    item: Item::Op(_),
                },
                Lie::ShipWithoutWaiting,
            ) => (*session, *seq),
            (
                Body::Ship {
                    session,
                    seq,
                    item: Item::Flush(_),
                },
                Lie::FlushWithoutWaiting,
            ) => (*session, *seq),
            _ => return,
        };
        let answer = mirror::ItemAnswer::Done;
        self.inject(
            from,
            message.term,
            Body::Ack {
                session,
                seq,
                answer,
            },
        );
    }

    fn inject(&mut self, to: NodeId, term: Term, body: Body) {
        let from = to.peer();
        let message = Message { from, term, body };
        self.at(1, Ev::Input(to, Input::Event(Event::Received(message))));
    }

    pub fn send_request(&mut self, from: NodeId, request: WitnessRequest) {
        if let Some(delay) = self
            .net
            .delay(&mut self.random, End::Server(from), End::Witness)
        {
            let life = self.hosts[from as usize].life;
            self.at(delay, Ev::ToWitness(request, life));
        }
    }

    fn at_witness(&mut self, request: WitnessRequest, life: u64) {
        let (before, holder) = (self.witness.revision(), self.holder());
        let Some(answer) = self.witness.handle(request, self.lie) else {
            return;
        };
        if request.swap.is_some() {
            self.log(|| format!("witness: {request:?} gives {answer:?}"));
        }
        if self.holder() != holder {
            self.losses_when_taken = self.model.losses;
        }
        let to = request.from;
        let asker = &self.hosts[to as usize];
        if answer.revision != before && asker.life != life && asker.lacks {
            self.lose_unflushed(); // It declared the other one outdated and lost power itself before that was heard.
        }
        if let Some(delay) = self
            .net
            .delay(&mut self.random, End::Witness, End::Server(to))
        {
            self.at(delay, Ev::FromWitness(to, answer));
        }
    }

    pub fn paired(&mut self) -> bool {
        let [a, b] = [self.hosts[0].status(), self.hosts[1].status()];
        let (Some(a), Some(b)) = (a, b) else {
            return false;
        };
        let leads = |status: mirror::Status| {
            status.role == Role::Primary && status.paired && status.unsent == 0
        };
        let follows = |status: mirror::Status| status.role == Role::Standby && status.consistent;
        let clear = self
            .witness
            .truth()
            .is_some_and(|record| record.outdated.is_none());
        clear && ((leads(a) && follows(b)) || (leads(b) && follows(a)))
    }

    pub fn at_peace(&mut self) -> bool {
        let idle = self.clients.iter().all(|client| client.tasks.is_empty());
        // Nobody makes way either.
        let idle_node = |status: mirror::Status| status.in_flight == 0 && status.waits.is_none();
        let quiet = |host: &Host| !host.frozen && host.status().is_some_and(idle_node);
        idle && self.hosts.iter().all(quiet)
            && self.is_idle(NodeId::A)
            && self.is_idle(NodeId::B)
            && self.paired()
    }

    pub fn holder(&self) -> Option<NodeId> {
        self.truth().map(|record| record.holder)
    }

    /// The record by which the operator decides.
    pub fn truth(&self) -> Option<Record> {
        self.witness.truth()
    }
}
