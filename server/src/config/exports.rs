//! `[tls]`, `[listeners.NAME]` and `[exports.NAME]`: what NBD serves besides the machines' own disks, where, and to
//! whom.

mod check;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::Range,
    path::PathBuf,
    str::FromStr,
};

use images::ImageRef;
use ipnet::IpNet;

use super::{
    Server,
    parse::Roots,
    problem::Problem,
    reader::{Located, Section},
    units::{BadValue, ByteSize},
};

pub use check::check;

/// Whether connections use TLS. For a listener `Off` is the default; for an export it is `On`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Off,
    /// If the client wants it.
    On,
    /// Always.
    Required,
}

/// Whether clients of a listener have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientCertificates {
    /// They may, if there is a CA to check it against.
    #[default]
    Optional,
    /// Nobody comes in without.
    Required,
}

/// TLS of one listener.
#[derive(Debug, Clone, Default)]
pub struct ListenerTls {
    /// Whether; `Off` if none.
    pub mode: Option<Located<TlsMode>>,
    /// Certificates of clients.
    pub client_certificates: Option<Located<ClientCertificates>>,
}

impl ListenerTls {
    /// Whether connections use TLS.
    pub fn mode(&self) -> TlsMode {
        self.mode
            .as_ref()
            .map_or(TlsMode::Off, |located| located.value)
    }

    /// Whether clients have to show a certificate.
    pub fn client_certificates(&self) -> ClientCertificates {
        let certificates = self.client_certificates.as_ref();
        certificates
            .map(|located| located.value)
            .unwrap_or_default()
    }
}

/// `[tls]`: the server's certificate, and how those of clients are checked. All files are PEM.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// The server's certificate, with intermediate ones behind it.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// What machines trust besides exactly that certificate.
    pub ca: Option<PathBuf>,
    /// Where the CA is that certificates for machines are issued from.
    pub folder: Option<PathBuf>,
    /// Whether the server makes what is not in the folder yet.
    pub own: bool,
    /// The CA of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Revoked client certificates.
    pub revoked: Option<PathBuf>,
    /// Where it was written.
    pub span: Range<usize>,
}

impl TlsSettings {
    /// What a server uses that is told nothing: a CA and certificates of its own, in its data directory.
    pub(super) fn made_by(server: &Server) -> Self {
        TlsSettings {
            own: true,
            ..TlsSettings::in_folder(server.pki(), server.data.span.clone())
        }
    }

    /// As `bootroom pki` lays a folder out.
    fn in_folder(folder: PathBuf, span: Range<usize>) -> Self {
        TlsSettings {
            certificate: folder.join("server.pem"),
            key: folder.join("server.key"),
            ca: Some(folder.join("ca.pem")),
            client_ca: Some(folder.join("ca.pem")),
            revoked: Some(folder.join("revoked.pem")),
            folder: Some(folder),
            own: false,
            span,
        }
    }
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenPlace {
    /// TCP; on one interface only, if one is named.
    Tcp(SocketAddr, Option<String>),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for ListenPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenPlace::Tcp(address, None) => address.fmt(f),
            ListenPlace::Tcp(address, Some(interface)) => write!(f, "{address} on {interface}"),
            ListenPlace::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `[listeners.NAME]`: NBD besides the room's own address.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Where.
    pub place: Located<ListenPlace>,
    /// TLS there.
    pub tls: ListenerTls,
}

/// Where an export's data come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A regular file.
    File(PathBuf),
    /// A block device.
    Device(PathBuf),
    /// A version of an image; without a number the one that is current when the configuration is read.
    Image(ImageRef),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) | Source::Device(path) => path.display().fmt(f),
            Source::Image(image) => write!(f, "image {image}"),
        }
    }
}

/// What may be done with an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Read.
    #[default]
    ReadOnly,
    /// Read and write.
    ReadWrite,
    /// Every connection writes to a copy of its own, which is gone at its end.
    CopyOnWrite,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::ReadOnly => "read-only",
            Mode::ReadWrite => "read-write",
            Mode::CopyOnWrite => "copy-on-write",
        })
    }
}

/// Who may open an export, by where it connects from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// From anywhere.
    Anyone,
    /// From these addresses.
    Network(IpNet),
    /// Through a Unix socket.
    Unix,
}

/// What an export is. Two that are equal need not be exchanged at a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSpec {
    /// Its data.
    pub source: Source,
    /// What may be done with it.
    pub mode: Mode,
    /// Whether several connections may write to it at once.
    pub shared: bool,
    /// A line for people.
    pub description: Option<String>,
    /// Where its clients may be.
    pub allow: Vec<Allowed>,
    /// Names of which a client's certificate has to have one; any client will do if there are none.
    pub certificates: Vec<String>,
    /// Whether it is given out over TLS.
    pub tls: TlsMode,
    /// Most bytes that one connection's copy may take.
    pub quota: Option<ByteSize>,
}

