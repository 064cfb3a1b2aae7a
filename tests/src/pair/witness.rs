//! The third box.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::{LIMIT, Switch};
use crate::binary;
use crate::deadline::wait_for;
use crate::namespace::Namespace;

/// Where it listens.
const PLACE: &str = "10.80.0.9:7013";
/// Where an etcd does in its place.
const ETCD: &str = "http://10.80.0.9:2379";

/// What the servers are told of it.
pub(super) fn setting(etcd: bool) -> String {
    match etcd {
        true => format!("etcd = [{ETCD:?}]"),
        false => format!("witness = {PLACE:?}"),
    }
}

/// The box, and the witness on it while it runs.
pub struct Witness {
    child: Option<Child>,
    namespace: Namespace,
    dir: PathBuf,
    etcd: bool,
}

/// What went over its wire so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    /// Bytes, both ways.
    pub bytes: u64,
    /// Packets, both ways.
    pub packets: u64,
}

impl Witness {
    pub(super) fn new(dir: &Path, switch: &Switch, etcd: bool) -> Self {
        let namespace = Namespace::new();
        switch.plug("witness", &namespace);
        namespace.ip("address add 10.80.0.9/24 dev eth0");
        Self {
            child: None,
            namespace,
            dir: dir.to_owned(),
            etcd,
        }
    }

    /// Starts it, again with the same file.
    ///
    /// # Panics
    /// When it does not listen.
    pub fn start(&mut self) {
        let log = self.dir.join("witness.log");
        let file = File::create(&log).expect("a log can be made");
        let (mut command, listens) = match self.etcd {
            true => (self.etcd(), "serving insecure client requests on"),
            false => (self.bootroom(), "listening on"),
        };
        command.stdout(file.try_clone().expect("a file can be cloned"));
        self.child = Some(command.stderr(file).spawn().expect("the witness starts"));
        wait_for("the witness to listen", LIMIT, || {
            let said = std::fs::read_to_string(&log).ok()?;
            said.contains(listens).then_some(())
        });
    }

    fn bootroom(&self) -> Command {
        let mut command = self.namespace.command(binary::bootroom());
        command.args(["witness", "--listen", PLACE, "--secret"]);
        command.arg(self.dir.join("secret"));
        command.arg("--state").arg(self.dir.join("witness"));
        command
    }

    /// Debian's (package etcd-server).
    fn etcd(&self) -> Command {
        let mut command = self.namespace.command("/usr/bin/etcd");
        command.arg("--data-dir").arg(self.dir.join("etcd"));
        command.args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
        ]);
        command
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for one that ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What went over its wire.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn traffic(&self) -> Traffic {
        let mut ip = self.namespace.command("ip");
        let output = ip.args(["-s", "-j", "link", "show", "eth0"]).output();
        let output = output.expect("ip (package iproute2) runs").stdout;
        let links: serde_json::Value = serde_json::from_slice(&output).expect("-j prints JSON");
        let sum = |what: &str| {
            let of = |way: &str| links[0]["stats64"][way][what].as_u64().expect("a number");
            of("rx") + of("tx")
        };
        Traffic {
            bytes: sum("bytes"),
            packets: sum("packets"),
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.kill();
    }
}
