//! Mode `async`: what is answered before the standby has it, and what is not.

use mirror::{Ask, Command, Config, Event, Mode, NodeId, Reply, Role};

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

/// Nothing was on its way any more, so the standby lacks nothing.
#[test]
fn in_mode_async_a_place_handed_over_is_taken_too() {
    let mut pair = lagging();
    pair.slow = None;
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    assert_eq!(pair.role(NodeId::A), Role::Primary, "something is");
    pair.sum_up(0);
    pair.tell(NodeId::B, Event::Tick);
    assert_eq!(pair.role(NodeId::B), Role::Primary, "in the next tick");
}

/// The word counts for the term that was given up only: who took the place back may have answered more.
#[test]
fn a_place_that_was_taken_back_is_not_given_any_more() {
    let mut pair = lagging();
    pair.slow = None;
    pair.sum_up(0);
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    pair.linked = false;
    for _ in 0..60 {
        pair.now += 50;
        pair.tell(NodeId::A, Event::Tick); // B is stopped meanwhile.
    }
    assert_eq!(pair.role(NodeId::A), Role::Primary);
    pair.restart(NodeId::A, false); // Long gone.
    for _ in 0..100 {
        pair.now += 50;
        pair.tell(NodeId::B, Event::Tick);
    }
    assert_eq!(pair.role(NodeId::B), Role::Seeking);
}
