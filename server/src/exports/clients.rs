//! Every machine's disk, under a name that only its current boot knows, and snapshots of
//! them, under names that only who may use the control API can ask for.

use std::sync::Arc;

use nbd::{ExportInfo, OptionError, Refusal};
use pxe::Mac;

use crate::{
    clients::{Clients, error::Error},
    config::exports::{ClientCertificates, TlsMode},
    service::{
        Device, Export, Exports, Peer,
        devices::{SecretExport, SnapshotExport, Suspects, overlay_info},
    },
};

/// How the names begin that are not for the configuration to give.
const DISK: &str = "client/";
const SNAPSHOT: &str = "snapshot/";
const IDENTITY: &str = "identity/";

/// Whether only [`ClientExports`] can know of an export called `name`.
pub fn is_reserved(name: &str) -> bool {
    [DISK, SNAPSHOT, IDENTITY]
        .iter()
        .any(|own| name.starts_with(own))
}

/// Finds the disk behind `client/NAME/TOKEN`, the snapshot behind `snapshot/TOKEN`, and the secret
/// behind `identity/NAME/TOKEN`.
pub struct ClientExports {
    clients: Arc<Clients>,
    suspects: Suspects,
}

impl ClientExports {
    /// The disks of `clients`.
    pub fn new(clients: Arc<Clients>) -> Self {
        let suspects = Suspects::default();
        ClientExports { clients, suspects }
    }

    /// Whoever shows a certificate opens only the disk of whom it names (design §5). Where the machines have
    /// certificates, none comes in without, whatever the listener lets through.
    fn may_be(&self, client: &str, peer: &Peer) -> bool {
        let asked = self.clients.config().server.tls.client_certificates();
        match peer.names.is_empty() {
            true => asked == ClientCertificates::Optional,
            false => peer.names.iter().any(|name| name == client),
        }
    }
}

impl Exports for ClientExports {
    /// Nothing: a client's export is known to its boot script alone.
    fn list(&self, _peer: &Peer) -> Vec<(String, Option<String>)> {
        Vec::new()
    }

    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        if let Some(token) = name.strip_prefix(SNAPSHOT) {
            return self.snapshot(token, peer);
        }
        if let Some(rest) = name.strip_prefix(IDENTITY) {
            return self.secret(rest, peer);
        }
        let rest = name.strip_prefix(DISK).ok_or_else(Refusal::unknown)?;
        let (client, token) = rest.split_once('/').ok_or_else(Refusal::unknown)?;
        if !self.may_be(client, peer) {
            return Err(Refusal::unknown());
        }
        let (mac, size) = self
            .clients
            .disk_of(client, token)
            .map_err(|error| refusal(&error))?;
        Ok(Arc::new(ClientDisk {
            clients: self.clients.clone(),
            suspects: self.suspects.clone(),
            client: client.to_owned(),
            token: token.to_owned(),
            mac,
            size,
        }))
    }
}

impl ClientExports {
    /// The private part of a machine's identity, never without TLS.
    fn secret(&self, rest: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        let (client, token) = rest.split_once('/').ok_or_else(Refusal::unknown)?;
        if !peer.secure || !self.may_be(client, peer) {
            return Err(Refusal::unknown());
        }
        let secret = self.clients.secret(client, token);
        let secret = secret.map_err(|error| refusal(&error))?;
        let shown = format!("identity of {client}");
        Ok(Arc::new(SecretExport::new(secret.as_bytes(), shown)))
    }

    /// Who reads a backup is no machine, so any certificate will do where there must be one; the token decides.
    fn snapshot(&self, token: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        let asked = self.clients.config().server.tls.client_certificates();
        if peer.names.is_empty() && asked != ClientCertificates::Optional {
            return Err(Refusal::unknown());
        }
        let opened = self.clients.opened_snapshot(token);
        let opened = opened.map_err(|error| refusal(&error))?;
        let shown = format!("snapshot {} of {}", opened.name, opened.client);
        let export = SnapshotExport::new(opened.view, shown);
        Ok(Arc::new(match opened.needs_tls {
            true => export.over_tls_only(),
            false => export,
        }))
    }
}

/// What went wrong is told in words only to who had the right token.
fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        crate::clients::error::ErrorKind::Refused => Refusal::unknown(),
        _ => Refusal::new(OptionError::Policy, error.with_causes()),
    }
}

struct ClientDisk {
    clients: Arc<Clients>,
    suspects: Suspects,
    client: String,
    token: String,
    mac: Mac,
    size: u64,
}

impl Export for ClientDisk {
    fn info(&self) -> Result<ExportInfo, Refusal> {
        let mut info = overlay_info(self.size);
        info.description = Some(format!("disk of {}", self.client));
        Ok(info)
    }

    fn needs_tls(&self) -> bool {
        self.clients.tls_of(self.mac) == TlsMode::Required
    }

    fn owner(&self) -> Option<String> {
        Some(self.mac.to_string())
    }

    fn clients_return(&self) -> bool {
        true
    }

    fn open(&self) -> Result<Arc<dyn Device>, Refusal> {
        let held = self.clients.attach(&self.client, &self.token);
        let overlays = self.clients.disks().overlays();
        let device = held.and_then(|held| overlays.serve(held, &self.suspects));
        device.map_err(|error| refusal(&error))
    }
}
