//! What a connection has carried, and what follows from that.

/// The counters of a connection, as the kernel keeps them. They may wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Segments with data that were sent.
    pub sent: u32,
    /// Segments that the other end has not acknowledged.
    pub unacked: u32,
    /// Bytes that the other end has acknowledged.
    pub acked: u64,
    /// Bytes that were received.
    pub received: u64,
}

/// What every payload of the kernel's requests is a multiple of.
const SECTOR: u64 = 512;
/// NBD request and simple reply without their payload, 28 and 16 bytes, divided by four.
const REQUEST: u64 = 28 / 4;
const REPLY: u64 = 16 / 4;

impl Traffic {
    /// Without the bytes that TLS has added to what was sent and received.
    pub fn without(self, [sent, received]: [u64; 2]) -> Self {
        Self {
            acked: self.acked.wrapping_sub(sent),
            received: self.received.wrapping_sub(received),
            ..self
        }
    }

    /// Whether a request has no answer yet. `since`: the counters when the kernel was given the connection. Both are
    /// without what TLS adds.
    ///
    /// Bytes sent and received are 28 and 16 for each request, but for payloads. Modulo a sector those vanish, and what
    /// is left tells the requests without answer modulo 32. (More of them than that are no flushes, and the kernel's own
    /// count has all others.)
    pub fn is_unanswered(&self, since: &Self) -> bool {
        let sent = self.acked.wrapping_sub(since.acked);
        let received = self.received.wrapping_sub(since.received);
        let balance = sent
            .wrapping_mul(REPLY)
            .wrapping_sub(received.wrapping_mul(REQUEST));
        self.unacked > 0 || !balance.is_multiple_of(SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEGUN: Traffic = Traffic {
        sent: 4,
        unacked: 0,
        acked: 257,
        received: 400,
    };

    /// After these requests: sectors written, sectors read, whether answered.
    fn after(requests: &[(u64, u64, bool)]) -> Traffic {
        let carry = |mut traffic: Traffic, &(written, read, answered): &(u64, u64, bool)| {
            traffic.acked = traffic.acked.wrapping_add(28 + 512 * written);
            let reply = if answered { 16 + 512 * read } else { 0 };
            traffic.received = traffic.received.wrapping_add(reply);
            traffic
        };
        requests.iter().fold(BEGUN, carry)
    }

    #[test]
    fn a_lone_flush_is_seen_and_its_answer_too() {
        assert!(!after(&[]).is_unanswered(&BEGUN));
        assert!(after(&[(8, 0, true), (0, 0, false)]).is_unanswered(&BEGUN));
        assert!(!after(&[(8, 0, true), (0, 0, true)]).is_unanswered(&BEGUN));
    }

    #[test]
    fn what_did_not_arrive_has_no_answer() {
        let lost = Traffic {
            unacked: 1,
            ..BEGUN
        };
        assert!(lost.is_unanswered(&BEGUN));
    }

    #[test]
    fn what_tls_adds_is_left_out() {
        let flush = after(&[(8, 0, true), (0, 0, false)]);
        let sealed = Traffic {
            acked: flush.acked + 3 * 22,
            received: flush.received + 22,
            ..flush
        };
        assert_eq!(sealed.without([3 * 22, 22]), flush);
    }

    proptest! {
        #[test]
        fn requests_without_answer_are_told_apart_from_answered_ones(
            answered in prop::collection::vec((0u64..256, 0u64..256), 0..300),
            open in prop::collection::vec((0u64..256, 0u64..256), 0..32),
            wrapped: bool,
        ) {
            let all = |done: bool, of: &[(u64, u64)]| -> Vec<_> {
                of.iter().map(|&(written, read)| (written, read, done)).collect()
            };
            let mut traffic = after(&[all(true, &answered), all(false, &open)].concat());
            let mut begun = BEGUN;
            if wrapped {
                for counters in [&mut traffic, &mut begun] {
                    counters.acked = counters.acked.wrapping_sub(1 << 20);
                    counters.received = counters.received.wrapping_sub(1 << 20);
                }
            }
            prop_assert_eq!(traffic.is_unanswered(&begun), !open.is_empty());
        }
    }
}
