//! A room behind a router: isc-dhcp-relay between the client and the server.

use std::process::Stdio;

use bootroom_tests::namespace::Namespace;

use crate::net::{Pair, cable, text};

#[test]
fn a_relay_brings_its_network_and_gets_its_option_back() {
    let pair = Pair::new();
    let router = Namespace::new();
    cable(&pair.server, "s1", &router, "north");
    cable(&router, "south", &pair.client, "far");
    pair.server.ip("addr add 10.78.0.1/24 dev s1");
    router.ip("addr add 10.78.0.2/24 dev north");
    router.ip("addr add 10.90.0.1/24 dev south");
    pair.server.ip("route add 10.90.0.0/24 via 10.78.0.2");
    let files = pair.path("files");
    let files = files.to_str().expect("a plain path");
    let args = [
        "s1",
        "10.78.0.1/24",
        "10.78.0.100-10.78.0.109",
        files,
        "subnet=10.90.0.0/24,10.90.0.50-10.90.0.59",
    ];
    let server = crate::net::BootServer::start(&pair.server, &args);
    // -a adds option 82, and drops answers that do not bring it back.
    let relay = [
        "-d",
        "-4",
        "-a",
        "-iu",
        "north",
        "-id",
        "south",
        "10.78.0.1",
    ];
    let mut relay = router
        .command("dhcrelay")
        .args(relay)
        .stderr(Stdio::null())
        .spawn()
        .expect("dhcrelay runs");
    let said = text(&pair.run(
        "udhcpc",
        &[
            "-i",
            "far",
            "-n",
            "-q",
            "-f",
            "-t",
            "10",
            "-T",
            "1",
            "-s",
            "/bin/true",
        ],
    ));
    relay.kill().expect("the relay is running");
    relay.wait().expect("the relay ended");
    assert!(said.contains("lease of 10.90.0.50 obtained"), "{said}");
    server.saw("10.90.0.50 Ack");
    server.stop();
}
