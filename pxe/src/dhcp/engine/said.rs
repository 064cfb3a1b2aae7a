//! What the log says only once, however often it happens.

use std::net::Ipv4Addr;

use tracing::{info, warn};

use super::{Case, Engine, Now};
use crate::dhcp::config::Subnet;
use crate::machine::Mac;
use crate::policy::Happening;

/// What the log says only once.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Said {
    NotServed(Mac),
    Exhausted(Ipv4Addr),
    UnknownArch(Mac),
    OtherServer(Ipv4Addr),
}

impl Engine {
    pub(super) fn not_served(&mut self, mac: Mac, reason: &str, now: Now) {
        if self.said.first(Said::NotServed(mac), now.mono) {
            info!(%mac, reason, "not serving this machine");
            self.tell(
                now,
                Some(mac),
                None,
                Happening::NotServed {
                    reason: reason.to_owned(),
                },
            );
        }
    }

    pub(super) fn exhausted(&mut self, mac: Mac, subnet: &Subnet, now: Now) {
        if self
            .said
            .first(Said::Exhausted(subnet.network.network()), now.mono)
        {
            warn!(%mac, network = %subnet.network, "no free address is left; widen the range or shorten the leases");
        }
        self.tell(now, Some(mac), None, Happening::Exhausted);
    }

    pub(super) fn other_server(&mut self, server: Ipv4Addr, case: &Case<'_>) {
        self.leases.withdraw(case.machine.mac);
        if self.said.first(Said::OtherServer(server), case.now.mono) {
            warn!(%server, mac = %case.machine.mac, "another DHCP server answers on this network, and machines take its addresses");
            self.tell(
                case.now,
                Some(case.machine.mac),
                None,
                Happening::OtherServer { server },
            );
        }
    }
}
