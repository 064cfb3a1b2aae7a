//! The questions the protocols ask, and what they tell.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::machine::{Arch, Mac, Machine, Stage};

/// Who a machine is and what it boots. Implemented by the server; called from threads that may block, so a call may
/// touch a database. Calls about one machine come in the order of its packets.
pub trait Policy: Send + Sync + 'static {
    /// Who is this? `None`: not served (said once in the log, and as [`Happening::NotServed`]).
    ///
    /// Asked for every DHCP packet, so it should be cheap and must answer the same until the config changes.
    fn identify(&self, machine: &Machine) -> Option<Identity>;

    /// What does it boot now? `None`: no boot file in the answer; a firmware then goes to its next boot device.
    /// Not asked for [`Stage::Os`].
    fn boot(&self, machine: &Machine, stage: Stage) -> Option<BootAnswer>;

    /// What does this path hold, for this client? `None`: the service's own roots are tried, then "not found".
    fn file(&self, request: &FileRequest) -> Option<Content>;

    /// A client's `POST /report/…`. `false`: nobody knows such a report (the client gets 404).
    fn report(&self, report: &Report) -> bool;

    /// Something happened. Must not block: called on the packet path.
    fn event(&self, event: Event);
}

/// A machine that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The client's name, given as its hostname (option 12).
    pub hostname: Option<String>,
    /// Its fixed address. None: one from a range.
    pub address: Option<Ipv4Addr>,
    /// The name of the range to take from ([`crate::dhcp::Range::name`]). None: any unnamed range of its subnet.
    pub range: Option<String>,
    /// How long its lease lasts; the subnet's lease time if none.
    pub lease_time: Option<Duration>,
    /// Further options, which win over the subnet's and the crate's own (except 53, 54, 82 and addressing).
    pub options: Vec<DhcpOption>,
}

/// A DHCP option as bytes: any number from 1 to 254, any length (longer than 255: split as RFC 3396 says).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpOption {
    /// The option's number.
    pub code: u8,
    /// Its value.
    pub value: Bytes,
}

/// Which family of boot loader a machine gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Loader {
    /// iPXE: `undionly.kpxe`, `ipxe.efi`, …
    #[default]
    Ipxe,
    /// shim and GRUB from the distribution's signed packages, for Secure Boot; BIOS machines get iPXE.
    Grub,
    /// PXELINUX, for BIOS; UEFI machines get iPXE.
    Pxelinux,
}

/// What a machine boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BootAnswer {
    /// The usual: the loader for its firmware, then the script. The crate picks the loader's file by option 93 and
    /// by stage, and breaks loops: an iPXE gets the script and never a loader again (but for one that cannot boot Linux).
    Standard {
        /// Which loader, for firmware.
        loader: Loader,
        /// Where iPXE finds its script: `http://SERVER/ipxe/MAC`.
        script: String,
    },
    /// This file from this TFTP server (this one, if none), whatever the stage.
    File {
        /// The TFTP server.
        server: Option<Ipv4Addr>,
        /// The path on it, at most 127 bytes.
        path: String,
    },
    /// This URL, whatever the stage.
    Url(String),
}

/// How a file is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TFTP.
    Tftp,
    /// HTTP.
    Http,
}

/// A request for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequest {
    /// Who asks.
    pub peer: Ipv4Addr,
    /// The machine that holds `peer` by this server's leases, if any.
    pub mac: Option<Mac>,
    /// The server's address that was asked: what a URL in an answer should name.
    pub local: Ipv4Addr,
    /// The path: percent-decoded, without leading slash, `.` and `..` resolved; never leads upwards.
    pub path: String,
    /// What follows `?` in a URL, undecoded.
    pub query: Option<String>,
    /// How it is asked for.
    pub protocol: Protocol,
}

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// This file, trusted: the policy chose it. Served as it is when opened; must not change in place.
    File(PathBuf),
}

/// A client's report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Who reports.
    pub peer: Ipv4Addr,
    /// The machine that holds `peer`, if any.
    pub mac: Option<Mac>,
    /// What follows `/report/` in the path.
    pub path: String,
    /// What it sent, at most 64 KiB.
    pub body: Bytes,
}

/// One step of a machine's boot.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// Which machine, when known.
    pub mac: Option<Mac>,
    /// At which address, when it has one.
    pub ip: Option<Ipv4Addr>,
    /// What.
    pub what: Happening,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Happening {
    /// DISCOVER came.
    Discover {
        /// Which program asks.
        stage: Stage,
        /// Its firmware.
        arch: Option<Arch>,
    },
    /// An address was offered, with this boot file or URL.
    Offer {
        /// The address; 0.0.0.0 in proxy mode.
        address: Ipv4Addr,
        /// The boot file or URL, if any.
        boot: Option<String>,
    },
    /// REQUEST came.
    Request {
        /// Which program asks.
        stage: Stage,
    },
    /// The lease is on disk and acknowledged (or, in proxy mode and after INFORM, the options were sent).
    Ack {
        /// The address.
        address: Ipv4Addr,
        /// For how long.
        lease: Duration,
        /// The boot file or URL, if any.
        boot: Option<String>,
        /// The machine used the address already: it is no step of a boot.
        renewal: bool,
    },
    /// The request was refused.
    Nak {
        /// Why.
        reason: String,
    },
    /// The client found its address in use by another.
    Decline,
    /// The client gave its address back.
    Release,
    /// The policy does not know the machine, or it sits on a network that has no subnet here.
    NotServed {
        /// Why.
        reason: String,
    },
    /// No free address was left.
    Exhausted,
    /// Firmware of an architecture that no loader is known for.
    UnknownArch {
        /// Option 93.
        arch: Option<Arch>,
    },
    /// Something answers at an address that was about to be offered; it is set aside.
    Conflict {
        /// The address.
        address: Ipv4Addr,
    },
    /// Another DHCP server answers on this network.
    OtherServer {
        /// Its address.
        server: Ipv4Addr,
    },
    /// A transfer began.
    TransferStart {
        /// By which protocol.
        protocol: Protocol,
        /// Of what.
        path: String,
        /// How long it is, in bytes.
        size: u64,
    },
    /// A transfer goes on; sent at most about once a second per transfer.
    TransferProgress {
        /// By which protocol.
        protocol: Protocol,
        /// Of what.
        path: String,
        /// Bytes sent (TFTP: acknowledged) so far.
        done: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A transfer ended.
    TransferEnd {
        /// By which protocol.
        protocol: Protocol,
        /// Of what.
        path: String,
        /// Bytes sent (TFTP: acknowledged).
        done: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// A file was asked for that is not there.
    NotFound {
        /// By which protocol.
        protocol: Protocol,
        /// Of what.
        path: String,
    },
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// All of it arrived.
    Complete,
    /// The client only asked for the size and hung up, as firmware does.
    SizeProbe,
    /// The client broke it off, with its words if it gave any.
    Aborted(String),
    /// The client fell silent.
    TimedOut,
    /// The file could not be read.
    ReadError(String),
    /// The service stopped.
    Shutdown,
}
