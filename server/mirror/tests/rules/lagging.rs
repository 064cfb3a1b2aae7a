//! Mode `async`: what is answered before the standby has it, and what is not.

use mirror::{Ask, Config, Mode, NodeId, Reply};

use crate::pair::{Pair, config};

fn lagging() -> Pair {
    let mut pair = Pair::paired_with(Config {
        mode: Mode::Async { lag: 8 },
        ..config(true)
    });
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.slow = Some(NodeId::B);
    pair.write(NodeId::A, 2);
    assert_eq!(pair.reply(2), Some(Reply::Done), "early");
    pair
}

#[test]
fn a_flush_is_not_answered_before_the_standby_has_what_was_answered_early() {
    let mut pair = lagging();
    pair.ask(NodeId::A, 3, Ask::Flush);
    pair.pass(1000);
    assert_eq!(pair.reply(3), None);
    pair.sum_up(0);
    assert_eq!(pair.reply(3), Some(Reply::Done));
}

#[test]
fn a_flush_that_waited_for_the_standby_goes_on_without_it() {
    let mut pair = lagging();
    pair.ask(NodeId::A, 3, Ask::Flush);
    pair.linked = false;
    pair.pass(6000);
    assert_eq!(pair.reply(3), Some(Reply::Done), "the other one is fenced");
}

/// Only what was answered before the flush was asked for: else a busy client would never have one answered.
#[test]
fn a_flush_does_not_wait_for_what_comes_later() {
    let mut pair = lagging();
    pair.ask(NodeId::A, 3, Ask::Flush);
    let before = std::mem::take(&mut pair.held);
    pair.write_at(NodeId::A, 4, 8192);
    pair.held = before;
    pair.sum_up(0);
    assert_eq!(pair.reply(4), Some(Reply::Done), "early");
    assert_eq!(pair.reply(3), Some(Reply::Done));
}
