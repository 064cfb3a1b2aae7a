//! The kernel command line: which of its parameters are ours, and what they ask for.
//!
//! Conventions of the field are accepted beside our own (`bootroom.*`): `nbdroot=` as Debian's hook writes it in its
//! `HOST:PORT/EXPORT` form, `netroot=nbd:…` and `root=nbd:…` as dracut writes them. `bootroom-client(7)` documents all.

use crate::error::{Result, usage};
use crate::report::ReportUrl;
use crate::uri::{ExportName, Server, Target, Transport, parse_servers};

/// Most disks that one agent holds.
pub const MAX_DISKS: usize = 16;

/// The number of an NBD device: 0 for `/dev/nbd0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceIndex(pub u32);

/// One disk to attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where it is served.
    pub target: Target,
    /// Which block device it becomes.
    pub device: DeviceIndex,
}

/// What the command line asks the agent to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The root disk first, then the `bootroom.disk=` ones. Empty: this boot is none of our business.
    pub disks: Vec<Disk>,
    /// Where to report to.
    pub report: Option<ReportUrl>,
    /// The export with the secret part of this machine's identity, beside the root disk (see [`crate::secret`]).
    pub secret: Option<ExportName>,
    /// Have the DHCP lease of this machine's address extended (see [`crate::lease`]).
    pub hold_lease: bool,
}

impl std::fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nbd{}", self.0)
    }
}

impl std::str::FromStr for DeviceIndex {
    type Err = crate::error::Error;

    /// `/dev/nbd3`, `nbd3`, or one of its partitions (`/dev/nbd3p1`), which lives on the same device.
    fn from_str(text: &str) -> Result<Self> {
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        let number = name
            .strip_prefix("nbd")
            .ok_or_else(|| usage(format!("{text:?} is not an NBD device")))?;
        let disk = number.split_once('p').map_or(number, |(disk, _)| disk);
        let valid = !disk.is_empty() && disk.bytes().all(|b| b.is_ascii_digit());
        let index = disk.parse().ok().filter(|&i: &u32| valid && i < 1 << 15);
        index
            .map(Self)
            .ok_or_else(|| usage(format!("{text:?} is not an NBD device like /dev/nbd0")))
    }
}

impl Plan {
    /// Reads a whole command line (`/proc/cmdline`). Unknown parameters are somebody else's and are left alone.
    pub fn parse(cmdline: &str) -> Result<Self> {
        let words = split(cmdline);
        let last = |key: &str| {
            words
                .iter()
                .rev()
                .find_map(|w| w.strip_prefix(key)?.strip_prefix('='))
        };
        let mut plan = Self {
            disks: Vec::new(),
            report: last("bootroom.report").map(str::parse).transpose()?,
            secret: last("bootroom.identity").map(ExportName::new).transpose()?,
            hold_lease: false,
        };
        let servers = last("bootroom.servers")
            .map(parse_servers)
            .transpose()?
            .unwrap_or_default();
        plan.disks.extend(root_disk(
            last("root"),
            last("nbdroot"),
            last("netroot"),
            &servers,
        )?);
        for value in words
            .iter()
            .filter_map(|w| w.strip_prefix("bootroom.disk="))
        {
            plan.disks.push(extra_disk(value, &servers)?);
        }
        plan.hold_lease = !plan.disks.is_empty() && last("bootroom.lease") != Some("leave");
        plan.check()?;
        Ok(plan)
    }

    /// Where the secret part of this machine's identity is. Nothing without TLS to the root disk: it is not for the wire.
    pub fn secret_target(&self) -> Option<Target> {
        let root = self.disks.first().map(|disk| &disk.target);
        let root = root.filter(|root| root.transport == Transport::Tls)?;
        Some(Target {
            export: self.secret.clone()?,
            ..root.clone()
        })
    }

    /// Whether one agent can do all of it: not too many disks, and each on a device of its own.
    pub fn check(&self) -> Result<()> {
        if self.disks.len() > MAX_DISKS {
            return Err(usage(format!(
                "{} disks are too many; one agent holds {MAX_DISKS}",
                self.disks.len()
            )));
        }
        for (at, disk) in self.disks.iter().enumerate() {
            if self.disks[..at]
                .iter()
                .any(|other| other.device == disk.device)
            {
                return Err(usage(format!(
                    "two disks are to become /dev/{}",
                    disk.device
                )));
            }
        }
        Ok(())
    }
}

