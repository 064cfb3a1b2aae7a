//! What a machine's boot loader is told: kernel, initrd and the kernel command line.
//!
//! The command line is the contract with the initramfs hook; ARCHITECTURE.md has it whole.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use images::Version;
use pxe::menu::{Target, ipxe_initrd_arguments, ipxe_initrds};

use super::{boot::Token, directory::Profile, identity::machine_id, registry::Record};
use crate::config::exports::TlsMode;

/// Where the server is, as this client reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address that the client asked.
    pub address: Ipv4Addr,
    /// TCP port of the boot files.
    pub http_port: u16,
    /// TCP port of the disks.
    pub nbd_port: u16,
    /// The other server of the pair, which has them too.
    pub other: Option<IpAddr>,
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
    /// The version's own, then that with the machine's identity.
    initrds: Vec<String>,
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
        let scheme = match profile.tls {
            TlsMode::Off => "",
            TlsMode::On | TlsMode::Required => "nbds://",
        };
        let mut arguments = format!(
            "root=/dev/nbd0 nbdroot={scheme}{}:{}/client/{name}/{token} BOOTIF=01-{} bootroom.report={} \
             systemd.hostname={name} systemd.machine_id={}",
            place.address,
            place.nbd_port,
            record.mac.dashed(),
            place.url(&format!("report/{token}")),
            machine_id(record.mac),
        );
        if let Some(other) = place.other {
            let other = SocketAddr::new(other, place.nbd_port);
            let _ = write!(arguments, " bootroom.servers={other}");
        }
        if profile.has_secret() {
            let _ = write!(arguments, " bootroom.identity=identity/{name}/{token}");
        }
        for extra in [version.cmdline(), profile.kernel_args.as_str()] {
            if !extra.is_empty() {
                let _ = write!(arguments, " {extra}");
            }
        }
        let mut initrds = vec![place.url(&format!("{files}/initrd.img"))];
        if profile.has_identity() {
            initrds.push(place.url(&identity_path(token)));
        }
        Script {
            title: format!("{name} boots {version}"),
            kernel: place.url(&format!("{files}/vmlinuz")),
            initrds,
            arguments,
            hostname: name.to_string(),
        }
    }

    /// For iPXE. `${…}` are iPXE's own settings, from the lease that it has.
    pub fn ipxe(&self) -> String {
        let Script {
            title,
            kernel,
            initrds,
            arguments,
            hostname,
        } = self;
        let (names, fetch) = (ipxe_initrd_arguments(initrds.len()), ipxe_initrds(initrds));
        format!(
            "#!ipxe\n\
             echo bootroom: {title}\n\
             kernel {kernel} {names} ip=${{ip}}::${{gateway}}:${{netmask}}:{hostname}::none:${{dns}} {arguments} || goto failed\n\
             {fetch}\
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
            initrds: self.initrds.clone(),
            command_line: format!("{ip} {}", self.arguments),
        }
    }
}

/// Where the identity of a boot is.
fn identity_path(token: Token) -> String {
    format!("{IDENTITY}/{token}.cpio")
}

/// The token in a path of [`identity_path`], without its first part.
pub fn identity_token(rest: &str) -> Option<&str> {
    rest.strip_suffix(".cpio")
}

/// The first part of the path of every identity.
pub const IDENTITY: &str = "identity";

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
}
