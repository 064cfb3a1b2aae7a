//! Connections that have not shown yet who they are: few of them, and a newcomer takes the place of the oldest.
//!
//! So whoever opens connections and says nothing keeps nobody out: who has the secret is through in a moment. Only a flood
//! from many addresses, of hundreds of connections within one handshake, does; a connection that stands does not mind it.

use std::{collections::VecDeque, net::IpAddr};

/// Strangers at a time.
const MOST: usize = 64;
/// Of them from one address, or one network of IPv6.
const FROM_ONE: usize = 8;

/// The strangers, each with a handle to send it away by.
pub struct Strangers<H> {
    /// Oldest first.
    here: VecDeque<Stranger<H>>,
    last: u64,
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
        }
    }
}

impl<H> Strangers<H> {
    /// Another one is here. Gives its number, and who has to go for it.
    pub fn enter(&mut self, from: IpAddr, handle: H) -> (u64, Option<H>) {
        let origin = origin(from);
        let mut same = self.here.iter().enumerate();
        let oldest = same.find(|(_, one)| one.origin == origin).map(|(at, _)| at);
        let same = self.here.iter().filter(|one| one.origin == origin).count();
        let gone = match (same >= FROM_ONE, self.here.len() >= MOST) {
            (true, _) => oldest.and_then(|at| self.here.remove(at)),
            (false, true) => self.here.pop_front(),
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

    /// It has ended, or shown who it is. Whether it was still here.
    pub fn leave(&mut self, number: u64) -> bool {
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
        assert!(!strangers.leave(numbers[0]), "it had to go");
        assert!(strangers.leave(numbers[1]) && !strangers.leave(numbers[1]));
        assert_eq!(strangers.enter(v4(201), 201).1, None);
        assert_eq!(strangers.enter(v4(202), 202).1, Some(2));
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
