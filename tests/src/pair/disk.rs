//! A machine's disk under load, which goes from one server to the other as the client agent does: `disk.py`.

use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;

use super::Side;
use super::seat::Seat;
use crate::deadline::wait_for;

/// How long the load may be without an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What the load has seen.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    /// Requests answered, since the beginning.
    pub answered: u64,
    /// Flushes among them.
    pub flushes: u64,
    /// Errors answered, since the mark.
    pub failed: Vec<String>,
    /// Blocks that did not hold what was answered, since the beginning: block, writes that it may hold, what it holds.
    pub wrong: Vec<(u64, Vec<u64>, u64, u64)>,
    /// Servers attached to, since the mark.
    pub attached: Vec<String>,
    /// Requests without an answer at the moment.
    pub waiting: usize,
    /// The longest time between two answers since the mark, in seconds.
    pub pause: f64,
    /// Blocks that were read, by [`Disk::verify`].
    #[serde(default)]
    pub verified: u64,
}

struct Ends {
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

/// The load.
pub struct Disk {
    child: Child,
    ends: Mutex<Ends>,
    /// The machine.
    pub seat: Seat,
    /// The name of the disk.
    pub export: String,
}

impl Disk {
    /// Starts the load on `export`, with that many requests at a time.
    pub(super) fn start(seat: Seat, export: &str, depth: usize) -> Self {
        let servers = Side::BOTH.map(|side| format!("{}:10809", side.address()));
        let mut command = seat.namespace().command("/usr/bin/python3");
        command.args(["-c", include_str!("disk.py"), export, &depth.to_string()]);
        let mut child = command
            .args(servers)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 (with python3-libnbd) runs");
        let ends = Ends {
            commands: child.stdin.take().expect("a pipe"),
            answers: BufReader::new(child.stdout.take().expect("a pipe")).lines(),
        };
        Self {
            child,
            ends: Mutex::new(ends),
            seat,
            export: export.to_owned(),
        }
    }

    fn tell(&self, command: &str) -> Report {
        let mut ends = self.ends.lock().expect("nobody panicked with it");
        writeln!(ends.commands, "{command}").expect("the load listens");
        let line = ends.answers.next().expect("the load answers");
        serde_json::from_str(&line.expect("text")).expect("JSON")
    }

    /// What it has seen.
    pub fn report(&self) -> Report {
        self.tell("report")
    }

    /// Forgets pauses, errors and attachments so far.
    pub fn mark(&self) {
        self.tell("mark");
    }

    /// Writes where nobody has written before.
    pub fn grow(&self) {
        self.tell("grow");
    }

    /// Waits for what is under way, and does nothing more.
    pub fn rest(&self) -> Report {
        self.tell("rest")
    }

    /// Goes on.
    pub fn go(&self) {
        self.tell("go");
    }

    /// Waits until `more` requests have been answered from now on.
    ///
    /// # Panics
    /// When they are not.
    pub fn wait_for_answers(&self, more: u64) -> Report {
        let before = self.report().answered;
        wait_for("the load to be answered", LIMIT, || {
            Some(self.report()).filter(|report| report.answered >= before + more)
        })
    }

    /// Waits until it is attached to the server of that side and served.
    ///
    /// # Panics
    /// When it is not.
    pub fn wait_attached(&self, side: Side) {
        let server = format!("{}:10809", side.address());
        wait_for("the load to be attached", LIMIT, || {
            (self.report().attached.last() == Some(&server)).then_some(())
        });
        self.wait_for_answers(20);
    }

    /// Reads everything: it is what was answered.
    ///
    /// # Panics
    /// When a block is not.
    pub fn verify(&self) -> Report {
        let report = self.tell("verify");
        assert!(report.wrong.is_empty(), "lost or stale: {:?}", report.wrong);
        assert!(report.verified >= 512, "{report:?}");
        report
    }

    /// The same, with no error answered since the mark either.
    ///
    /// # Panics
    /// When there was one.
    pub fn verify_unharmed(&self) -> Report {
        let report = self.verify();
        assert!(report.failed.is_empty(), "errors: {:?}", report.failed);
        report
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Both fail only for one that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
