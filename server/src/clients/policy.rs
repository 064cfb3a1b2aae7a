//! Answers what the boot services ask: who is this, what does it boot, what does a path hold.

use std::sync::Arc;

use bytes::Bytes;
use images::{ImageRef, Version};
use pxe::{
    BootAnswer, Content, Event, FileRequest, Happening, Identity, Mac, Machine, Policy, Protocol,
    Report, Stage,
};

use super::{
    Clients,
    script::{Place, refusal},
};
use crate::trace::Step;

/// The policy of a server's clients.
pub struct BootPolicy {
    clients: Arc<Clients>,
}

impl BootPolicy {
    /// Answers for `clients`.
    pub fn new(clients: Arc<Clients>) -> Self {
        BootPolicy { clients }
    }

    fn place(&self, request: &FileRequest) -> Place {
        let server = &self.clients.config().server;
        Place {
            address: request.local,
            http_port: server.http_port,
            nbd_port: server.nbd_port,
        }
    }

    fn script(&self, mac: Mac, request: &FileRequest) -> Content {
        // Where this server gives the addresses, a machine can only ask for its own script.
        let impostor = request.mac.filter(|holder| *holder != mac);
        if let Some(holder) = impostor {
            tracing::warn!(
                "{} ({holder}) asked for the boot script of {mac}: refused",
                request.peer
            );
            return text(refusal("this is the boot script of another machine"));
        }
        match self.clients.script(mac, self.place(request)) {
            Ok(script) => text(script.ipxe()),
            Err(error) => {
                let reason = error.with_causes();
                tracing::warn!("{mac} cannot boot: {reason}");
                self.clients
                    .trace()
                    .add(Step::new(mac, None, "refused", &reason));
                text(refusal(&reason))
            }
        }
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
                options: Vec::new(),
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
        let server = &config.server;
        let port = if server.http_port == 80 {
            String::new()
        } else {
            format!(":{}", server.http_port)
        };
        let script = format!("http://{}{port}/ipxe/{}", server.ip(), machine.mac.dashed());
        Some(BootAnswer::Standard {
            loader: profile.loader,
            script,
        })
    }

    fn file(&self, request: &FileRequest) -> Option<Content> {
        if request.protocol == Protocol::Tftp {
            return None;
        }
        match request.path.split_once('/')? {
            ("ipxe", mac) => Some(self.script(mac.parse().ok()?, request)),
            ("images", path) => self.boot_file(path),
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

    fn event(&self, event: Event) {
        let Some(mac) = event.mac else { return };
        let Some((step, detail)) = describe(event.what) else {
            return;
        };
        let name = self.clients.name_of(mac);
        self.clients
            .trace()
            .add(Step::new(mac, name.as_ref(), step, &detail));
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
        Happening::Ack { address, boot, .. } => (
            "dhcp",
            format!(
                "{address}{}",
                boot.map(|b| format!(", {b}")).unwrap_or_default()
            ),
        ),
        Happening::Nak { reason } => ("refused", reason),
        Happening::NotServed { reason } => ("ignored", reason),
        Happening::Exhausted => ("refused", "no free address is left in the range".into()),
        Happening::TransferStart {
            protocol: Protocol::Tftp,
            path,
            size,
        } => ("tftp", format!("{path} ({size} bytes)")),
        Happening::TransferStart { path, size, .. } => {
            let step = http_step(&path)?;
            (step, format!("{path} ({size} bytes)"))
        }
        Happening::NotFound { path, .. } => ("missing", path),
        _ => return None,
    })
}

fn http_step(path: &str) -> Option<&'static str> {
    let file = path.rsplit('/').next()?;
    match (path.split('/').next()?, file) {
        ("images", "vmlinuz") => Some("kernel"),
        ("images", "initrd.img") => Some("initramfs"),
        (_, file) if file.ends_with(".efi") => Some("loader"),
        ("ipxe", _) => Some("ipxe"),
        _ => None,
    }
}
