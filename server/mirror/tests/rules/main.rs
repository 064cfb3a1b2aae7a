//! Single rules, driven by hand: what the simulation meets too rarely, and what needs an operator.

mod hanging;
mod lagging;
mod pair;
mod suspended;
mod unreadable;

use mirror::{
    Ask, Body, Command, Config, Event, Incarnation, Message, Moment, NodeId, Notice, Op, Reply,
    Role, WhyNot, Witness, WitnessId, WitnessState, Yield,
};

use pair::{Pair, V, config};

#[test]
fn a_lease_alone_attaches_nobody() {
    let mut pair = Pair::paired(true);
    pair.pongs = false;
    assert!(
        pair.nodes[0].may_answer(Moment(pair.now)),
        "the lease still runs"
    );
    pair.ask(NodeId::A, 1, Ask::Attach);
    assert_eq!(pair.reply(1), None);
    pair.pongs = true;
    pair.pass(300);
    assert_eq!(
        pair.reply(1),
        Some(Reply::Done),
        "a sign of life that was sent later"
    );
}

#[test]
fn without_witness_and_standby_clients_wait_and_then_go_on() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    (pair.linked, pair.witnessed) = (false, false);
    pair.write(NodeId::A, 2);
    pair.pass(1700);
    assert_eq!(pair.reply(2), None);
    assert!(
        !pair.nodes[0].may_answer(Moment(pair.now)),
        "the lease is over"
    );
    pair.witnessed = true;
    pair.tell(NodeId::A, Event::Tick);
    pair.pass(600);
    let roles = (pair.role(NodeId::A), pair.role(NodeId::B));
    assert_eq!(roles, (Role::Primary, Role::Seeking));
    assert_eq!(pair.reply(2), Some(Reply::Done));
}

/// What both had applied is handed out as answered whenever this server's disk is done: that it leaves only while nobody
/// else can have been promoted is the caller's to see to, as for reads.
#[test]
fn an_answer_that_comes_late_may_not_leave_before_it_is_certain_who_is_primary() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.slow = Some(NodeId::A);
    pair.write(NodeId::A, 2);
    let stopped_at = Moment(pair.now);
    (pair.linked, pair.witnessed) = (false, false);
    pair.pass(1700);
    assert_eq!(pair.reply(2), None, "the disk is not done");
    pair.sum_up(0);
    assert_eq!(pair.reply(2), Some(Reply::Done));
    assert!(!pair.nodes[0].may_answer(Moment(pair.now)));
    assert!(!pair.nodes[0].may_answer(stopped_at), "no clock goes back");
    pair.witnessed = true;
    pair.pass(600);
    assert!(pair.nodes[0].may_answer(Moment(pair.now)), "fenced");
}

/// The disk of the primary stalls, and what the standby says lies unread.
#[test]
fn a_server_that_cannot_listen_takes_nobody_for_lost() {
    let mut pair = Pair::paired(true);
    pair.pongs = false;
    pair.nodes[0].hear(false);
    pair.pass(15_000);
    assert!(pair.nodes[0].status().paired);
    assert!(!pair.noted(NodeId::A, Notice::PeerLost));
    assert!(
        !pair.nodes[0].may_answer(Moment(pair.now)),
        "no promise was heard meanwhile"
    );
    pair.nodes[0].hear(true);
    pair.pass(900);
    pair.nodes[0].hear(true);
    assert!(
        pair.nodes[0].status().paired,
        "it has not listened for long"
    );
    pair.pass(200);
    assert!(pair.noted(NodeId::A, Notice::PeerLost), "and then counts");
}

/// A primary whose disk stalls again and again still finds out that the standby does not do what it was told.
#[test]
fn who_is_deaf_now_and_then_does_not_wait_for_ever() {
    // Every so many milliseconds; found out after so many.
    for (often, end) in [(5000, 30_000), (500, 60_000)] {
        let mut pair = Pair::paired(true);
        pair.ask(NodeId::A, 1, Ask::Attach);
        pair.slow = Some(NodeId::B);
        pair.write(NodeId::A, 2);
        for _ in (0..end).step_by(often) {
            assert!(pair.nodes[0].status().paired);
            pair.nodes[0].hear(false);
            pair.pass(100);
            pair.nodes[0].hear(true);
            pair.pass(often as u64 - 100);
        }
        pair.pass(2000);
        assert!(pair.noted(NodeId::A, Notice::PeerLost));
    }
}

