//! Whether nftables lets in what machines send. Rules of iptables are seen too, as far as they are kept there.
//!
//! Every chain that hangs on the input hook is walked as a new packet to each port would walk it (nft(8); the JSON is
//! that of libnftables-json(5)). A condition that is not understood, or that depends on who sends, may hold or not.

use std::process::Command;

use serde_json::Value;

use super::{
    Finding,
    ports::{self, Port, Transport},
};
use crate::config::Config;

/// Chains that jump to one another deeper than this are not followed; the kernel's own limit.
const DEPTH: u8 = 16;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Passes,
    /// Some rule may let it in, or keep it out.
    Unsure,
    Dropped,
}

/// Whether a condition holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Yes,
    No,
    Maybe,
}

/// Holds the rules against every port that this configuration needs.
pub fn check(config: &Config) -> Vec<Finding> {
    let rules = match listing() {
        Ok(rules) => rules,
        Err(message) => {
            let fix = "as root, and with the package nftables: nft list ruleset";
            return vec![Finding::warning("firewall", message, fix)];
        }
    };
    let interface = &config.server.interface.value;
    let ports = ports::needed(config);
    let findings: Vec<_> = ports
        .iter()
        .filter_map(|port| finding(&rules, interface, *port))
        .collect();
    match findings.is_empty() {
        true => vec![Finding::ok("firewall", "nothing here keeps machines out")],
        false => findings,
    }
}

fn listing() -> Result<Vec<Value>, String> {
    let failed = |why: String| format!("the firewall cannot be looked at: {why}");
    let output = Command::new("nft")
        .args(["-j", "list", "ruleset"])
        .output()
        .map_err(|error| failed(format!("nft: {error}")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.trim().to_owned()));
    }
    objects(&output.stdout).ok_or_else(|| failed("nft says what is not understood".into()))
}

fn objects(json: &[u8]) -> Option<Vec<Value>> {
    let mut listing: Value = serde_json::from_slice(json).ok()?;
    match listing["nftables"].take() {
        Value::Array(objects) => Some(objects),
        _ => None,
    }
}

fn finding(rules: &[Value], interface: &str, port: Port) -> Option<Finding> {
    let rule = match port.transport {
        Transport::Udp => format!("udp dport {}", port.number),
        Transport::Tcp => format!("tcp dport {}", port.number),
    };
    let look = "nft list ruleset shows the rules of the input hook";
    match fate(rules, interface, port) {
        Fate::Passes => None,
        Fate::Unsure => Some(Finding::warning(
            "firewall",
            format!("{port} comes in under conditions only, which machines may not meet"),
            look,
        )),
        Fate::Dropped => Some(Finding::bad(
            "firewall",
            format!("the firewall drops {port}"),
            format!("let it in with iifname \"{interface}\" {rule} accept; {look}"),
        )),
    }
}

/// The worst that any chain on the input hook does.
fn fate(rules: &[Value], interface: &str, port: Port) -> Fate {
    let walk = Walk {
        rules,
        interface,
        port,
    };
    let chains = rules.iter().filter_map(|object| object.get("chain"));
    let inputs = chains.filter(|chain| chain["hook"] == "input" && walk.sees(chain));
    let fates = inputs.map(|chain| walk.base_chain(chain));
    fates.max().unwrap_or(Fate::Passes)
}

struct Walk<'a> {
    rules: &'a [Value],
    interface: &'a str,
    port: Port,
}

