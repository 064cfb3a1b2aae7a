use super::*;
use crate::tftp::packet::{FromClient, decode};
use proptest::prelude::*;
use std::collections::VecDeque;

const GIVE_UP: Duration = Duration::from_secs(30);

fn terms(block_size: u16, window: u16) -> Terms {
    Terms {
        block_size,
        window,
        timeout: LONGEST_TIMEOUT,
        size_asked: false,
        option_ack: Some(vec![]),
    }
}

fn bare() -> Terms {
    Terms {
        option_ack: None,
        ..terms(512, 1)
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn only_what_was_asked_is_granted_and_within_bounds() {
    let request = |bytes: &'static [u8]| match decode(bytes) {
        Ok(FromClient::Read(request)) => request,
        other => panic!("{other:?}"),
    };
    let plain = Terms::agree(&request(b"\0\x01x\0octet\0"), 9, 1500);
    assert_eq!(
        (plain.block_size, plain.window, plain.option_ack),
        (512, 1, None)
    );
    let large = Terms::agree(
        &request(b"\0\x01x\0octet\0blksize\x0065464\0windowsize\x00999\0tsize\x000\0"),
        9,
        1500,
    );
    assert_eq!((large.block_size, large.window), (1468, 64));
    assert_eq!(
        large.option_ack.as_deref(),
        Some(&b"\0\x06blksize\x001468\0windowsize\x0064\0tsize\x009\0"[..])
    );
    let small = Terms::agree(
        &request(b"\0\x01x\0octet\0timeout\x002\0blksize\x008\0"),
        9,
        1500,
    );
    assert_eq!(
        (small.block_size, small.timeout),
        (8, Duration::from_secs(2))
    );
    assert_eq!(
        small.option_ack.as_deref(),
        Some(&b"\0\x06blksize\x008\0timeout\x002\0"[..])
    );
}

#[test]
fn lock_step_ignores_duplicate_early_and_late_acks() {
    let now = Instant::now();
    let (mut transfer, step) = Transfer::start(bare(), 1024, GIVE_UP, now);
    assert_eq!(step, Step::Send { first: 1, count: 1 });
    for (ack, expected) in [
        (2, Step::Wait),
        (0, Step::Wait),
        (1, Step::Send { first: 2, count: 1 }),
        (1, Step::Wait),
        (0, Step::Wait),
        (2, Step::Send { first: 3, count: 1 }),
        (3, Step::End(Outcome::Complete)),
    ] {
        assert_eq!(transfer.on_ack(ack, now + ms(5)), expected, "ACK {ack}");
    }
    assert_eq!(transfer.done(), 1024);
}

#[test]
fn a_lost_block_in_a_window_is_sent_again_at_once() {
    let now = Instant::now();
    let (mut transfer, _) = Transfer::start(terms(100, 8), 100 * 100, GIVE_UP, now);
    assert_eq!(
        transfer.on_ack(0, now + ms(10)),
        Step::Send { first: 1, count: 8 }
    );
    // Block 4 was lost: the client says 3, and again for each block behind the gap.
    assert_eq!(
        transfer.on_ack(3, now + ms(20)),
        Step::Send { first: 4, count: 8 }
    );
    assert_eq!(transfer.on_ack(3, now + ms(21)), Step::Wait);
    assert_eq!(transfer.on_ack(3, now + ms(22)), Step::Wait);
    assert_eq!(
        transfer.on_ack(11, now + ms(30)),
        Step::Send {
            first: 12,
            count: 8
        }
    );
    // Now the first one of the window was lost.
    assert_eq!(transfer.on_ack(11, now + ms(31)), Step::Wait);
    assert_eq!(
        transfer.on_ack(11, now + ms(40)),
        Step::Send {
            first: 12,
            count: 8
        }
    );
}

#[test]
fn silence_is_answered_ever_more_slowly_and_then_not_at_all() {
    let mut now = Instant::now();
    let (mut transfer, _) = Transfer::start(bare(), 10, GIVE_UP, now);
    let (start, mut sends) = (now, 0);
    let ended = loop {
        now = transfer.deadline();
        match transfer.on_timeout(now) {
            Step::Send { first: 1, count: 1 } => sends += 1,
            step => break step,
        }
    };
    assert_eq!(ended, Step::End(Outcome::TimedOut));
    assert_eq!(now - start, GIVE_UP);
    assert!((6..12).contains(&sends), "{sends}");
}

#[test]
fn where_others_wait_only_a_client_that_answered_keeps_its_place() {
    let now = Instant::now();
    for answers in [false, true] {
        let (mut transfer, _) = Transfer::start(bare(), 1024, GIVE_UP, now);
        if answers {
            transfer.on_ack(1, now);
        }
        transfer.hurry();
        let at = now + HASTE;
        let ended = transfer.on_timeout(at) == Step::End(Outcome::TimedOut);
        assert_eq!(ended, !answers);
    }
}

#[test]
fn a_size_probe_is_told_from_an_abort() {
    let now = Instant::now();
    let asked = Terms {
        size_asked: true,
        ..terms(512, 1)
    };
    let (mut probe, step) = Transfer::start(asked.clone(), 10, GIVE_UP, now);
    assert_eq!(step, Step::SendOptions);
    assert_eq!(probe.on_error(b"bye"), Step::End(Outcome::SizeProbe));
    let (mut aborted, _) = Transfer::start(asked, 10, GIVE_UP, now);
    aborted.on_ack(0, now);
    assert_eq!(
        aborted.on_error(b"bye"),
        Step::End(Outcome::Aborted("bye".into()))
    );
}

/// A client as RFC 7440 wants it.
struct Client {
    window: u64,
    received: u64,
    pending: u64,
    complained: bool,
}

impl Client {
    fn on_block(&mut self, block: u64, last: bool) -> Option<u16> {
        if block == self.received + 1 {
            self.received = block;
            self.pending += 1;
            self.complained = false;
            let due = self.pending == self.window || last;
            return due.then(|| self.ack());
        }
        (!std::mem::replace(&mut self.complained, true)).then(|| self.ack())
    }

    fn ack(&mut self) -> u16 {
        self.pending = 0;
        self.received as u16
    }
}

/// Runs a transfer over a line that loses and doubles packets as `fate` says; counts the blocks sent.
fn over_a_bad_line(size: u64, block_size: u16, window: u16, fate: &[u8]) -> (u64, u64, Outcome) {
    let mut now = Instant::now();
    let (mut transfer, mut step) = Transfer::start(terms(block_size, window), size, GIVE_UP, now);
    let blocks = transfer.blocks;
    let mut client = Client {
        window: window.into(),
        received: 0,
        pending: 0,
        complained: false,
    };
    let mut acks: VecDeque<u16> = VecDeque::new();
    let (mut sent, mut fate) = (0, fate.iter().copied().chain(std::iter::repeat(9)));
    loop {
        now += ms(1);
        match step {
            Step::End(outcome) => return (client.received, sent, outcome),
            Step::SendOptions if fate.next() != Some(0) => acks.push_back(0),
            Step::Send { first, count } => {
                for block in first..first + count {
                    sent += 1;
                    let copies = fate
                        .next()
                        .map_or(1, |f| if f == 1 { 2 } else { u8::from(f != 0) });
                    for _ in 0..copies {
                        acks.extend(
                            client
                                .on_block(block, block == blocks)
                                .filter(|_| fate.next() != Some(0)),
                        );
                    }
                }
            }
            Step::SendOptions | Step::Wait => {}
        }
        step = match acks.pop_front() {
            Some(ack) => transfer.on_ack(ack, now),
            None => {
                now = now.max(transfer.deadline());
                // A real client repeats itself too.
                acks.extend((client.received > 0).then_some(client.received as u16));
                transfer.on_timeout(now)
            }
        };
    }
}

#[test]
fn block_numbers_roll_over() {
    for window in [1, 16, 64] {
        let (received, sent, outcome) = over_a_bad_line(8 * 200_000, 8, window, &[]);
        assert_eq!((received, outcome), (200_001, Outcome::Complete));
        assert_eq!(sent, 200_001);
    }
}

proptest! {
    /// Whatever the line does for a while, the file arrives, and the line is not flooded.
    #[test]
    fn every_file_arrives(size in 0u64..40_000, window in 1u16..=64, fate in proptest::collection::vec(0u8..8, 0..400)) {
        let (received, sent, outcome) = over_a_bad_line(size, 512, window, &fate);
        prop_assert_eq!(outcome, Outcome::Complete);
        let blocks = size / 512 + 1;
        prop_assert_eq!(received, blocks);
        let mishaps = fate.iter().filter(|f| **f < 2).count() as u64;
        prop_assert!(sent <= blocks + (mishaps + 2) * u64::from(window) * 2, "{} blocks sent for {}", sent, blocks);
    }

    /// Any ACKs at all, in any order: no panic, no block out of range.
    #[test]
    fn any_acks(size in 0u64..100_000, window in 1u16..=64, acks in proptest::collection::vec((any::<u16>(), 0u64..3000), 0..200)) {
        let mut now = Instant::now();
        let (mut transfer, _) = Transfer::start(terms(64, window), size, GIVE_UP, now);
        for (ack, wait) in acks {
            now += ms(wait);
            for step in [transfer.on_ack(ack % 256, now), transfer.on_timeout(now)] {
                if let Step::Send { first, count } = step {
                    prop_assert!(first >= 1 && count >= 1 && first + count - 1 <= transfer.blocks);
                }
                if matches!(step, Step::End(_)) { return Ok(()); }
            }
        }
    }
}
