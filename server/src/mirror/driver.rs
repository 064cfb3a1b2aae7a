//! Runs the state machine of this server: hands it what happens, and does what it says.
//!
//! Any thread may bring events; the machine is behind one lock, held for as long as it thinks and not while anything is
//! done. What goes to the other server is queued under that lock, so that it leaves in order, and sent after it. Works
//! that end at once are done by the thread that was told of them; others by a pool.
//!
//! Must never answer a client after it was told to close the clients' connections, and must never block a connection's
//! thread but for that connection's own answers.

mod actions;
mod ear;
mod gate;
mod persist;
mod probe;
mod requests;

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use mirror::{
    Action, Command, Event, Fault, Message, Node, Notice, Reply, RequestId, Status, Ticket, Work,
    Yield,
};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::{
    asking::WitnessClient,
    chronicle::Chronicle,
    clock,
    link::Outgoing,
    store::{PairStore, volume_of},
};
use crate::service::{Ended, deliver_all, pool::Pool};
use actions::Todo;
use ear::Ear;
use gate::Gate;
use probe::Probe;

use actions::say_unreadable;
pub use actions::{say, say_blocks};
pub use gate::Deposed;
pub use persist::Persister;
pub use requests::{Attached, Change};

/// Bytes that are written before their end is told.
const PORTION: u64 = 128 << 10;

/// Tells who waits, and then lets them answer.
fn tell(replies: Vec<(Ended, Reply)>) {
    let replies = replies.into_iter();
    deliver_all(replies.map(|(ended, reply)| ended(requests::outcome(reply))));
}

/// Threads for works that wait on a disk.
const WORKERS: usize = 16;

/// What serves at the moment, for whoever follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reign {
    /// Counts how often this server stopped being primary.
    pub number: u64,
    /// Whether this server is the primary and what it did before has ended: its data may be opened to be served.
    pub ours: bool,
}

/// This server's half of the pair.
pub struct Mirror {
    core: Mutex<Core>,
    gate: Gate,
    ear: Ear,
    probe: Probe,
    store: Arc<PairStore>,
    pool: Arc<Pool>,
    outgoing: OnceLock<Arc<Outgoing>>,
    persister: Persister,
    witness: OnceLock<WitnessClient>,
    reign: watch::Sender<Reign>,
    notices: broadcast::Sender<Notice>,
    chronicle: Chronicle,
    /// [`Node::answers_early`]
    answers_early: bool,
    stop: AtomicBool,
}

struct Core {
    node: Node,
    /// Memory for what it says.
    actions: Vec<Action>,
    waiting: BTreeMap<RequestId, Ended>,
    last_request: RequestId,
    last_connection: u64,
}

impl Mirror {
    /// Around `node`. Nothing moves before [`Mirror::begin`].
    pub fn new(node: Node, store: Arc<PairStore>, persister: Persister) -> Arc<Self> {
        let answers_early = node.answers_early();
        let core = Core {
            node,
            actions: Vec::new(),
            waiting: BTreeMap::new(),
            last_request: RequestId(0),
            last_connection: 0,
        };
        Arc::new(Self {
            core: Mutex::new(core),
            gate: Gate::default(),
            ear: Ear::default(),
            probe: Probe::default(),
            store,
            pool: Pool::new(WORKERS, u64::MAX),
            outgoing: OnceLock::new(),
            persister,
            witness: OnceLock::new(),
            reign: watch::Sender::new(Reign {
                number: 0,
                ours: false,
            }),
            notices: broadcast::Sender::new(256),
            chronicle: Chronicle::default(),
            answers_early,
            stop: AtomicBool::new(false),
        })
    }

