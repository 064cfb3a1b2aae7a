//! The life of one link, as a state machine without sockets or clock: when to dial, whom, how long to wait, and when
//! the kernel may be given the new socket.
//!
//! ```text
//!            ┌──────────── failed, refused, deadline ───────────┐
//!            ▼                                                  │
//!        Waiting ──tick──▶ Dialing ──connected──▶ Agreeing ─────┤
//!            ▲                                        │ agreed  │
//!            │                                        ▼         │
//!            └───lost──── Up ◀──installed── Installing ◀─ Settling
//! ```
//!
//! An `Up` link to a silent server becomes `Dialing` at once when another one says meanwhile that it serves ([`Link::ask`],
//! [`Link::moved`]).
//!
//! `Settling` exists because the kernel ignores a new socket, and says nothing, while it believes the old one alive.
//! Its LINK_DEAD message proves that it has let go; should that message be lost, patience and the second
//! installation (`Action::Install` again, once, a second later) take its place.

use std::time::Duration;

/// A point in time: since some fixed start, never going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub Duration);

impl Now {
    /// This much later.
    pub fn after(self, pause: Duration) -> Self {
        Self(self.0 + pause)
    }

    /// Time passed since `earlier`.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Spread over which a room full of clients makes its first attempt after its server went away.
const FIRST_SPREAD: Duration = Duration::from_millis(250);
/// Pause after the first round of failures; doubles with each round.
const BASE_PAUSE: Duration = Duration::from_millis(100);
/// The pause never grows beyond this, so that a server that comes back is noticed within two seconds.
const MAX_PAUSE: Duration = Duration::from_millis(800);
/// Pause when every server has said no: an answer that will hardly change by itself.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How long a server may take to accept a connection.
const DIAL_PATIENCE: Duration = Duration::from_secs(3);
/// How long a server may take for the whole handshake. A frozen one is given up after this.
const AGREE_PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait for the kernel to let go of a socket that has been shut down.
const SETTLE_PATIENCE: Duration = Duration::from_secs(1);
/// When to hand over the same socket once more, in case the kernel ignored it.
const REASSERT_AFTER: Duration = Duration::from_secs(1);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Open a connection to the server with this number.
    Dial(usize),
    /// Close the connection under construction; it took too long.
    Abandon,
    /// Hand the connection to the kernel, then say [`Link::installed`].
    Install,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting { until: Now },
    Dialing { deadline: Now },
    Agreeing { deadline: Now },
    Settling { deadline: Now },
    Installing,
    Up { reassert: Option<Now> },
}

/// The state of one link.
#[derive(Debug)]
pub struct Link {
    phase: Phase,
    servers: usize,
    server: usize,
    /// The one that was last asked whether it serves in the place of `server`.
    asked: usize,
    /// Attempts since the link was lost.
    attempt: usize,
    /// Refusals in a row.
    refused: usize,
    /// Whether the kernel holds no live socket.
    kernel_let_go: bool,
    lost_at: Option<Now>,
    jitter: Jitter,
}

/// Spreads attempts of many clients; not for secrets.
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// Evenly from `0` to `limit` (xorshift64*).
    fn up_to(&mut self, limit: Duration) -> Duration {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let fraction =
            (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f64 / (1u64 << 24) as f64;
        limit.mul_f64(fraction)
    }
}

impl Link {
    /// A link to one of `servers` servers (at least one), to be dialled at once. `seed` differs between machines.
    pub fn new(servers: usize, seed: u64, now: Now) -> Self {
        Self {
            phase: Phase::Waiting { until: now },
            servers: servers.max(1),
            server: 0,
            asked: 0,
            attempt: 0,
            refused: 0,
            kernel_let_go: true,
            lost_at: None,
            jitter: Jitter(seed | 1),
        }
    }