impl Walk<'_> {
    fn sees(&self, chain: &Value) -> bool {
        chain["family"] == "inet" || chain["family"] == "ip"
    }

    fn base_chain(&self, chain: &Value) -> Fate {
        let (mut may_pass, mut may_drop) = (false, false);
        let end = self.chain(chain, &chain["name"], DEPTH, &mut may_pass, &mut may_drop);
        let drops = end.unwrap_or(chain["policy"] == "drop");
        match drops {
            true if may_pass => Fate::Unsure,
            true => Fate::Dropped,
            false if may_drop => Fate::Unsure,
            false => Fate::Passes,
        }
    }

    /// Whether the packet is dropped; nothing when it comes out at the chain's end.
    fn chain(
        &self,
        of: &Value,
        name: &Value,
        depth: u8,
        may_pass: &mut bool,
        may_drop: &mut bool,
    ) -> Option<bool> {
        let rules = self.rules.iter().filter_map(|object| object.get("rule"));
        let own = rules.filter(|rule| {
            rule["chain"] == *name && rule["table"] == of["table"] && rule["family"] == of["family"]
        });
        for rule in own {
            let Some(statements) = rule["expr"].as_array() else {
                continue;
            };
            let holds = self.holds(of, statements);
            let Some((verdict, detail)) = verdict(statements).filter(|_| holds != Holds::No) else {
                continue;
            };
            let outcome = match verdict {
                "accept" => Some(false),
                "drop" | "reject" => Some(true),
                "return" if holds == Holds::Yes => return None,
                // It may have left the chain here, past everything below.
                "return" => {
                    (*may_pass, *may_drop) = (true, true);
                    None
                }
                _ if depth > 0 => self.chain(of, &detail["target"], depth - 1, may_pass, may_drop),
                _ => None,
            };
            match (outcome, holds) {
                (Some(_), Holds::Yes) => return outcome,
                (Some(drops), _) if drops => *may_drop = true,
                (Some(_), _) => *may_pass = true,
                (None, _) => {}
            }
        }
        None
    }

    fn holds(&self, of: &Value, statements: &[Value]) -> Holds {
        let conditions = statements
            .iter()
            .filter(|statement| statement.get("match").is_some() || statement.get("xt").is_some());
        let mut all = Holds::Yes;
        for condition in conditions {
            match self.condition(of, &condition["match"]) {
                Holds::No => return Holds::No,
                Holds::Maybe => all = Holds::Maybe,
                Holds::Yes => {}
            }
        }
        all
    }

    fn condition(&self, of: &Value, condition: &Value) -> Holds {
        let (left, right) = (&condition["left"], &condition["right"]);
        let found = if let Some(key) = left["meta"]["key"].as_str() {
            self.meta(of, key, right)
        } else if left["payload"]["field"] == "dport" {
            let protocol = &left["payload"]["protocol"];
            let here = *protocol == self.transport() || *protocol == "th";
            match here {
                true => self.contains(of, right, &self.port.number.into()),
                false => Holds::No,
            }
        } else if left["ct"]["key"] == "state" {
            self.contains(of, right, &"new".into())
        } else {
            Holds::Maybe
        };
        match (condition["op"].as_str(), found) {
            (Some("!="), Holds::Yes) => Holds::No,
            (Some("!="), Holds::No) => Holds::Yes,
            (Some("==" | "in" | "!="), found) => found,
            _ => Holds::Maybe,
        }
    }

    fn meta(&self, of: &Value, key: &str, right: &Value) -> Holds {
        match key {
            "iif" | "iifname" => self.contains(of, right, &self.interface.into()),
            "l4proto" => self.contains(of, right, &self.transport().into()),
            "nfproto" => self.contains(of, right, &"ipv4".into()),
            _ => Holds::Maybe,
        }
    }

    fn transport(&self) -> &'static str {
        match self.port.transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        }
    }

    /// Whether `wanted` is what `right` says, or among it.
    fn contains(&self, of: &Value, right: &Value, wanted: &Value) -> Holds {
        let any = |values: &[Value]| {
            let each = values.iter().map(|one| self.contains(of, one, wanted));
            each.fold(Holds::No, |found, one| match (found, one) {
                (Holds::Yes, _) | (_, Holds::Yes) => Holds::Yes,
                (Holds::Maybe, _) | (_, Holds::Maybe) => Holds::Maybe,
                _ => Holds::No,
            })
        };
        match right {
            Value::Array(values) => any(values),
            Value::Object(object) => match (object.get("set"), object.get("range")) {
                (Some(Value::Array(values)), _) => any(values),
                (Some(one), _) => self.contains(of, one, wanted),
                (_, Some(range)) => within(range, wanted),
                _ => Holds::Maybe,
            },
            Value::String(name) if name.starts_with('@') => match self.set(of, &name[1..]) {
                Some(values) => any(values),
                None => Holds::Maybe,
            },
            Value::String(pattern) if pattern.ends_with('*') => {
                let start = &pattern[..pattern.len() - 1];
                sure(wanted.as_str().is_some_and(|name| name.starts_with(start)))
            }
            plain => sure(plain == wanted),
        }
    }

    /// The elements of a named set, if it has any that are written down.
    fn set(&self, of: &Value, name: &str) -> Option<&[Value]> {
        let mut sets = self.rules.iter().filter_map(|object| object.get("set"));
        let set = sets.find(|set| {
            set["name"] == name && set["table"] == of["table"] && set["family"] == of["family"]
        })?;
        set["elem"].as_array().map(Vec::as_slice)
    }
}

