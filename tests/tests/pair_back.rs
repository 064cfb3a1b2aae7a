//! What a standby held before a resync: there to be gone back to while the resync lasts, and nothing of it left after.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::line::{Line, Quality};
use bootroom_tests::pair::seat::{Seat, client, text};
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side, image};
use serde_json::Value;

const A: Side = Side::A;
const B: Side = Side::B;

/// So slow that a resync can be broken off.
const LINE: Quality = Quality {
    delay: Duration::from_millis(1),
    speed: 8_000_000,
};

/// Does something to a machine's disk, as `side` serves it, in Python, where `h` is the disk; what it prints.
fn at(seat: &Seat, side: Side, what: &str) -> String {
    let export = seat.export(side.address(), "one");
    let uri = format!("nbd://{}/{export}", side.address());
    let script = format!(
        "import nbd, sys, hashlib; h = nbd.NBD(); h.connect_uri(sys.argv[1])\n{what}\nh.shutdown()"
    );
    let mut python = seat.namespace().command("/usr/bin/python3");
    let output = python
        .args(["-c", &script, &uri])
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout)
        .expect("text")
        .trim()
        .to_owned()
}

/// Writes all of the disk but its first and last megabyte anew.
fn fill(seat: &Seat, seed: u8) {
    at(
        seat,
        A,
        &format!(
            "for n in range(1, h.get_size() // 2**20 - 1):\n h.pwrite(bytes([{seed} + n % 100]) * 2**20, n * 2**20)\nh.flush()"
        ),
    );
}

fn digest(seat: &Seat, side: Side) -> String {
    at(
        seat,
        side,
        "d = hashlib.sha256()\nfor n in range(h.get_size() // 2**20): d.update(h.pread(2**20, n * 2**20))\nprint(d.hexdigest())",
    )
}

/// Layers of the disks on a server, and the bytes that they take.
fn layers(pair: &Pair, side: Side) -> (usize, u64) {
    use std::os::unix::fs::MetadataExt;
    let folders = fs::read_dir(pair.host(side).data().join("overlays")).expect("overlays");
    let files = folders.flat_map(|folder| {
        let path = folder.expect("an entry").path();
        fs::read_dir(path).into_iter().flatten()
    });
    let data = files.map(|file| file.expect("an entry").path());
    let data = data.filter(|path| path.extension().is_some_and(|ending| ending == "data"));
    let sizes: Vec<u64> = data
        .filter_map(|path| fs::metadata(path).ok())
        .map(|about| about.blocks() * 512)
        .collect();
    (sizes.len(), sizes.iter().sum())
}

fn is_kept(data: &Path) -> bool {
    data.join("mirror/kept").exists()
}

/// Both servers hold the same, and nothing else.
fn nothing_is_kept(pair: &Pair) {
    wait_for("what was kept to go", LIMIT, || {
        let one_each = Side::BOTH.iter().all(|side| layers(pair, *side).0 == 1);
        let kept = Side::BOTH
            .iter()
            .any(|side| is_kept(&pair.host(*side).data()));
        (one_each && !kept).then_some(())
    });
    let [(_, a), (_, b)] = Side::BOTH.map(|side| layers(pair, side));
    assert!(a.abs_diff(b) < 1 << 20, "{a} bytes and {b}");
    for side in Side::BOTH {
        assert_eq!(pair.status(side)["kept"], Value::Null);
    }
}

fn pair_with_a_disk() -> (Pair, Line, Seat) {
    let room = client(1, "one", "tiny");
    let mut pair = Pair::unstarted(&Plan {
        room: &room,
        ..Plan::default()
    });
    image::import(pair.host(A), "tiny");
    let line = Line::lay(&pair, LINE);
    pair.start();
    let seat = pair.seat(1);
    seat.lease();
    fill(&seat, 1);
    (pair, line, seat)
}

