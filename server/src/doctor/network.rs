//! The interface, the ways to networks behind relays, and other DHCP servers.

use std::process::Command;

use pxe::dhcp::{FoundServer, OFFERS_WITHIN, find_servers};
use serde_json::Value;

use super::Finding;
use crate::config::{Config, DhcpMode};

/// What Ethernet carries, and all that firmware reckons with.
const MTU: u64 = 1500;

/// What `ip` tells as JSON; in this process's own network namespace, unlike /sys.
fn ip(arguments: &[&str]) -> Option<Value> {
    let output = Command::new("ip").arg("-j").args(arguments).output().ok()?;
    output.status.success().then_some(())?;
    serde_json::from_slice(&output.stdout).ok()
}

/// Whether the interface is up, has a carrier, its address, and a sensible MTU.
pub fn interface(config: &Config) -> Vec<Finding> {
    let name = &config.server.interface.value;
    let Some(found) = ip(&["address", "show", "dev", name]) else {
        // A missing interface is named by the configuration's own check.
        let message =
            format!("`ip address show dev {name}` fails: the interface cannot be looked at");
        return vec![Finding::warning(
            "interface",
            message,
            "apt install iproute2",
        )];
    };
    let link = &found[0];
    let mut findings = Vec::new();
    findings.extend(carrier(name, link));
    findings.extend(address(config, name, link));
    findings.extend(mtu(name, link["mtu"].as_u64().unwrap_or(0)));
    if findings.is_empty() {
        let address = config.server.address.value;
        let message = format!("{name} is up and has {address}");
        findings.push(Finding::ok("interface", message));
    }
    findings
}

fn carrier(name: &str, link: &Value) -> Option<Finding> {
    let flag = |flag: &str| {
        let flags = link["flags"].as_array();
        flags.is_some_and(|flags| flags.iter().any(|one| one == flag))
    };
    if !flag("UP") {
        let message = format!("{name} is switched off");
        return Some(Finding::bad(
            "interface",
            message,
            format!("ip link set {name} up"),
        ));
    }
    (!flag("LOWER_UP")).then(|| {
        let message = format!("{name} has no carrier");
        Finding::bad(
            "interface",
            message,
            "look at the cable and at the switch's port",
        )
    })
}

fn address(config: &Config, name: &str, link: &Value) -> Option<Finding> {
    let own = config.server.address.value;
    let has = |one: &Value| {
        one["local"] == own.addr().to_string() && one["prefixlen"] == own.prefix_len()
    };
    let there = link["addr_info"]
        .as_array()
        .is_some_and(|all| all.iter().any(has));
    (!there).then(|| {
        let message = format!("{name} does not have the address {own}");
        Finding::bad(
            "interface",
            message,
            format!("ip address add {own} dev {name}"),
        )
    })
}

fn mtu(name: &str, mtu: u64) -> Option<Finding> {
    let fix = format!("ip link set {name} mtu {MTU}");
    match mtu {
        MTU => None,
        0..MTU => Some(Finding::warning(
            "mtu",
            format!(
                "{name} carries packets of {mtu} bytes; where another on the way carries less, boot files hang"
            ),
            "right for a tunnel; otherwise ".to_owned() + &fix,
        )),
        _ => Some(Finding::warning(
            "mtu",
            format!(
                "{name} carries packets of {mtu} bytes; firmware and most switches take no more than {MTU}"
            ),
            fix,
        )),
    }
}

/// Whether the answers find their way to networks behind relays.
pub fn routes(config: &Config) -> Vec<Finding> {
    let relayed = config.dhcp.subnets.iter();
    let networks = relayed.map(|subnet| subnet.network.value.trunc());
    networks
        .map(|network| {
            let to = network.hosts().next().unwrap_or(network.addr()).to_string();
            let route = ip(&["route", "get", &to]);
            let gateway = route
                .as_ref()
                .and_then(|route| route[0]["gateway"].as_str());
            match gateway {
                Some(gateway) => {
                    Finding::ok("routes", format!("{network} is reached by {gateway}"))
                }
                None => Finding::bad(
                    "routes",
                    format!("there is no route to {network}: its machines get no answer"),
                    format!("ip route add {network} via THE-ROUTER-BETWEEN"),
                ),
            }
        })
        .collect()
}

/// Whether other DHCP servers answer. Ours does not hear this question.
pub fn other_servers(config: &Config) -> Vec<Finding> {
    let interface = &config.server.interface.value;
    let mode = config.dhcp.mode;
    let found = match find_servers(interface, rand::random(), OFFERS_WITHIN) {
        Ok(found) => found,
        Err(error) => {
            let error = anyhow::Error::from(error);
            let message = format!("other DHCP servers cannot be looked for: {error:#}");
            return vec![Finding::warning("dhcp", message, "run it as root")];
        }
    };
    let gives = |server: &&FoundServer| !server.offered.is_unspecified();
    let giving: Vec<_> = found.iter().filter(gives).collect();
    match (mode, giving.as_slice()) {
        (DhcpMode::Full, []) => vec![Finding::ok("dhcp", "no other DHCP server answers")],
        (DhcpMode::Full, servers) => servers.iter().map(|server| rival(server)).collect(),
        (_, []) => vec![Finding::bad(
            "dhcp",
            format!("no DHCP server answers on {interface}, and this one gives no addresses"),
            "start the site's server, or use mode = \"full\"",
        )],
        (_, [server, ..]) => {
            let message = format!("the DHCP server {} gives the addresses", server.server);
            vec![Finding::ok("dhcp", message)]
        }
    }
}

fn rival(found: &FoundServer) -> Finding {
    let message = format!(
        "another DHCP server, {}, answers on this network (it offers {})",
        found.server, found.offered
    );
    let fix = "stop it, or leave the addresses to it: mode = \"proxy\" in [dhcp]";
    Finding::bad("dhcp", message, fix)
}