impl ExportSpec {
    /// Whether it is given out over TLS only.
    pub fn needs_tls(&self) -> bool {
        self.tls == TlsMode::Required || !self.certificates.is_empty()
    }

    /// Whether `other` serves the same source in the same way, if perhaps to others.
    pub fn same_use(&self, other: &Self) -> bool {
        let of = |spec: &Self| (spec.source.clone(), spec.mode, spec.shared, spec.quota);
        of(self) == of(other)
    }
}

/// `[exports.NAME]`, and where its parts were written.
#[derive(Debug, Clone)]
pub struct ExportSettings {
    /// What it is.
    pub spec: ExportSpec,
    /// Its name.
    pub name_at: Range<usize>,
    /// Its source.
    pub source_at: Range<usize>,
    /// What it says of the other server of a pair: that has no copy of it, whatever is said.
    pub mirrored: Option<bool>,
}

/// Longest name of an export. Bytes.
const LONGEST_NAME: usize = 255;

/// Reads `tls` and `client_certificates`, of `[server]` or a listener.
pub(super) fn read_listener_tls(
    section: &mut Section<'_>,
    problems: &mut Vec<Problem>,
) -> ListenerTls {
    ListenerTls {
        mode: section.optional("tls", problems),
        client_certificates: section.optional("client_certificates", problems),
    }
}

