//! One server of the pair, on a host of its own.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

use rustix::process::Signal;
use serde_json::Value;

use super::{LIMIT, Plan, Side, Switch};
use crate::binary;
use crate::deadline::wait_for;
use crate::namespace::Namespace;
use crate::server::Server;

/// Where servers listen for one another.
pub(super) const LINK: u16 = 7012;
/// What a small disk holds at first. Bytes.
const ROOMY: u64 = 3 << 30;

/// The exit code of a command that reached no server.
const UNREACHABLE: Option<i32> = Some(4);

/// The host.
pub struct Host {
    side: Side,
    server: Option<Server>,
    namespace: Namespace,
    dir: PathBuf,
    program: PathBuf,
}

impl Host {
    pub(super) fn new(side: Side, plan: &Plan<'_>, dir: &Path, switch: &Switch) -> Self {
        let namespace = match plan.small || plan.hangs {
            true => Namespace::with_mounts(),
            false => Namespace::new(),
        };
        let name = format!("{side:?}").to_lowercase();
        switch.plug(side.port(), &namespace);
        namespace.ip(&format!("address add {}/24 dev eth0", side.address()));
        let own = dir.join(name);
        fs::create_dir_all(own.join("data")).expect("a data directory");
        let host = Self {
            side,
            server: None,
            namespace,
            dir: own,
            program: binary::bootroom(),
        };
        host.configure(&configuration(side, plan, dir));
        if plan.small {
            host.mount_small();
        }
        if plan.hangs {
            host.mount_image();
        }
        host
    }

    /// Its data, as a program on the host sees them.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Its network.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// Installs a release, which is that program.
    ///
    /// # Panics
    /// When the server is running.
    pub fn install(&mut self, program: &Path) {
        assert!(self.server.is_none(), "the server is running");
        program.clone_into(&mut self.program);
    }

