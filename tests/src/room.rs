//! A room for a scenario: a network, a server and machines.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::image;
use crate::machine::{Desk, Firmware, Machine};
use crate::namespace::Namespace;
use crate::screen::Screen;
use crate::server::Server;

/// How long a machine may take from power-on to its login. It takes 40 s on an idle computer with two cores.
pub const BOOT_LIMIT: Duration = Duration::from_secs(400);

/// A line of `[server]` that saves the 16 s that iPXE waits for an IPv6 router at each start.
pub const QUIET: &str = "quiet_ipv6 = true";
/// Lines of a client that boots a shell in place of the system, for scenarios that end with its root.
pub const SHELL: &str = "kernel_args = \"console=ttyS0 quiet init=/bin/bash\"\n";

/// What is different about a room.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plan<'a> {
    /// Lines of `[server]` beside the usual ones.
    pub server: &'a str,
    /// `[dhcp]` and what follows it, in place of the usual range.
    pub dhcp: Option<&'a str>,
    /// Whether the machines are plugged in somewhere else ([`Room::power_on_at`]).
    pub elsewhere: bool,
}

/// A network with a server on it. Drop ends and removes everything.
pub struct Room {
    server: Option<Server>,
    desks: Vec<Desk>,
    config: PathBuf,
    namespace: Namespace,
    dir: TempDir,
}

impl Room {
    /// Makes the network, a data directory with the shared image, and a configuration with a client for each of
    /// `clients`: its name, its firmware, and lines that its section has besides address and image. Starts the server.
    ///
    /// # Panics
    /// When any of it cannot be done.
    pub fn new(clients: &[(&str, Firmware, &str)]) -> Self {
        Self::with(Plan::default(), clients)
    }

    /// The same, with a network and a configuration that are not the usual ones.
    ///
    /// # Panics
    /// When any of it cannot be done.
    pub fn with(plan: Plan<'_>, clients: &[(&str, Firmware, &str)]) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bootroom-scenario-")
            .tempdir()
            .expect("a temporary directory");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a data directory");
        symlink(image::shared().join("images"), data.join("images")).expect("a link to the image");
        let desks: Vec<Desk> = (1..)
            .zip(clients)
            .map(|(n, (name, firmware, _))| desk(n, name, *firmware))
            .collect();
        let config = dir.path().join("bootroom.toml");
        std::fs::write(&config, configuration(dir.path(), &plan, &desks, clients))
            .expect("a configuration");
        let namespace = network(match plan.elsewhere {
            true => &[],
            false => &desks,
        });
        let mut room = Self {
            server: None,
            desks,
            config,
            namespace,
            dir,
        };
        room.start_server();
        room
    }

