//! What the two servers of a pair and their witness know each other by: one secret, one key for each made from it.
//!
//! PROTOCOL.md of the `mirror` crate, "The secret", has how the keys are made. Each side pins the other's public key, so
//! there are no certificates, no names and no dates that could be wrong. Whoever has the secret can be any of the three:
//! roles keep them from being mixed up, not from lying.
//!
//! Must never show the secret or a private key, and never let anybody through who has another one.

mod pinned;
#[cfg(test)]
mod tests;

use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, bail};
use mirror::NodeId;
use rustls::{
    CertificateError, ClientConfig, CommonState, OtherError, ServerConfig,
    client::{AlwaysResolvesClientRawPublicKeys, Resumption},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName},
    server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
    sign::CertifiedKey,
    version::TLS13,
};

use pinned::Pinned;

/// Bytes of a new secret.
const LENGTH: usize = 32;
/// No secret is longer: what is, is another file.
const LONGEST: usize = 4096;
/// An Ed25519 private key in PKCS #8 (RFC 8410), up to its 32 bytes.
const PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PairRole {
    /// The first server of the pair.
    A,
    /// The second.
    B,
    /// The third box.
    Witness,
}

impl PairRole {
    const ALL: [Self; 3] = [Self::A, Self::B, Self::Witness];

    /// The server that it is, if it is one.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::A => Some(NodeId::A),
            Self::B => Some(NodeId::B),
            Self::Witness => None,
        }
    }

    /// What rustls wants to call whom it dials. It is never sent, and nothing is checked against it.
    pub fn name(self) -> ServerName<'static> {
        let name = match self {
            Self::A => "a.invalid",
            Self::B => "b.invalid",
            Self::Witness => "witness.invalid",
        };
        ServerName::try_from(name).expect("a good name")
    }

    /// What the key is made with. Another string is another key: these never change.
    fn context(self) -> &'static str {
        match self {
            Self::A => "bootroom 2026-11-28 pair: key of server A",
            Self::B => "bootroom 2026-11-28 pair: key of server B",
            Self::Witness => "bootroom 2026-11-28 pair: key of the witness",
        }
    }
}

impl From<NodeId> for PairRole {
    fn from(node: NodeId) -> Self {
        match node {
            NodeId::A => Self::A,
            NodeId::B => Self::B,
        }
    }
}

impl fmt::Display for PairRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "server A",
            Self::B => "server B",
            Self::Witness => "the witness",
        })
    }
}

/// The secret, as the three keys that it stands for.
pub struct PairSecret {
    keys: [Arc<CertifiedKey>; 3],
    provider: Arc<CryptoProvider>,
}

impl fmt::Debug for PairSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairSecret")
    }
}

impl PairSecret {
    /// Makes a file with a new secret. What is there is never overwritten: the other servers may have it.
    ///
    /// # Errors
    /// There is such a file; it cannot be written.
    pub fn make(path: &Path) -> anyhow::Result<()> {
        let mut secret = [0; LENGTH];
        getrandom::fill(&mut secret).context("no random number to be had")?;
        let text: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        match write_new(path, &format!("{text}\n")) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => bail!(
                "{} is there already and is not overwritten: the other servers may have it",
                path.display()
            ),
            written => written.with_context(|| format!("cannot write {}", path.display())),
        }
    }

    /// Reads the secret that [`PairSecret::make`] wrote.
    ///
    /// # Errors
    /// It cannot be read; others may read it, too; it is none, or too short.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            bail!("{shown}: others may read it, too; `chmod 600 {shown}` mends that");
        }
        let secret = parse(text.trim()).filter(|secret| secret.len() >= LENGTH);
        let secret = secret.with_context(|| {
            format!(
                "{shown} is no secret: {} or more hexadecimal digits, as `bootroom standby secret FILE` makes them",
                2 * LENGTH
            )
        })?;
        Self::new(&secret)
    }

    fn new(secret: &[u8]) -> anyhow::Result<Self> {
        let [a, b, witness] = PairRole::ALL.map(|role| key(secret, role));
        Ok(Self {
            keys: [Arc::new(a?), Arc::new(b?), Arc::new(witness?)],
            provider: Arc::new(ring::default_provider()),
        })
    }

    fn key(&self, role: PairRole) -> &Arc<CertifiedKey> {
        &self.keys[role as usize]
    }

    /// TLS for dialling: as `me`, and only `to` will do. The name to dial with is [`PairRole::name`].
    pub fn client(&self, me: PairRole, to: PairRole) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3");
        let verifier = Arc::new(self.pinned(&[to]));
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.key(me).clone());
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(Arc::new(resolver));
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        config.enable_secret_extraction = true; // For our own record layer.
        Arc::new(config)
    }

    /// TLS for being dialled: as `me`, by the servers of the pair other than itself.
    pub fn server(&self, me: PairRole) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("ring has TLS 1.3");
        let servers = [PairRole::A, PairRole::B].into_iter();
        let others: Vec<_> = servers.filter(|role| *role != me).collect();
        let resolver = AlwaysResolvesServerRawPublicKeys::new(self.key(me).clone());
        let mut config = builder
            .with_client_cert_verifier(Arc::new(self.pinned(&others)))
            .with_cert_resolver(Arc::new(resolver));
        // A connection stays; who comes again shows its key again.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.enable_secret_extraction = true; // For our own record layer.
        Arc::new(config)
    }

    /// Who is at the other end of a connection that has been shaken hands on.
    pub fn shown(&self, connection: &CommonState) -> Option<PairRole> {
        let key = connection.peer_certificates()?.first()?;
        let mut all = PairRole::ALL.into_iter();
        all.find(|role| self.public(*role) == key)
    }

    /// A name for the pair that gives nothing away.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        for role in PairRole::ALL {
            hash.update(self.public(role));
        }
        hash.finalize().to_hex()[..16].to_owned()
    }

    fn public(&self, role: PairRole) -> &CertificateDer<'static> {
        &self.key(role).cert[0]
    }

    fn pinned(&self, wanted: &[PairRole]) -> Pinned {
        let known = PairRole::ALL.map(|role| (role, self.public(role).clone()));
        Pinned::new(
            known,
            wanted,
            self.provider.signature_verification_algorithms,
        )
    }
}

/// Says in words what went wrong with a handshake, if that was it.
pub fn explain(error: io::Error) -> anyhow::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    match inner {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => {
            anyhow::anyhow!("{why}")
        }
        // Why, the other side has in its log.
        Some(rustls::Error::AlertReceived(_)) => anyhow::Error::from(error)
            .context("the other side refuses this one: has it the same secret?"),
        _ => error.into(),
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a secret helps nobody, and would be in the way the next time.
        let _ = fs::remove_file(path);
    }
    written
}

fn parse(text: &str) -> Option<Vec<u8>> {
    if text.len() > LONGEST || !text.len().is_multiple_of(2) {
        return None;
    }
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let bytes = digits?
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect();
    Some(bytes)
}

/// The key of one role, with its public key where rustls would have a certificate (RFC 7250).
fn key(secret: &[u8], role: PairRole) -> anyhow::Result<CertifiedKey> {
    let mut private = PKCS8.to_vec();
    private.extend(blake3::derive_key(role.context(), secret));
    let key = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(private))?;
    let public = key.public_key().context("Ed25519 keys have a public key")?;
    let public = CertificateDer::from(public.to_vec());
    Ok(CertifiedKey::new(vec![public], key))
}
