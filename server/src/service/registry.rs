//! The connections that there are, and who owns which export.

use std::{
    collections::HashMap,
    fmt,
    net::Shutdown,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    device::{Claim, Peer, PeerAddress},
    transport::Socket,
};

/// What a connection has done so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests answered.
    pub requests: AtomicU64,
    /// Bytes read by the client.
    pub read: AtomicU64,
    /// Bytes written by the client.
    pub written: AtomicU64,
    /// Requests that failed.
    pub errors: AtomicU64,
}

/// A connection as others see it.
#[derive(Debug)]
pub struct Live {
    /// Its number; later connections have higher ones.
    pub id: u64,
    /// Its socket.
    pub socket: Socket,
    /// Who is there.
    pub peer: PeerAddress,
    /// What it did.
    pub counters: Counters,
    evicted: AtomicBool,
    draining: OnceLock<Ending>,
    holds: Mutex<Holds>,
}

/// Why a connection is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The service stops.
    Stopping,
    /// Its export is no more, or no longer for it.
    Removed,
    /// Its export is another one from now on; whoever connects again gets that.
    Changed,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ending::Stopping => "the service stops",
            Ending::Removed => "the export was withdrawn",
            Ending::Changed => "the export was changed",
        })
    }
}

#[derive(Debug, Default, Clone)]
struct Holds {
    export: Option<String>,
    owner: Option<String>,
    claim: Option<Claim>,
    /// Who opened it.
    by: Option<Peer>,
}

/// A snapshot of one connection for status displays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionView {
    /// Its number.
    pub id: u64,
    /// Who is there.
    pub peer: PeerAddress,
    /// Owner key of its export, if it has one.
    pub owner: Option<String>,
    /// Its export, if that is one that the configuration names.
    pub named: Option<String>,
    /// Requests answered.
    pub requests: u64,
    /// Bytes read by the client.
    pub read: u64,
    /// Bytes written by the client.
    pub written: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl Live {
    /// Whether a newer connection took over: nothing may be answered any more.
    pub fn is_evicted(&self) -> bool {
        self.evicted.load(Relaxed)
    }

    /// Whether it is to end when what it was asked is answered.
    pub fn is_draining(&self) -> bool {
        self.draining.get().is_some()
    }

    /// Why it is to end, if it is.
    pub fn ending(&self) -> Option<Ending> {
        self.draining.get().copied()
    }

    /// Remembers what it opened.
    pub fn opened(&self, export: &str) {
        self.holds.lock().export = Some(export.to_owned());
    }

    /// What it opened: export and owner.
    pub fn holds(&self) -> (Option<String>, Option<String>) {
        let holds = self.holds.lock().clone();
        (holds.export, holds.owner)
    }

    fn evict(&self) {
        self.evicted.store(true, Relaxed);
        self.socket.shut(Shutdown::Both);
    }

    fn drain(&self, why: Ending) {
        // The first reason is the one that the peer is told.
        let _ = self.draining.set(why);
        self.socket.shut(Shutdown::Read);
    }

    fn view(&self) -> ConnectionView {
        let holds = self.holds.lock();
        let claim = holds.claim.as_ref();
        ConnectionView {
            id: self.id,
            peer: self.peer,
            owner: holds.owner.clone(),
            named: claim.map(|claim| claim.export.clone()),
            requests: self.counters.requests.load(Relaxed),
            read: self.counters.read.load(Relaxed),
            written: self.counters.written.load(Relaxed),
            errors: self.counters.errors.load(Relaxed),
        }
    }
}

/// All connections.
#[derive(Default)]
pub struct Registry {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    connections: HashMap<u64, Arc<Live>>,
    last_id: u64,
    draining: bool,
}

/// Why a connection is not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// As many as there may be in all.
    All,
    /// As many as one address may have.
    Peer,
    /// The service stops.
    Draining,
}

impl Registry {
    /// Takes a connection in, unless there are too many.
    pub fn enter(
        &self,
        socket: Socket,
        most: usize,
        most_per_peer: usize,
    ) -> Result<Arc<Live>, Full> {
        let peer = socket.peer();
        let mut state = self.state.lock();
        if state.draining {
            return Err(Full::Draining);
        }
        if state.connections.len() >= most {
            return Err(Full::All);
        }
        let same = state
            .connections
            .values()
            .filter(|live| live.peer == peer)
            .count();
        if peer != PeerAddress::Local && same >= most_per_peer {
            return Err(Full::Peer);
        }
        state.last_id += 1;
        let live = Arc::new(Live {
            id: state.last_id,
            socket,
            peer,
            counters: Counters::default(),
            evicted: AtomicBool::new(false),
            draining: OnceLock::new(),
            holds: Mutex::default(),
        });
        state.connections.insert(live.id, live.clone());
        Ok(live)
    }

