//! A primary that does nothing alone.

use bytes::Bytes;
use mirror::{Alone, Ask, Config, Event, NodeId, Op, Reply, Request, RequestId};

use crate::pair::{Pair, config};

/// Where nothing is done alone, a change of the metadata waits for the standby, and the standby gets all metadata first.
#[test]
fn a_change_of_the_metadata_that_waits_does_not_keep_the_standby_waiting() {
    let mut pair = Pair::paired_with(Config {
        alone: Alone::Suspend,
        ..config(true)
    });
    (pair.linked, pair.witnessed) = (false, false);
    pair.pass(3000);
    let (volume, record) = (None, Bytes::from_static(b"lease"));
    let change = Ask::Change(Op::Meta { volume, record });
    let event = |id, ask| {
        let (id, from) = (RequestId(id), None);
        Event::Request(Request { id, from, ask })
    };
    pair.tell(NodeId::A, event(1, change));
    pair.pass(1000);
    assert_eq!(pair.reply(1), None);
    (pair.linked, pair.witnessed) = (true, true);
    pair.pass(6000);
    assert!(pair.nodes[0].status().paired);
    assert_eq!(pair.reply(1), Some(Reply::Done));
}
