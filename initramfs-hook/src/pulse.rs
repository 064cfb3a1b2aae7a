//! Is the server still answering? The kernel is told never to judge that by itself: it would end a connection over one
//! slow request, and the request, sent again with the same patience, would end the next one.
//!
//! Instead the connection's own counters are looked at every so often: requests wait while nothing at all comes in. Where
//! there are other servers it is looked at closer, also at the kernel's count of requests under way: the last request may
//! have gone out in the same moment as the last answer came in, and no other follow. After some time of that the server
//! is doubted, and others may be asked whether they serve in its place; after a longer one it counts as frozen or gone.

use std::time::Duration;

use crate::link::Now;
use crate::traffic::Traffic;

/// Patience grows up to this when a server proves alive but slow, again and again.
const MAX_PATIENCE: Duration = Duration::from_secs(80);

/// What part of its patience the agent spends before it doubts: a standby is in its place about when it begins to ask.
const DOUBT: u32 = 5;

/// Pause between two questions to other servers.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// What a look at a connection says of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It answers, or nothing is asked of it.
    Alive,
    /// It has been silent for so long that another may serve by now.
    Doubtful,
    /// It has stopped answering.
    Dead,
}

/// Watches one connection.
#[derive(Debug)]
pub struct Pulse {
    base: Duration,
    patience: Duration,
    /// After what silence the server is doubted; never, where there is no other to ask.
    doubt: Option<Duration>,
    last: Option<Traffic>,
    /// The counters when the kernel was given the connection, if those after it tell of requests without answer.
    begun: Option<Traffic>,
    waiting_since: Option<Now>,
    /// Whether another server has taken the place of a silent one, and has not answered a request yet.
    replaced: bool,
    next: Now,
}

impl Pulse {
    /// A watch with this much patience. With others to ask it looks more often, so as to doubt in time.
    pub fn new(patience: Duration, others: bool, now: Now) -> Self {
        Self {
            base: patience,
            patience,
            doubt: others.then_some(patience / DOUBT),
            last: None,
            begun: None,
            waiting_since: None,
            replaced: false,
            next: now,
        }
    }

    /// A new connection begins: with these counters, unless they count more than requests and answers, and, if `replaced`,
    /// to another server than the one that had fallen silent.
    pub fn begin(&mut self, begun: Option<Traffic>, replaced: bool, now: Now) {
        self.begun = begun.filter(|_| self.doubt.is_some());
        (self.last, self.waiting_since, self.next) = (None, None, now);
        self.replaced = replaced;
    }

    /// When to look.
    pub fn deadline(&self) -> Now {
        self.next
    }

    /// Takes a look; `pending`: the kernel counts requests under way.
    pub fn look(&mut self, traffic: Traffic, pending: bool, now: Now) -> Verdict {
        self.count(traffic, pending, now);
        let verdict = self.verdict(now);
        self.next = match verdict {
            Verdict::Doubtful => now.after(ASK_AGAIN),
            Verdict::Alive | Verdict::Dead => self.next_look(now),
        };
        if verdict == Verdict::Dead {
            self.patience = longer(self.patience);
        }
        verdict
    }

    fn next_look(&self, now: Now) -> Now {
        let Some(doubt) = self.doubt else {
            return now.after(self.base / 4);
        };
        let regular = now.after(self.base / (4 * DOUBT));
        let doubted = self.waiting_since.map(|since| since.after(doubt));
        doubted.map_or(regular, |doubted| regular.min(doubted))
    }

    fn count(&mut self, traffic: Traffic, pending: bool, now: Now) {
        let last = self.last.replace(traffic);
        let answered = last.is_none_or(|last| last.received != traffic.received);
        if answered {
            self.waiting_since = None;
        }
        if answered && last.is_some() && self.replaced {
            self.forgive();
        }
        let asked = !answered && last.is_some_and(|last| last.sent != traffic.sent);
        let unanswered = self
            .begun
            .is_some_and(|begun| traffic.is_unanswered(&begun));
        if pending || unanswered || asked {
            self.waiting_since.get_or_insert(now);
        }
    }

    fn verdict(&self, now: Now) -> Verdict {
        match self.waiting_since.map(|since| now.since(since)) {
            Some(silence) if silence >= self.patience => Verdict::Dead,
            Some(silence) if self.doubt.is_some_and(|doubt| silence >= doubt) => Verdict::Doubtful,
            _ => Verdict::Alive,
        }
    }

    /// Another server says that it serves, and gets this disk. Should it not have taken over after all, asking next
    /// time can wait longer.
    pub fn mistrust(&mut self) {
        self.doubt = self.doubt.map(longer);
    }

    /// The connection ended for another reason: the server was not merely slow.
    pub fn forgive(&mut self) {
        self.patience = self.base;
        self.doubt = self.doubt.map(|_| self.base / DOUBT);
        self.replaced = false;
    }
}

