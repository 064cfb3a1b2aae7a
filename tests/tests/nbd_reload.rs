//! What a reload does to the named exports of a running server, and to those that are connected.

mod nbd_common;

use std::{fs, os::unix::fs::FileExt, process::Output};

use bootroom_tests::deadline;
use nbd_common::{
    SIZE, run,
    site::{LIMIT, ROOM, Running, SEAT, Site, import_image},
};

fn succeeded(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
}

const BUSY: &str = r#"
[exports.busy]
file = "@/one"
mode = "read-write"
allow = ["10.79.0.2"]
"#;

const BEFORE: &str = r#"
[exports.leaving]
file = "@/two"
mode = "read-write"
shared = true
allow = ["10.79.0.2"]
[exports.turning]
file = "@/three"
mode = "read-write"
shared = true
allow = ["10.79.0.2"]
"#;

const AFTER: &str = r#"
[exports.arriving]
file = "@/two"
allow = ["*"]
[exports.turning]
file = "@/three"
mode = "read-only"
allow = ["10.79.0.2"]
"#;

fn file_of(export: &str) -> &'static str {
    match export {
        "leaving" => "two",
        _ => "three",
    }
}

/// While fio verifies what it writes to one export, others come, go and change.
#[test]
fn a_reload_adds_changes_and_removes_and_disturbs_nobody_else() {
    let mut site = Site::new(&format!("{BUSY}{BEFORE}")).start();
    let busy = format!("--uri={ROOM}/busy");
    let size = format!("--size={SIZE}");
    let fio = [
        "--name=busy",
        "--ioengine=nbd",
        &busy,
        &size,
        "--rw=randrw",
        "--bs=4k",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--time_based",
        "--runtime=6",
        "--status-interval=1",
        "--output=@/fio",
    ];
    let fio = site.there("fio", &fio).spawn().unwrap();
    deadline::wait_for("fio to work", LIMIT, || {
        fs::read_to_string(site.path("fio"))
            .ok()?
            .contains("iops")
            .then_some(())
    });
    // Both write until they are told to stop; what was answered till then has to be there.
    let writes = |name: &str| {
        let script = format!(
            "h = nbd.NBD(); h.connect_uri('{ROOM}/{name}')\n\
             block = lambda n: n.to_bytes(8, 'big') * 512\n\
             n = 1\n\
             try:\n\
             \twhile True:\n\
             \t\th.pwrite(block(n), n % 1024 * 4096)\n\
             \t\tif n == 1: open('@/{name}.mark', 'w').close()\n\
             \t\tn += 1\n\
             except nbd.Error as e: assert n > 1 and e.errno in ('ESHUTDOWN', 'ENOTCONN', None), e\n\
             with open('@/{name}', 'rb') as disk:\n\
             \tdisk.seek((n - 1) % 1024 * 4096); assert disk.read(4096) == block(n - 1)"
        );
        let script = script.replace(&format!("@/{name}'"), &format!("@/{}'", file_of(name)));
        Running::start(site.shell(&script), site.path(&format!("{name}.mark")))
    };
    let (leaving, turning) = (writes("leaving"), writes("turning"));
    site.write("room.toml", &format!("{BUSY}{AFTER}"));
    let done = site.reload();
    assert_eq!(
        done["exports"]["added"],
        serde_json::json!(["arriving"]),
        "{done}"
    );
    assert_eq!(done["exports"]["changed"], serde_json::json!(["turning"]));
    assert_eq!(done["exports"]["removed"], serde_json::json!(["leaving"]));
    assert_eq!(done["exports"]["connections_ended"], 2);
    assert_eq!(done["exports"]["cut_off"], false);
    succeeded(&leaving.end());
    succeeded(&turning.end());
    assert_eq!(site.list(ROOM), ["arriving", "busy", "turning"]);
    assert!(!site.opens(&format!("{ROOM}/leaving")));
    let read_only =
        "h = nbd.NBD(); h.connect_uri('nbd://10.79.0.1/turning'); assert h.is_read_only()";
    run(&mut site.shell(read_only));
    succeeded(&fio.wait_with_output().unwrap());
}

