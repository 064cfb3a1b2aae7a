//! Answers what the boot services ask: who is this, what does it boot, what does a path hold.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use images::{ImageRef, Version};
use pxe::{
    BootAnswer, Content, Event, FileRequest, Happening, Identity, Mac, Machine, Policy, Protocol,
    Report, Stage,
    menu::{ConfigPath, Language},
};

use super::{
    Clients,
    error::{Error, ErrorKind, Result},
    menus::Asked,
    script::{IDENTITY, Lease, Place, identity_token, refusal},
};
use crate::{
    config::{Config, DhcpMode},
    trace::Step,
};

/// The policy of a server's clients.
pub struct BootPolicy {
    clients: Arc<Clients>,
}

impl BootPolicy {
    /// Answers for `clients`.
    pub fn new(clients: Arc<Clients>) -> Self {
        BootPolicy { clients }
    }

    /// What a boot loader is told. iPXE shows why its machine cannot boot; GRUB and PXELINUX have their own words for
    /// "there is none".
    fn loader_config(&self, path: ConfigPath, request: &FileRequest) -> Option<Content> {
        let mac = path.mac.or(request.mac)?;
        let error = match self.boot_text(mac, path, request) {
            Ok(boot_text) => return Some(text(boot_text)),
            Err(error) => error,
        };
        let reason = error.with_causes();
        tracing::warn!("{mac} cannot boot, asked by {}: {reason}", request.peer);
        let name = self.clients.name_of(mac);
        let step = Step::new(mac, name.as_ref(), "refused", &reason);
        self.clients.trace().add(step);
        (path.language == Language::Ipxe).then(|| text(refusal(&reason)))
    }

    fn boot_text(&self, mac: Mac, path: ConfigPath, request: &FileRequest) -> Result<String> {
        let config = self.clients.config();
        if !self.may_have(mac, request) {
            let context = "this is the boot script of another machine";
            return Err(Error::new(ErrorKind::Refused, context));
        }
        self.clients.boot_text(&Asked {
            mac,
            language: path.language,
            entry: path.entry,
            place: place(&config, request.local),
            lease: lease_of(&config, request.peer),
        })
    }

    /// Only its machine gets it, where this server knows which machine asks.
    fn identity(&self, token: &str, request: &FileRequest) -> Option<Content> {
        let found = self.clients.identity(token);
        let found = found.and_then(|(mac, initrd)| match self.may_have(mac, request) {
            true => Ok(initrd),
            false => Err(Error::new(
                ErrorKind::Refused,
                "this is the identity of another machine",
            )),
        });
        match found {
            Ok(initrd) => Some(Content::Bytes(Bytes::from(initrd))),
            Err(error) => {
                tracing::warn!("{} gets no identity: {}", request.peer, error.with_causes());
                None
            }
        }
    }

    /// Where this server gives the addresses, only the holder of the lease gets what is a machine's own.
    fn may_have(&self, mac: Mac, request: &FileRequest) -> bool {
        let full = self.clients.config().dhcp.mode == DhcpMode::Full;
        request.mac == Some(mac) || request.mac.is_none() && !full
    }

    fn boot_file(&self, path: &str) -> Option<Content> {
        let mut parts = path.split('/');
        let (image, number, file) = (parts.next()?, parts.next()?, parts.next()?);
        let reference: ImageRef = format!("{image}@{number}").parse().ok()?;
        let version: Version = self.clients.disks().catalogue().resolve(&reference).ok()?;
        match file {
            "vmlinuz" => Some(Content::File(version.kernel().path)),
            "initrd.img" => Some(Content::File(version.initrd().path)),
            _ => None,
        }
    }
}

/// The lease of whoever asks, for a loader that cannot fill it in itself. On a network that is not configured here, the
/// server's own mask has to do.
fn lease_of(config: &Config, peer: Ipv4Addr) -> Lease {
    let (network, settings) = config
        .network_of(peer)
        .unwrap_or_else(|| (config.server.address.value, config.dhcp.own.clone()));
    Lease {
        address: peer,
        gateway: settings.router.map(|router| router.value),
        netmask: network.netmask(),
        dns: settings.dns.first().copied(),
    }
}

/// The server as a client reaches it at `address`.
fn place(config: &Config, address: Ipv4Addr) -> Place {
    let server = &config.server;
    Place {
        address,
        http_port: server.http_port,
        nbd_port: server.nbd_port,
        other: config.standby.as_ref().map(|standby| standby.address),
    }
}

fn text(script: String) -> Content {
    Content::Bytes(Bytes::from(script))
}

impl Policy for BootPolicy {
    fn identify(&self, machine: &Machine) -> Option<Identity> {
        match self.clients.identify(machine.mac) {
            Ok(found) => found.map(|(record, profile)| Identity {
                hostname: Some(record.name.to_string()),
                address: profile.address,
                range: profile.range,
                lease_time: None,
                options: profile.options,
            }),
            Err(error) => {
                tracing::error!("cannot serve {}: {}", machine.mac, error.with_causes());
                None
            }
        }
    }

