//! A client: one volume, one connection at a time, and everything unanswered is asked again on the next connection.

use std::collections::BTreeMap;

use mirror::{Ask, ConnectionId, Event, NodeId, Op, Reply, Request, RequestId, VolumeId};

use crate::{
    disk::{SECTOR, SECTORS, encode},
    host::{Input, Read},
    model::Place,
    world::{Ev, World},
};

#[derive(Clone, Debug)]
pub enum Task {
    Write { sector: usize, values: Vec<u64> },
    Zero { sector: usize, sectors: usize },
    Meta { value: u64 },
    Flush,
    Read { sector: usize },
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Link {
    Down,
    Attaching(NodeId, ConnectionId),
    Attached(NodeId, ConnectionId),
}

pub struct Client {
    pub volume: u64,
    pub link: Link,
    since: u64,
    next: NodeId,
    pub tasks: BTreeMap<u64, Task>,
}

impl Client {
    pub fn new(volume: u64) -> Self {
        Self {
            volume,
            link: Link::Down,
            since: 0,
            next: NodeId::A,
            tasks: BTreeMap::new(),
        }
    }

    fn connection(&self) -> Option<(NodeId, ConnectionId)> {
        match self.link {
            Link::Down => None,
            Link::Attaching(node, connection) | Link::Attached(node, connection) => {
                Some((node, connection))
            }
        }
    }
}

const DEPTH: usize = 4;

impl World {
    pub fn client_step(&mut self, who: usize) {
        let delay = self.random.between(5_000, 60_000);
        self.at(delay, Ev::Client(who));
        let waited = self.now - self.clients[who].since;
        match self.clients[who].link {
            Link::Down => self.dial(who),
            Link::Attaching(..) if waited > self.setup.patience => self.hang_up(who),
            Link::Attached(..)
                if waited > self.setup.patience && !self.clients[who].tasks.is_empty() =>
            {
                self.hang_up(who)
            }
            Link::Attached(..) if self.active || self.busy => self.new_task(who),
            _ => {}
        }
    }

    fn hang_up(&mut self, who: usize) {
        let client = &mut self.clients[who];
        client.link = Link::Down;
        client.next = client.next.peer();
    }

    fn dial(&mut self, who: usize) {
        let connection = ConnectionId(self.new_id());
        let client = &mut self.clients[who];
        let node = client.next;
        client.link = Link::Attaching(node, connection);
        client.since = self.now;
        self.ask(who, None, Ask::Attach);
    }

    /// Sends a request on the present connection.
    fn ask(&mut self, who: usize, task: Option<u64>, ask: Ask) {
        let Some((node, connection)) = self.clients[who].connection() else {
            return;
        };
        let id = RequestId(self.new_id());
        self.requests.insert(id, (who, connection, task));
        let from = Some((VolumeId(self.clients[who].volume), connection));
        let request = Request { id, from, ask };
        self.send_to_server(node, Input::Event(Event::Request(request)));
    }

    fn send_to_server(&mut self, node: NodeId, input: Input) {
        if let Some(delay) = self.net.client_delay(&mut self.random, node) {
            self.at(delay, Ev::Input(node, input));
        }
    }

    fn submit(&mut self, who: usize, id: u64) {
        let Some((node, connection)) = self.clients[who].connection() else {
            return;
        };
        let volume = VolumeId(self.clients[who].volume);
        let task = self.clients[who].tasks[&id].clone();
        let op = match &task {
            Task::Write { sector, values } => Op::Write {
                volume,
                offset: *sector as u64 * SECTOR,
                length: values.len() as u64 * SECTOR,
                data: encode(values),
            },
            Task::Zero { sector, sectors } => Op::Zero {
                volume,
                offset: *sector as u64 * SECTOR,
                length: *sectors as u64 * SECTOR,
                trim: true,
            },
            Task::Meta { value } => Op::Meta {
                volume: value.is_multiple_of(2).then_some(volume),
                record: encode(&[volume.0, *value]),
            },
            Task::Flush => return self.ask(who, Some(id), Ask::Flush),
            Task::Read { sector } => {
                let request = RequestId(self.new_id());
                self.requests.insert(request, (who, connection, Some(id)));
                let read = Read {
                    request: Some(request),
                    id,
                    volume,
                    connection: Some(connection),
                    sector: *sector,
                };
                return self.send_to_server(node, Input::Read(read));
            }
        };
        self.ask(who, Some(id), Ask::Change(op));
    }

