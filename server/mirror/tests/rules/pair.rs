//! Two servers that a test drives by hand.

use std::collections::VecDeque;

use bytes::Bytes;
use mirror::{
    Action, Ask, BlockRange, Blocks, Body, Command, Config, ConnectionId, Durable, Event, Fault,
    Incarnation, Message, Moment, Node, NodeId, Notice, Op, PersistId, Reply, Request, RequestId,
    Role, Ticket, VolumeId, Witness, WitnessId, WitnessState, Work, Yield,
};

/// Two servers whose disks work at once, and wires that a test cuts.
pub struct Pair {
    pub nodes: [Node; 2],
    pub now: u64,
    pub witness: Option<Witness>,
    /// Messages between the servers arrive.
    pub linked: bool,
    /// Messages to the witness arrive.
    pub witnessed: bool,
    /// Pongs arrive.
    pub pongs: bool,
    pub todo: VecDeque<(NodeId, Event)>,
    pub replies: Vec<(RequestId, Reply)>,
    pub notices: Vec<(NodeId, Notice)>,
    pub durable: [Durable; 2],
    pub sent: Vec<Message>,
    /// Questions to the witness.
    pub asked: u64,
    /// Blocks that each disk has of its own.
    pub own: u64,
    /// What each disk gives as a checksum; held back until a test gives one.
    pub sums: [Option<Yield>; 2],
    pub held: Vec<(NodeId, Ticket)>,
    /// Whose changes are held back as well.
    pub slow: Option<NodeId>,
    /// Whose flushes are held back, too.
    pub hung: Option<NodeId>,
    /// Whose durable state is not written.
    pub unwritten: Option<NodeId>,
    pub waiting: Vec<(NodeId, PersistId)>,
    /// What the standby lacks, found when it is given all metadata next time.
    pub lost: Blocks,
    /// The disks' own blocks are very many, and apart.
    pub sparse: bool,
    /// What A cannot read.
    pub bad: Blocks,
    /// Reads that A's disk was asked for.
    pub reads: Vec<(VolumeId, BlockRange)>,
}

pub const V: VolumeId = VolumeId(1);

pub fn config(witness: bool) -> Config {
    Config {
        witness,
        ..Config::default()
    }
}

impl Pair {
    pub fn new(config: Config) -> Self {
        let witness = config.witness;
        let start = |id, run| {
            let durable = Durable::default();
            Node::start(
                id,
                config.clone(),
                durable,
                false,
                Incarnation(run),
                Moment(0),
            )
        };
        Self {
            nodes: [start(NodeId::A, 1), start(NodeId::B, 2)],
            now: 0,
            witness: witness.then(|| Witness::new(WitnessState::new(WitnessId(9)))),
            linked: true,
            witnessed: true,
            pongs: true,
            todo: VecDeque::new(),
            replies: Vec::new(),
            notices: Vec::new(),
            durable: Default::default(),
            sent: Vec::new(),
            asked: 0,
            own: 0,
            sums: [Some(Yield::Sum(0)), Some(Yield::Sum(0))],
            held: Vec::new(),
            slow: None,
            hung: None,
            unwritten: None,
            waiting: Vec::new(),
            lost: Blocks::default(),
            sparse: false,
            bad: Blocks::default(),
            reads: Vec::new(),
        }
    }

    /// A pair in which A is primary and B in sync.
    pub fn paired(witness: bool) -> Self {
        Self::paired_with(config(witness))
    }

    pub fn paired_with(config: Config) -> Self {
        let mut pair = Self::new(config);
        pair.tell(NodeId::A, Event::Command(Command::Promote { force: false }));
        pair.pass(6000);
        assert!(
            pair.nodes[0].status().paired,
            "{:?}",
            pair.nodes[0].status()
        );
        pair
    }

    pub fn tell(&mut self, id: NodeId, event: Event) {
        self.todo.push_back((id, event));
        while let Some((id, event)) = self.todo.pop_front() {
            for action in self.nodes[id as usize].handle(Moment(self.now), event) {
                self.act(id, action);
            }
        }
    }