#[test]
fn a_lost_witness_stops_nothing() {
    let mut pair = Pair::paired(true);
    pair.witnessed = false;
    pair.ask(NodeId::A, 1, Ask::Attach);
    for request in 2..20 {
        pair.pass(500);
        pair.write(NodeId::A, request);
        assert_eq!(pair.reply(request), Some(Reply::Done));
    }
}

#[test]
fn a_place_handed_over_is_taken_at_once() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.write(NodeId::A, 2);
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    assert_eq!(pair.role(NodeId::A), Role::Seeking);
    pair.tell(NodeId::B, Event::Tick);
    assert_eq!(pair.role(NodeId::B), Role::Primary, "in the next tick");
    pair.now += 300;
    pair.tell(NodeId::B, Event::Tick); // It greets first.
    pair.pass(500);
    assert!(pair.nodes[1].status().paired);
    assert_eq!(pair.role(NodeId::A), Role::Standby);
    pair.tell(NodeId::B, Event::Command(Command::HandOver));
    pair.tell(NodeId::A, Event::Tick);
    assert_eq!(pair.role(NodeId::A), Role::Primary, "and back");
}

#[test]
fn nobody_obeys_an_older_term() {
    let mut pair = Pair::paired(true);
    let term = pair.nodes[1].status().term;
    let session = pair.sent.iter().find_map(|message| match message.body {
        Body::Open { session, .. } => Some(session),
        _ => None,
    });
    let body = Body::Open {
        session: session.expect("one was opened"),
        to: Incarnation(2),
    };
    let old = Message {
        from: NodeId::A,
        term: mirror::Term(term.0 - 2),
        body,
    };
    pair.sent.clear();
    pair.tell(NodeId::B, Event::Received(old));
    assert_eq!(pair.role(NodeId::B), Role::Standby, "it stays where it was");
    let hello =
        |message: &Message| message.from == NodeId::B && matches!(message.body, Body::Hello(_));
    assert!(pair.sent.iter().any(hello), "and says what it knows");
}

#[test]
fn two_ways_are_seen_and_one_must_be_given_up() {
    let mut pair = Pair::paired(false);
    pair.linked = false;
    pair.pass(3000);
    pair.tell(NodeId::B, Event::Command(Command::Promote { force: true }));
    pair.pass(3000);
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Primary, Role::Primary)
    );
    pair.linked = true;
    pair.pass(3000);
    assert_eq!(
        pair.role(NodeId::A),
        Role::Seeking,
        "the older term gives way"
    );
    assert!(pair.noted(NodeId::B, Notice::SplitBrain));
    assert!(!pair.nodes[1].status().paired);
    pair.tell(NodeId::A, Event::Command(Command::Discard));
    pair.pass(3000);
    assert!(pair.nodes[1].status().paired);
    assert!(!pair.nodes[1].status().split_brain);
}

#[test]
fn without_a_witness_nobody_promotes_itself_beside_a_silent_primary() {
    let mut pair = Pair::paired(false);
    pair.linked = false;
    pair.pass(20_000);
    assert_eq!(pair.role(NodeId::B), Role::Seeking);
}

#[test]
fn without_a_witness_the_last_primary_resumes_beside_its_standby() {
    let mut pair = Pair::paired(false);
    pair.restart(NodeId::A, false);
    pair.pass(6000);
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Primary, Role::Standby)
    );
}

#[test]
fn who_lost_power_leaves_the_place_to_who_did_not() {
    let mut pair = Pair::paired(true);
    pair.restart(NodeId::A, true);
    pair.pass(6000);
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Standby, Role::Primary)
    );
}

#[test]
fn alone_after_a_power_cut_it_waits_for_a_person() {
    let mut pair = Pair::paired(true);
    pair.linked = false;
    pair.restart(NodeId::A, true);
    // B never sees the witness: as if it were dead, with everything that was answered on its disk.
    for _ in 0..100 {
        pair.now += 100;
        pair.tell(NodeId::A, Event::Tick);
    }
    assert_eq!(pair.role(NodeId::A), Role::Seeking);
    pair.tell(NodeId::A, Event::Command(Command::Promote { force: false }));
    pair.now += 3000;
    pair.tell(NodeId::A, Event::Tick);
    assert!(pair.noted(NodeId::A, Notice::NotPromotable(WhyNot::RolledBack)));
    pair.tell(NodeId::A, Event::Command(Command::Promote { force: true }));
    pair.now += 3000;
    pair.tell(NodeId::A, Event::Tick);
    assert_eq!(pair.role(NodeId::A), Role::Primary);
}

