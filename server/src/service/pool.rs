//! Threads for what waits on a disk, shared fairly between connections.

use std::{
    collections::{HashMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use parking_lot::{Condvar, Mutex};

/// Something that may block.
pub type Task = Box<dyn FnOnce() + Send>;

/// A bounded pool. Each [`Lane`] gets its turn, and never more threads than it leaves free: one lane alone may have
/// half of them, two a third each, and so on, so that a newcomer finds a thread as long as there are fewer lanes than
/// threads.
pub struct Pool {
    state: Mutex<State>,
    work: Condvar,
    most: usize,
    /// Bytes that tasks of all connections hold, replies included that are not sent yet.
    held: AtomicU64,
    most_held: u64,
}

#[derive(Default)]
struct State {
    /// Lanes with tasks that may run now, in turn.
    ready: VecDeque<Arc<Lane>>,
    threads: usize,
    idle: usize,
    /// Tasks that run now.
    running: usize,
    /// The lanes that clients share among their connections.
    shared: HashMap<String, Weak<Lane>>,
}

/// The tasks of one client: an owner's, or those of all connections from one address.
#[derive(Default)]
pub struct Lane {
    tasks: Mutex<LaneState>,
}

#[derive(Default)]
struct LaneState {
    /// With the connection that each is for.
    waiting: VecDeque<(u64, Task)>,
    running: usize,
    queued: bool,
}

impl Pool {
    /// A pool of at most `most` threads, started as needed, whose tasks may hold about `most_held` bytes.
    pub fn new(most: usize, most_held: u64) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            work: Condvar::new(),
            most: most.max(2),
            held: AtomicU64::new(0),
            most_held,
        })
    }

    /// Counts `bytes` of memory that a task holds.
    pub fn take(&self, bytes: u64) {
        self.held.fetch_add(bytes, Relaxed);
    }

    /// They are free again.
    pub fn give_back(&self, bytes: u64) {
        self.held.fetch_sub(bytes, Relaxed);
    }

    /// Whether tasks hold so much that nobody should add to it who has one already.
    pub fn is_full(&self) -> bool {
        self.held.load(Relaxed) >= self.most_held
    }

    /// The lane of `client`, which all get that ask for the same.
    pub fn lane(&self, client: &str) -> Arc<Lane> {
        let mut state = self.state.lock();
        if let Some(lane) = state.shared.get(client).and_then(Weak::upgrade) {
            return lane;
        }
        state.shared.retain(|_, lane| lane.strong_count() > 0);
        let lane = Arc::new(Lane::default());
        let known = Arc::downgrade(&lane);
        state.shared.insert(client.to_owned(), known);
        lane
    }

    /// Queues `task` of `connection` on `lane`.
    pub fn submit(self: &Arc<Self>, lane: &Arc<Lane>, connection: u64, task: Task) {
        self.add(&mut self.state.lock(), lane, (connection, task));
    }

    fn add(self: &Arc<Self>, state: &mut State, lane: &Arc<Lane>, task: (u64, Task)) {
        lane.tasks.lock().waiting.push_back(task);
        self.queue(state, lane);
    }

    fn start_thread(self: &Arc<Self>, state: &mut State) {
        state.threads += 1;
        let pool = self.clone();
        let builder = thread::Builder::new()
            .name("nbd-disk".into())
            .stack_size(256 << 10);
        if let Err(error) = builder.spawn(move || pool.run()) {
            // The threads that there are take it on.
            state.threads -= 1;
            tracing::warn!("cannot start a disk thread: {error}");
        }
    }

    /// Puts the lane in the queue of the ready if it has something to run and is not over its share.
    fn queue(self: &Arc<Self>, state: &mut State, lane: &Arc<Lane>) {
        let mut tasks = lane.tasks.lock();
        // Those in the queue will run as well.
        let taken = state.running + state.ready.len();
        let share = self.most.saturating_sub(taken).max(1);
        if tasks.queued || tasks.waiting.is_empty() || tasks.running >= share {
            return;
        }
        tasks.queued = true;
        drop(tasks);
        state.ready.push_back(lane.clone());
        // The idle include those that were woken and have not come round yet: each takes one lane, no more.
        if state.ready.len() > state.idle && state.threads < self.most {
            self.start_thread(state);
        }
        self.work.notify_one();
    }

    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        loop {
            let Some(lane) = state.ready.pop_front() else {
                state.idle += 1;
                self.work.wait(&mut state);
                state.idle -= 1;
                continue;
            };
            let task = lane.start();
            state.running += usize::from(task.is_some());
            self.queue(&mut state, &lane);
            if let Some(task) = task {
                parking_lot::MutexGuard::unlocked(&mut state, || run_to_its_end(task));
                lane.tasks.lock().running -= 1;
                state.running -= 1;
                self.queue(&mut state, &lane);
            }
        }
    }
}

/// A task that panics ends itself only: thread, lane and count go on as after any other.
fn run_to_its_end(task: Task) {
    if catch_unwind(AssertUnwindSafe(task)).is_err() {
        tracing::error!("a bug ended a task of the NBD service early (the panic is above)");
    }
}

