//! What a machine's boot loader is told: kernel, initrd and the kernel command line.
//!
//! The command line is the contract with the initramfs hook; ARCHITECTURE.md has it whole.

use std::{fmt::Write, net::Ipv4Addr};

use images::Version;
use pxe::{Mac, menu::Target};

use super::{boot::Token, directory::Profile, registry::Record};

/// Where the server is, as this client reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address that the client asked.
    pub address: Ipv4Addr,
    /// TCP port of the boot files.
    pub http_port: u16,
    /// TCP port of the disks.
    pub nbd_port: u16,
}

impl Place {
    /// The URL of a boot file.
    pub fn url(&self, path: &str) -> String {
        match self.http_port {
            80 => format!("http://{}/{path}", self.address),
            port => format!("http://{}:{port}/{path}", self.address),
        }
    }
}

/// One boot's script; rendered for the boot loader that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    title: String,
    kernel: String,
    initrd: String,
    /// The command line without `ip=`, which each boot loader fills in from its own DHCP lease.
    arguments: String,
    hostname: String,
}

impl Script {
    /// The script of the boot that `token` opens the disk of.
    pub fn new(
        record: &Record,
        profile: &Profile,
        version: &Version,
        token: Token,
        place: Place,
    ) -> Self {
        let files = format!("images/{}/{}", version.image(), version.number());
        let name = &record.name;
        let mut arguments = format!(
            "root=/dev/nbd0 nbdroot={}:{}/client/{name}/{token} BOOTIF=01-{} bootroom.report={} \
             systemd.hostname={name} systemd.machine_id={}",
            place.address,
            place.nbd_port,
            record.mac.dashed(),
            place.url(&format!("report/{token}")),
            machine_id(record.mac),
        );
        for extra in [version.cmdline(), profile.kernel_args.as_str()] {
            if !extra.is_empty() {
                let _ = write!(arguments, " {extra}");
            }
        }
        Script {
            title: format!("{name} boots {version}"),
            kernel: place.url(&format!("{files}/vmlinuz")),
            initrd: place.url(&format!("{files}/initrd.img")),
            arguments,
            hostname: name.to_string(),
        }
    }

    /// For iPXE. `${…}` are iPXE's own settings, from the lease that it has.
    pub fn ipxe(&self) -> String {
        let Script {
            title,
            kernel,
            initrd,
            arguments,
            hostname,
        } = self;
        format!(
            "#!ipxe\n\
             echo bootroom: {title}\n\
             kernel {kernel} initrd=initrd.img ip=${{ip}}::${{gateway}}:${{netmask}}:{hostname}::none:${{dns}} {arguments} || goto failed\n\
             initrd {initrd} || goto failed\n\
             boot || goto failed\n\
             {FAILED}"
        )
    }

    /// For GRUB and PXELINUX, with the lease written out.
    pub fn target(&self, lease: &Lease) -> Target {
        let or_empty =
            |address: Option<Ipv4Addr>| address.map_or_else(String::new, |a| a.to_string());
        let ip = format!(
            "ip={}::{}:{}:{}::none:{}",
            lease.address,
            or_empty(lease.gateway),
            lease.netmask,
            self.hostname,
            or_empty(lease.dns)
        );
        Target::Linux {
            kernel: self.kernel.clone(),
            initrds: vec![self.initrd.clone()],
            command_line: format!("{ip} {}", self.arguments),
        }
    }
}

/// What a machine leased, for a boot loader that cannot say so on the kernel command line itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its default router.
    pub gateway: Option<Ipv4Addr>,
    /// The mask of its network.
    pub netmask: Ipv4Addr,
    /// Its DNS server.
    pub dns: Option<Ipv4Addr>,
}

/// The script of a machine that cannot boot: says why on its screen and tries again.
pub fn refusal(reason: &str) -> String {
    let lines: Vec<_> = reason
        .lines()
        .map(|line| format!("echo bootroom: {}\n", plain(line)))
        .collect();
    format!("#!ipxe\n{}{FAILED}", lines.concat())
}

/// A minute is long enough to read the message and short enough for a room that boots unattended.
const FAILED: &str = ":failed\n\
    echo bootroom: trying again in a minute\n\
    prompt --timeout 60000 Press a key to try at once || echo\n\
    reboot\n";

/// iPXE expands `${` and splits at `||` and `&&`; a message must do neither.
fn plain(line: &str) -> String {
    line.chars()
        .filter(|c| !matches!(c, '$' | '|' | '&' | ';'))
        .collect()
}

/// A machine-id (machine-id(5)) that a machine keeps over every fresh disk: derived from its address, in the
/// form of a version 4 UUID as systemd makes them.
fn machine_id(mac: Mac) -> String {
    let hash = blake3::derive_key("bootroom 2026-11-23 machine-id", &mac.0);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .simple()
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_cannot_run_commands() {
        let script = refusal("no image `${boot}` || sanboot\nsecond line");
        assert!(script.starts_with(
            "#!ipxe\necho bootroom: no image `{boot}`  sanboot\necho bootroom: second"
        ));
    }

    #[test]
    fn machine_ids_differ_and_last() {
        let one = machine_id(Mac([2, 0, 0, 0, 0, 1]));
        assert_eq!(one, machine_id(Mac([2, 0, 0, 0, 0, 1])));
        assert_ne!(one, machine_id(Mac([2, 0, 0, 0, 0, 2])));
        assert_eq!((one.len(), one.as_bytes()[12]), (32, b'4'));
    }
}
