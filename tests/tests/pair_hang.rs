//! A disk that hangs under a pair's primary: a filesystem that is frozen takes no change and gives no error, and its server
//! gives signs of life as ever.

use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::held::Held;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};

const A: Side = Side::A;
const B: Side = Side::B;

/// What counts as hanging, and what is needed to notice it and to take over.
const HUNG: Duration = Duration::from_secs(60);

const ROOM: &str = "[clients.one]\nmac = \"52:54:00:80:00:01\"\nimage = \"tiny\"\nretention = \"keep\"\n\
     [clients.two]\nmac = \"52:54:00:80:00:02\"\nimage = \"tiny\"\nretention = \"keep\"\n";

fn pair() -> Pair {
    pair_with("")
}

/// With further lines of `[standby]`.
fn pair_with(standby: &str) -> Pair {
    Pair::new(&Plan {
        room: ROOM,
        hangs: true,
        standby,
        ..Plan::default()
    })
}

/// The other one serves, though nobody stopped this one.
fn wait_replaced(pair: &Pair, hung: Side) {
    wait_for("the standby to take over", HUNG, || {
        pair.host(hung.other()).serves().then_some(())
    });
}

fn events(pair: &Pair, side: Side) -> Vec<String> {
    let status = pair.status(side);
    let recent = status["recent"].as_array().expect("a list");
    let names = recent.iter().filter_map(|one| one["event"].as_str());
    names.map(str::to_owned).collect()
}

#[test]
fn a_primary_whose_disk_hangs_makes_way_and_comes_back_as_the_standby() {
    let pair = pair();
    let disk = pair.load(1, "one", 8);
    let seat = pair.seat(2);
    seat.lease();
    let export = seat.export(A.address(), "two");
    let mut held = Held::start(&seat, &export, A);
    disk.mark();
    pair.host(A).hang();
    held.ask();
    wait_replaced(&pair, A);
    disk.wait_attached(B);
    println!("pause {:.2} s", disk.report().pause);
    disk.verify_unharmed();
    let status = pair.status(A);
    assert!(status["disk_hangs_seconds"].as_f64() > Some(29.0));
    assert!(status["problems"].to_string().contains("has ended nothing"));
    assert!(events(&pair, A).contains(&"disk-hangs".to_owned()));
    disk.wait_for_answers(200);
    pair.host(A).go_on();
    let ends = held.ends();
    for what in ["write", "flush"] {
        assert_eq!(ends[what], "ENOTCONN", "{ends:?}");
    }
    pair.wait_paired(B);
    pair.compare(B);
    assert!(pair.status(A)["disk_hangs_seconds"].is_null());
    disk.verify_unharmed();
}

/// What it answered before the standby had it keeps it in its place only until that has it.
#[test]
#[ignore = "long: make test-full"]
fn in_mode_async_too_nothing_that_was_answered_is_lost_when_a_disk_hangs() {
    let pair = pair_with("mode = \"async\"");
    let disk = pair.load(1, "one", 32);
    disk.wait_for_answers(2000);
    disk.mark();
    pair.host(A).hang();
    wait_replaced(&pair, A);
    disk.wait_attached(B);
    disk.verify_unharmed();
    pair.host(A).go_on();
    pair.wait_paired(B);
    pair.compare(B);
    disk.verify_unharmed();
}

/// Nobody asks anything of that disk but the server itself.
#[test]
#[ignore = "long: make test-full"]
fn a_primary_that_is_asked_nothing_notices_that_its_disk_hangs() {
    let pair = pair();
    pair.host(A).hang();
    wait_replaced(&pair, A);
    pair.host(A).go_on();
    pair.wait_paired(B);
    pair.compare(B);
}

/// A person is asked for nothing as long as the servers reach one another.
#[test]
#[ignore = "long: make test-full"]
fn without_a_whole_standby_the_machines_wait_for_the_disk() {
    let mut pair = pair();
    let disk = pair.load(1, "one", 8);
    pair.host_mut(B).kill();
    disk.wait_for_answers(200);
    disk.mark();
    pair.host(A).hang();
    wait_for("it to be said", HUNG, || {
        let problems = pair.status(A)["problems"].to_string();
        problems
            .contains("there is no standby that holds everything")
            .then_some(())
    });
    assert!(
        pair.host(A)
            .status()
            .is_some_and(|status| status["role"] == "primary")
    );
    pair.host(A).go_on();
    disk.wait_for_answers(200);
    disk.verify_unharmed();
    pair.host_mut(B).start();
    wait_for("both to hold the same", LIMIT, || {
        pair.host(A).is_paired().then_some(())
    });
    pair.compare(A);
}
