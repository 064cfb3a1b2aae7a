//! The host itself: rights, files, room on the disk, limits, the clock.

use std::{
    fs,
    process::Command,
    time::{Duration, SystemTime},
};

use images::Catalogue;
use pxe::{Loader, files::Roots};
use rustix::{
    fs::statvfs,
    process::{Resource, geteuid, getrlimit},
};

use super::Finding;
use crate::config::{Config, host, units::ByteSize};

/// Below this the server makes no new overlays.
const LEAST_SPACE: u64 = 1 << 30;
/// Below this a room of `keep` machines fills the disk within a day.
const LITTLE_SPACE: u64 = 8 << 30;
/// Each machine takes a socket, an event, three files, and a pipe while it reads much; a room has up to a thousand.
const FILES: u64 = 8192;

/// Whether what needs root can be looked at.
pub fn privileges() -> Vec<Finding> {
    match geteuid().is_root() {
        true => Vec::new(),
        false => vec![Finding::warning(
            "privileges",
            "not root: ports, firewall and other DHCP servers cannot all be looked at",
            "run it as root: sudo bootroom doctor",
        )],
    }
}

/// What `bootroom check` finds: interface, data directory, images.
pub fn configuration(config: &Config) -> Vec<Finding> {
    let problems = host::check(config);
    if problems.is_empty() {
        return vec![Finding::ok(
            "configuration",
            "its interface, directories and images are there",
        )];
    }
    let finding = |problem: crate::config::problem::Problem| {
        let fix = problem.fix.unwrap_or_else(|| "see bootroom check".into());
        Finding::bad("configuration", problem.message, fix)
    };
    problems.into_iter().map(finding).collect()
}

/// The boot loaders that the configuration needs, as firmware asks for them, with the packages that have them.
const LOADERS: [(Loader, &str, &[&str]); 3] = [
    (
        Loader::Ipxe,
        "ipxe",
        &["ipxe/undionly.kpxe", "ipxe/ipxe.efi"],
    ),
    (
        Loader::Grub,
        "shim-signed grub-efi-amd64-signed",
        &["grub/shimx64.efi", "grub/grubx64.efi"],
    ),
    (
        Loader::Pxelinux,
        "pxelinux syslinux-common",
        &["pxelinux/pxelinux.0", "pxelinux/ldlinux.c32"],
    ),
];

/// Whether the boot loaders are installed.
pub fn loaders(config: &Config) -> Vec<Finding> {
    let groups = config.groups.values().map(|group| group.settings.loader);
    let clients = config.clients.values().map(|client| client.settings.loader);
    let wanted: Vec<_> = groups.chain(clients).flatten().collect();
    let mut findings = Vec::new();
    for (loader, package, files) in LOADERS {
        // iPXE is what every machine gets that has no other, and BIOS machines get it beside GRUB.
        if loader != Loader::Ipxe && !wanted.contains(&loader) {
            continue;
        }
        let files = files.iter().filter_map(|file| Roots::loader_file(file));
        for file in files.filter(|file| !file.exists()) {
            let message = format!("the boot loader {} is not there", file.display());
            findings.push(Finding::bad(
                "loaders",
                message,
                format!("apt install {package}"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("loaders", "the boot loaders are installed"));
    }
    findings
}

/// Room on the disk that holds images and overlays.
pub fn space(config: &Config) -> Vec<Finding> {
    let data = &config.server.data.value;
    // That there is none is said already.
    let Ok(stat) = statvfs(data) else {
        return Vec::new();
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let place = data.display();
    let message = format!("{} free in {place}", ByteSize(free));
    let fix = format!("make room: bootroom image list, bootroom client list, du -sh {place}/*");
    let mut findings = vec![match free {
        0..LEAST_SPACE => Finding::bad("space", message + ": no new disks are made", fix),
        LEAST_SPACE..LITTLE_SPACE => Finding::warning("space", message, fix),
        _ => Finding::ok("space", message),
    }];
    if stat.f_files > 0 && stat.f_favail < 1000 {
        let message = format!("only {} more files can be made in {place}", stat.f_favail);
        findings.push(Finding::bad(
            "space",
            message,
            "remove files from that filesystem",
        ));
    }
    findings
}

/// Limits of the kernel that a large room runs into.
pub fn limits(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(files) = getrlimit(Resource::Nofile)
        .maximum
        .filter(|most| *most < FILES)
    {
        let message =
            format!("a process may have {files} files open, and each machine takes up to seven");
        let fix = "in the service: LimitNOFILE=65536; in a shell: ulimit -Hn 65536";
        findings.push(Finding::warning("limits", message, fix));
    }
    let neighbours = number("/proc/sys/net/ipv4/neigh/default/gc_thresh3");
    let own = config.dhcp.own.ranges.iter();
    let size = |first, last| u64::from(u32::from(last) - u32::from(first)) + 1;
    let machines: u64 = own
        .map(|range| size(range.value.first, range.value.last))
        .sum();
    if let Some(most) = neighbours.filter(|most| *most < machines) {
        let message = format!(
            "{machines} addresses can be given out, but the kernel knows {most} neighbours at most"
        );
        let fix = format!(
            "sysctl -w net.ipv4.neigh.default.gc_thresh3={}",
            machines * 2
        );
        findings.push(Finding::warning("limits", message, fix));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("limits", "the kernel's limits are wide enough"));
    }
    findings
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A clock that is behind what was already written here makes leases that have run out, and certificates that are
/// not valid yet.
pub fn clock(config: &Config) -> Vec<Finding> {
    let now = SystemTime::now();
    let fix = "set it: timedatectl set-ntp true (package systemd-timesyncd)";
    if let Some(newest) =
        newest_image(config).filter(|newest| *newest > now + Duration::from_secs(60))
    {
        let behind = newest.duration_since(now).unwrap_or_default().as_secs();
        let message =
            format!("the clock is at least {behind} s behind: an image here is newer than now");
        return vec![Finding::bad("clock", message, fix)];
    }
    match synchronised() {
        Some(false) => vec![Finding::warning(
            "clock",
            "the clock is not synchronised with any other",
            fix,
        )],
        Some(true) => vec![Finding::ok("clock", "the clock is synchronised")],
        None => vec![Finding::ok(
            "clock",
            "the clock is not behind what is stored here",
        )],
    }
}

fn newest_image(config: &Config) -> Option<SystemTime> {
    let catalogue = Catalogue::open(config.server.images()).ok()?;
    let images = catalogue.list().ok()?;
    let versions = images.iter().flat_map(|image| &image.versions);
    versions.map(images::Version::created).max()
}

/// What systemd says; nothing where it does not run.
fn synchronised() -> Option<bool> {
    let show = ["show", "--property=NTPSynchronized", "--value"];
    let output = Command::new("timedatectl").args(show).output().ok()?;
    match output.stdout.as_slice() {
        b"yes\n" => Some(true),
        b"no\n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loader_is_one_that_is_served() {
        let mut files = LOADERS.iter().flat_map(|(_, _, files)| *files);
        assert!(files.all(|file| Roots::loader_file(file).is_some()));
    }
}
