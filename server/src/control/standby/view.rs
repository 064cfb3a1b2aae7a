//! Gathers what there is to say about the pair.

use std::{
    collections::BTreeMap,
    process,
    time::{SystemTime, UNIX_EPOCH},
};

use mirror::{Alone, BLOCK, Blocks, Mode, NodeId, Notice, Progress, Role, Status, VolumeId, Wait};

use overlay::OverlayId;

use super::{
    model::{
        DifferingView, EventKind, EventView, ImagesView, KeptView, LagView, PairLine, PairView,
        ProgressView, RangeView, RoleView, UnreadableView, VerifyView, WitnessView,
    },
    problems::{problems, warnings},
};
use crate::{
    clients::{disks::owner, registry::Record},
    config::standby::Standby,
    control::desk::Desk,
    mirror::{asking::WitnessPlace, pair::Pair, secret::PairSecret},
};

impl From<Role> for RoleView {
    fn from(role: Role) -> Self {
        match role {
            Role::Primary => Self::Primary,
            Role::Standby => Self::Standby,
            Role::Seeking => Self::Seeking,
        }
    }
}

impl From<Notice> for EventKind {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Primary(_) => Self::Primary,
            Notice::Deposed(_) => Self::Deposed,
            Notice::PeerLost => Self::PeerLost,
            Notice::GoingAlone => Self::GoingAlone,
            Notice::Resync { .. } => Self::Resync,
            Notice::Unreadable { .. } => Self::Unreadable,
            Notice::Paired => Self::Paired,
            Notice::SplitBrain => Self::SplitBrain,
            Notice::StrangeWitness => Self::StrangeWitness,
            Notice::NotPromotable(_) => Self::NotPromotable,
            Notice::NotHandedOver => Self::NotHandedOver,
            Notice::Verified { .. } => Self::Verified,
            Notice::VerifyStopped => Self::VerifyStopped,
            Notice::StandbyFailed => Self::StandbyFailed,
            Notice::KeptNoLonger => Self::KeptNoLonger,
            Notice::DiskHangs => Self::DiskHangs,
        }
    }
}

/// All of it. Asks the witness, so it may take half a second.
pub fn pair(desk: &Desk, pair: &Pair) -> PairView {
    let mut view = without_witness(desk, pair);
    view.witness = witness(&pair.settings, pair.mirror.status().strange_witness);
    view.problems = problems(&view);
    view.warnings = warnings(&view);
    view
}

/// The short form.
pub fn line(desk: &Desk, pair: &Pair) -> PairLine {
    let view = without_witness(desk, pair);
    PairLine {
        problems: problems(&view),
        role: view.role,
        peer: view.peer,
        term: view.term,
        paired: view.paired,
    }
}

fn without_witness(desk: &Desk, pair: &Pair) -> PairView {
    let (settings, status) = (&pair.settings, pair.mirror.status());
    let (mode, most_behind) = match settings.mode {
        Mode::Sync => ("sync", None),
        Mode::Async { lag } => ("async", Some(lag)),
    };
    PairView {
        version: env!("CARGO_PKG_VERSION").into(),
        pid: process::id(),
        uptime_seconds: desk.started().elapsed().as_secs(),
        server: letter(settings.me()),
        listen: settings.listen,
        peer: settings.peer.value,
        mode: mode.into(),
        most_behind,
        alone: alone(settings.alone).into(),
        role: status.role.into(),
        term: status.term.0,
        linked: pair.mirror.is_linked(),
        heard_seconds: status.heard.map(|span| seconds(span.0)),
        paired: is_paired(&status),
        consistent: status.consistent,
        kept: status.kept.then(|| kept(pair)),
        empty: status.empty,
        rolled_back: status.rolled_back,
        suspended: status
            .waits
            .map(|wait| waits(wait, pair.mirror.witness_trouble())),
        disk_hangs_seconds: status.hangs.map(|span| seconds(span.0)),
        lag: lag(&status, pair.mirror.unsent_bytes()),
        resync: status.resync.map(progress),
        verify: status.verify.map(progress),
        last_verify: verified(pair),
        unreadable: match status.unread {
            0 => Vec::new(),
            _ => unreadable(pair, &pair.mirror.unread()),
        },
        left_out: pair.mirror.store().left_out.lock().clone(),
        split_brain: status
            .split_brain
            .then(|| differing(pair, &pair.mirror.differing())),
        witness: None,
        images: images(pair),
        own_disks: pair.own_disks(),
        low_on_space: pair.overlays.is_low().unwrap_or(false),
        set_aside: pair.overlays.aside().unwrap_or_default(),
        problems: Vec::new(),
        warnings: Vec::new(),
        recent: recent(pair),
    }
}

