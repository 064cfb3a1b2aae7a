//! What the DHCP service is told.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;

use crate::error::{Error, ErrorKind, Result};
use crate::machine::Arch;
use crate::policy::DhcpOption;

/// How to serve beside other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Gives addresses and boot files: the only DHCP server of its networks.
    #[default]
    Full,
    /// Gives boot files only, beside the site's own DHCP server (proxyDHCP, PXE specification 2.1 §2.2).
    Proxy,
}

/// Addresses from `first` to `last`, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// A name by which [`crate::Identity::range`] chooses it; none: for everyone who chooses none.
    pub name: Option<String>,
    /// The lowest address.
    pub first: Ipv4Addr,
    /// The highest address.
    pub last: Ipv4Addr,
}

impl Range {
    /// An unnamed range.
    pub fn new(first: Ipv4Addr, last: Ipv4Addr) -> Self {
        Self {
            name: None,
            first,
            last,
        }
    }

    /// Whether `address` lies in it.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// How many addresses it spans.
    pub fn size(&self) -> u32 {
        u32::from(self.last)
            .saturating_sub(u32::from(self.first))
            .saturating_add(1)
    }
}

/// One network that is served: the server's own segment, or one behind a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subnet {
    /// The network, in the form 10.12.0.0/24.
    pub network: Ipv4Net,
    /// Where addresses are taken from, in this order.
    pub ranges: Vec<Range>,
    /// Addresses inside the ranges that are not given out from them. Put every client's reserved address here: it is
    /// still given to the client whose [`crate::Identity::address`] it is.
    pub exclude: Vec<Range>,
    /// Default routers (option 3).
    pub routers: Vec<Ipv4Addr>,
    /// DNS servers (option 6).
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers (option 42).
    pub ntp: Vec<Ipv4Addr>,
    /// Domain name (option 15).
    pub domain: Option<String>,
    /// Further options.
    pub options: Vec<DhcpOption>,
    /// How long a lease lasts.
    pub lease_time: Duration,
}

impl Subnet {
    /// A subnet without ranges or options, with leases of twelve hours.
    pub fn new(network: Ipv4Net) -> Self {
        Self {
            network: network.trunc(),
            ranges: Vec::new(),
            exclude: Vec::new(),
            routers: Vec::new(),
            dns: Vec::new(),
            ntp: Vec::new(),
            domain: None,
            options: Vec::new(),
            lease_time: Duration::from_secs(12 * 3600),
        }
    }

    /// Whether `address` may be given to a machine at all: inside the network, and neither its name nor its broadcast.
    pub fn is_host(&self, address: Ipv4Addr) -> bool {
        let edge = address == self.network.network() || address == self.network.broadcast();
        self.network.contains(&address) && (!edge || self.network.prefix_len() >= 31)
    }

    fn check(&self) -> Result<()> {
        let wrong = |text: String| Err(Error::new(ErrorKind::Config, text));
        for range in &self.ranges {
            if range.first > range.last {
                return wrong(format!(
                    "range {}-{} runs backwards",
                    range.first, range.last
                ));
            }
            if !self.is_host(range.first) || !self.is_host(range.last) {
                return wrong(format!(
                    "range {}-{} leaves the network {}",
                    range.first, range.last, self.network
                ));
            }
        }
        for (i, a) in self.ranges.iter().enumerate() {
            if let Some(b) = self.ranges[..i]
                .iter()
                .find(|b| a.first <= b.last && b.first <= a.last)
            {
                return wrong(format!(
                    "ranges {}-{} and {}-{} overlap",
                    b.first, b.last, a.first, a.last
                ));
            }
        }
        if self.lease_time < Duration::from_secs(60) {
            return wrong(format!(
                "lease time of {:?} on {}: at least a minute is needed",
                self.lease_time, self.network
            ));
        }
        Ok(())
    }
}

/// What [`super::Dhcp::bind`] is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DhcpConfig {
    /// The one interface to listen on.
    pub interface: String,
    /// The server's address on it: server identifier, TFTP server, and `siaddr`.
    pub server: Ipv4Addr,
    /// Full or beside another server.
    pub mode: Mode,
    /// The networks served, the one of `server` and those behind relays. In proxy mode it may be empty.
    pub subnets: Vec<Subnet>,
    /// Whether to refuse (NAK) addresses that were never given out here. Right for the only server of a network.
    pub authoritative: bool,
    /// How long to wait for an answer from an address that was never given out before, before it is offered.
    /// Zero: never probe.
    pub probe: Duration,
    /// The base of the loaders' URLs for UEFI HTTP boot: `http://SERVER:PORT/` of this server's HTTP service.
    pub http_base: String,
    /// Loader paths that replace the built-in ones, by architecture.
    pub loaders: Vec<(Arch, String)>,
}

impl DhcpConfig {
    /// Full mode on one network, authoritative, with a probe of a quarter second.
    pub fn full(interface: impl Into<String>, server: Ipv4Addr, subnet: Subnet) -> Self {
        Self {
            interface: interface.into(),
            server,
            mode: Mode::Full,
            subnets: vec![subnet],
            authoritative: true,
            probe: Duration::from_millis(250),
            http_base: format!("http://{server}/"),
            loaders: Vec::new(),
        }
    }

    /// Proxy mode: boot files only.
    pub fn proxy(interface: impl Into<String>, server: Ipv4Addr) -> Self {
        Self {
            interface: interface.into(),
            server,
            mode: Mode::Proxy,
            subnets: Vec::new(),
            authoritative: false,
            probe: Duration::ZERO,
            http_base: format!("http://{server}/"),
            loaders: Vec::new(),
        }
    }

    /// Says what contradicts itself.
    pub fn check(&self) -> Result<()> {
        for subnet in &self.subnets {
            subnet.check()?;
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.subnets.iter().find(|s| !seen.insert(s.network)) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("network {} is given twice", twice.network),
            ));
        }
        let own = self
            .subnets
            .iter()
            .any(|s| s.network.contains(&self.server));
        if self.mode == Mode::Full && !own {
            let text = format!(
                "server address {} lies in none of the networks served",
                self.server
            );
            return Err(Error::new(ErrorKind::Config, text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ranges: &[(&str, &str)]) -> Result<()> {
        let mut subnet = Subnet::new("10.0.0.0/24".parse().unwrap());
        subnet.ranges = ranges
            .iter()
            .map(|(a, b)| Range::new(a.parse().unwrap(), b.parse().unwrap()))
            .collect();
        DhcpConfig::full("eth0", "10.0.0.1".parse().unwrap(), subnet).check()
    }

    #[test]
    fn contradictions_are_named() {
        assert!(config(&[("10.0.0.10", "10.0.0.20"), ("10.0.0.21", "10.0.0.30")]).is_ok());
        for (ranges, word) in [
            (&[("10.0.0.20", "10.0.0.10")][..], "backwards"),
            (&[("10.0.0.20", "10.0.1.10")][..], "leaves"),
            (&[("10.0.0.0", "10.0.0.10")][..], "leaves"),
            (
                &[("10.0.0.10", "10.0.0.20"), ("10.0.0.20", "10.0.0.30")][..],
                "overlap",
            ),
        ] {
            let error = config(ranges).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    #[test]
    fn the_server_must_be_at_home() {
        let subnet = Subnet::new("10.0.0.0/24".parse().unwrap());
        let error = DhcpConfig::full("eth0", "10.0.1.1".parse().unwrap(), subnet)
            .check()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(
            DhcpConfig::proxy("eth0", "10.0.1.1".parse().unwrap())
                .check()
                .is_ok()
        );
    }
}
