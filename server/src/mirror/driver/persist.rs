//! Writes the durable state, on a thread of its own: the newest that was asked for, which answers for the older ones too.

use std::{io, sync::Arc, thread};

use mirror::{Durable, PersistId};
use parking_lot::{Condvar, Mutex};

use crate::mirror::state::StateFile;

/// The thread's desk.
pub struct Persister {
    desk: Arc<Desk>,
}

struct Desk {
    file: StateFile,
    next: Mutex<Option<(PersistId, Durable)>>,
    wake: Condvar,
}

impl Persister {
    /// Writes to `file`.
    pub fn new(file: StateFile) -> Self {
        let desk = Desk {
            file,
            next: Mutex::default(),
            wake: Condvar::new(),
        };
        Self {
            desk: Arc::new(desk),
        }
    }

    /// Asks for a state to be written.
    pub fn put(&self, id: PersistId, state: Durable) {
        *self.desk.next.lock() = Some((id, state));
        self.desk.wake.notify_one();
    }

    /// Starts to write; calls `persisted` after each.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(&self, persisted: impl Fn(PersistId) + Send + 'static) -> io::Result<()> {
        let desk = self.desk.clone();
        let thread = thread::Builder::new().name("pair-state".into());
        thread.spawn(move || desk.run(&persisted)).map(drop)
    }
}

impl Desk {
    fn run(&self, persisted: &dyn Fn(PersistId)) {
        loop {
            let (id, state) = self.take();
            match self.file.save(&state) {
                Ok(()) => persisted(id),
                Err(error) => {
                    tracing::error!(
                        "the state of the pair cannot be written: {error}; it is tried again"
                    );
                    self.again(id, state);
                }
            }
        }
    }

    fn take(&self) -> (PersistId, Durable) {
        let mut next = self.next.lock();
        loop {
            match next.take() {
                Some(found) => return found,
                None => self.wake.wait(&mut next),
            }
        }
    }

    /// What rests on it waits until the disk takes it.
    fn again(&self, id: PersistId, state: Durable) {
        /// A full disk is not asked over and over.
        const REST: std::time::Duration = std::time::Duration::from_millis(500);
        thread::sleep(REST);
        self.next.lock().get_or_insert((id, state));
    }
}
