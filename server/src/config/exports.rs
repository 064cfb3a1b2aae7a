//! `[listeners.NAME]` and `[exports.NAME]`: what NBD serves besides the machines' own disks, where, and to
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
    parse::Roots,
    problem::Problem,
    reader::{Located, Section},
    units::{BadValue, ByteSize, TlsMode},
};

pub use check::check;

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
    /// Whether connections there use TLS.
    pub tls: TlsMode,
    /// Whether nobody comes in there without a certificate.
    pub client_certificates: bool,
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
}

/// Longest name of an export. Bytes.
const LONGEST_NAME: usize = 255;

/// Reads all of `[listeners]`.
pub(super) fn read_listeners(
    tables: Vec<(Located<String>, Section<'_>)>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, Listener> {
    let mut listeners = BTreeMap::new();
    for (name, mut section) in tables {
        let place = read_place(&name, &mut section, problems);
        let tls = section.optional("tls", problems);
        let client_certificates = section.flag("client_certificates", problems);
        section.finish(problems);
        let listener = place.map(|place| Listener {
            place,
            tls: tls.map(|located| located.value).unwrap_or_default(),
            client_certificates,
        });
        listeners.extend(listener.map(|listener| (name.value, listener)));
    }
    listeners
}

fn read_place(
    name: &Located<String>,
    section: &mut Section<'_>,
    problems: &mut Vec<Problem>,
) -> Option<Located<ListenPlace>> {
    let before = problems.len();
    let address = section.optional::<SocketAddr>("address", problems);
    let unix = section.optional::<PathBuf>("unix", problems);
    let interface = section.optional::<String>("interface", problems);
    match (address, unix, interface) {
        (Some(Located { value, span }), None, interface) => {
            let value = ListenPlace::Tcp(value, interface.map(|located| located.value));
            Some(Located { value, span })
        }
        (None, Some(Located { value, span }), None) => {
            let value = ListenPlace::Unix(value);
            Some(Located { value, span })
        }
        _ => {
            if problems.len() == before {
                problems.push(no_place(name));
            }
            None
        }
    }
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
    let shared = section.flag("shared", problems);
    let description = section.optional("description", problems);
    let tls = section.optional("tls", problems);
    let quota = section.optional("quota", problems);
    section.finish(problems);
    let source = source?;
    Some(ExportSettings {
        spec: ExportSpec {
            source: source.value,
            mode: mode.map(|l| l.value).unwrap_or_default(),
            shared,
            description: description.map(|l| l.value),
            allow: allow.into_iter().map(|l| l.value).collect(),
            certificates: certificates.into_iter().map(|l| l.value).collect(),
            tls: tls.map_or(TlsMode::On, |l| l.value),
            quota: quota.map(|l| l.value),
        },
        name_at: name.span.clone(),
        source_at: source.span,
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
