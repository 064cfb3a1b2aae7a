//! Changes that have not ended, in the order in which they came, and which of them may start.
//!
//! What touches the same as something earlier waits for it. Who waits for whom is looked up where the blocks are, so that
//! thousands of changes that wait for a standby or a witness cost no more each than one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::{BlockRange, Ticket, VolumeId, operation::Footprint};

use super::changes::Change;

/// Blocks of a stretch: what touches different stretches cannot collide.
const STRETCH: u64 = 256;
/// What touches more stretches than this is kept apart, and compared with everything.
const WIDE: u64 = 64;

/// Changes that have not ended.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    all: BTreeMap<Ticket, Waiting>,
    /// Held, and nothing earlier touches the same.
    ready: InOrder,
    /// How many are held.
    held: usize,
    /// Who touches a stretch of a volume.
    stretches: BTreeSet<(VolumeId, u64, Ticket)>,
    /// Who touches more than that: a whole volume, the metadata.
    wide: Vec<Ticket>,
}

/// Tickets in their order. Most come and go at the ends, and there are few: a tree would take memory for each that comes alone.
#[derive(Debug, Default)]
struct InOrder(VecDeque<Ticket>);

impl InOrder {
    /// False if it was there.
    fn insert(&mut self, ticket: Ticket) -> bool {
        let place = self.0.binary_search(&ticket);
        if let Err(at) = place {
            self.0.insert(at, ticket);
        }
        place.is_err()
    }

    /// False if it was not there.
    fn remove(&mut self, ticket: Ticket) -> bool {
        let place = self.0.binary_search(&ticket);
        if let Ok(at) = place {
            self.0.remove(at);
        }
        place.is_ok()
    }
}

#[derive(Debug)]
struct Waiting {
    change: Change,
    /// Earlier ones that touch the same.
    blockers: usize,
}

/// Where one is looked for.
enum Place {
    Stretches(VolumeId, std::ops::RangeInclusive<u64>),
    Wide,
}

fn place(footprint: &Footprint) -> Place {
    match footprint.blocks {
        Some((volume, range)) if !footprint.meta && is_narrow(range) => {
            Place::Stretches(volume, stretches(range))
        }
        _ => Place::Wide,
    }
}

fn is_narrow(range: BlockRange) -> bool {
    range.blocks() <= STRETCH * (WIDE - 1)
}

fn stretches(range: BlockRange) -> std::ops::RangeInclusive<u64> {
    range.start / STRETCH..=range.end.saturating_sub(1).max(range.start) / STRETCH
}

impl UnderWay {
    pub(super) fn get(&self, ticket: Ticket) -> Option<&Change> {
        self.all.get(&ticket).map(|waiting| &waiting.change)
    }

    /// To be changed in anything but whether it is held.
    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Change> {
        self.all.get_mut(&ticket).map(|waiting| &mut waiting.change)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Change)> {
        self.all
            .iter()
            .map(|(ticket, waiting)| (*ticket, &waiting.change))
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Change> {
        self.all.values().map(|waiting| &waiting.change)
    }

    /// Whether all that there is waits to be started.
    pub(super) fn is_all_held(&self) -> bool {
        self.held == self.all.len()
    }

    /// Those that may start, in the order in which they came.
    pub(super) fn ready(&self) -> impl Iterator<Item = Ticket> + '_ {
        self.ready.0.iter().copied()
    }

    /// The first that may start after this one.
    pub(super) fn ready_after(&self, last: Option<Ticket>) -> Option<Ticket> {
        let after = last.map_or(0, |last| self.ready.0.partition_point(|t| *t <= last));
        self.ready.0.get(after).copied()
    }

    /// Adds the newest; it is held.
    pub(super) fn insert(&mut self, ticket: Ticket, change: Change) {
        let blockers = self.colliding(ticket, &change.footprint).len();
        match place(&change.footprint) {
            Place::Wide => self.wide.push(ticket),
            Place::Stretches(volume, stretches) => {
                let places = stretches.map(|stretch| (volume, stretch, ticket));
                self.stretches.extend(places);
            }
        }
        self.held += 1;
        if blockers == 0 {
            self.ready.insert(ticket);
        }
        self.all.insert(ticket, Waiting { change, blockers });
    }

    /// It is no longer held.
    pub(super) fn start(&mut self, ticket: Ticket) {
        self.held -= usize::from(self.ready.remove(ticket));
    }

    /// It is held again. Nothing earlier touches the same: it had been started.
    pub(super) fn hold(&mut self, ticket: Ticket) {
        if self.all.contains_key(&ticket) && self.ready.insert(ticket) {
            self.held += 1;
        }
    }

