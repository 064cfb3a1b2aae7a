//! The exports of a server: every client's disk, under a name that only its current boot knows.

use std::sync::Arc;

use nbd::{ExportInfo, OptionError, Refusal};
use pxe::Mac;

use crate::{
    clients::{Clients, error::Error},
    config::units::TlsMode,
    service::{
        Device, Export, Exports, Peer,
        devices::{OverlayDevice, Suspects, overlay_info},
    },
};

/// Finds the disk behind `client/NAME/TOKEN`.
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

    /// A certificate of the site's CA is not enough: it has to be this machine's.
    fn check_certificate(&self, client: &str, peer: &Peer) -> Result<(), Refusal> {
        let asked = peer.secure && self.clients.config().tls.client_certificates;
        if !asked || peer.names.iter().any(|name| name == client) {
            return Ok(());
        }
        let shown = peer.names.join(", ");
        let words = format!("this disk wants the certificate of {client}, not that of {shown:?}");
        Err(Refusal::new(OptionError::Policy, words))
    }
}

impl Exports for ClientExports {
    /// Nothing: a client's export is known to its boot script alone.
    fn list(&self, _peer: &Peer) -> Vec<(String, Option<String>)> {
        Vec::new()
    }

    fn find(&self, name: &str, peer: &Peer) -> Result<Arc<dyn Export>, Refusal> {
        let rest = name.strip_prefix("client/").ok_or_else(Refusal::unknown)?;
        let (client, token) = rest.split_once('/').ok_or_else(Refusal::unknown)?;
        let (mac, size) = self
            .clients
            .disk_of(client, token)
            .map_err(|error| refusal(&error))?;
        self.check_certificate(client, peer)?;
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
        let attachment = self.clients.attach(&self.client, &self.token);
        let attachment = attachment.map_err(|error| refusal(&error))?;
        Ok(Arc::new(OverlayDevice::new(attachment, &self.suspects)))
    }
}