#[test]
fn a_term_raised_in_vain_is_told_to_who_won() {
    let mut pair = Pair::paired_with(Config {
        alone: mirror::Alone::Suspend,
        ..config(true)
    });
    // B wins behind A's back; A's own raise then fails at the witness, and A gives way.
    pair.linked = false;
    pair.witnessed = false;
    pair.pass(3000);
    pair.witnessed = true;
    for _ in 0..60 {
        pair.now += 50;
        pair.tell(NodeId::B, Event::Tick);
    }
    assert_eq!(pair.role(NodeId::B), Role::Primary);
    let above = pair.nodes[1].status().term.next_for(NodeId::A);
    let body = Body::Hello(mirror::Hello::default());
    let term = pair.nodes[1].status().term;
    let from = NodeId::B;
    pair.witnessed = false;
    pair.tell(NodeId::A, Event::Received(Message { from, term, body }));
    assert_eq!(pair.durable[0].term, above, "A prepares to go on above B");
    pair.witnessed = true;
    pair.pass(1500);
    assert_eq!(
        pair.role(NodeId::A),
        Role::Seeking,
        "and hears from the witness that B won"
    );
    pair.linked = true;
    pair.pass(6000);
    assert!(
        pair.nodes[1].status().paired,
        "B hears of A's term and goes above it"
    );
    assert!(pair.nodes[1].status().term > above);
}

#[test]
fn a_witness_that_forgot_is_asked_now_and_then_only() {
    let mut pair = Pair::paired(true);
    pair.witness = Some(Witness::new(WitnessState::new(WitnessId(10))));
    pair.linked = false;
    pair.asked = 0;
    pair.pass(10_000);
    assert!(pair.noted(NodeId::A, Notice::StrangeWitness));
    assert!(
        (2..100).contains(&pair.asked),
        "{} questions in ten seconds",
        pair.asked
    );
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Primary, Role::Seeking)
    );
    pair.tell(NodeId::A, Event::Command(Command::AcceptWitness));
    pair.pass(2000);
    assert!(
        pair.nodes[0].may_answer(Moment(pair.now)),
        "the operator said that it counts"
    );
}

#[test]
fn a_pair_in_step_agrees_on_a_new_witness() {
    let mut pair = Pair::paired(true);
    pair.witness = Some(Witness::new(WitnessState::new(WitnessId(10))));
    pair.tell(NodeId::A, Event::LinkDown);
    pair.tell(NodeId::B, Event::LinkDown);
    pair.pass(6000);
    assert!(pair.nodes[0].status().paired);
    let record = pair
        .witness
        .as_ref()
        .and_then(|witness| witness.state().record);
    assert!(
        record.is_some_and(|r| r.holder == NodeId::A && r.outdated.is_none()),
        "{record:?}"
    );
    assert!(
        pair.durable
            .iter()
            .all(|durable| durable.witness == Some(WitnessId(10)))
    );
}

/// A pair in step whose disks have `own` blocks each, being compared.
fn compared(own: u64, sums: [Option<Yield>; 2]) -> Pair {
    let mut pair = Pair::paired(true);
    (pair.own, pair.sums) = (own, sums);
    pair.sent.clear();
    pair.tell(NodeId::A, Event::Command(Command::Verify));
    pair
}

fn verified(blocks: u64, differing: u64) -> Notice {
    Notice::Verified { blocks, differing }
}

#[test]
fn what_is_equal_is_not_sent_again() {
    let pair = compared(200, [Some(Yield::Sum(7)), Some(Yield::Sum(7))]);
    assert!(pair.noted(NodeId::A, verified(200, 0)));
    assert_eq!(pair.restores(), 0);
}

#[test]
fn what_differs_is_sent_before_the_comparison_ends() {
    let pair = compared(200, [Some(Yield::Sum(7)), Some(Yield::Sum(8))]);
    assert!(pair.noted(NodeId::A, verified(200, 200)));
    assert_eq!(pair.restores(), 4, "pieces of 64 blocks");
    let status = pair.nodes[0].status();
    assert!(status.paired && status.unsent == 0);
    let found = pair.nodes[0].findings().expect("something was found");
    assert_eq!((found.differing.len(), found.stopped), (200, false));
}