    /// When [`Link::tick`] wants to be called next; `None` when only an event can change anything.
    pub fn deadline(&self) -> Option<Now> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Dialing { deadline }
            | Phase::Agreeing { deadline }
            | Phase::Settling { deadline } => Some(deadline),
            Phase::Up { reassert } => reassert,
            Phase::Installing => None,
        }
    }

    /// The server being dialled or in use.
    pub fn server(&self) -> usize {
        self.server
    }

    /// Whether the kernel has a live socket, as far as is known.
    pub fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up { .. })
    }

    /// Whether the connection is still being opened.
    pub fn is_dialing(&self) -> bool {
        matches!(self.phase, Phase::Dialing { .. })
    }

    /// Whether the handshake is going on.
    pub fn is_agreeing(&self) -> bool {
        matches!(self.phase, Phase::Agreeing { .. })
    }

    /// How long the link has been away, if it is.
    pub fn away(&self, now: Now) -> Option<Duration> {
        self.lost_at.map(|at| now.since(at))
    }

    /// The time has come that [`Link::deadline`] named, or passed.
    pub fn tick(&mut self, now: Now) -> Action {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return Action::None;
        }
        match self.phase {
            Phase::Waiting { .. } => {
                self.phase = Phase::Dialing {
                    deadline: now.after(DIAL_PATIENCE),
                };
                Action::Dial(self.server)
            }
            Phase::Dialing { .. } | Phase::Agreeing { .. } => {
                self.failed(now);
                Action::Abandon
            }
            Phase::Settling { .. } => self.install(),
            Phase::Up { .. } => {
                self.phase = Phase::Up { reassert: None };
                Action::Install
            }
            Phase::Installing => Action::None,
        }
    }

    /// The connection is open.
    pub fn connected(&mut self, now: Now) {
        self.phase = Phase::Agreeing {
            deadline: now.after(AGREE_PATIENCE),
        };
    }

    /// The server has agreed to serve the disk.
    pub fn agreed(&mut self, now: Now) -> Action {
        if self.kernel_let_go {
            return self.install();
        }
        self.phase = Phase::Settling {
            deadline: now.after(SETTLE_PATIENCE),
        };
        Action::None
    }

    /// The kernel says that it has given up its socket. One in use that has ended has to be [`Link::lost`] first.
    pub fn kernel_let_go(&mut self) -> Action {
        // The tail of an older one. Of the socket in use the kernel says it once, and not before that has ended.
        if self.is_up() {
            return Action::None;
        }
        self.kernel_let_go = true;
        match self.phase {
            Phase::Settling { .. } => self.install(),
            _ => Action::None,
        }
    }

    fn install(&mut self) -> Action {
        self.phase = Phase::Installing;
        Action::Install
    }

    /// The kernel has been given the socket. Returns how long the link had been away, if it had.
    pub fn installed(&mut self, now: Now) -> Option<Duration> {
        let away = self.away(now);
        let first = away.is_none();
        self.phase = Phase::Up {
            reassert: (!first).then(|| now.after(REASSERT_AFTER)),
        };
        (self.attempt, self.refused, self.kernel_let_go, self.lost_at) = (0, 0, false, None);
        away
    }

    /// The link in use has ended.
    pub fn lost(&mut self, now: Now) {
        self.lost_at.get_or_insert(now);
        self.phase = Phase::Waiting {
            until: now.after(self.jitter.up_to(FIRST_SPREAD)),
        };
    }

    /// The server in use has stopped answering, and may go on taking connections that it does not answer: another one is
    /// tried first, if there is one.
    pub fn silent(&mut self, now: Now) {
        self.server = (self.server + 1) % self.servers;
        self.lost(now);
    }

    /// The server in use gives reason to doubt it: which other one to ask whether it serves in its place, if there is one.
    pub fn ask(&mut self) -> Option<usize> {
        let after = |server| (server + 1) % self.servers;
        self.asked = match after(self.asked) == self.server {
            true => after(self.server),
            false => after(self.asked),
        };
        (self.asked != self.server).then_some(self.asked)
    }

    /// The server that was asked serves: it takes the place of the one in use.
    pub fn moved(&mut self, now: Now) {
        self.lost(now);
        self.server = self.asked;
        self.phase = Phase::Dialing {
            deadline: now.after(DIAL_PATIENCE),
        };
    }

    /// The attempt came to nothing: no connection, or it broke.
    pub fn failed(&mut self, now: Now) {
        self.refused = 0;
        self.next_attempt(now);
    }

    /// The server answered, but does not serve this disk (any more).
    pub fn refused(&mut self, now: Now) {
        self.refused += 1;
        self.next_attempt(now);
    }

    fn next_attempt(&mut self, now: Now) {
        self.attempt += 1;
        self.server = (self.server + 1) % self.servers;
        let pause = self.pause();
        self.phase = Phase::Waiting {
            until: now.after(pause / 2 + self.jitter.up_to(pause / 2)),
        };
    }

    fn pause(&self) -> Duration {
        if self.refused >= self.servers {
            return REFUSED_PAUSE;
        }
        let round = (self.attempt / self.servers).min(5) as u32;
        // Within a round the next server is asked at once: it may be the one that took over.
        let full_round = self.attempt.is_multiple_of(self.servers);
        if full_round {
            (BASE_PAUSE * 2u32.pow(round)).min(MAX_PAUSE)
        } else {
            BASE_PAUSE / 2
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(ms: u64) -> Now {
        Now(Duration::from_millis(ms))
    }

    /// A link that has come up at time 0.
    fn up(servers: usize) -> Link {
        let mut link = Link::new(servers, 7, at(0));
        assert_eq!(link.tick(at(0)), Action::Dial(0));
        link.connected(at(0));
        assert_eq!(link.agreed(at(0)), Action::Install);
        assert_eq!(link.installed(at(0)), None);
        link
    }

    /// Lets the next deadline pass.
    fn tick(link: &mut Link) -> (Now, Action) {
        let deadline = link.deadline().unwrap();
        (deadline, link.tick(deadline))
    }

    #[test]
    fn first_attempt_after_a_loss_is_soon_but_spread() {
        let first = |seed| {
            let mut link = Link {
                jitter: Jitter(seed),
                ..up(1)
            };
            link.lost(at(1000));
            link.deadline().unwrap().since(at(1000))
        };
        let pauses: Vec<Duration> = (1u64..200)
            .map(|n| first(n.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
            .collect();
        assert!(pauses.iter().all(|p| *p < FIRST_SPREAD));
        let early = pauses.iter().filter(|p| **p < FIRST_SPREAD / 2).count();
        assert!(
            (60..140).contains(&early),
            "{early} of 199 in the first half"
        );
    }

    #[test]
    fn never_installs_before_the_kernel_let_go() {
        let mut link = up(1);
        link.lost(at(0));
        let (now, action) = tick(&mut link);
        assert_eq!(action, Action::Dial(0));
        link.connected(now);
        assert_eq!(link.agreed(now), Action::None);
        assert_eq!(link.kernel_let_go(), Action::Install);
        assert!(link.installed(now).is_some());
    }

    #[test]
    fn a_lost_announcement_is_made_up_for_by_installing_twice() {
        let mut link = up(1);
        link.lost(at(0));
        let (now, _) = tick(&mut link);
        link.connected(now);
        link.agreed(now);
        let (now, action) = tick(&mut link);
        assert_eq!(action, Action::Install);
        link.installed(now);
        assert_eq!(tick(&mut link).1, Action::Install);
        assert!(link.deadline().is_none(), "once is enough");
    }

    #[test]
    fn an_early_announcement_is_remembered_and_a_late_one_ignored() {
        let mut link = up(1);
        link.lost(at(0));
        assert_eq!(link.kernel_let_go(), Action::None);
        let (now, _) = tick(&mut link);
        link.connected(now);
        assert_eq!(link.agreed(now), Action::Install);
        link.installed(now);
        assert_eq!(link.kernel_let_go(), Action::None);
        link.lost(now);
        let (now, _) = tick(&mut link);
        link.connected(now);
        assert_eq!(
            link.agreed(now),
            Action::None,
            "the late one does not count for the next link"
        );
    }

    #[test]
    fn a_server_that_fell_silent_is_not_the_first_to_be_tried() {
        let mut link = up(2);
        link.silent(at(1000));
        assert_eq!(link.tick(link.deadline().unwrap()), Action::Dial(1));
        let mut alone = up(1);
        alone.silent(at(1000));
        assert_eq!(alone.tick(alone.deadline().unwrap()), Action::Dial(0));
    }

    #[test]
    fn the_others_are_asked_in_turn_and_the_one_that_answers_gets_the_link() {
        let mut link = up(3);
        assert_eq!([1, 2, 1].map(|_| link.ask().unwrap()), [1, 2, 1]);
        assert!(link.is_up(), "asking changes nothing");
        link.moved(at(5000));
        assert_eq!((link.server(), link.is_dialing()), (1, true));
        link.connected(at(5000));
        assert_eq!(link.agreed(at(5000)), Action::None, "the kernel first");
        assert_eq!(link.kernel_let_go(), Action::Install);
        assert!(link.installed(at(5100)).is_some());
        assert_eq!([2, 0].map(|_| link.ask().unwrap()), [2, 0]);
        assert_eq!(up(1).ask(), None);
    }

    #[test]
    fn one_that_was_asked_and_does_not_serve_after_all_leads_back_soon() {
        let mut link = up(2);
        link.ask();
        link.moved(at(5000));
        link.connected(at(5000));
        link.refused(at(5000));
        let (then, action) = tick(&mut link);
        assert_eq!(action, Action::Dial(0));
        assert!(then.since(at(5000)) < Duration::from_millis(100));
    }

    #[test]
    fn servers_are_tried_in_turn_beginning_with_the_last_good_one() {
        let mut link = up(3);
        link.lost(at(0));
        let mut dialled = Vec::new();
        for _ in 0..7 {
            let (now, action) = tick(&mut link);
            let Action::Dial(server) = action else {
                panic!("{action:?}")
            };
            dialled.push(server);
            link.failed(now);
        }
        assert_eq!(dialled, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_returning_server_is_dialled_within_two_seconds_however_long_it_was_away() {
        let mut link = up(1);
        link.lost(at(0));
        let mut last = at(0);
        for _ in 0..1000 {
            let (now, action) = tick(&mut link);
            assert_eq!(action, Action::Dial(0));
            assert!(now.since(last) <= MAX_PAUSE);
            link.failed(now);
            last = now;
        }
        assert!(
            last.0 > Duration::from_secs(350),
            "and yet it is not hammered: {last:?}"
        );
    }

    #[test]
    fn refusals_by_all_slow_it_down_and_one_failure_speeds_it_up_again() {
        let mut link = up(2);
        link.lost(at(0));
        let (now, _) = tick(&mut link);
        link.refused(now);
        assert!(link.deadline().unwrap().since(now) < Duration::from_millis(100));
        let (now, _) = tick(&mut link);
        link.refused(now);
        assert!(link.deadline().unwrap().since(now) >= REFUSED_PAUSE / 2);
        let (now, _) = tick(&mut link);
        link.failed(now);
        assert!(link.deadline().unwrap().since(now) <= MAX_PAUSE);
    }

    #[test]
    fn a_frozen_server_is_abandoned() {
        let mut link = up(1);
        link.lost(at(0));
        let (now, _) = tick(&mut link);
        link.connected(now);
        let (later, action) = tick(&mut link);
        assert_eq!(
            (later.since(now), action),
            (AGREE_PATIENCE, Action::Abandon)
        );
        assert!(matches!(tick(&mut link).1, Action::Dial(0)));
    }

    proptest! {
        /// Whatever happens in whatever order, there is always a next step, and no step skips the handshake.
        #[test]
        fn never_stuck(events in prop::collection::vec(0u8..6, 1..200), servers in 1usize..4) {
            let mut link = up(servers);
            let mut now = at(0);
            for event in events {
                now = now.after(Duration::from_millis(37));
                let was_agreeing = link.is_agreeing();
                let action = match event {
                    0 if link.is_up() => { link.lost(now); Action::None }
                    1 if link.is_dialing() => { link.connected(now); Action::None }
                    2 if was_agreeing => link.agreed(now),
                    3 => link.kernel_let_go(),
                    4 if link.is_dialing() || was_agreeing => { link.failed(now); Action::None }
                    5 => { now = link.deadline().unwrap_or(now).max(now); link.tick(now) }
                    _ => Action::None,
                };
                if action == Action::Install && !link.is_up() { link.installed(now); }
                prop_assert!(link.is_up() || link.deadline().is_some());
            }
        }
    }
}
