//! What a room needs to boot is on both servers: images, leases, tokens, machines' disks and their limits, ssh host keys,
//! certificates; and a machine that is in the middle of its boot when the primary dies boots from the other server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::seat::{Seat, mac, text};
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side, image};
use serde_json::Value;

const A: Side = Side::A;
const B: Side = Side::B;
const SERVER: &str = "tls = \"required\"\nssh_host_keys = true";

fn room(lines: &str) -> String {
    let client = |(number, name): (u8, &str)| {
        let mac = mac(number);
        format!("[clients.{name}]\nmac = {mac:?}\nimage = \"tiny\"\n{lines}\n")
    };
    [(1, "one"), (2, "two")].map(client).concat()
}

/// The versions that a server has, by name, identity and digest, and which are current.
fn images(pair: &Pair, side: Side) -> Vec<Value> {
    let mut list = binary::command(&["image", "list", "--json", "--data"]);
    let output = list
        .arg(pair.host(side).data())
        .output()
        .expect("bootroom runs");
    assert!(output.status.success(), "{}", text(&output));
    let images: Vec<Value> = serde_json::from_slice(&output.stdout).expect("a list");
    let versions = images
        .iter()
        .flat_map(|image| image["versions"].as_array().expect("a list"));
    let keys = [
        "reference",
        "id",
        "digest",
        "current",
        "size_bytes",
        "cmdline",
    ];
    versions
        .flat_map(|version| keys.map(|key| version[key].clone()))
        .collect()
}

/// What a server must know of its room.
fn facts(pair: &Pair, side: Side) -> Vec<Value> {
    let server = pair.host(side).server();
    let clients = server.json(&["client", "list"]);
    let clients = clients.as_array().expect("a list").iter();
    let keys = [
        "name",
        "mac",
        "address",
        "version",
        "overlay",
        "quota_bytes",
        "overlay_lasts",
        "fresh_at_next_boot",
        "disks",
    ];
    let facts = clients.flat_map(|client| keys.map(|key| client[key].clone()));
    let status = server.json(&["status"]);
    let snapshots = server.json(&["snapshot", "list", "--client", "one"]);
    facts
        .chain([
            status["leases"].clone(),
            status["images"].clone(),
            snapshots,
        ])
        .collect()
}

/// A boot of a machine, with what its initramfs would have of its identity.
struct Boot<'a> {
    seat: &'a Seat,
    export: String,
    /// As libnbd wants them.
    certificates: tempfile::TempDir,
    host_key: String,
}

impl<'a> Boot<'a> {
    fn begin(seat: &'a Seat, server: Side, name: &str) -> Self {
        let export = seat.export(server.address(), name);
        let token = export.rsplit('/').next().expect("a token");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let packed = dir.path().join("identity.cpio");
        let url = format!("http://{}/identity/{token}.cpio", server.address());
        let mut curl = seat.namespace().command("curl");
        let output = curl
            .args(["-sf", "-o"])
            .arg(&packed)
            .arg(&url)
            .output()
            .expect("curl runs");
        assert!(output.status.success(), "{url}: {}", output.status);
        unpack(&packed, dir.path());
        let identity = dir.path().join("bootroom.identity");
        for (from, to) in [
            ("ca.pem", "ca-cert.pem"),
            ("client.pem", "client-cert.pem"),
            ("client.key", "client-key.pem"),
        ] {
            // Clients have certificates of their own only if they are asked for.
            let _ = fs::copy(identity.join("tls").join(from), dir.path().join(to));
        }
        let host_key = fs::read_to_string(identity.join("ssh/ssh_host_ed25519_key.pub"));
        Self {
            seat,
            export,
            host_key: host_key.expect("the public host key came along"),
            certificates: dir,
        }
    }

    /// Runs a line of libnbd's shell on the disk `h`, as that server serves it; returns what it printed.
    fn shell(&self, server: Side, line: &str) -> String {
        let script = format!(
            "import nbd, sys\nh = nbd.NBD()\nh.set_uri_allow_local_file(True)\nh.connect_uri(sys.argv[1])\n{line}\nh.shutdown()"
        );
        let folder = self.certificates.path().display();
        let uri = format!(
            "nbds://{}/{}?tls-certificates={folder}",
            server.address(),
            self.export
        );
        let mut shell = self.seat.namespace().command("/usr/bin/python3");
        let output = shell
            .args(["-c", &script, &uri])
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "{uri}: {}", text(&output));
        text(&output).trim().to_owned()
    }
}

fn unpack(packed: &Path, dir: &Path) {
    let unpacked = Command::new("sh")
        .args([
            "-c",
            "gzip -dc | cpio --extract --quiet --no-absolute-filenames",
        ])
        .current_dir(dir)
        .stdin(Stdio::from(fs::File::open(packed).expect("it was fetched")))
        .status();
    assert!(unpacked.expect("sh runs").success());
}

/// The primary dies; the other one serves.
fn fail_over(pair: &mut Pair, from: Side) {
    pair.host_mut(from).kill();
    pair.wait_serving(from.other());
}