    fn new_task(&mut self, who: usize) {
        if self.clients[who].tasks.len() >= DEPTH {
            return;
        }
        let volume = self.clients[who].volume;
        let sector = self.random.below(SECTORS as u64) as usize;
        let sectors = self.random.between(1, 4).min((SECTORS - sector) as u64) as usize;
        let task = match self.random.below(10) {
            0 | 1 => Task::Read { sector },
            2 => Task::Flush,
            3 => Task::Meta {
                value: self.new_id(),
            },
            4 => Task::Zero { sector, sectors },
            _ => Task::Write {
                sector,
                values: (0..sectors).map(|_| self.new_id()).collect(),
            },
        };
        let busy = changes(volume, &task)
            .into_iter()
            .any(|(place, _)| self.model.is_pending(place));
        if !busy {
            self.add_task(who, task);
        }
    }

    pub fn add_task(&mut self, who: usize, task: Task) {
        let id = self.new_id();
        let volume = self.clients[who].volume;
        self.log(|| format!("client {who}: wants {id} {task:?}"));
        match &task {
            Task::Flush => self.model.flush(id, volume),
            Task::Read { sector } => self.model.read(id, (volume, *sector)),
            _ => changes(volume, &task)
                .into_iter()
                .for_each(|(place, v)| self.model.write(place, v)),
        }
        if self.clients[who].tasks.is_empty() {
            self.clients[who].since = self.now;
        }
        self.clients[who].tasks.insert(id, task);
        if matches!(self.clients[who].link, Link::Attached(..)) {
            self.submit(who, id);
        }
    }

    /// The server's answer reaches the client, if it still holds that connection.
    pub fn client_answer(
        &mut self,
        request: RequestId,
        reply: Reply,
        value: Option<u64>,
        losses: u64,
    ) {
        let Some((who, connection, task)) = self.requests.remove(&request) else {
            return;
        };
        let Some((node, current)) = self.clients[who].connection() else {
            return;
        };
        if current != connection {
            return;
        }
        self.clients[who].since = self.now;
        match (reply, task) {
            (Reply::NotPrimary | Reply::Evicted, _) => self.hang_up(who),
            (Reply::Done, None) => {
                self.clients[who].link = Link::Attached(node, connection);
                let tasks: Vec<u64> = self.clients[who].tasks.keys().copied().collect();
                tasks.into_iter().for_each(|id| self.submit(who, id));
            }
            (_, None) => self.hang_up(who),
            (Reply::Done, Some(id)) => self.task_done(who, id, value, losses),
            (Reply::NoSpace | Reply::Failed, Some(id)) => self.task_failed(who, id),
        }
    }

    fn task_done(&mut self, who: usize, id: u64, value: Option<u64>, losses: u64) {
        let volume = self.clients[who].volume;
        let Some(task) = self.clients[who].tasks.remove(&id) else {
            return;
        };
        self.log(|| format!("client {who}: done {id} {task:?} {value:?}"));
        match task {
            Task::Flush => self.model.flushed(id),
            Task::Read { .. } => {
                let seen = self
                    .model
                    .has_read(id, value.expect("a read brings something"));
                self.check(seen.map_err(|e| format!("client {who}: {e}")));
            }
            _ => changes(volume, &task)
                .into_iter()
                .for_each(|(place, v)| self.model.written(place, v, losses)),
        }
    }

