//! The claims of the demo, each decided by what a machine, the server or the host's disk says.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use tokio::process::Command;

use super::boot::Seat;
use super::plan::{Desk, IMAGE, Plan, Retention};
use super::proof::Proofs;
use super::server::Memory;
use super::summary::mebibytes;
use crate::control::client::Control;

/// What the server may use of the computer's memory beyond shared file pages.
const MEMORY_LIMIT: u64 = 40 << 20;

/// What a machine's disk costs.
#[derive(Debug, Clone, Copy)]
pub struct Disk {
    /// What its overlay takes up on the host's disk, in bytes.
    pub overlay: u64,
    /// What the machine has written to its root disk since power-on, in bytes.
    pub written: u64,
}

/// Each machine: its root is its network disk, writable, and the only disk it has. Leaves a file behind on each.
///
/// # Errors
/// A machine does not answer.
pub async fn own_root(
    seats: &mut [Seat],
    plan: &Plan,
    proofs: &mut Proofs,
) -> anyhow::Result<Vec<Disk>> {
    let mut disks = Vec::new();
    for seat in seats {
        disks.push(disk(seat, plan, proofs).await?);
        let name = seat.desk.name.clone();
        let root = seat.machine.console.run("grep ' / ' /proc/mounts").await?;
        let on_nbd = root.text.starts_with("/dev/nbd0 / ") && options(&root.text).contains(&"rw");
        proofs.claim(
            on_nbd,
            format!("{name}: the root is /dev/nbd0, mounted for writing"),
            root.text,
        );

        let names = seat.machine.console.run("hostname; ls /sys/block").await?;
        let has_no_disk = names
            .text
            .lines()
            .skip(1)
            .all(|disk| is_no_drive(disk.trim()));
        proofs.claim(has_no_disk, format!("{name}: has no disk of its own"), "");
        let hostname = names.text.lines().next().unwrap_or_default().trim();
        proofs.claim(
            hostname == name,
            format!("{name}: knows its name"),
            hostname,
        );

        let file = format!("/root/made-on-{name}");
        let wrote = seat
            .machine
            .console
            .run(&format!("echo {name} > {file} && sync && cat {file}"))
            .await?;
        proofs.claim(
            wrote.status == 0 && wrote.text == name,
            format!("{name}: writes {file}"),
            wrote.text,
        );
    }
    Ok(disks)
}

fn options(mount: &str) -> Vec<&str> {
    mount
        .split_whitespace()
        .nth(3)
        .unwrap_or_default()
        .split(',')
        .collect()
}

/// Whether a name in `/sys/block` stands for something that is not a drive of the machine.
fn is_no_drive(name: &str) -> bool {
    ["nbd", "loop", "ram", "zram"]
        .iter()
        .any(|kind| name.starts_with(kind))
}

/// Claims that an overlay takes up no more than its machine wrote.
async fn disk(seat: &mut Seat, plan: &Plan, proofs: &mut Proofs) -> anyhow::Result<Disk> {
    let name = seat.desk.name.clone();
    seat.machine.console.run("sync").await?;
    // The host's side first: what the machine writes in between then counts for it, not against it.
    let overlay = overlay_bytes(&plan.data, &seat.desk)?;
    let stat = seat.machine.console.run("cat /sys/block/nbd0/stat").await?;
    let sectors: u64 = stat
        .text
        .split_whitespace()
        .nth(6)
        .and_then(|field| field.parse().ok())
        .with_context(|| format!("odd disk statistics on {name}: {}", stat.text))?;
    let disk = Disk {
        overlay,
        written: sectors * 512,
    };
    let seen = format!("{} of {}", mebibytes(disk.overlay), mebibytes(disk.written));
    proofs.claim(
        disk.overlay <= disk.written,
        format!("{name}: its overlay is no larger than what it wrote"),
        seen,
    );
    Ok(disk)
}