#[test]
fn the_standby_knows_what_the_primary_knows() {
    let room = room("retention = \"keep\"\nquota = \"1GiB\"");
    let mut pair = Pair::new(&Plan {
        server: SERVER,
        room: &room,
        ..Plan::default()
    });
    let (one, two) = (pair.seat(1), pair.seat(2));
    let leases = [one.lease(), two.lease()];
    assert!(
        leases.iter().all(|lease| lease.server == A.address()),
        "{leases:?}"
    );
    let boots = [Boot::begin(&one, A, "one"), Boot::begin(&two, A, "two")];
    boots[0].shell(A, "h.pwrite(b'mine' * 1024, 0)");
    boots[1].shell(A, "h.pwrite(b'other' * 1024, 0)");
    let server = pair.host(A).server();
    server.json(&["snapshot", "take", "monday", "--client", "one"]);
    server.json(&["client", "reset", "two", "--yes"]);
    image::import(pair.host(A), "tiny");
    image::import(pair.host(A), "small");
    wait_for("the versions to arrive", LIMIT, || {
        (images(&pair, A) == images(&pair, B)).then_some(())
    });
    verify_images(&pair);
    let known = facts(&pair, A);
    fail_over(&mut pair, A);
    assert_eq!(facts(&pair, B), known);
    assert_eq!(
        boots[0].shell(B, "print(h.pread(4, 4092))"),
        "bytearray(b'mine')"
    );
    assert_eq!(
        [&one, &two].map(|seat| seat.lease().address),
        leases.map(|lease| lease.address)
    );
    the_next_boots(&boots, B);
    pair.host_mut(A).start();
    pair.wait_paired(B);
    let known = facts(&pair, B);
    fail_over(&mut pair, B);
    assert_eq!(facts(&pair, A), known);
}

/// The lasting disk is there again, with the key; the one that was reset is fresh.
fn the_next_boots(boots: &[Boot<'_>; 2], side: Side) {
    let next = Boot::begin(boots[0].seat, side, "one");
    assert_eq!(next.host_key, boots[0].host_key);
    assert_eq!(
        next.shell(side, "print(h.pread(4, 4092))"),
        "bytearray(b'mine')"
    );
    let fresh = Boot::begin(boots[1].seat, side, "two");
    assert_eq!(fresh.host_key, boots[1].host_key);
    assert_ne!(
        fresh.shell(side, "print(h.pread(5, 0))"),
        "bytearray(b'other')"
    );
}

/// What came is what was sent, by its own digests.
fn verify_images(pair: &Pair) {
    for name in ["tiny", "small"] {
        let mut verify = binary::command(&["image", "verify", name, "--data"]);
        let output = verify
            .arg(pair.host(B).data())
            .output()
            .expect("bootroom runs");
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_machine_in_the_middle_of_its_boot_boots_from_the_other_server() {
    let room = room("retention = \"keep\"");
    let mut pair = Pair::new(&Plan {
        room: &room,
        ..Plan::default()
    });
    let seat = pair.seat(1);
    let first = seat.lease_as_firmware("0x0000");
    assert_eq!(
        (first.server.as_str(), first.next.as_str()),
        (A.address(), A.address())
    );
    let loader = seat.get("tftp", A.address(), &first.file);
    let export = seat.export(A.address(), "one");
    fail_over(&mut pair, A);
    // Its boot loader fetches the kernel from a server that is gone, gives up, and begins again.
    assert_eq!(
        seat.try_get("http", A.address(), "images/tiny/1/vmlinuz"),
        None
    );
    let second = seat.lease_as_firmware("0x0000");
    assert_eq!(
        (second.server.as_str(), second.next.as_str()),
        (B.address(), B.address())
    );
    assert_eq!(
        (&second.address, &second.file),
        (&first.address, &first.file)
    );
    assert_eq!(seat.get("tftp", B.address(), &second.file), loader);
    // One that was further on, in its initramfs, has a token that both know and both addresses.
    assert!(seat.opens(B.address(), &export));
    let script = seat.script(B.address());
    assert!(
        script.contains(&format!("nbdroot={}:10809/", B.address())),
        "{script}"
    );
    assert!(
        script.contains(&format!("bootroom.servers={}:10809", A.address())),
        "{script}"
    );
    for part in ["vmlinuz", "initrd.img"] {
        seat.get("http", B.address(), &format!("images/tiny/1/{part}"));
    }
    let token = script
        .split("client/one/")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let next = format!("client/one/{}", token.expect("a token"));
    assert!(seat.opens(B.address(), &next));
    assert!(
        !seat.opens(B.address(), &export),
        "the token of the boot before"
    );
    a_running_machine_keeps_its_address(&pair, &seat);
}

/// ISC's client, which has a lease of the dead server, is given the same address by the other.
fn a_running_machine_keeps_its_address(pair: &Pair, seat: &Seat) {
    let leases = pair.path("dhclient.leases");
    let address = seat.lease().address;
    let held = format!(
        "lease {{ interface \"eth0\"; fixed-address {address}; option dhcp-server-identifier {}; \
         renew 6 2030/01/05 00:00:00; rebind 6 2030/01/05 00:00:00; expire 6 2030/01/05 00:00:00; }}\n",
        A.address()
    );
    fs::write(&leases, held).expect("it is written");
    let mut dhclient = seat.namespace().command("dhclient");
    dhclient.args("-1 -d -v -sf /bin/true -pf /dev/null -cf /dev/null -lf".split(' '));
    dhclient.arg(&leases).arg("eth0").stderr(Stdio::piped());
    let said = said_until_bound(&mut dhclient);
    let answer = format!("DHCPACK of {address} from {}", B.address());
    assert!(said.contains(&answer), "{said}");
}

/// What dhclient says until it has an address; it would go on for ever.
fn said_until_bound(dhclient: &mut Command) -> String {
    use std::io::{BufRead, BufReader};
    let mut child = dhclient
        .spawn()
        .expect("dhclient (package isc-dhcp-client) runs");
    let mut said = String::new();
    for line in BufReader::new(child.stderr.take().expect("a pipe"))
        .lines()
        .map_while(Result::ok)
    {
        said += &line;
        said.push('\n');
        if line.starts_with("bound to") {
            break;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    said
}