    /// It has ended: others need not wait for it.
    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Change> {
        let Waiting { change, blockers } = self.all.remove(&ticket)?;
        let held = blockers > 0 || self.ready.remove(ticket);
        self.held -= usize::from(held);
        self.forget_place(ticket, &change.footprint);
        for later in self.colliding(ticket, &change.footprint) {
            if later > ticket {
                self.release(later);
            }
        }
        Some(change)
    }

    fn release(&mut self, ticket: Ticket) {
        if let Some(waiting) = self.all.get_mut(&ticket) {
            waiting.blockers -= 1;
            if waiting.blockers == 0 {
                self.ready.insert(ticket);
            }
        }
    }

    fn forget_place(&mut self, ticket: Ticket, footprint: &Footprint) {
        match place(footprint) {
            Place::Wide => self.wide.retain(|other| *other != ticket),
            Place::Stretches(volume, stretches) => {
                for stretch in stretches {
                    self.stretches.remove(&(volume, stretch, ticket));
                }
            }
        }
    }

    /// All others that touch the same, each once.
    fn colliding(&self, ticket: Ticket, footprint: &Footprint) -> Vec<Ticket> {
        let collides = |other: &Ticket| {
            let waiting = self.all.get(other);
            *other != ticket && waiting.is_some_and(|w| w.change.footprint.collides(footprint))
        };
        match place(footprint) {
            Place::Wide => self.all.keys().copied().filter(collides).collect(),
            Place::Stretches(volume, stretches) => {
                let first = (volume, *stretches.start(), Ticket(0));
                let last = (volume, *stretches.end(), Ticket(u64::MAX));
                let near = self.stretches.range(first..=last);
                let mut found: Vec<Ticket> = near
                    .map(|(_, _, ticket)| *ticket)
                    .chain(self.wide.iter().copied())
                    .filter(|t| collides(t))
                    .collect();
                found.sort_unstable();
                found.dedup();
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::changes::Content;
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Add(Footprint),
        Start(usize),
        Hold(usize),
        Remove(usize),
    }

    fn footprint() -> impl Strategy<Value = Footprint> {
        let length = prop_oneof![1u64..4, 200u64..600, 16_000u64..40_000, Just(u64::MAX)];
        let blocks = (0u64..2, 0u64..1500, length).prop_map(|(volume, start, length)| {
            let start = if length == u64::MAX { 0 } else { start };
            let end = start.saturating_add(length);
            (VolumeId(volume), BlockRange { start, end })
        });
        (prop::option::of(blocks), any::<bool>()).prop_map(|(blocks, meta)| Footprint {
            meta: meta && blocks.is_none_or(|(_, range)| range.end == u64::MAX),
            blocks,
        })
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => footprint().prop_map(Step::Add),
            2 => any::<usize>().prop_map(Step::Start),
            1 => any::<usize>().prop_map(Step::Hold),
            2 => any::<usize>().prop_map(Step::Remove),
        ]
    }

    /// The rule in plain words: held, and nothing earlier touches the same.
    fn expected(plain: &[(Ticket, Footprint, bool)]) -> Vec<Ticket> {
        let free = |at: usize| {
            plain[..at]
                .iter()
                .all(|(_, earlier, _)| !earlier.collides(&plain[at].1))
        };
        let held = (0..plain.len()).filter(|at| plain[*at].2 && free(*at));
        held.map(|at| plain[at].0).collect()
    }

    proptest! {
        #[test]
        fn what_may_start_is_what_nothing_earlier_touches(steps in prop::collection::vec(step(), 0..120)) {
            let mut all = UnderWay::default();
            let mut plain: Vec<(Ticket, Footprint, bool)> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let ticket = Ticket(number as u64 + 1);
                match step {
                    Step::Add(footprint) => {
                        all.insert(ticket, Change::new(Content::Metadata, footprint));
                        plain.push((ticket, footprint, true));
                    }
                    Step::Start(n) => {
                        let ready = expected(&plain);
                        if let Some(chosen) = ready.get(n % ready.len().max(1)) {
                            all.start(*chosen);
                            plain.iter_mut().for_each(|p| p.2 &= p.0 != *chosen);
                        }
                    }
                    Step::Hold(n) => {
                        let started: Vec<_> = plain.iter().filter(|p| !p.2).map(|p| p.0).collect();
                        if let Some(chosen) = started.get(n % started.len().max(1)) {
                            all.hold(*chosen);
                            plain.iter_mut().for_each(|p| p.2 |= p.0 == *chosen);
                        }
                    }
                    Step::Remove(n) if !plain.is_empty() => {
                        let (gone, ..) = plain.remove(n % plain.len());
                        prop_assert!(all.remove(gone).is_some());
                    }
                    Step::Remove(_) => {}
                }
                prop_assert_eq!(all.ready().collect::<Vec<_>>(), expected(&plain));
                prop_assert_eq!(all.is_all_held(), plain.iter().all(|p| p.2));
                prop_assert_eq!(all.iter().count(), plain.len());
            }
        }
    }
}
