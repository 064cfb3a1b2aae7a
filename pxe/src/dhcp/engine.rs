//! The server's side of RFC 2131 §4.3 and of proxyDHCP, free of sockets, clocks and disks: a packet and the time go
//! in, an answer and what must be on disk before it is sent come out.

mod answer;
mod recent;
mod said;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::boot;
use super::config::{DhcpConfig, Mode, Subnet};
use super::lease::{Lease, LeaseChange, Leases, UnixTime};
use super::packet::{MessageType, Packet, code, suboptions};
use super::reply::{self, BINL_PORT, Reply, SERVER_PORT};
use super::table::Ask;
use crate::limit::Once;
use crate::machine::{Arch, Mac, Machine, Stage};
use crate::policy::{Event, Happening, Identity, Policy};
use recent::Recent;
use said::Said;

/// The time on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The wall clock, for leases.
    pub wall: UnixTime,
    /// The monotonic clock, for events.
    pub mono: Instant,
}

/// How a packet came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Via {
    /// Who sent it.
    pub source: SocketAddrV4,
    /// The port it came to: 67, or 4011 in proxy mode.
    pub port: u16,
}

/// What a packet leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// To be on disk before the answer leaves.
    pub changes: Vec<LeaseChange>,
    /// The answer.
    pub reply: Option<Reply>,
    /// To be told once the answer has left.
    pub event: Option<Event>,
    /// Ask the network whether somebody sits at the address offered, and hold the answer back meanwhile.
    pub probe: Option<(Mac, Ipv4Addr)>,
}

/// The server's logic and its short memory.
pub struct Engine {
    config: Arc<DhcpConfig>,
    leases: Arc<Leases>,
    policy: Arc<dyn Policy>,
    /// Machines that were just sent into a full iPXE.
    chained: Recent<()>,
    /// Firmware that was offered something: in which transaction, and what it is.
    offered: Recent<([u8; 4], Option<Arch>)>,
    said: Once<Said>,
}

/// One request being answered.
struct Case<'a> {
    packet: &'a Packet,
    via: Via,
    now: Now,
    machine: Machine,
    stage: Stage,
    identity: Identity,
}

impl Engine {
    /// A server that just started.
    pub fn new(config: Arc<DhcpConfig>, leases: Arc<Leases>, policy: Arc<dyn Policy>) -> Self {
        Self {
            config,
            leases,
            policy,
            chained: Recent::default(),
            offered: Recent::default(),
            said: Once::default(),
        }
    }

    /// Answers by `config` from now on; its short memory stays.
    pub fn use_config(&mut self, config: Arc<DhcpConfig>) {
        self.config = config;
    }

    /// Answers one packet. Calls the policy, which may block.
    pub fn handle(&mut self, packet: &Packet, via: Via, now: Now) -> Outcome {
        let Some(mac) = packet.mac().filter(|_| !packet.reply) else {
            return Outcome::default();
        };
        let mut machine = boot::machine(packet, mac, &self.config.interface);
        let stage = self.stage(packet, &mut machine, now.wall);
        if self.config.mode == Mode::Proxy {
            self.learn(packet, mac, now);
            if stage == Stage::Os {
                return Outcome::default();
            }
        }
        let Some(identity) = self.policy.identify(&machine) else {
            self.not_served(mac, "the policy does not know it", now);
            return Outcome::default();
        };
        let case = Case {
            packet,
            via,
            now,
            machine,
            stage,
            identity,
        };
        match self.config.mode {
            Mode::Full => self.full(&case),
            Mode::Proxy => self.proxy(&case),
        }
    }