/// A standby tells by its own data whether it was brought up.
fn is_paired(status: &Status) -> bool {
    status.paired || (status.role == Role::Standby && status.consistent)
}

fn kept(pair: &Pair) -> KeptView {
    let times = pair.mirror.store().kept.times();
    KeptView {
        begun: times.map(|(begun, _)| begun),
        last_change: times.and_then(|(_, last)| last),
    }
}

fn letter(node: NodeId) -> String {
    format!("{node:?}")
}

fn alone(alone: Alone) -> &'static str {
    match alone {
        Alone::Continue => "continue",
        Alone::Suspend => "suspend",
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// Why the machines wait, in words. `trouble`: why the witness did not answer when it was asked last.
fn waits(wait: Wait, trouble: Option<String>) -> String {
    let text = match wait {
        Wait::Beginning => "this server is about to begin",
        Wait::Yielding => "the standby takes over",
        Wait::Standby => "the standby is lost, and alone = \"suspend\" says to wait for it",
        Wait::Witness => {
            "the standby is lost, and the witness has not confirmed yet that it will not be promoted"
        }
    };
    match trouble.filter(|_| wait == Wait::Witness) {
        Some(trouble) => format!("{text}; it does not answer: {trouble}"),
        None => text.to_owned(),
    }
}

fn lag(status: &Status, unsent: usize) -> LagView {
    LagView {
        items: status.in_flight,
        bytes: status.in_flight_bytes,
        unsent_bytes: unsent as u64,
        seconds: seconds(status.oldest.map_or(0, |span| span.0)),
    }
}

/// How far it is, how fast it goes, and how long it will take at that speed.
pub fn progress(progress: Progress) -> ProgressView {
    let Progress {
        compare,
        done,
        left,
        since,
    } = progress;
    let rate = done.saturating_mul(BLOCK * 1000) / since.0.max(1);
    ProgressView {
        compare,
        blocks_done: done,
        blocks_left: left,
        bytes_per_second: rate,
        seconds_left: left.saturating_mul(BLOCK).checked_div(rate),
    }
}

/// Disks with blocks in `blocks`, by overlay and machine.
pub fn differing(pair: &Pair, blocks: &Blocks) -> Vec<DifferingView> {
    let mut by_volume: BTreeMap<VolumeId, u64> = BTreeMap::new();
    for (volume, range) in blocks.ranges() {
        *by_volume.entry(volume).or_default() += range.blocks() * BLOCK;
    }
    let disks = Disks::of(pair);
    let view = |(volume, bytes)| {
        let (overlay, client) = disks.names(volume);
        DifferingView {
            overlay,
            client,
            bytes,
        }
    };
    by_volume.into_iter().map(view).collect()
}

/// Disks that cannot be read here.
fn unreadable(pair: &Pair, blocks: &Blocks) -> Vec<UnreadableView> {
    /// So much is enough to look at.
    const MOST: usize = 16;
    let disks = Disks::of(pair);
    let view = |(volume, set): (VolumeId, &mirror::BlockSet)| {
        let (overlay, client) = disks.names(volume);
        let ranges = set.ranges().take(MOST).map(|range| RangeView {
            first: range.start,
            count: range.blocks(),
        });
        UnreadableView {
            overlay,
            client,
            blocks: set.len(),
            ranges: ranges.collect(),
        }
    };
    blocks.volumes().map(view).collect()
}

/// Who is who among the disks.
struct Disks<'a> {
    pair: &'a Pair,
    clients: BTreeMap<String, String>,
    overlays: BTreeMap<VolumeId, OverlayId>,
}

impl<'a> Disks<'a> {
    fn of(pair: &'a Pair) -> Self {
        let specs = pair.mirror.store().volumes.specs().into_iter();
        Self {
            pair,
            clients: names(pair),
            overlays: specs.map(|(volume, spec)| (volume, spec.overlay)).collect(),
        }
    }

