//! TLS: certificates from files, client names, reload.

use std::{
    collections::HashSet,
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use nbd::TlsPolicy;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    revocation_list::CertificateRevocationList,
};

use super::{secured::Secured, transport::Socket};

/// Where the certificates of a listener are. All PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, with intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// How client certificates are checked; none are asked for without.
    pub clients: Option<ClientCa>,
}

/// How client certificates are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCa {
    /// The CA that they must come from.
    pub ca: PathBuf,
    /// Those that were revoked.
    pub revoked: Option<PathBuf>,
    /// Whether a client without one is turned away.
    pub required: bool,
}

impl TlsFiles {
    /// The layout that `bootroom pki` makes in a folder.
    pub fn in_folder(folder: &Path, client_certificates: bool) -> Self {
        let clients = ClientCa {
            ca: folder.join("ca.pem"),
            revoked: Some(folder.join("revoked.pem")),
            required: true,
        };
        Self {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            clients: client_certificates.then_some(clients),
        }
    }
}

/// A policy with certificates read and checked.
pub struct TlsState {
    policy: TlsPolicy,
    loaded: Option<(TlsFiles, Arc<ServerConfig>)>,
}

impl TlsState {
    /// No TLS.
    pub fn off() -> Self {
        Self {
            policy: TlsPolicy::Off,
            loaded: None,
        }
    }

    /// TLS with the certificates in `files`; plain connections too unless `required`.
    ///
    /// # Errors
    /// A file that cannot be read or used, by name.
    pub fn load(files: TlsFiles, required: bool) -> anyhow::Result<Self> {
        let policy = if required {
            TlsPolicy::Required
        } else {
            TlsPolicy::Offered
        };
        let config = Arc::new(server_config(&files)?);
        Ok(Self {
            policy,
            loaded: Some((files, config)),
        })
    }
}

/// TLS of a listener; policy and certificates can be exchanged while it runs.
pub struct Tls {
    state: ArcSwap<TlsState>,
}

impl Tls {
    /// TLS as `state` has it.
    pub fn new(state: TlsState) -> Self {
        Self {
            state: ArcSwap::from_pointee(state),
        }
    }

    /// Serves connections that come later as `state` has it.
    pub fn replace(&self, state: TlsState) {
        self.state.store(Arc::new(state));
    }

    /// What it would be with its files read again.
    ///
    /// # Errors
    /// As [`TlsState::load`].
    pub fn read_again(&self) -> anyhow::Result<TlsState> {
        match &self.state.load().loaded {
            Some((files, _)) => TlsState::load(files.clone(), self.policy() == TlsPolicy::Required),
            None => Ok(TlsState::off()),
        }
    }

    /// Whether connections may or must use it.
    pub fn policy(&self) -> TlsPolicy {
        self.state.load().policy
    }

    /// Does the TLS handshake on `socket`; gives the client's certificate too, if it showed one.
    ///
    /// # Errors
    /// Why it failed, in words.
    pub fn accept(
        &self,
        socket: &Socket,
        deadline: Instant,
    ) -> Result<(Secured, Option<CertificateDer<'static>>), String> {
        let state = self.state.load_full();
        let Some((_, config)) = &state.loaded else {
            return Err("TLS is not configured".into());
        };
        Secured::accept(config.clone(), socket, deadline)
            .map_err(|error| format!("TLS handshake: {error}"))
    }
}

/// One TLS configuration. A kernel TLS client may be at the other end, which takes no control messages: so no session
/// tickets, and no KeyUpdate before the cipher's limit ([`super::records`], design §6).
fn server_config(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let chain = certificates(&files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .with_context(|| format!("cannot read the private key {}", files.key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &files.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = Arc::new(roots(&clients.ca)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let mut verifier = verifier
                .with_crls(revoked(clients)?)
                .allow_unknown_revocation_status();
            if !clients.required {
                verifier = verifier.allow_unauthenticated();
            }
            builder.with_client_cert_verifier(verifier.build().context("cannot use the client CA")?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .with_context(|| format!("{} does not fit its key", files.certificate.display()))?;
    config.send_tls13_tickets = 0;
    // For our own record layer.
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_reader_iter(BufReader::new(file)).collect();
    let chain =
        chain.with_context(|| format!("cannot read the certificates in {}", path.display()))?;
    if chain.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(chain)
}

/// The CA whose certificate is in the file.
///
/// # Errors
/// It cannot be read, or is none.
pub fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .with_context(|| format!("{} is no CA", path.display()))?;
    }
    Ok(roots)
}

fn revoked(clients: &ClientCa) -> anyhow::Result<Vec<CertificateRevocationListDer<'static>>> {
    let Some(path) = &clients.revoked else {
        return Ok(Vec::new());
    };
    let list = CertificateRevocationListDer::from_pem_file(path);
    Ok(vec![list.with_context(|| {
        format!("cannot read {}", path.display())
    })?])
}

/// The names in the certificate that the client showed, and its serial number.
pub fn shown_by(certificate: Option<&CertificateDer<'_>>) -> (Vec<String>, Option<Vec<u8>>) {
    let parsed = certificate.and_then(|shown| X509Certificate::from_der(shown).ok());
    match parsed {
        Some((_, parsed)) => (names(&parsed), Some(parsed.raw_serial().to_vec())),
        None => (Vec::new(), None),
    }
}

/// Serial numbers of the certificates that the list at `path` revokes.
///
/// # Errors
/// When it cannot be read.
pub fn revoked_serials(path: &Path) -> anyhow::Result<HashSet<Vec<u8>>> {
    let naming = || format!("cannot read {}", path.display());
    let list = CertificateRevocationListDer::from_pem_file(path).with_context(naming)?;
    let parsed = CertificateRevocationList::from_der(&list);
    let (_, parsed) = parsed.map_err(anyhow::Error::from).with_context(naming)?;
    let revoked = parsed.iter_revoked_certificates();
    Ok(revoked.map(|one| one.raw_serial().to_vec()).collect())
}

fn names(parsed: &X509Certificate<'_>) -> Vec<String> {
    let common = parsed
        .subject()
        .iter_common_name()
        .filter_map(|name| name.as_str().ok().map(str::to_owned));
    let mut names: Vec<String> = common.collect();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        names.extend(
            alternative
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                }),
        );
    }
    names.dedup();
    names
}
