//! One transfer, free of sockets, clocks and files: ACKs and the time go in, which blocks to send comes out.
//!
//! Blocks are numbered from 1 without rolling over; the wire's 16 bits are matched against what is outstanding, which
//! a window of at most 64 makes unambiguous. The rules that keep it calm:
//! - an ACK that acknowledges nothing outstanding is ignored (no sorcerer's apprentice);
//! - with a window, an ACK short of its end says that a block was lost (RFC 7440 §4): the window starts again behind
//!   it at once. What that sends twice makes the client say so again; such echoes only slide the window, so that late
//!   and doubled packets cannot multiply;
//! - silence is answered by the same blocks after a time that follows the measured round trip and doubles.

use std::time::{Duration, Instant};

use super::packet::{self, DEFAULT_BLOCK, ReadRequest};
use crate::policy::Outcome;

/// The largest window granted: what a gigabit LAN needs, and no flood for a slow one.
const MAX_WINDOW: u16 = 64;
/// IP, UDP and TFTP headers.
const OVERHEAD: u32 = 32;
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(150);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a client that never answered is kept where others wait: long enough to have sent again.
const HASTE: Duration = Duration::from_secs(3);

/// What was agreed with the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Data bytes in a block.
    pub block_size: u16,
    /// Blocks before an ACK.
    pub window: u16,
    /// The longest wait before sending again.
    pub timeout: Duration,
    /// Whether the client asked for the size.
    pub size_asked: bool,
    /// The OACK, if the client asked for any option we know.
    pub option_ack: Option<Vec<u8>>,
}

impl Terms {
    /// Grants what was asked, within what the interface carries; answers no option that was not asked for.
    pub fn agree(request: &ReadRequest<'_>, size: u64, mtu: u32) -> Self {
        let carries = mtu
            .saturating_sub(OVERHEAD)
            .clamp(DEFAULT_BLOCK.into(), 65_464) as u16;
        let block_size = request.block_size.map(|b| b.min(carries));
        let window = request.window.map(|w| w.min(MAX_WINDOW));
        let options = [
            ("blksize", block_size.map(u64::from)),
            ("windowsize", window.map(u64::from)),
            ("timeout", request.timeout.map(u64::from)),
            ("tsize", request.size.then_some(size)),
        ];
        let granted: Vec<_> = options
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        Self {
            block_size: block_size.unwrap_or(DEFAULT_BLOCK),
            window: window.unwrap_or(1),
            timeout: request
                .timeout
                .map_or(LONGEST_TIMEOUT, |t| Duration::from_secs(t.into())),
            size_asked: request.size,
            option_ack: (!granted.is_empty()).then(|| packet::option_ack(&granted)),
        }
    }
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing; wait for a packet or the deadline.
    Wait,
    /// Send the OACK.
    SendOptions,
    /// Send `count` blocks from `first` on.
    Send {
        /// The first block's number.
        first: u64,
        /// How many.
        count: u64,
    },
    /// It is over.
    End(Outcome),
}

/// The state of one transfer.
#[derive(Debug, Clone)]
pub struct Transfer {
    terms: Terms,
    size: u64,
    /// How many blocks there are; the last one is shorter than the others, maybe empty.
    blocks: u64,
    /// The OACK is out and not yet acknowledged.
    opening: bool,
    acked: u64,
    sent: u64,
    round_trip: Option<Duration>,
    /// When the current flight left, and whether any of it was sent before (then it measures nothing).
    flight: Instant,
    repeated: bool,
    /// When the window last started again, and the last block that was out before: up to there all went twice.
    rewound: Option<(Instant, u64)>,
    retries: u32,
    heard: Instant,
    /// Whether the client ever answered: its address may be invented until then.
    answered: bool,
    give_up: Duration,
}

impl Transfer {
    /// A transfer of `size` bytes, and its first step.
    pub fn start(terms: Terms, size: u64, give_up: Duration, now: Instant) -> (Self, Step) {
        let opening = terms.option_ack.is_some();
        let blocks = size / u64::from(terms.block_size) + 1;
        let mut transfer = Self {
            terms,
            size,
            blocks,
            opening,
            acked: 0,
            sent: 0,
            round_trip: None,
            flight: now,
            repeated: false,
            rewound: None,
            retries: 0,
            heard: now,
            answered: false,
            give_up,
        };
        let step = if opening {
            Step::SendOptions
        } else {
            transfer.resend(now)
        };
        (transfer, step)
    }

    /// The terms it runs under.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The block that comes after all that was sent.
    pub fn next(&self) -> u64 {
        self.sent + 1
    }

    /// Bytes that the client has acknowledged.
    pub fn done(&self) -> u64 {
        self.acked
            .saturating_mul(self.terms.block_size.into())
            .min(self.size)
    }