    fn task_failed(&mut self, who: usize, id: u64) {
        let volume = self.clients[who].volume;
        self.log(|| format!("client {who}: failed {id}"));
        self.counts.errors += 1;
        match self.clients[who].tasks.remove(&id) {
            Some(Task::Flush) => self.model.flush_failed(id),
            Some(Task::Read { .. }) => self.model.forget_read(id),
            Some(task) => changes(volume, &task)
                .into_iter()
                .for_each(|(place, v)| self.model.failed(place, v)),
            None => {}
        }
    }

    pub fn client_closed(&mut self, who: usize, connection: ConnectionId) {
        if self.clients[who]
            .connection()
            .is_some_and(|(_, current)| current == connection)
        {
            self.hang_up(who);
        }
    }

    pub fn close_clients_of(&mut self, node: NodeId) {
        for who in 0..self.clients.len() {
            let Some((_, connection)) =
                self.clients[who].connection().filter(|(of, _)| *of == node)
            else {
                continue;
            };
            if let Some(delay) = self.net.client_delay(&mut self.random, node) {
                self.at(delay, Ev::Closed(who, connection));
            }
        }
    }

    /// Whether this answer goes to a client's connection, and waits there with those of reads until the server may
    /// answer. An attach has a rule of its own, a record of metadata is the server's own affair, and who is sent away
    /// learns nothing.
    pub fn is_gated(&self, request: RequestId, reply: Reply) -> bool {
        let Some((who, _, Some(id))) = self.requests.get(&request) else {
            return false;
        };
        let record = matches!(self.clients[*who].tasks.get(id), Some(Task::Meta { .. }));
        !record && !matches!(reply, Reply::NotPrimary | Reply::Evicted)
    }

    /// Up to which loss of power an answer that leaves this server now was true. One that was stopped together with its
    /// clock relies on a lease that is over: it does not know that the other has taken its place, and answers what both
    /// had applied before. Since then the other had it alone, and may have lost it unflushed. No client can tell: to
    /// one that gave up the connection the answer does not come, and to one that waits it may have been on its way all
    /// the time.
    pub fn true_until(&self, at: NodeId) -> u64 {
        let replaced = self.holder() == Some(at.peer());
        match replaced && self.setup.clocks_stop {
            true => self.losses_when_taken,
            false => self.model.losses,
        }
    }

    /// When a change is answered, the standby has it too, or can never be promoted without it.
    pub fn check_answer(&mut self, at: NodeId, request: RequestId) {
        let Some((who, _, Some(id))) = self.requests.get(&request).copied() else {
            return;
        };
        if self.true_until(at) != self.model.losses {
            return;
        }
        let volume = self.clients[who].volume;
        let Some(task) = self.clients[who].tasks.get(&id) else {
            return;
        };
        let peer = &self.hosts[at.peer() as usize];
        let outdated = self
            .witness
            .truth()
            .is_some_and(|r| r.outdated == Some(at.peer()));
        if outdated || peer.durable.inconsistent || peer.lacks || !self.setup.is_sync() {
            return;
        }
        let held = changes(volume, task)
            .into_iter()
            .all(|((_, sector), value)| match task {
                Task::Meta { .. } => peer.disk.metadata.get(&volume).is_some_and(|v| *v >= value),
                _ => peer.disk.read(VolumeId(volume), sector) == value,
            });
        if !held {
            self.fail(format!(
                "{at:?} answers {task:?} that the other server does not hold",
                task = task.clone()
            ));
        }
    }
}

/// Slot of the model for a volume's metadata: beside the volumes.
pub const META: u64 = 1000;

/// What a task changes.
fn changes(volume: u64, task: &Task) -> Vec<(Place, u64)> {
    match task {
        Task::Write { sector, values } => {
            let places = values.iter().enumerate();
            places.map(|(i, v)| ((volume, sector + i), *v)).collect()
        }
        Task::Zero { sector, sectors } => {
            (0..*sectors).map(|i| ((volume, sector + i), 0)).collect()
        }
        Task::Meta { value } => vec![((META + volume, 0), *value)],
        Task::Flush | Task::Read { .. } => Vec::new(),
    }
}
