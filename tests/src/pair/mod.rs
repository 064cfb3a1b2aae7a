//! A pair of servers with its witness and machines, each a process in a network of its own, all plugged into one switch:
//! A is 10.80.0.1, B 10.80.0.2, the witness 10.80.0.9, machines have leases from 10.80.0.100 on.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::binary;
use crate::deadline::wait_for;
use crate::namespace::Namespace;
use crate::site::cable;

pub mod disk;
pub mod guest;
pub mod held;
pub mod host;
pub mod image;
pub mod line;
pub mod seat;
pub mod witness;

use disk::Disk;
use host::Host;
use seat::Seat;
use witness::Witness;

/// How long anything of the pair may take: a failover, a resync of a small disk.
pub const LIMIT: Duration = Duration::from_secs(30);

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one with the lower address.
    A,
    /// The other.
    B,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Its port of the switch.
    fn port(self) -> &'static str {
        match self {
            Self::A => "server-a",
            Self::B => "server-b",
        }
    }

    /// Its address.
    pub fn address(self) -> &'static str {
        match self {
            Self::A => "10.80.0.1",
            Self::B => "10.80.0.2",
        }
    }
}

/// What is different about a pair.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan<'a> {
    /// Further lines of `[server]`.
    pub server: &'a str,
    /// Groups, clients and the like, the same on both.
    pub room: &'a str,
    /// Further lines of `[standby]`.
    pub standby: &'a str,
    /// Whether each server has a disk of its own, which can be made full.
    pub small: bool,
    /// Whether each server has a disk of its own, which can be made to hang.
    pub hangs: bool,
    /// Whether an etcd is the witness.
    pub etcd: bool,
}

/// The switch that all are plugged into.
pub struct Switch {
    namespace: Namespace,
}

impl Switch {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.ip("link add switch0 type bridge stp_state 0 forward_delay 0");
        namespace.ip("link set switch0 up");
        Self { namespace }
    }

    /// Plugs `who` in at the port `name`; its end of the cable is `eth0`.
    pub fn plug(&self, name: &str, who: &Namespace) {
        cable(&self.namespace, name, who, "eth0");
        self.namespace
            .ip(&format!("link set {name} master switch0"));
    }

    /// A port for a machine of QEMU's.
    pub fn tap(&self, name: &str) {
        self.namespace.ip(&format!("tuntap add {name} mode tap"));
        self.namespace
            .ip(&format!("link set {name} master switch0 up"));
    }

    /// Pulls a cable out, or puts it back.
    pub fn set(&self, name: &str, up: bool) {
        let state = if up { "up" } else { "down" };
        self.namespace.ip(&format!("link set {name} {state}"));
    }

    /// The network that it is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// The pair. Drop ends and removes everything.
pub struct Pair {
    hosts: [Host; 2],
    /// The third box.
    pub witness: Witness,
    /// What connects them.
    pub switch: Switch,
    dir: TempDir,
}

impl Pair {
    /// Two servers, of which neither is primary yet, and their witness. Nothing runs.
    ///
    /// # Panics
    /// When any of it cannot be made.
    pub fn unstarted(plan: &Plan<'_>) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bootroom-pair-")
            .tempdir_in("/var/tmp");
        let dir = dir.expect("a temporary directory");
        let secret = dir.path().join("secret");
        let made = binary::command(&["standby", "secret"])
            .arg(&secret)
            .output();
        assert!(made.expect("bootroom runs").status.success());
        let switch = Switch::new();
        let hosts = Side::BOTH.map(|side| Host::new(side, plan, dir.path(), &switch));
        Self {
            hosts,
            witness: Witness::new(dir.path(), &switch, plan.etcd),
            switch,
            dir,
        }
    }

    /// A pair whose primary is A, with the image `tiny`, and both hold the same.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn new(plan: &Plan<'_>) -> Self {
        let mut pair = Self::unstarted(plan);
        image::import(pair.host(Side::A), "tiny");
        pair.start();
        pair
    }

    /// Starts the witness and both servers, makes A the first primary, and waits until both hold the same.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn start(&mut self) {
        self.witness.start();
        for host in &mut self.hosts {
            host.start();
        }
        self.host(Side::A).promote();
        self.wait_paired(Side::A);
    }

    /// Scratch space.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// One of the servers.
    pub fn host(&self, side: Side) -> &Host {
        &self.hosts[side as usize]
    }

    /// One of the servers.
    pub fn host_mut(&mut self, side: Side) -> &mut Host {
        &mut self.hosts[side as usize]
    }

    /// What one of the servers, which answers, says of itself and the pair.
    pub fn status(&self, side: Side) -> Value {
        self.host(side).status().expect("it answers")
    }

    /// Pulls a server's cable out, or puts it back.
    pub fn plug(&self, side: Side, up: bool) {
        self.switch.set(side.port(), up);
    }

    /// Who serves the room, if anybody does.
    pub fn primary(&self) -> Option<Side> {
        Side::BOTH
            .into_iter()
            .find(|side| self.host(*side).serves())
    }

    /// Waits until this one serves the room.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_serving(&self, side: Side) {
        let what = format!("{side:?} to serve");
        wait_for(&what, LIMIT, || self.host(side).serves().then_some(()));
    }

    /// Waits until this one serves the room, and the other has all that it has.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_paired(&self, side: Side) {
        let what = format!("{side:?} to serve with a standby");
        wait_for(&what, LIMIT, || {
            let host = self.host(side);
            (host.serves() && host.is_paired()).then_some(())
        });
    }

    /// Waits until this one serves the room without a standby.
    ///
    /// # Panics
    /// When it does not come to that.
    pub fn wait_lone(&self, side: Side) {
        let what = format!("{side:?} to serve alone");
        wait_for(&what, LIMIT, || {
            let host = self.host(side);
            (host.serves() && !host.is_paired()).then_some(())
        });
    }

    /// Has the servers compare all that the machines have on both; `primary` serves.
    ///
    /// # Panics
    /// When something differs.
    pub fn compare(&self, primary: Side) {
        self.host(primary).standby_done(&["verify"]);
    }

    /// Plugs a machine in.
    ///
    /// # Panics
    /// When that cannot be done.
    pub fn seat(&self, number: u8) -> Seat {
        Seat::new(number, &self.switch)
    }

    /// Boots the machine `number`, called `name`, as far as its disk, which is under load from then on.
    ///
    /// # Panics
    /// When it does not come so far.
    pub fn load(&self, number: u8, name: &str, depth: usize) -> Disk {
        let seat = self.seat(number);
        seat.lease();
        let primary = self.primary().expect("somebody serves");
        let export = seat.export(primary.address(), name);
        let disk = Disk::start(seat, &export, depth);
        disk.wait_for_answers(600);
        disk
    }
}

impl Drop for Pair {
    /// What the servers said is what there is to find out from.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for side in Side::BOTH {
            let log = fs::read_to_string(self.host(side).log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(80)..];
            eprintln!("--- {side:?} said:\n{}", last.join("\n"));
        }
    }
}