    /// The connection has ended and nothing of it is under way any more.
    pub fn leave(&self, live: &Live) {
        self.state.lock().connections.remove(&live.id);
        self.ended.notify_all();
    }

    /// Makes `live` the owner of `owner`'s export: older connections are closed, and this returns when nothing of
    /// them is under way. Gives who was evicted; an error when one does not end in time, or when a newer
    /// connection was faster.
    pub fn take_over(
        &self,
        live: &Live,
        owner: &str,
        limit: Duration,
    ) -> Result<Vec<Arc<Live>>, &'static str> {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        live.holds.lock().owner = Some(owner.to_owned());
        let others = |state: &State| -> Vec<Arc<Live>> {
            let same = |other: &&Arc<Live>| {
                other.id != live.id && other.holds.lock().owner.as_deref() == Some(owner)
            };
            state.connections.values().filter(same).cloned().collect()
        };
        let evicted: Vec<_> = others(&state)
            .into_iter()
            .filter(|other| !other.is_evicted())
            .collect();
        evicted.iter().for_each(|other| other.evict());
        // One of them may itself be waiting here for the one before it.
        self.ended.notify_all();
        loop {
            if live.is_evicted() {
                return Err("a newer connection of this client has taken over");
            }
            if others(&state).iter().all(|other| !other.is_evicted()) {
                return Ok(evicted);
            }
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                return Err("the client's previous connection still has requests under way");
            }
        }
    }

    /// Notes that `live`, which is `peer`, is about to open an export. Who has it already, if it is given to one
    /// connection at a time.
    pub fn claim(&self, live: &Live, claim: Option<Claim>, peer: Peer) -> Result<(), PeerAddress> {
        let state = self.state.lock();
        let alone = claim.as_ref().filter(|claim| claim.alone);
        let same = |other: &&Arc<Live>| {
            let holds = other.holds.lock();
            let held = holds.claim.as_ref().map(|claim| &claim.export);
            other.id != live.id && held.is_some() && held == alone.map(|claim| &claim.export)
        };
        if let Some(other) = state.connections.values().find(same) {
            return Err(other.peer);
        }
        let mut holds = live.holds.lock();
        (holds.claim, holds.by) = (claim, Some(peer));
        Ok(())
    }

    /// `live` did not open what it claimed.
    pub fn unclaim(&self, live: &Live) {
        let mut holds = live.holds.lock();
        (holds.claim, holds.by) = (None, None);
    }

    /// Asks everyone to finish whom `concerns`, which is told the export by the name that was claimed, if any, and says
    /// why. Gives how many those are, and whether all have ended by the deadline; the rest is cut off.
    pub fn end(
        &self,
        concerns: &dyn Fn(Option<&str>, &Peer) -> Option<Ending>,
        limit: Duration,
    ) -> (usize, bool) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        let mut concerned = Vec::new();
        for live in state.connections.values() {
            let holds = live.holds.lock();
            let export = holds.claim.as_ref().map(|claim| claim.export.as_str());
            if let Some(why) = holds.by.as_ref().and_then(|peer| concerns(export, peer)) {
                live.drain(why);
                concerned.push(live.clone());
            }
        }
        while concerned
            .iter()
            .any(|live| state.connections.contains_key(&live.id))
        {
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                concerned
                    .iter()
                    .for_each(|live| live.socket.shut(Shutdown::Both));
                return (concerned.len(), false);
            }
        }
        (concerned.len(), true)
    }

    /// Lets nobody in any more and cuts everyone off, with no answer to what they asked. Returns when nothing of them is
    /// under way, or at the deadline.
    pub fn abandon(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        state.draining = true;
        state.connections.values().for_each(|live| live.evict());
        while !state.connections.is_empty() {
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                return;
            }
        }
    }

    /// Lets nobody in any more and asks everyone to finish; true when all have by the deadline, after which the
    /// rest is cut off.
    pub fn drain(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state.lock();
        state.draining = true;
        state
            .connections
            .values()
            .for_each(|live| live.drain(Ending::Stopping));
        while !state.connections.is_empty() {
            if self.ended.wait_until(&mut state, deadline).timed_out() {
                state
                    .connections
                    .values()
                    .for_each(|live| live.socket.shut(Shutdown::Both));
                return false;
            }
        }
        true
    }

    /// All connections as they are now.
    pub fn view(&self) -> Vec<ConnectionView> {
        let mut views: Vec<_> = self
            .state
            .lock()
            .connections
            .values()
            .map(|live| live.view())
            .collect();
        views.sort_by_key(|view| view.id);
        views
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, sync::mpsc, thread};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn enter(registry: &Registry) -> Arc<Live> {
        let (socket, _) = UnixStream::pair().unwrap();
        registry.enter(Socket::Unix(socket), 8, 8).unwrap()
    }

    /// Starts a takeover and returns when it waits for the connection before it.
    fn begin(registry: &Arc<Registry>, live: &Arc<Live>) -> mpsc::Receiver<bool> {
        let (tell, told) = mpsc::channel();
        let (ours, theirs) = (registry.clone(), live.clone());
        thread::spawn(move || {
            let taken = ours.take_over(&theirs, "a", 6 * DEADLINE);
            tell.send(taken.is_ok()).unwrap();
        });
        let deadline = Instant::now() + DEADLINE;
        let holds = |view: &ConnectionView| view.id == live.id && view.owner.is_some();
        while !registry.view().iter().any(holds) {
            assert!(Instant::now() < deadline, "the takeover never began");
            thread::yield_now();
        }
        told
    }

    #[test]
    fn a_waiting_takeover_gives_way_to_a_newer_one_at_once() {
        let registry = Arc::new(Registry::default());
        let (stuck, waiting, newest) = (enter(&registry), enter(&registry), enter(&registry));
        registry.take_over(&stuck, "a", DEADLINE).unwrap();
        let waits = begin(&registry, &waiting);
        let wins = begin(&registry, &newest);
        assert!(!waits.recv_timeout(DEADLINE).expect("it goes on waiting"));
        registry.leave(&waiting);
        registry.leave(&stuck);
        assert!(wins.recv_timeout(DEADLINE).unwrap());
    }

    fn peer() -> Peer {
        Peer::plain(PeerAddress::Local)
    }

    fn claim(export: &str, alone: bool) -> Option<Claim> {
        let export = export.to_owned();
        Some(Claim { export, alone })
    }

    #[test]
    fn an_export_for_one_is_free_again_when_that_one_has_left() {
        let registry = Registry::default();
        let (one, other) = (enter(&registry), enter(&registry));
        registry.claim(&one, claim("disk", true), peer()).unwrap();
        assert!(registry.claim(&other, claim("disk", true), peer()).is_err());
        registry
            .claim(&other, claim("another", true), peer())
            .unwrap();
        registry.leave(&one);
        registry.claim(&other, claim("disk", true), peer()).unwrap();
    }

    #[test]
    fn an_export_for_all_is_no_longer_given_to_one_alone() {
        let registry = Registry::default();
        let (one, other) = (enter(&registry), enter(&registry));
        registry.claim(&one, claim("disk", false), peer()).unwrap();
        assert!(registry.claim(&other, claim("disk", true), peer()).is_err());
        registry.unclaim(&one);
        registry.claim(&other, claim("disk", true), peer()).unwrap();
    }

    #[test]
    fn only_who_is_concerned_is_asked_to_end_and_waited_for() {
        let registry = Arc::new(Registry::default());
        let (gone, stays) = (enter(&registry), enter(&registry));
        registry.claim(&gone, claim("old", false), peer()).unwrap();
        registry.claim(&stays, claim("new", false), peer()).unwrap();
        let concerns =
            |name: Option<&str>, _: &Peer| (name == Some("old")).then_some(Ending::Removed);
        let (ours, leaver) = (registry.clone(), gone.clone());
        let thread = thread::spawn(move || {
            while !leaver.is_draining() {
                thread::yield_now();
            }
            ours.leave(&leaver);
        });
        assert_eq!(registry.end(&concerns, DEADLINE), (1, true));
        thread.join().unwrap();
        assert_eq!(gone.ending(), Some(Ending::Removed));
        assert!(!stays.is_draining());
    }

    #[test]
    fn who_does_not_end_in_time_is_cut_off() {
        let registry = Registry::default();
        let stuck = enter(&registry);
        registry.claim(&stuck, claim("old", false), peer()).unwrap();
        let concerns = |_: Option<&str>, _: &Peer| Some(Ending::Changed);
        assert_eq!(registry.end(&concerns, Duration::ZERO), (1, false));
        let mut byte = [0; 1];
        let read = rustix::net::recv(&stuck.socket, &mut byte, rustix::net::RecvFlags::empty());
        assert_eq!(read.unwrap().0, 0);
    }
}
