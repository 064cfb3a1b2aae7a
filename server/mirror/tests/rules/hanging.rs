//! A disk that hangs: what was asked of it never ends.

use mirror::{
    Alone, Ask, BlockRange, Blocks, Command, Config, Event, Fault, Mode, Moment, NodeId, Notice,
    Reply, Role, WhyNot, Yield,
};

use crate::pair::{Pair, V, config};

/// What counts as hanging, and a little.
const LONG: u64 = 30_100;

/// A pair in step with a client; A's disk ends nothing from now on.
fn hung(config: Config) -> Pair {
    let mut pair = Pair::paired_with(config);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.write(NodeId::A, 2);
    pair.hung = Some(NodeId::A);
    pair
}

/// A's disk is well again.
fn mend(pair: &mut Pair) {
    pair.hung = None;
    pair.sum_up(0);
    pair.pass(6000);
}

fn roles(pair: &Pair) -> (Role, Role) {
    (pair.role(NodeId::A), pair.role(NodeId::B))
}

#[test]
fn a_primary_whose_disk_hangs_makes_way_and_follows_when_it_is_well() {
    for witness in [true, false] {
        let mut pair = hung(config(witness));
        pair.write(NodeId::A, 3);
        pair.pass(29_000);
        assert_eq!(roles(&pair), (Role::Primary, Role::Standby), "not yet");
        assert!(pair.nodes[0].status().hangs.is_none());
        pair.pass(1100);
        assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
        assert!(pair.noted(NodeId::A, Notice::DiskHangs));
        assert!(!pair.nodes[0].may_answer(Moment(pair.now)));
        assert_eq!(pair.reply(3), None, "nobody was told anything");
        pair.ask(NodeId::B, 4, Ask::Attach);
        pair.write(NodeId::B, 5);
        pair.pass(60_000);
        assert_eq!(pair.reply(5), Some(Reply::Done));
        assert_eq!(roles(&pair), (Role::Seeking, Role::Primary), "it waits");
        assert!(
            pair.nodes[0]
                .status()
                .hangs
                .is_some_and(|span| span.0 > 90_000)
        );
        mend(&mut pair);
        assert_eq!(roles(&pair), (Role::Standby, Role::Primary));
        assert!(pair.nodes[1].status().paired);
        assert!(pair.nodes[0].status().hangs.is_none());
    }
}

#[test]
fn a_flush_that_hangs_is_enough() {
    let mut pair = hung(config(true));
    pair.ask(NodeId::A, 3, Ask::Flush);
    pair.pass(LONG);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
}

/// What clients read is not the machine's affair: the caller looks after the disk by itself.
#[test]
fn a_disk_that_owes_the_caller_an_answer_hangs_too() {
    let mut pair = Pair::paired(true);
    for _ in 0..LONG / 50 {
        let since = Some(Moment(6000));
        pair.nodes[0].wait_for_disk(since);
        pair.pass(50);
    }
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
    pair.nodes[0].wait_for_disk(None);
    pair.pass(1000);
    assert_eq!(roles(&pair), (Role::Standby, Role::Primary));
}

/// What does not need the own disk: its state file may lie there.
#[test]
fn who_makes_way_waits_for_nothing_to_become_durable() {
    let mut pair = hung(config(true));
    pair.write(NodeId::A, 3);
    pair.unwritten = Some(NodeId::A);
    pair.pass(LONG);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
    assert!(!pair.waiting.is_empty(), "and nothing has been written");
}

#[test]
fn a_slow_disk_that_ends_something_now_and_then_is_kept() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.slow = Some(NodeId::A);
    for request in 2..12 {
        for block in [request, 100 + request] {
            pair.write_at(NodeId::A, block, block * 4096);
        }
        pair.pass(20_000);
        let later = pair.held.split_off(1);
        pair.sum_up(0);
        pair.held = later;
    }
    assert_eq!(pair.reply(2), Some(Reply::Done));
    assert_eq!(pair.reply(11), None, "it is far behind");
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
    assert!(!pair.noted(NodeId::A, Notice::DiskHangs));
}

