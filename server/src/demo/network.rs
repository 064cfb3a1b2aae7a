//! The room's network: a bridge and a tap for each machine, inside the private namespace.

use std::process::Command;

use anyhow::{Context, bail};

use super::plan::{BRIDGE, Desk, SERVER};

/// Makes the bridge, gives it the server's address, and plugs a tap for each machine into it.
///
/// # Errors
/// The kernel refuses one of these; the error holds the `ip` command and what it said.
pub fn raise(desks: &[Desk]) -> anyhow::Result<()> {
    ip("link set lo up")?;
    // No spanning tree and no delay: a port that would not forward for its first seconds would lose the firmware's DHCP.
    ip(&format!(
        "link add {BRIDGE} type bridge stp_state 0 forward_delay 0"
    ))?;
    ip(&format!("address add {SERVER}/24 dev {BRIDGE}"))?;
    ip(&format!("link set {BRIDGE} up"))?;
    desks.iter().try_for_each(plug)
}

fn plug(desk: &Desk) -> anyhow::Result<()> {
    let tap = &desk.tap;
    ip(&format!("tuntap add {tap} mode tap"))?;
    ip(&format!("link set {tap} master {BRIDGE} up"))
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("cannot run ip (package iproute2)")?;
    if !output.status.success() {
        bail!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
