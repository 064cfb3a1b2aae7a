//! What can be read on a network by whoever listens there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::deadline::wait_for;
use crate::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(30);

/// A listener that keeps every byte.
pub struct Tap {
    dumpcap: Child,
    capture: PathBuf,
}

impl Tap {
    /// Listens on `interface` from now on; keeps what it hears in `dir`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn new(namespace: &Namespace, interface: &str, dir: &Path) -> Self {
        let (capture, log) = (dir.join("wire.pcapng"), dir.join("wire.log"));
        let dumpcap = namespace
            .command("dumpcap")
            .args(["-q", "-i", interface, "-w"])
            .arg(&capture)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log can be made"))
            .spawn()
            .expect("dumpcap (package tshark) runs");
        let tap = Self { dumpcap, capture };
        wait_for("dumpcap to listen", LIMIT, || {
            let said = fs::read_to_string(&log).ok()?;
            said.contains("File: ").then_some(())
        });
        tap
    }

    /// All that was heard.
    ///
    /// # Panics
    /// When dumpcap does not end, or did not keep it.
    pub fn heard(mut self) -> Vec<u8> {
        kill_process(Pid::from_child(&self.dumpcap), Signal::INT)
            .expect("dumpcap can be signalled");
        wait_for("dumpcap to end", LIMIT, || {
            self.dumpcap.try_wait().expect("dumpcap can be waited for")
        });
        fs::read(&self.capture).expect("the capture can be read")
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Both fail only for a dumpcap that is gone already.
        let _ = self.dumpcap.kill();
        let _ = self.dumpcap.wait();
    }
}

/// Whether `text` is among `bytes`.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
