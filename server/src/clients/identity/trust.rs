//! What the encryption of a room's disks stands on: the server's certificate, and what its machines are to trust.

use std::{fs, net::IpAddr, path::PathBuf};

use super::super::error::{Error, Result};
use crate::{
    config::{
        Config,
        exports::{ClientCertificates, ListenPlace, ListenerTls, TlsMode, TlsSettings},
    },
    files::{PRIVATE, PUBLIC},
    pki::{ErrorKind as PkiError, Pki},
};

/// A file of the agent's folder for TLS (initramfs-hook/src/security.rs): name, permissions, content.
type AgentFile = (&'static str, u32, Vec<u8>);

/// The certificates of one site.
#[derive(Debug, Clone)]
pub struct SiteTls {
    settings: TlsSettings,
    /// The addresses that the server is reached at over TLS; the first is the room's.
    hosts: Vec<String>,
    client_certificates: bool,
}

impl SiteTls {
    /// Nothing if TLS is spoken nowhere.
    pub fn of(config: &Config) -> Option<Self> {
        let server = &config.server;
        let others = config.listeners.values().map(|listener| &listener.tls);
        let mut modes = others.chain([&server.tls]).map(ListenerTls::mode);
        let used = modes.any(|mode| mode != TlsMode::Off);
        let settings = config.tls.clone().filter(|_| used)?;
        Some(SiteTls {
            settings,
            hosts: hosts(config),
            client_certificates: server.tls.client_certificates() == ClientCertificates::Required,
        })
    }

    /// Makes what is needed and not there yet, if the configuration names no certificates: a CA, and a certificate for
    /// the server.
    ///
    /// # Errors
    /// What cannot be made, read or written.
    pub fn prepare(&self) -> Result<()> {
        let Some(pki) = self.pki().filter(|_| self.settings.own) else {
            return Ok(());
        };
        let made = pki.ensure(&self.hosts);
        made.map_err(|error| Error::identity("cannot make the certificates for TLS", error))
    }

    /// Withdraws the certificate of the machine `name`, if it has one. Counts from the next reload on.
    pub(super) fn revoke(&self, name: &str) -> Result<()> {
        let Some(pki) = self.pki() else { return Ok(()) };
        match pki.revoke(name) {
            Err(error) if error.kind() != PkiError::Missing => {
                let context = format!("cannot withdraw the certificate of {name}");
                Err(Error::identity(context, error))
            }
            _ => Ok(()),
        }
    }

    fn pki(&self) -> Option<Pki> {
        self.settings.folder.clone().map(Pki::at)
    }

    /// What the machine `name` needs. The certificate itself is pinned, whatever the machine's clock says; the CA is for
    /// the one that comes after it.
    pub(super) fn for_client(&self, name: &str) -> Result<Vec<AgentFile>> {
        let read = |path: &PathBuf| {
            let context = format!("cannot read {}", path.display());
            fs::read(path).map_err(|error| Error::identity(context, error))
        };
        let mut files = vec![("server.pem", PUBLIC, read(&self.settings.certificate)?)];
        if let Some(ca) = &self.settings.ca {
            files.push(("ca.pem", PUBLIC, read(ca)?));
        }
        if let Some(pki) = self.pki().filter(|_| self.client_certificates) {
            let pair = pki.client_pair(name);
            let pair =
                pair.map_err(|error| Error::identity(format!("no certificate for {name}"), error))?;
            files.push(("client.pem", PUBLIC, pair.certificate.into_bytes()));
            files.push(("client.key", PRIVATE, pair.key.into_bytes()));
        }
        Ok(files)
    }
}

/// The room's address, those of other listeners that speak TLS, and of the other server of a pair, which uses the same
/// certificate. In an order that both find.
fn hosts(config: &Config) -> Vec<String> {
    let secure = config
        .listeners
        .values()
        .filter(|listener| listener.tls.mode() != TlsMode::Off);
    let others = secure.filter_map(|listener| match &listener.place.value {
        ListenPlace::Tcp(address, _) if !address.ip().is_unspecified() => Some(address.ip()),
        _ => None,
    });
    let mut own = vec![IpAddr::V4(config.server.ip())];
    own.extend(config.standby.as_ref().map(|standby| standby.address));
    own.sort();
    let mut hosts = own;
    for host in others {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts.iter().map(IpAddr::to_string).collect()
}
