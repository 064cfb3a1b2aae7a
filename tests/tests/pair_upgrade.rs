//! What `server/docs/standby.md` says to do, word by word, while a machine's disk is under load: both servers and the witness
//! are upgraded, and a server that is dead for good is replaced.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::disk::Disk;
use bootroom_tests::pair::seat::client;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};

const A: Side = Side::A;
const B: Side = Side::B;
/// What the machines may have to wait at each handover.
const A_MOMENT: Duration = Duration::from_secs(5);

fn under_load() -> (Pair, Disk) {
    let room = client(1, "one", "tiny");
    let pair = Pair::new(&Plan {
        room: &room,
        ..Plan::default()
    });
    let disk = pair.load(1, "one", 8);
    (pair, disk)
}

/// Waits for what the page tells to wait for.
fn wait_for_status(pair: &Pair, side: Side, words: &str) {
    wait_for(words, LIMIT, || {
        let output = pair.host(side).standby(&["status"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success() && said.contains(words)).then_some(())
    });
}

/// The steps for one of the servers, the standby of `primary`, which hands over to it in the end.
fn upgrade_standby(pair: &mut Pair, primary: Side, release: &Path) {
    let standby = pair.host_mut(primary.other());
    assert!(standby.stop().success());
    standby.install(release);
    standby.start();
    wait_for_status(pair, primary, "both servers hold the same");
    pair.host(primary).standby_done(&["handover"]);
}

/// What runs as the server of that side.
fn running(pair: &Pair, side: Side) -> PathBuf {
    let status = pair.status(side);
    fs::read_link(format!("/proc/{}/exe", status["pid"])).expect("it runs")
}

/// Since the mark the machine has waited, and nothing else.
fn waited_a_moment(disk: &Disk, what: &str) {
    let pause = disk.report().pause;
    println!("{what:50} pause {pause:5.2} s");
    assert!(pause < A_MOMENT.as_secs_f64(), "{what}: {pause} s");
    disk.verify_unharmed();
}

#[test]
fn both_servers_and_the_witness_are_upgraded_while_a_machine_works() {
    let (mut pair, disk) = under_load();
    let release = pair.path("bootroom");
    fs::copy(binary::bootroom(), &release).expect("it can be copied");
    for primary in [A, B] {
        disk.mark();
        upgrade_standby(&mut pair, primary, &release);
        disk.wait_attached(primary.other());
        waited_a_moment(&disk, "a standby upgraded, and made the primary");
    }
    assert!(
        Side::BOTH
            .iter()
            .all(|side| running(&pair, *side) == release)
    );
    disk.mark();
    pair.witness.kill();
    pair.witness.start();
    wait_for_status(&pair, A, "has A down as primary");
    waited_a_moment(&disk, "the witness upgraded");
    // What was upgraded in this way still takes over by itself.
    disk.mark();
    pair.host_mut(A).kill();
    disk.wait_attached(B);
    disk.verify_unharmed();
}

#[test]
fn a_pair_is_ended_and_one_server_goes_on_with_the_disks() {
    let (mut pair, disk) = under_load();
    disk.wait_for_answers(200);
    let leave = ["standby", "leave", "--yes", "--config"];
    assert!(pair.host_mut(B).stop().success());
    let running = pair.host(A).on_files(&leave);
    let said = String::from_utf8_lossy(&running.stderr);
    assert!(said.contains("in use by another process"), "{said}");
    assert!(pair.host_mut(A).stop().success());
    let as_one_of_two = pair.host(A).configure_alone();
    let refused = pair.host(A).on_files(&["serve", "--config"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("bootroom standby leave"), "{said}");
    let left = pair.host(A).on_files(&leave);
    let said = String::from_utf8_lossy(&left.stderr);
    assert!(
        left.status.success() && said.contains("was the primary when it stopped"),
        "{said}"
    );
    disk.mark();
    pair.host_mut(A).start();
    disk.wait_attached(A);
    disk.verify_unharmed();
    assert!(pair.host_mut(A).stop().success());
    let again = pair.host(A).on_files(&leave);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("is not one of a pair"), "{said}");
    // Whoever comes back later is new to the pair, with disks of its own that are nobody's leftovers.
    pair.host(A).configure(&as_one_of_two);
    disk.mark();
    pair.host_mut(A).start();
    assert_eq!(pair.status(A)["own_disks"], 1);
    pair.host(A).promote();
    disk.wait_attached(A);
    disk.verify_unharmed();
}

#[test]
fn a_primary_that_is_dead_for_good_is_replaced_by_an_empty_one() {
    let (mut pair, disk) = under_load();
    disk.mark();
    pair.host_mut(A).kill();
    disk.wait_attached(B);
    pair.host(A).replace();
    pair.host_mut(A).start();
    wait_for_status(&pair, B, "both servers hold the same");
    pair.compare(B);
    disk.verify_unharmed();
    let mut verify = binary::command(&["image", "verify", "tiny", "--data"]);
    let verified = verify.arg(pair.host(A).data()).status();
    assert!(verified.expect("bootroom runs").success());
    disk.mark();
    pair.host_mut(B).kill();
    disk.wait_attached(A);
    disk.verify_unharmed();
}
