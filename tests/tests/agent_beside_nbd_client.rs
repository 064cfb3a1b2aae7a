//! The same outages for the agent and for Debian's nbd-client, in both of its modes: a table, not a verdict on others.

use std::time::{Duration, Instant};

use bootroom_tests::guest::HOST;
use bootroom_tests::guest::outage::{self, Outage};
use bootroom_tests::guest::scene::{Scene, Special};

/// How long a client gets after the end of the outage before it counts as not coming back.
const PATIENCE: Duration = Duration::from_secs(30);

const OUTAGES: [Outage; 7] = [
    outage::RESTART,
    outage::KILLED,
    outage::FROZEN,
    outage::CABLE,
    outage::RESET,
    outage::TWENTY_RESTARTS,
    outage::MOVED,
];

struct Outcome {
    pause: Duration,
    errors: usize,
    /// Whether the load went on.
    back: bool,
}

/// One client through one outage, on a machine of its own.
fn through(attach: &str, outage: &Outage) -> Outcome {
    let mut scene = Scene::unattached(&Special {
        relay: outage.name == outage::RESET.name,
        ..Special::default()
    });
    let [port, second] = [scene.port, scene.second].map(|port| port.to_string());
    scene.begin(
        &attach
            .replace("PORT", &port)
            .replace("SECOND", &second)
            .replace("HOST", HOST),
    );
    scene.guest.wait_for_writes(5);
    scene.guest.clear_log();
    (outage.happen)(&mut scene);
    let before = scene.guest.writes();
    let deadline = Instant::now() + PATIENCE;
    let goes_on = |scene: &mut Scene| scene.guest.writes() >= before + 10;
    let mut back = goes_on(&mut scene);
    while !back && Instant::now() < deadline && scene.guest.load_log().errors.len() < 50 {
        back = goes_on(&mut scene);
    }
    let log = scene.guest.load_log();
    Outcome {
        pause: log.longest(),
        errors: log.errors.len(),
        back,
    }
}

/// Prints the client's column of the table.
fn column(name: &str, attach: &str) -> Vec<Outcome> {
    let row = |outage: &Outage| {
        let outcome = through(attach, outage);
        let pause = match outcome.back {
            true => format!("pause {:5.1} s", outcome.pause.as_secs_f64()),
            false => "does not come back".to_owned(),
        };
        println!(
            "{:34} {name:32} {pause:20} errors {}",
            outage.name, outcome.errors
        );
        outcome
    };
    OUTAGES.iter().map(row).collect()
}

#[test]
#[ignore = "long: make test-full"]
fn the_agent() {
    let attach = "bootroom-attach nbd://HOST:PORT/disk /dev/nbd0 --server HOST:SECOND";
    for outcome in column("bootroom-attach", attach) {
        assert!(outcome.back && outcome.errors == 0);
    }
}

#[test]
#[ignore = "long: make test-full"]
fn nbd_client_by_netlink() {
    let attach = "nbd-client -N disk HOST PORT /dev/nbd0 -persist >/dev/null 2>&1";
    column("nbd-client -persist", attach);
}

#[test]
#[ignore = "long: make test-full"]
fn nbd_client_by_ioctl() {
    let attach = "nbd-client -nonetlink -N disk HOST PORT /dev/nbd0 -persist >/dev/null 2>&1";
    column("nbd-client -nonetlink -persist", attach);
}