#[test]
fn a_disk_that_is_gone_meanwhile_on_both_sides_differs_from_nothing() {
    let pair = compared(10, [Some(Yield::Gone), Some(Yield::Gone)]);
    assert!(pair.noted(NodeId::A, verified(10, 0)));
    assert!(!pair.noted(NodeId::A, Notice::PeerLost));
}

#[test]
fn a_comparison_holds_back_changes_of_the_same_blocks_only() {
    let mut pair = compared(64, [None, None]);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.write(NodeId::A, 2);
    let beyond = Op::Zero {
        volume: V,
        offset: 64 * 4096,
        length: 4096,
        trim: false,
    };
    pair.ask(NodeId::A, 3, Ask::Change(beyond));
    assert_eq!((pair.reply(2), pair.reply(3)), (None, Some(Reply::Done)));
    pair.sum_up(1);
    assert_eq!(pair.reply(2), Some(Reply::Done));
    assert!(pair.noted(NodeId::A, verified(64, 0)));
}

#[test]
fn a_comparison_ends_with_the_session_and_begins_only_in_step() {
    let mut pair = compared(64, [None, Some(Yield::Sum(1))]);
    pair.tell(NodeId::A, Event::LinkDown);
    assert!(pair.noted(NodeId::A, Notice::VerifyStopped));
    assert!(pair.nodes[0].findings().is_some_and(|found| found.stopped));
    pair.pass(6000);
    let status = pair.nodes[0].status();
    assert!(status.paired && status.verify.is_none());
    pair.notices.clear();
    pair.tell(NodeId::B, Event::Command(Command::Verify));
    assert!(pair.noted(NodeId::B, Notice::VerifyStopped));
}

#[test]
fn a_place_can_be_handed_over_in_the_middle_of_a_comparison() {
    let mut pair = compared(640, [None, None]);
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    assert_eq!(pair.role(NodeId::A), Role::Primary, "pieces are under way");
    pair.sum_up(1);
    assert_eq!(pair.role(NodeId::A), Role::Seeking);
    assert!(pair.noted(NodeId::A, Notice::VerifyStopped));
    assert!(!pair.noted(NodeId::A, Notice::PeerLost), "it was not lost");
}

/// It would serve what is wrong, and have the right content overwritten.
#[test]
fn nothing_is_handed_over_to_a_standby_that_is_found_wrong_meanwhile() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    (pair.own, pair.sums) = (64, [None, Some(Yield::Sum(1))]);
    pair.tell(NodeId::A, Event::Command(Command::Verify));
    pair.pass(200);
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    pair.pass(200);
    pair.sum_up(0);
    pair.pass(3000);
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Primary, Role::Standby)
    );
    assert!(pair.noted(NodeId::A, Notice::NotHandedOver));
    assert!(pair.restores() > 0, "it is sent again");
    pair.tell(NodeId::A, Event::Command(Command::HandOver));
    pair.pass(3000);
    assert_eq!(pair.role(NodeId::B), Role::Primary, "and now it is right");
}

/// It came when a session was about to begin, and is not kept for the day on which that ends.
#[test]
fn a_forced_promotion_does_not_outlast_a_session_that_was_about_to_begin() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.slow = Some(NodeId::B);
    pair.write(NodeId::A, 2); // The new session waits for this on B's disk.
    for id in [NodeId::A, NodeId::B] {
        pair.tell(id, Event::LinkDown);
    }
    let opens = |pair: &Pair| {
        let open = |message: &&Message| matches!(message.body, Body::Open { .. });
        pair.sent.iter().filter(open).count()
    };
    let before = opens(&pair);
    for _ in 0..100 {
        if opens(&pair) == before {
            pair.pass(50);
        }
    }
    assert!(opens(&pair) > before);
    pair.tell(NodeId::B, Event::Command(Command::Promote { force: true }));
    pair.slow = None;
    pair.sum_up(0);
    pair.pass(6000);
    let roles = |pair: &Pair| (pair.role(NodeId::A), pair.role(NodeId::B));
    assert_eq!(roles(&pair), (Role::Primary, Role::Standby));
    assert!(pair.noted(NodeId::B, Notice::NotPromotable(WhyNot::Led)));
    pair.linked = false;
    pair.pass(6000);
    assert_eq!(roles(&pair), (Role::Primary, Role::Seeking));
}

