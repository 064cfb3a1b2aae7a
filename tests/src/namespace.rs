//! A network of a test's own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::deadline::wait_for;

/// A network namespace. It exists for as long as this does, or the processes in it.
pub struct Namespace {
    /// A process that does nothing but be inside; it ends when its standard input closes.
    holder: Child,
    /// Whether what is mounted inside is seen inside only.
    mounts: bool,
}

impl Namespace {
    /// Makes a namespace with nothing in it but its loopback.
    ///
    /// # Panics
    /// When the kernel refuses, most likely for want of root.
    pub fn new() -> Self {
        Self::holding(&["--net"], false)
    }

    /// The same with mounts of its own: what is mounted inside is seen inside only, and gone with it.
    ///
    /// # Panics
    /// As [`Namespace::new`].
    pub fn with_mounts() -> Self {
        Self::holding(&["--net", "--mount"], true)
    }

    fn holding(kinds: &[&str], mounts: bool) -> Self {
        let holder = mortal("unshare")
            .args(kinds)
            .args(["--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("unshare (package util-linux) runs");
        let namespace = Self { holder, mounts };
        namespace.wait_until_it_is_made();
        namespace.ip("link set lo up");
        namespace
    }

    fn wait_until_it_is_made(&self) {
        let ours = std::fs::read_link("/proc/self/ns/net").expect("/proc is mounted");
        wait_for(
            "a network namespace (are you root?)",
            Duration::from_secs(10),
            || {
                let theirs = std::fs::read_link(self.path()).ok()?;
                (theirs != ours).then_some(())
            },
        );
    }

    /// A process that lives inside: what `ip … netns PID` wants.
    pub fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// The file that stands for it, for `setns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// A command that will run inside, and die with the thread that starts it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = mortal("nsenter");
        command.arg(format!("--net={}", self.path()));
        if self.mounts {
            command.arg(format!("--mount=/proc/{}/ns/mnt", self.pid()));
        }
        command.arg("--").arg(program);
        command
    }

    /// Does `work` on a thread that is in this network, as those are that it starts.
    ///
    /// # Panics
    /// When the thread cannot get there, or `work` panics.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("the namespace exists");
        thread::scope(|scope| {
            let there = scope.spawn(|| {
                let kind = rustix::thread::LinkNameSpaceType::Network;
                rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind))
                    .expect("the namespace can be entered");
                work()
            });
            there.join().expect("the work does not panic")
        })
    }

    /// Runs `ip` inside.
    ///
    /// # Panics
    /// When `ip` fails.
    pub fn ip(&self, arguments: &str) {
        let output = self
            .command("ip")
            .args(arguments.split(' '))
            .output()
            .expect("ip (package iproute2) runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {said}");
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Both fail only for a holder that is gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A command that gets SIGKILL when the thread that started it ends, so that nothing outlives a test that crashed.
fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command
}
