//! A machine whose root is an ext4 on its network disk, under load that syncs every write, while the primaries of its pair
//! are killed, frozen, cut off, stopped and unplugged: it sees a pause, never an error, and no synced write is lost. Prints
//! how long the pauses were.

use std::time::Duration;

use bootroom_tests::pair::guest::{IMAGE, Machine, Pauses, import_root};
use bootroom_tests::pair::seat::client;
use bootroom_tests::pair::{Pair, Plan, Side};

/// How often each thing happens.
const TIMES: usize = 10;
/// What the pair promises of the middle one of several pauses.
const GOAL: Duration = Duration::from_secs(5);

fn pair() -> Pair {
    let room = client(1, "one", IMAGE);
    let plan = Plan {
        room: &room,
        ..Plan::default()
    };
    let mut pair = Pair::unstarted(&plan);
    import_root(&pair);
    pair.start();
    pair
}

/// Has one thing happen to the primary again and again; both servers are whole before each.
fn again_and_again(
    pair: &mut Pair,
    machine: &mut Machine,
    event: &'static str,
    happen: fn(&mut Pair, Side),
    mend: fn(&mut Pair, Side),
) -> Pauses {
    let each = (0..TIMES).map(|_| {
        let primary = pair.primary().expect("somebody serves");
        let pause = machine.survive(|| happen(pair, primary));
        mend(pair, primary);
        let primary = pair.primary().expect("somebody serves");
        pair.wait_paired(primary);
        pause
    });
    let pauses = Pauses {
        event,
        each: each.collect(),
    };
    pauses.print();
    pauses
}

fn start(pair: &mut Pair, side: Side) {
    pair.host_mut(side).start();
}

/// A machine lives through all of that, and no pause in the middle is longer than it may be.
fn goes_on(event: &'static str, happen: fn(&mut Pair, Side), mend: fn(&mut Pair, Side)) {
    let mut pair = pair();
    let mut machine = Machine::boot(&pair, 1, "one");
    let pauses = again_and_again(&mut pair, &mut machine, event, happen, mend);
    verdict(&pair, machine);
    assert!(pauses.median() <= GOAL, "{}", pauses.event);
}

/// The verdict on all of it, at whoever serves now.
fn verdict(pair: &Pair, machine: Machine) {
    let primary = pair.primary().expect("somebody serves");
    machine.verdict(pair, primary);
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_are_killed() {
    goes_on(
        "primary killed (-9)",
        |pair, side| {
            pair.host_mut(side).kill();
            pair.wait_serving(side.other());
        },
        start,
    );
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_are_stopped() {
    goes_on(
        "primary stopped (SIGTERM)",
        |pair, side| {
            assert!(pair.host_mut(side).stop().success());
            pair.wait_serving(side.other());
        },
        start,
    );
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_are_frozen() {
    goes_on(
        "primary frozen (SIGSTOP), thawed after",
        |pair, side| {
            pair.host(side).freeze();
            pair.wait_serving(side.other());
        },
        |pair, side| pair.host(side).thaw(),
    );
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_are_cut_off_from_their_standby() {
    goes_on(
        "link between the servers cut, both ways",
        |pair, side| {
            Side::BOTH.iter().for_each(|side| pair.host(*side).cut());
            pair.wait_lone(side);
        },
        |pair, _| Side::BOTH.iter().for_each(|side| pair.host(*side).join()),
    );
}

#[test]
#[ignore = "long: make test-full"]
fn a_primary_loses_its_standby_ten_times() {
    goes_on(
        "standby killed (-9)",
        |pair, side| {
            pair.host_mut(side.other()).kill();
            pair.wait_lone(side);
        },
        |pair, side| pair.host_mut(side.other()).start(),
    );
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_hand_over() {
    goes_on(
        "primary handed over (standby handover)",
        |pair, side| drop(pair.host(side).standby_done(&["handover"])),
        |_, _| {},
    );
}

#[test]
#[ignore = "long: make test-full"]
fn ten_primaries_in_a_row_are_unplugged() {
    goes_on(
        "primary's cable pulled, as by a power cut",
        |pair, side| {
            pair.plug(side, false);
            pair.wait_serving(side.other());
        },
        |pair, side| pair.plug(side, true),
    );
}
