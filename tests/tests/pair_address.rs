//! An address that moves with the primary, by Debian's keepalived, set up as docs/standby.md says.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use bootroom_tests::pair::{LIMIT, Pair, Plan, Side};
use tempfile::TempDir;

const A: Side = Side::A;
const B: Side = Side::B;

const PAGE: &str = include_str!("../../server/docs/standby.md");
const ADDRESS: &str = "10.80.0.3";

/// The file that the page names so.
fn file(name: &str) -> String {
    let head = format!("    # /etc/keepalived/{name}");
    let lines = PAGE.lines().skip_while(|line| !line.starts_with(&head));
    let lines = lines.skip(1);
    let indented = lines.take_while(|line| line.is_empty() || line.starts_with("    "));
    let inside = indented.take_while(|line| !line.starts_with("    # /etc/"));
    let file: String = inside
        .map(|line| format!("{}\n", line.strip_prefix("    ").unwrap_or(line)))
        .collect();
    assert!(!file.is_empty(), "{name} is on the page no longer");
    file
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is on the page no longer");
    text.replace(from, to)
}

/// keepalived on the host of one server. Drop ends it.
struct Keeper {
    child: Child,
    log: PathBuf,
}

impl Keeper {
    /// `dir` must be root's all the way up: keepalived runs no script that others could have written.
    fn start(pair: &Pair, side: Side, dir: &Path) -> Self {
        let own = |name: &str| dir.join(format!("{side:?}-{name}"));
        let control = pair
            .path(&format!("{side:?}").to_lowercase())
            .join("control.sock");
        let asked = format!(
            "{} standby status --socket {}",
            binary::bootroom().display(),
            control.display()
        );
        let script = replaced(
            &file("bootroom-primary"),
            "/usr/local/bin/bootroom standby status",
            &asked,
        );
        fs::write(own("primary"), script).expect("it is written");
        fs::set_permissions(own("primary"), fs::Permissions::from_mode(0o755)).expect("it is ours");
        let text = file("keepalived.conf");
        let path = own("primary").display().to_string();
        let text = replaced(&text, "/etc/keepalived/bootroom-primary", &path);
        let text = replaced(&text, "10.12.0.3/24", &format!("{ADDRESS}/24"));
        let text = replaced(&text, "enp3s0", "eth0");
        fs::write(own("conf"), text).expect("it is written");
        let log = fs::File::create(own("log")).expect("a log");
        let mut command = pair.host(side).namespace().command("keepalived");
        command.args(["--dont-fork", "--log-console", "--no-syslog", "--vrrp"]);
        command.arg("--use-file").arg(own("conf"));
        command.arg("--pid").arg(own("pid"));
        command.arg("--vrrp_pid").arg(own("vrrp-pid"));
        command.stdout(log.try_clone().expect("a file can be cloned"));
        let child = command.stderr(log).stdin(Stdio::null()).spawn();
        Self {
            child: child.expect("keepalived runs"),
            log: own("log"),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        // It ends its own children then.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

fn has_address(pair: &Pair, side: Side) -> bool {
    let mut ip = pair.host(side).namespace().command("ip");
    let output = ip.args(["-4", "address", "show", "dev", "eth0"]).output();
    let said = String::from_utf8(output.expect("ip runs").stdout).expect("text");
    said.contains(&format!("inet {ADDRESS}/24"))
}

fn wait_address(pair: &Pair, side: Side) {
    wait_for(
        &format!("{side:?} alone to have the address"),
        LIMIT,
        || (has_address(pair, side) && !has_address(pair, side.other())).then_some(()),
    );
}

#[test]
#[ignore = "long: make test-full"]
fn an_address_follows_the_primary() {
    let mut pair = Pair::new(&Plan::default());
    let dir = TempDir::new_in("/run").expect("a folder of root's");
    let _keepers = Side::BOTH.map(|side| Keeper::start(&pair, side, dir.path()));
    wait_address(&pair, A);

    pair.host_mut(A).kill();
    wait_address(&pair, B);
    pair.host_mut(A).start();
    pair.wait_paired(B);
    assert!(has_address(&pair, B), "it stays with the primary");

    pair.host(B).standby_done(&["handover"]);
    wait_address(&pair, A);
    pair.wait_paired(A);

    // One that answers nobody, its own host neither.
    pair.host(A).freeze();
    wait_address(&pair, B);
    pair.host(A).thaw();
    pair.wait_paired(B);
    assert!(has_address(&pair, B) && !has_address(&pair, A));
}