    /// The overlay, and the machine if it is known.
    fn names(&self, volume: VolumeId) -> (String, Option<String>) {
        let mac = self.overlays.get(&volume).and_then(owner);
        let client = mac.and_then(|mac| self.clients.get(&mac.hex()).cloned());
        (self.pair.mirror.store().volumes.name_of(volume), client)
    }
}

/// Names of the machines by their addresses, as far as they can be read.
fn names(pair: &Pair) -> BTreeMap<String, String> {
    let rows = pair.mirror.store().rows.load().unwrap_or_default();
    let records = rows
        .into_iter()
        .filter_map(|(_, row)| serde_json::from_str::<Record>(&row).ok());
    records
        .map(|record| (record.mac.hex(), record.name.to_string()))
        .collect()
}

/// The last comparison since this server started.
fn verified(pair: &Pair) -> Option<VerifyView> {
    let findings = pair.mirror.findings()?;
    let when = pair.mirror.chronicle().verified()?;
    Some(VerifyView {
        time_ms: millis(when),
        blocks: findings.blocks,
        differing: findings.differing.len(),
        unread: findings.unread,
        stopped: findings.stopped,
        disks: differing(pair, &findings.differing),
    })
}

fn witness(settings: &Standby, strange: bool) -> Option<WitnessView> {
    let place = settings.witness.as_ref()?;
    let answer = look(place, settings);
    let record = answer.as_ref().ok().and_then(|answer| answer.record);
    Some(WitnessView {
        place: place.to_string(),
        trouble: answer.as_ref().err().map(|error| format!("{error:#}")),
        strange,
        primary: record.map(|record| letter(record.holder)),
        outdated: record.and_then(|record| record.outdated).map(letter),
    })
}

fn look(place: &WitnessPlace, settings: &Standby) -> anyhow::Result<mirror::WitnessAnswer> {
    place.look(&PairSecret::read(&settings.secret)?, settings.me())
}

fn images(pair: &Pair) -> ImagesView {
    let supplies = pair.supplies.lock().clone();
    ImagesView {
        lacking: supplies.lacking.len(),
        permille: supplies.permille,
        trouble: supplies.trouble,
    }
}

fn recent(pair: &Pair) -> Vec<EventView> {
    let recent = pair.mirror.chronicle().recent();
    recent
        .into_iter()
        .map(|(when, notice)| event(when, notice, pair.mirror.say(notice)))
        .collect()
}

/// A notice for whoever follows the events.
pub fn event(when: SystemTime, notice: Notice, text: String) -> EventView {
    EventView {
        time_ms: millis(when),
        event: notice.into(),
        text,
    }
}

/// Since 1970.
pub fn millis(when: SystemTime) -> u64 {
    let since = when.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use mirror::Millis;

    use super::*;
    use crate::mirror::driver::say;

    #[test]
    fn progress_has_a_speed_and_a_time_left() {
        let half = progress(Progress {
            compare: false,
            done: 2560,
            left: 5120,
            since: Millis(2000),
        });
        assert_eq!(half.bytes_per_second, 5 << 20);
        assert_eq!(half.seconds_left, Some(4));
        let begun = progress(Progress {
            compare: true,
            done: 0,
            left: 7,
            since: Millis(0),
        });
        assert_eq!((begun.bytes_per_second, begun.seconds_left), (0, None));
    }

    #[test]
    fn the_witness_is_blamed_for_what_it_holds_up_only() {
        let trouble = || Some("refused".to_owned());
        assert!(waits(Wait::Witness, trouble()).ends_with("it does not answer: refused"));
        assert!(!waits(Wait::Standby, trouble()).contains("refused"));
        assert!(!waits(Wait::Witness, None).contains("does not answer"));
    }

    #[test]
    fn events_have_a_name_for_programs_and_a_text_for_people() {
        let notice = Notice::Verified {
            blocks: 9,
            differing: 2,
        };
        let event = event(UNIX_EPOCH, notice, say(notice));
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "verified");
        assert_eq!(json["time_ms"], 0);
        assert!(event.text.contains("up to 2 differed"), "{}", event.text);
    }
}
