//! The kernel's queue of requests to a disk, as sysfs shows it: its settings, and how many requests are under way. The
//! latter says what a connection's counters cannot: that there is a request without answer, when the last one went out in
//! the same moment as the last answer came in.

use std::fs::{self, File};
use std::io;
use std::time::Duration;

use crate::cmdline::DeviceIndex;

/// After what time, rounded up to a full second, the kernel looks whether an unanswered request went
/// out over a connection that is no more. Each look at a request that is merely slow costs a line in
/// the kernel log, at a level that no console shows.
const RESEND_CHECK: Duration = Duration::from_millis(500);

/// Makes the kernel look soon whether a request has to be sent again, and keeps it from sending larger requests than the
/// server takes, if those are smaller than its own.
pub fn tune(device: DeviceIndex, max_sectors_kb: Option<u32>) -> io::Result<()> {
    let queue = format!("/sys/block/{device}/queue");
    if let Some(kb) = max_sectors_kb {
        fs::write(format!("{queue}/max_sectors_kb"), kb.to_string())?;
    }
    let check = RESEND_CHECK.as_millis().to_string();
    fs::write(format!("{queue}/io_timeout"), check)
}

/// The number of requests under way, held open: no file can be opened any more once the disk may be stuck. It lies in sysfs, so that it is no
/// part of any disk, and can be read wherever sysfs is mounted by then.
#[derive(Debug)]
pub struct Inflight(File);

impl Inflight {
    /// Of an attached disk.
    pub fn open(device: DeviceIndex) -> io::Result<Self> {
        File::open(format!("/sys/block/{device}/inflight")).map(Self)
    }

    /// Whether there are any. A lone FLUSH is not counted by every kernel.
    pub fn any(&self) -> bool {
        let mut text = [0; 64];
        rustix::io::pread(&self.0, &mut text, 0).is_ok_and(|length| counts(&text[..length]))
    }
}

/// The text is two numbers, reads and writes.
fn counts(text: &[u8]) -> bool {
    text.iter().any(|c| matches!(c, b'1'..=b'9'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_two_numbers() {
        assert!(!counts(b"       0        0\n"));
        assert!(counts(b"       1        0\n"));
        assert!(counts(b"       0       10\n"));
        assert!(!counts(b""));
    }
}