/// Reads `[tls]`: a folder as `bootroom pki` makes it, or single files.
pub(super) fn read_tls(
    mut section: Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<TlsSettings> {
    let span = section.span();
    let mut path = |key| -> Option<PathBuf> {
        let located = section.optional(key, problems)?;
        Some(located.value)
    };
    let defaults = path("folder").map(|folder| TlsSettings::in_folder(folder, span.clone()));
    let default = |of: fn(&TlsSettings) -> Option<PathBuf>| defaults.as_ref().and_then(of);
    let certificate = path("certificate").or_else(|| default(|d| Some(d.certificate.clone())));
    let key = path("key").or_else(|| default(|d| Some(d.key.clone())));
    let ca = path("ca").or_else(|| default(|d| d.ca.clone()));
    let client_ca = path("client_ca");
    // The folder's list is of the folder's CA.
    let own_ca = client_ca.is_some();
    let revoked = path("revoked").or_else(|| default(|d| d.revoked.clone()).filter(|_| !own_ca));
    let client_ca = client_ca.or_else(|| default(|d| d.client_ca.clone()));
    let folder = default(|d| d.folder.clone());
    section.finish(problems);
    let (Some(certificate), Some(key)) = (certificate, key) else {
        let fix = "add folder = \"/etc/bootroom/pki\" (`bootroom pki init` makes it), or certificate and key";
        problems.push(Problem::at(span, "[tls] names no certificate and key").fix(fix));
        return None;
    };
    Some(TlsSettings {
        certificate,
        key,
        ca,
        folder,
        own: false,
        client_ca,
        revoked,
        span,
    })
}

/// Reads all of `[listeners]`.
pub(super) fn read_listeners(
    tables: Vec<(Located<String>, Section<'_>)>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Listener> {
    let mut listeners = BTreeMap::new();
    for (name, mut section) in tables {
        let address = section.optional::<SocketAddr>("address", problems);
        let unix = section.optional::<PathBuf>("unix", problems);
        let interface = section.optional::<String>("interface", problems);
        let tls = read_listener_tls(&mut section, problems);
        section.finish(problems);
        match (address, unix, interface) {
            (Some(address), None, interface) => {
                let interface = interface.map(|located| located.value);
                let value = ListenPlace::Tcp(address.value, interface);
                let span = address.span;
                let place = Located { value, span };
                listeners.insert(name.value, Listener { place, tls });
            }
            (None, Some(path), None) => {
                let value = ListenPlace::Unix(path.value);
                let span = path.span;
                let place = Located { value, span };
                listeners.insert(name.value, Listener { place, tls });
            }
            _ => problems.push(no_place(&name)),
        }
    }
    listeners
}

fn no_place(name: &Located<String>) -> Problem {
    let message = format!(
        "[listeners.{}] needs either an address or the path of a Unix socket",
        name.value
    );
    let fix = "write address = \"10.12.0.1:10810\" (and interface, if you like), or unix = \"/run/bootroom/nbd.sock\"";
    Problem::at(name.span.clone(), message).fix(fix)
}

/// Reads all of `[exports]`.
pub(super) fn read_exports(
    roots: &mut Roots<'_>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, ExportSettings> {
    let mut exports = BTreeMap::new();
    for (name, section) in roots.tables("exports", problems) {
        if let Err(error) = check_name(&name.value) {
            problems.push(Problem::at(name.span.clone(), error.0));
        }
        let export = read_export(&name, section, problems);
        exports.extend(export.map(|export| (name.value, export)));
    }
    exports
}

fn read_export(
    name: &Located<String>,
    mut section: Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<ExportSettings> {
    let source = read_source(name, &mut section, problems);
    let allow: Vec<Located<Allowed>> = section.list("allow", problems);
    let certificates: Vec<Located<String>> = section.list("certificates", problems);
    let mode = section.optional("mode", problems);
    let shared = section.boolean("shared", problems);
    let description = section.optional("description", problems);
    let tls = section.optional("tls", problems);
    let quota = section.optional("quota", problems);
    let mirrored = section.boolean("mirrored", problems);
    section.finish(problems);
    let source = source?;
    Some(ExportSettings {
        spec: ExportSpec {
            source: source.value,
            mode: mode.map(|l| l.value).unwrap_or_default(),
            shared: shared.unwrap_or(false),
            description: description.map(|l| l.value),
            allow: allow.into_iter().map(|l| l.value).collect(),
            certificates: certificates.into_iter().map(|l| l.value).collect(),
            tls: tls.map_or(TlsMode::On, |l| l.value),
            quota: quota.map(|l| l.value),
        },
        name_at: name.span.clone(),
        source_at: source.span,
        mirrored,
    })
}

fn read_source(
    name: &Located<String>,
    section: &mut Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Located<Source>> {
    fn put<T>(located: Located<T>, source: fn(T) -> Source) -> Located<Source> {
        let Located { value, span } = located;
        let value = source(value);
        Located { value, span }
    }
    let before = problems.len();
    let file = section.optional("file", problems);
    let device = section.optional("device", problems);
    let image = section.optional("image", problems);
    let file = file.map(|located| put(located, Source::File));
    let device = device.map(|located| put(located, Source::Device));
    let image = image.map(|located| put(located, Source::Image));
    let mut given: Vec<_> = [file, device, image].into_iter().flatten().collect();
    if given.len() != 1 && problems.len() == before {
        let message = format!(
            "[exports.{}] needs exactly one of file, device and image",
            name.value
        );
        let fix =
            "write file = \"/srv/disk.img\", device = \"/dev/vg0/disk\" or image = \"debian@3\"";
        problems.push(Problem::at(name.span.clone(), message).fix(fix));
        return None;
    }
    given.pop()
}

fn check_name(name: &str) -> Result<(), BadValue> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(fine) {
        return Err(BadValue(format!(
            "`{name}` cannot be the name of an export: use 1 to {LONGEST_NAME} letters, digits and ._-/"
        )));
    }
    match crate::exports::is_reserved(name) {
        true => Err(BadValue(format!(
            "`{name}` cannot be the name of an export: client/ and snapshot/ are the machines' own"
        ))),
        false => Ok(()),
    }
}

impl FromStr for TlsMode {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "off" => Ok(TlsMode::Off),
            "on" => Ok(TlsMode::On),
            "required" => Ok(TlsMode::Required),
            _ => Err(BadValue(format!(
                "`{text}`: use \"off\", \"on\" or \"required\""
            ))),
        }
    }
}

impl FromStr for ClientCertificates {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "optional" => Ok(ClientCertificates::Optional),
            "required" => Ok(ClientCertificates::Required),
            _ => Err(BadValue(format!(
                "`{text}`: use \"optional\" or \"required\""
            ))),
        }
    }
}

impl FromStr for Mode {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "read-only" => Ok(Mode::ReadOnly),
            "read-write" => Ok(Mode::ReadWrite),
            "copy-on-write" => Ok(Mode::CopyOnWrite),
            _ => Err(BadValue(format!(
                "`{text}`: use \"read-only\", \"read-write\" or \"copy-on-write\""
            ))),
        }
    }
}

impl FromStr for Allowed {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "*" => return Ok(Allowed::Anyone),
            "unix" => return Ok(Allowed::Unix),
            _ => {}
        }
        let network = text.parse().map(|network: IpNet| network.trunc());
        let address = || text.parse().map(|address: IpAddr| IpNet::from(address));
        network.or_else(|_| address()).map(Allowed::Network).map_err(|_| {
            BadValue(format!(
                "`{text}` is not an address (\"10.12.0.7\"), a network (\"10.12.0.0/24\"), \"unix\" or \"*\" for all"
            ))
        })
    }
}