fn longer(wait: Duration) -> Duration {
    (wait * 2).min(MAX_PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn at(ms: u64) -> Now {
        Now(Duration::from_millis(ms))
    }

    fn traffic(sent: u32, received: u64) -> Traffic {
        Traffic {
            sent,
            received,
            ..Traffic::default()
        }
    }

    fn alone() -> Pulse {
        Pulse::new(PATIENCE, false, at(0))
    }

    fn with_others() -> Pulse {
        Pulse::new(PATIENCE, true, at(0))
    }

    /// How many seconds a server that answers nothing is believed in, if looked at every second.
    fn silence(pulse: &mut Pulse, from: u64) -> u64 {
        pulse.begin(None, false, at(from * 1000));
        pulse.look(traffic(1, 1), false, at(from * 1000));
        let dead = |s: &u64| pulse.look(traffic(2, 1), false, at(s * 1000)) == Verdict::Dead;
        (from + 1..).find(dead).unwrap() - from
    }

    /// Looks whenever one is due, from `from` on, while nothing comes in and a request is under way; returns after how
    /// many milliseconds the server was first doubted, and after how many it was given up.
    fn waits(pulse: &mut Pulse, from: u64) -> (u64, u64) {
        let (mut now, mut doubted) = (at(from), None);
        loop {
            let verdict = pulse.look(traffic(1, 1), true, now);
            let waited = u64::try_from(now.since(at(from)).as_millis()).unwrap();
            match verdict {
                Verdict::Alive => {}
                Verdict::Doubtful => drop(doubted.get_or_insert(waited)),
                Verdict::Dead => return (doubted.unwrap_or(waited), waited),
            }
            now = pulse.deadline();
        }
    }

    #[test]
    fn silence_after_a_request_ends_it_but_an_idle_disk_does_not() {
        let mut pulse = alone();
        let mut idle = |s: u64| pulse.look(traffic(1, 1), false, at(s * 1000));
        assert!((0..1000).all(|s| idle(s) == Verdict::Alive), "idle");
        assert_eq!(silence(&mut pulse, 1000), 11);
    }

    #[test]
    fn any_answer_begins_the_wait_anew() {
        for mut pulse in [alone(), with_others()] {
            for s in 0..100 {
                // With others to ask it would be doubted after two seconds.
                let traffic = traffic(s, u64::from(s / 2));
                let verdict = pulse.look(traffic, true, at(u64::from(s) * 1000));
                assert_eq!(verdict, Verdict::Alive, "slow, not dead");
            }
        }
    }

    #[test]
    fn a_request_that_went_out_beside_the_last_answer_counts_where_the_kernel_tells_of_it() {
        let mut pulse = with_others();
        pulse.begin(None, false, at(0));
        pulse.look(traffic(1, 1), false, at(0));
        assert_eq!(
            pulse.look(traffic(2, 2), true, at(500)),
            Verdict::Alive,
            "the server froze in between"
        );
        let mut later = |ms| pulse.look(traffic(2, 2), true, at(ms));
        assert_eq!(later(2400), Verdict::Alive);
        assert_eq!(later(2500), Verdict::Doubtful);
    }

    #[test]
    fn a_flush_that_only_the_connection_tells_of_counts_where_there_are_others() {
        let doubted = |mut pulse: Pulse| {
            pulse.begin(Some(Traffic::default()), false, at(0));
            let flush = Traffic {
                acked: 28,
                ..traffic(1, 0)
            };
            let looks = [0, 1000, 2000, 20_000];
            looks.map(|ms| pulse.look(flush, false, at(ms)) != Verdict::Alive)
        };
        assert_eq!(doubted(with_others()), [false, false, true, true]);
        assert_eq!(doubted(alone()), [false; 4]);
    }

    #[test]
    fn a_look_is_taken_when_the_doubt_is_due_and_others_are_asked_often_then() {
        let mut pulse = with_others();
        pulse.begin(None, false, at(0));
        assert_eq!(waits(&mut pulse, 100), (2000, 10_000));
        pulse.begin(None, false, at(50_000));
        let verdict = |pulse: &mut Pulse, ms| pulse.look(traffic(1, 1), true, at(ms));
        verdict(&mut pulse, 50_000);
        assert_eq!(verdict(&mut pulse, 52_000), Verdict::Doubtful);
        assert_eq!(pulse.deadline(), at(52_250));
    }

    #[test]
    fn with_nobody_to_ask_there_is_no_doubt_and_no_look_more_often() {
        let mut pulse = alone();
        pulse.begin(None, false, at(0));
        assert_eq!(waits(&mut pulse, 0), (10_000, 10_000));
        pulse.begin(None, false, at(20_000));
        pulse.look(traffic(1, 1), false, at(20_000));
        assert_eq!(pulse.deadline(), at(22_500));
    }

    #[test]
    fn patience_grows_with_a_slow_server_and_is_bounded() {
        let mut pulse = alone();
        let waits: Vec<u64> = (0..6).map(|n| silence(&mut pulse, n * 1000)).collect();
        assert_eq!(waits, [11, 21, 41, 81, 81, 81]);
        pulse.forgive();
        assert_eq!(silence(&mut pulse, 9000), 11);
    }

    #[test]
    fn servers_that_fall_silent_in_turn_are_left_ever_more_seldom() {
        let mut pulse = with_others();
        let doubted: Vec<u64> = (0..7)
            .map(|n| {
                let from = n * 1_000_000;
                pulse.begin(None, true, at(from));
                pulse.look(traffic(1, 1), false, at(from));
                let (doubted, _) = waits(&mut pulse, from);
                pulse.mistrust();
                doubted
            })
            .collect();
        assert_eq!(doubted, [2000, 4000, 8000, 16_000, 32_000, 64_000, 80_000]);
    }

    #[test]
    fn one_that_took_over_and_answers_is_trusted_as_the_first_was() {
        let mut pulse = with_others();
        pulse.mistrust();
        pulse.begin(None, true, at(0));
        pulse.look(traffic(1, 1), true, at(0));
        pulse.look(traffic(2, 2), true, at(100));
        pulse.begin(None, false, at(1000));
        assert_eq!(waits(&mut pulse, 1000).0, 2000);
    }
}