    /// The server.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server is running")
    }

    /// The network, for other peers.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Starts the server, again with the same files.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_server(&mut self) {
        self.server = Some(Server::start(
            &self.namespace,
            &self.config,
            &control(self.dir.path()),
        ));
    }

    /// Stops the server as systemd would.
    ///
    /// # Panics
    /// When it does not end with success.
    pub fn stop_server(&mut self) {
        let status = self.server.take().expect("the server is running").stop();
        assert!(status.success(), "the server stops with {status}");
    }

    /// Kills the server as a crash would.
    pub fn kill_server(&mut self) {
        self.server = None;
    }

    fn power_on_all(&self) -> Vec<Machine> {
        self.desks.iter().map(|desk| self.power_on(desk)).collect()
    }

    /// Boots all machines side by side and logs in at each, in the order of the clients.
    ///
    /// # Panics
    /// When one does not come to its login.
    pub fn boot(&self) -> Vec<Machine> {
        let mut machines = self.power_on_all();
        for (machine, desk) in machines.iter_mut().zip(&self.desks) {
            machine
                .console
                .log_in(&desk.name, image::PASSWORD, BOOT_LIMIT);
        }
        machines
    }

    /// Boots all machines side by side, each to the shell of [`SHELL`], in the order of the clients.
    ///
    /// # Panics
    /// When one does not come to its shell.
    pub fn boot_to_shells(&self) -> Vec<Machine> {
        let mut machines = self.power_on_all();
        for machine in &mut machines {
            machine.console.take_shell(BOOT_LIMIT);
        }
        machines
    }

    /// Cuts the power of all and boots them again.
    ///
    /// # Panics
    /// As [`Room::boot`].
    pub fn power_cycle(&self, machines: Vec<Machine>) -> Vec<Machine> {
        machines.into_iter().for_each(Machine::pull_plug);
        self.boot()
    }

    /// The machines that there are.
    pub fn desks(&self) -> &[Desk] {
        &self.desks
    }

    /// Switches one on.
    ///
    /// # Panics
    /// When QEMU does not start.
    pub fn power_on(&self, desk: &Desk) -> Machine {
        self.power_on_at(&self.namespace, desk)
    }

    /// Switches one on that is plugged in at another network.
    ///
    /// # Panics
    /// When QEMU does not start.
    pub fn power_on_at(&self, namespace: &Namespace, desk: &Desk) -> Machine {
        Machine::power_on(namespace, desk, self.dir.path())
    }

    /// The screen of a machine that has one.
    pub fn screen(&self, desk: &Desk) -> Screen {
        Screen::of(self.dir.path(), &desk.name)
    }

    /// The names of the steps of a machine's boot, in the order they happened.
    ///
    /// # Panics
    /// When the server knows no such machine.
    pub fn steps(&self, name: &str) -> Vec<String> {
        let trace = self.server().json(&["client", "trace", name]);
        let steps = trace.as_array().expect("a trace is a list").iter();
        steps
            .map(|step| step["step"].as_str().expect("a step has a name").to_owned())
            .collect()
    }
}

fn desk(n: u8, name: &str, firmware: Firmware) -> Desk {
    Desk {
        name: name.to_owned(),
        mac: format!("52:54:00:5c:00:{n:02x}"),
        tap: format!("tap{n}"),
        firmware,
    }
}

fn network(desks: &[Desk]) -> Namespace {
    let namespace = Namespace::new();
    namespace.ip("link add room0 type bridge stp_state 0 forward_delay 0");
    namespace.ip("address add 10.78.0.1/24 dev room0");
    namespace.ip("link set room0 up");
    for Desk { tap, .. } in desks {
        namespace.ip(&format!("tuntap add {tap} mode tap"));
        namespace.ip(&format!("link set {tap} master room0 up"));
    }
    namespace
}

fn control(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

fn configuration(
    dir: &Path,
    plan: &Plan<'_>,
    desks: &[Desk],
    clients: &[(&str, Firmware, &str)],
) -> String {
    let (data, control) = (dir.join("data"), control(dir));
    let dhcp = plan
        .dhcp
        .unwrap_or("[dhcp]\nmode = \"full\"\nrange = \"10.78.0.100-10.78.0.199\"\n");
    let mut text = format!(
        "[server]\ndata = {:?}\ncontrol = {:?}\ninterface = \"room0\"\naddress = \"10.78.0.1/24\"\n{}\n{dhcp}",
        data.display().to_string(),
        control.display().to_string(),
        plan.server,
    );
    for (Desk { name, mac, .. }, (_, _, more)) in desks.iter().zip(clients) {
        text += &format!(
            "\n[clients.{name}]\nmac = \"{mac}\"\n{}{more}\n",
            usual(more)
        );
    }
    text
}

/// The image and the console, unless the lines say otherwise.
fn usual(more: &str) -> String {
    let mut text = String::new();
    if !more.contains("menu") {
        text += &format!("image = \"{}\"\n", image::NAME);
    }
    if !more.contains("kernel_args") {
        text += "kernel_args = \"console=ttyS0 quiet\"\n";
    }
    text
}
