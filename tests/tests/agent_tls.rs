//! TLS by the kernel: the agent proves the server, hands the keys over, and does so again at every reconnect.

use std::path::Path;

use bootroom_tests::guest::HOST;
use bootroom_tests::guest::disk::free_port;
use bootroom_tests::guest::pki::pki;
use bootroom_tests::guest::scene::{Scene, Special};

/// A server with the certificates in `pki`, and a guest that believes in `proof`, as the agent's `file`.
fn scene(pki: &Path, proof: &Path, file: &str) -> Scene {
    let files = vec![("etc/proof.pem", std::fs::read(proof).unwrap())];
    let server = vec!["--tls", "required", "--pki", pki.to_str().unwrap()];
    let port = free_port();
    let special = Special {
        server,
        files,
        ..Special::default()
    };
    let mut scene = Scene::unattached(port, &special);
    scene.guest.run(&format!(
        "mkdir -p /etc/bootroom/tls && cp /etc/proof.pem /etc/bootroom/tls/{file}"
    ));
    scene
}

#[test]
#[ignore = "a minute"]
fn the_kernel_encrypts_and_outages_change_nothing() {
    let pki = pki();
    for proof in ["ca.pem", "server.pem"] {
        let mut scene = scene(pki.path(), &pki.path().join(proof), proof);
        scene.begin(&format!(
            "bootroom-attach nbds://{HOST}:{}/disk /dev/nbd0",
            scene.port
        ));
        let in_use = "grep -E 'TlsCurr(Tx|Rx)(Sw|Device)' /proc/net/tls_stat | awk '{ n += $2 } END { print n }'";
        assert_eq!(
            scene.guest.run(in_use),
            "2",
            "the kernel does TLS in both directions"
        );
        scene.pause(&format!("restarted, TLS proven by {proof}"), |scene| {
            scene.server.kill();
            scene.server.up();
        });
        scene.verdict();
    }
}

#[test]
#[ignore = "half a minute"]
fn an_unproven_server_is_refused() {
    let (ours, theirs) = (pki(), pki());
    let mut scene = scene(theirs.path(), &ours.path().join("server.pem"), "server.pem");
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