/// What the blocks of a machine's overlay take up on the host's disk. The maps beside them have a fixed size.
fn overlay_bytes(data: &Path, desk: &Desk) -> anyhow::Result<u64> {
    let overlay = format!("{}-{IMAGE}", desk.mac.replace(':', ""));
    let dir = data.join("overlays").join(overlay);
    let mut bytes = 0;
    for entry in
        std::fs::read_dir(&dir).with_context(|| format!("no overlay at {}", dir.display()))?
    {
        let entry = entry?;
        if entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "data")
        {
            bytes += entry.metadata()?.blocks() * 512;
        }
    }
    Ok(bytes)
}

/// No machine sees a file of another.
///
/// # Errors
/// A machine does not answer.
pub async fn isolated(seats: &mut [Seat], proofs: &mut Proofs) -> anyhow::Result<()> {
    for seat in seats {
        let name = &seat.desk.name;
        let files = seat
            .machine
            .console
            .run("cd /root && ls -d made-on-*")
            .await?;
        let alone = files.status == 0 && files.text == format!("made-on-{name}");
        proofs.claim(
            alone,
            format!("{name}: sees its own file and no other machine's"),
            files.text,
        );
    }
    Ok(())
}

/// The server knows each machine, attached, with an export and an overlay of its own.
///
/// # Errors
/// The server does not answer.
pub async fn own_exports(
    control: &Control,
    desks: &[Desk],
    proofs: &mut Proofs,
) -> anyhow::Result<()> {
    let clients = control.get("/v1/clients").await?;
    let clients = clients.as_array().cloned().unwrap_or_default();
    for key in ["export", "overlay"] {
        let values: BTreeSet<&str> = clients
            .iter()
            .filter_map(|client| client[key].as_str())
            .collect();
        let seen = values.iter().copied().collect::<Vec<_>>().join(", ");
        proofs.claim(
            values.len() == desks.len(),
            format!("every machine has an {key} of its own"),
            seen,
        );
    }
    Ok(())
}

/// A `boot` machine has lost its file with the power, a `keep` machine has it still.
///
/// # Errors
/// A machine does not answer.
pub async fn retention(seats: &mut [Seat], proofs: &mut Proofs) -> anyhow::Result<()> {
    for seat in seats {
        let name = &seat.desk.name;
        let file = format!("/root/made-on-{name}");
        let look = seat.machine.console.run(&format!("cat {file}")).await?;
        let (held, claim) = match seat.desk.retention {
            Retention::Boot => (look.status != 0, "is fresh: its file is gone"),
            Retention::Keep => (
                look.status == 0 && look.text == *name,
                "keeps its disk: its file is still there",
            ),
        };
        let retention = seat.desk.retention.name();
        proofs.claim(
            held,
            format!("{name} (retention {retention}): {claim}"),
            look.text,
        );
    }
    Ok(())
}

/// The shared version is, byte for byte, what was built.
///
/// # Errors
/// `bootroom image verify` cannot be started.
pub async fn base_intact(plan: &Plan, proofs: &mut Proofs) -> anyhow::Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .args(["image", "verify", IMAGE, "--data"])
        .arg(&plan.data)
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot start bootroom image verify")?;
    let said = String::from_utf8_lossy(if output.status.success() {
        &output.stdout
    } else {
        &output.stderr
    });
    proofs.claim(
        output.status.success(),
        "the shared image still has the digest it was built with",
        said,
    );
    Ok(())
}

/// The server is small.
pub fn small_server(memory: Memory, proofs: &mut Proofs) {
    let seen = format!(
        "{}, and {} of shared file pages",
        mebibytes(memory.own),
        mebibytes(memory.file)
    );
    proofs.claim(
        memory.own < MEMORY_LIMIT,
        "the server uses less than 40 MiB of memory",
        seen,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_options_are_words_not_substrings() {
        let line = "/dev/nbd0 / ext4 ro,relatime,errors=remount-ro 0 0";
        assert_eq!(options(line), ["ro", "relatime", "errors=remount-ro"]);
    }

    #[test]
    fn drives_are_told_from_what_the_kernel_always_has() {
        assert!(
            ["nbd0", "loop3", "ram1", "zram0"]
                .iter()
                .all(|name| is_no_drive(name))
        );
        assert!(
            ["sda", "vda", "nvme0n1", "sr0", "mmcblk0"]
                .iter()
                .all(|name| !is_no_drive(name))
        );
    }
}