/// A server that was stopped for a minute knows nothing of what its disk did meanwhile.
#[test]
fn time_that_jumps_is_not_the_disks_doing() {
    let mut pair = hung(config(true));
    pair.write(NodeId::A, 3);
    pair.now += 60_000;
    pair.tell(NodeId::A, mirror::Event::Tick);
    assert!(!pair.noted(NodeId::A, Notice::DiskHangs));
}

#[test]
fn without_a_whole_standby_there_is_nobody_to_make_way_for() {
    let mut pair = hung(config(true));
    pair.linked = false;
    pair.pass(3000);
    pair.write(NodeId::A, 3);
    pair.pass(LONG);
    assert_eq!(roles(&pair), (Role::Primary, Role::Seeking));
    assert!(pair.noted(NodeId::A, Notice::DiskHangs), "but it is said");
}

/// Nobody would lead then, until the witness is there again.
#[test]
fn nobody_makes_way_while_the_witness_does_not_answer() {
    let mut pair = hung(config(true));
    pair.write(NodeId::A, 3);
    pair.witnessed = false;
    pair.pass(2 * LONG);
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
    pair.hung = None;
    pair.sum_up(0);
    assert_eq!(pair.reply(3), Some(Reply::Done));
    pair.witnessed = true;
    pair.pass(2000);
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby), "it is well");
}

#[test]
fn who_cannot_be_followed_does_not_make_way() {
    let mut pair = Pair::new(config(true));
    pair.tell(
        NodeId::A,
        mirror::Event::Command(mirror::Command::Promote { force: false }),
    );
    while !pair.nodes[0].status().paired {
        pair.witnessed = pair.nodes[0].status().resync.is_none();
        pair.pass(50);
    }
    pair.witnessed = false; // It still has the standby down as outdated.
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.hung = Some(NodeId::A);
    pair.write(NodeId::A, 2);
    pair.pass(LONG);
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
    pair.witnessed = true;
    pair.pass(1000);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
}

/// The word that it makes way is lost: its disk must not be the one that serves again.
#[test]
fn a_server_whose_disk_hangs_does_not_seek_promotion() {
    let mut pair = hung(config(true));
    pair.write(NodeId::A, 3);
    pair.pass(29_900);
    pair.linked = false;
    pair.pass(300);
    assert_eq!(pair.role(NodeId::A), Role::Seeking);
    pair.witnessed = false;
    pair.pass(10_000);
    pair.witnessed = true;
    pair.tell(NodeId::A, mirror::Event::Tick);
    pair.pass(1000);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
}

/// Time passes for A, until it is primary no more.
fn alone(pair: &mut Pair, millis: u64) {
    for _ in 0..millis / 50 {
        if pair.role(NodeId::A) == Role::Primary {
            pair.now += 50;
            pair.tell(NodeId::A, Event::Tick);
        }
    }
}

/// Its state is on the disk that hangs, and meanwhile somebody promotes the other server. The witness would refuse it.
#[test]
fn a_promotion_under_way_without_a_witness_is_withdrawn_too() {
    for force in [false, true] {
        let mut pair = hung(config(false));
        pair.write(NodeId::A, 3);
        pair.pass(29_500);
        pair.linked = false; // That it makes way is not heard.
        alone(&mut pair, 700);
        assert_eq!(pair.role(NodeId::A), Role::Seeking);
        pair.unwritten = Some(NodeId::A);
        pair.tell(NodeId::A, Event::Command(Command::Promote { force }));
        pair.pass(4000);
        let demand = Command::Promote { force: false };
        pair.tell(NodeId::B, Event::Command(demand));
        pair.pass(4000);
        assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
        pair.linked = true;
        pair.ask(NodeId::B, 4, Ask::Attach);
        pair.write_at(NodeId::B, 5, 1 << 20);
        pair.pass(2000);
        assert_eq!(pair.reply(5), Some(Reply::Done));
        let told = Notice::NotPromotable(WhyNot::Overtaken);
        assert!(pair.noted(NodeId::A, told));
        pair.unwritten = None;
        for (id, persist) in std::mem::take(&mut pair.waiting) {
            pair.tell(id, Event::Persisted(persist));
        }
        mend(&mut pair);
        assert_eq!(roles(&pair), (Role::Standby, Role::Primary));
        assert!(!pair.nodes[0].status().split_brain);
    }
}

