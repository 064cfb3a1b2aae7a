//! How an answer is put together, and where it has to go.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use bytes::Bytes;

use super::boot;
use super::config::{DhcpConfig, Mode, Subnet};
use super::packet::{MessageType, Packet, code};
use crate::machine::{Arch, Mac, Machine, Stage};
use crate::policy::{BootAnswer, DhcpOption, Identity};

/// The port of DHCP servers and relays.
pub const SERVER_PORT: u16 = 67;
/// The port of DHCP clients.
pub const CLIENT_PORT: u16 = 68;
/// The port of PXE boot servers, which a proxy answers too.
pub const BINL_PORT: u16 = 4011;

/// A packet's size when the client names no other (RFC 2131 §2: 576 bytes, less the IP and UDP headers).
const DEFAULT_SIZE: usize = 548;
/// What a standard Ethernet frame carries.
const LARGEST_SIZE: usize = 1472;

/// Where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// To everyone on the segment, port 68.
    Broadcast,
    /// To an address that its owner already uses.
    Unicast(SocketAddrV4),
    /// To a machine that does not have its address yet: the frame goes to `mac`, the packet to `address`. Where no raw
    /// socket is to be had, broadcast instead.
    Hardware {
        /// The machine.
        mac: Mac,
        /// The address it is about to get.
        address: Ipv4Addr,
    },
}

/// An answer, ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The bytes.
    pub packet: Bytes,
    /// Where to.
    pub to: Destination,
    /// The port it must leave from: clients of a proxy look at it.
    pub from_port: u16,
}

/// A boot file, settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The server it is on.
    pub server: Ipv4Addr,
    /// The path or URL.
    pub file: String,
}

/// Turns the policy's answer into a file for this firmware. `chained`: this machine got a full iPXE a moment ago.
/// `Err`: nothing is known that boots this architecture.
pub fn settle(
    config: &DhcpConfig,
    answer: BootAnswer,
    machine: &Machine,
    stage: Stage,
    chained: bool,
) -> Result<Boot, Option<Arch>> {
    let server = config.server;
    let file = match answer {
        BootAnswer::Url(url) => url,
        BootAnswer::File {
            server: other,
            path,
        } => {
            let file = if stage == Stage::HttpBoot {
                format!("{}{path}", config.http_base)
            } else {
                path
            };
            return Ok(Boot {
                server: other.unwrap_or(server),
                file,
            });
        }
        BootAnswer::Standard { script, .. } if wants_script(stage, chained) => script,
        BootAnswer::Standard { .. } if machine.arch == Some(Arch::RASPBERRY_PI) => String::new(),
        BootAnswer::Standard { loader, .. } => {
            let arch = machine.arch.unwrap_or(Arch::BIOS);
            let replaced = config
                .loaders
                .iter()
                .find(|(a, _)| *a == arch)
                .map(|(_, path)| path.as_str());
            let path = replaced
                .or_else(|| boot::loader(loader, arch))
                .ok_or(machine.arch)?;
            let url = stage == Stage::HttpBoot;
            if url {
                format!("{}{path}", config.http_base)
            } else {
                path.to_owned()
            }
        }
    };
    Ok(Boot { server, file })
}

/// An iPXE gets the script, unless it lacks what the script needs; then it gets a full iPXE, but only once.
fn wants_script(stage: Stage, chained: bool) -> bool {
    matches!(stage, Stage::Ipxe(features) if chained || (features.http && features.linux))
}

/// Whether the answer sends an iPXE into a full iPXE.
pub fn chains(stage: Stage, answer: &BootAnswer, chained: bool) -> bool {
    matches!(stage, Stage::Ipxe(_))
        && matches!(answer, BootAnswer::Standard { .. })
        && !wants_script(stage, chained)
}

