//! dhclient, udhcpc and dhcpcd.

use std::os::unix::fs::PermissionsExt;

use bootroom_tests::deadline::wait_for;

use crate::net::{LIMIT, MAC, Pair, text};

/// dhclient's files; it wants whole paths.
fn dhclient_args(pair: &Pair) -> Vec<String> {
    let path = |name| pair.path(name).to_str().expect("a plain path").to_owned();
    let (leases, pid) = (path("dh.leases"), path("dh.pid"));
    ["-lf", &leases, "-pf", &pid, "-sf", &script(pair), "c0"]
        .map(str::to_owned)
        .to_vec()
}

/// A script for clients to call; it prints what they learned.
fn script(pair: &Pair) -> String {
    let path = pair.path("script");
    std::fs::write(
        &path,
        "#!/bin/sh\nenv | sort >> \"$(dirname \"$0\")/learned\"\n",
    )
    .expect("the script is written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("chmod");
    path.to_str().expect("a plain path").to_owned()
}

fn learned(pair: &Pair) -> String {
    std::fs::read_to_string(pair.path("learned")).unwrap_or_default()
}

fn udhcpc(pair: &Pair, more: &[&str]) -> String {
    let script = script(pair);
    let args = [
        "-i", "c0", "-n", "-q", "-f", "-t", "5", "-T", "1", "-s", &script,
    ];
    text(&pair.run("udhcpc", &[&args[..], more].concat()))
}

#[test]
fn three_clients_of_one_machine_get_one_address_that_survives_a_crash() {
    let pair = Pair::new();
    let leases = pair.path("leases.redb");
    let leases = format!("leases={}", leases.to_str().expect("a plain path"));
    let server = pair.serve(&[&leases, "router=10.77.0.254"]);
    let said = udhcpc(&pair, &[]);
    assert!(
        said.contains("lease of 10.77.0.100 obtained from 10.77.0.1"),
        "{said}"
    );
    // No flush, no farewell: what was acknowledged must be on disk.
    server.kill();
    let server = pair.serve(&[&leases, "router=10.77.0.254"]);
    // Another machine must not get the first one's address.
    pair.client.ip("link set c0 address 52:54:00:77:00:02");
    let said = udhcpc(&pair, &[]);
    assert!(said.contains("lease of 10.77.0.101"), "{said}");
    pair.client.ip(&format!("link set c0 address {MAC}"));
    let said = text(&pair.run(
        "timeout",
        &[
            "5",
            "dhcpcd",
            "-4",
            "-B",
            "-1",
            "-t",
            "10",
            "--noarp",
            "-c",
            &script(&pair),
            "c0",
        ],
    ));
    assert!(said.contains("leased 10.77.0.100"), "{said}");
    server.saw(&format!("{MAC} 10.77.0.100 Ack"));
    server.stop();
}

#[test]
fn dhclient_learns_everything() {
    let pair = Pair::new();
    let server = pair.serve(&["router=10.77.0.254"]);
    // dhclient stays to renew; it is stopped once it is bound.
    let mut child = {
        let mut command = pair.client.command("dhclient");
        command.arg("-d").args(dhclient_args(&pair));
        command
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("dhclient runs")
    };
    let text = wait_for("dhclient to be bound", LIMIT, || {
        let text = learned(&pair);
        text.contains("reason=BOUND").then_some(text)
    });
    child.kill().expect("dhclient is running");
    child.wait().expect("dhclient ended");
    for line in [
        "new_ip_address=10.77.0.100",
        "new_routers=10.77.0.254",
        "new_subnet_mask=255.255.255.0",
        "new_broadcast_address=10.77.0.255",
        "new_host_name=pc-525400770001",
        "new_dhcp_lease_time=43200",
        "new_dhcp_server_identifier=10.77.0.1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    server.stop();
}

#[test]
fn firmware_gets_the_loader_of_its_architecture() {
    let pair = Pair::new();
    let server = pair.serve(&[]);
    for (class, arch, file) in [
        (
            "PXEClient:Arch:00000:UNDI:002001",
            "0x5d:0000",
            "ipxe/undionly.kpxe",
        ),
        (
            "PXEClient:Arch:00007:UNDI:003016",
            "0x5d:0007",
            "ipxe/ipxe.efi",
        ),
        (
            "PXEClient:Arch:00009:UNDI:003016",
            "0x5d:0009",
            "ipxe/ipxe.efi",
        ),
        (
            "HTTPClient:Arch:00016:UNDI:003001",
            "0x5d:0010",
            "http://10.77.0.1:80/ipxe/ipxe.efi",
        ),
    ] {
        drop(std::fs::remove_file(pair.path("learned")));
        udhcpc(
            &pair,
            &["-V", class, "-x", arch, "-O", "bootfile", "-O", "tftp"],
        );
        let text = learned(&pair);
        assert!(
            text.contains(&format!("bootfile={file}")),
            "{class}: no {file} in\n{text}"
        );
        assert!(text.contains("siaddr=10.77.0.1"), "{text}");
    }
    // iPXE, as its user class shows it, gets the script.
    drop(std::fs::remove_file(pair.path("learned")));
    udhcpc(
        &pair,
        &[
            "-V",
            "PXEClient:Arch:00000",
            "-x",
            "0x4d:69505845",
            "-O",
            "bootfile",
        ],
    );
    assert!(
        learned(&pair).contains("bootfile=http://10.77.0.1:80/boot.ipxe"),
        "{}",
        learned(&pair)
    );
    server.stop();
}

#[test]
fn a_reservation_holds_and_a_squatter_is_avoided() {
    let pair = Pair::new();
    // Somebody sits at the first address of the range.
    pair.client
        .ip("link add squatter link c0 type macvlan mode bridge");
    pair.client.ip("link set squatter up");
    pair.client.ip("addr add 10.77.0.100/24 dev squatter");
    let server = pair.serve(&["reserve=52:54:00:77:00:09,10.77.0.200"]);
    let said = udhcpc(&pair, &[]);
    assert!(said.contains("lease of 10.77.0.101"), "{said}");
    server.saw("Conflict { address: 10.77.0.100 }");
    pair.client.ip("link set c0 address 52:54:00:77:00:09");
    let said = udhcpc(&pair, &[]);
    assert!(said.contains("lease of 10.77.0.200"), "{said}");
    server.stop();
}

#[test]
fn released_and_asked_again() {
    let pair = Pair::new();
    let server = pair.serve(&["noprobe"]);
    let said = udhcpc(&pair, &["-R"]);
    assert!(said.contains("lease of 10.77.0.100"), "{said}");
    pair.client.ip("addr add 10.77.0.100/24 dev c0");
    let said = dhclient_release(&pair);
    server.saw("10.77.0.100 Release");
    let again = udhcpc(&pair, &[]);
    assert!(again.contains("lease of 10.77.0.100"), "{again}\n{said}");
    server.stop();
}

/// Takes the lease with dhclient and gives it back.
fn dhclient_release(pair: &Pair) -> String {
    let common = dhclient_args(pair);
    let with = |first: &'static str| {
        let args: Vec<&str> = [first, "-v"]
            .into_iter()
            .chain(common.iter().map(String::as_str))
            .collect();
        text(&pair.run("dhclient", &args))
    };
    with("-1") + &with("-r")
}

#[test]
fn other_servers_are_found() {
    let pair = Pair::new();
    let bootserver = crate::net::binary();
    let search = || {
        text(&pair.run(
            bootserver.to_str().expect("a plain path"),
            &["search", "c0"],
        ))
    };
    assert!(search().contains("Ok([])"), "nobody answers yet");
    let server = pair.serve(&["noprobe"]);
    let found = search();
    assert!(
        found.contains("server: 10.77.0.1, offered: 10.77.0.100"),
        "{found}"
    );
    server.stop();
}