/// Who says so does not know yet that the other server takes over.
#[test]
fn a_forced_promotion_that_waits_is_withdrawn_when_the_other_server_has_become_primary() {
    let mut pair = hung(config(true));
    pair.write(NodeId::A, 3);
    pair.pass(29_000);
    alone(&mut pair, 1100);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Seeking));
    let force = Event::Command(Command::Promote { force: true });
    pair.tell(NodeId::A, force.clone());
    pair.pass(10_000);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
    assert!(pair.noted(NodeId::A, Notice::NotPromotable(WhyNot::Overtaken)));
    pair.tell(NodeId::A, force);
    pair.pass(10_000);
    assert_eq!(pair.role(NodeId::A), Role::Primary, "now they know");
}

/// The first blocks of the disk.
fn beginning() -> Blocks {
    let mut blocks = Blocks::default();
    blocks.insert(V, BlockRange { start: 0, end: 64 });
    blocks
}

/// Nobody but the primary has it right.
#[test]
fn nobody_makes_way_for_a_standby_that_was_found_to_hold_something_else() {
    for readable in [false, true] {
        let mut pair = Pair::paired(true);
        pair.ask(NodeId::A, 1, Ask::Attach);
        (pair.own, pair.sums[1]) = (64, Some(Yield::Sum(1)));
        pair.bad = beginning();
        pair.tell(NodeId::A, Event::Command(Command::Verify));
        pair.hung = Some(NodeId::A);
        pair.write_at(NodeId::A, 2, 1 << 20);
        if readable {
            pair.bad = Blocks::default();
        }
        pair.pass(2 * LONG);
        let expected = match readable {
            false => (Role::Primary, Role::Standby),
            true => (Role::Seeking, Role::Primary),
        };
        assert_eq!(roles(&pair), expected, "sent again: {readable}");
    }
}

/// What a failed write left is known to differ, and what lies beside it is not.
#[test]
fn a_difference_beside_a_failed_write_counts() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    (pair.own, pair.sums[1]) = (64, Some(Yield::Sum(1)));
    pair.hung = Some(NodeId::A);
    pair.bad = beginning();
    pair.write(NodeId::A, 2);
    pair.tell(NodeId::A, Event::Command(Command::Verify));
    for (id, ticket) in std::mem::take(&mut pair.held) {
        pair.tell(id, Event::Done(ticket, Err(Fault::Broken)));
    }
    pair.write_at(NodeId::A, 3, 1 << 20);
    pair.pass(2 * LONG);
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
}

/// It holds what this server failed to write, and nobody was told that it is written.
#[test]
fn a_disk_that_first_fails_and_then_hangs_makes_way() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.hung = Some(NodeId::A);
    pair.bad = beginning();
    pair.write(NodeId::A, 2);
    for (id, ticket) in std::mem::take(&mut pair.held) {
        pair.tell(id, Event::Done(ticket, Err(Fault::Broken)));
    }
    assert_eq!(pair.reply(2), Some(Reply::Failed));
    pair.write_at(NodeId::A, 3, 1 << 20);
    pair.pass(LONG);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
}

fn lagging() -> Config {
    Config {
        mode: Mode::Async { lag: 8 },
        alone: Alone::Continue,
        ..config(true)
    }
}

#[test]
fn in_mode_async_nobody_makes_way_with_what_the_other_one_lacks() {
    let mut pair = Pair::paired_with(lagging());
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.linked = false;
    pair.write(NodeId::A, 2);
    assert_eq!(pair.reply(2), Some(Reply::Done), "early");
    pair.linked = true;
    pair.hung = Some(NodeId::A);
    pair.nodes[0].hear(false); // Or the standby would be lost before.
    pair.write_at(NodeId::A, 3, 8192);
    pair.pass(2 * LONG);
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
}

#[test]
fn in_mode_async_who_was_given_the_place_has_everything() {
    let mut pair = hung(lagging());
    pair.write(NodeId::A, 3);
    pair.pass(LONG + 500);
    assert_eq!(roles(&pair), (Role::Seeking, Role::Primary));
}
