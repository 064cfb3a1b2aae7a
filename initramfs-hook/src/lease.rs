//! The DHCP lease of the address that the root disk hangs on: what is asked, what is answered, and when to ask again.
//!
//! The boot loader took the lease and is gone; the initramfs only took the address over. No network manager may touch
//! the interface, so none renews it, and a server that sees no renewal gives the address to somebody else. The agent,
//! which outlives everything, asks instead: a REQUEST in the renewing state of RFC 2131 §4.3.2 (`ciaddr` filled in), to
//! the server that answered last, or to all. It never takes another address and never gives this one up, whatever the
//! answer: a root disk hangs on it. This file holds bytes and times only; [`crate::renewal`] acts.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::link::Now;

/// The port of DHCP clients.
pub const CLIENT_PORT: u16 = 68;
/// The port of DHCP servers.
pub const SERVER_PORT: u16 = 67;
/// What a DHCP server must be able to send, and more than one with so few options does.
pub const LARGEST: usize = 1500;

/// The fixed part of a message (RFC 2131 §2), and the cookie behind it.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Relays and servers of the BOOTP age drop what is shorter.
const SHORTEST: usize = 300;

/// How long an answer is waited for; doubles with every silence, up to [`LONGEST_PAUSE`].
const ANSWER_PATIENCE: Duration = Duration::from_secs(4);
/// Longest pause between two attempts: a server that comes back is found before a lease of half an hour has run out.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How often a lease that never ends is asked for all the same.
const ENDLESS: Duration = Duration::from_secs(3600);
/// Over how long a room full of machines spreads its first requests, and how soon they begin.
const FIRST_SPREAD: Duration = Duration::from_secs(8);
const FIRST_PAUSE: Duration = Duration::from_secs(2);
/// Never more often than this, however short the lease.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);
/// After so many silences in a row all servers are asked, not only the one that answered last.
const LOYALTY: u32 = 2;

/// Whose lease it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// The interface's own address.
    pub mac: [u8; 6],
    /// The leased one.
    pub address: Ipv4Addr,
}

/// How a request names the machine. Servers file a lease under the client identifier if there was one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Option 61 as iPXE sends it: type of hardware and address.
    Identifier,
    /// By the hardware address alone.
    Hardware,
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The lease goes on.
    Extended {
        /// For this long from now; `None`: for ever.
        time: Option<Duration>,
        /// When to ask again, if the server has a wish.
        renew: Option<Duration>,
        /// Who says so.
        server: Ipv4Addr,
    },
    /// The address is not this machine's (any more).
    Denied,
}

/// One request, ready to be sent.
pub fn request(holder: &Holder, xid: u32, naming: Naming) -> Vec<u8> {
    let mut bytes = vec![0; FIXED];
    // BOOTREQUEST, Ethernet, six bytes of address.
    bytes[..3].copy_from_slice(&[1, 1, 6]);
    bytes[4..8].copy_from_slice(&xid.to_be_bytes());
    bytes[12..16].copy_from_slice(&holder.address.octets());
    bytes[28..34].copy_from_slice(&holder.mac);
    bytes.extend(COOKIE);
    bytes.extend([53, 1, 3]);
    if naming == Naming::Identifier {
        bytes.extend([61, 7, 1]);
        bytes.extend(holder.mac);
    }
    // Mask, router: servers expect a client to ask for something.
    bytes.extend([55, 2, 1, 3, 255]);
    bytes.resize(bytes.len().max(SHORTEST), 0);
    bytes
}

/// What `bytes` answers to the request `xid`; `None` if they are not about it.
pub fn parse(bytes: &[u8], holder: &Holder, xid: u32) -> Option<Answer> {
    let ours = bytes.first() == Some(&2)
        && bytes.get(4..8)? == xid.to_be_bytes()
        && bytes.get(28..34)? == holder.mac
        && bytes.get(FIXED..FIXED + 4)? == COOKIE;
    let options = ours.then(|| &bytes[FIXED + 4..])?;
    match option(options, 53)? {
        [6] => Some(Answer::Denied),
        [5] if bytes.get(16..20)? != holder.address.octets() => Some(Answer::Denied),
        [5] => Some(Answer::Extended {
            time: seconds(option(options, 51)?)?.filter(|time| *time != FOR_EVER),
            renew: option(options, 58).and_then(seconds).flatten(),
            server: Ipv4Addr::from(<[u8; 4]>::try_from(option(options, 54)?).ok()?),
        }),
        _ => None,
    }
}

