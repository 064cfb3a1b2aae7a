//! What the outer process decides and the inner one carries out.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// The image every machine of the demo boots.
pub const IMAGE: &str = "demo";
/// The image's root password. The room exists only inside its own namespace, so it need not be a secret.
pub const PASSWORD: &str = "bootroom";
/// The name of the bridge that joins the machines.
pub const BRIDGE: &str = "room0";
/// The server's address on the bridge.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// What runs a machine's processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// Emulation.
    Tcg,
    /// The processor's virtualisation, through `/dev/kvm`.
    Kvm,
}

impl Accel {
    /// The name QEMU knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }
}

/// How long a machine's overlay lasts; the two that a power cycle can tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Retention {
    /// Fresh at every power-on.
    Boot,
    /// Lasting.
    Keep,
}

impl Retention {
    /// The word the configuration uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Keep => "keep",
        }
    }
}

/// One machine of the room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desk {
    /// The client's name, which becomes its hostname.
    pub name: String,
    /// Its network card's address.
    pub mac: String,
    /// The tap device its network card is plugged into.
    pub tap: String,
    /// How long its overlay lasts.
    pub retention: Retention,
}

impl Desk {
    /// The machine with this number, counted from 1: odd ones start afresh at every boot, even ones keep their disk.
    pub fn number(n: u8) -> Self {
        let retention = if n % 2 == 1 {
            Retention::Boot
        } else {
            Retention::Keep
        };
        Self {
            name: format!("desk-{n}"),
            mac: format!("52:54:00:b0:07:{n:02x}"),
            tap: format!("tap{n}"),
            retention,
        }
    }
}

/// Everything the inner process needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The machines.
    pub desks: Vec<Desk>,
    /// Memory of each, in MiB.
    pub memory: u32,
    /// What runs their processors.
    pub accel: Accel,
    /// Whether to leave the room up after the checks.
    pub keep_running: bool,
    /// The server's data directory of this run; removed with it.
    pub data: PathBuf,
    /// Sockets, the configuration and this plan; removed with the run.
    pub run: PathBuf,
    /// Console transcripts and the server's log; kept until the next run.
    pub logs: PathBuf,
}

impl Plan {
    /// Where the server listens for `status`, `client list` and the like.
    pub fn control(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// Where the server's configuration is written.
    pub fn config(&self) -> PathBuf {
        self.run.join("bootroom.toml")
    }

    /// The socket of a machine's serial console.
    pub fn console(&self, desk: &Desk) -> PathBuf {
        self.run.join(format!("{}.console", desk.name))
    }

    /// Writes the plan where the inner process will read it, and says where that is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self) -> anyhow::Result<PathBuf> {
        let path = self.run.join("plan.json");
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Reads a plan back.
    ///
    /// # Errors
    /// The file cannot be read, or is no plan.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a demo plan", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desks_have_distinct_addresses_and_alternate_retention() {
        let desks: Vec<Desk> = (1..=16).map(Desk::number).collect();
        let macs: std::collections::HashSet<&str> = desks.iter().map(|d| d.mac.as_str()).collect();
        assert_eq!(macs.len(), desks.len());
        assert_eq!(desks[0].retention, Retention::Boot);
        assert_eq!(desks[1].retention, Retention::Keep);
        assert_eq!(desks[15].mac, "52:54:00:b0:07:10");
    }

    #[test]
    fn a_saved_plan_reads_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            desks: vec![Desk::number(1)],
            memory: 512,
            accel: Accel::Tcg,
            keep_running: true,
            data: "/d".into(),
            run: dir.path().into(),
            logs: "/l".into(),
        };
        let read = Plan::load(&plan.save().unwrap()).unwrap();
        assert_eq!(read.desks, plan.desks);
        assert_eq!(
            (read.memory, read.accel, read.keep_running),
            (512, Accel::Tcg, true)
        );
        assert_eq!(read.control(), dir.path().join("control.sock"));
    }
}
