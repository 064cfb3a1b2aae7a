//! Two servers and a witness as real processes: whatever happens to one of them, the machines' disks go on, and hold what
//! was answered. Double power cuts cannot be had with processes, which leave their page cache behind: the simulation of
//! the mirror has them.

use std::fs;
use std::path::Path;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::disk::Disk;
use bootroom_tests::pair::held::{Held, first_byte};
use bootroom_tests::pair::seat::mac;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};

const A: Side = Side::A;
const B: Side = Side::B;

/// Machines with lasting disks, and one whose disk stops growing when there is little room.
fn room() -> String {
    let client = |(number, name, lasts): (u8, &str, &str)| {
        let mac = mac(number);
        format!("[clients.{name}]\nmac = {mac:?}\nimage = \"tiny\"\nretention = {lasts:?}\n")
    };
    let all = [
        (1, "one", "keep"),
        (2, "two", "keep"),
        (3, "three", "session"),
    ];
    all.map(client).concat()
}

/// A pair, and a machine whose disk is under load.
fn under_load(plan: Plan<'_>) -> (Pair, Disk) {
    let room = room();
    let pair = Pair::new(&Plan {
        room: &room,
        ..plan
    });
    let disk = pair.load(1, "one", 8);
    (pair, disk)
}

/// The machine goes on, at that server.
fn goes_on_at(disk: &Disk, side: Side, what: &str) {
    disk.wait_attached(side);
    println!("{what:50} pause {:5.2} s", disk.report().pause);
}

/// Both servers are there again, and hold the same.
fn mend(pair: &mut Pair, disk: &Disk, primary: Side) {
    if !pair.host(primary.other()).is_running() {
        pair.host_mut(primary.other()).start();
    }
    pair.wait_paired(primary);
    pair.compare(primary);
    disk.wait_for_answers(20);
}

#[test]
fn a_killed_primary_is_replaced_and_comes_back() {
    let (mut pair, disk) = under_load(Plan::default());
    for (primary, standby) in [(A, B), (B, A)] {
        disk.mark();
        pair.host_mut(primary).kill();
        goes_on_at(&disk, standby, "primary killed");
        disk.verify_unharmed();
        mend(&mut pair, &disk, standby);
    }
    disk.mark();
    pair.host_mut(B).kill();
    disk.wait_for_answers(20);
    println!(
        "{:50} pause {:5.2} s",
        "standby killed",
        disk.report().pause
    );
    // Another box in the place of the dead one has everything after a while, and serves it.
    pair.host(B).replace();
    mend(&mut pair, &disk, A);
    disk.mark();
    assert!(pair.host_mut(A).stop().success());
    goes_on_at(&disk, B, "primary stopped (SIGTERM)");
    mend(&mut pair, &disk, B);
    disk.verify_unharmed();
}

#[test]
fn a_frozen_primary_answers_nothing_when_it_thaws() {
    let (mut pair, disk) = under_load(Plan::default());
    let seat = pair.seat(2);
    seat.lease();
    let export = seat.export(A.address(), "two");
    let mut held = Held::start(&seat, &export, A);
    disk.mark();
    pair.host(A).freeze();
    held.ask();
    goes_on_at(&disk, B, "primary frozen (SIGSTOP)");
    pair.host(A).thaw();
    let ends = held.ends();
    assert!(
        ends.values().all(|end| *end == "ENOTCONN"),
        "answered by a server that is none: {ends:?}"
    );
    mend(&mut pair, &disk, B);
    assert_eq!(
        first_byte(&seat, &export, B),
        1,
        "nobody answered the write of twos"
    );
    disk.verify_unharmed();
    pair.host_mut(B).kill();
    goes_on_at(&disk, A, "primary killed after that");
    assert_eq!(
        first_byte(&seat, &export, A),
        1,
        "nobody answered the write of twos"
    );
    disk.verify_unharmed();
}

#[test]
fn a_cut_between_the_servers_stops_nobody() {
    let (mut pair, disk) = under_load(Plan::default());
    for (what, cut) in [
        ("A does not reach B", &[A][..]),
        ("B does not reach A", &[B]),
        ("neither reaches the other", &[A, B]),
    ] {
        disk.mark();
        cut.iter().for_each(|side| pair.host(*side).cut());
        wait_for("the loss to be noticed", LIMIT, || {
            let primary = pair.primary()?;
            (!pair.host(primary).is_paired()).then_some(())
        });
        disk.wait_for_answers(50);
        println!("{what:50} pause {:5.2} s", disk.report().pause);
        let primary = pair.primary().expect("somebody serves");
        assert!(!pair.host(primary.other()).serves(), "two serve");
        disk.verify_unharmed();
        cut.iter().for_each(|side| pair.host(*side).join());
        mend(&mut pair, &disk, primary);
    }
    disk.verify_unharmed();
}

