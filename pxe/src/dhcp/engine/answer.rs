//! Putting an answer together: what every OFFER and ACK has, and the boot file of this firmware.

use std::net::Ipv4Addr;

use tracing::warn;

use super::{Case, Engine, Outcome, Said};
use crate::dhcp::config::{Mode, Subnet};
use crate::dhcp::packet::{MessageType, Packet, code};
use crate::dhcp::reply::{self, BINL_PORT, Boot, Destination, Reply};
use crate::machine::Stage;
use crate::policy::{Event, Happening};

impl Engine {
    /// An OFFER or ACK in full mode, and the boot file in it.
    pub(super) fn answer(
        &mut self,
        case: &Case<'_>,
        subnet: &Subnet,
        kind: MessageType,
        address: Ipv4Addr,
    ) -> (Packet, Option<String>) {
        let mut reply = self.start(case, kind);
        reply.yiaddr = address;
        if kind == MessageType::Ack {
            reply.ciaddr = case.packet.ciaddr;
        }
        if address != Ipv4Addr::UNSPECIFIED {
            reply::put_times(
                &mut reply,
                case.identity.lease_time.unwrap_or(subnet.lease_time),
            );
        }
        let boot = self.boot(case);
        if let Some(boot) = &boot {
            reply::put_boot(
                &mut reply,
                case.packet,
                boot,
                &case.machine,
                case.stage,
                Mode::Full,
            );
        }
        reply::put_network(&mut reply, subnet, &case.identity);
        reply::put_extra(&mut reply, &subnet.options);
        reply::put_extra(&mut reply, &case.identity.options);
        (reply, boot.map(|b| b.file))
    }

    pub(super) fn start(&self, case: &Case<'_>, kind: MessageType) -> Packet {
        let mut reply = Packet::answer(case.packet, kind);
        reply
            .options
            .set(code::SERVER_ID, self.server_id(case.packet).octets());
        self.echo(case.packet, &mut reply);
        reply
    }

    /// What a client and its relay want back as they sent it (RFC 6842, RFC 3046; RFC 3011 where it was heeded).
    pub(super) fn echo(&self, request: &Packet, reply: &mut Packet) {
        let relayed = request.giaddr != Ipv4Addr::UNSPECIFIED;
        let chosen = relayed.then_some(code::SUBNET_SELECTION);
        for code in chosen.into_iter().chain([code::CLIENT_ID, code::RELAY]) {
            if let Some(value) = request.options.get(code) {
                reply.options.set(code, value);
            }
        }
    }

    pub(super) fn boot(&mut self, case: &Case<'_>) -> Option<Boot> {
        if case.stage == Stage::Os {
            return None;
        }
        let mac = case.machine.mac;
        let answer = self.policy.boot(&case.machine, case.stage)?;
        let chained = self.chained.of(mac, case.now.wall).is_some();
        let chains = reply::chains(case.stage, &answer, chained);
        match reply::settle(&self.config, answer, &case.machine, case.stage, chained) {
            Ok(boot) => {
                if chains && case.packet.kind == MessageType::Request {
                    self.chained.note(mac, (), case.now.wall);
                }
                Some(boot)
            }
            Err(arch) => {
                if self.said.first(Said::UnknownArch(mac), case.now.mono) {
                    warn!(%mac, ?arch, "no boot loader is known for this architecture; it gets an address only");
                }
                self.tell(case.now, Some(mac), None, Happening::UnknownArch { arch });
                None
            }
        }
    }

    pub(super) fn send(
        &self,
        case: &Case<'_>,
        reply: Packet,
        ip: Option<Ipv4Addr>,
        what: Happening,
    ) -> Outcome {
        let mac = case.machine.mac;
        let binl = case.via.port == BINL_PORT;
        let to = if binl {
            Destination::Unicast(case.via.source)
        } else {
            reply::destination(case.packet, &reply, mac)
        };
        let packet = reply.encode(reply::size_limit(case.packet));
        let reply = Reply {
            packet,
            to,
            from_port: case.via.port,
        };
        let event = Event {
            at: case.now.mono,
            mac: Some(mac),
            ip,
            what,
        };
        Outcome {
            reply: Some(reply),
            event: Some(event),
            ..Outcome::default()
        }
    }
}
