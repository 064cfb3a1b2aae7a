//! A connection that its machine does not give up: `held.py`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::Side;
use super::seat::Seat;

/// The connection.
pub struct Held {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
}

impl Held {
    /// Attaches `export` at one server, and writes its first block full of ones.
    ///
    /// # Panics
    /// When that fails.
    pub fn start(seat: &Seat, export: &str, side: Side) -> Self {
        let mut command = seat.namespace().command("/usr/bin/python3");
        command.args(["-c", include_str!("held.py"), export]);
        let mut child = command
            .arg(format!("{}:10809", side.address()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 (with python3-libnbd) runs");
        let mut held = Self {
            input: child.stdin.take().expect("a pipe"),
            said: BufReader::new(child.stdout.take().expect("a pipe")).lines(),
            child,
        };
        held.hears("ready");
        held
    }

    fn next_line(&mut self) -> String {
        let line = self.said.next().expect("the connection's program lives");
        line.expect("text")
    }

    fn hears(&mut self, word: &str) {
        assert_eq!(self.next_line(), word);
    }

    /// Sends a write to the first block, a read and a flush, and waits for none of them.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn ask(&mut self) {
        writeln!(self.input, "ask").expect("it listens");
        self.hears("sent");
    }

    /// How each of them ended, once the connection has or they have: by errno, `0` is an answer.
    ///
    /// # Panics
    /// When the program has ended.
    pub fn ends(mut self) -> BTreeMap<String, serde_json::Value> {
        serde_json::from_str(&self.next_line()).expect("JSON")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Both fail only for one that ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first byte of a disk, as `side` serves it.
///
/// # Panics
/// When it cannot be read.
pub fn first_byte(seat: &Seat, export: &str, side: Side) -> u8 {
    let script =
        "import nbd, sys; h = nbd.NBD(); h.connect_uri(sys.argv[1]); print(h.pread(1, 0)[0])";
    let mut shell = seat.namespace().command("/usr/bin/python3");
    let uri = format!("nbd://{}/{export}", side.address());
    let output = shell
        .args(["-c", script, &uri])
        .output()
        .expect("python3 runs");
    let said = super::seat::text(&output);
    said.trim()
        .parse()
        .unwrap_or_else(|_| panic!("{uri}: {said}"))
}
