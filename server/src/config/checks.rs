//! Mistakes that show only when several parts of the configuration are held side by side.

use std::{collections::BTreeMap, net::Ipv4Addr, ops::Range};

use ipnet::Ipv4Net;

use super::{
    Client, Config, DhcpMode, Group, Settings, dhcp,
    exports::TlsMode,
    menu,
    problem::Problem,
    reader::{Located, nearest},
    units::AddressRange,
};

/// Adds what contradicts itself to `problems`.
pub fn check(config: &Config, problems: &mut Vec<Problem>) {
    check_server(config, problems);
    dhcp::check(config, problems);
    check_tls(config, problems);
    check_ranges(config, problems);
    check_clients(config, problems);
    check_patterns(config, problems);
    check_images(config, problems);
    check_menus(config, problems);
    super::exports::check(config, problems);
    super::standby::check(config, problems);
}

fn check_server(config: &Config, problems: &mut Vec<Problem>) {
    let address = &config.server.address;
    let network = address.value;
    if !is_host(network, network.addr()) {
        let message = format!(
            "{network} is not the address of a host in {}",
            network.trunc()
        );
        let fix = "write the server's own address with the prefix length: \"10.12.0.1/24\"";
        problems.push(Problem::at(address.span.clone(), message).fix(fix));
    }
    if config.dhcp.mode == DhcpMode::Full && all_ranges(config).is_empty() {
        let message = "[dhcp] has mode \"full\" but no range to give addresses from";
        let fix = "add to [dhcp]: range = \"10.12.0.100-10.12.0.199\", or mode = \"proxy\"";
        problems.push(Problem::at(config.server.address.span.clone(), message).fix(fix));
    }
    if config.server.http_port == config.server.nbd_port {
        let message = format!("http_port and nbd_port are both {}", config.server.nbd_port);
        problems.push(Problem::at(address.span.clone(), message).fix("give them different ports"));
    }
}

/// A machine's disk comes by the server's own listener, which does TLS for all or for none.
fn check_tls(config: &Config, problems: &mut Vec<Problem>) {
    let groups = config.groups.values().map(|group| &group.settings);
    let settings = groups.chain(config.clients.values().map(|client| &client.settings));
    for own in settings.filter_map(|settings| settings.tls.as_ref()) {
        let (message, fix) = match (config.server.tls.mode(), own.value) {
            (TlsMode::Off, TlsMode::On | TlsMode::Required) => {
                ("the server speaks no TLS", "add to [server]: tls = \"on\"")
            }
            (TlsMode::Required, TlsMode::Off | TlsMode::On) => (
                "the server serves nobody without TLS",
                "write tls = \"on\" in [server], and \"required\" where it is to be",
            ),
            _ => continue,
        };
        problems.push(Problem::at(own.span.clone(), message).fix(fix));
    }
}

/// Whether a machine of `network` can have `address`.
pub fn is_host(network: Ipv4Net, address: Ipv4Addr) -> bool {
    let edge = address == network.network() || address == network.broadcast();
    network.contains(&address) && (!edge || network.prefix_len() >= 31)
}

/// Every range: where it was written, the network that it must lie in if that is clear, and itself.
fn all_ranges(config: &Config) -> Vec<(String, Option<Ipv4Net>, &Located<AddressRange>)> {
    let home = config.server.address.value;
    let own = config.dhcp.own.ranges.iter();
    let own = own.map(|range| ("[dhcp]".to_owned(), Some(home), range));
    let relayed = config.dhcp.subnets.iter().flat_map(|subnet| {
        let network = subnet.network.value;
        let place = format!("the subnet {network}");
        let ranges = subnet.settings.ranges.iter();
        ranges.map(move |range| (place.clone(), Some(network), range))
    });
    let groups = config.groups.iter().flat_map(|(name, group)| {
        let ranges = group.ranges.iter();
        ranges.map(move |range| (format!("[groups.{name}]"), None, range))
    });
    own.chain(relayed).chain(groups).collect()
}

fn check_ranges(config: &Config, problems: &mut Vec<Problem>) {
    let ranges = all_ranges(config);
    for (index, (_, network, range)) in ranges.iter().enumerate() {
        check_range(config, *network, range, problems);
        let AddressRange { first, last } = range.value;
        for (other_place, _, other) in &ranges[..index] {
            if range.value.overlaps(&other.value) {
                let message = format!("range {first}-{last} overlaps the one of {other_place}");
                problems.push(Problem::at(range.span.clone(), message).fix("make them disjoint"));
            }
        }
    }
}

fn check_range(
    config: &Config,
    network: Option<Ipv4Net>,
    range: &Located<AddressRange>,
    problems: &mut Vec<Problem>,
) {
    let AddressRange { first, last } = range.value;
    let served = config.network_of(first).map(|(network, _)| network);
    let fits = |network: Ipv4Net| is_host(network, first) && is_host(network, last);
    if !network.or(served).is_some_and(fits) {
        let (message, fix) = outside(config, network, &format!("range {first}-{last}"));
        problems.push(Problem::at(range.span.clone(), message).fix(fix));
    } else if range.value.contains(config.server.ip()) {
        let message = format!(
            "range {first}-{last} holds the server's own address {}",
            config.server.ip()
        );
        problems.push(Problem::at(range.span.clone(), message).fix("leave it out of the range"));
    }
}

