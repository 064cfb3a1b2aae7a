//! `[dhcp]` and `[[dhcp.subnets]]`: which networks get addresses, and what their machines are told.

use std::{net::Ipv4Addr, str::FromStr, time::Duration};

use bytes::Bytes;
use ipnet::Ipv4Net;
use pxe::{
    DhcpOption,
    dhcp::{Range, Subnet as PxeSubnet},
};

use super::{
    Config,
    checks::is_host,
    problem::Problem,
    reader::{Located, Section},
    units::{AddressRange, BadValue, Seconds},
};

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
    /// The server's own network; what it says of DNS, NTP, domain, lease and options also counts for the others.
    pub own: Network,
    /// Networks behind relays.
    pub subnets: Vec<Subnet>,
}

/// What the machines of a network get.
#[derive(Debug, Clone, Default)]
pub struct Network {
    /// Addresses to give out.
    pub ranges: Vec<Located<AddressRange>>,
    /// Addresses in the ranges that are not given out.
    pub exclude: Vec<Located<AddressRange>>,
    /// How long a lease lasts; twelve hours if none.
    pub lease: Option<Seconds>,
    /// Default router.
    pub router: Option<Located<Ipv4Addr>>,
    /// DNS servers.
    pub dns: Vec<Ipv4Addr>,
    /// NTP servers.
    pub ntp: Vec<Ipv4Addr>,
    /// Domain name.
    pub domain: Option<String>,
    /// Further options.
    pub options: Vec<DhcpOption>,
}

/// One of `[[dhcp.subnets]]`.
#[derive(Debug, Clone)]
pub struct Subnet {
    /// Its addresses.
    pub network: Located<Ipv4Net>,
    /// What its machines get.
    pub settings: Network,
}

impl Network {
    /// The same, with what it does not say taken from `own`. A router belongs to one network only.
    fn inheriting(&self, own: &Self) -> Self {
        let either = |mine: &Vec<Ipv4Addr>, other: &Vec<Ipv4Addr>| match mine.is_empty() {
            true => other.clone(),
            false => mine.clone(),
        };
        let mine = |option: &DhcpOption| self.options.iter().any(|o| o.code == option.code);
        let inherited = own.options.iter().filter(|option| !mine(option));
        Network {
            lease: self.lease.or(own.lease),
            dns: either(&self.dns, &own.dns),
            ntp: either(&self.ntp, &own.ntp),
            domain: self.domain.clone().or_else(|| own.domain.clone()),
            options: self.options.iter().chain(inherited).cloned().collect(),
            ..self.clone()
        }
    }
}

impl Config {
    /// Every network that is served, the server's own first.
    pub fn networks(&self) -> impl Iterator<Item = (Ipv4Net, Network)> + '_ {
        let own = &self.dhcp.own;
        let relayed = self.dhcp.subnets.iter();
        let relayed = relayed.map(|one| (one.network.value.trunc(), one.settings.inheriting(own)));
        std::iter::once((self.server.address.value.trunc(), own.clone())).chain(relayed)
    }

    /// The network that `address` is on, if it is one that is served.
    pub fn network_of(&self, address: Ipv4Addr) -> Option<(Ipv4Net, Network)> {
        self.networks()
            .find(|(network, _)| network.contains(&address))
    }

    /// The networks as the DHCP service wants them: the ranges of groups are where their addresses are, and what is
    /// reserved for a machine is given to no other.
    pub fn pxe_subnets(&self) -> Vec<PxeSubnet> {
        let networks = self.networks();
        networks
            .map(|(network, settings)| pxe_subnet(self, network, settings))
            .collect()
    }
}

