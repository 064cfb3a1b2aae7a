//! Where what others finished for a connection is put, and how it is answered: by the connection's thread, which is woken by
//! a bell, or at once by whoever finished it.
//!
//! Must never write to the socket while the connection's thread does, nor when the device says that answers have to wait;
//! and must never wait for the client.

use std::{os::fd::AsFd, os::fd::OwnedFd, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    device::{Deliver, Device},
    jobs::Finished,
    pool::Pool,
    registry::Live,
};

/// Replies that are no longer than this carry no data. Bytes.
pub const SHORT: usize = 64;

/// What it takes to answer without the connection's thread.
pub struct Shortcut {
    /// The connection; without TLS.
    pub live: Arc<Live>,
    /// What it serves.
    pub device: Arc<dyn Device>,
    /// Where what is answered was counted.
    pub pool: Arc<Pool>,
}

/// Where finished jobs are put, and the bell that is rung then.
pub struct Mailbox {
    done: Mutex<Done>,
    bell: OwnedFd,
    shortcut: Option<Shortcut>,
    /// Held by whoever writes to the socket: what it did not take of replies that had been begun. It goes first.
    wire: Mutex<Vec<u8>>,
}

#[derive(Default)]
struct Done {
    finished: Vec<Finished>,
    /// Those that wait for [`Deliver::deliver`].
    added: Vec<Finished>,
    rung: bool,
    /// The connection's thread need not know of what was answered.
    hushed: bool,
}

impl Mailbox {
    /// An empty one.
    pub fn new(shortcut: Option<Shortcut>) -> std::io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            done: Mutex::default(),
            bell,
            shortcut,
            wire: Mutex::default(),
        })
    }

    /// Readable while something is in it that waits for the connection's thread.
    pub fn bell(&self) -> impl AsFd + '_ {
        &self.bell
    }

    /// Puts a result in.
    pub fn put(&self, finished: Finished) {
        let mut done = self.done.lock();
        done.finished.push(finished);
        self.ring(&mut done);
    }

    /// Puts a result in that [`Deliver::deliver`] will make known.
    pub fn add(&self, finished: Finished) {
        self.done.lock().added.push(finished);
    }

    fn ring(&self, done: &mut Done) {
        if !std::mem::replace(&mut done.rung, true) {
            // The counter cannot overflow: it is read whenever the box is emptied.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Takes everything out. The bell is rung for whatever comes from now on.
    pub fn take(&self) -> Vec<Finished> {
        let mut done = self.done.lock();
        done.hushed = false;
        if std::mem::take(&mut done.rung) {
            let _ = rustix::io::read(&self.bell, &mut [0u8; 8]);
        }
        let mut all = std::mem::take(&mut done.finished);
        all.append(&mut done.added);
        all
    }

    /// The bell need not be rung for what was answered, until the box is emptied: its connection waits for the client.
    pub fn hush(&self) {
        self.done.lock().hushed = true;
    }

    /// The right to write to the socket, and what has to be written first.
    pub fn wire(&self) -> MutexGuard<'_, Vec<u8>> {
        self.wire.lock()
    }

    /// Answers what was added; false if something is left to the connection's thread.
    fn answer(&self) -> bool {
        let Some(shortcut) = &self.shortcut else {
            return false;
        };
        // Whoever writes now may be waiting for the client.
        let Some(mut left) = self.wire.try_lock().filter(|left| left.is_empty()) else {
            return false;
        };
        let mut done = self.done.lock();
        let Some(bytes) = replies(&done.added) else {
            return false;
        };
        match shortcut.send(&bytes) {
            0 => bytes.is_empty(),
            sent => {
                shortcut.tick_off(&mut done.added);
                left.extend_from_slice(&bytes[sent..]);
                left.is_empty()
            }
        }
    }
}

/// All replies, if they are short and nothing else has to be done.
fn replies(finished: &[Finished]) -> Option<Vec<u8>> {
    let mut all = Vec::with_capacity(finished.len() * SHORT);
    for one in finished {
        let plain = one.error.is_none() && one.flushed.is_none();
        let reply = one.reply.as_ref().ok();
        all.extend_from_slice(reply.filter(|reply| plain && reply.len() <= SHORT)?);
    }
    Some(all)
}

impl Shortcut {
    /// How many bytes the socket took.
    fn send(&self, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.live.is_evicted() || !self.device.may_reply_now() {
            return 0;
        }
        // What is wrong with it the connection's thread finds out by itself.
        self.live.socket.send_now(bytes).unwrap_or(0)
    }

    fn tick_off(&self, finished: &mut [Finished]) {
        for one in finished {
            one.sent = true;
            one.reply = Ok(Vec::new());
            self.pool.give_back(one.weight);
        }
    }
}

impl Deliver for Mailbox {
    fn deliver(&self) {
        let answered = self.answer();
        let mut done = self.done.lock();
        let Done {
            finished, added, ..
        } = &mut *done;
        // Others may have added since.
        let all_sent = added.iter().all(|one| one.sent);
        finished.append(added);
        if !(answered && all_sent && done.hushed) {
            self.ring(&mut done);
        }
    }
}
