//! What can be read on a network by whoever listens there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::deadline::wait_for;
use crate::namespace::Namespace;

const LIMIT: Duration = Duration::from_secs(30);

/// A listener that keeps every byte.
pub struct Tap {
    tcpdump: Child,
    capture: PathBuf,
}

impl Tap {
    /// Listens on `interface` from now on; keeps what it hears in `dir`.
    ///
    /// # Panics
    /// When it cannot.
    pub fn new(namespace: &Namespace, interface: &str, dir: &Path) -> Self {
        let (capture, log) = (dir.join("wire.pcap"), dir.join("wire.log"));
        let tcpdump = namespace
            .command("tcpdump")
            .args(["-Z", "root", "-U", "-i", interface, "-w"])
            .arg(&capture)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log can be made"))
            .spawn()
            .expect("tcpdump runs");
        let tap = Self { tcpdump, capture };
        wait_for("tcpdump to listen", LIMIT, || {
            let said = fs::read_to_string(&log).ok()?;
            said.contains("listening on ").then_some(())
        });
        tap
    }

    /// All that was heard up to `last`, which somebody says on the wire in the end.
    ///
    /// # Panics
    /// When that does not come, or the capture cannot be read.
    pub fn heard_until(self, last: &str) -> Vec<u8> {
        wait_for("the last words on the wire", LIMIT, || {
            let heard = fs::read(&self.capture).expect("the capture can be read");
            contains(&heard, last).then_some(heard)
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // Both fail only for a tcpdump that is gone already.
        let _ = self.tcpdump.kill();
        let _ = self.tcpdump.wait();
    }
}

/// Whether `text` is among `bytes`.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