fn pxe_subnet(config: &Config, network: Ipv4Net, settings: Network) -> PxeSubnet {
    let mut subnet = PxeSubnet::new(network);
    let range = |name: Option<&String>, range: &Located<AddressRange>| Range {
        name: name.cloned(),
        first: range.value.first,
        last: range.value.last,
    };
    let groups = config.groups.iter();
    let of_groups = groups.flat_map(|(name, g)| g.ranges.iter().map(move |r| range(Some(name), r)));
    let own = settings.ranges.iter().map(|r| range(None, r));
    let here = |range: &Range| network.contains(&range.first);
    subnet.ranges = own.chain(of_groups.filter(here)).collect();
    let clients = config.clients.values();
    let reserved = clients.filter_map(|client| client.address.as_ref());
    let reserved = reserved.map(|address| Range::new(address.value, address.value));
    let excluded = settings.exclude.iter().map(|r| range(None, r));
    subnet.exclude = excluded.chain(reserved).collect();
    subnet.routers = settings.router.iter().map(|router| router.value).collect();
    subnet.dns = settings.dns;
    subnet.ntp = settings.ntp;
    subnet.domain = settings.domain;
    subnet.options = settings.options;
    if let Some(lease) = settings.lease {
        subnet.lease_time = Duration::from_secs(lease.0.into());
    }
    subnet
}

/// Reads `[dhcp]`.
pub fn read(mut section: Section<'_>, problems: &mut Vec<Problem>) -> Dhcp {
    let mode = section.optional("mode", problems);
    let own = read_network(&mut section, problems);
    let mut subnets = Vec::new();
    for mut section in section.array("subnets", problems) {
        let network = section.required("network", "\"10.13.0.0/24\"", problems);
        let settings = read_network(&mut section, problems);
        section.finish(problems);
        subnets.extend(network.map(|network| Subnet { network, settings }));
    }
    section.finish(problems);
    Dhcp {
        mode: mode.map(|located| located.value).unwrap_or_default(),
        own,
        subnets,
    }
}

fn read_network(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Network {
    let values = |list: Vec<Located<Ipv4Addr>>| list.into_iter().map(|one| one.value).collect();
    Network {
        ranges: section.some("range", problems),
        exclude: section
            .some::<Span>("exclude", problems)
            .into_iter()
            .map(Span::located)
            .collect(),
        lease: section.optional("lease", problems).map(|l| l.value),
        router: section.optional("router", problems),
        dns: values(section.some("dns", problems)),
        ntp: values(section.some("ntp", problems)),
        domain: section.optional("domain", problems).map(|l| l.value),
        options: read_options(section, problems),
    }
}

/// One address, or a range of them.
struct Span(AddressRange);

impl Span {
    fn located(located: Located<Self>) -> Located<AddressRange> {
        Located {
            value: located.value.0,
            span: located.span,
        }
    }
}

impl FromStr for Span {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let one = text.parse().map(|address| AddressRange {
            first: address,
            last: address,
        });
        one.or_else(|_| text.parse()).map(Span)
    }
}

/// Options that the server sets by itself: whatever the configuration says would break the exchange.
const OWN: [u8; 10] = [0, 50, 51, 52, 53, 54, 55, 61, 82, 255];

/// Reads the table `options` of a section: numbers, each with a value of a named type.
pub fn read_options(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Vec<DhcpOption> {
    let Some(table) = section.table("options", problems) else {
        return Vec::new();
    };
    let mut options = Vec::new();
    for (key, value) in table.pairs(problems) {
        let code = key.value.parse().ok().filter(|code| !OWN.contains(code));
        let parsed = value.value.parse::<OptionValue>();
        if code.is_none() {
            let message = format!("`{}` is no DHCP option that can be set", key.value);
            let fix =
                "an option is its number, 1 to 254; the server itself sets 50 to 55, 61 and 82";
            problems.push(Problem::at(key.span, message).fix(fix));
        }
        match (code, parsed) {
            (Some(code), Ok(OptionValue(value))) => options.push(DhcpOption { code, value }),
            (_, Err(error)) => problems.push(Problem::at(value.span, error.to_string())),
            (None, Ok(_)) => {}
        }
    }
    options
}

/// The bytes of an option, written as `TYPE:VALUE`.
struct OptionValue(Bytes);

impl FromStr for OptionValue {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (kind, value) = text.split_once(':').unwrap_or_default();
        let bytes: Option<Vec<u8>> = match kind {
            "text" => Some(value.as_bytes().to_vec()),
            "ip" => addresses(value),
            "hex" => hex(value),
            "u8" => value.parse::<u8>().ok().map(|n| vec![n]),
            "u16" => value.parse::<u16>().ok().map(|n| n.to_be_bytes().to_vec()),
            "u32" => value.parse::<u32>().ok().map(|n| n.to_be_bytes().to_vec()),
            _ => None,
        };
        let bytes = bytes.filter(|bytes| !bytes.is_empty() && bytes.len() <= LONGEST_OPTION);
        bytes.map(|bytes| OptionValue(bytes.into())).ok_or_else(|| {
            BadValue(format!(
                "`{text}` is no option value: write \"ip:10.12.0.1,10.12.0.2\", \"text:…\", \"hex:01:0a:ff\", \"u8:1\", \
                 \"u16:1400\" or \"u32:3600\""
            ))
        })
    }
}

