//! The client agent rides through everything that can happen to its server and its network, with no I/O error and no
//! block lost, while a load writes, syncs and reads back inside the machine all the time.

use std::time::Duration;

use bootroom_tests::guest::disk::{DiskServer, make_ext4};
use bootroom_tests::guest::outage::{self, Outage};
use bootroom_tests::guest::scene::{Scene, Special};

/// One machine goes through all of `outages`, and has lost nothing.
fn rides_through(relay: bool, outages: &[Outage]) {
    let mut scene = Scene::new(&Special {
        relay,
        ..Special::default()
    });
    for outage in outages {
        scene.survive(outage);
    }
    scene.verdict();
}

#[test]
fn rides_through_restarts_an_unplugged_cable_resets_and_a_moved_server() {
    let [restart, reset] = [outage::RESTART, outage::RESET];
    rides_through(
        true,
        &[
            restart,
            reset,
            outage::CABLE_SHORT,
            reset,
            outage::KILLED,
            outage::MOVED,
        ],
    );
}

#[test]
fn refuses_another_disk_loudly_and_goes_on_with_the_right_one() {
    let mut scene = Scene::simple();
    scene.server.kill();
    let small = scene.image.with_extension("small");
    make_ext4(&small, 32);
    let before = std::fs::read(&small).unwrap();
    let mut wrong = DiskServer::start(&small, scene.port, &["--name", "disk"]);
    scene.guest.expect(
        "REFUSED: the server offers another disk",
        Duration::from_secs(30),
    );
    wrong.kill();
    assert_eq!(
        std::fs::read(&small).unwrap(),
        before,
        "the wrong disk was written to"
    );
    scene.server.up();
    scene.guest.wait_for_writes(20);
    scene.verdict();
}

#[test]
fn a_server_that_is_slow_or_asked_nothing_is_not_left() {
    let mut scene = Scene::simple();
    scene.survive(&outage::SLOW);
    scene.guest.stop_load();
    // From here on the agent has somewhere to go to.
    let options = scene.server.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut other = DiskServer::start(&scene.image, scene.second, &options);
    outage::hold(15);
    other.stop();
    assert_eq!(scene.guest.run("dmesg | grep 'lost server' || true"), "");
    scene.verdict();
}

#[test]
fn the_agent_is_small_locked_and_holds_no_file() {
    let mut scene = Scene::simple();
    let of_agent =
        "for p in /proc/[0-9]*; do grep -q '^@bootroom' $p/cmdline && cd $p && break; done; ";
    let status = scene
        .guest
        .run(&format!("{of_agent} cat status oom_score_adj"));
    let number = |key: &str| -> u64 {
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_else(|| panic!("{key}: {status}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    println!(
        "VmRSS {} kB, VmLck {} kB",
        number("VmRSS:"),
        number("VmLck:")
    );
    assert!(number("VmRSS:") < 4096 && number("VmLck:") > 1000);
    assert!(status.trim_end().ends_with("-1000"));
    let open = scene
        .guest
        .run(&format!("{of_agent} ls -l fd exe cwd root"));
    for line in open.lines().filter(|line| line.contains("->")) {
        let to = line.rsplit("-> ").next().unwrap();
        let harmless = ["socket:", "/dev/kmsg", "/memfd:", "/", "pipe:", "/sys/"];
        assert!(
            harmless
                .iter()
                .any(|start| to == *start || start.len() > 1 && to.starts_with(start)),
            "{line}"
        );
    }
    scene.verdict();
}

#[test]
#[ignore = "long: make test-full"]
fn rides_through_a_minute_without_a_server_and_a_frozen_one() {
    rides_through(false, &[outage::KILLED_FOR_A_MINUTE, outage::FROZEN]);
}

#[test]
#[ignore = "long: make test-full"]
fn rides_through_a_pulled_cable() {
    rides_through(false, &[outage::CABLE_SHORT, outage::CABLE]);
}

#[test]
#[ignore = "long: make test-full"]
fn rides_through_ten_minutes_without_a_network() {
    rides_through(false, &[outage::CABLE_LONG]);
}

#[test]
#[ignore = "long: make test-full"]
fn rides_through_twenty_restarts_in_a_row() {
    rides_through(false, &[outage::TWENTY_RESTARTS]);
}

#[test]
#[ignore = "long: make test-full"]
fn rides_through_resets_at_random() {
    rides_through(true, &[outage::RESET; 20]);
}

#[test]
#[ignore = "long: make test-full"]
fn a_shutdown_without_the_server_ends_in_bounded_time() {
    let mut scene = Scene::simple();
    scene
        .guest
        .run("bootroom-attach --guard reboot & echo $! >/run/guard");
    scene.server.kill();
    scene
        .guest
        .run("(sync; touch /run/synced) & sleep 1; test ! -e /run/synced");
    let begun = std::time::Instant::now();
    scene.guest.run("kill $(cat /run/guard)");
    scene.guest.wait_for_end(Duration::from_secs(60));
    println!(
        "ended {:.1} s after the shutdown began",
        begun.elapsed().as_secs_f64()
    );
}