    /// Which program asks. A Raspberry Pi says so in its DISCOVER, but not in the REQUEST that comes of it.
    fn stage(&mut self, packet: &Packet, machine: &mut Machine, now: UnixTime) -> Stage {
        let stage = boot::stage(packet, machine);
        let mac = machine.mac;
        match (stage, packet.kind) {
            (Stage::Pxe, MessageType::Discover) => {
                self.offered.note(mac, (packet.xid, machine.arch), now);
            }
            (Stage::Os, MessageType::Request) if machine.vendor_class.is_none() => {
                if let Some((xid, arch)) = self.offered.of(mac, now)
                    && *xid == packet.xid
                {
                    machine.arch = machine.arch.or(*arch);
                    return Stage::Pxe;
                }
            }
            _ => {}
        }
        stage
    }

    /// Which address a machine has is known to the site's server only; but the machine says it in its REQUEST.
    fn learn(&self, packet: &Packet, mac: Mac, now: Now) {
        let wished = packet.options.address(code::REQUESTED_ADDRESS);
        let has = Some(packet.ciaddr).filter(|a| *a != Ipv4Addr::UNSPECIFIED);
        if let Some(address) = has
            .or(wished)
            .filter(|_| packet.kind == MessageType::Request)
        {
            self.leases.learn(mac, address, now.mono);
        }
    }

    /// Somebody answered at an address that was about to be offered: nobody gets it for a while.
    pub fn conflict(&mut self, mac: Mac, address: Ipv4Addr, now: Now) {
        warn!(%mac, %address, "address is in use by a machine that has no lease for it; setting it aside");
        self.leases.quarantine(mac, address, now.wall);
        self.tell(
            now,
            Some(mac),
            Some(address),
            Happening::Conflict { address },
        );
    }

    fn full(&mut self, case: &Case<'_>) -> Outcome {
        let Some(index) = self.subnet(case) else {
            let reason = "it is on a network that is not configured here";
            self.not_served(case.machine.mac, reason, case.now);
            return Outcome::default();
        };
        let config = self.config.clone();
        let subnet = &config.subnets[index];
        match case.packet.kind {
            MessageType::Discover => self.discover(case, subnet),
            MessageType::Request => self.request(case, subnet),
            MessageType::Decline => self.decline(case),
            MessageType::Release => self.release(case),
            MessageType::Inform => self.inform(case, subnet),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => Outcome::default(),
        }
    }

    /// The network a machine is on: what its relay says (RFC 3527, 3011, giaddr), or the address it has, or ours.
    fn subnet(&self, case: &Case<'_>) -> Option<usize> {
        let packet = case.packet;
        let relayed = packet.giaddr != Ipv4Addr::UNSPECIFIED;
        let link = packet
            .options
            .get(code::RELAY)
            .and_then(|o| suboptions(o).address(5));
        let chosen = packet
            .options
            .address(code::SUBNET_SELECTION)
            .filter(|_| relayed);
        let renewing = Some(packet.ciaddr).filter(|a| !relayed && *a != Ipv4Addr::UNSPECIFIED);
        let at = |address: Ipv4Addr| {
            self.config
                .subnets
                .iter()
                .position(|s| s.network.contains(&address))
        };
        match link.or(chosen) {
            Some(link) => at(link),
            None if relayed => at(packet.giaddr),
            None => renewing.and_then(at).or_else(|| at(self.config.server)),
        }
    }

    fn discover(&mut self, case: &Case<'_>, subnet: &Subnet) -> Outcome {
        let mac = case.machine.mac;
        let what = Happening::Discover {
            stage: case.stage,
            arch: case.machine.arch,
        };
        self.tell(case.now, Some(mac), None, what);
        let ask = self.ask(case, subnet);
        let Some(choice) = self.leases.offer(&ask, case.now.wall) else {
            self.exhausted(mac, subnet, case.now);
            return Outcome::default();
        };
        let address = choice.address;
        let (reply, boot) = self.answer(case, subnet, MessageType::Offer, address);
        let what = Happening::Offer { address, boot };
        let probe = (choice.fresh && !self.config.probe.is_zero()).then_some((mac, address));
        Outcome {
            probe,
            ..self.send(case, reply, Some(address), what)
        }
    }

