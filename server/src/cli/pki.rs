//! `bootroom pki`: certificates for a site without a CA of its own.
//!
//! A folder holds all of it: `ca.pem`, `ca.key`, `server.pem`, `server.key`, `clients/NAME.pem`, `clients/NAME.key`,
//! and `revoked.pem` (a CRL) with the serial numbers in `revoked.txt`.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Exit;

/// How long a certificate is good for: the machines of a room are set up once, and replaced after some years.
const LIFETIME: Duration = Duration::days(10 * 365);
/// Clocks of diskless machines may be wrong before they have asked for the time.
const CLOCK_SLACK: Duration = Duration::days(2);

/// What to do with the site's certificates.
#[derive(Debug, Subcommand)]
pub enum PkiCommand {
    /// Make a CA and the server's certificate
    Init(InitOptions),
    /// Make a certificate for a client, by its name
    Issue(ClientOptions),
    /// Withdraw a client's certificate; takes effect at the next reload
    Revoke(ClientOptions),
}

/// Arguments of `pki init`.
#[derive(Debug, Args)]
pub struct InitOptions {
    /// Where the certificates are
    #[arg(long, value_name = "DIR", default_value = "/etc/bootroom/pki")]
    dir: PathBuf,
    /// Names and addresses of the server that clients use
    #[arg(long = "host", value_name = "NAME", required = true)]
    hosts: Vec<String>,
}

/// Arguments of `pki issue` and `pki revoke`.
#[derive(Debug, Args)]
pub struct ClientOptions {
    /// The client's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Where the certificates are
    #[arg(long, value_name = "DIR", default_value = "/etc/bootroom/pki")]
    dir: PathBuf,
}

/// Does it.
pub fn run(command: &PkiCommand) -> anyhow::Result<Exit> {
    match command {
        PkiCommand::Init(options) => init(options)?,
        PkiCommand::Issue(options) => issue(options)?,
        PkiCommand::Revoke(options) => revoke(options)?,
    }
    Ok(Exit::Ok)
}

fn init(options: &InitOptions) -> anyhow::Result<()> {
    let dir = &options.dir;
    if dir.join("ca.key").exists() {
        bail!(
            "{} has a CA already: remove the folder to begin anew, which cuts off all clients",
            dir.display()
        );
    }
    fs::create_dir_all(dir.join("clients"))
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let key = KeyPair::generate()?;
    let params = ca_params()?;
    let certificate = params.self_signed(&key)?;
    let issuer = Issuer::from_params(&params, &key);
    let mut server = leaf(&options.hosts, &options.hosts[0])?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    write_pair(dir, "server", server, &issuer)?;
    write(&dir.join("ca.pem"), &certificate.pem(), 0o644)?;
    let none = revocations(&issuer, "")?;
    write(&dir.join("revoked.pem"), &none, 0o644)?;
    // Last, since it is what tells that the folder is complete.
    write(&dir.join("ca.key"), &key.serialize_pem(), 0o600)?;
    say!(
        "{}: CA and server certificate for {}",
        dir.display(),
        options.hosts.join(", ")
    );
    Ok(())
}

fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "bootroom CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_lifetime(&mut params);
    Ok(params)
}

fn leaf(hosts: &[String], name: &str) -> anyhow::Result<CertificateParams> {
    let mut params =
        CertificateParams::new(hosts.to_vec()).context("not a host name or address")?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| anyhow::anyhow!("no randomness: {error}"))?;
    // Positive, as serial numbers have to be.
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    set_lifetime(&mut params);
    Ok(params)
}

fn set_lifetime(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + LIFETIME;
}

fn write_pair(
    dir: &Path,
    name: &str,
    params: CertificateParams,
    issuer: &Issuer<'_, &KeyPair>,
) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, issuer)?;
    write(
        &dir.join(format!("{name}.key")),
        &key.serialize_pem(),
        0o600,
    )?;
    write(&dir.join(format!("{name}.pem")), &certificate.pem(), 0o644)
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let half = path.with_extension("new");
    let store = || -> std::io::Result<()> {
        let _ = fs::remove_file(&half);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&half)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&half, path)
    };
    store().with_context(|| format!("cannot write {}", path.display()))
}