/// A lease time of all ones (RFC 2131 §3.3).
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Four bytes as a number of seconds; the outer `None`: there are not four.
fn seconds(bytes: &[u8]) -> Option<Option<Duration>> {
    let number = u32::from_be_bytes(bytes.try_into().ok()?);
    Some(Some(Duration::from_secs(number.into())))
}

/// The first option with this code (RFC 2132 §2).
fn option(mut options: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [255, ..] | [] | [_] => return None,
            [code, length, ref rest @ ..] => {
                let (value, behind) = rest.split_at_checked(length.into())?;
                if code == wanted {
                    return Some(value);
                }
                options = behind;
            }
        }
    }
}

/// Something that the person at the machine should know. Each is said once, until the lease is extended again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worry {
    /// The lease has run out and nobody answers.
    RanOut,
    /// A server says that the address is not ours.
    Denied,
}

/// When to ask whom.
#[derive(Debug)]
pub struct Schedule {
    next: Now,
    /// Silences and refusals in a row.
    failures: u32,
    naming: Naming,
    server: Option<Ipv4Addr>,
    /// When the lease ends, once that is known; `None` in it: never.
    ends: Option<Option<Now>>,
    said: Option<Worry>,
}

impl Schedule {
    /// For a lease that somebody else took a moment ago. `seed` spreads a room's machines.
    pub fn new(seed: u64, now: Now) -> Self {
        let spread = Duration::from_millis(seed % FIRST_SPREAD.as_millis() as u64);
        Self {
            next: now.after(FIRST_PAUSE + spread),
            failures: 0,
            naming: Naming::Identifier,
            server: None,
            ends: None,
            said: None,
        }
    }

    /// When to ask.
    pub fn next(&self) -> Now {
        self.next
    }

    /// Whom to ask, and under which name.
    pub fn ask(&self) -> (Ipv4Addr, Naming) {
        let loyal = self.server.filter(|_| self.failures < LOYALTY);
        (loyal.unwrap_or(Ipv4Addr::BROADCAST), self.naming)
    }

    /// A request has been sent: until when to wait for its answer.
    pub fn patience(&self, now: Now) -> Now {
        now.after(ANSWER_PATIENCE)
    }

    /// The lease was extended.
    pub fn extended(
        &mut self,
        time: Option<Duration>,
        renew: Option<Duration>,
        server: Ipv4Addr,
        now: Now,
    ) {
        let half = time.map_or(ENDLESS, |time| time / 2);
        let pause = renew.filter(|renew| *renew < half).unwrap_or(half);
        self.next = now.after(pause.max(SHORTEST_PAUSE));
        self.ends = Some(time.map(|time| now.after(time)));
        (self.failures, self.server, self.said) = (0, Some(server), None);
    }

