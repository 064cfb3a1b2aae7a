//! Running a program that must leave nothing behind, however it or we end.
//!
//! The program runs as the first process of its own process and mount namespace. When it ends,
//! or is killed, the kernel kills whatever it has started and undoes whatever it has mounted;
//! when *we* are killed, the kernel kills it (`PR_SET_PDEATHSIG`). So not even `kill -9` leaves
//! a package manager at work or a `/proc` mounted. Without root there is a user namespace too.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{ErrorKind as IoKind, PipeReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, geteuid, kill_process_group};

use super::tools::{self, NEWUIDMAP, SETPRIV, Tool, UNSHARE};
use crate::cancel::Cancel;
use crate::error::{Error, ErrorKind, IoContext, Result};

/// Lines of output to quote when the program fails.
const TAIL: usize = 20;
/// Longest line that is kept whole.
const LINE_MAX: usize = 4096;

/// Programs without which no [`Job`] runs.
pub(crate) fn needed_tools() -> Vec<Tool> {
    let mut needed = vec![SETPRIV, UNSHARE];
    if !geteuid().is_root() {
        needed.push(NEWUIDMAP);
    }
    needed
}

/// A program to run in namespaces of its own.
pub(crate) struct Job {
    name: &'static str,
    command: Command,
}

impl Job {
    /// `program` in its own namespaces; its temporary files go to `scratch`.
    pub fn new(program: Tool, scratch: &Path) -> Result<Self> {
        let mut command = Command::new(SETPRIV.program);
        command.args(["--pdeathsig", "KILL", UNSHARE.program]);
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user", "--map-auto"]);
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.arg("--").arg(program.program);
        let path = std::env::join_paths(tools::search_path())
            .map_err(|error| Error::new(ErrorKind::Invalid, "bad PATH").because(error))?;
        command
            .env("PATH", path)
            .env("LC_ALL", "C.UTF-8")
            .env("TMPDIR", scratch);
        // Ctrl-C on the terminal goes to us; we decide when the program ends.
        command.stdin(Stdio::null()).process_group(0);
        Ok(Self {
            name: program.program,
            command,
        })
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs to the end; `heard` gets each line of output.
    ///
    /// # Errors
    /// [`ErrorKind::ToolFailed`] quotes the last lines; [`ErrorKind::Cancelled`] once everything
    /// that was started is dead.
    pub fn run(mut self, cancel: &Cancel, heard: &mut dyn FnMut(&str)) -> Result<()> {
        let program = Path::new(self.name);
        let (output, writer) = std::io::pipe().at("make a pipe for", program)?;
        let errors = writer.try_clone().at("make a pipe for", program)?;
        let child = self
            .command
            .stdout(writer)
            .stderr(errors)
            .spawn()
            .at("run", program)?;
        // Closes our copies of the pipe's end, so that its end means theirs.
        drop(self.command);
        let mut running = Running {
            child,
            reaped: false,
        };
        let tail = follow(output, &running, cancel, heard).at("read output of", program)?;
        let status = running.wait().at("wait for", program)?;
        cancel.check()?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(self.name, status, &tail))
        }
    }
}

/// A child that is killed with its namespaces if nobody waits for it.
struct Running {
    child: Child,
    reaped: bool,
}

impl Running {
    fn kill(&self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            // It fails only when the group is dead already.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// Passes the output on until its end, which comes when the last process of the job is dead.
fn follow(
    mut output: PipeReader,
    running: &Running,
    cancel: &Cancel,
    heard: &mut dyn FnMut(&str),
) -> std::io::Result<VecDeque<String>> {
    let mut lines = Lines::default();
    let mut buffer = [0; 4096];
    let mut killed = false;
    loop {
        if !killed && wait_for(&output, cancel)? {
            running.kill();
            killed = true;
        }
        match output.read(&mut buffer) {
            Ok(0) => return Ok(lines.tail),
            Ok(count) => lines.feed(&buffer[..count], heard),
            Err(error) if error.kind() == IoKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits for output or for the switch; true when the switch was thrown.
fn wait_for(output: &PipeReader, cancel: &Cancel) -> std::io::Result<bool> {
    let mut fds = [
        PollFd::new(output, PollFlags::IN),
        PollFd::new(cancel, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) => Ok(!fds[1].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Cuts output into lines and keeps the last ones.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    tail: VecDeque<String>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], heard: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end_line(heard),
                _ if self.partial.len() < LINE_MAX => self.partial.push(byte),
                _ => {}
            }
        }
    }

    fn end_line(&mut self, heard: &mut dyn FnMut(&str)) {
        let line = String::from_utf8_lossy(&self.partial).trim().to_owned();
        self.partial.clear();
        if line.is_empty() {
            return;
        }
        heard(&line);
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

fn failed(program: &str, status: ExitStatus, tail: &VecDeque<String>) -> Error {
    let quoted: Vec<_> = tail.iter().map(|line| format!("    {line}")).collect();
    let context = format!(
        "{program} failed ({status}); its last words:\n{}",
        quoted.join("\n")
    );
    Error::new(ErrorKind::ToolFailed, context)
}
