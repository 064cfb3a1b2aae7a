//! A running server with named exports, and a machine beside it.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use bootroom_tests::{namespace::Namespace, server::Server};

use super::{SIZE, run};

pub const LIMIT: Duration = Duration::from_secs(60);
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
        let common = match name {
            "room.toml" => ROOM_TABLES,
            _ => "",
        };
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, self.expand(&format!("{common}{exports}"))).unwrap();
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
[dhcp]
mode = "proxy"
"#;

/// The server's network and the other machine's, 10.79.0.1 and 10.79.0.2.
fn network() -> (Namespace, Namespace) {
    let (here, there) = (Namespace::new(), Namespace::new());
    let peer = there.pid();
    here.ip(&format!(
        "link add room0 type veth peer name seat0 netns {peer}"
    ));
    here.ip("address add 10.79.0.1/24 dev room0");
    here.ip("link set room0 up");
    there.ip("address add 10.79.0.2/24 dev seat0");
    there.ip("link set seat0 up");
    (here, there)
}
