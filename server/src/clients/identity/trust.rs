//! What the encryption of a room's disks stands on: the server's certificate, and what its machines are to trust.

use std::{fs, path::PathBuf};

use super::super::error::{Error, Result};
use crate::{
    config::Config,
    files::{PRIVATE, PUBLIC},
    pki::Pki,
    service::tls::TlsFiles,
};

/// A file of the agent's folder for TLS (initramfs-hook/src/security.rs): name, permissions, content.
type AgentFile = (&'static str, u32, Vec<u8>);

/// The certificates of one site.
#[derive(Debug, Clone)]
pub struct SiteTls {
    /// The server's own, made by it: always the CA of its machines' certificates.
    pki: Pki,
    /// The name or address that machines reach the server at.
    host: String,
    /// Certificate and key that the site has from elsewhere.
    given: Option<(PathBuf, PathBuf)>,
    /// What machines trust besides exactly the server's certificate.
    ca: Option<PathBuf>,
    client_certificates: bool,
}

impl SiteTls {
    /// Nothing if no machine's disk is encrypted on the wire.
    pub fn of(config: &Config) -> Option<Self> {
        let (server, tls) = (&config.server, &config.tls);
        let pki = Pki::at(server.pki());
        let path = |located: &Option<crate::config::reader::Located<PathBuf>>| {
            located.as_ref().map(|path| path.value.clone())
        };
        let given = path(&tls.certificate).zip(path(&tls.key));
        let own_ca = given.is_none().then(|| pki.folder().join("ca.pem"));
        config.uses_tls().then(|| SiteTls {
            host: server.ip().to_string(),
            ca: path(&tls.ca).or(own_ca),
            client_certificates: tls.client_certificates,
            given,
            pki,
        })
    }

    /// Makes what is needed and not there yet: CA, certificates.
    ///
    /// # Errors
    /// What cannot be made, read or written.
    pub fn prepare(&self) -> Result<()> {
        if self.given.is_some() && !self.client_certificates {
            return Ok(());
        }
        let made = self.pki.ensure(&self.host);
        made.map_err(|error| Error::identity("cannot make the certificates for TLS", error))
    }

    /// The files that the server's side of TLS is made of.
    pub fn files(&self) -> TlsFiles {
        let mut files = TlsFiles::in_folder(self.pki.folder(), self.client_certificates);
        if let Some((certificate, key)) = self.given.clone() {
            files.certificate = certificate;
            files.key = key;
        }
        files
    }

    /// What the machine `name` needs. The certificate itself is pinned, whatever the machine's clock says; the CA is for
    /// the one that comes after it.
    pub(super) fn for_client(&self, name: &str) -> Result<Vec<AgentFile>> {
        let read = |path: PathBuf| {
            let context = format!("cannot read {}", path.display());
            fs::read(path).map_err(|error| Error::identity(context, error))
        };
        let mut files = vec![("server.pem", PUBLIC, read(self.files().certificate)?)];
        if let Some(ca) = self.ca.clone() {
            files.push(("ca.pem", PUBLIC, read(ca)?));
        }
        if self.client_certificates {
            let pair = self.pki.client_pair(name);
            let pair =
                pair.map_err(|error| Error::identity(format!("no certificate for {name}"), error))?;
            files.push(("client.pem", PUBLIC, pair.certificate.into_bytes()));
            files.push(("client.key", PRIVATE, pair.key.into_bytes()));
        }
        Ok(files)
    }
}
