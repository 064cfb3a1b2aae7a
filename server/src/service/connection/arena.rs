//! Memory for payloads that outlive the receive buffer.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Length of a stretch. Bytes.
const STRETCH: usize = 256 << 10;
/// Full stretches that are kept to be filled again.
const MOST: usize = 4;

/// Stretches of memory that many payloads share. Each is filled again once nothing in it is used any more: to have the
/// allocator give a page back and take it again costs more than to copy what is put there.
#[derive(Default)]
pub(super) struct Arena {
    filling: Option<BytesMut>,
    /// In the order in which they were filled.
    full: VecDeque<BytesMut>,
}

impl Arena {
    /// Copies `payload`; one that is longer than a stretch gets memory of its own.
    pub(super) fn keep(&mut self, payload: &[u8]) -> Bytes {
        if payload.len() > STRETCH {
            return Bytes::copy_from_slice(payload);
        }
        let stretch = self.with_room(payload.len());
        stretch.extend_from_slice(payload);
        stretch.split().freeze()
    }

    fn with_room(&mut self, length: usize) -> &mut BytesMut {
        let fits = |stretch: &BytesMut| stretch.capacity() >= length;
        if !self.filling.as_ref().is_some_and(fits) {
            self.full.extend(self.filling.take());
        }
        if self.filling.is_none() && self.full.front_mut().is_some_and(|s| s.try_reclaim(length)) {
            self.filling = self.full.pop_front();
        }
        if self.full.len() > MOST {
            self.full.pop_front();
        }
        let new = || BytesMut::with_capacity(STRETCH);
        self.filling.get_or_insert_with(new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(number: usize) -> Vec<u8> {
        let length = 1 + number * 7919 % (STRETCH + STRETCH / 8);
        (0..length).map(|at| (at + number) as u8).collect()
    }

    #[test]
    fn what_is_kept_stays_as_it_is_while_others_come_and_go() {
        let (mut arena, mut kept) = (Arena::default(), VecDeque::new());
        for number in 0..1000 {
            kept.push_back((number, arena.keep(&payload(number))));
            // The later ones stay for longer.
            if kept.len() > 1 + number / 40 {
                let (number, bytes): (usize, Bytes) = kept.pop_front().unwrap();
                assert_eq!(bytes, payload(number));
            }
            assert!(arena.full.len() <= MOST + 1);
        }
        assert!(
            kept.iter()
                .all(|(number, bytes)| *bytes == payload(*number))
        );
    }

    #[test]
    fn memory_is_used_again_in_turn() {
        let mut arena = Arena::default();
        let mut places = Vec::new();
        let mut under_way = VecDeque::new();
        for _ in 0..40 {
            under_way.push_back(arena.keep(&[1; STRETCH]));
            places.push(under_way.back().map(|bytes| bytes.as_ptr()));
            if under_way.len() == 4 {
                under_way.pop_front();
            }
        }
        places.sort_unstable();
        places.dedup();
        assert!(places.len() <= 5, "{} stretches", places.len());
    }
}
