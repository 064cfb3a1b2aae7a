//! The client agent rides through everything that can happen to its server and its network, with no I/O error and no
//! block lost, while a load writes, syncs and reads back inside the machine all the time.

use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::guest::disk::{DiskServer, free_port, make_ext4};
use bootroom_tests::guest::relay::Relay;
use bootroom_tests::guest::scene::{Scene, Special};
use rustix::process::Signal;

fn hold(time: Duration) {
    // The outage itself is the event: it has to last.
    std::thread::sleep(time);
}

#[test]
fn rides_through_a_restart_a_kill_and_a_moved_server() {
    let (first, second) = (free_port(), free_port());
    let mut scene = Scene::new(
        first,
        &Special {
            ports: vec![first, second],
            ..Special::default()
        },
    );
    scene.pause("server restarted", |scene| {
        scene.server.kill();
        scene.server.up();
    });
    scene.pause("killed, back after 5 s", |scene| {
        scene.server.kill();
        hold(Duration::from_secs(5));
        scene.server.up();
    });
    scene.pause("killed, back at another address", |scene| {
        scene.server.kill();
        scene.server = DiskServer::start(&scene.image, second, &["--name", "disk"]);
    });
    scene.verdict();
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
        let harmless = ["socket:", "/dev/kmsg", "/memfd:", "/", "pipe:"];
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
#[ignore = "two minutes"]
fn rides_through_a_minute_without_a_server() {
    let mut scene = Scene::simple();
    scene.pause("killed, back after 60 s", |scene| {
        scene.server.kill();
        hold(Duration::from_secs(60));
        scene.server.up();
    });
    scene.verdict();
}

#[test]
#[ignore = "a minute"]
fn rides_through_a_frozen_server() {
    let mut scene = Scene::simple();
    scene.pause("frozen for 20 s and thawed", |scene| {
        scene.server.signal(Signal::STOP);
        hold(Duration::from_secs(20));
        scene.server.signal(Signal::CONT);
    });
    scene.verdict();
}

#[test]
#[ignore = "three minutes"]
fn rides_through_a_pulled_cable() {
    let mut scene = Scene::simple();
    for seconds in [5, 90] {
        scene.pause(&format!("cable out for {seconds} s"), |scene| {
            scene.guest.set_link(false);
            hold(Duration::from_secs(seconds));
            scene.guest.set_link(true);
        });
    }
    scene.verdict();
}

#[test]
#[ignore = "two minutes"]
fn rides_through_twenty_restarts_in_a_row() {
    let mut scene = Scene::simple();
    for turn in 1..=20 {
        scene.pause(&format!("restart {turn}"), |scene| {
            scene.server.kill();
            scene.server.up();
        });
    }
    scene.verdict();
}

#[test]
#[ignore = "two minutes"]
fn rides_through_resets_at_random() {
    let port = free_port();
    let relay = Relay::new(([127, 0, 0, 1], port).into());
    let mut scene = Scene::new(
        port,
        &Special {
            ports: vec![relay.port()],
            ..Special::default()
        },
    );
    for turn in 1..=20 {
        scene.pause(&format!("reset {turn}"), |_| {
            hold(Duration::from_millis(u64::from(rand::random::<u8>()) * 4));
            wait_for("a connection to reset", Duration::from_secs(10), || {
                (relay.reset() > 0).then_some(())
            });
        });
    }
    scene.verdict();
}

#[test]
#[ignore = "a minute"]
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