fn sure(holds: bool) -> Holds {
    if holds { Holds::Yes } else { Holds::No }
}

fn within(range: &Value, wanted: &Value) -> Holds {
    match (range[0].as_u64(), range[1].as_u64(), wanted.as_u64()) {
        (Some(first), Some(last), Some(wanted)) => sure((first..=last).contains(&wanted)),
        _ => Holds::Maybe,
    }
}

/// What a rule does in the end, with its detail.
fn verdict(statements: &[Value]) -> Option<(&str, &Value)> {
    const VERDICTS: [&str; 6] = ["accept", "drop", "reject", "return", "jump", "goto"];
    let mut found = statements.iter().filter_map(|statement| {
        let (name, detail) = statement.as_object()?.iter().next()?;
        VERDICTS
            .contains(&name.as_str())
            .then_some((name.as_str(), detail))
    });
    found.next()
}

#[cfg(test)]
mod tests {
    use std::{io::Write, process::Stdio};

    use super::*;

    const RULES: &str = r#"
table inet filter {
    set boot { type inet_service; flags interval; elements = { 69, 4011, 8000-8080 } }
    chain web { tcp dport 80-90 accept; return; }
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        iifname "lan*" udp dport { 67, 68 } accept
        udp dport @boot accept
        tcp dport 10809 drop
        ip saddr 10.0.0.0/8 tcp dport 443 accept
        jump web
    }
}
table ip6 other {
    chain input { type filter hook input priority 0; policy drop; }
}
"#;

    /// The rules as nft itself reads and prints them; in a network namespace of their own.
    fn listed(rules: &str) -> Vec<Value> {
        let mut nft = Command::new("unshare")
            .args(["--net", "sh", "-c", "nft -f - && nft -j list ruleset"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare and nft run (packages util-linux and nftables, as root)");
        let mut input = nft.stdin.take().unwrap();
        input.write_all(rules.as_bytes()).unwrap();
        drop(input);
        let output = nft.wait_with_output().unwrap();
        assert!(output.status.success(), "nft takes the rules");
        objects(&output.stdout).unwrap()
    }

    fn of(rules: &[Value], interface: &str, transport: Transport, number: u16) -> Fate {
        let name = "test";
        let port = Port {
            name,
            transport,
            number,
        };
        fate(rules, interface, port)
    }

    #[test]
    fn chains_are_walked_as_a_packet_walks_them() {
        use Fate::{Dropped, Passes, Unsure};
        use Transport::{Tcp, Udp};
        let rules = listed(RULES);
        for (interface, transport, number, wanted) in [
            ("lan0", Udp, 67, Passes),
            ("wan0", Udp, 67, Dropped),
            ("lan0", Tcp, 67, Dropped),
            ("wan0", Udp, 69, Passes),
            ("wan0", Udp, 8001, Passes),
            ("lan0", Tcp, 80, Passes),
            ("lan0", Tcp, 91, Dropped),
            ("lan0", Tcp, 10809, Dropped),
            ("lan0", Tcp, 443, Unsure),
            ("lo", Tcp, 10809, Passes),
        ] {
            let found = of(&rules, interface, transport, number);
            assert_eq!(found, wanted, "{interface} {transport:?} {number}");
        }
        assert_eq!(of(&[], "lan0", Udp, 67), Passes);
    }

    #[test]
    fn a_port_that_is_dropped_comes_with_the_rule_that_mends_it() {
        let rules = listed(RULES);
        let port = Port {
            name: "NBD",
            transport: Transport::Tcp,
            number: 10809,
        };
        let found = finding(&rules, "lan0", port).unwrap();
        let fix = found.fix.unwrap();
        assert!(
            fix.contains("iifname \"lan0\" tcp dport 10809 accept"),
            "{fix}"
        );
    }
}
