//! The certificates themselves: how each kind is made, and what can be read off one.

use std::{net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use super::error::{Error, ErrorKind, Result};

/// How long a certificate is good for: the machines of a room are set up once, and replaced after some years.
const LIFETIME: Duration = Duration::days(10 * 365);
/// One that the server can replace by itself is replaced so long before its end: longer than any machine stays on.
const RENEWAL: Duration = Duration::days(365);
/// Clocks of diskless machines may be wrong before they have asked for the time.
const CLOCK_SLACK: Duration = Duration::days(2);

/// A certificate and its private key, both PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key. Secret.
    pub key: String,
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A server proves that it is at these names and addresses.
    Server,
    /// A client proves its name.
    Client,
}

fn failed(source: rcgen::Error) -> Error {
    Error::certificate("a certificate cannot be made", source)
}

/// A new CA.
pub fn new_ca() -> Result<Pair> {
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "bootroom CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_lifetime(&mut params);
    let certificate = params.self_signed(&key).map_err(failed)?.pem();
    let key = key.serialize_pem();
    Ok(Pair { certificate, key })
}

/// A CA that can sign. The CA's own certificate is the source of its name and key identifier.
pub fn issuer(ca: &Pair) -> Result<Issuer<'static, KeyPair>> {
    let key = KeyPair::from_pem(&ca.key).map_err(failed)?;
    Issuer::from_ca_cert_pem(&ca.certificate, key).map_err(failed)
}

/// A new certificate for `names`, of which the first is its common name.
pub fn issue(
    names: &[String],
    purpose: Purpose,
    issuer: &Issuer<'static, KeyPair>,
) -> Result<Pair> {
    let mut params = CertificateParams::new(names.to_vec())
        .map_err(|source| Error::certificate("not a host name or address", source))?;
    params
        .distinguished_name
        .push(DnType::CommonName, names.first().map_or("", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match purpose {
        Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Purpose::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(random_serial()?);
    set_lifetime(&mut params);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, issuer).map_err(failed)?.pem();
    let key = key.serialize_pem();
    Ok(Pair { certificate, key })
}

fn random_serial() -> Result<SerialNumber> {
    let mut serial = [0; 16];
    getrandom::fill(&mut serial).map_err(|error| Error::certificate("no randomness", error))?;
    // Positive, as serial numbers have to be.
    serial[0] &= 0x7f;
    Ok(SerialNumber::from_slice(&serial))
}

fn set_lifetime(params: &mut CertificateParams) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SLACK;
    params.not_after = now + LIFETIME;
}

/// The list of all serial numbers in `serials` (one a line, hex, with the name behind it), signed.
pub fn revocations(issuer: &Issuer<'static, KeyPair>, serials: &str) -> Result<String> {
    let now = OffsetDateTime::now_utc();
    let numbers = serials
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let revoked_certs: Result<Vec<_>> = numbers.map(|number| revoked(number, now)).collect();
    let params = CertificateRevocationListParams {
        this_update: now - CLOCK_SLACK,
        next_update: now + LIFETIME,
        crl_number: SerialNumber::from(serials.lines().count() as u64),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs?,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = params.signed_by(issuer).map_err(failed)?;
    list.pem().map_err(failed)
}

fn revoked(number: &str, now: OffsetDateTime) -> Result<RevokedCertParams> {
    let bytes: std::result::Result<Vec<u8>, _> = number
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(&String::from_utf8_lossy(pair), 16))
        .collect();
    let bytes =
        bytes.map_err(|source| Error::certificate("revoked.txt is damaged: no hex", source))?;
    Ok(RevokedCertParams {
        serial_number: SerialNumber::from(bytes),
        revocation_time: now - CLOCK_SLACK,
        reason_code: Some(RevocationReason::Unspecified),
        invalidity_date: None,
    })
}

/// A certificate's serial number, in hex.
pub fn serial(path: &Path, pem: &[u8]) -> Result<String> {
    with_parsed(path, pem, |parsed| {
        let bytes = parsed.raw_serial().iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    })
}

/// Whether a certificate names `host` and will go on for a while.
pub fn serves(path: &Path, pem: &[u8], host: &str) -> Result<bool> {
    let last = (OffsetDateTime::now_utc() + RENEWAL).unix_timestamp();
    with_parsed(path, pem, |parsed| {
        parsed.validity().not_after.timestamp() > last && names(parsed, host)
    })
}

fn names(certificate: &X509Certificate<'_>, host: &str) -> bool {
    let Ok(Some(alternative)) = certificate.subject_alternative_name() else {
        return false;
    };
    let address = host.parse::<IpAddr>().ok().map(|address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    });
    let mut all = alternative.value.general_names.iter();
    all.any(|name| match name {
        GeneralName::DNSName(name) => *name == host,
        GeneralName::IPAddress(bytes) => Some(*bytes) == address.as_deref(),
        _ => false,
    })
}

fn with_parsed<T>(
    path: &Path,
    pem: &[u8],
    read: impl FnOnce(&X509Certificate<'_>) -> T,
) -> Result<T> {
    let no_certificate = || {
        let context = format!("{} holds no certificate", path.display());
        Error::new(ErrorKind::Certificate, context)
    };
    let der = CertificateDer::from_pem_slice(pem).map_err(|_| no_certificate())?;
    let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| no_certificate())?;
    Ok(read(&parsed))
}
