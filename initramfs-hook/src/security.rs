//! What TLS has to prove: that the server is the one whose certificate is pinned, or one that the site's CA vouches for.
//!
//! Files, all PEM, read once at start: `server.pem` (pinned certificates; enough by themselves, whatever the date or the
//! name), `ca.pem` (authorities), `client.pem` and `client.key` (this machine's own certificate, if the server asks).

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedCipherSuite,
};

use crate::error::{Error, Kind, Result, usage};

/// How connections are secured.
#[derive(Debug, Clone)]
pub struct Security(Arc<ClientConfig>);

impl Security {
    /// Reads the files in the first of `directories` that says what to trust, and this machine's own pair in the first
    /// that has one: what came with the image is not overruled by what came with this boot. `None`: there are neither
    /// pinned certificates nor authorities.
    pub fn load(directories: &[&Path]) -> Result<Option<Self>> {
        let Some((pinned, roots)) = trusted(directories)? else {
            return Ok(None);
        };
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier::new(pinned, roots, &provider)?);
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| Error::with(Kind::Kernel, "TLS 1.3 cannot be set up", e))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match own(directories)? {
            None => config.with_no_client_auth(),
            Some((chain, key)) => config.with_client_auth_cert(chain, key).map_err(|e| {
                Error::with(
                    Kind::Usage,
                    "client.pem and client.key do not fit together",
                    e,
                )
            })?,
        };
        config.enable_secret_extraction = true;
        // A ticket would be of no use, and one that comes late would end the kernel's TLS.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Some(Self(Arc::new(config))))
    }

    /// The client's side of a connection to the server called `host`.
    pub fn connection(&self, host: &str) -> Result<ClientConnection> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| usage(format!("{host:?} can be no name in a certificate")))?;
        ClientConnection::new(self.0.clone(), name)
            .map_err(|e| Error::with(Kind::Network, "TLS cannot begin", e))
    }
}

type Certificates = Vec<CertificateDer<'static>>;

/// Pinned certificates, and authorities.
fn trusted(directories: &[&Path]) -> Result<Option<(Certificates, Certificates)>> {
    for directory in directories {
        let pinned = certificates(directory, "server.pem")?;
        let roots = certificates(directory, "ca.pem")?;
        if !pinned.is_empty() || !roots.is_empty() {
            return Ok(Some((pinned, roots)));
        }
    }
    Ok(None)
}

/// What this machine shows of itself.
fn own(directories: &[&Path]) -> Result<Option<(Certificates, PrivateKeyDer<'static>)>> {
    for directory in directories {
        let chain = certificates(directory, "client.pem")?;
        if !chain.is_empty() {
            return Ok(Some((chain, private_key(directory)?)));
        }
    }
    Ok(None)
}

/// Only what the kernel can take over.
fn provider() -> CryptoProvider {
    let suites: Vec<SupportedCipherSuite> = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    CryptoProvider {
        cipher_suites: suites,
        ..ring::default_provider()
    }
}

/// No such file: none. A file with anything else than certificates: an error that names it.
fn certificates(directory: &Path, name: &str) -> Result<Certificates> {
    let path = directory.join(name);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| {
            Error::with(Kind::Usage, format!("{} cannot be read", path.display()), e)
        })?,
    };
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|e| usage(format!("{} is damaged: {e:?}", path.display())))?;
    if found.is_empty() {
        return Err(usage(format!(
            "{} holds no certificate (PEM)",
            path.display()
        )));
    }
    Ok(found)
}

fn private_key(directory: &Path) -> Result<PrivateKeyDer<'static>> {
    let path = directory.join("client.key");
    let bytes = std::fs::read(&path)
        .map_err(|e| Error::with(Kind::Usage, format!("{} cannot be read", path.display()), e))?;
    PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|e| usage(format!("{} holds no key: {e:?}", path.display())))
}

/// Pinned certificates first, then the authorities.
#[derive(Debug)]
struct Verifier {
    pinned: Vec<CertificateDer<'static>>,
    authorities: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn new(
        pinned: Vec<CertificateDer<'static>>,
        roots: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store
                .add(root)
                .map_err(|e| Error::with(Kind::Usage, "ca.pem holds an unusable certificate", e))?;
        }
        let authorities = match store.is_empty() {
            true => None,
            false => Some(
                WebPkiServerVerifier::builder_with_provider(store.into(), provider.clone())
                    .build()
                    .map_err(|e| Error::with(Kind::Usage, "ca.pem cannot be used", e))?,
            ),
        };
        Ok(Self {
            pinned,
            authorities,
            provider: provider.clone(),
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            return Ok(ServerCertVerified::assertion());
        }
        match &self.authorities {
            Some(authorities) => authorities.verify_server_cert(
                end_entity,
                intermediates,
                server_name,
                ocsp_response,
                now,
            ),
            None => Err(rustls::Error::General(
                "the server's certificate is not the pinned one".to_owned(),
            )),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_files_mean_no_tls_and_damaged_ones_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        assert!(Security::load(&[place, place]).unwrap().is_none());
        std::fs::write(directory.path().join("ca.pem"), "hello").unwrap();
        let error = Security::load(&[place]).unwrap_err().to_string();
        assert!(error.contains("ca.pem holds no certificate"), "{error}");
    }

    #[test]
    fn what_came_with_the_image_is_not_overruled() {
        let (image, boot) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let places = [image.path(), boot.path()];
        std::fs::write(boot.path().join("server.pem"), pem("Ym9vdA==")).unwrap();
        let pinned = |places: &[&Path]| trusted(places).unwrap().unwrap().0;
        assert_eq!(
            pinned(&places),
            pinned(&[boot.path()]),
            "the image says nothing"
        );
        std::fs::write(image.path().join("server.pem"), pem("aW1hZ2U=")).unwrap();
        assert_eq!(pinned(&places), pinned(&[image.path()]));
    }

    fn pem(content: &str) -> String {
        format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n")
    }
}