    /// Starts the server, again with the same files.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn start(&mut self) {
        let mut command = self.namespace.command(&self.program);
        command.args(["serve", "--config"]);
        command.arg(self.configuration());
        let log = File::options().create(true).append(true).open(self.log());
        let log = log.expect("a log can be written");
        command.stdout(log.try_clone().expect("a file can be cloned"));
        command.stderr(log);
        // Whatever the answer is, there is one.
        let answers =
            |server: &Server| server.ask(&["status", "--json"]).status.code() != UNREACHABLE;
        self.server = Some(Server::spawn(command, &self.control(), answers));
    }

    /// Kills the server (-9).
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&mut self) {
        drop(self.server.take().expect("the server is running"));
    }

    /// Puts an empty disk in the place of its data, as a new server has.
    ///
    /// # Panics
    /// When it is running.
    pub fn replace(&self) {
        assert!(self.server.is_none(), "the server is running");
        fs::remove_dir_all(self.data()).expect("its data can be removed");
        fs::create_dir(self.data()).expect("a data directory");
    }

    /// Stops it as systemd would.
    ///
    /// # Panics
    /// When it does not stop.
    pub fn stop(&mut self) -> ExitStatus {
        self.server.take().expect("the server is running").stop()
    }

    /// Takes [standby] out of its configuration; gives what the configuration was.
    ///
    /// # Panics
    /// When there is none.
    pub fn configure_alone(&self) -> String {
        let text = fs::read_to_string(self.configuration()).expect("a configuration");
        let (before, pair) = text.split_once("[standby]").expect("[standby]");
        let after = pair.find("\n[").map_or("", |at| &pair[at..]);
        self.configure(&[before, after].concat());
        text
    }

    /// Gives it another configuration.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&self, text: &str) {
        fs::write(self.configuration(), text).expect("it is written");
    }

    /// A command that works on the files of this server, which does not run.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn on_files(&self, arguments: &[&str]) -> Output {
        let mut command = self.namespace.command(&self.program);
        command.args(arguments).arg(self.configuration());
        command.output().expect("bootroom runs")
    }

    fn configuration(&self) -> PathBuf {
        self.dir.join("bootroom.toml")
    }

    /// Freezes the server, connections and all.
    ///
    /// # Panics
    /// When it is not running.
    pub fn freeze(&self) {
        self.server().freeze();
    }

    /// Lets it go on.
    ///
    /// # Panics
    /// When it is not running.
    pub fn thaw(&self) {
        self.server().signal(Signal::CONT);
    }

    /// The server.
    ///
    /// # Panics
    /// When it is not running.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("the server is running")
    }

    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.server.is_some()
    }

    fn control(&self) -> PathBuf {
        self.dir.join("control.sock")
    }

    /// Asks the server; ends all the same when it is frozen.
    fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", "5"]).arg(&self.program);
        command.args(arguments).arg("--socket").arg(self.control());
        command.output().expect("timeout (package coreutils) runs")
    }

    /// Every command to the pair goes through here.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn standby(&self, arguments: &[&str]) -> Output {
        self.ask(&[&["standby"], arguments].concat())
    }

    /// The same for one that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn standby_done(&self, arguments: &[&str]) -> String {
        let output = self.standby(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let (side, status) = (self.side, output.status);
        assert!(
            status.success(),
            "{side:?}: standby {arguments:?}: {status} {said}"
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// How it is, if it says so.
    pub fn status(&self) -> Option<Value> {
        self.server.as_ref()?;
        let output = self.standby(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Whether it serves the room, and machines need not wait.
    pub fn serves(&self) -> bool {
        let waits = |status: &Value| status["suspended"].is_string() || status["suspended"] == true;
        let serves = |status: &Value| status["role"] == "primary" && !waits(status);
        let is_primary = self.status().as_ref().is_some_and(serves);
        is_primary && self.ask(&["client", "list"]).status.success()
    }

    /// Whether both servers hold the same, as this one knows.
    pub fn is_paired(&self) -> bool {
        self.status().is_some_and(|status| status["paired"] == true)
    }

    /// Whether it is the standby of the other.
    pub fn follows(&self) -> bool {
        self.status()
            .is_some_and(|status| status["role"] == "standby")
    }

    /// Makes it the primary, by hand.
    ///
    /// # Panics
    /// When it does not become it.
    pub fn promote(&self) {
        self.standby_done(&["promote", "--yes"]);
        wait_for("the promotion", LIMIT, || self.serves().then_some(()));
    }

    /// Nothing that this host sends reaches the other server from now on.
    pub fn cut(&self) {
        self.nft(&format!(
            "add table inet cut; \
             add chain inet cut out {{ type filter hook output priority 0; }}; \
             add rule inet cut out ip daddr {} drop",
            self.side.other().address()
        ));
    }

    /// It does again.
    pub fn join(&self) {
        self.nft("delete table inet cut");
    }

    /// From now on it dials `place` when it means the other server.
    pub(super) fn divert(&self, place: SocketAddr) {
        self.nft(&format!(
            "add table ip line; \
             add chain ip line out {{ type nat hook output priority -100; }}; \
             add rule ip line out ip daddr {} tcp dport {LINK} dnat to {place}",
            self.side.other().address()
        ));
    }

    fn nft(&self, rules: &str) {
        let set = self.namespace.command("nft").arg(rules).output();
        let set = set.expect("nft (package nftables) runs");
        assert!(
            set.status.success(),
            "{}",
            String::from_utf8_lossy(&set.stderr)
        );
    }

    fn mount_small(&self) {
        let mut mount = self.namespace.command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={ROOMY}"), "small"]);
        self.mounted(mount.arg(self.data()));
    }

    fn mount_image(&self) {
        let image = self.dir.join("disk");
        let file = File::create(&image).expect("a file");
        file.set_len(ROOMY).expect("it can be long");
        self.mounted(self.namespace.command("mkfs.ext4").arg("-q").arg(&image));
        let mut mount = self.namespace.command("mount");
        self.mounted(mount.args(["-o", "loop"]).arg(&image).arg(self.data()));
    }

    /// Its disk ends no change from now on, and gives no error either.
    ///
    /// # Panics
    /// When it has no disk that can be made to hang.
    pub fn hang(&self) {
        self.mounted(&mut self.fsfreeze("-f"));
    }

    /// It goes on.
    ///
    /// # Panics
    /// When it does not hang.
    pub fn go_on(&self) {
        self.mounted(&mut self.fsfreeze("-u"));
    }

    fn fsfreeze(&self, what: &str) -> Command {
        let mut command = self.namespace.command("fsfreeze");
        command.arg(what).arg(self.data());
        command
    }

    /// Leaves its small disk this much room, or as much as it had at first.
    ///
    /// # Panics
    /// When it has no small disk.
    pub fn leave_room(&self, bytes: Option<u64>) {
        let mut df = self.namespace.command("df");
        let used = df.args(["-B1", "--output=used"]).arg(self.data()).output();
        let used = String::from_utf8(used.expect("df runs").stdout).expect("a number is text");
        let used: u64 = used
            .split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number");
        let size = bytes.map_or(ROOMY, |room| used + room);
        let mut mount = self.namespace.command("mount");
        mount.args(["-o", &format!("remount,size={size}")]);
        self.mounted(mount.arg(self.data()));
    }

    fn mounted(&self, mount: &mut Command) {
        let output = mount.output().expect("mount runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

impl Drop for Host {
    /// A process that waits for a disk cannot be killed.
    fn drop(&mut self) {
        // Fails for a disk that does not hang.
        let _ = self.fsfreeze("-u").output();
    }
}

fn configuration(side: Side, plan: &Plan<'_>, dir: &Path) -> String {
    let own = dir.join(format!("{side:?}").to_lowercase());
    let text = |path: PathBuf| format!("{:?}", path.display().to_string());
    format!(
        "[server]\ndata = {}\ncontrol = {}\ninterface = \"eth0\"\naddress = \"{}/24\"\n{}\n\
         [dhcp]\nmode = \"full\"\nrange = \"10.80.0.100-10.80.0.199\"\n\
         [standby]\npeer = \"{}:{LINK}\"\nsecret = {}\n{}\n{}\n{}\n",
        text(own.join("data")),
        text(own.join("control.sock")),
        side.address(),
        plan.server,
        side.other().address(),
        text(dir.join("secret")),
        super::witness::setting(plan.etcd),
        plan.standby,
        plan.room
    )
}
