//! A room without machines, looked after: menus in the language of each boot loader, advice, the doctor, a machine that is
//! forgotten. A client program plays the machine; nothing boots.

use std::process::{Output, Stdio};
use std::time::Duration;

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use bootroom_tests::machine::Firmware;
use bootroom_tests::namespace::Namespace;
use bootroom_tests::room::{Plan, Room};
use bootroom_tests::site::{Daemon, cable};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const MAC: &str = "52:54:00:5c:00:01";
const DASHED: &str = "52-54-00-5c-00-01";

/// A room with one seat, whose machine is played from a namespace at the other end of a cable.
struct Scene {
    room: Room,
    seat: Namespace,
}

impl Scene {
    fn new(lines: &str) -> Self {
        let plan = Plan {
            elsewhere: true,
            ..Plan::default()
        };
        let room = Room::with(plan, &[("seat", Firmware::Bios, lines)]);
        let seat = Namespace::new();
        cable(room.namespace(), "seat0", &seat, "eth0");
        room.namespace().ip("link set seat0 master room0");
        seat.ip(&format!("link set eth0 address {MAC}"));
        Self { room, seat }
    }

    /// Takes a lease, as firmware or as a system would, and its address.
    fn lease(&self, as_firmware: &[&str]) {
        let usual = "-i eth0 -n -q -f -t 20 -T 1 -s /bin/true";
        let mut udhcpc = self.seat.command("udhcpc");
        udhcpc.args(usual.split(' ')).args(as_firmware);
        let said = text(&udhcpc.output().expect("udhcpc runs"));
        let address = said
            .split("lease of ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let address = address.unwrap_or_else(|| panic!("no lease: {said}"));
        self.seat
            .ip(&format!("address replace {address}/24 dev eth0"));
    }

    /// What the machine is given for a URL without its server.
    fn get(&self, scheme: &str, path: &str) -> String {
        let url = format!("{scheme}://10.78.0.1/{path}");
        let mut curl = self.seat.command("curl");
        let output = curl.args(["-sf", "--max-time", "20", &url]).output();
        let output = output.expect("curl runs");
        assert!(output.status.success(), "{url}: {}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What the doctor says of the room's host, and whether it ended with that exit code.
    fn doctor(&self, code: i32) -> Vec<Value> {
        let config = self.room.data().with_file_name("bootroom.toml");
        let mut doctor = self.room.namespace().command(binary::bootroom());
        doctor.args(["doctor", "--json", "--config"]).arg(config);
        let output = doctor.output().expect("bootroom runs");
        let findings: Vec<Value> =
            serde_json::from_slice(&output.stdout).expect("--json prints a list");
        assert_eq!(output.status.code(), Some(code), "{findings:#?}");
        findings
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|part| String::from_utf8_lossy(part).into_owned())
        .concat()
}

/// What is bad in one of the doctor's fields.
fn bad<'a>(findings: &'a [Value], check: &str) -> Vec<&'a str> {
    let bad = findings
        .iter()
        .filter(|one| one["level"] == "bad" && one["check"] == check);
    bad.map(|one| one["message"].as_str().expect("a message"))
        .collect()
}

#[test]
fn a_menu_is_the_same_to_every_loader_and_a_machine_can_be_forgotten() {
    let tool = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(tool.path(), "a program").expect("it is written");
    let menu = format!(
        "[clients.seat.menu]\nremember = true\n\
         [[clients.seat.menu.entries]]\ntitle = \"The image\"\nimage = \"debian\"\n\
         [[clients.seat.menu.entries]]\ntitle = \"A tool\"\nprogram = {:?}\n",
        tool.path().display().to_string()
    );
    let scene = Scene::new(&menu);
    scene.lease(&[]);
    let menus = [
        scene.get("http", &format!("ipxe/{DASHED}")),
        scene.get("tftp", "grub/grub.cfg"),
        scene.get("tftp", &format!("pxelinux/pxelinux.cfg/01-{DASHED}")),
    ];
    for menu in menus {
        assert!(
            menu.contains("The image") && menu.contains("A tool"),
            "{menu}"
        );
        assert!(
            !menu.contains("/client/"),
            "no token before a choice: {menu}"
        );
    }
    let export = |script: &str| {
        let rest = script.split("client/seat/").nth(1).expect("an export");
        rest.split_whitespace().next().expect("a token").to_owned()
    };
    // Fetched at once, the three are one boot.
    let tokens = [
        ("http", "ipxe/menu"),
        ("tftp", "grub/menu"),
        ("tftp", "pxelinux/menu"),
    ]
    .map(|(scheme, path)| export(&scene.get(scheme, &format!("{path}/{DASHED}/0"))));
    let bare = |token: &str| token.trim_matches('\'').to_owned();
    assert_eq!(bare(&tokens[0]), bare(&tokens[1]));
    assert_eq!(bare(&tokens[0]), bare(&tokens[2]));
    assert_eq!(
        scene.get("http", &format!("tools/{DASHED}/1/bios")),
        "a program"
    );
    scene.get("http", &format!("ipxe/menu/{DASHED}/1"));
    let menu = scene.get("http", &format!("ipxe/{DASHED}"));
    assert!(
        menu.contains("--default entry1"),
        "the choice is remembered: {menu}"
    );
    forget(
        &scene,
        &format!("nbd://10.78.0.1/client/seat/{}", bare(&tokens[0])),
    );
}

fn forget(scene: &Scene, disk: &str) {
    let attached = scene.seat.command("nbdinfo").arg(disk).output();
    let attached = attached.expect("nbdinfo (package libnbd-bin) runs");
    assert!(attached.status.success(), "{}", text(&attached));
    let server = scene.room.server();
    let show = || server.json(&["client", "show", "seat"]);
    wait_for("the connection to end", LIMIT, || {
        (show()["attached"] == false).then_some(())
    });
    let disks = show()["disks"].clone();
    assert_eq!(disks[0]["overlay"], "5254005c0001-debian", "{disks}");
    let unasked = server.ask(&["client", "forget", "seat"]);
    assert!(!unasked.status.success() && text(&unasked).contains("--yes"));
    assert_eq!(show()["disks"], disks);
    server.json(&["client", "forget", "seat", "--yes"]);
    assert_eq!(server.json(&["client", "list"]), Value::Array(Vec::new()));
    assert_eq!(server.json(&["status"])["leases"], 0);
    let overlays = std::fs::read_dir(scene.room.data().join("overlays")).expect("readable");
    let left = overlays.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("5254")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn what_is_wrong_is_said_before_somebody_asks() {
    let mut scene = Scene::new("");
    scene.doctor(0);
    // Firmware that takes its address and never fetches anything.
    scene.lease(&["-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x5d:0000"]);
    let server = scene.room.server();
    let stuck = wait_for("the advice", LIMIT, || {
        let status = server.json(&["status"]);
        status["stuck"].as_array()?.first().cloned()
    });
    assert_eq!(stuck["client"], "seat");
    let advice = stuck["advice"].as_str().expect("words");
    assert!(advice.contains("UDP port 69"), "{advice}");
    wait_for("the trace to have it", LIMIT, || {
        scene
            .room
            .steps("seat")
            .contains(&"stuck".into())
            .then_some(())
    });
    shut_pipes_end_quietly(&scene.room);
    another_server_is_named(&mut scene);
    a_firewall_is_seen(&scene);
}

/// As with `| head`, but without a race.
fn shut_pipes_end_quietly(room: &Room) {
    for verb in [
        &["status"][..],
        &["client", "list"],
        &["client", "trace", "seat"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = binary::command(verb);
        command
            .arg("--socket")
            .arg(room.data().with_file_name("control.sock"));
        let ran = command.stdout(writer).stderr(Stdio::piped()).output();
        let ran = ran.expect("bootroom runs");
        assert!(
            ran.status.success() && ran.stderr.is_empty(),
            "{verb:?}: {}",
            text(&ran)
        );
    }
}

fn another_server_is_named(scene: &mut Scene) {
    let site = Namespace::new();
    cable(scene.room.namespace(), "site0", &site, "eth0");
    scene.room.namespace().ip("link set site0 master room0");
    site.ip("address add 10.78.0.2/24 dev eth0");
    let _dnsmasq = Daemon::dnsmasq(&site, "eth0");
    let config = scene.room.data().with_file_name("bootroom.toml");
    wait_for("the doctor to find it", LIMIT, || {
        let mut doctor = scene.room.namespace().command(binary::bootroom());
        let report = doctor.args(["doctor", "--config"]).arg(&config).output();
        let report = report.expect("bootroom runs");
        let named = text(&report).contains("another DHCP server, 10.78.0.2");
        (named && report.status.code() == Some(5)).then_some(())
    });
    // A server that starts looks for others at once.
    scene.room.stop_server();
    scene.room.start_server();
    wait_for("the status to warn of it", LIMIT, || {
        let status = scene.room.server().json(&["status"]);
        let warnings = status["warnings"].to_string();
        warnings.contains("10.78.0.2").then_some(())
    });
}

fn a_firewall_is_seen(scene: &Scene) {
    let rules = "add table inet f; \
                 add chain inet f in { type filter hook input priority 0; policy drop; }; \
                 add rule inet f in udp dport { 67, 69 } accept; \
                 add rule inet f in iifname lo accept";
    let mut nft = scene.room.namespace().command("nft");
    let set = nft
        .arg(rules)
        .output()
        .expect("nft (package nftables) runs");
    assert!(set.status.success(), "{}", text(&set));
    let findings = scene.doctor(5);
    let closed = bad(&findings, "firewall");
    assert_eq!(closed.len(), 2, "HTTP and NBD are closed: {closed:?}");
    assert!(
        closed[0].contains("TCP 80") && closed[1].contains("TCP 10809"),
        "{closed:?}"
    );
}
