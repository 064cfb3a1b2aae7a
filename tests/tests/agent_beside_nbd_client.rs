//! The same outages for the agent and for Debian's nbd-client, in both of its modes: a table, not a verdict on others.

use std::time::{Duration, Instant};

use bootroom_tests::guest::HOST;
use bootroom_tests::guest::disk::free_port;
use bootroom_tests::guest::scene::{Scene, Special};

struct Outcome {
    pause: Duration,
    errors: usize,
    read_only: bool,
}

/// One client through one outage.
fn through(attach: &str, event: impl FnOnce(&mut Scene)) -> Outcome {
    let port = free_port();
    let mut scene = Scene::unattached(port, &Special::default());
    scene.begin(
        &attach
            .replace("PORT", &port.to_string())
            .replace("HOST", HOST),
    );
    scene.guest.wait_for_writes(5);
    scene.guest.clear_log();
    event(&mut scene);
    // A client that has failed will not write again: give it as long as the good one needs at most.
    let before = scene.guest.writes();
    let deadline = Instant::now() + Duration::from_secs(10);
    while scene.guest.writes() < before + 10 && Instant::now() < deadline {}
    let log = scene.guest.load_log();
    let read_only = scene.guest.try_run("touch /mnt/probe").status != 0;
    Outcome {
        pause: log.longest(),
        errors: log.errors.len(),
        read_only,
    }
}

fn restart(scene: &mut Scene) {
    scene.server.kill();
    scene.server.up();
}

fn kill_for_five_seconds(scene: &mut Scene) {
    scene.server.kill();
    std::thread::sleep(Duration::from_secs(5));
    scene.server.up();
}

#[test]
#[ignore = "three minutes"]
fn the_agent_beside_nbd_client() {
    let clients = [
        (
            "bootroom-attach",
            "bootroom-attach nbd://HOST:PORT/disk /dev/nbd0",
        ),
        (
            "nbd-client -persist (netlink)",
            "nbd-client -N disk HOST PORT /dev/nbd0 -persist >/dev/null 2>&1",
        ),
        (
            "nbd-client -nonetlink -persist",
            "nbd-client -nonetlink -N disk HOST PORT /dev/nbd0 -persist >/dev/null 2>&1",
        ),
    ];
    type Event = fn(&mut Scene);
    let events: [(&str, Event); 2] = [
        ("restart", restart),
        ("kill -9, back after 5 s", kill_for_five_seconds),
    ];
    for (what, event) in events {
        for (name, attach) in clients {
            let outcome = through(attach, event);
            let end = if outcome.read_only {
                "root read-only or gone"
            } else {
                "goes on"
            };
            println!(
                "{what:26} {name:32} pause {:5.1} s  errors {:4}  {end}",
                outcome.pause.as_secs_f64(),
                outcome.errors
            );
            if name == "bootroom-attach" {
                assert!(outcome.errors == 0 && !outcome.read_only);
            }
        }
    }
}