    fn boot(&self, machine: &Machine, _stage: Stage) -> Option<BootAnswer> {
        let config = self.clients.config();
        let profile = self.clients.profile(machine.mac)?;
        let script =
            place(&config, config.server.ip()).url(&format!("ipxe/{}", machine.mac.dashed()));
        Some(BootAnswer::Standard {
            loader: profile.loader,
            script,
        })
    }

    fn file(&self, request: &FileRequest) -> Option<Content> {
        if let Some(path) = ConfigPath::parse(&request.path) {
            return self.loader_config(path, request);
        }
        match request.path.split_once('/')? {
            ("tools", path) => self.clients.program_file(path).map(Content::File),
            ("images", path) => self.boot_file(path),
            (IDENTITY, rest) => self.identity(identity_token(rest)?, request),
            _ => None,
        }
    }

    fn report(&self, report: &Report) -> bool {
        let Some((token, event)) = report.path.split_once('/') else {
            return false;
        };
        let Some(step) = REPORTS.into_iter().find(|known| *known == event) else {
            return false;
        };
        let record = match self.clients.reported(token, event) {
            Ok(Some(record)) => record,
            Ok(None) => return false,
            Err(error) => {
                tracing::error!("a report was lost: {}", error.with_causes());
                return false;
            }
        };
        let words: String = String::from_utf8_lossy(&report.body)
            .chars()
            .take(200)
            .collect();
        let detail: String = words.chars().filter(|c| !c.is_control()).collect();
        self.clients
            .trace()
            .add(Step::new(record.mac, Some(&record.name), step, &detail));
        true
    }

    fn event(&self, mut event: Event) {
        keep_secret(&mut event.what);
        let trace = self.clients.trace();
        if let Happening::OtherServer { server } = event.what {
            trace.note_server(server, event.at);
        }
        let Some(mac) = event.mac else { return };
        // Who is not served is no boot that got stuck: every telephone asks for an address.
        if !matches!(event.what, Happening::NotServed { .. }) {
            trace.note(mac, event.clone());
        }
        let Some((step, detail)) = describe(event.what) else {
            return;
        };
        let name = self.clients.name_of(mac);
        trace.add(Step::new(mac, name.as_ref(), step, &detail));
    }
}

/// What a client may report.
const REPORTS: [&str; 4] = ["attached", "up", "reconnected", "shutdown"];

/// The step of the boot trace that a happening is; nothing for what only the log tells.
fn describe(what: Happening) -> Option<(&'static str, String)> {
    Some(match what {
        Happening::Discover { stage, arch } => (
            "discover",
            format!(
                "{stage:?}, architecture {}",
                arch.map_or("?".into(), |a| a.0.to_string())
            ),
        ),
        Happening::Ack {
            address,
            boot,
            renewal: false,
            ..
        } => (
            "dhcp",
            format!(
                "{address}{}",
                boot.map(|b| format!(", {b}")).unwrap_or_default()
            ),
        ),
        Happening::Nak { reason } => ("refused", reason),
        Happening::NotServed { reason } => ("ignored", reason),
        Happening::Exhausted => ("refused", "no free address is left in the range".into()),
        Happening::TransferStart { path, size, .. } if is_identity(&path) => {
            (IDENTITY, format!("{size} bytes"))
        }
        Happening::TransferStart {
            protocol,
            path,
            size,
        } => (
            file_step(protocol, &path)?,
            format!("{path} ({size} bytes)"),
        ),
        Happening::NotFound { path, .. } => ("missing", path),
        Happening::OtherServer { server } => (
            "other-dhcp",
            format!("took the address of another DHCP server, {server}"),
        ),
        _ => return None,
    })
}

/// What follows in the path of an identity opens a disk: it is for nobody's eyes.
fn keep_secret(what: &mut Happening) {
    if let Happening::TransferStart { path, .. }
    | Happening::TransferProgress { path, .. }
    | Happening::TransferEnd { path, .. }
    | Happening::NotFound { path, .. } = what
        && is_identity(path)
    {
        *path = IDENTITY.into();
    }
}

fn is_identity(path: &str) -> bool {
    path.split('/').next() == Some(IDENTITY)
}

/// GRUB and PXELINUX fetch all they need by TFTP, kernels too.
fn file_step(protocol: Protocol, path: &str) -> Option<&'static str> {
    let file = path.rsplit('/').next()?;
    match (path.split('/').next()?, file, protocol) {
        ("images", "vmlinuz", _) => Some("kernel"),
        ("images", "initrd.img", _) => Some("initramfs"),
        ("tools", ..) => Some("program"),
        (_, _, Protocol::Tftp) => Some("tftp"),
        (_, file, _) if file.ends_with(".efi") => Some("loader"),
        ("ipxe", ..) => Some("ipxe"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_is_no_step_of_a_boot() {
        let ack = |renewal| Happening::Ack {
            address: Ipv4Addr::LOCALHOST,
            lease: std::time::Duration::ZERO,
            boot: None,
            renewal,
        };
        assert_eq!(describe(ack(false)).map(|(step, _)| step), Some("dhcp"));
        assert_eq!(describe(ack(true)), None);
    }
}