/// Nobody is deposed by mistake: who is to make way is told so, or stopped.
#[test]
fn a_standby_that_is_forced_stays_one_as_long_as_its_primary_is_there() {
    let mut pair = Pair::paired(true);
    pair.tell(NodeId::B, Event::Command(Command::Promote { force: true }));
    pair.pass(10_000);
    assert_eq!(
        (pair.role(NodeId::A), pair.role(NodeId::B)),
        (Role::Primary, Role::Standby)
    );
    let told = Notice::NotPromotable(WhyNot::Led);
    assert!(pair.noted(NodeId::B, told));
}

#[test]
fn a_seeking_server_sees_a_split_too() {
    let mut pair = Pair::paired(false);
    pair.linked = false;
    pair.pass(3000);
    pair.tell(NodeId::B, Event::Command(Command::Promote { force: true }));
    pair.pass(3000);
    pair.linked = true;
    pair.pass(3000);
    assert_eq!(pair.role(NodeId::A), Role::Seeking);
    assert!(pair.nodes[0].status().split_brain);
    pair.tell(NodeId::A, Event::Command(Command::Discard));
    pair.pass(3000);
    assert!(!pair.nodes[0].status().split_brain);
}

#[test]
fn the_lag_is_seen() {
    let mut pair = Pair::paired(true);
    pair.ask(NodeId::A, 1, Ask::Attach);
    pair.linked = false;
    pair.write(NodeId::A, 2);
    pair.now += 300;
    pair.tell(NodeId::A, Event::Tick);
    let status = pair.nodes[0].status();
    assert_eq!((status.in_flight, status.in_flight_bytes), (1, 8));
    assert_eq!(status.oldest, Some(mirror::Millis(300)));
}

#[test]
fn a_survey_of_very_many_pieces_still_fits_into_a_message() {
    let mut pair = Pair::paired(true);
    pair.sums = [None, None];
    pair.sparse = true;
    pair.sent.clear();
    pair.tell(NodeId::A, Event::Command(Command::Verify));
    let said = pair.sent.iter().find_map(|message| match &message.body {
        Body::Ack {
            answer: mirror::ItemAnswer::Blocks(blocks),
            ..
        } => Some(blocks),
        _ => None,
    });
    let said = said.expect("the standby answered");
    assert!(said.ranges().count() <= 1 << 20);
    assert!(said.contains(
        V,
        mirror::BlockRange {
            start: 8 << 20,
            end: (8 << 20) + 1
        }
    ));
}

#[test]
fn what_a_resync_has_brought_is_off_both_lists_soon() {
    let mut pair = Pair::new(config(true));
    (pair.own, pair.sums[1]) = (200, Some(Yield::Sum(1)));
    pair.tell(NodeId::A, Event::Command(Command::Promote { force: false }));
    pair.pass(6000);
    assert!(pair.nodes[0].status().paired && pair.restores() == 4);
    pair.linked = false;
    for (node, id) in [(0, NodeId::A), (1, NodeId::B)] {
        pair.tell(id, Event::LinkDown);
        assert!(pair.nodes[node].differing().is_empty(), "{id:?}");
    }
}

/// The primary's list says nothing of them, and the standby's own must not forget it with the process.
#[test]
fn what_a_standby_lost_is_sent_whole_also_after_its_restart() {
    for restart in [false, true] {
        let mut pair = Pair::paired(true);
        let (start, end) = (0, 200);
        pair.lost.insert(V, mirror::BlockRange { start, end });
        pair.sent.clear();
        pair.tell(NodeId::A, Event::LinkDown);
        pair.pass(2000);
        assert!(pair.noted(NodeId::B, Notice::StandbyFailed));
        assert!(pair.durable[1].inconsistent, "it must not lead");
        assert_eq!(pair.restores(), 0);
        if restart {
            pair.restart(NodeId::B, false);
        }
        pair.pass(10_000);
        assert!(pair.nodes[0].status().paired);
        assert_eq!(pair.restores(), 4, "pieces of 64 blocks");
    }
}
