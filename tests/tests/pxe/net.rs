//! A server, and clients at the other end of a cable.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use bootroom_tests::deadline::wait_for;
use bootroom_tests::namespace::Namespace;
pub use bootroom_tests::site::cable;

/// The MAC address of the client.
pub const MAC: &str = "52:54:00:77:00:01";
/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A server at `10.77.0.1/24` on `s0`, and a client machine at the other end on `c0`.
pub struct Pair {
    pub server: Namespace,
    pub client: Namespace,
    /// What is served; scratch space beside it.
    pub dir: tempfile::TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let (server, client) = (Namespace::new(), Namespace::new());
        cable(&server, "s0", &client, "c0");
        server.ip("addr add 10.77.0.1/24 dev s0");
        client.ip(&format!("link set c0 address {MAC}"));
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(dir.path().join("files")).expect("a directory");
        Self {
            server,
            client,
            dir,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts the server with the range 10.77.0.100-109 and these options.
    pub fn serve(&self, options: &[&str]) -> BootServer {
        let files = self.path("files");
        let files = files.to_str().expect("a plain path");
        let args = ["s0", "10.77.0.1/24", "10.77.0.100-10.77.0.109", files];
        BootServer::start(&self.server, &[&args[..], options].concat())
    }

    /// Writes a file that is served.
    pub fn file(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path("files").join(name), content).expect("the file is written");
    }

    /// Runs a client program to its end, in its scratch directory.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = self.client.command("timeout");
        command
            .arg("20")
            .arg(program)
            .args(args)
            .current_dir(self.dir.path());
        command.output().expect("the client runs")
    }
}

/// The crate's example server, and the lines that it prints.
pub struct BootServer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl BootServer {
    pub fn start(namespace: &Namespace, args: &[&str]) -> Self {
        let mut child = namespace
            .command(binary())
            .args(args)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the server starts");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = lines.clone();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                sink.lock().expect("no reader panics").push(line);
            }
        });
        let server = Self { child, lines };
        server.saw("ready");
        server
    }

    /// Waits for a line that holds all of these words, in this order; returns it.
    pub fn saw(&self, words: &str) -> String {
        wait_for(&format!("the server to say `{words}`"), LIMIT, || {
            self.lines_with(words).pop()
        })
    }

    /// The lines printed so far that hold these words.
    pub fn lines_with(&self, words: &str) -> Vec<String> {
        let lines = self.lines.lock().expect("no reader panics");
        lines.iter().filter(|l| holds(l, words)).cloned().collect()
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.child.kill().expect("it is running");
        self.child.wait().expect("it ended");
    }

    /// Stops it as an admin would; it must end well.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is running");
        let ended = wait_for("the server to end", LIMIT, || {
            self.child.try_wait().expect("it can be waited for")
        });
        assert!(ended.success(), "the server ended with {ended}");
    }
}

impl Drop for BootServer {
    fn drop(&mut self) {
        // Both fail only for a server that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn holds(line: &str, words: &str) -> bool {
    let mut rest = line;
    words.split(' ').all(|word| match rest.find(word) {
        Some(at) => {
            rest = &rest[at + word.len()..];
            true
        }
        None => false,
    })
}

/// Where the example server is, built if need be: as one of the workspace, as unit tests are, so that nothing is built for
/// it alone.
pub fn binary() -> PathBuf {
    static BUILT: Once = Once::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace's root");
    BUILT.call_once(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let args = ["build", "--quiet", "--workspace", "--example", "bootserver"];
        let built = Command::new(cargo).current_dir(root).args(args).status();
        assert!(built.is_ok_and(|s| s.success()), "the boot server builds");
    });
    bootroom_tests::binary::target().join("debug/examples/bootserver")
}

/// What a program printed, both streams.
pub fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr]
        .map(|o| String::from_utf8_lossy(o).into_owned())
        .concat()
}
