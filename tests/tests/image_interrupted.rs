//! Image builds that are cut off in the middle: no version, no process, no mount stays.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::Duration;

use bootroom_tests::binary;
use bootroom_tests::deadline::wait_for;
use rustix::process::{Pid, Signal, kill_process};

/// For what takes no time of its own.
const SOON: Duration = Duration::from_secs(30);
/// Announced while packages are being unpacked and set up, with `/proc` mounted for their scripts.
const MIDWAY: &str = "Installing essential packages";

/// A build at work; killed, if it still is, when dropped.
struct Build {
    child: Child,
    errors: BufReader<ChildStderr>,
}

impl Build {
    /// Starts a build and returns once it is in the middle of its work.
    fn midway(data: &Path) -> Self {
        let arguments = ["image", "build", "debian", "--kernel", "cloud", "--data"];
        let mut command = binary::command(&arguments);
        command.arg(data).stderr(Stdio::piped());
        let mut child = command.spawn().expect("bootroom runs");
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut build = Self { child, errors };
        build.read_until(MIDWAY);
        build
    }

    fn read_until(&mut self, wanted: &str) {
        let (mut said, mut start) = (String::new(), 0);
        while said[start..].trim() != wanted {
            start = said.len();
            let count = self.errors.read_line(&mut said).expect("it can be read");
            assert!(count > 0, "the build ended before it was midway:\n{said}");
        }
    }

    fn send(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_none()
    }

    fn end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the build to end", SOON, || {
            child.try_wait().expect("it is ours")
        })
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes that have the directory on their command line or as their root.
fn processes_in(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("the path is text");
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let is_in = |path: &Path| {
        let words = fs::read(path.join("cmdline")).unwrap_or_default();
        let root = fs::read_link(path.join("root")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(dir) || root.starts_with(dir)
    };
    let pids = entries.map(|entry| entry.path()).filter(|path| is_in(path));
    pids.map(|path| path.display().to_string()).collect()
}

fn no_process_in(dir: &Path) {
    wait_for("the build's processes to end", SOON, || {
        processes_in(dir).is_empty().then_some(())
    });
}

fn no_mount_in(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let dir = dir.to_str().expect("the path is text");
    assert!(!mounts.contains(dir), "something is mounted:\n{mounts}");
}

/// What is in the catalogue's directory besides its lock.
fn contents(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(data.join("images")).expect("the catalogue is there");
    let names = entries.map(|entry| entry.expect("it can be read").file_name());
    let names = names.map(|name| name.into_string().expect("names are text"));
    names.filter(|name| name != ".lock").collect()
}

fn list(data: &Path) -> serde_json::Value {
    let mut command = binary::command(&["image", "list", "--json", "--data"]);
    let output = command.arg(data).output().expect("bootroom runs");
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

#[test]
fn a_build_that_is_killed_leaves_no_version() {
    let data = tempfile::tempdir().expect("a directory");
    let mut build = Build::midway(data.path());
    assert!(
        !processes_in(data.path()).is_empty(),
        "the build has no process"
    );
    build.send(Signal::KILL);
    build.end();
    no_process_in(data.path());
    no_mount_in(data.path());
    assert_eq!(contents(data.path()).len(), 1, "the unfinished staging");

    assert_eq!(list(data.path()), serde_json::json!([]));
    assert!(
        contents(data.path()).is_empty(),
        "{:?}",
        contents(data.path())
    );
}

#[test]
fn a_build_that_is_interrupted_cleans_up_itself() {
    for signal in [Signal::INT, Signal::TERM] {
        let data = tempfile::tempdir().expect("a directory");
        let mut build = Build::midway(data.path());
        build.send(signal);
        assert_eq!(build.end().code(), Some(1));
        assert!(
            processes_in(data.path()).is_empty(),
            "{:?}",
            processes_in(data.path())
        );
        no_mount_in(data.path());
        assert!(
            contents(data.path()).is_empty(),
            "{:?}",
            contents(data.path())
        );
    }
}

#[test]
fn a_second_build_leaves_one_at_work_alone() {
    let data = tempfile::tempdir().expect("a directory");
    let mut build = Build::midway(data.path());
    assert_eq!(list(data.path()), serde_json::json!([]));
    assert_eq!(contents(data.path()).len(), 1, "its staging is still there");
    assert!(build.is_running());
    build.send(Signal::TERM);
    build.end();
}

/// A mistake is answered at once, with what to do about it.
#[test]
fn a_bad_recipe_is_refused_before_anything_is_fetched() {
    let data = tempfile::tempdir().expect("a directory");
    let refused = |arguments: &[&str], wanted: &str| {
        let mut command = binary::command(&["image", "build", "debian", "--data"]);
        let output = command
            .arg(data.path())
            .args(arguments)
            .output()
            .expect("bootroom runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(wanted),
            "{arguments:?}: {said}"
        );
        assert!(contents(data.path()).is_empty());
    };
    refused(&["--size", "100MiB"], "1.0 GiB");
    refused(&["--package", "vim,ssh"], "bad package name");
    refused(&["--client-package", "/nonexistent.deb"], "make deb");
    refused(
        &["--mirror", "deb.debian.org"],
        "http://deb.debian.org/debian",
    );
    let mut poor = Command::new(binary::bootroom());
    poor.args(["image", "build", "debian", "--data"])
        .arg(data.path());
    let poor = poor
        .env("PATH", "/nonexistent")
        .output()
        .expect("bootroom runs");
    let said = String::from_utf8_lossy(&poor.stderr).into_owned();
    assert!(
        said.contains("apt-get install") && said.contains("mmdebstrap"),
        "{said}"
    );
}
