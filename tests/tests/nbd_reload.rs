//! What a reload does to the named exports of a running server, and to those that are connected.

mod nbd_common;

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use bootroom_tests::deadline;
use nbd_common::{
    SIZE, run,
    site::{LIMIT, ROOM, Site},
};

/// A script that runs on, and says when it has come so far.
struct Running {
    child: Child,
    mark: PathBuf,
}

impl Running {
    fn start(mut command: Command, mark: PathBuf) -> Self {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, mark };
        deadline::wait_for("the script to begin", LIMIT, || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended");
            running.mark.exists().then_some(())
        });
        running
    }

    fn end(self) -> Output {
        self.child.wait_with_output().unwrap()
    }
}

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
