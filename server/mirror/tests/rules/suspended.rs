//! A primary that does nothing alone.

use bytes::Bytes;
use mirror::{Alone, Ask, Body, Config, Event, Item, NodeId, Op, Reply, Request, RequestId};

use crate::pair::{Pair, config};

fn suspended() -> Pair {
    let mut pair = Pair::paired_with(Config {
        alone: Alone::Suspend,
        ..config(true)
    });
    (pair.linked, pair.witnessed) = (false, false);
    pair.pass(3000);
    pair
}

fn record_change(pair: &mut Pair, request: u64, record: &'static [u8]) {
    let (volume, record) = (None, Bytes::from_static(record));
    let ask = Ask::Change(Op::Meta { volume, record });
    let (id, from) = (RequestId(request), None);
    pair.tell(NodeId::A, Event::Request(Request { id, from, ask }));
}

/// Where nothing is done alone, a change of the metadata waits for the standby, and the standby gets all metadata first.
#[test]
fn a_change_of_the_metadata_that_waits_does_not_keep_the_standby_waiting() {
    let mut pair = suspended();
    record_change(&mut pair, 1, b"lease");
    pair.pass(1000);
    assert_eq!(pair.reply(1), None);
    (pair.linked, pair.witnessed) = (true, true);
    pair.pass(6000);
    assert!(pair.nodes[0].status().paired);
    assert_eq!(pair.reply(1), Some(Reply::Done));
}

/// The same lease, say: who comes second is right in the end.
#[test]
fn changes_that_wait_for_the_standby_reach_it_in_their_order() {
    let mut pair = suspended();
    for (request, record) in [(1, &b"first"[..]), (2, b"second"), (3, b"third")] {
        record_change(&mut pair, request, record);
    }
    let before = pair.sent.len();
    (pair.linked, pair.witnessed) = (true, true);
    pair.pass(6000);
    let shipped = pair.sent[before..].iter();
    let records: Vec<_> = shipped
        .filter_map(|message| match &message.body {
            Body::Ship {
                item: Item::Op(Op::Meta { record, .. }),
                ..
            } => Some(record.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(records, [&b"first"[..], b"second", b"third"]);
    assert_eq!(pair.reply(3), Some(Reply::Done));
}