impl Lane {
    fn start(&self) -> Option<Task> {
        let mut tasks = self.tasks.lock();
        tasks.queued = false;
        let task = tasks.waiting.pop_front().map(|(_, task)| task);
        tasks.running += usize::from(task.is_some());
        task
    }

    /// Throws away what has not begun of `connection`; returns how many tasks that were.
    pub fn cancel(&self, connection: u64) -> usize {
        let mut tasks = self.tasks.lock();
        let before = tasks.waiting.len();
        tasks.waiting.retain(|(of, _)| *of != connection);
        before - tasks.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        time::{Duration, Instant},
    };

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn one_lane_cannot_hold_all_threads() {
        let pool = Pool::new(4, u64::MAX);
        let (greedy, modest) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        let (release, held) = crossbeam();
        for _ in 0..100 {
            pool.submit(&greedy, 0, wait_on(&held));
        }
        let (tell, told) = mpsc::channel();
        pool.submit(&modest, 0, Box::new(move || tell.send(()).unwrap()));
        told.recv_timeout(DEADLINE)
            .expect("the modest lane got no thread");
        drop(release);
    }

    /// Each of a few greedy clients leaves threads to others, and all connections of one count as one.
    #[test]
    fn greedy_lanes_leave_a_thread_to_the_modest() {
        let pool = Pool::new(8, u64::MAX);
        let (release, held) = crossbeam();
        let lanes: Vec<_> = (0..3)
            .map(|number| pool.lane(&number.to_string()))
            .collect();
        for connection in 0..300 {
            let lane = pool.lane(&(connection % 3).to_string());
            pool.submit(&lane, connection, wait_on(&held));
        }
        let (tell, told) = mpsc::channel();
        let modest = pool.lane("modest");
        pool.submit(&modest, 0, Box::new(move || tell.send(()).unwrap()));
        told.recv_timeout(DEADLINE)
            .expect("the greedy lanes hold all threads");
        drop((release, lanes));
    }

    #[test]
    fn only_the_tasks_of_one_connection_are_cancelled() {
        let lane = Lane::default();
        let task = || -> Task { Box::new(|| {}) };
        lane.tasks.lock().waiting = [(1, task()), (2, task()), (1, task())].into();
        assert_eq!(lane.cancel(1), 2);
        assert_eq!(lane.cancel(1), 0);
        assert_eq!(lane.cancel(2), 1);
    }

    /// Two tasks come before the one idle thread wakes up: each must get a thread (P5).
    #[test]
    fn a_thread_that_is_waking_up_is_not_counted_twice() {
        let pool = Pool::new(4, u64::MAX);
        let (first, second) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
        pool.submit(&first, 0, Box::new(|| {}));
        let deadline = Instant::now() + DEADLINE;
        while pool.state.lock().idle == 0 {
            assert!(Instant::now() < deadline, "the thread never came to rest");
            thread::yield_now();
        }
        let (release, held) = crossbeam();
        let (tell, told) = mpsc::channel();
        let mut state = pool.state.lock();
        pool.add(&mut state, &first, (0, wait_on(&held)));
        let answer = move || tell.send(()).unwrap();
        pool.add(&mut state, &second, (0, Box::new(answer)));
        drop(state);
        told.recv_timeout(DEADLINE)
            .expect("the second task waits behind the first");
        drop(release);
    }

    fn wait_on(held: &Arc<Mutex<mpsc::Receiver<()>>>) -> Task {
        let held = held.clone();
        Box::new(move || {
            let _ = held.lock().recv();
        })
    }

    fn crossbeam() -> (mpsc::Sender<()>, Arc<Mutex<mpsc::Receiver<()>>>) {
        let (sender, receiver) = mpsc::channel();
        (sender, Arc::new(Mutex::new(receiver)))
    }

    /// More of them than there are threads, on a lane that may have but one at a time.
    #[test]
    fn a_task_that_panics_takes_no_thread_and_no_turn_with_it() {
        let pool = Pool::new(2, u64::MAX);
        let lane = Arc::new(Lane::default());
        for _ in 0..50 {
            pool.submit(&lane, 0, Box::new(|| panic!("meant by the test")));
        }
        let (tell, told) = mpsc::channel();
        pool.submit(&lane, 0, Box::new(move || tell.send(()).unwrap()));
        told.recv_timeout(DEADLINE).expect("the pool stands still");
        // The last task was told of from within: it has ended when the thread asks for more.
        let deadline = Instant::now() + DEADLINE;
        while lane.tasks.lock().running > 0 || pool.state.lock().running > 0 {
            assert!(Instant::now() < deadline, "tasks that ended are counted");
            thread::yield_now();
        }
    }

    #[test]
    fn every_task_runs_once() {
        let pool = Pool::new(3, u64::MAX);
        let lane = Arc::new(Lane::default());
        let (tell, told) = mpsc::channel();
        for number in 0..1000 {
            let tell = tell.clone();
            pool.submit(&lane, 0, Box::new(move || tell.send(number).unwrap()));
        }
        let mut seen: Vec<i32> = (0..1000)
            .map(|_| told.recv_timeout(DEADLINE).unwrap())
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
    }
}