    /// When [`Transfer::on_timeout`] is due.
    pub fn deadline(&self) -> Instant {
        let base = self
            .round_trip
            .map_or(FIRST_TIMEOUT, |rtt| (rtt * 4).max(SHORTEST_TIMEOUT));
        let wait = (base * (1 << self.retries.min(5))).min(self.terms.timeout);
        (self.flight + wait).min(self.heard + self.give_up)
    }

    /// Others wait for its place: a client that never answered does not keep it for long.
    pub fn hurry(&mut self) {
        if !self.answered {
            self.give_up = self.give_up.min(HASTE);
        }
    }

    /// An ACK came.
    pub fn on_ack(&mut self, block: u16, now: Instant) -> Step {
        self.answered = true;
        if self.opening {
            if block != 0 {
                return Step::Wait;
            }
            self.opening = false;
            self.progress(now);
            return self.resend(now);
        }
        let fresh = u64::from(block.wrapping_sub(self.acked as u16));
        let outstanding = self.sent - self.acked;
        match fresh {
            0 => self.on_duplicate(now),
            n if n > outstanding => Step::Wait,
            n => {
                self.acked += n;
                self.advance(n == outstanding, now)
            }
        }
    }

    /// The client gave up.
    pub fn on_error(&mut self, words: &[u8]) -> Step {
        let probe = self.terms.size_asked && self.acked == 0 && self.opening;
        let words = String::from_utf8_lossy(&words[..words.len().min(128)]).into_owned();
        Step::End(if probe {
            Outcome::SizeProbe
        } else {
            Outcome::Aborted(words)
        })
    }

    /// The deadline passed.
    pub fn on_timeout(&mut self, now: Instant) -> Step {
        if now < self.deadline() {
            return Step::Wait;
        }
        if now.saturating_duration_since(self.heard) >= self.give_up {
            return Step::End(Outcome::TimedOut);
        }
        self.retries += 1;
        self.repeated = true;
        if self.opening {
            self.flight = now;
            return Step::SendOptions;
        }
        self.resend(now)
    }

    fn advance(&mut self, whole: bool, now: Instant) -> Step {
        if self.acked == self.blocks {
            return Step::End(Outcome::Complete);
        }
        if whole {
            self.progress(now);
            return self.resend(now);
        }
        self.heard = now;
        self.retries = 0;
        if self.is_echo(now) {
            self.slide(now)
        } else {
            self.rewind(now)
        }
    }

    /// With a window, the same ACK again says that the first block of the flight was lost, unless it comes too soon to
    /// be an answer to that flight.
    fn on_duplicate(&mut self, now: Instant) -> Step {
        if self.terms.window == 1 || self.sent == self.acked {
            return Step::Wait;
        }
        self.heard = now;
        let early = now.saturating_duration_since(self.flight) < self.round_trip() / 2;
        if early || self.is_echo(now) {
            Step::Wait
        } else {
            self.rewind(now)
        }
    }

    fn round_trip(&self) -> Duration {
        self.round_trip.unwrap_or(SHORTEST_TIMEOUT)
    }

    /// Whether an ACK that speaks of a loss only answers blocks that the last rewind sent twice: it comes soon after,
    /// and sooner still if it is about blocks that went once. Rewinding for it would double them for ever.
    fn is_echo(&self, now: Instant) -> bool {
        self.rewound.is_some_and(|(at, last)| {
            let calm = if self.acked <= last { 8 } else { 3 };
            now.saturating_duration_since(at) < self.round_trip() * calm / 2
        })
    }

    fn rewind(&mut self, now: Instant) -> Step {
        self.rewound = Some((now, self.sent));
        self.repeated = true;
        self.resend(now)
    }

    /// Fills the window up behind what is under way.
    fn slide(&mut self, now: Instant) -> Step {
        let first = self.sent + 1;
        self.sent = self
            .sent
            .max(self.blocks.min(self.acked + u64::from(self.terms.window)));
        self.flight = now;
        self.repeated = true;
        match self.sent + 1 - first {
            0 => Step::Wait,
            count => Step::Send { first, count },
        }
    }

    fn progress(&mut self, now: Instant) {
        if !self.repeated {
            let sample = now.saturating_duration_since(self.flight);
            self.round_trip = Some(self.round_trip.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
        }
        self.repeated = false;
        self.retries = 0;
        self.heard = now;
    }

    /// Sends the window behind what is acknowledged.
    fn resend(&mut self, now: Instant) -> Step {
        let count = u64::from(self.terms.window).min(self.blocks - self.acked);
        self.flight = now;
        self.sent = self.acked + count;
        Step::Send {
            first: self.acked + 1,
            count,
        }
    }
}

#[cfg(test)]
mod tests;
