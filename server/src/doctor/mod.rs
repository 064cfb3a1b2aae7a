//! `bootroom doctor`: looks at the host that serves a room, and says what would keep the machines from booting.
//!
//! Changes nothing. What it cannot look at is a warning, never a pass.

mod firewall;
mod host;
mod network;
mod pair;
mod ports;

use serde::Serialize;

use crate::{config::Config, control::standby::model::PairView};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It may be meant so, or could not be looked at.
    Warning,
    /// Machines will not boot, or not all of them.
    Bad,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `interface`, `ports`, `firewall`, …
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What was found.
    pub message: String,
    /// What to do about it.
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Finding {
            check,
            level: Level::Ok,
            message: message.into(),
            fix: None,
        }
    }

    fn warning(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding {
            level: Level::Warning,
            fix: Some(fix.into()),
            ..Finding::ok(check, message)
        }
    }

    fn bad(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Finding {
            level: Level::Bad,
            ..Finding::warning(check, message, fix)
        }
    }
}

/// The server that runs with this configuration, as far as its control socket tells.
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// Its process; none when nothing answers.
    pub pid: Option<u32>,
    /// What it says of the pair; none when it is alone, or nothing answers.
    pub pair: Option<PairView>,
}

/// Looks at everything.
pub fn examine(config: &Config, running: &Running) -> Vec<Finding> {
    let mut findings = host::privileges();
    findings.extend(host::configuration(config));
    findings.extend(network::interface(config));
    findings.extend(network::routes(config));
    findings.extend(network::other_servers(config));
    findings.extend(ports::check(config, running));
    findings.extend(pair::check(config, running));
    findings.extend(firewall::check(config));
    findings.extend(host::loaders(config));
    findings.extend(host::space(config));
    findings.extend(host::limits(config));
    findings.extend(host::clock(config));
    findings
}