/// Sets the boot file wherever firmware looks for it: `siaddr`, `file`, options 66 and 67, and the marks of PXE.
pub fn put_boot(
    reply: &mut Packet,
    request: &Packet,
    boot: &Boot,
    machine: &Machine,
    stage: Stage,
    mode: Mode,
) {
    reply.siaddr = boot.server;
    // A URL belongs in option 67 (UEFI 2.10 §24.7.3.1); an iPXE reads it in either place.
    if boot.file.len() <= 127 && stage != Stage::HttpBoot {
        reply.file = boot.file.clone().into_bytes();
    }
    let options = &mut reply.options;
    if !boot.file.is_empty() {
        options.set(code::BOOT_FILE, boot.file.as_bytes());
    }
    if stage != Stage::HttpBoot {
        options.set(code::TFTP_SERVER, boot.server.to_string());
        // PXE wants its option 97 back; EDK2's HTTP boot declines the lease if it gets it (seen with 2022.11).
        if let Some(uuid) = request.options.get(code::UUID) {
            options.set(code::UUID, uuid);
        }
    }
    match (stage, mode) {
        (Stage::HttpBoot, _) => options.set(code::VENDOR_CLASS, "HTTPClient"),
        (Stage::Pxe, _) if machine.arch == Some(Arch::RASPBERRY_PI) => {
            options.set(code::VENDOR_CLASS, "PXEClient");
            options.set(code::VENDOR, boot::raspberry_menu());
        }
        // Option 60 alone would make UEFI ask port 4011 for a boot server; option 43 says there is none to ask.
        (_, Mode::Proxy) => {
            options.set(code::VENDOR_CLASS, "PXEClient");
            options.set(code::VENDOR, boot::USE_BOOT_FILE);
        }
        (_, Mode::Full) => {}
    }
    if mode == Mode::Full && matches!(stage, Stage::Ipxe(_)) {
        // 175.176: no proxy will answer, do not wait for one.
        options.set(code::IPXE, [176, 1, 1]);
    }
}

/// Sets what a client needs to know of its network, most important first.
pub fn put_network(reply: &mut Packet, subnet: &Subnet, identity: &Identity) {
    let list = |addresses: &[Ipv4Addr]| {
        addresses
            .iter()
            .flat_map(|a| a.octets())
            .collect::<Vec<u8>>()
    };
    let options = &mut reply.options;
    options.set(code::SUBNET_MASK, subnet.network.netmask().octets());
    let lists = [
        (code::ROUTER, &subnet.routers),
        (code::DNS, &subnet.dns),
        (code::NTP, &subnet.ntp),
    ];
    for (code, addresses) in lists.iter().filter(|(_, a)| !a.is_empty()) {
        options.set(*code, list(addresses));
    }
    if let Some(name) = &identity.hostname {
        options.set(code::HOSTNAME, name.as_bytes());
    }
    if let Some(domain) = &subnet.domain {
        options.set(code::DOMAIN, domain.as_bytes());
    }
    options.set(code::BROADCAST, subnet.network.broadcast().octets());
}

/// Sets the lease's length and when to renew it (RFC 2131 §4.4.5).
pub fn put_times(reply: &mut Packet, lease: Duration) {
    let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX);
    reply.options.set(code::LEASE_TIME, seconds.to_be_bytes());
    reply
        .options
        .set(code::RENEWAL, (seconds / 2).to_be_bytes());
    reply
        .options
        .set(code::REBINDING, (seconds / 8 * 7).to_be_bytes());
}

/// Sets what the configuration adds, over what the crate chose.
pub fn put_extra(reply: &mut Packet, extra: &[DhcpOption]) {
    let own = [
        code::MESSAGE_TYPE,
        code::SERVER_ID,
        code::RELAY,
        code::LEASE_TIME,
        code::OVERLOAD,
        0,
        code::END,
    ];
    for option in extra.iter().filter(|o| !own.contains(&o.code)) {
        reply.options.set(option.code, option.value.to_vec());
    }
}

/// Where the answer to `request` goes (RFC 2131 §4.1).
pub fn destination(request: &Packet, reply: &Packet, mac: Mac) -> Destination {
    let unicast = |address, port| Destination::Unicast(SocketAddrV4::new(address, port));
    let nak = reply.kind == MessageType::Nak;
    if request.giaddr != Ipv4Addr::UNSPECIFIED {
        unicast(request.giaddr, SERVER_PORT)
    } else if nak {
        Destination::Broadcast
    } else if request.ciaddr != Ipv4Addr::UNSPECIFIED {
        unicast(request.ciaddr, CLIENT_PORT)
    } else if request.broadcast || reply.yiaddr == Ipv4Addr::UNSPECIFIED {
        Destination::Broadcast
    } else {
        Destination::Hardware {
            mac,
            address: reply.yiaddr,
        }
    }
}

/// How long an answer may be.
pub fn size_limit(request: &Packet) -> usize {
    let named = request
        .options
        .fixed::<2>(code::MAX_SIZE)
        .map(u16::from_be_bytes);
    named.map_or(DEFAULT_SIZE, |size| {
        usize::from(size)
            .saturating_sub(28)
            .clamp(DEFAULT_SIZE, LARGEST_SIZE)
    })
}
