//! A primary that cannot read some of what its standby lacks.

use mirror::{BlockRange, Body, Event, Item, NodeId, Notice, VolumeId};

use crate::pair::{Pair, V};

const W: VolumeId = VolumeId(2);

fn blocks(start: u64, end: u64) -> BlockRange {
    BlockRange { start, end }
}

/// A pair that was in step; the standby lacks `lost` since, and A cannot read `bad`.
fn bringing_up(lost: &[(VolumeId, BlockRange)], bad: &[(VolumeId, BlockRange)]) -> Pair {
    let mut pair = Pair::paired(true);
    for (volume, range) in lost {
        pair.lost.insert(*volume, *range);
    }
    for (volume, range) in bad {
        pair.bad.insert(*volume, *range);
    }
    pair.sent.clear();
    pair.tell(NodeId::A, Event::LinkDown);
    pair.pass(10_000);
    pair
}

/// Blocks that were sent.
fn sent(pair: &Pair) -> mirror::Blocks {
    let mut sent = mirror::Blocks::default();
    for message in &pair.sent {
        if let Body::Ship {
            item: Item::Restore { volume, range, .. },
            ..
        } = &message.body
        {
            sent.insert(*volume, *range);
        }
    }
    sent
}

fn told(pair: &Pair) -> Vec<Notice> {
    let unreadable = |notice: &&(NodeId, Notice)| matches!(notice.1, Notice::Unreadable { .. });
    let notices = pair.notices.iter().filter(unreadable);
    notices.map(|(_, notice)| *notice).collect()
}

/// More pieces than are under way at once cannot be read, and come first.
#[test]
fn what_cannot_be_read_holds_up_nothing_else() {
    let all = blocks(0, 640);
    let bad = blocks(0, 5 * 64);
    let pair = bringing_up(&[(V, all), (W, all)], &[(V, bad)]);
    let sent = sent(&pair);
    assert!(sent.contains(W, all), "the other disk");
    assert!(sent.contains(V, blocks(bad.end, all.end)), "the rest of it");
    assert!(!sent.touches(V, bad));
    let status = pair.nodes[0].status();
    assert!(!status.paired, "the standby lacks something");
    assert!(pair.durable[1].inconsistent, "and must not lead");
    assert_eq!((status.unread, status.unsent), (320, 320));
    assert_eq!(
        pair.nodes[0].unread().ranges().collect::<Vec<_>>(),
        [(V, bad)]
    );
}

#[test]
fn it_is_told_once_for_each_disk() {
    let (ten, first) = (blocks(0, 640), blocks(0, 64));
    let mut pair = bringing_up(&[(V, ten), (W, ten)], &[(V, ten), (W, first)]);
    pair.pass(60_000);
    pair.tell(NodeId::A, Event::LinkDown);
    pair.pass(60_000);
    let of = |volume| Notice::Unreadable {
        volume,
        range: first,
    };
    assert_eq!(told(&pair), [of(V), of(W)]);
}

#[test]
fn it_is_tried_again_seldom_and_everything_in_its_turn() {
    let (ten, first) = (blocks(0, 640), blocks(0, 64));
    let mut pair = bringing_up(&[(V, ten), (W, ten)], &[(V, ten), (W, first)]);
    pair.reads.clear();
    pair.pass(110_000);
    assert!(
        (15..=23).contains(&pair.reads.len()),
        "{}",
        pair.reads.len()
    );
    for start in (0..640).step_by(64) {
        let piece = (V, blocks(start, start + 64));
        assert!(pair.reads.contains(&piece), "{piece:?}");
    }
    assert!(pair.reads.contains(&(W, first)));
}

/// Thousands of pieces of a disk that was away for a moment do not come one every few seconds.
#[test]
fn what_can_be_read_again_comes_at_once() {
    let all = blocks(0, 640);
    let mut pair = bringing_up(&[(V, all)], &[(V, all)]);
    assert_eq!(pair.nodes[0].status().unread, 640);
    pair.bad = mirror::Blocks::default();
    pair.pass(6000);
    assert!(sent(&pair).contains(V, all));
    assert!(pair.nodes[0].status().paired);
    assert_eq!(pair.nodes[0].status().unread, 0);
}