/// What to say of addresses that are not where they should be.
fn outside(config: &Config, network: Option<Ipv4Net>, what: &str) -> (String, String) {
    let home = config.server.address.value.trunc();
    let names = |network: Ipv4Net| match network.trunc() == home {
        true => format!("{home}, the network of server.address"),
        false => network.trunc().to_string(),
    };
    match network {
        Some(network) => (
            format!("{what} is outside the network {}", network.trunc()),
            format!("choose addresses in {}", names(network)),
        ),
        None if config.dhcp.subnets.is_empty() => (
            format!("{what} is outside the network {home}"),
            format!(
                "choose addresses in {}, or add [[dhcp.subnets]]",
                names(home)
            ),
        ),
        None => (
            format!("{what} is outside every network that is served"),
            "choose addresses in one of them, or add [[dhcp.subnets]]".into(),
        ),
    }
}

fn check_clients(config: &Config, problems: &mut Vec<Problem>) {
    let mut macs = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (name, client) in &config.clients {
        if let Some(other) = macs.insert(client.mac.value, name) {
            let message = format!(
                "clients `{other}` and `{name}` have the same mac {}",
                client.mac.value
            );
            let fix = "a machine is known by its MAC: remove one of the two";
            problems.push(Problem::at(client.mac.span.clone(), message).fix(fix));
        }
        if let Some(address) = &client.address {
            check_address(config, address, problems);
            if let Some(other) = addresses.insert(address.value, name) {
                let message = format!(
                    "clients `{other}` and `{name}` have the same address {}",
                    address.value
                );
                problems.push(Problem::at(address.span.clone(), message).fix("give each its own"));
            }
        }
        check_group_of(config, client, problems);
    }
}

fn check_address(config: &Config, address: &Located<Ipv4Addr>, problems: &mut Vec<Problem>) {
    let network = config.network_of(address.value).map(|(network, _)| network);
    if !network.is_some_and(|network| is_host(network, address.value)) {
        let (message, fix) = outside(config, network, &format!("address {}", address.value));
        problems.push(Problem::at(address.span.clone(), message).fix(fix));
    } else if address.value == config.server.ip() {
        let message = format!("address {} is the server's own", address.value);
        problems.push(Problem::at(address.span.clone(), message).fix("choose another address"));
    }
}

fn check_group_of(config: &Config, client: &Client, problems: &mut Vec<Problem>) {
    let Some(group) = &client.group else { return };
    if config.groups.contains_key(&group.value) {
        return;
    }
    let problem = Problem::at(
        group.span.clone(),
        format!("there is no group `{}`", group.value),
    );
    problems.push(
        match nearest(&group.value, config.groups.keys().map(String::as_str)) {
            Some(near) => problem.fix(format!("did you mean `{near}`?")),
            None => problem.fix(format!("add [groups.{}]", group.value)),
        },
    );
}

fn check_patterns(config: &Config, problems: &mut Vec<Problem>) {
    let patterns = |name, group: &'_ Group| -> Vec<_> {
        group
            .macs
            .iter()
            .cloned()
            .map(|macs| (String::clone(name), macs))
            .collect()
    };
    let all: Vec<_> = config
        .groups
        .iter()
        .flat_map(|(name, group)| patterns(name, group))
        .collect();
    for (index, (group, pattern)) in all.iter().enumerate() {
        let twin = all[..index]
            .iter()
            .find(|(_, other)| other.value.ambiguous_with(&pattern.value));
        if let Some((other, _)) = twin {
            let message = format!("groups `{other}` and `{group}` claim the same MAC addresses");
            let fix = "make one pattern longer: the most specific one wins";
            problems.push(Problem::at(pattern.span.clone(), message).fix(fix));
        }
    }
}

fn check_images(config: &Config, problems: &mut Vec<Problem>) {
    for (name, group) in &config.groups {
        let span = group
            .macs
            .first()
            .map_or(0..0, |pattern| pattern.span.clone());
        if !boots(&group.settings) && !group.macs.is_empty() {
            problems.push(no_image(&format!("groups.{name}"), span));
        }
    }
    for (name, client) in &config.clients {
        let of_group = || -> Option<bool> {
            let group = config.groups.get(&client.group.as_ref()?.value);
            group.map(|group| boots(&group.settings))
        };
        let by_group = of_group().unwrap_or(false) || in_a_pattern(config, client);
        if !boots(&client.settings) && !by_group {
            problems.push(no_image(
                &format!("clients.{name}"),
                client.mac.span.clone(),
            ));
        }
    }
}

/// Whether they name something to boot.
fn boots(settings: &Settings) -> bool {
    settings.image.is_some() || settings.menu.is_some()
}

fn check_menus(config: &Config, problems: &mut Vec<Problem>) {
    let groups = config.groups.values().map(|group| &group.settings);
    let clients = config.clients.values().map(|client| &client.settings);
    for settings in groups.chain(clients) {
        if let Some(found) = &settings.menu {
            menu::check(found, settings.retention, problems);
        }
    }
}

fn in_a_pattern(config: &Config, client: &Client) -> bool {
    let mut patterns = config.groups.values().flat_map(|group| &group.macs);
    patterns.any(|pattern| pattern.value.matches(client.mac.value))
}

fn no_image(place: &str, span: Range<usize>) -> Problem {
    Problem::at(span, format!("[{place}] names no image to boot"))
        .fix("add: image = \"debian\" (`bootroom image list` shows what there is), or a menu")
}
