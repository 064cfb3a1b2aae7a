//! Is the server still answering? The kernel is told never to judge that by itself: it would end a connection over one
//! slow request, and the request, sent again with the same patience, would end the next one.
//!
//! Instead the connection's own counters are looked at every so often: requests that go out while nothing at all comes
//! in, for long enough, mean a server that is frozen or gone.

use std::time::Duration;

use crate::link::Now;

/// Patience grows up to this when a server proves alive but slow, again and again.
const MAX_PATIENCE: Duration = Duration::from_secs(80);

/// What a connection has carried so far. Counters may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Segments with data that were sent.
    pub sent: u32,
    /// Bytes that were received.
    pub received: u64,
}

/// Watches one connection.
#[derive(Debug)]
pub struct Pulse {
    base: Duration,
    patience: Duration,
    last: Traffic,
    waiting_since: Option<Now>,
    next: Now,
}

impl Pulse {
    /// A watch with this much patience.
    pub fn new(patience: Duration, now: Now) -> Self {
        Self {
            base: patience,
            patience,
            last: Traffic::default(),
            waiting_since: None,
            next: now,
        }
    }

    /// A new connection begins.
    pub fn begin(&mut self, now: Now) {
        (self.last, self.waiting_since, self.next) = (Traffic::default(), None, now);
    }

    /// When to look.
    pub fn deadline(&self) -> Now {
        self.next
    }

    /// Takes a look; `false`: the server has stopped answering.
    pub fn look(&mut self, traffic: Traffic, now: Now) -> bool {
        self.next = now.after(self.base / 4);
        if traffic.received != self.last.received {
            self.waiting_since = None;
        } else if traffic.sent != self.last.sent {
            self.waiting_since.get_or_insert(now);
        }
        self.last = traffic;
        let alive = self
            .waiting_since
            .is_none_or(|since| now.since(since) < self.patience);
        if !alive {
            self.patience = (self.patience * 2).min(MAX_PATIENCE);
        }
        alive
    }

    /// The connection ended for another reason: the server was not merely slow.
    pub fn forgive(&mut self) {
        self.patience = self.base;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn at(s: u64) -> Now {
        Now(Duration::from_secs(s))
    }

    /// How long a server that answers nothing is believed in, if looked at every second.
    fn silence(pulse: &mut Pulse, from: u64) -> u64 {
        pulse.begin(at(from));
        pulse.look(
            Traffic {
                sent: 1,
                received: 1,
            },
            at(from),
        );
        let silent = Traffic {
            sent: 2,
            received: 1,
        };
        (from + 1..).find(|&s| !pulse.look(silent, at(s))).unwrap() - from
    }

    #[test]
    fn silence_after_a_request_ends_it_but_an_idle_disk_does_not() {
        let mut pulse = Pulse::new(PATIENCE, at(0));
        pulse.look(
            Traffic {
                sent: 1,
                received: 1,
            },
            at(0),
        );
        assert!(
            (1..1000).all(|s| pulse.look(
                Traffic {
                    sent: 1,
                    received: 1
                },
                at(s)
            )),
            "idle"
        );
        assert_eq!(silence(&mut pulse, 1000), 11);
    }

    #[test]
    fn any_answer_begins_the_wait_anew() {
        let mut pulse = Pulse::new(PATIENCE, at(0));
        for s in 0..100 {
            let traffic = Traffic {
                sent: s,
                received: u64::from(s / 9),
            };
            assert!(pulse.look(traffic, at(u64::from(s))), "slow, not dead");
        }
    }

    #[test]
    fn patience_grows_with_a_slow_server_and_is_bounded() {
        let mut pulse = Pulse::new(PATIENCE, at(0));
        let waits: Vec<u64> = (0..6).map(|n| silence(&mut pulse, n * 1000)).collect();
        assert_eq!(waits, [11, 21, 41, 81, 81, 81]);
        pulse.forgive();
        assert_eq!(silence(&mut pulse, 9000), 11);
    }
}
