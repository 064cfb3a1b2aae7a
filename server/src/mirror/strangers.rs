//! Connections that have not shown yet who they are: few of them, and a newcomer takes the place of the oldest.
//!
//! So whoever opens connections and says nothing keeps nobody out: who has the secret is through in a moment. A flood from
//! many addresses, of hundreds of connections within one handshake, could; so an address from which somebody has shown who
//! he is, or from which the other server has to come, gives way only to its own. A connection that stands does not mind any of it.

use std::{collections::VecDeque, net::IpAddr};

/// Strangers at a time.
const MOST: usize = 64;
/// Of them from one address, or one network of IPv6.
const FROM_ONE: usize = 8;
/// Origins that are preferred: two servers, each with an address or two.
const KNOWN: usize = 4;

/// The strangers, each with a handle to send it away by.
pub struct Strangers<H> {
    /// Oldest first.
    here: VecDeque<Stranger<H>>,
    last: u64,
    /// Preferred, the last to have shown who it is at the end.
    known: VecDeque<u128>,
}

struct Stranger<H> {
    number: u64,
    origin: u128,
    handle: H,
}

impl<H> Default for Strangers<H> {
    fn default() -> Self {
        Self {
            here: VecDeque::new(),
            last: 0,
            known: VecDeque::new(),
        }
    }
}

impl<H> Strangers<H> {
    /// None are here; those from `address` are preferred.
    pub fn preferring(address: IpAddr) -> Self {
        Self {
            known: [origin(address)].into(),
            ..Self::default()
        }
    }

    /// Another one is here. Gives its number, and who has to go for it.
    pub fn enter(&mut self, from: IpAddr, handle: H) -> (u64, Option<H>) {
        let origin = origin(from);
        let mut same = self.here.iter().enumerate();
        let oldest = same.find(|(_, one)| one.origin == origin).map(|(at, _)| at);
        let same = self.here.iter().filter(|one| one.origin == origin).count();
        let gone = match (same >= FROM_ONE, self.here.len() >= MOST) {
            (true, _) => oldest.and_then(|at| self.here.remove(at)),
            (false, true) => self.here.remove(self.least()),
            (false, false) => None,
        };
        self.last += 1;
        let number = self.last;
        self.here.push_back(Stranger {
            number,
            origin,
            handle,
        });
        (number, gone.map(|gone| gone.handle))
    }

    /// Who goes first: the oldest of those from anywhere.
    fn least(&self) -> usize {
        let mut here = self.here.iter();
        let anybody = here.position(|one| !self.known.contains(&one.origin));
        anybody.unwrap_or(0)
    }

    /// It has shown who it is: those that come from there are preferred from now on.
    fn prefer(&mut self, number: u64) {
        let Some(origin) = self
            .here
            .iter()
            .find(|one| one.number == number)
            .map(|one| one.origin)
        else {
            return;
        };
        self.known.retain(|known| *known != origin);
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(origin);
    }

    /// It has ended, or has `shown` who it is. Whether it was still here.
    pub fn leave(&mut self, number: u64, shown: bool) -> bool {
        if shown {
            self.prefer(number);
        }
        let before = self.here.len();
        self.here.retain(|one| one.number != number);
        self.here.len() < before
    }
}

/// What one host can have any number of addresses in.
fn origin(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn one_address_has_a_few_places_and_loses_its_own_oldest() {
        let mut strangers = Strangers::default();
        strangers.enter(v4(9), 900);
        for n in 0..FROM_ONE {
            assert_eq!(strangers.enter(v4(1), n).1, None);
        }
        assert_eq!(strangers.enter(v4(1), 100).1, Some(0));
        assert_eq!(strangers.enter(v4(2), 200).1, None);
        assert_eq!(strangers.enter(v4(1), 101).1, Some(1));
    }

    #[test]
    fn of_many_addresses_the_oldest_gives_way() {
        let mut strangers = Strangers::default();
        let all = 0..MOST as u8;
        let numbers: Vec<u64> = all.map(|n| strangers.enter(v4(n), n).0).collect();
        assert_eq!(strangers.enter(v4(200), 200).1, Some(0));
        assert!(!strangers.leave(numbers[0], false), "it had to go");
        assert!(strangers.leave(numbers[1], false) && !strangers.leave(numbers[1], false));
        assert_eq!(strangers.enter(v4(201), 201).1, None);
        assert_eq!(strangers.enter(v4(202), 202).1, Some(2));
    }

    #[test]
    fn a_flood_from_everywhere_sends_nobody_away_who_was_known() {
        let flood = |strangers: &mut Strangers<u32>, more: u32| {
            let all = (0..more).map(|n| IpAddr::from([10, 9, (n >> 8) as u8, n as u8]));
            all.filter_map(|from| strangers.enter(from, 0).1)
                .collect::<Vec<_>>()
        };
        let (peer, unseen) = (v4(1), v4(2));
        let mut strangers = Strangers::preferring(peer);
        strangers.enter(peer, 1);
        let (number, _) = strangers.enter(unseen, 2);
        assert!(flood(&mut strangers, 200).contains(&2), "it may be anybody");
        strangers.leave(number, true);
        let (number, _) = strangers.enter(unseen, 3);
        strangers.leave(number, true);
        strangers.enter(unseen, 4);
        assert!(flood(&mut strangers, 1000).iter().all(|gone| *gone == 0));
        for n in 10..10 + FROM_ONE as u32 {
            strangers.enter(unseen, n);
        }
        assert!(flood(&mut strangers, 1000).iter().all(|gone| *gone == 0));
        let (_, gone) = strangers.enter(unseen, 99);
        assert_eq!(gone, Some(10), "its own, no more than from elsewhere");
    }

    #[test]
    fn few_are_known_and_the_last_ones() {
        let mut strangers = Strangers::<u8>::default();
        for n in 0..10 {
            let (number, _) = strangers.enter(v4(n), n);
            strangers.leave(number, true);
        }
        assert_eq!(strangers.known, [6, 7, 8, 9].map(|n| origin(v4(n))));
    }

    #[test]
    fn a_network_of_ipv6_is_one_origin() {
        let mut strangers = Strangers::default();
        let address = |n: u16| IpAddr::from([0xfd00, 0, 0, 1, 0, 0, 0, n]);
        for n in 0..FROM_ONE as u16 {
            strangers.enter(address(n), n);
        }
        assert_eq!(strangers.enter(address(99), 99).1, Some(0));
        let mapped = IpAddr::from([0, 0, 0, 0, 0, 0xffff, 0x0a00, 1]);
        assert_eq!(origin(mapped), origin(v4(1)));
    }
}
