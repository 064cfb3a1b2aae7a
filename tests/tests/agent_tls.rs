//! TLS by the kernel: the agent proves the server, hands the keys over, and does so again at every reconnect.

use std::path::Path;
use std::time::{Duration, Instant};

use bootroom_tests::deadline::wait_for;
use bootroom_tests::guest::HOST;
use bootroom_tests::guest::disk::{DiskServer, free_port};
use bootroom_tests::guest::outage;
use bootroom_tests::guest::pki::pki;
use bootroom_tests::guest::scene::{Scene, Special};
use rustix::process::Signal;

/// When a machine with somewhere else to go has to work again after its server froze: well before the ten seconds after
/// which it would give up a server without knowing of another.
const SOON: Duration = Duration::from_secs(9);

/// A server with the certificates in `pki`, and a guest that believes in `proof`, as the agent's `file`.
fn scene(pki: &Path, proof: &Path, file: &str, relay: bool) -> Scene {
    let special = Special {
        relay,
        tls: true,
        server: vec!["--tls", "required", "--pki", pki.to_str().unwrap()],
        files: vec![("etc/proof.pem", std::fs::read(proof).unwrap())],
    };
    let mut scene = Scene::unattached(&special);
    scene.guest.run(&format!(
        "mkdir -p /etc/bootroom/tls && cp /etc/proof.pem /etc/bootroom/tls/{file}"
    ));
    scene
}

/// Attaches by TLS and puts the disk under load.
fn begin(scene: &mut Scene) {
    let (port, second) = (scene.port, scene.second);
    scene.begin(&format!(
        "bootroom-attach nbds://{HOST}:{port}/disk /dev/nbd0 --server {HOST}:{second}"
    ));
}

#[test]
#[ignore = "long: make test-full"]
fn the_kernel_encrypts_and_a_restart_changes_nothing() {
    let pki = pki();
    for proof in ["ca.pem", "server.pem"] {
        let mut scene = scene(pki.path(), &pki.path().join(proof), proof, false);
        begin(&mut scene);
        let in_use = "grep -E 'TlsCurr(Tx|Rx)(Sw|Device)' /proc/net/tls_stat | awk '{ n += $2 } END { print n }'";
        assert_eq!(
            scene.guest.run(in_use),
            "2",
            "the kernel does TLS in both directions"
        );
        println!("TLS proven by {proof}:");
        scene.survive(&outage::RESTART);
        scene.verdict();
    }
}

#[test]
#[ignore = "long: make test-full"]
fn every_outage_over_tls() {
    let pki = pki();
    let mut scene = scene(pki.path(), &pki.path().join("ca.pem"), "ca.pem", true);
    begin(&mut scene);
    for outage in [
        outage::RESTART,
        outage::RESET,
        outage::KILLED,
        outage::FROZEN,
        outage::CABLE,
        outage::TWENTY_RESTARTS,
        outage::RESET,
        outage::MOVED,
    ] {
        scene.survive(&outage);
    }
    scene.verdict();
}

#[test]
#[ignore = "long: make test-full"]
fn a_server_that_is_asked_nothing_is_not_left_and_one_that_freezes_in_a_flush_is() {
    let pki = pki();
    let mut scene = scene(pki.path(), &pki.path().join("ca.pem"), "ca.pem", false);
    begin(&mut scene);
    scene.guest.wait_for_writes(100);
    scene.guest.stop_load();
    scene.guest.run("cat /dev/nbd0 >/dev/null");
    let options = scene.server.options();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let other = DiskServer::start(&scene.image, scene.second, &options);
    // Whatever the lengths of what went to and fro were, all of it is answered.
    outage::hold(15);
    assert_eq!(scene.guest.run("dmesg | grep 'lost server' || true"), "");
    let flush = "while [ ! -e /run/enough ] && sync /dev/nbd0; do echo >>/run/flushes; done";
    scene.guest.run(&format!("({flush} &)"));
    let flushed = |scene: &mut Scene| scene.guest.run("cat /run/flushes | wc -l");
    outage::hold(3);
    scene.server.signal(Signal::STOP);
    let frozen = Instant::now();
    outage::hold(1); // What it answered before is counted by then.
    let before = flushed(&mut scene);
    assert_ne!(before, "0", "there were flushes");
    wait_for("a flush to be answered", SOON, || {
        (flushed(&mut scene) != before).then_some(())
    });
    println!(
        "frozen in a flush: pause {:.1} s",
        frozen.elapsed().as_secs_f64()
    );
    scene.server.kill();
    scene.server = other;
    scene.guest.run("touch /run/enough");
    scene.verdict();
}

/// Seconds that reading all of the device takes, with nothing in the cache.
fn read_all(scene: &mut Scene, device: &str) -> f64 {
    let command = format!(
        "echo 3 >/proc/sys/vm/drop_caches; a=$(cut -d ' ' -f 1 /proc/uptime); cat {device} >/dev/null; \
         b=$(cut -d ' ' -f 1 /proc/uptime); echo $a $b"
    );
    let said = scene.guest.run(&command);
    let times: Vec<f64> = said.split(' ').map(|time| time.parse().unwrap()).collect();
    times[1] - times[0]
}

#[test]
#[ignore = "long: make test-full"]
fn throughput_beside_a_plain_disk() {
    let pki = pki();
    let mut scene = scene(pki.path(), &pki.path().join("ca.pem"), "ca.pem", false);
    let plain = DiskServer::start(
        &scene.image,
        free_port(),
        &["--name", "disk", "--read-only"],
    );
    let (encrypted, clear) = (scene.port, plain.port());
    scene.guest.run(&format!(
        "bootroom-attach nbds://{HOST}:{encrypted}/disk /dev/nbd0 nbd://{HOST}:{clear}/disk /dev/nbd1"
    ));
    let mut best = [f64::MAX; 2];
    // In turn, so that whatever else the computer does hits both alike.
    for _ in 0..4 {
        for (at, device) in ["/dev/nbd0", "/dev/nbd1"].into_iter().enumerate() {
            best[at] = best[at].min(read_all(&mut scene, device));
        }
    }
    let [encrypted, clear] = best.map(|seconds| 64.0 / seconds);
    println!(
        "64 MiB read: TLS by the kernel {encrypted:.1} MiB/s, plain {clear:.1} MiB/s, ratio {:.2}",
        encrypted / clear
    );
    assert!(encrypted > clear / 20.0, "something but encryption is slow");
}

#[test]
#[ignore = "long: make test-full"]
fn an_unproven_server_is_refused() {
    let (ours, theirs) = (pki(), pki());
    let mut scene = scene(
        theirs.path(),
        &ours.path().join("server.pem"),
        "server.pem",
        false,
    );
    let attach = format!(
        "bootroom-attach --timeout 4 nbds://{HOST}:{}/disk /dev/nbd0",
        scene.port
    );
    let answer = scene.guest.try_run(&attach);
    assert_eq!(answer.status, 1);
    assert!(
        answer.text.contains("REFUSED") && answer.text.contains("not the pinned one"),
        "{}",
        answer.text
    );
    let plain = scene.guest.try_run(&attach.replace("nbds", "nbd"));
    assert!(plain.text.contains("TLS"), "{}", plain.text);
}
