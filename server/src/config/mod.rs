//! The configuration: one TOML file, read whole or refused with every mistake shown.
//!
//! [`load`] reads and checks what the file alone can tell; [`host::check`] compares it with the machine
//! that it is to run on (interfaces, directories, images).

mod checks;
pub mod host;
mod parse;
pub mod problem;
pub mod reader;
pub mod units;

use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, path::PathBuf};

use images::ImageRef;
use ipnet::Ipv4Net;
use pxe::{Loader, Mac};

use problem::{Problem, Problems};
use reader::Located;
use units::{
    AddressRange, ByteSize, ClientName, MacPattern, NameTemplate, Retention, Seconds, TlsMode,
};

/// Where `serve` and the other verbs look when no file is named.
pub const DEFAULT_PATH: &str = "/etc/bootroom/bootroom.toml";

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[dhcp]`.
    pub dhcp: Dhcp,
    /// `[tls]`.
    pub tls: Tls,
    /// `[groups.NAME]`.
    pub groups: BTreeMap<String, Group>,
    /// `[clients.NAME]`.
    pub clients: BTreeMap<ClientName, Client>,
}

impl Config {
    /// Whether any machine's disk is given out over TLS.
    pub fn uses_tls(&self) -> bool {
        self.tls_modes().any(|mode| mode != TlsMode::Off)
    }

    /// Whether no machine's disk is given out without TLS.
    pub fn only_tls(&self) -> bool {
        self.tls_modes().all(|mode| mode == TlsMode::Required)
    }

    fn tls_modes(&self) -> impl Iterator<Item = TlsMode> + '_ {
        let groups = self.groups.values().map(|group| &group.settings);
        let settings = groups.chain(self.clients.values().map(|client| &client.settings));
        let own = settings.filter_map(|settings| settings.tls);
        own.chain([self.server.tls])
    }
}

/// `[server]`: where the server lives.
#[derive(Debug, Clone)]
pub struct Server {
    /// Directory of images, overlays, leases and state.
    pub data: Located<PathBuf>,
    /// The one interface that is served.
    pub interface: Located<String>,
    /// The server's address on it, with the network's prefix length.
    pub address: Located<Ipv4Net>,
    /// TCP port of the boot files.
    pub http_port: u16,
    /// TCP port of the clients' disks.
    pub nbd_port: u16,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Whether the clients' disks are encrypted on the wire.
    pub tls: TlsMode,
    /// Whether machines get ssh host keys that last, over the boot files' plain HTTP.
    pub ssh_host_keys: bool,
}

impl Server {
    /// Where image versions are kept.
    pub fn images(&self) -> PathBuf {
        self.data.value.join("images")
    }

    /// Where overlays are kept.
    pub fn overlays(&self) -> PathBuf {
        self.data.value.join("overlays")
    }

    /// Where the site's own CA and the certificates that it issued are, unless `[tls]` names others.
    pub fn pki(&self) -> PathBuf {
        self.data.value.join("pki")
    }

    /// Where the machines' ssh host keys are kept.
    pub fn identities(&self) -> PathBuf {
        self.data.value.join("identity")
    }

    /// The server's address without the prefix length.
    pub fn ip(&self) -> Ipv4Addr {
        self.address.value.addr()
    }
}

/// `[tls]`: what `[server] tls` works with. Without it the server makes what is needed in the data directory.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The server's certificate and those between it and its CA, PEM.
    pub certificate: Option<Located<PathBuf>>,
    /// The certificate's private key, PEM.
    pub key: Option<Located<PathBuf>>,
    /// What machines trust instead of exactly this certificate, PEM.
    pub ca: Option<Located<PathBuf>>,
    /// Whether a machine has to show a certificate in its own name.
    pub client_certificates: bool,
}

/// How DHCP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DhcpMode {
    /// Addresses and boot files.
    #[default]
    Full,
    /// Boot files only, beside the site's own server.
    Proxy,
    /// Not at all.
    Off,
}

/// `[dhcp]`.
#[derive(Debug, Clone, Default)]
pub struct Dhcp {
    /// How.
    pub mode: DhcpMode,
    /// Addresses to give out.
    pub range: Option<Located<AddressRange>>,
    /// How long a lease lasts; twelve hours if none.
    pub lease: Option<Seconds>,
    /// Default router.
    pub router: Option<Ipv4Addr>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
}

/// What groups and clients can both say of their machines.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What they boot.
    pub image: Option<Located<ImageRef>>,
    /// How long their overlays last.
    pub retention: Option<Retention>,
    /// Most bytes that one overlay may take on the server.
    pub quota: Option<ByteSize>,
    /// Size of the disk that a client sees; the image's own if none.
    pub size: Option<ByteSize>,
    /// Appended to the kernel command line.
    pub kernel_args: Option<String>,
    /// Boot loader family.
    pub loader: Option<Loader>,
    /// Whether their disks are encrypted on the wire; as `[server] tls` says if none.
    pub tls: Option<TlsMode>,
}

/// `[groups.NAME]`: machines configured alike.
#[derive(Debug, Clone)]
pub struct Group {
    /// Which machines belong to it.
    pub macs: Vec<Located<MacPattern>>,
    /// How they are named.
    pub name: NameTemplate,
    /// Where their addresses come from; the common range if none.
    pub range: Option<Located<AddressRange>>,
    /// What they boot, and how.
    pub settings: Settings,
}

/// `[clients.NAME]`: one machine that has its own settings.
#[derive(Debug, Clone)]
pub struct Client {
    /// Which machine.
    pub mac: Located<Mac>,
    /// Its fixed address.
    pub address: Option<Located<Ipv4Addr>>,
    /// The group whose settings it takes where it has none.
    pub group: Option<Located<String>>,
    /// What it boots, and how.
    pub settings: Settings,
}

/// Reads a configuration file.
///
/// # Errors
/// Every problem that the file alone shows, each with its place.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let refuse = |source: &str, list| Problems {
        path: path.to_owned(),
        source: source.to_owned(),
        list,
    };
    let source = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        let fix = "name the configuration with --config FILE; README.md has one to start from";
        let problem = Problem {
            message,
            span: None,
            fix: Some(fix.into()),
        };
        refuse("", vec![problem])
    })?;
    parse::parse(&source).map_err(|list| refuse(&source, list))
}

#[cfg(test)]
mod tests;
