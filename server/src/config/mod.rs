//! The configuration: one TOML file, and what `conf.d/*.toml` beside it adds; read whole or refused with every
//! mistake shown.
//!
//! [`load`] reads and checks what the file alone can tell; [`host::check`] compares it with the machine
//! that it is to run on (interfaces, directories, images).

mod checks;
pub mod dhcp;
pub mod exports;
pub mod host;
pub mod menu;
mod parse;
pub mod problem;
pub mod reader;
pub mod restart;
pub mod standby;
pub mod units;

use std::{
    collections::BTreeMap,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
};

use images::ImageRef;
use ipnet::Ipv4Net;
use pxe::{DhcpOption, Loader, Mac};

pub use dhcp::{Dhcp, DhcpMode};
use exports::{ExportSettings, Listener, ListenerTls, TlsMode, TlsSettings};
use menu::Menu;
use problem::{Problem, Problems, Sources};
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
    /// `[tls]`: certificates; the server's own if it is not written.
    pub tls: Option<TlsSettings>,
    /// `[listeners.NAME]`: where NBD is served besides the room's own address.
    pub listeners: BTreeMap<String, Listener>,
    /// `[exports.NAME]`.
    pub exports: BTreeMap<String, ExportSettings>,
    /// `[standby]`: the other server of the pair, if this is one of a pair.
    pub standby: Option<standby::Standby>,
    /// The files that all of it comes from.
    pub sources: Sources,
}

impl Config {
    /// What is wrong with it, with the text that it came from.
    pub fn refuse(&self, list: Vec<Problem>) -> Problems {
        let sources = self.sources.clone();
        Problems { sources, list }
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
    /// TLS on that port.
    pub tls: ListenerTls,
    /// Path of the control socket.
    pub control: PathBuf,
    /// A directory whose files anyone may fetch: loaders of other firmware, a Raspberry Pi's boot files.
    pub files: Option<Located<PathBuf>>,
    /// Whether to tell machines that ask for an IPv6 router that there is none, so that they do not wait for it.
    pub quiet_ipv6: bool,
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

    /// Where the server makes CA and certificates by itself, if there is no `[tls]`.
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
    /// Whether their disks are encrypted on the wire; as `[server] tls` says if none.
    pub tls: Option<Located<TlsMode>>,
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

/// Reads a configuration file and `conf.d/*.toml` beside it, in the order of their names.
///
/// # Errors
/// Every problem that the files alone show, each with its place.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let mut sources = Sources::default();
    let mut unread = Vec::new();
    let fix = "name the configuration with --config FILE; README.md has one to start from";
    read_source(&mut sources, &mut unread, path, fix);
    match additions(path) {
        Ok(paths) => paths.iter().for_each(|path| {
            let fix = "make it readable, or take it out of conf.d";
            read_source(&mut sources, &mut unread, path, fix);
        }),
        Err(problem) => unread.push(problem),
    }
    if !unread.is_empty() {
        return Err(Problems {
            sources,
            list: unread,
        });
    }
    parse::parse(&sources).map_err(|list| Problems { sources, list })
}

fn read_source(sources: &mut Sources, unread: &mut Vec<Problem>, path: &Path, fix: &str) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| {
        unread.push(Problem::of_file(path, &error).fix(fix));
        String::new()
    });
    sources.add(path, text);
}

/// The files of `conf.d` beside the main file.
fn additions(main: &Path) -> Result<Vec<PathBuf>, Problem> {
    let dir = main.parent().unwrap_or(Path::new("")).join("conf.d");
    let failed = |error: io::Error| Problem::of_file(&dir, &error);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let paths: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.path())).collect();
    let mut paths = paths.map_err(failed)?;
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "toml"));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests;