/// What fits into a packet beside what must be there, in bytes.
const LONGEST_OPTION: usize = 510;

fn addresses(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for address in text.split(',') {
        bytes.extend(address.trim().parse::<Ipv4Addr>().ok()?.octets());
    }
    Some(bytes)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .filter(|c| !matches!(c, ':' | ' '))
        .map(|c| c.to_digit(16))
        .collect::<Option<_>>()?;
    let pairs = digits.chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => u8::try_from(high << 4 | low).ok(),
            _ => None,
        })
        .collect()
}

/// Adds what contradicts itself in the networks.
pub fn check(config: &Config, problems: &mut Vec<Problem>) {
    let mut seen = vec![config.server.address.value.trunc()];
    for subnet in &config.dhcp.subnets {
        let network = subnet.network.value.trunc();
        let overlapping = |other: &&Ipv4Net| other.contains(&network) || network.contains(*other);
        if let Some(other) = seen.iter().find(overlapping) {
            let message = format!("network {network} overlaps {other}");
            let fix =
                "every network is written once; the server's own is the one of server.address";
            problems.push(Problem::at(subnet.network.span.clone(), message).fix(fix));
        }
        seen.push(network);
        check_router(network, &subnet.settings, problems);
        check_exclude(network, &subnet.settings, problems);
    }
    let own = config.server.address.value.trunc();
    check_router(own, &config.dhcp.own, problems);
    check_exclude(own, &config.dhcp.own, problems);
    check_mode(config, problems);
}

fn check_router(network: Ipv4Net, settings: &Network, problems: &mut Vec<Problem>) {
    let Some(router) = &settings.router else {
        return;
    };
    if !is_host(network, router.value) {
        let message = format!("router {} is outside the network {network}", router.value);
        let fix =
            "machines reach their router without a router: choose its address on this network";
        problems.push(Problem::at(router.span.clone(), message).fix(fix));
    }
}

fn check_exclude(network: Ipv4Net, settings: &Network, problems: &mut Vec<Problem>) {
    let outside = |one: &&Located<AddressRange>| {
        !network.contains(&one.value.first) || !network.contains(&one.value.last)
    };
    for range in settings.exclude.iter().filter(outside) {
        let message = format!("exclude lies outside the network {network}");
        let fix = "write it beside the range that it takes addresses from";
        problems.push(Problem::at(range.span.clone(), message).fix(fix));
    }
}

/// A range or an address that nobody will ever be given is a misunderstanding.
fn check_mode(config: &Config, problems: &mut Vec<Problem>) {
    if config.dhcp.mode == DhcpMode::Full {
        return;
    }
    let relayed = config.dhcp.subnets.iter();
    let ranges = relayed.flat_map(|subnet| &subnet.settings.ranges);
    for range in config.dhcp.own.ranges.iter().chain(ranges) {
        let message = "a range to give addresses from, but mode is not \"full\"";
        let fix =
            "remove the range (the site's own server gives the addresses), or the line mode = …";
        problems.push(Problem::at(range.span.clone(), message).fix(fix));
    }
}

impl FromStr for DhcpMode {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        match text {
            "full" => Ok(DhcpMode::Full),
            "proxy" => Ok(DhcpMode::Proxy),
            "off" => Ok(DhcpMode::Off),
            _ => Err(BadValue(format!(
                "`{text}`: use \"full\", \"proxy\" or \"off\""
            ))),
        }
    }
}