    /// Sets it going.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn begin(
        self: &Arc<Self>,
        outgoing: Arc<Outgoing>,
        witness: Option<WitnessClient>,
    ) -> std::io::Result<()> {
        let _ = self.outgoing.set(outgoing);
        if let Some(witness) = witness {
            let _ = self.witness.set(witness);
        }
        let own = self.clone();
        let persisted = move |id| own.feed(vec![Event::Persisted(id)]);
        self.persister.start(persisted)?;
        let own = self.clone();
        let thread = thread::Builder::new().name("pair-probe".into());
        thread.spawn(move || own.probe())?;
        let own = self.clone();
        let thread = thread::Builder::new().name("pair-tick".into());
        thread.spawn(move || own.tick()).map(drop)
    }

    fn tick(self: Arc<Self>) {
        /// Well below the time between two signs of life.
        const TICK: Duration = Duration::from_millis(50);
        while !self.stop.load(Relaxed) {
            thread::sleep(TICK);
            self.listen();
            self.feed(vec![Event::Tick]);
        }
    }

    /// Tells the machine what only this process sees.
    fn listen(&self) {
        let node = &mut self.core.lock().node;
        node.hear(self.ear.hears(clock::now()));
        node.wait_for_disk(self.probe.since());
    }

    /// Asks the disk for a sign of life, as long as machines wait for it.
    fn probe(self: Arc<Self>) {
        /// A few times within what counts as hanging.
        const REST: Duration = Duration::from_secs(5);
        let path = self.store.data.join("overlays/.probe");
        loop {
            thread::sleep(REST);
            if self.stop.load(Relaxed) {
                return;
            }
            if self.reign.borrow().ours
                && let Err(error) = self.probe.ask(&path, clock::now())
            {
                tracing::debug!("{}: {error}", path.display());
            }
        }
    }

    /// What this server has.
    pub fn store(&self) -> &Arc<PairStore> {
        &self.store
    }

    /// How it is.
    pub fn status(&self) -> Status {
        self.core.lock().node.status()
    }

    /// Who serves, now and from now on.
    pub fn reigns(&self) -> watch::Receiver<Reign> {
        self.reign.subscribe()
    }

    /// What happens, from now on.
    pub fn notices(&self) -> broadcast::Receiver<Notice> {
        self.notices.subscribe()
    }

    /// What happened lately.
    pub fn chronicle(&self) -> &Chronicle {
        &self.chronicle
    }

    /// What the last comparison that this server led has found.
    pub fn findings(&self) -> Option<mirror::Findings> {
        self.core.lock().node.findings().cloned()
    }

    /// What this primary could not read, so that the standby lacks it.
    pub fn unread(&self) -> mirror::Blocks {
        self.core.lock().node.unread().clone()
    }

    /// A notice in words, with what to do where that is anybody's.
    pub fn say(&self, notice: Notice) -> String {
        match notice {
            Notice::Unreadable { volume, range } => {
                let disk = self.store.volumes.name_of(volume);
                say_unreadable(&format!(
                    "the disk {disk}, in {},",
                    say_blocks(range.start, range.blocks())
                ))
            }
            _ => say(notice),
        }
    }

    /// What this server knows to differ from the other one, or may.
    pub fn differing(&self) -> mirror::Blocks {
        self.core.lock().node.differing().clone()
    }

    /// Messages of the other server.
    pub fn receive(self: &Arc<Self>, messages: Vec<Message>) {
        let _busy = self.ear.busy(clock::now());
        let events = messages.into_iter().map(Event::Received).collect();
        let must_hear = self.answers_early && self.reign.borrow().ours;
        match must_hear {
            true => self.delegate(events),
            false => self.feed(events),
        }
    }

    /// The connections to or from the other server have ended.
    pub fn link_down(self: &Arc<Self>) {
        self.feed(vec![Event::LinkDown]);
    }

    /// Whether there is a connection to the other server.
    pub fn is_linked(&self) -> bool {
        self.outgoing.get().is_some_and(|outgoing| outgoing.is_up())
    }

    /// Bytes on their way to the other server that have not left.
    pub fn unsent_bytes(&self) -> usize {
        self.outgoing.get().map_or(0, |outgoing| outgoing.waiting())
    }

    /// An answer of the witness.
    pub fn witnessed(self: &Arc<Self>, answer: mirror::WitnessAnswer) {
        self.feed(vec![Event::Witness(answer)]);
    }

    /// Why the witness did not answer when it was asked last; nothing if it did, or there is none.
    pub fn witness_trouble(&self) -> Option<String> {
        self.witness.get().and_then(WitnessClient::trouble)
    }

    /// A demand of the operator.
    pub fn command(self: &Arc<Self>, command: Command) {
        self.feed(vec![Event::Command(command)]);
    }

    /// Whether this server has never been one of a pair.
    pub fn is_new(&self) -> bool {
        self.core.lock().node.is_new()
    }

    /// Whether the other server is primary.
    pub fn follows(&self) -> bool {
        self.core.lock().node.follows()
    }

    /// Says whether this server has what it needs to be a standby besides what the other one sends it.
    pub fn prepare(&self, prepared: bool) {
        self.core.lock().node.prepare(prepared);
    }

    /// Whether it was told to.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Sends everybody away who waits for the pair: it cannot answer, and this server stops.
    pub fn give_up(&self) {
        let mut todo = Todo::default();
        self.close_clients(&mut self.core.lock(), &mut todo);
        tell(todo.replies);
    }

    /// Ends its threads. What is not answered by now never is.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        // Whoever is thinking has queued what he has to say: that the other server may take over, for one.
        drop(self.core.lock());
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.stop();
        }
    }

    /// Hands events to the machine, and does what it says, until nothing of that is left for this thread.
    fn feed(self: &Arc<Self>, mut events: Vec<Event>) {
        let mut works = VecDeque::new();
        while !events.is_empty() {
            let todo = self.think(events);
            self.act(todo, &mut works);
            events = self.do_some(&mut works);
        }
    }

    /// Hands events to the machine, and has the pool do what it says. So this thread hears the other server also while the
    /// disk hangs: what was answered early keeps a primary in its place until it is known to be there.
    fn delegate(self: &Arc<Self>, events: Vec<Event>) {
        let mut works = VecDeque::new();
        self.act(self.think(events), &mut works);
        for (ticket, work) in works {
            self.hand_over(ticket, work);
        }
    }

    fn think(&self, events: Vec<Event>) -> Todo {
        let mut todo = Todo::default();
        let mut core = self.core.lock();
        // All of it had happened by now.
        let now = clock::now();
        let mut actions = std::mem::take(&mut core.actions);
        core.node.handle_all(now, events, &mut actions);
        for action in actions.drain(..) {
            self.sort(&mut core, action, &mut todo);
        }
        core.actions = actions;
        self.publish(&core);
        todo
    }

    /// Tells the world what changed.
    fn publish(&self, core: &Core) {
        let until = core.node.answers_until();
        self.store
            .half_old
            .store(!core.node.is_consistent(), Relaxed);
        self.store.kept.set(core.node.keeps());
        self.store.volumes.set_admitted(core.node.is_standby());
        self.gate.set(until);
        let ours = until.0 > 0;
        self.reign.send_if_modified(|reign| {
            let changed = reign.ours != ours;
            reign.ours = ours;
            changed
        });
    }

    /// Sends and answers what was said.
    fn act(&self, todo: Todo, works: &mut VecDeque<(Ticket, Work)>) {
        let Todo {
            replies,
            works: new,
        } = todo;
        if let Some(outgoing) = self.outgoing.get() {
            outgoing.kick();
        }
        tell(replies);
        works.extend(new);
    }

    /// Does the first of what is to be done, or all if that is little; gives the events that came of it. So the other side
    /// goes on with these while this one does the rest.
    fn do_some(self: &Arc<Self>, works: &mut VecDeque<(Ticket, Work)>) -> Vec<Event> {
        let (mut ended, mut bytes) = (Vec::new(), 0);
        while bytes < PORTION
            && let Some((ticket, work)) = works.pop_front()
        {
            match self.store.quick_bytes(&work) {
                Some(more) => {
                    bytes += more;
                    ended.push(self.work(ticket, work));
                }
                None => self.hand_over(ticket, work),
            }
        }
        ended
    }

    fn work(&self, ticket: Ticket, work: Work) -> Event {
        let volume = volume_of(&work);
        // A resync tries what cannot be read again and again.
        let known = matches!(work, Work::Read { .. } | Work::Sum { .. })
            && volume.is_some_and(|volume| self.store.volumes.has_failed(volume));
        // A bug that panics is a failure of this work, which somebody waits for.
        let done = catch_unwind(AssertUnwindSafe(|| self.store.work(work)));
        let result =
            done.unwrap_or_else(|_| Err((Fault::Broken, anyhow::anyhow!("a bug in the server"))));
        if let (Err((Fault::Broken, _)), Some(volume)) = (&result, volume)
            && !self.reign.borrow().ours
        {
            self.store.volumes.let_go(volume);
        }
        let result: Result<Yield, Fault> = result.map_err(|(fault, error)| {
            match known {
                true => tracing::debug!("the pair's disk: {error:#}"),
                false => tracing::error!("the pair's disk: {error:#}"),
            }
            fault
        });
        Event::Done(ticket, result)
    }

    /// Has a work done by the pool.
    fn hand_over(self: &Arc<Self>, ticket: Ticket, work: Work) {
        let own = self.clone();
        let lane = self.pool.lane(&actions::lane_of(&work));
        let task = Box::new(move || {
            let done = own.work(ticket, work);
            own.feed(vec![done]);
        });
        self.pool.submit(&lane, ticket.0, task);
    }
}
