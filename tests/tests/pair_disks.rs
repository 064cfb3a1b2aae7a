//! A pair one of whose servers has a disk that fails while it is in use: it concerns that machine, and nobody else.
//! A file that is cut short stands for a bad sector: it is an error to read what is gone.

use std::fs;
use std::path::PathBuf;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::disk::Disk;
use bootroom_tests::pair::seat::{client, mac};
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};

const A: Side = Side::A;
const B: Side = Side::B;

/// A pair with two machines: one under load, and one that rests.
fn pair() -> (Pair, Disk, Disk) {
    let room = client(1, "one", "tiny") + &client(2, "two", "tiny");
    let pair = Pair::new(&Plan {
        room: &room,
        ..Plan::default()
    });
    let one = pair.load(1, "one", 8);
    let two = pair.load(2, "two", 2);
    two.rest();
    (pair, one, two)
}

/// Cuts what the second machine has written on that server.
fn cut_short(pair: &Pair, side: Side) {
    let folder = pair.host(side).data().join("overlays");
    let hex = mac(2).replace(':', "");
    let inside = |folder: PathBuf| {
        let entries = fs::read_dir(folder).expect("a folder");
        entries.map(|entry| entry.expect("an entry").path())
    };
    let of_machine = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|n| n.to_string_lossy().starts_with(&hex))
    };
    let disk = inside(folder).find(of_machine).expect("it has a disk");
    let data = inside(disk).find(|path| path.extension().is_some_and(|e| e == "data"));
    let data = fs::File::options()
        .write(true)
        .open(data.expect("with data"));
    data.and_then(|file| file.set_len(0)).expect("it is cut");
}

#[test]
fn a_disk_that_the_primary_cannot_read_holds_up_no_other() {
    let (mut pair, one, two) = pair();
    pair.host_mut(B).kill();
    pair.wait_lone(A);
    two.go();
    two.wait_for_answers(100);
    two.rest();
    drop(two);
    cut_short(&pair, A);
    pair.host_mut(B).start();
    let found = wait_for("everything else to be sent", LIMIT, || {
        let status = pair.status(A);
        let disk = status["unreadable"].get(0)?.clone();
        let left = status["resync"]["blocks_left"].as_u64()?;
        (disk["blocks"] == left && disk["client"] == "two").then_some(status)
    });
    assert_eq!(found["unreadable"].as_array().map(Vec::len), Some(1));
    assert_eq!(found["paired"], false);
    let recent = found["recent"].as_array().expect("a list");
    let told = recent.iter().filter(|one| one["event"] == "unreadable");
    assert_eq!(told.count(), 1, "{recent:?}");
    let problems = found["problems"].to_string();
    assert!(
        problems.contains("`bootroom client reset two`"),
        "{problems}"
    );
    let said = pair.host(A).standby(&["status"]);
    assert_eq!(said.status.code(), Some(5));
    one.wait_for_answers(100);

    // The standby must not take over with it, and says why.
    pair.host_mut(A).freeze();
    wait_for("the standby to lose its primary", LIMIT, || {
        (pair.status(B)["role"] == "seeking").then_some(())
    });
    assert_eq!(pair.status(B)["consistent"], false);
    pair.host_mut(A).thaw();

    pair.wait_lone(A);
    let reset = pair
        .host(A)
        .server()
        .ask(&["client", "reset", "two", "--now", "--yes"]);
    assert!(reset.status.success(), "{reset:?}");
    pair.wait_paired(A);
    pair.compare(A);
    one.mark();
    pair.host_mut(A).kill();
    one.wait_attached(B);
    one.verify_unharmed();
}

#[test]
fn a_disk_that_fails_on_the_standby_is_brought_over_whole() {
    let (mut pair, one, two) = pair();
    pair.wait_paired(A);
    cut_short(&pair, B);
    // Whatever comes of it: it looks at every block.
    pair.host(A).standby(&["verify"]);
    wait_for("the disk to be put aside", LIMIT, || {
        let warnings = pair.status(B)["warnings"].to_string();
        warnings.contains(".damaged-").then_some(())
    });
    pair.wait_paired(A);
    pair.compare(A);
    two.go();
    for disk in [&one, &two] {
        disk.mark();
    }
    pair.host_mut(A).kill();
    for disk in [&one, &two] {
        disk.wait_attached(B);
        disk.verify_unharmed();
    }
}