    /// REQUEST in its four states (RFC 2131 §4.3.2).
    fn request(&mut self, case: &Case<'_>, subnet: &Subnet) -> Outcome {
        let packet = case.packet;
        self.tell(
            case.now,
            Some(case.machine.mac),
            None,
            Happening::Request { stage: case.stage },
        );
        let selected = packet.options.address(code::SERVER_ID);
        if let Some(server) = selected.filter(|s| *s != self.server_id(packet)) {
            self.other_server(server, case);
            return Outcome::default();
        }
        let wished = packet.options.address(code::REQUESTED_ADDRESS);
        let renewing = packet.ciaddr != Ipv4Addr::UNSPECIFIED;
        let Some(address) = renewing.then_some(packet.ciaddr).or(wished) else {
            debug!(mac = %case.machine.mac, "REQUEST names no address");
            return Outcome::default();
        };
        if !subnet.network.contains(&address) {
            return self.nak(
                case,
                format!("{address} is not on the network {}", subnet.network),
            );
        }
        let known = self.leases.address_of(case.machine.mac).is_some();
        if selected.is_none() && !known && !self.config.authoritative {
            return Outcome::default();
        }
        self.grant(case, subnet, address)
    }

    fn grant(&mut self, case: &Case<'_>, subnet: &Subnet, address: Ipv4Addr) -> Outcome {
        let mac = case.machine.mac;
        let time = case.identity.lease_time.unwrap_or(subnet.lease_time);
        let expires = case.now.wall.after(time.as_secs());
        let lease = Lease {
            mac,
            address,
            expires,
            hostname: case.identity.hostname.clone(),
        };
        let Some(changes) = self
            .leases
            .confirm(&self.ask(case, subnet), lease, case.now.wall)
        else {
            return self.nak(case, format!("{address} is not for this machine"));
        };
        let (reply, boot) = self.answer(case, subnet, MessageType::Ack, address);
        let what = Happening::Ack {
            address,
            lease: time,
            boot,
            renewal: case.packet.ciaddr == address,
        };
        Outcome {
            changes,
            ..self.send(case, reply, Some(address), what)
        }
    }

    fn nak(&mut self, case: &Case<'_>, reason: String) -> Outcome {
        info!(mac = %case.machine.mac, reason, "refusing a REQUEST");
        let mut reply = Packet::answer(case.packet, MessageType::Nak);
        // The client has no address to be reached at, so a relay must broadcast (RFC 2131 §4.3.2).
        reply.broadcast = true;
        reply
            .options
            .set(code::SERVER_ID, self.server_id(case.packet).octets());
        reply.options.set(code::MESSAGE, reason.as_bytes());
        self.echo(case.packet, &mut reply);
        self.send(case, reply, None, Happening::Nak { reason })
    }

    fn decline(&mut self, case: &Case<'_>) -> Outcome {
        let mac = case.machine.mac;
        let Some(address) = case.packet.options.address(code::REQUESTED_ADDRESS) else {
            return Outcome::default();
        };
        if !self.is_for_us(case.packet) || self.leases.address_of(mac) != Some(address) {
            return Outcome::default();
        }
        warn!(%mac, %address, "machine found its address in use by another one");
        self.tell(case.now, Some(mac), Some(address), Happening::Decline);
        // Setting a reserved address aside would only lock its owner out.
        let reserved = case.identity.address == Some(address);
        let change = if reserved {
            None
        } else {
            self.leases.quarantine(mac, address, case.now.wall)
        };
        Outcome {
            changes: change.into_iter().collect(),
            ..Outcome::default()
        }
    }