fn ca_key(dir: &Path) -> anyhow::Result<KeyPair> {
    let path = dir.join("ca.key");
    let pem = fs::read_to_string(&path).with_context(|| {
        format!(
            "cannot read {}: run `bootroom pki init` first",
            path.display()
        )
    })?;
    KeyPair::from_pem(&pem).with_context(|| format!("{} is no private key", path.display()))
}

/// The CA's own certificate is the source of its name and key identifier.
fn ca<'k>(dir: &Path, key: &'k KeyPair) -> anyhow::Result<Issuer<'static, &'k KeyPair>> {
    let path = dir.join("ca.pem");
    let pem =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Issuer::from_ca_cert_pem(&pem, key).with_context(|| format!("{} is no CA", path.display()))
}

fn issue(options: &ClientOptions) -> anyhow::Result<()> {
    let name = checked(&options.name)?;
    let clients = options.dir.join("clients");
    if clients.join(format!("{name}.pem")).exists() {
        bail!("{name} has a certificate: `bootroom pki revoke {name}` withdraws it");
    }
    let key = ca_key(&options.dir)?;
    let issuer = ca(&options.dir, &key)?;
    let mut params = leaf(&[name.to_owned()], name)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    write_pair(&clients, name, params, &issuer)?;
    say!("{}", clients.join(format!("{name}.pem")).display());
    Ok(())
}

/// Names become file names.
fn checked(name: &str) -> anyhow::Result<&str> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || name.len() > 63 || !name.bytes().all(fine) {
        bail!("{name:?} is no client name: letters, digits, - and _ only");
    }
    Ok(name)
}

fn revoke(options: &ClientOptions) -> anyhow::Result<()> {
    let name = checked(&options.name)?;
    let (dir, clients) = (&options.dir, options.dir.join("clients"));
    let path = clients.join(format!("{name}.pem"));
    let serial = serial_of(&path)?;
    let list = dir.join("revoked.txt");
    let mut serials = fs::read_to_string(&list).unwrap_or_default();
    if !serials.contains(&serial) {
        serials.push_str(&format!("{serial} {name}\n"));
    }
    let key = ca_key(dir)?;
    let list_of_all = revocations(&ca(dir, &key)?, &serials)?;
    write(&dir.join("revoked.pem"), &list_of_all, 0o644)?;
    write(&list, &serials, 0o644)?;
    for ending in ["pem", "key"] {
        fs::remove_file(clients.join(format!("{name}.{ending}"))).ok();
    }
    say!("{name} is revoked; `bootroom reload`, or SIGHUP to `bootroom export`, makes it count");
    Ok(())
}

fn serial_of(path: &Path) -> anyhow::Result<String> {
    let certificate = CertificateDer::from_pem_file(path)
        .with_context(|| format!("there is no certificate {}", path.display()))?;
    let (_, parsed) = X509Certificate::from_der(&certificate).context("not a certificate")?;
    Ok(parsed
        .raw_serial()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// The list of all serial numbers in `serials`, signed.
fn revocations(issuer: &Issuer<'_, &KeyPair>, serials: &str) -> anyhow::Result<String> {
    let now = OffsetDateTime::now_utc();
    let numbers = serials
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let revoked_certs: Result<Vec<_>, _> = numbers.map(|number| revoked(number, now)).collect();
    let params = CertificateRevocationListParams {
        this_update: now - CLOCK_SLACK,
        next_update: now + LIFETIME,
        crl_number: SerialNumber::from(serials.lines().count() as u64),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.pem()?)
}

fn revoked(number: &str, now: OffsetDateTime) -> anyhow::Result<RevokedCertParams> {
    let bytes: Result<Vec<u8>, _> = number
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16))
        .collect();
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from(bytes.context("revoked.txt is damaged")?),
        revocation_time: now - CLOCK_SLACK,
        reason_code: Some(RevocationReason::Unspecified),
        invalidity_date: None,
    })
}
