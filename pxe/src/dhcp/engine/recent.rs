//! What is remembered of machines for a minute. Bounded, whatever a flood brings.

use std::collections::HashMap;

use crate::dhcp::lease::UnixTime;
use crate::machine::Mac;

/// How long, in seconds.
pub(super) const SPAN: u64 = 60;
/// Of how many machines.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Recent<V> {
    all: HashMap<Mac, (UnixTime, V)>,
    /// When it was last looked through: for every packet of a flood would be too often.
    swept: UnixTime,
}

impl<V> Default for Recent<V> {
    fn default() -> Self {
        Self {
            all: HashMap::new(),
            swept: UnixTime::default(),
        }
    }
}

impl<V> Recent<V> {
    /// Remembers this of a machine, in place of what was; not if there is no room.
    pub fn note(&mut self, mac: Mac, value: V, now: UnixTime) {
        let known = self.all.contains_key(&mac);
        if self.all.len() >= MOST && !known && self.swept != now {
            self.swept = now;
            self.all.retain(|_, (until, _)| now <= *until);
        }
        if self.all.len() < MOST || known {
            self.all.insert(mac, (now.after(SPAN), value));
        }
    }

    /// What was noted within the last minute.
    pub fn of(&self, mac: Mac, now: UnixTime) -> Option<&V> {
        let (until, value) = self.all.get(&mac)?;
        (now <= *until).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_and_no_more_than_there_is_room_for() {
        let mac = |n: u32| {
            let [a, b, c, d] = n.to_be_bytes();
            Mac([2, 0, a, b, c, d])
        };
        let (mut recent, start) = (Recent::default(), UnixTime(100));
        for n in 0..10_000 {
            recent.note(mac(n), n, start);
        }
        assert_eq!(recent.all.len(), MOST);
        recent.note(mac(7), 0, start.after(1));
        let later = start.after(SPAN + 1);
        assert_eq!(recent.of(mac(7), later), Some(&0));
        assert_eq!(recent.of(mac(8), later), None);
        recent.note(mac(20_000), 1, later);
        assert_eq!(recent.all.len(), 2);
    }
}
