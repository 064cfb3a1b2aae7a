//! A running server with named exports, and a machine beside it.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use bootroom_tests::{binary, deadline, namespace::Namespace, server::Server};

use super::{SIZE, run};

pub const LIMIT: Duration = Duration::from_secs(60);
/// The MAC address of the machine beside the server.
pub const SEAT: &str = "52:54:00:5d:00:02";
pub const ROOM: &str = "nbd://10.79.0.1";

/// A server with its configuration, and a network with one machine beside it.
pub struct Site {
    server: Option<Server>,
    here: Namespace,
    there: Namespace,
    dir: tempfile::TempDir,
}

impl Site {
    /// Serves `exports` behind the tables that every room has; `@/` in it stands for the site's folder.
    pub fn new(exports: &str) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for disk in ["one", "two", "three", "four"] {
            let file = fs::File::create(dir.path().join(disk)).unwrap();
            file.set_len(SIZE).unwrap();
        }
        fs::create_dir(dir.path().join("data")).unwrap();
        let (here, there) = network();
        let mut site = Self {
            server: None,
            here,
            there,
            dir,
        };
        site.write("room.toml", exports);
        site
    }

    pub fn start(mut self) -> Self {
        let control = self.path("control.sock");
        let server = Server::start(&self.here, &self.path("room.toml"), &control);
        self.server = Some(server);
        self
    }

    pub fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn expand(&self, text: &str) -> String {
        text.replace("@/", &format!("{}/", self.dir.path().display()))
    }

    /// Writes a file of the configuration; `room.toml` gets the tables that every room has in front.
    pub fn write(&mut self, name: &str, exports: &str) {
        if name == "room.toml" {
            return self.write_room("proxy", exports);
        }
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.expand(exports)).unwrap();
    }

    /// Writes `room.toml` with this mode of DHCP; `more` begins within that table.
    pub fn write_room(&mut self, dhcp: &str, more: &str) {
        let text = format!("{ROOM_TABLES}[dhcp]\nmode = \"{dhcp}\"\n{more}");
        fs::write(self.path("room.toml"), self.expand(&text)).unwrap();
    }

    /// `bootroom reload`, which has to succeed; its answer.
    pub fn reload(&self) -> serde_json::Value {
        self.server().json(&["reload"])["done"].clone()
    }

    pub fn refused_reload(&self) -> String {
        let output = self.server().ask(&["reload"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A program on the machine beside the server.
    pub fn there(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.there.command(program);
        command.args(arguments.iter().map(|argument| self.expand(argument)));
        command
    }

    /// A script in libnbd's shell on the machine beside the server.
    pub fn shell(&self, script: &str) -> Command {
        let program = self.expand(&format!("import nbd, sys\n{script}"));
        let mut command = self.there.command("/usr/bin/python3");
        command.args(["-c", &program]);
        command
    }

    /// Names that are listed at `uri`.
    pub fn list(&self, uri: &str) -> Vec<String> {
        let output = run(self
            .there("nbdinfo", &["--list", "--json", uri])
            .stderr(Stdio::null()));
        let answer: serde_json::Value = serde_json::from_str(&output).unwrap();
        let exports = answer["exports"].as_array().unwrap().iter();
        let mut names: Vec<_> = exports
            .map(|export| export["export-name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    pub fn opens(&self, uri: &str) -> bool {
        let output = self.there("nbdinfo", &["--size", uri]).output().unwrap();
        output.status.success()
    }
}

const ROOM_TABLES: &str = r#"
[server]
data = "@/data"
control = "@/control.sock"
interface = "room0"
address = "10.79.0.1/24"
"#;

/// The server's network and the other machine's, 10.79.0.1 and 10.79.0.2.
fn network() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    let peer = there.pid();
    here.ip(&format!(
        "link add room0 type veth peer name seat0 netns {peer}"
    ));
    here.ip("address add 10.79.0.1/24 dev room0");
    here.ip("address add 10.79.1.1/24 dev room0");
    here.ip("link set room0 up");
    there.ip("address add 10.79.0.2/23 dev seat0");
    there.ip(&format!("link set seat0 address {SEAT} up"));
    (here, there)
}

/// A script that runs on, and says when it has come so far. It ends with the test's thread.
pub struct Running {
    child: Child,
    mark: PathBuf,
}

impl Running {
    pub fn start(mut command: Command, mark: PathBuf) -> Self {
        let child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Self { child, mark };
        deadline::wait_for("the script to begin", LIMIT, || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended");
            running.mark.exists().then_some(())
        });
        running
    }

    /// Whether it still runs.
    pub fn runs(mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    pub fn end(self) -> Output {
        self.child.wait_with_output().unwrap()
    }
}

/// Gives the site an image `tiny` of 16 MiB. It is never booted, so that its kernel is one in its first bytes only.
pub fn import_image(site: &Site) {
    let file = |name: &str, length: u64, magic: &[u8], at: usize| {
        let mut bytes = vec![0; length as usize];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        fs::write(site.path(name), bytes).unwrap();
    };
    file("kernel", 4096, b"HdrS", 0x202);
    file("initrd", 4096, b"070701", 0);
    file("disk", 16 << 20, b"", 0);
    let path = |name: &str| site.path(name).to_str().unwrap().to_owned();
    run(Command::new("mkfs.ext4").args(["-q", &path("disk")]));
    let (disk, kernel, initrd, data) = (path("disk"), path("kernel"), path("initrd"), path("data"));
    run(&mut binary::command(&[
        "image", "import", &disk, "--name", "tiny", "--kernel", &kernel, "--initrd", &initrd,
        "--data", &data,
    ]));
}
