//! The namespaces the room lives in, made with util-linux's `unshare`.
//!
//! A network namespace keeps the room off the host's network. A PID namespace makes the clean-up certain: the inner
//! process is its process 1, and the kernel kills whatever else is in it when process 1 ends. Who is not root gets a
//! user namespace around both.

use std::ffi::OsStr;
use std::process::Stdio;

use anyhow::{Context, bail};
use tokio::process::{Child, Command};

/// The command that runs `program` inside fresh namespaces.
fn unshare(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args([
            "--net",
            "--mount-proc",
            "--pid",
            "--fork",
            "--kill-child",
            "--",
        ])
        .arg(program);
    command
}

/// Finds out whether this computer lets us make a namespace with a tap device in it.
///
/// # Errors
/// It does not; the error says what to do.
pub async fn probe() -> anyhow::Result<()> {
    let mut command = unshare("ip");
    command
        .args(["tuntap", "add", "probe0", "mode", "tap"])
        .stdin(Stdio::null());
    let output = command
        .output()
        .await
        .context("cannot run unshare (package util-linux)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!(
        "cannot make a private network with a tap device: {}\n{}",
        said.trim(),
        advice()
    )
}

fn advice() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "  In a container, start it with --cap-add SYS_ADMIN --cap-add NET_ADMIN --device /dev/net/tun."
    } else {
        "  Run it as root: sudo make demo (or make /dev/net/tun writable and allow user namespaces)."
    }
}

/// Starts this program again inside fresh namespaces, with the plan at `plan`.
///
/// The inner process stops when its standard input closes, so it ends with this process even if that is killed. It
/// has a process group of its own: Ctrl-C reaches only this process, which then stops it in an orderly way.
///
/// # Errors
/// `unshare` cannot be started.
pub fn start(plan: &std::path::Path) -> anyhow::Result<Child> {
    // Not /proc/self/exe: inside `unshare` that would be `unshare`.
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    unshare(program)
        .args(["demo", "--inside"])
        .arg(plan)
        .stdin(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot run unshare (package util-linux)")
}
