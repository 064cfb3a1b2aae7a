//! The configuration: one TOML file, read whole or refused with every mistake shown.
//!
//! [`load`] reads and checks what the file alone can tell; [`host::check`] compares it with the machine
//! that it is to run on (interfaces, directories, images).

mod checks;
pub mod dhcp;
pub mod host;
pub mod menu;
mod parse;
pub mod problem;
pub mod reader;
pub mod units;

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use images::ImageRef;
use ipnet::Ipv4Net;
use pxe::{DhcpOption, Loader, Mac};

pub use dhcp::{Dhcp, DhcpMode};
use menu::Menu;
use problem::{Problem, Problems};
use reader::Located;
use units::{AddressRange, ByteSize, ClientName, MacPattern, NameTemplate, Retention};

/// Where `serve` and the other verbs look when no file is named.
pub const DEFAULT_PATH: &str = "/etc/bootroom/bootroom.toml";

/// The whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`.
    pub server: Server,
    /// `[dhcp]`.
    pub dhcp: Dhcp,
    /// `[groups.NAME]`.
    pub groups: BTreeMap<String, Group>,
    /// `[clients.NAME]`.
    pub clients: BTreeMap<ClientName, Client>,
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
    /// A directory whose files anyone may fetch: loaders of other firmware, a Raspberry Pi's boot files.
    pub files: Option<Located<PathBuf>>,
    /// Whether to tell machines that ask for an IPv6 router that there is none, so that they do not wait for it.
    pub quiet_ipv6: bool,
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

    /// The server's address without the prefix length.
    pub fn ip(&self) -> Ipv4Addr {
        self.address.value.addr()
    }
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
    /// What may be chosen at power-on.
    pub menu: Option<Arc<Menu>>,
    /// Further DHCP options.
    pub options: Vec<DhcpOption>,
}

/// `[groups.NAME]`: machines configured alike.
#[derive(Debug, Clone)]
pub struct Group {
    /// Which machines belong to it.
    pub macs: Vec<Located<MacPattern>>,
    /// How they are named.
    pub name: NameTemplate,
    /// Where their addresses come from; the common ranges if none.
    pub ranges: Vec<Located<AddressRange>>,
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