    fn act(&mut self, id: NodeId, action: Action) {
        match action {
            Action::Send(message) => self.carry(message),
            Action::Ask(request) if self.witnessed => {
                self.asked += 1;
                let answer = self.witness.as_mut().map(|witness| witness.handle(request));
                self.todo
                    .extend(answer.map(|answer| (id, Event::Witness(answer))));
            }
            Action::Disk(ticket, Work::Apply(_)) if self.slow == Some(id) => {
                self.held.push((id, ticket));
            }
            Action::Disk(ticket, Work::Apply(_) | Work::Flush(_)) if self.hung == Some(id) => {
                self.held.push((id, ticket));
            }
            Action::Disk(ticket, work) => {
                if let Some(event) = self.read(id, ticket, &work) {
                    return self.todo.push_back((id, event));
                }
                let result = match work {
                    Work::ReadMetadata | Work::Read { .. } => Yield::Data(Bytes::new()),
                    Work::Sum { .. } => match self.sums[id as usize].clone() {
                        Some(sum) => sum,
                        None => return self.held.push((id, ticket)),
                    },
                    Work::Survey => Yield::Blocks(self.survey()),
                    Work::ReplaceMetadata(_) if !self.lost.is_empty() => {
                        Yield::Lost(std::mem::take(&mut self.lost))
                    }
                    _ => Yield::Nothing,
                };
                self.todo.push_back((id, Event::Done(ticket, Ok(result))));
            }
            Action::Persist(persist, _) if self.unwritten == Some(id) => {
                self.waiting.push((id, persist));
            }
            Action::Persist(persist, state) => {
                self.durable[id as usize] = *state;
                self.todo.push_back((id, Event::Persisted(persist)));
            }
            Action::Reply(request, reply) => self.replies.push((request, reply)),
            Action::Note(notice) => self.notices.push((id, notice)),
            Action::Ask(_) | Action::CloseClients => {}
        }
    }

    /// What a read of A brings.
    fn read(&mut self, id: NodeId, ticket: Ticket, work: &Work) -> Option<Event> {
        let (Work::Read { volume, range }, NodeId::A) = (work, id) else {
            return None;
        };
        self.reads.push((*volume, *range));
        let bad = self.bad.touches(*volume, *range);
        bad.then_some(Event::Done(ticket, Err(Fault::Broken)))
    }

    fn survey(&self) -> Blocks {
        let (start, end) = (0, self.own);
        let mut blocks = Blocks::default();
        blocks.insert(V, BlockRange { start, end });
        for start in (0..u64::from(self.sparse) * (1 << 21)).map(|n| n * 8) {
            let end = start + 1;
            blocks.insert(V, BlockRange { start, end });
        }
        blocks
    }

    /// Ends what was held back.
    pub fn sum_up(&mut self, sum: u64) {
        for (id, ticket) in std::mem::take(&mut self.held) {
            self.tell(id, Event::Done(ticket, Ok(Yield::Sum(sum))));
        }
    }

    pub fn restores(&self) -> usize {
        let restore = |message: &&Message| {
            matches!(
                message.body,
                Body::Ship {
                    item: mirror::Item::Restore { .. },
                    ..
                }
            )
        };
        self.sent.iter().filter(restore).count()
    }

    fn carry(&mut self, message: Message) {
        self.sent.push(message.clone());
        let stopped = matches!(message.body, Body::Pong { .. }) && !self.pongs;
        if self.linked && !stopped {
            self.todo
                .push_back((message.from.peer(), Event::Received(message)));
        }
    }

    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis / 50 {
            self.now += 50;
            self.tell(NodeId::A, Event::Tick);
            self.tell(NodeId::B, Event::Tick);
        }
    }

    pub fn restart(&mut self, id: NodeId, power_lost: bool) {
        let with = config(self.witness.is_some());
        let run = Incarnation(100 + self.now);
        let durable = self.durable[id as usize].clone();
        self.nodes[id as usize] = Node::start(id, with, durable, power_lost, run, Moment(self.now));
    }

    pub fn ask(&mut self, id: NodeId, request: u64, ask: Ask) {
        let from = Some((V, ConnectionId(1)));
        let id_of = RequestId(request);
        self.tell(
            id,
            Event::Request(Request {
                id: id_of,
                from,
                ask,
            }),
        );
    }

    pub fn write(&mut self, id: NodeId, request: u64) {
        self.write_at(id, request, 0);
    }

    pub fn write_at(&mut self, id: NodeId, request: u64, offset: u64) {
        let data = Bytes::from_static(&[1; 8]);
        let op = Op::Write {
            volume: V,
            offset,
            length: 4096,
            data,
        };
        self.ask(id, request, Ask::Change(op));
    }

    pub fn reply(&self, request: u64) -> Option<Reply> {
        let found = self
            .replies
            .iter()
            .find(|(id, _)| *id == RequestId(request));
        found.map(|(_, reply)| *reply)
    }

    pub fn role(&self, id: NodeId) -> Role {
        self.nodes[id as usize].status().role
    }

    pub fn noted(&self, id: NodeId, notice: Notice) -> bool {
        self.notices.contains(&(id, notice))
    }
}
