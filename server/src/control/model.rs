//! What the control API says; also what `--json` prints.

use std::net::Ipv4Addr;

use pxe::Mac;
use serde::{Deserialize, Serialize};

use super::standby::model::PairLine;
use crate::{clients::Reset, config::units::Retention, room::Reloaded, trace::StuckView};

/// The server as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The release that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The address that it serves.
    pub address: Ipv4Addr,
    /// The interface that it serves.
    pub interface: String,
    /// `full`, `proxy` or `off`.
    pub dhcp: String,
    /// Addresses given out.
    pub leases: usize,
    /// Machines ever served.
    pub clients: usize,
    /// Machines that have their disk attached.
    pub attached: usize,
    /// Images and their current versions.
    pub images: Vec<ImageView>,
    /// What `[exports]` names.
    #[serde(default)]
    pub exports: Vec<ExportView>,
    /// What is wrong with the network, for people.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Machines that do not boot on.
    #[serde(default)]
    pub stuck: Vec<StuckView>,
    /// Of a server that is one of a pair: how that is. One that is not the primary serves nobody; what it says of
    /// leases, machines and images is what it holds.
    #[serde(default)]
    pub pair: Option<PairLine>,
}

/// A named export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportView {
    /// Its name.
    pub name: String,
    /// What it serves.
    pub source: String,
    /// `read-only`, `read-write` or `copy-on-write`.
    pub mode: String,
    /// Whether several connections may write to it.
    pub shared: bool,
    /// Connections that have it.
    pub connections: usize,
}

/// An image and its current version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its name.
    pub name: String,
    /// The version that new boots get.
    pub current: Option<u32>,
    /// How many versions there are.
    pub versions: usize,
}

/// One machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientView {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub mac: Mac,
    /// Its group.
    pub group: Option<String>,
    /// The address that it has leased.
    pub address: Option<Ipv4Addr>,
    /// What the configuration lets it boot; none when it is no longer served.
    pub image: Option<String>,
    /// The version that its overlay is bound to.
    pub version: Option<String>,
    /// How long its overlay lasts.
    pub retention: Option<Retention>,
    /// Whether a connection has its disk.
    pub attached: bool,
    /// Bytes that it read over its present connection.
    pub read_bytes: Option<u64>,
    /// Bytes that it wrote over its present connection.
    pub written_bytes: Option<u64>,
    /// Its export, without the token.
    pub export: String,
    /// Its overlay, if it has one.
    pub overlay: Option<String>,
    /// Size of its disk in bytes.
    pub disk_bytes: Option<u64>,
    /// Bytes that its overlay takes on the server's disk.
    pub overlay_bytes: Option<u64>,
    /// Most bytes that its overlay may take.
    pub quota_bytes: Option<u64>,
    /// Whether its overlay was made to last, whatever the configuration says now.
    pub overlay_lasts: Option<bool>,
    /// Its next boot gets a fresh overlay because it was told to.
    pub fresh_at_next_boot: bool,
    /// Its newest step in the boot trace.
    pub last_step: Option<String>,
    /// What is wrong with its overlay, if anything.
    pub trouble: Option<String>,
    /// Why it does not boot on, if it does not.
    #[serde(default)]
    pub stuck: Option<StuckView>,
    /// All its disks: one for each image that it has booted.
    #[serde(default)]
    pub disks: Vec<DiskView>,
}

/// One of a machine's disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskView {
    /// The overlay.
    pub overlay: String,
    /// The image, if it is still there.
    pub image: Option<String>,
    /// The version that it lies over.
    pub version: Option<String>,
    /// Bytes that it takes on the server's disk.
    pub overlay_bytes: Option<u64>,
    /// Whether it was made to last.
    pub lasts: Option<bool>,
}

/// What `client forget` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// The name that is free now.
    pub client: String,
    /// The machine.
    pub mac: Mac,
}

/// How `client reset` is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRequest {
    /// The image whose disk is meant; the current one if none.
    #[serde(default)]
    pub image: Option<images::ImageName>,
    /// Do not wait for the next boot of a machine that is not connected.
    #[serde(default)]
    pub now: bool,
}

/// What `client reset` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetDone {
    /// The machine.
    pub client: String,
    /// What was done.
    pub result: Reset,
}

/// What `client commit` is to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// The image that gets the new version.
    pub image: images::ImageName,
    /// Free text about it.
    pub description: String,
}

/// How far `client commit` is. The last one is `Published` or `Failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitStep {
    /// Something new begins.
    Phase(String),
    /// So much of it is done, from 0 to 1.
    Fraction(f64),
    /// The version is there, and current.
    Published(String),
    /// Nothing was published, for this reason.
    Failed(String),
}

/// What became of `reload`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReloadAnswer {
    /// The new configuration is in force.
    Done(Reloaded),
    /// It cannot be used, for these reasons, with their places; the old one stays in force.
    Refused(String),
}

/// A snapshot of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Its name.
    pub name: overlay::SnapshotName,
    /// When it was taken, in seconds since 1970.
    pub taken: Option<u64>,
}

/// Where an opened snapshot can be read until the server stops. Whoever knows it may read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedSnapshot {
    /// An NBD URI.
    pub uri: String,
}

/// An overlay and the version it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingView {
    /// Whose overlay.
    pub overlay: String,
    /// UUID of the version.
    pub version: images::VersionId,
}

/// Why a request was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line.
    pub error: String,
}