    fn release(&mut self, case: &Case<'_>) -> Outcome {
        let (mac, address) = (case.machine.mac, case.packet.ciaddr);
        // Sent from the address itself: who forges more than that sits on the same segment and can do worse.
        let genuine =
            *case.via.source.ip() == address || case.packet.giaddr != Ipv4Addr::UNSPECIFIED;
        if !genuine || !self.is_for_us(case.packet) {
            debug!(%mac, %address, source = %case.via.source, "ignoring a RELEASE from elsewhere");
            return Outcome::default();
        }
        let change = self.leases.release(mac, address, case.now.wall);
        if change.is_some() {
            self.tell(case.now, Some(mac), Some(address), Happening::Release);
        }
        Outcome {
            changes: change.into_iter().collect(),
            ..Outcome::default()
        }
    }

    /// INFORM: options without a lease (RFC 2131 §4.3.5).
    fn inform(&mut self, case: &Case<'_>, subnet: &Subnet) -> Outcome {
        if case.packet.ciaddr == Ipv4Addr::UNSPECIFIED {
            return Outcome::default();
        }
        let (reply, boot) = self.answer(case, subnet, MessageType::Ack, Ipv4Addr::UNSPECIFIED);
        let address = case.packet.ciaddr;
        self.send(
            case,
            reply,
            Some(address),
            Happening::Ack {
                address,
                lease: Duration::ZERO,
                boot,
                renewal: true,
            },
        )
    }

    /// ProxyDHCP: boot file only; OFFER to whoever discovers, ACK to whoever asks port 4011.
    fn proxy(&mut self, case: &Case<'_>) -> Outcome {
        let kind = match (case.packet.kind, case.via.port) {
            (MessageType::Discover, SERVER_PORT) => MessageType::Offer,
            (MessageType::Request | MessageType::Inform, BINL_PORT) => MessageType::Ack,
            _ => return Outcome::default(),
        };
        let ip = Some(case.packet.ciaddr).filter(|a| *a != Ipv4Addr::UNSPECIFIED);
        let came = match kind {
            MessageType::Offer => Happening::Discover {
                stage: case.stage,
                arch: case.machine.arch,
            },
            _ => Happening::Request { stage: case.stage },
        };
        self.tell(case.now, Some(case.machine.mac), ip, came);
        let Some(boot) = self.boot(case) else {
            return Outcome::default();
        };
        let mut reply = self.start(case, kind);
        reply::put_boot(
            &mut reply,
            case.packet,
            &boot,
            &case.machine,
            case.stage,
            Mode::Proxy,
        );
        reply::put_extra(&mut reply, &case.identity.options);
        let (address, boot) = (Ipv4Addr::UNSPECIFIED, Some(boot.file));
        let sent = match kind {
            MessageType::Offer => Happening::Offer { address, boot },
            _ => Happening::Ack {
                address: case.packet.ciaddr,
                lease: Duration::ZERO,
                boot,
                renewal: false,
            },
        };
        self.send(case, reply, ip, sent)
    }

    fn ask<'a>(&self, case: &'a Case<'_>, subnet: &'a Subnet) -> Ask<'a> {
        let identity = &case.identity;
        Ask {
            mac: case.machine.mac,
            subnet,
            server: self.config.server,
            range: identity.range.as_deref(),
            fixed: identity.address,
            wish: case.packet.options.address(code::REQUESTED_ADDRESS),
        }
    }

    /// The server identifier: what the relay wants there (RFC 5107), or our address.
    fn server_id(&self, packet: &Packet) -> Ipv4Addr {
        let overridden = packet
            .options
            .get(code::RELAY)
            .and_then(|o| suboptions(o).address(11));
        overridden.unwrap_or(self.config.server)
    }

    fn is_for_us(&self, packet: &Packet) -> bool {
        packet
            .options
            .address(code::SERVER_ID)
            .is_none_or(|s| s == self.server_id(packet))
    }

    fn tell(&self, now: Now, mac: Option<Mac>, ip: Option<Ipv4Addr>, what: Happening) {
        self.policy.event(Event {
            at: now.mono,
            mac,
            ip,
            what,
        });
    }
}

#[cfg(test)]
mod tests;