    /// A server said no, or nobody answered. What to tell the person at the machine, if it is news.
    pub fn failed(&mut self, denied: bool, now: Now) -> Option<Worry> {
        self.failures = self.failures.saturating_add(1);
        let unknown = self.ends.is_none();
        if unknown {
            // Perhaps the lease is filed under the other name.
            self.naming = match self.naming {
                Naming::Identifier => Naming::Hardware,
                Naming::Hardware => Naming::Identifier,
            };
        }
        let pause = ANSWER_PATIENCE * 2u32.saturating_pow(self.failures.min(16));
        self.next = now.after(pause.min(LONGEST_PAUSE).max(SHORTEST_PAUSE));
        let over = self.ends.flatten().is_some_and(|end| end <= now);
        // A first refusal may be about the name only.
        let refused = denied && self.failures > 1;
        let worry = match (refused, over) {
            (true, _) => Worry::Denied,
            (false, true) => Worry::RanOut,
            (false, false) => return None,
        };
        (self.said != Some(worry)).then(|| *self.said.insert(worry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOLDER: Holder = Holder {
        mac: [0x52, 0x54, 0, 0x12, 0, 1],
        address: Ipv4Addr::new(10, 12, 0, 100),
    };
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 1);

    fn at(s: u64) -> Now {
        Now(Duration::from_secs(s))
    }

    /// A server's answer, as RFC 2131 table 3 has it.
    fn answer(kind: u8, yiaddr: Ipv4Addr, more: &[u8]) -> Vec<u8> {
        let mut bytes = request(&HOLDER, 7, Naming::Hardware);
        bytes.truncate(FIXED + 4);
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&yiaddr.octets());
        bytes.extend([0, 53, 1, kind, 54, 4, 10, 12, 0, 1]);
        bytes.extend(more);
        bytes.push(255);
        bytes
    }

    #[test]
    fn asks_in_the_renewing_state() {
        let bytes = request(&HOLDER, 0x0102_0304, Naming::Identifier);
        assert_eq!(bytes.len(), SHORTEST);
        assert_eq!(bytes[..8], [1, 1, 6, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[12..16], [10, 12, 0, 100], "ciaddr");
        let options = &bytes[FIXED + 4..];
        assert_eq!(option(options, 53), Some(&[3][..]));
        assert_eq!(
            option(options, 61),
            Some(&[1, 0x52, 0x54, 0, 0x12, 0, 1][..])
        );
        // Forbidden in this state (RFC 2131 table 5).
        assert_eq!((option(options, 50), option(options, 54)), (None, None));
        let plain = request(&HOLDER, 1, Naming::Hardware);
        assert_eq!(option(&plain[FIXED + 4..], 61), None);
    }

    #[test]
    fn reads_answers_to_this_request_only() {
        let time = [51, 4, 0, 0, 2, 88];
        let extended = Answer::Extended {
            time: Some(Duration::from_secs(600)),
            renew: None,
            server: SERVER,
        };
        let good = answer(5, HOLDER.address, &time);
        assert_eq!(parse(&good, &HOLDER, 7), Some(extended));
        assert_eq!(parse(&good, &HOLDER, 8), None);
        let denied = Some(Answer::Denied);
        let other = answer(5, SERVER, &time);
        assert_eq!(parse(&other, &HOLDER, 7), denied, "another address");
        let nak = answer(6, Ipv4Addr::UNSPECIFIED, &[]);
        assert_eq!(parse(&nak, &HOLDER, 7), denied);
        let endless = answer(5, HOLDER.address, &[51, 4, 255, 255, 255, 255]);
        assert!(matches!(
            parse(&endless, &HOLDER, 7),
            Some(Answer::Extended { time: None, .. })
        ));
    }

    #[test]
    fn asks_at_half_time_then_ever_wider_and_everybody() {
        let mut schedule = Schedule::new(0, at(0));
        assert_eq!(schedule.next(), at(2));
        assert_eq!(schedule.ask().0, Ipv4Addr::BROADCAST);
        schedule.extended(Some(Duration::from_secs(600)), None, SERVER, at(2));
        assert_eq!((schedule.next(), schedule.ask().0), (at(302), SERVER));
        assert_eq!(schedule.failed(false, at(306)), None);
        assert_eq!((schedule.next(), schedule.ask().0), (at(316), SERVER));
        assert_eq!(schedule.failed(false, at(320)), None);
        assert_eq!(schedule.ask().0, Ipv4Addr::BROADCAST);
        assert_eq!(schedule.failed(false, at(603)), Some(Worry::RanOut));
        assert_eq!(schedule.failed(false, at(700)), None, "said once");
        assert_eq!(schedule.ask().1, Naming::Identifier, "it worked before");
        schedule.extended(Some(Duration::from_secs(600)), None, SERVER, at(800));
        assert_eq!(schedule.next(), at(1100));
    }

    #[test]
    fn an_unknown_lease_is_asked_for_by_both_names_before_anybody_worries() {
        let mut schedule = Schedule::new(0, at(0));
        assert_eq!(schedule.failed(true, at(2)), None);
        assert_eq!(schedule.ask().1, Naming::Hardware);
        assert_eq!(schedule.failed(true, at(20)), Some(Worry::Denied));
        for turn in 1..20 {
            schedule.failed(false, at(turn * 10_000));
        }
        assert_eq!(
            schedule.next(),
            at(190_000 + 300),
            "a server that comes back is found in time"
        );
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), options in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes, &HOLDER, 7);
            let _ = parse(&answer(5, HOLDER.address, &options), &HOLDER, 7);
        }

        #[test]
        fn never_asks_in_a_storm(times in proptest::collection::vec(0u32..=u32::MAX, 1..20)) {
            let mut schedule = Schedule::new(3, at(0));
            for time in times {
                let now = schedule.next();
                let time = Duration::from_secs(time.into());
                schedule.extended(Some(time), Some(time), SERVER, now);
                prop_assert!(schedule.next() >= now.after(SHORTEST_PAUSE));
            }
        }
    }
}