#[test]
fn machines_wait_when_nobody_can_decide_and_only_then() {
    let (mut pair, disk) = under_load(Plan::default());
    disk.mark();
    pair.witness.kill();
    disk.wait_for_answers(200);
    assert!(
        disk.report().pause < 1.0,
        "the witness is asked by nobody: {:?}",
        disk.report()
    );
    pair.host_mut(B).kill();
    wait_for("machines to wait", LIMIT, || {
        let waits = !pair.host(A).serves() && disk.report().pause > 3.0;
        waits.then_some(())
    });
    let waiting = disk.report().answered;
    pair.witness.start();
    disk.wait_for_answers(50);
    assert!(disk.report().answered > waiting);
    // Alone and fenced it needs nobody.
    disk.mark();
    pair.witness.kill();
    disk.wait_for_answers(200);
    assert!(disk.report().pause < 1.0, "{:?}", disk.report());
    pair.witness.start();
    mend(&mut pair, &disk, A);
    disk.verify_unharmed();
}

#[test]
fn a_full_disk_is_an_error_of_the_primary_and_none_of_the_standby() {
    let (mut pair, disk) = under_load(Plan {
        small: true,
        ..Plan::default()
    });
    pair.host(B).leave_room(Some(256 << 10));
    disk.grow();
    wait_for("the standby to give up", LIMIT, || {
        (pair.host(A).serves() && !pair.host(A).is_paired()).then_some(())
    });
    disk.wait_for_answers(200);
    disk.verify_unharmed();
    pair.host(B).leave_room(None);
    mend(&mut pair, &disk, A);
    pair.host(A).leave_room(Some(256 << 10));
    disk.grow();
    let failed = wait_for("the disk to be full", LIMIT, || {
        Some(disk.report().failed).filter(|failed| !failed.is_empty())
    });
    assert!(failed.iter().all(|error| error == "ENOSPC"), "{failed:?}");
    disk.verify();
    pair.host(A).leave_room(None);
    wait_for("writes to succeed", LIMIT, || {
        disk.mark();
        let report = disk.wait_for_answers(200);
        report.failed.is_empty().then_some(())
    });
    mend(&mut pair, &disk, A);
    pair.host_mut(A).kill();
    goes_on_at(&disk, B, "primary killed after both were full");
    disk.verify_unharmed();
}

/// What `standby status` warns of.
fn warnings(pair: &Pair, side: Side) -> String {
    let status = pair.status(side);
    status["warnings"].to_string()
}

#[test]
fn a_standby_low_on_space_takes_what_the_primary_allowed() {
    let (mut pair, disk) = under_load(Plan {
        small: true,
        ..Plan::default()
    });
    pair.host(B).leave_room(Some(256 << 20));
    let small = pair.load(3, "three", 8);
    small.grow();
    small.wait_for_answers(600);
    let failed = |side| {
        let status = pair.status(side);
        let recent = status["recent"].as_array().expect("a list").clone();
        recent.iter().any(|one| one["event"] == "standby-failed")
    };
    assert!(!failed(B), "refused what the primary had allowed");
    assert!(pair.host(A).is_paired());
    assert!(warnings(&pair, B).contains("Make room"));
    assert_eq!(warnings(&pair, A), "[]");
    pair.compare(A);
    for one in [&disk, &small] {
        one.mark();
    }
    pair.host_mut(A).kill();
    for one in [&disk, &small] {
        goes_on_at(one, B, "primary killed, standby low on space");
        one.verify();
    }
}

#[test]
fn a_damaged_disk_keeps_a_standby_out_no_longer_than_it_takes_to_send_it_again() {
    let (mut pair, disk) = under_load(Plan::default());
    let other = pair.load(2, "two", 2);
    pair.host_mut(B).kill();
    disk.wait_for_answers(100);
    let folder = pair.host(B).data().join("overlays");
    let spoilt = spoil(&folder, &mac(1), "live");
    mend(&mut pair, &disk, A);
    let left = folder.join(format!(".damaged-{spoilt}"));
    assert!(left.is_dir(), "{}", left.display());
    assert!(warnings(&pair, B).contains(".damaged-"));
    let said = fs::read_to_string(pair.host(B).log()).expect("a log");
    assert!(said.contains("is damaged and put aside"));
    for one in [&disk, &other] {
        one.mark();
    }
    pair.host_mut(A).kill();
    for one in [&disk, &other] {
        goes_on_at(one, B, "primary killed after a disk was sent again");
        one.verify_unharmed();
    }
    mend(&mut pair, &disk, B);
    // Both die, and the one that led comes back with a disk that only the other one has whole by now.
    for side in [B, A] {
        pair.host_mut(side).kill();
    }
    spoil(&folder, &mac(1), "manifest");
    for side in [B, A] {
        pair.host_mut(side).start();
    }
    pair.wait_paired(A);
    for one in [&disk, &other] {
        one.wait_attached(A);
        one.verify_unharmed();
    }
}

/// Spoils the map, or the manifest, of a machine's overlay; gives the overlay's name.
fn spoil(folder: &Path, mac: &str, which: &str) -> String {
    let hex = mac.replace(':', "");
    let names = fs::read_dir(folder).expect("overlays");
    let names = names.map(|entry| entry.expect("an entry").file_name());
    let mut names = names.map(|name| name.into_string().expect("text"));
    let name = names.find(|name| name.starts_with(&hex));
    let name = name.expect("the machine has a disk");
    let files = fs::read_dir(folder.join(&name)).expect("its files");
    let files = files.map(|entry| entry.expect("an entry").path());
    let mut spoilt = files.filter(|path| path.to_string_lossy().ends_with(which));
    fs::write(spoilt.next().expect("there is one"), "noise").expect("it can be written");
    name
}
