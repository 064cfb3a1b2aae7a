//! The host's packages: found, installed, or named.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// Something that must be on the computer, and the package that brings it.
struct Need {
    /// A program on the path, or a file if it begins with a slash.
    thing: &'static str,
    package: &'static str,
}

const fn need(thing: &'static str, package: &'static str) -> Need {
    Need { thing, package }
}

/// What the demo itself runs.
const ROOM: &[Need] = &[
    need("qemu-system-x86_64", "qemu-system-x86"),
    need("/usr/share/seabios/bios-256k.bin", "seabios"),
    need("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"),
    need("/usr/lib/ipxe/undionly.kpxe", "ipxe"),
    need("ip", "iproute2"),
    need("unshare", "util-linux"),
];

/// What the build of the image runs.
const BUILD: &[Need] = &[
    need("mmdebstrap", "mmdebstrap"),
    need("mke2fs", "e2fsprogs"),
];

/// Packages of QEMU's source that must have the version of the emulator, and are there on some hosts already.
const QEMU_FAMILY: &[&str] = &[
    "qemu-utils",
    "qemu-block-extra",
    "qemu-system-common",
    "qemu-system-data",
];

/// Sees to it that everything needed is there. As root on a computer with apt, what is missing is installed.
///
/// # Errors
/// Something is missing; the error is the command that installs it.
pub fn ensure() -> anyhow::Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    let command = format!("apt-get install --no-install-recommends {names}");
    if !rustix::process::geteuid().is_root() || !on_path("apt-get") {
        bail!("these packages are missing: {names}\n  Install them first:  sudo {command}");
    }
    tell!("==> Installing the missing packages: {names}");
    install(&missing)?;
    match self::missing().as_slice() {
        [] => Ok(()),
        still => bail!("still missing after the installation: {}", still.join(" ")),
    }
}

fn missing() -> Vec<&'static str> {
    let needs = ROOM.iter().chain(BUILD);
    let mut packages: Vec<_> = needs
        .filter(|need| !is_there(need.thing))
        .map(|need| need.package)
        .collect();
    packages.dedup();
    packages
}

fn is_there(thing: &str) -> bool {
    if thing.starts_with('/') {
        Path::new(thing).exists()
    } else {
        on_path(thing)
    }
}

/// Whether a program is on the path, or where an ordinary user's path does not lead but root's programs are.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(Into::into);
    std::env::split_paths(&path)
        .chain(usual)
        .any(|dir| dir.join(program).is_file())
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    if packages.iter().any(|package| candidate(package).is_none()) {
        apt(&["update".to_owned()])?;
    }
    let mut arguments: Vec<String> = [
        "install",
        "--yes",
        "--no-install-recommends",
        "--allow-downgrades",
    ]
    .map(Into::into)
    .into();
    arguments.extend(packages.iter().map(|package| (*package).to_owned()));
    arguments.extend(companions(packages));
    apt(&arguments)
}

/// Installed parts of QEMU that another version of the emulator would break, each with the version it must have.
///
/// A host may carry a newer `qemu-utils` than its release has; apt refuses the emulator then, unless told that it may
/// take the others back with it.
fn companions(packages: &[&str]) -> Vec<String> {
    if !packages.contains(&"qemu-system-x86") {
        return Vec::new();
    }
    let Some(version) = candidate("qemu-system-x86") else {
        return Vec::new();
    };
    let differs = |package: &&&str| installed(package).is_some_and(|have| have != version);
    let offered = |package: &&&str| offers(package, &version);
    QEMU_FAMILY
        .iter()
        .filter(differs)
        .filter(offered)
        .map(|package| format!("{package}={version}"))
        .collect()
}

/// The version apt would install.
fn candidate(package: &str) -> Option<String> {
    let policy = ask("apt-cache", &["policy", package])?;
    let line = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    Some(line.trim().to_owned()).filter(|version| version != "(none)")
}

/// The installed version.
fn installed(package: &str) -> Option<String> {
    let answer = ask(
        "dpkg-query",
        &[
            "--show",
            "--showformat=${db:Status-Status} ${Version}",
            package,
        ],
    )?;
    answer.strip_prefix("installed ").map(str::to_owned)
}

/// Whether apt knows this version of a package.
fn offers(package: &str, version: &str) -> bool {
    ask("apt-cache", &["madison", package]).is_some_and(|lines| {
        lines
            .lines()
            .any(|line| line.split('|').nth(1).map(str::trim) == Some(version))
    })
}

fn ask(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn apt(arguments: &[String]) -> anyhow::Result<()> {
    tell!("    apt-get {}", arguments.join(" "));
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_not() {
        assert!(is_there("sh"));
        assert!(is_there("/bin/sh"));
        assert!(!is_there("no-such-program-anywhere"));
        assert!(!is_there("/no/such/file"));
    }
}