fn root_disk(
    root: Option<&str>,
    nbdroot: Option<&str>,
    netroot: Option<&str>,
    servers: &[Server],
) -> Result<Option<Disk>> {
    let network = |value: &&str| value.starts_with("nbd:") || value.starts_with("nbds:");
    let target = match (nbdroot, netroot.filter(network), root.filter(network)) {
        (Some(value), _, _) => Target::from_nbdroot(value)?,
        (None, Some(value), _) | (None, None, Some(value)) => Target::from_netroot(value)?,
        (None, None, None) => return Ok(None),
    };
    let device = root
        .filter(|value| value.starts_with("/dev/nbd"))
        .map_or(Ok(DeviceIndex(0)), str::parse)?;
    Ok(Some(with_servers(target, device, servers)))
}

/// `bootroom.disk=/dev/nbd1,nbd://HOST/EXPORT`
fn extra_disk(value: &str, servers: &[Server]) -> Result<Disk> {
    let (device, uri) = value.split_once(',').ok_or_else(|| {
        usage(format!(
            "bootroom.disk={value}: write bootroom.disk=/dev/nbd1,nbd://HOST/EXPORT"
        ))
    })?;
    Ok(with_servers(
        Target::from_uri(uri)?,
        device.parse()?,
        servers,
    ))
}

fn with_servers(mut target: Target, device: DeviceIndex, servers: &[Server]) -> Disk {
    target.add_servers(servers.iter().cloned());
    Disk { target, device }
}

/// Splits at blanks, but not inside double quotes, and removes the quotes: what the kernel itself does.
fn split(cmdline: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in cmdline.chars() {
        match c {
            '"' => quoted = !quoted,
            c if c.is_ascii_whitespace() && !quoted => words.push(String::new()),
            c => words.last_mut().expect("never empty").push(c),
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_servers_command_line() {
        let line = "BOOT_IMAGE=x root=/dev/nbd0 nbdroot=10.12.0.1:10809/client/r12-01/00ff ip=10.12.0.9::10.12.0.1:\
                    255.255.255.0:r12-01::none:10.12.0.1 BOOTIF=01-52-54-00-12-00-01 \
                    bootroom.report=http://10.12.0.1:8080/report/00ff bootroom.servers=10.12.0.2:10809 quiet\n";
        let plan = Plan::parse(line).unwrap();
        let disk = &plan.disks[0];
        assert_eq!(disk.device, DeviceIndex(0));
        assert_eq!(disk.target.export.as_str(), "client/r12-01/00ff");
        assert_eq!(disk.target.servers[1].to_string(), "10.12.0.2:10809");
        assert_eq!(plan.report.unwrap().host(), "10.12.0.1:8080");
    }

    #[test]
    fn a_secret_is_asked_for_over_tls_only() {
        let secret = |root: &str| {
            let line = format!("nbdroot={root}h:9/client/r/00 bootroom.identity=identity/r/00");
            Plan::parse(&line).unwrap().secret_target()
        };
        let target = secret("nbds://").unwrap();
        assert_eq!(target.export.as_str(), "identity/r/00");
        assert_eq!(target.servers[0].to_string(), "h:9");
        assert_eq!(secret(""), None);
    }

    #[test]
    fn a_local_boot_is_left_alone() {
        let plan = Plan::parse("root=UUID=1 ro quiet netroot=iscsi:x init=\"/a b\"").unwrap();
        assert_eq!(plan, Plan::default());
    }

    #[test]
    fn other_conventions() {
        let of = |line: &str| Plan::parse(line).unwrap().disks.remove(0);
        assert_eq!(
            of("netroot=nbd:h:9/x root=/dev/nbd3p1").device,
            DeviceIndex(3)
        );
        assert_eq!(
            of("root=nbd:h:9/x").target,
            Target::from_uri("nbd://h:9/x").unwrap()
        );
        assert_eq!(of("nbdroot=nbds://h/x root=LABEL=y").device, DeviceIndex(0));
        assert!(Plan::parse("nbdroot=h/x").unwrap().hold_lease);
        assert!(
            !Plan::parse("nbdroot=h/x bootroom.lease=leave")
                .unwrap()
                .hold_lease
        );
        let both = Plan::parse("nbdroot=h/x bootroom.disk=/dev/nbd1,nbd://h/y bootroom.servers=k")
            .unwrap();
        assert_eq!(both.disks[1].target.servers.len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        for (line, part) in [
            ("nbdroot=h/x bootroom.disk=nbd0,nbd://h/y", "two disks"),
            ("bootroom.disk=nbd://h/y", "write bootroom.disk="),
            ("nbdroot=h:p/x", "must be a number"),
            ("nbdroot=h/x root=/dev/nbdX", "like /dev/nbd0"),
            ("nbdroot=h/x bootroom.report=ftp://x", "http://"),
        ] {
            let error = Plan::parse(line).unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(a in ".{0,120}", b in "[ -~]{0,40}") {
            let _ = Plan::parse(&a);
            let _ = Plan::parse(&format!("nbdroot={b} root=/dev/nbd{b} bootroom.disk={b}"));
        }
    }
}
