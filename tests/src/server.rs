//! `bootroom serve`, run and asked by a test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary;
use crate::deadline::wait_for;
use crate::namespace::Namespace;

/// How long the server may take until it answers, and to stop.
const LIMIT: Duration = Duration::from_secs(30);

/// A running server.
pub struct Server {
    child: Child,
    control: PathBuf,
}

impl Server {
    /// Starts it with the configuration at `config`, whose control socket is `control`, and waits until it answers.
    /// Its log goes to the test's own output.
    ///
    /// # Panics
    /// When it ends or does not answer.
    pub fn start(namespace: &Namespace, config: &Path, control: &Path) -> Self {
        let command = Self::command(namespace, config);
        Self::spawn(command, control, |server| {
            server.ask(&["status", "--json"]).status.success()
        })
    }

    /// What starts it, for who wants to add something.
    pub fn command(namespace: &Namespace, config: &Path) -> Command {
        let mut command = namespace.command(binary::bootroom());
        command.args(["serve", "--config"]).arg(config);
        command
    }

    /// Starts it by `command`, and waits until it is `ready`.
    ///
    /// # Panics
    /// When it ends or does not become it.
    pub fn spawn(mut command: Command, control: &Path, ready: impl Fn(&Self) -> bool) -> Self {
        let child = command.spawn().expect("the server starts");
        let mut server = Self {
            child,
            control: control.to_owned(),
        };
        wait_for("the server to answer", LIMIT, || {
            let ended = server
                .child
                .try_wait()
                .expect("the server can be waited for");
            assert!(ended.is_none(), "the server ended: {ended:?}");
            ready(&server).then_some(())
        });
        server
    }

    /// Runs a command that talks to the server over its control socket.
    ///
    /// # Panics
    /// When the binary cannot be run.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let mut command = binary::command(arguments);
        command
            .arg("--socket")
            .arg(&self.control)
            .output()
            .expect("bootroom runs")
    }

    /// Runs a command with `--json` that must succeed; returns its answer.
    ///
    /// # Panics
    /// When the command fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut with_json = arguments.to_vec();
        with_json.push("--json");
        let output = self.ask(&with_json);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "bootroom {arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).expect("--json prints JSON")
    }

    /// Sends it SIGHUP.
    ///
    /// # Panics
    /// When it is gone.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the server can be signalled");
    }

    /// Stops all its threads where they are; returns when the last one has stopped, which one that runs does a little later.
    ///
    /// # Panics
    /// When it is gone.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.child.id());
        wait_for("all threads to stand still", LIMIT, || {
            stand_still(&threads).then_some(())
        });
    }

    /// Asks it to stop, and waits for it.
    ///
    /// # Panics
    /// When it does not.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        wait_for("the server to stop", LIMIT, || {
            self.child.try_wait().expect("the server can be waited for")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only for a server that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn stand_still(threads: &str) -> bool {
    let threads = fs::read_dir(threads).expect("a process has threads");
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        state.is_none_or(|state| state.starts_with('T'))
    })
}
