//! What a reader may see, by what clients were told.

use std::collections::BTreeMap;

/// A sector of a volume, or a slot of the metadata.
pub type Place = (u64, usize);

/// One change of a place. Two of them may bring the same value, as zeros do, and are not the same for that.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Change {
    number: u64,
    value: u64,
}

/// What is there before any change.
const NOTHING: Change = Change {
    number: 0,
    value: 0,
};

#[derive(Default, Clone)]
struct Sector {
    /// What a read may bring now.
    allowed: Vec<Change>,
    /// Asked for, not answered.
    pending: Vec<Change>,
    /// Answered with an error: may have happened or not, until something newer is answered.
    failed: Vec<Change>,
    /// Everything since the last flush, oldest first: what a power cut of the only good server may leave.
    since_flush: Vec<Change>,
    /// Counts what happened to it.
    changes: u64,
}

/// A read under way.
struct Reading {
    place: Place,
    /// What it may bring.
    allowed: Vec<Change>,
    /// How often the place had changed when it was begun.
    changes: u64,
}

#[derive(Default)]
pub struct Model {
    sectors: BTreeMap<Place, Sector>,
    reads: BTreeMap<u64, Reading>,
    /// Flushes under way: what they make safe.
    flushes: BTreeMap<u64, Vec<(Place, Vec<Change>)>>,
    /// Counts the changes.
    begun: u64,
    /// Counts the losses of power that may have undone something.
    pub losses: u64,
    pub acknowledged: u64,
    pub judged: u64,
}

impl Sector {
    fn fresh() -> Self {
        Self {
            allowed: vec![NOTHING],
            since_flush: vec![NOTHING],
            ..Self::default()
        }
    }

    fn settled(&self) -> Vec<Change> {
        let allowed = self.allowed.iter().copied();
        allowed.filter(|c| !self.pending.contains(c)).collect()
    }

    /// Ends the wait for an answer to the change that brings this value: there is one such at a time.
    fn answered(&mut self, value: u64) -> Change {
        let at = self.pending.iter().position(|c| c.value == value);
        self.pending.remove(at.expect("a change that was begun"))
    }

    /// It is known now that one of these is what is there.
    fn pin(&mut self, known: &[Change]) {
        let open: Vec<Change> = self.pending.iter().chain(&self.failed).copied().collect();
        self.allowed = known.to_vec();
        self.allowed
            .extend(open.iter().filter(|c| !known.contains(c)));
        if let Some(at) = self.since_flush.iter().rposition(|c| known.contains(c)) {
            let mut index = 0;
            self.since_flush.retain(|c| {
                index += 1;
                index <= at + 1 || open.contains(c)
            });
        }
    }
}

impl Model {
    fn sector(&mut self, place: Place) -> &mut Sector {
        self.sectors.entry(place).or_insert_with(Sector::fresh)
    }

    /// Reads under way may bring whatever becomes possible meanwhile.
    fn widen_reads(&mut self, place: Place) {
        let sector = self.sector(place);
        sector.changes += 1;
        let now = sector.allowed.clone();
        for reading in self
            .reads
            .values_mut()
            .filter(|reading| reading.place == place)
        {
            reading.allowed.extend(now.iter());
        }
    }

    pub fn is_pending(&mut self, place: Place) -> bool {
        !self.sector(place).pending.is_empty()
    }

    pub fn write(&mut self, place: Place, value: u64) {
        self.begun += 1;
        let change = Change {
            number: self.begun,
            value,
        };
        let sector = self.sector(place);
        sector.allowed.push(change);
        sector.pending.push(change);
        sector.since_flush.push(change);
        self.widen_reads(place);
    }

    /// The answer left the server when `losses` was this.
    pub fn written(&mut self, place: Place, value: u64, losses: u64) {
        self.acknowledged += 1;
        let lost_since = self.losses != losses;
        let sector = self.sector(place);
        let change = sector.answered(value);
        if lost_since {
            return; // True when it was said, and perhaps no longer.
        }
        sector.failed.clear();
        sector.pin(&[change]);
        self.widen_reads(place);
    }

    pub fn failed(&mut self, place: Place, value: u64) {
        let sector = self.sector(place);
        let change = sector.answered(value);
        sector.failed.push(change);
    }

    pub fn read(&mut self, id: u64, place: Place) {
        let sector = self.sector(place);
        let (allowed, changes) = (sector.allowed.clone(), sector.changes);
        self.reads.insert(
            id,
            Reading {
                place,
                allowed,
                changes,
            },
        );
    }

    pub fn forget_read(&mut self, id: u64) {
        self.reads.remove(&id);
    }

    pub fn has_read(&mut self, id: u64, value: u64) -> Result<(), String> {
        let Reading {
            place,
            allowed,
            changes,
        } = self.reads.remove(&id).expect("a read that was begun");
        self.judged += 1;
        let mut candidates = allowed.clone();
        candidates.retain(|c| c.value == value);
        if candidates.is_empty() {
            let allowed: Vec<u64> = allowed.iter().map(|c| c.value).collect();
            return Err(format!("read {value} at {place:?}, allowed {allowed:?}"));
        }
        let sector = self.sector(place);
        if sector.changes == changes {
            sector.pin(&candidates);
        }
        Ok(())
    }

    pub fn flush(&mut self, id: u64, volume: u64) {
        let of = |(place, _): &(&Place, &Sector)| place.0 == volume;
        let sectors = self.sectors.iter().filter(of);
        let settled = sectors
            .map(|(place, sector)| (*place, sector.settled()))
            .collect();
        self.flushes.insert(id, settled);
    }

    pub fn flush_failed(&mut self, id: u64) {
        self.flushes.remove(&id);
    }

    pub fn flushed(&mut self, id: u64) {
        for (place, safe) in self.flushes.remove(&id).expect("a flush that was begun") {
            let sector = self.sector(place);
            let oldest = sector.since_flush.iter().position(|c| safe.contains(c));
            if let Some(at) = oldest {
                sector.since_flush.drain(..at);
            }
        }
    }

    /// The only server that had everything lost power: what was not flushed may be gone.
    pub fn power_cut(&mut self, is_data: impl Fn(Place) -> bool) {
        self.losses += 1;
        let places: Vec<Place> = self
            .sectors
            .keys()
            .copied()
            .filter(|p| is_data(*p))
            .collect();
        for place in places {
            let sector = self.sector(place);
            sector.allowed = sector.since_flush.clone();
            let now = sector.allowed.clone();
            self.widen_reads(place);
            // A flush that is under way makes safe what is there when it ends, not what was lost before.
            let safe = self
                .flushes
                .values_mut()
                .flatten()
                .filter(|(of, _)| *of == place);
            safe.for_each(|(_, changes)| changes.extend(now.iter()));
        }
    }
}
