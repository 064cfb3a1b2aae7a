//! A pair whose servers are 20 ms apart: everything works, and takes no more round trips than it must.

use std::time::{Duration, Instant};

use bootroom_tests::pair::line::{Line, Quality};
use bootroom_tests::pair::seat::{Seat, client};
use bootroom_tests::pair::{Pair, Plan, Side, image};
use client::{Client, Work};

#[path = "../src/bin/bench_nbd/client.rs"]
#[allow(dead_code)] // What the benchmarks need.
mod client;

const A: Side = Side::A;
const B: Side = Side::B;

/// There and back. Seconds.
const TRIP: f64 = 0.020;
/// 400 Mbit/s.
const SPEED: u64 = 50_000_000;
const LINE: Quality = Quality {
    delay: Duration::from_millis(10),
    speed: SPEED,
};
const SPAN: Duration = Duration::from_secs(3);

fn open(export: &str) -> Client {
    Client::connect_to((A.address(), 10809), export).unwrap_or_else(|error| panic!("{error:#}"))
}

/// Writes of 4 KiB in a second, so many at a time.
fn rate(seat: &Seat, export: &str, depth: usize) -> f64 {
    let run = || open(export).run(Work::random(4096, depth, 0), SPAN);
    let (done, took) = seat.namespace().inside(run).expect("it is served");
    let rate = done as f64 / took.as_secs_f64();
    println!(
        "write 4k d{depth:<4} {rate:7.0} /s, {:6.2} in a round trip",
        rate * TRIP
    );
    rate
}

/// What happened to the pair at A since it was started.
fn events(pair: &Pair) -> Vec<String> {
    let status = pair.status(A);
    let recent = status["recent"].as_array().expect("a list").iter();
    recent
        .map(|one| one["event"].as_str().expect("a name").to_owned())
        .collect()
}

#[test]
#[ignore = "long: make test-full"]
fn twenty_milliseconds_apart_they_are_a_pair_all_the_same() {
    let room = client(1, "one", "tiny");
    let mut pair = Pair::unstarted(&Plan {
        room: &room,
        ..Plan::default()
    });
    image::import(pair.host(A), "tiny");
    let _line = Line::lay(&pair, LINE);
    pair.start();
    let seat = pair.seat(1);
    seat.lease();
    let export = seat.export(A.address(), "one");
    seat.namespace()
        .inside(|| open(&export).fill())
        .expect("it is served");

    let [one, many, more] = [1, 32, 128].map(|depth| rate(&seat, &export, depth));
    assert!(one * TRIP < 1.0, "answered before the standby had it");
    assert!(one * TRIP > 0.5, "more than a round trip");
    assert!(many > 8.0 * one, "they wait for one another");
    assert!(more > many, "more depth brings no more");
    let happened = events(&pair);
    assert!(
        !happened.iter().any(|event| event == "peer-lost"),
        "{happened:?}"
    );
    assert!(pair.host(A).is_paired());

    resync(&mut pair, &seat, &export);
    pair.compare(A);
    assert_eq!(pair.status(A)["term"], 2);
}

/// Everything is sent again.
fn resync(pair: &mut Pair, seat: &Seat, export: &str) {
    pair.host_mut(B).kill();
    pair.wait_lone(A);
    seat.namespace()
        .inside(|| open(export).fill())
        .expect("it is served");
    let begun = Instant::now();
    pair.host_mut(B).start();
    pair.wait_paired(A);
    let bytes = image::MEGABYTES << 20;
    let share = bytes as f64 / begun.elapsed().as_secs_f64() / SPEED as f64;
    println!(
        "resync of {} MiB with the start of the server: {share:.2} of the line",
        image::MEGABYTES
    );
    assert!(share > 0.05, "the line lies idle");
}