/// The standby misses something, and is there again.
fn part(pair: &mut Pair, seat: &Seat, seed: u8) {
    pair.host_mut(B).kill();
    pair.wait_lone(A);
    fill(seat, seed);
    pair.host_mut(B).start();
}

/// Waits until a good part of a resync is done.
fn wait_half_way(pair: &Pair) {
    wait_for("a part of the resync", LIMIT, || {
        let done = pair.status(A)["resync"]["blocks_done"].as_u64();
        (done? > 2000).then_some(())
    });
}

#[test]
fn a_standby_whose_primary_dies_while_it_brings_it_up_goes_back_to_what_it_had() {
    let (mut pair, _line, seat) = pair_with_a_disk();
    let before = digest(&seat, A);
    part(&mut pair, &seat, 101);
    // Broken off and begun again, the first state is the one that counts.
    wait_half_way(&pair);
    pair.host_mut(B).kill();
    pair.host_mut(B).start();
    wait_half_way(&pair);
    assert!(
        pair.status(B)["kept"]["begun"].is_u64(),
        "{}",
        pair.status(B)
    );
    let newer = digest(&seat, A);
    assert_ne!(newer, before);
    pair.host_mut(A).kill();
    wait_for("the loss to be noticed", LIMIT, || {
        (pair.status(B)["role"] == "seeking").then_some(())
    });
    let problems = pair.status(B)["problems"].to_string();
    assert!(problems.contains("--before-resync"), "{problems}");
    assert!(!pair.host(B).standby(&["promote", "--yes"]).status.success());
    pair.host_mut(B).kill();
    pair.host_mut(B).start();
    let said = pair
        .host(B)
        .standby_done(&["promote", "--force", "--before-resync", "--yes"]);
    println!("{said}");
    pair.wait_serving(B);
    seat.lease();
    assert_eq!(digest(&seat, B), before, "byte for byte");
    // The dead one is found again, with what was lost here: nobody takes the other's before a person says so.
    pair.host_mut(A).start();
    wait_for("the split to be seen", LIMIT, || {
        pair.status(A)["split_brain"].is_array().then_some(())
    });
    assert!(!pair.host(B).is_paired());
    pair.host(A).standby_done(&["discard", "--yes"]);
    pair.wait_paired(B);
    pair.compare(B);
    nothing_is_kept(&pair);
    assert_eq!(digest(&seat, B), before);
}

#[test]
fn nothing_is_kept_of_what_was_there_before_a_resync_that_has_ended() {
    let (mut pair, _line, seat) = pair_with_a_disk();
    part(&mut pair, &seat, 101);
    wait_half_way(&pair);
    assert!(is_kept(&pair.host(B).data()));
    assert_eq!(layers(&pair, B).0, 2);
    pair.wait_paired(A);
    nothing_is_kept(&pair);
    pair.compare(A);
    let newer = digest(&seat, A);
    pair.host_mut(A).kill();
    pair.wait_serving(B);
    seat.lease();
    assert_eq!(digest(&seat, B), newer);
    let back = pair
        .host(B)
        .standby(&["promote", "--force", "--before-resync", "--yes"]);
    assert!(back.status.success(), "it is the primary already");
}

#[test]
fn a_standby_with_little_room_is_brought_up_all_the_same_and_keeps_nothing() {
    let room = client(1, "one", "tiny");
    let mut pair = Pair::new(&Plan {
        room: &room,
        small: true,
        ..Plan::default()
    });
    let seat = pair.seat(1);
    seat.lease();
    fill(&seat, 1);
    // Below the mark, and enough for what comes.
    pair.host(B).leave_room(Some(256 << 20));
    part(&mut pair, &seat, 101);
    pair.wait_paired(A);
    let recent = pair.status(B)["recent"].to_string();
    assert!(recent.contains("kept-no-longer"), "{recent}");
    assert_eq!(pair.status(B)["kept"], Value::Null);
    pair.compare(A);
}
