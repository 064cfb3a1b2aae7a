//! Says a thing once: keeps a log readable while somebody floods.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How long one thing stays said.
const AGAIN: Duration = Duration::from_secs(600);
/// How many things are remembered; a flood of more says nothing further until the first ones are forgotten.
const REMEMBERED: usize = 1024;

/// What was said lately. Bounded, whatever a flood brings.
#[derive(Debug)]
pub struct Once<K> {
    said: HashMap<K, Instant>,
    swept: Option<Instant>,
}

impl<K> Default for Once<K> {
    fn default() -> Self {
        Self {
            said: HashMap::new(),
            swept: None,
        }
    }
}

impl<K: Hash + Eq> Once<K> {
    /// Whether `key` is to be said now.
    pub fn first(&mut self, key: K, now: Instant) -> bool {
        if self
            .said
            .get(&key)
            .is_some_and(|at| now.duration_since(*at) < AGAIN)
        {
            return false;
        }
        if self.said.len() >= REMEMBERED && !self.sweep(now) {
            return false;
        }
        self.said.insert(key, now);
        true
    }

    /// Forgets what is old, at most once a minute since it looks at everything; says whether there is room.
    fn sweep(&mut self, now: Instant) -> bool {
        let due = self
            .swept
            .is_none_or(|at| now.duration_since(at) >= AGAIN / 10);
        if due {
            self.swept = Some(now);
            self.said.retain(|_, at| now.duration_since(*at) < AGAIN);
        }
        self.said.len() < REMEMBERED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn once_per_key_and_bounded_under_a_flood() {
        let (mut once, start) = (Once::default(), Instant::now());
        assert!(once.first(0, start));
        assert!(!once.first(0, start + AGAIN / 2));
        assert!(once.first(0, start + AGAIN));
        for key in 1..100_000 {
            once.first(key, start + AGAIN);
        }
        assert_eq!(once.said.len(), REMEMBERED);
        assert!(!once.first(-1, start + AGAIN));
        assert!(once.first(-1, start + AGAIN * 3));
    }
}
