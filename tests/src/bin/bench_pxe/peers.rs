//! The servers that are measured.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bootroom_tests::deadline::wait_for;
use bootroom_tests::namespace::Namespace;

/// A running server; killed when dropped.
pub struct Peer {
    /// What it is called in the tables.
    pub name: &'static str,
    /// Where it listens.
    pub port: u16,
    child: Child,
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only for a server that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Peer {
    /// Starts a program in the namespace; it must stay in the foreground.
    pub fn start(
        namespace: &Namespace,
        name: &'static str,
        port: u16,
        program: &str,
        args: &[&str],
    ) -> Option<Self> {
        if !on_path(program) {
            println!("  ({program} is not installed: no {name})");
            return None;
        }
        let mut command = pinned(namespace, program);
        let child = command
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the peer starts");
        Some(Self { name, port, child })
    }

    /// The processor time that it took so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.expect("the server is running");
        // Behind the name, which may hold anything: user and system time are the 12th and 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.filter_map(|t| t.parse::<u64>().ok()).sum();
        Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32
    }

    /// Starts `bootroom serve` with a configuration and waits until it answers.
    pub fn room(namespace: &Namespace, config: &Path, control: &Path) -> Self {
        let bootroom = bootroom_tests::binary::bootroom();
        let child = pinned(namespace, bootroom)
            .args(["serve", "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bootroom starts");
        let answers = || std::os::unix::net::UnixStream::connect(control).ok();
        wait_for("bootroom to answer", Duration::from_secs(30), answers);
        let (name, port) = ("bootroom", 67);
        Self { name, port, child }
    }

    /// Starts our own server and waits until it is ready.
    pub fn ours(namespace: &Namespace, port: u16, args: &[&str]) -> Self {
        let mut child = pinned(namespace, bootserver())
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the boot server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("ready"));
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            name: "bootroom",
            port,
            child,
        }
    }
}

/// The processors: servers get the first, the load the second, so that no run is faster for sharing one by chance.
const SERVER_CPU: &str = "0";
const LOAD_CPU: usize = 1;

fn pinned(namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
    let mut command = namespace.command("taskset");
    command.args(["-c", SERVER_CPU]).arg(program);
    command
}

/// Keeps this process, and what loads it starts, on the load's processor.
pub fn pin_load() {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(LOAD_CPU);
    rustix::thread::sched_setaffinity(None, &cpus).expect("there are two processors");
}

/// Whether a program is installed.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    Path::new(program).is_file() || dirs.into_iter().any(|d: PathBuf| d.join(program).is_file())
}

/// The crate's example server, built for release.
fn bootserver() -> PathBuf {
    if let Some(path) = std::env::var_os("BOOTSERVER_BIN") {
        return path.into();
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace's root");
    let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
    let built = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "pxe",
            "--example",
            "bootserver",
        ])
        .status();
    assert!(built.is_ok_and(|s| s.success()), "the boot server builds");
    root.join("target/release/examples/bootserver")
}

/// The middle of several measurements of the same thing.
pub fn median(mut run: impl FnMut() -> Duration, times: usize) -> Duration {
    let mut all: Vec<_> = (0..times).map(|_| run()).collect();
    all.sort();
    all[all.len() / 2]
}

/// How long something takes.
pub fn timed(what: impl FnOnce()) -> Duration {
    let start = Instant::now();
    what();
    start.elapsed()
}

/// The name of what is no peer, but what the best server could do.
pub const LIMIT: &str = "limit";

/// Prints ours, the peers and the ratio to the best peer (below 1: less time).
pub fn print_times(what: &str, results: &[(&'static str, Duration)]) {
    let ours = results
        .iter()
        .find(|(n, _)| *n == "bootroom")
        .map(|(_, t)| *t);
    let best = results
        .iter()
        .filter(|(n, _)| *n != "bootroom" && *n != LIMIT)
        .map(|(_, t)| *t)
        .min();
    let list: Vec<_> = results
        .iter()
        .map(|(n, t)| format!("{n} {:.3} s", t.as_secs_f64()))
        .collect();
    let ratio = ours
        .zip(best)
        .map(|(o, b)| format!("  ratio {:.2}", o.as_secs_f64() / b.as_secs_f64()));
    println!(
        "{what:<44} {}{}",
        list.join("  "),
        ratio.unwrap_or_default()
    );
}

/// Puts this thread into the namespace, and so every thread that it starts.
pub fn enter(namespace: &Namespace) {
    let file = std::fs::File::open(namespace.path()).expect("the namespace exists");
    let kind = rustix::thread::LinkNameSpaceType::Network;
    rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
        .expect("the namespace can be entered");
}