/// Files that cannot be read, are missing, or would need a restart.
#[test]
fn a_bad_configuration_leaves_the_old_one_in_force_and_says_where_it_is_wrong() {
    let before = format!("{BUSY}{BEFORE}");
    let mut site = Site::new(&before).start();
    let listed = ["busy", "leaving", "turning"];
    site.write(
        "conf.d/more.toml",
        "\n[exports.more]\nfile = \"@/none\"\nallow = [\"*\"]\n",
    );
    let said = site.refused_reload();
    for part in [
        "conf.d/more.toml:3:8",
        "^^^",
        "No such file",
        "goes on with",
    ] {
        assert!(said.contains(part), "{part} is missing in:\n{said}");
    }
    assert_eq!(site.list(ROOM), listed);
    site.write(
        "conf.d/more.toml",
        "[exports.busy]\nfile = \"@/four\"\nallow = [\"*\"]\n",
    );
    let said = site.refused_reload();
    assert!(said.contains("room.toml:10 already"), "{said}");
    site.write(
        "conf.d/more.toml",
        "[exports.twin]\nfile = \"@/one\"\nallow = [\"*\"]\n",
    );
    let said = site.refused_reload();
    assert!(said.contains("of one file"), "{said}");
    fs::remove_file(site.path("conf.d/more.toml")).unwrap();
    site.write(
        "room.toml",
        "[listeners.more]\naddress = \"10.79.0.1:10810\"\n",
    );
    let said = site.refused_reload();
    assert!(
        said.contains("cannot change while the server runs"),
        "{said}"
    );
    assert_eq!(site.list(ROOM), listed);
    site.write(
        "conf.d/more.toml",
        "[exports.more]\nfile = \"@/four\"\nallow = [\"*\"]\n",
    );
    site.write("room.toml", &before);
    assert_eq!(site.list(ROOM), listed);
    site.server().hang_up();
    deadline::wait_for("SIGHUP to count", LIMIT, || {
        site.list(ROOM).contains(&"more".to_owned()).then_some(())
    });
}

fn turning(disk: &str) -> String {
    format!(
        "[exports.turning]\nfile = \"@/{disk}\"\nmode = \"read-write\"\nshared = true\nallow = [\"*\"]\n"
    )
}

/// While clients come, write and come again, an export goes from one file to the other and back. What is not given out
/// must not change from the moment on that the reload has ended.
#[test]
fn nothing_is_written_behind_a_reload() {
    let mut site = Site::new(&turning("one")).start();
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let script = format!(
                "n = 0\n\
                 while True:\n\
                 \th = nbd.NBD()\n\
                 \ttry:\n\
                 \t\th.connect_uri('{ROOM}/turning')\n\
                 \t\tfor part in range(64):\n\
                 \t\t\tn += 1; h.pwrite(n.to_bytes(8, 'big') * 512, ({writer} * 64 + part) * 4096)\n\
                 \t\topen('@/{writer}.mark', 'w').close()\n\
                 \texcept nbd.Error: pass"
            );
            Running::start(site.shell(&script), site.path(&format!("{writer}.mark")))
        })
        .collect();
    let content = |site: &Site, disk: &str| {
        let mut bytes = vec![0; 3 * 64 * 4096];
        let file = fs::File::open(site.path(disk)).unwrap();
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    for round in 0..12 {
        let (old, new) = if round % 2 == 0 {
            ("one", "two")
        } else {
            ("two", "one")
        };
        site.write("room.toml", &turning(new));
        let before = content(&site, new);
        assert_eq!(
            site.reload()["exports"]["changed"],
            serde_json::json!(["turning"])
        );
        let left = content(&site, old);
        deadline::wait_for("writes to the new file", LIMIT, || {
            (content(&site, new) != before).then_some(())
        });
        assert!(
            content(&site, old) == left,
            "{old} was written to after the reload"
        );
    }
    assert!(writers.into_iter().all(Running::runs));
}

/// A machine that the configuration names from now on gets the address that it names.
#[test]
fn a_reload_reserves_an_address() {
    let machines = "[groups.all]\nmacs = [\"*\"]\nimage = \"tiny\"\n";
    let full = format!("range = \"10.79.0.100-10.79.0.199\"\n{machines}");
    let mut site = Site::new("");
    import_image(&site);
    site.write_room("full", &full);
    let mut site = site.start();
    let asked = |site: &Site| {
        let arguments = ["-i", "seat0", "-f", "-n", "-q", "-s", "/bin/true"];
        let output = site.there("udhcpc", &arguments).output().unwrap();
        String::from_utf8(output.stderr).unwrap()
    };
    let said = asked(&site);
    assert!(said.contains("lease of 10.79.0.1"), "{said}");
    let named = format!("{full}[clients.teacher]\nmac = \"{SEAT}\"\naddress = \"10.79.0.20\"\n");
    site.write_room("full", &named);
    site.reload();
    let said = asked(&site);
    assert!(said.contains("lease of 10.79.0.20 obtained"), "{said}");
    site.write_room("proxy", machines);
    let said = site.refused_reload();
    assert!(said.contains("mode of [dhcp] cannot change"), "{said}");
}
